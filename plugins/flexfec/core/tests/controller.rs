// SPDX-License-Identifier: MPL-2.0
//! The controller in a closed loop: an encoder that has what FEC leaves, a
//! channel, feedback.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Ratio, Timestamp};
use fastrand::Rng;
use flexfec_core::channel::{Channel, peel};
use flexfec_core::controller::{Action, Config, Controller, Frame, Mode};
use flexfec_core::mask::Mask;

const PACKET: u64 = 1228;
const FRAME: Duration = Duration::from_nanos(33_333_333);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    media: u64,
    fec: u64,
    frames: u64,
    broken: u64,
}

impl Second {
    fn share(&self) -> f64 {
        self.fec as f64 / self.media as f64
    }

    fn rate(&self) -> Bitrate {
        Bitrate::from_bps((self.media + self.fec) * PACKET * 8)
    }
}

struct Sim {
    controller: Controller,
    rng: Rng,
    target: Bitrate,
    rtt: Duration,
    lost: bool,
    /// Packets on their way as the sender will hear of them.
    told: Vec<(Timestamp, bool)>,
    /// What the encoder has saved up of its rate, in packets.
    credit: f64,
    block: Vec<bool>,
    frames: Vec<usize>,
}

impl Sim {
    fn new(config: Config, target: Bitrate, rtt: Duration) -> Self {
        Self {
            controller: Controller::new(config).unwrap(),
            rng: Rng::with_seed(11),
            target,
            rtt,
            lost: false,
            told: Vec::new(),
            credit: 0.0,
            block: Vec::new(),
            frames: Vec::new(),
        }
    }

    fn slot(&mut self, now: Timestamp, channel: &Channel) -> bool {
        let stay = 1.0 - 1.0 / channel.burst();
        let likely = if self.lost { stay } else { channel.onset() };
        self.lost = self.rng.f64() < likely;
        self.told.push((now + self.rtt, !self.lost));
        self.lost
    }

    fn protect(&mut self, now: Timestamp, mask: &Mask, channel: &Channel, second: &mut Second) {
        assert_eq!(mask.media(), self.block.len());
        let fec: Vec<_> = mask
            .rows()
            .iter()
            .map(|_| self.slot(now, channel))
            .collect();
        let bits = |lost: &[bool]| {
            lost.iter()
                .enumerate()
                .fold(0u128, |bits, (at, &lost)| bits | u128::from(lost) << at)
        };
        let left = peel(mask.rows(), bits(&self.block), bits(&fec));
        let mut first = 0;
        for packets in self.frames.drain(..) {
            let mask = ((1u128 << packets) - 1) << first;
            second.broken += u64::from(left & mask != 0);
            second.frames += 1;
            first += packets;
        }
        self.block.clear();
        second.fec += fec.len() as u64;
        let size = |packets: usize| DataSize::from_bytes(packets as u64 * PACKET);
        self.controller.sent(now, size(0), size(fec.len()));
    }

    /// From `start`, so many seconds.
    fn run(&mut self, start: u64, seconds: u64, channel: &Channel) -> Vec<Second> {
        let mut all = vec![Second::default(); seconds as usize];
        for at in 0..seconds * 30 {
            let now = Timestamp::from_millis(start * 1000) + FRAME * at as u32;
            let second = &mut all[at as usize / 30];
            let heard = self.told.partition_point(|(when, _)| *when <= now);
            let arrived: Vec<_> = self
                .told
                .drain(..heard)
                .map(|(_, arrived)| arrived)
                .collect();
            self.controller.feedback(now, arrived);
            if at % 3 == 0 {
                let loss = Ratio::ZERO;
                self.controller
                    .estimate(now, self.target, loss, Some(self.rtt));
            }
            if let Some(due) = self.controller.due()
                && due <= now
                && let Action::Protect(mask) = self.controller.flush(now, self.block.len())
            {
                self.protect(now, &mask, channel, second);
            }
            let rate = self.controller.media_target(self.target);
            self.credit += (rate * FRAME).as_bytes() as f64 / PACKET as f64;
            let packets = (self.credit * (0.6 + 0.4 * self.rng.f64())) as usize;
            self.credit -= packets as f64;
            let Some(packets) = Some(packets).filter(|&n| n > 0) else {
                continue;
            };
            for _ in 0..packets {
                let lost = self.slot(now, channel);
                self.block.push(lost);
            }
            self.frames.push(packets);
            second.media += packets as u64;
            let bytes = DataSize::from_bytes(packets as u64 * PACKET);
            self.controller.sent(now, bytes, DataSize::ZERO);
            let frame = Frame {
                packets,
                bytes,
                key: false,
                background: false,
            };
            if let Action::Protect(mask) = self.controller.frame(now, frame) {
                self.protect(now, &mask, channel, second);
            }
        }
        all
    }
}

fn share(seconds: &[Second]) -> f64 {
    let sum = |f: fn(&Second) -> u64| seconds.iter().map(f).sum::<u64>() as f64;
    sum(|s| s.fec) / sum(|s| s.media)
}

#[test]
fn protection_comes_and_goes_with_losses_within_the_target() {
    for (kbps, rtt) in [(1000, 300), (3000, 300), (3000, 150)] {
        let target = Bitrate::from_kbps(kbps);
        let mut sim = Sim::new(Config::default(), target, ms(rtt));
        let clean = sim.run(0, 20, &Channel::independent(0.0));
        assert_eq!(
            share(&clean),
            0.0,
            "{kbps} {rtt}: without losses there is no FEC"
        );
        let lossy = sim.run(20, 30, &Channel::independent(0.05));
        // The first feedback on a loss comes after a round trip.
        assert!(lossy[2].share() > 0.05, "{kbps} {rtt}: {:?}", lossy[2]);
        assert!(
            share(&lossy[5..]) > 0.08,
            "{kbps} {rtt}: {}",
            share(&lossy[5..])
        );
        let ended = sim.run(50, 20, &Channel::independent(0.0));
        assert_eq!(share(&ended[10..]), 0.0, "{kbps} {rtt}: gone in 10 s");
        assert!(ended[0].share() > 0.05, "not at once");
        for (at, second) in clean.iter().chain(&lossy).chain(&ended).enumerate() {
            let limit = target.scale(1.05);
            assert!(
                second.rate() <= limit,
                "{kbps} {rtt}: second {at}: {second:?}"
            );
        }
        let used = lossy[5..].iter().map(|s| s.rate().as_bps()).sum::<u64>() / 25;
        assert!(
            used > target.as_bps() * 8 / 10,
            "{kbps} {rtt}: only {used} bit/s are used"
        );
    }
}

#[test]
fn the_target_residual_is_met_and_not_by_far() {
    let cases = [(0.02, 1.0), (0.05, 1.0), (0.1, 1.0), (0.05, 3.0)];
    for (loss, burst) in cases {
        let channel = Channel::new(loss, burst);
        // No time for retransmission.
        let config = Config {
            max_overhead: Ratio::ONE,
            ..Config::default()
        };
        let mut sim = Sim::new(config, Bitrate::from_kbps(2000), ms(400));
        let seconds = sim.run(0, 620, &channel);
        let late = &seconds[20..];
        let frames: u64 = late.iter().map(|s| s.frames).sum();
        let broken: u64 = late.iter().map(|s| s.broken).sum();
        let residual = broken as f64 / frames as f64;
        // In bursts what was seen of late says less of what comes.
        let most = if burst > 1.0 { 0.015 } else { 0.0075 };
        assert!(residual < most, "{loss} {burst}: {residual}");
        assert!(
            residual > 0.0005,
            "{loss} {burst}: FEC for {residual}, more than asked for"
        );
        // The same without FEC, to see that it was needed.
        let config = Config {
            max_overhead: Ratio::ZERO,
            ..config
        };
        let mut sim = Sim::new(config, Bitrate::from_kbps(2000), ms(400));
        let seconds = sim.run(0, 60, &channel);
        assert_eq!(share(&seconds), 0.0);
        let broken: u64 = seconds.iter().map(|s| s.broken).sum();
        let frames: u64 = seconds.iter().map(|s| s.frames).sum();
        assert!(
            broken as f64 / frames as f64 > 0.03,
            "{loss} {burst}: {broken} of {frames}"
        );
    }
}

#[test]
fn what_retransmission_repairs_is_left_to_it() {
    let channel = Channel::independent(0.05);
    let run = |nack: bool, rtt: u64| {
        let config = Config {
            nack,
            ..Config::default()
        };
        let mut sim = Sim::new(config, Bitrate::from_kbps(2000), ms(rtt));
        share(&sim.run(0, 60, &channel)[10..])
    };
    assert!(run(true, 10) < 0.005, "{}", run(true, 10));
    assert!(run(false, 10) > 0.1, "{}", run(false, 10));
    let shares = [20, 60, 100, 140, 180, 250].map(|rtt| run(true, rtt));
    let rising = shares.windows(2).all(|pair| pair[1] > pair[0] - 0.01);
    assert!(rising && shares[5] > 0.1, "{shares:?}");
}

#[test]
fn key_frames_get_more_and_background_frames_less() {
    let mut controller = Controller::new(Config::default()).unwrap();
    let mut rng = Rng::with_seed(1);
    let mut sums = [0usize; 3];
    for at in 0..6000u32 {
        let now = Timestamp::ZERO + FRAME * at;
        controller.feedback(now, (0..10).map(|_| rng.f64() > 0.05));
        controller.estimate(now, Bitrate::from_kbps(9000), Ratio::ZERO, Some(ms(150)));
        let frame = Frame {
            packets: 10,
            bytes: DataSize::from_bytes(10 * PACKET),
            key: at % 3 == 1,
            background: at % 3 == 2,
        };
        // Each alone in its block.
        let action = match controller.frame(now, frame) {
            Action::Wait => controller.flush(now, 10),
            action => action,
        };
        let Action::Protect(mask) = action else {
            panic!("{action:?}");
        };
        sums[at as usize % 3] += mask.rows().len();
    }
    let [delta, key, background] = sums;
    assert!(key > delta && delta > 2 * background, "{sums:?}");
}

#[test]
fn a_fixed_share_is_kept_in_the_mean() {
    let fixed = |delta: f64, key: f64| Mode::Fixed {
        delta: Ratio::clamped(delta),
        key: Ratio::clamped(key),
    };
    for (mode, key, expected) in [
        (fixed(0.25, 0.5), false, 0.25),
        (fixed(0.25, 0.5), true, 0.5),
        (fixed(0.07, 0.0), false, 0.07),
        (fixed(1.0, 1.0), false, 1.0),
        (fixed(0.0, 0.0), false, 0.0),
    ] {
        let config = Config {
            mode,
            ..Config::default()
        };
        let mut controller = Controller::new(config).unwrap();
        let (mut media, mut fec) = (0, 0);
        for at in 0..1000u32 {
            let packets = 1 + at as usize % 7;
            let bytes = DataSize::from_bytes(packets as u64 * PACKET);
            let frame = Frame {
                packets,
                bytes,
                key,
                background: false,
            };
            let action = controller.frame(Timestamp::ZERO + FRAME * at, frame);
            let Action::Protect(mask) = action else {
                panic!("a fixed share does not wait");
            };
            assert_eq!(mask.media(), packets);
            media += packets;
            fec += mask.rows().len();
        }
        let found = fec as f64 / media as f64;
        assert!((found - expected).abs() < 0.01, "{mode:?}: {found}");
        let left = controller.media_target(Bitrate::from_kbps(1000));
        if !key {
            let kbps = left.as_bps() as f64 / 1000.0;
            assert!(
                (kbps - 1000.0 / (1.0 + expected)).abs() < 2.0,
                "{mode:?}: {kbps}"
            );
        }
    }
}

#[test]
fn a_block_of_waiting_frames_is_due_before_the_deadline() {
    let mut sim = Sim::new(Config::default(), Bitrate::from_kbps(300), ms(400));
    sim.run(0, 30, &Channel::independent(0.05));
    assert!(
        sim.controller.stats().frames_per_block > 1,
        "{:?}",
        sim.controller.stats()
    );
    let start = Timestamp::from_millis(31_000);
    sim.controller.discard();
    assert_eq!(sim.controller.due(), None);
    let frame = Frame {
        packets: 1,
        bytes: DataSize::from_bytes(PACKET),
        key: false,
        background: false,
    };
    assert_eq!(sim.controller.frame(start, frame), Action::Wait);
    let due = sim.controller.due().unwrap();
    assert!(due > start && due <= start + ms(200), "{due:?}");
    let Action::Protect(mask) = sim.controller.flush(due, 1) else {
        panic!("there is a packet");
    };
    assert_eq!(mask.media(), 1);
    assert_eq!(sim.controller.due(), None);
    assert_eq!(
        sim.controller.flush(due, 0),
        Action::Wait,
        "nothing is left"
    );
}

#[test]
fn senseless_input_is_survived() {
    let mut controller = Controller::new(Config::default()).unwrap();
    let mut rng = Rng::with_seed(9);
    for _ in 0..3000 {
        let now = Timestamp::from_nanos(rng.u64(..) >> rng.u32(0..64));
        match rng.u32(0..5) {
            0 => {
                let loss = Ratio::clamped(rng.f64() * 2.0);
                let rtt = Some(Duration::from_nanos(rng.u64(..) >> rng.u32(0..64)));
                controller.estimate(now, Bitrate::from_bps(rng.u64(..)), loss, rtt);
            }
            1 => controller.feedback(now, (0..rng.usize(0..300)).map(|at| at % 7 == 0)),
            2 => {
                let packets = rng.usize(0..400);
                let bytes = DataSize::from_bytes(rng.u64(..));
                let (key, background) = (rng.bool(), rng.bool());
                let _ = controller.frame(
                    now,
                    Frame {
                        packets,
                        bytes,
                        key,
                        background,
                    },
                );
            }
            3 => {
                let _ = controller.flush(now, rng.usize(0..400));
            }
            _ => {
                let bytes = DataSize::from_bytes(rng.u64(..));
                controller.sent(now, bytes, bytes);
            }
        }
        let target = controller.media_target(Bitrate::from_kbps(1000));
        assert!(target <= Bitrate::from_kbps(1000));
        let stats = controller.stats();
        assert!(
            stats.burst.is_finite() && stats.byte_overhead.is_finite(),
            "{stats:?}"
        );
    }
}
