// SPDX-License-Identifier: MPL-2.0
//! How fast a bottleneck lets bytes through.

use dualstream_common::{Bitrate, DataSize, Timestamp};
use std::fmt;
use std::time::Duration;

const NANOS_PER_MS: u64 = 1_000_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Capacity {
    Constant(Bitrate),
    /// The rate from each time on; before the first, the first.
    Steps(Vec<(Timestamp, Bitrate)>),
    /// A trace, and the bytes that one of its lines lets through.
    Trace(Trace, u64),
}

/// Mahimahi's format: each line is a millisecond at which one packet may
/// leave; at the end it starts again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    millis: Vec<u64>,
    period: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceError {
    /// The line with this number, from 1, is not a number of ms.
    NotANumber(usize),
    /// The line with this number is before the one above it.
    Backwards(usize),
    /// There is no time after 0, so it could not start again.
    Empty,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotANumber(line) => write!(f, "line {line} is not a number of ms"),
            Self::Backwards(line) => write!(f, "line {line}: time goes backwards"),
            Self::Empty => f.write_str("no time after 0"),
        }
    }
}

impl std::error::Error for TraceError {}

impl std::str::FromStr for Trace {
    type Err = TraceError;

    /// Empty lines are passed over.
    fn from_str(text: &str) -> Result<Self, TraceError> {
        let mut millis = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let time: u64 = line.parse().map_err(|_| TraceError::NotANumber(n + 1))?;
            if millis.last().is_some_and(|last| *last > time) {
                return Err(TraceError::Backwards(n + 1));
            }
            millis.push(time);
        }
        match millis.last() {
            Some(&period) if period > 0 => Ok(Self { millis, period }),
            _ => Err(TraceError::Empty),
        }
    }
}

impl Trace {
    /// Of the opportunity with this index; they go on for ever.
    fn time(&self, index: u64) -> Timestamp {
        let length = self.millis.len() as u64;
        let at = self.millis[(index % length) as usize];
        Timestamp::from_nanos(((index / length) * self.period + at).saturating_mul(NANOS_PER_MS))
    }

    /// The first opportunity at or after `time`.
    fn first_from(&self, time: Timestamp) -> u64 {
        let millis = time.as_nanos().div_ceil(NANOS_PER_MS);
        let (mut turn, mut rest) = (millis / self.period, millis % self.period);
        if rest == 0 && turn > 0 {
            // The last line of a turn is at the time of the next turn's zero.
            (turn, rest) = (turn - 1, self.period);
        }
        let index = self.millis.partition_point(|at| *at < rest);
        turn * self.millis.len() as u64 + index as u64
    }

    /// Opportunities from `from` on, before `to`.
    #[must_use]
    pub fn count(&self, from: Timestamp, to: Timestamp) -> u64 {
        self.first_from(to).saturating_sub(self.first_from(from))
    }

    /// Opportunities over time, all in all.
    #[must_use]
    pub fn mean(&self, bytes: u64) -> Bitrate {
        let count = self.millis.len() as u64 * bytes;
        (DataSize::from_bytes(count) / Duration::from_millis(self.period)).unwrap_or(Bitrate::ZERO)
    }
}

impl Capacity {
    /// The rate at `now`; of a trace its mean.
    #[must_use]
    pub fn nominal(&self, now: Timestamp) -> Bitrate {
        match self {
            Self::Constant(rate) => *rate,
            Self::Steps(steps) => steps
                .iter()
                .rev()
                .find(|(begin, _)| *begin <= now)
                .or(steps.first())
                .map_or(Bitrate::ZERO, |(_, rate)| *rate),
            Self::Trace(trace, bytes) => trace.mean(*bytes),
        }
    }

    /// What can leave from `from` on, before `to`.
    #[must_use]
    pub fn between(&self, from: Timestamp, to: Timestamp) -> DataSize {
        match self {
            Self::Constant(rate) => *rate * to.since(from),
            Self::Steps(steps) => {
                let mut sum = DataSize::ZERO;
                for (i, (begin, rate)) in steps.iter().enumerate() {
                    let begin = if i == 0 { Timestamp::ZERO } else { *begin };
                    let end = steps.get(i + 1).map_or(to, |(next, _)| (*next).min(to));
                    sum += *rate * end.since(begin.max(from));
                }
                sum
            }
            Self::Trace(trace, bytes) => DataSize::from_bytes(trace.count(from, to) * bytes),
        }
    }

    /// The mean over `window` up to `now`; at the start, over the first
    /// `window`.
    #[must_use]
    pub fn mean_before(&self, now: Timestamp, window: Duration) -> Bitrate {
        let now = now.max(Timestamp::ZERO + window);
        let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        let from = Timestamp::from_nanos(now.as_nanos().saturating_sub(nanos));
        (self.between(from, now) / window).unwrap_or(Bitrate::ZERO)
    }
}

/// The wire: one packet after the other.
#[derive(Clone, Debug)]
pub struct Serialiser {
    capacity: Capacity,
    /// When the packet that is on the wire is through.
    free: Timestamp,
    /// With a trace: the next opportunity, and what it has left.
    next: u64,
    left: u64,
}

impl Serialiser {
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        let left = match &capacity {
            Capacity::Trace(_, bytes) => *bytes,
            _ => 0,
        };
        Self {
            capacity,
            free: Timestamp::ZERO,
            next: 0,
            left,
        }
    }

    #[must_use]
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    #[must_use]
    pub fn free(&self) -> Timestamp {
        self.free
    }

    /// Puts a packet on the wire, at `now` or as soon as it is free; says when
    /// it is through. A rate of zero for ever gives the end of time.
    pub fn serialise(&mut self, now: Timestamp, size: DataSize) -> Timestamp {
        let begin = self.free.max(now);
        self.free = match &self.capacity {
            Capacity::Constant(rate) => begin + size.time_at(*rate).unwrap_or(Duration::MAX),
            Capacity::Steps(steps) => through_steps(steps, begin, size),
            Capacity::Trace(trace, bytes) => {
                let first = trace.first_from(begin);
                if first > self.next {
                    // Opportunities that nothing used are gone.
                    (self.next, self.left) = (first, *bytes);
                }
                let mut rest = size.as_bytes();
                while rest > self.left {
                    rest -= self.left;
                    (self.next, self.left) = (self.next + 1, *bytes);
                }
                self.left -= rest;
                trace.time(self.next).max(begin)
            }
        };
        self.free
    }
}

fn through_steps(steps: &[(Timestamp, Bitrate)], begin: Timestamp, size: DataSize) -> Timestamp {
    let mut at = begin;
    let mut bits = u128::from(size.as_bits()) * 1_000_000_000;
    for (i, (_, rate)) in steps.iter().enumerate() {
        let end = steps.get(i + 1).map(|(next, _)| *next);
        if end.is_some_and(|end| end <= at) {
            continue;
        }
        let rate = u128::from(rate.as_bps());
        let time = end.map(|end| end.since(at).as_nanos());
        if let Some(time) = time
            && rate * time < bits
        {
            bits -= rate * time;
            at = end.unwrap_or(at);
            continue;
        }
        return match bits.checked_div(rate) {
            Some(nanos) => at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            None => Timestamp::from_nanos(u64::MAX),
        };
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn bytes(n: u64) -> DataSize {
        DataSize::from_bytes(n)
    }

    fn kbps(rate: u64) -> Bitrate {
        Bitrate::from_kbps(rate)
    }

    #[test]
    fn a_constant_rate_takes_its_time_and_waits_for_nobody() {
        let mut wire = Serialiser::new(Capacity::Constant(kbps(800)));
        // 100 bytes a millisecond.
        assert_eq!(wire.serialise(ms(10), bytes(3000)), ms(40));
        assert_eq!(wire.serialise(ms(10), bytes(1000)), ms(50));
        assert_eq!(wire.serialise(ms(2000), bytes(1000)), ms(2010));
        let mut dead = Serialiser::new(Capacity::Constant(Bitrate::ZERO));
        assert_eq!(dead.serialise(ms(1), bytes(1)).as_nanos(), u64::MAX);
    }

    #[test]
    fn a_packet_feels_each_step_that_it_goes_through() {
        let capacity = Capacity::Steps(vec![
            (ms(0), kbps(800)),
            (ms(100), kbps(80)),
            (ms(200), Bitrate::ZERO),
            (ms(300), kbps(1600)),
        ]);
        let mut wire = Serialiser::new(capacity.clone());
        // 1000 bytes by 100, 1000 by 200, none by 300, then 200 a ms.
        assert_eq!(wire.serialise(ms(90), bytes(1500)), ms(150));
        assert_eq!(wire.serialise(ms(150), bytes(700)), ms(301));
        assert_eq!(
            capacity.between(ms(50), ms(400)),
            bytes(5000 + 1000 + 20_000)
        );
        assert_eq!(capacity.between(ms(400), ms(400)), bytes(0));
    }

    #[test]
    fn a_trace_lets_its_bytes_through_at_each_line_and_starts_again() {
        let trace: Trace = "10\n10\n\n30\n100\n".parse().unwrap();
        let mut wire = Serialiser::new(Capacity::Trace(trace.clone(), 1500));
        let at = [1200, 1200, 1000].map(|size| wire.serialise(ms(0), bytes(size)));
        assert_eq!(at, [ms(10), ms(10), ms(30)], "3400 bytes at 10, 10 and 30");
        // What was left at 30 is gone. The next turn begins at 100.
        let at = [1500, 1200].map(|size| wire.serialise(ms(40), bytes(size)));
        assert_eq!(at, [ms(100), ms(110)]);
        assert_eq!(trace.count(ms(0), ms(100)), 3);
        assert_eq!(trace.count(ms(100), ms(200)), 4);
        assert_eq!(trace.mean(1500), kbps(480));
    }

    #[test]
    fn the_mean_is_that_of_the_window_before() {
        let trace: Trace = "100\n200\n1000\n1100\n2000\n".parse().unwrap();
        let capacity = Capacity::Trace(trace, 1500);
        let second = Duration::from_secs(1);
        let rate = |millis| capacity.mean_before(ms(millis), second).as_bps() / 12_000;
        assert_eq!(rate(0), 2, "as in the first second: 100 and 200");
        assert_eq!(rate(1000), 2);
        assert_eq!(rate(1150), 3, "200, 1000 and 1100");
        assert_eq!(rate(2050), 2, "1100 and 2000");
        assert_eq!(rate(2150), 2, "2000, and 100 of the second turn");
    }

    #[test]
    fn a_bad_trace_is_refused_with_its_line() {
        let error = |text: &str| text.parse::<Trace>().unwrap_err();
        assert_eq!(error("1\nx\n"), TraceError::NotANumber(2));
        assert_eq!(error("5\n\n4\n"), TraceError::Backwards(3));
        assert_eq!(error("\n0\n"), TraceError::Empty);
    }
}
