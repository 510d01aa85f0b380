// SPDX-License-Identifier: MPL-2.0
//! The four bytes of the RTP header extension `urn:x-gst-dualstream:frame:1`
//! (docs/wire-formats.md).

use std::fmt;

/// The URI under which the extension is negotiated.
pub const URI: &str = "urn:x-gst-dualstream:frame:1";

/// Length of the extension in bytes.
pub const LENGTH: usize = 4;

const VERSION: u8 = 1;

/// One of the two coded streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    Zero,
    One,
}

impl Stream {
    pub const BOTH: [Self; 2] = [Self::Zero, Self::One];

    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Zero => Self::One,
            Self::One => Self::Zero,
        }
    }

    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::One => 1,
        }
    }

    /// `None` above 1.
    #[must_use]
    pub const fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::Zero),
            1 => Some(Self::One),
            _ => None,
        }
    }
}

/// What every packet of a frame says of it.
///
/// ```text
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +---+-+-+-+-+---+-------------------------------+---------------+
/// |ver|S|B|K|A|rsv|         frame number          |  generation   |
/// +---+-+-+-+-+---+-------------------------------+---------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameTag {
    pub stream: Stream,
    /// Decode it, do not show it.
    pub background: bool,
    /// Decoding can start here.
    pub key: bool,
    /// Predicted only from pictures that the receiver acknowledged.
    pub acknowledged: bool,
    /// The captured picture, the same in both codings.
    pub number: u16,
    /// Counts switches of the display stream.
    pub generation: u8,
}

/// Why four bytes are not a [`FrameTag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagError {
    Length,
    Version,
}

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "the extension is not four bytes long",
            Self::Version => "unknown version of the extension",
        })
    }
}

impl std::error::Error for TagError {}

impl FrameTag {
    #[must_use]
    pub const fn to_bytes(self) -> [u8; LENGTH] {
        let [high, low] = self.number.to_be_bytes();
        [
            VERSION << 6
                | (self.stream.index() as u8) << 5
                | (self.background as u8) << 4
                | (self.key as u8) << 3
                | (self.acknowledged as u8) << 2,
            high,
            low,
            self.generation,
        ]
    }

    /// Reserved bits are ignored.
    pub const fn parse(data: &[u8]) -> Result<Self, TagError> {
        let &[flags, high, low, generation] = data else {
            return Err(TagError::Length);
        };
        if flags >> 6 != VERSION {
            return Err(TagError::Version);
        }
        Ok(Self {
            stream: if flags & 0x20 == 0 {
                Stream::Zero
            } else {
                Stream::One
            },
            background: flags & 0x10 != 0,
            key: flags & 0x08 != 0,
            acknowledged: flags & 0x04 != 0,
            number: u16::from_be_bytes([high, low]),
            generation,
        })
    }
}

/// Fuzz body: any bytes parse or are refused, and what parses is written back
/// the same but for reserved bits.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz_tag(data: &[u8]) {
    if let Ok(tag) = FrameTag::parse(data) {
        let mut expected = [0; LENGTH];
        expected.copy_from_slice(data);
        expected[0] &= 0xfc;
        assert_eq!(tag.to_bytes(), expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand from docs/wire-formats.md.
    #[test]
    fn bits_are_where_the_page_says() {
        let tag = FrameTag {
            stream: Stream::One,
            background: true,
            key: true,
            acknowledged: false,
            number: 0x1234,
            generation: 7,
        };
        // 01 1 1 1 0 00
        assert_eq!(tag.to_bytes(), [0b0111_1000, 0x12, 0x34, 7]);
        assert_eq!(FrameTag::parse(&[0b0111_1000, 0x12, 0x34, 7]), Ok(tag));
        let tag = FrameTag {
            stream: Stream::Zero,
            background: false,
            key: false,
            acknowledged: true,
            number: 0xffff,
            generation: 255,
        };
        assert_eq!(tag.to_bytes(), [0b0100_0100, 0xff, 0xff, 255]);
        assert_eq!(FrameTag::parse(&tag.to_bytes()), Ok(tag));
    }

    #[test]
    fn other_versions_and_lengths_are_refused() {
        for version in [0u8, 2, 3] {
            assert_eq!(
                FrameTag::parse(&[version << 6, 0, 0, 0]),
                Err(TagError::Version)
            );
        }
        for length in (0..10).filter(|l| *l != LENGTH) {
            assert_eq!(
                FrameTag::parse(&vec![0x40; length]),
                Err(TagError::Length),
                "length {length}"
            );
        }
    }

    #[test]
    fn every_first_byte_survives_the_fuzz_body() {
        for first in 0..=255 {
            fuzz_tag(&[first, 1, 2, 3]);
        }
    }
}
