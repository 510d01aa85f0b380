// SPDX-License-Identifier: MPL-2.0
//! The queue that we make ourselves.
//!
//! A packet that waits above the least delay need not wait for us: the path
//! may have become longer, or slower for each packet, or others may fill it.
//! It waits for us as long as the packet before it was still on its way when
//! it came: until that one's arrival. So with `d` the delay above the least,
//! and `g` the time between the two arrivals, it waited for us `d - g`, and the
//! time that one packet takes in the bottleneck, as that is part of the least
//! delay. A rate that is low because the queue is long shows; a rate that is
//! merely low does not.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{DataSize, RemoteTime, Timestamp};

use crate::history::Received;

/// What is looked at. Larger: steadier rates; smaller: falls are seen sooner.
const WINDOW: Duration = Duration::from_millis(100);
/// ... and at least so many packets,
const LEAST_PACKETS: usize = 7;
/// and at most so many.
const MOST_PACKETS: usize = 2048;
/// The queue ahead is what the best packet of this last time foretells: delays
/// are too long by chance, never too short.
const FORETELLING: Duration = Duration::from_millis(30);
/// Of one packet in the bottleneck, at most.
const LONGEST_SERVICE: f64 = 0.025;
/// Shorter spans give no rate.
const LEAST_SPAN: f64 = 0.02;

#[derive(Clone, Copy, Debug)]
struct Packet {
    arrival: RemoteTime,
    sent: Timestamp,
    size: DataSize,
    sent_up_to: DataSize,
    /// Above the least delay, s.
    delay: f64,
    /// Of that, behind our own packets.
    own: f64,
}

#[derive(Debug, Default)]
pub struct OwnQueue {
    packets: VecDeque<Packet>,
    last_arrival: Option<RemoteTime>,
}

impl OwnQueue {
    /// `now_bps` is what the link takes, and `best_bps` the most that it has
    /// taken of late: a packet alone takes longer on a link that has become
    /// slower, which is no wait.
    pub fn push(&mut self, packet: &Received, delay: Duration, now_bps: f64, best_bps: f64) {
        let service = |bps: f64| (packet.size.as_bits() as f64 / bps.max(1.0)).min(LONGEST_SERVICE);
        let slower = (service(now_bps) - service(best_bps)).max(0.0);
        let (raw, service) = (delay.as_secs_f64(), service(best_bps));
        let delay = (raw - slower).max(0.0);
        let own = self.last_arrival.map_or(0.0, |last| {
            let gap = packet.arrival.since(last).as_secs_f64();
            (raw - gap + service).clamp(0.0, raw)
        });
        self.last_arrival = Some(packet.arrival);
        self.packets.push_back(Packet {
            arrival: packet.arrival,
            sent: packet.sent,
            size: packet.size,
            sent_up_to: packet.sent_up_to,
            delay,
            own,
        });
        while self.packets.len() > LEAST_PACKETS
            && (self.packets.len() > MOST_PACKETS
                || self
                    .packets
                    .front()
                    .is_some_and(|first| packet.arrival.since(first.arrival) > WINDOW))
        {
            self.packets.pop_front();
        }
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.packets.len()
    }

    /// The rate from here on has nothing to do with the rate before.
    pub fn cut(&mut self) {
        self.packets.clear();
    }

    /// Delays are compared to a new least one from here on.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Least time in the window that a packet waited for our own, s.
    #[must_use]
    pub fn standing(&self) -> f64 {
        let least = |least: f64, packet: &Packet| least.min(packet.own);
        match self.packets.len() {
            0 => 0.0,
            _ => self.packets.iter().fold(f64::MAX, least),
        }
    }

    /// Least delay in the window above the least of all, s.
    #[must_use]
    pub fn delay(&self) -> f64 {
        let least = |least: f64, packet: &Packet| least.min(packet.delay);
        match self.packets.len() {
            0 => 0.0,
            _ => self.packets.iter().fold(f64::MAX, least),
        }
    }

    /// What arrived, over arrival stamps, bit/s.
    #[must_use]
    pub fn receive_rate(&self) -> Option<f64> {
        let (first, last) = (self.packets.front()?, self.packets.back()?);
        let span = last.arrival.since(first.arrival).as_secs_f64();
        let size: DataSize = self
            .packets
            .iter()
            .skip(1)
            .fold(DataSize::ZERO, |sum, packet| sum + packet.size);
        (span > LEAST_SPAN).then(|| size.as_bits() as f64 / span)
    }

    /// When the first and the last of the window left, and the rate at which
    /// all was sent from the one to the other, bit/s.
    #[must_use]
    pub fn send_rate(&self) -> Option<(Timestamp, Timestamp, f64)> {
        let (first, last) = (self.packets.front()?, self.packets.back()?);
        let span = last.sent.since(first.sent).as_secs_f64();
        let size = last.sent_up_to.saturating_sub(first.sent_up_to);
        (span > LEAST_SPAN).then(|| (first.sent, last.sent, size.as_bits() as f64 / span))
    }

    /// How long a packet that leaves now will wait if the link takes
    /// `capacity`, s: the fluid queue after each of the last packets, with what
    /// has been sent since.
    #[must_use]
    pub fn ahead(&self, now: Timestamp, total: DataSize, capacity: f64) -> f64 {
        let Some(newest) = self.packets.back() else {
            return 0.0;
        };
        self.packets
            .iter()
            .rev()
            .take_while(|packet| newest.arrival.since(packet.arrival) <= FORETELLING)
            .map(|packet| {
                let since = total.saturating_sub(packet.sent_up_to).as_bits() as f64;
                let left = now.since(packet.sent).as_secs_f64();
                (packet.delay + since / capacity.max(1.0) - left).max(0.0)
            })
            .fold(f64::MAX, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualstream_common::ExtSeq;

    /// 1250 bytes: 10 000 bits, 10 ms at 1 Mbit/s.
    const PACKET: DataSize = DataSize::from_bytes(1250);
    const LINK: f64 = 1e6;

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A packet with its number, sent and arrived at, in ms; the path takes
    /// 60 ms when nothing waits (the 10 ms of the packet included).
    fn push(queue: &mut OwnQueue, n: u64, sent_ms: u64, arrival_ms: u64) {
        let packet = Received {
            seq: ExtSeq::new(n),
            sent: ms(sent_ms),
            arrival: RemoteTime::from_millis(arrival_ms),
            size: PACKET,
            probe: None,
            sent_up_to: DataSize::from_bytes((n + 1) * PACKET.as_bytes()),
        };
        let delay = Duration::from_millis(arrival_ms.saturating_sub(sent_ms + 60));
        queue.push(&packet, delay, LINK, LINK);
    }

    #[track_caller]
    fn assert_ms(seconds: f64, millis: f64) {
        assert!(
            (seconds * 1e3 - millis).abs() < 1e-6,
            "{} ms, not {millis}",
            seconds * 1e3
        );
    }

    /// Ten packets sent 5 ms apart come through 1 Mbit/s 10 ms apart: packet n
    /// waits 5 n ms.
    #[test]
    fn a_queue_of_our_own_by_hand() {
        let mut q = OwnQueue::default();
        for n in 0..10 {
            push(&mut q, n, n * 5, 60 + n * 10);
        }
        // The first one waited for nobody; each other one for the one before.
        assert_ms(q.standing(), 0.0);
        assert_ms(q.delay(), 0.0);
        // A packet that waits d behind another that came 10 ms before it, and
        // takes 10 ms itself: all of d.
        let own: Vec<f64> = q.packets.iter().map(|p| (p.own * 1e3).round()).collect();
        assert_eq!(
            own,
            [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0]
        );
        // 9 packets in the 90 ms after the first.
        assert_eq!(q.receive_rate().map(f64::round), Some(1e6));
    }

    #[test]
    fn a_queue_stands_when_all_of_the_window_waited() {
        let mut q = OwnQueue::default();
        for n in 0..40 {
            push(&mut q, n, n * 5, 60 + n * 10);
        }
        // The window is the last 100 ms of arrivals: packets 29 to 39.
        assert_ms(q.standing(), 29.0 * 5.0);
        assert_ms(q.delay(), 29.0 * 5.0);
        assert_eq!(q.remembered(), 11);
    }

    /// A slow path, say a radio that wakes up for each packet: 30 ms more for
    /// each, but none is on its way when the next one comes.
    #[test]
    fn sparse_packets_on_a_slow_path_are_not_a_queue() {
        let mut q = OwnQueue::default();
        push(&mut q, 0, 0, 60);
        for n in 1..20 {
            push(&mut q, n, n * 50, 60 + n * 50 + 30);
        }
        assert_ms(q.standing(), 0.0);
        assert_ms(q.delay(), 30.0);
    }

    #[test]
    fn what_a_packet_waits_for_us_is_no_more_than_it_waits() {
        let mut q = OwnQueue::default();
        // All at once, 3 ms late: the gaps are 0, the delay is 3.
        for n in 0..8 {
            push(&mut q, n, 0, 63);
        }
        assert!(q.packets.iter().all(|p| p.own <= p.delay));
        assert!(q.packets.iter().skip(1).all(|p| p.own == p.delay));
    }

    #[test]
    fn nothing_stands_when_nothing_has_come() {
        let q = OwnQueue::default();
        assert_eq!(
            (q.standing(), q.delay(), q.receive_rate()),
            (0.0, 0.0, None)
        );
        assert_eq!(q.ahead(ms(0), DataSize::ZERO, LINK), 0.0);
    }

    /// Reports may come in bursts; stamps do not care.
    #[test]
    fn the_received_rate_is_over_arrival_stamps() {
        let mut q = OwnQueue::default();
        push(&mut q, 0, 0, 60);
        assert_eq!(q.receive_rate(), None, "one packet has no span");
        push(&mut q, 1, 5, 70);
        assert_eq!(q.receive_rate(), None, "10 ms is too short a span");
        push(&mut q, 2, 10, 85);
        // Two packets in the 25 ms after the first: 20 000 bits.
        assert_eq!(q.receive_rate().map(f64::round), Some(800_000.0));
    }

    #[test]
    fn the_sent_rate_is_over_departures_and_counts_what_was_lost() {
        let mut queue = OwnQueue::default();
        assert_eq!(queue.send_rate(), None);
        push(&mut queue, 0, 0, 60);
        assert_eq!(queue.send_rate(), None, "one packet has no rate");
        // Number 2 is lost; all come late, and at once.
        push(&mut queue, 1, 10, 160);
        push(&mut queue, 3, 30, 161);
        let (from, to, rate) = queue.send_rate().expect("30 ms");
        assert_eq!((from, to), (ms(0), ms(30)));
        // 30 000 bits after the first packet.
        assert!((rate - 1e6).abs() < 1.0, "{rate}");
    }

    #[test]
    fn at_a_low_rate_seven_packets_are_the_window() {
        let mut q = OwnQueue::default();
        for n in 0..20 {
            push(&mut q, n, n * 100, 60 + n * 100);
        }
        assert_eq!(q.remembered(), LEAST_PACKETS);
        // 6 packets in 600 ms.
        assert_eq!(q.receive_rate().map(f64::round), Some(1e5));
    }

    #[test]
    fn the_window_is_bounded_when_all_arrives_at_once() {
        let mut q = OwnQueue::default();
        for n in 0..10_000 {
            push(&mut q, n, n, 60);
        }
        assert_eq!(q.remembered(), MOST_PACKETS);
    }

    /// The packet of number 9 was sent at 45 ms and waited 45 ms. 20 packets
    /// were sent up to 100 ms: 10 after it, 100 ms of the link, and 55 ms have
    /// passed.
    #[test]
    fn the_queue_ahead_is_what_waits_and_what_was_sent_since() {
        let mut q = OwnQueue::default();
        for n in 0..10 {
            push(&mut q, n, n * 5, 60 + n * 10);
        }
        let total = DataSize::from_bytes(20 * PACKET.as_bytes());
        // 45 + 100 - 55; the packets before it foretell the same.
        assert_ms(q.ahead(ms(100), total, LINK), 90.0);
        assert_ms(q.ahead(ms(300), total, LINK), 0.0);
        // At twice the rate packet 6, the oldest that counts, foretells less.
        assert_ms(q.ahead(ms(100), total, 2.0 * LINK), 30.0 + 65.0 - 70.0);
    }

    /// One packet held up by chance says nothing of those after it.
    #[test]
    fn the_best_of_the_last_packets_foretells() {
        let mut q = OwnQueue::default();
        for n in 0..5 {
            push(&mut q, n, n * 10, 60 + n * 10);
        }
        push(&mut q, 5, 50, 125);
        let total = DataSize::from_bytes(6 * PACKET.as_bytes());
        // Packet 4, sent at 40: 0 + 10 - 20. Packet 5, alone: 15 + 0 - 10.
        assert_ms(q.ahead(ms(60), total, LINK), 0.0);
    }

    #[test]
    fn a_cut_forgets_the_rate_and_a_reset_the_last_arrival_too() {
        let mut q = OwnQueue::default();
        for n in 0..10 {
            push(&mut q, n, n * 5, 60 + n * 10);
        }
        q.cut();
        assert_eq!(q.receive_rate(), None);
        push(&mut q, 10, 50, 160);
        assert_ms(q.standing(), 50.0);
        q.reset();
        push(&mut q, 11, 55, 170);
        assert_ms(q.standing(), 0.0);
    }
}
