// SPDX-License-Identifier: MPL-2.0
//! Packets, and what comes out of an element in order.
// Not every test needs all of it.
#![allow(dead_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use gst::prelude::*;

pub const TWCC_URI: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
pub const ESTIMATE: &str = "application/x-network-estimate";
/// For a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const MEDIA_PT: u8 = 96;
pub const FEC_PT: u8 = 110;
pub const MEDIA_SSRC: u32 = 0x1111_1111;

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstflexfec::plugin_register_static().unwrap();
    });
}

/// Transport-wide numbers under 3, frames under 4.
pub fn caps() -> gst::Caps {
    init();
    gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("encoding-name", "H264")
        .field("payload", i32::from(MEDIA_PT))
        .field("clock-rate", 90_000i32)
        .field("ssrc", MEDIA_SSRC)
        .field("extmap-3", TWCC_URI)
        .field("extmap-4", FRAME_URI)
        .build()
}

/// A packet as a payloader makes it.
#[derive(Clone, Copy)]
pub struct Packet {
    pub ssrc: u32,
    pub seq: u16,
    pub timestamp: u32,
    pub marker: bool,
    /// Flags of the dual-stream extension.
    pub frame: Option<u8>,
    pub size: usize,
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            ssrc: MEDIA_SSRC,
            seq: 0,
            timestamp: 0,
            marker: false,
            frame: None,
            size: 300,
        }
    }
}

impl Packet {
    pub fn bytes(self) -> Vec<u8> {
        let mut data = vec![0x90, MEDIA_PT | u8::from(self.marker) << 7];
        data.extend(self.seq.to_be_bytes());
        data.extend(self.timestamp.to_be_bytes());
        data.extend(self.ssrc.to_be_bytes());
        // The session writes the number.
        match self.frame {
            None => data.extend([0xbe, 0xde, 0, 1, 0x31, 0, 0, 0]),
            Some(flags) => {
                data.extend([0xbe, 0xde, 0, 2, 0x31, 0, 0, 0x43, flags, 0, 1, 0]);
            }
        }
        let body = (data.len()..self.size).map(|i| (i as u16 ^ self.seq.wrapping_mul(31)) as u8);
        data.extend(body.collect::<Vec<u8>>());
        data
    }

    pub fn buffer(self) -> gst::Buffer {
        init();
        let mut buffer = gst::Buffer::from_slice(self.bytes());
        let time = gst::ClockTime::from_useconds(u64::from(self.timestamp) * 100 / 9);
        let buffer_mut = buffer.get_mut().unwrap();
        buffer_mut.set_pts(time);
        buffer_mut.set_dts(time);
        buffer
    }
}

/// The packets of one frame, the last with the marker.
pub fn frame(first: u16, packets: u16, timestamp: u32) -> Vec<Packet> {
    (0..packets)
        .map(|n| Packet {
            seq: first.wrapping_add(n),
            timestamp,
            marker: n + 1 == packets,
            size: 200 + usize::from(n) * 37,
            ..Packet::default()
        })
        .collect()
}

pub fn bytes(buffer: &gst::BufferRef) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

pub fn pt(packet: &[u8]) -> u8 {
    packet[1] & 0x7f
}

pub fn seq(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

pub fn timestamp(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[4..8].try_into().unwrap())
}

pub fn ssrc(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[8..12].try_into().unwrap())
}

/// What left a source pad.
#[derive(Clone, Debug)]
pub enum Out {
    Buffer(gst::Buffer),
    List(gst::BufferList),
    Event(gst::Event),
}

/// All that leaves a source pad, in order.
#[derive(Clone, Default)]
pub struct Outlet(Arc<Mutex<Vec<Out>>>);

impl Outlet {
    pub fn of(pad: &gst::Pad) -> Self {
        let outlet = Self::default();
        let out = outlet.0.clone();
        let types = gst::PadProbeType::BUFFER
            | gst::PadProbeType::BUFFER_LIST
            | gst::PadProbeType::EVENT_DOWNSTREAM
            | gst::PadProbeType::EVENT_FLUSH;
        pad.add_probe(types, move |_, info| {
            let what = match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    // Not the buffer: a reference would change who may write.
                    Out::Buffer(buffer.copy_deep().unwrap())
                }
                Some(gst::PadProbeData::BufferList(list)) => Out::List(list.clone()),
                Some(gst::PadProbeData::Event(event)) => Out::Event(event.clone()),
                _ => return gst::PadProbeReturn::Ok,
            };
            out.lock().unwrap().push(what);
            gst::PadProbeReturn::Ok
        });
        outlet
    }

    pub fn take(&self) -> Vec<Out> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// In words: `m<seq>` media, `fec`, `list<n>`, or the type of an event.
    pub fn words(&self) -> Vec<String> {
        let word = |out| match out {
            Out::Buffer(buffer) => match bytes(&buffer) {
                data if pt(&data) == FEC_PT => "fec".to_owned(),
                data => format!("m{}", seq(&data)),
            },
            Out::List(list) => format!("list{}", list.len()),
            Out::Event(event) => match event.view() {
                gst::EventView::Caps(caps) => {
                    let s = caps.caps().structure(0).unwrap();
                    format!("caps{}", s.get::<i32>("payload").unwrap_or(-1))
                }
                _ => event.type_().to_string(),
            },
        };
        self.take().into_iter().map(word).collect()
    }

    /// The packets, without events.
    pub fn packets(&self) -> Vec<gst::Buffer> {
        let buffers = |out| match out {
            Out::Buffer(buffer) => vec![buffer],
            Out::List(list) => list.iter_owned().collect(),
            Out::Event(_) => Vec::new(),
        };
        self.take().into_iter().flat_map(buffers).collect()
    }

    pub fn fec(&self) -> Vec<gst::Buffer> {
        let is_fec = |buffer: &gst::Buffer| pt(&bytes(buffer)) == FEC_PT;
        self.packets().into_iter().filter(is_fec).collect()
    }
}

/// Each tenth media packet is lost. Counts them.
pub fn lose_packets(pad: &gst::Pad) -> Arc<AtomicU64> {
    let lost = Arc::<AtomicU64>::default();
    let counter = lost.clone();
    let media = AtomicU64::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let data = bytes(info.buffer().unwrap());
        if pt(&data) != MEDIA_PT || media.fetch_add(1, Ordering::Relaxed) % 10 != 7 {
            return gst::PadProbeReturn::Ok;
        }
        counter.fetch_add(1, Ordering::Relaxed);
        drop(info.data.take());
        gst::PadProbeReturn::Handled
    });
    lost
}

#[track_caller]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn stats(element: &gst::Element) -> gst::Structure {
    element.property("stats")
}

#[track_caller]
pub fn stat(element: &gst::Element, name: &str) -> u64 {
    stats(element).get(name).unwrap()
}

/// Goes to NULL whatever happens.
pub struct Pipeline(pub gst::Pipeline);

impl Pipeline {
    pub fn new(description: &str) -> Self {
        init();
        Self(gst::parse::launch(description).unwrap().downcast().unwrap())
    }

    pub fn get(&self, name: &str) -> gst::Element {
        self.0.by_name(name).unwrap()
    }

    #[track_caller]
    pub fn play(&self) {
        self.0.set_state(gst::State::Playing).unwrap();
    }

    /// Until EOS.
    #[track_caller]
    pub fn run(&self) {
        self.play();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let timeout = gst::ClockTime::try_from(PATIENCE).unwrap();
        let message = self.0.bus().unwrap().timed_pop_filtered(timeout, &ends);
        let message = message.expect("it ends");
        assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}
