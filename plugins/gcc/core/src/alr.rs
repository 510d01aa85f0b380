// SPDX-License-Identifier: MPL-2.0
//! Does the application send what it may? What it has not sent says nothing
//! about the link (libwebrtc, alr_detector.cc: application-limited region).

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

const WINDOW: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(25);
/// Below this share of the target it is limited, as in libwebrtc; above the
/// other one it no longer is.
const LIMITED: f64 = 0.65;
const FREE: f64 = 0.80;

#[derive(Debug, Default)]
pub struct Alr {
    /// Sent in each step of the window. At most 21.
    steps: VecDeque<(Timestamp, DataSize)>,
    since: Option<Timestamp>,
    begun: Option<Timestamp>,
}

impl Alr {
    pub fn sent(&mut self, now: Timestamp, size: DataSize) {
        self.begun.get_or_insert(now);
        match self.steps.back_mut() {
            Some((start, sum)) if now.since(*start) < STEP => *sum += size,
            _ => self.steps.push_back((now, size)),
        }
        self.trim(now);
    }

    fn trim(&mut self, now: Timestamp) {
        while self
            .steps
            .front()
            .is_some_and(|(start, _)| now.since(*start) >= WINDOW)
        {
            self.steps.pop_front();
        }
    }

    /// What was sent in the last half second.
    pub fn rate(&mut self, now: Timestamp) -> Option<Bitrate> {
        self.trim(now);
        let begun = self.begun?;
        let time = now.since(begun).min(WINDOW);
        if time < WINDOW / 5 {
            return None;
        }
        let sum = self
            .steps
            .iter()
            .fold(DataSize::ZERO, |sum, (_, size)| sum + *size);
        sum / time
    }

    pub fn update(&mut self, now: Timestamp, target: Bitrate) {
        let Some(rate) = self.rate(now) else { return };
        if rate < target.scale(LIMITED) {
            self.since.get_or_insert(now);
        } else if rate > target.scale(FREE) {
            self.since = None;
        }
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.steps.len()
    }

    /// Limited by the application, since when.
    #[must_use]
    pub fn limited_since(&self) -> Option<Timestamp> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Bitrate = Bitrate::from_kbps(1000);

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A packet each 10 ms from `from` to `to`, of `share` of the target.
    fn send(alr: &mut Alr, from: u64, to: u64, share: f64) {
        let size = TARGET.scale(share) * Duration::from_millis(10);
        for at in (from..to).step_by(10) {
            alr.sent(ms(at), size);
            alr.update(ms(at), TARGET);
        }
    }

    #[test]
    fn it_is_limited_below_65_percent_and_free_again_above_80() {
        let mut alr = Alr::default();
        send(&mut alr, 0, 2000, 0.7);
        assert_eq!(alr.limited_since(), None, "70 % is neither");
        send(&mut alr, 2000, 4000, 0.4);
        let since = alr.limited_since().expect("40 % is limited");
        assert!(since > ms(2000) && since <= ms(2500), "{since:?}");
        send(&mut alr, 4000, 6000, 0.7);
        assert_eq!(alr.limited_since(), Some(since), "70 % is neither");
        send(&mut alr, 6000, 8000, 0.9);
        assert_eq!(alr.limited_since(), None);
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_second() {
        let mut alr = Alr::default();
        send(&mut alr, 0, 3000, 0.5);
        send(&mut alr, 3000, 3600, 1.0);
        let rate = alr.rate(ms(3600)).expect("enough was sent");
        assert!(
            rate >= TARGET.scale(0.94) && rate <= TARGET.scale(1.06),
            "{rate}"
        );
    }

    #[test]
    fn nothing_is_said_of_the_first_moments() {
        let mut alr = Alr::default();
        assert_eq!(alr.rate(ms(0)), None);
        send(&mut alr, 0, 90, 0.1);
        assert_eq!(alr.rate(ms(90)), None);
        assert_eq!(alr.limited_since(), None);
        send(&mut alr, 90, 200, 0.1);
        assert!(alr.limited_since().is_some());
    }

    #[test]
    fn who_sends_nothing_any_more_is_limited() {
        let mut alr = Alr::default();
        send(&mut alr, 0, 2000, 1.0);
        assert_eq!(alr.limited_since(), None);
        alr.update(ms(3000), TARGET);
        assert_eq!(alr.limited_since(), Some(ms(3000)));
        assert_eq!(alr.rate(ms(3000)), Some(Bitrate::ZERO));
    }

    #[test]
    fn no_more_than_its_window_is_kept() {
        let mut alr = Alr::default();
        for n in 0..100_000 {
            alr.sent(Timestamp::from_nanos(n * 100_000), DataSize::from_bytes(10));
            assert!(alr.remembered() <= 21);
        }
    }
}
