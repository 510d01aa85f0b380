// SPDX-License-Identifier: MPL-2.0
//! What of a picture is new: the part that neither a shifted piece of the picture
//! before nor a flat area accounts for, measured on a small copy.

/// Luma of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    pub data: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    pub width: usize,
    pub height: usize,
}

/// Pictures are made smaller to at most this width, so that looking takes the same
/// time for all.
const WIDTH: usize = 360;
/// Blocks are squares of so many samples of the small copy.
const BLOCK: usize = 8;
/// A block is sought so far away, in samples of the small copy.
const REACH: i32 = 16;
/// Weight of a new picture in what is usual.
const GAIN: f64 = 0.2;
/// Less than this to the sample is noise: what is usual is at least that.
const NOISE: f64 = 0.5;

/// What was seen of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// How much of it is new, over what is usual.
    pub new: f64,
    /// The part of it that was elsewhere in the picture before, 0 to 1.
    pub moved: f64,
}

/// The pictures of one encoder.
#[derive(Clone, Debug, Default)]
pub struct Foresight {
    size: (usize, usize),
    last: Vec<u8>,
    new: Vec<u8>,
    shifts: Vec<(i32, i32)>,
    usual: Option<f64>,
    /// Samples of the picture to one of the small copy.
    factor: usize,
}

impl Foresight {
    /// Where what is at (x, y) in the newest picture was in the one before it, in
    /// samples from there.
    #[must_use]
    pub fn shift(&self, x: usize, y: usize) -> (i32, i32) {
        let block = (BLOCK * self.factor).max(1);
        let (columns, rows) = (self.size.0 / BLOCK, self.size.1 / BLOCK);
        if columns == 0 || rows == 0 {
            return (0, 0);
        }
        let at = (y / block).min(rows - 1) * columns + (x / block).min(columns - 1);
        let (dx, dy) = self.shifts.get(at).copied().unwrap_or_default();
        let factor = i32::try_from(self.factor).unwrap_or(1);
        (dx * factor, dy * factor)
    }

    /// `None` for the first picture of its size.
    pub fn look(&mut self, picture: Plane<'_>) -> Option<Seen> {
        let factor = picture.width.div_ceil(WIDTH).max(1);
        let size = (
            picture.width / factor / BLOCK * BLOCK,
            picture.height / factor / BLOCK * BLOCK,
        );
        shrink(picture, factor, size, &mut self.new)?;
        let known = size == self.size && !self.last.is_empty();
        if !known {
            self.usual = None;
            self.shifts = vec![(0, 0); size.0 / BLOCK * (size.1 / BLOCK)];
        }
        self.size = size;
        self.factor = factor;
        let new = known.then(|| self.left_over());
        std::mem::swap(&mut self.last, &mut self.new);
        let (new, moved) = new?;
        let least = NOISE * (size.0 * size.1) as f64;
        let usual = self.usual.unwrap_or(new).max(least);
        self.usual = Some(usual + (new - usual) * GAIN);
        Some(Seen {
            new: new.max(least) / usual,
            moved,
        })
    }

    /// The sum of what is new, and the part that moved.
    fn left_over(&mut self) -> (f64, f64) {
        let columns = self.size.0 / BLOCK;
        let (mut sum, mut moved) = (0u64, 0u32);
        for at in 0..self.shifts.len() {
            let (bx, by) = (at % columns, at / columns);
            let candidates = [
                (0, 0),
                self.shifts[at],
                if bx > 0 { self.shifts[at - 1] } else { (0, 0) },
                if by > 0 {
                    self.shifts[at - columns]
                } else {
                    (0, 0)
                },
            ];
            let (x, y) = (bx * BLOCK, by * BLOCK);
            let (mut best, mut shift) = (u32::MAX, (0, 0));
            let consider = |candidate: (i32, i32), best: &mut u32, shift: &mut (i32, i32)| {
                if let Some(left) = self.difference(x, y, candidate)
                    && left < *best
                {
                    (*best, *shift) = (left, candidate);
                }
            };
            for candidate in candidates {
                consider(candidate, &mut best, &mut shift);
            }
            for step in [4, 2, 1, 1] {
                let centre = shift;
                for (dx, dy) in [(step, 0), (-step, 0), (0, step), (0, -step)] {
                    consider((centre.0 + dx, centre.1 + dy), &mut best, &mut shift);
                }
            }
            self.shifts[at] = shift;
            let texture = self.texture(x, y);
            // Found for certain, and not just the best of many that do not fit.
            moved += u32::from(shift != (0, 0) && 2 * best < texture);
            sum += u64::from(best.min(texture));
        }
        (
            sum as f64,
            f64::from(moved) / self.shifts.len().max(1) as f64,
        )
    }

    /// Of a block from the shifted one of the picture before; `None` outside it.
    fn difference(&self, x: usize, y: usize, (dx, dy): (i32, i32)) -> Option<u32> {
        if dx.abs() > REACH || dy.abs() > REACH {
            return None;
        }
        let (w, h) = self.size;
        let from = |at: usize, by: i32, end: usize| {
            let at = at.checked_add_signed(by as isize)?;
            (at + BLOCK <= end).then_some(at)
        };
        let (sx, sy) = (from(x, dx, w)?, from(y, dy, h)?);
        let mut sum = 0;
        for row in 0..BLOCK {
            let one = &self.new[(y + row) * w + x..][..BLOCK];
            let other = &self.last[(sy + row) * w + sx..][..BLOCK];
            let pairs = one.iter().zip(other);
            sum += pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
        }
        Some(sum)
    }

    /// Of a block from its mean.
    fn texture(&self, x: usize, y: usize) -> u32 {
        let rows = || (0..BLOCK).map(|row| &self.new[(y + row) * self.size.0 + x..][..BLOCK]);
        let sum: u32 = rows().flatten().map(|v| u32::from(*v)).sum();
        let mean = (sum / (BLOCK * BLOCK) as u32) as u8;
        rows().flatten().map(|v| u32::from(v.abs_diff(mean))).sum()
    }
}

/// Means of squares of `factor` samples.
fn shrink(
    picture: Plane<'_>,
    factor: usize,
    size: (usize, usize),
    into: &mut Vec<u8>,
) -> Option<()> {
    into.clear();
    let area = (factor * factor) as u32;
    let mut sums = vec![0u32; size.0];
    for y in 0..size.1 {
        sums.fill(0);
        for row in 0..factor {
            let start = (y * factor + row).checked_mul(picture.stride)?;
            let row = picture.data.get(start..)?.get(..size.0 * factor)?;
            for (sum, samples) in sums.iter_mut().zip(row.chunks_exact(factor)) {
                *sum += samples.iter().map(|v| u32::from(*v)).sum::<u32>();
            }
        }
        into.extend(sums.iter().map(|sum| (sum / area) as u8));
    }
    Some(())
}

/// Of two pictures with the same layout, for each row of macroblocks (16 lines): the
/// sum over its luma. `None` if the data end before.
pub fn row_differences(
    new: &[u8],
    old: &[u8],
    stride: usize,
    (width, height): (usize, usize),
) -> Option<Vec<u32>> {
    let line = |y: usize| {
        let start = y.checked_mul(stride)?;
        let pairs = new.get(start..)?.get(..width)?.iter();
        let pairs = pairs.zip(old.get(start..)?.get(..width)?);
        Some(pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>())
    };
    let rows = (0..height).step_by(16);
    let rows = rows.map(|top| {
        let mut lines = top..height.min(top + 16);
        lines.try_fold(0u32, |sum, y| Some(sum.saturating_add(line(y)?)))
    });
    rows.collect()
}

/// Puts squares of `old` into a plane of as many bytes a row as told, each by its
/// number: so many are in a row, and they have so many samples a side.
pub fn keep(
    (new, stride): (&mut [u8], usize),
    old: Plane<'_>,
    (columns, side): (usize, usize),
    squares: &[usize],
) {
    for at in squares {
        let (x, y) = (at % columns.max(1) * side, at / columns.max(1) * side);
        let width = side.min(old.width.saturating_sub(x));
        for y in y..old.height.min(y + side) {
            let from = old.data.get(y * old.stride + x..);
            let to = new.get_mut(y * stride + x..);
            let from = from.and_then(|row| row.get(..width));
            let to = to.and_then(|row| row.get_mut(..width));
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
        }
    }
}

/// Leaves a part of the old samples in the new ones.
pub fn fade(new: &mut [u8], old: &[u8], part: f64) {
    let kept = (part.clamp(0.0, 1.0) * 256.0) as i32;
    for (new, old) in new.iter_mut().zip(old) {
        let (n, o) = (i32::from(*new), i32::from(*old));
        *new = (n + (((o - n) * kept + 128) >> 8)) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (720, 400);

    /// Texture of 16 samples to the grain, so that the small copy has some, too.
    fn texture(x: usize, y: usize, seed: u32) -> u8 {
        let grain = |x: usize, y: usize| {
            let n = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77);
            let n = (n ^ seed).wrapping_mul(0xc2b2_ae3d);
            (n ^ (n >> 15)) % 200
        };
        let (gx, gy, fx, fy) = (x / 16, y / 16, (x % 16) as u32, (y % 16) as u32);
        let top = grain(gx, gy) * (16 - fx) + grain(gx + 1, gy) * fx;
        let low = grain(gx, gy + 1) * (16 - fx) + grain(gx + 1, gy + 1) * fx;
        ((top * (16 - fy) + low * fy) / 256) as u8
    }

    fn picture(shift: usize, seed: u32) -> Vec<u8> {
        let rows = 0..SIZE.1;
        rows.flat_map(|y| (0..SIZE.0).map(move |x| texture(x + shift, y, seed)))
            .collect()
    }

    fn plane(data: &[u8]) -> Plane<'_> {
        Plane {
            data,
            stride: SIZE.0,
            width: SIZE.0,
            height: SIZE.1,
        }
    }

    #[test]
    fn what_only_moves_is_not_new_and_a_cut_is() {
        let mut foresight = Foresight::default();
        assert_eq!(foresight.look(plane(&picture(0, 1))), None);
        for n in 1..10 {
            let seen = foresight.look(plane(&picture(6 * n, 1))).expect("known");
            assert!((0.5..1.5).contains(&seen.new), "picture {n}: {seen:?}");
            assert!(seen.moved > 0.5, "picture {n}: {seen:?}");
        }
        let cut = foresight.look(plane(&picture(54, 2))).expect("known");
        assert!(cut.new > 4.0 && cut.moved < 0.2, "{cut:?}");
        let after = foresight.look(plane(&picture(60, 2))).expect("known");
        assert!(after.new < 1.0 && after.moved > 0.5, "{after:?}");
    }

    #[test]
    fn noise_on_a_still_picture_is_not_new() {
        let still = picture(0, 1);
        let mut foresight = Foresight::default();
        for n in 0..10 {
            // Every third picture has noise, the others none at all.
            let noise = |i: usize| ((i * 7 + n) % 3) as u8 * u8::from(n % 3 == 0);
            let samples = still.iter().enumerate();
            let noisy: Vec<u8> = samples.map(|(i, v)| v + noise(i)).collect();
            if let Some(seen) = foresight.look(plane(&noisy)) {
                assert!((0.3..1.6).contains(&seen.new), "picture {n}: {seen:?}");
                assert!(seen.moved < 0.05, "picture {n}: {seen:?}");
            }
        }
    }

    #[test]
    fn a_new_size_begins_anew_and_no_size_panics() {
        let mut foresight = Foresight::default();
        let data = vec![9; 4096];
        for (width, height, stride) in [
            (64, 64, 64),
            (64, 64, 64),
            (32, 64, 64),
            (7, 7, 7),
            (0, 0, 0),
            (4096, 1, 4096),
            (4096, 9, 4096),
            (64, usize::MAX, usize::MAX),
        ] {
            let seen = foresight.look(Plane {
                data: &data,
                stride,
                width,
                height,
            });
            if (width, height) == (32, 64) {
                assert_eq!(seen, None, "another size");
            }
        }
    }

    #[test]
    fn squares_are_kept() {
        let (mut new, old) = ([1u8; 5 * 3], [2u8; 4 * 3]);
        let old = Plane {
            data: &old,
            stride: 4,
            width: 4,
            height: 3,
        };
        keep((&mut new, 5), old, (2, 2), &[1, 2, 9]);
        assert_eq!(new, [1, 1, 2, 2, 1, 1, 1, 2, 2, 1, 2, 2, 1, 1, 1]);
        keep((&mut new[..7], 5), old, (0, 2), &[usize::MAX / 4]);
    }

    #[test]
    fn rows_differ_where_their_samples_do() {
        // 20 lines of 3 samples, each with one behind it that is no part of them.
        let old = [7; 80];
        let mut new = old;
        new[0] = 9;
        new[3] = 99;
        new[15 * 4 + 2] = 0;
        new[16 * 4 + 1] = 8;
        let rows = |size| row_differences(&new, &old, 4, size);
        assert_eq!(rows((3, 20)), Some(vec![9, 1]));
        assert_eq!(rows((3, 0)), Some(vec![]));
        assert_eq!(rows((3, 21)), None);
        assert_eq!(rows((usize::MAX, 20)), None);
    }

    #[test]
    fn a_part_of_the_old_picture_stays() {
        let old = [0, 255, 100, 100];
        let mut new = [255, 0, 100, 101];
        fade(&mut new, &old, 0.25);
        assert_eq!(new, [191, 64, 100, 101]);
        fade(&mut new, &old, 0.0);
        assert_eq!(new, [191, 64, 100, 101]);
        fade(&mut new, &old, 7.0);
        assert_eq!(new, old);
        fade(&mut new, &[], 1.0);
        assert_eq!(new, old);
    }
}
