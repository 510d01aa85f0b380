// SPDX-License-Identifier: MPL-2.0
//! FEC packets as they are on the wire.
//!
//! Both formats begin with eight bytes that are the XOR of the same fields of
//! the protected packets, R and F in place of the version:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! |R|F|P|X|  CC   |M| PT recovery |        length recovery        |
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! |                          TS recovery                          |
//! +---------------------------------------------------------------+
//! ```
//!
//! draft-ietf-payload-flexible-fec-scheme-03 section 4.2 goes on with the
//! protected SSRCs, RFC 8627 section 4.2.2 takes these from the CSRC list of
//! the RTP header:
//!
//! ```text
//! draft-03                                RFC 8627
//! +-----------+-------------------+
//! | SSRCCount |     reserved      |       for each CSRC of the packet:
//! +-----------+-------------------+
//! | for each:      SSRC           |
//! +---------------+---------------+      +---------------+---------------+
//! |    SN base    | mask or L, D  |      |    SN base    | mask or L, D  |
//! +---------------+---------------+      +---------------+---------------+
//! ```
//!
//! With F = 0 a mask follows ([`mask`]), with F = 1 the columns L and rows D
//! of a grid of packets. R = 1, F = 0 is one packet sent again, whole: R and F
//! are then its version.

pub mod mask;

use std::fmt;

use crate::rtp::{self, Header};

/// Protected SSRCs in one FEC packet, at most: what the CSRC list of RFC 8627
/// can name. draft-03 counts to 255; such packets are refused.
pub const MAX_STREAMS: usize = 15;

/// Which of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// draft-ietf-payload-flexible-fec-scheme-03, SDP name `flexfec-03`: what
    /// browsers speak.
    #[default]
    FlexFec03,
    /// RFC 8627, SDP name `flexfec`.
    Rfc8627,
}

impl Format {
    /// Sequence numbers from the first to the last protected packet of one
    /// SSRC, both counted, that a mask can hold.
    #[must_use]
    pub const fn span(self) -> usize {
        match self {
            Self::FlexFec03 => 109,
            Self::Rfc8627 => 110,
        }
    }
}

/// Which packets after the base are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Bit `i`, from the least, is the packet at base + `i`.
    Mask(u128),
    /// `count` packets, the first at the base, each `step` after the one
    /// before.
    Steps { step: u8, count: u8 },
}

impl Coverage {
    /// Distances from the base, in order.
    #[inline]
    pub fn offsets(self) -> impl Iterator<Item = u16> {
        let (mut mask, step, mut left) = match self {
            Self::Mask(mask) => (mask, 0, 0),
            Self::Steps { step, count } => (0, u16::from(step), u16::from(count)),
        };
        let mut next = 0u16;
        std::iter::from_fn(move || {
            if mask != 0 {
                let offset = mask.trailing_zeros() as u16;
                mask &= mask - 1;
                return Some(offset);
            }
            left = left.checked_sub(1)?;
            let offset = next;
            next = next.wrapping_add(step);
            Some(offset)
        })
    }

    /// The greatest of these distances.
    #[must_use]
    pub fn last(self) -> u16 {
        match self {
            Self::Mask(mask) => 127u16.saturating_sub(mask.leading_zeros() as u16),
            Self::Steps { step, count } => u16::from(step) * u16::from(count.saturating_sub(1)),
        }
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::Mask(0) | Self::Steps { count: 0, .. })
    }
}

/// What of one SSRC is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected {
    pub ssrc: u32,
    pub base: u16,
    pub coverage: Coverage,
}

/// The first eight bytes of a packet's contribution to FEC, as one number:
/// flags and payload type, length after the fixed header, timestamp. XOR of
/// several is XOR of their fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery(u64);

impl Recovery {
    /// The version's place.
    const RF: u64 = 0b11 << 62;

    /// Of a media packet, 0 if it is no packet at all.
    #[must_use]
    pub fn of(packet: &[u8]) -> Self {
        let Some(&[flags, kind, _, _, t0, t1, t2, t3]) = packet.first_chunk() else {
            return Self(0);
        };
        let [l0, l1] = (packet.len().saturating_sub(rtp::FIXED_HEADER) as u16).to_be_bytes();
        Self::from_bytes([flags, kind, l0, l1, t0, t1, t2, t3])
    }

    /// From the wire; R and F are cleared.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes) & !Self::RF)
    }

    /// With R and F cleared.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    #[must_use]
    pub fn xor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    /// Bytes after the fixed header.
    #[must_use]
    pub fn length(self) -> usize {
        usize::from((self.0 >> 32) as u16)
    }

    /// The fixed header of the packet of which this is left.
    #[must_use]
    pub fn header(self, sequence: u16, ssrc: u32) -> [u8; rtp::FIXED_HEADER] {
        let [flags, kind, _, _, t0, t1, t2, t3] = self.0.to_be_bytes();
        let [s0, s1] = sequence.to_be_bytes();
        let [c0, c1, c2, c3] = ssrc.to_be_bytes();
        [0x80 | flags, kind, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]
    }
}

/// XOR of several packets.
#[derive(Clone, Copy, Debug)]
pub struct Repair<'a> {
    pub recovery: Recovery,
    /// XOR of what follows the fixed headers.
    pub payload: &'a [u8],
    format: Format,
    fixed: bool,
    /// The CSRC list of the RTP header.
    csrcs: &'a [u8],
    /// What says which packets of each SSRC are protected.
    streams: &'a [u8],
    count: usize,
}

impl<'a> Repair<'a> {
    /// One for each SSRC of which a packet is protected, at most
    /// [`MAX_STREAMS`], no SSRC twice.
    pub fn protected(&self) -> impl Iterator<Item = Protected> + use<'a> {
        let Self { format, fixed, .. } = *self;
        let (mut csrcs, mut streams) = (self.csrcs, self.streams);
        let read = move |_| read_stream(format, fixed, &mut csrcs, &mut streams).ok();
        // That all can be read was found when the packet was parsed.
        (0..self.count)
            .map_while(read)
            .filter(|p| !p.coverage.is_empty())
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    Repair(Repair<'a>),
    /// A whole RTP packet, not checked.
    Retransmission(&'a [u8]),
}

/// Why bytes are not a FEC packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FecError {
    Rtp(rtp::Malformed),
    /// Ends within the FEC header.
    Truncated,
    /// Both R and F are set.
    Reserved,
    /// Nothing is protected.
    Empty,
    /// More than [`MAX_STREAMS`].
    TooManyStreams,
    /// The same SSRC twice.
    RepeatedStream,
    /// No k-bit ends the mask (draft-03).
    EndlessMask,
    /// A grid of no columns.
    Grid,
}

impl fmt::Display for FecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rtp(malformed) => return malformed.fmt(f),
            Self::Truncated => "ends within the FEC header",
            Self::Reserved => "R and F are both set",
            Self::Empty => "protects nothing",
            Self::TooManyStreams => "protects too many SSRCs",
            Self::RepeatedStream => "names an SSRC twice",
            Self::EndlessMask => "no k-bit ends the mask",
            Self::Grid => "a grid without columns",
        })
    }
}

impl std::error::Error for FecError {}

impl From<rtp::Malformed> for FecError {
    fn from(malformed: rtp::Malformed) -> Self {
        Self::Rtp(malformed)
    }
}

/// Takes `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], FecError> {
    let (first, rest) = bytes.split_first_chunk().ok_or(FecError::Truncated)?;
    *bytes = rest;
    Ok(*first)
}

/// Reads a FEC packet, the RTP header included.
pub fn parse(format: Format, packet: &[u8]) -> Result<(Header, Content<'_>), FecError> {
    let header = Header::parse(packet)?;
    let payload = header.payload_of(packet);
    let (retransmission, fixed) = match payload.first().ok_or(FecError::Truncated)? >> 6 {
        0b00 => (false, false),
        0b01 => (false, true),
        0b10 => (true, false),
        _ => return Err(FecError::Reserved),
    };
    if retransmission {
        return Ok((header, Content::Retransmission(payload)));
    }
    let mut rest = payload;
    let recovery = Recovery::from_bytes(take(&mut rest)?);
    let (csrcs, count) = match format {
        Format::FlexFec03 => {
            let [count, _, _, _] = take(&mut rest)?;
            (&[][..], usize::from(count))
        }
        Format::Rfc8627 => (header.csrc_bytes(packet), usize::from(header.csrcs)),
    };
    let streams = rest;
    check_streams(format, fixed, csrcs, &mut rest, count)?;
    let repair = Repair {
        recovery,
        payload: rest,
        format,
        fixed,
        csrcs,
        streams,
        count,
    };
    Ok((header, Content::Repair(repair)))
}

/// Takes what is said of `count` SSRCs off the front.
fn check_streams(
    format: Format,
    fixed: bool,
    mut csrcs: &[u8],
    rest: &mut &[u8],
    count: usize,
) -> Result<(), FecError> {
    let mut ssrcs = [0; MAX_STREAMS];
    let ssrcs = ssrcs.get_mut(..count).ok_or(FecError::TooManyStreams)?;
    let mut empty = true;
    for index in 0..count {
        let p = read_stream(format, fixed, &mut csrcs, rest)?;
        empty &= p.coverage.is_empty();
        if ssrcs.iter().take(index).any(|ssrc| *ssrc == p.ssrc) {
            return Err(FecError::RepeatedStream);
        }
        if let Some(place) = ssrcs.get_mut(index) {
            *place = p.ssrc;
        }
    }
    if empty {
        return Err(FecError::Empty);
    }
    Ok(())
}

/// SSRC (of draft-03; RFC 8627 has it in the CSRC list), SN base, then mask or
/// L and D.
#[inline]
fn read_stream(
    format: Format,
    fixed: bool,
    csrcs: &mut &[u8],
    rest: &mut &[u8],
) -> Result<Protected, FecError> {
    let ssrc = match format {
        Format::FlexFec03 => take(rest)?,
        Format::Rfc8627 => take(csrcs)?,
    };
    let base = take(rest)?;
    let coverage = if fixed {
        let [columns, rows] = take(rest)?;
        grid(columns, rows)?
    } else {
        Coverage::Mask(mask::read(format, rest)?)
    };
    Ok(Protected {
        ssrc: u32::from_be_bytes(ssrc),
        base: u16::from_be_bytes(base),
        coverage,
    })
}

/// RFC 8627 section 4.2.2.2 (draft-03 calls L and D M and N): with D = 0 or 1
/// a row of L packets, no column packets or some to follow; with more a column
/// of D packets that are L apart.
fn grid(columns: u8, rows: u8) -> Result<Coverage, FecError> {
    match (columns, rows) {
        (0, _) => Err(FecError::Grid),
        (count, 0 | 1) => Ok(Coverage::Steps { step: 1, count }),
        (step, count) => Ok(Coverage::Steps { step, count }),
    }
}
