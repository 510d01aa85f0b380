// SPDX-License-Identifier: MPL-2.0
//! Offers and answers of the sessions.

use gst::glib;
use gst_webrtc::{WebRTCSDPType, WebRTCSessionDescription};

use super::Worker;
use crate::dualwebrtcsink::imp::CAT;
use crate::dualwebrtcsink::session::Phase;
use crate::{fec, peer, sdp};

impl Worker {
    pub(super) fn send_offer(
        &mut self,
        serial: u64,
        offer: &WebRTCSessionDescription,
    ) -> Result<(), String> {
        let wants_flexfec = self.has_fec && self.settings.fec.wants_flexfec();
        let Some(session) = self.sessions.iter_mut().find(|s| s.serial == serial) else {
            return Ok(());
        };
        let text = sdp::offer_one_source_of_sound(&peer::text(offer)?);
        let mut text = sdp::offer_remb(&text);
        if session.switches.frame_feedback {
            text = sdp::offer_frame_complete(&text);
        }
        if wants_flexfec {
            text = fec::offer_flexfec(&text, glib::random_int);
        }
        let offer = peer::parse(WebRTCSDPType::Offer, &text)?;
        session.offer = text;
        session.peer.set_local(&offer);
        self.link.send_description(&session.id, &offer);
        Ok(())
    }

    /// The receiver made the offer.
    pub(super) fn send_answer(
        &mut self,
        serial: u64,
        answer: &WebRTCSessionDescription,
    ) -> Result<(), String> {
        let Some(session) = self.session(serial) else {
            return Ok(());
        };
        let offer = session.answers.as_deref().unwrap_or_default();
        let mut text = peer::text(answer)?;
        if session.switches.frame_feedback {
            text = sdp::answer_frame_complete(&text, offer);
        }
        let answer = peer::parse(WebRTCSDPType::Answer, &text)?;
        let phase = session.phase;
        self.agree(serial, &text);
        let Some(session) = self.session(serial).filter(|s| s.phase == phase) else {
            return Ok(());
        };
        session.peer.set_local(&answer);
        session.on_answered();
        let id = session.id.clone();
        self.link.send_description(&id, &answer);
        Ok(())
    }

    pub(super) fn on_answer(&mut self, serial: u64, answer: &WebRTCSessionDescription) {
        let found = self.sessions.iter_mut().find(|s| s.serial == serial);
        let (Some(session), Some(sink)) = (found, self.sink.upgrade()) else {
            return;
        };
        if answer.type_() != WebRTCSDPType::Answer
            || session.phase != Phase::Negotiating
            || session.answers.is_some()
        {
            gst::warning!(
                CAT,
                obj = sink,
                "a description that was not asked for is ignored"
            );
            return;
        }
        let text = match peer::text(answer) {
            Ok(text) => text,
            Err(err) => return self.end_session(serial, &err, true),
        };
        self.agree(serial, &text);
        if let Some(session) = self.session(serial) {
            session.peer.set_remote(answer);
        }
    }

    /// What both take is known, from an answer.
    fn agree(&mut self, serial: u64, text: &str) {
        let found = self.sessions.iter_mut().find(|s| s.serial == serial);
        let (Some(session), Some(sink)) = (found, self.sink.upgrade()) else {
            return;
        };
        if !session.agree(text, self.link.sfu()) {
            return self.end_session(serial, "the receiver does not take H.264", true);
        }
        if let Some(words) = session.tell() {
            gst::info!(
                CAT,
                obj = sink,
                "negotiated in session {}: {words}",
                session.id
            );
        }
    }
}
