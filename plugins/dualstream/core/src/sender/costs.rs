// SPDX-License-Identifier: MPL-2.0
//! What each macroblock of a picture would cost at a quantiser, from what it differs
//! from the picture as it stands in the encoder and the decoder (ITU-T H.264 8.5:
//! transform and quantisers of 4x4 blocks; what an encoder leaves out as not worth
//! its bits is as in JVT-O079).

use super::foresight::{Foresight, Plane};

/// Samples of a macroblock's side, and of its chroma's.
pub const SIDE: usize = 16;
const HALF: usize = SIDE / 2;
/// Quantisers that are looked at, from the finest on.
pub const CHOICES: usize = 9;
const COARSEST: i32 = 51;
/// Differences are let be up to this part of a quantiser's width below a whole one.
const ROUNDS: f32 = 1.0 / 6.0;
/// Width of a quantiser, at 0; and parts of a sample in which coefficients are kept.
const WIDTH: f32 = 0.625;
const PARTS: f32 = 32.0;
/// Of the transform's coefficients in those parts.
const NORM: u32 = 1024;
const NORMS: [u32; 16] = {
    let (even, mixed, odd) = (8192, 5181, 3277);
    [
        even, mixed, even, mixed, mixed, odd, mixed, odd, even, mixed, even, mixed, mixed, odd,
        mixed, odd,
    ]
};
/// No coefficient is larger, in those parts, than the sum of a block by this.
const AT_MOST: u32 = 13;
/// From one sample of a still macroblock to the next picture, in the mean.
const STILL: u32 = 1;
/// Bits, in the mean: of a coefficient, for each zero before it, and for each octave
/// of its size; of a block that has some, and has none where others have.
const BITS: (f32, f32, f32) = (2.2, 0.35, 2.0);
const BLOCK: (f32, f32) = (2.0, 1.0);
/// Of a macroblock that has some; of the blocks of chroma; of one chroma mean.
const CODED: f32 = 6.0;
const CHROMA: f32 = 2.0;
const MEAN: f32 = 5.0;
/// Means of chroma are added up by four, each with half its weight.
const MEANS: f32 = 0.7;
/// And of one that is elsewhere than its neighbours are, beside the vector's.
const VECTOR: f32 = 3.0;
/// What a coefficient of 1 counts by the zeros before it, and a larger one. Less
/// than so much in a quarter, in a macroblock and in its chroma is left out.
const COUNTS: [u32; 16] = [3, 2, 2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const LARGE: u32 = 9;
const LEAST: (u32, u32, u32) = (4, 6, 7);
/// Sum of differences that a vector has to spare.
const SPARED: u32 = 48;
/// Steps of the search for one.
const STEPS: u32 = 6;

/// Macroblocks of the largest picture that is measured: 640x480. One of 1280x720 takes 5
/// to 9 ms before it is coded, as much as the coding.
const MOST: usize = 1200;

const ZIGZAG: [usize; 16] = [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15];

/// Three planes, of which two have half the width and height.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a>(pub [Plane<'a>; 3]);

type Vector = (i32, i32);

/// What a macroblock would cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bits at each quantiser from the finest on.
    pub bits: [f32; CHOICES],
    /// Bits if it is given as it stands.
    pub least: f32,
    /// Where it has not changed since the picture before: the sum over its luma from
    /// how it stands.
    pub still: Option<u32>,
}

/// The macroblocks of one encoder's pictures.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    vectors: Vec<Vector>,
    columns: usize,
}

impl Costs {
    /// Pictures of this size are measured.
    pub fn take(width: usize, height: usize) -> bool {
        width.div_ceil(SIDE) * height.div_ceil(SIDE) <= MOST
    }

    /// Of each macroblock of `picture`, for the quantisers from `finest` on, where
    /// `decoded` is what the encoder has of the one before, and `before` is that as it
    /// was given. `None` if they do not fit each other.
    pub fn measure(
        &mut self,
        [picture, before, decoded]: [&Picture<'_>; 3],
        foresight: &Foresight,
        finest: i32,
    ) -> Option<Vec<Cost>> {
        let (width, height) = (picture.0[0].width, picture.0[0].height);
        for of in [picture, before, decoded] {
            of.fits(width, height)?;
        }
        self.columns = width.div_ceil(SIDE);
        let count = self.columns * height.div_ceil(SIDE);
        if !Self::take(width, height) {
            return None;
        }
        if self.vectors.len() != count {
            self.vectors = vec![(0, 0); count];
        }
        let steps = steps(finest);
        let all = (0..count).map(|at| {
            let (x, y) = (at % self.columns * SIDE, at / self.columns * SIDE);
            let [luma, old, stands] = [picture, before, decoded].map(|of| &of.0[0]);
            let area = (SIDE.min(width - x) * SIDE.min(height - y)) as u32;
            let still = luma.difference(old, (x, y), (0, 0)) < STILL * area;
            let vector = if still {
                (0, 0)
            } else {
                let shift = foresight.shift(x + HALF, y + HALF);
                self.search(luma, stands, at, shift)
            };
            self.vectors[at] = vector;
            let near = self.near(at);
            let moved = bits(vector.0 - near.0) + bits(vector.1 - near.1) + VECTOR;
            let least = if vector == near { 0.0 } else { moved };
            let residual = Residual::new([picture, decoded], (x, y), vector, steps[0]);
            let bits = steps.map(|step| match residual.bits(step) {
                0.0 => least,
                bits if still => bits + least,
                bits => bits + moved,
            });
            let still = still.then(|| luma.difference(stands, (x, y), (0, 0)));
            Cost { bits, least, still }
        });
        Some(all.collect())
    }

    fn search(&self, new: &Plane<'_>, old: &Plane<'_>, at: usize, shift: Vector) -> Vector {
        let (x, y) = (at % self.columns * SIDE, at / self.columns * SIDE);
        let left = !at.is_multiple_of(self.columns);
        let candidates = [
            shift,
            if left { self.vectors[at - 1] } else { (0, 0) },
            at.checked_sub(self.columns)
                .map_or((0, 0), |above| self.vectors[above]),
            self.vectors[at],
        ];
        let mut best = (new.difference(old, (x, y), (0, 0)), (0, 0));
        let consider = |vector: Vector, best: &mut (u32, Vector)| {
            if vector != best.1 {
                let sum = new.difference(old, (x, y), vector) + SPARED;
                if sum < best.0 {
                    *best = (sum, vector);
                }
            }
        };
        for candidate in candidates {
            consider(candidate, &mut best);
        }
        for _ in 0..STEPS {
            let from = best.1;
            for (dx, dy) in [(1, 0), (-1, 0), (0, 1), (0, -1)] {
                consider((from.0 + dx, from.1 + dy), &mut best);
            }
            if best.1 == from {
                break;
            }
        }
        best.1
    }

    /// The vector that a macroblock has for nothing.
    fn near(&self, at: usize) -> Vector {
        let (column, row) = (at % self.columns, at / self.columns);
        let left = if column > 0 {
            self.vectors[at - 1]
        } else {
            (0, 0)
        };
        if row == 0 {
            return left;
        }
        let above = self.vectors[at - self.columns];
        let right = if column + 1 < self.columns {
            self.vectors[at - self.columns + 1]
        } else {
            self.vectors[at - self.columns - usize::from(column > 0)]
        };
        let median = |a: i32, b: i32, c: i32| a.max(b).min(a.min(b).max(c));
        (
            median(left.0, above.0, right.0),
            median(left.1, above.1, right.1),
        )
    }
}

/// Of one part of a vector, in quarters of a sample.
fn bits(part: i32) -> f32 {
    let code = part.unsigned_abs().saturating_mul(8).saturating_add(1);
    (2 * code.ilog2() + 1) as f32
}

/// To divide by the width of a quantiser.
#[derive(Clone, Copy)]
struct Step {
    /// 65536 over the width, and what is added before.
    by: u16,
    rounds: u16,
    /// From here on a coefficient is not 0.
    least: u16,
}

impl Step {
    fn new(quantiser: i32) -> Self {
        let width = PARTS * WIDTH * (quantiser as f32 / 6.0).exp2();
        Self {
            by: (65536.0 / width).round() as u16,
            rounds: (ROUNDS * width) as u16,
            least: ((1.0 - ROUNDS) * width).ceil() as u16,
        }
    }

    fn level(self, coefficient: u16) -> u16 {
        let rounded = coefficient.saturating_add(self.rounds);
        ((u32::from(rounded) * u32::from(self.by)) >> 16) as u16
    }
}

/// The quantisers from `finest` on, of luma and of chroma.
fn steps(finest: i32) -> [(Step, Step); CHOICES] {
    std::array::from_fn(|choice| {
        let quantiser = (finest + choice as i32).clamp(0, COARSEST);
        (Step::new(quantiser), Step::new(of_chroma(quantiser)))
    })
}

/// Of a number above 0, to 0.09.
fn log2(number: u16) -> f32 {
    f32::from(number).to_bits() as f32 / (1u32 << 23) as f32 - 127.0
}

/// The quantiser of chroma (table 8-15).
const fn of_chroma(quantiser: i32) -> i32 {
    const COARSE: [i32; 22] = [
        29, 30, 31, 32, 32, 33, 34, 34, 35, 35, 36, 36, 37, 37, 37, 38, 38, 38, 39, 39, 39, 39,
    ];
    if quantiser < 30 {
        quantiser
    } else {
        COARSE[quantiser as usize - 30]
    }
}

/// The sizes of the coefficients of a block, in the order of the zigzag, and the
/// largest.
#[derive(Clone, Copy, Default)]
struct Block {
    coefficients: [u16; 16],
    /// So many of them are not 0 somewhere.
    some: usize,
    largest: u16,
}

/// A macroblock: blocks of luma, by quarters; of chroma without their means; and the
/// largest mean of each chroma.
struct Residual {
    luma: [Block; 16],
    chroma: [Block; 8],
    means: [u16; 2],
}

impl Residual {
    /// Coefficients that are 0 at the finest step may be left out.
    fn new(
        [new, old]: [&Picture<'_>; 2],
        (x, y): (usize, usize),
        by: Vector,
        finest: (Step, Step),
    ) -> Self {
        let mut luma = [Block::default(); 16];
        let differs = new.0[0].residual::<SIDE>(&old.0[0], (x, y), by);
        for (at, block) in luma.iter_mut().enumerate() {
            let column = at / 4 % 2 * 2 + at % 2;
            let row = at / 8 * 2 + at / 2 % 2;
            *block = Block::new(&differs, (4 * column, 4 * row), finest.0).0;
        }
        let (mut chroma, mut means) = ([Block::default(); 8], [0u16; 2]);
        let by = (by.0 / 2, by.1 / 2);
        for (plane, mean) in means.iter_mut().enumerate() {
            let (new, old) = (&new.0[plane + 1], &old.0[plane + 1]);
            let differs = new.residual::<HALF>(old, (x / 2, y / 2), by);
            for at in 0..4 {
                let place = (at % 2 * 4, at / 2 * 4);
                let (block, of) = Block::new(&differs, place, finest.1);
                chroma[plane * 4 + at] = block.without_mean();
                *mean = of.max(*mean);
            }
        }
        Self {
            luma,
            chroma,
            means,
        }
    }

    /// Without those of its vector.
    fn bits(&self, (step, of_chroma): (Step, Step)) -> f32 {
        let (mut luma, mut counted) = (0.0, 0);
        for quarter in self.luma.chunks(4) {
            let (bits, counts) = coded(quarter, step);
            counted += counts;
            if counts >= LEAST.0 {
                luma += bits;
            }
        }
        if counted < LEAST.1 {
            luma = 0.0;
        }
        let (mut chroma, counted) = coded(&self.chroma, of_chroma);
        chroma += CHROMA;
        if counted < LEAST.2 {
            chroma = 0.0;
        }
        let means = self.means.iter();
        let means = means.filter(|mean| f32::from(**mean) * MEANS >= f32::from(of_chroma.least));
        let all = luma + chroma + MEAN * means.count() as f32;
        if all > 0.0 { all + CODED } else { 0.0 }
    }
}

/// Bits of blocks, and what their coefficients count.
fn coded(blocks: &[Block], step: Step) -> (f32, u32) {
    let (mut bits, mut counts) = (0.0, 0);
    for block in blocks {
        if block.largest < step.least {
            bits += BLOCK.1;
            continue;
        }
        let mut zeros = 0;
        for one in &block.coefficients[..block.some] {
            let level = step.level(*one);
            if level == 0 {
                zeros += 1;
                continue;
            }
            counts += if level > 1 { LARGE } else { COUNTS[zeros] };
            bits += BITS.0 + BITS.1 * zeros as f32;
            if level > 1 {
                bits += BITS.2 * log2(level);
            }
            zeros = 0;
        }
        bits += BLOCK.0;
    }
    (bits, counts)
}

impl Block {
    /// Of a square of differences, and its mean.
    fn new<const N: usize>(
        differs: &[[i16; N]; N],
        (x, y): (usize, usize),
        finest: Step,
    ) -> (Self, u16) {
        let mut block = [0i32; 16];
        let mut sum = 0;
        for (row, four) in block.chunks_mut(4).enumerate() {
            for (to, from) in four.iter_mut().zip(&differs[y + row][x..x + 4]) {
                *to = i32::from(*from);
                sum += to.unsigned_abs();
            }
        }
        if sum * AT_MOST < u32::from(finest.least) {
            return (Self::default(), 0);
        }
        for row in 0..4 {
            pass(&mut block, row * 4, 1);
        }
        for column in 0..4 {
            pass(&mut block, column, 4);
        }
        let mut coefficients = [0; 16];
        for (to, from) in coefficients.iter_mut().zip(ZIGZAG) {
            *to = (block[from].unsigned_abs() * NORMS[from] / NORM) as u16;
        }
        let largest = coefficients.iter().copied().fold(0, u16::max);
        let last = coefficients.iter().rposition(|one| finest.level(*one) > 0);
        let block = Self {
            coefficients,
            some: last.map_or(0, |last| last + 1),
            largest,
        };
        (block, coefficients[0])
    }

    fn without_mean(mut self) -> Self {
        self.coefficients[0] = 0;
        self.largest = self.coefficients.iter().copied().fold(0, u16::max);
        self
    }
}

fn pass(block: &mut [i32; 16], first: usize, step: usize) {
    let at = [first, first + step, first + 2 * step, first + 3 * step];
    let [a, b, c, d] = at.map(|at| block[at]);
    let (sums, differences) = ((a + d, b + c), (a - d, b - c));
    block[at[0]] = sums.0 + sums.1;
    block[at[1]] = 2 * differences.0 + differences.1;
    block[at[2]] = sums.0 - sums.1;
    block[at[3]] = differences.0 - 2 * differences.1;
}

impl Picture<'_> {
    fn fits(&self, width: usize, height: usize) -> Option<()> {
        let halves = (width.div_ceil(2), height.div_ceil(2));
        for (plane, size) in self.0.iter().zip([(width, height), halves, halves]) {
            let needed = plane.stride.checked_mul(size.1.checked_sub(1)?)?;
            let enough = plane.data.len() >= needed.checked_add(size.0)?;
            let same = (plane.width, plane.height) == size && plane.stride >= size.0;
            (enough && same && size.0 > 0).then_some(())?;
        }
        Some(())
    }
}

impl Plane<'_> {
    /// What it has in a line from a place on that may be outside, where the border
    /// goes on.
    fn line<const N: usize>(&self, x: i32, y: i32, width: usize) -> [u8; N] {
        let y = usize::try_from(y).unwrap_or(0).min(self.height - 1);
        let row = &self.data[y * self.stride..][..self.width];
        let mut line = [0; N];
        let inside = usize::try_from(x).ok();
        if let Some(from) = inside.and_then(|x| row.get(x..x + width)) {
            line[..width].copy_from_slice(from);
        } else {
            for (column, to) in line[..width].iter_mut().enumerate() {
                let x = usize::try_from(x + column as i32).unwrap_or(0);
                *to = row[x.min(self.width - 1)];
            }
        }
        line
    }

    /// Of a macroblock, from another picture's that is elsewhere.
    fn residual<const N: usize>(
        &self,
        old: &Plane<'_>,
        (x, y): (usize, usize),
        (dx, dy): Vector,
    ) -> [[i16; N]; N] {
        let mut differs = [[0; N]; N];
        let width = N.min(self.width.saturating_sub(x));
        for (row, line) in (y..self.height).zip(&mut differs) {
            let new = self.line::<N>(x as i32, row as i32, width);
            let old = old.line::<N>(x as i32 + dx, row as i32 + dy, width);
            for ((to, new), old) in line.iter_mut().zip(new).zip(old) {
                *to = i16::from(new) - i16::from(old);
            }
        }
        differs
    }

    /// Sum over a macroblock from another picture's that is elsewhere.
    fn difference(&self, old: &Plane<'_>, (x, y): (usize, usize), (dx, dy): Vector) -> u32 {
        let (from_x, from_y) = (x as i32 + dx, y as i32 + dy);
        let whole = self.inside(x as i32, y as i32) && old.inside(from_x, from_y);
        if whole {
            let new = &self.data[y * self.stride + x..];
            let old_at = from_y as usize * old.stride + from_x as usize;
            let old_rows = &old.data[old_at..];
            let mut sum = 0;
            for row in 0..SIDE {
                sum += row_difference(&new[row * self.stride..], &old_rows[row * old.stride..]);
            }
            return sum;
        }
        let width = SIDE.min(self.width - x);
        let rows = y..self.height.min(y + SIDE);
        let sums = rows.map(|row| {
            let new = self.line::<SIDE>(x as i32, row as i32, width);
            let old = old.line::<SIDE>(from_x, row as i32 + dy, width);
            row_difference(&new, &old)
        });
        sums.sum()
    }

    /// A macroblock at (x, y) is.
    fn inside(&self, x: i32, y: i32) -> bool {
        let inside = |at: i32, size: usize| at >= 0 && at as usize + SIDE <= size;
        inside(x, self.width) && inside(y, self.height)
    }
}

#[inline]
fn row_difference(new: &[u8], old: &[u8]) -> u32 {
    let mut sum = 0;
    for (a, b) in new[..SIDE].iter().zip(&old[..SIDE]) {
        sum += u32::from(a.abs_diff(*b));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: (usize, usize) = (64, 48);

    /// Grey noise that lies still, seen from a place.
    fn texture((width, height): (usize, usize), (left, top): (usize, usize)) -> Vec<u8> {
        let at = |x: usize, y: usize| {
            let seed = ((x + left) * 7919 + (y + top) * 104_729) as u64;
            let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            96 + (mixed >> 58) as u8
        };
        let luma = (0..width * height).map(|n| at(n % width, n / width));
        let chroma = vec![128; 2 * width.div_ceil(2) * height.div_ceil(2)];
        luma.chain(chroma).collect()
    }

    fn picture(data: &[u8], (width, height): (usize, usize)) -> Picture<'_> {
        let half = (width.div_ceil(2), height.div_ceil(2));
        let (luma, chroma) = data.split_at(width * height);
        let (blue, red) = chroma.split_at(half.0 * half.1);
        let plane = |data, (width, height)| Plane {
            data,
            stride: width,
            width,
            height,
        };
        Picture([
            plane(luma, (width, height)),
            plane(blue, half),
            plane(red, half),
        ])
    }

    fn measured(size: (usize, usize), pictures: [&[u8]; 3]) -> Option<Vec<Cost>> {
        let [new, before, decoded] = pictures.map(|data| picture(data, size));
        Costs::default().measure([&new, &before, &decoded], &Foresight::default(), 20)
    }

    #[test]
    fn what_stands_as_it_is_costs_nothing() {
        let same = texture(WIDE, (0, 0));
        let costs = measured(WIDE, [&same, &same, &same]).expect("they fit");
        assert_eq!(costs.len(), 12);
        for cost in costs {
            assert_eq!((cost.bits, cost.still), ([0.0; CHOICES], Some(0)));
        }
    }

    #[test]
    fn pictures_that_would_be_held_up_for_too_long_are_not_measured() {
        assert!(Costs::take(640, 480) && !Costs::take(1280, 720));
        let large = texture((656, 480), (0, 0));
        assert_eq!(measured((656, 480), [&large; 3]), None);
    }

    #[test]
    fn detail_costs_more_the_finer_the_quantiser() {
        let same = texture(WIDE, (0, 0));
        let mut flat = same.clone();
        flat[..WIDE.0 * WIDE.1].fill(128);
        for cost in measured(WIDE, [&same, &same, &flat]).expect("they fit") {
            assert!(cost.bits.windows(2).all(|two| two[0] > two[1]), "{cost:?}");
            // 256 coefficients of some 18 each, in steps of 6.3: two or three bits.
            assert!((500.0..2000.0).contains(&cost.bits[0]), "{cost:?}");
            let still = cost.still.expect("it has not changed");
            assert!(still > 256 * 5, "{cost:?}");
        }
    }

    #[test]
    fn what_moves_is_found_again() {
        let (old, new) = (texture(WIDE, (0, 0)), texture(WIDE, (1, 0)));
        let other = texture(WIDE, (300, 200));
        let sum = |decoded: &[u8]| {
            let costs = measured(WIDE, [&new, &old, decoded]).expect("they fit");
            assert!(costs.iter().all(|cost| cost.still.is_none()));
            costs.iter().map(|cost| cost.bits[0]).sum::<f32>()
        };
        // But for the last column, of which a line comes in.
        let (found, lost) = (sum(&old), sum(&other));
        assert!(found < 0.4 * lost, "{found}, {lost}");
    }

    #[test]
    fn no_size_panics() {
        for size in [(1, 1), (17, 9), (16, 33), (40, 8)] {
            let data = [texture(size, (0, 0)), texture(size, (9, 1))];
            let costs = measured(size, [&data[1], &data[0], &data[1]]);
            let count = size.0.div_ceil(16) * size.1.div_ceil(16);
            assert_eq!(costs.map(|costs| costs.len()), Some(count), "{size:?}");
        }
        let (large, small) = (texture(WIDE, (0, 0)), texture((16, 16), (0, 0)));
        let (large, small) = (picture(&large, WIDE), picture(&small, (16, 16)));
        let mut costs = Costs::default();
        let none = costs.measure([&large, &large, &small], &Foresight::default(), 20);
        assert_eq!(none, None);
        let huge = (1040, 1024);
        let data = vec![0; 1040 * 1024 * 3 / 2];
        assert_eq!(measured(huge, [&data; 3]), None, "4160 macroblocks");
        let empty = picture(&[], (0, 0));
        let none = costs.measure([&empty; 3], &Foresight::default(), 51);
        assert_eq!(none, None);
    }
}
