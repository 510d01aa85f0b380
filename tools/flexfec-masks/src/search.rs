// SPDX-License-Identifier: MPL-2.0
//! Simulated annealing over masks.

use fastrand::Rng;
use flexfec_core::channel::Channel;
use flexfec_core::mask::Table;

use crate::sample::{self, CHANNELS, Pattern};

/// What a fault costs, in units of the score.
const FAULT: f64 = 100.0;

/// Packets of a block of which the patterns say enough.
const SMALL: u32 = 12;
/// What is left, of what plain interleaving leaves, for a mask to be better.
const CLEAR: f64 = 0.98;

/// One row for each FEC packet.
pub type Rows = Vec<u64>;

/// Media packets still missing.
fn peel(rows: &[u64], mut missing: u64, lost: u64) -> u64 {
    let mut before = 0;
    while missing != before && missing != 0 {
        before = missing;
        for (at, row) in rows.iter().enumerate() {
            let left = row & missing;
            if left & left.wrapping_sub(1) == 0 && lost >> at & 1 == 0 {
                missing ^= left;
            }
        }
    }
    missing
}

pub struct Problem {
    media: u32,
    patterns: Vec<Pattern>,
    /// Residuals that may not be exceeded.
    bounds: [f64; CHANNELS],
}

impl Problem {
    /// What is found is never worse than `before`, the mask with one row less.
    /// The patterns of large blocks are but a sample, so these masks have to be
    /// clearly better than plain interleaving to be taken.
    pub fn new(table: Table, media: u32, fec: u32, before: Option<&Rows>, rng: &mut Rng) -> Self {
        let channels = sample::channels(table);
        let patterns = sample::patterns(table, channels, media, fec, rng);
        let mut problem = Self {
            media,
            patterns,
            bounds: [f64::INFINITY; CHANNELS],
        };
        if media > SMALL {
            problem.bounds = problem.residuals(&interleaved(media, fec));
        }
        if let Some(before) = before {
            let before = problem.residuals(before);
            let pairs = problem.bounds.iter_mut().zip(before);
            pairs.for_each(|(bound, before)| *bound = bound.min(before));
        }
        problem
    }

    /// For one loss alone.
    pub fn at(table: Table, loss: f64, media: u32, fec: u32, rng: &mut Rng) -> Self {
        let channels = [Channel::independent(loss); CHANNELS];
        Self {
            media,
            patterns: sample::patterns(table, channels, media, fec, rng),
            bounds: [f64::INFINITY; CHANNELS],
        }
    }

    /// Share of the media packets that is not recovered, in each channel.
    pub fn residuals(&self, rows: &[u64]) -> [f64; CHANNELS] {
        let mut sums = [0.0; CHANNELS];
        for pattern in &self.patterns {
            let left = peel(rows, pattern.media, pattern.fec).count_ones();
            if left > 0 {
                for (sum, weight) in sums.iter_mut().zip(pattern.weights) {
                    *sum += weight * f64::from(left);
                }
            }
        }
        sums.map(|sum| sum / f64::from(self.media))
    }

    /// The mean of the logarithms of the residuals. What a mask must not do
    /// costs more than anything that it can gain.
    fn score(&self, rows: &[u64]) -> f64 {
        let covered = rows.iter().fold(0, |all, row| all | row);
        let bare = self.media - covered.count_ones();
        let residuals = self.residuals(rows);
        let above = |(r, bound): (&f64, &f64)| r > &(bound * (1.0 + 1e-9));
        let worse = residuals
            .iter()
            .zip(&self.bounds)
            .filter(|&pair| above(pair))
            .count();
        let logs = residuals.iter().map(|r| (r + 1e-15).ln()).sum::<f64>();
        logs / CHANNELS as f64 + FAULT * (f64::from(bare) + worse as f64)
    }

    /// The best mask found from each of `starts`.
    pub fn anneal(&self, starts: &[Rows], steps: usize, rng: &mut Rng) -> Rows {
        let each = steps / starts.len();
        let found = starts
            .iter()
            .map(|start| self.anneal_from(start, each, rng));
        let best = found.min_by(|a, b| a.1.total_cmp(&b.1)).expect("a start");
        // What the patterns say is not exact: a gain that is hardly one is none.
        let plain = interleaved(self.media, best.0.len() as u32);
        let gains = self
            .residuals(&best.0)
            .into_iter()
            .zip(self.residuals(&plain));
        let clear = gains
            .into_iter()
            .all(|(found, plain)| found <= plain * CLEAR);
        if clear || self.media <= SMALL || self.score(&plain) > FAULT / 2.0 {
            best.0
        } else {
            plain
        }
    }

    fn anneal_from(&self, start: &Rows, steps: usize, rng: &mut Rng) -> (Rows, f64) {
        let (mut rows, mut score) = (start.clone(), self.score(start));
        let mut best = (rows.clone(), score);
        for step in 0..steps {
            let heat = 0.08 * (1.0 - step as f64 / steps as f64).powi(2) + 1e-6;
            let mut other = rows.clone();
            for _ in 0..1 + rng.usize(0..2) * rng.usize(0..3) {
                self.change(&mut other, rng);
            }
            let value = self.score(&other);
            if value < score || rng.f64() < ((score - value) / heat).exp() {
                (rows, score) = (other, value);
                if score < best.1 {
                    best = (rows.clone(), score);
                }
            }
        }
        best
    }

    fn change(&self, rows: &mut Rows, rng: &mut Rng) {
        let (row, other) = (rng.usize(0..rows.len()), rng.usize(0..rows.len()));
        let (bit, second) = (
            1u64 << rng.u32(0..self.media),
            1u64 << rng.u32(0..self.media),
        );
        match rng.u32(0..4) {
            0 => rows[row] ^= bit,
            // To another row.
            1 => {
                let moved = (rows[row] ^ rows[other]) & bit;
                rows[row] ^= moved;
                rows[other] ^= moved;
            }
            // To another column.
            2 => {
                if (rows[row] & bit == 0) != (rows[row] & second == 0) {
                    rows[row] ^= bit | second;
                }
            }
            // Two columns change places.
            _ => {
                for row in rows.iter_mut() {
                    if (*row & bit == 0) != (*row & second == 0) {
                        *row ^= bit | second;
                    }
                }
            }
        }
    }
}

/// Each packet in one row, neighbours in different ones.
pub fn interleaved(media: u32, fec: u32) -> Rows {
    (0..fec)
        .map(|row| {
            (row..media)
                .step_by(fec as usize)
                .fold(0, |bits, at| bits | 1 << at)
        })
        .collect()
}

/// Each packet in `weight` rows, spread evenly.
pub fn random(media: u32, fec: u32, weight: u32, rng: &mut Rng) -> Rows {
    let mut rows = vec![0u64; fec as usize];
    for at in 0..media {
        let mut order: Vec<_> = (0..rows.len()).collect();
        rng.shuffle(&mut order);
        order.sort_by_key(|&row| rows[row].count_ones());
        // Of the emptier half, at random.
        let many = (order.len() / 2).max(weight as usize).min(order.len());
        rng.shuffle(&mut order[..many]);
        for &row in order.iter().take(weight as usize) {
            rows[row] |= 1 << at;
        }
    }
    rows
}

/// One row over all packets.
pub fn all(media: u32) -> u64 {
    u64::MAX >> (64 - media)
}

/// Share of the media packets that is not recovered, by all patterns.
pub fn exact(rows: &[u64], media: u32, loss: f64) -> f64 {
    let n = media + rows.len() as u32;
    let likely: Vec<_> = (0..=n)
        .map(|lost| loss.powi(lost as i32) * (1.0 - loss).powi((n - lost) as i32))
        .collect();
    let mask = (1u64 << media) - 1;
    let left = (1u64..1 << n).map(|bits| {
        let left = peel(rows, bits & mask, bits >> media).count_ones();
        f64::from(left) * likely[bits.count_ones() as usize]
    });
    left.sum::<f64>() / f64::from(media)
}
