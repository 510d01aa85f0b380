// SPDX-License-Identifier: MPL-2.0
//! Is the queue that stands somebody else's? Then it does not drain although
//! we have given way: all that we leave another flow takes. A queue of our own
//! drains in less time than it is given here, unless the link has become so
//! slow that little can be sent anyway; that is why [`crate::rate`] goes no
//! further above what arrives than by half.

use std::time::Duration;

use dualstream_common::Timestamp;

/// A queue below this is let be, s.
const LIMIT: f64 = 0.025;
/// How long it must stand, and how long we must have given way. Larger: fewer
/// false alarms, and more is given up to the other flow before it is seen.
const STANDS: Duration = Duration::from_millis(1500);
const YIELDED: Duration = Duration::from_millis(800);
/// We have given way below this share of the rate before.
const YIELD: f64 = 0.5;
/// A gap in the feedback this long is an outage.
const GAP: f64 = 0.6;

#[derive(Debug, Default)]
pub struct Foreign {
    since: Option<Timestamp>,
    yielding: Option<Timestamp>,
}

impl Foreign {
    /// The least delay of late above the least of all; the rate now, and before
    /// the queue stood; the time since the last feedback, s. True when the
    /// queue has been found to be another's.
    pub fn update(&mut self, now: Timestamp, delay: f64, rate: f64, before: f64, dt: f64) -> bool {
        if is_gone(delay) || dt > GAP {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if rate > before * YIELD {
            self.yielding = None;
            return false;
        }
        let yielding = *self.yielding.get_or_insert(now);
        now.since(since) >= STANDS && now.since(yielding) >= YIELDED
    }

    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The delay below which no queue is another's.
#[must_use]
pub fn is_gone(delay: f64) -> bool {
    delay < LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feedback each 50 ms; when the queue was found to be another's, in ms.
    fn found(of: impl Fn(u64) -> (f64, f64)) -> Option<u64> {
        let mut foreign = Foreign::default();
        (0..200).map(|n| n * 50).find(|at| {
            let (delay, rate) = of(*at);
            foreign.update(Timestamp::from_millis(*at), delay, rate, 1e6, 0.05)
        })
    }

    #[test]
    fn a_queue_that_stands_although_we_gave_way_is_another_s() {
        let found = found(|at| (0.1, if at < 1000 { 1e6 } else { 0.5e6 }));
        assert_eq!(found, Some(1800), "0.8 s after we gave way");
    }

    #[test]
    fn it_must_stand_for_some_time_even_if_we_gave_way_at_once() {
        assert_eq!(found(|_| (0.1, 0.1e6)), Some(1500));
    }

    #[test]
    fn a_queue_is_ours_while_we_have_not_given_way() {
        assert_eq!(found(|_| (0.1, 0.51e6)), None);
    }

    #[test]
    fn a_short_queue_is_nobody_s() {
        assert_eq!(found(|_| (0.024, 0.1e6)), None);
        assert!(found(|_| (0.026, 0.1e6)).is_some());
    }

    #[test]
    fn a_queue_that_empties_once_begins_anew() {
        let found = found(|at| (if at == 1400 { 0.0 } else { 0.1 }, 0.1e6));
        assert_eq!(found, Some(1450 + 1500));
    }

    #[test]
    fn giving_way_must_last() {
        let found = found(|at| (0.1, if at % 700 == 0 { 1e6 } else { 0.1e6 }));
        assert_eq!(found, None, "never 0.8 s on end");
    }

    /// What stood through an outage is what could not leave during it.
    #[test]
    fn an_outage_begins_anew() {
        let mut foreign = Foreign::default();
        let mut update = |at, dt| foreign.update(Timestamp::from_millis(at), 0.1, 0.1e6, 1e6, dt);
        assert!(!update(0, 0.05));
        assert!(!update(1400, 0.05));
        assert!(!update(2100, 0.7));
        assert!(!update(3500, 0.05));
        assert!(update(5000, 0.05));
    }
}
