// SPDX-License-Identifier: MPL-2.0
//! Media packets that wait for their FEC packets.

use std::fmt;

use crate::rtp::{FIXED_HEADER, Header, MAX_PACKET, Malformed, MutableExtensions};
use crate::wire::{Format, MAX_STREAMS, Recovery};
use crate::xor::{LANE, Lane};

/// How much a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    pub packets: usize,
    pub bytes: usize,
}

impl Default for BlockLimits {
    fn default() -> Self {
        Self {
            packets: Format::FlexFec03.span(),
            bytes: 256 * 1024,
        }
    }
}

/// Why a packet is not in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    Malformed(Malformed),
    /// Larger than a whole block, or than FEC can say.
    TooLarge,
    /// It is in the block already.
    Duplicate,
    /// The block holds as many packets or bytes as it may.
    Full,
    /// Too far from the other packets of its SSRC for one mask.
    OutOfSpan,
    /// The block holds as many SSRCs as it may.
    TooManyStreams,
}

impl Rejected {
    /// An empty block would take the packet.
    #[must_use]
    pub fn fits_next(self) -> bool {
        match self {
            Self::Full | Self::OutOfSpan | Self::TooManyStreams => true,
            Self::Malformed(_) | Self::TooLarge | Self::Duplicate => false,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(malformed) => return malformed.fmt(f),
            Self::TooLarge => "larger than a block",
            Self::Duplicate => "already in the block",
            Self::Full => "the block is full",
            Self::OutOfSpan => "too far from the others for one mask",
            Self::TooManyStreams => "too many SSRCs for one block",
        })
    }
}

impl std::error::Error for Rejected {}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    start: usize,
    pub length: usize,
    pub recovery: Recovery,
    /// Index into the streams of the block.
    pub stream: usize,
    pub sequence: u16,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub ssrc: u32,
    /// Lowest and highest sequence number, less than a mask apart.
    pub lowest: u16,
    pub highest: u16,
}

impl Stream {
    /// Numbers from the lowest to the highest, both counted.
    pub fn span(&self) -> usize {
        usize::from(self.highest.wrapping_sub(self.lowest)) + 1
    }
}

/// Packets in the order they were sent, of one or several SSRCs. What follows
/// their fixed headers lies in one arena that is used again for each block.
#[derive(Clone, Debug)]
pub struct Block {
    limits: BlockLimits,
    span: u16,
    arena: Vec<u8>,
    /// How much of the arena is in use.
    used: usize,
    entries: Vec<Entry>,
    streams: Vec<Stream>,
    bytes: usize,
    /// Each packet follows the one before: one SSRC, no gaps, in order.
    in_sequence: bool,
}

impl Block {
    /// For [`Format::FlexFec03`], whose span fits both formats.
    #[must_use]
    pub fn new(limits: BlockLimits) -> Self {
        Self::for_format(Format::FlexFec03, limits)
    }

    /// `limits.packets` is lowered to what one mask of the format holds.
    #[must_use]
    pub fn for_format(format: Format, limits: BlockLimits) -> Self {
        let limits = BlockLimits {
            packets: limits.packets.min(format.span()),
            bytes: limits.bytes,
        };
        Self {
            limits,
            span: format.span() as u16,
            arena: Vec::new(),
            used: 0,
            entries: Vec::with_capacity(limits.packets),
            streams: Vec::with_capacity(MAX_STREAMS),
            bytes: 0,
            in_sequence: true,
        }
    }

    /// Copies a packet into the block, the content of `mutable` zeroed.
    pub fn push(&mut self, packet: &[u8], mutable: &MutableExtensions) -> Result<(), Rejected> {
        let header = Header::parse(packet).map_err(Rejected::Malformed)?;
        if packet.len() > self.limits.bytes.min(MAX_PACKET) || self.limits.packets == 0 {
            return Err(Rejected::TooLarge);
        }
        if self.entries.len() >= self.limits.packets
            || self.bytes + packet.len() > self.limits.bytes
        {
            return Err(Rejected::Full);
        }
        let stream = self.place(header.ssrc, header.sequence)?;
        let body = packet.get(FIXED_HEADER..).unwrap_or_default();
        let start = self.store(body);
        if !mutable.is_empty() {
            let copy = self.arena.get_mut(start..).unwrap_or_default();
            mutable.zero_copy(&header, packet, copy);
        }
        self.in_sequence &= self.entries.last().is_none_or(|last| {
            last.stream == stream && last.sequence.wrapping_add(1) == header.sequence
        });
        self.entries.push(Entry {
            start,
            length: body.len(),
            recovery: Recovery::of(packet),
            stream,
            sequence: header.sequence,
        });
        self.bytes += packet.len();
        Ok(())
    }

    /// Copies bytes in, and zeros up to a whole lane. Where they begin.
    fn store(&mut self, body: &[u8]) -> usize {
        let start = self.used;
        self.used += body.len().next_multiple_of(LANE);
        if self.arena.len() < self.used {
            self.arena.resize(self.used, 0);
        }
        let place = self.arena.get_mut(start..self.used).unwrap_or_default();
        if let Some(last) = place.last_chunk_mut::<LANE>() {
            *last = [0; LANE];
        }
        if let Some(place) = place.get_mut(..body.len()) {
            place.copy_from_slice(body);
        }
        start
    }

    /// Where a packet belongs, if it is new and within one mask.
    fn place(&mut self, ssrc: u32, sequence: u16) -> Result<usize, Rejected> {
        let Some(index) = self.streams.iter().position(|s| s.ssrc == ssrc) else {
            if self.streams.len() >= MAX_STREAMS {
                return Err(Rejected::TooManyStreams);
            }
            self.streams.push(Stream {
                ssrc,
                lowest: sequence,
                highest: sequence,
            });
            return Ok(self.streams.len() - 1);
        };
        // The index was just found.
        let stream = &mut self.streams[index];
        let behind_highest = stream.highest.wrapping_sub(sequence);
        if behind_highest < self.span {
            let known = |e: &Entry| e.stream == index && e.sequence == sequence;
            if self.entries.iter().any(known) {
                return Err(Rejected::Duplicate);
            }
            let length = stream.highest.wrapping_sub(stream.lowest);
            if behind_highest > length {
                stream.lowest = sequence;
            }
            return Ok(index);
        }
        if sequence.wrapping_sub(stream.lowest) < self.span {
            stream.highest = sequence;
            return Ok(index);
        }
        Err(Rejected::OutOfSpan)
    }

    /// How many packets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the packets, their headers included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins anew; memory is kept.
    pub fn clear(&mut self) {
        self.used = 0;
        self.entries.clear();
        self.streams.clear();
        self.bytes = 0;
        self.in_sequence = true;
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn is_in_sequence(&self) -> bool {
        self.in_sequence
    }

    pub(crate) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// What follows the fixed header of a packet, and zeros up to a whole
    /// lane.
    pub(crate) fn lanes(&self, entry: &Entry) -> &[Lane] {
        let end = entry.start + entry.length.next_multiple_of(LANE);
        let bytes = self.arena.get(entry.start..end).unwrap_or_default();
        bytes.as_chunks().0
    }
}
