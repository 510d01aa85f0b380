// SPDX-License-Identifier: MPL-2.0
//! v4l2h264enc of gst-plugins-good: stateful V4L2 encoders (Raspberry Pi up
//! to 4, i.MX, Qualcomm, Samsung). Everything is a control of the driver.

use super::{BASE, Buffer, BufferUnit, Family, ForceKey, RateUnit, Value};

/// Names as v4l2-ctl shows them, in the form that extra-controls takes;
/// drivers have some of them, and those they do not have are skipped there.
pub const FAMILY: Family = Family {
    factory: "v4l2h264enc",
    memory: &["memory:DMABuf"],
    controls: true,
    bitrate: ("video_bitrate", RateUnit::Bit),
    buffer: Some(Buffer {
        property: "vbv_buffer_size",
        unit: BufferUnit::Kilobyte,
        rescaled: true,
    }),
    force_key: ForceKey::Control("force_key_frame"),
    low_latency: &[
        // Constant rate.
        ("video_bitrate_mode", Value::Control(1)),
        ("frame_level_rate_control_enable", Value::Control(1)),
        ("video_b_frames", Value::Control(0)),
        ("video_gop_size", Value::Control(i32::MAX as u32)),
        ("h264_i_frame_period", Value::Control(i32::MAX as u32)),
        ("repeat_sequence_header", Value::Control(1)),
    ],
    ..BASE
};
