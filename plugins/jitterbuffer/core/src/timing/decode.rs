// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::Timestamp;

use crate::adaptive::Window;

const SPAN: Duration = Duration::from_secs(10);
/// Of the frames; the others are shown late by what they took longer. Never
/// the last one alone: one slow frame is not to move all that follow.
const SLOWER: f64 = 0.05;
/// Of fewer the middle one is taken, as 95 % of them cannot be known.
const ENOUGH: usize = 40;
/// Fewer than these change nothing: after an outage one that was held up on its
/// way is the only one for seconds.
const FEW: usize = 5;
/// A decoder that takes longer than this does something else meanwhile.
const LONGEST: Duration = Duration::from_millis(500);

/// How long decoding takes: the 95th percentile of the last 10 s.
#[derive(Clone, Debug)]
pub(super) struct DecodeTime {
    window: Window,
    /// Of the time when there were enough; none was at the start.
    before: Option<Duration>,
}

impl Default for DecodeTime {
    fn default() -> Self {
        Self {
            window: Window::new(SPAN, 0),
            before: None,
        }
    }
}

impl DecodeTime {
    pub(super) fn push(&mut self, now: Timestamp, took: Duration) {
        let took = took.min(LONGEST);
        self.window.push(now, super::nanos(took));
        if self.window.len() >= FEW {
            self.before = Some(self.measured());
        }
    }

    /// Less than what is known has proved to be enough.
    pub(super) fn forget(&mut self) {
        *self = Self {
            before: Some(Duration::ZERO),
            ..Self::default()
        };
    }

    pub(super) fn estimate(&self) -> Duration {
        match self.before {
            Some(before) if self.window.len() < FEW => before,
            _ => self.measured(),
        }
    }

    fn measured(&self) -> Duration {
        let nanos = if self.window.len() < ENOUGH {
            self.window.middle()
        } else {
            self.window.exceeded_by(SLOWER)
        };
        Duration::from_nanos(u64::try_from(nanos.unwrap_or(0)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_frame_does_not_move_it() {
        let mut time = DecodeTime::default();
        let ms = Duration::from_millis;
        assert_eq!(time.estimate(), Duration::ZERO);
        for n in 0..300 {
            let slow = n == 10 || n == 100 || n == 200;
            let took = if slow { ms(80) } else { ms(5 + n % 3) };
            time.push(Timestamp::from_millis(n * 33), took);
            let most = if n == 0 { ms(5) } else { ms(7) };
            assert!(time.estimate() <= most, "{n}: {:?}", time.estimate());
        }
        assert_eq!(time.estimate(), ms(7));
        // 10 s later nothing of it is left.
        for n in 0..400 {
            time.push(Timestamp::from_millis(20_000 + n * 33), ms(2));
        }
        assert_eq!(time.estimate(), ms(2));
    }

    #[test]
    fn one_alone_changes_nothing() {
        let mut time = DecodeTime::default();
        let ms = Duration::from_millis;
        for n in 0..10 {
            time.push(Timestamp::from_millis(n * 33), ms(8));
        }
        // Nothing was measured for longer than is remembered.
        for n in 0..4 {
            time.push(Timestamp::from_millis(20_000 + n * 33), ms(500));
            assert_eq!(time.estimate(), ms(8), "{n}");
        }
        time.push(Timestamp::from_millis(20_200), ms(500));
        assert_eq!(time.estimate(), ms(500), "it really takes that long");
        time.forget();
        time.push(Timestamp::from_millis(21_000), ms(500));
        assert_eq!(time.estimate(), Duration::ZERO);
    }

    #[test]
    fn what_is_no_decoding_time_is_bounded() {
        let mut time = DecodeTime::default();
        time.push(Timestamp::ZERO, Duration::from_secs(100));
        assert_eq!(time.estimate(), LONGEST);
    }
}
