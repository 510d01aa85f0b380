// SPDX-License-Identifier: MPL-2.0
//! qsvh264enc of gst-plugins-bad (Intel oneVPL), Linux and Windows.

use super::{BASE, Family, RateChange, Value};

pub const FAMILY: Family = Family {
    factory: "qsvh264enc",
    memory: &["memory:VAMemory", "memory:D3D11Memory"],
    // The session is drained and reset. Where the stream must conform to the
    // HRD the driver wants a new sequence for that.
    rate_change: RateChange::Drains,
    low_latency: &[
        ("low-latency", Value::Bool(true)),
        ("rate-control", Value::Text("cbr")),
        ("disable-hrd-conformance", Value::Bool(true)),
        ("target-usage", Value::Number(7)),
        // The largest there is: a key frame each 36 minutes at 30 frames per
        // second. 0 would leave it to the driver.
        ("gop-size", Value::Number(65_535)),
        ("idr-interval", Value::Number(0)),
        ("b-frames", Value::Number(0)),
        ("ref-frames", Value::Number(1)),
    ],
    ..BASE
};
