// SPDX-License-Identifier: MPL-2.0
//! Packets in, in any order; out in their order, whole frames at a time.
//!
//! ```text
//! packet -> Sequence -> Store (gaps) -> whole run at the front? -> ready -> out
//!              |          |    |           given up? --------------^
//!           restart       |    +-> Requests -> ask again
//!                         +-> whole run anywhere -> Timing
//! ```
//!
//! A run is what belongs to one frame: packets of one time stamp up to the
//! marker. A frame leaves when it is whole and all before it have left: whoever
//! shows it waits until `Out::render`. What is missing is waited for until the
//! deadline of the frame behind the gap.

mod config;
mod jitter;
mod packet;
mod reorder;
mod requests;
mod sequence;
mod stats;
mod store;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};

pub use config::{Assembly, BufferConfig, RequestConfig};
use jitter::Jitter;
pub use packet::{Begin, Lost, Origin, Out, Packet, Rejected, Request};
pub use requests::NextRequest;
use requests::{Gap, Requests};
use sequence::{Bounds, Sequence, Verdict};
pub use stats::BufferStats;
use store::{Held, Placed, Slot, Store};

use crate::adaptive::LONGEST_DELAY;
use crate::timing::{StreamId, Timing, Whole, nanos, ticks_to_nanos};

/// With requests, no packet is given up before one could be answered; up to
/// this.
const LONGEST_REPAIR: Duration = Duration::from_secs(1);
/// Frames that are not shown have no time to be shown at: they are waited for
/// so long after the last packet, or the one that told that another is missing,
/// or until the first shown frame behind them has to go.
const HIDDEN_HOLD: Duration = Duration::from_secs(1);
/// No packet of them is asked for that could have been here so long ago: their
/// sender has given up a picture that was not said complete by then (docs/
/// dual-stream.md, at most 3 s after its last byte).
const HIDDEN_AGE: Duration = Duration::from_secs(3);
/// Gaps at a time; older ones are waited for.
const MOST_HOPELESS: usize = 8;
/// A key frame is asked for again after this time, if nothing came.
const KEY_REPEAT: Duration = Duration::from_millis(500);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next<P> {
    Packet(Out<P>),
    Lost(Lost),
    /// Nothing can be decoded without one.
    AskForKeyFrame,
    WaitUntil(Timestamp),
    Idle,
}

/// On its way out. When it is to be shown is told when it leaves, but for what
/// was before a restart: later its time stamps say nothing.
#[derive(Clone, Debug)]
enum Item<P> {
    Packet {
        packet: Packet<P>,
        epoch: u64,
        number: u64,
        /// Since when it could go.
        ready: Timestamp,
        begin: Option<Begin>,
        discont: bool,
        render: Option<Timestamp>,
    },
    Lost {
        first: u64,
        count: u64,
        timestamp: u32,
        requests: u32,
        ready: Timestamp,
        render: Option<Timestamp>,
    },
}

/// The jitter buffer of one stream.
#[derive(Clone, Debug)]
pub struct JitterBuffer<P> {
    config: BufferConfig,
    stream: StreamId,
    sequence: Sequence<P>,
    store: Store<P>,
    requests: Requests,
    ready: VecDeque<Item<P>>,
    ready_bytes: u64,
    ready_packets: usize,
    jitter: Jitter,
    /// The front begins a run.
    clean: bool,
    /// Time stamp of the frame that has left in part, and whether the rest of
    /// it is dropped.
    partial: Option<(u32, bool)>,
    /// Of the last packet that left the store.
    last_timestamp: Option<u32>,
    last_arrival: Timestamp,
    /// Of the last frame that went out.
    rendered: Option<(u32, Timestamp)>,
    discont: bool,
    /// The last key frame that is whole: number and time stamp of its first packet,
    /// and whether it is not shown.
    key: Option<(u64, u32, bool)>,
    /// Numbers of gaps that are too large to be filled in time; they are not waited
    /// for. What is missing before them is.
    hopeless: VecDeque<Range<u64>>,
    /// Only a key frame can be decoded; when one was asked for last.
    waiting: Option<Option<Timestamp>>,
    /// One is to be asked for.
    key_wanted: bool,
    stats: BufferStats,
}

impl<P> JitterBuffer<P> {
    pub fn new(config: BufferConfig, timing: &mut Timing) -> Self {
        Self {
            stream: timing.join(config.clock_rate),
            sequence: Sequence::default(),
            store: Store::new(config.assembly),
            requests: Requests::default(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            ready_packets: 0,
            jitter: Jitter::default(),
            clean: true,
            partial: None,
            last_timestamp: None,
            last_arrival: Timestamp::ZERO,
            rendered: None,
            discont: true,
            key: None,
            hopeless: VecDeque::new(),
            waiting: config.wait_for_key.then_some(None),
            key_wanted: false,
            stats: BufferStats::default(),
            config,
        }
    }

    /// Holds for what comes from now on; assembly and clock rate stay.
    pub fn configure(&mut self, config: BufferConfig) {
        if config.wait_for_key != self.config.wait_for_key {
            self.waiting = None;
            self.key_wanted = false;
        }
        self.config = BufferConfig {
            assembly: self.config.assembly,
            clock_rate: self.config.clock_rate,
            ..config
        };
    }

    /// What comes from now on has another clock rate, or another assembly. What
    /// is held goes out.
    pub fn reform(&mut self, now: Timestamp, config: BufferConfig, timing: &mut Timing) {
        self.sequence = Sequence::default();
        self.drain(now);
        self.settle(timing);
        self.config = config;
        self.stats.restarts += 1;
        self.begin_anew(timing);
    }

    #[must_use]
    pub fn config(&self) -> &BufferConfig {
        &self.config
    }

    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// A packet came at `now`.
    pub fn push(
        &mut self,
        now: Timestamp,
        packet: Packet<P>,
        timing: &mut Timing,
    ) -> Result<(), Rejected> {
        self.stats.received += 1;
        let bounds = Bounds {
            clock_rate: self.config.clock_rate,
            max_dropout: self.config.max_dropout,
            max_misorder: self.config.max_misorder,
        };
        let done = match self.sequence.judge(packet, &bounds) {
            Verdict::Here(number, packet) => self.insert(now, number, packet, timing),
            Verdict::Restart(packets) => {
                self.restart(now, timing);
                self.readmit(now, packets, &bounds, timing)
            }
            Verdict::Astray => {
                self.stats.astray += 1;
                Err(Rejected::Astray)
            }
            Verdict::Late => {
                self.stats.late += 1;
                Err(Rejected::Late)
            }
        };
        self.advance(now);
        if self.limit(now) {
            // What was dropped may have been in the way of others.
            self.advance(now);
        }
        done
    }

    /// What leaves at `now`. To be called again until it is `WaitUntil` or
    /// `Idle`.
    pub fn poll(&mut self, now: Timestamp, timing: &Timing) -> Next<P> {
        loop {
            if std::mem::take(&mut self.key_wanted) {
                return Next::AskForKeyFrame;
            }
            if let Some(item) = self.ready.pop_front() {
                return self.leave(item, timing);
            }
            match self.deadline(timing) {
                None => return Next::Idle,
                Some(at) if at > now => return Next::WaitUntil(at),
                Some(_) => {
                    self.give_up(now);
                    self.advance(now);
                }
            }
        }
    }

    /// When `poll` has something to do; the past: now.
    #[must_use]
    pub fn due(&self, timing: &Timing) -> Option<Timestamp> {
        if self.ready.is_empty() && !self.key_wanted {
            self.deadline(timing)
        } else {
            Some(Timestamp::ZERO)
        }
    }

    /// Epoch and number that follow all packets that have come.
    #[must_use]
    pub fn end(&self) -> (u64, u64) {
        let number = self.store.head() + self.store.len() as u64;
        (self.stats.restarts, number)
    }

    /// Epoch and number that follow all packets that have gone.
    #[must_use]
    pub fn begin(&self) -> (u64, u64) {
        let ready = self.ready.iter().find_map(|item| match item {
            Item::Packet { epoch, number, .. } => Some((*epoch, *number)),
            _ => None,
        });
        ready.unwrap_or((self.stats.restarts, self.store.head()))
    }

    /// What to ask for at `now`. To be called again until it is `WaitUntil` or
    /// `Idle`.
    pub fn next_request(&mut self, now: Timestamp, timing: &Timing) -> NextRequest {
        let (config, stream) = (&self.config, self.stream);
        let repair = self.requests.repair(config);
        let until_of = |timestamp, since, hidden| {
            if hidden {
                let plan = timing.plan(stream, timestamp);
                let age = plan.map_or(since, |plan| plan.earliest) + HIDDEN_AGE;
                age.min(since + HIDDEN_HOLD)
            } else {
                give_up_at(timing, stream, timestamp, since, config.hold, repair)
            }
        };
        let playout = |timestamp| timing.plan(stream, timestamp).map(|plan| plan.playout);
        let key = self.key;
        let until = |number, timestamp, since, hidden| {
            let until: Timestamp = until_of(timestamp, since, hidden);
            match key {
                // Nothing is predicted from what is in front of it.
                Some((first, ..)) if number >= first => until,
                Some((.., true)) if hidden => Timestamp::ZERO,
                Some((_, timestamp, false)) => {
                    playout(timestamp).map_or(until, |playout| playout.min(until))
                }
                _ => until,
            }
        };
        let next = self
            .requests
            .next(now, config, &mut self.store, until, playout);
        if let NextRequest::Ask(_) = next {
            self.stats.requests += 1;
        }
        next
    }

    /// When `next_request` may have something to ask for.
    #[must_use]
    pub fn request_due(&self) -> Option<Timestamp> {
        self.requests.due()
    }

    /// All that is held goes out, whatever is missing.
    pub fn drain(&mut self, now: Timestamp) {
        while !self.store.is_empty() {
            self.give_up(now);
            self.advance(now);
        }
        self.requests.clear();
    }

    /// All that is held is dropped, and what comes next begins anew.
    pub fn flush(&mut self, timing: &mut Timing) {
        self.stats.dropped += (self.store.held() + self.ready_packets) as u64;
        self.ready.clear();
        (self.ready_bytes, self.ready_packets) = (0, 0);
        self.sequence = Sequence::default();
        self.begin_anew(timing);
    }

    #[must_use]
    pub fn stats(&self) -> BufferStats {
        BufferStats {
            rtt: self.requests.rtt(),
            jitter: self.jitter.value(),
            held_packets: self.store.held() + self.ready_packets,
            held_bytes: self.store.bytes() + self.ready_bytes,
            ..self.stats
        }
    }

    /// The packets that a stream begins anew with; the last one came just now,
    /// and it is what is answered for. They follow each other by their
    /// numbers, which is not to say that their time stamps do.
    fn readmit(
        &mut self,
        now: Timestamp,
        packets: Vec<Packet<P>>,
        bounds: &Bounds,
        timing: &mut Timing,
    ) -> Result<(), Rejected> {
        let before = packets.len().saturating_sub(1);
        let mut done = Ok(());
        for (n, packet) in packets.into_iter().enumerate() {
            let is_here = match self.sequence.judge(packet, bounds) {
                Verdict::Here(number, packet) => {
                    done = self.insert(now, number, packet, timing);
                    true
                }
                _ => {
                    done = Err(Rejected::Astray);
                    false
                }
            };
            if n < before {
                self.stats.readmitted += u64::from(is_here);
            } else {
                self.stats.astray += u64::from(!is_here);
            }
        }
        done
    }

    fn restart(&mut self, now: Timestamp, timing: &mut Timing) {
        self.drain(now);
        self.settle(timing);
        self.stats.restarts += 1;
        self.begin_anew(timing);
    }

    /// Tells when each that is on its way out is to be shown.
    fn settle(&mut self, timing: &Timing) {
        let mut items = std::mem::take(&mut self.ready);
        for item in &mut items {
            match item {
                Item::Packet { render: None, .. } | Item::Lost { render: None, .. } => {
                    let told = self.render(item, timing);
                    let (Item::Packet { render, .. } | Item::Lost { render, .. }) = item;
                    *render = Some(told);
                }
                _ => (),
            }
        }
        self.ready = items;
    }

    /// When an item is to be shown: all packets of a frame at the same time.
    fn render(&mut self, item: &Item<P>, timing: &Timing) -> Timestamp {
        match item {
            Item::Packet {
                render: Some(render),
                ..
            }
            | Item::Lost {
                render: Some(render),
                ..
            } => *render,
            Item::Packet { packet, ready, .. } => {
                let timestamp = packet.timestamp;
                let render = match self.rendered {
                    Some((last, render)) if last == timestamp => render,
                    _ => timing.render(self.stream, timestamp, *ready),
                };
                self.rendered = Some((timestamp, render));
                render
            }
            Item::Lost {
                timestamp, ready, ..
            } => timing.render(self.stream, *timestamp, *ready),
        }
    }

    fn begin_anew(&mut self, timing: &mut Timing) {
        timing.restart(self.stream, self.config.clock_rate);
        self.store = Store::new(self.config.assembly);
        self.requests.clear();
        self.clean = true;
        self.partial = None;
        self.last_timestamp = None;
        self.rendered = None;
        self.discont = true;
        self.key = None;
        self.hopeless.clear();
        self.waiting = self.config.wait_for_key.then_some(None);
    }

    fn insert(
        &mut self,
        now: Timestamp,
        number: u64,
        packet: Packet<P>,
        timing: &mut Timing,
    ) -> Result<(), Rejected> {
        let (origin, timestamp) = (packet.origin, packet.timestamp);
        let (picture, marker, hidden) = (packet.number, packet.marker, packet.hidden);
        let held = Held {
            packet,
            arrival: now,
            told: false,
        };
        let placed = self.store.insert(number, held);
        let all_around = match placed {
            Placed::Late => {
                self.stats.late += 1;
                if origin == Origin::Retransmission {
                    self.requests.too_late(now, number);
                }
                return Err(Rejected::Late);
            }
            Placed::Duplicate => {
                self.stats.duplicates += 1;
                return Err(Rejected::Duplicate);
            }
            Placed::Filled(missing) => {
                self.requests.filled(now, &missing, origin);
                if let Some(rtt) = self.requests.rtt() {
                    timing.set_rtt(rtt);
                }
                self.count_filled(origin, missing.requests);
                true
            }
            Placed::First { gap } => {
                // Nothing has gone out yet.
                let next = number + 1 + gap as u64;
                let _ = self.behind(now, next, gap, hidden);
                true
            }
            Placed::Last { gap } => {
                if self.behind(now, number, gap, hidden) == Gap::Hopeless {
                    self.note_hopeless(number - gap as u64..number);
                    self.stats.hopeless += gap as u64;
                }
                if origin == Origin::Retransmission && self.requests.ended(now, number) {
                    self.count_filled(origin, 1);
                }
                // Frames that are not shown have time.
                if self.config.assembly == Assembly::Frames && !hidden {
                    self.requests.goes_on(
                        now,
                        number,
                        timestamp,
                        (marker, origin),
                        timing
                            .plan(self.stream, timestamp)
                            .map(|plan| plan.earliest),
                        &self.config.request,
                    );
                } else {
                    self.requests.forget_tail();
                }
                false
            }
        };
        self.last_arrival = self.last_arrival.max(now);
        if origin == Origin::Network {
            self.jitter.packet(timestamp, now, self.config.clock_rate);
        }
        if let Some(picture) = picture {
            timing.number(self.stream, timestamp, picture);
        }
        // In order, only a marker ends a run.
        let ends = all_around || marker || self.config.assembly == Assembly::Packets;
        if let Some(at) = self.store.index(number) {
            self.note_key(at);
            self.tell_around(at, ends, all_around, timing);
        }
        Ok(())
    }

    fn note_key(&mut self, at: usize) {
        if let Some((number, packet)) = self.store.key_frame(at)
            && self.key.is_none_or(|(last, ..)| last <= number)
        {
            self.key = Some((number, packet.timestamp, packet.hidden));
        }
    }

    fn note_hopeless(&mut self, gap: Range<u64>) {
        if self.hopeless.len() == MOST_HOPELESS {
            self.hopeless.pop_front();
        }
        self.hopeless.push_back(gap);
    }

    /// A packet came behind all others, or before them, and some are missing
    /// before this number.
    fn behind(&mut self, now: Timestamp, number: u64, gap: usize, hidden: bool) -> Gap {
        let hold = if self.config.assembly == Assembly::Packets {
            // Each packet is of use without the others.
            Duration::MAX
        } else if hidden {
            HIDDEN_HOLD
        } else {
            self.config.hold.max(self.requests.repair(&self.config))
        };
        self.requests
            .behind(now, number, (gap, hold), &self.config, &mut self.store)
    }

    /// Tells of the run that this packet may have made whole, and of those
    /// before and behind it.
    fn tell_around(&mut self, at: usize, ends: bool, all_around: bool, timing: &mut Timing) {
        if let Some(before) = at.checked_sub(1)
            && !self.store.is_joined(before)
        {
            self.tell(before, timing);
        }
        if ends {
            self.tell(at, timing);
        }
        if all_around && !self.store.is_joined(at) {
            self.tell(at + 1, timing);
        }
    }

    fn count_filled(&mut self, origin: Origin, requests: u32) {
        match origin {
            Origin::Retransmission => {
                self.stats.retransmitted += 1;
                self.stats.retransmitted_requests += u64::from(requests);
            }
            Origin::Fec => self.stats.fec_repaired += 1,
            Origin::Network => self.stats.reordered += 1,
        }
    }

    /// If the frame of this packet is whole, it is what the delay is learnt
    /// from.
    fn tell(&mut self, at: usize, timing: &mut Timing) {
        let Some((first, last)) = self.store.run_around(at, self.clean) else {
            return;
        };
        if !self.store.tell(last) {
            return;
        }
        let before = match first.checked_sub(1) {
            Some(before) => self.store.get(before).and_then(Slot::held),
            None => None,
        };
        let before = before.map_or(self.last_timestamp, |held| Some(held.packet.timestamp));
        let mut whole = Whole {
            timestamp: 0,
            arrival: Timestamp::ZERO,
            size: DataSize::ZERO,
            retransmitted: false,
        };
        let (mut hidden, mut repaired) = (false, false);
        for held in self.store.range(first, last) {
            whole.timestamp = held.packet.timestamp;
            whole.arrival = whole.arrival.max(held.arrival);
            whole.size += held.packet.size;
            whole.retransmitted |= held.packet.origin == Origin::Retransmission;
            repaired |= held.packet.origin != Origin::Network;
            hidden |= held.packet.hidden;
        }
        // What comes behind the marker with the same time stamp is FEC.
        let again = self.config.assembly == Assembly::Frames && before == Some(whole.timestamp);
        if hidden || again {
            return;
        }
        let plan = timing.plan(self.stream, whole.timestamp);
        if let Some(plan) = plan.filter(|_| !repaired) {
            self.requests.whole(plan.earliest, whole.arrival);
        }
        timing.frame(self.stream, &whole);
    }

    /// Whole frames at the front may go.
    fn advance(&mut self, now: Timestamp) {
        loop {
            if let Some((timestamp, drop)) = self.partial {
                match self.store.first() {
                    Some(held) if self.store.lead() == 0 && held.packet.timestamp == timestamp => {
                        self.take(now, drop, None);
                        continue;
                    }
                    // Another frame: nothing is left of that one.
                    Some(_) if self.store.lead() == 0 => {
                        self.partial = None;
                        self.clean = true;
                    }
                    _ => (),
                }
            }
            let Some(count) = self.store.whole_run() else {
                return;
            };
            let drop = !self.may_go(now, count);
            for n in 0..count {
                self.take(now, drop, (n == 0).then_some(Begin::Whole));
            }
            self.clean = true;
        }
    }

    /// Whether a whole frame at the front can be decoded.
    fn may_go(&mut self, now: Timestamp, count: usize) -> bool {
        if self.waiting.is_none() {
            return true;
        }
        let parts = || self.store.range(0, count - 1).map(|held| held.packet.part);
        let begins = parts().next().is_some_and(|part| part.begins);
        let decodable = begins && parts().any(|part| part.key);
        if decodable {
            self.waiting = None;
        } else {
            self.ask_for_key(now);
        }
        decodable
    }

    fn ask_for_key(&mut self, now: Timestamp) {
        if let Some(asked) = &mut self.waiting
            && asked.is_none_or(|asked| now.since(asked) >= KEY_REPEAT)
        {
            *asked = Some(now);
            self.stats.key_requests += 1;
            self.key_wanted = true;
        }
    }

    /// The first packet leaves the store.
    fn take(&mut self, now: Timestamp, drop: bool, begin: Option<Begin>) {
        let number = self.store.head();
        let Some(Slot::Held(held)) = self.store.pop() else {
            return;
        };
        self.last_timestamp = Some(held.packet.timestamp);
        if drop {
            self.stats.undecodable += 1;
            self.discont = true;
            return;
        }
        self.ready_packets += 1;
        self.ready_bytes += held.packet.size.as_bytes();
        self.ready.push_back(Item::Packet {
            epoch: self.stats.restarts,
            number,
            ready: now,
            begin,
            discont: std::mem::take(&mut self.discont),
            render: None,
            packet: held.packet,
        });
    }

    /// When the front is not waited for any longer. A frame of which nothing is
    /// missing is, as long as its packets keep coming.
    fn deadline(&self, timing: &Timing) -> Option<Timestamp> {
        let first = self.store.first()?;
        let missing = self.store.first_missing();
        let is_hopeless = |number| self.hopeless.iter().any(|gap| gap.contains(&number));
        if missing.is_some_and(|(number, _)| is_hopeless(number)) {
            return Some(Timestamp::ZERO);
        }
        let repair = self.requests.repair(&self.config);
        let of = |held: &Held<P>| {
            give_up_at(
                timing,
                self.stream,
                held.packet.timestamp,
                held.arrival,
                self.config.hold,
                repair,
            )
        };
        if !first.packet.hidden {
            let due = of(first);
            return Some(if self.store.is_slow() {
                due.max(self.last_arrival + self.config.hold)
            } else {
                due
            });
        }
        let patience = missing.map_or(self.last_arrival, |(_, since)| since) + HIDDEN_HOLD;
        let shown = self.store.first_shown().map(of);
        Some(shown.map_or(patience, |shown| shown.min(patience)))
    }

    /// Lets the frame at the front go as it is.
    fn give_up(&mut self, now: Timestamp) {
        self.lose(now);
        if self.store.whole_run().is_some() {
            return;
        }
        let Some(timestamp) = self.store.first().map(|held| held.packet.timestamp) else {
            return;
        };
        // Nothing is missing of a frame that is slow to come.
        let broken = !self.store.is_slow();
        if broken && self.is_reference(timestamp) {
            self.damage(now);
        }
        let drop = self.config.wait_for_key && (broken || self.waiting.is_some());
        self.partial = Some((timestamp, drop));
        self.clean = false;
        let mut begin = Some(Begin::Part);
        while self.next_is_of(timestamp) {
            if self.store.lead() > 0 {
                self.lose(now);
            } else {
                self.take(now, drop, begin.take());
            }
        }
    }

    /// Whether the next packet that is there is of this frame.
    fn next_is_of(&self, timestamp: u32) -> bool {
        self.config.assembly == Assembly::Frames
            && self
                .store
                .first()
                .is_some_and(|held| held.packet.timestamp == timestamp)
    }

    /// Whether later frames predict from what is there of this one. Without
    /// knowledge of the codec: yes.
    fn is_reference(&self, timestamp: u32) -> bool {
        let mut at = self.store.lead();
        while let Some(slot) = self.store.get(at) {
            match slot.held() {
                Some(held) if held.packet.timestamp != timestamp => break,
                Some(held) if held.packet.part.reference || !held.packet.part.begins => {
                    return true;
                }
                _ => at += 1,
            }
        }
        false
    }

    /// What is missing at the front is given up.
    fn lose(&mut self, now: Timestamp) {
        let count = self.store.lead();
        if count == 0 {
            return;
        }
        let first = self.store.head();
        let mut requests = 0;
        for n in 0..count {
            if let Some(Slot::Missing(missing)) = self.store.pop() {
                self.requests.give_up(first + n as u64, &missing);
                if n == 0 {
                    requests = missing.requests;
                }
            }
        }
        let next = self.store.first().map(|held| held.packet.timestamp);
        let timestamp = next.or(self.last_timestamp).unwrap_or_default();
        self.stats.lost += count as u64;
        self.discont = true;
        let within = self
            .partial
            .is_some_and(|(partial, _)| partial == timestamp);
        if !within {
            self.clean = false;
            self.damage(now);
        }
        self.ready.push_back(Item::Lost {
            first,
            count: count as u64,
            timestamp,
            requests,
            ready: now,
            render: None,
        });
    }

    /// Something was lost that others are predicted from.
    fn damage(&mut self, now: Timestamp) {
        if self.config.wait_for_key {
            self.waiting.get_or_insert(None);
            self.ask_for_key(now);
        }
    }

    /// Bounds what is held. True if something had to go.
    fn limit(&mut self, now: Timestamp) -> bool {
        let config = self.config;
        let mut dropped = false;
        // What says that packets were lost takes its place, too.
        while self.store.held() + self.ready.len() > config.max_packets
            || self.store.bytes() + self.ready_bytes > config.max_bytes
            || self.store.len() > config.max_packets
            || (config.drop_late && self.span() > nanos(config.hold))
        {
            if !self.drop_oldest(now) {
                break;
            }
            dropped = true;
        }
        dropped
    }

    /// From the oldest to the newest packet, in ns of media time.
    fn span(&self) -> i64 {
        let ready = self.ready.iter().find_map(|item| match item {
            Item::Packet { packet, .. } => Some(packet.timestamp),
            _ => None,
        });
        let first = ready.or_else(|| Some(self.store.first()?.packet.timestamp));
        let last = self.store.last().map(|held| held.packet.timestamp);
        let last = last.or(self.last_timestamp);
        match (first, last) {
            (Some(first), Some(last)) => ticks_to_nanos(
                last.wrapping_sub(first).cast_signed(),
                self.config.clock_rate,
            ),
            _ => 0,
        }
    }

    fn drop_oldest(&mut self, now: Timestamp) -> bool {
        if let Some(item) = self.ready.pop_front() {
            if let Item::Packet { packet, .. } = item {
                self.ready_packets -= 1;
                self.ready_bytes -= packet.size.as_bytes();
                self.stats.dropped += 1;
                match self.ready.iter_mut().find_map(|item| match item {
                    Item::Packet { discont, .. } => Some(discont),
                    _ => None,
                }) {
                    Some(discont) => *discont = true,
                    None => self.discont = true,
                }
            }
            return true;
        }
        if self.store.lead() > 0 {
            self.lose(now);
            return true;
        }
        let Some(Slot::Held(held)) = self.store.pop() else {
            return false;
        };
        self.last_timestamp = Some(held.packet.timestamp);
        self.stats.dropped += 1;
        self.discont = true;
        self.clean = false;
        self.damage(now);
        self.partial = Some((held.packet.timestamp, self.config.wait_for_key));
        true
    }

    fn leave(&mut self, item: Item<P>, timing: &Timing) -> Next<P> {
        let render = self.render(&item, timing);
        match item {
            Item::Packet {
                packet,
                epoch,
                number,
                begin,
                discont,
                ..
            } => {
                self.ready_packets -= 1;
                self.ready_bytes -= packet.size.as_bytes();
                self.stats.pushed += 1;
                Next::Packet(Out {
                    epoch,
                    number,
                    timestamp: packet.timestamp,
                    render,
                    discont,
                    begin,
                    data: packet.data,
                })
            }
            Item::Lost {
                first,
                count,
                timestamp,
                requests,
                ..
            } => Next::Lost(Lost {
                sequence: first as u16,
                count: u16::try_from(count).unwrap_or(u16::MAX),
                timestamp,
                render,
                requests,
            }),
        }
    }
}

/// When the packets of a frame are not waited for any longer; `since`: when the
/// first of them came.
fn give_up_at(
    timing: &Timing,
    stream: StreamId,
    timestamp: u32,
    since: Timestamp,
    hold: Duration,
    repair: Duration,
) -> Timestamp {
    let hold = hold.max(repair);
    let Some(plan) = timing.plan(stream, timestamp) else {
        return since + hold;
    };
    let at = plan.playout.max(plan.earliest + hold);
    // The plan is for hours ahead where time stamps have jumped and no whole
    // frame has come since.
    at.min(since + hold.max(LONGEST_DELAY))
}

#[cfg(test)]
mod tests;
