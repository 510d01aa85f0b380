// SPDX-License-Identifier: MPL-2.0
//! The upstream event `application/x-frame-complete` (docs/wire-formats.md).

use feedback_core::Entry;

pub const NAME: &str = "application/x-frame-complete";

pub fn make(entry: Entry, stream: u32) -> gst::Event {
    let structure = gst::Structure::builder(NAME)
        .field("stream", stream)
        .field("frame", u32::from(entry.number))
        .field("generation", u32::from(entry.generation))
        .field("key", entry.key)
        .field("decodable", entry.decodable)
        .build();
    gst::event::CustomUpstream::new(structure)
}

/// `None` if a field is missing, has another type or is out of range. The
/// stream is not looked at: on the wire the SSRC says it.
pub fn parse(structure: &gst::StructureRef) -> Option<Entry> {
    Some(Entry {
        generation: u8::try_from(structure.get::<u32>("generation").ok()?).ok()?,
        key: structure.get("key").ok()?,
        decodable: structure.get("decodable").ok()?,
        number: u16::try_from(structure.get::<u32>("frame").ok()?).ok()?,
    })
}
