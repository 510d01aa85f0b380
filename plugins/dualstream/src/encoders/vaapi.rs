// SPDX-License-Identifier: MPL-2.0
//! vaapih264enc of gstreamer-vaapi.

use super::{BASE, Buffer, BufferUnit, Family, RateChange, Value};

pub const FAMILY: Family = Family {
    factory: "vaapih264enc",
    memory: &["memory:VASurface", "memory:DMABuf"],
    // The control is set anew between two pictures; the counters of the group
    // of pictures begin again with it.
    rate_change: RateChange::KeyFrame,
    buffer: Some(Buffer {
        property: "cpb-length",
        unit: BufferUnit::Millisecond,
        rescaled: false,
    }),
    low_latency: &[
        ("rate-control", Value::Text("cbr")),
        ("quality-level", Value::Number(7)),
        ("keyframe-period", Value::Number(u32::MAX as i64)),
        ("max-bframes", Value::Number(0)),
        ("refs", Value::Number(1)),
        ("num-slices", Value::Number(1)),
        ("aud", Value::Bool(false)),
    ],
    ..BASE
};
