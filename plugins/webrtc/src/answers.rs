// SPDX-License-Identifier: MPL-2.0
//! Answers for the WHIP and WHEP servers of gst-plugins-rs.
//!
//! They take an answer from `local-description` of the webrtcbin that
//! `webrtcbin-ready` showed them, when its `ice-gathering-state` is complete,
//! and panic inside of that notification if the request is not open any more.
//! Only from there can a request be refused, too. So they are shown a stand-in
//! with these two properties instead, once for each request.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;
use gst_webrtc::WebRTCSessionDescription;
use gstrswebrtc::RUNTIME;
use gstrswebrtc::signaller::Signallable;

/// The requests that wait for an answer.
#[derive(Clone)]
pub struct Answers {
    signaller: glib::WeakRef<Signallable>,
    open: Arc<Mutex<HashSet<String>>>,
}

impl Answers {
    pub fn new(signaller: &Signallable) -> Self {
        Self {
            signaller: signaller.downgrade(),
            open: Arc::default(),
        }
    }

    /// A request came. To be called from the signal that says so: then it is
    /// the runtime's only thread, which opens a request and emits the signal
    /// without a pause in between.
    pub fn asked(&self, id: &str) {
        self.open.lock().unwrap().insert(id.to_owned());
    }

    /// Answers a request, with `None` by an error; once, whoever comes first.
    pub fn answer(&self, id: &str, description: Option<WebRTCSessionDescription>) {
        let (answers, id) = (self.clone(), id.to_owned());
        // On that thread, so that no request with the same id is opened just
        // now.
        RUNTIME.spawn(async move {
            if !answers.open.lock().unwrap().remove(&id) {
                return;
            }
            if let Some(signaller) = answers.signaller.upgrade() {
                let stand_in = StandIn::new(description);
                signaller.emit_by_name::<()>("webrtcbin-ready", &[&id, &stand_in]);
                stand_in.notify("ice-gathering-state");
            }
        });
    }

    /// Takes the answer of a session from its webrtcbin, once it has all its
    /// candidates.
    pub fn follow(&self, id: &str, webrtcbin: &gst::Element) {
        let (answers, id) = (self.clone(), id.to_owned());
        webrtcbin.connect_notify(Some("ice-gathering-state"), move |webrtcbin, _| {
            let state: gst_webrtc::WebRTCICEGatheringState =
                webrtcbin.property("ice-gathering-state");
            if state == gst_webrtc::WebRTCICEGatheringState::Complete {
                answers.answer(&id, webrtcbin.property("local-description"));
            }
        });
    }

    /// Refuses what is open, and waits until that is through: a server that
    /// stops waits for its requests, and they would wait for it.
    pub fn refuse_all(&self) {
        let open: Vec<String> = self.open.lock().unwrap().iter().cloned().collect();
        if open.is_empty() {
            return;
        }
        for id in open {
            self.answer(&id, None);
        }
        let (done, wait) = std::sync::mpsc::channel();
        RUNTIME.spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            // Nobody waits any more if this fails.
            let _ = done.send(());
        });
        let _ = wait.recv_timeout(std::time::Duration::from_secs(1));
    }
}

mod imp {
    use std::sync::{LazyLock, OnceLock};

    use gst::glib;
    use gst::prelude::*;
    use gst::subclass::prelude::*;
    use gst_webrtc::{WebRTCICEGatheringState, WebRTCSessionDescription};

    #[derive(Default)]
    pub struct StandIn {
        pub description: OnceLock<WebRTCSessionDescription>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for StandIn {
        const NAME: &'static str = "GstDualWebRtcStandIn";
        type Type = super::StandIn;
        type ParentType = gst::Element;
    }

    impl ObjectImpl for StandIn {
        fn properties() -> &'static [glib::ParamSpec] {
            static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
                vec![
                    glib::ParamSpecEnum::builder_with_default(
                        "ice-gathering-state",
                        WebRTCICEGatheringState::Complete,
                    )
                    .read_only()
                    .build(),
                    glib::ParamSpecBoxed::builder::<WebRTCSessionDescription>("local-description")
                        .read_only()
                        .build(),
                ]
            });
            PROPERTIES.as_ref()
        }

        fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
            match pspec.name() {
                "local-description" => self.description.get().cloned().to_value(),
                _ => WebRTCICEGatheringState::Complete.to_value(),
            }
        }
    }

    impl GstObjectImpl for StandIn {}
    impl ElementImpl for StandIn {}
}

glib::wrapper! {
    pub struct StandIn(ObjectSubclass<imp::StandIn>) @extends gst::Element, gst::Object;
}

impl StandIn {
    fn new(description: Option<WebRTCSessionDescription>) -> Self {
        use gst::subclass::prelude::ObjectSubclassIsExt;
        let stand_in: Self = glib::Object::new();
        if let Some(description) = description {
            // A new one has none.
            let _ = stand_in.imp().description.set(description);
        }
        stand_in
    }
}
