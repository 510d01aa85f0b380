// SPDX-License-Identifier: MPL-2.0
use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::Timestamp;

use super::sorted::Sorted;

/// It takes longer to have enough frames where they are few, but no longer than
/// this.
const LONGEST_SPAN: Duration = Duration::from_secs(60);
/// The oldest frame makes room.
const MAX_FRAMES: usize = 8192;

/// The transits of the frames of late, in order of their size.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Never fewer for the sake of the span.
    enough: usize,
    span: Duration,
    frames: VecDeque<(Timestamp, i64)>,
    sorted: Sorted,
}

impl Window {
    pub(crate) fn new(span: Duration, enough: usize) -> Self {
        Self {
            enough: enough.min(MAX_FRAMES),
            span,
            frames: VecDeque::new(),
            sorted: Sorted::default(),
        }
    }

    /// Holds that many in future, whatever their age.
    pub(crate) fn hold(&mut self, enough: usize) {
        self.enough = enough.min(MAX_FRAMES);
    }

    pub(crate) fn push(&mut self, arrival: Timestamp, transit: i64) {
        while let Some((oldest, _)) = self.frames.front() {
            let age = arrival.since(*oldest);
            let full = self.frames.len() >= MAX_FRAMES;
            let old = age > self.span && self.frames.len() > self.enough;
            if !(full || old || age > LONGEST_SPAN) {
                break;
            }
            self.pop();
        }
        self.frames.push_back((arrival, transit));
        self.sorted.insert(transit);
    }

    /// Forgets what is older than `age`.
    pub(crate) fn keep(&mut self, now: Timestamp, age: Duration) {
        while self
            .frames
            .front()
            .is_some_and(|(oldest, _)| now.since(*oldest) > age)
        {
            self.pop();
        }
    }

    /// Forgets what came at `since` and later, but not the first.
    pub(crate) fn forget_since(&mut self, since: Timestamp) {
        while self.len() > 1
            && let Some((arrival, transit)) = self.frames.back().copied()
            && arrival >= since
        {
            self.frames.pop_back();
            self.sorted.remove(transit);
        }
    }

    /// The median.
    pub(crate) fn middle(&self) -> Option<i64> {
        self.sorted.get(self.len() / 2)
    }

    fn pop(&mut self) {
        if let Some((_, transit)) = self.frames.pop_front() {
            self.sorted.remove(transit);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn smallest(&self) -> Option<i64> {
        self.sorted.first()
    }

    /// The transit that the next frame exceeds with a probability of at most
    /// `share`, if it is like those of the window; their largest if they are
    /// too few to tell.
    ///
    /// The next of n + 1 alike is the largest with a probability of 1 / (n + 1),
    /// and so on.
    pub(crate) fn exceeded_by(&self, share: f64) -> Option<i64> {
        let last = self.len().max(1) as f64;
        let allowed = (share * (self.len() + 1) as f64).clamp(1.0, last);
        let from_top = allowed as usize;
        let at = self.len().checked_sub(from_top)?;
        let transit = self.sorted.get(at)?;
        let next = at.checked_sub(1).and_then(|at| self.sorted.get(at));
        let step = next.map_or(0, |next| transit.saturating_sub(next));
        Some(transit.saturating_sub(((allowed - from_top as f64) * step as f64) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64, every_ms: u64, enough: usize) -> Window {
        let mut window = Window::new(Duration::from_secs(8), enough);
        for n in 0..count {
            window.push(Timestamp::from_millis(n * every_ms), n as i64);
        }
        window
    }

    #[test]
    fn the_share_that_exceeds_is_the_one_asked_for() {
        let window = filled(99, 10, 1);
        assert_eq!(window.exceeded_by(0.05), Some(94), "95 to 98 of 100");
        assert_eq!(window.exceeded_by(0.0), Some(98), "the largest");
        assert_eq!(window.exceeded_by(-1.0), Some(98));
        assert_eq!(window.exceeded_by(7.0), Some(0), "the smallest");
        assert_eq!(window.smallest(), Some(0));
        assert_eq!(window.middle(), Some(49));
        assert_eq!(Window::new(LONGEST_SPAN, 1).exceeded_by(0.5), None);
    }

    #[test]
    fn between_two_frames_it_is_between_their_transits() {
        let mut window = Window::new(LONGEST_SPAN, 1);
        for n in 0..9 {
            window.push(Timestamp::from_millis(n), n as i64 * 100);
        }
        assert_eq!(window.exceeded_by(0.1), Some(800));
        assert_eq!(window.exceeded_by(0.15), Some(750));
        assert_eq!(window.exceeded_by(0.2), Some(700));
        window.push(Timestamp::ZERO, i64::MIN);
        window.push(Timestamp::ZERO, i64::MAX);
        assert!(window.exceeded_by(0.12).is_some());
        assert!(window.exceeded_by(0.95).is_some());
    }

    #[test]
    fn old_frames_are_forgotten_when_there_are_enough() {
        assert_eq!(filled(2000, 33, 1).len(), 243, "8 s and this one");
        assert_eq!(filled(2000, 33, 400).len(), 401);
        assert_eq!(filled(2000, 500, 4000).len(), 121, "60 s at most");
        assert_eq!(filled(20_000, 0, 1).len(), MAX_FRAMES);
        let mut window = filled(2000, 33, 1);
        window.keep(Timestamp::from_millis(1999 * 33), Duration::from_secs(1));
        assert_eq!(window.len(), 31);
        assert_eq!(window.smallest(), Some(1969));
    }
}
