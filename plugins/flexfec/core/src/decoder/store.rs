// SPDX-License-Identifier: MPL-2.0
//! Bytes of packets in the order of their coming, in one piece of memory that
//! is used round and round.
//!
//! What follows the fixed header of a packet begins at a whole lane and is
//! followed by zeros up to one, so that XOR meets whole lanes only.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use dualstream_common::Timestamp;

use crate::rtp::FIXED_HEADER;
use crate::xor::{LANE, Sum};

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    tag: T,
    /// Where its memory begins.
    start: usize,
    /// Of the packet.
    length: usize,
    time: Timestamp,
}

/// Where a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    /// Of the fixed header; less than 4 GiB.
    start: u32,
    length: u32,
}

impl Spot {
    pub fn length(self) -> usize {
        self.length as usize
    }

    /// Bytes behind the fixed header.
    fn body(self) -> usize {
        self.length().saturating_sub(FIXED_HEADER)
    }

    /// The memory of all that follows the fixed header.
    fn lanes(self) -> Range<usize> {
        let start = self.start as usize + FIXED_HEADER;
        start..start + self.body().next_multiple_of(LANE)
    }
}

/// Memory for a packet: a lane that ends with the fixed header, then the rest.
fn reserve(body: usize) -> usize {
    LANE + body.next_multiple_of(LANE)
}

#[derive(Clone, Debug)]
pub(super) struct Store<T> {
    bytes: Vec<u8>,
    /// Where the next packet goes.
    write: usize,
    entries: VecDeque<Entry<T>>,
    /// Entries that are gone.
    gone: u64,
    packets: usize,
}

impl<T: Copy> Store<T> {
    /// All the memory it will ever use.
    pub fn new(packets: usize, bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes],
            write: 0,
            entries: VecDeque::with_capacity(packets),
            gone: 0,
            packets,
        }
    }

    /// Whether a packet of so many bytes behind its fixed header ever fits.
    pub fn fits(&self, body: usize) -> bool {
        reserve(body) <= self.bytes.len()
    }

    /// Bytes of all the memory that is held, used or not.
    pub fn footprint(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry<T>>()
    }

    /// Held packets and their bytes.
    pub fn len(&self) -> (usize, usize) {
        let bytes = self.entries.iter().map(|e| e.length).sum();
        (self.entries.len(), bytes)
    }

    pub fn clear(&mut self) {
        self.gone += self.entries.len() as u64;
        self.entries.clear();
        self.write = 0;
    }

    fn pop(&mut self) -> Option<T> {
        let oldest = self.entries.pop_front()?;
        self.gone += 1;
        Some(oldest.tag)
    }

    /// Throws away the oldest packet if it is in the way of one of so many
    /// bytes behind its fixed header, which [`Self::fits`]. To be called until
    /// there is none.
    #[inline]
    pub fn evict_for(&mut self, body: usize) -> Option<T> {
        let needed = reserve(body);
        loop {
            let Some(front) = self.entries.front() else {
                self.write = 0;
                return None;
            };
            if self.entries.len() >= self.packets {
                return self.pop();
            }
            if front.start >= self.write {
                // The last turn's packets are ahead.
                let free = self.write + needed <= front.start;
                return if free { None } else { self.pop() };
            }
            // Turns early if more is free at the beginning than is held, so
            // that little memory stays in use and in the cache.
            let roomy = front.start >= needed && front.start >= self.write - front.start;
            if !roomy && self.write + needed <= self.bytes.len() {
                return None;
            }
            self.write = 0;
        }
    }

    /// Throws away the oldest packet if it is older than `age`.
    pub fn evict_older(&mut self, now: Timestamp, age: Duration) -> Option<T> {
        let front = self.entries.front()?;
        if now.since(front.time) <= age {
            return None;
        }
        self.pop()
    }

    /// Copies a packet in, whose fixed header may follow later; there is room
    /// after [`Self::evict_for`]. Where it is, and a number to change its tag.
    #[inline]
    pub fn push(&mut self, now: Timestamp, tag: T, header: &[u8], body: &[u8]) -> (Spot, u64) {
        let start = self.write;
        self.write += reserve(body.len());
        let spot = Spot {
            start: (start + LANE - FIXED_HEADER) as u32,
            length: (FIXED_HEADER + body.len()) as u32,
        };
        self.write_header(spot, header);
        let lanes = self.bytes.get_mut(spot.lanes()).unwrap_or_default();
        if let Some(last) = lanes.last_chunk_mut::<LANE>() {
            *last = [0; LANE];
        }
        if let Some(place) = lanes.get_mut(..body.len()) {
            place.copy_from_slice(body);
        }
        self.entries.push_back(Entry {
            tag,
            start,
            length: spot.length(),
            time: now,
        });
        (spot, self.gone + self.entries.len() as u64 - 1)
    }

    pub fn write_header(&mut self, spot: Spot, header: &[u8]) {
        let start = spot.start as usize;
        if let Some(place) = self.bytes.get_mut(start..start + header.len()) {
            place.copy_from_slice(header);
        }
    }

    /// XORs packets into one, all but their fixed headers.
    pub fn sum_onto(&mut self, into: Spot) -> SumOnto<'_> {
        let lanes = into.lanes();
        let (before, rest) = self
            .bytes
            .split_at_mut_checked(lanes.start)
            .unwrap_or_default();
        let (into, after) = rest.split_at_mut_checked(lanes.len()).unwrap_or_default();
        SumOnto {
            before,
            after,
            lanes,
            sum: Sum::onto(into.as_chunks_mut().0),
        }
    }

    /// What was pushed under that number is a packet of another kind now, and
    /// shorter.
    pub fn change(&mut self, number: u64, tag: T, spot: Spot, length: usize) -> Spot {
        let index = number.checked_sub(self.gone).map(|index| index as usize);
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            entry.tag = tag;
            entry.length = length;
        }
        Spot {
            length: length as u32,
            ..spot
        }
    }

    pub fn get(&self, spot: Spot) -> &[u8] {
        let start = spot.start as usize;
        self.bytes
            .get(start..start + spot.length())
            .unwrap_or_default()
    }

    pub fn get_mut(&mut self, spot: Spot) -> &mut [u8] {
        let start = spot.start as usize;
        self.bytes
            .get_mut(start..start + spot.length())
            .unwrap_or_default()
    }
}

/// Adds packets to one of them.
pub(super) struct SumOnto<'a> {
    before: &'a [u8],
    after: &'a [u8],
    /// The memory between.
    lanes: Range<usize>,
    sum: Sum<'a>,
}

impl SumOnto<'_> {
    #[inline]
    pub fn add(&mut self, packet: Spot) {
        let lanes = packet.lanes();
        let bytes = if lanes.start < self.lanes.start {
            self.before.get(lanes)
        } else {
            let start = lanes.start.saturating_sub(self.lanes.end);
            self.after.get(start..start + lanes.len())
        };
        self.sum.add(bytes.unwrap_or_default().as_chunks().0);
    }

    /// To be called at the end.
    pub fn finish(self) {
        self.sum.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push<T: Copy>(store: &mut Store<T>, ms: u64, tag: T, packet: &[u8]) -> (Spot, u64) {
        let (header, body) = packet.split_at(FIXED_HEADER);
        store.push(Timestamp::from_millis(ms), tag, header, body)
    }

    proptest! {
        /// The newest packets that fit are there, unchanged, in order.
        #[test]
        fn what_is_not_evicted_is_unchanged(
            packets in 1usize..20,
            lengths in proptest::collection::vec(0usize..200, 1..300),
        ) {
            let mut store = Store::new(packets, 1000);
            let mut held = VecDeque::new();
            for (serial, length) in lengths.into_iter().enumerate() {
                let packet = vec![serial as u8; FIXED_HEADER + length];
                prop_assert!(store.fits(length));
                while let Some(tag) = store.evict_for(length) {
                    let (oldest, _, _) = held.pop_front().unwrap();
                    prop_assert_eq!(tag, oldest, "the oldest goes first");
                }
                let (spot, _) = push(&mut store, 0, serial, &packet);
                held.push_back((serial, spot, packet));
                prop_assert!(held.len() <= packets);
                for (_, spot, packet) in &held {
                    prop_assert_eq!(store.get(*spot), &packet[..]);
                }
            }
        }

        /// Nothing is thrown away as long as half of the memory is enough.
        #[test]
        fn half_of_the_memory_is_always_usable(
            lengths in proptest::collection::vec(1usize..100, 1..300),
        ) {
            let mut store = Store::new(1000, 40 * LANE);
            let mut held = VecDeque::new();
            for (serial, length) in lengths.into_iter().enumerate() {
                while let Some(tag) = store.evict_for(length) {
                    prop_assert_eq!(held.pop_front().map(|(tag, _)| tag), Some(tag));
                }
                push(&mut store, 0, serial, &vec![0; FIXED_HEADER + length]);
                held.push_back((serial, reserve(length)));
                let bytes: usize = held.iter().map(|(_, length)| length).sum();
                prop_assert!(bytes >= 18 * LANE || held.len() == serial + 1);
            }
        }

        /// In place, wherever the others are.
        #[test]
        fn packets_are_xored_into_one(
            bodies in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..150),
                2..6,
            ),
            into in 0usize..6,
        ) {
            let mut store = Store::new(10, 5000);
            let spots: Vec<_> = bodies
                .iter()
                .map(|body| store.push(Timestamp::ZERO, 0, &[7; FIXED_HEADER], body).0)
                .collect();
            let into = into % bodies.len();
            let mut sum = store.sum_onto(spots[into]);
            let others = spots.iter().enumerate().filter(|(i, _)| *i != into);
            others.for_each(|(_, spot)| sum.add(*spot));
            sum.finish();
            let length = bodies[into].len();
            let mut expected = vec![7; FIXED_HEADER];
            expected.extend((0..length).map(|i| {
                bodies.iter().filter_map(|b| b.get(i)).fold(0, |sum, byte| sum ^ byte)
            }));
            prop_assert_eq!(store.get(spots[into]), &expected[..]);
        }
    }

    #[test]
    fn little_memory_is_used_if_little_is_held() {
        let mut store = Store::new(10, 1000 * LANE);
        for serial in 0..1000 {
            while store.evict_for(LANE).is_some() {}
            let (spot, _) = push(&mut store, 0, serial, &[0; FIXED_HEADER + LANE]);
            assert!(spot.lanes().end <= 3 * 10 * 2 * LANE, "{serial}: {spot:?}");
        }
    }

    #[test]
    fn what_is_old_goes() {
        let mut store = Store::new(10, 500);
        push(&mut store, 0, 'a', &[1; 20]);
        let (spot, number) = push(&mut store, 5, 'b', &[2; 20]);
        let age = Duration::from_millis(10);
        let at = Timestamp::from_millis;
        assert_eq!(store.evict_older(at(10), age), None);
        assert_eq!(store.evict_older(at(11), age), Some('a'));
        assert_eq!(store.evict_older(at(11), age), None);
        assert_eq!(store.evict_older(at(1), age), None, "time went back");
        let shorter = store.change(number, 'c', spot, 15);
        assert_eq!(store.get(shorter), [2; 15]);
        assert_eq!(store.len(), (1, 15));
        assert_eq!(store.evict_older(at(16), age), Some('c'));
        store.change(number, 'd', spot, 1);
        assert_eq!(store.len(), (0, 0), "it is gone");
    }
}
