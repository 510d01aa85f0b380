// SPDX-License-Identifier: MPL-2.0
//! What becomes of a session by the peer's answer.

use super::Session;
use crate::dualwebrtcsink::fec::Protected;
use crate::fec::{self, Agreed};
use crate::negotiated::{Feedback, InWords, Negotiated};
use crate::rtp;
use crate::sdp::{self, NotDual};

impl Session {
    /// The answer is known. `sfu`: why there is one stream, if the peer is one.
    /// False if the peer takes no video.
    pub fn agree(&mut self, answer: &str, sfu: Option<&str>) -> bool {
        let dual = sdp::dual_accepted(answer);
        if dual == Err(NotDual::FirstRefused) {
            return false;
        }
        self.foreign = matches!(
            dual,
            Err(NotDual::NoFrameComplete | NotDual::NoFrameExtension)
        );
        self.negotiated = Negotiated::of(answer, dual, Agreed::None);
        self.set_audio(sdp::audio_accepted(answer));
        if let Some(aux) = &self.aux {
            aux.set_feedback(self.negotiated.feedback != Feedback::None);
        }
        if !self.negotiated.capture_time {
            // Nobody reads it.
            for (caps, transceiver, line) in &self.lines {
                let rest = line.without(&[rtp::CAPTURE_URI]);
                rest.set(caps, transceiver);
            }
        }
        if self.streams() == 1 {
            // It says nothing before it receives something.
            self.foreign |= sfu.is_some();
            let why = if self.switches.dual_stream {
                sfu.unwrap_or("the encoder's mode is single")
            } else {
                "dual-stream is off"
            };
            self.negotiated.dual = Err(why.into());
        } else if !self.switches.frame_feedback {
            self.negotiated.dual = Err("frame-feedback is off".into());
        }
        if let Some(kit) = &self.kit {
            kit.trace.restart(sdp::has_timing(answer));
        }
        self.set_fec(answer);
        if let Some(aux) = &self.aux
            && let Some(id) = sdp::send_time_id(answer)
            && self.negotiated.fec != Agreed::FlexFec03
        {
            // FlexFEC protects the headers as they were before.
            aux.write_send_time(id);
        }
        if self.negotiated.fec == Agreed::UlpFec {
            // rtpredenc drops the extension that tells frames apart.
            self.negotiated.dual = Err("RED takes the header extension away".into());
        }
        self.await_hello(answer);
        true
    }

    /// What was negotiated, in words, once that is final; once.
    pub fn tell(&mut self) -> Option<String> {
        if self.awaits_hello || std::mem::replace(&mut self.is_told, true) {
            return None;
        }
        let more = [
            ("rtpgcc", self.control().is_some()),
            ("rtppacer", self.is_paced()),
        ];
        Some(InWords(&self.negotiated, &more).to_string())
    }

    /// The answer is known. `Some`: audio is taken, with transport-wide feedback
    /// or without.
    fn set_audio(&mut self, taken: Option<bool>) {
        if let Some(audio) = &mut self.audio {
            audio.accepted = taken.is_some();
            audio.rate.set_active(self.serial, audio.accepted);
            let mut unread = Vec::new();
            if taken != Some(true) {
                // It would miss packets that have one.
                unread.push(rtp::TWCC_URI);
            }
            if !self.negotiated.capture_time {
                unread.push(rtp::CAPTURE_URI);
            }
            let line = audio.line.without(&unread);
            line.set(&audio.caps, &audio.transceiver);
        }
    }

    /// The answer is known: FEC is sent as far as it takes it.
    fn set_fec(&mut self, answer: &str) {
        let nack = fec::has_nack(answer);
        if let Some(ulpfec) = &self.ulpfec {
            let taken = fec::has_ulpfec(answer);
            ulpfec.begin(&taken, nack);
            if taken.contains(&true) {
                self.negotiated.fec = Agreed::UlpFec;
            }
        }
        for (payload_type, media, fec) in fec::accepted_flexfec(&self.offer, answer)
            .into_iter()
            .flatten()
        {
            let stream = self.ssrcs.iter().position(|ssrc| *ssrc == media);
            if let (Some(index), Some(aux)) = (stream, &self.aux) {
                let what = Protected {
                    payload_type,
                    media,
                    fec,
                };
                aux.protect(index, what, nack);
                self.negotiated.fec = Agreed::FlexFec03;
            }
        }
    }

    /// The answer is known, and whether the peer is dual by it: if not, it may
    /// still be a page.
    fn await_hello(&mut self, answer: &str) {
        self.takes_playout_delay = sdp::has_playout_delay(answer);
        self.awaits_hello = self.foreign
            && self.streams() == 2
            && self.negotiated.fec != Agreed::UlpFec
            && self.channel.is_some()
            && sdp::has_data_channel(answer);
        if self.awaits_hello {
            self.negotiated.dual = Err("no page has said hello on the data channel".into());
        }
    }
}
