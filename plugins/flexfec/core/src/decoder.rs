// SPDX-License-Identifier: MPL-2.0
//! Makes lost packets of FEC packets and of the packets that came.
//!
//! ```text
//! media --------+--> Stream: which numbers came --+
//! recovered ----+--> Store: their bytes           | one missing
//! fec ----------+--> Pending: whom they protect --+--> recover --> next_recovered
//! ```
//!
//! A recovered packet is taken in like one that came, so it may complete other
//! FEC packets in turn.

mod config;
mod intake;
mod pending;
mod recover;
mod stats;
mod store;
mod stream;

use std::collections::VecDeque;

use dualstream_common::Timestamp;

pub use config::{
    DecoderConfig, DecoderConfigError, FecRejected, Limits, MAX_SSRCS, Media, MediaRejected,
    Recovered,
};
use pending::{Covered, MAX_PENDING, Pending, bits};
pub use stats::{Amount, Stats};
use store::Store;
use stream::{EPOCHS, State, Stream};

use crate::rtp::Header;
use crate::wire::MAX_STREAMS;

/// Retransmitted packets that wait for [`Decoder::next_recovered`], at most.
const MAX_RESENT: usize = 64;

/// Whose bytes are in the store.
#[derive(Clone, Copy, Debug)]
enum Tag {
    Media { stream: usize, sequence: u64 },
    Fec { index: usize, id: u64 },
}

/// Why a FEC packet waits no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Used,
    Useless,
    Unrecoverable,
    Malformed,
}

#[derive(Clone, Debug)]
pub struct Decoder {
    config: DecoderConfig,
    /// Half of each stream's ring.
    half: usize,
    streams: Vec<Stream>,
    /// Epochs that began.
    epochs: u64,
    store: Store<Tag>,
    pending: Vec<Pending>,
    /// FEC packets that wait, one bit each.
    waiting: u128,
    /// Those of them that lack one packet.
    ready: u128,
    /// Retransmitted packets to be handed out: stream and number.
    resent: VecDeque<(usize, u64)>,
    /// What the FEC packet that is taken in protects.
    covered: Vec<Covered>,
    /// The last time told.
    now: Timestamp,
    /// Counts FEC packets and uses of streams.
    serial: u64,
    stats: Stats,
}

impl Decoder {
    pub fn new(config: DecoderConfig) -> Result<Self, DecoderConfigError> {
        config.validate()?;
        let limits = config.limits;
        Ok(Self {
            half: limits.packets.max(128).next_power_of_two(),
            streams: Vec::with_capacity(MAX_SSRCS),
            epochs: 0,
            store: Store::new(limits.packets, limits.bytes),
            pending: (0..MAX_PENDING).map(|_| Pending::new()).collect(),
            waiting: 0,
            ready: 0,
            resent: VecDeque::with_capacity(MAX_RESENT),
            covered: Vec::with_capacity(MAX_STREAMS),
            now: Timestamp::ZERO,
            serial: 0,
            stats: Stats::default(),
            config,
        })
    }

    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Settings changed while it runs. What is held is forgotten unless they
    /// are the same; counters go on.
    pub fn configure(&mut self, config: DecoderConfig) -> Result<(), DecoderConfigError> {
        if config == self.config {
            return Ok(());
        }
        let mut new = Self::new(config)?;
        self.clear();
        new.stats = self.stats;
        *self = new;
        Ok(())
    }

    /// A packet came that is not FEC. Afterwards [`Self::next_recovered`] is
    /// to be asked until there is none.
    pub fn media(&mut self, now: Timestamp, packet: &[u8]) -> Media {
        self.expire(now);
        let header = match Header::parse(packet) {
            Ok(header) => header,
            Err(malformed) => {
                self.stats.malformed += packet.len();
                return Media::Rejected(MediaRejected::Malformed(malformed));
            }
        };
        let taken = self.take(&header, packet, State::Received);
        let media = taken.err().unwrap_or(Media::New);
        let counter = match media {
            Media::New => &mut self.stats.media,
            Media::Duplicate => &mut self.stats.duplicates,
            Media::AlreadyRecovered => &mut self.stats.already_recovered,
            Media::Rejected(MediaRejected::Malformed(_)) => &mut self.stats.malformed,
            Media::Rejected(MediaRejected::Late) => &mut self.stats.late,
            Media::Rejected(MediaRejected::NotProtected | MediaRejected::TooLarge) => {
                &mut self.stats.ignored
            }
        };
        *counter += packet.len();
        media
    }

    /// A FEC packet came, with its RTP header. Afterwards
    /// [`Self::next_recovered`] is to be asked until there is none.
    pub fn fec(&mut self, now: Timestamp, packet: &[u8]) -> Result<(), FecRejected> {
        self.expire(now);
        self.stats.fec += packet.len();
        let taken = self.take_fec(packet);
        match taken {
            Ok(()) => (),
            Err(FecRejected::Malformed(_)) => self.stats.fec_malformed += packet.len(),
            Err(_) => self.stats.fec_ignored += packet.len(),
        }
        taken
    }

    /// The next packet that was recovered, each once.
    #[inline]
    pub fn next_recovered(&mut self) -> Option<Recovered<'_>> {
        // Mostly there is none.
        if self.ready == 0 && self.resent.is_empty() {
            return None;
        }
        let (stream, sequence) = self.recover_next()?;
        let stream = self.streams.get(stream)?;
        let slot = stream.slot(sequence)?;
        let packet = self.store.get(slot.spot);
        let [_, _, _, _, timestamp @ ..] = packet.first_chunk::<8>()?;
        Some(Recovered {
            ssrc: stream.ssrc,
            sequence: sequence as u16,
            timestamp: u32::from_be_bytes(*timestamp),
            packet,
        })
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        for stream in self.streams.iter().filter(|s| s.named) {
            let (lost, missing) = stream.gaps();
            stats.lost += lost;
            stats.missing += missing;
        }
        for pending in bits(self.waiting).filter_map(|index| self.pending.get(index)) {
            stats.fec_pending += pending.size;
        }
        let (packets, bytes) = self.store.len();
        stats.held = Amount {
            packets: packets as u64,
            bytes: bytes as u64,
        };
        stats
    }

    /// Forgets all packets, as after a flush; counters go on.
    pub fn clear(&mut self) {
        for index in bits(self.waiting) {
            self.finish(index, Outcome::Unrecoverable);
        }
        for stream in self.streams.drain(..).filter(|s| s.named) {
            let (lost, missing) = stream.gaps();
            self.stats.lost += lost + missing;
        }
        self.epochs = 0;
        self.store.clear();
        self.resent.clear();
    }

    /// Bytes of all the memory that is held, used or not.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let covered: usize = self.pending.iter().map(|p| p.covered.capacity()).sum();
        let covered = (covered + self.covered.capacity()) * size_of::<Covered>();
        let streams: usize = self.streams.iter().map(Stream::footprint).sum();
        let pending = self.pending.capacity() * size_of::<Pending>();
        let resent = self.resent.capacity() * size_of::<(usize, u64)>();
        self.store.footprint() + streams + pending + covered + resent
    }

    /// Throws away what is too old.
    fn expire(&mut self, now: Timestamp) {
        self.now = now;
        let age = self.config.limits.age;
        while let Some(tag) = self.store.evict_older(now, age) {
            self.evicted(tag);
        }
        // Numbers of new streams would meet those of old ones.
        if self.epochs + MAX_SSRCS as u64 >= EPOCHS {
            self.clear();
        }
    }

    /// Makes room for a packet of so many bytes behind its fixed header, which
    /// the store can hold.
    fn make_room(&mut self, body: usize) {
        while let Some(tag) = self.store.evict_for(body) {
            self.evicted(tag);
        }
    }

    /// The bytes of a packet are gone, and with them what FEC could make of
    /// them.
    #[inline]
    fn evicted(&mut self, tag: Tag) {
        match tag {
            Tag::Media { stream, sequence } => {
                let Some(slot) = self
                    .streams
                    .get_mut(stream)
                    .and_then(|s| s.slot_mut(sequence))
                else {
                    return;
                };
                slot.held = false;
                let users = slot.users;
                self.give_up(users);
            }
            Tag::Fec { index, id } => {
                let waits = self.waiting >> index & 1 == 1;
                if waits && self.pending.get(index).is_some_and(|p| p.id == id) {
                    self.finish(index, Outcome::Unrecoverable);
                }
            }
        }
    }

    fn give_up(&mut self, users: u128) {
        for index in bits(users) {
            self.finish(index, Outcome::Unrecoverable);
        }
    }

    /// A FEC packet waits no more.
    fn finish(&mut self, index: usize, outcome: Outcome) {
        let bit = 1u128 << index;
        self.waiting &= !bit;
        self.ready &= !bit;
        let Some(pending) = self.pending.get(index) else {
            return;
        };
        for covered in &pending.covered {
            let Some(stream) = self.streams.get_mut(covered.stream) else {
                continue;
            };
            for sequence in covered.sequences() {
                if let Some(slot) = stream.slot_mut(sequence) {
                    slot.users &= !bit;
                }
            }
        }
        let counter = match outcome {
            Outcome::Used => &mut self.stats.fec_used,
            Outcome::Useless => &mut self.stats.useless,
            Outcome::Unrecoverable => &mut self.stats.unrecoverable,
            Outcome::Malformed => &mut self.stats.fec_malformed,
        };
        *counter += pending.size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ssrc: u8) -> [u8; 13] {
        [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, ssrc, 7]
    }

    /// The numbers of streams come to an end, after 2^28 of them.
    #[test]
    fn streams_go_on_after_the_last_epoch() {
        let mut decoder = Decoder::new(DecoderConfig::default()).unwrap();
        decoder.epochs = EPOCHS - MAX_SSRCS as u64 - 3;
        for ssrc in 0..10 {
            assert_eq!(decoder.media(Timestamp::ZERO, &packet(ssrc)), Media::New);
            assert_eq!(
                decoder.media(Timestamp::ZERO, &packet(ssrc)),
                match ssrc {
                    // All is forgotten once.
                    2 => Media::New,
                    _ => Media::Duplicate,
                }
            );
        }
        assert!(decoder.epochs < 20);
    }
}
