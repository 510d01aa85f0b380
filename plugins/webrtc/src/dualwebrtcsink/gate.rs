// SPDX-License-Identifier: MPL-2.0
//! What stands before an encoder: drops pictures or sound while there is no
//! receiver, or holds the first, and marks each with its time of capture.
//!
//! It is an element inside dualwebrtcsink, without a factory.

use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};

use super::timeline::{Timeline, running_time};
use crate::capture_time::{self, NtpTime};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dualwebrtcgate",
        gst::DebugColorFlags::empty(),
        Some("Gate before the encoder of dualwebrtcsink"),
    )
});

/// End of stream came in; `passed` if it went on to the encoder.
#[derive(Clone, Copy, Debug)]
pub struct Eos {
    pub seqnum: gst::Seqnum,
    pub passed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Drop,
    /// Drop, but keep the first picture of a source that can wait.
    Hold,
    Pass,
}

pub type EosHandler = Arc<dyn Fn(Eos) + Send + Sync>;
/// Called before a buffer goes on, from the streaming thread.
pub type BeforePush = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    mode: Mode,
    flushing: bool,
    /// The source cannot wait.
    live: bool,
    /// Between end of stream and flush.
    ended: bool,
    /// A picture is being held.
    holding: bool,
    /// By which our time line is shifted now.
    shift: i64,
    passed: u64,
    dropped: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub passed: u64,
    pub dropped: u64,
    pub holding: bool,
}

pub struct Gate {
    // Lock order: no two of these at once.
    state: Mutex<State>,
    wake: Condvar,
    on_eos: Mutex<Option<EosHandler>>,
    before_push: Mutex<Option<BeforePush>>,
    timeline: Mutex<Timeline>,
    /// Answers caps queries, linked or not.
    encoder_pad: Mutex<Option<glib::WeakRef<gst::Pad>>>,
    /// Paces the pictures before us; shifted after a hold.
    clocksync: Mutex<Option<glib::WeakRef<gst::Element>>>,
    /// What every peer decodes. The encoder may say more while nothing is
    /// behind it.
    formats: Mutex<gst::Caps>,
    reference: gst::Caps,
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
}

glib::wrapper! {
    pub struct GateElement(ObjectSubclass<Gate>)
        @extends gst::Element, gst::Object;
}

impl GateElement {
    pub fn new(
        name: &str,
        formats: gst::Caps,
        timeline: &Timeline,
        clocksync: &gst::Element,
        encoder_pad: &gst::Pad,
    ) -> Self {
        let gate: Self = glib::Object::builder().property("name", name).build();
        *gate.imp().formats.lock().unwrap() = formats;
        *gate.imp().timeline.lock().unwrap() = timeline.clone();
        *gate.imp().clocksync.lock().unwrap() = Some(clocksync.downgrade());
        *gate.imp().encoder_pad.lock().unwrap() = Some(encoder_pad.downgrade());
        gate
    }

    /// `on_eos` is called from the streaming thread.
    pub fn set_eos_handler(&self, on_eos: Option<EosHandler>) {
        *self.imp().on_eos.lock().unwrap() = on_eos;
    }

    /// `None`: what comes through is not for an encoder.
    pub fn set_encoder_pad(&self, pad: Option<&gst::Pad>) {
        *self.imp().encoder_pad.lock().unwrap() = pad.map(|pad| pad.downgrade());
    }

    /// `before` is called from the streaming thread before a buffer goes on.
    pub fn set_before_push(&self, before: Option<BeforePush>) {
        *self.imp().before_push.lock().unwrap() = before;
    }

    pub fn set_mode(&self, mode: Mode) {
        let mut state = self.imp().state();
        gst::info!(CAT, obj = self, "{:?} -> {mode:?}", state.mode);
        state.mode = mode;
        self.imp().wake.notify_all();
    }

    pub fn set_live(&self, live: bool) {
        let mut state = self.imp().state();
        state.live = live;
        self.imp().wake.notify_all();
    }

    /// Nothing more will come, unless there is a flush.
    pub fn has_ended(&self) -> bool {
        self.imp().state().ended
    }

    pub fn stats(&self) -> Stats {
        let state = self.imp().state();
        Stats {
            passed: state.passed,
            dropped: state.dropped,
            holding: state.holding,
        }
    }
}

/// What becomes of a picture.
enum Verdict {
    Pass { held: bool },
    Drop,
    Flushing,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn decide(&self) -> Verdict {
        let mut state = self.state();
        let mut held = false;
        loop {
            if state.flushing {
                state.holding = false;
                return Verdict::Flushing;
            }
            match state.mode {
                Mode::Hold if !state.live => {
                    held = true;
                    state.holding = true;
                    state = self.wake.wait(state).unwrap();
                }
                Mode::Hold | Mode::Drop => {
                    state.holding = false;
                    state.dropped += 1;
                    return Verdict::Drop;
                }
                Mode::Pass => {
                    state.holding = false;
                    state.passed += 1;
                    return Verdict::Pass { held };
                }
            }
        }
    }

    fn chain(&self, mut buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        match self.decide() {
            Verdict::Flushing => return Err(gst::FlowError::Flushing),
            Verdict::Drop => return Ok(gst::FlowSuccess::Ok),
            Verdict::Pass { held } => self.follow_shift(&buffer, held),
        }
        self.mark_capture_time(&mut buffer);
        let before = self.before_push.lock().unwrap().clone();
        if let Some(before) = before {
            before();
        }
        match self.srcpad.push(buffer) {
            // The session is being taken away behind us.
            Err(gst::FlowError::Flushing | gst::FlowError::NotLinked) => {
                let mut state = self.state();
                if state.flushing {
                    return Err(gst::FlowError::Flushing);
                }
                state.passed = state.passed.saturating_sub(1);
                state.dropped += 1;
                Ok(gst::FlowSuccess::Ok)
            }
            result => result,
        }
    }

    fn now(&self) -> Option<i64> {
        i64::try_from(self.obj().current_running_time()?.nseconds()).ok()
    }

    /// What was held is due now, and what follows keeps its distance; so does
    /// what is not from this gate.
    fn follow_shift(&self, buffer: &gst::BufferRef, held: bool) {
        let (applied, live) = {
            let state = self.state();
            (state.shift, state.live)
        };
        let timeline = self.timeline.lock().unwrap().clone();
        let shift = match (held, running_time(&self.sinkpad, buffer), self.now()) {
            (true, Some(due), Some(now)) => timeline.shift_by(now - due),
            // It keeps its own time.
            _ if live => 0,
            _ => timeline.shift(),
        };
        if shift != applied {
            self.shift(shift);
        }
    }

    fn shift(&self, shift: i64) {
        gst::info!(CAT, imp = self, "time line shifted by {shift} ns");
        self.state().shift = shift;
        let clocksync = self
            .clocksync
            .lock()
            .unwrap()
            .as_ref()
            .and_then(|c| c.upgrade());
        if let Some(clocksync) = clocksync {
            clocksync.set_property("ts-offset", shift);
        }
        self.srcpad.set_offset(shift);
    }

    fn unshift(&self) {
        self.timeline.lock().unwrap().unshift();
        self.shift(0);
    }

    /// Adds the time of capture by the wall clock, unless the buffer has one.
    fn mark_capture_time(&self, buffer: &mut gst::Buffer) {
        if capture_time::of(buffer, &self.reference).is_some() {
            return;
        }
        let Some(wall) = NtpTime::now() else { return };
        let (shift, timeline) = (self.state().shift, self.timeline.lock().unwrap().clone());
        let running = running_time(&self.sinkpad, buffer).map(|r| r.saturating_add(shift));
        let time = match self.now() {
            Some(now) => timeline.capture(running, (now, wall)),
            None => wall,
        };
        capture_time::set(buffer.make_mut(), &self.reference, time);
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => {
                self.state().flushing = true;
                self.wake.notify_all();
            }
            gst::EventView::FlushStop(_) => {
                let mut state = self.state();
                state.flushing = false;
                state.ended = false;
                drop(state);
                self.unshift();
            }
            gst::EventView::Eos(_) => {
                let passed = {
                    let mut state = self.state();
                    state.ended = true;
                    state.mode == Mode::Pass
                };
                // Otherwise it would stay on the pad and meet the next session.
                if passed {
                    self.srcpad.push_event(event.clone());
                }
                let on_eos = self.on_eos.lock().unwrap().clone();
                if let Some(on_eos) = on_eos {
                    on_eos(Eos {
                        seqnum: event.seqnum(),
                        passed,
                    });
                }
                return true;
            }
            _ => {}
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let encoder = self
            .encoder_pad
            .lock()
            .unwrap()
            .as_ref()
            .and_then(|p| p.upgrade());
        match (query.view_mut(), encoder) {
            (gst::QueryViewMut::Caps(caps), Some(encoder)) => {
                let formats = self.formats.lock().unwrap().clone();
                let wanted = match caps.filter() {
                    Some(filter) => formats.intersect(filter),
                    None => formats,
                };
                caps.set_result(&encoder.query_caps(Some(&wanted)).intersect(&wanted));
                return true;
            }
            (gst::QueryViewMut::AcceptCaps(accept), Some(encoder)) => {
                let formats = self.formats.lock().unwrap().clone();
                let accepted = formats.can_intersect(accept.caps())
                    && encoder.query_accept_caps(&accept.caps_owned());
                accept.set_result(accepted);
                return true;
            }
            _ => {}
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }
}

#[glib::object_subclass]
impl ObjectSubclass for Gate {
    const NAME: &'static str = "GstDualWebRtcGate";
    type Type = GateElement;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
        let template = |name| klass.pad_template(name).expect("declared below");
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            on_eos: Mutex::default(),
            encoder_pad: Mutex::default(),
            clocksync: Mutex::default(),
            before_push: Mutex::default(),
            timeline: Mutex::default(),
            formats: Mutex::new(gst::Caps::new_any()),
            reference: capture_time::reference(),
            sinkpad: gst::Pad::builder_from_template(&template("sink"))
                .chain_function(|_, parent, buffer| {
                    Self::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |gate| gate.chain(buffer),
                    )
                })
                .event_function(|pad, parent, event| {
                    Self::catch_panic_pad_function(
                        parent,
                        || false,
                        |gate| gate.sink_event(pad, event),
                    )
                })
                .query_function(|pad, parent, query| {
                    Self::catch_panic_pad_function(
                        parent,
                        || false,
                        |gate| gate.sink_query(pad, query),
                    )
                })
                // Or the default handler keeps caps events.
                .flags(gst::PadFlags::PROXY_CAPS)
                .build(),
            srcpad: gst::Pad::builder_from_template(&template("src"))
                .flags(gst::PadFlags::PROXY_CAPS)
                .build(),
        }
    }
}

impl ObjectImpl for Gate {
    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.add_pad(&self.sinkpad).expect("a new element");
        obj.add_pad(&self.srcpad).expect("a new element");
    }
}

impl GstObjectImpl for Gate {}

impl ElementImpl for Gate {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Gate of dualwebrtcsink",
                "Generic",
                "Drops or holds buffers while there is no receiver",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            [
                ("sink", gst::PadDirection::Sink),
                ("src", gst::PadDirection::Src),
            ]
            .map(|(name, direction)| {
                gst::PadTemplate::new(
                    name,
                    direction,
                    gst::PadPresence::Always,
                    &gst::Caps::new_any(),
                )
                .expect("valid template")
            })
            .to_vec()
        });
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                let mut state = self.state();
                let (mode, live) = (state.mode, state.live);
                *state = State {
                    mode,
                    live,
                    ..State::default()
                };
                drop(state);
                self.unshift();
            }
            gst::StateChange::PausedToReady => {
                self.state().flushing = true;
                self.wake.notify_all();
            }
            _ => {}
        }
        self.parent_change_state(transition)
    }
}
