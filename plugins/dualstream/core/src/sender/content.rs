// SPDX-License-Identifier: MPL-2.0
//! How good the standby must be: learnt from the quantisers of both streams.
//!
//! A key frame has done its work when its quantiser is within [`GAP`] of the
//! display stream's: the catch-up frames and the first frames after the
//! commit make up for the rest, and a better one takes from the display
//! stream what it needs now. A still picture gets there with one or two
//! frame times of data; a moving one takes all that it is allowed.

use super::config::Config;

/// Weight of a new picture in the mean quantiser of the display stream: half
/// a second at 30 fps.
const MEAN_GAIN: f64 = 1.0 / 16.0;
/// Of a mean that tells a hard moment from ordinary ones, two seconds.
const LONG_GAIN: f64 = 1.0 / 64.0;
/// And of the moment itself.
const SHORT_GAIN: f64 = 1.0 / 4.0;
/// Steps of the quantiser above its long mean at which the display stream
/// needs all there is.
const HARD: f64 = 4.0;
/// Steps of the quantiser that a key frame may be coarser than the display
/// stream. Found by trying budgets on a still and a moving clip
/// (docs/dual-stream.md).
const GAP: f64 = 8.0;
/// Six steps of the quantiser double its width, and about halve the size.
const DOUBLE: f64 = 6.0;
/// A key frame's budget before there was one, and the least it gets.
const FIRST: f64 = 4.0;
const LEAST: f64 = 2.0;
/// The budget changes by this factor at most from one key frame to the next.
const CHANGE: f64 = 2.0;
/// A catch-up frame with a quantiser this near to the display stream's is as
/// good as it.
const EQUAL: f64 = 2.0;
/// Budgets of catch-up frames, in frame times: of one after a key frame as
/// good as the display stream, and at most.
const CATCH_UP: (f64, f64) = (1.0, 2.5);
/// The gap that earns a catch-up frame one frame time more.
const CATCH_UP_GAP: f64 = 8.0;

#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// Mean quantiser of the display stream.
    display: Option<f64>,
    long: f64,
    short: f64,
    budget: f64,
    /// Of the standby's newest picture beside the display stream.
    gap: Option<f64>,
    /// The standby's newest quantiser and, for a key frame, its budget: the
    /// display stream's of the same picture may come after it.
    new: Option<(f64, Option<f64>)>,
}

impl Content {
    pub(super) const fn new() -> Self {
        Self {
            display: None,
            long: 0.0,
            short: 0.0,
            budget: FIRST,
            gap: None,
            new: None,
        }
    }

    pub(super) fn display_coded(&mut self, quantiser: f64) {
        let Some(mean) = &mut self.display else {
            self.display = Some(quantiser);
            (self.long, self.short) = (quantiser, quantiser);
            return;
        };
        *mean += (quantiser - *mean) * MEAN_GAIN;
        self.long += (quantiser - self.long) * LONG_GAIN;
        self.short += (quantiser - self.short) * SHORT_GAIN;
    }

    /// How much the picture is coarser than it was of late, 0 to 1: what the
    /// background must give up.
    pub(super) fn pressure(&self) -> f64 {
        ((self.short - self.long) / HARD).clamp(0.0, 1.0)
    }

    /// `given` is the budget that a key frame was coded with; none for a
    /// catch-up frame.
    pub(super) fn background_coded(&mut self, quantiser: f64, given: Option<f64>) {
        self.new = Some((quantiser, given));
    }

    /// All of the last picture is coded: what did it show?
    pub(super) fn settle(&mut self) {
        let (Some(display), Some((quantiser, given))) = (self.display, self.new.take()) else {
            return;
        };
        let gap = quantiser - display;
        self.gap = Some(gap);
        if let Some(given) = given {
            let change = ((gap - GAP) / DOUBLE).exp2().clamp(1.0 / CHANGE, CHANGE);
            self.budget = given * change;
        }
    }

    /// Of the next key frame, in frame times.
    pub(super) fn key_frame_budget(&self, config: &Config) -> f64 {
        let most = config.keyframe_budget;
        let least = LEAST.max(config.recognisable()).min(most);
        self.budget.clamp(least, most)
    }

    /// Of the next catch-up frame, in frame times.
    pub(super) fn catch_up_budget(&self) -> f64 {
        let more = self.gap.unwrap_or(CATCH_UP_GAP) / CATCH_UP_GAP;
        (CATCH_UP.0 + more).clamp(CATCH_UP.0, CATCH_UP.1)
    }

    /// The standby's newest picture is as good as the display stream.
    pub(super) fn standby_is_good(&self) -> bool {
        self.gap.is_some_and(|gap| gap <= EQUAL)
    }

    /// The next picture of the standby is a key frame: nothing is known of it.
    pub(super) fn new_key_frame(&mut self) {
        self.gap = None;
        self.new = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            keyframe_budget: 8.0,
            ..Config::default()
        }
    }

    /// Key frames of which each doubling of the size saves six steps.
    fn settle(display: f64, key_at_one_frame: f64) -> f64 {
        let mut content = Content::new();
        for _ in 0..100 {
            content.display_coded(display);
        }
        for _ in 0..10 {
            let given = content.key_frame_budget(&config());
            content.background_coded(key_at_one_frame - DOUBLE * given.log2(), Some(given));
            content.settle();
        }
        content.key_frame_budget(&config())
    }

    #[test]
    fn the_budget_is_what_the_picture_needs() {
        assert_eq!(settle(20.0, 30.0), 2.0, "still: the least");
        assert_eq!(settle(26.0, 60.0), 8.0, "moving: the most");
        // 8 steps coarser at 4 frame times: 12 more at one.
        assert!((settle(30.0, 50.0) - 4.0).abs() < 0.01);
    }

    #[test]
    fn without_quantisers_the_budgets_are_constants() {
        let content = Content::new();
        assert_eq!(content.key_frame_budget(&config()), FIRST);
        assert_eq!(content.catch_up_budget(), 2.0);
        assert!(!content.standby_is_good());
    }

    #[test]
    fn a_standby_behind_the_display_gets_larger_catch_up_frames() {
        let mut content = Content::new();
        content.display_coded(30.0);
        let mut budget = |quantiser| {
            content.background_coded(quantiser, None);
            content.settle();
            (content.catch_up_budget(), content.standby_is_good())
        };
        assert_eq!(budget(50.0), (2.5, false));
        assert_eq!(budget(34.0), (1.5, false));
        assert_eq!(budget(32.0), (1.25, true));
        assert_eq!(budget(20.0), (1.0, true));
    }

    #[test]
    fn the_user_s_limit_holds() {
        let config = Config {
            keyframe_budget: 1.5,
            ..config()
        };
        assert_eq!(Content::new().key_frame_budget(&config), 1.5);
    }
}
