// SPDX-License-Identifier: MPL-2.0
//! A machine without any H.264 encoder. A file of its own, because it takes
//! the encoders away from its whole process.

use gst::prelude::*;

#[test]
fn without_any_encoder_the_error_says_what_to_install() {
    gst::init().expect("GStreamer");
    gstdualstream::plugin_register_static().expect("the plugin");
    for name in ["x264enc", "openh264enc"] {
        if let Some(factory) = gst::ElementFactory::find(name) {
            factory.set_rank(gst::Rank::NONE);
        }
    }
    let pipeline = gst::Pipeline::new();
    let encoder = gst::ElementFactory::make("dualh264enc")
        .build()
        .expect("the element");
    pipeline.add(&encoder).expect("added");
    let bus = pipeline.bus().expect("a bus");
    assert!(pipeline.set_state(gst::State::Ready).is_err());
    let message = bus.timed_pop_filtered(gst::ClockTime::SECOND, &[gst::MessageType::Error]);
    let message = message.expect("an error message");
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!("filtered");
    };
    let text = format!("{} {:?}", error.error(), error.debug());
    assert!(
        text.contains("gstreamer1.0-plugins-ugly") && text.contains("x264enc"),
        "{text}"
    );
    let _ = pipeline.set_state(gst::State::Null);
}
