// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    pub struct RtpTrickle(ObjectSubclass<imp::RtpTrickle>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "rtptrickle",
        gst::Rank::NONE,
        RtpTrickle::static_type(),
    )
}
