// SPDX-License-Identifier: MPL-2.0
//! mfh264enc of gst-plugins-bad (Media Foundation, Windows).

use super::{BASE, Buffer, BufferUnit, Family, RateChange, RateUnit, Value};

pub const FAMILY: Family = Family {
    factory: "mfh264enc",
    memory: &["memory:D3D11Memory"],
    bitrate: ("bitrate", RateUnit::Kibibit),
    // The transform is initialised again.
    rate_change: RateChange::Rebuilds,
    buffer: Some(Buffer {
        property: "vbv-buffer-size",
        unit: BufferUnit::Byte,
        rescaled: true,
    }),
    low_latency: &[
        ("low-latency", Value::Bool(true)),
        ("rc-mode", Value::Text("cbr")),
        ("quality-vs-speed", Value::Number(0)),
        ("adaptive-mode", Value::Text("none")),
        ("bframes", Value::Number(0)),
        ("gop-size", Value::Number(i32::MAX as i64)),
        ("ref", Value::Number(1)),
    ],
    ..BASE
};
