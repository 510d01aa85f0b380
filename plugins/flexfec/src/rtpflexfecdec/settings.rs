// SPDX-License-Identifier: MPL-2.0
//! What the application chooses, and the properties for it.

use std::time::Duration;

use flexfec_core::decoder::{DecoderConfig, Limits};
use flexfec_core::rtp::MutableExtensions;
use gst::glib;
use gst::prelude::*;

use crate::format::Format;
use crate::rtp;

/// `pt` that no packet can have.
const NO_PT: u32 = 255;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub pt: u32,
    /// 0 = any.
    pub ssrc: u32,
    pub protected: Vec<u32>,
    pub format: Format,
    /// Header extensions beside those of the caps of the stream.
    pub extensions: Option<gst::Caps>,
    pub max_age_ms: u32,
    pub max_packets: u32,
    pub max_bytes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            pt: NO_PT,
            ssrc: 0,
            protected: Vec::new(),
            format: Format::default(),
            extensions: None,
            max_age_ms: limits.age.as_millis() as u32,
            max_packets: limits.packets as u32,
            max_bytes: limits.bytes as u32,
        }
    }
}

impl Settings {
    /// Whether a packet is one of FEC. With neither a payload type nor an SSRC
    /// set none is.
    pub fn is_fec(&self, pt: u8, ssrc: u32) -> bool {
        let by_pt = self.pt < 128;
        (by_pt || self.ssrc != 0)
            && (!by_pt || self.pt == u32::from(pt))
            && (self.ssrc == 0 || self.ssrc == ssrc)
    }

    /// Whether caps are of FEC packets alone.
    pub fn are_of_fec(&self, caps: &gst::CapsRef) -> bool {
        let Some(s) = caps.structure(0) else {
            return false;
        };
        let pt = s.get::<i32>("payload").ok().map(u8::try_from);
        let ssrc = s.get::<u32>("ssrc");
        matches!((pt, ssrc), (Some(Ok(pt)), Ok(ssrc)) if self.is_fec(pt, ssrc))
    }

    pub fn config(&self, mutable: MutableExtensions) -> DecoderConfig {
        DecoderConfig {
            format: self.format.into(),
            fec_ssrc: (self.ssrc != 0).then_some(self.ssrc),
            protected: self.protected.clone(),
            mutable,
            limits: Limits {
                packets: self.max_packets as usize,
                bytes: self.max_bytes as usize,
                age: Duration::from_millis(self.max_age_ms.into()),
            },
        }
    }

    pub fn value(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "pt" => self.pt.to_value(),
            "ssrc" => self.ssrc.to_value(),
            "protected-ssrcs" => gst::Array::new(&self.protected).to_value(),
            "format" => self.format.to_value(),
            "header-extensions" => self.extensions.to_value(),
            "max-age" => self.max_age_ms.to_value(),
            "max-packets" => self.max_packets.to_value(),
            "max-bytes" => self.max_bytes.to_value(),
            _ => return None,
        })
    }

    pub fn set(
        &mut self,
        name: &str,
        value: &glib::Value,
    ) -> Result<(), glib::value::ValueTypeMismatchError> {
        match name {
            "pt" => self.pt = value.get()?,
            "ssrc" => self.ssrc = value.get()?,
            "protected-ssrcs" => self.protected = rtp::ssrcs(value),
            "format" => self.format = value.get()?,
            "header-extensions" => self.extensions = value.get()?,
            "max-age" => self.max_age_ms = value.get()?,
            "max-packets" => self.max_packets = value.get()?,
            "max-bytes" => self.max_bytes = value.get()?,
            _ => (),
        }
        Ok(())
    }
}

fn limit(
    name: &str,
    nick: &str,
    blurb: &str,
    range: std::ops::RangeInclusive<u32>,
    default: u32,
) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(*range.start())
        .maximum(*range.end())
        .default_value(default)
        .mutable_playing()
        .build()
}

pub fn properties() -> Vec<glib::ParamSpec> {
    let default = Settings::default();
    vec![
        glib::ParamSpecUInt::builder("pt")
            .nick("Payload Type")
            .blurb("Payload type of FEC packets, 0 to 127; 255 = any of the SSRC in ssrc")
            .maximum(255)
            .default_value(default.pt)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("ssrc")
            .nick("SSRC")
            .blurb("SSRC of FEC packets; 0 = any with the payload type in pt")
            .default_value(default.ssrc)
            .mutable_playing()
            .build(),
        rtp::ssrcs_property(
            "SSRCs of the packets that may be recovered; empty = any that FEC packets name",
        ),
        glib::ParamSpecEnum::builder_with_default("format", default.format)
            .nick("Format")
            .blurb("Format of FEC packets; a change drops what is held")
            .mutable_playing()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Caps>("header-extensions")
            .nick("Header Extensions")
            .blurb(
                "RTP caps whose fields extmap-N name the header extensions of the packets, for \
                 where the caps of the stream name none, as in webrtcbin",
            )
            .mutable_playing()
            .build(),
        limit(
            "max-age",
            "Maximum Age",
            "How long packets are kept to recover others, in ms",
            1..=60_000,
            default.max_age_ms,
        ),
        limit(
            "max-packets",
            "Maximum Packets",
            "How many packets are kept to recover others; a change drops what is held",
            1..=16_384,
            default.max_packets,
        ),
        limit(
            "max-bytes",
            "Maximum Bytes",
            "How many bytes of packets are kept; a change drops what is held",
            65_536..=1 << 30,
            default.max_bytes,
        ),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("Packets received, recovered and lost for good")
            .read_only()
            .build(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fec_packets_are_known_by_what_is_set() {
        let is_fec = |pt, ssrc| {
            let settings = Settings {
                pt,
                ssrc,
                ..Settings::default()
            };
            [(110, 7), (110, 8), (96, 7), (96, 8)].map(|(pt, ssrc)| settings.is_fec(pt, ssrc))
        };
        assert_eq!(is_fec(NO_PT, 0), [false; 4]);
        assert_eq!(is_fec(110, 0), [true, true, false, false]);
        assert_eq!(is_fec(NO_PT, 7), [true, false, true, false]);
        assert_eq!(is_fec(110, 7), [true, false, false, false]);
    }
}
