// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::Timestamp;

/// What goes on for longer is how the network is now, and is learnt.
const LONGEST: Duration = Duration::from_secs(10);

/// Finds times in which the network carried nothing, or hardly anything: a frame
/// is later than may ever be waited for. That does not tell how long those after
/// it will take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outage {
    /// The first of the frames that are late without one on time between.
    late_since: Option<Timestamp>,
    /// When one came that was too late, in this run of late ones.
    began: Option<Timestamp>,
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
    /// `beyond`: later than may be waited for.
    pub(super) fn frame(&mut self, arrival: Timestamp, late: bool, beyond: bool) -> Says {
        if !late {
            *self = Self::default();
            return Says::Usual;
        }
        let since = *self.late_since.get_or_insert(arrival);
        match self.began {
            Some(began) if arrival.since(began) > LONGEST => Says::Usual,
            Some(_) => Says::Nothing,
            None if beyond => {
                self.began = Some(arrival);
                Says::Since(since)
            }
            None => Says::Usual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_the_first_late_frame_and_ends_with_one_on_time() {
        let mut outage = Outage::default();
        let at = Timestamp::from_millis;
        assert_eq!(outage.frame(at(0), true, false), Says::Usual);
        assert_eq!(outage.frame(at(33), false, false), Says::Usual);
        assert_eq!(outage.frame(at(66), true, false), Says::Usual);
        assert_eq!(outage.frame(at(99), true, false), Says::Usual);
        assert_eq!(outage.frame(at(2000), true, true), Says::Since(at(66)));
        assert_eq!(outage.frame(at(2001), true, true), Says::Nothing);
        assert_eq!(outage.frame(at(2002), true, false), Says::Nothing);
        assert_eq!(outage.frame(at(2010), false, false), Says::Usual);
        assert_eq!(outage.frame(at(2043), true, false), Says::Usual);
    }

    /// A sender whose clock stood still, or a longer way: none will be on time.
    #[test]
    fn one_that_does_not_end_is_learnt() {
        let mut outage = Outage::default();
        let mut frame = |ms| outage.frame(Timestamp::from_millis(ms), true, true);
        assert_eq!(frame(1000), Says::Since(Timestamp::from_millis(1000)));
        assert_eq!(frame(11_000), Says::Nothing);
        assert_eq!(frame(11_001), Says::Usual);
        assert_eq!(frame(11_034), Says::Usual, "and does not begin again");
    }
}
