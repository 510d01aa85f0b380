// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod imp;
mod rtp;
mod session;
mod state;

glib::wrapper! {
    pub struct RtpRemb(ObjectSubclass<imp::RtpRemb>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "rtpremb",
        gst::Rank::NONE,
        RtpRemb::static_type(),
    )
}
