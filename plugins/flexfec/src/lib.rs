// SPDX-License-Identifier: MPL-2.0
/**
 * plugin-flexfec:
 *
 * Protects RTP packets by redundant ones, as many as the network needs, and
 * recovers those that are lost.
 */
use gst::glib;

mod format;
mod rtp;
mod rtpflexfecdec;
mod rtpflexfecenc;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    rtpflexfecenc::register(plugin)?;
    rtpflexfecdec::register(plugin)
}

gst::plugin_define!(
    flexfec,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream",
    env!("BUILD_REL_DATE")
);
