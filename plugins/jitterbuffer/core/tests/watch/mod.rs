// SPDX-License-Identifier: MPL-2.0
//! A buffer, and what can be said from outside of what it should do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use dualstream_common::{ExtSeq, Timestamp};
use jitterbuffer_core::{
    Assembly, BufferConfig, LONGEST_DELAY, Lost, Next, NextRequest, Out, Packet, Rejected, Request,
};

use crate::rig::*;

const LONGEST_REPAIR: Duration = Duration::from_secs(1);
const FEW_MISSING: u64 = 32;
const HIDDEN_HOLD: Duration = Duration::from_secs(1);

/// Epoch and number.
pub type Place = (u64, u64);

/// A packet that was taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    timestamp: u32,
    marker: bool,
    hidden: bool,
    arrival: Timestamp,
}

pub struct Watch {
    pub rig: Rig,
    taken: BTreeMap<Place, Taken>,
    /// When each packet was seen to be missing.
    missed: HashMap<Place, Timestamp>,
    /// Of large gaps: they may be given up at any time.
    hopeless: HashSet<Place>,
    /// What did not fit, as far as it may be let in.
    astray: Vec<Packet<u64>>,
    last_arrival: Timestamp,
    last: Option<Place>,
    asked: HashMap<Place, u32>,
    pub out: Vec<u64>,
}

/// The earliest and the latest time that can be meant.
type Span = (Timestamp, Timestamp);

impl Watch {
    pub fn new(rig: Rig) -> Self {
        Self {
            rig,
            taken: BTreeMap::new(),
            missed: HashMap::new(),
            hopeless: HashSet::new(),
            astray: Vec::new(),
            last_arrival: Timestamp::ZERO,
            last: None,
            asked: HashMap::new(),
            out: Vec::new(),
        }
    }

    fn config(&self) -> &BufferConfig {
        self.rig.buffer.config()
    }

    fn place(&self, sequence: u16) -> Place {
        let (epoch, end) = self.rig.buffer.end();
        let near = ExtSeq::new(end.saturating_sub(1)).nearest(sequence);
        (epoch, near.map_or(0, ExtSeq::value))
    }

    fn take(&mut self, now: Timestamp, packet: &Packet<u64>) {
        let taken = Taken {
            timestamp: packet.timestamp,
            marker: packet.marker,
            hidden: packet.hidden,
            arrival: now,
        };
        let place = self.place(packet.sequence);
        let before = self.taken.insert(place, taken);
        assert!(before.is_none(), "{packet:?} was there");
        self.miss(now, place);
        self.last_arrival = self.last_arrival.max(now);
    }

    /// Before the last packet of all, or behind the first of all, some are missing.
    fn miss(&mut self, now: Timestamp, (epoch, number): Place) {
        let others = |from: u64, to: u64| self.taken.range((epoch, from)..(epoch, to));
        let before = others(0, number).next_back().map(|((_, n), _)| *n);
        let behind = others(number + 1, u64::MAX).next().map(|((_, n), _)| *n);
        let missing = match (before, behind) {
            (Some(before), None) => before + 1..number,
            (None, Some(behind)) => number + 1..behind,
            _ => 0..0,
        };
        let large = behind.is_none() && missing.end - missing.start > FEW_MISSING;
        for number in missing {
            if large && self.config().request.enabled {
                self.hopeless.insert((epoch, number));
            }
            self.missed.insert((epoch, number), now);
        }
    }

    fn first_missing(&self) -> Place {
        let (epoch, begin) = self.rig.buffer.begin();
        (begin..)
            .map(|number| (epoch, number))
            .find(|place| !self.taken.contains_key(place))
            .expect("some number has not come")
    }

    /// Since when the front is waited for, though it is not shown.
    fn waits_since(&self) -> Timestamp {
        let missed = self.missed.get(&self.first_missing());
        missed.copied().unwrap_or(self.last_arrival)
    }

    /// Whether the stream began anew; then all that was held goes out.
    pub fn push(&mut self, now: Timestamp, packet: Packet<u64>) -> bool {
        let before = self.rig.buffer.stats();
        let done = self.rig.push(now, packet);
        let stats = self.rig.buffer.stats();
        let readmitted = (stats.readmitted - before.readmitted) as usize;
        // A stream begins with three in a row, the last of which is this one.
        let two = self.astray.split_off(self.astray.len().saturating_sub(2));
        for packet in two.iter().take(readmitted) {
            self.take(now, packet);
        }
        self.astray = two;
        match done {
            Ok(()) => self.take(now, &packet),
            Err(Rejected::Astray) => self.astray.push(packet),
            Err(Rejected::Duplicate) => {
                let place = self.place(packet.sequence);
                assert!(self.taken.contains_key(&place), "{packet:?} had not come");
            }
            Err(Rejected::Late) => {
                let place = self.place(packet.sequence);
                let is_held = self.held().any(|(held, _)| held == place);
                let left = self.last.is_some_and(|last| place <= last);
                assert!(!is_held || left, "{packet:?} is held");
            }
        }
        assert!(stats.held_packets <= self.config().max_packets);
        assert!(stats.held_bytes <= self.config().max_bytes);
        assert_accounted(&stats);
        stats.restarts != before.restarts
    }

    fn held(&self) -> impl Iterator<Item = (Place, Taken)> {
        let begin = self.rig.buffer.begin();
        self.taken
            .range(begin..)
            .map(|(place, taken)| (*place, *taken))
    }

    /// When this packet is not waited for, or for, any longer. The repair time
    /// is known but for the spread of the round trips.
    fn give_up(&self, taken: &Taken) -> Span {
        let config = self.config();
        let rtt = self
            .rig
            .buffer
            .stats()
            .rtt
            .filter(|_| config.request.enabled);
        let (least, most) = rtt.map_or((ms(0), ms(0)), |rtt| {
            let least = rtt + ms(5) + config.request.min_delay.max(ms(10));
            (least.min(LONGEST_REPAIR), LONGEST_REPAIR)
        });
        let plan = self
            .rig
            .timing
            .plan(self.rig.buffer.stream(), taken.timestamp);
        let at = |repair: Duration| {
            let hold = config.hold.max(repair);
            let longest = taken.arrival + hold.max(LONGEST_DELAY);
            plan.map_or(taken.arrival + hold, |plan| {
                plan.playout.max(plan.earliest + hold).min(longest)
            })
        };
        (at(least), at(most))
    }

    /// The rest of the frame at the front is on its way: nothing is missing.
    fn is_slow(&self) -> bool {
        let (_, begin) = self.rig.buffer.begin();
        let held: Vec<_> = self.held().collect();
        self.config().assembly == Assembly::Frames
            && held.iter().zip(begin..).all(|((place, taken), number)| {
                place.1 == number && !taken.marker && taken.timestamp == held[0].1.timestamp
            })
    }

    /// When the front is given up.
    fn deadline(&self) -> Option<Span> {
        let (_, front) = self.held().next()?;
        let any_time = self.hopeless.contains(&self.first_missing());
        self.wait_of(&front)
            .map(|(least, most)| (if any_time { Timestamp::ZERO } else { least }, most))
    }

    fn wait_of(&self, front: &Taken) -> Option<Span> {
        let slow = self.last_arrival + self.config().hold;
        if !front.hidden {
            let (least, most) = self.give_up(front);
            return Some(if self.is_slow() {
                (least.max(slow), most.max(slow))
            } else {
                (least, most)
            });
        }
        let patience = self.waits_since() + HIDDEN_HOLD;
        let shown = self.held().find(|(_, taken)| !taken.hidden);
        let (least, most) = shown.map_or((patience, patience), |(_, shown)| self.give_up(&shown));
        Some((least.min(patience), most.min(patience)))
    }

    fn left(&mut self, out: &Out<u64>) {
        let place = (out.epoch, out.number);
        let taken = self.taken.get(&place).expect("it was taken");
        assert_eq!(taken.timestamp, out.timestamp);
        assert!(
            self.last.is_none_or(|last| last < place),
            "in order, and once"
        );
        self.last = Some(place);
        self.out.push(out.data);
    }

    /// What is lost is given up at the deadline of the frame behind it, some
    /// of which may have left.
    ///
    /// `shown`: what was held of shown frames; some of it may be dropped by
    /// now, as it cannot be decoded.
    fn lost(&self, now: Timestamp, lost: &Lost, shown: &[Taken]) {
        if self.may_be_given_up(lost) {
            return;
        }
        let frame = self.taken.values().rev().take(3000);
        let frame: Vec<_> = frame
            .filter(|taken| taken.timestamp == lost.timestamp)
            .collect();
        let mut least: Vec<_> = frame.iter().map(|taken| self.give_up(taken).0).collect();
        if frame.iter().any(|taken| taken.hidden) {
            let missed = self.missed.get(&self.place(lost.sequence)).copied();
            least.push(missed.unwrap_or(self.last_arrival) + HIDDEN_HOLD);
            least.extend(shown.iter().map(|shown| self.give_up(shown).0));
        }
        let least = least.iter().min().expect("something is behind it");
        assert!(*least <= now, "{now:?}: {lost:?}, not before {least:?}");
    }

    /// It is of a large gap, or of a frame that such a gap may have taken a part of:
    /// that goes as it is.
    fn may_be_given_up(&self, lost: &Lost) -> bool {
        let (epoch, number) = self.place(lost.sequence);
        let mut before = self.taken.range(..(epoch, number)).rev();
        let first = before
            .by_ref()
            .take_while(|(place, taken)| place.0 == epoch && taken.timestamp == lost.timestamp)
            .last()
            .map_or(number, |((_, first), _)| *first);
        let reach = (epoch, first.saturating_sub(1))..=(epoch, number);
        self.hopeless.iter().any(|place| reach.contains(place))
    }

    /// All that leaves at this time, and when to come again. `any_time`: what
    /// is lost may be given up.
    pub fn poll(&mut self, now: Timestamp, any_time: bool) -> Option<Timestamp> {
        let held = self.held().map(|(_, taken)| taken);
        let shown: Vec<_> = held.filter(|taken| !taken.hidden).collect();
        loop {
            match self.rig.buffer.poll(now, &self.rig.timing) {
                Next::Packet(out) => self.left(&out),
                Next::Lost(lost) if any_time => assert!(lost.count > 0),
                Next::Lost(lost) => {
                    assert!(lost.count > 0);
                    self.lost(now, &lost, &shown);
                }
                Next::AskForKeyFrame => assert!(self.config().wait_for_key),
                Next::WaitUntil(due) => {
                    let (least, most) = self.deadline().expect("something is held");
                    assert!(due > now);
                    assert!(least <= due && due <= most, "{least:?} {due:?} {most:?}");
                    return Some(due);
                }
                Next::Idle => {
                    assert_eq!(self.held().count(), 0);
                    return None;
                }
            }
        }
    }

    /// What is asked for, and when to come again.
    pub fn requests(&mut self, now: Timestamp) -> (Vec<Request>, Option<Timestamp>) {
        let (asked, next) = self.rig.requests(now);
        let config = self.config().request;
        for request in &asked {
            let place = self.place(request.sequence);
            assert!(config.enabled);
            assert!(!self.taken.contains_key(&place), "{request:?} is here");
            assert!(place >= self.rig.buffer.begin(), "{request:?} was given up");
            // The end of a frame is asked for before it can be missed.
            assert!(place <= self.rig.buffer.end());
            let count = self.asked.entry(place).or_default();
            assert_eq!(*count, request.retry);
            *count += 1;
            assert!(config.max_retries.is_none_or(|most| request.retry <= most));
        }
        match next {
            NextRequest::WaitUntil(due) => {
                assert!(due > now);
                (asked, Some(due))
            }
            _ => (asked, None),
        }
    }

    /// The end of the stream.
    pub fn finish(&mut self, now: Timestamp) {
        self.rig.buffer.drain(now);
        self.poll(now, true);
        let stats = self.rig.buffer.stats();
        assert_eq!(stats.held_packets, 0);
        assert_accounted(&stats);
    }
}
