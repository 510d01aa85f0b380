// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;

mod collector;
mod feeder;
mod imp;
mod lanes;
mod look;
mod replica;
mod router;

/// Whether a second stream is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualH264EncMode")]
pub enum Mode {
    #[default]
    #[enum_value(
        name = "Dual: key frames in the background on a second stream, if src_1 is linked",
        nick = "dual"
    )]
    Dual,
    #[enum_value(
        name = "Single: one stream, key frames on it when they are wanted",
        nick = "single"
    )]
    Single,
}

glib::wrapper! {
    pub struct DualH264Enc(ObjectSubclass<imp::DualH264Enc>)
        @extends gst::Bin, gst::Element, gst::Object,
        @implements gst::ChildProxy;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    Mode::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(
        Some(plugin),
        "dualh264enc",
        gst::Rank::NONE,
        DualH264Enc::static_type(),
    )
}
