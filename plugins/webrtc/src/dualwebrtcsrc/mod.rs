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
    crate::signallers::SrcSignalling::static_type()
        .mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(
        Some(plugin),
        "dualwebrtcsrc",
        gst::Rank::NONE,
        DualWebRtcSrc::static_type(),
    )
}
