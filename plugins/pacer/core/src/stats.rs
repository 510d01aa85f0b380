// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

use crate::Priority;

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub packets: u64,
    pub bytes: DataSize,
}

impl Amount {
    pub(crate) fn add(&mut self, size: DataSize) {
        self.packets += 1;
        self.bytes += size;
    }

    pub(crate) fn take(&mut self, other: Amount) {
        self.packets = self.packets.saturating_sub(other.packets);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    pub(crate) fn give(&mut self, other: Amount) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }

    pub(crate) fn one(size: DataSize) -> Self {
        Self {
            packets: 1,
            bytes: size,
        }
    }
}

/// Packets of the priority that they were pushed with:
/// `pushed = sent + expired + evicted + refused + flushed + queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PriorityStats {
    /// Every call of [`push`](crate::Pacer::push).
    pub pushed: Amount,
    pub sent: Amount,
    /// Dropped because they were too old.
    pub expired: Amount,
    /// Dropped to make room for a packet of higher priority.
    pub evicted: Amount,
    /// Handed back by [`push`](crate::Pacer::push).
    pub refused: Amount,
    pub flushed: Amount,
    /// Held at present.
    pub queued: Amount,
    /// When the oldest of those was pushed.
    pub oldest: Option<Timestamp>,
    /// Time that the packets sent had waited, all together and at most.
    pub waited: Duration,
    pub longest_wait: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeStats {
    /// Clusters sent completely.
    pub completed: u64,
    /// Given up: could not begin in time, lagged behind, or took too long.
    pub dropped: u64,
    /// Not taken: rate zero, too long, or too many waiting.
    pub refused: u64,
    /// Packets sent as part of a cluster, padding included.
    pub sent: Amount,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Indexed by [`Priority::index`].
    pub priorities: [PriorityStats; Priority::ALL.len()],
    /// Padding that [`poll`](crate::Pacer::poll) asked for.
    pub padding: Amount,
    pub probes: ProbeStats,
    /// The pacing rate in force, raised by the queue-time limit or not;
    /// `None`: nothing is held.
    pub rate: Option<Bitrate>,
    /// Times the queue-time limit began to raise the rate.
    pub raised: u64,
    /// The congestion window is full.
    pub congested: bool,
}

impl Stats {
    #[must_use]
    pub fn of(&self, priority: Priority) -> &PriorityStats {
        &self.priorities[priority.index()]
    }

    /// All that is held.
    #[must_use]
    pub fn queued(&self) -> Amount {
        let mut all = Amount::default();
        for p in &self.priorities {
            all.give(p.queued);
        }
        all
    }
}
