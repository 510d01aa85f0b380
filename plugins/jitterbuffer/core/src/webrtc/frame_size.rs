// SPDX-License-Identifier: MPL-2.0
/// Weight of the past in mean and variance.
const MEAN_DECAY: f64 = 0.97;
/// Of the largest frame, each frame.
const MAX_DECAY: f64 = 0.9999;
const START_BYTES: f64 = 500.0;
const START_VARIANCE: f64 = 100.0;
/// The mean begins anew from this many frames.
const START_FRAMES: u32 = 5;
/// Frames above the mean by this many standard deviations leave it alone.
const KEY_FRAME_DEVIATIONS: f64 = 2.0;

/// Mean, variance and decaying maximum of frame sizes, in bytes. libwebrtc,
/// jitter_estimator.cc.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameSize {
    mean: f64,
    variance: f64,
    max: f64,
    start_sum: f64,
    start_count: u32,
}

impl FrameSize {
    pub(super) fn new() -> Self {
        Self {
            mean: START_BYTES,
            variance: START_VARIANCE,
            max: START_BYTES,
            start_sum: 0.0,
            start_count: 0,
        }
    }

    pub(super) fn frame(&mut self, bytes: f64) {
        if self.start_count < START_FRAMES {
            self.start_sum += bytes;
            self.start_count += 1;
        } else if self.start_count == START_FRAMES {
            self.mean = self.start_sum / f64::from(START_FRAMES);
            self.start_count += 1;
        }
        let mean = MEAN_DECAY * self.mean + (1.0 - MEAN_DECAY) * bytes;
        if bytes < self.mean + KEY_FRAME_DEVIATIONS * self.variance.sqrt() {
            self.mean = mean;
        }
        // From the mean with this frame in it, also where that was not kept.
        let off = bytes - mean;
        let variance = MEAN_DECAY * self.variance + (1.0 - MEAN_DECAY) * off * off;
        self.variance = variance.max(1.0);
        self.max = (MAX_DECAY * self.max).max(bytes);
    }

    pub(super) fn max(&self) -> f64 {
        self.max
    }

    pub(super) fn max_above_mean(&self) -> f64 {
        self.max - self.mean
    }

    pub(super) fn is_outlier(&self, bytes: f64, deviations: f64) -> bool {
        bytes > self.mean + deviations * self.variance.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames_raise_the_maximum_and_not_the_mean() {
        let mut size = FrameSize::new();
        for n in 0..300 {
            size.frame(if n % 100 == 99 { 50_000.0 } else { 5000.0 });
        }
        assert!(size.max() > 49_000.0);
        let above = size.max_above_mean();
        assert!((44_000.0..46_000.0).contains(&above), "{above}");
        assert!(size.is_outlier(50_000.0, 3.0));
        assert!(!size.is_outlier(5000.0, 3.0));
    }
}
