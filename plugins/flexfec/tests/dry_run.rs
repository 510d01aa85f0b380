// SPDX-License-Identifier: MPL-2.0
//! rtpflexfecenc as the one that decides for another FEC encoder.

mod common;

use common::*;
use gst::prelude::*;
use gst_check::Harness;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Flags of the dual-stream extension, version 1.
const DELTA: u8 = 0x40;
const KEY: u8 = 0x48;

struct Fixture {
    element: gst::Element,
    h: Harness,
    seq: u16,
}

impl Fixture {
    fn new(properties: &str) -> Self {
        init();
        let element =
            gst::parse::launch(&format!("rtpflexfecenc dry-run=true {properties}")).unwrap();
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.use_testclock();
        h.play();
        h.set_src_caps(caps());
        Self { element, h, seq: 0 }
    }

    /// Frames of five packets each; what comes out of the last.
    fn frames(&mut self, count: u32, flags: u8) -> Vec<gst::Buffer> {
        let mut out = Vec::new();
        for _ in 0..count {
            for n in 0..5 {
                let packet = Packet {
                    seq: self.seq,
                    timestamp: u32::from(self.seq / 5) * 3000,
                    marker: n == 4,
                    frame: Some(flags),
                    size: 1000,
                    ..Packet::default()
                };
                self.seq += 1;
                self.h.push(packet.buffer()).unwrap();
            }
            out = std::iter::from_fn(|| self.h.try_pull()).collect();
        }
        out
    }

    /// What is left of this target.
    fn target(&mut self, target: u64, loss: f64) -> u64 {
        let s = gst::Structure::builder(ESTIMATE)
            .field("target-bitrate", target)
            .field("loss", loss)
            .field("rtt", 300_000_000u64)
            .build();
        let pad = self.element.static_pad("src").unwrap();
        assert!(pad.send_event(gst::event::CustomUpstream::new(s)));
        std::iter::from_fn(|| self.h.try_pull_upstream_event())
            .filter_map(|event| event.structure()?.get("target-bitrate").ok())
            .last()
            .unwrap()
    }

    fn recommended(&self) -> (u32, u32) {
        (
            self.element.property("recommended-percentage"),
            self.element.property("recommended-percentage-key"),
        )
    }
}

#[test]
fn it_says_what_it_does_not_make_and_lowers_the_target_for_it() {
    let mut fixture = Fixture::new("pt=110 controller=fixed percentage=20 percentage-key=60");
    let told = Arc::new(AtomicU32::new(0));
    let hears = told.clone();
    fixture
        .element
        .connect_notify(Some("recommended-percentage"), move |_, _| {
            hears.fetch_add(1, Ordering::SeqCst);
        });
    assert_eq!(fixture.frames(10, DELTA).len(), 5, "media only");
    assert_eq!(fixture.recommended(), (20, 60));
    assert_eq!(told.load(Ordering::SeqCst), 1, "on change only");
    // A fifth more than media: 1.2 Mbit/s are 1 and 0.2. The other encoder's
    // packets are as large as the media's.
    let media = fixture.target(1_200_000, 0.0);
    assert!((980_000..=1_020_000).contains(&media), "{media}");
    assert_eq!(stat(&fixture.element, "fec-packets"), 0);
    fixture.element.set_property("dry-run", false);
    fixture.element.set_property("pt", 255u32);
    fixture.frames(1, DELTA);
    assert_eq!(fixture.recommended(), (0, 0), "switched off");
}

#[test]
fn the_recommendation_follows_losses() {
    let mut fixture = Fixture::new("nack=false");
    fixture.frames(30, DELTA);
    assert_eq!(fixture.recommended(), (0, 0));
    fixture.target(2_000_000, 0.1);
    let clock = fixture.h.testclock().unwrap();
    for _ in 0..30 {
        clock.advance_time(33_000_000);
        fixture.target(2_000_000, 0.1);
        fixture.frames(1, DELTA);
    }
    let (delta, _) = fixture.recommended();
    assert!((15..=50).contains(&delta), "{delta} % at 10 % loss");
}

#[test]
fn packets_of_key_frames_are_marked_and_no_others() {
    let mut fixture = Fixture::new("");
    for (flags, marked) in [(KEY, true), (DELTA, false)] {
        let out = fixture.frames(1, flags);
        assert_eq!(out.len(), 5);
        for buffer in out {
            let is = buffer.flags().contains(gst::BufferFlags::NON_DROPPABLE);
            assert_eq!(is, marked);
        }
    }
    // In lists too.
    let list: gst::BufferList = (0..5)
        .map(|n| {
            Packet {
                seq: 100 + n,
                timestamp: 90_000,
                marker: n == 4,
                frame: Some(KEY),
                ..Packet::default()
            }
            .buffer()
        })
        .collect();
    let peer = fixture.element.static_pad("sink").unwrap().peer().unwrap();
    peer.push_list(list).unwrap();
    let out: Vec<_> = std::iter::from_fn(|| fixture.h.try_pull()).collect();
    assert_eq!(out.len(), 5);
    assert!(
        out.iter()
            .all(|b| b.flags().contains(gst::BufferFlags::NON_DROPPABLE))
    );
}
