// SPDX-License-Identifier: MPL-2.0
//! The receiving process with a GStreamer peer: a sink that shows each picture
//! when its time has come, and reads its bar code then.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dualstream_clip::barcode::Stamp;
use dualstream_clip::picture::{Luma, psnr, ssim};
use gst::prelude::*;

use super::log::{Line, Log, Shown, now};
use super::sampler::{Counts, Sampler};
use super::send::{launch, without_stun};
use super::setting::{Peer, Role, Setting};
use crate::jitter::session::pipeline::Pipeline;
use crate::jitter::session::priority::background;
use crate::jitter::session::said::{Said, say};
use crate::video::Video;

const SLICE: Duration = Duration::from_millis(200);
/// Pictures that wait to be compared; more are not compared.
const WAITING: usize = 150;

pub fn run(setting: &Setting, log: &Log, stop: &Receiver<()>) -> Result<()> {
    let pipeline = build(setting)?;
    let counts = Arc::<Counts>::default();
    let judge = setting
        .compare
        .then(|| Judge::start(setting, log, &counts))
        .transpose()?;
    show(setting, &pipeline, log, judge.as_ref())?;
    let sampler = Sampler::start(&pipeline.0, log, &counts)?;
    pipeline.play()?;
    say(&Said::Ready);
    let mut asked = Instant::now();
    loop {
        pipeline.check()?;
        if setting.ask_ms > 0 && asked.elapsed() >= Duration::from_millis(setting.ask_ms) {
            asked = Instant::now();
            ask(&pipeline);
        }
        match stop.recv_timeout(SLICE) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
        say(&Said::Progress {
            pictures: log.shown(),
        });
    }
    if let Some(peer) = pipeline.0.by_name("peer")
        && peer.has_property_with_type("stats", gst::Structure::static_type())
        && let Some(stats) = peer.property::<Option<gst::Structure>>("stats")
    {
        log.note("stats", stats.to_string());
    }
    drop(sampler);
    drop(pipeline);
    if let Some(judge) = judge {
        judge.finish();
    }
    Ok(())
}

/// For a key frame, as an application does.
fn ask(pipeline: &Pipeline) {
    let event = gst_video::UpstreamForceKeyUnitEvent::builder()
        .all_headers(true)
        .build();
    if let Some(screen) = pipeline.0.by_name("screen") {
        // Nobody takes it before there is a session.
        let _ = screen.send_event(event);
    }
}

fn build(setting: &Setting) -> Result<Pipeline> {
    let (uri, extra) = (setting.uri(), &setting.properties);
    let source = if setting.peer == Peer::Ours {
        let off: Vec<_> = setting
            .off
            .0
            .iter()
            .filter_map(|f| f.off(Role::Receive))
            .collect();
        format!(
            "dualwebrtcsrc name=peer signaller::uri={uri} {} {extra}",
            off.join(" ")
        )
    } else {
        format!("webrtcsrc name=peer connect-to-first-producer=true signaller::uri={uri} {extra}")
    };
    // Senders that scale down are seen, and compared, as they are shown. The
    // sink is as video sinks are, but shows late pictures too.
    let pipeline = launch(&format!(
        "{source} ! videoconvert ! videoscale ! video/x-raw,format=I420,width={},height={} ! \
         appsink name=screen sync=true qos=true max-buffers=2 drop=true",
        setting.size.width, setting.size.height
    ))?;
    without_stun(&pipeline);
    Ok(pipeline)
}

fn show(setting: &Setting, pipeline: &Pipeline, log: &Log, judge: Option<&Judge>) -> Result<()> {
    let screen: gst_app::AppSink = pipeline
        .0
        .by_name("screen")
        .and_downcast()
        .context("the pipeline has no screen")?;
    let log = log.clone();
    let waiting = judge.map(|judge| judge.waiting.clone());
    let info = gst_video::VideoInfo::builder(
        gst_video::VideoFormat::I420,
        setting.size.width as u32,
        setting.size.height as u32,
    )
    .build()?;
    screen.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |screen| {
                let at = now();
                let sample = screen.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let Some(buffer) = sample.buffer_owned() else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                let stamp = read(&buffer, &info);
                let position = log.add(Line::Shown(Shown {
                    at,
                    number: stamp.map(|stamp| stamp.number),
                    captured: stamp.map(|stamp| stamp.captured(at)),
                    ..Shown::default()
                }));
                if let (Some(waiting), Some(stamp)) = (&waiting, stamp)
                    && let Some(waiting) = &*lock(waiting)
                {
                    // One that finds no room is not compared.
                    let _ = waiting.try_send((position, stamp, buffer));
                }
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
    Ok(())
}

fn read(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Option<Stamp> {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).ok()?;
    Stamp::read(Luma::of(&frame)?)
}

/// `None`: no more will be taken.
type Waiting = Arc<Mutex<Option<SyncSender<Picture>>>>;

/// Its position in the log, what it says, and itself.
type Picture = (usize, Stamp, gst::Buffer);

fn lock(waiting: &Waiting) -> MutexGuard<'_, Option<SyncSender<Picture>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares pictures in a thread that gives way to all others.
struct Judge {
    waiting: Waiting,
    thread: JoinHandle<()>,
}

impl Judge {
    fn start(setting: &Setting, log: &Log, counts: &Arc<Counts>) -> Result<Self> {
        let video = Video::read(
            setting.video.clone(),
            setting.size,
            setting.fps,
            setting.pictures,
        )?;
        let (waiting, pictures) = sync_channel::<Picture>(WAITING);
        let (log, counts) = (log.clone(), counts.clone());
        let size = setting.size;
        let thread = std::thread::Builder::new()
            .name("judge".into())
            .spawn(move || {
                background();
                let mut numbers = super::figures::Numbers::default();
                for (position, stamp, picture) in pictures {
                    // Its own time is not the peer's.
                    let before = thread_cpu();
                    let number = numbers.unwrap(stamp.number);
                    if let Some((psnr, ssim)) = judge(&video, number, stamp, &picture, size) {
                        log.compared(position, psnr, ssim);
                    }
                    let took = thread_cpu().saturating_sub(before);
                    counts
                        .own_cpu
                        .fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
                }
            })?;
        Ok(Self {
            waiting: Arc::new(Mutex::new(Some(waiting))),
            thread,
        })
    }

    /// All that waits is compared.
    fn finish(self) {
        drop(lock(&self.waiting).take());
        let _ = self.thread.join();
    }
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call, which fills it in.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Against the picture of this number with the same bar code.
fn judge(
    video: &Video,
    number: u64,
    stamp: Stamp,
    picture: &gst::Buffer,
    size: dualstream_clip::source::Size,
) -> Option<(f64, f64)> {
    let (width, height) = (size.width as usize, size.height as usize);
    let mut source = video.source(number as usize).copy_deep().ok()?;
    {
        let mut luma = source.make_mut().map_writable().ok()?;
        stamp.write(
            &mut luma,
            usize::try_from(video.info.stride()[0]).ok()?,
            width,
            height,
        );
    }
    let a = gst_video::VideoFrameRef::from_buffer_ref_readable(&source, &video.info).ok()?;
    let b = gst_video::VideoFrameRef::from_buffer_ref_readable(picture, &video.info).ok()?;
    let (a, b) = (Luma::of(&a)?, Luma::of(&b)?);
    Some((psnr(a, b)?, ssim(a, b)?))
}
