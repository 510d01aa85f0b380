// SPDX-License-Identifier: MPL-2.0
//! One sender with its estimator and pacer, and its receiver.

use std::collections::BTreeMap;

use dualstream_common::{Bitrate, DataSize, RemoteTime, Timestamp};
use gcc_core::{ConfigError, Controller, Report};
use pacer_core::{Next, Pacer, Priority};

pub const PACKET: DataSize = DataSize::from_bytes(1200);

/// The receiver's clock is not the sender's.
const CLOCK_OFFSET: u64 = 987_654_321_000;
/// Resolution of arrival times on the wire, ns.
const TICK: u64 = 250_000;
const SSRC: u32 = 1;

/// What the application sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Demand {
    /// Its target rate, always.
    All,
    /// This share of its target until then, and all of it afterwards.
    Share(f64, Timestamp),
}

/// A packet on the way.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub flow: usize,
    pub seq: u64,
    pub size: DataSize,
    /// When the source made it; `None` for padding.
    pub made: Option<Timestamp>,
}

/// Sender and receiver.
#[derive(Debug)]
pub struct Flow {
    pub controller: Controller,
    pub start: Timestamp,
    demand: Demand,
    /// Bits that the source may still send.
    credit: f64,
    credited: Timestamp,
    pacer: Pacer<Timestamp>,
    /// When the pacer wants to be asked.
    departure: Option<Timestamp>,
    next_seq: u64,
    /// Receiver: arrivals that have not been reported.
    arrivals: BTreeMap<u64, Timestamp>,
    reported: u64,
}

impl Flow {
    pub fn new(
        config: gcc_core::Config,
        tuning: gcc_core::Tuning,
        start: Timestamp,
        demand: Demand,
    ) -> Result<Self, ConfigError> {
        let pacer = pacer_core::Config {
            padding_size: PACKET,
            queue_time_limit: None,
            ..pacer_core::Config::default()
        };
        Ok(Self {
            controller: Controller::with_tuning(config, tuning)?,
            start,
            demand,
            credit: 0.0,
            credited: start,
            pacer: Pacer::new(pacer).expect("the pacer's own defaults"),
            departure: None,
            next_seq: 0,
            arrivals: BTreeMap::new(),
            reported: 0,
        })
    }

    fn rate(&self, now: Timestamp) -> Bitrate {
        let target = self.controller.estimate().target;
        match self.demand {
            Demand::Share(share, until) if now < until => target.scale(share),
            _ => target,
        }
    }

    /// The source makes what its rate allows.
    fn produce(&mut self, now: Timestamp) {
        let time = now.since(self.credited).as_secs_f64();
        self.credit += self.rate(now).as_bps() as f64 * time;
        self.credited = now;
        let packet = PACKET.as_bits() as f64;
        while self.credit >= packet {
            self.credit -= packet;
            // A full pacer drops what the source makes: an application would
            // skip frames.
            let _ = self.pacer.push(now, SSRC, Priority::Display, PACKET, now);
        }
    }

    /// What leaves now.
    pub fn send(&mut self, now: Timestamp) -> Option<Packet> {
        if now < self.start {
            return None;
        }
        self.controller.process(now);
        while let Some(cluster) = self.controller.next_probe(now) {
            let cluster = pacer_core::ProbeCluster {
                id: cluster.id,
                bitrate: cluster.bitrate,
                packets: cluster.packets,
                duration: cluster.duration,
            };
            self.pacer.probe(now, cluster);
        }
        self.produce(now);
        self.steer(now);
        self.departure = None;
        let (made, size, probe) = match self.pacer.poll(now) {
            Next::Send(departure) => (Some(departure.packet), departure.size, departure.probe),
            Next::Pad { size, probe } => (None, size, probe),
            Next::WaitUntil(at) => {
                self.departure = Some(at);
                return None;
            }
            Next::Idle => return None,
        };
        let seq = self.next_seq;
        self.next_seq += 1;
        // Without frames, no packet ends one.
        self.controller.sent(now, seq as u16, size, probe, false);
        Some(Packet {
            flow: 0,
            seq,
            size,
            made,
        })
    }

    /// What an event would tell the pacer.
    fn steer(&mut self, now: Timestamp) {
        let estimate = self.controller.estimate();
        self.pacer.set_target(now, estimate.target);
        let in_flight = self.controller.in_flight();
        self.pacer
            .set_congestion_window(now, estimate.window, in_flight);
    }

    /// When to call [`Self::send`] again, if nothing else happens.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if now < self.start {
            return Some(self.start);
        }
        let missing = ((PACKET.as_bits() as f64 - self.credit) / 8.0).ceil() as u64 + 1;
        let missing = DataSize::from_bytes(missing);
        let packet = missing.time_at(self.rate(now)).map(|time| now + time);
        [self.departure, self.controller.next_process(), packet]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn arrived(&mut self, seq: u64, at: Timestamp) {
        self.arrivals.insert(seq, at);
    }

    /// The receiver's message about all up to the highest number there; none
    /// if nothing has come since the last one.
    pub fn message(&mut self) -> Option<Vec<Report>> {
        let (first, _) = self.arrivals.first_key_value()?;
        let (highest, _) = self.arrivals.last_key_value()?;
        let (from, highest) = (self.reported.min(*first), *highest);
        let reports = (from..=highest)
            .filter_map(|seq| {
                let arrival = self.arrivals.get(&seq);
                // What was reported as missing is not reported again.
                (arrival.is_some() || seq >= self.reported).then(|| Report {
                    seq: seq as u16,
                    arrival: arrival.map(|at| {
                        let ticks = (at.as_nanos() + CLOCK_OFFSET) / TICK;
                        RemoteTime::from_nanos(ticks * TICK)
                    }),
                    sent: None,
                })
            })
            .collect();
        self.reported = self.reported.max(highest + 1);
        self.arrivals.clear();
        Some(reports)
    }
}
