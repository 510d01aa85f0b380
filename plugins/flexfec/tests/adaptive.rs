// SPDX-License-Identifier: MPL-2.0
//! rtpflexfecenc that follows the network, on a clock that moves only when the
//! test says so.

mod common;

use common::*;
use gst::glib;
use gst::prelude::*;
use gst_check::{Harness, TestClock};

/// Of IP and UDP.
const OVERHEAD: u64 = 28;

struct Fixture {
    element: gst::Element,
    clock: TestClock,
    h: Harness,
    out: Outlet,
    /// Number of the next packet.
    seq: u16,
    /// Number of the next packet in transport-wide feedback.
    reported: u32,
    frames: u64,
    /// Frames end with a marker.
    markers: bool,
}

impl Fixture {
    fn new(properties: &str) -> Self {
        init();
        let description = format!("rtpflexfecenc pt={FEC_PT} {properties}");
        let element = gst::parse::launch(&description).unwrap();
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.use_testclock();
        let out = Outlet::of(&element.static_pad("src").unwrap());
        h.play();
        h.set_src_caps(caps());
        Self {
            clock: h.testclock().unwrap(),
            element,
            h,
            out,
            seq: 0,
            reported: 0,
            frames: 0,
            markers: true,
        }
    }

    fn stat(&self, name: &str) -> u64 {
        stat(&self.element, name)
    }

    fn gauge(&self, name: &str) -> f64 {
        stats(&self.element).get(name).unwrap()
    }

    fn send_up(&self, s: gst::Structure) {
        let pad = self.element.static_pad("src").unwrap();
        assert!(pad.send_event(gst::event::CustomUpstream::new(s)));
    }

    fn estimate(&self, target: u64, loss: f64, rtt_ms: u64) {
        self.send_up(
            gst::Structure::builder(ESTIMATE)
                .field("target-bitrate", target)
                .field("pacing-bitrate", 5 * target)
                .field("loss", loss)
                .field("rtt", rtt_ms * 1_000_000)
                .build(),
        );
    }

    /// Transport-wide feedback about the packets that come next.
    fn feedback(&mut self, arrived: impl IntoIterator<Item = bool>) {
        let packets: Vec<glib::Value> = arrived
            .into_iter()
            .map(|arrived| {
                let seqnum = self.reported & 0xffff;
                self.reported += 1;
                gst::Structure::builder("RTPTWCCPacket")
                    .field("seqnum", seqnum)
                    .field("lost", !arrived)
                    .build()
                    .to_value()
            })
            .collect();
        use gst::glib::translate::UnsafeFrom;
        let packets = glib::ValueArray::from_values(packets).to_value();
        // It has one owner, and stays on this thread.
        let packets = unsafe { glib::SendValue::unsafe_from(packets.into_raw()) };
        let mut s = gst::Structure::new_empty("RTPTWCCPackets");
        s.set_value("packets", packets);
        self.send_up(s);
    }

    fn targets(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.h.try_pull_upstream_event())
            .filter_map(|event| event.structure()?.get("target-bitrate").ok())
            .collect()
    }

    fn set_ms(&self, ms: u64) {
        self.clock.set_time(gst::ClockTime::from_mseconds(ms));
        while self
            .clock
            .next_entry_time()
            .is_some_and(|time| time.mseconds() <= ms)
            && self.clock.process_next_clock_id().is_some()
        {}
    }

    /// The time that the thread waits for. It may have begun to wait for one
    /// that had passed by then.
    fn next_wait(&self) -> gst::ClockTime {
        loop {
            let due = self.clock.wait_for_next_pending_id().time();
            let now = self.clock.time();
            if due > now {
                return due;
            }
            self.set_ms(now.mseconds());
        }
    }

    /// A frame of so many packets of this size, 30 a second.
    fn frame(&mut self, packets: u16, size: usize) {
        let now = self.clock.time().mseconds();
        self.set_ms(now.max(self.frames * 1000 / 30));
        for n in 0..packets {
            let packet = Packet {
                seq: self.seq,
                timestamp: self.frames as u32 * 3000,
                marker: self.markers && n + 1 == packets,
                // Not a key frame.
                frame: Some(0x40),
                size,
                ..Packet::default()
            };
            self.seq = self.seq.wrapping_add(1);
            self.h.push(packet.buffer()).unwrap();
        }
        self.frames += 1;
    }

    /// Bytes on the link of media and of FEC that have come out.
    fn spent(&self) -> (u64, u64) {
        let (mut media, mut fec) = (0, 0);
        for buffer in self.out.packets() {
            let bytes = bytes(&buffer);
            let sum = if pt(&bytes) == FEC_PT {
                &mut fec
            } else {
                &mut media
            };
            *sum += bytes.len() as u64 + OVERHEAD;
        }
        (media, fec)
    }
}

#[test]
fn without_loss_nothing_is_spent() {
    let mut f = Fixture::new("");
    f.estimate(2_000_000, 0.0, 200);
    for _ in 0..60 {
        f.frame(6, 1000);
    }
    let (media, fec) = f.spent();
    assert!(media > 0);
    assert_eq!(fec, 0);
    assert_eq!(f.stat("unprotected"), 360);
    assert_eq!(f.targets(), [2_000_000], "and all is left for media");
}

/// An encoder that obeys the event leaves room for FEC.
#[test]
fn media_and_fec_stay_within_the_target() {
    const TARGET: u64 = 2_000_000;
    let mut f = Fixture::new("nack=false");
    let mut media_rate = TARGET;
    let mut sums = (0, 0);
    for second in 0..12 {
        for n in 0..30 {
            if n % 3 == 0 {
                f.estimate(TARGET, 0.05, 200);
                // Losses of one packet each.
                f.feedback((0..20).map(|n| n != 7));
            }
            media_rate = f.targets().last().copied().unwrap_or(media_rate);
            // What the encoder makes of it, in packets of a size.
            let packets = (media_rate / 8 / 30).div_ceil(1200) as u16;
            let size = (media_rate / 8 / 30) / u64::from(packets) - OVERHEAD;
            f.frame(packets, size as usize);
        }
        let (media, fec) = f.spent();
        // It needs some feedback first.
        if second >= 2 {
            sums = (sums.0 + media, sums.1 + fec);
        }
    }
    let rate = |bytes: u64| bytes * 8 / 10;
    let (media, fec) = (rate(sums.0), rate(sums.1));
    assert!(media + fec <= TARGET * 101 / 100, "{media} + {fec} bit/s");
    assert!(media + fec >= TARGET * 90 / 100, "{media} + {fec} bit/s");
    assert!(fec >= TARGET / 20, "5 % are lost: {fec} bit/s");
    assert_eq!(f.stat("target-bitrate"), TARGET);
    assert!(f.stat("media-bitrate") < TARGET);
}

#[test]
fn the_estimate_is_sent_again_when_the_share_of_fec_changes() {
    for markers in [true, false] {
        let mut f = Fixture::new("nack=false");
        f.markers = markers;
        f.estimate(2_000_000, 0.0, 200);
        for _ in 0..30 {
            f.frame(6, 1000);
        }
        assert_eq!(f.targets(), [2_000_000]);
        // Loss that only the feedback tells of.
        let mut targets = Vec::new();
        for _ in 0..60 {
            f.feedback((0..20).map(|n| n != 7));
            f.frame(6, 1000);
            targets.append(&mut f.targets());
        }
        let last = *targets.last().expect("it was sent again");
        assert!((1_000_000..1_950_000).contains(&last), "{last}");
        assert!(targets.len() <= 20, "100 ms apart at least: {targets:?}");
    }
}

#[test]
fn bursts_are_seen_in_the_feedback() {
    let mut f = Fixture::new("nack=false");
    f.estimate(2_000_000, 0.1, 200);
    for _ in 0..60 {
        f.feedback((0..20).map(|n| !(5..9).contains(&n)));
        f.frame(6, 1000);
    }
    let burst = f.gauge("burst");
    assert!((2.5..6.0).contains(&burst), "four in a row: {burst}");
    let loss = f.gauge("loss");
    assert!((0.1..0.3).contains(&loss), "a fifth: {loss}");
}

/// The last frames of a block wait for no frame that does not come.
#[test]
fn a_block_that_waits_for_frames_is_protected_in_time() {
    let mut f = Fixture::new("nack=false deadline=1000");
    for _ in 0..90 {
        f.estimate(500_000, 0.05, 20);
        f.frame(2, 600);
    }
    let frames = f.stat("frames-per-block");
    assert!(frames > 1, "small frames are grouped: {frames}");
    // Until a block has just begun.
    while f.stat("held") == 0 {
        f.frame(2, 600);
    }
    f.out.take();
    let due = f.next_wait();
    let now = f.clock.time();
    assert!(due > now, "{due} after {now}");
    assert!(due < now + gst::ClockTime::from_mseconds(1000));
    // That may have been a wait for an earlier block, which a frame ended.
    let limit = now.mseconds() + 1000;
    wait_for("FEC", || {
        if let Some(next) = f.clock.next_entry_time()
            && next.mseconds() < limit
        {
            let now = f.clock.time().mseconds();
            f.set_ms(now.max(next.mseconds() + 1));
        }
        f.stat("held") == 0
    });
    assert_eq!(
        f.stat("media-packets"),
        f.stat("protected") + f.stat("unprotected")
    );
    wait_for("FEC packets", || !f.out.fec().is_empty());
    // Held packets do not keep it from stopping.
    while f.stat("held") == 0 {
        f.frame(2, 600);
    }
    f.clock.wait_for_next_pending_id();
    f.element.set_state(gst::State::Ready).unwrap();
}

/// A flush while the thread waits for its time.
#[test]
fn a_flush_ends_the_wait() {
    let mut f = Fixture::new("nack=false deadline=1000");
    for _ in 0..90 {
        f.estimate(500_000, 0.05, 20);
        f.frame(2, 600);
    }
    while f.stat("held") == 0 {
        f.frame(2, 600);
    }
    let due = f.next_wait();
    assert!(f.h.push_event(gst::event::FlushStart::new()));
    assert!(f.h.push_event(gst::event::FlushStop::new(true)));
    wait_for("no wait", || f.clock.peek_id_count() == 0);
    f.out.take();
    f.set_ms(due.mseconds() + 100);
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(f.h.push_event(gst::event::Segment::new(&segment)));
    assert_eq!(f.out.words(), ["segment"], "nothing of what was held");
}
