// SPDX-License-Identifier: MPL-2.0
//! A bar code in the upper left corner of a picture that survives coding and
//! scaling, and what it says: which picture this is, and when it was captured.

use crate::picture::Luma;

const BLACK: u8 = 24;
const WHITE: u8 = 224;
/// Half of what black and white differ by.
const CLEAR: i64 = (WHITE - BLACK) as i64 / 2;

/// Where the bars are. Each bit is two blocks, of which the upper one is white
/// for a 1 and the lower one the opposite; the lowest bit is on the left of
/// the first row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Bits in a row.
    pub columns: usize,
    pub rows: usize,
    /// Of the picture, 0 to 1.
    pub width: f64,
    pub height: f64,
}

/// Of [`Stamp`]: blocks of 16x16 samples in a picture of 1280x720, which are
/// H.264's macroblocks there.
pub const STAMP: Layout = Layout {
    columns: 24,
    rows: 2,
    width: 0.3,
    height: 64.0 / 720.0,
};

impl Layout {
    /// At most 64.
    const fn bits(&self) -> usize {
        self.columns * self.rows
    }

    /// From which sample to which sample a block reaches.
    fn edge(size: usize, share: f64, blocks: usize, block: usize) -> usize {
        ((size as f64 * share * block as f64 / blocks as f64).round() as usize).min(size)
    }

    fn block(
        &self,
        width: usize,
        height: usize,
        bit: usize,
        half: usize,
    ) -> [std::ops::Range<usize>; 2] {
        let column = bit % self.columns;
        let row = 2 * (bit / self.columns) + half;
        let x = |c| Self::edge(width, self.width, self.columns, c);
        let y = |r| Self::edge(height, self.height, 2 * self.rows, r);
        [x(column)..x(column + 1), y(row)..y(row + 1)]
    }

    /// Into an 8-bit luma plane of this size.
    pub fn write(&self, luma: &mut [u8], stride: usize, width: usize, height: usize, value: u64) {
        for bit in 0..self.bits() {
            let set = value >> bit & 1 == 1;
            for half in 0..2 {
                let [x, y] = self.block(width, height, bit, half);
                let sample = if set == (half == 0) { WHITE } else { BLACK };
                for line in y {
                    let from = line * stride;
                    if let Some(row) = luma.get_mut(from + x.start..from + x.end) {
                        row.fill(sample);
                    }
                }
            }
        }
    }

    /// `None` where a bit is not clear.
    #[must_use]
    pub fn read(&self, luma: Luma<'_>) -> Option<u64> {
        let mut value = 0;
        for bit in 0..self.bits() {
            let mean = |half: usize| -> Option<i64> {
                let [x, y] = self.block(luma.width, luma.height, bit, half);
                // The edges are blurred.
                let (dx, dy) = (x.len() / 4, y.len() / 4);
                let (mut sum, mut count) = (0i64, 0i64);
                for line in y.start + dy..y.end - dy {
                    let from = line.checked_mul(luma.stride)?;
                    let samples = luma.data.get(from + x.start + dx..from + x.end - dx)?;
                    sum += samples.iter().map(|v| i64::from(*v)).sum::<i64>();
                    count += samples.len() as i64;
                }
                (count > 0).then(|| sum / count)
            };
            let difference = mean(0)? - mean(1)?;
            if difference.abs() < CLEAR {
                return None;
            }
            value |= u64::from(difference > 0) << bit;
        }
        Some(value)
    }
}

/// What a picture says of itself, in 48 bits: number and time in Gray code, so
/// that few blocks change from one picture to the next, and a check sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Counted from any start, wraps.
    pub number: u16,
    /// Since 1970, the low 24 bits: 4.6 hours.
    pub millis: u32,
}

const MILLIS_BITS: u32 = 24;
const WRAP: u64 = 1 << MILLIS_BITS;

impl Stamp {
    /// `captured` in ns since 1970; it is rounded to ms.
    #[must_use]
    pub fn new(number: u16, captured: u64) -> Self {
        let millis = (captured + 500_000) / 1_000_000 % WRAP;
        Self {
            number,
            millis: millis as u32,
        }
    }

    /// In ns since 1970, the time nearest to `now`.
    #[must_use]
    pub fn captured(&self, now: u64) -> u64 {
        let now = now / 1_000_000;
        let back = (now.wrapping_sub(u64::from(self.millis))) % WRAP;
        let millis = if back < WRAP / 2 {
            now.saturating_sub(back)
        } else {
            now + WRAP - back
        };
        millis * 1_000_000
    }

    fn check(self) -> u8 {
        let mut crc = 0u8;
        let bytes = self.number.to_le_bytes();
        for byte in bytes.iter().chain(&self.millis.to_le_bytes()[..3]) {
            crc ^= byte;
            for _ in 0..8 {
                crc = crc << 1 ^ if crc & 0x80 == 0 { 0 } else { 7 };
            }
        }
        crc
    }

    fn bits(self) -> u64 {
        let gray = |v: u64| v ^ v >> 1;
        gray(self.number.into()) | gray(self.millis.into()) << 16 | u64::from(self.check()) << 40
    }

    fn of_bits(bits: u64) -> Option<Self> {
        let plain = |mut v: u64| {
            for shift in [16, 8, 4, 2, 1] {
                v ^= v >> shift;
            }
            v
        };
        let stamp = Self {
            number: plain(bits & 0xffff) as u16,
            millis: plain(bits >> 16 & (WRAP - 1)) as u32,
        };
        (u64::from(stamp.check()) == bits >> 40).then_some(stamp)
    }

    /// Into an 8-bit luma plane of this size.
    pub fn write(self, luma: &mut [u8], stride: usize, width: usize, height: usize) {
        STAMP.write(luma, stride, width, height, self.bits());
    }

    /// `None` where there is none, or it cannot be read without doubt.
    #[must_use]
    pub fn read(luma: Luma<'_>) -> Option<Self> {
        Self::of_bits(STAMP.read(luma)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 640;
    const H: usize = 360;

    fn luma(data: &[u8], width: usize, height: usize) -> Luma<'_> {
        Luma {
            width,
            height,
            stride: width,
            data,
        }
    }

    #[test]
    fn a_stamp_is_read_again_also_from_a_coarse_and_smaller_picture() {
        for (number, millis) in [
            (0, 0),
            (1, 33),
            (0x5555, 0x00ff_ffff),
            (0xffff, 0x0012_3456),
        ] {
            let stamp = Stamp { number, millis };
            let mut data = vec![90; W * H];
            stamp.write(&mut data, W, W, H);
            assert_eq!(Stamp::read(luma(&data, W, H)), Some(stamp));
            for sample in &mut data {
                *sample = *sample / 40 * 40;
            }
            assert_eq!(Stamp::read(luma(&data, W, H)), Some(stamp), "coarse");
            let half: Vec<u8> = (0..W * H / 4)
                .map(|i| data[i / (W / 2) * 2 * W + i % (W / 2) * 2])
                .collect();
            assert_eq!(
                Stamp::read(luma(&half, W / 2, H / 2)),
                Some(stamp),
                "scaled"
            );
        }
    }

    #[test]
    fn what_is_no_stamp_is_not_read() {
        assert_eq!(Stamp::read(luma(&[128; W * H], W, H)), None, "grey");
        assert_eq!(Stamp::read(luma(&[128; 100], W, H)), None, "cut off");
        let stamp = Stamp {
            number: 7,
            millis: 99,
        };
        let refused = (0..40)
            .filter(|bit| Stamp::of_bits(stamp.bits() ^ 1 << bit).is_none())
            .count();
        assert_eq!(refused, 40, "one wrong bit is always seen");
    }

    #[test]
    fn the_time_is_the_one_nearest_to_now() {
        let ms = 1_000_000;
        let at = 1_700_000_000_123 * ms;
        assert_eq!(Stamp::new(0, at).captured(at + 250 * ms), at);
        assert_eq!(
            Stamp::new(0, at).captured(at - 3 * ms),
            at,
            "clocks differ a little"
        );
        assert_eq!(Stamp::new(0, at + 600_000).captured(at), at + ms, "rounded");
        // Over the wrap.
        let wrap = WRAP * 3 * ms;
        assert_eq!(Stamp::new(0, wrap - ms).captured(wrap + ms), wrap - ms);
    }
}
