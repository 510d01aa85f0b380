// SPDX-License-Identifier: MPL-2.0
//! A sender whose encoder is too slow for the source.

mod common;

use common::*;
use gst::prelude::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Each picture takes that much longer in the encoder. How old each is when it comes
/// there, in ms.
fn slow_down(sender: &Pipeline, by: Duration) -> Arc<Mutex<Vec<u64>>> {
    let sink: gst::Bin = sender.element("sink").downcast().unwrap();
    let encoder = sink.by_name("encoder").unwrap();
    let ages = Arc::new(Mutex::new(Vec::new()));
    let (seen, pad) = (ages.clone(), encoder.static_pad("sink").unwrap());
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let (now, pts) = (encoder.current_running_time(), info.buffer().unwrap().pts());
        if let (Some(now), Some(pts)) = (now, pts) {
            seen.lock()
                .unwrap()
                .push(now.saturating_sub(pts).mseconds());
        }
        std::thread::sleep(by);
        gst::PadProbeReturn::Ok
    });
    ages
}

#[test]
fn with_a_slow_encoder_pictures_are_left_out_not_late() {
    let sender = sender(LIVE, "");
    let ages = slow_down(&sender, Duration::from_millis(60));
    let sender = sender.play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let _receiver = receiver.play();
    // If each of 30 a second waited for the one before, they would be 3 s late by
    // the end.
    wait_for("110 pictures", || seen.count() >= 110);
    let ages = ages.lock().unwrap();
    let mut last = ages[ages.len() - 30..].to_vec();
    last.sort_unstable();
    assert!(last[15] < 400, "median of the last 30: {} ms", last[15]);
    assert!(sender.stat::<u64>("sink", "pictures-late") >= 60);
    let bus = sender.0.bus().unwrap();
    let warning = bus.pop_filtered(&[gst::MessageType::Warning]).unwrap();
    let gst::MessageView::Warning(warning) = warning.view() else {
        unreachable!()
    };
    let text = warning.error().to_string();
    assert!(text.contains("encoder is too slow"), "{text}");
    assert!(bus.pop_filtered(&[gst::MessageType::Warning]).is_none());
    sender.assert_no_error();
}
