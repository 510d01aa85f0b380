// SPDX-License-Identifier: MPL-2.0
//! Asking for a picture that can be shown again: once per loss, then with
//! back-off until it came.

use std::time::Duration;

use dualstream_common::Timestamp;

use super::{AskRecovery, Config, Loss};
use crate::wire::Stream;

#[derive(Clone, Copy, Debug)]
struct Asking {
    ask: AskRecovery,
    next: Timestamp,
    interval: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Recovery {
    asking: Option<Asking>,
    last: Option<Timestamp>,
}

impl Recovery {
    /// A loss was seen. While one of the same stream is being asked for,
    /// another one changes nothing: the same answer mends both. But if another
    /// stream is shown meanwhile, it is that one that has to be mended, and the
    /// sender takes no heed of requests for the one it left.
    pub(super) fn want(&mut self, now: Timestamp, stream: Stream, loss: Loss, config: &Config) {
        if self.asking.is_some_and(|a| a.ask.stream == stream) {
            return;
        }
        let earliest = self.last.map_or(now, |last| last + config.recovery_gap);
        self.asking = Some(Asking {
            ask: AskRecovery {
                stream,
                loss,
                again: false,
            },
            next: earliest.max(now),
            interval: config.recovery_interval,
        });
    }

    pub(super) fn recovered(&mut self) {
        self.asking = None;
    }

    /// This stream is whole again, which says nothing of the other.
    pub(super) fn recovered_by(&mut self, stream: Stream) {
        if self.asking.is_some_and(|a| a.ask.stream == stream) {
            self.asking = None;
        }
    }

    pub(super) const fn wanted(&self) -> bool {
        self.asking.is_some()
    }

    pub(super) fn due(&mut self, now: Timestamp, config: &Config) -> Option<AskRecovery> {
        let asking = self.asking.as_mut()?;
        if now < asking.next {
            return None;
        }
        let ask = asking.ask;
        asking.ask.again = true;
        asking.next = now + asking.interval;
        asking.interval = (asking.interval * 2).min(config.recovery_interval_max);
        self.last = Some(now);
        Some(ask)
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.asking.map(|a| a.next)
    }
}
