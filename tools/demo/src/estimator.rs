// SPDX-License-Identifier: MPL-2.0
//! The bandwidth estimator of the sender: that of `dualwebrtcsink`, GStreamer's
//! own as applications use it today, or none; and what it said over time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gst::glib;
use gst::prelude::*;

use crate::events::wall_clock;
use crate::log::{Rate, write_lines};

const INTERVAL: Duration = Duration::from_millis(100);
/// IPv4 and UDP headers.
const PACKET_OVERHEAD: u64 = 28;
/// Fields of the statistics of `rtpgcc` that explain its estimate.
const SAID: [&str; 14] = [
    "cause",
    "state",
    "usage",
    "limited",
    "capacity",
    "plateau",
    "received-bitrate",
    "queue",
    "loss",
    "rtt",
    "silences",
    "probes",
    "probe-results",
    "in-flight",
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Estimator {
    /// rtppacer and rtpgcc, by dualwebrtcsink itself
    #[default]
    Rtpgcc,
    /// GStreamer's own, from gst-plugins-rs
    Rtpgccbwe,
    /// The encoder keeps its bitrate
    None,
}

impl Estimator {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtpgcc => "rtpgcc",
            Self::Rtpgccbwe => "rtpgccbwe",
            Self::None => "none",
        }
    }
}

#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    lost: AtomicU64,
}

/// Writes down what the estimator of a sink does.
pub struct Watch {
    element: gst::Element,
    encoder: gst::Element,
    has_estimate: bool,
    counts: Arc<Counts>,
    file: PathBuf,
    lines: Vec<Rate>,
    sampled: Option<Instant>,
}

impl Watch {
    /// Before the sink starts. The encoder has its highest rate already.
    pub fn new(
        kind: Estimator,
        sink: &gst::Element,
        encoder: &gst::Element,
        file: PathBuf,
    ) -> Result<Self> {
        let ours = sink
            .dynamic_cast_ref::<gst::ChildProxy>()
            .and_then(|proxy| proxy.child_by_name("estimator"))
            .and_then(|child| child.downcast::<gst::Element>().ok())
            .context("dualwebrtcsink has no child `estimator`")?;
        let element = match kind {
            Estimator::Rtpgcc => ours,
            Estimator::Rtpgccbwe => {
                let element = rtpgccbwe()?;
                let highest: u32 = encoder.property("bitrate");
                let [lowest, start] =
                    ["min-bitrate", "start-bitrate"].map(|name| ours.property::<u32>(name));
                element.set_property("min-bitrate", lowest);
                element.set_property("max-bitrate", highest);
                element.set_property("estimated-bitrate", start.min(highest));
                encoder.set_property("bitrate", start.min(highest));
                let weak = encoder.downgrade();
                element.connect_notify(Some("estimated-bitrate"), move |element, _| {
                    if let Some(encoder) = weak.upgrade() {
                        let rate: u32 = element.property("estimated-bitrate");
                        encoder.set_property("bitrate", rate);
                    }
                });
                put_in(sink, &element)?;
                element
            }
            Estimator::None => {
                let element = gst::ElementFactory::make("identity").build()?;
                put_in(sink, &element)?;
                element
            }
        };
        let counts = Arc::<Counts>::default();
        let pad = element
            .static_pad("src")
            .with_context(|| format!("{} has no pad src", element.name()))?;
        count(&pad, &counts);
        Ok(Self {
            element,
            encoder: encoder.clone(),
            has_estimate: kind != Estimator::None,
            counts,
            file,
            lines: Vec::new(),
            sampled: None,
        })
    }

    /// To be called often; it takes what it needs.
    pub fn sample(&mut self) {
        if self.sampled.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        self.sampled = Some(Instant::now());
        let rate = |element: &gst::Element, name| u64::from(element.property::<u32>(name));
        self.lines.push(Rate {
            at: wall_clock(),
            estimate: self
                .has_estimate
                .then(|| rate(&self.element, "estimated-bitrate")),
            encoder: rate(&self.encoder, "bitrate"),
            sent_bytes: self.counts.bytes.load(Ordering::Relaxed),
            lost: self.counts.lost.load(Ordering::Relaxed),
            said: said(&self.element),
        });
    }

    pub fn write(&self) -> Result<()> {
        write_lines(&self.file, &self.lines)
    }
}

fn said(element: &gst::Element) -> BTreeMap<String, String> {
    if !element.has_property_with_type("stats", gst::Structure::static_type()) {
        return BTreeMap::new();
    }
    let Some(stats) = element.property::<Option<gst::Structure>>("stats") else {
        return BTreeMap::new();
    };
    SAID.iter()
        .filter_map(|name| {
            let text = stats.value(*name).ok()?.transform::<String>().ok()?;
            Some(((*name).to_string(), text.get().ok()?))
        })
        .collect()
}

fn rtpgccbwe() -> Result<gst::Element> {
    #[cfg(feature = "rtpgccbwe")]
    gstrsrtp::plugin_register_static()?;
    gst::ElementFactory::make("rtpgccbwe").build().context(
        "the GStreamer element rtpgccbwe is not installed: install the plugin rsrtp of \
         gst-plugins-rs, or build with `cargo build --release -p dualstream-demo --features rtpgccbwe`",
    )
}

/// What an application does to have `element` in front of the RTP session.
fn put_in(sink: &gst::Element, element: &gst::Element) -> Result<()> {
    sink.set_property_from_str("congestion-control", "none");
    let bin = sink
        .downcast_ref::<gst::Bin>()
        .context("dualwebrtcsink is no bin")?;
    let element = Arc::new(Mutex::new(Some(element.clone())));
    bin.connect_deep_element_added(move |_, _, added| {
        if added.factory().is_none_or(|f| f.name() != "webrtcbin") {
            return;
        }
        let element = element.clone();
        added.connect("request-aux-sender", false, move |_| {
            // There is one session.
            let element = element
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            Some(element.to_value())
        });
    });
    Ok(())
}

fn count(pad: &gst::Pad, counts: &Arc<Counts>) {
    use gst::PadProbeType as Type;
    let counts = counts.clone();
    let types = Type::BUFFER | Type::BUFFER_LIST | Type::EVENT_UPSTREAM;
    pad.add_probe(types, move |_, info| {
        let bytes = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => buffer.size() as u64 + PACKET_OVERHEAD,
            Some(gst::PadProbeData::BufferList(list)) => list
                .iter()
                .map(|buffer| buffer.size() as u64 + PACKET_OVERHEAD)
                .sum(),
            Some(gst::PadProbeData::Event(event)) => {
                let lost = event.structure().map_or(0, lost);
                counts.lost.fetch_add(lost, Ordering::Relaxed);
                0
            }
            _ => 0,
        };
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
}

/// Packets that this event calls lost.
fn lost(event: &gst::StructureRef) -> u64 {
    if !event.has_name("RTPTWCCPackets") {
        return 0;
    }
    let Ok(packets) = event.get::<glib::ValueArray>("packets") else {
        return 0;
    };
    packets
        .iter()
        .filter_map(|packet| packet.get::<gst::Structure>().ok())
        .filter(|packet| packet.get::<bool>("lost") == Ok(true))
        .count() as u64
}

#[cfg(test)]
mod tests {
    use gst::glib::translate::UnsafeFrom;

    use super::*;

    fn event(lost: &[bool]) -> gst::Structure {
        let packets = lost.iter().map(|&lost| {
            gst::Structure::builder("RTPTWCCPacket")
                .field("lost", lost)
                .build()
                .to_value()
        });
        let array = glib::ValueArray::from_values(packets).to_value();
        // SAFETY: it has one owner.
        let array = unsafe { glib::SendValue::unsafe_from(array.into_raw()) };
        let mut event = gst::Structure::new_empty("RTPTWCCPackets");
        event.set_value("packets", array);
        event
    }

    #[test]
    fn losses_are_counted_from_the_feedback() {
        gst::init().unwrap();
        assert_eq!(lost(&event(&[false, true, true])), 2);
        assert_eq!(lost(&event(&[])), 0);
        assert_eq!(lost(&gst::Structure::new_empty("RTPTWCCPackets")), 0);
        assert_eq!(lost(&gst::Structure::new_empty("other")), 0);
    }

    #[test]
    fn the_wire_is_counted_with_its_headers() {
        gst::init().unwrap();
        let counts = Arc::<Counts>::default();
        let pad = gst::Pad::new(gst::PadDirection::Src);
        count(&pad, &counts);
        pad.set_active(true).unwrap();
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        pad.push_event(gst::event::StreamStart::new("test"));
        pad.push_event(gst::event::Segment::new(&segment));
        let buffer = |size| gst::Buffer::with_size(size).unwrap();
        // Not linked, but the probe has seen it.
        let _ = pad.push(buffer(1000));
        let mut list = gst::BufferList::new();
        list.make_mut().add(buffer(200));
        list.make_mut().add(buffer(300));
        let _ = pad.push_list(list);
        assert_eq!(counts.bytes.load(Ordering::Relaxed), 1500 + 3 * 28);
    }
}
