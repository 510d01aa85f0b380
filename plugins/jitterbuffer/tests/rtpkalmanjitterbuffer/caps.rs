// SPDX-License-Identifier: MPL-2.0
//! What caps and the signal `request-pt-map` tell; header extensions; groups.

use std::sync::{Arc, Mutex};

use crate::common::*;
use gst::prelude::*;

fn bare_caps() -> gst::Caps {
    init();
    gst::Caps::new_empty_simple("application/x-rtp")
}

/// Answers with the clock rate of 90 kHz for payload type 96; says what was
/// asked for.
fn answer_pt_map(f: &Fixture) -> Arc<Mutex<Vec<u32>>> {
    let asked = Arc::<Mutex<Vec<u32>>>::default();
    let log = asked.clone();
    f.element.connect("request-pt-map", false, move |values| {
        let pt: u32 = values[1].get().unwrap();
        log.lock().unwrap().push(pt);
        Some((pt == u32::from(PT)).then(caps).to_value())
    });
    asked
}

#[test]
fn what_caps_do_not_tell_is_asked_for_once() {
    let mut f = Fixture::with_caps("", bare_caps());
    let asked = answer_pt_map(&f);
    f.frames(0..30, |_| 0);
    assert_eq!(*asked.lock().unwrap(), [96]);
    for n in 30..40 {
        let packet = Packet {
            pt: 97,
            ..frame(n as u16, 1, n)[0].clone()
        };
        f.push(due_us(n), &packet);
    }
    assert_eq!(*asked.lock().unwrap(), [96, 97]);
    assert_eq!(f.stat("num-no-clock-rate"), 10);
    f.element.emit_by_name::<()>("clear-pt-map", &[]);
    f.push_all(due_us(40), &frame(30, 1, 40));
    assert_eq!(*asked.lock().unwrap(), [96, 97, 96]);
    f.until_out(31);
}

#[test]
fn what_caps_tell_is_not_asked_for() {
    let mut f = Fixture::new("");
    let asked = answer_pt_map(&f);
    f.frames(0..30, |_| 0);
    assert!(asked.lock().unwrap().is_empty());
}

/// As with rtpjitterbuffer the caps are what there is, if nobody answers.
#[test]
fn clear_pt_map_does_not_forget_caps() {
    let mut f = Fixture::new("");
    f.frames(0..30, |_| 0);
    f.element.emit_by_name::<()>("clear-pt-map", &[]);
    f.frames(30..60, |_| 0);
    assert_eq!(f.stat("num-no-clock-rate"), 0);
}

#[test]
fn without_a_clock_rate_packets_are_dropped_and_counted() {
    let mut f = Fixture::with_caps("", bare_caps());
    for n in 0..10 {
        f.push_all(due_us(n), &frame(n as u16, 1, n));
    }
    assert_eq!(f.stat("num-no-clock-rate"), 10);
    assert_eq!(f.stat("num-received"), 0);
    // Later it is known.
    f.h.push_event(gst::event::Caps::new(&caps()));
    f.frames(10..20, |_| 0);
    assert_eq!(f.out.count(), 10);
}

/// 20 ms of audio at 48 kHz, without markers.
fn audio(n: u32) -> Packet {
    Packet {
        seq: n as u16,
        timestamp: n * 960,
        pt: 97,
        ..Packet::default()
    }
}

fn audio_caps() -> gst::Caps {
    init();
    gst::Caps::builder("application/x-rtp")
        .field("media", "audio")
        .field("encoding-name", "OPUS")
        .field("payload", 97i32)
        .field("clock-rate", 48_000i32)
        .build()
}

#[test]
fn each_packet_of_audio_is_a_frame() {
    let mut f = Fixture::with_caps("do-lost=true", audio_caps());
    for n in 0..100 {
        let us = 1_000_000 + u64::from(n) * 20_000;
        f.push(us, &audio(n));
        f.until_out(n as usize + 1);
        let delay = f.out.last_pts() - us;
        assert!(
            delay <= 15_000 && (n < 60 || delay < 500),
            "{n}: {delay} us"
        );
    }
    assert_eq!(f.stat("frames"), 100);
    f.out.clear();
    let us = 1_000_000 + 101 * 20_000;
    f.push(us, &audio(101));
    f.set_us(us + 200_500);
    f.until_out(1);
    assert_eq!(f.out.words(), [LOST, "101"]);
}

#[test]
fn the_clock_rate_changes_with_the_format() {
    let mut f = Fixture::new("");
    f.frames(0..60, |_| 0);
    f.push_all(due_us(60), &frame(60, 2, 60)[..1]);
    f.h.push_event(gst::event::Caps::new(&audio_caps()));
    f.out.clear();
    // Numbers are lower than those before, times are, too.
    let mut last = 0;
    for n in 0..60 {
        let us = due_us(60) + 100_000 + u64::from(n) * 20_000;
        f.push(us, &audio(n));
        f.until("packet", |f| f.out.seqs().contains(&(n as u16)));
        last = f.out.last_pts().saturating_sub(us);
    }
    assert!(last < 1000, "stamps go on: {last} us");
    let words = f.out.words();
    let at = |word: &str| words.iter().position(|w| w == word).unwrap();
    assert!(at("caps") < at("0"), "{words:?}");
    let stamps: Vec<_> = f.out.buffers().iter().map(|b| b.pts()).collect();
    let step = |pair: &[Option<gst::ClockTime>]| pair[1].unwrap() - pair[0].unwrap();
    let mean = stamps[20..].windows(2).map(|pair| step(pair).useconds());
    assert_near(
        mean.sum::<u64>() / (stamps.len() as u64 - 21),
        20_000,
        500,
        "apart",
    );
}

/// What two formats share is little; that they alternate must not cost memory.
#[test]
fn formats_may_alternate() {
    let mut f = Fixture::with_caps("", bare_caps());
    f.element.connect("request-pt-map", false, |values| {
        let pt: u32 = values[1].get().unwrap();
        Some(Some(if pt == 96 { caps() } else { audio_caps() }).to_value())
    });
    for n in 0..500 {
        let mut packet = frame(n as u16, 1, n)[0].clone();
        packet.pt = 96 + (n % 2) as u8;
        f.push(due_us(n), &packet);
    }
    f.until("nothing held", |f| f.stat("held-packets") == 0);
    assert!(f.out.count() >= 400, "{}", f.out.count());
}

fn with_delay(n: u32, value: [u8; 3]) -> Packet {
    Packet {
        extensions: vec![(3, value.to_vec())],
        ..frame(n as u16, 1, n)[0].clone()
    }
}

#[test]
fn the_sender_may_wish_for_a_delay() {
    for array in [false, true] {
        let mut caps = caps();
        if array {
            let value = gst::Array::new(["", PLAYOUT_URI, ""]);
            caps.make_mut().set("extmap-3", value);
        }
        let mut f = Fixture::with_caps("max-latency=500", caps);
        f.frames(0..60, |_| 0);
        let delay = |f: &mut Fixture, n, value| {
            f.push(due_us(n), &with_delay(n, value));
            f.push_all(due_us(n + 1), &frame(n as u16 + 1, 1, n + 1));
            f.until_out(n as usize + 2);
            f.out.last_pts().saturating_sub(due_us(n + 1))
        };
        // 150 ms to 1 s, then 700 ms to 1 s, then what is no wish.
        let is = delay(&mut f, 60, [0x00, 0xf0, 0x64]);
        assert_near(is, 150_000, 500, "the smallest it wishes");
        let is = delay(&mut f, 62, [0x04, 0x60, 0x64]);
        assert_near(is, 500_000, 500, "the property goes before");
        let is = delay(&mut f, 64, [0xff, 0xf0, 0x00]);
        assert_near(is, 500_000, 500, "smallest above largest");
    }
    // Without the name in caps it is not looked at.
    let mut caps = caps();
    let structure = caps.make_mut().structure_mut(0).unwrap();
    structure.remove_field("extmap-3");
    let mut f = Fixture::with_caps("", caps);
    f.frames(0..60, |_| 0);
    f.push(due_us(60), &with_delay(60, [0x00, 0xf0, 0x64]));
    f.until_out(61);
    assert_near(f.out.last_pts(), due_us(60), 500, "no wish");
}

/// A frame of a dual stream.
fn tagged(seq: u16, timestamp: u32, number: u16, background: bool) -> Packet {
    let [high, low] = number.to_be_bytes();
    let flags = 0x40 | u8::from(background) << 4;
    Packet {
        seq,
        timestamp,
        marker: true,
        extensions: vec![(4, vec![flags, high, low, 0])],
        ..Packet::default()
    }
}

#[test]
fn background_frames_do_not_count_for_the_delay() {
    for (background, delays) in [(true, 0..1000), (false, 100_000..400_000)] {
        let mut f = Fixture::new("late-target=0.0001");
        f.frames(0..60, |_| 0);
        for n in 60..90u32 {
            f.push(due_us(n), &tagged(n as u16, n * FRAME, n as u16, false));
            f.until_out(n as usize + 1);
        }
        // It is trickled for 150 ms.
        let mut last = 0;
        for part in 0..10 {
            let mut packet = tagged(90 + part, 90 * FRAME, 90, background);
            packet.marker = part == 9;
            last = due_us(90) + u64::from(part) * 16_000;
            f.push(last, &packet);
        }
        f.until_out(100);
        let is = f.stat_us("delay");
        assert!(delays.contains(&is), "{background}: {is} us");
        assert!(f.out.last_pts() >= last, "it leaves when it is whole");
        assert_eq!(f.stat("frames"), if background { 90 } else { 91 });
    }
}

/// Both streams of a dual stream; the second begins when the first has learnt.
#[test]
fn elements_of_a_group_share_the_estimate() {
    let late = |n: u32| if n % 10 == 9 { 40_000 } else { 0 };
    let other = 0x8765_4321;
    let push = |f: &mut Fixture, seq: u16, n: u32, offset: u32| {
        let timestamp = (n * FRAME).wrapping_add(offset);
        let background = offset > 0 && n < 200;
        let packet = tagged(seq, timestamp, n as u16, background);
        let us = due_us(n) + late(n);
        f.push(us, &packet);
        f.until("packet", |f| f.out.seqs().contains(&seq));
        f.out.last_pts().saturating_sub(due_us(n))
    };
    for (group, jumps) in [("group=one-of-both", false), ("group=other", true)] {
        let mut first = Fixture::new("group=one-of-both");
        let mut second = Fixture::new(group);
        let mut before = 0;
        for n in 0..200 {
            before = push(&mut first, n as u16, n, 0);
            if n % 50 == 10 {
                push(&mut second, 7000 + n as u16 / 50, n, other);
            }
        }
        assert_near(before, 40_000, 3000, "learnt");
        let mut most = 0;
        for n in 200..220 {
            let delay = push(&mut second, 7004 + n as u16 - 200, n, other);
            most = most.max(delay.abs_diff(before));
        }
        assert_eq!(most > 5000, jumps, "{group}: {most} us");
        let shared = (first.stat("frames"), second.stat("frames"));
        assert_eq!(shared, if jumps { (200, 20) } else { (220, 220) });
    }
}
