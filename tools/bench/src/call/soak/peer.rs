// SPDX-License-Identifier: MPL-2.0
//! A process of the session: the pipeline, and what is told of it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dualstream_clip::barcode::Stamp;
use dualstream_clip::picture::Luma;
use gst::prelude::*;

use super::memory::Memory;
use super::streams::Tap;
use super::totals::{self, Totals};
use super::{Report, Sample};
use crate::call::setting::{Role, Setting};
use crate::call::{PeerArgs, register, send};
use crate::jitter::session::pipeline::Pipeline;
use crate::jitter::session::priority::real_time;
use crate::jitter::session::said::{Said, end_of_stdin, say};
use crate::video::Video;

const INTERVAL: Duration = Duration::from_secs(1);
/// After the last picture until nothing is on its way any more.
const QUIET: Duration = Duration::from_secs(4);
/// For the receiver to tell its counters while the session still is.
const HOLD: Duration = Duration::from_secs(4);

/// In a process of its own.
pub fn peer(args: &PeerArgs) -> Result<()> {
    let result = serde_json::from_str(&args.setting)
        .context("the setting is not understood")
        .and_then(|setting| be(&setting));
    if let Err(error) = &result {
        say(&Said::Error {
            message: format!("{error:#}"),
        });
    }
    result
}

fn tell(report: &Report) -> Result<()> {
    say(&Said::Report {
        value: serde_json::to_value(report)?,
    });
    Ok(())
}

fn be(setting: &Setting) -> Result<()> {
    let stop = end_of_stdin();
    say(&Said::Hello {
        rattan_id: std::env::var("RATTAN_ID").ok(),
    });
    register(setting)?;
    real_time();
    let tap = Tap::start(setting.role == Role::Send)?;
    match setting.role {
        Role::Send => send(setting, &tap, &stop)?,
        Role::Receive => receive(setting, &tap, &stop)?,
    }
    tell(&Report::Streams(tap.streams()))?;
    say(&Said::End);
    Ok(())
}

fn send(setting: &Setting, tap: &Tap, stop: &Receiver<()>) -> Result<()> {
    let video = Video::read(
        setting.video.clone(),
        setting.size,
        setting.fps,
        setting.pictures,
    )?;
    let pipeline = send::build(setting)?;
    let camera: gst_app::AppSrc = pipeline
        .0
        .by_name("camera")
        .and_downcast()
        .context("the pipeline has no camera")?;
    camera.set_caps(Some(&video.caps()?));
    let screen = Arc::<Mutex<Screen>>::default();
    count_input(&pipeline, &screen);
    let sampler = Sampler::start(&pipeline, &screen)?;
    pipeline.play()?;
    say(&Said::Ready);
    send::film(setting, &video, &camera, &pipeline, stop)?;
    if let Some(mute) = pipeline.0.by_name("mute") {
        mute.set_property("drop", true);
    }
    drop(sampler);
    std::thread::sleep(QUIET);
    tell_totals(&pipeline, tap, &screen)?;
    std::thread::sleep(HOLD);
    Ok(())
}

/// Pictures that come to the sender's element.
fn count_input(pipeline: &Pipeline, screen: &Arc<Mutex<Screen>>) {
    let pad = pipeline
        .0
        .by_name("peer")
        .and_then(|p| p.static_pad("sink"));
    if let Some(pad) = pad {
        let screen = screen.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            lock(&screen).show(None);
            gst::PadProbeReturn::Ok
        });
    }
}

fn receive(setting: &Setting, tap: &Tap, stop: &Receiver<()>) -> Result<()> {
    let off: Vec<_> = setting
        .off
        .0
        .iter()
        .filter_map(|f| f.off(Role::Receive))
        .collect();
    let pipeline = send::launch(&format!(
        "dualwebrtcsrc name=peer signaller::uri={} {} {} \
         peer.src ! videoconvert qos=false ! video/x-raw,format=I420 ! \
         fakesink name=screen sync=true qos=true \
         peer.audio ! audioconvert ! fakesink sync=true async=false",
        setting.uri(),
        off.join(" "),
        setting.properties
    ))?;
    let screen = Arc::<Mutex<Screen>>::default();
    show(&pipeline, &screen)?;
    let sampler = Sampler::start(&pipeline, &screen)?;
    pipeline.play()?;
    say(&Said::Ready);
    loop {
        pipeline.check()?;
        match stop.recv_timeout(Duration::from_millis(100)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
    drop(sampler);
    tell_totals(&pipeline, tap, &screen)
}

fn tell_totals(pipeline: &Pipeline, tap: &Tap, screen: &Mutex<Screen>) -> Result<()> {
    let mut counts = totals::counts(&pipeline.0);
    let pictures = lock(screen).pictures;
    counts.insert("pictures".into(), pictures as f64);
    let negotiated = pipeline
        .0
        .by_name("peer")
        .map(|peer| peer.property::<gst::Structure>("stats"))
        .and_then(|stats| stats.get::<gst::Structure>("negotiated").ok())
        .map(|s| s.to_string())
        .unwrap_or_default();
    tell(&Report::Totals(Box::new(Totals {
        counts,
        streams: tap.streams(),
        negotiated,
    })))
}

/// What was shown so far.
#[derive(Debug, Default)]
struct Screen {
    pictures: u64,
    last: Option<Instant>,
    longest_gap: Duration,
    number: Option<u16>,
    pts: Option<gst::ClockTime>,
    disordered: u64,
    damaged: u64,
}

fn lock(screen: &Mutex<Screen>) -> std::sync::MutexGuard<'_, Screen> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    /// A picture, with its time stamp.
    fn show(&mut self, pts: Option<gst::ClockTime>) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.pictures += 1;
        if let Some(pts) = pts
            && let Some(before) = self.pts.replace(pts)
            && pts <= before
        {
            self.disordered += 1;
            // In the log of the process.
            let _ = writeln!(std::io::stderr(), "picture at {pts} after {before}");
        }
    }

    /// What its bar code says.
    fn read(&mut self, number: Option<u16>) {
        let before = self.number;
        self.number = number.or(before);
        let is_good = number.is_some_and(|number| {
            before.is_none_or(|before| number.wrapping_sub(before) as i16 > 0)
        });
        self.damaged += u64::from(!is_good);
    }

    /// With the one that is going on.
    fn longest_gap(&self) -> Duration {
        let open = self.last.map_or(Duration::ZERO, |last| last.elapsed());
        self.longest_gap.max(open)
    }
}

fn show(pipeline: &Pipeline, screen: &Arc<Mutex<Screen>>) -> Result<()> {
    let sink = pipeline.0.by_name("screen").context("no screen")?;
    let to = screen.clone();
    sink.set_property("signal-handoffs", true);
    sink.connect("handoff", false, move |values| {
        let buffer = values.get(1)?.get::<gst::Buffer>().ok()?;
        let pad = values.get(2)?.get::<gst::Pad>().ok()?;
        let number = read(&buffer, &pad);
        let mut screen = lock(&to);
        screen.show(buffer.pts());
        screen.read(number);
        None
    });
    Ok(())
}

fn read(buffer: &gst::BufferRef, pad: &gst::Pad) -> Option<u16> {
    let caps = pad.current_caps()?;
    let info = gst_video::VideoInfo::from_caps(&caps).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).ok()?;
    Stamp::read(Luma::of(&frame)?).map(|stamp| stamp.number)
}

/// Tells how the process is until it is dropped.
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    fn start(pipeline: &Pipeline, screen: &Arc<Mutex<Screen>>) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let (weak, screen, stopped) = (pipeline.0.downgrade(), screen.clone(), stop.clone());
        let begin = Instant::now();
        let thread = std::thread::Builder::new()
            .name("sampler".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(INTERVAL);
                    let Some(pipeline) = weak.upgrade() else {
                        break;
                    };
                    let held = totals::held(&totals::counts(&pipeline));
                    let sample = {
                        let screen = lock(&screen);
                        Sample {
                            at: begin.elapsed().as_secs_f64(),
                            memory: Memory::now(),
                            pictures: screen.pictures,
                            longest_gap_ms: screen.longest_gap().as_millis() as u64,
                            disordered: screen.disordered,
                            damaged: screen.damaged,
                            held,
                        }
                    };
                    // Only fails for numbers that JSON has not.
                    let _ = tell(&Report::Sample(sample));
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
