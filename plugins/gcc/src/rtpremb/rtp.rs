// SPDX-License-Identifier: MPL-2.0
//! The header extension abs-send-time.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  ID   | len=2 |     time of departure, s in 6.18 fixed point  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use gcc_core::AbsSendTime;
use gst_rtp::RTPBuffer;

pub const URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    Timed {
        sent: AbsSendTime,
        ssrc: u32,
    },
    /// Without the extension.
    Untimed {
        payload_type: u8,
    },
    /// No RTP, or an extension of another length.
    Malformed,
}

/// `id` is that of the extension, from 1 to 14, 0 = not known.
pub fn look_at(buffer: &gst::BufferRef, id: u8) -> Packet {
    let Ok(rtp) = RTPBuffer::from_buffer_readable(buffer) else {
        return Packet::Malformed;
    };
    let extension = (rtp.is_extension() && (1..15).contains(&id))
        .then(|| {
            let short = rtp.extension_onebyte_header(id, 0);
            // Where another extension is a long one (RFC 8285 section 4.3).
            short.or_else(|| rtp.extension_twobytes_header(id, 0).map(|(_, data)| data))
        })
        .flatten();
    match extension {
        Some(&[a, b, c]) => Packet::Timed {
            sent: AbsSendTime::from_wire(u32::from_be_bytes([0, a, b, c])),
            ssrc: rtp.ssrc(),
        },
        Some(_) => Packet::Malformed,
        None => Packet::Untimed {
            payload_type: rtp.payload_type(),
        },
    }
}
