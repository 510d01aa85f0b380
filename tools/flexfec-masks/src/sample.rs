// SPDX-License-Identifier: MPL-2.0
//! Patterns of losses that stand for all of them.

use std::collections::HashMap;

use fastrand::Rng;
use flexfec_core::channel::{Channel, Shape};
use flexfec_core::mask::Table;

/// Blocks of so few packets are looked at in full.
const ENUMERATED: u32 = 14;
/// Patterns of each number of losses, else.
const PER_WEIGHT: u64 = 2000;
/// Patterns drawn where losses come in bursts.
const DRAWN: usize = 24_000;
/// Numbers of losses less likely than this at the highest loss are left out,
const NEGLIGIBLE: f64 = 1e-4;
/// but not those that masks must be good at.
const ALWAYS: u32 = 4;
pub const CHANNELS: usize = 4;

/// What the masks of a table are made for.
pub fn channels(table: Table) -> [Channel; CHANNELS] {
    let bursts = |(loss, burst)| Channel::new(loss, burst);
    match table {
        Table::Light => [0.01, 0.02, 0.03, 0.05].map(Channel::independent),
        Table::Medium => [0.07, 0.09, 0.1, 0.13].map(Channel::independent),
        Table::Heavy => [0.15, 0.18, 0.2, 0.25].map(Channel::independent),
        Table::Bursty => [(0.01, 3.0), (0.02, 3.0), (0.05, 3.0), (0.1, 3.0)].map(bursts),
    }
}

#[derive(Clone, Debug)]
pub struct Pattern {
    pub media: u64,
    pub fec: u64,
    /// What it stands for in each channel.
    pub weights: [f64; CHANNELS],
}

/// Patterns in which media is lost, for blocks of `media` and `fec` packets.
pub fn patterns(
    table: Table,
    channels: [Channel; CHANNELS],
    media: u32,
    fec: u32,
    rng: &mut Rng,
) -> Vec<Pattern> {
    let n = media + fec;
    let weights = |bits: u128, factor: f64| {
        let shape = Shape::of(n, bits);
        channels.map(|channel| channel.pattern(shape) * factor)
    };
    let mut found = HashMap::<u128, [f64; CHANNELS]>::new();
    let mut add = |bits: u128, weights: [f64; CHANNELS]| {
        let sum = found.entry(bits).or_default();
        for (sum, weight) in sum.iter_mut().zip(weights) {
            *sum += weight;
        }
    };
    if n <= ENUMERATED {
        (1u128..1 << n).for_each(|bits| add(bits, weights(bits, 1.0)));
    } else if table == Table::Bursty {
        let from = [(0.02, 3.0), (0.05, 3.0), (0.15, 3.0)];
        let from = from.map(|(loss, burst)| Channel::new(loss, burst));
        for at in 0..DRAWN {
            let bits = run(&from[at % from.len()], n, rng);
            let shape = Shape::of(n, bits);
            let likely = from.iter().map(|c| c.pattern(shape)).sum::<f64>() / from.len() as f64;
            add(bits, weights(bits, 1.0 / (likely * DRAWN as f64)));
        }
    } else {
        let likely = channels[CHANNELS - 1].losses(n as usize);
        for lost in (1..=n).filter(|&w| w <= ALWAYS || likely[w as usize] >= NEGLIGIBLE) {
            let all = binomial(n, lost);
            each(n, lost, PER_WEIGHT, rng, |bits, drawn| {
                add(bits, weights(bits, all as f64 / drawn as f64));
            });
        }
    }
    let mask = (1u128 << media) - 1;
    let mut patterns: Vec<_> = found
        .into_iter()
        .filter(|(bits, _)| bits & mask != 0)
        .map(|(bits, weights)| Pattern {
            media: (bits & mask) as u64,
            fec: (bits >> media) as u64,
            weights,
        })
        .collect();
    // The map has no order, and the same seed is to give the same masks.
    patterns.sort_by_key(|pattern| (pattern.media, pattern.fec));
    patterns
}

/// Patterns of `lost` of `n` packets: all of them, or `most` drawn where they
/// are far more.
pub fn each(n: u32, lost: u32, most: u64, rng: &mut Rng, mut found: impl FnMut(u128, u64)) {
    let all = binomial(n, lost);
    if all <= 2 * most {
        let mut bits = (1u128 << lost) - 1;
        for _ in 0..all {
            found(bits, all);
            // The next number with as many bits set (Gosper).
            let low = bits & bits.wrapping_neg();
            let carried = bits + low;
            bits = carried | (((bits ^ carried) >> 2) / low);
        }
    } else {
        for _ in 0..most {
            let mut bits = 0u128;
            while bits.count_ones() < lost {
                bits |= 1 << rng.u32(0..n);
            }
            found(bits, most);
        }
    }
}

/// As many as fit.
fn binomial(n: u32, k: u32) -> u64 {
    let exact = (0..k).fold(1u128, |c, i| c * u128::from(n - i) / u128::from(i + 1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// Losses of `n` packets in sequence.
pub fn run(channel: &Channel, n: u32, rng: &mut Rng) -> u128 {
    let mut bits = 0u128;
    let mut lost = rng.f64() < channel.loss();
    for at in 0..n {
        if lost {
            bits |= 1 << at;
        }
        let likely = if lost {
            1.0 - 1.0 / channel.burst()
        } else {
            channel.onset()
        };
        lost = rng.f64() < likely;
    }
    bits
}
