// SPDX-License-Identifier: MPL-2.0
//! Packets in the order of their numbers, with the gaps between them.

use std::collections::VecDeque;

use dualstream_common::Timestamp;

use super::config::Assembly;
use super::packet::Packet;

/// A packet that should be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// When that was noticed.
    pub since: Timestamp,
    /// Time stamp that it may have: that of the packet behind the gap, or an
    /// earlier one where frames are missing.
    pub timestamp: u32,
    /// That one's frame is not shown.
    pub hidden: bool,
    pub requests: u32,
    /// The second request follows at once.
    pub hedged: bool,
    /// When that was last; with `hedged` when that was first.
    pub requested: Timestamp,
    /// Of the next request.
    pub due: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(super) struct Held<P> {
    pub packet: Packet<P>,
    pub arrival: Timestamp,
    /// The frame that ends with it was reported as complete.
    pub told: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Slot<P> {
    Missing(Missing),
    Held(Held<P>),
}

impl<P> Slot<P> {
    pub(super) fn held(&self) -> Option<&Held<P>> {
        match self {
            Self::Held(held) => Some(held),
            Self::Missing(_) => None,
        }
    }
}

/// What a packet did to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Behind all others, with so many missing before it.
    Last {
        gap: usize,
    },
    Filled(Missing),
    /// Before all others, when nothing has gone out yet, with so many missing
    /// behind it.
    First {
        gap: usize,
    },
    Late,
    Duplicate,
}

#[derive(Clone, Debug)]
pub(super) struct Store<P> {
    assembly: Assembly,
    /// Number of the first slot.
    head: Option<u64>,
    slots: VecDeque<Slot<P>>,
    /// Nothing has gone out: older packets may come in yet.
    fresh: bool,
    /// So many slots at the front are known to be missing.
    lead: usize,
    /// So many after those are known to be of one run.
    scanned: usize,
    held: usize,
    /// Of those, the ones whose frames are shown.
    shown: usize,
    bytes: u64,
    /// Time stamp of the last packet behind all others.
    newest: Option<u32>,
    /// From one frame to the next, in ticks.
    step: u32,
}

/// Older packets than the first that came may be so much older.
const MOST_BEFORE: u64 = 64;

/// The latest time stamp that the `n`th of `of` packets from `before` to `after`
/// has, if each frame has about as many.
fn between(before: u32, after: u32, step: u32, n: usize, of: usize) -> u32 {
    let whole = i64::from(after.wrapping_sub(before).cast_signed());
    let (n, of) = (n as i64, of.max(1) as i64);
    let part = whole * n / of + i64::from(step.cast_signed().max(0));
    if part < whole {
        before.wrapping_add(part as u32)
    } else {
        after
    }
}

impl<P> Store<P> {
    pub(super) fn new(assembly: Assembly) -> Self {
        Self {
            assembly,
            head: None,
            slots: VecDeque::new(),
            fresh: true,
            lead: 0,
            scanned: 0,
            held: 0,
            shown: 0,
            bytes: 0,
            newest: None,
            step: 0,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn head(&self) -> u64 {
        self.head.unwrap_or(0)
    }

    pub(super) fn get(&self, at: usize) -> Option<&Slot<P>> {
        self.slots.get(at)
    }

    pub(super) fn index(&self, number: u64) -> Option<usize> {
        let at = usize::try_from(number.checked_sub(self.head?)?).ok()?;
        (at < self.slots.len()).then_some(at)
    }

    pub(super) fn missing(&mut self, number: u64) -> Option<&mut Missing> {
        let at = self.index(number)?;
        match self.slots.get_mut(at) {
            Some(Slot::Missing(missing)) => Some(missing),
            _ => None,
        }
    }

    /// Whether this packet is missing, and to be asked for at that time.
    pub(super) fn is_due(&self, number: u64, due: Timestamp) -> bool {
        let slot = self.index(number).and_then(|at| self.slots.get(at));
        matches!(slot, Some(Slot::Missing(missing)) if missing.due == Some(due))
    }

    pub(super) fn insert(&mut self, number: u64, held: Held<P>) -> Placed {
        let head = *self.head.get_or_insert(number);
        let bytes = held.packet.size.as_bytes();
        let shown = !held.packet.hidden;
        let gone = Missing {
            since: held.arrival,
            timestamp: held.packet.timestamp,
            hidden: held.packet.hidden,
            requests: 0,
            hedged: false,
            requested: held.arrival,
            due: None,
        };
        let placed = match number.checked_sub(head) {
            None if self.fresh && head - number <= MOST_BEFORE => {
                for _ in number + 1..head {
                    self.slots.push_front(Slot::Missing(gone));
                }
                self.slots.push_front(Slot::Held(held));
                self.head = Some(number);
                (self.lead, self.scanned) = (0, 0);
                Placed::First {
                    gap: (head - number - 1) as usize,
                }
            }
            None => return Placed::Late,
            Some(at) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                match self.slots.get_mut(at) {
                    Some(Slot::Held(_)) => return Placed::Duplicate,
                    Some(slot @ Slot::Missing(_)) => {
                        let Slot::Missing(missing) = std::mem::replace(slot, Slot::Held(held))
                        else {
                            return Placed::Duplicate;
                        };
                        if at < self.lead {
                            self.lead = at;
                            self.scanned = 0;
                        }
                        Placed::Filled(missing)
                    }
                    None => {
                        let gap = at.saturating_sub(self.slots.len());
                        if self.held == 0 {
                            self.lead = at;
                        }
                        let after = held.packet.timestamp;
                        let before = self.newest.replace(after).unwrap_or(after);
                        if gap == 0 && before != after {
                            self.step = after.wrapping_sub(before);
                        }
                        for n in 1..=gap {
                            let timestamp = between(before, after, self.step, n, gap + 1);
                            let gone = Missing { timestamp, ..gone };
                            self.slots.push_back(Slot::Missing(gone));
                        }
                        self.slots.push_back(Slot::Held(held));
                        Placed::Last { gap }
                    }
                }
            }
        };
        self.held += 1;
        self.shown += usize::from(shown);
        self.bytes += bytes;
        placed
    }

    /// How many are missing at the front.
    pub(super) fn lead(&self) -> usize {
        self.lead
    }

    /// The first packet that is there.
    pub(super) fn first(&self) -> Option<&Held<P>> {
        self.slots.get(self.lead)?.held()
    }

    /// The last.
    pub(super) fn last(&self) -> Option<&Held<P>> {
        self.slots.back()?.held()
    }

    /// The first packet of a frame that is shown.
    pub(super) fn first_shown(&self) -> Option<&Held<P>> {
        if self.shown == 0 {
            return None;
        }
        self.slots
            .iter()
            .filter_map(Slot::held)
            .find(|held| !held.packet.hidden)
    }

    /// Takes the first slot.
    pub(super) fn pop(&mut self) -> Option<Slot<P>> {
        let slot = self.slots.pop_front()?;
        self.fresh = false;
        self.head = self.head.map(|head| head + 1);
        match &slot {
            Slot::Missing(_) => self.lead = self.lead.saturating_sub(1),
            Slot::Held(held) => {
                self.held -= 1;
                self.shown -= usize::from(!held.packet.hidden);
                self.bytes -= held.packet.size.as_bytes();
                self.scanned = self.scanned.saturating_sub(1);
                if self.scanned == 0 {
                    self.lead = self
                        .slots
                        .iter()
                        .take_while(|slot| slot.held().is_none())
                        .count();
                }
            }
        }
        slot.into()
    }

    /// Whether this slot and the next hold packets of one run.
    pub(super) fn is_joined(&self, at: usize) -> bool {
        let pair = (
            self.slots.get(at).and_then(Slot::held),
            self.slots.get(at + 1).and_then(Slot::held),
        );
        matches!(pair, (Some(a), Some(b)) if self.assembly == Assembly::Frames
            && !a.packet.marker
            && a.packet.timestamp == b.packet.timestamp)
    }

    /// Whether the run that this packet is in ends with it.
    fn is_end(&self, at: usize) -> bool {
        let Some(held) = self.slots.get(at).and_then(Slot::held) else {
            return false;
        };
        let next = self.slots.get(at + 1).and_then(Slot::held);
        self.assembly == Assembly::Packets
            || held.packet.marker
            || next.is_some_and(|next| next.packet.timestamp != held.packet.timestamp)
    }

    /// How many packets at the front are a whole run, if nothing is missing
    /// before them.
    pub(super) fn whole_run(&mut self) -> Option<usize> {
        if self.lead > 0 || self.held == 0 {
            return None;
        }
        self.scanned = self.scanned.max(1);
        while self.is_joined(self.scanned - 1) {
            self.scanned += 1;
        }
        self.is_end(self.scanned - 1).then_some(self.scanned)
    }

    /// There is but a part of one run, without a gap: the rest is on its way.
    /// Holds after [`Self::whole_run`].
    pub(super) fn is_slow(&self) -> bool {
        self.lead == 0 && self.held > 0 && self.scanned == self.slots.len()
    }

    /// The first packet, or the first behind the run at the front, if it is missing:
    /// its number, and when that was noticed. Holds after [`Self::whole_run`].
    pub(super) fn first_missing(&self) -> Option<(u64, Timestamp)> {
        let at = if self.lead > 0 { 0 } else { self.scanned };
        match self.slots.get(at) {
            Some(Slot::Missing(missing)) => Some((self.head() + at as u64, missing.since)),
            _ => None,
        }
    }

    /// First and last of the run around `at`, where both are known. The front
    /// counts as a beginning if `clean`.
    pub(super) fn run_around(&self, at: usize, clean: bool) -> Option<(usize, usize)> {
        self.get(at)?.held()?;
        if self.assembly == Assembly::Packets {
            return Some((at, at));
        }
        let (mut start, mut end) = (at, at);
        while self.is_joined(end) {
            end += 1;
        }
        if !self.is_end(end) {
            return None;
        }
        while start > 0 && self.is_joined(start - 1) {
            start -= 1;
        }
        let begins = match start.checked_sub(1) {
            Some(before) => self.get(before)?.held().is_some(),
            None => clean,
        };
        begins.then_some((start, end))
    }

    /// The first packet of the frame around `at`, if decoding can start with that
    /// and all of it is here, whatever is missing in front of it.
    pub(super) fn key_frame(&self, at: usize) -> Option<(u64, &Packet<P>)> {
        if self.assembly == Assembly::Packets || !self.get(at)?.held()?.packet.part.key {
            return None;
        }
        let mut end = at;
        while self.is_joined(end) {
            end += 1;
        }
        let mut start = at;
        while start > 0 && self.is_joined(start - 1) {
            start -= 1;
        }
        let first = &self.get(start)?.held()?.packet;
        let whole = first.part.begins && first.part.key && self.is_end(end);
        whole.then_some((self.head() + start as u64, first))
    }

    pub(super) fn range(&self, first: usize, last: usize) -> impl Iterator<Item = &Held<P>> {
        self.slots.range(first..=last).filter_map(Slot::held)
    }

    /// True if that was not known.
    pub(super) fn tell(&mut self, end: usize) -> bool {
        match self.slots.get_mut(end) {
            Some(Slot::Held(held)) => !std::mem::replace(&mut held.told, true),
            _ => false,
        }
    }
}
