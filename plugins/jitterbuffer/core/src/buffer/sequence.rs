// SPDX-License-Identifier: MPL-2.0
//! Endless sequence numbers, and where a stream begins anew (RFC 3550,
//! appendix A.1, with the time stamps looked at as well: retransmissions are
//! far behind by their number, and a new stream differs by its time).

use std::time::Duration;

use dualstream_common::ExtSeq;

use super::packet::{Origin, Packet};
use crate::timing::{nanos, ticks_to_nanos};

/// Larger gaps are taken for a new stream (RFC 3550, `MAX_DROPOUT`).
const MAX_GAP: u64 = 3000;
/// So many packets in a row make a new stream.
const SEQUENTIAL: usize = 3;
/// Video is not sent in the order of its time stamps if it has B frames.
const REORDERED_FRAMES: i64 = 1_000_000_000;
/// The first number: those a little before it are numbers, too.
const START: u64 = 0x1_0000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub clock_rate: u32,
    pub max_dropout: Duration,
    pub max_misorder: Duration,
}

#[derive(Debug)]
pub(super) enum Verdict<P> {
    Here(u64, Packet<P>),
    /// A new stream, with these packets.
    Restart(Vec<Packet<P>>),
    Astray,
    /// Sent again, or made by FEC, for a time that is long past.
    Late,
}

#[derive(Clone, Debug)]
pub(super) struct Sequence<P> {
    highest: Option<(ExtSeq, u32)>,
    /// What may be the beginning of a new stream.
    astray: Vec<Packet<P>>,
}

impl<P> Default for Sequence<P> {
    fn default() -> Self {
        Self {
            highest: None,
            astray: Vec::new(),
        }
    }
}

impl<P> Sequence<P> {
    pub(super) fn judge(&mut self, packet: Packet<P>, bounds: &Bounds) -> Verdict<P> {
        let Some((highest, timestamp)) = self.highest else {
            // It was asked for before all was forgotten.
            if packet.origin == Origin::Retransmission {
                return Verdict::Late;
            }
            let first = ExtSeq::new(START + u64::from(packet.sequence));
            self.highest = Some((first, packet.timestamp));
            return Verdict::Here(first.value(), packet);
        };
        let here = highest.nearest(packet.sequence);
        let ticks = packet.timestamp.wrapping_sub(timestamp).cast_signed();
        let later = ticks_to_nanos(ticks, bounds.clock_rate);
        match here {
            Some(here) if is_plausible(here, highest, later, bounds) => {
                self.astray.clear();
                if here > highest {
                    self.highest = Some((here, packet.timestamp));
                }
                Verdict::Here(here.value(), packet)
            }
            // A sender begins anew with packets that it sends for the first time:
            // what the network held for seconds is answers to requests mostly,
            // one after the other, and they would say that time goes back.
            _ if packet.origin != Origin::Network => Verdict::Late,
            _ => self.go_astray(packet),
        }
    }

    fn go_astray(&mut self, packet: Packet<P>) -> Verdict<P> {
        let follows = self
            .astray
            .last()
            .is_none_or(|last| last.sequence.wrapping_add(1) == packet.sequence);
        if !follows {
            self.astray.clear();
        }
        self.astray.push(packet);
        if self.astray.len() < SEQUENTIAL {
            return Verdict::Astray;
        }
        self.highest = None;
        Verdict::Restart(std::mem::take(&mut self.astray))
    }
}

fn is_plausible(here: ExtSeq, highest: ExtSeq, later: i64, bounds: &Bounds) -> bool {
    match here.past(highest) {
        0 => (-nanos(bounds.max_misorder)..=REORDERED_FRAMES).contains(&later),
        // A stream may pause for any time.
        1 => later >= -REORDERED_FRAMES,
        2..=MAX_GAP => (-REORDERED_FRAMES..=nanos(bounds.max_dropout)).contains(&later),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Origin, Part};
    use dualstream_common::DataSize;

    const BOUNDS: Bounds = Bounds {
        clock_rate: 90_000,
        max_dropout: Duration::from_secs(60),
        max_misorder: Duration::from_secs(2),
    };

    fn packet(sequence: u16, timestamp: u32) -> Packet<()> {
        Packet {
            sequence,
            timestamp,
            marker: false,
            size: DataSize::from_bytes(100),
            origin: Origin::Network,
            part: Part::default(),
            number: None,
            hidden: false,
            data: (),
        }
    }

    fn at(sequence: &mut Sequence<()>, number: u16, timestamp: u32) -> Option<u64> {
        match sequence.judge(packet(number, timestamp), &BOUNDS) {
            Verdict::Here(here, _) => Some(here - START),
            Verdict::Restart(packets) => panic!("{} packets restart", packets.len()),
            Verdict::Astray | Verdict::Late => None,
        }
    }

    #[test]
    fn numbers_go_on_over_the_wrap_and_back() {
        let mut sequence = Sequence::default();
        assert_eq!(at(&mut sequence, 65_535, 0), Some(65_535));
        assert_eq!(at(&mut sequence, 1, 3000), Some(65_537));
        assert_eq!(at(&mut sequence, 0, 3000), Some(65_536), "reordered");
        assert_eq!(at(&mut sequence, 65_000, 0), Some(65_000), "sent again");
        assert_eq!(at(&mut sequence, 2, 3_000_000_000), None, "time goes back");
        assert_eq!(at(&mut sequence, 2, 90_000 * 3600), Some(65_538), "a pause");
        assert_eq!(
            at(&mut sequence, 3003, 90_000 * 3600),
            None,
            "too far ahead"
        );
        assert_eq!(at(&mut sequence, 3002, 90_000 * 3600), Some(68_538));
    }

    #[test]
    fn three_in_a_row_are_a_new_stream() {
        let mut sequence = Sequence::default();
        for n in 0..10 {
            at(&mut sequence, n, 0);
        }
        // Strays alone are none.
        for (number, time) in [(30_000, 0), (9, 1 << 30), (30_001, 0), (40_000, 1 << 29)] {
            assert_eq!(at(&mut sequence, number, time), None);
            assert!(at(&mut sequence, 9, 0).is_some());
        }
        // Numbers that were there before, with another time.
        let time = 1 << 30;
        assert_eq!(at(&mut sequence, 7, time), None);
        assert_eq!(at(&mut sequence, 8, time), None);
        match sequence.judge(packet(9, time), &BOUNDS) {
            Verdict::Restart(packets) => assert_eq!(
                packets.iter().map(|p| p.sequence).collect::<Vec<_>>(),
                [7, 8, 9]
            ),
            verdict => panic!("{verdict:?}"),
        }
        assert_eq!(at(&mut sequence, 7, time), Some(7));
    }
}
