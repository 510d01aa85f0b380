// SPDX-License-Identifier: MPL-2.0
//! Bodies of the fuzz targets in `fuzz/`, and their corpus.

use std::collections::HashMap;
use std::time::Duration;

use dualstream_common::{DataSize, Ratio, Timestamp};

use crate::presentation::Latency;
use crate::{
    Assembly, BufferConfig, Config, DecodeMeter, ExtTimestamp, JitterBuffer, LONGEST_DELAY,
    ModelKind, Next, NextRequest, Origin, Out, Packet, Part, PlayoutDelay, Presentation, Rejected,
    RequestConfig, Source, Timing,
};

/// Inputs near the edges, run by a plain test through every body.
pub const CORPUS: &[&[u8]] = &[
    b"",
    // STAP-A: cut short, without units, with a unit longer than the rest.
    b"\x78\xff",
    b"\x78\x00\x00\x00\x00\x00\x01\x67",
    b"\x78\xff\xff\x67",
    // FU-A without its header.
    b"\x7c",
    // Playout delays: the largest, and min above max.
    b"\xff\xff\xff",
    b"\x10\x00\x01",
    // In order over the wrap, a gap, a request, its answer, all out.
    b"\x00\x00\x20\x03\x3c\x40\xff\xfe\xff\xff\xf0\x00\x00\x20\x03\x3c\x40\x00\x10\xff\xff\xf0\
      \x00\x00\x04\x04\x00\x05\x04\x0c\x04\x04\x04\x00\x05\x04\x09\x01\x00\x0d\x27\x00\x04\x0c\
      \x09\xff\x00\x0c\x0d",
    // Three strays in a row, and three whose times contradict each other.
    b"\x01\x00\x20\x03\x3c\x40\xff\xfe\xff\xff\xf0\x00\x10\x20\x03\x3c\x40\x00\x10\xff\xff\xf0\
      \x00\x00\x05\x04\x08\x75\x30\x40\x00\x00\x00\x04\x04\x08\x75\x31\x40\x00\x00\x00\x04\x04\
      \x08\x75\x32\x40\x00\x00\x00\x05\x04\x0c\x08\x10\x00\x80\x00\x00\x00\x04\x04\x08\x10\x01\
      \x40\x00\x00\x00\x04\x04\x08\x10\x02\x40\x00\x00\x00\x04\x04\x0c",
    // Both streams with the same picture, hidden in one of them.
    b"\x00\x00\x20\x03\x3c\x40\xff\xfe\xff\xff\xf0\x00\x00\x20\x03\x3c\x40\x00\x10\xff\xff\xf0\
      \x00\x00\x45\x07\x80\xc5\x07\x09\x02\x00\x00\x45\x08\x84\xc5\x08\x0c\x8c\x09\xff\x00\x09\
      \xff\x00\x8c\x8d",
    // No key frame is waited for any more when one was to be asked for.
    b"\x00\x04\x20\x03\x3c\x40\xff\xfe\xff\xff\xf0\x00\x04\x20\x03\x3c\x40\x00\x10\xff\xff\xf0\
      \x00\x00\x05\x04\x0e\x00\x20\x03\x3c\x40\x04\x0c",
    // A stray after the limits were lowered.
    b"\x00\x00\x20\x03\x3c\x40\xff\xfe\xff\xff\xf0\x00\x00\x20\x03\x3c\x40\x00\x10\xff\xff\xf0\
      \x00\x00\x04\xff\x08\x75\x30\x40\x00\x00\x00\x04\x04\x0e\x20\x20\x03\x3c\x40\x04\x0c",
    // Time stamps that go back below zero.
    b"\x00\x00\x00\x00\x00\x00\x00\x00\xa0\x00\x00\x00\x00\x00\x50\x00\x00\x00\x00\x00\x00\x00\
      \x00\x00\x00\x00\xa0\x00\x00\x00",
];

/// Takes numbers off the input; zeros when it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u32 {
        u32::from(self.number()) << 16 | u32::from(self.number())
    }

    fn ms(&mut self) -> Duration {
        Duration::from_millis(self.number().into())
    }

    fn model(&mut self) -> ModelKind {
        [ModelKind::Adaptive, ModelKind::Webrtc][usize::from(self.flag())]
    }

    fn delays(&mut self) -> Config {
        let (min_delay, max_delay) = (self.ms() / 10, self.ms() / 7);
        Config {
            late_target: Ratio::clamped(f64::from(self.byte()) / 512.0),
            min_delay,
            max_delay,
        }
    }

    fn buffer(&mut self) -> BufferConfig {
        let flags = self.byte();
        let is = |bit: u8| flags >> bit & 1 == 1;
        BufferConfig {
            assembly: [Assembly::Frames, Assembly::Packets][usize::from(is(0))],
            clock_rate: [90_000, 48_000, 1, 0][usize::from(flags >> 6)],
            hold: Duration::from_millis(self.byte().into()) * 4,
            drop_late: is(1),
            wait_for_key: is(2),
            request: RequestConfig {
                hedge: true,
                enabled: !is(3),
                reorder_packets: Some(self.byte() % 5).filter(|n| *n < 4).map(u32::from),
                min_delay: Duration::from_millis((flags >> 4).into()),
                max_retries: is(4).then_some(u32::from(flags >> 5)),
            },
            max_dropout: Duration::from_secs(self.byte().into()),
            max_misorder: Duration::from_secs(2),
            max_packets: usize::from(self.byte()) * 16 + 1,
            max_bytes: if is(5) { 20_000 } else { 64_000_000 },
        }
    }
}

/// What has become of a packet.
#[derive(Clone, Copy)]
struct Sent {
    sequence: u16,
    timestamp: u32,
    taken: bool,
}

/// A buffer, and what is known of it from outside.
struct Watched {
    buffer: JitterBuffer<usize>,
    sequence: u16,
    timestamp: u32,
    /// By what they carry.
    sent: HashMap<usize, Sent>,
    pushed: usize,
    /// Epoch and number of the last one out.
    last: Option<(u64, u64)>,
    stamps: Presentation,
    meter: DecodeMeter,
}

struct Session {
    timing: Timing,
    streams: [Watched; 2],
    now: Timestamp,
    latest: Timestamp,
    latency: Latency,
}

impl Watched {
    fn new(input: &mut Input<'_>, timing: &mut Timing) -> Self {
        Self {
            buffer: JitterBuffer::new(input.buffer(), timing),
            sequence: input.number(),
            timestamp: input.long(),
            sent: HashMap::new(),
            pushed: 0,
            last: None,
            stamps: Presentation::default(),
            meter: DecodeMeter::default(),
        }
    }

    fn packet(&mut self, flags: u8, shape: u8) -> Packet<usize> {
        let is = |bit: u8| flags >> bit & 1 == 1;
        self.pushed += 1;
        Packet {
            sequence: self.sequence,
            timestamp: self.timestamp,
            marker: is(0),
            size: DataSize::from_bytes(u64::from(shape) * 256),
            origin: match flags >> 1 & 3 {
                0 => Origin::Retransmission,
                1 => Origin::Fec,
                _ => Origin::Network,
            },
            part: Part {
                begins: !is(3),
                key: is(4),
                reference: !is(5),
            },
            number: is(6).then_some(u16::from(shape)),
            hidden: is(7),
            data: self.pushed,
        }
    }

    fn push(&mut self, now: Timestamp, packet: Packet<usize>, timing: &mut Timing) {
        let sent = Sent {
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            taken: false,
        };
        self.sent.insert(packet.data, sent);
        let data = packet.data;
        // Those that are astray may be let in later.
        if let Err(Rejected::Late | Rejected::Duplicate) = self.buffer.push(now, packet, timing) {
            self.sent.remove(&data);
        }
        let (stats, config) = (self.buffer.stats(), self.buffer.config());
        assert!(stats.held_packets <= config.max_packets);
        assert!(stats.held_bytes <= config.max_bytes);
    }

    /// It was taken once, and is what it was; in order.
    fn left(&mut self, out: &Out<usize>, latest: Timestamp) {
        let sent = self.sent.get_mut(&out.data).expect("it was taken");
        assert!(!std::mem::replace(&mut sent.taken, true), "it comes once");
        assert_eq!(
            (sent.sequence, sent.timestamp),
            (out.number as u16, out.timestamp)
        );
        let place = (out.epoch, out.number);
        assert!(self.last.is_none_or(|last| last < place), "in order");
        self.last = Some(place);
        assert!(out.render <= latest + LONGEST_DELAY + Duration::from_millis(500));
    }

    /// All that leaves now.
    fn poll(&mut self, now: Timestamp, latest: Timestamp, timing: &Timing) {
        loop {
            match self.buffer.poll(now, timing) {
                Next::Packet(out) => {
                    self.left(&out, latest);
                    let stamp = self.stamps.stamp(out.timestamp, out.render);
                    self.meter.pushed(now, stamp, true);
                }
                Next::Lost(lost) => assert!(lost.count > 0),
                Next::AskForKeyFrame => assert!(self.buffer.config().wait_for_key),
                Next::WaitUntil(due) => {
                    assert!(due > now);
                    assert_eq!(self.buffer.due(timing), Some(due));
                    let longest = self.buffer.config().hold.max(LONGEST_DELAY);
                    assert!(due <= latest + longest);
                    self.progresses(due, timing);
                    break;
                }
                Next::Idle => {
                    assert_eq!(self.buffer.due(timing), None);
                    assert_eq!(self.buffer.stats().held_packets, 0);
                    break;
                }
            }
        }
        assert!(self.buffer.begin() <= self.buffer.end());
    }

    /// Whoever waits until then does not wait in vain: something leaves, or is
    /// dropped as undecodable.
    fn progresses(&self, due: Timestamp, timing: &Timing) {
        let mut ahead = self.buffer.clone();
        if let Next::WaitUntil(_) | Next::Idle = ahead.poll(due, timing) {
            assert!(ahead.stats().held_packets < self.buffer.stats().held_packets);
        }
    }

    fn requests(&mut self, now: Timestamp, timing: &Timing) {
        let request = self.buffer.config().request;
        loop {
            match self.buffer.next_request(now, timing) {
                NextRequest::Ask(ask) => {
                    assert!(request.enabled);
                    assert!(request.max_retries.is_none_or(|most| ask.retry <= most));
                }
                NextRequest::WaitUntil(due) => {
                    assert!(due > now);
                    break;
                }
                NextRequest::Idle => break,
            }
        }
    }

    fn is_accounted(&self) {
        let stats = self.buffer.stats();
        let ends = stats.pushed
            + stats.late
            + stats.duplicates
            + stats.astray
            + stats.dropped
            + stats.undecodable
            + stats.held_packets as u64;
        assert_eq!(stats.received + stats.readmitted, ends, "{stats:?}");
        assert_eq!(stats.received, self.pushed as u64);
    }
}

impl Session {
    fn new(input: &mut Input<'_>) -> Self {
        let mut timing = Timing::new(input.model(), Config::default()).expect("it is the default");
        Self {
            streams: [(); 2].map(|()| Watched::new(input, &mut timing)),
            timing,
            now: Timestamp::from_millis(1000),
            latest: Timestamp::from_millis(1000),
            latency: Latency::default(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let (now, latest) = (self.now, self.latest);
        let timing = &mut self.timing;
        let stream = &mut self.streams[usize::from(op >> 7)];
        match op & 0xf {
            // A little on or back.
            0..=7 => {
                let back = u16::from(op >> 4 & 3);
                let (flags, shape) = (input.byte(), input.byte());
                let on = [1, 1, 1, 1, 2, 3, 0, 0u16.wrapping_sub(back)][usize::from(op & 7)];
                stream.sequence = stream.sequence.wrapping_add(on);
                let packet = stream.packet(flags, shape);
                if packet.marker {
                    stream.timestamp = stream.timestamp.wrapping_add(3000);
                }
                stream.push(now, packet, timing);
            }
            8 => {
                stream.sequence = input.number();
                stream.timestamp = input.long();
                let packet = stream.packet(input.byte(), input.byte());
                stream.push(now, packet, timing);
            }
            9 => self.pass(input.ms() / 16),
            10 => {
                self.now = Timestamp::from_millis(input.number().into());
                self.pass(Duration::ZERO);
            }
            11 => stream.timestamp = stream.timestamp.wrapping_add(input.number().into()),
            12 => stream.poll(now, latest, timing),
            13 => stream.requests(now, timing),
            14 => {
                let config = input.buffer();
                stream.buffer.configure(config);
                // It holds for what comes.
                let packet = stream.packet(input.byte(), 0);
                stream.push(now, packet, timing);
            }
            _ => self.rare(input, usize::from(op >> 7)),
        }
        self.streams.iter().for_each(Watched::is_accounted);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.latest = self.latest.max(self.now);
    }

    fn rare(&mut self, input: &mut Input<'_>, stream: usize) {
        let (now, timing) = (self.now, &mut self.timing);
        let stream = &mut self.streams[stream];
        match input.byte() % 6 {
            0 => stream.buffer.drain(now),
            1 => {
                stream.buffer.flush(timing);
                stream.last = None;
                stream.stamps.restart();
            }
            2 => {
                let took = input.ms() / 64;
                timing.decoded(now, took);
            }
            3 => {
                if let Some(wish) = PlayoutDelay::parse(input.0.get(..3).unwrap_or_default()) {
                    timing.wish(wish);
                }
            }
            4 => {
                let delays = input.delays();
                let valid = delays.validate();
                assert_eq!(timing.configure(input.model(), delays), valid);
            }
            _ => {
                let stamp = Timestamp::from_millis(input.number().into());
                stream.stamps.set_part(self.latency.told());
                stream.meter.arrived(stamp, now);
            }
        }
        self.latency.update(self.now, self.timing.target());
        assert!(self.timing.target() <= LONGEST_DELAY + Duration::from_millis(500));
    }
}

/// Two buffers that share their timing take any packets at any times, and are
/// polled, or not, and set up anew: each packet that comes out came, once, in
/// order; each is accounted for; what is held and how long is bounded.
pub fn fuzz_buffer(data: &[u8]) {
    let mut input = Input(data);
    let mut session = Session::new(&mut input);
    while !input.0.is_empty() {
        session.step(&mut input);
    }
    let (now, latest) = (session.now, session.latest);
    for stream in &mut session.streams {
        stream.buffer.drain(now);
        stream.poll(now, latest, &session.timing);
        stream.is_accounted();
        assert_eq!(stream.buffer.stats().held_packets, 0);
    }
}

/// Any bytes say something of their frame, or nothing; more bytes do not take
/// it back.
pub fn fuzz_payload(data: &[u8]) {
    let whole = Part::of_h264(data);
    let cut = Part::of_h264(&data[..data.len() / 2]);
    assert!(!cut.key || whole.key);
    assert!(!cut.begins || whole.begins);
    match PlayoutDelay::parse(data) {
        Some(delay) => {
            assert!(data.len() == 3 && delay.min <= delay.max);
            assert!(delay.max <= Duration::from_millis(40_950));
        }
        None => assert!(data.len() != 3 || data[0] > 0 || data[1] >= 0x10),
    }
    let mut input = Input(data);
    let mut source = Source::default();
    let mut stamps = ExtTimestamp::default();
    let mut now = Timestamp::ZERO;
    while !input.0.is_empty() {
        now = now + Duration::from_millis(u64::from(input.byte()));
        let ssrc = input.byte() % 3;
        if source.accept(now, ssrc.into()) {
            assert!(source.accept(now, ssrc.into()), "it is the source now");
        }
        let raw = input.long();
        assert_eq!(stamps.extend(raw) as u32, raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(data: &[u8]) {
        fuzz_buffer(data);
        fuzz_payload(data);
    }

    #[test]
    fn the_corpus_survives_the_fuzz_bodies() {
        for input in CORPUS {
            all(input);
            for length in 0..input.len() {
                all(&input[..length]);
            }
        }
    }

    proptest! {
        #[test]
        fn random_inputs_survive_the_fuzz_bodies(
            input in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            all(&input);
        }
    }
}
