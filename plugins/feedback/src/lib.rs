// SPDX-License-Identifier: MPL-2.0
/**
 * plugin-feedback:
 *
 * The RTCP message "frame complete": the receiver says which frames it has
 * decoded, so that the sender can predict from them.
 */
use gst::glib;

mod rtcpiframefeedback;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    rtcpiframefeedback::register(plugin)
}

gst::plugin_define!(
    feedback,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream",
    env!("BUILD_REL_DATE")
);
