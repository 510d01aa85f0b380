// SPDX-License-Identifier: MPL-2.0
//! The other half of the router, behind the encoders.

use super::router::{Router, coded_caps};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::{LazyLock, OnceLock};

glib::wrapper! {
    pub struct Collector(ObjectSubclass<imp::Collector>) @extends gst::Element, gst::Object;
}

impl Collector {
    pub fn new() -> Self {
        glib::Object::builder()
            .property("name", "collector")
            .build()
    }

    /// Once, before any data; a second call changes nothing.
    pub fn set_router(&self, router: &Router) {
        let _ = self.imp().router.set(router.downgrade());
    }
}

pub mod imp {
    use super::*;

    const CODED: [&str; 2] = ["coded_0", "coded_1"];
    const SRC: [&str; 2] = ["src_0", "src_1"];

    pub struct Collector {
        pub coded: [gst::Pad; 2],
        pub src: [gst::Pad; 2],
        pub(super) router: OnceLock<glib::WeakRef<Router>>,
    }

    impl Collector {
        fn router(&self) -> Option<Router> {
            self.router.get()?.upgrade()
        }

        fn chain(
            &self,
            stream: Stream,
            buffer: gst::Buffer,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let router = self.router().ok_or(gst::FlowError::Flushing)?;
            router
                .imp()
                .coded_chain(stream, &self.src[stream.index()], buffer)
        }

        /// Between an encoder's output and the outside, either way.
        fn through(&self, from: &gst::Pad, to: &gst::Pad, query: &mut gst::QueryRef) -> bool {
            use gst::QueryViewMut;
            match query.view_mut() {
                QueryViewMut::Caps(q) => {
                    let template = from.pad_template_caps();
                    let filter = q.filter().map(ToOwned::to_owned);
                    let caps = to.peer_query_caps(Some(&template)).intersect(&template);
                    let caps = match filter {
                        Some(filter) => {
                            filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First)
                        }
                        None => caps,
                    };
                    q.set_result(&caps);
                    true
                }
                QueryViewMut::AcceptCaps(q) => {
                    let fits = q.caps().is_subset(&from.pad_template_caps());
                    q.set_result(fits);
                    true
                }
                _ => to.peer_query(query),
            }
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Collector {
        const NAME: &'static str = "GstDualH264EncCollector";
        type Type = super::Collector;
        type ParentType = gst::Element;

        fn with_class(klass: &Self::Class) -> Self {
            let template = |name: &str| {
                klass
                    .pad_template(name)
                    .unwrap_or_else(|| panic!("template {name} is registered"))
            };
            let coded = Stream::BOTH.map(|stream| {
                let i = stream.index();
                gst::Pad::builder_from_template(&template(CODED[i]))
                    .chain_function(move |_, parent, buffer| {
                        Collector::catch_panic_pad_function(
                            parent,
                            || Err(gst::FlowError::Error),
                            |this| this.chain(stream, buffer),
                        )
                    })
                    .event_function(move |_, parent, event| {
                        Collector::catch_panic_pad_function(
                            parent,
                            || false,
                            |this| this.src[i].push_event(event),
                        )
                    })
                    .query_function(move |pad, parent, query| {
                        Collector::catch_panic_pad_function(
                            parent,
                            || false,
                            |this| this.through(pad, &this.src[i], query),
                        )
                    })
                    .build()
            });
            let src = Stream::BOTH.map(|stream| {
                let i = stream.index();
                gst::Pad::builder_from_template(&template(SRC[i]))
                    .event_function(move |_, parent, event| {
                        Collector::catch_panic_pad_function(
                            parent,
                            || false,
                            |this| {
                                this.router()
                                    .is_some_and(|router| router.imp().src_event(stream, event))
                            },
                        )
                    })
                    .query_function(move |pad, parent, query| {
                        Collector::catch_panic_pad_function(
                            parent,
                            || false,
                            |this| this.through(pad, &this.coded[i], query),
                        )
                    })
                    .build()
            });
            Self {
                coded,
                src,
                router: OnceLock::new(),
            }
        }
    }

    impl ObjectImpl for Collector {
        fn constructed(&self) {
            self.parent_constructed();
            for pad in self.coded.iter().chain(&self.src) {
                // Each name is there once.
                let _ = self.obj().add_pad(pad);
            }
        }
    }

    impl GstObjectImpl for Collector {}

    impl ElementImpl for Collector {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                use gst::PadDirection::{Sink, Src};
                let caps = coded_caps();
                let sinks = CODED.map(|name| (name, Sink));
                sinks
                    .into_iter()
                    .chain(SRC.map(|name| (name, Src)))
                    .filter_map(|(name, direction)| {
                        gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).ok()
                    })
                    .collect()
            });
            TEMPLATES.as_ref()
        }
    }
}
