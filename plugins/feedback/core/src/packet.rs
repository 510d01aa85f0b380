// SPDX-License-Identifier: MPL-2.0
//! The whole RTCP packet: payload-specific feedback (206), application layer
//! (FMT 15), RFC 4585 section 6.4.

use crate::fci::{Fci, FciError};
use rtcp_types::prelude::*;
use rtcp_types::{
    FciFeedbackPacketType, PayloadFeedback, RtcpPacket, RtcpParseError, RtcpWriteError,
};
use std::fmt;

/// Application layer feedback.
const FORMAT: u8 = 15;

/// Why bytes are not a [`FrameComplete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// Another RTCP packet or another application's: nothing is wrong.
    NotOurs,
    /// Not a whole RTCP packet of version 2.
    Rtcp,
    /// The padding does not fit into the packet.
    Padding,
    /// Ours, with a broken list of entries.
    Fci(FciError),
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => f.write_str("the packet is not a frame complete message"),
            Self::Rtcp => f.write_str("not a whole RTCP packet"),
            Self::Padding => f.write_str("the padding does not fit into the packet"),
            Self::Fci(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PacketError {}

/// The message with its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameComplete {
    /// Who says it.
    pub sender_ssrc: u32,
    /// The stream that the frames belong to.
    pub media_ssrc: u32,
    pub fci: Fci,
}

impl FrameComplete {
    /// One RTCP packet, to be sent on its own (reduced size, RFC 5506).
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        let size = PayloadFeedback::MIN_PACKET_LEN + self.fci.len();
        let mut packet = vec![0; size];
        let written = PayloadFeedback::builder(&self.fci)
            .sender_ssrc(self.sender_ssrc)
            .media_ssrc(self.media_ssrc)
            .write_into_unchecked(&mut packet);
        debug_assert_eq!(written, size);
        packet
    }

    /// `data` is one RTCP packet, not a compound.
    pub fn parse(data: &[u8]) -> Result<Self, PacketError> {
        let packet = PayloadFeedback::parse(data).map_err(|error| match error {
            RtcpParseError::PacketTypeMismatch { .. } => PacketError::NotOurs,
            RtcpParseError::InvalidPadding => PacketError::Padding,
            _ => PacketError::Rtcp,
        })?;
        let Ok(Raw(fci)) = packet.parse_fci::<Raw>() else {
            return Err(PacketError::NotOurs);
        };
        // The crate leaves the padding on the FCI.
        let padding = usize::from(packet.padding().unwrap_or(0));
        let end = fci.len().checked_sub(padding).ok_or(PacketError::Padding)?;
        let fci = Fci::parse(&fci[..end]).map_err(|error| match error {
            FciError::NotOurs => PacketError::NotOurs,
            FciError::Length => PacketError::Fci(error),
        })?;
        Ok(Self {
            sender_ssrc: packet.sender_ssrc(),
            media_ssrc: packet.media_ssrc(),
            fci,
        })
    }
}

/// The FCI as it is: our errors say more than those of the crate.
struct Raw<'a>(&'a [u8]);

impl<'a> FciParser<'a> for Raw<'a> {
    const PACKET_TYPE: FciFeedbackPacketType = FciFeedbackPacketType::PAYLOAD;
    const FCI_FORMAT: u8 = FORMAT;

    fn parse(data: &'a [u8]) -> Result<Self, RtcpParseError> {
        Ok(Self(data))
    }
}

impl FciBuilder<'_> for Fci {
    fn format(&self) -> u8 {
        FORMAT
    }

    fn supports_feedback_type(&self) -> FciFeedbackPacketType {
        FciFeedbackPacketType::PAYLOAD
    }
}

impl RtcpPacketWriter for Fci {
    fn calculate_size(&self) -> Result<usize, RtcpWriteError> {
        Ok(self.len())
    }

    fn write_into_unchecked(&self, buf: &mut [u8]) -> usize {
        for (to, byte) in buf.iter_mut().zip(self.bytes()) {
            *to = byte;
        }
        self.len()
    }

    fn get_padding(&self) -> Option<u8> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fci::{Entry, MAX_ENTRIES};
    use proptest::prelude::*;

    const ENTRY: Entry = Entry {
        generation: 3,
        key: true,
        decodable: true,
        number: 0x0102,
    };

    /// By hand from RFC 4585 section 6.1: V=2, P=0, FMT=15, PT=206, length in
    /// words less one, sender, media, FCI.
    const PACKET: &[u8] = b"\x8f\xce\x00\x04\x11\x22\x33\x44\xaa\xbb\xcc\xddIFRC\x03\xc0\x01\x02";

    #[test]
    fn the_packet_is_laid_out_as_the_rfc_says() {
        let message = FrameComplete {
            sender_ssrc: 0x1122_3344,
            media_ssrc: 0xaabb_ccdd,
            fci: Fci::new([ENTRY]),
        };
        assert_eq!(message.to_packet(), PACKET);
        assert_eq!(FrameComplete::parse(PACKET), Ok(message));
    }

    #[test]
    fn padding_is_not_taken_for_entries() {
        let mut padded = PACKET.to_vec();
        padded[0] |= 0x20;
        padded[3] += 1;
        padded.extend([0, 0, 0, 4]);
        let message = FrameComplete::parse(&padded).unwrap();
        assert_eq!(message.fci.entries(), [ENTRY]);
        *padded.last_mut().unwrap() = 200;
        assert_eq!(FrameComplete::parse(&padded), Err(PacketError::Padding));
        *padded.last_mut().unwrap() = 0;
        assert_eq!(FrameComplete::parse(&padded), Err(PacketError::Padding));
        *padded.last_mut().unwrap() = 3;
        assert_eq!(
            FrameComplete::parse(&padded),
            Err(PacketError::Fci(FciError::Length))
        );
    }

    #[test]
    fn other_packets_are_not_ours() {
        let mut pli = PACKET.to_vec();
        pli[0] = 0x81;
        assert_eq!(FrameComplete::parse(&pli), Err(PacketError::NotOurs));
        let mut nack = PACKET.to_vec();
        nack[1] = 205;
        assert_eq!(FrameComplete::parse(&nack), Err(PacketError::NotOurs));
        let mut remb = PACKET.to_vec();
        remb[12..16].copy_from_slice(b"REMB");
        assert_eq!(FrameComplete::parse(&remb), Err(PacketError::NotOurs));
    }

    #[test]
    fn every_cut_and_every_wrong_length_is_refused() {
        for length in 0..PACKET.len() {
            assert_eq!(
                FrameComplete::parse(&PACKET[..length]),
                Err(PacketError::Rtcp),
                "cut to {length}"
            );
        }
        for words in (0..=255u8).filter(|words| *words != 4) {
            let mut packet = PACKET.to_vec();
            packet[3] = words;
            assert_eq!(
                FrameComplete::parse(&packet),
                Err(PacketError::Rtcp),
                "{words} words"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            sender_ssrc: u32, media_ssrc: u32,
            entries in proptest::collection::vec(any::<(u8, bool, bool, u16)>(), 0..=MAX_ENTRIES),
        ) {
            let message = FrameComplete {
                sender_ssrc,
                media_ssrc,
                fci: Fci::new(entries.into_iter().map(|(generation, key, decodable, number)| {
                    Entry { generation, key, decodable, number }
                })),
            };
            prop_assert_eq!(FrameComplete::parse(&message.to_packet()), Ok(message));
        }

        #[test]
        fn one_wrong_byte_never_panics(at in 0usize..20, value: u8) {
            let mut packet = PACKET.to_vec();
            packet[at] = value;
            crate::fuzz::fuzz_packet(&packet);
        }
    }
}
