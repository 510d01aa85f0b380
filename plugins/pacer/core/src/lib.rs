// SPDX-License-Identifier: MPL-2.0
//! When each packet of a sender leaves, without GStreamer and without a clock
//! (docs/pacer.md).
//!
//! ```text
//!  push -> Queue: per SSRC in order, strict priorities, round robin
//!            |  audio                       -> goes at once
//!            |  Probes: a cluster is due    -> goes at the cluster's rate
//!            |  Window: too much in flight  -> held
//!            |  Bucket: debt above burst    -> held
//!  poll <----+  nothing queued, Bucket (padding) paid -> Pad
//! ```
//!
//! All sizes are those that count on the link; the caller adds what headers it
//! wants counted.

mod bucket;
mod config;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod pacer;
mod probe;
mod queue;
mod requests;
mod sent;
mod stats;
mod window;

pub use config::{Config, ConfigError, LONGEST_BURST};
pub use pacer::{Departure, Next, Pacer, Reason, Rejected};
pub use probe::{MAX_CLUSTERS, ProbeCluster};
pub use queue::Priority;
pub use requests::{NextAnswer, Refusal, RequestConfig, RequestStats, Requests};
pub use stats::{Amount, PriorityStats, ProbeStats, Stats};
pub use window::KEEP_ALIVE;
