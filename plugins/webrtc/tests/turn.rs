// SPDX-License-Identifier: MPL-2.0
//! STUN and TURN, with coturn on loopback as the server. Skipped where it is not
//! installed.

#![allow(clippy::print_stderr)] // What is skipped.

mod common;

use common::*;
use gst::prelude::*;
use std::io::Read;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PROGRAM: &str = "/usr/bin/turnserver";
const USER: &str = "user";
/// With a sign that a URI needs to have as %XX.
const PASSWORD: &str = "pass word/1";
const ESCAPED: &str = "pass%20word%2F1";
/// The user is told within this time.
const SOON: Duration = Duration::from_secs(8);

/// An address of this machine that libnice, which binds its sockets to the
/// interfaces with addresses, can reach: 127.0.0.1 it does not over UDP.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing.
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// coturn, for TURN and STUN over UDP and TCP at one port.
struct Server {
    process: Child,
    folder: std::path::PathBuf,
    address: IpAddr,
    port: u16,
}

impl Server {
    /// None if it is not installed, or there is no network.
    fn start() -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            eprintln!("skipped: {PROGRAM} is not installed");
            return None;
        }
        let Some(address) = own_address() else {
            eprintln!("skipped: no network");
            return None;
        };
        let port = free_port(address);
        let folder = std::env::temp_dir().join(format!("turn-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let relays = 20_000 + port % 20_000;
        let process = Command::new(PROGRAM)
            .current_dir(&folder)
            .args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--verbose"])
            .args(["--log-file=stdout", "--simple-log", "--lt-cred-mech"])
            .arg("--realm=dualstream.test")
            .arg(format!("--listening-ip={address}"))
            .arg(format!("--relay-ip={address}"))
            .arg(format!("--listening-port={port}"))
            .arg(format!("--min-port={relays}"))
            .arg(format!("--max-port={}", relays + 200))
            .arg(format!("--user={USER}:{PASSWORD}"))
            .arg(format!("--userdb={}", folder.join("db").display()))
            .arg(format!("--pidfile={}", folder.join("pid").display()))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            process,
            folder,
            address,
            port,
        };
        wait_for("coturn", || server.answers());
        Some(server)
    }

    /// A binding request without attributes, RFC 8489.
    fn answers(&self) -> bool {
        let socket = UdpSocket::bind((self.address, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let mut request = [7; 20];
        request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        let sent = socket.send_to(&request, (self.address, self.port));
        sent.is_ok() && socket.recv(&mut [0; 500]).is_ok()
    }

    fn uri(&self) -> String {
        format!("turn://{USER}:{ESCAPED}@{}:{}", self.address, self.port)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// For UDP and TCP.
fn free_port(address: IpAddr) -> u16 {
    loop {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if UdpSocket::bind((address, port)).is_ok() {
            return port;
        }
    }
}

/// The property as text for a launch line.
fn servers(uris: &[String]) -> String {
    let quoted: Vec<_> = uris.iter().map(|uri| format!("\"{uri}\"")).collect();
    format!("turn-servers=<{}>", quoted.join(","))
}

const RELAY: &str = "ice-transport-policy=relay";

/// What kinds of candidates each of our elements offers to its peer.
#[derive(Clone, Default)]
struct Offered(Arc<Mutex<Vec<String>>>);

impl Offered {
    fn watch(pipeline: &Pipeline, element: &str) -> Self {
        let offered = Self::default();
        let bin: gst::Bin = pipeline.element(element).downcast().unwrap();
        let lines = offered.0.clone();
        bin.connect_deep_element_added(move |_, _, element| {
            if element.factory().is_none_or(|f| f.name() != "webrtcbin") {
                return;
            }
            let lines = lines.clone();
            element.connect("on-ice-candidate", false, move |values| {
                lines.lock().unwrap().push(values[2].get().unwrap());
                None
            });
        });
        offered
    }

    fn has(&self, what: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains(what))
    }

    fn kinds(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        let kind = |line: &String| {
            let mut words = line.split(' ').skip_while(|word| *word != "typ");
            words.nth(1).unwrap().to_owned()
        };
        let mut kinds: Vec<String> = lines.iter().map(kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }
}

/// A sender and a receiver with these properties, and what they offer.
struct Call {
    sender: Pipeline,
    receiver: Pipeline,
    seen: Arc<Seen>,
    offered: [Offered; 2],
}

impl Call {
    fn start(of_sender: &str, of_receiver: &str) -> Self {
        let sender = sender(LIVE, of_sender);
        let by_sender = Offered::watch(&sender, "sink");
        let sender = sender.play();
        let receiver = receiver(&uri(&sender, "sink"), of_receiver);
        let by_receiver = Offered::watch(&receiver, "src");
        let seen = receiver.watch("out");
        Self {
            sender,
            receiver: receiver.play(),
            seen,
            offered: [by_sender, by_receiver],
        }
    }

    fn wait_for_pictures(&self) {
        wait_for("pictures", || self.seen.count() >= 60);
        self.sender.assert_no_error();
        self.receiver.assert_no_error();
    }
}

/// What the user is told next, if that is soon.
#[track_caller]
fn warning(pipeline: &Pipeline) -> (String, String) {
    let bus = pipeline.0.bus().unwrap();
    let timeout = gst::ClockTime::try_from(SOON).unwrap();
    let message = bus
        .timed_pop_filtered(timeout, &[gst::MessageType::Warning])
        .expect("no warning within the time");
    let gst::MessageView::Warning(warning) = message.view() else {
        unreachable!()
    };
    let debug = warning.debug().unwrap_or_default().to_string();
    (warning.error().to_string(), debug)
}

#[track_caller]
fn assert_no_warning(pipeline: &Pipeline) {
    let bus = pipeline.0.bus().unwrap();
    let message = bus.pop_filtered(&[gst::MessageType::Warning]);
    assert!(message.is_none(), "{message:?}");
}

/// Candidates of the pair that is in use, of the webrtcbin in this element.
fn selected(pipeline: &Pipeline, element: &str) -> Vec<String> {
    let bin: gst::Bin = pipeline.element(element).downcast().unwrap();
    let mut elements = bin.iterate_recurse().into_iter().flatten();
    let webrtcbin = elements
        .find(|e| e.factory().is_some_and(|f| f.name() == "webrtcbin"))
        .unwrap();
    let promise = gst::Promise::new();
    webrtcbin.emit_by_name::<()>("get-stats", &[&None::<gst::Pad>, &promise]);
    promise.wait();
    let reply = promise.get_reply().unwrap();
    let kinds = reply.iter().filter_map(|(_, value)| {
        let s = value.get::<gst::Structure>().ok()?;
        s.get::<String>("candidate-type").ok()
    });
    kinds.collect()
}

#[test]
fn with_the_policy_relay_a_call_goes_by_the_turn_server() {
    let Some(server) = Server::start() else {
        return;
    };
    let properties = format!("{RELAY} {}", servers(&[server.uri()]));
    let call = Call::start(&properties, &properties);
    call.wait_for_pictures();
    for offered in &call.offered {
        assert_eq!(offered.kinds(), ["relay"]);
    }
    for (pipeline, element) in [(&call.sender, "sink"), (&call.receiver, "src")] {
        assert_eq!(selected(pipeline, element), ["relay", "relay"]);
        assert_no_warning(pipeline);
    }
    let made = server.log().matches("ALLOCATE processed, success").count();
    assert!(made >= 2, "{}", server.log());
    call.receiver.stop();
    call.sender.stop();
    // Or they would stay for ten minutes.
    wait_for("the end of all allocations", || {
        server.log().matches("closed (2nd stage)").count() >= made
            || server.log().matches("lifetime=0").count() >= made
    });
}

#[test]
fn each_of_two_turn_servers_is_used() {
    let (Some(first), Some(second)) = (Server::start(), Server::start()) else {
        return;
    };
    let uris = [first.uri(), second.uri()].map(|uri| format!("{uri}?transport=udp"));
    let properties = format!("{RELAY} {}", servers(&uris));
    let call = Call::start(&properties, &properties);
    call.wait_for_pictures();
    for offered in &call.offered {
        // One, for both servers have the same address, and libnice keeps the first.
        assert_eq!(offered.kinds(), ["relay"]);
    }
    for server in [&first, &second] {
        let log = server.log();
        let made = log.matches("ALLOCATE processed, success").count();
        // By either side, and to find out why there is one candidate only.
        assert!(made >= 2, "{log}");
        assert!(!log.contains("tcp or tls connected"), "{log}");
    }
    // It is as it was set.
    let set: gst::Array = call.sender.element("sink").property("turn-servers");
    let set: Vec<String> = set.iter().map(|v| v.get().unwrap()).collect();
    assert_eq!(set, uris);
}

#[test]
fn a_wrong_password_is_told_within_seconds_and_the_other_server_serves() {
    let (Some(server), Some(other)) = (Server::start(), Server::start()) else {
        return;
    };
    let wrong = format!("turn://{USER}:wrong@{}:{}", server.address, server.port);
    let silent = {
        let port = free_port(server.address);
        format!(
            "turn://{USER}:{ESCAPED}@{}:{port}?transport=udp",
            server.address
        )
    };
    let of_sender = format!("{RELAY} {}", servers(&[wrong, silent, other.uri()]));
    let call = Call::start(&of_sender, &format!("{RELAY} {}", servers(&[other.uri()])));
    let mut told = [warning(&call.sender), warning(&call.sender)];
    told.sort_by_key(|(text, _)| text.contains("password"));
    let [(silent, hint), (refused, what_to_do)] = &told;
    assert!(silent.contains("does not answer over UDP"), "{silent}");
    assert!(hint.contains("firewall"), "{hint}");
    assert_eq!(
        refused,
        &format!(
            "The TURN server {}:{} does not let in user '{USER}': wrong user name or password",
            server.address, server.port
        )
    );
    assert!(what_to_do.contains("turn-servers"), "{what_to_do}");
    call.wait_for_pictures();
    assert_no_warning(&call.receiver);
    assert_no_warning(&call.sender);
    // What it was asked for to find out is not kept.
    let log = other.log();
    assert!(!log.contains("wrong"), "{log}");
}

/// Answers binding requests as if there were a NAT in between.
fn serve_stun(socket: &UdpSocket) {
    /// 203.0.113.7:4660, each xor the cookie.
    const MAPPED: [u8; 12] = [0, 0x20, 0, 8, 0, 1, 0x33, 0x26, 0xea, 0x12, 0xd5, 0x45];
    let mut request = [0; 500];
    while let Ok((count, from)) = socket.recv_from(&mut request) {
        if count < 20 || request[..2] != [0, 1] {
            // The end.
            return;
        }
        let head = [&[1, 1, 0, 12], &request[4..20]].concat();
        socket
            .send_to(&[&head, &MAPPED[..]].concat(), from)
            .unwrap();
    }
}

#[test]
fn an_address_that_a_stun_server_sees_is_offered() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let Some(address) = own_address() else {
        eprintln!("skipped: no network");
        return;
    };
    let port = socket.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve_stun(&socket));
    let call = Call::start(&format!("stun-server=stun://{address}:{port}"), "");
    call.wait_for_pictures();
    let [by_sender, by_receiver] = &call.offered;
    assert_eq!(by_sender.kinds(), ["host", "srflx"]);
    assert!(by_sender.has("203.0.113.7 4660 typ srflx"));
    assert_eq!(by_receiver.kinds(), ["host"]);
    assert_no_warning(&call.sender);
    drop(call);
    let end = UdpSocket::bind((address, 0)).unwrap();
    end.send_to(&[9], (address, port)).unwrap();
    server.join().unwrap();
}

#[test]
fn a_stun_server_that_is_not_there_is_told_and_one_that_is_is_not() {
    let Some(server) = Server::start() else {
        return;
    };
    let (address, port, gone) = (server.address, server.port, free_port(server.address));
    let call = Call::start(
        &format!("stun-server=stun://{address}:{port}"),
        &format!("stun-server=stun://{address}:{gone}"),
    );
    let (text, hint) = warning(&call.receiver);
    assert_eq!(
        text,
        format!("The STUN server {address}:{gone} does not answer over UDP")
    );
    assert!(hint.contains("is it running"), "{hint}");
    call.wait_for_pictures();
    // Without NAT its answer is no news, and it was asked again for that.
    assert_no_warning(&call.sender);
}

/// If this fails because libnice has learnt TLS, the warning has to go.
#[test]
fn turns_is_told_to_go_without_tls() {
    let Some(address) = own_address() else {
        eprintln!("skipped: no network");
        return;
    };
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let uri = format!("turns://{USER}:{ESCAPED}@{address}:{port}");
    let call = Call::start(&servers(&[uri]), "");
    let (mut client, _) = listener.accept().unwrap();
    let mut first = [0; 2];
    client.read_exact(&mut first).unwrap();
    // An Allocate request; a handshake would begin with 22.
    assert_eq!(first, [0, 3]);
    let (text, hint) = warning(&call.sender);
    assert!(text.contains("does not encrypt"), "{text}");
    assert!(hint.contains("turn://"), "{hint}");
    call.wait_for_pictures();
}

#[test]
fn what_is_no_uri_of_a_server_is_an_error_at_the_start() {
    for properties in [
        "turn-servers=<\"turn://127.0.0.1:3478\">",
        "turn-servers=<\"http://user:secret@127.0.0.1\">",
        "stun-server=127.0.0.1:3478",
    ] {
        let sender = sender(LIVE, properties);
        assert!(sender.0.set_state(gst::State::Playing).is_err());
        let text = sender.wait_error();
        assert!(text.contains("server URI"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
