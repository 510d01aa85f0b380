// SPDX-License-Identifier: MPL-2.0
//! How often frames come and of how many packets they are.

use std::time::Duration;

use dualstream_common::Timestamp;

use crate::controller::Frame;
use crate::mask::MAX_MEDIA;

/// Weight of a new frame.
const GAIN: f64 = 0.1;
/// A pause is not a frame rate.
const LONGEST: Duration = Duration::from_millis(500);
/// Of the deadline, so much is left for the way of the FEC packets.
const MARGIN: Duration = Duration::from_millis(10);
/// Frames in a block: more hardly saves anything.
const MOST_FRAMES: usize = 12;

#[derive(Clone, Debug, Default)]
pub struct Cadence {
    last: Option<Timestamp>,
    interval: Option<Duration>,
    packets: Option<f64>,
}

impl Cadence {
    pub fn frame(&mut self, now: Timestamp, frame: &Frame) {
        if let Some(last) = self.last.replace(now) {
            let passed = now.since(last).min(LONGEST);
            let known = self.interval.unwrap_or(passed);
            self.interval = Some(known.mul_f64(1.0 - GAIN) + passed.mul_f64(GAIN));
        }
        if !frame.key {
            let count = frame.packets as f64;
            let known = self.packets.unwrap_or(count);
            self.packets = Some(known + GAIN * (count - known));
        }
    }

    /// Between frames; that of 30 frames per second until it is known.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval.unwrap_or(Duration::from_millis(33))
    }

    /// Of a frame that is not a key frame.
    #[must_use]
    pub fn packets(&self) -> f64 {
        self.packets.unwrap_or(1.0)
    }

    /// Packets per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.packets() / self.interval().as_secs_f64().max(1e-3)
    }

    /// Frames that can wait for a common block until the deadline of the first.
    #[must_use]
    pub fn fit(&self, deadline: Duration) -> usize {
        let room = deadline.saturating_sub(MARGIN).as_secs_f64();
        let frames = 1 + (room / self.interval().as_secs_f64().max(1e-3)) as usize;
        let most = (MAX_MEDIA as f64 / 2.0 / self.packets().max(1.0)) as usize;
        frames.min(most).clamp(1, MOST_FRAMES)
    }
}
