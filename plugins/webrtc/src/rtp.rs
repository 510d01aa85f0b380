// SPDX-License-Identifier: MPL-2.0
//! RTP caps, header extensions and the few RTCP packets written here.

use std::ops::Range;

use crate::{capture_time, playout_delay, send_time, video_timing};
use gst::prelude::*;

pub const PAYLOAD_TYPE: u32 = 96;
/// As browsers have it.
pub const AUDIO_PAYLOAD_TYPE: u32 = 111;
pub const VIDEO_CLOCK_RATE: u32 = 90_000;
/// Of Opus in RTP, whatever is encoded (RFC 7587 section 4.1).
pub const AUDIO_CLOCK_RATE: u32 = 48_000;

pub const TWCC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
pub const NTP_URI: &str = "urn:ietf:params:rtp-hdrext:ntp-64";
pub const CAPTURE_URI: &str = capture_time::URI;
pub const TIMING_URI: &str = video_timing::URI;

/// The id under which dualwebrtcsink offers the time of capture.
pub const CAPTURE_ID: u8 = 5;
/// The same for the times at the sender.
pub const TIMING_ID: u8 = 6;

/// rtpredenc 1.22 writes the transport-wide number under 1, whatever the caps
/// say.
pub const TWCC_ID: u8 = 1;

/// Header extensions with the ids that dualwebrtcsink offers.
pub const EXTENSIONS: [(u16, &str); 5] = [
    (TWCC_ID as u16, TWCC_URI),
    (4, FRAME_URI),
    (CAPTURE_ID as u16, CAPTURE_URI),
    (TIMING_ID as u16, TIMING_URI),
    (playout_delay::ID as u16, playout_delay::URI),
];
/// Those of audio: one URI has one id in a bundle (RFC 8843 section 9.2).
pub const AUDIO_EXTENSIONS: [(u16, &str); 2] =
    [(TWCC_ID as u16, TWCC_URI), (CAPTURE_ID as u16, CAPTURE_URI)];
/// The id under which dualwebrtcsink offers the time of departure. No payloader
/// writes it: see [`send_time::stamp`].
pub const SEND_TIME_ID: u8 = 2;
/// What is answered if a peer offers it.
pub const KNOWN: [&str; 6] = [
    TWCC_URI,
    FRAME_URI,
    CAPTURE_URI,
    TIMING_URI,
    NTP_URI,
    send_time::URI,
];

/// Caps without the header extension of this URI.
pub fn without_extension(mut caps: gst::Caps, uri: &str) -> gst::Caps {
    for s in caps.make_mut().iter_mut() {
        let is_it = |s: &gst::StructureRef, field: &str| {
            field.starts_with("extmap-") && s.get::<&str>(field) == Ok(uri)
        };
        let fields: Vec<_> = s
            .fields()
            .filter(|field| is_it(s, field))
            .map(|field| field.to_string())
            .collect();
        s.remove_fields(fields.iter().map(String::as_str));
    }
    caps
}

/// Caps without this type of feedback.
pub fn without_feedback(mut caps: gst::Caps, kind: &str) -> gst::Caps {
    for s in caps.make_mut().iter_mut() {
        s.remove_field(format!("rtcp-fb-{kind}"));
    }
    caps
}

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

pub fn h264() -> gst::caps::Builder<gst::caps::NoFeature> {
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

/// What dualwebrtcsink offers for stream `index`; the next one is for its
/// retransmissions. Two sections of a bundle may share one where something else
/// tells their packets apart (RFC 8843 section 9.1), and aiortc, which has but
/// the payload type to find the receiver of a retransmission, drops those then.
pub const fn payload_type(index: usize) -> u32 {
    if index == 0 {
        PAYLOAD_TYPE
    } else {
        PAYLOAD_TYPE + 2
    }
}

/// What follows the payloader of stream `index` of dualwebrtcsink.
pub fn payloader_caps(index: usize, ssrc: u32) -> gst::Caps {
    let mut caps = with_feedback(h264())
        .field("payload", payload_type(index) as i32)
        .field("ssrc", ssrc);
    for (id, uri) in EXTENSIONS {
        caps = caps.field(format!("extmap-{id}"), uri);
    }
    caps.build()
}

/// What a transceiver of dualwebrtcsink offers. No profile: webrtcbin would
/// hold the encoder to it, level and all.
pub fn offer_caps(index: usize, ssrc: u32) -> gst::Caps {
    let mut caps = payloader_caps(index, ssrc);
    let s = caps.make_mut();
    s.set("packetization-mode", "1");
    s.set(format!("extmap-{SEND_TIME_ID}"), send_time::URI);
    caps
}

/// What a transceiver of dualwebrtcsrc offers to receive.
pub fn request_caps() -> gst::Caps {
    let mut caps = with_feedback(h264()).field("payload", PAYLOAD_TYPE as i32);
    for (id, uri) in EXTENSIONS {
        caps = caps.field(format!("extmap-{id}"), uri);
    }
    let mut caps = caps.build();
    let s = caps.make_mut();
    s.set("packetization-mode", "1");
    // What every sender can make. Level 3.1, and any other may be sent.
    s.set("profile-level-id", "42e01f");
    s.set("level-asymmetry-allowed", "1");
    caps
}

/// The same for audio.
pub fn audio_request_caps() -> gst::Caps {
    let mut caps = audio_answer_caps(&AUDIO_EXTENSIONS, true);
    caps.make_mut().set("payload", AUDIO_PAYLOAD_TYPE as i32);
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

pub fn opus(
    caps: gst::caps::Builder<gst::caps::NoFeature>,
) -> gst::caps::Builder<gst::caps::NoFeature> {
    caps.field("media", "audio")
        .field("encoding-name", "OPUS")
        .field("clock-rate", AUDIO_CLOCK_RATE as i32)
        .field("encoding-params", "2")
}

/// What follows the payloader of audio. `feedback`: the peer reports about
/// transport-wide numbers on it; it would miss packets that have one otherwise.
pub fn audio_payloader_caps(ssrc: u32, feedback: bool) -> gst::Caps {
    let mut caps = opus(gst::Caps::builder("application/x-rtp"))
        .field("payload", AUDIO_PAYLOAD_TYPE as i32)
        .field("ssrc", ssrc)
        .field("rtcp-fb-nack", true);
    for (id, uri) in AUDIO_EXTENSIONS {
        if feedback || uri != TWCC_URI {
            caps = caps.field(format!("extmap-{id}"), uri);
        }
    }
    if feedback {
        caps = caps.field("rtcp-fb-transport-cc", true);
    }
    caps.build()
}

/// What the transceiver of audio offers. `frame_ms`: duration of a packet.
pub fn audio_offer_caps(ssrc: u32, frame_ms: u32) -> gst::Caps {
    let mut caps = audio_payloader_caps(ssrc, true);
    let s = caps.make_mut();
    // RFC 7587 section 6.1: what we like to receive, and may send.
    s.set("minptime", frame_ms.max(3).to_string());
    s.set("useinbandfec", "1");
    s.set("stereo", "1");
    // No sprop-stereo: webrtcbin would hold the payloader to it, mono or not.
    caps
}

/// What the transceiver of audio answers.
pub fn audio_answer_caps(extensions: &[(u16, &'static str)], nack: bool) -> gst::Caps {
    let mut caps =
        opus(gst::Caps::builder("application/x-rtp")).field("rtcp-fb-transport-cc", true);
    if nack {
        caps = caps.field("rtcp-fb-nack", true);
    }
    for (id, uri) in extensions {
        caps = caps.field(format!("extmap-{id}"), *uri);
    }
    let mut caps = caps.build();
    let s = caps.make_mut();
    s.set("minptime", "10");
    s.set("useinbandfec", "1");
    s.set("stereo", "1");
    caps
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

/// What a sender report says of time (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub ssrc: u32,
    /// 32.32 bit seconds.
    pub ntp: u64,
    pub rtp: u32,
}

/// The packets of a compound RTCP packet: count or subtype, packet type, what
/// follows the first word. What makes no sense ends it.
pub fn rtcp_packets(mut compound: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = compound.split_first_chunk::<4>()?;
        let length = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
        let (packet, rest) = compound.split_at_checked(length)?;
        compound = rest;
        (head[0] >> 6 == 2).then_some((head[0] & 0x1f, head[1], packet.get(4..)?))
    })
}

pub fn sender_reports(compound: &[u8]) -> Vec<Report> {
    rtcp_packets(compound)
        .filter(|(_, kind, _)| *kind == 200)
        .filter_map(|(_, _, data)| {
            let (ssrc, rest) = data.split_first_chunk::<4>()?;
            let (ntp, rest) = rest.split_first_chunk::<8>()?;
            Some(Report {
                ssrc: u32::from_be_bytes(*ssrc),
                ntp: u64::from_be_bytes(*ntp),
                rtp: u32::from_be_bytes(*rest.first_chunk::<4>()?),
            })
        })
        .collect()
}

/// Where the content of a header extension is in a packet (RFC 8285).
pub fn extension_at(packet: &gst::BufferRef, id: u8) -> Option<Range<usize>> {
    let data = packet.map_readable().ok()?;
    extension_in(&data, id)
}

pub fn extension_in(data: &[u8], id: u8) -> Option<Range<usize>> {
    let first = *data.first()?;
    if first >> 6 != 2 || first & 0x10 == 0 {
        return None;
    }
    let head = 12 + 4 * usize::from(first & 0x0f);
    let [a, b, c, d] = *data.get(head..head + 4)?.first_chunk::<4>()?;
    let (profile, words) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let end = head + 4 + 4 * usize::from(words);
    let is_short = match profile {
        0xbede => true,
        0x1000..=0x100f => false,
        _ => return None,
    };
    let mut at = head + 4;
    while at < end {
        let byte = *data.get(at)?;
        let (found, start, length) = match (is_short, byte) {
            // Padding.
            (_, 0) => {
                at += 1;
                continue;
            }
            // The end, section 4.2.
            (true, 0xf0..) => return None,
            (true, _) => (byte >> 4, at + 1, usize::from(byte & 0x0f) + 1),
            (false, _) => (byte, at + 2, usize::from(*data.get(at + 1)?)),
        };
        at = start + length;
        if found == id {
            return (at <= end && at <= data.len()).then_some(start..at);
        }
    }
    None
}

/// The source of an RTP packet.
pub fn source(packet: &gst::BufferRef) -> Option<u32> {
    let mut ssrc = [0; 4];
    // Copying more than there is would panic.
    if packet.size() < 12 {
        return None;
    }
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
    fn sender_reports_are_read_from_any_place() {
        let mut compound = receiver_report(1);
        compound.extend([0x80, 200, 0, 6, 0, 0, 0, 9]);
        compound.extend(0x0102_0304_0506_0708u64.to_be_bytes());
        compound.extend(77u32.to_be_bytes());
        compound.extend([0; 8]);
        let report = Report {
            ssrc: 9,
            ntp: 0x0102_0304_0506_0708,
            rtp: 77,
        };
        assert_eq!(sender_reports(&compound), [report]);
        for cut in 0..compound.len() {
            for value in 0..=255 {
                let mut broken = compound[..=cut].to_vec();
                broken[cut] = value;
                assert!(sender_reports(&broken).len() <= 2);
            }
        }
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

    /// Laid out by hand from RFC 8285 sections 4.2 and 4.3.
    #[test]
    fn extensions_are_found_in_both_kinds_of_header() {
        let mut packet = vec![0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        packet.extend([0xbe, 0xde, 0, 2, 0, 0x31, 1, 2, 0x50, 9, 0, 0, 0xaa]);
        assert_eq!(extension_in(&packet, 3), Some(18..20));
        assert_eq!(extension_in(&packet, 5), Some(21..22));
        assert_eq!(extension_in(&packet, 4), None);
        let mut long = packet[..12].to_vec();
        long.extend([0x10, 0, 0, 2, 3, 2, 1, 2, 20, 1, 9, 0, 0xaa]);
        assert_eq!(extension_in(&long, 3), Some(18..20));
        assert_eq!(extension_in(&long, 20), Some(22..23));
        // Cut anywhere, with any byte: what is found is inside.
        for packet in [packet, long] {
            for cut in 0..packet.len() {
                for value in 0..=255 {
                    let mut broken = packet[..=cut].to_vec();
                    broken[cut] = value;
                    for id in [0, 3, 5, 15, 20, 255] {
                        if let Some(range) = extension_in(&broken, id) {
                            assert!(range.end <= broken.len());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn caps_carry_extensions_and_feedback() {
        gst::init().unwrap();
        let caps = offer_caps(0, 7);
        let s = caps.structure(0).unwrap();
        assert_eq!(s.get::<&str>("extmap-4"), Ok(FRAME_URI));
        assert_eq!(s.get::<bool>("rtcp-fb-transport-cc"), Ok(true));
        assert_eq!(s.get::<u32>("ssrc"), Ok(7));
        // What the sink offers, the source can answer.
        assert!(answer_caps(&EXTENSIONS).can_intersect(&caps));
        assert!(!answer_caps(&[(1, FRAME_URI)]).can_intersect(&caps));
    }
}
