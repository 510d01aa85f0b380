// SPDX-License-Identifier: MPL-2.0
//! One decoder: how long a frame takes, and whether the pictures are those
//! that were coded.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use gst_video::prelude::*;
use serde::{Deserialize, Serialize};

use super::bench::Bench;
use super::{FPS, make};
use crate::percentile::Spread;
use crate::picture::read_number;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub factory: String,
    pub width: u32,
    pub height: u32,
    pub frames: u32,
    /// As an encoder's probe kept it.
    pub stream: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub frames_in: u64,
    pub frames_out: u64,
    pub frame_time: Spread,
    pub first_ms: f64,
    pub frames_held: u64,
    /// Pictures whose bar code shows their own number; `None` where the
    /// decoder's memory cannot be looked into.
    pub pictures_right: Option<u64>,
}

#[derive(Default)]
struct Pictures {
    right: u64,
    unreadable: u64,
}

pub fn run(task: &Task) -> Result<Outcome> {
    let units = read_units(&task.stream, task.frames as usize).context("the test stream")?;
    let decoder = make(&task.factory)?;
    set_up(&decoder);
    // Parameters in the caps and avc where the decoder wants them.
    let chain = [make("h264parse")?, decoder.clone()];
    let pictures: Arc<Mutex<Pictures>> = Arc::default();
    let seen = pictures.clone();
    let caps = coded_caps(task);
    let mut bench = Bench::new(&caps, &chain, &decoder, move |number, sample| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match shown_number(sample) {
            Some(shown) => seen.right += u64::from(shown == Some(number as u16)),
            None => seen.unreadable += 1,
        }
    })?;
    bench.play()?;
    for unit in units {
        bench.feed_in_time(unit)?;
    }
    let (fed, held) = (bench.fed, bench.held());
    bench.wait_for(fed.saturating_sub(held), Duration::from_secs(5))?;
    bench.drain()?;
    let Some(frame_time) = Spread::of(bench.times(fed)) else {
        bail!("no picture comes out of {fed}");
    };
    let pictures = pictures.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Outcome {
        frames_in: fed,
        frames_out: bench.outputs(),
        frame_time,
        first_ms: bench.first().map_or(0.0, |t| t.as_secs_f64() * 1e3),
        frames_held: held,
        pictures_right: (pictures.unreadable == 0).then_some(pictures.right),
    })
}

/// As `dualh264dec` does for a picture at once: frame threads keep one back
/// each.
fn set_up(decoder: &gst::Element) {
    let settings = [("thread-type", "slice"), ("qos", "false")];
    for (property, value) in settings {
        let fits = decoder
            .find_property(property)
            .is_some_and(|spec| gst::glib::Value::deserialize_with_pspec(value, &spec).is_ok());
        if fits {
            decoder.set_property_from_str(property, value);
        }
    }
}

fn coded_caps(task: &Task) -> gst::Caps {
    gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .field("width", task.width as i32)
        .field("height", task.height as i32)
        .field("framerate", gst::Fraction::new(FPS as i32, 1))
        .build()
}

/// `None`: the picture cannot be looked into.
fn shown_number(sample: &gst::Sample) -> Option<Option<u16>> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer()?, &info).ok()?;
    if frame.format_info().depth().first() != Some(&8) || !frame.format_info().is_yuv() {
        return None;
    }
    let stride = usize::try_from(*frame.plane_stride().first()?).ok()?;
    let luma = frame.plane_data(0).ok()?;
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    Some(read_number(luma, stride, width, height))
}

fn read_units(path: &Path, limit: usize) -> Result<Vec<Vec<u8>>> {
    let data = std::fs::read(path)?;
    let mut rest = data.as_slice();
    let mut units = Vec::new();
    while let Some((size, tail)) = rest.split_first_chunk::<4>() {
        if units.len() == limit {
            break;
        }
        let size = u32::from_le_bytes(*size) as usize;
        let unit = tail.get(..size).context("cut off")?;
        units.push(unit.to_vec());
        rest = &tail[size..];
    }
    Ok(units)
}
