// SPDX-License-Identifier: MPL-2.0
//! Which packets are asked for again, and when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use dualstream_common::Timestamp;

use super::LONGEST_REPAIR;
use super::config::{BufferConfig, RequestConfig};
use super::packet::{Origin, Request};
use super::reorder::{Reordering, RoundTrip, Smoothed};
use super::store::{Missing, Store};
use crate::adaptive::Window;
use crate::timing::nanos;

/// What later packets do not tell is asked for after this time.
const PATIENCE: Duration = Duration::from_millis(10);

/// So many that are not valid are of no concern.
const FEW: usize = 64;
/// No more packets are asked for at the same time (as libwebrtc); those beyond
/// are not asked for at all. Requests cannot mend such a loss, and a sender
/// that skips numbers is not to make us send them without end.
const MOST: usize = 1000;

/// A gap of so many can always be repaired in time; of more, if a link that brings
/// as many packets as of late can: what is sent again goes the same way.
const FEW_MISSING: usize = 32;
const SECOND: Duration = Duration::from_secs(1);

/// A frame is not given up before so many requests could be answered: to ask
/// for the packet once more takes one round trip, and to have a key frame sent
/// in its place takes no less.
const TRIES: u32 = 3;

/// Packets that were given up and may still come; the oldest are forgotten.
const REMEMBERED: usize = 64;

/// What to ask for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum NextRequest {
    Ask(Request),
    WaitUntil(Timestamp),
    Idle,
}

/// What is done about a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Gap {
    /// It may be filled.
    Waits,
    /// More is missing than comes in the time there is: the way back is a key
    /// frame, or the other stream, the sooner the better.
    Hopeless,
}

/// How many packets come in a second, while any come.
#[derive(Clone, Copy, Debug, Default)]
struct Inflow {
    since: Timestamp,
    count: u32,
    before: u32,
}

impl Inflow {
    fn packet(&mut self, now: Timestamp) {
        if now.since(self.since) >= SECOND {
            self.before = self.count;
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
    }

    fn within(&self, time: Duration) -> usize {
        if time == Duration::MAX {
            return usize::MAX;
        }
        let packets = f64::from(self.before.max(self.count)) * time.as_secs_f64();
        (packets as usize).max(FEW_MISSING)
    }
}

/// The end of a frame: nothing comes behind a lost one that tells of it.
#[derive(Clone, Copy, Debug)]
struct Tail {
    /// That of the packet that should come.
    number: u64,
    timestamp: u32,
    /// When the packet before it came.
    last: Timestamp,
    /// Most frames would have been whole then.
    overdue: bool,
    /// When it is asked for next.
    due: Option<Timestamp>,
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    first: Timestamp,
    times: u32,
    hedged: bool,
    /// If it has not come by then, it is asked for as any other missing one.
    again: Timestamp,
}

/// One packet in so many may be asked for twice at once: what that costs is
/// bounded where much is lost.
const HEDGED: u32 = 20;
/// So many may be, after a long time without a loss.
const MOST_HEDGED: u32 = 4;
/// Between both requests, of a round trip: what lost one is to be over.
const HEDGE_PART: u32 = 8;
const HEDGE_AFTER: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// From one packet of a frame to the next, at least.
const LEAST_SPACING: Duration = Duration::from_millis(5);
/// The end of a frame may be so many deviations later.
const SPACING_DEVIATIONS: f64 = 6.0;
/// So many whole frames come later than the others: the end of these is asked
/// for without need.
const LATE_ENDS: f64 = 0.05;
const TRANSITS: Duration = Duration::from_secs(8);

#[derive(Clone, Debug)]
pub(super) struct Requests {
    /// At most one that is valid for each missing packet: the one with the time
    /// that the packet's slot says. The others are swept out when they are too
    /// many.
    due: BinaryHeap<Reverse<(Timestamp, u64)>>,
    /// Packets that were asked for once and given up, and when that was. Else
    /// nothing is learnt where all answers are too late.
    given_up: VecDeque<(u64, Timestamp)>,
    rtt: RoundTrip,
    order: Reordering,
    inflow: Inflow,
    tail: Option<Tail>,
    /// Time stamp of the last frame with a marker.
    ended: Option<u32>,
    /// Between packets of one frame; the second, where most frames would have
    /// been whole: behind a queue that held them up, or of large frames.
    spacing: [Option<Smoothed>; 2],
    /// Of whole frames that nothing was repaired of, after the earliest time
    /// they could have come.
    transits: Window,
    /// Packets since the last ones that were asked for twice at once, for each
    /// of those.
    credit: u32,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            due: BinaryHeap::new(),
            given_up: VecDeque::new(),
            rtt: RoundTrip::default(),
            order: Reordering::default(),
            inflow: Inflow::default(),
            tail: None,
            ended: None,
            spacing: [None; 2],
            transits: Window::new(TRANSITS, 0),
            credit: 0,
        }
    }
}

impl Requests {
    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.tail = None;
        self.given_up.clear();
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.known()
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        let missing = self.due.peek().map(|Reverse((due, _))| *due);
        let tail = self.tail.and_then(|tail| tail.due);
        match (missing, tail) {
            (Some(missing), Some(tail)) => Some(missing.min(tail)),
            (missing, tail) => missing.or(tail),
        }
    }

    /// How long a packet is missing that has to be asked for [`TRIES`] times.
    pub(super) fn repair(&self, config: &BufferConfig) -> Duration {
        if config.request.enabled && self.rtt.known().is_some() {
            let wait = config.request.min_delay.max(PATIENCE);
            (self.rtt.timeout() * TRIES + wait).min(LONGEST_REPAIR)
        } else {
            Duration::ZERO
        }
    }

    /// A packet came behind all others; the last `gap` before it are missing, and
    /// waited for up to `hold`.
    pub(super) fn behind<P>(
        &mut self,
        now: Timestamp,
        number: u64,
        (gap, hold): (usize, Duration),
        config: &BufferConfig,
        store: &mut Store<P>,
    ) -> Gap {
        let RequestConfig {
            enabled,
            reorder_packets,
            min_delay,
            ..
        } = config.request;
        let most = self.inflow.within(hold);
        self.inflow.packet(now);
        if !enabled {
            return Gap::Waits;
        }
        let overtaken = self.order.delay(now);
        let by_count = u64::from(reorder_packets.unwrap_or(0));
        let counts = by_count > 0 && overtaken.is_none();
        let patience = reorder_packets.map_or(Duration::ZERO, |_| PATIENCE);
        let wait = overtaken.unwrap_or(patience).max(min_delay);
        self.credit = (self.credit + 1).min(MOST_HEDGED * HEDGED);
        self.sweep(store);
        if overtaken.is_none() && gap > most {
            return Gap::Hopeless;
        }
        // The last ones: what follows them is here.
        let asked = gap.min(MOST.saturating_sub(self.due.len()));
        for missing in number - asked as u64..number {
            let certain = counts && number - missing >= by_count;
            let due = if certain { now } else { now + wait };
            let due = self.asked_as_end(store, missing).unwrap_or(due);
            self.schedule(store, missing, due);
        }
        // This packet makes the certain number for one before the gap.
        if counts
            && let Some(missing) = number.checked_sub(by_count)
            && store
                .missing(missing)
                .is_some_and(|m| m.requests == 0 && m.due.is_some_and(|due| due > now))
        {
            self.schedule(store, missing, now);
        }
        Gap::Waits
    }

    /// What was asked for as the end of a frame is known to be missing now: when
    /// it is to be asked for again.
    fn asked_as_end<P>(&self, store: &mut Store<P>, number: u64) -> Option<Timestamp> {
        let tail = self.tail.filter(|tail| tail.number == number)?;
        let asked = tail.asked?;
        let missing = store.missing(number)?;
        missing.requests = asked.times;
        missing.requested = asked.first;
        missing.hedged = asked.hedged;
        Some(asked.again)
    }

    /// A packet came behind all others. If its frame is to go on, but does not,
    /// what follows is asked for; whoever has not sent that yet does not answer.
    pub(super) fn goes_on(
        &mut self,
        now: Timestamp,
        number: u64,
        timestamp: u32,
        (marker, origin): (bool, Origin),
        earliest: Option<Timestamp>,
        config: &RequestConfig,
    ) {
        if let Some(before) = self.tail
            && before.timestamp == timestamp
            && before.number == number
            && origin == Origin::Network
        {
            let seconds = now.since(before.last).as_secs_f64();
            let [all, overdue] = &mut self.spacing;
            let first = Smoothed::first(seconds);
            all.get_or_insert(first).add(seconds);
            if before.overdue {
                overdue.get_or_insert(first).add(seconds);
            }
        }
        self.tail = None;
        if marker {
            self.ended = Some(timestamp);
        }
        // Without markers nobody knows where a frame ends, and behind one there
        // may be FEC.
        let goes_on = self.ended.is_some_and(|ended| ended != timestamp);
        if goes_on && config.enabled {
            let whole = earliest.and_then(|earliest| self.whole_by(earliest));
            let overdue = whole.is_some_and(|whole| whole <= now + LEAST_SPACING);
            let [all, late] = self.spacing;
            let spacing = if overdue { late.or(all) } else { all };
            let wait = spacing
                .map(|spacing| spacing.above(SPACING_DEVIATIONS))
                .unwrap_or_default()
                .max(LEAST_SPACING);
            let wait = match whole {
                Some(whole) if !overdue => wait.min(whole.since(now)),
                _ => wait,
            };
            let overtaken = self.order.delay(now).unwrap_or_default();
            let wait = wait.max(overtaken).max(config.min_delay);
            self.tail = Some(Tail {
                number: number + 1,
                timestamp,
                last: now,
                overdue,
                due: Some(now + wait),
                asked: None,
            });
        }
    }

    /// A frame is whole, and nothing of it was repaired.
    pub(super) fn whole(&mut self, earliest: Timestamp, arrival: Timestamp) {
        self.transits.push(arrival, nanos(arrival.since(earliest)));
    }

    /// When most frames are whole that could have come at `earliest`.
    fn whole_by(&self, earliest: Timestamp) -> Option<Timestamp> {
        let transit = self.transits.exceeded_by(LATE_ENDS)?;
        Some(earliest + Duration::from_nanos(transit.cast_unsigned()))
    }

    /// Another packet came.
    pub(super) fn forget_tail(&mut self) {
        self.tail = None;
    }

    /// A retransmission came behind all others: it was asked for as the end of
    /// a frame. False if it was not.
    pub(super) fn ended(&mut self, now: Timestamp, number: u64) -> bool {
        match self.tail {
            Some(Tail {
                number: tail,
                asked: Some(asked),
                ..
            }) if tail == number => {
                self.rtt.answered(now.since(asked.first));
                true
            }
            _ => false,
        }
    }

    fn next_tail(
        &mut self,
        now: Timestamp,
        config: &RequestConfig,
        until: &impl Fn(u64, u32, Timestamp, bool) -> Timestamp,
        playout: &impl Fn(u32) -> Option<Timestamp>,
    ) -> NextRequest {
        let Some(mut tail) = self.tail else {
            return NextRequest::Idle;
        };
        match tail.due {
            None => return NextRequest::Idle,
            Some(due) if due > now => return NextRequest::WaitUntil(due),
            Some(_) => tail.due = None,
        }
        let until = until(tail.number, tail.timestamp, tail.last, false);
        let retry = tail.asked.map_or(0, |asked| asked.times);
        // There may have been more when it was asked for.
        let last = config.max_retries.is_some_and(|most| retry > most);
        if last || now + self.rtt.known().unwrap_or_default() > until {
            self.tail = Some(tail);
            return NextRequest::Idle;
        }
        match &mut tail.asked {
            Some(asked) => {
                asked.times += 1;
                asked.again = now + self.rtt.timeout();
            }
            None => {
                let in_time = playout(tail.timestamp).map(|playout| playout.since(now));
                let (after, hedged) = self.repeat_after(config, in_time);
                let again = now + after;
                tail.due = (hedged && config.max_retries != Some(0)).then_some(again);
                tail.asked = Some(Asked {
                    first: now,
                    times: 1,
                    hedged,
                    again,
                });
            }
        }
        self.tail = Some(tail);
        NextRequest::Ask(Request {
            sequence: tail.number as u16,
            retry,
            delay: now.since(tail.last),
            deadline: until.since(now),
        })
    }

    fn schedule<P>(&mut self, store: &mut Store<P>, number: u64, due: Timestamp) {
        if let Some(missing) = store.missing(number) {
            missing.due = Some(due);
            self.due.push(Reverse((due, number)));
        }
        self.sweep(store);
    }

    fn sweep<P>(&mut self, store: &Store<P>) {
        if self.due.len() > 2 * store.len() + FEW {
            self.due
                .retain(|Reverse((due, number))| store.is_due(*number, *due));
        }
    }

    /// A missing packet came.
    pub(super) fn filled(&mut self, now: Timestamp, missing: &Missing, origin: Origin) {
        match origin {
            Origin::Retransmission
                if missing.requests == 1 || (missing.hedged && missing.requests == 2) =>
            {
                self.rtt.answered(now.since(missing.requested));
            }
            // Not an answer, if it comes sooner than one can.
            Origin::Network
                if missing.requests == 0 || now.since(missing.requested) < self.rtt.mean() / 2 =>
            {
                self.order.overtaken(now, now.since(missing.since));
            }
            _ => (),
        }
    }

    /// A missing packet is not waited for any longer.
    pub(super) fn give_up(&mut self, number: u64, missing: &Missing) {
        if missing.requests != 1 {
            return;
        }
        if self.given_up.len() >= REMEMBERED {
            self.given_up.pop_front();
        }
        self.given_up.push_back((number, missing.requested));
    }

    /// An answer came for a packet that was given up. One that no packet is waited
    /// for was held up by an outage and says nothing of the next ones: with such a
    /// round trip nothing would be asked for, and nothing else be learnt.
    pub(super) fn too_late(&mut self, now: Timestamp, number: u64) {
        let at = self.given_up.iter().position(|(n, _)| *n == number);
        if let Some((_, requested)) = at.and_then(|at| self.given_up.remove(at)) {
            let took = now.since(requested);
            if took <= LONGEST_REPAIR {
                self.rtt.answered(took);
            }
        }
    }

    /// How soon a packet is asked for again; `in_time`: how much time there is
    /// until it should be shown.
    fn repeat_after(
        &mut self,
        config: &RequestConfig,
        in_time: Option<Duration>,
    ) -> (Duration, bool) {
        let timeout = self.rtt.timeout();
        let (Some(rtt), Some(in_time)) = (self.rtt.known(), in_time) else {
            return (timeout, false);
        };
        let again = in_time > timeout + rtt;
        if !config.hedge || again || self.credit < HEDGED {
            return (timeout, false);
        }
        self.credit -= HEDGED;
        let (least, most) = HEDGE_AFTER;
        ((rtt / HEDGE_PART).clamp(least, most), true)
    }

    /// `until`: how long a packet is of use, by its number, the time stamp behind the
    /// gap, when it was missed, and whether it is not shown; `playout`: when it should be
    /// shown, by the same time stamp.
    pub(super) fn next<P>(
        &mut self,
        now: Timestamp,
        config: &BufferConfig,
        store: &mut Store<P>,
        until: impl Fn(u64, u32, Timestamp, bool) -> Timestamp,
        playout: impl Fn(u32) -> Option<Timestamp>,
    ) -> NextRequest {
        if !config.request.enabled {
            self.clear();
        }
        let tail = self.next_tail(now, &config.request, &until, &playout);
        if let NextRequest::Ask(_) = tail {
            return tail;
        }
        while let Some(Reverse((due, number))) = self.due.peek().copied() {
            let Some(missing) = store.missing(number).filter(|m| m.due == Some(due)) else {
                self.due.pop();
                continue;
            };
            if due > now {
                return match tail {
                    NextRequest::WaitUntil(tail) => NextRequest::WaitUntil(tail.min(due)),
                    _ => NextRequest::WaitUntil(due),
                };
            }
            self.due.pop();
            missing.due = None;
            let retry = missing.requests;
            let last = config.request.max_retries.is_some_and(|most| retry > most);
            let until = until(number, missing.timestamp, missing.since, missing.hidden);
            // How long an answer takes is learnt from the first ones.
            let answer = self.rtt.known().unwrap_or_default();
            if last || now + answer > until {
                continue;
            }
            let in_time = playout(missing.timestamp)
                .filter(|_| retry == 0 && !missing.hidden)
                .map(|playout| playout.since(now));
            let (after, hedged) = self.repeat_after(&config.request, in_time);
            if retry != 1 || !missing.hedged {
                missing.requested = now;
                missing.hedged = hedged;
            }
            missing.requests += 1;
            let delay = now.since(missing.since);
            self.schedule(store, number, now + after);
            return NextRequest::Ask(Request {
                sequence: number as u16,
                retry,
                delay,
                deadline: until.since(now),
            });
        }
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::store::Held;
    use crate::{Assembly, Packet, Part};
    use dualstream_common::DataSize;

    fn held(now: Timestamp) -> Held<()> {
        let packet = Packet {
            sequence: 0,
            timestamp: 0,
            marker: false,
            size: DataSize::ZERO,
            origin: Origin::Network,
            part: Part::default(),
            number: None,
            hidden: false,
            data: (),
        };
        Held {
            packet,
            arrival: now,
            told: false,
        }
    }

    /// Each packet says that many are missing, and all are given up at once.
    #[test]
    fn what_is_of_no_use_any_more_is_swept_out() {
        let config = BufferConfig {
            request: RequestConfig {
                enabled: true,
                ..RequestConfig::default()
            },
            ..BufferConfig::default()
        };
        let mut requests = Requests::default();
        let mut store = Store::new(Assembly::Frames);
        let now = Timestamp::from_millis(5);
        for n in 0..1000 {
            let number = n * 3001;
            store.insert(number, held(now));
            let gap = if n == 0 { 0 } else { 3000 };
            let _ = requests.behind(now, number, (gap, Duration::MAX), &config, &mut store);
            assert!(requests.due.len() <= 2 * store.len() + FEW, "{n}");
            while store.pop().is_some() {}
        }
    }
}
