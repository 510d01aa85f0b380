// SPDX-License-Identifier: MPL-2.0
//! The model of a run, and what it counts.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use dualstream_netsim::{Capacity, Fate, Link, LinkConfig, Loss, LossBasedFlow, QueueLimit, Sent};
use gcc_core::{Config, ConfigError, Report, Tuning};

use crate::flow::{Demand, Flow, Packet};

/// Figures are counted in bins of this.
pub const BIN: Duration = Duration::from_millis(100);
const REPORT: Duration = Duration::from_secs(1);
const CROSS_PACKET: DataSize = DataSize::from_bytes(1500);

/// A flow that fills the queue until it loses something.
#[derive(Clone, Copy, Debug)]
pub struct Cross {
    pub from: Timestamp,
    pub to: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub capacity: Capacity,
    pub queue: Duration,
    pub one_way: Duration,
    pub jitter: Duration,
    /// Behind the bottleneck: what is lost has taken capacity.
    pub loss: Loss,
    pub feedback: Duration,
    pub length: Duration,
    pub flows: Vec<(Timestamp, Demand)>,
    pub cross: Option<Cross>,
    pub seed: u64,
}

impl Scenario {
    /// One flow over 20 ms each way with a queue of 300 ms, and feedback each
    /// 50 ms.
    pub fn new(capacity: Capacity, length: Duration) -> Self {
        Self {
            capacity,
            queue: Duration::from_millis(300),
            one_way: Duration::from_millis(20),
            jitter: Duration::ZERO,
            loss: Loss::None,
            feedback: Duration::from_millis(50),
            length,
            flows: vec![(Timestamp::ZERO, Demand::All)],
            cross: None,
            seed: 1,
        }
    }
}

/// A tenth of a second of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowBins {
    pub target: Bitrate,
    pub sent: DataSize,
    pub delivered: DataSize,
}

#[derive(Clone, Debug, Default)]
pub struct Bin {
    pub capacity: DataSize,
    pub flows: Vec<FlowBins>,
    pub cross: DataSize,
    /// Of the packets that left the bottleneck.
    pub queued: Vec<Duration>,
    /// Of the packets of the first flow that left the sender.
    pub held: Vec<Duration>,
    /// From the source to the end of the bottleneck: of media of the first
    /// flow that left it.
    pub waited: Vec<Duration>,
}

#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub bins: Vec<Bin>,
    pub sent: u64,
    pub lost: u64,
    /// Of each flow, at the end.
    pub stats: Vec<gcc_core::Stats>,
}

enum Carried {
    Flow(Packet),
    Cross(u64, Timestamp),
}

/// All flows have the same configuration.
pub fn run(scenario: &Scenario, config: &Config, tuning: &Tuning) -> Result<Outcome, ConfigError> {
    Ok(World::new(scenario, config, tuning)?.run())
}

struct World<'a> {
    scenario: &'a Scenario,
    flows: Vec<Flow>,
    cross: Option<LossBasedFlow>,
    link: Link<Carried>,
    fate: Fate,
    rng: fastrand::Rng,
    /// Messages on their way back.
    back: VecDeque<(Timestamp, usize, Vec<Report>)>,
    acks: VecDeque<(Timestamp, u64, Timestamp)>,
    outcome: Outcome,
    /// Since the last report: lost and all, per flow.
    counts: Vec<(u64, u64)>,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, config: &Config, tuning: &Tuning) -> Result<Self, ConfigError> {
        let link = Link::new(
            LinkConfig {
                capacity: scenario.capacity.clone(),
                queue: QueueLimit::Time(scenario.queue),
                delay: scenario.one_way,
                jitter: scenario.jitter,
                reordering: None,
                loss: Loss::None,
            },
            scenario.seed,
        )
        .expect("a link");
        let flows: Vec<Flow> = scenario
            .flows
            .iter()
            .map(|(start, demand)| Flow::new(*config, *tuning, *start, *demand))
            .collect::<Result<_, _>>()?;
        let bins = scenario.length.as_nanos().div_ceil(BIN.as_nanos()) as u64;
        let nanos = BIN.as_nanos() as u64;
        let at = |n: u64| Timestamp::from_nanos(n * nanos);
        let outcome = Outcome {
            bins: (0..bins)
                .map(|n| Bin {
                    capacity: scenario.capacity.between(at(n), at(n + 1)),
                    flows: vec![FlowBins::default(); flows.len()],
                    ..Bin::default()
                })
                .collect(),
            ..Outcome::default()
        };
        Ok(Self {
            scenario,
            counts: vec![(0, 0); flows.len()],
            flows,
            cross: scenario.cross.map(|cross| LossBasedFlow::new(cross.from)),
            link,
            fate: Fate::new(scenario.loss),
            rng: fastrand::Rng::with_seed(scenario.seed ^ 0x5eed),
            back: VecDeque::new(),
            acks: VecDeque::new(),
            outcome,
        })
    }

    fn bin(&mut self, at: Timestamp) -> Option<&mut Bin> {
        let n = at.as_nanos() / BIN.as_nanos() as u64;
        self.outcome.bins.get_mut(n as usize)
    }

    fn run(mut self) -> Outcome {
        let end = Timestamp::ZERO + self.scenario.length;
        let (mut now, mut feedback) = (Timestamp::ZERO, Timestamp::ZERO + self.scenario.feedback);
        let (mut report, mut mark) = (Timestamp::ZERO + REPORT, Timestamp::ZERO + BIN);
        while now < end {
            self.receive(now);
            if now >= feedback {
                feedback = feedback + self.scenario.feedback;
                let back = now + self.scenario.one_way;
                for (n, flow) in self.flows.iter_mut().enumerate() {
                    if let Some(message) = flow.message() {
                        self.back.push_back((back, n, message));
                    }
                }
            }
            while let Some((at, _, _)) = self.back.front()
                && *at <= now
                && let Some((_, n, message)) = self.back.pop_front()
            {
                self.flows[n].controller.feedback(now, &message);
            }
            if now >= report {
                report = report + REPORT;
                for (flow, (lost, all)) in self.flows.iter_mut().zip(&mut self.counts) {
                    if *all > 0 {
                        let loss = *lost as f64 / *all as f64;
                        let loss = dualstream_common::Ratio::clamped(loss);
                        flow.controller.loss_report(now, loss);
                    }
                    (*lost, *all) = (0, 0);
                }
            }
            self.send(now);
            if now >= mark {
                let before = Timestamp::from_nanos(mark.as_nanos() - 1);
                mark = mark + BIN;
                let targets: Vec<_> = self
                    .flows
                    .iter()
                    .map(|flow| flow.controller.estimate().target)
                    .collect();
                if let Some(bin) = self.bin(before) {
                    for (flow, target) in bin.flows.iter_mut().zip(targets) {
                        flow.target = target;
                    }
                }
            }
            now = self.next(now).min(feedback).min(report).min(mark);
        }
        self.outcome.stats = self
            .flows
            .iter()
            .map(|flow| flow.controller.stats())
            .collect();
        self.outcome
    }

    fn next(&self, now: Timestamp) -> Timestamp {
        let mut next = now + Duration::from_millis(10);
        for flow in &self.flows {
            next = flow.next(now).map_or(next, |at| next.min(at));
        }
        if let Some(at) = self.link.next_arrival() {
            next = next.min(at);
        }
        if let Some((at, ..)) = self.back.front() {
            next = next.min(*at);
        }
        if let Some((at, ..)) = self.acks.front() {
            next = next.min(*at);
        }
        next.max(now + Duration::from_nanos(1))
    }

    fn receive(&mut self, now: Timestamp) {
        while let Some(arrived) = self.link.receive(now) {
            let left = arrived.at.since(Timestamp::ZERO + self.scenario.one_way);
            let left = Timestamp::ZERO + left;
            match arrived.packet {
                Carried::Cross(number, sent) => {
                    let back = arrived.at + self.scenario.one_way;
                    self.acks.push_back((back, number, sent));
                    if let Some(bin) = self.bin(left) {
                        bin.cross += CROSS_PACKET;
                    }
                }
                Carried::Flow(packet) => {
                    let lost = self.fate.loses(&mut self.rng);
                    self.counts[packet.flow].1 += 1;
                    if let Some(bin) = self.bin(left) {
                        bin.queued.push(arrived.queued);
                        if packet.flow == 0 {
                            let made = packet.made.map(|made| left.since(made));
                            bin.waited.extend(made);
                        }
                        if !lost {
                            bin.flows[packet.flow].delivered += packet.size;
                        }
                    }
                    if lost {
                        self.counts[packet.flow].0 += 1;
                        self.outcome.lost += 1;
                    } else {
                        self.flows[packet.flow].arrived(packet.seq, arrived.at);
                    }
                }
            }
        }
        while let Some((at, number, sent)) = self.acks.front().copied()
            && at <= now
        {
            self.acks.pop_front();
            if let Some(cross) = &mut self.cross {
                cross.acknowledged(now, number, at.since(sent));
            }
        }
    }

    fn send(&mut self, now: Timestamp) {
        for n in 0..self.flows.len() {
            while let Some(mut packet) = self.flows[n].send(now) {
                packet.flow = n;
                self.outcome.sent += 1;
                let held = packet.made.map(|made| now.since(made));
                if let Some(bin) = self.bin(now) {
                    bin.flows[n].sent += packet.size;
                    if n == 0 {
                        bin.held.extend(held);
                    }
                }
                if self.link.send(now, packet.size, Carried::Flow(packet)) == Sent::Dropped {
                    self.outcome.lost += 1;
                    self.counts[n].0 += 1;
                    self.counts[n].1 += 1;
                }
            }
        }
        if let (Some(flow), Some(times)) = (&mut self.cross, self.scenario.cross)
            && (times.from..times.to).contains(&now)
        {
            while let Some(number) = flow.send(now) {
                self.link
                    .send(now, CROSS_PACKET, Carried::Cross(number, now));
            }
        }
    }
}
