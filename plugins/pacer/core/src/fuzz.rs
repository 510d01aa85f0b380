// SPDX-License-Identifier: MPL-2.0
//! Body of the fuzz target in `fuzz/`, and its corpus.

use std::collections::HashMap;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

use crate::{Config, Next, NextAnswer, Pacer, Priority, ProbeCluster, RequestConfig, Requests};

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

    /// Any magnitude: a mantissa of 16 bits, shifted.
    fn number(&mut self) -> u64 {
        let shift = u32::from(self.byte() % 64);
        let mantissa = u64::from(u16::from_be_bytes([self.byte(), self.byte()]));
        mantissa.checked_shl(shift).unwrap_or(u64::MAX)
    }

    fn time(&mut self) -> Timestamp {
        Timestamp::from_nanos(self.number())
    }

    fn size(&mut self) -> DataSize {
        DataSize::from_bytes(self.number())
    }

    fn rate(&mut self) -> Bitrate {
        Bitrate::from_bps(self.number())
    }
}

fn config(input: &mut Input<'_>) -> Config {
    let some = |ms: u8| (ms > 0).then(|| Duration::from_millis(ms.into()));
    Config {
        pacing_factor: 1.0 + f64::from(input.byte() % 5),
        burst: Duration::from_millis(u64::from(input.byte() % 6)),
        queue_time_limit: some(input.byte()),
        ttl_background: some(input.byte()),
        ttl_padding: some(input.byte()),
        max_packets: usize::from(input.byte()) + 1,
        max_bytes: DataSize::from_bytes(u64::from(input.byte()) * 1000 + 1),
        max_streams: u16::from(input.byte() % 8) + 1,
        padding_size: DataSize::from_bytes(303),
    }
}

/// Any calls at any times: no panic, every packet comes out once or is
/// counted, in the order of its SSRC; polling ends and never waits for the
/// past.
pub fn fuzz_pacer(data: &[u8]) {
    let mut input = Input(data);
    let mut pacer = Pacer::new(config(&mut input)).expect("the configuration is made valid");
    let mut serial = 0u64;
    let mut latest = HashMap::new();
    let mut handed_back = 0u64;
    while !input.0.is_empty() {
        let op = input.byte();
        let now = input.time();
        match op % 10 {
            0..=2 => {
                let ssrc = u32::from(input.byte() % 10);
                let priority = Priority::ALL[usize::from(input.byte()) % 6];
                serial += 1;
                let size = input.size();
                let refused = pacer.push(now, ssrc, priority, size, (ssrc, serial));
                handed_back += u64::from(refused.is_err());
            }
            3 => pacer.set_rate(now, input.rate()),
            4 => pacer.set_target(now, input.rate()),
            5 => pacer.set_padding_rate(now, input.rate()),
            6 => {
                let window = (input.byte() > 100).then(|| input.size());
                pacer.set_congestion_window(now, window, input.size());
            }
            7 => pacer.probe(
                now,
                ProbeCluster {
                    id: input.byte().into(),
                    bitrate: input.rate(),
                    packets: input.number() as u32,
                    duration: Duration::from_nanos(input.number()),
                },
            ),
            8 if op > 200 => pacer.flush(),
            8 if op > 150 => pacer.clear_rate(now),
            8 => drop(pacer.configure(now, config(&mut input))),
            _ => {
                let mut polls = 0;
                loop {
                    polls += 1;
                    assert!(polls < 200_000, "polling at one time must end");
                    match pacer.poll(now) {
                        Next::Send(departure) => {
                            let (ssrc, serial) = departure.packet;
                            assert_eq!(ssrc, departure.ssrc);
                            let before = latest.insert(ssrc, serial);
                            assert!(before < Some(serial), "order of one SSRC");
                        }
                        Next::Pad { .. } => (),
                        Next::WaitUntil(time) => {
                            assert!(time > now, "never waits for the past");
                            break;
                        }
                        Next::Idle => break,
                    }
                }
            }
        }
        conserves(&pacer, serial, handed_back);
    }
}

fn conserves<P>(pacer: &Pacer<P>, pushed: u64, handed_back: u64) {
    let stats = pacer.stats();
    let (mut all, mut refused) = (0, 0);
    for p in &stats.priorities {
        let gone = p.sent.packets + p.expired.packets + p.evicted.packets;
        let rest = p.refused.packets + p.flushed.packets + p.queued.packets;
        assert_eq!(p.pushed.packets, gone + rest, "in = out + dropped + held");
        assert_eq!(p.oldest.is_some(), p.queued.packets > 0);
        all += p.pushed.packets;
        refused += p.refused.packets;
    }
    assert_eq!((all, refused), (pushed, handed_back));
    assert_eq!(stats.queued().packets, pacer.len() as u64);
}

/// Any packets and requests at any times: no panic, each request is answered once or
/// counted; polling ends and never waits for the past.
pub fn fuzz_requests(data: &[u8]) {
    let mut input = Input(data);
    let mut requests = Requests::new(RequestConfig::default());
    let (mut asked, mut refused, mut answered) = (0, 0, 0);
    while !input.0.is_empty() {
        let op = input.byte();
        let now = input.time();
        let packet = (u32::from(input.byte() % 10), input.number() as u16);
        match op % 8 {
            0..=2 => {
                let priority = Priority::ALL[usize::from(input.byte()) % 6];
                requests.sent(now, packet, priority, input.size());
            }
            3..=4 => {
                asked += 1;
                refused += u64::from(requests.request(now, packet, ()).is_err());
            }
            5 => requests.set_target(now, (op > 100).then(|| input.rate())),
            6 if op > 200 => requests.flush(),
            6 if op > 100 => requests.set_rtt(Duration::from_nanos(input.number())),
            6 => requests.configure(
                now,
                RequestConfig {
                    share: f64::from(input.byte()) / 100.0,
                    max_age: Duration::from_nanos(input.number()),
                },
            ),
            _ => loop {
                match requests.poll(now) {
                    NextAnswer::Answer(()) => answered += 1,
                    NextAnswer::WaitUntil(time) => {
                        assert!(time > now, "never waits for the past");
                        break;
                    }
                    NextAnswer::Idle => break,
                }
            },
        }
        let s = requests.stats();
        assert_eq!((s.requested, s.answered), (asked, answered));
        let left = s.answered + s.flushed + s.waiting;
        let none = s.not_sent + s.too_late + s.repeated + s.over_budget;
        assert_eq!(asked, left + none);
        assert!(none >= refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_inputs_survive_the_fuzz_body(
            input in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            fuzz_pacer(&input);
            fuzz_requests(&input);
        }
    }

    /// Not random: the same inputs in every run.
    fn noise(seed: u64) -> impl Iterator<Item = u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::iter::from_fn(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some((state >> 32) as u8)
        })
    }

    #[test]
    fn small_inputs_survive_the_fuzz_body() {
        fuzz_pacer(&[]);
        for seed in 0..300 {
            let input: Vec<_> = noise(seed).take(600).collect();
            fuzz_pacer(&input);
            fuzz_requests(&input);
        }
    }

    #[test]
    fn one_probe_of_any_size_ends() {
        for shift in 0..64u8 {
            for duration in 0..64u8 {
                let head = [0, 5, 0, 0, 0, 255, 255, 3];
                let probe = [
                    7, 0, 0, 0, 1, shift, 255, 255, 63, 255, 255, duration, 255, 255,
                ];
                let polls = [9, 0, 0, 0, 9, 20, 255, 255, 9, 40, 255, 255];
                fuzz_pacer(&[&head[..], &probe, &polls].concat());
            }
        }
    }
}
