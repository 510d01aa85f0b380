// SPDX-License-Identifier: MPL-2.0
use std::ops::Add;
use std::time::Duration;

macro_rules! point_in_time {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            pub const ZERO: Self = Self(0);

            #[must_use]
            pub const fn from_nanos(nanos: u64) -> Self {
                Self(nanos)
            }

            #[must_use]
            pub const fn from_millis(millis: u64) -> Self {
                Self(millis.saturating_mul(1_000_000))
            }

            #[must_use]
            pub const fn as_nanos(self) -> u64 {
                self.0
            }

            /// Time passed since `earlier`; none if `earlier` is later.
            #[must_use]
            pub const fn since(self, earlier: Self) -> Duration {
                Duration::from_nanos(self.0.saturating_sub(earlier.0))
            }

            /// Signed distance from `other` to this.
            #[must_use]
            pub const fn distance(self, other: Self) -> SignedDuration {
                let diff = self.0 as i128 - other.0 as i128;
                SignedDuration(if diff > i64::MAX as i128 {
                    i64::MAX
                } else if diff < i64::MIN as i128 {
                    i64::MIN
                } else {
                    diff as i64
                })
            }
        }

        impl Add<Duration> for $name {
            type Output = Self;

            fn add(self, time: Duration) -> Self {
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                Self(self.0.saturating_add(nanos))
            }
        }
    };
}

point_in_time! {
    /// A point in time on our own clock, in ns: the pipeline's running time.
    Timestamp
}

point_in_time! {
    /// A point in time on the peer's clock, in ns. It has nothing in common
    /// with [`Timestamp`], so there is no difference between the two.
    RemoteTime
}

/// A signed span of time in ns: delay gradients, skew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignedDuration(i64);

impl SignedDuration {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// The span without its sign.
    #[must_use]
    pub const fn abs(self) -> Duration {
        Duration::from_nanos(self.0.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_goes_backwards_is_legal() {
        let (early, late) = (Timestamp::from_millis(1), Timestamp::from_millis(3));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.since(early), Duration::from_millis(2));
        assert_eq!(early.distance(late).as_nanos(), -2_000_000);
        assert_eq!(early.distance(late).abs(), Duration::from_millis(2));
    }

    #[test]
    fn the_end_of_time_saturates() {
        let end = Timestamp::from_nanos(u64::MAX);
        assert_eq!(end + Duration::MAX, end);
        assert_eq!(end.distance(Timestamp::ZERO).as_nanos(), i64::MAX);
        assert_eq!(Timestamp::ZERO.distance(end).as_nanos(), i64::MIN);
    }
}
