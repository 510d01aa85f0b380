// SPDX-License-Identifier: MPL-2.0
//! Lip sync: what was captured at the same time gets the same time stamp, so the
//! faster of video and audio waits for the slower.
//!
//! A sink shows what is stamped t at t + the latency of the whole pipeline, for
//! video and audio alike. Jitter buffers stamp each by its own delay. The
//! distance from time of capture to time stamp is measured for both behind the
//! jitter buffers, and the difference is the `ts-offset` of the faster one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::capture_time::NtpTime;

/// What is kept in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Video,
    Audio,
}

/// The middle of so many distances counts, half a second or so: single frames
/// are stamped late. Larger: calmer; smaller: sooner after a change.
const SAMPLES: usize = 15;
/// One of audio for each frame of video, about.
const AUDIO_SPACING: Duration = Duration::from_millis(33);
/// Without a frame for so long, nobody waits for that kind.
const STALE: Duration = Duration::from_secs(10);
/// Nothing is waited for longer: the times of capture are not of one clock.
const LONGEST_NS: i64 = 2_000_000_000;
/// Differences that are smaller are left.
const DEAD_NS: i64 = 1_000_000;
/// Sound is shifted by so much of the time that passes, where that is enough: a
/// smaller step is a smaller click. Larger: sooner in step.
const SLEW: i64 = 25;
/// From here on it is put right at once.
const JUMP_NS: i64 = 15_000_000;

#[derive(Clone, Debug, Default)]
struct Track {
    /// Time stamp without offset less time of capture, in ns.
    distances: VecDeque<i64>,
    last: Option<Instant>,
    offset: i64,
    /// When the offset was last changed.
    changed: Option<Instant>,
}

impl Track {
    fn distance(&self, now: Instant) -> Option<i64> {
        let last = self.last?;
        if now.saturating_duration_since(last) > STALE || self.distances.is_empty() {
            return None;
        }
        let mut sorted: Vec<i64> = self.distances.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Goes towards `wanted`; true if the offset is a new one.
    fn approach(&mut self, now: Instant, wanted: i64) -> bool {
        let step = wanted - self.offset;
        if step.abs() < DEAD_NS {
            self.changed = Some(now);
            return false;
        }
        let passed = self
            .changed
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let passed = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
        let most = (passed / SLEW).max(DEAD_NS / 10);
        let step = if step.abs() >= JUMP_NS {
            step
        } else {
            step.clamp(-most, most)
        };
        self.offset += step;
        self.changed = Some(now);
        step != 0
    }
}

#[derive(Clone, Debug, Default)]
pub struct LipSync {
    video: Track,
    audio: Track,
}

impl LipSync {
    fn track(&mut self, kind: Kind) -> &mut Track {
        match kind {
            Kind::Video => &mut self.video,
            Kind::Audio => &mut self.audio,
        }
    }

    pub fn offset(&self, kind: Kind) -> i64 {
        match kind {
            Kind::Video => self.video.offset,
            Kind::Audio => self.audio.offset,
        }
    }

    /// How far audio was from video before it was shifted, in ns: positive if
    /// audio is faster.
    pub fn difference(&self, now: Instant) -> Option<i64> {
        Some(self.video.distance(now)? - self.audio.distance(now)?)
    }

    /// A frame has left its jitter buffer. Gives the kinds whose offset is new.
    pub fn on_frame(
        &mut self,
        now: Instant,
        kind: Kind,
        stamp: u64,
        captured: NtpTime,
    ) -> Vec<Kind> {
        let track = self.track(kind);
        let is_soon = track
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < AUDIO_SPACING);
        if kind == Kind::Audio && is_soon {
            return Vec::new();
        }
        track.last = Some(now);
        let distance = NtpTime::from_nanos(stamp).since(captured);
        if track.distances.len() >= SAMPLES {
            track.distances.pop_front();
        }
        track
            .distances
            .push_back(distance.saturating_sub(track.offset));
        let difference = self
            .difference(now)
            .filter(|difference| difference.abs() <= LONGEST_NS)
            .unwrap_or(0);
        let mut new = Vec::new();
        for (kind, wanted) in [
            (Kind::Audio, difference.max(0)),
            (Kind::Video, (-difference).max(0)),
        ] {
            if self.track(kind).approach(now, wanted) {
                new.push(kind);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;
    const START: u64 = 3_900_000_000_000_000_000;

    /// Runs both kinds for some time with the delays given, in ms from capture to
    /// time stamp; gives the distance of the two afterwards, offsets included.
    struct Run {
        sync: LipSync,
        start: Instant,
        ms: u64,
    }

    impl Run {
        fn new() -> Self {
            Self {
                sync: LipSync::default(),
                start: Instant::now(),
                ms: 0,
            }
        }

        fn frame(&mut self, kind: Kind, delay: i64) {
            let captured = NtpTime::from_nanos(START + self.ms * MS as u64);
            let stamp = (self.ms as i64 + delay) * MS + self.sync.offset(kind);
            let now = self.start + Duration::from_millis(self.ms);
            self.sync.on_frame(now, kind, stamp as u64, captured);
        }

        fn run(&mut self, ms: u64, video: i64, audio: i64) -> i64 {
            for _ in 0..ms / 10 {
                self.ms += 10;
                if self.ms.is_multiple_of(30) {
                    self.frame(Kind::Video, video);
                }
                self.frame(Kind::Audio, audio);
            }
            let video = video * MS + self.sync.offset(Kind::Video);
            let audio = audio * MS + self.sync.offset(Kind::Audio);
            (video - audio) / MS
        }
    }

    #[test]
    fn the_faster_one_waits() {
        let mut run = Run::new();
        assert!(run.run(1000, 120, 30).abs() <= 1);
        assert_eq!(run.sync.offset(Kind::Video), 0);
        // Now audio is the slower one.
        assert!(run.run(1000, 20, 90).abs() <= 1);
        assert_eq!(run.sync.offset(Kind::Audio) / MS, 0);
    }

    #[test]
    fn small_changes_are_followed_slowly_and_large_ones_at_once() {
        let mut run = Run::new();
        run.run(1000, 100, 30);
        let before = run.sync.offset(Kind::Audio);
        // 10 ms at 40 ms a second: half of it after the median has moved.
        let off = run.run(400, 110, 30);
        assert!((1..10).contains(&off), "{off} ms beside");
        assert!(run.sync.offset(Kind::Audio) > before);
        assert!(run.run(600, 110, 30).abs() <= 1);
        assert!(run.run(300, 200, 30).abs() <= 1, "a jump");
    }

    #[test]
    fn a_frame_that_is_late_once_moves_nothing() {
        let mut run = Run::new();
        run.run(1000, 100, 30);
        let before = run.sync.offset(Kind::Audio);
        run.frame(Kind::Video, 400);
        run.run(100, 100, 30);
        assert_eq!(run.sync.offset(Kind::Audio), before);
    }

    #[test]
    fn clocks_that_have_nothing_to_do_with_each_other_are_left_alone() {
        let mut run = Run::new();
        run.run(1000, 100, 30);
        run.run(1000, 100_000, 30);
        assert_eq!(run.sync.offset(Kind::Audio), 0);
        assert_eq!(run.sync.offset(Kind::Video), 0);
    }

    #[test]
    fn nobody_waits_for_what_has_ended() {
        let mut run = Run::new();
        run.run(1000, 100, 30);
        for _ in 0..400 {
            run.ms += 33;
            run.frame(Kind::Audio, 30);
        }
        assert_eq!(run.sync.offset(Kind::Audio), 0);
    }
}
