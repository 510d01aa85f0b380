// SPDX-License-Identifier: MPL-2.0
//! vtenc_h264 and vtenc_h264_hw of gst-plugins-bad (VideoToolbox).

use super::{BASE, Family, Value};

pub const FAMILY: Family = Family {
    factory: "vtenc_h264",
    // The pixel buffers of vtdec, avfvideosrc and glupload are IOSurfaces
    // behind system or GL memory, which is taken without a copy.
    memory: &["memory:GLMemory"],
    low_latency: &[
        ("realtime", Value::Bool(true)),
        ("allow-frame-reordering", Value::Bool(false)),
        // From 1.26 on: a limit of one frame time, which follows the rate.
        ("rate-control", Value::Text("cbr")),
        ("max-frame-delay", Value::Number(0)),
        ("max-keyframe-interval", Value::Number(i32::MAX as i64)),
        ("max-keyframe-interval-duration", Value::Number(0)),
    ],
    ..BASE
};

pub const HARDWARE: Family = Family {
    factory: "vtenc_h264_hw",
    ..FAMILY
};
