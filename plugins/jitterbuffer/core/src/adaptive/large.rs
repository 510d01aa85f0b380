// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};

/// Times the mean, from which a frame is large.
const LARGE: f64 = 3.0;
/// Weight of the past in the mean.
const MEAN_DECAY: f64 = 0.97;
/// A first frame that is large must not be the measure of the others.
const START_FRAMES: u32 = 10;
/// Times as long as it took to come the last time, a large frame is awaited.
const AWAITED_PERIODS: u32 = 3;
/// The frames behind a large one that may have waited for it.
const LONGEST: Duration = Duration::from_secs(2);
/// Those beyond are left out.
const MAX_FRAMES: usize = 480;

/// What the last large frame, a key frame as a rule, did to those behind it:
/// the next one is foreseen to do the same, also if it comes after the other
/// memories have lost the last one.
#[derive(Clone, Debug, Default)]
pub(super) struct Large {
    mean_bytes: f64,
    started: Option<Timestamp>,
    frames: u32,
    /// Frames from the large one before to the last, and since that.
    period: Option<u32>,
    since: u32,
    /// In order of their size: of the last large frame, and of the one before.
    delays: Vec<i64>,
    before: Vec<i64>,
}

impl Large {
    /// `delay` is that above the usual.
    pub(super) fn frame(&mut self, arrival: Timestamp, size: DataSize, delay: i64) {
        self.since = self.since.saturating_add(1);
        self.frames = self.frames.saturating_add(1);
        let bytes = size.as_bytes() as f64;
        if self.mean_bytes > 0.0 && bytes > LARGE * self.mean_bytes {
            let since = std::mem::take(&mut self.since);
            self.period = self.started.map(|_| since);
            self.started = Some(arrival);
            self.before = std::mem::take(&mut self.delays);
        } else if self.mean_bytes == 0.0 {
            self.mean_bytes = bytes;
        } else if self.frames <= START_FRAMES {
            self.mean_bytes = self.mean_bytes.min(bytes);
        } else {
            self.mean_bytes += (1.0 - MEAN_DECAY) * (bytes - self.mean_bytes);
        }
        if self.is_going_on(arrival) && self.delays.len() < MAX_FRAMES {
            let at = self.delays.partition_point(|other| *other < delay);
            self.delays.insert(at, delay);
        }
    }

    fn is_going_on(&self, arrival: Timestamp) -> bool {
        self.started
            .is_some_and(|started| arrival.since(started) < LONGEST)
    }

    /// The delay that `share` of all frames exceeds because of large ones;
    /// `None` if large ones are too few for that, or no longer awaited.
    pub(super) fn exceeded_by(&self, share: f64, arrival: Timestamp) -> Option<i64> {
        let awaited = |period: u32| self.since <= period.saturating_mul(AWAITED_PERIODS);
        if !self.period.is_none_or(awaited) {
            return None;
        }
        let frames = f64::from(self.period.unwrap_or(0).max(self.since));
        let allowed = (share * frames) as usize;
        let of = |delays: &[i64]| {
            let at = delays.len().checked_sub(allowed.saturating_add(1))?;
            delays.get(at).copied()
        };
        let last = of(&self.delays);
        if self.is_going_on(arrival) {
            last.max(of(&self.before))
        } else {
            last
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large frame, those behind it, and the rest until `frames`.
    fn period(large: &mut Large, start: u64, frames: u64, worst: i64) -> Timestamp {
        let mut arrival = Timestamp::ZERO;
        for n in 0..frames {
            arrival = Timestamp::from_millis((start + n) * 33);
            let bytes = if n == 0 { 40_000 } else { 4000 };
            let delay = (worst - 10 * n as i64).max(0);
            large.frame(arrival, DataSize::from_bytes(bytes), delay);
        }
        arrival
    }

    fn warm() -> Large {
        let mut large = Large::default();
        large.frame(Timestamp::ZERO, DataSize::from_bytes(4000), 0);
        large
    }

    #[test]
    fn a_large_frame_is_foreseen_until_it_is_too_rare_to_matter() {
        let mut large = warm();
        let now = period(&mut large, 1, 400, 100);
        // 1 % of 399 frames: 3.
        assert_eq!(large.exceeded_by(0.01, now), Some(70));
        assert_eq!(large.exceeded_by(-1.0, now), Some(100));
        let now = period(&mut large, 1, 7000, 100);
        assert_eq!(large.exceeded_by(0.01, now), None, "60 of 6999 matter");
    }

    #[test]
    fn the_last_large_frame_says_what_the_next_will_do() {
        let mut large = warm();
        period(&mut large, 1, 400, 100);
        let now = period(&mut large, 401, 1, 30);
        assert_eq!(large.exceeded_by(0.0, now), Some(100), "not yet over");
        let now = now + LONGEST;
        for _ in 0..100 {
            large.frame(now, DataSize::from_bytes(4000), 0);
        }
        assert_eq!(large.exceeded_by(0.0, now), Some(30));
    }

    #[test]
    fn a_large_frame_that_does_not_come_is_no_longer_awaited() {
        let mut large = warm();
        period(&mut large, 1, 60, 100);
        let now = period(&mut large, 61, 180, 100);
        assert_eq!(large.exceeded_by(0.0, now), Some(100));
        let now = period(&mut large, 241, 1, 100) + Duration::from_secs(9);
        for _ in 0..541 {
            large.frame(now, DataSize::from_bytes(4000), 0);
        }
        assert_eq!(large.exceeded_by(0.0, now), None, "180 frames, three times");
    }

    #[test]
    fn a_stream_that_starts_with_a_large_frame_knows_the_next() {
        let mut large = Large::default();
        let now = period(&mut large, 0, 60, 100);
        assert_eq!(large.exceeded_by(0.0, now), None);
        let now = period(&mut large, 60, 60, 100);
        assert_eq!(large.exceeded_by(0.0, now), Some(100));
    }

    #[test]
    fn equal_frames_foresee_nothing() {
        let mut large = warm();
        for n in 1..200 {
            large.frame(Timestamp::from_millis(n), DataSize::from_bytes(5000), 50);
        }
        assert_eq!(large.exceeded_by(0.0, Timestamp::from_millis(200)), None);
    }
}
