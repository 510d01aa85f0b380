// SPDX-License-Identifier: MPL-2.0
//! What each receiver has of its own beside webrtcbin: pacer, estimator, FEC
//! encoders, and what is measured of its latency. The first set is made with the
//! sink, for the user to set up; a further receiver's is made for it, with the
//! same properties.

use std::sync::Arc;

use gst::glib;
use gst::prelude::*;

use super::control::Control;
use super::fec::Encoders;
use super::rates::Rates;
use super::trace::Trace;

#[derive(Clone)]
pub struct Kit {
    pub control: Control,
    pub fec: Encoders,
    pub trace: Trace,
    follow: Arc<Vec<Follow>>,
}

/// Properties that are set for each session anew.
const OURS: [&str; 14] = [
    "name",
    "parent",
    // Pacer.
    "bitrate",
    "priorities",
    // Estimator.
    "max-bitrate",
    "start-bitrate",
    "estimated-bitrate",
    "expect-feedback",
    // FEC.
    "ssrc",
    "protected-ssrcs",
    "pt",
    "format",
    "nack",
    "dry-run",
];

impl Kit {
    /// The one that the user sets up.
    pub fn new(rates: &Rates) -> Result<Self, gst::ErrorMessage> {
        Ok(Self {
            control: Control::new(0, rates)?,
            fec: Encoders::new()?,
            trace: Trace::default(),
            follow: Arc::default(),
        })
    }

    /// Another one, for the receiver with this serial.
    pub fn like(&self, serial: u64, rates: &Rates) -> Result<Self, gst::ErrorMessage> {
        let mut kit = Self {
            control: Control::new(serial, rates)?,
            fec: Encoders::new()?,
            trace: Trace::default(),
            follow: Arc::default(),
        };
        kit.control.take_settings(&self.control);
        let pairs = [
            (&self.control.pacer, &kit.control.pacer),
            (&self.control.estimator, &kit.control.estimator),
        ];
        let encoders = self.fec.elements().iter().zip(kit.fec.elements());
        let follow: Vec<_> = pairs
            .into_iter()
            .chain(encoders)
            .map(|(from, to)| Follow::new(from, to, &OURS))
            .collect();
        kit.follow = Arc::new(follow);
        Ok(kit)
    }
}

fn is_settable(spec: &glib::ParamSpec) -> bool {
    let flags = spec.flags();
    flags.contains(glib::ParamFlags::READABLE | glib::ParamFlags::WRITABLE)
        && !flags.intersects(glib::ParamFlags::CONSTRUCT_ONLY | glib::ParamFlags::DEPRECATED)
}

/// One element that is set as another one, for as long as this is there.
pub struct Follow {
    from: glib::WeakRef<gst::Element>,
    handler: Option<glib::SignalHandlerId>,
}

impl Follow {
    /// Sets `to` as `from` is, now and when that is changed, but for these
    /// properties.
    pub fn new(from: &gst::Element, to: &gst::Element, except: &'static [&'static str]) -> Self {
        for spec in from.list_properties().iter().filter(|s| is_settable(s)) {
            if !except.contains(&spec.name()) && to.has_property(spec.name()) {
                to.set_property_from_value(spec.name(), &from.property_value(spec.name()));
            }
        }
        let weak = to.downgrade();
        let handler = from.connect_notify(None, move |from, spec| {
            if let Some(to) = weak.upgrade()
                && is_settable(spec)
                && !except.contains(&spec.name())
            {
                to.set_property_from_value(spec.name(), &from.property_value(spec.name()));
            }
        });
        Self {
            from: from.downgrade(),
            handler: Some(handler),
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let (Some(from), Some(handler)) = (self.from.upgrade(), self.handler.take()) {
            from.disconnect(handler);
        }
    }
}
