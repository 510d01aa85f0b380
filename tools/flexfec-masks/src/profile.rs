// SPDX-License-Identifier: MPL-2.0
//! What a mask leaves for each number of losses.

use fastrand::Rng;
use flexfec_core::channel::{self, Channel, Shape};
use flexfec_core::mask::{self, Table};

use crate::sample;

/// Patterns of each number of losses.
const PER_WEIGHT: u64 = 60_000;
/// Runs of the channel, where losses come in bursts.
const DRAWN: usize = 1_500_000;
/// From here on nothing more is recovered, as good as.
const HOPELESS: f64 = 0.98;

pub struct Profile {
    /// Media packets left where any are, in tenths.
    pub stuck: u8,
    /// Share of the media packets that is left after 1, 2, ... losses, as
    /// [`mask::encode_share`] writes it.
    pub share: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    weight: f64,
    left: f64,
    any: f64,
}

impl Sum {
    fn add(&mut self, weight: f64, left: u32) {
        self.weight += weight;
        self.left += weight * f64::from(left);
        self.any += weight * f64::from(u8::from(left > 0));
    }
}

impl Profile {
    pub fn new(table: Table, media: u32, rows: &[u64], rng: &mut Rng) -> Self {
        let rows: Vec<u128> = rows.iter().map(|&row| row.into()).collect();
        let n = media + rows.len() as u32;
        let mask = (1u128 << media) - 1;
        let left = |bits: u128| channel::peel(&rows, bits & mask, bits >> media).count_ones();
        let mut sums = vec![Sum::default(); n as usize + 1];
        if table == Table::Bursty {
            // Few and many losses are both to be seen often.
            let from = [0.01, 0.05, 0.2, 0.5].map(|loss| Channel::new(loss, 3.0));
            let like = Channel::new(0.05, 3.0);
            for at in 0..DRAWN {
                let bits = sample::run(&from[at % from.len()], n, rng);
                let shape = Shape::of(n, bits);
                let drawn = from.iter().map(|c| c.pattern(shape)).sum::<f64>();
                sums[bits.count_ones() as usize].add(like.pattern(shape) / drawn, left(bits));
            }
        } else {
            for lost in 1..=n {
                let sum = &mut sums[lost as usize];
                sample::each(n, lost, PER_WEIGHT, rng, |bits, _| sum.add(1.0, left(bits)));
                if sum.any > HOPELESS * sum.weight {
                    break;
                }
            }
        }
        // The losses at which the masks matter most.
        let typical = match table {
            Table::Light => Channel::independent(0.02),
            Table::Medium => Channel::independent(0.1),
            Table::Heavy => Channel::independent(0.2),
            Table::Bursty => Channel::new(0.05, 3.0),
        };
        let mut share = Vec::new();
        let mut stuck = Sum::default();
        for (lost, sum) in sums.iter().enumerate().skip(1) {
            if sum.weight == 0.0 || sum.any > HOPELESS * sum.weight {
                break;
            }
            share.push(mask::encode_share(sum.left / sum.weight / f64::from(media)));
            let weight = typical.losses(n as usize)[lost] / sum.weight;
            stuck.any += sum.any * weight;
            stuck.left += sum.left * weight;
        }
        let mean = if stuck.any > 0.0 {
            stuck.left / stuck.any
        } else {
            1.0
        };
        Self {
            stuck: (mean * 10.0).round().clamp(10.0, 255.0) as u8,
            share,
        }
    }
}
