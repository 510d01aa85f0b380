// SPDX-License-Identifier: MPL-2.0
//! Which packets never arrive, whatever the queue does.

use dualstream_common::Ratio;

/// Two states, each with its own loss; the state may change before each
/// packet (E. N. Gilbert, 1960; E. O. Elliott, 1963).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// Chance to go from good to bad, and back.
    pub to_bad: Ratio,
    pub to_good: Ratio,
    pub loss_good: Ratio,
    pub loss_bad: Ratio,
}

impl GilbertElliott {
    /// All is lost in the bad state and nothing in the good one. `burst` is
    /// the mean number of packets lost in a row, at least 1.
    #[must_use]
    pub fn bursts(mean: Ratio, burst: f64) -> Self {
        let to_good = 1.0 / burst.max(1.0);
        let to_bad = to_good * mean.value() / (1.0 - mean.value()).max(f64::EPSILON);
        Self {
            to_bad: Ratio::clamped(to_bad),
            to_good: Ratio::clamped(to_good),
            loss_good: Ratio::ZERO,
            loss_bad: Ratio::ONE,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loss {
    #[default]
    None,
    /// Each packet by itself.
    Random(Ratio),
    GilbertElliott(GilbertElliott),
}

/// The chance at work.
#[derive(Clone, Debug)]
pub struct Fate {
    loss: Loss,
    bad: bool,
}

impl Fate {
    #[must_use]
    pub fn new(loss: Loss) -> Self {
        Self { loss, bad: false }
    }

    /// Is the next packet lost?
    pub fn loses(&mut self, rng: &mut fastrand::Rng) -> bool {
        match self.loss {
            Loss::None => false,
            Loss::Random(loss) => rng.f64() < loss.value(),
            Loss::GilbertElliott(model) => {
                let change = if self.bad {
                    model.to_good
                } else {
                    model.to_bad
                };
                self.bad ^= rng.f64() < change.value();
                let loss = if self.bad {
                    model.loss_bad
                } else {
                    model.loss_good
                };
                rng.f64() < loss.value()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share lost, and mean length of what was lost in a row.
    fn run(loss: Loss) -> (f64, f64) {
        let (mut fate, mut rng) = (Fate::new(loss), fastrand::Rng::with_seed(7));
        let lost: Vec<bool> = (0..200_000).map(|_| fate.loses(&mut rng)).collect();
        let count = lost.iter().filter(|l| **l).count() as f64;
        let bursts = lost.windows(2).filter(|w| !w[0] && w[1]).count() as f64;
        (count / lost.len() as f64, count / bursts.max(1.0))
    }

    #[test]
    fn loss_has_the_mean_and_the_bursts_that_were_asked_for() {
        assert_eq!(run(Loss::None).0, 0.0);
        let (mean, burst) = run(Loss::Random(Ratio::clamped(0.05)));
        assert!((mean - 0.05).abs() < 0.003, "{mean}");
        assert!((burst - 1.0 / 0.95).abs() < 0.03, "{burst}");
        let model = GilbertElliott::bursts(Ratio::clamped(0.1), 3.0);
        let (mean, burst) = run(Loss::GilbertElliott(model));
        assert!((mean - 0.1).abs() < 0.006, "{mean}");
        assert!((burst - 3.0).abs() < 0.15, "{burst}");
    }
}
