// SPDX-License-Identifier: MPL-2.0
/**
 * plugin-jitterbuffer:
 *
 * Puts RTP packets in order and gives them the time at which they should be
 * shown: as late as the network needs, and no later.
 */
use gst::glib;

mod rtpkalmanjitterbuffer;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    rtpkalmanjitterbuffer::register(plugin)
}

gst::plugin_define!(
    jitterbuffer,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream",
    env!("BUILD_REL_DATE")
);
