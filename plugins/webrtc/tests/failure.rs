// SPDX-License-Identifier: MPL-2.0
//! What the user is told when something is not there.

mod common;

use common::*;
use gst::prelude::*;
use std::time::{Duration, Instant};

/// A port on which nobody listens.
fn unused_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_server_that_is_not_there_is_an_error_within_the_timeout() {
    let uri = format!("ws://127.0.0.1:{}", unused_port());
    for description in [
        format!("{LIVE} ! dualwebrtcsink signaller::uri={uri} connect-timeout=1200"),
        format!("dualwebrtcsrc signaller::uri={uri} connect-timeout=1200 ! fakesink"),
    ] {
        let pipeline = Pipeline::new(&description);
        let start = Instant::now();
        let pipeline = pipeline.play();
        let error = pipeline.wait_error();
        let took = start.elapsed();
        assert!(
            error.contains(&uri) && error.contains("run-signalling-server"),
            "unclear: {error}"
        );
        assert!(
            took >= Duration::from_millis(1000) && took < Duration::from_secs(10),
            "after {took:?}"
        );
    }
}

/// It accepts, and then says nothing.
#[test]
fn a_server_that_does_not_answer_is_an_error_too() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let start = Instant::now();
    let pipeline = Pipeline::new(&format!(
        "dualwebrtcsrc signaller::uri=ws://127.0.0.1:{port} connect-timeout=1000 ! fakesink"
    ))
    .play();
    assert!(pipeline.wait_error().contains("signalling server"));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_port_that_is_taken_is_an_error_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for description in [
        format!(
            "{LIVE} ! dualwebrtcsink run-signalling-server=true signalling-server-host=127.0.0.1 signalling-server-port={port}"
        ),
        format!(
            "dualwebrtcsrc run-signalling-server=true signalling-server-host=127.0.0.1 signalling-server-port={port} ! fakesink"
        ),
    ] {
        let pipeline = Pipeline::new(&description);
        assert!(pipeline.0.set_state(gst::State::Playing).is_err());
        let error = pipeline.wait_error();
        assert!(error.contains(&port.to_string()), "unclear: {error}");
        pipeline.stop();
    }
}

/// The server dies with the sender in the middle of a session: the receiver
/// goes back to waiting, and its error says which server is gone.
#[test]
fn a_server_that_dies_is_an_error_after_the_timeout() {
    let sender = sender(LIVE, "").play();
    let uri = uri(&sender, "sink");
    let receiver = receiver(&uri, "connect-timeout=1000");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 10);
    drop(sender);
    assert!(receiver.wait_error().contains(&uri));
}
