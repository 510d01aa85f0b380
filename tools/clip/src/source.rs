// SPDX-License-Identifier: MPL-2.0
//! The clip, decoded: every picture once, as I420. Sender and receiver read
//! the same clip, the one to send it and the other to compare.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use gst::prelude::*;
use serde::{Deserialize, Serialize};

const SLICE: gst::ClockTime = gst::ClockTime::from_mseconds(50);
/// 15 s: the first picture of a file on a slow disk, with room to spare.
const PICTURE_SLICES: u64 = 300;
const TEST_SECONDS: u32 = 20;
/// So many a second are counted in 31 bits.
pub const MOST_TEST_SECONDS: u32 = 24 * 3600;
const TEST_FPS: u32 = 30;
const TEST_SIZE: Size = Size {
    width: 1280,
    height: 720,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub width: i32,
    pub height: i32,
}

impl std::str::FromStr for Size {
    type Err = String;

    /// `WIDTHxHEIGHT`, both even as 4:2:0 video wants them.
    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text
            .split_once('x')
            .ok_or("not a size such as `1280x720`")?;
        let side = |text: &str| match text.parse::<i32>() {
            Ok(side) if (16..=8192).contains(&side) && side % 2 == 0 => Ok(side),
            _ => Err(format!("`{text}` is not an even number from 16 to 8192")),
        };
        Ok(Self {
            width: side(width)?,
            height: side(height)?,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// `None`: a moving test pattern.
    pub file: Option<PathBuf>,
    /// `None`: the size it has.
    pub size: Option<Size>,
    /// Of the test pattern, in seconds; `None`: 20.
    pub pattern_seconds: Option<u32>,
}

/// What a clip is, from its first picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipInfo {
    pub name: String,
    pub width: u32,
    pub height: u32,
    /// 0: unknown or variable.
    pub fps: f64,
    pub seconds: Option<f64>,
}

/// A clip being decoded, picture by picture, as fast as it is read.
pub struct Pictures {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

impl Drop for Pictures {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Pictures {
    pub fn open(clip: &Clip) -> Result<Self> {
        Self::open_in(gst::Pipeline::new(), clip)
    }

    /// In an empty pipeline of the caller's.
    pub fn open_in(pipeline: gst::Pipeline, clip: &Clip) -> Result<Self> {
        let sink = gst_app::AppSink::builder()
            .sync(false)
            .max_buffers(4)
            .drop(false)
            .build();
        let convert = make("videoconvert")?;
        let scale = make("videoscale")?;
        let filter = make("capsfilter")?;
        filter.set_property("caps", i420(clip.size));
        pipeline.add_many([&convert, &scale, &filter, sink.upcast_ref()])?;
        gst::Element::link_many([&convert, &scale, &filter, sink.upcast_ref()])?;
        let input = convert
            .static_pad("sink")
            .ok_or_else(|| anyhow!("videoconvert has no sink"))?;
        match &clip.file {
            None => {
                let size = clip.size.unwrap_or(TEST_SIZE);
                let seconds = clip.pattern_seconds.unwrap_or(TEST_SECONDS);
                // Rings that move and grow finer to the edges: every part of
                // the picture changes; 40 dB at 1.25 Mbit/s.
                let source = gst::ElementFactory::make("videotestsrc")
                    .property_from_str("pattern", "zone-plate")
                    .property("kx2", 10i32)
                    .property("ky2", 10i32)
                    .property("kt", 4i32)
                    .property(
                        "num-buffers",
                        (seconds.min(MOST_TEST_SECONDS) * TEST_FPS) as i32,
                    )
                    .build()?;
                let caps = gst::Caps::builder("video/x-raw")
                    .field("format", "I420")
                    .field("width", size.width)
                    .field("height", size.height)
                    .field("framerate", gst::Fraction::new(TEST_FPS as i32, 1))
                    .build();
                pipeline.add(&source)?;
                source.link_filtered(&convert, &caps)?;
            }
            Some(file) => {
                let source = make("filesrc")?;
                source.set_property("location", file);
                let decode = make("decodebin")?;
                let given = clip.size.is_some();
                decode.connect_pad_added(move |_, pad| {
                    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
                    let Some(s) = caps.structure(0) else { return };
                    if s.name() != "video/x-raw" || input.is_linked() {
                        return;
                    }
                    if !given && let Some(even) = even_size(s) {
                        filter.set_property("caps", i420(Some(even)));
                    }
                    // A refusal ends in an error message of the pipeline.
                    let _ = pad.link(&input);
                });
                pipeline.add_many([&source, &decode])?;
                source.link(&decode)?;
            }
        }
        // From here on dropping it sets the pipeline to NULL, also where it
        // failed half way.
        let pictures = Self { pipeline, sink };
        pictures
            .pipeline
            .set_state(gst::State::Playing)
            .map_err(|_| fault(&pictures.pipeline, "the clip cannot be opened"))?;
        Ok(pictures)
    }

    /// `None` at the end of the clip.
    pub fn read(&mut self) -> Result<Option<gst::Sample>> {
        let bus = self.pipeline.bus().context("the pipeline has no bus")?;
        for _ in 0..PICTURE_SLICES {
            if let Some(sample) = self.sink.try_pull_sample(SLICE) {
                return Ok(Some(sample));
            }
            // An error can also end the stream: ask for it first.
            if let Some(error) = bus.pop_filtered(&[gst::MessageType::Error]) {
                bail!(describe(&error));
            }
            if self.sink.is_eos() {
                return Ok(None);
            }
        }
        bail!(
            "no picture for {} s",
            PICTURE_SLICES * SLICE.mseconds() / 1000
        );
    }

    fn duration(&self) -> Option<gst::ClockTime> {
        self.pipeline.query_duration::<gst::ClockTime>()
    }
}

/// Decodes the first picture: the check that a file is a video.
pub fn inspect(clip: &Clip) -> Result<ClipInfo> {
    let mut pictures = Pictures::open(clip)?;
    let sample = pictures.read()?.context("there is no video in it")?;
    let caps = sample.caps().context("a picture without caps")?;
    let info = gst_video::VideoInfo::from_caps(caps)?;
    let fps = info.fps();
    Ok(ClipInfo {
        name: clip.file.as_ref().map_or_else(
            || "moving test pattern".into(),
            |file| file.display().to_string(),
        ),
        width: info.width(),
        height: info.height(),
        fps: if fps.denom() > 0 {
            f64::from(fps.numer()) / f64::from(fps.denom())
        } else {
            0.0
        },
        seconds: pictures.duration().map(|d| d.mseconds() as f64 / 1e3),
    })
}

fn make(factory: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory)
        .build()
        .with_context(|| format!("the GStreamer element {factory} is not installed"))
}

fn i420(size: Option<Size>) -> gst::Caps {
    let mut caps = gst::Caps::builder("video/x-raw").field("format", "I420");
    if let Some(size) = size {
        caps = caps.field("width", size.width).field("height", size.height);
    }
    caps.build()
}

/// The next smaller size with even sides, when one is odd.
fn even_size(s: &gst::StructureRef) -> Option<Size> {
    let width = s.get::<i32>("width").ok()?;
    let height = s.get::<i32>("height").ok()?;
    (width % 2 != 0 || height % 2 != 0).then_some(Size {
        width: (width & !1).max(2),
        height: (height & !1).max(2),
    })
}

fn fault(pipeline: &gst::Pipeline, otherwise: &str) -> anyhow::Error {
    pipeline
        .bus()
        .and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]))
        .map_or_else(
            || anyhow!("{otherwise}"),
            |message| anyhow!(describe(&message)),
        )
}

/// An error message in one line, with who posted it.
pub fn describe(message: &gst::MessageRef) -> String {
    let gst::MessageView::Error(error) = message.view() else {
        return "unknown".into();
    };
    let source = error
        .src()
        .map_or_else(|| "pipeline".into(), |source| source.name().to_string());
    let mut text = format!("{} ({source}", error.error());
    if let Some(debug) = error.debug() {
        // The first line names a source file; the last says what happened.
        if let Some(detail) = debug.lines().skip(1).last() {
            text.push_str(": ");
            text.push_str(detail.trim());
        }
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_clip() -> Clip {
        Clip {
            file: None,
            size: Some(Size {
                width: 64,
                height: 48,
            }),
            pattern_seconds: None,
        }
    }

    #[test]
    fn sizes_are_read_from_the_command_line() {
        assert_eq!(
            "640x360".parse(),
            Ok(Size {
                width: 640,
                height: 360
            })
        );
        for bad in [
            "", "640", "640x", "x360", "641x360", "640x361", "0x0", "99999x2", "-2x16",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_test_clip_has_600_different_pictures_and_is_the_same_each_time() {
        gst::init().unwrap();
        let mut a = Pictures::open(&test_clip()).unwrap();
        let mut b = Pictures::open(&test_clip()).unwrap();
        let mut last: Option<gst::Sample> = None;
        let mut count = 0;
        while let Some(picture) = a.read().unwrap() {
            let again = b.read().unwrap().expect("as long as the first time");
            assert_eq!(
                crate::picture::psnr_of(&picture, &again),
                Some(crate::picture::PSNR_MAX_DB),
                "picture {count}"
            );
            if let Some(last) = last.replace(picture.clone()) {
                assert!(
                    crate::picture::psnr_of(&picture, &last).unwrap() < 40.0,
                    "picture {count} moves"
                );
            }
            count += 1;
        }
        assert!(b.read().unwrap().is_none());
        assert_eq!(count, 600);
    }

    #[test]
    fn a_missing_or_broken_or_empty_file_is_an_error_that_says_so() {
        gst::init().unwrap();
        let path = std::env::temp_dir().join(format!("dualstream-clip-{}.mp4", std::process::id()));
        let clip = Clip {
            file: Some(path.clone()),
            size: None,
            pattern_seconds: None,
        };
        let error = inspect(&clip).unwrap_err().to_string();
        assert!(!error.is_empty() && !error.contains("unknown"), "{error}");
        std::fs::write(&path, b"").unwrap();
        assert!(inspect(&clip).is_err(), "empty");
        std::fs::write(&path, vec![0x5a; 100_000]).unwrap();
        assert!(inspect(&clip).is_err(), "no video at all");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn inspect_tells_size_and_rate() {
        gst::init().unwrap();
        let info = inspect(&test_clip()).unwrap();
        assert_eq!((info.width, info.height), (64, 48));
        assert_eq!(info.fps, 30.0);
    }

    #[test]
    fn the_test_clip_is_as_long_as_wanted() {
        gst::init().unwrap();
        let mut pictures = Pictures::open(&Clip {
            pattern_seconds: Some(3),
            ..test_clip()
        })
        .unwrap();
        let count = std::iter::from_fn(|| pictures.read().unwrap()).count();
        assert_eq!(count, 90);
    }
}
