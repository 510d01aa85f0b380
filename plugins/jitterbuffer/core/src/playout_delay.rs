// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

/// The sender's wish for the delay, from the RTP header extension
/// `http://www.webrtc.org/experiments/rtp-hdrext/playout-delay`: three bytes,
/// two numbers of 12 bits, in units of 10 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayoutDelay {
    pub min: Duration,
    pub max: Duration,
}

impl PlayoutDelay {
    pub const URI: &'static str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
    const UNIT: Duration = Duration::from_millis(10);

    /// `None` unless it has three bytes and the smallest is no larger than the
    /// largest.
    #[must_use]
    pub fn parse(extension: &[u8]) -> Option<Self> {
        let [a, b, c] = *extension else {
            return None;
        };
        let min = u32::from(a) << 4 | u32::from(b) >> 4;
        let max = u32::from(b & 0x0f) << 8 | u32::from(c);
        (min <= max).then(|| Self {
            min: Self::UNIT * min,
            max: Self::UNIT * max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_of_twelve_bits() {
        let delay = PlayoutDelay::parse(&[0x01, 0x23, 0x45]).unwrap();
        assert_eq!(delay.min, Duration::from_millis(0x012 * 10));
        assert_eq!(delay.max, Duration::from_millis(0x345 * 10));
        let none = PlayoutDelay::parse(&[0, 0, 0]).unwrap();
        assert_eq!((none.min, none.max), (Duration::ZERO, Duration::ZERO));
        let most = PlayoutDelay::parse(&[0xff; 3]).unwrap();
        assert_eq!(most.max, Duration::from_millis(40_950));
        assert_eq!(PlayoutDelay::parse(&[0x10, 0x00, 0x01]), None, "min > max");
        assert_eq!(PlayoutDelay::parse(&[0, 0]), None);
        assert_eq!(PlayoutDelay::parse(&[0; 4]), None);
    }
}
