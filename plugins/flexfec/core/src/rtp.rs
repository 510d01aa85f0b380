// SPDX-License-Identifier: MPL-2.0
//! What FEC needs to know of RTP packets (RFC 3550, RFC 8285).

use std::fmt;
use std::ops::Range;

/// Bytes of the header before CSRCs and extension; FEC recovers these by
/// fields of its own, what follows as one string of bytes.
pub const FIXED_HEADER: usize = 12;

/// Longest packet whose length FEC can recover.
pub const MAX_PACKET: usize = FIXED_HEADER + u16::MAX as usize;

/// Header extensions that are written after FEC was made: the whole content
/// is zeroed in the copies that are XORed, as libwebrtc does.
pub const MUTABLE_URIS: &[&str] = &[
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    "http://www.webrtc.org/experiments/rtp-hdrext/transport-wide-cc-02",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    "urn:ietf:params:rtp-hdrext:toffset",
];

/// Written by the encoder up to its seventh byte, by pacers and servers after
/// that, so only the rest is zeroed.
const VIDEO_TIMING_URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/video-timing";
const VIDEO_TIMING_KEPT: u8 = 7;

const PARTLY: usize = 4;

/// Ids of header extensions that change on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MutableExtensions {
    ids: [u64; 4],
    /// Id and bytes that are kept; id 0 is none.
    partly: [(u8, u8); PARTLY],
}

impl MutableExtensions {
    /// The whole content of `id` is zeroed. Ids 0 (padding) and, in one-byte
    /// headers, 15 never match.
    pub fn insert(&mut self, id: u8) {
        for partly in self.partly.iter_mut().filter(|p| p.0 == id) {
            *partly = (0, 0);
        }
        self.ids[usize::from(id / 64)] |= 1 << (id % 64);
    }

    /// As the extension asks for; false if it does not change on the way (or
    /// there are too many of which a part is kept).
    pub fn insert_uri(&mut self, uri: &str, id: u8) -> bool {
        if MUTABLE_URIS.contains(&uri) {
            self.insert(id);
            return true;
        }
        if uri != VIDEO_TIMING_URI {
            return false;
        }
        let mut with = *self;
        with.insert(id);
        let Some(free) = with.partly.iter_mut().find(|p| p.0 == 0) else {
            return false;
        };
        *free = (id, VIDEO_TIMING_KEPT);
        *self = with;
        true
    }

    /// Whether any of the content of `id` is zeroed.
    #[must_use]
    pub fn contains(&self, id: u8) -> bool {
        self.kept(id).is_some()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids == [0; 4]
    }

    /// Bytes of the content that stay, if not all do.
    fn kept(&self, id: u8) -> Option<usize> {
        if self.ids[usize::from(id / 64)] >> (id % 64) & 1 == 0 {
            return None;
        }
        let partly = self.partly.iter().find(|p| p.0 == id);
        Some(partly.map_or(0, |p| usize::from(p.1)))
    }

    /// Zeroes what changes on the way in `packet`, whose header is given.
    pub fn zero(&self, header: &Header, packet: &mut [u8]) {
        let mut walk = Walk::new(header);
        while let Some(changing) = walk.next(self, packet) {
            packet.get_mut(changing).unwrap_or_default().fill(0);
        }
    }

    /// Zeroes what changes in `body`, a copy of what follows the fixed header
    /// of `packet`. (To read what was just copied would wait for the copy.)
    #[inline]
    pub(crate) fn zero_copy(&self, header: &Header, packet: &[u8], body: &mut [u8]) {
        let mut walk = Walk::new(header);
        while let Some(changing) = walk.next(self, packet) {
            let changing = changing.start - FIXED_HEADER..changing.end - FIXED_HEADER;
            body.get_mut(changing).unwrap_or_default().fill(0);
        }
    }
}

/// Goes through the elements of a header extension (RFC 8285 section 4).
/// One that is cut short ends it.
#[derive(Clone, Copy, Debug)]
struct Walk {
    at: usize,
    end: usize,
    two_byte: bool,
}

impl Walk {
    fn new(header: &Header) -> Self {
        let one_byte = header.profile == 0xbede;
        let two_byte = header.profile & 0xfff0 == 0x1000;
        Self {
            at: header.extension,
            end: if one_byte || two_byte {
                header.payload
            } else {
                header.extension
            },
            two_byte,
        }
    }

    /// Where the next bytes are that change; not empty, all within the packet
    /// that was parsed and behind its fixed header.
    #[inline]
    fn next(&mut self, mutable: &MutableExtensions, packet: &[u8]) -> Option<Range<usize>> {
        while self.at < self.end {
            let first = *packet.get(self.at)?;
            let (id, content) = if self.two_byte {
                (first, self.at + 2)
            } else {
                (first >> 4, self.at + 1)
            };
            if id == 0 {
                self.at += 1;
                continue;
            }
            let length = if self.two_byte {
                usize::from(*packet.get(self.at + 1)?)
            } else {
                usize::from(first & 0x0f) + 1
            };
            if content + length > self.end || (!self.two_byte && id == 15) {
                break;
            }
            self.at = content + length;
            if let Some(kept) = mutable.kept(id).filter(|kept| *kept < length) {
                return Some(content + kept..self.at);
            }
        }
        self.at = self.end;
        None
    }
}

/// Why bytes are not an RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not version 2.
    Version,
    /// Ends within its header.
    Truncated,
    /// Padding of no bytes or of more than there are.
    Padding,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "not RTP version 2",
            Self::Truncated => "ends within its header",
            Self::Padding => "padding does not fit",
        })
    }
}

impl std::error::Error for Malformed {}

/// Where things are in a packet that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub payload_type: u8,
    pub marker: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// How many CSRCs follow the fixed header.
    pub csrcs: u8,
    /// The 16 bits that say what the extension is; 0 without one.
    profile: u16,
    /// Where the extension's content begins; equals `payload` without one.
    extension: usize,
    /// Where the payload begins.
    pub payload: usize,
    /// Bytes of padding at the end.
    pub padding: usize,
}

impl Header {
    /// Checks all of the header, and that the padding fits.
    // Inlined, as what it returns takes longer to pass than to make.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = packet
            .split_first_chunk::<FIXED_HEADER>()
            .ok_or(Malformed::Truncated)?;
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *fixed;
        if first >> 6 != 2 {
            return Err(Malformed::Version);
        }
        let csrcs = first & 0x0f;
        let mut rest = rest
            .get(usize::from(csrcs) * 4..)
            .ok_or(Malformed::Truncated)?;
        let mut profile = 0;
        let mut extension = packet.len() - rest.len();
        if first & 0x10 != 0 {
            let ([p0, p1, w0, w1], content) =
                rest.split_first_chunk().ok_or(Malformed::Truncated)?;
            profile = u16::from_be_bytes([*p0, *p1]);
            extension += 4;
            let words = usize::from(u16::from_be_bytes([*w0, *w1]));
            rest = content.get(words * 4..).ok_or(Malformed::Truncated)?;
        }
        let mut padding = 0;
        if first & 0x20 != 0 {
            padding = rest.last().copied().unwrap_or(0).into();
            if padding == 0 || padding > rest.len() {
                return Err(Malformed::Padding);
            }
        }
        Ok(Self {
            payload_type: second & 0x7f,
            marker: second & 0x80 != 0,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            csrcs,
            profile,
            extension,
            payload: packet.len() - rest.len(),
            padding,
        })
    }

    /// The CSRC list of the packet this was parsed from.
    #[must_use]
    pub fn csrc_bytes<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        let end = FIXED_HEADER + usize::from(self.csrcs) * 4;
        packet.get(FIXED_HEADER..end).unwrap_or_default()
    }

    /// The payload of the packet this was parsed from, without padding.
    #[must_use]
    pub fn payload_of<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        let end = packet.len().saturating_sub(self.padding);
        packet.get(self.payload..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First byte, what follows the fixed header, payload and padding.
    type Case = (u8, &'static [u8], Result<(usize, usize), Malformed>);

    #[test]
    fn headers_that_do_not_fit_are_refused() {
        let packet = |flags: u8, rest: &[u8]| {
            let mut packet = vec![flags, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
            packet.extend(rest);
            packet
        };
        let cases: [Case; 14] = [
            (0x80, &[], Ok((12, 0))),
            (0x40, &[], Err(Malformed::Version)),
            (0xc0, &[], Err(Malformed::Version)),
            (0x82, &[0; 8], Ok((20, 0))),
            (0x82, &[0; 7], Err(Malformed::Truncated)),
            (0x90, &[0, 0, 0, 0], Ok((16, 0))),
            (0x90, &[0, 0, 0], Err(Malformed::Truncated)),
            (0x90, &[0, 0, 0, 1, 0, 0, 0, 0], Ok((20, 0))),
            (0x90, &[0, 0, 0, 1, 0, 0, 0], Err(Malformed::Truncated)),
            (0xa0, &[0, 2], Ok((12, 2))),
            (0xa0, &[0, 3], Err(Malformed::Padding)),
            (0xa0, &[2, 0], Err(Malformed::Padding)),
            (0xa0, &[], Err(Malformed::Padding)),
            (0xb1, &[0, 0, 0, 4, 0, 0, 0, 0, 1], Ok((20, 1))),
        ];
        for (flags, rest, expected) in cases {
            let parsed = Header::parse(&packet(flags, rest)).map(|h| (h.payload, h.padding));
            assert_eq!(parsed, expected, "{flags:#x} {rest:?}");
        }
        assert_eq!(Header::parse(&[0x80; 11]), Err(Malformed::Truncated));
    }

    #[test]
    fn the_set_of_mutable_extensions_is_what_was_put_in() {
        let mut set = MutableExtensions::default();
        assert!(!set.contains(0) && set.is_empty());
        for id in 1..=PARTLY as u8 {
            assert!(set.insert_uri(VIDEO_TIMING_URI, id));
        }
        let full = set;
        assert!(!set.insert_uri(VIDEO_TIMING_URI, 9), "no room");
        assert_eq!(set, full);
        assert!(set.insert_uri(VIDEO_TIMING_URI, 2), "there already");
        assert_eq!((set.kept(2), set.kept(9)), (Some(7), None));
        set.insert(2);
        set.insert(255);
        assert_eq!((set.kept(2), set.kept(255)), (Some(0), Some(0)));
        assert!(set.insert_uri(VIDEO_TIMING_URI, 9), "there is room again");
    }
}
