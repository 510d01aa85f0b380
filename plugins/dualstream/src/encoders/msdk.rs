// SPDX-License-Identifier: MPL-2.0
//! msdkh264enc of gst-plugins-bad (Intel Media SDK).

use super::{BASE, Family, RateChange, Value};

pub const FAMILY: Family = Family {
    factory: "msdkh264enc",
    memory: &["memory:VAMemory", "memory:DMABuf", "memory:D3D11Memory"],
    // The encoder is flushed, closed and opened again.
    rate_change: RateChange::Rebuilds,
    low_latency: &[
        ("rate-control", Value::Text("cbr")),
        ("async-depth", Value::Number(1)),
        ("target-usage", Value::Number(7)),
        ("lowdelay-brc", Value::Text("on")),
        // Sixteen bits inside.
        ("gop-size", Value::Number(65_535)),
        ("i-frames", Value::Number(0)),
        ("b-frames", Value::Number(0)),
        ("ref-frames", Value::Number(1)),
        ("num-slices", Value::Number(1)),
        ("i-adapt", Value::Text("off")),
        ("b-adapt", Value::Text("off")),
    ],
    ..BASE
};
