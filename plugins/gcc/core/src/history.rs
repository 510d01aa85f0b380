// SPDX-License-Identifier: MPL-2.0
//! What was sent, and what the feedback says became of it
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{DataSize, ExtSeq, RemoteTime, Timestamp};

/// Packets remembered; the oldest goes when there are more. 3.9 s at 50 Mbit/s
/// in packets of 1200 bytes. Half of the numbers there are would be the most
/// that 16 bits can tell apart.
const MOST_PACKETS: usize = 20_000;

/// One packet of a feedback message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Transport-wide sequence number.
    pub seq: u16,
    /// Arrival on the peer's clock; `None` if it has not arrived.
    pub arrival: Option<RemoteTime>,
    /// When it was sent, if known better than at [`History::sent`].
    pub sent: Option<Timestamp>,
}

/// A packet that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub seq: ExtSeq,
    pub sent: Timestamp,
    pub arrival: RemoteTime,
    pub size: DataSize,
    /// The probe cluster it is of.
    pub probe: Option<u32>,
    /// Sent up to this packet, itself included.
    pub(crate) sent_up_to: DataSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Lost,
    Received,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    at: Timestamp,
    size: DataSize,
    probe: Option<u32>,
    marker: bool,
    sent_up_to: DataSize,
    fate: Fate,
}

/// What a feedback message brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// In the order of their sequence numbers.
    pub received: Vec<Received>,
    /// Packets heard of for the first time, received or not.
    pub newly_known: u64,
    /// Of those, not received.
    pub newly_lost: u64,
    pub lost_bytes: DataSize,
    /// Said to be lost before, and there now.
    pub recovered: u64,
    /// From the departure of the newest packet to now.
    pub round_trip: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    /// Reports about packets that nobody remembers.
    pub unknown: u64,
    /// Reports that say what was known.
    pub repeated: u64,
    /// Packets forgotten before they were heard of.
    pub forgotten: u64,
}

/// Bounded by [`MOST_PACKETS`].
#[derive(Debug, Default)]
pub struct History {
    records: VecDeque<Record>,
    /// Number of the first record.
    first: u64,
    total: DataSize,
    /// Newest packet that was heard of.
    highest: Option<ExtSeq>,
    heard_up_to: DataSize,
    /// Of the last 64 feedback messages that brought news: a bit for each, set
    /// if its newest packet did not end a frame.
    within: u64,
    counters: Counters,
}

impl History {
    /// A packet leaves. Numbers go up by one; where they do not, what was
    /// before is forgotten, as nothing could be said of it any more.
    pub fn sent(
        &mut self,
        now: Timestamp,
        seq: u16,
        size: DataSize,
        probe: Option<u32>,
        marker: bool,
    ) {
        let next = self.first + self.records.len() as u64;
        if self.records.is_empty() && self.highest.is_none() && self.counters.sent == 0 {
            // One turn up, so that a little before the first is still a number.
            self.first = 0x1_0000 + u64::from(seq);
        } else if next as u16 != seq {
            self.counters.forgotten += self.unheard();
            self.records.clear();
            // The turn after the one that the last number was in.
            self.first = ((next >> 16) + 1) << 16 | u64::from(seq);
            self.heard_up_to = self.total;
        }
        self.total += size;
        self.counters.sent += 1;
        self.records.push_back(Record {
            at: now,
            size,
            probe,
            marker,
            sent_up_to: self.total,
            fate: Fate::Unknown,
        });
        if self.records.len() > MOST_PACKETS
            && let Some(old) = self.records.pop_front()
        {
            self.first += 1;
            self.counters.forgotten += u64::from(old.fate == Fate::Unknown);
            self.heard_up_to = self.heard_up_to.max(old.sent_up_to);
        }
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.records.len()
    }

    fn unheard(&self) -> u64 {
        let unknown = |record: &&Record| record.fate == Fate::Unknown;
        self.records.iter().filter(unknown).count() as u64
    }

    /// Does the peer answer in the middle of frames, too? A receiver that
    /// answers at markers only (GStreamer's, by default) says nothing while a
    /// frame is held up. Until something is known, it is taken for one.
    #[must_use]
    pub fn is_heard_within_frames(&self) -> bool {
        self.within != 0
    }

    /// Sent after the newest packet that was heard of.
    #[must_use]
    pub fn in_flight(&self) -> DataSize {
        self.total.saturating_sub(self.heard_up_to)
    }

    /// All that was ever sent.
    #[must_use]
    pub fn total(&self) -> DataSize {
        self.total
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When the oldest packet left of which nothing was heard since.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Timestamp> {
        let next = match self.highest {
            Some(highest) => (highest.value() + 1).saturating_sub(self.first) as usize,
            None => 0,
        };
        self.records.get(next).map(|record| record.at)
    }

    pub fn feedback(&mut self, now: Timestamp, reports: &[Report], outcome: &mut Outcome) {
        outcome.received.clear();
        (outcome.newly_known, outcome.newly_lost, outcome.recovered) = (0, 0, 0);
        (outcome.lost_bytes, outcome.round_trip) = (DataSize::ZERO, None);
        for report in reports {
            self.report(report, outcome);
        }
        outcome.received.sort_unstable_by_key(|packet| packet.seq);
        if let Some(newest) = outcome.received.last() {
            let record = (newest.seq.value().checked_sub(self.first))
                .and_then(|index| self.records.get(usize::try_from(index).ok()?));
            let ended = record.is_some_and(|record| record.marker);
            self.within = self.within << 1 | u64::from(!ended);
        }
        outcome.round_trip = outcome
            .received
            .last()
            .filter(|newest| Some(newest.seq) == self.highest)
            .map(|newest| now.since(newest.sent));
    }

    fn report(&mut self, report: &Report, outcome: &mut Outcome) {
        let last = ExtSeq::new((self.first + self.records.len() as u64).saturating_sub(1));
        let found = last
            .nearest(report.seq)
            .and_then(|seq| Some((seq, seq.value().checked_sub(self.first)?)))
            .and_then(|(seq, index)| {
                let record = self.records.get_mut(usize::try_from(index).ok()?)?;
                Some((seq, record))
            });
        let Some((seq, record)) = found else {
            self.counters.unknown += 1;
            return;
        };
        match (record.fate, report.arrival) {
            (Fate::Received, _) | (Fate::Lost, None) => {
                self.counters.repeated += 1;
                return;
            }
            (Fate::Unknown, None) => {
                record.fate = Fate::Lost;
                outcome.newly_known += 1;
                outcome.newly_lost += 1;
                outcome.lost_bytes += record.size;
                self.counters.lost += 1;
            }
            (before, Some(arrival)) => {
                if before == Fate::Lost {
                    outcome.recovered += 1;
                    self.counters.lost = self.counters.lost.saturating_sub(1);
                } else {
                    outcome.newly_known += 1;
                }
                record.fate = Fate::Received;
                record.at = report.sent.unwrap_or(record.at);
                self.counters.received += 1;
                outcome.received.push(Received {
                    seq,
                    sent: record.at,
                    arrival,
                    size: record.size,
                    probe: record.probe,
                    sent_up_to: record.sent_up_to,
                });
            }
        }
        if self.highest.is_none_or(|highest| seq > highest) {
            self.highest = Some(seq);
            self.heard_up_to = self.heard_up_to.max(record.sent_up_to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: DataSize = DataSize::from_bytes(1000);

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn there(seq: u16, at_ms: u64) -> Report {
        Report {
            seq,
            arrival: Some(RemoteTime::from_millis(at_ms)),
            sent: None,
        }
    }

    fn missing(seq: u16) -> Report {
        Report {
            seq,
            arrival: None,
            sent: None,
        }
    }

    /// One packet each ms from `at_ms` on, numbered from `first`.
    fn history(at_ms: u64, first: u16, count: u64) -> History {
        let mut history = History::default();
        more(&mut history, at_ms, first, count);
        history
    }

    fn more(history: &mut History, at_ms: u64, first: u16, count: u64) {
        for n in 0..count {
            history.sent(
                ms(at_ms + n),
                first.wrapping_add(n as u16),
                PACKET,
                None,
                false,
            );
        }
    }

    fn tell(history: &mut History, now_ms: u64, reports: &[Report]) -> Outcome {
        let mut outcome = Outcome::default();
        history.feedback(ms(now_ms), reports, &mut outcome);
        outcome
    }

    fn bytes(packets: u64) -> DataSize {
        DataSize::from_bytes(packets * PACKET.as_bytes())
    }

    #[test]
    fn a_packet_that_arrived_comes_back_with_what_is_known_of_it() {
        let mut h = History::default();
        h.sent(ms(10), 7, PACKET, Some(3), false);
        h.sent(ms(11), 8, PACKET, None, false);
        let outcome = tell(&mut h, 60, &[there(7, 500), there(8, 501)]);
        let first = outcome.received[0];
        assert_eq!(
            (first.sent, first.arrival),
            (ms(10), RemoteTime::from_millis(500))
        );
        assert_eq!((first.size, first.probe), (PACKET, Some(3)));
        assert_eq!(first.sent_up_to, bytes(1));
        assert_eq!(outcome.received[1].sent_up_to, bytes(2));
        assert_eq!(outcome.newly_known, 2);
        assert_eq!(outcome.newly_lost, 0);
        assert_eq!(
            outcome.round_trip,
            Some(Duration::from_millis(49)),
            "from the departure of the newest one"
        );
    }

    /// The element may know better when a packet left than when it was told.
    #[test]
    fn a_better_departure_time_takes_the_place_of_ours() {
        let mut h = history(10, 0, 1);
        let report = Report {
            sent: Some(ms(13)),
            ..there(0, 500)
        };
        assert_eq!(tell(&mut h, 60, &[report]).received[0].sent, ms(13));
    }

    #[test]
    fn order_goes_on_over_the_wrap() {
        let mut h = history(0, 0xfffe, 5);
        let reports = [
            there(0xfffe, 1),
            there(0xffff, 2),
            there(0, 3),
            missing(1),
            there(2, 5),
        ];
        let outcome = tell(&mut h, 50, &reports);
        let first = outcome.received[0].seq;
        let past: Vec<u64> = outcome.received.iter().map(|p| p.seq.past(first)).collect();
        assert_eq!(past, [0, 1, 2, 4]);
        assert_eq!(outcome.newly_lost, 1);
        assert_eq!(outcome.lost_bytes, PACKET);
        assert_eq!(h.in_flight(), DataSize::ZERO);
    }

    #[test]
    fn many_turns_of_the_numbers_are_counted() {
        let mut h = History::default();
        let mut first = None;
        for n in 0..300_000u64 {
            h.sent(ms(n), n as u16, PACKET, None, false);
            let outcome = tell(&mut h, n + 1, &[there(n as u16, n)]);
            let seq = outcome.received[0].seq;
            assert_eq!(seq.past(*first.get_or_insert(seq)), n);
        }
        assert_eq!(h.counters().received, 300_000);
        assert_eq!(h.counters().forgotten, 0, "all were heard of");
    }

    /// Reports on what was before the gap could be about either.
    #[test]
    fn what_was_before_a_gap_in_the_numbers_is_forgotten() {
        let mut h = history(0, 100, 5);
        tell(&mut h, 20, &[there(100, 10), there(101, 11)]);
        h.sent(ms(30), 200, PACKET, None, false);
        assert_eq!(h.counters().forgotten, 3, "102 to 104");
        assert_eq!(h.in_flight(), PACKET, "what is forgotten is not in flight");
        assert_eq!(h.waiting_since(), Some(ms(30)));
        let outcome = tell(&mut h, 60, &[there(103, 13), there(200, 40)]);
        assert_eq!(outcome.received.len(), 1);
        assert_eq!(outcome.received[0].sent, ms(30));
        assert_eq!(h.counters().unknown, 1);
        assert_eq!(outcome.round_trip, Some(Duration::from_millis(30)));
    }

    /// The element may be told the same number twice; numbers never go back.
    #[test]
    fn a_number_sent_again_is_a_later_packet() {
        let mut h = history(0, 5, 1);
        let before = tell(&mut h, 5, &[there(5, 1)]).received[0].seq;
        h.sent(ms(10), 5, PACKET, None, false);
        let after = tell(&mut h, 15, &[there(5, 2)]).received[0];
        assert!(after.seq > before, "the order of departure is kept");
        assert_eq!(after.sent, ms(10));
    }

    #[test]
    fn in_flight_is_what_left_after_the_newest_packet_heard_of() {
        let mut h = history(0, 0, 10);
        assert_eq!(h.in_flight(), bytes(10));
        tell(&mut h, 20, &[there(0, 1), there(3, 4)]);
        assert_eq!(h.in_flight(), bytes(6), "4 to 9");
        assert_eq!(h.waiting_since(), Some(ms(4)));
        tell(&mut h, 21, &[missing(5)]);
        assert_eq!(h.in_flight(), bytes(4), "a lost packet is heard of too");
        tell(&mut h, 22, &[there(1, 2)]);
        assert_eq!(h.in_flight(), bytes(4), "an old one changes nothing");
        tell(&mut h, 23, &[there(9, 10)]);
        assert_eq!(h.in_flight(), DataSize::ZERO);
        assert_eq!(h.waiting_since(), None);
    }

    #[test]
    fn a_feedback_message_that_is_lost_leaves_its_packets_unknown() {
        let mut h = history(0, 0, 6);
        let outcome = tell(&mut h, 20, &[there(4, 5), there(5, 6)]);
        assert_eq!(outcome.newly_known, 2);
        assert_eq!(outcome.newly_lost, 0, "nothing says that 0 to 3 are lost");
        assert_eq!(h.counters().lost, 0);
    }

    #[test]
    fn repeated_feedback_says_nothing() {
        let mut h = history(0, 0, 3);
        let reports = [there(0, 1), missing(1), there(2, 3)];
        tell(&mut h, 20, &reports);
        let again = tell(&mut h, 30, &reports);
        assert_eq!(again, Outcome::default());
        let counters = h.counters();
        assert_eq!(
            (counters.received, counters.lost, counters.repeated),
            (2, 1, 3)
        );
    }

    /// Feedback is sent over a network as well.
    #[test]
    fn feedback_may_come_in_the_wrong_order() {
        let mut h = history(0, 0, 4);
        let late = tell(&mut h, 30, &[there(2, 3), there(3, 4)]);
        assert_eq!(late.round_trip, Some(Duration::from_millis(27)));
        let early = tell(&mut h, 31, &[there(0, 1), there(1, 2)]);
        assert_eq!(early.received.len(), 2);
        assert_eq!(early.round_trip, None, "it is not about the newest packet");
        assert_eq!(h.in_flight(), DataSize::ZERO);
    }

    #[test]
    fn reports_in_any_order_come_out_in_the_order_of_departure() {
        let mut h = history(0, 0xffff, 3);
        let outcome = tell(&mut h, 30, &[there(1, 3), there(0xffff, 1), there(0, 2)]);
        let sent: Vec<Timestamp> = outcome.received.iter().map(|p| p.sent).collect();
        assert_eq!(sent, [ms(0), ms(1), ms(2)]);
    }

    #[test]
    fn a_packet_that_was_lost_may_come_after_all() {
        let mut h = history(0, 0, 2);
        tell(&mut h, 20, &[missing(0), there(1, 2)]);
        assert_eq!(h.counters().lost, 1);
        let outcome = tell(&mut h, 30, &[there(0, 3)]);
        assert_eq!((outcome.recovered, outcome.newly_known), (1, 0));
        assert_eq!(outcome.received.len(), 1);
        assert_eq!((h.counters().lost, h.counters().received), (0, 2));
        let lost = tell(&mut h, 40, &[missing(0)]);
        assert_eq!(lost.newly_lost, 0, "what was there does not get lost");
    }

    #[test]
    fn reports_on_packets_that_were_never_sent_are_counted_and_passed_over() {
        let mut h = history(0, 0, 3);
        let outcome = tell(
            &mut h,
            20,
            &[there(3, 1), there(0x8000, 1), missing(0xffff)],
        );
        assert_eq!(outcome, Outcome::default());
        assert_eq!(h.counters().unknown, 3);
        let outcome = tell(&mut History::default(), 20, &[there(0, 1), missing(0xffff)]);
        assert_eq!(outcome, Outcome::default(), "nothing was sent at all");
    }

    #[test]
    fn the_oldest_packet_goes_when_there_are_too_many() {
        let most = MOST_PACKETS as u64;
        let mut h = history(0, 0, most);
        assert_eq!(h.in_flight(), bytes(most));
        more(&mut h, most, most as u16, 10);
        assert_eq!(h.remembered(), MOST_PACKETS);
        assert_eq!(h.counters().forgotten, 10);
        assert_eq!(
            h.in_flight(),
            bytes(most),
            "what is forgotten is not in flight"
        );
        let outcome = tell(&mut h, most + 20, &[there(9, 1), there(10, 2)]);
        assert_eq!(outcome.received.len(), 1, "9 is forgotten, 10 is not");
        assert_eq!(outcome.received[0].sent, ms(10));
    }

    #[test]
    fn all_that_was_sent_is_received_lost_forgotten_or_waited_for() {
        let mut h = history(0, 0, 100);
        let reports: Vec<Report> = (0..60)
            .map(|n| if n % 3 == 0 { missing(n) } else { there(n, 1) })
            .collect();
        tell(&mut h, 200, &reports);
        h.sent(ms(201), 1000, PACKET, None, false);
        let c = h.counters();
        assert_eq!((c.sent, c.received, c.lost, c.forgotten), (101, 40, 20, 40));
        assert_eq!(h.remembered(), 1);
    }

    /// Feedback that ends with the last packet of a frame, always, comes from
    /// who answers at markers only.
    #[test]
    fn who_answers_within_frames_is_known_from_one_answer() {
        let mut h = History::default();
        let mut outcome = Outcome::default();
        assert!(!h.is_heard_within_frames(), "nothing is known");
        for n in 0..200u16 {
            h.sent(ms(n.into()), n, PACKET, None, n % 4 == 3);
        }
        let mut hear = |h: &mut History, seq: u16| {
            let report = Report {
                seq,
                arrival: Some(RemoteTime::from_millis(seq.into())),
                sent: None,
            };
            h.feedback(ms(300), &[report], &mut outcome);
        };
        for n in 0..10 {
            hear(&mut h, n * 4 + 3);
            assert!(!h.is_heard_within_frames());
        }
        hear(&mut h, 41);
        assert!(h.is_heard_within_frames());
    }
}
