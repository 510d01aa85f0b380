// SPDX-License-Identifier: MPL-2.0
use dualstream_common::Timestamp;

/// Finds times in which the network carried nothing, or hardly anything: a frame
/// is later than may ever be waited for. That does not tell how long those after
/// it will take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outage {
    /// The first of the frames that are late without one on time between.
    late_since: Option<Timestamp>,
    is_on: bool,
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
        if self.is_on {
            return Says::Nothing;
        }
        self.is_on = beyond;
        if beyond {
            Says::Since(since)
        } else {
            Says::Usual
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
}
