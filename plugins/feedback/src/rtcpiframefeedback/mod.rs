// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod event;
mod imp;
mod rtp;
mod session;

glib::wrapper! {
    pub struct RtcpIFrameFeedback(ObjectSubclass<imp::RtcpIFrameFeedback>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "rtcpiframefeedback",
        gst::Rank::NONE,
        RtcpIFrameFeedback::static_type(),
    )
}
