// SPDX-License-Identifier: MPL-2.0
//! How long a frame must wait so that those after it are shown on time,
//! without GStreamer and without a clock (docs/jitter-buffer.md).
//!
//! ```text
//!  Frame (RTP time, arrival, size)
//!    +-> AdaptiveModel -> playout time    ours
//!    +-> DelayVariation -> WebrtcModel    libwebrtc's estimate, to compare with
//! ```

mod adaptive;
mod delay_variation;
mod frame;
mod webrtc;

pub use adaptive::{AdaptiveModel, Arrival, Config, ConfigError, LONGEST_DELAY};
pub use delay_variation::DelayVariation;
pub use frame::{Frame, RtpClock};
pub use webrtc::WebrtcModel;
