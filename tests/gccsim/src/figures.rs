// SPDX-License-Identifier: MPL-2.0
//! What a run comes to.

use std::time::Duration;

use dualstream_common::{Bitrate, Timestamp};

use crate::run::{BIN, Bin, Outcome};

/// A rate counts as reached at this share of the capacity.
const REACHED: f64 = 0.9;
/// ... and as there again after a fall, if this was delivered in so many bins.
const BACK: f64 = 0.8;
const BACK_BINS: usize = 5;
/// A queue counts as drained below this.
const DRAINED: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub mean: f64,
    pub p95: f64,
}

impl Spread {
    /// In ms.
    #[must_use]
    pub fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut all: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        let Some(last) = all.len().checked_sub(1) else {
            return Self::default();
        };
        Self {
            mean: all.iter().sum::<f64>() / all.len() as f64,
            p95: all[(all.len() * 95 / 100).min(last)],
        }
    }
}

fn seconds(bins: usize) -> f64 {
    bins as f64 * BIN.as_secs_f64()
}

impl Bin {
    /// Of the capacity in this bin.
    fn rate(&self) -> f64 {
        self.capacity.as_bits() as f64 / BIN.as_secs_f64()
    }

    fn mean_queue(&self) -> Duration {
        let sum: Duration = self.queued.iter().sum();
        sum.checked_div(self.queued.len() as u32)
            .unwrap_or_default()
    }
}

impl Outcome {
    /// Bins from and to these times.
    #[must_use]
    pub fn between(&self, from: f64, to: f64) -> &[Bin] {
        let index = |time: f64| ((time / BIN.as_secs_f64()).round() as usize).min(self.bins.len());
        &self.bins[index(from)..index(to)]
    }

    /// Of the packets that left the bottleneck.
    #[must_use]
    pub fn queue(&self) -> Spread {
        queue(&self.bins)
    }

    /// Of the packets of the first flow, before they left the sender.
    #[must_use]
    pub fn held(&self) -> Spread {
        Spread::of(self.bins.iter().flat_map(|bin| bin.held.iter().copied()))
    }

    /// The two together: of media of the first flow, from the source to the
    /// end of the bottleneck.
    #[must_use]
    pub fn waited(&self) -> Spread {
        Spread::of(self.bins.iter().flat_map(|bin| bin.waited.iter().copied()))
    }

    /// Random and of the queue.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// Until the first flow's target is at 90 % of the capacity, from `from` s
    /// to `to` s.
    #[must_use]
    pub fn reached(&self, from: f64, to: f64) -> Option<f64> {
        self.between(from, to)
            .iter()
            .position(|bin| bin.flows[0].target.as_bps() as f64 >= REACHED * bin.rate())
            .map(|n| seconds(n + 1))
    }

    /// Until the first flow delivers 90 % of the capacity.
    #[must_use]
    pub fn delivers(&self, from: f64, to: f64) -> Option<f64> {
        self.between(from, to)
            .iter()
            .position(|bin| {
                let delivered = bin.flows[0].delivered.as_bytes() as f64;
                delivered >= REACHED * bin.capacity.as_bytes() as f64
            })
            .map(|n| seconds(n + 1))
    }

    /// Until the first flow has delivered 80 % of the capacity over half a
    /// second: when that began.
    #[must_use]
    pub fn back(&self, from: f64, to: f64) -> Option<f64> {
        self.between(from, to)
            .windows(BACK_BINS)
            .position(|bins| share(bins, 0) >= BACK)
            .map(seconds)
    }

    /// Until the queue is below 50 ms and stays there.
    #[must_use]
    pub fn drained(&self, from: f64, to: f64) -> f64 {
        self.between(from, to)
            .iter()
            .rposition(|bin| bin.mean_queue() >= DRAINED)
            .map_or(0.0, |n| seconds(n + 1))
    }

    /// Times of each rise and fall of a capacity in steps: rates reached, and
    /// queues drained.
    #[must_use]
    pub fn steps(&self, steps: &[(Timestamp, Bitrate)]) -> (Vec<Option<f64>>, Vec<f64>) {
        let end = seconds(self.bins.len());
        let (mut rises, mut drains) = (Vec::new(), Vec::new());
        for (n, two) in steps.windows(2).enumerate() {
            let from = two[1].0.as_nanos() as f64 / 1e9;
            let to = steps
                .get(n + 2)
                .map_or(end, |(at, _)| at.as_nanos() as f64 / 1e9);
            if two[1].1 > two[0].1 {
                rises.push(self.reached(from, to));
            } else {
                drains.push(self.drained(from, to));
            }
        }
        (rises, drains)
    }
}

/// Delivered by all flows over what the link could carry.
#[must_use]
pub fn utilisation(bins: &[Bin]) -> f64 {
    let flows = bins.first().map_or(0, |bin| bin.flows.len());
    (0..flows).map(|flow| share(bins, flow)).sum()
}

/// Delivered by one flow over what the link could carry.
#[must_use]
pub fn share(bins: &[Bin], flow: usize) -> f64 {
    let capacity: u64 = bins.iter().map(|bin| bin.capacity.as_bytes()).sum();
    let delivered: u64 = bins
        .iter()
        .map(|bin| bin.flows[flow].delivered.as_bytes())
        .sum();
    delivered as f64 / capacity.max(1) as f64
}

/// How evenly the flows share, from 1 / flows to 1 (R. Jain et al., 1984).
#[must_use]
pub fn jain(bins: &[Bin]) -> f64 {
    let flows = bins.first().map_or(0, |bin| bin.flows.len());
    let shares: Vec<f64> = (0..flows).map(|flow| share(bins, flow)).collect();
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (flows as f64 * squares).max(f64::MIN_POSITIVE)
}

#[must_use]
pub fn queue(bins: &[Bin]) -> Spread {
    Spread::of(bins.iter().flat_map(|bin| bin.queued.iter().copied()))
}
