// SPDX-License-Identifier: MPL-2.0
//! The receiving process: `dualwebrtcsrc`, and what is written down of every
//! picture that leaves it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use gst::prelude::*;

use crate::events::{Event, Order, Orders, Showing, say, wall_clock};
use crate::log::{Shown, write_lines};
use crate::record::Worker;
use crate::tag::{Numbers, Tag, captured, codec_in, note_stats};
use dualstream_clip::source::{Clip, describe};

const SLICE: Duration = Duration::from_millis(50);
/// For a picture that comes twice, after the last one.
const LINGER: Duration = Duration::from_millis(300);
/// For pictures on the way, after the sender has sent its last.
const TAIL_TIMEOUT: Duration = Duration::from_secs(4);

pub struct Options {
    pub clip: Clip,
    pub port: u16,
    pub video: PathBuf,
    pub log: PathBuf,
}

#[derive(Default)]
struct Record {
    shown: Vec<Shown>,
    numbers: Numbers,
    highest: Option<u64>,
    /// Pictures before this one are in an event already.
    told: usize,
    switches: u64,
    worker: Option<Worker>,
}

type Shared = Arc<Mutex<Record>>;

fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Receives until it is told to end; writes its log however it ends.
pub fn receive(options: &Options) -> Result<()> {
    let record = Shared::default();
    let result = run(options, &record);
    let worker = lock(&record).worker.take();
    let compared = worker.map_or_else(|| Ok(Vec::new()), Worker::finish);
    let mut record = lock(&record);
    let result = match (result, compared) {
        (Ok(decoder), Ok(compared)) => {
            fill_psnr(&mut record.shown, &compared);
            Ok(decoder)
        }
        (Err(e), Ok(compared)) => {
            fill_psnr(&mut record.shown, &compared);
            Err(e)
        }
        (Ok(_), Err(e)) => Err(e.context("recording failed")),
        (Err(e), Err(_)) => Err(e),
    };
    write_lines(&options.log, &record.shown)?;
    say(&Event::Finished { decoder: result? });
    Ok(())
}

fn fill_psnr(shown: &mut [Shown], compared: &[(usize, f64)]) {
    for &(index, db) in compared {
        if let Some(shown) = shown.get_mut(index) {
            shown.psnr_db = Some(db);
        }
    }
}

/// The decoder that was used.
fn run(options: &Options, record: &Shared) -> Result<String> {
    let orders = Orders::listen();
    let receiver = Receiver::new(options, record)?;
    say(&Event::Ready);
    let mut last_told = Instant::now();
    // Set by the order to end: pictures to come, and since when.
    let mut end: Option<(u64, Instant)> = None;
    let mut complete: Option<Instant> = None;
    loop {
        receiver.check()?;
        if last_told.elapsed() >= Duration::from_secs(1) {
            last_told = Instant::now();
            let showing = showing(&mut lock(record));
            say(&Event::Showing(showing));
        }
        match orders.wait(SLICE) {
            Some(Order::Stop) => break,
            Some(Order::End(pictures)) => end = Some((pictures, Instant::now())),
            None => {}
        }
        let Some((pictures, since)) = end else {
            continue;
        };
        let highest = lock(record).highest;
        if highest.map_or(0, |n| n + 1) >= pictures && complete.is_none() {
            complete = Some(Instant::now());
        }
        if complete.is_some_and(|at| at.elapsed() > LINGER) || since.elapsed() > TAIL_TIMEOUT {
            break;
        }
    }
    note_stats(&receiver.source);
    Ok(codec_in(&receiver.source, "Codec/Decoder"))
}

struct Receiver {
    pipeline: gst::Pipeline,
    source: gst::Element,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Receiver {
    fn new(options: &Options, record: &Shared) -> Result<Self> {
        let pipeline = gst::Pipeline::new();
        let source = gst::ElementFactory::make("dualwebrtcsrc")
            .property("run-signalling-server", true)
            .property("signalling-server-port", u32::from(options.port))
            .build()
            .context("the GStreamer element dualwebrtcsrc is not installed")?;
        pipeline.add(&source)?;
        attach_display(&pipeline, &source, options, record)?;
        let receiver = Self { pipeline, source };
        if receiver.pipeline.set_state(gst::State::Playing).is_err() {
            receiver.check()?;
            bail!("the receiving pipeline does not start");
        }
        Ok(receiver)
    }

    fn check(&self) -> Result<()> {
        let bus = self.pipeline.bus().context("the pipeline has no bus")?;
        match bus.pop_filtered(&[gst::MessageType::Error]) {
            Some(message) => Err(anyhow!(describe(&message))),
            None => Ok(()),
        }
    }
}

/// What stands in for a screen: an unsynchronised sink, behind the pad on
/// which a picture counts as shown.
fn attach_display(
    pipeline: &gst::Pipeline,
    source: &gst::Element,
    options: &Options,
    record: &Shared,
) -> Result<()> {
    let convert = gst::ElementFactory::make("videoconvert").build()?;
    let input = convert
        .static_pad("sink")
        .context("videoconvert: no sink")?;
    let caps = gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .build();
    // The position in the log of the picture on its way to the sink; both
    // ends run in one streaming thread.
    let position = Arc::new(Mutex::new(None::<usize>));
    let at_sink = (record.clone(), position.clone());
    let (clip, video) = (options.clip.clone(), options.video.clone());
    let sink = gst_app::AppSink::builder()
        .sync(false)
        .caps(&caps)
        .callbacks(
            gst_app::AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    let position = at_sink
                        .1
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take();
                    if let Some(index) = position {
                        hand_over(&mut lock(&at_sink.0), index, sample, &clip, &video);
                    }
                    Ok(gst::FlowSuccess::Ok)
                })
                .build(),
        )
        .build();
    pipeline.add_many([&convert, sink.upcast_ref()])?;
    convert.link(&sink)?;

    let at_pad = record.clone();
    let watch = move |pad: &gst::Pad| {
        if pad.direction() != gst::PadDirection::Src || input.is_linked() {
            return;
        }
        let (record, position) = (at_pad.clone(), position.clone());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                let index = note_shown(&mut lock(&record), buffer);
                *position.lock().unwrap_or_else(PoisonError::into_inner) = Some(index);
            }
            gst::PadProbeReturn::Ok
        });
        // A refusal ends in an error message of the pipeline.
        let _ = pad.link(&input);
    };
    for pad in source.src_pads() {
        watch(&pad);
    }
    source.connect_pad_added(move |_, pad| watch(pad));
    Ok(())
}

/// The picture's position in the log.
fn note_shown(record: &mut Record, buffer: &gst::BufferRef) -> usize {
    let shown = wall_clock();
    let tag = Tag::of(buffer);
    let number = tag.and_then(|tag| record.numbers.unwrap(tag.number));
    let stream = tag.map_or(0, |tag| tag.stream);
    if record
        .shown
        .last()
        .is_some_and(|last| last.stream != stream)
    {
        record.switches += 1;
    }
    record.highest = record.highest.max(number);
    record.shown.push(Shown {
        number,
        stream,
        generation: tag.map_or(0, |tag| tag.generation),
        captured: captured(buffer),
        shown,
        psnr_db: None,
    });
    record.shown.len() - 1
}

fn hand_over(
    record: &mut Record,
    index: usize,
    sample: gst::Sample,
    clip: &Clip,
    video: &std::path::Path,
) {
    let Some(number) = record.shown.get(index).and_then(|s| s.number) else {
        return;
    };
    let bytes = sample.buffer().map_or(0, gst::BufferRef::size);
    let worker = record
        .worker
        .get_or_insert_with(|| Worker::start(clip.clone(), video.into(), bytes));
    // The summary counts what was not compared.
    let _ = worker.push(index, number, sample);
}

fn showing(record: &mut Record) -> Showing {
    let fresh: Vec<f64> = record.shown[record.told..]
        .iter()
        .filter_map(Shown::latency_ms)
        .collect();
    record.told = record.shown.len();
    Showing {
        pictures: record.shown.len() as u64,
        display_stream: record.shown.last().map_or(0, |s| s.stream),
        switches: record.switches,
        latency_ms_mean: (!fresh.is_empty())
            .then(|| fresh.iter().sum::<f64>() / fresh.len() as f64),
        latency_ms_max: fresh.iter().copied().max_by(f64::total_cmp),
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
