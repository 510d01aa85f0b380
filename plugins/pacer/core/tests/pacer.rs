// SPDX-License-Identifier: MPL-2.0
//! What the pacer promises, in virtual time.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use pacer_core::Priority::{Audio, Background, Display, Fec, Padding, Retransmission};
use pacer_core::{Config, Next, Pacer, Priority, ProbeCluster, Reason};

/// 10 000 bits: 10 ms at 1 Mbit/s.
const PACKET: DataSize = DataSize::from_bytes(1250);

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn span(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn kbps(rate: u64) -> Bitrate {
    Bitrate::from_kbps(rate)
}

/// Every packet spaced, and nothing that a test did not ask for.
fn exact() -> Config {
    Config {
        burst: Duration::ZERO,
        queue_time_limit: None,
        ttl_padding: None,
        ..Config::default()
    }
}

fn pacer(config: Config, rate: u64) -> Pacer<u32> {
    let mut pacer = Pacer::new(config).expect("valid configuration");
    pacer.set_rate(ms(0), kbps(rate));
    pacer
}

/// What left, when: the packet's number, or the probe of a padding packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Packet(u32, Option<u32>),
    Pad(Option<u32>),
}

/// Polls from `now` to `end`, always when asked to.
fn run(pacer: &mut Pacer<u32>, mut now: Timestamp, end: Timestamp) -> Vec<(Timestamp, Out)> {
    let mut out = Vec::new();
    while now <= end {
        match pacer.poll(now) {
            Next::Send(d) => out.push((now, Out::Packet(d.packet, d.probe))),
            Next::Pad { probe, .. } => out.push((now, Out::Pad(probe))),
            Next::WaitUntil(until) => {
                assert!(until > now, "never waits for the past");
                now = until;
            }
            Next::Idle => break,
        }
    }
    out
}

fn numbers(out: &[(Timestamp, Out)]) -> Vec<u32> {
    out.iter()
        .filter_map(|(_, o)| match o {
            Out::Packet(n, _) => Some(*n),
            Out::Pad(_) => None,
        })
        .collect()
}

fn times(out: &[(Timestamp, Out)]) -> Vec<Timestamp> {
    out.iter().map(|(t, _)| *t).collect()
}

#[track_caller]
fn push(p: &mut Pacer<u32>, now: Timestamp, ssrc: u32, priority: Priority, number: u32) {
    p.push(now, ssrc, priority, PACKET, number)
        .expect("there is room");
}

#[test]
fn without_burst_every_packet_is_spaced() {
    let mut p = pacer(exact(), 1000);
    for n in 0..4 {
        push(&mut p, ms(0), 1, Display, n);
    }
    let out = run(&mut p, ms(0), ms(1000));
    assert_eq!(times(&out), [0, 10, 20, 30].map(ms));
    assert_eq!(p.stats().of(Display).waited, span(60));
    assert_eq!(p.stats().of(Display).longest_wait, span(30));
}

#[test]
fn a_burst_is_five_milliseconds_and_idle_time_makes_none() {
    let mut p = pacer(
        Config {
            burst: span(5),
            ..exact()
        },
        10_000,
    );
    for start in [0, 60_000] {
        for n in 0..8 {
            push(&mut p, ms(start), 1, Display, n);
        }
        let out = run(&mut p, ms(start), ms(start + 1000));
        let expected = [0, 0, 0, 0, 0, 5, 5, 5].map(|t| ms(start + t));
        assert_eq!(times(&out), expected);
    }
}

#[test]
fn priorities_are_strict() {
    let mut p = pacer(exact(), 1000);
    let order = [Padding, Background, Fec, Display, Retransmission, Audio];
    for (n, priority) in order.into_iter().enumerate() {
        push(&mut p, ms(0), n as u32, priority, n as u32);
    }
    let out = run(&mut p, ms(0), ms(1000));
    assert_eq!(numbers(&out), [5, 4, 3, 2, 1, 0]);
}

#[test]
fn audio_is_not_held_but_counts() {
    let mut p = pacer(exact(), 1000);
    push(&mut p, ms(0), 1, Display, 0);
    push(&mut p, ms(0), 1, Display, 1);
    push(&mut p, ms(0), 2, Audio, 2);
    push(&mut p, ms(0), 2, Audio, 3);
    let out = run(&mut p, ms(0), ms(1000));
    assert_eq!(numbers(&out), [2, 3, 0, 1]);
    assert_eq!(times(&out), [0, 0, 20, 30].map(ms));
}

#[test]
fn ssrcs_of_one_priority_take_turns() {
    let mut p = pacer(exact(), 1000);
    for n in 0..3 {
        push(&mut p, ms(0), 1, Display, n);
    }
    for n in 10..13 {
        push(&mut p, ms(0), 2, Display, n);
    }
    assert_eq!(
        numbers(&run(&mut p, ms(0), ms(1000))),
        [0, 10, 1, 11, 2, 12]
    );
}

#[test]
fn what_is_in_front_of_an_urgent_packet_of_its_ssrc_goes_first() {
    let mut p = pacer(exact(), 1000);
    for n in 0..3 {
        push(&mut p, ms(0), 1, Background, n);
    }
    push(&mut p, ms(0), 2, Fec, 10);
    assert_eq!(
        p.poll(ms(0)),
        Next::Send(pacer_core::Departure {
            packet: 10,
            ssrc: 2,
            priority: Fec,
            size: PACKET,
            waited: Duration::ZERO,
            probe: None,
        })
    );
    // The dual stream commits: SSRC 1 is the display stream now.
    push(&mut p, ms(0), 2, Fec, 11);
    push(&mut p, ms(0), 1, Display, 3);
    push(&mut p, ms(0), 1, Background, 4);
    assert_eq!(
        numbers(&run(&mut p, ms(0), ms(1000))),
        [0, 1, 2, 3, 11, 4],
        "up to the display packet, and no further"
    );
}

/// At most one background packet is owed for when a display packet comes,
/// however long the burst, so that is all it waits for.
#[test]
fn a_display_packet_waits_for_one_background_packet_at_most() {
    for burst in [0, 5] {
        for rate in [300, 1000, 10_000, 50_000] {
            for arrival in 0..400u64 {
                let config = Config {
                    burst: span(burst),
                    ..exact()
                };
                let mut p = pacer(config, rate);
                for n in 0..400 {
                    push(&mut p, ms(0), 1, Background, n);
                }
                let now = Timestamp::from_nanos(arrival * 333_333);
                run(&mut p, ms(0), now);
                push(&mut p, now, 2, Display, 1000);
                let out = run(&mut p, now, ms(10_000));
                let at = out
                    .iter()
                    .position(|(_, o)| *o == Out::Packet(1000, None))
                    .expect("it goes");
                assert_eq!(at, 0, "nothing of the background goes before it");
                let most = PACKET.time_at(kbps(rate)).unwrap();
                assert!(
                    out[at].0.since(now) <= most + Duration::from_nanos(1),
                    "{:?} at {rate} kbit/s",
                    out[at].0.since(now)
                );
            }
        }
    }
}

#[test]
fn zero_holds_everything_but_audio_and_probes() {
    let mut p = pacer(Config::default(), 0);
    push(&mut p, ms(0), 1, Display, 0);
    assert_eq!(p.poll(ms(0)), Next::Idle);
    assert_eq!(p.poll(ms(60_000)), Next::Idle);
    push(&mut p, ms(60_000), 2, Audio, 1);
    assert_eq!(numbers(&run(&mut p, ms(60_000), ms(61_000))), [1]);
    p.set_rate(ms(61_000), kbps(1000));
    assert_eq!(numbers(&run(&mut p, ms(61_000), ms(62_000))), [0]);
}

#[test]
fn nothing_is_held_until_a_rate_is_known() {
    let mut p = Pacer::new(exact()).unwrap();
    for n in 0..100 {
        push(&mut p, ms(0), 1, Display, n);
    }
    assert_eq!(run(&mut p, ms(0), ms(0)).len(), 100);
    p.set_target(ms(0), kbps(400));
    assert_eq!(p.rate(), Some(kbps(1000)), "2.5 times the target");
    p.set_rate(ms(0), kbps(700));
    p.set_target(ms(0), kbps(800));
    assert_eq!(p.rate(), Some(kbps(700)), "a pacing rate is a limit");
    p.set_target(ms(0), kbps(200));
    assert_eq!(p.rate(), Some(kbps(500)), "below it, the target rules");
    p.clear_rate(ms(0));
    assert_eq!(p.rate(), None);
}

#[test]
fn a_new_rate_applies_to_the_packet_that_waits() {
    let mut p = pacer(exact(), 1000);
    push(&mut p, ms(0), 1, Display, 0);
    push(&mut p, ms(0), 1, Display, 1);
    assert_eq!(run(&mut p, ms(0), ms(5)).len(), 1);
    // Half is paid; 5000 bits at 500 kbit/s.
    p.set_rate(ms(5), kbps(500));
    assert_eq!(p.poll(ms(5)), Next::WaitUntil(ms(15)));
}

#[test]
fn the_queue_time_limit_raises_the_rate_until_the_queue_is_empty() {
    let config = Config {
        queue_time_limit: Some(span(100)),
        ..exact()
    };
    let mut p = pacer(config, 1000);
    // 400 ms at the rate.
    for n in 0..40 {
        push(&mut p, ms(0), 1, Display, n);
    }
    assert_eq!(p.rate(), Some(kbps(4000)));
    let out = run(&mut p, ms(0), ms(1000));
    assert_eq!(out.len(), 40);
    assert!(out[39].0 <= ms(100), "the last left at {:?}", out[39].0);
    assert!(out[39].0 >= ms(90), "no faster than needed");
    assert_eq!(p.rate(), Some(kbps(1000)), "back to normal");
    assert_eq!(p.stats().raised, 1);
    // Background packets may wait.
    for n in 0..40 {
        push(&mut p, ms(1000), 1, Background, n);
    }
    assert_eq!(p.rate(), Some(kbps(1000)));
}

#[test]
fn old_background_packets_are_dropped_and_counted() {
    let config = Config {
        ttl_background: Some(span(25)),
        ..exact()
    };
    let mut p = pacer(config, 1000);
    for n in 0..10 {
        push(&mut p, ms(0), 1, Background, n);
    }
    let out = run(&mut p, ms(0), ms(1000));
    assert_eq!(times(&out), [0, 10, 20].map(ms));
    assert_eq!(p.stats().of(Background).expired.packets, 7);
    // What an urgent packet stands behind is kept.
    for n in 0..5 {
        push(&mut p, ms(1000), 1, Background, n);
    }
    push(&mut p, ms(1000), 1, Display, 5);
    push(&mut p, ms(1000), 1, Background, 6);
    assert_eq!(
        numbers(&run(&mut p, ms(1000), ms(2000))),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(p.stats().of(Background).expired.packets, 8);
    // Also while nothing goes.
    p.set_rate(ms(2000), kbps(0));
    push(&mut p, ms(2000), 1, Background, 7);
    assert_eq!(p.poll(ms(2000)), Next::WaitUntil(ms(2025)));
    assert_eq!(p.poll(ms(2025)), Next::Idle);
    assert!(p.is_empty());
}

#[test]
fn a_full_queue_drops_the_oldest_of_the_lowest_priority_for_a_higher_one() {
    let config = Config {
        max_packets: 4,
        ..exact()
    };
    let mut p = pacer(config, 0);
    push(&mut p, ms(0), 1, Fec, 0);
    push(&mut p, ms(1), 2, Background, 1);
    push(&mut p, ms(2), 2, Background, 2);
    push(&mut p, ms(3), 3, Display, 3);
    let refused = p.push(ms(4), 4, Background, PACKET, 4).unwrap_err();
    assert_eq!((refused.packet, refused.reason), (4, Reason::Full));
    push(&mut p, ms(4), 4, Fec, 5);
    push(&mut p, ms(5), 4, Display, 6);
    push(&mut p, ms(6), 4, Display, 7);
    let refused = p.push(ms(7), 4, Display, PACKET, 8).unwrap_err();
    assert_eq!(refused.packet, 8, "nothing lower is left");
    p.set_rate(ms(8), kbps(1000));
    let out = numbers(&run(&mut p, ms(8), ms(1000)));
    assert_eq!(out, [3, 5, 6, 7]);
    let stats = p.stats();
    assert_eq!(stats.of(Background).evicted.packets, 2);
    assert_eq!(stats.of(Fec).evicted.packets, 1);
    assert_eq!(stats.of(Display).refused.packets, 1);
}

#[test]
fn bytes_are_bounded_and_nothing_is_dropped_in_vain() {
    let config = Config {
        max_bytes: DataSize::from_bytes(4 * 1250),
        ..exact()
    };
    let mut p = pacer(config, 0);
    push(&mut p, ms(0), 1, Display, 0);
    push(&mut p, ms(0), 2, Background, 1);
    let huge = DataSize::from_bytes(4 * 1250 - 1000);
    assert!(p.push(ms(0), 3, Display, huge, 2).is_err());
    assert_eq!(p.stats().of(Background).evicted.packets, 0);
    let fits = DataSize::from_bytes(3 * 1250);
    assert!(p.push(ms(0), 3, Display, fits, 3).is_ok());
    assert_eq!(p.stats().of(Background).evicted.packets, 1);
}

#[test]
fn ssrcs_are_bounded_and_empty_ones_make_room() {
    let config = Config {
        max_streams: 2,
        ..exact()
    };
    let mut p = pacer(config, 0);
    push(&mut p, ms(0), 1, Display, 0);
    push(&mut p, ms(0), 2, Display, 1);
    let refused = p.push(ms(0), 3, Audio, PACKET, 2).unwrap_err();
    assert_eq!(refused.reason, Reason::TooManyStreams);
    p.set_rate(ms(0), kbps(1000));
    run(&mut p, ms(0), ms(0));
    push(&mut p, ms(0), 3, Audio, 3);
    assert_eq!(numbers(&run(&mut p, ms(0), ms(100))), [3, 1]);
}

fn cluster(id: u32, rate: u64, packets: u32, millis: u64) -> ProbeCluster {
    ProbeCluster {
        id,
        bitrate: kbps(rate),
        packets,
        duration: span(millis),
    }
}

#[test]
fn a_probe_begins_at_once_with_an_empty_queue() {
    let config = Config {
        padding_size: PACKET,
        ..exact()
    };
    let mut p = pacer(config, 500);
    assert_eq!(p.poll(ms(0)), Next::Idle);
    p.probe(ms(3), cluster(7, 2000, 4, 10));
    let out = run(&mut p, ms(3), ms(1000));
    assert_eq!(times(&out), [3, 8, 13, 18].map(ms));
    assert!(out.iter().all(|(_, o)| *o == Out::Pad(Some(7))));
    let stats = p.stats();
    assert_eq!(stats.probes.completed, 1);
    assert_eq!(stats.probes.sent.packets, 4);
    assert_eq!(stats.padding.packets, 4);
    // Again: ignored.
    p.probe(ms(100), cluster(7, 2000, 4, 10));
    assert_eq!(p.poll(ms(100)), Next::Idle);
}

#[test]
fn a_probe_takes_media_first_ignores_bucket_and_window_and_is_paid_for() {
    let mut p = pacer(exact(), 500);
    p.set_congestion_window(ms(0), Some(DataSize::from_bytes(1)), PACKET);
    push(&mut p, ms(0), 2, Background, 10);
    push(&mut p, ms(0), 1, Display, 0);
    push(&mut p, ms(0), 1, Display, 1);
    // 2 ms a packet; 5000 bytes.
    p.probe(ms(0), cluster(1, 5000, 3, 8));
    let out = run(&mut p, ms(0), ms(8));
    assert_eq!(
        out[..3],
        [
            (ms(0), Out::Packet(0, Some(1))),
            (ms(2), Out::Packet(1, Some(1))),
            (ms(4), Out::Packet(10, Some(1))),
        ]
    );
    assert!(out[3..].iter().all(|(_, o)| *o == Out::Pad(Some(1))));
    assert_eq!(p.stats().probes.completed, 1, "5000 bytes by 8 ms");
    let sent = p.stats().probes.sent.bytes.as_bytes();
    assert!((5000..5303).contains(&sent), "{sent} bytes");
    // 5000 bytes are 80 ms at 500 kbit/s.
    p.set_congestion_window(ms(8), None, DataSize::ZERO);
    push(&mut p, ms(8), 1, Display, 2);
    let out = run(&mut p, ms(8), ms(1000));
    assert!(out[0].0 > ms(78), "left at {:?}", out[0].0);
    assert!(out[0].0 < ms(90), "left at {:?}", out[0].0);
}

#[test]
fn a_probe_that_comes_too_late_or_lags_is_dropped() {
    let mut p = pacer(exact(), 500);
    p.probe(ms(0), cluster(1, 1000, 5, 15));
    assert_eq!(p.poll(ms(1001)), Next::Idle, "not begun within a second");
    p.probe(ms(2000), cluster(2, 1000, 5, 15));
    assert!(matches!(p.poll(ms(2000)), Next::Pad { .. }));
    assert_eq!(p.poll(ms(2200)), Next::Idle, "lags by 200 ms");
    assert_eq!(p.stats().probes.dropped, 2);
    for id in 3..10 {
        p.probe(ms(3000), cluster(id, 1000, 5, 15));
    }
    assert_eq!(p.stats().probes.refused, 3, "four may wait");
    p.probe(ms(3000), cluster(20, 0, 5, 15));
    assert_eq!(p.stats().probes.refused, 4, "a rate of zero");
}

#[test]
fn clusters_follow_each_other() {
    let config = Config {
        padding_size: PACKET,
        ..exact()
    };
    let mut p = pacer(config, 500);
    p.probe(ms(0), cluster(1, 1000, 2, 10));
    p.probe(ms(0), cluster(2, 2000, 2, 10));
    let out = run(&mut p, ms(0), ms(100));
    let expected = [(0, 1), (10, 1), (10, 2), (15, 2)];
    assert_eq!(
        out,
        expected.map(|(t, id)| (ms(t), Out::Pad(Some(id)))).to_vec()
    );
}

#[test]
fn padding_fills_up_to_its_rate() {
    let mut p = pacer(exact(), 1000);
    p.set_padding_rate(ms(0), kbps(303 * 8));
    // More than the pacing rate is not sent: 125 000 bytes a second.
    let out = run(&mut p, ms(0), ms(1000));
    assert!((412..=414).contains(&out.len()), "{} packets", out.len());
    let mut p = pacer(exact(), 10_000);
    p.set_padding_rate(ms(0), kbps(1000));
    let mut padding = 0;
    // 500 kbit/s of media: half of it is left.
    for n in 0..50 {
        push(&mut p, ms(n * 20), 1, Display, 0);
        let out = run(&mut p, ms(n * 20), ms(n * 20 + 19));
        padding += out.iter().filter(|(_, o)| *o == Out::Pad(None)).count() as u64;
    }
    assert!(
        (55_000..70_000).contains(&(padding * 303)),
        "{padding} packets"
    );
    p.set_padding_rate(ms(1000), kbps(0));
    assert_eq!(p.poll(ms(2000)), Next::Idle);
}

#[test]
fn a_full_window_lets_one_packet_out_every_500_ms() {
    let mut p = pacer(exact(), 10_000);
    p.set_congestion_window(ms(0), Some(DataSize::from_bytes(2500)), PACKET);
    for n in 0..5 {
        push(&mut p, ms(0), 1, Display, n);
    }
    let out = run(&mut p, ms(0), ms(1200));
    assert_eq!(times(&out), [0, 500, 1000].map(ms));
    assert!(p.stats().congested);
    p.set_congestion_window(ms(1200), Some(DataSize::from_bytes(25_000)), PACKET);
    assert_eq!(
        times(&run(&mut p, ms(1200), ms(1900))),
        [1200, 1201].map(ms)
    );
}

#[test]
fn flush_forgets_packets_probes_and_debt() {
    let mut p = pacer(exact(), 100);
    push(&mut p, ms(0), 1, Display, 0);
    push(&mut p, ms(0), 1, Display, 1);
    p.probe(ms(0), cluster(1, 1000, 5, 15));
    assert_eq!(run(&mut p, ms(0), ms(1)).len(), 1);
    p.flush();
    assert_eq!(p.poll(ms(1)), Next::Idle);
    assert_eq!(p.stats().of(Display).flushed.packets, 1);
    push(&mut p, ms(1), 1, Display, 2);
    assert_eq!(times(&run(&mut p, ms(1), ms(100))), [ms(1)]);
}

#[test]
fn time_that_goes_backwards_neither_pays_nor_hangs() {
    let mut p = pacer(exact(), 1000);
    push(&mut p, ms(100_000), 1, Display, 0);
    push(&mut p, ms(100_000), 1, Display, 1);
    assert_eq!(run(&mut p, ms(100_000), ms(100_000)).len(), 1);
    assert_eq!(times(&run(&mut p, ms(5), ms(1000))), [ms(15)]);
    p.probe(ms(2000), cluster(1, 1000, 5, 15));
    assert!(matches!(p.poll(ms(2000)), Next::Pad { .. }));
    assert_eq!(p.poll(ms(1)), Next::Idle, "it measures nothing now");
}
