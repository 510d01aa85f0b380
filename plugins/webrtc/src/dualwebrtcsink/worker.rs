// SPDX-License-Identifier: MPL-2.0
//! The worker thread: takes what the signaller, webrtcbin and the gate say in
//! one queue, and owns the session. So nothing that blocks is called from
//! their threads, and no state needs a lock.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;
use gst_webrtc::{WebRTCSDPType, WebRTCSessionDescription};

use super::DualWebRtcSink;
use super::audio::{self, AudioInput};
use super::audio_rate::AudioRate;
use super::control::Control;
use super::fec::Encoders;
use super::gate::{Eos, GateElement, Mode};
use super::imp::CAT;
use super::key_requests;
use super::layout::Layout;
use super::session::{Due, Parts, Phase, Session};
use super::stats::Shared;
use super::timeline::Timeline;
use super::trace::Trace;
use crate::properties::Settings;
use crate::signalling::{self, Change, Link};
use crate::{fec, peer, sdp};

#[derive(Debug)]
pub enum Command {
    Signalling(signalling::Event),
    /// From webrtcbin of the session with this serial.
    Peer(u64, peer::Event),
    /// An element of the session with this serial failed.
    Failed(u64, String),
    /// End of stream has passed one stream of this session.
    Drained(u64),
    Eos(Eos),
    Stop,
}

pub struct Worker {
    pub sink: glib::WeakRef<DualWebRtcSink>,
    pub encoder: gst::Element,
    pub control: Option<Control>,
    pub fec: Option<Encoders>,
    pub gate: GateElement,
    /// The audio pad, while there is one.
    pub audio: Arc<Mutex<Option<AudioInput>>>,
    pub audio_rate: Arc<AudioRate>,
    pub audio_settings: audio::Settings,
    pub timeline: Timeline,
    pub trace: Trace,
    pub settings: Settings,
    pub shared: Arc<Shared>,
    pub link: Link,
    pub sender: Sender<Command>,
    pub session: Option<Session>,
    pub serial: u64,
    /// The user's value of the encoder's `mode`, while ours is in force.
    pub user_mode: Option<String>,
    pub pending_eos: Option<gst::Seqnum>,
    /// The user was told that the server is not there.
    pub warned: bool,
}

impl Worker {
    pub fn run(mut self, commands: &Receiver<Command>) {
        self.link.start(Instant::now());
        loop {
            let now = Instant::now();
            let deadline = [
                self.link.deadline(),
                self.session.as_ref().map(Session::deadline),
            ]
            .into_iter()
            .flatten()
            .min();
            let command = match deadline {
                Some(at) => match commands.recv_timeout(at.saturating_duration_since(now)) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
                None => match commands.recv() {
                    Ok(command) => Some(command),
                    Err(_) => break,
                },
            };
            let now = Instant::now();
            match command {
                Some(Command::Stop) => break,
                Some(command) => self.handle(now, command),
                None => {}
            }
            self.poll(now);
            self.publish();
        }
        self.end_session("the element stops", true);
        self.link.stop();
        self.publish();
    }

    fn handle(&mut self, now: Instant, command: Command) {
        match command {
            Command::Signalling(event) => self.on_signalling(now, event),
            Command::Peer(serial, event) if self.is_current(serial) => self.on_peer(now, event),
            Command::Failed(serial, text) if self.is_current(serial) => {
                self.end_session(&text, true);
            }
            Command::Drained(serial) if self.is_current(serial) => {
                if let Some(session) = &mut self.session {
                    session.on_drained(now);
                }
            }
            Command::Eos(eos) => self.on_eos(now, eos),
            // Of a session that is gone, and Stop, which ends the loop.
            _ => {}
        }
    }

    fn is_current(&self, serial: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.serial == serial)
    }

    fn is_session(&self, id: &str) -> bool {
        self.session.as_ref().is_some_and(|s| s.id == id)
    }

    fn poll(&mut self, now: Instant) {
        let change = self.link.poll(now);
        self.on_link(change);
        let due = self
            .session
            .as_mut()
            .map_or(Due::Nothing, |session| session.poll(now));
        match due {
            Due::Nothing => {}
            Due::Start => self.start_encoding(),
            Due::SendBye => {
                if let Some(session) = &self.session {
                    session.send_bye();
                }
            }
            Due::Finished => self.end_session("end of stream", true),
            Due::End(why) => self.end_session(why, true),
        }
    }

    fn on_signalling(&mut self, now: Instant, event: signalling::Event) {
        use signalling::Event;
        match event {
            Event::Up => {
                self.link.on_up();
                self.warned = false;
                if let Some(sink) = self.sink.upgrade() {
                    gst::info!(CAT, obj = sink, "registered at {}", self.link.uri());
                }
            }
            Event::Error(text) => {
                let change = self.link.on_error(now, &text);
                self.on_link(change);
            }
            Event::SessionRequested {
                session,
                peer,
                offer,
            } => self.on_request(session, &peer, offer.as_ref()),
            Event::SessionEnded(id) if self.is_session(&id) => {
                self.end_session("the receiver ended it", false);
            }
            Event::Description {
                session,
                description,
            } if self.is_session(&session) => self.on_answer(&description),
            Event::Candidate {
                session,
                mline,
                candidate,
            } if self.is_session(&session) => {
                if let Some(session) = &self.session {
                    session.peer.add_candidate(mline, &candidate);
                }
            }
            // Of another session, or for a consumer.
            _ => {}
        }
    }

    fn on_link(&mut self, change: Change) {
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        match change {
            Change::Nothing => {}
            Change::Trying(text) => {
                if !std::mem::replace(&mut self.warned, true) {
                    let (what, hint) = self.link.explain(&text);
                    gst::element_warning!(
                        sink,
                        gst::ResourceError::OpenReadWrite,
                        ("{what}, trying on"),
                        ["{hint}; {text}"]
                    );
                }
                self.end_session("the signalling failed", false);
            }
            Change::Refused(text) => gst::warning!(CAT, obj = sink, "{text}"),
            Change::Lost(text) => {
                gst::warning!(CAT, obj = sink, "signalling server lost: {text}");
                self.end_session("the signalling server is lost", false);
            }
            Change::GivenUp(text) => {
                let (what, hint) = self.link.explain(&text);
                gst::element_error!(
                    sink,
                    gst::ResourceError::OpenReadWrite,
                    ("{what}: {hint}"),
                    ["{text}; connect-timeout says how long to try"]
                );
            }
        }
    }

    fn on_request(&mut self, id: String, peer: &str, offer: Option<&WebRTCSessionDescription>) {
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        let refusal = if self.session.is_some() {
            Some("there is a receiver already, and only one is served".to_owned())
        } else if self.gate.has_ended() {
            Some("the stream has ended".into())
        } else {
            None
        };
        let layout = match (refusal, offer.map(Layout::of_offer)) {
            (Some(why), _) | (None, Some(Err(why))) => {
                gst::warning!(CAT, obj = sink, "receiver {peer} refused: {why}");
                self.shared.update(|s| s.refused += 1);
                self.link.refuse(&id);
                return;
            }
            (None, Some(Ok(layout))) => Some(layout),
            (None, None) => None,
        };
        gst::info!(CAT, obj = sink, "session {id} with receiver {peer}");
        self.serial += 1;
        if let Err(err) = self.begin_session(&sink, id.clone(), peer, layout) {
            self.link.refuse(&id);
            sink.post_error_message(err);
        }
    }

    fn begin_session(
        &mut self,
        sink: &DualWebRtcSink,
        id: String,
        peer: &str,
        layout: Option<Layout>,
    ) -> Result<(), gst::ErrorMessage> {
        let serial = self.serial;
        let mut parts = self.parts();
        let offer = layout.map(|layout| layout.apply(&mut parts));
        let (sender, drained) = (self.sender.clone(), self.sender.clone());
        let session = Session::new(
            id,
            serial,
            &self.settings,
            parts,
            Arc::new(move |event| {
                // Fails only when the worker is gone.
                let _ = sender.send(Command::Peer(serial, event));
            }),
            move || {
                let _ = drained.send(Command::Drained(serial));
            },
        )?;
        let broken = |what: &str| gst::error_msg!(gst::CoreError::StateChange, ["{what}"]);
        sink.add(&session.bin)
            .map_err(|err| broken(&err.to_string()))?;
        self.link
            .attach(&session.id, peer, session.peer.webrtcbin());
        let started = session.bin.sync_state_with_parent();
        match &offer {
            Some(offer) => session.peer.set_remote(offer),
            None => session.peer.create_offer(),
        }
        self.shared.update(|s| {
            s.sessions += 1;
            s.feedback = session.feedback.clone();
            s.control = self.control.is_some();
        });
        self.session = Some(session);
        if started.is_err() {
            self.end_session("webrtcbin does not start", true);
            return Err(broken("webrtcbin does not start"));
        }
        Ok(())
    }

    fn parts(&self) -> Parts {
        let audio = self.audio.lock().unwrap().clone();
        if let Some(input) = &audio {
            let kind = input.encoder.property_value("audio-type");
            let kind = glib::EnumValue::from_value(&kind).map(|(_, v)| v.nick().to_owned());
            // Another is the user's, and stays.
            let is_ours = self
                .audio_rate
                .has_kind(kind.as_deref().unwrap_or_default());
            self.audio_rate.configure(self.audio_settings, is_ours);
            self.audio_rate.set_active(true);
        } else {
            self.audio_rate.set_active(false);
        }
        if let Some(control) = &self.control {
            control.set_audio(self.audio_rate.share());
        }
        Parts {
            fec: self.fec.clone(),
            control: self.control.clone(),
            audio: audio.map(|input| (input, self.audio_rate.clone())),
            timeline: self.timeline.clone(),
            trace: self.trace.clone(),
            // An SFU would show a second one to viewers, always black.
            streams: if self.encoder_is_single() || self.link.sfu().is_some() {
                1
            } else {
                2
            },
            key_interval: self.link.sfu().map(|_| key_requests::INTERVAL),
            frame_ms: self.audio_settings.frame.ms(),
            answer: None,
        }
    }

    fn encoder_is_single(&self) -> bool {
        self.encoder.find_property("mode").is_some()
            && mode_nick(&self.encoder).as_deref() == Some("single")
    }

    fn on_peer(&mut self, now: Instant, event: peer::Event) {
        let Some(session) = &mut self.session else {
            return;
        };
        match event {
            peer::Event::Created(description) => {
                let sent = if session.answers.is_some() {
                    self.send_answer(&description)
                } else {
                    self.send_offer(&description)
                };
                if let Err(text) = sent {
                    self.end_session(&text, true);
                }
            }
            peer::Event::RemoteSet if session.answers.is_some() => session.peer.create_answer(),
            peer::Event::RemoteSet => session.on_answered(),
            peer::Event::Failed(text) => self.end_session(&text, true),
            peer::Event::Candidate { mline, candidate } => {
                self.link.send_candidate(&session.id, mline, &candidate);
            }
            peer::Event::Connection(state) => session.on_connection(now, state),
            peer::Event::FirstRtcp => session.on_first_rtcp(),
            peer::Event::ClockRequest(request) if session.phase == Phase::Running => {
                session.peer.answer_clock_request(request);
            }
            // Before that, sending might wait for the connection.
            peer::Event::ClockRequest(_) => {}
            // The receiver has no sources of its own.
            peer::Event::Bye(_) => {}
        }
    }

    fn send_offer(&mut self, offer: &WebRTCSessionDescription) -> Result<(), String> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let mut text = sdp::offer_frame_complete(&peer::text(offer)?);
        if self.fec.is_some() && self.settings.fec.wants_flexfec() {
            text = fec::offer_flexfec(&text, glib::random_int);
        }
        let offer = peer::parse(WebRTCSDPType::Offer, &text)?;
        session.offer = text;
        session.peer.set_local(&offer);
        self.link.send_description(&session.id, &offer);
        Ok(())
    }

    /// The receiver made the offer.
    fn send_answer(&mut self, answer: &WebRTCSessionDescription) -> Result<(), String> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let offer = session.answers.as_deref().unwrap_or_default();
        let text = sdp::answer_frame_complete(&peer::text(answer)?, offer);
        let answer = peer::parse(WebRTCSDPType::Answer, &text)?;
        let phase = session.phase;
        self.agree(&text);
        let Some(session) = self.session.as_mut().filter(|s| s.phase == phase) else {
            return Ok(());
        };
        session.peer.set_local(&answer);
        session.on_answered();
        self.link.send_description(&session.id, &answer);
        Ok(())
    }

    fn on_answer(&mut self, answer: &WebRTCSessionDescription) {
        let (Some(session), Some(sink)) = (&mut self.session, self.sink.upgrade()) else {
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
            Err(err) => return self.end_session(&err, true),
        };
        self.agree(&text);
        if let Some(session) = &self.session {
            session.peer.set_remote(answer);
        }
    }

    /// What both take is known, from an answer.
    fn agree(&mut self, text: &str) {
        let (Some(session), Some(sink)) = (&mut self.session, self.sink.upgrade()) else {
            return;
        };
        let dual = sdp::dual_accepted(text);
        if dual == Err(sdp::NotDual::FirstRefused) {
            return self.end_session("the receiver does not take H.264", true);
        }
        session.set_dual(dual);
        session.set_audio(sdp::audio_accepted(text));
        if let Some(control) = self.control.as_ref().filter(|_| session.audio.is_some()) {
            control.set_audio(self.audio_rate.share());
            control.follow();
        }
        if let Some(aux) = &session.aux {
            aux.set_feedback(sdp::has_transport_feedback(text));
        }
        if session.streams() == 1 {
            let why = self.link.sfu().unwrap_or("the encoder's mode is single");
            // It says nothing before it receives something.
            session.foreign |= self.link.sfu().is_some();
            session.dual = Err(why.into());
        }
        self.trace.restart(sdp::has_timing(text));
        session.set_fec(text);
        if session.fec == fec::Agreed::UlpFec {
            // rtpredenc drops the extension that tells frames apart.
            session.dual = Err("RED takes the header extension away".into());
        }
        match &session.dual {
            Ok(()) => gst::info!(CAT, obj = sink, "the receiver takes dual stream"),
            Err(why) => gst::info!(CAT, obj = sink, "single stream: {why}"),
        }
        gst::info!(CAT, obj = sink, "FEC: {}", session.fec.nick());
    }

    /// The receiver is ready: pictures go to the encoder from here on.
    fn start_encoding(&mut self) {
        let (Some(session), Some(sink)) = (&self.session, self.sink.upgrade()) else {
            return;
        };
        gst::info!(CAT, obj = sink, "the receiver is ready");
        if session.dual.is_err() && !self.encoder_is_single() && self.encoder.has_property("mode") {
            self.user_mode = mode_nick(&self.encoder);
            self.encoder.set_property_from_str("mode", "single");
        }
        let linked = (0..session.streams())
            .try_for_each(|index| {
                self.encoder.link_pads(
                    Some(&format!("src_{index}")),
                    &session.bin,
                    Some(&format!("sink_{index}")),
                )
            })
            .and_then(|()| {
                self.encoder.set_base_time_of(&sink);
                self.encoder.set_locked_state(false);
                self.encoder.sync_state_with_parent()
            })
            .and_then(|()| self.gate.link(&self.encoder));
        match linked {
            Ok(()) => {
                // Without it the RTP session gives no time in its reports.
                session
                    .peer
                    .webrtcbin()
                    .send_event(gst::event::Latency::new(gst::ClockTime::ZERO));
                if let Some(audio) = session.audio.as_ref().filter(|audio| audio.accepted)
                    && let Err(err) = audio.input.start(sink.upcast_ref(), &session.bin)
                {
                    gst::warning!(CAT, obj = sink, "no audio: {err}");
                }
                self.gate.set_mode(Mode::Pass);
            }
            Err(err) => {
                gst::element_error!(sink, gst::CoreError::StateChange, ["encoder: {err}"]);
                self.end_session("the encoder does not start", true);
            }
        }
    }

    fn end_session(&mut self, why: &str, tell_peer: bool) {
        let Some(session) = self.session.take() else {
            return;
        };
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        gst::info!(CAT, obj = sink, "session {} ends: {why}", session.id);
        if !matches!(
            session.phase,
            Phase::Negotiating | Phase::Connecting | Phase::Connected { .. }
        ) {
            self.gate.set_mode(Mode::Drop);
            if let Some(audio) = &session.audio {
                audio.input.gate.set_mode(Mode::Drop);
            }
        }
        if tell_peer {
            self.link.end_session(&session.id);
        }
        // First what is downstream: it lets go of the streaming threads.
        // Locked, or a state change of the pipeline might come after.
        session.bin.set_locked_state(true);
        let _ = session.bin.set_state(gst::State::Null);
        self.encoder.set_locked_state(true);
        let _ = self.encoder.set_state(gst::State::Ready);
        self.gate.unlink(&self.encoder);
        self.encoder.unlink(&session.bin);
        if let Some(audio) = &session.audio {
            audio.input.stop(&session.bin);
        }
        self.audio_rate.set_active(false);
        if let Err(err) = sink.remove(&session.bin) {
            gst::warning!(CAT, obj = sink, "{err}");
        }
        if let Some(mode) = self.user_mode.take() {
            self.encoder.set_property_from_str("mode", &mode);
        }
        self.shared.update(|s| {
            s.feedback.clear();
            s.control = false;
        });
        drop(session);
        if let Some(seqnum) = self.pending_eos.take() {
            post_eos(&sink, seqnum);
        }
        self.link.on_session_over(Instant::now());
    }

    fn on_eos(&mut self, now: Instant, eos: Eos) {
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        let audio = self.audio.lock().unwrap().clone();
        if !self.gate.has_ended() || audio.is_some_and(|audio| !audio.gate.has_ended()) {
            // The other one goes on.
            return;
        }
        match &mut self.session {
            Some(session) if eos.passed && session.phase == Phase::Running => {
                self.pending_eos = Some(eos.seqnum);
                session.on_eos(now);
            }
            _ => {
                self.end_session("end of stream", true);
                post_eos(&sink, eos.seqnum);
            }
        }
    }

    fn publish(&self) {
        let session = self.session.as_ref();
        self.shared.update(|s| {
            s.signalling = self.link.is_up();
            s.session = session.map_or("none", |session| session.phase.nick());
            s.connection = session.map_or("none", |session| {
                glib::EnumValue::from_value(&session.connection.to_value())
                    .map_or("unknown", |(_, value)| value.nick())
            });
            s.dual = session.is_some_and(|session| session.dual.is_ok());
            s.fec = session.map_or(fec::Agreed::None, |session| session.fec);
            s.reason = match session.map(|session| &session.dual) {
                None => "no receiver".into(),
                Some(Ok(())) => String::new(),
                Some(Err(why)) => why.clone(),
            };
        });
    }
}

/// What a bin does for its children when it starts them itself.
trait BaseTime {
    fn set_base_time_of(&self, parent: &DualWebRtcSink);
}

impl BaseTime for gst::Element {
    fn set_base_time_of(&self, parent: &DualWebRtcSink) {
        if let Some(base_time) = parent.base_time() {
            self.set_base_time(base_time);
        }
    }
}

fn mode_nick(encoder: &gst::Element) -> Option<String> {
    let value = encoder.property_value("mode");
    glib::EnumValue::from_value(&value).map(|(_, value)| value.nick().to_owned())
}

fn post_eos(sink: &DualWebRtcSink, seqnum: gst::Seqnum) {
    let message = gst::message::Eos::builder()
        .src(sink)
        .seqnum(seqnum)
        .build();
    // Nobody listens: nobody is told.
    let _ = sink.post_message(message);
}
