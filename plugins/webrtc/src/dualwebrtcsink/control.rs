// SPDX-License-Identifier: MPL-2.0
//! Congestion control: `rtppacer ! rtpgcc` in front of the RTP session, and
//! the bitrate that the user gave the encoder as their upper limit. The FEC
//! encoders stand before them and take their share of the estimate.
//!
//! ```text
//! encoder <- payloader <- rtprtxsend <- [ FEC <- rtppacer <- rtpgcc ] <- rtpsession
//!         application/x-network-estimate              RTPTWCCPackets
//! ```

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use super::fec::{Encoders, Protected};
use crate::requirements::make;
use crate::{rtp, send_time};

/// How the rate of the encoder follows the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcSinkCongestionControl")]
pub enum CongestionControl {
    #[default]
    #[enum_value(
        name = "GCC: rtppacer and rtpgcc, by transport-wide feedback, REMB or losses",
        nick = "gcc"
    )]
    Gcc,
    #[enum_value(name = "None: the encoder keeps its bitrate", nick = "none")]
    None,
}

/// Property of the encoder: its bitrate, estimates aside.
const CONFIGURED: &str = "configured-bitrate";

#[derive(Debug, Default)]
struct Rates {
    /// What the user gave the encoder.
    ceiling: u32,
    /// What it was given last, by the user or by us. An estimate may change its
    /// bitrate between a change by the user and the word of it.
    configured: u32,
    /// The last estimate that went to the encoder, while there is a session.
    estimate: Option<u64>,
    /// Our value of the estimator's `max-bitrate`.
    limit: Option<u32>,
    /// What audio takes in this session, in bit/s.
    audio: u32,
    /// Our value of the pacer's `bitrate`.
    paced: Option<u64>,
    /// The user's value of the pacer's `priorities`, while ours is in force.
    priorities: Option<Option<gst::Structure>>,
}

/// The two elements are made once, so that they can be set up before a session
/// and keep their properties from one to the next.
#[derive(Clone)]
pub struct Control {
    pub pacer: gst::Element,
    pub estimator: gst::Element,
    encoder: gst::Element,
    rates: Arc<Mutex<Rates>>,
}

impl Control {
    pub fn new(encoder: &gst::Element) -> Result<Self, gst::ErrorMessage> {
        let control = Self {
            pacer: make("rtppacer", "pacer")?,
            estimator: make("rtpgcc", "estimator")?,
            encoder: encoder.clone(),
            rates: Arc::default(),
        };
        {
            let mut rates = control.rates.lock().unwrap();
            rates.configured = encoder.property(CONFIGURED);
            rates.ceiling = rates.configured;
        }
        let (rates, estimator) = (control.rates.clone(), control.estimator.downgrade());
        encoder.connect_notify(Some("bitrate"), move |encoder, _| {
            if let Some(estimator) = estimator.upgrade() {
                on_bitrate(&rates, encoder, &estimator);
            }
        });
        Ok(control)
    }

    /// Before the first packet, and with it the first estimate: the first key
    /// frame must not have the size and the pace of the ceiling.
    fn begin(&self) {
        let start: u32 = self.estimator.property("start-bitrate");
        let most: u32 = self.estimator.property("max-bitrate");
        let (bitrate, audio) = {
            let mut rates = self.rates.lock().unwrap();
            let start = start
                .saturating_sub(rates.audio)
                .min(most)
                .min(rates.ceiling);
            let bitrate = within(&self.encoder, u64::from(start));
            rates.estimate = Some(u64::from(start));
            (bitrate, rates.audio)
        };
        configure(&self.rates, &self.encoder, bitrate);
        if self.pacer.property::<u64>("bitrate") == 0 {
            let bitrate = u64::from(bitrate) + u64::from(audio);
            self.rates.lock().unwrap().paced = Some(bitrate);
            self.pacer.set_property("bitrate", bitrate);
        }
    }

    /// Looks at the estimates that go to the encoder by this pad, before the
    /// encoder does.
    pub fn watch(&self, pad: &impl IsA<gst::Pad>) {
        let rates = self.rates.clone();
        pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
            let target = info
                .event()
                .and_then(|event| event.structure())
                .filter(|s| s.has_name("application/x-network-estimate"))
                .and_then(|s| s.get::<u64>("target-bitrate").ok());
            if target.is_some() {
                rates.lock().unwrap().estimate = target;
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Audio takes this of what the network bears, in bit/s; tell before a
    /// session begins.
    pub fn set_audio(&self, share: u64) {
        self.rates.lock().unwrap().audio = u32::try_from(share).unwrap_or(u32::MAX);
    }

    /// The limit of the estimator is the encoder's bitrate and what audio takes.
    pub fn follow(&self) {
        follow(&self.rates, &self.estimator);
    }

    /// Packets of this payload type are FEC to the pacer.
    fn mark_fec(&self, payload_type: u8) {
        let users: Option<gst::Structure> = self.pacer.property("priorities");
        let mut ours = users
            .clone()
            .unwrap_or_else(|| gst::Structure::new_empty("priorities"));
        let field = format!("pt-{payload_type}");
        if !ours.has_field(&field) {
            ours.set(field, "fec");
        }
        self.rates.lock().unwrap().priorities.get_or_insert(users);
        self.pacer.set_property("priorities", ours);
    }

    /// Encoder and pacer are as the user has set them.
    fn restore(&self) {
        let (ceiling, paced, priorities) = {
            let mut rates = self.rates.lock().unwrap();
            rates.estimate = None;
            (rates.ceiling, rates.paced.take(), rates.priorities.take())
        };
        if let Some(priorities) = priorities {
            self.pacer.set_property("priorities", priorities);
        }
        if paced.is_some_and(|ours| self.pacer.property::<u64>("bitrate") == ours) {
            self.pacer.set_property("bitrate", 0u64);
        }
        if self.encoder.property::<u32>("bitrate") != ceiling {
            configure(&self.rates, &self.encoder, ceiling);
        }
    }
}

/// What the encoder makes of a target.
fn within(encoder: &gst::Element, bps: u64) -> u32 {
    let [least, most]: [u32; 2] = ["min-bitrate", "max-bitrate"].map(|name| encoder.property(name));
    let bps = u32::try_from(bps).unwrap_or(u32::MAX);
    bps.min(most).max(least.min(most))
}

/// Gives the encoder a bitrate that is not the user's.
fn configure(rates: &Mutex<Rates>, encoder: &gst::Element, bitrate: u32) {
    rates.lock().unwrap().configured = bitrate;
    encoder.set_property("bitrate", bitrate);
}

/// The encoder's bitrate has changed: by an estimate, on the thread that
/// brought it, by us, or by the user.
fn on_bitrate(rates: &Mutex<Rates>, encoder: &gst::Element, estimator: &gst::Element) {
    let bitrate: u32 = encoder.property(CONFIGURED);
    let estimate = {
        let mut rates = rates.lock().unwrap();
        if rates.configured == bitrate {
            return;
        }
        (rates.configured, rates.ceiling) = (bitrate, bitrate);
        rates.estimate.map(|bps| within(encoder, bps))
    };
    follow(rates, estimator);
    // The network does not take more for that.
    if let Some(estimate) = estimate
        && estimate < bitrate
    {
        configure(rates, encoder, estimate);
    }
}

fn follow(rates: &Mutex<Rates>, estimator: &gst::Element) {
    let now: u32 = estimator.property("max-bitrate");
    let untouched = estimator
        .find_property("max-bitrate")
        .is_some_and(|spec| spec.default_value().get() == Ok(now));
    let limit = {
        let mut rates = rates.lock().unwrap();
        if !untouched && rates.limit != Some(now) {
            // The user's own.
            return;
        }
        let limit = rates.ceiling.saturating_add(rates.audio);
        rates.limit = Some(limit);
        limit
    };
    if limit != now {
        estimator.set_property("max-bitrate", limit);
    }
}

/// The elements in the bin that webrtcbin puts in front of its session. Gives
/// them back when it is dropped.
pub struct AuxSender {
    bin: gst::Bin,
    chain: Vec<gst::Element>,
    fec: Option<Encoders>,
    control: Option<Control>,
}

impl AuxSender {
    /// None if there is nothing to put there.
    pub fn new(
        fec: Option<Encoders>,
        control: Option<Control>,
        webrtcbin: &gst::Element,
    ) -> Result<Option<Self>, glib::BoolError> {
        let mut chain = Vec::new();
        if let Some(fec) = &fec {
            fec.idle();
            chain.extend(fec.elements().iter().cloned());
        }
        if let Some(control) = &control {
            control.estimator.set_property("expect-feedback", false);
            control.follow();
            chain.extend([control.pacer.clone(), control.estimator.clone()]);
        }
        let aux = Self {
            bin: gst::Bin::with_name("aux-sender"),
            chain,
            fec,
            control,
        };
        let (Some(first), Some(last)) = (aux.chain.first(), aux.chain.last()) else {
            return Ok(None);
        };
        aux.bin.add_many(&aux.chain)?;
        gst::Element::link_many(&aux.chain)?;
        for (element, name) in [(first, "sink"), (last, "src")] {
            let pad = element
                .static_pad(name)
                .ok_or_else(|| glib::bool_error!("{} has no pad {name}", element.name()))?;
            aux.bin.add_pad(&gst::GhostPad::with_target(&pad)?)?;
        }
        // With all in one bundle there is one session.
        let bin = Mutex::new(Some(aux.bin.clone()));
        webrtcbin.connect("request-aux-sender", false, move |_| {
            let bin = bin.lock().unwrap().take();
            if let Some(bin) = &bin {
                // webrtcbin sinks what it gets and lets go of one reference: one
                // that is not floating would leak.
                unsafe { glib::gobject_ffi::g_object_force_floating(bin.as_ptr().cast()) };
            }
            Some(bin.to_value())
        });
        Ok(Some(aux))
    }

    pub fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }

    /// Whether the answer promises transport-wide feedback.
    pub fn set_feedback(&self, expected: bool) {
        if let Some(control) = &self.control {
            control.estimator.set_property("expect-feedback", expected);
            if expected {
                control.begin();
            }
        }
    }

    /// The peer estimates by when packets leave, and tells by REMB.
    pub fn write_send_time(&self, id: u8) {
        if let (Some(_), Some(pad)) = (&self.control, self.bin.static_pad("src")) {
            send_time::stamp(&pad, id, rtp::AUDIO_PAYLOAD_TYPE as u8);
        }
    }

    /// Stream `index` gets FEC.
    pub fn protect(&self, index: usize, what: Protected, nack: bool) {
        if let Some(fec) = &self.fec {
            if let Some(control) = &self.control {
                control.mark_fec(what.payload_type);
            }
            fec.protect(index, what, nack);
        }
    }
}

impl Drop for AuxSender {
    fn drop(&mut self) {
        for element in &self.chain {
            // In a bin that was not started, or was stopped before.
            let _ = element.set_state(gst::State::Null);
            let _ = self.bin.remove(element);
        }
        if let Some(fec) = &self.fec {
            fec.idle();
        }
        if let Some(control) = &self.control {
            control.restore();
        }
    }
}
