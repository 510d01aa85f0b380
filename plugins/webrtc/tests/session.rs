// SPDX-License-Identifier: MPL-2.0
//! Sessions between dualwebrtcsink and dualwebrtcsrc, from the first picture
//! to the last.

mod common;

use common::*;
use gst::glib;
use gst::prelude::*;
use std::time::{Duration, Instant};

#[test]
fn pictures_arrive_dual_and_with_their_capture_time() {
    let sender = sender(LIVE, "encoder::refresh-interval=1000").play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("120 pictures", || seen.count() >= 120);
    assert!(
        sender.stat::<bool>("sink", "dual"),
        "single: {:?}",
        sender.stats("sink")
    );
    assert_eq!(sender.stat::<String>("sink", "session"), "running");
    assert_eq!(sender.stat::<String>("sink", "reason"), "");
    assert_eq!(
        receiver.stat::<String>("src", "connection-state"),
        "connected"
    );
    assert!(sender.stats("sink").has_field("feedback-1"));
    assert!(receiver.stats("src").has_field("feedback-1"));
    let latency = seen.median_latency().expect("no capture time came along");
    assert!(
        (0.0..2000.0).contains(&latency),
        "{latency} ms from capture to here"
    );
    // Refreshed in the background, once a second: the receiver confirms.
    let encoder: gst::Structure = sender.stats("sink").get("encoder").unwrap();
    assert!(
        encoder.get::<u64>("switches").unwrap() >= 1,
        "no switch to the second stream: {encoder:?}"
    );
    sender.assert_no_error();
    receiver.assert_no_error();
}

/// The candidates in what the sink offers.
fn candidates(ice_tcp: bool) -> Vec<String> {
    let sender = sender(LIVE, &format!("ice-tcp={ice_tcp}")).play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let _receiver = receiver.play();
    wait_for("a picture", || seen.count() >= 1);
    let sink: gst::Bin = sender.element("sink").downcast().unwrap();
    let webrtcbin = sink
        .iterate_recurse()
        .into_iter()
        .filter_map(Result::ok)
        .find(|e| e.factory().is_some_and(|f| f.name() == "webrtcbin"))
        .unwrap();
    let description: gst_webrtc::WebRTCSessionDescription = webrtcbin.property("local-description");
    let text = description.sdp().as_text().unwrap();
    let lines = text.lines().filter(|line| line.starts_with("a=candidate"));
    lines.map(|line| line.to_uppercase()).collect()
}

/// Where packets are lost, ICE took a pair over TCP now and then, and media was
/// held up by seconds.
#[test]
fn candidates_over_tcp_are_offered_on_request_only() {
    let is_tcp = |line: &String| line.contains(" TCP ");
    let udp_only = candidates(false);
    assert!(!udp_only.is_empty(), "no candidates at all");
    assert!(!udp_only.iter().any(is_tcp), "{udp_only:?}");
    let both = candidates(true);
    assert!(both.iter().any(is_tcp), "{both:?}");
}

#[test]
fn without_a_receiver_nothing_is_encoded_and_the_pipeline_runs() {
    let sender = sender(LIVE, "").play();
    wait_for("30 pictures", || {
        sender.stat::<u64>("sink", "pictures-dropped") >= 30
    });
    assert_eq!(sender.stat::<u64>("sink", "pictures-encoded"), 0);
    assert_eq!(sender.stat::<String>("sink", "reason"), "no receiver");
    sender.assert_no_error();
}

#[test]
fn with_one_receiver_at_most_a_second_is_refused_and_the_first_goes_on() {
    let sender = sender(LIVE, "max-receivers=1").play();
    let uri = uri(&sender, "sink");
    let first = receiver(&uri, "");
    let seen = first.watch("out");
    let first = first.play();
    wait_for("the first picture", || seen.count() >= 1);
    let second = receiver(&uri, "");
    let nothing = second.watch("out");
    let second = second.play();
    wait_for("the refusal", || sender.stat::<u64>("sink", "refused") >= 1);
    let before = seen.count();
    wait_for("more pictures", || seen.count() > before + 15);
    assert_eq!(nothing.count(), 0);
    // When the first has gone, the second gets its turn.
    first.stop();
    wait_for("pictures for the second", || nothing.count() >= 15);
    second.assert_no_error();
    sender.assert_no_error();
}

#[test]
fn a_receiver_that_vanishes_may_come_back() {
    let sender = sender(LIVE, "encoder::refresh-interval=500").play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    for round in 1..=3 {
        let before = seen.count();
        receiver.0.set_state(gst::State::Playing).unwrap();
        wait_for("pictures", || seen.count() > before + 20);
        receiver.stop();
        wait_for("the end of the session", || {
            sender.stat::<String>("sink", "session") == "none"
        });
        // ICE may need a second try.
        assert!(sender.stat::<u64>("sink", "sessions") >= round);
    }
    sender.assert_no_error();
}

#[test]
fn a_sender_that_vanishes_may_come_back_elsewhere() {
    // The server is the receiver's, so that it outlives the sender.
    let receiver = receiver(
        "ws://127.0.0.1:1",
        "run-signalling-server=true signalling-server-host=127.0.0.1 signalling-server-port=0",
    );
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    let uri = uri(&receiver, "src");
    for _ in 0..2 {
        let before = seen.count();
        let sender = Pipeline::new(&format!(
            "{LIVE} ! dualwebrtcsink name=sink signaller::uri={uri}"
        ))
        .play();
        wait_for("pictures", || seen.count() > before + 20);
        drop(sender);
        wait_for("the end of the session", || {
            receiver.stat::<String>("src", "session") == "none"
        });
    }
    receiver.assert_no_error();
}

#[test]
fn a_receiver_waits_for_the_server_of_its_sender() {
    // A port that is free now.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let receiver = receiver(&format!("ws://127.0.0.1:{port}"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    std::thread::sleep(Duration::from_millis(700));
    let sender = Pipeline::new(&format!(
        "{LIVE} ! dualwebrtcsink name=sink run-signalling-server=true \
         signalling-server-host=127.0.0.1 signalling-server-port={port}"
    ))
    .play();
    wait_for("pictures", || seen.count() >= 10);
    receiver.assert_no_error();
    sender.assert_no_error();
}

#[test]
fn with_wait_for_receiver_every_picture_of_a_file_arrives_and_then_the_end() {
    const PICTURES: u64 = 60;
    let sender = sender(
        &format!(
            "videotestsrc num-buffers={PICTURES} pattern=ball ! \
             video/x-raw,width=320,height=180,framerate=30/1"
        ),
        "wait-for-receiver=true encoder::refresh-interval=500",
    )
    .play();
    wait_for("the first picture to wait", || {
        sender.stat::<bool>("sink", "waiting")
    });
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("the first picture", || seen.count() >= 1);
    let start = Instant::now();
    sender.wait_eos();
    let took = start.elapsed();
    receiver.wait_eos();
    assert_eq!(sender.stat::<u64>("sink", "pictures-dropped"), 0);
    assert_eq!(sender.stat::<u64>("sink", "pictures-encoded"), PICTURES);
    assert_eq!(seen.count(), PICTURES, "each picture once");
    // 2 s of video at normal pace: not all at once to catch up.
    assert!(
        took > Duration::from_millis(1500),
        "the pictures were sent within {took:?}"
    );
}

#[test]
fn end_of_stream_without_a_receiver_is_posted() {
    let sender = sender(
        "videotestsrc num-buffers=10 ! video/x-raw,framerate=30/1",
        "",
    )
    .play();
    sender.wait_eos();
    assert_eq!(sender.stat::<u64>("sink", "pictures-dropped"), 10);
}

#[test]
fn after_the_end_a_receiver_that_goes_on_waits_for_the_next_sender() {
    let receiver = receiver(
        "ws://127.0.0.1:1",
        "eos-on-end=false run-signalling-server=true \
         signalling-server-host=127.0.0.1 signalling-server-port=0",
    );
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    let uri = uri(&receiver, "src");
    for _ in 0..2 {
        let before = seen.count();
        let sender = Pipeline::new(&format!(
            "videotestsrc num-buffers=20 ! video/x-raw,width=320,height=180,framerate=30/1 ! \
             dualwebrtcsink name=sink wait-for-receiver=true signaller::uri={uri}"
        ))
        .play();
        sender.wait_eos();
        wait_for("all pictures", || seen.count() == before + 20);
    }
    receiver.assert_no_error();
}

#[test]
fn an_encoder_set_to_single_gets_one_stream() {
    let sender = sender(LIVE, "encoder::mode=single").play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 30);
    assert!(!sender.stat::<bool>("sink", "dual"));
    assert_eq!(
        sender.stat::<String>("sink", "reason"),
        "the encoder's mode is single"
    );
    assert!(!receiver.stats("src").has_field("feedback-1"));
    receiver.assert_no_error();
}

#[test]
fn states_go_up_and_down_and_no_thread_stays() {
    let sender = sender(LIVE, "");
    let receiver = receiver("ws://127.0.0.1:1", "");
    let seen = receiver.watch("out");
    for _ in 0..3 {
        sender.0.set_state(gst::State::Playing).unwrap();
        receiver
            .element("src")
            .property::<gst::glib::Object>("signaller")
            .set_property("uri", uri(&sender, "sink"));
        receiver.0.set_state(gst::State::Playing).unwrap();
        let before = seen.count();
        wait_for("pictures", || seen.count() > before + 5);
        receiver.0.set_state(gst::State::Paused).unwrap();
        receiver.0.set_state(gst::State::Playing).unwrap();
        let before = seen.count();
        wait_for("pictures after a pause", || seen.count() > before + 5);
        receiver.stop();
        sender.stop();
        assert_eq!(threads("dualwebrtc"), 0);
    }
}

fn child(sender: &Pipeline, name: &str) -> glib::Object {
    let sink = sender.element("sink").dynamic_cast::<gst::ChildProxy>();
    sink.unwrap().child_by_name(name).expect(name)
}

/// The bitrate of the encoder now.
fn bitrate(sender: &Pipeline) -> u32 {
    child(sender, "encoder").property("bitrate")
}

/// What a session's estimator says.
fn estimator(sender: &Pipeline, field: &str) -> u64 {
    let stats = sender.stats("sink").get::<gst::Structure>("estimator");
    stats.map_or(0, |s| s.get(field).unwrap())
}

#[test]
fn the_rate_of_the_encoder_follows_the_network_up_to_its_ceiling() {
    let sender = sender(LIVE, "estimator::start-bitrate=200000");
    child(&sender, "encoder").set_property("bitrate", 1_200_000u32);
    let sender = sender.play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("the start rate", || bitrate(&sender) == 200_000);
    // Encoder and pacer had it before there was a packet.
    let paced = || child(&sender, "pacer").property::<u64>("bitrate");
    assert_eq!(paced(), 200_000);
    // The loopback takes all: from the start rate to the ceiling.
    wait_for("the ceiling", || bitrate(&sender) == 1_200_000);
    assert!(estimator(&sender, "received-packets") > 5);
    assert!(estimator(&sender, "estimates") > 2);
    for none in ["realigned", "malformed"] {
        assert_eq!(estimator(&sender, none), 0, "{none}");
    }
    let pacer: gst::Structure = sender.stats("sink").get("pacer").unwrap();
    assert!(pacer.get::<u64>("pacing-bitrate").unwrap() < u64::MAX);
    // A lower limit holds at once, and is not taken for a new ceiling.
    child(&sender, "estimator").set_property("max-bitrate", 100_000u32);
    wait_for("the limit", || bitrate(&sender) <= 100_000);
    let before = seen.count();
    wait_for("pictures at the lower rate", || seen.count() > before + 15);
    assert!(sender.stat::<bool>("sink", "dual"));
    // After the session the encoder is as it was.
    receiver.stop();
    wait_for("the end of the session", || {
        sender.stat::<String>("sink", "session") == "none"
    });
    assert_eq!(bitrate(&sender), 1_200_000);
    assert_eq!(paced(), 0);
    assert!(!sender.stats("sink").has_field("estimator"));
    // And the next session has its estimator again.
    receiver.0.set_state(gst::State::Playing).unwrap();
    wait_for("the second session", || {
        estimator(&sender, "received-packets") > 10
    });
    sender.assert_no_error();
}

#[test]
fn a_ceiling_changed_by_the_user_is_followed() {
    let sender = sender(LIVE, "").play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 30);
    let limit = || child(&sender, "estimator").property::<u32>("max-bitrate");
    assert_eq!(limit(), 500_000);
    child(&sender, "encoder").set_property("bitrate", 900_000u32);
    assert_eq!(limit(), 900_000);
    wait_for("an estimate above the old ceiling", || {
        bitrate(&sender) > 500_000
    });
    // Estimates are no ceilings.
    assert_eq!(limit(), 900_000);
    receiver.assert_no_error();
    sender.assert_no_error();
}

#[test]
fn without_congestion_control_the_encoder_keeps_its_rate() {
    let sender = sender(LIVE, "congestion-control=none").play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 30);
    assert!(!sender.stats("sink").has_field("estimator"));
    assert_eq!(bitrate(&sender), 500_000);
    receiver.assert_no_error();
}
