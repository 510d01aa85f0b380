// SPDX-License-Identifier: MPL-2.0
//! Who gets how much of the target rate: an account of what both streams have
//! cost, and from it what to ask of the encoders.

use super::config::Config;
use dualstream_common::{Bitrate, DataSize, Ratio, Timestamp};
use std::time::Duration;

/// Weight of a new picture in the mean use is 1/16: half a second at 30 fps.
const USE_GAIN: f64 = 1.0 / 16.0;
/// What an encoder shows of its use is believed between these.
const USE: (f64, f64) = (0.5, 1.5);
/// The display encoder is asked for at most this much of the target, to make
/// up for one that leaves a part unused: x264 with one frame of VBV leaves 13
/// to 15 %. Its largest frames grow by as much, which is what the limit is for.
const MOST: f64 = 1.06;
/// Without a second stream nobody else uses what is left: with 1.12 a real
/// clip's rate was up to 13 % below the target after a step, with 1.16 up to
/// 10 %.
const MOST_ALONE: f64 = 1.2;
/// And for this much at most when it needs all there is while background
/// packets are in its way.
const MOST_SHARED: f64 = 1.02;
/// And for at least this much, so that there is always a picture.
const LEAST: f64 = 0.2;
/// Use of the target that is aimed at.
const AIM: f64 = 0.97;
/// The display stream gives up this part of the target when it owes one frame
/// time, this much more for each further one, and at most the last.
const PAY_BACK: (f64, f64, f64) = (0.3, 0.03, 0.6);
/// Rates are asked for in steps of this, so that an encoder is not set anew
/// for each picture.
const STEP: f64 = 0.02;
/// A source that pauses does not save up more than this.
const SAVED: Duration = Duration::from_millis(100);

/// What was coded and has not yet had its time on the link.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    display: u64,
    background: u64,
}

/// What both streams need while a background frame is on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Of the background, at least.
    pub(super) share: Ratio,
    /// Of the display stream: 0 for none to 1 for all there is.
    pub(super) pressure: f64,
}

/// The account, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    owed: Owed,
    last: Option<Timestamp>,
    /// When the background's debt was last paid.
    emptied: Option<Timestamp>,
    /// Coded size over what was asked for, mean.
    used: f64,
    /// What the display encoder was asked for last, over the target.
    asked: f64,
    /// There is no second stream.
    alone: bool,
}

impl Rates {
    pub(super) const fn new() -> Self {
        Self {
            owed: Owed {
                display: 0,
                background: 0,
            },
            last: None,
            emptied: None,
            used: 1.0,
            asked: 1.0,
            alone: false,
        }
    }

    /// Time has passed: the link has carried display first, then background.
    pub(super) fn advance(&mut self, config: &Config, now: Timestamp) {
        let from = self.last.unwrap_or(now);
        let passed = now.since(from).min(SAVED.max(config.frame_time));
        self.last = Some(now);
        let carried = (config.target * passed).as_bytes();
        let rest = carried.saturating_sub(self.owed.display);
        if self.owed.background > 0 && rest >= self.owed.background {
            let unused = DataSize::from_bytes(rest - self.owed.background);
            let since = unused.time_at(config.target).unwrap_or(Duration::ZERO);
            self.emptied = Some(from + passed.saturating_sub(since));
        }
        self.owed.display = self.owed.display.saturating_sub(carried);
        self.owed.background = self.owed.background.saturating_sub(rest);
    }

    pub(super) fn set_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// `ordinary` frames tell how the encoder uses what it is given; key
    /// frames do not.
    pub(super) fn display_coded(&mut self, config: &Config, size: DataSize, ordinary: bool) {
        self.owed.display = self.owed.display.saturating_add(size.as_bytes());
        let given = (config.target * config.frame_time).as_bytes() as f64 * self.asked;
        if ordinary && given > 0.0 {
            let used = (size.as_bytes() as f64 / given).clamp(USE.0, USE.1);
            self.used += (used - self.used) * USE_GAIN;
        }
    }

    pub(super) fn background_coded(&mut self, size: DataSize) {
        self.owed.background = self.owed.background.saturating_add(size.as_bytes());
    }

    /// The receiver has it all, or nobody waits for it any more.
    pub(super) fn background_done(&mut self) {
        self.owed.background = 0;
    }

    /// When the last background byte had its time, within the interval that
    /// ends `now`.
    pub(super) fn background_left(&self, now: Timestamp) -> Timestamp {
        self.emptied.unwrap_or(now)
    }

    /// In frame times at the target.
    pub(super) fn background_frames(&self, config: &Config) -> f64 {
        let frame = (config.target * config.frame_time).as_bytes().max(1);
        self.owed.background as f64 / frame as f64
    }

    /// What waits in the background goes at once, before the next picture.
    pub(super) fn promote_background(&mut self) {
        self.owed.display = self.owed.display.saturating_add(self.owed.background);
        self.owed.background = 0;
    }

    pub(super) fn background_waits(&self) -> bool {
        self.owed.background > 0
    }

    /// The rate to ask of the display encoder, over the target. A background
    /// frame is given its share; what the encoder leaves unused counts to it.
    /// Under pressure it gets by with less.
    pub(super) fn display(&mut self, config: &Config, background: Option<Need>) -> f64 {
        let frame = (config.target * config.frame_time).as_bytes().max(1) as f64;
        let debt = self.owed.display as f64 / frame;
        let (first, further, most) = PAY_BACK;
        let pays = (first * debt.min(1.0) + further * (debt - 1.0).max(0.0)).min(most);
        let base = if let Some(Need { share, pressure }) = background {
            let share = share.value() * (1.0 - pressure);
            let most = 1.0 + (MOST_SHARED - 1.0) * pressure;
            ((1.0 - share) / self.used).min(most)
        } else {
            let most = if self.alone { MOST_ALONE } else { MOST };
            (AIM / self.used).min(most)
        };
        let asked = (base - pays).max(LEAST);
        self.asked = (asked / STEP).round() * STEP;
        self.asked
    }

    /// What the display stream leaves: the rate of the background.
    pub(super) fn background(&self, config: &Config, share: Ratio) -> Bitrate {
        let left = 1.0 - self.used * self.asked;
        let left = (left / STEP).floor() * STEP;
        config.target.scale(left.max(share.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            target: Bitrate::from_kbps(1200),
            frame_time: Duration::from_millis(40),
            ..Config::default()
        }
    }

    const NEED: Need = Need {
        share: Ratio::clamped(0.17),
        pressure: 0.0,
    };

    /// A frame at the whole target rate.
    const FRAME: u64 = 6000;

    fn after(use_of_it: f64, pictures: u64) -> Rates {
        let config = config();
        let mut rates = Rates::new();
        for n in 0..pictures {
            rates.advance(&config, Timestamp::from_millis(n * 40));
            let asked = rates.display(&config, None);
            let size = (FRAME as f64 * asked * use_of_it) as u64;
            rates.display_coded(&config, DataSize::from_bytes(size), true);
        }
        rates.advance(&config, Timestamp::from_millis(pictures * 40));
        rates
    }

    #[test]
    fn an_encoder_that_leaves_a_part_is_asked_for_more_but_not_without_end() {
        let config = config();
        assert!((after(0.85, 200).display(&config, None) - 1.06).abs() < 1e-9);
        let mut alone = after(0.85, 200);
        alone.set_alone(true);
        assert!((alone.display(&config, None) - 1.14).abs() < 1e-9);
        let mut alone = after(0.75, 200);
        alone.set_alone(true);
        assert!((alone.display(&config, None) - 1.2).abs() < 1e-9);
        assert!((after(0.97, 200).display(&config, None) - 1.0).abs() < 1e-9);
        let over = after(1.2, 200).display(&config, None);
        assert!((0.7..0.85).contains(&over), "{over}");
    }

    #[test]
    fn what_the_encoder_leaves_is_the_background_s_first() {
        let config = config();
        let mut rates = after(0.85, 200);
        // 15 % is left by itself; 17 % is the share.
        let asked = rates.display(&config, Some(NEED));
        assert!((asked - 0.98).abs() < 1e-9, "{asked}");
        let share = rates.background(&config, NEED.share).as_bps() as f64 / 1.2e6;
        assert!((0.16..0.2).contains(&share), "{share}");
        // An exact encoder must give the share up.
        let mut rates = after(1.0, 200);
        let asked = rates.display(&config, Some(NEED));
        assert!((0.8..0.86).contains(&asked), "{asked}");
    }

    #[test]
    fn a_frame_that_was_too_large_is_paid_back() {
        let config = config();
        let mut rates = Rates::new();
        rates.advance(&config, Timestamp::ZERO);
        rates.display_coded(&config, DataSize::from_bytes(4 * FRAME), false);
        let mut pictures = 0;
        for n in 1..100 {
            rates.advance(&config, Timestamp::from_millis(n * 40));
            let asked = rates.display(&config, None);
            if asked > 0.95 {
                break;
            }
            pictures = n;
            let size = (FRAME as f64 * asked) as u64;
            rates.display_coded(&config, DataSize::from_bytes(size), true);
        }
        assert!((8..=14).contains(&pictures), "{pictures}");
    }

    #[test]
    fn the_background_waits_for_what_the_display_leaves() {
        let config = config();
        let mut rates = Rates::new();
        rates.advance(&config, Timestamp::ZERO);
        rates.background_coded(DataSize::from_bytes(3000));
        for n in 1..=3 {
            assert!(rates.background_waits(), "{n}");
            rates.display_coded(&config, DataSize::from_bytes(5000), true);
            rates.advance(&config, Timestamp::from_millis(n * 40));
        }
        assert!(
            !rates.background_waits(),
            "1000 bytes were left, three times"
        );
    }
}
