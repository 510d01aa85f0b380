// SPDX-License-Identifier: MPL-2.0
//! omxh264enc of gst-omx (Raspberry Pi, Zynq) and avenc_h264_omx of
//! gst-libav.

use super::{BASE, Buffer, BufferUnit, Family, RateChange, RateUnit, Value};

pub const FAMILY: Family = Family {
    factory: "omxh264enc",
    bitrate: ("target-bitrate", RateUnit::Bit),
    // Only in the build for Zynq UltraScale+, before the component starts.
    buffer: Some(Buffer {
        property: "cpb-size",
        unit: BufferUnit::Millisecond,
        rescaled: false,
    }),
    low_latency: &[
        ("control-rate", Value::AnyOf(&["low-latency", "constant"])),
        ("gop-mode", Value::Text("low-delay-p")),
        ("b-frames", Value::Number(0)),
        ("periodicity-idr", Value::Number(i32::MAX as i64)),
        ("interval-intraframes", Value::Number(i32::MAX as i64)),
        ("inline-header", Value::Bool(true)),
        ("filler-data", Value::Bool(false)),
        ("num-slices", Value::Number(1)),
        ("ref-frames", Value::Number(1)),
    ],
    ..BASE
};

pub const LIBAV: Family = Family {
    factory: "avenc_h264_omx",
    bitrate: ("bitrate", RateUnit::Bit),
    // The codec is opened with it, and does not hear of a later one.
    rate_change: RateChange::NewInstance,
    low_latency: &[
        ("gop-size", Value::Number(i32::MAX as i64)),
        ("max-bframes", Value::Number(0)),
    ],
    ..BASE
};
