// SPDX-License-Identifier: MPL-2.0
//! The NVENC encoders of gst-plugins-bad's nvcodec plugin. nvh264enc is one
//! implementation up to 1.24, and the same as nvcudah264enc from 1.26 on.

use super::{BASE, Buffer, BufferUnit, Family, RateChange, RateUnit, Value};

/// Property names of both implementations and of all versions: rc-mode and
/// zerolatency before 1.22 and from 1.26 on, rate-control and
/// zero-reorder-delay between; presets p1 to p7 with a tune from 1.24 on.
const LOW_LATENCY: &[(&str, Value)] = &[
    ("preset", Value::AnyOf(&["p3", "low-latency-hp"])),
    ("tune", Value::Text("ultra-low-latency")),
    ("rate-control", Value::Text("cbr")),
    ("rc-mode", Value::Text("cbr")),
    ("zero-reorder-delay", Value::Bool(true)),
    ("zerolatency", Value::Bool(true)),
    ("gop-size", Value::Number(-1)),
    ("b-frames", Value::Number(0)),
    ("bframes", Value::Number(0)),
    ("rc-lookahead", Value::Number(0)),
    ("i-adapt", Value::Bool(false)),
    ("b-adapt", Value::Bool(false)),
    ("nonref-p", Value::Bool(false)),
    ("weighted-pred", Value::Bool(false)),
    ("aud", Value::Bool(false)),
    ("repeat-sequence-header", Value::Bool(true)),
];

/// Only the rate is reconfigured in place (NvEncReconfigureEncoder); a new
/// buffer size opens a new session.
pub const CUDA: Family = Family {
    factory: "nvcudah264enc",
    memory: &["memory:CUDAMemory", "memory:GLMemory"],
    bitrate: ("bitrate", RateUnit::Kibibit),
    buffer: Some(Buffer {
        property: "vbv-buffer-size",
        unit: BufferUnit::Kibibit,
        rescaled: false,
    }),
    low_latency: LOW_LATENCY,
    ..BASE
};

pub const AUTO_GPU: Family = Family {
    factory: "nvautogpuh264enc",
    memory: &["memory:CUDAMemory", "memory:D3D11Memory", "memory:GLMemory"],
    ..CUDA
};

pub const D3D11: Family = Family {
    factory: "nvd3d11h264enc",
    memory: &["memory:D3D11Memory"],
    ..CUDA
};

/// Any change of a property starts from an IDR frame (resetEncoder, forceIDR)
/// in the implementation before 1.26.
pub const LEGACY: Family = Family {
    factory: "nvh264enc",
    rate_change: RateChange::KeyFrame,
    newer: Some(("repeat-sequence-header", RateChange::InPlace)),
    ..CUDA
};
