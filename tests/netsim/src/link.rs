// SPDX-License-Identifier: MPL-2.0
//! One direction of a path: a bottleneck with a drop-tail queue, then a delay
//! that may vary. What comes back (feedback, late or lost) is a second link.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::time::Duration;

use dualstream_common::{DataSize, Ratio, Timestamp};

use crate::capacity::{Capacity, Serialiser};
use crate::loss::{Fate, Loss};

/// Packets that overtake others: some take `extra` longer than the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reordering {
    pub share: Ratio,
    pub extra: Duration,
}

/// Where a drop-tail queue ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    Size(DataSize),
    /// What passes in this time at the present rate; under a trace, at the
    /// mean rate of the trace.
    Time(Duration),
}

#[derive(Clone, Debug)]
pub struct LinkConfig {
    pub capacity: Capacity,
    /// What may wait, the packet on the wire included; a packet that does not
    /// fit is dropped. One packet always fits an empty queue.
    pub queue: QueueLimit,
    /// Behind the bottleneck.
    pub delay: Duration,
    /// Standard deviation of what is added to the delay; never negative, and
    /// in order.
    pub jitter: Duration,
    pub reordering: Option<Reordering>,
    /// Ahead of the bottleneck: what is lost takes no capacity.
    pub loss: Loss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// A link without steps has no rate.
    NoSteps,
    /// Steps must be in the order of their times.
    StepsBackwards,
    /// A trace whose lines let nothing through.
    EmptyOpportunity,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSteps => "a capacity of no steps",
            Self::StepsBackwards => "the steps of the capacity are not in order",
            Self::EmptyOpportunity => "a trace of 0 bytes each",
        })
    }
}

impl std::error::Error for LinkError {}

/// What became of a packet at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It will arrive.
    Queued,
    Lost,
    /// The queue was full.
    Dropped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived<T> {
    pub at: Timestamp,
    /// Time from being sent to leaving the bottleneck, its own length
    /// included.
    pub queued: Duration,
    pub packet: T,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub sent: u64,
    pub lost: u64,
    pub dropped: u64,
    pub arrived: u64,
    pub arrived_bytes: DataSize,
}

#[derive(Debug)]
struct Flying<T> {
    order: u64,
    size: DataSize,
    arrived: Arrived<T>,
}

impl<T> PartialEq for Flying<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Flying<T> {}

impl<T> PartialOrd for Flying<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Flying<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.arrived.at, self.order).cmp(&(other.arrived.at, other.order))
    }
}

#[derive(Debug)]
pub struct Link<T> {
    config: LinkConfig,
    wire: Serialiser,
    fate: Fate,
    rng: fastrand::Rng,
    /// When each packet in the queue leaves it, and its size.
    waiting: VecDeque<(Timestamp, DataSize)>,
    waiting_bytes: DataSize,
    flying: BinaryHeap<Reverse<Flying<T>>>,
    last_arrival: Timestamp,
    order: u64,
    stats: Stats,
}

impl<T> Link<T> {
    pub fn new(config: LinkConfig, seed: u64) -> Result<Self, LinkError> {
        match &config.capacity {
            Capacity::Constant(_) => {}
            Capacity::Steps(steps) if steps.is_empty() => return Err(LinkError::NoSteps),
            Capacity::Steps(steps) => {
                if steps.windows(2).any(|two| two[0].0 >= two[1].0) {
                    return Err(LinkError::StepsBackwards);
                }
            }
            Capacity::Trace(_, bytes) => {
                if *bytes == 0 {
                    return Err(LinkError::EmptyOpportunity);
                }
            }
        }
        Ok(Self {
            wire: Serialiser::new(config.capacity.clone()),
            fate: Fate::new(config.loss),
            config,
            rng: fastrand::Rng::with_seed(seed),
            waiting: VecDeque::new(),
            waiting_bytes: DataSize::ZERO,
            flying: BinaryHeap::new(),
            last_arrival: Timestamp::ZERO,
            order: 0,
            stats: Stats::default(),
        })
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    #[must_use]
    pub fn capacity(&self) -> &Capacity {
        &self.config.capacity
    }

    /// Bytes that wait or are on the wire.
    pub fn queue(&mut self, now: Timestamp) -> DataSize {
        while let Some((leaves, size)) = self.waiting.front().copied()
            && leaves <= now
        {
            self.waiting.pop_front();
            self.waiting_bytes = self.waiting_bytes.saturating_sub(size);
        }
        self.waiting_bytes
    }

    /// Times must not go backwards from one call to the next.
    pub fn send(&mut self, now: Timestamp, size: DataSize, packet: T) -> Sent {
        self.stats.sent += 1;
        if self.fate.loses(&mut self.rng) {
            self.stats.lost += 1;
            return Sent::Lost;
        }
        let waiting = self.queue(now);
        if waiting > DataSize::ZERO && waiting + size > self.queue_limit(now) {
            self.stats.dropped += 1;
            return Sent::Dropped;
        }
        let leaves = self.wire.serialise(now, size);
        self.waiting.push_back((leaves, size));
        self.waiting_bytes += size;
        let at = self.arrival(leaves);
        self.order += 1;
        self.flying.push(Reverse(Flying {
            order: self.order,
            size,
            arrived: Arrived {
                at,
                queued: leaves.since(now),
                packet,
            },
        }));
        Sent::Queued
    }

    fn queue_limit(&self, now: Timestamp) -> DataSize {
        match self.config.queue {
            QueueLimit::Size(size) => size,
            QueueLimit::Time(time) => self.config.capacity.nominal(now) * time,
        }
    }

    fn arrival(&mut self, leaves: Timestamp) -> Timestamp {
        let jitter = self.config.jitter.mul_f64(self.normal().abs());
        let at = leaves + self.config.delay + jitter;
        if let Some(reordering) = self.config.reordering
            && self.rng.f64() < reordering.share.value()
        {
            return at + reordering.extra;
        }
        self.last_arrival = self.last_arrival.max(at);
        self.last_arrival
    }

    /// Near enough to a normal variate: the sum of twelve even ones.
    fn normal(&mut self) -> f64 {
        if self.config.jitter.is_zero() {
            return 0.0;
        }
        (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0
    }

    /// When there is something to receive.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Timestamp> {
        self.flying.peek().map(|Reverse(first)| first.arrived.at)
    }

    /// The first packet that has arrived by `now`, if there is one.
    pub fn receive(&mut self, now: Timestamp) -> Option<Arrived<T>> {
        if self.next_arrival()? > now {
            return None;
        }
        let Reverse(first) = self.flying.pop()?;
        self.stats.arrived += 1;
        self.stats.arrived_bytes += first.size;
        Some(first.arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualstream_common::Bitrate;
    use proptest::prelude::*;

    const PACKET: DataSize = DataSize::from_bytes(1000);

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A packet takes 10 ms.
    fn config() -> LinkConfig {
        LinkConfig {
            capacity: Capacity::Constant(Bitrate::from_kbps(800)),
            queue: QueueLimit::Size(DataSize::from_bytes(5000)),
            delay: Duration::from_millis(20),
            jitter: Duration::ZERO,
            reordering: None,
            loss: Loss::None,
        }
    }

    fn all<T>(link: &mut Link<T>) -> Vec<Arrived<T>> {
        std::iter::from_fn(|| link.receive(Timestamp::from_nanos(u64::MAX))).collect()
    }

    #[test]
    fn a_full_queue_drops_what_comes_and_empties_with_time() {
        let mut link = Link::new(config(), 1).unwrap();
        let sent: Vec<_> = (0..7).map(|n| link.send(ms(0), PACKET, n)).collect();
        assert_eq!(sent[..5], [Sent::Queued; 5]);
        assert_eq!(sent[5..], [Sent::Dropped; 2]);
        assert_eq!(link.queue(ms(10)), DataSize::from_bytes(4000));
        assert_eq!(link.send(ms(10), PACKET, 7), Sent::Queued);
        assert_eq!(link.next_arrival(), Some(ms(30)));
        assert!(link.receive(ms(29)).is_none());
        let arrived: Vec<_> = all(&mut link).iter().map(|a| (a.packet, a.at)).collect();
        let expected = [(0, 30), (1, 40), (2, 50), (3, 60), (4, 70), (7, 80)];
        assert_eq!(arrived, expected.map(|(n, at)| (n, ms(at))));
        assert_eq!(link.queue(ms(60)), DataSize::ZERO);
        let stats = link.stats();
        assert_eq!((stats.sent, stats.dropped, stats.arrived), (8, 2, 6));
    }

    #[test]
    fn a_queue_of_a_time_grows_and_shrinks_with_the_rate() {
        let capacity = Capacity::Steps(vec![
            (ms(0), Bitrate::from_kbps(800)),
            (ms(100), Bitrate::from_kbps(80)),
        ]);
        let queue = QueueLimit::Time(Duration::from_millis(40));
        let mut link = Link::new(
            LinkConfig {
                capacity,
                queue,
                ..config()
            },
            1,
        )
        .unwrap();
        let sent: Vec<_> = (0..5).map(|n| link.send(ms(0), PACKET, n)).collect();
        assert_eq!(sent[..4], [Sent::Queued; 4]);
        assert_eq!(sent[4], Sent::Dropped);
        // 400 bytes at the lower rate: one packet, as the queue is empty.
        assert_eq!(link.send(ms(100), PACKET, 5), Sent::Queued);
        assert_eq!(link.send(ms(100), PACKET, 6), Sent::Dropped);
    }

    #[test]
    fn a_packet_larger_than_the_queue_passes_when_it_is_alone() {
        let mut link = Link::new(config(), 1).unwrap();
        let large = DataSize::from_bytes(9000);
        assert_eq!(link.send(ms(0), large, 0), Sent::Queued);
        assert_eq!(link.send(ms(0), large, 1), Sent::Dropped);
        assert_eq!(all(&mut link)[0].queued, Duration::from_millis(90));
    }

    #[test]
    fn jitter_spreads_and_keeps_the_order_and_reordering_does_not() {
        let run = |jitter, reordering| {
            let mut link = Link::new(
                LinkConfig {
                    jitter: Duration::from_millis(jitter),
                    reordering,
                    ..config()
                },
                3,
            )
            .unwrap();
            let mut delays = Vec::new();
            for n in 0..2000u64 {
                link.send(ms(n * 20), PACKET, n);
            }
            let mut order = Vec::new();
            for arrived in all(&mut link) {
                delays.push(arrived.at.since(ms(arrived.packet * 20 + 30)));
                order.push(arrived.packet);
            }
            (delays, order)
        };
        let (delays, order) = run(5, None);
        assert!(order.is_sorted());
        let mean = delays.iter().sum::<Duration>() / 2000;
        // Half of a normal distribution: 0.8 of its standard deviation.
        assert!((3500..4600).contains(&mean.as_micros()), "{mean:?}");
        let (_, order) = run(
            0,
            Some(Reordering {
                share: Ratio::clamped(0.1),
                extra: Duration::from_millis(50),
            }),
        );
        let late = order.windows(2).filter(|two| two[0] > two[1]).count();
        assert!((150..250).contains(&late), "{late}");
        assert_eq!(order.len(), 2000);
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_another() {
        let run = |seed| {
            let mut link = Link::new(
                LinkConfig {
                    loss: Loss::Random(Ratio::clamped(0.2)),
                    jitter: Duration::from_millis(3),
                    ..config()
                },
                seed,
            )
            .unwrap();
            for n in 0..100u64 {
                link.send(ms(n * 10), PACKET, n);
            }
            all(&mut link)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!((70..90).contains(&run(1).len()));
    }

    #[test]
    fn a_capacity_that_cannot_be_is_refused() {
        let error = |capacity| {
            Link::<()>::new(
                LinkConfig {
                    capacity,
                    ..config()
                },
                1,
            )
            .unwrap_err()
        };
        let rate = Bitrate::from_kbps(1);
        assert_eq!(error(Capacity::Steps(vec![])), LinkError::NoSteps);
        let steps = vec![(ms(5), rate), (ms(5), rate)];
        assert_eq!(error(Capacity::Steps(steps)), LinkError::StepsBackwards);
        let trace = "10\n".parse().unwrap();
        assert_eq!(
            error(Capacity::Trace(trace, 0)),
            LinkError::EmptyOpportunity
        );
    }

    proptest! {
        /// Nothing appears or vanishes, nothing is faster than the link, and
        /// the queue is never longer than it may be.
        #[test]
        fn packets_are_conserved(
            sends in proptest::collection::vec((0u64..30, 40u64..1500), 1..200),
            loss in 0.0f64..0.5,
            jitter in 0u64..20,
            seed in any::<u64>(),
        ) {
            let config = LinkConfig {
                loss: Loss::Random(Ratio::clamped(loss)),
                jitter: Duration::from_millis(jitter),
                ..config()
            };
            let limit = DataSize::from_bytes(5000);
            let mut link = Link::new(config, seed).unwrap();
            let (mut now, mut queued) = (0, 0u64);
            for (wait, size) in sends {
                now += wait;
                let size = DataSize::from_bytes(size);
                if link.send(ms(now), size, (now, size)) == Sent::Queued {
                    queued += 1;
                }
                prop_assert!(link.queue(ms(now)) <= limit.max(size));
            }
            let arrived = all(&mut link);
            prop_assert_eq!(arrived.len() as u64, queued);
            let mut bytes = DataSize::ZERO;
            for packet in &arrived {
                let (sent, size) = packet.packet;
                bytes += size;
                let least = size.time_at(Bitrate::from_kbps(800)).unwrap() + Duration::from_millis(20);
                prop_assert!(packet.at.since(ms(sent)) >= least);
            }
            let stats = link.stats();
            prop_assert_eq!(stats.sent, stats.lost + stats.dropped + stats.arrived);
            prop_assert_eq!(stats.arrived_bytes, bytes);
        }
    }
}
