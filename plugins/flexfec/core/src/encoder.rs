// SPDX-License-Identifier: MPL-2.0
//! Makes FEC packets of a [`Block`].

use std::fmt;

use crate::block::{Block, Entry};
use crate::rtp::{Header, Malformed};
pub use crate::wire::Format;
use crate::wire::{Coverage, MAX_STREAMS, Protected, Recovery, mask};
use crate::xor::{LANE, Sum};

/// How FEC packets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderConfig {
    pub format: Format,
    /// Of the FEC packets.
    pub ssrc: u32,
    /// Seven bits.
    pub payload_type: u8,
    pub first_sequence: u16,
    /// FEC packets carry a transport-wide sequence number of 0 under this id
    /// (1 to 14), to be filled in by the RTP session.
    pub transport_cc_id: Option<u8>,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            format: Format::default(),
            ssrc: 0,
            payload_type: 127,
            first_sequence: 0,
            transport_cc_id: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderConfigError {
    PayloadType,
    TransportCcId,
}

impl fmt::Display for EncoderConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PayloadType => "the payload type has more than seven bits",
            Self::TransportCcId => "the extension's id is not one of a one-byte header",
        })
    }
}

impl std::error::Error for EncoderConfigError {}

/// Why FEC packets were not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A row names packets that the block has not.
    Row,
    /// The packets are further apart than the format's masks reach.
    Span,
    /// The block is not one SSRC's packets without gaps, in order, of the
    /// grid's size.
    Grid,
    /// draft-03 has no grids and retransmissions that browsers would take.
    Format,
    /// What is to be sent again is no RTP packet.
    Malformed(Malformed),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Row => "a row names packets that the block has not",
            Self::Span => "the packets are too far apart for a mask",
            Self::Grid => "the block is not the grid",
            Self::Format => "the format has no such packets",
            Self::Malformed(malformed) => return malformed.fmt(f),
        })
    }
}

impl std::error::Error for EncodeError {}

/// Which parity packets a grid gets (RFC 8627 section 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// One packet for each row: non-interleaved, against single losses.
    Rows,
    /// One packet for each column: interleaved, against bursts.
    Columns,
    /// Both.
    RowsAndColumns,
}

/// How one SSRC's packets are named in a FEC header.
#[derive(Clone, Copy, Debug)]
enum Named {
    Mask,
    /// L and D as they go on the wire.
    Grid(u8, u8),
}

/// Room for the longest headers: RTP with 15 CSRCs and an extension, FEC with
/// 15 of the longest masks. Whole lanes, so that payloads begin at one.
const HEAD: usize = 7 * LANE;

#[derive(Clone, Debug)]
pub struct Encoder {
    config: EncoderConfig,
    sequence: u16,
    /// What the packet being made protects.
    protected: Vec<Protected>,
    /// The headers of the packet being made.
    head: Vec<u8>,
    /// The packet: headers up to [`HEAD`], payload from there.
    packet: Vec<u8>,
}

impl Encoder {
    pub fn new(config: EncoderConfig) -> Result<Self, EncoderConfigError> {
        if config.payload_type > 127 {
            return Err(EncoderConfigError::PayloadType);
        }
        if config.transport_cc_id.is_some_and(|id| id == 0 || id > 14) {
            return Err(EncoderConfigError::TransportCcId);
        }
        Ok(Self {
            config,
            sequence: config.first_sequence,
            protected: Vec::with_capacity(MAX_STREAMS),
            head: Vec::with_capacity(HEAD),
            packet: Vec::new(),
        })
    }

    #[must_use]
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Of the next FEC packet.
    #[must_use]
    pub fn sequence(&self) -> u16 {
        self.sequence
    }

    /// Makes one FEC packet for each row that names any packet, and hands each
    /// to `emit`. Bit `j` of a row, from the least, is packet `j` of the
    /// block. How many were made; none after an error.
    pub fn encode(
        &mut self,
        block: &Block,
        rows: &[u128],
        timestamp: u32,
        mut emit: impl FnMut(&[u8]),
    ) -> Result<usize, EncodeError> {
        let known = 1u128.checked_shl(block.len() as u32).map_or(!0, |b| b - 1);
        if rows.iter().any(|row| row & !known != 0) {
            return Err(EncodeError::Row);
        }
        let span = self.config.format.span();
        if block.streams().iter().any(|s| s.span() > span) {
            let reaches = |p: &Protected| usize::from(p.coverage.last()) < span;
            for row in rows {
                protect(block, *row, &mut self.protected);
                if !self.protected.iter().all(reaches) {
                    return Err(EncodeError::Span);
                }
            }
        }
        let mut made = 0;
        for row in rows.iter().filter(|row| **row != 0) {
            emit(self.repair(block, *row, Named::Mask, timestamp));
            made += 1;
        }
        Ok(made)
    }

    /// Makes the parity packets of a grid that is filled row by row with all
    /// packets of the block (RFC 8627, F = 1). How many were made.
    pub fn encode_grid(
        &mut self,
        block: &Block,
        columns: u8,
        rows: u8,
        parity: Parity,
        timestamp: u32,
        mut emit: impl FnMut(&[u8]),
    ) -> Result<usize, EncodeError> {
        if self.config.format != Format::Rfc8627 {
            return Err(EncodeError::Format);
        }
        check_grid(block, columns, rows, parity)?;
        let (l, d) = (u32::from(columns), u32::from(rows));
        let mut made = 0;
        if parity != Parity::Columns {
            let row = (1u128 << l) - 1;
            let follows = u8::from(parity == Parity::RowsAndColumns);
            for i in 0..d {
                let named = Named::Grid(columns, follows);
                emit(self.repair(block, row << (i * l), named, timestamp));
                made += 1;
            }
        }
        if parity != Parity::Rows {
            let column = (0..d).fold(0u128, |bits, i| bits | 1 << (i * l));
            for j in 0..l {
                let named = Named::Grid(columns, rows);
                emit(self.repair(block, column << j, named, timestamp));
                made += 1;
            }
        }
        Ok(made)
    }

    /// Sends one packet again, whole (RFC 8627 section 4.2.2.3, R = 1).
    pub fn retransmit(
        &mut self,
        packet: &[u8],
        timestamp: u32,
        emit: impl FnOnce(&[u8]),
    ) -> Result<(), EncodeError> {
        if self.config.format != Format::Rfc8627 {
            return Err(EncodeError::Format);
        }
        let header = Header::parse(packet).map_err(EncodeError::Malformed)?;
        self.rtp_header(&[header.ssrc], timestamp);
        // R and F in place of the version are the version.
        self.head.extend_from_slice(packet);
        emit(&self.head);
        Ok(())
    }

    /// Begins a packet; `csrcs` are at most 15.
    fn rtp_header(&mut self, csrcs: &[u32], timestamp: u32) {
        let config = &self.config;
        let out = &mut self.head;
        let extension = u8::from(config.transport_cc_id.is_some()) << 4;
        out.clear();
        out.push(0x80 | extension | csrcs.len() as u8);
        out.push(config.payload_type);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&timestamp.to_be_bytes());
        out.extend_from_slice(&config.ssrc.to_be_bytes());
        for csrc in csrcs {
            out.extend_from_slice(&csrc.to_be_bytes());
        }
        if let Some(id) = config.transport_cc_id {
            out.extend_from_slice(&[0xbe, 0xde, 0, 1, id << 4 | 1, 0, 0, 0]);
        }
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Makes the packet that protects the packets of `row`.
    fn repair(&mut self, block: &Block, row: u128, named: Named, timestamp: u32) -> &[u8] {
        protect(block, row, &mut self.protected);
        let mut csrcs = [0; MAX_STREAMS];
        for (csrc, p) in csrcs.iter_mut().zip(&self.protected) {
            *csrc = p.ssrc;
        }
        let named_outside = match self.config.format {
            Format::FlexFec03 => 0,
            Format::Rfc8627 => self.protected.len(),
        };
        self.rtp_header(csrcs.get(..named_outside).unwrap_or_default(), timestamp);
        let (mut recovery, mut longest) = (Recovery::default(), 0);
        for entry in picked(block, row) {
            recovery = recovery.xor(entry.recovery);
            longest = longest.max(entry.length);
        }
        self.fec_header(recovery, named);

        let end = HEAD + longest.next_multiple_of(LANE);
        if self.packet.len() < end {
            self.packet.resize(end, 0);
        }
        let payload = self.packet.get_mut(HEAD..end).unwrap_or_default();
        let mut sum = Sum::into(payload.as_chunks_mut().0);
        picked(block, row).for_each(|entry| sum.add(block.lanes(entry)));
        sum.finish();
        let start = HEAD.saturating_sub(self.head.len());
        if let Some(place) = self.packet.get_mut(start..HEAD) {
            place.copy_from_slice(&self.head);
        }
        self.packet.get(start..HEAD + longest).unwrap_or_default()
    }

    fn fec_header(&mut self, recovery: Recovery, named: Named) {
        let format = self.config.format;
        let out = &mut self.head;
        let mut first = recovery.to_bytes();
        if matches!(named, Named::Grid(..)) {
            first[0] |= 0x40;
        }
        out.extend_from_slice(&first);
        if format == Format::FlexFec03 {
            out.extend_from_slice(&[self.protected.len() as u8, 0, 0, 0]);
        }
        for p in &self.protected {
            if format == Format::FlexFec03 {
                out.extend_from_slice(&p.ssrc.to_be_bytes());
            }
            out.extend_from_slice(&p.base.to_be_bytes());
            match (named, p.coverage) {
                (Named::Grid(l, d), _) => out.extend_from_slice(&[l, d]),
                (Named::Mask, Coverage::Mask(bits)) => mask::write(format, bits, out),
                // `protect` makes masks.
                (Named::Mask, Coverage::Steps { .. }) => (),
            }
        }
    }
}

/// The packets of a row.
fn picked(block: &Block, row: u128) -> impl Iterator<Item = &Entry> {
    Coverage::Mask(row)
        .offsets()
        .filter_map(|index| block.entries().get(usize::from(index)))
}

/// The row as masks over sequence numbers: one for each SSRC in it, from the
/// lowest number in the row on, as both texts say of SN base.
fn protect(block: &Block, row: u128, protected: &mut Vec<Protected>) {
    protected.clear();
    let mut masks = [0u128; MAX_STREAMS];
    if block.is_in_sequence() {
        masks[0] = row;
    } else {
        for entry in picked(block, row) {
            let lowest = block.streams().get(entry.stream).map_or(0, |s| s.lowest);
            let offset = entry.sequence.wrapping_sub(lowest);
            if let Some(mask) = masks.get_mut(entry.stream) {
                *mask |= 1u128.checked_shl(offset.into()).unwrap_or(0);
            }
        }
    }
    for (stream, mask) in block.streams().iter().zip(masks) {
        if mask != 0 {
            let skipped = mask.trailing_zeros();
            protected.push(Protected {
                ssrc: stream.ssrc,
                base: stream.lowest.wrapping_add(skipped as u16),
                coverage: Coverage::Mask(mask >> skipped),
            });
        }
    }
}

/// Whether the block is a grid that can be named by L and D.
fn check_grid(block: &Block, columns: u8, rows: u8, parity: Parity) -> Result<(), EncodeError> {
    let size = usize::from(columns) * usize::from(rows);
    // A column of one packet would be read as a row.
    let has_columns = parity == Parity::Rows || rows > 1;
    if size == 0 || size != block.len() || !block.is_in_sequence() || !has_columns {
        return Err(EncodeError::Grid);
    }
    Ok(())
}
