// SPDX-License-Identifier: MPL-2.0
//! The sending process: the clip into `dualwebrtcsink`, which holds its first
//! picture until the receiver is there and then keeps the clip's pace.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use gst::prelude::*;

use crate::estimator::{Estimator, Watch};
use crate::events::{Event, Order, Orders, say, wall_clock};
use crate::log::{Coded, Sent, write_lines};
use crate::tag::{Numbers, Tag, captured, codec_in, note_stats};
use dualstream_clip::source::{Clip, Pictures, describe};

/// How long one wait lasts before orders and errors are looked at again.
const SLICE: Duration = Duration::from_millis(20);
/// The last pictures were handed over but do not reach the encoder.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the receiver's, whose events make the lines.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Decoded pictures that wait for their time.
const AHEAD: u64 = 4;

pub struct Options {
    pub clip: Clip,
    pub seconds: Option<f64>,
    pub bitrate: u32,
    pub refresh_interval: u32,
    pub host: String,
    pub port: u16,
    pub estimator: Estimator,
    pub log: PathBuf,
    pub rates: PathBuf,
}

#[derive(Default)]
struct Record {
    lines: Vec<Sent>,
    /// Handed to `dualwebrtcsink`.
    pictures: u64,
    /// Reached the encoder.
    captured: u64,
    coded_bytes: u64,
    numbers: Numbers,
    untagged: u64,
}

type Shared = Arc<Mutex<Record>>;

fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why the pump ended without an error.
#[derive(PartialEq, Eq)]
enum End {
    AllSent,
    Stopped,
}

/// Sends every picture once; writes its log however it ends.
pub fn send(options: &Options) -> Result<()> {
    let record = Shared::default();
    let result = run(options, &record);
    let written = write_lines(&options.log, &lock(&record).lines);
    result.and(written)
}

fn run(options: &Options, record: &Shared) -> Result<()> {
    let orders = Orders::listen();
    let mut pictures = Pictures::open(&options.clip)?;
    let first = pictures.read()?.context("there is no video in it")?;
    let mut sender = Sender::new(options, &first, record)?;
    let result = sender.send(options, first, &mut pictures, record, &orders);
    let written = sender.watch.write();
    result.and(written)?;
    let untagged = lock(record).untagged;
    if untagged > 0 {
        bail!("{untagged} coded frames had no frame tag");
    }
    Ok(())
}
struct Sender {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    sink: gst::Element,
    watch: Watch,
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Sender {
    fn new(options: &Options, first: &gst::Sample, record: &Shared) -> Result<Self> {
        let pipeline = gst::Pipeline::new();
        let source = gst_app::AppSrc::builder()
            .format(gst::Format::Time)
            .max_buffers(AHEAD)
            .build();
        source.set_caps(first.caps_owned().as_ref());
        let sink = gst::ElementFactory::make("dualwebrtcsink")
            .property("wait-for-receiver", true)
            .build()
            .context("the GStreamer element dualwebrtcsink is not installed")?;
        set_child(&sink, "encoder::bitrate", &options.bitrate.to_string())?;
        set_child(
            &sink,
            "encoder::refresh-interval",
            &options.refresh_interval.to_string(),
        )?;
        let uri = format!("ws://{}:{}", options.host, options.port);
        set_child(&sink, "signaller::uri", &uri)?;
        pipeline.add_many([source.upcast_ref(), &sink])?;
        source.link(&sink)?;

        let encoder = sink
            .downcast_ref::<gst::Bin>()
            .and_then(|bin| bin.by_name("encoder"))
            .context("dualwebrtcsink has no child `encoder`")?;
        watch_encoder(&encoder, record);
        let watch = Watch::new(options.estimator, &sink, &encoder, options.rates.clone())?;

        let sender = Self {
            pipeline,
            source,
            sink,
            watch,
        };
        if sender.pipeline.set_state(gst::State::Playing).is_err() {
            sender.check()?;
            bail!("the sending pipeline does not start");
        }
        Ok(sender)
    }

    fn send(
        &mut self,
        options: &Options,
        first: gst::Sample,
        pictures: &mut Pictures,
        record: &Shared,
        orders: &Orders,
    ) -> Result<()> {
        say(&Event::Hello {
            rattan_id: std::env::var("RATTAN_ID").ok(),
        });
        let end = self.pump(options, first, pictures, record, orders);
        // The receiver may end the session from here on, and the figures with it.
        note_stats(&self.sink);
        if end.as_ref().is_ok_and(|end| *end == End::AllSent) {
            say(&Event::AllSent {
                pictures: lock(record).pictures,
                encoder: codec_in(&self.sink, "Codec/Encoder"),
            });
            // Repairs may still be asked for.
            while orders.wait(SLICE) != Some(Order::Stop) {
                self.check()?;
                self.watch.sample();
            }
        }
        end.map(drop)
    }

    /// An error of the pipeline, if it has one.
    fn check(&self) -> Result<()> {
        let bus = self.pipeline.bus().context("the pipeline has no bus")?;
        match bus.pop_filtered(&[gst::MessageType::Error]) {
            Some(message) => Err(anyhow!(describe(&message))),
            None => Ok(()),
        }
    }

    /// Hands over every picture, and waits until the encoder has the last.
    fn pump(
        &mut self,
        options: &Options,
        first: gst::Sample,
        pictures: &mut Pictures,
        record: &Shared,
        orders: &Orders,
    ) -> Result<End> {
        let origin = time_of(&first).context("the first picture has no time")?;
        let limit = options
            .seconds
            .map(|s| gst::ClockTime::from_nseconds((s * 1e9) as u64));
        let mut progress = Progress::new();
        let mut next = Some(first);
        while let Some(sample) = next {
            self.watch.sample();
            let time = time_of(&sample).context("a picture has no time")?;
            let pts = time.saturating_sub(origin);
            if limit.is_some_and(|limit| pts >= limit) {
                break;
            }
            while self.source.current_level_buffers() >= AHEAD {
                self.check()?;
                progress.tell(record);
                self.watch.sample();
                if orders.wait(SLICE) == Some(Order::Stop) {
                    return Ok(End::Stopped);
                }
            }
            {
                let mut record = lock(record);
                let number = record.pictures;
                record.pictures += 1;
                record.lines.push(Sent::Picture {
                    number,
                    pts: pts.nseconds(),
                });
            }
            self.push(&sample, pts)?;
            next = pictures.read()?;
        }
        let mut last = (0, Instant::now());
        loop {
            self.check()?;
            progress.tell(record);
            self.watch.sample();
            let (pictures, captured) = {
                let record = lock(record);
                (record.pictures, record.captured)
            };
            if captured != last.0 {
                last = (captured, Instant::now());
            }
            if captured >= pictures {
                return Ok(End::AllSent);
            }
            if captured > 0 && last.1.elapsed() > DRAIN_TIMEOUT {
                bail!("only {captured} of {pictures} pictures reached the encoder");
            }
            if orders.wait(SLICE) == Some(Order::Stop) {
                return Ok(End::Stopped);
            }
        }
    }

    fn push(&self, sample: &gst::Sample, pts: gst::ClockTime) -> Result<()> {
        let mut buffer = sample.buffer_owned().context("a picture without data")?;
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(pts);
            buffer.set_dts(None);
        }
        match self.source.push_buffer(buffer) {
            Ok(_) => Ok(()),
            Err(flow) => {
                self.check()?;
                bail!("the sending pipeline takes no more pictures: {flow}");
            }
        }
    }
}

/// A property of a child, which its own error would only warn of.
fn set_child(element: &gst::Element, name: &str, value: &str) -> Result<()> {
    let proxy = element
        .dynamic_cast_ref::<gst::ChildProxy>()
        .with_context(|| format!("{} has no children", element.name()))?;
    let (child, property) = proxy
        .lookup(name)
        .with_context(|| format!("{} has no property {name}", element.name()))?;
    child.set_property_from_str(property.name(), value);
    Ok(())
}

fn time_of(sample: &gst::Sample) -> Option<gst::ClockTime> {
    let pts = sample.buffer()?.pts()?;
    sample
        .segment()?
        .downcast_ref::<gst::ClockTime>()?
        .to_running_time(pts)
}

fn watch_encoder(encoder: &gst::Element, record: &Shared) {
    let probe = |pad: &gst::Pad, record: &Shared| {
        let record = record.clone();
        if pad.direction() == gst::PadDirection::Sink {
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                if let Some(buffer) = info.buffer() {
                    note_captured(&mut lock(&record), buffer);
                }
                gst::PadProbeReturn::Ok
            });
        } else {
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                if let Some(buffer) = info.buffer() {
                    note_coded(&mut lock(&record), buffer);
                }
                gst::PadProbeReturn::Ok
            });
        }
    };
    for pad in encoder.pads() {
        probe(&pad, record);
    }
    let record = record.clone();
    encoder.connect_pad_added(move |_, pad| probe(pad, &record));
}

fn note_captured(record: &mut Record, buffer: &gst::BufferRef) {
    let number = record.captured;
    record.captured += 1;
    record.lines.push(Sent::Captured {
        number,
        at: captured(buffer).unwrap_or_else(wall_clock),
    });
}

fn note_coded(record: &mut Record, buffer: &gst::BufferRef) {
    let at = wall_clock();
    let bytes = buffer.size() as u64;
    record.coded_bytes += bytes;
    let tagged = Tag::of(buffer).and_then(|tag| Some((tag, record.numbers.unwrap(tag.number)?)));
    match tagged {
        Some((tag, number)) => record.lines.push(Sent::Coded(Coded {
            at,
            stream: tag.stream,
            number,
            generation: tag.generation,
            background: tag.background,
            key: tag.key,
            bytes,
        })),
        None => record.untagged += 1,
    }
}

struct Progress {
    told: Instant,
    /// Start of the second that the rate is taken over.
    since: Instant,
    bytes: u64,
    kbps: f64,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            told: now,
            since: now,
            bytes: 0,
            kbps: 0.0,
        }
    }

    fn tell(&mut self, record: &Shared) {
        if self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.told = Instant::now();
        let (pictures, bytes) = {
            let record = lock(record);
            (record.captured, record.coded_bytes)
        };
        let elapsed = self.since.elapsed();
        if elapsed >= Duration::from_secs(1) {
            self.kbps = (bytes - self.bytes) as f64 * 8.0 / 1e3 / elapsed.as_secs_f64();
            self.since = self.told;
            self.bytes = bytes;
        }
        say(&Event::Sending {
            pictures,
            kbps: self.kbps,
        });
    }
}
