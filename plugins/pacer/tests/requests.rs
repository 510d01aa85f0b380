// SPDX-License-Identifier: MPL-2.0
//! Requests for retransmission through rtppacer, on a clock that moves only when
//! the test says so.

use std::sync::Once;

use gst::prelude::*;
use gst_check::{Harness, TestClock};

const REQUEST: &str = "GstRTPRetransmissionRequest";
const SSRC: u32 = 1;

struct Fixture {
    pacer: gst::Element,
    clock: TestClock,
    h: Harness,
}

impl Fixture {
    fn new(line: &str) -> Self {
        static INIT: Once = Once::new();
        INIT.call_once(|| {
            gst::init().unwrap();
            gstpacer::plugin_register_static().unwrap();
        });
        let mut h = Harness::new_parse(line);
        h.use_testclock();
        h.play();
        let caps = gst::Caps::builder("application/x-rtp")
            .field("media", "video")
            .field("encoding-name", "H264")
            .field("payload", 96i32)
            .field("clock-rate", 90_000i32)
            .build();
        h.set_src_caps(caps);
        Self {
            pacer: h.find_element("rtppacer").unwrap(),
            clock: h.testclock().unwrap(),
            h,
        }
    }

    /// 1250 bytes with IP and UDP.
    fn push(&mut self, sequence: u16) {
        let mut data = vec![0x80, 96];
        data.extend(sequence.to_be_bytes());
        data.extend([0; 4]);
        data.extend(SSRC.to_be_bytes());
        data.resize(1222, 0xaa);
        let buffer = gst::Buffer::from_mut_slice(data);
        assert_eq!(self.h.push(buffer), Ok(gst::FlowSuccess::Ok));
    }

    fn set_ms(&self, ms: u64) {
        let time = gst::ClockTime::from_mseconds(ms);
        self.clock.set_time(time);
        while self.clock.next_entry_time().is_some_and(|at| at <= time)
            && self.clock.process_next_clock_id().is_some()
        {}
    }

    fn upstream(&self, s: gst::Structure) -> bool {
        let pad = self.pacer.static_pad("src").unwrap();
        pad.send_event(gst::event::CustomUpstream::new(s))
    }

    fn ask(&self, ssrc: u32, sequence: u16) {
        let s = gst::Structure::builder(REQUEST)
            .field("seqnum", u32::from(sequence))
            .field("ssrc", ssrc)
            .build();
        assert!(self.upstream(s));
    }

    fn estimate(&self, target: u64, rtt_ms: u64) {
        let s = gst::Structure::builder("application/x-network-estimate")
            .field("target-bitrate", target)
            .field("rtt", rtt_ms * 1_000_000)
            .build();
        self.upstream(s);
    }

    /// What was passed on since, by sequence number.
    fn passed_on(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.h.try_pull_upstream_event())
            .filter_map(|event| {
                let s = event.structure().filter(|s| s.has_name(REQUEST))?;
                s.get("seqnum").ok()
            })
            .collect()
    }

    fn requests(&self, name: &str) -> u64 {
        let stats: gst::Structure = self.pacer.property("stats");
        let requests: gst::Structure = stats.get("requests").unwrap();
        requests.get(name).unwrap()
    }

    #[track_caller]
    fn assert_accounted(&self) {
        let all = [
            "answered",
            "not-sent",
            "too-late",
            "repeated",
            "over-budget",
            "flushed",
            "waiting",
        ];
        let sum: u64 = all.iter().map(|name| self.requests(name)).sum();
        assert_eq!(self.requests("requested"), sum);
    }
}

/// Number of the retransmission, and of what it repeats.
fn retransmission(buffer: &gst::Buffer) -> (u16, u16) {
    let map = buffer.map_readable().unwrap();
    assert_eq!(map[1] & 0x7f, 97, "a retransmission");
    let at = |n: usize| u16::from_be_bytes([map[n], map[n + 1]]);
    (at(2), at(12))
}

#[test]
fn what_is_asked_for_after_an_outage_is_sent_by_the_estimate_and_without_a_gap() {
    let mut f = Fixture::new(
        "rtprtxsend payload-type-map=\"map,96=(uint)97\" max-size-packets=1000 \
         ! rtppacer bitrate=100000000 burst-interval=0 queue-time-limit=0",
    );
    for n in 0..200 {
        f.set_ms(10 * u64::from(n));
        f.push(n);
        f.h.pull().unwrap();
    }
    f.set_ms(2000);
    f.estimate(30_000, 80);
    for _ in 0..3 {
        for n in 0..200 {
            f.ask(SSRC, n);
        }
    }
    assert_eq!(f.requests("answered"), 0, "all of them are gathered first");
    // 15 kbit/s: two packets of 10 kbit in the second in which they are of use.
    f.set_ms(2002);
    let (first, what) = retransmission(&f.h.pull().unwrap());
    assert_eq!(what, 198);
    f.set_ms(2669);
    assert_eq!(f.requests("answered"), 1);
    f.set_ms(2671);
    let second = retransmission(&f.h.pull().unwrap());
    assert_eq!(second, (first.wrapping_add(1), 199));
    f.set_ms(4000);
    assert!(f.h.try_pull().is_none());
    assert_eq!((f.requests("requested"), f.requests("answered")), (600, 2));
    // A second and the round trip: from 920 ms on.
    assert_eq!(f.requests("too-late"), 3 * 93);
    assert_eq!(f.requests("waiting"), 0);
    assert!(f.requests("over-budget") >= 105);
    f.assert_accounted();
}

#[test]
fn a_packet_that_is_still_queued_is_not_asked_for() {
    let mut f = Fixture::new("rtppacer bitrate=1000000 pacing-factor=1 burst-interval=0");
    f.push(0);
    f.push(1);
    f.h.pull().unwrap();
    f.ask(SSRC, 0);
    f.ask(SSRC, 1);
    // Not of ours: for others to say.
    f.ask(9, 1);
    assert_eq!(f.passed_on(), [0, 1]);
    assert_eq!(f.requests("requested"), 2);
    assert_eq!((f.requests("answered"), f.requests("not-sent")), (1, 1));
    f.assert_accounted();
}

#[test]
fn the_properties_hold_for_what_is_asked_for_next() {
    let mut f = Fixture::new("rtppacer bitrate=1000000 pacing-factor=1 burst-interval=0");
    f.push(0);
    f.h.pull().unwrap();
    f.set_ms(500);
    f.pacer.set_property("retransmission-max-age", 499u32);
    f.ask(SSRC, 0);
    assert_eq!((f.passed_on(), f.requests("too-late")), (vec![], 1));
    f.pacer.set_property("retransmission-max-age", 501u32);
    f.pacer.set_property("retransmission-share", 0.0);
    f.ask(SSRC, 0);
    assert_eq!((f.passed_on(), f.requests("over-budget")), (vec![], 1));
    f.pacer.set_property("retransmission-share", 0.25);
    f.ask(SSRC, 0);
    assert_eq!(f.passed_on(), [0]);
    // After a flush it is not known any more.
    f.h.push_event(gst::event::FlushStart::new());
    f.h.push_event(gst::event::FlushStop::builder(true).build());
    f.ask(SSRC, 0);
    assert_eq!(f.passed_on(), [0]);
    assert_eq!(f.requests("requested"), 3);
    f.assert_accounted();
}
