// SPDX-License-Identifier: MPL-2.0
//! Packets by SSRC and priority.
//!
//! Each SSRC has one queue, which keeps its order. It is served at the highest
//! priority of any packet in it: what is in front of an urgent packet goes
//! first, and just as urgently. SSRCs of one priority take turns.

use std::collections::VecDeque;

use dualstream_common::{DataSize, Timestamp};

use crate::stats::Amount;

/// Strict: nothing goes while there is something above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Not held by the bucket or the window, but counted.
    Audio,
    Retransmission,
    Display,
    Fec,
    /// Leaves one packet at a time, so that display packets never wait for
    /// more than that.
    Background,
    Padding,
}

const COUNT: usize = Priority::ALL.len();

impl Priority {
    pub const ALL: [Self; 6] = [
        Self::Audio,
        Self::Retransmission,
        Self::Display,
        Self::Fec,
        Self::Background,
        Self::Padding,
    ];

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Neither urgent enough to raise the rate for, nor to be sent when old.
    pub(crate) const fn is_patient(self) -> bool {
        matches!(self, Self::Background | Self::Padding)
    }
}

#[derive(Debug)]
pub(crate) struct Entry<P> {
    pub packet: P,
    pub size: DataSize,
    pub pushed: Timestamp,
    pub priority: Priority,
}

/// A queue that was this long gives its memory back when it is empty.
const KEPT_CAPACITY: usize = 4096;

#[derive(Debug)]
struct Stream<P> {
    entries: VecDeque<Entry<P>>,
    /// Packets by their own priority.
    counts: [u32; COUNT],
    bytes: DataSize,
}

impl<P> Stream<P> {
    fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            counts: [0; COUNT],
            bytes: DataSize::ZERO,
        }
    }

    fn served_at(&self) -> Option<Priority> {
        Priority::ALL
            .into_iter()
            .find(|p| self.counts[p.index()] > 0)
    }

    fn amount(&self) -> Amount {
        Amount {
            packets: self.entries.len() as u64,
            bytes: self.bytes,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Queue<P> {
    /// At most `max_streams`; `streams[i]` is of `ssrcs[i]`. Empty ones stay,
    /// and are taken over when there is no other place.
    ssrcs: Vec<u32>,
    streams: Vec<Stream<P>>,
    max_streams: usize,
    /// Where the last packet went.
    last: usize,
    /// The streams with packets, by the priority they are served at, next one
    /// first.
    rings: [VecDeque<usize>; COUNT],
    /// What is in each ring.
    waiting: [Amount; COUNT],
    total: Amount,
}

impl<P> Queue<P> {
    pub fn new(max_streams: u16) -> Self {
        Self {
            ssrcs: Vec::new(),
            streams: Vec::new(),
            max_streams: usize::from(max_streams),
            last: 0,
            rings: Default::default(),
            waiting: Default::default(),
            total: Amount::default(),
        }
    }

    pub fn total(&self) -> Amount {
        self.total
    }

    /// What is served at this priority.
    pub fn waiting(&self, priority: Priority) -> Amount {
        self.waiting[priority.index()]
    }

    /// What is served at a priority below, without the packets of `ssrc`.
    pub fn below(&self, priority: Priority, ssrc: u32) -> Amount {
        let mut sum = Amount::default();
        for p in Priority::ALL.into_iter().filter(|p| *p > priority) {
            sum.give(self.waiting[p.index()]);
        }
        if let Some(stream) = self.find(ssrc).map(|i| &self.streams[i])
            && stream.served_at().is_some_and(|p| p > priority)
        {
            sum.take(stream.amount());
        }
        sum
    }

    fn find(&self, ssrc: u32) -> Option<usize> {
        if self.ssrcs.get(self.last) == Some(&ssrc) {
            return Some(self.last);
        }
        self.ssrcs.iter().position(|s| *s == ssrc)
    }

    fn place(&mut self, ssrc: u32) -> Option<usize> {
        if let Some(index) = self.find(ssrc) {
            return Some(index);
        }
        if self.ssrcs.len() < self.max_streams {
            self.ssrcs.push(ssrc);
            self.streams.push(Stream::new());
            return Some(self.ssrcs.len() - 1);
        }
        let index = self.streams.iter().position(|s| s.entries.is_empty())?;
        self.ssrcs[index] = ssrc;
        Some(index)
    }

    /// Whether a packet of `ssrc` finds a place.
    pub fn has_place(&self, ssrc: u32) -> bool {
        self.ssrcs.len() < self.max_streams
            || self.find(ssrc).is_some()
            || self.streams.iter().any(|s| s.entries.is_empty())
    }

    /// Hands the entry back if there are too many SSRCs. Else returns the
    /// priority at which the SSRC is served now.
    pub fn push(&mut self, ssrc: u32, entry: Entry<P>) -> Result<Priority, Entry<P>> {
        let Some(index) = self.place(ssrc) else {
            return Err(entry);
        };
        self.last = index;
        let stream = &mut self.streams[index];
        let (size, priority) = (entry.size, entry.priority);
        let before = stream.served_at();
        let moved = stream.amount();
        stream.counts[priority.index()] += 1;
        stream.bytes += size;
        stream.entries.push_back(entry);
        self.total.add(size);
        let after = before.map_or(priority, |b| b.min(priority));
        if before == Some(after) {
            self.waiting[after.index()].add(size);
            return Ok(after);
        }
        if let Some(before) = before {
            self.rings[before.index()].retain(|i| *i != index);
            self.waiting[before.index()].take(moved);
        }
        self.rings[after.index()].push_back(index);
        let amount = self.streams[index].amount();
        self.waiting[after.index()].give(amount);
        Ok(after)
    }

    /// The highest priority at which something is served.
    pub fn top(&self) -> Option<Priority> {
        Priority::ALL
            .into_iter()
            .find(|p| !self.rings[p.index()].is_empty())
    }

    /// The next packet at this priority.
    pub fn front(&self, priority: Priority) -> Option<&Entry<P>> {
        let index = self.rings[priority.index()].front()?;
        self.streams[*index].entries.front()
    }

    /// Takes the next packet at this priority and gives the turn to the next
    /// SSRC. Says also at which priority the rest of this one is served.
    pub fn pop(&mut self, priority: Priority) -> Option<(u32, Entry<P>, Option<Priority>)> {
        let index = self.rings[priority.index()].pop_front()?;
        self.take(priority, index)
    }

    /// Takes the oldest packet below `priority`, of the lowest priority, of
    /// another SSRC than `ssrc`.
    pub fn evict(&mut self, priority: Priority, ssrc: u32) -> Option<Entry<P>> {
        let own = self.find(ssrc);
        for p in Priority::ALL.into_iter().rev().filter(|p| *p > priority) {
            let oldest = self.rings[p.index()]
                .iter()
                .copied()
                .filter(|i| Some(*i) != own)
                .min_by_key(|i| self.streams[*i].entries.front().map(|e| e.pushed));
            if let Some(index) = oldest {
                return self.take_from(p, index);
            }
        }
        None
    }

    /// Takes a packet that `expired` says is too old, of those served at
    /// `priority`.
    pub fn take_expired(
        &mut self,
        priority: Priority,
        expired: impl Fn(&Entry<P>) -> bool,
    ) -> Option<Entry<P>> {
        let index = self.rings[priority.index()]
            .iter()
            .copied()
            .find(|i| self.streams[*i].entries.front().is_some_and(&expired))?;
        self.take_from(priority, index)
    }

    /// The first packets of all SSRCs that are served at `priority`.
    pub fn fronts(&self, priority: Priority) -> impl Iterator<Item = &Entry<P>> {
        self.rings[priority.index()]
            .iter()
            .filter_map(|i| self.streams[*i].entries.front())
    }

    fn take_from(&mut self, priority: Priority, index: usize) -> Option<Entry<P>> {
        self.rings[priority.index()].retain(|i| *i != index);
        self.take(priority, index).map(|(_, entry, _)| entry)
    }

    /// `index` is no longer in its ring.
    fn take(
        &mut self,
        priority: Priority,
        index: usize,
    ) -> Option<(u32, Entry<P>, Option<Priority>)> {
        let stream = &mut self.streams[index];
        let entry = stream.entries.pop_front()?;
        let one = Amount::one(entry.size);
        stream.counts[entry.priority.index()] -= 1;
        stream.bytes = stream.bytes.saturating_sub(entry.size);
        self.total.take(one);
        self.waiting[priority.index()].take(one);
        let next = stream.served_at();
        match next {
            Some(next) => {
                if next != priority {
                    let amount = stream.amount();
                    self.waiting[priority.index()].take(amount);
                    self.waiting[next.index()].give(amount);
                }
                self.rings[next.index()].push_back(index);
            }
            None if stream.entries.capacity() > KEPT_CAPACITY => stream.entries = VecDeque::new(),
            None => (),
        }
        Some((self.ssrcs[index], entry, next))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry<P>> {
        self.streams.iter().flat_map(|s| s.entries.iter())
    }

    /// Drops everything, and forgets the SSRCs.
    pub fn clear(&mut self) {
        *self = Self::new(u16::try_from(self.max_streams).unwrap_or(u16::MAX));
    }
}
