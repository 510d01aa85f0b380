// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod audio;
mod audio_rate;
mod branch;
mod control;
mod data_channel;
mod fec;
mod gate;
mod imp;
mod key_requests;
mod kit;
mod layout;
mod overload;
mod page;
mod parts;
mod rates;
mod session;
mod settings;
mod share;
mod slow;
mod stats;
mod timeline;
mod trace;
mod worker;

pub(crate) use imp::signaller_clash;
pub(crate) use stats::add_stats;

glib::wrapper! {
    pub struct DualWebRtcSink(ObjectSubclass<imp::DualWebRtcSink>)
        @extends gst::Bin, gst::Element, gst::Object,
        @implements gst::ChildProxy;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    control::CongestionControl::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    worker::EncoderSharing::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    audio::FrameSize::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    crate::signallers::SinkSignalling::static_type()
        .mark_as_plugin_api(gst::PluginAPIFlags::empty());
    audio_rate::FecMode::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(
        Some(plugin),
        "dualwebrtcsink",
        gst::Rank::NONE,
        DualWebRtcSink::static_type(),
    )
}
