// SPDX-License-Identifier: MPL-2.0
//! The dual-stream algorithm without GStreamer: told the time, told the
//! input, it returns what to do. See docs/dual-stream.md.

mod cavlc;
pub mod macroblocks;
pub mod quantiser;
pub mod receiver;
pub mod sender;
pub mod trickle;
pub mod wire;
