// SPDX-License-Identifier: MPL-2.0
//! Audio before a session: raw sound is brought to 48 kHz and one or two
//! channels and encoded with little delay; Opus passes as it is.
//!
//! ```text
//! audio -> audioconvert -> audioresample -> clocksync -> gate -> opusenc -> tee -> sessions
//!       \------------ Opus ----------------> clocksync -> gate ----------> tee -> sessions
//! ```

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use super::audio_rate::{AudioRate, FecMode, Wanted};
use super::gate::{GateElement, Mode};
use super::timeline::Timeline;
use crate::requirements::make;

/// Name of the request pad.
pub const PAD: &str = "audio";
/// Rate of a stream that came encoded, until it is measured.
const GUESS: u32 = 64_000;
/// Sound is taken for continuous up to this; beyond, the time stamps win. By
/// default 40 ms, which would be heard as sound beside the picture.
const TOLERANCE_NS: i64 = 5_000_000;

/// What the application chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// bit/s
    pub bitrate: u32,
    pub frame: FrameSize,
    pub fec: FecMode,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bitrate: 128_000,
            frame: FrameSize::default(),
            fec: FecMode::default(),
        }
    }
}

/// Sound in one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcSinkAudioFrame")]
pub enum FrameSize {
    #[enum_value(name = "5 ms: least delay, most overhead", nick = "5")]
    Ms5,
    #[default]
    #[enum_value(name = "10 ms", nick = "10")]
    Ms10,
    #[enum_value(name = "20 ms: what browsers send", nick = "20")]
    Ms20,
}

impl FrameSize {
    pub fn ms(self) -> u32 {
        match self {
            Self::Ms5 => 5,
            Self::Ms10 => 10,
            Self::Ms20 => 20,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// What comes in is Opus already.
    encoded: bool,
    linked: bool,
    /// Pads of the tee, and the receivers behind them.
    taps: Vec<(u64, gst::Pad)>,
    /// In force, and what is to be at the next buffer.
    applied: Option<Wanted>,
    wanted: Wanted,
}

/// The static part of the audio path, while there is a pad for it.
#[derive(Clone)]
pub struct AudioInput {
    pub gate: GateElement,
    pub encoder: gst::Element,
    pub ghost: gst::GhostPad,
    tee: gst::Element,
    clocksync: gst::Element,
    resample: gst::Element,
    convert: gst::Element,
    rate: Arc<AudioRate>,
    state: Arc<Mutex<State>>,
    /// Held while the encoder is linked, unlinked or started.
    links: Arc<Mutex<()>>,
}

fn opus_caps() -> gst::Caps {
    gst::Caps::builder("audio/x-opus")
        .field("channel-mapping-family", 0i32)
        .build()
}

/// What the pad takes.
pub fn template_caps() -> gst::Caps {
    let mut caps = gst::Caps::new_empty_simple("audio/x-raw");
    caps.merge(opus_caps());
    caps
}

fn broken(err: impl std::fmt::Display) -> gst::ErrorMessage {
    gst::error_msg!(gst::CoreError::Failed, ["{err}"])
}

fn pad(element: &gst::Element, name: &str) -> Result<gst::Pad, gst::ErrorMessage> {
    element
        .static_pad(name)
        .ok_or_else(|| broken(format!("{} has no pad {name}", element.name())))
}

impl AudioInput {
    /// Made with the sink, so that the encoder's properties can be set; used
    /// once there is a pad.
    pub fn encoder() -> Result<gst::Element, gst::ErrorMessage> {
        let encoder = make("opusenc", "audio-encoder")?;
        encoder.set_property_from_str("audio-type", "restricted-lowdelay");
        encoder.set_property_from_str("bitrate-type", "cbr");
        encoder.set_property("tolerance", TOLERANCE_NS);
        Ok(encoder)
    }

    pub fn new(
        bin: &gst::Bin,
        template: &gst::PadTemplate,
        timeline: &Timeline,
        encoder: &gst::Element,
        rate: Arc<AudioRate>,
    ) -> Result<Self, gst::ErrorMessage> {
        let convert = make("audioconvert", "audio-convert")?;
        let resample = make("audioresample", "audio-resample")?;
        let clocksync = make("clocksync", "audio-clocksync")?;
        let tee = make("tee", "audio-tee")?;
        tee.set_property("allow-not-linked", true);
        let mut formats = gst::Caps::builder("audio/x-raw")
            .field("rate", 48_000i32)
            .field("channels", gst::IntRange::new(1i32, 2))
            .build();
        formats.merge(opus_caps());
        let entry = pad(encoder, "sink")?;
        let gate = GateElement::new("audio-gate", formats, timeline, &clocksync, &entry);
        bin.add_many([&convert, &resample, &clocksync, gate.upcast_ref(), &tee])
            .map_err(broken)?;
        if encoder.parent().is_none() {
            // It runs with a session only.
            encoder.set_locked_state(true);
            bin.add(encoder).map_err(broken)?;
        }
        gst::Element::link_many([&convert, &resample, &clocksync, gate.upcast_ref()])
            .map_err(broken)?;
        let state = Arc::<Mutex<State>>::default();
        let ghost = ghost(template, &pad(&convert, "sink")?)?;
        let input = Self {
            gate,
            encoder: encoder.clone(),
            ghost,
            tee,
            clocksync,
            resample,
            convert,
            rate,
            state,
            links: Arc::default(),
        };
        input.watch();
        Ok(input)
    }

    /// What comes in says whether it is encoded; the encoder is changed where it
    /// is used.
    fn watch(&self) {
        let weak = self.downgrade();
        self.ghost
            .add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                let caps = info.event().and_then(|event| match event.view() {
                    gst::EventView::Caps(caps) => Some(caps.caps_owned()),
                    _ => None,
                });
                if let (Some(caps), Some(input)) = (caps, weak.upgrade()) {
                    let name = caps.structure(0).map(|s| s.name().as_str());
                    input.set_encoded(name == Some("audio/x-opus"));
                }
                gst::PadProbeReturn::Ok
            });
        let weak = self.downgrade();
        self.gate.set_before_push(Some(Arc::new(move || {
            if let Some(input) = weak.upgrade() {
                input.apply();
            }
        })));
    }

    pub fn downgrade(&self) -> Weak {
        Weak {
            gate: self.gate.downgrade(),
            encoder: self.encoder.downgrade(),
            ghost: self.ghost.downgrade(),
            parts: [&self.clocksync, &self.resample, &self.convert, &self.tee]
                .map(|e| e.downgrade()),
            rate: self.rate.clone(),
            state: self.state.clone(),
            links: self.links.clone(),
        }
    }

    /// From the streaming thread, before the first buffer of that kind.
    fn set_encoded(&self, encoded: bool) {
        {
            let mut state = self.state.lock().unwrap();
            if state.encoded == encoded {
                return;
            }
            if state.linked {
                gst::warning!(
                    super::imp::CAT,
                    obj = self.gate,
                    "raw or encoded: it stays what it was until the session ends"
                );
                return;
            }
            state.encoded = encoded;
        }
        let (Some(resampled), Some(sync), Some(raw)) = (
            self.resample.static_pad("src"),
            self.clocksync.static_pad("sink"),
            self.convert.static_pad("sink"),
        ) else {
            return;
        };
        let done = if encoded {
            // Not linked: nothing to undo.
            let _ = resampled.unlink(&sync);
            self.gate.set_encoder_pad(None);
            self.ghost.set_target(Some(&sync))
        } else {
            self.gate
                .set_encoder_pad(self.encoder.static_pad("sink").as_ref());
            self.ghost.set_target(Some(&raw)).and_then(|()| {
                resampled
                    .link(&sync)
                    .map(drop)
                    .map_err(|err| glib::bool_error!("{err}"))
            })
        };
        if let Err(err) = done {
            gst::warning!(super::imp::CAT, obj = self.gate, "{err}");
        }
    }

    pub fn set_live(&self, live: bool) {
        self.clocksync.set_property("sync", !live);
        self.gate.set_live(live);
    }

    /// Lets sound go to the session's pad.
    pub fn start(
        &self,
        sink: &gst::Element,
        id: u64,
        session: &gst::Bin,
    ) -> Result<(), glib::BoolError> {
        let links = self.links.lock().unwrap();
        let tap = self
            .tee
            .request_pad_simple("src_%u")
            .ok_or_else(|| glib::bool_error!("{} gives no pad", self.tee.name()))?;
        let is_first = {
            let mut state = self.state.lock().unwrap();
            state.taps.push((id, tap.clone()));
            !std::mem::replace(&mut state.linked, true)
        };
        let entry = session
            .static_pad(PAD)
            .ok_or_else(|| glib::bool_error!("{} has no pad {PAD}", session.name()))?;
        tap.link(&entry).map_err(|err| glib::bool_error!("{err}"))?;
        if is_first {
            self.start_encoding(sink)?;
        }
        drop(links);
        self.gate.set_mode(Mode::Pass);
        Ok(())
    }

    /// Pictures go to a receiver that takes no audio: that of a source which waits is
    /// not held back any longer.
    pub fn pass_by(&self) {
        if self.state.lock().unwrap().taps.is_empty() {
            self.gate.set_mode(Mode::Drop);
        }
    }

    fn start_encoding(&self, sink: &gst::Element) -> Result<(), glib::BoolError> {
        let encoded = {
            let mut state = self.state.lock().unwrap();
            state.applied = Some(self.rate.initial());
            state.wanted = self.rate.initial();
            state.encoded
        };
        if encoded {
            self.rate.reset(GUESS, 20);
            return self.gate.link_pads(Some("src"), &self.tee, Some("sink"));
        }
        if let Some(base_time) = sink.base_time() {
            self.encoder.set_base_time(base_time);
        }
        self.rate
            .initial()
            .set(&self.encoder, self.rate.may_change_kind());
        self.encoder
            .link_pads(Some("src"), &self.tee, Some("sink"))?;
        self.encoder.set_locked_state(false);
        self.encoder.sync_state_with_parent()?;
        self.gate.link(&self.encoder)
    }

    /// Before a session's bin stops: what it refuses from here on does not come
    /// back to the others.
    pub fn leave(&self, id: u64) {
        let _links = self.links.lock().unwrap();
        let tap = {
            let mut state = self.state.lock().unwrap();
            let at = state.taps.iter().position(|(tapped, _)| *tapped == id);
            at.map(|at| state.taps.swap_remove(at).1)
        };
        if let Some(tap) = tap {
            self.tee.release_request_pad(&tap);
        }
    }

    /// After the last session's bin has stopped.
    pub fn stop(&self) {
        let _links = self.links.lock().unwrap();
        if !self.state.lock().unwrap().taps.is_empty() {
            return;
        }
        self.encoder.set_locked_state(true);
        let _ = self.encoder.set_state(gst::State::Ready);
        self.gate.unlink(&self.encoder);
        self.gate.unlink(&self.tee);
        self.encoder.unlink(&self.tee);
        self.state.lock().unwrap().linked = false;
    }

    /// From any thread: the encoder is changed before the next buffer.
    pub fn set_wanted(&self, wanted: Wanted) {
        self.state.lock().unwrap().wanted = wanted;
    }

    /// Bitrate and FEC can be changed in place. What restricted low delay is
    /// cannot, and it has no FEC: there the encoder begins anew, at the cost of
    /// the samples that it holds, one packet at most.
    fn apply(&self) {
        let (wanted, before) = {
            let mut state = self.state.lock().unwrap();
            if state.encoded || state.applied == Some(state.wanted) {
                return;
            }
            let wanted = state.wanted;
            (wanted, state.applied.replace(wanted))
        };
        let _links = self.links.lock().unwrap();
        if !self.state.lock().unwrap().linked {
            return;
        }
        let kind_changes =
            before.is_some_and(|b| b.has_fec != wanted.has_fec) && self.rate.may_change_kind();
        if kind_changes {
            self.gate.unlink(&self.encoder);
            let _ = self.encoder.set_state(gst::State::Ready);
        }
        wanted.set(&self.encoder, self.rate.may_change_kind());
        if kind_changes {
            let done = self
                .encoder
                .sync_state_with_parent()
                .and_then(|()| self.gate.link(&self.encoder));
            if let Err(err) = done {
                gst::warning!(super::imp::CAT, obj = self.gate, "no sound: {err}");
            }
        }
    }

    pub fn sync_state(&self, bin: &gst::Bin) -> Result<(), glib::BoolError> {
        // Else it is started with the bin.
        if bin.current_state() > gst::State::Ready {
            for element in self.elements() {
                element.sync_state_with_parent()?;
            }
        }
        Ok(())
    }

    fn elements(&self) -> [&gst::Element; 5] {
        let gate = self.gate.upcast_ref();
        [
            &self.tee,
            gate,
            &self.clocksync,
            &self.resample,
            &self.convert,
        ]
    }

    pub fn stats(&self) -> gst::Structure {
        let gate = self.gate.stats();
        let (linked, applied) = {
            let state = self.state.lock().unwrap();
            (state.linked, state.applied.unwrap_or_default())
        };
        gst::Structure::builder("audio")
            .field("sending", linked)
            .field("buffers-passed", gate.passed)
            .field("buffers-dropped", gate.dropped)
            .field("bitrate", u64::from(applied.bitrate))
            .field("share", self.rate.share())
            .field("fec", applied.has_fec)
            .build()
    }

    /// The pad goes; no session uses it.
    pub fn remove(&self, bin: &gst::Bin) {
        self.gate.set_before_push(None);
        for element in self.elements() {
            element.set_locked_state(true);
            let _ = element.set_state(gst::State::Null);
            // The bin lets go of its children before its pads.
            if element.parent().as_ref() == Some(bin.upcast_ref())
                && let Err(err) = bin.remove(element)
            {
                gst::warning!(super::imp::CAT, obj = bin, "{err}");
            }
        }
    }
}

/// Without the cycle from the gate to itself.
pub struct Weak {
    gate: glib::WeakRef<GateElement>,
    encoder: glib::WeakRef<gst::Element>,
    ghost: glib::WeakRef<gst::GhostPad>,
    parts: [glib::WeakRef<gst::Element>; 4],
    rate: Arc<AudioRate>,
    state: Arc<Mutex<State>>,
    links: Arc<Mutex<()>>,
}

impl Weak {
    pub fn upgrade(&self) -> Option<AudioInput> {
        let [clocksync, resample, convert, tee] = &self.parts;
        Some(AudioInput {
            gate: self.gate.upgrade()?,
            encoder: self.encoder.upgrade()?,
            ghost: self.ghost.upgrade()?,
            tee: tee.upgrade()?,
            clocksync: clocksync.upgrade()?,
            resample: resample.upgrade()?,
            convert: convert.upgrade()?,
            rate: self.rate.clone(),
            state: self.state.clone(),
            links: self.links.clone(),
        })
    }
}

/// The pad takes raw sound and Opus, whichever it leads to now.
fn ghost(
    template: &gst::PadTemplate,
    target: &gst::Pad,
) -> Result<gst::GhostPad, gst::ErrorMessage> {
    let raw = target.downgrade();
    let ghost = gst::GhostPad::builder_from_template_with_target(template, target)
        .map_err(broken)?
        .name(PAD)
        .query_function(move |pad, parent, query| {
            let (opus, raw) = (opus_caps(), raw.upgrade());
            match (query.view_mut(), raw) {
                (gst::QueryViewMut::Caps(caps), Some(raw)) => {
                    let mut result = match caps.filter() {
                        Some(filter) => opus.intersect(filter),
                        None => opus,
                    };
                    result.merge(raw.query_caps(caps.filter_owned().as_ref()));
                    caps.set_result(&result);
                    true
                }
                (gst::QueryViewMut::AcceptCaps(accept), Some(raw)) => {
                    let is_opus = accept.caps().can_intersect(&opus);
                    let accepted = is_opus || raw.query_accept_caps(&accept.caps_owned());
                    accept.set_result(accepted);
                    true
                }
                _ => gst::Pad::query_default(pad, parent, query),
            }
        })
        .build();
    Ok(ghost)
}
