// SPDX-License-Identifier: MPL-2.0
//! Congestion control of one receiver: `rtppacer ! rtpgcc` in front of its RTP
//! session. The FEC encoders stand before them and take their share of the
//! estimate.
//!
//! ```text
//! encoder <- payloader <- rtprtxsend <- [ FEC <- rtppacer <- rtpgcc ] <- rtpsession
//!         application/x-network-estimate              RTPTWCCPackets
//! ```

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use super::fec::{Encoders, Protected};
use super::rates::Rates;
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

/// What was changed for a session.
#[derive(Debug, Default)]
struct Own {
    /// Our value of the pacer's `bitrate`.
    paced: Option<u64>,
    /// The user's value of the pacer's `priorities`, while ours is in force.
    priorities: Option<Option<gst::Structure>>,
    /// The user's value of the estimator's `start-bitrate`, while ours is in
    /// force.
    start: Option<u32>,
}

/// Pacer and estimator of one receiver.
#[derive(Clone)]
pub struct Control {
    pub pacer: gst::Element,
    pub estimator: gst::Element,
    /// Among the receivers.
    id: u64,
    rates: Rates,
    own: Arc<Mutex<Own>>,
}

impl Control {
    pub fn new(id: u64, rates: &Rates) -> Result<Self, gst::ErrorMessage> {
        Ok(Self {
            pacer: make("rtppacer", "pacer")?,
            estimator: make("rtpgcc", "estimator")?,
            id,
            rates: rates.clone(),
            own: Arc::default(),
        })
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the user has set of the other one, where that is changed for its
    /// session.
    pub fn take_settings(&self, other: &Self) {
        let (bitrate, priorities, start) = {
            let own = other.own.lock().unwrap();
            (own.paced.is_some(), own.priorities.clone(), own.start)
        };
        if !bitrate {
            let bitrate: u64 = other.pacer.property("bitrate");
            self.pacer.set_property("bitrate", bitrate);
        }
        let priorities = priorities.unwrap_or_else(|| other.pacer.property("priorities"));
        self.pacer.set_property("priorities", priorities);
        let start = start.unwrap_or_else(|| other.estimator.property("start-bitrate"));
        self.estimator.set_property("start-bitrate", start);
        if let Some(most) = self.rates.users_limit(other.id, &other.estimator) {
            self.estimator.set_property("max-bitrate", most);
        }
    }

    /// A session begins. `likely`: the rate at which an encoder runs that would
    /// serve it beside others.
    fn enter(&self, likely: Option<u32>) {
        self.rates.enter(self.id, &self.estimator);
        let start: u32 = self.estimator.property("start-bitrate");
        if let Some(likely) = likely.filter(|bps| *bps > start) {
            self.own.lock().unwrap().start = Some(start);
            self.estimator.set_property("start-bitrate", likely);
        }
    }

    /// This encoder serves the receiver, beside others or not. Before the first
    /// packet, and with it the first estimate: the first key frame must not
    /// have the size and the pace of the ceiling, nor the first seconds, where
    /// the first REMB takes that long. `feedback`: estimates are promised.
    pub fn serve(&self, encoder: &gst::Element, audio: u32, beside_others: bool, feedback: bool) {
        let start: u32 = self.estimator.property("start-bitrate");
        let most: u32 = self.estimator.property("max-bitrate");
        let start = start
            .saturating_sub(audio)
            .min(most)
            .min(self.rates.ceiling());
        let estimate = feedback.then_some(u64::from(start));
        self.rates.serve(self.id, encoder, estimate, beside_others);
        if feedback && self.pacer.property::<u64>("bitrate") == 0 {
            let bitrate = u64::from(self.rates.configured(encoder)) + u64::from(audio);
            self.own.lock().unwrap().paced = Some(bitrate);
            self.pacer.set_property("bitrate", bitrate);
        }
    }

    /// The others that its encoder serves give way to it from here on.
    pub fn settle(&self) {
        self.rates.settle(self.id);
    }

    /// Nothing comes from its receiver, or something again.
    pub fn set_silent(&self, silent: bool) {
        self.rates.set_silent(self.id, silent);
    }

    /// Looks at the estimates that go to the encoder by this pad, before the
    /// encoder does.
    pub fn watch(&self, pad: &impl IsA<gst::Pad>) {
        let (rates, id) = (self.rates.clone(), self.id);
        pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
            let Some(gst::PadProbeData::Event(event)) = &mut info.data else {
                return gst::PadProbeReturn::Ok;
            };
            let Some((mut s, target)) = event
                .structure()
                .filter(|s| s.has_name("application/x-network-estimate"))
                .and_then(|s| Some((s.to_owned(), s.get::<u64>("target-bitrate").ok()?)))
            else {
                return gst::PadProbeReturn::Ok;
            };
            let lowest = rates.on_estimate(id, target);
            if lowest != target {
                s.set("target-bitrate", lowest);
                *event = gst::event::CustomUpstream::builder(s)
                    .seqnum(event.seqnum())
                    .build();
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Audio takes this of what the network bears, in bit/s.
    pub fn set_audio(&self, share: u64) {
        self.rates.set_audio(self.id, share);
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
        self.own.lock().unwrap().priorities.get_or_insert(users);
        self.pacer.set_property("priorities", ours);
    }

    /// Encoder, pacer and estimator are as the user has set them.
    fn leave(&self) {
        let own = std::mem::take(&mut *self.own.lock().unwrap());
        if let Some(priorities) = own.priorities {
            self.pacer.set_property("priorities", priorities);
        }
        if own
            .paced
            .is_some_and(|ours| self.pacer.property::<u64>("bitrate") == ours)
        {
            self.pacer.set_property("bitrate", 0u64);
        }
        if let Some(start) = own.start {
            self.estimator.set_property("start-bitrate", start);
        }
        self.rates.leave(self.id);
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
        paced: bool,
        likely: Option<u32>,
        webrtcbin: &gst::Element,
    ) -> Result<Option<Self>, glib::BoolError> {
        let mut chain = Vec::new();
        if let Some(fec) = &fec {
            fec.idle();
            chain.extend(fec.elements().iter().cloned());
        }
        if let Some(control) = &control {
            control.estimator.set_property("expect-feedback", false);
            control.enter(likely);
            chain.extend(paced.then(|| control.pacer.clone()));
            chain.push(control.estimator.clone());
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

    /// The pacer is there.
    pub fn is_paced(&self) -> bool {
        let pacer = self.control.as_ref().map(|control| &control.pacer);
        pacer.is_some_and(|pacer| self.chain.contains(pacer))
    }

    /// Whether the answer promises transport-wide feedback, or REMB.
    pub fn set_feedback(&self, expected: bool) {
        if let Some(control) = &self.control {
            control.estimator.set_property("expect-feedback", expected);
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
            control.leave();
        }
    }
}
