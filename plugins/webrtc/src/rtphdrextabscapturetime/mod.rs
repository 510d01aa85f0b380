// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    pub struct RtpHdrExtAbsCaptureTime(ObjectSubclass<imp::RtpHdrExtAbsCaptureTime>)
        @extends gst_rtp::RTPHeaderExtension, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    // Payloaders and depayloaders pick extensions of rank marginal and above.
    gst::Element::register(
        Some(plugin),
        "rtphdrextabscapturetime",
        gst::Rank::MARGINAL,
        RtpHdrExtAbsCaptureTime::static_type(),
    )
}
