// SPDX-License-Identifier: MPL-2.0
//! The private elements inside `dualh264enc` that all data passes:
//!
//! ```text
//!               ┌ raw_0 ─> queue ─> Feeder ─> encoder ─> coded_0 ┐           ┌ src_0
//! sink ─ Router ┤                                                ├ Collector ┤
//!               └ raw_1 ─> queue ─> Feeder ─> encoder ─> coded_1 ┘           └ src_1
//! ```
//!
//! The router asks the core what to do with each picture, tags the pictures
//! and hands them to the encoders. The collector gives what comes out, and
//! the events from outside, back to the router. They are two elements because
//! a bin's graph must have no loop.

use super::look::Look;
use crate::encoders::Format;
use crate::meta;
use dualstream_common::{Bitrate, DataSize, Timestamp};
use dualstream_core::quantiser::QuantiserReader;
use dualstream_core::sender::{
    Coded, Coding, Config, Due, EncoderRate, Feedback, GroupAccount, RateChange, RateGate, Seen,
    Sender, Wanted,
};
use dualstream_core::wire::{FrameTag, Stream};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::collections::VecDeque;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What the router needs of the bin around it. No lock of the router is held
/// when these are called.
pub trait Owner: Send + Sync {
    /// The pad of the second stream is linked, and there is an encoder for it.
    fn second_usable(&self) -> bool;
    /// A format is known, and with the first one the encoders can be set up.
    fn format(&self, format: Format, first: bool);
    /// `key`: for a key frame.
    fn set_rate(&self, stream: Stream, rate: EncoderRate, key: bool);
    fn force_key(&self, stream: Stream) -> bool;
    /// Puts a new encoder in place of the idle one of `stream`, if its kind
    /// needs that for a key frame of full size or for another rate.
    fn renew(&self, stream: Stream, rate: EncoderRate);
    /// Puts another encoder in place of the one of `stream`. False: there is
    /// none left that works.
    fn fail_over(&self, stream: Stream, rate: EncoderRate, failure: &Failure) -> bool;
    /// The display stream, the target rate or the number of streams changed.
    fn notify(&self, what: &'static str);
}

/// Why an encoder cannot stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    Error(String),
    /// Pictures go in and nothing comes out.
    Stall,
    /// It does not take the format.
    Refusal,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(reason) => f.write_str(reason),
            Self::Stall => write!(f, "no output for {STALL} pictures"),
            Self::Refusal => f.write_str("the format is refused"),
        }
    }
}

glib::wrapper! {
    pub struct Router(ObjectSubclass<imp::Router>) @extends gst::Element, gst::Object;
}

impl Router {
    pub fn new() -> Self {
        glib::Object::builder().property("name", "router").build()
    }

    /// Once, before any data; a second call changes nothing.
    pub fn set_up(&self, owner: Box<dyn Owner>, coded: [gst::Pad; 2], src: [gst::Pad; 2]) {
        let imp = self.imp();
        let _ = imp.owner.set(owner);
        let _ = imp.coded.set(coded);
        let _ = imp.src.set(src);
    }
}

/// Counters beside the core's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub display_frames: u64,
    pub display_bytes: u64,
    pub largest_display_frame: u64,
    pub background_frames: u64,
    pub background_bytes: u64,
    pub largest_background_frame: u64,
    pub unexpected_key_frames: u64,
    pub encoder_calls: u64,
    /// Frames that were pushed out and taken.
    pub frames_left: u64,
    pub bad_events: u64,
    /// Pictures that went down with an encoder.
    pub pictures_lost: u64,
}

/// A picture that was handed to an encoder and has not left this element.
struct Pending {
    coding: Coding,
    since: Timestamp,
}

/// An encoder that swallowed a picture does not block the standby for longer.
const SWALLOWED: Duration = Duration::from_secs(5);
/// At a switch the former display stream's last pictures get this long to
/// leave before the first one of the new display stream is coded.
const HAND_OVER: Duration = Duration::from_millis(250);
/// An encoder that has so many pictures and gives none back has stalled: 0.4 s
/// at 30 frames per second. Hardware keeps up to four, its queue holds two.
const STALL: usize = 12;
/// Pictures on their way through one encoder. With one in and one out there
/// are as many as its queue holds; more are forgotten, oldest first.
const MAX_PENDING: usize = 64;

struct State {
    core: Sender,
    dual_wanted: bool,
    /// Of what an estimator may ask for.
    bounds: (Bitrate, Bitrate),
    segment: gst::FormattedSegment<gst::ClockTime>,
    format: Option<Format>,
    caps: Option<gst::Caps>,
    /// Running time of the newest picture, and the clock's at that moment.
    last_picture: Option<(Timestamp, Option<Timestamp>)>,
    pending: [VecDeque<Pending>; 2],
    pushing: [bool; 2],
    /// What each encoder is set to, and when that changes.
    gates: [RateGate; 2],
    /// Of encoders that share out bits over groups of pictures.
    accounts: [Option<GroupAccount>; 2],
    /// What became of the last frame pushed out on each stream.
    flows: [Result<gst::FlowSuccess, gst::FlowError>; 2],
    background_rate: Option<Bitrate>,
    traffic: Traffic,
}

impl Default for State {
    fn default() -> Self {
        Self {
            core: Sender::new(Config::default()).expect("the defaults are valid"),
            dual_wanted: true,
            bounds: (Bitrate::from_bps(1), Bitrate::from_bps(u64::MAX)),
            segment: gst::FormattedSegment::new(),
            format: None,
            caps: None,
            last_picture: None,
            pending: Default::default(),
            pushing: [false; 2],
            gates: [RateGate::default(); 2],
            accounts: [None, None],
            flows: [Ok(gst::FlowSuccess::Ok); 2],
            background_rate: None,
            traffic: Traffic::default(),
        }
    }
}

impl State {
    /// What to tell the encoder of `stream`, of which `asked` is wanted.
    fn told(
        &mut self,
        stream: Stream,
        asked: EncoderRate,
        key: bool,
        seen: Option<Seen>,
    ) -> EncoderRate {
        let Some(account) = &mut self.accounts[stream.index()] else {
            return asked;
        };
        let bitrate = account.next(Due {
            asked,
            target: self.core.config().target,
            key,
            alone: self.core.single().is_some(),
            seen,
        });
        EncoderRate { bitrate, ..asked }
    }

    fn free(&self, stream: Stream, now: Timestamp) -> bool {
        let i = stream.index();
        !self.pushing[i]
            && self.pending[i]
                .iter()
                .all(|p| now.since(p.since) > SWALLOWED)
    }
}

fn timestamp(time: gst::ClockTime) -> Timestamp {
    Timestamp::from_nanos(time.nseconds())
}

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dualh264enc",
        gst::DebugColorFlags::empty(),
        Some("Dual-stream H.264 encoder"),
    )
});

pub mod imp {
    use super::*;

    pub struct Router {
        pub sink: gst::Pad,
        pub raw: [gst::Pad; 2],
        /// The collector's pads.
        pub(super) coded: OnceLock<[gst::Pad; 2]>,
        pub(super) src: OnceLock<[gst::Pad; 2]>,
        pub(super) owner: OnceLock<Box<dyn Owner>>,
        state: Mutex<State>,
        /// Each used by its encoder's thread only; never locked with `state`.
        quantisers: [Mutex<QuantiserReader>; 2],
        /// The same.
        looks: [Mutex<Look>; 2],
        /// Notified when a frame has left.
        left: Condvar,
    }

    impl Router {
        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn coded_pad(&self, stream: Stream) -> Option<&gst::Pad> {
            Some(&self.coded.get()?[stream.index()])
        }

        fn owner(&self) -> Result<&dyn Owner, gst::FlowError> {
            self.owner
                .get()
                .map(AsRef::as_ref)
                .ok_or(gst::FlowError::Error)
        }

        /// Back to the beginning, with the same configuration.
        pub fn reset(&self) {
            let mut state = self.state();
            let config = *state.core.config();
            let (dual_wanted, bounds) = (state.dual_wanted, state.bounds);
            *state = State {
                dual_wanted,
                bounds,
                ..State::default()
            };
            if let Err(err) = state.core.set_config(config) {
                gst::error!(CAT, imp = self, "{err}");
            }
            drop(state);
            for i in 0..self.looks.len() {
                *self.look(i) = Look::default();
            }
        }

        pub fn configure(
            &self,
            dual: bool,
            bounds: (Bitrate, Bitrate),
            change: impl FnOnce(&mut Config),
        ) {
            let mut state = self.state();
            state.dual_wanted = dual;
            state.bounds = bounds;
            let mut config = *state.core.config();
            change(&mut config);
            if let Err(err) = state.core.set_config(config) {
                gst::error!(CAT, imp = self, "{err}");
            }
        }

        pub fn target(&self) -> Bitrate {
            self.state().core.config().target
        }

        pub fn display(&self) -> Stream {
            self.state().core.display()
        }

        pub fn snapshot<T>(&self, read: impl FnOnce(&Sender, &Traffic) -> T) -> T {
            let state = self.state();
            read(&state.core, &state.traffic)
        }

        fn clock_time(&self) -> Option<Timestamp> {
            self.obj().current_running_time().map(timestamp)
        }

        /// Now on the pictures' time line: the newest picture's running time
        /// plus what the clock says has passed since.
        fn now(&self, state: &State) -> Timestamp {
            let clock = self.clock_time();
            match (state.last_picture, clock) {
                (Some((picture, Some(then))), Some(now)) => picture + now.since(then),
                (Some((picture, None)), _) | (Some((picture, _)), None) => picture,
                (None, Some(now)) => now,
                (None, None) => Timestamp::ZERO,
            }
        }

        fn picture_time(&self, state: &mut State, buffer: &gst::BufferRef) -> Timestamp {
            let running = buffer
                .pts()
                .and_then(|pts| state.segment.to_running_time(pts))
                .map(timestamp);
            let time = running.unwrap_or_else(|| self.now(state));
            state.last_picture = Some((time, self.clock_time()));
            time
        }

        fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
            let owner = self.owner()?;
            let usable = owner.second_usable();
            let (plan, switched, paired, rate) = {
                let mut state = self.state();
                if state.format.is_none() {
                    return Err(gst::FlowError::NotNegotiated);
                }
                let now = self.picture_time(&mut state, &buffer);
                let single = state.core.single();
                let dual = state.dual_wanted && usable;
                state.core.set_dual(dual);
                let display = state.core.display();
                let free = state.free(display.other(), now);
                let gate = &state.gates[display.index()];
                if gate.due(now, state.core.steady_rate()) {
                    state.core.request_new_rate();
                }
                let phase = state.core.phase();
                let plan = state.core.picture(now, free);
                if state.core.phase() != phase {
                    gst::debug!(
                        CAT,
                        imp = self,
                        "picture {}: {phase:?} to {:?}",
                        plan.number.low16(),
                        state.core.phase()
                    );
                }
                for coding in std::iter::once(plan.display).chain(plan.background) {
                    let pending = &mut state.pending[coding.tag.stream.index()];
                    if coding.tag.background && coding.tag.key {
                        pending.clear();
                    }
                    pending.push_back(Pending { coding, since: now });
                    while pending.len() > MAX_PENDING {
                        pending.pop_front();
                    }
                    state.traffic.encoder_calls += 1;
                }
                let changed = state.background_rate != Some(plan.background_rate);
                let of_use =
                    state.core.phase().in_flight() || plan.background_rate == Bitrate::ZERO;
                let rate = (plan.background.is_some() || changed && of_use)
                    .then_some(plan.background_rate);
                if rate.is_some() {
                    state.background_rate = rate;
                }
                let switched = state.core.display() != display;
                (plan, switched, state.core.single() != single, rate)
            };
            if let Some(rate) = rate {
                self.announce_background_rate(rate);
            }
            if switched {
                gst::info!(
                    CAT,
                    imp = self,
                    "picture {}: stream {} is the display stream",
                    plan.number.low16(),
                    plan.display.tag.stream.index()
                );
                self.finish(plan.display.tag.stream.other());
                owner.notify("display-stream");
            }
            if paired {
                owner.notify("streams");
            }
            let result = self.hand(&buffer, plan.display);
            if let Some(coding) = plan.background {
                if coding.tag.key {
                    owner.renew(coding.tag.stream, coding.rate);
                }
                // What becomes of the background is no reason to stop.
                if let Err(err) = self.hand(&buffer, coding) {
                    gst::debug!(CAT, imp = self, "standby: {err}");
                }
            }
            result
        }

        /// Waits until `stream` has handed on all it had, so that the two
        /// encoders, each in its own thread, do not swap pictures at a switch.
        /// Mostly it has.
        fn finish(&self, stream: Stream) {
            let i = stream.index();
            let (state, result) = self
                .left
                .wait_timeout_while(self.state(), HAND_OVER, |state| {
                    !state.pending[i].is_empty()
                })
                .unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if result.timed_out() {
                gst::warning!(
                    CAT,
                    imp = self,
                    "stream {i} is slow to hand on its pictures"
                );
            }
        }

        fn hand(
            &self,
            picture: &gst::Buffer,
            coding: Coding,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let mut buffer = picture.copy();
            meta::set(buffer.make_mut(), coding.tag);
            self.raw[coding.tag.stream.index()].push(buffer)
        }

        fn announce_background_rate(&self, rate: Bitrate) {
            let event = gst::event::CustomDownstreamOob::new(
                gst::Structure::builder("application/x-background-rate")
                    .field("bitrate", rate.as_bps())
                    .field("target-bitrate", self.target().as_bps())
                    .build(),
            );
            for src in self.src.get().into_iter().flatten() {
                src.push_event(event.clone());
            }
        }

        /// In the encoder's own thread, right before the picture goes in. Another
        /// picture is given if this one would be too large.
        pub fn before_encoding(&self, stream: Stream, buffer: &gst::Buffer) -> gst::Buffer {
            let (Some(tag), Ok(owner)) = (meta::of(buffer), self.owner()) else {
                return buffer.clone();
            };
            let i = stream.index();
            let caps = {
                let state = self.state();
                let looks = state.accounts[i].is_some() && state.core.single().is_some();
                state.caps.clone().filter(|_| looks)
            };
            let seen = match &caps {
                Some(caps) => {
                    self.differ(i, buffer, caps);
                    let seen = self.look(i).at(buffer, caps);
                    self.measure(i, buffer, caps);
                    seen
                }
                None => {
                    // What it knows would be old when it is asked again.
                    *self.look(i) = Look::default();
                    None
                }
            };
            let rate = {
                let mut state = self.state();
                let rate = state.pending[i]
                    .iter()
                    .find(|p| p.coding.tag == tag)
                    .map(|p| p.coding.rate)
                    .map(|rate| state.told(stream, rate, tag.key, seen));
                // The pictures' time alone: the clock may run apart from it.
                let now = state.last_picture.map_or(Timestamp::ZERO, |(time, _)| time);
                let wanted = rate.map(|rate| Wanted {
                    rate,
                    steady: state.core.steady_rate(),
                    key: tag.key,
                    alone: state.core.single().is_some(),
                });
                wanted.and_then(|wanted| state.gates[i].next(now, wanted))
            };
            if let Some(rate) = rate {
                gst::log!(CAT, imp = self, "stream {i}: {rate:?}");
                owner.set_rate(stream, rate, tag.key);
            }
            if tag.key && !owner.force_key(stream) {
                gst::warning!(CAT, imp = self, "the encoder refused to make a key frame");
            }
            let Some(caps) = caps else {
                return buffer.clone();
            };
            let (part, held) = match &self.state().accounts[i] {
                Some(account) => (account.fading(), account.held().to_vec()),
                None => (0.0, Vec::new()),
            };
            let given = self.look(i).given(buffer, &caps, part, &held);
            if part > 0.0 || !held.is_empty() {
                let held = held.len();
                gst::debug!(CAT, imp = self, "stream {i}: {part:.2} left, {held} let be");
                self.differ(i, &given, &caps);
            }
            self.look(i).goes(&given);
            given
        }

        /// Tells the account what the macroblocks of the next picture would cost.
        fn measure(&self, i: usize, buffer: &gst::Buffer, caps: &gst::Caps) {
            let finest = self.state().accounts[i].as_ref().map(GroupAccount::finest);
            let costs = finest.and_then(|finest| self.look(i).costs(buffer, caps, finest));
            if let Some(account) = &mut self.state().accounts[i] {
                account.measured(costs.unwrap_or_default());
            }
        }

        /// Tells the account how much the next picture differs from the one before.
        fn differ(&self, i: usize, buffer: &gst::Buffer, caps: &gst::Caps) {
            let rows = self.look(i).differences(buffer, caps).unwrap_or_default();
            if let Some(account) = &mut self.state().accounts[i] {
                account.differ(&rows);
            }
        }

        fn look(&self, i: usize) -> MutexGuard<'_, Look> {
            self.looks[i].lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// A new encoder was put in place, set to `rate` if it is known.
        pub fn renewed(
            &self,
            stream: Stream,
            change: RateChange,
            rate: Option<EncoderRate>,
            account: Option<GroupAccount>,
        ) {
            *self.look(stream.index()) = Look::default();
            let mut state = self.state();
            state.accounts[stream.index()] = account;
            state.gates[stream.index()] = match state.last_picture {
                Some((now, _)) => RateGate::made(now, change, rate),
                None => RateGate::new(change, rate),
            };
        }

        /// What to start an encoder with whose next frame is to fit `rate`.
        pub fn start_rate(&self, change: RateChange, rate: EncoderRate) -> EncoderRate {
            RateGate::start(change, rate, self.state().core.steady_rate())
        }

        /// The rate of the pictures to come, on the whole.
        pub fn steady_rate(&self) -> EncoderRate {
            self.state().core.steady_rate()
        }

        /// Of the pictures that come in, once they are known.
        pub fn caps(&self) -> Option<gst::Caps> {
            self.state().caps.clone()
        }

        pub fn stalls(&self, stream: Stream) -> bool {
            let state = self.state();
            let i = stream.index();
            state.pending[i].len() > STALL && !state.pushing[i]
        }

        /// An error that the encoder returned is its own, and not that of what
        /// comes behind this element.
        pub fn is_of_encoder(&self, stream: Stream, error: gst::FlowError) -> bool {
            !matches!(error, gst::FlowError::Flushing | gst::FlowError::Eos)
                && self.state().flows[stream.index()].is_ok()
        }

        /// Another encoder takes over with this picture, as a key frame.
        pub fn fail_over(
            &self,
            stream: Stream,
            mut picture: gst::Buffer,
            failure: Failure,
        ) -> Option<gst::Buffer> {
            let owner = self.owner().ok()?;
            let tag = meta::of(&picture);
            let i = stream.index();
            let (rate, lost) = {
                let mut state = self.state();
                let pending = &mut state.pending[i];
                // Those before it are lost with the old encoder.
                let at = pending.iter().position(|p| Some(p.coding.tag) == tag);
                let lost = at.unwrap_or(pending.len());
                pending.drain(..lost);
                let rate = pending.front_mut().map(|p| {
                    p.coding.tag.key = true;
                    p.coding.rate
                });
                state.traffic.pictures_lost += lost as u64;
                (rate.unwrap_or_else(|| state.core.steady_rate()), lost)
            };
            if !owner.fail_over(stream, rate, &failure) {
                return None;
            }
            if let Some(tag) = tag {
                meta::set(picture.make_mut(), FrameTag { key: true, ..tag });
            }
            let mut state = self.state();
            let now = self.now(&state);
            state.core.encoder_replaced(now, stream, lost > 0);
            drop(state);
            self.left.notify_all();
            Some(picture)
        }

        pub fn coded_chain(
            &self,
            stream: Stream,
            src: &gst::Pad,
            mut buffer: gst::Buffer,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let i = stream.index();
            let key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
            let size = buffer.size() as u64;
            let kept = self.state().accounts[i].is_some();
            let (quantiser, macroblocks) = buffer.map_readable().map_or((None, None), |data| {
                let mut reader = self.quantisers[i]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let quantiser = reader.read(&data);
                let read = kept && !key;
                (quantiser, read.then(|| reader.macroblocks(&data)).flatten())
            });
            let tag = {
                let mut state = self.state();
                // An encoder that does not carry metas is matched by order:
                // one in, one out.
                let tag = meta::of(&buffer)
                    .filter(|tag| tag.stream == stream)
                    .or_else(|| state.pending[i].front().map(|p| p.coding.tag));
                let Some(tag) = tag else {
                    gst::warning!(CAT, imp = self, "dropping a frame that nobody asked for");
                    return Ok(gst::FlowSuccess::Ok);
                };
                if key && !tag.key {
                    state.traffic.unexpected_key_frames += 1;
                }
                if let Some(account) = &mut state.accounts[i] {
                    account.coded(Coded {
                        size: DataSize::from_bytes(size),
                        quantiser,
                        key,
                        macroblocks: macroblocks.as_ref().map(|(all, width)| (&all[..], *width)),
                    });
                }
                let traffic = &mut state.traffic;
                let (frames, bytes, largest) = if tag.background {
                    (
                        &mut traffic.background_frames,
                        &mut traffic.background_bytes,
                        &mut traffic.largest_background_frame,
                    )
                } else {
                    (
                        &mut traffic.display_frames,
                        &mut traffic.display_bytes,
                        &mut traffic.largest_display_frame,
                    )
                };
                *frames += 1;
                *bytes += size;
                *largest = size.max(*largest);
                state
                    .core
                    .coded(stream, tag.number, DataSize::from_bytes(size), quantiser);
                state.pushing[i] = true;
                FrameTag { key, ..tag }
            };
            meta::set(buffer.make_mut(), tag);
            gst::log!(CAT, imp = self, "{tag:?}: {size} bytes");
            let unit = kept.then(|| buffer.clone());
            let result = match src.push(buffer) {
                Err(gst::FlowError::NotLinked) if tag.background => Ok(gst::FlowSuccess::Ok),
                result => result,
            };
            {
                let mut state = self.state();
                state.pushing[i] = false;
                state.flows[i] = result;
                state.traffic.frames_left += 1;
                let now = self.now(&state);
                state.core.sent(now, stream, tag.number);
                let pending = &mut state.pending[i];
                if let Some(at) = pending
                    .iter()
                    .position(|p| p.coding.tag.number == tag.number)
                {
                    pending.drain(..=at);
                }
            }
            self.left.notify_all();
            if let Some(unit) = unit {
                // Once it is on its way, so that it does not wait for this.
                let caps = self.coded.get().and_then(|pads| pads[i].current_caps());
                self.look(i).coded(&unit, caps);
            }
            result
        }

        fn sink_event(&self, event: gst::Event) -> bool {
            use gst::EventView;
            match event.view() {
                EventView::Caps(caps) if !self.new_caps(caps.caps()) => return false,
                EventView::Segment(segment) => {
                    let Ok(segment) = segment.segment().clone().downcast::<gst::format::Time>()
                    else {
                        gst::element_imp_error!(
                            self,
                            gst::CoreError::Event,
                            ("Only segments in time format are supported")
                        );
                        return false;
                    };
                    self.state().segment = segment;
                }
                EventView::StreamStart(start) => return self.start_streams(start),
                EventView::FlushStop(_) => {
                    let mut state = self.state();
                    state.core.restart();
                    state.pending = Default::default();
                    state.flows = [Ok(gst::FlowSuccess::Ok); 2];
                    state.last_picture = None;
                }
                EventView::CustomDownstream(_) if gst_video::ForceKeyUnitEvent::is(&event) => {
                    gst::info!(CAT, imp = self, "the application wants a key frame");
                    self.state().core.request_refresh();
                    return true;
                }
                _ => {}
            }
            // Both encoders see each event; with one is enough.
            let mut done = false;
            for raw in &self.raw {
                done |= raw.push_event(event.clone());
            }
            done
        }

        fn start_streams(&self, start: &gst::event::StreamStart) -> bool {
            let mut done = false;
            for (i, raw) in self.raw.iter().enumerate() {
                let id = format!("{}/{i}", start.stream_id());
                let mut event = gst::event::StreamStart::builder(&id)
                    .seqnum(start.seqnum())
                    .flags(start.stream_flags());
                if let Some(group) = start.group_id() {
                    event = event.group_id(group);
                }
                done |= raw.push_event(event.build());
            }
            done
        }

        fn new_caps(&self, caps: &gst::CapsRef) -> bool {
            let Ok(info) = gst_video::VideoInfo::from_caps(caps) else {
                gst::error!(CAT, imp = self, "not raw video: {caps}");
                return false;
            };
            let fps = Some(info.fps())
                .filter(|fps| fps.numer() > 0)
                .or_else(|| {
                    // Variable: the most there can be.
                    let s = caps.structure(0)?;
                    s.get::<gst::Fraction>("max-framerate").ok()
                })
                .filter(|fps| fps.numer() > 0 && fps.denom() > 0)
                .unwrap_or(gst::Fraction::new(30, 1));
            let frame_time =
                Duration::from_secs_f64(f64::from(fps.denom()) / f64::from(fps.numer()))
                    .clamp(Config::FRAME_TIME.0, Config::FRAME_TIME.1);
            let format = Format {
                width: info.width(),
                height: info.height(),
                frame_time,
            };
            let first = {
                let mut state = self.state();
                let first = state.format.replace(format).is_none();
                let same = state.caps.as_ref().is_some_and(|old| old.as_ref() == caps);
                state.caps = Some(caps.to_owned());
                if !first && !same {
                    gst::info!(CAT, imp = self, "new format {format:?}");
                    state.core.restart();
                }
                let mut config = *state.core.config();
                config.frame_time = frame_time;
                config.pixels = u64::from(info.width()) * u64::from(info.height());
                if let Err(err) = state.core.set_config(config) {
                    gst::error!(CAT, imp = self, "{err}");
                }
                first
            };
            if let Ok(owner) = self.owner() {
                owner.format(format, first);
            }
            true
        }

        pub fn src_event(&self, stream: Stream, event: gst::Event) -> bool {
            if gst_video::ForceKeyUnitEvent::is(&event) {
                self.key_request(stream, &event);
                return true;
            }
            if let (gst::EventType::CustomUpstream, Some(s)) = (event.type_(), event.structure()) {
                match s.name().as_str() {
                    "application/x-frame-complete" => {
                        self.frame_complete(s);
                        return true;
                    }
                    "application/x-network-estimate" => {
                        self.network_estimate(s);
                        return true;
                    }
                    _ => {}
                }
            }
            self.coded_pad(stream)
                .is_some_and(|pad| pad.push_event(event))
        }

        /// The RTP session says which SSRC or payload type the receiver asked
        /// for; an application does not.
        fn key_request(&self, stream: Stream, event: &gst::Event) {
            let from_network = event
                .structure()
                .is_some_and(|s| s.has_field("ssrc") || s.has_field("payload"));
            let mut state = self.state();
            if from_network {
                let now = self.now(&state);
                state.core.request_recovery(now, stream);
            } else {
                state.core.request_refresh();
            }
            drop(state);
            gst::info!(
                CAT,
                imp = self,
                "{} wants a key frame on stream {}",
                if from_network {
                    "the receiver"
                } else {
                    "the application"
                },
                stream.index()
            );
        }

        fn frame_complete(&self, s: &gst::StructureRef) {
            let (Some(stream), Some(number)) = (
                s.get("stream").ok().and_then(Stream::from_index),
                s.get::<u32>("frame")
                    .ok()
                    .and_then(|n| u16::try_from(n).ok()),
            ) else {
                gst::warning!(CAT, imp = self, "ignoring a malformed event: {s}");
                self.state().traffic.bad_events += 1;
                return;
            };
            let generation = s.get::<u32>("generation").unwrap_or(0) as u8;
            let decodable = s.get("decodable").unwrap_or(true);
            let outcome = {
                let mut state = self.state();
                let now = self.now(&state);
                state
                    .core
                    .frame_complete(now, stream, number, generation, decodable)
            };
            if outcome == Feedback::Accepted {
                gst::debug!(CAT, imp = self, "{stream:?} {number} is complete");
            } else {
                gst::debug!(CAT, imp = self, "{stream:?} {number}: {outcome:?}");
            }
        }

        fn network_estimate(&self, s: &gst::StructureRef) {
            let Ok(target) = s.get::<u64>("target-bitrate") else {
                gst::warning!(CAT, imp = self, "ignoring a malformed event: {s}");
                self.state().traffic.bad_events += 1;
                return;
            };
            if let Ok(rtt) = s.get::<u64>("rtt") {
                self.state().core.set_rtt(Duration::from_nanos(rtt));
            }
            self.set_target(Bitrate::from_bps(target));
        }

        /// From the estimator; kept within the bounds of the owner.
        fn set_target(&self, target: Bitrate) {
            let Ok(owner) = self.owner() else { return };
            let changed = {
                let mut state = self.state();
                let mut config = *state.core.config();
                let target = target.clamp(state.bounds.0, state.bounds.1);
                let changed = config.target != target;
                config.target = target;
                if let Err(err) = state.core.set_config(config) {
                    gst::warning!(CAT, imp = self, "{err}");
                }
                changed
            };
            if changed {
                owner.notify("bitrate");
            }
        }

        fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
            use gst::QueryViewMut;
            match query.view_mut() {
                QueryViewMut::Caps(_)
                | QueryViewMut::AcceptCaps(_)
                | QueryViewMut::Allocation(_) => {
                    let display = self.display();
                    self.raw[display.index()].peer_query(query)
                }
                _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
            }
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Router {
        const NAME: &'static str = "GstDualH264EncRouter";
        type Type = super::Router;
        type ParentType = gst::Element;

        fn with_class(klass: &Self::Class) -> Self {
            fn template(klass: &<Router as ObjectSubclass>::Class, name: &str) -> gst::PadTemplate {
                klass
                    .pad_template(name)
                    .unwrap_or_else(|| panic!("template {name} is registered"))
            }
            let raw = Stream::BOTH.map(|stream| {
                gst::Pad::builder_from_template(&template(klass, RAW[stream.index()]))
                    .event_function(move |_, parent, event| {
                        Router::catch_panic_pad_function(
                            parent,
                            || false,
                            |router| router.sink.push_event(event),
                        )
                    })
                    .query_function(move |_, parent, query| {
                        Router::catch_panic_pad_function(
                            parent,
                            || false,
                            |router| router.sink.peer_query(query),
                        )
                    })
                    .build()
            });
            let sink = gst::Pad::builder_from_template(&template(klass, "sink"))
                .chain_function(|_, parent, buffer| {
                    Router::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |router| router.chain(buffer),
                    )
                })
                .event_function(|_, parent, event| {
                    Router::catch_panic_pad_function(
                        parent,
                        || false,
                        |router| router.sink_event(event),
                    )
                })
                .query_function(|pad, parent, query| {
                    Router::catch_panic_pad_function(
                        parent,
                        || false,
                        |router| router.sink_query(pad, query),
                    )
                })
                .build();
            Self {
                sink,
                raw,
                coded: OnceLock::new(),
                src: OnceLock::new(),
                owner: OnceLock::new(),
                state: Mutex::default(),
                quantisers: Default::default(),
                looks: Default::default(),
                left: Condvar::new(),
            }
        }
    }

    const RAW: [&str; 2] = ["raw_0", "raw_1"];

    impl ObjectImpl for Router {
        fn constructed(&self) {
            self.parent_constructed();
            let obj = self.obj();
            let pads = std::iter::once(&self.sink).chain(&self.raw);
            for pad in pads {
                // Each name is there once.
                let _ = obj.add_pad(pad);
            }
        }
    }

    impl GstObjectImpl for Router {}

    impl ElementImpl for Router {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                use gst::PadDirection::{Sink, Src};
                let raw = raw_caps();
                [("sink", Sink, &raw)]
                    .into_iter()
                    .chain(RAW.map(|name| (name, Src, &raw)))
                    .filter_map(|(name, direction, caps)| {
                        gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).ok()
                    })
                    .collect()
            });
            TEMPLATES.as_ref()
        }
    }
}

/// What goes in: raw video in any memory.
pub fn raw_caps() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().any_features().build()
}

/// What comes out.
pub fn coded_caps() -> gst::Caps {
    gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build()
}
