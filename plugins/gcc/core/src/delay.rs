// SPDX-License-Identifier: MPL-2.0
//! How long packets wait in queues: their one-way delay above the least one
//! of the last [`WINDOW`]. The clocks of the two sides need not agree; a drift
//! moves the least delay by no more than it makes in a window.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{RemoteTime, SignedDuration, Timestamp};

/// Over which the least delay is kept. Longer: a queue that stands for long is
/// still known for one; shorter: a new path is learnt sooner.
const WINDOW: Duration = Duration::from_secs(20);
/// ... and this long beside another flow.
const HELD: Duration = Duration::from_secs(120);
const BUCKET: Duration = Duration::from_secs(1);

/// A change of the raw delay by more than this is a new clock, not a queue.
const NEW_CLOCK: Duration = Duration::from_secs(60);

/// Difference of two clocks: only its changes mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawDelay(i64);

impl RawDelay {
    /// The one place where the two clocks meet.
    #[must_use]
    pub fn new(sent: Timestamp, arrival: RemoteTime) -> Self {
        Self(
            Timestamp::from_nanos(arrival.as_nanos())
                .distance(sent)
                .as_nanos(),
        )
    }

    #[must_use]
    pub fn above(self, other: Self) -> SignedDuration {
        SignedDuration::from_nanos(self.0.saturating_sub(other.0))
    }
}

#[derive(Debug, Default)]
pub struct BaseDelay {
    /// Least of each bucket, with its start. At most [`HELD`] / [`BUCKET`] + 1.
    buckets: VecDeque<(Timestamp, RawDelay)>,
}

impl BaseDelay {
    /// Too far from what was, for a queue.
    #[must_use]
    pub fn is_another_clock(&self, raw: RawDelay) -> bool {
        let far = |least| raw.above(least).abs() > NEW_CLOCK;
        self.least().is_some_and(far)
    }

    /// Takes a packet's delay in, and says how long it waited. `held`: another
    /// flow keeps the queue from emptying, so that the least delay is not seen.
    pub fn update(&mut self, now: Timestamp, raw: RawDelay, held: bool) -> Duration {
        let window = if held { HELD } else { WINDOW };
        match self.buckets.back_mut() {
            Some((start, least)) if now.since(*start) < BUCKET => *least = raw.min(*least),
            _ => self.buckets.push_back((now, raw)),
        }
        while self
            .buckets
            .front()
            .is_some_and(|(start, _)| now.since(*start) > window)
            && self.buckets.len() > 1
        {
            self.buckets.pop_front();
        }
        self.queueing(raw)
    }

    /// Above the least delay.
    #[must_use]
    pub fn queueing(&self, raw: RawDelay) -> Duration {
        let above = self.least().map_or(0, |least| raw.above(least).as_nanos());
        Duration::from_nanos(above.max(0) as u64)
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.buckets.len()
    }

    #[must_use]
    pub fn least(&self) -> Option<RawDelay> {
        self.buckets.iter().map(|(_, least)| *least).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peer's clock is this far ahead.
    const OFFSET_MS: u64 = 1_000_000;

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn raw(sent_ms: u64, delay_ms: u64) -> RawDelay {
        RawDelay::new(
            ms(sent_ms),
            RemoteTime::from_millis(OFFSET_MS + sent_ms + delay_ms),
        )
    }

    /// A packet that took `delay_ms`: how long it waited, in ms.
    fn waited(base: &mut BaseDelay, now_ms: u64, delay_ms: u64) -> u128 {
        base.update(ms(now_ms), raw(now_ms, delay_ms), false)
            .as_millis()
    }

    #[test]
    fn what_is_above_the_least_delay_was_spent_waiting() {
        let mut base = BaseDelay::default();
        assert_eq!(waited(&mut base, 0, 50), 0);
        assert_eq!(waited(&mut base, 10, 80), 30);
        assert_eq!(waited(&mut base, 20, 40), 0, "a new least");
        assert_eq!(waited(&mut base, 30, 80), 40);
        assert_eq!(base.least(), Some(raw(0, 40)));
    }

    #[test]
    fn clocks_may_differ_either_way() {
        let behind = RawDelay::new(ms(OFFSET_MS), RemoteTime::from_millis(5));
        let later = RawDelay::new(ms(OFFSET_MS), RemoteTime::from_millis(7));
        assert_eq!(later.above(behind).as_nanos(), 2_000_000);
        let mut base = BaseDelay::default();
        base.update(ms(0), behind, false);
        assert_eq!(base.update(ms(1), later, false), Duration::from_millis(2));
    }

    #[test]
    fn the_least_delay_is_forgotten_after_its_window() {
        let mut base = BaseDelay::default();
        waited(&mut base, 0, 10);
        for second in 1..=20 {
            assert_eq!(waited(&mut base, second * 1000, 50), 40, "at {second} s");
        }
        assert_eq!(waited(&mut base, 21_000, 50), 0, "a longer path is learnt");
    }

    #[test]
    fn beside_another_flow_the_least_delay_is_held_for_longer() {
        let mut base = BaseDelay::default();
        base.update(ms(0), raw(0, 10), true);
        for second in 1..=120 {
            let at = second * 1000;
            let waited = base.update(ms(at), raw(at, 50), true);
            assert_eq!(waited, Duration::from_millis(40), "at {second} s");
        }
        assert_eq!(
            base.update(ms(121_000), raw(121_000, 50), true),
            Duration::ZERO
        );
        assert!(base.remembered() <= 122);
    }

    /// 100 ppm, more than crystals are off: 2 ms in the window.
    #[test]
    fn a_clock_that_drifts_makes_no_more_than_its_window() {
        let mut base = BaseDelay::default();
        let mut most = Duration::ZERO;
        for second in 0..600u64 {
            let arrival = RemoteTime::from_nanos(second * 1_000_100_000 + 50_000_000);
            let raw = RawDelay::new(ms(second * 1000), arrival);
            most = most.max(base.update(ms(second * 1000), raw, false));
        }
        assert!(most <= Duration::from_micros(2100), "{most:?}");
        assert!(
            most >= Duration::from_micros(1900),
            "it does drift: {most:?}"
        );
    }

    #[test]
    fn a_jump_of_more_than_a_minute_is_another_clock() {
        let mut base = BaseDelay::default();
        assert!(
            !base.is_another_clock(raw(0, 0)),
            "nothing to compare it to"
        );
        waited(&mut base, 0, 50);
        assert!(!base.is_another_clock(raw(0, 60_050)));
        assert!(base.is_another_clock(raw(0, 60_051)));
        let back = RawDelay::new(ms(100_000), RemoteTime::from_millis(OFFSET_MS));
        assert!(base.is_another_clock(back), "backwards too");
    }

    #[test]
    fn time_that_goes_backwards_and_the_ends_of_time_are_no_danger() {
        let mut base = BaseDelay::default();
        let ends = [u64::MAX, 0, u64::MAX / 2, 1];
        for now in ends {
            for sent in ends {
                for arrival in ends {
                    let raw =
                        RawDelay::new(Timestamp::from_nanos(sent), RemoteTime::from_nanos(arrival));
                    base.update(Timestamp::from_nanos(now), raw, false);
                }
            }
        }
        assert!(base.remembered() <= 4);
    }
}
