// SPDX-License-Identifier: MPL-2.0
//! Latency by parts, as docs/latency.md names them.

mod common;

use common::*;
use gst::prelude::*;

const PARTS: [&str; 6] = [
    "encode",
    "pacer",
    "network",
    "jitter-buffer",
    "decode",
    "render",
];

fn part(s: &gst::StructureRef, name: &str, field: &str) -> Option<u64> {
    s.get::<gst::Structure>(name).ok()?.get::<u64>(field).ok()
}

fn shown(uri: &str, properties: &str, sink: &str) -> Pipeline {
    Pipeline::new(&format!(
        "dualwebrtcsrc name=src signaller::uri={uri} {properties} ! fakesink name=out {sink}"
    ))
}

#[test]
fn the_parts_of_a_call_are_told_and_add_up() {
    let sender = sender(LIVE, "").play();
    let receiver = shown(&uri(&sender, "sink"), "", "sync=true qos=true");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("150 pictures", || seen.count() >= 150);
    let stats: gst::Structure = receiver.stats("src").get("latency").unwrap();
    assert_eq!(stats.get::<&str>("clock"), Ok("rtcp"), "{stats}");
    let offset = stats.get::<i64>("clock-offset").unwrap();
    let error = stats.get::<u64>("clock-error").unwrap();
    // The sender's clock is ours.
    assert!(offset.unsigned_abs() <= error + 100_000, "{stats}");
    for name in PARTS {
        let [last, p50, p95, count] = ["last", "p50", "p95", "count"]
            .map(|field| part(&stats, name, field).unwrap_or_else(|| panic!("{name} in {stats}")));
        assert!(p50 <= p95 && p95 < 2_000_000_000, "{name}: {stats}");
        assert!(last < 2_000_000_000 && count >= 60, "{name}: {stats}");
    }
    let total = part(&stats, "total", "p50").unwrap() as f64 / 1e6;
    let sum: f64 = PARTS
        .iter()
        .map(|name| part(&stats, name, "p50").unwrap() as f64 / 1e6)
        .sum();
    // Medians do not add up, but nearly.
    assert!((sum - total).abs() < 5.0 + total / 4.0, "{sum} ms: {stats}");
    // The same by what was seen of the pictures themselves, without render.
    let decoded = total - part(&stats, "render", "p50").unwrap() as f64 / 1e6;
    let median = seen.median_latency().unwrap();
    assert!(
        (decoded - median).abs() < 5.0 + median / 4.0,
        "{median}: {stats}"
    );
    let ours: gst::Structure = sender.stats("sink").get("latency").unwrap();
    for name in ["encode", "pacer"] {
        let [here, there] = [&ours, &stats].map(|s| part(s, name, "p50").unwrap());
        // Each of the sender's times is rounded to a ms.
        assert!(here.abs_diff(there) < 2_500_000, "{name}: {ours} {stats}");
    }
    let bus = receiver.0.bus().unwrap();
    let is_told = |message: &gst::Message| {
        message
            .structure()
            .is_some_and(|s| s.name() == "application/x-frame-latency")
    };
    let message = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Element]))
        .find(is_told)
        .expect("a message each second");
    let told = message.structure().unwrap();
    assert!(part(told, "decode", "p95").is_some());
}

#[test]
fn without_a_sink_that_synchronises_there_is_no_render() {
    let sender = sender(LIVE, "").play();
    let receiver = shown(&uri(&sender, "sink"), "", "sync=false");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("60 pictures", || seen.count() >= 60);
    let stats: gst::Structure = receiver.stats("src").get("latency").unwrap();
    assert!(!stats.has_field("render"), "{stats}");
    assert!(part(&stats, "total", "count").unwrap() >= 30, "{stats}");
}
