// SPDX-License-Identifier: MPL-2.0
//! Packets that are lost, late or too many.

use crate::common::*;
use gst::prelude::*;

const IDR: u8 = 0x65;

fn discont(buffer: &gst::Buffer) -> bool {
    buffer.flags().contains(gst::BufferFlags::DISCONT)
}

/// 60 frames of one packet, then one of four without those in the middle.
fn with_a_gap(properties: &str) -> Fixture {
    let mut f = Fixture::new(properties);
    f.frames(0..60, |_| 0);
    f.out.clear();
    let packets = frame(60, 4, 60);
    f.push(due_us(60), &packets[0]);
    f.push(due_us(60), &packets[3]);
    f
}

#[test]
fn a_missing_packet_is_waited_for_until_latency_after_its_frame_was_due() {
    for (latency, min) in [(200, 0), (50, 0), (50, 120)] {
        let mut f = with_a_gap(&format!("latency={latency} min-latency={min}"));
        // Frames behind do not change it.
        f.push_all(due_us(61), &frame(64, 1, 61));
        let hold = 1000 * std::cmp::max::<u64>(latency, min);
        f.until_waiting(due_us(60) + hold, 500);
        f.set_us(due_us(60) + hold - 500);
        f.until_waiting(due_us(60) + hold, 500);
        assert_eq!(f.out.count(), 0);
        f.set_us(due_us(60) + hold + 500);
        f.until_out(3);
        assert_eq!(f.out.seqs(), [60, 63, 64]);
        let flags: Vec<_> = f.out.buffers().iter().map(discont).collect();
        assert_eq!(flags, [false, true, false], "behind the gap");
        assert_eq!(f.stat("num-lost"), 2);
        assert_eq!(f.out.named(LOST).len(), 0, "nobody asked for them");
    }
}

/// Nothing is missing, but the rest takes its time.
#[test]
fn a_slow_frame_is_waited_for_while_its_packets_come() {
    for (latency, min, hold) in [(50, 0, 50), (50, 120, 120)] {
        let mut f = Fixture::new(&format!("latency={latency} min-latency={min}"));
        f.frames(0..60, |_| 0);
        let packets = frame(60, 4, 60);
        f.push(due_us(60), &packets[0]);
        f.until_waiting(due_us(60) + hold * 1000, 500);
        for (n, packet) in packets.iter().enumerate().skip(1) {
            f.push(due_us(60) + 40_000 * n as u64, packet);
        }
        f.until_out(64);
        assert!(!discont(&f.out.buffers()[63]));
        assert_eq!(f.stat("num-lost"), 0);
        // Of another one nothing more comes.
        let late = due_us(66);
        f.push(late, &frame(64, 4, 66)[0]);
        f.set_us(late + 400_000);
        f.until_out(65);
    }
}

#[test]
fn latency_changes_for_what_is_waited_for() {
    let f = with_a_gap("latency=200");
    f.until_waiting(due_us(60) + 200_000, 500);
    f.element.set_property("latency", 100u32);
    f.until_waiting(due_us(60) + 100_000, 500);
    f.set_us(due_us(60) + 100_500);
    f.until_out(2);
}

#[test]
fn lost_packets_are_told_in_their_place() {
    let mut f = with_a_gap("do-lost=true");
    f.push_all(due_us(61), &frame(64, 1, 61));
    f.set_us(due_us(60) + 200_500);
    f.until_out(3);
    assert_eq!(f.out.words(), ["60", LOST, LOST, "63", "64"]);
    let events = f.out.named(LOST);
    let pts = f.out.buffers()[1].pts();
    for (event, seq) in events.iter().zip([61u32, 62]) {
        assert_eq!(event.get("seqnum"), Ok(seq));
        assert_eq!(event.get("timestamp"), Ok(pts.map_or(0, |p| p.nseconds())));
        assert_eq!(event.get("duration"), Ok(0u64));
        assert_eq!(event.get("retry"), Ok(0u32));
    }
}

/// The end of a frame and the beginning of the next are missing.
#[test]
fn a_gap_between_frames() {
    let mut f = Fixture::new("do-lost=true");
    f.frames(0..60, |_| 0);
    f.out.clear();
    f.push_all(due_us(60), &frame(60, 3, 60)[..2]);
    f.push_all(due_us(61), &frame(63, 3, 61)[1..]);
    f.set_us(due_us(61) + 200_500);
    f.until_out(4);
    assert_eq!(f.out.words(), ["60", "61", LOST, LOST, "64", "65"]);
    assert_eq!(f.stat("num-lost"), 2);
}

#[test]
fn of_a_long_gap_only_so_many_are_told() {
    let mut f = Fixture::new("do-lost=true");
    f.frames(0..60, |_| 0);
    f.out.clear();
    f.push_all(due_us(90), &frame(1060, 1, 90));
    f.set_us(due_us(90) + 200_500);
    f.until_out(1);
    assert_eq!(f.out.named(LOST).len(), 256);
    assert_eq!(f.stat("num-lost"), 1000);
}

#[test]
fn what_is_late_or_double_is_counted_and_dropped() {
    let mut f = with_a_gap("");
    let packets = frame(60, 4, 60);
    f.push(due_us(60), &packets[3]);
    assert_eq!(f.stat("num-duplicates"), 1, "held");
    f.set_us(due_us(60) + 200_500);
    f.until_out(2);
    f.push_all(due_us(60) + 201_000, &packets);
    assert_eq!(f.stat("num-late"), 4);
    f.push_all(due_us(66), &frame(64, 1, 66));
    f.until_out(3);
    assert_eq!(f.out.seqs(), [60, 63, 64]);
    let [received, pushed] = ["num-received", "num-pushed"].map(|name| f.stat(name));
    assert_eq!(received, pushed + 5, "in = out + dropped");
    assert_eq!(f.stat("held-packets"), 0);
}

#[test]
fn a_gap_that_is_filled_costs_nothing() {
    let mut f = with_a_gap("do-lost=true");
    let packets = frame(60, 4, 60);
    f.push(due_us(60) + 5000, &packets[2]);
    f.push(due_us(60) + 6000, &packets[1]);
    f.until_out(4);
    assert_eq!(f.out.words(), ["60", "61", "62", "63"]);
    assert!(!f.out.buffers().iter().any(discont));
    assert_eq!(f.stat("num-reordered"), 2);
}

#[test]
fn with_drop_on_latency_no_more_than_latency_is_held() {
    for (properties, dropped) in [("drop-on-latency=true", 52..54), ("", 0..1)] {
        let mut f = Fixture::new(properties);
        f.out.close();
        f.push_all(due_us(0), &frame(0, 1, 0));
        f.until_out(1);
        for n in 1..60 {
            f.push_all(due_us(n), &frame(n as u16, 1, n));
        }
        let is = f.stat("num-dropped");
        assert!(dropped.contains(&is), "{properties}: {is}");
        // 200 ms are 6 frames, from the first to the last.
        assert_eq!(f.stat("held-packets"), 59 - is);
        f.out.open();
        f.until_out(60 - is as usize);
        let seqs: Vec<_> = [0].into_iter().chain(1 + is as u16..60).collect();
        assert_eq!(f.out.seqs(), seqs, "the oldest go");
        assert_eq!(discont(&f.out.buffers()[1]), is > 0);
    }
}

fn coded(first: u16, packets: u16, n: u32, nal: u8) -> Vec<Packet> {
    let mut packets = frame(first, packets, n);
    for packet in &mut packets {
        packet.payload[0] = nal;
    }
    packets
}

#[test]
fn with_wait_for_keyframe_nothing_leaves_that_cannot_be_decoded() {
    let mut f = Fixture::new("wait-for-keyframe=true do-lost=true");
    for n in 0..10 {
        f.push_all(due_us(n), &coded(n as u16, 1, n, 0x41));
    }
    f.until("a request", |f| f.up.named(KEY).len() == 1);
    let asked = &f.up.named(KEY)[0];
    assert_eq!(asked.get("ssrc"), Ok(SSRC));
    assert_eq!(asked.get("payload"), Ok(u32::from(PT)));
    assert_eq!(asked.get("all-headers"), Ok(true));
    assert_eq!(asked.get("count"), Ok(0u32));
    assert_eq!(f.stat("num-undecodable"), 10);
    f.push_all(due_us(10), &coded(10, 4, 10, IDR));
    f.push_all(due_us(11), &coded(14, 1, 11, 0x41));
    f.until_out(5);
    assert_eq!(f.out.seqs(), [10, 11, 12, 13, 14]);
    assert!(discont(&f.out.buffers()[0]));
    // A broken frame, and those that are predicted from it.
    f.push_all(due_us(12), &coded(15, 3, 12, 0x41)[..1]);
    f.push_all(due_us(12), &coded(15, 3, 12, 0x41)[2..]);
    for n in 13..18 {
        f.push_all(due_us(n), &coded(5 + n as u16, 1, n, 0x41));
    }
    f.until_waiting(due_us(12) + 200_000, 15_000);
    f.set_us(due_us(12) + 216_000);
    f.until("another request", |f| f.up.named(KEY).len() == 2);
    f.push_all(due_us(19), &coded(23, 2, 19, IDR));
    f.until_out(7);
    assert_eq!(f.out.seqs()[5..], [23, 24]);
    assert!(discont(&f.out.buffers()[5]));
    assert_eq!(f.stat("num-undecodable"), 10 + 2 + 5);
    assert_eq!(f.stat("key-frame-requests"), 2);
}

#[test]
fn a_key_frame_is_asked_for_again_if_none_comes() {
    let mut f = Fixture::new("wait-for-keyframe=true");
    for n in 0..60 {
        f.push_all(due_us(n), &coded(n as u16, 1, n, 0x41));
        f.until("what is wanted", |f| {
            f.up.named(KEY).len() as u64 == f.stat("key-frame-requests")
        });
    }
    assert_eq!(f.up.named(KEY).len(), 4, "each 500 ms");
    assert_eq!(f.out.count(), 0);
}

/// Depayloaders take what is broken: without the property it leaves.
#[test]
fn broken_frames_leave_otherwise() {
    let mut f = Fixture::new("");
    f.push_all(due_us(0), &coded(0, 1, 0, 0x41));
    f.until_out(1);
    f.element.set_property("wait-for-keyframe", true);
    f.push_all(due_us(1), &coded(1, 1, 1, 0x41));
    f.until_out(2);
    f.push_all(due_us(2), &coded(3, 1, 2, 0x41));
    f.set_us(due_us(2) + 250_000);
    f.until("a request", |f| f.up.named(KEY).len() == 1);
    assert_eq!(f.out.count(), 2, "behind a loss nothing");
    f.element.set_property("wait-for-keyframe", false);
    f.push_all(due_us(11), &coded(4, 1, 11, 0x41));
    f.until_out(3);
}

/// The front is stamped with what it was made from, but nothing is put behind
/// the gap for longer than it may: what is held is bounded in packets.
#[test]
fn no_more_than_so_many_packets_are_held() {
    let mut f = Fixture::new("latency=60000");
    f.push_all(due_us(0), &frame(0, 1, 0));
    f.until_out(1);
    // Behind a gap, within one frame.
    for seq in 2..18_000u16 {
        let packet = Packet {
            seq,
            timestamp: FRAME,
            ..Packet::default()
        };
        f.push(due_us(1), &packet);
        if seq % 1000 == 0 {
            assert!(f.stat("held-packets") <= 16_384);
        }
    }
    assert!(f.stat("num-dropped") + f.stat("num-pushed") > 1000);
    assert!(f.stat("held-packets") <= 16_384);
}
