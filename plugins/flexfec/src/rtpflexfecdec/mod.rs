// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::meta::CustomMeta;
use gst::prelude::*;

mod imp;
mod settings;

/// Of packets that were recovered. Without tags.
const RECOVERED_META: &str = "DualStreamFecRecovered";

glib::wrapper! {
    pub struct RtpFlexFecDec(ObjectSubclass<imp::RtpFlexFecDec>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    if !CustomMeta::is_registered(RECOVERED_META) {
        CustomMeta::register_simple(RECOVERED_META);
    }
    gst::Element::register(
        Some(plugin),
        "rtpflexfecdec",
        gst::Rank::NONE,
        RtpFlexFecDec::static_type(),
    )
}
