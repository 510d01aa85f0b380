// SPDX-License-Identifier: MPL-2.0
//! Where pictures spend their time: what the sender says of each, and when it
//! passed the stages here. docs/latency.md has what becomes of it.
//!
//! ```text
//! rtpsession -> jitter buffer -> depayloader -> decoder -> src -> sink
//!           arrived          left           meta      decoded    shown (QoS)
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::clocks::{self, Clocks, Ids};
use crate::capture_time::NtpTime;
use crate::clock_exchange::{Exchange, Relation};
use crate::latency::{self, Window};
use crate::rtp;
use crate::video_timing::VideoTiming;

/// Name of the structure, and of its message.
pub const NAME: &str = "application/x-frame-latency";
/// Meta on coded and decoded pictures.
const META: &str = "DualWebRtcFrameTimes";
/// Frames between network and jitter buffer, of both streams.
const MOST_ARRIVED: usize = 512;
/// Frames between depayloader and packet.
const MOST_LEFT: usize = 8;
/// Pictures between decoder and sink.
const MOST_DECODED: usize = 128;
/// Decoders that count in other units round time stamps.
const SAME_NS: u64 = 100_000;
/// A sink that says nothing for so long does not say when it shows.
const QOS_SPAN: Duration = Duration::from_secs(1);
const MESSAGE_INTERVAL: Duration = Duration::from_secs(1);
/// Wall clocks that are not set alike show in this.
const LONGEST_TRANSIT_NS: i64 = 5_000_000_000;

/// A frame on its way to the jitter buffer.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    ssrc: u32,
    rtp: u32,
    /// Its last packet so far.
    at: NtpTime,
    timing: Option<VideoTiming>,
}

/// What is known of a frame, by our clock; carried by the meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    captured: Option<NtpTime>,
    /// In ns after the capture: coded, sent.
    sender: Option<(u64, u64)>,
    arrived: NtpTime,
    left: NtpTime,
}

fn between(from: NtpTime, to: NtpTime) -> u64 {
    u64::try_from(to.since(from)).unwrap_or(0)
}

impl Times {
    fn write(&self, buffer: &mut gst::BufferRef) {
        let Ok(mut meta) = gst::meta::CustomMeta::add(buffer, META) else {
            return;
        };
        let s = meta.mut_structure();
        s.set("arrived", self.arrived.nanos());
        s.set("left", self.left.nanos());
        if let Some(captured) = self.captured {
            s.set("captured", captured.nanos());
        }
        if let Some((coded, sent)) = self.sender {
            s.set("coded", coded);
            s.set("sent", sent);
        }
    }

    fn read(buffer: &gst::BufferRef) -> Option<Self> {
        let meta = gst::meta::CustomMeta::from_buffer(buffer, META).ok()?;
        let s = meta.structure();
        let time = |name: &str| s.get::<u64>(name).ok().map(NtpTime::from_nanos);
        Some(Self {
            captured: time("captured"),
            sender: s.get("coded").ok().zip(s.get("sent").ok()),
            arrived: time("arrived")?,
            left: time("left")?,
        })
    }
}

#[derive(Debug, Default)]
struct Parts {
    encode: Window,
    pacer: Window,
    network: Window,
    jitter_buffer: Window,
    decode: Window,
    render: Window,
    total: Window,
}

#[derive(Debug, Default)]
struct State {
    exchange: Exchange,
    arrived: VecDeque<Arrived>,
    /// Time stamp, source, RTP time and when the last packet left.
    left: VecDeque<(gst::ClockTime, u32, u32, NtpTime)>,
    /// Time stamp and times of a picture that a sink may speak of.
    decoded: VecDeque<(u64, Option<NtpTime>, NtpTime)>,
    /// When the sink last said that it shows a picture.
    qos: Option<Instant>,
    frames: u64,
    /// The wall clocks are used as they are.
    is_wall: bool,
    parts: Parts,
    /// When the last message went out, and how many frames there were.
    told: Option<(Instant, u64)>,
}

/// Of one receiver; begins anew with each session.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<State>>);

pub fn register_meta() {
    if !gst::meta::CustomMeta::is_registered(META) {
        // Without tags, so that decoders and converters carry it along.
        gst::meta::CustomMeta::register_simple(META);
    }
}

impl Trace {
    pub fn restart(&self) {
        *self.0.lock().unwrap() = State::default();
    }

    pub fn asked(&self, now: NtpTime) {
        self.0.lock().unwrap().exchange.asked(now);
    }

    /// The sender says what time it is when it is asked.
    pub fn is_answered(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.exchange.relation(Instant::now()).is_some()
    }

    pub fn on_rtcp(&self, compound: &[u8]) {
        if let Some(now) = NtpTime::now() {
            let mut state = self.0.lock().unwrap();
            state.exchange.on_packet(Instant::now(), now, compound);
        }
    }

    /// A packet comes to its jitter buffer.
    pub fn on_arrival(&self, packet: &gst::BufferRef, ids: Ids) {
        let (Some(now), Ok(map)) = (NtpTime::now(), packet.map_readable()) else {
            return;
        };
        let Some(head) = clocks::head(&map) else {
            return;
        };
        let timing = ids
            .timing
            .and_then(|id| map.get(rtp::extension_in(&map, id)?))
            .and_then(VideoTiming::parse);
        let mut state = self.0.lock().unwrap();
        let known = state
            .arrived
            .iter_mut()
            .rev()
            .find(|frame| (frame.ssrc, frame.rtp) == (head.ssrc, head.rtp));
        if let Some(frame) = known {
            frame.at = now;
            frame.timing = timing.or(frame.timing);
            return;
        }
        if state.arrived.len() >= MOST_ARRIVED {
            state.arrived.pop_front();
        }
        state.arrived.push_back(Arrived {
            ssrc: head.ssrc,
            rtp: head.rtp,
            at: now,
            timing,
        });
    }

    /// A packet leaves its jitter buffer.
    pub fn on_left(&self, packet: &gst::BufferRef) {
        let (Some(now), Some(pts), Ok(map)) = (NtpTime::now(), packet.pts(), packet.map_readable())
        else {
            return;
        };
        let Some(head) = clocks::head(&map) else {
            return;
        };
        let mut state = self.0.lock().unwrap();
        state
            .left
            .retain(|(_, ssrc, rtp, _)| (*ssrc, *rtp) != (head.ssrc, head.rtp));
        if state.left.len() >= MOST_LEFT {
            state.left.pop_front();
        }
        state.left.push_back((pts, head.ssrc, head.rtp, now));
    }

    /// Gives what leaves this pad, of a depayloader, its times.
    pub fn mark(&self, pad: &gst::Pad, ssrc: Option<u32>, clocks: &Clocks) {
        let (trace, clocks) = (self.clone(), clocks.clone());
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer_mut()
                && let Some(pts) = buffer.pts()
                && let Some(times) = trace.times(pts, ssrc, &clocks)
            {
                times.write(buffer.make_mut());
            }
            gst::PadProbeReturn::Ok
        });
    }

    fn times(&self, pts: gst::ClockTime, ssrc: Option<u32>, clocks: &Clocks) -> Option<Times> {
        let mut state = self.0.lock().unwrap();
        let (_, ssrc, rtp, left) =
            *state.left.iter().rev().find(|(stamp, source, ..)| {
                *stamp == pts && ssrc.is_none_or(|ssrc| ssrc == *source)
            })?;
        let at = state
            .arrived
            .iter()
            .rposition(|frame| (frame.ssrc, frame.rtp) == (ssrc, rtp))?;
        let frame = state.arrived.remove(at)?;
        let captured = clocks.capture(ssrc, rtp);
        let captured = captured.and_then(|captured| state.by_our_clock(captured, frame.at));
        let sender = frame.timing.map(|timing| {
            let ns = |ms: u16| u64::from(ms) * 1_000_000;
            // In a packet that was repaired it is not known when it left: the end
            // of the payloader is the least.
            let sent = timing.pacer_exit_ms.max(timing.packetization_finish_ms);
            let coded = timing.encode_finish_ms.min(sent);
            (ns(coded), ns(sent))
        });
        Some(Times {
            captured,
            sender,
            arrived: frame.at,
            left,
        })
    }

    /// A picture leaves the decoder. What is to be posted, if it is time.
    pub fn on_decoded(&self, buffer: &gst::BufferRef) -> Option<gst::Structure> {
        let (times, decoded) = (Times::read(buffer)?, NtpTime::now()?);
        let now = Instant::now();
        let mut state = self.0.lock().unwrap();
        state.frames += 1;
        let qos = state
            .qos
            .is_some_and(|at| now.saturating_duration_since(at) < QOS_SPAN);
        state.add(now, &times, decoded, qos);
        if let Some(pts) = buffer.pts() {
            if state.decoded.len() >= MOST_DECODED {
                state.decoded.pop_front();
            }
            let entry = (pts.nseconds(), times.captured, decoded);
            state.decoded.push_back(entry);
        }
        let frames = state.frames;
        let (since, before) = *state.told.get_or_insert((now, 0));
        if now.saturating_duration_since(since) < MESSAGE_INTERVAL || frames == before {
            return None;
        }
        state.told = Some((now, frames));
        Some(state.structure(now))
    }

    /// Events of the sink. One that synchronises says of each picture that it is
    /// shown, right after that.
    pub fn on_upstream(&self, event: &gst::Event) {
        if let gst::EventView::Qos(qos) = event.view()
            && let (_, _, _, Some(stamp)) = qos.get()
            && let Some(now) = NtpTime::now()
        {
            self.0.lock().unwrap().on_shown(stamp, now);
        }
    }

    pub fn structure(&self) -> gst::Structure {
        self.0.lock().unwrap().structure(Instant::now())
    }
}

impl State {
    fn relation(&self) -> Option<Relation> {
        self.exchange.relation(Instant::now())
    }

    /// A time of the sender's clock by ours; `arrived` is when that frame came.
    fn by_our_clock(&mut self, captured: NtpTime, arrived: NtpTime) -> Option<NtpTime> {
        if let Some(relation) = self.relation() {
            self.is_wall = false;
            return Some(captured.plus(relation.offset.saturating_neg()));
        }
        let transit = arrived.since(captured);
        self.is_wall = (0..LONGEST_TRANSIT_NS).contains(&transit);
        self.is_wall.then_some(captured)
    }

    fn add(&mut self, now: Instant, times: &Times, decoded: NtpTime, qos: bool) {
        let parts = &mut self.parts;
        let mut sent = times.captured;
        if let Some((coded, at)) = times.sender {
            parts.encode.push(now, coded);
            parts.pacer.push(now, at - coded.min(at));
            sent = sent.map(|captured| captured.plus(at as i64));
        }
        if let Some(sent) = sent {
            parts.network.push(now, between(sent, times.arrived));
        }
        parts
            .jitter_buffer
            .push(now, between(times.arrived, times.left));
        parts.decode.push(now, between(times.left, decoded));
        if let Some(captured) = times.captured.filter(|_| !qos) {
            parts.total.push(now, between(captured, decoded));
        }
    }

    /// The sink has shown the picture with this time stamp.
    fn on_shown(&mut self, stamp: gst::ClockTime, now: NtpTime) {
        let time = Instant::now();
        self.qos = Some(time);
        let stamp = stamp.nseconds();
        let is_it = |(pts, ..): &(u64, _, _)| pts.abs_diff(stamp) < SAME_NS;
        let Some(at) = self.decoded.iter().position(is_it) else {
            return;
        };
        let Some((_, captured, decoded)) = self.decoded.drain(..=at).next_back() else {
            return;
        };
        self.parts.render.push(time, between(decoded, now));
        if let Some(captured) = captured {
            self.parts.total.push(time, between(captured, now));
        }
    }

    fn structure(&mut self, now: Instant) -> gst::Structure {
        let relation = self.relation();
        let clock = match relation {
            Some(_) => "rtcp",
            None if self.is_wall => "wall",
            None => "none",
        };
        let mut s = gst::Structure::builder(NAME)
            .field("frames", self.frames)
            .field("clock", clock)
            .field("clock-offset", relation.map_or(0, |r| r.offset))
            .build();
        if let Some(relation) = relation {
            s.set("clock-error", relation.round_trip / 2);
            s.set("round-trip", relation.round_trip);
        }
        let Parts {
            encode,
            pacer,
            network,
            jitter_buffer,
            decode,
            render,
            total,
        } = &mut self.parts;
        let parts = [
            ("encode", encode),
            ("pacer", pacer),
            ("network", network),
            ("jitter-buffer", jitter_buffer),
            ("decode", decode),
            ("render", render),
            ("total", total),
        ];
        latency::add_parts(&mut s, now, parts);
        s
    }
}
