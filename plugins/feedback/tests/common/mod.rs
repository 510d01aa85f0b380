// SPDX-License-Identifier: MPL-2.0
//! Not every test uses all of this.
#![allow(dead_code)]

use gst::prelude::*;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        // Before GLib reads it, and no thread of ours is there yet.
        unsafe { std::env::set_var("G_DEBUG", "fatal-warnings") };
        gst::init().unwrap();
        gstfeedback::plugin_register_static().unwrap();
    });
}

/// Fails the test if it does not come true in ten seconds.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "no {what} in 10 s"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A packet of `ssrc`; `extension` is id and data of a one-byte (id below 15)
/// or two-byte header extension.
pub fn rtp_packet(ssrc: u32, seq: u16, extension: Option<(u8, &[u8])>) -> gst::Buffer {
    let mut packet = vec![if extension.is_some() { 0x90 } else { 0x80 }, 96];
    packet.extend(seq.to_be_bytes());
    packet.extend((u32::from(seq) * 3000).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    if let Some((id, data)) = extension {
        let length = data.len() as u8;
        let (profile, mut body) = if id < 15 {
            ([0xbe, 0xde], vec![id << 4 | (length - 1)])
        } else {
            ([0x10, 0x00], vec![id, length])
        };
        body.extend(data);
        body.resize(body.len().next_multiple_of(4), 0);
        packet.extend(profile);
        packet.extend((body.len() as u16 / 4).to_be_bytes());
        packet.extend(body);
    }
    packet.extend([0x41; 40]);
    gst::Buffer::from_mut_slice(packet)
}

/// An RTCP packet 206/15.
pub fn rtcp_packet(media_ssrc: u32, fci: &[u8]) -> gst::Buffer {
    assert_eq!(fci.len() % 4, 0);
    let mut packet = vec![0x8f, 206];
    packet.extend((2 + fci.len() as u16 / 4).to_be_bytes());
    packet.extend(0xdead_beef_u32.to_be_bytes());
    packet.extend(media_ssrc.to_be_bytes());
    packet.extend(fci);
    gst::Buffer::from_mut_slice(packet)
}

pub fn frame_complete(
    stream: u32,
    frame: u32,
    generation: u32,
    key: bool,
    decodable: bool,
) -> gst::Event {
    let structure = gst::Structure::builder("application/x-frame-complete")
        .field("stream", stream)
        .field("frame", frame)
        .field("generation", generation)
        .field("key", key)
        .field("decodable", decodable)
        .build();
    gst::event::CustomUpstream::new(structure)
}

pub fn stat(element: &gst::Element, field: &str) -> u64 {
    let stats: gst::Structure = element.property("stats");
    assert_eq!(stats.name(), "application/x-rtcpiframefeedback-stats");
    stats.get(field).unwrap()
}

/// Stream, frame, generation, key, decodable.
pub type Complete = (u32, u32, u32, bool, bool);
pub type Completes = Arc<Mutex<Vec<(Complete, Instant)>>>;

/// What the events that pass `pad` upstream say, and when.
pub fn watch_completes(pad: &gst::Pad) -> Completes {
    let seen = Completes::default();
    let events = seen.clone();
    pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        if let Some(s) = info.event().and_then(|event| event.structure())
            && s.name() == "application/x-frame-complete"
        {
            let complete = (
                s.get("stream").unwrap(),
                s.get("frame").unwrap(),
                s.get("generation").unwrap(),
                s.get("key").unwrap(),
                s.get("decodable").unwrap(),
            );
            events.lock().unwrap().push((complete, Instant::now()));
        }
        gst::PadProbeReturn::Ok
    });
    seen
}

pub fn completes(seen: &Completes) -> Vec<Complete> {
    seen.lock().unwrap().iter().map(|(c, _)| *c).collect()
}

/// To NULL when dropped, so that a failed test does not hang.
pub struct Pipeline(pub gst::Pipeline);

impl Pipeline {
    #[track_caller]
    pub fn new(description: &str) -> Self {
        init();
        let pipeline = gst::parse::launch(description).unwrap();
        Self(pipeline.downcast().unwrap())
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> gst::Element {
        self.0.by_name(name).unwrap_or_else(|| panic!("no {name}"))
    }

    #[track_caller]
    pub fn play(&self) {
        self.0.set_state(gst::State::Playing).unwrap();
    }

    /// Fails the test if an error was posted.
    #[track_caller]
    pub fn check_no_error(&self) {
        let bus = self.0.bus().unwrap();
        if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
            panic!("{message:?}");
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}
