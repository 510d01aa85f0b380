// SPDX-License-Identifier: MPL-2.0
//! What the end-to-end tests share: a source whose every picture is known, a
//! sink that measures each picture it is shown, and whole sessions.

pub mod picture;
pub mod session;

use std::sync::Once;

/// GStreamer with this project's plugins, linked into the test.
pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().expect("GStreamer starts");
        gstdualstream::plugin_register_static().expect("plugin dualstream");
        gstfeedback::plugin_register_static().expect("plugin feedback");
        gstflexfec::plugin_register_static().expect("plugin flexfec");
        gstgcc::plugin_register_static().expect("plugin gcc");
        gstjitterbuffer::plugin_register_static().expect("plugin jitterbuffer");
        gstpacer::plugin_register_static().expect("plugin pacer");
        gstdualwebrtc::plugin_register_static().expect("plugin dualwebrtc");
    });
}
