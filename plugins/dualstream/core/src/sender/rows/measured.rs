// SPDX-License-Identifier: MPL-2.0
//! What the macroblocks of a picture would cost, measured against how they stand in
//! the encoder, and which of them are let be so that no rows can become too dear.

use super::{CHOICES, Cost, Group, Rows, SOME, Way};

/// Shares that a picture may come to in the worst case; above that macroblocks are
/// let be.
const LIMIT: f64 = 1.2;
/// Octaves that rows are taken to be dearer than otherwise.
const DEARER: f64 = 0.1;
/// A macroblock is let be in so many pictures one after the other at most.
const PATIENCE: u8 = 8;
/// One that costs so many bits more than if it were let be is worth it.
const WORTH: f32 = 3.0;
/// What is learnt of how much more than measured a group cost; and how much of that
/// goes for what becomes finer than it stands.
const LEARN: f64 = 0.5;
const FRESH: f64 = 0.3;
/// Octaves that are learnt of one picture at most.
const MOST: f64 = 3.0;

#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    all: Vec<Cost>,
    /// Of groups.
    sums: Vec<[f64; CHOICES]>,
    held: Vec<usize>,
    /// Pictures in which each was let be, one after the other.
    waits: Vec<u8>,
    /// Groups of which nothing more can be let be.
    done: Vec<bool>,
}

impl Measured {
    pub(super) const fn known(&self) -> bool {
        !self.sums.is_empty()
    }

    /// Of a group, at each choice: bits at what stands or coarser, and what comes to
    /// them for what is finer.
    pub(super) fn of(
        &self,
        at: usize,
        group: &Group,
        finest: i32,
    ) -> Option<[(f64, f64); CHOICES]> {
        let sums = self.sums.get(at)?;
        let stands = (group.stands.round() as i32 - finest).clamp(0, CHOICES as i32 - 1);
        let (more, fresh) = (group.more.exp2(), (group.more * FRESH).exp2());
        Some(std::array::from_fn(|choice| {
            let base = sums[choice.max(stands as usize)];
            (base * more, (sums[choice] - base).max(0.0) * fresh)
        }))
    }

    fn forget(&mut self) {
        self.all.clear();
        self.sums.clear();
        self.held.clear();
    }

    /// Lets macroblocks of a group be that is thought to cost so many bits, until it is
    /// `excess` less.
    fn let_be(&mut self, group: usize, (choice, bits): (usize, f64), mut excess: f64, size: usize) {
        let first = group * size;
        let last = (first + size).min(self.all.len());
        let mut candidates = Vec::new();
        for at in first..last {
            let cost = &self.all[at];
            let saved = cost.bits[choice] - cost.least;
            let patient = self.waits[at] < PATIENCE && !self.held.contains(&at);
            if let Some(error) = cost.still.filter(|_| patient && saved > WORTH) {
                candidates.push((error as f32 / saved, at));
            }
        }
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let scale = bits / self.sums[group][choice].max(1.0);
        self.done[group] = true;
        for (_, at) in candidates {
            if excess <= 0.0 {
                self.done[group] = false;
                break;
            }
            self.held.push(at);
            let cost = self.all[at];
            for (sum, bits) in self.sums[group].iter_mut().zip(cost.bits) {
                *sum -= f64::from((bits - cost.least).max(0.0));
            }
            excess -= f64::from(cost.bits[choice] - cost.least) * scale;
        }
    }
}

impl Rows {
    /// What the macroblocks of the next picture would cost from the finest quantiser
    /// of [`Self::reach`] on. Empty if that is not known.
    pub fn measured(&mut self, costs: Vec<Cost>) {
        let size = self.macroblocks.max(1);
        let measured = &mut self.measured;
        measured.forget();
        if costs.len().div_ceil(size) != self.groups.len() || costs.is_empty() {
            return;
        }
        let sums = costs.chunks(size).map(|group| {
            std::array::from_fn(|choice| {
                group.iter().map(|cost| f64::from(cost.bits[choice])).sum()
            })
        });
        measured.sums = sums.collect();
        measured.done = vec![false; self.groups.len()];
        measured.waits.resize(costs.len(), 0);
        measured.all = costs;
    }

    /// The macroblocks of the next picture to let be, by their number.
    pub fn held(&self) -> &[usize] {
        &self.measured.held
    }

    /// Lets macroblocks be in the group that is the dearest in the worst case of this
    /// aim, if that is too large; `false`: nothing has changed.
    pub(super) fn hold(&mut self, aim: f64, share: f64) -> bool {
        if !self.measured.known() {
            return false;
        }
        let range = self.reach();
        let start = self.start(aim).clamp(range.0, range.1);
        let (bits, path) = self
            .forecast(1.0, DEARER)
            .worst_way(&Way { start, range, aim });
        let excess = bits - LIMIT * share;
        if excess <= 0.0 {
            return false;
        }
        let left = path
            .iter()
            .enumerate()
            .filter(|(at, _)| !self.measured.done[*at]);
        let dearest = left.max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let Some((group, dearest)) = dearest else {
            return false;
        };
        let size = self.macroblocks;
        self.measured.let_be(group, *dearest, excess, size);
        true
    }

    /// What became of the groups' bits and quantisers.
    pub(super) fn learn_measured(&mut self, groups: &[(f64, i32)], size: usize, finest: i32) {
        let measured = &mut self.measured;
        if size == self.macroblocks && groups.len() == self.groups.len() {
            let all = measured.sums.iter().zip(groups).zip(&mut self.groups);
            for ((sums, (bits, quantiser)), group) in all {
                let choice = (quantiser - finest).clamp(0, CHOICES as i32 - 1) as usize;
                let octaves = ((bits + SOME) / (sums[choice] + SOME)).log2();
                group.more += (octaves.clamp(-MOST, MOST) - group.more) * LEARN;
            }
        }
        for (at, wait) in measured.waits.iter_mut().enumerate() {
            let held = measured.held.contains(&at);
            *wait = if held { wait.saturating_add(1) } else { 0 };
        }
        measured.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::macroblocks::Macroblock;

    const GROUPS: usize = 12;
    /// Macroblocks of a group of two rows.
    const SIZE: usize = 80;
    const SHARE: f64 = 20_000.0;

    /// After two even pictures at quantiser 26.
    fn rows() -> Rows {
        let bits = (SHARE / (GROUPS * SIZE) as f64) as u32;
        let each = Macroblock {
            bits,
            quantiser: 26,
        };
        let mut rows = Rows::default();
        for _ in 0..2 {
            rows.coded(SHARE, &[each; GROUPS * SIZE], SIZE / 2);
        }
        rows
    }

    /// Even, but for one group that is so many times as dear where it is finer than it
    /// stands.
    fn costs(rows: &Rows, dear: f32, still: Option<u32>) -> Vec<Cost> {
        let mean = (SHARE / (GROUPS * SIZE) as f64) as f32;
        let finest = rows.reach().0;
        let cost = |at: usize| {
            let bits = std::array::from_fn(|choice| {
                let finer = 26 - finest - choice as i32;
                let more = if at / SIZE == 10 && finer > 0 {
                    dear
                } else {
                    1.0
                };
                mean * more * (finer as f32 / 6.0).exp2()
            });
            Cost {
                bits,
                least: 0.0,
                still,
            }
        };
        (0..GROUPS * SIZE).map(cost).collect()
    }

    /// Where a share is aimed at.
    fn held(rows: &mut Rows, dear: f32, still: Option<u32>) -> Vec<usize> {
        let all = costs(rows, dear, still);
        rows.measured(all);
        for _ in 0..2 * GROUPS {
            if !rows.hold(SHARE, SHARE) {
                break;
            }
        }
        rows.held().to_vec()
    }

    #[test]
    fn what_is_dear_and_stands_still_is_let_be() {
        let mut rows = rows();
        let all = costs(&rows, 1.0, Some(300));
        rows.measured(all);
        assert!(rows.aim(SHARE, SHARE, 0.0).is_some());
        assert_eq!(rows.held(), &[] as &[usize], "even");
        let worst = |rows: &Rows| {
            let range = rows.reach();
            let start = rows.start(SHARE).clamp(range.0, range.1);
            let aim = SHARE;
            let way = Way { start, range, aim };
            rows.forecast(1.0, DEARER).worst(&way).0 / SHARE
        };
        assert_eq!(held(&mut rows, 40.0, None), Vec::new(), "it moves");
        assert!(worst(&rows) > 1.5, "{}", worst(&rows));
        let some = held(&mut rows, 40.0, Some(300));
        assert!(worst(&rows) <= LIMIT, "{}", worst(&rows));
        let inside = some.iter().filter(|at| **at / SIZE == 10).count();
        assert!(inside > SIZE / 4, "{inside}");
    }

    #[test]
    fn nothing_is_let_be_for_long() {
        let mut rows = rows();
        let each = Macroblock {
            bits: 20,
            quantiser: 26,
        };
        let mut longest = vec![0u8; GROUPS * SIZE];
        let mut waits = longest.clone();
        for _ in 0..40 {
            let held = held(&mut rows, 40.0, Some(300));
            for (at, wait) in waits.iter_mut().enumerate() {
                *wait = if held.contains(&at) { *wait + 1 } else { 0 };
                longest[at] = longest[at].max(*wait);
            }
            rows.coded(SHARE, &[each; GROUPS * SIZE], SIZE / 2);
        }
        assert_eq!(longest.iter().max(), Some(&PATIENCE));
    }

    #[test]
    fn what_was_measured_wrongly_is_learnt() {
        let mut rows = rows();
        let each = Macroblock {
            bits: 40,
            quantiser: 26,
        };
        for _ in 0..12 {
            let all = costs(&rows, 1.0, None);
            rows.measured(all);
            rows.coded(2.0 * SHARE, &[each; GROUPS * SIZE], SIZE / 2);
        }
        for group in &rows.groups {
            assert!((0.9..1.1).contains(&group.more), "{group:?}");
        }
    }

    #[test]
    fn costs_of_another_size_are_not_taken() {
        let mut rows = rows();
        for count in [0, 1, 7, SIZE * (GROUPS - 1), SIZE * GROUPS + 1] {
            rows.measured(vec![Cost::default(); count]);
            assert!(!rows.measured.known(), "{count}");
            assert!(rows.aim(SHARE, SHARE, 0.0).is_some());
        }
        rows.measured(vec![Cost::default(); SIZE * GROUPS]);
        rows.key(Some(30.0));
        assert!(!rows.measured.known());
    }
}
