// SPDX-License-Identifier: MPL-2.0
use super::*;
use dualstream_common::RemoteTime;

const PACKET: DataSize = DataSize::from_bytes(1200);
/// From a departure to its arrival where nothing waits, and back.
const PATH: Duration = Duration::from_millis(20);
/// The peer's clock is not ours.
const OFFSET: u64 = 5_000_000_000_000;
const FEEDBACK_MS: u64 = 50;

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn kbps(rate: u64) -> Bitrate {
    Bitrate::from_kbps(rate)
}

/// For all that is sent.
fn remb(rate: u64) -> remb::Remb {
    remb::Remb {
        bitrate: kbps(rate),
        ssrcs: Vec::new(),
    }
}

fn no_probes() -> Config {
    Config {
        probing: false,
        ..Config::default()
    }
}

/// A sender that sends what it may, or a share of it, over a link of a
/// constant rate without a limit to its queue; in steps of 1 ms.
struct Line {
    controller: Controller,
    capacity: Bitrate,
    share: f64,
    now: u64,
    seq: u16,
    credit: f64,
    free: Timestamp,
    /// Number, departure and arrival of what has not been reported.
    flying: Vec<(u16, Timestamp)>,
    deaf: bool,
    causes: Vec<Cause>,
}

impl Line {
    fn new(config: Config, capacity_kbps: u64) -> Self {
        Self {
            controller: Controller::new(config).expect("a valid configuration"),
            capacity: kbps(capacity_kbps),
            share: 1.0,
            now: 0,
            seq: 0xff00,
            credit: 0.0,
            free: Timestamp::ZERO,
            flying: Vec::new(),
            deaf: false,
            causes: Vec::new(),
        }
    }

    fn target(&self) -> Bitrate {
        self.controller.estimate().target
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now += 1;
            let now = ms(self.now);
            self.controller.process(now);
            self.credit += self.target().as_bps() as f64 * self.share / 1e3;
            while self.credit >= PACKET.as_bits() as f64 {
                self.credit -= PACKET.as_bits() as f64;
                self.send(now, None);
            }
            while let Some(probe) = self.controller.next_probe(now) {
                // All at once would show nothing; so, as if it were spread.
                let gap = PACKET.time_at(probe.bitrate).expect("a probe has a rate");
                let count = (probe.bitrate * probe.duration).as_bytes() / PACKET.as_bytes() + 1;
                for n in 0..count.max(probe.packets.into()) {
                    self.send(now + gap * n as u32, Some(probe.id));
                }
            }
            if self.now.is_multiple_of(FEEDBACK_MS) && !self.deaf {
                self.report(now);
            }
            let cause = self.controller.estimate().cause;
            if self.causes.last() != Some(&cause) {
                self.causes.push(cause);
            }
        }
    }

    fn send(&mut self, at: Timestamp, probe: Option<u32>) {
        self.controller.sent(at, self.seq, PACKET, probe, false);
        let time = PACKET.time_at(self.capacity).expect("a link has a rate");
        self.free = self.free.max(at) + time;
        self.flying.push((self.seq, self.free + PATH));
        self.seq = self.seq.wrapping_add(1);
    }

    fn report(&mut self, now: Timestamp) {
        let reports: Vec<Report> = self
            .flying
            .extract_if(.., |(_, arrival)| *arrival + PATH <= now)
            .map(|(seq, arrival)| Report {
                seq,
                arrival: Some(RemoteTime::from_nanos(arrival.as_nanos() + OFFSET)),
                sent: None,
            })
            .collect();
        if !reports.is_empty() {
            self.controller.feedback(now, &reports);
        }
    }

    fn queue(&self) -> Duration {
        self.free.since(ms(self.now))
    }
}

#[track_caller]
fn assert_between(rate: Bitrate, least_kbps: u64, most_kbps: u64) {
    let range = kbps(least_kbps)..=kbps(most_kbps);
    assert!(range.contains(&rate), "{rate}, not in {range:?}");
}

#[test]
fn the_start_rate_holds_until_something_is_known() {
    let mut c = Controller::new(Config::default()).expect("valid");
    assert_eq!(c.estimate().target, kbps(300));
    assert_eq!(c.estimate().cause, Cause::Start);
    assert!(!c.process(ms(0)), "nothing has changed");
    assert!(!c.feedback(ms(10), &[]));
    assert_eq!(c.stats().idle_feedback, 1);
}

#[test]
fn an_invalid_configuration_is_refused_and_changes_nothing() {
    let bad = Config {
        min: Bitrate::ZERO,
        ..Config::default()
    };
    assert_eq!(Controller::new(bad).err(), Some(ConfigError::NoMinimum));
    let mut c = Controller::new(Config::default()).expect("valid");
    assert_eq!(c.configure(ms(0), bad), Err(ConfigError::NoMinimum));
    assert_eq!(*c.config(), Config::default());
}

#[test]
fn the_estimate_finds_a_link_and_keeps_its_queue_short() {
    for filter in [DelayFilter::Trendline, DelayFilter::Kalman] {
        let config = Config {
            filter,
            ..Config::default()
        };
        let mut line = Line::new(config, 2000);
        line.run(5000);
        for _ in 0..20 {
            line.run(500);
            assert_between(line.target(), 1600, 2300);
            assert!(
                line.queue() < Duration::from_millis(60),
                "{:?}",
                line.queue()
            );
        }
        assert_eq!(line.controller.stats().silences, 0);
    }
}

#[test]
fn a_slower_link_is_followed_within_a_second() {
    let mut line = Line::new(Config::default(), 3000);
    line.run(8000);
    assert_between(line.target(), 2300, 3500);
    line.capacity = kbps(1000);
    line.run(1000);
    assert_between(line.target(), 100, 1100);
    line.run(4000);
    assert_between(line.target(), 750, 1200);
    assert!(
        line.queue() < Duration::from_millis(60),
        "{:?}",
        line.queue()
    );
    assert!(line.causes.contains(&Cause::Queue), "{:?}", line.causes);
}

#[test]
fn without_probes_the_rate_still_grows() {
    let mut line = Line::new(no_probes(), 2000);
    line.run(10_000);
    assert_eq!(line.controller.stats().probes, 0);
    assert_between(line.target(), 500, 2200);
}

#[test]
fn the_target_is_never_outside_its_limits() {
    let config = Config {
        start: kbps(500),
        min: kbps(400),
        max: kbps(800),
        ..Config::default()
    };
    let mut line = Line::new(config, 100_000);
    for _ in 0..100 {
        line.run(100);
        assert_between(line.target(), 400, 800);
    }
    assert_eq!(line.target(), kbps(800));
    assert_eq!(line.controller.estimate().cause, Cause::Maximum);
    line.capacity = kbps(100);
    for _ in 0..100 {
        line.run(100);
        assert_between(line.target(), 400, 800);
    }
    assert_eq!(line.target(), kbps(400));
    assert_eq!(line.controller.estimate().cause, Cause::Minimum);
}

/// What is sent at a limit does not show what is above it.
#[test]
fn at_a_limit_the_guess_does_not_run_away() {
    let config = Config {
        max: kbps(1000),
        ..Config::default()
    };
    let mut line = Line::new(config, 5000);
    line.run(120_000);
    let at_maximum = line.controller.stats().capacity;
    // No further than a step of 50 ms above what was shown.
    assert_between(at_maximum, 1000, 8000);
    let mut line = Line::new(Config::default(), 5000);
    for _ in 0..120 {
        line.controller.remb(ms(line.now), &remb(1000));
        line.run(1000);
    }
    assert_between(line.controller.stats().capacity, 1000, 12_000);
    assert_eq!(line.target(), kbps(1000));
}

#[test]
fn new_limits_hold_at_once_and_the_old_rate_comes_back_with_them() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(5000);
    let before = line.controller.estimate();
    let low = Config {
        max: kbps(500),
        ..Config::default()
    };
    let now = ms(line.now);
    line.controller.configure(now, low).expect("valid");
    assert_eq!(line.controller.estimate().target, kbps(500));
    assert_eq!(line.controller.estimate().cause, Cause::Maximum);
    line.controller
        .configure(now, Config::default())
        .expect("valid");
    assert_eq!(line.controller.estimate().target, before.target);
    assert_eq!(line.controller.estimate().cause, before.cause);
}

#[test]
fn the_peers_estimate_is_an_upper_bound_for_ten_seconds() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(5000);
    assert!(line.controller.remb(ms(line.now), &remb(700)));
    assert_eq!(line.target(), kbps(700));
    assert_eq!(line.controller.estimate().cause, Cause::Remb);
    line.run(9900);
    assert_eq!(line.target(), kbps(700));
    line.run(8000);
    assert_between(line.target(), 1500, 2300);
    assert!(line.controller.estimate().cause != Cause::Remb);
}

#[test]
fn a_higher_bound_of_the_peer_gives_the_rate_and_its_cause_back() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(5000);
    let before = line.controller.estimate();
    let now = ms(line.now);
    line.controller.remb(now, &remb(700));
    line.controller.remb(now, &remb(60_000));
    assert_eq!(line.controller.estimate().target, before.target);
    assert_eq!(
        line.controller.estimate().cause,
        before.cause,
        "not the peer's"
    );
}

/// It asks for 760 kbit/s for ever where 500 arrive.
#[test]
fn a_peer_that_sees_no_losses_does_not_undo_what_they_ask_for() {
    let mut c = Controller::new(Config::default()).expect("valid");
    c.remb(ms(0), &remb(760));
    let mut now = 0;
    let mut report = |c: &mut Controller| {
        let loss = 1.0 - (500.0 / c.estimate().target.as_kbps() as f64).min(1.0);
        for _ in 0..2 {
            now += 500;
            c.remb(ms(now), &remb(760));
        }
        c.loss_report(ms(now), Ratio::clamped(loss));
        c.estimate()
    };
    for _ in 0..5 {
        report(&mut c);
    }
    for _ in 0..60 {
        let estimate = report(&mut c);
        assert_between(estimate.target, 470, 600);
        assert_eq!(estimate.cause, Cause::Loss);
    }
    // The link is wider: back to what the peer says, and it is the peer's word.
    for _ in 0..20 {
        c.loss_report(ms(100_000), Ratio::ZERO);
    }
    c.remb(ms(100_000), &remb(700));
    assert_eq!(c.estimate().target, kbps(700));
    assert_eq!(c.estimate().cause, Cause::Remb);
    c.remb(ms(100_500), &remb(760));
    assert_eq!(c.estimate().target, kbps(760));
}

#[test]
fn what_the_peers_estimate_does_not_name_comes_on_top() {
    let mut c = Controller::new(Config::default()).expect("valid");
    for t in 0..200 {
        // 160 kbit/s of sound.
        c.sent_by(ms(10 * t), 2, DataSize::from_bytes(200));
        c.sent_by(ms(10 * t), 1, PACKET);
    }
    let remb = remb::Remb {
        bitrate: kbps(500),
        ssrcs: vec![1],
    };
    assert!(c.remb(ms(2000), &remb));
    assert_between(c.estimate().target, 650, 670);
}

/// Without feedback for each packet, the receiver estimates.
#[test]
fn without_feedback_the_peers_estimate_is_the_rate() {
    let mut c = Controller::new(Config::default()).expect("valid");
    assert!(c.remb(ms(0), &remb(1500)));
    assert_eq!(
        (c.estimate().target, c.estimate().cause),
        (kbps(1500), Cause::Remb)
    );
    assert!(c.remb(ms(1000), &remb(900)));
    assert_eq!(
        (c.estimate().target, c.estimate().cause),
        (kbps(900), Cause::Remb)
    );
    c.remb(ms(2000), &remb(1));
    assert_eq!(
        (c.estimate().target, c.estimate().cause),
        (kbps(30), Cause::Minimum)
    );
}

#[test]
fn loss_reports_set_the_rate_where_there_is_no_feedback() {
    let mut c = Controller::new(Config::default()).expect("valid");
    assert!(c.loss_report(ms(0), Ratio::clamped(0.01)));
    assert_eq!(c.estimate().target, kbps(315), "5 % more below 2 %");
    assert_eq!(c.estimate().cause, Cause::Loss);
    c.loss_report(ms(1000), Ratio::clamped(0.05));
    assert_eq!(
        c.estimate().target,
        kbps(315),
        "the same between 2 and 10 %"
    );
    assert_eq!(c.estimate().loss, Ratio::clamped(0.05));
    c.loss_report(ms(2000), Ratio::clamped(0.2));
    assert_eq!(
        c.estimate().target.as_bps(),
        283_500,
        "half of the loss less"
    );
    for n in 0..100 {
        c.loss_report(ms(3000 + n * 1000), Ratio::ONE);
    }
    assert_eq!(c.estimate().target, kbps(30));
    c.loss_report(ms(200_000), Ratio::ZERO);
    assert_eq!(
        c.estimate().target.as_bps(),
        31_500,
        "it grows from the limit at once"
    );
}

#[test]
fn loss_reports_are_passed_over_where_there_is_feedback() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(3000);
    let before = line.controller.estimate();
    assert!(!line.controller.loss_report(ms(line.now), Ratio::ONE));
    assert_eq!(line.controller.estimate(), before);
}

#[test]
fn a_call_that_says_that_nothing_changed_is_right() {
    let mut line = Line::new(Config::default(), 2000);
    for _ in 0..5000 {
        let before = line.controller.estimate();
        line.now += 1;
        let now = ms(line.now);
        let changed = line.controller.process(now);
        assert_eq!(changed, line.controller.estimate() != before);
        line.now -= 1;
        line.run(1);
    }
}

#[test]
fn when_feedback_stops_the_rate_goes_down_and_nothing_more_is_let_out() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(5000);
    line.deaf = true;
    line.run(1000);
    let estimate = line.controller.estimate();
    assert_eq!(line.controller.stats().state, State::Silent);
    assert_eq!(line.controller.stats().silences, 1);
    assert_eq!(
        (estimate.target, estimate.cause),
        (kbps(30), Cause::Minimum)
    );
    assert_eq!(estimate.window, Some(DataSize::ZERO));
    line.deaf = false;
    line.run(3000);
    assert_between(line.target(), 1200, 2300);
    assert!(line.controller.estimate().window > Some(DataSize::ZERO));
}

#[test]
fn who_sends_nothing_is_not_in_silence() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(5000);
    line.share = 0.0;
    line.run(200);
    let before = line.target();
    line.run(20_000);
    assert_eq!(line.controller.stats().silences, 0);
    assert!(
        line.target() >= before.scale(0.9),
        "{} was {before}",
        line.target()
    );
}

#[test]
fn less_sent_than_allowed_neither_raises_nor_lowers_the_estimate() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(5000);
    line.share = 0.4;
    for _ in 0..60 {
        line.run(1000);
        assert_between(line.target(), 1000, 4000);
    }
    assert!(line.controller.stats().limited);
    assert!(line.causes.contains(&Cause::Limited), "{:?}", line.causes);
}

#[test]
fn there_is_no_window_where_none_is_configured() {
    let config = Config {
        window: None,
        ..Config::default()
    };
    let mut line = Line::new(config, 2000);
    line.run(3000);
    assert_eq!(line.controller.estimate().window, None);
    let mut line = Line::new(Config::default(), 2000);
    line.run(3000);
    let window = line
        .controller
        .estimate()
        .window
        .expect("one is configured");
    // 2 Mbit/s for 40 ms, up to 50 ms until the feedback, and 20: 27.5 kB.
    let range = DataSize::from_bytes(15_000)..=DataSize::from_bytes(40_000);
    assert!(range.contains(&window), "{window}");
}

#[test]
fn the_round_trip_is_that_of_rtcp_once_it_is_there() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(3000);
    let own = line.controller.estimate().rtt.expect("from feedback");
    assert!(
        own >= Duration::from_millis(40) && own <= Duration::from_millis(100),
        "{own:?}"
    );
    line.controller.rtt(Duration::from_millis(43));
    assert_eq!(
        line.controller.estimate().rtt,
        Some(Duration::from_millis(43))
    );
}

/// The peer has restarted, and its clock with it.
#[test]
fn another_clock_of_the_peer_is_no_queue() {
    let mut line = Line::new(Config::default(), 2000);
    line.run(5000);
    let before = line.target();
    // All that was sent is reported by the new clock, two hours ahead.
    for step in 0..100u64 {
        let now = ms(line.now + step * 50);
        for n in 0..10u64 {
            let sent = ms(line.now + step * 50 + n * 5);
            line.controller.sent(sent, line.seq, PACKET, None, false);
            let arrival = RemoteTime::from_nanos(sent.as_nanos() + 2 * OFFSET + 20_000_000);
            let report = Report {
                seq: line.seq,
                arrival: Some(arrival),
                sent: None,
            };
            line.seq = line.seq.wrapping_add(1);
            line.controller
                .feedback(now + Duration::from_millis(50), &[report]);
        }
    }
    assert!(line.controller.stats().queue < Duration::from_millis(30));
    assert!(
        line.target() >= before.scale(0.8),
        "{} was {before}",
        line.target()
    );
}

#[test]
fn process_has_a_step_of_its_own() {
    let mut c = Controller::new(Config::default()).expect("valid");
    assert_eq!(c.next_process(), None);
    c.process(ms(100));
    assert_eq!(c.next_process(), Some(ms(110)));
    c.process(ms(105));
    assert_eq!(c.next_process(), Some(ms(110)), "too early");
    c.process(ms(50));
    assert_eq!(c.next_process(), Some(ms(110)), "time that goes backwards");
}

/// A million packets, some of them reordered by up to 200 and some lost,
/// reports in a random order, some messages lost or repeated.
#[test]
fn memory_stays_flat() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut c = Controller::new(Config::default()).expect("valid");
    let mut pending: Vec<Report> = Vec::new();
    let mut most = 0;
    for n in 0..1_000_000u64 {
        let now = Timestamp::from_nanos(n * 400_000);
        c.sent(now, n as u16, PACKET, None, false);
        let delay = 20_000_000 + rng.u64(0..2_000_000);
        pending.push(Report {
            seq: n as u16,
            arrival: (rng.u8(..) > 5).then(|| RemoteTime::from_nanos(now.as_nanos() + delay)),
            sent: None,
        });
        if n % 64 == 63 {
            rng.shuffle(&mut pending);
            let kept = pending.split_off(pending.len() - rng.usize(0..pending.len().min(200)));
            match rng.u8(0..20) {
                0 => {}
                1 => {
                    c.feedback(now, &pending);
                    c.feedback(now, &pending);
                }
                _ => {
                    c.feedback(now, &pending);
                }
            }
            pending = kept;
            c.process(now);
            while c.next_probe(now).is_some() {}
            most = most.max(c.remembered());
        }
    }
    assert!(most <= MOST_REMEMBERED, "{most}");
    assert!(most > 20_000, "the history was full: {most}");
    let p = c.stats().packets;
    assert_eq!(p.sent, 1_000_000);
    assert!(p.received > 900_000, "{p:?}");
    assert!(p.received + p.lost + p.forgotten <= p.sent, "{p:?}");
}
