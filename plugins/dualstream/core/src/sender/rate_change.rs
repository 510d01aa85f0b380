// SPDX-License-Identifier: MPL-2.0
//! When an encoder is given a new rate: at once where that costs nothing, in
//! few and large steps where it costs a key frame. Such a step is best taken
//! by the standby, whose next frame is a key frame anyway.

use super::EncoderRate;
use dualstream_common::{Bitrate, Timestamp};
use std::time::Duration;

/// What a change of rate does to an encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateChange {
    /// It goes on with the next frame.
    #[default]
    InPlace,
    /// It hands on all it has first, and goes on without a key frame.
    Drains,
    /// It makes a key frame.
    KeyFrame,
    /// It starts anew inside, which takes time and makes a key frame.
    Rebuilds,
    /// It has the rate that it was made with; another needs another encoder.
    NewInstance,
}

impl RateChange {
    /// A change makes a key frame.
    #[must_use]
    pub const fn makes_key_frame(self) -> bool {
        match self {
            Self::InPlace | Self::Drains => false,
            Self::KeyFrame | Self::Rebuilds | Self::NewInstance => true,
        }
    }
}

/// Rates of encoders for which a change costs a key frame lie on a scale of
/// this many steps to the octave, 9 % each.
const STEPS: f64 = 8.0;
/// A rate that is this far above the target fills the link's queue faster
/// than a key frame does.
const URGENT: f64 = 1.5;
/// A target has to be this far above the rate in use for a step up: one step
/// and a little, so that a target at a step's edge changes nothing.
const UP: f64 = 1.25;
/// And this far below for a step down.
const DOWN: f64 = 0.95;
/// Least time between two changes: up, down, and where it is urgent.
const SPACING: (Duration, Duration, Duration) = (
    Duration::from_secs(5),
    Duration::from_secs(1),
    Duration::from_millis(250),
);
/// Draining costs time but no key frame; smaller changes wait.
const DRAIN_STEP: f64 = 0.05;

/// The rate of one encoder.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateGate {
    change: RateChange,
    applied: Option<(EncoderRate, bool)>,
    /// Of the last change that cost something.
    at: Option<Timestamp>,
}

/// What is wanted of an encoder for one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For this picture.
    pub rate: EncoderRate,
    /// For the pictures to come, on the whole.
    pub steady: EncoderRate,
    /// This picture will be a key frame in any case.
    pub key: bool,
    /// There is no standby that could take a change.
    pub alone: bool,
}

impl RateGate {
    /// A new encoder, set to `applied` if that is known.
    #[must_use]
    pub const fn new(change: RateChange, applied: Option<EncoderRate>) -> Self {
        let applied = match applied {
            Some(rate) => Some((rate, true)),
            None => None,
        };
        Self {
            change,
            applied,
            at: None,
        }
    }

    /// One that was made now, so that the next change waits.
    #[must_use]
    pub const fn made(now: Timestamp, change: RateChange, applied: Option<EncoderRate>) -> Self {
        Self {
            at: Some(now),
            ..Self::new(change, applied)
        }
    }

    /// What the encoder has.
    #[must_use]
    pub fn applied(&self) -> Option<EncoderRate> {
        self.applied.map(|(rate, _)| rate)
    }

    /// The rate to start a new encoder of this kind with, for a frame of
    /// `rate` among those of `steady`.
    #[must_use]
    pub fn start(change: RateChange, rate: EncoderRate, steady: EncoderRate) -> EncoderRate {
        if change.makes_key_frame() {
            on_scale(steady)
        } else {
            rate
        }
    }

    /// What to set the encoder to before this picture; `None`: it stays as it
    /// is.
    pub fn next(&mut self, now: Timestamp, wanted: Wanted) -> Option<EncoderRate> {
        let Some((rate, for_key)) = self.applied else {
            return Some(self.apply(
                now,
                Self::start(self.change, wanted.rate, wanted.steady),
                wanted.key,
            ));
        };
        if self.change.makes_key_frame() {
            return self.next_step(now, rate, wanted);
        }
        let same = (rate, for_key) == (wanted.rate, wanted.key);
        let waits = self.change == RateChange::Drains
            && for_key == wanted.key
            && (ratio(wanted.rate, rate) - 1.0).abs() < DRAIN_STEP;
        (!same && !waits).then(|| self.apply(now, wanted.rate, wanted.key))
    }

    fn next_step(
        &mut self,
        now: Timestamp,
        rate: EncoderRate,
        wanted: Wanted,
    ) -> Option<EncoderRate> {
        let step = on_scale(wanted.steady);
        let free = wanted.key && self.change != RateChange::NewInstance;
        let over = ratio(rate, wanted.steady);
        let take = if step == rate {
            false
        } else if free {
            true
        } else if over > URGENT {
            self.rested(now, SPACING.2)
        } else {
            wanted.alone && self.due(now, wanted.steady)
        };
        take.then(|| self.apply(now, step, wanted.key))
    }

    /// The target has left the rate in use, and the standby should take over
    /// with a rate nearer to it.
    #[must_use]
    pub fn due(&self, now: Timestamp, steady: EncoderRate) -> bool {
        let Some((rate, _)) = self.applied.filter(|_| self.change.makes_key_frame()) else {
            return false;
        };
        let target = ratio(steady, rate);
        (target > UP && self.rested(now, SPACING.0))
            || (target < DOWN && self.rested(now, SPACING.1))
    }

    fn rested(&self, now: Timestamp, spacing: Duration) -> bool {
        self.at.is_none_or(|at| now.since(at) >= spacing)
    }

    fn apply(&mut self, now: Timestamp, rate: EncoderRate, key: bool) -> EncoderRate {
        self.applied = Some((rate, key));
        self.at = Some(now);
        rate
    }
}

fn ratio(one: EncoderRate, other: EncoderRate) -> f64 {
    one.bitrate.as_bps().max(1) as f64 / other.bitrate.as_bps().max(1) as f64
}

/// The next step below or at the rate.
fn on_scale(rate: EncoderRate) -> EncoderRate {
    let steps = (rate.bitrate.as_bps().max(1) as f64).log2() * STEPS;
    // A rate on the scale stays, in spite of rounding.
    let bps = ((steps + 1e-6).floor() / STEPS).exp2().round();
    EncoderRate {
        bitrate: Bitrate::from_bps(bps as u64),
        ..rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(33);

    fn rate(kbps: u64) -> EncoderRate {
        EncoderRate {
            bitrate: Bitrate::from_kbps(kbps),
            buffer: FRAME,
        }
    }

    fn wanted(kbps: u64, alone: bool) -> Wanted {
        Wanted {
            rate: rate(kbps),
            steady: rate(kbps),
            key: false,
            alone,
        }
    }

    /// Changes while the target goes over `targets`, one per frame of 33 ms.
    fn changes(
        change: RateChange,
        alone: bool,
        targets: impl Iterator<Item = u64>,
    ) -> Vec<(u64, u64)> {
        let mut gate = RateGate::new(change, None);
        let mut all = Vec::new();
        for (n, kbps) in targets.enumerate() {
            let now = Timestamp::from_millis(n as u64 * 33);
            if let Some(rate) = gate.next(now, wanted(kbps, alone)) {
                all.push((n as u64, rate.bitrate.as_kbps()));
            }
        }
        all
    }

    #[test]
    fn in_place_each_change_is_made_at_once() {
        let made = changes(
            RateChange::InPlace,
            false,
            [1000, 1000, 1010, 500, 500].into_iter(),
        );
        assert_eq!(made, [(0, 1000), (2, 1010), (3, 500)]);
    }

    #[test]
    fn draining_encoders_are_spared_small_changes() {
        let made = changes(
            RateChange::Drains,
            false,
            [1000, 1040, 970, 1060, 900].into_iter(),
        );
        assert_eq!(made, [(0, 1000), (3, 1060), (4, 900)]);
    }

    #[test]
    fn a_target_that_wobbles_costs_no_key_frame() {
        let wobble = (0..900).map(|n| if n % 7 < 3 { 1000 } else { 1150 });
        for alone in [false, true] {
            let made = changes(RateChange::KeyFrame, alone, wobble.clone());
            // 2^(159/8) = 961548 bit/s is the step below 1000 kbit/s.
            assert_eq!(made, [(0, 962)], "alone: {alone}");
        }
    }

    #[test]
    fn with_a_standby_only_what_is_urgent_is_set_on_the_display_stream() {
        let down = [1000; 100].into_iter().chain([800; 100]).chain([400; 100]);
        let made = changes(RateChange::Rebuilds, false, down);
        assert_eq!(made.len(), 2, "{made:?}");
        assert_eq!(made[1].0, 200, "at once: {made:?}");
        assert!((336..=400).contains(&made[1].1), "{made:?}");
        let up = [500; 10].into_iter().chain([3000; 900]);
        assert_eq!(changes(RateChange::Rebuilds, false, up).len(), 1);
    }

    #[test]
    fn alone_a_rise_waits_and_is_taken_in_one_step() {
        let up = [500; 10].into_iter().chain([3000; 900]);
        let made = changes(RateChange::KeyFrame, true, up);
        assert_eq!(made.len(), 2, "{made:?}");
        // 5 s after the first setting.
        assert!((150..=154).contains(&made[1].0), "{made:?}");
        assert!((2520..=3000).contains(&made[1].1), "{made:?}");
    }

    #[test]
    fn the_standby_is_asked_for_where_the_target_has_left_the_rate() {
        let mut gate = RateGate::new(RateChange::KeyFrame, None);
        let _ = gate.next(Timestamp::ZERO, wanted(1000, false));
        let later = Timestamp::from_millis(6000);
        assert!(!gate.due(later, rate(1000)));
        assert!(gate.due(later, rate(1500)));
        assert!(gate.due(later, rate(700)));
        assert!(
            !gate.due(Timestamp::from_millis(2000), rate(1500)),
            "too soon"
        );
        let mut free = RateGate::new(RateChange::InPlace, None);
        let _ = free.next(Timestamp::ZERO, wanted(1000, false));
        assert!(!free.due(later, rate(3000)), "nothing is to be spared");
    }

    #[test]
    fn a_key_frame_takes_the_new_rate_along() {
        let mut gate = RateGate::new(RateChange::KeyFrame, Some(rate(882)));
        let key = Wanted {
            rate: rate(8000),
            key: true,
            ..wanted(1500, false)
        };
        let set = gate
            .next(Timestamp::from_millis(10), key)
            .expect("a change");
        // Not that of the key frame: to go back would cost another.
        assert!((1261..=1500).contains(&set.bitrate.as_kbps()), "{set:?}");
    }
}
