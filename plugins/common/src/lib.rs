// SPDX-License-Identifier: MPL-2.0
//! Quantities that every algorithm of this project speaks: [`Bitrate`],
//! [`DataSize`], [`Ratio`], [`Timestamp`], [`RemoteTime`], [`SignedDuration`]
//! and [`ExtSeq`]. No clock, no I/O, no GStreamer.

mod seq;
mod time;
mod units;

pub use seq::{ExtSeq, Unwrapper};
pub use time::{RemoteTime, SignedDuration, Timestamp};
pub use units::{Bitrate, DataSize, Ratio};
