// SPDX-License-Identifier: MPL-2.0
pub mod sequence;

use dualstream_common::Ratio;
use jitterbuffer_core::{AdaptiveModel, Config, Frame, RtpClock};

/// Frames until which nothing is judged: 2 s.
pub const START: usize = 60;

/// Transit of each frame, and the one waited for when it came, in ms.
pub struct Run {
    pub transit_ms: Vec<f64>,
    pub waited_ms: Vec<f64>,
}

impl Run {
    pub fn adaptive(frames: &[Frame], late_target: f64) -> Self {
        let config = Config {
            late_target: Ratio::clamped(late_target),
            ..Config::default()
        };
        let mut model = AdaptiveModel::new(config).unwrap();
        let mut clock = RtpClock::default();
        let (mut transit_ms, mut waited_ms) = (Vec::new(), Vec::new());
        for frame in frames {
            let capture = clock.nanos(frame.rtp_timestamp) as f64 / 1e6;
            let arrival = frame.arrival.as_nanos() as f64 / 1e6;
            let playout = model.playout(frame.rtp_timestamp);
            transit_ms.push(arrival - capture);
            waited_ms.push(playout.map_or(arrival, |at| at.as_nanos() as f64 / 1e6) - capture);
            model.frame(frame);
        }
        Self {
            transit_ms,
            waited_ms,
        }
    }

    fn late(&self, from: usize, to: usize) -> usize {
        (from..to)
            .filter(|n| self.transit_ms[*n] > self.waited_ms[*n])
            .count()
    }

    pub fn late_share(&self, from: usize, to: usize) -> f64 {
        self.late(from, to) as f64 / (to - from) as f64
    }

    /// Above the fastest frame of the same ones.
    pub fn added_ms(&self, from: usize, to: usize) -> f64 {
        let waited: f64 = self.waited_ms[from..to].iter().sum();
        waited / (to - from) as f64 - self.sorted(from, to)[0]
    }

    /// The smallest constant delay with as many late frames.
    pub fn oracle_ms(&self, from: usize, to: usize) -> f64 {
        let sorted = self.sorted(from, to);
        sorted[sorted.len() - 1 - self.late(from, to)] - sorted[0]
    }

    fn sorted(&self, from: usize, to: usize) -> Vec<f64> {
        let mut sorted = self.transit_ms[from..to].to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}
