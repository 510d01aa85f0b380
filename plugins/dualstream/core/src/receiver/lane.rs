// SPDX-License-Identifier: MPL-2.0
//! One of the two streams: its chain of references, and the units that its
//! decoder has and has not answered with a picture.

use std::collections::VecDeque;

use dualstream_common::{ExtSeq, Timestamp};

use super::Damage;
use crate::wire::FrameTag;

/// Units that a decoder may have in hand. H.264 keeps at most 16 pictures;
/// beyond this the oldest are taken as never coming out.
const IN_DECODER: usize = 64;

/// Whether the next P frame has what it predicts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Chain {
    /// No key frame yet: nothing can be decoded.
    #[default]
    Nothing,
    /// Everything since the last start arrived whole.
    Whole,
    /// Something is missing: decodable, but not to be trusted.
    Broken,
}

/// A tagged frame with its number made endless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: FrameTag,
    pub(super) position: ExtSeq,
}

/// A unit that was given to the decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fed {
    pub(super) frame: Option<Frame>,
    /// The number as the tag has it: a mislabelled unit's differs from that of
    /// its frame.
    label: Option<u16>,
    pts: Option<Timestamp>,
    pub(super) key: bool,
    starts_chain: bool,
    pub(super) whole: bool,
}

/// The last unit that arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) frame: Frame,
    pub(super) pts: Option<Timestamp>,
    pub(super) whole: bool,
}

/// What a decoded picture turned out to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matched {
    pub(super) fed: Fed,
    /// Tagged units before it that gave no picture.
    pub(super) skipped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) chain: Chain,
    pub(super) last: Option<Last>,
    /// The last frame that was to be shown.
    pub(super) last_display: Option<Frame>,
    /// The first one of its generation.
    pub(super) first_display: Option<Frame>,
    /// The last display picture that came out whole: what can be said
    /// complete when the role goes to the other stream.
    pub(super) last_whole: Option<(Frame, bool)>,
    /// A picture of the present chain was said complete.
    pub(super) acknowledged: bool,
    /// Nothing more will come.
    pub(super) ended: bool,
    /// Units fed since the decoder last gave a picture, or since it had a new
    /// chain to begin with.
    pub(super) silent: u32,
    /// Units that the decoder was seen to keep back.
    pub(super) delay: Option<u32>,
    /// Something was lost before the next unit that has slices.
    pub(super) loss_ahead: bool,
    /// Units with slices that arrived.
    pub(super) arrived: u64,
    fed: VecDeque<Fed>,
}

impl Lane {
    /// Whether what is predicted from is there whatever was lost before: a key
    /// frame, or one that refers to what was acknowledged from this chain.
    pub(super) fn starts_chain(&self, damage: Damage, key: bool, refers: bool) -> bool {
        let can = key || (refers && self.acknowledged && self.chain != Chain::Nothing);
        can && damage != Damage::Within
    }

    /// What becomes of the chain with this unit. `gap`: the numbers say that
    /// frames before it are missing.
    pub(super) fn judge(&self, damage: Damage, gap: bool, key: bool, starts: bool) -> Chain {
        match (self.chain, damage) {
            (Chain::Nothing, _) if !key => Chain::Nothing,
            _ if starts => Chain::Whole,
            (_, Damage::Within | Damage::Before) => Chain::Broken,
            (_, Damage::None) if gap => Chain::Broken,
            (chain, Damage::None) => chain,
        }
    }

    /// Notes a unit that goes to the decoder.
    pub(super) fn feed(
        &mut self,
        frame: Option<Frame>,
        label: Option<u16>,
        pts: Option<Timestamp>,
        key: bool,
        chain: Chain,
        starts_chain: bool,
    ) {
        if key && chain == Chain::Whole {
            // What was acknowledged before is gone from the decoder.
            self.acknowledged = false;
        }
        self.chain = chain;
        if self.fed.len() == IN_DECODER {
            self.fed.pop_front();
        }
        self.silent = if starts_chain {
            1
        } else {
            self.silent.saturating_add(1)
        };
        self.fed.push_back(Fed {
            frame,
            label,
            pts,
            key,
            starts_chain,
            whole: chain == Chain::Whole,
        });
    }

    /// Finds the unit that a picture was decoded from. The time stamp tells
    /// two units with one label apart; a decoder that loses one of the two
    /// still leaves the other.
    pub(super) fn matched(
        &mut self,
        label: Option<u16>,
        pts: Option<Timestamp>,
    ) -> Option<Matched> {
        let both = |f: &Fed| f.label == label && f.pts == pts;
        let at = self
            .fed
            .iter()
            .position(|f| label.is_some() && both(f))
            .or_else(|| {
                let label = label?;
                self.fed.iter().position(|f| f.label == Some(label))
            })
            .or_else(|| {
                let pts = pts.filter(|_| label.is_none())?;
                self.fed.iter().position(|f| f.pts == Some(pts))
            })
            // A decoder that keeps neither meta nor time stamp keeps order.
            .or_else(|| (label.is_none() && !self.fed.is_empty()).then_some(0))?;
        let skipped = match self.fed.get(at) {
            // Tagged streams have no B frames: pictures come out in order.
            Some(f) if f.frame.is_some() => self.fed.iter().take(at).any(|f| f.frame.is_some()),
            _ => false,
        };
        self.silent = 0;
        if skipped {
            self.distrust_from(at);
        }
        let fed = *self.fed.get(at)?;
        if fed.frame.is_some() {
            self.fed.drain(..=at);
        } else {
            self.fed.remove(at);
        }
        self.delay = self.delay.max(u32::try_from(self.fed.len()).ok());
        Some(Matched { fed, skipped })
    }

    /// The picture just matched is damaged: so is what is predicted from it.
    pub(super) fn broken_picture(&mut self) {
        self.distrust_from(0);
    }

    /// Units from here to the next start of a chain are not whole.
    fn distrust_from(&mut self, at: usize) {
        for fed in self.fed.iter_mut().skip(at) {
            if fed.starts_chain {
                return;
            }
            fed.whole = false;
        }
        if self.chain == Chain::Whole {
            self.chain = Chain::Broken;
        }
    }

    /// Nothing that is in the decoder or comes next is to be trusted.
    pub(super) fn break_chain(&mut self) {
        for fed in &mut self.fed {
            fed.whole = false;
        }
        if self.chain == Chain::Whole {
            self.chain = Chain::Broken;
        }
    }

    /// A unit numbered between the two, exclusively, is still in the decoder.
    pub(super) fn decoding_between(&self, after: ExtSeq, before: ExtSeq) -> bool {
        self.fed
            .iter()
            .filter_map(|f| f.frame)
            .any(|f| !f.tag.background && f.position > after && f.position < before)
    }

    /// The decoder starts anew.
    pub(super) fn restart(&mut self) {
        self.chain = Chain::Nothing;
        self.acknowledged = false;
        self.last_whole = None;
        self.silent = 0;
        self.delay = None;
        self.fed.clear();
    }
}
