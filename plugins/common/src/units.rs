// SPDX-License-Identifier: MPL-2.0
use std::fmt;
use std::ops::{Add, AddAssign, Div, Mul};
use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// A rate in bit/s. k is 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(u64);

impl Bitrate {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn from_bps(bps: u64) -> Self {
        Self(bps)
    }

    #[must_use]
    pub const fn from_kbps(kbps: u64) -> Self {
        Self(kbps.saturating_mul(1000))
    }

    #[must_use]
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// Rounded to the nearest kbit/s.
    #[must_use]
    pub const fn as_kbps(self) -> u64 {
        self.0.saturating_add(500) / 1000
    }

    /// The rate times a factor. A factor that is negative or not a number
    /// gives zero.
    #[must_use]
    pub fn scale(self, factor: f64) -> Self {
        // `as` saturates, and maps NaN to 0.
        Self((self.0 as f64 * factor).round() as u64)
    }

    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<Duration> for Bitrate {
    type Output = DataSize;

    fn mul(self, time: Duration) -> DataSize {
        let bytes = u128::from(self.0).saturating_mul(time.as_nanos()) / (8 * NANOS);
        DataSize(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit/s", self.0)
    }
}

/// An amount of data in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataSize(u64);

impl DataSize {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn as_bits(self) -> u64 {
        self.0.saturating_mul(8)
    }

    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// How long this takes at `rate`; `None` at rate 0.
    #[must_use]
    pub fn time_at(self, rate: Bitrate) -> Option<Duration> {
        if rate.0 == 0 {
            return None;
        }
        let nanos = u128::from(self.0) * 8 * NANOS / u128::from(rate.0);
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }
}

impl Add for DataSize {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for DataSize {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Div<Duration> for DataSize {
    type Output = Option<Bitrate>;

    /// The rate that moves this much in `time`; `None` for no time.
    fn div(self, time: Duration) -> Option<Bitrate> {
        let bps = (u128::from(self.0) * 8 * NANOS).checked_div(time.as_nanos())?;
        Some(Bitrate(u64::try_from(bps).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for DataSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.0)
    }
}

/// A share from 0 to 1: loss, utilisation, a part of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Ratio(f64);

impl Ratio {
    pub const ZERO: Self = Self(0.0);
    pub const ONE: Self = Self(1.0);

    /// `None` unless 0 <= `value` <= 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The nearest ratio; not-a-number gives 0.
    #[must_use]
    pub const fn clamped(value: f64) -> Self {
        if value.is_nan() {
            Self::ZERO
        } else {
            Self(value.clamp(0.0, 1.0))
        }
    }

    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }

    /// What is left of one.
    #[must_use]
    pub fn complement(self) -> Self {
        Self(1.0 - self.0)
    }
}

impl Mul<Ratio> for Bitrate {
    type Output = Bitrate;

    fn mul(self, part: Ratio) -> Bitrate {
        self.scale(part.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_over_a_time_is_bytes() {
        // 1 Mbit/s over 40 ms: 40 000 bits, 5000 bytes.
        assert_eq!(
            Bitrate::from_kbps(1000) * Duration::from_millis(40),
            DataSize::from_bytes(5000)
        );
    }

    #[test]
    fn bytes_at_a_rate_take_time_and_never_divide_by_zero() {
        let size = DataSize::from_bytes(5000);
        assert_eq!(
            size.time_at(Bitrate::from_kbps(1000)),
            Some(Duration::from_millis(40))
        );
        assert_eq!(size.time_at(Bitrate::ZERO), None);
        assert_eq!(size / Duration::ZERO, None);
        assert_eq!(
            size / Duration::from_millis(40),
            Some(Bitrate::from_kbps(1000))
        );
    }

    #[test]
    fn extremes_saturate() {
        let most = Bitrate::from_bps(u64::MAX);
        assert_eq!(most * Duration::MAX, DataSize::from_bytes(u64::MAX));
        assert_eq!(Bitrate::from_bps(5).scale(-1.0), Bitrate::ZERO);
        assert_eq!(Bitrate::from_bps(5).scale(f64::NAN), Bitrate::ZERO);
        assert_eq!(
            DataSize::from_bytes(u64::MAX) + DataSize::from_bytes(1),
            DataSize::from_bytes(u64::MAX)
        );
        assert_eq!(
            DataSize::from_bytes(u64::MAX).time_at(Bitrate::from_bps(1)),
            Some(Duration::from_nanos(u64::MAX))
        );
    }

    #[test]
    fn a_ratio_is_never_outside_its_range() {
        assert_eq!(Ratio::new(1.01), None);
        assert_eq!(Ratio::new(f64::NAN), None);
        assert_eq!(Ratio::clamped(f64::NAN), Ratio::ZERO);
        assert_eq!(Ratio::clamped(7.0), Ratio::ONE);
        assert_eq!(
            Bitrate::from_kbps(1000) * Ratio::clamped(0.25),
            Bitrate::from_kbps(250)
        );
    }
}
