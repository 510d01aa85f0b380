// SPDX-License-Identifier: MPL-2.0
//! All counters of a pipeline, whatever elements it has.

use std::collections::BTreeMap;

use gst::glib;
use gst::prelude::*;
use serde::{Deserialize, Serialize};

use super::streams::Streams;

/// Counters by element and field, such as `pacer.display.sent-packets`.
pub type Counts = BTreeMap<String, f64>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    pub counts: Counts,
    /// As they stand at the same time.
    pub streams: Streams,
    /// What the element says that was negotiated.
    pub negotiated: String,
}

/// Numbers that tell how much is held now.
const HELD: [&str; 6] = [
    "queued-packets",
    "held-packets",
    "held",
    "missing",
    "fec-pending",
    "behind-event",
];

pub fn counts(pipeline: &gst::Pipeline) -> Counts {
    let mut counts = Counts::new();
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        let factory = element
            .factory()
            .map(|f| f.name().to_string())
            .unwrap_or_default();
        // Its structure repeats what the elements inside have.
        let name = match factory.as_str() {
            "dualwebrtcsink" | "dualwebrtcsrc" => "peer".to_owned(),
            _ => format!("{factory}:{}", element.name()),
        };
        let repeats = name == "peer";
        if element.has_property_with_type("stats", gst::Structure::static_type())
            && let Some(stats) = element.property::<Option<gst::Structure>>("stats")
        {
            add(&mut counts, &name, &stats, repeats);
        }
        for property in [
            "num-rtx-packets",
            "num-rtx-assoc-packets",
            "num-rtx-requests",
        ] {
            if element.find_property(property).is_some()
                && let Some(value) = number(&element.property_value(property))
            {
                counts.insert(format!("{name}.{property}"), value);
            }
        }
        if factory == "rtpsession" {
            add_sources(&mut counts, &element);
        }
    }
    counts
}

fn number(value: &glib::Value) -> Option<f64> {
    value.transform::<f64>().ok()?.get().ok()
}

fn add(counts: &mut Counts, name: &str, stats: &gst::StructureRef, flat: bool) {
    for (field, value) in stats.iter() {
        if let Ok(inner) = value.get::<gst::Structure>() {
            if !flat || field == "audio" {
                add(counts, &format!("{name}.{field}"), &inner, false);
            }
        } else if let Some(value) = number(value) {
            counts.insert(format!("{name}.{field}"), value);
        }
    }
}

/// What the RTP session counts of each source.
fn add_sources(counts: &mut Counts, session: &gst::Element) {
    let internal = session.property::<glib::Object>("internal-session");
    let sources = internal.property::<glib::ValueArray>("sources");
    for source in sources.iter() {
        let Ok(source) = source.get::<glib::Object>() else {
            continue;
        };
        let stats = source.property::<gst::Structure>("stats");
        let Ok(ssrc) = stats.get::<u32>("ssrc") else {
            continue;
        };
        for field in ["packets-sent", "packets-received", "packets-lost"] {
            if let Some(value) = stats.value(field).ok().and_then(|v| number(v)) {
                counts.insert(format!("source:{ssrc:08x}.{field}"), value);
            }
        }
    }
}

/// Of the counters those that say how much is held, by their full names.
pub fn held(counts: &Counts) -> Counts {
    let is_held = |name: &str| {
        let field = name.rsplit('.').next().unwrap_or_default();
        HELD.contains(&field) && !name.contains("dualh264dec") && !name.starts_with("peer.")
    };
    let held = counts.iter().filter(|(name, _)| is_held(name));
    held.map(|(name, value)| (name.clone(), *value)).collect()
}
