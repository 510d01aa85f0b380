// SPDX-License-Identifier: MPL-2.0
//! The static part of the data path.

use std::sync::Arc;

use gst::glib;
use gst::prelude::*;

use super::audio::AudioInput;
use super::gate::GateElement;
use super::kit::Kit;
use super::overload;
use super::rates::Rates;
use super::stats::Shared;
use super::timeline::Timeline;
use crate::requirements;

/// What is there from the start; the rest comes with sessions.
pub struct Parts {
    pub clocksync: gst::Element,
    pub gate: GateElement,
    /// Gives the pictures to the encoders.
    pub tee: gst::Element,
    /// Before the encoder.
    pub queue: gst::Element,
    pub encoder: gst::Element,
    pub rates: Rates,
    pub kit: Kit,
    /// None where the plugin is missing.
    pub audio_encoder: Option<gst::Element>,
    pub timeline: Timeline,
}

impl Parts {
    /// Builds what can be built; what is missing is an error at READY.
    /// `sinkpad`: gets its target.
    pub fn build(
        sink: &super::DualWebRtcSink,
        shared: &Arc<Shared>,
        sinkpad: &gst::GhostPad,
    ) -> Result<Self, gst::ErrorMessage> {
        requirements::check(requirements::SENDER)?;
        let convert = requirements::make("videoconvert", "convert")?;
        let clocksync = requirements::make("clocksync", "clocksync")?;
        let encoder = requirements::make("dualh264enc", "encoder")?;
        let tee = requirements::make("tee", "tee")?;
        tee.set_property("allow-not-linked", true);
        let broken = |err: glib::BoolError| gst::error_msg!(gst::CoreError::Failed, ["{err}"]);
        let pad = |element: &gst::Element, name: &str| {
            element.static_pad(name).ok_or_else(|| {
                gst::error_msg!(
                    gst::CoreError::Pad,
                    ["{} has no pad {name}", element.name()]
                )
            })
        };
        let timeline = Timeline::default();
        // What every peer decodes: 8 bit, 4:2:0.
        let formats = gst::Caps::builder("video/x-raw")
            .field("format", gst::List::new(["I420", "NV12", "YV12"]))
            .build();
        let entry = pad(&encoder, "sink")?;
        let gate = GateElement::new("gate", formats, &timeline, &clocksync, &entry);
        let queue = overload::queue("queue", sink, shared)?;
        sink.add_many([
            &convert,
            &clocksync,
            gate.upcast_ref(),
            &tee,
            &queue,
            &encoder,
        ])
        .map_err(broken)?;
        gst::Element::link_many([&convert, &clocksync, gate.upcast_ref(), &tee]).map_err(broken)?;
        queue.link(&encoder).map_err(broken)?;
        sinkpad
            .set_target(Some(&pad(&convert, "sink")?))
            .map_err(broken)?;
        // It runs with a session only.
        queue.set_locked_state(true);
        encoder.set_locked_state(true);
        let rates = Rates::new(&encoder);
        Ok(Self {
            clocksync,
            gate,
            tee,
            queue,
            kit: Kit::new(&rates)?,
            rates,
            audio_encoder: AudioInput::encoder().ok(),
            encoder,
            timeline,
        })
    }
}
