// SPDX-License-Identifier: MPL-2.0
//! Freezes of a picture as browsers count them.

use std::collections::VecDeque;
use std::time::Duration;

/// Intervals that the mean is taken of.
const HISTORY: usize = 30;
const LEAST_EXCESS: Duration = Duration::from_millis(150);
/// A picture that stays longer than this is seen to stand, whatever the rate.
const LONG: Duration = Duration::from_millis(200);

/// W3C webrtc-stats, `freezeCount`: a picture is a freeze if it stays for at
/// least the larger of three times the mean interval of the last 30 pictures
/// and that mean + 150 ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Freezes {
    last: Option<Duration>,
    intervals: VecDeque<Duration>,
    frames: u64,
    count: u64,
    duration: Duration,
    long: u64,
}

impl Freezes {
    /// A picture is shown at this time.
    pub fn shown(&mut self, now: Duration) {
        self.frames += 1;
        let Some(last) = self.last.replace(now) else {
            return;
        };
        let interval = now.saturating_sub(last);
        self.long += u64::from(interval > LONG);
        if self.intervals.len() == HISTORY {
            let mean = self.intervals.iter().sum::<Duration>() / HISTORY as u32;
            if interval >= (3 * mean).max(mean + LEAST_EXCESS) {
                self.count += 1;
                self.duration += interval;
            }
            self.intervals.pop_front();
        }
        self.intervals.push_back(interval);
    }

    pub fn frames(&self) -> u64 {
        self.frames
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Pictures that stayed longer than 200 ms.
    pub fn long(&self) -> u64 {
        self.long
    }

    pub fn duration(&self) -> Duration {
        self.duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_stays_too_long_is_a_freeze() {
        let ms = Duration::from_millis;
        let mut freezes = Freezes::default();
        let mut now = Duration::ZERO;
        for _ in 0..31 {
            freezes.shown(now);
            now += ms(33);
        }
        assert_eq!((freezes.frames(), freezes.count()), (31, 0));
        // 33 + 150 ms is more than 3 * 33; the next is 33 ms after `now`.
        freezes.shown(now + ms(182 - 33));
        assert_eq!(freezes.count(), 0);
        freezes.shown(now + ms(182 - 33 + 200));
        assert_eq!((freezes.count(), freezes.duration()), (1, ms(200)));
        assert_eq!(freezes.long(), 0);
        freezes.shown(now + ms(182 - 33 + 200 + 201));
        assert_eq!(freezes.long(), 1);
    }
}
