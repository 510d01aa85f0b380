// SPDX-License-Identifier: MPL-2.0
//! What the decoder is told, and what it answers.

use std::fmt;
use std::time::Duration;

use crate::rtp::{Malformed, MutableExtensions};
use crate::wire::{FecError, Format};

/// SSRCs whose packets are kept, at most.
pub const MAX_SSRCS: usize = 16;

/// What is kept; the oldest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Media and FEC packets, 1 to 16384.
    pub packets: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Since they came.
    pub age: Duration,
}

impl Default for Limits {
    /// A second of video at 5 Mbit/s, in packets of 1200 bytes.
    fn default() -> Self {
        Self {
            packets: 512,
            bytes: 1024 * 1024,
            age: Duration::from_secs(2),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecoderConfig {
    pub format: Format,
    /// Of the FEC packets; none: any.
    pub fec_ssrc: Option<u32>,
    /// SSRCs that may be recovered; none: any that FEC packets name.
    pub protected: Vec<u32>,
    pub mutable: MutableExtensions,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderConfigError {
    Packets,
    Bytes,
    TooManySsrcs,
}

impl fmt::Display for DecoderConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets => "the number of packets is not from 1 to 16384",
            Self::Bytes => "the number of bytes is not from 1500 to 1 GiB",
            Self::TooManySsrcs => "too many protected SSRCs",
        })
    }
}

impl std::error::Error for DecoderConfigError {}

impl DecoderConfig {
    pub fn validate(&self) -> Result<(), DecoderConfigError> {
        if !(1..=1 << 14).contains(&self.limits.packets) {
            return Err(DecoderConfigError::Packets);
        }
        if !(1500..=1 << 30).contains(&self.limits.bytes) {
            return Err(DecoderConfigError::Bytes);
        }
        if self.protected.len() > MAX_SSRCS {
            return Err(DecoderConfigError::TooManySsrcs);
        }
        Ok(())
    }
}

/// What became of a media packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// Not seen before.
    New,
    Duplicate,
    /// It was recovered before it came.
    AlreadyRecovered,
    /// Not taken in.
    Rejected(MediaRejected),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaRejected {
    Malformed(Malformed),
    /// Of an SSRC that is not protected.
    NotProtected,
    /// Too far behind, or too far ahead, of the others of its SSRC.
    Late,
    TooLarge,
}

impl fmt::Display for MediaRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(malformed) => return malformed.fmt(f),
            Self::NotProtected => "not of a protected SSRC",
            Self::Late => "too far from the others of its SSRC",
            Self::TooLarge => "larger than all that may be held",
        })
    }
}

impl std::error::Error for MediaRejected {}

/// Why a FEC packet was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FecRejected {
    Malformed(FecError),
    /// Not of the FEC stream.
    WrongSsrc,
    Duplicate,
    /// Protects an SSRC that is not to be recovered.
    NotProtected,
    /// Protects packets too far behind or ahead of those that came.
    OutOfWindow,
    TooLarge,
    /// Too many retransmitted packets wait to be taken.
    Full,
}

impl fmt::Display for FecRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(error) => return error.fmt(f),
            Self::WrongSsrc => "not of the FEC stream",
            Self::Duplicate => "already taken in",
            Self::NotProtected => "for an SSRC that is not protected",
            Self::OutOfWindow => "for packets too far from those that came",
            Self::TooLarge => "larger than all that may be held",
            Self::Full => "too many retransmitted packets wait",
        })
    }
}

impl std::error::Error for FecRejected {}

/// A packet that did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered<'a> {
    pub ssrc: u32,
    pub sequence: u16,
    /// Of its RTP header.
    pub timestamp: u32,
    /// All of it, mutable extensions zeroed.
    pub packet: &'a [u8],
}
