// SPDX-License-Identifier: MPL-2.0
//! vah264enc and vah264lpenc of gst-plugins-bad (VA-API; Intel and AMD).

use super::{BASE, Buffer, BufferUnit, Family, RateChange, Value};

pub const FAMILY: Family = Family {
    factory: "vah264enc",
    memory: &["memory:VAMemory", "memory:DMABuf"],
    // The encoder drains, and begins a new group of pictures.
    rate_change: RateChange::KeyFrame,
    buffer: Some(Buffer {
        property: "cpb-size",
        unit: BufferUnit::Kilobit,
        rescaled: true,
    }),
    low_latency: &[
        ("rate-control", Value::Text("cbr")),
        ("target-usage", Value::Number(7)),
        // The largest there is: a key frame each 34 s at 30 frames a second.
        ("key-int-max", Value::Number(1024)),
        ("i-frames", Value::Number(0)),
        ("b-frames", Value::Number(0)),
        ("b-pyramid", Value::Bool(false)),
        ("ref-frames", Value::Number(1)),
        ("num-slices", Value::Number(1)),
        ("aud", Value::Bool(false)),
    ],
    ..BASE
};

pub const LOW_POWER: Family = Family {
    factory: "vah264lpenc",
    ..FAMILY
};
