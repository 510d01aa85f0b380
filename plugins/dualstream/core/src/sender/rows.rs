// SPDX-License-Identifier: MPL-2.0
//! openh264's own way through a picture, kept along: which quantiser its rows will
//! get for how many bits, and what they will come to. With it the bits to allow for a
//! picture are chosen such that it comes near what is wanted, and is not too large
//! even where some rows cost less than thought, so that those after them are coded
//! finer, and dearer. Where it would be too large then, what stands still is let be.
//!
//! Read in openh264 2.3.1 (codec/encoder/core/src/ratectl.cpp: RcCalculatePictureQp,
//! RcGomTargetBits, RcCalculateGomQp, RcUpdateFrameComplexity), for one slice,
//! `rate-control=quality` and one temporal layer.

mod forecast;
mod measured;

use super::costs::{CHOICES, Cost};
use crate::macroblocks::Macroblock;
use measured::Measured;

/// Rows of macroblocks that get one quantiser (GOM): one where the picture is at
/// most this wide (in macroblocks), or two.
const NARROW: usize = 30;
/// The finest and the coarsest quantiser, and how far it may go from the mean of the
/// picture before.
const LIMITS: (i32, i32) = (12, 51);
const REACH: (i32, i32) = (3, 5);
const _: () = assert!((REACH.0 + REACH.1) as usize + 1 == CHOICES);
/// A picture that differs more or less from the one before than usual is taken to
/// cost more or less, by a fifth at most.
const DIFFERS: (f64, f64) = (0.8, 1.2);
/// Weight of a new picture in what the encoder takes pictures to cost.
const ENCODER_GAIN: f64 = 0.2;
/// After pictures that could not be read the encoder's idea of the cost is that of
/// those after them, to 3 %.
const SETTLED: u32 = 16;

/// Bits added to all sizes, so that nothing is rare and not impossible.
const SOME: f64 = 100.0;
/// Bits of a slice header and what is not of rows.
const HEADER: f64 = 80.0;
/// Octaves that rows grow with a quantiser one step finer, and shrink with one
/// coarser, at first; and what of an error is learnt by each.
const FINER: f64 = 0.75;
const COARSER: f64 = 0.5;
const SLOPES: (f64, f64) = (0.2, 1.2);
const LEARN: f64 = 0.01;
/// Octaves by each octave of the difference from the picture before, of which a
/// sample's worth of noise is let be (sum over a row of macroblocks 640 wide: 1000).
const DIFFERENCE: f64 = 0.35;
const NOISE: f64 = 1.0 / 10.0;
/// This part of an error is taken for chance, and not for what comes next.
const CHANCE: f64 = 0.35;
/// What was left coarse is coded when the quantiser goes finer than that: so many
/// bits for each step and macroblock, at first; what is learnt of each that is seen;
/// and how soon rows that are coded coarser have become so.
const DETAIL: f64 = 12.0;
const DETAIL_GAIN: f64 = 0.3;
const DETAIL_LOST: f64 = 0.2;

/// From this size on, in shares, what may come of a picture weighs so much more than
/// a difference from what is wanted.
const LARGE: (f64, f64) = (1.35, 10.0);
/// Where so many shares are left over all is taken to be as it is thought.
const BRAVE: f64 = 1.0;
/// Of a share, what may be aimed at: from, to, by.
const AIMS: (f64, f64, f64) = (0.2, 1.5, 0.05);

/// So often it is looked for macroblocks to let be in a picture.
const HOLDS: usize = 12;

/// The rows of one quantiser.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// Octaves of bits at that quantiser, without detail; the quantiser.
    level: f64,
    quantiser: i32,
    /// How coarse what stands in the picture is: a quantiser.
    stands: f64,
    /// Bits for each step finer than that.
    detail: f64,
    /// Sum of the differences from the picture before, of the next and the newest.
    differs: f64,
    differed: f64,
    /// Octaves that it costs more than is measured.
    more: f64,
}

/// The forecast of one encoder.
#[derive(Clone, Debug)]
pub struct Rows {
    groups: Vec<Group>,
    /// Differences of the next picture.
    rows: Vec<u32>,
    /// Macroblocks of the next picture.
    measured: Measured,
    /// As the encoder has them: bits times width of the quantiser, and the sum of
    /// the differences, of the pictures before; and the mean quantiser of the newest.
    cost: f64,
    differed: f64,
    mean: i32,
    /// Pictures read.
    read: u32,
    /// Pictures that have to be.
    needed: u32,
    finer: f64,
    coarser: f64,
    /// Macroblocks of a group.
    macroblocks: usize,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            rows: Vec::new(),
            measured: Measured::default(),
            cost: 0.0,
            differed: 0.0,
            mean: 0,
            read: 0,
            needed: 1,
            finer: FINER,
            coarser: COARSER,
            macroblocks: 0,
        }
    }
}

/// Bits of the groups for each quantiser from the finest on that they may have.
type Costs = Vec<[f64; CHOICES]>;

/// A way through the picture.
struct Way {
    start: i32,
    range: (i32, i32),
    aim: f64,
}

impl Way {
    /// The bits of the picture. `costs` are those of a group.
    fn bits(&self, groups: usize, mut costs: impl FnMut(usize, usize) -> f64) -> f64 {
        let (mut quantiser, mut spent, mut part, mut newest) = (self.start, 0.0, 0.0, 0.0);
        for group in 0..groups {
            let left = self.aim - spent;
            if group > 0 {
                let change = step(left, left + newest - part);
                quantiser = (quantiser + change).clamp(self.range.0, self.range.1);
            }
            part = if group + 1 >= groups {
                left.max(0.0)
            } else {
                left.max(0.0) / (groups - 1 - group) as f64
            };
            newest = costs(
                group,
                usize::try_from(quantiser - self.range.0).unwrap_or(0),
            );
            spent += newest;
        }
        spent + HEADER
    }
}

/// Of the quantiser, from what is left and what was to be.
fn step(left: f64, planned: f64) -> i32 {
    if left <= 0.0 || planned <= 0.0 {
        return 2;
    }
    match left / planned {
        ratio if ratio < 0.8409 => 2,
        ratio if ratio < 0.9439 => 1,
        ratio if ratio > 1.06 => -1,
        _ => 0,
    }
}

/// Width of a quantiser, as the encoder rounds it.
fn width(quantiser: i32) -> f64 {
    (100.0 * (f64::from(quantiser - 4) / 6.0).exp2()).round()
}

/// Of rows of macroblocks by groups of so many macroblocks: two rows, if that is
/// more than one has that is narrow.
fn group_sums(rows: &[u32], macroblocks: usize) -> Vec<f64> {
    let per_group = if macroblocks > 2 * NARROW { 2 } else { 1 };
    let groups = rows.chunks(per_group);
    let sums = groups.map(|rows| rows.iter().map(|sum| f64::from(*sum)).sum());
    sums.collect()
}

impl Rows {
    /// How much each row of macroblocks of the next picture differs from the newest
    /// one: the sum over its luma. Empty if that is not known.
    pub fn differ(&mut self, rows: &[u32]) {
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        let sums = group_sums(rows, self.macroblocks);
        let known = sums.len() == self.groups.len();
        for (at, group) in self.groups.iter_mut().enumerate() {
            group.differs = if known { sums[at] } else { group.differed };
        }
    }

    /// The bits to allow, so that about `wanted` come; `None` if too little is known.
    /// With `over` shares left over more is dared.
    pub fn aim(&mut self, wanted: f64, share: f64, over: f64) -> Option<f64> {
        if self.read < self.needed || self.groups.is_empty() || share <= 0.0 {
            return None;
        }
        let care = (1.0 - over / BRAVE).clamp(0.0, 1.0);
        let mut aim = self.choose(wanted, share, care);
        for _ in 0..HOLDS {
            if !self.hold(aim, share) {
                break;
            }
            aim = self.choose(wanted, share, care);
        }
        Some(aim)
    }

    fn choose(&self, wanted: f64, share: f64, care: f64) -> f64 {
        let range = self.reach();
        let forecast = self.forecast(care, 0.0);
        let mut best = (f64::MAX, wanted);
        let steps = ((AIMS.1 - AIMS.0) / AIMS.2).round() as u32;
        for aim in (0..=steps).map(|n| share * (AIMS.0 + f64::from(n) * AIMS.2)) {
            let start = self.start(aim).clamp(range.0, range.1);
            let way = Way { start, range, aim };
            let thought = &forecast.thought;
            let size = way.bits(thought.len(), |group, choice| thought[group][choice]);
            let worst = forecast.worst(&way).0;
            let off = (size - wanted) / share;
            let large = (worst / share - LARGE.0).max(0.0);
            let bad = off * off + LARGE.1 * large * large;
            if bad < best.0 {
                best = (bad, aim);
            }
        }
        best.1
    }

    /// The quantisers that the next picture may have.
    pub fn reach(&self) -> (i32, i32) {
        let finest = (self.mean - REACH.0).max(LIMITS.0);
        (finest, (self.mean + REACH.1).min(LIMITS.1))
    }

    /// The quantiser that the first rows get, if it is not out of reach.
    fn start(&self, aim: f64) -> i32 {
        let differs = self.differs();
        let ratio = if self.differed > 0.0 && differs > 0.0 {
            (differs / self.differed).clamp(DIFFERS.0, DIFFERS.1)
        } else {
            1.0
        };
        let width = self.cost * (ratio * 100.0).round() / 100.0 / aim.max(1.0);
        // As the encoder has it: 0.63 and below is the finest.
        (6.0 * (width.max(63.0) / 100.0).log2() + 4.0).round() as i32
    }

    /// 0: unknown.
    fn differs(&self) -> f64 {
        self.rows.iter().map(|sum| f64::from(*sum)).sum()
    }

    /// With so many octaves more, and so many for each finer step, and detail so many
    /// times as dear.
    fn costs(&self, more: f64, finer: f64, detail: f64) -> Costs {
        let finest = self.reach().0;
        let costs = self.groups.iter().enumerate().map(|(at, group)| {
            let measured = self.measured.of(at, group, finest);
            std::array::from_fn(|choice| {
                let quantiser = finest + choice as i32;
                let steps = f64::from((group.quantiser - quantiser).clamp(0, 2));
                let more = more + finer * steps;
                if let Some((base, fresh)) = measured.map(|all| all[choice]) {
                    return base * more.exp2() + fresh * detail;
                }
                let octaves = self.octaves(group, quantiser) + more;
                let base = (octaves.exp2() - SOME).max(0.0);
                base + group.detail * detail * group.fresh(quantiser)
            })
        });
        costs.collect()
    }

    /// Of the bits of a group without detail.
    fn octaves(&self, group: &Group, quantiser: i32) -> f64 {
        let steps = f64::from(group.quantiser - quantiser);
        let slope = if steps > 0.0 {
            self.finer
        } else {
            self.coarser
        };
        let noise = (self.macroblocks * 256) as f64 * NOISE;
        let differs = ((group.differs + noise) / (group.differed + noise)).log2();
        group.level + steps * slope + differs * DIFFERENCE
    }

    /// What became of the picture of `bits`, that is so many macroblocks wide.
    pub fn coded(&mut self, bits: f64, picture: &[Macroblock], width: usize) {
        let Some(first) = picture.first() else {
            return self.lost();
        };
        let rows = if width > NARROW { 2 } else { 1 };
        let size = (width * rows).max(1);
        let finest = self.reach().0;
        let (sum, count) = picture
            .iter()
            .filter(|macroblock| macroblock.bits > 0)
            .fold((0.0, 0u32), |(sum, count), macroblock| {
                (sum + f64::from(macroblock.quantiser), count + 1)
            });
        self.mean = if count > 0 {
            (sum / f64::from(count)).round() as i32
        } else {
            i32::from(first.quantiser)
        };
        let groups = picture.chunks(size).map(|group| {
            let bits = group.iter().map(|m| f64::from(m.bits)).sum::<f64>();
            let quantiser = group.last().map_or(0, |m| i32::from(m.quantiser));
            (bits, quantiser)
        });
        let groups: Vec<(f64, i32)> = groups.collect();
        self.learn_measured(&groups, size, finest);
        self.learn(bits, &groups, size);
        let cost = bits * self::width(self.mean);
        let differed = self.differs();
        if self.read == 0 {
            (self.cost, self.differed) = (cost, differed);
        }
        self.cost += (cost - self.cost) * ENCODER_GAIN;
        self.differed = (self.differed + (differed - self.differed) * ENCODER_GAIN).round();
        self.read = self.read.saturating_add(1);
    }

    fn learn(&mut self, bits: f64, groups: &[(f64, i32)], size: usize) {
        if self.groups.len() != groups.len() || self.macroblocks != size {
            self.macroblocks = size;
            let sums = group_sums(&self.rows, size);
            let new = groups.iter().enumerate().map(|(at, (bits, quantiser))| {
                let differed = sums.get(at).copied().unwrap_or(0.0);
                Group {
                    level: (bits + SOME).log2(),
                    quantiser: *quantiser,
                    stands: f64::from(*quantiser),
                    detail: DETAIL * size as f64,
                    differs: differed,
                    differed,
                    more: 0.0,
                }
            });
            self.groups = new.collect();
            return;
        }
        for (at, (size, quantiser)) in groups.iter().enumerate() {
            let mut group = self.groups[at];
            let octaves = self.octaves(&group, *quantiser);
            let rest = group.split(octaves, *size, *quantiser);
            let error = ((rest + SOME).log2() - octaves).clamp(-3.0, 3.0);
            let steps = f64::from(group.quantiser - quantiser);
            if group.fresh(*quantiser) == 0.0 {
                let weight = (4.0 * rest.max(octaves.exp2()) / bits.max(1.0)).min(1.0);
                let learnt = LEARN * weight * error.clamp(-1.0, 1.0) * steps;
                let slope = if steps > 0.0 {
                    &mut self.finer
                } else {
                    &mut self.coarser
                };
                *slope = (*slope + learnt).clamp(SLOPES.0, SLOPES.1);
            }
            group.level = (rest + SOME).log2() - CHANCE * error;
            group.quantiser = *quantiser;
            group.differed = group.differs;
            let coarser = f64::from(*quantiser) - group.stands;
            group.stands += coarser * if coarser > 0.0 { DETAIL_LOST } else { 1.0 };
            self.groups[at] = group;
        }
    }

    /// A key frame with this quantiser.
    pub fn key(&mut self, quantiser: Option<f64>) {
        self.groups.clear();
        self.measured = Measured::default();
        match quantiser {
            Some(quantiser) => self.mean = quantiser.round() as i32,
            None => self.lost(),
        }
    }

    /// A picture that could not be read.
    pub fn lost(&mut self) {
        *self = Self {
            needed: SETTLED,
            ..Self::default()
        };
    }
}

impl Group {
    /// Steps that a quantiser is finer than what stands.
    fn fresh(&self, quantiser: i32) -> f64 {
        (self.stands - f64::from(quantiser)).max(0.0)
    }

    /// What of its bits was not detail, of which it learns.
    fn split(&mut self, octaves: f64, bits: f64, quantiser: i32) -> f64 {
        let fresh = self.fresh(quantiser);
        if fresh == 0.0 {
            return bits;
        }
        let base = (octaves.exp2() - SOME).max(0.0);
        let detail = self.detail * fresh;
        let more = bits - base - detail;
        let certain = if fresh > 0.3 { 0.7 } else { 0.0 };
        let part = (detail / (base + detail + 1.0)).max(certain);
        let seen = (detail + more * part).max(0.0);
        if fresh > 0.3 {
            self.detail += (seen / fresh - self.detail) * DETAIL_GAIN * fresh.min(1.0);
        }
        (base + more * (1.0 - part)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 40;
    const GROUPS: usize = 12;
    const SHARE: f64 = 20_000.0;

    /// Twelve groups of two rows: bits at quantiser 26, which double for each three
    /// steps finer.
    struct Encoder {
        bits: [f64; GROUPS],
        rows: Rows,
        cost: f64,
        mean: i32,
    }

    impl Encoder {
        fn new(bits: [f64; GROUPS]) -> Self {
            let (rows, cost, mean) = (Rows::default(), SHARE * width(26), 26);
            Self {
                bits,
                rows,
                cost,
                mean,
            }
        }

        /// A picture, as openh264 codes it; its size in shares.
        fn code(&mut self, aim: f64) -> f64 {
            let start = (self.cost / aim / 100.0).log2() * 6.0 + 4.0;
            let range = (self.mean - REACH.0, self.mean + REACH.1);
            let start = (start.round() as i32).clamp(range.0, range.1);
            let mut picture = Vec::new();
            let way = Way { start, range, aim };
            let path = std::cell::RefCell::new(Vec::new());
            way.bits(GROUPS, |group, choice| {
                let quantiser = range.0 + choice as i32;
                let bits = self.bits[group] * (f64::from(26 - quantiser) / 3.0).exp2();
                path.borrow_mut().push((bits, quantiser));
                bits
            });
            for (bits, quantiser) in path.into_inner() {
                let each = Macroblock {
                    bits: (bits / (2 * WIDTH) as f64).ceil() as u32,
                    quantiser: quantiser as u8,
                };
                picture.extend([each; 2 * WIDTH]);
            }
            let size = HEADER + picture.iter().map(|m| f64::from(m.bits)).sum::<f64>();
            self.rows.coded(size, &picture, WIDTH);
            self.mean = self.rows.mean;
            self.cost += (size * width(self.mean) - self.cost) * ENCODER_GAIN;
            size / SHARE
        }
    }

    fn even() -> [f64; GROUPS] {
        [SHARE / GROUPS as f64; GROUPS]
    }

    #[test]
    fn even_rows_come_to_what_is_wanted() {
        let mut encoder = Encoder::new(even());
        assert_eq!(
            encoder.rows.aim(SHARE, SHARE, 0.0),
            None,
            "nothing is known"
        );
        encoder.code(SHARE);
        for n in 0..20 {
            let wanted = if n % 2 == 0 { 0.8 } else { 1.1 };
            let aim = encoder.rows.aim(wanted * SHARE, SHARE, 0.0);
            let size = encoder.code(aim.expect("known"));
            assert!((size - wanted).abs() < 0.2, "{n}: {size} for {wanted}");
        }
    }

    /// The rows at the bottom are half of the picture, and those before them let the
    /// quantiser sink.
    #[test]
    fn heavy_rows_at_the_bottom_are_allowed_less() {
        let mut bits = [SHARE * 0.045; GROUPS];
        bits[10] = SHARE * 0.5;
        let mut blind = Encoder::new(bits);
        let mut largest = [0.0f64; 2];
        let mut sum = 0.0;
        let mut encoder = Encoder::new(bits);
        for n in 0..60 {
            let aim = encoder.rows.aim(SHARE, SHARE, 0.0).unwrap_or(SHARE);
            let sizes = [encoder.code(aim), blind.code(SHARE)];
            if n >= 10 {
                sum += sizes[0];
                for (largest, size) in largest.iter_mut().zip(sizes) {
                    *largest = largest.max(size);
                }
            }
        }
        assert!(largest[0] < 1.3, "{largest:?}");
        assert!(largest[1] > largest[0] + 0.2, "{largest:?}");
        let mean = sum / 50.0;
        assert!((0.85..1.1).contains(&mean), "{mean}");
    }

    #[test]
    fn a_picture_that_cannot_be_read_costs_sixteen() {
        let mut encoder = Encoder::new(even());
        encoder.code(SHARE);
        assert!(encoder.rows.aim(SHARE, SHARE, 0.0).is_some());
        encoder.rows.lost();
        for n in 0..SETTLED {
            assert_eq!(encoder.rows.aim(SHARE, SHARE, 0.0), None, "{n}");
            encoder.code(SHARE);
        }
        assert!(encoder.rows.aim(SHARE, SHARE, 0.0).is_some());
    }

    #[test]
    fn no_picture_panics() {
        let mut rows = Rows::default();
        let one = |bits, quantiser| Macroblock { bits, quantiser };
        for (size, picture, width) in [
            (0.0, vec![], 0),
            (1e18, vec![one(u32::MAX, 51); 7], 3),
            (8.0, vec![one(0, 0)], 0),
            (8.0, vec![one(1, 0); 64], 31),
            (f64::from(u32::MAX), vec![one(u32::MAX, 51); 64], 31),
        ] {
            for _ in 0..3 {
                rows.coded(size, &picture, width);
                for sums in [&[][..], &[0, 0, 0], &[u32::MAX; 64]] {
                    rows.differ(sums);
                    let aim = rows.aim(SHARE, SHARE, 0.3).unwrap_or(SHARE);
                    assert!((0.1..=2.0).contains(&(aim / SHARE)), "{aim}");
                }
            }
            rows.key(Some(51.0));
            assert_eq!(rows.aim(SHARE, SHARE, 0.0), None, "no rows yet");
            assert_eq!(rows.aim(SHARE, 0.0, 0.0), None);
        }
    }
}
