// SPDX-License-Identifier: MPL-2.0
//! Estimation at the receiver, for peers that speak REMB and nothing better
//! (draft-alvestrand-rmcat-remb-03; draft-ietf-rmcat-gcc-02 section 3;
//! libwebrtc, remote_bitrate_estimator_abs_send_time.cc).
//!
//! The stages are those of the sender. What they lack is what only the sender
//! knows: what it has sent since, so that the queue ahead is taken to be the
//! one that stands; and losses. Deliberate differences from libwebrtc: no
//! clusters are looked for, as a rate that arrives without a queue counts at
//! once; the rate is that of [`crate::rate`], not AIMD.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, ExtSeq, RemoteTime, Timestamp};

use crate::arrival_group::Groups;
use crate::capacity::{Capacity, Tuning};
use crate::delay::{BaseDelay, RawDelay};
use crate::detector::{Detector, Usage};
use crate::history::Received;
use crate::own_queue::OwnQueue;
use crate::rate::{Heard, RateControl, State};
use crate::trendline::Trendline;
use crate::{Config, ConfigError, FELL_NANOS};

/// How often what has come is looked at, as feedback would.
const STEP: Duration = Duration::from_millis(50);
/// Messages are sent no more often,
const INTERVAL: Duration = Duration::from_secs(1);
/// ... unless the rate has fallen below this share of the last one (libwebrtc,
/// remb_throttler.cc: 3 %).
const FALL: f64 = 0.97;
/// Streams that have been quiet for this long are no longer named (libwebrtc:
/// kStreamTimeOut).
const QUIET: Duration = Duration::from_secs(2);
/// Streams named; the one that was quiet for longest goes when there are more.
/// A message could name 255.
const MOST_SSRCS: usize = 64;
/// After such a pause the rate before has nothing to do with the rate now.
const PAUSE: Duration = Duration::from_millis(500);
/// Arriving below this share of what the sender was told, it is limited by
/// something else, or has not heard of it.
const LIMITED: f64 = 0.85;
/// Until the first queue it grows as it does below the plateau, per s.
const FIRST_GROWTH: f64 = 0.7;
/// Until a message takes effect, s: of the messages above the path.
const RESPONSE: f64 = 0.2;

/// The header extension abs-send-time: 24 bits of s in 6.18 fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsSendTime(u32);

impl AbsSendTime {
    const BITS: u32 = 24;
    /// Of a second.
    const FRACTION: u32 = 18;

    /// The lower 24 bits count.
    #[must_use]
    pub const fn from_wire(raw: u32) -> Self {
        Self(raw & ((1 << Self::BITS) - 1))
    }

    #[must_use]
    pub const fn as_wire(self) -> u32 {
        self.0
    }
}

/// Makes departures endless: they wrap each 64 s.
#[derive(Debug, Default)]
struct Departures {
    /// The newest one, in 2^-18 s, and its arrival.
    last: Option<(u64, Timestamp)>,
}

impl Departures {
    const TURN: u64 = 1 << AbsSendTime::BITS;

    /// The departure nearest to the one expected from the time since the last
    /// arrival, so that pauses may be of any length.
    fn unwrap(&mut self, arrival: Timestamp, raw: AbsSendTime) -> RemoteTime {
        let raw = u64::from(raw.0);
        let Some((last, at)) = self.last else {
            // One turn up, so that a little before the first is still a time.
            self.last = Some((Self::TURN + raw, arrival));
            return Self::time(Self::TURN + raw);
        };
        let passed = (arrival.since(at).as_nanos() << AbsSendTime::FRACTION) / 1_000_000_000;
        let expected = last.saturating_add(passed as u64);
        let ahead = raw.wrapping_sub(expected) & (Self::TURN - 1);
        let departure = if ahead < Self::TURN / 2 {
            expected.saturating_add(ahead)
        } else {
            expected.saturating_sub(Self::TURN - ahead)
        };
        if departure >= last {
            self.last = Some((departure, arrival));
        }
        Self::time(departure)
    }

    fn time(units: u64) -> RemoteTime {
        let nanos = (u128::from(units) * 1_000_000_000) >> AbsSendTime::FRACTION;
        RemoteTime::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The stages are written from the sender's side, where departures are of our
/// clock and arrivals of the peer's. Here it is the other way round, and this
/// is the one place where they are swapped: `(departure, arrival)` for the
/// stages. They compare neither to anything but others of its kind.
fn swapped(departure: RemoteTime, arrival: Timestamp) -> (Timestamp, RemoteTime) {
    (
        Timestamp::from_nanos(departure.as_nanos()),
        RemoteTime::from_nanos(arrival.as_nanos()),
    )
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remb {
    pub bitrate: Bitrate,
    /// In the order in which they were first heard.
    pub ssrcs: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReceiverStats {
    pub packets: u64,
    pub messages: u64,
    pub overuses: u64,
    pub state: State,
    pub capacity: Bitrate,
    pub received: Bitrate,
    pub queue: Duration,
}

/// Receiver side. All that it remembers is bounded: see each stage, and
/// [`MOST_SSRCS`]. When nothing comes it says nothing: whether packets are held
/// up or none were sent is known to the sender alone.
#[derive(Debug)]
pub struct ReceiverEstimator {
    config: Config,
    departures: Departures,
    base: BaseDelay,
    queue: OwnQueue,
    groups: Groups,
    trendline: Trendline,
    detector: Detector,
    capacity: Capacity,
    rate: RateControl,
    /// Whether a queue was seen, ever.
    queued: bool,
    count: u64,
    total: DataSize,
    last_arrival: Option<Timestamp>,
    updated: Option<Timestamp>,
    /// Least delay at the last update.
    least: Option<RawDelay>,
    target: Option<Bitrate>,
    told: Option<(Bitrate, Timestamp)>,
    /// Streams, and when they were last heard.
    ssrcs: VecDeque<(u32, Timestamp)>,
    stats: ReceiverStats,
}

impl ReceiverEstimator {
    /// Probing, window and what is wanted have no meaning here.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let start = config.start.as_bps() as f64;
        let tuning = Tuning {
            growth: FIRST_GROWTH,
            ..Tuning::default()
        };
        Ok(Self {
            departures: Departures::default(),
            base: BaseDelay::default(),
            queue: OwnQueue::default(),
            groups: Groups::default(),
            trendline: Trendline::default(),
            detector: Detector::default(),
            capacity: Capacity::new(tuning, start),
            rate: RateControl::new(config.queue_aim, start),
            queued: false,
            count: 0,
            total: DataSize::ZERO,
            last_arrival: None,
            updated: None,
            least: None,
            target: None,
            told: None,
            ssrcs: VecDeque::new(),
            stats: ReceiverStats::default(),
            config,
        })
    }

    /// New limits hold from the next packet on.
    pub fn configure(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.rate.set_aim(config.queue_aim);
        self.config = config;
        Ok(())
    }

    /// `None` before enough has come.
    #[must_use]
    pub fn estimate(&self) -> Option<Bitrate> {
        self.target
    }

    #[must_use]
    pub fn stats(&self) -> ReceiverStats {
        ReceiverStats {
            state: self.rate.state(),
            capacity: crate::bitrate(self.capacity.now()),
            ..self.stats
        }
    }

    /// A packet arrives, of `size` with its headers.
    pub fn packet(&mut self, now: Timestamp, sent: AbsSendTime, size: DataSize, ssrc: u32) {
        self.stats.packets += 1;
        self.name(now, ssrc);
        if self
            .last_arrival
            .is_some_and(|last| now.since(last) > PAUSE)
        {
            self.queue.cut();
            self.updated = Some(now);
        }
        self.last_arrival = Some(now);
        let departure = self.departures.unwrap(now, sent);
        self.take_in(now, departure, size);
        let updated = *self.updated.get_or_insert(now);
        if now.since(updated) >= STEP {
            self.update(now, now.since(updated));
            self.updated = Some(now);
        }
    }

    fn name(&mut self, now: Timestamp, ssrc: u32) {
        if let Some(known) = self.ssrcs.iter_mut().find(|(known, _)| *known == ssrc) {
            known.1 = now;
            return;
        }
        if self.ssrcs.len() >= MOST_SSRCS {
            let quietest = (0..self.ssrcs.len()).min_by_key(|n| self.ssrcs[*n].1);
            quietest.and_then(|n| self.ssrcs.remove(n));
        }
        self.ssrcs.push_back((ssrc, now));
    }

    fn take_in(&mut self, now: Timestamp, departure: RemoteTime, size: DataSize) {
        let (sent, arrival) = swapped(departure, now);
        let raw = RawDelay::new(sent, arrival);
        if self.base.is_another_clock(raw) {
            self.base = BaseDelay::default();
            self.queue.reset();
            self.groups.reset();
        }
        self.count += 1;
        self.total += size;
        let packet = Received {
            seq: ExtSeq::new(self.count),
            sent,
            arrival,
            size,
            probe: None,
            sent_up_to: self.total,
        };
        let delay = self.base.update(now, raw, self.rate.is_competing());
        let (now_bps, best_bps) = (self.capacity.plateau(), self.capacity.best());
        self.queue.push(&packet, delay, now_bps, best_bps);
        if let Some(delta) = self.groups.packet(sent, arrival, size) {
            let gradient = self.trendline.update(&delta);
            self.detector.update(delta.at, gradient, delta.send);
        }
    }

    fn update(&mut self, now: Timestamp, time: Duration) {
        let dt = time.as_secs_f64();
        let Some(received) = self.queue.receive_rate() else {
            return;
        };
        let (standing, usage) = (self.queue.standing(), self.detector.usage());
        let least = self.base.least();
        let fell = match (self.least, least) {
            (Some(before), Some(least)) => before.above(least).as_nanos() > FELL_NANOS,
            _ => false,
        };
        self.least = least;
        let limited = self
            .told
            .is_some_and(|(told, _)| received < told.as_bps() as f64 * LIMITED);
        let stands = self.rate.stands(standing);
        if stands && !self.queued {
            self.queued = true;
            self.capacity.tune(Tuning::default());
        }
        let held = self.target == Some(self.config.max);
        if self.rate.is_competing() {
            self.capacity.full(received, dt, 0.0, RESPONSE);
        } else if stands {
            self.capacity.full(received, dt, standing, RESPONSE);
        } else {
            let trying = !limited && !held && usage != Usage::Over;
            // What was sent is not known, and so not when it was tried.
            self.capacity.open(received, dt, trying, None);
        }
        let heard = Heard {
            now,
            dt,
            standing,
            delay: self.queue.delay(),
            fell,
            usage,
            received: Some(received),
            limited,
            losses: 0,
            response: RESPONSE,
        };
        let rate = self.rate.heard(&heard, &self.capacity, standing);
        self.stats.overuses += u64::from(usage == Usage::Over);
        self.stats.received = crate::bitrate(received);
        self.stats.queue = Duration::from_secs_f64(heard.delay.clamp(0.0, 1e6));
        let target = crate::bitrate(rate).clamp(self.config.min, self.config.max);
        self.target = Some(target);
    }

    /// The message that is due, if one is.
    pub fn poll(&mut self, now: Timestamp) -> Option<Remb> {
        self.ssrcs.retain(|(_, heard)| now.since(*heard) < QUIET);
        let bitrate = self.target?;
        let due = self
            .told
            .is_none_or(|(told, at)| now.since(at) >= INTERVAL || bitrate < told.scale(FALL));
        if self.ssrcs.is_empty() || !due {
            return None;
        }
        self.told = Some((bitrate, now));
        self.stats.messages += 1;
        Some(Remb {
            bitrate,
            ssrcs: self.ssrcs.iter().map(|(ssrc, _)| *ssrc).collect(),
        })
    }

    /// When [`Self::poll`] may have something to say, if no packet comes.
    #[must_use]
    pub fn next_poll(&self) -> Option<Timestamp> {
        self.told.map(|(_, at)| at + INTERVAL)
    }
}

#[cfg(test)]
mod tests;
