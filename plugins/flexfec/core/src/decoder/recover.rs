// SPDX-License-Identifier: MPL-2.0
//! Making the one packet that a FEC packet lacks (RFC 8627 section 6.3.2,
//! draft-03 section 6.3).

use super::store::Spot;
use super::stream::{State, Stream};
use super::{Decoder, Outcome, Pending, Tag};
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
        self.arrived(stream, sequence, spot, State::Recovered);
        Some((stream, sequence))
    }

    /// XORs what there is into the FEC packet, in its place in the store:
    /// stream, number, header and length of what it becomes. None if that
    /// cannot have been sent: it does not fit in the FEC packet, has something
    /// behind its end, or is no RTP packet.
    fn make(&mut self, index: usize) -> Option<(usize, u64, Header, usize)> {
        let pending = self.pending.get(index)?;
        let mut recovery = pending.recovery;
        let mut lacking = None;
        let mut longest = 0;
        for (stream, sequence, held) in protected_by(&self.streams, pending) {
            match held {
                Some(spot) => {
                    recovery = recovery.xor(Recovery::of(self.store.get(spot)));
                    longest = longest.max(spot.length());
                }
                // Each other must be there.
                None if lacking.is_some() => return None,
                None => lacking = Some((stream, sequence)),
            }
        }
        let (stream, sequence) = lacking?;
        let known = self.streams.get(stream)?;
        let length = FIXED_HEADER + recovery.length();
        let room = pending.spot.length();
        if length > room || longest > room || !known.reaches(sequence) {
            return None;
        }
        let held = protected_by(&self.streams, pending).filter_map(|(_, _, held)| held);
        self.store.xor(pending.spot, held);
        let header = recovery.header(sequence as u16, known.ssrc);
        self.store.write_header(pending.spot, &header);
        let (packet, behind) = self.store.get(pending.spot).split_at_checked(length)?;
        if behind.iter().any(|byte| *byte != 0) {
            return None;
        }
        let header = Header::parse(packet).ok()?;
        Some((stream, sequence, header, length))
    }
}

/// Stream, number and place of each packet that a FEC packet protects.
fn protected_by<'a>(
    streams: &'a [Stream],
    pending: &'a Pending,
) -> impl Iterator<Item = (usize, u64, Option<Spot>)> + 'a {
    pending.covered.iter().flat_map(move |covered| {
        let stream = streams.get(covered.stream);
        covered.sequences().map(move |sequence| {
            let slot = stream.and_then(|s| s.slot(sequence)).filter(|s| s.held);
            (covered.stream, sequence, slot.map(|s| s.spot))
        })
    })
}
