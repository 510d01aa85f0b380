// SPDX-License-Identifier: MPL-2.0
//! A network in virtual time. Everything is told the time, and all chance
//! comes from a seed, so a run can be repeated to the last packet.

mod capacity;
mod cross;
mod encoder;
mod link;
mod loss;

pub use capacity::{Capacity, Serialiser, Trace, TraceError};
pub use cross::LossBasedFlow;
pub use encoder::{EncoderConfig, EncoderModel, ModelFrame};
pub use link::{Arrived, Link, LinkConfig, LinkError, QueueLimit, Reordering, Sent, Stats};
pub use loss::{Fate, GilbertElliott, Loss};
