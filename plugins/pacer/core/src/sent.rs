// SPDX-License-Identifier: MPL-2.0
//! What was sent lately, by SSRC and sequence number: so that a request tells
//! how old and how large the packet is.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dualstream_common::{DataSize, ExtSeq, Timestamp};

use crate::queue::Priority;

/// Packets of one SSRC; the oldest are forgotten. At 1200 bytes each that is a
/// second of 80 Mbit/s.
const MOST_KEPT: usize = 8192;
/// SSRCs; the one that has sent nothing for longest is forgotten.
const MOST_STREAMS: usize = 64;
/// So many requests for one packet are answered in a round trip: one, and another
/// in case that the answer to it is lost.
const ANSWERS: usize = 2;
/// The first number: those a little before it are numbers, too.
const START: u64 = 0x1_0000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub at: Timestamp,
    pub size: DataSize,
    pub priority: Priority,
    /// The last requests that were answered, oldest first.
    answered: [Option<Timestamp>; ANSWERS],
    /// A request waits.
    pub waiting: bool,
}

impl Sent {
    pub fn is_answered_enough(&self, now: Timestamp, rtt: Duration) -> bool {
        self.answered[0].is_some_and(|at| now.since(at) < rtt)
    }

    pub fn answer(&mut self, now: Timestamp) {
        self.answered.rotate_left(1);
        self.answered[ANSWERS - 1] = Some(now);
    }
}

#[derive(Debug)]
struct Stream {
    /// Number of the first slot.
    first: u64,
    /// Without gaps mostly, never empty.
    slots: VecDeque<Option<Sent>>,
    last: Timestamp,
}

impl Stream {
    fn highest(&self) -> u64 {
        self.first + (self.slots.len() as u64).saturating_sub(1)
    }

    fn number(&self, sequence: u16) -> Option<u64> {
        let near = ExtSeq::new(self.highest()).nearest(sequence)?;
        Some(near.value())
    }
}

/// Where a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing of its SSRC has been sent.
    Unknown,
    /// Packets before it have been sent, it has not.
    Ahead,
    Forgotten,
    At(u64),
}

#[derive(Debug, Default)]
pub(crate) struct History(HashMap<u32, Stream>);

impl History {
    /// `keep`: how long it is of use to know of it.
    pub fn sent(
        &mut self,
        now: Timestamp,
        (ssrc, sequence): (u32, u16),
        (priority, size): (Priority, DataSize),
        keep: Duration,
    ) {
        let sent = Some(Sent {
            at: now,
            size,
            priority,
            answered: [None; ANSWERS],
            waiting: false,
        });
        if !self.0.contains_key(&ssrc) && self.0.len() >= MOST_STREAMS {
            let oldest = self.0.iter().min_by_key(|(_, stream)| stream.last);
            if let Some(ssrc) = oldest.map(|(ssrc, _)| *ssrc) {
                self.0.remove(&ssrc);
            }
        }
        let anew = || Stream {
            first: START + u64::from(sequence),
            slots: VecDeque::from([sent]),
            last: now,
        };
        let stream = match self.0.entry(ssrc) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(anew());
                return;
            }
        };
        stream.last = now;
        let highest = stream.highest();
        let number = stream.number(sequence).unwrap_or_default();
        match number.checked_sub(stream.first) {
            Some(at) if number <= highest => {
                if let Some(slot) = usize::try_from(at)
                    .ok()
                    .and_then(|at| stream.slots.get_mut(at))
                {
                    *slot = sent;
                }
            }
            Some(_) if number - highest <= MOST_KEPT as u64 => {
                for _ in highest + 1..number {
                    stream.slots.push_back(None);
                }
                stream.slots.push_back(sent);
            }
            // Far from what was sent before: the stream begins anew.
            _ => *stream = anew(),
        }
        while stream.slots.len() > 1
            && (stream.slots.len() > MOST_KEPT
                || stream.slots[0].is_none_or(|sent| now.since(sent.at) > keep))
        {
            stream.slots.pop_front();
            stream.first += 1;
        }
    }

    pub fn find(&self, ssrc: u32, sequence: u16) -> Place {
        let Some(stream) = self.0.get(&ssrc) else {
            return Place::Unknown;
        };
        match stream.number(sequence) {
            Some(number) if number > stream.highest() => Place::Ahead,
            Some(number) if number >= stream.first => Place::At(number),
            _ => Place::Forgotten,
        }
    }

    pub fn get_mut(&mut self, ssrc: u32, number: u64) -> Option<&mut Sent> {
        let stream = self.0.get_mut(&ssrc)?;
        let at = usize::try_from(number.checked_sub(stream.first)?).ok()?;
        stream.slots.get_mut(at)?.as_mut()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.values().map(|stream| stream.slots.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(1);
    const SIZE: DataSize = DataSize::from_bytes(1000);

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn send(history: &mut History, now: u64, sequence: u16) {
        history.sent(ms(now), (7, sequence), (Priority::Display, SIZE), KEEP);
    }

    #[test]
    fn a_packet_is_found_by_its_number_over_the_wrap() {
        let mut history = History::default();
        assert_eq!(history.find(7, 1), Place::Unknown);
        for n in 0..10u16 {
            send(&mut history, u64::from(n), 65_530u16.wrapping_add(n));
        }
        for (sequence, at) in [(65_530, 0), (65_535, 5), (0, 6), (3, 9)] {
            let Place::At(number) = history.find(7, sequence) else {
                panic!("{sequence}: {:?}", history.find(7, sequence));
            };
            assert_eq!(history.get_mut(7, number).unwrap().at, ms(at));
        }
        assert_eq!(history.find(7, 4), Place::Ahead);
        assert_eq!(history.find(7, 65_529), Place::Forgotten);
        assert_eq!(history.find(8, 65_530), Place::Unknown);
    }

    #[test]
    fn old_packets_gaps_and_streams_are_forgotten() {
        let mut history = History::default();
        for n in 0..100u16 {
            send(&mut history, 20 * u64::from(n), 2 * n);
        }
        assert_eq!(history.find(7, 2), Place::Forgotten);
        assert!(history.len() <= 2 * 51, "{}", history.len());
        // A packet that was never sent is in between.
        let Place::At(number) = history.find(7, 197) else {
            panic!("it is in between");
        };
        assert!(history.get_mut(7, number).is_none());
        for n in 0..20_000u16 {
            send(&mut history, 2000, n.wrapping_add(198));
        }
        assert_eq!(history.len(), MOST_KEPT);
        // Far away: it begins anew.
        send(&mut history, 2000, 50_000);
        assert_eq!(history.len(), 1);
        assert_eq!(history.find(7, 20_000), Place::Forgotten);
        for ssrc in 100..200 {
            let what = (Priority::Display, SIZE);
            history.sent(ms(u64::from(ssrc)), (ssrc, 1), what, KEEP);
        }
        assert!(history.len() <= MOST_STREAMS);
        assert!(matches!(history.find(199, 1), Place::At(_)));
    }

    #[test]
    fn two_answers_in_a_round_trip_are_enough() {
        let mut history = History::default();
        send(&mut history, 0, 1);
        let Place::At(number) = history.find(7, 1) else {
            panic!("it was sent");
        };
        let sent = history.get_mut(7, number).unwrap();
        let rtt = Duration::from_millis(80);
        for (now, enough) in [
            (100, false),
            (110, false),
            (120, true),
            (179, true),
            (180, false),
        ] {
            assert_eq!(sent.is_answered_enough(ms(now), rtt), enough, "{now}");
            if !enough {
                sent.answer(ms(now));
            }
        }
        assert!(sent.is_answered_enough(ms(189), rtt), "110 and 180");
    }
}
