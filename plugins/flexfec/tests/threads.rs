// SPDX-License-Identifier: MPL-2.0
//! rtpflexfecenc with everything at once: media, feedback, properties, flushes,
//! the thread that protects in time, and changes of state.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use gst::prelude::*;

fn push_events(src: &gst::Pad) {
    for event in [
        gst::event::StreamStart::new("media"),
        gst::event::Caps::new(&caps()),
        gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()),
    ] {
        src.push_event(event);
    }
}

/// A pad on each side, and a clock that runs.
fn connect(enc: &gst::Element) -> (gst::Pad, gst::Pad, Arc<AtomicU64>) {
    let arrived = Arc::<AtomicU64>::default();
    let counter = arrived.clone();
    let src = gst::Pad::builder(gst::PadDirection::Src).build();
    let templ = gst::PadTemplate::new(
        "sink",
        gst::PadDirection::Sink,
        gst::PadPresence::Always,
        &gst::Caps::new_any(),
    )
    .unwrap();
    let sink = gst::Pad::builder_from_template(&templ)
        .chain_function(move |_, _, buffer| {
            let is_fec = pt(&bytes(&buffer)) == FEC_PT;
            counter.fetch_add(u64::from(is_fec), Ordering::Relaxed);
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(|_, _, _| true)
        .build();
    src.link(&enc.static_pad("sink").unwrap()).unwrap();
    enc.static_pad("src").unwrap().link(&sink).unwrap();
    for pad in [&src, &sink] {
        pad.set_active(true).unwrap();
    }
    let clock = gst::SystemClock::obtain();
    enc.set_clock(Some(&clock)).unwrap();
    enc.set_base_time(clock.time());
    (src, sink, arrived)
}

/// Nothing of this may lock up; that it ends is the test.
#[test]
fn threads_do_not_wait_for_each_other_for_ever() {
    init();
    // Small frames far apart are grouped, so the thread has something to do.
    let enc =
        gst::parse::launch("rtpflexfecenc pt=110 nack=false deadline=40 target-residual=0.01")
            .unwrap();
    let (src, sink, arrived) = connect(&enc);
    enc.set_state(gst::State::Playing).unwrap();
    push_events(&src);
    let stop = AtomicBool::new(false);
    let number = AtomicU16::new(0);
    // No packets between a flush and its segment.
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let spawn = |work: &(dyn Fn() + Sync)| {
            while !stop.load(Ordering::Relaxed) {
                work();
            }
        };
        let media = || {
            let seq = number.fetch_add(1, Ordering::Relaxed);
            let packet = Packet {
                seq,
                timestamp: u32::from(seq) * 900,
                marker: true,
                frame: Some(0x40),
                ..Packet::default()
            };
            let open = gate.lock().unwrap();
            let _ = src.push(packet.buffer());
            drop(open);
            std::thread::sleep(Duration::from_micros(500));
        };
        let network = || {
            let s = gst::Structure::builder(ESTIMATE)
                .field("target-bitrate", 2_000_000u64)
                .field("loss", 0.1f64)
                .field("rtt", 30_000_000u64)
                .build();
            sink.push_event(gst::event::CustomUpstream::new(s));
            std::thread::sleep(Duration::from_micros(700));
        };
        let application = || {
            for ssrc in [5u32, 6] {
                enc.set_property("ssrc", ssrc);
                stats(&enc);
                std::thread::sleep(Duration::from_millis(3));
            }
        };
        scope.spawn(move || spawn(&media));
        scope.spawn(move || spawn(&network));
        scope.spawn(move || spawn(&application));
        for round in 0..40 {
            std::thread::sleep(Duration::from_millis(20));
            if round % 8 == 7 {
                let state = [gst::State::Ready, gst::State::Null][round / 8 % 2];
                enc.set_state(state).unwrap();
                let _closed = gate.lock().unwrap();
                enc.set_state(gst::State::Playing).unwrap();
                push_events(&src);
            } else {
                src.push_event(gst::event::FlushStart::new());
                let _closed = gate.lock().unwrap();
                src.push_event(gst::event::FlushStop::new(true));
                push_events(&src);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(arrived.load(Ordering::Relaxed) > 0, "it was protected");
    enc.set_state(gst::State::Null).unwrap();
}
