// SPDX-License-Identifier: MPL-2.0
//! The ways to code a live picture that are compared, each with the same
//! encoder in the same low-latency set-up.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use dualstream_common::{Bitrate, Timestamp};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use serde::Serialize;

use crate::rig::Rig;
use crate::video::Video;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// One stream, 600 ms of VBV, an IDR frame each refresh interval
    Vanilla,
    /// One stream, a VBV of --vbv-frames, an IDR frame each refresh interval
    Tight,
    /// One stream, a VBV of --vbv-frames, a column of intra blocks that wanders through in each refresh interval
    IntraRefresh,
    /// One stream, a VBV of --vbv-frames, no refresh: no way in for anyone later
    Infinite,
    /// dualh264enc
    Dual,
}

impl Scheme {
    pub const ALL: [Self; 5] = [
        Self::Vanilla,
        Self::Tight,
        Self::IntraRefresh,
        Self::Infinite,
        Self::Dual,
    ];
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vanilla => "vanilla",
            Self::Tight => "tight",
            Self::IntraRefresh => "intra-refresh",
            Self::Infinite => "infinite",
            Self::Dual => "dual",
        })
    }
}

/// VBV of [`Scheme::Vanilla`], the default of x264enc.
pub const VANILLA_VBV: Duration = Duration::from_millis(600);

/// How a scheme is set up.
#[derive(Clone, Debug)]
pub struct SetUp {
    pub scheme: Scheme,
    pub target: Bitrate,
    pub fps: u32,
    pub refresh: Duration,
    pub vbv_frames: f64,
    /// More properties of dualh264enc, as a GStreamer structure.
    pub dual_properties: Option<String>,
}

/// What an encoder made of a picture.
#[derive(Clone, Debug)]
pub struct Coded {
    pub stream: Stream,
    pub display: bool,
    pub key: bool,
    pub number: u16,
    pub generation: u8,
    pub data: gst::Buffer,
}

/// The receiver has the whole of this frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete {
    pub stream: Stream,
    pub number: u16,
    pub generation: u8,
}

/// A scheme at work.
pub struct Encoder {
    rig: Rig,
    dual: bool,
    pushed: u64,
    vbv: Duration,
}

/// The same for every scheme; dualh264enc's own choice differs only where the
/// machine or the size ask for it.
const X264: &[(&str, &str)] = &[
    ("tune", "zerolatency"),
    ("speed-preset", "veryfast"),
    ("byte-stream", "true"),
    ("aud", "false"),
    ("b-adapt", "false"),
    ("threads", "1"),
    ("sliced-threads", "false"),
    ("option-string", "scenecut=0"),
];

impl Encoder {
    pub fn new(set_up: &SetUp, video: &Video) -> Result<Self> {
        let frame = Duration::from_secs(1) / set_up.fps;
        let vbv = match set_up.scheme {
            Scheme::Vanilla => VANILLA_VBV,
            _ => frame.mul_f64(set_up.vbv_frames),
        };
        let dual = set_up.scheme == Scheme::Dual;
        let (element, pads): (_, &[&str]) = if dual {
            (dual_encoder(set_up)?, &["src_0", "src_1"])
        } else {
            (single_encoder(set_up)?, &["src"])
        };
        let encoder = Self {
            rig: {
                if !dual {
                    set_rate(&element, set_up.target, vbv);
                }
                Rig::new(element, pads, &video.caps()?)?
            },
            dual,
            pushed: 0,
            vbv,
        };
        Ok(encoder)
    }

    pub fn set_time(&self, now: Timestamp) {
        self.rig.set_time(now);
    }

    /// In place, as an estimator does.
    pub fn set_target(&self, target: Bitrate) {
        if self.dual {
            let s = gst::Structure::builder("application/x-network-estimate")
                .field("target-bitrate", target.as_bps())
                .build();
            self.rig
                .send_upstream(0, gst::event::CustomUpstream::new(s));
        } else {
            set_rate(self.rig.element(), target, self.vbv);
        }
    }

    /// The receiver's PLI for this stream, as rtpsession hands it on.
    pub fn request(&self, stream: Stream) {
        let mut event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        if let Some(event) = event.get_mut() {
            event.structure_mut().set("payload", 96u32);
        }
        let pad = if self.dual { stream.index() } else { 0 };
        self.rig.send_upstream(pad, event);
    }

    pub fn complete(&self, complete: Complete) {
        let s = gst::Structure::builder("application/x-frame-complete")
            .field("stream", complete.stream.index() as u32)
            .field("frame", u32::from(complete.number))
            .field("generation", u32::from(complete.generation))
            .field("decodable", true)
            .build();
        self.rig
            .send_upstream(complete.stream.index(), gst::event::CustomUpstream::new(s));
    }

    /// All that is made of this picture.
    pub fn encode(&mut self, number: usize, picture: gst::Buffer) -> Result<Vec<Coded>> {
        self.rig.push(picture)?;
        self.pushed += 1;
        let expected = if self.dual {
            self.stat("encoder-calls")
        } else {
            self.pushed
        };
        let outputs = self.rig.take(|count| count >= expected)?;
        // What comes out is noted in the encoders' own threads.
        while self.dual && self.stat("frames-left") < expected {
            std::thread::yield_now();
        }
        outputs
            .into_iter()
            .map(|data| {
                let key = !data.flags().contains(gst::BufferFlags::DELTA_UNIT);
                if !self.dual {
                    return Ok(Coded {
                        stream: Stream::Zero,
                        display: true,
                        key,
                        number: number as u16,
                        generation: 0,
                        data,
                    });
                }
                let tag = gstdualstream::meta::of(&data).context("a frame without tag")?;
                Ok(Coded {
                    stream: tag.stream,
                    display: !tag.background,
                    key,
                    number: tag.number,
                    generation: tag.generation,
                    data,
                })
            })
            .collect()
    }

    /// dualh264enc's standby has a picture that the receiver acknowledged.
    pub fn has_reference(&self) -> bool {
        self.dual
            && matches!(
                self.rig
                    .element()
                    .property::<gst::Structure>("stats")
                    .get("phase"),
                Ok("Warm" | "Acknowledged")
            )
    }

    /// A counter of dualh264enc's; 0 for what it does not have.
    pub fn stat(&self, name: &str) -> u64 {
        if !self.dual {
            return 0;
        }
        self.rig
            .element()
            .property::<gst::Structure>("stats")
            .get(name)
            .unwrap_or(0)
    }
}

fn make(factory: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory)
        .build()
        .with_context(|| format!("the GStreamer element {factory} is not installed"))
}

fn single_encoder(set_up: &SetUp) -> Result<gst::Element> {
    let element = make("x264enc")?;
    set_single(&element, set_up);
    Ok(element)
}

/// Sets x264enc up for any scheme but dual, without its rate.
pub fn set_single(element: &gst::Element, set_up: &SetUp) {
    for (name, value) in X264 {
        element.set_property_from_str(name, value);
    }
    let frames = (set_up.refresh.as_secs_f64() * f64::from(set_up.fps)).round() as u32;
    let interval = match set_up.scheme {
        Scheme::Infinite => i32::MAX as u32,
        _ => frames.max(1),
    };
    element.set_property("key-int-max", interval);
    element.set_property("intra-refresh", set_up.scheme == Scheme::IntraRefresh);
}

/// Of x264enc.
pub fn set_rate(element: &gst::Element, target: Bitrate, vbv: Duration) {
    element.set_property("bitrate", target.as_kbps().max(1) as u32);
    // Rounded up: less than one frame is refused by x264.
    let vbv = vbv.as_micros().div_ceil(1000).clamp(1, 10_000) as u32;
    element.set_property("vbv-buf-capacity", vbv);
}

fn dual_encoder(set_up: &SetUp) -> Result<gst::Element> {
    let element = make("dualh264enc")?;
    element.set_property("encoder", "x264enc");
    let mut properties = gst::Structure::new_empty("props");
    for (name, value) in X264 {
        properties.set(*name, *value);
    }
    element.set_property("encoder-properties", &properties);
    let bps = u32::try_from(set_up.target.as_bps()).context("a target above 4 Gbit/s")?;
    element.set_property("bitrate", bps);
    element.set_property("refresh-interval", set_up.refresh.as_millis() as u32);
    if let Some(text) = &set_up.dual_properties {
        set_properties(&element, text)?;
    }
    Ok(element)
}

fn set_properties(element: &gst::Element, text: &str) -> Result<()> {
    let s: gst::Structure = format!("props,{text}")
        .parse()
        .map_err(|_| anyhow!("`{text}` is not a list such as `keyframe-budget=3.0,mode=single`"))?;
    for (name, value) in s.iter() {
        let pspec = element
            .find_property(name)
            .with_context(|| format!("dualh264enc has no property {name}"))?;
        let text = value
            .serialize()
            .map_err(|_| anyhow!("the value of {name} is no text"))?;
        let value = glib::Value::deserialize_with_pspec(&text, &pspec)
            .ok()
            .filter(|value| in_range(&pspec, value))
            .with_context(|| format!("dualh264enc cannot have {name}={text}"))?;
        element.set_property_from_value(name, &value);
    }
    Ok(())
}

/// Numbers have bounds; other types hold nothing that could be out of them.
fn in_range(pspec: &glib::ParamSpec, value: &glib::Value) -> bool {
    macro_rules! within {
        ($spec:ty, $number:ty) => {
            if let Some(p) = pspec.downcast_ref::<$spec>() {
                return value
                    .get::<$number>()
                    .is_ok_and(|v| (p.minimum()..=p.maximum()).contains(&v));
            }
        };
    }
    within!(glib::ParamSpecDouble, f64);
    within!(glib::ParamSpecUInt, u32);
    within!(glib::ParamSpecInt, i32);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_cannot_be_set_is_an_error_that_names_it() {
        gst::init().expect("GStreamer");
        gstdualstream::plugin_register_static().expect("the plugin");
        let element = make("dualh264enc").expect("registered");
        let wrong = |text| set_properties(&element, text).unwrap_err().to_string();
        assert!(wrong("no-such=3").contains("no-such"));
        assert!(wrong("background-share=7.0").contains("background-share=7"));
        assert!(wrong("mode=sideways").contains("mode=sideways"));
        assert!(wrong("=").contains("not a list"));
        set_properties(&element, "keyframe-budget=3.0,mode=single").expect("valid");
        assert_eq!(element.property::<f64>("keyframe-budget"), 3.0);
    }
}
