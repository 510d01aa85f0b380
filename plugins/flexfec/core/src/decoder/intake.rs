// SPDX-License-Identifier: MPL-2.0
//! Taking packets in.

use super::store::Spot;
use super::stream::{Place, Slot, State, Stream};
use super::{
    Covered, Decoder, FecRejected, MAX_PENDING, MAX_RESENT, MAX_SSRCS, Media, MediaRejected,
    Outcome, Tag, bits,
};
use crate::rtp::{FIXED_HEADER, Header, MAX_PACKET};
use crate::wire::{self, Content, FecError, Recovery, Repair};

/// The SSRC is not one to be recovered.
struct NotProtected;

impl Decoder {
    /// Takes in a packet that came, or was sent again. Stream and number of a
    /// new one, or what else it is.
    pub(super) fn take(
        &mut self,
        header: &Header,
        packet: &[u8],
        state: State,
    ) -> Result<(usize, u64), Media> {
        let body = packet.len().saturating_sub(FIXED_HEADER);
        if packet.len() > MAX_PACKET || !self.store.fits(body) {
            return Err(Media::Rejected(MediaRejected::TooLarge));
        }
        let index = self
            .stream_for(header.ssrc, header.sequence)
            .map_err(|NotProtected| Media::Rejected(MediaRejected::NotProtected))?;
        let stream = &mut self.streams[index];
        let sequence = match stream.locate(header.sequence) {
            Place::Inside(sequence) => sequence,
            Place::Late => return Err(Media::Rejected(MediaRejected::Late)),
            Place::Restart => {
                self.restart(index, header.sequence);
                self.streams[index].nearest(header.sequence)
            }
        };
        if let Some(slot) = self.streams[index].slot_mut(sequence) {
            match slot.state {
                State::Missing => (),
                State::Received => return Err(Media::Duplicate),
                State::Recovered => {
                    slot.state = state;
                    return Err(Media::AlreadyRecovered);
                }
            }
        }
        self.insert(index, sequence, header, packet, state);
        Ok((index, sequence))
    }

    /// Stores a packet that was not seen before.
    fn insert(
        &mut self,
        index: usize,
        sequence: u64,
        header: &Header,
        packet: &[u8],
        state: State,
    ) {
        let (fixed, body) = packet.split_at_checked(FIXED_HEADER).unwrap_or_default();
        self.make_room(body.len());
        let tag = Tag::Media {
            stream: index,
            sequence,
        };
        let (spot, _) = self.store.push(self.now, tag, fixed, body);
        if !self.config.mutable.is_empty() {
            let copy = self.store.get_mut(spot).get_mut(FIXED_HEADER..);
            let mutable = &self.config.mutable;
            mutable.zero_copy(header, packet, copy.unwrap_or_default());
        }
        self.arrived(index, sequence, spot, Recovery::of(packet), state);
    }

    /// A packet is in the store that was not seen before; the FEC packets that
    /// wait for it are told.
    #[inline]
    pub(super) fn arrived(
        &mut self,
        index: usize,
        sequence: u64,
        spot: Spot,
        recovery: Recovery,
        state: State,
    ) {
        self.streams[index].seen(sequence);
        let slot = self.claim(index, sequence);
        slot.state = state;
        slot.held = true;
        slot.spot = spot;
        slot.recovery = recovery;
        let users = slot.users;
        for index in bits(users) {
            let Some(pending) = self.pending.get_mut(index) else {
                continue;
            };
            pending.missing = pending.missing.saturating_sub(1);
            match pending.missing {
                0 => self.finish(index, Outcome::Useless),
                1 => self.ready |= 1 << index,
                _ => (),
            }
        }
    }

    /// The slot of a number. FEC packets for the number that had it are given up.
    #[inline]
    fn claim(&mut self, stream: usize, sequence: u64) -> &mut Slot {
        let displaced = self.streams[stream].displaced(sequence);
        if displaced != 0 {
            self.give_up(displaced);
        }
        self.streams[stream].claim(sequence)
    }

    /// The stream of an SSRC, made if need be: in the place of the one that
    /// was not used for longest, if there are too many, rather of one that no
    /// FEC packet named.
    #[inline]
    fn stream_for(&mut self, ssrc: u32, sequence: u16) -> Result<usize, NotProtected> {
        self.serial += 1;
        if let Some(index) = self.streams.iter().position(|s| s.ssrc == ssrc) {
            self.streams[index].used = self.serial;
            return Ok(index);
        }
        let protected = &self.config.protected;
        let unknown = !protected.is_empty() && !protected.contains(&ssrc);
        if unknown || self.config.fec_ssrc == Some(ssrc) {
            return Err(NotProtected);
        }
        self.epochs += 1;
        let index = if self.streams.len() < MAX_SSRCS {
            let stream = Stream::new(ssrc, self.epochs, self.half, sequence);
            self.streams.push(stream);
            self.streams.len() - 1
        } else {
            let all = self.streams.iter().enumerate();
            let oldest = all.min_by_key(|(_, s)| (s.named, s.used));
            let index = oldest.map_or(0, |(index, _)| index);
            self.forget(index);
            let stream = &mut self.streams[index];
            if stream.named {
                let (lost, missing) = stream.gaps();
                self.stats.lost += lost + missing;
            }
            stream.replace(ssrc, self.epochs, sequence);
            index
        };
        self.streams[index].used = self.serial;
        Ok(index)
    }

    fn restart(&mut self, index: usize, sequence: u16) {
        self.forget(index);
        self.epochs += 1;
        self.streams[index].restart(self.epochs, sequence);
    }

    /// Drops what waits for packets of a stream.
    fn forget(&mut self, stream: usize) {
        for index in bits(self.waiting) {
            let waits = self.pending.get(index).is_some_and(|pending| {
                pending
                    .covered
                    .iter()
                    .any(|covered| covered.stream == stream)
            });
            if waits {
                self.finish(index, Outcome::Unrecoverable);
            }
        }
        self.resent.retain(|(resent, _)| *resent != stream);
    }

    pub(super) fn take_fec(&mut self, packet: &[u8]) -> Result<(), FecRejected> {
        let (header, content) =
            wire::parse(self.config.format, packet).map_err(FecRejected::Malformed)?;
        if self.config.fec_ssrc.is_some_and(|ssrc| ssrc != header.ssrc) {
            return Err(FecRejected::WrongSsrc);
        }
        match content {
            Content::Repair(repair) => self.take_repair(&header, &repair, packet.len()),
            Content::Retransmission(resent) => self.take_resent(resent, packet.len()),
        }
    }

    fn take_resent(&mut self, resent: &[u8], size: usize) -> Result<(), FecRejected> {
        let header = Header::parse(resent)
            .map_err(|malformed| FecRejected::Malformed(FecError::Rtp(malformed)))?;
        if self.resent.len() >= MAX_RESENT {
            return Err(FecRejected::Full);
        }
        match self.take(&header, resent, State::Recovered) {
            Ok((index, sequence)) => {
                self.streams[index].named = true;
                self.resent.push_back((index, sequence));
                self.stats.fec_used += size;
                Ok(())
            }
            Err(Media::New | Media::Duplicate | Media::AlreadyRecovered) => {
                self.stats.useless += size;
                Ok(())
            }
            Err(Media::Rejected(MediaRejected::NotProtected)) => Err(FecRejected::NotProtected),
            Err(Media::Rejected(MediaRejected::TooLarge)) => Err(FecRejected::TooLarge),
            Err(Media::Rejected(MediaRejected::Late | MediaRejected::Malformed(_))) => {
                Err(FecRejected::OutOfWindow)
            }
        }
    }

    fn take_repair(
        &mut self,
        header: &Header,
        repair: &Repair<'_>,
        size: usize,
    ) -> Result<(), FecRejected> {
        let key = u64::from(header.ssrc) << 16 | u64::from(header.sequence);
        let waits = |index: usize| self.pending.get(index).is_some_and(|p| p.key == key);
        if bits(self.waiting).any(waits) {
            return Err(FecRejected::Duplicate);
        }
        if !self.store.fits(repair.payload.len()) {
            return Err(FecRejected::TooLarge);
        }
        self.locate(repair)?;
        if self.count_missing() == 0 {
            self.stats.useless += size;
            return Ok(());
        }
        self.make_room(repair.payload.len());
        let index = self.free_pending();
        self.serial += 1;
        let id = self.serial;
        let tag = Tag::Fec { index, id };
        let (spot, number) = self.store.push(self.now, tag, &[], repair.payload);
        let pending = &mut self.pending[index];
        pending.id = id;
        pending.key = key;
        pending.recovery = repair.recovery;
        pending.spot = spot;
        pending.number = number;
        pending.size = size;
        std::mem::swap(&mut pending.covered, &mut self.covered);
        self.link(index);
        Ok(())
    }

    /// Finds the streams and endless numbers of what a FEC packet protects,
    /// for `self.covered`.
    fn locate(&mut self, repair: &Repair<'_>) -> Result<(), FecRejected> {
        self.covered.clear();
        for p in repair.protected() {
            let stream = self
                .stream_for(p.ssrc, p.base)
                .map_err(|NotProtected| FecRejected::NotProtected)?;
            let covered = Covered {
                stream,
                base: self.streams[stream].nearest(p.base),
                coverage: p.coverage,
            };
            let stream = &mut self.streams[stream];
            if !stream.reaches(covered.base) || !stream.reaches(covered.last()) {
                return Err(FecRejected::OutOfWindow);
            }
            stream.named = true;
            self.covered.push(covered);
        }
        Ok(())
    }

    fn count_missing(&self) -> usize {
        let missing = |covered: &Covered| {
            let stream = &self.streams[covered.stream];
            let unseen = covered.sequences().filter(|sequence| {
                stream
                    .slot(*sequence)
                    .is_none_or(|slot| slot.state == State::Missing)
            });
            unseen.count()
        };
        self.covered.iter().map(missing).sum()
    }

    /// A place for a FEC packet; the oldest gives way if there is none.
    fn free_pending(&mut self) -> usize {
        let free = (!self.waiting).trailing_zeros() as usize;
        if free < MAX_PENDING {
            return free;
        }
        let all = self.pending.iter().enumerate();
        let oldest = all.min_by_key(|(_, p)| p.id).map_or(0, |(index, _)| index);
        self.finish(oldest, Outcome::Unrecoverable);
        oldest
    }

    /// Has each packet that a FEC packet protects know of it, and counts those
    /// that are missing.
    fn link(&mut self, index: usize) {
        let bit = 1u128 << index;
        let covered = std::mem::take(&mut self.pending[index].covered);
        let (mut missing, mut gone) = (0, false);
        for part in &covered {
            for sequence in part.sequences() {
                let slot = self.claim(part.stream, sequence);
                slot.users |= bit;
                missing += u32::from(slot.state == State::Missing);
                gone |= slot.state != State::Missing && !slot.held;
            }
        }
        let pending = &mut self.pending[index];
        pending.covered = covered;
        pending.missing = missing;
        self.waiting |= bit;
        if gone {
            self.finish(index, Outcome::Unrecoverable);
        } else if missing == 1 {
            self.ready |= bit;
        }
    }
}
