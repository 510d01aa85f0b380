// SPDX-License-Identifier: MPL-2.0
//! The worker thread: takes what the signaller, webrtcbin and the gate say in
//! one queue, and owns the session. So nothing that blocks is called from
//! their threads, and no state needs a lock.

mod negotiation;
mod parting;

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst_webrtc::WebRTCSessionDescription;

use super::DualWebRtcSink;
use super::audio::{self, AudioInput};
use super::audio_rate::AudioRate;
use super::branch::{Branch, is_single};
use super::data_channel::DataChannel;
use super::gate::{Eos, GateElement, Mode};
use super::imp::CAT;
use super::key_requests;
use super::kit::Kit;
use super::layout::Layout;
use super::rates::Rates;
use super::session::{Due, Parts, Phase, Session};
use super::slow::{self, Search};
use super::stats::{Receiver, Shared};
use super::timeline::Timeline;
use crate::negotiated::Feedback;
use crate::peer;
use crate::properties::Settings;
use crate::reach::Reach;
use crate::signalling::{self, Change, Link};

/// Who says nothing for so long makes room for another receiver if there is none.
const SILENT: Duration = Duration::from_secs(2);
/// ... and does not count among those who share its encoder after this time.
/// Feedback comes each 30 ms.
const QUIET: Duration = Duration::from_millis(600);
#[derive(Debug)]
pub enum Command {
    Signalling(signalling::Event),
    /// From webrtcbin of the session with this serial.
    Peer(u64, peer::Event),
    /// An element of the session with this serial failed.
    Failed(u64, String),
    /// The encoder with this serial failed, beyond repair.
    EncoderFailed(u64, String),
    /// End of stream has passed one stream of this session.
    Drained(u64),
    /// A page said hello in this session.
    Hello(u64),
    Eos(Eos),
    Stop,
}

/// Who shares an encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcSinkEncoderSharing")]
pub enum EncoderSharing {
    #[default]
    #[enum_value(
        name = "Receivers that take both streams, as long as the network of each bears what that of the others does",
        nick = "auto"
    )]
    Auto,
    #[enum_value(name = "Nobody: an encoder for each receiver", nick = "none")]
    None,
}

pub struct Worker {
    pub sink: glib::WeakRef<DualWebRtcSink>,
    /// Gives the pictures to the encoders.
    pub tee: gst::Element,
    pub branches: Vec<Branch>,
    pub rates: Rates,
    /// The one that the user sets up.
    pub kit: Kit,
    pub has_control: bool,
    pub paced: bool,
    pub has_fec: bool,
    pub sharing: EncoderSharing,
    pub max_receivers: usize,
    pub gate: GateElement,
    /// The audio pad, while there is one.
    pub audio: Arc<Mutex<Option<AudioInput>>>,
    pub audio_rate: Arc<AudioRate>,
    pub audio_settings: audio::Settings,
    pub timeline: Timeline,
    pub settings: Settings,
    /// Receivers may be pages.
    pub data_channel: bool,
    pub shared: Arc<Shared>,
    pub link: Link,
    pub sender: Sender<Command>,
    pub sessions: Vec<Session>,
    pub serial: u64,
    pub pending_eos: Option<gst::Seqnum>,
    /// End of stream of one input has gone to a receiver.
    pub eos_passed: bool,
    /// The user was told that the server is not there.
    pub warned: bool,
    /// Receivers that are not to share an encoder.
    pub slow: VecDeque<String>,
    /// When it is looked for such next.
    pub slow_look: Option<Instant>,
    pub slow_search: Search,
    pub reach: Reach,
}

impl Worker {
    pub fn run(mut self, commands: &mpsc::Receiver<Command>) {
        self.link.start(Instant::now());
        loop {
            let now = Instant::now();
            let sessions = self.sessions.iter().map(Session::deadline);
            let deadline = [self.link.deadline(), self.slow_look, self.reach.deadline()]
                .into_iter()
                .flatten()
                .chain(sessions)
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
        self.end_all("the element stops", true);
        self.link.stop();
        self.publish();
    }

    fn handle(&mut self, now: Instant, command: Command) {
        match command {
            Command::Signalling(event) => self.on_signalling(now, event),
            Command::Peer(_, peer::Event::IceServers(problems)) => {
                if let Some(sink) = self.sink.upgrade() {
                    problems.iter().for_each(|problem| problem.warn(&sink));
                }
            }
            Command::Peer(serial, event) => self.on_peer(now, serial, event),
            Command::Failed(serial, text) => self.end_session(serial, &text, true),
            Command::EncoderFailed(serial, text) => {
                let served = |branch: &&Branch| branch.serial == serial;
                let Some(branch) = self.branches.iter().find(served) else {
                    return;
                };
                let sessions = self.sessions.iter().map(|session| session.serial);
                let ended: Vec<_> = sessions.filter(|id| branch.serves(*id)).collect();
                for session in ended {
                    self.end_session(session, &text, true);
                }
            }
            Command::Drained(serial) => {
                if let Some(session) = self.session(serial) {
                    session.on_drained(now);
                }
            }
            Command::Hello(serial) => self.on_hello(serial),
            Command::Eos(eos) => self.on_eos(now, eos),
            // Ends the loop.
            Command::Stop => {}
        }
    }

    fn on_hello(&mut self, serial: u64) {
        let is_dual = self.session(serial).is_some_and(Session::on_hello);
        if let Some(sink) = self.sink.upgrade().filter(|_| is_dual) {
            gst::info!(
                CAT,
                obj = sink,
                "the receiver is a page and takes dual stream"
            );
        }
    }

    fn session(&mut self, serial: u64) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|s| s.serial == serial)
    }

    /// The serial of the session that the signaller calls so.
    fn serial_of(&self, id: &str) -> Option<u64> {
        self.sessions.iter().find(|s| s.id == id).map(|s| s.serial)
    }

    fn poll(&mut self, now: Instant) {
        let is_busy = self.sessions.iter().any(Session::is_encoding);
        self.link.set_patient(now, is_busy);
        if self.reach.poll(now) {
            if let Some(sink) = self.sink.upgrade() {
                gst::info!(CAT, obj = sink, "another network: connecting anew");
            }
            self.on_lost();
            self.link.connect_again(now);
        }
        let change = self.link.poll(now);
        self.on_link(change);
        let serials: Vec<u64> = self.sessions.iter().map(|s| s.serial).collect();
        for serial in serials {
            let Some(session) = self.session(serial) else {
                continue;
            };
            match session.poll(now) {
                Due::Nothing => {}
                Due::Start => self.start_encoding(now, serial),
                Due::SendBye => session.send_bye(),
                Due::Finished => self.end_session(serial, "end of stream", true),
                Due::End(why) => self.end_session(serial, why, true),
            }
        }
        if self.slow_look.is_some_and(|at| now >= at) {
            self.look_for_slow(now);
        }
    }

    fn on_signalling(&mut self, now: Instant, event: signalling::Event) {
        use signalling::Event;
        match event {
            Event::Up => {
                self.link.on_up();
                self.reach.on_up(now, &self.link.uri());
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
            } => self.on_request(session, peer, offer.as_ref()),
            Event::SessionEnded(id) => {
                if let Some(serial) = self.serial_of(&id) {
                    self.end_session(serial, "the receiver ended it", false);
                }
            }
            Event::Description {
                session,
                description,
            } => {
                if let Some(serial) = self.serial_of(&session) {
                    self.on_answer(serial, &description);
                }
            }
            Event::Candidate {
                session,
                mline,
                candidate,
            } => {
                if let Some(session) = self.sessions.iter().find(|s| s.id == session) {
                    session.peer.add_candidate(mline, &candidate);
                }
            }
            // For a consumer.
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
                self.on_lost();
            }
            Change::Refused(text) => gst::warning!(CAT, obj = sink, "{text}"),
            Change::Lost(text) => {
                gst::warning!(CAT, obj = sink, "signalling server lost: {text}");
                self.on_lost();
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

    /// What is connected goes on without the server; the rest cannot come about.
    fn on_lost(&mut self) {
        let mut ended = Vec::new();
        for session in &mut self.sessions {
            session.is_known = false;
            if matches!(session.phase, Phase::Negotiating | Phase::Connecting) {
                ended.push(session.serial);
            }
        }
        for serial in ended {
            self.end_session(serial, "the signalling server is lost", false);
        }
    }

    fn on_request(&mut self, id: String, peer: String, offer: Option<&WebRTCSessionDescription>) {
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        if self.sessions.len() >= self.max_receivers {
            self.end_silent(Instant::now());
        }
        let refusal = if self.sessions.len() >= self.max_receivers {
            Some("there are as many receivers as max-receivers allows".to_owned())
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

    /// Makes room: who says nothing may well be the one that asks anew.
    fn end_silent(&mut self, now: Instant) {
        let silent = self
            .sessions
            .iter()
            .filter(|s| s.phase == Phase::Running && now >= s.peer.activity().last() + SILENT)
            .min_by_key(|s| s.peer.activity().last());
        if let Some(serial) = silent.map(|s| s.serial) {
            self.end_session(serial, "another receiver needs its place", true);
        }
    }

    fn begin_session(
        &mut self,
        sink: &DualWebRtcSink,
        id: String,
        peer: String,
        layout: Option<Layout>,
    ) -> Result<(), gst::ErrorMessage> {
        let serial = self.serial;
        let is_free = !self.sessions.iter().any(|s| s.has_first_kit);
        let kit = if is_free {
            self.kit.clone()
        } else {
            self.kit.like(serial, &self.rates)?
        };
        let mut parts = self.parts(&kit, &peer, serial);
        let offer = layout.map(|layout| layout.apply(&mut parts));
        let (sender, drained) = (self.sender.clone(), self.sender.clone());
        let mut session = Session::new(
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
        session.peer_id = peer;
        session.has_first_kit = is_free;
        session.kit = Some(kit);
        let broken = |what: &str| gst::error_msg!(gst::CoreError::StateChange, ["{what}"]);
        sink.add(&session.bin)
            .map_err(|err| broken(&err.to_string()))?;
        self.link
            .attach(&session.id, &session.peer_id, session.peer.webrtcbin());
        let started = session.bin.sync_state_with_parent();
        if let Some(channel) = session.channel.as_ref().filter(|_| started.is_ok())
            && offer.is_none()
            && let Err(err) = channel.open(session.peer.webrtcbin())
        {
            gst::warning!(CAT, obj = sink, "{err}");
        }
        match &offer {
            Some(offer) => session.peer.set_remote(offer),
            None => session.peer.create_offer(),
        }
        self.shared.update(|s| s.sessions += 1);
        self.sessions.push(session);
        if started.is_err() {
            self.end_session(serial, "webrtcbin does not start", true);
            return Err(broken("webrtcbin does not start"));
        }
        Ok(())
    }

    fn first_encoder(&self) -> Option<&gst::Element> {
        self.branches.first().map(|branch| &branch.encoder)
    }

    /// The running branch that a receiver would share.
    fn shareable(&self, peer: &str) -> Option<usize> {
        if self.sharing == EncoderSharing::None || self.slow.iter().any(|slow| slow == peer) {
            return None;
        }
        // Nobody is to wait for one that may be dead.
        let now = Instant::now();
        let is_quiet = |session: &Session| {
            session.is_encoding() && now >= session.peer.activity().last() + QUIET
        };
        let mut branches = self.branches.iter();
        branches.position(|branch| {
            let mut served = self.sessions.iter().filter(|s| branch.serves(s.serial));
            branch.is_shared && !branch.is_idle() && !served.any(is_quiet)
        })
    }

    fn parts(&self, kit: &Kit, peer: &str, serial: u64) -> Parts {
        let audio = self.audio.lock().unwrap().clone();
        if let Some(input) = audio.as_ref() {
            if self.audio_rate.is_idle() {
                let kind = input.encoder.property_value("audio-type");
                let kind = glib::EnumValue::from_value(&kind).map(|(_, v)| v.nick().to_owned());
                // Another is the user's, and stays.
                let is_ours = self
                    .audio_rate
                    .has_kind(kind.as_deref().unwrap_or_default());
                self.audio_rate.configure(self.audio_settings, is_ours);
            }
            self.audio_rate.set_active(serial, true);
        }
        let shared = self.shareable(peer).and_then(|at| self.branches.get(at));
        Parts {
            fec: self.has_fec.then(|| kit.fec.clone()),
            control: self.has_control.then(|| kit.control.clone()),
            paced: self.paced,
            switches: self.settings.switches,
            likely: shared.map(|branch| self.rates.configured(&branch.encoder)),
            audio: audio.map(|input| (input, self.audio_rate.clone())),
            timeline: self.timeline.clone(),
            trace: kit.trace.clone(),
            // An SFU would show a second one to viewers, always black.
            streams: match self.first_encoder() {
                _ if self.link.sfu().is_some() || !self.settings.switches.dual_stream => 1,
                Some(encoder) if is_single(encoder) && !self.is_ours_single() => 1,
                _ => 2,
            },
            key_interval: self.link.sfu().map(|_| key_requests::INTERVAL),
            frame_ms: self.audio_settings.frame.ms(),
            answer: None,
            channel: self.channel(serial),
        }
    }

    /// Of the session that is being made.
    fn channel(&self, serial: u64) -> Option<DataChannel> {
        let sender = self.sender.clone();
        self.data_channel.then(|| {
            DataChannel::new(move || {
                // Fails only when the worker is gone.
                let _ = sender.send(Command::Hello(serial));
            })
        })
    }

    /// The first encoder's mode is single for its receiver only.
    fn is_ours_single(&self) -> bool {
        self.branches.first().is_some_and(Branch::is_made_single)
    }

    fn on_peer(&mut self, now: Instant, serial: u64, event: peer::Event) {
        let Some(session) = self.sessions.iter_mut().find(|s| s.serial == serial) else {
            // It is gone.
            return;
        };
        match event {
            peer::Event::Created(description) => {
                let sent = if session.answers.is_some() {
                    self.send_answer(serial, &description)
                } else {
                    self.send_offer(serial, &description)
                };
                if let Err(text) = sent {
                    self.end_session(serial, &text, true);
                }
            }
            peer::Event::RemoteSet if session.answers.is_some() => session.peer.create_answer(),
            peer::Event::RemoteSet => session.on_answered(),
            peer::Event::Failed(text) => self.end_session(serial, &text, true),
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
            // The receiver has no sources of its own; servers are no session's.
            peer::Event::Bye(_) | peer::Event::IceServers(_) => {}
        }
    }

    /// An encoder that serves others, one that is free, or a new one.
    fn find_encoder(
        &mut self,
        sink: &DualWebRtcSink,
        serial: u64,
    ) -> Result<(), gst::ErrorMessage> {
        let Some(session) = self.sessions.iter().find(|s| s.serial == serial) else {
            return Ok(());
        };
        let is_dual = session.negotiated.dual.is_ok();
        let shared = is_dual.then(|| self.shareable(&session.peer_id)).flatten();
        let beside_others = shared.is_some();
        let free = || self.branches.iter().position(Branch::is_idle);
        let at = match shared.or_else(free) {
            Some(at) => at,
            None => {
                let Some(first) = self.first_encoder() else {
                    return Ok(());
                };
                let branch = Branch::another(serial, first, sink, &self.rates, &self.shared)?;
                self.branches.push(branch);
                self.branches.len() - 1
            }
        };
        let is_slow = self.slow.iter().any(|slow| *slow == session.peer_id);
        let branch = &mut self.branches[at];
        if branch.is_idle() {
            branch.is_shared = is_dual && !is_slow && self.sharing == EncoderSharing::Auto;
        }
        branch.reserve(serial);
        let share = match &session.audio {
            Some(audio) if audio.accepted => self.audio_rate.share_of(serial),
            _ => 0,
        };
        if let Some(control) = session.control() {
            control.set_audio(share);
            let share = u32::try_from(share).unwrap_or(u32::MAX);
            let feedback = session.negotiated.feedback != Feedback::None;
            control.serve(&branch.encoder, share, beside_others, feedback);
        }
        Ok(())
    }

    /// The receiver is ready: pictures go to the encoder from here on.
    fn start_encoding(&mut self, now: Instant, serial: u64) {
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        if let Some(session) = self.session(serial)
            && let Some(words) = session.tell()
        {
            gst::info!(
                CAT,
                obj = sink,
                "negotiated in session {}: {words}",
                session.id
            );
        }
        if let Err(err) = self.find_encoder(&sink, serial) {
            gst::warning!(CAT, obj = sink, "{err:?}");
            return self.end_session(serial, "there is no encoder for it", true);
        }
        let Some(session) = self.sessions.iter_mut().find(|s| s.serial == serial) else {
            return;
        };
        let Some(branch) = self.branches.iter_mut().find(|b| b.serves(serial)) else {
            return;
        };
        if branch.count() > 1 {
            session.newcomer = Some(now);
            self.slow_look.get_or_insert(now + slow::INTERVAL);
        }
        if let Err(err) = branch.link(&sink, &self.tee, session) {
            gst::element_error!(sink, gst::CoreError::StateChange, ["encoder: {err}"]);
            return self.end_session(serial, "the encoder does not start", true);
        }
        // Without it the RTP session gives no time in its reports.
        session
            .peer
            .webrtcbin()
            .send_event(gst::event::Latency::new(gst::ClockTime::ZERO));
        if let Some(audio) = session.audio.as_ref().filter(|audio| audio.accepted)
            && let Err(err) = audio.input.start(sink.upcast_ref(), serial, &session.bin)
        {
            gst::warning!(CAT, obj = sink, "no audio: {err}");
        }
        if let Some(audio) = session.audio.as_ref().filter(|audio| !audio.accepted) {
            audio.input.pass_by();
        }
        self.gate.set_mode(Mode::Pass);
    }

    fn end_all(&mut self, why: &str, tell_peer: bool) {
        while let Some(session) = self.sessions.first() {
            self.end_session(session.serial, why, tell_peer);
        }
    }

    fn end_session(&mut self, serial: u64, why: &str, tell_peer: bool) {
        let Some(at) = self.sessions.iter().position(|s| s.serial == serial) else {
            return;
        };
        let session = self.sessions.remove(at);
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        gst::info!(CAT, obj = sink, "session {} ends: {why}", session.id);
        if !self.sessions.iter().any(Session::is_encoding) && session.is_encoding() {
            self.gate.set_mode(Mode::Drop);
            if let Some(audio) = &session.audio {
                audio.input.gate.set_mode(Mode::Drop);
            }
        }
        if tell_peer && session.is_known {
            self.link.end_session(&session.id);
        }
        if let Some(channel) = &session.channel {
            channel.end();
        }
        if let Some(audio) = &session.audio {
            audio.input.leave(serial);
        }
        let branch = self.branches.iter().position(|b| b.serves(serial));
        let was_last = branch.map(|at| self.branches[at].leave(&self.tee, serial));
        // First what is downstream: it lets go of the streaming threads.
        // Locked, or a state change of the pipeline might come after.
        session.peer.wait_for_answers();
        session.bin.set_locked_state(true);
        let _ = session.bin.set_state(gst::State::Null);
        session.peer.release_relays();
        if let Some(at) = branch {
            if was_last == Some(true) {
                self.branches[at].stop(&sink, &session);
            }
            if at > 0 && self.branches[at].is_idle() {
                self.branches.remove(at).dispose(&sink, &self.rates);
            }
        }
        self.audio_rate.set_active(serial, false);
        if let Some(audio) = &session.audio {
            audio.input.stop();
        }
        if let Err(err) = sink.remove(&session.bin) {
            gst::warning!(CAT, obj = sink, "{err}");
        }
        drop(session);
        if self.sessions.is_empty()
            && let Some(seqnum) = self.pending_eos.take()
        {
            post_eos(&sink, seqnum);
        }
        self.link.on_session_over(Instant::now());
    }

    fn on_eos(&mut self, now: Instant, eos: Eos) {
        let Some(sink) = self.sink.upgrade() else {
            return;
        };
        self.eos_passed |= eos.passed;
        let audio = self.audio.lock().unwrap().clone();
        if !self.gate.has_ended() || audio.is_some_and(|audio| !audio.gate.has_ended()) {
            // The other one goes on.
            return;
        }
        // One of both may have been dropped: nobody took it.
        let passed = std::mem::take(&mut self.eos_passed);
        self.pending_eos = Some(eos.seqnum);
        let mut ended = Vec::new();
        for session in &mut self.sessions {
            if passed && session.phase == Phase::Running {
                session.on_eos(now);
            } else {
                ended.push(session.serial);
            }
        }
        for serial in ended {
            self.end_session(serial, "end of stream", true);
        }
        if self.sessions.is_empty() && self.pending_eos.take().is_some() {
            post_eos(&sink, eos.seqnum);
        }
    }

    fn publish(&self) {
        let receivers = self.sessions.iter().map(|session| {
            let branch = self.branches.iter().find(|b| b.serves(session.serial));
            Receiver::new(session, branch.map(|branch| &branch.encoder))
        });
        let receivers = receivers.collect();
        self.shared.update(|s| {
            s.signalling = self.link.is_up();
            s.receivers = receivers;
        });
    }
}

fn post_eos(sink: &DualWebRtcSink, seqnum: gst::Seqnum) {
    let message = gst::message::Eos::builder()
        .src(sink)
        .seqnum(seqnum)
        .build();
    // Nobody listens: nobody is told.
    let _ = sink.post_message(message);
}
