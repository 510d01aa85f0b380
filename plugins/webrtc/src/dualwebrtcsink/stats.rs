// SPDX-License-Identifier: MPL-2.0
//! What the worker thread shows of itself.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use gst::glib;
use gst::prelude::*;

use super::data_channel::DataChannel;
use super::kit::Kit;
use super::session::Session;
use crate::fec::Agreed;
use crate::negotiated::Negotiated;

/// One receiver.
#[derive(Clone)]
pub struct Receiver {
    id: String,
    peer: String,
    session: &'static str,
    connection: &'static str,
    negotiated: Negotiated,
    has_control: bool,
    is_paced: bool,
    kit: Option<Kit>,
    feedback: Vec<gst::Element>,
    channel: Option<DataChannel>,
    encoder: Option<gst::Element>,
}

impl Receiver {
    /// `encoder`: serves it, or will.
    pub fn new(session: &Session, encoder: Option<&gst::Element>) -> Self {
        Self {
            id: session.id.clone(),
            peer: session.peer_id.clone(),
            session: session.phase.nick(),
            connection: glib::EnumValue::from_value(&session.connection.to_value())
                .map_or("unknown", |(_, value)| value.nick()),
            negotiated: session.negotiated.clone(),
            has_control: session.control().is_some(),
            is_paced: session.is_paced(),
            kit: session.kit.clone(),
            feedback: session.feedback.clone(),
            channel: session.channel.clone(),
            encoder: encoder.cloned(),
        }
    }

    /// The fields that are also those of the whole element, for its first
    /// receiver.
    pub fn add_to(&self, stats: &mut gst::Structure) {
        stats.set("session", self.session);
        stats.set("connection-state", self.connection);
        stats.set("dual", self.negotiated.dual.is_ok());
        stats.set(
            "reason",
            self.negotiated
                .dual
                .as_ref()
                .err()
                .map_or("", String::as_str),
        );
        stats.set("fec", self.negotiated.fec.nick());
        let mut negotiated = self.negotiated.structure();
        let control = if self.has_control { "gcc" } else { "none" };
        negotiated.set("congestion-control", control);
        negotiated.set("pacing", self.is_paced);
        stats.set("negotiated", negotiated);
        if let Some(kit) = &self.kit {
            stats.set("latency", kit.trace.structure());
            if self.has_control {
                add_stats(stats, "estimator", &kit.control.estimator);
            }
            if self.is_paced {
                add_stats(stats, "pacer", &kit.control.pacer);
            }
            let encoders = kit.fec.elements().iter();
            let used = encoders.filter(|_| self.negotiated.fec != Agreed::None);
            for (index, encoder) in used.enumerate() {
                add_stats(stats, &format!("fec-{index}"), encoder);
            }
        }
        if let Some(channel) = &self.channel {
            stats.set("data-channel", channel.stats());
        }
        for (index, feedback) in self.feedback.iter().enumerate() {
            add_stats(stats, &format!("feedback-{index}"), feedback);
        }
    }

    pub fn structure(&self) -> gst::Structure {
        let mut s = gst::Structure::builder("receiver")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .build();
        self.add_to(&mut s);
        if let Some(encoder) = &self.encoder {
            s.set("encoder", encoder.name().as_str());
            add_stats(&mut s, "encoder-stats", encoder);
        }
        s
    }
}

/// The element's `stats` property as a field, if it has one.
pub fn add_stats(stats: &mut gst::Structure, field: &str, element: &gst::Element) {
    let is_structure = element
        .find_property("stats")
        .is_some_and(|spec| spec.value_type() == gst::Structure::static_type());
    if is_structure && let Some(inner) = element.property::<Option<gst::Structure>>("stats") {
        stats.set(field, inner);
    }
}

#[derive(Clone, Default)]
pub struct Snapshot {
    pub signalling: bool,
    pub sessions: u64,
    pub refused: u64,
    /// Oldest first.
    pub receivers: Vec<Receiver>,
}

#[derive(Default)]
pub struct Shared {
    snapshot: Mutex<Snapshot>,
    late: AtomicU64,
}

impl Shared {
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot.lock().unwrap());
    }

    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap().clone()
    }

    /// Pictures for which an encoder had no time.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    pub fn add_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }
}
