// SPDX-License-Identifier: MPL-2.0
//! The RTCP message "frame complete" (docs/wire-formats.md), without
//! GStreamer and without a clock.
//!
//! ```text
//! receiver   entry -> History -> Fci -> FrameComplete::to_packet   (when: Greeter)
//! sender     FCI bytes -> Fci -> entries          (whose: RecentSsrcs)
//! ```

mod fci;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod greeter;
mod history;
mod packet;
mod ssrcs;
mod tag;

pub use fci::{Entry, Fci, FciError, MAX_ENTRIES};
pub use greeter::Greeter;
pub use history::{HISTORY, History};
pub use packet::{FrameComplete, PacketError};
pub use ssrcs::{RECENT_SSRCS, RecentSsrcs};
pub use tag::{EXTENSION_URI, stream_in_extension};
