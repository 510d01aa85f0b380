// SPDX-License-Identifier: MPL-2.0
//! WHIP and WHEP, with our own elements and those of gst-plugins-rs at the
//! other end.

mod common;

use common::*;
use gst::glib;
use gst::prelude::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn init_foreign() {
    init();
    static INIT: std::sync::Once = std::sync::Once::new();
    INIT.call_once(|| {
        gstrswebrtc::plugin_register_static().unwrap();
        // It warns where no estimator is installed.
        glib::log_set_always_fatal(glib::LogLevels::LEVEL_CRITICAL);
    });
}

/// Where the HTTP server of an element is, once it listens.
fn endpoint(pipeline: &Pipeline, element: &str, kind: &str) -> String {
    wait_for("the server", || {
        pipeline.stat::<bool>(element, "signalling")
    });
    let signaller: glib::Object = pipeline.element(element).property("signaller");
    let address: String = signaller.property("host-addr");
    format!("{}/{kind}/endpoint", address.trim_end_matches('/'))
}

fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn whip_server() -> Pipeline {
    Pipeline::new(
        "dualwebrtcsrc name=src eos-on-end=false signalling=whip-server \
         signaller::host-addr=http://127.0.0.1:0 ! fakesink name=out sync=false",
    )
}

fn whip_client(endpoint: &str, properties: &str) -> Pipeline {
    Pipeline::new(&format!(
        "{LIVE} ! dualwebrtcsink name=sink signalling=whip-client \
         signaller::whip-endpoint={endpoint} encoder::bitrate=500000 {properties}"
    ))
}

fn whep_server(properties: &str) -> Pipeline {
    Pipeline::new(&format!(
        "{LIVE} ! dualwebrtcsink name=sink signalling=whep-server \
         signaller::host-addr=http://127.0.0.1:0 {properties} encoder::bitrate=500000 \
         encoder::refresh-interval=500"
    ))
}

fn whep_client(endpoint: &str) -> Pipeline {
    Pipeline::new(&format!(
        "dualwebrtcsrc name=src signalling=whep-client signaller::whep-endpoint={endpoint} ! \
         fakesink name=out sync=false"
    ))
}

fn is_over(pipeline: &Pipeline, element: &str) -> impl Fn() -> bool {
    let element = pipeline.element(element);
    move || element.property::<gst::Structure>("stats").get("session") == Ok("none")
}

#[test]
fn whip_carries_both_streams_again_and_again() {
    let receiver = whip_server();
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    let endpoint = endpoint(&receiver, "src", "whip");
    let sender = whip_client(&endpoint, "encoder::refresh-interval=500");
    // The signaller may be started once only: the second time is another case.
    for _ in 0..2 {
        let before = seen.count();
        sender.0.set_state(gst::State::Playing).unwrap();
        wait_for("pictures", || seen.count() > before + 40);
        assert!(sender.stat::<bool>("sink", "dual"));
        assert!(sender.stat::<bool>("sink", "signalling"));
        assert_eq!(sender.stat::<String>("sink", "fec"), "flexfec-03");
        // A second one is refused at once, and not left to wait.
        let second = whip_client(&endpoint, "connect-timeout=1000").play();
        let start = Instant::now();
        let error = second.wait_error();
        assert!(error.contains("HTTP status 500"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(second);
        // Its DELETE is heard: much earlier than the silence.
        sender.stop();
        let start = Instant::now();
        wait_for("the end of the session", is_over(&receiver, "src"));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
    receiver.assert_no_error();
}

#[test]
fn whep_players_bring_the_offer_and_get_both_streams() {
    let sender = whep_server("").play();
    let endpoint = endpoint(&sender, "sink", "whep");
    for _ in 0..2 {
        let receiver = whep_client(&endpoint);
        let seen = receiver.watch("out");
        let receiver = receiver.play();
        wait_for("pictures", || seen.count() >= 40);
        assert_eq!(sender.stat::<String>("sink", "reason"), "");
        assert!(sender.stat::<bool>("sink", "dual"));
        assert_eq!(sender.stat::<String>("sink", "fec"), "none");
        // Background frames are acknowledged.
        wait_for("a switch", || {
            let encoder: gst::Structure = sender.stats("sink").get("encoder").unwrap();
            encoder.get::<u64>("switches").unwrap() > 0
        });
        receiver.assert_no_error();
        receiver.stop();
        wait_for("the end of the session", is_over(&sender, "sink"));
    }
    sender.assert_no_error();
}

#[test]
fn a_whep_server_may_make_its_own_offer() {
    let sender = whep_server("signaller::send-counter-offer=true").play();
    let receiver = whep_client(&endpoint(&sender, "sink", "whep"));
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 40);
    assert!(sender.stat::<bool>("sink", "dual"));
    assert_eq!(sender.stat::<String>("sink", "fec"), "flexfec-03");
    receiver.assert_no_error();
    sender.assert_no_error();
}

#[test]
fn sound_goes_by_whip_and_whep() {
    let receiver = Pipeline::new(
        "dualwebrtcsrc name=src signalling=whip-server signaller::host-addr=http://127.0.0.1:0 \
         src.src ! fakesink sync=false src.audio ! fakesink name=out sync=false",
    );
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    let sender = Pipeline::new(&format!(
        "{LIVE} ! dualwebrtcsink name=sink signalling=whip-client \
         signaller::whip-endpoint={} audiotestsrc is-live=true ! sink.audio",
        endpoint(&receiver, "src", "whip")
    ))
    .play();
    wait_for("sound", || seen.count() >= 50);
    drop((sender, receiver));
    let sender = Pipeline::new(&format!(
        "{LIVE} ! dualwebrtcsink name=sink signalling=whep-server \
         signaller::host-addr=http://127.0.0.1:0 audiotestsrc is-live=true ! sink.audio"
    ))
    .play();
    let receiver = Pipeline::new(&format!(
        "dualwebrtcsrc name=src signalling=whep-client signaller::whep-endpoint={} \
         src.src ! fakesink sync=false src.audio ! fakesink name=out sync=false",
        endpoint(&sender, "sink", "whep")
    ));
    let seen = receiver.watch("out");
    let _receiver = receiver.play();
    wait_for("sound", || seen.count() >= 50);
}

/// Its default is a server on the Internet.
const NO_STUN: &str = "stun-server=NULL";

#[test]
fn foreign_whip_peers() {
    init_foreign();
    // They send to us.
    let receiver = whip_server();
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    let foreign = Pipeline::new(&format!(
        "{LIVE} ! whipclientsink name=foreign video-caps=video/x-h264 {NO_STUN} \
         signaller::whip-endpoint={}",
        endpoint(&receiver, "src", "whip")
    ));
    foreign
        .element("foreign")
        .set_property("stun-server", None::<String>);
    let foreign = foreign.play();
    wait_for("pictures", || seen.count() >= 30);
    receiver.assert_no_error();
    drop(foreign);
    wait_for("the end of the session", is_over(&receiver, "src"));
    // We send to them.
    let port = unused_port();
    let foreign = Pipeline::new(&format!(
        "whipserversrc name=foreign signaller::host-addr=http://127.0.0.1:{port} \
         foreign. ! fakesink name=out sync=false"
    ));
    foreign
        .element("foreign")
        .set_property("stun-server", None::<String>);
    let seen = foreign.watch("out");
    let _foreign = foreign.play();
    let sender = whip_client(&format!("http://127.0.0.1:{port}/whip/endpoint"), "").play();
    wait_for("pictures", || seen.count() >= 30);
    assert!(!sender.stat::<bool>("sink", "dual"));
    sender.assert_no_error();
    teardown_is_not_ours();
}

/// What foreign elements say of their own while they are taken down: whipserversrc
/// may leave a bin running when its sender goes at the same time.
fn teardown_is_not_ours() {
    gst::glib::log_set_always_fatal(gst::glib::LogLevels::LEVEL_ERROR);
}

#[test]
fn foreign_whep_peers() {
    init_foreign();
    // They play from us.
    let sender = whep_server("").play();
    let foreign = Pipeline::new(&format!(
        "whepclientsrc name=foreign signaller::whep-endpoint={} \
         video-codecs=<H264> foreign. ! fakesink name=out sync=false",
        endpoint(&sender, "sink", "whep")
    ));
    foreign
        .element("foreign")
        .set_property("stun-server", None::<String>);
    let seen = foreign.watch("out");
    let foreign = foreign.play();
    wait_for("pictures", || seen.count() >= 30);
    assert!(!sender.stat::<bool>("sink", "dual"));
    drop(foreign);
    sender.assert_no_error();
    // We play from them.
    let port = unused_port();
    let foreign = Pipeline::new(&format!(
        "{LIVE} ! whepserversink name=foreign video-caps=video/x-h264 \
         signaller::host-addr=http://127.0.0.1:{port}"
    ));
    foreign
        .element("foreign")
        .set_property("stun-server", None::<String>);
    let _foreign = foreign.play();
    let receiver = whep_client(&format!("http://127.0.0.1:{port}/whep/endpoint"));
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 30);
    receiver.assert_no_error();
    teardown_is_not_ours();
}

/// Answers every request with this status, for as long as it is asked.
fn refusing_server(status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 8192];
            let _ = stream.read(&mut request);
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
    });
    port
}

#[test]
fn what_is_wrong_is_told_in_words() {
    let refused = |status| format!("http://127.0.0.1:{}/whip/x", refusing_server(status));
    let nobody = format!("http://127.0.0.1:{}/whip/x", unused_port());
    for (endpoint, words) in [
        (refused("404 Not Found"), "no WHIP endpoint"),
        (refused("401 Unauthorized"), "auth-token"),
        (refused("200 OK"), "no WHIP server"),
        (nobody, "No WHIP server"),
    ] {
        let start = Instant::now();
        let sender = whip_client(&endpoint, "connect-timeout=700").play();
        let error = sender.wait_error();
        assert!(error.contains(words), "{endpoint}: {error}");
        assert!(start.elapsed() >= Duration::from_millis(600), "tried on");
    }
    for (description, words) in [
        (
            format!("{LIVE} ! dualwebrtcsink signalling=whip-client"),
            "whip-endpoint",
        ),
        (
            "dualwebrtcsrc signalling=whep-client signaller::whep-endpoint=nonsense ! fakesink"
                .into(),
            "whep-endpoint",
        ),
        (
            format!("{LIVE} ! dualwebrtcsink signalling=janus-videoroom"),
            "room-id",
        ),
    ] {
        // At once: it will not get better.
        let start = Instant::now();
        let error = Pipeline::new(&description).play().wait_error();
        assert!(error.contains(words), "{description}: {error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let receiver = Pipeline::new(&format!(
        "dualwebrtcsrc signalling=whip-server signaller::host-addr=http://{address} \
         connect-timeout=500 ! fakesink"
    ))
    .play();
    let error = receiver.wait_error();
    assert!(error.contains("host-addr"), "{error}");
}

#[test]
fn a_server_that_comes_later_and_again_is_found() {
    let port = unused_port();
    let endpoint = format!("http://127.0.0.1:{port}/whip/endpoint");
    let sender = whip_client(&endpoint, "").play();
    wait_for("the warning", || {
        let bus = sender.0.bus().unwrap();
        bus.pop_filtered(&[gst::MessageType::Warning]).is_some()
    });
    for _ in 0..2 {
        let receiver = Pipeline::new(&format!(
            "dualwebrtcsrc name=src signalling=whip-server \
             signaller::host-addr=http://127.0.0.1:{port} ! fakesink name=out sync=false"
        ));
        let seen = receiver.watch("out");
        let receiver = receiver.play();
        wait_for("pictures", || seen.count() >= 20);
        receiver.assert_no_error();
        receiver.stop();
        // RTCP falls silent; DTLS says it earlier.
        wait_for("the end of the session", is_over(&sender, "sink"));
    }
    sender.assert_no_error();
}

/// Requests that are no use, or that use one id twice.
#[test]
fn nothing_that_is_posted_harms_a_server() {
    let receiver = whip_server().play();
    let endpoint = endpoint(&receiver, "src", "whip");
    let authority = endpoint
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let post = |path: &str, body: &str| {
        let mut stream = std::net::TcpStream::connect(&authority).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    };
    let status = |mut stream: std::net::TcpStream| {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let empty = "v=0\r\no=- 1 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n";
    let video = format!(
        "{empty}m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=sendonly\r\na=mid:0\r\n\
         a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n\
         a=fingerprint:sha-256 {}\r\na=rtcp-mux\r\na=rtpmap:96 H264/90000\r\n",
        ["AB"; 32].join(":")
    );
    for body in ["nonsense", empty, "m=video 9\r\n\r\n\0"] {
        let start = Instant::now();
        let got = status(post("/whip/endpoint", body));
        assert_ne!(got, "201", "{body}");
        assert!(start.elapsed() < Duration::from_secs(12), "{body}");
        wait_for("the end of it", is_over(&receiver, "src"));
    }
    // One id many times at once: each is answered, by whatever.
    let streams: Vec<_> = (0..20)
        .map(|_| post("/whip/endpoint/same", &video))
        .collect();
    let answers: Vec<_> = streams.into_iter().map(status).collect();
    assert!(answers.iter().all(|got| !got.is_empty()), "{answers:?}");
    let mut stream = std::net::TcpStream::connect(&authority).unwrap();
    write!(
        stream,
        "DELETE /whip/resource/same HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    assert_eq!(status(stream), "200");
    wait_for("the end of it", is_over(&receiver, "src"));
    // And it still serves.
    let seen = receiver.watch("out");
    let _sender = whip_client(&endpoint, "").play();
    wait_for("pictures", || seen.count() >= 10);
    receiver.assert_no_error();
}
