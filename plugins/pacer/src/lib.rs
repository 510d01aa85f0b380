// SPDX-License-Identifier: MPL-2.0
/**
 * plugin-pacer:
 *
 * Sends RTP packets at the rate that the network bears, the most urgent
 * first.
 */
use gst::glib;

mod rtppacer;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    rtppacer::register(plugin)
}

gst::plugin_define!(
    pacer,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream",
    env!("BUILD_REL_DATE")
);
