// SPDX-License-Identifier: MPL-2.0
//! From what the link takes and what waits in it to the rate.

use std::time::Duration;

use dualstream_common::Timestamp;

use crate::capacity::Capacity;
use crate::detector::Usage;
use crate::foreign::{self, Foreign};

/// Time in which a queue beside the aim is brought back to it, s. Larger:
/// gentler; smaller: sooner, down to twice the time until feedback.
const SETTLE: f64 = 0.1;
/// The rate over the capacity, at least and at most.
const GAIN: (f64, f64) = (0.5, 1.1);
/// The aim is as configured at this rate, bit/s, and in this range of it.
const AIM_RATE: f64 = 1e6;
const AIM_RANGE: (f64, f64) = (0.4, 2.0);
/// A queue that never empties hides the least delay: after this time without
/// one below [`EMPTY`] s, it is drained for up to [`DRAIN`].
const FULL: Duration = Duration::from_secs(5);
const EMPTY: f64 = 0.002;
const DRAIN: Duration = Duration::from_millis(500);
const DRAIN_GAIN: f64 = 0.7;
/// What was least at the start may have been a queue already. So less is sent
/// for [`FALLING`] after each new least delay while all is [`YOUNG`], and for
/// [`PROOF`], or as long as it goes on falling, at these times after the first
/// feedback.
const YOUNG: Duration = Duration::from_secs(3);
const PROOFS: [Duration; 2] = [Duration::from_millis(600), Duration::from_secs(2)];
const PROOF_GAIN: f64 = 0.5;
const PROOF: Duration = Duration::from_millis(200);
const FALLING: Duration = Duration::from_millis(300);

/// Beside another flow: one packet more each round trip, as TCP does,
const STEP_BITS: f64 = 12_000.0;
/// and this share after a loss (RFC 8312 has 0.7).
const AFTER_LOSS: f64 = 0.7;
/// Of the rate before the other flow took it, at the start.
const SHARE_BACK: f64 = 0.5;
/// ... and back to it so fast: e to this, each round trip.
const CATCH_UP: f64 = 0.7;
/// Not above what arrives by more than this.
const ABOVE_RECEIVED: f64 = 1.5;
/// How often it is tried whether the other flow is still there, and the rate
/// while it is tried, over what arrives.
const TRY: Duration = Duration::from_secs(8);
const TRY_GAIN: f64 = 0.5;
/// ... for as long as our own queue takes to drain, and this, s.
const TRY_SLACK: f64 = 0.4;

/// What the delay-based part is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// There is room: the rate goes up.
    #[default]
    Increase,
    /// At what the link takes, or at what the application sends.
    Hold,
    /// Our queue is too long.
    Decrease,
    /// The queue is another's: the rate follows losses.
    Compete,
    /// Feedback is late.
    Silent,
}

/// What the feedback, or its absence, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The queue is shorter than aimed at.
    Room,
    /// As aimed at, or growing while it is short, or the application sends
    /// less than it may.
    Kept,
    /// The queue is longer than aimed at.
    Queue,
    /// The queue did not drain when it should.
    Foreign,
    /// What was another's queue is gone.
    Ours,
    /// Nothing is heard.
    Silence,
}

impl State {
    /// All there is. Beside another flow only its end or silence counts; after
    /// silence whatever is heard first.
    #[must_use]
    pub fn next(self, signal: Signal) -> Self {
        match (self, signal) {
            (_, Signal::Silence) => Self::Silent,
            (Self::Compete, Signal::Room | Signal::Kept | Signal::Queue | Signal::Foreign) => {
                Self::Compete
            }
            (Self::Compete, Signal::Ours) => Self::Hold,
            (Self::Increase | Self::Hold | Self::Decrease | Self::Silent, Signal::Foreign) => {
                Self::Compete
            }
            (Self::Increase | Self::Hold | Self::Decrease | Self::Silent, Signal::Room) => {
                Self::Increase
            }
            (
                Self::Increase | Self::Hold | Self::Decrease | Self::Silent,
                Signal::Kept | Signal::Ours,
            ) => Self::Hold,
            (Self::Increase | Self::Hold | Self::Decrease | Self::Silent, Signal::Queue) => {
                Self::Decrease
            }
        }
    }
}

/// What a feedback message has shown.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    pub now: Timestamp,
    /// Since the last one, s.
    pub dt: f64,
    /// Least time behind our own packets, and least delay above the least of
    /// all, s.
    pub standing: f64,
    pub delay: f64,
    /// The least delay of all has become less.
    pub fell: bool,
    pub usage: Usage,
    /// What arrived, bit/s.
    pub received: Option<f64>,
    /// The application sends less than it may.
    pub limited: bool,
    pub losses: u64,
    /// Of the smoothed response, s.
    pub response: f64,
}

#[derive(Clone, Copy, Debug)]
struct Competition {
    /// bit/s.
    rate: f64,
    /// No second step down before this.
    lost_until: Timestamp,
    next_try: Timestamp,
    /// It is tried whether the queue drains, until then.
    trying: Option<Timestamp>,
}

/// The delay-based controller.
#[derive(Debug)]
pub struct RateControl {
    state: State,
    aim: f64,
    foreign: Foreign,
    competition: Option<Competition>,
    /// The rate before a queue stood.
    before: f64,
    last_empty: Timestamp,
    draining: bool,
    begun: Option<Timestamp>,
    proofs: usize,
    proof_until: Timestamp,
    rate: f64,
}

impl RateControl {
    pub fn new(aim: Duration, start: f64) -> Self {
        Self {
            state: State::default(),
            aim: aim.as_secs_f64(),
            foreign: Foreign::default(),
            competition: None,
            before: start,
            last_empty: Timestamp::ZERO,
            draining: false,
            begun: None,
            proofs: 0,
            proof_until: Timestamp::ZERO,
            rate: start,
        }
    }

    pub fn set_aim(&mut self, aim: Duration) {
        self.aim = aim.as_secs_f64();
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    #[must_use]
    pub fn is_competing(&self) -> bool {
        self.competition.is_some()
    }

    /// The rate before a queue stood, bit/s.
    #[must_use]
    pub fn before(&self) -> f64 {
        self.before
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// A queue that counts as standing, s.
    #[must_use]
    pub fn stands(&self, standing: f64) -> bool {
        standing > EMPTY
    }

    /// Feedback came, and `capacity` knows of it. `ahead`: how long a packet
    /// that leaves now will wait, s.
    pub fn heard(&mut self, heard: &Heard, capacity: &Capacity, ahead: f64) -> f64 {
        if self.competition.is_some() {
            self.compete(heard);
            if self.competition.is_some() {
                return self.rate;
            }
        }
        if foreign::is_gone(heard.delay) {
            self.before = self.rate;
        }
        let received = heard.received.unwrap_or(self.rate);
        if self
            .foreign
            .update(heard.now, heard.delay, self.rate, self.before, heard.dt)
        {
            self.state = self.state.next(Signal::Foreign);
            self.foreign.reset();
            self.rate = (self.before * SHARE_BACK).min(received * ABOVE_RECEIVED);
            self.competition = Some(Competition {
                rate: self.rate,
                lost_until: heard.now,
                next_try: heard.now + TRY,
                trying: None,
            });
            return self.rate;
        }
        self.drain(heard);
        let gain = if heard.now < self.proof_until {
            PROOF_GAIN
        } else if self.draining {
            DRAIN_GAIN
        } else {
            (1.0 + (self.aim() - ahead) / SETTLE).clamp(GAIN.0, GAIN.1)
        };
        self.rate = capacity.safe() * gain;
        let signal = if gain < 1.0 {
            Signal::Queue
        } else if heard.limited || heard.usage == Usage::Over {
            Signal::Kept
        } else {
            Signal::Room
        };
        self.state = self.state.next(signal);
        self.rate
    }

    /// Flows that share a queue see the same delay. The slower one aims at more
    /// of it, so that it goes on growing where the faster one gives way, until
    /// they are equal (as in FAST TCP, where each flow keeps so many bytes
    /// queued; there the aim falls with the rate itself).
    fn aim(&self) -> f64 {
        let factor = AIM_RATE / self.rate.max(1.0);
        self.aim * factor.clamp(AIM_RANGE.0, AIM_RANGE.1)
    }

    /// The least delay must be seen now and then.
    fn drain(&mut self, heard: &Heard) {
        if heard.delay < EMPTY {
            self.last_empty = heard.now;
        }
        let full = heard.now.since(self.last_empty);
        if full >= FULL + DRAIN {
            self.last_empty = heard.now;
        }
        let begun = *self.begun.get_or_insert(heard.now);
        if let Some(proof) = PROOFS.get(self.proofs)
            && heard.now.since(begun) >= *proof
        {
            self.proofs += 1;
            self.proof_until = heard.now + PROOF;
        }
        let young = heard.now.since(begun) < YOUNG;
        if heard.fell && (young || heard.now < self.proof_until) {
            self.proof_until = heard.now + FALLING;
        }
        self.draining = full >= FULL || heard.now < self.proof_until;
    }

    fn compete(&mut self, heard: &Heard) {
        let Some(mut c) = self.competition else {
            return;
        };
        let now = heard.now;
        if self.state == State::Silent {
            self.state = self.state.next(Signal::Foreign);
        }
        if foreign::is_gone(heard.delay) {
            self.competition = None;
            self.state = self.state.next(Signal::Ours);
            self.foreign.reset();
            self.last_empty = now;
            return;
        }
        let received = heard.received.unwrap_or(c.rate);
        if let Some(until) = c.trying {
            if now >= until {
                c.trying = None;
                c.next_try = now + TRY;
            }
        } else {
            let response = heard.response.max(0.01);
            if heard.losses > 0 && now >= c.lost_until {
                c.rate *= AFTER_LOSS;
                c.lost_until = now + Duration::from_secs_f64(response);
            } else if c.rate < self.before * SHARE_BACK {
                c.rate *= (heard.dt / response * CATCH_UP).exp();
            } else if heard.usage != Usage::Over {
                c.rate += STEP_BITS / response * (heard.dt / response);
            }
            c.rate = c.rate.min(received * ABOVE_RECEIVED).max(1000.0);
            if now >= c.next_try {
                // Our own queue would drain in this time.
                let drain = heard.delay / (1.0 - TRY_GAIN) + TRY_SLACK;
                c.trying = Some(now + Duration::from_secs_f64(drain.min(3.0)));
            }
        }
        self.rate = if c.trying.is_some() {
            c.rate * TRY_GAIN
        } else {
            c.rate
        };
        self.state = self.state.next(Signal::Kept);
        self.competition = Some(c);
    }

    /// Nothing is heard.
    pub fn silent(&mut self, capacity: &Capacity) -> f64 {
        self.state = self.state.next(Signal::Silence);
        self.rate = self.rate.min(capacity.now());
        self.rate
    }
}

#[cfg(test)]
mod tests;
