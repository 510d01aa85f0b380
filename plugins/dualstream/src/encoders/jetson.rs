// SPDX-License-Identifier: MPL-2.0
//! The encoders of NVIDIA's Jetson boards, from its Linux for Tegra.

use super::{BASE, Buffer, BufferUnit, Family, ForceKey, RateUnit, Value};

pub const FAMILY: Family = Family {
    factory: "nvv4l2h264enc",
    memory: &["memory:NVMM"],
    bitrate: ("bitrate", RateUnit::Bit),
    buffer: Some(Buffer {
        property: "vbv-size",
        unit: BufferUnit::Bit,
        rescaled: false,
    }),
    force_key: ForceKey::Signal("force-IDR"),
    low_latency: &[
        // Constant rate.
        ("control-rate", Value::Number(1)),
        ("control-rate", Value::Text("constant_bitrate")),
        ("maxperf-enable", Value::Bool(true)),
        ("preset-level", Value::Text("UltraFastPreset")),
        ("iframeinterval", Value::Number(u32::MAX as i64)),
        ("idrinterval", Value::Number(u32::MAX as i64)),
        ("num-B-Frames", Value::Number(0)),
        ("num-Ref-Frames", Value::Number(1)),
        ("poc-type", Value::Number(2)),
        ("EnableTwopassCBR", Value::Bool(false)),
        ("insert-sps-pps", Value::Bool(true)),
        ("insert-aud", Value::Bool(false)),
    ],
    ..BASE
};
