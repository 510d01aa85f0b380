// SPDX-License-Identifier: MPL-2.0

/// A 16-bit number from the wire (RTP sequence, frame number) made endless,
/// so that order is plain order. Made by [`Unwrapper`] at the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtSeq(u64);

impl ExtSeq {
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// What goes on the wire.
    #[must_use]
    pub const fn low16(self) -> u16 {
        self.0 as u16
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// How many numbers this is past `earlier`; 0 if it is not.
    #[must_use]
    pub const fn past(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The endless number nearest to this one whose low 16 bits are `raw`
    /// (RFC 3550 appendix A.1 in spirit; a tie counts as the past). Numbers
    /// before the start of counting are `None`.
    #[must_use]
    pub const fn nearest(self, raw: u16) -> Option<Self> {
        let ahead = raw.wrapping_sub(self.0 as u16);
        if ahead < 0x8000 {
            match self.0.checked_add(ahead as u64) {
                Some(value) => Some(Self(value)),
                None => None,
            }
        } else {
            match self.0.checked_sub(0x1_0000 - ahead as u64) {
                Some(value) => Some(Self(value)),
                None => None,
            }
        }
    }
}

/// Turns 16-bit numbers into [`ExtSeq`] relative to the highest one seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrapper {
    highest: Option<ExtSeq>,
}

impl Unwrapper {
    /// Numbers start one turn up, so that those a little before the first one
    /// are still numbers.
    const START: u64 = 0x1_0000;

    pub fn unwrap(&mut self, raw: u16) -> ExtSeq {
        let Some(highest) = self.highest else {
            let first = ExtSeq(Self::START + u64::from(raw));
            self.highest = Some(first);
            return first;
        };
        // `nearest` fails only at the ends of u64, which start + 2^63 packets
        // do not reach.
        let value = highest.nearest(raw).unwrap_or(highest);
        self.highest = Some(highest.max(value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_go_on_over_the_wrap_and_back() {
        let mut u = Unwrapper::default();
        let a = u.unwrap(0xfffe);
        let b = u.unwrap(1);
        assert_eq!(b.past(a), 3);
        assert_eq!(u.unwrap(0xffff).past(a), 1, "late, before the wrap");
        assert_eq!(u.unwrap(2).past(b), 1, "the highest stayed where it was");
    }

    #[test]
    fn nearest_knows_the_start_of_counting() {
        assert_eq!(ExtSeq::new(3).nearest(1), Some(ExtSeq::new(1)));
        assert_eq!(ExtSeq::new(3).nearest(0xffff), None);
        assert_eq!(
            ExtSeq::new(0x1_0002).nearest(0xffff),
            Some(ExtSeq::new(0xffff))
        );
    }

    proptest! {
        #[test]
        fn any_walk_of_small_steps_is_followed(steps in proptest::collection::vec(-1000i64..2000, 1..500)) {
            let mut u = Unwrapper::default();
            let first = u.unwrap(0);
            let mut at = first.value() as i64;
            for step in steps {
                // Never behind the first by more than a turn, nor far behind the highest.
                let highest = u.highest.unwrap().value() as i64;
                at = (at + step).max(highest - 0x7000).max(0x1_0000);
                prop_assert_eq!(u.unwrap(at as u16).value() as i64, at);
            }
        }
    }
}
