// SPDX-License-Identifier: MPL-2.0
//! One encoder: how long a frame takes, what the stream says of itself, and
//! what a change of rate and the request for a key frame do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dualstream_common::Bitrate;
use gst::prelude::*;
use gstdualstream::encoders::{self, EncoderRate, Family, Setup};
use serde::{Deserialize, Serialize};

use super::bench::{Bench, capsfilter, raw_caps};
use super::{FPS, FRAME, make};
use crate::percentile::Spread;
use crate::picture::Scene;
use crate::stream::{self, ProfileLevel, Unit};

/// Factors of the rate, one after the other.
const RATES: [f64; 4] = [0.5, 1.0, 2.0, 1.0];
/// Frames after each change of the rate.
const AFTER_CHANGE: u64 = 15;
/// A key frame comes within so many frames of the request, or does not come.
const KEY_WITHIN: u64 = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub factory: String,
    pub width: u32,
    pub height: u32,
    /// Frames that are fed at 30 Hz.
    pub frames: u32,
    /// Also change the rate and ask for a key frame.
    pub controls: bool,
    /// Where the stream is kept, for decoders.
    pub keep: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub frames_in: u64,
    pub frames_out: u64,
    pub frame_time: Spread,
    /// The first frame's, with the start of the encoder.
    pub first_ms: f64,
    /// Frames that it keeps back: 0 is one in, one out.
    pub frames_held: u64,
    pub target_bps: u64,
    pub measured_bps: u64,
    /// By slice types.
    pub b_frames: u64,
    /// Key frames but the first, which nobody asked for.
    pub key_frames_unasked: u64,
    pub slices_per_frame: u32,
    pub profile_level: Option<ProfileLevel>,
    pub controls: Option<Controls>,
}

/// Tried, not taken from what the encoder should do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Controls {
    pub rate_changes: u64,
    /// Within the frames after these changes.
    pub key_frames_by_rate_change: u64,
    /// Frames from the request to the key frame, 1 is the next one; `None`: it
    /// did not come.
    pub key_frame_after: Option<u64>,
}

/// In the order in which they came out, with their numbers.
type Units = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

struct Test<'a> {
    task: &'a Task,
    family: Option<&'static Family>,
    encoder: gst::Element,
    bench: Bench,
    scene: Scene,
    units: Units,
}

/// Bits per sample of a picture that moves: 2 Mbit/s at 1280x720, and more at
/// larger sizes.
fn target(task: &Task) -> Bitrate {
    let samples = u64::from(task.width) * u64::from(task.height) * FPS;
    Bitrate::from_bps(samples * 2_000_000 / (1280 * 720 * FPS))
}

pub fn run(task: &Task) -> Result<Outcome> {
    let mut test = Test::new(task)?;
    test.bench.play()?;
    for n in 0..u64::from(task.frames) {
        let picture = test.scene.i420(n);
        test.bench.feed_in_time(picture)?;
    }
    let timed = test.bench.fed;
    let held = test.bench.held();
    test.bench
        .wait_for(timed - held.min(timed), Duration::from_secs(5))?;
    let controls = match (task.controls, test.family) {
        (true, Some(family)) => Some(test.controls(family)?),
        _ => None,
    };
    test.bench.drain()?;
    test.outcome(timed, held, controls)
}

impl<'a> Test<'a> {
    fn new(task: &'a Task) -> Result<Self> {
        let family = encoders::by_factory(&task.factory);
        let encoder = match family {
            Some(family) => {
                let setup = Setup::new(task.width, task.height, FRAME, target(task));
                family.make(None, setup)?
            }
            // As it comes.
            None => make(&task.factory)?,
        };
        let mut chain = input_chain(&encoder)?;
        chain.push(encoder.clone());
        chain.extend(output_chain(&encoder)?);
        if let Some(family) = family {
            begin_as_dualh264enc(&encoder, family, target(task))?;
        }
        let units = Units::default();
        let kept = units.clone();
        let caps = raw_caps("I420", task.width, task.height);
        let bench = Bench::new(&caps, &chain, &encoder, move |number, sample| {
            let data = sample.buffer().and_then(|b| b.map_readable().ok());
            if let Some(data) = data {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push((number, data.to_vec()));
            }
        })?;
        Ok(Self {
            task,
            family,
            encoder,
            bench,
            scene: Scene::new(task.width as usize, task.height as usize),
            units,
        })
    }

    fn feed_next(&mut self) -> Result<()> {
        let picture = self.scene.i420(self.bench.fed);
        self.bench.feed_in_turn(picture)
    }

    fn controls(&mut self, family: &'static Family) -> Result<Controls> {
        let from = self.bench.fed;
        let bitrate = target(self.task);
        for factor in RATES {
            let rate = EncoderRate {
                bitrate: bitrate.scale(factor),
                buffer: FRAME,
            };
            family.set_rate(&self.encoder, rate, false);
            for _ in 0..AFTER_CHANGE {
                self.feed_next()?;
            }
        }
        self.bench
            .wait_for(self.bench.fed, Duration::from_secs(1))?;
        let by_rate = self.key_frames(from);
        // Frames that it holds back come out before the key frame.
        let asked = self.bench.fed;
        let accepted = family.force_key(&self.encoder);
        for _ in 0..KEY_WITHIN {
            self.feed_next()?;
        }
        self.bench
            .wait_for(self.bench.fed, Duration::from_secs(1))?;
        let after = self.first_key_frame(asked).filter(|_| accepted);
        Ok(Controls {
            rate_changes: RATES.len() as u64,
            key_frames_by_rate_change: by_rate,
            key_frame_after: after.map(|number| number - asked + 1),
        })
    }

    fn read<R>(&self, what: impl FnOnce(&mut dyn Iterator<Item = (u64, Unit)>) -> R) -> R {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        what(&mut units.iter().map(|(n, data)| (*n, stream::read(data))))
    }

    fn key_frames(&self, from: u64) -> u64 {
        self.read(|units| units.filter(|(n, unit)| *n >= from && unit.key).count() as u64)
    }

    fn first_key_frame(&self, from: u64) -> Option<u64> {
        self.read(|units| {
            units
                .filter(|(n, unit)| *n >= from && unit.key)
                .map(|(n, _)| n)
                .min()
        })
    }

    fn outcome(self, timed: u64, held: u64, controls: Option<Controls>) -> Result<Outcome> {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(frame_time) = Spread::of(self.bench.times(timed)) else {
            bail!("no frame comes out of {}", self.bench.fed);
        };
        let read: Vec<(u64, Unit)> = units
            .iter()
            .map(|(n, data)| (*n, stream::read(data)))
            .collect();
        // The first second has the key frame.
        let steady = FPS.min(timed / 2)..timed;
        let bytes: usize = units
            .iter()
            .filter(|(n, _)| steady.contains(n))
            .map(|(_, data)| data.len())
            .sum();
        let before_controls = || read.iter().filter(|(n, _)| *n < timed);
        let outcome = Outcome {
            frames_in: self.bench.fed,
            frames_out: self.bench.outputs(),
            frame_time,
            first_ms: self.bench.first().map_or(0.0, |t| t.as_secs_f64() * 1e3),
            frames_held: held,
            target_bps: target(self.task).as_bps(),
            measured_bps: bytes as u64 * 8 * FPS / (steady.end - steady.start).max(1),
            b_frames: read.iter().filter(|(_, unit)| unit.bidirectional).count() as u64,
            key_frames_unasked: before_controls().skip(1).filter(|(_, u)| u.key).count() as u64,
            slices_per_frame: before_controls().map(|(_, u)| u.slices).max().unwrap_or(0),
            profile_level: read.iter().find_map(|(_, unit)| unit.profile_level),
            controls,
        };
        if let Some(path) = &self.task.keep {
            keep(path, units.iter().take(timed as usize)).context("keeping the stream")?;
        }
        Ok(outcome)
    }
}

/// The first rates are set when the encoder has its format, one for the key
/// frame and one for what follows.
fn begin_as_dualh264enc(
    encoder: &gst::Element,
    family: &'static Family,
    bitrate: Bitrate,
) -> Result<()> {
    let rate = EncoderRate {
        bitrate,
        buffer: FRAME,
    };
    let sink = encoder
        .static_pad("sink")
        .with_context(|| format!("{} has no pad sink", encoder.name()))?;
    let (weak, frames) = (encoder.downgrade(), AtomicU64::new(0));
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let Some(encoder) = weak.upgrade() else {
            return gst::PadProbeReturn::Remove;
        };
        match frames.fetch_add(1, Ordering::Relaxed) {
            0 if !family.rate_at_start => family.set_rate(&encoder, rate, true),
            1 if family.key_frame_cost != 1.0 => family.set_rate(&encoder, rate, false),
            0 => {}
            _ => return gst::PadProbeReturn::Remove,
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Into a format and, for hardware, a memory that it takes.
fn input_chain(encoder: &gst::Element) -> Result<Vec<gst::Element>> {
    let mut chain = vec![make("videoconvert")?];
    let sink = encoder
        .static_pad("sink")
        .with_context(|| format!("{} has no pad sink", encoder.name()))?;
    let caps = sink.pad_template_caps();
    let system = caps
        .iter_with_features()
        .any(|(_, features)| features.contains("memory:SystemMemory") || features.is_empty());
    if !system {
        let upload = caps.iter_with_features().find_map(|(_, features)| {
            UPLOADS
                .iter()
                .find(|(memory, _)| features.contains(*memory))
        });
        let Some((_, upload)) = upload else {
            bail!("takes only memory that the doctor cannot fill: {caps}");
        };
        chain.push(make(upload)?);
    }
    Ok(chain)
}

/// Element that brings pictures into a kind of memory.
const UPLOADS: [(&str, &str); 5] = [
    ("memory:CUDAMemory", "cudaupload"),
    ("memory:VAMemory", "vapostproc"),
    ("memory:VASurface", "vaapipostproc"),
    ("memory:D3D11Memory", "d3d11upload"),
    ("memory:GLMemory", "glupload"),
];

/// A byte stream of whole access units, of the profile that WebRTC peers take
/// where the encoder has it: a peer's offer asks for it, too.
fn output_chain(encoder: &gst::Element) -> Result<Vec<gst::Element>> {
    let src = encoder
        .static_pad("src")
        .with_context(|| format!("{} has no pad src", encoder.name()))?;
    let template = src.pad_template_caps();
    let wanted = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let mut baseline = gst::Caps::new_empty_simple("video/x-h264");
    baseline.make_mut().set("profile", "constrained-baseline");
    let mut chain = Vec::new();
    if template.can_intersect(&baseline) {
        chain.push(capsfilter(&baseline)?);
    }
    if !template.can_intersect(&wanted) {
        chain.push(make("h264parse")?);
    }
    chain.push(capsfilter(&wanted)?);
    Ok(chain)
}

/// Each unit behind its size, 32 bits, little endian.
fn keep<'a>(path: &Path, units: impl Iterator<Item = &'a (u64, Vec<u8>)>) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for (_, unit) in units {
        file.write_all(&u32::try_from(unit.len())?.to_le_bytes())?;
        file.write_all(unit)?;
    }
    file.flush()?;
    Ok(())
}
