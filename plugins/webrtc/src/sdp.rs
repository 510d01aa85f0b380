// SPDX-License-Identifier: MPL-2.0
//! What dual stream needs of session descriptions, as text: webrtcbin 1.22
//! writes only the feedback types it knows, so `x-iframe-complete` is put in
//! and read here.

use std::fmt;

use crate::{playout_delay, rtp, send_time};

/// RTCP feedback type under which "frame complete" is negotiated.
pub const FRAME_COMPLETE: &str = "x-iframe-complete";
/// The same for REMB, an estimate of the receiver's.
const REMB: &str = "goog-remb";

/// Of one media section.
const MOST_SSRCS: usize = 32;

/// One media section, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    pub video: bool,
    pub audio: bool,
    /// Not refused (port 0) and not inactive.
    pub accepted: bool,
    /// What `a=ssrc` names.
    pub ssrcs: Vec<u32>,
    /// Payload types that are H.264.
    pub h264: Vec<u8>,
    /// Payload types that are Opus.
    pub opus: Vec<u8>,
    /// Lost packets may be asked for again, by `nack`.
    pub nack: bool,
    /// There is a payload type for packets that are sent again.
    pub rtx: bool,
    /// Header extensions that we know: id and URI.
    pub extensions: Vec<(u16, &'static str)>,
    /// Payload types with `x-iframe-complete`.
    frame_complete: Vec<u8>,
    /// Payload types with `goog-remb`.
    remb: Vec<u8>,
    /// Some payload type has `transport-cc`.
    transport_cc: bool,
    /// RED and ULPFEC are to be answered. Not read here.
    pub ulpfec: bool,
}

impl Media {
    pub fn has_extension(&self, uri: &str) -> bool {
        self.extensions.iter().any(|(_, known)| *known == uri)
    }

    /// "Frame complete" is negotiated for H.264.
    pub fn has_frame_complete(&self) -> bool {
        self.h264.iter().any(|pt| self.frame_complete.contains(pt))
    }

    /// As if it knew no feedback about the network.
    pub fn refuse_feedback(&mut self) {
        self.remb.clear();
        self.extensions.retain(|(_, uri)| *uri != rtp::TWCC_URI);
    }

    /// Some H.264 of it has REMB.
    pub fn takes_remb(&self) -> bool {
        self.h264.iter().any(|pt| self.remb.contains(pt))
    }

    /// Its sender knows no transport-wide feedback, but takes REMB and says
    /// when packets leave.
    pub fn wants_remb(&self) -> bool {
        self.takes_remb() && self.has_extension(send_time::URI) && !self.transport_cc
    }
}

/// Why a peer gets a single stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDual {
    FirstRefused,
    SecondRefused,
    NoFrameExtension,
    NoFrameComplete,
}

impl fmt::Display for NotDual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstRefused => "the peer refused the first H.264 stream",
            Self::SecondRefused => "the peer refused the second stream",
            Self::NoFrameExtension => "the peer did not take the header extension",
            Self::NoFrameComplete => "the peer does not send frame-complete messages",
        })
    }
}

/// The payload type at the head of `96 something`, as in rtpmap and rtcp-fb.
fn payload_and_rest(value: &str) -> Option<(u8, &str)> {
    let (pt, rest) = value.split_once(' ')?;
    Some((pt.parse().ok()?, rest.trim()))
}

/// The media sections of a description. Lines that make no sense are passed
/// over: webrtcbin refuses what it cannot use.
pub fn media(sdp: &str) -> Vec<Media> {
    let mut sections: Vec<Media> = Vec::new();
    for line in sdp.lines() {
        if let Some(value) = line.strip_prefix("m=") {
            let mut words = value.split_ascii_whitespace();
            let kind = words.next();
            sections.push(Media {
                video: kind == Some("video"),
                audio: kind == Some("audio"),
                accepted: words.next().is_some_and(|port| port != "0"),
                ..Media::default()
            });
            continue;
        }
        let Some(section) = sections.last_mut() else {
            continue;
        };
        if let Some(value) = line.strip_prefix("a=rtpmap:") {
            if let Some((pt, rest)) = payload_and_rest(value) {
                let name = rest.split('/').next().unwrap_or_default();
                if name.eq_ignore_ascii_case("H264") {
                    section.h264.push(pt);
                } else if name.eq_ignore_ascii_case("opus") {
                    section.opus.push(pt);
                } else if name.eq_ignore_ascii_case("rtx") {
                    section.rtx = true;
                }
            }
        } else if let Some(value) = line.strip_prefix("a=rtcp-fb:") {
            if let Some((pt, rest)) = payload_and_rest(value) {
                match rest {
                    FRAME_COMPLETE => section.frame_complete.push(pt),
                    REMB => section.remb.push(pt),
                    _ => (),
                }
            }
            section.transport_cc |= value.ends_with(" transport-cc");
            section.nack |= value.ends_with(" nack");
        } else if let Some(value) = line.strip_prefix("a=ssrc:") {
            let ssrc = value.split(' ').next().and_then(|ssrc| ssrc.parse().ok());
            if let Some(ssrc) = ssrc
                && section.ssrcs.len() < MOST_SSRCS
                && !section.ssrcs.contains(&ssrc)
            {
                section.ssrcs.push(ssrc);
            }
        } else if let Some(value) = line.strip_prefix("a=extmap:") {
            // <id>[/<direction>] <uri> [attributes]
            let mut words = value.split_ascii_whitespace();
            let id = words
                .next()
                .and_then(|w| w.split('/').next())
                .and_then(|id| id.parse().ok());
            let uri = words
                .next()
                .and_then(|uri| rtp::KNOWN.into_iter().find(|known| *known == uri));
            if let (Some(id), Some(uri)) = (id, uri) {
                section.extensions.push((id, uri));
            }
        } else if line == "a=inactive" {
            section.accepted = false;
        }
    }
    sections
}

/// Whether there is something that we can receive.
pub fn has_media(sdp: &str) -> bool {
    media(sdp)
        .iter()
        .any(|m| m.video && !m.h264.is_empty() || m.audio && !m.opus.is_empty())
}

/// What is lost of this source is asked for again; `None` if no section names it.
pub fn asks_again(sections: &[Media], ssrc: u32) -> Option<bool> {
    let section = sections.iter().find(|m| m.ssrcs.contains(&ssrc))?;
    Some(section.nack)
}

/// Says for every H.264 payload type of an offer that we understand
/// "frame complete".
pub fn offer_frame_complete(offer: &str) -> String {
    add_feedback(offer, FRAME_COMPLETE, |m| &m.frame_complete, |_, _| true)
}

/// Says the same of REMB.
pub fn offer_remb(offer: &str) -> String {
    add_feedback(offer, REMB, |m| &m.remb, |_, _| true)
}

/// Takes REMB in an answer where [`Media::wants_remb`].
pub fn answer_remb(answer: &str, offer: &str) -> String {
    let offered = media(offer);
    add_feedback(
        answer,
        REMB,
        |m| &m.remb,
        |index, pt| {
            offered
                .get(index)
                .is_some_and(|m| m.wants_remb() && m.remb.contains(&pt))
        },
    )
}

/// The header extensions that an answer accepts and that we know, as fields of
/// RTP caps.
pub fn extension_caps(answer: &str) -> gst::Caps {
    let mut s = gst::Structure::new_empty("application/x-rtp");
    for media in media(answer).iter().filter(|media| media.accepted) {
        for (id, uri) in &media.extensions {
            s.set(format!("extmap-{id}"), *uri);
        }
    }
    gst::Caps::from_iter([s])
}

/// An answer that promises no transport-wide feedback: webrtcbin takes it from the
/// offer, whatever the transceiver prefers.
pub fn without_transport_feedback(answer: &str) -> String {
    let is_it = |line: &str| line.starts_with("a=rtcp-fb:") && line.ends_with(" transport-cc");
    let rest = answer.lines().filter(|line| !is_it(line));
    rest.flat_map(|line| [line, "\r\n"]).collect()
}

/// An answer that takes no audio: webrtcbin takes what a transceiver that it makes
/// can take.
pub fn without_audio(answer: &str) -> String {
    let mut audio = false;
    let lines = answer.lines().flat_map(|line| {
        if line.starts_with("m=") {
            audio = line.starts_with("m=audio ");
        }
        let is_direction = ["a=recvonly", "a=sendrecv", "a=sendonly"].contains(&line);
        let line = if audio && is_direction {
            "a=inactive"
        } else {
            line
        };
        [line, "\r\n"]
    });
    lines.collect()
}

/// Under which id the peer that gave this answer reads when packets leave, if
/// it estimates by that and not by transport-wide feedback.
pub fn send_time_id(answer: &str) -> Option<u8> {
    let sections = media(answer);
    let section = sections
        .iter()
        .find(|m| m.video && m.accepted && m.has_extension(send_time::URI))?;
    let (id, _) = section
        .extensions
        .iter()
        .find(|(_, uri)| *uri == send_time::URI)?;
    let id = u8::try_from(*id).ok().filter(|id| (1..=14).contains(id))?;
    (!has_transport_feedback(answer)).then_some(id)
}

/// Takes in an answer what the offer says of "frame complete".
pub fn answer_frame_complete(answer: &str, offer: &str) -> String {
    let offered = media(offer);
    add_feedback(
        answer,
        FRAME_COMPLETE,
        |m| &m.frame_complete,
        |index, pt| {
            offered
                .get(index)
                .is_some_and(|m| m.frame_complete.contains(&pt))
        },
    )
}

/// Names no source of retransmissions in sections of audio: browsers refuse an
/// offer whose audio has more than one (libwebrtc's voice channel takes one SSRC).
/// A receiver finds the other by what it asked for.
pub fn offer_one_source_of_sound(offer: &str) -> String {
    let mut audio = false;
    let mut others: Vec<&str> = Vec::new();
    let mut out = String::with_capacity(offer.len());
    for line in offer.lines() {
        if line.starts_with("m=") {
            audio = line.starts_with("m=audio ");
            others.clear();
        }
        if audio && let Some(group) = line.strip_prefix("a=ssrc-group:FID ") {
            others.extend(group.split_ascii_whitespace().skip(1));
            continue;
        }
        let source = line.strip_prefix("a=ssrc:").filter(|_| audio);
        let source = source.and_then(|rest| rest.split_ascii_whitespace().next());
        if source.is_some_and(|ssrc| others.contains(&ssrc)) {
            continue;
        }
        out.push_str(line);
        out.push_str("\r\n");
    }
    out
}

/// Adds a type of feedback to the payload types of H.264 that are `wanted` and
/// do not have it.
fn add_feedback(
    sdp: &str,
    kind: &str,
    having: impl Fn(&Media) -> &Vec<u8>,
    wanted: impl Fn(usize, u8) -> bool,
) -> String {
    let sections = media(sdp);
    let mut out = String::with_capacity(sdp.len() + 64);
    // Number of m-lines read so far: the section is the one before.
    let mut count = 0usize;
    for line in sdp.lines() {
        out.push_str(line);
        out.push_str("\r\n");
        if line.starts_with("m=") {
            count += 1;
        }
        let Some(index) = count.checked_sub(1) else {
            continue;
        };
        let Some((pt, _)) = line.strip_prefix("a=rtpmap:").and_then(payload_and_rest) else {
            continue;
        };
        let section = &sections[index];
        if section.h264.contains(&pt) && !having(section).contains(&pt) && wanted(index, pt) {
            out.push_str(&format!("a=rtcp-fb:{pt} {kind}\r\n"));
        }
    }
    out
}

/// Whether the peer that gave this answer sends transport-wide feedback about
/// all that it takes.
pub fn has_transport_feedback(answer: &str) -> bool {
    let sections = media(answer);
    let mut taken = sections.iter().filter(|m| m.video && m.accepted).peekable();
    taken.peek().is_some() && taken.all(|m| m.transport_cc && m.has_extension(rtp::TWCC_URI))
}

/// Whether the peer that gave this answer reads when pictures passed our stages.
pub fn has_timing(answer: &str) -> bool {
    media(answer)
        .iter()
        .any(|m| m.video && m.accepted && m.has_extension(rtp::TIMING_URI))
}

/// Whether the peer that gave this answer is told how long to hold pictures back.
pub fn has_playout_delay(answer: &str) -> bool {
    answer.lines().any(|line| {
        line.starts_with("a=extmap:")
            && line.split_ascii_whitespace().nth(1) == Some(playout_delay::URI)
    })
}

/// Whether the peer that gave this answer takes the data channel.
pub fn has_data_channel(answer: &str) -> bool {
    answer.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some("m=application") && words.next().is_some_and(|port| port != "0")
    })
}

/// What the peer that gave this answer makes of audio: `None` if it takes none,
/// else whether it sends transport-wide feedback about it.
pub fn audio_accepted(answer: &str) -> Option<bool> {
    let sections = media(answer);
    let section = sections
        .iter()
        .find(|m| m.audio && m.accepted && !m.opus.is_empty())?;
    Some(section.transport_cc && section.has_extension(rtp::TWCC_URI))
}

/// Whether the peer that gave this answer can be sent two streams.
pub fn dual_accepted(answer: &str) -> Result<(), NotDual> {
    let sections: Vec<_> = media(answer).into_iter().filter(|m| m.video).collect();
    let stream = |index: usize| {
        sections
            .get(index)
            .filter(|m| m.accepted && !m.h264.is_empty())
    };
    let first = stream(0).ok_or(NotDual::FirstRefused)?;
    let second = stream(1).ok_or(NotDual::SecondRefused)?;
    for section in [first, second] {
        if !section.has_extension(rtp::FRAME_URI) {
            return Err(NotDual::NoFrameExtension);
        }
        if !section.has_frame_complete() {
            return Err(NotDual::NoFrameComplete);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=sendonly\r\n\
        a=rtpmap:96 H264/90000\r\na=rtcp-fb:96 nack pli\r\n\
        a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
        a=extmap:4 urn:x-gst-dualstream:frame:1\r\n\
        a=rtpmap:97 rtx/90000\r\n\
        m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=bundle-only\r\n\
        a=rtpmap:96 h264/90000\r\na=extmap:4/sendonly urn:x-gst-dualstream:frame:1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";

    #[test]
    fn transport_wide_feedback_needs_extension_and_feedback_in_all_that_is_taken() {
        let line = "a=rtcp-fb:96 transport-cc\r\n";
        let first = OFFER.replace("a=extmap:3", &format!("{line}a=extmap:3"));
        // The second section is refused.
        assert!(has_transport_feedback(&first));
        assert!(!has_transport_feedback(OFFER), "no feedback");
        assert!(!has_transport_feedback(
            &first.replace("a=extmap:3", "a=x:3")
        ));
        let both = first.replace("m=video 0", "m=video 9");
        assert!(!has_transport_feedback(&both), "the second has none");
        assert!(!has_transport_feedback(""));
    }

    #[test]
    fn feedback_is_left_out_of_an_answer() {
        let line = "a=rtcp-fb:96 transport-cc\r\n";
        let with = OFFER.replace("a=extmap:3", &format!("{line}a=extmap:3"));
        assert!(has_transport_feedback(&with));
        assert_eq!(without_transport_feedback(&with), OFFER);
        assert_eq!(without_transport_feedback(OFFER), OFFER);
    }

    /// As aiortc offers: REMB, no transport-wide feedback.
    fn remb_only() -> String {
        let plain = OFFER.replace(rtp::TWCC_URI, send_time::URI);
        plain.replacen("a=rtcp-fb:96 nack pli", "a=rtcp-fb:96 goog-remb", 1)
    }

    #[test]
    fn remb_is_taken_only_where_there_is_nothing_better() {
        let offer = remb_only();
        let sections = media(&offer);
        assert!(sections[0].wants_remb());
        assert!(!sections[1].wants_remb(), "not offered there");
        let answer = offer.replace("a=rtcp-fb:96 goog-remb\r\n", "");
        assert_eq!(answer_remb(&answer, &offer).matches(REMB).count(), 1);

        let better = offer.replace("a=rtcp-fb:96", "a=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96");
        assert!(!media(&better)[0].wants_remb());
        assert_eq!(answer_remb(&answer, &better), answer);
        let untimed = offer.replace(send_time::URI, "urn:x");
        assert!(!media(&untimed)[0].wants_remb());
        assert_eq!(offer_remb(OFFER).matches(REMB).count(), 2);
    }

    #[test]
    fn departures_are_written_only_for_a_peer_without_transport_feedback() {
        assert_eq!(send_time_id(&remb_only()), Some(3));
        assert_eq!(send_time_id(OFFER), None);
        let both = remb_only().replace(
            "a=rtcp-fb:96",
            &format!(
                "a=rtcp-fb:96 transport-cc\r\na=extmap:7 {}\r\na=rtcp-fb:96",
                rtp::TWCC_URI
            ),
        );
        assert!(has_transport_feedback(&both));
        assert_eq!(send_time_id(&both), None);
        let long = remb_only().replace("a=extmap:3", "a=extmap:15");
        assert_eq!(send_time_id(&long), None, "15 is reserved");
    }

    /// An answer to `OFFER` that takes everything, made line by line.
    fn answer() -> String {
        answer_frame_complete(
            &OFFER.replace("m=video 0", "m=video 9"),
            &offer_frame_complete(OFFER),
        )
    }

    #[test]
    fn sections_are_read() {
        let sections = media(OFFER);
        assert_eq!(sections.len(), 3);
        assert_eq!(sections[0].h264, [96]);
        assert_eq!(
            sections[0].extensions,
            [(3, rtp::TWCC_URI), (4, rtp::FRAME_URI)]
        );
        assert!(sections[0].accepted && !sections[0].has_frame_complete());
        assert!(!sections[1].accepted, "port 0");
        assert_eq!(sections[1].extensions, [(4, rtp::FRAME_URI)]);
        assert!(!sections[2].video && sections[2].h264.is_empty());
        assert!(sections[2].audio && !sections[2].nack);
        assert_eq!(sections[2].opus, [111]);
    }

    #[test]
    fn audio_is_taken_with_or_without_feedback_or_not_at_all() {
        assert_eq!(audio_accepted(OFFER), Some(false));
        let with = OFFER.to_owned()
            + "a=rtcp-fb:111 transport-cc\r\n\
               a=extmap:1 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n";
        assert_eq!(audio_accepted(&with), Some(true));
        let refused = OFFER.replace("m=audio 9", "m=audio 0");
        assert_eq!(audio_accepted(&refused), None);
        assert_eq!(audio_accepted(&OFFER.replace("opus", "PCMU")), None);
        assert_eq!(audio_accepted(""), None);
        let with = with + "a=recvonly\r\n";
        assert_eq!(audio_accepted(&with), Some(true));
        assert_eq!(audio_accepted(&without_audio(&with)), None);
        assert_eq!(dual_accepted(&without_audio(&with)), dual_accepted(&with));
    }

    #[test]
    fn a_data_channel_is_taken_by_its_port() {
        let taken = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n";
        assert!(has_data_channel(taken));
        assert!(!has_data_channel(
            &taken.replace("m=application 9", "m=application 0")
        ));
        assert!(!has_data_channel(OFFER) && !has_data_channel("m=application"));
        assert!(!has_playout_delay(OFFER));
        let line = format!("a=extmap:7 {}\r\n", playout_delay::URI);
        assert!(has_playout_delay(&(OFFER.to_owned() + &line)));
    }

    #[test]
    fn frame_complete_is_said_once_for_h264_only() {
        let offer = offer_frame_complete(OFFER);
        assert_eq!(offer.matches(FRAME_COMPLETE).count(), 2);
        assert!(offer.contains("a=rtpmap:96 H264/90000\r\na=rtcp-fb:96 x-iframe-complete\r\n"));
        assert_eq!(offer_frame_complete(&offer), offer);
    }

    #[test]
    fn each_source_is_asked_for_again_as_its_own_section_says() {
        let offer = "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtcp-fb:96 nack\r\na=ssrc:1 cname:x\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtcp-fb:111 transport-cc\r\na=ssrc:2 cname:x\r\n";
        let asks = |offer: &str| [1, 2, 3].map(|ssrc| asks_again(&media(offer), ssrc));
        assert_eq!(asks(offer), [Some(true), Some(false), None]);
        let both = offer.replace("transport-cc", "nack");
        assert_eq!(asks(&both), [Some(true), Some(true), None]);
        let pictures_only = offer.replace("96 nack", "96 nack pli");
        assert_eq!(asks(&pictures_only), [Some(false), Some(false), None]);
    }

    #[test]
    fn sound_is_offered_with_one_source_and_pictures_with_theirs() {
        let video = "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=ssrc-group:FID 1 2\r\n\
            a=ssrc:1 cname:x\r\na=ssrc:2 cname:x\r\n";
        let offer = format!(
            "{video}m=audio 9 UDP/TLS/RTP/SAVPF 111 98\r\na=fmtp:98 apt=111\r\n\
             a=ssrc-group:FID 33 4\r\na=ssrc:33 msid:x y\r\na=ssrc:33 cname:x\r\n\
             a=ssrc:4 msid:x y\r\na=ssrc:4 cname:x\r\na=mid:a\r\n{}",
            &video[5..]
        );
        let wanted = format!(
            "{video}m=audio 9 UDP/TLS/RTP/SAVPF 111 98\r\na=fmtp:98 apt=111\r\n\
             a=ssrc:33 msid:x y\r\na=ssrc:33 cname:x\r\na=mid:a\r\n{}",
            &video[5..]
        );
        assert_eq!(offer_one_source_of_sound(&offer), wanted);
        assert_eq!(offer_one_source_of_sound(&wanted), wanted);
    }

    #[test]
    fn an_answer_takes_only_what_was_offered() {
        assert_eq!(answer_frame_complete(OFFER, OFFER), OFFER);
        assert_eq!(answer().matches(FRAME_COMPLETE).count(), 2);
    }

    #[test]
    fn a_peer_is_dual_only_if_it_took_everything() {
        let full = answer();
        assert_eq!(dual_accepted(&full), Ok(()));
        assert_eq!(
            dual_accepted(&full.replace("a=rtcp-fb:96 x-iframe-complete\r\n", "")),
            Err(NotDual::NoFrameComplete)
        );
        assert_eq!(
            dual_accepted(&full.replace("dualstream:frame:1", "dualstream:frame:2")),
            Err(NotDual::NoFrameExtension)
        );
        assert_eq!(
            dual_accepted(&full.replacen("a=bundle-only", "a=inactive", 1)),
            Err(NotDual::SecondRefused)
        );
        assert_eq!(
            dual_accepted(&full.replace("m=video 9", "m=video 0")),
            Err(NotDual::FirstRefused)
        );
        let first_only = &full[..full.rfind("m=video").unwrap()];
        assert_eq!(dual_accepted(first_only), Err(NotDual::SecondRefused));
    }

    /// A description comes from the network: any text is read without a panic.
    #[test]
    fn nonsense_is_passed_over() {
        for text in [
            "",
            "a=rtpmap:96 H264/90000",
            "m=",
            "m=video",
            "m=video 9\r\na=rtpmap:\r\na=rtpmap:999 H264/90000\r\na=extmap:\r\na=extmap:x y\r\na=rtcp-fb:96",
            "m=video 9\na=rtpmap:96",
        ] {
            let _ = dual_accepted(text);
            let _ = answer_frame_complete(&offer_frame_complete(text), text);
        }
    }
}
