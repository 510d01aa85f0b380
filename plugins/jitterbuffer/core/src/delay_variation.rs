// SPDX-License-Identifier: MPL-2.0
use dualstream_common::{SignedDuration, Timestamp};

use crate::RtpClock;

/// How much later than expected from the frame before a frame came: the
/// difference in arrival minus the difference in capture (RFC 5481, section 1,
/// inter-packet delay variation, on frames).
#[derive(Clone, Copy, Debug, Default)]
pub struct DelayVariation {
    clock: RtpClock,
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    clock: RtpClock,
    capture: i64,
    arrival: Timestamp,
}

impl DelayVariation {
    /// Zero for the first frame; `None` for a frame that is not newer than the
    /// last one counted, which is left out.
    pub fn frame(&mut self, rtp_timestamp: u32, arrival: Timestamp) -> Option<SignedDuration> {
        let mut clock = self.last.map_or(self.clock, |last| last.clock);
        let capture = clock.nanos(rtp_timestamp);
        let variation = match self.last {
            None => 0,
            Some(last) if capture <= last.capture => return None,
            Some(last) => arrival
                .distance(last.arrival)
                .as_nanos()
                .saturating_sub(capture.saturating_sub(last.capture)),
        };
        self.last = Some(Last {
            clock,
            capture,
            arrival,
        });
        Some(SignedDuration::from_nanos(variation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variation_is_arrival_less_capture_and_old_frames_are_left_out() {
        let mut variation = DelayVariation::default();
        let mut at = |rtp, ms| variation.frame(rtp, Timestamp::from_millis(ms));
        let ms = |ms: i64| Some(SignedDuration::from_nanos(ms * 1_000_000));
        assert_eq!(at(u32::MAX - 899, 1000), ms(0), "the first");
        assert_eq!(at(900, 1025), ms(5), "20 ms of capture, over the wrap");
        assert_eq!(at(900, 1026), None, "the same frame");
        assert_eq!(at(0, 1027), None, "older");
        assert_eq!(at(1800, 1030), ms(-5), "against the last one counted");
        assert_eq!(at(2700, 1020), ms(-20), "time may go backwards");
    }
}
