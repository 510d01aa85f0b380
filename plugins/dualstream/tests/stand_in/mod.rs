// SPDX-License-Identifier: MPL-2.0
//! Encoders for machines without the hardware: factories with the name, the
//! properties, the units and the behaviour of the real ones, as GStreamer's
//! sources have them, around a real x264enc.

use gst::glib;
use gst::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What a change of rate does inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    InPlace,
    KeyFrame,
    /// As nvcudah264enc: in place for the rate, a key frame for the buffer.
    KeyFrameForBuffer,
    /// Nothing at all once it runs.
    Ignored,
}

/// A factory to stand in for.
pub struct Spec {
    pub factory: &'static str,
    /// Caps features of the sink, besides system memory.
    pub memory: &'static [&'static str],
    pub bitrate: &'static str,
    /// Bit/s of one unit of `bitrate`.
    pub unit: u64,
    pub buffer: Option<&'static str>,
    pub on_change: OnChange,
    /// Rates are V4L2 controls.
    pub controls: bool,
    /// The GstForceKeyUnit event is not heeded, but this control is.
    pub key_control: Option<&'static str>,
    /// As vtenc: no byte stream.
    pub avc: bool,
    pub properties: fn() -> Vec<glib::ParamSpec>,
}

/// How instances of a factory behave, set by a test before it makes them.
/// `u32::MAX`: never.
pub struct Knobs {
    /// Pictures of all instances until the one that fails.
    pub fail_after: AtomicU32,
    /// From this picture on nothing comes out.
    pub stall_after: AtomicU32,
    /// Instances in PAUSED or PLAYING.
    pub sessions: AtomicU32,
    pub running: AtomicU32,
    /// The only width that is taken; 0: any.
    pub width: AtomicU32,
    pub made: AtomicU32,
    /// Changes of the rate after the first picture.
    pub changes: AtomicU32,
}

impl Knobs {
    pub const fn new() -> Self {
        Self {
            fail_after: AtomicU32::new(u32::MAX),
            stall_after: AtomicU32::new(u32::MAX),
            sessions: AtomicU32::new(u32::MAX),
            running: AtomicU32::new(0),
            width: AtomicU32::new(0),
            made: AtomicU32::new(0),
            changes: AtomicU32::new(0),
        }
    }
}

/// The real x264enc, held before a test puts something in its place.
pub static X264: LazyLock<gst::ElementFactory> = LazyLock::new(|| {
    let factory = gst::ElementFactory::find("x264enc").expect("x264enc is installed");
    factory.load().expect("its plugin")
});

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers, enumerations and structures of plain values.
#[derive(Clone)]
struct Stored(glib::Value);

// SAFETY: none of the types above is bound to a thread.
unsafe impl Send for Stored {}

/// The state of one instance, the same for all kinds.
#[derive(Default)]
pub struct Common {
    values: Mutex<HashMap<String, Stored>>,
    x264: Mutex<Option<gst::Element>>,
    seen: AtomicU32,
    key: Mutex<bool>,
}

impl Common {
    pub fn get(&self, spec: &glib::ParamSpec) -> glib::Value {
        let values = locked(&self.values);
        let value = values.get(spec.name()).cloned();
        value.map_or_else(|| spec.default_value().clone(), |stored| stored.0)
    }

    pub fn set(&self, spec: &Spec, knobs: &Knobs, name: &str, value: &glib::Value) {
        let old = locked(&self.values).insert(name.to_owned(), Stored(value.clone()));
        let old = old.map(|stored| stored.0);
        let runs = self.seen.load(Ordering::SeqCst) > 0;
        let rate = if spec.controls {
            if name != "extra-controls" {
                return;
            }
            let controls = value.get::<gst::Structure>().expect("a structure");
            if let Some(button) = spec.key_control
                && controls.has_field(button)
            {
                *locked(&self.key) = true;
                return;
            }
            controls.get::<i32>(spec.bitrate).ok().map(|n| n as u64)
        } else if name == spec.bitrate {
            number(value)
        } else {
            let buffer = spec.buffer == Some(name);
            let changed = old.is_some_and(|old| number(&old) != number(value));
            let costs = matches!(
                spec.on_change,
                OnChange::KeyFrame | OnChange::KeyFrameForBuffer
            );
            if buffer && runs && changed && costs {
                *locked(&self.key) = true;
            }
            return;
        };
        let Some(rate) = rate else { return };
        let before = old.as_ref().and_then(|old| {
            if spec.controls {
                let controls = old.get::<gst::Structure>().ok()?;
                controls.get::<i32>(spec.bitrate).ok().map(|n| n as u64)
            } else {
                number(old)
            }
        });
        if runs && before != Some(rate) {
            knobs.changes.fetch_add(1, Ordering::SeqCst);
            match spec.on_change {
                OnChange::KeyFrame => *locked(&self.key) = true,
                OnChange::InPlace | OnChange::KeyFrameForBuffer => {}
                OnChange::Ignored => return,
            }
        }
        if let Some(x264) = &*locked(&self.x264) {
            let kbps = (rate * spec.unit / 1000).clamp(1, 2_048_000) as u32;
            x264.set_property("bitrate", kbps);
        }
    }

    pub fn build(&self, bin: &gst::Bin, spec: &Spec) {
        let x264 = X264.create().build().expect("x264enc");
        x264.set_property_from_str("tune", "zerolatency");
        x264.set_property_from_str("speed-preset", "ultrafast");
        x264.set_property("key-int-max", i32::MAX as u32);
        x264.set_property("option-string", "scenecut=0");
        x264.set_property("threads", 1u32);
        x264.set_property("vbv-buf-capacity", 100u32);
        let format = if spec.avc { "avc" } else { "byte-stream" };
        let caps = gst::Caps::builder("video/x-h264")
            .field("stream-format", format)
            .build();
        let filter = gst::ElementFactory::make("capsfilter")
            .property("caps", caps)
            .build()
            .expect("capsfilter");
        bin.add_many([&x264, &filter]).expect("new elements");
        x264.link(&filter).expect("linked");
        let ghosts = ["sink", "src"].map(|name| {
            let pad = bin.static_pad(name).and_downcast::<gst::GhostPad>();
            pad.expect("a ghost pad")
        });
        ghosts[0]
            .set_target(x264.static_pad("sink").as_ref())
            .expect("fits");
        ghosts[1]
            .set_target(filter.static_pad("src").as_ref())
            .expect("fits");
        *locked(&self.x264) = Some(x264);
    }

    /// Before each picture.
    pub fn picture(&self, knobs: &Knobs, bin: &gst::Bin) -> Result<bool, gst::FlowError> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let countdown = |knob: &AtomicU32| {
            let left = knob.load(Ordering::SeqCst);
            if left != u32::MAX && left > 0 {
                knob.store(left - 1, Ordering::SeqCst);
            }
            left == 0
        };
        if countdown(&knobs.fail_after) {
            knobs.fail_after.store(u32::MAX, Ordering::SeqCst);
            gst::element_error!(bin, gst::StreamError::Encode, ["the device is gone"]);
            return Err(gst::FlowError::Error);
        }
        if countdown(&knobs.stall_after) {
            return Ok(false);
        }
        if std::mem::take(&mut *locked(&self.key))
            && let Some(x264) = &*locked(&self.x264)
        {
            let event = gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build();
            x264.static_pad("src").expect("a pad").send_event(event);
        }
        Ok(true)
    }

    /// For those that have an action signal for it.
    #[allow(dead_code, reason = "not each test has such a one")]
    pub fn force_key(&self) {
        *locked(&self.key) = true;
    }
}

fn number(value: &glib::Value) -> Option<u64> {
    if let Ok(n) = value.get::<u32>() {
        return Some(n.into());
    }
    value.get::<i32>().ok().and_then(|n| u64::try_from(n).ok())
}

pub fn sink_caps(spec: &Spec) -> gst::Caps {
    let mut caps = gst::Caps::new_empty();
    let raw = |features: Option<&str>| {
        let builder = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Nv12);
        match features {
            Some(features) => builder.features([features]).build(),
            None => builder.build(),
        }
    };
    for features in spec.memory {
        caps.merge(raw(Some(features)));
    }
    caps.merge(raw(None));
    caps
}

/// The buffers are in system memory whatever their caps say; x264enc gets the
/// truth.
pub fn without_features(event: gst::Event) -> gst::Event {
    let gst::EventView::Caps(caps) = event.view() else {
        return event;
    };
    let mut caps = caps.caps_owned();
    let features = gst::CapsFeatures::new_empty();
    for i in 0..caps.size() {
        caps.make_mut().set_features(i, Some(features.clone()));
    }
    gst::event::Caps::new(&caps)
}

/// The width, where the event is about caps.
pub fn width(event: &gst::Event) -> Option<u32> {
    let gst::EventView::Caps(caps) = event.view() else {
        return None;
    };
    let s = caps.caps().structure(0)?;
    s.get::<i32>("width").ok().map(|w| w as u32)
}

/// Declares the element of a [`Spec`]: a module with KNOBS and register().
#[macro_export]
macro_rules! stand_in {
    ($module:ident, $type_name:literal, $spec:expr $(, signal $signal:literal)?) => {
        pub mod $module {
            use super::stand_in::{self, Common, Knobs, Spec};
            use gst::glib;
            use gst::prelude::*;
            use gst::subclass::prelude::*;
            use std::sync::LazyLock;
            use std::sync::atomic::Ordering;

            pub static SPEC: LazyLock<Spec> = LazyLock::new(|| $spec);
            pub static KNOBS: Knobs = Knobs::new();

            pub fn register(rank: gst::Rank) {
                gst::Element::register(None, SPEC.factory, rank, Element::static_type())
                    .expect("registered");
            }

            glib::wrapper! {
                pub struct Element(ObjectSubclass<Imp>)
                    @extends gst::Bin, gst::Element, gst::Object,
                    @implements gst::ChildProxy;
            }

            #[derive(Default)]
            pub struct Imp(Common);

            #[glib::object_subclass]
            impl ObjectSubclass for Imp {
                const NAME: &'static str = $type_name;
                type Type = Element;
                type ParentType = gst::Bin;
            }

            impl Imp {
                fn chain(
                    &self,
                    pad: &gst::GhostPad,
                    buffer: gst::Buffer,
                ) -> Result<gst::FlowSuccess, gst::FlowError> {
                    let bin = self.obj();
                    if self.0.picture(&KNOBS, bin.upcast_ref())? {
                        gst::ProxyPad::chain_default(pad, Some(&*bin), buffer)
                    } else {
                        Ok(gst::FlowSuccess::Ok)
                    }
                }

                fn event(&self, pad: &gst::GhostPad, event: gst::Event) -> bool {
                    let only = KNOBS.width.load(Ordering::SeqCst);
                    if only > 0 && stand_in::width(&event).is_some_and(|w| w != only) {
                        return false;
                    }
                    let event = stand_in::without_features(event);
                    gst::Pad::event_default(pad, Some(&*self.obj()), event)
                }

                fn query(&self, pad: &gst::GhostPad, query: &mut gst::QueryRef) -> bool {
                    match query.view_mut() {
                        gst::QueryViewMut::Caps(q) => {
                            let caps = pad.pad_template_caps();
                            let caps = match q.filter() {
                                Some(filter) => caps.intersect(&filter.to_owned()),
                                None => caps,
                            };
                            q.set_result(&caps);
                            true
                        }
                        gst::QueryViewMut::AcceptCaps(q) => {
                            let fits = q.caps().can_intersect(&pad.pad_template_caps());
                            q.set_result(fits);
                            true
                        }
                        _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
                    }
                }

                fn src_event(&self, pad: &gst::GhostPad, event: gst::Event) -> bool {
                    let deaf = SPEC.key_control.is_some();
                    if deaf && gst_video::ForceKeyUnitEvent::is(&event) {
                        return false;
                    }
                    gst::Pad::event_default(pad, Some(&*self.obj()), event)
                }
            }

            impl ObjectImpl for Imp {
                fn properties() -> &'static [glib::ParamSpec] {
                    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> =
                        LazyLock::new(|| (SPEC.properties)());
                    &PROPERTIES
                }

                $(fn signals() -> &'static [glib::subclass::Signal] {
                    static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(|| {
                        vec![
                            glib::subclass::Signal::builder($signal)
                                .action()
                                .class_handler(|args| {
                                    let element = args[0].get::<Element>().expect("self");
                                    element.imp().0.force_key();
                                    None
                                })
                                .build(),
                        ]
                    });
                    &SIGNALS
                })?

                fn set_property(&self, _id: usize, value: &glib::Value, spec: &glib::ParamSpec) {
                    self.0.set(&SPEC, &KNOBS, spec.name(), value);
                }

                fn property(&self, _id: usize, spec: &glib::ParamSpec) -> glib::Value {
                    self.0.get(spec)
                }

                fn constructed(&self) {
                    self.parent_constructed();
                    KNOBS.made.fetch_add(1, Ordering::SeqCst);
                    let obj = self.obj();
                    let template = |name: &str| obj.pad_template(name).expect("a template");
                    let sink = gst::GhostPad::builder_from_template(&template("sink"))
                        .name("sink")
                        .chain_function(|pad, parent, buffer| {
                            Imp::catch_panic_pad_function(
                                parent,
                                || Err(gst::FlowError::Error),
                                |imp| imp.chain(pad, buffer),
                            )
                        })
                        .event_function(|pad, parent, event| {
                            Imp::catch_panic_pad_function(
                                parent,
                                || false,
                                |imp| imp.event(pad, event),
                            )
                        })
                        .query_function(|pad, parent, query| {
                            Imp::catch_panic_pad_function(
                                parent,
                                || false,
                                |imp| imp.query(pad, query),
                            )
                        })
                        .build();
                    let src = gst::GhostPad::builder_from_template(&template("src"))
                        .name("src")
                        .event_function(|pad, parent, event| {
                            Imp::catch_panic_pad_function(
                                parent,
                                || false,
                                |imp| imp.src_event(pad, event),
                            )
                        })
                        .build();
                    obj.add_pad(&sink).expect("new");
                    obj.add_pad(&src).expect("new");
                    self.0.build(obj.upcast_ref(), &SPEC);
                }
            }

            impl GstObjectImpl for Imp {}

            impl ElementImpl for Imp {
                fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
                    static METADATA: LazyLock<gst::subclass::ElementMetadata> =
                        LazyLock::new(|| {
                            gst::subclass::ElementMetadata::new(
                                "Stand-in",
                                "Codec/Encoder/Video",
                                "For tests",
                                "gst-dualstream",
                            )
                        });
                    Some(&METADATA)
                }

                fn pad_templates() -> &'static [gst::PadTemplate] {
                    static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                        let format = if SPEC.avc { "avc" } else { "byte-stream" };
                        let coded = gst::Caps::builder("video/x-h264")
                            .field("stream-format", format)
                            .field("alignment", "au")
                            .build();
                        let template = |name, direction, caps| {
                            gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps)
                                .expect("valid")
                        };
                        vec![
                            template(
                                "sink",
                                gst::PadDirection::Sink,
                                &stand_in::sink_caps(&SPEC),
                            ),
                            template("src", gst::PadDirection::Src, &coded),
                        ]
                    });
                    &TEMPLATES
                }

                fn change_state(
                    &self,
                    transition: gst::StateChange,
                ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
                    if transition == gst::StateChange::ReadyToPaused {
                        let running = KNOBS.running.fetch_add(1, Ordering::SeqCst);
                        if running >= KNOBS.sessions.load(Ordering::SeqCst) {
                            KNOBS.running.fetch_sub(1, Ordering::SeqCst);
                            return Err(gst::StateChangeError);
                        }
                    }
                    let result = self.parent_change_state(transition);
                    if transition == gst::StateChange::PausedToReady {
                        KNOBS.running.fetch_sub(1, Ordering::SeqCst);
                    }
                    result
                }
            }

            impl BinImpl for Imp {}
        }
    };
}
