// SPDX-License-Identifier: MPL-2.0
//! Which requests for retransmission are answered, in virtual time.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use pacer_core::Priority::{Audio, Background, Display, Retransmission};
use pacer_core::{NextAnswer, Priority, Refusal, RequestConfig, RequestStats, Requests};
use proptest::prelude::*;

/// With the two bytes that a retransmission has more, 10 000 bits.
const PACKET: DataSize = DataSize::from_bytes(1248);
const SSRC: u32 = 7;

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn span(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn requests(kbps: u64) -> Requests<u16> {
    let mut requests = Requests::new(RequestConfig::default());
    requests.set_target(ms(0), Some(Bitrate::from_kbps(kbps)));
    requests.set_rtt(span(80));
    requests
}

/// One packet each 10 ms, from number 0 on.
fn send(requests: &mut Requests<u16>, numbers: std::ops::Range<u16>) {
    for n in numbers {
        requests.sent(ms(10 * u64::from(n)), (SSRC, n), Display, PACKET);
    }
}

fn ask(requests: &mut Requests<u16>, now: Timestamp, number: u16) -> Result<(), Refusal> {
    requests.request(now, (SSRC, number), number)
}

/// What is answered from `now` to `end`, and when.
fn run(requests: &mut Requests<u16>, mut now: Timestamp, end: Timestamp) -> Vec<(Timestamp, u16)> {
    let mut answered = Vec::new();
    while now <= end {
        match requests.poll(now) {
            NextAnswer::Answer(n) => answered.push((now, n)),
            NextAnswer::WaitUntil(until) => {
                assert!(until > now, "never waits for the past");
                now = until;
            }
            NextAnswer::Idle => break,
        }
    }
    answered
}

#[track_caller]
fn assert_accounted(stats: &RequestStats) {
    let known = stats.answered
        + stats.not_sent
        + stats.too_late
        + stats.repeated
        + stats.over_budget
        + stats.flushed
        + stats.waiting;
    assert_eq!(stats.requested, known, "{stats:?}");
}

#[test]
fn a_few_are_answered_at_once_and_in_order() {
    let mut r = requests(2000);
    send(&mut r, 0..100);
    for n in [90, 91, 95] {
        assert_eq!(ask(&mut r, ms(1000), n), Ok(()));
        assert_eq!(run(&mut r, ms(1000), ms(1000)), [(ms(1000), n)]);
    }
    let stats = r.stats();
    assert_eq!((stats.requested, stats.answered), (3, 3));
}

#[test]
fn each_refusal_has_its_reason() {
    let mut r = requests(2000);
    send(&mut r, 0..100);
    r.sent(ms(990), (SSRC, 105), Display, PACKET);
    // 1 s and the round trip.
    assert_eq!(ask(&mut r, ms(1090), 1), Err(Refusal::TooLate));
    assert_eq!(ask(&mut r, ms(1089), 1), Ok(()));
    assert_eq!(ask(&mut r, ms(1000), 106), Err(Refusal::NotSent));
    assert_eq!(ask(&mut r, ms(1000), 102), Err(Refusal::NotSent));
    assert_eq!(ask(&mut r, ms(1000), 1), Err(Refusal::Repeated), "it waits");
    run(&mut r, ms(1000), ms(1000));
    assert_eq!(ask(&mut r, ms(1010), 1), Ok(()), "in case it gets lost");
    run(&mut r, ms(1010), ms(1010));
    assert_eq!(ask(&mut r, ms(1079), 1), Err(Refusal::Repeated));
    assert_eq!(ask(&mut r, ms(1081), 1), Ok(()));
    assert!(r.knows(SSRC) && !r.knows(8));
    assert_eq!(r.request(ms(1090), (8, 1), 0), Err(Refusal::TooLate));
    r.configure(
        ms(1090),
        RequestConfig {
            share: 0.0,
            ..RequestConfig::default()
        },
    );
    assert_eq!(ask(&mut r, ms(1090), 90), Err(Refusal::OverBudget));
    run(&mut r, ms(1090), ms(1090));
    let stats = r.stats();
    assert_eq!((stats.too_late, stats.not_sent, stats.repeated), (2, 2, 2));
    assert_eq!((stats.answered, stats.over_budget), (2, 2));
    assert_accounted(&stats);
}

/// What happened on a link that stood still for ten seconds: the receiver asks
/// for all of it, again and again, and the estimate is 30 kbit/s.
#[test]
fn after_an_outage_retransmissions_keep_to_their_share() {
    let mut r = requests(30);
    send(&mut r, 0..1000);
    let (begin, end) = (10_000, 14_000);
    let mut bits = 0;
    for now in (begin..end).step_by(20) {
        for n in 0..1000 {
            let _ = ask(&mut r, ms(now), n);
        }
        for (at, n) in run(&mut r, ms(now), ms(now + 19)) {
            let sent = 10 * u64::from(n);
            assert!(at < ms(sent + 1080), "{n} is too old at {at:?}");
            bits += 10_000;
        }
    }
    // 15 kbit/s in the second in which any of it is of use, and the first.
    assert!((10_000..=30_000).contains(&bits), "{bits}");
    let stats = r.stats();
    assert!(
        stats.too_late > 100_000 && stats.over_budget > 50,
        "{stats:?}"
    );
    assert_accounted(&stats);
}

#[test]
fn what_the_budget_cannot_bring_in_time_is_shed_oldest_first() {
    let mut r = requests(200);
    send(&mut r, 0..100);
    // 100 kbit/s for the 1.07 s at most that the newest is of use, and half a
    // second at once: no more than 15 packets, all of them new.
    for n in 0..100 {
        ask(&mut r, ms(1000), n).unwrap();
    }
    let answered = run(&mut r, ms(1000), ms(3000));
    let numbers: Vec<_> = answered.iter().map(|(_, n)| *n).collect();
    assert!((12..=15).contains(&numbers.len()), "{numbers:?}");
    let newest: Vec<_> = (100 - numbers.len() as u16..100).collect();
    assert_eq!(numbers, newest, "the newest, in order");
    for (at, n) in answered {
        assert!(at < ms(10 * u64::from(n) + 1080), "{n} at {at:?}");
    }
    let stats = r.stats();
    assert_eq!(
        (stats.answered + stats.over_budget, stats.waiting),
        (100, 0)
    );
}

#[test]
fn a_lower_estimate_is_kept_to_at_once() {
    let mut r = requests(1000);
    send(&mut r, 0..100);
    for n in 40..100 {
        ask(&mut r, ms(1000), n).unwrap();
    }
    // Half a second of 500 kbit/s at once.
    let at_once = run(&mut r, ms(1002), ms(1003)).len();
    assert!((24..=26).contains(&at_once), "{at_once}");
    r.set_target(ms(1003), Some(Bitrate::from_kbps(50)));
    let later = run(&mut r, ms(1003), ms(3000)).len();
    assert!(later <= 2, "{later}");
    assert_accounted(&r.stats());
}

#[test]
fn sound_is_not_held_and_background_is_of_use_for_longer() {
    let mut r = requests(20);
    r.sent(ms(0), (1, 1), Audio, PACKET);
    r.sent(ms(0), (2, 1), Background, PACKET);
    r.sent(ms(0), (3, 1), Display, PACKET);
    r.sent(ms(0), (4, 1), Retransmission, PACKET);
    for ssrc in 1..4 {
        r.request(ms(900), (ssrc, 1), ssrc as u16).unwrap();
    }
    assert!(!r.knows(4), "what was sent again is not sent once more");
    // 10 kbit/s: one second for a packet, and sound has had the first.
    let answered: Vec<_> = run(&mut r, ms(900), ms(5000));
    assert_eq!(answered, [(ms(900), 1), (ms(1900), 2)]);
    assert_eq!(r.request(ms(2950), (2, 1), 2), Ok(()));
    assert_eq!(r.request(ms(3090), (2, 1), 2), Err(Refusal::TooLate));
}

#[test]
fn without_a_rate_only_age_counts() {
    let mut r = Requests::new(RequestConfig::default());
    send(&mut r, 0..200);
    for n in 0..200 {
        let _ = ask(&mut r, ms(2000), n);
    }
    assert_eq!(run(&mut r, ms(2000), ms(2000)).len(), 99);
}

#[test]
fn a_flush_forgets() {
    let mut r = requests(20);
    send(&mut r, 0..10);
    for n in 0..10 {
        ask(&mut r, ms(100), n).unwrap();
    }
    r.flush();
    assert_eq!(r.poll(ms(100)), NextAnswer::Idle);
    assert_eq!(r.stats().flushed, 10);
    assert!(!r.knows(SSRC));
    assert_accounted(&r.stats());
}

#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    Back(u64),
    Sent(u8, u16, u16, u16),
    Ask(u8, u16),
    Target(Option<u32>),
    Rtt(u16),
    Share(u8),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..200).prop_map(Op::Wait),
        1 => (0u64..200).prop_map(Op::Back),
        8 => (0u8..4, 0u16..40, 0u16..40, 0u16..1500)
            .prop_map(|(ssrc, first, count, size)| Op::Sent(ssrc, first, count, size)),
        8 => (0u8..5, 0u16..100).prop_map(|(ssrc, number)| Op::Ask(ssrc, number)),
        1 => proptest::option::of(0u32..2_000_000).prop_map(Op::Target),
        1 => (0u16..2000).prop_map(Op::Rtt),
        1 => (0u8..=100).prop_map(Op::Share),
        1 => Just(Op::Flush),
    ]
}

proptest! {
    #[test]
    fn all_are_accounted_for_in_bounded_steps(ops in proptest::collection::vec(op(), 1..300)) {
        let mut r = Requests::new(RequestConfig::default());
        let mut now = 1000;
        for op in ops {
            match op {
                Op::Wait(time) => now += time,
                Op::Back(time) => now = now.saturating_sub(time),
                Op::Sent(ssrc, first, count, size) => {
                    let priority = Priority::ALL[usize::from(ssrc)];
                    for n in first..first + count {
                        let size = DataSize::from_bytes(size.into());
                        r.sent(ms(now), (ssrc.into(), n), priority, size);
                    }
                }
                Op::Ask(ssrc, number) => {
                    let _ = r.request(ms(now), (ssrc.into(), number), number);
                }
                Op::Target(target) => {
                    r.set_target(ms(now), target.map(|bps| Bitrate::from_bps(bps.into())));
                }
                Op::Rtt(rtt) => r.set_rtt(span(rtt.into())),
                Op::Share(percent) => {
                    r.configure(ms(now), RequestConfig {
                        share: f64::from(percent) / 100.0,
                        ..RequestConfig::default()
                    });
                }
                Op::Flush => r.flush(),
            }
            let mut polls = 0;
            loop {
                let before = r.stats();
                match r.poll(ms(now)) {
                    NextAnswer::Answer(_) => {
                        prop_assert_eq!(r.stats().answered, before.answered + 1);
                    }
                    NextAnswer::WaitUntil(until) => {
                        prop_assert!(until > ms(now));
                        break;
                    }
                    NextAnswer::Idle => {
                        prop_assert_eq!(r.stats().waiting, 0);
                        break;
                    }
                }
                polls += 1;
                prop_assert!(polls <= 1001);
            }
            assert_accounted(&r.stats());
        }
    }

    /// In any time T no more than the share of the rate for T and half a second,
    /// and one packet, is sent again.
    #[test]
    fn the_share_is_kept_over_any_time(
        kbps in 10u64..2000,
        gaps in proptest::collection::vec(0u64..100, 20..200),
        size in 50u64..1500,
    ) {
        let mut r = requests(kbps);
        let mut now = 1000;
        let mut sent = Vec::new();
        for (n, gap) in gaps.into_iter().enumerate() {
            let n = n as u16;
            r.sent(ms(now), (SSRC, n), Display, DataSize::from_bytes(size));
            for back in 0..n.min(50) {
                let _ = ask(&mut r, ms(now), n - back);
            }
            sent.extend(run(&mut r, ms(now), ms(now + gap)));
            now += gap;
        }
        let bits = |packets: usize| packets as u64 * 8 * (size + 2);
        for (n, (from, _)) in sent.iter().enumerate() {
            for (m, (to, _)) in sent.iter().enumerate().skip(n) {
                let time = to.since(*from) + span(500);
                let most = kbps * 500 * time.as_nanos() as u64 / 1_000_000_000;
                prop_assert!(bits(m - n) <= most + 8, "{from:?} {to:?}: {}", m - n + 1);
            }
        }
        assert_accounted(&r.stats());
    }
}
