// SPDX-License-Identifier: MPL-2.0
//! Senders that begin anew, and others that send to the same place.

use crate::common::*;

/// Frame `n` of a sender that began anew.
fn anew(n: u32) -> Packet {
    Packet {
        seq: 40_000u16.wrapping_add(n as u16),
        timestamp: (n * FRAME).wrapping_add(0x7654_3210),
        marker: true,
        ..Packet::default()
    }
}

#[test]
fn three_packets_in_a_row_are_a_new_stream() {
    let mut f = Fixture::new("do-lost=true");
    f.frames(0..100, |_| 0);
    f.out.clear();
    f.push(due_us(100), &anew(100));
    f.push(due_us(101), &anew(101));
    assert_eq!(f.stat("num-astray"), 2);
    assert_eq!(f.stat("restarts"), 0);
    for n in 102..160 {
        f.push(due_us(n), &anew(n));
        f.until_out(n as usize - 99);
    }
    assert_eq!(f.stat("restarts"), 1);
    let seqs: Vec<_> = (40_100..40_160).collect();
    assert_eq!(f.out.seqs(), seqs, "the first two are not lost");
    assert!(f.out.named(LOST).is_empty());
    assert!(
        f.out.buffers()[0]
            .flags()
            .contains(gst::BufferFlags::DISCONT)
    );
    let stamps: Vec<_> = f.out.buffers().iter().map(|b| b.pts()).collect();
    assert!(stamps.is_sorted());
    assert!(f.stat_us("delay") < 70_000, "the first ones were held back");
}

/// What was learnt of the network holds for the new stream, too.
#[test]
fn the_delay_is_kept_when_a_sender_begins_anew() {
    let mut f = Fixture::new("");
    f.frames(0..300, |n| if n % 10 == 9 { 40_000 } else { 0 });
    for n in 300..330 {
        f.push(due_us(n), &anew(n));
        f.until("nothing held", |f| f.stat("held-packets") == 0);
    }
    assert_eq!(f.stat("restarts"), 1);
    let delay = f.stat_us("delay");
    assert!((30_000..110_000).contains(&delay), "{delay} us");
}

#[test]
fn what_does_not_fit_is_dropped() {
    let mut f = Fixture::new("");
    f.frames(0..30, |_| 0);
    for n in 30..60u32 {
        // Each with other numbers.
        let stray = Packet {
            seq: 20_000 + n as u16 * 100,
            timestamp: 0x8000_0000 + n,
            ..Packet::default()
        };
        f.push(due_us(n), &stray);
        f.frames(n..n + 1, |_| 0);
    }
    assert_eq!(f.stat("num-astray"), 30);
    assert_eq!(f.stat("restarts"), 0);
    assert_eq!(f.out.seqs(), (0..60).collect::<Vec<_>>());
}

#[test]
fn another_ssrc_is_taken_when_the_first_is_silent() {
    let mut f = Fixture::new("");
    let other = |n: u32| Packet {
        ssrc: 77,
        ..anew(n)
    };
    f.frames(0..30, |_| 0);
    for n in 30..60 {
        f.frames(n..n + 1, |_| 0);
        f.push(due_us(n), &other(n));
    }
    assert_eq!(f.stat("num-other-ssrc"), 30);
    assert_eq!(f.out.count(), 60);
    for n in 70..100 {
        f.push(due_us(n), &other(n));
    }
    // Three in a row, the first of which was before the pause.
    assert_eq!(f.stat("num-other-ssrc"), 31);
    f.until_out(89);
    assert_eq!(*f.out.seqs().last().unwrap(), 40_099);
    assert_eq!(f.stat("restarts"), 1);
}
