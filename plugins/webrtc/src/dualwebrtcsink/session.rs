// SPDX-License-Identifier: MPL-2.0
//! One receiver: webrtcbin and what stands between it and the encoder, in a
//! bin that is made for the session and removed with it.
//!
//! ```text
//! encoder.src_i -> [ rtph264pay -> caps -> rtptrickle -> rtcpiframefeedback -> webrtcbin ]
//! audio         -> [ rtpopuspay -> caps -> webrtcbin ]
//!         in webrtcbin: rtpfunnel -> rtprtxsend -> FEC -> rtppacer -> rtpgcc -> rtpsession
//! ```

mod agree;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_webrtc::{WebRTCPeerConnectionState, WebRTCRTPTransceiverDirection};

use super::audio::{self, AudioInput};
use super::audio_rate::AudioRate;
use super::control::{AuxSender, Control};
use super::data_channel::DataChannel;
use super::fec::{Encoders, UlpFec};
use super::kit::Kit;
use super::layout::{Layout, Line};
use super::timeline::Timeline;
use super::trace::Trace;
use crate::fec;
use crate::negotiated::Negotiated;
use crate::parameter_sets;
use crate::peer::{Peer, Post};
use crate::playout_delay::PlayoutDelay;
use crate::properties::Settings;
use crate::requirements::make;
use crate::rtp;
use crate::switches::Switches;

/// From the request to a connection.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);
/// A receiver that says nothing this long is gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// ICE may find the peer again within this time.
const DISCONNECTED_TIMEOUT: Duration = Duration::from_secs(8);
/// From connected to the first picture if no RTCP comes in.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for a peer that is not one of ours: browsers send no RTCP before
/// they receive something.
const READY_TIMEOUT_FOREIGN: Duration = Duration::from_millis(300);
/// From connected until a page has said hello, or it gets one stream.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// From end of stream until the encoder and what follows it are empty.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// For retransmissions of the last packets.
const LINGER: Duration = Duration::from_millis(300);
/// Before the end of the linger a BYE is sent at these distances.
const BYES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(50),
    Duration::ZERO,
];

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until the answer is in place.
    Negotiating,
    /// ICE and DTLS.
    Connecting,
    /// Waiting for the first RTCP packet.
    Connected {
        since: Instant,
    },
    Running,
    /// End of stream is on its way through the encoder.
    Draining {
        since: Instant,
    },
    Lingering {
        until: Instant,
        byes: usize,
    },
}

impl Phase {
    pub fn nick(self) -> &'static str {
        match self {
            Self::Negotiating => "negotiating",
            Self::Connecting => "connecting",
            Self::Connected { .. } => "connected",
            Self::Running => "running",
            Self::Draining { .. } => "draining",
            Self::Lingering { .. } => "lingering",
        }
    }
}

/// What the clock asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Begin to encode.
    Start,
    /// End of stream has left.
    SendBye,
    Finished,
    End(&'static str),
}

/// What a session is made of beside webrtcbin.
#[derive(Clone)]
pub struct Parts {
    pub fec: Option<Encoders>,
    pub control: Option<Control>,
    /// Packets leave at the pace that the estimate gives.
    pub paced: bool,
    pub switches: Switches,
    /// The rate of an encoder that would serve it beside others.
    pub likely: Option<u32>,
    pub audio: Option<(AudioInput, Arc<AudioRate>)>,
    pub timeline: Timeline,
    pub trace: Trace,
    /// Of video.
    pub streams: usize,
    /// Duration of an audio packet.
    pub frame_ms: u32,
    /// Between key frames for viewers that come, at least, if there can be many.
    pub key_interval: Option<Duration>,
    /// Of the offer that is answered, if the receiver makes one.
    pub answer: Option<Arc<Layout>>,
    /// To a page, if there may be one.
    pub channel: Option<DataChannel>,
}

/// The audio of a session.
pub struct Audio {
    pub input: AudioInput,
    pub rate: Arc<AudioRate>,
    caps: gst::Element,
    transceiver: gst_webrtc::WebRTCRTPTransceiver,
    ssrc: u32,
    line: Line,
    /// The peer takes it.
    pub accepted: bool,
}

pub struct Session {
    pub id: String,
    pub serial: u64,
    /// The receiver, as the signaller calls it.
    pub peer_id: String,
    /// The signalling server knows the session.
    pub is_known: bool,
    pub kit: Option<Kit>,
    /// Its kit is the one that the user sets up.
    pub has_first_kit: bool,
    /// Since when it shares an encoder that others had before.
    pub newcomer: Option<Instant>,
    pub switches: Switches,
    pub bin: gst::Bin,
    pub peer: Peer,
    pub aux: Option<AuxSender>,
    ulpfec: Option<UlpFec>,
    pub feedback: Vec<gst::Element>,
    pub audio: Option<Audio>,
    pub channel: Option<DataChannel>,
    playout_delay: PlayoutDelay,
    takes_playout_delay: bool,
    /// It is dual if it says hello.
    awaits_hello: bool,
    pub phase: Phase,
    pub negotiated: Negotiated,
    /// That was said in the log.
    is_told: bool,
    /// As it was sent.
    pub offer: String,
    /// The receiver's offer, if it makes one.
    pub answers: Option<String>,
    pub connection: WebRTCPeerConnectionState,
    ssrcs: Vec<u32>,
    /// Of video: what follows the payloader, and what was offered.
    lines: Vec<(gst::Element, gst_webrtc::WebRTCRTPTransceiver, Line)>,
    created: Instant,
    /// Is not one of ours.
    pub foreign: bool,
    first_rtcp: bool,
    disconnected: Option<Instant>,
    drained: usize,
}

impl Session {
    /// `drained` is called when end of stream has passed a stream's last
    /// element.
    pub fn new(
        id: String,
        serial: u64,
        settings: &Settings,
        parts: Parts,
        post: Post,
        drained: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Self, gst::ErrorMessage> {
        let peer = Peer::new(crate::peer::Role::Sender, settings, post)?;
        let (fec, control) = (parts.fec.clone(), parts.control.clone());
        let bin = gst::Bin::with_name(&format!("session-{serial}"));
        let broken = |err: gst::glib::BoolError| gst::error_msg!(gst::CoreError::Failed, ["{err}"]);
        let mut session = Self {
            id,
            serial,
            peer_id: String::new(),
            is_known: true,
            kit: None,
            has_first_kit: false,
            newcomer: None,
            bin,
            peer,
            aux: None,
            ulpfec: None,
            feedback: Vec::new(),
            audio: None,
            channel: parts.channel.clone(),
            playout_delay: PlayoutDelay::default(),
            takes_playout_delay: false,
            awaits_hello: false,
            phase: Phase::Negotiating,
            negotiated: Negotiated::default(),
            is_told: false,
            offer: String::new(),
            answers: parts.offer(),
            connection: WebRTCPeerConnectionState::New,
            ssrcs: Vec::new(),
            lines: Vec::new(),
            switches: parts.switches,
            created: Instant::now(),
            foreign: false,
            first_rtcp: false,
            disconnected: None,
            drained: 0,
        };
        session.bin.add(session.peer.webrtcbin()).map_err(broken)?;
        let (ulpfec, flexfec) = match settings.fec {
            fec::Wish::UlpFec => (fec, None),
            _ => (None, fec),
        };
        parts.trace.watch(&session.peer);
        session.ulpfec = ulpfec.map(|fec| UlpFec::new(fec, session.peer.webrtcbin()));
        session.aux = AuxSender::new(
            flexfec,
            control,
            parts.paced,
            parts.likely,
            session.peer.webrtcbin(),
        )
        .map_err(broken)?;
        for index in 0..parts.streams {
            session.add_stream(index, &parts, drained.clone())?;
        }
        if let Some((input, rate)) = parts.audio.clone() {
            session.add_audio(input, rate, &parts, drained)?;
        }
        Ok(session)
    }

    fn add_stream(
        &mut self,
        index: usize,
        parts: &Parts,
        drained: impl Fn() + Send + Sync + 'static,
    ) -> Result<(), gst::ErrorMessage> {
        let broken = |err: gst::glib::BoolError| gst::error_msg!(gst::CoreError::Failed, ["{err}"]);
        let ssrc = self.new_ssrc();
        let line = parts.video_line(index, ssrc);
        let pay = make("rtph264pay", &format!("pay-{index}"))?;
        pay.set_property_from_str("aggregate-mode", "zero-latency");
        pay.set_property("pt", line.payload_type);
        pay.set_property("ssrc", ssrc);
        let caps = make("capsfilter", &format!("caps-{index}"))?;
        caps.set_property("caps", &line.caps);
        let trickle = make("rtptrickle", &format!("trickle-{index}"))?;
        let feedback = parts
            .switches
            .frame_feedback
            .then(|| make("rtcpiframefeedback", &format!("feedback-{index}")))
            .transpose()?;
        if let Some(feedback) = &feedback {
            feedback.set_property("stream", index as u32);
        }
        let webrtcbin = self.peer.webrtcbin();
        let sink = webrtcbin
            .request_pad_simple(&format!("sink_{}", line.mline))
            .ok_or_else(|| gst::error_msg!(gst::CoreError::Pad, ["webrtcbin gives no pad"]))?;
        let transceiver: gst_webrtc::WebRTCRTPTransceiver = sink.property("transceiver");
        transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
        transceiver.set_property("do-nack", parts.switches.retransmission);
        transceiver.set_property("codec-preferences", &line.preferences);

        let fec = self
            .ulpfec
            .as_mut()
            .and_then(|ulpfec| ulpfec.add_stream(ssrc, &transceiver));
        let chain: Vec<_> = [&pay, &caps, &trickle]
            .into_iter()
            .chain(&feedback)
            .chain(&fec)
            .collect();
        self.bin.add_many(&chain).map_err(broken)?;
        gst::Element::link_many(&chain).map_err(broken)?;
        let last = fec.as_ref().or(feedback.as_ref()).unwrap_or(&trickle);
        let last = last
            .static_pad("src")
            .ok_or_else(|| gst::error_msg!(gst::CoreError::Pad, ["{last:?} has no pad src"]))?;
        last.link(&sink)
            .map_err(|err| gst::error_msg!(gst::CoreError::Negotiation, ["{err}"]))?;
        hold_back_eos(&last, drained);
        if let Some(interval) = parts.key_interval {
            super::key_requests::space(&last, interval);
        }
        if let Some((input, rate)) = &parts.audio {
            make_room(&last, self.serial, rate, (index == 0).then_some(input));
        }
        let entry = pay
            .static_pad("sink")
            .ok_or_else(|| gst::error_msg!(gst::CoreError::Pad, ["rtph264pay has no pad sink"]))?;
        rtp::follow_mtu(&pay, &entry);
        parameter_sets::add_where_missing(&pay, &entry);
        parts.trace.add_stream(&pay, ssrc);
        self.playout_delay.watch(&pay);
        if let Some(channel) = &self.channel {
            channel.watch(index, &pay);
        }
        let ghost = gst::GhostPad::builder_with_target(&entry)
            .map_err(broken)?
            .name(format!("sink_{index}"))
            .build();
        if let Some(control) = self.aux.as_ref().and_then(AuxSender::control) {
            control.watch(&ghost);
        }
        self.bin.add_pad(&ghost).map_err(broken)?;
        self.ssrcs.push(ssrc);
        self.feedback.extend(feedback);
        self.lines.push((caps, transceiver, line));
        Ok(())
    }

    fn add_audio(
        &mut self,
        input: AudioInput,
        rate: Arc<AudioRate>,
        parts: &Parts,
        drained: impl Fn() + Send + Sync + 'static,
    ) -> Result<(), gst::ErrorMessage> {
        let broken = |err: gst::glib::BoolError| gst::error_msg!(gst::CoreError::Failed, ["{err}"]);
        let pad = |element: &gst::Element, name: &str| {
            element.static_pad(name).ok_or_else(|| {
                gst::error_msg!(
                    gst::CoreError::Pad,
                    ["{} has no pad {name}", element.name()]
                )
            })
        };
        let ssrc = self.new_ssrc();
        let line = parts.audio_line(self.streams(), ssrc);
        let pay = make("rtpopuspay", "pay-audio")?;
        pay.set_property("pt", line.payload_type);
        pay.set_property("ssrc", ssrc);
        let caps = make("capsfilter", "caps-audio")?;
        caps.set_property("caps", &line.caps);
        let sink = self
            .peer
            .webrtcbin()
            .request_pad_simple(&format!("sink_{}", line.mline))
            .ok_or_else(|| gst::error_msg!(gst::CoreError::Pad, ["webrtcbin gives no pad"]))?;
        let transceiver: gst_webrtc::WebRTCRTPTransceiver = sink.property("transceiver");
        transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
        transceiver.set_property("do-nack", parts.switches.retransmission);
        transceiver.set_property("codec-preferences", &line.preferences);
        self.bin.add_many([&pay, &caps]).map_err(broken)?;
        pay.link(&caps).map_err(broken)?;
        let (entry, last) = (pad(&pay, "sink")?, pad(&caps, "src")?);
        last.link(&sink)
            .map_err(|err| gst::error_msg!(gst::CoreError::Negotiation, ["{err}"]))?;
        hold_back_eos(&last, drained);
        count_packets(&last, self.serial, &rate);
        parts.timeline.mark(&entry, &pay);
        let ghost = gst::GhostPad::builder_with_target(&entry)
            .map_err(broken)?
            .name(audio::PAD)
            .build();
        self.bin.add_pad(&ghost).map_err(broken)?;
        self.audio = Some(Audio {
            input,
            rate,
            caps,
            transceiver,
            ssrc,
            line,
            accepted: false,
        });
        Ok(())
    }

    /// Puts a queue before each stream of video, whose encoder serves others, too:
    /// they do not wait for this one. Nothing may have come in yet.
    pub fn add_queues(&self, frames: u32) -> Result<(), gst::glib::BoolError> {
        for index in 0..self.streams() {
            let ghost = self
                .bin
                .static_pad(&format!("sink_{index}"))
                .and_then(|pad| pad.downcast::<gst::GhostPad>().ok());
            let Some((ghost, entry)) = ghost.and_then(|g| Some((g.clone(), g.target()?))) else {
                continue;
            };
            let queue = gst::ElementFactory::make("queue")
                .name(format!("queue-{index}"))
                .property("max-size-buffers", frames)
                .property("max-size-bytes", 0u32)
                .property("max-size-time", 0u64)
                .property_from_str("leaky", "downstream")
                .build()?;
            self.bin.add(&queue)?;
            let pad = |name: &str| {
                queue
                    .static_pad(name)
                    .ok_or_else(|| gst::glib::bool_error!("queue has no pad {name}"))
            };
            ghost.set_target(Some(&pad("sink")?))?;
            pad("src")?
                .link(&entry)
                .map_err(|err| gst::glib::bool_error!("{err}"))?;
            queue.sync_state_with_parent()?;
        }
        Ok(())
    }

    /// Random, and no two the same.
    fn new_ssrc(&self) -> u32 {
        loop {
            let ssrc = gst::glib::random_int();
            if ssrc != 0 && !self.ssrcs.contains(&ssrc) {
                return ssrc;
            }
        }
    }

    pub fn control(&self) -> Option<&Control> {
        self.aux.as_ref().and_then(AuxSender::control)
    }

    pub fn is_paced(&self) -> bool {
        self.aux.as_ref().is_some_and(AuxSender::is_paced)
    }

    /// Among those whose rates are compared.
    pub fn control_id(&self) -> Option<u64> {
        self.control().map(Control::id)
    }

    /// It is given pictures.
    pub fn is_encoding(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Negotiating | Phase::Connecting | Phase::Connected { .. }
        )
    }

    /// Of video.
    pub fn streams(&self) -> usize {
        self.ssrcs.len()
    }

    /// What has to come to its end before the session does.
    fn tracks(&self) -> usize {
        let audio = self.audio.as_ref().is_some_and(|audio| audio.accepted);
        self.streams() + usize::from(audio)
    }

    /// True if that makes it dual.
    pub fn on_hello(&mut self) -> bool {
        self.playout_delay.set_taken(self.takes_playout_delay);
        let is_early = matches!(
            self.phase,
            Phase::Negotiating | Phase::Connecting | Phase::Connected { .. }
        );
        let is_dual = is_early && std::mem::take(&mut self.awaits_hello);
        if is_dual {
            self.negotiated.dual = Ok(());
            // The way back is open.
            self.first_rtcp = true;
        }
        is_dual
    }

    pub fn on_connection(&mut self, now: Instant, state: WebRTCPeerConnectionState) {
        self.connection = state;
        self.disconnected = match state {
            WebRTCPeerConnectionState::Disconnected | WebRTCPeerConnectionState::Failed => {
                self.disconnected.or(Some(now))
            }
            _ => None,
        };
        if state == WebRTCPeerConnectionState::Connected
            && matches!(self.phase, Phase::Negotiating | Phase::Connecting)
        {
            self.peer.activity().touch();
            self.phase = Phase::Connected { since: now };
        }
    }

    pub fn on_answered(&mut self) {
        if self.phase == Phase::Negotiating {
            self.phase = Phase::Connecting;
        }
    }

    pub fn on_first_rtcp(&mut self) {
        self.first_rtcp = true;
    }

    /// End of stream has left by one more stream.
    pub fn on_drained(&mut self, now: Instant) {
        self.drained += 1;
        if self.drained >= self.tracks() && matches!(self.phase, Phase::Draining { .. }) {
            self.linger(now);
        }
    }

    fn linger(&mut self, now: Instant) {
        self.phase = Phase::Lingering {
            until: now + LINGER,
            byes: 0,
        };
    }

    pub fn on_eos(&mut self, now: Instant) {
        self.phase = Phase::Draining { since: now };
        if self.drained >= self.tracks() {
            self.linger(now);
        }
    }

    pub fn send_bye(&self) {
        let audio = self.audio.iter().map(|audio| audio.ssrc);
        let sources: Vec<_> = self.ssrcs.iter().copied().chain(audio).collect();
        self.peer.send_bye(&sources);
    }

    fn ready_timeout(&self) -> Duration {
        if self.awaits_hello {
            HELLO_TIMEOUT
        } else if self.foreign {
            READY_TIMEOUT_FOREIGN
        } else {
            READY_TIMEOUT
        }
    }

    fn gone_at(&self) -> (Instant, &'static str) {
        let silent = (
            self.peer.activity().last() + SILENCE_TIMEOUT,
            "the receiver is silent",
        );
        match self.disconnected {
            Some(since) if since + DISCONNECTED_TIMEOUT < silent.0 => {
                (since + DISCONNECTED_TIMEOUT, "the connection is lost")
            }
            _ => silent,
        }
    }

    /// When [`Self::poll`] has something to say at the latest.
    pub fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Negotiating | Phase::Connecting => self.created + SETUP_TIMEOUT,
            Phase::Connected { since } => since + self.ready_timeout(),
            Phase::Running => self.gone_at().0,
            Phase::Draining { since } => since + DRAIN_TIMEOUT,
            Phase::Lingering { until, byes } => {
                BYES.get(byes).map_or(until, |before| until - *before)
            }
        }
    }

    pub fn poll(&mut self, now: Instant) -> Due {
        match self.phase {
            Phase::Negotiating | Phase::Connecting if now >= self.deadline() => {
                Due::End("no connection came about")
            }
            Phase::Connected { .. }
                if (self.first_rtcp && !self.awaits_hello) || now >= self.deadline() =>
            {
                self.awaits_hello = false;
                self.phase = Phase::Running;
                Due::Start
            }
            Phase::Running => {
                let (at, why) = self.gone_at();
                if now >= at {
                    Due::End(why)
                } else {
                    Due::Nothing
                }
            }
            Phase::Draining { .. } if now >= self.deadline() => {
                self.linger(now);
                Due::Nothing
            }
            Phase::Lingering { until, byes } if now >= self.deadline() => {
                if byes >= BYES.len() {
                    return Due::Finished;
                }
                self.phase = Phase::Lingering {
                    until,
                    byes: byes + 1,
                };
                Due::SendBye
            }
            _ => Due::Nothing,
        }
    }
}

/// The transport stays up for the last packets, so webrtcbin is told nothing of
/// the end.
fn hold_back_eos(last: &gst::Pad, drained: impl Fn() + Send + Sync + 'static) {
    last.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if info
            .event()
            .is_some_and(|e| e.type_() == gst::EventType::Eos)
        {
            drained();
            // Not Drop: with that GStreamer unrefs an event which the binding
            // has taken.
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    });
}

/// Takes what audio needs from the estimates that go to the video encoder by
/// this pad. `input`: is told of them.
fn make_room(last: &gst::Pad, id: u64, rate: &Arc<AudioRate>, input: Option<&AudioInput>) {
    let (rate, input) = (rate.clone(), input.map(AudioInput::downgrade));
    last.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
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
        if let Some(input) = input.as_ref().and_then(|weak| weak.upgrade()) {
            let loss = s.get::<f64>("loss").ok();
            input.set_wanted(rate.on_estimate(Instant::now(), id, target, loss));
        }
        s.set("target-bitrate", target.saturating_sub(rate.share_of(id)));
        *event = gst::event::CustomUpstream::builder(s)
            .seqnum(event.seqnum())
            .build();
        gst::PadProbeReturn::Ok
    });
}

fn count_packets(last: &gst::Pad, id: u64, rate: &Arc<AudioRate>) {
    let rate = rate.clone();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    last.add_probe(kinds, move |_, info| {
        let mut count = |buffer: &gst::BufferRef| rate.on_packet(Instant::now(), id, buffer.size());
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => count(buffer),
            Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(&mut count),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}
