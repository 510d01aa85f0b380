// SPDX-License-Identifier: MPL-2.0
//! What is not recovered: too old, too far, too much, or not what was sent.

#[allow(dead_code)] // Each test uses its own part.
mod common;

use std::time::Duration;

use common::*;
use dualstream_common::Timestamp;
use flexfec_core::decoder::{Decoder, DecoderConfig, FecRejected, Limits, Media, MediaRejected};
use flexfec_core::encoder::Format;

#[test]
fn blocks_longer_than_what_is_held_make_nothing_wrong() {
    let media: Vec<_> = (0..20).map(|i| Rtp::new(i, 100).bytes()).collect();
    let all = fec(Format::FlexFec03, &media, &[0xf_ffff]);
    for (packets, bytes) in [(8, 1 << 20), (1000, 1500)] {
        let mut decoder = Decoder::new(DecoderConfig {
            limits: Limits {
                packets,
                bytes,
                ..Limits::default()
            },
            ..DecoderConfig::default()
        })
        .unwrap();
        assert!(run(&mut decoder, &media, &all, &[10]).is_empty());
        let stats = decoder.stats();
        assert_eq!((stats.unrecoverable.packets, stats.missing), (1, 1));
        assert!(stats.held.packets <= packets as u64 && stats.held.bytes <= bytes as u64);
    }
}

#[test]
fn what_is_old_is_given_up() {
    let media: Vec<_> = (0..4).map(|i| Rtp::new(i, 100).bytes()).collect();
    let all = fec(Format::FlexFec03, &media, &[0b1111]);
    for (late, recovered) in [(2000, 1), (2001, 0)] {
        let mut decoder = decoder(Format::FlexFec03);
        decoder.media(Timestamp::ZERO, &media[0]);
        decoder.media(Timestamp::ZERO, &media[1]);
        decoder.fec(Timestamp::ZERO, &all[0]).unwrap();
        decoder.media(Timestamp::from_millis(late), &media[3]);
        assert_eq!(drain(&mut decoder).len(), recovered);
        let stats = decoder.stats();
        assert_eq!(stats.unrecoverable.packets, 1 - recovered as u64);
        conserved(&stats);
    }
}

#[test]
fn a_stream_that_begins_anew_is_followed() {
    let mut decoder = decoder(Format::FlexFec03);
    for base in [10u16, 40_000, 20_000] {
        let media: Vec<_> = (0..8).map(|i| Rtp::new(base + i, 30).bytes()).collect();
        let all = fec(Format::FlexFec03, &media, &[0xff]);
        let taken: Vec<_> = media.iter().take(7).map(|p| decoder.media(MS, p)).collect();
        let first = match base {
            10 => Media::New,
            _ => Media::Rejected(MediaRejected::Late),
        };
        assert_eq!(taken[0], first);
        assert!(taken[1..].iter().all(|m| *m == Media::New), "{taken:?}");
        decoder.media(MS, &media[0]);
        decoder.fec(MS, &all[0]).unwrap();
        assert_eq!(drain(&mut decoder), [media[7].clone()]);

        // One that waits for what will not come any more.
        let ahead: Vec<_> = (8..10).map(|i| Rtp::new(base + i, 30).bytes()).collect();
        let mut all = fec(Format::FlexFec03, &ahead, &[0b11]);
        all[0][2] = 0;
        decoder.fec(MS, &all[0]).unwrap();
        assert_eq!(
            decoder.stats().fec_pending.packets,
            1,
            "of this stream only"
        );
    }
    assert_eq!(decoder.stats().unrecoverable.packets, 2);
    conserved(&decoder.stats());
}

#[test]
fn another_fec_stream_is_followed_if_any_is_allowed() {
    let media = features(500);
    let all = fec(Format::FlexFec03, &media, &[0xfff]);
    let mut other = all[0].clone();
    other[2..4].copy_from_slice(&[0x80, 0]);
    other[8..12].copy_from_slice(&[1, 2, 3, 4]);
    let mut strict = decoder(Format::FlexFec03);
    assert_eq!(strict.fec(MS, &other), Err(FecRejected::WrongSsrc));
    let mut any = Decoder::new(DecoderConfig::default()).unwrap();
    assert_eq!(run(&mut any, &media, &[other], &[2]), [media[2].clone()]);
}

#[test]
fn only_protected_ssrcs_are_kept() {
    let media = features(500);
    let all = fec(Format::FlexFec03, &media, &[0xfff]);
    let config = |protected| DecoderConfig {
        protected,
        fec_ssrc: Some(FEC_SSRC),
        ..DecoderConfig::default()
    };
    let mut decoder = Decoder::new(config(vec![1])).unwrap();
    let refused = Media::Rejected(MediaRejected::NotProtected);
    assert_eq!(decoder.media(MS, &media[0]), refused);
    assert_eq!(decoder.fec(MS, &all[0]), Err(FecRejected::NotProtected));
    assert_eq!(
        decoder.media(
            MS,
            &Rtp {
                ssrc: FEC_SSRC,
                ..Rtp::new(1, 1)
            }
            .bytes()
        ),
        refused
    );
    conserved(&decoder.stats());
    let mut decoder = Decoder::new(config(vec![1, SSRC])).unwrap();
    assert_eq!(run(&mut decoder, &media, &all, &[2]), [media[2].clone()]);
}

/// What FEC makes of packets that are not those it was made of is refused, if
/// it can be known.
#[test]
fn what_cannot_have_been_sent_is_not_handed_out() {
    let media: Vec<_> = (0..4).map(|i| Rtp::new(i, 100).bytes()).collect();
    let all = fec(Format::FlexFec03, &media, &[0b1111]);
    let spoil = |byte: usize, bits: u8| {
        let mut spoilt = all[0].clone();
        spoilt[byte] ^= bits;
        spoilt
    };
    let cut = all[0][..all[0].len() - 1].to_vec();
    let cases = [
        ("longer than the FEC packet", spoil(12 + 2, 1)),
        ("something behind its end", spoil(12 + 3, 100)),
        ("padding of too many bytes", spoil(12, 0x20)),
        ("CSRCs behind its end", {
            let mut spoilt = spoil(12 + 3, 100);
            spoilt[12] ^= 0x0f;
            spoilt.truncate(12 + 20);
            spoilt
        }),
        ("packets longer than the FEC packet", cut),
    ];
    for (what, spoilt) in cases {
        let mut decoder = decoder(Format::FlexFec03);
        assert!(
            run(&mut decoder, &media, &[spoilt], &[1]).is_empty(),
            "{what}"
        );
        let stats = decoder.stats();
        assert_eq!(
            (stats.fec_malformed.packets, stats.recovered.packets),
            (1, 0),
            "{what}"
        );
        conserved(&stats);
    }
}

#[test]
fn more_fec_than_can_wait_pushes_out_the_oldest() {
    let mut decoder = decoder(Format::FlexFec03);
    let all: Vec<_> = (0..200u16)
        .flat_map(|i| {
            let media: Vec<_> = (0..2).map(|j| Rtp::new(i * 2 + j, 30).bytes()).collect();
            let mut made = fec(Format::FlexFec03, &media, &[0b11]);
            made[0][2..4].copy_from_slice(&i.to_be_bytes());
            made
        })
        .collect();
    decoder.media(MS, &Rtp::new(399, 30).bytes());
    for packet in &all {
        decoder.fec(MS, packet).unwrap();
    }
    assert_eq!(drain(&mut decoder), [Rtp::new(398, 30).bytes()]);
    let stats = decoder.stats();
    assert_eq!(
        (stats.fec_pending.packets, stats.unrecoverable.packets),
        (127, 72)
    );
    assert_eq!(decoder.media(MS, &Rtp::new(0, 30).bytes()), Media::New);
    assert_eq!(drain(&mut decoder).len(), 0, "its FEC packet is gone");
    assert_eq!(decoder.media(MS, &Rtp::new(397, 30).bytes()), Media::New);
    assert_eq!(drain(&mut decoder), [Rtp::new(396, 30).bytes()]);
    conserved(&decoder.stats());
    decoder.clear();
    let stats = decoder.stats();
    assert_eq!((stats.fec_pending.packets, stats.held.packets), (0, 0));
    conserved(&stats);
}

#[test]
fn wrong_settings_are_refused() {
    let with = |packets, bytes, protected: u32| {
        Decoder::new(DecoderConfig {
            limits: Limits {
                packets,
                bytes,
                age: Duration::ZERO,
            },
            protected: (0..protected).collect(),
            ..DecoderConfig::default()
        })
        .map(|_| ())
    };
    assert_eq!(with(1, 1500, 16), Ok(()));
    for wrong in [
        with(0, 1500, 0),
        with(16385, 1500, 0),
        with(1, 1499, 0),
        with(1, 1500, 17),
    ] {
        assert!(wrong.is_err());
    }
}

#[test]
fn fec_for_packets_far_away_is_refused() {
    let media = features(1000);
    let mut decoder = decoder(Format::FlexFec03);
    run(&mut decoder, &media, &[], &[]);
    // The window is 512 packets to either side of the newest, 1011.
    for (base, taken) in [
        (500, Ok(())),
        (499, Err(FecRejected::OutOfWindow)),
        (1522, Ok(())),
        (1523, Err(FecRejected::OutOfWindow)),
        (40_000, Err(FecRejected::OutOfWindow)),
    ] {
        let far: Vec<_> = (0..2).map(|i| Rtp::new(base + i, 10).bytes()).collect();
        let mut all = fec(Format::FlexFec03, &far, &[0b11]);
        all[0][2..4].copy_from_slice(&base.to_be_bytes());
        assert_eq!(decoder.fec(MS, &all[0]), taken, "{base}");
    }
    // A column of 255 packets that are 255 apart.
    let mut column = fec(Format::FlexFec03, &media, &[1]).remove(0);
    column[12] |= 0x40;
    column[30..32].fill(255);
    assert_eq!(decoder.fec(MS, &column), Err(FecRejected::OutOfWindow));
    conserved(&decoder.stats());
}

/// Packets of any SSRC are kept if none are named, but not of all.
#[test]
fn many_ssrcs_do_not_push_out_those_that_are_protected() {
    let media = features(500);
    let all = fec(Format::FlexFec03, &media, &[0x03f, 0xfc0]);
    let mut decoder = decoder(Format::FlexFec03);
    assert_eq!(
        run(&mut decoder, &media[..6], &all[..1], &[3]),
        [media[3].clone()]
    );
    let before = decoder.footprint();
    for ssrc in 0..1000 {
        let other = Rtp {
            ssrc,
            ..Rtp::new(ssrc as u16, 10)
        };
        assert_eq!(decoder.media(MS, &other.bytes()), Media::New);
    }
    let streams = 15 * 1024 * 64;
    assert!(
        decoder.footprint() <= before + streams,
        "16 streams at most"
    );
    assert_eq!(decoder.media(MS, &media[0]), Media::Duplicate);
    // The others were evicted, but these are new.
    assert_eq!(
        run(&mut decoder, &media[6..], &all[1..], &[2]),
        [media[8].clone()]
    );
    assert_eq!(decoder.stats().missing, 0, "others are not counted");
}

/// The lost packet would fit, but another one is longer than the sum.
#[test]
fn a_sum_shorter_than_its_packets_is_refused() {
    let media: Vec<_> = [10, 100, 100]
        .iter()
        .zip(0..)
        .map(|(length, i)| Rtp::new(i, *length).bytes())
        .collect();
    let mut all = fec(Format::FlexFec03, &media, &[0b111]);
    let length = all[0].len() - 1;
    all[0].truncate(length);
    let mut decoder = decoder(Format::FlexFec03);
    assert!(run(&mut decoder, &media, &all, &[0]).is_empty());
    assert_eq!(decoder.stats().fec_malformed.packets, 1);
}

#[track_caller]
fn small(packets: usize) -> Decoder {
    Decoder::new(DecoderConfig {
        limits: Limits {
            packets,
            ..Limits::default()
        },
        ..DecoderConfig::default()
    })
    .unwrap()
}

#[test]
fn fec_is_given_up_when_a_packet_of_it_is_thrown_away() {
    let media: Vec<_> = (0..6).map(|i| Rtp::new(i, 100).bytes()).collect();
    let all = fec(Format::FlexFec03, &media[..4], &[0b1111]);
    let mut decoder = small(4);
    decoder.media(MS, &media[0]);
    decoder.media(MS, &media[1]);
    decoder.fec(MS, &all[0]).unwrap();
    decoder.media(MS, &media[4]);
    assert_eq!(decoder.stats().fec_pending.packets, 1);
    decoder.media(MS, &media[5]);
    assert_eq!(
        decoder.stats().unrecoverable.packets,
        1,
        "the first packet is gone"
    );
    decoder.media(MS, &media[2]);
    assert_eq!(decoder.next_recovered(), None);
    conserved(&decoder.stats());
}

/// 128 to either side are known here; the slot of one packet is that of the
/// one 256 later.
#[test]
fn fec_is_given_up_when_the_window_moves_past_its_packets() {
    let pair = |base: u16| -> Vec<_> { (0..2).map(|i| Rtp::new(base + i, 10).bytes()).collect() };
    let waiting = || {
        let mut decoder = small(128);
        decoder.media(MS, &Rtp::new(9, 10).bytes());
        decoder
            .fec(MS, &fec(Format::FlexFec03, &pair(10), &[0b11])[0])
            .unwrap();
        assert_eq!(decoder.stats().fec_pending.packets, 1);
        decoder
    };
    let mut decoder = waiting();
    assert_eq!(decoder.media(MS, &Rtp::new(266, 10).bytes()), Media::New);
    assert_eq!(decoder.stats().unrecoverable.packets, 1, "by a packet");

    let mut decoder = waiting();
    decoder.media(MS, &Rtp::new(138, 10).bytes());
    assert_eq!(decoder.stats().fec_pending.packets, 1);
    let mut ahead = fec(Format::FlexFec03, &pair(265), &[0b11]).remove(0);
    ahead[2] = 0;
    decoder.fec(MS, &ahead).unwrap();
    let stats = decoder.stats();
    assert_eq!(
        (stats.unrecoverable.packets, stats.fec_pending.packets),
        (1, 1),
        "by FEC"
    );
    conserved(&stats);
}
