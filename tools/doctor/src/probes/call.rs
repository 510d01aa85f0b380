// SPDX-License-Identifier: MPL-2.0
//! A call over loopback: `dualwebrtcsink` and `dualwebrtcsrc` with ICE,
//! DTLS-SRTP, pacer and jitter buffer, and the time at which each picture
//! passes each of them. A picture is known by the bar code in it, from the
//! moment it is drawn to the moment a sink has it to show.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use serde::{Deserialize, Serialize};

use super::{FPS, FRAME, Running, launch};
use crate::percentile::Spread;
use crate::picture::Scene;
use crate::stream::ProfileLevel;
use crate::trace::{Frame, Trace, watch_receiver, watch_sender};

const WIDTH: usize = 1280;
const HEIGHT: usize = 720;
/// Of the sink, in ns. The jitter buffer counts the time for decoding, and a
/// copy is all that comes behind it.
const PROCESSING_DEADLINE: u64 = 5_000_000;
const BITRATE: u32 = 2_000_000;
/// The rate climbs from its start, and threads get going.
const WARM_UP: Duration = Duration::from_secs(2);
/// From the start to the first picture.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// For pictures on the way at the end.
const TAIL: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// After the first two, of which nothing is timed.
    pub seconds: u32,
    /// `auto` or a factory.
    pub encoder: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub width: usize,
    pub height: usize,
    pub bitrate_bps: u32,
    pub encoder: String,
    pub decoder: String,
    pub profile_level: Option<ProfileLevel>,
    /// From the start of both sides to the first picture shown.
    pub first_picture_ms: f64,
    /// Of the time that is measured.
    pub pictures_captured: usize,
    pub pictures_shown: usize,
    pub total: Spread,
    /// Drawn to decoded: the total of a sink that does not wait (sync=false).
    pub total_at_once: Spread,
    pub parts: Vec<Part>,
    /// What `dualwebrtcsrc` tells of the same call (docs/latency.md).
    pub told: BTreeMap<String, Told>,
    /// What the sink waits for, after the picture's timestamp, at the end ...
    pub pipeline_latency_ms: Option<f64>,
    /// ... of which this is the sink's own `processing-deadline`.
    pub sink_deadline_ms: f64,
}

/// In ms, of the last 10 s.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Told {
    pub p50_ms: f64,
    pub p95_ms: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub what: String,
    pub time: Spread,
}

/// Name, what it is, and its end; each part begins at the end of the one
/// before.
type PartOf = (&'static str, &'static str, fn(&Frame) -> Instant);
const PARTS: [PartOf; 7] = [
    ("capture", "drawn to the encoder", |f| f.encoder_in),
    ("encode", "to coded", |f| f.coded),
    ("pace", "to its last packet leaving rtppacer", |f| f.sent),
    ("network", "to its last packet at the jitter buffer", |f| {
        f.arrived
    }),
    ("jitter buffer", "to its last packet leaving it", |f| {
        f.released
    }),
    ("decode", "to decoded", |f| f.decoded),
    (
        "render",
        "to the sink having it to show, at its time",
        |f| f.shown,
    ),
];

pub fn run(task: &Task) -> Result<Outcome> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let sender = launch(&format!(
        "appsrc name=camera is-live=true format=time do-timestamp=true max-buffers=4 \
           leaky-type=downstream \
           caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={FPS}/1 \
         ! dualwebrtcsink name=sink run-signalling-server=true \
           signalling-server-host=127.0.0.1 signalling-server-port={port} \
           signaller::uri=ws://127.0.0.1:{port} encoder::encoder={} encoder::bitrate={BITRATE} \
           encoder::refresh-interval=2000",
        task.encoder
    ))?;
    let receiver = launch(&format!(
        "dualwebrtcsrc name=src signaller::uri=ws://127.0.0.1:{port} ! videoconvert \
         ! video/x-raw,format=I420 ! appsink name=screen sync=true qos=true max-buffers=2 drop=true \
         processing-deadline={PROCESSING_DEADLINE}"
    ))?;
    let trace = Trace::default();
    watch_sender(&sender.0, &trace)?;
    watch_receiver(&receiver.0, &trace)?;
    let camera: gst_app::AppSrc = sender
        .0
        .by_name("camera")
        .and_downcast()
        .context("appsrc")?;
    let begin = Instant::now();
    sender.play()?;
    receiver.play()?;
    let first = film(&camera, &trace, task, [&sender, &receiver])?;
    let encoder = codec_in(&sender.0, "Codec/Encoder");
    let decoder = codec_in(&receiver.0, "Codec/Decoder");
    outcome(&trace, begin, first, encoder, decoder, &receiver)
}

/// Draws pictures at 30 Hz, and for so long after the first one is shown as
/// the task says. When that was.
fn film(
    camera: &gst_app::AppSrc,
    trace: &Trace,
    task: &Task,
    both: [&Running; 2],
) -> Result<Instant> {
    let scene = Scene::new(WIDTH, HEIGHT);
    let begin = Instant::now();
    let mut end = None;
    let mut n = 0;
    loop {
        for running in both {
            running.check()?;
        }
        let now = Instant::now();
        if let Some(first) = trace.first_shown() {
            let until =
                *end.get_or_insert(first + WARM_UP + Duration::from_secs(task.seconds.into()));
            if now > until {
                std::thread::sleep(TAIL);
                return Ok(first);
            }
        } else if begin.elapsed() > CONNECT_LIMIT {
            bail!(
                "no picture is shown within {} s: {}",
                CONNECT_LIMIT.as_secs(),
                trace.progress()
            );
        }
        let picture = gst::Buffer::from_mut_slice(scene.i420(n));
        let due = begin + FRAME * n as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        trace.captured(n as u16);
        if camera.push_buffer(picture).is_err() {
            both[0].check()?;
            bail!("dualwebrtcsink takes no picture after {n}");
        }
        n += 1;
    }
}

fn outcome(
    trace: &Trace,
    begin: Instant,
    first: Instant,
    encoder: String,
    decoder: String,
    receiver: &Running,
) -> Result<Outcome> {
    let measured = trace.frames(first + WARM_UP);
    let frames = &measured.whole;
    let Some(total) = Spread::of(frames.iter().map(|f| f.shown - f.captured)) else {
        bail!("no picture could be followed: {}", trace.progress());
    };
    let at_once = frames.iter().map(|f| f.decoded - f.captured);
    let mut start: fn(&Frame) -> Instant = |f| f.captured;
    let mut parts = Vec::new();
    for (name, what, end) in PARTS {
        let times = frames
            .iter()
            .map(|f| end(f).saturating_duration_since(start(f)));
        parts.extend(Spread::of(times).map(|time| Part {
            name: name.into(),
            what: what.into(),
            time,
        }));
        start = end;
    }
    let mut latency = gst::query::Latency::new();
    let answered = receiver.0.query(&mut latency);
    Ok(Outcome {
        width: WIDTH,
        height: HEIGHT,
        bitrate_bps: BITRATE,
        encoder,
        decoder,
        profile_level: trace.profile_level(),
        first_picture_ms: first.duration_since(begin).as_secs_f64() * 1e3,
        pictures_captured: measured.captured,
        pictures_shown: measured.shown,
        total,
        total_at_once: Spread::of(at_once).unwrap_or(total),
        parts,
        told: told(&receiver.0),
        sink_deadline_ms: sink_deadline(&receiver.0),
        pipeline_latency_ms: answered.then(|| latency.result().1.nseconds() as f64 / 1e6),
    })
}

fn told(pipeline: &gst::Pipeline) -> BTreeMap<String, Told> {
    let stats = pipeline
        .by_name("src")
        .and_then(|src| src.property::<Option<gst::Structure>>("stats"));
    let latency = stats.and_then(|stats| stats.get::<gst::Structure>("latency").ok());
    let part = |value: &gst::glib::SendValue| {
        let part = value.get::<gst::Structure>().ok()?;
        let ms = |field| Some(part.get::<u64>(field).ok()? as f64 / 1e6);
        Some(Told {
            p50_ms: ms("p50")?,
            p95_ms: ms("p95")?,
        })
    };
    latency.map_or_else(BTreeMap::new, |latency| {
        latency
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), part(value)?)))
            .collect()
    })
}

/// In ms.
fn sink_deadline(pipeline: &gst::Pipeline) -> f64 {
    let screen = pipeline.by_name("screen");
    screen.map_or(0.0, |screen| {
        screen.property::<u64>("processing-deadline") as f64 / 1e6
    })
}

/// The first element of this class that is not itself a bin.
fn codec_in(pipeline: &gst::Pipeline, class: &str) -> String {
    pipeline
        .iterate_recurse()
        .into_iter()
        .flatten()
        .filter(|element| !element.is::<gst::Bin>())
        .filter_map(|element| element.factory())
        .find(|factory| {
            let klass = factory.metadata("klass").unwrap_or_default();
            // Not the audio's.
            klass.starts_with(class) && klass.contains("Video")
        })
        .map_or_else(|| "unknown".into(), |factory| factory.name().to_string())
}

/// Each packet of a buffer or a list.
pub fn packets(info: &gst::PadProbeInfo, mut each: impl FnMut(&[u8])) {
    let mut one = |buffer: &gst::BufferRef| {
        if let Ok(map) = buffer.map_readable() {
            each(&map);
        }
    };
    match &info.data {
        Some(gst::PadProbeData::Buffer(buffer)) => one(buffer),
        Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(one),
        _ => {}
    }
}
