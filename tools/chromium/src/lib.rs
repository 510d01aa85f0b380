// SPDX-License-Identifier: MPL-2.0
//! Headless Chromium as the peer of dualwebrtcsink or dualwebrtcsrc, over
//! loopback or an emulated link.

pub mod browser;
pub mod devtools;
pub mod freeze;
pub mod http;
pub mod janus;
pub mod link;
pub mod page;
pub mod session;
