// SPDX-License-Identifier: MPL-2.0
//! Opus as calls use it: 10 ms frames, low delay, constant rate; a tone is
//! coded, decoded and must still be as loud.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use serde::{Deserialize, Serialize};

use super::launch;

const FRAMES: u64 = 100;
/// audiotestsrc's default volume is 0.8.
const AMPLITUDE: f64 = 0.8 * 32767.0;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Coded, of 10 ms each.
    pub frames: u64,
    pub bitrate_bps: u64,
    /// Of the decoded tone, against the one before.
    pub level: f64,
}

pub fn run() -> Result<Outcome> {
    let running = launch(&format!(
        "audiotestsrc num-buffers={FRAMES} samplesperbuffer=480 freq=440 \
         ! audio/x-raw,format=S16LE,rate=48000,channels=1 \
         ! opusenc name=enc frame-size=10 audio-type=restricted-lowdelay bitrate-type=cbr \
           bitrate=128000 \
         ! opusdec ! audio/x-raw,format=S16LE ! appsink name=out sync=false"
    ))?;
    let (frames, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counted = (frames.clone(), bytes.clone());
    let coded = running
        .0
        .by_name("enc")
        .and_then(|enc| enc.static_pad("src"));
    coded.context("opusenc has no pad src")?.add_probe(
        gst::PadProbeType::BUFFER,
        move |_, info| {
            if let Some(buffer) = info.buffer() {
                counted.0.fetch_add(1, Ordering::Relaxed);
                counted.1.fetch_add(buffer.size() as u64, Ordering::Relaxed);
            }
            gst::PadProbeReturn::Ok
        },
    );
    let sink: gst_app::AppSink = running
        .0
        .by_name("out")
        .and_downcast()
        .context("an appsink")?;
    running.play()?;
    let (mut squares, mut samples) = (0.0, 0u64);
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(5)) {
        let map = sample
            .buffer()
            .and_then(|b| b.map_readable().ok())
            .context("no data")?;
        for pair in map.as_chunks::<2>().0 {
            squares += f64::from(i16::from_le_bytes(*pair)).powi(2);
            samples += 1;
        }
    }
    running.check()?;
    let frames = frames.load(Ordering::Relaxed);
    if samples < FRAMES * 480 / 2 || frames < FRAMES {
        bail!("{frames} frames coded and {samples} samples decoded of {FRAMES} frames");
    }
    let level = (squares / samples as f64).sqrt() / (AMPLITUDE / 2f64.sqrt());
    if !(0.8..1.2).contains(&level) {
        bail!("the tone comes back {level:.2} times as loud");
    }
    Ok(Outcome {
        frames,
        bitrate_bps: bytes.load(Ordering::Relaxed) * 8 * 100 / frames,
        level,
    })
}
