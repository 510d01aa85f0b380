// SPDX-License-Identifier: MPL-2.0
//! Packets that left together are looked at as one: the delay gradient is
//! between groups (draft-ietf-rmcat-gcc-02 section 5.2).

use std::time::Duration;

use dualstream_common::{DataSize, RemoteTime, SignedDuration, Timestamp};

/// Packets that leave within this of the first one are of one group, as in the
/// draft (burst_time).
const LENGTH: Duration = Duration::from_millis(5);
/// A packet that arrives this soon after the last one and was delayed less is
/// of the same burst, however it was sent; longer bursts than [`BURST_MOST`]
/// are cut. As in libwebrtc, inter_arrival_delta.cc.
const BURST_GAP: Duration = Duration::from_millis(5);
const BURST_MOST: Duration = Duration::from_millis(100);

/// Between two groups that followed each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    pub send: Duration,
    pub arrival: Duration,
    /// By how much the later group waited longer.
    pub variation: SignedDuration,
    pub size_change: i64,
    /// Arrival of the later group's last packet.
    pub at: RemoteTime,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: Timestamp,
    last_sent: Timestamp,
    first_arrival: RemoteTime,
    last_arrival: RemoteTime,
    size: DataSize,
}

#[derive(Debug, Default)]
pub struct Groups {
    present: Option<Group>,
    before: Option<Group>,
}

impl Groups {
    /// Packets come in the order in which they were sent; others are passed
    /// over. What this returns is about the group before the one that the
    /// packet begins.
    pub fn packet(
        &mut self,
        sent: Timestamp,
        arrival: RemoteTime,
        size: DataSize,
    ) -> Option<Delta> {
        let Some(group) = &mut self.present else {
            self.present = Some(Group::new(sent, arrival, size));
            return None;
        };
        if sent < group.first_sent {
            return None;
        }
        if group.takes(sent, arrival) {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrival = group.last_arrival.max(arrival);
            group.size += size;
            return None;
        }
        let done = *group;
        let delta = self.before.and_then(|before| done.delta(&before));
        self.before = Some(done);
        self.present = Some(Group::new(sent, arrival, size));
        delta
    }

    /// After a gap nothing can be said of the next group.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Group {
    fn new(sent: Timestamp, arrival: RemoteTime, size: DataSize) -> Self {
        Self {
            first_sent: sent,
            last_sent: sent,
            first_arrival: arrival,
            last_arrival: arrival,
            size,
        }
    }

    fn takes(&self, sent: Timestamp, arrival: RemoteTime) -> bool {
        let send = sent.since(self.last_sent);
        let gap = arrival.since(self.last_arrival);
        let burst = send.is_zero()
            || (gap < send && gap <= BURST_GAP && arrival.since(self.first_arrival) < BURST_MOST);
        burst || sent.since(self.first_sent) <= LENGTH
    }

    fn delta(&self, before: &Self) -> Option<Delta> {
        let arrival = self.last_arrival.distance(before.last_arrival);
        // Groups that arrive the wrong way round say nothing.
        if arrival.as_nanos() < 0 {
            return None;
        }
        let send = self.last_sent.since(before.last_sent);
        let variation = arrival
            .as_nanos()
            .saturating_sub(i64::try_from(send.as_nanos()).unwrap_or(i64::MAX));
        Some(Delta {
            send,
            arrival: arrival.abs(),
            variation: SignedDuration::from_nanos(variation),
            size_change: (self.size.as_bytes() as i64)
                .saturating_sub(before.size.as_bytes() as i64),
            at: self.last_arrival,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: DataSize = DataSize::from_bytes(1000);

    /// Sent and arrived at, in us; all deltas that come out.
    fn deltas(packets: &[(u64, u64)]) -> Vec<Delta> {
        let mut groups = Groups::default();
        packets
            .iter()
            .filter_map(|(sent, arrival)| packet(&mut groups, *sent, *arrival))
            .collect()
    }

    fn packet(groups: &mut Groups, sent_us: u64, arrival_us: u64) -> Option<Delta> {
        groups.packet(
            Timestamp::from_nanos(sent_us * 1000),
            RemoteTime::from_nanos(arrival_us * 1000),
            PACKET,
        )
    }

    fn us(nanos: SignedDuration) -> i64 {
        nanos.as_nanos() / 1000
    }

    #[test]
    fn a_delta_is_between_the_last_packets_of_two_groups() {
        // Groups at 0, 10 and 20 ms, of two packets 3 ms apart; the second one
        // arrives 2 ms later than it would.
        let packets = [
            (0, 50_000),
            (3_000, 53_000),
            (10_000, 62_000),
            (13_000, 65_000),
            (20_000, 75_000),
        ];
        let deltas = deltas(&packets);
        assert_eq!(deltas.len(), 1, "only two groups are complete");
        assert_eq!(
            deltas[0],
            Delta {
                send: Duration::from_millis(10),
                arrival: Duration::from_millis(12),
                variation: SignedDuration::from_nanos(2_000_000),
                size_change: 0,
                at: RemoteTime::from_millis(65),
            }
        );
    }

    #[test]
    fn five_milliseconds_are_one_group_and_a_little_more_are_two() {
        // The path is slower than the sender, so that there are no bursts.
        let within = [(0, 0), (5_000, 9_000), (20_000, 30_000), (40_000, 60_000)];
        assert_eq!(deltas(&within)[0].send, Duration::from_millis(15));
        let beyond = [(0, 0), (5_001, 9_000), (20_000, 30_000), (40_000, 60_000)];
        assert_eq!(deltas(&beyond)[0].send, Duration::from_nanos(5_001_000));
    }

    #[test]
    fn the_size_of_a_group_is_that_of_its_packets() {
        // Three packets, then one, then the start of another group.
        let packets = [
            (0, 0),
            (1_000, 2_000),
            (2_000, 4_000),
            (20_000, 30_000),
            (40_000, 60_000),
        ];
        assert_eq!(deltas(&packets)[0].size_change, -2000);
    }

    /// A link that was held up lets all go at once; how that was sent says
    /// nothing (libwebrtc, BelongsToBurst).
    #[test]
    fn what_arrives_at_once_is_one_group_however_it_was_sent() {
        let burst = [
            (0, 50_000),
            (20_000, 100_000),
            (40_000, 101_000),
            (60_000, 102_000),
            (80_000, 130_000),
            (100_000, 150_000),
        ];
        let deltas = deltas(&burst);
        // 0 | 20 to 60 | 80 | 100
        let sent: Vec<u128> = deltas.iter().map(|d| d.send.as_millis()).collect();
        assert_eq!(sent, [60, 20]);
        assert_eq!(us(deltas[0].variation), -8_000, "52 ms after 60 ms");
    }

    #[test]
    fn a_gap_of_more_than_five_milliseconds_ends_a_burst() {
        let gaps =
            |gap: u64| -> Vec<(u64, u64)> { (0..5).map(|n| (n * 20_000, n * gap)).collect() };
        assert_eq!(deltas(&gaps(5_000)).len(), 0, "all of one burst");
        assert_eq!(deltas(&gaps(5_001)).len(), 3);
    }

    #[test]
    fn a_burst_ends_after_a_tenth_of_a_second() {
        // Sent each 6 ms, arriving each 4 ms, without end.
        let endless: Vec<(u64, u64)> = (0..200)
            .map(|n| (n * 6_000, 1_000_000 + n * 4_000))
            .collect();
        let deltas = deltas(&endless);
        // 800 ms of arrivals in bursts of 100 ms.
        assert!((5..=9).contains(&deltas.len()), "{}", deltas.len());
    }

    #[test]
    fn packets_that_were_sent_earlier_than_the_group_are_passed_over() {
        let mut groups = Groups::default();
        assert_eq!(packet(&mut groups, 10_000, 60_000), None);
        assert_eq!(packet(&mut groups, 1_000, 90_000), None);
        assert_eq!(packet(&mut groups, 20_000, 70_000), None);
        let delta = packet(&mut groups, 30_000, 80_000).expect("two groups are complete");
        assert_eq!(delta.arrival, Duration::from_millis(10), "90 did not count");
    }

    #[test]
    fn within_a_group_the_last_arrival_counts_in_any_order() {
        let ordered = deltas(&[(0, 50), (1, 51), (20_000, 20_050), (40_000, 40_050)]);
        let swapped = deltas(&[(0, 51), (1, 50), (20_000, 20_050), (40_000, 40_050)]);
        assert_eq!(ordered, swapped);
    }

    /// It came with the group that it overtook.
    #[test]
    fn a_packet_that_overtakes_is_of_the_group_that_it_overtook() {
        let packets = [
            (0, 80_000),
            (30_000, 60_000),
            (60_000, 110_000),
            (90_000, 145_000),
        ];
        let deltas = deltas(&packets);
        assert_eq!(deltas.len(), 1);
        assert_eq!(deltas[0].send, Duration::from_millis(30), "from 30 to 60");
        assert_eq!(us(deltas[0].variation), 0, "from 80 to 110");
    }

    #[test]
    fn groups_that_arrive_the_wrong_way_round_say_nothing() {
        let group = |sent, arrival| {
            let arrival = RemoteTime::from_millis(arrival);
            Group::new(Timestamp::from_millis(sent), arrival, PACKET)
        };
        assert_eq!(group(30, 60).delta(&group(0, 80)), None);
        assert!(group(30, 80).delta(&group(0, 80)).is_some());
    }

    #[test]
    fn after_a_reset_two_new_groups_are_needed() {
        let mut groups = Groups::default();
        for n in 0..3 {
            packet(&mut groups, n * 10_000, n * 10_000);
        }
        groups.reset();
        assert_eq!(packet(&mut groups, 40_000, 40_000), None);
        assert_eq!(packet(&mut groups, 50_000, 50_000), None);
        assert!(packet(&mut groups, 60_000, 60_000).is_some());
    }

    #[test]
    fn the_ends_of_time_are_no_danger() {
        let mut groups = Groups::default();
        let ends = [0, u64::MAX, 0, u64::MAX / 2, 1, u64::MAX];
        for sent in ends {
            for arrival in ends {
                groups.packet(
                    Timestamp::from_nanos(sent),
                    RemoteTime::from_nanos(arrival),
                    DataSize::from_bytes(u64::MAX),
                );
            }
        }
    }
}
