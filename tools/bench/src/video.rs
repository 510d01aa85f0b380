// SPDX-License-Identifier: MPL-2.0
//! The clip in memory, and H.264 back to pictures.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use dualstream_clip::picture::{Luma, psnr, ssim};
use dualstream_clip::source::{Clip, Pictures, Size};
use dualstream_common::Timestamp;
use gst_video::VideoFrameRef;

use crate::rig::Rig;

/// Pictures of one size, as I420; as many as are asked for by going forward
/// and backward.
pub struct Video {
    pictures: Vec<gst::Buffer>,
    pub info: gst_video::VideoInfo,
    frame_nanos: u64,
}

impl Video {
    /// At most `count` pictures of the clip, each once, whatever its frame
    /// rate: they are played at `fps`.
    pub fn read(file: Option<PathBuf>, size: Size, fps: u32, count: usize) -> Result<Self> {
        let clip = Clip {
            file,
            size: Some(size),
            pattern_seconds: None,
        };
        let mut from = Pictures::open(&clip)?;
        let mut pictures = Vec::new();
        while pictures.len() < count
            && let Some(sample) = from.read()?
        {
            let buffer = sample.buffer_owned().context("a sample without data")?;
            pictures.push(buffer);
        }
        if pictures.is_empty() {
            bail!("there is no picture in the clip");
        }
        let info = gst_video::VideoInfo::builder(
            gst_video::VideoFormat::I420,
            size.width as u32,
            size.height as u32,
        )
        .fps(gst::Fraction::new(fps as i32, 1))
        .build()?;
        Ok(Self {
            pictures,
            info,
            frame_nanos: 1_000_000_000 / u64::from(fps),
        })
    }

    pub fn caps(&self) -> Result<gst::Caps> {
        Ok(self.info.to_caps()?)
    }

    /// When the picture with this number is taken.
    pub fn time(&self, number: usize) -> Timestamp {
        Timestamp::from_nanos(number as u64 * self.frame_nanos)
    }

    /// Pictures of the clip.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// It without its time.
    pub fn source(&self, number: usize) -> &gst::Buffer {
        &self.pictures[there_and_back(number, self.pictures.len())]
    }

    /// The picture with this number, with its time.
    pub fn picture(&self, number: usize) -> gst::Buffer {
        let mut buffer = self.source(number).copy();
        {
            let buffer = buffer.make_mut();
            let time = gst::ClockTime::from_nseconds(self.time(number).as_nanos());
            buffer.set_pts(time);
            buffer.set_dts(gst::ClockTime::NONE);
            buffer.set_duration(gst::ClockTime::from_nseconds(self.frame_nanos));
        }
        buffer
    }

    /// How near `shown` is to the picture with this number.
    pub fn compare(&self, number: usize, shown: &gst::Buffer) -> Result<Likeness> {
        let source = VideoFrameRef::from_buffer_ref_readable(self.source(number), &self.info)?;
        let shown = VideoFrameRef::from_buffer_ref_readable(shown, &self.info)?;
        let (Some(a), Some(b)) = (Luma::of(&source), Luma::of(&shown)) else {
            bail!("a picture without luma");
        };
        Ok(Likeness {
            psnr: psnr(a, b).context("pictures of different sizes")?,
            ssim: ssim(a, b).context("pictures below 8x8")?,
        })
    }
}

/// 0 1 2 3 2 1 0 1 2 ... for 4.
fn there_and_back(number: usize, length: usize) -> usize {
    let period = (2 * length).saturating_sub(2).max(1);
    let at = number % period;
    at.min(period - at)
}

#[derive(Clone, Copy, Debug)]
pub struct Likeness {
    /// dB.
    pub psnr: f64,
    pub ssim: f64,
}

impl Likeness {
    /// Nothing was shown.
    pub const NONE: Self = Self {
        psnr: 0.0,
        ssim: 0.0,
    };
}

/// `avdec_h264`, one unit in and one picture out.
pub struct Decoder {
    rig: Rig,
}

impl Decoder {
    pub fn new(video: &Video) -> Result<Self> {
        let element = gst::ElementFactory::make("avdec_h264")
            .property("max-threads", 1i32)
            .property("output-corrupt", true)
            .build()
            .context("the GStreamer element avdec_h264 is not installed")?;
        let caps = gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .field("width", video.info.width() as i32)
            .field("height", video.info.height() as i32)
            .field("framerate", video.info.fps())
            .build();
        Ok(Self {
            rig: Rig::new(element, &["src"], &caps)?,
        })
    }

    /// The picture that comes out for this unit; `None` where the decoder
    /// lost what it needs for one.
    pub fn decode(&mut self, unit: &gst::Buffer) -> Result<Option<gst::Buffer>> {
        self.rig.push(unit.clone())?;
        let mut outputs = self.rig.take(|_| true)?;
        Ok(outputs.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_clip_goes_there_and_back_without_a_cut() {
        let order: Vec<_> = (0..10).map(|n| there_and_back(n, 4)).collect();
        assert_eq!(order, [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]);
        assert!((0..5).all(|n| there_and_back(n, 1) == 0));
        assert_eq!(there_and_back(3, 2), 1);
    }
}
