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

/// What the application chooses of them.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub kind: JitterBuffer,
    /// In ms: how long missing packets are waited for.
    pub latency: u32,
    /// In ms.
    pub max_latency: u32,
    pub late_target: f64,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            kind: JitterBuffer::default(),
            latency: 200,
            max_latency: 1000,
            late_target: 0.005,
        }
    }
}

/// With its SSRC.
type Buffer = (u32, glib::WeakRef<gst::Element>);

/// Those of a session.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Buffer>>>);

impl Buffers {
    /// `group`: a name that no other session has.
    pub fn serve(&self, webrtcbin: &gst::Element, choice: Choice, group: String) {
        let Some(rtpbin) = webrtcbin
            .downcast_ref::<gst::Bin>()
            .and_then(|bin| bin.by_name("rtpbin"))
        else {
            return;
        };
        if choice.kind == JitterBuffer::Adaptive {
            rtpbin.connect("request-jitterbuffer", false, move |values| {
                let buffer = adaptive(choice, &group);
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

/// Both streams show the same pictures: they share one estimate.
fn adaptive(choice: Choice, group: &str) -> Result<gst::Element, glib::BoolError> {
    gst::ElementFactory::make("rtpkalmanjitterbuffer")
        .property("group", group)
        .property("late-target", choice.late_target)
        .property("max-latency", choice.max_latency)
        .build()
}
