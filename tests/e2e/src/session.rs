// SPDX-License-Identifier: MPL-2.0
//! A sender and a receiver in one process: `dualwebrtcsink` with its own
//! signalling server, and `dualwebrtcsrc`, with ICE and DTLS over loopback.

use crate::picture::{self, Size};
use dualstream_common::Unwrapper;
use gst::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A picture as it was shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// As the sender's encoder counts what it is given, from 0.
    pub number: u64,
    /// So many more the source had counted by then, as it is drawn in the picture:
    /// what a busy machine left no time for does not come to the encoder
    /// (`pictures-late`). Of a damaged picture it is anything.
    pub left_out: u64,
    pub stream: u32,
    pub psnr: f64,
}

pub struct Session {
    pub sender: gst::Pipeline,
    pub receiver: gst::Pipeline,
    pub fps: u64,
    pub size: Size,
    shown: Arc<Mutex<Vec<Shown>>>,
    fed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    feeder: Option<std::thread::JoinHandle<()>>,
}

/// A TCP port that nobody uses.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port()
}

pub fn launch(description: &str) -> gst::Pipeline {
    gst::parse::launch(description)
        .unwrap_or_else(|err| panic!("{description}: {err}"))
        .downcast()
        .expect("a pipeline")
}

impl Session {
    /// `encoder` sets properties of the sender's encoder
    /// (`encoder::refresh-interval=2000`).
    pub fn new(encoder: &str) -> Self {
        crate::init();
        let port = free_port();
        let (fps, size) = (
            30,
            Size {
                width: 640,
                height: 360,
            },
        );
        let sender = launch(&format!(
            "appsrc name=src format=time max-bytes=0 \
             caps=video/x-raw,format=I420,width={},height={},framerate={fps}/1 \
             ! dualwebrtcsink name=sink run-signalling-server=true \
             signalling-server-host=127.0.0.1 signalling-server-port={port} \
             signaller::uri=ws://127.0.0.1:{port} wait-for-receiver=true {encoder}",
            size.width, size.height
        ));
        let receiver = launch(&format!(
            "dualwebrtcsrc name=src signaller::uri=ws://127.0.0.1:{port} \
             ! videoconvert ! video/x-raw,format=I420 ! appsink name=sink sync=false"
        ));
        let shown: Arc<Mutex<Vec<Shown>>> = Arc::default();
        measure(&receiver, size, &shown);
        Self {
            sender,
            receiver,
            fps,
            size,
            shown,
            fed: Arc::default(),
            stop: Arc::default(),
            feeder: None,
        }
    }

    pub fn start(&mut self) {
        self.sender
            .set_state(gst::State::Playing)
            .expect("the sender plays");
        self.receiver
            .set_state(gst::State::Playing)
            .expect("the receiver plays");
        self.feed();
    }

    /// Draws a picture each 1/fps second. The first one is held by
    /// `wait-for-receiver`; from then on the pace is that of the clock.
    fn feed(&mut self) {
        let src: gst_app::AppSrc = self
            .sender
            .by_name("src")
            .and_downcast()
            .expect("an appsrc");
        let (fps, size, stop, fed) = (self.fps, self.size, self.stop.clone(), self.fed.clone());
        self.feeder = Some(std::thread::spawn(move || {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let mut buffer = gst::Buffer::from_mut_slice(picture::i420(n, size));
                {
                    let buffer = buffer.get_mut().expect("new");
                    let frame = gst::ClockTime::SECOND / fps;
                    buffer.set_pts(gst::ClockTime::SECOND * n / fps);
                    buffer.set_duration(frame);
                }
                // A queue of a few pictures: the sink sets the pace.
                while src.current_level_buffers() > 2 && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                if src.push_buffer(buffer).is_err() {
                    break;
                }
                n += 1;
                fed.store(n, Ordering::Relaxed);
            }
        }));
    }

    pub fn shown(&self) -> MutexGuard<'_, Vec<Shown>> {
        self.shown.lock().expect("no test panics with it")
    }

    /// Until `done` or a limit; errors on the busses end the test.
    pub fn run_until(&self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            for pipeline in [&self.sender, &self.receiver] {
                let bus = pipeline.bus().expect("a bus");
                while let Some(message) = bus.pop() {
                    if let gst::MessageView::Error(err) = message.view() {
                        panic!("{what}: {} {:?}", err.error(), err.debug());
                    }
                }
            }
            assert!(
                begin.elapsed() < limit,
                "{what}: not within {limit:?}; {} shown; sender {:?}",
                self.shown().len(),
                self.encoder_stats()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn run_pictures(&self, count: usize) {
        let limit = Duration::from_secs(20 + 3 * count as u64 / self.fps);
        self.run_until(&format!("{count} pictures"), limit, |s| {
            s.shown().len() >= count
        });
    }

    /// The element with this name, however deep.
    pub fn deep(pipeline: &gst::Pipeline, name: &str) -> Option<gst::Element> {
        pipeline.by_name(name)
    }

    pub fn encoder(&self) -> gst::Element {
        Self::deep(&self.sender, "encoder").expect("dualwebrtcsink has its encoder")
    }

    pub fn encoder_stats(&self) -> gst::Structure {
        self.encoder().property("stats")
    }

    pub fn stat(&self, field: &str) -> u64 {
        self.encoder_stats()
            .get(field)
            .unwrap_or_else(|err| panic!("{field}: {err}"))
    }

    /// Each number once, each one after the one before.
    pub fn assert_in_order(&self) {
        for pair in self.shown().windows(2) {
            assert!(
                pair[1].number > pair[0].number,
                "{} shown after {}",
                pair[1].number,
                pair[0].number
            );
        }
    }

    /// These whole pictures are what their numbers say: those of the source without
    /// the ones that the encoder had no time for.
    pub fn assert_numbered(&self, shown: &[Shown]) {
        let sink = Self::deep(&self.sender, "sink").expect("dualwebrtcsink has its name");
        let stats: gst::Structure = sink.property("stats");
        let late: u64 = stats.get("pictures-late").expect("a count");
        let mut before = 0;
        for one in shown {
            let range = before..=late;
            assert!(range.contains(&one.left_out), "{range:?}: {one:?}");
            before = one.left_out;
        }
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for pipeline in [&self.sender, &self.receiver] {
            pipeline
                .set_state(gst::State::Null)
                .expect("NULL is always reached");
        }
        if let Some(feeder) = self.feeder.take() {
            feeder.join().expect("the feeder ends");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for pipeline in [&self.sender, &self.receiver] {
            let _ = pipeline.set_state(gst::State::Null);
        }
    }
}

/// Compares each picture that comes with the one whose number it bears.
fn measure(receiver: &gst::Pipeline, size: Size, shown: &Arc<Mutex<Vec<Shown>>>) {
    let sink: gst_app::AppSink = receiver.by_name("sink").and_downcast().expect("an appsink");
    let shown = shown.clone();
    let mut numbers = Unwrapper::default();
    let mut first = None;
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
                let caps = sample.caps().ok_or(gst::FlowError::Error)?;
                let info =
                    gst_video::VideoInfo::from_caps(caps).map_err(|_| gst::FlowError::Error)?;
                let tag = gstdualstream::meta::of(buffer).ok_or(gst::FlowError::Error)?;
                // The sender counts from 0; only the first one shown may be later.
                let extended = numbers.unwrap(tag.number);
                let start = *first.get_or_insert(extended.value() - u64::from(tag.number));
                let number = extended.value() - start;
                let luma = picture::luma_of(buffer, &info);
                let left_out = picture::number(&luma, size)
                    .map(|drawn| u64::from(drawn.wrapping_sub(tag.number)));
                // One whose number cannot be read is worth nothing.
                let psnr = left_out.map_or(0.0, |left_out| {
                    picture::psnr(&luma, &picture::luma(number + left_out, size))
                });
                shown
                    .lock()
                    .map_err(|_| gst::FlowError::Error)?
                    .push(Shown {
                        number,
                        left_out: left_out.unwrap_or(u64::MAX),
                        stream: tag.stream.index() as u32,
                        psnr,
                    });
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
}
