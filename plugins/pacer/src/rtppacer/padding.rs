// SPDX-License-Identifier: MPL-2.0
//! Padding-only RTP packets, and the meta of packets that are part of a probe.

use gst::meta::CustomMeta;

/// IPv4 and UDP headers, which the link carries too.
pub const PACKET_OVERHEAD: u64 = 28;

const PROBE_META: &str = "DualStreamProbe";

/// Without tags. Another plugin may have registered it.
pub fn register_probe_meta() {
    if !CustomMeta::is_registered(PROBE_META) {
        CustomMeta::register_simple(PROBE_META);
    }
}

/// Says that the packet is part of probe cluster `id`.
pub fn mark_probe(buffer: &mut gst::BufferRef, id: u32) {
    if let Ok(old) = CustomMeta::from_mut_buffer(buffer, PROBE_META) {
        // One is all there can be; ours can be removed.
        let _ = old.remove();
    }
    if let Ok(mut meta) = CustomMeta::add(buffer, PROBE_META) {
        meta.mut_structure().set("id", id);
    }
}

/// Makes padding packets with an SSRC and sequence numbers of their own.
#[derive(Debug)]
pub struct Padding {
    ssrc: u32,
    seq: u16,
    offset: u32,
}

impl Padding {
    /// All as random as RFC 3550 section 5.1 wants it.
    pub fn new(ssrc: u32, seq: u16, offset: u32) -> Self {
        Self { ssrc, seq, offset }
    }

    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +---+-+-+-------+-+-------------+-------------------------------+
    /// | 2 |1|X|   0   |0|     PT      |        sequence number        |
    /// +---+-+-+-------+-+-------------+-------------------------------+
    /// |                           timestamp                           |
    /// +---------------------------------------------------------------+
    /// |                             SSRC                              |
    /// +-------------------------------+-------------------------------+
    /// |            0xBEDE             |               1               |
    /// +-------+-------+---------------+---------------+---------------+
    /// |twcc id|   1   |   transport-wide number, 0    |       0       |
    /// +-------+-------+-------------------------------+---------------+
    /// |                padding, its length in the last byte           |
    /// ```
    /// The session downstream writes the transport-wide number. `size` is on
    /// the link, with [`PACKET_OVERHEAD`].
    pub fn packet(
        &mut self,
        pt: u8,
        twcc: Option<u8>,
        size: u64,
        time: gst::ClockTime,
    ) -> gst::Buffer {
        let mut data = Vec::with_capacity(275);
        let extension = twcc.filter(|id| (1..15).contains(id));
        data.push(0xa0 | u8::from(extension.is_some()) << 4);
        data.push(pt & 0x7f);
        data.extend(self.seq.to_be_bytes());
        // 90 kHz.
        let ticks = (u128::from(time.nseconds()) * 9 / 100_000) as u32;
        data.extend(self.offset.wrapping_add(ticks).to_be_bytes());
        data.extend(self.ssrc.to_be_bytes());
        if let Some(id) = extension {
            data.extend([0xbe, 0xde, 0, 1, id << 4 | 1, 0, 0, 0]);
        }
        let header = data.len() as u64;
        let padding = size.saturating_sub(PACKET_OVERHEAD + header).clamp(1, 255) as u8;
        data.resize(data.len() + usize::from(padding) - 1, 0);
        data.push(padding);
        self.seq = self.seq.wrapping_add(1);
        let mut buffer = gst::Buffer::from_mut_slice(data);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(time);
            buffer.set_dts(time);
        }
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_rtp::RTPBuffer;

    #[test]
    fn a_padding_packet_is_what_rtp_says() {
        gst::init().unwrap();
        let mut padding = Padding::new(0x0102_0304, 65535, 0);
        let time = gst::ClockTime::from_seconds(1);
        let buffer = padding.packet(97, Some(3), 303, time);
        assert_eq!(buffer.size(), 275);
        let rtp = RTPBuffer::from_buffer_readable(&buffer).unwrap();
        assert_eq!(rtp.payload_size(), 0);
        assert!(rtp.has_padding());
        assert_eq!((rtp.payload_type(), rtp.seq()), (97, 65535));
        assert_eq!((rtp.ssrc(), rtp.timestamp()), (0x0102_0304, 90_000));
        assert_eq!(rtp.extension_onebyte_header(3, 0), Some(&[0, 0][..]));
        drop(rtp);
        let buffer = padding.packet(97, None, 100, time);
        assert_eq!(buffer.size(), 72);
        let rtp = RTPBuffer::from_buffer_readable(&buffer).unwrap();
        assert_eq!((rtp.seq(), rtp.payload_size()), (0, 0));
    }
}
