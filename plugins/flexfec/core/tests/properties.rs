// SPDX-License-Identifier: MPL-2.0
//! A stream over a bad network: what comes out was sent, had not come, and
//! comes once. That a single block yields all that peeling can make is in
//! `src/fuzz.rs`.

#[allow(dead_code)] // Each test uses its own part.
mod common;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::*;
use dualstream_common::Timestamp;
use flexfec_core::block::{Block, BlockLimits};
use flexfec_core::decoder::{Decoder, DecoderConfig, Limits, Media};
use flexfec_core::encoder::{Encoder, EncoderConfig, Format};
use flexfec_core::mask::{Family, Mask};
use flexfec_core::rtp::MutableExtensions;
use proptest::prelude::*;

/// One thing on the network.
#[derive(Clone, Debug)]
struct Arrival {
    /// When it comes, in packets.
    time: u64,
    fec: bool,
    packet: Vec<u8>,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug)]
struct Fate {
    lost: bool,
    twice: bool,
    late: u64,
    /// Of the packet, if it is media.
    payload: usize,
    stream: u32,
    feature: u8,
}

fn fate(loss: u32) -> impl Strategy<Value = Fate> {
    let late = prop_oneof![8 => Just(0u64), 2 => 0u64..30];
    (0u32..100, 0u32..20, late, 0usize..400, 0u32..3, any::<u8>()).prop_map(
        move |(lost, twice, late, payload, stream, feature)| Fate {
            lost: lost < loss,
            twice: twice == 0,
            late,
            payload,
            stream,
            feature,
        },
    )
}

fn rtp(sequence: u16, fate: Fate) -> Rtp {
    let mut rtp = Rtp::new(sequence, fate.payload);
    rtp.ssrc = SSRC + fate.stream;
    rtp.csrcs = (0..u32::from(fate.feature % 4)).collect();
    rtp.padding = fate.feature / 64;
    // Element 3 changes on the way, 4 does not.
    rtp.extension =
        (fate.feature & 0x10 != 0).then(|| (0xbede, vec![0x31, 0, 0, 0x40, fate.feature, 0, 0, 0]));
    rtp
}

/// As it is on the wire, with a number that FEC does not know of.
fn on_the_wire(rtp: &Rtp, number: u16) -> Vec<u8> {
    let mut rtp = rtp.clone();
    if let Some((_, content)) = &mut rtp.extension {
        content[1..3].copy_from_slice(&number.to_be_bytes());
    }
    rtp.bytes()
}

struct Sent {
    arrivals: Vec<Arrival>,
    /// As they should come out.
    packets: HashMap<(u32, u16), Vec<u8>>,
}

fn send(format: Format, base: u16, fates: &[Fate], size: usize, fec: usize) -> Sent {
    let mut mutable = MutableExtensions::default();
    mutable.insert(3);
    let mut encoder = Encoder::new(EncoderConfig {
        format,
        ssrc: FEC_SSRC,
        transport_cc_id: Some(3),
        ..EncoderConfig::default()
    })
    .unwrap();
    let mut block = Block::new(BlockLimits::default());
    let mut sequences = [base, base.wrapping_add(20_000), base.wrapping_add(40_000)];
    let mut sent = Sent {
        arrivals: Vec::new(),
        packets: HashMap::new(),
    };
    let mut put = |time: u64, fate: Fate, fec, packet: Vec<u8>| {
        let copies = if fate.lost {
            0
        } else {
            1 + u64::from(fate.twice)
        };
        for copy in 0..copies {
            let time = time + fate.late + copy * 7;
            sent.arrivals.push(Arrival {
                time,
                fec,
                packet: packet.clone(),
            });
        }
    };
    for (i, fate) in fates.iter().enumerate() {
        let sequence = &mut sequences[fate.stream as usize];
        let rtp = rtp(*sequence, *fate);
        sent.packets.insert((rtp.ssrc, rtp.sequence), rtp.bytes());
        *sequence = sequence.wrapping_add(1);
        // FEC is made before the number is written, of whatever is there.
        block.push(&on_the_wire(&rtp, 0xaaaa), &mutable).unwrap();
        put(i as u64, *fate, false, on_the_wire(&rtp, i as u16));
        if block.len() == size {
            let mask = Mask::new(size, fec, Family::Random);
            let mut made = 0;
            encoder
                .encode(&block, mask.rows(), 0, |packet| {
                    let fate = fates[(i * 7 + made * 13) % fates.len()];
                    put(i as u64, fate, true, packet.to_vec());
                    made += 1;
                })
                .unwrap();
            block.clear();
        }
    }
    sent.arrivals.sort_by_key(|a| a.time);
    sent
}

/// Plenty, or so little that packets are thrown away all the time.
fn limits() -> impl Strategy<Value = Limits> {
    let little =
        (1usize..60, 1500usize..20_000, 0u64..60).prop_map(|(packets, bytes, ms)| Limits {
            packets,
            bytes,
            age: Duration::from_millis(ms),
        });
    prop_oneof![Just(Limits::default()), little]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_comes_out_was_sent_and_had_not_come(
        format in prop_oneof![Just(Format::FlexFec03), Just(Format::Rfc8627)],
        base in any::<u16>(),
        fates in proptest::collection::vec(fate(15), 20..400),
        size in 1usize..40,
        fec in 1usize..10,
        limits in limits(),
    ) {
        let sent = send(format, base, &fates, size, fec);
        let mut mutable = MutableExtensions::default();
        mutable.insert(3);
        let mut decoder = Decoder::new(DecoderConfig {
            format,
            mutable,
            fec_ssrc: Some(FEC_SSRC),
            limits,
            ..DecoderConfig::default()
        })
        .unwrap();
        let (mut came, mut made) = (HashSet::new(), HashSet::new());
        for arrival in &sent.arrivals {
            let now = Timestamp::from_millis(arrival.time);
            if arrival.fec {
                let _ = decoder.fec(now, &arrival.packet);
            } else {
                let word = |at: usize| <[u8; 4]>::try_from(&arrival.packet[at..at + 4]).unwrap();
                let [_, _, s0, s1] = word(0);
                let key = (u32::from_be_bytes(word(8)), u16::from_be_bytes([s0, s1]));
                let expected = match (came.insert(key), made.contains(&key)) {
                    (true, false) => Media::New,
                    (true, true) => Media::AlreadyRecovered,
                    (false, _) => Media::Duplicate,
                };
                prop_assert_eq!(decoder.media(now, &arrival.packet), expected);
            }
            while let Some(recovered) = decoder.next_recovered() {
                let key = (recovered.ssrc, recovered.sequence);
                prop_assert!(!came.contains(&key), "{:?} had come", key);
                prop_assert!(made.insert(key), "{:?} was made before", key);
                prop_assert_eq!(Some(recovered.packet), sent.packets.get(&key).map(Vec::as_slice));
            }
        }
        let stats = decoder.stats();
        prop_assert_eq!(stats.recovered.packets, made.len() as u64);
        prop_assert_eq!(stats.fec_malformed.packets, 0, "nothing was spoilt");
        let ends = stats.fec_used.packets
            + stats.useless.packets
            + stats.unrecoverable.packets
            + stats.fec_ignored.packets
            + stats.fec_pending.packets;
        prop_assert_eq!(ends, stats.fec.packets);
    }
}

/// The property above would hold for a decoder that makes nothing.
#[test]
fn most_of_what_is_lost_comes_back() {
    let fates: Vec<_> = (0..4000u32)
        .map(|i| Fate {
            lost: i.wrapping_mul(0x9e37_79b9) >> 24 < 13,
            twice: i % 17 == 0,
            late: 0,
            payload: i as usize % 300,
            stream: i % 3,
            feature: i as u8,
        })
        .collect();
    for format in FORMATS {
        let sent = send(format, 0xff00, &fates, 12, 4);
        let mut mutable = MutableExtensions::default();
        mutable.insert(3);
        let mut decoder = Decoder::new(DecoderConfig {
            format,
            mutable,
            fec_ssrc: Some(FEC_SSRC),
            ..DecoderConfig::default()
        })
        .unwrap();
        let mut made = 0u64;
        for arrival in &sent.arrivals {
            if arrival.fec {
                let _ = decoder.fec(MS, &arrival.packet);
            } else {
                decoder.media(MS, &arrival.packet);
            }
            made += drain(&mut decoder).len() as u64;
        }
        let stats = decoder.stats();
        let left = stats.lost + stats.missing;
        let lost = fates.iter().filter(|f| f.lost).count() as u64;
        assert!((150..=250).contains(&lost), "one in 20: {lost}");
        assert_eq!(made + left, lost, "each is made or counted");
        // Of 12 packets in 4 groups of three, some lose two of one group.
        assert!((1..=lost / 4).contains(&left), "{made} made, {left} left");
    }
}
