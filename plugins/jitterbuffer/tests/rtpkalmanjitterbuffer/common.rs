// SPDX-License-Identifier: MPL-2.0
//! Packets, an element on a clock that moves only when the test says so, and
//! what it did in order.

use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_check::{Harness, TestClock};

pub const FRAME_URI: &str = "urn:x-gst-dualstream:frame:1";
pub const PLAYOUT_URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
pub const RTX: &str = "GstRTPRetransmissionRequest";
pub const LOST: &str = "GstRTPPacketLost";
pub const KEY: &str = "GstForceKeyUnit";
pub const SSRC: u32 = 0x1234_5678;
pub const PT: u8 = 96;
/// Of the RTP clock, at 30 frames/s.
pub const FRAME: u32 = 3000;
/// For a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        // GLib reads G_DEBUG before a test can set it.
        use gst::glib::LogLevels;
        gst::glib::log_set_always_fatal(
            LogLevels::LEVEL_ERROR | LogLevels::LEVEL_CRITICAL | LogLevels::LEVEL_WARNING,
        );
        gstjitterbuffer::plugin_register_static().unwrap();
        gst::meta::CustomMeta::register("DualStreamFecRecovered", &[]);
    });
}

/// H.264 with the extensions playout-delay under 3 and frames under 4.
pub fn caps() -> gst::Caps {
    init();
    gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("encoding-name", "H264")
        .field("payload", i32::from(PT))
        .field("clock-rate", 90_000i32)
        .field("extmap-3", PLAYOUT_URI)
        .field("extmap-4", FRAME_URI)
        .build()
}

/// A packet as it comes from the network.
#[derive(Clone)]
pub struct Packet {
    pub ssrc: u32,
    pub pt: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub marker: bool,
    /// Of one-byte headers: id, value.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub payload: Vec<u8>,
    pub retransmitted: bool,
    pub recovered: bool,
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            ssrc: SSRC,
            pt: PT,
            seq: 0,
            timestamp: 0,
            marker: false,
            extensions: Vec::new(),
            // A slice that others are predicted from.
            payload: [vec![0x41], vec![0xaa; 99]].concat(),
            retransmitted: false,
            recovered: false,
        }
    }
}

impl Packet {
    pub fn bytes(&self) -> Vec<u8> {
        let has_extensions = !self.extensions.is_empty();
        let mut data = vec![
            0x80 | u8::from(has_extensions) << 4,
            self.pt | u8::from(self.marker) << 7,
        ];
        data.extend(self.seq.to_be_bytes());
        data.extend(self.timestamp.to_be_bytes());
        data.extend(self.ssrc.to_be_bytes());
        if has_extensions {
            let mut extensions = Vec::new();
            for (id, value) in &self.extensions {
                extensions.push(id << 4 | (value.len() as u8 - 1));
                extensions.extend(value);
            }
            extensions.resize(extensions.len().next_multiple_of(4), 0);
            data.extend([0xbe, 0xde]);
            data.extend((extensions.len() as u16 / 4).to_be_bytes());
            data.extend(extensions);
        }
        data.extend(&self.payload);
        data
    }

    /// That came at this running time.
    pub fn buffer(&self, us: u64) -> gst::Buffer {
        init();
        let mut buffer = gst::Buffer::from_mut_slice(self.bytes());
        let time = gst::ClockTime::from_useconds(us);
        let buffer_mut = buffer.get_mut().unwrap();
        buffer_mut.set_pts(time);
        buffer_mut.set_dts(time);
        if self.retransmitted {
            // The bindings have no name for flags of RTP.
            let flag = gst_rtp::RTPBufferFlags::RETRANSMISSION.bits();
            // SAFETY: the buffer is there and nobody else has it.
            unsafe { (*buffer_mut.as_mut_ptr()).mini_object.flags |= flag };
        }
        if self.recovered {
            gst::meta::CustomMeta::add(buffer_mut, "DualStreamFecRecovered").unwrap();
        }
        buffer
    }
}

/// The packets of frame `n`, the last with the marker.
pub fn frame(first: u16, packets: u16, n: u32) -> Vec<Packet> {
    (0..packets)
        .map(|at| Packet {
            seq: first.wrapping_add(at),
            timestamp: n.wrapping_mul(FRAME),
            marker: at + 1 == packets,
            ..Packet::default()
        })
        .collect()
}

/// Of frames without jitter: when frame `n` is captured, and comes.
pub fn due_us(n: u32) -> u64 {
    1_000_000 + u64::from(n) * 100_000 / 3
}

pub fn seq(buffer: &gst::BufferRef) -> u16 {
    let mut bytes = [0; 2];
    buffer.copy_to_slice(2, &mut bytes).unwrap();
    u16::from_be_bytes(bytes)
}

pub fn name(event: &gst::Event) -> String {
    match event.structure() {
        Some(s) if is_custom(event) => s.name().to_string(),
        _ => event.type_().to_string(),
    }
}

fn is_custom(event: &gst::Event) -> bool {
    matches!(
        event.type_(),
        gst::EventType::CustomDownstream | gst::EventType::CustomUpstream
    )
}

/// What went through a pad.
#[derive(Clone, Debug)]
pub enum Out {
    Buffer(gst::Buffer),
    Event(gst::Event),
}

/// All that went through a pad in one direction, in order.
#[derive(Clone, Default)]
pub struct Outlet {
    came: Arc<Mutex<Vec<Out>>>,
    /// Whether packets are held up.
    closed: Arc<(Mutex<bool>, Condvar)>,
}

impl Outlet {
    pub fn of(pad: &gst::Pad, types: gst::PadProbeType) -> Self {
        let outlet = Self::default();
        let Self { came, closed } = outlet.clone();
        pad.add_probe(types, move |_, info| {
            let what = match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => Out::Buffer(buffer.clone()),
                Some(gst::PadProbeData::Event(event)) => Out::Event(event.clone()),
                _ => return gst::PadProbeReturn::Ok,
            };
            let is_buffer = matches!(what, Out::Buffer(_));
            came.lock().unwrap().push(what);
            if is_buffer {
                let (closed, changed) = &*closed;
                drop(changed.wait_while(closed.lock().unwrap(), |closed| *closed));
            }
            gst::PadProbeReturn::Ok
        });
        outlet
    }

    /// From the next packet on nothing passes; the streaming thread waits.
    pub fn close(&self) {
        *self.closed.0.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.closed.0.lock().unwrap() = false;
        self.closed.1.notify_all();
    }

    pub fn all(&self) -> Vec<Out> {
        self.came.lock().unwrap().clone()
    }

    pub fn clear(&self) {
        self.came.lock().unwrap().clear();
    }

    pub fn buffers(&self) -> Vec<gst::Buffer> {
        let buffer = |out| match out {
            Out::Buffer(buffer) => Some(buffer),
            Out::Event(_) => None,
        };
        self.all().into_iter().filter_map(buffer).collect()
    }

    pub fn count(&self) -> usize {
        let came = self.came.lock().unwrap();
        came.iter()
            .filter(|out| matches!(out, Out::Buffer(_)))
            .count()
    }

    pub fn seqs(&self) -> Vec<u16> {
        self.buffers().iter().map(|buffer| seq(buffer)).collect()
    }

    /// Of the last packet, in µs.
    pub fn last_pts(&self) -> u64 {
        let last = self.buffers().last().and_then(|b| b.pts());
        last.expect("a packet with a time stamp").useconds()
    }

    /// Custom events of this name.
    pub fn named(&self, wanted: &str) -> Vec<gst::Structure> {
        let structure = |out| match out {
            Out::Event(event) => event.structure().map(ToOwned::to_owned),
            Out::Buffer(_) => None,
        };
        let all = self.all().into_iter().filter_map(structure);
        all.filter(|s| s.has_name(wanted)).collect()
    }

    /// In words: the sequence number, or the name of the event.
    pub fn words(&self) -> Vec<String> {
        let word = |out: &Out| match out {
            Out::Buffer(buffer) => seq(buffer).to_string(),
            Out::Event(event) => name(event),
        };
        self.all().iter().map(word).collect()
    }
}

/// An element with a test clock; running time is the time of the clock.
pub struct Fixture {
    pub element: gst::Element,
    pub clock: TestClock,
    pub h: Harness,
    pub bus: gst::Bus,
    /// Downstream.
    pub out: Outlet,
    /// Upstream.
    pub up: Outlet,
}

impl Fixture {
    pub fn new(properties: &str) -> Self {
        Self::with_caps(properties, caps())
    }

    pub fn with_caps(properties: &str, caps: gst::Caps) -> Self {
        let mut fixture = Self::silent(properties);
        fixture.h.set_src_caps(caps);
        fixture
    }

    /// Nothing was pushed yet.
    pub fn silent(properties: &str) -> Self {
        init();
        let line = format!("rtpkalmanjitterbuffer {properties}");
        let element = gst::parse::launch(&line).unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.use_testclock();
        let events = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
        let types = events | gst::PadProbeType::BUFFER;
        let out = Outlet::of(&element.static_pad("src").unwrap(), types);
        let sink = element.static_pad("sink").unwrap();
        let up = Outlet::of(&sink, gst::PadProbeType::EVENT_UPSTREAM);
        h.play();
        Self {
            clock: h.testclock().unwrap(),
            element,
            h,
            bus,
            out,
            up,
        }
    }

    /// Lets all waits end that are due.
    fn release(&self) {
        let now = self.clock.time();
        while self.clock.next_entry_time().is_some_and(|time| time <= now)
            && self.clock.process_next_clock_id().is_some()
        {}
    }

    pub fn set_us(&self, us: u64) {
        let time = gst::ClockTime::from_useconds(us);
        if self.clock.time() < time {
            self.clock.set_time(time);
        }
        self.release();
    }

    /// When a thread of the element will wake first, in µs, as far as it is
    /// waiting already.
    pub fn next_us(&self) -> Option<u64> {
        let now = self.clock.time();
        let next = self.clock.next_entry_time().filter(|time| *time > now);
        next.map(|time| time.useconds())
    }

    /// Waits until the element does nothing before this time.
    #[track_caller]
    pub fn until_waiting(&self, us: u64, by: u64) {
        self.until(&format!("a wait until {us}"), |f| {
            f.next_us().is_some_and(|next| next.abs_diff(us) <= by)
        });
    }

    /// Until this is so, the clock goes on to the next time that one of both
    /// threads waits for.
    #[track_caller]
    pub fn step_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let mut quiet = Instant::now();
        self.until(what, |f| {
            if done(f) {
                return true;
            }
            // A thread that waits for something else is not seen.
            let waiting = f.clock.peek_id_count();
            let all = waiting == 2 || quiet.elapsed() > Duration::from_millis(100);
            if let Some(next) = f.clock.next_entry_time().filter(|_| all) {
                f.clock.set_time(next.max(f.clock.time()));
                quiet = Instant::now();
            }
            false
        });
    }

    #[track_caller]
    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.release();
            if done(self) {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited for {what}, at {} until {:?}; out: {:?}, up: {:?}, {}",
                self.clock.time(),
                self.next_us(),
                self.out.words(),
                self.up.words(),
                self.stats()
            );
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits for so many packets in all.
    #[track_caller]
    pub fn until_out(&self, count: usize) {
        self.until(&format!("{count} packets"), |f| f.out.count() >= count);
    }

    /// The packet comes at `us`.
    #[track_caller]
    pub fn push(&mut self, us: u64, packet: &Packet) {
        self.set_us(us);
        assert_eq!(self.h.push(packet.buffer(us)), Ok(gst::FlowSuccess::Ok));
    }

    #[track_caller]
    pub fn push_all(&mut self, us: u64, packets: &[Packet]) {
        for packet in packets {
            self.push(us, packet);
        }
    }

    /// Frames of one packet, numbers and sequence numbers as given, each so much
    /// later than due. All leave. The delay of each, from when it is due.
    #[track_caller]
    pub fn frames(
        &mut self,
        numbers: std::ops::Range<u32>,
        late_us: impl Fn(u32) -> u64,
    ) -> Vec<u64> {
        let mut before = self.out.count();
        let mut delays = Vec::new();
        for n in numbers {
            let us = due_us(n) + late_us(n);
            self.push_all(us, &frame(n as u16, 1, n));
            before += 1;
            self.until_out(before);
            // Both are rounded down.
            delays.push(self.out.last_pts().saturating_sub(due_us(n)));
        }
        delays
    }

    pub fn stats(&self) -> gst::Structure {
        self.element.property("stats")
    }

    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        self.stats().get(name).unwrap()
    }

    /// The same in µs.
    #[track_caller]
    pub fn stat_us(&self, name: &str) -> u64 {
        self.stat(name) / 1000
    }

    /// What downstream tells the element, in µs.
    pub fn set_pipeline_latency(&self, us: u64) {
        let latency = gst::ClockTime::from_useconds(us);
        self.send(gst::event::Latency::new(latency));
    }

    /// An event from downstream.
    pub fn send(&self, event: gst::Event) -> bool {
        self.element.static_pad("src").unwrap().send_event(event)
    }

    /// Asks as a pipeline does, in µs.
    pub fn ask_latency(&self) -> u64 {
        self.h.query_latency().unwrap().useconds()
    }

    /// Whether a message of this type was posted since the last time.
    pub fn posted(&self, type_: gst::MessageType) -> bool {
        let mut found = false;
        while let Some(message) = self.bus.pop() {
            found |= message.type_() == type_;
        }
        found
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.out.open();
    }
}

#[track_caller]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
pub fn assert_near(value: u64, wanted: u64, by: u64, why: &str) {
    assert!(
        value.abs_diff(wanted) <= by,
        "{why}: {value}, not {wanted} +- {by}"
    );
}
