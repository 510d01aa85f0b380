// SPDX-License-Identifier: MPL-2.0
//! Which H.264 decoder to use, and how to make it give each picture at once.

use std::fmt;

use gst::prelude::*;

use crate::trial::{self, PICTURES, ProbeError};

/// What `dualh264dec` gives to a decoder.
pub fn coded_caps() -> gst::Caps {
    gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build()
}

/// Why there is no decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoDecoder {
    NoneInstalled,
    /// No such factory.
    Unknown(String),
    /// It does not decode H.264 into raw video.
    Unsuitable(String),
    /// It does not start.
    Fails(String),
    /// The decoder needs h264parse, which is missing.
    NoParser(String),
}

impl fmt::Display for NoDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneInstalled => f.write_str(
                "no H.264 decoder found: install gstreamer1.0-libav or the openh264 plugin",
            ),
            Self::Unknown(name) => {
                write!(f, "there is no element \"{name}\" to decode H.264 with")
            }
            Self::Unsuitable(name) => write!(f, "\"{name}\" is no H.264 decoder"),
            Self::Fails(name) => write!(f, "the H.264 decoder \"{name}\" does not start"),
            Self::NoParser(name) => write!(
                f,
                "\"{name}\" needs h264parse: install gstreamer1.0-plugins-bad"
            ),
        }
    }
}

/// A decoder, with a parser in front if it needs one.
#[derive(Clone, Debug)]
pub struct Decoder {
    pub element: gst::Element,
    pub parser: Option<gst::Element>,
}

impl Decoder {
    /// Where coded units go in, and pictures come out.
    pub fn ends(&self) -> (Option<gst::Pad>, Option<gst::Pad>) {
        let first = self.parser.as_ref().unwrap_or(&self.element);
        (first.static_pad("sink"), self.element.static_pad("src"))
    }

    /// As one element with the pads `sink` and `src`.
    fn in_one(&self) -> Option<gst::Element> {
        let Some(parser) = &self.parser else {
            return Some(self.element.clone());
        };
        let bin = gst::Bin::new();
        bin.add_many([parser, &self.element]).ok()?;
        parser.link(&self.element).ok()?;
        let (sink, src) = self.ends();
        for (name, pad) in [("sink", sink?), ("src", src?)] {
            let ghost = gst::GhostPad::builder_with_target(&pad).ok()?.name(name);
            bin.add_pad(&ghost.build()).ok()?;
        }
        Some(bin.upcast())
    }

    pub fn elements(&self) -> impl Iterator<Item = &gst::Element> {
        // Downstream first, the order in which states change.
        std::iter::once(&self.element).chain(&self.parser)
    }
}

/// What is tried, in this order. `auto`: all of rank MARGINAL and above, best
/// rank first; otherwise the named factory alone.
pub fn candidates(name: &str) -> Result<Vec<gst::ElementFactory>, NoDecoder> {
    if name != "auto" {
        let factory =
            gst::ElementFactory::find(name).ok_or_else(|| NoDecoder::Unknown(name.to_owned()))?;
        if !suits(&factory) {
            return Err(NoDecoder::Unsuitable(name.to_owned()));
        }
        return Ok(vec![factory]);
    }
    let mut factories: Vec<_> = gst::ElementFactory::factories_with_type(
        gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO,
        gst::Rank::MARGINAL,
    )
    .into_iter()
    .filter(suits)
    .collect();
    factories.sort_by_key(|f| std::cmp::Reverse(f.rank()));
    Ok(factories)
}

/// The first of these that works, from `from` on. One that was named only has
/// to start: it may be for something else than the trial's pictures.
pub fn first_working(
    candidates: &[gst::ElementFactory],
    from: usize,
    named: bool,
) -> Option<usize> {
    (from..candidates.len()).find(|at| {
        let factory = &candidates[*at];
        if named {
            return starts(factory);
        }
        let tried = probe(factory);
        if let Err(why) = tried {
            gst::warning!(super::imp::CAT, "not {}: {why}", factory.name());
        }
        tried.is_ok()
    })
}

/// Ten black pictures of 320x240, constrained baseline, each with a start code
/// of four bytes, made by openh264enc.
const TEN: &[u8] = include_bytes!("ten.h264");

/// The trial of a decoder, from an earlier time if there was one.
fn probe(factory: &gst::ElementFactory) -> Result<(), ProbeError> {
    let tried = factory.clone();
    let outcome = trial::known_or(&factory.name(), move || {
        let decoder = make(&tried).map_err(|_| ProbeError::DoesNotStart)?;
        let Some(element) = decoder.in_one() else {
            return Err(ProbeError::DoesNotStart);
        };
        trial::trial(&element, coded_pictures, || {})
    });
    match outcome {
        Ok(probed) if probed.before_end < PICTURES / 2 => Err(ProbeError::LosesFrames),
        Ok(_) => Ok(()),
        Err(why) => Err(why),
    }
}

fn coded_pictures(_: &gst::Pad) -> trial::Input {
    // A picture is parameter sets, if any, and one slice.
    let mut units: Vec<Vec<u8>> = Vec::new();
    let mut begin = true;
    for nal in nal_units(TEN) {
        if begin {
            units.push(Vec::new());
        }
        if let Some(unit) = units.last_mut() {
            unit.extend_from_slice(nal);
        }
        begin = matches!(nal.get(4).map(|b| b & 0x1f), Some(1 | 5));
    }
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .field("width", 320i32)
        .field("height", 240i32)
        .field("framerate", gst::Fraction::new(30, 1))
        .field("profile", "constrained-baseline")
        .field("level", "1.3")
        .build();
    let buffers = units.into_iter().zip(0..).map(|(unit, n)| {
        let mut buffer = trial::timed(gst::Buffer::from_slice(unit), n);
        if n > 0 {
            buffer.make_mut().set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        buffer
    });
    Some((caps, buffers.collect()))
}

/// Cut before each start code of four bytes.
fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts: Vec<usize> = stream
        .windows(4)
        .enumerate()
        .filter(|(_, bytes)| *bytes == [0, 0, 0, 1])
        .map(|(at, _)| at)
        .collect();
    let ends = starts.iter().skip(1).copied().chain([stream.len()]);
    let bounds: Vec<_> = starts.iter().copied().zip(ends).collect();
    bounds
        .into_iter()
        .filter_map(|(from, to)| stream.get(from..to))
}

fn suits(factory: &gst::ElementFactory) -> bool {
    let has = |direction, caps: &gst::Caps| {
        factory.static_pad_templates().iter().any(|t| {
            t.direction() == direction
                && t.presence() == gst::PadPresence::Always
                && t.caps().can_intersect(caps)
        })
    };
    let raw = gst::Caps::builder("video/x-raw").any_features().build();
    let coded = gst::Caps::new_empty_simple("video/x-h264");
    factory.name() != "dualh264dec"
        && has(gst::PadDirection::Sink, &coded)
        && has(gst::PadDirection::Src, &raw)
        // A parser or an identity takes and gives anything.
        && factory.has_type(gst::ElementFactoryType::DECODER)
}

/// A hardware decoder may be registered where its device cannot be used.
fn starts(factory: &gst::ElementFactory) -> bool {
    let Ok(element) = factory.create().build() else {
        return false;
    };
    let started = element.set_state(gst::State::Ready).is_ok();
    let _ = element.set_state(gst::State::Null);
    started
}

/// Makes one decoder of the factory, set up for low latency.
pub fn make(factory: &gst::ElementFactory) -> Result<Decoder, NoDecoder> {
    let name = factory.name().to_string();
    let element = factory
        .create()
        .build()
        .map_err(|_| NoDecoder::Fails(name.clone()))?;
    set_up(&element);
    let takes_it = element
        .static_pad("sink")
        .is_some_and(|pad| coded_caps().is_subset(&pad.pad_template_caps()));
    let parser = if takes_it {
        None
    } else {
        let parser = gst::ElementFactory::make("h264parse")
            .build()
            .map_err(|_| NoDecoder::NoParser(name))?;
        Some(parser)
    };
    Ok(Decoder { element, parser })
}

fn set_up(element: &gst::Element) {
    // Frame threads keep one picture back for each thread; slice threads none.
    set_if_valid(element, "thread-type", "slice");
    // Errors in the data are ours to see, as missing or corrupt pictures.
    set_if_valid(element, "max-errors", "-1");
    // Damaged pictures are shown until better ones come, flagged as corrupt.
    set_if_valid(element, "output-corrupt", "true");
    set_if_valid(element, "discard-corrupted-frames", "false");
    // Recovery is asked for by the receiver's logic, once for both streams.
    set_if_valid(element, "automatic-request-sync-points", "false");
    // A decoder that skips frames to catch up loses references.
    set_if_valid(element, "qos", "false");
}

fn set_if_valid(element: &gst::Element, property: &str, value: &str) {
    let Some(spec) = element.find_property(property) else {
        return;
    };
    if gst::glib::Value::deserialize_with_pspec(value, &spec).is_ok() {
        element.set_property_from_str(property, value);
    }
}
