// SPDX-License-Identifier: MPL-2.0
//! A flash and a beep at the same time, and when a receiver shows them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::common::Pipeline;

pub const FPS: u64 = 30;
const RATE: u64 = 48_000;
const WIDTH: usize = 320;
const HEIGHT: usize = 180;
/// A flash is two frames, a beep 60 ms; both begin each second.
const FLASH_FRAMES: u64 = 2;
const BEEP_SAMPLES: u64 = RATE * 60 / 1000;
/// In one buffer.
const BLOCK: u64 = RATE / 100;

pub const SOURCES: &str = "appsrc name=video is-live=true format=time max-bytes=0 \
     caps=video/x-raw,format=I420,width=320,height=180,framerate=30/1 \
     appsrc name=audio is-live=true format=time max-bytes=0 \
     caps=audio/x-raw,format=S16LE,rate=48000,channels=2,layout=interleaved";

/// Feeds the sources until it is dropped.
pub struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    pub fn start(pipeline: &Pipeline) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let [video, audio] = ["video", "audio"].map(|name| {
            pipeline
                .element(name)
                .downcast::<gst_app::AppSrc>()
                .unwrap()
        });
        let (end, pipeline) = (stop.clone(), pipeline.0.clone());
        let thread = std::thread::spawn(move || feed(&pipeline, &video, &audio, &end));
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Pictures and sound as a camera and a microphone give them: pictures at their
/// time, sound when its last sample is there.
fn feed(
    pipeline: &gst::Pipeline,
    video: &gst_app::AppSrc,
    audio: &gst_app::AppSrc,
    stop: &AtomicBool,
) {
    let (mut frame, mut block) = (0, 0);
    let start = loop {
        match pipeline.current_running_time() {
            Some(now) => break now,
            None if stop.load(Ordering::Relaxed) => return,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let now = pipeline.current_running_time().unwrap_or(start) - start;
        while frame * 1_000_000_000 / FPS <= now.nseconds() {
            let pts = start + gst::ClockTime::from_nseconds(frame * 1_000_000_000 / FPS);
            let _ = video.push_buffer(stamped(picture(frame), pts, gst::ClockTime::SECOND / FPS));
            frame += 1;
        }
        while (block + 1) * 10_000_000 <= now.nseconds() {
            let pts = start + gst::ClockTime::from_mseconds(block * 10);
            let _ = audio.push_buffer(stamped(
                sound(block * BLOCK),
                pts,
                gst::ClockTime::from_mseconds(10),
            ));
            block += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn stamped(data: Vec<u8>, pts: gst::ClockTime, duration: gst::ClockTime) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_mut_slice(data);
    let inner = buffer.get_mut().unwrap();
    inner.set_pts(pts);
    inner.set_duration(duration);
    buffer
}

fn picture(frame: u64) -> Vec<u8> {
    let level = if frame % FPS < FLASH_FRAMES { 220 } else { 40 };
    let mut data = vec![level; WIDTH * HEIGHT];
    // Something moves, so that no two pictures are the same.
    let bar = (frame as usize * 4) % (WIDTH - 16);
    for row in data.chunks_mut(WIDTH).skip(HEIGHT / 2).take(16) {
        row[bar..bar + 16].fill(128);
    }
    data.resize(WIDTH * HEIGHT * 3 / 2, 128);
    data
}

fn sound(first: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(BLOCK as usize * 4);
    for n in first..first + BLOCK {
        // Quiet between the beeps, and a sine of 1 kHz.
        let amplitude = if n % RATE < BEEP_SAMPLES {
            12_000.0
        } else {
            60.0
        };
        let phase = (n % 48) as f64 / 48.0 * std::f64::consts::TAU;
        let sample = (phase.sin() * amplitude) as i16;
        data.extend(sample.to_le_bytes());
        data.extend(sample.to_le_bytes());
    }
    data
}

/// When something was seen or heard.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// By its time stamp: running time without the pipeline's latency, in ms.
    pub stamp: f64,
    /// By the clock, in ms of running time.
    pub real: f64,
}

#[derive(Default)]
pub struct Recorder {
    pub flashes: Mutex<Vec<Event>>,
    pub beeps: Mutex<Vec<Event>>,
    pub samples: AtomicU64,
    /// Steps from one buffer of sound to the next that are not its duration,
    /// in ns.
    pub steps: Mutex<Vec<i64>>,
}

/// What comes to two appsinks `flash` and `beep`, which synchronise.
pub fn record(pipeline: &Pipeline) -> Arc<Recorder> {
    let recorder = Arc::<Recorder>::default();
    watch_flash(pipeline, recorder.clone());
    watch_beep(pipeline, recorder.clone());
    recorder
}

fn ms(time: gst::ClockTime) -> f64 {
    time.nseconds() as f64 / 1e6
}

fn running(sample: &gst::Sample) -> Option<gst::ClockTime> {
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    segment.to_running_time(sample.buffer()?.pts()?)
}

fn watch_flash(pipeline: &Pipeline, recorder: Arc<Recorder>) {
    let sink = pipeline.element("flash");
    let sink = sink.downcast::<gst_app::AppSink>().unwrap();
    let mut bright = false;
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let now = sink.current_running_time();
                let (Some(buffer), Some(stamp), Some(now)) =
                    (sample.buffer(), running(&sample), now)
                else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
                // Luma at the top left.
                let is_bright = map.get(2000).is_some_and(|luma| *luma > 130);
                if is_bright && !bright {
                    recorder.flashes.lock().unwrap().push(Event {
                        stamp: ms(stamp),
                        real: ms(now),
                    });
                }
                bright = is_bright;
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
}

fn watch_beep(pipeline: &Pipeline, recorder: Arc<Recorder>) {
    let sink = pipeline.element("beep");
    let sink = sink.downcast::<gst_app::AppSink>().unwrap();
    let mut quiet = RATE;
    let mut next = None::<gst::ClockTime>;
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let now = sink.current_running_time();
                let (Some(buffer), Some(stamp), Some(now)) =
                    (sample.buffer(), running(&sample), now)
                else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
                let frames = map.chunks_exact(4);
                let count = frames.len() as u64;
                let duration = gst::ClockTime::from_nseconds(count * 1_000_000_000 / RATE);
                if let Some(next) = next {
                    let step = stamp.nseconds() as i64 - next.nseconds() as i64;
                    recorder.steps.lock().unwrap().push(step);
                }
                next = Some(stamp + duration);
                recorder.samples.fetch_add(count, Ordering::Relaxed);
                for (index, frame) in frames.enumerate() {
                    let loud = i16::from_le_bytes([frame[0], frame[1]]).unsigned_abs() > 3000;
                    if !loud {
                        quiet += 1;
                        continue;
                    }
                    if quiet > RATE / 4 {
                        let offset = index as f64 * 1000.0 / RATE as f64;
                        recorder.beeps.lock().unwrap().push(Event {
                            stamp: ms(stamp) + offset,
                            real: ms(now) + offset,
                        });
                    }
                    quiet = 0;
                }
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
}

/// Beep less flash of the same second.
#[derive(Clone, Copy, Debug)]
pub struct Skew {
    pub stamp: f64,
    pub real: f64,
}

impl Recorder {
    pub fn skews(&self) -> Vec<Skew> {
        let beeps = self.beeps.lock().unwrap().clone();
        let flashes = self.flashes.lock().unwrap().clone();
        flashes
            .iter()
            .filter_map(|flash| {
                let distance = |beep: &&Event| (beep.stamp - flash.stamp).abs();
                let beep = beeps
                    .iter()
                    .min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
                (distance(&beep) < 500.0).then_some(Skew {
                    stamp: beep.stamp - flash.stamp,
                    real: beep.real - flash.real,
                })
            })
            .collect()
    }
}

/// Takes over latencies as they change, as applications do.
pub fn follow_latency(pipeline: &Pipeline) {
    let weak = pipeline.0.downgrade();
    pipeline
        .0
        .bus()
        .unwrap()
        .set_sync_handler(move |_, message| {
            if matches!(message.view(), gst::MessageView::Latency(_))
                && let Some(pipeline) = weak.upgrade()
            {
                pipeline.call_async(|pipeline| {
                    let _ = pipeline.recalculate_latency();
                });
            }
            gst::BusSyncReply::Pass
        });
}

/// Loses packets of the receiver's RTP session at random, and says how many.
pub fn lose(pipeline: &Pipeline, per_mille: u64) -> Arc<AtomicU64> {
    let lost = Arc::new(AtomicU64::new(0));
    let count = lost.clone();
    pipeline.0.connect_deep_element_added(move |_, _, element| {
        if element.factory().is_none_or(|f| f.name() != "rtpsession") {
            return;
        }
        let count = count.clone();
        element.connect_pad_added(move |_, pad| {
            if pad.name() != "recv_rtp_sink" {
                return;
            }
            let (count, seed) = (count.clone(), AtomicU64::new(0x2545_f491_4f6c_dd1d));
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                let mut x = seed.load(Ordering::Relaxed);
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                seed.store(x, Ordering::Relaxed);
                if x % 1000 >= per_mille {
                    return gst::PadProbeReturn::Ok;
                }
                count.fetch_add(1, Ordering::Relaxed);
                // Drop would unref what the binding has taken.
                gst::PadProbeReturn::Handled
            });
        });
    });
    lost
}

/// Waits until so many seconds have been seen and heard.
#[track_caller]
pub fn wait_seconds(recorder: &Recorder, seconds: usize) {
    let end = Instant::now() + Duration::from_secs(30 + 2 * seconds as u64);
    while recorder.flashes.lock().unwrap().len() < seconds
        || recorder.beeps.lock().unwrap().len() < seconds
    {
        assert!(
            Instant::now() < end,
            "{} flashes and {} beeps",
            recorder.flashes.lock().unwrap().len(),
            recorder.beeps.lock().unwrap().len()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
