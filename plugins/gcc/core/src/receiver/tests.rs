// SPDX-License-Identifier: MPL-2.0
use super::*;
use dualstream_netsim::{Capacity as LinkCapacity, Link, LinkConfig, Loss, QueueLimit};

const PACKET: DataSize = DataSize::from_bytes(1200);
const DELAY: Duration = Duration::from_millis(20);
/// The peer's clock: the abs-send-time wraps 3 s after our 0.
const OFFSET: Duration = Duration::from_secs(61);

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn kbps(rate: u64) -> Bitrate {
    Bitrate::from_kbps(rate)
}

fn stamp(at: Timestamp) -> AbsSendTime {
    let nanos = u128::from((at + OFFSET).as_nanos());
    AbsSendTime::from_wire(((nanos << 18) / 1_000_000_000) as u32)
}

/// What was seen, in steps of 1 ms.
#[derive(Default)]
struct Run {
    /// Arrival and time in the bottleneck.
    arrivals: Vec<(Timestamp, Duration)>,
    messages: Vec<(Timestamp, Remb)>,
}

impl Run {
    fn utilisation(&self, from_s: u64, to_s: u64, capacity: Bitrate) -> f64 {
        let range = ms(from_s * 1000)..ms(to_s * 1000);
        let count = self
            .arrivals
            .iter()
            .filter(|(at, _)| range.contains(at))
            .count();
        let bits = count as f64 * PACKET.as_bits() as f64;
        bits / (capacity.as_bps() * (to_s - from_s)) as f64
    }

    fn queue_p95(&self, from_s: u64, to_s: u64) -> Duration {
        let range = ms(from_s * 1000)..ms(to_s * 1000);
        let mut queues: Vec<Duration> = self
            .arrivals
            .iter()
            .filter(|(at, _)| range.contains(at))
            .map(|(_, queued)| *queued)
            .collect();
        queues.sort_unstable();
        queues[queues.len() * 95 / 100]
    }
}

/// A sender that sends what it was told, or this share of it.
fn simulate(capacity: LinkCapacity, seconds: u64, share: impl Fn(u64) -> f64, told: bool) -> Run {
    let config = LinkConfig {
        capacity,
        queue: QueueLimit::Time(Duration::from_millis(500)),
        delay: DELAY,
        jitter: Duration::ZERO,
        reordering: None,
        loss: Loss::None,
    };
    let mut link = Link::new(config, 1).expect("valid");
    let mut estimator = ReceiverEstimator::new(Config::default()).expect("valid");
    let mut run = Run::default();
    let (mut rate, mut credit) = (Config::default().start, 0.0);
    let mut back: VecDeque<(Timestamp, Bitrate)> = VecDeque::new();
    for at in 0..seconds * 1000 {
        let now = ms(at);
        while back.front().is_some_and(|(at, _)| *at <= now) {
            rate = back.pop_front().map_or(rate, |(_, told)| told);
        }
        let sent = if told { rate } else { kbps(1500) };
        credit += sent.as_bps() as f64 * share(at) / 1e3;
        while credit >= PACKET.as_bits() as f64 {
            credit -= PACKET.as_bits() as f64;
            link.send(now, PACKET, now);
        }
        while let Some(arrived) = link.receive(now) {
            run.arrivals.push((arrived.at, arrived.queued));
            estimator.packet(arrived.at, stamp(arrived.packet), PACKET, 7);
        }
        if let Some(message) = estimator.poll(now) {
            back.push_back((now + DELAY, message.bitrate));
            run.messages.push((now, message));
        }
    }
    run
}

fn constant(rate_kbps: u64) -> Run {
    simulate(LinkCapacity::Constant(kbps(rate_kbps)), 60, |_| 1.0, true)
}

#[test]
fn a_sender_that_follows_the_messages_uses_the_link_with_a_short_queue() {
    // A packet alone takes 19.2, 9.6 and 4.8 ms.
    for (rate, least_ms, most_ms) in [(500, 19, 60), (1000, 9, 40), (2000, 4, 30)] {
        let run = constant(rate);
        let utilisation = run.utilisation(10, 60, kbps(rate));
        assert!((0.85..=1.0).contains(&utilisation), "{rate}: {utilisation}");
        let queue = run.queue_p95(10, 60);
        let range = Duration::from_millis(least_ms)..Duration::from_millis(most_ms);
        assert!(range.contains(&queue), "{rate}: {queue:?}");
        let early = run.utilisation(0, 10, kbps(rate));
        assert!((0.6..=1.0).contains(&early), "{rate}: {early}");
    }
}

/// The control: without messages the same link has a full queue.
#[test]
fn a_sender_that_does_not_listen_fills_the_queue() {
    let deaf = simulate(LinkCapacity::Constant(kbps(1000)), 30, |_| 1.0, false);
    assert!(deaf.queue_p95(10, 30) > Duration::from_millis(400));
}

#[test]
fn a_fall_of_the_capacity_is_signalled_within_a_second() {
    let steps = LinkCapacity::Steps(vec![(ms(0), kbps(2000)), (ms(20_000), kbps(700))]);
    let run = simulate(steps, 40, |_| 1.0, true);
    let between = |from, to| {
        let range = ms(from)..ms(to);
        let rates = run
            .messages
            .iter()
            .filter(move |(at, _)| range.contains(at));
        rates.map(|(_, message)| message.bitrate)
    };
    assert!(
        between(15_000, 20_000).max() > Some(kbps(1700)),
        "there was more before"
    );
    assert!(between(20_000, 21_000).any(|rate| rate < kbps(750)));
    assert!(
        between(25_000, 40_000).all(|rate| rate < kbps(950)),
        "it stays down"
    );
    assert!(
        between(25_000, 40_000).max() > Some(kbps(600)),
        "and is used"
    );
    assert!(
        run.queue_p95(25, 40) < Duration::from_millis(70),
        "{:?}",
        run.queue_p95(25, 40)
    );
}

#[test]
fn messages_are_a_second_apart_unless_the_rate_has_fallen() {
    let run = constant(1000);
    let mut early = 0;
    for pair in run.messages.windows(2) {
        let [(before, was), (at, is)] = pair else {
            unreachable!("windows of two");
        };
        if at.since(*before) < INTERVAL {
            assert!(is.bitrate < was.bitrate.scale(FALL), "at {at:?}");
            early += 1;
        }
        assert!(
            at.since(*before) < Duration::from_millis(1100),
            "packets come all the time"
        );
    }
    assert!(early > 0, "falls were seen");
}

/// Nothing is learnt from what was not sent.
#[test]
fn a_sender_of_less_than_it_was_told_neither_raises_nor_lowers_the_rate() {
    let limited = |at| if at < 20_000 { 1.0 } else { 0.4 };
    let run = simulate(LinkCapacity::Constant(kbps(1000)), 80, limited, true);
    let rates: Vec<Bitrate> = run
        .messages
        .iter()
        .filter(|(at, _)| *at > ms(25_000))
        .map(|(_, message)| message.bitrate)
        .collect();
    assert!(rates.len() > 50);
    let steady = kbps(350)..kbps(2000);
    assert!(rates.iter().all(|rate| steady.contains(rate)), "{rates:?}");
}

#[test]
fn departures_go_on_over_the_wrap_and_through_pauses() {
    let mut d = Departures::default();
    let mut unwrap = |at: Timestamp| d.unwrap(at + DELAY, stamp(at));
    let first = unwrap(ms(0));
    // The wrap is at 3 s; then pauses of less and more than a turn.
    for at in [
        2990, 3000, 3010, 2995, 20_000, 60_000, 100_000, 900_000, 4_000_000,
    ] {
        let passed = unwrap(ms(at)).since(first).as_nanos();
        let off = passed.abs_diff(u128::from(at) * 1_000_000);
        assert!(off < 10_000, "{at} ms: off by {off} ns");
    }
}

#[test]
fn a_late_packet_from_before_the_first_has_its_time() {
    let mut d = Departures::default();
    let first = d.unwrap(ms(100), AbsSendTime::from_wire(5));
    let before = d.unwrap(ms(101), AbsSendTime::from_wire(0xff_ffff));
    // 6 units of 2^-18 s.
    assert_eq!(first.since(before).as_nanos() / 1000, 22);
}

#[test]
fn only_24_bits_are_a_time() {
    assert_eq!(AbsSendTime::from_wire(u32::MAX).as_wire(), 0xff_ffff);
    assert_eq!(Departures::time(1 << 18), RemoteTime::from_millis(1000));
}

/// A packet each 10 ms for 2 s: 960 kbit/s on a calm path.
fn fed() -> (ReceiverEstimator, u64) {
    let mut e = ReceiverEstimator::new(Config::default()).expect("valid");
    for at in (0..2000).step_by(10) {
        e.packet(ms(at) + DELAY, stamp(ms(at)), PACKET, 7);
    }
    (e, 2000)
}

#[test]
fn nothing_is_said_before_anything_was_measured() {
    let mut e = ReceiverEstimator::new(Config::default()).expect("valid");
    assert_eq!(
        (e.poll(ms(0)), e.estimate(), e.next_poll()),
        (None, None, None)
    );
    e.packet(ms(10), stamp(ms(0)), PACKET, 7);
    assert_eq!(e.poll(ms(5000)), None);
}

#[test]
fn the_streams_of_the_last_two_seconds_are_named() {
    let (mut e, at) = fed();
    e.packet(ms(at), stamp(ms(at)), PACKET, 8);
    assert_eq!(e.poll(ms(at)).map(|m| m.ssrcs), Some(vec![7, 8]));
    assert_eq!(e.poll(ms(at + 999)), None);
    assert_eq!(e.next_poll(), Some(ms(at + 1000)));
    e.packet(ms(at + 1500), stamp(ms(at + 1480)), PACKET, 8);
    let named = e.poll(ms(at + 2100)).map(|m| m.ssrcs);
    assert_eq!(named, Some(vec![8]), "7 is quiet");
    assert_eq!(e.poll(ms(at + 9000)), None, "all are quiet");
}

#[test]
fn any_number_of_streams_takes_no_more_room() {
    let (mut e, at) = fed();
    for ssrc in 0..10_000 {
        let now = ms(at + u64::from(ssrc) / 100);
        e.packet(now, stamp(now), PACKET, ssrc);
        assert!(e.ssrcs.len() <= MOST_SSRCS);
    }
    let message = e.poll(ms(at + 2000)).expect("it is due");
    assert_eq!(message.ssrcs.len(), MOST_SSRCS);
    assert_eq!(message.ssrcs.last(), Some(&9999), "the quietest ones went");
}

#[test]
fn the_limits_hold() {
    let config = Config {
        min: kbps(200),
        start: kbps(200),
        max: kbps(400),
        ..Config::default()
    };
    let mut e = ReceiverEstimator::new(config).expect("valid");
    for at in (0..60_000).step_by(5) {
        // Two seconds of a queue that grows in each ten.
        let queue = (at % 10_000u64).saturating_sub(8000);
        e.packet(ms(at + queue), stamp(ms(at)), PACKET, 7);
        if let Some(rate) = e.estimate() {
            assert!(rate >= kbps(200) && rate <= kbps(400), "{rate}");
        }
    }
    assert!(e.capacity.now() < 10e6, "the guess does not run away");
    let bad = Config {
        min: Bitrate::ZERO,
        ..config
    };
    assert_eq!(e.configure(bad), Err(ConfigError::NoMinimum));
    assert!(ReceiverEstimator::new(bad).is_err());
}

#[test]
fn hostile_times_are_no_danger() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut e = ReceiverEstimator::new(Config::default()).expect("valid");
    let mut now = ms(0);
    for n in 0..100_000u32 {
        now = match rng.u8(..) {
            0 => Timestamp::from_nanos(rng.u64(..)),
            1 => Timestamp::from_nanos(now.as_nanos().saturating_sub(rng.u64(0..5_000_000_000))),
            _ => now + Duration::from_micros(rng.u64(0..20_000)),
        };
        let size = DataSize::from_bytes(if n % 100 == 0 { rng.u64(..) } else { 1200 });
        e.packet(
            now,
            AbsSendTime::from_wire(rng.u32(..)),
            size,
            rng.u32(0..100),
        );
        e.poll(now);
        if let Some(rate) = e.estimate() {
            assert!(rate >= e.config.min && rate <= e.config.max);
        }
        assert!(e.base.remembered() <= 122 && e.queue.remembered() <= 2048);
    }
}
