// SPDX-License-Identifier: MPL-2.0
//! One encoder or decoder between an appsrc and an appsink, fed at the pace of
//! a camera, with the time at which each frame goes in and comes out.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use gst::prelude::*;

use super::{FPS, FRAME, Running, make};

/// Frames with which encoders and threads get going; they are not timed.
const WARM_UP: u64 = 5;
/// From here on a frame is held back until others follow.
const HELD: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Times {
    entered: BTreeMap<u64, Instant>,
    left: BTreeMap<u64, Instant>,
    /// Frames inside when each one went in, before it.
    inside: Vec<u64>,
    outputs: u64,
}

#[derive(Default)]
struct Shared {
    times: Mutex<Times>,
    came_out: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Bench {
    running: Running,
    source: gst_app::AppSrc,
    shared: Arc<Shared>,
    begin: Option<Instant>,
    /// Frames that were fed.
    pub fed: u64,
}

impl Bench {
    /// `elements` from `input` on, of which `tested` is timed. `output` gets
    /// what comes out at the end, with the frame's number.
    pub fn new(
        input: &gst::Caps,
        elements: &[gst::Element],
        tested: &gst::Element,
        mut output: impl FnMut(u64, &gst::Sample) + Send + 'static,
    ) -> Result<Self> {
        let pipeline = gst::Pipeline::new();
        let source = gst_app::AppSrc::builder()
            .caps(input)
            .format(gst::Format::Time)
            .build();
        let sink = gst_app::AppSink::builder().sync(false).build();
        sink.set_callbacks(
            gst_app::AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    if let Some(number) = sample_number(&sample) {
                        output(number, &sample);
                    }
                    Ok(gst::FlowSuccess::Ok)
                })
                .build(),
        );
        let chain: Vec<&gst::Element> = std::iter::once(source.upcast_ref())
            .chain(elements)
            .chain(std::iter::once(sink.upcast_ref()))
            .collect();
        pipeline.add_many(&chain)?;
        gst::Element::link_many(&chain)?;
        let shared = Arc::new(Shared::default());
        watch(tested, &shared)?;
        Ok(Self {
            running: Running(pipeline),
            source,
            shared,
            begin: None,
            fed: 0,
        })
    }

    pub fn play(&self) -> Result<()> {
        self.running.play()
    }

    fn feed(&mut self, data: Vec<u8>) -> Result<()> {
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let n = self.fed;
        {
            let buffer = buffer.get_mut().context("a new buffer")?;
            buffer.set_pts(gst::ClockTime::SECOND * n / FPS);
            buffer.set_duration(gst::ClockTime::SECOND / FPS);
        }
        self.fed += 1;
        if self.source.push_buffer(buffer).is_err() {
            self.running.check()?;
            bail!("takes no frame after {n}");
        }
        Ok(())
    }

    /// Feeds it when its time has come: frame by frame at 30 Hz.
    pub fn feed_in_time(&mut self, data: Vec<u8>) -> Result<()> {
        let begin = *self.begin.get_or_insert_with(Instant::now);
        let due = begin + FRAME * self.fed as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        self.running.check()?;
        self.feed(data)
    }

    /// Feeds it as soon as the one before has come out, or does not come.
    pub fn feed_in_turn(&mut self, data: Vec<u8>) -> Result<()> {
        self.wait_for(self.fed, HELD)?;
        self.feed(data)
    }

    /// True: so many frames came out in time.
    pub fn wait_for(&self, outputs: u64, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.running.check()?;
            let times = self.shared.lock();
            let left = deadline.saturating_duration_since(Instant::now());
            if times.outputs >= outputs || left.is_zero() {
                return Ok(times.outputs >= outputs);
            }
            // Errors are looked for in between.
            let slice = left.min(Duration::from_millis(50));
            drop(self.shared.came_out.wait_timeout(times, slice));
        }
    }

    /// End of stream, and what comes of it.
    pub fn drain(&self) -> Result<()> {
        self.source
            .end_of_stream()
            .map_err(|err| anyhow!("{err}"))?;
        let bus = self.running.0.bus().context("a pipeline without a bus")?;
        let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
        let limit = gst::ClockTime::from_seconds(5);
        match bus.timed_pop_filtered(limit, &kinds) {
            Some(message) if message.type_() == gst::MessageType::Eos => Ok(()),
            Some(message) => bail!(dualstream_clip::source::describe(&message)),
            None => bail!("no end of stream within {limit}"),
        }
    }

    pub fn outputs(&self) -> u64 {
        self.shared.lock().outputs
    }

    /// From in to out, of the frames before `end` without the first few.
    pub fn times(&self, end: u64) -> Vec<Duration> {
        let times = self.shared.lock();
        times
            .left
            .range(WARM_UP..end.max(WARM_UP))
            .filter_map(|(n, left)| Some(left.duration_since(*times.entered.get(n)?)))
            .collect()
    }

    /// From in to out of the first frame, with all that starts at it.
    pub fn first(&self) -> Option<Duration> {
        let times = self.shared.lock();
        Some(times.left.get(&0)?.duration_since(*times.entered.get(&0)?))
    }

    /// Frames that are always inside when the next one comes: 0 is one in,
    /// one out.
    pub fn held(&self) -> u64 {
        let times = self.shared.lock();
        let settled = times.inside.iter().skip(WARM_UP as usize);
        settled.min().copied().unwrap_or(0)
    }
}

/// Notes when frames enter and leave `tested`.
fn watch(tested: &gst::Element, shared: &Arc<Shared>) -> Result<()> {
    let pad = |name| {
        tested
            .static_pad(name)
            .with_context(|| format!("{} has no pad {name}", tested.name()))
    };
    let on_input = shared.clone();
    pad("sink")?.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let Some(n) = info.buffer().and_then(|b| buffer_number(pad, b)) {
            let mut times = on_input.lock();
            let inside = (times.entered.len() as u64).saturating_sub(times.outputs);
            times.inside.push(inside);
            // The last thing before the element works on it.
            times.entered.insert(n, Instant::now());
        }
        gst::PadProbeReturn::Ok
    });
    let on_output = shared.clone();
    pad("src")?.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let now = Instant::now();
        if let Some(n) = info.buffer().and_then(|b| buffer_number(pad, b)) {
            let mut times = on_output.lock();
            times.left.entry(n).or_insert(now);
            times.outputs += 1;
            on_output.came_out.notify_all();
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Which frame it is, by its running time.
fn number(segment: &gst::Segment, buffer: &gst::BufferRef) -> Option<u64> {
    let segment = segment.downcast_ref::<gst::ClockTime>()?;
    let time = segment.to_running_time(buffer.pts()?)?;
    let half = 500_000_000 / FPS;
    Some((time.nseconds() + half) * FPS / 1_000_000_000)
}

fn buffer_number(pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<u64> {
    let event = pad.sticky_event::<gst::event::Segment>(0)?;
    number(event.segment(), buffer)
}

fn sample_number(sample: &gst::Sample) -> Option<u64> {
    number(sample.segment()?, sample.buffer()?)
}

/// What is fed to encoders.
pub fn raw_caps(format: &str, width: u32, height: u32) -> gst::Caps {
    gst::Caps::builder("video/x-raw")
        .field("format", format)
        .field("width", width as i32)
        .field("height", height as i32)
        .field("framerate", gst::Fraction::new(FPS as i32, 1))
        .field("interlace-mode", "progressive")
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .field("colorimetry", "bt709")
        .build()
}

pub fn capsfilter(caps: &gst::Caps) -> Result<gst::Element> {
    let filter = make("capsfilter")?;
    filter.set_property("caps", caps);
    Ok(filter)
}
