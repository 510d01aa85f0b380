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

/// Targets of 5 s are remembered.
const MOST_KEPT: usize = 500;
const KEEP_EACH: Duration = Duration::from_millis(10);

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

    /// `target` is the mean of the last [`WINDOW`].
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

/// What might be sent, so that what was sent can be compared to it later, when
/// it is heard of.
#[derive(Debug, Default)]
pub struct Allowance {
    /// Sum of the target over time, bits, from time to time. At most
    /// [`MOST_KEPT`].
    sums: VecDeque<(Timestamp, f64)>,
    target: f64,
}

impl Allowance {
    /// The target is this from here on.
    pub fn update(&mut self, now: Timestamp, target: Bitrate) {
        let last = self.sums.back().copied();
        let target = target.as_bps() as f64;
        match last {
            Some((at, sum)) if now.since(at) >= KEEP_EACH => {
                let sum = sum + self.target * now.since(at).as_secs_f64();
                self.sums.push_back((now, sum));
                self.target = target;
            }
            // The greater one of so short a time.
            Some(_) => self.target = self.target.max(target),
            None => {
                self.sums.push_back((now, 0.0));
                self.target = target;
            }
        }
        if self.sums.len() > MOST_KEPT {
            self.sums.pop_front();
        }
    }

    /// Mean of the target, bit/s, as far as it is remembered.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> Option<f64> {
        let (start, first) = self.at(from)?;
        let (end, last) = self.at(to)?;
        let span = end.since(start).as_secs_f64();
        (span > 0.0).then(|| (last - first) / span)
    }

    /// Over the time for which [`Alr`] counts what was sent.
    pub fn lately(&self, now: Timestamp) -> Option<f64> {
        let from = now.as_nanos().saturating_sub(WINDOW.as_nanos() as u64);
        self.between(Timestamp::from_nanos(from), now)
    }

    /// The sum then, or at the time closest to it.
    fn at(&self, time: Timestamp) -> Option<(Timestamp, f64)> {
        let next = self.sums.partition_point(|(at, _)| *at <= time);
        let Some((before, sum)) = next.checked_sub(1).and_then(|n| self.sums.get(n)) else {
            return self.sums.front().copied();
        };
        let Some((after, later)) = self.sums.get(next) else {
            let since = time.since(*before).as_secs_f64();
            return Some((time, sum + self.target * since));
        };
        // They are at least [`KEEP_EACH`] apart.
        let share = time.since(*before).as_secs_f64() / after.since(*before).as_secs_f64();
        Some((time, sum + (later - sum) * share))
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.sums.len()
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

    fn kbps(rate: f64) -> Bitrate {
        Bitrate::from_bps((rate * 1e3) as u64)
    }

    #[track_caller]
    fn assert_kbps(mean: Option<f64>, rate: f64) {
        let mean = mean.expect("it is remembered") / 1e3;
        assert!((mean - rate).abs() < 1e-6, "{mean} kbit/s, not {rate}");
    }

    #[test]
    fn what_was_allowed_is_the_mean_of_the_targets() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.between(ms(0), ms(100)), None, "nothing is known");
        allowance.update(ms(1000), kbps(100.0));
        allowance.update(ms(1100), kbps(300.0));
        allowance.update(ms(1200), kbps(500.0));
        assert_kbps(allowance.between(ms(1000), ms(1100)), 100.0);
        // 50 ms of each.
        assert_kbps(allowance.between(ms(1050), ms(1150)), 200.0);
        // 50 ms of the second one and 100 ms of the last.
        assert_kbps(
            allowance.between(ms(1150), ms(1300)),
            (0.05 * 300.0 + 0.1 * 500.0) / 0.15,
        );
        assert_kbps(allowance.between(ms(0), ms(1100)), 100.0);
        assert_eq!(allowance.between(ms(1100), ms(1100)), None, "no time");
        assert_eq!(allowance.between(ms(1200), ms(1100)), None, "backwards");
    }

    #[test]
    fn targets_are_remembered_for_five_seconds() {
        let mut allowance = Allowance::default();
        for n in 0..100_000u64 {
            allowance.update(ms(n), kbps(if n < 94_000 { 900.0 } else { 100.0 }));
        }
        assert_eq!(allowance.remembered(), MOST_KEPT);
        assert_kbps(allowance.between(ms(0), ms(99_000)), 100.0);
        // Time that goes backwards changes nothing that is known.
        allowance.update(ms(5), kbps(1.0));
        assert_eq!(allowance.remembered(), MOST_KEPT);
    }
}
