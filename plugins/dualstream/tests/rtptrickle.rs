// SPDX-License-Identifier: MPL-2.0
//! rtptrickle on a clock that moves only when the test says so.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{JoinHandle, spawn};

use dualstream_core::wire::{FrameTag, Stream, URI};
use gst::prelude::*;
use gst_check::{Harness, TestClock};
use gst_rtp::RTPBuffer;
use gst_rtp::rtp_buffer::RTPBufferExt;

/// With the header extension and 28 bytes of IP and UDP a packet is 1250
/// bytes: 10 ms at 1 Mbit/s.
const PAYLOAD: u32 = 1250 - 28 - 12 - 12;

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstdualstream::plugin_register_static().unwrap();
    });
}

fn tag(background: bool) -> [u8; 4] {
    FrameTag {
        stream: Stream::One,
        background,
        key: background,
        acknowledged: false,
        number: 7,
        generation: 1,
    }
    .to_bytes()
}

fn rtp_caps() -> gst::caps::Builder<gst::caps::NoFeature> {
    init();
    gst::Caps::builder("application/x-rtp")
}

/// A packet with the extension under `id`, in the header kind the id needs.
/// Both kinds come to the same size, 4 + 8 bytes.
fn packet(id: u8, background: bool, seq: u16) -> gst::Buffer {
    let mut buffer = gst::Buffer::new_rtp_with_sizes(PAYLOAD, 0, 0).unwrap();
    {
        let mut rtp = RTPBuffer::from_buffer_writable(buffer.make_mut()).unwrap();
        rtp.set_seq(seq);
        rtp.set_payload_type(96);
        let data = tag(background);
        if id < 15 {
            rtp.add_extension_onebyte_header(id, &data).unwrap();
        } else {
            rtp.add_extension_twobytes_header(0, id, &data).unwrap();
        }
    }
    assert_eq!(buffer.size(), 1250 - 28);
    buffer
}

struct Fixture {
    element: gst::Element,
    /// Pushes into the element, from any thread.
    feed: gst::Pad,
    clock: TestClock,
    h: Harness,
}

impl Fixture {
    fn new(bitrate: u64) -> Self {
        Self::with_caps(bitrate, rtp_caps().field("extmap-4", URI).build())
    }

    fn with_caps(bitrate: u64, caps: gst::Caps) -> Self {
        let element = gst::ElementFactory::make("rtptrickle")
            .property("background-bitrate", bitrate)
            .build()
            .unwrap();
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.use_testclock();
        h.play();
        h.set_src_caps(caps);
        Self {
            feed: h.srcpad().unwrap(),
            clock: h.testclock().unwrap(),
            element,
            h,
        }
    }

    /// Pushes on a streaming thread of its own, which may block.
    fn push_on_thread(
        &self,
        packets: Vec<gst::Buffer>,
    ) -> JoinHandle<Result<gst::FlowSuccess, gst::FlowError>> {
        let feed = self.feed.clone();
        spawn(move || {
            for packet in packets {
                feed.push(packet)?;
            }
            Ok(gst::FlowSuccess::Ok)
        })
    }

    /// Waits for the element to wait, and says until when, in ms.
    fn waiting_until(&self) -> u64 {
        self.clock.wait_for_next_pending_id().time().mseconds()
    }

    fn set_ms(&self, ms: u64) {
        self.clock.set_time(gst::ClockTime::from_mseconds(ms));
        // Whoever waited for this time is let go.
        while self
            .clock
            .next_entry_time()
            .is_some_and(|time| time.mseconds() <= ms)
            && self.clock.process_next_clock_id().is_some()
        {}
    }

    fn stat(&self, name: &str) -> u64 {
        self.element
            .property::<gst::Structure>("stats")
            .get(name)
            .unwrap()
    }

    fn signal(&self, bitrate: u64) {
        let s = gst::Structure::builder("application/x-background-rate")
            .field("bitrate", bitrate)
            .build();
        assert!(
            self.feed
                .push_event(gst::event::CustomDownstreamOob::new(s))
        );
    }
}

fn seq(buffer: &gst::Buffer) -> u16 {
    RTPBuffer::from_buffer_readable(buffer).unwrap().seq()
}

/// The clock stands: a packet that waited would never come out.
#[test]
fn display_packets_pass_at_once_and_untouched() {
    let mut f = Fixture::new(1_000);
    let bytes: Vec<_> = (0..50)
        .map(|n| {
            let packet = packet(4, false, n);
            let bytes = packet.map_readable().unwrap().to_vec();
            f.feed.push(packet).unwrap();
            bytes
        })
        .collect();
    for bytes in bytes {
        let out = f.h.pull().unwrap();
        assert_eq!(out.map_readable().unwrap().as_slice(), bytes);
    }
    assert_eq!(f.stat("other-packets"), 50);
    assert_eq!(f.stat("background-packets"), 0);
}

#[test]
fn background_packets_are_spaced_at_the_rate() {
    for id in [4, 20] {
        let caps = rtp_caps().field(format!("extmap-{id}"), URI).build();
        let mut f = Fixture::with_caps(1_000_000, caps);
        let feeder = f.push_on_thread((0..5).map(|n| packet(id, true, n)).collect());
        assert_eq!(seq(&f.h.pull().unwrap()), 0);
        for n in 1..5 {
            assert_eq!(f.waiting_until(), u64::from(n) * 10);
            assert_eq!(f.h.buffers_in_queue(), 0, "packet {n} must wait");
            f.set_ms(u64::from(n) * 10);
            assert_eq!(seq(&f.h.pull().unwrap()), n);
        }
        assert_eq!(feeder.join().unwrap(), Ok(gst::FlowSuccess::Ok));
        assert_eq!(f.stat("background-packets"), 5);
        assert_eq!(f.stat("background-bytes"), 5 * 1250);
        assert_eq!(f.stat("background-waited"), 40_000_000);
        assert_eq!(f.stat("bitrate"), 1_000_000);
    }
}

/// An extmap with attributes is an array in caps.
#[test]
fn an_extmap_with_attributes_is_understood() {
    init();
    let map = gst::Array::new(["".to_send_value(), URI.to_send_value(), "a".to_send_value()]);
    let caps = rtp_caps()
        .field("extmap-3", "urn:ietf:params:rtp-hdrext:toffset")
        .field("extmap-4", map)
        .build();
    let f = Fixture::with_caps(1_000_000, caps);
    let feeder = f.push_on_thread((0..2).map(|n| packet(4, true, n)).collect());
    assert_eq!(f.waiting_until(), 10);
    f.set_ms(10);
    feeder.join().unwrap().unwrap();
}

#[test]
fn without_the_extmap_nothing_is_spaced() {
    for caps in [
        rtp_caps().build(),
        rtp_caps()
            .field("extmap-4", "urn:x-gst-dualstream:frame:2")
            .field("extmap-0", URI)
            .field("extmap-300", URI)
            .field("extmap-x", URI)
            .build(),
    ] {
        let f = Fixture::with_caps(1_000, caps);
        for n in 0..10 {
            f.feed.push(packet(4, true, n)).unwrap();
        }
        assert_eq!(f.stat("other-packets"), 10);
    }
}

#[test]
fn a_mixed_list_is_split_and_a_display_list_stays_whole() {
    let f = Fixture::new(1_000_000);
    let lists = std::sync::Arc::new(AtomicU32::new(0));
    let counter = lists.clone();
    let src = f.element.static_pad("src").unwrap();
    src.add_probe(gst::PadProbeType::BUFFER_LIST, move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        gst::PadProbeReturn::Ok
    });
    let list = |kinds: &[bool]| -> gst::BufferList {
        kinds
            .iter()
            .enumerate()
            .map(|(n, background)| packet(4, *background, n as u16))
            .collect()
    };
    f.feed.push_list(list(&[false; 8])).unwrap();
    assert_eq!(lists.load(Ordering::SeqCst), 1);
    assert_eq!(f.h.buffers_in_queue(), 8);
    let feed = f.feed.clone();
    let mixed = list(&[true, false, true, false]);
    let feeder = spawn(move || feed.push_list(mixed));
    assert_eq!(f.waiting_until(), 10);
    assert_eq!(
        f.h.buffers_in_queue(),
        10,
        "the first two are out, in order"
    );
    f.set_ms(10);
    feeder.join().unwrap().unwrap();
    assert_eq!(lists.load(Ordering::SeqCst), 1);
    let mut h = f.h;
    let order: Vec<u16> = (0..12).map(|_| seq(&h.pull().unwrap())).collect();
    assert_eq!(order[8..], [0, 1, 2, 3]);
}

#[test]
fn an_event_changes_the_rate_of_the_packet_that_waits() {
    let mut f = Fixture::new(1_000_000);
    let feeder = f.push_on_thread((0..3).map(|n| packet(4, true, n)).collect());
    assert_eq!(f.waiting_until(), 10);
    f.signal(100_000);
    assert_eq!(f.waiting_until(), 100, "from 10 to 100 ms");
    f.set_ms(50);
    // Half is paid.
    f.signal(500_000);
    assert_eq!(f.waiting_until(), 60);
    assert_eq!(f.h.buffers_in_queue(), 1);
    // The property has no say after an event.
    f.element.set_property("background-bitrate", 0u64);
    assert_eq!(f.waiting_until(), 60);
    assert_eq!(f.stat("bitrate"), 500_000);
    f.signal(0);
    feeder.join().unwrap().unwrap();
    assert_eq!(f.h.buffers_in_queue(), 3, "zero releases all");
    // And the events have gone on downstream.
    let mut signalled = Vec::new();
    while let Some(event) = f.h.try_pull_event() {
        if let Some(s) = event.structure()
            && s.has_name("application/x-background-rate")
        {
            signalled.push(s.get::<u64>("bitrate").unwrap());
        }
    }
    assert_eq!(signalled, [100_000, 500_000, 0]);
}

/// The stream is the display stream now, and its packets are behind them.
#[test]
fn after_a_release_what_waits_goes_at_once_up_to_a_display_packet() {
    let mut f = Fixture::new(100_000);
    let background = (0..60).map(|n| packet(4, true, n));
    let display = std::iter::once(packet(4, false, 60));
    let again = (61..63).map(|n| packet(4, true, n));
    let feeder = f.push_on_thread(background.chain(display).chain(again).collect());
    assert_eq!(f.waiting_until(), 100);
    let release = gst::Structure::new_empty("application/x-background-release");
    assert!(
        f.feed
            .push_event(gst::event::CustomDownstreamOob::new(release))
    );
    // Without time passing; what was owed for the first one still is.
    for n in 0..61 {
        assert_eq!(seq(&f.h.pull().unwrap()), n);
    }
    assert_eq!(f.waiting_until(), 100);
    assert_eq!(f.h.buffers_in_queue(), 0);
    f.signal(0);
    feeder.join().unwrap().unwrap();
}

#[test]
fn the_property_changes_the_rate_of_the_packet_that_waits() {
    let f = Fixture::new(1_000_000);
    let feeder = f.push_on_thread((0..2).map(|n| packet(4, true, n)).collect());
    assert_eq!(f.waiting_until(), 10);
    f.element.set_property("background-bitrate", 2_000_000u64);
    assert_eq!(f.waiting_until(), 5);
    f.element.set_property("background-bitrate", 0u64);
    feeder.join().unwrap().unwrap();
}

#[test]
fn an_event_that_says_nothing_is_passed_on_and_ignored() {
    let mut f = Fixture::new(1_000_000);
    for s in [
        gst::Structure::new_empty("application/x-background-rate"),
        gst::Structure::builder("application/x-background-rate")
            .field("bitrate", "much")
            .build(),
        gst::Structure::builder("application/x-something-else")
            .field("bitrate", 5u64)
            .build(),
    ] {
        f.feed.push_event(gst::event::CustomDownstreamOob::new(s));
    }
    assert_eq!(f.stat("bitrate"), 1_000_000);
    let mut passed = 0;
    while let Some(event) = f.h.try_pull_event() {
        passed += u32::from(event.type_() == gst::EventType::CustomDownstreamOob);
    }
    assert_eq!(passed, 3);
}

#[test]
fn flush_ends_the_wait_and_starts_anew() {
    let f = Fixture::new(1_000);
    let feeder = f.push_on_thread((0..2).map(|n| packet(4, true, n)).collect());
    assert_eq!(f.waiting_until(), 10_000);
    assert!(f.feed.push_event(gst::event::FlushStart::new()));
    assert_eq!(feeder.join().unwrap(), Err(gst::FlowError::Flushing));
    assert!(f.feed.push_event(gst::event::FlushStop::new(true)));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(f.feed.push_event(gst::event::Segment::new(&segment)));
    assert_eq!(f.stat("background-flushed"), 1);
    // What was owed is forgotten: the first one goes, the second waits.
    let feeder = f.push_on_thread((0..2).map(|n| packet(4, true, n)).collect());
    assert_eq!(f.waiting_until(), 10_000);
    assert_eq!(f.stat("background-packets"), 2);
    f.set_ms(10_000);
    feeder.join().unwrap().unwrap();
}

#[test]
fn going_to_null_ends_the_wait_and_forgets_the_event() {
    let mut f = Fixture::new(7_000_000);
    for round in 0..2 {
        f.signal(1_000);
        let feeder = f.push_on_thread((0..2).map(|n| packet(4, true, n)).collect());
        assert_eq!(f.waiting_until(), 10_000, "round {round}");
        f.element.set_state(gst::State::Null).unwrap();
        assert_eq!(feeder.join().unwrap(), Err(gst::FlowError::Flushing));
        assert_eq!(f.stat("bitrate"), 7_000_000);
        assert_eq!(f.stat("background-packets"), 0);
        f.h.play();
        f.h.set_src_caps(rtp_caps().field("extmap-4", URI).build());
    }
}

#[test]
fn what_is_no_rtp_passes() {
    let mut f = Fixture::new(1_000);
    let whole = packet(4, true, 0).map_readable().unwrap().to_vec();
    // One background packet to use up the allowance, so that any other would
    // block for good.
    f.feed.push(packet(4, true, 1)).unwrap();
    let _ = f.h.pull().unwrap();
    let mut count = 0;
    // Cut anywhere within the extension, it is none.
    for length in 0..20 {
        f.feed
            .push(gst::Buffer::from_slice(whole[..length].to_vec()))
            .unwrap();
        count += 1;
    }
    // Unknown version, wrong length of the extension.
    for (at, value) in [(17, 0x3f), (17, 0xff), (16, 0x42), (16, 0x40), (16, 0xf3)] {
        let mut bytes = whole.clone();
        bytes[at] = value;
        f.feed.push(gst::Buffer::from_slice(bytes)).unwrap();
        count += 1;
    }
    assert_eq!(f.stat("other-packets"), count);
    assert_eq!(u64::from(f.h.buffers_in_queue()), count);
}

/// While prerolling there may be no clock.
#[test]
fn without_a_clock_nothing_is_held() {
    let f = Fixture::new(1_000);
    f.element.set_clock(None::<&gst::Clock>).unwrap();
    for n in 0..5 {
        f.feed.push(packet(4, true, n)).unwrap();
    }
    assert_eq!(f.h.buffers_in_queue(), 5);
}

/// Serialised events stay behind the packets they follow.
#[test]
fn eos_waits_behind_the_packets() {
    let mut f = Fixture::new(1_000_000);
    let feed = f.feed.clone();
    let feeder = spawn(move || {
        feed.push(packet(4, true, 0)).unwrap();
        feed.push(packet(4, true, 1)).unwrap();
        feed.push_event(gst::event::Eos::new())
    });
    assert_eq!(f.waiting_until(), 10);
    let mut events = Vec::new();
    while let Some(event) = f.h.try_pull_event() {
        events.push(event.type_());
    }
    assert!(!events.contains(&gst::EventType::Eos), "EOS overtook");
    f.set_ms(10);
    assert!(feeder.join().unwrap());
    assert_eq!(f.h.pull_event().unwrap().type_(), gst::EventType::Eos);
}
