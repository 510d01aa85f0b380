// SPDX-License-Identifier: MPL-2.0
#![allow(unused_doc_comments)] // GStreamer's documentation sections

/**
 * plugin-dualwebrtc:
 *
 * Sender and receiver of dual-stream H.264 over WebRTC, one element each.
 */
use gst::glib;

mod answers;
mod capture_time;
mod certificate;
mod clock_exchange;
mod dualwebrtcsink;
mod dualwebrtcsrc;
mod fec;
mod ice_servers;
mod latency;
mod negotiated;
mod parameter_sets;
mod peer;
mod playout_delay;
mod properties;
mod quiet_stop;
mod reach;
mod repair;
mod requirements;
mod rtp;
mod rtphdrextabscapturetime;
mod sdp;
mod send_time;
mod server;
mod signallers;
mod signalling;
mod switches;
mod video_timing;
mod web;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    rtphdrextabscapturetime::register(plugin)?;
    dualwebrtcsink::register(plugin)?;
    dualwebrtcsrc::register(plugin)
}

gst::plugin_define!(
    dualwebrtc,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream",
    env!("BUILD_REL_DATE")
);
