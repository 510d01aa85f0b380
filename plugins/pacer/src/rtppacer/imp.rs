// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtppacer
 *
 * Sends RTP packets at the rate that the network bears, the most urgent first.
 *
 * Put it in front of rtpsession, behind the element that makes
 * retransmissions: as (part of) what webrtcbin's signal `request-aux-sender`
 * returns, or between payloader and rtpbin. An estimator behind it, such as
 * `rtpgcc`, tells it by the event `application/x-network-estimate` how fast to
 * send, when to probe and how much to pad. Without one, set `bitrate`. Sources
 * must be live: the queue is bounded and drops, it does not push back.
 *
 * - Priorities are strict: audio, retransmissions, display video, FEC,
 *   background video, padding. SSRCs of one priority take turns. The order of
 *   one SSRC is never changed: what waits in front of a more urgent packet of
 *   its SSRC goes as urgently as that. Audio is not held back at all.
 * - What a packet is comes from, in this order: the property `priorities`; the
 *   caps (`media=audio`, `encoding-name` RTX or one with FEC, `rtx-payload`);
 *   the header extension `urn:x-gst-dualstream:frame:1`, which marks
 *   background video. Caps that say nothing of a payload type, as in webrtcbin,
 *   make the element look at those further upstream, and at the
 *   `payload-type-map` of an rtprtxsend there. Anything else is display video.
 * - Packets leave at `pacing-factor` times the target of the last event or of
 *   `bitrate`, up to `pacing-bitrate` of the event. Without any of these nothing
 *   is held. Each packet counts with 28 bytes for IPv4 and UDP. At a pacing
 *   rate of zero only audio and probes leave.
 * - Packets are reordered, so all timestamps are converted to running time and
 *   one segment is sent downstream. Any other serialised event waits for what
 *   was queued before it, and what comes after it waits for the event. The same
 *   caps again are not sent again, and GAP events only while nothing is held.
 *   Packets held at a rate of zero are dropped at EOS. Serialised queries are
 *   refused.
 * - Requests for retransmission that come from rtpsession (the upstream event
 *   `GstRTPRetransmissionRequest`) reach the element that answers them only if the
 *   packet has left, is still of use to the receiver (`retransmission-max-age`), and
 *   is within `retransmission-share` of the target rate; if not all are, the newest
 *   are answered. So the numbers of the retransmissions have no gap.
 * - Probes and padding are made of padding-only packets where no media waits,
 *   once a packet has passed. Packets that are part of a probe carry the meta
 *   `DualStreamProbe` with the field `id` (u32).
 * - Time is that of the pipeline clock. Without a clock (while prerolling)
 *   packets are not held.
 * - To the latency nothing is added at least, and `queue-time-limit` at most. A
 *   sink behind it that synchronises to the clock needs that much
 *   `ts-offset`, or `sync=false`.
 *
 * |[
 * gst-launch-1.0 videotestsrc is-live=true num-buffers=150 ! video/x-raw,framerate=30/1 ! x264enc tune=zerolatency bitrate=1000 ! rtph264pay ! rtppacer bitrate=1000000 ! udpsink host=127.0.0.1 port=5004 sync=false async=false
 * ]| Sends five seconds of video at no more than 2.5 Mbit/s at any time.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `pacing-bitrate` | u64 | the rate in force in bit/s, raised by `queue-time-limit` or not; 2^64 - 1 = nothing is held |
 * | `raised` | u64 | times `queue-time-limit` began to raise the rate |
 * | `congested` | bool | the congestion window is full |
 * | `padding-packets`, `padding-bytes` | u64 | padding sent of our own accord |
 * | `padding-skipped` | u64 | padding that could not be made: no packet has passed yet, or no payload type is free |
 * | `probes-completed` | u64 | probe clusters sent completely |
 * | `probes-dropped` | u64 | clusters that came too late or lagged behind |
 * | `probes-refused` | u64 | clusters that made no sense, or too many at once |
 * | `probe-packets`, `probe-bytes` | u64 | sent as part of clusters |
 * | `malformed` | u64 | buffers dropped that are no RTP packets |
 * | `wrong-fields` | u64 | fields of events that had a wrong type |
 * | `requests` | structure | requests for retransmission, see below |
 * | `behind-event` | u64 | buffers and events that wait behind a serialised event now |
 * | `dropped-behind-event` | u64 | buffers dropped or flushed there |
 * | `audio`, `retransmission`, `display`, `fec`, `background`, `padding` | structure | the packets of this priority, see below |
 *
 * | field of a priority | type | meaning |
 * |---|---|---|
 * | `pushed-packets`, `pushed-bytes` | u64 | what arrived; the sum of the next six |
 * | `sent-packets`, `sent-bytes` | u64 | what left |
 * | `expired-packets` | u64 | dropped as too old |
 * | `evicted-packets` | u64 | dropped for more urgent ones when the queue was full |
 * | `refused-packets` | u64 | not taken, the queue was full |
 * | `flushed-packets` | u64 | dropped by a flush |
 * | `queued-packets`, `queued-bytes` | u64 | held now |
 * | `oldest` | u64 | how long the oldest of them has waited, in ns |
 * | `waited`, `longest-wait` | u64 | how long those sent have waited, all together and at most, in ns |
 *
 * | field of `requests` | type | meaning |
 * |---|---|---|
 * | `requested` | u64 | requests for packets of SSRCs that have passed; the sum of the next seven |
 * | `answered` | u64 | passed on, so that the packet is sent again |
 * | `not-sent` | u64 | the packet is still queued here, or there is none of this number |
 * | `too-late` | u64 | the packet is older than `retransmission-max-age` |
 * | `repeated` | u64 | a request for it waits, or two were answered in the last round trip |
 * | `over-budget` | u64 | `retransmission-share` does not bring it in time; the oldest are left out first |
 * | `flushed` | u64 | waited when a flush came |
 * | `waiting` | u64 | wait for the budget now |
 *
 * Since: 0.1
 */
mod task;

use std::sync::{Condvar, LazyLock, Mutex, MutexGuard};

use dualstream_common::{Bitrate, Timestamp};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use pacer_core::Priority;

use super::classify::{Header, Roles, Upstream};
use super::estimate::{self, Estimate};
use super::requests;
use super::settings::{self, Settings};
use super::state::{Item, State, Wake, in_running_time};
use super::stats;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtppacer",
        gst::DebugColorFlags::empty(),
        Some("RTP pacer with priorities"),
    )
});

/// One warning for this many of a kind.
const WARN_EVERY: u64 = 1000;

// Lock order: settings, state. Neither is held over a push, an event, a query
// or a wait for the clock.

pub struct RtpPacer {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    settings: Mutex<Settings>,
    /// From READY to PAUSED and back.
    state: Mutex<Option<State>>,
    /// The streaming thread has nothing to do.
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

fn is_rare(count: u64) -> bool {
    count % WARN_EVERY == 1
}

impl RtpPacer {
    fn time(&self) -> Time {
        let obj = self.obj();
        Some((obj.clock()?, obj.base_time()?))
    }

    /// Changes the core, and has the streaming thread look at it.
    fn change(&self, change: impl FnOnce(&mut State, Timestamp)) {
        let time = self.time();
        let mut wake = Wake::default();
        if let Some(state) = lock(&self.state).as_mut() {
            let now = now(&time);
            self.run_core(state, now, time.is_some());
            change(state, now);
            self.run_core(state, now, time.is_some());
            wake = state.wake();
        }
        self.finish(wake);
    }

    fn finish(&self, wake: Wake) {
        if let Some(wait) = wake.wait {
            wait.unschedule();
        }
        if wake.idle {
            self.wake.notify_one();
        }
    }

    fn start_task(&self) -> Result<(), gst::LoggableError> {
        let weak = self.obj().downgrade();
        self.srcpad
            .start_task(move || {
                if let Some(obj) = weak.upgrade() {
                    obj.imp().src_loop();
                }
            })
            .map_err(|err| gst::loggable_error!(CAT, "no streaming thread: {err}"))
    }

    fn src_activate(&self, active: bool) -> Result<(), gst::LoggableError> {
        if active {
            if let Some(state) = lock(&self.state).as_mut() {
                state.flushing = false;
            }
            return self.start_task();
        }
        self.set_flushing();
        self.srcpad
            .stop_task()
            .map_err(|err| gst::loggable_error!(CAT, "the streaming thread stays: {err}"))
    }

    fn set_flushing(&self) {
        let mut wake = Wake::default();
        if let Some(state) = lock(&self.state).as_mut() {
            state.flushing = true;
            wake = state.wake();
        }
        self.finish(wake);
    }

    // What arrives on the sink pad.

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some(header) = Header::parse(&buffer) else {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            state.malformed += 1;
            if is_rare(state.malformed) {
                gst::warning!(CAT, imp = self, "not an RTP packet, dropped: {buffer:?}");
            }
            return Ok(gst::FlowSuccess::Ok);
        };
        self.learn_from_upstream(header.pt);
        let time = self.time();
        let mut guard = lock(&self.state);
        let state = guard
            .as_mut()
            .filter(|s| !s.flushing)
            .ok_or(gst::FlowError::Flushing)?;
        state.flow?;
        if state.eos_in {
            return Err(gst::FlowError::Eos);
        }
        let priority = state.classifier.priority(header, &buffer);
        let buffer = in_running_time(state, buffer);
        if state.behind.is_empty() {
            let now = now(&time);
            if state.due.is_some_and(|due| due <= now) {
                self.run_core(state, now, time.is_some());
            }
            self.enqueue(state, now, header, priority, buffer);
            self.run_core(state, now, time.is_some());
            let wake = state.wake_if_due();
            drop(guard);
            self.finish(wake);
        } else if state.behind.len() < state.core.config().max_packets {
            state
                .behind
                .push_back(Item::Buffer(header, priority, buffer));
        } else {
            state.behind_dropped += 1;
            if is_rare(state.behind_dropped) {
                gst::warning!(CAT, imp = self, "too many packets behind an event, dropped");
            }
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn enqueue(
        &self,
        state: &mut State,
        now: Timestamp,
        header: Header,
        priority: Priority,
        buffer: gst::Buffer,
    ) {
        let pushed = state
            .core
            .push(now, header.ssrc, priority, header.size, buffer);
        if let Err(refused) = pushed {
            state.refused += 1;
            if is_rare(state.refused) {
                gst::warning!(
                    CAT,
                    imp = self,
                    "{priority:?} packet dropped: {}",
                    refused.reason
                );
            }
        }
    }

    /// Caps here may say nothing of a payload type; those upstream may.
    fn learn_from_upstream(&self, pt: u8) {
        let asks = lock(&self.state)
            .as_mut()
            .is_some_and(|s| s.classifier.wants_caps(pt));
        if !asks {
            return;
        }
        let upstream = Upstream::of(&self.sinkpad);
        gst::debug!(CAT, imp = self, "payload type {pt}; upstream: {upstream:?}");
        if let Some(state) = lock(&self.state).as_mut() {
            for caps in &upstream.caps {
                state.classifier.learn(caps);
            }
            for pt in &upstream.rtx_pts {
                state.classifier.learn_rtx(*pt);
            }
        }
    }

    fn sink_chain_list(&self, list: gst::BufferList) -> Result<gst::FlowSuccess, gst::FlowError> {
        for buffer in list.iter_owned() {
            self.sink_chain(buffer)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => {
                self.set_flushing();
                let done = gst::Pad::event_default(pad, Some(&*self.obj()), event);
                let paused = self.srcpad.pause_task();
                done && paused.is_ok()
            }
            gst::EventView::FlushStop(_) => {
                let done = gst::Pad::event_default(pad, Some(&*self.obj()), event);
                if let Some(state) = lock(&self.state).as_mut() {
                    state.empty();
                    state.flushing = false;
                }
                if let Err(err) = self.start_task() {
                    err.log_with_imp(self);
                    return false;
                }
                done
            }
            _ if event.is_serialized() => self.queue_event(event),
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    fn queue_event(&self, event: gst::Event) -> bool {
        let mut restart = false;
        let wake = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut().filter(|s| !s.flushing) else {
                return false;
            };
            let event = match event.view() {
                gst::EventView::Segment(segment) => {
                    let first = state.segment.replace(segment.segment().clone()).is_none();
                    if !first {
                        return true;
                    }
                    let running = gst::FormattedSegment::<gst::ClockTime>::new();
                    gst::event::Segment::builder(&running)
                        .seqnum(event.seqnum())
                        .build()
                }
                // It would keep urgent packets of other SSRCs behind those that
                // wait, and these show by themselves that the stream goes on.
                gst::EventView::Gap(_) if state.holds_buffers() => return true,
                gst::EventView::Gap(gap) => {
                    let (start, duration) = gap.get();
                    let start = state.running_time(Some(start)).unwrap_or(start);
                    gst::event::Gap::builder(start)
                        .duration(duration)
                        .seqnum(event.seqnum())
                        .build()
                }
                gst::EventView::StreamStart(_) if state.eos_in => {
                    // A new stream on the same pad.
                    if state.flow == Err(gst::FlowError::Eos) {
                        state.flow = Ok(gst::FlowSuccess::Ok);
                        restart = true;
                    }
                    state.eos_in = false;
                    event
                }
                gst::EventView::Eos(_) => {
                    state.eos_in = true;
                    event
                }
                _ => event,
            };
            if let gst::EventView::Caps(caps) = event.view() {
                state.classifier.learn(caps.caps());
                state.classifier.ask_again();
            }
            if state.is_repeated(&event) {
                return true;
            }
            if state.flow.is_err() || state.behind.len() >= 2 * state.core.config().max_packets {
                gst::warning!(CAT, imp = self, "not passed on: {event:?}");
                return false;
            }
            state.behind.push_back(Item::Event(event));
            state.wake()
        };
        self.finish(wake);
        !restart || self.start_task().is_ok()
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if query.is_serialized() {
            gst::debug!(CAT, imp = self, "refused: {query:?}");
            return false;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    // What arrives on the source pad.

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        let event = match requests::asked(&event) {
            Some(packet) => match self.request(packet, event) {
                Some(event) => event,
                None => return true,
            },
            None => event,
        };
        if event.type_() == gst::EventType::CustomUpstream
            && let Some(s) = event.structure().filter(|s| s.has_name(estimate::EVENT))
        {
            let estimate = Estimate::parse(s);
            gst::debug!(CAT, imp = self, "{estimate:?}");
            self.change(|state, now| {
                estimate.apply(&mut state.core, &mut state.requests.core, now);
                state.estimated |= estimate.target.is_some();
                if estimate.wrong > 0 {
                    if state.wrong_fields % WARN_EVERY == 0 {
                        gst::warning!(CAT, imp = self, "fields of a wrong type: {s:?}");
                    }
                    state.wrong_fields += estimate.wrong;
                }
            });
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// Hands the event back if it is for another element to judge.
    fn request(&self, packet: requests::Packet, event: gst::Event) -> Option<gst::Event> {
        let time = self.time();
        let (ready, wake) = {
            let mut guard = lock(&self.state);
            let state = guard
                .as_mut()
                .filter(|state| time.is_some() && state.requests.core.knows(packet.0));
            let Some(state) = state else {
                return Some(event);
            };
            if let Err(refusal) = state.requests.ask(now(&time), packet, event) {
                gst::debug!(CAT, imp = self, "not sent again: {packet:?}, {refusal}");
            }
            let ready = std::mem::take(&mut state.requests.ready);
            (ready, state.wake_if_due())
        };
        self.finish(wake);
        self.answer(ready);
        None
    }

    /// Has retransmissions made.
    fn answer(&self, events: Vec<gst::Event>) {
        for event in events {
            gst::log!(CAT, imp = self, "passing on {event:?}");
            self.sinkpad.push_event(event);
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let done = gst::Pad::query_default(pad, Some(&*self.obj()), query);
        if done && let gst::QueryViewMut::Latency(latency) = query.view_mut() {
            let (live, min, max) = latency.result();
            let limit = lock(&self.settings).config().queue_time_limit;
            let own = limit.and_then(|l| gst::ClockTime::try_from(l).ok());
            let max = max.zip(own).map(|(max, own)| max + own);
            latency.set(live, min, max);
        }
        done
    }

    fn stats(&self) -> gst::Structure {
        let at = now(&self.time());
        stats::structure(lock(&self.state).as_ref(), at)
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpPacer {
    const NAME: &'static str = "GstRtpPacer";
    type Type = super::RtpPacer;
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
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_query(pad, query))
            })
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        let templ = klass.pad_template("src").expect("template is registered");
        let srcpad = gst::Pad::builder_from_template(&templ)
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_query(pad, query))
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
            state: Mutex::default(),
            wake: Condvar::new(),
        }
    }
}

impl ObjectImpl for RtpPacer {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        if let Err(err) = self.set(pspec.name(), value) {
            gst::error!(CAT, imp = self, "property {}: {err}", pspec.name());
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return self.stats().to_value();
        }
        let value = lock(&self.settings).get(pspec.name());
        value.unwrap_or_else(|| {
            gst::error!(CAT, imp = self, "no such property: {}", pspec.name());
            pspec.default_value().clone()
        })
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            obj.add_pad(pad).expect("both pads are new");
        }
    }
}

impl RtpPacer {
    fn set(
        &self,
        name: &str,
        value: &glib::Value,
    ) -> Result<(), glib::value::ValueTypeMismatchError> {
        let settings = {
            let mut s = lock(&self.settings);
            if !s.set(name, value)? {
                gst::error!(CAT, imp = self, "no such property: {name}");
            }
            s.clone()
        };
        match name {
            "bitrate" => self.change(|state, now| {
                if !state.estimated {
                    let target = (settings.bitrate > 0).then_some(settings.bitrate);
                    let target = target.map(Bitrate::from_bps);
                    match target {
                        None => state.core.clear_rate(now),
                        Some(target) => state.core.set_target(now, target),
                    }
                    state.requests.core.set_target(now, target);
                }
            }),
            "priorities" => {
                if let Some(s) = &settings.priorities {
                    for wrong in Roles::parse(s).1 {
                        gst::warning!(CAT, imp = self, "priorities: {wrong} is ignored");
                    }
                }
                self.change(|state, _| state.classifier.set_roles(settings.roles()));
            }
            "retransmission-share" | "retransmission-max-age" => self.change(|state, now| {
                state.requests.core.configure(now, settings.requests());
            }),
            "padding-payload-type" => self.change(|state, _| {
                state.padding_pt = u8::try_from(settings.padding_pt).ok();
            }),
            _ => self.change(|state, now| {
                if let Err(err) = state.core.configure(now, settings.config()) {
                    gst::error!(CAT, imp = self, "not changed: {err}");
                }
            }),
        }
        if name == "queue-time-limit" {
            let obj = self.obj();
            // Nobody listens outside of a pipeline.
            let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
        }
        Ok(())
    }
}

impl GstObjectImpl for RtpPacer {}

impl ElementImpl for RtpPacer {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTP Pacer",
                "Filter/Network/RTP",
                "Sends RTP packets at the rate that the network bears, by priority",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst::Caps::new_empty_simple("application/x-rtp");
            [
                ("sink", gst::PadDirection::Sink),
                ("src", gst::PadDirection::Src),
            ]
            .into_iter()
            .map(|(name, direction)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                    .expect("a plain name makes a template")
            })
            .collect()
        });
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                let settings = lock(&self.settings).clone();
                let state = State::new(&settings).map_err(|err| {
                    gst::error!(CAT, imp = self, "{err}");
                    gst::StateChangeError
                })?;
                *lock(&self.state) = Some(state);
            }
            // Running time is another one now.
            gst::StateChange::PausedToPlaying => self.change(|_, _| ()),
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
        self.change(|_, _| ());
        done
    }
}
