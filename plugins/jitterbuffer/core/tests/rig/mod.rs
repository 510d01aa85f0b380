// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};
use jitterbuffer_core::{
    BufferConfig, BufferStats, Config, JitterBuffer, ModelKind, Next, NextRequest, Origin, Out,
    Packet, Part, Rejected, Request, Timing,
};

pub const FRAME: u32 = 3000;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// Frames of three packets; the data is the sequence number.
pub fn packet(sequence: u16) -> Packet<u64> {
    Packet {
        sequence,
        timestamp: u32::from(sequence / 3) * FRAME,
        marker: sequence % 3 == 2,
        size: DataSize::from_bytes(1000),
        origin: Origin::Network,
        part: Part {
            begins: true,
            key: false,
            reference: true,
        },
        number: None,
        hidden: false,
        data: sequence.into(),
    }
}

pub struct Rig {
    pub timing: Timing,
    pub buffer: JitterBuffer<u64>,
}

impl Rig {
    pub fn new(config: BufferConfig) -> Self {
        Self::with(ModelKind::Adaptive, config)
    }

    pub fn with(kind: ModelKind, config: BufferConfig) -> Self {
        let mut timing = Timing::new(kind, Config::default()).unwrap();
        let buffer = JitterBuffer::new(config, &mut timing);
        Self { timing, buffer }
    }

    pub fn push(&mut self, now: Timestamp, packet: Packet<u64>) -> Result<(), Rejected> {
        self.buffer.push(now, packet, &mut self.timing)
    }

    /// All that leaves, and what comes after it.
    pub fn poll(&mut self, now: Timestamp) -> (Vec<Next<u64>>, Next<u64>) {
        let mut left = Vec::new();
        loop {
            match self.buffer.poll(now, &self.timing) {
                next @ (Next::WaitUntil(_) | Next::Idle) => return (left, next),
                next => left.push(next),
            }
        }
    }

    pub fn packets(&mut self, now: Timestamp) -> Vec<Out<u64>> {
        let left = self.poll(now).0.into_iter();
        left.filter_map(|next| match next {
            Next::Packet(out) => Some(out),
            _ => None,
        })
        .collect()
    }

    pub fn requests(&mut self, now: Timestamp) -> (Vec<Request>, NextRequest) {
        let mut asked = Vec::new();
        loop {
            match self.buffer.next_request(now, &self.timing) {
                NextRequest::Ask(request) => asked.push(request),
                next => return (asked, next),
            }
        }
    }
}

/// Each packet is counted once.
#[track_caller]
pub fn assert_accounted(stats: &BufferStats) {
    let ends = stats.pushed
        + stats.late
        + stats.duplicates
        + stats.astray
        + stats.dropped
        + stats.undecodable
        + stats.held_packets as u64;
    assert_eq!(stats.received + stats.readmitted, ends, "{stats:?}");
}
