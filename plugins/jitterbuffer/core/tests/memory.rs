// SPDX-License-Identifier: MPL-2.0
//! A day of video: memory stays as it was after the first hours.

#[allow(dead_code)] // Each test uses its own part.
mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;

use dualstream_common::{DataSize, Timestamp};
use jitterbuffer_core::{BufferConfig, Next, NextRequest, Origin, Packet, RequestConfig};
use rig::*;

/// Counts what each thread has.
struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn add(bytes: i64) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-(layout.size() as i64));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HOURS: u64 = 24;
const WARM: u64 = 4;
const PACKETS: u16 = 12;
const FRAMES_PER_HOUR: u64 = 3600 * 30;
/// From a request to the packet.
const ROUND_TRIP_MS: u64 = 60;

/// 720p30, two packets in a hundred lost, frames up to 20 ms late; the sender
/// begins anew each hour.
struct Sender {
    rig: Rig,
    random: fastrand::Rng,
    /// Of the packets and frames of this hour, the first ones.
    base: (u16, u32),
    /// What is sent again, and when it comes.
    again: VecDeque<(Timestamp, u64)>,
    lost: u64,
    sent: u64,
    frames: u64,
    out: u64,
}

impl Sender {
    fn new() -> Self {
        let config = BufferConfig {
            request: RequestConfig {
                enabled: true,
                ..RequestConfig::default()
            },
            ..BufferConfig::default()
        };
        Self {
            rig: Rig::new(config),
            random: fastrand::Rng::with_seed(5),
            base: (0, 0),
            again: VecDeque::new(),
            lost: 0,
            sent: 0,
            frames: 0,
            out: 0,
        }
    }

    /// The packet of this number in this hour.
    fn packet(&self, number: u64, origin: Origin) -> Packet<u64> {
        let frame = number / u64::from(PACKETS);
        Packet {
            sequence: self.base.0.wrapping_add(number as u16),
            timestamp: self.base.1.wrapping_add(frame as u32 * FRAME),
            marker: number % u64::from(PACKETS) == u64::from(PACKETS) - 1,
            size: DataSize::from_bytes(1000),
            origin,
            data: number,
            ..packet(0)
        }
    }

    fn frame(&mut self, hour: u64, frame: u64) {
        let jitter_us = self.random.u64(..20_000);
        let us = (hour * FRAMES_PER_HOUR + frame) * 1_000_000 / 30 + jitter_us;
        let now = Timestamp::from_nanos(us * 1000);
        while let Some((at, number)) = self.again.pop_front_if(|(at, _)| *at <= now) {
            let packet = self.packet(number, Origin::Retransmission);
            self.push(at, packet);
        }
        for n in 0..u64::from(PACKETS) {
            let number = frame * u64::from(PACKETS) + n;
            self.sent += 1;
            // The first packets of an hour make the new stream known.
            if number >= 3 && self.random.u32(..100) < 2 {
                self.lost += 1;
            } else {
                let packet = self.packet(number, Origin::Network);
                self.push(now, packet);
            }
        }
    }

    fn push(&mut self, now: Timestamp, packet: Packet<u64>) {
        // Strays before a new stream is known, and answers that come late.
        let _ = self.rig.push(now, packet);
        let Rig { timing, buffer } = &mut self.rig;
        loop {
            match buffer.poll(now, timing) {
                Next::Packet(out) => {
                    self.out += 1;
                    self.frames += u64::from(out.begin.is_some());
                }
                Next::WaitUntil(_) | Next::Idle => break,
                Next::Lost(_) | Next::AskForKeyFrame => (),
            }
        }
        while let NextRequest::Ask(request) = buffer.next_request(now, timing) {
            let ahead = request.sequence.wrapping_sub(packet.sequence).cast_signed();
            let number = packet.data.saturating_add_signed(ahead.into());
            self.again.push_back((now + ms(ROUND_TRIP_MS), number));
        }
    }

    fn hour(&mut self, hour: u64) {
        self.again.clear();
        // Time stamps wrap after 20 minutes.
        let time = u32::MAX - 20 * 60 * 90_000 - self.random.u32(..90_000);
        // Far from the last one: else it would be a gap of some thousand.
        let sent = FRAMES_PER_HOUR * u64::from(PACKETS);
        self.base = (
            self.base.0.wrapping_add(sent as u16).wrapping_add(20_000),
            time,
        );
        for frame in 0..FRAMES_PER_HOUR {
            self.frame(hour, frame);
        }
    }
}

#[track_caller]
fn assert_repaired(sender: &Sender) {
    let stats = sender.rig.buffer.stats();
    assert_accounted(&stats);
    assert_eq!(stats.restarts, HOURS - 1);
    assert!(
        sender.sent > 30_000_000 && sender.lost * 55 > sender.sent,
        "{} of {} lost: one of fifty should be",
        sender.lost,
        sender.sent
    );
    // What is on its way when the sender begins anew does not come.
    let left = sender.sent - sender.out;
    assert!(left < 20 * HOURS, "{left} did not come out: {stats:?}");
    assert!(stats.retransmitted + left >= sender.lost, "{stats:?}");
    assert_eq!(sender.frames, HOURS * FRAMES_PER_HOUR);
}

#[test]
fn memory_is_flat_over_a_day() {
    let mut sender = Sender::new();
    let mut warm = 0;
    for hour in 0..HOURS {
        PEAK.set(LIVE.get());
        sender.hour(hour);
        match hour {
            // Then all has been about as full as it gets.
            0..WARM => warm = warm.max(PEAK.get()),
            _ => {
                let (peak, most) = (PEAK.get(), warm + warm / 20);
                assert!(peak <= most, "hour {hour}: {peak} bytes, not {warm}");
            }
        }
    }
    assert!(warm < 100_000, "{warm} bytes");
    assert_repaired(&sender);
}
