// SPDX-License-Identifier: MPL-2.0
//! Where the bits of a coded picture went: each macroblock's, read from the stream
//! (ITU-T H.264 7.3.4, 7.3.5), of one P slice with variable-length codes and one
//! reference picture. Nothing is decoded.

use h264_reader::nal::pps::PicParameterSet;
use h264_reader::nal::sps::{ChromaFormat, FrameMbsFlags, PicOrderCntType, SeqParameterSet};

use crate::cavlc::{Bits, Block, block};

/// One macroblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macroblock {
    /// With those of the run of skipped ones before it; 0: it is skipped itself.
    pub bits: u32,
    /// 0 to 51.
    pub quantiser: u8,
}

/// All macroblocks of a picture that is one slice; `None` if it is of another kind
/// or broken. `payload` is without NAL header and emulation prevention.
pub fn read(
    payload: &[u8],
    reference: bool,
    sps: &SeqParameterSet,
    pps: &PicParameterSet,
) -> Option<Vec<Macroblock>> {
    let supported = !pps.entropy_coding_mode_flag
        && pps.slice_groups.is_none()
        && !pps.weighted_pred_flag
        && !pps
            .extension
            .as_ref()
            .is_some_and(|extension| extension.transform_8x8_mode_flag)
        && matches!(sps.frame_mbs_flags, FrameMbsFlags::Frames)
        && sps.chroma_info.chroma_format == ChromaFormat::YUV420;
    let width = usize::try_from(sps.pic_width_in_mbs_minus1).ok()? + 1;
    let height = usize::try_from(sps.pic_height_in_map_units_minus1).ok()? + 1;
    // No more than the largest level has (table A-1).
    if !supported || width.checked_mul(height)? > 139_264 {
        return None;
    }
    let mut bits = Bits::new(payload)?;
    let quantiser = header(&mut bits, reference, sps, pps)?;
    Slice {
        bits,
        width,
        quantiser,
        luma: vec![0; width * height * 16],
        chroma: vec![0; width * height * 8],
    }
    .read(width * height)
}

/// The quantiser that the slice begins with.
fn header(
    bits: &mut Bits<'_>,
    reference: bool,
    sps: &SeqParameterSet,
    pps: &PicParameterSet,
) -> Option<i64> {
    let (first, kind, _set) = (bits.ue()?, bits.ue()?, bits.ue()?);
    if first != 0 || kind % 5 != 0 {
        return None;
    }
    bits.number(u32::from(sps.log2_max_frame_num_minus4) + 4)?;
    match sps.pic_order_cnt {
        PicOrderCntType::TypeZero {
            log2_max_pic_order_cnt_lsb_minus4: size,
        } => {
            bits.number(u32::from(size) + 4)?;
            if pps.bottom_field_pic_order_in_frame_present_flag {
                bits.se()?;
            }
        }
        PicOrderCntType::TypeTwo => {}
        PicOrderCntType::TypeOne { .. } => return None,
    }
    if pps.redundant_pic_cnt_present_flag {
        bits.ue()?;
    }
    let mut references = pps.num_ref_idx_l0_default_active_minus1;
    if bits.bit()? == 1 {
        references = bits.ue()?;
    }
    if references != 0 {
        return None;
    }
    if bits.bit()? == 1 {
        while bits.ue()? != 3 {
            bits.ue()?;
        }
    }
    if reference && bits.bit()? == 1 {
        loop {
            match bits.ue()? {
                0 => break,
                1 | 2 | 4 | 6 => _ = bits.ue()?,
                3 => _ = (bits.ue()?, bits.ue()?),
                _ => {}
            }
        }
    }
    let quantiser = 26 + i64::from(pps.pic_init_qp_minus26) + bits.se()?;
    if pps.deblocking_filter_control_present_flag && bits.ue()? != 1 {
        bits.se()?;
        bits.se()?;
    }
    Some(quantiser)
}

/// Table 9-4: the blocks that are coded, of intra and inter macroblocks; bits 0 to 3
/// luma, then chroma.
const CODED: [(u8, u8); 48] = [
    (47, 0),
    (31, 16),
    (15, 1),
    (0, 2),
    (23, 4),
    (27, 8),
    (29, 32),
    (30, 3),
    (7, 5),
    (11, 10),
    (13, 12),
    (14, 15),
    (39, 47),
    (43, 7),
    (45, 11),
    (46, 13),
    (16, 14),
    (3, 6),
    (5, 9),
    (10, 31),
    (12, 35),
    (19, 37),
    (21, 42),
    (26, 44),
    (28, 33),
    (35, 34),
    (37, 36),
    (42, 40),
    (44, 39),
    (1, 43),
    (2, 45),
    (4, 46),
    (8, 17),
    (17, 18),
    (18, 20),
    (20, 24),
    (24, 19),
    (6, 21),
    (9, 26),
    (22, 28),
    (25, 23),
    (32, 27),
    (33, 29),
    (34, 30),
    (36, 22),
    (40, 25),
    (38, 38),
    (41, 41),
];

struct Slice<'a> {
    bits: Bits<'a>,
    /// In macroblocks.
    width: usize,
    quantiser: i64,
    /// Coefficients of the blocks of 4x4, each macroblock's in raster order.
    luma: Vec<u8>,
    /// Of Cb, then of Cr.
    chroma: Vec<u8>,
}

impl Slice<'_> {
    fn read(mut self, count: usize) -> Option<Vec<Macroblock>> {
        let mut all = Vec::with_capacity(count);
        let mut start = self.bits.position();
        while all.len() < count {
            let skipped = usize::try_from(self.bits.ue()?).ok()?;
            if skipped > count - all.len() {
                return None;
            }
            let skip = Macroblock {
                bits: 0,
                quantiser: u8::try_from(self.quantiser).ok()?,
            };
            all.resize(all.len() + skipped, skip);
            if !self.bits.more() {
                break;
            }
            if all.len() == count {
                return None;
            }
            self.macroblock(all.len())?;
            let end = self.bits.position();
            all.push(Macroblock {
                bits: u32::try_from(end - start).ok()?,
                quantiser: u8::try_from(self.quantiser).ok()?,
            });
            start = end;
            if !self.bits.more() {
                break;
            }
        }
        (all.len() == count && !self.bits.more()).then_some(all)
    }

    fn macroblock(&mut self, at: usize) -> Option<()> {
        let coded = match self.bits.ue()? {
            0 => self.inter(1)?,
            1 | 2 => self.inter(2)?,
            3 | 4 => self.eighths()?,
            5 => self.intra_4x4()?,
            kind @ 6..=29 => return self.intra_16x16(at, kind - 6),
            30 => return self.plain(at),
            _ => return None,
        };
        if coded == 0 {
            return Some(());
        }
        self.change_quantiser()?;
        self.luma(at, coded, 16)?;
        self.chroma(at, coded >> 4)
    }

    fn inter(&mut self, vectors: u32) -> Option<u8> {
        for _ in 0..2 * vectors {
            self.bits.se()?;
        }
        Some(CODED.get(self.bits.ue()? as usize)?.1)
    }

    fn eighths(&mut self) -> Option<u8> {
        let mut vectors = 0;
        for _ in 0..4 {
            vectors += *[1, 2, 2, 4].get(self.bits.ue()? as usize)?;
        }
        self.inter(vectors)
    }

    fn intra_4x4(&mut self) -> Option<u8> {
        for _ in 0..16 {
            if self.bits.bit()? == 0 {
                self.bits.number(3)?;
            }
        }
        self.bits.ue()?;
        Some(CODED.get(self.bits.ue()? as usize)?.0)
    }

    fn intra_16x16(&mut self, at: usize, kind: u32) -> Option<()> {
        self.bits.ue()?;
        self.change_quantiser()?;
        let neighbours = self.luma_neighbours(at, 0, 0);
        let most = 16;
        block(&mut self.bits, Block::Of { neighbours, most })?;
        self.luma(at, if kind >= 12 { 15 } else { 0 }, 15)?;
        self.chroma(at, (kind / 4 % 3) as u8)
    }

    fn plain(&mut self, at: usize) -> Option<()> {
        let aligned = self.bits.position().next_multiple_of(8);
        self.bits.skip(aligned - self.bits.position() + 384 * 8)?;
        self.luma[at * 16..][..16].fill(16);
        self.chroma[at * 8..][..8].fill(16);
        Some(())
    }

    fn change_quantiser(&mut self) -> Option<()> {
        let change = self.bits.se()?;
        self.quantiser = (self.quantiser + change + 52).rem_euclid(52);
        (-26..26).contains(&change).then_some(())
    }

    fn luma(&mut self, at: usize, coded: u8, most: u8) -> Option<()> {
        for eighth in 0..4 {
            if coded >> eighth & 1 == 0 {
                continue;
            }
            for part in 0..4 {
                let x = eighth % 2 * 2 + part % 2;
                let y = eighth / 2 * 2 + part / 2;
                let neighbours = self.luma_neighbours(at, x, y);
                self.luma[at * 16 + y * 4 + x] =
                    block(&mut self.bits, Block::Of { neighbours, most })?;
            }
        }
        Some(())
    }

    fn luma_neighbours(&self, at: usize, x: usize, y: usize) -> u8 {
        let left = match x {
            0 if at.is_multiple_of(self.width) => None,
            0 => Some((at - 1) * 16 + y * 4 + 3),
            _ => Some(at * 16 + y * 4 + x - 1),
        };
        let above = match y {
            0 => at.checked_sub(self.width).map(|at| at * 16 + 12 + x),
            _ => Some(at * 16 + (y - 1) * 4 + x),
        };
        mean(&self.luma, left, above)
    }

    fn chroma(&mut self, at: usize, coded: u8) -> Option<()> {
        if coded > 2 {
            return None;
        }
        if coded > 0 {
            for _ in 0..2 {
                block(&mut self.bits, Block::ChromaDc)?;
            }
        }
        if coded == 2 {
            for i in 0..8 {
                let (plane, x, y) = (i / 4, i % 2, i / 2 % 2);
                let neighbours = self.chroma_neighbours(at, plane, x, y);
                let most = 15;
                self.chroma[at * 8 + i] = block(&mut self.bits, Block::Of { neighbours, most })?;
            }
        }
        Some(())
    }

    fn chroma_neighbours(&self, at: usize, plane: usize, x: usize, y: usize) -> u8 {
        let of = |at: usize, x: usize, y: usize| at * 8 + plane * 4 + y * 2 + x;
        let left = match x {
            0 if at.is_multiple_of(self.width) => None,
            0 => Some(of(at - 1, 1, y)),
            _ => Some(of(at, 0, y)),
        };
        let above = match y {
            0 => at.checked_sub(self.width).map(|at| of(at, x, 1)),
            _ => Some(of(at, x, 0)),
        };
        mean(&self.chroma, left, above)
    }
}

/// What the blocks on the left and above have, where they are (nC of 9.2.1).
fn mean(of: &[u8], left: Option<usize>, above: Option<usize>) -> u8 {
    match (left, above) {
        (Some(left), Some(above)) => (of[left] + of[above]).div_ceil(2),
        (Some(one), None) | (None, Some(one)) => of[one],
        (None, None) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantiser::QuantiserReader;
    use proptest::prelude::*;

    type Unit = (Vec<u8>, Vec<Macroblock>);

    /// Each access unit, and what the encoder counted of it.
    fn units() -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        for line in include_str!("macroblocks.txt").lines() {
            if let Some(text) = line.strip_prefix("unit ") {
                let bytes = (0..text.len()).step_by(2).map(|i| &text[i..i + 2]);
                let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16).expect("digits"));
                units.push((bytes.collect(), Vec::new()));
            } else if let Some(text) = line.strip_prefix("counted ") {
                let counted = text.split(' ').map(|one| {
                    let (bits, quantiser) = one.split_once(':').expect("two numbers");
                    Macroblock {
                        bits: bits.parse().expect("bits"),
                        quantiser: quantiser.parse().expect("a quantiser"),
                    }
                });
                units.last_mut().expect("a unit").1 = counted.collect();
            }
        }
        units
    }

    fn reader(units: &[Unit]) -> QuantiserReader {
        let mut reader = QuantiserReader::new();
        assert!(reader.read(&units[0].0).is_some());
        reader
    }

    #[test]
    fn all_are_as_the_encoder_counted_them() {
        let units = units();
        let reader = reader(&units);
        assert_eq!(units.len(), 3);
        assert_eq!(reader.macroblocks(&units[0].0), None, "a key frame");
        for (unit, counted) in &units[1..] {
            assert_eq!(reader.macroblocks(unit), Some((counted.clone(), 4)));
        }
    }

    #[test]
    fn a_picture_that_is_cut_short_is_none() {
        let units = units();
        let reader = reader(&units);
        let (unit, _) = &units[1];
        // The last byte may hold no more than the end.
        for length in 0..unit.len() - 1 {
            assert_eq!(reader.macroblocks(&unit[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_picture_panics(at in 5usize..700, bit in 0..8, which in 1usize..3) {
            let units = units();
            let reader = reader(&units);
            let mut unit = units[which].0.clone();
            let at = at % unit.len();
            unit[at] ^= 1u8 << bit;
            if let Some((all, width)) = reader.macroblocks(&unit) {
                prop_assert_eq!((all.len(), width), (12, 4));
            }
        }
    }
}
