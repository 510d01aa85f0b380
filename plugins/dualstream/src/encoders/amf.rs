// SPDX-License-Identifier: MPL-2.0
//! amfh264enc of gst-plugins-bad (AMD, Windows).

use super::{BASE, Family, RateChange, Value};

pub const FAMILY: Family = Family {
    factory: "amfh264enc",
    memory: &["memory:D3D11Memory"],
    // The component is opened again.
    rate_change: RateChange::Rebuilds,
    low_latency: &[
        // This usage has no B frames and a buffer of one frame.
        ("usage", Value::Text("ultra-low-latency")),
        ("rate-control", Value::Text("cbr")),
        ("preset", Value::Text("speed")),
        ("gop-size", Value::Number(0)),
        ("b-frames", Value::Number(0)),
        ("max-b-frames", Value::Number(0)),
        ("pre-encode", Value::Bool(false)),
        ("pre-analysis", Value::Bool(false)),
        ("aud", Value::Bool(false)),
    ],
    ..BASE
};
