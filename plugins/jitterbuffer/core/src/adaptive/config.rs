// SPDX-License-Identifier: MPL-2.0
use std::fmt;
use std::time::Duration;

use dualstream_common::Ratio;

/// A delay above this is of no use to anyone, and transits further apart are
/// not of one clock.
pub const LONGEST_DELAY: Duration = Duration::from_secs(10);
const LATE_TARGETS: std::ops::RangeInclusive<f64> = 0.000_1..=0.5;

/// What the application chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Share of frames allowed to miss their time, 0.01 % to 50 %. Smaller:
    /// more delay, and more frames needed to learn it.
    pub late_target: Ratio,
    /// Above the fastest frames of late.
    pub min_delay: Duration,
    /// The same, at most [`LONGEST_DELAY`]; frames beyond are late.
    pub max_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            late_target: Ratio::clamped(0.005),
            min_delay: Duration::ZERO,
            max_delay: LONGEST_DELAY,
        }
    }
}

impl Config {
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !LATE_TARGETS.contains(&self.late_target.value()) {
            return Err(ConfigError::LateTarget);
        }
        if self.max_delay > LONGEST_DELAY {
            return Err(ConfigError::MaxDelay);
        }
        if self.min_delay > self.max_delay {
            return Err(ConfigError::MinDelay);
        }
        Ok(())
    }
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    LateTarget,
    MinDelay,
    MaxDelay,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LateTarget => "the late target is not from 0.0001 to 0.5",
            Self::MinDelay => "the smallest delay is above the largest",
            Self::MaxDelay => "the largest delay is above 10 s",
        })
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_error() {
        let with = |late: f64, min: u64, max: u64| {
            Config {
                late_target: Ratio::clamped(late),
                min_delay: Duration::from_millis(min),
                max_delay: Duration::from_millis(max),
            }
            .validate()
        };
        assert_eq!(with(0.005, 0, 10_000), Ok(()));
        assert_eq!(with(0.0, 0, 100), Err(ConfigError::LateTarget));
        assert_eq!(with(0.6, 0, 100), Err(ConfigError::LateTarget));
        assert_eq!(with(0.01, 0, 10_001), Err(ConfigError::MaxDelay));
        assert_eq!(with(0.01, 101, 100), Err(ConfigError::MinDelay));
    }
}
