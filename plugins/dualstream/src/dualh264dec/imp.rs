// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-dualh264dec
 *
 * Decodes the two H.264 streams of dualh264enc into one stream of pictures:
 * each captured picture once, in order, from whichever stream has it.
 *
 * A key frame that is sent in the background is decoded and not shown; the
 * sender is told that it is complete, and when it then commits to that stream,
 * its pictures are shown from there on. See docs/dual-stream.md.
 *
 * - With the RTP header extension rtphdrextdualstream (or any other source of
 *   the buffer meta `DualStreamFrame`) pictures are ordered by frame number.
 *   Without, by time stamp; `stats` says `tagged=false`. A meta whose stream
 *   is not that of the pad is ignored and counted.
 * - Give the display stream and the standby to `sink_0` and `sink_1` by their
 *   stream number. `sink_1` may stay unlinked: then this is an ordinary
 *   low-latency H.264 decoder.
 * - Both inputs are put on one timeline, running time. The output's segment
 *   begins at 0, its time stamps rise strictly. A picture before the input's
 *   segment is decoded with time stamp 0.
 * - Pictures normally pass at once. Only around a commit, one that is ahead of
 *   late pictures of the other stream waits for them, up to `reorder-wait`.
 *   Such pictures are late already, so the wait is not part of the latency
 *   that is reported, which is that of upstream and the decoders.
 * - After a loss what can be decoded is shown, with the flag
 *   GST_BUFFER_FLAG_CORRUPTED, and a key unit is asked for upstream, on the pad
 *   of the display stream: once per loss, repeated after 300 ms and then with
 *   back-off to 2 s until the picture is sound. A loss in the background asks
 *   for nothing; that frame is just not said complete.
 * - "Complete" is the custom upstream event `application/x-frame-complete`
 *   (docs/wire-formats.md) on the stream's pad, repeated until the sender is
 *   seen to have moved on. rtcpiframefeedback sends it on.
 * - Decoders are tried by rank, and have to decode ten pictures to be taken. One
 *   that fails is started anew and waits for the next key frame; one that fails
 *   three times without a picture between, or gives none for 30 units from a key
 *   frame on, is replaced by the next, with a warning. One that was named stays,
 *   and five failures are an error, as where no other is left.
 * - Metas of the coded buffers go with the pictures. QoS events end here: a
 *   decoder that skips frames loses references. GAP events end here too, for a
 *   decoder forgets its references at one.
 * - A flush of one input flushes both.
 *
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=150 ! x264enc tune=zerolatency ! h264parse ! dualh264dec ! videoconvert ! autovideosink
 * ]| One stream, without tags.
 * |[
 * gst-launch-1.0 videotestsrc is-live=true num-buffers=300 ! dualh264enc name=e refresh-interval=2000 e.src_0 ! queue ! d.sink_0 e.src_1 ! queue ! d.sink_1 dualh264dec name=d ! videoconvert ! autovideosink
 * ]| Encoder and decoder in one process. Upstream events go straight back, so
 * that refreshes are committed.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `units` | u64 | coded units that arrived |
 * | `units-dropped` | u64 | of these not decoded: before the first key frame, repeated, out of order |
 * | `pictures` | u64 | pictures that the decoders gave |
 * | `shown` | u64 | pictures that left |
 * | `duplicates` | u64 | pictures whose number (or time stamp) was shown already |
 * | `late` | u64 | pictures older than what was shown |
 * | `background-decoded` | u64 | pictures decoded for later reference only |
 * | `untagged-hidden` | u64 | pictures without tag on the standby of a session with tags |
 * | `unknown` | u64 | pictures that belong to no coded unit |
 * | `flushed` | u64 | pictures dropped by a flush |
 * | `held` | u64 | pictures held now |
 * | `missing` | u64 | frame numbers left out between shown pictures |
 * | `completes` | u64 | frames said complete |
 * | `completes-sent` | u64 | "complete" events, with repeats |
 * | `losses` | u64 | losses seen on the display stream |
 * | `recoveries-asked` | u64 | key unit requests, with repeats |
 * | `switches` | u64 | times that the display role went to the other stream |
 * | `restarts` | u64 | times that the sender's numbers began anew |
 * | `mismatched-tags` | u64 | metas ignored because their stream is not the pad's |
 * | `relabelled` | u64 | units found to carry the number of the frame after them |
 * | `decoder-restarts` | u64 | times that a decoder was started anew |
 * | `tagged` | bool | the units that come now have frame numbers |
 * | `display-stream` | i32 | as the property |
 * | `decoder-failures` | u64 | decoders that were replaced because they failed |
 * | `decoder` | string | factory name of the display stream's decoder, empty before READY |
 * | `decoder-0`, `decoder-1` | string | factory name of each stream's decoder |
 *
 * Since: 0.1
 */
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use dualstream_core::receiver::{AskRecovery, Complete, Config};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::decoder::{self, Decoder, NoDecoder};
use super::gate::Gate;
use super::hub::Hub;
use super::join::Join;

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dualh264dec",
        gst::DebugColorFlags::empty(),
        Some("Dual-stream H.264 decoder"),
    )
});

const AUTO: &str = "auto";

#[derive(Clone, Debug)]
struct Settings {
    decoder: String,
    reorder_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            decoder: AUTO.to_owned(),
            reorder_wait: Config::default().reorder_wait,
        }
    }
}

impl Settings {
    fn config(&self) -> Config {
        Config {
            reorder_wait: self.reorder_wait,
            ..Config::default()
        }
    }
}

/// The chosen decoders, from READY on.
#[derive(Default)]
struct State {
    /// In the order in which they are tried.
    candidates: Vec<gst::ElementFactory>,
    /// Place among them of what each stream has.
    chosen: [usize; 2],
    decoders: [Option<Decoder>; 2],
}

impl State {
    fn name(&self, stream: Stream) -> String {
        let i = stream.index();
        let factory = self.candidates.get(self.chosen[i]);
        let factory = factory.filter(|_| self.decoders[i].is_some());
        factory.map_or_else(String::new, |f| f.name().to_string())
    }
}

// Lock order: none of these is held while another, or the hub's, is taken.
pub struct DualH264Dec {
    hub: Arc<Hub>,
    gates: [Gate; 2],
    join: Join,
    sinkpads: [gst::GhostPad; 2],
    srcpad: gst::GhostPad,
    settings: Mutex<Settings>,
    state: Mutex<State>,
    decoder_restarts: AtomicU64,
    decoder_failures: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl DualH264Dec {
    pub(super) fn linked(&self) -> [bool; 2] {
        [&self.sinkpads[0], &self.sinkpads[1]].map(|pad| pad.is_linked())
    }

    fn send(&self, stream: Stream, event: gst::Event) -> bool {
        self.gates[stream.index()].sink().push_event(event)
    }

    pub(super) fn send_complete(&self, complete: Complete) {
        gst::debug!(CAT, imp = self, "{complete:?}");
        let structure = gst::Structure::builder("application/x-frame-complete")
            .field("stream", complete.stream.index() as u32)
            .field("frame", u32::from(complete.number))
            .field("generation", u32::from(complete.generation))
            .field("key", complete.key)
            .field("decodable", true)
            .build();
        self.send(complete.stream, gst::event::CustomUpstream::new(structure));
    }

    pub(super) fn ask_recovery(&self, ask: AskRecovery) {
        gst::info!(CAT, imp = self, "{ask:?}");
        let event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        self.send(ask.stream, event);
    }

    /// An event from downstream: to the stream that is shown, or to both if it
    /// is about the timeline.
    pub(super) fn send_upstream(&self, event: gst::Event) -> bool {
        let linked = self.linked();
        let both = matches!(
            event.type_(),
            gst::EventType::Seek | gst::EventType::Latency | gst::EventType::Step
        );
        if both {
            let mut done = false;
            for stream in Stream::BOTH.into_iter().filter(|s| linked[s.index()]) {
                done |= self.send(stream, event.clone());
            }
            return done;
        }
        let display = self.hub.display().filter(|s| linked[s.index()]);
        let stream = display.or_else(|| Stream::BOTH.into_iter().find(|s| linked[s.index()]));
        stream.is_some_and(|stream| self.send(stream, event))
    }

    pub(super) fn decoder_works(&self, stream: Stream) {
        self.gates[stream.index()].decoder_works();
    }

    /// Called from the gate's streaming thread.
    pub(super) fn restart_decoder(&self, stream: Stream) {
        self.decoder_restarts.fetch_add(1, Ordering::Relaxed);
        let Some(decoder) = locked(&self.state).decoders[stream.index()].clone() else {
            return;
        };
        for element in decoder.elements() {
            if element.set_state(gst::State::Ready).is_err() {
                gst::warning!(CAT, imp = self, "{} does not stop", element.name());
            }
        }
        for element in decoder.elements() {
            if element.sync_state_with_parent().is_err() {
                gst::warning!(CAT, imp = self, "{} does not start", element.name());
            }
        }
        // A new link gets the sticky events again.
        let gate = self.gates[stream.index()].src();
        if let (Some(sink), _) = decoder.ends() {
            let _ = gate.unlink(&sink);
            if let Err(error) = gate.link(&sink) {
                gst::error!(CAT, imp = self, "Cannot link the decoder again: {error}");
            }
        }
    }

    fn make_decoders(&self) -> Result<(), NoDecoder> {
        let wanted = locked(&self.settings).decoder.clone();
        let candidates = decoder::candidates(&wanted)?;
        let Some(first) = decoder::first_working(&candidates, 0, wanted != AUTO) else {
            return Err(if wanted == AUTO {
                NoDecoder::NoneInstalled
            } else {
                NoDecoder::Fails(wanted)
            });
        };
        let factory = candidates[first].clone();
        gst::info!(CAT, imp = self, "Decoding with {}", factory.name());
        {
            let mut state = locked(&self.state);
            state.candidates = candidates;
            state.chosen = [first; 2];
        }
        for stream in Stream::BOTH {
            let decoder = decoder::make(&factory)?;
            self.add(stream, &decoder)
                .map_err(|_| NoDecoder::Fails(factory.name().to_string()))?;
            locked(&self.state).decoders[stream.index()] = Some(decoder);
        }
        Ok(())
    }

    /// The next candidate in place of the decoder of `stream`. False: there is
    /// none, and all stays as it is. Called from the gate's streaming thread.
    pub(super) fn replace_decoder(&self, stream: Stream, why: &str) -> bool {
        let i = stream.index();
        let (candidates, old) = {
            let state = locked(&self.state);
            (state.candidates.clone(), state.chosen[i])
        };
        let mut next = old;
        let made = loop {
            let Some(at) = decoder::first_working(&candidates, next + 1, false) else {
                return false;
            };
            next = at;
            if let Ok(decoder) = decoder::make(&candidates[at]) {
                break decoder;
            }
        };
        let gone = {
            let mut state = locked(&self.state);
            state.chosen[i] = next;
            state.decoders[i].replace(made.clone())
        };
        if let Some(gone) = gone {
            self.remove(stream, &gone);
        }
        self.decoder_failures.fetch_add(1, Ordering::Relaxed);
        let names = [old, next].map(|at| candidates[at].name());
        if let Err(error) = self.add(stream, &made) {
            gst::error!(CAT, imp = self, "{}: {error}", names[1]);
            return false;
        }
        for element in made.elements() {
            if element.sync_state_with_parent().is_err() {
                gst::warning!(CAT, imp = self, "{} does not start", element.name());
            }
        }
        gst::element_imp_warning!(
            self,
            gst::StreamError::Decode,
            (
                "The decoder {} of stream {i} failed; going on with {}",
                names[0],
                names[1]
            ),
            ["{why}"]
        );
        true
    }

    /// Takes a decoder out that fails.
    fn remove(&self, stream: Stream, decoder: &Decoder) {
        if let (Some(sink), Some(src)) = decoder.ends() {
            let _ = self.gates[stream.index()].src().unlink(&sink);
            let _ = src.unlink(self.join.sink(stream));
        }
        for element in decoder.elements() {
            element.set_locked_state(true);
            let _ = element.set_state(gst::State::Null);
            let _ = self.obj().remove(element);
        }
    }

    fn add(&self, stream: Stream, decoder: &Decoder) -> Result<(), glib::BoolError> {
        let bin = self.obj();
        for element in decoder.elements() {
            bin.add(element)?;
        }
        let fails = |what| glib::bool_error!("cannot link the {what}");
        if let Some(parser) = &decoder.parser {
            parser.link(&decoder.element)?;
        }
        let (Some(sink), Some(src)) = decoder.ends() else {
            return Err(fails("decoder: pads are missing"));
        };
        let gate = &self.gates[stream.index()];
        gate.src().link(&sink).map_err(|_| fails("gate"))?;
        src.link(self.join.sink(stream))
            .map_err(|_| fails("join"))?;
        Ok(())
    }

    fn remove_decoders(&self) {
        let state = std::mem::take(&mut *locked(&self.state));
        for decoder in state.decoders.iter().flatten() {
            for element in decoder.elements() {
                let _ = element.set_state(gst::State::Null);
                if element.parent().is_some() {
                    let _ = self.obj().remove(element);
                }
            }
        }
    }

    fn stats(&self) -> gst::Structure {
        let s = self.hub.core(|core| core.stats());
        let names = {
            let state = locked(&self.state);
            Stream::BOTH.map(|stream| state.name(stream))
        };
        let display = self.hub.display().map_or(0, Stream::index);
        gst::Structure::builder("application/x-dualh264dec-stats")
            .field("units", s.units)
            .field("units-dropped", s.units_dropped)
            .field("pictures", s.pictures)
            .field("shown", s.shown)
            .field("duplicates", s.duplicates)
            .field("late", s.late)
            .field("background-decoded", s.background_decoded)
            .field("untagged-hidden", s.untagged_hidden)
            .field("unknown", s.unknown + s.refused_full)
            .field("flushed", s.flushed)
            .field("held", s.held)
            .field("missing", s.missing)
            .field("completes", s.completes)
            .field("completes-sent", s.completes_sent)
            .field("losses", s.losses)
            .field("recoveries-asked", s.recoveries_asked)
            .field("switches", s.switches)
            .field("restarts", s.restarts)
            .field("mismatched-tags", s.mismatched_tags)
            .field("relabelled", s.relabelled)
            .field(
                "decoder-restarts",
                self.decoder_restarts.load(Ordering::Relaxed),
            )
            .field("tagged", s.tagged)
            .field("display-stream", self.display_stream())
            .field(
                "decoder-failures",
                self.decoder_failures.load(Ordering::Relaxed),
            )
            .field("decoder", &names[display])
            .field("decoder-0", &names[0])
            .field("decoder-1", &names[1])
            .build()
    }

    fn display_stream(&self) -> i32 {
        self.hub.display().map_or(-1, |s| s.index() as i32)
    }

    /// The stream whose decoder an object belongs to.
    fn stream_of_decoder(&self, object: &gst::Object) -> Option<Stream> {
        let state = locked(&self.state);
        Stream::BOTH.into_iter().find(|stream| {
            state.decoders[stream.index()].as_ref().is_some_and(|d| {
                d.elements()
                    .any(|e| object == e.upcast_ref::<gst::Object>() || object.has_as_ancestor(e))
            })
        })
    }
}

#[glib::object_subclass]
impl ObjectSubclass for DualH264Dec {
    const NAME: &'static str = "GstDualH264Dec";
    type Type = super::DualH264Dec;
    type ParentType = gst::Bin;

    fn with_class(klass: &Self::Class) -> Self {
        let hub = Arc::new(Hub::new(Settings::default().config()));
        let ghost = |name: &str| {
            let template = klass.pad_template(name).expect("own template");
            gst::GhostPad::from_template(&template)
        };
        Self {
            gates: Stream::BOTH.map(|stream| Gate::new(hub.clone(), stream)),
            join: Join::new(hub.clone()),
            hub,
            sinkpads: ["sink_0", "sink_1"].map(ghost),
            srcpad: ghost("src"),
            settings: Mutex::default(),
            state: Mutex::default(),
            decoder_restarts: AtomicU64::new(0),
            decoder_failures: AtomicU64::new(0),
        }
    }
}

impl ObjectImpl for DualH264Dec {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let defaults = Settings::default();
            vec![
                glib::ParamSpecString::builder("decoder")
                    .nick("Decoder")
                    .blurb(
                        "Factory name of the H.264 decoder to use, or \"auto\" for the one of \
                         highest rank that works, with the next ones in reserve; read when going to READY",
                    )
                    .default_value(Some(AUTO))
                    .build(),
                glib::ParamSpecUInt::builder("reorder-wait")
                    .nick("Reorder Wait")
                    .blurb(
                        "How long a picture waits for earlier ones that may still come by the \
                         other stream, in ms; 0 = not at all",
                    )
                    .maximum(10_000)
                    .default_value(defaults.reorder_wait.as_millis() as u32)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecInt::builder("display-stream")
                    .nick("Display Stream")
                    .blurb(
                        "The stream that is being shown, 0 or 1; -1 = none known, as before the \
                         first picture or without tags",
                    )
                    .minimum(-1)
                    .maximum(1)
                    .default_value(-1)
                    .read_only()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Counters, see the element's documentation")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        match pspec.name() {
            "decoder" => {
                let name: Option<String> = value.get().expect("type checked upstream");
                locked(&self.settings).decoder = name
                    .filter(|n| !n.is_empty())
                    .unwrap_or_else(|| AUTO.into());
            }
            "reorder-wait" => {
                let ms: u32 = value.get().expect("type checked upstream");
                let wait = Duration::from_millis(ms.into());
                locked(&self.settings).reorder_wait = wait;
                self.hub.core(|core| core.set_reorder_wait(wait));
            }
            _ => unreachable!("all writable properties are above"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "decoder" => locked(&self.settings).decoder.to_value(),
            "reorder-wait" => (locked(&self.settings).reorder_wait.as_millis() as u32).to_value(),
            "display-stream" => self.display_stream().to_value(),
            "stats" => self.stats().to_value(),
            _ => unreachable!("all properties are above"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        self.hub.set_bin(&obj);
        let [zero, one] = &self.gates;
        obj.add_many([
            zero.upcast_ref::<gst::Element>(),
            one.upcast_ref(),
            self.join.upcast_ref(),
        ])
        .expect("a new bin takes elements");
        for (ghost, gate) in self.sinkpads.iter().zip(&self.gates) {
            ghost.set_target(Some(gate.sink())).expect("templates fit");
            let hub = Arc::downgrade(&self.hub);
            ghost.connect_unlinked(move |_, _| {
                if let Some(hub) = hub.upgrade() {
                    hub.links_changed();
                }
            });
            obj.add_pad(ghost).expect("a new element has no pads");
        }
        self.srcpad
            .set_target(Some(self.join.src()))
            .expect("templates fit");
        obj.add_pad(&self.srcpad)
            .expect("a new element has no pads");
    }
}

impl GstObjectImpl for DualH264Dec {}

impl ElementImpl for DualH264Dec {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Dual-stream H.264 decoder",
                "Codec/Decoder/Video",
                "Decodes the two H.264 streams of dualh264enc into one stream of pictures, each \
                 once and in order, and tells the sender which background frames are complete",
                "gst-dualstream",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let coded = decoder::coded_caps();
            let raw = gst::Caps::builder("video/x-raw").any_features().build();
            [
                ("sink_0", gst::PadDirection::Sink, &coded),
                ("sink_1", gst::PadDirection::Sink, &coded),
                ("src", gst::PadDirection::Src, &raw),
            ]
            .into_iter()
            .filter_map(|(name, direction, caps)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).ok()
            })
            .collect()
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::NullToReady => {
                if let Err(error) = self.make_decoders() {
                    self.remove_decoders();
                    gst::element_imp_error!(
                        self,
                        gst::CoreError::MissingPlugin,
                        ("{error}"),
                        ["set the property \"decoder\" to an installed H.264 decoder"]
                    );
                    return Err(gst::StateChangeError);
                }
            }
            gst::StateChange::ReadyToPaused => {
                let config = locked(&self.settings).config();
                self.decoder_restarts.store(0, Ordering::Relaxed);
                self.decoder_failures.store(0, Ordering::Relaxed);
                self.hub.reset(config);
            }
            gst::StateChange::PlayingToPaused => self.hub.set_playing(false),
            _ => {}
        }
        let result = self.parent_change_state(transition);
        match transition {
            gst::StateChange::PausedToPlaying if result.is_ok() => self.hub.set_playing(true),
            gst::StateChange::PausedToReady => self.hub.flush(),
            gst::StateChange::ReadyToNull => self.remove_decoders(),
            gst::StateChange::NullToReady if result.is_err() => self.remove_decoders(),
            _ => {}
        }
        result
    }
}

impl BinImpl for DualH264Dec {
    fn handle_message(&self, message: gst::Message) {
        if let gst::MessageView::Error(error) = message.view()
            && let Some(stream) = message.src().and_then(|s| self.stream_of_decoder(s))
        {
            // It is started anew with its next unit; the gate gives up.
            gst::warning!(
                CAT,
                imp = self,
                "Decoder of stream {}: {}",
                stream.index(),
                error.error()
            );
            self.gates[stream.index()].decoder_failed(error.error());
            return;
        }
        self.parent_handle_message(message);
    }
}
