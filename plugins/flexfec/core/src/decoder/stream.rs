// SPDX-License-Identifier: MPL-2.0
//! What is known of the sequence numbers of one SSRC.

use dualstream_common::ExtSeq;

use super::store::Spot;
use crate::wire::Recovery;

/// A jump ahead of more numbers is taken for a restart, which takes two
/// packets in sequence (RFC 3550 appendix A.1, MAX_DROPOUT).
const MAX_DROPOUT: u64 = 3000;

/// Bits for the numbers of one epoch; more packets than a stream ever has.
const EPOCH_BITS: u32 = 36;

/// Epochs that there are numbers for.
pub(super) const EPOCHS: u64 = 1 << (u64::BITS - EPOCH_BITS);

/// The first number of an epoch, a few turns up so that those before it are
/// numbers too. No number is in two epochs, so slots and what is stored need
/// not be cleared when a new one begins.
fn start(epoch: u64) -> u64 {
    (epoch << EPOCH_BITS) + (1 << 20)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Not seen; there may be FEC for it.
    #[default]
    Missing,
    Received,
    Recovered,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// Endless; 0 if the slot is not in use.
    pub sequence: u64,
    /// Where the bytes are in the store.
    pub spot: Spot,
    /// What of them is recovered by fields of their own.
    pub recovery: Recovery,
    pub state: State,
    /// The bytes are in the store.
    pub held: bool,
    /// FEC packets that protect it, one bit each.
    pub users: u128,
}

/// Where a number lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Inside(u64),
    /// The sender began anew: nothing known is of use.
    Restart,
    Late,
}

/// A ring of slots from half a ring behind the highest number seen to half a
/// ring ahead of it.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub ssrc: u32,
    /// FEC packets protect it.
    pub named: bool,
    /// When it was used last, in packets.
    pub used: u64,
    slots: Vec<Slot>,
    highest: u64,
    /// The lowest seen; `highest + 1` if none was.
    first: u64,
    /// The number that would confirm a restart.
    suspect: Option<u16>,
    /// Between the lowest and the highest, not seen, still in the ring.
    missing: u64,
    /// Not seen until they left the ring.
    lost: u64,
}

impl Stream {
    /// `half` is a power of two, at most 2^14; `epoch` is not used by any
    /// other stream. The first number is expected to be `sequence`.
    pub fn new(ssrc: u32, epoch: u64, half: usize, sequence: u16) -> Self {
        let mut stream = Self {
            ssrc,
            named: false,
            used: 0,
            slots: vec![Slot::default(); 2 * half],
            highest: 0,
            first: 0,
            suspect: None,
            missing: 0,
            lost: 0,
        };
        stream.restart(epoch, sequence);
        stream
    }

    /// Another SSRC in the memory of this one.
    pub fn replace(&mut self, ssrc: u32, epoch: u64, sequence: u16) {
        self.ssrc = ssrc;
        self.named = false;
        self.restart(epoch, sequence);
        self.lost = 0;
    }

    pub fn restart(&mut self, epoch: u64, sequence: u16) {
        self.lost += self.missing;
        self.missing = 0;
        self.first = start(epoch) + u64::from(sequence);
        self.highest = self.first - 1;
        self.suspect = None;
    }

    /// Numbers that were skipped: those given up, and those that may yet come.
    pub fn gaps(&self) -> (u64, u64) {
        (self.lost, self.missing)
    }

    pub fn footprint(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    fn half(&self) -> u64 {
        self.slots.len() as u64 / 2
    }

    /// The endless number of one from the wire.
    pub fn nearest(&self, raw: u16) -> u64 {
        ExtSeq::new(self.highest)
            .nearest(raw)
            .map_or(self.highest, ExtSeq::value)
    }

    /// Whether a number has a slot.
    pub fn reaches(&self, sequence: u64) -> bool {
        sequence + self.half() > self.highest && sequence <= self.highest + self.half()
    }

    /// Where a packet that came belongs.
    #[inline]
    pub fn locate(&mut self, raw: u16) -> Place {
        let sequence = self.nearest(raw);
        let dropout = MAX_DROPOUT.max(self.half());
        let behind = sequence + self.half() <= self.highest;
        if !behind && sequence <= self.highest + dropout {
            self.suspect = None;
            return Place::Inside(sequence);
        }
        if self.suspect == Some(raw) {
            return Place::Restart;
        }
        self.suspect = Some(raw.wrapping_add(1));
        Place::Late
    }

    fn index(&self, sequence: u64) -> usize {
        sequence as usize & (self.slots.len() - 1)
    }

    /// The slot if it is this number's.
    pub fn slot(&self, sequence: u64) -> Option<&Slot> {
        let slot = self.slots.get(self.index(sequence))?;
        (slot.sequence == sequence).then_some(slot)
    }

    pub fn slot_mut(&mut self, sequence: u64) -> Option<&mut Slot> {
        let index = self.index(sequence);
        let slot = self.slots.get_mut(index)?;
        (slot.sequence == sequence).then_some(slot)
    }

    /// FEC packets for the number whose slot this one would take.
    pub fn displaced(&self, sequence: u64) -> u128 {
        match self.slots.get(self.index(sequence)) {
            Some(slot) if slot.sequence != sequence => slot.users,
            _ => 0,
        }
    }

    /// Makes the slot this number's, if it is not.
    pub fn claim(&mut self, sequence: u64) -> &mut Slot {
        let index = self.index(sequence);
        // The index is masked to the ring.
        let slot = &mut self.slots[index];
        if slot.sequence != sequence {
            *slot = Slot {
                sequence,
                ..Slot::default()
            };
        }
        slot
    }

    /// Counts a number that was not seen before; to be called before its slot
    /// says that it was.
    #[inline]
    pub fn seen(&mut self, sequence: u64) {
        if self.first > self.highest {
            // The first of all.
            (self.first, self.highest) = (sequence, sequence);
        } else if sequence > self.highest {
            self.missing += sequence - self.highest - 1;
            self.advance(sequence);
        } else if sequence < self.first {
            self.missing += self.first - sequence - 1;
            self.first = sequence;
        } else {
            self.missing = self.missing.saturating_sub(1);
        }
    }

    /// Moves the ring on; what leaves it unseen is lost.
    fn advance(&mut self, highest: u64) {
        let leaving = self.highest.saturating_sub(self.half()) + 1;
        let left = highest.saturating_sub(self.half());
        for sequence in leaving.max(self.first)..=left {
            let seen = self
                .slot(sequence)
                .is_some_and(|slot| slot.state != State::Missing);
            if !seen {
                self.lost += 1;
                self.missing = self.missing.saturating_sub(1);
            }
        }
        self.first = self.first.max(left + 1);
        self.highest = highest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(stream: &mut Stream, raw: u16) -> Place {
        let place = stream.locate(raw);
        if let Place::Inside(sequence) = place
            && stream
                .slot(sequence)
                .is_none_or(|s| s.state == State::Missing)
        {
            stream.seen(sequence);
            stream.claim(sequence).state = State::Received;
        }
        place
    }

    #[test]
    fn gaps_are_missing_until_they_leave_the_ring() {
        let mut stream = Stream::new(1, 0, 16, 65530);
        for raw in [65530u16, 65533, 65532, 0] {
            assert!(matches!(take(&mut stream, raw), Place::Inside(_)));
        }
        assert_eq!(stream.gaps(), (0, 3), "65531, 65534 and 65535");
        for raw in 1..11 {
            take(&mut stream, raw);
        }
        assert_eq!(stream.gaps(), (0, 3));
        take(&mut stream, 11);
        assert_eq!(stream.gaps(), (1, 2), "65531 is 16 behind");
        assert_eq!(take(&mut stream, 65531), Place::Late);
        assert_eq!(take(&mut stream, 65534), Place::Inside(start(0) + 65534));
        assert_eq!(stream.gaps(), (1, 1));
    }

    #[test]
    fn a_jump_is_a_restart_only_if_a_second_packet_says_so() {
        let mut stream = Stream::new(1, 0, 16, 100);
        take(&mut stream, 100);
        assert_eq!(stream.locate(40_000), Place::Late);
        assert_eq!(stream.locate(50_000), Place::Late);
        assert!(matches!(take(&mut stream, 101), Place::Inside(_)));
        assert_eq!(stream.locate(50_001), Place::Late, "forgotten by then");
        assert_eq!(stream.locate(50_002), Place::Restart);
        stream.restart(1, 50_002);
        assert_eq!(take(&mut stream, 50_002), Place::Inside(start(1) + 50_002));
    }

    #[test]
    fn a_long_gap_is_counted_whole() {
        let mut stream = Stream::new(1, 0, 16, 0);
        take(&mut stream, 0);
        take(&mut stream, 2001);
        let (lost, missing) = stream.gaps();
        assert_eq!(lost + missing, 2000);
        assert_eq!(missing, 15, "those that may come yet");
    }

    #[test]
    fn packets_before_the_first_extend_the_stream() {
        let mut stream = Stream::new(1, 0, 16, 10);
        take(&mut stream, 10);
        take(&mut stream, 7);
        assert_eq!(stream.gaps(), (0, 2));
        take(&mut stream, 8);
        assert_eq!(stream.gaps(), (0, 1));
    }
}
