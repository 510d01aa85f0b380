// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod classify;
mod estimate;
mod imp;
mod padding;
mod requests;
mod settings;
mod state;
mod stats;

glib::wrapper! {
    pub struct RtpPacer(ObjectSubclass<imp::RtpPacer>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    padding::register_probe_meta();
    gst::Element::register(
        Some(plugin),
        "rtppacer",
        gst::Rank::NONE,
        RtpPacer::static_type(),
    )
}
