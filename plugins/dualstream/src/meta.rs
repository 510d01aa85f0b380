// SPDX-License-Identifier: MPL-2.0
//! The buffer meta `DualStreamFrame` (docs/wire-formats.md): a frame's
//! [`FrameTag`] on its way through encoders, payloaders and decoders.

use dualstream_core::wire::{FrameTag, Stream};
use gst::meta::CustomMeta;

pub const NAME: &str = "DualStreamFrame";

/// Without tags, so that encoders, decoders and converters carry it along.
pub fn register() {
    if !CustomMeta::is_registered(NAME) {
        CustomMeta::register_simple(NAME);
    }
}

/// Puts `tag` on the buffer in place of one that is there.
pub fn set(buffer: &mut gst::BufferRef, tag: FrameTag) {
    if let Ok(old) = CustomMeta::from_mut_buffer(buffer, NAME) {
        // A buffer has only ever one; remove() cannot fail on our own meta.
        let _ = old.remove();
    }
    let Ok(mut meta) = CustomMeta::add(buffer, NAME) else {
        return;
    };
    let s = meta.mut_structure();
    s.set("stream", tag.stream.index() as u32);
    s.set("number", u32::from(tag.number));
    s.set("background", tag.background);
    s.set("key", tag.key);
    s.set("acknowledged", tag.acknowledged);
    s.set("generation", u32::from(tag.generation));
}

/// The buffer's tag, if it has one that is whole.
pub fn of(buffer: &gst::BufferRef) -> Option<FrameTag> {
    let meta = CustomMeta::from_buffer(buffer, NAME).ok()?;
    let s = meta.structure();
    Some(FrameTag {
        stream: Stream::from_index(s.get("stream").ok()?)?,
        number: u16::try_from(s.get::<u32>("number").ok()?).ok()?,
        background: s.get("background").ok()?,
        key: s.get("key").ok()?,
        acknowledged: s.get("acknowledged").ok()?,
        generation: u8::try_from(s.get::<u32>("generation").ok()?).ok()?,
    })
}
