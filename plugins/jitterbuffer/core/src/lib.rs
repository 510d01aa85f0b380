// SPDX-License-Identifier: MPL-2.0
//! A jitter buffer for RTP, without GStreamer and without a clock
//! (docs/jitter-buffer.md).
//!
//! ```text
//! packets -> JitterBuffer -> packets of whole frames, in order, with the time
//!              |      ^      at which they should be shown
//!              v      |
//!   Whole frames -> Timing
//!                     +-> AdaptiveModel    ours: the delay of a stated share
//!                     +-> DelayVariation -> WebrtcModel    libwebrtc's, to compare with
//! ```

mod adaptive;
mod buffer;
mod delay_variation;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod h264;
mod playout_delay;
mod presentation;
mod source;
mod timing;
mod webrtc;

pub use adaptive::{AdaptiveModel, Arrival, Config, ConfigError, LONGEST_DELAY};
pub use buffer::{
    Assembly, Begin, BufferConfig, BufferStats, JitterBuffer, Lost, Next, NextRequest, Origin, Out,
    Packet, Rejected, Request, RequestConfig,
};
pub use delay_variation::DelayVariation;
pub use frame::{ExtTimestamp, Frame, RtpClock};
pub use h264::Part;
pub use playout_delay::PlayoutDelay;
pub use presentation::{DecodeMeter, Presentation, Way};
pub use source::Source;
pub use timing::{ModelKind, Plan, StreamId, Timing, TimingStats, Whole};
pub use webrtc::WebrtcModel;
