// SPDX-License-Identifier: MPL-2.0
//! One producer: webrtcbin and what stands between it and the decoder, in a
//! bin that is made for the session and removed with it.
//!
//! ```text
//! [ webrtcbin -> rtcpiframefeedback -> rtph264depay ] -> decoder.sink_i
//! [ webrtcbin -> rtpopusdepay -> opusdec ] -> audio
//!   in webrtcbin: rtpsession -> rtprtxreceive -> rtpreddec -> [ rtpremb ] -> rtpflexfecdec -> rtpssrcdemux
//! ```

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst_webrtc::{
    WebRTCFECType, WebRTCPeerConnectionState, WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection,
};

use super::DualWebRtcSrc;
use super::buffers::{Buffers, Choice, JitterBuffer};
use super::clocks::Clocks;
use super::imp::CAT;
use super::stats::Shared;
use super::streams::{Streams, discard, watch_arrivals};
use super::trace::Trace;
use crate::fec::{self, Agreed};
use crate::negotiated::Negotiated;
use crate::peer::{Peer, Post};
use crate::properties::Settings;
use crate::requirements::make;
use crate::switches::Switches;
use crate::{rtp, sdp, send_time};

/// From the request to a connection.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);
/// A producer that sends nothing this long is gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// ICE may find the peer again within this time.
const DISCONNECTED_TIMEOUT: Duration = Duration::from_secs(8);
/// A sender that answered all questions for its time, each second, and says
/// nothing now: another session is tried beside.
const STALL: Duration = Duration::from_millis(2500);
/// The same where something is known to have happened.
const STALL_CUT_OFF: Duration = Duration::from_millis(700);
/// From connected on a report is sent this often until packets come in.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);
/// So often at most: a producer that has no picture yet is silent.
const MAX_REPORTS: u32 = 40;
/// FEC packets that came since this long say that there is FEC.
const FEC_INTERVAL: Duration = Duration::from_millis(500);
/// Between exchanges of time with the sender.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// What the jitter buffers hold when the producer says BYE gets this much
/// more time than their latency.
const DRAIN_MARGIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until the offer is answered.
    Negotiating,
    Connecting,
    /// Connected, no packet yet.
    Connected {
        report_at: Instant,
        reports: u32,
    },
    Running,
    /// The producer said BYE.
    Draining {
        until: Instant,
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
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    Report,
    /// The stream is at its end.
    Finished,
    End(&'static str),
}

/// What came in.
#[derive(Debug, Default)]
pub struct Media {
    pub any: AtomicBool,
    /// SSRC of the last packet of video.
    pub last_source: AtomicU32,
}

/// What the offer says of its media, once it is there.
pub type Offered = Arc<Mutex<Vec<sdp::Media>>>;

pub struct Session {
    pub id: String,
    pub serial: u64,
    /// The signalling server does not know it any more, or the network is another
    /// one.
    pub is_cut_off: bool,
    pub bin: gst::Bin,
    pub peer: Peer,
    pub phase: Phase,
    pub connection: WebRTCPeerConnectionState,
    /// The offer as text.
    pub offer: String,
    /// We make the offer.
    pub asks: bool,
    /// In webrtcbin, if FEC is wanted.
    pub fec_decoder: Option<gst::Element>,
    /// Empty before the answer is known.
    pub negotiated: Arc<Mutex<Negotiated>>,
    /// When FEC packets are looked for next, and how many there were.
    fec_look: Option<(Instant, u64)>,
    offered: Offered,
    pub clocks: Clocks,
    trace: Trace,
    /// When the sender is next asked for its time.
    ask_clock: Instant,
    created: Instant,
    choice: Choice,
    switches: Switches,
    latency: Duration,
    buffers: Buffers,
    disconnected: Option<Instant>,
    media: Arc<Media>,
}

impl Session {
    pub fn new(
        id: String,
        serial: u64,
        settings: &Settings,
        choice: Choice,
        (src, decoder): (&DualWebRtcSrc, &gst::Element),
        (shared, trace): (&Arc<Shared>, &Trace),
        post: Post,
    ) -> Result<Self, gst::ErrorMessage> {
        let peer = Peer::new(crate::peer::Role::Receiver, settings, post)?;
        peer.webrtcbin().set_property("latency", choice.latency);
        let buffers = Buffers::default();
        // No two elements of the process have the same name and address.
        let group = format!("{}-{:p}-{serial}", decoder.path_string(), decoder.as_ptr());
        let offered = Offered::default();
        let sections = offered.clone();
        let in_group = move |ssrc: u32| {
            let sections = sections.lock().unwrap();
            sections.iter().any(|m| m.video && m.ssrcs.contains(&ssrc))
        };
        trace.restart();
        let (arrivals, sections) = (watch_arrivals(trace, &offered), offered.clone());
        let negotiated = Arc::<Mutex<Negotiated>>::default();
        let agreed = negotiated.clone();
        let made = move |ssrc: u32, buffer: &gst::Element| {
            // webrtcbin gives all buffers of a bundle what the last section has, and
            // the sound of browsers is not asked for again.
            let asks = sdp::asks_again(&sections.lock().unwrap(), ssrc);
            if let Some(asks) = asks {
                buffer.set_property("do-retransmission", asks);
            }
            if choice.kind == JitterBuffer::Adaptive && !agreed.lock().unwrap().repairs() {
                // What is missing does not come any more. The delay is waited for
                // all the same, for what was overtaken.
                buffer.set_property("latency", 0u32);
            }
            arrivals(ssrc, buffer);
        };
        buffers.serve(peer.webrtcbin(), choice, group, in_group, made);
        let clocks = Clocks::default();
        let (reports, exchange) = (clocks.clone(), trace.clone());
        peer.watch_rtcp(move |packet| {
            exchange.on_rtcp(packet);
            for report in rtp::sender_reports(packet) {
                reports.on_report(&report);
            }
        });
        let bin = gst::Bin::with_name(&format!("session-{serial}"));
        bin.add(peer.webrtcbin())
            .map_err(|err| gst::error_msg!(gst::CoreError::Failed, ["{err}"]))?;
        let mut session = Self {
            id,
            serial,
            is_cut_off: false,
            bin,
            peer,
            phase: Phase::Negotiating,
            connection: WebRTCPeerConnectionState::New,
            offer: String::new(),
            asks: false,
            fec_decoder: None,
            negotiated,
            fec_look: None,
            offered,
            clocks,
            trace: trace.clone(),
            ask_clock: Instant::now(),
            created: Instant::now(),
            choice,
            switches: settings.switches,
            latency: Duration::from_millis(choice.latency.into()),
            buffers,
            disconnected: None,
            media: Arc::default(),
        };
        if settings.fec.wants_flexfec() {
            session.fec_decoder = Some(make("rtpflexfecdec", "fec-decoder")?);
        }
        session.splice();
        session.prefer(settings.fec);
        session.take_streams(src, decoder, shared);
        Ok(session)
    }

    /// Puts what looks at packets into webrtcbin, where all of its session pass
    /// with retransmissions restored: behind rtpreddec, which webrtcbin makes
    /// when it has its transport. That is the estimator for senders that only
    /// understand REMB, and the FEC decoder, idle until it has a payload type.
    fn splice(&self) {
        let Some(webrtcbin) = self.peer.webrtcbin().downcast_ref::<gst::Bin>() else {
            return;
        };
        let (offered, fec) = (
            self.offered.clone(),
            self.fec_decoder.as_ref().map(|d| d.downgrade()),
        );
        // With all in one bundle there is one session.
        let done = AtomicBool::new(false);
        webrtcbin.connect_deep_element_added(move |_, bin, reddec| {
            if reddec.factory().is_none_or(|f| f.name() != "rtpreddec")
                || done.swap(true, Ordering::Relaxed)
            {
                return;
            }
            let mut chain = Vec::new();
            if offered.lock().unwrap().iter().any(sdp::Media::wants_remb) {
                match make("rtpremb", "estimator") {
                    Ok(estimator) => chain.push(estimator),
                    Err(err) => gst::warning!(CAT, obj = bin, "no REMB: {err}"),
                }
            }
            chain.extend(fec.as_ref().and_then(|fec| fec.upgrade()));
            let mut last = reddec.clone();
            for element in chain {
                if let Err(err) = splice_behind(bin, &last, &element) {
                    gst::warning!(CAT, obj = bin, "no {}: {err}", element.name());
                    return;
                }
                last = element;
            }
        });
    }

    /// Each transceiver answers H.264 with the extensions that were offered.
    fn prefer(&self, wish: fec::Wish) {
        let (offered, choice) = (self.offered.clone(), self.choice);
        self.peer
            .webrtcbin()
            .connect("on-new-transceiver", false, move |values| {
                let transceiver: WebRTCRTPTransceiver = values[1].get().ok()?;
                let mline = usize::try_from(transceiver.mlineindex()).ok()?;
                let media = offered.lock().unwrap().get(mline).cloned()?;
                if media.video && !media.h264.is_empty() {
                    transceiver.set_property("do-nack", media.nack);
                    if media.ulpfec && wish.takes_ulpfec() {
                        transceiver.set_property("fec-type", WebRTCFECType::UlpRed);
                    }
                    let mut caps = rtp::answer_caps(&media.extensions);
                    if !media.nack {
                        caps = rtp::without_feedback(caps, "nack");
                    }
                    if !choice.feedback {
                        caps = rtp::without_feedback(caps, "transport-cc");
                    }
                    transceiver.set_property("codec-preferences", caps);
                } else if media.audio && !media.opus.is_empty() {
                    transceiver.set_property("do-nack", media.nack);
                    let mut caps = rtp::audio_answer_caps(&media.extensions, media.nack);
                    if !choice.feedback {
                        caps = rtp::without_feedback(caps, "transport-cc");
                    }
                    transceiver.set_property("codec-preferences", caps);
                }
                None
            });
    }

    /// Links what comes out of webrtcbin, in its own thread: data follows
    /// at once.
    fn take_streams(&self, src: &DualWebRtcSrc, decoder: &gst::Element, shared: &Arc<Shared>) {
        let streams = Streams {
            bin: self.bin.downgrade(),
            src: src.downgrade(),
            decoder: decoder.downgrade(),
            clocks: self.clocks.clone(),
            trace: self.trace.clone(),
            offered: self.offered.clone(),
            shared: shared.clone(),
            activity: self.peer.activity().clone(),
            media: self.media.clone(),
            buffers: self.buffers.clone(),
            negotiated: self.negotiated.clone(),
        };
        self.peer.webrtcbin().connect_pad_added(move |_, pad| {
            if pad.direction() == gst::PadDirection::Src
                && let Err(why) = streams.take(pad)
                && let Some(bin) = streams.bin.upgrade()
            {
                gst::warning!(CAT, obj = bin, "{} is not used: {why}", pad.name());
                let _ = discard(&bin, pad);
            }
        });
    }

    pub fn set_offer(&mut self, text: String) {
        let mut offered = sdp::media(&text);
        // One kind is enough, and FlexFEC is the better one.
        if self.fec_decoder.is_none() || fec::flexfec(&text).iter().all(Option::is_none) {
            for (media, ulpfec) in offered.iter_mut().zip(fec::has_ulpfec(&text)) {
                media.ulpfec = ulpfec;
            }
        }
        for media in &mut offered {
            if !self.choice.feedback {
                media.refuse_feedback();
            }
            // Else it is of no use, and 4 bytes in each packet.
            if !media.wants_remb() {
                media.extensions.retain(|(_, uri)| *uri != send_time::URI);
            }
            self.restrict(media);
        }
        *self.offered.lock().unwrap() = offered;
        self.offer = text;
    }

    /// What is switched off is not taken.
    fn restrict(&self, media: &mut sdp::Media) {
        let without = |media: &mut sdp::Media, unwanted: &str| {
            media.extensions.retain(|(_, uri)| *uri != unwanted);
        };
        media.nack &= self.switches.retransmission;
        if !self.switches.dual_stream {
            without(media, rtp::FRAME_URI);
        }
        if !self.switches.capture_time {
            without(media, rtp::CAPTURE_URI);
        }
    }

    /// Offers to receive both streams and audio.
    pub fn request_media(&mut self) {
        if std::mem::replace(&mut self.asks, true) {
            return;
        }
        let direction = WebRTCRTPTransceiverDirection::Recvonly;
        let video = rtp::request_caps();
        let mut wanted = vec![video.clone()];
        wanted.extend(self.switches.dual_stream.then_some(video));
        wanted.extend(self.choice.audio.then(rtp::audio_request_caps));
        for mut caps in wanted {
            caps = self.switches.restrict(caps);
            if !self.choice.feedback {
                caps = rtp::without_feedback(caps, "transport-cc");
                caps = rtp::without_extension(caps, rtp::TWCC_URI);
            }
            let transceiver = self
                .peer
                .webrtcbin()
                .emit_by_name::<WebRTCRTPTransceiver>("add-transceiver", &[&direction, &caps]);
            transceiver.set_property("do-nack", self.switches.retransmission);
        }
        self.peer.create_offer();
    }

    /// What came of our offer.
    pub fn set_answer(&mut self, text: &str) {
        let mut answered = sdp::media(text);
        for media in &mut answered {
            self.restrict(media);
        }
        *self.offered.lock().unwrap() = answered;
        self.set_negotiated(text, Agreed::None);
    }

    fn set_negotiated(&self, answer: &str, fec: Agreed) {
        let dual = if !self.switches.dual_stream {
            Err("dual-stream is off")
        } else if !self.switches.frame_feedback {
            Err("frame-feedback is off")
        } else if fec == Agreed::UlpFec {
            Err("RED takes the header extension away")
        } else {
            sdp::dual_accepted(answer).map_err(|_| "the producer does not offer it")
        };
        *self.negotiated.lock().unwrap() = Negotiated::of(answer, dual, fec);
    }

    /// Takes what is switched on of the parts that webrtcbin does not know into the
    /// answer.
    pub fn complete(&mut self, mut answer: String) -> String {
        if self.switches.frame_feedback {
            answer = sdp::answer_frame_complete(&answer, &self.offer);
        }
        let (mut answer, fec) = self.answer_fec(answer);
        answer = if self.choice.feedback {
            sdp::answer_remb(&answer, &self.offer)
        } else {
            sdp::without_transport_feedback(&answer)
        };
        if !self.choice.audio {
            answer = sdp::without_audio(&answer);
        }
        self.set_negotiated(&answer, fec);
        answer
    }

    /// Takes the FEC that is offered into the answer.
    fn answer_fec(&mut self, answer: String) -> (String, Agreed) {
        let mut agreed = Agreed::None;
        if fec::has_ulpfec(&answer).contains(&true) {
            agreed = Agreed::UlpFec;
        }
        let Some(decoder) = &self.fec_decoder else {
            return (answer, agreed);
        };
        let answer = fec::answer_flexfec(&answer, &self.offer);
        if let Some((pt, ..)) = fec::accepted_flexfec(&self.offer, &answer)
            .into_iter()
            .flatten()
            .next()
        {
            decoder.set_property_from_str("format", "flexfec-03");
            // The caps of a bundle name no extensions.
            decoder.set_property("header-extensions", sdp::extension_caps(&answer));
            decoder.set_property("pt", u32::from(pt));
            agreed = Agreed::FlexFec03;
            self.fec_look = Some((self.created, 0));
        }
        (answer, agreed)
    }

    pub fn has_flexfec(&self) -> bool {
        self.negotiated.lock().unwrap().fec == Agreed::FlexFec03
    }

    /// When [`Self::poll_fec`] has something to do.
    pub fn fec_deadline(&self) -> Option<Instant> {
        self.fec_look.map(|(at, _)| at)
    }

    /// The sender makes FEC only while that is of use.
    pub fn poll_fec(&mut self, now: Instant) {
        if let (Some((at, before)), Some(decoder)) = (self.fec_look, &self.fec_decoder)
            && now >= at
        {
            let count = decoder
                .property::<gst::Structure>("stats")
                .get::<u64>("fec-packets")
                .unwrap_or_default();
            self.peer.repair().set_fec(count != before);
            self.fec_look = Some((now + FEC_INTERVAL, count));
        }
    }

    /// When a sender that says something each second is taken for dead, or the
    /// way to it.
    pub fn stalls_at(&self) -> Option<Instant> {
        let after = match self.phase {
            Phase::Connected { .. } | Phase::Running if self.is_cut_off => STALL_CUT_OFF,
            Phase::Running if self.trace.is_answered() => STALL,
            _ => return None,
        };
        Some(self.peer.activity().last() + after)
    }

    pub fn is_stalled(&self, now: Instant) -> bool {
        self.stalls_at().is_some_and(|at| now >= at)
    }

    pub fn clock_deadline(&self) -> Option<Instant> {
        (self.phase == Phase::Running).then_some(self.ask_clock)
    }

    /// Asks the sender for its time now and then.
    pub fn poll_clock(&mut self, now: Instant) {
        if self.clock_deadline().is_some_and(|at| now >= at) {
            self.ask_clock = now + CLOCK_INTERVAL;
            let trace = self.trace.clone();
            self.peer.send_clock_request(|time| trace.asked(time));
        }
    }

    pub fn on_answered(&mut self) {
        if self.phase == Phase::Negotiating {
            self.phase = Phase::Connecting;
        }
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
            self.phase = Phase::Connected {
                report_at: now,
                reports: 0,
            };
        }
    }

    /// Sources ended. True if that is the end: the source of the last packet
    /// is one of them. GStreamer's RTP session says BYE for an idle source
    /// too, and the standby stream and those of retransmissions often are.
    pub fn on_bye(&mut self, now: Instant, sources: &[u32]) -> bool {
        let last = self.media.last_source.load(Ordering::Relaxed);
        if !sources.contains(&last) {
            return false;
        }
        let running = matches!(self.phase, Phase::Running | Phase::Connected { .. });
        if running {
            self.phase = Phase::Draining {
                until: now + self.latency + DRAIN_MARGIN,
            };
        }
        running
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    fn gone_at(&self) -> (Instant, &'static str) {
        let silent = (
            self.peer.activity().last() + SILENCE_TIMEOUT,
            "the producer is silent",
        );
        match self.disconnected {
            Some(since) if since + DISCONNECTED_TIMEOUT < silent.0 => {
                (since + DISCONNECTED_TIMEOUT, "the connection is lost")
            }
            _ => silent,
        }
    }

    pub fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Negotiating | Phase::Connecting => self.created + SETUP_TIMEOUT,
            Phase::Connected { report_at, .. } => report_at.min(self.gone_at().0),
            Phase::Running => self.gone_at().0,
            Phase::Draining { until } => until,
        }
    }

    pub fn poll(&mut self, now: Instant) -> Due {
        if now < self.deadline() {
            return Due::Nothing;
        }
        match self.phase {
            Phase::Negotiating | Phase::Connecting => Due::End("no connection came about"),
            Phase::Draining { .. } => Due::Finished,
            Phase::Connected { .. } if self.media.any.load(Ordering::Relaxed) => {
                self.phase = Phase::Running;
                Due::Nothing
            }
            Phase::Connected { reports, .. } if now < self.gone_at().0 => {
                let interval = if reports < MAX_REPORTS {
                    REPORT_INTERVAL
                } else {
                    // Seldom, as a sign of life.
                    Duration::from_secs(1)
                };
                self.phase = Phase::Connected {
                    report_at: now + interval,
                    reports: reports.saturating_add(1),
                };
                Due::Report
            }
            Phase::Connected { .. } | Phase::Running => {
                // What came in meanwhile may have moved it.
                let (at, why) = self.gone_at();
                if now >= at {
                    Due::End(why)
                } else {
                    Due::Nothing
                }
            }
        }
    }
}

fn splice_behind(
    bin: &gst::Bin,
    element: &gst::Element,
    decoder: &gst::Element,
) -> Result<(), glib::BoolError> {
    let missing = |what: &str| glib::bool_error!("{} has no {what}", bin.name());
    let pad = |element: &gst::Element, name| {
        element
            .static_pad(name)
            .ok_or_else(|| glib::bool_error!("{} has no pad {name}", element.name()))
    };
    let from = pad(element, "src")?;
    let ghost = bin
        .src_pads()
        .into_iter()
        .filter_map(|pad| pad.downcast::<gst::GhostPad>().ok())
        .find(|ghost| ghost.target().as_ref() == Some(&from))
        .ok_or_else(|| missing("pad for it"))?;
    bin.add(decoder)?;
    ghost.set_target(None::<&gst::Pad>)?;
    from.link(&pad(decoder, "sink")?)
        .map_err(|err| glib::bool_error!("{err}"))?;
    ghost.set_target(Some(&pad(decoder, "src")?))?;
    decoder.sync_state_with_parent()
}
