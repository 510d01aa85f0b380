// SPDX-License-Identifier: MPL-2.0
//! Short bursts above the rate, to see whether the link takes them: when to
//! send one, and what it showed (libwebrtc, probe_controller.cc and
//! probe_bitrate_estimator.cc).

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, RemoteTime, Timestamp};

use crate::history::Received;

/// Of each cluster, as in libwebrtc.
const LEAST_PACKETS: u32 = 5;
const DURATION: Duration = Duration::from_millis(15);
/// Packets and time that must have come of a cluster, as in libwebrtc (80 %).
const LEAST_SHARE: f64 = 0.8;
/// A cluster received faster than sent by more than this was held up and let go
/// at once; it shows nothing. As in libwebrtc.
const MOST_RATIO: f64 = 2.0;
/// Received slower than this share of the rate sent, the link was full, and the
/// rate received is its capacity; a little less is taken. As in libwebrtc.
const FULL: f64 = 0.9;
const FULL_SHARE: f64 = 0.95;
/// A span below this gives no rate.
const LEAST_SPAN: Duration = Duration::from_millis(1);
const LONGEST_SPAN: Duration = Duration::from_secs(1);

/// At the start, over the start rate.
const FIRST: [f64; 2] = [3.0, 6.0];
/// The next one, over what the last one showed.
const FURTHER: f64 = 2.0;
/// It goes on while the result is above this share of what was asked for.
const GOES_ON: f64 = 0.7;
/// A result is waited for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between probes while the application limits, as in libwebrtc.
const ALR_INTERVAL: Duration = Duration::from_secs(5);
/// Between probes of a rate that neither grows nor meets a queue.
const STAGNATION: Duration = Duration::from_secs(10);
const STAGNATION_RATE: f64 = 1.5;
/// A fall below this share of the rate is probed again after
/// [`AFTER_DROP`] without a queue, at [`DROP_SHARE`] of the rate before;
/// libwebrtc has the same shares and waits for the end of an overuse.
const DROP: f64 = 0.66;
const DROP_SHARE: f64 = 0.85;
/// ... and over the present rate: a link that has really become slower takes
/// no harm.
const DROP_MOST: f64 = 1.3;
const AFTER_DROP: Duration = Duration::from_secs(1);
const DROP_MEMORY: Duration = Duration::from_secs(10);
/// After silence, of the rate before it: what comes back is less, mostly.
const SILENCE_SHARE: f64 = 0.7;
/// Of all that is sent, after the start.
const SHARE: f64 = 0.05;
/// What may be saved up for probes.
const MOST_SAVED: Duration = Duration::from_millis(100);
/// What probes have cost is paid off up to this, bytes. After silence a probe
/// may be owed, other probes must have been paid for.
const MOST_OWED: f64 = 60_000.0;
const OWED_AFTER_SILENCE: f64 = 48_000.0;

/// Clusters of which results may still come, and those that nobody has
/// fetched; the oldest goes when there are more.
const MOST_CLUSTERS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeCluster {
    pub id: u32,
    pub bitrate: Bitrate,
    /// At least so many,
    pub packets: u32,
    /// and for at least so long.
    pub duration: Duration,
    pub reason: Reason,
}

/// Why a probe is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Start,
    /// The last one showed that there is more.
    Further,
    /// The application sends less than it may.
    Limited,
    /// The rate has fallen, and the queue is gone.
    Drop,
    /// The application wants more than before.
    Wanted,
    /// The rate does not grow, and no queue says why.
    Stagnation,
    /// Feedback came again, and the queue is gone.
    Silence,
}

/// What a cluster showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub id: u32,
    pub rate: Bitrate,
    /// The link was full: this is its capacity, not merely a rate it takes.
    pub full: bool,
}

#[derive(Clone, Copy, Debug)]
struct Cluster {
    asked: ProbeCluster,
    packets: u32,
    size: DataSize,
    first: (Timestamp, DataSize),
    last: (Timestamp, DataSize),
    first_arrival: (RemoteTime, DataSize),
    last_arrival: RemoteTime,
}

impl Cluster {
    fn add(&mut self, packet: &Received) {
        if self.packets == 0 {
            self.first = (packet.sent, packet.size);
            self.last = self.first;
            self.first_arrival = (packet.arrival, packet.size);
            self.last_arrival = packet.arrival;
        }
        self.packets += 1;
        self.size += packet.size;
        if packet.sent < self.first.0 {
            self.first = (packet.sent, packet.size);
        }
        if packet.sent >= self.last.0 {
            self.last = (packet.sent, packet.size);
        }
        if packet.arrival < self.first_arrival.0 {
            self.first_arrival = (packet.arrival, packet.size);
        }
        self.last_arrival = self.last_arrival.max(packet.arrival);
    }

    fn shown(&self) -> Option<Shown> {
        let asked = &self.asked;
        let least = (asked.bitrate * asked.duration).as_bytes() as f64 * LEAST_SHARE;
        if f64::from(self.packets) < f64::from(asked.packets) * LEAST_SHARE
            || (self.size.as_bytes() as f64) < least
        {
            return None;
        }
        let send = self.last.0.since(self.first.0);
        let receive = self.last_arrival.since(self.first_arrival.0);
        let spans = LEAST_SPAN..=LONGEST_SPAN;
        if !spans.contains(&send) || !spans.contains(&receive) {
            return None;
        }
        let sent = (self.size.saturating_sub(self.last.1) / send)?;
        let received = (self.size.saturating_sub(self.first_arrival.1) / receive)?;
        if received > sent.scale(MOST_RATIO) {
            return None;
        }
        let full = received < sent.scale(FULL);
        let rate = if full {
            received.scale(FULL_SHARE)
        } else {
            sent.min(received)
        };
        Some(Shown {
            id: asked.id,
            rate,
            full,
        })
    }
}

/// What the controller goes by.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    pub target: Bitrate,
    pub max: Bitrate,
    /// What the application could use.
    pub wanted: Bitrate,
    /// Sent less than allowed, since when.
    pub limited_since: Option<Timestamp>,
    /// Our own queue was last seen.
    pub queue_at: Option<Timestamp>,
}

#[derive(Debug)]
pub struct Prober {
    enabled: bool,
    begun: bool,
    next_id: u32,
    queue: VecDeque<ProbeCluster>,
    clusters: VecDeque<Cluster>,
    /// A probe that a better result may follow.
    awaited: Option<(ProbeCluster, Timestamp)>,
    last: Timestamp,
    /// Bytes that may be spent.
    budget: f64,
    /// The rate, and when it last rose by a tenth.
    risen: (Bitrate, Timestamp),
    /// The rate before it fell, and when it did.
    before_drop: Option<(Bitrate, Timestamp)>,
    wanted: Bitrate,
}

impl Prober {
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled,
            begun: false,
            next_id: 1,
            queue: VecDeque::new(),
            clusters: VecDeque::new(),
            awaited: None,
            last: Timestamp::ZERO,
            budget: 0.0,
            risen: (Bitrate::ZERO, Timestamp::ZERO),
            before_drop: None,
            wanted: Bitrate::ZERO,
        }
    }

    /// To be sent now.
    pub fn next(&mut self) -> Option<ProbeCluster> {
        self.queue.pop_front()
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.queue.len() + self.clusters.len()
    }

    /// Media pays for probes.
    pub fn sent(&mut self, size: DataSize, target: Bitrate, probe: bool) {
        let most = (target * MOST_SAVED).as_bytes() as f64;
        let change = if probe {
            -(size.as_bytes() as f64)
        } else {
            size.as_bytes() as f64 * SHARE
        };
        self.budget = (self.budget + change).clamp(-MOST_OWED, most);
    }

    /// What this feedback shows of the clusters, the best of it.
    pub fn results(&mut self, received: &[Received]) -> Option<(Shown, Reason)> {
        let mut best: Option<(Shown, Reason)> = None;
        for packet in received {
            let Some(id) = packet.probe else { continue };
            let Some(cluster) = self.clusters.iter_mut().find(|c| c.asked.id == id) else {
                continue;
            };
            cluster.add(packet);
            if let Some(shown) = cluster.shown()
                && best.is_none_or(|(before, _)| before.id == shown.id || shown.rate > before.rate)
            {
                best = Some((shown, cluster.asked.reason));
            }
        }
        best
    }

    /// A result was taken in: is there more?
    pub fn go_on(&mut self, now: Timestamp, shown: Shown, situation: &Situation) {
        let Some((asked, until)) = self.awaited else {
            return;
        };
        if now > until {
            self.awaited = None;
        } else if shown.rate > asked.bitrate.scale(GOES_ON)
            && !shown.full
            && asked.reason != Reason::Drop
        {
            self.awaited = None;
            let rate = shown.rate.scale(FURTHER);
            self.ask(now, rate, Reason::Further, situation);
        }
    }

    fn ask(&mut self, now: Timestamp, rate: Bitrate, reason: Reason, situation: &Situation) {
        let most = situation.max.min(situation.wanted.scale(2.0));
        let rate = rate.min(most);
        let enough = rate <= situation.target && reason != Reason::Limited;
        if enough || rate == Bitrate::ZERO {
            return;
        }
        let cluster = ProbeCluster {
            id: self.next_id,
            bitrate: rate,
            packets: LEAST_PACKETS,
            duration: DURATION,
            reason,
        };
        self.next_id = self.next_id.wrapping_add(1);
        self.queue.push_back(cluster);
        if self.queue.len() > MOST_CLUSTERS {
            self.queue.pop_front();
        }
        self.clusters.push_back(Cluster {
            asked: cluster,
            packets: 0,
            size: DataSize::ZERO,
            first: (now, DataSize::ZERO),
            last: (now, DataSize::ZERO),
            first_arrival: (RemoteTime::ZERO, DataSize::ZERO),
            last_arrival: RemoteTime::ZERO,
        });
        if self.clusters.len() > MOST_CLUSTERS {
            self.clusters.pop_front();
        }
        self.awaited = Some((cluster, now + PATIENCE));
        self.last = now;
    }

    /// Silence is over and no queue stands: how much of the rate `before` is
    /// there?
    pub fn after_silence(&mut self, now: Timestamp, before: Bitrate, situation: &Situation) {
        if self.enabled && self.awaited.is_none() && self.budget > -OWED_AFTER_SILENCE {
            let rate = before.scale(SILENCE_SHARE);
            self.ask(now, rate, Reason::Silence, situation);
        }
    }

    /// The time has passed, or the rate has changed.
    pub fn process(&mut self, now: Timestamp, situation: &Situation) {
        if !self.enabled {
            return;
        }
        let target = situation.target;
        if !self.begun {
            self.begun = true;
            self.wanted = situation.wanted;
            self.risen = (target, now);
            for factor in FIRST {
                self.ask(now, target.scale(factor), Reason::Start, situation);
            }
            return;
        }
        if self.awaited.is_some_and(|(_, until)| now > until) {
            self.awaited = None;
        }
        if target > self.risen.0.scale(1.1) {
            self.risen = (target, now);
        } else if target < self.risen.0.scale(DROP) {
            self.before_drop = Some((self.risen.0, now));
            self.risen = (target, now);
        }
        let more = situation.wanted > self.wanted;
        self.wanted = situation.wanted;
        if self.awaited.is_some() || self.budget <= 0.0 && !more {
            return;
        }
        if let Some((rate, reason)) = self.wish(now, situation, more) {
            self.ask(now, rate, reason, situation);
        }
    }

    fn wish(
        &mut self,
        now: Timestamp,
        situation: &Situation,
        more: bool,
    ) -> Option<(Bitrate, Reason)> {
        let Situation { target, wanted, .. } = *situation;
        let open_for = |time| situation.queue_at.is_none_or(|at| now.since(at) >= time);
        if more && target < wanted {
            return Some((target.scale(FURTHER).min(wanted), Reason::Wanted));
        }
        if let Some((before, at)) = self.before_drop
            && open_for(AFTER_DROP)
            && now.since(at) >= AFTER_DROP
        {
            self.before_drop = None;
            if now.since(at) < DROP_MEMORY && target < before.scale(DROP_SHARE) {
                let rate = before.scale(DROP_SHARE).min(target.scale(DROP_MOST));
                return Some((rate, Reason::Drop));
            }
        }
        if situation.limited_since.is_some() {
            if now.since(self.last) < ALR_INTERVAL {
                return None;
            }
            // Is it still true, and if more is wanted, is there more?
            let rate = if target < wanted {
                target.scale(FURTHER).min(wanted)
            } else {
                target
            };
            return Some((rate, Reason::Limited));
        }
        let stagnant = target < wanted
            && now.since(self.risen.1) >= STAGNATION
            && now.since(self.last) >= STAGNATION
            && open_for(STAGNATION / 2);
        stagnant.then(|| {
            (
                target.scale(STAGNATION_RATE).min(wanted),
                Reason::Stagnation,
            )
        })
    }
}

#[cfg(test)]
mod tests;
