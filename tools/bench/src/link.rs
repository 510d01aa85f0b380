// SPDX-License-Identifier: MPL-2.0
//! A link in virtual time: packets are serialised at its capacity one after
//! the other, those of display frames before those of background frames, and
//! arrive one delay later.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dualstream_common::{Bitrate, DataSize, Timestamp};

/// Payload of one packet. Headers are not counted, for any scheme.
const PACKET: u64 = 1200;
/// A packet of a background frame holds up a display frame by this at most:
/// where the link is slow it is smaller, but not below [`SMALL_PACKET`].
const BLOCKING: Duration = Duration::from_millis(3);
const SMALL_PACKET: u64 = 200;
/// What one line of a Mahimahi trace lets through.
const OPPORTUNITY: u64 = 1500;
/// Over which the capacity of a trace is told.
const WINDOW: Duration = Duration::from_secs(1);

/// What leaves the link, and when.
#[derive(Clone, Debug)]
pub enum Capacity {
    Constant(Bitrate),
    Trace(Trace),
}

/// Mahimahi's format: each line is a millisecond at which 1500 bytes may
/// leave; at the end it starts again.
#[derive(Clone, Debug)]
pub struct Trace {
    millis: Vec<u64>,
    period: u64,
}

impl Trace {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the trace {} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("in the trace {}", path.display()))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let mut millis = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let time: u64 = line
                .parse()
                .with_context(|| format!("line {}: `{line}` is not a number of ms", n + 1))?;
            if millis.last().is_some_and(|last| *last > time) {
                bail!("line {}: time goes backwards", n + 1);
            }
            millis.push(time);
        }
        match millis.last() {
            Some(&period) if period > 0 => Ok(Self { millis, period }),
            _ => bail!("no time after 0"),
        }
    }

    /// Of the opportunity with this index; they go on for ever.
    fn time(&self, index: u64) -> Timestamp {
        let length = self.millis.len() as u64;
        let turn = index / length;
        let at = self.millis[(index % length) as usize];
        Timestamp::from_millis(turn * self.period + at)
    }

    /// The first opportunity at or after `time`.
    fn first_from(&self, time: Timestamp) -> u64 {
        let millis = time.as_nanos().div_ceil(1_000_000);
        let (turn, rest) = (millis / self.period, millis % self.period);
        // The last line of a turn is at the time of the next turn's zero.
        let turn = if rest == 0 && turn > 0 {
            turn - 1
        } else {
            turn
        };
        let rest = millis - turn * self.period;
        let index = self.millis.partition_point(|at| *at < rest) as u64;
        turn * self.millis.len() as u64 + index
    }

    /// Let through within the second before `now`; at the start, within the
    /// first second.
    fn last_second(&self, now: Timestamp) -> Bitrate {
        let now = now.max(Timestamp::ZERO + WINDOW);
        let from = Timestamp::from_nanos(now.as_nanos() - WINDOW.as_nanos() as u64);
        let count = self.first_from(now) - self.first_from(from);
        Bitrate::from_bps(count * OPPORTUNITY * 8)
    }
}

impl Capacity {
    /// What an ideal estimator would know: the mean of the last second.
    pub fn known(&self, now: Timestamp) -> Bitrate {
        match self {
            Self::Constant(rate) => *rate,
            Self::Trace(trace) => trace.last_second(now),
        }
    }
}

/// One packet of a frame.
#[derive(Clone, Copy, Debug)]
struct Packet<T> {
    frame: T,
    size: u64,
    last: bool,
}

/// What arrives at the other end: the last byte of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<T> {
    pub at: Timestamp,
    pub frame: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    Display,
    Background,
}

/// The link, and what waits in front of it. Bounded by what the encoders
/// make: nothing is ever dropped here.
#[derive(Debug)]
pub struct Link<T> {
    capacity: Capacity,
    delay: Duration,
    display: VecDeque<Packet<T>>,
    background: VecDeque<Packet<T>>,
    /// When the packet now on the wire is through.
    free: Timestamp,
    /// With a trace: the next opportunity and what it has left.
    next: u64,
    left: u64,
}

impl<T: Copy> Link<T> {
    pub fn new(capacity: Capacity, delay: Duration) -> Self {
        Self {
            capacity,
            delay,
            display: VecDeque::new(),
            background: VecDeque::new(),
            free: Timestamp::ZERO,
            next: 0,
            left: OPPORTUNITY,
        }
    }

    /// Call [`advance`](Self::advance) up to `now` before.
    pub fn enqueue(&mut self, now: Timestamp, frame: T, size: DataSize, priority: Priority) {
        let short = (self.capacity.known(now) * BLOCKING).as_bytes();
        let (queue, packet) = match priority {
            Priority::Display => (&mut self.display, PACKET),
            Priority::Background => (&mut self.background, short.clamp(SMALL_PACKET, PACKET)),
        };
        if self.free < now {
            self.free = now;
        }
        // Equal packets, as RTP payloaders in low delay make them.
        let size = size.as_bytes().max(1);
        let count = size.div_ceil(packet);
        for i in 0..count {
            queue.push_back(Packet {
                frame,
                size: size * (i + 1) / count - size * i / count,
                last: i + 1 == count,
            });
        }
    }

    /// What waits in the background and is `of` the stream of a display frame
    /// that comes now goes before it: a stream stays in order.
    pub fn promote(&mut self, of: impl Fn(&T) -> bool) {
        let (now, wait) = self.background.drain(..).partition(|p| of(&p.frame));
        self.background = wait;
        let mut now: VecDeque<_> = now;
        self.display.append(&mut now);
    }

    /// Serialises what begins before `until`; says which frames are through,
    /// and when they arrive.
    pub fn advance(&mut self, until: Timestamp) -> Vec<Arrival<T>> {
        let mut arrivals = Vec::new();
        while self.free < until {
            let Some(packet) = self
                .display
                .pop_front()
                .or_else(|| self.background.pop_front())
            else {
                break;
            };
            self.free = self.serialise(packet.size);
            if packet.last {
                arrivals.push(Arrival {
                    at: self.free + self.delay,
                    frame: packet.frame,
                });
            }
        }
        arrivals
    }

    fn serialise(&mut self, size: u64) -> Timestamp {
        match &self.capacity {
            Capacity::Constant(rate) => {
                self.free
                    + DataSize::from_bytes(size)
                        .time_at(*rate)
                        .unwrap_or(Duration::MAX)
            }
            Capacity::Trace(trace) => {
                let first = trace.first_from(self.free);
                if first > self.next {
                    // Opportunities that nothing used are gone.
                    (self.next, self.left) = (first, OPPORTUNITY);
                }
                let mut rest = size;
                while rest > self.left {
                    rest -= self.left;
                    (self.next, self.left) = (self.next + 1, OPPORTUNITY);
                }
                self.left -= rest;
                trace.time(self.next).max(self.free)
            }
        }
    }
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

    fn link(kbps: u64) -> Link<u32> {
        Link::new(
            Capacity::Constant(Bitrate::from_kbps(kbps)),
            Duration::from_millis(20),
        )
    }

    #[test]
    fn a_frame_takes_its_size_and_the_delay() {
        let mut link = link(800);
        // 100 bytes a millisecond.
        link.enqueue(ms(10), 1, bytes(3000), Priority::Display);
        link.enqueue(ms(10), 2, bytes(1000), Priority::Display);
        let arrivals = link.advance(ms(1000));
        assert_eq!(
            arrivals,
            [
                Arrival {
                    at: ms(60),
                    frame: 1
                },
                Arrival {
                    at: ms(70),
                    frame: 2
                }
            ]
        );
        link.enqueue(ms(2000), 3, bytes(1000), Priority::Display);
        assert_eq!(link.advance(ms(3000))[0].at, ms(2030), "idle in between");
    }

    #[test]
    fn display_goes_first_but_does_not_break_a_packet() {
        let mut link = link(960);
        // 120 bytes a millisecond: background packets of 360 bytes take 3 ms.
        link.enqueue(ms(0), 1, bytes(3600), Priority::Background);
        assert_eq!(link.advance(ms(5)), []);
        link.enqueue(ms(5), 2, bytes(1200), Priority::Display);
        let arrivals = link.advance(ms(100));
        let expected = [(36, 2), (60, 1)].map(|(at, frame)| Arrival { at: ms(at), frame });
        assert_eq!(arrivals, expected);
    }

    #[test]
    fn a_stream_stays_in_order() {
        let mut link = link(960);
        link.enqueue(ms(0), 1, bytes(1200), Priority::Background);
        link.enqueue(ms(0), 2, bytes(1200), Priority::Background);
        link.promote(|frame| *frame == 2);
        link.enqueue(ms(0), 3, bytes(1200), Priority::Display);
        let order: Vec<_> = link.advance(ms(1000)).iter().map(|a| a.frame).collect();
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn a_trace_lets_1500_bytes_through_at_each_line() {
        let trace = Trace::parse("10\n10\n30\n100\n").unwrap();
        let mut link = Link::new(Capacity::Trace(trace), Duration::ZERO);
        link.enqueue(ms(0), 1, bytes(1200), Priority::Display);
        link.enqueue(ms(0), 2, bytes(1200), Priority::Display);
        link.enqueue(ms(0), 3, bytes(1000), Priority::Display);
        let at: Vec<_> = link.advance(ms(50)).iter().map(|a| a.at).collect();
        assert_eq!(at, [ms(10), ms(10), ms(30)], "3400 bytes at 10, 10 and 30");
        // The next turn begins at 100. What was left at 30 is gone.
        link.enqueue(ms(40), 4, bytes(1500), Priority::Display);
        link.enqueue(ms(40), 5, bytes(1200), Priority::Display);
        let at: Vec<_> = link.advance(ms(1000)).iter().map(|a| a.at).collect();
        assert_eq!(at, [ms(100), ms(110)]);
    }

    #[test]
    fn the_last_second_of_a_trace_is_counted() {
        let trace = Trace::parse("100\n200\n1000\n1100\n2000\n").unwrap();
        let capacity = Capacity::Trace(trace);
        let rate = |millis| capacity.known(ms(millis)).as_bps() / 12_000;
        assert_eq!(rate(0), 2, "as in the first second: 100 and 200");
        assert_eq!(rate(1000), 2);
        assert_eq!(rate(1150), 3, "200, 1000 and 1100");
        assert_eq!(rate(2050), 2, "1100 and 2000");
        assert_eq!(rate(2150), 2, "2000, and 100 of the second turn");
    }

    #[test]
    fn a_bad_trace_is_refused_with_its_line() {
        let message = |text| format!("{:#}", Trace::parse(text).unwrap_err());
        assert!(message("1\nx\n").contains("line 2"));
        assert!(message("5\n4\n").contains("line 2"));
        assert!(message("\n0\n").contains("no time"));
    }
}
