// SPDX-License-Identifier: MPL-2.0
/**
 * plugin-gcc:
 *
 */
use gst::glib;

mod rtpgcc;
mod rtpremb;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    rtpgcc::register(plugin)?;
    rtpremb::register(plugin)
}

gst::plugin_define!(
    gcc,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream",
    env!("BUILD_REL_DATE")
);
