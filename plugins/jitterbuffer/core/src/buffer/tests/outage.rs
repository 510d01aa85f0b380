// SPDX-License-Identifier: MPL-2.0
//! The network stands still for seconds, and then brings what is of no use any
//! more.
use super::*;

/// Frames come each 100/3 ms.
fn time(frame: u64) -> Timestamp {
    at(1000 + frame * 100 / 3)
}

/// 80 ms are known as the round trip, frames 0 to 9 have come, packets 30 to 41
/// were asked for, and frame 14 was the last before the network stood still.
fn before_an_outage() -> Rig {
    let mut rig = with_round_trip(with_requests());
    rig.all(time(3), 8..30);
    rig.all(time(14), 42..45);
    let asked = rig.requests(time(14)).0;
    assert_eq!(asked.len(), 12, "{asked:?}");
    rig.out(time(14));
    rig
}

impl Rig {
    fn requests_of(&mut self, now: Timestamp) -> Vec<u16> {
        self.requests(now).0.into_iter().map(|(n, _)| n).collect()
    }
}

/// Of frame `frame`.
fn of(frame: u32, sequence: u16) -> Packet<u16> {
    Packet {
        timestamp: frame * FRAME,
        ..packet(sequence)
    }
}

#[test]
fn what_is_sent_again_seconds_too_late_begins_no_new_stream() {
    let mut rig = before_an_outage();
    // Five seconds later: what was asked for then, ahead of what is sent now.
    let now = |n: u64| time(165) + ms(n);
    rig.out(now(0));
    for n in 60..63 {
        rig.push(now(0), of(165, n)).unwrap();
    }
    let _ = rig.requests(now(0));
    rig.out(now(0));
    for n in 30..33 {
        assert_eq!(rig.push(now(1), answer(n)), Err(Rejected::Late), "{n}");
    }
    // What is missing has been given up.
    assert_eq!(rig.out(now(400)).len(), 1 + 3);
    for n in 63..66 {
        rig.push(now(400), of(177, n)).unwrap();
    }
    let out = rig.out(now(400));
    assert_eq!(out, [Came(63), Came(64), Came(65)], "without a gap");
    let stats = rig.buffer.stats();
    assert_eq!((stats.restarts, stats.astray, stats.late), (0, 0, 3));
}

/// What comes from before an outage made a stream begin anew, all that had been
/// missing was asked for once more, and answers to the requests before that were
/// taken for answers to these.
#[test]
fn answers_from_before_an_outage_say_nothing_of_the_round_trip() {
    let mut rig = before_an_outage();
    let now = |n: u64| time(165) + ms(n);
    rig.out(now(0));
    // 25 packets in five seconds.
    rig.push(now(0), of(165, 70)).unwrap();
    let mut asked = rig.requests(now(0)).0;
    assert!(asked.contains(&(69, 0)), "{asked:?}");
    for n in 30..34 {
        let _ = rig.push(now(70), answer(n));
    }
    rig.out(now(70));
    rig.push(now(71), of(165, 71)).unwrap();
    asked.extend(rig.requests(now(71)).0);
    for n in [68, 69] {
        let late = Packet {
            origin: Origin::Retransmission,
            ..of(163, n)
        };
        let _ = rig.push(now(80), late);
    }
    let rtt = rig.buffer.stats().rtt.unwrap();
    assert!((ms(75)..ms(90)).contains(&rtt), "{rtt:?}");
    let old = asked.iter().filter(|(n, _)| *n < 64).count();
    assert_eq!(old, 0, "asked for, though a second old");
}

#[test]
fn a_new_stream_is_not_begun_by_what_is_sent_again() {
    let mut rig = Rig::new(with_requests());
    // From before a flush.
    assert_eq!(rig.push(at(0), answer(7)), Err(Rejected::Late));
    rig.all(at(0), [300, 301, 302]);
    assert_eq!(rig.out(at(0)).len(), 3);
    assert_eq!(rig.requests(at(20)).0, []);
}

fn hidden(sequence: u16) -> Packet<u16> {
    Packet {
        hidden: true,
        ..packet(sequence)
    }
}

/// A stream that is not shown went on to wait for a packet as long as others came,
/// and asked for it each round trip.
#[test]
fn what_is_not_shown_is_asked_for_and_waited_for_a_second() {
    let mut rig = with_round_trip(with_requests());
    rig.all(at(1085), [8]);
    rig.out(at(1085));
    rig.push(at(2000), hidden(9)).unwrap();
    // The frame takes its time; the loss is noticed behind most of it.
    rig.push(at(2900), hidden(11)).unwrap();
    let mut asked = Vec::new();
    for frame in 4..20u16 {
        let now = at(2910 + 100 * u64::from(frame - 4));
        for n in 0..3 {
            rig.push(now, hidden(3 * frame + n)).unwrap();
        }
        asked.extend(rig.requests(now).0);
        let out = rig.out(now);
        if now < at(3900) {
            assert_eq!(out, [], "at {now:?}");
        } else {
            assert!(!out.is_empty(), "at {now:?}");
        }
    }
    assert!(asked.iter().all(|(n, _)| *n == 10), "{asked:?}");
    assert!((4..=11).contains(&asked.len()), "{asked:?}");
}

#[test]
fn of_what_is_not_shown_the_last_three_seconds_are_asked_for() {
    let mut rig = with_round_trip(with_requests());
    rig.all(at(1085), [8]);
    rig.out(at(1085));
    let now = time(300);
    // 30 packets in ten seconds.
    let late = Packet {
        hidden: true,
        ..of(300, 39)
    };
    rig.push(now, late).unwrap();
    let asked = rig.requests(now).0;
    let first = asked.iter().map(|(n, _)| *n).min().unwrap();
    assert!((29..=31).contains(&first), "{first}");
    assert_eq!(asked.len(), usize::from(39 - first));
}

/// Nothing would be asked for any more, and so nothing be learnt.
#[test]
fn the_first_answers_of_all_may_be_held_up_by_an_outage() {
    let mut rig = Rig::new(with_requests());
    for frame in 0..4 {
        rig.all(time(frame), frame as u16 * 3..frame as u16 * 3 + 3);
        rig.out(time(frame));
    }
    rig.all(time(5), 15..18);
    assert_eq!(rig.requests(time(5)).0.len(), 3);
    rig.out(time(30));
    for n in 12..15 {
        assert_eq!(rig.push(time(50), answer(n)), Err(Rejected::Late));
    }
    rig.all(time(50), [150, 151, 153]);
    let asked = rig.requests(time(50)).0;
    assert!(asked.contains(&(152, 0)), "{asked:?}");
}

/// 2 s for answers that a queue held up would make each loss be waited for a
/// second.
#[test]
fn a_queue_of_seconds_does_not_make_later_losses_wait() {
    let mut rig = before_an_outage();
    rig.out(time(40));
    for n in 30..40 {
        assert_eq!(rig.push(time(60), answer(n)), Err(Rejected::Late));
    }
    let rtt = rig.buffer.stats().rtt.unwrap();
    assert!((ms(75)..ms(90)).contains(&rtt), "{rtt:?}");
}

/// 90 packets come in a second: in 300 ms come fewer than are missing here.
#[test]
fn more_than_can_be_repaired_is_neither_asked_for_nor_waited_for() {
    let mut rig = before_an_outage();
    rig.out(time(30));
    // Frames 15 to 29 are missing, 45 packets, half a second.
    rig.all(time(30), 90..93);
    assert_eq!(rig.requests(time(30)), (vec![], NextRequest::Idle));
    let (out, next) = rig.poll(time(30));
    assert_eq!(out, [Gone(45, 45), Gap(90), Came(91), Came(92)]);
    assert_eq!(next, Next::Idle);
    let stats = rig.buffer.stats();
    assert_eq!((stats.hopeless, stats.lost), (45, 12 + 45));
    // What follows is asked for as before.
    rig.all(time(31), [93, 95]);
    assert_eq!(rig.requests(time(31)).0, [(94, 0)]);
}

#[test]
fn what_a_fast_link_can_repair_is_asked_for() {
    let mut rig = with_round_trip(with_requests());
    rig.out(at(1100));
    let fast = |n: u16| of(u32::from(n) / 20, n);
    for n in 8..600 {
        rig.push(at(1100 + u64::from(n) * 100 / 60), fast(n))
            .unwrap();
    }
    let now = at(1100 + 680 * 100 / 60);
    rig.out(now);
    // 80 are missing, and 600 come in a second.
    rig.push(now, fast(680)).unwrap();
    assert_eq!(rig.requests(now).0.len(), 80);
    assert_eq!(rig.buffer.stats().hopeless, 0);
}

#[test]
fn of_sound_each_packet_is_of_use() {
    let config = BufferConfig {
        assembly: Assembly::Packets,
        ..with_requests()
    };
    let mut rig = Rig::new(config);
    let sound = |n: u16| of(u32::from(n), n);
    for n in 0..10 {
        rig.push(time(n.into()), sound(n)).unwrap();
        rig.out(time(n.into()));
    }
    rig.push(time(60), sound(60)).unwrap();
    let asked = rig.requests(time(60)).0;
    assert!((4..8).contains(&asked.len()), "the last 200 ms: {asked:?}");
}

/// A key frame is here that is shown in less than a round trip: what was lost in
/// front of it cannot come before.
#[test]
fn in_front_of_a_whole_key_frame_only_what_comes_before_it_is_asked_for() {
    for (is_key, is_whole) in [(true, true), (true, false), (false, true)] {
        let mut rig = with_round_trip(with_requests());
        rig.all(time(3), 8..30);
        rig.out(time(3));
        rig.requests_of(time(3));
        // Packet 31 is lost; frame 12 follows at once, as far as it comes.
        rig.all(time(12), [30, 32]);
        assert_eq!(rig.requests_of(time(12)), [31], "it is asked for once");
        for n in 36..if is_whole { 39 } else { 38 } {
            let part = if is_key { KEY } else { DELTA };
            let packet = Packet { part, ..packet(n) };
            rig.push(time(12), packet).unwrap();
        }
        // Frame 11 was lost, too: 80 ms later frame 12 has been shown.
        let again = rig.requests_of(time(12) + ms(1));
        let expected: &[u16] = if is_key && is_whole {
            &[]
        } else {
            &[33, 34, 35]
        };
        assert_eq!(again, expected, "key {is_key}, whole {is_whole}");
    }
}

#[test]
fn in_front_of_a_whole_key_frame_that_is_not_shown_nothing_is_asked_for() {
    let mut rig = with_round_trip(with_requests());
    rig.all(at(1085), [8]);
    rig.out(at(1085));
    rig.push(at(1200), hidden(9)).unwrap();
    rig.push(at(1210), hidden(11)).unwrap();
    assert_eq!(rig.requests_of(at(1210)), [10]);
    for n in 15..18 {
        let packet = Packet {
            part: KEY,
            ..hidden(n)
        };
        rig.push(at(1220), packet).unwrap();
    }
    assert_eq!(rig.requests_of(at(2000)), []);
}
