// SPDX-License-Identifier: MPL-2.0
//! Is the queue of the bottleneck growing? The gradient against a threshold
//! that follows it (draft-ietf-rmcat-gcc-02 section 5.4; constants as in
//! libwebrtc, trendline_estimator.cc, where they differ).

use std::time::Duration;

use dualstream_common::RemoteTime;

/// Per ms, upwards and downwards: the threshold rises quickly above a gradient
/// that is not of our making (K_u), and falls slowly (K_d).
const RISE: f64 = 0.0087;
const FALL: f64 = 0.039;
const FIRST_THRESHOLD_MS: f64 = 12.5;
const THRESHOLD_MS: (f64, f64) = (6.0, 600.0);
/// A gradient above the threshold by more than this is a jump of the path and
/// moves nothing (the draft's 15 ms).
const JUMP_MS: f64 = 15.0;
/// How long the gradient must stay above.
const OVERUSE_TIME: Duration = Duration::from_millis(10);
const LONGEST_STEP_MS: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    #[default]
    Normal,
    /// The queue grows.
    Over,
    /// It gets shorter.
    Under,
}

#[derive(Debug)]
pub struct Detector {
    threshold_ms: f64,
    usage: Usage,
    over: Duration,
    over_groups: u32,
    gradient_ms: f64,
    last: Option<RemoteTime>,
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            threshold_ms: FIRST_THRESHOLD_MS,
            usage: Usage::Normal,
            over: Duration::ZERO,
            over_groups: 0,
            gradient_ms: 0.0,
            last: None,
        }
    }
}

impl Detector {
    /// A gradient as the filters give it, and the time that the group took to
    /// send.
    pub fn update(&mut self, at: RemoteTime, gradient_ms: f64, send: Duration) -> Usage {
        if gradient_ms > self.threshold_ms {
            // The first one counts half: the queue may have begun anywhere.
            self.over += if self.over_groups == 0 {
                send / 2
            } else {
                send
            };
            self.over_groups += 1;
            if self.over > OVERUSE_TIME && self.over_groups > 1 && gradient_ms >= self.gradient_ms {
                (self.over, self.over_groups) = (Duration::ZERO, 0);
                self.usage = Usage::Over;
            }
        } else {
            (self.over, self.over_groups) = (Duration::ZERO, 0);
            self.usage = if gradient_ms < -self.threshold_ms {
                Usage::Under
            } else {
                Usage::Normal
            };
        }
        self.gradient_ms = gradient_ms;
        self.adapt(at, gradient_ms);
        self.usage
    }

    fn adapt(&mut self, at: RemoteTime, gradient_ms: f64) {
        let step = self
            .last
            .map_or(0.0, |last| at.since(last).as_secs_f64() * 1e3);
        self.last = Some(at);
        let size = gradient_ms.abs();
        if size > self.threshold_ms + JUMP_MS {
            return;
        }
        let factor = if size < self.threshold_ms { FALL } else { RISE };
        let change = factor * (size - self.threshold_ms) * step.min(LONGEST_STEP_MS);
        self.threshold_ms = (self.threshold_ms + change).clamp(THRESHOLD_MS.0, THRESHOLD_MS.1);
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    #[must_use]
    pub fn threshold_ms(&self) -> f64 {
        self.threshold_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Duration = Duration::from_millis(6);

    /// A group each 6 ms, with these gradients.
    fn run(detector: &mut Detector, at_ms: &mut u64, gradients: &[f64]) -> Vec<Usage> {
        gradients
            .iter()
            .map(|gradient| {
                *at_ms += 6;
                detector.update(RemoteTime::from_millis(*at_ms), *gradient, GROUP)
            })
            .collect()
    }

    #[test]
    fn overuse_takes_two_groups_and_more_than_ten_milliseconds() {
        // Half of the first one, 3 ms, then 9 ms, then 15 ms.
        let (mut d, mut at) = (Detector::default(), 0);
        let usages = run(&mut d, &mut at, &[20.0, 20.0, 20.0]);
        assert_eq!(usages, [Usage::Normal, Usage::Normal, Usage::Over]);
        // One group of 100 ms is long enough but alone.
        let mut d = Detector::default();
        let long = Duration::from_millis(100);
        assert_eq!(
            d.update(RemoteTime::from_millis(100), 20.0, long),
            Usage::Normal
        );
        assert_eq!(
            d.update(RemoteTime::from_millis(200), 20.0, long),
            Usage::Over
        );
    }

    #[test]
    fn a_group_below_the_threshold_starts_the_count_again() {
        let (mut d, mut at) = (Detector::default(), 0);
        let usages = run(&mut d, &mut at, &[20.0, 20.0, 0.0, 20.0, 20.0]);
        assert!(
            usages.iter().all(|usage| *usage == Usage::Normal),
            "{usages:?}"
        );
    }

    /// The queue is already draining (draft-ietf-rmcat-gcc-02 section 5.4).
    #[test]
    fn a_gradient_that_falls_is_no_overuse() {
        let (mut d, mut at) = (Detector::default(), 0);
        let usages = run(&mut d, &mut at, &[26.0, 25.0, 24.0, 23.0, 22.0]);
        assert!(
            usages.iter().all(|usage| *usage == Usage::Normal),
            "{usages:?}"
        );
        assert_eq!(
            run(&mut d, &mut at, &[22.5]),
            [Usage::Over],
            "and here it rises"
        );
    }

    #[test]
    fn a_negative_gradient_is_underuse_at_once_and_ends_overuse() {
        let (mut d, mut at) = (Detector::default(), 0);
        run(&mut d, &mut at, &[20.0, 20.0, 20.0]);
        assert_eq!(d.usage(), Usage::Over);
        let usages = run(&mut d, &mut at, &[-20.0, 0.0]);
        assert_eq!(usages, [Usage::Under, Usage::Normal]);
    }

    #[test]
    fn the_threshold_rises_to_a_gradient_that_stays_and_falls_slowly_after_it() {
        let (mut d, mut at) = (Detector::default(), 0);
        let first = d.threshold_ms();
        run(&mut d, &mut at, &[25.0]);
        assert_eq!(
            d.threshold_ms(),
            first,
            "no time has passed at the first one"
        );
        run(&mut d, &mut at, &[25.0; 300]);
        let raised = d.threshold_ms();
        assert!((24.0..25.0).contains(&raised), "{raised}");
        let usages = run(&mut d, &mut at, &[raised - 0.1; 1]);
        assert_eq!(usages, [Usage::Normal], "the detector has got used to it");
        run(&mut d, &mut at, &[0.0; 10]);
        // 60 ms at 0.039 a ms: e to -2.34 or a little less of it.
        let fallen = d.threshold_ms();
        assert!((6.0..raised / 2.0).contains(&fallen), "{fallen}");
        run(&mut d, &mut at, &[0.0; 100]);
        assert_eq!(d.threshold_ms(), THRESHOLD_MS.0, "and no further");
    }

    /// With a gradient below 0 as with one above it.
    #[test]
    fn the_threshold_follows_the_size_of_the_gradient() {
        let (mut d, mut at) = (Detector::default(), 0);
        run(&mut d, &mut at, &[-25.0; 300]);
        assert!(
            (24.0..25.0).contains(&d.threshold_ms()),
            "{}",
            d.threshold_ms()
        );
    }

    #[test]
    fn a_jump_of_the_path_moves_nothing() {
        let (mut d, mut at) = (Detector::default(), 0);
        run(&mut d, &mut at, &[12.5 + 15.1; 300]);
        assert_eq!(d.threshold_ms(), 12.5);
        run(&mut d, &mut at, &[12.5 + 14.9; 300]);
        assert!(
            d.threshold_ms() > 20.0,
            "just below a jump: {}",
            d.threshold_ms()
        );
    }

    #[test]
    fn a_long_pause_is_one_step_of_a_tenth_of_a_second() {
        let mut far = Detector::default();
        let mut near = Detector::default();
        for (d, at) in [(&mut far, 100_000), (&mut near, 100)] {
            d.update(RemoteTime::ZERO, 12.5, GROUP);
            d.update(RemoteTime::from_millis(at), 13.0, GROUP);
        }
        assert_eq!(far.threshold_ms(), near.threshold_ms());
        assert!(near.threshold_ms() > 12.5);
    }
}
