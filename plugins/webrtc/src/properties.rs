// SPDX-License-Identifier: MPL-2.0
//! Properties that sender and receiver have in common.

use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst_webrtc::WebRTCICETransportPolicy;
use gstrswebrtc::signaller::Signallable;

use crate::fec::Wish;
use crate::ice_servers::{self, Server, Told};
use crate::server::{self, SignallingServer};
use crate::switches::Switches;
use crate::web::{PageRole, WebServer};

#[derive(Clone, Debug)]
pub struct Settings {
    pub signaller: Option<Signallable>,
    pub stun_server: Option<String>,
    pub turn_servers: Vec<String>,
    pub run_server: bool,
    pub server_host: String,
    pub server_port: u16,
    pub run_web_server: bool,
    pub web_server_host: String,
    pub web_server_port: u16,
    /// In ms, 0 for ever.
    pub connect_timeout: u32,
    pub fec: Wish,
    pub switches: Switches,
    pub ice_tcp: bool,
    pub ice_transport_policy: WebRTCICETransportPolicy,
    /// What the user was told of the servers.
    pub told: Told,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            signaller: None,
            stun_server: None,
            turn_servers: Vec::new(),
            run_server: false,
            server_host: "0.0.0.0".into(),
            server_port: 8443,
            run_web_server: false,
            web_server_host: "127.0.0.1".into(),
            web_server_port: 8080,
            connect_timeout: 20_000,
            fec: Wish::default(),
            switches: Switches::default(),
            ice_tcp: false,
            ice_transport_policy: WebRTCICETransportPolicy::All,
            told: Told::default(),
        }
    }
}

impl Settings {
    pub fn connect_timeout(&self) -> Option<Duration> {
        (self.connect_timeout > 0).then(|| Duration::from_millis(self.connect_timeout.into()))
    }

    /// Another kind of signaller, made new unless it is there already.
    pub fn set_signalling<S: PartialEq + Copy>(
        &mut self,
        wanted: S,
        of: impl Fn(&Signallable) -> S,
        make: impl Fn(S) -> Option<Signallable>,
    ) -> Result<(), &'static str> {
        let Some(current) = &self.signaller else {
            return Err("there are no signallers in this process");
        };
        if of(current) != wanted {
            let made = make(wanted).ok_or(
                "a custom signaller is given as the property signaller, and others need that the rswebrtc plugin is not in use",
            )?;
            self.signaller = Some(made);
        }
        Ok(())
    }

    /// STUN and TURN servers, or which URI is none.
    pub fn ice_servers(&self) -> Result<Vec<Server>, gst::ErrorMessage> {
        ice_servers::parse(self.stun_server.as_deref(), &self.turn_servers)
    }

    /// What can be seen to be wrong before there is a session.
    pub fn check(&self) -> Result<(), gst::ErrorMessage> {
        self.told.clear();
        self.ice_servers().map(drop)
    }

    /// The embedded server, if it is wanted; the signaller is pointed to it.
    pub fn start_server(&self) -> Result<Option<SignallingServer>, gst::ErrorMessage> {
        if !self.run_server {
            return Ok(None);
        }
        let server =
            SignallingServer::start(&self.server_host, self.server_port).map_err(|err| {
                gst::error_msg!(
                    gst::ResourceError::OpenReadWrite,
                    (
                        "The signalling server cannot listen on {}:{}: {err}",
                        self.server_host,
                        self.server_port
                    ),
                    ["set signalling-server-port to a free port (0 takes any), or unset run-signalling-server if one is running"]
                )
            })?;
        if let Some(signaller) = &self.signaller
            && signaller.find_property("uri").is_some()
        {
            signaller.set_property("uri", server::local_uri(&self.server_host, server.port()));
        }
        Ok(Some(server))
    }

    /// The embedded web server, if it is wanted; after the signalling server,
    /// which its page is told of.
    pub fn start_web_server(&self, role: PageRole) -> Result<Option<WebServer>, gst::ErrorMessage> {
        if !self.run_web_server {
            return Ok(None);
        }
        let signalling = self
            .signaller
            .as_ref()
            .filter(|signaller| signaller.find_property("uri").is_some())
            .and_then(|signaller| signaller.property::<Option<String>>("uri"));
        let (host, port) = (&self.web_server_host, self.web_server_port);
        let stun = self.stun_server.as_deref();
        WebServer::start(host, port, role, signalling.as_deref(), stun)
            .map(Some)
            .map_err(|err| {
                gst::error_msg!(
                    gst::ResourceError::OpenReadWrite,
                    ("The web server cannot listen on {host}:{port}: {err}"),
                    ["set web-server-port to a free port (0 takes any)"]
                )
            })
    }

    pub fn specs() -> Vec<glib::ParamSpec> {
        let default = Self::default();
        let mut specs = vec![
            // Not of the interface's type, which may only be registered once
            // it is needed: the rswebrtc plugin has one of the same name.
            glib::ParamSpecObject::builder::<glib::Object>("signaller")
                .nick("Signaller")
                .blurb("Object with the interface GstRSWebRTCSignallableIface that exchanges session descriptions; the default one speaks to a gst-plugins-rs signalling server at its property uri")
                .construct_only()
                .build(),
            glib::ParamSpecString::builder("stun-server")
                .nick("STUN Server")
                .blurb("STUN server as stun://host:port; none is needed on one machine or one network")
                .default_value(default.stun_server.as_deref())
                .mutable_ready()
                .build(),
            gst::ParamSpecArray::builder("turn-servers")
                .nick("TURN Servers")
                .blurb("TURN servers, as <\"turn://username:password@host:port\">, over UDP and TCP, or with ?transport=udp or tcp over that only; each sign in name and password that is no letter or digit as %XX")
                .element_spec(
                    &glib::ParamSpecString::builder("turn-server")
                        .nick("TURN Server")
                        .blurb("TURN server as turn(s)://username:password@host:port")
                        .build(),
                )
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("run-signalling-server")
                .nick("Run Signalling Server")
                .blurb("Run a signalling server inside this element and use it; the signaller's uri is set to it")
                .default_value(default.run_server)
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("signalling-server-host")
                .nick("Signalling Server Host")
                .blurb("Address the embedded signalling server listens on; 0.0.0.0 is every IPv4 address of this machine")
                .default_value(default.server_host.as_str())
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("signalling-server-port")
                .nick("Signalling Server Port")
                .blurb("TCP port the embedded signalling server listens on; 0 takes a free one, which signaller::uri then shows")
                .maximum(u16::MAX.into())
                .default_value(default.server_port.into())
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("run-web-server")
                .nick("Run Web Server")
                .blurb("Serve a page to browsers that is the other end of this element; the field web-server of stats is its address, see docs/browser.md")
                .default_value(default.run_web_server)
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("web-server-host")
                .nick("Web Server Host")
                .blurb("Address the web server listens on; 0.0.0.0 is every IPv4 address of this machine")
                .default_value(default.web_server_host.as_str())
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("web-server-port")
                .nick("Web Server Port")
                .blurb("TCP port the web server listens on; 0 takes a free one")
                .maximum(u16::MAX.into())
                .default_value(default.web_server_port.into())
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("connect-timeout")
                .nick("Connect Timeout")
                .blurb("How long to try to reach the signalling server, at the start and when it was lost, before it is an error, in ms; 0 tries for ever")
                .default_value(default.connect_timeout)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("ice-tcp")
                .nick("ICE over TCP")
                .blurb("Offer candidates over TCP besides those over UDP; where packets are lost, one over TCP may win and hold up media. Servers for TURN over TCP work without")
                .default_value(default.ice_tcp)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("ice-transport-policy", default.ice_transport_policy)
                .nick("ICE Transport Policy")
                .blurb("Which candidates are used: all, or relay for those by a TURN server only")
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("fec", default.fec)
                .nick("FEC")
                .blurb("Forward error correction that is offered or answered, beside retransmissions; the field fec of stats says what the peer made of it")
                .mutable_ready()
                .build(),
        ];
        specs.extend(Switches::specs());
        specs
    }

    /// False if the property is not one of these.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        match name {
            "stun-server" => self.stun_server = value.get().expect("type checked upstream"),
            "turn-servers" => {
                let array: gst::Array = value.get().expect("type checked upstream");
                self.turn_servers = array
                    .iter()
                    .filter_map(|v| v.get::<Option<String>>().ok().flatten())
                    .collect();
            }
            "run-signalling-server" => {
                self.run_server = value.get().expect("type checked upstream");
            }
            "signalling-server-host" => {
                self.server_host = value
                    .get::<Option<String>>()
                    .expect("type checked upstream")
                    .unwrap_or_else(|| Self::default().server_host);
            }
            "signalling-server-port" => {
                let port: u32 = value.get().expect("type checked upstream");
                // The maximum of the property.
                self.server_port = port as u16;
            }
            "run-web-server" => {
                self.run_web_server = value.get().expect("type checked upstream");
            }
            "web-server-host" => {
                self.web_server_host = value
                    .get::<Option<String>>()
                    .expect("type checked upstream")
                    .unwrap_or_else(|| Self::default().web_server_host);
            }
            "web-server-port" => {
                let port: u32 = value.get().expect("type checked upstream");
                // The maximum of the property.
                self.web_server_port = port as u16;
            }
            "connect-timeout" => {
                self.connect_timeout = value.get().expect("type checked upstream");
            }
            "fec" => self.fec = value.get().expect("type checked upstream"),
            "ice-tcp" => self.ice_tcp = value.get().expect("type checked upstream"),
            "ice-transport-policy" => {
                self.ice_transport_policy = value.get().expect("type checked upstream");
            }
            _ => return self.switches.set(name, value),
        }
        true
    }

    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "signaller" => self
                .signaller
                .as_ref()
                .map(|s| s.upcast_ref::<glib::Object>().clone())
                .to_value(),
            "stun-server" => self.stun_server.to_value(),
            "turn-servers" => gst::Array::new(self.turn_servers.iter()).to_value(),
            "run-signalling-server" => self.run_server.to_value(),
            "signalling-server-host" => self.server_host.to_value(),
            "signalling-server-port" => u32::from(self.server_port).to_value(),
            "run-web-server" => self.run_web_server.to_value(),
            "web-server-host" => self.web_server_host.to_value(),
            "web-server-port" => u32::from(self.web_server_port).to_value(),
            "connect-timeout" => self.connect_timeout.to_value(),
            "fec" => self.fec.to_value(),
            "ice-tcp" => self.ice_tcp.to_value(),
            "ice-transport-policy" => self.ice_transport_policy.to_value(),
            _ => return self.switches.get(name),
        })
    }
}
