// SPDX-License-Identifier: MPL-2.0
//! What masks leave unrepaired, exactly for small blocks, by many drawn ones
//! for large blocks.

use std::collections::HashMap;

use flexfec_core::channel::{Channel, Shape, peel};
use flexfec_core::mask::Mask;
use flexfec_core::model::Model;

/// Blocks of so many packets, with FEC, are computed exactly.
const EXACT: usize = 24;

/// Each packet in one row, neighbours in different rows.
pub fn interleaved(media: usize, fec: usize) -> Vec<u128> {
    let row = |at: usize| (at..media).step_by(fec).fold(0, |bits, j| bits | 1 << j);
    (0..fec).map(row).collect()
}

/// What the encoder would use in this channel.
pub fn auto(channel: &Channel, media: usize, fec: usize) -> Vec<u128> {
    let table = Model::new(*channel, 1.0).table(None);
    Mask::of(table, media, fec).rows().to_vec()
}

/// Shares of media packets left, for masks that are asked for in many channels.
pub struct Residuals {
    /// Packets left by all patterns of a shape.
    exact: HashMap<Vec<u128>, HashMap<Shape, u64>>,
    blocks: u64,
}

impl Residuals {
    pub fn new(blocks: u64) -> Self {
        Self {
            exact: HashMap::new(),
            blocks,
        }
    }

    pub fn of(&mut self, rows: &[u128], media: usize, channel: &Channel, seed: u64) -> f64 {
        let left = if media + rows.len() <= EXACT {
            let shapes = self
                .exact
                .entry([&[media as u128], rows].concat())
                .or_insert_with(|| shapes(rows, media));
            shapes
                .iter()
                .map(|(shape, &left)| channel.pattern(*shape) * left as f64)
                .sum()
        } else {
            drawn(rows, media, channel, self.blocks, seed) as f64 / self.blocks as f64
        };
        left / media as f64
    }
}

fn shapes(rows: &[u128], media: usize) -> HashMap<Shape, u64> {
    let n = media + rows.len();
    let mask = (1u128 << media) - 1;
    let mut found = HashMap::new();
    for bits in 1u128..1 << n {
        if bits & mask != 0 {
            let left = peel(rows, bits & mask, bits >> media).count_ones();
            if left > 0 {
                *found.entry(Shape::of(n as u32, bits)).or_default() += u64::from(left);
            }
        }
    }
    found
}

/// Packets left in so many blocks. The losses of one seed are the same for all
/// masks, and for more FEC packets they are only continued.
fn drawn(rows: &[u128], media: usize, channel: &Channel, blocks: u64, seed: u64) -> u64 {
    const PARTS: u64 = 2;
    let part = |at: u64| {
        let mut rng = fastrand::Rng::with_seed(seed << 8 | at);
        let n = media + rows.len();
        let stay = 1.0 - 1.0 / channel.burst();
        let onset = channel.onset();
        let mut left = 0;
        for _ in 0..blocks / PARTS {
            let mut rng = rng.fork();
            let mut lost = rng.f64() < channel.loss();
            let mut bits = 0u128;
            for at in 0..n {
                bits |= u128::from(lost) << at;
                lost = rng.f64() < if lost { stay } else { onset };
            }
            let missing = bits & ((1 << media) - 1);
            if missing != 0 {
                left += u64::from(peel(rows, missing, bits >> media).count_ones());
            }
        }
        left
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PARTS).map(|at| scope.spawn(move || part(at))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_and_exact_residuals_agree() {
        let channel = Channel::new(0.1, 3.0);
        let rows = interleaved(8, 3);
        let mut residuals = Residuals::new(1);
        let exact = residuals.of(&rows, 8, &channel, 1);
        let blocks = 400_000;
        let found = drawn(&rows, 8, &channel, blocks, 1) as f64 / blocks as f64 / 8.0;
        assert!((found / exact - 1.0).abs() < 0.02, "{found} {exact}");
        // One packet and a copy: both are lost.
        let one = residuals.of(&[1], 1, &Channel::independent(0.1), 1);
        assert!((one - 0.01).abs() < 1e-12);
    }
}
