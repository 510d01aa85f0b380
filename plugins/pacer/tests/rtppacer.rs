// SPDX-License-Identifier: MPL-2.0
//! rtppacer, mostly on a clock that moves only when the test says so.

use std::sync::Once;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_check::{Harness, TestClock};

const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
const TWCC_URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const ESTIMATE: &str = "application/x-network-estimate";

/// With 28 bytes of IP and UDP a packet is 1250 bytes: 10 ms at 1 Mbit/s.
const SIZE: usize = 1250 - 28;

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstpacer::plugin_register_static().unwrap();
    });
}

fn caps() -> gst::Caps {
    init();
    gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("encoding-name", "H264")
        .field("payload", 96i32)
        .field("clock-rate", 90_000i32)
        .field("extmap-3", TWCC_URI)
        .field("extmap-4", FRAME_URI)
        .build()
}

/// A packet of [`SIZE`] with the frame extension under id 4.
fn packet(pt: u8, ssrc: u32, seq: u16, background: bool) -> gst::Buffer {
    init();
    let mut data = vec![0x90, pt];
    data.extend(seq.to_be_bytes());
    data.extend([0; 4]);
    data.extend(ssrc.to_be_bytes());
    data.extend([0xbe, 0xde, 0, 2]);
    data.extend([0x43, 0x40 | u8::from(background) << 4, 0, 1, 0, 0, 0, 0]);
    data.resize(SIZE, 0xaa);
    gst::Buffer::from_mut_slice(data)
}

fn video(seq: u16) -> gst::Buffer {
    packet(96, 1, seq, false)
}

fn seq(buffer: &gst::Buffer) -> u16 {
    let map = buffer.map_readable().unwrap();
    u16::from_be_bytes([map[2], map[3]])
}

/// The cluster that the packet is part of.
fn probe_id(buffer: &gst::BufferRef) -> Option<u32> {
    let meta = gst::meta::CustomMeta::from_buffer(buffer, "DualStreamProbe").ok()?;
    meta.structure().get("id").ok()
}

struct Fixture {
    element: gst::Element,
    clock: TestClock,
    h: Harness,
}

impl Fixture {
    /// `pacing` is the pacing rate in kbit/s; packets are spaced exactly.
    fn new(pacing: u64) -> Self {
        Self::with_caps(pacing, caps())
    }

    fn with_caps(pacing: u64, caps: gst::Caps) -> Self {
        let mut fixture = Self::silent(pacing);
        fixture.h.set_src_caps(caps);
        fixture
    }

    /// Nothing was pushed yet.
    fn silent(pacing: u64) -> Self {
        init();
        let element = gst::ElementFactory::make("rtppacer")
            .property("bitrate", pacing * 1000)
            .property("pacing-factor", 1.0)
            .property("burst-interval", 0u32)
            .property("queue-time-limit", 0u32)
            .build()
            .unwrap();
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.use_testclock();
        h.play();
        Self {
            clock: h.testclock().unwrap(),
            element,
            h,
        }
    }

    #[track_caller]
    fn push(&mut self, buffer: gst::Buffer) {
        assert_eq!(self.h.push(buffer), Ok(gst::FlowSuccess::Ok));
    }

    /// Waits for the element to wait, and says until when, in µs.
    fn waiting_until(&self) -> u64 {
        self.clock.wait_for_next_pending_id().time().useconds()
    }

    fn set_us(&self, us: u64) {
        self.clock.set_time(gst::ClockTime::from_useconds(us));
        while self
            .clock
            .next_entry_time()
            .is_some_and(|time| time.useconds() <= us)
            && self.clock.process_next_clock_id().is_some()
        {}
    }

    /// The next packet, after the wait for it, and the time of the clock.
    fn pull_next(&mut self) -> (u64, gst::Buffer) {
        let us = self.waiting_until();
        self.set_us(us);
        (us, self.h.pull().unwrap())
    }

    fn stats(&self) -> gst::Structure {
        self.element.property("stats")
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats().get(name).unwrap()
    }

    fn of(&self, priority: &str, name: &str) -> u64 {
        let s: gst::Structure = self.stats().get(priority).unwrap();
        s.get(name).unwrap()
    }

    /// Sends the event upstream into the source pad.
    fn estimate(&self, fill: impl FnOnce(&mut gst::StructureRef)) {
        let mut s = gst::Structure::new_empty(ESTIMATE);
        fill(&mut s);
        let pad = self.element.static_pad("src").unwrap();
        assert!(pad.send_event(gst::event::CustomUpstream::new(s)));
    }

    /// The events that have come out, up to one of this type.
    fn events_until(&mut self, last: gst::EventType) -> Vec<gst::Event> {
        let mut events = Vec::new();
        loop {
            let event = self.h.pull_event().unwrap();
            let type_ = event.type_();
            events.push(event);
            if type_ == last {
                return events;
            }
        }
    }
}

fn probe(id: u32, bitrate: u64, packets: u32, ms: u64) -> gst::Structure {
    gst::Structure::builder("probe")
        .field("id", id)
        .field("bitrate", bitrate)
        .field("packets", packets)
        .field("duration", ms * 1_000_000)
        .build()
}

#[test]
fn packets_leave_at_the_pacing_rate() {
    let mut f = Fixture::new(1000);
    for n in 0..4 {
        f.push(video(n));
    }
    assert_eq!(seq(&f.h.pull().unwrap()), 0, "the first at once");
    for n in 1..4 {
        let (us, buffer) = f.pull_next();
        assert_eq!((us, seq(&buffer)), (u64::from(n) * 10_000, n));
    }
    assert_eq!(f.stat("pacing-bitrate"), 1_000_000);
    assert_eq!(f.of("display", "sent-packets"), 4);
    assert_eq!(f.of("display", "waited"), 60_000_000);
}

#[test]
fn the_most_urgent_leaves_first() {
    let mut f = Fixture::new(1000);
    let roles: gst::Structure =
        "priorities,pt-111=audio,pt-110=fec,ssrc-9=padding,pt-97=(string)retransmission"
            .parse()
            .unwrap();
    f.element.set_property("priorities", roles);
    f.push(video(0));
    f.h.pull().unwrap();
    f.waiting_until_nothing();
    f.push(packet(96, 9, 6, false));
    f.push(packet(96, 2, 5, true));
    f.push(packet(110, 3, 4, false));
    f.push(video(3));
    f.push(packet(97, 4, 2, false));
    f.push(packet(111, 5, 1, false));
    assert_eq!(seq(&f.h.pull().unwrap()), 1, "audio at once");
    for n in 2..7 {
        assert_eq!(seq(&f.pull_next().1), n);
    }
    for (nick, sent) in [("audio", 1), ("retransmission", 1), ("fec", 1)] {
        assert_eq!(f.of(nick, "sent-packets"), sent, "{nick}");
    }
    assert_eq!(f.of("display", "sent-packets"), 2);
    assert_eq!(f.of("background", "sent-packets"), 1);
    assert_eq!(f.of("padding", "sent-packets"), 1);
}

impl Fixture {
    /// The element has nothing to do: no wait of the clock is pending.
    fn waiting_until_nothing(&self) {
        assert_eq!(self.clock.peek_id_count(), 0);
    }
}

#[test]
fn caps_tell_audio_retransmissions_and_fec() {
    for (fields, nick) in [
        ("media=audio,payload=111", "audio"),
        ("media=audio", "audio"),
        (
            "media=video,encoding-name=RTX,payload=111",
            "retransmission",
        ),
        ("media=video,encoding-name=FLEXFEC-03,payload=111", "fec"),
        ("rtx-payload=111", "retransmission"),
        ("media=video,payload=111", "display"),
        ("media=audio,payload=112", "display"),
    ] {
        init();
        let caps = format!("application/x-rtp,{fields}").parse().unwrap();
        let mut f = Fixture::with_caps(1000, caps);
        f.push(packet(111, 7, 0, false));
        f.h.pull().unwrap();
        assert_eq!(f.of(nick, "sent-packets"), 1, "{fields}");
    }
}

/// What waits in front of a display packet of its SSRC is promoted.
#[test]
fn the_order_of_one_ssrc_is_kept() {
    let mut f = Fixture::new(1000);
    f.push(packet(96, 2, 0, true));
    f.h.pull().unwrap();
    f.push(packet(96, 2, 1, true));
    f.push(packet(110, 3, 3, true));
    f.push(packet(96, 2, 2, false));
    for n in 1..4 {
        assert_eq!(seq(&f.pull_next().1), n);
    }
}

#[test]
fn an_estimate_is_obeyed_at_once_and_passed_on() {
    let mut f = Fixture::new(1000);
    f.push(video(0));
    f.push(video(1));
    f.h.pull().unwrap();
    assert_eq!(f.waiting_until(), 10_000);
    f.estimate(|s| {
        s.set("target-bitrate", 4_000_000u64);
        s.set("pacing-bitrate", 2_000_000u64);
    });
    let (us, _) = f.pull_next();
    assert_eq!(us, 5000);
    let event = std::iter::from_fn(|| f.h.try_pull_upstream_event())
        .find(|e| e.type_() == gst::EventType::CustomUpstream)
        .expect("it goes on upstream");
    assert!(event.structure().unwrap().has_name(ESTIMATE));
    // A property does not undo what was told.
    f.element.set_property("bitrate", 10u64);
    assert_eq!(f.stat("pacing-bitrate"), 2_000_000);
    // Wrong types are ignored.
    f.estimate(|s| s.set("pacing-bitrate", "fast"));
    assert_eq!(f.stat("pacing-bitrate"), 2_000_000);
    assert_eq!(f.stat("wrong-fields"), 1);
    f.estimate(|s| s.set("pacing-bitrate", 0u64));
    f.push(video(2));
    assert_eq!(f.of("display", "queued-packets"), 1, "zero holds");
}

#[test]
fn foreign_upstream_events_pass() {
    let mut f = Fixture::new(1000);
    let pad = f.element.static_pad("src").unwrap();
    let names = [
        "GstForceKeyUnit",
        "RTPTWCCPackets",
        "GstRTPRetransmissionRequest",
    ];
    for name in names {
        let s = gst::Structure::builder(name).field("ssrc", 1u32).build();
        assert!(pad.send_event(gst::event::CustomUpstream::new(s)));
    }
    let came: Vec<_> = std::iter::from_fn(|| f.h.try_pull_upstream_event())
        .filter_map(|e| Some(e.structure()?.name().to_string()))
        .collect();
    assert_eq!(came, names);
}

#[test]
fn a_probe_with_an_empty_queue_is_padding_at_its_rate() {
    let mut f = Fixture::new(10_000);
    f.push(video(0));
    f.h.pull().unwrap();
    f.set_us(1_000_000);
    // 303 bytes at 2.424 Mbit/s: 1 ms.
    f.estimate(|s| {
        s.set("target-bitrate", 4_000_000u64);
        s.set("probe", probe(7, 2_424_000, 5, 4));
    });
    let mut numbers = Vec::new();
    for n in 0..5 {
        let buffer = if n == 0 {
            f.h.pull().unwrap()
        } else {
            let (us, buffer) = f.pull_next();
            assert_eq!(us, 1_000_000 + n * 1000);
            buffer
        };
        assert_eq!(probe_id(&buffer), Some(7));
        assert_eq!(buffer.size(), 275);
        let map = buffer.map_readable().unwrap();
        assert_eq!(map[0], 0xb0, "version 2, padding, extension");
        assert_eq!(map[12..20], [0xbe, 0xde, 0, 1, 0x31, 0, 0, 0]);
        assert_eq!(map[274], 255);
        assert_ne!(map[1], 96, "never the payload type of the media");
        assert_eq!(buffer.pts().unwrap().useconds(), 1_000_000 + n * 1000);
        numbers.push(u16::from_be_bytes([map[2], map[3]]));
    }
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0].wrapping_add(1));
    }
    assert_eq!(f.stat("probes-completed"), 1);
    assert_eq!(f.stat("padding-packets"), 5);
    assert_eq!(f.stat("padding-bytes"), 5 * 303);
    // Media that waits goes instead, and is marked.
    f.estimate(|s| s.set("pacing-bitrate", 0u64));
    let buffer = video(1);
    f.push(buffer);
    f.estimate(|s| s.set("probe", probe(8, 2_424_000, 1, 0)));
    let buffer = f.h.pull().unwrap();
    assert_eq!((seq(&buffer), probe_id(&buffer)), (1, Some(8)));
}

#[test]
fn nothing_is_made_before_the_first_packet_or_with_a_media_payload_type() {
    let mut f = Fixture::silent(1000);
    f.estimate(|s| s.set("probe", probe(1, 1_000_000, 3, 1)));
    for _ in 0..2 {
        let us = f.waiting_until();
        f.set_us(us);
    }
    while f.stat("padding-skipped") < 3 {
        std::thread::yield_now();
    }
    // What was to be sent is paid for.
    f.set_us(1_000_000);
    f.h.set_src_caps(caps());
    f.element.set_property("padding-payload-type", 96i32);
    f.push(video(0));
    assert_eq!(seq(&f.h.pull().unwrap()), 0);
    f.estimate(|s| s.set("probe", probe(2, 1_000_000, 1, 1)));
    let buffer = f.h.pull().unwrap();
    assert_ne!(buffer.map_readable().unwrap()[1], 96);
    f.element.set_property("padding-payload-type", 99i32);
    f.estimate(|s| s.set("probe", probe(3, 1_000_000, 1, 0)));
    let buffer = f.h.pull().unwrap();
    assert_eq!(buffer.map_readable().unwrap()[1], 99);
}

#[test]
fn events_keep_their_place_and_the_same_caps_come_once() {
    let mut f = Fixture::new(1000);
    f.push(video(0));
    f.push(video(1));
    f.h.push_event(gst::event::Caps::new(&caps()));
    let tag = gst::event::CustomDownstream::new(gst::Structure::new_empty("first"));
    f.h.push_event(tag);
    f.push(packet(96, 3, 2, false));
    let mut other = caps();
    other.make_mut().set("payload", 98i32);
    f.h.push_event(gst::event::Caps::new(&other));
    f.push(packet(98, 4, 3, false));
    f.h.push_event(gst::event::Eos::new());
    assert_eq!(f.h.push(video(4)), Err(gst::FlowError::Eos));
    // Where in the order of packets each event comes.
    let pad = f.element.static_pad("src").unwrap();
    let (tx, rx) = mpsc::channel();
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM,
        move |_, info| {
            let text = match &info.data {
                Some(gst::PadProbeData::Buffer(b)) => seq(b).to_string(),
                Some(gst::PadProbeData::Event(e)) => e.type_().to_string(),
                _ => return gst::PadProbeReturn::Ok,
            };
            tx.send(text).unwrap();
            gst::PadProbeReturn::Ok
        },
    );
    f.h.pull().unwrap();
    for _ in 1..4 {
        f.pull_next();
    }
    let events: Vec<_> = f
        .events_until(gst::EventType::Eos)
        .iter()
        .map(|e| e.type_())
        .collect();
    use gst::EventType::{Caps, CustomDownstream, Eos, Segment, StreamStart};
    assert_eq!(
        events,
        [StreamStart, Caps, Segment, CustomDownstream, Caps, Eos]
    );
    let order: Vec<_> = rx.try_iter().collect();
    let order = order.join(" ");
    assert!(
        order.ends_with("1 custom-downstream 2 caps 3 eos"),
        "{order}"
    );
}

#[test]
fn timestamps_are_running_time_under_one_segment() {
    let mut f = Fixture::new(0);
    let push = |f: &mut Fixture, start: u64, seq: u16, pts: u64| {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(gst::ClockTime::from_mseconds(start));
        segment.set_time(gst::ClockTime::ZERO);
        f.h.push_event(gst::event::Segment::new(&segment));
        let mut buffer = video(seq);
        let b = buffer.get_mut().unwrap();
        b.set_pts(gst::ClockTime::from_mseconds(pts));
        b.set_dts(gst::ClockTime::from_mseconds(start.saturating_sub(1)));
        f.push(buffer);
    };
    // As rtpfunnel does at each change of stream.
    push(&mut f, 1000, 0, 1005);
    push(&mut f, 0, 1, 7);
    push(&mut f, 3_600_000, 2, 3_600_009);
    for expected in [5, 7, 9] {
        let buffer = f.h.pull().unwrap();
        assert_eq!(buffer.pts().unwrap().mseconds(), expected);
        assert_eq!(buffer.dts().unwrap().mseconds(), 0);
    }
    f.h.push_event(gst::event::Eos::new());
    let events = f.events_until(gst::EventType::Eos);
    let segments: Vec<_> = events
        .iter()
        .filter(|e| e.type_() == gst::EventType::Segment)
        .collect();
    assert_eq!(segments.len(), 1);
}

#[test]
fn a_gap_does_not_hold_up_what_is_urgent() {
    let mut f = Fixture::new(1000);
    let gap = |f: &mut Fixture, ms| {
        let start = gst::ClockTime::from_mseconds(ms);
        f.h.push_event(gst::event::Gap::new(start, gst::ClockTime::SECOND));
    };
    gap(&mut f, 1);
    let events = f.events_until(gst::EventType::Gap);
    assert_eq!(events.len(), 4, "after stream-start, caps and segment");
    let roles: gst::Structure = "priorities,pt-111=audio".parse().unwrap();
    f.element.set_property("priorities", roles);
    for n in 0..3 {
        f.push(video(n));
    }
    gap(&mut f, 2);
    f.push(packet(111, 5, 9, false));
    assert_eq!(seq(&f.h.pull().unwrap()), 0);
    assert_eq!(seq(&f.h.pull().unwrap()), 9, "audio at once");
    assert_eq!(f.stat("behind-event"), 0);
}

#[test]
fn buffers_go_through_untouched_and_lists_are_split() {
    let mut f = Fixture::new(0);
    gst::meta::CustomMeta::register_simple("PacerTestMeta");
    let mut list = gst::BufferList::new();
    let mut addresses = Vec::new();
    for n in 0..3 {
        let mut buffer = video(n);
        let b = buffer.get_mut().unwrap();
        b.set_flags(gst::BufferFlags::MARKER);
        b.set_offset(u64::from(n));
        gst::meta::CustomMeta::add(b, "PacerTestMeta").unwrap();
        addresses.push(buffer.map_readable().unwrap().as_ptr());
        list.get_mut().unwrap().add(buffer);
    }
    let pad = f.h.srcpad().unwrap();
    assert_eq!(pad.push_list(list), Ok(gst::FlowSuccess::Ok));
    for (n, address) in addresses.into_iter().enumerate() {
        let buffer = f.h.pull().unwrap();
        assert_eq!(buffer.offset(), n as u64);
        assert_eq!(buffer.map_readable().unwrap().as_ptr(), address);
        assert!(buffer.flags().contains(gst::BufferFlags::MARKER));
        assert!(gst::meta::CustomMeta::from_buffer(&buffer, "PacerTestMeta").is_ok());
    }
}

#[test]
fn what_is_no_rtp_is_dropped_and_counted() {
    let mut f = Fixture::new(0);
    f.push(gst::Buffer::new());
    f.push(gst::Buffer::from_slice([0x80; 11]));
    f.push(gst::Buffer::from_slice([0x40; 20]));
    f.push(video(1));
    assert_eq!(seq(&f.h.pull().unwrap()), 1);
    assert_eq!(f.stat("malformed"), 3);
}

#[test]
fn a_flush_drops_what_waits_and_all_goes_on() {
    let mut f = Fixture::new(1000);
    for round in 0..3 {
        for n in 0..3 {
            f.push(video(n));
        }
        assert_eq!(seq(&f.h.pull().unwrap()), 0, "round {round}");
        f.waiting_until();
        f.h.push_event(gst::event::FlushStart::new());
        assert_eq!(f.h.push(video(9)), Err(gst::FlowError::Flushing));
        f.h.push_event(gst::event::FlushStop::new(true));
        assert_eq!(f.of("display", "queued-packets"), 0);
        assert_eq!(f.of("display", "flushed-packets"), 2 * (round + 1));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        f.h.push_event(gst::event::Segment::new(&segment));
    }
}

#[test]
fn states_cycle_with_packets_held() {
    let mut f = Fixture::new(1000);
    for state in [gst::State::Ready, gst::State::Null, gst::State::Paused] {
        for n in 0..3 {
            f.push(video(n));
        }
        assert_eq!(seq(&f.h.pull().unwrap()), 0, "to {state:?}");
        f.waiting_until();
        f.element.set_state(state).unwrap();
        f.element.set_state(gst::State::Playing).unwrap();
        if state == gst::State::Paused {
            assert_eq!(f.of("display", "queued-packets"), 2);
            for n in 1..3 {
                assert_eq!(seq(&f.pull_next().1), n);
            }
        } else {
            assert_eq!(f.of("display", "pushed-packets"), 0, "a new start");
            let pad = f.h.srcpad().unwrap();
            for event in [
                gst::event::StreamStart::new("again"),
                gst::event::Caps::new(&caps()),
                gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()),
            ] {
                assert!(pad.push_event(event));
            }
        }
    }
}

#[test]
fn without_a_clock_nothing_waits() {
    init();
    let element = gst::ElementFactory::make("rtppacer")
        .property("bitrate", 1000u64)
        .build()
        .unwrap();
    let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
    h.play();
    element.set_clock(None::<&gst::Clock>).unwrap();
    h.set_src_caps(caps());
    for n in 0..20 {
        h.push(video(n)).unwrap();
    }
    for n in 0..20 {
        assert_eq!(seq(&h.pull().unwrap()), n);
    }
}

#[test]
fn eos_leaves_though_nothing_may() {
    let mut f = Fixture::new(1000);
    f.estimate(|s| s.set("pacing-bitrate", 0u64));
    f.push(video(0));
    f.h.push_event(gst::event::Eos::new());
    f.events_until(gst::EventType::Eos);
    assert_eq!(f.of("display", "flushed-packets"), 1);
    // A new stream on the same pads.
    f.estimate(|s| s.set("pacing-bitrate", 1_000_000u64));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    f.h.push_event(gst::event::StreamStart::new("second"));
    f.h.push_event(gst::event::Caps::new(&caps()));
    f.h.push_event(gst::event::Segment::new(&segment));
    f.push(video(5));
    assert_eq!(seq(&f.h.pull().unwrap()), 5);
}

#[test]
fn the_latency_is_up_to_the_queue_time_limit() {
    let mut f = Fixture::new(1000);
    f.h.set_upstream_latency(gst::ClockTime::from_mseconds(30));
    let pad = f.element.static_pad("src").unwrap();
    let ask = || {
        let mut query = gst::query::Latency::new();
        assert!(pad.query(&mut query));
        query.result()
    };
    let (_, min, max) = ask();
    assert_eq!((min.mseconds(), max), (30, None), "no limit");
    f.element.set_property("queue-time-limit", 250u32);
    let (_, min, max) = ask();
    assert_eq!(min.mseconds(), 30);
    // The harness itself has no maximum.
    assert_eq!(max, None);
}

#[test]
fn properties_take_effect_in_every_state() {
    init();
    let element = gst::ElementFactory::make("rtppacer").build().unwrap();
    let roles: gst::Structure = "priorities,pt-100=fec,pt-300=fec,x=1".parse().unwrap();
    for state in [
        gst::State::Null,
        gst::State::Ready,
        gst::State::Paused,
        gst::State::Playing,
        gst::State::Ready,
    ] {
        element.set_state(state).unwrap();
        element.set_property("bitrate", 3_000_000u64);
        element.set_property("pacing-factor", 1.5);
        element.set_property("burst-interval", 3u32);
        element.set_property("queue-time-limit", 100u32);
        element.set_property("background-ttl", 200u32);
        element.set_property("padding-ttl", 300u32);
        element.set_property("max-queue-packets", 50u32);
        element.set_property("max-queue-bytes", 60_000u32);
        element.set_property("padding-payload-type", 99i32);
        element.set_property("priorities", &roles);
        assert_eq!(element.property::<u64>("bitrate"), 3_000_000);
        assert_eq!(element.property::<u32>("queue-time-limit"), 100);
        if state >= gst::State::Paused {
            let stats: gst::Structure = element.property("stats");
            assert_eq!(stats.get("pacing-bitrate"), Ok(4_500_000u64));
            element.set_property("bitrate", 0u64);
            let stats: gst::Structure = element.property("stats");
            assert_eq!(stats.get("pacing-bitrate"), Ok(u64::MAX));
        }
        element.set_property("priorities", None::<gst::Structure>);
        assert_eq!(
            element.property::<Option<gst::Structure>>("priorities"),
            None
        );
    }
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_refusal_downstream_reaches_whoever_pushes() {
    init();
    let element = gst::ElementFactory::make("rtppacer").build().unwrap();
    let mut h = Harness::with_element(&element, Some("sink"), None);
    h.play();
    h.set_src_caps(caps());
    // The first goes into the queue; its fate is known some time later.
    let until = Instant::now() + Duration::from_secs(20);
    let flow = loop {
        match h.push(video(0)) {
            Ok(_) => assert!(Instant::now() < until, "never told"),
            Err(err) => break err,
        }
    };
    assert_eq!(flow, gst::FlowError::NotLinked);
}

/// As in webrtcbin: the funnel's caps say nothing of the media.
#[test]
fn behind_a_funnel_the_caps_upstream_count() {
    init();
    let pipeline = gst::parse::launch(
        "rtpfunnel name=f ! rtprtxsend payload-type-map=\"a,96=(uint)97\" ! identity \
         ! rtppacer name=p ! fakesink name=sink async=false sync=false",
    )
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let funnel = pipeline.by_name("f").unwrap();
    let element = pipeline.by_name("p").unwrap();
    let audio = "application/x-rtp,media=audio,encoding-name=OPUS,payload=111,ssrc=(uint)5";
    let mut feeds = Vec::new();
    pipeline.set_state(gst::State::Playing).unwrap();
    for (name, caps) in [("v", caps()), ("a", audio.parse().unwrap())] {
        let feed = gst::Pad::builder(gst::PadDirection::Src).name(name).build();
        feed.set_active(true).unwrap();
        feed.link(&funnel.request_pad_simple("sink_%u").unwrap())
            .unwrap();
        feed.push_event(gst::event::StreamStart::new(name));
        feed.push_event(gst::event::Caps::new(&caps));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        feed.push_event(gst::event::Segment::new(&segment));
        feeds.push(feed);
    }
    for (feed, buffer) in [
        (0, packet(96, 1, 0, false)),
        (0, packet(96, 1, 1, true)),
        (1, packet(111, 5, 0, false)),
        (0, packet(97, 6, 0, false)),
        (1, packet(100, 7, 0, false)),
    ] {
        feeds[feed].push(buffer).unwrap();
    }
    // rtprtxsend has a thread of its own.
    let until = Instant::now() + Duration::from_secs(20);
    let roles = loop {
        let stats: gst::Structure = element.property("stats");
        let pushed = |nick| {
            let s: gst::Structure = stats.get(nick).unwrap();
            s.get::<u64>("pushed-packets").unwrap()
        };
        let roles = ["audio", "retransmission", "display", "background"].map(pushed);
        if roles.iter().sum::<u64>() == 5 || Instant::now() > until {
            break roles;
        }
        std::thread::yield_now();
    };
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(roles, [1, 1, 2, 1]);
}

/// 200 packets at 20 Mbit/s are 100 ms, on the real clock.
#[test]
fn a_real_clock_is_kept_too() {
    init();
    let element = gst::ElementFactory::make("rtppacer")
        .property("bitrate", 20_000_000u64)
        .property("pacing-factor", 1.0)
        .property("queue-time-limit", 0u32)
        .build()
        .unwrap();
    let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
    h.use_systemclock();
    h.play();
    h.set_src_caps(caps());
    let start = Instant::now();
    for n in 0..200 {
        h.push(video(n)).unwrap();
    }
    for n in 0..200 {
        assert_eq!(seq(&h.pull().unwrap()), n);
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(90), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Packets, flushes, estimates, properties and states from all sides at once,
/// on the real clock.
#[test]
fn nothing_locks_up_when_everything_comes_at_once() {
    init();
    let element = gst::ElementFactory::make("rtppacer")
        .property("bitrate", 5_000_000u64)
        .build()
        .unwrap();
    let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
    h.use_systemclock();
    h.play();
    h.set_src_caps(caps());
    let feed = h.srcpad().unwrap();
    let source = element.static_pad("src").unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    let segment = || {
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        gst::event::Segment::new(&segment)
    };
    let order = std::sync::Mutex::new(());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u16;
            while Instant::now() < until {
                n = n.wrapping_add(1);
                let _held = order.lock().unwrap();
                // Flushing at times, as it should be.
                let _ = feed.push(packet(96, u32::from(n % 5), n, n.is_multiple_of(3)));
                match n % 100 {
                    10 => drop(feed.push_event(gst::event::Caps::new(&caps()))),
                    50 => {
                        let s = gst::Structure::new_empty("mark");
                        feed.push_event(gst::event::CustomDownstream::new(s));
                        feed.push_event(segment());
                    }
                    _ => (),
                }
            }
        });
        scope.spawn(|| {
            let mut id = 0u32;
            while Instant::now() < until {
                id += 1;
                let s = gst::Structure::builder(ESTIMATE)
                    .field("target-bitrate", u64::from(id % 7) * 1_000_000)
                    .field("pacing-bitrate", u64::from(id % 5) * 1_000_000)
                    .field("padding-bitrate", u64::from(id % 3) * 1_000_000)
                    .field("congestion-window", u64::from(id % 11) * 1_000)
                    .field(
                        "probe",
                        probe(id, u64::from(id % 13) * 500_000, id % 20, 15),
                    )
                    .build();
                source.send_event(gst::event::CustomUpstream::new(s));
                element.set_property("burst-interval", id % 6);
                element.set_property("queue-time-limit", id % 100);
                let _ = element.property::<gst::Structure>("stats");
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        scope.spawn(|| {
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(7));
                // A flush may come while a packet is on its way. Between its end
                // and the next segment there is no packet.
                feed.push_event(gst::event::FlushStart::new());
                let _held = order.lock().unwrap();
                feed.push_event(gst::event::FlushStop::new(true));
                feed.push_event(segment());
            }
        });
        scope.spawn(|| {
            let states = [gst::State::Paused, gst::State::Playing];
            for state in states.into_iter().cycle() {
                if Instant::now() > until {
                    break;
                }
                std::thread::sleep(Duration::from_millis(11));
                element.set_state(state).unwrap();
            }
        });
    });
    element.set_state(gst::State::Ready).unwrap();
    element.set_state(gst::State::Playing).unwrap();
    let stats: gst::Structure = element.property("stats");
    for nick in ["display", "background"] {
        let s: gst::Structure = stats.get(nick).unwrap();
        assert_eq!(s.get("queued-packets"), Ok(0u64), "a new start");
    }
}
