// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-dualwebrtcsrc
 * @title: dualwebrtcsrc
 * @short_description: receives dual-stream H.264 over WebRTC
 *
 * Receives what #dualwebrtcsink sends, by WebRTC (ICE, DTLS-SRTP), and gives
 * raw video: each picture once, from whichever of the two streams has it
 * first. An ordinary WebRTC producer of H.264 is received as well.
 *
 * - Which producer: the one named by `signaller::producer-peer-id`, else the
 *   first one at the signalling server. It may come later than this element,
 *   and go and come again: this element waits for it. Only a signalling
 *   server that cannot be reached for #dualwebrtcsrc:connect-timeout is an
 *   error.
 * - A producer that comes to the end of its stream says so (RTCP BYE). Then
 *   this element's stream ends too, unless #dualwebrtcsrc:eos-on-end is
 *   false. A producer that just vanishes is waited for.
 * - The jitter buffers (#rtpkalmanjitterbuffer, both streams with one estimate)
 *   delay pictures as long as the network needs, so that all but
 *   #dualwebrtcsrc:late-target of them are in time; missing packets are waited
 *   for during #dualwebrtcsrc:latency. With #dualwebrtcsrc:jitter-buffer=fixed
 *   all is delayed by latency. The delay is reported as latency of this live
 *   source. A sink with sync=false shows each picture as soon as it is decoded.
 * - A producer that knows no transport-wide feedback but REMB is told by REMB
 *   what the network takes (#rtpremb).
 * - FEC that the producer offers is taken, and lost packets are recovered
 *   (#rtpflexfecdec) before the jitter buffers ask for them again.
 *   #dualwebrtcsrc:fec chooses.
 *
 * - #dualwebrtcsrc:signalling chooses how the producer is found: by the
 *   WebSocket protocol of gst-plugins-rs, WHIP or WHEP. Properties of the
 *   signaller are set after it on a line. See docs/signalling.md.
 * - Audio of the producer (Opus) leaves by the pad `audio`, which comes with the
 *   first packets of it and stays until READY. Nobody need take it. Lost packets
 *   are concealed, or made from FEC that is in the next one. What was captured at
 *   the same time gets the same time stamp: the faster of audio and video waits
 *   for the slower. See docs/audio.md.
 * - With #dualwebrtcsrc:run-web-server a browser can send: it needs no more than
 *   the address of a page that is served here. See docs/browser.md.
 * - Each part can be switched off: #dualwebrtcsrc:dual-stream,
 *   #dualwebrtcsrc:frame-feedback, #dualwebrtcsrc:congestion-feedback,
 *   #dualwebrtcsrc:fec, #dualwebrtcsrc:do-retransmission,
 *   #dualwebrtcsrc:jitter-buffer, #dualwebrtcsrc:receive-audio,
 *   #dualwebrtcsrc:abs-capture-time; what none of both ends has switched off is used.
 *   Without FEC and retransmissions adaptive jitter buffers wait for what is missing no
 *   longer than their delay. The field `negotiated` of #dualwebrtcsrc:stats says what
 *   came of it.
 * - Where the time of a picture goes is in the field `latency` of `stats` and in
 *   an element message each second: docs/latency.md.
 *
 * A receiver that also runs the signalling server, and its sender:
 *
 * |[
 * gst-launch-1.0 dualwebrtcsrc run-signalling-server=true ! videoconvert ! autovideosink
 * gst-launch-1.0 videotestsrc is-live=true ! video/x-raw,width=640,height=360,framerate=30/1 ! dualwebrtcsink
 * ]|
 *
 * ## Statistics
 *
 * Fields of `application/x-dualwebrtcsrc-stats`:
 *
 * | field | type | meaning |
 * |---|---|---|
 * | `session` | string | none, negotiating, connecting, connected (no packet yet), running, draining |
 * | `connection-state` | string | that of webrtcbin, or none |
 * | `signalling` | boolean | registered at the signalling server |
 * | `producer` | string | peer id of the producer, empty without a session |
 * | `sessions` | uint64 | sessions so far |
 * | `outages` | uint64 | times of 1 s and more in which no media came, between times in which it did |
 * | `last-outage`, `longest-outage` | uint64 | how long such a time was, in ns |
 * | `fec` | string | what was agreed with the producer: none, ulpfec or flexfec-03 |
 * | `negotiated` | structure | which parts are in use, while there is a session, see below |
 * | `fec-decoder` | structure | statistics of #rtpflexfecdec, while there is FlexFEC |
 * | `web-server` | string | address of the page, while there is a web server |
 * | `decoder` | structure | statistics of the decoder |
 * | `latency` | structure | where the time of pictures goes: docs/latency.md |
 * | `lip-sync` | structure | `audio-offset`, `video-offset` (int64): by how much each waits for the other, in ns; `difference` (int64): how much later pictures are stamped than sound without that, if known |
 * | `feedback-0`, `feedback-1` | structure | statistics of #rtcpiframefeedback for each stream of the session, if there is frame feedback |
 * | `jitterbuffer-0`, `jitterbuffer-1` | structure | statistics of the jitter buffer of each stream |
 *
 * | field of `negotiated` | type | meaning | off by |
 * |---|---|---|---|
 * | `dual-stream` | boolean | both streams may come | `dual-stream`; the producer |
 * | `frame-feedback` | boolean | the producer is told which frames are complete | `frame-feedback` |
 * | `congestion-feedback` | string | what the producer is told of the network: transport-cc, remb or none | `congestion-feedback` |
 * | `fec` | string | as above | `fec` |
 * | `retransmission` | boolean | lost packets are asked for again (NACK, RTX) | `do-retransmission` |
 * | `jitter-buffer` | string | adaptive or fixed | `jitter-buffer` |
 * | `audio` | boolean | audio is taken | `receive-audio`; the producer |
 * | `abs-capture-time` | boolean | the time of capture comes along | `abs-capture-time` |
 *
 * The same is in the log, in one line of level INFO for each session.
 *
 * The signaller comes from gst-plugins-rs and its types bear the same names
 * as those of the rswebrtc plugin: one process can use elements of one of the
 * two plugins, not of both.
 */
use std::sync::{Arc, LazyLock, Mutex, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstrswebrtc::signaller::{Signallable, Signaller, WebRTCSignallerRole};

use super::audio::{self, Output};
use super::buffers::{Choice, JitterBuffer};
use super::stats::Shared;
use super::trace::Trace;
use super::worker::{Command, Setup, Worker};
use crate::dualwebrtcsink::{add_stats, signaller_clash};
use crate::fec::Agreed;
use crate::properties::Settings;
use crate::requirements;
use crate::server::SignallingServer;
use crate::signallers::SrcSignalling;
use crate::signalling::{self, Link};
use crate::web::{PageRole, WebServer};

pub static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dualwebrtcsrc",
        gst::DebugColorFlags::empty(),
        Some("Dual-stream WebRTC receiver"),
    )
});

/// While PAUSED or PLAYING.
struct Running {
    sender: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
    server: Option<SignallingServer>,
    web: Option<WebServer>,
}

struct SrcSettings {
    common: Settings,
    buffers: Choice,
    eos_on_end: bool,
}

impl Default for SrcSettings {
    fn default() -> Self {
        Self {
            common: Settings::default(),
            buffers: Choice::default(),
            eos_on_end: true,
        }
    }
}

pub struct DualWebRtcSrc {
    // Lock order: no two of these at once.
    settings: Mutex<SrcSettings>,
    running: Mutex<Option<Running>>,
    shared: Arc<Shared>,
    decoder: OnceLock<gst::Element>,
    audio: Output,
    trace: Trace,
    srcpad: gst::GhostPad,
}

impl super::DualWebRtcSrc {
    /// Ends the stream, if the decoder has not.
    pub(super) fn push_eos(&self) {
        let pad = &self.imp().srcpad;
        if pad.sticky_event::<gst::event::Eos>(0).is_none() {
            pad.push_event(gst::event::Eos::new());
        }
    }

    /// Leads the audio of a session to our pad. `decoder`: its sink pad.
    pub(super) fn take_audio(&self, from: &gst::Pad, decoder: &gst::Pad) -> Result<(), String> {
        let template = self.pad_template(audio::PAD).ok_or("no template")?;
        self.imp().audio.take(self, &template, from, decoder)
    }

    pub(super) fn leave_audio(&self) {
        self.imp().audio.leave();
    }

    pub(super) fn push_audio_eos(&self) {
        self.imp().audio.push_eos();
    }

    pub(super) fn audio_latency(&self, query: &mut gst::query::Latency) -> bool {
        self.imp().audio.latency(query)
    }

    pub(super) fn has_audio_peer(&self) -> bool {
        self.imp().audio.pad().is_some_and(|pad| pad.is_linked())
    }
}

impl DualWebRtcSrc {
    fn build(&self) -> Result<gst::Element, gst::ErrorMessage> {
        requirements::check(requirements::RECEIVER)?;
        let decoder = requirements::make("dualh264dec", "decoder")?;
        let broken = |err: glib::BoolError| gst::error_msg!(gst::CoreError::Failed, ["{err}"]);
        let pad = decoder
            .static_pad("src")
            .ok_or_else(|| gst::error_msg!(gst::CoreError::Pad, ["dualh264dec has no pad src"]))?;
        self.obj().add(&decoder).map_err(broken)?;
        self.srcpad.set_target(Some(&pad)).map_err(broken)?;
        // It runs with a session only.
        decoder.set_locked_state(true);
        Ok(decoder)
    }

    fn check(&self) -> Result<(), gst::ErrorMessage> {
        requirements::check(requirements::RECEIVER)?;
        if self.decoder.get().is_none() {
            return Err(gst::error_msg!(
                gst::CoreError::Failed,
                ["the elements inside could not be made"]
            ));
        }
        if self.settings.lock().unwrap().common.signaller.is_none() {
            return Err(signaller_clash());
        }
        Ok(())
    }

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let (common, buffers, eos_on_end) = {
            let settings = self.settings.lock().unwrap();
            (
                settings.common.clone(),
                settings.buffers,
                settings.eos_on_end,
            )
        };
        let (Some(decoder), Some(signaller)) = (self.decoder.get(), common.signaller.clone())
        else {
            return Err(gst::error_msg!(gst::CoreError::Failed, ["not ready"]));
        };
        common.check()?;
        let server = common.start_server()?;
        let web = common.start_web_server(PageRole::Send)?;
        let (sender, commands) = mpsc::channel();
        let post = sender.clone();
        let link = Link::consumer(signaller, common.connect_timeout(), move |event| {
            // Fails only when the worker is gone.
            let _ = post.send(Command::Signalling(event));
        });
        let worker = Worker::new(Setup {
            src: self.obj().downgrade(),
            decoder: decoder.clone(),
            settings: common,
            buffers,
            eos_on_end,
            shared: self.shared.clone(),
            trace: self.trace.clone(),
            link,
            sender: sender.clone(),
        });
        let thread = std::thread::Builder::new()
            .name("dualwebrtcsrc".into())
            .spawn(move || worker.run(&commands))
            .map_err(|err| gst::error_msg!(gst::CoreError::Thread, ["{err}"]))?;
        *self.running.lock().unwrap() = Some(Running {
            sender,
            thread,
            server,
            web,
        });
        Ok(())
    }

    fn stop(&self) {
        let Some(running) = self.running.lock().unwrap().take() else {
            return;
        };
        // Fails only if the worker is gone already.
        let _ = running.sender.send(Command::Stop);
        if running.thread.join().is_err() {
            gst::error!(CAT, imp = self, "the worker thread panicked");
        }
        drop(running.web);
        drop(running.server);
    }

    /// Notes when pictures are decoded and shown, and tells each second.
    fn watch_pictures(&self) {
        let (trace, weak) = (self.trace.clone(), self.downgrade());
        self.srcpad
            .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                if let Some(report) = info.buffer().and_then(|b| trace.on_decoded(b))
                    && let Some(imp) = weak.upgrade()
                {
                    let obj = imp.obj();
                    // Nobody listens outside of a pipeline.
                    let _ =
                        obj.post_message(gst::message::Element::builder(report).src(&*obj).build());
                }
                gst::PadProbeReturn::Ok
            });
        let trace = self.trace.clone();
        self.srcpad
            .add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
                if let Some(event) = info.event() {
                    trace.on_upstream(event);
                }
                gst::PadProbeReturn::Ok
            });
    }

    /// The serial of the session that an object belongs to.
    fn session_of(&self, object: &gst::Object) -> Option<u64> {
        let mut child = object.clone();
        loop {
            let parent = child.parent()?;
            if &parent == self.obj().upcast_ref::<gst::Object>() {
                return child.name().strip_prefix("session-")?.parse().ok();
            }
            child = parent;
        }
    }

    /// Live, with the latency of fixed jitter buffers even while there is no
    /// session.
    fn query(&self, pad: &gst::GhostPad, query: &mut gst::QueryRef) -> bool {
        let gst::QueryViewMut::Latency(latency) = query.view_mut() else {
            return gst::Pad::query_default(pad, Some(&*self.obj()), query);
        };
        let buffers = self.settings.lock().unwrap().buffers;
        let own = match buffers.kind {
            JitterBuffer::Fixed => gst::ClockTime::from_mseconds(buffers.latency.into()),
            JitterBuffer::Adaptive => gst::ClockTime::ZERO,
        };
        let mut inner = gst::query::Latency::new();
        let decoder = pad.target().is_some_and(|target| target.query(&mut inner));
        let min = if decoder {
            inner.result().1.max(own)
        } else {
            own
        };
        latency.set(true, min, gst::ClockTime::NONE);
        true
    }

    fn stats(&self) -> gst::Structure {
        let snapshot = self.shared.snapshot();
        let outages = self.shared.outages();
        let agreed = snapshot.negotiated.as_ref();
        let fec = agreed.map_or(Agreed::None, |agreed| agreed.fec);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut stats = gst::Structure::builder("application/x-dualwebrtcsrc-stats")
            .field("session", snapshot.session)
            .field("connection-state", snapshot.connection)
            .field("signalling", snapshot.signalling)
            .field("producer", &snapshot.producer)
            .field("fec", fec.nick())
            .field("sessions", snapshot.sessions)
            .field("outages", outages.count)
            .field("last-outage", nanos(outages.last))
            .field("longest-outage", nanos(outages.longest))
            .build();
        if let Some(agreed) = agreed {
            let mut negotiated = agreed.structure();
            let kind = self.settings.lock().unwrap().buffers.kind;
            negotiated.set("jitter-buffer", kind.nick());
            stats.set("negotiated", negotiated);
        }
        if let Some(decoder) = self.decoder.get() {
            add_stats(&mut stats, "decoder", decoder);
        }
        if let Some(decoder) = &snapshot.fec_decoder {
            add_stats(&mut stats, "fec-decoder", decoder);
        }
        if let Some(running) = &*self.running.lock().unwrap()
            && let Some(web) = &running.web
        {
            stats.set("web-server", web.url());
        }
        stats.set("latency", self.trace.structure());
        if let Some(clocks) = &snapshot.clocks {
            stats.set("lip-sync", clocks.structure());
        }
        for (index, feedback, buffer) in &snapshot.streams {
            if let Some(feedback) = feedback {
                add_stats(&mut stats, &format!("feedback-{index}"), feedback);
            }
            if let Some(buffer) = buffer.upgrade() {
                add_stats(&mut stats, &format!("jitterbuffer-{index}"), &buffer);
            }
        }
        stats
    }
}

#[glib::object_subclass]
impl ObjectSubclass for DualWebRtcSrc {
    const NAME: &'static str = "GstDualWebRtcSrc";
    type Type = super::DualWebRtcSrc;
    type ParentType = gst::Bin;
    type Interfaces = (gst::ChildProxy,);

    fn with_class(klass: &Self::Class) -> Self {
        let template = klass.pad_template("src").expect("declared below");
        Self {
            settings: Mutex::default(),
            running: Mutex::default(),
            shared: Arc::default(),
            decoder: OnceLock::new(),
            audio: Output::default(),
            trace: Trace::default(),
            srcpad: gst::GhostPad::builder_from_template(&template)
                .query_function(|pad, parent, query| {
                    Self::catch_panic_pad_function(parent, || false, |src| src.query(pad, query))
                })
                .build(),
        }
    }
}

impl ObjectImpl for DualWebRtcSrc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let default = SrcSettings::default();
            let mut specs = Settings::specs();
            specs.extend([
                glib::ParamSpecEnum::builder::<SrcSignalling>("signalling")
                    .nick("Signalling")
                    .blurb("Protocol by which sender and receiver find each other; makes a new signaller, so properties of the signaller are to be set after it")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("latency")
                    .nick("Latency")
                    .blurb("Time that the jitter buffers wait for packets that are missing, in ms; fixed ones hold all packets that long")
                    .default_value(default.buffers.latency)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("jitter-buffer", default.buffers.kind)
                    .nick("Jitter Buffer")
                    .blurb("Which jitter buffers are used")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecDouble::builder("late-target")
                    .nick("Late Target")
                    .blurb("Share of pictures allowed to miss their time with adaptive jitter buffers; smaller = more delay")
                    .minimum(0.0001)
                    .maximum(0.5)
                    .default_value(default.buffers.late_target)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("max-latency")
                    .nick("Maximum Latency")
                    .blurb("Upper limit of the delay of adaptive jitter buffers, in ms; what is later is shown when it comes")
                    .maximum(10_000)
                    .default_value(default.buffers.max_latency)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("congestion-feedback")
                    .nick("Congestion Feedback")
                    .blurb("Tell the producer what arrives, for its congestion control: transport-wide feedback, or REMB (rtpremb) if it knows that only")
                    .default_value(default.buffers.feedback)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("receive-audio")
                    .nick("Receive Audio")
                    .blurb("Take the audio of the producer, if it has any")
                    .default_value(default.buffers.audio)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("eos-on-end")
                    .nick("EOS On End")
                    .blurb("End the stream when the producer comes to the end of its own; otherwise wait for the next session. A producer that vanishes is always waited for")
                    .default_value(default.eos_on_end)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Structure application/x-dualwebrtcsrc-stats; its fields are in the element's documentation")
                    .read_only()
                    .build(),
            ]);
            specs
        });
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        match pspec.name() {
            "signaller" => {
                if !signalling::types_available() {
                    return;
                }
                let given: Option<glib::Object> = value.get().expect("type checked upstream");
                let signaller = match given.map(|object| object.downcast::<Signallable>()) {
                    Some(Ok(signaller)) => signaller,
                    Some(Err(object)) => {
                        gst::warning!(CAT, imp = self, "{object:?} is not a signaller");
                        Signaller::new(WebRTCSignallerRole::Consumer).upcast()
                    }
                    None => Signaller::new(WebRTCSignallerRole::Consumer).upcast(),
                };
                self.settings.lock().unwrap().common.signaller = Some(signaller);
            }
            "signalling" => {
                let wanted: SrcSignalling = value.get().expect("type checked upstream");
                let mut settings = self.settings.lock().unwrap();
                let common = &mut settings.common;
                if let Err(why) =
                    common.set_signalling(wanted, SrcSignalling::of, SrcSignalling::make)
                {
                    drop(settings);
                    gst::warning!(CAT, imp = self, "signalling: {why}");
                }
            }
            "latency" => {
                self.settings.lock().unwrap().buffers.latency =
                    value.get().expect("type checked upstream");
            }
            "jitter-buffer" => {
                self.settings.lock().unwrap().buffers.kind =
                    value.get().expect("type checked upstream");
            }
            "late-target" => {
                self.settings.lock().unwrap().buffers.late_target =
                    value.get().expect("type checked upstream");
            }
            "max-latency" => {
                self.settings.lock().unwrap().buffers.max_latency =
                    value.get().expect("type checked upstream");
            }
            "congestion-feedback" => {
                self.settings.lock().unwrap().buffers.feedback =
                    value.get().expect("type checked upstream");
            }
            "receive-audio" => {
                self.settings.lock().unwrap().buffers.audio =
                    value.get().expect("type checked upstream");
            }
            "eos-on-end" => {
                self.settings.lock().unwrap().eos_on_end =
                    value.get().expect("type checked upstream");
            }
            name => {
                let known = self.settings.lock().unwrap().common.set(name, value);
                debug_assert!(known, "unknown property {name}");
            }
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "latency" => self.settings.lock().unwrap().buffers.latency.to_value(),
            "jitter-buffer" => self.settings.lock().unwrap().buffers.kind.to_value(),
            "late-target" => self.settings.lock().unwrap().buffers.late_target.to_value(),
            "max-latency" => self.settings.lock().unwrap().buffers.max_latency.to_value(),
            "congestion-feedback" => self.settings.lock().unwrap().buffers.feedback.to_value(),
            "receive-audio" => self.settings.lock().unwrap().buffers.audio.to_value(),
            "eos-on-end" => self.settings.lock().unwrap().eos_on_end.to_value(),
            "stats" => self.stats().to_value(),
            "signalling" => {
                let signaller = self.settings.lock().unwrap().common.signaller.clone();
                signaller
                    .map_or(SrcSignalling::default(), |s| SrcSignalling::of(&s))
                    .to_value()
            }
            name => self
                .settings
                .lock()
                .unwrap()
                .common
                .get(name)
                .expect("declared above"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.set_suppressed_flags(gst::ElementFlags::SINK | gst::ElementFlags::SOURCE);
        obj.set_element_flags(gst::ElementFlags::SOURCE);
        match self.build() {
            // Set only here.
            Ok(decoder) => drop(self.decoder.set(decoder)),
            Err(err) => gst::warning!(CAT, imp = self, "{err:?}"),
        }
        obj.add_pad(&self.srcpad).expect("a new element");
        self.watch_pictures();
    }
}

impl GstObjectImpl for DualWebRtcSrc {}

impl ElementImpl for DualWebRtcSrc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Dual-stream WebRTC receiver",
                "Source/Network/WebRTC",
                "Receives dual-stream H.264 over WebRTC and decodes it",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            vec![
                gst::PadTemplate::new(
                    "src",
                    gst::PadDirection::Src,
                    gst::PadPresence::Always,
                    &gst::Caps::new_empty_simple("video/x-raw"),
                )
                .expect("valid template"),
                gst::PadTemplate::new(
                    audio::PAD,
                    gst::PadDirection::Src,
                    gst::PadPresence::Sometimes,
                    &gst::Caps::new_empty_simple("audio/x-raw"),
                )
                .expect("valid template"),
            ]
        });
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        let fail = |err: gst::ErrorMessage| {
            self.post_error_message(err);
            gst::StateChangeError
        };
        match transition {
            gst::StateChange::NullToReady => {
                self.check().map_err(fail)?;
                if let Some(decoder) = self.decoder.get() {
                    // Loads the decoders, and says if there is none.
                    decoder.set_state(gst::State::Ready)?;
                }
            }
            gst::StateChange::PausedToReady => {
                self.stop();
                if let Some(decoder) = self.decoder.get() {
                    // Still running if the stream has ended.
                    decoder.set_locked_state(true);
                    decoder.set_state(gst::State::Ready)?;
                }
                self.audio.remove(&self.obj());
            }
            _ => {}
        }
        let result = self.parent_change_state(transition)?;
        match transition {
            gst::StateChange::ReadyToPaused => {
                if let Err(err) = self.start() {
                    // Back to where the state says we are.
                    let _ = self.parent_change_state(gst::StateChange::PausedToReady);
                    return Err(fail(err));
                }
                Ok(gst::StateChangeSuccess::NoPreroll)
            }
            gst::StateChange::PlayingToPaused => Ok(gst::StateChangeSuccess::NoPreroll),
            gst::StateChange::ReadyToNull => {
                if let Some(decoder) = self.decoder.get() {
                    decoder.set_state(gst::State::Null)?;
                }
                Ok(result)
            }
            _ => Ok(result),
        }
    }
}

impl BinImpl for DualWebRtcSrc {
    fn handle_message(&self, message: gst::Message) {
        let session = message.src().and_then(|src| self.session_of(src));
        match message.view() {
            // Of sinks inside webrtcbin.
            gst::MessageView::Eos(_) => {}
            // The end of a session is not the end of the pipeline.
            gst::MessageView::Error(err) if session.is_some() => {
                let text = format!("{}: {}", err.error(), err.debug().unwrap_or_default());
                gst::warning!(CAT, imp = self, "in the session: {text}");
                let running = self.running.lock().unwrap();
                if let (Some(running), Some(serial)) = (&*running, session) {
                    // Fails only when the worker is gone.
                    let _ = running.sender.send(Command::Failed(serial, text));
                }
            }
            gst::MessageView::Warning(warning) if session.is_some() => {
                gst::warning!(CAT, imp = self, "in the session: {}", warning.error());
            }
            _ => self.parent_handle_message(message),
        }
    }
}

impl ChildProxyImpl for DualWebRtcSrc {
    fn child_by_name(&self, name: &str) -> Option<glib::Object> {
        if name == "signaller" {
            let signaller = self.settings.lock().unwrap().common.signaller.clone();
            return signaller.map(Cast::upcast);
        }
        self.obj()
            .children()
            .into_iter()
            .find(|child| child.name() == name)
            .map(Cast::upcast)
    }

    fn child_by_index(&self, index: u32) -> Option<glib::Object> {
        if index == 0 {
            return self.child_by_name("signaller");
        }
        let children = self.obj().children();
        children
            .get(index as usize - 1)
            .map(|child| child.clone().upcast())
    }

    fn children_count(&self) -> u32 {
        1 + self.obj().children().len() as u32
    }
}
