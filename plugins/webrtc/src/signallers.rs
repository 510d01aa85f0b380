// SPDX-License-Identifier: MPL-2.0
//! The signallers of gst-plugins-rs beside its WebSocket one: how they are
//! made, what they need before they start, and what their errors mean.

use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use gst::glib;
use gst::glib::prelude::*;
use gstrswebrtc::signaller::{Signallable, Signaller, WebRTCSignallerRole};
use gstrswebrtc::webrtcsink::{JanusVRWebRTCSink, WhepWebRTCSink, WhipWebRTCSink};
use gstrswebrtc::webrtcsrc::{WhepClientSrc, WhipServerSrc};
use url::Url;

/// How a sender finds its receivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcSinkSignalling")]
pub enum SinkSignalling {
    #[default]
    #[enum_value(
        name = "WebSocket: the protocol of gst-plugins-rs, server at signaller::uri",
        nick = "gstwebrtc"
    )]
    GstWebRtc,
    #[enum_value(
        name = "WHIP: sends to the server at signaller::whip-endpoint",
        nick = "whip-client"
    )]
    WhipClient,
    #[enum_value(
        name = "WHEP: serves players at signaller::host-addr, path /whep/endpoint",
        nick = "whep-server"
    )]
    WhepServer,
    #[enum_value(
        name = "Janus: publishes in the video room signaller::room-id of signaller::janus-endpoint",
        nick = "janus-videoroom"
    )]
    JanusVideoRoom,
    #[enum_value(
        name = "Janus with string_ids: the same where ids are strings",
        nick = "janus-videoroom-strings"
    )]
    JanusVideoRoomStrings,
    #[enum_value(
        name = "Another one, given as the property signaller; cannot be set",
        nick = "custom"
    )]
    Custom,
}

/// How a receiver finds its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcSrcSignalling")]
pub enum SrcSignalling {
    #[default]
    #[enum_value(
        name = "WebSocket: the protocol of gst-plugins-rs, server at signaller::uri",
        nick = "gstwebrtc"
    )]
    GstWebRtc,
    #[enum_value(
        name = "WHIP: takes a sender at signaller::host-addr, path /whip/endpoint",
        nick = "whip-server"
    )]
    WhipServer,
    #[enum_value(
        name = "WHEP: plays from the server at signaller::whep-endpoint",
        nick = "whep-client"
    )]
    WhepClient,
    #[enum_value(
        name = "Another one, given as the property signaller; cannot be set",
        nick = "custom"
    )]
    Custom,
}

/// What a signaller is, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    GstWebRtc,
    WhipClient,
    WhipServer,
    WhepClient,
    WhepServer,
    Janus,
    JanusStrings,
    Custom,
}

impl Kind {
    pub fn of(signaller: &Signallable) -> Self {
        if signaller.is::<Signaller>() {
            return Self::GstWebRtc;
        }
        match signaller.type_().name() {
            "GstWhipClientSignaller" => Self::WhipClient,
            "GstWhipServerSignaller" => Self::WhipServer,
            "GstWhepClientSignaller" => Self::WhepClient,
            "GstWhepServerSignaller" => Self::WhepServer,
            "GstJanusVRWebRTCSignallerU64" => Self::Janus,
            "GstJanusVRWebRTCSignallerStr" => Self::JanusStrings,
            _ => Self::Custom,
        }
    }

    /// An HTTP server of its own.
    pub fn serves(self) -> bool {
        matches!(self, Self::WhipServer | Self::WhepServer)
    }

    /// Comes to its only session by itself, at its start.
    pub fn asks_itself(self) -> bool {
        self.is_http_client() || self.is_janus()
    }

    /// WHIP or WHEP: one request with the whole description, and its answer.
    pub fn is_http_client(self) -> bool {
        matches!(self, Self::WhipClient | Self::WhepClient)
    }

    pub fn is_janus(self) -> bool {
        matches!(self, Self::Janus | Self::JanusStrings)
    }

    /// Name of the property that says where the other end is, or we are.
    pub fn address(self) -> &'static str {
        match self {
            Self::WhipClient => "whip-endpoint",
            Self::WhepClient => "whep-endpoint",
            Self::WhipServer | Self::WhepServer => "host-addr",
            Self::Janus | Self::JanusStrings => "janus-endpoint",
            Self::GstWebRtc | Self::Custom => "uri",
        }
    }
}

impl SinkSignalling {
    pub fn of(signaller: &Signallable) -> Self {
        match Kind::of(signaller) {
            Kind::GstWebRtc => Self::GstWebRtc,
            Kind::WhipClient => Self::WhipClient,
            Kind::WhepServer => Self::WhepServer,
            Kind::Janus => Self::JanusVideoRoom,
            Kind::JanusStrings => Self::JanusVideoRoomStrings,
            Kind::WhipServer | Kind::WhepClient | Kind::Custom => Self::Custom,
        }
    }

    /// None if its types are taken, or for a custom one.
    pub fn make(self) -> Option<Signallable> {
        match self {
            Self::GstWebRtc => made(|| Signaller::new(WebRTCSignallerRole::Producer).upcast()),
            Self::WhipClient => made(|| signaller_of::<WhipWebRTCSink>(&[])),
            Self::WhepServer => made(|| signaller_of::<WhepWebRTCSink>(&[])),
            Self::JanusVideoRoom => made(|| signaller_of::<JanusVRWebRTCSink>(&[])),
            Self::JanusVideoRoomStrings => {
                made(|| signaller_of::<JanusVRWebRTCSink>(&["use-string-ids"]))
            }
            Self::Custom => None,
        }
    }
}

impl SrcSignalling {
    pub fn of(signaller: &Signallable) -> Self {
        match Kind::of(signaller) {
            Kind::GstWebRtc => Self::GstWebRtc,
            Kind::WhipServer => Self::WhipServer,
            Kind::WhepClient => Self::WhepClient,
            _ => Self::Custom,
        }
    }

    /// None if its types are taken, or for a custom one.
    pub fn make(self) -> Option<Signallable> {
        match self {
            Self::GstWebRtc => made(|| Signaller::new(WebRTCSignallerRole::Consumer).upcast()),
            Self::WhipServer => made(|| signaller_of::<WhipServerSrc>(&[])),
            Self::WhepClient => made(|| signaller_of::<WhepClientSrc>(&[])),
            Self::Custom => None,
        }
    }
}

/// Registration of a type panics if the rswebrtc plugin was faster.
fn made(make: impl FnOnce() -> Signallable) -> Option<Signallable> {
    static PROVIDER: Once = Once::new();
    // The HTTP clients want one, even without TLS. Fails if the program has
    // chosen one.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    catch_unwind(AssertUnwindSafe(make)).ok()
}

/// The types of signallers are private: an element that has one gives it away
/// and goes.
fn signaller_of<E: IsA<glib::Object> + glib::object::IsClass>(switches: &[&str]) -> Signallable {
    let mut builder = glib::Object::builder::<E>();
    for switch in switches {
        builder = builder.property(switch, true);
    }
    builder.build().property::<Signallable>("signaller")
}

/// An HTTP server's address, with a free port for port 0.
fn listen(signaller: &Signallable) -> Result<Option<SocketAddr>, Wrong> {
    let Some(text) = signaller.property::<Option<String>>("host-addr") else {
        // Requests come by its signals.
        return Ok(None);
    };
    let mut url = Url::parse(&text)
        .map_err(|err| Wrong::Settings(format!("signaller::host-addr {text}: {err}")))?;
    let addresses = url
        .socket_addrs(|| None)
        .map_err(|err| Wrong::Settings(format!("signaller::host-addr {text}: {err}")))?;
    // The signaller does the same.
    let first = addresses
        .first()
        .ok_or_else(|| Wrong::Settings(format!("signaller::host-addr {text} has no address")))?;
    // The signaller would not say that it cannot listen.
    let bound = TcpListener::bind(first)
        .and_then(|listener| listener.local_addr())
        .map_err(|err| Wrong::Now(format!("cannot listen on {first}: {err}")))?;
    if first.port() == 0 && url.set_port(Some(bound.port())).is_ok() {
        signaller.set_property("host-addr", url.as_str());
    }
    Ok(Some(bound))
}

/// How the text of a wrong setting begins.
const SETTING: &str = "signaller::";

/// Why a signaller is not started.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Will not get better by itself.
    Settings(String),
    /// May.
    Now(String),
}

/// What a signaller is started with: it would panic, or say nothing, for want
/// of it. `Some`: where its server is going to listen.
pub fn prepare(kind: Kind, signaller: &Signallable) -> Result<Option<SocketAddr>, Wrong> {
    match kind {
        Kind::WhipClient | Kind::WhepClient => {
            let name = kind.address();
            let endpoint = signaller.property::<Option<String>>(name);
            let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) else {
                return Err(Wrong::Settings(format!("signaller::{name} is not set")));
            };
            let url = Url::parse(&endpoint).map_err(|err| err.to_string());
            match url {
                Ok(url) if matches!(url.scheme(), "http" | "https") => {}
                Ok(_) => {
                    return Err(Wrong::Settings(format!(
                        "signaller::{name} is no http(s) URL: {endpoint}"
                    )));
                }
                Err(err) => {
                    return Err(Wrong::Settings(format!(
                        "signaller::{name} is no URL: {endpoint}: {err}"
                    )));
                }
            }
            let token = signaller.property::<Option<String>>("auth-token");
            if token.is_some_and(|token| token.chars().any(char::is_control)) {
                return Err(Wrong::Settings(
                    "signaller::auth-token has characters that no HTTP header can have".into(),
                ));
            }
            Ok(None)
        }
        Kind::WhipServer | Kind::WhepServer => listen(signaller),
        Kind::Janus if signaller.property::<u64>("room-id") == 0 => {
            Err(Wrong::Settings("signaller::room-id is not set".into()))
        }
        Kind::JanusStrings if signaller.property::<String>("room-id").is_empty() => {
            Err(Wrong::Settings("signaller::room-id is not set".into()))
        }
        Kind::Janus | Kind::JanusStrings | Kind::GstWebRtc | Kind::Custom => Ok(None),
    }
}

/// The status in "Unexpected response: 404 - ...".
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("Unexpected response: ")?;
    rest.get(..3)?.parse().ok()
}

/// The code in "code: 426, reason: ...", Janus' own.
fn janus_code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("code: ")?;
    rest.split(',').next()?.trim().parse().ok()
}

/// What an error of a signaller means, and what to do.
pub fn explain(kind: Kind, uri: &str, text: &str) -> (String, String) {
    if text.starts_with(SETTING) {
        // Of `prepare`.
        let hint = "set it after the property signalling, which makes a new signaller";
        return (text.to_owned(), hint.to_owned());
    }
    let (what, hint) = match kind {
        Kind::GstWebRtc | Kind::Custom => (
            format!("No signalling server at {uri}"),
            "start one there, set signaller::uri, or set run-signalling-server",
        ),
        Kind::WhipClient | Kind::WhepClient => {
            let name = if kind == Kind::WhipClient {
                "WHIP"
            } else {
                "WHEP"
            };
            match status(text) {
                Some(401 | 403) => (
                    format!("The {name} server at {uri} does not let us in"),
                    "set signaller::auth-token, or ask for one that is valid",
                ),
                Some(404 | 405 | 410) => (
                    format!("There is no {name} endpoint at {uri}"),
                    "check the path in the endpoint's URL; some servers have one for each stream, that must exist first",
                ),
                Some(400 | 406 | 415 | 422) => (
                    format!("The {name} server at {uri} refuses the offer"),
                    "it may not take H.264, or two video tracks: try encoder::mode=single",
                ),
                Some(code) => (
                    format!("The {name} server at {uri} answers with HTTP status {code}"),
                    "see its log",
                ),
                None if text.contains("Location header") => (
                    format!("What answers at {uri} is no {name} server"),
                    "check the path in the endpoint's URL",
                ),
                None => (
                    format!("No {name} server at {uri}"),
                    "start it, or check the host and port in the endpoint's URL",
                ),
            }
        }
        Kind::WhipServer | Kind::WhepServer => (
            format!("The HTTP server cannot listen at {uri}"),
            "set signaller::host-addr to http://address:port with a free port; port 0 takes any",
        ),
        Kind::Janus | Kind::JanusStrings => match janus_code(text) {
            Some(403) => (
                format!("Janus at {uri} does not let us in"),
                "set signaller::secret-key to its api_secret",
            ),
            Some(426) => (
                format!("Janus at {uri} has no such room"),
                "set signaller::room-id to a room of its video room plugin; with string_ids there, signalling=janus-videoroom-strings",
            ),
            Some(433) => (
                format!("Janus at {uri} does not let us into the room"),
                "the room wants a pin or token, which this signaller cannot give",
            ),
            Some(436) => (
                format!("Janus at {uri} has a publisher with our signaller::feed-id already"),
                "leave it unset, or stop the other one",
            ),
            Some(460) => (
                format!("Janus at {uri} has no video room plugin"),
                "install it, and see its log",
            ),
            _ => (
                format!("No Janus at {uri}"),
                "start it with its WebSockets transport, or set signaller::janus-endpoint",
            ),
        },
    };
    (what, hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sinks() -> [SinkSignalling; 5] {
        use SinkSignalling::*;
        [
            GstWebRtc,
            WhipClient,
            WhepServer,
            JanusVideoRoom,
            JanusVideoRoomStrings,
        ]
    }

    /// All in one: a type is registered once in a process.
    #[test]
    fn each_signaller_is_made_and_known_again() {
        gst::init().unwrap();
        for signalling in sinks() {
            let made = signalling.make().expect("made");
            assert_eq!(SinkSignalling::of(&made), signalling);
            assert!(
                made.find_property(Kind::of(&made).address()).is_some(),
                "{signalling:?}"
            );
        }
        for signalling in [
            SrcSignalling::GstWebRtc,
            SrcSignalling::WhipServer,
            SrcSignalling::WhepClient,
        ] {
            let made = signalling.make().expect("made");
            assert_eq!(SrcSignalling::of(&made), signalling);
        }
        assert!(SinkSignalling::Custom.make().is_none());
    }

    fn settings_wrong(signaller: &Signallable) -> String {
        match prepare(Kind::of(signaller), signaller) {
            Err(Wrong::Settings(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_would_make_a_signaller_panic_is_refused() {
        gst::init().unwrap();
        let whip = SinkSignalling::WhipClient.make().unwrap();
        assert!(settings_wrong(&whip).contains("whip-endpoint is not set"));
        for bad in ["", "nonsense", "ftp://127.0.0.1/x"] {
            whip.set_property("whip-endpoint", bad);
            assert!(settings_wrong(&whip).contains("whip-endpoint"), "{bad}");
        }
        whip.set_property("whip-endpoint", "http://127.0.0.1:1/whip/endpoint");
        assert_eq!(prepare(Kind::WhipClient, &whip), Ok(None));
        whip.set_property("auth-token", "a\nb");
        assert!(settings_wrong(&whip).contains("auth-token"));
        let janus = SinkSignalling::JanusVideoRoom.make().unwrap();
        assert!(settings_wrong(&janus).contains("room-id"));
        janus.set_property("room-id", 7u64);
        assert_eq!(prepare(Kind::Janus, &janus), Ok(None));
        let strings = SinkSignalling::JanusVideoRoomStrings.make().unwrap();
        assert!(settings_wrong(&strings).contains("room-id"));
    }

    #[test]
    fn a_server_takes_a_free_port_and_says_when_there_is_none() {
        gst::init().unwrap();
        let server = SrcSignalling::WhipServer.make().unwrap();
        server.set_property("host-addr", "http://127.0.0.1:0");
        let bound = prepare(Kind::WhipServer, &server).unwrap().unwrap();
        assert_ne!(bound.port(), 0);
        let addr: String = server.property("host-addr");
        assert!(addr.contains(&bound.port().to_string()), "{addr}");
        let taken = TcpListener::bind(bound).unwrap();
        let Err(Wrong::Now(text)) = prepare(Kind::WhipServer, &server) else {
            panic!("it is taken")
        };
        assert!(text.contains(&taken.local_addr().unwrap().to_string()));
        // Without an address there is nothing to listen on.
        server.set_property("host-addr", "");
        assert_eq!(prepare(Kind::WhipServer, &server), Ok(None));
    }

    #[test]
    fn errors_are_told_in_words() {
        let whip = |text: &str| explain(Kind::WhipClient, "http://x/y", text);
        for (text, what, hint) in [
            (
                "Error: Unexpected response: 404 - nope",
                "no WHIP endpoint",
                "path",
            ),
            (
                "Error: Unexpected response: 401 - ",
                "let us in",
                "auth-token",
            ),
            ("Error: Unexpected response: 503 - ", "503", "log"),
            ("Error: Unexpected response: ", "No WHIP server", "start it"),
            ("Error: error sending request", "No WHIP server", "start it"),
        ] {
            let (is, todo) = whip(text);
            assert!(
                is.contains(what) && is.contains("http://x/y"),
                "{text}: {is}"
            );
            assert!(todo.contains(hint), "{text}: {todo}");
        }
        let (is, todo) = explain(
            Kind::Janus,
            "ws://x",
            "Error: code: 426, reason: No such room (7)",
        );
        assert!(is.contains("no such room") && todo.contains("room-id"));
    }
}
