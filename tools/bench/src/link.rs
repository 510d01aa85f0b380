// SPDX-License-Identifier: MPL-2.0
//! A link in virtual time: packets are serialised at its capacity one after
//! the other, those of display frames before those of background frames, and
//! arrive one delay later.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use dualstream_common::{Bitrate, DataSize, Timestamp};
use dualstream_netsim::{Capacity, Serialiser, Trace};

/// Payload of one packet. Headers are not counted, for any scheme.
const PACKET: u64 = 1200;
/// A packet of a background frame holds up a display frame by this at most:
/// where the link is slow it is smaller, but not below [`SMALL_PACKET`].
const BLOCKING: Duration = Duration::from_millis(3);
const SMALL_PACKET: u64 = 200;
/// What one line of a Mahimahi trace lets through.
const OPPORTUNITY: u64 = 1500;
/// Over which the capacity is told.
const WINDOW: Duration = Duration::from_secs(1);

/// A link as in a Mahimahi trace.
pub fn trace(file: &Path) -> Result<Capacity> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the trace {} cannot be read", file.display()))?;
    let trace: Trace = text
        .parse()
        .with_context(|| format!("in the trace {}", file.display()))?;
    Ok(Capacity::Trace(trace, OPPORTUNITY))
}

/// What an ideal estimator would know: the mean of the last second.
pub fn known(capacity: &Capacity, now: Timestamp) -> Bitrate {
    capacity.mean_before(now, WINDOW)
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
    wire: Serialiser,
    delay: Duration,
    display: VecDeque<Packet<T>>,
    background: VecDeque<Packet<T>>,
    /// Nothing is put on the wire before.
    from: Timestamp,
}

impl<T: Copy> Link<T> {
    pub fn new(capacity: Capacity, delay: Duration) -> Self {
        Self {
            wire: Serialiser::new(capacity),
            delay,
            display: VecDeque::new(),
            background: VecDeque::new(),
            from: Timestamp::ZERO,
        }
    }

    /// Call [`advance`](Self::advance) up to `now` before.
    pub fn enqueue(&mut self, now: Timestamp, frame: T, size: DataSize, priority: Priority) {
        let short = (known(self.wire.capacity(), now) * BLOCKING).as_bytes();
        let (queue, packet) = match priority {
            Priority::Display => (&mut self.display, PACKET),
            Priority::Background => (&mut self.background, short.clamp(SMALL_PACKET, PACKET)),
        };
        self.from = self.from.max(now);
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
        while self.wire.free().max(self.from) < until {
            let Some(packet) = self
                .display
                .pop_front()
                .or_else(|| self.background.pop_front())
            else {
                break;
            };
            let through = self
                .wire
                .serialise(self.from, DataSize::from_bytes(packet.size));
            if packet.last {
                arrivals.push(Arrival {
                    at: through + self.delay,
                    frame: packet.frame,
                });
            }
        }
        arrivals
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
    fn a_bad_trace_is_refused_with_its_file_and_line() {
        let file = std::env::temp_dir().join(format!("dualstream-bench-{}", std::process::id()));
        std::fs::write(&file, "1\nx\n").expect("a file");
        let message = format!("{:#}", trace(&file).expect_err("refused"));
        assert!(message.contains("line 2"), "{message}");
        assert!(message.contains(&file.display().to_string()), "{message}");
        std::fs::remove_file(&file).expect("there");
        assert!(trace(&file).is_err());
    }
}
