// SPDX-License-Identifier: MPL-2.0
//! What is lost comes back as it was sent, and nothing else comes.

#[allow(dead_code)] // Each test uses its own part.
mod common;

use std::collections::BTreeSet;

use common::*;
use flexfec_core::block::{Block, BlockLimits};
use flexfec_core::decoder::{Decoder, DecoderConfig, FecRejected, Media};
use flexfec_core::encoder::{Format, Parity};
use flexfec_core::rtp::{MUTABLE_URIS, MutableExtensions};

#[test]
fn each_packet_comes_back_with_all_its_header() {
    for format in FORMATS {
        for base in [0, 1000, 0xfff8, 0xffff] {
            let media = features(base);
            let all = fec(format, &media, &[0xfff]);
            for lost in 0..media.len() {
                let mut decoder = decoder(format);
                let made = run(&mut decoder, &media, &all, &[lost]);
                assert_eq!(made, [media[lost].clone()], "{format:?} {base} {lost}");
                let stats = decoder.stats();
                assert_eq!(stats.recovered.packets, 1);
                assert_eq!(stats.recovered.bytes, media[lost].len() as u64);
                assert_eq!((stats.lost, stats.missing), (0, 0));
                conserved(&stats);
            }
        }
    }
}

/// What peeling can make, in the plainest way.
fn peel(rows: &[u128], lost: u128) -> u128 {
    let mut left = lost;
    loop {
        let single = rows.iter().find(|row| (*row & left).count_ones() == 1);
        let Some(row) = single else {
            return lost & !left;
        };
        left &= !row;
    }
}

#[test]
fn each_pair_comes_back_that_peeling_can_make() {
    let rows = [
        0b0000_0111_1111,
        0b1111_1000_0111,
        0b0101_0101_0101,
        0b1000_0000_0001,
    ];
    let mut repaired = 0;
    for format in FORMATS {
        let media = features(0xfffa);
        let all = fec(format, &media, &rows);
        for first in 0..media.len() {
            for second in first + 1..media.len() {
                let mut decoder = decoder(format);
                let made: BTreeSet<_> = run(&mut decoder, &media, &all, &[first, second])
                    .into_iter()
                    .collect();
                let possible = peel(&rows, 1 << first | 1 << second);
                let expected: BTreeSet<_> = (0..media.len())
                    .filter(|i| possible >> i & 1 == 1)
                    .map(|i| media[i].clone())
                    .collect();
                assert_eq!(made, expected, "{format:?} {first} {second}");
                repaired += made.len();
                conserved(&decoder.stats());
            }
        }
    }
    assert!(repaired > 200, "most pairs can be repaired: {repaired}");
}

/// Three losses in a square of two by two can be made by rows and columns
/// together only.
#[test]
fn rows_and_columns_help_each_other() {
    let media: Vec<_> = (0..12)
        .map(|i| Rtp::new(0xfffcu16.wrapping_add(i), 50).bytes())
        .collect();
    let block = block(Format::Rfc8627, &media);
    let mut all = Vec::new();
    let count =
        encoder(Format::Rfc8627).encode_grid(&block, 4, 3, Parity::RowsAndColumns, 0, |packet| {
            all.push(packet.to_vec())
        });
    assert_eq!(count, Ok(7));
    let lost = [0, 1, 4];
    let mut decoder = decoder(Format::Rfc8627);
    let made: BTreeSet<_> = run(&mut decoder, &media, &all, &lost).into_iter().collect();
    assert_eq!(made, lost.iter().map(|i| media[*i].clone()).collect());
    let square = [0, 1, 4, 5];
    let mut decoder = self::decoder(Format::Rfc8627);
    assert!(run(&mut decoder, &media, &all, &square).is_empty());
    assert_eq!(
        decoder.stats().missing,
        2,
        "those before the first that came are not known of"
    );
    conserved(&decoder.stats());
}

#[test]
fn a_retransmission_is_handed_out_once_and_helps() {
    let media = features(65530);
    let mut encoder = encoder(Format::Rfc8627);
    let mut resent = Vec::new();
    encoder
        .retransmit(&media[4], 0, |packet| resent = packet.to_vec())
        .unwrap();
    let all = fec(Format::Rfc8627, &media, &[0xfff]);
    let mut decoder = decoder(Format::Rfc8627);
    assert!(run(&mut decoder, &media, &all, &[4, 6]).is_empty());
    decoder.fec(MS, &resent).unwrap();
    let made: BTreeSet<_> = drain(&mut decoder).into_iter().collect();
    assert_eq!(made, [media[4].clone(), media[6].clone()].into());
    decoder.fec(MS, &resent).unwrap();
    assert_eq!(decoder.next_recovered(), None);
    let stats = decoder.stats();
    assert_eq!((stats.recovered.packets, stats.useless.packets), (2, 1));
    conserved(&stats);

    let mut decoder = self::decoder(Format::Rfc8627);
    decoder.media(MS, &media[0]);
    decoder.fec(MS, &resent).unwrap();
    assert_eq!(drain(&mut decoder), [media[4].clone()]);
    assert_eq!(decoder.stats().missing, 3, "its SSRC is protected");
}

#[test]
fn fec_may_come_before_the_packets() {
    for format in FORMATS {
        let media = features(0xfffc);
        let all = fec(format, &media, &[0xfff]);
        for lost in 0..media.len() {
            let mut decoder = decoder(format);
            for packet in &all {
                decoder.fec(MS, packet).unwrap();
            }
            let mut made = Vec::new();
            for (_, packet) in media.iter().enumerate().rev().filter(|(i, _)| *i != lost) {
                assert_eq!(decoder.media(MS, packet), Media::New);
                made.extend(drain(&mut decoder));
            }
            assert_eq!(made, [media[lost].clone()], "{format:?} {lost}");
            conserved(&decoder.stats());
        }
    }
}

#[test]
fn a_packet_that_comes_after_all_is_known() {
    let media = features(0);
    let all = fec(Format::FlexFec03, &media, &[0xfff]);
    let mut decoder = decoder(Format::FlexFec03);
    run(&mut decoder, &media, &all, &[3]);
    assert_eq!(decoder.media(MS, &media[3]), Media::AlreadyRecovered);
    assert_eq!(decoder.media(MS, &media[3]), Media::Duplicate);
    assert_eq!(decoder.media(MS, &media[2]), Media::Duplicate);
    let stats = decoder.stats();
    assert_eq!(stats.already_recovered.packets, 1);
    assert_eq!(stats.duplicates.packets, 2);
}

#[test]
fn one_packet_of_two_fec_packets_is_made_once() {
    let media = features(0);
    let all = fec(Format::FlexFec03, &media, &[0xfff, 0xff0, 0xff0]);
    let mut decoder = decoder(Format::FlexFec03);
    for (_, packet) in media.iter().enumerate().filter(|(i, _)| *i != 5) {
        decoder.media(MS, packet);
    }
    for packet in &all {
        decoder.fec(MS, packet).unwrap();
    }
    assert_eq!(decoder.fec(MS, &all[0]), Err(FecRejected::Duplicate));
    assert_eq!(drain(&mut decoder), [media[5].clone()]);
    let stats = decoder.stats();
    assert_eq!((stats.fec_used.packets, stats.useless.packets), (1, 2));
    assert_eq!(stats.fec_ignored.packets, 1);
    conserved(&stats);
}

#[test]
fn ssrcs_are_mixed_in_one_block() {
    for format in FORMATS {
        let media: Vec<_> = (0..60u16)
            .map(|i| {
                let ssrc = SSRC + u32::from(i % 15);
                let sequence = (i % 15)
                    .wrapping_mul(7000)
                    .wrapping_sub(2)
                    .wrapping_add(i / 15);
                Rtp {
                    ssrc,
                    ..Rtp::new(sequence, usize::from(i) * 3)
                }
                .bytes()
            })
            .collect();
        let all = fec(format, &media, &[(1 << 60) - 1]);
        for lost in 0..media.len() {
            let mut decoder = decoder(format);
            assert_eq!(
                run(&mut decoder, &media, &all, &[lost]),
                [media[lost].clone()]
            );
        }
    }
}

/// The row that reaches furthest in each format.
#[test]
fn blocks_as_long_as_a_mask_work() {
    for format in FORMATS {
        let count = format.span() as u16;
        let media: Vec<_> = (0..count)
            .map(|i| Rtp::new(65500u16.wrapping_add(i), 20).bytes())
            .collect();
        let rows: Vec<_> = (0..10)
            .map(|r| (r..count).step_by(10).fold(0u128, |bits, i| bits | 1 << i))
            .collect();
        let all = fec(format, &media, &rows);
        for lost in 0..usize::from(count) - 9 {
            let burst: Vec<_> = (lost..lost + 10).collect();
            let mut decoder = decoder(format);
            let made: BTreeSet<_> = run(&mut decoder, &media, &all, &burst)
                .into_iter()
                .collect();
            assert_eq!(made, media[lost..lost + 10].iter().cloned().collect());
        }
    }
}

/// Extension 3 changes between FEC and the wire, 4 does not; of 5 only what
/// is behind its seventh byte does.
#[test]
fn mutable_extensions_come_out_zeroed() {
    let mut mutable = MutableExtensions::default();
    assert!(mutable.is_empty());
    assert!(mutable.insert_uri(MUTABLE_URIS[0], 3));
    assert!(mutable.insert_uri(
        "http://www.webrtc.org/experiments/rtp-hdrext/video-timing",
        5
    ));
    assert!(!mutable.insert_uri("urn:ietf:params:rtp-hdrext:sdes:mid", 4));
    assert!(mutable.contains(3) && mutable.contains(5) && !mutable.contains(4));

    let one_byte = |changed: u8| {
        let mut content = vec![0x31, changed, changed, 0x00, 0x40, 9, 0x5c];
        content.extend([7; 7]);
        content.extend([changed; 6]);
        // Id 15 ends the extension; what follows is not read.
        content.extend([0xf0, 0, 0x30, 8]);
        (0xbedeu16, content)
    };
    let two_byte = |changed: u8| {
        let mut content = vec![3, 2, changed, changed, 0, 4, 0, 3, 0, 5, 13];
        content.extend([7; 7]);
        content.extend([changed; 6]);
        // Cut short.
        content.extend([3, 200, 8, 8]);
        (0x1003u16, content)
    };
    type Extension = fn(u8) -> (u16, Vec<u8>);
    for (format, extension) in FORMATS.into_iter().zip([one_byte as Extension, two_byte]) {
        let packets = |changed| -> Vec<_> {
            (0..4)
                .map(|i| {
                    Rtp {
                        extension: Some(extension(changed)),
                        ..Rtp::new(i, 40)
                    }
                    .bytes()
                })
                .collect()
        };
        let mut block = Block::new(BlockLimits::default());
        for packet in packets(0x55) {
            block.push(&packet, &mutable).unwrap();
        }
        let mut all = Vec::new();
        encoder(format)
            .encode(&block, &[0b1111], 0, |fec| all.push(fec.to_vec()))
            .unwrap();
        for lost in 0..4 {
            let mut decoder = Decoder::new(DecoderConfig {
                format,
                mutable,
                ..DecoderConfig::default()
            })
            .unwrap();
            let made = run(&mut decoder, &packets(0xaa), &all, &[lost]);
            assert_eq!(made, [packets(0)[lost].clone()], "{format:?}");
        }
    }
}

#[test]
fn packets_may_be_pushed_in_any_order() {
    for format in FORMATS {
        let media = features(0xfffa);
        let order = [7, 3, 11, 0, 5, 9, 1, 10, 4, 8, 2, 6];
        let shuffled: Vec<_> = order.iter().map(|i: &usize| media[*i].clone()).collect();
        let all = fec(format, &shuffled, &[0b1010_1010_1010, 0b0101_0101_0101]);
        for lost in 0..media.len() {
            let mut decoder = decoder(format);
            let made = run(&mut decoder, &media, &all, &[lost]);
            assert_eq!(made, [media[lost].clone()]);
        }
    }
}

/// A sender that does not zero them makes them what nobody sent.
#[test]
fn mutable_extensions_come_out_zeroed_whatever_the_sender_did() {
    let mut mutable = MutableExtensions::default();
    mutable.insert(3);
    let packet = |i: u16, number| {
        let extension = Some((0xbede, vec![0x31, 0, number, 0]));
        Rtp {
            extension,
            ..Rtp::new(i, 20)
        }
        .bytes()
    };
    let media: Vec<_> = (0..3).map(|i| packet(i, 1 << i)).collect();
    let all = fec(Format::FlexFec03, &media, &[0b111]);
    let mut decoder = Decoder::new(DecoderConfig {
        mutable,
        ..DecoderConfig::default()
    })
    .unwrap();
    assert_eq!(run(&mut decoder, &media, &all, &[1]), [packet(1, 0)]);
}
