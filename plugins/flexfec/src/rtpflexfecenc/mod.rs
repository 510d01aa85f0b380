// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod estimate;
mod feedback;
mod imp;
mod settings;
mod state;

/// What decides how much protection there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstRtpFlexFecController")]
pub enum Control {
    #[default]
    #[enum_value(
        name = "Adaptive: the least that meets target-residual, by loss, bursts and round-trip time",
        nick = "adaptive"
    )]
    Adaptive,
    #[enum_value(
        name = "Fixed: percentage and percentage-key, whatever the network does",
        nick = "fixed"
    )]
    Fixed,
}

/// What losses the packets are combined for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstRtpFlexFecMask")]
pub enum MaskFamily {
    #[default]
    #[enum_value(name = "Auto: by the losses that were seen", nick = "auto")]
    Auto,
    #[enum_value(name = "Random: each packet is lost on its own", nick = "random")]
    Random,
    #[enum_value(name = "Bursty: packets are lost in runs", nick = "bursty")]
    Bursty,
}

/// How important packets are protected beside the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstRtpFlexFecProtectionMode")]
pub enum ProtectionMode {
    #[default]
    #[enum_value(name = "Equal: all packets alike", nick = "equal")]
    Equal,
    #[enum_value(
        name = "No overlap: important packets by FEC packets of their own, the others by the rest",
        nick = "no-overlap"
    )]
    NoOverlap,
    #[enum_value(
        name = "Overlap: important packets by FEC packets of their own, all by the rest",
        nick = "overlap"
    )]
    Overlap,
    #[enum_value(
        name = "Bias first packet: the first packet of a block better than the others",
        nick = "bias-first-packet"
    )]
    BiasFirstPacket,
}

glib::wrapper! {
    pub struct RtpFlexFecEnc(ObjectSubclass<imp::RtpFlexFecEnc>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    for type_ in [
        crate::format::Format::static_type(),
        Control::static_type(),
        MaskFamily::static_type(),
        ProtectionMode::static_type(),
    ] {
        type_.mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(
        Some(plugin),
        "rtpflexfecenc",
        gst::Rank::NONE,
        RtpFlexFecEnc::static_type(),
    )
}
