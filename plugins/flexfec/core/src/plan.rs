// SPDX-License-Identifier: MPL-2.0
//! How many FEC packets blocks of each size get, for one role of frames.

use crate::channel::Channel;
use crate::mask::{Family, MAX_MEDIA, Table};
use crate::model::{Block, Model};

/// Longer blocks delay what they repair: each frame more has to save so much.
const FRAME_COST: f64 = 0.03;

/// What a block is to have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    pub table: Table,
    /// FEC packets in the mean. With 1.5, every second such block has 2.
    pub fec: f64,
    /// Share of frames that is incomplete then.
    pub residual: f64,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    model: Option<Model>,
    target: f64,
    max_overhead: f64,
    family: Option<Family>,
    /// By frames and packets of a block, as far as they were asked for.
    wishes: Vec<Vec<Option<Wish>>>,
    /// Of a frame, and frames that fit before the deadline.
    usual: (f64, usize),
    frames: usize,
    overhead: f64,
    expected: f64,
    /// FEC packets owed by what was rounded so far.
    owed: f64,
}

impl Plan {
    pub fn set_limits(&mut self, target: f64, max_overhead: f64, family: Option<Family>) {
        let before = (self.target, self.max_overhead, self.family);
        if before != (target, max_overhead, family) {
            (self.target, self.max_overhead, self.family) = (target, max_overhead, family);
            self.forget();
        }
    }

    /// Takes another model where the known one does not hold.
    pub fn set_model(
        &mut self,
        differs: impl Fn(Option<&Model>) -> bool,
        model: impl Fn() -> Model,
    ) {
        if differs(self.model.as_ref()) {
            self.model = Some(model());
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.wishes.clear();
        self.usual = (0.0, 0);
    }

    /// Frames of so many packets, at most so many of them in a block.
    pub fn set_usual(&mut self, packets: f64, most_frames: usize) {
        let near = (packets - self.usual.0).abs() < 0.05 * packets;
        if near && self.usual.1 == most_frames {
            return;
        }
        self.usual = (packets, most_frames);
        (self.frames, self.overhead, self.expected) = (1, 0.0, 0.0);
        let mut least = f64::INFINITY;
        for frames in 1..=most_frames {
            let media = (packets * frames as f64).round().max(1.0) as usize;
            let wish = self.wish(frames, media);
            let overhead = wish.fec / media as f64;
            // What does not meet the target is worse than any that does.
            let missed = (wish.residual / self.target.max(1e-12)).max(1.0).ln();
            let cost = overhead * (1.0 + FRAME_COST * frames as f64) + missed;
            if cost < least - 1e-9 {
                least = cost;
                (self.frames, self.overhead) = (frames, overhead);
                self.expected = wish.residual;
            }
        }
    }

    pub fn wish(&mut self, frames: usize, media: usize) -> Wish {
        let media = media.min(MAX_MEDIA);
        let (row, column) = (frames.max(1), media.max(1));
        if self.wishes.len() <= row {
            self.wishes.resize_with(row + 1, Vec::new);
        }
        if self.wishes[row].len() <= column {
            self.wishes[row].resize(column + 1, None);
        }
        if let Some(wish) = self.wishes[row][column] {
            return wish;
        }
        let wish = self.least(row, column);
        self.wishes[row][column] = Some(wish);
        wish
    }

    /// The least that meets the target, or the most that is allowed.
    fn least(&self, frames: usize, media: usize) -> Wish {
        let nothing = Wish {
            table: Table::Light,
            fec: 0.0,
            residual: 0.0,
        };
        let Some(model) = &self.model else {
            return nothing;
        };
        let table = model.table(self.family);
        let most = self.max_overhead * media as f64;
        let mut before = 1.0;
        let mut best = nothing;
        for fec in 0..=media {
            let block = Block { frames, media, fec };
            let (fec, residual) = (fec as f64, model.residual(table, block).frames);
            // So much of the last step is needed, and allowed.
            let step = if residual <= self.target && before > residual && fec > 0.0 {
                ((before - self.target) / (before - residual)).clamp(0.0, 1.0)
            } else {
                1.0
            };
            let allowed = (most - (fec - 1.0)).min(1.0);
            if fec == 0.0 {
                best = Wish {
                    table,
                    fec,
                    residual,
                };
            } else if allowed > 0.0 {
                let part = step.min(allowed);
                let residual = before + part * (residual - before);
                best = Wish {
                    table,
                    fec: fec - 1.0 + part,
                    residual,
                };
            }
            if residual <= self.target || allowed < 1.0 {
                break;
            }
            before = residual;
        }
        best
    }

    /// Whole packets, so that the mean of many blocks is what was wanted.
    pub fn whole(&mut self, wanted: f64) -> usize {
        let sum = self.owed + wanted;
        let whole = (sum + 0.5).floor().clamp(wanted.floor(), wanted.ceil());
        self.owed = (sum - whole).clamp(-1.0, 1.0);
        whole as usize
    }

    #[must_use]
    pub fn table(&self, family: Option<Family>) -> Table {
        self.model
            .as_ref()
            .map_or(Table::Light, |model| model.table(family))
    }

    #[must_use]
    pub fn model(&self) -> Option<&Model> {
        self.model.as_ref()
    }

    #[must_use]
    pub fn channel(&self) -> Channel {
        self.model
            .as_ref()
            .map_or(Channel::independent(0.0), Model::channel)
    }

    #[must_use]
    pub fn unrepaired(&self) -> f64 {
        self.model.as_ref().map_or(1.0, Model::unrepaired)
    }

    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.max(1)
    }

    #[must_use]
    pub fn overhead(&self) -> f64 {
        self.overhead
    }

    #[must_use]
    pub fn expected(&self) -> f64 {
        self.expected
    }
}
