// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::Timestamp;

/// What goes on for longer is how the network is now, and is learnt.
const LONGEST: Duration = Duration::from_secs(10);

/// A stall has to come more often than this to be learnt: to wait for one that is
/// rarer would cost all other frames more than it costs itself.
const RARE: Duration = Duration::from_secs(10);
/// So many at once are rare.
const MOST: f64 = 2.0;
/// Those that follow one by less are of the same cause.
const SAME: Duration = Duration::from_secs(2);

/// How late a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lateness {
    OnTime,
    Late,
    /// So late that the picture stands.
    Stalled,
    /// Later than may be waited for.
    Beyond,
}

/// Finds times in which the network carried nothing, or hardly anything: a frame
/// is later than may ever be waited for, or as late as hardly any. That does not
/// tell how long those after it will take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    /// The first of the frames that are late without one on time between.
    late_since: Option<Timestamp>,
    /// When one came that was too late, in this run of late ones.
    began: Option<Timestamp>,
    /// Of stalls that are not learnt: a token bucket.
    tokens: f64,
    filled: Timestamp,
    /// When the last one was taken.
    taken: Option<Timestamp>,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            late_since: None,
            began: None,
            tokens: MOST,
            filled: Timestamp::ZERO,
            taken: None,
        }
    }
}

/// What a frame says of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// What all say.
    Usual,
    /// There is an outage; what came since then was of it.
    Since(Timestamp),
    /// It waited behind what the network did not carry.
    Nothing,
}

impl Outage {
    pub(super) fn frame(&mut self, arrival: Timestamp, lateness: Lateness) -> Says {
        if lateness == Lateness::OnTime {
            (self.late_since, self.began) = (None, None);
            return Says::Usual;
        }
        let since = *self.late_since.get_or_insert(arrival);
        match self.began {
            Some(began) if arrival.since(began) > LONGEST => Says::Usual,
            Some(_) => Says::Nothing,
            None => {
                let begins = match lateness {
                    Lateness::Beyond => true,
                    Lateness::Stalled => self.is_rare(arrival),
                    _ => false,
                };
                if !begins {
                    return Says::Usual;
                }
                self.began = Some(arrival);
                Says::Since(since)
            }
        }
    }

    fn is_rare(&mut self, now: Timestamp) -> bool {
        if self.taken.is_some_and(|taken| now.since(taken) < SAME) {
            return true;
        }
        let passed = now.since(std::mem::replace(&mut self.filled, now));
        self.tokens = (self.tokens + passed.as_secs_f64() / RARE.as_secs_f64()).min(MOST);
        let rare = self.tokens >= 1.0;
        if rare {
            self.tokens -= 1.0;
            self.taken = Some(now);
        }
        rare
    }
}

#[cfg(test)]
mod tests {
    use super::Lateness::{Beyond, Late, OnTime, Stalled};
    use super::*;

    #[test]
    fn an_outage_begins_with_the_first_late_frame_and_ends_with_one_on_time() {
        let mut outage = Outage::default();
        let at = Timestamp::from_millis;
        assert_eq!(outage.frame(at(0), Late), Says::Usual);
        assert_eq!(outage.frame(at(33), OnTime), Says::Usual);
        assert_eq!(outage.frame(at(66), Late), Says::Usual);
        assert_eq!(outage.frame(at(99), Late), Says::Usual);
        assert_eq!(outage.frame(at(2000), Beyond), Says::Since(at(66)));
        assert_eq!(outage.frame(at(2001), Beyond), Says::Nothing);
        assert_eq!(outage.frame(at(2002), Late), Says::Nothing);
        assert_eq!(outage.frame(at(2010), OnTime), Says::Usual);
        assert_eq!(outage.frame(at(2043), Late), Says::Usual);
    }

    /// A sender whose clock stood still, or a longer way: none will be on time.
    #[test]
    fn one_that_does_not_end_is_learnt() {
        let mut outage = Outage::default();
        let mut frame = |ms| outage.frame(Timestamp::from_millis(ms), Beyond);
        assert_eq!(frame(1000), Says::Since(Timestamp::from_millis(1000)));
        assert_eq!(frame(11_000), Says::Nothing);
        assert_eq!(frame(11_001), Says::Usual);
        assert_eq!(frame(11_034), Says::Usual, "and does not begin again");
    }

    /// How many stalls are learnt of those that come `every` s for an hour.
    fn learnt(every: u64) -> u64 {
        let mut outage = Outage::default();
        let mut learnt = 0;
        for n in 0..3600 / every {
            let at = |ms| Timestamp::from_millis(n * every * 1000 + ms);
            learnt += u64::from(outage.frame(at(0), Stalled) == Says::Usual);
            // The rest of it is as the first.
            let says = outage.frame(at(1), Late);
            assert!(says != Says::Since(at(0)), "{n}");
            assert_eq!(outage.frame(at(500), OnTime), Says::Usual);
        }
        learnt
    }

    #[test]
    fn stalls_are_learnt_where_they_are_not_rare() {
        assert_eq!(learnt(60), 0);
        assert_eq!(learnt(11), 0);
        // Two in 10 s are not, of ten.
        assert!((2860..2885).contains(&learnt(1)), "{}", learnt(1));
    }
}
