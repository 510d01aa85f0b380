// SPDX-License-Identifier: MPL-2.0
//! The properties of both elements, in each state.

mod common;

use common::*;
use gst::prelude::*;

#[test]
fn each_property_of_the_decoder_can_be_set_in_each_state() {
    init();
    for state in [
        gst::State::Null,
        gst::State::Ready,
        gst::State::Paused,
        gst::State::Playing,
    ] {
        let element = gst::ElementFactory::make("rtpflexfecdec").build().unwrap();
        element.set_state(state).unwrap();
        let values = [
            ("pt", 111u32),
            ("ssrc", 5),
            ("max-age", 77),
            ("max-packets", 100),
            ("max-bytes", 100_000),
        ];
        for (name, value) in values {
            element.set_property(name, value);
            assert_eq!(element.property::<u32>(name), value, "{name} in {state:?}");
        }
        element.set_property("protected-ssrcs", gst::Array::new([5u32]));
        assert_eq!(element.property::<gst::Array>("protected-ssrcs").len(), 1);
        element.set_property_from_str("format", "rfc8627");
        let read = element.property_value("format");
        let (_, value) = gst::glib::EnumValue::from_value(&read).unwrap();
        assert_eq!(value.nick(), "rfc8627");
        let extensions = gst::Caps::builder("application/x-rtp")
            .field("extmap-3", "urn:x-any")
            .build();
        element.set_property("header-extensions", &extensions);
        let read = element.property::<Option<gst::Caps>>("header-extensions");
        assert_eq!(read, Some(extensions));
        let names: Vec<_> = element
            .list_properties()
            .iter()
            .map(|p| p.name().to_owned())
            .collect();
        let tested = values.len() + 3 + ["name", "parent", "stats"].len();
        assert_eq!(names.len(), tested, "each is tested: {names:?}");
        element.set_state(gst::State::Null).unwrap();
    }
}

/// A value other than the default for each property.
fn other_values() -> Vec<(&'static str, gst::glib::Value)> {
    vec![
        ("pt", 111u32.to_value()),
        ("ssrc", 5u32.to_value()),
        ("protected-ssrcs", gst::Array::new([5u32]).to_value()),
        ("percentage", 7u32.to_value()),
        ("percentage-key", 8u32.to_value()),
        ("target-residual", 0.1f64.to_value()),
        ("max-overhead", 0.25f64.to_value()),
        ("deadline", 50u32.to_value()),
        ("nack", false.to_value()),
        ("dry-run", true.to_value()),
    ]
}

#[test]
fn each_property_of_the_encoder_can_be_set_in_each_state() {
    init();
    for state in [
        gst::State::Null,
        gst::State::Ready,
        gst::State::Paused,
        gst::State::Playing,
    ] {
        let element = gst::ElementFactory::make("rtpflexfecenc").build().unwrap();
        element.set_state(state).unwrap();
        for (name, value) in other_values() {
            element.set_property_from_value(name, &value);
            let read = element.property_value(name);
            if name == "protected-ssrcs" {
                assert_eq!(read.get::<gst::Array>().unwrap().len(), 1);
            } else {
                assert_eq!(
                    format!("{read:?}"),
                    format!("{value:?}"),
                    "{name} in {state:?}"
                );
            }
        }
        for (name, nick) in [
            ("format", "rfc8627"),
            ("controller", "fixed"),
            ("mask", "bursty"),
            ("mask", "random"),
            ("protection-mode", "no-overlap"),
            ("protection-mode", "overlap"),
            ("protection-mode", "bias-first-packet"),
        ] {
            element.set_property_from_str(name, nick);
            let read = element.property_value(name);
            let (_, value) = gst::glib::EnumValue::from_value(&read).unwrap();
            assert_eq!(value.nick(), nick, "{name} in {state:?}");
        }
        let names: Vec<_> = element
            .list_properties()
            .iter()
            .map(|p| p.name().to_owned())
            .collect();
        let others = [
            "name",
            "parent",
            "stats",
            // Read only; dry_run.rs looks at them.
            "recommended-percentage",
            "recommended-percentage-key",
        ];
        let tested = other_values().len() + 4 + others.len();
        assert_eq!(names.len(), tested, "each is tested: {names:?}");
        element.set_state(gst::State::Null).unwrap();
    }
}
