// SPDX-License-Identifier: MPL-2.0
use super::*;
use crate::capacity::Tuning;

/// bit/s.
const LINK: f64 = 1e6;
const STEP_MS: u64 = 50;

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn control() -> RateControl {
    RateControl::new(Duration::from_millis(4), LINK)
}

fn link(rate: f64) -> Capacity {
    Capacity::new(Tuning::default(), rate)
}

/// Nothing waits, all arrives.
fn calm(at_ms: u64) -> Heard {
    Heard {
        now: ms(at_ms),
        dt: STEP_MS as f64 / 1e3,
        standing: 0.0,
        delay: 0.0,
        fell: false,
        usage: Usage::Normal,
        received: Some(LINK),
        limited: false,
        losses: 0,
        response: 0.1,
    }
}

fn queued(at_ms: u64, delay: f64) -> Heard {
    Heard {
        standing: delay,
        delay,
        ..calm(at_ms)
    }
}

#[track_caller]
fn assert_near(value: f64, expected: f64) {
    let off = (value / expected - 1.0).abs();
    assert!(off < 1e-6, "{value}, not {expected}");
}

/// Beside another flow since the time that is returned, ms: we have gone down
/// to 0.4 Mbit/s and the queue of 100 ms has not drained.
fn competing() -> (RateControl, u64) {
    let mut control = control();
    control.heard(&calm(0), &link(LINK), 0.004);
    for at in (STEP_MS..10_000).step_by(STEP_MS as usize) {
        control.heard(&queued(at, 0.1), &link(0.3 * LINK), 0.004);
        if control.is_competing() {
            return (control, at);
        }
    }
    panic!("the queue was never found to be another's");
}

#[test]
fn every_state_on_every_signal() {
    use Signal::{Foreign, Kept, Ours, Queue, Room, Silence};
    use State::{Compete, Decrease, Hold, Increase, Silent};
    let signals = [Room, Kept, Queue, Foreign, Ours, Silence];
    let others = [Increase, Hold, Decrease, Compete, Hold, Silent];
    let compete = [Compete, Compete, Compete, Compete, Hold, Silent];
    let table = [
        (Increase, others),
        (Hold, others),
        (Decrease, others),
        (Compete, compete),
        (Silent, others),
    ];
    for (state, row) in table {
        for (signal, expected) in signals.into_iter().zip(row) {
            assert_eq!(state.next(signal), expected, "{state:?} on {signal:?}");
        }
    }
}

#[test]
fn the_rate_brings_the_queue_to_the_aim() {
    let at = |ahead| control().heard(&calm(0), &link(LINK), ahead);
    assert_near(at(0.004), LINK);
    // 10 ms too much, over 100 ms.
    assert_near(at(0.014), 0.9 * LINK);
    assert_near(at(0.0), 1.04 * LINK);
    assert_near(at(10.0), 0.5 * LINK);
}

#[test]
fn the_state_says_where_the_queue_is_to_the_aim() {
    let mut c = control();
    c.heard(&calm(0), &link(LINK), 0.0);
    assert_eq!(c.state(), State::Increase);
    c.heard(&calm(50), &link(LINK), 0.05);
    assert_eq!(c.state(), State::Decrease);
    let limited = Heard {
        limited: true,
        ..calm(100)
    };
    c.heard(&limited, &link(LINK), 0.0);
    assert_eq!(c.state(), State::Hold);
    c.heard(&calm(150), &link(LINK), 0.0);
    assert_eq!(c.state(), State::Increase);
    let growing = Heard {
        usage: Usage::Over,
        ..calm(200)
    };
    c.heard(&growing, &link(LINK), 0.0);
    assert_eq!(c.state(), State::Hold);
}

/// Flows that share a queue get equal by it.
#[test]
fn the_slower_flow_aims_at_the_longer_queue() {
    let aim = |rate| {
        let mut c = RateControl::new(Duration::from_millis(4), rate);
        c.set_aim(Duration::from_millis(10));
        c.aim()
    };
    assert_near(aim(1e6), 0.010);
    assert_near(aim(0.8e6), 0.0125);
    assert_near(aim(0.1e6), 0.020);
    assert_near(aim(10e6), 0.004);
}

#[test]
fn a_standing_queue_is_drained_after_five_seconds_and_for_half_a_second() {
    let mut c = control();
    c.heard(&calm(0), &link(LINK), 0.004);
    let mut draining = Vec::new();
    for at in (50..11_500).step_by(50) {
        let rate = c.heard(&queued(at, 0.006), &link(LINK), 0.004);
        // The two proofs of the start are before that.
        if c.is_draining() && at > 3000 {
            assert_near(rate, 0.7 * LINK);
            draining.push(at);
        }
    }
    let expected: Vec<u64> = (5000..=5500)
        .chain(10_500..=11_000)
        .filter(|at| at % 50 == 0)
        .collect();
    assert_eq!(draining, expected);
}

#[test]
fn draining_ends_when_the_queue_is_empty() {
    let mut c = control();
    c.heard(&calm(0), &link(LINK), 0.004);
    for at in (50..5200).step_by(50) {
        c.heard(&queued(at, 0.006), &link(LINK), 0.004);
    }
    assert!(c.is_draining());
    c.heard(&queued(5200, 0.001), &link(LINK), 0.004);
    assert!(!c.is_draining());
}

/// The least delay that was seen may have been a queue already.
#[test]
fn soon_after_the_start_less_is_sent_to_see_the_least_delay() {
    let mut c = control();
    let mut proofs = Vec::new();
    for at in (0..5000).step_by(50) {
        let rate = c.heard(&calm(at), &link(LINK), 0.004);
        if rate < 0.6 * LINK {
            proofs.push(at);
        }
    }
    let expected: Vec<u64> = (600..800).chain(2000..2200).step_by(50).collect();
    assert_eq!(proofs, expected);
}

#[test]
fn while_the_least_delay_falls_at_the_start_less_is_sent() {
    let mut c = control();
    c.heard(&calm(0), &link(LINK), 0.004);
    let fell = |at| Heard {
        fell: true,
        ..calm(at)
    };
    assert_near(c.heard(&fell(50), &link(LINK), 0.004), 0.5 * LINK);
    assert_near(c.heard(&calm(340), &link(LINK), 0.004), 0.5 * LINK);
    assert!(c.heard(&calm(350), &link(LINK), 0.004) >= LINK);
    for at in (400..6000).step_by(50) {
        c.heard(&calm(at), &link(LINK), 0.004);
    }
    let later = c.heard(&fell(6000), &link(LINK), 0.004);
    assert_near(later, LINK);
}

#[test]
fn a_queue_that_does_not_drain_is_competition() {
    let (c, at) = competing();
    assert_eq!(c.state(), State::Compete);
    assert!((1500..=1600).contains(&at), "{at}");
    // Half of what it was before the queue: 1 Mbit/s.
    assert_near(c.rate, 0.5 * LINK);
}

#[test]
fn a_queue_of_ours_that_drains_is_no_competition() {
    let mut c = control();
    c.heard(&calm(0), &link(LINK), 0.004);
    for at in (50..20_000).step_by(50) {
        // It is there for a second in each two.
        let delay = if at % 2000 < 1000 { 0.1 } else { 0.0 };
        c.heard(&queued(at, delay), &link(0.3 * LINK), 0.05);
        assert!(!c.is_competing(), "at {at} ms");
    }
}

#[test]
fn competition_ends_when_the_queue_is_gone() {
    let (mut c, at) = competing();
    c.heard(&queued(at + 50, 0.03), &link(LINK), 0.004);
    assert!(c.is_competing(), "30 ms is still a queue");
    c.heard(&queued(at + 100, 0.02), &link(LINK), 0.0);
    assert!(!c.is_competing());
    assert_eq!(c.state(), State::Increase);
}

#[test]
fn beside_another_flow_a_packet_more_each_response_and_less_after_a_loss() {
    let (mut c, at) = competing();
    // 12 kbit in 100 ms, each 100 ms: half of that in 50.
    let before = c.rate;
    c.heard(&queued(at + 50, 0.1), &link(LINK), 0.0);
    assert_near(c.rate, before + 60_000.0);
    let lost = |at| Heard {
        losses: 1,
        ..queued(at, 0.1)
    };
    let before = c.rate;
    c.heard(&lost(at + 100), &link(LINK), 0.0);
    assert_near(c.rate, before * 0.7);
    // Losses of the same response are of the same event; it catches up.
    let after = c.rate;
    c.heard(&lost(at + 150), &link(LINK), 0.0);
    assert!(c.rate > after, "no second step within a response");
    let before = c.rate;
    c.heard(&lost(at + 200), &link(LINK), 0.0);
    assert_near(c.rate, before * 0.7);
}

#[test]
fn beside_another_flow_it_goes_no_further_than_what_arrives_by_half() {
    let (mut c, at) = competing();
    for n in 1..100 {
        let heard = Heard {
            received: Some(0.2 * LINK),
            ..queued(at + n * 50, 0.1)
        };
        let rate = c.heard(&heard, &link(LINK), 0.0);
        assert!(rate <= 0.3 * LINK + 1.0, "{rate}");
    }
}

#[test]
fn now_and_then_it_is_tried_whether_the_other_flow_is_gone() {
    let (mut c, at) = competing();
    let mut tries = 0;
    let mut before = c.rate;
    for n in 1..400 {
        let rate = c.heard(&queued(at + n * 50, 0.1), &link(LINK), 0.0);
        if rate < before * 0.6 {
            tries += 1;
        }
        before = rate;
    }
    assert_eq!(tries, 2, "each 8 s in 20");
    assert!(c.is_competing(), "the queue is still there");
}

#[test]
fn in_silence_the_rate_is_no_more_than_the_capacity_and_never_rises() {
    let mut c = control();
    c.heard(&calm(0), &link(LINK), 0.004);
    assert_near(c.silent(&link(0.2 * LINK)), 0.2 * LINK);
    assert_eq!(c.state(), State::Silent);
    assert_near(c.silent(&link(LINK)), 0.2 * LINK);
    c.heard(&calm(500), &link(LINK), 0.0);
    assert_eq!(c.state(), State::Increase);
}

#[test]
fn competition_goes_on_after_silence() {
    let (mut c, at) = competing();
    c.silent(&link(LINK));
    assert_eq!(c.state(), State::Silent);
    c.heard(&queued(at + 500, 0.1), &link(LINK), 0.0);
    assert_eq!(c.state(), State::Compete);
}

#[test]
fn two_milliseconds_are_no_queue() {
    assert!(!control().stands(0.002));
    assert!(control().stands(0.0021));
}
