// SPDX-License-Identifier: MPL-2.0
//! Frames as a network of a stated kind delivers them, from a seed.

use dualstream_common::{DataSize, Timestamp};
use jitterbuffer_core::Frame;

const FPS: f64 = 30.0;

/// What happens to the frames of one sequence.
pub struct Sequence {
    random: fastrand::Rng,
    frames: Vec<Frame>,
    /// When the bottleneck is free again, in s.
    free: f64,
}

/// What happens to one frame.
#[derive(Clone, Copy)]
pub struct Path {
    pub sigma_ms: f64,
    /// Added to this frame alone.
    pub extra_ms: f64,
    /// 0: none.
    pub capacity_bps: f64,
    /// Of the receiver's clock, from the start.
    pub skew_ppm: f64,
    pub bytes: f64,
}

impl Path {
    pub const CLEAN: Self = Self {
        sigma_ms: 0.0,
        extra_ms: 0.0,
        capacity_bps: 0.0,
        skew_ppm: 0.0,
        bytes: 5000.0,
    };
}

impl Sequence {
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            frames: Vec::new(),
            free: 0.0,
        }
    }

    /// Irwin and Hall: twelve uniform ones, less six.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0
    }

    /// The next `count` frames, each on the path given for its number.
    #[must_use]
    pub fn then(mut self, count: usize, path: impl Fn(usize, &mut fastrand::Rng) -> Path) -> Self {
        for _ in 0..count {
            let n = self.frames.len();
            let path = path(n, &mut self.random);
            let bytes = path.bytes * (0.8 + 0.4 * self.random.f64());
            let capture = n as f64 / FPS;
            let mut arrival = capture;
            if path.capacity_bps > 0.0 {
                arrival = arrival.max(self.free) + bytes * 8.0 / path.capacity_bps;
                self.free = arrival;
            }
            let ms = 100.0 + (path.sigma_ms * self.normal()).max(-80.0) + path.extra_ms;
            arrival = (arrival + ms / 1000.0) * (1.0 + path.skew_ppm * 1e-6);
            self.frames.push(Frame {
                rtp_timestamp: 4_294_900_000u32.wrapping_add((capture * 90_000.0).round() as u32),
                arrival: Timestamp::from_nanos((arrival * 1e9) as u64),
                size: DataSize::from_bytes(bytes as u64),
                retransmitted: false,
            });
        }
        self
    }

    pub fn frames(self) -> Vec<Frame> {
        self.frames
    }
}
