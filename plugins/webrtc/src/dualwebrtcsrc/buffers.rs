// SPDX-License-Identifier: MPL-2.0
//! The jitter buffers of a session: rtpbin asks for one for each source.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use super::imp::CAT;

/// Which jitter buffers are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcJitterBuffer")]
pub enum JitterBuffer {
    #[default]
    #[enum_value(
        name = "rtpkalmanjitterbuffer: waits as long as the network needs",
        nick = "adaptive"
    )]
    Adaptive,
    #[enum_value(name = "rtpjitterbuffer: always waits for latency", nick = "fixed")]
    Fixed,
}

/// What the application chooses of them, and of what else only a receiver has.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub kind: JitterBuffer,
    /// In ms: how long missing packets are waited for.
    pub latency: u32,
    /// In ms.
    pub max_latency: u32,
    pub late_target: f64,
    /// The sender is told what arrives.
    pub feedback: bool,
    /// Audio is taken.
    pub audio: bool,
}

impl JitterBuffer {
    /// As in `stats`.
    pub fn nick(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Fixed => "fixed",
        }
    }
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            kind: JitterBuffer::default(),
            latency: 200,
            max_latency: 500,
            late_target: 0.005,
            feedback: true,
            audio: true,
        }
    }
}

/// With its SSRC.
type Buffer = (u32, glib::WeakRef<gst::Element>);

/// Those of a session.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Buffer>>>);

impl Buffers {
    /// `group`: a name that no other session has, for the SSRCs that `in_group`
    /// says. `made` is told of each buffer before it is used.
    pub fn serve(
        &self,
        webrtcbin: &gst::Element,
        choice: Choice,
        group: String,
        in_group: impl Fn(u32) -> bool + Send + Sync + 'static,
        made: impl Fn(u32, &gst::Element) + Send + Sync + 'static,
    ) {
        let Some(rtpbin) = webrtcbin
            .downcast_ref::<gst::Bin>()
            .and_then(|bin| bin.by_name("rtpbin"))
        else {
            return;
        };
        // Lip sync is kept by time of capture (clocks.rs), with each frame and not
        // with each report: rtpbin is to leave time stamps alone.
        rtpbin.set_property("max-ts-offset", 1i64);
        if choice.kind == JitterBuffer::Adaptive {
            rtpbin.connect("request-jitterbuffer", false, move |values| {
                let buffer = adaptive(choice);
                if let (Err(err), Ok(rtpbin)) = (&buffer, values[0].get::<gst::Element>()) {
                    gst::warning!(CAT, obj = rtpbin, "rtpjitterbuffer it is: {err}");
                }
                // None is not understood.
                Some(buffer.ok().to_value())
            });
        }
        let all = self.0.clone();
        rtpbin.connect("new-jitterbuffer", false, move |values| {
            if let (Ok(buffer), Ok(ssrc)) = (values[1].get::<gst::Element>(), values[3].get()) {
                if buffer.has_property("group") && in_group(ssrc) {
                    buffer.set_property("group", &group);
                }
                made(ssrc, &buffer);
                let mut all = all.lock().unwrap();
                all.retain(|(_, weak)| weak.upgrade().is_some());
                all.push((ssrc, buffer.downgrade()));
            }
            None
        });
    }

    pub fn of(&self, ssrc: u32) -> Option<gst::Element> {
        let all = self.0.lock().unwrap();
        let found = all.iter().rev().find(|(other, _)| *other == ssrc);
        found.and_then(|(_, weak)| weak.upgrade())
    }
}

/// Both video streams show the same pictures: they share one estimate, by their
/// group.
fn adaptive(choice: Choice) -> Result<gst::Element, glib::BoolError> {
    gst::ElementFactory::make("rtpkalmanjitterbuffer")
        .property("late-target", choice.late_target)
        .property("max-latency", choice.max_latency)
        .build()
}
