// SPDX-License-Identifier: MPL-2.0
//! How the time at which a frame should be shown becomes a time stamp and a
//! latency, as pipelines understand them: a sink shows what is stamped t at
//! t + the latency of the whole pipeline.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::Timestamp;

/// Of the latency that is told.
const STEP: Duration = Duration::from_millis(5);
/// A change disturbs all sinks of a pipeline, so there is one at most so often.
const RAISE_INTERVAL: Duration = Duration::from_millis(500);
const LOWER_INTERVAL: Duration = Duration::from_secs(5);
/// It is lowered if it is too large by this at least, in steps, ...
const LOWER_STEPS: u32 = 2;
/// ... and by this part of it.
const LOWER_SHARE: u32 = 5;

/// The latency that is told to the pipeline: coarse and steady where the delay
/// is fine and restless. The time stamps make up for the difference.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latency {
    told: Duration,
    changed: Option<Timestamp>,
    /// Since when less would do.
    lower: Option<Timestamp>,
}

impl Latency {
    pub(crate) fn told(&self) -> Duration {
        self.told
    }

    /// True if there is a new one to be told.
    pub(crate) fn update(&mut self, now: Timestamp, wanted: Duration) -> bool {
        let steps = wanted.as_nanos().div_ceil(STEP.as_nanos());
        let wanted = STEP * u32::try_from(steps).unwrap_or(u32::MAX >> 8);
        let passed = |since: Timestamp, time| now.since(since) >= time;
        let margin = (STEP * LOWER_STEPS).max(self.told / LOWER_SHARE);
        let due = if wanted > self.told {
            self.lower = None;
            self.changed
                .is_none_or(|changed| passed(changed, RAISE_INTERVAL))
        } else if wanted + margin <= self.told {
            passed(*self.lower.get_or_insert(now), LOWER_INTERVAL)
        } else {
            self.lower = None;
            false
        };
        if due {
            self.told = wanted;
            self.changed = Some(now);
            self.lower = None;
        }
        due
    }
}

/// Between frames that would have the same time stamp, or an earlier one.
const LEAST_STEP: Duration = Duration::from_millis(1);

/// Makes time stamps of render times. They never go back from one frame to a
/// later one; B frames are sent after frames that are shown later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presentation {
    /// The part of the pipeline's latency that was told by us.
    part: Duration,
    /// RTP time stamp and time stamp of the frame that is shown last.
    latest: Option<(Option<u32>, Timestamp)>,
}

impl Presentation {
    /// The pipeline took over a latency, with this part of ours in it.
    pub fn set_part(&mut self, part: Duration) {
        self.part = part;
    }

    /// The sender began anew.
    pub fn restart(&mut self) {
        // Its RTP time stamps are not comparable with those before.
        if let Some((timestamp, _)) = &mut self.latest {
            *timestamp = None;
        }
    }

    /// What a frame would be stamped, were it the first.
    #[must_use]
    pub fn plain(&self, render: Timestamp) -> Timestamp {
        let part = u64::try_from(self.part.as_nanos()).unwrap_or(u64::MAX);
        Timestamp::from_nanos(render.as_nanos().saturating_sub(part))
    }

    pub fn stamp(&mut self, rtp_timestamp: u32, render: Timestamp) -> Timestamp {
        let stamp = self.plain(render);
        let Some((latest, last)) = self.latest else {
            self.latest = Some((Some(rtp_timestamp), stamp));
            return stamp;
        };
        match latest.map_or(1, |latest| rtp_timestamp.wrapping_sub(latest).cast_signed()) {
            0 => last,
            ..0 => stamp.min(last),
            1.. => {
                let stamp = stamp.max(last + LEAST_STEP);
                self.latest = Some((Some(rtp_timestamp), stamp));
                stamp
            }
        }
    }
}

/// Frames on their way to the sink that are remembered.
const REMEMBERED: usize = 128;
/// Decoders that count in other units round.
const SAME: Duration = Duration::from_micros(100);

/// What the arrival of a frame says of its way to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Took(Duration),
    /// The sink may still have been busy with a frame before.
    Unknown,
}

/// Measures how long frames take from here to the sink, from what the sink says
/// of them (QoS events).
#[derive(Clone, Debug, Default)]
pub struct DecodeMeter {
    /// Time stamp, when it left, and whether the sink was idle then.
    frames: VecDeque<(Timestamp, Timestamp, bool)>,
}

impl DecodeMeter {
    /// A frame leaves; see [`Timing::leaves`](crate::Timing::leaves) for `idle`.
    pub fn pushed(&mut self, now: Timestamp, stamp: Timestamp, idle: bool) {
        if self.frames.len() >= REMEMBERED {
            self.frames.pop_front();
        }
        self.frames.push_back((stamp, now, idle));
    }

    /// What is on its way is not measured: the sink's time to show it changed.
    pub fn forget(&mut self) {
        self.frames.clear();
    }

    /// The sink got this frame at `arrival`. `None` if it is not known.
    pub fn arrived(&mut self, stamp: Timestamp, arrival: Timestamp) -> Option<Way> {
        let is_it = |(other, ..): &(Timestamp, Timestamp, bool)| other.distance(stamp).abs() < SAME;
        let at = self.frames.iter().position(is_it)?;
        let (_, left, idle) = *self.frames.get(at)?;
        self.frames.drain(..at);
        Some(if idle {
            Way::Took(arrival.since(left))
        } else {
            Way::Unknown
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn latency_rises_soon_and_falls_late() {
        let mut latency = Latency::default();
        assert!(!latency.update(at(0), ms(0)));
        assert!(latency.update(at(0), ms(21)));
        assert_eq!(latency.told(), ms(25));
        assert!(!latency.update(at(100), ms(60)), "too soon");
        assert!(latency.update(at(500), ms(60)));
        assert!(!latency.update(at(9000), ms(49)), "not much less");
        assert!(!latency.update(at(10_000), ms(20)));
        assert!(!latency.update(at(12_000), ms(58)), "needed again");
        assert!(!latency.update(at(13_000), ms(20)));
        assert!(!latency.update(at(17_000), ms(20)));
        assert!(latency.update(at(18_000), ms(20)));
        assert_eq!(latency.told(), ms(20));
        latency.update(at(30_000), Duration::MAX);
    }

    #[test]
    fn stamp_and_latency_make_the_render_time() {
        let mut stamps = Presentation::default();
        assert_eq!(stamps.stamp(7, at(100)), at(100));
        assert_eq!(stamps.stamp(7, at(105)), at(100), "of the same frame");
        stamps.set_part(ms(60));
        // It does not go back: for two frames the sink is late.
        assert_eq!(stamps.stamp(8, at(133)), at(101));
        assert_eq!(stamps.stamp(9, at(166)), at(106));
        assert_eq!(stamps.stamp(10, at(30)), at(107));
    }

    #[test]
    fn b_frames_keep_their_time() {
        let mut stamps = Presentation::default();
        assert_eq!(stamps.stamp(u32::MAX, at(100)), at(100));
        assert_eq!(stamps.stamp(2, at(200)), at(200));
        assert_eq!(stamps.stamp(0, at(133)), at(133));
        assert_eq!(stamps.stamp(1, at(166)), at(166));
        assert_eq!(stamps.stamp(3, at(233)), at(233));
        stamps.restart();
        assert_eq!(stamps.stamp(1, at(230)), at(234), "a new sender");
    }

    #[test]
    fn decoding_is_measured_while_the_sink_is_idle() {
        let mut meter = DecodeMeter::default();
        meter.pushed(at(60), at(20), false);
        assert_eq!(meter.arrived(at(20), at(65)), Some(Way::Unknown));
        meter.pushed(at(75), at(53), true);
        assert_eq!(meter.arrived(at(53), at(82)), Some(Way::Took(ms(7))));
        meter.pushed(at(100), at(86), false);
        assert_eq!(meter.arrived(at(86), at(104)), Some(Way::Unknown));
        assert_eq!(meter.arrived(at(999), at(104)), None);
        meter.pushed(at(120), at(100), true);
        meter.forget();
        assert_eq!(meter.arrived(at(100), at(125)), None);
        for n in 0..1000 {
            meter.pushed(at(n), at(n), true);
        }
        assert_eq!(meter.frames.len(), REMEMBERED);
    }
}
