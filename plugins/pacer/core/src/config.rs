// SPDX-License-Identifier: MPL-2.0
use std::fmt;
use std::time::Duration;

use dualstream_common::DataSize;

/// No more than this much time at the rate leaves at once.
pub const LONGEST_BURST: Duration = Duration::from_millis(5);

/// What the application chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Pacing rate over target rate, where only a target is known; 1 to 5.
    /// Larger: a key frame leaves sooner; smaller: shorter queues in the
    /// network.
    pub pacing_factor: f64,
    /// How much may leave at once, as time at the rate; at most
    /// [`LONGEST_BURST`]. When that has left, the next burst leaves when it is
    /// paid for: larger is fewer wake-ups. Zero spaces every packet exactly.
    pub burst: Duration,
    /// The rate is raised so that what is queued leaves within this time.
    /// Background packets and padding do not count. `None`: never raised.
    pub queue_time_limit: Option<Duration>,
    /// Background packets older than this are dropped; `None`: never.
    pub ttl_background: Option<Duration>,
    /// The same for padding that was pushed.
    pub ttl_padding: Option<Duration>,
    /// Most packets held. When full, the oldest packet of the lowest priority
    /// makes room for one of higher priority; else the new one is refused.
    pub max_packets: usize,
    /// Most bytes held, with the same policy.
    pub max_bytes: DataSize,
    /// Most SSRCs with packets held; packets of one more are refused.
    pub max_streams: u16,
    /// Size of each packet that [`Next::Pad`](crate::Next::Pad) asks for.
    pub padding_size: DataSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // libwebrtc, goog_cc/goog_cc_network_control.cc:
            // kDefaultPaceMultiplier.
            pacing_factor: 2.5,
            burst: LONGEST_BURST,
            queue_time_limit: Some(Duration::from_millis(500)),
            ttl_background: None,
            ttl_padding: Some(Duration::from_millis(200)),
            max_packets: 10_000,
            max_bytes: DataSize::from_bytes(10_000_000),
            max_streams: 256,
            // RTP header 12, extension 8, padding 255, IPv4 and UDP 28.
            padding_size: DataSize::from_bytes(303),
        }
    }
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    PacingFactor,
    Burst,
    QueueTimeLimit,
    Ttl,
    MaxQueue,
    PaddingSize,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PacingFactor => "the pacing factor is not from 1 to 5",
            Self::Burst => "the burst is longer than 5 ms",
            Self::QueueTimeLimit => "the queue-time limit is zero",
            Self::Ttl => "a time to live is zero",
            Self::MaxQueue => "the queue has no room",
            Self::PaddingSize => "a padding packet has no size",
        })
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1.0..=5.0).contains(&self.pacing_factor) {
            return Err(ConfigError::PacingFactor);
        }
        if self.burst > LONGEST_BURST {
            return Err(ConfigError::Burst);
        }
        if self.queue_time_limit == Some(Duration::ZERO) {
            return Err(ConfigError::QueueTimeLimit);
        }
        if [self.ttl_background, self.ttl_padding].contains(&Some(Duration::ZERO)) {
            return Err(ConfigError::Ttl);
        }
        if self.max_packets == 0 || self.max_bytes == DataSize::ZERO || self.max_streams == 0 {
            return Err(ConfigError::MaxQueue);
        }
        if self.padding_size == DataSize::ZERO {
            return Err(ConfigError::PaddingSize);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_own_error() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate()
        };
        assert_eq!(with(|_| ()), Ok(()));
        for (change, error) in [
            (
                (|c| c.pacing_factor = 0.9) as fn(&mut Config),
                ConfigError::PacingFactor,
            ),
            (|c| c.pacing_factor = f64::NAN, ConfigError::PacingFactor),
            (|c| c.burst = Duration::from_millis(6), ConfigError::Burst),
            (
                |c| c.queue_time_limit = Some(Duration::ZERO),
                ConfigError::QueueTimeLimit,
            ),
            (
                |c| c.ttl_background = Some(Duration::ZERO),
                ConfigError::Ttl,
            ),
            (|c| c.ttl_padding = Some(Duration::ZERO), ConfigError::Ttl),
            (|c| c.max_packets = 0, ConfigError::MaxQueue),
            (|c| c.max_bytes = DataSize::ZERO, ConfigError::MaxQueue),
            (|c| c.max_streams = 0, ConfigError::MaxQueue),
            (
                |c| c.padding_size = DataSize::ZERO,
                ConfigError::PaddingSize,
            ),
        ] {
            assert_eq!(with(change), Err(error));
        }
    }
}
