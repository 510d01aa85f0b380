// SPDX-License-Identifier: MPL-2.0
//! A sender that answers requests, over a link with jitter and loss, in virtual
//! time.

use std::collections::BTreeMap;

use dualstream_common::{DataSize, Ratio, Timestamp};
use jitterbuffer_core::{
    BufferConfig, Config, JitterBuffer, ModelKind, Next, NextRequest, Origin, Packet, Part,
    Request, RequestConfig, Timing,
};

const FRAME_TICKS: u32 = 3000;
const FPS: u32 = 30;
const MTU: u64 = 1200;
/// From one packet of a frame to the next, as they are sent.
const SPACING: u64 = 100_000;

/// Times in ms.
#[derive(Clone, Copy)]
pub struct Link {
    pub forward: f64,
    pub back: f64,
    /// From 0 to this, on the way forward.
    pub jitter: f64,
    pub loss: f64,
}

/// Packets keep their order, as in a queue.
struct Path {
    link: Link,
    random: fastrand::Rng,
    last: u64,
}

impl Path {
    fn new(link: Link, random: fastrand::Rng) -> Self {
        Self {
            link,
            random,
            last: 0,
        }
    }

    fn send(&mut self, now: u64) -> Option<u64> {
        let lost = self.random.f64() < self.link.loss;
        let delay = self.link.forward + self.link.jitter * self.random.f64();
        if lost {
            return None;
        }
        self.last = self.last.max(now + nanos(delay));
        Some(self.last)
    }
}

fn nanos(ms: f64) -> u64 {
    (ms * 1e6) as u64
}

#[derive(Clone, Copy)]
enum Event {
    Capture,
    Arrival(u64, Origin),
    Asked(u64),
    Wake,
}

#[derive(Clone, Copy)]
struct Sent {
    timestamp: u32,
    marker: bool,
    bytes: u64,
}

#[derive(Default)]
pub struct Outcome {
    pub packets: u64,
    pub lost: u64,
    pub requests: u64,
    pub frames: u64,
    /// When each frame is shown, in ms from its capture.
    pub rendered: Vec<f64>,
    pub late_share: f64,
}

pub struct Session {
    link: Link,
    media: Path,
    repairs: Path,
    random: fastrand::Rng,
    timing: Timing,
    buffer: JitterBuffer<u64>,
    events: BTreeMap<(u64, u64), Event>,
    sent: Vec<Sent>,
    outcome: Outcome,
    count: u64,
}

impl Session {
    pub fn new(link: Link, late_target: f64, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let model = Config {
            late_target: Ratio::clamped(late_target),
            ..Config::default()
        };
        let config = BufferConfig {
            request: RequestConfig {
                enabled: true,
                ..RequestConfig::default()
            },
            ..BufferConfig::default()
        };
        let mut timing = Timing::new(ModelKind::Adaptive, model).expect("the target is valid");
        Self {
            link,
            media: Path::new(link, random.fork()),
            repairs: Path::new(link, random.fork()),
            random,
            buffer: JitterBuffer::new(config, &mut timing),
            timing,
            events: BTreeMap::new(),
            sent: Vec::new(),
            outcome: Outcome::default(),
            count: 0,
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.insert((time, self.count), event);
    }

    /// What is shown in the first `settle` seconds does not count.
    pub fn run(mut self, settle: u32, seconds: u32) -> Outcome {
        let end = u64::from((settle + seconds) * FPS);
        let mut before = None;
        self.at(0, Event::Capture);
        while let Some(((now, _), event)) = self.events.pop_first() {
            match event {
                Event::Capture if self.outcome.frames == end => (),
                Event::Capture => self.capture(now),
                Event::Arrival(number, origin) => self.arrival(now, number, origin),
                Event::Asked(number) => {
                    if let Some(at) = self.repairs.send(now) {
                        self.at(at, Event::Arrival(number, Origin::Retransmission));
                    }
                }
                Event::Wake => (),
            }
            if self.outcome.frames == u64::from(settle * FPS) && before.is_none() {
                before = Some(self.timing.stats());
                self.outcome.rendered.clear();
            }
            self.poll(now);
        }
        let (before, after) = (before.unwrap_or_default(), self.timing.stats());
        let frames = after.frames - before.frames;
        let late = after.late_frames - before.late_frames;
        self.outcome.late_share = late as f64 / frames as f64;
        self.outcome
    }

    fn capture(&mut self, now: u64) {
        let frame = self.outcome.frames as u32;
        self.outcome.frames += 1;
        // 1 Mbit/s.
        let bytes = (4166.0 * (0.7 + 0.6 * self.random.f64())) as u64;
        let packets = bytes.div_ceil(MTU);
        for n in 0..packets {
            let number = self.sent.len() as u64;
            self.sent.push(Sent {
                timestamp: frame * FRAME_TICKS,
                marker: n + 1 == packets,
                bytes: bytes / packets,
            });
            self.outcome.packets += 1;
            match self.media.send(now + n * SPACING) {
                Some(at) => self.at(at, Event::Arrival(number, Origin::Network)),
                None => self.outcome.lost += 1,
            }
        }
        self.at(captured(frame + 1), Event::Capture);
    }

    fn arrival(&mut self, now: u64, number: u64, origin: Origin) {
        let Sent {
            timestamp,
            marker,
            bytes,
        } = self.sent[number as usize];
        let packet = Packet {
            sequence: number as u16,
            timestamp,
            marker,
            size: DataSize::from_bytes(bytes),
            origin,
            part: Part {
                begins: true,
                key: number == 0,
                reference: true,
            },
            number: None,
            hidden: false,
            data: number,
        };
        let now = Timestamp::from_nanos(now);
        // A packet that was asked for twice may be refused.
        let _ = self.buffer.push(now, packet, &mut self.timing);
    }

    fn poll(&mut self, now: u64) {
        let time = Timestamp::from_nanos(now);
        let mut wake = None;
        loop {
            match self.buffer.poll(time, &self.timing) {
                Next::Packet(packet) if self.sent[packet.data as usize].marker => {
                    let captured = captured(packet.timestamp / FRAME_TICKS);
                    let shown = packet.render.as_nanos() - captured;
                    self.outcome.rendered.push(shown as f64 / 1e6);
                }
                Next::WaitUntil(at) => {
                    wake = Some(at);
                    break;
                }
                Next::Idle => break,
                _ => (),
            }
        }
        loop {
            match self.buffer.next_request(time, &self.timing) {
                NextRequest::Ask(request) => self.ask(now, &request),
                NextRequest::WaitUntil(at) => {
                    wake = Some(wake.map_or(at, |other| at.min(other)));
                    break;
                }
                NextRequest::Idle => break,
            }
        }
        if let Some(at) = wake {
            self.at(at.as_nanos().max(now + 1), Event::Wake);
        }
    }

    fn ask(&mut self, now: u64, request: &Request) {
        self.outcome.requests += 1;
        let newest = self.sent.len() as u64;
        let back = (newest as u16).wrapping_sub(request.sequence).cast_signed();
        let number = newest.saturating_add_signed(-i64::from(back));
        if number < newest {
            self.at(now + nanos(self.link.back), Event::Asked(number));
        }
    }
}

fn captured(frame: u32) -> u64 {
    u64::from(frame) * 1_000_000_000 / u64::from(FPS)
}
