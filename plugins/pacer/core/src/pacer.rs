// SPDX-License-Identifier: MPL-2.0
use std::fmt;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

use crate::bucket::Bucket;
use crate::config::{Config, ConfigError};
use crate::probe::{ProbeCluster, Probes, Turn};
use crate::queue::{Entry, Priority, Queue};
use crate::stats::{PriorityStats, Stats};
use crate::window::Window;

/// No more padding than this at once, whatever the rate.
const PADDING_BURST: u64 = 16;

/// A packet whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure<P> {
    pub packet: P,
    pub ssrc: u32,
    /// The one it was pushed with.
    pub priority: Priority,
    pub size: DataSize,
    pub waited: Duration,
    /// The probe cluster it is part of.
    pub probe: Option<u32>,
}

/// What to do now. The caller asks again at once after `Send` and `Pad`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next<P> {
    Send(Departure<P>),
    /// Make a padding packet of this size, on the link, and send it. It has
    /// been accounted for.
    Pad {
        size: DataSize,
        probe: Option<u32>,
    },
    /// Ask again then, or after anything else was called. Always later than
    /// the time of asking.
    WaitUntil(Timestamp),
    /// Ask again after something else was called.
    Idle,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No room, and nothing of lower priority to drop for it.
    Full,
    /// Packets of too many SSRCs are held.
    TooManyStreams,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::TooManyStreams => "packets of too many SSRCs are queued",
        })
    }
}

/// The packet that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected<P> {
    pub packet: P,
    pub reason: Reason,
}

/// Decides when each packet leaves; see the crate's documentation.
///
/// Until a rate or a target is set nothing is held.
#[derive(Debug)]
pub struct Pacer<P> {
    config: Config,
    queue: Queue<P>,
    bucket: Bucket,
    padding: Bucket,
    window: Window,
    probes: Probes,
    target: Option<Bitrate>,
    explicit: Option<Bitrate>,
    padding_rate: Bitrate,
    /// Rate that drains the queue in time. It holds until the queue is empty,
    /// so that what was promised to the last packet is kept.
    drain: Bitrate,
    /// The bucket is full: nothing goes until all is paid. So packets leave
    /// burst by burst, with one wake-up each.
    held: bool,
    /// No packet expires before this.
    expiry: Option<Timestamp>,
    at: Timestamp,
    /// Counters; the gauges in it are not kept.
    stats: Stats,
}

impl<P> Pacer<P> {
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            queue: Queue::new(config.max_streams),
            bucket: Bucket::default(),
            padding: Bucket::default(),
            window: Window::default(),
            probes: Probes::default(),
            target: None,
            explicit: None,
            padding_rate: Bitrate::ZERO,
            drain: Bitrate::ZERO,
            held: false,
            expiry: None,
            at: Timestamp::ZERO,
            stats: Stats::default(),
        })
    }

    /// Changes what can change while packets are held. What is held beyond a
    /// smaller limit stays; new packets find no room until it has left.
    pub fn configure(&mut self, now: Timestamp, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.advance(now);
        self.config = Config {
            max_streams: self.config.max_streams,
            ..config
        };
        self.expiry = Some(now);
        self.drain = Bitrate::ZERO;
        self.raise();
        Ok(())
    }

    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// Takes a packet of `size` on the link.
    pub fn push(
        &mut self,
        now: Timestamp,
        ssrc: u32,
        priority: Priority,
        size: DataSize,
        packet: P,
    ) -> Result<(), Rejected<P>> {
        self.advance(now);
        self.counters(priority).pushed.add(size);
        if let Err(reason) = self.make_room(ssrc, priority, size) {
            self.counters(priority).refused.add(size);
            return Err(Rejected { packet, reason });
        }
        let entry = Entry {
            packet,
            size,
            pushed: now,
            priority,
        };
        match self.queue.push(ssrc, entry) {
            Ok(served) => {
                if served.is_patient() {
                    self.watch(now, priority);
                }
                self.raise();
                Ok(())
            }
            Err(entry) => {
                self.counters(priority).refused.add(size);
                Err(Rejected {
                    packet: entry.packet,
                    reason: Reason::TooManyStreams,
                })
            }
        }
    }

    /// The most that packets leave at from now on, whatever the target; zero
    /// holds everything but audio and probes.
    pub fn set_rate(&mut self, now: Timestamp, pacing: Bitrate) {
        self.change_rate(now, |p| p.explicit = Some(pacing));
    }

    /// Packets leave at this times the pacing factor, up to a pacing rate that
    /// was set.
    pub fn set_target(&mut self, now: Timestamp, target: Bitrate) {
        self.change_rate(now, |p| p.target = Some(target));
    }

    /// Forgets pacing rate and target: nothing is held any more.
    pub fn clear_rate(&mut self, now: Timestamp) {
        self.change_rate(now, |p| {
            p.explicit = None;
            p.target = None;
        });
    }

    /// When media sends less than this, padding makes up for it; zero is no
    /// padding. Padding never sends more than the pacing rate allows.
    pub fn set_padding_rate(&mut self, now: Timestamp, rate: Bitrate) {
        self.advance(now);
        if rate < self.padding_rate {
            self.padding.forgive(rate);
        }
        self.padding_rate = rate;
    }

    /// `in_flight` is what is on the way now. What leaves from here on adds to
    /// it; nothing but audio and probes leaves while it is `window` or more.
    pub fn set_congestion_window(
        &mut self,
        now: Timestamp,
        window: Option<DataSize>,
        in_flight: DataSize,
    ) {
        self.advance(now);
        self.window.set(window, in_flight);
    }

    /// Sends a cluster, at once or after those that were asked for before. An
    /// id that was seen lately is ignored.
    pub fn probe(&mut self, now: Timestamp, cluster: ProbeCluster) {
        self.advance(now);
        self.probes.ask(now, cluster);
    }

    pub fn poll(&mut self, now: Timestamp) -> Next<P> {
        self.advance(now);
        self.expire(now);
        let turn = self.probes.turn(now);
        let top = self.queue.top();
        let probe = match turn {
            Turn::Now(id) => Some(id),
            Turn::Off | Turn::Wait(_) => None,
        };
        if top == Some(Priority::Audio) {
            return self.send(now, Priority::Audio, probe);
        }
        match (turn, top) {
            (Turn::Wait(until), _) => Next::WaitUntil(self.soonest(until)),
            (Turn::Now(_), Some(top)) => self.send(now, top, probe),
            (Turn::Now(_), None) => self.pad(now, probe),
            (Turn::Off, Some(top)) => match self.hold(now, top) {
                Hold::No => self.send(now, top, None),
                Hold::Until(until) => Next::WaitUntil(self.soonest(until)),
                Hold::Closed => match self.next_expiry() {
                    Some(expiry) => Next::WaitUntil(expiry),
                    None => Next::Idle,
                },
            },
            (Turn::Off, None) => match self.hold_padding(now) {
                Hold::No => self.pad(now, None),
                Hold::Until(until) => Next::WaitUntil(until),
                Hold::Closed => Next::Idle,
            },
        }
    }

    /// Drops what is held and what is owed, as at a new start. Rates, window
    /// and counters stay.
    pub fn flush(&mut self) {
        for entry in self.queue.iter() {
            let counters = &mut self.stats.priorities[entry.priority.index()];
            counters.flushed.add(entry.size);
        }
        self.queue.clear();
        self.probes.flush();
        self.bucket.clear();
        self.padding.clear();
        self.held = false;
        self.drain = Bitrate::ZERO;
        self.expiry = None;
    }

    /// Packets held, of all priorities.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.queue.total().packets).unwrap_or(usize::MAX)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.total().packets == 0
    }

    /// At which priority the next packet leaves. As long as this and the rate
    /// stay the same, a push makes nothing leave sooner.
    #[must_use]
    pub fn next_priority(&self) -> Option<Priority> {
        self.queue.top()
    }

    /// The pacing rate in force; `None` while nothing is held.
    #[must_use]
    pub fn rate(&self) -> Option<Bitrate> {
        let rate = self.set_by_caller()?;
        Some(if rate == Bitrate::ZERO {
            rate
        } else {
            rate.max(self.drain)
        })
    }

    /// Looks at every packet held.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        for entry in self.queue.iter() {
            let p = &mut stats.priorities[entry.priority.index()];
            p.queued.add(entry.size);
            p.oldest = Some(p.oldest.map_or(entry.pushed, |o| o.min(entry.pushed)));
        }
        stats.probes = self.probes.stats();
        stats.rate = self.rate();
        stats.congested = self.window.is_full();
        stats
    }

    fn set_by_caller(&self) -> Option<Bitrate> {
        let factor = self.config.pacing_factor;
        let scaled = self.target.map(|target| target.scale(factor));
        match (self.explicit, scaled) {
            (Some(limit), Some(rate)) => Some(limit.min(rate)),
            (limit, rate) => limit.or(rate),
        }
    }

    fn counters(&mut self, priority: Priority) -> &mut PriorityStats {
        &mut self.stats.priorities[priority.index()]
    }

    /// Time that went backwards pays nothing, and counts on from there.
    fn advance(&mut self, now: Timestamp) {
        let elapsed = now.since(self.at);
        if elapsed > Duration::ZERO {
            match self.rate() {
                Some(rate) => {
                    let waiting = self.held && !self.is_empty();
                    self.bucket.pay(rate, elapsed, waiting);
                }
                None => self.bucket.clear(),
            }
            self.padding.pay(self.padding_rate, elapsed, false);
        }
        self.at = now;
    }

    fn change_rate(&mut self, now: Timestamp, change: impl FnOnce(&mut Self)) {
        self.advance(now);
        change(self);
        match self.rate() {
            None => self.bucket.clear(),
            // Nothing is paid; what was owed is so later, too.
            Some(Bitrate::ZERO) => (),
            Some(rate) => self.bucket.forgive(rate),
        }
        self.raise();
    }

    /// Raises the rate if what is urgent would wait for too long.
    fn raise(&mut self) {
        let (Some(limit), Some(rate)) = (self.config.queue_time_limit, self.rate()) else {
            return;
        };
        if rate == Bitrate::ZERO {
            return;
        }
        let mut urgent = DataSize::ZERO;
        for priority in Priority::ALL.into_iter().filter(|p| !p.is_patient()) {
            urgent += self.queue.waiting(priority).bytes;
        }
        if urgent == DataSize::ZERO {
            self.drain = Bitrate::ZERO;
        } else if let Some(drain) = self.bucket.rate_to_drain(rate, urgent, limit) {
            self.stats.raised += u64::from(self.drain == Bitrate::ZERO);
            self.drain = drain;
        }
    }

    fn make_room(&mut self, ssrc: u32, priority: Priority, size: DataSize) -> Result<(), Reason> {
        let (most, bytes) = (self.config.max_packets as u64, self.config.max_bytes);
        let held = self.queue.total();
        if held.packets < most && held.bytes + size <= bytes {
            return Ok(());
        }
        // All or nothing: drop only if that makes enough room.
        let below = self.queue.below(priority, ssrc);
        let stays = held.bytes.saturating_sub(below.bytes);
        if held.packets - below.packets.min(held.packets) >= most || stays + size > bytes {
            return Err(Reason::Full);
        }
        if !self.queue.has_place(ssrc) {
            return Err(Reason::TooManyStreams);
        }
        loop {
            let held = self.queue.total();
            if held.packets < most && held.bytes + size <= bytes {
                return Ok(());
            }
            let Some(gone) = self.queue.evict(priority, ssrc) else {
                return Err(Reason::Full);
            };
            self.counters(gone.priority).evicted.add(gone.size);
        }
    }

    fn ttl(&self, priority: Priority) -> Option<Duration> {
        match priority {
            Priority::Background => self.config.ttl_background,
            Priority::Padding => self.config.ttl_padding,
            Priority::Audio | Priority::Retransmission | Priority::Display | Priority::Fec => None,
        }
    }

    /// A packet of a patient SSRC was pushed at `pushed`.
    fn watch(&mut self, pushed: Timestamp, priority: Priority) {
        if let Some(ttl) = self.ttl(priority) {
            let expiry = pushed + ttl;
            self.expiry = Some(self.expiry.map_or(expiry, |e| e.min(expiry)));
        }
    }

    /// Drops what is too old. What waits in front of a more urgent packet of
    /// its SSRC stays: the urgent one is of no use without it.
    fn expire(&mut self, now: Timestamp) {
        if self.expiry.is_none_or(|expiry| expiry > now) {
            return;
        }
        self.expiry = None;
        let ttls = Priority::ALL.map(|p| self.ttl(p));
        for served in [Priority::Background, Priority::Padding] {
            let is_old = |entry: &Entry<P>| {
                ttls[entry.priority.index()].is_some_and(|ttl| entry.pushed + ttl <= now)
            };
            while let Some(gone) = self.queue.take_expired(served, is_old) {
                self.counters(gone.priority).expired.add(gone.size);
            }
        }
        self.watch_fronts();
    }

    fn watch_fronts(&mut self) {
        let ttls = Priority::ALL.map(|p| self.ttl(p));
        self.expiry = [Priority::Background, Priority::Padding]
            .into_iter()
            .flat_map(|served| self.queue.fronts(served))
            .filter_map(|entry| Some(entry.pushed + ttls[entry.priority.index()]?))
            .min();
    }

    fn next_expiry(&self) -> Option<Timestamp> {
        self.expiry.filter(|_| {
            [Priority::Background, Priority::Padding]
                .into_iter()
                .any(|p| self.queue.waiting(p).packets > 0)
        })
    }

    fn soonest(&self, until: Timestamp) -> Timestamp {
        self.next_expiry().map_or(until, |expiry| expiry.min(until))
    }

    fn hold(&mut self, now: Timestamp, top: Priority) -> Hold {
        let Some(rate) = self.rate() else {
            return match self.window.hold(now) {
                Some(until) => Hold::Until(until),
                None => Hold::No,
            };
        };
        if rate == Bitrate::ZERO {
            return Hold::Closed;
        }
        if let Some(until) = self.window.hold(now) {
            return Hold::Until(until);
        }
        let Some(entry) = self.queue.front(top) else {
            return Hold::Closed;
        };
        // Display packets wait for one background packet at most, so there
        // is never more than one of those owed for.
        let burst = if top.is_patient() || self.held {
            Duration::ZERO
        } else {
            self.config.burst
        };
        self.held = self.bucket.wait(rate, burst, entry.size) > Duration::ZERO;
        if !self.held {
            return Hold::No;
        }
        let wait = self.bucket.wait(rate, Duration::ZERO, entry.size);
        let hold = Hold::after(now, wait);
        self.held = matches!(hold, Hold::Until(_));
        hold
    }

    fn hold_padding(&mut self, now: Timestamp) -> Hold {
        if self.padding_rate == Bitrate::ZERO || self.rate() == Some(Bitrate::ZERO) {
            return Hold::Closed;
        }
        if let Some(until) = self.window.hold(now) {
            return Hold::Until(until);
        }
        let size = self.config.padding_size;
        let burst = self.config.burst;
        let wait = self
            .padding
            .wait_few(self.padding_rate, burst, size, PADDING_BURST);
        let bucket = self.rate().map_or(Duration::ZERO, |r| {
            self.bucket.wait(r, Duration::ZERO, size)
        });
        Hold::after(now, wait.max(bucket))
    }

    fn send(&mut self, now: Timestamp, served: Priority, probe: Option<u32>) -> Next<P> {
        let Some((ssrc, entry, rest)) = self.queue.pop(served) else {
            return Next::Idle;
        };
        self.account(now, served, entry.size, probe);
        let waited = now.since(entry.pushed);
        let counters = self.counters(entry.priority);
        counters.sent.add(entry.size);
        counters.waited = counters.waited.saturating_add(waited);
        counters.longest_wait = counters.longest_wait.max(waited);
        if !served.is_patient() {
            if rest.is_some_and(Priority::is_patient) {
                self.watch_fronts();
            }
            if self.drain > Bitrate::ZERO {
                self.raise();
            }
        }
        Next::Send(Departure {
            packet: entry.packet,
            ssrc,
            priority: entry.priority,
            size: entry.size,
            waited,
            probe,
        })
    }

    fn pad(&mut self, now: Timestamp, probe: Option<u32>) -> Next<P> {
        let size = self.config.padding_size;
        self.account(now, Priority::Padding, size, probe);
        self.stats.padding.add(size);
        Next::Pad { size, probe }
    }

    fn account(&mut self, now: Timestamp, served: Priority, size: DataSize, probe: Option<u32>) {
        self.window.sent(now, size);
        self.padding.owe_at_most(self.padding_rate, size);
        if probe.is_some() {
            self.probes.sent(size);
        }
        match self.rate() {
            None => (),
            Some(rate) if probe.is_some() || served == Priority::Audio => {
                self.bucket.owe_at_most(rate, size);
            }
            Some(_) => self.bucket.owe(size),
        }
    }
}

/// Whether something must wait.
enum Hold {
    No,
    /// Always later than now.
    Until(Timestamp),
    /// Until something changes.
    Closed,
}

impl Hold {
    fn after(now: Timestamp, wait: Duration) -> Self {
        let until = now + wait;
        if until > now {
            Self::Until(until)
        } else {
            // Nothing to wait for, or the end of time: there is no later.
            Self::No
        }
    }
}
