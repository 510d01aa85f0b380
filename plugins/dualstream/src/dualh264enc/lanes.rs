// SPDX-License-Identifier: MPL-2.0
//! Which encoder each stream has: chosen by rank and by trial, replaced when
//! it fails, with what is needed around it.
//!
//! ```text
//! Feeder -> [download -> videoconvert] -> encoder -> [h264parse] -> Collector
//! ```
//!
//! The parts in brackets are only there where an encoder does not take the
//! pictures as they come, or does not give a byte stream.

use super::imp::{AUTO, CAT, DualH264Enc};
use super::router::{Failure, coded_caps};
use crate::encoders::{self, Family, Format, Setup};
use dualstream_common::Bitrate;
use dualstream_core::sender::{Config, EncoderRate, RateChange};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

const NAMES: [&str; 2] = ["encoder_0", "encoder_1"];
/// A kind of encoder that failed so often on one stream is not tried there
/// again.
const FAILURES: u32 = 3;
/// A buffer that stays as it was made fits up to this change of the target.
const OUTDATED: f64 = 0.1;
/// Of the ten pictures of the trial an encoder may keep back so many.
const KEPT_BACK: u32 = 4;

/// The encoder of one stream.
#[derive(Clone)]
pub struct Lane {
    pub family: &'static Family,
    pub encoder: gst::Element,
    /// In the order that data takes, the encoder among them.
    elements: Vec<gst::Element>,
    /// The target when it was made, which a buffer that stays is made for.
    steady: EncoderRate,
}

/// The encoders of one element.
#[derive(Default)]
pub struct Lanes {
    /// In the order in which they are tried.
    candidates: Vec<&'static Family>,
    format: Option<Format>,
    lanes: [Option<Lane>; 2],
    /// What failed on each stream, and how often; as many as candidates.
    failed: [Vec<(&'static str, u32)>; 2],
    failures: u64,
}

impl Lanes {
    pub fn lane(&self, stream: Stream) -> Option<Lane> {
        self.lanes[stream.index()].clone()
    }

    pub fn has_encoder(&self, stream: Stream) -> bool {
        self.lanes[stream.index()].is_some()
    }

    /// Names of both factories, and failures.
    pub fn summary(&self) -> ([&'static str; 2], u64) {
        let name = |lane: &Option<Lane>| lane.as_ref().map_or("", |lane| lane.family.factory);
        ([name(&self.lanes[0]), name(&self.lanes[1])], self.failures)
    }

    fn failures_of(&self, stream: Stream, factory: &str) -> u32 {
        let failed = self.failed[stream.index()].iter();
        failed
            .filter(|(name, _)| *name == factory)
            .map(|(_, count)| *count)
            .sum()
    }

    fn note_failure(&mut self, stream: Stream, factory: &'static str) {
        let failed = &mut self.failed[stream.index()];
        match failed.iter_mut().find(|(name, _)| *name == factory) {
            Some((_, count)) => *count += 1,
            None => failed.push((factory, 1)),
        }
    }

    /// What to try next on `stream`: the best that failed least there.
    fn next(&self, stream: Stream) -> Option<&'static Family> {
        self.candidates
            .iter()
            .map(|family| (self.failures_of(stream, family.factory), *family))
            .filter(|(failures, _)| *failures < FAILURES)
            .min_by_key(|(failures, _)| *failures)
            .map(|(_, family)| family)
    }

    fn setup(&self, rate: EncoderRate, ceiling: Bitrate) -> Setup {
        let format = self.format.unwrap_or(Format {
            width: 1280,
            height: 720,
            frame_time: Config::default().frame_time,
        });
        Setup {
            format,
            rate,
            ceiling,
        }
    }
}

fn works(family: &'static Family) -> Result<(), String> {
    match encoders::probe(family) {
        Ok(probed) if probed.only_started => Ok(()),
        Ok(probed) if probed.before_end + KEPT_BACK < encoders::PROBE_PICTURES => Err(format!(
            "it keeps back {} pictures",
            encoders::PROBE_PICTURES - probed.before_end
        )),
        Ok(_) => Ok(()),
        Err(err) => Err(err.to_string()),
    }
}

impl DualH264Enc {
    /// Candidates in order, the first of which works; or why there is none.
    fn choose(&self) -> Result<Vec<&'static Family>, gst::ErrorMessage> {
        let wanted = self.settings().encoder.clone();
        let mut candidates = encoders::installed();
        if wanted != AUTO {
            let Some(family) = encoders::by_factory(&wanted) else {
                let known: Vec<_> = encoders::all().iter().map(|f| f.factory).collect();
                return Err(gst::error_msg!(
                    gst::LibraryError::Settings,
                    [
                        "encoder={wanted} is not known; use auto or one of: {}",
                        known.join(", ")
                    ]
                ));
            };
            // The others are for the case that it fails later.
            candidates.retain(|f| f.factory != family.factory);
            candidates.insert(0, family);
        }
        let trials = if wanted == AUTO { candidates.len() } else { 1 };
        for first in 0..trials {
            match works(candidates[first]) {
                Ok(()) => return Ok(candidates.split_off(first)),
                Err(why) => {
                    gst::warning!(CAT, imp = self, "not {}: {why}", candidates[first].factory);
                }
            }
        }
        let named = if wanted == AUTO {
            String::new()
        } else {
            format!(" for encoder={wanted}")
        };
        Err(gst::error_msg!(
            gst::CoreError::MissingPlugin,
            [
                "no H.264 encoder found{named}; install gstreamer1.0-plugins-ugly (x264enc) or gstreamer1.0-plugins-bad (openh264enc)"
            ]
        ))
    }

    pub(super) fn start(&self) -> Result<(), gst::ErrorMessage> {
        let candidates = self.choose()?;
        gst::info!(CAT, imp = self, "using {:?}", candidates[0]);
        *self.lanes() = Lanes {
            candidates,
            ..Lanes::default()
        };
        self.apply();
        let rate = self.start_rate();
        for stream in Stream::BOTH {
            let family = self.lanes().next(stream);
            let made = match family {
                Some(family) => self.replace(stream, family, rate),
                None => Err(glib::bool_error!("no encoder")),
            };
            if let Err(err) = made
                && !self.fail_over(stream, rate, &Failure::Error(err.to_string()))
            {
                return Err(gst::error_msg!(gst::CoreError::Failed, ["{err}"]));
            }
        }
        Ok(())
    }

    fn start_rate(&self) -> EncoderRate {
        self.router.imp().snapshot(|core, _| core.start_rate())
    }

    /// To PAUSED before the bin's other children, so that an encoder that
    /// does not follow is replaced and not an error.
    pub(super) fn wake_encoders(&self) -> bool {
        let rate = self.start_rate();
        Stream::BOTH.into_iter().all(|stream| {
            let Some(lane) = self.lanes().lane(stream) else {
                return true;
            };
            let awake = lane
                .elements
                .iter()
                .all(|element| element.set_state(gst::State::Paused).is_ok());
            let why = || Failure::Error("it does not start".into());
            awake || self.fail_over(stream, rate, &why())
        })
    }

    /// Before any picture (`first`) the encoders are idle, and made anew for
    /// it; later they see new caps as any encoder does.
    pub(super) fn new_format(&self, format: Format, first: bool) {
        self.lanes().format = Some(format);
        if !first {
            return;
        }
        let rate = self.start_rate();
        for stream in Stream::BOTH {
            let Some(lane) = self.lanes().lane(stream) else {
                continue;
            };
            if let Err(err) = self.replace(stream, lane.family, rate) {
                self.fail_over(stream, rate, &Failure::Error(err.to_string()));
            }
        }
    }

    pub(super) fn stop(&self) {
        self.router.imp().reset();
        for stream in Stream::BOTH {
            if let Some(lane) = self.lanes().lane(stream) {
                for element in &lane.elements {
                    // It is in NULL, as the bin is, and may go.
                    let _ = self.obj().remove(element);
                }
            }
        }
        *self.lanes() = Lanes::default();
    }

    pub(super) fn set_rate(&self, stream: Stream, rate: EncoderRate, key: bool) {
        let Some(lane) = self.lanes().lane(stream) else {
            return;
        };
        if lane.family.rate_change(&lane.encoder) != RateChange::NewInstance {
            lane.family.set_rate(&lane.encoder, rate, key);
        } else if let Err(err) = self.replace(stream, lane.family, rate) {
            gst::warning!(CAT, imp = self, "keeping the encoder: {err}");
        }
    }

    pub(super) fn renew(&self, stream: Stream, rate: EncoderRate) {
        let Some(lane) = self.lanes().lane(stream) else {
            return;
        };
        let change = lane.family.rate_change(&lane.encoder);
        let fixed = lane.family.buffer.is_some_and(|buffer| !buffer.rescaled)
            || change == RateChange::NewInstance;
        let now = self.router.imp().steady_rate().bitrate.as_bps() as f64;
        let then = lane.steady.bitrate.as_bps().max(1) as f64;
        let outdated = fixed && (now / then - 1.0).abs() > OUTDATED;
        if (lane.family.new_for_key_frame || outdated)
            && let Err(err) = self.replace(stream, lane.family, rate)
        {
            gst::warning!(CAT, imp = self, "keeping the encoder: {err}");
        }
    }

    /// The next encoder in place of one that failed. The user is told; it is
    /// an error only when nothing works any more.
    pub(super) fn fail_over(&self, stream: Stream, rate: EncoderRate, failure: &Failure) -> bool {
        let Some(failed) = self
            .lanes()
            .lane(stream)
            .map(|lane| lane.family)
            .or_else(|| self.lanes().candidates.first().copied())
        else {
            return false;
        };
        {
            let mut lanes = self.lanes();
            lanes.failures += 1;
            lanes.note_failure(stream, failed.factory);
        }
        // Each round counts one failure, of which each candidate has a few.
        loop {
            let Some(family) = self.lanes().next(stream) else {
                break;
            };
            let made = works(family).and_then(|()| {
                self.replace(stream, family, rate)
                    .map_err(|e| e.to_string())
            });
            match made {
                Ok(()) => {
                    self.say_replaced(stream, failed, Some(family), failure);
                    return true;
                }
                Err(why) => {
                    gst::warning!(CAT, imp = self, "not {family:?}: {why}");
                    self.lanes().note_failure(stream, family.factory);
                }
            }
        }
        self.remove_lane(stream);
        if stream == Stream::One {
            // The other stream has an encoder, and goes on alone.
            self.say_replaced(stream, failed, None, failure);
            return true;
        }
        gst::element_imp_error!(
            self,
            gst::StreamError::Encode,
            ("No H.264 encoder works any more"),
            ["{failed:?} was the last one: {failure}"]
        );
        false
    }

    fn say_replaced(
        &self,
        stream: Stream,
        from: &'static Family,
        to: Option<&'static Family>,
        failure: &Failure,
    ) {
        let then = to.map_or_else(
            || "one stream is used from here on (as with mode=single)".to_owned(),
            |to| format!("going on with {}", to.factory),
        );
        let details = gst::Structure::builder("application/x-dualh264enc-encoder")
            .field("stream", stream.index() as u32)
            .field("from", from.factory)
            .field("to", to.map_or("", |to| to.factory))
            .field("reason", failure.to_string())
            .build();
        gst::element_imp_warning!(
            self,
            gst::StreamError::Encode,
            ("The encoder {} of stream {} failed; {then}", from.factory, stream.index()),
            ["{failure}"],
            details: details
        );
    }

    /// A new encoder in place of the one of `stream`, through which nothing
    /// is on its way.
    fn replace(
        &self,
        stream: Stream,
        family: &'static Family,
        rate: EncoderRate,
    ) -> Result<(), glib::BoolError> {
        let i = stream.index();
        let settings = self.settings().clone();
        let ceiling = Bitrate::from_bps(settings.max_bitrate.into());
        let router = self.router.imp();
        // The kind of change is a property of the element, which is not there
        // yet; what is assumed here is only dearer.
        let rate = router.start_rate(family.rate_change, rate);
        let setup = self.lanes().setup(rate, ceiling);
        let steady = router.steady_rate();
        let encoder = family.make_for(None, setup, steady)?;
        self.user_properties(&encoder, settings.encoder_properties.as_ref());
        self.remove_lane(stream);
        encoder.set_property("name", NAMES[i]);
        let change = family.rate_change(&encoder);
        let lane = self.surround(stream, family, encoder, steady)?;
        self.lanes().lanes[i] = Some(lane.clone());
        if let Err(err) = self.insert(stream, &lane) {
            self.remove_lane(stream);
            return Err(err);
        }
        let rate = Some(rate).filter(|_| family.rate_at_start);
        router.renewed(stream, change, rate, family.account());
        Ok(())
    }

    /// What the encoder needs before and behind it.
    fn surround(
        &self,
        stream: Stream,
        family: &'static Family,
        encoder: gst::Element,
        steady: EncoderRate,
    ) -> Result<Lane, glib::BoolError> {
        let mut elements = Vec::new();
        let pad = encoder.static_pad("sink");
        let takes = |caps: &gst::CapsRef| {
            pad.as_ref()
                .is_some_and(|pad| pad.query_caps(None).can_intersect(caps))
        };
        if let Some(caps) = self.router.imp().caps()
            && !takes(&caps)
        {
            for name in download(&caps).into_iter().chain(["videoconvert"]) {
                elements.push(gst::ElementFactory::make(name).build()?);
            }
            gst::info!(CAT, imp = self, "{stream:?}: converting for {family:?}");
        }
        let byte_stream = encoder
            .static_pad("src")
            .is_some_and(|pad| pad.pad_template_caps().can_intersect(&coded_caps()));
        elements.push(encoder.clone());
        if !byte_stream {
            // Each key frame with its parameter sets.
            let parser = gst::ElementFactory::make("h264parse")
                .property("config-interval", -1i32)
                .build()?;
            elements.push(parser);
        }
        Ok(Lane {
            family,
            encoder,
            elements,
            steady,
        })
    }

    fn insert(&self, stream: Stream, lane: &Lane) -> Result<(), glib::BoolError> {
        let obj = self.obj();
        let feeder = self
            .feeder(stream)
            .ok_or_else(|| glib::bool_error!("not set up"))?;
        let coded = &self.collector.imp().coded[stream.index()];
        for element in &lane.elements {
            obj.add(element)?;
        }
        let mut src = None;
        for element in &lane.elements {
            if let Some(before) = src.replace(element) {
                gst::Element::link(before, element)?;
            }
        }
        let src = src.and_then(|last| last.static_pad("src"));
        let src = src.ok_or_else(|| glib::bool_error!("an encoder without a src pad"))?;
        src.link(coded)
            .map_err(|err| glib::bool_error!("linking the encoder: {err}"))?;
        for element in lane.elements.iter().rev() {
            element.sync_state_with_parent()?;
        }
        let first = lane.elements.first().and_then(|e| e.static_pad("sink"));
        let first = first.ok_or_else(|| glib::bool_error!("an encoder without a sink pad"))?;
        feeder
            .src()
            .link(&first)
            .map_err(|err| glib::bool_error!("linking the encoder: {err}"))?;
        Ok(())
    }

    fn remove_lane(&self, stream: Stream) {
        let Some(lane) = self.lanes().lane(stream) else {
            return;
        };
        if let Some(feeder) = self.feeder(stream)
            && let Some(peer) = feeder.src().peer()
        {
            let _ = feeder.src().unlink(&peer);
        }
        let coded = &self.collector.imp().coded[stream.index()];
        if let Some(peer) = coded.peer() {
            let _ = peer.unlink(coded);
        }
        for element in &lane.elements {
            // To NULL while it still has a parent, so that messages get out.
            element.set_locked_state(true);
            if element.set_state(gst::State::Null).is_err() {
                gst::warning!(CAT, imp = self, "{} does not stop", element.name());
            }
            let _ = self.obj().remove(element);
        }
        self.lanes().lanes[stream.index()] = None;
    }

    /// The stream whose encoder an object belongs to.
    pub(super) fn stream_of_encoder(&self, object: &gst::Object) -> Option<Stream> {
        let lanes = self.lanes();
        Stream::BOTH.into_iter().find(|stream| {
            lanes.lanes[stream.index()].as_ref().is_some_and(|lane| {
                lane.elements
                    .iter()
                    .any(|e| object == e.upcast_ref::<gst::Object>() || object.has_as_ancestor(e))
            })
        })
    }

    fn user_properties(&self, element: &gst::Element, properties: Option<&gst::Structure>) {
        for (name, value) in properties.into_iter().flat_map(|s| s.iter()) {
            let Some(pspec) = element.find_property(name) else {
                gst::element_imp_warning!(
                    self,
                    gst::LibraryError::Settings,
                    [
                        "encoder-properties: {} has no property {name}",
                        element.name()
                    ]
                );
                continue;
            };
            let text = value.serialize();
            match (value.transform_with_type(pspec.value_type()), text) {
                (Ok(value), _) => element.set_property_from_value(name, &value),
                // Enums and flags by nick.
                (Err(_), Ok(text)) => element.set_property_from_str(name, &text),
                (Err(err), Err(_)) => gst::element_imp_warning!(
                    self,
                    gst::LibraryError::Settings,
                    ["encoder-properties: {name}: {err}"]
                ),
            }
        }
    }
}

/// What brings pictures of these caps into system memory.
fn download(caps: &gst::CapsRef) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 6] = [
        ("memory:CUDAMemory", "cudadownload"),
        ("memory:GLMemory", "gldownload"),
        ("memory:D3D11Memory", "d3d11download"),
        ("memory:VAMemory", "vapostproc"),
        ("memory:VASurface", "vaapipostproc"),
        ("memory:NVMM", "nvvidconv"),
    ];
    let features = caps.features(0)?;
    KNOWN
        .into_iter()
        .find(|(feature, _)| features.contains(*feature))
        .map(|(_, element)| element)
}
