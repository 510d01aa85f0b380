// SPDX-License-Identifier: MPL-2.0
//! The properties that are plain values.

use gst::glib;
use gst::prelude::*;

use super::audio;
use super::audio_rate::FecMode;
use super::control::CongestionControl;
use super::worker::EncoderSharing;
use crate::properties::Settings;
use crate::signallers::SinkSignalling;

/// What the element's properties hold.
pub struct SinkSettings {
    pub common: Settings,
    pub wait_for_receiver: bool,
    pub congestion_control: CongestionControl,
    pub pacing: bool,
    pub max_receivers: u32,
    pub encoder_sharing: EncoderSharing,
    pub audio: audio::Settings,
    pub data_channel: bool,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            common: Settings::default(),
            wait_for_receiver: false,
            congestion_control: CongestionControl::default(),
            pacing: true,
            max_receivers: 16,
            encoder_sharing: EncoderSharing::default(),
            audio: audio::Settings::default(),
            data_channel: false,
        }
    }
}

impl SinkSettings {
    pub fn specs() -> Vec<glib::ParamSpec> {
        let default = Self::default();
        let mut specs = Settings::specs();
        specs.extend([
            glib::ParamSpecEnum::builder::<SinkSignalling>("signalling")
                .nick("Signalling")
                .blurb("Protocol by which sender and receiver find each other; makes a new signaller, so properties of the signaller are to be set after it")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("wait-for-receiver")
                .nick("Wait For Receiver")
                .blurb("Hold the first picture until the first receiver is ready, and send from there at the normal pace, instead of dropping pictures; live sources are not held")
                .default_value(default.wait_for_receiver)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder::<CongestionControl>("congestion-control")
                .nick("Congestion Control")
                .blurb("How the encoder's rate follows the network; the encoder's bitrate is the upper limit")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("pacing")
                .nick("Pacing")
                .blurb("Packets leave at the pace and by the priorities of rtppacer; otherwise as they come, and the network is not probed for more. Without congestion-control they always do")
                .default_value(default.pacing)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("max-receivers")
                .nick("Maximum Receivers")
                .blurb("Receivers that are served at a time; further ones are refused")
                .minimum(1)
                .maximum(1000)
                .default_value(default.max_receivers)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder::<EncoderSharing>("encoder-sharing")
                .nick("Encoder Sharing")
                .blurb("Which receivers are served by one encoder, at the rate that the slowest of their networks bears")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("data-channel")
                .nick("Data Channel")
                .blurb("Offer a data channel, over which a page in a browser takes dual stream (docs/browser.md); always with run-web-server. A foreign receiver that takes the channel and says nothing on it gets its first picture 2 s after it is connected")
                .default_value(default.data_channel)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("audio-bitrate")
                .nick("Audio Bitrate")
                .blurb("Constant bitrate of Opus, in bit/s; at most a quarter of what the network bears, 24 kbit/s at least")
                .minimum(6000)
                .maximum(510_000)
                .default_value(default.audio.bitrate)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder::<audio::FrameSize>("audio-frame-size")
                .nick("Audio Frame Size")
                .blurb("Sound in one packet, in ms")
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder::<FecMode>("audio-fec")
                .nick("Audio FEC")
                .blurb("Forward error correction inside of Opus, beside retransmissions. Has no effect if audio-encoder::audio-type was set")
                .mutable_ready()
                .build(),
        ]);
        specs
    }

    /// False if it is none of these.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        match name {
            "wait-for-receiver" => {
                self.wait_for_receiver = value.get().expect("type checked upstream")
            }
            "data-channel" => self.data_channel = value.get().expect("type checked upstream"),
            "congestion-control" => {
                self.congestion_control = value.get().expect("type checked upstream")
            }
            "pacing" => self.pacing = value.get().expect("type checked upstream"),
            "max-receivers" => self.max_receivers = value.get().expect("type checked upstream"),
            "encoder-sharing" => self.encoder_sharing = value.get().expect("type checked upstream"),
            "audio-bitrate" => self.audio.bitrate = value.get().expect("type checked upstream"),
            "audio-frame-size" => self.audio.frame = value.get().expect("type checked upstream"),
            "audio-fec" => self.audio.fec = value.get().expect("type checked upstream"),
            _ => return self.common.set(name, value),
        }
        true
    }

    /// None if it is none of these.
    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "wait-for-receiver" => self.wait_for_receiver.to_value(),
            "data-channel" => self.data_channel.to_value(),
            "congestion-control" => self.congestion_control.to_value(),
            "pacing" => self.pacing.to_value(),
            "max-receivers" => self.max_receivers.to_value(),
            "encoder-sharing" => self.encoder_sharing.to_value(),
            "audio-bitrate" => self.audio.bitrate.to_value(),
            "audio-frame-size" => self.audio.frame.to_value(),
            "audio-fec" => self.audio.fec.to_value(),
            _ => return self.common.get(name),
        })
    }
}
