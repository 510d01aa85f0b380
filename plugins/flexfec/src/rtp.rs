// SPDX-License-Identifier: MPL-2.0
//! What both elements need of RTP headers and of caps.

use flexfec_core::rtp::{MAX_PACKET, MutableExtensions};
use gst::glib;
use gst::prelude::*;

/// As in docs/wire-formats.md; read here and not taken from the other plugin's
/// crate, as plugins share nothing but what is on the wire.
const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
pub const TWCC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// How far upstream caps are looked for, and at how many pads.
const DEEPEST: usize = 16;
const MOST_PADS: usize = 128;

/// The header extensions that `caps` negotiate: id and URI. The field is the
/// URI, or an array of direction, URI and attributes.
fn extensions(caps: &gst::CapsRef) -> impl Iterator<Item = (u8, String)> {
    let fields = caps.structure(0).into_iter().flat_map(|s| s.iter());
    fields.filter_map(|(name, value)| {
        let id = name.as_str().strip_prefix("extmap-")?.parse::<u8>().ok()?;
        let uri = match value.get::<gst::Array>() {
            Ok(parts) => parts.get(1)?.get::<String>().ok()?,
            Err(_) => value.get::<String>().ok()?,
        };
        (id > 0).then_some((id, uri))
    })
}

/// Ids of header extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Those that are written on the way, which FEC takes as zero.
    pub mutable: MutableExtensions,
    pub twcc: Option<u8>,
    pub frame: Option<u8>,
}

impl Ids {
    /// Adds what `caps` tell. Ids mean the same in all streams of a bundle (RFC
    /// 8843 section 9.2).
    pub fn learn(&mut self, caps: &gst::CapsRef) {
        for (id, uri) in extensions(caps) {
            match uri.as_str() {
                TWCC_URI => self.twcc = Some(id),
                FRAME_URI => self.frame = Some(id),
                _ => (),
            }
            self.mutable.insert_uri(&uri, id);
        }
    }
}

/// What the dual-stream extension says of the frame of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameInfo {
    pub key: bool,
    pub background: bool,
}

pub fn frame_info(buffer: &gst::BufferRef, id: u8) -> Option<FrameInfo> {
    let rtp = gst_rtp::RTPBuffer::from_buffer_readable(buffer).ok()?;
    // 15 is reserved in the one-byte header.
    let short = (1..15)
        .contains(&id)
        .then(|| rtp.extension_onebyte_header(id, 0))
        .flatten();
    let data = short.or_else(|| rtp.extension_twobytes_header(id, 0).map(|(_, data)| data));
    match data {
        // Version 1 and four bytes, else it says nothing that is known.
        Some([flags, _, _, _]) if flags >> 6 == 1 => Some(FrameInfo {
            key: flags & 0x08 != 0,
            background: flags & 0x10 != 0,
        }),
        _ => None,
    }
}

/// The bytes of a buffer. To map it all takes longer, most if it has several
/// memories, as from payloaders: these are copied into a new one.
pub enum Bytes<'a> {
    Memory(gst::MemoryMap<'a, gst::memory::Readable>),
    Copied(Vec<u8>),
    Buffer(gst::BufferMap<'a, gst::buffer::Readable>),
}

impl<'a> Bytes<'a> {
    /// `scratch` is taken for several memories, up to the size of a packet.
    #[inline]
    pub fn of(buffer: &'a gst::BufferRef, scratch: &mut Vec<u8>) -> Option<Self> {
        if buffer.n_memory() == 1 {
            let map = buffer.peek_memory(0).map_readable().ok()?;
            return Some(Self::Memory(map));
        }
        let size = buffer.size();
        if size > MAX_PACKET {
            return buffer.map_readable().ok().map(Self::Buffer);
        }
        let mut copy = std::mem::take(scratch);
        copy.resize(size, 0);
        buffer.copy_to_slice(0, &mut copy).ok()?;
        Some(Self::Copied(copy))
    }

    /// Gives `scratch` back; nothing is to be read any more.
    // Not by value: that would copy the map of a memory.
    #[inline]
    pub fn done(&mut self, scratch: &mut Vec<u8>) {
        if let Self::Copied(copy) = self {
            std::mem::swap(copy, scratch);
        }
    }
}

impl std::ops::Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(map) => map,
            Self::Copied(copy) => copy,
            Self::Buffer(map) => map,
        }
    }
}

/// A packet of ours with PTS and DTS. The session writes the transport-wide
/// number into it.
pub fn buffer(
    packet: &[u8],
    (pts, dts): (Option<gst::ClockTime>, Option<gst::ClockTime>),
) -> gst::Buffer {
    // Header and data in one piece of memory; without memory all is lost.
    let mut buffer = gst::Buffer::with_size(packet.len()).unwrap_or_default();
    if let Some(buffer) = buffer.get_mut() {
        let _ = buffer.copy_from_slice(0, packet);
        buffer.set_pts(pts);
        buffer.set_dts(dts);
    }
    buffer
}

/// Both elements have these two.
pub fn pad_templates() -> Vec<gst::PadTemplate> {
    let caps = gst::Caps::new_empty_simple("application/x-rtp");
    [
        ("sink", gst::PadDirection::Sink),
        ("src", gst::PadDirection::Src),
    ]
    .into_iter()
    .map(|(name, direction)| {
        gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
            .expect("a plain name makes a template")
    })
    .collect()
}

/// SSRCs of a property; what is no number of 32 bits is left out.
pub fn ssrcs(value: &glib::Value) -> Vec<u32> {
    let Ok(array) = value.get::<gst::Array>() else {
        return Vec::new();
    };
    array.iter().filter_map(|v| v.get::<u32>().ok()).collect()
}

/// The property `protected-ssrcs`.
pub fn ssrcs_property(blurb: &str) -> glib::ParamSpec {
    let element = glib::ParamSpecUInt::builder("ssrc")
        .nick("SSRC")
        .blurb("One SSRC")
        .build();
    gst::ParamSpecArray::builder("protected-ssrcs")
        .nick("Protected SSRCs")
        .blurb(blurb)
        .element_spec(&element)
        .mutable_playing()
        .build()
}

/// The caps of the streams that end up at `sinkpad`: a funnel keeps of their
/// header extensions only the one of the transport-wide number.
pub fn upstream_caps(sinkpad: &gst::Pad) -> Vec<gst::Caps> {
    let mut found = Vec::new();
    let mut left = MOST_PADS;
    follow(sinkpad, DEEPEST, &mut left, &mut found);
    found
}

fn follow(sinkpad: &gst::Pad, depth: usize, left: &mut usize, found: &mut Vec<gst::Caps>) {
    let Some(peer) = sinkpad.peer().filter(|_| depth > 0) else {
        return;
    };
    let before = match peer.parent_element() {
        Some(element) => element.sink_pads(),
        // Out of the bin that this ghost pad belongs to.
        None => peer
            .parent()
            .and_downcast::<gst::Pad>()
            .into_iter()
            .collect(),
    };
    for pad in before {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let named = pad.current_caps().filter(|caps| {
            let s = caps.structure(0);
            s.is_some_and(|s| s.has_field("media") || s.has_field("encoding-name"))
        });
        match named {
            Some(caps) => found.push(caps),
            None => follow(&pad, depth - 1, left, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_ids_are_found_as_uri_and_as_array() {
        gst::init().unwrap();
        let array = gst::Array::new(["", FRAME_URI, ""]);
        let caps = gst::Caps::builder("application/x-rtp")
            .field("extmap-3", TWCC_URI)
            .field("extmap-5", array)
            .field("extmap-0", FRAME_URI)
            .field("extmap-x", FRAME_URI)
            .field("extmap-7", 3i32)
            .build();
        let mut ids = Ids::default();
        ids.learn(&caps);
        assert_eq!((ids.twcc, ids.frame), (Some(3), Some(5)));
        assert!(ids.mutable.contains(3) && !ids.mutable.contains(5));
    }

    #[test]
    fn all_bytes_of_a_buffer_are_read_however_many_memories_it_has() {
        gst::init().unwrap();
        let mut scratch = Vec::new();
        for lengths in [&[][..], &[30], &[12, 18], &[5, 6, 7], &[12, MAX_PACKET]] {
            let mut buffer = gst::Buffer::new();
            let mut expected = Vec::new();
            for (at, &length) in lengths.iter().enumerate() {
                let bytes = vec![at as u8 + 1; length];
                expected.extend_from_slice(&bytes);
                let memory = gst::Memory::from_slice(bytes);
                buffer.get_mut().unwrap().append_memory(memory);
            }
            let mut bytes = Bytes::of(&buffer, &mut scratch).unwrap();
            assert_eq!(*bytes, *expected, "{lengths:?}");
            bytes.done(&mut scratch);
            assert!(scratch.capacity() < MAX_PACKET, "{lengths:?}");
        }
        assert!(scratch.capacity() >= 30, "it is used again");
    }

    #[test]
    fn the_frame_extension_tells_key_and_background() {
        gst::init().unwrap();
        let packet = |flags: u8| {
            let mut data = vec![0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0xbe, 0xde, 0, 2];
            data.extend([0x43, flags, 0, 1, 0, 0, 0, 0]);
            gst::Buffer::from_mut_slice(data)
        };
        for (flags, key, background) in [(0x48, true, false), (0x50, false, true)] {
            let info = FrameInfo { key, background };
            assert_eq!(frame_info(&packet(flags), 4), Some(info));
        }
        assert_eq!(frame_info(&packet(0x98), 4), None, "another version");
        assert_eq!(frame_info(&packet(0x48), 5), None, "another extension");
    }
}
