// SPDX-License-Identifier: MPL-2.0
//! Traffic of others on the same bottleneck.

use std::collections::BTreeSet;
use std::time::Duration;

use dualstream_common::Timestamp;

/// Packets above a missing one that make it lost, as in RFC 5681.
const DUPLICATES: u64 = 3;
const FIRST_WINDOW: f64 = 10.0;
const LEAST_WINDOW: f64 = 2.0;
/// RFC 6298.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);

/// A flow that fills the queue until it loses something: slow start, then one
/// packet more each round trip, half the window at a loss (RFC 5681 without
/// its retransmissions: what was lost is not sent again, nobody reads it).
#[derive(Clone, Debug)]
pub struct LossBasedFlow {
    window: f64,
    threshold: f64,
    next: u64,
    outstanding: BTreeSet<u64>,
    /// Losses below this are of the same window as the last one.
    recovery: u64,
    last_heard: Timestamp,
    smoothed_rtt: Option<Duration>,
    delivered: u64,
}

impl LossBasedFlow {
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self {
            window: FIRST_WINDOW,
            threshold: f64::MAX,
            next: 0,
            outstanding: BTreeSet::new(),
            recovery: 0,
            last_heard: start,
            smoothed_rtt: None,
            delivered: 0,
        }
    }

    /// In packets.
    #[must_use]
    pub fn window(&self) -> f64 {
        self.window
    }

    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The number of a packet to send now; call until there is none.
    pub fn send(&mut self, now: Timestamp) -> Option<u64> {
        let timeout = self
            .smoothed_rtt
            .map_or(LEAST_TIMEOUT, |rtt| (rtt * 2).max(LEAST_TIMEOUT));
        if !self.outstanding.is_empty() && now.since(self.last_heard) > timeout {
            self.threshold = (self.window / 2.0).max(LEAST_WINDOW);
            self.window = LEAST_WINDOW;
            self.outstanding.clear();
            self.recovery = self.next;
            self.last_heard = now;
        }
        if self.outstanding.len() as f64 + 1.0 > self.window {
            return None;
        }
        if self.outstanding.is_empty() {
            self.last_heard = now;
        }
        let number = self.next;
        self.next += 1;
        self.outstanding.insert(number);
        Some(number)
    }

    /// The receiver has this packet; `rtt` is what its acknowledgement shows.
    pub fn acknowledged(&mut self, now: Timestamp, number: u64, rtt: Duration) {
        self.last_heard = now;
        if !self.outstanding.remove(&number) {
            return;
        }
        self.delivered += 1;
        self.smoothed_rtt = Some(match self.smoothed_rtt {
            None => rtt,
            Some(smoothed) => (smoothed * 7 + rtt) / 8,
        });
        let mut lost = false;
        while let Some(first) = self.outstanding.first().copied()
            && first + DUPLICATES <= number
        {
            self.outstanding.remove(&first);
            lost |= first >= self.recovery;
        }
        if lost {
            self.threshold = (self.window / 2.0).max(LEAST_WINDOW);
            self.window = self.threshold;
            self.recovery = self.next;
        } else if self.window < self.threshold {
            self.window += 1.0;
        } else {
            self.window += 1.0 / self.window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capacity, Link, LinkConfig, Loss};
    use dualstream_common::{Bitrate, DataSize};

    const PACKET: DataSize = DataSize::from_bytes(1500);

    /// Over a link with a queue of 300 ms for a minute; the use of the link,
    /// and the least and greatest window after the first 10 s.
    fn run(loss: Loss) -> (f64, f64, f64) {
        let rate = Bitrate::from_kbps(3000);
        let mut link = Link::new(
            LinkConfig {
                capacity: Capacity::Constant(rate),
                queue: crate::QueueLimit::Time(Duration::from_millis(300)),
                delay: Duration::from_millis(20),
                jitter: Duration::ZERO,
                reordering: None,
                loss,
            },
            5,
        )
        .expect("a link");
        let mut flow = LossBasedFlow::new(Timestamp::ZERO);
        let mut back: std::collections::VecDeque<(Timestamp, u64, Timestamp)> = Default::default();
        let (mut least, mut most) = (f64::MAX, 0.0f64);
        for ms in 0..60_000 {
            let now = Timestamp::from_millis(ms);
            while let Some(arrived) = link.receive(now) {
                let (number, sent) = arrived.packet;
                back.push_back((arrived.at + Duration::from_millis(20), number, sent));
            }
            while let Some((at, number, sent)) = back.front().copied()
                && at <= now
            {
                back.pop_front();
                flow.acknowledged(now, number, at.since(sent));
            }
            while let Some(number) = flow.send(now) {
                link.send(now, PACKET, (number, now));
            }
            if ms > 10_000 {
                least = least.min(flow.window());
                most = most.max(flow.window());
            }
        }
        let bits = (flow.delivered() * PACKET.as_bits()) as f64;
        (bits / 60.0 / rate.as_bps() as f64, least, most)
    }

    #[test]
    fn it_fills_the_link_and_halves_at_a_full_queue() {
        let (used, least, most) = run(Loss::None);
        assert!(used > 0.95, "{used}");
        // Path and queue hold 3 Mbit/s * 340 ms = 85 packets.
        assert!((80.0..95.0).contains(&most), "{most}");
        assert!((35.0..50.0).contains(&least), "{least}");
    }

    #[test]
    fn random_loss_holds_it_down_and_a_dead_link_does_not_kill_it() {
        let (used, _, _) = run(Loss::Random(dualstream_common::Ratio::clamped(0.05)));
        assert!((0.05..0.6).contains(&used), "{used}");
        let mut flow = LossBasedFlow::new(Timestamp::ZERO);
        let mut sent = 0;
        for ms in 0..10_000 {
            while flow.send(Timestamp::from_millis(ms)).is_some() {
                sent += 1;
            }
        }
        assert!(
            (15..40).contains(&sent),
            "{sent}: the window, then two a second"
        );
    }
}
