// SPDX-License-Identifier: MPL-2.0
//! An encoder and the receivers that it serves.
//!
//! ```text
//! gate -> tee -> queue -> encoder   -> tee (src_0), tee (src_1) ----------> session
//!                                                              \-> queues -> session
//!            \-> queue -> encoder-7 -------------------------------------> session
//! ```
//!
//! The first encoder is there always, for the user to set up; further ones are
//! made as they are needed, with its properties. Receivers that take both
//! streams may share one; who takes one stream has its encoder for itself, since
//! whoever comes there needs a key frame at once.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use super::DualWebRtcSink;
use super::kit::Follow;
use super::overload;
use super::rates::Rates;
use super::session::Session;
use super::share::{self, Quorum, Watch};
use super::stats::Shared;
use crate::requirements::make;

/// Coded frames for a receiver that shares an encoder. Nothing behind waits.
const QUEUED_FRAMES: u32 = 64;
/// What is set here for each encoder anew.
const OURS: [&str; 4] = ["name", "parent", "bitrate", "mode"];

/// A receiver behind an encoder.
struct Member {
    id: u64,
    /// Of the tees, while it gets something.
    taps: Vec<(gst::Element, gst::Pad)>,
    /// By which it is under the rules of the others.
    watches: Vec<Watch>,
    is_linked: bool,
}

pub struct Branch {
    pub serial: u64,
    pub encoder: gst::Element,
    /// Several receivers may be served.
    pub is_shared: bool,
    /// Before the encoder: a slow one holds up neither the source nor the others.
    queue: gst::Element,
    /// Of the tee that gives the pictures, while it runs.
    tap: Option<gst::Pad>,
    /// Behind the encoder, if it is shared.
    outputs: Vec<gst::Element>,
    members: Vec<Member>,
    quorum: Arc<Mutex<Quorum>>,
    /// The user's value of the encoder's `mode`, while ours is in force.
    user_mode: Option<String>,
    /// Of one that was made for receivers that the first cannot serve.
    follow: Option<Follow>,
}

pub fn mode_nick(encoder: &gst::Element) -> Option<String> {
    if !encoder.has_property("mode") {
        return None;
    }
    let value = encoder.property_value("mode");
    glib::EnumValue::from_value(&value).map(|(_, value)| value.nick().to_owned())
}

pub fn is_single(encoder: &gst::Element) -> bool {
    mode_nick(encoder).as_deref() == Some("single")
}

fn pad(element: &gst::Element, name: &str) -> Result<gst::Pad, glib::BoolError> {
    element
        .static_pad(name)
        .ok_or_else(|| glib::bool_error!("{} has no pad {name}", element.name()))
}

impl Branch {
    /// That of the encoder which the user sets up.
    pub fn first(queue: &gst::Element, encoder: &gst::Element) -> Self {
        Self {
            serial: 0,
            encoder: encoder.clone(),
            is_shared: false,
            queue: queue.clone(),
            tap: None,
            outputs: Vec::new(),
            members: Vec::new(),
            quorum: Arc::default(),
            user_mode: None,
            follow: None,
        }
    }

    /// One with an encoder like that one.
    pub fn another(
        serial: u64,
        like: &gst::Element,
        sink: &DualWebRtcSink,
        rates: &Rates,
        shared: &Arc<Shared>,
    ) -> Result<Self, gst::ErrorMessage> {
        let broken = |err: glib::BoolError| gst::error_msg!(gst::CoreError::Failed, ["{err}"]);
        let encoder = make("dualh264enc", &format!("encoder-{serial}"))?;
        let queue = overload::queue(&format!("encoder-queue-{serial}"), sink, shared)?;
        let follow = Follow::new(like, &encoder, &OURS);
        for element in [&encoder, &queue] {
            // It runs with a session only.
            element.set_locked_state(true);
        }
        sink.add_many([&encoder, &queue]).map_err(broken)?;
        queue.link(&encoder).map_err(broken)?;
        rates.add_encoder(&encoder);
        Ok(Self {
            serial,
            follow: Some(follow),
            ..Self::first(&queue, &encoder)
        })
    }

    pub fn is_idle(&self) -> bool {
        self.members.is_empty()
    }

    pub fn serves(&self, id: u64) -> bool {
        self.members.iter().any(|member| member.id == id)
    }

    /// The encoder's mode is single for its receiver, not for the user.
    pub fn is_made_single(&self) -> bool {
        self.user_mode.is_some()
    }

    /// How many receivers there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// A place for a receiver, before it can be given anything.
    pub fn reserve(&mut self, id: u64) {
        self.members.push(Member {
            id,
            taps: Vec::new(),
            watches: Vec::new(),
            is_linked: false,
        });
    }

    /// Gives the receiver the streams, and starts the encoder for the first one.
    pub fn link(
        &mut self,
        sink: &DualWebRtcSink,
        tee: &gst::Element,
        session: &Session,
    ) -> Result<(), glib::BoolError> {
        let is_first = !self.members.iter().any(|member| member.is_linked);
        if is_first && session.negotiated.dual.is_err() && !is_single(&self.encoder) {
            self.user_mode = mode_nick(&self.encoder);
            if self.user_mode.is_some() {
                self.encoder.set_property_from_str("mode", "single");
            }
        }
        if self.is_shared {
            self.link_shared(sink, session, is_first)?;
        } else {
            for index in 0..session.streams() {
                self.encoder.link_pads(
                    Some(&format!("src_{index}")),
                    &session.bin,
                    Some(&format!("sink_{index}")),
                )?;
            }
        }
        if let Some(member) = self.members.iter_mut().find(|m| m.id == session.serial) {
            member.is_linked = true;
        }
        if is_first {
            self.start(sink, tee)
        } else {
            pad(&self.encoder, "src_0")?.send_event(share::refresh());
            Ok(())
        }
    }

    fn link_shared(
        &mut self,
        sink: &DualWebRtcSink,
        session: &Session,
        is_first: bool,
    ) -> Result<(), glib::BoolError> {
        if is_first {
            self.add_outputs(sink, session.streams())?;
        } else {
            session.add_queues(QUEUED_FRAMES)?;
        }
        let entries: Vec<gst::Pad> = (0..session.streams())
            .map(|index| pad(session.bin.upcast_ref(), &format!("sink_{index}")))
            .collect::<Result<_, _>>()?;
        self.quorum.lock().unwrap().enter(session.serial);
        let watches = share::watch(&self.quorum, session.serial, &entries);
        if let Some(member) = self.members.iter_mut().find(|m| m.id == session.serial) {
            member.watches = watches;
        }
        for (output, entry) in self.outputs.iter().zip(&entries) {
            let tap = output
                .request_pad_simple("src_%u")
                .ok_or_else(|| glib::bool_error!("{} gives no pad", output.name()))?;
            if let Some(member) = self.members.iter_mut().find(|m| m.id == session.serial) {
                member.taps.push((output.clone(), tap.clone()));
            }
            tap.link(entry).map_err(|err| glib::bool_error!("{err}"))?;
        }
        Ok(())
    }

    fn add_outputs(
        &mut self,
        sink: &DualWebRtcSink,
        streams: usize,
    ) -> Result<(), glib::BoolError> {
        for index in 0..streams {
            let name = format!("{}-out-{index}", self.encoder.name());
            let tee = gst::ElementFactory::make("tee")
                .name(&name)
                .property("allow-not-linked", true)
                .build()?;
            sink.add(&tee)?;
            self.outputs.push(tee.clone());
            self.encoder
                .link_pads(Some(&format!("src_{index}")), &tee, Some("sink"))?;
            tee.sync_state_with_parent()?;
        }
        Ok(())
    }

    /// The encoder runs, without pictures.
    pub fn warm_up(&self, sink: &DualWebRtcSink) -> Result<(), glib::BoolError> {
        for element in [&self.encoder, &self.queue] {
            // What a bin does for its children when it starts them itself.
            if let Some(base_time) = sink.base_time() {
                element.set_base_time(base_time);
            }
            element.set_locked_state(false);
            element.sync_state_with_parent()?;
        }
        Ok(())
    }

    fn start(&mut self, sink: &DualWebRtcSink, tee: &gst::Element) -> Result<(), glib::BoolError> {
        self.warm_up(sink)?;
        let tap = tee
            .request_pad_simple("src_%u")
            .ok_or_else(|| glib::bool_error!("{} gives no pad", tee.name()))?;
        self.tap = Some(tap.clone());
        tap.link(&pad(&self.queue, "sink")?)
            .map_err(|err| glib::bool_error!("{err}"))?;
        Ok(())
    }

    /// Before the receiver's session stops: what it refuses from here on does not
    /// come back to the others. True if it was the last one.
    pub fn leave(&mut self, tee: &gst::Element, id: u64) -> bool {
        let Some(at) = self.members.iter().position(|member| member.id == id) else {
            return false;
        };
        let member = self.members.swap_remove(at);
        self.quorum.lock().unwrap().leave(id);
        for (output, tap) in &member.taps {
            output.release_request_pad(tap);
        }
        member.watches.into_iter().for_each(Watch::remove);
        let is_last = member.is_linked && !self.members.iter().any(|member| member.is_linked);
        if is_last && let Some(tap) = self.tap.take() {
            tee.release_request_pad(&tap);
        }
        is_last
    }

    /// After the last receiver's session has stopped, which lets go of the
    /// streaming threads.
    pub fn stop(&mut self, sink: &DualWebRtcSink, session: &Session) {
        for element in [&self.encoder, &self.queue] {
            // Locked, or a state change of the pipeline might come after.
            element.set_locked_state(true);
            let _ = element.set_state(gst::State::Ready);
        }
        self.encoder.unlink(&session.bin);
        for output in self.outputs.drain(..) {
            output.set_locked_state(true);
            let _ = output.set_state(gst::State::Null);
            self.encoder.unlink(&output);
            remove(sink, &output);
        }
        if let Some(mode) = self.user_mode.take() {
            self.encoder.set_property_from_str("mode", &mode);
        }
    }

    /// What was made for it goes.
    pub fn dispose(self, sink: &DualWebRtcSink, rates: &Rates) {
        if self.follow.is_none() {
            // The user's.
            return;
        }
        rates.remove_encoder(&self.encoder);
        for element in [&self.encoder, &self.queue] {
            element.set_locked_state(true);
            let _ = element.set_state(gst::State::Null);
            remove(sink, element);
        }
    }
}

fn remove(sink: &DualWebRtcSink, element: &gst::Element) {
    if let Err(err) = sink.remove(element) {
        gst::warning!(super::imp::CAT, obj = sink, "{err}");
    }
}
