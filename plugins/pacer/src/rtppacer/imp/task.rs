// SPDX-License-Identifier: MPL-2.0
//! The streaming thread of the source pad.

use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};
use gst::prelude::*;
use gst::subclass::prelude::*;
use pacer_core::Next;

use super::{CAT, RtpPacer, Time, is_rare, lock, now};
use crate::rtppacer::padding;
use crate::rtppacer::state::{Item, State};

/// Longest wait without looking again; keeps clock times far from their end.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Packets that have left the core and not yet the element. Only if downstream
/// is slow there are as many.
const MOST_READY: usize = 256;
/// A thread that is later than this does not make up for more. Larger: the rate
/// is kept on a busy machine; smaller: less at once after a stall.
const MOST_LATE_NS: u64 = 2_000_000;

/// What the streaming thread does next, without the lock.
enum Work {
    Buffers(Vec<gst::Buffer>),
    /// Upstream.
    Requests(Vec<gst::Event>),
    Event(gst::Event),
    Wait(gst::SingleShotClockId),
    /// Something was done; look again.
    Again,
}

impl RtpPacer {
    pub(super) fn src_loop(&self) {
        let time = self.time();
        let work = {
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
                Some(state) => match self.next(state, &time) {
                    Some(work) => work,
                    None => {
                        state.idle = true;
                        // Woken or not: look again.
                        drop(self.wake.wait(guard).unwrap_or_else(|e| e.into_inner()));
                        return;
                    }
                },
            }
        };
        match work {
            Work::Again => (),
            Work::Wait(id) => self.wait(&id),
            Work::Buffers(buffers) => {
                for buffer in buffers {
                    gst::log!(CAT, imp = self, "pushing {buffer:?}");
                    let flow = self.srcpad.push(buffer);
                    if flow.is_err() {
                        return self.stop(flow);
                    }
                }
            }
            Work::Requests(events) => self.answer(events),
            Work::Event(event) => {
                gst::debug!(CAT, imp = self, "pushing {event:?}");
                self.srcpad.push_event(event);
            }
        }
    }

    /// `None`: nothing to do until something changes.
    fn next(&self, state: &mut State, time: &Time) -> Option<Work> {
        let now = now(time);
        self.run_core(state, now, time.is_some());
        state.requests.run(now);
        if !state.requests.ready.is_empty() {
            let ready = std::mem::take(&mut state.requests.ready);
            return Some(Work::Requests(ready));
        }
        if !state.ready.is_empty() {
            return Some(Work::Buffers(std::mem::take(&mut state.ready)));
        }
        if state.core.is_empty() {
            if let Some(item) = state.behind.pop_front() {
                return Some(self.advance(state, item, now));
            }
        } else if state.due.is_none() && state.eos_in {
            gst::warning!(CAT, imp = self, "EOS at a rate of zero, dropping packets");
            state.core.flush();
            return Some(Work::Again);
        }
        let (until, (clock, base)) = (state.next_due()?, time.as_ref()?);
        let wait = until.since(now).min(LONGEST_WAIT);
        gst::trace!(CAT, imp = self, "waiting for {wait:?}");
        let until = now + wait;
        let id = clock.new_single_shot_id(*base + until.as_nanos().nseconds());
        state.wait = Some((until, id.clone()));
        Some(Work::Wait(id))
    }

    /// Asks the core at each time at which it wanted to be asked, up to now, so
    /// that a thread that runs late does not change what is decided. Whoever
    /// has something for the core does this, too.
    pub(super) fn run_core(&self, state: &mut State, now: Timestamp, has_clock: bool) {
        let earliest = Timestamp::from_nanos(now.as_nanos().saturating_sub(MOST_LATE_NS));
        let mut time = state.due.map_or(now, |due| due.max(earliest).min(now));
        state.due = Some(now);
        while state.ready.len() < MOST_READY {
            match state.core.poll(time) {
                Next::Send(departure) => {
                    state.requests.sent(time, &departure);
                    let mut buffer = departure.packet;
                    if let Some(id) = departure.probe {
                        padding::mark_probe(buffer.make_mut(), id);
                    }
                    state.ready.push(buffer);
                }
                Next::Pad { size, probe } => {
                    let made = self.make_padding(state, time, size, probe);
                    state.ready.extend(made);
                }
                Next::WaitUntil(until) if until <= now => time = until,
                // No clock, no waiting. Time jumps back when there is one.
                Next::WaitUntil(until) if !has_clock && !state.core.is_empty() => time = until,
                Next::WaitUntil(until) => {
                    state.due = Some(until);
                    return;
                }
                Next::Idle if time < now => time = now,
                Next::Idle => {
                    state.due = None;
                    return;
                }
            }
        }
    }

    /// Takes the event that comes next, and into the core the packets that
    /// may go after it.
    fn advance(&self, state: &mut State, event: Item, now: Timestamp) -> Work {
        let mut work = Work::Again;
        let mut next = Some(event);
        while let Some(item) = next {
            match item {
                Item::Buffer(header, priority, buffer) => {
                    self.enqueue(state, now, header, priority, buffer);
                }
                Item::Event(event) if matches!(work, Work::Again) && state.core.is_empty() => {
                    state.open |= event.type_() == gst::EventType::Segment;
                    if event.type_() == gst::EventType::Eos {
                        // Before it leaves: a new stream may follow at once.
                        state.flow = Err(gst::FlowError::Eos);
                    }
                    work = Work::Event(event);
                }
                Item::Event(_) => {
                    state.behind.push_front(item);
                    break;
                }
            }
            next = state.behind.pop_front();
        }
        work
    }

    fn make_padding(
        &self,
        state: &mut State,
        now: Timestamp,
        size: DataSize,
        probe: Option<u32>,
    ) -> Option<gst::Buffer> {
        let pt = state
            .padding_pt
            .filter(|pt| !state.classifier.is_media(*pt))
            .or_else(|| state.classifier.padding_pt())
            .filter(|_| state.open && !state.eos_in);
        let Some(pt) = pt else {
            state.padding_skipped += 1;
            if is_rare(state.padding_skipped) {
                gst::debug!(CAT, imp = self, "no padding packet can be made");
            }
            return None;
        };
        let time = now.as_nanos().nseconds();
        let twcc = state.classifier.twcc_id();
        let mut buffer = state.padding.packet(pt, twcc, size.as_bytes(), time);
        if let Some(id) = probe {
            padding::mark_probe(buffer.make_mut(), id);
        }
        state.padded += 1;
        state.padded_bytes += size;
        Some(buffer)
    }

    fn wait(&self, id: &gst::SingleShotClockId) {
        let (result, _) = id.wait();
        if let Some(state) = lock(&self.state).as_mut() {
            state.wait = None;
        }
        match result {
            Ok(_) | Err(gst::ClockError::Unscheduled | gst::ClockError::Early) => (),
            Err(err) => {
                gst::error!(CAT, imp = self, "the clock cannot be waited for: {err:?}");
                gst::element_imp_error!(
                    self,
                    gst::CoreError::Clock,
                    ("The clock cannot be waited for"),
                    ["{err:?}"]
                );
                self.stop(Err(gst::FlowError::Error));
            }
        }
    }

    /// Downstream wants no more.
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
}
