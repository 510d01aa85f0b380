// SPDX-License-Identifier: MPL-2.0
//! Any operations at any times, hostile reports among them.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Ratio, RemoteTime, Timestamp};
use gcc_core::remb::Remb;
use gcc_core::{Config, Controller, DelayFilter, MOST_REMEMBERED, Report};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    /// By so many us; or backwards.
    Pass(i64),
    Jump(u64),
    /// Packets, with numbers that go on or any number.
    Sent(u16, u64, Option<u32>),
    SentAs(u16, u64),
    /// What left last arrives, so late, ms; lost where it is a multiple.
    Heard(u16, u64, u16),
    Hostile(Vec<(u16, Option<u64>, Option<u64>)>),
    Process,
    Limits(u64, u64, u64),
    Remb(u64),
    Loss(f64),
    RoundTrip(u64),
    Wanted(Option<u64>),
}

/// Small numbers as often as those near the ends.
fn wide() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_000_000u64, any::<u64>(), Just(0), Just(u64::MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    let probe = prop_oneof![Just(None), Just(None), (0..6u32).prop_map(Some)];
    let report = (any::<u16>(), any::<Option<u64>>(), any::<Option<u64>>());
    prop_oneof![
        6 => (0..200_000i64).prop_map(Op::Pass),
        1 => (-2_000_000..2_000_000i64).prop_map(Op::Pass),
        1 => wide().prop_map(Op::Jump),
        6 => (1..60u16, 0..1500u64, probe).prop_map(|(n, size, probe)| Op::Sent(n, size, probe)),
        1 => (any::<u16>(), wide()).prop_map(|(seq, size)| Op::SentAs(seq, size)),
        6 => (1..80u16, 0..500u64, 1..40u16).prop_map(|(n, late, lost)| Op::Heard(n, late, lost)),
        2 => proptest::collection::vec(report, 0..50).prop_map(Op::Hostile),
        4 => Just(Op::Process),
        1 => (wide(), wide(), wide()).prop_map(|(min, start, max)| Op::Limits(min, start, max)),
        1 => wide().prop_map(Op::Remb),
        1 => (-1.0..2.0f64).prop_map(Op::Loss),
        1 => wide().prop_map(Op::RoundTrip),
        1 => proptest::option::of(wide()).prop_map(Op::Wanted),
    ]
}

struct World {
    controller: Controller,
    now: Timestamp,
    seq: u16,
    sent: u64,
}

impl World {
    fn new(filter: DelayFilter) -> Self {
        let config = Config {
            filter,
            ..Config::default()
        };
        Self {
            controller: Controller::new(config).expect("valid"),
            now: Timestamp::from_millis(10_000),
            seq: 0xffc0,
            sent: 0,
        }
    }

    fn send(&mut self, seq: u16, size: u64, probe: Option<u32>) {
        let size = DataSize::from_bytes(size);
        self.controller
            .sent(self.now, seq, size, probe, seq.is_multiple_of(3));
        self.controller.sent_by(self.now, u32::from(seq) % 40, size);
        self.sent = self.sent.saturating_add(size.as_bytes());
        self.seq = seq.wrapping_add(1);
    }

    fn apply(&mut self, op: &Op) {
        let before = self.controller.estimate();
        let now = self.now;
        let told = match op {
            Op::Pass(us) => {
                let nanos = now
                    .as_nanos()
                    .saturating_add_signed(us.saturating_mul(1000));
                self.now = Timestamp::from_nanos(nanos);
                false
            }
            Op::Jump(nanos) => {
                self.now = Timestamp::from_nanos(*nanos);
                false
            }
            Op::Sent(count, size, probe) => {
                for _ in 0..*count {
                    self.send(self.seq, *size, *probe);
                }
                false
            }
            Op::SentAs(seq, size) => {
                self.send(*seq, *size, None);
                false
            }
            Op::Heard(count, late_ms, lost) => {
                let late = Duration::from_millis(*late_ms);
                let reports: Vec<Report> = (0..*count)
                    .map(|n| Report {
                        seq: self.seq.wrapping_sub(count - n),
                        arrival: (!n.is_multiple_of(*lost)).then(|| {
                            let gap = Duration::from_micros(u64::from(n) * 300);
                            RemoteTime::from_nanos(now.as_nanos()) + late + gap
                        }),
                        sent: None,
                    })
                    .collect();
                self.controller.feedback(now, &reports)
            }
            Op::Hostile(reports) => {
                let report = |(seq, arrival, sent): &(u16, Option<u64>, Option<u64>)| Report {
                    seq: *seq,
                    arrival: arrival.map(RemoteTime::from_nanos),
                    sent: sent.map(Timestamp::from_nanos),
                };
                let reports: Vec<Report> = reports.iter().map(report).collect();
                self.controller.feedback(now, &reports)
            }
            Op::Process => {
                let told = self.controller.process(now);
                let probes = std::iter::from_fn(|| self.controller.next_probe(now));
                for probe in probes.take(1000) {
                    assert!(probe.bitrate > Bitrate::ZERO);
                }
                assert!(
                    self.controller.next_probe(now).is_none(),
                    "probes without end"
                );
                assert!(
                    !self.controller.process(now),
                    "nothing is left to be done now"
                );
                told
            }
            Op::Limits(min, start, max) => {
                let config = Config {
                    min: Bitrate::from_bps(*min),
                    start: Bitrate::from_bps(*start),
                    max: Bitrate::from_bps(*max),
                    ..*self.controller.config()
                };
                let valid = self.controller.configure(now, config).is_ok();
                assert_eq!(valid, config.validate().is_ok());
                valid && self.controller.estimate() != before
            }
            Op::Remb(rate) => {
                let remb = Remb {
                    bitrate: Bitrate::from_bps(*rate),
                    ssrcs: (0..*rate as u32 % 60).collect(),
                };
                self.controller.remb(now, &remb)
            }
            Op::Loss(loss) => self.controller.loss_report(now, Ratio::clamped(*loss)),
            Op::RoundTrip(nanos) => {
                self.controller.rtt(Duration::from_nanos(*nanos));
                self.controller.estimate() != before
            }
            Op::Wanted(rate) => {
                self.controller.set_wanted(rate.map(Bitrate::from_bps));
                false
            }
        };
        assert_eq!(
            told,
            self.controller.estimate() != before,
            "what it says of a change"
        );
    }

    fn check(&self) {
        let (c, e) = (&self.controller, self.controller.estimate());
        assert!(
            c.config().min <= e.target,
            "{} < {}",
            e.target,
            c.config().min
        );
        assert!(
            e.target <= c.config().max,
            "{} > {}",
            e.target,
            c.config().max
        );
        assert!(c.in_flight().as_bytes() <= self.sent);
        assert!(c.remembered() <= MOST_REMEMBERED);
        let stats = c.stats();
        assert!(stats.gradient_ms.is_finite());
        assert!(stats.threshold_ms.is_finite());
        assert!((0.0..=1.0).contains(&stats.losses.inherent));
        assert!(stats.capacity > Bitrate::ZERO);
        let p = stats.packets;
        assert!(p.received + p.lost + p.forgotten <= p.sent, "{p:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_estimate_is_within_its_limits(
        kalman in any::<bool>(),
        ops in proptest::collection::vec(op(), 1..300),
    ) {
        let filter = if kalman { DelayFilter::Kalman } else { DelayFilter::Trendline };
        let mut world = World::new(filter);
        for op in &ops {
            world.apply(op);
            world.check();
        }
    }

    /// However hostile the start was, what comes after it is measured.
    #[test]
    fn after_a_hostile_message_a_calm_link_is_found_again(
        reports in proptest::collection::vec((any::<u16>(), any::<Option<u64>>()), 0..50),
    ) {
        let mut world = World::new(DelayFilter::Trendline);
        world.apply(&Op::Sent(40, 1200, None));
        let hostile = reports.iter().map(|(seq, at)| (0xffc0 + seq % 40, *at, None)).collect();
        world.apply(&Op::Hostile(hostile));
        for _ in 0..1200 {
            world.apply(&Op::Pass(50_000));
            world.apply(&Op::Sent(10, 1200, None));
            world.apply(&Op::Heard(10, 20, 1000));
            world.apply(&Op::Process);
            world.check();
        }
        prop_assert!(world.controller.stats().queue < Duration::from_millis(100));
        prop_assert!(world.controller.estimate().target > Bitrate::from_kbps(200));
    }
}
