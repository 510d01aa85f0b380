// SPDX-License-Identifier: MPL-2.0
use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::Timestamp;

use super::START_FRAMES;

/// The weight of a frame is one over the count of frames, down to this one's.
const MAX_COUNT: u32 = 400;
/// The weights are for this rate.
const NOMINAL_HZ: f64 = 30.0;
const MAX_HZ: f64 = 200.0;
/// Frame intervals in the mean.
const INTERVALS: usize = 30;
const START_VARIANCE: f64 = 4.0;
/// Below this, all would be outliers.
const MIN_VARIANCE: f64 = 1.0;

/// Mean and variance of what the line over the frame size leaves, in ms, and
/// the frame rate it weighs by. libwebrtc, jitter_estimator.cc.
#[derive(Clone, Debug)]
pub(super) struct Noise {
    mean: f64,
    variance: f64,
    count: u32,
    last: Option<Timestamp>,
    intervals: VecDeque<Duration>,
}

impl Noise {
    pub(super) fn new() -> Self {
        Self {
            mean: 0.0,
            variance: START_VARIANCE,
            count: 1,
            last: None,
            intervals: VecDeque::with_capacity(INTERVALS),
        }
    }

    pub(super) fn variance(&self) -> f64 {
        self.variance
    }

    pub(super) fn deviation(&self) -> f64 {
        self.variance.sqrt()
    }

    pub(super) fn update(&mut self, now: Timestamp, residual_ms: f64) {
        self.count_interval(now);
        let mut past = f64::from(self.count - 1) / f64::from(self.count);
        self.count = (self.count + 1).min(MAX_COUNT);
        if let Some(hz) = self.frame_rate() {
            let mut scale = NOMINAL_HZ / hz;
            if self.count < START_FRAMES {
                let known = f64::from(self.count) / f64::from(START_FRAMES);
                scale = known * scale + (1.0 - known);
            }
            past = past.powf(scale);
        }
        let off = residual_ms - self.mean;
        self.variance = (past * self.variance + (1.0 - past) * off * off).max(MIN_VARIANCE);
        self.mean = past * self.mean + (1.0 - past) * residual_ms;
    }

    fn count_interval(&mut self, now: Timestamp) {
        if let Some(last) = self.last {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(now.since(last));
        }
        self.last = Some(now);
    }

    /// In Hz; `None` until two frames have been seen at different times.
    pub(super) fn frame_rate(&self) -> Option<f64> {
        let sum: f64 = self.intervals.iter().map(Duration::as_secs_f64).sum();
        (sum > 0.0).then(|| (self.intervals.len() as f64 / sum).min(MAX_HZ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_is_that_of_the_residuals() {
        let mut noise = Noise::new();
        for n in 0..2000 {
            let residual = if n % 2 == 0 { 8.0 } else { -4.0 };
            noise.update(Timestamp::from_millis(n * 33), residual);
        }
        // 2 +- 6.
        let variance = noise.variance();
        assert!((35.0..37.0).contains(&variance), "{variance}");
        assert!((30.0..31.0).contains(&noise.frame_rate().unwrap()));
    }

    #[test]
    fn frames_at_one_instant_have_no_rate() {
        let mut noise = Noise::new();
        for _ in 0..3 {
            noise.update(Timestamp::from_millis(5), 0.0);
        }
        assert_eq!(noise.frame_rate(), None);
    }
}
