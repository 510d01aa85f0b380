// SPDX-License-Identifier: MPL-2.0
//! What the element reads of RTP packets and their caps.

use feedback_core::{EXTENSION_URI, stream_in_extension};
use gst_rtp::RTPBuffer;

/// The id under which the caps have the extension that names the stream.
pub fn extension_id(caps: &gst::CapsRef) -> Option<u8> {
    let structure = caps.structure(0)?;
    structure.iter().find_map(|(name, value)| {
        let id = name.as_str().strip_prefix("extmap-")?.parse().ok()?;
        let is_ours = match value.get::<gst::Array>() {
            // Direction, URI, attributes.
            Ok(array) => array
                .get(1)
                .is_some_and(|uri| uri.get::<&str>() == Ok(EXTENSION_URI)),
            Err(_) => value.get::<&str>() == Ok(EXTENSION_URI),
        };
        (is_ours && id > 0).then_some(id)
    })
}

/// SSRC and stream of an RTP packet.
pub fn look_at(buffer: &gst::BufferRef, extension: Option<u8>) -> Option<(u32, Option<u32>)> {
    let rtp = RTPBuffer::from_buffer_readable(buffer).ok()?;
    let stream = extension.filter(|_| rtp.is_extension()).and_then(|id| {
        let two_bytes = || rtp.extension_twobytes_header(id, 0).map(|(_, data)| data);
        // RFC 8285: the one-byte header has the ids 1 to 14.
        let one_byte = (1..15)
            .contains(&id)
            .then(|| rtp.extension_onebyte_header(id, 0));
        one_byte
            .flatten()
            .or_else(two_bytes)
            .and_then(stream_in_extension)
    });
    Some((rtp.ssrc(), stream))
}
