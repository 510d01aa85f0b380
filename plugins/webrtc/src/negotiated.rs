// SPDX-License-Identifier: MPL-2.0
//! What came of a negotiation: which parts are in use, for `stats` and for one
//! line in the log.

use std::fmt;

use crate::fec::Agreed;
use crate::sdp;

/// What a sender is told of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Feedback {
    #[default]
    None,
    /// The receiver's estimate.
    Remb,
    /// When each packet came.
    TransportCc,
}

impl Feedback {
    /// As in `stats`, and in SDP.
    pub fn nick(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Remb => "remb",
            Self::TransportCc => "transport-cc",
        }
    }
}

/// What both ends see alike in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Or why not.
    pub dual: Result<(), String>,
    pub frame_feedback: bool,
    pub feedback: Feedback,
    pub fec: Agreed,
    pub retransmission: bool,
    pub audio: bool,
    pub capture_time: bool,
}

impl Default for Negotiated {
    fn default() -> Self {
        Self {
            dual: Err("not negotiated".into()),
            frame_feedback: false,
            feedback: Feedback::default(),
            fec: Agreed::default(),
            retransmission: false,
            audio: false,
            capture_time: false,
        }
    }
}

impl Negotiated {
    pub fn of(answer: &str, dual: Result<(), impl fmt::Display>, fec: Agreed) -> Self {
        let sections = sdp::media(answer);
        let any = |is: fn(&sdp::Media) -> bool| {
            let mut video = sections.iter().filter(|m| m.video && m.accepted);
            video.any(is)
        };
        let feedback = if sdp::has_transport_feedback(answer) {
            Feedback::TransportCc
        } else if any(sdp::Media::takes_remb) {
            Feedback::Remb
        } else {
            Feedback::None
        };
        Self {
            dual: dual.map_err(|why| why.to_string()),
            frame_feedback: any(sdp::Media::has_frame_complete),
            feedback,
            fec,
            retransmission: any(|m| m.nack && m.rtx),
            audio: sdp::audio_accepted(answer).is_some(),
            capture_time: any(|m| m.has_extension(crate::rtp::CAPTURE_URI)),
        }
    }

    /// What is lost may still come.
    pub fn repairs(&self) -> bool {
        self.retransmission || self.fec != Agreed::None
    }

    pub fn structure(&self) -> gst::Structure {
        gst::Structure::builder("negotiated")
            .field("dual-stream", self.dual.is_ok())
            .field("frame-feedback", self.frame_feedback)
            .field("congestion-feedback", self.feedback.nick())
            .field("fec", self.fec.nick())
            .field("retransmission", self.retransmission)
            .field("audio", self.audio)
            .field("abs-capture-time", self.capture_time)
            .build()
    }
}

/// `with A, B; without C (why), D`. `more`: parts of this end alone.
pub struct InWords<'a>(pub &'a Negotiated, pub &'a [(&'a str, bool)]);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, more) = self;
        let dual = match &what.dual {
            Ok(()) => "dual stream".to_owned(),
            Err(why) => format!("dual stream ({why})"),
        };
        let feedback = match what.feedback {
            Feedback::None => "congestion feedback".to_owned(),
            other => format!("congestion feedback by {}", other.nick()),
        };
        let fec = match what.fec {
            Agreed::None => "FEC",
            other => other.nick(),
        };
        let parts = [
            (dual.as_str(), what.dual.is_ok()),
            ("frame feedback", what.frame_feedback),
            (feedback.as_str(), what.feedback != Feedback::None),
            (fec, what.fec != Agreed::None),
            ("retransmission", what.retransmission),
            ("audio", what.audio),
            ("abs-capture-time", what.capture_time),
        ];
        let list = |wanted: bool| {
            let parts = parts.iter().chain(more.iter());
            let names: Vec<_> = parts
                .filter(|(_, is)| *is == wanted)
                .map(|(name, _)| *name)
                .collect();
            names.join(", ")
        };
        let (with, without) = (list(true), list(false));
        match (with.is_empty(), without.is_empty()) {
            (true, _) => write!(f, "without {without}"),
            (_, true) => write!(f, "with {with}"),
            _ => write!(f, "with {with}; without {without}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96 97\r\n\
        a=rtpmap:96 H264/90000\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 transport-cc\r\n\
        a=rtcp-fb:96 x-iframe-complete\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
        a=extmap:1 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
        a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";

    fn of(answer: &str) -> Negotiated {
        Negotiated::of(answer, Ok::<_, &str>(()), Agreed::FlexFec03)
    }

    #[test]
    fn each_part_is_read_from_the_answer() {
        let all = of(ALL);
        assert_eq!(
            InWords(&all, &[("rtppacer", true)]).to_string(),
            "with dual stream, frame feedback, congestion feedback by transport-cc, flexfec-03, \
             retransmission, audio, abs-capture-time, rtppacer"
        );
        let without = |line: &str| {
            assert!(ALL.contains(line), "{line}");
            of(&ALL.replace(line, ""))
        };
        for nack in ["a=rtcp-fb:96 nack\r\n", "a=rtpmap:97 rtx/90000\r\n"] {
            let part = without(nack);
            assert!(!part.retransmission, "{nack}");
            let same = Negotiated {
                retransmission: true,
                ..part
            };
            assert_eq!(same, all);
        }
        assert!(!without("a=rtcp-fb:96 x-iframe-complete\r\n").frame_feedback);
        let part = without("a=rtcp-fb:96 transport-cc\r\n");
        assert_eq!(part.feedback, Feedback::None);
        let remb = ALL.replace("transport-cc\r\na=rtcp", "goog-remb\r\na=rtcp");
        assert_eq!(of(&remb).feedback, Feedback::Remb);
        assert!(!of(&ALL.replace("m=audio 9", "m=audio 0")).audio);
        assert!(!of(&ALL.replace("abs-capture-time", "x")).capture_time);
        assert!(all.repairs());
    }

    #[test]
    fn nothing_is_said_in_words_too() {
        let nothing = Negotiated {
            dual: Err("the peer refused the second stream".into()),
            ..Negotiated::default()
        };
        assert!(!nothing.repairs());
        assert_eq!(
            InWords(&nothing, &[]).to_string(),
            "without dual stream (the peer refused the second stream), frame feedback, \
             congestion feedback, FEC, retransmission, audio, abs-capture-time"
        );
    }
}
