// SPDX-License-Identifier: MPL-2.0
//! RTP packets as the core takes them.

use dualstream_common::DataSize;
use gst::meta::CustomMeta;
use gst_rtp::{RTPBuffer, RTPBufferFlags};
use jitterbuffer_core::{Assembly, Origin, Packet, Part, PlayoutDelay};

/// Of both streams of a dual stream (docs/wire-formats.md).
const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
const FRAME_VERSION: u8 = 1;
const BACKGROUND: u8 = 0x10;
/// Of packets that an FEC decoder made.
const RECOVERED_META: &str = "DualStreamFecRecovered";

/// What caps say of a payload type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub clock_rate: u32,
    pub assembly: Assembly,
    pub is_h264: bool,
    frame_id: Option<u8>,
    playout_delay_id: Option<u8>,
    /// RFC 2326, of RTSP: where the time stamps begin.
    pub clock_base: Option<u32>,
}

impl Format {
    /// `None`: the caps do not tell the clock rate.
    pub fn parse(caps: &gst::CapsRef) -> Option<Self> {
        let s = caps.structure(0)?;
        let clock_rate = u32::try_from(s.get::<i32>("clock-rate").ok()?).ok()?;
        let extension = |uri: &str| {
            (1..=14u8).find(|id| {
                let name = format!("extmap-{id}");
                match s.get::<&str>(&name) {
                    Ok(value) => value == uri,
                    // Direction, URI, attributes.
                    Err(_) => s
                        .get::<gst::Array>(&name)
                        .ok()
                        .and_then(|array| array.as_slice().get(1)?.get::<String>().ok())
                        .is_some_and(|value| value == uri),
                }
            })
        };
        let is_audio = s.get::<&str>("media") == Ok("audio");
        (clock_rate > 0).then(|| Self {
            clock_rate,
            assembly: if is_audio {
                Assembly::Packets
            } else {
                Assembly::Frames
            },
            is_h264: s.get::<&str>("encoding-name") == Ok("H264"),
            frame_id: extension(FRAME_URI),
            playout_delay_id: extension(PlayoutDelay::URI),
            clock_base: s.get("clock-base").ok(),
        })
    }
}

/// Payload type and SSRC of a packet; `None` if it is none.
pub fn header(buffer: &gst::BufferRef) -> Option<(u8, u32)> {
    let mut head = [0u8; 12];
    // It panics where there is less.
    if buffer.size() < head.len() {
        return None;
    }
    buffer.copy_to_slice(0, &mut head).ok()?;
    let [first, second, _, _, _, _, _, _, a, b, c, d] = head;
    (first >> 6 == 2).then_some((second & 0x7f, u32::from_be_bytes([a, b, c, d])))
}

/// The packet, and the sender's wish for the delay.
pub fn packet(
    buffer: gst::Buffer,
    format: &Format,
    has_recovered: bool,
) -> Option<(Packet<gst::Buffer>, Option<PlayoutDelay>)> {
    let recovered = has_recovered && CustomMeta::from_buffer(&buffer, RECOVERED_META).is_ok();
    // SAFETY: the buffer is there. Its flags are read as they are: the bindings
    // cut off those that are for RTP only.
    let flags = unsafe { (*buffer.as_ptr()).mini_object.flags };
    let again = flags & RTPBufferFlags::RETRANSMISSION.bits() != 0;
    let origin = match (recovered, again) {
        (true, _) => Origin::Fec,
        (_, true) => Origin::Retransmission,
        _ => Origin::Network,
    };
    let (sequence, timestamp, marker, size, part, tag, wish) = {
        let rtp = RTPBuffer::from_buffer_readable(&buffer).ok()?;
        let extension = |id: Option<u8>| {
            id.and_then(|id| {
                rtp.extension_onebyte_header(id, 0)
                    .or_else(|| Some(rtp.extension_twobytes_header(id, 0)?.1))
            })
        };
        let payload = rtp.payload().unwrap_or_default();
        let part = if format.is_h264 {
            Part::of_h264(payload)
        } else {
            Part::default()
        };
        let tag = extension(format.frame_id).and_then(|tag| match *tag {
            [first, high, low, _] if first >> 6 == FRAME_VERSION => {
                Some((u16::from_be_bytes([high, low]), first & BACKGROUND != 0))
            }
            _ => None,
        });
        (
            rtp.seq(),
            rtp.timestamp(),
            rtp.is_marker(),
            DataSize::from_bytes(payload.len() as u64),
            part,
            tag,
            extension(format.playout_delay_id).and_then(PlayoutDelay::parse),
        )
    };
    let packet = Packet {
        sequence,
        timestamp,
        marker,
        size,
        origin,
        part,
        number: tag.map(|(number, _)| number),
        hidden: tag.is_some_and(|(_, hidden)| hidden),
        data: buffer,
    };
    Some((packet, wish))
}

/// Whether any packet can have been made by an FEC decoder: the meta is there
/// once its plugin is loaded.
pub fn has_recovered() -> bool {
    CustomMeta::is_registered(RECOVERED_META)
}
