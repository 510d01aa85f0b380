// SPDX-License-Identifier: MPL-2.0
//! Each picture once, in order, from whichever stream has it first.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dualstream_common::{ExtSeq, Timestamp};

use super::lane::Frame;
use super::{Refusal, Shown};

/// Picture numbers told apart from never-shown ones behind the last shown.
const REMEMBERED: u64 = 64;

#[derive(Debug)]
struct Held<P> {
    shown: Shown<P>,
    frame: Frame,
    since: Timestamp,
}

/// What stands in the way of the next picture.
pub(super) enum Head {
    Empty,
    /// Show it.
    Ready,
    /// Numbers before it are missing: `after` was shown, `frame` is held.
    Gap {
        after: ExtSeq,
        frame: Frame,
        since: Timestamp,
    },
}

#[derive(Debug)]
pub(super) struct Order<P> {
    last: Option<ExtSeq>,
    /// Bit i: `last - i` was shown.
    recent: u64,
    last_pts: Option<Timestamp>,
    held: BTreeMap<ExtSeq, Held<P>>,
    /// Pictures without number, to be shown as they are.
    plain: VecDeque<Shown<P>>,
}

impl<P> Default for Order<P> {
    fn default() -> Self {
        Self {
            last: None,
            recent: 0,
            last_pts: None,
            held: BTreeMap::new(),
            plain: VecDeque::new(),
        }
    }
}

impl<P> Order<P> {
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.plain.len()
    }

    /// Takes a numbered picture in; of two with one number, the whole one
    /// wins as long as none of them was shown.
    pub(super) fn insert(
        &mut self,
        now: Timestamp,
        frame: Frame,
        shown: Shown<P>,
    ) -> Result<Option<P>, (Refusal, P)> {
        let refusal = match self.last {
            Some(last) if frame.position <= last => {
                let behind = last.past(frame.position);
                let was_shown = behind < REMEMBERED && self.recent >> behind & 1 == 1;
                Some(if was_shown {
                    Refusal::Duplicate
                } else {
                    Refusal::Late
                })
            }
            Some(_) => None,
            // After pictures without numbers, time stamps say what is new.
            None => self.behind(shown.pts).then_some(Refusal::Late),
        };
        if let Some(refusal) = refusal {
            return Err((refusal, shown.picture));
        }
        match self.held.get_mut(&frame.position) {
            Some(held) if shown.whole && !held.shown.whole => {
                let old = std::mem::replace(&mut held.shown, shown);
                Ok(Some(old.picture))
            }
            Some(_) => Err((Refusal::Duplicate, shown.picture)),
            None => {
                let since = now;
                self.held.insert(
                    frame.position,
                    Held {
                        shown,
                        frame,
                        since,
                    },
                );
                Ok(None)
            }
        }
    }

    /// Takes a picture without number in: shown if its time stamp is new.
    pub(super) fn insert_plain(&mut self, shown: Shown<P>) -> Result<(), (Refusal, P)> {
        let newest = self
            .plain
            .iter()
            .filter_map(|s| s.pts)
            .max()
            .max(self.last_pts);
        match (shown.pts, newest) {
            (Some(pts), Some(newest)) if pts == newest => Err((Refusal::Duplicate, shown.picture)),
            (Some(pts), Some(newest)) if pts < newest => Err((Refusal::Late, shown.picture)),
            _ => {
                self.plain.push_back(shown);
                Ok(())
            }
        }
    }

    fn behind(&self, pts: Option<Timestamp>) -> bool {
        matches!((pts, self.last_pts), (Some(pts), Some(last)) if pts <= last)
    }

    pub(super) fn head(&self) -> Head {
        if !self.plain.is_empty() {
            return Head::Ready;
        }
        let Some((position, held)) = self.held.first_key_value() else {
            return Head::Empty;
        };
        match self.last {
            Some(last) if position.past(last) > 1 => Head::Gap {
                after: last,
                frame: held.frame,
                since: self
                    .held
                    .values()
                    .map(|h| h.since)
                    .min()
                    .unwrap_or(held.since),
            },
            Some(_) | None => Head::Ready,
        }
    }

    /// The picture that is next, whatever is missing before it.
    pub(super) fn pop(&mut self) -> Option<Shown<P>> {
        if let Some(shown) = self.plain.pop_front() {
            self.last_pts = self.last_pts.max(shown.pts);
            return Some(shown);
        }
        let (position, held) = self.held.pop_first()?;
        let step = self.last.map_or(REMEMBERED, |last| position.past(last));
        self.recent = u32::try_from(step)
            .ok()
            .and_then(|step| self.recent.checked_shl(step))
            .unwrap_or(0)
            | 1;
        self.last = Some(position);
        self.last_pts = self.last_pts.max(held.shown.pts);
        Some(held.shown)
    }

    /// How many numbers the next picture leaves out.
    pub(super) fn missing(&self) -> u64 {
        match (self.last, self.held.first_key_value()) {
            (Some(last), Some((next, _))) if self.plain.is_empty() => {
                next.past(last).saturating_sub(1)
            }
            _ => 0,
        }
    }

    pub(super) fn clear(&mut self) -> Vec<P> {
        let old = std::mem::take(self);
        let held = old.held.into_values().map(|h| h.shown.picture);
        held.chain(old.plain.into_iter().map(|s| s.picture))
            .collect()
    }
}

/// When a wait that began at `since` is over.
pub(super) fn deadline(since: Timestamp, wait: Duration) -> Timestamp {
    since + wait
}
