// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

/// What belongs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assembly {
    /// Packets of one time stamp, up to the marker: video.
    #[default]
    Frames,
    /// Each packet alone: audio.
    Packets,
}

/// When lost packets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestConfig {
    pub enabled: bool,
    /// So many later packets say that one is lost; `Some(0)`: only time does;
    /// `None`: the first one does. Not used while packets come out of order.
    pub reorder_packets: Option<u32>,
    /// From the first later packet to the request, at least.
    pub min_delay: Duration,
    /// After the first request; `None`: until it would come too late.
    pub max_retries: Option<u32>,
    /// Asks twice in a row for a packet that could not be shown in time if the
    /// first retransmission were lost; of one packet in 20 at most.
    pub hedge: bool,
}

impl Default for RequestConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            reorder_packets: None,
            min_delay: Duration::ZERO,
            max_retries: None,
            hedge: true,
        }
    }
}

/// What the application chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferConfig {
    pub assembly: Assembly,
    /// Of the RTP time stamps.
    pub clock_rate: u32,
    /// How long a missing packet is waited for: from the earliest time its
    /// frame could have come. No less than the delay, and with requests no
    /// less than three round trips take: what is lost twice is repaired sooner by
    /// a third packet than by a key frame.
    pub hold: Duration,
    /// Frames that wait longer than `hold` for downstream are dropped.
    pub drop_late: bool,
    /// After a loss nothing is let out that cannot be decoded.
    pub wait_for_key: bool,
    pub request: RequestConfig,
    /// A jump of the time stamps ahead that is still the same stream.
    pub max_dropout: Duration,
    /// The same back.
    pub max_misorder: Duration,
    /// More is not held: the oldest go.
    pub max_packets: usize,
    pub max_bytes: u64,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self {
            assembly: Assembly::Frames,
            clock_rate: 90_000,
            hold: Duration::from_millis(200),
            drop_late: false,
            wait_for_key: false,
            request: RequestConfig::default(),
            max_dropout: Duration::from_secs(60),
            max_misorder: Duration::from_secs(2),
            max_packets: 16_384,
            max_bytes: 64_000_000,
        }
    }
}
