// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

pub(crate) mod estimate;
mod imp;
mod rtcp;
mod session;
pub(crate) mod settings;
mod state;
pub(crate) mod twcc;

/// What finds the trend in the delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstRtpGccDelayFilter")]
pub enum DelayFilter {
    #[default]
    #[enum_value(
        name = "Trendline: least-squares line through the delay of 20 groups of packets, as in libwebrtc",
        nick = "trendline"
    )]
    Trendline,
    #[enum_value(
        name = "Kalman: arrival filter of draft-ietf-rmcat-gcc-02",
        nick = "kalman"
    )]
    Kalman,
}

glib::wrapper! {
    pub struct RtpGcc(ObjectSubclass<imp::RtpGcc>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    DelayFilter::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(
        Some(plugin),
        "rtpgcc",
        gst::Rank::NONE,
        RtpGcc::static_type(),
    )
}
