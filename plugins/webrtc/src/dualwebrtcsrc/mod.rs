// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod audio;
mod buffers;
mod clocks;
mod imp;
mod session;
mod stats;
mod streams;
mod sync;
mod trace;
mod worker;

glib::wrapper! {
    pub struct DualWebRtcSrc(ObjectSubclass<imp::DualWebRtcSrc>)
        @extends gst::Bin, gst::Element, gst::Object,
        @implements gst::ChildProxy;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    trace::register_meta();
    gst::Element::register(
        Some(plugin),
        "dualwebrtcsrc",
        gst::Rank::NONE,
        DualWebRtcSrc::static_type(),
    )
}
