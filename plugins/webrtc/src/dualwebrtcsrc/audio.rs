// SPDX-License-Identifier: MPL-2.0
//! Audio of a session, and the pad that it leaves by.
//!
//! ```text
//! [ webrtcbin -> rtpopusdepay -> opusdec ] -> audio
//! ```
//!
//! The pad comes with the first audio and stays until READY, whatever sessions
//! come and go.

use std::sync::Mutex;

use gst::glib;
use gst::prelude::*;

use super::DualWebRtcSrc;
use crate::requirements::{self, make};

/// Name of the pad, and of that of a session's bin.
pub const PAD: &str = "audio";
/// What a decoder with FEC waits for the next packet: browsers send 20 ms in
/// each. opusdec says 120 ms, the longest that there is.
const FEC_WAIT: gst::ClockTime = gst::ClockTime::from_mseconds(20);

/// The pad, and what is behind it now.
#[derive(Debug, Default)]
pub struct Output(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pad: Option<gst::GhostPad>,
    /// What knows the latency up to the decoder.
    entry: Option<glib::WeakRef<gst::Pad>>,
}

impl Output {
    pub fn pad(&self) -> Option<gst::GhostPad> {
        self.0.lock().unwrap().pad.clone()
    }

    /// Latency up to the decoder, and what that takes.
    pub fn latency(&self, query: &mut gst::query::Latency) -> bool {
        let entry = self.0.lock().unwrap().entry.clone();
        let mut inner = gst::query::Latency::new();
        let known = entry
            .and_then(|weak| weak.upgrade())
            .is_some_and(|pad| pad.peer_query(&mut inner));
        let min = if known {
            inner.result().1
        } else {
            gst::ClockTime::ZERO
        };
        query.set(true, min + FEC_WAIT, gst::ClockTime::NONE);
        true
    }

    /// Leads a session's audio to the pad, which is made if there is none.
    pub fn take(
        &self,
        src: &DualWebRtcSrc,
        template: &gst::PadTemplate,
        from: &gst::Pad,
        decoder: &gst::Pad,
    ) -> Result<(), String> {
        let (pad, is_new) = {
            let mut state = self.0.lock().unwrap();
            let is_new = state.pad.is_none();
            let pad = state.pad.get_or_insert_with(|| {
                gst::GhostPad::builder_from_template(template)
                    .name(PAD)
                    .query_function(|pad, parent, query| {
                        if let gst::QueryViewMut::Latency(latency) = query.view_mut() {
                            return parent
                                .and_then(|p| p.downcast_ref::<DualWebRtcSrc>())
                                .is_some_and(|src| src.audio_latency(latency));
                        }
                        gst::Pad::query_default(pad, parent, query)
                    })
                    .build()
            });
            let pad = pad.clone();
            let entry = glib::WeakRef::new();
            entry.set(Some(decoder));
            state.entry = Some(entry);
            (pad, is_new)
        };
        pad.set_target(Some(from)).map_err(|err| err.to_string())?;
        if is_new {
            pad.set_active(true).map_err(|err| err.to_string())?;
            src.add_pad(&pad).map_err(|err| err.to_string())?;
        }
        Ok(())
    }

    /// The session is over.
    pub fn leave(&self) {
        let mut state = self.0.lock().unwrap();
        state.entry = None;
        let pad = state.pad.clone();
        drop(state);
        if let Some(pad) = pad {
            // Fails for a pad that is gone.
            let _ = pad.set_target(None::<&gst::Pad>);
        }
    }

    /// Back to READY.
    pub fn remove(&self, src: &DualWebRtcSrc) {
        let pad = self.0.lock().unwrap().pad.take();
        if let Some(pad) = pad {
            let _ = pad.set_active(false);
            let _ = src.remove_pad(&pad);
        }
    }

    pub fn push_eos(&self) {
        if let Some(pad) = self.pad()
            && pad.sticky_event::<gst::event::Eos>(0).is_none()
        {
            pad.push_event(gst::event::Eos::new());
        }
    }
}

/// Depayloader and decoder of a session, linked: the first's sink, the second's
/// sink and source.
pub fn chain(bin: &gst::Bin, src: &DualWebRtcSrc) -> Result<[gst::Pad; 3], String> {
    let text = |err: gst::ErrorMessage| format!("{err:?}");
    requirements::check(requirements::AUDIO_RECEIVER).map_err(text)?;
    let depay = make("rtpopusdepay", "audio-depay").map_err(text)?;
    let decoder = make("opusdec", "audio-decoder").map_err(text)?;
    decoder.set_property("plc", true);
    decoder.set_property("use-inband-fec", true);
    bin.add_many([&depay, &decoder])
        .and_then(|()| depay.link(&decoder))
        .map_err(|err| err.to_string())?;
    for element in [&depay, &decoder] {
        element
            .sync_state_with_parent()
            .map_err(|err| err.to_string())?;
    }
    let pad = |element: &gst::Element, name: &str| {
        element
            .static_pad(name)
            .ok_or_else(|| format!("{} has no pad {name}", element.name()))
    };
    let out = pad(&decoder, "src")?;
    let weak = src.downgrade();
    // Nobody need take it: without a link it ends here, and not with an error.
    out.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let linked = weak.upgrade().is_some_and(|src| src.has_audio_peer());
        if linked {
            gst::PadProbeReturn::Ok
        } else {
            gst::PadProbeReturn::Handled
        }
    });
    Ok([pad(&depay, "sink")?, pad(&decoder, "sink")?, out])
}
