// SPDX-License-Identifier: MPL-2.0
//! An encoder as the network sees it: frames whose sizes follow the target
//! late and not exactly, and key frames that are several times as large.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Ratio, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderConfig {
    pub frame_time: Duration,
    /// Time constant with which the rate follows its target.
    pub lag: Duration,
    /// Standard deviation of a frame's size over its mean.
    pub spread: Ratio,
    /// None: only the first.
    pub key_interval: Option<Duration>,
    /// Size of a key frame over that of another; the mean rate stays.
    pub key_factor: f64,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            frame_time: Duration::from_nanos(1_000_000_000 / 30),
            lag: Duration::from_millis(200),
            spread: Ratio::clamped(0.1),
            key_interval: None,
            key_factor: 5.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFrame {
    pub at: Timestamp,
    pub size: DataSize,
    pub key: bool,
}

#[derive(Clone, Debug)]
pub struct EncoderModel {
    config: EncoderConfig,
    rng: fastrand::Rng,
    target: Bitrate,
    /// Where the rate is on its way to the target, in bit/s.
    rate: f64,
    next: Timestamp,
    next_key: Option<Timestamp>,
}

impl EncoderModel {
    #[must_use]
    pub fn new(config: EncoderConfig, start: Timestamp, target: Bitrate, seed: u64) -> Self {
        Self {
            config,
            rng: fastrand::Rng::with_seed(seed),
            target,
            rate: target.as_bps() as f64,
            next: start,
            next_key: Some(start),
        }
    }

    pub fn set_target(&mut self, target: Bitrate) {
        self.target = target;
    }

    /// The next frame is a key frame.
    pub fn request_key_frame(&mut self) {
        self.next_key = Some(self.next);
    }

    /// When the next frame comes.
    #[must_use]
    pub fn next(&self) -> Timestamp {
        self.next
    }

    /// The frame that is due by `now`, if there is one.
    pub fn frame(&mut self, now: Timestamp) -> Option<ModelFrame> {
        if self.next > now {
            return None;
        }
        let at = self.next;
        let config = &self.config;
        self.next = at + config.frame_time;
        let step = config.frame_time.as_secs_f64() / config.lag.as_secs_f64().max(1e-9);
        let target = self.target.as_bps() as f64;
        self.rate += (target - self.rate) * step.min(1.0);
        let key = self.next_key.is_some_and(|due| due <= at);
        if key {
            self.next_key = config.key_interval.map(|interval| at + interval);
        }
        // What a key frame takes more is taken from the others.
        let share = config.key_interval.map_or(0.0, |interval| {
            config.frame_time.as_secs_f64() / interval.as_secs_f64().max(1e-9)
        });
        let ordinary = 1.0 / (1.0 + share * (config.key_factor - 1.0));
        let factor = if key { config.key_factor } else { 1.0 } * ordinary;
        let normal = (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0;
        let spread = (1.0 + config.spread.value() * normal).max(0.1);
        let bits = self.rate * config.frame_time.as_secs_f64() * factor * spread;
        Some(ModelFrame {
            at,
            size: DataSize::from_bytes((bits / 8.0).max(1.0) as u64),
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &mut EncoderModel, until_ms: u64) -> Vec<ModelFrame> {
        std::iter::from_fn(|| model.frame(Timestamp::from_millis(until_ms))).collect()
    }

    fn kbps(frames: &[ModelFrame], time: Duration) -> f64 {
        let bytes: u64 = frames.iter().map(|f| f.size.as_bytes()).sum();
        bytes as f64 * 8.0 / 1000.0 / time.as_secs_f64()
    }

    #[test]
    fn the_mean_rate_is_the_target_with_and_without_key_frames() {
        for key_interval in [None, Some(Duration::from_secs(2))] {
            let config = EncoderConfig {
                key_interval,
                ..EncoderConfig::default()
            };
            let start = Timestamp::ZERO;
            let mut model = EncoderModel::new(config, start, Bitrate::from_kbps(1000), 1);
            let frames = run(&mut model, 60_000);
            let rate = kbps(&frames, Duration::from_secs(60));
            assert!((970.0..1030.0).contains(&rate), "{key_interval:?}: {rate}");
            let keys: Vec<_> = frames.iter().filter(|f| f.key).collect();
            assert_eq!(keys.len(), if key_interval.is_some() { 30 } else { 1 });
            let mean = 1e6 / 30.0 / 8.0;
            assert!(keys[0].size.as_bytes() as f64 > 3.0 * mean);
        }
    }

    #[test]
    fn a_new_target_is_followed_with_a_lag() {
        let config = EncoderConfig {
            spread: Ratio::ZERO,
            ..EncoderConfig::default()
        };
        let mut model = EncoderModel::new(config, Timestamp::ZERO, Bitrate::from_kbps(1000), 1);
        run(&mut model, 1000);
        model.set_target(Bitrate::from_kbps(2000));
        let frames = run(&mut model, 2000);
        let rate = |n: usize| kbps(&frames[n..=n], config.frame_time);
        assert!((1100.0..1250.0).contains(&rate(0)), "{}", rate(0));
        assert!((1550.0..1750.0).contains(&rate(5)), "{}", rate(5));
        assert!((1980.0..2001.0).contains(&rate(29)), "{}", rate(29));
        model.request_key_frame();
        assert!(run(&mut model, 2050)[0].key);
    }
}
