// SPDX-License-Identifier: MPL-2.0
//! Several receivers of one dualwebrtcsink: they come and go, and the others see
//! nothing of it.

mod common;

use common::*;
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the sink says of each receiver.
fn receivers(sender: &Pipeline) -> Vec<gst::Structure> {
    let array: gst::Array = sender.stats("sink").get("receivers").unwrap();
    array.iter().map(|v| v.get().unwrap()).collect()
}

fn encoders(sender: &Pipeline) -> Vec<String> {
    let mut names: Vec<String> = receivers(sender)
        .iter()
        .filter_map(|receiver| receiver.get("encoder").ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn encoder_stat(sender: &Pipeline, field: &str) -> u64 {
    let encoder: gst::Structure = sender.stats("sink").get("encoder").unwrap();
    encoder.get(field).unwrap()
}

/// Longest time between two pictures, in ms.
struct Gaps(Arc<AtomicU64>);

impl Gaps {
    fn watch(receiver: &Pipeline) -> Self {
        let (longest, last) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
        let start = std::time::Instant::now();
        let gap = longest.clone();
        let pad = receiver.element("out").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let now = start.elapsed().as_millis() as u64 + 1;
            let before = last.swap(now, Ordering::SeqCst);
            if before != 0 {
                gap.fetch_max(now - before, Ordering::SeqCst);
            }
            gst::PadProbeReturn::Ok
        });
        Self(longest)
    }

    fn longest(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn receivers_share_an_encoder_and_come_and_go_without_a_key_frame_for_the_others() {
    let sender = sender(LIVE, "encoder::refresh-interval=0").play();
    let uri = uri(&sender, "sink");
    let first = receiver(&uri, "");
    let (seen, gaps) = (first.watch("out"), Gaps::watch(&first));
    let first = first.play();
    wait_for("pictures for the first", || seen.count() >= 60);
    assert_eq!(encoder_stat(&sender, "display-key-frames"), 1);
    for round in 0..3 {
        let other = receiver(&uri, "");
        let others = other.watch("out");
        let other = other.play();
        wait_for("pictures for the other", || others.count() >= 45);
        assert_eq!(receivers(&sender).len(), 2, "round {round}");
        assert_eq!(
            encoders(&sender),
            ["encoder"],
            "both are served by one encoder"
        );
        other.stop();
        wait_for("the other's end", || receivers(&sender).len() == 1);
        other.assert_no_error();
    }
    let before = seen.count();
    wait_for("more pictures for the first", || seen.count() > before + 30);
    assert_eq!(
        encoder_stat(&sender, "display-key-frames"),
        1,
        "no key frame was shown for those who came and went"
    );
    assert!(
        encoder_stat(&sender, "background-key-frames") >= 3,
        "each was served in the background"
    );
    assert!(
        gaps.longest() < 500,
        "{} ms without a picture",
        gaps.longest()
    );
    assert_eq!(sender.stat::<u64>("sink", "sessions"), 4);
    first.assert_no_error();
    sender.assert_no_error();
}

#[test]
fn without_sharing_each_has_an_encoder_which_goes_with_it() {
    let sender = sender(LIVE, "encoder-sharing=none encoder::max-catch-up-frames=2").play();
    let uri = uri(&sender, "sink");
    let started: Vec<_> = (0..3)
        .map(|_| {
            let receiver = receiver(&uri, "");
            let seen = receiver.watch("out");
            (receiver.play(), seen)
        })
        .collect();
    for (_, seen) in &started {
        wait_for("pictures", || seen.count() >= 30);
    }
    assert_eq!(encoders(&sender).len(), 3);
    let sink: gst::Bin = sender.element("sink").downcast().unwrap();
    let made: Vec<_> = sink
        .children()
        .into_iter()
        .filter(|child| child.factory().is_some_and(|f| f.name() == "dualh264enc"))
        .collect();
    assert_eq!(made.len(), 3);
    for encoder in &made {
        assert_eq!(encoder.property::<u32>("max-catch-up-frames"), 2);
    }
    let first = made.iter().find(|e| e.name() == "encoder").unwrap();
    // The user sets all of them by the first.
    first.set_property("max-catch-up-frames", 1u32);
    first.set_property("bitrate", 400_000u32);
    for encoder in &made {
        assert_eq!(encoder.property::<u32>("max-catch-up-frames"), 1);
        assert!(encoder.property::<u32>("bitrate") <= 400_000);
    }
    drop(made);
    // The first one goes, the others stay.
    let mut started = started.into_iter();
    let (gone, _) = started.next().unwrap();
    gone.stop();
    wait_for("the end of the first", || receivers(&sender).len() == 2);
    for (receiver, seen) in started {
        let before = seen.count();
        wait_for("more pictures", || seen.count() > before + 30);
        receiver.assert_no_error();
        receiver.stop();
    }
    wait_for("the end of all", || receivers(&sender).is_empty());
    let left = sink.children().into_iter();
    let left: Vec<_> = left.map(|child| child.name().to_string()).collect();
    assert!(
        !left
            .iter()
            .any(|n| n.starts_with("encoder-") || n.starts_with("session-")),
        "{left:?}"
    );
    sender.assert_no_error();
}

#[test]
fn all_are_told_of_the_end() {
    let source = "videotestsrc num-buffers=90 ! video/x-raw,width=320,height=180,framerate=30/1";
    let sender = sender(source, "wait-for-receiver=true").play();
    let uri = uri(&sender, "sink");
    let receivers: Vec<_> = (0..2)
        .map(|_| {
            let receiver = receiver(&uri, "eos-on-end=true");
            let seen = receiver.watch("out");
            (receiver.play(), seen)
        })
        .collect();
    sender.wait_eos();
    for (receiver, seen) in &receivers {
        receiver.wait_eos();
        assert!(seen.count() >= 30, "{} pictures", seen.count());
    }
}
