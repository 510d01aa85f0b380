// SPDX-License-Identifier: MPL-2.0
//! Parts of a session that sender and receiver can each do without.

use gst::glib;
use gst::prelude::*;

use crate::{rtp, sdp};

/// A part is in use if both ends have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    pub dual_stream: bool,
    pub frame_feedback: bool,
    pub retransmission: bool,
    pub capture_time: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            dual_stream: true,
            frame_feedback: true,
            retransmission: true,
            capture_time: true,
        }
    }
}

fn switch(name: &str, nick: &str, blurb: &str, default: bool) -> glib::ParamSpec {
    glib::ParamSpecBoolean::builder(name)
        .nick(nick)
        .blurb(blurb)
        .default_value(default)
        .mutable_ready()
        .build()
}

impl Switches {
    pub fn specs() -> [glib::ParamSpec; 4] {
        let default = Self::default();
        [
            switch(
                "dual-stream",
                "Dual Stream",
                "Two streams of the same pictures, key frames in the background, if the peer has it and frame-feedback is there; otherwise one stream",
                default.dual_stream,
            ),
            switch(
                "frame-feedback",
                "Frame Feedback",
                "The RTCP message \"frame complete\" from receiver to sender (rtcpiframefeedback), if the peer has it; dual stream needs it, but for a page in a browser",
                default.frame_feedback,
            ),
            switch(
                "do-retransmission",
                "Do Retransmission",
                "Lost packets are asked for and sent again (NACK, RTX), if the peer has it; without it and FEC a receiver does not wait for what is missing",
                default.retransmission,
            ),
            switch(
                "abs-capture-time",
                "Absolute Capture Time",
                "The RTP header extension that says when a picture or sound was captured, if the peer has it; without it receivers go by sender reports",
                default.capture_time,
            ),
        ]
    }

    fn of(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "dual-stream" => &mut self.dual_stream,
            "frame-feedback" => &mut self.frame_feedback,
            "do-retransmission" => &mut self.retransmission,
            "abs-capture-time" => &mut self.capture_time,
            _ => return None,
        })
    }

    /// False if the property is not one of these.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        let Some(switch) = self.of(name) else {
            return false;
        };
        *switch = value.get().expect("type checked upstream");
        true
    }

    pub fn get(mut self, name: &str) -> Option<glib::Value> {
        self.of(name).map(|switch| switch.to_value())
    }

    /// Caps for a session description without what is switched off.
    pub fn restrict(self, mut caps: gst::Caps) -> gst::Caps {
        if !self.retransmission {
            caps = rtp::without_feedback(caps, "nack");
        }
        if !self.frame_feedback {
            caps = rtp::without_feedback(caps, sdp::FRAME_COMPLETE);
        }
        if !self.dual_stream {
            caps = rtp::without_extension(caps, rtp::FRAME_URI);
        }
        if !self.capture_time {
            caps = rtp::without_extension(caps, rtp::CAPTURE_URI);
        }
        caps
    }
}
