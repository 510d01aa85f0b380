// SPDX-License-Identifier: MPL-2.0
//! RTP caps, header extensions and the few RTCP packets written here.

use gst::prelude::*;
use gst_rtp::prelude::*;

pub const PAYLOAD_TYPE: u32 = 96;

pub const TWCC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
pub const NTP_URI: &str = "urn:ietf:params:rtp-hdrext:ntp-64";

/// Header extensions with the ids that dualwebrtcsink offers. rtpredenc 1.22
/// writes the transport-wide number under 1, whatever the caps say.
pub const EXTENSIONS: [(u16, &str); 3] = [(1, TWCC_URI), (4, FRAME_URI), (5, NTP_URI)];

/// Largest RTP packet.
pub const MTU: u32 = 1200;
/// A packet of a background frame holds up a display frame by this at most,
/// where the link is no faster than the target rate ...
const BLOCKING_MS: u64 = 3;
/// ... but smaller packets than this would be headers mostly.
const LEAST_MTU: u32 = 240;

/// Largest RTP packet of a frame. `target` is the rate of both streams, in
/// bit/s, 0 when not known.
pub fn mtu(background: bool, target: u64) -> u32 {
    if !background || target == 0 {
        return MTU;
    }
    let bytes = target.saturating_mul(BLOCKING_MS) / 8000;
    u32::try_from(bytes).map_or(MTU, |bytes| bytes.clamp(LEAST_MTU, MTU))
}

/// Keeps the `mtu` of a payloader by what comes to it: frames tagged by
/// dualh264enc and its events about the rate (docs/wire-formats.md).
pub fn follow_mtu(pay: &gst::Element, sink: &gst::Pad) {
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
    let (target, set) = (AtomicU64::new(0), AtomicU32::new(MTU));
    pay.set_property("mtu", MTU);
    let pay = pay.downgrade();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    sink.add_probe(kinds, move |_, info| {
        if let Some(s) = info.event().and_then(|event| event.structure()) {
            if s.has_name("application/x-background-rate")
                && let Ok(rate) = s.get("target-bitrate")
            {
                target.store(rate, Relaxed);
            }
        } else if let Some(buffer) = info.buffer() {
            let background = gst::meta::CustomMeta::from_buffer(buffer, "DualStreamFrame")
                .is_ok_and(|meta| meta.structure().get("background") == Ok(true));
            let mtu = mtu(background, target.load(Relaxed));
            if set.swap(mtu, Relaxed) != mtu
                && let Some(pay) = pay.upgrade()
            {
                pay.set_property("mtu", mtu);
            }
        }
        gst::PadProbeReturn::Ok
    });
}

fn h264() -> gst::caps::Builder<gst::caps::NoFeature> {
    gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("encoding-name", "H264")
        .field("clock-rate", 90_000)
}

fn with_feedback(
    caps: gst::caps::Builder<gst::caps::NoFeature>,
) -> gst::caps::Builder<gst::caps::NoFeature> {
    caps.field("rtcp-fb-nack", true)
        .field("rtcp-fb-nack-pli", true)
        .field("rtcp-fb-ccm-fir", true)
        .field("rtcp-fb-transport-cc", true)
        .field("rtcp-fb-x-iframe-complete", true)
}

/// What follows a payloader of dualwebrtcsink.
pub fn payloader_caps(ssrc: u32) -> gst::Caps {
    let mut caps = with_feedback(h264())
        .field("payload", PAYLOAD_TYPE as i32)
        .field("ssrc", ssrc);
    for (id, uri) in EXTENSIONS {
        caps = caps.field(format!("extmap-{id}"), uri);
    }
    caps.build()
}

/// What a transceiver of dualwebrtcsink offers. No profile: webrtcbin would
/// hold the encoder to it, level and all.
pub fn offer_caps(ssrc: u32) -> gst::Caps {
    let mut caps = payloader_caps(ssrc);
    let s = caps.make_mut();
    s.set("packetization-mode", "1");
    caps
}

/// What a transceiver of dualwebrtcsrc answers: the extensions under the ids
/// that the offer gives them.
pub fn answer_caps(extensions: &[(u16, &'static str)]) -> gst::Caps {
    let mut caps = with_feedback(h264());
    for (id, uri) in extensions {
        caps = caps.field(format!("extmap-{id}"), *uri);
    }
    caps.build()
}

/// The header extension with the time of capture, for all packets of a frame:
/// a depayloader reads those of the last one. Others are left to the
/// payloader.
pub fn capture_time_extension(id: u32, uri: &str) -> Option<gst_rtp::RTPHeaderExtension> {
    if uri != NTP_URI {
        return None;
    }
    let extension = gst::ElementFactory::make("rtphdrextntp64")
        .property("every-packet", true)
        .build()
        .ok()?
        .downcast::<gst_rtp::RTPHeaderExtension>()
        .ok()?;
    extension.set_id(id);
    Some(extension)
}

/// An empty receiver report: all it says is that packets get through.
///
/// ```text
/// |V=2|P| RC=0 | PT=201 | length=1 | SSRC of sender |
/// ```
pub fn receiver_report(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend(ssrc.to_be_bytes());
    packet
}

/// An empty receiver report and a BYE for these sources, at most 31
/// (RFC 3550 section 6.6).
///
/// ```text
/// |V=2|P|  SC  | PT=203 | length=SC | SSRC | SSRC | ...
/// ```
pub fn bye(own_ssrc: u32, sources: &[u32]) -> Vec<u8> {
    let sources = &sources[..sources.len().min(31)];
    let mut packet = receiver_report(own_ssrc);
    packet.extend([0x80 | sources.len() as u8, 203, 0, sources.len() as u8]);
    for ssrc in sources {
        packet.extend(ssrc.to_be_bytes());
    }
    packet
}

/// The sources that a compound RTCP packet says BYE for. What makes no sense
/// is passed over.
pub fn ended_sources(mut compound: &[u8]) -> Vec<u32> {
    let mut ended = Vec::new();
    while let Some((head, _)) = compound.split_first_chunk::<4>() {
        let length = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
        let Some((packet, rest)) = compound.split_at_checked(length) else {
            break;
        };
        compound = rest;
        if head[0] >> 6 == 2 && head[1] == 203 {
            let count = usize::from(head[0] & 0x1f);
            let sources = packet[4..].as_chunks::<4>().0;
            ended.extend(sources.iter().take(count).map(|s| u32::from_be_bytes(*s)));
        }
    }
    ended
}

/// The source of an RTP packet.
pub fn source(packet: &gst::BufferRef) -> Option<u32> {
    let mut ssrc = [0; 4];
    packet.copy_to_slice(8, &mut ssrc).ok()?;
    Some(u32::from_be_bytes(ssrc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn background_packets_are_short_where_the_rate_is_low() {
        assert_eq!(mtu(false, 500_000), 1200, "display");
        assert_eq!(mtu(true, 0), 1200, "nothing known");
        assert_eq!(mtu(true, 1_500_000), 562, "3 ms");
        assert_eq!(mtu(true, 100_000), 240);
        assert_eq!(mtu(true, u64::MAX), 1200);
    }

    /// A tagged frame of 6000 bytes; the size of its largest packet.
    fn largest_packet(h: &mut gst_check::Harness, background: bool, ms: u64) -> usize {
        let mut data = vec![0, 0, 0, 1, 0x41];
        data.resize(6000, 0xaa);
        let mut buffer = gst::Buffer::from_mut_slice(data);
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(gst::ClockTime::from_mseconds(ms));
            let mut meta = gst::meta::CustomMeta::add(buffer, "DualStreamFrame").expect("a meta");
            meta.mut_structure().set("background", background);
        }
        h.push(buffer).expect("taken");
        let mut largest = 0;
        while let Some(packet) = h.try_pull() {
            largest = largest.max(packet.size());
        }
        largest
    }

    #[test]
    fn the_payloader_follows_the_rate_and_the_kind_of_frame() {
        gst::init().expect("GStreamer");
        gstdualstream::plugin_register_static().expect("the plugin");
        let pay = gst::ElementFactory::make("rtph264pay")
            .build()
            .expect("rtph264pay");
        follow_mtu(&pay, &pay.static_pad("sink").expect("a sink"));
        let mut h = gst_check::Harness::with_element(&pay, Some("sink"), Some("src"));
        h.set_src_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
        h.play();
        assert!((1100..=1200).contains(&largest_packet(&mut h, true, 0)));
        let rate = gst::Structure::builder("application/x-background-rate")
            .field("bitrate", 136_000u64)
            .field("target-bitrate", 800_000u64)
            .build();
        h.push_event(gst::event::CustomDownstreamOob::new(rate));
        assert!((250..=300).contains(&largest_packet(&mut h, true, 40)));
        assert!((1100..=1200).contains(&largest_packet(&mut h, false, 80)));
    }

    /// Worked out by hand from RFC 3550 sections 6.4.2 and 6.6.
    #[test]
    fn rtcp_is_laid_out_as_the_rfc_says() {
        assert_eq!(receiver_report(0x01020304), [0x80, 201, 0, 1, 1, 2, 3, 4]);
        assert_eq!(
            bye(0x01020304, &[0x0a0b0c0d, 0x11121314]),
            [
                0x80, 201, 0, 1, 1, 2, 3, 4, 0x82, 203, 0, 2, 0x0a, 0x0b, 0x0c, 0x0d, 0x11, 0x12,
                0x13, 0x14
            ]
        );
        assert_eq!(bye(1, &[7; 40])[8], 0x80 | 31);
    }

    #[test]
    fn sources_that_end_are_read_from_any_place_of_a_compound_packet() {
        assert_eq!(ended_sources(&bye(1, &[2, 3])), [2, 3]);
        assert!(ended_sources(&receiver_report(1)).is_empty());
        // With a reason, and two of them.
        let mut two = receiver_report(1);
        two.extend([0x81, 203, 0, 2, 0, 0, 0, 2, 3]);
        two.extend(b"EOS");
        two.extend(bye(1, &[9]));
        assert_eq!(ended_sources(&two), [2, 9]);
        // Cut anywhere, and with any byte changed: no panic.
        for cut in 0..two.len() {
            ended_sources(&two[..cut]);
            for value in 0..=255 {
                let mut broken = two.clone();
                broken[cut] = value;
                assert!(ended_sources(&broken).len() <= two.len() / 4);
            }
        }
    }

    #[test]
    fn caps_carry_extensions_and_feedback() {
        gst::init().unwrap();
        let caps = offer_caps(7);
        let s = caps.structure(0).unwrap();
        assert_eq!(s.get::<&str>("extmap-4"), Ok(FRAME_URI));
        assert_eq!(s.get::<bool>("rtcp-fb-transport-cc"), Ok(true));
        assert_eq!(s.get::<u32>("ssrc"), Ok(7));
        // What the sink offers, the source can answer.
        assert!(answer_caps(&EXTENSIONS).can_intersect(&caps));
        assert!(!answer_caps(&[(1, FRAME_URI)]).can_intersect(&caps));
    }
}
