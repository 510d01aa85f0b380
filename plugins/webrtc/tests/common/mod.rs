// SPDX-License-Identifier: MPL-2.0
//! Pipelines with dualwebrtcsink and dualwebrtcsrc in this process, over real
//! ICE and DTLS on loopback.
#![allow(dead_code)] // each test binary uses its part

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;

/// Nothing here takes long, but the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstdualstream::plugin_register_static().unwrap();
        gstfeedback::plugin_register_static().unwrap();
        gstflexfec::plugin_register_static().unwrap();
        gstgcc::plugin_register_static().unwrap();
        gstjitterbuffer::plugin_register_static().unwrap();
        gstpacer::plugin_register_static().unwrap();
        gstdualwebrtc::plugin_register_static().unwrap();
        glib::log_set_always_fatal(
            glib::LogLevels::LEVEL_CRITICAL | glib::LogLevels::LEVEL_WARNING,
        );
    });
}

/// Asks until the answer is yes.
#[track_caller]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Default)]
pub struct Seen {
    pub buffers: AtomicU64,
    /// Capture to this pad, in ms.
    pub latencies: Mutex<Vec<f64>>,
}

impl Seen {
    pub fn count(&self) -> u64 {
        self.buffers.load(Ordering::SeqCst)
    }

    pub fn median_latency(&self) -> Option<f64> {
        let mut sorted = self.latencies.lock().unwrap().clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// A pipeline that goes to NULL when it is dropped.
pub struct Pipeline(pub gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Pipeline {
    #[track_caller]
    pub fn new(description: &str) -> Self {
        init();
        Self(gst::parse::launch(description).unwrap().downcast().unwrap())
    }

    #[track_caller]
    pub fn play(self) -> Self {
        self.0.set_state(gst::State::Playing).unwrap();
        self
    }

    pub fn element(&self, name: &str) -> gst::Element {
        self.0.by_name(name).unwrap()
    }

    pub fn stats(&self, name: &str) -> gst::Structure {
        self.element(name).property("stats")
    }

    pub fn stat<T>(&self, name: &str, field: &str) -> T
    where
        for<'a> T: glib::value::FromValue<'a> + 'static,
    {
        self.stats(name).get::<T>(field).unwrap()
    }

    pub fn stop(&self) {
        self.0.set_state(gst::State::Null).unwrap();
    }

    /// Waits for the end of stream; an error fails the test.
    #[track_caller]
    pub fn wait_eos(&self) {
        let bus = self.0.bus().unwrap();
        let timeout = gst::ClockTime::try_from(PATIENCE).unwrap();
        let message =
            bus.timed_pop_filtered(timeout, &[gst::MessageType::Eos, gst::MessageType::Error]);
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => {}
            other => panic!("no end of stream but {other:?}"),
        }
    }

    /// Waits for an error and gives what the user reads.
    #[track_caller]
    pub fn wait_error(&self) -> String {
        let bus = self.0.bus().unwrap();
        let timeout = gst::ClockTime::try_from(PATIENCE).unwrap();
        let message = bus
            .timed_pop_filtered(timeout, &[gst::MessageType::Error])
            .expect("no error within the time");
        let gst::MessageView::Error(err) = message.view() else {
            unreachable!()
        };
        err.error().to_string()
    }

    /// No error has been posted so far.
    #[track_caller]
    pub fn assert_no_error(&self) {
        if let Some(message) = self
            .0
            .bus()
            .unwrap()
            .pop_filtered(&[gst::MessageType::Error])
        {
            panic!("{message:?}");
        }
    }

    /// Counts what reaches the sink pad of the element with this name.
    pub fn watch(&self, name: &str) -> Arc<Seen> {
        let seen = Arc::new(Seen::default());
        let counted = seen.clone();
        let ntp = gst::Caps::new_empty_simple("timestamp/x-ntp");
        self.element(name).static_pad("sink").unwrap().add_probe(
            gst::PadProbeType::BUFFER,
            move |_, info| {
                counted.buffers.fetch_add(1, Ordering::SeqCst);
                let captured = info.buffer().and_then(|buffer| {
                    buffer
                        .iter_meta::<gst::ReferenceTimestampMeta>()
                        .find(|meta| meta.reference().can_intersect(&ntp))
                        .map(|meta| meta.timestamp())
                });
                if let Some(captured) = captured {
                    let now = std::time::SystemTime::now()
                        .duration_since(std::time::UNIX_EPOCH)
                        .unwrap()
                        .as_secs_f64()
                        + 2_208_988_800.0;
                    let latency = (now - captured.nseconds() as f64 / 1e9) * 1e3;
                    counted.latencies.lock().unwrap().push(latency);
                }
                gst::PadProbeReturn::Ok
            },
        );
        seen
    }
}

pub const LIVE: &str = "videotestsrc is-live=true pattern=ball ! \
    video/x-raw,width=320,height=180,framerate=30/1";

/// A sender with a signalling server of its own on a free port.
pub fn sender(source: &str, properties: &str) -> Pipeline {
    Pipeline::new(&format!(
        "{source} ! dualwebrtcsink name=sink run-signalling-server=true \
         signalling-server-host=127.0.0.1 signalling-server-port=0 \
         encoder::bitrate=500000 {properties}"
    ))
}

/// Where the server of a sender that plays is reached.
pub fn uri(sender: &Pipeline, element: &str) -> String {
    let signaller: glib::Object = sender.element(element).property("signaller");
    signaller.property("uri")
}

pub fn receiver(uri: &str, properties: &str) -> Pipeline {
    Pipeline::new(&format!(
        "dualwebrtcsrc name=src signaller::uri={uri} {properties} ! fakesink name=out sync=false"
    ))
}

/// Threads of this process whose name begins like this.
pub fn threads(prefix: &str) -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}
