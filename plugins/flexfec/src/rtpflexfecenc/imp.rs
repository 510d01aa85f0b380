// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtpflexfecenc
 *
 * Protects RTP packets by FlexFEC: after a frame it sends packets on an SSRC of
 * their own, from which a receiver recovers lost ones.
 *
 * Put it behind the payloader, in a bin for rtpbin's signal
 * `request-aux-sender`, or with `rtppacer` and `rtpgcc` behind it as what
 * webrtcbin's signal `request-aux-sender` returns. `pt` must be set. At the
 * other end `rtpflexfecdec`, or a browser that has negotiated `flexfec-03`.
 *
 * - Media pass untouched and at once. FEC packets follow the packet with the
 *   marker bit. Without markers they go before the packet with the next RTP
 *   timestamp.
 * - `controller=adaptive` spends the least that meets `target-residual`. It
 *   learns of loss, round-trip time and rate by the event
 *   `application/x-network-estimate` from downstream (`rtpgcc`), of bursts by
 *   rtpsession's event `RTPTWCCPackets`. Without these it knows of no loss and
 *   makes no FEC packets; there is `controller=fixed`.
 * - It may put several frames in one block, and protects them in time by the
 *   pipeline's clock even if no other frame follows.
 * - `target-bitrate` of the event is lowered by what FEC takes before it goes on
 *   upstream, and the event is sent again when that changes.
 * - What is a key frame and what is in the background comes from the header
 *   extension `urn:x-gst-dualstream:frame:1`, else key frames from the flag
 *   DELTA_UNIT of a frame's first packet. Ids of header extensions come from
 *   the caps, and from those further upstream where a funnel leaves out most.
 * - Packets of several SSRCs may be protected together; their frames then are
 *   parts of one block. Of other SSRCs, as retransmissions, nothing is
 *   protected.
 * - Before the first FEC packet a caps event tells the session their SSRC,
 *   payload type and clock rate; the caps of the media follow again.
 * - With `dry-run` it makes no packets, but says what it would have made:
 *   `recommended-percentage` for `percentage` of rtpulpfecenc behind it.
 *
 * |[
 * gst-launch-1.0 videotestsrc is-live=true num-buffers=150 ! x264enc tune=zerolatency ! rtph264pay ! rtpflexfecenc pt=110 controller=fixed percentage=20 ! udpsink host=127.0.0.1 port=5004
 * ]| Sends five seconds of video, and FEC packets as many as a fifth of its packets.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `media-packets`, `media-bytes` | u64 | passed of the SSRCs that are protected |
 * | `other-packets` | u64 | passed of others |
 * | `fec-packets`, `fec-bytes` | u64 | made |
 * | `frames` | u64 | frames of which all packets have passed |
 * | `blocks` | u64 | blocks with FEC packets |
 * | `protected` | u64 | media packets in these |
 * | `unprotected` | u64 | media packets that no FEC packet was made for |
 * | `held` | u64 | media packets that wait for FEC packets; with the last two the sum is `media-packets` |
 * | `malformed` | u64 | buffers dropped that are no RTP packets |
 * | `wrong-fields` | u64 | fields of events that had a wrong type |
 * | `loss` | f64 | share of packets lost, as the controller sees it |
 * | `burst` | f64 | mean number of packets lost in a row |
 * | `rtt` | u64 | round-trip time in ns, if known |
 * | `overhead` | f64 | FEC packets for each media packet that a frame of the usual size gets |
 * | `byte-overhead` | f64 | FEC bytes for each media byte of late |
 * | `expected-residual` | f64 | share of frames expected to be incomplete at the deadline |
 * | `unrepaired` | f64 | share of lost packets that retransmissions are expected to miss |
 * | `frames-per-block` | u64 | frames that are protected together |
 * | `limited` | u64 | blocks that got less than planned, for there was no room in the target |
 * | `target-bitrate`, `media-bitrate` | u64 | of the last event, and what is left of it in bit/s, if there was one |
 *
 * Since: 0.1
 */
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use dualstream_common::Timestamp;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::estimate::{self, Estimate};
use super::feedback;
use super::settings::{self, Settings};
use super::state::{State, Step, Wake};
use crate::rtp;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtpflexfecenc",
        gst::DebugColorFlags::empty(),
        Some("FlexFEC encoder"),
    )
});

/// Longest wait without looking again; keeps clock times far from their end.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// One warning for this many of a kind.
const WARN_EVERY: u64 = 1000;

type Flow = Result<gst::FlowSuccess, gst::FlowError>;
type Fec = Vec<gst::Buffer>;

// Lock order: stream lock of the sink pad, settings, state. The last two are
// not held over a push, an event, a query or a wait for the clock. Downstream
// is pushed to with the stream lock only, so that media, FEC and events keep
// one order whichever thread they come from. Upstream events need no lock.

pub struct RtpFlexFecEnc {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    settings: Mutex<Settings>,
    /// SSRC for when the settings have none.
    random_ssrc: AtomicU32,
    /// Percentages that were told last.
    recommended: [AtomicU32; 2],
    /// From READY to PAUSED and back.
    state: Mutex<Option<State>>,
    /// The thread has nothing to do.
    wake: Condvar,
}

/// A panic elsewhere leaves a consistent state behind: the core is told one
/// thing at a time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The pipeline clock and the time at which running time was zero.
type Time = Option<(gst::Clock, gst::ClockTime)>;

fn now(time: &Time) -> Timestamp {
    time.as_ref().map_or(Timestamp::ZERO, |(clock, base)| {
        Timestamp::from_nanos(clock.time().saturating_sub(*base).nseconds())
    })
}

impl RtpFlexFecEnc {
    fn time(&self) -> Time {
        let obj = self.obj();
        Some((obj.clock()?, obj.base_time()?))
    }

    /// `None` while there is no state.
    fn with_state<T>(&self, act: impl FnOnce(&mut State, Timestamp) -> T) -> Option<T> {
        let time = self.time();
        let mut guard = lock(&self.state);
        let state = guard.as_mut()?;
        let result = act(state, now(&time));
        self.finish(guard);
        Some(result)
    }

    fn wake_up(&self, wake: Wake) {
        if let Some(wait) = wake.wait {
            wait.unschedule();
        }
        if wake.idle {
            self.wake.notify_one();
        }
    }

    /// Has the thread look again.
    fn wake_thread(&self) {
        let wake = lock(&self.state).as_mut().map(State::wake);
        self.wake_up(wake.unwrap_or_default());
    }

    fn warn_rarely(&self, before: u64, count: u64, what: &str) {
        if count > 0 && (before == 0 || before / WARN_EVERY != (before + count) / WARN_EVERY) {
            gst::warning!(CAT, imp = self, "{what}");
        }
    }

    // The thread of the source pad: protects what waits for more frames.

    fn src_loop(&self) {
        let time = self.time();
        let id = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut().filter(|state| !state.flushing) else {
                // With the lock: who makes this thread go on does so after the
                // change of state that it sees here. It waits for nothing, and
                // fails only if there is no task any more.
                let _ = self.srcpad.pause_task();
                return;
            };
            match (state.controller.due(), &time) {
                (Some(due), Some((clock, base))) => {
                    let now = now(&time);
                    (due > now).then(|| {
                        let until = now + due.since(now).min(LONGEST_WAIT);
                        let id = clock.new_single_shot_id(*base + until.as_nanos().nseconds());
                        state.wait = Some((until, id.clone()));
                        id
                    })
                }
                _ => {
                    state.idle = true;
                    // Woken or not: look again.
                    drop(self.wake.wait(guard).unwrap_or_else(|e| e.into_inner()));
                    return;
                }
            }
        };
        match id {
            Some(id) => self.wait(&id),
            None => self.protect_due(),
        }
    }

    fn wait(&self, id: &gst::SingleShotClockId) {
        let (result, _) = id.wait();
        if let Some(state) = lock(&self.state).as_mut() {
            state.wait = None;
        }
        match result {
            Ok(_) | Err(gst::ClockError::Unscheduled | gst::ClockError::Early) => (),
            Err(err) => {
                gst::element_imp_error!(
                    self,
                    gst::CoreError::Clock,
                    ("The clock cannot be waited for"),
                    ["{err:?}"]
                );
                let _ = self.srcpad.pause_task();
            }
        }
    }

    fn protect_due(&self) {
        let stream = self.sinkpad.stream_lock();
        let fec = self.with_state(|state, now| state.flush_due(now));
        // Whoever pushes media gets to know the same.
        if let Err(err) = self.push_fec(fec.unwrap_or_default()) {
            gst::debug!(CAT, imp = self, "FEC packets were not taken: {err:?}");
        }
        drop(stream);
        self.tell();
    }

    fn start_task(&self) -> Result<(), gst::LoggableError> {
        let weak = self.obj().downgrade();
        self.srcpad
            .start_task(move || {
                if let Some(obj) = weak.upgrade() {
                    let imp = obj.imp();
                    imp.catch_panic(|| (), Self::src_loop);
                }
            })
            .map_err(|err| gst::loggable_error!(CAT, "no thread: {err}"))
    }

    fn src_activate(&self, active: bool) -> Result<(), gst::LoggableError> {
        self.set_flushing(!active);
        if active {
            return self.start_task();
        }
        self.srcpad
            .stop_task()
            .map_err(|err| gst::loggable_error!(CAT, "the thread stays: {err}"))
    }

    fn set_flushing(&self, flushing: bool) {
        if let Some(state) = lock(&self.state).as_mut() {
            state.flushing = flushing;
        }
        self.wake_thread();
    }

    // Packets.

    fn sink_chain(&self, buffer: gst::Buffer) -> Flow {
        let Some(step) = self.packet(&buffer)? else {
            return Ok(gst::FlowSuccess::Ok);
        };
        self.push_fec(step.before)?;
        let buffer = marked(buffer, step.important);
        let flow = self.srcpad.push(buffer)?;
        if step.ends_frame {
            self.end_frame()?;
        } else if step.tells {
            self.tell();
        }
        Ok(flow)
    }

    /// Goes on as it is, unless something must be put in between or left out.
    fn sink_chain_list(&self, list: gst::BufferList) -> Flow {
        let steps = self.packets(&list)?;
        let last = steps.last().and_then(|(step, _)| step.as_ref());
        let (ends, tells) = last.map_or((false, false), |last| (last.ends_frame, last.tells));
        let plain = |(step, after): &(Option<Step>, Vec<_>)| {
            after.is_empty()
                && step
                    .as_ref()
                    .is_some_and(|step| step.before.is_empty() && !step.important)
        };
        let mut flow = Ok(gst::FlowSuccess::Ok);
        if steps.iter().all(plain) {
            flow = self.srcpad.push_list(list);
        } else {
            for (buffer, (step, after)) in list.iter_owned().zip(steps) {
                if let Some(step) = step {
                    self.push_fec(step.before)?;
                    flow = self.srcpad.push(marked(buffer, step.important));
                    flow?;
                    self.push_fec(after)?;
                }
            }
        }
        flow?;
        if ends {
            self.end_frame()?;
        } else if tells {
            self.tell();
        }
        flow
    }

    /// Copies what FEC needs; no reference is kept, or the session would have
    /// to copy the packet. `None` if it is to be dropped.
    fn packet(&self, buffer: &gst::BufferRef) -> Result<Option<Step>, gst::FlowError> {
        let mut guard = self.ready()?;
        let step = guard.as_mut().and_then(|state| self.take(state, buffer));
        self.finish(guard);
        Ok(step)
    }

    /// All of a list, with the FEC packets that go behind each but the last.
    fn packets(
        &self,
        list: &gst::BufferListRef,
    ) -> Result<Vec<(Option<Step>, Fec)>, gst::FlowError> {
        let mut steps = Vec::with_capacity(list.len());
        let mut guard = self.ready()?;
        for buffer in list.iter() {
            if guard.as_ref().is_some_and(State::asks_for_caps) {
                self.finish(guard);
                guard = self.ready()?;
            }
            let Some(state) = guard.as_mut() else { break };
            let step = self.take(state, buffer);
            let ends = step.as_ref().is_some_and(|step| step.ends_frame);
            let last = steps.len() + 1 == list.len();
            let after = if ends && !last {
                state.end_frame(now(&self.time()))
            } else {
                Vec::new()
            };
            steps.push((step, after));
        }
        self.finish(guard);
        Ok(steps)
    }

    /// The state, once it knows all caps there are.
    fn ready(&self) -> Result<MutexGuard<'_, Option<State>>, gst::FlowError> {
        let mut guard = lock(&self.state);
        if guard.as_mut().is_some_and(State::wants_caps) {
            drop(guard);
            self.learn_from_upstream();
            guard = lock(&self.state);
        }
        if guard.as_ref().is_some_and(|state| !state.flushing) {
            Ok(guard)
        } else {
            Err(gst::FlowError::Flushing)
        }
    }

    fn take(&self, state: &mut State, buffer: &gst::BufferRef) -> Option<Step> {
        // The clock is only asked when there is something to decide.
        let step = state.packet(|| now(&self.time()), buffer);
        if step.is_none() {
            self.warn_rarely(state.counts.malformed, 1, "not an RTP packet, dropped");
            state.counts.malformed += 1;
        }
        step
    }

    /// Lets go of the state, and wakes the thread if it has something to do.
    fn finish(&self, mut guard: MutexGuard<'_, Option<State>>) {
        let wake = guard.as_mut().map(State::wake_if_due);
        drop(guard);
        self.wake_up(wake.unwrap_or_default());
    }

    fn learn_from_upstream(&self) {
        let caps = rtp::upstream_caps(&self.sinkpad);
        gst::debug!(CAT, imp = self, "caps upstream: {caps:?}");
        self.with_state(|state, _| caps.iter().for_each(|caps| state.learn(caps)));
    }

    fn end_frame(&self) -> Flow {
        let fec = self.with_state(|state, now| state.end_frame(now));
        let flow = self.push_fec(fec.unwrap_or_default());
        self.tell();
        flow
    }

    /// With the stream lock.
    fn push_fec(&self, fec: Vec<gst::Buffer>) -> Flow {
        if fec.is_empty() {
            return Ok(gst::FlowSuccess::Ok);
        }
        if self.announce()
            && let Some(caps) = self.sinkpad.sticky_event::<gst::event::Caps>(0)
        {
            self.srcpad.push_event(caps);
        }
        gst::log!(CAT, imp = self, "{} FEC packets", fec.len());
        let mut flow = Ok(gst::FlowSuccess::Ok);
        for buffer in fec {
            flow = self.srcpad.push(buffer);
            flow?;
        }
        flow
    }

    /// Tells the session of the SSRC of FEC packets, if that is news. The caps
    /// of the media must follow.
    fn announce(&self) -> bool {
        let caps = lock(&self.state).as_mut().and_then(State::announce);
        let Some(caps) = caps else { return false };
        gst::debug!(CAT, imp = self, "FEC packets: {caps}");
        self.srcpad.push_event(gst::event::Caps::new(&caps));
        true
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => {
                self.with_state(|state, _| state.set_caps(caps.caps()));
                // Not only when the first of them leaves: a pacer lets what it
                // holds leave before a caps event passes.
                self.announce();
            }
            gst::EventView::Segment(segment) => {
                self.with_state(|state, _| state.set_segment(segment.segment()));
            }
            gst::EventView::Eos(_) => {
                let fec = self.with_state(|state, now| state.flush(now));
                if let Err(err) = self.push_fec(fec.unwrap_or_default()) {
                    gst::debug!(CAT, imp = self, "FEC packets were not taken: {err:?}");
                }
            }
            gst::EventView::FlushStart(_) => {
                self.set_flushing(true);
                let done = gst::Pad::event_default(pad, Some(&*self.obj()), event);
                return self.srcpad.pause_task().is_ok() && done;
            }
            gst::EventView::FlushStop(_) => {
                let done = gst::Pad::event_default(pad, Some(&*self.obj()), event);
                self.with_state(|state, _| state.empty());
                self.set_flushing(false);
                if let Err(err) = self.start_task() {
                    err.log_with_imp(self);
                    return false;
                }
                return done;
            }
            _ => (),
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    // What arrives on the source pad.

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if event.type_() == gst::EventType::CustomUpstream
            && let Some(s) = event.structure()
        {
            if s.has_name(feedback::EVENT) {
                self.with_state(|state, now| {
                    let (arrived, wrong) = state.feedback.take(s);
                    self.count_wrong(state, wrong, s);
                    state.controller.feedback(now, arrived);
                });
            } else if s.has_name(estimate::EVENT) && self.estimate(&event, s) {
                self.tell();
                return true;
            }
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// Whether the event is sent on with another target.
    fn estimate(&self, event: &gst::Event, s: &gst::StructureRef) -> bool {
        let (estimate, wrong) = Estimate::parse(s);
        let sent = self.with_state(|state, now| {
            self.count_wrong(state, wrong, s);
            let Some(estimate) = estimate.filter(|_| state.is_on()) else {
                return false;
            };
            let Estimate { target, loss, rtt } = estimate;
            // Of a silent stream no frame does it.
            state.tell_others(now);
            state.controller.estimate(now, target, loss, rtt);
            let media = state.controller.media_target(target);
            gst::debug!(CAT, imp = self, "{estimate:?}, {media} for media");
            state.told.came(now, event, target, media);
            true
        });
        sent.unwrap_or(false)
    }

    fn count_wrong(&self, state: &mut State, wrong: u64, s: &gst::StructureRef) {
        if wrong > 0 {
            let what = format!("fields of a wrong type in {}", s.name());
            self.warn_rarely(state.counts.wrong_fields, wrong, &what);
        }
        state.counts.wrong_fields += wrong;
    }

    fn recommend(&self) {
        let recommended = lock(&self.state).as_ref().map(State::recommended);
        let names = ["recommended-percentage", "recommended-percentage-key"];
        for ((now, before), name) in recommended
            .unwrap_or_default()
            .iter()
            .zip(&self.recommended)
            .zip(names)
        {
            if before.swap(*now, Ordering::Relaxed) != *now {
                self.obj().notify(name);
            }
        }
    }

    /// Sends what is to be told upstream, and says what is recommended.
    fn tell(&self) {
        self.recommend();
        loop {
            let next = lock(&self.state)
                .as_mut()
                .and_then(|state| state.told.next());
            let Some(event) = next else { return };
            gst::log!(CAT, imp = self, "upstream: {event:?}");
            self.sinkpad.push_event(event);
            if let Some(state) = lock(&self.state).as_mut() {
                state.told.sending = false;
            }
        }
    }

    fn ssrc(&self, settings: &Settings) -> u32 {
        match settings.ssrc {
            0 => self.random_ssrc.load(Ordering::Relaxed),
            ssrc => ssrc,
        }
    }

    fn stats(&self) -> gst::Structure {
        let state = lock(&self.state);
        let state = state.as_ref();
        let counts = state.map(|s| s.counts).unwrap_or_default();
        let known = state.map(|s| s.controller.stats()).unwrap_or_default();
        let told = state.and_then(|s| Some((s.told.target()?, s.told.media())));
        let rtt = known
            .rtt
            .map(|rtt| u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
        gst::Structure::builder("application/x-rtpflexfecenc-stats")
            .field("media-packets", counts.media)
            .field("media-bytes", counts.media_bytes)
            .field("other-packets", counts.others)
            .field("fec-packets", counts.fec)
            .field("fec-bytes", counts.fec_bytes)
            .field("frames", counts.frames)
            .field("blocks", counts.blocks)
            .field("protected", counts.protected)
            .field("unprotected", counts.unprotected)
            .field("held", state.map_or(0, State::held))
            .field("malformed", counts.malformed)
            .field("wrong-fields", counts.wrong_fields)
            .field("loss", known.loss.value())
            .field("burst", known.burst)
            .field_if_some("rtt", rtt)
            .field("overhead", known.overhead.value())
            .field("byte-overhead", known.byte_overhead)
            .field("expected-residual", known.expected_residual.value())
            .field("unrepaired", known.unrepaired.value())
            .field("frames-per-block", known.frames_per_block as u64)
            .field("limited", known.limited)
            .field_if_some("target-bitrate", told.map(|(target, _)| target.as_bps()))
            .field_if_some("media-bitrate", told.map(|(_, media)| media.as_bps()))
            .build()
    }
}

/// Copies the packet's description only, if it has other users.
fn marked(mut buffer: gst::Buffer, important: bool) -> gst::Buffer {
    if important {
        buffer.make_mut().set_flags(gst::BufferFlags::NON_DROPPABLE);
    }
    buffer
}

#[glib::object_subclass]
impl ObjectSubclass for RtpFlexFecEnc {
    const NAME: &'static str = "GstRtpFlexFecEnc";
    type Type = super::RtpFlexFecEnc;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
        let templ = klass.pad_template("sink").expect("template is registered");
        let sinkpad = gst::Pad::builder_from_template(&templ)
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.sink_chain(buffer),
                )
            })
            .chain_list_function(|_, parent, list| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.sink_chain_list(list),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(pad, event))
            })
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        let templ = klass.pad_template("src").expect("template is registered");
        let srcpad = gst::Pad::builder_from_template(&templ)
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_event(pad, event))
            })
            .activatemode_function(|_, parent, mode, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "panicked")),
                    |imp| match mode {
                        gst::PadMode::Push => imp.src_activate(active),
                        _ => Err(gst::loggable_error!(CAT, "packets are pushed only")),
                    },
                )
            })
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        Self {
            sinkpad,
            srcpad,
            settings: Mutex::default(),
            random_ssrc: AtomicU32::new(0),
            recommended: Default::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
        }
    }
}

impl ObjectImpl for RtpFlexFecEnc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        // Kept until the state has them: two changes at once are in one order.
        let mut settings = lock(&self.settings);
        if let Err(err) = settings.set(pspec.name(), value) {
            gst::error!(CAT, imp = self, "property {}: {err}", pspec.name());
            return;
        }
        let ssrc = self.ssrc(&settings);
        let done = self.with_state(|state, _| state.configure(settings.clone(), ssrc));
        drop(settings);
        if let Some(Err(err)) = done {
            gst::error!(CAT, imp = self, "property {}: {err}", pspec.name());
        }
        self.recommend();
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = lock(&self.settings).clone();
        match pspec.name() {
            "stats" => self.stats().to_value(),
            "ssrc" => self.ssrc(&settings).to_value(),
            "recommended-percentage" => self.recommended[0].load(Ordering::Relaxed).to_value(),
            "recommended-percentage-key" => self.recommended[1].load(Ordering::Relaxed).to_value(),
            name => settings.value(name).unwrap_or_else(|| {
                gst::error!(CAT, imp = self, "no such property: {name}");
                pspec.default_value().clone()
            }),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            obj.add_pad(pad).expect("both pads are new");
        }
    }
}

impl GstObjectImpl for RtpFlexFecEnc {}

impl ElementImpl for RtpFlexFecEnc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTP FlexFEC Encoder",
                "Codec/Payloader/Network/RTP",
                "Protects RTP packets by as many FlexFEC packets as the network needs",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(rtp::pad_templates);
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::NullToReady => {
                self.random_ssrc
                    .store(glib::random_int().max(1), Ordering::Relaxed);
                self.obj().notify("ssrc");
            }
            gst::StateChange::ReadyToPaused => {
                let settings = lock(&self.settings);
                let ssrc = self.ssrc(&settings);
                let state = State::new(settings.clone(), ssrc).map_err(|err| {
                    gst::error!(CAT, imp = self, "{err}");
                    gst::StateChangeError
                })?;
                *lock(&self.state) = Some(state);
            }
            // Running time is another one now.
            gst::StateChange::PausedToPlaying => self.wake_thread(),
            _ => (),
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            *lock(&self.state) = None;
        }
        Ok(success)
    }

    fn set_clock(&self, clock: Option<&gst::Clock>) -> bool {
        let done = self.parent_set_clock(clock);
        self.wake_thread();
        done
    }
}
