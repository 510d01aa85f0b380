// SPDX-License-Identifier: MPL-2.0
//! The RTCP message REMB, by which a receiver says how much it thinks that
//! it can get (draft-alvestrand-rmcat-remb-03).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |V=2|P| FMT=15  |   PT=206      |             length            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                  SSRC of packet sender                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                  SSRC of media source, 0                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Unique identifier 'R' 'E' 'M' 'B'                            |  FCI
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Num SSRC     | BR Exp    |  BR Mantissa                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   SSRC feedback                                               |
//! |  ...                                                          |
//! ```

use std::fmt;

use dualstream_common::Bitrate;

const NAME: &[u8; 4] = b"REMB";
const MANTISSA_BITS: u32 = 18;
const MANTISSA: u64 = (1 << MANTISSA_BITS) - 1;
const MOST_SSRCS: usize = 255;

/// The feedback control information of a REMB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remb {
    /// For all the sources together.
    pub bitrate: Bitrate,
    /// At most 255, by the format.
    pub ssrcs: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RembError {
    /// Another application's feedback.
    NotRemb,
    /// Shorter than it says.
    Truncated,
    /// A rate above 2^64 bit/s.
    Overflow,
}

impl fmt::Display for RembError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRemb => "it is no REMB",
            Self::Truncated => "it is shorter than it says",
            Self::Overflow => "the rate is out of range",
        })
    }
}

impl std::error::Error for RembError {}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|word| u32::from_be_bytes(*word))
}

impl Remb {
    /// What follows the two SSRCs of a feedback message 206/15. Bytes after
    /// the last source are passed over.
    pub fn parse(fci: &[u8]) -> Result<Self, RembError> {
        let rest = fci.strip_prefix(NAME).ok_or(RembError::NotRemb)?;
        let head = word(rest).ok_or(RembError::Truncated)?;
        let (exponent, mantissa) = (head >> MANTISSA_BITS & 0x3f, u64::from(head) & MANTISSA);
        let count = (head >> 24) as usize;
        let sources = rest
            .get(4..4 + 4 * count)
            .ok_or(RembError::Truncated)?
            .chunks_exact(4);
        if mantissa.leading_zeros() < exponent {
            return Err(RembError::Overflow);
        }
        Ok(Self {
            // A shift of 64 or more is only left with 0.
            bitrate: Bitrate::from_bps(mantissa.checked_shl(exponent).unwrap_or(0)),
            ssrcs: sources.filter_map(word).collect(),
        })
    }

    /// The rate is rounded down to the 18 bits that the format has; sources
    /// beyond 255 are left out.
    #[must_use]
    pub fn to_fci(&self) -> Vec<u8> {
        let bps = self.bitrate.as_bps();
        let exponent = (u64::BITS - bps.leading_zeros()).saturating_sub(MANTISSA_BITS);
        let ssrcs = &self.ssrcs[..self.ssrcs.len().min(MOST_SSRCS)];
        let head =
            (ssrcs.len() as u32) << 24 | exponent << MANTISSA_BITS | (bps >> exponent) as u32;
        let mut fci = NAME.to_vec();
        fci.extend(head.to_be_bytes());
        for ssrc in ssrcs {
            fci.extend(ssrc.to_be_bytes());
        }
        fci
    }

    /// The whole RTCP packet, as reduced-size RTCP (RFC 5506) has it.
    #[must_use]
    pub fn to_packet(&self, sender_ssrc: u32) -> Vec<u8> {
        let fci = self.to_fci();
        let mut packet = vec![0x8f, 206];
        // In words, less one; 259 at most.
        packet.extend((2 + fci.len() as u16 / 4).to_be_bytes());
        packet.extend(sender_ssrc.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(fci);
        packet
    }
}

/// Any bytes parse or are refused; what parses is read back the same from what
/// is written of it.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz_remb(data: &[u8]) {
    match Remb::parse(data) {
        Ok(remb) => {
            assert!(remb.ssrcs.len() <= MOST_SSRCS);
            let fci = remb.to_fci();
            assert!(fci.len() <= data.len());
            assert_eq!(Remb::parse(&fci), Ok(remb.clone()));
            let packet = remb.to_packet(1);
            assert_eq!(packet.len() % 4, 0);
            assert_eq!(Remb::parse(&packet[12..]), Ok(remb));
        }
        Err(RembError::NotRemb) => assert!(!data.starts_with(NAME)),
        Err(RembError::Truncated | RembError::Overflow) => assert!(data.starts_with(NAME)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// libwebrtc's own packet (remb_unittest.cc): 522 022 bit/s, three sources.
    const PACKET: [u8; 32] = [
        0x8f, 206, 0x00, 0x07, 0x12, 0x34, 0x56, 0x78, 0x00, 0x00, 0x00, 0x00, b'R', b'E', b'M',
        b'B', 0x03, 0x07, 0xfb, 0x93, 0x23, 0x45, 0x67, 0x89, 0x23, 0x45, 0x67, 0x8a, 0x23, 0x45,
        0x67, 0x8b,
    ];

    #[test]
    fn the_packet_of_libwebrtc_is_read_and_written() {
        let remb = Remb {
            bitrate: Bitrate::from_bps(0x3fb93 * 2),
            ssrcs: vec![0x23456789, 0x2345678a, 0x2345678b],
        };
        assert_eq!(Remb::parse(&PACKET[12..]).as_ref(), Ok(&remb));
        assert_eq!(remb.bitrate.as_bps(), 522_022);
        assert_eq!(remb.to_packet(0x12345678), PACKET);
    }

    #[test]
    fn each_cut_is_refused() {
        for length in 12..PACKET.len() {
            let refused = Remb::parse(&PACKET[12..length]).unwrap_err();
            let expected = if length < 16 {
                RembError::NotRemb
            } else {
                RembError::Truncated
            };
            assert_eq!(refused, expected, "{length} bytes");
        }
        assert_eq!(Remb::parse(b"IFRC\0\0\0\0"), Err(RembError::NotRemb));
        let mut longer = PACKET.to_vec();
        longer.extend([0; 4]);
        assert!(Remb::parse(&longer[12..]).is_ok());
    }

    #[test]
    fn rates_out_of_range_are_refused_and_zero_is_a_rate() {
        // Exponent 63 with mantissa 1 is 2^63; with 2 it is too much.
        assert_eq!(
            Remb::parse(b"REMB\0\xfc\0\x01").unwrap().bitrate,
            Bitrate::from_bps(1 << 63)
        );
        assert_eq!(Remb::parse(b"REMB\0\xfc\0\x02"), Err(RembError::Overflow));
        assert_eq!(
            Remb::parse(b"REMB\0\xfc\0\0").unwrap().bitrate,
            Bitrate::ZERO
        );
    }

    #[test]
    fn rates_are_rounded_down_by_less_than_a_part_in_a_hundred_thousand() {
        for bps in [0, 1, 262_143, 262_144, 1_000_001, 123_456_789_012, u64::MAX] {
            let remb = Remb {
                bitrate: Bitrate::from_bps(bps),
                ssrcs: vec![1; 300],
            };
            let read = Remb::parse(&remb.to_fci()).unwrap();
            assert_eq!(read.ssrcs.len(), 255);
            let lost = bps - read.bitrate.as_bps();
            assert!(lost <= bps / 100_000, "{bps}: {lost}");
        }
    }

    #[test]
    fn the_packet_survives_with_each_byte_changed_and_each_cut() {
        for length in 0..=PACKET.len() {
            fuzz_remb(PACKET[..length].get(12..).unwrap_or_default());
        }
        for at in 12..PACKET.len() {
            for value in 0..=255 {
                let mut changed = PACKET;
                changed[at] = value;
                fuzz_remb(&changed[12..]);
            }
        }
    }

    proptest! {
        #[test]
        fn any_tail_survives(tail in proptest::collection::vec(any::<u8>(), 0..1200)) {
            fuzz_remb(&tail);
            fuzz_remb(&[&NAME[..], &tail].concat());
        }
    }
}
