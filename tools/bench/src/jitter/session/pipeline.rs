// SPDX-License-Identifier: MPL-2.0
//! What both pipelines have in common.

use anyhow::{Context, Result, anyhow};
use dualstream_clip::picture::Luma;
use dualstream_clip::source::describe;
use gst::prelude::*;

use super::blocks::blocks;
use super::{CLOCK_RATE, MEDIA_PT, RTX_PT};

/// Goes to NULL when it is dropped.
pub struct Pipeline(pub gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Pipeline {
    /// On the clock that all processes of this machine share.
    pub fn play(&self) -> Result<()> {
        self.0.use_clock(Some(&gst::SystemClock::obtain()));
        if self.0.set_state(gst::State::Playing).is_err() {
            self.check()?;
            return Err(anyhow!("the pipeline does not start"));
        }
        Ok(())
    }

    /// Does what applications do with messages; an error of the pipeline, if
    /// it has one.
    pub fn check(&self) -> Result<()> {
        let bus = self.0.bus().context("the pipeline has no bus")?;
        while let Some(message) =
            bus.pop_filtered(&[gst::MessageType::Error, gst::MessageType::Latency])
        {
            if message.type_() == gst::MessageType::Error {
                return Err(anyhow!(describe(&message)));
            }
            // It fails where a part is not up yet, which then asks again.
            let _ = self.0.recalculate_latency();
        }
        Ok(())
    }
}

pub fn make(factory: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory)
        .build()
        .with_context(|| format!("the GStreamer element {factory} is not installed"))
}

/// One thread: with more, decoders hold pictures back.
pub fn decoder() -> Result<gst::Element> {
    let Ok(decoder) = make("avdec_h264") else {
        return make("openh264dec").context("nor is avdec_h264");
    };
    decoder.set_property("max-threads", 1i32);
    Ok(decoder)
}

/// The blocks of a picture that comes through this pad.
pub fn look_at(buffer: &gst::BufferRef, pad: &gst::Pad) -> Option<String> {
    let caps = pad.current_caps()?;
    let info = gst_video::VideoInfo::from_caps(&caps).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).ok()?;
    Luma::of(&frame).map(blocks)
}

/// An element as rtpbin's signals for one want it, for session 0.
pub fn aux(element: &gst::Element) -> gst::Bin {
    let bin = gst::Bin::new();
    // Neither fails for an element that is nowhere else.
    let _ = bin.add(element);
    for name in ["sink", "src"] {
        if let Some(pad) = element.static_pad(name)
            && let Ok(ghost) = gst::GhostPad::builder_with_target(&pad)
        {
            let _ = bin.add_pad(&ghost.name(format!("{name}_0")).build());
        }
    }
    bin
}

/// What the numbers of the payload types mean.
pub fn caps(pt: u32) -> Option<gst::Caps> {
    let caps = gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("clock-rate", CLOCK_RATE as i32)
        .field("payload", pt as i32);
    if pt == u32::from(MEDIA_PT) {
        let caps = caps
            .field("encoding-name", "H264")
            .field("packetization-mode", "1")
            .field("rtcp-fb-nack", true)
            .field("rtcp-fb-nack-pli", true);
        return Some(caps.build());
    }
    (pt == u32::from(RTX_PT)).then(|| {
        caps.field("encoding-name", "RTX")
            .field("apt", MEDIA_PT.to_string())
            .build()
    })
}

pub fn pt_map(rtpbin: &gst::Element) {
    rtpbin.connect("request-pt-map", false, |values| {
        let pt = values.get(2)?.get::<u32>().ok()?;
        Some(caps(pt).to_value())
    });
}

/// RTCP that one end may send, in bit/s, as dualwebrtcsrc's. The 5 % of the
/// media that are the default hold some requests up for 50 ms and more: after
/// one packet with feedback, the next has to wait for an RTCP interval.
const RTCP_RATE: f64 = 150_000.0;

/// NACKs and requests for key frames at once instead of with the next report.
pub fn quick_feedback(rtpbin: &gst::Element) -> Result<()> {
    let session = rtpbin
        .emit_by_name::<Option<gst::glib::Object>>("get-internal-session", &[&0u32])
        .context("rtpbin has no session")?;
    session.set_property("rtcp-min-interval", 0u64);
    session.set_property("rtcp-fraction", RTCP_RATE);
    Ok(())
}
