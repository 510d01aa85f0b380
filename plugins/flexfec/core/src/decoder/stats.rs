// SPDX-License-Identifier: MPL-2.0
//! What the decoder counts.

use std::ops::AddAssign;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub packets: u64,
    pub bytes: u64,
}

/// A packet of so many bytes.
impl AddAssign<usize> for Amount {
    fn add_assign(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Packets with their RTP headers. Every packet given to `media` is in one of
/// the first six, every one given to `fec` is in `fec` and in one of the
/// following six.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Taken in for the first time.
    pub media: Amount,
    pub duplicates: Amount,
    /// Came after FEC had made them.
    pub already_recovered: Amount,
    /// Too far behind, or too far ahead, to belong to the stream.
    pub late: Amount,
    /// No RTP packets.
    pub malformed: Amount,
    /// Not protected, too large, or of one SSRC too many.
    pub ignored: Amount,

    pub fec: Amount,
    /// Made a packet, or were one sent again that had not come.
    pub fec_used: Amount,
    /// Nothing that they protect was missing, or came in time.
    pub useless: Amount,
    /// Given up: more than one packet was missing for too long, or what was
    /// there had been thrown away.
    pub unrecoverable: Amount,
    /// No FEC packets, or what they make is no RTP packet.
    pub fec_malformed: Amount,
    /// Duplicates, and those for packets that the decoder does not know.
    pub fec_ignored: Amount,
    /// Waiting; a gauge.
    pub fec_pending: Amount,

    /// Made by FEC or taken from a retransmission.
    pub recovered: Amount,
    /// Packets of protected SSRCs that never came and were not recovered.
    pub lost: u64,
    /// Those that may yet come; a gauge.
    pub missing: u64,
    /// What is stored; a gauge.
    pub held: Amount,
}
