// SPDX-License-Identifier: MPL-2.0
use dualstream_common::{Bitrate, Ratio};
use std::fmt;
use std::time::Duration;

/// How the standby's reference is kept young between refreshes, so that a loss
/// can be answered from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warm {
    /// Not at all: there is what the last switch left.
    Off,
    /// As often as pays: each second.
    #[default]
    Auto,
    /// This long after the last one.
    Interval(Duration),
}

/// What a user sets. Where the defaults come from: docs/dual-stream.md.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// For both streams together.
    pub target: Bitrate,
    /// Length of one picture.
    pub frame_time: Duration,
    /// Pixels of a picture; 0 when not known.
    pub pixels: u64,
    /// Time from one key frame to the next; none: on request only.
    pub refresh_interval: Option<Duration>,
    /// Part of the target that a background frame gets at least while it is on
    /// its way; what the display encoder leaves unused counts to it. Larger:
    /// sooner there, and the display stream is coarser for that time.
    pub background_share: Ratio,
    /// Upper bound of a background key frame, in frame times at the target
    /// rate. Larger: a better picture after the commit, and later.
    pub keyframe_budget: f64,
    /// Catch-up frames between the key frame and the commit, at most.
    pub max_catch_up_frames: u32,
    /// Commit when the standby's newest picture is this many pictures old or
    /// fewer.
    pub young: u32,
    /// Upper bound of the very first key frame, in frame times at the target
    /// rate. Larger: a better picture from the start, later by that time and
    /// made good within the next few pictures.
    pub start_budget: f64,
    pub warm: Warm,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            target: Bitrate::from_kbps(2000),
            frame_time: Duration::from_nanos(1_000_000_000 / 30),
            pixels: 0,
            refresh_interval: None,
            background_share: Ratio::clamped(0.17),
            keyframe_budget: 8.0,
            max_catch_up_frames: 3,
            young: 2,
            start_budget: 4.0,
            warm: Warm::Auto,
        }
    }
}

/// Bounds of [`Config`], each in one place.
impl Config {
    pub const SHARE: (f64, f64) = (0.02, 0.9);
    pub const BUDGET: (f64, f64) = (1.0, 60.0);
    pub const CATCH_UPS: (u32, u32) = (0, 30);
    pub const FRAME_TIME: (Duration, Duration) =
        (Duration::from_millis(1), Duration::from_secs(10));
    pub const WARM_INTERVAL: (Duration, Duration) =
        (Duration::from_millis(100), Duration::from_secs(3600));

    /// Bits for each pixel below which a key frame shows nothing that could be
    /// recognised, and x264 is at its coarsest quantiser.
    const RECOGNISABLE: f64 = 0.03;

    /// Such a key frame, in frame times at the target.
    pub(super) fn recognisable(&self) -> f64 {
        let frame = (self.target * self.frame_time).as_bits().max(1);
        self.pixels as f64 * Self::RECOGNISABLE / frame as f64
    }

    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.target == Bitrate::ZERO {
            return Err(ConfigError::Target);
        }
        if self.frame_time < Self::FRAME_TIME.0 || self.frame_time > Self::FRAME_TIME.1 {
            return Err(ConfigError::FrameTime);
        }
        if self.refresh_interval.is_some_and(|i| i.is_zero()) {
            return Err(ConfigError::RefreshInterval);
        }
        if !(Self::SHARE.0..=Self::SHARE.1).contains(&self.background_share.value()) {
            return Err(ConfigError::BackgroundShare);
        }
        if !(Self::BUDGET.0..=Self::BUDGET.1).contains(&self.keyframe_budget) {
            return Err(ConfigError::KeyframeBudget);
        }
        if !(Self::BUDGET.0..=Self::BUDGET.1).contains(&self.start_budget) {
            return Err(ConfigError::StartBudget);
        }
        if let Warm::Interval(interval) = self.warm
            && !(Self::WARM_INTERVAL.0..=Self::WARM_INTERVAL.1).contains(&interval)
        {
            return Err(ConfigError::WarmInterval);
        }
        if self.max_catch_up_frames > Self::CATCH_UPS.1 {
            return Err(ConfigError::CatchUpFrames);
        }
        Ok(())
    }
}

/// Which setting is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    Target,
    FrameTime,
    RefreshInterval,
    BackgroundShare,
    KeyframeBudget,
    StartBudget,
    WarmInterval,
    CatchUpFrames,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Target => "the target rate is 0",
            Self::FrameTime => "the frame time is not within 1 ms and 10 s",
            Self::RefreshInterval => "the refresh interval is 0",
            Self::BackgroundShare => "the background share is not within 0.02 and 0.9",
            Self::KeyframeBudget => "the key frame budget is not within 1 and 60 frame times",
            Self::StartBudget => "the start budget is not within 1 and 60 frame times",
            Self::WarmInterval => "the warm interval is not within 100 ms and 1 h",
            Self::CatchUpFrames => "more than 30 catch-up frames",
        })
    }
}

impl std::error::Error for ConfigError {}
