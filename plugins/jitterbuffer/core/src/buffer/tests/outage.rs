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

#[test]
fn what_is_sent_again_seconds_too_late_begins_no_new_stream() {
    let mut rig = before_an_outage();
    // Five seconds later: what was asked for then, ahead of what is sent now.
    let now = |n: u64| time(165) + ms(n);
    rig.out(now(0));
    rig.all(now(0), 495..498);
    let _ = rig.requests(now(0));
    rig.out(now(0));
    for n in 30..33 {
        assert_eq!(rig.push(now(1), answer(n)), Err(Rejected::Late), "{n}");
    }
    // What is missing has been given up.
    assert_eq!(rig.out(now(400)).len(), 1 + 3);
    rig.all(now(400), 498..501);
    let out = rig.out(now(400));
    assert_eq!(out, [Came(498), Came(499), Came(500)], "without a gap");
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
    rig.all(now(0), [494]);
    let mut asked = rig.requests(now(0)).0;
    assert!(asked.contains(&(490, 0)), "{asked:?}");
    for n in 30..34 {
        let _ = rig.push(now(70), answer(n));
    }
    rig.out(now(70));
    rig.all(now(71), [495]);
    asked.extend(rig.requests(now(71)).0);
    for n in 480..490 {
        let _ = rig.push(now(80), answer(n));
    }
    let rtt = rig.buffer.stats().rtt.unwrap();
    assert!((ms(75)..ms(90)).contains(&rtt), "{rtt:?}");
    let old = asked.iter().filter(|(n, _)| *n < 460).count();
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
    rig.push(now, hidden(900)).unwrap();
    let asked = rig.requests(now).0;
    let first = asked.iter().map(|(n, _)| *n).min().unwrap();
    assert!((620..=640).contains(&first), "{first}");
    assert_eq!(asked.len(), usize::from(900 - first));
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
