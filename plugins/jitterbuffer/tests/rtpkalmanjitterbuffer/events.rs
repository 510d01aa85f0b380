// SPDX-License-Identifier: MPL-2.0
//! Events, flushes, states, threads, and errors of downstream.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::*;
use gst::prelude::*;

fn mark(name: &str) -> gst::Event {
    gst::event::CustomDownstream::new(gst::Structure::new_empty(name))
}

#[test]
fn events_keep_their_place_among_packets() {
    let mut f = Fixture::new("");
    let packets = frame(0, 3, 0);
    f.h.push_event(mark("before"));
    f.push_all(due_us(0), &packets[..2]);
    f.h.push_event(mark("within"));
    f.push(due_us(0), &packets[2]);
    f.h.push_event(mark("behind"));
    f.until("all", |f| f.out.words().len() == 9);
    let words = [
        "stream-start",
        "caps",
        "segment",
        "before",
        "0",
        "1",
        "within",
        "2",
        "behind",
    ];
    assert_eq!(f.out.words(), words);
}

#[test]
fn more_events_than_can_be_kept_do_not_wait() {
    let mut f = Fixture::new("");
    f.frames(0..1, |_| 0);
    f.push_all(due_us(1), &frame(1, 3, 1)[..2]);
    for n in 0..200 {
        f.h.push_event(mark(&format!("e{n}")));
    }
    f.until("the first", |f| f.out.words().contains(&"e0".to_owned()));
    f.push(due_us(1), &frame(1, 3, 1)[2]);
    f.until("the last", |f| f.out.words().contains(&"e199".to_owned()));
    let names = f.out.words();
    let names = names.iter().filter(|name| name.starts_with('e'));
    assert!(names.eq(&(0..200).map(|n| format!("e{n}")).collect::<Vec<_>>()));
}

#[test]
fn timestamps_are_running_times_whatever_the_segment() {
    let mut f = Fixture::silent("");
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(gst::ClockTime::from_seconds(1000));
    segment.set_base(gst::ClockTime::from_mseconds(500));
    f.h.push_event(gst::event::StreamStart::new("a"));
    f.h.push_event(gst::event::Caps::new(&caps()));
    f.h.push_event(gst::event::Segment::new(&segment));
    let mut delay = 0;
    for n in 0..60 {
        f.set_us(due_us(n));
        // 500 ms of running time were before.
        let stamp = 1_000_000_000 + due_us(n) - 500_000;
        let packet = &frame(n as u16, 1, n)[0];
        f.h.push(packet.buffer(stamp)).unwrap();
        f.until_out(n as usize + 1);
        delay = f.out.last_pts().abs_diff(due_us(n));
    }
    assert!(delay < 500, "{delay} us");
    let sent = f.out.all().into_iter().find_map(|out| match out {
        Out::Event(event) if event.type_() == gst::EventType::Segment => Some(event),
        _ => None,
    });
    let sent = sent.unwrap();
    let gst::EventView::Segment(sent) = sent.view() else {
        unreachable!()
    };
    let plain = gst::FormattedSegment::<gst::ClockTime>::new();
    assert_eq!(sent.segment(), plain.upcast_ref());
}

/// A source without times, and packets from before the segment.
#[test]
fn without_timestamps_a_packet_came_when_it_came() {
    let mut f = Fixture::new("");
    for n in 0..60 {
        f.set_us(due_us(n));
        let bytes = frame(n as u16, 1, n)[0].bytes();
        f.h.push(gst::Buffer::from_slice(bytes)).unwrap();
        f.until_out(n as usize + 1);
    }
    assert_near(f.out.last_pts(), due_us(59), 500, "the clock says when");
}

#[test]
fn at_the_end_all_that_is_held_leaves() {
    let mut f = Fixture::new("do-lost=true do-retransmission=true");
    f.frames(0..10, |_| 0);
    f.out.clear();
    f.push_all(due_us(10), &frame(11, 2, 10));
    f.push_all(due_us(11), &frame(14, 3, 11)[..2]);
    f.h.push_event(gst::event::Eos::new());
    f.until("the end", |f| f.out.words().contains(&"eos".to_owned()));
    let words = [LOST, "11", "12", LOST, "14", "15", "eos"];
    assert_eq!(f.out.words(), words);
    assert_eq!(
        f.h.push(frame(16, 1, 12)[0].buffer(due_us(12))),
        Err(gst::FlowError::Eos)
    );
    assert!(!f.h.push_event(mark("late")));
}

fn begin(f: &mut Fixture, id: &str) {
    assert!(f.h.push_event(gst::event::StreamStart::new(id)));
    assert!(f.h.push_event(gst::event::Caps::new(&caps())));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(f.h.push_event(gst::event::Segment::new(&segment)));
}

#[test]
fn after_the_end_a_new_stream_can_begin() {
    let mut f = Fixture::new("");
    f.frames(0..10, |_| 0);
    f.h.push_event(gst::event::Eos::new());
    f.until("the end", |f| f.out.words().contains(&"eos".to_owned()));
    f.out.clear();
    begin(&mut f, "again");
    f.push_all(due_us(20), &frame(20, 1, 20));
    f.h.push_event(gst::event::Eos::new());
    f.until("the end", |f| f.out.words().contains(&"eos".to_owned()));
    assert!(f.out.words().contains(&"20".to_owned()));
    assert!(f.out.words().contains(&"stream-start".to_owned()));
}

/// The end has not got out when the next stream begins.
#[test]
fn a_new_stream_follows_an_end_that_waits_for_the_sink() {
    let mut f = Fixture::new("");
    f.out.close();
    f.push_all(due_us(0), &frame(0, 1, 0));
    f.until_out(1);
    f.h.push_event(gst::event::Eos::new());
    begin(&mut f, "again");
    f.push_all(due_us(1), &frame(1, 1, 1));
    f.out.open();
    f.until_out(2);
    let words = f.out.words();
    let at = |word: &str| words.iter().rposition(|w| w == word);
    assert!(at("eos") < at("stream-start"), "{words:?}");
    assert!(at("stream-start") < at("1"), "{words:?}");
}

#[test]
fn a_flush_drops_what_is_held_and_the_stream_goes_on() {
    let mut f = Fixture::new("do-lost=true do-retransmission=true");
    f.frames(0..30, |_| 0);
    f.push_all(due_us(30), &frame(31, 2, 30));
    f.out.clear();
    assert!(f.h.push_event(gst::event::FlushStart::new()));
    assert_eq!(
        f.h.push(frame(33, 1, 31)[0].buffer(due_us(31))),
        Err(gst::FlowError::Flushing)
    );
    assert!(!f.h.push_event(mark("flushed")));
    assert!(f.h.push_event(gst::event::FlushStop::new(false)));
    assert_eq!(f.stat("held-packets"), 0);
    begin(&mut f, "again");
    for n in 32..60 {
        f.push_all(due_us(n), &frame(n as u16 + 2, 1, n));
    }
    f.until_out(28);
    let words = f.out.words();
    assert_eq!(words[..2], ["flush-start", "flush-stop"]);
    assert!(words.contains(&"segment".to_owned()), "{words:?}");
    assert_eq!(f.out.seqs()[0], 34);
    assert!(
        f.out.buffers()[0]
            .flags()
            .contains(gst::BufferFlags::DISCONT)
    );
    assert!(f.out.named(LOST).is_empty());
    // Requests go on as well.
    f.push_all(due_us(61), &frame(64, 4, 61));
    f.until("a request", |f| !f.up.named(RTX).is_empty());
}

/// The streaming thread is in the sink, which lets go at the flush.
#[test]
fn a_flush_gets_through_while_the_sink_is_busy() {
    let mut f = Fixture::new("");
    f.out.close();
    f.push_all(due_us(0), &frame(0, 1, 0));
    f.until_out(1);
    let out = f.out.clone();
    let opener = std::thread::spawn(move || {
        wait_for("the flush", || {
            out.words().contains(&"flush-start".to_owned())
        });
        out.open();
    });
    assert!(f.h.push_event(gst::event::FlushStart::new()));
    opener.join().unwrap();
    assert!(f.h.push_event(gst::event::FlushStop::new(true)));
    begin(&mut f, "again");
    f.push_all(due_us(1), &frame(1, 1, 1));
    f.until_out(2);
}

#[test]
fn a_cycle_through_ready_forgets_all() {
    let mut f = Fixture::new("min-latency=7");
    f.frames(0..60, |n| if n % 10 == 9 { 40_000 } else { 0 });
    f.push_all(due_us(60), &frame(61, 2, 60));
    assert!(f.stat("delay") > 0);
    let is_fresh = |f: &Fixture| {
        for name in ["num-pushed", "num-received", "held-packets", "frames"] {
            assert_eq!(f.stat(name), 0, "{name}");
        }
        assert_eq!(f.stat_us("delay"), 7000, "the property stays");
    };
    f.element.set_state(gst::State::Ready).unwrap();
    is_fresh(&f);
    let packet = frame(0, 1, 0)[0].buffer(0);
    assert_eq!(f.h.push(packet), Err(gst::FlowError::Flushing));
    f.element.set_state(gst::State::Playing).unwrap();
    is_fresh(&f);
    f.out.clear();
    begin(&mut f, "again");
    // Another stream, without any relation to the one before.
    for n in 0..30u32 {
        let mut packets = frame(30_000 + n as u16, 1, n);
        packets[0].timestamp = packets[0].timestamp.wrapping_add(0xffff_0000);
        packets[0].ssrc = 99;
        f.push_all(due_us(100 + n), &packets);
        f.until_out(n as usize + 1);
    }
    assert_near(
        f.out.last_pts(),
        due_us(129) + 7000,
        500,
        "as from the start",
    );
    assert_eq!(f.stat("num-other-ssrc"), 0);
}

#[test]
fn it_is_live() {
    init();
    let element = gst::ElementFactory::make("rtpkalmanjitterbuffer")
        .build()
        .unwrap();
    let paused = element.set_state(gst::State::Paused).unwrap();
    assert_eq!(paused, gst::StateChangeSuccess::NoPreroll);
    element.set_state(gst::State::Playing).unwrap();
    let paused = element.set_state(gst::State::Paused).unwrap();
    assert_eq!(paused, gst::StateChangeSuccess::NoPreroll);
    element.set_state(gst::State::Null).unwrap();
}

/// A pad on each side of the element; downstream answers as told.
struct Bare {
    element: gst::Element,
    src: gst::Pad,
    _sink: gst::Pad,
    came: Arc<AtomicU64>,
}

impl Bare {
    fn new(
        properties: &str,
        flow: impl Fn(u64) -> Result<gst::FlowSuccess, gst::FlowError> + Send + Sync + 'static,
    ) -> Self {
        init();
        let line = format!("rtpkalmanjitterbuffer {properties}");
        let element = gst::parse::launch(&line).unwrap();
        let came = Arc::<AtomicU64>::default();
        let counter = came.clone();
        // With a template, as pads of elements: else the caps that it has got
        // just now are looked at.
        let template = gst::PadTemplate::new(
            "sink",
            gst::PadDirection::Sink,
            gst::PadPresence::Always,
            &gst::Caps::new_any(),
        )
        .unwrap();
        let sink = gst::Pad::builder_from_template(&template)
            .chain_function(move |_, _, _| flow(counter.fetch_add(1, Ordering::Relaxed)))
            .event_function(|_, _, _| true)
            .build();
        let src = gst::Pad::builder(gst::PadDirection::Src)
            .event_function(|_, _, _| true)
            .build();
        src.link(&element.static_pad("sink").unwrap()).unwrap();
        element.static_pad("src").unwrap().link(&sink).unwrap();
        for pad in [&src, &sink] {
            pad.set_active(true).unwrap();
        }
        let clock = gst::SystemClock::obtain();
        element.set_clock(Some(&clock)).unwrap();
        element.set_base_time(clock.time());
        element.set_state(gst::State::Playing).unwrap();
        let bare = Self {
            element,
            src,
            _sink: sink,
            came,
        };
        bare.begin();
        bare
    }

    fn begin(&self) {
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        self.src.push_event(gst::event::StreamStart::new("media"));
        self.src.push_event(gst::event::Caps::new(&caps()));
        self.src.push_event(gst::event::Segment::new(&segment));
    }

    fn push(&self, n: u32) -> Result<gst::FlowSuccess, gst::FlowError> {
        let bytes = frame(n as u16, 1, n)[0].bytes();
        self.src.push(gst::Buffer::from_slice(bytes))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.element.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn errors_of_downstream_come_back_to_who_pushes() {
    use gst::FlowError::{Eos, Error, NotLinked, NotNegotiated};
    for error in [Error, NotLinked, NotNegotiated, Eos] {
        let bare = Bare::new("", move |n| {
            if n == 2 {
                Err(error)
            } else {
                Ok(gst::FlowSuccess::Ok)
            }
        });
        let mut n = 0;
        wait_for("the error", || {
            n += 1;
            match bare.push(n) {
                Ok(_) => false,
                Err(err) => {
                    assert_eq!(err, error);
                    true
                }
            }
        });
        // A flush makes it go on.
        bare.src.push_event(gst::event::FlushStart::new());
        bare.src.push_event(gst::event::FlushStop::new(true));
        bare.begin();
        let before = bare.came.load(Ordering::Relaxed);
        wait_for("more packets", || {
            n += 1;
            bare.push(n).unwrap();
            bare.came.load(Ordering::Relaxed) > before + 5
        });
    }
}

/// After the end nobody pushes any more who could be told.
#[test]
fn an_error_behind_the_end_is_posted() {
    let bare = Bare::new("latency=60000", |_| Err(gst::FlowError::Error));
    let bus = gst::Bus::new();
    bare.element.set_bus(Some(&bus));
    let packets = frame(1, 3, 1);
    bare.src
        .push(gst::Buffer::from_slice(packets[0].bytes()))
        .unwrap();
    bare.src.push_event(gst::event::Eos::new());
    let timeout = gst::ClockTime::try_from(PATIENCE).unwrap();
    let message = bus.timed_pop_filtered(timeout, &[gst::MessageType::Error]);
    assert!(message.is_some());
}

/// That it ends is the test.
#[test]
fn states_change_while_packets_come() {
    let stop = AtomicBool::new(false);
    // No packets between the start and the segment.
    let gate = Mutex::new(());
    let bare = Bare::new("do-retransmission=true do-lost=true", |_| {
        Ok(gst::FlowSuccess::Ok)
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1 + u32::from(n % 7 == 0);
                let open = gate.lock().unwrap();
                let _ = bare.push(n);
                drop(open);
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        for round in 0..200 {
            let state = [gst::State::Ready, gst::State::Null, gst::State::Paused][round % 3];
            bare.element.set_state(state).unwrap();
            let closed = gate.lock().unwrap();
            bare.element.set_state(gst::State::Playing).unwrap();
            bare.begin();
            drop(closed);
            if round % 20 == 0 {
                let before = bare.came.load(Ordering::Relaxed);
                wait_for("packets", || bare.came.load(Ordering::Relaxed) > before);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn properties_change_while_packets_come() {
    let stop = AtomicBool::new(false);
    let bare = Bare::new("", |_| Ok(gst::FlowSuccess::Ok));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1 + u32::from(n % 7 == 0);
                bare.push(n).unwrap();
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        // Each of two threads has its own property: none undoes the other's.
        let offset = scope.spawn(|| {
            for n in 0..2000i64 {
                bare.element.set_property("ts-offset", n);
                bare.element.set_property("do-lost", n % 2 == 0);
            }
        });
        for n in 0..2000u32 {
            let model = if n % 100 == 0 { "webrtc" } else { "adaptive" };
            bare.element.set_property_from_str("model", model);
            bare.element.set_property("max-latency", n % 1000);
            bare.element.set_property("min-latency", 1000 - n % 1000);
            bare.element.set_property("latency", n % 300);
            bare.element
                .set_property("late-target", 0.0001 + 0.0001 * f64::from(n));
            bare.element.set_property("do-retransmission", n % 3 == 0);
            bare.element.set_property("drop-on-latency", n % 5 == 0);
            bare.element.set_property("wait-for-keyframe", n % 7 == 0);
            let _: gst::Structure = bare.element.property("stats");
        }
        offset.join().unwrap();
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(bare.element.property::<i64>("ts-offset"), 1999);
    assert!(bare.came.load(Ordering::Relaxed) > 0);
}
