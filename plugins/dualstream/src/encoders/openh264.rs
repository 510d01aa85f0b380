// SPDX-License-Identifier: MPL-2.0
//! openh264enc of gst-plugins-bad. Its rate control knows no buffer size.

use super::{BASE, Family, RateUnit, Sessions, Value};

pub const FAMILY: Family = Family {
    factory: "openh264enc",
    hardware: false,
    sessions: Sessions::Many,
    bitrate: ("bitrate", RateUnit::Bit),
    // Unless the ceiling is set before, a rate that rises makes a key frame.
    ceiling: Some(("max-bitrate", RateUnit::Bit)),
    low_latency: &[
        // As "bitrate", but all rows of a picture get the same share, and a group
        // that has nothing left is no reason for another quantiser.
        ("rate-control", Value::Text("quality")),
        ("usage-type", Value::Text("camera")),
        ("complexity", Value::Text("low")),
        ("gop-size", Value::Number(i32::MAX as i64)),
        ("scene-change-detection", Value::Bool(false)),
        // Finer than this is not seen, and large where motion sets in.
        ("qp-min", Value::Number(12)),
        ("enable-frame-skip", Value::Bool(false)),
        // It skips what it takes for background, so that the output falls to
        // a tenth of the rate, and overshoots by as much where it was wrong.
        ("background-detection", Value::Bool(false)),
        ("multi-thread", Value::Number(1)),
    ],
    // The first change of rate after the start makes a key frame, whatever it
    // is (seen with openh264 2.3.1); so it is made before the first frame,
    // which is one anyway.
    rate_at_start: false,
    // Seen with openh264 2.3.1 on 1280x720 at 1.4 Mbit/s.
    key_frame_cost: 3.2,
    groups: true,
    ..BASE
};
