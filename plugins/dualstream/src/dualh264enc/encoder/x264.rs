// SPDX-License-Identifier: MPL-2.0
use super::{Family, Format};
use dualstream_core::sender::EncoderRate;
use gst::prelude::*;

/// `x264enc` of gst-plugins-ugly.
pub struct X264;

/// Luma samples per second that one core codes in real time with the preset
/// below, with a wide margin (1280x720 at 30).
const ONE_THREAD: u64 = 1280 * 720 * 30;

impl Family for X264 {
    fn factory(&self) -> &'static str {
        "x264enc"
    }

    fn set_up(&self, encoder: &gst::Element, format: Format, _ceiling: u64) {
        encoder.set_property_from_str("tune", "zerolatency");
        encoder.set_property_from_str("speed-preset", "veryfast");
        encoder.set_property("key-int-max", i32::MAX as u32);
        encoder.set_property("option-string", "scenecut=0");
        encoder.set_property("b-adapt", false);
        encoder.set_property("byte-stream", true);
        encoder.set_property("aud", false);
        // One slice per frame, so that a frame is lost or whole; above what
        // one core does, slices in parallel.
        let samples = (u64::from(format.width) * u64::from(format.height))
            .saturating_mul(1_000_000_000)
            / u64::try_from(format.frame_time.as_nanos())
                .unwrap_or(u64::MAX)
                .max(1);
        let threads = samples.div_ceil(ONE_THREAD).clamp(1, 8) as u32;
        encoder.set_property("threads", threads);
        encoder.set_property("sliced-threads", threads > 1);
    }

    fn set_rate(&self, encoder: &gst::Element, rate: EncoderRate, _key: bool) {
        let kbps = rate.bitrate.as_kbps().clamp(1, 2_048_000) as u32;
        // Rounded up: less than one frame is refused by x264. The product
        // becomes whole kbit, of which 0 would switch the buffer off.
        let buffer = rate.buffer.as_micros().div_ceil(1000).clamp(1, 10_000) as u32;
        let buffer = buffer.max(1000u32.div_ceil(kbps));
        encoder.set_property("bitrate", kbps);
        encoder.set_property("vbv-buf-capacity", buffer);
    }

    /// The buffer's first level is a part of its size at the start.
    fn rate_at_start(&self) -> bool {
        true
    }

    fn new_for_key_frame(&self) -> bool {
        true
    }
}
