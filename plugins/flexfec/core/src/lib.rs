// SPDX-License-Identifier: MPL-2.0
//! Forward error correction of RTP by FlexFEC, without GStreamer and without a
//! clock (docs/flexfec.md).
//!
//! ```text
//! sender    media -> Block ---+-> Encoder -> FEC packets
//!           Controller: when, how many -> masks
//! receiver  media, FEC -> Decoder -> recovered packets
//! ```

pub mod block;
pub mod cadence;
pub mod channel;
pub mod controller;
pub mod decoder;
pub mod encoder;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod loss;
pub mod mask;
pub mod model;
pub mod plan;
pub mod repair;
pub mod rtp;
mod spending;
mod tables;
pub mod wire;
pub mod xor;
