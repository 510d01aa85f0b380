// SPDX-License-Identifier: MPL-2.0
//! Our own model: the smallest delay that a stated share of frames misses
//! (docs/jitter-buffer.md).
//!
//! ```text
//! arrival - capture = transit (Repairs, Outage: some are left out)
//!      |                       +-> late? -> share aimed at --+
//!      |                       +--------> Change             |
//!      |                                    | forget         v
//!      +-> Window 60 s, above the middle ---+------> quantile --+
//!      +-> Window 8 s ----------------------+-> quantile --+    +- smaller
//!      |     +-> Drift                                     max  |   of both
//!      +-> Large, by frame size --------------> quantile --+----+     |
//!                                         rises at once, falls smoothly
//!                                                            |
//!                                     playout = capture + transit waited for
//! ```

mod change;
mod config;
mod drift;
mod large;
mod outage;
mod repairs;
mod sorted;
mod window;

use std::time::Duration;

use dualstream_common::Timestamp;

use crate::{Frame, RtpClock};
use change::{Change, FOUND_AFTER};
pub use config::{Config, ConfigError, LONGEST_DELAY};
use drift::Drift;
use large::Large;
use outage::{Lateness, Outage, Says};
use repairs::Repairs;
pub(crate) use window::Window;

/// What may hold the delay up: so it has fallen 10 s after the network got
/// better.
const SHORT: Duration = Duration::from_secs(8);
/// What tells rare events from clumps of them.
const LONG: Duration = Duration::from_secs(60);
/// Of the share aimed at, in the short window: it lowers the delay only where
/// it says so clearly.
const SHORT_SHARE: f64 = 0.5;
/// The short window holds this many times the frames of which one may be late.
const SHORT_FRAMES: f64 = 0.6;
/// How far one frame moves the share aimed at, as a part of the target, and at
/// most. Larger: the target is met sooner, with a more restless delay.
const GAIN: f64 = 0.1;
const MAX_GAIN: f64 = 0.002;
/// Of the share aimed at, in targets. Below zero all of the window is waited
/// for.
const SHARES: (f64, f64) = (-1.0, 1.2);
/// The first more targets may be late where the delay is then less than the
/// second part of what it was. Else, where the target is just the share of some
/// event, its frames would be waited for half of the time.
const KNEE: (f64, f64) = (0.4, 0.7);
/// Less than the target by this, but half of it at most: what few frames say of
/// rare events is not to be relied on.
const START_SHARE: (f64, f64) = (0.001_25, 0.5);
/// How long it starts: a first key frame, a round-trip time that is not known,
/// RTCP that may not be sent yet.
const START: Duration = Duration::from_secs(1);
/// What was learnt in that time is forgotten after this.
const START_COUNTS: Duration = Duration::from_secs(3);
/// Added to what the first frames say, less with each.
const START_MARGIN: Duration = Duration::from_millis(10);
const START_FRAMES: i64 = 30;
/// RTP time has ticks of 11 us, and stamps are no better: frames alike are not
/// to miss each other's time.
const SLACK: Duration = Duration::from_micros(100);
/// A frame that comes before the fastest ones of late by more than this is of
/// another clock: the network cannot have become so much faster at once, and
/// waiting for its time would freeze the picture.
const EARLIEST: Duration = Duration::from_secs(1);
/// No jitter, however long may be waited for.
const OUTAGE: Duration = Duration::from_secs(1);
/// Nor is this above the fastest frames, where it is rare.
const STALL: Duration = Duration::from_millis(200);
/// The delay falls by this part of what is too much each second, and a bit:
/// frames are shown faster, but not all at once.
const FALL_TAU: Duration = Duration::from_millis(500);
const FALL_PER_S: Duration = Duration::from_millis(20);

/// Whether a frame met the time it was to be shown at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first, or the first on a new clock.
    First,
    OnTime,
    /// By so much.
    Late(Duration),
}

/// Learns from each complete frame when the next ones should be shown. Frames
/// that are decoded and not shown are not to be given; both streams of a dual
/// stream share one.
#[derive(Clone, Debug)]
pub struct AdaptiveModel {
    config: Config,
    clock: RtpClock,
    learnt: Option<Learnt>,
}

impl AdaptiveModel {
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            clock: RtpClock::default(),
            learnt: None,
        })
    }

    /// What was learnt is kept.
    pub fn configure(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.config = config;
        if let Some(learnt) = &mut self.learnt {
            learnt.configure(&config);
        }
        Ok(())
    }

    /// A frame is complete.
    pub fn frame(&mut self, frame: &Frame) -> Arrival {
        let capture = self.clock.nanos(frame.rtp_timestamp);
        let transit = nanos(frame.arrival).saturating_sub(capture);
        match &mut self.learnt {
            Some(learnt) if learnt.is_of_same_clock(transit) => {
                let late = transit.saturating_sub(learnt.offset);
                learnt.frame(&self.config, frame, transit, late > 0);
                if late > 0 {
                    Arrival::Late(Duration::from_nanos(late.unsigned_abs()))
                } else {
                    Arrival::OnTime
                }
            }
            _ => {
                self.learnt = Some(Learnt::new(&self.config, frame, transit));
                Arrival::First
            }
        }
    }

    /// When the frame of this RTP time should be shown; `None` before the first.
    #[must_use]
    pub fn playout(&self, rtp_timestamp: u32) -> Option<Timestamp> {
        let mut clock = self.clock;
        let learnt = self.learnt.as_ref()?;
        let at = clock.nanos(rtp_timestamp).saturating_add(learnt.offset);
        Some(Timestamp::from_nanos(u64::try_from(at).unwrap_or(0)))
    }

    /// How long the fastest frames of late wait.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.learnt.as_ref().map_or(Duration::ZERO, |learnt| {
            let above = learnt.offset.saturating_sub(learnt.base());
            Duration::from_nanos(u64::try_from(above).unwrap_or(0))
        })
    }
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn span(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn short_frames(config: &Config) -> usize {
    (SHORT_FRAMES / config.late_target.value()) as usize
}

/// All times in ns, transits from the zero of both clocks.
#[derive(Clone, Debug)]
struct Learnt {
    /// Transits.
    short: Window,
    /// Transits above the middle of the short window when they came: what
    /// drifts or moves as a whole stays out.
    long: Window,
    large: Large,
    change: Change,
    drift: Drift,
    repairs: Repairs,
    outage: Outage,
    /// The share aimed at, corrected by what was late.
    share: f64,
    /// More than the target may be late, see [`KNEE`].
    at_knee: bool,
    /// The transit that is waited for.
    offset: i64,
    last_transit: i64,
    last_arrival: Timestamp,
    /// The first frame, until the start is forgotten.
    started: Option<Timestamp>,
}

impl Learnt {
    fn new(config: &Config, frame: &Frame, transit: i64) -> Self {
        let target = config.late_target.value();
        let mut learnt = Self {
            short: Window::new(SHORT, short_frames(config)),
            long: Window::new(LONG, 0),
            large: Large::default(),
            change: Change::default(),
            drift: Drift::default(),
            repairs: Repairs::default(),
            outage: Outage::default(),
            share: target - START_SHARE.0.min(START_SHARE.1 * target),
            at_knee: false,
            offset: i64::MIN,
            last_transit: transit,
            last_arrival: frame.arrival,
            started: Some(frame.arrival),
        };
        learnt.remember(frame, transit);
        learnt.offset = learnt.goal(config);
        learnt
    }

    /// Whether the sender's clock goes on as it did.
    fn is_of_same_clock(&self, transit: i64) -> bool {
        let jump = transit.abs_diff(self.last_transit);
        let earliest = self.base().saturating_sub(span(EARLIEST));
        jump <= LONGEST_DELAY.as_nanos() as u64 && transit >= earliest
    }

    fn configure(&mut self, config: &Config) {
        self.short.hold(short_frames(config));
        let target = config.late_target.value();
        self.share = self.share.clamp(SHARES.0 * target, SHARES.1 * target);
        self.offset = self.goal(config);
    }

    fn frame(&mut self, config: &Config, frame: &Frame, transit: i64, late: bool) {
        let target = config.late_target.value();
        if self.repairs.is_rare(frame.retransmitted, target) {
            return;
        }
        let says = self
            .outage
            .frame(frame.arrival, self.lateness(config, transit, late));
        if says != Says::Usual {
            if let Says::Since(since) = says {
                self.short.forget_since(since);
                self.long.forget_since(since);
            }
            self.last_transit = transit;
            let (least, most) = self.limits(config);
            self.offset = self.offset.clamp(least, most);
            return;
        }
        self.correct_share(target, late);
        if self.change.frame(frame.arrival, late, target) {
            self.short.keep(frame.arrival, FOUND_AFTER);
            self.long.keep(frame.arrival, FOUND_AFTER);
        }
        if self
            .started
            .is_some_and(|started| frame.arrival.since(started) >= START_COUNTS)
        {
            self.started = None;
            self.short.keep(frame.arrival, START_COUNTS - START);
            self.long.keep(frame.arrival, START_COUNTS - START);
        }
        let passed = frame.arrival.since(self.last_arrival).as_secs_f64();
        self.remember(frame, transit);
        let goal = self.goal(config);
        self.offset = if goal >= self.offset {
            goal
        } else {
            let left = (-passed / FALL_TAU.as_secs_f64()).exp();
            let excess = self.offset.saturating_sub(goal) as f64;
            let more = excess * left - passed * FALL_PER_S.as_nanos() as f64;
            let falling = goal.saturating_add(more.max(0.0) as i64);
            falling.min(self.base().saturating_add(span(config.max_delay)))
        };
    }

    fn lateness(&self, config: &Config, transit: i64, late: bool) -> Lateness {
        let above = transit.saturating_sub(self.base());
        if !late {
            Lateness::OnTime
        } else if above > span(config.max_delay.max(OUTAGE)) {
            Lateness::Beyond
        } else if above > span(STALL) {
            Lateness::Stalled
        } else {
            Lateness::Late
        }
    }

    /// Adaptive conformal inference (Gibbs and Candes, 2021): whatever the
    /// distribution, the share of late frames goes to the target.
    fn correct_share(&mut self, target: f64, late: bool) {
        let gain = (GAIN * target).min(MAX_GAIN);
        let allowed = if self.at_knee {
            (1.0 + KNEE.0) * target
        } else {
            target
        };
        let error = allowed - f64::from(u8::from(late));
        self.share = (self.share + gain * error).clamp(SHARES.0 * target, SHARES.1 * target);
    }

    fn remember(&mut self, frame: &Frame, transit: i64) {
        self.short.push(frame.arrival, transit);
        let middle = self.short.middle().unwrap_or(transit);
        let above = transit.saturating_sub(middle);
        self.long.push(frame.arrival, above);
        self.large.frame(frame.arrival, frame.size, above);
        self.drift.frame(frame.arrival, middle);
        self.last_arrival = frame.arrival;
        self.last_transit = transit;
    }

    fn base(&self) -> i64 {
        self.short.smallest().unwrap_or(0)
    }

    /// The transit to wait for, were there no need to fall smoothly.
    fn goal(&mut self, config: &Config) -> i64 {
        let target = config.late_target.value();
        let middle = self.short.middle().unwrap_or(0);
        let base = self.base();
        let above_middle = |above: i64| above.saturating_add(middle);
        let short = self
            .short
            .exceeded_by(SHORT_SHARE * self.share)
            .unwrap_or(base)
            // It is half of its length old in the mean.
            .saturating_add(self.drift.over(SHORT / 2));
        let long = |share| above_middle(self.long.exceeded_by(share).unwrap_or(0));
        let (strict, loose) = (
            long(self.share),
            long(self.share.max(0.0) + KNEE.0 * target),
        );
        let saved = |of: i64| of.saturating_sub(base) as f64;
        self.at_knee = saved(loose) < KNEE.1 * saved(strict);
        let mut goal = if self.at_knee { loose } else { strict };
        if self.share <= 0.0 && !self.at_knee {
            goal = goal.max(short);
        }
        let large = self.large.exceeded_by(self.share, self.last_arrival);
        goal = goal.min(short.max(large.map_or(i64::MIN, above_middle)));
        goal = goal.saturating_add(span(SLACK));
        let new = (START_FRAMES - self.short.len() as i64).max(0);
        goal = goal.saturating_add(span(START_MARGIN) / START_FRAMES * new);
        let (least, most) = self.limits(config);
        goal.clamp(least, most)
    }

    fn limits(&self, config: &Config) -> (i64, i64) {
        let base = self.base();
        let above = |delay| base.saturating_add(span(delay));
        (above(config.min_delay), above(config.max_delay))
    }
}
