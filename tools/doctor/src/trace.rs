// SPDX-License-Identifier: MPL-2.0
//! Where each picture of a call is at which time, by probes on the pads of the
//! elements in both bins. All times are of one clock: both sides are in one
//! process.
//!
//! ```text
//! bar code -> (stream, frame number) -> (SSRC, RTP timestamp) -> back again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use gst::prelude::*;

use crate::picture::read_number;
use crate::probes::call::packets;
use crate::stream::{self, ProfileLevel};

/// Bar code.
type Number = u16;
/// Stream and frame number of the meta `DualStreamFrame`.
type Tag = (u32, u32);
/// SSRC and RTP timestamp: the packets of one coded frame.
type Packets = (u32, u32);

/// The longest call is a few thousand pictures.
const LIMIT: usize = 1 << 16;

#[derive(Default)]
struct Times {
    captured: BTreeMap<Number, Instant>,
    encoder_in: BTreeMap<Number, Instant>,
    coded: BTreeMap<Tag, Instant>,
    packets: BTreeMap<Packets, Tag>,
    sent: BTreeMap<Tag, Instant>,
    arrived: BTreeMap<Tag, Instant>,
    released: BTreeMap<Tag, Instant>,
    decoded: BTreeMap<Number, (Tag, Instant)>,
    decoded_tags: BTreeSet<Tag>,
    shown: BTreeMap<Number, Instant>,
    first_shown: Option<Instant>,
    profile_level: Option<ProfileLevel>,
}

#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Times>>);

/// One picture that was followed from end to end.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub captured: Instant,
    pub encoder_in: Instant,
    pub coded: Instant,
    pub sent: Instant,
    pub arrived: Instant,
    pub released: Instant,
    pub decoded: Instant,
    pub shown: Instant,
}

pub struct Measured {
    pub captured: usize,
    pub shown: usize,
    pub whole: Vec<Frame>,
}

impl Trace {
    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn captured(&self, number: Number) {
        self.lock().captured.insert(number, Instant::now());
    }

    /// A picture may come by both streams; the first one is shown.
    fn decoded(&self, number: Number, tag: Tag, now: Instant) {
        let mut times = self.lock();
        times.decoded.entry(number).or_insert((tag, now));
        times.decoded_tags.insert(tag);
    }

    pub fn first_shown(&self) -> Option<Instant> {
        self.lock().first_shown
    }

    pub fn profile_level(&self) -> Option<ProfileLevel> {
        self.lock().profile_level
    }

    /// How far pictures came, for an error.
    pub fn progress(&self) -> String {
        let t = self.lock();
        format!(
            "{} captured, {} at the encoder, {} coded, {} sent, {} arrived, {} decoded, {} shown",
            t.captured.len(),
            t.encoder_in.len(),
            t.coded.len(),
            t.sent.len(),
            t.arrived.len(),
            t.decoded.len(),
            t.shown.len()
        )
    }

    /// Pictures captured from `since` on.
    pub fn frames(&self, since: Instant) -> Measured {
        let t = self.lock();
        let last = t.shown.keys().next_back().copied().unwrap_or(0);
        let wanted: Vec<Number> = t
            .captured
            .iter()
            // Later ones may still be on the way.
            .filter(|(number, at)| **at >= since && **number <= last)
            .map(|(number, _)| *number)
            .collect();
        Measured {
            captured: wanted.len(),
            shown: wanted.iter().filter(|n| t.shown.contains_key(n)).count(),
            whole: wanted.iter().filter_map(|n| t.frame(*n)).collect(),
        }
    }
}

impl Times {
    fn frame(&self, number: Number) -> Option<Frame> {
        let (tag, decoded) = *self.decoded.get(&number)?;
        Some(Frame {
            captured: *self.captured.get(&number)?,
            encoder_in: *self.encoder_in.get(&number)?,
            coded: *self.coded.get(&tag)?,
            sent: *self.sent.get(&tag)?,
            arrived: *self.arrived.get(&tag)?,
            released: *self.released.get(&tag)?,
            decoded,
            shown: *self.shown.get(&number)?,
        })
    }

    fn on_packet(&mut self, packet: &[u8], what: fn(&mut Self) -> &mut BTreeMap<Tag, Instant>) {
        let now = Instant::now();
        let Some(tag) = key_of(packet).and_then(|key| self.packets.get(&key).copied()) else {
            return;
        };
        // The last one counts, but no repetition of one that is out.
        if !self.decoded_tags.contains(&tag) {
            what(self).insert(tag, now);
        }
    }
}

/// RFC 3550 section 5.1: timestamp and SSRC.
fn key_of(packet: &[u8]) -> Option<Packets> {
    let word = |at: usize| {
        let bytes = packet.get(at..at + 4)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    };
    Some((word(8)?, word(4)?))
}

fn tag_of(buffer: &gst::BufferRef) -> Option<Tag> {
    const NAME: &str = "DualStreamFrame";
    if !gst::meta::CustomMeta::is_registered(NAME) {
        return None;
    }
    let meta = gst::meta::CustomMeta::from_buffer(buffer, NAME).ok()?;
    let s = meta.structure();
    Some((s.get("stream").ok()?, s.get("number").ok()?))
}

/// The bar code of a raw picture on `pad`.
fn number_on(pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<Number> {
    let caps = pad.current_caps()?;
    let info = gst_video::VideoInfo::from_caps(&caps).ok()?;
    number_in(buffer, &info)
}

fn number_in(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Option<Number> {
    use gst_video::prelude::*;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).ok()?;
    let stride = usize::try_from(*frame.plane_stride().first()?).ok()?;
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    read_number(frame.plane_data(0).ok()?, stride, width, height)
}

fn on_buffer(
    pad: &gst::Pad,
    trace: &Trace,
    note: impl Fn(&Trace, &gst::Pad, &gst::BufferRef) + Send + Sync + 'static,
) {
    let trace = trace.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let Some(buffer) = info.buffer() {
            note(&trace, pad, buffer);
        }
        gst::PadProbeReturn::Ok
    });
}

fn on_packets(pad: &gst::Pad, trace: &Trace, what: fn(&mut Times) -> &mut BTreeMap<Tag, Instant>) {
    let trace = trace.clone();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(kinds, move |_, info| {
        packets(info, |packet| trace.lock().on_packet(packet, what));
        gst::PadProbeReturn::Ok
    });
}

fn child(pipeline: &gst::Pipeline, name: &str) -> Result<gst::Element> {
    pipeline
        .by_name(name)
        .with_context(|| format!("no element {name} in the call"))
}

/// Encoder, payloaders and pacer.
pub fn watch_sender(pipeline: &gst::Pipeline, trace: &Trace) -> Result<()> {
    let encoder = child(pipeline, "encoder")?;
    let sink = encoder.static_pad("sink").context("dualh264enc's sink")?;
    on_buffer(&sink, trace, |trace, pad, buffer| {
        let now = Instant::now();
        if let Some(number) = number_on(pad, buffer) {
            trace.lock().encoder_in.entry(number).or_insert(now);
        }
    });
    for pad in encoder.src_pads() {
        watch_coded(&pad, trace);
    }
    let added = trace.clone();
    encoder.connect_pad_added(move |_, pad| {
        if pad.direction() == gst::PadDirection::Src {
            watch_coded(pad, &added);
        }
    });
    let added = trace.clone();
    pipeline.connect_deep_element_added(move |_, _, element| {
        let Some(factory) = element.factory() else {
            return;
        };
        match factory.name().as_str() {
            "rtph264pay" => watch_payloader(element, &added),
            "rtppacer" => {
                if let Some(pad) = element.static_pad("src") {
                    on_packets(&pad, &added, |t| &mut t.sent);
                }
            }
            _ => {}
        }
    });
    Ok(())
}

fn watch_coded(pad: &gst::Pad, trace: &Trace) {
    on_buffer(pad, trace, |trace, _, buffer| {
        let now = Instant::now();
        let Some(tag) = tag_of(buffer) else { return };
        let mut times = trace.lock();
        if times.coded.len() < LIMIT {
            times.coded.entry(tag).or_insert(now);
        }
        if times.profile_level.is_none()
            && let Ok(map) = buffer.map_readable()
        {
            times.profile_level = stream::read(&map).profile_level;
        }
    });
}

/// A payloader pushes the packets of a frame while it is given the frame.
fn watch_payloader(element: &gst::Element, trace: &Trace) {
    let (Some(sink), Some(src)) = (element.static_pad("sink"), element.static_pad("src")) else {
        return;
    };
    let current: Arc<Mutex<Option<Tag>>> = Arc::default();
    let given = current.clone();
    on_buffer(&sink, trace, move |_, _, buffer| {
        *given.lock().unwrap_or_else(PoisonError::into_inner) = tag_of(buffer);
    });
    let trace = trace.clone();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    src.add_probe(kinds, move |_, info| {
        let tag = *current.lock().unwrap_or_else(PoisonError::into_inner);
        packets(info, |packet| {
            let mut times = trace.lock();
            if let (Some(key), Some(tag)) = (key_of(packet), tag)
                && times.packets.len() < LIMIT
            {
                times.packets.insert(key, tag);
            }
        });
        gst::PadProbeReturn::Ok
    });
}

/// Jitter buffers, decoder and sink.
pub fn watch_receiver(pipeline: &gst::Pipeline, trace: &Trace) -> Result<()> {
    let added = trace.clone();
    pipeline.connect_deep_element_added(move |_, _, element| {
        let is_buffer = element
            .factory()
            .is_some_and(|factory| factory.name().ends_with("jitterbuffer"));
        if !is_buffer {
            return;
        }
        let (sink, src) = (element.static_pad("sink"), element.static_pad("src"));
        if let (Some(sink), Some(src)) = (sink, src) {
            on_packets(&sink, &added, |t| &mut t.arrived);
            on_packets(&src, &added, |t| &mut t.released);
        }
    });
    // Behind it a picture may wait for the sink, which shows the one before.
    let join = child(pipeline, "join")?;
    for pad in join.sink_pads() {
        on_buffer(&pad, trace, |trace, pad, buffer| {
            let now = Instant::now();
            if let (Some(number), Some(tag)) = (number_on(pad, buffer), tag_of(buffer)) {
                trace.decoded(number, tag, now);
            }
        });
    }
    watch_screen(pipeline, trace)
}

/// The sink calls back when the picture's time has come.
fn watch_screen(pipeline: &gst::Pipeline, trace: &Trace) -> Result<()> {
    let screen: gst_app::AppSink = child(pipeline, "screen")?
        .downcast()
        .ok()
        .context("an appsink")?;
    let trace = trace.clone();
    screen.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let now = Instant::now();
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let seen = sample
                    .buffer()
                    .zip(sample.caps())
                    .and_then(|(buffer, caps)| {
                        let info = gst_video::VideoInfo::from_caps(caps).ok()?;
                        number_in(buffer, &info)
                    });
                let mut times = trace.lock();
                times.first_shown.get_or_insert(now);
                if let Some(number) = seen {
                    times.shown.entry(number).or_insert(now);
                }
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
    Ok(())
}
