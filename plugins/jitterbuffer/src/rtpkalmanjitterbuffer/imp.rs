// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtpkalmanjitterbuffer
 *
 * A jitter buffer that waits as long as the network needs, and no longer. It can
 * take the place of rtpjitterbuffer: in rtpbin and webrtcbin by the signal
 * `request-jitterbuffer`, or alone.
 *
 * - **Delay.** It is learnt from the frames that arrive: the smallest with which
 *   `late-target` of them miss their time, between `min-latency` and
 *   `max-latency`. It rises at once and falls smoothly. To this comes the time
 *   that decoding takes, the 95th percentile of the last 10 s, if the sink says
 *   when it gets frames (property `qos` of sinks).
 * - **Timestamps.** A sink shows a buffer at its timestamp plus the latency of
 *   the pipeline. The latency that the element answers follows the delay in
 *   steps of 5 ms, and a LATENCY message is posted when it changes; timestamps
 *   make up for the difference, so that frames are shown smoothly at the time
 *   planned, and streams stay in sync. Where the application does not react to
 *   LATENCY messages, all of the delay is in the timestamps. All packets of a
 *   frame have the same one; there is no DTS.
 * - **Frames.** The packets of a frame leave together, as soon as the last one
 *   is there. For audio (`media=audio` in caps) each packet is a frame.
 * - **Loss.** A missing packet is waited for until `latency` after the time its
 *   frame was due from the fastest path, as rtpjitterbuffer does; longer if the
 *   delay is longer, or a retransmission takes longer (up to 1 s). Sound that is
 *   not asked for again is waited for no longer than the delay: it does not come,
 *   and all behind it would be late. What is there of the frame leaves then, with the flag DISCONT behind the gap, and
 *   with `do-lost` an event for each lost packet. With `wait-for-keyframe` no
 *   frame leaves that is broken or predicted from a broken one.
 * - **Retransmission.** With `do-retransmission` a packet is asked for when a
 *   later one comes; later than that while packets overtake each other; again
 *   after a round trip; never when the answer would be late. The end of a frame
 *   is asked for when it is some ms late. Where a second round trip would take
 *   too long, two requests follow each other at once (`rtx-hedge`). What FEC has
 *   made is not asked for, nor what is in front of a whole key frame that is to
 *   be shown before the answer could come, nor gaps too large to be filled in time,
 *   which are not waited for either.
 * - **Sender's wish.** The RTP header extension `playout-delay`, if caps name
 *   it, sets limits within those of the properties.
 * - **Dual stream.** Frames that are decoded and not shown, by the RTP header
 *   extension `urn:x-gst-dualstream:frame:1`, do not count for the delay, and
 *   are waited for longer. Elements of the same `group` share one estimate.
 * - A jump of sequence numbers or RTP timestamps is taken for a new stream when
 *   three packets in a row say so that are not sent again. At most 16384 packets or 64 MB are held; then
 *   the oldest go.
 * - The clock rate is in the caps, or asked for by the signal `request-pt-map`.
 *
 * |[
 * gst-launch-1.0 udpsrc port=5004 caps="application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96" ! rtpkalmanjitterbuffer ! rtph264depay ! avdec_h264 ! videoconvert ! autovideosink
 * ]| Receives H.264, for example of `gst-launch-1.0 videotestsrc is-live=true ! x264enc tune=zerolatency ! rtph264pay ! udpsink port=5004`.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `num-pushed` | u64 | packets that left |
 * | `num-lost` | u64 | packets that were given up |
 * | `num-hopeless` | u64 | of those, the ones of gaps too large to be repaired: neither asked for nor waited for |
 * | `num-late` | u64 | packets that came when they were given up or had left |
 * | `num-duplicates` | u64 | packets that were there already |
 * | `avg-jitter` | u64 | interarrival jitter (RFC 3550), in ns |
 * | `rtx-count` | u64 | requests for retransmission, repeated ones included |
 * | `rtx-success-count` | u64 | retransmissions that came in time |
 * | `rtx-per-packet` | double | mean number of requests for one of those |
 * | `rtx-rtt` | u64 | from request to packet, smoothed, in ns; 0 = not known |
 * | `fec-count` | u64 | missing packets that FEC made |
 * | `num-received` | u64 | packets that came, without those of the next four |
 * | `num-other-ssrc` | u64 | dropped: of another SSRC than the one received |
 * | `num-malformed` | u64 | dropped: no RTP packets |
 * | `num-no-clock-rate` | u64 | dropped: nobody knows their clock rate |
 * | `num-astray` | u64 | sequence number or timestamp did not fit the stream; let in if they began a new one |
 * | `num-reordered` | u64 | missing packets that came by themselves |
 * | `num-dropped` | u64 | dropped since too much was held |
 * | `num-undecodable` | u64 | dropped by `wait-for-keyframe` |
 * | `restarts` | u64 | times the sender began anew |
 * | `key-frame-requests` | u64 | by `wait-for-keyframe` |
 * | `held-packets`, `held-bytes` | u64 | held now |
 * | `frames`, `late-frames` | u64 | whole frames, and those that came after their time; of all elements of the group, as all that follow |
 * | `target` | u64 | the delay and the time for decoding, in ns |
 * | `delay` | u64 | from the fastest frames of late to the time planned, in ns |
 * | `decode-time` | u64 | what is allowed for decoding, in ns |
 * | `latency` | u64 | what is answered to LATENCY queries now, in ns |
 *
 * ## Differences from rtpjitterbuffer
 *
 * `mode`, `rfc7273-sync`, the other `rtx-` properties, `post-drop-messages` and
 * the signals `on-npt-stop` and `set-active` are not there. GAP events and
 * serialised queries are not passed on.
 *
 * Since: 0.1
 */
use std::collections::VecDeque;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use dualstream_common::Timestamp;
use gst::glib;
use gst::glib::subclass::Signal;
use gst::prelude::*;
use gst::subclass::prelude::*;
use jitterbuffer_core::Timing;

use super::group::{self, lock};
use super::intake::{self, Format};
use super::reports::SenderReport;
use super::settings::{self, Settings};
use super::state::{State, Taken, Wait, Wake, Work};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtpkalmanjitterbuffer",
        gst::DebugColorFlags::empty(),
        Some("RTP jitter buffer with an adaptive delay"),
    )
});

/// Longest wait without looking again; keeps clock times far from their end.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// One warning for this many of a kind.
const WARN_EVERY: u64 = 1000;

// Lock order: settings, state, timing of the group. None is held over a push, an
// event, a query, a signal or a wait for the clock.

pub struct RtpKalmanJitterBuffer {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    rtcp_pad: Mutex<Option<gst::Pad>>,
    settings: Mutex<Settings>,
    /// From READY to PAUSED and back.
    state: Mutex<Option<State>>,
    /// The streaming thread has nothing to do.
    wake_out: Condvar,
    /// The thread that asks for packets has nothing to do.
    wake_asking: Condvar,
    asking: Mutex<Option<gst::Task>>,
    asking_lock: gst::TaskLock,
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

impl RtpKalmanJitterBuffer {
    fn time(&self) -> Time {
        let obj = self.obj();
        Some((obj.clock()?, obj.base_time()?))
    }

    /// Wakes whoever has something to do.
    fn wake(&self, out: Wake, asking: Wake) {
        for (wake, condvar) in [(out, &self.wake_out), (asking, &self.wake_asking)] {
            if let Some(clock) = wake.clock {
                clock.unschedule();
            }
            if wake.idle {
                condvar.notify_one();
            }
        }
    }

    /// Changes the state, and has both threads look at it.
    fn change(&self, change: impl FnOnce(&mut State, Timestamp)) {
        let time = self.time();
        let wakes = lock(&self.state).as_mut().map(|state| {
            change(state, now(&time));
            (state.out.wake(), state.asking.wake())
        });
        if let Some((out, asking)) = wakes {
            self.wake(out, asking);
        }
    }

    /// Waits for a change, or until a time by the clock.
    fn wait(
        &self,
        mut guard: MutexGuard<'_, Option<State>>,
        until: Option<Timestamp>,
        time: &Time,
        now: Timestamp,
        (wait, condvar): (fn(&mut State) -> &mut Wait, &Condvar),
    ) {
        let Some(state) = guard.as_mut() else { return };
        let (Some(until), Some((clock, base))) = (until, time) else {
            wait(state).idle = true;
            // Woken or not: look again.
            drop(condvar.wait(guard).unwrap_or_else(|e| e.into_inner()));
            return;
        };
        let until = now + until.since(now).min(LONGEST_WAIT);
        let id = clock.new_single_shot_id(*base + until.as_nanos().nseconds());
        wait(state).clock = Some((until, id.clone()));
        drop(guard);
        let (result, _) = id.wait();
        if let Some(state) = lock(&self.state).as_mut() {
            wait(state).clock = None;
        }
        match result {
            Ok(_) | Err(gst::ClockError::Unscheduled | gst::ClockError::Early) => (),
            Err(err) => gst::warning!(CAT, imp = self, "the clock does not wait: {err:?}"),
        }
    }

    // The streaming thread of the source pad.

    fn src_loop(&self) {
        let time = self.time();
        let now = now(&time);
        let mut work = VecDeque::new();
        {
            let mut guard = lock(&self.state);
            match guard.as_mut() {
                None => {
                    let _ = self.srcpad.pause_task();
                    return;
                }
                Some(state) if state.flushing || state.flow.is_err() => {
                    // With the lock: who makes this thread go on does so after
                    // the change of state that it sees here. It waits for
                    // nothing, as the stream lock is held already. It fails
                    // only if there is no task any more.
                    let _ = self.srcpad.pause_task();
                    return;
                }
                Some(state) => {
                    let until = state.work(now, &mut work);
                    if work.is_empty() {
                        self.wait(guard, until, &time, now, (|s| &mut s.out, &self.wake_out));
                        return;
                    }
                }
            }
        }
        for work in work {
            match work {
                Work::Buffer(buffer) => {
                    gst::log!(CAT, imp = self, "pushing {buffer:?}");
                    let flow = self.srcpad.push(buffer);
                    if flow.is_err() {
                        return self.stop(flow);
                    }
                }
                Work::Event(event) => {
                    gst::debug!(CAT, imp = self, "pushing {event:?}");
                    let eos = event.type_() == gst::EventType::Eos;
                    self.srcpad.push_event(event);
                    if eos && self.has_ended() {
                        gst::info!(CAT, imp = self, "the end");
                        return;
                    }
                }
                Work::Upstream(event) => {
                    gst::debug!(CAT, imp = self, "sending {event:?}");
                    self.sinkpad.push_event(event);
                }
                Work::Latency => {
                    let obj = self.obj();
                    gst::debug!(CAT, imp = self, "new latency");
                    // Nobody listens outside of a pipeline.
                    let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
                }
            }
        }
    }

    /// The end has gone out: that is all, unless a new stream came behind it.
    fn has_ended(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else {
            return true;
        };
        state.ends = state.ends.saturating_sub(1);
        let ended = state.eos_in && state.ends == 0;
        if ended && !state.flushing {
            state.flow = Err(gst::FlowError::Eos);
        }
        ended
    }

    fn stop(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        let after_eos = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else { return };
            if !state.flushing {
                state.flow = flow;
            }
            state.eos_in
        };
        gst::info!(CAT, imp = self, "stopping: {flow:?}");
        let Err(err) = flow else { return };
        // Else whoever pushes here gets to know, and says so.
        let fatal = !matches!(err, gst::FlowError::Flushing | gst::FlowError::Eos);
        if fatal && after_eos {
            gst::element_imp_error!(
                self,
                gst::StreamError::Failed,
                ("Internal data stream error"),
                ["streaming stopped, reason {err:?}"]
            );
            self.srcpad.push_event(gst::event::Eos::new());
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
        self.stop_asking();
        self.srcpad
            .stop_task()
            .map_err(|err| gst::loggable_error!(CAT, "the streaming thread stays: {err}"))
    }

    fn set_flushing(&self) {
        self.change(|state, _| state.flushing = true);
    }

    // The thread that asks for packets: the streaming thread may be held up by
    // the sink.

    fn ask_loop(&self) {
        let time = self.time();
        let now = now(&time);
        let event = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut().filter(|state| !state.flushing) else {
                if let Some(task) = lock(&self.asking).as_ref() {
                    let _ = task.pause();
                }
                return;
            };
            match state.next_request(now) {
                Ok(event) => event,
                Err(until) => {
                    let which: fn(&mut State) -> &mut Wait = |s| &mut s.asking;
                    self.wait(guard, until, &time, now, (which, &self.wake_asking));
                    return;
                }
            }
        };
        gst::debug!(CAT, imp = self, "sending {event:?}");
        self.sinkpad.push_event(event);
    }

    fn start_asking(&self) {
        let mut task = lock(&self.asking);
        let task = task.get_or_insert_with(|| {
            let weak = self.obj().downgrade();
            gst::Task::builder(move |_| {
                if let Some(obj) = weak.upgrade() {
                    obj.imp().ask_loop();
                }
            })
            .lock(&self.asking_lock)
            .build()
        });
        if task.state() != gst::TaskState::Started
            && let Err(err) = task.start()
        {
            gst::error!(CAT, imp = self, "nothing will be asked for: {err}");
        }
    }

    fn stop_asking(&self) {
        let task = lock(&self.asking).take();
        if let Some(task) = task {
            let stopped = task.stop();
            self.change(|_, _| ());
            if stopped.and_then(|()| task.join()).is_err() {
                gst::warning!(CAT, imp = self, "the thread for requests stays");
            }
        }
    }

    // What arrives on the sink pad.

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let header = intake::header(&buffer);
        if let Some((pt, _)) = header {
            self.learn_format(pt);
        }
        let time = self.time();
        let now = now(&time);
        let (out, asking, asks, report) = {
            let mut guard = lock(&self.state);
            let state = guard
                .as_mut()
                .filter(|state| !state.flushing)
                .ok_or(gst::FlowError::Flushing)?;
            state.flow?;
            if state.eos_in {
                return Err(gst::FlowError::Eos);
            }
            let taken = match header {
                Some((pt, ssrc)) => state.take(now, pt, ssrc, buffer),
                None => {
                    state.counts.malformed += 1;
                    Taken::No("that is malformed", state.counts.malformed)
                }
            };
            if let Taken::No(why, count) = taken {
                gst::log!(CAT, imp = self, "dropping a packet {why}");
                if is_rare(count) {
                    gst::debug!(CAT, imp = self, "dropping packets {why}, {count} so far");
                }
            }
            let (out, due) = (state.out_due(), state.asking_due());
            (
                state.out.wake_for(out),
                state.asking.wake_for(due),
                due.is_some(),
                state.next_report(),
            )
        };
        if asks {
            self.start_asking();
        }
        self.wake(out, asking);
        if let Some(report) = report {
            self.obj().emit_by_name::<()>("handle-sync", &[&report]);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn sink_chain_list(&self, list: gst::BufferList) -> Result<gst::FlowSuccess, gst::FlowError> {
        for buffer in list.iter_owned() {
            self.sink_chain(buffer)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Asks the application, once for each payload type.
    fn learn_format(&self, pt: u8) {
        let asks = lock(&self.state)
            .as_ref()
            .is_some_and(|state| state.is_unknown(pt));
        if !asks {
            return;
        }
        let caps = self
            .obj()
            .emit_by_name::<Option<gst::Caps>>("request-pt-map", &[&u32::from(pt)]);
        let format = caps
            .as_deref()
            .and_then(Format::parse)
            .or_else(|| self.format_of_caps(pt));
        if format.is_none() {
            gst::warning!(
                CAT,
                imp = self,
                "no clock rate is known for payload type {pt}: its packets are dropped. Set it in \
                 the caps of the source, as application/x-rtp,media=video,clock-rate=90000,\
                 encoding-name=H264,payload={pt}"
            );
        }
        if let Some(state) = lock(&self.state).as_mut() {
            state.learn(pt, format);
        }
    }

    /// What the caps say, which `clear-pt-map` does not change.
    fn format_of_caps(&self, pt: u8) -> Option<Format> {
        let caps = self.sinkpad.current_caps()?;
        let payload = caps.structure(0)?.get::<i32>("payload").ok()?;
        (payload == i32::from(pt))
            .then(|| Format::parse(&caps))
            .flatten()
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => {
                self.set_flushing();
                let done = gst::Pad::event_default(pad, Some(&*self.obj()), event);
                self.stop_asking();
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
        let mut accepted = true;
        let mut restart = false;
        self.change(|state, now| {
            if state.flushing {
                accepted = false;
                return;
            }
            match event.view() {
                gst::EventView::Caps(caps) => state.learn_caps(caps.caps()),
                gst::EventView::Segment(segment) => {
                    let Ok(segment) = segment.segment().clone().downcast() else {
                        accepted = false;
                        return;
                    };
                    state.segment = segment;
                    if !std::mem::replace(&mut state.segment_sent, true) {
                        // Out go running times.
                        let running = gst::FormattedSegment::<gst::ClockTime>::new();
                        let seqnum = event.seqnum();
                        let segment = gst::event::Segment::builder(&running).seqnum(seqnum);
                        state.queue_event(segment.build());
                    }
                    return;
                }
                gst::EventView::Gap(_) => return,
                gst::EventView::StreamStart(_) if state.eos_in => {
                    state.eos_in = false;
                    if state.flow == Err(gst::FlowError::Eos) {
                        state.flow = Ok(gst::FlowSuccess::Ok);
                        restart = true;
                    }
                }
                gst::EventView::Eos(_) => {
                    state.finish(now, event.clone());
                    return;
                }
                _ => (),
            }
            if state.flow.is_err() {
                accepted = false;
                return;
            }
            state.queue_event(event.clone());
        });
        if !accepted {
            gst::debug!(CAT, imp = self, "not passed on: {event:?}");
        }
        accepted && (!restart || self.start_task().is_ok())
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if query.is_serialized() {
            gst::debug!(CAT, imp = self, "refused: {query:?}");
            return false;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    fn rtcp_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let report = buffer
            .map_readable()
            .ok()
            .and_then(|data| SenderReport::parse(&data));
        let Some(report) = report else {
            gst::log!(CAT, imp = self, "no sender report");
            return Ok(gst::FlowSuccess::Ok);
        };
        let sync = lock(&self.state).as_mut().and_then(|state| {
            state.set_report(report, buffer);
            state.next_report()
        });
        if let Some(sync) = sync {
            gst::debug!(CAT, imp = self, "{sync:?}");
            self.obj().emit_by_name::<()>("handle-sync", &[&sync]);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    // What arrives on the source pad.

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Latency(latency) => self.change(|state, _| {
                state.apply_latency(latency.latency());
            }),
            gst::EventView::Qos(qos) => {
                let (_, _, diff, stamp) = qos.get();
                let time = self.time();
                if let (Some(stamp), Some(state)) = (stamp, lock(&self.state).as_mut()) {
                    state.quality(now(&time), stamp, diff);
                }
            }
            _ => (),
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let done = gst::Pad::query_default(pad, Some(&*self.obj()), query);
        if let gst::QueryViewMut::Latency(latency) = query.view_mut() {
            if !done {
                return false;
            }
            let (_, min, _) = latency.result();
            let own = lock(&self.state)
                .as_mut()
                .map(State::answer_latency)
                .unwrap_or_default();
            let own = gst::ClockTime::try_from(own).unwrap_or_default();
            // It holds any amount.
            latency.set(true, min + own, gst::ClockTime::NONE);
        }
        done
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpKalmanJitterBuffer {
    const NAME: &'static str = "GstRtpKalmanJitterBuffer";
    type Type = super::RtpKalmanJitterBuffer;
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
            rtcp_pad: Mutex::default(),
            settings: Mutex::default(),
            state: Mutex::default(),
            wake_out: Condvar::new(),
            wake_asking: Condvar::new(),
            asking: Mutex::default(),
            asking_lock: gst::TaskLock::new(),
        }
    }
}

impl ObjectImpl for RtpKalmanJitterBuffer {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        PROPERTIES.as_ref()
    }

    fn signals() -> &'static [Signal] {
        static SIGNALS: LazyLock<Vec<Signal>> = LazyLock::new(|| {
            vec![
                Signal::builder("request-pt-map")
                    .param_types([u32::static_type()])
                    .return_type::<Option<gst::Caps>>()
                    .run_last()
                    .build(),
                Signal::builder("handle-sync")
                    .param_types([gst::Structure::static_type()])
                    .run_last()
                    .build(),
                Signal::builder("clear-pt-map")
                    .action()
                    .run_last()
                    .class_handler(|values| {
                        let obj = values.first()?.get::<super::RtpKalmanJitterBuffer>().ok()?;
                        if let Some(state) = lock(&obj.imp().state).as_mut() {
                            state.clear_formats();
                        }
                        None
                    })
                    .build(),
            ]
        });
        SIGNALS.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        // To the end, or another thread's older settings come last.
        let mut settings = lock(&self.settings);
        if let Err(err) = settings.set(pspec.name(), value) {
            gst::error!(CAT, imp = self, "property {}: {err}", pspec.name());
        }
        // rtpbin has started it by the time it tells whose packets it is for.
        if pspec.name() == "group" {
            let timing = Self::timing(&settings, settings.group.as_deref());
            self.change(|state, _| state.join(timing.clone()));
        }
        self.change(|state, _| state.configure(settings.clone()));
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            let stats = lock(&self.state).as_ref().map(State::stats);
            let none = || {
                let timing = Self::timing(&lock(&self.settings), None);
                State::new(Settings::default(), timing).stats()
            };
            return stats.unwrap_or_else(none).to_value();
        }
        lock(&self.settings).value(pspec.name()).unwrap_or_else(|| {
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

impl RtpKalmanJitterBuffer {
    fn timing(settings: &Settings, group: Option<&str>) -> group::Shared {
        let timing = Timing::new(settings.model.into(), settings.timing());
        let timing = timing.expect("properties have no values that are not valid");
        group::join(group, timing)
    }
}

impl GstObjectImpl for RtpKalmanJitterBuffer {}

impl ElementImpl for RtpKalmanJitterBuffer {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTP Kalman Jitter Buffer",
                "Filter/Network/RTP",
                "Puts RTP packets in order and waits no longer than the network needs",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let rtp = gst::Caps::new_empty_simple("application/x-rtp");
            let rtcp = gst::Caps::new_empty_simple("application/x-rtcp");
            let (sink, src) = (gst::PadDirection::Sink, gst::PadDirection::Src);
            let (always, request) = (gst::PadPresence::Always, gst::PadPresence::Request);
            [
                ("sink", sink, always, &rtp),
                ("sink_rtcp", sink, request, &rtcp),
                ("src", src, always, &rtp),
            ]
            .into_iter()
            .map(|(name, direction, presence, caps)| {
                gst::PadTemplate::new(name, direction, presence, caps)
                    .expect("a plain name makes a template")
            })
            .collect()
        });
        TEMPLATES.as_ref()
    }

    fn request_new_pad(
        &self,
        templ: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        let pad = gst::Pad::builder_from_template(templ)
            .name("sink_rtcp")
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.rtcp_chain(buffer),
                )
            })
            // Nothing of it goes on.
            .event_function(|_, _, _| true)
            .iterate_internal_links_function(|_, _| gst::Iterator::from_vec(Vec::new()))
            .build();
        {
            let mut rtcp = lock(&self.rtcp_pad);
            if rtcp.is_some() {
                gst::error!(CAT, imp = self, "there is a pad sink_rtcp already");
                return None;
            }
            *rtcp = Some(pad.clone());
        }
        self.obj().add_pad(&pad).ok()?;
        Some(pad)
    }

    fn release_pad(&self, pad: &gst::Pad) {
        lock(&self.rtcp_pad).take_if(|rtcp| rtcp == pad);
        let _ = pad.set_active(false);
        let _ = self.obj().remove_pad(pad);
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                let settings = lock(&self.settings);
                let timing = Self::timing(&settings, settings.group.as_deref());
                *lock(&self.state) = Some(State::new(settings.clone(), timing));
            }
            // Running time is another one now.
            gst::StateChange::PausedToPlaying => self.change(|_, _| ()),
            _ => (),
        }
        let success = self.parent_change_state(transition)?;
        match transition {
            gst::StateChange::PausedToReady => {
                *lock(&self.state) = None;
                // A packet may have started it again after the source pad.
                self.stop_asking();
                Ok(success)
            }
            // As any live element: nothing comes in while it is paused.
            gst::StateChange::ReadyToPaused | gst::StateChange::PlayingToPaused => {
                Ok(gst::StateChangeSuccess::NoPreroll)
            }
            _ => Ok(success),
        }
    }

    fn set_clock(&self, clock: Option<&gst::Clock>) -> bool {
        let done = self.parent_set_clock(clock);
        self.change(|_, _| ());
        done
    }
}
