// SPDX-License-Identifier: MPL-2.0
//! The worker thread: takes what the signaller and webrtcbin say in one
//! queue, and owns the session.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst_webrtc::{WebRTCSDPType, WebRTCSessionDescription};

use super::DualWebRtcSrc;
use super::buffers::{Choice, JitterBuffer};
use super::imp::CAT;
use super::session::{Due, Phase, Session};
use super::stats::Shared;
use super::trace::Trace;
use crate::negotiated::InWords;
use crate::properties::Settings;
use crate::reach::Reach;
use crate::signalling::{self, Change, Link};
use crate::{peer, sdp};

/// From the end of a session to the next request, doubled at each failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A producer that does not react to a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The same while the session that is there is stalled: the server may be out of
/// reach, too.
const STALLED_REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Without a producer, all are listed again after this time, and then at the
/// second interval.
const LIST_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// For the decoder to end the stream itself.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Command {
    Signalling(signalling::Event),
    /// From webrtcbin of the session with this serial.
    Peer(u64, peer::Event),
    /// An element of the session with this serial failed.
    Failed(u64, String),
    Stop,
}

/// Between sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanting {
    /// A session, from this time on.
    From(Instant),
    /// Asked for; until this time there must be one.
    Requested(Instant),
    /// No more: end of stream.
    Nothing,
}

pub struct Worker {
    pub src: glib::WeakRef<DualWebRtcSrc>,
    pub decoder: gst::Element,
    pub settings: Settings,
    pub buffers: Choice,
    pub eos_on_end: bool,
    pub shared: Arc<Shared>,
    pub trace: Trace,
    pub link: Link,
    pub sender: Sender<Command>,
    session: Option<Session>,
    serial: u64,
    producers: Vec<String>,
    wanting: Wanting,
    retry: Duration,
    warned: bool,
    /// The stream has ended by this time, if need be without the decoder.
    ending: Option<Instant>,
    list_again: Option<Instant>,
    listed_again: bool,
    reach: Reach,
}

/// What the worker is made of.
pub struct Setup {
    pub src: glib::WeakRef<DualWebRtcSrc>,
    pub decoder: gst::Element,
    pub settings: Settings,
    pub buffers: Choice,
    pub eos_on_end: bool,
    pub shared: Arc<Shared>,
    pub trace: Trace,
    pub link: Link,
    pub sender: Sender<Command>,
}

impl Worker {
    pub fn new(setup: Setup) -> Self {
        let Setup {
            src,
            decoder,
            settings,
            buffers,
            eos_on_end,
            shared,
            trace,
            link,
            sender,
        } = setup;
        Self {
            src,
            decoder,
            settings,
            buffers,
            eos_on_end,
            shared,
            trace,
            link,
            sender,
            session: None,
            serial: 0,
            producers: Vec::new(),
            wanting: Wanting::From(Instant::now()),
            retry: RETRY_INTERVAL,
            warned: false,
            ending: None,
            list_again: None,
            listed_again: false,
            reach: Reach::default(),
        }
    }

    pub fn run(mut self, commands: &Receiver<Command>) {
        self.link.start(Instant::now());
        loop {
            let now = Instant::now();
            let command = match self.deadline() {
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
                Some(Command::Signalling(event)) => self.on_signalling(now, event),
                Some(Command::Peer(_, peer::Event::IceServers(problems))) => {
                    if let Some(src) = self.src.upgrade() {
                        problems.iter().for_each(|problem| problem.warn(&src));
                    }
                }
                Some(Command::Peer(serial, event)) if self.is_current(serial) => {
                    self.on_peer(now, event);
                }
                Some(Command::Failed(serial, text)) if self.is_current(serial) => {
                    self.end_session(now, &text, true);
                }
                // Of a session that is gone, or the clock.
                _ => {}
            }
            self.poll(now);
            self.publish();
        }
        self.end_session(Instant::now(), "the element stops", true);
        self.link.stop();
        self.publish();
    }

    fn deadline(&self) -> Option<Instant> {
        let stalls_at = self.session.as_ref().and_then(Session::stalls_at);
        let now = Instant::now();
        let wanting = match self.wanting {
            // Until then, none is wanted.
            _ if self.session.is_some() && stalls_at.is_none_or(|at| now < at) => stalls_at,
            Wanting::From(at) if self.choose().is_some() => Some(at),
            Wanting::From(at) => self.list_again.map(|list| list.max(at)),
            Wanting::Requested(until) => Some(until),
            _ => None,
        };
        [
            self.link.deadline(),
            self.session.as_ref().map(Session::deadline),
            self.session.as_ref().and_then(Session::fec_deadline),
            self.session.as_ref().and_then(Session::clock_deadline),
            wanting,
            self.ending,
            self.reach.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_current(&self, serial: u64) -> bool {
        self.session.as_ref().is_some_and(|s| s.serial == serial)
    }

    fn is_session(&self, id: &str) -> bool {
        self.session.as_ref().is_some_and(|s| s.id == id)
    }

    /// The latest producer that is wanted: it is the one most likely there.
    fn choose(&self) -> Option<&String> {
        self.producers
            .iter()
            .rev()
            .find(|producer| self.link.wants(producer))
            .filter(|_| self.link.is_up())
    }

    fn poll(&mut self, now: Instant) {
        let comes_about = |s: &Session| matches!(s.phase, Phase::Negotiating | Phase::Connecting);
        let is_busy = self.session.as_ref().is_some_and(|s| !comes_about(s));
        self.link.set_patient(now, is_busy);
        if self.reach.poll(now) {
            if let Some(src) = self.src.upgrade() {
                gst::info!(CAT, obj = src, "another network: connecting anew");
            }
            self.cut_off(now);
            self.link.connect_again(now);
        }
        let change = self.link.poll(now);
        self.on_link(now, change);
        if self.ending.is_some_and(|until| now >= until) {
            self.ending = None;
            if let Some(src) = self.src.upgrade() {
                src.push_eos();
            }
        }
        if let Some(session) = &mut self.session {
            session.poll_fec(now);
            session.poll_clock(now);
        }
        match self.session.as_mut().map(|session| session.poll(now)) {
            Some(Due::Nothing) => {
                if self.session.as_ref().is_some_and(|s| s.is_stalled(now)) {
                    self.want(now);
                }
            }
            Some(Due::Report) => {
                if let Some(session) = &self.session {
                    session.peer.send_report();
                }
            }
            Some(Due::Finished) => self.finish(now),
            Some(Due::End(why)) => self.end_session(now, why, true),
            None => self.want(now),
        }
    }

    /// Asks for a session when it is time to.
    fn want(&mut self, now: Instant) {
        match self.wanting {
            Wanting::From(at) if now >= at => {
                let Some(producer) = self.choose().cloned() else {
                    if self.list_again.is_some_and(|at| now >= at) {
                        self.list_again = None;
                        self.listed_again = true;
                        self.producers.clear();
                        self.link.list_again(now);
                    }
                    return;
                };
                if let Some(src) = self.src.upgrade() {
                    gst::info!(CAT, obj = src, "asking producer {producer} for a session");
                }
                if self.link.request_session(&producer) {
                    let timeout = if self.session.is_some() {
                        STALLED_REQUEST_TIMEOUT
                    } else {
                        REQUEST_TIMEOUT
                    };
                    self.wanting = Wanting::Requested(now + timeout);
                }
            }
            Wanting::Requested(until) if now >= until && self.session.is_some() => {
                self.wanting = Wanting::From(now);
                self.producers.clear();
                self.link.connect_again(now);
            }
            Wanting::Requested(until) if now >= until => self.retry_later(now),
            _ => {}
        }
    }

    fn retry_later(&mut self, now: Instant) {
        if self.wanting != Wanting::Nothing {
            self.wanting = Wanting::From(now + self.retry);
            self.retry = (self.retry * 2).min(MAX_RETRY_INTERVAL);
        }
    }

    fn on_signalling(&mut self, now: Instant, event: signalling::Event) {
        use signalling::Event;
        match event {
            Event::Up => {
                self.link.on_up();
                self.reach.on_up(now, &self.link.uri());
                self.warned = false;
                let interval = if self.listed_again {
                    LIST_AGAIN.1
                } else {
                    LIST_AGAIN.0
                };
                self.list_again = Some(now + interval);
                if let Some(src) = self.src.upgrade() {
                    gst::info!(CAT, obj = src, "registered at {}", self.link.uri());
                }
            }
            Event::Error(text) => {
                let change = self.link.on_error(now, &text);
                self.on_link(now, change);
            }
            Event::ProducerAdded(id) => {
                self.producers.retain(|known| *known != id);
                if self.link.wants(&id) {
                    self.producers.push(id);
                    // A new producer need not wait for an old one's sins.
                    if matches!(self.wanting, Wanting::From(_)) {
                        self.wanting = Wanting::From(now);
                        self.retry = RETRY_INTERVAL;
                    }
                }
            }
            Event::ProducerRemoved(id) => self.producers.retain(|known| *known != id),
            Event::SessionStarted { session, peer } => self.begin_session(now, session, &peer),
            // The signaller wants an offer from us.
            Event::SessionRequested { session, .. } if self.is_session(&session) => {
                if let Some(session) = &mut self.session {
                    session.request_media();
                }
            }
            Event::SessionEnded(id) if self.is_session(&id) => self.on_session_ended(now),
            Event::Description {
                session,
                description,
            } if self.is_session(&session) => self.on_offer(now, &description),
            Event::Candidate {
                session,
                mline,
                candidate,
            } if self.is_session(&session) => {
                if let Some(session) = &self.session {
                    session.peer.add_candidate(mline, &candidate);
                }
            }
            // Of another session, or for a producer.
            _ => {}
        }
    }

    fn on_session_ended(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        // The last packets may still be in the jitter buffers: its own time
        // ends it then.
        if session.has_ended() {
            return;
        }
        let why = if session.phase == Phase::Negotiating && session.offer.is_empty() {
            "the producer refused"
        } else {
            "the producer ended it"
        };
        self.end_session(now, why, false);
    }

    fn on_link(&mut self, now: Instant, change: Change) {
        let Some(src) = self.src.upgrade() else {
            return;
        };
        match change {
            Change::Nothing => {}
            Change::Trying(text) => {
                if !std::mem::replace(&mut self.warned, true) {
                    let (what, hint) = self.link.explain(&text);
                    gst::element_warning!(
                        src,
                        gst::ResourceError::OpenRead,
                        ("{what}, trying on"),
                        ["{hint}; {text}"]
                    );
                }
                // What is connected goes on.
                let comes_about =
                    |s: &Session| matches!(s.phase, Phase::Negotiating | Phase::Connecting);
                if self.session.as_ref().is_some_and(comes_about) {
                    self.end_session(now, "the signalling failed", false);
                }
            }
            Change::Refused(text) => {
                gst::warning!(CAT, obj = src, "{text}");
                if matches!(self.wanting, Wanting::Requested(_)) && self.session.is_none() {
                    self.retry_later(now);
                }
            }
            Change::Lost(text) => {
                gst::warning!(CAT, obj = src, "signalling server lost: {text}");
                self.cut_off(now);
            }
            Change::GivenUp(text) => {
                let (what, hint) = self.link.explain(&text);
                gst::element_error!(
                    src,
                    gst::ResourceError::OpenRead,
                    ("{what}: {hint}"),
                    ["{text}; connect-timeout says how long to try"]
                );
            }
        }
    }

    /// The server forgets our session, or we cannot tell it of it any more. What
    /// is connected goes on; the rest cannot come about.
    fn cut_off(&mut self, now: Instant) {
        self.producers.clear();
        self.list_again = None;
        self.listed_again = false;
        match &mut self.session {
            Some(session) if matches!(session.phase, Phase::Negotiating | Phase::Connecting) => {
                self.end_session(now, "the signalling server is lost", false);
            }
            Some(session) => session.is_cut_off = true,
            None => {}
        }
        if self.wanting != Wanting::Nothing {
            self.wanting = Wanting::From(now);
        }
    }

    fn begin_session(&mut self, now: Instant, id: String, producer: &str) {
        let Some(src) = self.src.upgrade() else {
            return;
        };
        // What was stalled may be back.
        if self.session.as_ref().is_some_and(|s| s.is_stalled(now)) {
            self.end_session(now, "it is stalled, and there is another one", true);
        }
        if self.session.is_some() || self.wanting == Wanting::Nothing {
            gst::warning!(CAT, obj = src, "session {id} was not asked for");
            self.link.refuse(&id);
            return;
        }
        gst::info!(CAT, obj = src, "session {id} with producer {producer}");
        self.wanting = Wanting::From(now);
        self.serial += 1;
        let (serial, sender) = (self.serial, self.sender.clone());
        let session = Session::new(
            id.clone(),
            serial,
            &self.settings,
            self.buffers,
            (&src, &self.decoder),
            (&self.shared, &self.trace),
            Arc::new(move |event| {
                // Fails only when the worker is gone.
                let _ = sender.send(Command::Peer(serial, event));
            }),
        );
        let session = match session {
            Ok(session) => session,
            Err(err) => {
                self.link.refuse(&id);
                src.post_error_message(err);
                self.wanting = Wanting::Nothing;
                return;
            }
        };
        self.link.attach(&id, &id, session.peer.webrtcbin());
        let started = src
            .add(&session.bin)
            .and_then(|()| {
                if let Some(base_time) = src.base_time() {
                    self.decoder.set_base_time(base_time);
                }
                self.decoder.set_locked_state(false);
                self.decoder.sync_state_with_parent()
            })
            .and_then(|()| session.bin.sync_state_with_parent());
        let clocks = session.clocks.clone();
        self.session = Some(session);
        self.shared.update(|s| {
            s.sessions += 1;
            s.producer = producer.to_owned();
            s.clocks = Some(clocks);
        });
        if let Err(err) = started {
            gst::element_error!(src, gst::CoreError::StateChange, ["{err}"]);
            self.wanting = Wanting::Nothing;
            self.end_session(now, "the decoder or webrtcbin does not start", true);
        }
    }

    fn on_offer(&mut self, now: Instant, offer: &WebRTCSessionDescription) {
        let (Some(session), Some(src)) = (&mut self.session, self.src.upgrade()) else {
            return;
        };
        if session.asks && offer.type_() == WebRTCSDPType::Answer {
            return self.on_answer(now, offer);
        }
        if offer.type_() != WebRTCSDPType::Offer || session.asks || !session.offer.is_empty() {
            gst::warning!(CAT, obj = src, "a second description is ignored");
            return;
        }
        match peer::text(offer) {
            Ok(text) if !sdp::has_media(&text) => {
                self.end_session(now, "the producer offers neither H.264 nor Opus", true);
            }
            Ok(text) => {
                session.set_offer(text);
                session.peer.set_remote(offer);
            }
            Err(err) => self.end_session(now, &err, true),
        }
    }

    fn on_peer(&mut self, now: Instant, event: peer::Event) {
        let Some(session) = &mut self.session else {
            return;
        };
        match event {
            peer::Event::RemoteSet if session.asks => session.on_answered(),
            peer::Event::RemoteSet => session.peer.create_answer(),
            peer::Event::Created(offer) if session.asks => {
                if let Err(text) = self.send_offer(&offer) {
                    self.end_session(now, &text, true);
                }
            }
            peer::Event::Created(answer) => {
                session.on_answered();
                if let Err(text) = self.send_answer(&answer) {
                    self.end_session(now, &text, true);
                }
            }
            peer::Event::Failed(text) => self.end_session(now, &text, true),
            peer::Event::Candidate { mline, candidate } => {
                self.link.send_candidate(&session.id, mline, &candidate);
            }
            peer::Event::Connection(state) => session.on_connection(now, state),
            // Senders ask nothing; servers are no session's.
            peer::Event::FirstRtcp | peer::Event::ClockRequest(_) | peer::Event::IceServers(_) => {}
            peer::Event::Bye(sources) => {
                let is_end = session.on_bye(now, &sources);
                if let Some(src) = self.src.upgrade() {
                    gst::debug!(CAT, obj = src, "BYE of {sources:?}, the end: {is_end}");
                    if is_end {
                        gst::info!(CAT, obj = src, "the producer is at its end");
                    }
                }
            }
        }
    }

    /// Ours, to a sender that answers.
    fn send_offer(&mut self, offer: &WebRTCSessionDescription) -> Result<(), String> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let mut text = peer::text(offer)?;
        if self.settings.switches.frame_feedback {
            text = sdp::offer_frame_complete(&text);
        }
        let offer = peer::parse(WebRTCSDPType::Offer, &text)?;
        session.offer = text;
        session.peer.set_local(&offer);
        self.link.send_description(&session.id, &offer);
        Ok(())
    }

    fn on_answer(&mut self, now: Instant, answer: &WebRTCSessionDescription) {
        let (Some(session), Some(src)) = (&mut self.session, self.src.upgrade()) else {
            return;
        };
        if session.phase != Phase::Negotiating || session.offer.is_empty() {
            gst::warning!(CAT, obj = src, "a second answer is ignored");
            return;
        }
        match peer::text(answer) {
            Ok(text) => {
                session.set_answer(&text);
                tell(&src, session, self.buffers.kind);
                session.peer.set_remote(answer);
            }
            Err(err) => self.end_session(now, &err, true),
        }
    }

    fn send_answer(&mut self, answer: &WebRTCSessionDescription) -> Result<(), String> {
        let (Some(session), Some(src)) = (&mut self.session, self.src.upgrade()) else {
            return Ok(());
        };
        let text = session.complete(peer::text(answer)?);
        tell(&src, session, self.buffers.kind);
        let answer = peer::parse(WebRTCSDPType::Answer, &text)?;
        session.peer.set_local(&answer);
        self.link.send_description(&session.id, &answer);
        Ok(())
    }

    /// The producer is at its end, and its last packets are through.
    fn finish(&mut self, now: Instant) {
        if !self.eos_on_end {
            return self.end_session(now, "the producer is at its end", true);
        }
        self.wanting = Wanting::Nothing;
        let Some(session) = self.session.take() else {
            return;
        };
        let Some(src) = self.src.upgrade() else {
            return;
        };
        gst::info!(CAT, obj = src, "session {} is over", session.id);
        self.link.end_session(&session.id);
        // Its streaming threads end here, so end of stream goes by this one.
        self.remove(&src, session);
        for index in 0..2 {
            if let Some(pad) = self.decoder.static_pad(&format!("sink_{index}")) {
                pad.send_event(gst::event::Eos::new());
            }
        }
        src.push_audio_eos();
        self.ending = Some(now + END_TIMEOUT);
    }

    fn remove(&self, src: &DualWebRtcSrc, session: Session) {
        // Locked, or a state change of the pipeline might come after.
        session.peer.wait_for_answers();
        session.bin.set_locked_state(true);
        let _ = session.bin.set_state(gst::State::Null);
        session.peer.release_relays();
        session.bin.unlink(&self.decoder);
        src.leave_audio();
        if let Err(err) = src.remove(&session.bin) {
            gst::warning!(CAT, obj = src, "{err}");
        }
        self.shared.update(|s| {
            s.streams.clear();
            s.producer.clear();
            s.fec_decoder = None;
            s.clocks = None;
        });
    }

    fn end_session(&mut self, now: Instant, why: &str, tell_peer: bool) {
        let Some(session) = self.session.take() else {
            return;
        };
        let Some(src) = self.src.upgrade() else {
            return;
        };
        gst::info!(CAT, obj = src, "session {} ends: {why}", session.id);
        if tell_peer && !session.is_cut_off {
            self.link.end_session(&session.id);
        }
        if matches!(session.phase, Phase::Running | Phase::Draining { .. }) {
            self.retry = RETRY_INTERVAL;
        }
        self.remove(&src, session);
        // The next one starts from nothing.
        self.decoder.set_locked_state(true);
        let _ = self.decoder.set_state(gst::State::Ready);
        self.retry_later(now);
        self.link.on_session_over(now);
    }

    fn publish(&self) {
        let session = self.session.as_ref();
        self.shared.update(|s| {
            s.signalling = self.link.is_up();
            s.session = session.map_or("none", |session| session.phase.nick());
            s.negotiated = session.map(|session| session.negotiated.lock().unwrap().clone());
            s.fec_decoder = session
                .filter(|session| session.has_flexfec())
                .and_then(|session| session.fec_decoder.clone());
            s.connection = session.map_or("none", |session| {
                glib::EnumValue::from_value(&session.connection.to_value())
                    .map_or("unknown", |(_, value)| value.nick())
            });
        });
    }
}

/// What was negotiated, once for a session.
fn tell(src: &DualWebRtcSrc, session: &Session, buffers: JitterBuffer) {
    let adaptive = ("adaptive jitter buffer", buffers == JitterBuffer::Adaptive);
    let negotiated = session.negotiated.lock().unwrap().clone();
    gst::info!(
        CAT,
        obj = src,
        "negotiated in session {}: {}",
        session.id,
        InWords(&negotiated, &[adaptive])
    );
}
