// SPDX-License-Identifier: MPL-2.0
use dualstream_common::{DataSize, Timestamp};

/// What the delay models know of a complete frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// As on the wire.
    pub rtp_timestamp: u32,
    /// When its last packet came.
    pub arrival: Timestamp,
    pub size: DataSize,
    /// It was complete only after a retransmission.
    pub retransmitted: bool,
}

/// Turns RTP timestamps into ns since the first one; negative for frames
/// before it.
#[derive(Clone, Copy, Debug)]
pub struct RtpClock {
    rate_hz: u32,
    last: Option<(u32, i64)>,
}

impl RtpClock {
    /// Of all video (RFC 6184, section 8.2.1).
    pub const VIDEO_HZ: u32 = 90_000;

    pub(crate) const VIDEO_PER_MS: f64 = Self::VIDEO_HZ as f64 / 1000.0;

    /// A rate of 0 counts as 1 Hz.
    #[must_use]
    pub fn new(rate_hz: u32) -> Self {
        Self {
            rate_hz: rate_hz.max(1),
            last: None,
        }
    }

    /// Each timestamp is the one nearest to the last one given.
    pub fn nanos(&mut self, rtp_timestamp: u32) -> i64 {
        let ticks = self.ticks(rtp_timestamp);
        let nanos = i128::from(ticks) * 1_000_000_000 / i128::from(self.rate_hz);
        i64::try_from(nanos).unwrap_or(if ticks < 0 { i64::MIN } else { i64::MAX })
    }

    /// The same in units of the clock.
    pub(crate) fn ticks(&mut self, rtp_timestamp: u32) -> i64 {
        let ticks = match self.last {
            None => 0,
            Some((raw, ticks)) => {
                let step = rtp_timestamp.wrapping_sub(raw).cast_signed();
                ticks.saturating_add(i64::from(step))
            }
        };
        self.last = Some((rtp_timestamp, ticks));
        ticks
    }
}

impl Default for RtpClock {
    fn default() -> Self {
        Self::new(Self::VIDEO_HZ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtp_time_goes_on_over_the_wrap_and_back() {
        let mut clock = RtpClock::default();
        assert_eq!(clock.nanos(u32::MAX - 44_999), 0);
        assert_eq!(clock.nanos(45_000), 1_000_000_000, "90 000 ticks on");
        assert_eq!(clock.nanos(u32::MAX - 89_999), -500_000_000, "reordered");
        assert_eq!(clock.nanos(0), 500_000_000);
    }

    #[test]
    fn a_rate_of_zero_does_not_divide() {
        let mut clock = RtpClock::new(0);
        clock.nanos(0);
        assert_eq!(clock.nanos(3), 3_000_000_000);
    }
}
