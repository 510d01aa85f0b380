// SPDX-License-Identifier: MPL-2.0
//! Holds packets while too much is in flight.

use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};

/// One packet goes after this much silence however full the window is: without
/// packets there is no feedback, and without feedback the window never opens.
/// Larger: less sent into a dead link; smaller: a lost report matters less.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    limit: Option<DataSize>,
    outstanding: DataSize,
    last: Option<Timestamp>,
}

impl Window {
    pub fn set(&mut self, limit: Option<DataSize>, in_flight: DataSize) {
        self.limit = limit;
        self.outstanding = in_flight;
    }

    pub fn sent(&mut self, now: Timestamp, size: DataSize) {
        self.outstanding += size;
        self.last = Some(now);
    }

    /// When to look again, if packets are held. Time that went backwards
    /// starts the silence anew.
    pub fn hold(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.limit.is_none_or(|limit| self.outstanding < limit) {
            return None;
        }
        let last = self.last?.min(now);
        self.last = Some(last);
        let until = last + KEEP_ALIVE;
        (until > now).then_some(until)
    }

    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.outstanding >= limit)
    }
}
