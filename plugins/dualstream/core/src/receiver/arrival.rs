// SPDX-License-Identifier: MPL-2.0
//! Coded units: where they stand, what they lack, whether to decode them.

use std::time::Duration;

use dualstream_common::{ExtSeq, Timestamp};

use super::lane::{Chain, Frame, Last};
use super::{Arrived, Complete, Damage, Doubt, Dropped, Loss, Receiver, Unit, older};
use crate::wire::{FrameTag, Stream};

/// So many units without a tag in a row end a session with tags.
const UNTAGGED_RUN: u32 = 32;

/// Where numbers begin: one turn up, so that those a little before the first
/// one are still numbers.
const START: u64 = 0x1_0000;

impl<P> Receiver<P> {
    /// A coded unit arrived. `Ok`: decode it.
    pub fn unit(&mut self, now: Timestamp, unit: Unit) -> Result<(), Dropped> {
        self.stats.units += 1;
        let verdict = self.judge(now, unit);
        if verdict.is_err() {
            self.stats.units_dropped += 1;
        }
        verdict
    }

    fn judge(&mut self, now: Timestamp, unit: Unit) -> Result<(), Dropped> {
        let tag = self.check_tag(unit);
        let lane = &mut self.lanes[unit.stream.index()];
        lane.ended = false;
        if unit.content.slices == 0 {
            // Parameter sets, or what a loss left of a picture.
            lane.loss_ahead |= unit.arrived != Arrived::Intact;
            return Ok(());
        }
        let damage = self.damage(unit);
        match tag {
            Some(tag) => self.tagged(now, unit, tag, damage),
            None => self.untagged(now, unit, damage),
        }
    }

    fn check_tag(&mut self, unit: Unit) -> Option<FrameTag> {
        let tag = unit.tag.filter(|tag| tag.stream == unit.stream);
        if unit.tag.is_some() && tag.is_none() {
            self.stats.mismatched_tags += 1;
        }
        if tag.is_some() {
            self.untagged_run = 0;
            self.stats.tagged = true;
        } else {
            self.untagged_run = self.untagged_run.saturating_add(1);
            if self.untagged_run >= UNTAGGED_RUN {
                self.stats.tagged = false;
            }
        }
        tag
    }

    fn damage(&mut self, unit: Unit) -> Damage {
        let lane = &mut self.lanes[unit.stream.index()];
        let first = lane.arrived == 0;
        lane.arrived += 1;
        let loss_ahead = std::mem::take(&mut lane.loss_ahead);
        match unit.arrived {
            Arrived::Damaged => Damage::Within,
            // The first unit of a stream always comes after nothing; what it
            // can lack is its beginning.
            Arrived::AfterLoss if first => {
                if unit.content.from_the_top && self.slices.allows(unit.content.slices) {
                    Damage::None
                } else {
                    Damage::Within
                }
            }
            Arrived::Intact => {
                self.slices = self.slices.learn(unit.content.slices);
                if loss_ahead {
                    Damage::Before
                } else {
                    Damage::None
                }
            }
            Arrived::AfterLoss if self.slices.surely_whole(unit.content) => Damage::Before,
            Arrived::AfterLoss => Damage::Within,
        }
    }

    fn untagged(&mut self, now: Timestamp, unit: Unit, damage: Damage) -> Result<(), Dropped> {
        let stream = unit.stream;
        let key = unit.content.idr;
        let shown = self.shows_untagged(stream);
        let lane = &mut self.lanes[stream.index()];
        let starts = lane.starts_chain(damage, key, false);
        let before = lane.chain;
        let chain = lane.judge(damage, false, key, starts);
        if chain == Chain::Nothing {
            if shown {
                self.missing_key(now, stream);
            }
            return Err(Dropped::NoKey);
        }
        lane.feed(None, None, unit.pts, key, chain, starts);
        if shown {
            match chain {
                Chain::Whole => self.recovery.recovered_by(stream),
                _ if before != Chain::Broken || damage != Damage::None => {
                    self.lose(now, stream, Loss::Damage);
                }
                _ => {}
            }
        }
        self.check_silence(now, stream, shown);
        Ok(())
    }

    /// Whether pictures without tag are shown from this stream.
    pub(super) fn shows_untagged(&self, stream: Stream) -> bool {
        !self.stats.tagged || self.display.is_none_or(|d| d == stream)
    }

    fn tagged(
        &mut self,
        now: Timestamp,
        unit: Unit,
        tag: FrameTag,
        damage: Damage,
    ) -> Result<(), Dropped> {
        let stream = tag.stream;
        let key = unit.content.idr;
        let restarted = !tag.background && self.check_restart(tag, key);
        let mut frame = Frame {
            tag,
            position: self.position(tag),
        };
        if damage != Damage::None {
            frame = self.relabel(frame, unit.pts, key);
        }
        self.check_order(now, frame, damage, restarted && !key)?;

        let gap = restarted || self.gap(frame);
        let doubt = self.take_role(now, frame);
        if !tag.background {
            self.newest = self.newest.max(Some(frame.position));
        }

        let lane = &mut self.lanes[stream.index()];
        let starts = lane.starts_chain(damage, key, tag.acknowledged);
        let chain = lane.judge(damage, gap, key, starts);
        if damage == Damage::None
            && !gap
            && !tag.background
            && let Some(interval) = interval(lane.last, frame, unit.pts)
        {
            self.interval = Some(interval);
        }
        lane.last = Some(Last {
            frame,
            pts: unit.pts,
            whole: chain == Chain::Whole,
        });
        if !tag.background {
            lane.last_display = Some(frame);
            if lane
                .first_display
                .is_none_or(|first| first.tag.generation != tag.generation)
            {
                lane.first_display = Some(frame);
            }
        }
        self.settle(frame, starts, doubt);
        let shown = !tag.background && self.display == Some(stream);
        if chain == Chain::Nothing {
            // While the other stream is shown, its loss is none to the viewer.
            if shown || self.display.is_none() {
                self.missing_key(now, stream);
            }
            return Err(Dropped::NoKey);
        }
        let lane = &mut self.lanes[stream.index()];
        let before = lane.chain;
        lane.feed(Some(frame), Some(tag.number), unit.pts, key, chain, starts);
        if shown {
            let new_loss = if damage != Damage::None {
                Some(Loss::Damage)
            } else if gap {
                Some(Loss::Gap)
            } else if before == Chain::Whole {
                None
            } else {
                Some(Loss::BrokenReference)
            };
            match (chain, new_loss) {
                (Chain::Whole, _) => self.recovery.recovered(),
                (_, Some(loss)) if !self.recovery.wanted() => self.lose(now, stream, loss),
                (_, Some(loss)) => {
                    self.stats.losses += u64::from(damage != Damage::None || gap);
                    self.recovery.want(now, stream, loss, &self.config);
                }
                (_, None) => {}
            }
        }
        self.check_silence(now, stream, shown);
        Ok(())
    }

    fn missing_key(&mut self, now: Timestamp, stream: Stream) {
        if !self.recovery.wanted() {
            self.stats.losses += 1;
        }
        self.recovery.want(now, stream, Loss::NoKey, &self.config);
    }

    /// The endless number of a tag.
    fn position(&mut self, tag: FrameTag) -> ExtSeq {
        let newest = *self
            .newest
            .get_or_insert(ExtSeq::new(START + u64::from(tag.number)));
        newest.nearest(tag.number).unwrap_or(newest)
    }

    /// A sender that began anew: numbers that jump, a key frame that goes back
    /// on its own stream, one of an old generation ahead of all numbers, or any
    /// frame of a new generation that is not.
    fn check_restart(&mut self, tag: FrameTag, key: bool) -> bool {
        let Some(newest) = self.newest else {
            return false;
        };
        let ahead = tag.number.wrapping_sub(newest.low16()) as i16;
        let jumped = ahead.unsigned_abs() > self.config.jump;
        let position = newest.nearest(tag.number).unwrap_or(newest);
        let back = self.lanes[tag.stream.index()]
            .last
            .is_some_and(|last| position < last.frame.position);
        let contradicts =
            self.display.is_some() && older(tag.generation, self.generation) && ahead > 0;
        let new_but_behind =
            self.display.is_some() && older(self.generation, tag.generation) && ahead <= 0;
        if !(jumped || new_but_behind || key && (back || contradicts)) {
            return false;
        }
        self.stats.restarts += 1;
        // Above every number there was, with the low bits that the wire has.
        let turn = (newest.value() >> 16) + 2;
        self.newest = Some(ExtSeq::new(turn << 16 | u64::from(tag.number)));
        self.doubt = None;
        for stream in Stream::BOTH {
            self.announcer.moved_on(stream);
            let lane = &mut self.lanes[stream.index()];
            lane.last = None;
            lane.last_display = None;
            lane.first_display = None;
            lane.last_whole = None;
        }
        if self.display.is_some_and(|d| d != tag.stream) {
            self.stats.switches += 1;
        }
        self.display = Some(tag.stream);
        self.generation = tag.generation;
        true
    }

    /// rtph264depay hands on what is left of a frame whose last packet is lost
    /// with the header extension of the next frame and its own time stamp.
    fn relabel(&mut self, frame: Frame, pts: Option<Timestamp>, key: bool) -> Frame {
        let last = self.lanes[frame.tag.stream.index()].last;
        let (Some(last), Some(pts), Some(interval)) = (last, pts, self.interval) else {
            return frame;
        };
        let Some(last_pts) = last.pts else {
            return frame;
        };
        let ahead = frame.position.past(last.frame.position);
        let Ok(steps) = u32::try_from(ahead) else {
            return frame;
        };
        if frame.tag.background || !(2..=1000).contains(&steps) {
            return frame;
        }
        // Nearer to the place before its number's than to that.
        if pts.since(last_pts) + interval / 2 >= interval * steps {
            return frame;
        }
        self.stats.relabelled += 1;
        Frame {
            tag: FrameTag {
                key,
                acknowledged: false,
                number: frame.tag.number.wrapping_sub(1),
                ..frame.tag
            },
            position: ExtSeq::new(frame.position.value() - 1),
        }
    }

    /// Drops what was there and what goes back.
    fn check_order(
        &mut self,
        now: Timestamp,
        frame: Frame,
        damage: Damage,
        lost: bool,
    ) -> Result<(), Dropped> {
        let stream = frame.tag.stream;
        let Some(last) = self.lanes[stream.index()].last else {
            return Ok(());
        };
        if frame.position == last.frame.position {
            // Of two with one number, the damaged one was mislabelled.
            if !last.whole && damage == Damage::None {
                return Ok(());
            }
            if self.announcer.position(stream) == Some(frame.position) {
                self.announcer.hurry(now, stream);
            }
            return Err(Dropped::Duplicate);
        }
        if frame.position < last.frame.position && !lost {
            // The decoder must not see it; and if the sender began anew, a key
            // frame makes that plain.
            let lane = &mut self.lanes[stream.index()];
            if lane.chain == Chain::Whole {
                lane.chain = Chain::Broken;
            }
            if !frame.tag.background && self.display == Some(stream) && !self.recovery.wanted() {
                self.lose(now, stream, Loss::Gap);
            }
            return Err(Dropped::OutOfOrder);
        }
        self.announcer.moved_on(stream);
        Ok(())
    }

    /// Numbers are consecutive within the display stream.
    fn gap(&self, frame: Frame) -> bool {
        if frame.tag.background {
            return false;
        }
        self.lanes[frame.tag.stream.index()]
            .last_display
            .is_some_and(|last| {
                last.tag.generation == frame.tag.generation
                    && frame.position.past(last.position) > 1
            })
    }

    /// A display frame of a new generation makes its stream the display
    /// stream. Says whether a number before it is missing.
    fn take_role(&mut self, now: Timestamp, frame: Frame) -> Option<Doubt> {
        let FrameTag {
            stream,
            background: false,
            generation,
            ..
        } = frame.tag
        else {
            return None;
        };
        let Some(old) = self.display else {
            self.display = Some(stream);
            self.generation = generation;
            return None;
        };
        if !older(self.generation, generation) {
            return None;
        }
        self.generation = generation;
        self.display = Some(stream);
        for stream in Stream::BOTH {
            self.announcer.moved_on(stream);
        }
        if old == stream {
            return None;
        }
        self.stats.switches += 1;
        self.doubt = None;
        if let Some((last, key)) = self.lanes[old.index()].last_whole {
            self.say_retired(now, last, key);
        }
        let last = self.lanes[old.index()].last_display?;
        (frame.position.past(last.position) > 1).then_some(Doubt {
            before: frame.position,
            old,
            until: now + self.config.reorder_wait,
        })
    }

    /// The stream that stopped being shown has a reference for free.
    pub(super) fn say_retired(&mut self, now: Timestamp, frame: Frame, key: bool) {
        self.lanes[frame.tag.stream.index()].acknowledged = true;
        self.stats.completes += 1;
        self.announcer.say(
            now,
            complete(frame.tag, key),
            frame.position,
            self.config.retired_repeats,
            &self.config,
        );
    }

    /// A frame that needs nothing before it ends the doubt about what came
    /// before, and so does the number that was missing.
    fn settle(&mut self, frame: Frame, starts: bool, new: Option<Doubt>) {
        if let Some(doubt) = new {
            self.doubt = (!starts).then_some(doubt);
        } else if let Some(doubt) = self.doubt {
            let stream = frame.tag.stream;
            let filled = stream == doubt.old && frame.position.next() >= doubt.before;
            if filled || stream != doubt.old && starts {
                self.doubt = None;
            }
        }
    }

    fn check_silence(&mut self, now: Timestamp, stream: Stream, shown: bool) {
        let lane = &mut self.lanes[stream.index()];
        let most = self.config.silent_units;
        let patience = lane
            .delay
            .map_or(most, |delay| most.min(delay + self.config.silent_margin));
        if lane.silent <= patience {
            return;
        }
        lane.silent = 0;
        lane.break_chain();
        if shown {
            self.lose(now, stream, Loss::Silent);
        }
    }
}

/// Time between a frame and the one right before it.
fn interval(last: Option<Last>, frame: Frame, pts: Option<Timestamp>) -> Option<Duration> {
    let last = last.filter(|l| frame.position.past(l.frame.position) == 1)?;
    let interval = pts?.since(last.pts?);
    (!interval.is_zero()).then_some(interval)
}

pub(super) fn complete(tag: FrameTag, key: bool) -> Complete {
    Complete {
        stream: tag.stream,
        number: tag.number,
        generation: tag.generation,
        key,
    }
}
