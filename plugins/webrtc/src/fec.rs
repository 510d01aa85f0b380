// SPDX-License-Identifier: MPL-2.0
//! FlexFEC in session descriptions, as text: webrtcbin 1.22 neither offers nor
//! answers it, but takes a description that has it.
//!
//! The wire format is draft-ietf-payload-flexible-fec-scheme-03 as browsers
//! have it (`flexfec-03`). FEC packets have an SSRC of their own, tied to the
//! one they protect by `a=ssrc-group:FEC-FR` (RFC 5956 section 4.3).
//!
//! Deliberate differences from the draft: only section 4.2's kind of FEC packet
//! that protects one SSRC is offered and answered, because browsers take no
//! other; the group stands in offers only, because a receiver sends no media.

use std::collections::BTreeSet;

use gst::glib;

/// Encoding name in `a=rtpmap`.
const FLEXFEC: &str = "flexfec-03";
const CLOCK_RATE: &str = "90000";
/// How long FEC packets may come after what they protect, in µs. What browsers
/// say.
const REPAIR_WINDOW_US: u64 = 10_000_000;
/// Tried first; what the examples use.
const PREFERRED_PT: u8 = 110;
/// Groups that are kept of one media section. More is not ours to protect.
const MOST_GROUPS: usize = 16;
/// Draws of an SSRC that is not in use.
const MOST_DRAWS: usize = 64;

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcFec")]
pub enum Wish {
    /// FlexFEC only: where RED is taken, all media would be wrapped in it whether
    /// FEC is needed or not, and what others' rtpulpfecenc protects, their
    /// rtpredenc drops: every packet that is recovered would be garbage.
    #[default]
    #[enum_value(
        name = "FlexFEC if the peer has it; a sender only with congestion control",
        nick = "auto"
    )]
    Auto,
    #[enum_value(name = "No FEC", nick = "off")]
    Off,
    #[enum_value(
        name = "ULPFEC in RED (RFC 5109, RFC 2198), if the peer has it",
        nick = "ulpfec"
    )]
    UlpFec,
    #[enum_value(name = "FlexFEC, draft 03, if the peer has it", nick = "flexfec-03")]
    FlexFec03,
}

impl Wish {
    /// A sender offers it. By itself only where congestion control makes room
    /// for it.
    pub fn sends(self, controlled: bool) -> bool {
        match self {
            Self::Auto => controlled,
            Self::Off => false,
            Self::UlpFec | Self::FlexFec03 => true,
        }
    }

    pub fn takes_ulpfec(self) -> bool {
        self == Self::UlpFec
    }

    pub fn wants_flexfec(self) -> bool {
        matches!(self, Self::Auto | Self::FlexFec03)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agreed {
    #[default]
    None,
    UlpFec,
    FlexFec03,
}

impl Agreed {
    /// As in `stats`.
    pub fn nick(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::UlpFec => "ulpfec",
            Self::FlexFec03 => "flexfec-03",
        }
    }
}

/// `flexfec-03` in one media section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlexFec {
    pub pt: u8,
    /// Protected SSRC, and that of its FEC packets.
    pub groups: Vec<(u32, u32)>,
    /// In µs.
    pub repair_window: Option<u64>,
}

/// A media section's lines, the `m=` line first.
struct Section<'a>(Vec<&'a str>);

/// What comes before the first section, and the sections.
fn split(sdp: &str) -> (Vec<&str>, Vec<Section<'_>>) {
    let mut head = Vec::new();
    let mut sections: Vec<Section> = Vec::new();
    for line in sdp.lines() {
        if line.starts_with("m=") {
            sections.push(Section(vec![line]));
        } else if let Some(section) = sections.last_mut() {
            section.0.push(line);
        } else {
            head.push(line);
        }
    }
    (head, sections)
}

fn join(head: &[&str], sections: &[Vec<String>]) -> String {
    let mut out = String::new();
    for line in head
        .iter()
        .copied()
        .chain(sections.iter().flatten().map(String::as_str))
    {
        out.push_str(line);
        out.push_str("\r\n");
    }
    out
}

/// `<number> <rest>`.
fn number_and_rest<T: std::str::FromStr>(text: &str) -> Option<(T, &str)> {
    let (number, rest) = text.split_once(' ')?;
    Some((number.parse().ok()?, rest.trim()))
}

impl<'a> Section<'a> {
    /// Values of `a=<name>:`.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |line| {
            line.strip_prefix("a=")?
                .strip_prefix(name)?
                .strip_prefix(':')
        })
    }

    fn words(&self) -> impl Iterator<Item = &'a str> {
        self.0
            .first()
            .and_then(|line| line.strip_prefix("m="))
            .unwrap_or_default()
            .split_ascii_whitespace()
    }

    fn formats(&self) -> impl Iterator<Item = u8> {
        // <media> <port> <proto> <fmt> ...
        self.words().skip(3).filter_map(|word| word.parse().ok())
    }

    /// Not refused: port 0 without bundle-only (RFC 8843 section 6), or
    /// inactive.
    fn is_live_video(&self) -> bool {
        let mut words = self.words();
        let has = |line: &str| self.0.contains(&line);
        words.next() == Some("video")
            && words
                .next()
                .is_some_and(|port| port != "0" || has("a=bundle-only"))
            && !has("a=inactive")
    }

    /// Payload types of this encoding that the `m=` line has.
    fn payload_types(&self, encoding: &str) -> impl Iterator<Item = u8> {
        self.values("rtpmap").filter_map(move |value| {
            let (pt, codec) = number_and_rest::<u8>(value)?;
            let (name, clock_rate) = codec.split_once('/')?;
            (name.eq_ignore_ascii_case(encoding)
                && clock_rate == CLOCK_RATE
                && pt < 128
                && self.formats().any(|format| format == pt))
            .then_some(pt)
        })
    }

    fn has_h264(&self) -> bool {
        self.payload_types("H264").next().is_some()
    }

    fn has_transport_feedback(&self) -> bool {
        self.values("rtcp-fb")
            .any(|value| value.ends_with(" transport-cc"))
    }

    /// The media's SSRC: the only one, or the first of those that are related.
    fn source(&self) -> Option<u32> {
        self.values("ssrc-group")
            .find_map(|value| value.strip_prefix("FID "))
            .and_then(|rest| rest.split_ascii_whitespace().next())
            .or_else(|| self.values("ssrc").next()?.split(' ').next())
            .and_then(|ssrc| ssrc.parse().ok())
    }

    fn groups(&self) -> Vec<(u32, u32)> {
        self.values("ssrc-group")
            .filter_map(|value| {
                let mut ssrcs = value
                    .strip_prefix("FEC-FR ")?
                    .split_ascii_whitespace()
                    .map(str::parse);
                Some((ssrcs.next()?.ok()?, ssrcs.next()?.ok()?))
            })
            .filter(|(media, fec)| media != fec)
            .take(MOST_GROUPS)
            .collect()
    }

    fn flexfec(&self) -> Option<FlexFec> {
        if !self.is_live_video() || !self.has_h264() {
            return None;
        }
        let pt = self
            .payload_types(FLEXFEC)
            .find(|pt| self.payload_types("H264").all(|media| media != *pt))?;
        let repair_window = self
            .values("fmtp")
            .filter_map(number_and_rest::<u8>)
            .filter(|(format, _)| *format == pt)
            .flat_map(|(_, parameters)| parameters.split(';'))
            .find_map(|parameter| parameter.trim().strip_prefix("repair-window="))
            .and_then(|window| window.parse().ok());
        Some(FlexFec {
            pt,
            groups: self.groups(),
            repair_window,
        })
    }

    /// The section with a payload type for FlexFEC behind that of H.264, and
    /// `sources` behind those of the media: browsers take the first source of
    /// a track for its media.
    fn with_flexfec(&self, pt: u8, sources: &[String]) -> Vec<String> {
        let mut codec = vec![
            format!("a=rtpmap:{pt} {FLEXFEC}/{CLOCK_RATE}"),
            format!("a=fmtp:{pt} repair-window={REPAIR_WINDOW_US}"),
        ];
        if self.has_transport_feedback() {
            codec.push(format!("a=rtcp-fb:{pt} transport-cc"));
        }
        let last = |prefix: &str| self.0.iter().rposition(|line| line.starts_with(prefix));
        let (last_codec, last_source) = (last("a=rtpmap:"), last("a=ssrc:"));
        let mut out = Vec::with_capacity(self.0.len() + codec.len() + sources.len());
        for (index, line) in self.0.iter().enumerate() {
            if index == 0 {
                out.push(format!("{line} {pt}"));
            } else {
                out.push((*line).to_owned());
            }
            if Some(index) == last_codec {
                out.append(&mut codec);
            }
            if Some(index) == last_source {
                out.extend_from_slice(sources);
            }
        }
        out
    }

    /// The group, and all that is said of the media's SSRC for that of FEC.
    fn sources(&self, media: u32, fec: u32) -> Vec<String> {
        let mut out = vec![format!("a=ssrc-group:FEC-FR {media} {fec}")];
        out.extend(
            self.values("ssrc")
                .filter_map(number_and_rest::<u32>)
                .filter(|(ssrc, _)| *ssrc == media)
                .map(|(_, rest)| format!("a=ssrc:{fec} {rest}")),
        );
        out
    }

    fn unchanged(&self) -> Vec<String> {
        self.0.iter().map(|line| (*line).to_owned()).collect()
    }
}

/// All payload types that a description speaks of: those of a bundle share
/// one space (RFC 8843 section 9.1).
fn taken(sections: &[Section]) -> BTreeSet<u8> {
    sections
        .iter()
        .flat_map(|section| {
            section.formats().chain(
                section
                    .values("rtpmap")
                    .filter_map(|value| Some(number_and_rest::<u8>(value)?.0)),
            )
        })
        .collect()
}

/// A dynamic payload type that is not in use, none that RTCP could be mistaken
/// for (RFC 5761 section 4).
fn free_payload_type(taken: &BTreeSet<u8>) -> Option<u8> {
    [PREFERRED_PT]
        .into_iter()
        .chain((96..128).rev())
        .chain(35..64)
        .find(|pt| !taken.contains(pt))
}

fn ssrcs_in<'a>(sections: &'a [Section]) -> impl Iterator<Item = u32> + 'a {
    sections
        .iter()
        .flat_map(|section| section.values("ssrc"))
        .filter_map(|value| value.split(' ').next()?.parse().ok())
}

/// The media sections' FlexFEC. Lines that make no sense are passed over.
pub fn flexfec(sdp: &str) -> Vec<Option<FlexFec>> {
    split(sdp).1.iter().map(Section::flexfec).collect()
}

/// Offers FlexFEC for each H.264 stream with an SSRC, under one payload type.
/// `random` gives SSRCs to choose from.
pub fn offer_flexfec(offer: &str, mut random: impl FnMut() -> u32) -> String {
    let (head, sections) = split(offer);
    let mut ssrcs: BTreeSet<u32> = ssrcs_in(&sections).collect();
    let Some(pt) = free_payload_type(&taken(&sections)) else {
        return offer.to_owned();
    };
    let sections: Vec<_> = sections
        .iter()
        .map(|section| {
            let wanted = section.is_live_video()
                && section.has_h264()
                && section.payload_types(FLEXFEC).next().is_none();
            let fec = (0..MOST_DRAWS)
                .map(|_| random())
                .find(|ssrc| *ssrc != 0 && !ssrcs.contains(ssrc));
            match (section.source().filter(|_| wanted), fec) {
                (Some(media), Some(fec)) => {
                    ssrcs.insert(fec);
                    section.with_flexfec(pt, &section.sources(media, fec))
                }
                _ => section.unchanged(),
            }
        })
        .collect();
    join(&head, &sections)
}

/// Takes in an answer the FlexFEC that the offer has, under the offer's
/// payload type.
pub fn answer_flexfec(answer: &str, offer: &str) -> String {
    let offered = flexfec(offer);
    let (head, sections) = split(answer);
    let taken = taken(&sections);
    // There is one decoder for all of a bundle.
    let Some(pt) = offered.iter().flatten().map(|fec| fec.pt).next() else {
        return answer.to_owned();
    };
    let sections: Vec<_> = sections
        .iter()
        .enumerate()
        .map(|(index, section)| {
            let offered = offered.get(index).is_some_and(|fec| {
                fec.as_ref().is_some_and(|fec| fec.pt == pt) && !taken.contains(&pt)
            });
            if offered && section.is_live_video() && section.has_h264() {
                section.with_flexfec(pt, &[])
            } else {
                section.unchanged()
            }
        })
        .collect();
    join(&head, &sections)
}

/// What an offer of FlexFEC came to: for each media section the payload type
/// with the protected SSRC and that of its FEC packets. An answer under
/// another payload type is none: the numbers of a stream that is only sent are
/// the offer's.
pub fn accepted_flexfec(offer: &str, answer: &str) -> Vec<Option<(u8, u32, u32)>> {
    let answered = flexfec(answer);
    flexfec(offer)
        .into_iter()
        .enumerate()
        .map(|(index, offered)| {
            let offered = offered?;
            let answered = answered.get(index)?.as_ref()?;
            let (media, fec) = *offered.groups.first()?;
            (answered.pt == offered.pt).then_some((offered.pt, media, fec))
        })
        .collect()
}

/// Whether each section of a description has RED and ULPFEC for its video.
pub fn has_ulpfec(sdp: &str) -> Vec<bool> {
    split(sdp)
        .1
        .iter()
        .map(|section| {
            section.is_live_video()
                && section.has_h264()
                && section.payload_types("red").next().is_some()
                && section.payload_types("ulpfec").next().is_some()
        })
        .collect()
}

/// Whether the peer that gave this answer asks for lost packets again.
pub fn has_nack(answer: &str) -> bool {
    split(answer).1.iter().any(|section| {
        section.is_live_video()
            && section
                .values("rtcp-fb")
                .filter_map(number_and_rest::<u8>)
                .any(|(pt, kind)| kind == "nack" && section.payload_types("H264").any(|h| h == pt))
    })
}

#[cfg(test)]
#[path = "fec_tests.rs"]
mod tests;
