// SPDX-License-Identifier: MPL-2.0
//! "Frame complete": said at once, then again until the sender is seen to
//! have moved on.

use std::time::Duration;

use dualstream_common::{ExtSeq, Timestamp};

use super::{Complete, Config};
use crate::wire::Stream;

/// One announcement under way.
#[derive(Clone, Copy, Debug)]
struct Pending {
    complete: Complete,
    position: ExtSeq,
    /// `None`: said often enough; kept for the case that the unit comes again.
    next: Option<Timestamp>,
    interval: Duration,
    left: u32,
}

/// At most one announcement per stream: a newer one takes the place of the
/// older, which the sender has no use for any more.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    pending: [Option<Pending>; 2],
}

impl Announcer {
    /// Says `complete` now, and `repeats` times more.
    pub(super) fn say(
        &mut self,
        now: Timestamp,
        complete: Complete,
        position: ExtSeq,
        repeats: u32,
        config: &Config,
    ) {
        self.pending[complete.stream.index()] = Some(Pending {
            complete,
            position,
            next: Some(now),
            interval: config.complete_interval,
            left: repeats.saturating_add(1),
        });
    }

    /// The picture that is being announced on this stream.
    pub(super) fn position(&self, stream: Stream) -> Option<ExtSeq> {
        self.pending[stream.index()].map(|p| p.position)
    }

    /// The sender sent it again: it did not hear.
    pub(super) fn hurry(&mut self, now: Timestamp, stream: Stream) {
        if let Some(pending) = &mut self.pending[stream.index()] {
            pending.next = Some(now);
        }
    }

    /// A newer frame came on this stream.
    pub(super) fn moved_on(&mut self, stream: Stream) {
        self.pending[stream.index()] = None;
    }

    pub(super) fn due(&mut self, now: Timestamp, config: &Config) -> Option<Complete> {
        for pending in self.pending.iter_mut().flatten() {
            if pending.next.is_none_or(|next| now < next) {
                continue;
            }
            let complete = pending.complete;
            pending.left = pending.left.saturating_sub(1);
            pending.next = (pending.left > 0).then(|| now + pending.interval);
            pending.interval = (pending.interval * 2).min(config.complete_interval_max);
            return Some(complete);
        }
        None
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.pending.iter().flatten().filter_map(|p| p.next).min()
    }
}
