// SPDX-License-Identifier: MPL-2.0
//! A machine without any H.264 encoder or decoder. A file of its own, because
//! it takes them away from its whole process.

use gst::prelude::*;

/// Takes away every factory that codes or decodes H.264.
fn take_away(kind: gst::ElementFactoryType) {
    let caps = gst::Caps::new_empty_simple("video/x-h264");
    let direction = if kind == gst::ElementFactoryType::ENCODER {
        gst::PadDirection::Src
    } else {
        gst::PadDirection::Sink
    };
    for factory in gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE) {
        let ours = factory.name().starts_with("dualh264");
        let h264 = factory
            .static_pad_templates()
            .iter()
            .any(|t| t.direction() == direction && t.caps().can_intersect(&caps));
        if h264 && !ours {
            factory.set_rank(gst::Rank::NONE);
        }
    }
}

/// What the element says when it cannot reach READY.
fn refusal(name: &str) -> String {
    let pipeline = gst::Pipeline::new();
    let element = gst::ElementFactory::make(name)
        .build()
        .expect("the element");
    pipeline.add(&element).expect("added");
    let bus = pipeline.bus().expect("a bus");
    assert!(pipeline.set_state(gst::State::Ready).is_err(), "{name}");
    let message = bus.timed_pop_filtered(gst::ClockTime::SECOND, &[gst::MessageType::Error]);
    let _ = pipeline.set_state(gst::State::Null);
    let message = message.expect("an error message");
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!("filtered");
    };
    format!("{} {:?}", error.error(), error.debug())
}

#[test]
fn without_any_codec_the_error_says_what_to_install() {
    gst::init().expect("GStreamer");
    gstdualstream::plugin_register_static().expect("the plugin");
    take_away(gst::ElementFactoryType::ENCODER);
    take_away(gst::ElementFactoryType::DECODER);
    let text = refusal("dualh264enc");
    assert!(
        text.contains("gstreamer1.0-plugins-ugly") && text.contains("x264enc"),
        "{text}"
    );
    let text = refusal("dualh264dec");
    assert!(
        text.contains("no H.264 decoder") && text.contains("gstreamer1.0-libav"),
        "{text}"
    );
}
