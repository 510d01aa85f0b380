// SPDX-License-Identifier: MPL-2.0
//! What lives from READY to PAUSED and back.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dualstream_common::Timestamp;
use jitterbuffer_core::{
    Begin, DecodeMeter, ExtTimestamp, JitterBuffer, LONGEST_DELAY, Next, NextRequest, Presentation,
    Source, Way,
};

use super::group::{Shared, lock};
use super::intake::{self, Format};
use super::outlet;
use super::reports::{self, Position, SenderReport};
use super::settings::Settings;

/// Payload types there are.
const MOST_FORMATS: usize = 128;
/// Events that wait for packets before them; if there are more, these go at
/// once.
const MOST_EVENTS: usize = 64;
/// What is taken at once by the streaming thread.
const MOST_WORK: usize = 64;

/// What the streaming thread does without the lock.
pub enum Work {
    Buffer(gst::Buffer),
    Event(gst::Event),
    Upstream(gst::Event),
    /// There is a new latency to be told.
    Latency,
}

/// What a thread is waiting for.
#[derive(Default)]
pub struct Wait {
    /// Until when, by the clock.
    pub clock: Option<(Timestamp, gst::SingleShotClockId)>,
    /// Until there is something to do.
    pub idle: bool,
}

/// How to wake a thread: without the lock, which it takes at once.
#[derive(Default)]
#[must_use]
pub struct Wake {
    pub clock: Option<gst::SingleShotClockId>,
    pub idle: bool,
}

impl Wait {
    pub fn wake(&mut self) -> Wake {
        Wake {
            clock: self.clock.take().map(|(_, id)| id),
            idle: std::mem::take(&mut self.idle),
        }
    }

    /// The same, if there is something to do before it wakes anyway.
    pub fn wake_for(&mut self, due: Option<Timestamp>) -> Wake {
        let sooner = match (&self.clock, due) {
            (Some((until, _)), Some(due)) => due < *until,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if sooner { self.wake() } else { Wake::default() }
    }
}

/// Counts of what the core does not see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub malformed: u64,
    pub no_clock_rate: u64,
    pub other_source: u64,
}

/// What became of a packet.
pub enum Taken {
    Yes,
    /// It is counted; the number of its kind.
    No(&'static str, u64),
}

pub struct State {
    pub settings: Settings,
    pub timing: Shared,
    pub buffer: Option<JitterBuffer<gst::Buffer>>,
    /// By payload type; `None`: there is nothing to be known.
    formats: HashMap<u8, Option<Format>>,
    /// Of caps without a payload type.
    any_format: Option<Format>,
    has_recovered: bool,
    source: Source,
    /// Of the last packet.
    pub last: Option<(u8, u32)>,
    last_arrival: Timestamp,
    clock_base: Option<u32>,
    extended: ExtTimestamp,
    last_extended: u64,
    /// Waits until it can be told where the stream is.
    report: Option<(SenderReport, gst::Buffer)>,
    presentation: Presentation,
    epoch: u64,
    /// The latency that was answered last.
    answered: Duration,
    /// Of the pipeline, from its last LATENCY event.
    pipeline_latency: Duration,
    meter: DecodeMeter,
    /// With what has to leave before them.
    events: VecDeque<((u64, u64), gst::Event)>,
    pub segment: gst::FormattedSegment<gst::ClockTime>,
    pub segment_sent: bool,
    pub flushing: bool,
    pub flow: Result<gst::FlowSuccess, gst::FlowError>,
    pub eos_in: bool,
    /// Of streams, on their way out.
    pub ends: u32,
    pub out: Wait,
    pub asking: Wait,
    pub counts: Counts,
}

impl State {
    pub fn new(settings: Settings, timing: Shared) -> Self {
        Self {
            settings,
            timing,
            buffer: None,
            formats: HashMap::new(),
            any_format: None,
            has_recovered: intake::has_recovered(),
            source: Source::default(),
            last: None,
            last_arrival: Timestamp::ZERO,
            clock_base: None,
            extended: ExtTimestamp::default(),
            last_extended: 0,
            report: None,
            presentation: Presentation::default(),
            epoch: 0,
            answered: Duration::ZERO,
            pipeline_latency: Duration::ZERO,
            meter: DecodeMeter::default(),
            events: VecDeque::new(),
            segment: gst::FormattedSegment::new(),
            segment_sent: false,
            flushing: true,
            flow: Ok(gst::FlowSuccess::Ok),
            eos_in: false,
            ends: 0,
            out: Wait::default(),
            asking: Wait::default(),
            counts: Counts::default(),
        }
    }

    /// Drops what is held, as after a flush.
    pub fn empty(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.flush(&mut lock(&self.timing));
        }
        self.events.clear();
        self.presentation.restart();
        self.extended = ExtTimestamp::default();
        self.report = None;
        self.segment_sent = false;
        self.eos_in = false;
        self.ends = 0;
        self.flow = Ok(gst::FlowSuccess::Ok);
    }

    /// The application has changed something.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
        let done = lock(&self.timing).configure(self.settings.model.into(), self.settings.timing());
        // Properties have no values that are not valid.
        debug_assert!(done.is_ok(), "{done:?}");
        if let (Some(buffer), Some((pt, _))) = (&mut self.buffer, self.last)
            && let Some(format) = self.formats.get(&pt).copied().flatten().or(self.any_format)
        {
            buffer.configure(self.settings.buffer(&format));
        }
    }

    pub fn learn_caps(&mut self, caps: &gst::CapsRef) {
        let format = Format::parse(caps);
        let payload = caps
            .structure(0)
            .and_then(|s| s.get::<i32>("payload").ok())
            .and_then(|pt| u8::try_from(pt).ok());
        match payload {
            Some(pt) if format.is_some() => self.learn(pt, format),
            Some(_) => (),
            None => self.any_format = format.or(self.any_format),
        }
    }

    pub fn learn(&mut self, pt: u8, format: Option<Format>) {
        if self.formats.len() < MOST_FORMATS || self.formats.contains_key(&pt) {
            self.formats.insert(pt, format);
        }
    }

    pub fn clear_formats(&mut self) {
        self.formats.clear();
    }

    /// Whether somebody has to be asked what this payload type is.
    pub fn is_unknown(&self, pt: u8) -> bool {
        self.any_format.is_none() && !self.formats.contains_key(&pt)
    }

    pub fn running_time(&self, time: Option<gst::ClockTime>) -> Option<Timestamp> {
        let time = match self.segment.to_running_time_full(time?)? {
            gst::Signed::Positive(time) => time,
            gst::Signed::Negative(_) => gst::ClockTime::ZERO,
        };
        Some(Timestamp::from_nanos(time.nseconds()))
    }

    /// A packet came in.
    pub fn take(&mut self, now: Timestamp, pt: u8, ssrc: u32, data: gst::Buffer) -> Taken {
        let time = data.dts().or(data.pts());
        let arrival = self.running_time(time).unwrap_or(now);
        if !self.source.accept(arrival, ssrc) {
            self.counts.other_source += 1;
            return Taken::No("of another SSRC", self.counts.other_source);
        }
        let format = self.formats.get(&pt).copied().flatten().or(self.any_format);
        let Some(format) = format else {
            self.counts.no_clock_rate += 1;
            return Taken::No(
                "of a payload type without clock rate",
                self.counts.no_clock_rate,
            );
        };
        if !self.has_recovered && self.settings.do_retransmission {
            self.has_recovered = intake::has_recovered();
        }
        let Some((packet, wish)) = intake::packet(data, &format, self.has_recovered) else {
            self.counts.malformed += 1;
            return Taken::No("that is malformed", self.counts.malformed);
        };
        // An FEC decoder gives what it made the time of what it made it from.
        let arrival = match packet.origin {
            jitterbuffer_core::Origin::Fec => arrival.max(self.last_arrival),
            _ => arrival,
        };
        self.last_arrival = self.last_arrival.max(arrival);
        self.last = Some((pt, ssrc));
        self.clock_base = format.clock_base.or(self.clock_base);
        let mut timing = lock(&self.timing);
        if let Some(wish) = wish {
            timing.wish(wish);
        }
        let config = self.settings.buffer(&format);
        let is_other = |old: &JitterBuffer<_>| {
            (old.config().clock_rate, old.config().assembly) != (config.clock_rate, config.assembly)
        };
        let buffer = match &mut self.buffer {
            Some(buffer) => {
                if is_other(buffer) {
                    buffer.reform(arrival, config, &mut timing);
                    self.extended = ExtTimestamp::default();
                    self.last_extended = 0;
                }
                buffer
            }
            none => none.insert(JitterBuffer::new(config, &mut timing)),
        };
        let rtp = packet.timestamp;
        match buffer.push(arrival, packet, &mut timing) {
            Ok(()) => {
                self.last_extended = self.extended.extend(rtp).max(self.last_extended);
                Taken::Yes
            }
            Err(jitterbuffer_core::Rejected::Late) => {
                Taken::No("that is late", buffer.stats().late)
            }
            Err(jitterbuffer_core::Rejected::Duplicate) => {
                Taken::No("that is there already", buffer.stats().duplicates)
            }
            Err(jitterbuffer_core::Rejected::Astray) => {
                Taken::No("that does not fit the stream", buffer.stats().astray)
            }
        }
    }

    pub fn queue_event(&mut self, event: gst::Event) {
        if self.events.len() >= MOST_EVENTS {
            for (barrier, _) in &mut self.events {
                *barrier = (0, 0);
            }
        }
        let end = self.buffer.as_ref().map(JitterBuffer::end);
        self.events.push_back((end.unwrap_or_default(), event));
    }

    /// All that is held goes, then this.
    pub fn finish(&mut self, now: Timestamp, eos: gst::Event) {
        self.eos_in = true;
        self.ends += 1;
        if let Some(buffer) = &mut self.buffer {
            buffer.drain(now);
        }
        self.queue_event(eos);
    }

    /// When the streaming thread has something to do.
    pub fn out_due(&self) -> Option<Timestamp> {
        if !self.events.is_empty() {
            return Some(Timestamp::ZERO);
        }
        self.buffer.as_ref()?.due(&lock(&self.timing))
    }

    pub fn asking_due(&self) -> Option<Timestamp> {
        self.buffer.as_ref()?.request_due()
    }

    /// What leaves at `now`; with nothing: until when.
    pub fn work(&mut self, now: Timestamp, work: &mut VecDeque<Work>) -> Option<Timestamp> {
        let timing = self.timing.clone();
        let mut timing = lock(&timing);
        let mut until = None;
        while work.len() < MOST_WORK {
            if let Some(event) = self.next_event() {
                work.push_back(Work::Event(event));
                continue;
            }
            let Some(buffer) = &mut self.buffer else {
                break;
            };
            match buffer.poll(now, &timing) {
                Next::Packet(out) => {
                    if out.epoch != self.epoch {
                        self.epoch = out.epoch;
                        self.presentation.restart();
                    }
                    let stamp = self.presentation.stamp(out.timestamp, out.render);
                    if let Some(begin) = out.begin {
                        let idle = timing.leaves(now, stamp + self.pipeline_latency);
                        if begin == Begin::Whole {
                            self.meter.pushed(now, stamp, idle);
                        }
                    }
                    let pts = outlet::shifted(stamp, self.settings.ts_offset);
                    work.push_back(Work::Buffer(outlet::stamp(out.data, pts, out.discont)));
                }
                Next::Lost(lost) if self.settings.do_lost => {
                    let stamp = self.presentation.plain(lost.render);
                    let pts = outlet::shifted(stamp, self.settings.ts_offset);
                    work.extend(outlet::lost_events(&lost, pts).map(Work::Event));
                }
                Next::Lost(_) => (),
                Next::AskForKeyFrame => {
                    work.push_back(Work::Upstream(outlet::key_frame_event(self.last)));
                }
                Next::WaitUntil(at) => {
                    until = Some(at);
                    break;
                }
                Next::Idle => break,
            }
        }
        if !work.is_empty() && timing.update_latency(now) {
            work.push_back(Work::Latency);
        }
        until
    }

    fn next_event(&mut self) -> Option<gst::Event> {
        let begin = match &self.buffer {
            Some(buffer) => buffer.begin(),
            None => (u64::MAX, u64::MAX),
        };
        let (barrier, _) = self.events.front()?;
        if *barrier > begin {
            return None;
        }
        self.events.pop_front().map(|(_, event)| event)
    }

    /// What to ask for at `now`; else until when there is nothing.
    pub fn next_request(&mut self, now: Timestamp) -> Result<gst::Event, Option<Timestamp>> {
        let Some(buffer) = &mut self.buffer else {
            return Err(None);
        };
        match buffer.next_request(now, &lock(&self.timing)) {
            NextRequest::Ask(request) => {
                let rtt = buffer.stats().rtt;
                Ok(outlet::request_event(&request, now, rtt))
            }
            NextRequest::WaitUntil(at) => Err(Some(at)),
            NextRequest::Idle => Err(None),
        }
    }

    /// Shares this from now on, if nothing has come yet.
    pub fn join(&mut self, timing: Shared) {
        if self.buffer.is_none() {
            self.timing = timing;
        }
    }

    /// What is answered to LATENCY queries.
    pub fn answer_latency(&mut self) -> Duration {
        self.answered = lock(&self.timing).latency();
        self.answered
    }

    /// The pipeline has a new latency, with what was answered in it.
    pub fn apply_latency(&mut self, latency: gst::ClockTime) {
        let before = self.pipeline_latency;
        self.pipeline_latency = Duration::from_nanos(latency.nseconds());
        if self.pipeline_latency != before {
            self.meter.forget();
            let longer = self.pipeline_latency.saturating_sub(before);
            lock(&self.timing).delayed(longer);
        }
        // Nobody asked us, if it is less than what we said.
        let part = self.answered.min(self.pipeline_latency);
        self.presentation.set_part(part);
    }

    /// The sink got a frame with this time stamp, so much later than it is to
    /// be shown.
    pub fn quality(&mut self, now: Timestamp, stamp: gst::ClockTime, diff: i64) {
        let longest = LONGEST_DELAY.as_nanos() as i64;
        let shown = Timestamp::from_nanos(stamp.nseconds()) + self.pipeline_latency;
        let diff = diff.clamp(-longest, longest);
        let arrival = Timestamp::from_nanos(shown.as_nanos().saturating_add_signed(diff));
        let stamp = outlet::shifted(
            Timestamp::from_nanos(stamp.nseconds()),
            self.settings.ts_offset.saturating_neg(),
        );
        let stamp = Timestamp::from_nanos(stamp.nseconds());
        match self.meter.arrived(stamp, arrival) {
            Some(Way::Took(took)) => lock(&self.timing).decoded(now, took),
            Some(Way::Unknown) => lock(&self.timing).unmeasured(arrival, shown),
            None => {}
        }
    }

    pub fn set_report(&mut self, report: SenderReport, buffer: gst::Buffer) {
        self.report = Some((report, buffer));
    }

    /// For the signal `handle-sync`, if a report came and the stream has begun.
    pub fn next_report(&mut self) -> Option<gst::Structure> {
        let (report, _) = self.report.as_ref()?;
        let buffer = self.buffer.as_ref()?;
        let clock_rate = buffer.config().clock_rate;
        let render = {
            let timing = lock(&self.timing);
            let plan = timing.plan(buffer.stream(), report.rtp)?;
            timing.render(buffer.stream(), report.rtp, plan.playout)
        };
        let mut extended = self.extended;
        let ext = extended.extend(report.rtp);
        let ahead = ext.saturating_sub(self.last_extended);
        let limit = u64::try_from(self.settings.max_rtcp_ahead_ms).ok();
        let is_far = limit.is_some_and(|ms| ahead > ms * u64::from(clock_rate) / 1000);
        let position = Position {
            ext_rtp: (!is_far).then_some(ext),
            base_rtp: ext,
            base_time: self.presentation.plain(render).as_nanos(),
            clock_rate,
            clock_base: self.clock_base,
        };
        let (report, buffer) = self.report.take()?;
        Some(reports::structure(&report, &buffer, &position))
    }

    pub fn stats(&self) -> gst::Structure {
        let core = self.buffer.as_ref().map(JitterBuffer::stats);
        let core = core.unwrap_or_default();
        let timing = lock(&self.timing);
        let frames = timing.stats();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let per_packet = if core.retransmitted > 0 {
            core.retransmitted_requests as f64 / core.retransmitted as f64
        } else {
            0.0
        };
        gst::Structure::builder("application/x-rtp-jitterbuffer-stats")
            .field("num-pushed", core.pushed)
            .field("num-lost", core.lost)
            .field("num-hopeless", core.hopeless)
            .field("num-late", core.late)
            .field("num-duplicates", core.duplicates)
            .field("avg-jitter", nanos(core.jitter))
            .field("rtx-count", core.requests)
            .field("rtx-success-count", core.retransmitted)
            .field("rtx-per-packet", per_packet)
            .field("rtx-rtt", nanos(core.rtt.unwrap_or_default()))
            .field("fec-count", core.fec_repaired)
            .field("num-received", core.received)
            .field("num-reordered", core.reordered)
            .field("num-dropped", core.dropped)
            .field("num-undecodable", core.undecodable)
            .field("num-astray", core.astray)
            .field("num-other-ssrc", self.counts.other_source)
            .field("num-malformed", self.counts.malformed)
            .field("num-no-clock-rate", self.counts.no_clock_rate)
            .field("restarts", core.restarts)
            .field("key-frame-requests", core.key_requests)
            .field("held-packets", core.held_packets as u64)
            .field("held-bytes", core.held_bytes)
            .field("frames", frames.frames)
            .field("late-frames", frames.late_frames)
            .field("target", nanos(timing.target()))
            .field("delay", nanos(frames.delay))
            .field("decode-time", nanos(frames.decode))
            .field("latency", nanos(timing.latency()))
            .build()
    }
}
