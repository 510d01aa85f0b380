// SPDX-License-Identifier: MPL-2.0
//! The data channel to a browser page: it tells which frames were decoded,
//! since script cannot send RTCP, and is told which stream has the picture.
//!
//! ```text
//! encoder <- application/x-frame-complete <- payloader -> packets
//!                                  |            | RTP time of each frame
//!                                 page.rs (what is said and remembered)
//!                                  |
//!                           webrtcbin's channel
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;
use gst_webrtc::WebRTCDataChannel;

use super::page::{self, Frame, Heard, Mark, Page, Says};
use crate::capture_time::{self, NtpTime};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dualwebrtcchannel",
        gst::DebugColorFlags::empty(),
        Some("Data channel of dualwebrtcsink"),
    )
});

pub const LABEL: &str = "dualstream";
/// More that waits to be sent is not added to.
const MOST_WAITING: u64 = 16 * 1024;

struct Inner {
    // Lock order: no two of these at once.
    page: Mutex<Page>,
    /// Sink pads of the payloaders, from where events go to the encoder.
    entries: [Mutex<glib::WeakRef<gst::Pad>>; 2],
    /// From its opening to the end of the session.
    channel: Mutex<Option<WebRTCDataChannel>>,
    ended: AtomicBool,
    unsent: AtomicU64,
    /// Called at the first hello, from a thread of webrtcbin.
    greeted: Box<dyn Fn() + Send + Sync>,
}

/// Of one session.
#[derive(Clone)]
pub struct DataChannel(Arc<Inner>);

impl std::fmt::Debug for DataChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataChannel").finish_non_exhaustive()
    }
}

fn unix_now() -> Option<f64> {
    NtpTime::now().map(|now| page::unix_ms(now.nanos()))
}

impl DataChannel {
    pub fn new(greeted: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            page: Mutex::default(),
            entries: Default::default(),
            channel: Mutex::default(),
            ended: AtomicBool::new(false),
            unsent: AtomicU64::new(0),
            greeted: Box::new(greeted),
        }))
    }

    /// Asks webrtcbin for the channel; once it has been started, and before the
    /// offer.
    pub fn open(&self, webrtcbin: &gst::Element) -> Result<(), glib::BoolError> {
        // Each message that matters is said again: one that is lost must not
        // hold up those behind it.
        let options = gst::Structure::builder("options")
            .field("ordered", false)
            .field("max-retransmits", 0i32)
            .build();
        let channel = webrtcbin
            .emit_by_name::<Option<WebRTCDataChannel>>("create-data-channel", &[&LABEL, &options])
            .ok_or_else(|| glib::bool_error!("webrtcbin makes no data channel"))?;
        let weak = Arc::downgrade(&self.0);
        channel.connect_on_open(move |channel| {
            if let Some(inner) = weak.upgrade().filter(|inner| !inner.has_ended()) {
                gst::debug!(CAT, obj = channel, "open");
                *inner.channel.lock().unwrap() = Some(channel.clone());
            }
        });
        let weak = Arc::downgrade(&self.0);
        channel.connect_on_close(move |_| {
            if let Some(inner) = weak.upgrade() {
                drop(inner.take_channel());
            }
        });
        let weak = Arc::downgrade(&self.0);
        channel.connect_on_message_string(move |channel, text| {
            if let (Some(inner), Some(text)) = (weak.upgrade(), text)
                && !inner.has_ended()
            {
                gst::log!(CAT, obj = channel, "heard {text}");
                inner.on_message(text);
            }
        });
        Ok(())
    }

    /// Reads what the payloader of a stream makes of its frames.
    pub fn watch(&self, stream: usize, pay: &gst::Element) {
        let (Some(sink), Some(src), Some(entry)) = (
            pay.static_pad("sink"),
            pay.static_pad("src"),
            self.0.entries.get(stream),
        ) else {
            return;
        };
        *entry.lock().unwrap() = sink.downgrade();
        // The frame in the payloader: its packets follow in the same thread.
        let current = Arc::new(Mutex::new(None::<(Frame, Option<f64>)>));
        let (coming, reference) = (current.clone(), capture_time::reference());
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                let at = capture_time::of(buffer, &reference).map(|at| page::unix_ms(at.nanos()));
                *coming.lock().unwrap() = tags(buffer).map(|frame| (frame, at));
            }
            gst::PadProbeReturn::Ok
        });
        let weak = Arc::downgrade(&self.0);
        let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        src.add_probe(kinds, move |_, info| {
            let first = match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => rtp_time(buffer),
                Some(gst::PadProbeData::BufferList(list)) => list.get(0).and_then(rtp_time),
                _ => None,
            };
            let frame = first.and_then(|rtp| Some((rtp, current.lock().unwrap().take()?)));
            if let (Some(inner), Some((rtp, (frame, at)))) = (weak.upgrade(), frame) {
                let stream = stream as u32;
                inner.on_frame(Mark { stream, rtp }, frame, at);
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Nothing is said or heard any more; before webrtcbin is stopped.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::SeqCst);
        drop(self.0.take_channel());
    }

    pub fn stats(&self) -> gst::Structure {
        let is_open = self.0.channel.lock().unwrap().is_some();
        let (counts, greeted) = {
            let page = self.0.page.lock().unwrap();
            (page.counts, page.has_greeted())
        };
        gst::Structure::builder("application/x-data-channel-stats")
            .field("open", is_open)
            .field("hello", greeted)
            .field("received", counts.received)
            .field("completes", counts.completes)
            .field("unknown-frames", counts.unknown_frames)
            .field("others", counts.others)
            .field("malformed", counts.malformed)
            .field("limited", counts.limited)
            .field("switches", counts.switches)
            .field("unsent", self.0.unsent.load(Ordering::Relaxed))
            .build()
    }
}

impl Inner {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn take_channel(&self) -> Option<WebRTCDataChannel> {
        self.channel.lock().unwrap().take()
    }

    fn on_frame(&self, from: Mark, frame: Frame, at: Option<f64>) {
        let says = self.page.lock().unwrap().on_frame(from, frame, at);
        self.say(says);
    }

    fn say(&self, says: Option<Says>) {
        let Some(says) = says else { return };
        let channel = self.channel.lock().unwrap().clone();
        let text = says.text();
        let sent = channel
            .filter(|channel| channel.buffered_amount() < MOST_WAITING)
            .is_some_and(|channel| channel.send_string_full(Some(&text)).is_ok());
        if sent {
            gst::log!(CAT, "said {text}");
        } else {
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_message(&self, text: &str) {
        let received = unix_now();
        let heard = self.page.lock().unwrap().on_message(Instant::now(), text);
        match heard {
            Heard::Nothing => {}
            Heard::Hello { first } => {
                self.say(Some(Says::Welcome {
                    version: page::VERSION,
                }));
                let display = self.page.lock().unwrap().display();
                self.say(display);
                if first {
                    (self.greeted)();
                }
            }
            Heard::Complete { stream, frame } => self.complete(stream, frame),
            Heard::Clock { id } => {
                if let (Some(received), Some(sent)) = (received, unix_now()) {
                    let says = self.page.lock().unwrap().clock(id, received, sent);
                    self.say(Some(says));
                }
            }
        }
    }

    /// What rtcpiframefeedback makes of the RTCP message.
    fn complete(&self, stream: u32, frame: Frame) {
        let entry = self.entries.get(stream as usize);
        let Some(pad) = entry.and_then(|entry| entry.lock().unwrap().upgrade()) else {
            return;
        };
        let structure = gst::Structure::builder("application/x-frame-complete")
            .field("stream", stream)
            .field("frame", frame.number)
            .field("generation", u32::from(frame.generation))
            .field("key", frame.key)
            .field("decodable", true)
            .build();
        // Refused while nothing is linked: at the end of a session.
        let _ = pad.push_event(gst::event::CustomUpstream::new(structure));
    }
}

/// What dualh264enc says of a frame.
fn tags(buffer: &gst::BufferRef) -> Option<Frame> {
    let meta = gst::meta::CustomMeta::from_buffer(buffer, "DualStreamFrame").ok()?;
    let s = meta.structure();
    Some(Frame {
        number: s.get("number").ok()?,
        generation: u8::try_from(s.get::<u32>("generation").ok()?).ok()?,
        key: s.get("key").ok()?,
        background: s.get("background").ok()?,
    })
}

fn rtp_time(packet: &gst::BufferRef) -> Option<u32> {
    let mut time = [0; 4];
    if packet.size() < 12 {
        return None;
    }
    packet.copy_to_slice(4, &mut time).ok()?;
    Some(u32::from_be_bytes(time))
}
