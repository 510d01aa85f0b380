// SPDX-License-Identifier: MPL-2.0
//! Which packets are sent again, and when (docs/pacer.md).
//!
//! ```text
//! request -> not sent yet, too old, answered just now -> refused
//!               |
//!            waiting, by the time until which it is of use
//!               |   more than the budget brings in time: the oldest are shed
//! poll  <-------+   the budget is there: the oldest
//! ```
//!
//! The decision comes before the retransmission is made: its stream of sequence
//! numbers has no gap, and nothing that is too late waits among the packets.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

use crate::bucket::Bucket;
use crate::queue::Priority;
use crate::sent::{History, Place};

/// Requests that wait (as libwebrtc's receivers ask for at most). The oldest
/// makes room.
const MOST_WAITING: usize = 1000;
/// So much may be sent at once, as time at the budget's rate. Larger: what a
/// short outage took is there sooner; smaller: less on top of the media.
const BURST: Duration = Duration::from_millis(500);
/// With more than half of that used up, a request waits for those that come with
/// it: which of them the budget is for can only be said of all.
const GATHER: Duration = Duration::from_millis(2);
/// Background packets are of use this much longer: they have no time to be
/// shown at, and their loss is noticed late.
const PATIENT: u32 = 3;
/// Of the round trip; more is a queue.
const MOST_RTT: Duration = Duration::from_millis(500);
/// The payload of a retransmission begins with the sequence number (RFC 4588,
/// section 4).
const NUMBER: DataSize = DataSize::from_bytes(2);

/// What the application chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestConfig {
    /// Of the target rate, what retransmissions may take in the mean. Larger: more
    /// losses are repaired; smaller: less is sent on top of the media. (libwebrtc,
    /// call/call.cc and modules/rtp_rtcp/source/rtp_sender.cc: all of it, in a
    /// window of 1 s.)
    pub share: f64,
    /// From when a packet was sent until it is of no use any more, without the
    /// round trip.
    pub max_age: Duration,
}

impl Default for RequestConfig {
    fn default() -> Self {
        Self {
            share: 0.5,
            max_age: Duration::from_secs(1),
        }
    }
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The packet is in the queue, and goes by itself.
    NotSent,
    /// The receiver cannot use it any more.
    TooLate,
    /// It waits to be answered, or was answered twice in the last round trip.
    Repeated,
    /// There is no budget at all.
    OverBudget,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "the packet has not been sent yet",
            Self::TooLate => "the packet is too old to be of use",
            Self::Repeated => "the packet is sent again already",
            Self::OverBudget => "retransmissions have no budget",
        })
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum NextAnswer<R> {
    /// Have the retransmission made.
    Answer(R),
    /// Ask again then, or after anything else was called.
    WaitUntil(Timestamp),
    Idle,
}

/// In requests: `requested = answered + not_sent + too_late + repeated +
/// over_budget + flushed + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestStats {
    pub requested: u64,
    pub answered: u64,
    pub not_sent: u64,
    pub too_late: u64,
    pub repeated: u64,
    /// Of use for too short a time to be paid for.
    pub over_budget: u64,
    pub flushed: u64,
    pub waiting: u64,
}

#[derive(Debug)]
struct Waiting<R> {
    /// It is of no use then.
    until: Timestamp,
    asked: Timestamp,
    ssrc: u32,
    number: u64,
    size: DataSize,
    request: R,
}

/// Answers requests within a budget.
#[derive(Debug)]
pub struct Requests<R> {
    config: RequestConfig,
    history: History,
    /// By `until`.
    waiting: VecDeque<Waiting<R>>,
    /// Of sound: it is little, and the first to be missed.
    urgent: VecDeque<Waiting<R>>,
    bucket: Bucket,
    target: Option<Bitrate>,
    rtt: Duration,
    /// More waits, or the budget is less: it may not be enough.
    crowded: bool,
    at: Timestamp,
    stats: RequestStats,
}

impl<R> Requests<R> {
    #[must_use]
    pub fn new(config: RequestConfig) -> Self {
        Self {
            config,
            history: History::default(),
            waiting: VecDeque::new(),
            urgent: VecDeque::new(),
            bucket: Bucket::default(),
            target: None,
            rtt: Duration::ZERO,
            crowded: false,
            at: Timestamp::ZERO,
            stats: RequestStats::default(),
        }
    }

    /// Holds for requests from now on.
    pub fn configure(&mut self, now: Timestamp, config: RequestConfig) {
        self.advance(now);
        self.config = config;
        self.crowded = true;
    }

    /// `None`: there is no limit.
    pub fn set_target(&mut self, now: Timestamp, target: Option<Bitrate>) {
        self.advance(now);
        self.target = target;
        if let Some(rate) = self.rate() {
            self.bucket.forgive(rate);
        }
        self.crowded = true;
    }

    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt.min(MOST_RTT);
    }

    /// A packet left. Retransmissions and padding are not sent again.
    pub fn sent(
        &mut self,
        now: Timestamp,
        (ssrc, sequence): (u32, u16),
        priority: Priority,
        size: DataSize,
    ) {
        if !matches!(priority, Priority::Retransmission | Priority::Padding) {
            let keep = self.age(Priority::Background);
            self.history
                .sent(now, (ssrc, sequence), (priority, size), keep);
        }
    }

    /// Whether packets of this SSRC have left. Of others nothing is known.
    #[must_use]
    pub fn knows(&self, ssrc: u32) -> bool {
        self.history.find(ssrc, 0) != Place::Unknown
    }

    /// A packet was asked for; `request` comes back when it is to be sent again.
    pub fn request(
        &mut self,
        now: Timestamp,
        (ssrc, sequence): (u32, u16),
        request: R,
    ) -> Result<(), Refusal> {
        self.advance(now);
        self.stats.requested += 1;
        let done = self.admit(now, ssrc, sequence, request);
        match done {
            Ok(()) => (),
            Err(Refusal::NotSent) => self.stats.not_sent += 1,
            Err(Refusal::TooLate) => self.stats.too_late += 1,
            Err(Refusal::Repeated) => self.stats.repeated += 1,
            Err(Refusal::OverBudget) => self.stats.over_budget += 1,
        }
        done
    }

    pub fn poll(&mut self, now: Timestamp) -> NextAnswer<R> {
        self.advance(now);
        if let Some(front) = self.urgent.pop_front() {
            return self.answer(now, front);
        }
        while self.waiting.front().is_some_and(|w| w.until <= now) {
            self.shed();
        }
        let rate = self.rate();
        if let Some(rate) = rate
            && std::mem::take(&mut self.crowded)
        {
            for _ in 0..self.too_many(now, rate) {
                self.shed();
            }
        }
        let Some(front) = self.waiting.front() else {
            return NextAnswer::Idle;
        };
        if let Some(rate) = rate {
            let wait = self.bucket.wait(rate, BURST, front.size);
            let gather = if self.bucket.owes_after(rate, BURST / 2, front.size) {
                (front.asked + GATHER).since(now)
            } else {
                Duration::ZERO
            };
            let wait = wait.max(gather);
            if wait > Duration::ZERO {
                return NextAnswer::WaitUntil((now + wait).min(front.until));
            }
        }
        match self.waiting.pop_front() {
            Some(front) => self.answer(now, front),
            None => NextAnswer::Idle,
        }
    }

    /// What waits is dropped, and what was sent is forgotten.
    pub fn flush(&mut self) {
        self.stats.flushed += self.held() as u64;
        self.waiting.clear();
        self.urgent.clear();
        self.history.clear();
        self.bucket.clear();
    }

    #[must_use]
    pub fn stats(&self) -> RequestStats {
        RequestStats {
            waiting: self.held() as u64,
            ..self.stats
        }
    }

    fn held(&self) -> usize {
        self.waiting.len() + self.urgent.len()
    }

    /// The budget; `None`: without limit.
    fn rate(&self) -> Option<Bitrate> {
        Some(self.target?.scale(self.config.share))
    }

    fn age(&self, priority: Priority) -> Duration {
        let times = if priority.is_patient() { PATIENT } else { 1 };
        self.config.max_age * times + self.rtt
    }

    /// Time that went backwards pays nothing, and counts on from there.
    fn advance(&mut self, now: Timestamp) {
        match self.rate() {
            Some(rate) => self.bucket.pay(rate, now.since(self.at), false),
            None => self.bucket.clear(),
        }
        self.at = now;
    }

    fn admit(
        &mut self,
        now: Timestamp,
        ssrc: u32,
        sequence: u16,
        request: R,
    ) -> Result<(), Refusal> {
        let number = match self.history.find(ssrc, sequence) {
            Place::Unknown | Place::Forgotten => return Err(Refusal::TooLate),
            Place::Ahead => return Err(Refusal::NotSent),
            Place::At(number) => number,
        };
        let (rtt, budget) = (self.rtt, self.rate());
        let ages = Priority::ALL.map(|priority| self.age(priority));
        // A number that was left out.
        let Some(sent) = self.history.get_mut(ssrc, number) else {
            return Err(Refusal::NotSent);
        };
        let until = sent.at + ages[sent.priority.index()];
        if until <= now {
            return Err(Refusal::TooLate);
        }
        if sent.waiting || sent.is_answered_enough(now, rtt) {
            return Err(Refusal::Repeated);
        }
        let is_sound = sent.priority == Priority::Audio;
        let one = Waiting {
            until,
            asked: now,
            ssrc,
            number,
            size: sent.size + NUMBER,
            request,
        };
        if budget == Some(Bitrate::ZERO) && !is_sound {
            return Err(Refusal::OverBudget);
        }
        sent.waiting = true;
        if self.held() >= MOST_WAITING {
            self.shed();
        }
        if is_sound {
            self.urgent.push_back(one);
            return Ok(());
        }
        let at = self.waiting.partition_point(|other| other.until <= until);
        self.waiting.insert(at, one);
        self.crowded = true;
        Ok(())
    }

    fn answer(&mut self, now: Timestamp, front: Waiting<R>) -> NextAnswer<R> {
        if self.rate().is_some() {
            self.bucket.owe(front.size);
        }
        if let Some(sent) = self.history.get_mut(front.ssrc, front.number) {
            sent.waiting = false;
            sent.answer(now);
        }
        self.stats.answered += 1;
        NextAnswer::Answer(front.request)
    }

    /// The oldest is not answered.
    fn shed(&mut self) {
        if let Some(gone) = self.waiting.pop_front().or_else(|| self.urgent.pop_front()) {
            self.stats.over_budget += 1;
            if let Some(sent) = self.history.get_mut(gone.ssrc, gone.number) {
                sent.waiting = false;
            }
        }
    }

    /// How many of the oldest have to go, so that the budget brings all others in
    /// time. What the oldest need is not there for those behind them, and these
    /// are of use for longer.
    fn too_many(&self, now: Timestamp, rate: Bitrate) -> usize {
        let mut before: i128 = 0;
        for one in &self.waiting {
            before = before.saturating_add(Bucket::cost_of(one.size));
        }
        // Going back from the newest: what has to go, at least, in front of it.
        let (mut surplus, mut gone) = (i128::MIN, self.waiting.len());
        for (n, one) in self.waiting.iter().enumerate().rev() {
            let affordable = self.bucket.affords(rate, BURST, one.until.since(now));
            surplus = surplus.max(before.saturating_sub(affordable));
            before = before.saturating_sub(Bucket::cost_of(one.size));
            if surplus > before {
                break;
            }
            gone = n;
        }
        gone
    }
}
