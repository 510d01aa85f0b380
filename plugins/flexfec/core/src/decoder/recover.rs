// SPDX-License-Identifier: MPL-2.0
//! Making the one packet that a FEC packet lacks (RFC 8627 section 6.3.2,
//! draft-03 section 6.3).

use super::stream::{Slot, State};
use super::{Decoder, Outcome, Tag};
use crate::rtp::{FIXED_HEADER, Header};
use crate::wire::Recovery;

impl Decoder {
    /// The next packet to be handed out: its stream and number. Its bytes are
    /// in the store.
    pub(super) fn recover_next(&mut self) -> Option<(usize, u64)> {
        loop {
            if let Some((stream, sequence)) = self.resent.pop_front() {
                if let Some(slot) = self.streams.get(stream).and_then(|s| s.slot(sequence))
                    && slot.held
                {
                    self.stats.recovered += slot.spot.length();
                    return Some((stream, sequence));
                }
                continue;
            }
            if self.ready == 0 {
                return None;
            }
            let index = self.ready.trailing_zeros() as usize;
            if let Some(recovered) = self.recover(index) {
                return Some(recovered);
            }
        }
    }

    /// Uses up a FEC packet that lacks one packet. None if that cannot be.
    fn recover(&mut self, index: usize) -> Option<(usize, u64)> {
        let made = self.make(index);
        let outcome = match made {
            Some(_) => Outcome::Used,
            None => Outcome::Malformed,
        };
        self.finish(index, outcome);
        let (stream, sequence, header, length) = made?;
        let pending = self.pending.get(index)?;
        let tag = Tag::Media { stream, sequence };
        let spot = self.store.change(pending.number, tag, pending.spot, length);
        let mutable = &self.config.mutable;
        mutable.zero(&header, self.store.get_mut(spot));
        self.stats.recovered += length;
        let recovery = Recovery::of(self.store.get(spot));
        self.arrived(stream, sequence, spot, recovery, State::Recovered);
        Some((stream, sequence))
    }

    /// XORs what there is into the FEC packet, in its place in the store:
    /// stream, number, header and length of what it becomes. None if that
    /// cannot have been sent: it does not fit in the FEC packet, has something
    /// behind its end, or is no RTP packet. The FEC packet is used up then too.
    fn make(&mut self, index: usize) -> Option<(usize, u64, Header, usize)> {
        let pending = self.pending.get(index)?;
        let mut found = Found::new(pending.recovery);
        let mut sum = self.store.sum_onto(pending.spot);
        for covered in &pending.covered {
            let stream = self.streams.get(covered.stream);
            for sequence in covered.sequences() {
                let slot = stream.and_then(|s| s.slot(sequence)).filter(|s| s.held);
                match slot {
                    Some(slot) => {
                        found.add(slot);
                        sum.add(slot.spot);
                    }
                    None => found.lacks(covered.stream, sequence),
                }
            }
        }
        sum.finish();
        let (stream, sequence) = found.lacking?;
        let known = self.streams.get(stream)?;
        let length = FIXED_HEADER + found.recovery.length();
        let room = pending.spot.length();
        if found.several || length > room || found.longest > room || !known.reaches(sequence) {
            return None;
        }
        let header = found.recovery.header(sequence as u16, known.ssrc);
        self.store.write_header(pending.spot, &header);
        let (packet, behind) = self.store.get(pending.spot).split_at_checked(length)?;
        if behind.iter().any(|byte| *byte != 0) {
            return None;
        }
        let header = Header::parse(packet).ok()?;
        Some((stream, sequence, header, length))
    }
}

/// What a FEC packet protects, gone through once.
struct Found {
    /// Of the packet that is made.
    recovery: Recovery,
    /// Bytes of the longest.
    longest: usize,
    /// One that is not there.
    lacking: Option<(usize, u64)>,
    /// There are more of these.
    several: bool,
}

impl Found {
    fn new(recovery: Recovery) -> Self {
        Self {
            recovery,
            longest: 0,
            lacking: None,
            several: false,
        }
    }

    fn add(&mut self, slot: &Slot) {
        self.recovery = self.recovery.xor(slot.recovery);
        self.longest = self.longest.max(slot.spot.length());
    }

    fn lacks(&mut self, stream: usize, sequence: u64) {
        self.several |= self.lacking.replace((stream, sequence)).is_some();
    }
}
