// SPDX-License-Identifier: MPL-2.0
//! Decoded clips, and how near one picture is to another: what the demo and
//! the bench have in common.

pub mod barcode;
pub mod picture;
pub mod source;
