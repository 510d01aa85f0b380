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
        let (ticks, rate) = (self.ticks(rtp_timestamp), i64::from(self.rate_hz));
        // Seconds apart, as 128 bits are slow to divide.
        let (seconds, rest) = (ticks / rate, ticks % rate);
        let nanos = seconds.saturating_mul(1_000_000_000);
        nanos.saturating_add(rest * 1_000_000_000 / rate)
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

/// RTP time stamps made endless, counted as GStreamer counts them: from one
/// turn on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtTimestamp(Option<u64>);

impl ExtTimestamp {
    const TURN: u64 = 1 << 32;

    /// Each is the one nearest to the last one given.
    pub fn extend(&mut self, rtp_timestamp: u32) -> u64 {
        let extended = match self.0 {
            None => Self::TURN + u64::from(rtp_timestamp),
            Some(last) => {
                let step = rtp_timestamp.wrapping_sub(last as u32).cast_signed();
                // Below zero it goes on in the first turn.
                last.checked_add_signed(step.into())
                    .unwrap_or_else(|| rtp_timestamp.into())
            }
        };
        self.0 = Some(extended);
        extended
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
    fn endless_time_stamps_go_over_the_wrap_and_back() {
        let mut extended = ExtTimestamp::default();
        assert_eq!(extended.extend(u32::MAX), 0x1_ffff_ffff);
        assert_eq!(extended.extend(9), 0x2_0000_0009);
        assert_eq!(extended.extend(u32::MAX), 0x1_ffff_ffff);
        for raw in [0xa000_0000, 0x5000_0000, 0, 0xa000_0000, 0x5000_0000, 0] {
            assert_eq!(extended.extend(raw) as u32, raw, "back and back");
        }
        assert_eq!(
            extended.extend(0xf000_0000),
            0xf000_0000,
            "there is no less"
        );
    }

    #[test]
    fn nanos_are_whole_ticks_at_any_rate() {
        for rate in [1, 8000, 44_100, 90_000, u32::MAX] {
            let (mut clock, mut raw, mut ticks) = (RtpClock::new(rate), 0u32, 0i64);
            clock.nanos(raw);
            for step in [
                1,
                7,
                -20,
                90_001,
                -1_000_000_007,
                3,
                i32::MAX,
                i32::MIN,
                44_099,
            ] {
                raw = raw.wrapping_add_signed(step);
                ticks += i64::from(step);
                let exact = i128::from(ticks) * 1_000_000_000 / i128::from(rate);
                assert_eq!(i128::from(clock.nanos(raw)), exact, "{ticks} at {rate} Hz");
            }
        }
    }

    #[test]
    fn a_rate_of_zero_does_not_divide() {
        let mut clock = RtpClock::new(0);
        clock.nanos(0);
        assert_eq!(clock.nanos(3), 3_000_000_000);
    }
}
