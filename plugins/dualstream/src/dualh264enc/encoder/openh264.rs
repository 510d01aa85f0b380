// SPDX-License-Identifier: MPL-2.0
use super::{Family, Format};
use dualstream_core::sender::EncoderRate;
use gst::prelude::*;

/// `openh264enc` of gst-plugins-bad. Its rate control knows no buffer size.
pub struct OpenH264;

/// Frame times at the rate that an IDR frame takes (seen with openh264 2.3.1:
/// 3.2 on 1280x720 at 1.4 Mbit/s).
const IDR: f64 = 3.2;

impl Family for OpenH264 {
    fn factory(&self) -> &'static str {
        "openh264enc"
    }

    fn set_up(&self, encoder: &gst::Element, _format: Format, ceiling: u64) {
        encoder.set_property_from_str("rate-control", "bitrate");
        encoder.set_property_from_str("usage-type", "camera");
        encoder.set_property_from_str("complexity", "low");
        encoder.set_property("gop-size", i32::MAX as u32);
        encoder.set_property("scene-change-detection", false);
        encoder.set_property("enable-frame-skip", false);
        encoder.set_property("multi-thread", 1u32);
        // Unless the ceiling is set before, a rate that rises makes a key
        // frame.
        encoder.set_property("max-bitrate", u32::try_from(ceiling).unwrap_or(u32::MAX));
    }

    fn set_rate(&self, encoder: &gst::Element, rate: EncoderRate, key: bool) {
        let rate = if key {
            rate.bitrate.scale(1.0 / IDR)
        } else {
            rate.bitrate
        };
        let bps = u32::try_from(rate.as_bps()).unwrap_or(u32::MAX);
        encoder.set_property("bitrate", bps.max(1000));
    }

    /// The first change of rate after the start makes a key frame, whatever it
    /// is (seen with openh264 2.3.1); so it is made before the first frame,
    /// which is one anyway.
    fn rate_at_start(&self) -> bool {
        false
    }

    fn new_for_key_frame(&self) -> bool {
        false
    }
}
