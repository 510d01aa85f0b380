// SPDX-License-Identifier: MPL-2.0
//! Which H.264 decoder to use, and how to make it give each picture at once.

use std::fmt;

use gst::prelude::*;

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

    pub fn elements(&self) -> impl Iterator<Item = &gst::Element> {
        // Downstream first, the order in which states change.
        std::iter::once(&self.element).chain(&self.parser)
    }
}

/// `auto`: the one of highest rank that starts; otherwise the named factory.
pub fn choose(name: &str) -> Result<gst::ElementFactory, NoDecoder> {
    if name != "auto" {
        let factory =
            gst::ElementFactory::find(name).ok_or_else(|| NoDecoder::Unknown(name.to_owned()))?;
        if !suits(&factory) {
            return Err(NoDecoder::Unsuitable(name.to_owned()));
        }
        return if starts(&factory) {
            Ok(factory)
        } else {
            Err(NoDecoder::Fails(name.to_owned()))
        };
    }
    let mut factories: Vec<_> = gst::ElementFactory::factories_with_type(
        gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO,
        gst::Rank::MARGINAL,
    )
    .into_iter()
    .filter(suits)
    .collect();
    factories.sort_by_key(|f| std::cmp::Reverse(f.rank()));
    factories
        .into_iter()
        .find(starts)
        .ok_or(NoDecoder::NoneInstalled)
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
