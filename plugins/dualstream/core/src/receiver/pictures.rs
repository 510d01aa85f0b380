// SPDX-License-Identifier: MPL-2.0
//! Decoded pictures: what they are, what the sender is told of them.

use dualstream_common::Timestamp;

use super::arrival::complete;
use super::lane::{Fed, Frame};
use super::{Decoded, Loss, Receiver, Refusal, Rejected, Shown, older};
use crate::wire::Stream;

impl<P> Receiver<P> {
    /// A decoder gave a picture. `Ok`: `poll` will show it. Otherwise it is
    /// handed back, which is no error.
    pub fn picture(
        &mut self,
        now: Timestamp,
        decoded: Decoded,
        picture: P,
    ) -> Result<(), Rejected<P>> {
        self.stats.pictures += 1;
        self.sort(now, decoded, picture)
            .inspect_err(|rejected| match rejected.refusal {
                Refusal::Background => self.stats.background_decoded += 1,
                Refusal::Duplicate => self.stats.duplicates += 1,
                Refusal::Late => self.stats.late += 1,
                Refusal::Untagged => self.stats.untagged_hidden += 1,
                Refusal::Unknown => self.stats.unknown += 1,
                Refusal::Full => self.stats.refused_full += 1,
            })
    }

    fn sort(&mut self, now: Timestamp, decoded: Decoded, picture: P) -> Result<(), Rejected<P>> {
        let refuse = |refusal, picture| Err(Rejected { refusal, picture });
        let stream = decoded.stream;
        let label = decoded
            .tag
            .filter(|tag| tag.stream == stream)
            .map(|tag| tag.number);
        let lane = &mut self.lanes[stream.index()];
        let Some(matched) = lane.matched(label, decoded.pts) else {
            return refuse(Refusal::Unknown, picture);
        };
        let fed = matched.fed;
        let whole = fed.whole && !decoded.corrupt;
        if decoded.corrupt {
            lane.broken_picture();
        }
        // Where the chain was whole so far, this is the first sign of a loss.
        let news = matched.skipped || (decoded.corrupt && fed.whole);
        if news && self.shown_by(fed) == Some(stream) {
            self.lose(now, stream, Loss::Damage);
        }
        let shown = Shown {
            picture,
            stream,
            tag: fed.frame.map(|f| f.tag),
            pts: decoded.pts,
            whole,
        };
        let Some(frame) = fed.frame else {
            return self.plain(shown);
        };
        if whole {
            self.decoded_whole(now, frame, fed.key);
        }
        if frame.tag.background {
            return refuse(Refusal::Background, shown.picture);
        }
        if self.is_full() {
            return refuse(Refusal::Full, shown.picture);
        }
        match self.order.insert(now, frame, shown) {
            Ok(None) => Ok(()),
            // The one that was held goes back in its place.
            Ok(Some(replaced)) => refuse(Refusal::Duplicate, replaced),
            Err((refusal, picture)) => refuse(refusal, picture),
        }
    }

    /// The stream that the viewer sees, if this unit is part of it.
    fn shown_by(&self, fed: Fed) -> Option<Stream> {
        match fed.frame {
            Some(frame) if frame.tag.background => None,
            Some(_) => self.display,
            None => self.display.or(Some(Stream::Zero)),
        }
    }

    fn plain(&mut self, shown: Shown<P>) -> Result<(), Rejected<P>> {
        let hidden =
            self.stats.tagged && (!self.shows_untagged(shown.stream) || self.order.len() > 0);
        let result = if hidden {
            Err((Refusal::Untagged, shown.picture))
        } else if self.is_full() {
            Err((Refusal::Full, shown.picture))
        } else {
            self.order.insert_plain(shown)
        };
        result.map_err(|(refusal, picture)| Rejected { refusal, picture })
    }

    fn decoded_whole(&mut self, now: Timestamp, frame: Frame, key: bool) {
        let tag = frame.tag;
        let retired =
            self.display.is_some_and(|d| d != tag.stream) && older(tag.generation, self.generation);
        let lane = &mut self.lanes[tag.stream.index()];
        if tag.background {
            lane.acknowledged = true;
            // The sender has moved on from what is not its newest any more.
            let newest = lane
                .last
                .is_some_and(|last| last.frame.position == frame.position);
            self.stats.completes += 1;
            let repeats = if newest {
                self.config.complete_repeats
            } else {
                0
            };
            self.announcer.say(
                now,
                complete(tag, key),
                frame.position,
                repeats,
                &self.config,
            );
        } else {
            lane.last_whole = Some((frame, key));
            if retired {
                self.say_retired(now, frame, key);
            }
        }
    }
}
