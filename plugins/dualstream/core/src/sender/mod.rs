// SPDX-License-Identifier: MPL-2.0
//! The sending side: which encoder codes which picture, as what, and at which
//! rate.
//!
//! ```text
//! picture ──> Sender::picture ──> Plan { display, background? }
//! feedback ─> frame_complete ─┐
//! PLI, FIR ─> recovery ───────┼──> signals ──> Phase::next ──> actions
//! refresh ──> refresh ────────┘
//! ```
//!
//! Everything is decided when a picture comes in: signals between pictures are
//! only noted. So a decision is never about half a picture, and without
//! pictures nothing can be late.

mod config;
mod content;
mod costs;
mod foresight;
mod group;
mod phase;
mod rate_change;
mod rates;
mod rows;

pub use config::{Config, ConfigError, Warm};
pub use costs::{Cost, Costs, Picture, SIDE};
pub use foresight::{Foresight, Plane, Seen, fade, keep, row_differences};
pub use group::{Coded, Due, GroupAccount};
pub use phase::{Action, Phase, Signal};
pub use rate_change::{RateChange, RateGate, Wanted};

use crate::wire::{FrameTag, Stream};
use content::Content;
use dualstream_common::{Bitrate, DataSize, ExtSeq, Ratio, Timestamp};
use rates::{Need, Rates};
use std::time::Duration;

/// How one encoder is to code one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    pub tag: FrameTag,
    pub rate: EncoderRate,
}

/// Rate and buffer (VBV) of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderRate {
    pub bitrate: Bitrate,
    /// Size of the buffer as time at `bitrate`: a frame is never larger than
    /// what this time holds.
    pub buffer: Duration,
}

impl EncoderRate {
    /// The largest frame that this allows.
    #[must_use]
    pub fn largest_frame(self) -> DataSize {
        self.bitrate * self.buffer
    }
}

/// What to do with a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub number: ExtSeq,
    pub display: Coding,
    pub background: Option<Coding>,
    /// Rate at which background packets may leave; zero: what waits goes at
    /// once, before the display frame.
    pub background_rate: Bitrate,
}

/// What became of a feedback message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// It moved a refresh on, or made the standby a reference.
    Accepted,
    /// Known already.
    Repeated,
    /// About a picture that is no longer of use.
    Stale,
    /// About a picture that was never coded on that stream.
    NeverSent,
    /// The receiver could not decode it.
    Refused,
}

/// Why one stream is used and not two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// Asked for, or the second pad is not linked.
    Configured,
    /// No feedback ever came.
    NoFeedback,
}

/// Counters, and a few gauges at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub pictures: u64,
    pub display_key_frames: u64,
    pub background_key_frames: u64,
    pub catch_up_frames: u64,
    /// Background frames that only keep the standby's reference young.
    pub warm_frames: u64,
    pub switches: u64,
    pub recoveries_by_reference: u64,
    pub recoveries_by_key_frame: u64,
    pub requests_ignored: u64,
    pub refreshes_given_up: u64,
    pub restarts: u64,
    pub feedback_accepted: u64,
    pub feedback_repeated: u64,
    pub feedback_stale: u64,
    pub feedback_never_sent: u64,
    pub feedback_refused: u64,
    /// From background key frame to commit, summed over `refreshes_committed`.
    pub commit_time: Duration,
    pub refreshes_committed: u64,
    /// From the time that a background frame has left to its feedback.
    pub rtt: Option<Duration>,
}

/// The standby's newest picture.
#[derive(Clone, Copy, Debug)]
struct Newest {
    number: ExtSeq,
    generation: u8,
    planned: Timestamp,
    kind: Kind,
    size: Option<DataSize>,
    /// When the last byte was handed on.
    sent: Option<Timestamp>,
    /// When it has left the sender, by the account of both streams: who hands
    /// on at once has a pacer behind it.
    left: Option<Timestamp>,
}

/// What a frame was coded for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Display { key: bool },
    BackgroundKey { budget: f64 },
    CatchUp,
    Warm,
}

/// What is known of one stream.
#[derive(Clone, Copy, Debug, Default)]
struct Track {
    newest: Option<Newest>,
}

/// Refreshes given up in a row before a peer that never said anything is
/// taken for one that does not know the message.
const SILENT_REFRESHES: u32 = 3;
/// Such a peer is given one more refresh after this time, doubled each time.
const SILENT_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// A commit that answers a loss is followed by a key frame if the receiver
/// asks again within this time.
const REFERENCE_DOUBT: Duration = Duration::from_secs(1);
/// Requests within this time of a recovery are about the same loss, unless
/// the RTT says otherwise.
const RECOVERY_HOLD_OFF: Duration = Duration::from_millis(100);
/// Nothing known of the RTT.
const DEFAULT_RTT: Duration = Duration::from_millis(100);
/// Time that repair by retransmission and the receiver's decoder get on top
/// of three RTTs.
const REPAIR_TIME: Duration = Duration::from_millis(300);
/// Bounds of the time given to a background frame after its last byte left.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));
/// An encoder or a link that holds a background frame for longer has failed.
const SEND_LIMIT: Duration = Duration::from_secs(15);
/// First pause after a refresh that was given up, doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// Weight of a new RTT sample is 1/8, as in RFC 6298.
const RTT_GAIN: u32 = 8;
/// Frame times of a frame that keeps the standby warm.
const WARM_BUDGET: f64 = 1.0;
/// A standby without a reference gets one this long after the last key frame.
const REWARM: Duration = Duration::from_secs(1);
/// A loss makes the next one likely for this long. Until then the time without
/// a reference is kept short: the background gets this share at least, and a
/// key frame this budget at most.
const LOSSY: Duration = Duration::from_secs(10);
const LOSSY_SHARE: f64 = 0.35;
const LOSSY_BUDGET: f64 = 4.0;
const LOSSY_REWARM: Duration = Duration::from_millis(500);
const LOSSY_WARM_AGE: Duration = Duration::from_millis(400);
/// After a loss up to so many frame times of the standby's newest frame are
/// sent at once, before a frame that predicts from it. More would be later
/// than a small key frame is bad.
const PROMOTED: f64 = 2.0;
/// With [`Warm::Auto`] the reference is at most this old, but there are never
/// fewer pictures than this between two frames that keep it so.
const WARM_AGE: (Duration, u32) = (Duration::from_secs(1), 15);
/// What the first key frame may take to be recognisable, when the rate is low.
const START_TIME: Duration = Duration::from_millis(400);
/// Slack in the time that the background rate gives a frame.
const DRAIN_SLACK: f64 = 1.5;

/// The sending side of a dual stream. See the module's documentation.
#[derive(Debug)]
pub struct Sender {
    config: Config,
    phase: Phase,
    single: Option<Single>,
    display: Stream,
    generation: u8,
    /// Number of the next picture.
    next: ExtSeq,
    tracks: [Track; 2],
    /// Key frame on the display stream with the next picture.
    key_wanted: bool,
    refresh_wanted: bool,
    /// The refresh under way was asked for, or its time had come; without
    /// that it only gives the standby a reference.
    refresh_asked: bool,
    recovery_wanted: bool,
    standby_lost: bool,
    restart_wanted: bool,
    /// When a key frame was last coded, on either stream.
    last_key: Option<Timestamp>,
    last_recovery: Option<Timestamp>,
    /// The last recovery was a commit to an acknowledged picture.
    last_by_reference: bool,
    refresh_start: Timestamp,
    catch_ups: u32,
    /// Age of the standby, in pictures, when its newest picture was
    /// acknowledged, and when the one before it was.
    age_now: Option<u64>,
    age_before: Option<u64>,
    failures: u32,
    retry_at: Option<Timestamp>,
    silent: bool,
    /// When a peer that was taken for one that does not know the message is
    /// tried again, and how long after that.
    silent_retry: Option<(Timestamp, Duration)>,
    rtt: Option<Duration>,
    rtt_from_network: bool,
    /// There were losses of late.
    lossy: bool,
    /// The next key frame on the display stream is the first.
    starting: bool,
    rates: Rates,
    content: Content,
    stats: Stats,
}

impl Sender {
    /// Numbers start one turn of 16 bits up, so that "a little before the
    /// first" is a number.
    const FIRST: ExtSeq = ExtSeq::new(0x1_0000);

    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            phase: Phase::Alone,
            single: Some(Single::Configured),
            display: Stream::Zero,
            generation: 0,
            next: Self::FIRST,
            tracks: [Track::default(); 2],
            key_wanted: true,
            refresh_wanted: false,
            refresh_asked: false,
            recovery_wanted: false,
            standby_lost: false,
            restart_wanted: false,
            last_key: None,
            last_recovery: None,
            last_by_reference: false,
            refresh_start: Timestamp::ZERO,
            catch_ups: 0,
            age_now: None,
            age_before: None,
            failures: 0,
            retry_at: None,
            silent: true,
            silent_retry: None,
            rtt: None,
            rtt_from_network: false,
            lossy: false,
            starting: true,
            rates: Rates::new(),
            content: Content::new(),
            stats: Stats::default(),
        })
    }

    /// Takes effect with the next picture.
    pub fn set_config(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the second stream can be used: the user wants it, it is linked
    /// and the peer takes it.
    pub fn set_dual(&mut self, dual: bool) {
        if dual == (self.single != Some(Single::Configured)) {
            return;
        }
        if dual {
            self.single = None;
            self.silent = true;
            self.failures = 0;
            self.retry_at = None;
            self.signal(Signal::Pair);
        } else {
            self.part(Single::Configured);
        }
    }

    fn part(&mut self, why: Single) {
        self.single = Some(why);
        self.signal(Signal::Part);
        // Without a second pad only the first stream is there.
        if why == Single::Configured && self.display == Stream::One {
            self.display = Stream::Zero;
            self.generation = self.generation.wrapping_add(1);
            self.key_wanted = true;
        }
    }

    /// Why there is only one stream; `None` with two.
    #[must_use]
    pub fn single(&self) -> Option<Single> {
        self.single
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    #[must_use]
    pub fn display(&self) -> Stream {
        self.display
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            rtt: self.rtt,
            ..self.stats
        }
    }

    /// The estimator's RTT; better than what feedback shows, which includes
    /// decoding.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt.min(PATIENCE.1));
        self.rtt_from_network = true;
    }

    /// The application or a timer wants a key frame: in the background where
    /// possible.
    pub fn request_refresh(&mut self) {
        self.refresh_wanted = true;
        self.retry_at = None;
    }

    /// The receiver asks for a key frame on `stream` (PLI, FIR).
    pub fn request_recovery(&mut self, now: Timestamp, stream: Stream) {
        if stream != self.display {
            // The standby, or the display stream of before the last switch:
            // the picture is not at risk.
            if self.phase.in_flight() {
                self.standby_lost = true;
            } else {
                self.stats.requests_ignored += 1;
            }
            return;
        }
        let hold_off = self.rtt.unwrap_or(Duration::ZERO).max(RECOVERY_HOLD_OFF);
        let same_loss = self
            .last_recovery
            .is_some_and(|at| now.since(at) < hold_off);
        let nothing_coded = self.key_wanted;
        if same_loss || nothing_coded || self.recovery_wanted {
            self.stats.requests_ignored += 1;
        } else {
            self.recovery_wanted = true;
        }
    }

    /// The display encoder's rate cannot follow the target without a key
    /// frame: let the standby take over, if there is one.
    pub fn request_new_rate(&mut self) {
        if self.single.is_none() && !self.phase.refreshing() {
            self.refresh_wanted = true;
        }
    }

    /// The encoder of `stream` was replaced by another one, whose first frame
    /// is a key frame. `lost`: pictures that it had were not coded.
    pub fn encoder_replaced(&mut self, now: Timestamp, stream: Stream, lost: bool) {
        if stream == self.display {
            self.stats.display_key_frames += 1;
            self.last_key = Some(now);
        } else if lost && self.phase.in_flight() {
            self.standby_lost = true;
        }
    }

    /// The rate of the pictures to come, on the whole.
    #[must_use]
    pub fn steady_rate(&self) -> EncoderRate {
        self.one_frame(1.0)
    }

    /// Both encoders start anew: another size or frame rate, or a flush.
    pub fn restart(&mut self) {
        self.restart_wanted = true;
    }

    /// Decides about the picture that came in. `standby_free` says that the
    /// standby's encoder has nothing left to hand on.
    pub fn picture(&mut self, now: Timestamp, standby_free: bool) -> Plan {
        self.try_silent_peer(now);
        self.rates.advance(&self.config, now);
        self.content.settle();
        if !self.rates.background_waits()
            && let Some(newest) = &mut self.tracks[self.display.other().index()].newest
            && let (Some(sent), None) = (newest.sent, newest.left)
        {
            newest.left = Some(sent.max(self.rates.background_left(now)));
        }
        self.lossy = self
            .last_recovery
            .is_some_and(|last| now.since(last) < LOSSY);
        let acknowledged = self.phase.acknowledged();
        let mut background = None;
        let mut background_rate = None;
        let mut commits = false;
        match self.decide(now, standby_free) {
            Action::Nothing | Action::GiveUp => {}
            Action::KeyOnDisplay => self.key_wanted = true,
            Action::KeyOnStandby => {
                self.refresh_asked = self.refresh_wanted || self.interval_over(now);
                self.refresh_wanted = false;
                self.refresh_start = now;
                self.catch_ups = 0;
                self.forget_ages();
                self.last_key = Some(now);
                self.content.new_key_frame();
                self.stats.background_key_frames += 1;
                background = Some(Kind::BackgroundKey {
                    budget: self.key_frame_budget(),
                });
            }
            Action::CatchUp => {
                self.catch_ups += 1;
                self.stats.catch_up_frames += 1;
                background = Some(Kind::CatchUp);
            }
            Action::KeepWarm => {
                self.stats.warm_frames += 1;
                background = Some(Kind::Warm);
            }
            Action::Commit => {
                commits = true;
                if self.standby_leaves() {
                    // The two are on one stream, and stay in order.
                    self.rates.promote_background();
                    background_rate = Some(Bitrate::ZERO);
                }
                self.commit(now);
            }
        }
        let key = std::mem::take(&mut self.key_wanted);
        if key {
            self.stats.display_key_frames += 1;
            self.last_key = Some(now);
            self.refresh_wanted = false;
        }
        let number = self.next;
        self.next = number.next();
        self.stats.pictures += 1;
        let background = background.map(|kind| self.coding(now, number, kind));
        self.note(now, self.display, number, Kind::Display { key });
        let tag = FrameTag {
            stream: self.display,
            background: false,
            key,
            acknowledged: commits && acknowledged,
            number: number.low16(),
            generation: self.generation,
        };
        Plan {
            number,
            display: Coding {
                tag,
                rate: self.display_rate(key),
            },
            background,
            background_rate: background_rate.unwrap_or_else(|| self.background_rate()),
        }
    }

    /// At most one action for a picture; what is still wanted waits for the
    /// next one.
    fn decide(&mut self, now: Timestamp, standby_free: bool) -> Action {
        if std::mem::take(&mut self.restart_wanted) {
            self.recovery_wanted = false;
            self.starting = true;
            self.rates = Rates::new();
            self.content = Content::new();
            self.tracks = [Track::default(); 2];
            self.stats.restarts += 1;
            return self.signal(Signal::Restart);
        }
        if std::mem::take(&mut self.standby_lost)
            && self.signal(Signal::StandbyLost) == Action::GiveUp
        {
            self.give_up(now);
        }
        if self.overdue(now) && self.signal(Signal::TimedOut) == Action::GiveUp {
            self.give_up(now);
        }
        if std::mem::take(&mut self.recovery_wanted) {
            return self.recover(now);
        }
        if self.refresh_due(now) {
            if self.phase == Phase::Alone {
                return self.signal(Signal::RefreshDue);
            }
            if standby_free {
                let action = self.signal(Signal::RefreshDue);
                if action != Action::Nothing {
                    return action;
                }
                // One is under way: it serves this request, too.
                self.refresh_wanted = false;
            }
        }
        if self.phase == Phase::Warm && standby_free && self.standby_old(now) {
            return self.signal(Signal::StandbyOld);
        }
        let commits = self.young_enough();
        if commits {
            self.signal(Signal::PictureYoung)
        } else if standby_free {
            self.signal(Signal::PictureOld)
        } else {
            Action::Nothing
        }
    }

    /// It is time for a frame that keeps the standby's reference young.
    fn standby_old(&self, now: Timestamp) -> bool {
        let age = match self.config.warm {
            Warm::Off => return false,
            Warm::Auto if self.lossy => LOSSY_WARM_AGE,
            Warm::Auto => WARM_AGE.0.max(self.config.frame_time * WARM_AGE.1),
            Warm::Interval(interval) => interval,
        };
        self.standby()
            .newest
            .is_some_and(|newest| now.since(newest.planned) >= age)
    }

    /// If nothing is lost, the receiver has the standby's newest picture
    /// before one that is coded now: it has left, or what is left of it is
    /// little enough to go before that.
    fn on_its_way(&self) -> bool {
        let Some(newest) = self.standby().newest else {
            return false;
        };
        self.phase.in_flight()
            && newest.size.is_some()
            && (newest.left.is_some() || self.rates.background_frames(&self.config) <= PROMOTED)
    }

    fn recover(&mut self, now: Timestamp) -> Action {
        let doubt = self.last_by_reference
            && self
                .last_recovery
                .is_some_and(|at| now.since(at) < REFERENCE_DOUBT);
        self.last_recovery = Some(now);
        let helps = !doubt && (self.phase.acknowledged() || self.on_its_way());
        let action = self.signal(if helps {
            Signal::Recovery
        } else {
            Signal::RecoveryWithout
        });
        self.last_by_reference = action == Action::Commit;
        if self.last_by_reference {
            self.stats.recoveries_by_reference += 1;
        } else {
            self.stats.recoveries_by_key_frame += 1;
        }
        action
    }

    fn signal(&mut self, signal: Signal) -> Action {
        let (next, action) = self.phase.next(signal);
        self.phase = next;
        action
    }

    fn commit(&mut self, now: Timestamp) {
        self.display = self.display.other();
        self.generation = self.generation.wrapping_add(1);
        self.stats.switches += 1;
        if self.age_now.is_some() {
            self.stats.refreshes_committed += 1;
            self.stats.commit_time += now.since(self.refresh_start);
        }
        self.forget_ages();
        self.failures = 0;
        self.retry_at = None;
    }

    fn forget_ages(&mut self) {
        self.age_now = None;
        self.age_before = None;
    }

    fn give_up(&mut self, now: Timestamp) {
        self.stats.refreshes_given_up += 1;
        self.failures = self.failures.saturating_add(1);
        let pause = RETRY.0 * 2u32.saturating_pow(self.failures.min(8) - 1);
        self.retry_at = Some(now + pause.min(RETRY.1));
        self.refresh_wanted |= self.refresh_asked;
        self.rates.background_done();
        if self.silent && self.failures >= SILENT_REFRESHES {
            self.part(Single::NoFeedback);
            let pause = self
                .silent_retry
                .map_or(SILENT_RETRY.0, |(_, pause)| (pause * 2).min(SILENT_RETRY.1));
            self.silent_retry = Some((now + pause, pause));
            // The refresh is still wanted, and now comes on the display stream.
            self.retry_at = None;
        }
    }

    /// A peer that knows the message may have been cut off until now.
    fn try_silent_peer(&mut self, now: Timestamp) {
        let due = self.silent_retry.is_some_and(|(at, _)| now >= at);
        if due && self.single == Some(Single::NoFeedback) {
            self.single = None;
            // One refresh without an answer is enough this time.
            self.failures = SILENT_REFRESHES - 1;
            self.signal(Signal::Pair);
        }
    }

    fn refresh_due(&self, now: Timestamp) -> bool {
        if self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        self.refresh_wanted || self.interval_over(now) || self.cold_for_long(now)
    }

    fn interval_over(&self, now: Timestamp) -> bool {
        match (self.config.refresh_interval, self.last_key) {
            (Some(interval), Some(last)) => now.since(last) >= interval,
            (_, _) => false,
        }
    }

    /// The standby has no reference to recover from.
    fn cold_for_long(&self, now: Timestamp) -> bool {
        matches!(self.phase, Phase::Cold | Phase::Abandoned)
            && self.config.warm != Warm::Off
            && self.last_key.max(self.last_recovery).is_some_and(|last| {
                now.since(last) >= if self.lossy { LOSSY_REWARM } else { REWARM }
            })
    }

    /// Of the background, at least.
    fn share(&self) -> Ratio {
        let share = self.config.background_share;
        if self.lossy && share.value() < LOSSY_SHARE {
            Ratio::clamped(LOSSY_SHARE)
        } else {
            share
        }
    }

    fn standby(&self) -> &Track {
        &self.tracks[self.display.other().index()]
    }

    /// The standby's newest frame got its time and was not acknowledged.
    fn overdue(&self, now: Timestamp) -> bool {
        let awaited = self.phase.in_flight() || self.phase == Phase::Doubtful;
        let (true, Some(newest)) = (awaited, self.standby().newest) else {
            return false;
        };
        let Some(sent) = newest.sent else {
            return now.since(newest.planned) > SEND_LIMIT;
        };
        // Who hands on at once has a pacer behind it: count the time that the
        // background rate needs.
        let drain = newest
            .size
            .and_then(|size| size.time_at(self.background_rate()))
            .map_or(Duration::ZERO, |time| {
                time.min(SEND_LIMIT).mul_f64(DRAIN_SLACK)
            });
        let left = sent.max(newest.planned + drain);
        now.since(left) > self.patience()
    }

    fn patience(&self) -> Duration {
        (self.rtt.unwrap_or(DEFAULT_RTT) * 3 + REPAIR_TIME).clamp(PATIENCE.0, PATIENCE.1)
    }

    /// Pictures from the standby's newest to the one about to be coded.
    fn age(&self) -> Option<u64> {
        self.standby()
            .newest
            .map(|newest| self.next.past(newest.number))
    }

    /// True when another catch-up frame brings nothing: the standby is young,
    /// or the last one was hardly younger on arrival than the frame before it
    /// (the rest is the round trip), or there were enough.
    fn young_enough(&self) -> bool {
        let Some(age) = self.age() else {
            return false;
        };
        age <= u64::from(self.config.young)
            || (self.catch_ups > 0 && self.content.standby_is_good())
            || self.catch_ups >= self.config.max_catch_up_frames
            || matches!((self.age_before, self.age_now), (Some(before), Some(now)) if now + 1 >= before)
    }

    fn coding(&mut self, now: Timestamp, number: ExtSeq, kind: Kind) -> Coding {
        let stream = self.display.other();
        let (key, budget) = match kind {
            Kind::BackgroundKey { budget } => (true, budget),
            Kind::CatchUp => (false, self.content.catch_up_budget()),
            Kind::Warm | Kind::Display { .. } => (false, WARM_BUDGET),
        };
        self.note(now, stream, number, kind);
        Coding {
            tag: FrameTag {
                stream,
                background: true,
                key,
                // A key frame refers to nothing, the others only to what was
                // acknowledged.
                acknowledged: !key,
                number: number.low16(),
                generation: self.generation,
            },
            rate: self.one_frame(budget),
        }
    }

    /// A frame of `budget` frame times at the target, and no larger.
    fn one_frame(&self, budget: f64) -> EncoderRate {
        EncoderRate {
            bitrate: self.config.target.scale(budget),
            buffer: self.config.frame_time,
        }
    }

    /// Each refresh that was given up halves it.
    fn key_frame_budget(&self) -> f64 {
        let halved = f64::from(1u32 << self.failures.min(4));
        let mut budget = self.content.key_frame_budget(&self.config);
        if self.lossy {
            budget = budget.min(LOSSY_BUDGET);
        }
        (budget / halved).max(Config::BUDGET.0)
    }

    fn note(&mut self, now: Timestamp, stream: Stream, number: ExtSeq, kind: Kind) {
        self.tracks[stream.index()].newest = Some(Newest {
            number,
            generation: self.generation,
            planned: now,
            kind,
            size: None,
            sent: None,
            left: None,
        });
    }

    /// The encoder of `stream` made a frame of `size`, with the mean
    /// `quantiser` (0 to 51) if it is known.
    pub fn coded(&mut self, stream: Stream, number: u16, size: DataSize, quantiser: Option<f64>) {
        let Some(newest) = self.newest_mut(stream, number) else {
            return;
        };
        newest.size = Some(size);
        match newest.kind {
            Kind::Display { key } => {
                self.rates.display_coded(&self.config, size, !key);
                if let Some(quantiser) = quantiser {
                    self.content.display_coded(quantiser);
                }
            }
            kind @ (Kind::BackgroundKey { .. } | Kind::CatchUp | Kind::Warm) => {
                self.rates.background_coded(size);
                let given = match kind {
                    Kind::BackgroundKey { budget } => Some(budget),
                    _ => None,
                };
                if let Some(quantiser) = quantiser {
                    self.content.background_coded(quantiser, given);
                }
            }
        }
    }

    /// The frame has left this element to its last byte.
    pub fn sent(&mut self, now: Timestamp, stream: Stream, number: u16) {
        if let Some(newest) = self.newest_mut(stream, number) {
            newest.sent = Some(now);
        }
    }

    fn newest_mut(&mut self, stream: Stream, number: u16) -> Option<&mut Newest> {
        self.tracks[stream.index()]
            .newest
            .as_mut()
            .filter(|newest| newest.number.low16() == number)
    }

    /// The receiver's message about one frame.
    pub fn frame_complete(
        &mut self,
        now: Timestamp,
        stream: Stream,
        number: u16,
        generation: u8,
        decodable: bool,
    ) -> Feedback {
        let outcome = self.judge(stream, number, generation, decodable);
        match outcome {
            Feedback::Accepted => {
                self.stats.feedback_accepted += 1;
                self.heard();
                self.sample_rtt(now);
                self.rates.background_done();
                if self.phase.refreshing() || self.phase == Phase::Abandoned {
                    self.age_before = self.age_now;
                    self.age_now = self.age();
                }
                self.signal(Signal::Complete);
            }
            Feedback::Repeated => self.stats.feedback_repeated += 1,
            Feedback::Stale => {
                self.stats.feedback_stale += 1;
                // Of no use, but the peer knows the message.
                self.heard();
            }
            Feedback::NeverSent => self.stats.feedback_never_sent += 1,
            Feedback::Refused => {
                self.stats.feedback_refused += 1;
                self.heard();
                self.standby_lost = true;
            }
        }
        outcome
    }

    fn judge(&self, stream: Stream, number: u16, generation: u8, decodable: bool) -> Feedback {
        let last = ExtSeq::new(self.next.value().saturating_sub(1));
        let Some(number) = last.nearest(number).filter(|n| *n >= Self::FIRST) else {
            return Feedback::NeverSent;
        };
        if number > last {
            return Feedback::NeverSent;
        }
        let Some(newest) = self.tracks[stream.index()].newest else {
            return Feedback::NeverSent;
        };
        if number > newest.number {
            return Feedback::NeverSent;
        }
        if stream == self.display || number < newest.number || generation != newest.generation {
            return Feedback::Stale;
        }
        if !decodable {
            return Feedback::Refused;
        }
        match self.phase {
            Phase::Warm | Phase::Acknowledged => Feedback::Repeated,
            Phase::Alone | Phase::Cold => Feedback::Stale,
            Phase::Doubtful
            | Phase::Abandoned
            | Phase::Keeping
            | Phase::Trickling
            | Phase::CatchingUp => Feedback::Accepted,
        }
    }

    /// The peer knows the message.
    pub fn heard(&mut self) {
        self.silent = false;
        self.silent_retry = None;
        if self.single == Some(Single::NoFeedback) {
            self.single = None;
            self.failures = 0;
            self.signal(Signal::Pair);
        }
    }

    fn sample_rtt(&mut self, now: Timestamp) {
        if self.rtt_from_network || !self.phase.in_flight() {
            return;
        }
        let Some(left) = self.standby().newest.and_then(|newest| newest.left) else {
            return;
        };
        let sample = now.since(left).min(PATIENCE.1);
        self.rtt = Some(match self.rtt {
            None => sample,
            Some(rtt) => (rtt * (RTT_GAIN - 1) + sample) / RTT_GAIN,
        });
    }

    /// A background frame takes its share until its last byte is out.
    fn background_busy(&self) -> bool {
        self.phase.in_flight() && self.standby_leaves()
    }

    fn standby_leaves(&self) -> bool {
        let newest = self.standby().newest;
        self.rates.background_waits() || newest.is_some_and(|newest| newest.sent.is_none())
    }

    /// What the first encoder is to be set to before its first frame.
    #[must_use]
    pub fn start_rate(&self) -> EncoderRate {
        let config = &self.config;
        let in_time = START_TIME.as_secs_f64() / config.frame_time.as_secs_f64();
        let least = config.recognisable().min(in_time);
        self.one_frame(config.start_budget.max(least))
    }

    fn display_rate(&mut self, key: bool) -> EncoderRate {
        if key && std::mem::take(&mut self.starting) {
            return self.start_rate();
        }
        let need = Need {
            share: self.share(),
            pressure: self.content.pressure(),
        };
        let background = self.background_busy().then_some(need);
        self.rates.set_alone(self.single.is_some());
        let asked = self.rates.display(&self.config, background);
        self.one_frame(asked)
    }

    /// Rate at which background packets may leave.
    #[must_use]
    pub fn background_rate(&self) -> Bitrate {
        self.rates.background(&self.config, self.share())
    }
}
