// SPDX-License-Identifier: MPL-2.0
//! rtpgcc without a session: what passes, and what synthetic feedback makes
//! it say.

use std::sync::Once;
use std::time::{Duration, Instant};

use gst::glib;
use gst::glib::translate::UnsafeFrom;
use gst::prelude::*;
use gst_check::Harness;

const TWCC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const ESTIMATE: &str = "application/x-network-estimate";
const PAYLOAD: usize = 1000;

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        // Before GLib reads it, and no thread of ours is there yet.
        unsafe { std::env::set_var("G_DEBUG", "fatal-warnings") };
        gst::init().unwrap();
        gstgcc::plugin_register_static().unwrap();
    });
}

fn caps() -> gst::Caps {
    init();
    gst::Caps::builder("application/x-rtp")
        .field("payload", 96i32)
        .field("clock-rate", 90_000i32)
        .field("extmap-3", TWCC)
        .build()
}

/// With a transport-wide number to be written under id 3.
fn packet(seq: u16) -> gst::Buffer {
    init();
    let mut data = vec![0x90, 96];
    data.extend(seq.to_be_bytes());
    data.extend([0, 0, 0, 0, 0, 0, 0, 1, 0xbe, 0xde, 0, 1, 0x31, 0, 0, 0]);
    data.resize(data.len() + PAYLOAD, 0xaa);
    gst::Buffer::from_mut_slice(data)
}

fn now() -> u64 {
    gst::SystemClock::obtain().time().nseconds()
}

fn packets_event(packets: impl IntoIterator<Item = glib::Value>) -> gst::Event {
    let array = glib::ValueArray::from_values(packets).to_value();
    // It has one owner.
    let array = unsafe { glib::SendValue::unsafe_from(array.into_raw()) };
    let mut s = gst::Structure::new_empty("RTPTWCCPackets");
    s.set_value("packets", array);
    gst::event::CustomUpstream::new(s)
}

fn report(seq: u16, local: u64, remote: Option<u64>) -> glib::Value {
    gst::Structure::builder("RTPTWCCPacket")
        .field("seqnum", u32::from(seq))
        .field("local-ts", local)
        .field("remote-ts", remote.unwrap_or(u64::MAX))
        .field("payload-type", 96u8)
        .field("size", PAYLOAD as u32)
        .field("lost", remote.is_none())
        .build()
        .to_value()
}

struct Fixture {
    element: gst::Element,
    h: Harness,
    /// The session's number and when the packet left.
    sent: Vec<(u16, u64)>,
    /// Of the session.
    offset: u16,
}

impl Fixture {
    fn new(properties: &[(&str, glib::Value)]) -> Self {
        init();
        let element = gst::ElementFactory::make("rtpgcc").build().unwrap();
        for (name, value) in properties {
            element.set_property(name, value);
        }
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.set_src_caps(caps());
        h.play();
        Self {
            element,
            h,
            sent: Vec::new(),
            offset: 0,
        }
    }

    fn push(&mut self, count: usize) {
        for _ in 0..count {
            let seq = self.offset.wrapping_add(self.sent.len() as u16);
            self.h.push(packet(seq)).unwrap();
            self.sent.push((seq, now()));
            // Numbers are matched by time.
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Feedback about the last `count` packets: they were `delay` ns on the
    /// way.
    fn acknowledge(&mut self, count: usize, delay: u64) {
        let packets = self.sent[self.sent.len() - count..]
            .iter()
            .map(|(seq, at)| report(*seq, *at, Some(5_000_000_000 + at + delay)));
        let event = packets_event(packets);
        assert!(self.h.push_upstream_event(event));
    }

    fn stats(&self) -> gst::Structure {
        self.element.property("stats")
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats()
            .get(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The next estimate that arrives upstream.
    #[track_caller]
    fn estimate(&mut self) -> gst::Structure {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            match self.h.try_pull_upstream_event() {
                Some(event) => {
                    if let Some(s) = event.structure().filter(|s| s.has_name(ESTIMATE)) {
                        return s.to_owned();
                    }
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("no estimate");
    }

    fn estimates(&mut self) -> Vec<gst::Structure> {
        std::iter::from_fn(|| self.h.try_pull_upstream_event())
            .filter_map(|event| event.structure().map(|s| s.to_owned()))
            .filter(|s| s.has_name(ESTIMATE))
            .collect()
    }
}

fn event_types(h: &mut Harness) -> Vec<gst::EventType> {
    std::iter::from_fn(|| h.try_pull_event().map(|event| event.type_())).collect()
}

#[test]
fn buffers_pass_as_the_same_buffers_and_lists_one_by_one() {
    let mut f = Fixture::new(&[]);
    let buffer = packet(0);
    let address = buffer.as_ptr();
    f.h.push(buffer).unwrap();
    assert_eq!(f.h.try_pull().expect("at once").as_ptr(), address);
    let mut list = gst::BufferList::new();
    let addresses: Vec<_> = (1..4)
        .map(|seq| {
            let buffer = packet(seq);
            let address = buffer.as_ptr() as usize;
            list.get_mut().unwrap().add(buffer);
            address
        })
        .collect();
    let sink = f.element.static_pad("sink").unwrap();
    assert_eq!(sink.chain_list(list), Ok(gst::FlowSuccess::Ok));
    let out: Vec<_> = std::iter::from_fn(|| f.h.try_pull())
        .map(|b| b.as_ptr() as usize)
        .collect();
    assert_eq!(out, addresses);
    assert_eq!(f.stat("sent-packets"), 4);
    assert_eq!(f.stat("bytes"), 4 * (PAYLOAD as u64 + 20 + 28));
}

#[test]
fn what_is_no_rtp_or_has_no_number_passes_too() {
    let mut f = Fixture::new(&[]);
    for size in [0, 1, 11, 12, 2000] {
        f.h.push(gst::Buffer::from_mut_slice(vec![0xff; size]))
            .unwrap();
        assert_eq!(f.h.pull().unwrap().size(), size);
    }
    let mut plain = vec![0x80, 96];
    plain.resize(100, 0);
    f.h.push(gst::Buffer::from_mut_slice(plain)).unwrap();
    assert_eq!((f.stat("packets"), f.stat("sent-packets")), (6, 0));
    assert!(f.estimates().is_empty());
}

#[test]
fn events_and_queries_pass_in_order_both_ways() {
    let mut f = Fixture::new(&[]);
    f.push(1);
    assert_eq!(
        event_types(&mut f.h),
        [
            gst::EventType::StreamStart,
            gst::EventType::Caps,
            gst::EventType::Segment
        ]
    );
    f.h.push_event(gst::event::Gap::new(gst::ClockTime::ZERO, None));
    f.h.push_event(gst::event::FlushStart::new());
    f.h.push_event(gst::event::FlushStop::new(false));
    f.h.push_event(gst::event::Eos::new());
    assert_eq!(
        event_types(&mut f.h),
        [
            gst::EventType::Gap,
            gst::EventType::FlushStart,
            gst::EventType::FlushStop,
            gst::EventType::Eos
        ]
    );
    while f.h.try_pull_upstream_event().is_some() {}
    for name in ["GstForceKeyUnit", "GstRTPRetransmissionRequest"] {
        let s = gst::Structure::builder(name).field("ssrc", 1u32).build();
        assert!(f.h.push_upstream_event(gst::event::CustomUpstream::new(s)));
        let event = f.h.try_pull_upstream_event().expect("passed upstream");
        assert_eq!(event.structure().unwrap().name(), name);
    }
    // Feedback is not consumed.
    f.acknowledge(1, 0);
    let mut upstream = std::iter::from_fn(|| f.h.try_pull_upstream_event());
    assert!(upstream.any(|e| e.structure().is_some_and(|s| s.name() == "RTPTWCCPackets")));
    f.h.set_upstream_latency(gst::ClockTime::from_mseconds(7));
    assert_eq!(f.h.query_latency(), Some(gst::ClockTime::from_mseconds(7)));
}

#[test]
fn nothing_is_said_before_the_first_feedback() {
    let mut f = Fixture::new(&[("start-bitrate", 700_000u32.to_value())]);
    f.push(20);
    std::thread::sleep(Duration::from_millis(60));
    assert!(f.estimates().is_empty());
    assert_eq!((f.stat("probes"), f.stat("feedback")), (0, 0));
    f.acknowledge(20, 20_000_000);
    let s = f.estimate();
    for name in [
        "target-bitrate",
        "pacing-bitrate",
        "padding-bitrate",
        "in-flight",
        "congestion-window",
    ] {
        assert!(s.get::<u64>(name).is_ok(), "{name} in {s}");
    }
    let target: u64 = s.get("target-bitrate").unwrap();
    assert_eq!(s.get("pacing-bitrate"), Ok(5 * target));
    assert_eq!(s.get("loss"), Ok(0.0f64));
    // Probes follow at once, each in an event of its own.
    let probe = |s: gst::Structure| s.get::<gst::Structure>("probe").ok();
    let probe = probe(s).or_else(|| (0..50).find_map(|_| probe(f.estimate())));
    let probe = probe.expect("a probe at the start");
    assert!(probe.get::<u32>("id").is_ok() && probe.get::<u32>("packets").unwrap() > 1);
    assert!(probe.get::<u64>("bitrate").unwrap() > 700_000);
    assert!(probe.get::<u64>("duration").unwrap() > 1_000_000);
    assert_eq!(f.stat("received-packets"), 20);
    assert_eq!(f.stat("realigned"), 0);
}

#[test]
fn with_feedback_expected_the_start_rate_comes_with_the_first_packet() {
    let mut f = Fixture::new(&[
        ("start-bitrate", 700_000u32.to_value()),
        ("expect-feedback", true.to_value()),
    ]);
    std::thread::sleep(Duration::from_millis(30));
    assert!(f.estimates().is_empty(), "nothing was sent");
    f.push(1);
    assert_eq!(f.estimate().get("target-bitrate"), Ok(700_000u64));
    assert_eq!(f.element.property::<u32>("estimated-bitrate"), 700_000);
}

#[test]
fn the_estimate_rises_and_falls_with_the_delay_and_is_notified() {
    let mut f = Fixture::new(&[("probing", false.to_value())]);
    let (send, notified) = std::sync::mpsc::channel();
    f.element
        .connect_notify(Some("estimated-bitrate"), move |element, _| {
            // Not under a lock: it can be read.
            let _ = send.send(element.property::<u32>("estimated-bitrate"));
        });
    for _ in 0..40 {
        f.push(10);
        f.acknowledge(10, 20_000_000);
        std::thread::sleep(Duration::from_millis(10));
    }
    let high = u64::from(f.element.property::<u32>("estimated-bitrate"));
    assert!(high > 600_000, "{high} after a rise from 300 000");
    let told: Vec<u32> = notified.try_iter().collect();
    assert!(told.len() > 2, "{told:?}");
    let events = f.estimates();
    assert!(events.len() > 2 && events.len() as u64 <= f.stat("estimates"));
    // A queue that grows by 4 ms with each packet.
    let mut delay = 20_000_000;
    for _ in 0..20 {
        f.push(10);
        delay += 40_000_000;
        f.acknowledge(10, delay);
        std::thread::sleep(Duration::from_millis(10));
    }
    let low = u64::from(f.element.property::<u32>("estimated-bitrate"));
    assert!(low < high * 9 / 10, "{low} after {high}");
}

#[test]
fn a_session_that_counts_from_elsewhere_is_followed() {
    let mut f = Fixture::new(&[]);
    f.offset = 65_000;
    f.push(50);
    f.acknowledge(40, 10_000_000);
    assert_eq!((f.stat("realigned"), f.stat("received-packets")), (1, 40));
    f.push(10);
    f.acknowledge(10, 10_000_000);
    assert_eq!((f.stat("realigned"), f.stat("received-packets")), (1, 50));
    assert_eq!(f.stat("unknown-reports"), 0);
}

#[test]
fn lost_packets_are_lost() {
    let mut f = Fixture::new(&[]);
    f.push(10);
    let packets: Vec<_> = f
        .sent
        .iter()
        .map(|(seq, at)| report(*seq, *at, (seq % 2 == 0).then_some(at + 1_000_000_000)))
        .collect();
    f.h.push_upstream_event(packets_event(packets));
    assert_eq!((f.stat("received-packets"), f.stat("lost-packets")), (5, 5));
}

#[test]
fn hostile_feedback_is_counted_and_changes_nothing() {
    let mut f = Fixture::new(&[]);
    f.push(20);
    let parse = |text: &str| text.parse::<gst::Structure>().unwrap().to_value();
    let hostile = [
        "p",
        "p, seqnum=(int)5",
        "p, seqnum=(uint)4294967295",
        "p, seqnum=(uint)5, local-ts=(double)nan, remote-ts=(guint64)5",
        "p, seqnum=(uint)5, local-ts=(guint64)5, remote-ts=(string)x",
        "p, seqnum=(uint)5, lost=(string)x",
        "p, seqnum=(uint)5, size=(int)-5",
    ];
    f.h.push_upstream_event(packets_event(hostile.map(parse)));
    assert_eq!(f.stat("malformed"), 7);
    let empty = gst::Structure::new_empty("RTPTWCCPackets");
    f.h.push_upstream_event(gst::event::CustomUpstream::new(empty.clone()));
    let mut wrong = empty;
    wrong.set("packets", 3i32);
    f.h.push_upstream_event(gst::event::CustomUpstream::new(wrong));
    assert_eq!(f.stat("malformed"), 9);
    // More than there are numbers, and of nonsense.
    let many = (0..70_000u32).map(|n| {
        let far = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        report(n as u16, far, Some(far.rotate_left(17)))
    });
    f.h.push_upstream_event(packets_event(many));
    assert_eq!(f.stat("malformed"), 9 + 70_000 - 65_536);
    for at in [0, 1, u64::MAX - 1, u64::MAX, 1 << 63] {
        let all = (0..20).map(|seq| report(seq, at, Some(at)));
        f.h.push_upstream_event(packets_event(all));
    }
    let rate = f.element.property::<u32>("estimated-bitrate");
    assert!((30_000..=50_000_000).contains(&rate));
    // It still works.
    f.push(20);
    f.acknowledge(20, 20_000_000);
    assert!(f.stat("received-packets") >= 20);
    f.estimate();
}

#[test]
fn properties_hold_in_each_state_and_limits_are_mended() {
    init();
    let element = gst::ElementFactory::make("rtpgcc").build().unwrap();
    let rate = |name| element.property::<u32>(name);
    element.set_property("estimated-bitrate", 900_000u32);
    assert_eq!(rate("start-bitrate"), 900_000, "as with rtpgccbwe");
    let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
    h.set_src_caps(caps());
    for state in [gst::State::Ready, gst::State::Paused, gst::State::Playing] {
        element.set_state(state).unwrap();
        assert_eq!(rate("estimated-bitrate"), 900_000);
        for (name, value) in [("min-bitrate", 50_000u32), ("max-bitrate", 4_000_000)] {
            element.set_property(name, value);
            assert_eq!(rate(name), value);
        }
        element.set_property("wanted-bitrate", 3_000_000u32);
        element.set_property("queue-aim", 20u32);
        for window in [-1i32, 0, 100] {
            element.set_property("congestion-window", window);
            assert_eq!(element.property::<i32>("congestion-window"), window);
        }
        element.set_property_from_str("delay-filter", "kalman");
        element.set_property("probing", false);
        element.set_property("expect-feedback", true);
        // A maximum below the minimum gives way.
        element.set_property("max-bitrate", 40_000u32);
        assert_eq!(rate("estimated-bitrate"), 50_000);
        element.set_property("max-bitrate", 4_000_000u32);
        element.set_state(gst::State::Ready).unwrap();
    }
    let stats: gst::Structure = element.property("stats");
    assert_eq!(stats.name(), "application/x-rtpgcc-stats");
    assert_eq!(stats.get::<&str>("state"), Ok("increase"));
    assert_eq!(stats.get::<&str>("cause"), Ok("start"));
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn limits_hold_at_once_while_playing() {
    let mut f = Fixture::new(&[("start-bitrate", 2_000_000u32.to_value())]);
    f.push(20);
    f.acknowledge(20, 20_000_000);
    f.estimate();
    f.element.set_property("max-bitrate", 1_000_000u32);
    let until = Instant::now() + Duration::from_secs(5);
    while f.estimate().get("target-bitrate") != Ok(1_000_000u64) {
        assert!(Instant::now() < until);
        let (seq, at) = *f.sent.last().unwrap();
        f.h.push_upstream_event(packets_event([report(seq, at, Some(at))]));
    }
}

#[test]
fn each_run_begins_anew_and_ends_its_thread() {
    let threads = || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.trim() == "rtpgcc")
            .count()
    };
    let mut f = Fixture::new(&[]);
    for _ in 0..3 {
        f.push(20);
        f.acknowledge(20, 20_000_000);
        f.estimate();
        assert_eq!((f.stat("packets"), threads()), (20, 1));
        f.element.set_state(gst::State::Ready).unwrap();
        assert_eq!((f.stat("packets"), threads()), (0, 0));
        f.element.set_state(gst::State::Playing).unwrap();
        f.sent.clear();
        f.h.push_event(gst::event::StreamStart::new("again"));
        f.h.push_event(gst::event::Caps::new(&caps()));
        f.h.push_event(gst::event::Segment::new(&gst::FormattedSegment::<
            gst::ClockTime,
        >::new()));
        f.estimates();
    }
}

#[test]
fn an_element_that_is_stopped_by_its_own_notification_stops() {
    let mut f = Fixture::new(&[("probing", false.to_value())]);
    let (send, stopped) = std::sync::mpsc::channel();
    f.element
        .connect_notify(Some("estimated-bitrate"), move |element, _| {
            element.set_state(gst::State::Ready).unwrap();
            let _ = send.send(());
        });
    let until = Instant::now() + Duration::from_secs(10);
    while stopped.try_recv().is_err() {
        assert!(Instant::now() < until, "never notified");
        if f.element.current_state() == gst::State::Playing {
            let seq = f.sent.len() as u16;
            // Refused once it is stopped.
            let _ = f.h.push(packet(seq));
            f.sent.push((seq, now()));
            let (seq, at) = *f.sent.last().unwrap();
            f.h.push_upstream_event(packets_event([report(seq, at, Some(at))]));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(f.element.current_state(), gst::State::Ready);
}
