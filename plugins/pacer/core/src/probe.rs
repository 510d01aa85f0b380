// SPDX-License-Identifier: MPL-2.0
//! Probe clusters: packets that leave at a given rate, exactly spaced, to see
//! whether the link carries it.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

use crate::stats::ProbeStats;

/// Most clusters that wait; one more is refused.
pub const MAX_CLUSTERS: usize = 4;

/// A cluster that has not begun after this is no answer to what was asked.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A cluster is over after this, complete or not.
const LONGEST_RUN: Duration = Duration::from_secs(1);
/// Packets later than this measure our own delay.
const LARGEST_LAG: Duration = Duration::from_millis(100);
/// A cluster ends here whatever was asked for: 20 ms at 1.6 Gbit/s.
const MOST_BYTES: DataSize = DataSize::from_bytes(4_000_000);
const MOST_PACKETS: u32 = 20_000;
/// How many ids are remembered, so that a repeated event does not probe again.
const REMEMBERED: usize = 16;

/// What to probe with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeCluster {
    pub id: u32,
    pub bitrate: Bitrate,
    /// At least this many packets, and
    pub packets: u32,
    /// at least this long at [`bitrate`](Self::bitrate).
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Active {
    cluster: ProbeCluster,
    started: Timestamp,
    packets: u32,
    bytes: DataSize,
}

impl Active {
    /// When the next packet leaves, from the start on: no drift.
    fn due(&self) -> Option<Timestamp> {
        Some(self.started + self.bytes.time_at(self.cluster.bitrate)?)
    }

    fn is_complete(&self) -> bool {
        let enough = self.cluster.bitrate * self.cluster.duration;
        (self.packets >= self.cluster.packets && self.bytes >= enough)
            || self.packets >= MOST_PACKETS
            || self.bytes >= MOST_BYTES
    }
}

/// Whether a cluster wants a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Off,
    /// Always later than the time of asking.
    Wait(Timestamp),
    Now(u32),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Probes {
    active: Option<Active>,
    pending: VecDeque<(Timestamp, ProbeCluster)>,
    seen: VecDeque<u32>,
    stats: ProbeStats,
}

impl Probes {
    pub fn ask(&mut self, now: Timestamp, cluster: ProbeCluster) {
        if self.seen.contains(&cluster.id) {
            return;
        }
        let possible = cluster.bitrate > Bitrate::ZERO && cluster.duration <= LONGEST_RUN;
        if !possible || self.pending.len() >= MAX_CLUSTERS {
            self.stats.refused += 1;
            return;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(cluster.id);
        self.pending.push_back((now, cluster));
    }

    /// Begins, goes on with or gives up clusters.
    pub fn turn(&mut self, now: Timestamp) -> Turn {
        loop {
            let active = match self.active {
                Some(active) => active,
                None => match self.pending.pop_front() {
                    None => return Turn::Off,
                    Some((asked, _)) if now.since(asked) > LONGEST_WAIT => {
                        self.stats.dropped += 1;
                        continue;
                    }
                    Some((_, cluster)) => *self.active.insert(Active {
                        cluster,
                        started: now,
                        packets: 0,
                        bytes: DataSize::ZERO,
                    }),
                },
            };
            match active.due() {
                // `started` is later only if time went backwards.
                Some(due)
                    if now >= active.started
                        && now.since(active.started) <= LONGEST_RUN
                        && due.since(active.started) <= LONGEST_RUN
                        && now.since(due) <= LARGEST_LAG =>
                {
                    return if due > now {
                        Turn::Wait(due)
                    } else {
                        Turn::Now(active.cluster.id)
                    };
                }
                _ => {
                    self.active = None;
                    self.stats.dropped += 1;
                }
            }
        }
    }

    /// A packet of the cluster that had its turn has gone.
    pub fn sent(&mut self, size: DataSize) {
        self.stats.sent.add(size);
        let Some(active) = &mut self.active else {
            return;
        };
        active.packets = active.packets.saturating_add(1);
        active.bytes += size;
        if active.is_complete() {
            self.active = None;
            self.stats.completed += 1;
        }
    }

    pub fn flush(&mut self) {
        let gone = self.pending.len() as u64 + u64::from(self.active.is_some());
        self.stats.dropped += gone;
        self.pending.clear();
        self.active = None;
    }

    pub fn stats(&self) -> ProbeStats {
        self.stats
    }
}
