// SPDX-License-Identifier: MPL-2.0
//! Streams that no honest sender makes, or rarely.

#[allow(dead_code)] // Each test uses its own part.
mod rig;

use jitterbuffer_core::{
    Assembly, BufferConfig, LONGEST_DELAY, ModelKind, Next, NextRequest, Packet, Part, Rejected,
};
use rig::*;

fn stray(sequence: u16, timestamp: u32) -> Packet<u64> {
    Packet {
        timestamp,
        ..packet(sequence)
    }
}

#[test]
fn astray_packets_are_counted_once_whether_let_in_or_not() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.push(at(0), packet(0)).unwrap();
    for n in [30_000, 30_001] {
        let pushed = rig.push(at(1), stray(n, 1 << 30));
        assert_eq!(pushed, Err(Rejected::Astray));
        assert_accounted(&rig.buffer.stats());
    }
    rig.push(at(1), stray(30_002, 1 << 30)).unwrap();
    let stats = rig.buffer.stats();
    assert_eq!((stats.astray, stats.readmitted, stats.restarts), (2, 2, 1));
    assert_accounted(&stats);
    rig.packets(at(2000));
    assert_accounted(&rig.buffer.stats());
}

/// Three numbers in a row, and times that have nothing to do with each other.
#[test]
fn a_restart_may_leave_packets_astray() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.push(at(0), packet(0)).unwrap();
    let far = 1 << 30;
    for (n, time) in [(30_000, 2 * far), (30_001, far), (30_002, far)] {
        assert_eq!(rig.push(at(1), stray(n, time)), Err(Rejected::Astray));
    }
    let stats = rig.buffer.stats();
    assert_eq!((stats.astray, stats.readmitted, stats.restarts), (3, 1, 1));
    assert_accounted(&stats);
}

#[test]
fn what_is_flushed_is_counted_as_dropped() {
    let mut rig = Rig::new(BufferConfig::default());
    for n in [0, 1, 2, 3, 5] {
        rig.push(at(0), packet(n)).unwrap();
    }
    rig.buffer.flush(&mut rig.timing);
    let stats = rig.buffer.stats();
    assert_eq!((stats.dropped, stats.held_packets), (5, 0));
    assert_accounted(&stats);
}

fn asks_for_key(left: &[Next<u64>]) -> usize {
    left.iter()
        .filter(|next| matches!(next, Next::AskForKeyFrame))
        .count()
}

#[test]
fn a_key_frame_is_asked_for_though_more_is_dropped() {
    let mut rig = Rig::new(BufferConfig {
        wait_for_key: true,
        max_packets: 4,
        ..BufferConfig::default()
    });
    let key = |sequence| Packet {
        part: Part {
            begins: true,
            key: true,
            reference: true,
        },
        ..packet(sequence)
    };
    for n in 0..3 {
        rig.push(at(0), key(n)).unwrap();
    }
    assert_eq!(asks_for_key(&rig.poll(at(0)).0), 0);
    // A gap, and a frame behind it of more packets than are held.
    for n in 4..20 {
        let endless = Packet {
            marker: false,
            ..stray(n, FRAME)
        };
        rig.push(at(1), endless).unwrap();
    }
    assert_eq!(asks_for_key(&rig.poll(at(1)).0), 1);
    assert_eq!(rig.buffer.stats().key_requests, 1);
}

/// Nothing is taken out, and the stream begins anew all the time, each time
/// with a gap.
#[test]
fn what_says_that_packets_were_lost_is_bounded() {
    let mut rig = Rig::new(BufferConfig {
        wait_for_key: true,
        max_packets: 50,
        ..BufferConfig::default()
    });
    for round in 0..1000u16 {
        let base = round.wrapping_mul(20_000);
        for n in [0, 1, 2, 3, 5, 6, 8, 9, 11] {
            let _ = rig.push(at(1), stray(base.wrapping_add(n), u32::from(n / 3) * FRAME));
        }
    }
    assert!(rig.buffer.stats().restarts > 900);
    let left = rig.poll(at(1)).0;
    assert!(left.len() <= 51, "{}", left.len());
}

#[test]
fn what_was_behind_dropped_packets_goes_at_once() {
    let mut rig = Rig::new(BufferConfig {
        max_packets: 4,
        ..BufferConfig::default()
    });
    for n in [0, 3, 4, 5] {
        rig.push(at(0), packet(n)).unwrap();
    }
    let out: Vec<_> = rig.packets(at(0)).iter().map(|out| out.data).collect();
    assert_eq!(out, [3, 4, 5]);
}

/// Their time stamps would be taken for those of the new stream, hours away.
#[test]
fn a_restart_does_not_change_when_the_last_frames_are_shown() {
    let mut rig = Rig::new(BufferConfig::default());
    for n in 0..30 {
        rig.push(at(1000 + u64::from(n / 3) * 33), packet(n))
            .unwrap();
    }
    rig.packets(at(1330));
    for n in [30, 31, 32, 33] {
        rig.push(at(1333), packet(n)).unwrap();
    }
    for n in 0..3u16 {
        let pushed = rig.push(
            at(1340),
            Packet {
                marker: n == 2,
                ..stray(50_000 + n, u32::MAX - 2_000_000_000)
            },
        );
        assert_eq!(pushed.is_ok(), n == 2);
    }
    let out = rig.packets(at(1340));
    assert_eq!(out.len(), 7);
    for out in out {
        let wait = out.render.since(at(1333));
        assert!(out.render >= at(1333) && wait < ms(60), "{out:?}");
    }
}

/// Hours ahead, and of what comes then nothing is whole.
#[test]
fn time_stamps_that_jump_ahead_hold_nothing_for_long() {
    for kind in [ModelKind::Adaptive, ModelKind::Webrtc] {
        let mut rig = Rig::with(kind, BufferConfig::default());
        for n in 0..30 {
            rig.push(at(1000 + u64::from(n / 3) * 33), packet(n))
                .unwrap();
        }
        rig.packets(at(1330));
        let jump = 5 * 3600 * 90_000;
        rig.push(at(1333), stray(30, jump)).unwrap();
        rig.push(at(1333), stray(32, jump)).unwrap();
        let Next::WaitUntil(deadline) = rig.poll(at(1333)).1 else {
            panic!("{kind:?}: something is held");
        };
        let longest = at(1333) + LONGEST_DELAY;
        assert!(deadline <= longest, "{kind:?}: {deadline:?}");
        let out = rig.packets(deadline);
        assert_eq!(out.len(), 2);
        assert!(out.iter().all(|out| out.render <= deadline + LONGEST_DELAY));
    }
}

#[test]
fn nothing_is_asked_for_when_requests_are_switched_off() {
    let mut config = BufferConfig::default();
    config.request.enabled = true;
    let mut rig = Rig::new(config);
    for n in [0, 1, 2, 4, 5, 6, 7] {
        rig.push(at(0), packet(n)).unwrap();
    }
    config.request.enabled = false;
    rig.buffer.configure(config);
    assert_eq!(rig.requests(at(0)), (vec![], NextRequest::Idle));
}

#[test]
fn no_key_frame_is_asked_for_when_none_is_waited_for_any_more() {
    let mut config = BufferConfig {
        wait_for_key: true,
        ..BufferConfig::default()
    };
    let mut rig = Rig::new(config);
    for n in 0..3 {
        rig.push(at(0), packet(n)).unwrap();
    }
    config.wait_for_key = false;
    rig.buffer.configure(config);
    assert_eq!(rig.poll(at(0)), (vec![], Next::Idle));
}

#[test]
fn skipped_numbers_do_not_make_requests_without_end() {
    // Of pictures, more is missing than could be repaired. Those of sound that are
    // asked for are given up when more is missing than is held: after five packets.
    for (assembly, bounds) in [
        (Assembly::Frames, 0..=0),
        (Assembly::Packets, 1000..=25_000),
    ] {
        let mut config = BufferConfig {
            assembly,
            ..BufferConfig::default()
        };
        config.request.enabled = true;
        let mut rig = Rig::new(config);
        let mut asked = 0;
        for n in 0..100u16 {
            let now = at(u64::from(n));
            rig.push(now, stray(n.wrapping_mul(3000), u32::from(n) * 90))
                .unwrap();
            rig.packets(now);
            asked += rig.requests(now).0.len();
        }
        assert!(bounds.contains(&asked), "{assembly:?}: {asked}");
    }
}

/// The sender took up another source: its frames are no earlier than others.
#[test]
fn time_stamps_that_jump_ahead_do_not_freeze_the_picture() {
    for jump in [2, 5, 9] {
        let mut rig = Rig::new(BufferConfig::default());
        for n in 0..900u16 {
            let now = at(1000 + u64::from(n / 3) * 33);
            let ticks = if n < 600 { 0 } else { jump * 90_000 };
            let time = u32::from(n / 3) * 33 * 90 + ticks;
            let frame = Packet {
                timestamp: time,
                ..packet(n)
            };
            rig.push(now, frame).unwrap();
            for out in rig.packets(now) {
                let wait = out.render.since(now);
                assert!(wait < ms(20), "{jump} s: {n} waits for {wait:?}");
            }
        }
    }
}
