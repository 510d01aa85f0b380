// SPDX-License-Identifier: MPL-2.0
use gst::glib;
use gst::prelude::*;
use jitterbuffer_core::ModelKind;

mod group;
mod imp;
mod intake;
mod outlet;
mod reports;
mod settings;
mod state;

/// Which estimate of the delay is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRtpKalmanJitterBufferModel")]
#[repr(i32)]
pub enum Model {
    /// The smallest delay that late-target of the frames miss.
    #[default]
    #[enum_value(
        name = "The smallest delay that late-target of the frames miss",
        nick = "adaptive"
    )]
    Adaptive = 0,
    /// libwebrtc's.
    #[enum_value(name = "libwebrtc's estimate, by a Kalman filter", nick = "webrtc")]
    Webrtc = 1,
}

impl From<Model> for ModelKind {
    fn from(model: Model) -> Self {
        match model {
            Model::Adaptive => Self::Adaptive,
            Model::Webrtc => Self::Webrtc,
        }
    }
}

glib::wrapper! {
    pub struct RtpKalmanJitterBuffer(ObjectSubclass<imp::RtpKalmanJitterBuffer>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    Model::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(
        Some(plugin),
        "rtpkalmanjitterbuffer",
        gst::Rank::NONE,
        RtpKalmanJitterBuffer::static_type(),
    )
}
