// SPDX-License-Identifier: MPL-2.0
//! The arrival filter of draft-ietf-rmcat-gcc-02 section 5.3: one state, the
//! change of the queueing delay from group to group.

use crate::arrival_group::Delta;

/// Variance of the state noise, ms^2 a group (table 1: q). Larger: quicker and
/// noisier.
const STATE_NOISE: f64 = 1e-3;
/// Variance of the error at the start, ms^2 (table 1: e(0)).
const FIRST_ERROR: f64 = 0.1;
/// Per ms, for the noise of the measurement (table 1: chi between 0.1 and
/// 0.001). Larger: forgets sooner.
const NOISE_GAIN: f64 = 0.01;
/// An innovation counts in the noise up to this many standard deviations, as
/// in the draft.
const OUTLIER: f64 = 3.0;
/// The draft compares the gradient of one group to a threshold of 12.5 ms;
/// libwebrtc multiplied it by the number of groups, up to 60, and so do we.
const MOST_GROUPS: u32 = 60;

#[derive(Debug)]
pub struct Kalman {
    gradient_ms: f64,
    error: f64,
    noise: f64,
    groups: u32,
}

impl Default for Kalman {
    fn default() -> Self {
        Self {
            gradient_ms: 0.0,
            error: FIRST_ERROR,
            noise: 1.0,
            groups: 0,
        }
    }
}

impl Kalman {
    /// The gradient times the number of groups, in ms.
    pub fn update(&mut self, delta: &Delta) -> f64 {
        let variation_ms = delta.variation.as_nanos() as f64 / 1e6;
        let innovation = variation_ms - self.gradient_ms;
        let interval_ms = (delta.arrival.as_secs_f64() * 1e3).clamp(1.0, 100.0);
        let limit = OUTLIER * self.noise.sqrt();
        let bounded = innovation.clamp(-limit, limit);
        let keep = (1.0 - NOISE_GAIN).powf(30.0 / 1000.0 * interval_ms);
        self.noise = (keep * self.noise + (1.0 - keep) * bounded * bounded).max(1.0);
        let gain = (self.error + STATE_NOISE) / (self.noise + self.error + STATE_NOISE);
        self.gradient_ms += innovation * gain;
        self.error = (1.0 - gain) * (self.error + STATE_NOISE);
        self.groups = (self.groups + 1).min(MOST_GROUPS);
        self.gradient_ms * f64::from(self.groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualstream_common::{RemoteTime, SignedDuration};
    use std::time::Duration;

    fn delta(variation_ms: f64) -> Delta {
        Delta {
            send: Duration::from_millis(20),
            arrival: Duration::from_millis(20),
            variation: SignedDuration::from_nanos((variation_ms * 1e6) as i64),
            size_change: 0,
            at: RemoteTime::ZERO,
        }
    }

    fn run(kalman: &mut Kalman, count: usize, variation_ms: f64) -> f64 {
        (0..count).fold(0.0, |_, _| kalman.update(&delta(variation_ms)))
    }

    /// z = 1, m = 0, var_v = 1 (the least): K = (0.1 + 0.001) / (1 + 0.101).
    #[test]
    fn the_first_step_is_that_of_the_draft() {
        let mut k = Kalman::default();
        let gradient = k.update(&delta(1.0));
        assert!((gradient - 0.101 / 1.101).abs() < 1e-9, "{gradient}");
    }

    #[test]
    fn a_steady_gradient_is_found_and_a_flat_delay_forgets_it() {
        let mut k = Kalman::default();
        let gradient = run(&mut k, 500, 0.5);
        assert!((gradient - 0.5 * 60.0).abs() < 0.5, "60 groups: {gradient}");
        let flat = run(&mut k, 500, 0.0);
        assert!(flat.abs() < 0.5, "{flat}");
        let falling = run(&mut k, 500, -0.5);
        assert!((falling + 30.0).abs() < 0.5, "{falling}");
    }

    /// An outlier counts in the noise up to three standard deviations.
    #[test]
    fn one_outlier_does_not_deafen_the_filter() {
        let mut k = Kalman::default();
        run(&mut k, 200, 0.0);
        k.update(&delta(1000.0));
        assert!(k.noise < 1.1, "{}", k.noise);
    }

    #[test]
    fn noise_without_a_trend_makes_less_of_each_step() {
        let mut quiet = Kalman::default();
        let mut noisy = Kalman::default();
        for n in 0..3000 {
            quiet.update(&delta(0.0));
            noisy.update(&delta(if n % 2 == 0 { 20.0 } else { -20.0 }));
        }
        let step = |k: &mut Kalman| {
            let before = k.gradient_ms;
            k.update(&delta(before + 1.0));
            k.gradient_ms - before
        };
        let (quiet, noisy) = (step(&mut quiet), step(&mut noisy));
        assert!(noisy < quiet / 3.0, "{noisy} and {quiet}");
        assert!(noisy > 0.0);
    }

    #[test]
    fn hostile_variations_stay_finite() {
        let mut k = Kalman::default();
        for n in 0..10_000 {
            let far = if n % 3 == 0 { 1e13 } else { -1e13 };
            assert!(k.update(&delta(far)).is_finite());
        }
    }
}
