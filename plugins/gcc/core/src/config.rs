// SPDX-License-Identifier: MPL-2.0
use std::fmt;
use std::time::Duration;

use dualstream_common::Bitrate;

/// What finds the trend in the one-way delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DelayFilter {
    /// Least-squares line through the smoothed delay of 20 groups, as
    /// libwebrtc does.
    #[default]
    Trendline,
    /// The scalar Kalman filter of draft-ietf-rmcat-gcc-02 section 5.3.
    Kalman,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Before anything is known.
    pub start: Bitrate,
    pub min: Bitrate,
    pub max: Bitrate,
    /// What the application could use; probing does not go beyond twice this.
    pub wanted: Option<Bitrate>,
    pub filter: DelayFilter,
    /// Time that packets are allowed to wait for our own in the bottleneck
    /// where the capacity is constant. Larger: the link is never idle;
    /// smaller: less delay.
    pub queue_aim: Duration,
    /// In flight may be what the link takes in the least response time, a
    /// feedback interval and this. `None` is no window.
    pub window: Option<Duration>,
    pub probing: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start: Bitrate::from_kbps(300),
            min: Bitrate::from_kbps(30),
            max: Bitrate::from_kbps(50_000),
            wanted: None,
            filter: DelayFilter::default(),
            queue_aim: Duration::from_millis(4),
            window: Some(Duration::from_millis(20)),
            probing: true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The least rate is 0.
    NoMinimum,
    /// Not min <= start <= max.
    Order,
    /// The queue aimed at is not from 1 to 200 ms.
    QueueAim,
    /// The window is above a second.
    Window,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMinimum => "the least rate is 0",
            Self::Order => "the rates are not in the order minimum, start, maximum",
            Self::QueueAim => "the queue to aim at is not from 1 to 200 ms",
            Self::Window => "the window is more than 1 s",
        })
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.min == Bitrate::ZERO {
            return Err(ConfigError::NoMinimum);
        }
        if self.min > self.start || self.start > self.max {
            return Err(ConfigError::Order);
        }
        let aim = Duration::from_millis(1)..=Duration::from_millis(200);
        if !aim.contains(&self.queue_aim) {
            return Err(ConfigError::QueueAim);
        }
        if self.window > Some(Duration::from_secs(1)) {
            return Err(ConfigError::Window);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Config), error: ConfigError) {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.validate(), Err(error));
    }

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn each_error_has_its_cause() {
        refused(|c| c.min = Bitrate::ZERO, ConfigError::NoMinimum);
        refused(|c| c.start = Bitrate::from_kbps(29), ConfigError::Order);
        refused(|c| c.start = Bitrate::from_kbps(50_001), ConfigError::Order);
        refused(|c| c.max = Bitrate::from_kbps(299), ConfigError::Order);
        refused(
            |c| c.queue_aim = Duration::from_micros(999),
            ConfigError::QueueAim,
        );
        refused(
            |c| c.queue_aim = Duration::from_micros(200_001),
            ConfigError::QueueAim,
        );
        refused(
            |c| c.window = Some(Duration::from_millis(1001)),
            ConfigError::Window,
        );
    }

    #[test]
    fn the_limits_themselves_are_valid() {
        let one = Bitrate::from_bps(1);
        let config = Config {
            start: one,
            min: one,
            max: one,
            queue_aim: Duration::from_millis(200),
            window: Some(Duration::from_secs(1)),
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
        let none = Config {
            window: None,
            ..config
        };
        assert_eq!(none.validate(), Ok(()), "no window is not a long one");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let errors = [
            ConfigError::NoMinimum,
            ConfigError::Order,
            ConfigError::QueueAim,
            ConfigError::Window,
        ];
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for (n, text) in texts.iter().enumerate() {
            assert!(!text.is_empty() && !texts[..n].contains(text), "{text}");
        }
    }
}
