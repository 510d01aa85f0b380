// SPDX-License-Identifier: MPL-2.0
//! What GStreamer finds: plugins, and elements that code H.264.

use std::path::PathBuf;

use gst::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inventory {
    pub gstreamer: String,
    pub plugins: Vec<Plugin>,
    pub encoders: Vec<Factory>,
    pub decoders: Vec<Factory>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plugin {
    pub name: String,
    pub version: String,
    pub file: Option<PathBuf>,
    pub elements: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factory {
    pub factory: String,
    pub plugin: Option<String>,
    pub version: Option<String>,
    /// 0: not chosen by itself.
    pub rank: i32,
    pub hardware: bool,
}

impl Inventory {
    pub fn plugin(&self, name: &str) -> Option<&Plugin> {
        self.plugins.iter().find(|plugin| plugin.name == name)
    }

    pub fn has_element(&self, name: &str) -> bool {
        self.plugins
            .iter()
            .any(|plugin| plugin.elements.iter().any(|element| element == name))
    }
}

pub fn take() -> Inventory {
    let registry = gst::Registry::get();
    let plugins = registry
        .plugins()
        .into_iter()
        .map(|plugin| Plugin {
            name: plugin.plugin_name().to_string(),
            version: plugin.version().to_string(),
            file: plugin.filename(),
            elements: registry
                .features_by_plugin(&plugin.plugin_name())
                .into_iter()
                .filter(|feature| feature.is::<gst::ElementFactory>())
                .map(|feature| feature.name().to_string())
                .collect(),
        })
        .collect();
    Inventory {
        gstreamer: gst::version_string().to_string(),
        plugins,
        encoders: coders(
            gst::ElementFactoryType::ENCODER | gst::ElementFactoryType::MEDIA_VIDEO,
            gst::PadDirection::Src,
            "dualh264enc",
        ),
        decoders: coders(
            gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO,
            gst::PadDirection::Sink,
            "dualh264dec",
        ),
    }
}

/// Elements of this type whose pad of `direction` says H.264; best rank first.
fn coders(kind: gst::ElementFactoryType, direction: gst::PadDirection, own: &str) -> Vec<Factory> {
    let is_h264 = |template: &gst::StaticPadTemplate| {
        template.direction() == direction
            && template.caps().iter().any(|s| s.has_name("video/x-h264"))
    };
    let mut found: Vec<Factory> = gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE)
        .into_iter()
        .filter(|factory| factory.name() != own)
        .filter(|factory| factory.static_pad_templates().iter().any(is_h264))
        .map(|factory| {
            let plugin = factory.plugin();
            let class = factory.metadata("klass").unwrap_or_default();
            Factory {
                factory: factory.name().to_string(),
                plugin: plugin.as_ref().map(|p| p.plugin_name().to_string()),
                version: plugin.map(|p| p.version().to_string()),
                rank: factory.rank().into(),
                hardware: class.contains("Hardware"),
            }
        })
        .collect();
    found.sort_by(|a, b| b.rank.cmp(&a.rank).then_with(|| a.factory.cmp(&b.factory)));
    found
}
