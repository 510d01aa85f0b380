// SPDX-License-Identifier: MPL-2.0
//! Which packets each FEC packet protects.
//!
//! Up to [`SMALL`] packets, and for some sizes above, the masks were searched
//! for (tools/flexfec-masks). A block in between has the first columns of the
//! next size; one of more than [`LARGEST`] packets is made of interleaved
//! smaller ones. There is none with more FEC than media packets.
//!
//! The mask with one more row is not worse, in the channels that a table is made
//! for.

use crate::tables;

/// What losses a mask is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Each packet is lost on its own.
    #[default]
    Random,
    /// Packets are lost in runs.
    Bursty,
}

/// How important packets of a block are protected beside the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    /// All alike.
    #[default]
    Equal,
    /// The important ones by FEC packets of their own, the others by the rest.
    NoOverlap,
    /// The important ones by FEC packets of their own, all by the rest.
    Overlap,
    /// The first packet of the block also by a FEC packet that has only each
    /// fourth packet beside it.
    BiasFirstPacket,
}

/// Most packets that one block can hold, by the masks of flexfec-03.
pub const MAX_MEDIA: usize = 109;
const SMALL: usize = 12;
const LARGEST: usize = 48;

/// Sizes of blocks with masks of their own.
pub const SIZES: [usize; 18] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 20, 24, 32, 40, 48,
];

/// Masks for one sort of channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Independent losses of 1 to 5 %.
    Light,
    /// Independent losses of 7 to 13 %.
    Medium,
    /// Independent losses of 15 to 25 %.
    Heavy,
    /// Losses in runs of 2 to 3.
    Bursty,
}

impl Table {
    pub const ALL: [Self; 4] = [Self::Light, Self::Medium, Self::Heavy, Self::Bursty];

    /// As it is called in the source.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Light => "LIGHT",
            Self::Medium => "MEDIUM",
            Self::Heavy => "HEAVY",
            Self::Bursty => "BURSTY",
        }
    }

    /// Most FEC packets of a mask of its own, for one of [`SIZES`].
    #[must_use]
    pub fn most_fec(self, media: usize) -> usize {
        if media <= SMALL { media } else { media / 2 }
    }
}

/// A mask of a table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub rows: &'static [u64],
    /// Media packets left where any are, in tenths.
    pub stuck: u8,
    /// Share left after 1, 2, ... losses, see [`decode_share`]. After more
    /// nothing is recovered.
    pub share: &'static [u8],
}

/// Step of a code in the natural logarithm of a share.
const STEP: f64 = 0.05;
/// The code of nothing.
const NOTHING: u8 = 255;

/// The smallest share that is not nothing is 3e-6; less counts as that.
#[must_use]
pub fn encode_share(share: f64) -> u8 {
    if share <= 0.0 {
        NOTHING
    } else {
        (-share.ln() / STEP)
            .round()
            .clamp(0.0, f64::from(NOTHING - 1)) as u8
    }
}

#[must_use]
pub fn decode_share(code: u8) -> f64 {
    if code == NOTHING {
        0.0
    } else {
        (-f64::from(code) * STEP).exp()
    }
}

fn low_bits(count: usize) -> u128 {
    if count >= 128 {
        u128::MAX
    } else {
        (1 << count) - 1
    }
}

/// The smallest of [`SIZES`] that holds so many packets, at most [`LARGEST`].
fn size(media: usize) -> usize {
    SIZES
        .into_iter()
        .find(|&size| size >= media)
        .unwrap_or(LARGEST)
}

/// Interleaved parts of a block that is too large for one mask: packets in each
/// and FEC packets in each.
pub(crate) fn parts(media: usize, fec: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = media.div_ceil(LARGEST).min(fec).max(1);
    let part = move |all: usize, at: usize| all / count + usize::from(at < all % count);
    (0..count).map(move |at| (part(media, at), part(fec, at)))
}

impl Table {
    fn all(self) -> &'static [Entry] {
        match self {
            Self::Light => tables::LIGHT,
            Self::Medium => tables::MEDIUM,
            Self::Heavy => tables::HEAVY,
            Self::Bursty => tables::BURSTY,
        }
    }

    /// The mask that blocks of `media` packets take their first columns from,
    /// and its size: with `fec` rows, or the most there are.
    pub(crate) fn entry(self, media: usize, fec: usize) -> Option<(usize, &'static Entry)> {
        let size = size(media);
        let before = SIZES
            .iter()
            .take_while(|&&s| s < size)
            .map(|&s| self.most_fec(s));
        let fec = fec.min(self.most_fec(size)).checked_sub(1)?;
        let entry = self.all().get(before.sum::<usize>() + fec)?;
        Some((size, entry))
    }

    /// The rows that the table has for one of [`SIZES`].
    #[must_use]
    pub fn rows_of(self, media: usize, fec: usize) -> &'static [u64] {
        self.entry(media, fec).map_or(&[], |(_, entry)| entry.rows)
    }

    /// Rows for at most [`LARGEST`] packets, or one row for any number.
    fn rows(self, media: usize, fec: usize) -> Vec<u128> {
        let all = low_bits(media);
        if fec == 1 {
            return vec![all];
        }
        let Some((size, entry)) = self.entry(media, fec) else {
            return Vec::new();
        };
        let fold = |row: u128| if row & all == 0 { all } else { row & all };
        let found = entry.rows.iter().map(|&row| u128::from(row));
        // Beyond the table the same rows again, mirrored: what more there is
        // only adds to what the table has.
        let mirrored = found.clone().map(|row| row.reverse_bits() >> (128 - size));
        found.chain(mirrored).take(fec).map(fold).collect()
    }
}

/// Row `i` is FEC packet `i`; its bit `j`, from the least, is media packet `j`
/// of the block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    media: usize,
    rows: Vec<u128>,
}

impl Mask {
    /// `fec` packets for `media` packets, at most as many as these.
    #[must_use]
    pub fn new(media: usize, fec: usize, family: Family) -> Self {
        let table = match family {
            Family::Random => Table::Light,
            Family::Bursty => Table::Bursty,
        };
        Self::of(table, media, fec)
    }

    #[must_use]
    pub fn of(table: Table, media: usize, fec: usize) -> Self {
        let media = media.min(MAX_MEDIA);
        let parts: Vec<_> = parts(media, fec.min(media)).collect();
        if let [(size, fec)] = parts[..] {
            let rows = table.rows(size, fec);
            return Self { media, rows };
        }
        let mut rows = Vec::with_capacity(fec);
        for (at, &(size, fec)) in parts.iter().enumerate() {
            for row in table.rows(size, fec) {
                let spread = |bits, j| bits | (row >> j & 1) << (j * parts.len() + at);
                rows.push((0..size).fold(0, spread));
            }
        }
        Self { media, rows }
    }

    /// The packets in `important` (bits as in a row) better protected.
    #[must_use]
    pub fn unequal(
        table: Table,
        media: usize,
        fec: usize,
        protection: Protection,
        important: u128,
    ) -> Self {
        let media = media.min(MAX_MEDIA);
        let fec = fec.min(media);
        let all = low_bits(media);
        let important = important & all;
        let rest = all & !important;
        let plain = Self::of(table, media, fec);
        if protection == Protection::BiasFirstPacket {
            // In a row with few others. In every row, as elsewhere, it would
            // keep these rows from recovering the others, and then itself.
            let Some(few) = fec.checked_sub(1).filter(|&few| few > 0) else {
                return plain;
            };
            let mut rows = Self::of(table, media, few).rows;
            rows.push((0..media).step_by(4).fold(0, |bits, at| bits | 1 << at));
            return Self { media, rows };
        }
        // Three times the share of the others, and something for these.
        let many = important.count_ones() as usize;
        let own = (fec * 3 * many)
            .div_ceil((media + 2 * many).max(1))
            .min(many)
            .min(fec.saturating_sub(1));
        if protection == Protection::Equal || important == 0 || rest == 0 || own == 0 {
            return plain;
        }
        let over = if protection == Protection::Overlap {
            all
        } else {
            rest
        };
        let mut rows = Self::of(table, many, own).onto(important);
        let others = Self::of(table, over.count_ones() as usize, fec - own);
        rows.extend(others.onto(over));
        Self { media, rows }
    }

    /// The rows with column `j` at the `j`th bit of `places`.
    fn onto(&self, places: u128) -> Vec<u128> {
        let places: Vec<_> = (0..MAX_MEDIA).filter(|at| places >> at & 1 != 0).collect();
        let put = |row: &u128| {
            let put = |bits, (j, at): (usize, &usize)| bits | (row >> j & 1) << at;
            places.iter().enumerate().fold(0, put)
        };
        self.rows.iter().map(put).collect()
    }

    #[must_use]
    pub fn media(&self) -> usize {
        self.media
    }

    #[must_use]
    pub fn rows(&self) -> &[u128] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::channel::{Channel, peel};
    use crate::model::Model;

    /// Packets left of `blocks` blocks, by masks of 0 to `media` rows, with the
    /// same losses for all of them.
    fn left(table: Table, media: usize, channel: &Channel, blocks: usize) -> Vec<u32> {
        let masks: Vec<_> = (0..=media).map(|fec| Mask::of(table, media, fec)).collect();
        let mut rng = Rng::with_seed(7);
        let mut left = vec![0; media + 1];
        for _ in 0..blocks {
            let mut lost = rng.f64() < channel.loss();
            let mut bits = [0u128; 2];
            for at in 0..2 * media {
                bits[at / media] |= u128::from(lost) << (at % media);
                let stay = 1.0 - 1.0 / channel.burst();
                lost = rng.f64() < if lost { stay } else { channel.onset() };
            }
            for (sum, mask) in left.iter_mut().zip(&masks) {
                *sum += peel(mask.rows(), bits[0], bits[1]).count_ones();
            }
        }
        left
    }

    #[test]
    fn each_packet_is_protected_and_each_row_protects() {
        for table in Table::ALL {
            for media in 0..=MAX_MEDIA {
                for fec in 1..=media {
                    let mask = Mask::of(table, media, fec);
                    assert_eq!((mask.rows().len(), mask.media()), (fec, media));
                    let all = mask.rows().iter().fold(0, |all, row| all | row);
                    assert_eq!(all, low_bits(media), "{table:?} {media} {fec}");
                    assert!(mask.rows().iter().all(|&row| row != 0));
                }
            }
        }
        assert_eq!(Mask::of(Table::Light, 5, 9).rows().len(), 5);
        assert_eq!(Mask::of(Table::Light, 0, 3).rows().len(), 0);
        assert_eq!(Mask::of(Table::Light, 500, 1).rows(), [low_bits(MAX_MEDIA)]);
    }

    #[test]
    fn one_more_fec_packet_never_hurts() {
        let channels = [
            (0.02, 1.0),
            (0.05, 1.0),
            (0.1, 1.0),
            (0.2, 1.0),
            (0.05, 3.0),
            (0.1, 3.0),
        ];
        for (loss, burst) in channels {
            let channel = Channel::new(loss, burst);
            let table = Model::new(channel, 1.0).table(None);
            for media in (1..=12).chain([13, 16, 19, 24, 31, 48, 49, 80, 109]) {
                let left = left(table, media, &channel, 2000);
                for (fec, pair) in left.windows(2).enumerate() {
                    // What chance does in so few blocks is allowed for.
                    let noise = 3.0 * (5.0 * f64::from(pair[0] + pair[1])).sqrt() + 10.0;
                    assert!(
                        f64::from(pair[1]) <= f64::from(pair[0]) + noise,
                        "{table:?} {media} packets, {fec} -> {}: {pair:?} left at {channel:?}",
                        fec + 1
                    );
                }
                assert!(f64::from(left[media]) < 0.7 * f64::from(left[0].max(1)));
            }
        }
    }

    #[test]
    fn important_packets_are_left_less_often() {
        let important = 0b1111;
        let (media, fec) = (16, 5);
        let mut rng = Rng::with_seed(3);
        let mut left = [[0u32; 2]; 4];
        let modes = [
            Protection::Equal,
            Protection::NoOverlap,
            Protection::Overlap,
            Protection::BiasFirstPacket,
        ];
        for _ in 0..60_000 {
            let mut draw =
                |n: usize| (0..n).fold(0u128, |b, j| b | u128::from(rng.f64() < 0.1) << j);
            let (missing, lost) = (draw(media), draw(fec));
            for (sum, mode) in left.iter_mut().zip(modes) {
                let important = if mode == Protection::BiasFirstPacket {
                    1
                } else {
                    important
                };
                let mask = Mask::unequal(Table::Light, media, fec, mode, important);
                assert_eq!(mask.rows().len(), fec);
                let rest = peel(mask.rows(), missing, lost);
                sum[0] += (rest & 1).count_ones();
                sum[1] += (rest & 0b1111).count_ones();
            }
        }
        let [equal, no_overlap, overlap, bias] = left;
        assert!(no_overlap[1] * 10 < equal[1] * 9, "{left:?}");
        assert!(overlap[1] < equal[1] / 2, "{left:?}");
        assert!(bias[0] < equal[0], "{left:?}");
    }

    #[test]
    fn shares_are_kept_within_three_percent() {
        for share in [1.0, 0.5, 0.1, 1e-3, 1e-5] {
            let again = decode_share(encode_share(share));
            let error = (again / share).ln().abs();
            assert!(error <= STEP / 2.0 + 1e-9, "{share} became {again}");
        }
        assert_eq!(decode_share(encode_share(0.0)), 0.0);
        assert!((1e-6..1e-5).contains(&decode_share(encode_share(1e-9))));
    }
}
