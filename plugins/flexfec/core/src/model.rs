// SPDX-License-Identifier: MPL-2.0
//! What is left of a block in a channel, by what each mask leaves for each
//! number of losses (docs/flexfec.md derives it).

use crate::channel::Channel;
use crate::mask::{self, Entry, Family, MAX_MEDIA, Table};

/// Runs of losses this much longer than those of independent losses are met by
/// the masks for bursts.
const BURSTY: f64 = 1.5;
/// Independent losses from which on there are other masks.
const MEDIUM: f64 = 0.045;
const HEAVY: f64 = 0.14;
/// Of each row beyond those that a table has, so much of a loss is repaired.
const BEYOND: f64 = 0.7;

/// Shares that are not there at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Residual {
    pub packets: f64,
    pub frames: f64,
}

/// A channel, and what a receiver repairs by asking again.
#[derive(Clone, Debug)]
pub struct Model {
    channel: Channel,
    /// Probability of so many losses (second index) of so many packets.
    losses: Vec<Vec<f64>>,
    /// Share of the lost packets that no retransmission brings in time.
    unrepaired: f64,
}

/// Frames that share a block, their packets and the FEC packets for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub frames: usize,
    pub media: usize,
    pub fec: usize,
}

impl Model {
    #[must_use]
    pub fn new(channel: Channel, unrepaired: f64) -> Self {
        let losses = channel.losses_up_to(2 * MAX_MEDIA);
        Self {
            channel,
            losses,
            unrepaired: unrepaired.clamp(0.0, 1.0),
        }
    }

    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel
    }

    #[must_use]
    pub fn unrepaired(&self) -> f64 {
        self.unrepaired
    }

    /// The masks that suit this channel.
    #[must_use]
    pub fn table(&self, family: Option<Family>) -> Table {
        let independent = 1.0 / (1.0 - self.channel.loss());
        let bursty = self.channel.burst() >= BURSTY * independent;
        match family {
            Some(Family::Bursty) => Table::Bursty,
            None if bursty => Table::Bursty,
            _ if self.channel.loss() >= HEAVY => Table::Heavy,
            _ if self.channel.loss() >= MEDIUM => Table::Medium,
            _ => Table::Light,
        }
    }

    #[must_use]
    pub fn residual(&self, table: Table, block: Block) -> Residual {
        let Block { frames, media, fec } = block;
        let (frames, media) = (frames.max(1), media.clamp(1, MAX_MEDIA));
        if fec == 0 {
            return self.unprotected(media as f64 / frames as f64);
        }
        let (mut packets, mut intact) = (0.0, 1.0);
        for (size, rows) in mask::parts(media, fec.min(media)) {
            let part = self.part(table, size, rows, frames as f64);
            packets += part.packets * size as f64 / media as f64;
            intact *= 1.0 - part.frames;
        }
        Residual {
            packets,
            frames: 1.0 - intact,
        }
    }

    /// Frames of so many packets, without FEC.
    fn unprotected(&self, packets: f64) -> Residual {
        let whole = |n: usize| {
            let each = self.losses[n].iter().enumerate();
            each.map(|(lost, p)| p * (1.0 - (1.0 - self.unrepaired).powi(lost as i32)))
                .sum::<f64>()
        };
        let (low, part) = (packets.floor(), packets.fract());
        let low = (low as usize).min(MAX_MEDIA);
        Residual {
            packets: self.channel.loss() * self.unrepaired,
            frames: whole(low) * (1.0 - part) + whole(low + 1) * part,
        }
    }

    fn part(&self, table: Table, media: usize, fec: usize, frames: f64) -> Residual {
        let n = media + fec;
        let mut sum = Residual::default();
        for (lost, &likely) in self.losses[n].iter().enumerate().skip(1) {
            let (failed, left) = remains(table, media, fec, lost);
            // Each of them is brought by a retransmission or not; the frames
            // that they are of are independent.
            let hit = 1.0 - (1.0 - self.unrepaired / frames).powf(left);
            sum.packets += likely * failed * left / media as f64;
            sum.frames += likely * failed * hit;
        }
        sum.packets *= self.unrepaired;
        sum
    }
}

/// Probability that packets are left after so many losses, and how many then.
fn remains(table: Table, media: usize, fec: usize, lost: usize) -> (f64, f64) {
    let hopeless = (1.0, (lost * media) as f64 / (media + fec) as f64);
    if fec == 1 {
        // All packets are in the one row.
        return if lost == 1 { (0.0, 1.0) } else { hopeless };
    }
    let Some((size, &Entry { rows, stuck, share })) = table.entry(media, fec) else {
        return hopeless;
    };
    let beyond = (fec.saturating_sub(rows.len()) as f64 * BEYOND) as usize;
    let Some(at) = lost.checked_sub(1 + beyond) else {
        return (0.0, 1.0);
    };
    let Some(&code) = share.get(at) else {
        return hopeless;
    };
    let stuck = f64::from(stuck) / 10.0;
    let left = mask::decode_share(code) * size as f64;
    let failed = (left / stuck).min(1.0);
    (failed, stuck.min(media as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Shape, peel};
    use crate::mask::Mask;

    /// Shares of packets and of blocks, by all patterns.
    fn exact(table: Table, media: usize, fec: usize, channel: &Channel) -> Residual {
        let mask = Mask::of(table, media, fec);
        let n = media + fec;
        let mut sum = Residual::default();
        for bits in 1u128..1 << n {
            let missing = bits & ((1 << media) - 1);
            let left = peel(mask.rows(), missing, bits >> media).count_ones();
            let likely = channel.pattern(Shape::of(n as u32, bits));
            sum.packets += likely * f64::from(left) / media as f64;
            sum.frames += likely * f64::from(u8::from(left > 0));
        }
        sum
    }

    #[test]
    fn what_is_left_is_what_all_patterns_leave() {
        let near = |found: f64, exact: f64, within: f64| (found / exact).ln().abs() < within;
        for (media, fec) in [
            (1, 1),
            (4, 1),
            (5, 3),
            (8, 2),
            (10, 3),
            (11, 4),
            (12, 2),
            (14, 3),
        ] {
            for (loss, burst) in [
                (0.01, 1.0),
                (0.05, 1.0),
                (0.2, 1.0),
                (0.02, 3.0),
                (0.1, 3.0),
            ] {
                let model = Model::new(Channel::new(loss, burst), 1.0);
                let table = model.table(None);
                assert_eq!(table == Table::Bursty, burst > 2.0);
                let block = Block {
                    frames: 1,
                    media,
                    fec,
                };
                let found = model.residual(table, block);
                let exact = exact(table, media, fec, &model.channel());
                let case = format!("{media} {fec} {loss} {burst}: {found:?} {exact:?}");
                assert!(near(found.packets, exact.packets, 0.3), "{case}");
                assert!(near(found.frames, exact.frames, 0.35), "{case}");
            }
        }
    }

    #[test]
    fn without_fec_a_frame_needs_all_its_packets() {
        let model = Model::new(Channel::independent(0.1), 1.0);
        let of = |frames, media| {
            model.residual(
                Table::Light,
                Block {
                    frames,
                    media,
                    fec: 0,
                },
            )
        };
        assert!((of(1, 5).frames - (1.0 - 0.9f64.powi(5))).abs() < 1e-9);
        assert!(
            (of(4, 20).frames - of(1, 5).frames).abs() < 1e-9,
            "of each frame alone"
        );
        assert!((of(2, 20).packets - 0.1).abs() < 1e-9);
        // Half of what is lost comes again.
        let model = Model::new(Channel::independent(0.1), 0.5);
        let half = model.residual(
            Table::Light,
            Block {
                frames: 1,
                media: 5,
                fec: 0,
            },
        );
        assert!((half.frames - (1.0 - 0.95f64.powi(5))).abs() < 1e-9);
    }

    #[test]
    fn large_blocks_are_like_their_parts() {
        let model = Model::new(Channel::independent(0.05), 1.0);
        let of = |media, fec| {
            model
                .residual(
                    Table::Light,
                    Block {
                        frames: 1,
                        media,
                        fec,
                    },
                )
                .packets
        };
        assert!((of(96, 12) / of(48, 6) - 1.0).abs() < 1e-9);
        assert!(of(96, 20) < of(96, 12));
        assert!(of(16, 16) < of(16, 8), "beyond the table");
    }

    #[test]
    fn the_masks_follow_the_channel_or_what_was_asked_for() {
        let table = |loss, burst, family| Model::new(Channel::new(loss, burst), 1.0).table(family);
        assert_eq!(table(0.03, 1.0, None), Table::Light);
        assert_eq!(table(0.1, 1.0, None), Table::Medium);
        assert_eq!(table(0.3, 1.0, None), Table::Heavy);
        assert_eq!(table(0.05, 3.0, None), Table::Bursty);
        assert_eq!(table(0.05, 3.0, Some(Family::Random)), Table::Medium);
        assert_eq!(table(0.05, 1.0, Some(Family::Bursty)), Table::Bursty);
    }
}
