// SPDX-License-Identifier: MPL-2.0
//! Bytes per second of encoder and decoder beside a plain XOR loop over the
//! same bytes: `cargo bench -p flexfec-core`. One JSON object per line; `xored`
//! counts each packet once for each FEC packet that protects it.

use std::hint::black_box;
use std::time::Instant;

use dualstream_common::Timestamp;
use flexfec_core::block::{Block, BlockLimits};
use flexfec_core::decoder::{Decoder, DecoderConfig};
use flexfec_core::encoder::{Encoder, EncoderConfig, Format};
use flexfec_core::mask::{Family, Mask};
use flexfec_core::rtp::MutableExtensions;

const MEDIA: usize = 20;
const FEC: usize = 5;
const SIZE: usize = 1200;
/// Blocks that differ, so that not all is in the first cache.
const BLOCKS: usize = 4;
/// Some 100 us.
const ROUNDS: u32 = 32;

fn packet(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x90, 96];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 3000).to_be_bytes());
    packet.extend([0x11, 0x22, 0x33, 0x44]);
    packet.extend([0xbe, 0xde, 0, 1, 0x31, 0, 0, 0]);
    packet.extend((packet.len()..SIZE).map(|i| (i * 7) as u8 ^ sequence as u8));
    packet
}

/// The quickest of many short runs, which other work on the machine is least
/// likely to have disturbed. An argument picks what to run.
fn measure(what: &str, media: usize, xored: usize, mut run: impl FnMut()) -> f64 {
    let picked: Vec<_> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if !picked.is_empty() && !picked.iter().any(|p| what.contains(p.as_str())) {
        return 0.0;
    }
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_millis() < 1000 {
        let short = Instant::now();
        for _ in 0..ROUNDS {
            run();
        }
        best = best.min(short.elapsed().as_secs_f64() / f64::from(ROUNDS));
    }
    let rate = |bytes: usize| bytes as f64 / best / 1e9;
    #[allow(clippy::print_stdout)] // What a bench is for.
    {
        println!(
            "{{\"what\":\"{what}\",\"xored_gbytes_per_s\":{:.2},\"media_gbytes_per_s\":{:.2},\"packets_per_s\":{:.0}}}",
            rate(xored),
            rate(media),
            media as f64 / SIZE as f64 / best,
        );
    }
    rate(xored)
}

fn encode(block: &mut Block, encoder: &mut Encoder, media: &[Vec<u8>], rows: &[u128]) -> usize {
    let mut mutable = MutableExtensions::default();
    mutable.insert(3);
    let mut bytes = 0;
    for packets in media.chunks(MEDIA) {
        block.clear();
        for packet in packets {
            block.push(packet, &mutable).expect("it fits");
        }
        let made = encoder.encode(block, rows, 1, |fec| bytes += black_box(fec).len());
        made.expect("the rows are of the block");
    }
    bytes
}

/// The plain loop: each packet into one buffer per row.
fn plain(media: &[Vec<u8>], rows: &[u128], buffer: &mut [u8]) {
    for packets in media.chunks(MEDIA) {
        for row in rows {
            for (j, packet) in packets.iter().enumerate() {
                if row >> j & 1 == 1 {
                    for (a, b) in buffer.iter_mut().zip(packet) {
                        *a ^= b;
                    }
                }
            }
            black_box(&mut *buffer);
        }
    }
}

fn decoder() -> Decoder {
    let mut mutable = MutableExtensions::default();
    mutable.insert(3);
    Decoder::new(DecoderConfig {
        mutable,
        ..DecoderConfig::default()
    })
    .expect("the settings are valid")
}

/// Packets as they come: media and FEC of each block, some lost.
fn arriving(media: &[Vec<u8>], rows: &[u128], lost: &[usize]) -> Vec<(bool, Vec<u8>)> {
    let (mut block, mut encoder) = tools();
    let mut all = Vec::new();
    for packets in media.chunks(MEDIA) {
        block.clear();
        for (j, packet) in packets.iter().enumerate() {
            block
                .push(packet, &MutableExtensions::default())
                .expect("it fits");
            if !lost.contains(&j) {
                all.push((false, packet.clone()));
            }
        }
        let made = encoder.encode(&block, rows, 1, |fec| all.push((true, fec.to_vec())));
        made.expect("the rows are of the block");
    }
    all
}

fn tools() -> (Block, Encoder) {
    let encoder = Encoder::new(EncoderConfig {
        format: Format::FlexFec03,
        ssrc: 5,
        payload_type: 110,
        first_sequence: 0,
        transport_cc_id: Some(3),
    });
    (
        Block::new(BlockLimits::default()),
        encoder.expect("the settings are valid"),
    )
}

/// Takes all in, with numbers that go on in each round.
fn decode(decoder: &mut Decoder, packets: &mut [(bool, Vec<u8>)], round: u16) -> usize {
    let shift = (MEDIA * BLOCKS) as u16;
    let mut made = 0;
    for (is_fec, packet) in packets {
        let at = if *is_fec { 12 + 8 + 16 } else { 2 };
        if let Some(place) = packet.get_mut(at..at + 2) {
            let number = u16::from_be_bytes([place[0], place[1]]);
            place.copy_from_slice(&number.wrapping_add(shift).to_be_bytes());
        }
        let now = Timestamp::from_millis(u64::from(round));
        if *is_fec {
            let _ = decoder.fec(now, packet);
        } else {
            decoder.media(now, packet);
        }
        while let Some(recovered) = decoder.next_recovered() {
            made += black_box(recovered.packet).len();
        }
    }
    made
}

fn main() {
    let media: Vec<_> = (0..MEDIA * BLOCKS).map(|i| packet(i as u16)).collect();
    let row = |picks: &dyn Fn(usize) -> bool| {
        let picked = (0..MEDIA).filter(|j| picks(*j));
        picked.fold(0u128, |bits, j| bits | 1 << j)
    };
    let masks: [(_, Vec<u128>); 3] = [
        (
            "each in one row",
            (0..FEC).map(|i| row(&|j| j % FEC == i)).collect(),
        ),
        (
            "each in two rows",
            (0..FEC)
                .map(|i| row(&|j| (j * 7 + i * 3) % 5 < 2))
                .collect(),
        ),
        (
            "mask of the encoder",
            Mask::new(MEDIA, FEC, Family::Random).rows().to_vec(),
        ),
    ];
    for (name, rows) in masks {
        compare(&media, name, &rows);
    }
}

fn compare(media: &[Vec<u8>], name: &str, rows: &[u128]) {
    let ones: u32 = rows.iter().map(|row| row.count_ones()).sum();
    let xored = ones as usize * SIZE * BLOCKS;
    let bytes = MEDIA * SIZE * BLOCKS;
    let mut buffer = vec![0; SIZE];
    let loop_rate = measure(&format!("plain loop, {name}"), bytes, xored, || {
        plain(media, rows, &mut buffer);
    });
    let (mut block, mut encoder) = tools();
    let rate = measure(&format!("encode, {name}"), bytes, xored, || {
        encode(&mut block, &mut encoder, media, rows);
    });
    ratio("encode", rate, loop_rate);
    // One loss for each row of the first mask, so that all come back.
    let lost: Vec<_> = (0..FEC).collect();
    for lost in [&lost[..0], &lost[..1], &lost[..]] {
        let mut packets = arriving(media, rows, lost);
        let mut decoder = decoder();
        let (mut made, mut round) = (0, 0u16);
        let rate = measure(
            &format!("decode {} lost, {name}", lost.len()),
            bytes,
            xored,
            || {
                round = round.wrapping_add(1);
                made = decode(&mut decoder, &mut packets, round);
            },
        );
        ratio("decode", rate, loop_rate);
        let all = lost.len() * SIZE * BLOCKS;
        let wanted = if name == "each in one row" {
            all..=all
        } else {
            0..=all
        };
        assert!(
            round == 0 || wanted.contains(&made),
            "{made} of {all} bytes"
        );
    }
}

fn ratio(what: &str, rate: f64, loop_rate: f64) {
    #[allow(clippy::print_stdout)] // What a bench is for.
    {
        println!(
            "{{\"what\":\"{what} / plain loop\",\"ratio\":{:.2}}}",
            rate / loop_rate
        );
    }
}
