// SPDX-License-Identifier: MPL-2.0
//! What comes out of webrtcbin, led to the decoders.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;
use gst_webrtc::WebRTCRTPTransceiver;

use super::DualWebRtcSrc;
use super::audio;
use super::buffers::Buffers;
use super::clocks::{Clocks, Ids};
use super::session::{Media, Offered};
use super::stats::Shared;
use super::sync::Kind;
use super::trace::Trace;
use crate::negotiated::Negotiated;
use crate::peer::Activity;
use crate::requirements::make;
use crate::{rtp, sdp};

/// The dual stream is two; a peer with more is not ours.
const STREAMS: usize = 2;

/// Notes when packets of video come to their jitter buffers.
pub fn watch_arrivals(trace: &Trace, offered: &Offered) -> impl Fn(u32, &gst::Element) + use<> {
    let (trace, offered) = (trace.clone(), offered.clone());
    move |ssrc, buffer| {
        let ids = {
            let offered = offered.lock().unwrap();
            if offered.iter().any(|m| m.audio && m.ssrcs.contains(&ssrc)) {
                return;
            }
            let video = offered.iter().find(|m| m.video);
            video.map_or(Ids::default(), |m| Ids::of(&m.extensions))
        };
        let Some(pad) = buffer.static_pad("sink") else {
            return;
        };
        let trace = trace.clone();
        let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        pad.add_probe(kinds, move |_, info| {
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => trace.on_arrival(buffer, ids),
                Some(gst::PadProbeData::BufferList(list)) => {
                    list.iter().for_each(|buffer| trace.on_arrival(buffer, ids));
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
    }
}

pub struct Streams {
    pub bin: glib::WeakRef<gst::Bin>,
    pub src: glib::WeakRef<DualWebRtcSrc>,
    pub decoder: glib::WeakRef<gst::Element>,
    pub clocks: Clocks,
    pub trace: Trace,
    pub offered: Offered,
    pub shared: Arc<Shared>,
    pub activity: Arc<Activity>,
    pub media: Arc<Media>,
    pub buffers: Buffers,
    pub negotiated: Arc<Mutex<Negotiated>>,
}

impl Streams {
    /// The media section of a pad, and which one it is.
    fn section(&self, pad: &gst::Pad) -> Result<(usize, sdp::Media), String> {
        let transceiver: Option<WebRTCRTPTransceiver> = pad.property("transceiver");
        let mline = transceiver
            .and_then(|t| usize::try_from(t.mlineindex()).ok())
            .ok_or("it has no media section")?;
        let media = self.offered.lock().unwrap().get(mline).cloned();
        Ok((mline, media.ok_or("it was not offered")?))
    }

    /// Which of the two streams a pad is: H.264 sections in their order.
    fn index(&self, mline: usize) -> Result<usize, String> {
        let offered = self.offered.lock().unwrap();
        let is_h264 = |m: &sdp::Media| m.video && !m.h264.is_empty();
        if !offered.get(mline).is_some_and(is_h264) {
            return Err("it is neither H.264 nor Opus".into());
        }
        let index = offered[..mline].iter().filter(|m| is_h264(m)).count();
        if index < STREAMS {
            Ok(index)
        } else {
            Err("there are two streams already".into())
        }
    }

    pub fn take(&self, pad: &gst::Pad) -> Result<(), String> {
        let (mline, media) = self.section(pad)?;
        let is_audio = media.audio && !media.opus.is_empty();
        if is_audio {
            self.take_audio(pad)?;
        } else {
            self.take_video(pad, self.index(mline)?)?;
        }
        let kind = if is_audio { Kind::Audio } else { Kind::Video };
        self.watch(pad, kind, Ids::of(&media.extensions));
        Ok(())
    }

    fn take_audio(&self, pad: &gst::Pad) -> Result<(), String> {
        let (Some(bin), Some(src)) = (self.bin.upgrade(), self.src.upgrade()) else {
            return Err("the session is over".into());
        };
        let [entry, decoder, out] = audio::chain(&bin, &src)?;
        let broken = |err: glib::BoolError| err.to_string();
        let ghost = gst::GhostPad::builder_with_target(&out)
            .map_err(broken)?
            .name(audio::PAD)
            .build();
        ghost.set_active(true).map_err(broken)?;
        bin.add_pad(&ghost).map_err(broken)?;
        src.take_audio(ghost.upcast_ref(), &decoder)?;
        pad.link(&entry).map(drop).map_err(|err| err.to_string())
    }

    /// Counts what comes out of a pad, and learns its times of capture.
    fn watch(&self, pad: &gst::Pad, kind: Kind, ids: Ids) {
        let ssrc = pad
            .current_caps()
            .and_then(|caps| caps.structure(0)?.get::<u32>("ssrc").ok());
        if let Some(ssrc) = ssrc {
            let clock_rate = match kind {
                Kind::Video => rtp::VIDEO_CLOCK_RATE,
                Kind::Audio => rtp::AUDIO_CLOCK_RATE,
            };
            self.clocks
                .add(ssrc, kind, clock_rate, self.buffers.of(ssrc).as_ref());
        }
        let (shared, activity, media, clocks, trace) = (
            self.shared.clone(),
            self.activity.clone(),
            self.media.clone(),
            self.clocks.clone(),
            self.trace.clone(),
        );
        pad.add_probe(
            gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
            move |_, info| {
                activity.touch();
                media.any.store(true, Ordering::Relaxed);
                let now = Instant::now();
                shared.on_packet(now);
                let mut source = None;
                let mut packet = |packet: &gst::BufferRef| {
                    source = rtp::source(packet).or(source);
                    if kind == Kind::Video {
                        trace.on_left(packet);
                    }
                    clocks.on_packet(now, packet, ids);
                };
                match &info.data {
                    Some(gst::PadProbeData::Buffer(buffer)) => packet(buffer),
                    Some(gst::PadProbeData::BufferList(list)) => {
                        list.iter().for_each(&mut packet);
                    }
                    _ => {}
                }
                // Audio does not say that the pictures are at their end.
                if let Some(ssrc) = source.filter(|_| kind == Kind::Video) {
                    media.last_source.store(ssrc, Ordering::Relaxed);
                }
                gst::PadProbeReturn::Ok
            },
        );
    }

    fn take_video(&self, pad: &gst::Pad, index: usize) -> Result<(), String> {
        let (Some(bin), Some(decoder)) = (self.bin.upgrade(), self.decoder.upgrade()) else {
            return Err("the session is over".into());
        };
        let sink = decoder
            .static_pad(&format!("sink_{index}"))
            .filter(|sink| !sink.is_linked())
            .ok_or("the decoder has no free pad for it")?;
        let made =
            |factory: &str, name: String| make(factory, &name).map_err(|err| format!("{err:?}"));
        let wants_feedback = self.negotiated.lock().unwrap().frame_feedback;
        let feedback = wants_feedback
            .then(|| made("rtcpiframefeedback", format!("feedback-{index}")))
            .transpose()?;
        if let Some(feedback) = &feedback {
            feedback.set_property("stream", index as u32);
        }
        let depay = made("rtph264depay", format!("depay-{index}"))?;
        let broken = |err: glib::BoolError| err.to_string();
        let chain: Vec<_> = feedback.iter().chain([&depay]).collect();
        bin.add_many(&chain).map_err(broken)?;
        gst::Element::link_many(&chain).map_err(broken)?;
        let out = depay
            .static_pad("src")
            .ok_or("rtph264depay has no pad src")?;
        let ssrc = pad
            .current_caps()
            .and_then(|caps| caps.structure(0)?.get::<u32>("ssrc").ok());
        self.trace.mark(&out, ssrc, &self.clocks);
        let ghost = gst::GhostPad::builder_with_target(&out)
            .map_err(broken)?
            .name(format!("src_{index}"))
            .build();
        ghost.set_active(true).map_err(broken)?;
        bin.add_pad(&ghost).map_err(broken)?;
        ghost.link(&sink).map_err(|err| err.to_string())?;
        for element in &chain {
            element.sync_state_with_parent().map_err(broken)?;
        }
        let entry = chain[0]
            .static_pad("sink")
            .ok_or_else(|| format!("{} has no pad sink", chain[0].name()))?;
        pad.link(&entry).map_err(|err| err.to_string())?;
        let buffer = ssrc.and_then(|ssrc| self.buffers.of(ssrc));
        let weak = glib::WeakRef::new();
        weak.set(buffer.as_ref());
        self.shared
            .update(|s| s.streams.push((index, feedback, weak)));
        Ok(())
    }
}

/// An unlinked pad would stop its jitter buffer with an error.
pub fn discard(bin: &gst::Bin, pad: &gst::Pad) -> Result<(), glib::BoolError> {
    let sink = gst::ElementFactory::make("fakesink")
        .property("sync", false)
        .property("async", false)
        .build()?;
    bin.add(&sink)?;
    sink.sync_state_with_parent()?;
    let entry = sink
        .static_pad("sink")
        .ok_or_else(|| glib::bool_error!("fakesink has no pad sink"))?;
    pad.link(&entry).map_err(|err| glib::bool_error!("{err}"))?;
    Ok(())
}
