// SPDX-License-Identifier: MPL-2.0
//! What the application chooses, and the properties for it.

use std::time::Duration;

use dualstream_common::Ratio;
use flexfec_core::controller::{Config, LEAST_RESIDUAL, LONGEST_DEADLINE, Mode};
use flexfec_core::mask::{Family, Protection};
use gst::glib;
use gst::prelude::*;

use super::{Control, MaskFamily, ProtectionMode};
use crate::format::Format;
use crate::rtp;

/// `pt` that no packet can have.
pub const NO_PT: u32 = 255;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub pt: u32,
    /// 0 = a random one.
    pub ssrc: u32,
    pub protected: Vec<u32>,
    pub format: Format,
    pub control: Control,
    pub percentage: u32,
    pub percentage_key: u32,
    pub target_residual: f64,
    pub max_overhead: f64,
    pub deadline_ms: u32,
    pub nack: bool,
    pub mask: MaskFamily,
    pub protection: ProtectionMode,
    pub dry_run: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let core = Config::default();
        Self {
            pt: NO_PT,
            ssrc: 0,
            protected: Vec::new(),
            format: Format::default(),
            control: Control::default(),
            percentage: 20,
            percentage_key: 50,
            target_residual: core.target_residual.value(),
            max_overhead: core.max_overhead.value(),
            deadline_ms: core.deadline.as_millis() as u32,
            nack: core.nack,
            mask: MaskFamily::default(),
            protection: ProtectionMode::default(),
            dry_run: false,
        }
    }
}

impl Settings {
    /// The payload type of FEC packets, if any are to be made.
    pub fn pt(&self) -> Option<u8> {
        u8::try_from(self.pt)
            .ok()
            .filter(|pt| *pt < 128 && !self.dry_run)
    }

    pub fn config(&self) -> Config {
        let share = |percent: u32| Ratio::clamped(f64::from(percent) / 100.0);
        Config {
            mode: match self.control {
                Control::Adaptive => Mode::Adaptive,
                Control::Fixed => Mode::Fixed {
                    delta: share(self.percentage),
                    key: share(self.percentage_key),
                },
            },
            target_residual: Ratio::clamped(self.target_residual),
            max_overhead: Ratio::clamped(self.max_overhead),
            deadline: Duration::from_millis(self.deadline_ms.into()),
            nack: self.nack,
            family: match self.mask {
                MaskFamily::Auto => None,
                MaskFamily::Random => Some(Family::Random),
                MaskFamily::Bursty => Some(Family::Bursty),
            },
            protection: match self.protection {
                ProtectionMode::Equal => Protection::Equal,
                ProtectionMode::NoOverlap => Protection::NoOverlap,
                ProtectionMode::Overlap => Protection::Overlap,
                ProtectionMode::BiasFirstPacket => Protection::BiasFirstPacket,
            },
        }
    }

    pub fn value(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "pt" => self.pt.to_value(),
            "ssrc" => self.ssrc.to_value(),
            "protected-ssrcs" => gst::Array::new(&self.protected).to_value(),
            "format" => self.format.to_value(),
            "controller" => self.control.to_value(),
            "percentage" => self.percentage.to_value(),
            "percentage-key" => self.percentage_key.to_value(),
            "target-residual" => self.target_residual.to_value(),
            "max-overhead" => self.max_overhead.to_value(),
            "deadline" => self.deadline_ms.to_value(),
            "nack" => self.nack.to_value(),
            "mask" => self.mask.to_value(),
            "protection-mode" => self.protection.to_value(),
            "dry-run" => self.dry_run.to_value(),
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
            "controller" => self.control = value.get()?,
            "percentage" => self.percentage = value.get()?,
            "percentage-key" => self.percentage_key = value.get()?,
            "target-residual" => self.target_residual = value.get()?,
            "max-overhead" => self.max_overhead = value.get()?,
            "deadline" => self.deadline_ms = value.get()?,
            "nack" => self.nack = value.get()?,
            "mask" => self.mask = value.get()?,
            "protection-mode" => self.protection = value.get()?,
            "dry-run" => self.dry_run = value.get()?,
            _ => (),
        }
        Ok(())
    }
}

fn recommended(name: &str, nick: &str, blurb: &str) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .maximum(100)
        .read_only()
        .build()
}

fn percentage(name: &str, nick: &str, blurb: &str, default: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .maximum(100)
        .default_value(default)
        .mutable_playing()
        .build()
}

pub fn properties() -> Vec<glib::ParamSpec> {
    let mut all = stream_properties();
    all.extend(controller_properties());
    all.push(
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("Packets, blocks, and what is known of the network")
            .read_only()
            .build(),
    );
    all
}

fn stream_properties() -> Vec<glib::ParamSpec> {
    let default = Settings::default();
    vec![
        glib::ParamSpecUInt::builder("pt")
            .nick("Payload Type")
            .blurb("Payload type of FEC packets, 0 to 127; 255 = none are made")
            .maximum(255)
            .default_value(default.pt)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("ssrc")
            .nick("SSRC")
            .blurb(
                "SSRC of FEC packets; 0 = a random one, which is chosen on the way to READY and \
                 can be read from then on",
            )
            .default_value(default.ssrc)
            .mutable_playing()
            .build(),
        rtp::ssrcs_property(
            "SSRCs of the packets that are protected; empty = the one in the caps, else that of \
             the first packet",
        ),
        glib::ParamSpecEnum::builder_with_default("format", default.format)
            .nick("Format")
            .blurb("Format of FEC packets")
            .mutable_playing()
            .build(),
    ]
}

fn controller_properties() -> Vec<glib::ParamSpec> {
    let default = Settings::default();
    vec![
        glib::ParamSpecEnum::builder_with_default("controller", default.control)
            .nick("Controller")
            .blurb("What decides how much protection there is")
            .mutable_playing()
            .build(),
        percentage(
            "percentage",
            "Percentage",
            "FEC packets in percent of media packets, in the mean over frames (controller=fixed)",
            default.percentage,
        ),
        percentage(
            "percentage-key",
            "Key Frame Percentage",
            "The same for key frames (controller=fixed)",
            default.percentage_key,
        ),
        glib::ParamSpecDouble::builder("target-residual")
            .nick("Target Residual")
            .blurb(
                "Share of frames that may still be incomplete at the deadline \
                 (controller=adaptive)",
            )
            .minimum(LEAST_RESIDUAL)
            .maximum(0.5)
            .default_value(default.target_residual)
            .mutable_playing()
            .build(),
        glib::ParamSpecDouble::builder("max-overhead")
            .nick("Maximum Overhead")
            .blurb("FEC packets for each media packet, at most (controller=adaptive)")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(default.max_overhead)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("deadline")
            .nick("Deadline")
            .blurb(
                "How long the receiver waits for the repair of a frame, in ms: what it buffers \
                 (controller=adaptive)",
            )
            .minimum(1)
            .maximum(LONGEST_DEADLINE.as_millis() as u32)
            .default_value(default.deadline_ms)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("nack")
            .nick("NACK")
            .blurb("Whether the receiver asks for lost packets again (controller=adaptive)")
            .default_value(default.nack)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("mask", default.mask)
            .nick("Mask")
            .blurb("What losses the packets are combined for")
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("protection-mode", default.protection)
            .nick("Protection Mode")
            .blurb("How important packets are protected beside the others")
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("dry-run")
            .nick("Dry Run")
            .blurb(
                "Make no FEC packets, whatever pt is, but decide and lower target-bitrate as if, \
                 and mark packets of key frames as not droppable: for another FEC encoder \
                 downstream, to which the recommended percentages are given",
            )
            .default_value(default.dry_run)
            .mutable_playing()
            .build(),
        recommended(
            "recommended-percentage",
            "Recommended Percentage",
            "FEC packets in percent of media packets that are called for now",
        ),
        recommended(
            "recommended-percentage-key",
            "Recommended Key Frame Percentage",
            "The same for key frames",
        ),
    ]
}
