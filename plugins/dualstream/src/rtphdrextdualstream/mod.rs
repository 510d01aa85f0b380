// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    pub struct RtpHdrExtDualStream(ObjectSubclass<imp::RtpHdrExtDualStream>)
        @extends gst_rtp::RTPHeaderExtension, gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    // Payloaders and depayloaders pick extensions of rank marginal and above.
    gst::Element::register(
        Some(plugin),
        "rtphdrextdualstream",
        gst::Rank::MARGINAL,
        RtpHdrExtDualStream::static_type(),
    )
}
