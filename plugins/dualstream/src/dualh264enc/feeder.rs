// SPDX-License-Identifier: MPL-2.0
//! The element before each encoder. It sees an encoder fail with the picture
//! still in hand, and gives that picture to the encoder that is put in place.

use super::router::{Failure, Router, raw_caps};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

glib::wrapper! {
    pub struct Feeder(ObjectSubclass<imp::Feeder>) @extends gst::Element, gst::Object;
}

impl Feeder {
    pub fn new(stream: Stream, router: &Router) -> Self {
        let this: Self = glib::Object::builder()
            .property("name", format!("feeder_{}", stream.index()))
            .build();
        let _ = this.imp().router.set((router.downgrade(), stream));
        this
    }

    /// The encoder said so by a message; it is replaced before the next
    /// picture.
    pub fn encoder_failed(&self, reason: String) {
        *self.imp().failure() = Some(reason);
    }

    pub fn src(&self) -> &gst::Pad {
        &self.imp().src
    }
}

pub mod imp {
    use super::*;

    pub struct Feeder {
        sink: gst::Pad,
        pub(super) src: gst::Pad,
        pub(super) router: OnceLock<(glib::WeakRef<Router>, Stream)>,
        failure: Mutex<Option<String>>,
    }

    impl Feeder {
        pub(super) fn failure(&self) -> MutexGuard<'_, Option<String>> {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn chain(&self, mut buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
            let router = self.router.get();
            let router = router.and_then(|(weak, stream)| Some((weak.upgrade()?, *stream)));
            let Some((router, stream)) = router else {
                return Err(gst::FlowError::Flushing);
            };
            let router = router.imp();
            let mut failure = self.failure().take().map(Failure::Error);
            if failure.is_none() && router.stalls(stream) {
                failure = Some(Failure::Stall);
            }
            // Ends: the owner gives up on each encoder after some failures.
            loop {
                if let Some(failure) = failure.take() {
                    buffer = router
                        .fail_over(stream, buffer, failure)
                        .ok_or(gst::FlowError::Error)?;
                    // What the old one said on its way down.
                    *self.failure() = None;
                    self.introduce();
                }
                let given = router.before_encoding(stream, &buffer);
                let result = self.src.push(given);
                match result {
                    Err(error) if router.is_of_encoder(stream, error) => {
                        let reason = self.failure().take();
                        failure = Some(match (reason, error) {
                            (Some(reason), _) => Failure::Error(reason),
                            (None, gst::FlowError::NotNegotiated) => Failure::Refusal,
                            (None, error) => Failure::Error(error.to_string()),
                        });
                    }
                    result => return result,
                }
            }
        }

        /// Tells a new encoder the format before it is told its rate:
        /// openh264enc makes a key frame at the first change after that.
        fn introduce(&self) {
            if let Some(caps) = self.sink.sticky_event::<gst::event::Caps>(0) {
                // A refusal shows with the picture.
                self.src.push_event(caps);
            }
        }

        fn event(&self, event: gst::Event) -> bool {
            let caps = event.type_() == gst::EventType::Caps;
            // An encoder that refuses its caps is replaced with the first
            // picture that it then cannot take.
            self.src.push_event(event) || caps
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Feeder {
        const NAME: &'static str = "GstDualH264EncFeeder";
        type Type = super::Feeder;
        type ParentType = gst::Element;

        fn with_class(klass: &Self::Class) -> Self {
            let template = |name: &str| {
                klass
                    .pad_template(name)
                    .unwrap_or_else(|| panic!("template {name} is registered"))
            };
            let flags = gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION;
            let sink = gst::Pad::builder_from_template(&template("sink"))
                .chain_function(|_, parent, buffer| {
                    Feeder::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |feeder| feeder.chain(buffer),
                    )
                })
                .event_function(|_, parent, event| {
                    Feeder::catch_panic_pad_function(parent, || false, |feeder| feeder.event(event))
                })
                .flags(flags)
                .build();
            let src = gst::Pad::builder_from_template(&template("src"))
                .flags(flags)
                .build();
            Self {
                sink,
                src,
                router: OnceLock::new(),
                failure: Mutex::default(),
            }
        }
    }

    impl ObjectImpl for Feeder {
        fn constructed(&self) {
            self.parent_constructed();
            for pad in [&self.sink, &self.src] {
                // Each name is there once.
                let _ = self.obj().add_pad(pad);
            }
        }
    }

    impl GstObjectImpl for Feeder {}

    impl ElementImpl for Feeder {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let raw = raw_caps();
                [
                    ("sink", gst::PadDirection::Sink),
                    ("src", gst::PadDirection::Src),
                ]
                .into_iter()
                .filter_map(|(name, direction)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &raw).ok()
                })
                .collect()
            });
            TEMPLATES.as_ref()
        }

        fn change_state(
            &self,
            transition: gst::StateChange,
        ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
            if transition == gst::StateChange::ReadyToPaused {
                *self.failure() = None;
            }
            self.parent_change_state(transition)
        }
    }
}
