// SPDX-License-Identifier: MPL-2.0
/**
 * plugin-dualstream:
 *
 * H.264 in two coded streams, so that key frames are sent in the background
 * and never hold up the picture.
 */
use gst::glib;

mod dualh264dec;
mod dualh264enc;
pub mod encoders;
pub mod meta;
mod rtphdrextdualstream;
mod rtptrickle;
mod trial;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    meta::register();
    dualh264dec::register(plugin)?;
    dualh264enc::register(plugin)?;
    rtphdrextdualstream::register(plugin)?;
    rtptrickle::register(plugin)?;
    Ok(())
}

gst::plugin_define!(
    dualstream,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "gst-dualstream",
    env!("BUILD_REL_DATE")
);
