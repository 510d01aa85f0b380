// SPDX-License-Identifier: MPL-2.0
//! x264enc of gst-plugins-ugly.

use super::{BASE, Buffer, BufferUnit, Family, Properties, Sessions, Setup, Value};

pub const FAMILY: Family = Family {
    factory: "x264enc",
    hardware: false,
    sessions: Sessions::Many,
    // In time, so it follows the rate by itself; key frames need another.
    buffer: Some(Buffer {
        property: "vbv-buf-capacity",
        unit: BufferUnit::Millisecond,
        rescaled: true,
    }),
    low_latency: &[
        ("tune", Value::Text("zerolatency")),
        ("speed-preset", Value::Text("veryfast")),
        ("key-int-max", Value::Number(i32::MAX as i64)),
        ("option-string", Value::Text("scenecut=0")),
        ("b-adapt", Value::Bool(false)),
        ("byte-stream", Value::Bool(true)),
        ("aud", Value::Bool(false)),
    ],
    tune: Some(threads),
    new_for_key_frame: true,
    ..BASE
};

/// Luma samples per second that one core codes in real time with the preset
/// above, with a wide margin (1280x720 at 30).
const ONE_THREAD: u64 = 1280 * 720 * 30;

/// One slice per frame, so that a frame is lost or whole; above what one core
/// does, slices in parallel.
fn threads(element: &gst::Element, setup: Setup) {
    let format = setup.format;
    let frame_time = u64::try_from(format.frame_time.as_nanos()).unwrap_or(u64::MAX);
    let samples = (u64::from(format.width) * u64::from(format.height))
        .saturating_mul(1_000_000_000)
        / frame_time.max(1);
    let threads = samples.div_ceil(ONE_THREAD).clamp(1, 8);
    let properties = Properties(element);
    properties.set("threads", Value::Number(threads as i64));
    properties.set("sliced-threads", Value::Bool(threads > 1));
}
