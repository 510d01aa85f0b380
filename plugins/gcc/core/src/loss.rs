// SPDX-License-Identifier: MPL-2.0
//! Does loss come from the rate, or is it there at any rate?
//!
//! Each observation is what was sent in some time and what of it was lost. Two
//! models are compared by their likelihood: loss `p` at any rate, or a link
//! that takes `b` and loses the rest, `p + (1 - p)(1 - b / s)` at the rate `s`
//! above `b`. The second has one more free number and must be better by
//! [`EVIDENCE`], in units of how much the losses scatter. Queue delay has no part in this: where there is a queue, the
//! delay tells first. The idea of fitting both at once is that of libwebrtc's
//! loss_based_bwe_v2.cc; model, candidates and decision are our own.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

/// An observation lasts at least so long, and has at least so many packets.
const LENGTH: Duration = Duration::from_millis(100);
const LEAST_PACKETS: u64 = 20;
/// What is longer than this is begun anew: the rate was not one.
const LONGEST: Duration = Duration::from_secs(2);
/// Observations in the fit.
const OBSERVATIONS: usize = 150;
/// ... no older than this.
const AGE: Duration = Duration::from_secs(15);
/// A bottleneck limits the rate only while more than the inherent loss and this
/// was lost of late: then the rate is tried again.
const BLAME: f64 = 0.01;
const LATELY: Duration = Duration::from_secs(2);
/// With fewer than these nothing is blamed.
const LEAST_OBSERVATIONS: usize = 8;
/// Observations from one verdict to the next.
const JUDGE_EACH: u32 = 3;
/// Log-likelihood by which a bottleneck must explain more. Larger: slower to
/// believe in one.
const EVIDENCE: f64 = 8.0;
/// Loss that nobody counts, and the most that is taken for inherent.
const LEAST_LOSS: f64 = 0.001;
const MOST_LOSS: f64 = 0.5;

#[derive(Clone, Copy, Debug)]
struct Observation {
    at: Timestamp,
    /// bit/s.
    rate: f64,
    packets: f64,
    lost: f64,
}

/// What the losses are taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// At any rate.
    pub inherent: f64,
    /// What the link takes without more loss; `None` if nothing shows one.
    pub bottleneck: Option<Bitrate>,
}

/// How well a bottleneck explains the losses.
#[derive(Clone, Copy, Debug)]
struct Fit {
    /// bit/s; infinite for none.
    bottleneck: f64,
    inherent: f64,
    /// Logarithm.
    likelihood: f64,
    /// Sum of the squared errors over their variance: as many as there are
    /// observations, if losses come one by one.
    scatter: f64,
}

#[derive(Debug, Default)]
pub struct LossModel {
    begun: Option<Timestamp>,
    packets: u64,
    lost: u64,
    size: DataSize,
    observations: VecDeque<Observation>,
    /// Observations since the last verdict.
    unjudged: u32,
    verdict: Verdict,
    smoothed: f64,
}

impl LossModel {
    /// Packets heard of for the first time, those of them lost, and the size of
    /// all. Says whether that made an observation.
    pub fn update(&mut self, now: Timestamp, packets: u64, lost: u64, size: DataSize) -> bool {
        let begun = *self.begun.get_or_insert(now);
        self.packets += packets;
        self.lost += lost.min(packets);
        self.size += size;
        let time = now.since(begun);
        if time > LONGEST {
            self.begin(now);
            return false;
        }
        if time < LENGTH || self.packets < LEAST_PACKETS {
            return false;
        }
        let share = self.lost as f64 / self.packets as f64;
        self.smoothed += 0.2 * (share - self.smoothed);
        self.observations.push_back(Observation {
            at: now,
            rate: self.size.as_bits() as f64 / time.as_secs_f64(),
            packets: self.packets as f64,
            lost: self.lost as f64,
        });
        self.begin(now);
        while self.observations.len() > OBSERVATIONS
            || self
                .observations
                .front()
                .is_some_and(|first| now.since(first.at) > AGE)
        {
            self.observations.pop_front();
        }
        self.unjudged += 1;
        if self.unjudged >= JUDGE_EACH {
            self.unjudged = 0;
            self.verdict = self.judge();
        }
        true
    }

    fn begin(&mut self, now: Timestamp) {
        self.begun = Some(now);
        (self.packets, self.lost, self.size) = (0, 0, DataSize::ZERO);
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.observations.len()
    }

    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Smoothed share of packets lost.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.smoothed
    }

    /// Share lost of late.
    fn lately(&self) -> f64 {
        let Some(last) = self.observations.back() else {
            return 0.0;
        };
        let (lost, packets) = self
            .observations
            .iter()
            .filter(|o| last.at.since(o.at) < LATELY)
            .fold((0.0, 0.0), |(lost, all), o| {
                (lost + o.lost, all + o.packets)
            });
        lost / f64::max(packets, 1.0)
    }

    fn judge(&self) -> Verdict {
        let alone = self.fit(f64::INFINITY);
        let mut best = alone;
        if self.observations.len() < LEAST_OBSERVATIONS {
            return Verdict {
                inherent: alone.inherent,
                bottleneck: None,
            };
        }
        // What got through at each rate is what a link may take.
        for observation in &self.observations {
            let loss = observation.lost / observation.packets;
            if loss <= alone.inherent {
                continue;
            }
            let bottleneck = observation.rate * (1.0 - loss);
            let fit = self.fit(bottleneck);
            if fit.likelihood > best.likelihood {
                best = fit;
            }
        }
        // Losses in bursts scatter more than single ones, and weigh less.
        let scatter = (best.scatter / self.observations.len().max(1) as f64).max(1.0);
        let gain = (best.likelihood - alone.likelihood) / scatter;
        if gain < EVIDENCE || self.lately() <= best.inherent + BLAME {
            return Verdict {
                inherent: alone.inherent,
                bottleneck: None,
            };
        }
        Verdict {
            inherent: best.inherent,
            bottleneck: Some(Bitrate::from_bps(best.bottleneck as u64)),
        }
    }

    fn fit(&self, bottleneck: f64) -> Fit {
        // Observations that the bottleneck does not touch give the inherent
        // loss; one loss in a thousand packets is believed beforehand.
        let below = |o: &&Observation| o.rate <= bottleneck * 1.02;
        let (lost, packets) = self
            .observations
            .iter()
            .filter(below)
            .fold((0.1, 100.0), |(lost, all), o| {
                (lost + o.lost, all + o.packets)
            });
        let inherent = (lost / packets).clamp(LEAST_LOSS, MOST_LOSS);
        let mut fit = Fit {
            bottleneck,
            inherent,
            likelihood: 0.0,
            scatter: 0.0,
        };
        for o in &self.observations {
            let over = (1.0 - bottleneck / o.rate.max(1.0)).max(0.0);
            let p = (inherent + (1.0 - inherent) * over).clamp(LEAST_LOSS, 0.99);
            fit.likelihood += o.lost * p.ln() + (o.packets - o.lost) * (1.0 - p).ln();
            let error = o.lost - o.packets * p;
            fit.scatter += error * error / (o.packets * p * (1.0 - p));
        }
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 9600 bits.
    const PACKET: DataSize = DataSize::from_bytes(1200);
    const STEP: Duration = Duration::from_millis(100);

    /// What becomes of a packet is `loses`: of the rate, bit/s.
    struct Feed {
        model: LossModel,
        now: Timestamp,
    }

    impl Feed {
        fn new() -> Self {
            let mut model = LossModel::default();
            model.update(Timestamp::ZERO, 0, 0, DataSize::ZERO);
            Self {
                model,
                now: Timestamp::ZERO,
            }
        }

        /// A tenth of a second at this rate.
        fn send(&mut self, rate_bps: f64, mut loses: impl FnMut() -> f64) -> Verdict {
            self.now = self.now + STEP;
            let packets = (rate_bps * 0.1 / 9600.0).round() as u64;
            let lost = (packets as f64 * loses()).round() as u64;
            let size = DataSize::from_bytes(packets * PACKET.as_bytes());
            self.model.update(self.now, packets, lost, size);
            self.model.verdict()
        }
    }

    /// Of so many packets, each lost by chance.
    fn chance(rng: &mut fastrand::Rng, packets: u64, share: f64) -> f64 {
        let lost = (0..packets).filter(|_| rng.f64() < share).count();
        lost as f64 / packets as f64
    }

    fn over(rate: f64, policer: f64) -> f64 {
        (1.0 - policer / rate).max(0.0)
    }

    /// Rates that go up and down, as those of a controller do.
    fn rates() -> impl Iterator<Item = f64> {
        [2.5e6, 2.8e6, 3.1e6, 3.4e6, 3.7e6, 4.0e6]
            .into_iter()
            .cycle()
    }

    #[test]
    fn random_loss_is_not_blamed_on_the_rate() {
        for share in [0.02, 0.05, 0.1, 0.2] {
            for seed in 0..5 {
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut feed = Feed::new();
                for rate in rates().take(600) {
                    let packets = (rate * 0.1 / 9600.0).round() as u64;
                    let verdict = feed.send(rate, || chance(&mut rng, packets, share));
                    // So little was seen before this that anything fits.
                    if feed.now < Timestamp::from_millis(1000) {
                        continue;
                    }
                    assert_eq!(
                        verdict.bottleneck, None,
                        "{share} seed {seed} at {:?}",
                        feed.now
                    );
                }
                let found = feed.model.verdict().inherent;
                assert!((found - share).abs() < 0.3 * share, "{found} of {share}");
                assert!(
                    (feed.model.loss() - share).abs() < 0.6 * share,
                    "{}",
                    feed.model.loss()
                );
            }
        }
    }

    #[test]
    fn without_loss_there_is_no_verdict() {
        let mut feed = Feed::new();
        for rate in rates().take(100) {
            assert_eq!(feed.send(rate, || 0.0).bottleneck, None);
        }
        assert!(feed.model.verdict().inherent < 0.002);
    }

    #[test]
    fn a_policer_is_found_and_its_rate_within_five_percent() {
        for policer in [2.7e6, 3.0e6, 3.5e6] {
            let mut feed = Feed::new();
            for rate in rates().take(60) {
                feed.send(rate, || over(rate, policer));
            }
            // The last one is 4 Mbit/s, and loses.
            let verdict = feed.model.verdict();
            let found = verdict.bottleneck.expect("the loss goes with the rate");
            let off = found.as_bps() as f64 / policer - 1.0;
            assert!(off.abs() < 0.05, "{found}, not {policer}");
            assert!(verdict.inherent < 0.02, "{}", verdict.inherent);
        }
    }

    #[test]
    fn a_policer_is_found_behind_random_loss() {
        for seed in 0..5 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut feed = Feed::new();
            for rate in rates().take(60) {
                let packets = (rate * 0.1 / 9600.0).round() as u64;
                feed.send(rate, || {
                    let chance = chance(&mut rng, packets, 0.05);
                    chance + (1.0 - chance) * over(rate, 3.0e6)
                });
            }
            let verdict = feed.model.verdict();
            let found = verdict.bottleneck.expect("20 % more is lost at 4 Mbit/s");
            // What got through has lost the random share too.
            let off = found.as_bps() as f64 / 3.0e6 - 1.0;
            assert!((-0.12..0.05).contains(&off), "seed {seed}: {found}");
            assert!(
                (0.02..0.08).contains(&verdict.inherent),
                "{}",
                verdict.inherent
            );
        }
    }

    #[test]
    fn a_policer_that_is_gone_is_forgotten() {
        let mut feed = Feed::new();
        for rate in rates().take(60) {
            feed.send(rate, || over(rate, 3.0e6));
        }
        assert!(feed.model.verdict().bottleneck.is_some());
        for _ in 0..60 {
            feed.send(4e6, || 0.0);
        }
        let verdict = feed.model.verdict();
        assert_eq!(verdict.bottleneck, None, "nothing is lost any more");
    }

    #[test]
    fn an_observation_takes_a_tenth_of_a_second_and_twenty_packets() {
        let mut m = LossModel::default();
        let at = Timestamp::from_millis;
        let size = |packets: u64| DataSize::from_bytes(packets * 1200);
        assert!(!m.update(at(0), 10, 0, size(10)));
        assert!(!m.update(at(99), 50, 0, size(50)), "too short");
        assert!(m.update(at(100), 0, 0, DataSize::ZERO));
        assert!(!m.update(at(300), 19, 0, size(19)), "too few");
        assert!(m.update(at(400), 1, 0, size(1)));
        assert!(
            !m.update(at(3000), 99, 0, size(99)),
            "2.6 s are not one rate"
        );
    }

    #[test]
    fn observations_are_bounded_in_number_and_age() {
        let mut feed = Feed::new();
        for rate in rates().take(1000) {
            feed.send(rate, || 0.01);
        }
        assert_eq!(feed.model.remembered(), OBSERVATIONS);
        feed.now = feed.now + Duration::from_secs(20);
        feed.send(3e6, || 0.0);
        feed.send(3e6, || 0.0);
        assert_eq!(
            feed.model.remembered(),
            1,
            "the first one after a pause is begun anew"
        );
    }

    #[test]
    fn hostile_numbers_stay_finite() {
        let mut m = LossModel::default();
        for n in 0..1000u64 {
            let now = Timestamp::from_millis(n * 150);
            m.update(
                now,
                u64::MAX / 2000,
                u64::MAX,
                DataSize::from_bytes(u64::MAX),
            );
            m.update(now, 30, 0, DataSize::ZERO);
            let verdict = m.verdict();
            assert!((0.0..=1.0).contains(&verdict.inherent), "{verdict:?}");
            assert!((0.0..=1.0).contains(&m.loss()));
        }
    }
}
