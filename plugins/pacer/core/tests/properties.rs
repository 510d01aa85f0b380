// SPDX-License-Identifier: MPL-2.0
//! The pacer's promises over random traffic. That any calls at any times
//! neither panic, lose packets nor wait for the past is in `src/fuzz.rs`.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use pacer_core::{Config, Next, Pacer, Priority};
use proptest::prelude::*;

type Sent = (Timestamp, Priority, u64, Duration);

/// Traffic: time since the packet before in ns, priority, size.
fn traffic(priorities: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(u64, Priority, u64)>> {
    let packet = (0u64..3_000_000, priorities, 40u64..1500)
        .prop_map(|(gap, priority, size)| (gap, Priority::ALL[priority], size));
    proptest::collection::vec(packet, 2..150)
}

/// Runs all of it, each SSRC of one priority, polling when asked to.
fn run(pacer: &mut Pacer<u64>, packets: &[(u64, Priority, u64)]) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut now = Timestamp::ZERO;
    let mut next = Timestamp::ZERO;
    let mut packets = packets.iter();
    let mut packet = packets.next();
    loop {
        if let Some((gap, _, _)) = packet
            && next <= now
        {
            let (_, priority, size) = *packet.unwrap();
            let bytes = DataSize::from_bytes(size);
            pacer
                .push(now, priority.index() as u32, priority, bytes, size)
                .expect("there is room");
            packet = packets.next();
            next = now + Duration::from_nanos(packet.map_or(*gap, |p| p.0));
            continue;
        }
        match pacer.poll(now) {
            Next::Send(d) => sent.push((now, d.priority, d.packet, d.waited)),
            Next::Pad { size, .. } => {
                sent.push((now, Priority::Padding, size.as_bytes(), Duration::ZERO))
            }
            Next::WaitUntil(until) if packet.is_some() => now = until.min(next),
            Next::WaitUntil(until) if !pacer.is_empty() => now = until,
            Next::Idle if packet.is_some() => now = next,
            Next::WaitUntil(_) | Next::Idle => return sent,
        }
    }
}

fn config(burst: u64) -> Config {
    Config {
        burst: Duration::from_millis(burst),
        queue_time_limit: None,
        ttl_padding: None,
        ..Config::default()
    }
}

proptest! {
    /// Audio aside, which is not held.
    #[test]
    fn no_window_carries_more_than_the_rate_and_one_burst(
        bps in 500_000u64..100_000_000,
        burst in 0u64..=5,
        padding in 0u64..2_000_000,
        packets in traffic(1..6),
    ) {
        let rate = Bitrate::from_bps(bps);
        let mut pacer = Pacer::new(config(burst)).unwrap();
        pacer.set_rate(Timestamp::ZERO, rate);
        pacer.set_padding_rate(Timestamp::ZERO, Bitrate::from_bps(padding));
        let sent = run(&mut pacer, &packets);
        let largest = sent.iter().map(|s| s.2).max().unwrap();
        let burst = (rate * Duration::from_millis(burst)).as_bytes().max(largest) + 1;
        for first in 0..sent.len() {
            let mut bytes = 0;
            for (time, _, size, _) in &sent[first..] {
                bytes += size;
                let most = (rate * time.since(sent[first].0)).as_bytes() + burst;
                prop_assert!(bytes <= most, "{} bytes, at most {}", bytes, most);
            }
        }
    }

    /// A full queue keeps the rate, however late the polls, up to a
    /// millisecond.
    #[test]
    fn late_polls_do_not_lower_the_rate(
        bps in 1_000_000u64..50_000_000,
        burst in 0u64..=5,
        late in proptest::collection::vec(0u64..1_000_000, 100),
    ) {
        let rate = Bitrate::from_bps(bps);
        let mut pacer = Pacer::new(config(burst)).unwrap();
        pacer.set_rate(Timestamp::ZERO, rate);
        let size = DataSize::from_bytes(1250);
        for n in 0..1000u64 {
            pacer.push(Timestamp::ZERO, 1, Priority::Display, size, n).unwrap();
        }
        let (mut now, mut left, mut late) = (Timestamp::ZERO, 0, late.iter().cycle());
        while left < 1000 {
            match pacer.poll(now) {
                Next::Send(_) => left += 1,
                Next::WaitUntil(until) => {
                    now = until + Duration::from_nanos(*late.next().unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        let ideal = DataSize::from_bytes(999 * 1250).time_at(rate).unwrap();
        let took = now.since(Timestamp::ZERO);
        prop_assert!(took <= ideal + Duration::from_millis(2), "{took:?}, ideal {ideal:?}");
        prop_assert!(took + Duration::from_millis(7) >= ideal, "{took:?}, ideal {ideal:?}");
    }

    /// Each SSRC has one priority here, so nothing is promoted.
    #[test]
    fn nothing_leaves_while_something_more_urgent_waits(
        bps in 500_000u64..20_000_000,
        packets in traffic(0..6),
    ) {
        let mut pacer = Pacer::new(config(5)).unwrap();
        pacer.set_rate(Timestamp::ZERO, Bitrate::from_bps(bps));
        let sent = run(&mut pacer, &packets);
        prop_assert_eq!(sent.len(), packets.len());
        for (n, (time, priority, _, _)) in sent.iter().enumerate() {
            for (later, other, _, waited) in &sent[n + 1..] {
                let pushed = later.as_nanos() - waited.as_nanos() as u64;
                prop_assert!(
                    other >= priority || pushed >= time.as_nanos(),
                    "{priority:?} left while {other:?} waited"
                );
            }
        }
    }

    #[test]
    fn the_queue_time_limit_is_kept(
        bps in 100_000u64..5_000_000,
        limit in 20u64..500,
        packets in traffic(2..3),
    ) {
        let limit = Duration::from_millis(limit);
        let mut pacer = Pacer::new(Config {
            queue_time_limit: Some(limit),
            ..config(5)
        })
        .unwrap();
        pacer.set_rate(Timestamp::ZERO, Bitrate::from_bps(bps));
        for (_, _, _, waited) in run(&mut pacer, &packets) {
            // Rounding of each wait.
            prop_assert!(waited <= limit + Duration::from_micros(1), "waited {waited:?}");
        }
    }
}

/// Ten million packets in virtual time: what is held stays bounded.
#[test]
fn memory_is_flat_over_ten_million_packets() {
    let mut pacer = Pacer::new(Config::default()).unwrap();
    pacer.set_rate(Timestamp::ZERO, Bitrate::from_kbps(100_000));
    let size = DataSize::from_bytes(1250);
    let (mut now, mut seed, mut pushed) = (Timestamp::ZERO, 1u64, 0u64);
    while pushed < 10_000_000 {
        // 100 Mbit/s are 10 packets a ms; 0 to 24 come.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        for n in 0..(seed >> 33) % 25 {
            let ssrc = ((seed >> 40) as u32).wrapping_add(n as u32) % 1000;
            let priority = Priority::ALL[(ssrc % 6) as usize];
            // Too many SSRCs and packets at times: refused, and counted.
            let _ = pacer.push(now, ssrc, priority, size, pushed);
            pushed += 1;
        }
        now = now + Duration::from_millis(1);
        while let Next::Send(_) = pacer.poll(now) {}
        assert!(pacer.len() <= 10_000);
    }
    let stats = pacer.stats();
    let mut all = 0;
    for p in &stats.priorities {
        let gone = p.sent.packets + p.expired.packets + p.evicted.packets + p.refused.packets;
        assert_eq!(
            p.pushed.packets,
            gone + p.flushed.packets + p.queued.packets
        );
        all += p.pushed.packets;
    }
    assert_eq!(all, pushed);
}
