// SPDX-License-Identifier: MPL-2.0
//! Bodies of the fuzz targets in `fuzz/`, and their corpus.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Ratio, RemoteTime, Timestamp};

use crate::remb::Remb;
use crate::{Config, Controller, DelayFilter, MOST_REMEMBERED, Report};

/// Inputs that take all branches of [`fuzz_controller`], run by a plain test.
pub const CORPUS: &[&[u8]] = &[
    b"",
    b"\x00\x01\x02\x03\x04\x05\x06\x07",
    // Sent, reported, processed.
    b"\x00\x00\x05\x04\xb0\x00\x05\x04\xb0\x01\x14\x02\x00\x00\x02\x00\x00\x02",
    // Reports about nothing.
    b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    // A new configuration, REMB, loss, round trip, wishes.
    b"\x03\x10\x20\x30\x04\xff\xff\xff\x05\x80\x06\xff\xff\x07\x00\x00\x07\xff\xff",
    // Time forwards and backwards.
    b"\x08\x01\x08\x02\x08\x03\x09\x08\x04\x02\x08\xff\x02\x09\x02",
];

/// More than are remembered.
const SOURCES: u32 = 40;

/// Reads numbers until there are none.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// Small and huge numbers: 8 bits, shifted by up to 63.
    fn wide(&mut self) -> Option<u64> {
        let shift = self.u8()? % 64;
        Some(u64::from(self.u8()?) << shift)
    }
}

/// Any operations with any numbers, at any times.
pub fn fuzz_controller(data: &[u8]) {
    let config = Config {
        filter: match data.len() % 2 {
            0 => DelayFilter::Trendline,
            _ => DelayFilter::Kalman,
        },
        ..Config::default()
    };
    let Ok(controller) = Controller::new(config) else {
        panic!("the default is valid");
    };
    let mut run = Run {
        controller,
        now: Timestamp::from_millis(1000),
        seq: 0,
    };
    let mut bytes = Bytes(data);
    while run.step(&mut bytes).is_some() {
        run.check();
    }
}

struct Run {
    controller: Controller,
    now: Timestamp,
    seq: u16,
}

impl Run {
    fn step(&mut self, bytes: &mut Bytes) -> Option<()> {
        let c = &mut self.controller;
        match bytes.u8()? % 10 {
            0 => {
                let (after, size) = (bytes.u8()?, bytes.u16()?);
                self.now = self.now + Duration::from_millis(after.into());
                let probe = (size % 7 == 0).then_some(u32::from(size % 5));
                c.sent(
                    self.now,
                    self.seq,
                    DataSize::from_bytes(size.into()),
                    probe,
                    size % 2 == 0,
                );
                let source = u32::from(self.seq) % SOURCES;
                c.sent_by(self.now, source, DataSize::from_bytes(size.into()));
                self.seq = self.seq.wrapping_add(1);
            }
            1 => {
                let (count, clock) = (bytes.u8()? % 32, bytes.wide()?);
                let mut reports = Vec::new();
                for _ in 0..count {
                    reports.push(Report {
                        seq: self.seq.wrapping_sub(u16::from(bytes.u8()?)),
                        arrival: match bytes.u8()? {
                            0 => None,
                            late => Some(RemoteTime::from_nanos(clock))
                                .map(|at| at + Duration::from_millis(late.into())),
                        },
                        sent: None,
                    });
                }
                c.feedback(self.now, &reports);
            }
            2 => {
                c.process(self.now);
                assert!(c.next_process().is_some());
                while c.next_probe(self.now).is_some() {}
            }
            3 => {
                let config = Config {
                    min: Bitrate::from_bps(bytes.wide()?),
                    start: Bitrate::from_bps(bytes.wide()?),
                    max: Bitrate::from_bps(bytes.wide()?),
                    ..*c.config()
                };
                let before = c.estimate();
                if c.configure(self.now, config).is_err() {
                    assert_eq!(c.estimate(), before, "refused, and changed");
                }
            }
            4 => {
                let remb = Remb {
                    bitrate: Bitrate::from_bps(bytes.wide()?),
                    ssrcs: (0..u32::from(self.seq) % SOURCES).collect(),
                };
                c.remb(self.now, &remb);
            }
            5 => {
                c.loss_report(self.now, Ratio::clamped(f64::from(bytes.u8()?) / 255.0));
            }
            6 => c.rtt(Duration::from_nanos(bytes.wide()?)),
            7 => c.set_wanted(match bytes.wide()? {
                0 => None,
                rate => Some(Bitrate::from_bps(rate)),
            }),
            8 => self.now = self.now + Duration::from_nanos(bytes.wide()?),
            _ => {
                // Backwards.
                let back = bytes.wide()?;
                self.now = Timestamp::from_nanos(self.now.as_nanos().saturating_sub(back));
            }
        }
        Some(())
    }

    fn check(&self) {
        let (c, estimate, stats) = (
            &self.controller,
            self.controller.estimate(),
            self.controller.stats(),
        );
        assert!(c.config().min <= estimate.target && estimate.target <= c.config().max);
        assert!(stats.gradient_ms.is_finite() && stats.threshold_ms.is_finite());
        assert!((0.0..=1.0).contains(&stats.losses.inherent));
        assert!(c.in_flight() == stats.in_flight);
        let p = stats.packets;
        assert!(p.received + p.lost + p.forgotten <= p.sent, "{p:?}");
        assert!(c.remembered() <= MOST_REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_corpus_survives_with_each_byte_changed_and_each_cut() {
        for input in CORPUS {
            for length in 0..=input.len() {
                fuzz_controller(&input[..length]);
            }
            for at in 0..input.len() {
                for value in 0..=255 {
                    let mut changed = input.to_vec();
                    changed[at] = value;
                    fuzz_controller(&changed);
                }
            }
        }
    }

    #[test]
    fn long_runs_survive() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let data: Vec<u8> = (0..20_000).map(|_| rng.u8(..)).collect();
            fuzz_controller(&data);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_controller(&data);
        }
    }
}
