// SPDX-License-Identifier: MPL-2.0
//! Bandwidth estimation at the sender from transport-wide feedback.
//!
//! ```text
//! sent ----> history <---- feedback
//!               | packets that arrived, in order
//!     +---------+-----------+-------------+-----------+
//!     v         v           v             v           v
//!  delay    arrival_group  probe        loss       response
//!     v         v           | a rate      |           |
//!  own_queue trendline or   |          bottleneck  silence
//!     |      kalman         v             |           |
//!     |         v        capacity <-------+-----------+
//!     |      detector       |
//!     +---------+-----------+
//!               v
//!             rate --- min, max, REMB ---> Estimate
//! ```
//!
//! [`ReceiverEstimator`] has the stages of the delay at the receiver, for peers
//! that only speak REMB.
//!
//! Told the time and what happened, it says what to send; docs/gcc.md has the
//! stages, their sources and the differences from them.

mod alr;
mod arrival_group;
mod capacity;
mod comeback;
mod config;
mod delay;
mod detector;
mod foreign;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod history;
mod kalman;
mod loss;
mod own_queue;
mod probe;
mod rate;
mod receiver;
pub mod remb;
mod response;
mod sources;
mod trendline;

use std::time::Duration;

use alr::{Allowance, Alr};
use arrival_group::Groups;
use capacity::Capacity;
pub use capacity::Tuning;
pub use config::{Config, ConfigError, DelayFilter};
use delay::{BaseDelay, RawDelay};
use detector::Detector;
pub use detector::Usage;
use dualstream_common::{Bitrate, DataSize, Ratio, Timestamp};
pub use history::{Counters, Received, Report};
use history::{History, Outcome};
use kalman::Kalman;
use loss::LossModel;
pub use loss::Verdict;
use own_queue::OwnQueue;
pub use probe::{ProbeCluster, Reason};
use probe::{Prober, Situation};
use rate::{Heard, RateControl};
pub use rate::{Signal, State};
pub use receiver::{AbsSendTime, ReceiverEstimator, ReceiverStats, Remb};
use response::{Response, Unqueued};
use sources::Sources;
use trendline::Trendline;

/// Feedback is late when it takes this much longer than the longest that it
/// takes otherwise, s.
const LATE: f64 = 0.03;
/// A least delay that is lower by more than this is news.
const FELL_NANOS: i64 = 1_000_000;
/// Silence is not looked for before so many messages.
const FEW_MESSAGES: u64 = 5;
/// Where less of the target arrives, the application limits. Encoders with
/// short buffers leave some 15 % unused, and that is not meant.
const LIMITED: f64 = 0.82;
/// Silence is over, and a probe is of use, when packets come this soon, s. One
/// that has waited alone for an outage that leaks has no queue of ours either.
const DRAINED: f64 = 0.05;
/// How often silence is looked at.
const STEP: Duration = Duration::from_millis(10);
/// The queue of a probe at the start may be seen for so long after it.
const PROBE_TIME: Duration = Duration::from_millis(500);
/// Of the rate above which losses begin.
const BELOW_BOTTLENECK: f64 = 0.97;
/// REMB holds for so long.
const REMB_AGE: Duration = Duration::from_secs(10);
/// The window is never below this.
const LEAST_WINDOW: DataSize = DataSize::from_bytes(3000);
/// RTCP's loss is believed as GCC says, where there is no feedback for each
/// packet (draft-ietf-rmcat-gcc-02 section 6).
const LOSS_LOW: f64 = 0.02;
const LOSS_HIGH: f64 = 0.10;
const LOSS_RISE: f64 = 1.05;

/// 20 000 packets sent, 2048 that arrived, 500 targets, and little else.
pub const MOST_REMEMBERED: usize = 22_900;

/// What decided the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nothing is known yet.
    #[default]
    Start,
    /// A probe has shown more.
    Probe,
    /// The queue is shorter than aimed at.
    Room,
    /// The queue is as aimed at, or growing while it is short.
    Steady,
    /// The queue is longer than aimed at.
    Queue,
    /// The queue is drained to see the least delay.
    Drain,
    /// The application sends less than it may.
    Limited,
    /// Another flow fills the queue.
    Competition,
    /// Feedback is late.
    Silence,
    /// Losses show what the link takes.
    Loss,
    /// The peer's own estimate.
    Remb,
    /// The limits of the configuration.
    Minimum,
    Maximum,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// For all media.
    pub target: Bitrate,
    pub cause: Cause,
    /// Most that may be in flight.
    pub window: Option<DataSize>,
    /// Of packets, smoothed.
    pub loss: Ratio,
    pub rtt: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    pub packets: Counters,
    pub feedback: u64,
    /// Feedback in which nothing was new.
    pub idle_feedback: u64,
    pub probes: u64,
    pub probe_results: u64,
    pub overuses: u64,
    pub competitions: u64,
    pub silences: u64,
    pub state: State,
    pub usage: Usage,
    pub capacity: Bitrate,
    pub plateau: Bitrate,
    pub margin: Ratio,
    pub received: Bitrate,
    pub queue: Duration,
    pub threshold_ms: f64,
    pub gradient_ms: f64,
    pub losses: Verdict,
    pub in_flight: DataSize,
    pub limited: bool,
}

#[derive(Debug)]
enum Filter {
    Trendline(Trendline),
    Kalman(Kalman),
}

/// Sender side. All that it remembers is bounded: see each stage.
#[derive(Debug)]
pub struct Controller {
    config: Config,
    history: History,
    outcome: Outcome,
    base: BaseDelay,
    queue: OwnQueue,
    groups: Groups,
    filter: Filter,
    detector: Detector,
    capacity: Capacity,
    rate: RateControl,
    losses: LossModel,
    prober: Prober,
    response: Response,
    alr: Alr,
    allowance: Allowance,
    sources: Sources,
    remb: Option<(Bitrate, Timestamp)>,
    /// Where there is no feedback for each packet: GCC's rate from RTCP's loss.
    blind: f64,
    /// Losses have lowered it below what the peer estimates.
    is_lossy: bool,
    /// Before the limits.
    decided: (Bitrate, Cause),
    estimate: Estimate,
    queue_at: Option<Timestamp>,
    processed: Option<Timestamp>,
    /// When the last probe of the start was given out.
    probed_at: Option<Timestamp>,
    /// The target when feedback failed to come.
    before_silence: Option<Bitrate>,
    stats: Stats,
}

impl Controller {
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        Self::with_tuning(config, Tuning::default())
    }

    /// For experiments.
    pub fn with_tuning(config: Config, tuning: Tuning) -> Result<Self, ConfigError> {
        config.validate()?;
        let start = config.start.as_bps() as f64;
        Ok(Self {
            history: History::default(),
            outcome: Outcome::default(),
            base: BaseDelay::default(),
            queue: OwnQueue::default(),
            groups: Groups::default(),
            filter: match config.filter {
                DelayFilter::Trendline => Filter::Trendline(Trendline::default()),
                DelayFilter::Kalman => Filter::Kalman(Kalman::default()),
            },
            detector: Detector::default(),
            capacity: Capacity::new(tuning, start),
            rate: RateControl::new(config.queue_aim, start),
            losses: LossModel::default(),
            prober: Prober::new(config.probing),
            response: Response::default(),
            alr: Alr::default(),
            allowance: Allowance::default(),
            sources: Sources::default(),
            remb: None,
            blind: start,
            is_lossy: false,
            decided: (config.start, Cause::Start),
            estimate: Estimate {
                target: config.start,
                cause: Cause::Start,
                window: None,
                loss: Ratio::ZERO,
                rtt: None,
            },
            queue_at: None,
            processed: None,
            probed_at: None,
            before_silence: None,
            stats: Stats::default(),
            config,
        })
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// New limits hold at once; the start rate and the filter are of no use
    /// any more.
    pub fn configure(&mut self, now: Timestamp, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.rate.set_aim(config.queue_aim);
        self.config = config;
        self.limit(now);
        Ok(())
    }

    /// What the application could use has changed: a probe follows if it is
    /// more.
    pub fn set_wanted(&mut self, wanted: Option<Bitrate>) {
        self.config.wanted = wanted;
    }

    #[must_use]
    pub fn estimate(&self) -> Estimate {
        self.estimate
    }

    #[must_use]
    pub fn in_flight(&self) -> DataSize {
        self.history.in_flight()
    }

    /// Entries that all stages keep; at most [`MOST_REMEMBERED`].
    #[must_use]
    pub fn remembered(&self) -> usize {
        let filter = match &self.filter {
            Filter::Trendline(filter) => filter.remembered(),
            Filter::Kalman(_) => 0,
        };
        self.history.remembered()
            + self.base.remembered()
            + self.queue.remembered()
            + filter
            + self.losses.remembered()
            + self.prober.remembered()
            + self.response.remembered()
            + self.alr.remembered()
            + self.allowance.remembered()
            + self.sources.remembered()
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            packets: self.history.counters(),
            state: self.rate.state(),
            usage: self.detector.usage(),
            capacity: bitrate(self.capacity.now()),
            plateau: bitrate(self.capacity.plateau()),
            margin: Ratio::clamped(self.capacity.margin()),
            threshold_ms: self.detector.threshold_ms(),
            losses: self.losses.verdict(),
            in_flight: self.history.in_flight(),
            limited: self.alr.limited_since().is_some(),
            ..self.stats
        }
    }

    /// A packet has left. `seq` is its transport-wide number; `marker` is that
    /// of RTP, at the end of a frame.
    pub fn sent(
        &mut self,
        now: Timestamp,
        seq: u16,
        size: DataSize,
        probe: Option<u32>,
        marker: bool,
    ) {
        self.history.sent(now, seq, size, probe, marker);
        if probe.is_none() {
            self.alr.sent(now, size);
        }
        self.prober
            .sent(size, self.estimate.target, probe.is_some());
    }

    /// A packet of this source has left, with a transport-wide number or without:
    /// REMB goes by sources.
    pub fn sent_by(&mut self, now: Timestamp, ssrc: u32, size: DataSize) {
        self.sources.sent(now, ssrc, size);
    }

    /// A probe to send now.
    pub fn next_probe(&mut self, now: Timestamp) -> Option<ProbeCluster> {
        let cluster = self.prober.next()?;
        if cluster.reason == Reason::Start {
            self.probed_at = Some(now);
        }
        self.stats.probes += 1;
        Some(cluster)
    }

    /// The least that must be called again, however little happens.
    #[must_use]
    pub fn next_process(&self) -> Option<Timestamp> {
        self.processed.map(|at| at + STEP)
    }

    /// Time has passed: silence, probes. Says whether the estimate changed.
    pub fn process(&mut self, now: Timestamp) -> bool {
        let dt = match self.processed {
            Some(at) if now.since(at) < STEP => return false,
            Some(at) => now.since(at).as_secs_f64(),
            None => 0.0,
        };
        self.processed = Some(now);
        let before = self.estimate;
        self.compare(now);
        if self.is_late(now) {
            if self.rate.state() != State::Silent {
                self.stats.silences += 1;
                self.before_silence = Some(self.rate_before_silence());
            }
            self.capacity.silent(dt.min(0.1));
            let rate = self.rate.silent(&self.capacity);
            self.decide(now, rate, Cause::Silence);
        } else {
            let situation = self.situation();
            self.prober.process(now, &situation);
        }
        self.estimate != before
    }

    /// Of one silence after another, and of one after a fall, the rate before
    /// the first counts.
    fn rate_before_silence(&self) -> Bitrate {
        let fallen = self.capacity.goal().map_or(Bitrate::ZERO, bitrate);
        let before = self.before_silence.unwrap_or(Bitrate::ZERO);
        before.max(fallen).max(self.estimate.target)
    }

    /// What was sent of late with what might have been.
    fn compare(&mut self, now: Timestamp) {
        let target = self.estimate.target;
        self.allowance.update(now, target);
        let lately = self.allowance.lately(now);
        self.alr.update(now, lately.map_or(target, bitrate));
    }

    fn is_late(&self, now: Timestamp) -> bool {
        // From one or two messages nobody knows when the next one comes.
        if self.stats.feedback < FEW_MESSAGES {
            return false;
        }
        // Beside another flow, what waits is its doing.
        let longest = if self.rate.is_competing() {
            self.response.expected()
        } else {
            self.response.longest()
        };
        let (Some(since), Some(longest)) = (self.history.waiting_since(), longest) else {
            return false;
        };
        now.since(since).as_secs_f64() > longest + LATE
    }

    /// A limit decides the rate: what is sent does not try the link.
    fn is_held(&self) -> bool {
        matches!(self.estimate.cause, Cause::Maximum | Cause::Remb)
    }

    fn situation(&self) -> Situation {
        Situation {
            target: self.estimate.target,
            max: self.config.max,
            wanted: self.wanted(),
            limited_since: self.alr.limited_since(),
            queue_at: self.queue_at,
        }
    }

    fn wanted(&self) -> Bitrate {
        self.config.wanted.unwrap_or(self.config.max)
    }

    /// A feedback message. Says whether the estimate changed.
    pub fn feedback(&mut self, now: Timestamp, reports: &[Report]) -> bool {
        self.stats.feedback += 1;
        let mut outcome = std::mem::take(&mut self.outcome);
        self.history.feedback(now, reports, &mut outcome);
        let changed = self.take_in(now, &outcome);
        self.outcome = outcome;
        changed
    }

    fn take_in(&mut self, now: Timestamp, outcome: &Outcome) -> bool {
        if outcome.newly_known + outcome.recovered == 0 {
            self.stats.idle_feedback += 1;
            return false;
        }
        let before = self.estimate;
        let dt = match self.response.last() {
            Some(last) => now.since(last).as_secs_f64().clamp(1e-4, 10.0),
            None => STEP.as_secs_f64(),
        };
        if self.rate.state() == State::Silent {
            self.queue.cut();
        }
        let least = self.base.least();
        let response = self.groups_and_queue(now, outcome);
        self.response.feedback(now, outcome.round_trip, response);
        let fell = match (least, self.base.least()) {
            (Some(before), Some(least)) => before.above(least).as_nanos() > FELL_NANOS,
            _ => false,
        };
        let size = outcome
            .received
            .iter()
            .fold(outcome.lost_bytes, |sum, packet| sum + packet.size);
        self.losses
            .update(now, outcome.newly_known, outcome.newly_lost, size);
        self.compare(now);
        let situation = self.situation();
        let shown = self.prober.results(&outcome.received);
        let probed = shown.is_some_and(|(shown, _)| {
            let rate = shown.rate.as_bps() as f64;
            rate > self.capacity.now()
        });
        if let Some((shown, reason)) = shown {
            self.stats.probe_results += 1;
            let rate = shown.rate.as_bps() as f64;
            self.capacity.at_least(rate);
            if shown.full && reason == Reason::Limited {
                self.capacity.at_most(rate);
            }
            self.prober.go_on(now, shown, &situation);
        }
        let heard = self.heard(now, dt, fell, outcome);
        let limited = heard.limited;
        if !self.rate.stands(heard.standing)
            && heard.delay < DRAINED
            && let Some(before) = self.before_silence.take()
        {
            self.prober.after_silence(now, before, &situation);
        }
        if !self.rate.is_competing() {
            if let Some(received) = heard.received {
                if self.rate.stands(heard.standing) {
                    self.queue_at = Some(now);
                    // What a probe queues is no dip of the link.
                    let probed = self.probed_at.is_some_and(|at| now.since(at) < PROBE_TIME);
                    let standing = if probed { 0.0 } else { heard.standing };
                    self.capacity.full(received, dt, standing, heard.response);
                } else {
                    let trying = !limited && !self.is_held() && heard.usage != Usage::Over;
                    let response = Some(heard.response);
                    self.capacity.open(received, dt, trying, response);
                }
            }
        } else if let Some(received) = heard.received {
            self.capacity.full(received, dt, 0.0, heard.response);
        }
        if let Some(bottleneck) = self.losses.verdict().bottleneck {
            self.capacity
                .at_most(bottleneck.as_bps() as f64 * BELOW_BOTTLENECK);
        }
        let ahead = self
            .queue
            .ahead(now, self.history.total(), self.capacity.now());
        let competed = self.rate.is_competing();
        let former = bitrate(self.rate.before());
        let rate = self.rate.heard(&heard, &self.capacity, ahead);
        match (competed, self.rate.is_competing()) {
            (false, true) => self.stats.competitions += 1,
            (true, false) => self.prober.after_silence(now, former, &situation),
            _ => {}
        }
        if heard.usage == Usage::Over {
            self.stats.overuses += 1;
        }
        self.stats.received = bitrate(heard.received.unwrap_or(0.0));
        self.stats.queue = Duration::from_secs_f64(heard.delay.clamp(0.0, 1e6));
        let cause = match self.rate.state() {
            _ if probed => Cause::Probe,
            State::Compete => Cause::Competition,
            _ if self.losses.verdict().bottleneck.is_some() => Cause::Loss,
            _ if self.rate.is_draining() => Cause::Drain,
            State::Decrease => Cause::Queue,
            State::Hold if limited => Cause::Limited,
            State::Hold => Cause::Steady,
            State::Increase => Cause::Room,
            State::Silent => Cause::Silence,
        };
        self.decide(now, rate, cause);
        self.estimate != before
    }

    /// Also says how soon this was heard of the packet that waited longest for
    /// the feedback, and of the one that waited least, without the time that
    /// they waited in queues.
    fn groups_and_queue(&mut self, now: Timestamp, outcome: &Outcome) -> Option<Unqueued> {
        let mut response: Option<Unqueued> = None;
        for packet in &outcome.received {
            let raw = RawDelay::new(packet.sent, packet.arrival);
            if self.base.is_another_clock(raw) {
                self.base = BaseDelay::default();
                self.queue.reset();
                self.groups.reset();
            }
            let delay = self.base.update(now, raw, self.rate.is_competing());
            let took = now.since(packet.sent).saturating_sub(delay);
            response = Some(response.map_or(Unqueued::of(took), |all| all.with(took)));
            let (now_bps, best_bps) = (self.capacity.plateau(), self.capacity.best());
            self.queue.push(packet, delay, now_bps, best_bps);
            if let Some(delta) = self.groups.packet(packet.sent, packet.arrival, packet.size) {
                let gradient = match &mut self.filter {
                    Filter::Trendline(filter) => filter.update(&delta),
                    Filter::Kalman(filter) => filter.update(&delta),
                };
                self.stats.gradient_ms = gradient;
                self.detector.update(delta.at, gradient, delta.send);
            }
        }
        response
    }

    fn heard(&self, now: Timestamp, dt: f64, fell: bool, outcome: &Outcome) -> Heard {
        let received = self.queue.receive_rate();
        Heard {
            now,
            dt,
            standing: self.queue.standing(),
            delay: self.queue.delay(),
            fell,
            usage: self.detector.usage(),
            received,
            limited: self.alr.limited_since().is_some() || self.sent_less(received),
            losses: outcome.newly_lost,
            response: self.response.smoothed().unwrap_or(0.1),
        }
    }

    /// Was less sent than was allowed? What arrives is what was allowed some time
    /// ago, which is less than now while the rate grows.
    fn sent_less(&self, received: Option<f64>) -> bool {
        let allowed = |(from, to, sent)| Some((sent, self.allowance.between(from, to)?));
        match self.queue.send_rate().and_then(allowed) {
            Some((sent, allowed)) => sent < LIMITED * allowed,
            None => {
                let target = self.estimate.target.as_bps() as f64;
                received.is_some_and(|rate| rate < LIMITED * target)
            }
        }
    }

    /// RTCP's round trip, without what packets wait.
    pub fn rtt(&mut self, rtt: Duration) {
        self.response.reported(rtt);
        self.estimate.rtt = self.response.rtt();
    }

    /// RTCP's share of packets lost. It sets the rate only where no feedback
    /// for each packet comes.
    pub fn loss_report(&mut self, now: Timestamp, loss: Ratio) -> bool {
        if self.response.last().is_some() {
            return false;
        }
        let before = self.estimate;
        let loss = loss.value();
        if loss > LOSS_HIGH {
            self.blind *= 1.0 - 0.5 * loss;
            self.is_lossy = true;
        } else if loss < LOSS_LOW {
            self.blind *= LOSS_RISE;
        }
        self.blind = self.blind.clamp(
            self.config.min.as_bps() as f64,
            self.config.max.as_bps() as f64,
        );
        self.estimate.loss = Ratio::clamped(loss);
        self.decide(now, self.blind, Cause::Loss);
        self.estimate != before
    }

    /// The peer's own estimate, with what is sent of the sources that it does
    /// not name, is an upper bound for some seconds. Where there is no other
    /// feedback it is the rate, but for losses: a receiver that goes by delays
    /// alone sees none in a queue that is always full.
    pub fn remb(&mut self, now: Timestamp, remb: &remb::Remb) -> bool {
        let before = self.estimate;
        let rate = self.sources.remb(now, remb, REMB_AGE);
        self.remb = Some((rate, now));
        if self.response.last().is_some() {
            self.limit(now);
        } else {
            let rate = rate.as_bps() as f64;
            self.is_lossy &= rate > self.blind;
            if !self.is_lossy {
                self.blind = rate;
            }
            let cause = if self.is_lossy {
                Cause::Loss
            } else {
                Cause::Remb
            };
            self.decide(now, self.blind, cause);
        }
        self.estimate != before
    }

    fn decide(&mut self, now: Timestamp, rate: f64, cause: Cause) {
        self.decided = (bitrate(rate), cause);
        self.limit(now);
    }

    /// All limits, in this one place.
    fn limit(&mut self, now: Timestamp) {
        let (mut target, mut cause) = self.decided;
        if let Some((remb, at)) = self.remb
            && now.since(at) < REMB_AGE
            && remb < target
        {
            (target, cause) = (remb, Cause::Remb);
        }
        if target < self.config.min {
            (target, cause) = (self.config.min, Cause::Minimum);
        } else if target > self.config.max {
            (target, cause) = (self.config.max, Cause::Maximum);
        }
        // Who answers at the ends of frames alone must get whole frames.
        let within_frames = self.history.is_heard_within_frames();
        let window = self
            .config
            .window
            .filter(|_| within_frames)
            .and_then(|slack| {
                let time = self.response.longest()? + slack.as_secs_f64();
                let competing = self.rate.is_competing();
                let rate = bitrate(self.capacity.now());
                let window = rate * Duration::from_secs_f64(time.clamp(0.0, 10.0));
                if self.rate.state() == State::Silent {
                    return Some(DataSize::ZERO);
                }
                (!competing).then(|| window.max(LEAST_WINDOW))
            });
        let loss = match self.response.last() {
            Some(_) => Ratio::clamped(self.losses.loss()),
            None => self.estimate.loss,
        };
        self.estimate = Estimate {
            target,
            cause,
            window,
            loss,
            rtt: self.response.rtt(),
        };
    }
}

fn bitrate(bps: f64) -> Bitrate {
    debug_assert!(bps.is_finite());
    Bitrate::ZERO.max(Bitrate::from_bps(bps.round() as u64))
}

#[cfg(test)]
mod tests;
