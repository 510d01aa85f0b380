// SPDX-License-Identifier: MPL-2.0
//! The delay, time stamps and latency.

use crate::common::*;
use gst::prelude::*;

fn one_late_of_ten(n: u32) -> u64 {
    if n % 10 == 9 { 40_000 } else { 0 }
}

#[test]
fn a_frame_leaves_when_it_is_whole_with_one_time_stamp() {
    let mut f = Fixture::new("");
    let packets = frame(7, 3, 0);
    f.push_all(due_us(0), &packets[..2]);
    f.until_waiting(due_us(0) + 200_000, 0);
    assert_eq!(f.out.count(), 0, "the rest is not there yet");
    f.push(due_us(0) + 3000, &packets[2]);
    f.until_out(3);
    assert_eq!(f.out.seqs(), [7, 8, 9]);
    let buffers = f.out.buffers();
    for buffer in &buffers {
        assert_eq!(buffer.pts(), buffers[0].pts());
        assert_eq!(buffer.dts(), None);
    }
    assert!(f.out.last_pts() >= due_us(0) + 3000);
    let first = buffers[0].flags().contains(gst::BufferFlags::DISCONT);
    assert!(first, "nothing was before");
    assert!(!buffers[1].flags().contains(gst::BufferFlags::DISCONT));
}

/// What comes in any order leaves in that of the sequence numbers, over the
/// wrap too.
#[test]
fn packets_are_put_in_order() {
    let mut f = Fixture::new("");
    let mut sent = Vec::new();
    for n in 0..20u32 {
        let first = 65_500u16.wrapping_add(n as u16 * 4);
        let packets = frame(first, 4, n);
        let mixed: Vec<_> = [2, 0, 3, 1].map(|at| packets[at].clone()).into();
        // The first number says where the stream begins.
        f.push_all(due_us(n), if n == 0 { &packets } else { &mixed });
        sent.extend(packets.iter().map(|packet| packet.seq));
        f.until_out(sent.len());
    }
    assert_eq!(f.out.seqs(), sent);
    assert!(f.stat("num-reordered") > 0);
    assert_eq!(f.stat("num-lost"), 0);
}

#[test]
fn without_jitter_there_is_no_delay() {
    let mut f = Fixture::new("");
    let delays = f.frames(0..300, |_| 0);
    assert!(delays[0] <= 15_000, "little is known: {} us", delays[0]);
    for delay in &delays[60..] {
        assert!(*delay <= 1000, "{delay} us");
    }
    assert_near(f.stat_us("delay"), delays[299], 500, "it is what it says");
    assert_eq!(f.stat("frames"), 300);
    assert_eq!(f.stat("late-frames"), 0);
}

#[test]
fn the_delay_grows_to_cover_jitter_and_shrinks_when_it_ends() {
    let mut f = Fixture::new("");
    f.frames(0..100, |_| 0);
    let delays = f.frames(100..400, one_late_of_ten);
    assert!(delays[8] <= 1000, "before the first late one");
    assert!(delays[9] >= 40_000, "as soon as it can be: {}", delays[9]);
    for delay in &delays[100..] {
        assert_near(*delay, 40_000, 3000, "the late ones are in time");
    }
    let late = f.stat("late-frames");
    assert!((1..=3).contains(&late), "{late}");
    let delays = f.frames(400..1000, |_| 0);
    // It falls smoothly: frames are shown a bit faster for a while.
    for pair in delays.windows(2) {
        assert!(pair[1] + 8000 > pair[0], "{} -> {} us", pair[0], pair[1]);
    }
    assert!(*delays.last().unwrap() < 8000, "{:?}", delays.last());
    let stamps: Vec<_> = f.out.buffers().iter().map(|b| b.pts()).collect();
    assert!(stamps.is_sorted());
}

#[test]
fn the_late_target_says_how_many_frames_may_be_late() {
    // 4 % of frames are late, in no order.
    let late = |n: u32| {
        if n.wrapping_mul(0x9e37_79b9) >> 16 < 2621 {
            60_000
        } else {
            0
        }
    };
    for (target, delay, missed) in [(0.005, 55_000..70_000, 0..10), (0.2, 0..20_000, 20..60)] {
        let mut f = Fixture::new(&format!("late-target={target}"));
        f.frames(0..900, late);
        let is = f.stat_us("delay");
        assert!(delay.contains(&is), "{target}: {is} us");
        let is = f.stat("late-frames");
        assert!(missed.contains(&is), "{target}: {is} late");
    }
}

#[test]
fn the_delay_keeps_within_its_limits() {
    let mut f = Fixture::new("min-latency=80");
    for delay in f.frames(0..60, |_| 0) {
        assert_near(delay, 80_000, 500, "the smallest");
    }
    let mut f = Fixture::new("max-latency=20");
    f.frames(0..100, one_late_of_ten);
    let delays = f.frames(100..200, one_late_of_ten);
    assert_near(delays[8], 20_000, 500, "the largest");
    assert_near(delays[9], 40_000, 500, "late is shown at once");
    let mut f = Fixture::new("min-latency=80 max-latency=20");
    for delay in f.frames(0..60, |_| 0) {
        assert_near(delay, 20_000, 500, "the smaller goes before");
    }
}

#[test]
fn limits_and_model_change_while_playing() {
    let mut f = Fixture::new("");
    f.frames(0..100, one_late_of_ten);
    f.element.set_property("min-latency", 100u32);
    assert_near(f.frames(100..101, |_| 0)[0], 100_000, 500, "at once");
    f.element.set_property("min-latency", 0u32);
    // Stamps do not go back, so it takes two frames.
    assert_near(f.frames(101..104, |_| 0)[2], 40_000, 3000, "it is kept");
    f.element.set_property_from_str("model", "webrtc");
    f.frames(104..105, |_| 0);
    let delays = f.frames(105..400, one_late_of_ten);
    assert!(*delays.last().unwrap() > 2000, "{:?}", delays.last());
    assert!(delays.iter().all(|delay| *delay < 200_000));
}

/// Time stamp and latency that the pipeline knows are the time at which a frame
/// is shown: it does not jump when the pipeline takes a new one over.
#[test]
fn stamps_make_up_for_the_latency_of_the_pipeline() {
    let mut f = Fixture::new("");
    f.posted(gst::MessageType::Latency);
    assert_eq!(f.ask_latency(), 0);
    f.frames(0..300, one_late_of_ten);
    assert!(f.posted(gst::MessageType::Latency), "it has changed");
    let told = f.stat_us("latency");
    assert!((40_000..=50_000).contains(&told), "{told}");
    assert_eq!(told % 5000, 0, "in steps");
    let before = f.frames(300..301, |_| 0)[0];
    assert_near(
        before,
        40_000,
        3000,
        "without LATENCY it is all in the stamp",
    );
    assert_eq!(f.ask_latency(), told);
    let asked = f.frames(301..302, |_| 0)[0];
    assert_near(asked, before, 500, "a question alone changes nothing");
    // Someone else in the pipeline needs 20 ms more.
    f.set_pipeline_latency(told + 20_000);
    let mut shown = Vec::new();
    for n in 302..400 {
        f.push_all(due_us(n), &frame(n as u16, 1, n));
        f.until_out(n as usize + 1);
        shown.push(f.out.last_pts() + told - due_us(n));
    }
    // It takes two frames, as stamps do not go back.
    for shown in &shown[3..] {
        assert_near(*shown, before, 3000, "shown at the same time as before");
    }
    let stamps: Vec<_> = f.out.buffers().iter().map(|b| b.pts()).collect();
    assert!(stamps.is_sorted());
    assert!(!f.posted(gst::MessageType::Latency), "it is what it was");
}

#[test]
fn upstream_latency_is_added_and_no_part_of_ours() {
    let mut f = Fixture::new("min-latency=100");
    f.h.set_upstream_latency(gst::ClockTime::from_mseconds(30));
    assert_eq!(f.ask_latency(), 130_000);
    f.set_pipeline_latency(130_000);
    let delays = f.frames(0..60, |_| 0);
    assert_near(delays[59], 0, 500, "100 ms of it are ours");
    // A pipeline that has less than was answered.
    f.set_pipeline_latency(40_000);
    let delays = f.frames(60..63, |_| 0);
    assert_near(delays[2], 60_000, 500, "the rest is in the stamp");
}

#[test]
fn the_answer_is_live_and_without_a_maximum() {
    let f = Fixture::new("min-latency=12");
    let mut query = gst::query::Latency::new();
    assert!(f.element.static_pad("src").unwrap().query(&mut query));
    let (live, min, max) = query.result();
    assert!(live);
    assert_eq!((min.useconds(), max), (15_000, None), "the step above 12");
}

#[test]
fn the_latency_falls_some_time_after_the_delay() {
    let mut f = Fixture::new("");
    f.frames(0..200, one_late_of_ten);
    let high = f.stat_us("latency");
    f.posted(gst::MessageType::Latency);
    f.frames(200..300, |_| 0);
    assert_eq!(f.stat_us("latency"), high, "not after 3 s");
    assert!(!f.posted(gst::MessageType::Latency));
    f.frames(300..1000, |_| 0);
    let low = f.stat_us("latency");
    assert!(low <= 10_000, "{low}");
    assert!(f.posted(gst::MessageType::Latency));
    assert_eq!(f.ask_latency(), low);
}

/// The sink says of each frame how late it came.
#[test]
fn the_time_for_decoding_comes_on_top() {
    let mut f = Fixture::new("");
    let mut run = |numbers: std::ops::Range<u32>, took: &dyn Fn(u32) -> u64| {
        let mut added = 0;
        for n in numbers {
            added = f.frames(n..n + 1, |_| 0)[0];
            let pts = f.out.buffers().last().unwrap().pts().unwrap();
            let came = due_us(n) + took(n);
            let diff = came.cast_signed() - pts.useconds().cast_signed();
            f.send(gst::event::Qos::new(
                gst::QOSType::Underflow,
                1.0,
                diff * 1000,
                pts,
            ));
        }
        (added, f.stat_us("decode-time"))
    };
    let (added, decode) = run(0..200, &|_| 8000);
    assert_near(decode, 8000, 200, "from when it left to the sink");
    assert_near(added, 8000, 500, "and it is waited for");
    // A single slow one is not.
    let (added, decode) = run(200..260, &|n| if n == 230 { 90_000 } else { 8000 });
    assert_near(decode, 8000, 200, "one of 260");
    assert_near(added, 8000, 500, "one of 260");
    let target = f.stat_us("target");
    assert_near(target, f.stat_us("delay") + decode, 1, "delay and decoding");
}

#[test]
fn an_offset_is_added_to_time_stamps() {
    let mut f = Fixture::new("");
    f.frames(0..60, |_| 0);
    f.element.set_property("ts-offset", 70_000_000i64);
    assert_near(f.frames(60..61, |_| 0)[0], 70_000, 500, "added");
    f.element.set_property("ts-offset", i64::MIN);
    f.push_all(due_us(61), &frame(61, 1, 61));
    f.until_out(62);
    assert_eq!(f.out.last_pts(), 0, "there is no time before zero");
}
