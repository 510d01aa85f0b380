// SPDX-License-Identifier: MPL-2.0
//! Off the receiver's way: compares each shown picture with the source and
//! writes `received.mp4`.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use gst::prelude::*;

use crate::background::{run_in_background, step_back};
use dualstream_clip::picture::psnr_of;
use dualstream_clip::source::{Clip, Pictures, describe};

/// Pictures that wait for the comparison, at most.
const QUEUE_BYTES: usize = 512 << 20;
const QUEUE_PICTURES: usize = 300;
const FINISH_TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(20);

/// A shown picture on its way to the worker.
struct Item {
    /// Position in the log.
    index: usize,
    number: u64,
    sample: gst::Sample,
}

/// The thread that compares and records.
pub struct Worker {
    sender: Option<SyncSender<Item>>,
    thread: JoinHandle<Result<Vec<(usize, f64)>>>,
}

impl Worker {
    pub fn start(clip: Clip, path: PathBuf, picture_bytes: usize) -> Self {
        let depth = (QUEUE_BYTES / picture_bytes.max(1)).clamp(2, QUEUE_PICTURES);
        let (sender, receiver) = sync_channel(depth);
        Self {
            sender: Some(sender),
            thread: std::thread::spawn(move || work(&clip, &path, &receiver)),
        }
    }

    /// False: the queue is full (or the worker has failed), and the picture
    /// is neither compared nor recorded.
    pub fn push(&self, index: usize, number: u64, sample: gst::Sample) -> bool {
        let Some(sender) = &self.sender else {
            return false;
        };
        let item = Item {
            index,
            number,
            sample,
        };
        !matches!(
            sender.try_send(item),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
        )
    }

    /// Finishes the file; the PSNR of each compared picture by its position.
    pub fn finish(mut self) -> Result<Vec<(usize, f64)>> {
        self.sender = None;
        self.thread
            .join()
            .map_err(|_| anyhow!("the comparing thread panicked"))?
    }
}

/// The source picture that is being compared with, and where it is.
struct Reference {
    pictures: Pictures,
    /// How many were read.
    count: u64,
    current: Option<gst::Sample>,
}

impl Reference {
    /// Pictures come in order, so a number that is past is only found again
    /// if it is the last one.
    fn at(&mut self, number: u64) -> Result<Option<&gst::Sample>> {
        while self.count <= number {
            match self.pictures.read()? {
                Some(sample) => self.current = Some(sample),
                None => return Ok(None),
            }
            self.count += 1;
        }
        Ok(if self.count == number + 1 {
            self.current.as_ref()
        } else {
            None
        })
    }
}

fn work(clip: &Clip, path: &Path, items: &Receiver<Item>) -> Result<Vec<(usize, f64)>> {
    step_back();
    let pipeline = gst::Pipeline::new();
    run_in_background(&pipeline);
    let mut reference = Reference {
        pictures: Pictures::open_in(pipeline, clip)?,
        count: 0,
        current: None,
    };
    let mut recorder: Option<Recorder> = None;
    let mut compared = Vec::new();
    for item in items {
        let Some(source) = reference.at(item.number)? else {
            continue;
        };
        if let Some(db) = psnr_of(source, &item.sample) {
            compared.push((item.index, db));
        }
        let recorder = match &mut recorder {
            Some(recorder) => recorder,
            none => none.insert(Recorder::start(path, source)?),
        };
        recorder.push(item.number, &item.sample, source)?;
    }
    if let Some(recorder) = recorder {
        recorder.finish()?;
    }
    Ok(compared)
}

/// What was shown, coded again near to lossless, at the clip's own times: a
/// picture that was not shown leaves the one before it standing.
struct Recorder {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    last: Option<u64>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Recorder {
    fn start(path: &Path, like: &gst::Sample) -> Result<Self> {
        let pipeline = gst::parse::launch(
            "appsrc name=source format=time block=true max-buffers=8 \
             ! x264enc name=encoder pass=quant quantizer=20 speed-preset=superfast \
               key-int-max=60 bframes=0 \
             ! video/x-h264,profile=high ! h264parse \
             ! mp4mux faststart=true ! filesink name=file",
        )
        .context("the elements that record are not installed")?
        .downcast::<gst::Pipeline>()
        .map_err(|_| anyhow!("not a pipeline"))?;
        run_in_background(&pipeline);
        let source = pipeline
            .by_name("source")
            .and_then(|source| source.downcast::<gst_app::AppSrc>().ok())
            .context("no appsrc")?;
        source.set_caps(like.caps_owned().as_ref());
        pipeline
            .by_name("file")
            .context("no filesink")?
            .set_property("location", path);
        let recorder = Self {
            pipeline,
            source,
            last: None,
        };
        if recorder.pipeline.set_state(gst::State::Playing).is_err() {
            recorder.check()?;
            bail!("{} cannot be written", path.display());
        }
        Ok(recorder)
    }

    fn check(&self) -> Result<()> {
        let bus = self.pipeline.bus().context("the pipeline has no bus")?;
        match bus.pop_filtered(&[gst::MessageType::Error]) {
            Some(message) => Err(anyhow!(describe(&message))),
            None => Ok(()),
        }
    }

    /// `like` is the source picture, whose times the recording takes.
    fn push(&mut self, number: u64, sample: &gst::Sample, like: &gst::Sample) -> Result<()> {
        if self.last >= Some(number) {
            return Ok(());
        }
        self.last = Some(number);
        let (Some(buffer), Some(times)) = (sample.buffer_owned(), like.buffer()) else {
            bail!("a picture without data");
        };
        let mut buffer = buffer;
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(times.pts());
            buffer.set_dts(None);
            buffer.set_duration(times.duration());
        }
        if self.source.push_buffer(buffer).is_err() {
            self.check()?;
            bail!("the recording takes no more pictures");
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        // Flushing here means that an error is on the bus.
        let _ = self.source.end_of_stream();
        let bus = self.pipeline.bus().context("the pipeline has no bus")?;
        let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
        match bus.timed_pop_filtered(FINISH_TIMEOUT, &kinds) {
            Some(message) if message.type_() == gst::MessageType::Eos => Ok(()),
            Some(message) => Err(anyhow!(describe(&message))),
            None => bail!("the recording does not end"),
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
