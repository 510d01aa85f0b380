// SPDX-License-Identifier: MPL-2.0
//! How packets are lost, and what is left of a block then.

/// Loss by a Markov chain of two states (Gilbert's model with loss 1 in the
/// bad state and 0 in the good one). Packets follow each other in steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel {
    loss: f64,
    /// From bad to good, for each packet.
    recovery: f64,
}

impl Channel {
    /// `loss` is the share of packets lost, `burst` the mean length of a run of
    /// lost ones; shorter than what independent losses give means those.
    #[must_use]
    pub fn new(loss: f64, burst: f64) -> Self {
        let loss = if loss.is_finite() {
            loss.clamp(0.0, 0.95)
        } else {
            0.0
        };
        let independent = 1.0 / (1.0 - loss);
        let burst = if burst.is_finite() {
            burst.max(independent)
        } else {
            independent
        };
        Self {
            loss,
            recovery: 1.0 / burst,
        }
    }

    /// Each packet is lost on its own.
    #[must_use]
    pub fn independent(loss: f64) -> Self {
        Self::new(loss, 1.0)
    }

    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss
    }

    #[must_use]
    pub fn burst(&self) -> f64 {
        1.0 / self.recovery
    }

    /// From good to bad, for each packet.
    #[must_use]
    pub fn onset(&self) -> f64 {
        self.loss / (1.0 - self.loss) * self.recovery
    }

    /// Probability that a packet is lost, `steps` after one that was.
    #[must_use]
    pub fn again(&self, steps: f64) -> f64 {
        let memory = 1.0 - self.recovery - self.onset();
        self.loss + (1.0 - self.loss) * memory.max(0.0).powf(steps.max(0.0))
    }

    /// Probability of each pattern of its shape.
    #[must_use]
    pub fn pattern(&self, shape: Shape) -> f64 {
        let Shape {
            packets,
            lost,
            runs,
            first,
            last,
        } = shape;
        let onset = self.onset();
        let start = if first { self.loss } else { 1.0 - self.loss };
        let into = runs - u32::from(first);
        let out = runs - u32::from(last);
        let stay = lost - runs;
        let good = packets - 1 - into - out - stay;
        let power = |base: f64, times: u32| base.powi(times as i32);
        start
            * power(onset, into)
            * power(self.recovery, out)
            * power(1.0 - self.recovery, stay)
            * power(1.0 - onset, good)
    }

    /// Probability of 0, 1, ... `packets` losses among so many in sequence.
    #[must_use]
    pub fn losses(&self, packets: usize) -> Vec<f64> {
        self.losses_up_to(packets).pop().unwrap_or_default()
    }

    /// [`Channel::losses`] of 0, 1, ... `most` packets.
    #[must_use]
    pub fn losses_up_to(&self, most: usize) -> Vec<Vec<f64>> {
        let onset = self.onset();
        let mut all = vec![vec![1.0]];
        // By the state in which the last packet was sent.
        let mut good = vec![1.0 - self.loss, 0.0];
        let mut bad = vec![0.0, self.loss];
        for _ in 0..most {
            all.push(good.iter().zip(&bad).map(|(g, b)| g + b).collect());
            good.push(0.0);
            bad.push(0.0);
            for lost in (0..good.len()).rev() {
                let (g, b) = (good[lost], bad[lost]);
                let before = if lost > 0 {
                    (good[lost - 1], bad[lost - 1])
                } else {
                    (0.0, 0.0)
                };
                good[lost] = g * (1.0 - onset) + b * self.recovery;
                bad[lost] = before.0 * onset + before.1 * (1.0 - self.recovery);
            }
        }
        all
    }
}

/// What the probability of a pattern of losses hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub packets: u32,
    pub lost: u32,
    /// Runs of lost packets.
    pub runs: u32,
    pub first: bool,
    pub last: bool,
}

impl Shape {
    /// Bit 0 of `lost` is the packet sent first.
    #[must_use]
    pub fn of(packets: u32, lost: u128) -> Self {
        Self {
            packets,
            lost: lost.count_ones(),
            runs: (lost & !(lost << 1)).count_ones(),
            first: lost & 1 != 0,
            last: packets > 0 && lost >> (packets - 1) & 1 != 0,
        }
    }
}

/// The media packets still missing after iterative recovery: of `missing`,
/// with the rows in `rows` that arrived (bits of `lost` are those that did
/// not).
#[must_use]
pub fn peel(rows: &[u128], mut missing: u128, lost: u128) -> u128 {
    let mut before = 0;
    while missing != before && missing != 0 {
        before = missing;
        for (at, row) in rows.iter().enumerate() {
            let left = row & missing;
            if left.is_power_of_two() && lost >> at & 1 == 0 {
                missing ^= left;
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNELS: [(f64, f64); 4] = [(0.05, 1.0), (0.2, 1.0), (0.05, 3.0), (0.3, 6.0)];

    #[test]
    fn numbers_of_losses_are_those_of_all_patterns() {
        for (loss, burst) in CHANNELS {
            let channel = Channel::new(loss, burst);
            let mut expected = vec![0.0; 11];
            for bits in 0u128..1 << 10 {
                expected[bits.count_ones() as usize] += channel.pattern(Shape::of(10, bits));
            }
            let losses = channel.losses(10);
            assert_eq!(losses.len(), 11);
            for (found, expected) in losses.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-12, "{loss} {burst}");
            }
            assert!((losses.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let mean: f64 = losses.iter().enumerate().map(|(n, p)| n as f64 * p).sum();
            assert!(
                (mean - 10.0 * loss).abs() < 1e-9,
                "as many as the mean says"
            );
        }
        assert_eq!(Channel::independent(0.1).losses(0), [1.0]);
        // Binomial: 2 of 3 at 10 %.
        let two = Channel::independent(0.1).losses(3)[2];
        assert!((two - 3.0 * 0.1 * 0.1 * 0.9).abs() < 1e-12);
    }

    #[test]
    fn a_loss_is_forgotten_in_time() {
        let channel = Channel::new(0.1, 3.0);
        assert!(
            (channel.again(1.0) - 2.0 / 3.0).abs() < 1e-9,
            "a run goes on"
        );
        assert!((channel.again(100.0) - 0.1).abs() < 1e-9);
        assert!((Channel::independent(0.1).again(1.0) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn shapes_are_read_from_patterns() {
        let shape = |packets, lost| Shape::of(packets, lost);
        let expected = Shape {
            packets: 6,
            lost: 3,
            runs: 2,
            first: true,
            last: false,
        };
        assert_eq!(shape(6, 0b01_1001), expected);
        assert_eq!(shape(4, 0b1000).runs, 1);
        assert!(shape(4, 0b1000).last);
        assert_eq!(Channel::independent(0.25).pattern(shape(1, 1)), 0.25);
    }

    #[test]
    fn senseless_numbers_give_a_channel() {
        for loss in [-1.0, 0.0, 1.0, 2.0, f64::NAN, f64::INFINITY] {
            for burst in [-1.0, 0.0, f64::NAN, f64::INFINITY, 1e300] {
                let losses = Channel::new(loss, burst).losses(20);
                assert!(
                    losses.iter().all(|p| (0.0..=1.0 + 1e-9).contains(p)),
                    "{loss} {burst}"
                );
            }
        }
    }

    #[test]
    fn peeling_goes_on_while_it_helps() {
        // 0 is in the first row alone, then 1 in the second.
        assert_eq!(peel(&[0b001, 0b011, 0b110], 0b111, 0), 0);
        assert_eq!(peel(&[0b001, 0b011, 0b110], 0b111, 0b001), 0b111);
        assert_eq!(peel(&[0b011], 0b001, 0b1), 0b001, "the row was lost");
        assert_eq!(peel(&[], 0b1, 0), 0b1);
    }
}
