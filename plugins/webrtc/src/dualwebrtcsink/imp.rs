// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-dualwebrtcsink
 * @title: dualwebrtcsink
 * @short_description: sends video over WebRTC as dual-stream H.264
 *
 * Takes raw video, encodes it with #dualh264enc and sends it to receivers
 * by WebRTC (ICE, DTLS-SRTP): the picture in one stream, key frames in the
 * background in the other. #dualwebrtcsrc receives it. A peer that does not
 * know dual stream, a browser for one, gets an ordinary single stream; see
 * the fields `dual` and `reason` of #dualwebrtcsink:stats.
 *
 * - Without a receiver pictures are dropped before the encoder and the
 *   pipeline runs on. With #dualwebrtcsink:wait-for-receiver the first
 *   picture waits for the first receiver instead, so that a file is sent from
 *   its beginning.
 * - Pictures of a source that is not live are paced by their time stamps.
 * - Up to #dualwebrtcsink:max-receivers receivers are served at a time, each
 *   with a transport, a bandwidth estimate and FEC of its own; further ones are
 *   refused, with a warning in the log. Receivers that take both streams share
 *   an encoder (#dualwebrtcsink:encoder-sharing), which then runs at the lowest
 *   of their estimates: one who comes is served by a key frame in the background,
 *   and the others see nothing of it. A receiver whose network bears less than
 *   0.7 of what the next one's bears for 3 s gets an encoder for itself; for that
 *   its session is ended, and it asks for another one. A receiver that takes one
 *   stream has its encoder for itself. Properties of the children apply to all
 *   receivers, those that are there included.
 * - A receiver has gone when the signalling server says so, when its transport
 *   failed, or when nothing came from it for 10 s. A connection outlives that to
 *   the signalling server.
 * - At end of stream the transport stays for 300 ms, for retransmissions;
 *   then the session is ended and end of stream is posted.
 * - The encoder's rate follows the network: #rtppacer and #rtpgcc stand in
 *   front of the RTP session. The bitrate that the encoder was given is the
 *   upper limit, unless `estimator::max-bitrate` is set. While the estimate is
 *   below it, the encoder's `bitrate` is the rate in force. A receiver that
 *   only estimates by REMB is told when packets leave (abs-send-time), and its
 *   REMB is obeyed; one that sends no feedback gets the encoder's bitrate.
 *   #dualwebrtcsink:congestion-control switches it off.
 * - A receiver that knows FlexFEC is sent FEC packets for both streams, as
 *   many as the losses and the round-trip time call for (#rtpflexfecenc), and
 *   the encoder's rate gives way to them; lost packets can be asked for again
 *   all the same. #dualwebrtcsink:fec chooses, and the field `fec` of
 *   #dualwebrtcsink:stats says what came of it. Without congestion control
 *   nothing would make room for FEC and tell the round-trip time: there `auto`
 *   is `off`.
 * - The request pad `audio` takes raw sound, or Opus as it is, and sends it with
 *   the video: raw sound is encoded by opusenc with restricted low delay in
 *   packets of #dualwebrtcsink:audio-frame-size at a constant
 *   #dualwebrtcsink:audio-bitrate. Audio goes first in the pacer, and its rate is
 *   taken from the estimate before the video encoder gets it. Lost packets are
 *   sent again, and with #dualwebrtcsink:audio-fec `auto` the encoder changes to
 *   a mode that has FEC while packets are lost. The stream ends when both pads
 *   have ended. See docs/audio.md.
 * - Each part can be switched off: #dualwebrtcsink:dual-stream,
 *   #dualwebrtcsink:frame-feedback, #dualwebrtcsink:congestion-control,
 *   #dualwebrtcsink:pacing, #dualwebrtcsink:fec, #dualwebrtcsink:do-retransmission,
 *   #dualwebrtcsink:abs-capture-time; what none of both ends has switched off is used.
 *   The field `negotiated` of #dualwebrtcsink:stats says what came of it.
 * - Each picture carries its time of capture, by its time stamp and the wall
 *   clock (#rtphdrextabscapturetime), or by the GstReferenceTimestampMeta
 *   `timestamp/x-ntp` that it came with, and how long it took here. See
 *   docs/latency.md.
 * - With #dualwebrtcsink:run-web-server a browser needs no more than the address
 *   of a page that is served here. It takes dual stream, too: over a data channel
 *   the page says which frames are complete. See docs/browser.md.
 * - #dualwebrtcsink:signalling chooses how receivers are found: by the
 *   WebSocket protocol of gst-plugins-rs, WHIP, WHEP or a video room of Janus.
 *   Properties of the signaller are set after it on a line. See
 *   docs/signalling.md and, for many viewers, docs/scaling.md.
 * - The encoder's properties are set as `encoder::bitrate`, those of the
 *   signaller as `signaller::uri`, and so with `pacer::`, `estimator::`,
 *   `fec-0::`, `fec-1::` and `audio-encoder::`.
 *
 * A sender that needs no other server, and its receiver:
 *
 * |[
 * gst-launch-1.0 videotestsrc is-live=true ! video/x-raw,width=640,height=360,framerate=30/1 ! dualwebrtcsink run-signalling-server=true encoder::bitrate=1500000 encoder::refresh-interval=2000
 * gst-launch-1.0 dualwebrtcsrc ! videoconvert ! autovideosink
 * ]|
 *
 * The same with sound:
 *
 * |[
 * gst-launch-1.0 videotestsrc is-live=true ! video/x-raw,width=640,height=360,framerate=30/1 ! dualwebrtcsink name=s run-signalling-server=true audiotestsrc is-live=true wave=ticks ! s.audio
 * gst-launch-1.0 dualwebrtcsrc name=s s.src ! videoconvert ! autovideosink s.audio ! audioconvert ! autoaudiosink
 * ]|
 *
 * A file from its first picture, by a signalling server elsewhere:
 *
 * |[
 * gst-launch-1.0 filesrc location=video.mp4 ! decodebin ! dualwebrtcsink wait-for-receiver=true signaller::uri=ws://192.0.2.1:8443
 * ]|
 *
 * ## Statistics
 *
 * Fields of `application/x-dualwebrtcsink-stats`:
 *
 * | field | type | meaning |
 * |---|---|---|
 * | `session` | string | none, negotiating, connecting, connected (not ready yet), running, draining, lingering |
 * | `connection-state` | string | that of webrtcbin, or none |
 * | `signalling` | boolean | registered at the signalling server |
 * | `dual` | boolean | the receiver takes both streams |
 * | `reason` | string | why not dual; empty if it is |
 * | `sessions` | uint64 | receivers served so far |
 * | `refused` | uint64 | receivers refused |
 * | `pictures-encoded` | uint64 | pictures given to the encoders |
 * | `pictures-dropped` | uint64 | pictures dropped for want of a receiver |
 * | `pictures-late` | uint64 | of those given to the encoders, left out because one was too slow (counted for each encoder) |
 * | `waiting` | boolean | the first picture is waiting for a receiver |
 * | `encoder` | structure | statistics of the encoder |
 * | `web-server` | string | address of the page, while there is a web server |
 * | `data-channel` | structure | while there is a session with one, see below |
 * | `latency` | structure | from capture to network, by parts: docs/latency.md |
 * | `audio` | structure | while there is an audio pad, see below |
 * | `fec` | string | what the receiver takes: none, ulpfec or flexfec-03 |
 * | `negotiated` | structure | which parts are in use, while there is a session, see below |
 * | `fec-0`, `fec-1` | structure | statistics of #rtpflexfecenc for each stream, while there is FEC |
 * | `estimator`, `pacer` | structure | statistics of #rtpgcc and #rtppacer, while there is a session with them |
 * | `feedback-0`, `feedback-1` | structure | statistics of #rtcpiframefeedback for each stream of the session |
 * | `receivers` | array of structures | all receivers, oldest first, see below |
 *
 * The fields about a session are those of the oldest one. Each structure in
 * `receivers` has the fields `session`, `connection-state`, `dual`, `reason`,
 * `fec`, `negotiated`, `latency`, `fec-0`, `fec-1`, `estimator`, `pacer`, `feedback-0` and
 * `feedback-1` of its own, and
 *
 * | field of a receiver | type | meaning |
 * |---|---|---|
 * | `id` | string | of the session, as the signalling server calls it |
 * | `peer` | string | the receiver, as the signalling server calls it |
 * | `encoder` | string | name of the child that encodes for it |
 * | `encoder-stats` | structure | statistics of that encoder |
 *
 * | field of `negotiated` | type | meaning | off by |
 * |---|---|---|---|
 * | `dual-stream` | boolean | both streams are sent | `dual-stream`, `encoder::mode=single` |
 * | `frame-feedback` | boolean | the receiver says which frames are complete, by RTCP | `frame-feedback` |
 * | `congestion-control` | string | gcc or none | `congestion-control` |
 * | `pacing` | boolean | there is a pacer | `pacing`, `congestion-control` |
 * | `congestion-feedback` | string | what the receiver reports of the network: transport-cc, remb or none | its `congestion-feedback` |
 * | `fec` | string | as above | `fec` |
 * | `retransmission` | boolean | lost packets are sent again (NACK, RTX) | `do-retransmission` |
 * | `audio` | boolean | audio is sent | no `audio` pad; the receiver's `receive-audio` |
 * | `abs-capture-time` | boolean | the time of capture goes along | `abs-capture-time` |
 *
 * The same is in the log, in one line of level INFO for each session.
 *
 * | field of `audio` | type | meaning |
 * |---|---|---|
 * | `sending` | boolean | there is a receiver that takes it |
 * | `buffers-passed`, `buffers-dropped` | uint64 | given to the encoder, and dropped for want of a receiver |
 * | `bitrate` | uint64 | of the encoder, in bit/s |
 * | `share` | uint64 | what audio takes of the network with all headers, in bit/s; 0 if it is not sent |
 * | `fec` | boolean | the encoder makes FEC |
 *
 * | field of `data-channel` | type | meaning |
 * |---|---|---|
 * | `open`, `hello` | boolean | it is open, and a page has said hello |
 * | `received` | uint64 | messages; the sum of the next five |
 * | `completes` | uint64 | "frame complete", given to the encoder |
 * | `unknown-frames` | uint64 | the same about frames that were not sent or are forgotten |
 * | `others` | uint64 | all other messages |
 * | `malformed` | uint64 | too long, or not to be understood |
 * | `limited` | uint64 | beyond 240 in a second |
 * | `switches` | uint64 | of the picture from one stream to the other |
 * | `unsent` | uint64 | messages that could not be sent |
 *
 * The signaller comes from gst-plugins-rs and its types bear the same names
 * as those of the rswebrtc plugin: one process can use elements of one of the
 * two plugins, not of both.
 */
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, mpsc};
use std::thread::JoinHandle;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstrswebrtc::signaller::{Signallable, Signaller, WebRTCSignallerRole};

use super::audio::{self, AudioInput};
use super::audio_rate::AudioRate;
use super::branch::Branch;
use super::control::CongestionControl;
use super::gate::{EosHandler, Mode};
use super::parts::Parts;
use super::settings::SinkSettings;
use super::slow::Search;
use super::stats::{Receiver, Shared, add_stats};
use super::worker::{Command, Worker};
use crate::fec::Agreed;
use crate::reach::Reach;
use crate::requirements;
use crate::server::SignallingServer;
use crate::signallers::SinkSignalling;
use crate::signalling::{self, Link};
use crate::web::{PageRole, WebServer};

pub static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dualwebrtcsink",
        gst::DebugColorFlags::empty(),
        Some("Dual-stream WebRTC sender"),
    )
});

/// Children that are not elements of the bin itself.
const OWN_CHILDREN: [&str; 6] = [
    "signaller",
    "pacer",
    "estimator",
    "fec-0",
    "fec-1",
    "audio-encoder",
];

/// While PAUSED or PLAYING.
struct Running {
    sender: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
    server: Option<SignallingServer>,
    web: Option<WebServer>,
}

pub struct DualWebRtcSink {
    // Lock order: no two of these at once.
    settings: Mutex<SinkSettings>,
    running: Mutex<Option<Running>>,
    shared: Arc<Shared>,
    parts: OnceLock<Parts>,
    /// While there is a pad for it.
    audio: Arc<Mutex<Option<AudioInput>>>,
    audio_rate: Arc<AudioRate>,
    sinkpad: gst::GhostPad,
}

impl DualWebRtcSink {
    fn add_audio(&self, template: &gst::PadTemplate) -> Result<gst::Pad, gst::ErrorMessage> {
        requirements::check(requirements::AUDIO_SENDER)?;
        let parts = self.parts.get();
        let (Some(parts), Some(encoder)) =
            (parts, parts.and_then(|parts| parts.audio_encoder.as_ref()))
        else {
            return Err(gst::error_msg!(gst::CoreError::Failed, ["no parts for it"]));
        };
        let obj = self.obj();
        let bin = obj.upcast_ref::<gst::Bin>();
        let rate = self.audio_rate.clone();
        let input = AudioInput::new(bin, template, &parts.timeline, encoder, rate)?;
        let weak = self.downgrade();
        input
            .ghost
            .add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
                if info
                    .event()
                    .is_some_and(|e| e.type_() == gst::EventType::Segment)
                    && let Some(imp) = weak.upgrade()
                    && let Some(input) = imp.audio.lock().unwrap().clone()
                {
                    input.set_live(is_live(pad.upcast_ref()));
                }
                gst::PadProbeReturn::Ok
            });
        if let Some(running) = &*self.running.lock().unwrap() {
            let handler = eos_handler(&running.sender);
            input.gate.set_eos_handler(Some(handler));
        }
        input.gate.set_mode(self.idle_mode());
        let pad = input.ghost.clone();
        let broken = |err: glib::BoolError| gst::error_msg!(gst::CoreError::Pad, ["{err}"]);
        pad.set_active(true).map_err(broken)?;
        input.sync_state(bin).map_err(broken)?;
        obj.add_pad(&pad).map_err(broken)?;
        *self.audio.lock().unwrap() = Some(input);
        Ok(pad.upcast())
    }

    /// Of the gates while there is no receiver.
    fn idle_mode(&self) -> Mode {
        if self.settings.lock().unwrap().wait_for_receiver {
            Mode::Hold
        } else {
            Mode::Drop
        }
    }

    /// A live source keeps its own pace and cannot wait.
    fn on_segment(&self) {
        let Some(parts) = self.parts.get() else {
            return;
        };
        let live = is_live(self.sinkpad.upcast_ref());
        gst::debug!(CAT, imp = self, "live source: {live}");
        parts.clocksync.set_property("sync", !live);
        parts.gate.set_live(live);
    }

    fn check(&self) -> Result<(), gst::ErrorMessage> {
        requirements::check(requirements::SENDER)?;
        if self.parts.get().is_none() {
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
        let (common, control, pacing, audio_settings, max_receivers, sharing, data_channel) = {
            let settings = self.settings.lock().unwrap();
            (
                settings.common.clone(),
                settings.congestion_control,
                settings.pacing,
                settings.audio,
                settings.max_receivers,
                settings.encoder_sharing,
                settings.data_channel,
            )
        };
        let (Some(parts), Some(signaller)) = (self.parts.get(), common.signaller.clone()) else {
            return Err(gst::error_msg!(gst::CoreError::Failed, ["not ready"]));
        };
        common.check()?;
        let server = common.start_server()?;
        let web = common.start_web_server(PageRole::Receive)?;
        let (sender, commands) = mpsc::channel();
        let post = sender.clone();
        let link = Link::producer(signaller, common.connect_timeout(), move |event| {
            // Fails only when the worker is gone.
            let _ = post.send(Command::Signalling(event));
        });
        parts.gate.set_eos_handler(Some(eos_handler(&sender)));
        if let Some(audio) = &*self.audio.lock().unwrap() {
            audio.gate.set_eos_handler(Some(eos_handler(&sender)));
        }
        let worker = Worker {
            sink: self.obj().downgrade(),
            tee: parts.tee.clone(),
            branches: vec![Branch::first(&parts.queue, &parts.encoder)],
            rates: parts.rates.clone(),
            kit: parts.kit.clone(),
            has_control: control == CongestionControl::Gcc,
            paced: pacing,
            has_fec: common.fec.sends(control == CongestionControl::Gcc),
            sharing,
            max_receivers: usize::try_from(max_receivers).unwrap_or(usize::MAX),
            gate: parts.gate.clone(),
            audio: self.audio.clone(),
            audio_rate: self.audio_rate.clone(),
            audio_settings,
            timeline: parts.timeline.clone(),
            data_channel: data_channel || common.run_web_server,
            settings: common,
            shared: self.shared.clone(),
            link,
            sender: sender.clone(),
            sessions: Vec::new(),
            serial: 0,
            pending_eos: None,
            eos_passed: false,
            warned: false,
            slow: VecDeque::new(),
            slow_look: None,
            slow_search: Search::default(),
            reach: Reach::default(),
        };
        let thread = std::thread::Builder::new()
            .name("dualwebrtcsink".into())
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
        if let Some(parts) = self.parts.get() {
            parts.gate.set_eos_handler(None);
        }
        if let Some(audio) = &*self.audio.lock().unwrap() {
            audio.gate.set_eos_handler(None);
        }
    }

    /// The serial of the session, or of the encoder made for one, that an object
    /// belongs to.
    fn owner_of(&self, object: &gst::Object) -> Option<Owner> {
        let mut child = object.clone();
        loop {
            let parent = child.parent()?;
            if &parent == self.obj().upcast_ref::<gst::Object>() {
                break;
            }
            child = parent;
        }
        let name = child.name();
        let serial = |prefix: &str| name.strip_prefix(prefix)?.parse().ok();
        serial("session-")
            .map(Owner::Session)
            .or_else(|| serial("encoder-").map(Owner::Encoder))
    }

    fn stats(&self) -> gst::Structure {
        let snapshot = self.shared.snapshot();
        let gate = self.parts.get().map(|p| p.gate.stats()).unwrap_or_default();
        let mut stats = gst::Structure::builder("application/x-dualwebrtcsink-stats")
            .field("session", "none")
            .field("connection-state", "none")
            .field("signalling", snapshot.signalling)
            .field("dual", false)
            .field("reason", "no receiver")
            .field("fec", Agreed::None.nick())
            .field("sessions", snapshot.sessions)
            .field("refused", snapshot.refused)
            .field("pictures-encoded", gate.passed)
            .field("pictures-dropped", gate.dropped)
            .field("pictures-late", self.shared.late())
            .field("waiting", gate.holding)
            .build();
        if let Some(running) = &*self.running.lock().unwrap()
            && let Some(web) = &running.web
        {
            stats.set("web-server", web.url());
        }
        if let Some(audio) = &*self.audio.lock().unwrap() {
            stats.set("audio", audio.stats());
        }
        if let Some(parts) = self.parts.get() {
            stats.set("latency", parts.kit.trace.structure());
            add_stats(&mut stats, "encoder", &parts.encoder);
        }
        if let Some(first) = snapshot.receivers.first() {
            first.add_to(&mut stats);
        }
        let receivers = snapshot.receivers.iter().map(Receiver::structure);
        stats.set("receivers", gst::Array::new(receivers));
        stats
    }
}

/// Whose failure is not that of the whole element.
#[derive(Clone, Copy)]
enum Owner {
    Session(u64),
    Encoder(u64),
}

impl Owner {
    fn failed(self, text: String) -> Command {
        match self {
            Self::Session(serial) => Command::Failed(serial, text),
            Self::Encoder(serial) => Command::EncoderFailed(serial, text),
        }
    }
}

fn is_live(pad: &gst::Pad) -> bool {
    let mut query = gst::query::Latency::new();
    pad.peer_query(&mut query) && query.result().0
}

fn eos_handler(sender: &mpsc::Sender<Command>) -> EosHandler {
    let post = sender.clone();
    Arc::new(move |eos| {
        // Fails only when the worker is gone.
        let _ = post.send(Command::Eos(eos));
    })
}

pub fn signaller_clash() -> gst::ErrorMessage {
    gst::error_msg!(
        gst::LibraryError::Init,
        ("The rswebrtc plugin is in use in this process and has types of the same names"),
        ["use elements of one of the two plugins in one process"]
    )
}

#[glib::object_subclass]
impl ObjectSubclass for DualWebRtcSink {
    const NAME: &'static str = "GstDualWebRtcSink";
    type Type = super::DualWebRtcSink;
    type ParentType = gst::Bin;
    type Interfaces = (gst::ChildProxy,);

    fn with_class(klass: &Self::Class) -> Self {
        let template = klass.pad_template("sink").expect("declared below");
        Self {
            settings: Mutex::default(),
            running: Mutex::default(),
            shared: Arc::default(),
            parts: OnceLock::new(),
            audio: Arc::default(),
            audio_rate: Arc::default(),
            sinkpad: gst::GhostPad::builder_from_template(&template).build(),
        }
    }
}

impl ObjectImpl for DualWebRtcSink {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let mut specs = SinkSettings::specs();
            specs.push(
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Structure application/x-dualwebrtcsink-stats; its fields are in the element's documentation")
                    .read_only()
                    .build(),
            );
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
                        Signaller::new(WebRTCSignallerRole::Producer).upcast()
                    }
                    None => Signaller::new(WebRTCSignallerRole::Producer).upcast(),
                };
                self.settings.lock().unwrap().common.signaller = Some(signaller);
            }
            "signalling" => {
                let wanted: SinkSignalling = value.get().expect("type checked upstream");
                let mut settings = self.settings.lock().unwrap();
                let common = &mut settings.common;
                if let Err(why) =
                    common.set_signalling(wanted, SinkSignalling::of, SinkSignalling::make)
                {
                    drop(settings);
                    gst::warning!(CAT, imp = self, "signalling: {why}");
                }
            }
            name => {
                let known = self.settings.lock().unwrap().set(name, value);
                debug_assert!(known, "unknown property {name}");
            }
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => self.stats().to_value(),
            "signalling" => {
                let signaller = self.settings.lock().unwrap().common.signaller.clone();
                signaller
                    .map_or(SinkSignalling::default(), |s| SinkSignalling::of(&s))
                    .to_value()
            }
            name => self
                .settings
                .lock()
                .unwrap()
                .get(name)
                .expect("declared above"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        // Sessions come and go, but this stays a sink.
        obj.set_suppressed_flags(gst::ElementFlags::SINK | gst::ElementFlags::SOURCE);
        obj.set_element_flags(gst::ElementFlags::SINK);
        match Parts::build(&obj, &self.shared, &self.sinkpad) {
            // Set only here.
            Ok(parts) => drop(self.parts.set(parts)),
            Err(err) => gst::warning!(CAT, imp = self, "{err:?}"),
        }
        obj.add_pad(&self.sinkpad).expect("a new element");
        let weak = self.downgrade();
        self.sinkpad
            .add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                if info
                    .event()
                    .is_some_and(|e| e.type_() == gst::EventType::Segment)
                    && let Some(imp) = weak.upgrade()
                {
                    imp.on_segment();
                }
                gst::PadProbeReturn::Ok
            });
    }
}

impl GstObjectImpl for DualWebRtcSink {}

impl ElementImpl for DualWebRtcSink {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Dual-stream WebRTC sender",
                "Sink/Network/WebRTC",
                "Encodes video as dual-stream H.264 and sends it over WebRTC",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            vec![
                gst::PadTemplate::new(
                    "sink",
                    gst::PadDirection::Sink,
                    gst::PadPresence::Always,
                    &gst::Caps::new_empty_simple("video/x-raw"),
                )
                .expect("valid template"),
                gst::PadTemplate::new(
                    audio::PAD,
                    gst::PadDirection::Sink,
                    gst::PadPresence::Request,
                    &audio::template_caps(),
                )
                .expect("valid template"),
            ]
        });
        TEMPLATES.as_ref()
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        if self.audio.lock().unwrap().is_some() {
            gst::warning!(CAT, imp = self, "there is an audio pad already");
            return None;
        }
        match self.add_audio(template) {
            Ok(pad) => Some(pad),
            Err(err) => {
                self.post_error_message(err);
                None
            }
        }
    }

    fn release_pad(&self, pad: &gst::Pad) {
        let ours = self
            .audio
            .lock()
            .unwrap()
            .take_if(|audio| audio.ghost.upcast_ref::<gst::Pad>() == pad);
        if let Some(audio) = ours {
            let _ = pad.set_active(false);
            // A session that is there goes on without.
            audio.remove(self.obj().upcast_ref());
            if let Err(err) = self.obj().remove_pad(pad) {
                gst::warning!(CAT, imp = self, "{err}");
            }
        }
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
                if let Some(parts) = self.parts.get() {
                    // Loads the encoders, and says if there is none.
                    parts.encoder.set_state(gst::State::Ready)?;
                }
            }
            gst::StateChange::ReadyToPaused => {
                let mode = self.idle_mode();
                if let Some(parts) = self.parts.get() {
                    parts.gate.set_mode(mode);
                }
                if let Some(audio) = &*self.audio.lock().unwrap() {
                    audio.gate.set_mode(mode);
                }
            }
            gst::StateChange::PausedToReady => self.stop(),
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
            }
            gst::StateChange::ReadyToNull => {
                if let Some(parts) = self.parts.get() {
                    parts.encoder.set_state(gst::State::Null)?;
                    parts.queue.set_state(gst::State::Null)?;
                    if let Some(encoder) = &parts.audio_encoder {
                        encoder.set_state(gst::State::Null)?;
                    }
                }
            }
            _ => {}
        }
        Ok(result)
    }
}

impl BinImpl for DualWebRtcSink {
    fn handle_message(&self, message: gst::Message) {
        let owner = message.src().and_then(|src| self.owner_of(src));
        match message.view() {
            // End of stream is posted by the worker, once all has been sent.
            gst::MessageView::Eos(_) => {}
            // The end of a session is not the end of the pipeline.
            gst::MessageView::Error(err) if owner.is_some() => {
                let text = format!("{}: {}", err.error(), err.debug().unwrap_or_default());
                gst::warning!(CAT, imp = self, "in the session: {text}");
                let running = self.running.lock().unwrap();
                if let (Some(running), Some(owner)) = (&*running, owner) {
                    // Fails only when the worker is gone.
                    let _ = running.sender.send(owner.failed(text));
                }
            }
            gst::MessageView::Warning(warning) if matches!(owner, Some(Owner::Session(_))) => {
                gst::warning!(CAT, imp = self, "in the session: {}", warning.error());
            }
            _ => self.parent_handle_message(message),
        }
    }
}

impl ChildProxyImpl for DualWebRtcSink {
    fn child_by_name(&self, name: &str) -> Option<glib::Object> {
        if name == "signaller" {
            let signaller = self.settings.lock().unwrap().common.signaller.clone();
            return signaller.map(Cast::upcast);
        }
        // In a session's bin, or in none.
        if let Some(parts) = self.parts.get() {
            match name {
                "pacer" => return Some(parts.kit.control.pacer.clone().upcast()),
                "audio-encoder" => return parts.audio_encoder.clone().map(Cast::upcast),
                "estimator" => return Some(parts.kit.control.estimator.clone().upcast()),
                "fec-0" | "fec-1" => {
                    let encoder = &parts.kit.fec.elements()[usize::from(name == "fec-1")];
                    return Some(encoder.clone().upcast());
                }
                _ => {}
            }
        }
        self.obj()
            .children()
            .into_iter()
            .find(|child| child.name() == name)
            .map(Cast::upcast)
    }

    fn child_by_index(&self, index: u32) -> Option<glib::Object> {
        if let Some(name) = OWN_CHILDREN.get(index as usize) {
            return self.child_by_name(name);
        }
        let children = self.obj().children();
        children
            .get(index as usize - OWN_CHILDREN.len())
            .map(|child| child.clone().upcast())
    }

    fn children_count(&self) -> u32 {
        (OWN_CHILDREN.len() + self.obj().children().len()) as u32
    }
}
