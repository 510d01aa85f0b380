// SPDX-License-Identifier: MPL-2.0
//! How many packets are lost and in how long runs, from feedback on each.

use std::time::Duration;

use dualstream_common::Timestamp;

use crate::channel::Channel;

/// Larger: steadier at few packets, later when losses begin.
const FAST: Duration = Duration::from_secs(2);
/// Larger: protection stays longer between rare losses.
const SLOW: Duration = Duration::from_secs(8);
/// Bursts are a thing of the network and change less than the load.
const RUNS: Duration = Duration::from_secs(20);
/// Losses among fewer packets are taken for losses among so many.
const FEWEST: f64 = 30.0;
/// Runs of independent losses that are believed in before any is seen.
const PRIOR_RUNS: f64 = 3.0;

/// Sums in which what is old counts less and less.
#[derive(Clone, Copy, Debug, Default)]
struct Decaying {
    packets: f64,
    lost: f64,
    runs: f64,
}

impl Decaying {
    fn pass(&mut self, time: Duration, memory: Duration) {
        let factor = (-time.as_secs_f64() / memory.as_secs_f64()).exp();
        for sum in [&mut self.packets, &mut self.lost, &mut self.runs] {
            *sum *= factor;
        }
    }

    fn add(&mut self, lost: bool, begins: bool) {
        self.packets += 1.0;
        self.lost += f64::from(u8::from(lost));
        self.runs += f64::from(u8::from(begins));
    }

    fn share(&self) -> f64 {
        self.lost / self.packets.max(FEWEST)
    }
}

#[derive(Clone, Debug, Default)]
pub struct LossEstimator {
    fast: Decaying,
    slow: Decaying,
    bursts: Decaying,
    /// Packets that arrived since the last loss.
    unbroken: u64,
    in_run: bool,
    updated: Option<Timestamp>,
}

impl LossEstimator {
    /// For each packet, in order of sending, whether it arrived.
    pub fn add(&mut self, now: Timestamp, arrived: impl IntoIterator<Item = bool>) {
        let time = self
            .updated
            .map_or(Duration::ZERO, |before| now.since(before));
        self.updated = Some(now.max(self.updated.unwrap_or(now)));
        self.fast.pass(time, FAST);
        self.slow.pass(time, SLOW);
        self.bursts.pass(time, RUNS);
        for arrived in arrived {
            let begins = !arrived && !self.in_run;
            for sum in [&mut self.fast, &mut self.slow, &mut self.bursts] {
                sum.add(!arrived, begins);
            }
            self.in_run = !arrived;
            self.unbroken = if arrived {
                self.unbroken.saturating_add(1)
            } else {
                0
            };
        }
    }

    #[must_use]
    pub fn updated(&self) -> Option<Timestamp> {
        self.updated
    }

    /// Mean length of a run of lost packets.
    fn run(&self) -> f64 {
        (self.bursts.lost + PRIOR_RUNS) / (self.bursts.runs + PRIOR_RUNS)
    }

    /// The larger of what was lost of late and what was lost for longer, the
    /// latter not above the loss at which every second such time would have
    /// passed without a run of losses.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let unbroken = self.run() * std::f64::consts::LN_2 / (self.unbroken.max(1) as f64);
        self.fast
            .share()
            .max(self.slow.share().min(unbroken))
            .min(1.0)
    }

    #[must_use]
    pub fn channel(&self) -> Channel {
        let loss = self.loss();
        let independent = Channel::independent(loss).burst();
        let lost = self.bursts.lost + PRIOR_RUNS * independent;
        Channel::new(loss, lost / (self.bursts.runs + PRIOR_RUNS))
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// Feedback each 50 ms on packets of a channel; the estimate after each
    /// second.
    fn run(
        estimator: &mut LossEstimator,
        from: u64,
        seconds: u64,
        channel: Channel,
        pps: u64,
    ) -> Vec<Channel> {
        let mut rng = Rng::with_seed(5 + from);
        let mut lost = false;
        let mut found = Vec::new();
        for at in 0..seconds * 20 {
            let now = Timestamp::from_millis(from * 1000 + at * 50);
            let packets: Vec<_> = (0..pps / 20)
                .map(|_| {
                    let stay = 1.0 - 1.0 / channel.burst();
                    lost = rng.f64() < if lost { stay } else { channel.onset() };
                    !lost
                })
                .collect();
            estimator.add(now, packets);
            if at % 20 == 19 {
                found.push(estimator.channel());
            }
        }
        found
    }

    #[test]
    fn loss_and_bursts_are_found() {
        for (loss, burst) in [(0.02, 1.0), (0.1, 1.0), (0.05, 3.0), (0.1, 5.0)] {
            let mut estimator = LossEstimator::default();
            let found = run(&mut estimator, 0, 60, Channel::new(loss, burst), 400);
            let late = &found[20..];
            let mean = |f: fn(&Channel) -> f64| late.iter().map(f).sum::<f64>() / late.len() as f64;
            let (mean_loss, mean_burst) = (mean(Channel::loss), mean(Channel::burst));
            // Above, as it is the larger of two.
            assert!(
                (0.95 * loss..1.35 * loss).contains(&mean_loss),
                "{mean_loss} for {loss}"
            );
            assert!(
                (0.8 * burst..1.25 * burst).contains(&mean_burst),
                "{mean_burst} for {burst}"
            );
        }
    }

    #[test]
    fn losses_are_there_in_a_second_and_gone_in_ten() {
        for pps in [60, 400] {
            let mut estimator = LossEstimator::default();
            run(&mut estimator, 0, 20, Channel::independent(0.0), pps);
            assert_eq!(estimator.loss(), 0.0);
            let begun = run(&mut estimator, 20, 20, Channel::independent(0.05), pps);
            assert!(begun[0].loss() > 0.01, "{:?}", begun[0]);
            let ended = run(&mut estimator, 40, 10, Channel::independent(0.0), pps);
            let limit = std::f64::consts::LN_2 / (pps as f64 * 9.0) + 0.05 * (-4.5f64).exp();
            assert!(ended[9].loss() < limit, "{:?}", ended[9]);
            assert!(ended[0].loss() > 0.005, "not at once: {:?}", ended[0]);
        }
    }

    #[test]
    fn one_loss_among_the_first_packets_is_not_a_hundred_percent() {
        let mut estimator = LossEstimator::default();
        estimator.add(Timestamp::ZERO, [true, false]);
        assert!(estimator.loss() < 0.05);
        estimator.add(Timestamp::ZERO, []);
        // Time that goes backwards is not time that passes.
        estimator.add(Timestamp::from_millis(5000), [true]);
        estimator.add(Timestamp::from_millis(10), [true; 30]);
        assert_eq!(estimator.updated(), Some(Timestamp::from_millis(5000)));
    }
}
