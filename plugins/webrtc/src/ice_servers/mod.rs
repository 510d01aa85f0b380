// SPDX-License-Identifier: MPL-2.0
//! STUN and TURN servers as the user names them, and what is wrong with them.
//!
//! libnice says nothing of a server that does not answer or does not let us in:
//! there are just no candidates by it. So they are counted, and if there are too
//! few, each server is asked once more, by [`probe`], and the user is told in
//! words ([`watch`]).

mod probe;
mod release;
mod watch;

use std::fmt;

use gst::prelude::*;
use percent_encoding::percent_decode_str;

pub use release::release;
pub use watch::{Told, Watch};

/// What goes to and from a server goes over this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
    /// Asked for by `turns:`. libnice has TCP only.
    Tls,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub transport: Transport,
    /// Of a TURN server; STUN has none.
    pub login: Option<Login>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:...", self.user)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

const STUN_FORM: &str = "stun://host:port";
pub const TURN_FORM: &str = "turn(s)://username:password@host:port, each sign in name and password that is no letter or digit as %XX";

/// Host, and the port if there is one, behind a known scheme.
fn parts(uri: &str, schemes: &[&str]) -> Option<(url::Url, String)> {
    let parsed = url::Url::parse(uri).ok()?;
    let host = parsed.host_str().filter(|host| !host.is_empty())?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    schemes.contains(&parsed.scheme()).then_some((parsed, host))
}

impl Server {
    pub fn stun(uri: &str) -> Option<Self> {
        let (parsed, host) = parts(uri, &["stun"])?;
        Some(Self {
            host,
            port: parsed.port().unwrap_or(3478),
            transport: Transport::Udp,
            login: None,
        })
    }

    pub fn turn(uri: &str) -> Option<Self> {
        let (parsed, host) = parts(uri, &["turn", "turns"])?;
        let unescape = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .ok()
                .map(String::from)
        };
        let login = Login {
            user: unescape(parsed.username()).filter(|user| !user.is_empty())?,
            password: unescape(parsed.password()?)?,
        };
        let wanted = parsed.query_pairs().find(|(name, _)| name == "transport");
        let (transport, port) = match wanted.as_ref().map(|(_, value)| value.as_ref()) {
            _ if parsed.scheme() == "turns" => (Transport::Tls, 5349),
            Some("tcp") => (Transport::Tcp, 3478),
            // Without a word of it both are tried.
            _ => (Transport::Udp, 3478),
        };
        Some(Self {
            host,
            port: parsed.port().unwrap_or(port),
            transport,
            login: Some(login),
        })
    }
}

/// The URI as it may be shown.
fn without_password(uri: &str) -> String {
    match (uri.split_once("://"), uri.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://...@{host}"),
        _ => uri.to_owned(),
    }
}

/// All servers, or which URI is none.
pub fn parse(stun: Option<&str>, turn: &[String]) -> Result<Vec<Server>, gst::ErrorMessage> {
    let wrong = |kind: &str, uri: &str, form: &str| {
        let uri = without_password(uri);
        gst::error_msg!(
            gst::ResourceError::Settings,
            ("Not a {kind} server URI: {uri}"),
            ["{form}"]
        )
    };
    let stun = stun
        .map(|uri| Server::stun(uri).ok_or_else(|| wrong("STUN", uri, STUN_FORM)))
        .into_iter();
    let turn = turn
        .iter()
        .map(|uri| Server::turn(uri).ok_or_else(|| wrong("TURN", uri, TURN_FORM)));
    stun.chain(turn).collect()
}

/// Why a server is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such host.
    Unknown(String),
    /// Nothing comes back, over UDP.
    Silent,
    /// There is no connection, over TCP.
    Refused(String),
    /// Name or password is wrong.
    NotLetIn,
    /// An error code of STUN, and what the server says to it.
    Code(u16, String),
    /// What comes back is not STUN.
    NotStun,
    /// `turns:`, for which libnice has no TLS.
    NoTls,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub server: Server,
    pub trouble: Trouble,
}

impl Problem {
    /// What is wrong.
    pub fn text(&self) -> String {
        let server = &self.server;
        let kind = if server.login.is_some() {
            "TURN"
        } else {
            "STUN"
        };
        match &self.trouble {
            Trouble::Unknown(why) => format!("The {kind} server {server} is not found: {why}"),
            Trouble::Silent => format!("The {kind} server {server} does not answer over UDP"),
            Trouble::Refused(why) => {
                format!("The {kind} server {server} cannot be reached over TCP: {why}")
            }
            Trouble::NotLetIn => {
                let user = server.login.as_ref().map_or("", |login| &login.user);
                format!(
                    "The TURN server {server} does not let in user '{user}': wrong user name or password"
                )
            }
            Trouble::Code(code, why) => {
                format!("The {kind} server {server} refuses: {code} {why}")
            }
            Trouble::NotStun => format!("What answers at {server} is no {kind} server"),
            Trouble::NoTls => {
                format!("libnice does not encrypt what goes to the TURN server {server}")
            }
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match &self.trouble {
            Trouble::Unknown(_) => "correct the host's name in stun-server or turn-servers",
            Trouble::Silent => {
                "is it running, is this its port, and does a firewall let UDP through? TURN goes over TCP as well unless the URI says ?transport=udp"
            }
            Trouble::Refused(_) => "is it running, and is this its port for TCP?",
            Trouble::NotLetIn => {
                "correct turn-servers: turn://username:password@host:port, each sign in name and password that is no letter or digit as %XX; a password with a time limit may have expired"
            }
            Trouble::Code(486 | 508, _) => "it has too many users: ask who runs it",
            Trouble::Code(..) | Trouble::NotStun => {
                "is this the right host and port? Ask who runs it"
            }
            Trouble::NoTls => {
                "use turn:// with ?transport=tcp; media itself is encrypted either way"
            }
        }
    }

    /// Tells the user.
    pub fn warn(&self, element: &impl IsA<gst::Element>) {
        let (text, hint) = (self.text(), self.hint());
        if self.trouble == Trouble::NotLetIn {
            gst::element_warning!(
                element,
                gst::ResourceError::NotAuthorized,
                ("{text}"),
                ["{hint}"]
            );
        } else {
            gst::element_warning!(
                element,
                gst::ResourceError::OpenReadWrite,
                ("{text}"),
                ["{hint}"]
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(uri: &str) -> Option<(String, u16, Transport, String, String)> {
        let server = Server::turn(uri)?;
        let login = server.login?;
        Some((
            server.host,
            server.port,
            server.transport,
            login.user,
            login.password,
        ))
    }

    #[test]
    fn uris_of_turn_servers_are_read_as_webrtcbin_reads_them() {
        let host = |port, transport, user: &str, password: &str| {
            Some((
                "example.org".to_owned(),
                port,
                transport,
                user.to_owned(),
                password.to_owned(),
            ))
        };
        for (uri, wanted) in [
            (
                "turn://u:p@example.org:3479",
                host(3479, Transport::Udp, "u", "p"),
            ),
            (
                "turn://u:p@example.org",
                host(3478, Transport::Udp, "u", "p"),
            ),
            (
                "turn://u:p@example.org?transport=udp",
                host(3478, Transport::Udp, "u", "p"),
            ),
            (
                "turn://u:p@example.org:443?transport=tcp",
                host(443, Transport::Tcp, "u", "p"),
            ),
            (
                "turns://u:p@example.org",
                host(5349, Transport::Tls, "u", "p"),
            ),
            // A time and a name, and a password in base64.
            (
                "turn://1700000000%3Au:a%2Bb%3D@example.org",
                host(3478, Transport::Udp, "1700000000:u", "a+b="),
            ),
            ("turn://u@example.org", None),
            ("turn://example.org:3478", None),
            ("turn://:p@example.org", None),
            ("http://u:p@example.org", None),
            ("turn://u:p@", None),
            ("turn:u:p@example.org", None),
            ("", None),
        ] {
            assert_eq!(turn(uri), wanted, "{uri}");
        }
    }

    #[test]
    fn uris_of_stun_servers_need_a_host() {
        let at = |uri| Server::stun(uri).map(|server| (server.host, server.port));
        assert_eq!(
            at("stun://192.0.2.1:3479"),
            Some(("192.0.2.1".into(), 3479))
        );
        assert_eq!(at("stun://[::1]"), Some(("::1".into(), 3478)));
        for uri in ["stun:192.0.2.1", "192.0.2.1:3478", "turn://192.0.2.1"] {
            assert_eq!(at(uri), None, "{uri}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let wrong = ["turn://user:secret@".to_owned()];
        let err = parse(None, &wrong).unwrap_err().to_string();
        assert!(!err.contains("secret"), "{err}");
        let server = Server::turn("turn://user:secret@example.org").unwrap();
        assert!(!format!("{server:?} {server}").contains("secret"));
        assert_eq!(without_password("turn://a:b@c@host:1"), "turn://...@host:1");
    }
}
