// SPDX-License-Identifier: MPL-2.0
//! libwebrtc's jitter estimator (modules/video_coding/timing/
//! jitter_estimator.cc, default field trials), to compare with.
//!
//! ```text
//! delay variation -> clamp -> - line over size -> Noise --+
//!                      |        ^                         |
//! size -> FrameSize ---+-> Kalman (slope, offset)         v
//!             | largest - mean    |             2.33 deviations - 30 ms
//!             +-------------------+---------------------> + -> estimate
//! retransmitted frames, round trip -> RttFilter ----------^
//!
//! RTP time, arrival -> Extrapolator -> expected arrival + estimate -> playout
//! ```

mod extrapolator;
mod frame_size;
mod kalman;
mod noise;
mod rtt;

use std::time::Duration;

use dualstream_common::Timestamp;

use crate::{DelayVariation, Frame};
use extrapolator::Extrapolator;
use frame_size::FrameSize;
use kalman::Kalman;
use noise::Noise;
use rtt::RttFilter;

/// Frames until the estimate is held over the next one, and until the frame
/// rate is trusted.
const START_FRAMES: u32 = 30;
/// A delay variation counts as no more than this many standard deviations of
/// the noise: this is what hides a large frame from the model.
const CLAMP_DEVIATIONS: f64 = 3.5;
const DELAY_OUTLIER_DEVIATIONS: f64 = 15.0;
const SIZE_OUTLIER_DEVIATIONS: f64 = 3.0;
/// A frame smaller than the one before by this share of the largest waited
/// behind it, and says nothing about the line.
const CONGESTED_SHARE: f64 = -0.25;
/// One in a hundred of a normal distribution is above.
const NOISE_DEVIATIONS: f64 = 2.33;
/// Noise up to here is not waited for.
const NOISE_OFFSET_MS: f64 = 30.0;
const MIN_MS: f64 = 1.0;
const MAX_MS: f64 = 10_000.0;
/// What the operating system is given on top.
const SYSTEM_MS: f64 = 10.0;
/// Retransmitted frames that make the round trip part of the estimate.
const RETRANSMITTED_FRAMES: u32 = 3;
const RETRANSMITTED_TIMEOUT: Duration = Duration::from_secs(60);
/// libwebrtc, rtt_mult_experiment.cc: of the round trip, and at most.
const RTT_SHARE: f64 = 0.9;
const RTT_MAX_MS: f64 = 200.0;
/// Below the first the estimate is zero, above the second it is whole.
const SLOW_HZ: (f64, f64) = (5.0, 10.0);

/// libwebrtc's jitter estimate: what is added to the arrival expected from the
/// frames so far.
#[derive(Clone, Debug)]
pub struct WebrtcModel {
    variation: DelayVariation,
    size: FrameSize,
    kalman: Kalman,
    noise: Noise,
    rtt: RttFilter,
    last_bytes: Option<f64>,
    frames: u32,
    /// Of the last frame, so that one frame cannot lower the estimate at once.
    held_ms: f64,
    last_ms: f64,
    retransmitted: u32,
    retransmitted_at: Timestamp,
    extrapolator: Extrapolator,
    estimate: Duration,
}

impl Default for WebrtcModel {
    fn default() -> Self {
        Self::new()
    }
}

impl WebrtcModel {
    #[must_use]
    pub fn new() -> Self {
        Self {
            variation: DelayVariation::default(),
            size: FrameSize::new(),
            kalman: Kalman::new(),
            noise: Noise::new(),
            rtt: RttFilter::default(),
            last_bytes: None,
            frames: 0,
            held_ms: 0.0,
            last_ms: MIN_MS,
            retransmitted: 0,
            retransmitted_at: Timestamp::ZERO,
            extrapolator: Extrapolator::default(),
            estimate: Duration::ZERO,
        }
    }

    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt.update(rtt);
    }

    /// A frame can be decoded; returns the new estimate.
    pub fn frame(&mut self, now: Timestamp, frame: &Frame) -> Duration {
        if frame.retransmitted {
            self.retransmitted = (self.retransmitted + 1).min(RETRANSMITTED_FRAMES);
            self.retransmitted_at = now;
        } else if let Some(variation) = self.variation.frame(frame.rtp_timestamp, frame.arrival) {
            self.learn(
                now,
                variation.as_nanos() as f64 / 1e6,
                frame.size.as_bytes() as f64,
            );
        }
        self.extrapolator.frame(frame.rtp_timestamp, frame.arrival);
        self.estimate = self.new_estimate(now);
        self.estimate
    }

    /// When the frame of this RTP time is expected to arrive; `None` before the
    /// first.
    #[must_use]
    pub fn expected(&self, rtp_timestamp: u32) -> Option<Timestamp> {
        self.extrapolator.expected(rtp_timestamp)
    }

    /// When it should be shown, decoding and rendering aside.
    #[must_use]
    pub fn playout(&self, rtp_timestamp: u32) -> Option<Timestamp> {
        Some(self.expected(rtp_timestamp)? + self.estimate)
    }

    /// The last estimate.
    #[must_use]
    pub fn estimate(&self) -> Duration {
        self.estimate
    }

    fn learn(&mut self, now: Timestamp, variation_ms: f64, bytes: f64) {
        if bytes <= 0.0 {
            return;
        }
        self.size.frame(bytes);
        let Some(last_bytes) = self.last_bytes.replace(bytes) else {
            return;
        };
        self.learn_delay(now, variation_ms, bytes, bytes - last_bytes);
        if self.frames < START_FRAMES {
            self.frames += 1;
        } else {
            self.held_ms = self.without_system_ms();
        }
    }

    fn learn_delay(&mut self, now: Timestamp, variation_ms: f64, bytes: f64, more_bytes: f64) {
        let limit = CLAMP_DEVIATIONS * self.noise.deviation() + 0.5;
        // Whole ms, as libwebrtc counts.
        let variation_ms = variation_ms.clamp(-limit, limit).round();
        let residual_ms = variation_ms - self.kalman.total_ms(more_bytes);
        let outlier_ms = DELAY_OUTLIER_DEVIATIONS * self.noise.deviation();
        if residual_ms.abs() >= outlier_ms && !self.size.is_outlier(bytes, SIZE_OUTLIER_DEVIATIONS)
        {
            self.noise.update(now, outlier_ms.copysign(residual_ms));
            return;
        }
        self.noise.update(now, residual_ms);
        if more_bytes > CONGESTED_SHARE * self.size.max() {
            self.kalman.update(
                variation_ms,
                more_bytes,
                self.size.max(),
                self.noise.variance(),
            );
        }
    }

    fn without_system_ms(&mut self) -> f64 {
        let noise = NOISE_DEVIATIONS * self.noise.deviation() - NOISE_OFFSET_MS;
        let ms = self.kalman.by_size_ms(self.size.max_above_mean()) + noise.max(MIN_MS);
        if ms >= MIN_MS {
            self.last_ms = ms.min(MAX_MS);
        }
        self.last_ms
    }

    fn new_estimate(&mut self, now: Timestamp) -> Duration {
        let mut ms = (self.without_system_ms() + SYSTEM_MS).max(self.held_ms);
        if now.since(self.retransmitted_at) > RETRANSMITTED_TIMEOUT {
            self.retransmitted = 0;
        }
        if self.retransmitted >= RETRANSMITTED_FRAMES {
            ms += (RTT_SHARE * self.rtt.rtt_ms()).min(RTT_MAX_MS);
        }
        if let Some(hz) = self.noise.frame_rate() {
            let (none, whole) = SLOW_HZ;
            ms *= ((hz - none) / (whole - none)).clamp(0.0, 1.0);
        }
        Duration::from_secs_f64(ms / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualstream_common::DataSize;

    fn frame(n: u64, interval_ms: u64, late_ms: u64) -> Frame {
        Frame {
            rtp_timestamp: (n * interval_ms * 90) as u32,
            arrival: Timestamp::from_millis(1000 + n * interval_ms + late_ms),
            size: DataSize::from_bytes(5000),
            retransmitted: false,
        }
    }

    fn run(model: &mut WebrtcModel, interval_ms: u64, frames: u64) -> Duration {
        let mut estimate = Duration::ZERO;
        for n in 0..frames {
            let frame = frame(n, interval_ms, 0);
            estimate = model.frame(frame.arrival, &frame);
        }
        estimate
    }

    #[test]
    fn a_clean_link_costs_the_two_minima() {
        let ms = run(&mut WebrtcModel::new(), 33, 300).as_secs_f64() * 1000.0;
        assert!((11.0..11.2).contains(&ms), "{ms}");
    }

    #[test]
    fn slow_streams_do_not_wait() {
        assert_eq!(run(&mut WebrtcModel::new(), 250, 100), Duration::ZERO);
        let ms = run(&mut WebrtcModel::new(), 125, 100).as_secs_f64() * 1000.0;
        // 8 Hz: three fifths.
        assert!((6.5..6.8).contains(&ms), "{ms}");
    }

    #[test]
    fn the_third_retransmission_adds_the_round_trip_for_a_minute() {
        let mut model = WebrtcModel::new();
        model.set_rtt(Duration::from_millis(100));
        let before = run(&mut model, 33, 100);
        let mut repaired = frame(100, 33, 120);
        repaired.retransmitted = true;
        let now = repaired.arrival;
        assert_eq!(model.frame(now, &repaired), before);
        assert_eq!(model.frame(now, &repaired), before);
        let with = model.frame(now, &repaired);
        let more_ms = (with - before).as_secs_f64() * 1000.0;
        assert!((89.9..90.1).contains(&more_ms), "{more_ms}");
        assert_eq!(model.new_estimate(now + Duration::from_secs(60)), with);
        assert_eq!(model.new_estimate(now + Duration::from_secs(61)), before);
    }
}
