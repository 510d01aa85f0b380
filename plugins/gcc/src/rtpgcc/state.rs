// SPDX-License-Identifier: MPL-2.0
//! What the element knows from READY to READY.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use gcc_core::{Controller, ProbeCluster};

use super::estimate::{Message, Schedule, cause_nick, nanos, state_nick, usage_nick};
use super::rtcp::Losses;
use super::twcc;

pub const STATS: &str = "application/x-rtpgcc-stats";
/// Time from one search for the session to the next: doubles from the first
/// to the second while none is found.
const SEARCH_GAP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

pub struct State {
    pub core: Controller,
    pub numbers: twcc::Numbers,
    pub schedule: Schedule,
    pub probe: Option<ProbeCluster>,
    pub losses: Losses,
    /// There was feedback for packets, or it is known to come: time passes for
    /// the core.
    pub running: bool,
    /// There is something to tell.
    pub known: bool,
    pub expect_feedback: bool,
    pub notified: Bitrate,
    /// Next search for the session, and the time between searches.
    pub search: (Timestamp, Duration),
    /// Of the thread that serves it.
    pub serial: u64,
    pub packets: u64,
    pub bytes: DataSize,
    /// Those at the last look at losses.
    pub bytes_before: DataSize,
    pub malformed: u64,
    pub rembs: u64,
    pub reports: u64,
    pub estimates: u64,
}

impl State {
    pub fn new(core: Controller, expect_feedback: bool, serial: u64) -> Self {
        Self {
            notified: core.estimate().target,
            core,
            numbers: twcc::Numbers::default(),
            schedule: Schedule::default(),
            probe: None,
            losses: Losses::default(),
            running: false,
            known: false,
            expect_feedback,
            search: (Timestamp::ZERO, SEARCH_GAP.0),
            serial,
            packets: 0,
            bytes: DataSize::ZERO,
            bytes_before: DataSize::ZERO,
            malformed: 0,
            rembs: 0,
            reports: 0,
            estimates: 0,
        }
    }

    /// Looks at what the core has to say now.
    pub fn look(&mut self) {
        if self.known {
            let (estimate, in_flight) = (self.core.estimate(), self.core.in_flight());
            self.schedule.update(estimate, in_flight);
        }
    }

    /// What is to be sent now, or when to look again.
    pub fn next(&mut self, now: Timestamp) -> Next {
        if self.running && self.core.next_process().is_none_or(|at| at <= now) {
            self.core.process(now);
            self.look();
        }
        if self.running && self.probe.is_none() {
            self.probe = self.core.next_probe(now);
        }
        let due = self.schedule.due();
        if self.probe.is_some() || due.is_some_and(|due| due <= now) {
            let message = Message {
                estimate: self.core.estimate(),
                in_flight: self.core.in_flight(),
                probe: self.probe.take(),
            };
            self.schedule.told(now, message);
            self.estimates += 1;
            let target = message.estimate.target;
            let notify = std::mem::replace(&mut self.notified, target) != target;
            return Next::Tell(message, notify);
        }
        let process = self.core.next_process().filter(|_| self.running);
        match due.into_iter().chain(process).min() {
            Some(at) => Next::Wait(at.since(now)),
            None => Next::Idle,
        }
    }

    /// True if it is time to look for the session.
    pub fn wants_search(&mut self, now: Timestamp, found: bool) -> bool {
        if found || now < self.search.0 {
            return false;
        }
        let gap = self.search.1;
        self.search = (now + gap, (gap * 2).min(SEARCH_GAP.1));
        true
    }

    pub fn search_anew(&mut self) {
        self.search = (Timestamp::ZERO, SEARCH_GAP.0);
    }

    pub fn stats(&self, session: bool) -> gst::Structure {
        let (s, e) = (self.core.stats(), self.core.estimate());
        let window = e.window.map_or(u64::MAX, DataSize::as_bytes);
        let bottleneck = s.losses.bottleneck.map_or(0, Bitrate::as_bps);
        gst::Structure::builder(STATS)
            .field("packets", self.packets)
            .field("bytes", self.bytes.as_bytes())
            .field("sent-packets", s.packets.sent)
            .field("received-packets", s.packets.received)
            .field("lost-packets", s.packets.lost)
            .field("forgotten-packets", s.packets.forgotten)
            .field("unknown-reports", s.packets.unknown)
            .field("repeated-reports", s.packets.repeated)
            .field("malformed", self.malformed)
            .field("realigned", self.numbers.realigned())
            .field("feedback", s.feedback)
            .field("idle-feedback", s.idle_feedback)
            .field("remb", self.rembs)
            .field("reports", self.reports)
            .field("estimates", self.estimates)
            .field("probes", s.probes)
            .field("probe-results", s.probe_results)
            .field("overuses", s.overuses)
            .field("competitions", s.competitions)
            .field("silences", s.silences)
            .field("session", session)
            .field("target-bitrate", e.target.as_bps())
            .field("cause", cause_nick(e.cause))
            .field("state", state_nick(s.state))
            .field("usage", usage_nick(s.usage))
            .field("limited", s.limited)
            .field("capacity", s.capacity.as_bps())
            .field("plateau", s.plateau.as_bps())
            .field("margin", s.margin.value())
            .field("received-bitrate", s.received.as_bps())
            .field("queue", nanos(s.queue))
            .field("gradient", s.gradient_ms)
            .field("threshold", s.threshold_ms)
            .field("loss", e.loss.value())
            .field("inherent-loss", s.losses.inherent)
            .field("loss-bitrate", bottleneck)
            .field("rtt", e.rtt.map_or(0, nanos))
            .field("congestion-window", window)
            .field("in-flight", s.in_flight.as_bytes())
            .build()
    }
}

pub enum Next {
    /// True: notify.
    Tell(Message, bool),
    Wait(Duration),
    Idle,
}
