// SPDX-License-Identifier: MPL-2.0
//! Where in the session description the streams are: as we offer them, or
//! where a receiver that makes the offer wants them.

use std::sync::Arc;

use gst::prelude::*;
use gst_webrtc::{WebRTCRTPTransceiver, WebRTCSessionDescription};

use super::session::Parts;
use crate::switches::Switches;
use crate::{peer, rtp, sdp};

/// The media section of one stream.
#[derive(Clone, Debug)]
pub struct Line {
    pub mline: usize,
    pub payload_type: u32,
    /// What follows the payloader.
    pub caps: gst::Caps,
    /// Those of the transceiver.
    pub preferences: gst::Caps,
}

/// The sections of an offer that we can send in.
#[derive(Clone, Debug)]
pub struct Layout {
    offer: WebRTCSessionDescription,
    text: String,
    /// H.264, at most two.
    video: Vec<Taken>,
    /// Opus.
    audio: Option<Taken>,
}

#[derive(Clone, Debug)]
struct Taken {
    mline: usize,
    payload_type: u8,
    /// Codec, feedback and header extensions.
    caps: gst::Caps,
}

/// Feedback that is answered if it is offered, as caps have it.
const FEEDBACK: [&str; 4] = [
    "rtcp-fb-nack",
    "rtcp-fb-nack-pli",
    "rtcp-fb-ccm-fir",
    "rtcp-fb-transport-cc",
];

impl Layout {
    pub fn of_offer(offer: &WebRTCSessionDescription) -> Result<Self, String> {
        let text = peer::text(offer)?;
        let (mut video, mut audio) = (Vec::new(), None);
        for (mline, section) in sdp::media(&text).iter().enumerate() {
            let media = u32::try_from(mline)
                .ok()
                .and_then(|mline| offer.sdp().media(mline))
                .filter(|media| is_live(media));
            let Some(media) = media else { continue };
            let take = |payload_types: &[u8]| {
                let payload_type = preferred(media, payload_types)?;
                Some(Taken {
                    mline,
                    payload_type,
                    caps: caps(media, section, payload_type)?,
                })
            };
            if section.video && video.len() < 2 {
                video.extend(take(&section.h264));
            } else if section.audio && audio.is_none() {
                audio = take(&section.opus);
            }
        }
        if video.is_empty() {
            return Err("it offers no H.264".into());
        }
        Ok(Self {
            offer: offer.clone(),
            text,
            video,
            audio,
        })
    }

    /// Has a session made for this offer, which is given back. There is no
    /// FEC: who sends it has to offer it.
    pub fn apply(self, parts: &mut Parts) -> WebRTCSessionDescription {
        let offer = self.offer.clone();
        parts.fec = None;
        parts.streams = parts.streams.min(self.video.len());
        parts.audio = parts.audio.take().filter(|_| self.audio.is_some());
        parts.answer = Some(Arc::new(self));
        offer
    }
}

/// Not refused: port 0 may also say that it is only there in the bundle
/// (RFC 8843 section 6).
fn is_live(media: &gst_sdp::SDPMediaRef) -> bool {
    let has = |key: &str| media.attributes().any(|a| a.key() == key);
    (media.port() != 0 || has("bundle-only")) && !has("inactive") && !has("sendonly")
}

/// The payload type that browsers prefer, too: whole NAL units may be split.
fn preferred(media: &gst_sdp::SDPMediaRef, payload_types: &[u8]) -> Option<u8> {
    let can_split = |pt: &&u8| {
        let caps = media.caps_from_media(i32::from(**pt));
        caps.and_then(|caps| {
            let s = caps.structure(0)?;
            s.get::<String>("packetization-mode").ok()
        })
        .is_some_and(|mode| mode == "1")
    };
    let first = payload_types.iter().find(can_split);
    first.or(payload_types.first()).copied()
}

fn caps(media: &gst_sdp::SDPMediaRef, section: &sdp::Media, payload_type: u8) -> Option<gst::Caps> {
    let offered = media.caps_from_media(i32::from(payload_type))?;
    let offered = offered.structure(0)?;
    let mut caps = if section.video {
        rtp::h264()
    } else {
        rtp::opus(gst::Caps::builder("application/x-rtp"))
    };
    caps = caps.field("payload", i32::from(payload_type));
    for field in FEEDBACK {
        if offered.get::<bool>(field) == Ok(true) {
            caps = caps.field(field, true);
        }
    }
    for (id, uri) in &section.extensions {
        // Written by us, under our id.
        if *uri != rtp::TIMING_URI || *id == u16::from(rtp::TIMING_ID) {
            caps = caps.field(format!("extmap-{id}"), *uri);
        }
    }
    Some(caps.build())
}

fn line(taken: &Taken, ssrc: u32) -> Line {
    let mut caps = taken.caps.clone();
    caps.make_mut().set("ssrc", ssrc);
    Line {
        mline: taken.mline,
        payload_type: taken.payload_type.into(),
        preferences: caps.clone(),
        caps,
    }
}

impl Parts {
    /// The offer that is answered, if there is one.
    pub fn offer(&self) -> Option<String> {
        self.answer.as_ref().map(|layout| layout.text.clone())
    }

    pub fn video_line(&self, index: usize, ssrc: u32) -> Line {
        let taken = self.answer.as_ref().and_then(|a| a.video.get(index));
        let line = taken.map_or_else(
            || Line {
                mline: index,
                payload_type: rtp::payload_type(index),
                caps: rtp::payloader_caps(index, ssrc),
                preferences: rtp::offer_caps(index, ssrc),
            },
            |taken| line(taken, ssrc),
        );
        line.restrict(self.switches)
    }

    pub fn audio_line(&self, streams: usize, ssrc: u32) -> Line {
        let taken = self.answer.as_ref().and_then(|a| a.audio.as_ref());
        let line = taken.map_or_else(
            || Line {
                mline: streams,
                payload_type: rtp::AUDIO_PAYLOAD_TYPE,
                caps: rtp::audio_payloader_caps(ssrc, true),
                preferences: rtp::audio_offer_caps(ssrc, self.frame_ms),
            },
            |taken| line(taken, ssrc),
        );
        line.restrict(self.switches)
    }
}

impl Line {
    fn restrict(self, switches: Switches) -> Self {
        Self {
            caps: switches.restrict(self.caps),
            preferences: switches.restrict(self.preferences),
            ..self
        }
    }

    /// For a peer that does not read these header extensions.
    pub fn without(&self, unread: &[&str]) -> Self {
        let rest = |caps: &gst::Caps| {
            let mut caps = caps.clone();
            for uri in unread {
                caps = rtp::without_extension(caps, uri);
            }
            if unread.contains(&rtp::TWCC_URI) {
                caps = rtp::without_feedback(caps, "transport-cc");
            }
            caps
        };
        Self {
            caps: rest(&self.caps),
            preferences: rest(&self.preferences),
            ..self.clone()
        }
    }

    /// Before the payloader asks what it may write. webrtcbin's pad tells it what
    /// the transceiver prefers, and a field that the filter has not is none that it
    /// takes away.
    pub fn set(&self, filter: &gst::Element, transceiver: &WebRTCRTPTransceiver) {
        filter.set_property("caps", &self.caps);
        transceiver.set_property("codec-preferences", &self.preferences);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_webrtc::WebRTCSDPType;

    const HEAD: &str = "v=0\r\no=- 1 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n";
    const AUDIO: &str = "m=audio 9 UDP/TLS/RTP/SAVPF 109\r\nc=IN IP4 0.0.0.0\r\na=recvonly\r\n\
        a=rtpmap:109 opus/48000/2\r\na=rtcp-fb:109 transport-cc\r\n\
        a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n";
    const VIDEO: &str = "m=video 9 UDP/TLS/RTP/SAVPF 100 102 103\r\nc=IN IP4 0.0.0.0\r\na=recvonly\r\n\
        a=rtpmap:100 VP8/90000\r\na=rtpmap:102 H264/90000\r\n\
        a=fmtp:102 packetization-mode=0;profile-level-id=42e01f\r\n\
        a=rtpmap:103 H264/90000\r\na=fmtp:103 packetization-mode=1;profile-level-id=42e01f\r\n\
        a=rtcp-fb:103 nack\r\na=rtcp-fb:103 nack pli\r\n\
        a=extmap:4 urn:x-gst-dualstream:frame:1\r\n";

    fn layout(text: &str) -> Result<Layout, String> {
        gst::init().unwrap();
        Layout::of_offer(&peer::parse(WebRTCSDPType::Offer, text).unwrap())
    }

    #[test]
    fn streams_go_where_the_offer_has_them() {
        let layout = layout(&format!("{HEAD}{AUDIO}{VIDEO}{VIDEO}{VIDEO}")).unwrap();
        let at: Vec<_> = layout.video.iter().map(|taken| taken.mline).collect();
        assert_eq!(at, [1, 2], "two at most");
        assert!(layout.video.iter().all(|taken| taken.payload_type == 103));
        let video = line(&layout.video[0], 7);
        let s = video.caps.structure(0).unwrap();
        assert_eq!(s.get::<u32>("ssrc"), Ok(7));
        assert_eq!(s.get::<&str>("extmap-4"), Ok(rtp::FRAME_URI));
        assert_eq!(s.get::<bool>("rtcp-fb-nack-pli"), Ok(true));
        assert!(!s.has_field("rtcp-fb-transport-cc"), "not offered");
        let audio = layout.audio.unwrap();
        assert_eq!((audio.mline, audio.payload_type), (0, 109));
    }

    #[test]
    fn a_section_that_is_only_there_in_the_bundle_is_taken() {
        let second = VIDEO.replace("m=video 9", "m=video 0") + "a=bundle-only\r\n";
        let layout = layout(&format!("{HEAD}{VIDEO}{second}")).unwrap();
        assert_eq!(layout.video.len(), 2);
    }

    #[test]
    fn an_offer_without_h264_is_refused() {
        for text in [
            HEAD.to_owned(),
            format!("{HEAD}{AUDIO}"),
            format!("{HEAD}{}", VIDEO.replace("H264", "AV1")),
            format!("{HEAD}{}", VIDEO.replace("m=video 9", "m=video 0")),
            format!("{HEAD}{}", VIDEO.replace("recvonly", "sendonly")),
        ] {
            assert!(layout(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn caps_without_feedback_have_no_transport_wide_number() {
        let layout = layout(&format!("{HEAD}{AUDIO}{VIDEO}")).unwrap();
        let audio = line(layout.audio.as_ref().unwrap(), 9);
        let with = audio.without(&[]).caps;
        assert!(with.structure(0).unwrap().has_field("extmap-3"));
        let without = audio.without(&[rtp::TWCC_URI]).caps;
        let s = without.structure(0).unwrap();
        assert!(!s.has_field("extmap-3") && !s.has_field("rtcp-fb-transport-cc"));
        assert_eq!(s.get::<u32>("ssrc"), Ok(9));
        // As rtp.rs makes them.
        let ours = Line {
            mline: 2,
            payload_type: 111,
            caps: rtp::audio_payloader_caps(9, true),
            preferences: rtp::audio_offer_caps(9, 10),
        };
        let without = ours.without(&[rtp::TWCC_URI]);
        assert_eq!(without.caps, rtp::audio_payloader_caps(9, false));
        assert!(!without.preferences.to_string().contains("transport"));
    }
}
