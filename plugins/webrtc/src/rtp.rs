// SPDX-License-Identifier: MPL-2.0
//! RTP caps, header extensions and the few RTCP packets written here.

pub const PAYLOAD_TYPE: u32 = 96;

pub const TWCC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
pub const NTP_URI: &str = "urn:ietf:params:rtp-hdrext:ntp-64";

/// Header extensions with the ids that dualwebrtcsink offers.
pub const EXTENSIONS: [(u16, &str); 3] = [(3, TWCC_URI), (4, FRAME_URI), (5, NTP_URI)];

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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn caps_carry_extensions_and_feedback() {
        gst::init().unwrap();
        let caps = offer_caps(7);
        let s = caps.structure(0).unwrap();
        assert_eq!(s.get::<&str>("extmap-4"), Ok(FRAME_URI));
        assert_eq!(s.get::<bool>("rtcp-fb-transport-cc"), Ok(true));
        assert_eq!(s.get::<u32>("ssrc"), Ok(7));
        // What the sink offers, the source can answer.
        assert!(answer_caps(&EXTENSIONS).can_intersect(&caps));
        assert!(!answer_caps(&[(3, FRAME_URI)]).can_intersect(&caps));
    }
}
