// SPDX-License-Identifier: MPL-2.0
//! One time line of capture for several streams of the same pictures.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::Timestamp;

use crate::RtpClock;

/// Pictures whose numbers are remembered: 8 s at 30 frames/s, longer than a key
/// frame is on its way in the background.
const REMEMBERED: usize = 256;
/// Frames of a stream that may pass without a number that another stream has
/// had. Then their arrival says when they were captured.
const UNMATCHED: u32 = 3;

/// One of the streams of a [`super::Timing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(usize);

#[derive(Clone, Debug)]
struct Stream {
    clock: RtpClock,
    last: Option<u32>,
    /// From this stream's time to the common one, in ns.
    offset: Option<i64>,
    unmatched: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    streams: Vec<Stream>,
    /// Stream, frame number, common time.
    numbers: VecDeque<(usize, u16, i64)>,
    /// Common time and arrival of the last frame.
    last: Option<(i64, Timestamp)>,
}

fn since(later: Timestamp, earlier: Timestamp) -> i64 {
    later.distance(earlier).as_nanos()
}

impl Timeline {
    pub(super) fn join(&mut self, clock_rate: u32) -> StreamId {
        self.streams.push(Stream {
            clock: RtpClock::new(clock_rate),
            last: None,
            offset: None,
            unmatched: 0,
        });
        StreamId(self.streams.len() - 1)
    }

    /// The sender began anew: its time stamps have nothing to do with those
    /// before.
    pub(super) fn restart(&mut self, id: StreamId, clock_rate: u32) {
        if let Some(stream) = self.streams.get_mut(id.0) {
            stream.clock = RtpClock::new(clock_rate);
            (stream.last, stream.offset, stream.unmatched) = (None, None, 0);
        }
        self.numbers.retain(|(stream, ..)| *stream != id.0);
    }

    /// A packet with this number came. Both codings of a picture have the same
    /// number, which tells exactly how the streams' times differ.
    pub(super) fn number(&mut self, id: StreamId, timestamp: u32, number: u16) {
        let known = |stream: &Stream| stream.last == Some(timestamp);
        if self.streams.get(id.0).is_none_or(known) {
            return;
        }
        let other = |(stream, n, _): &&(usize, u16, i64)| *stream != id.0 && *n == number;
        let there = self.numbers.iter().rev().find(other).map(|entry| entry.2);
        let Some(stream) = self.streams.get_mut(id.0) else {
            return;
        };
        let own = stream.clock.nanos(timestamp);
        if let Some(common) = there {
            stream.offset = Some(common.saturating_sub(own));
            stream.unmatched = 0;
        }
        if let Some(offset) = stream.offset {
            stream.last = Some(timestamp);
            let entry = (id.0, number, own.saturating_add(offset));
            self.numbers.push_back(entry);
            if self.numbers.len() > REMEMBERED {
                self.numbers.pop_front();
            }
        }
    }

    /// A frame is complete: its capture in common time.
    pub(super) fn frame(&mut self, id: StreamId, timestamp: u32, arrival: Timestamp) -> i64 {
        let alone = self.streams.len() == 1;
        let Some(stream) = self.streams.get_mut(id.0) else {
            return 0;
        };
        let own = stream.clock.nanos(timestamp);
        let common = match (stream.offset, self.last) {
            (Some(offset), _) => own.saturating_add(offset),
            // The first of all.
            (None, None) => {
                stream.offset = Some(0);
                own
            }
            (None, Some((common, then))) => {
                let guess = common.saturating_add(since(arrival, then));
                stream.unmatched += 1;
                if alone || stream.unmatched >= UNMATCHED {
                    stream.offset = Some(guess.saturating_sub(own));
                }
                guess
            }
        };
        self.last = Some((common, arrival));
        common
    }

    /// The capture of the frame with this time stamp, if that can be told.
    pub(super) fn common(&self, id: StreamId, timestamp: u32) -> Option<i64> {
        let stream = self.streams.get(id.0)?;
        // A copy: asking is not to move the clock.
        let mut clock = stream.clock;
        Some(clock.nanos(timestamp).saturating_add(stream.offset?))
    }
}

/// Common time as models take it: a 90 kHz time stamp.
pub(super) fn at_90_khz(nanos: i64) -> u32 {
    // Apart, so that there is no need for 128 bits, which are slow to divide.
    let (whole, rest) = (nanos.div_euclid(100_000), nanos.rem_euclid(100_000));
    let ticks = (rest * 9 + 50_000) / 100_000;
    // The wire's time stamps wrap as well.
    whole.wrapping_mul(9).wrapping_add(ticks) as u32
}

/// Between two time stamps of a clock, with sign.
pub(crate) fn ticks_to_nanos(ticks: i32, clock_rate: u32) -> i64 {
    i64::from(ticks) * 1_000_000_000 / i64::from(clock_rate.max(1))
}

/// [`Duration`] as signed ns.
pub(crate) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u32 = 3000;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn numbers_join_two_streams_exactly() {
        let mut line = Timeline::default();
        let (a, b) = (line.join(90_000), line.join(90_000));
        for n in 0..10 {
            line.frame(a, 100_000 + n * FRAME, at(n as u64 * 33));
            line.number(a, 100_000 + n * FRAME, n as u16);
        }
        // A key frame that took long, coded from picture 5.
        line.number(b, 7_000_000, 5);
        assert_eq!(line.common(b, 7_000_000), line.common(a, 115_000));
        // Picture 10 comes by the other stream.
        let there = line.frame(b, 7_000_000 + 5 * FRAME, at(330));
        assert!(there.abs_diff(10 * 1_000_000_000 / 30) < 2, "{there}");
    }

    #[test]
    fn arrival_joins_streams_without_numbers() {
        let mut line = Timeline::default();
        let (a, b) = (line.join(90_000), line.join(48_000));
        line.frame(a, 0, at(1000));
        assert_eq!(line.common(b, 77), None);
        assert_eq!(line.frame(b, 77, at(1020)), 20_000_000);
        line.frame(b, 77 + 480, at(1031));
        line.frame(b, 77 + 960, at(1040));
        assert_eq!(line.common(b, 77 + 48_000), Some(1_020_000_000));
    }

    #[test]
    fn a_restart_forgets_the_offset() {
        let mut line = Timeline::default();
        let a = line.join(90_000);
        line.frame(a, 5, at(10));
        line.restart(a, 90_000);
        assert_eq!(line.common(a, 5), None);
        let there = line.frame(a, 4_000_000, at(20));
        assert_eq!(there, 10_000_000, "its arrival says when it was captured");
        assert_eq!(line.common(a, 4_090_000), Some(1_010_000_000));
    }

    #[test]
    fn rounding_keeps_ticks_whole() {
        for ticks in [
            0i64,
            1,
            2,
            3000,
            89_999,
            90_000,
            1 << 40,
            830_103_483_316_929,
        ] {
            let nanos = i64::try_from(i128::from(ticks) * 1_000_000_000 / 90_000).unwrap();
            assert_eq!(at_90_khz(nanos), ticks as u32);
            assert_eq!(at_90_khz(-nanos), (-ticks) as u32);
        }
    }
}
