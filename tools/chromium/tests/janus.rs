// SPDX-License-Identifier: MPL-2.0
//! One publisher, Janus, and viewers in Chromium.

use std::io::Write;
use std::time::{Duration, Instant};

use dualstream_chromium::browser::{self, Browser};
use dualstream_chromium::janus::{self, Janus, ROOM};
use dualstream_chromium::link::Link;
use dualstream_chromium::session;
use gst::prelude::*;

const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
fn wait_for(what: &str, janus: &Janus, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < PATIENCE,
            "in vain: {what}\n{}",
            janus.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

struct Sender(gst::Pipeline);

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Sender {
    fn start(port: u16) -> Self {
        session::init();
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc is-live=true pattern=ball ! \
             video/x-raw,width=640,height=360,framerate=30/1 ! \
             dualwebrtcsink name=sink signalling=janus-videoroom \
             signaller::janus-endpoint=ws://127.0.0.1:{port} signaller::room-id={ROOM} \
             encoder::bitrate=1000000"
        ))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Self(pipeline)
    }

    fn stats(&self) -> gst::Structure {
        self.0.by_name("sink").unwrap().property("stats")
    }

    fn key_frames(&self) -> u64 {
        let encoder: gst::Structure = self.stats().get("encoder").unwrap();
        encoder.get("display-key-frames").unwrap()
    }

    fn is_running(&self) -> bool {
        self.stats().get("session") == Ok("running")
    }
}

fn viewer(port: u16) -> Browser {
    let query = format!("port={port}&room={ROOM}");
    Browser::open(janus::PAGE, &query, false, &Link::Direct).unwrap()
}

fn frames(viewer: &Browser) -> u64 {
    let report = viewer.report();
    assert_eq!(report.error, None);
    report.inbound().map_or(0, |stream| stream.frames_decoded)
}

#[test]
fn viewers_of_a_room_see_the_picture_whenever_they_come() {
    if browser::find().is_none() || !janus::is_installed() {
        // Not lost in what the harness captures.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: chromium or janus not installed"
        );
        return;
    }
    let mut janus = Janus::start().unwrap();
    let sender = Sender::start(janus.port());
    wait_for("the room", &janus, || sender.is_running());
    let stats = sender.stats();
    assert_eq!(stats.get("dual"), Ok(false));
    assert!(stats.get::<&str>("reason").unwrap().contains("Janus"));
    let first = viewer(janus.port());
    wait_for("pictures", &janus, || frames(&first) >= 60);
    // One track, and none that stays black.
    let offer = first.report().remote.unwrap();
    assert_eq!(offer.matches("m=video").count(), 1, "{offer}");
    // There is no key frame but for viewers: a late one gets its own.
    let before = sender.key_frames();
    let late = viewer(janus.port());
    wait_for("pictures for the late one", &janus, || frames(&late) >= 30);
    let made = sender.key_frames() - before;
    assert!((1..=3).contains(&made), "{made} key frames for one viewer");
    let seen = frames(&first);
    wait_for("the first goes on", &janus, || frames(&first) >= seen + 30);
    let estimator: gst::Structure = sender.stats().get("estimator").unwrap();
    assert!(estimator.get::<u64>("received-packets").unwrap() > 100);
    drop((first, late));
    // The room is gone and comes again: so does the sender.
    let port = janus.port();
    drop(janus);
    let start = Instant::now();
    while sender.is_running() {
        assert!(start.elapsed() < PATIENCE, "Janus is not missed");
        std::thread::sleep(Duration::from_millis(20));
    }
    janus = Janus::start_at(port).unwrap();
    wait_for("the room again", &janus, || sender.is_running());
    let bus = sender.0.bus().unwrap();
    let error = bus.pop_filtered(&[gst::MessageType::Error]);
    assert!(error.is_none(), "{error:?}");
}
