// SPDX-License-Identifier: MPL-2.0
//! The receiver of the dual stream: which coded unit to decode, which decoded
//! picture to show and when, what to tell the sender.
//!
//! ```text
//!  unit() ──> lane: chain of references ──> (decoder, outside) ──> picture()
//!               │ loss                                               │
//!               ▼                                     background ┌───┴───┐ display
//!            recovery                                            ▼       ▼
//!               │                                           announce   order
//!               └──────────────> poll() <────────────────────────┴───────┘
//! ```
//!
//! Deliberate decisions:
//! - A tag whose stream bit does not fit the pad it came by is counted and
//!   ignored: its unit is treated as one without tag, for its number may be
//!   the other stream's.
//! - A stream delivers in order: a number that is missing within one stream is
//!   never waited for, and one that goes back is dropped, or, in a key frame,
//!   taken as a sender that started anew.
//! - A unit right behind a loss may itself be cut. It counts as whole only if
//!   it has as many slices as every undamaged unit of the session had.
//! - In a session with tags, a unit without one is decoded, and shown only if
//!   it came by the display stream and nothing is held; it is never said
//!   complete.

mod access_unit;
pub(crate) use access_unit::next_nal;
mod announce;
mod arrival;
mod lane;
mod order;
mod pictures;
mod recovery;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use dualstream_common::{ExtSeq, Timestamp};

use crate::wire::{FrameTag, Stream};
pub use access_unit::AccessUnit;
use access_unit::SlicesPerPicture;
#[cfg(any(test, feature = "fuzz"))]
pub use access_unit::fuzz_scan;
use announce::Announcer;
use lane::Lane;
use order::{Head, Order};
use recovery::Recovery;

/// Constants of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a picture waits for those before it that may still come by the
    /// other stream.
    pub reorder_wait: Duration,
    /// Pictures held at most; one more and the oldest is shown.
    pub queue: usize,
    /// Time from the first "complete" to its repeat; doubles each time.
    pub complete_interval: Duration,
    pub complete_interval_max: Duration,
    /// Repeats of "complete" for a background picture.
    pub complete_repeats: u32,
    /// Repeats of "complete" for the last picture of a stream that stopped
    /// being shown.
    pub retired_repeats: u32,
    /// Time from the first request to its repeat; doubles each time.
    pub recovery_interval: Duration,
    pub recovery_interval_max: Duration,
    /// Requests for two losses are at least this far apart.
    pub recovery_gap: Duration,
    /// A decoder that gives no first picture for so many units has lost its
    /// way. Larger than the 16 pictures that H.264 lets it keep back.
    pub silent_units: u32,
    /// The same, in units more than it was seen to keep back.
    pub silent_margin: u32,
    /// A display frame's number that jumps further starts the numbers anew.
    pub jump: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            reorder_wait: Duration::from_millis(60),
            queue: 16,
            complete_interval: Duration::from_millis(50),
            complete_interval_max: Duration::from_millis(400),
            complete_repeats: 20,
            retired_repeats: 3,
            recovery_interval: Duration::from_millis(300),
            recovery_interval_max: Duration::from_secs(2),
            recovery_gap: Duration::from_millis(50),
            silent_units: 20,
            silent_margin: 10,
            jump: 1000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The queue holds nothing.
    Queue,
    /// A repeat without pause.
    Interval,
    /// The jump leaves no half of the numbers for what is late.
    Jump,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "the queue must hold at least one picture",
            Self::Interval => "repeats need an interval above zero",
            Self::Jump => "the jump must be from 1 to 32766 numbers",
        })
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.queue == 0 {
            return Err(ConfigError::Queue);
        }
        if self.complete_interval.is_zero() || self.recovery_interval.is_zero() {
            return Err(ConfigError::Interval);
        }
        if !(1..=32766).contains(&self.jump) {
            return Err(ConfigError::Jump);
        }
        Ok(())
    }
}

/// What transport says of a coded unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrived {
    #[default]
    Intact,
    /// Something was lost before it or in it (DISCONT).
    AfterLoss,
    /// It is known to be damaged (CORRUPTED).
    Damaged,
}

/// A coded unit that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    pub stream: Stream,
    pub tag: Option<FrameTag>,
    pub pts: Option<Timestamp>,
    pub arrived: Arrived,
    pub content: AccessUnit,
}

/// What is known of a unit's wholeness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    None,
    /// Whole, but something before it is missing.
    Before,
    Within,
}

/// Why a unit is not to be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// No key frame came yet on this stream.
    NoKey,
    /// It was there already, whole.
    Duplicate,
    /// Its number is behind the stream's last one.
    OutOfOrder,
}

/// A picture that a decoder gave.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    pub stream: Stream,
    pub tag: Option<FrameTag>,
    pub pts: Option<Timestamp>,
    /// The decoder says that it is not what was coded.
    pub corrupt: bool,
}

/// Why a picture is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Decoded for later reference only.
    Background,
    /// Its number was shown.
    Duplicate,
    /// A later one was shown.
    Late,
    /// It has no number where numbers are needed.
    Untagged,
    /// No unit is known that it can come from.
    Unknown,
    /// The queue is full and nobody polls.
    Full,
}

/// A picture handed back.
#[derive(Debug)]
pub struct Rejected<P> {
    pub refusal: Refusal,
    pub picture: P,
}

/// A picture to be shown now.
#[derive(Debug)]
pub struct Shown<P> {
    pub picture: P,
    pub stream: Stream,
    /// As it is to be shown with: a mislabelled unit's number is mended here.
    pub tag: Option<FrameTag>,
    pub pts: Option<Timestamp>,
    /// Decoded whole, with everything that it was predicted from.
    pub whole: bool,
}

/// "This frame is decoded and can be predicted from."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete {
    pub stream: Stream,
    pub number: u16,
    pub generation: u8,
    pub key: bool,
}

/// What made a recovery necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Units arrive and no key frame was among them.
    NoKey,
    /// Transport or decoder say that data is missing or wrong.
    Damage,
    /// A frame number is missing.
    Gap,
    /// The decoder gives no pictures.
    Silent,
    /// The display stream became one whose references are broken.
    BrokenReference,
    /// The decoder failed and was started anew.
    Decoder,
}

/// "Send a picture that can be shown without what was lost."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskRecovery {
    pub stream: Stream,
    pub loss: Loss,
    /// A repeat.
    pub again: bool,
}

#[derive(Debug)]
pub enum Action<P> {
    Show(Shown<P>),
    Complete(Complete),
    AskRecovery(AskRecovery),
}

/// Which clock the receiver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// A held picture's wait is over.
    Reorder,
    /// Whether the first frame after a switch was lost is known.
    Doubt,
    Complete,
    Recovery,
}

#[must_use]
#[derive(Debug)]
pub enum Next<P> {
    Do(Action<P>),
    WaitUntil(Timestamp, Timer),
    Idle,
}

/// Counters are monotonic; `held` is a gauge.
/// `pictures = shown + duplicates + late + background_decoded + untagged_hidden
/// + unknown + refused_full + flushed + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Coded units that arrived.
    pub units: u64,
    /// Those that were not given to a decoder.
    pub units_dropped: u64,
    /// Pictures that decoders gave.
    pub pictures: u64,
    pub shown: u64,
    pub duplicates: u64,
    pub late: u64,
    pub background_decoded: u64,
    /// Pictures without tag beside ones with tags.
    pub untagged_hidden: u64,
    /// Pictures that belong to no unit.
    pub unknown: u64,
    pub refused_full: u64,
    pub flushed: u64,
    pub held: u64,
    /// Numbers that were left out between shown pictures.
    pub missing: u64,
    /// "Complete" said for the first time.
    pub completes: u64,
    /// With repeats.
    pub completes_sent: u64,
    /// Losses seen on the display stream.
    pub losses: u64,
    /// With repeats.
    pub recoveries_asked: u64,
    /// Times that the display role went to the other stream.
    pub switches: u64,
    /// Times that the sender's numbers began anew.
    pub restarts: u64,
    /// Tags whose stream is not that of the pad.
    pub mismatched_tags: u64,
    /// Units whose tag was that of the frame after them.
    pub relabelled: u64,
    /// The units that come now have tags.
    pub tagged: bool,
}

/// The first display frame of a new generation came with a number missing
/// before it: either the old stream still brings it, or the new one lost it.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    before: ExtSeq,
    old: Stream,
    until: Timestamp,
}

/// The state machine. `P` is a decoded picture and never looked into.
#[derive(Debug)]
pub struct Receiver<P> {
    config: Config,
    lanes: [Lane; 2],
    order: Order<P>,
    announcer: Announcer,
    recovery: Recovery,
    /// The newest number that was to be shown.
    newest: Option<ExtSeq>,
    display: Option<Stream>,
    generation: u8,
    /// Time between pictures, from the last two whole ones.
    interval: Option<Duration>,
    doubt: Option<Doubt>,
    slices: SlicesPerPicture,
    untagged_run: u32,
    stats: Stats,
}

impl<P> Receiver<P> {
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            lanes: Default::default(),
            order: Order::default(),
            announcer: Announcer::default(),
            recovery: Recovery::default(),
            newest: None,
            display: None,
            generation: 0,
            interval: None,
            doubt: None,
            slices: SlicesPerPicture::default(),
            untagged_run: 0,
            stats: Stats::default(),
        })
    }

    /// Takes effect with the next picture that has to wait.
    pub fn set_reorder_wait(&mut self, wait: Duration) {
        self.config.reorder_wait = wait;
    }

    /// The stream that is being shown, as far as arrived units tell.
    #[must_use]
    pub fn display(&self) -> Option<Stream> {
        self.display
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            held: self.order.len() as u64,
            ..self.stats
        }
    }

    /// No picture is taken any more before `poll` showed one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.order.len() > self.config.queue
    }

    /// What to do now. Call again while it says `Do`. Messages come before
    /// pictures: showing may take its time, and the sender waits.
    pub fn poll(&mut self, now: Timestamp) -> Next<P> {
        if let Some(action) = self.poll_message(now) {
            return Next::Do(action);
        }
        let (ready, reorder) = self.ready(now);
        if ready {
            self.stats.missing += self.order.missing().min(u64::from(self.config.jump));
            if let Some(shown) = self.order.pop() {
                self.stats.shown += 1;
                return Next::Do(Action::Show(shown));
            }
        }
        let timers = [
            (reorder, Timer::Reorder),
            (self.doubt.map(|d| d.until), Timer::Doubt),
            (self.announcer.deadline(), Timer::Complete),
            (self.recovery.deadline(), Timer::Recovery),
        ];
        timers
            .into_iter()
            .filter_map(|(at, timer)| Some((at?, timer)))
            .min_by_key(|(at, _)| *at)
            .map_or(Next::Idle, |(at, timer)| Next::WaitUntil(at, timer))
    }

    /// A message that is due, without touching the pictures: for a caller that
    /// may not show.
    pub fn poll_message(&mut self, now: Timestamp) -> Option<Action<P>> {
        if let Some(complete) = self.announcer.due(now, &self.config) {
            self.stats.completes_sent += 1;
            return Some(Action::Complete(complete));
        }
        self.settle_doubt(now);
        let ask = self.recovery.due(now, &self.config)?;
        self.stats.recoveries_asked += 1;
        Some(Action::AskRecovery(ask))
    }

    /// Whether the next picture is to be shown now, or else when.
    fn ready(&self, now: Timestamp) -> (bool, Option<Timestamp>) {
        match self.order.head() {
            Head::Empty => (false, None),
            Head::Ready => (true, None),
            Head::Gap {
                after,
                frame,
                since,
            } => {
                let until = order::deadline(since, self.config.reorder_wait);
                if now >= until
                    || self.order.len() >= self.config.queue
                    || !self.may_fill(after, frame)
                {
                    (true, None)
                } else {
                    (false, Some(until))
                }
            }
        }
    }

    /// Whether numbers between the last one shown and a held frame may still
    /// come by the stream that the held frame did not come by.
    fn may_fill(&self, after: ExtSeq, held: lane::Frame) -> bool {
        let own = &self.lanes[held.tag.stream.index()];
        let other = &self.lanes[held.tag.stream.other().index()];
        if other.ended {
            return false;
        }
        let Some(other_display) = other.last_display else {
            return false;
        };
        if !older(other_display.tag.generation, held.tag.generation) {
            return false;
        }
        // The numbers from the first of this generation on are this stream's.
        let own_from_here = own.first_display.is_some_and(|first| {
            first.tag.generation == held.tag.generation && first.position <= after.next()
        });
        if own_from_here {
            return false;
        }
        let passed = other
            .last
            .is_some_and(|last| last.frame.position.next() >= held.position);
        !passed || other.decoding_between(after, held.position)
    }

    fn settle_doubt(&mut self, now: Timestamp) {
        let Some(doubt) = self.doubt else { return };
        if now < doubt.until {
            return;
        }
        self.doubt = None;
        let stream = doubt.old.other();
        self.lanes[stream.index()].break_chain();
        if self.display == Some(stream) {
            self.lose(now, stream, Loss::Gap);
        }
    }

    fn lose(&mut self, now: Timestamp, stream: Stream, loss: Loss) {
        self.stats.losses += 1;
        self.recovery.want(now, stream, loss, &self.config);
    }

    /// Nothing more comes by this stream. What waits for it need not wait.
    pub fn end(&mut self, stream: Stream) {
        self.lanes[stream.index()].ended = true;
        // It cannot answer any more.
        self.recovery.recovered_by(stream);
        self.announcer.moved_on(stream);
    }

    /// This stream's decoder starts anew: what it had is gone.
    pub fn decoder_restarted(&mut self, now: Timestamp, stream: Stream) {
        let shown = self.display.unwrap_or(stream) == stream;
        self.lanes[stream.index()].restart();
        self.announcer.moved_on(stream);
        if shown {
            self.lose(now, stream, Loss::Decoder);
        }
    }

    /// Forgets streams and pictures; counters go on. Hands back what was held.
    pub fn flush(&mut self) -> Vec<P> {
        let held = self.order.clear();
        self.stats.flushed += held.len() as u64;
        self.lanes = Default::default();
        self.announcer = Announcer::default();
        self.recovery = Recovery::default();
        self.newest = None;
        self.display = None;
        self.generation = 0;
        self.interval = None;
        self.doubt = None;
        self.slices = SlicesPerPicture::default();
        self.untagged_run = 0;
        held
    }

    /// For debugging.
    pub fn snapshot(&self) -> impl fmt::Debug + '_ {
        let chain = |s: Stream| self.lanes[s.index()].chain;
        (
            self.display,
            self.generation,
            self.newest,
            Stream::BOTH.map(chain),
            self.recovery.wanted(),
            self.stats(),
        )
    }
}

/// Whether generation `a` comes before `b`. They wrap; half of them is past.
const fn older(a: u8, b: u8) -> bool {
    let ahead = b.wrapping_sub(a);
    ahead != 0 && ahead < 128
}
