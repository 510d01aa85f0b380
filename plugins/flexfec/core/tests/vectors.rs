// SPDX-License-Identifier: MPL-2.0
//! Whole packets, byte by byte, as the two texts lay them out; header fields
//! and masks that are marked so are those of the tests of libwebrtc
//! (flexfec_03_header_reader_writer_unittest.cc and
//! flexfec_header_reader_writer_unittest.cc), facts of the format in an
//! independent reading.

#[allow(dead_code)] // Each test uses its own part.
mod common;

use common::*;
use flexfec_core::block::Block;
use flexfec_core::encoder::{Encoder, EncoderConfig, Format, Parity};
use flexfec_core::rtp::Malformed;
use flexfec_core::wire::{self, Content, Coverage, FecError, Protected};

/// Two packets, which differ in marker, timestamp, length and payload.
#[rustfmt::skip]
fn pair() -> Vec<Vec<u8>> {
    vec![
        vec![
            0x80, 0x60, 0x00, 0x01, 0x00, 0x00, 0x00, 0x64, 0x11, 0x22, 0x33, 0x44,
            0xaa, 0xbb, 0xcc,
        ],
        vec![
            0x80, 0xe0, 0x00, 0x02, 0x00, 0x00, 0x00, 0x65, 0x11, 0x22, 0x33, 0x44,
            0x01, 0x02, 0x03, 0x04, 0x05,
        ],
    ]
}

#[test]
#[rustfmt::skip]
fn draft_03_protects_two_packets() {
    assert_eq!(
        fec(Format::FlexFec03, &pair(), &[0b11]),
        [[
            0x80, 0x6e, 0x12, 0x34, 0x00, 0x00, 0x0b, 0xb8, 0xde, 0xad, 0xbe, 0xef,
            // R, F, P, X, CC = 0; M = 0 ^ 1, PT = 96 ^ 96; length 3 ^ 5.
            0x00, 0x80, 0x00, 0x06,
            // 100 ^ 101.
            0x00, 0x00, 0x00, 0x01,
            // SSRCCount, reserved.
            0x01, 0x00, 0x00, 0x00,
            0x11, 0x22, 0x33, 0x44,
            // SN base, k = 1 (ends), packets 0 and 1.
            0x00, 0x01, 0xe0, 0x00,
            0xaa ^ 0x01, 0xbb ^ 0x02, 0xcc ^ 0x03, 0x04, 0x05,
        ]]
    );
}

#[test]
#[rustfmt::skip]
fn rfc_8627_names_the_ssrc_as_a_csrc() {
    assert_eq!(
        fec(Format::Rfc8627, &pair(), &[0b11]),
        [[
            0x81, 0x6e, 0x12, 0x34, 0x00, 0x00, 0x0b, 0xb8, 0xde, 0xad, 0xbe, 0xef,
            0x11, 0x22, 0x33, 0x44,
            0x00, 0x80, 0x00, 0x06,
            0x00, 0x00, 0x00, 0x01,
            // SN base, k = 0 (ends), packets 0 and 1.
            0x00, 0x01, 0x60, 0x00,
            0xaa ^ 0x01, 0xbb ^ 0x02, 0xcc ^ 0x03, 0x04, 0x05,
        ]]
    );
}

/// P, X and CC are recovered; CSRCs, extension and padding are part of what is
/// XORed.
#[test]
#[rustfmt::skip]
fn header_bits_and_what_follows_the_fixed_header_are_protected() {
    let rich = vec![
        0xb1, 0x61, 0x00, 0x09, 0x80, 0x00, 0x00, 0x01, 0x11, 0x22, 0x33, 0x44,
        0x55, 0x66, 0x77, 0x88, 0xbe, 0xde, 0x00, 0x01, 0x10, 0xff, 0x00, 0x00,
        0x42, 0x00, 0x00, 0x03,
    ];
    let made = fec(Format::FlexFec03, &[rich], &[1]);
    assert_eq!(
        made[0][12..],
        [
            0x31, 0x61, 0x00, 0x10, 0x80, 0x00, 0x00, 0x01,
            0x01, 0x00, 0x00, 0x00, 0x11, 0x22, 0x33, 0x44,
            0x00, 0x09, 0xc0, 0x00,
            0x55, 0x66, 0x77, 0x88, 0xbe, 0xde, 0x00, 0x01, 0x10, 0xff, 0x00, 0x00,
            0x42, 0x00, 0x00, 0x03,
        ]
    );
}

#[test]
#[rustfmt::skip]
fn several_ssrcs_follow_each_other() {
    let mut other = pair().remove(0);
    other[8..12].copy_from_slice(&[0x0a, 0x0b, 0x0c, 0x0d]);
    other[2..4].copy_from_slice(&[0xff, 0xff]);
    let [first, second] = <[_; 2]>::try_from(pair()).unwrap();
    let packets = [first, other, second];
    assert_eq!(
        fec(Format::FlexFec03, &packets, &[0b110])[0][12..],
        [
            0x00, 0x80, 0x00, 0x06, 0x00, 0x00, 0x00, 0x01,
            0x02, 0x00, 0x00, 0x00,
            0x11, 0x22, 0x33, 0x44, 0x00, 0x02, 0xc0, 0x00,
            0x0a, 0x0b, 0x0c, 0x0d, 0xff, 0xff, 0xc0, 0x00,
            0xab, 0xb9, 0xcf, 0x04, 0x05,
        ]
    );
    let made = fec(Format::Rfc8627, &packets, &[0b110]);
    assert_eq!(made[0][0], 0x82, "two CSRCs");
    assert_eq!(
        made[0][12..],
        [
            0x11, 0x22, 0x33, 0x44, 0x0a, 0x0b, 0x0c, 0x0d,
            0x00, 0x80, 0x00, 0x06, 0x00, 0x00, 0x00, 0x01,
            0x00, 0x02, 0x40, 0x00,
            0xff, 0xff, 0x40, 0x00,
            0xab, 0xb9, 0xcf, 0x04, 0x05,
        ]
    );
}

#[test]
#[rustfmt::skip]
fn a_transport_wide_number_has_its_place() {
    let mut encoder = Encoder::new(EncoderConfig {
        format: Format::FlexFec03,
        ssrc: FEC_SSRC,
        payload_type: 110,
        first_sequence: 0xffff,
        transport_cc_id: Some(3),
    })
    .unwrap();
    let block = block(Format::FlexFec03, &pair());
    let mut made = Vec::new();
    encoder.encode(&block, &[1, 2], 5, |packet| made.push(packet.to_vec())).unwrap();
    assert_eq!(
        made[0][..20],
        [
            0x90, 0x6e, 0xff, 0xff, 0x00, 0x00, 0x00, 0x05, 0xde, 0xad, 0xbe, 0xef,
            0xbe, 0xde, 0x00, 0x01, 0x31, 0x00, 0x00, 0x00,
        ]
    );
    assert_eq!(made[0][20..24], [0x00, 0x60, 0x00, 0x03]);
    assert_eq!(made[1][2..4], [0, 0], "numbers go on over the wrap");
    assert_eq!(encoder.sequence(), 1);
}

/// One packet at each of these distances, of three payload bytes.
fn at(offsets: &[u16]) -> Vec<Vec<u8>> {
    offsets
        .iter()
        .map(|offset| Rtp::new(0xfff0u16.wrapping_add(*offset), 3).bytes())
        .collect()
}

#[test]
#[rustfmt::skip]
fn masks_of_all_sizes() {
    let cases: [(Format, &[u16], &[u8]); 9] = [
        (Format::FlexFec03, &[0, 14], &[0xc0, 0x01]),
        (Format::FlexFec03, &[0, 15], &[0x40, 0x00, 0xc0, 0x00, 0x00, 0x00]),
        (Format::FlexFec03, &[0, 14, 45], &[0x40, 0x01, 0x80, 0x00, 0x00, 0x01]),
        (Format::FlexFec03, &[0, 46],
            &[0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0xc0, 0, 0, 0, 0, 0, 0, 0]),
        (Format::FlexFec03, &[0, 15, 108],
            &[0x40, 0x00, 0x40, 0x00, 0x00, 0x00, 0x80, 0, 0, 0, 0, 0, 0, 1]),
        (Format::Rfc8627, &[0, 14], &[0x40, 0x01]),
        (Format::Rfc8627, &[0, 14, 45], &[0xc0, 0x01, 0x00, 0x00, 0x00, 0x01]),
        (Format::Rfc8627, &[0, 46],
            &[0xc0, 0x00, 0x80, 0x00, 0x00, 0x00, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        (Format::Rfc8627, &[0, 15, 109],
            &[0xc0, 0x00, 0xc0, 0x00, 0x00, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 1]),
    ];
    for (format, offsets, mask) in cases {
        let packets = at(offsets);
        let row = (1 << offsets.len()) - 1;
        let made = &fec(format, &packets, &[row])[0];
        let start = if format == Format::FlexFec03 { 12 + 18 } else { 12 + 4 + 10 };
        assert_eq!(made[start - 2..start], [0xff, 0xf0], "SN base");
        assert_eq!(made[start..start + mask.len()], *mask, "{format:?} {offsets:?}");
        assert_eq!(made.len(), start + mask.len() + 3, "{format:?} {offsets:?}");

        let (_, content) = wire::parse(format, made).unwrap();
        let Content::Repair(repair) = content else { panic!("{content:?}") };
        let bits = offsets.iter().fold(0, |bits, offset| bits | 1 << offset);
        assert_eq!(
            repair.protected().collect::<Vec<_>>(),
            [Protected { ssrc: SSRC, base: 0xfff0, coverage: Coverage::Mask(bits) }]
        );
        assert_eq!(repair.payload.len(), 3);
    }
}

/// The bits of a mask as libwebrtc packs them, the first packet first.
fn packed(bytes: &[u8]) -> u128 {
    let mut mask = 0;
    for (i, byte) in bytes.iter().enumerate() {
        for bit in (0..8).filter(|bit| byte & (0x80 >> bit) != 0) {
            mask |= 1 << (8 * i + bit);
        }
    }
    mask
}

fn with_fec_payload(csrcs: &[u32], payload: &[u8]) -> Vec<u8> {
    let mut packet = Rtp::new(1, 0);
    packet.csrcs = csrcs.to_vec();
    packet.payload = payload.to_vec();
    packet.bytes()
}

/// Vectors of libwebrtc: mask on the wire, mask packed.
#[test]
#[rustfmt::skip]
fn draft_03_headers_of_libwebrtc_are_read() {
    let cases: [(&[u8], &[u8]); 3] = [
        (&[0x88, 0x81], &[0x11, 0x02]),
        (&[0x48, 0x81, 0x82, 0x11, 0x00, 0x21], &[0x91, 0x02, 0x08, 0x44, 0x00, 0x84]),
        (
            &[0x48, 0x81, 0x02, 0x11, 0x00, 0x21,
              0x81, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11],
            &[0x91, 0x02, 0x08, 0x44, 0x00, 0x84,
              0x08, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88],
        ),
    ];
    for (mask, bits) in cases {
        let mut payload = vec![
            0x00, 123, 0xab, 0xcd, 0x01, 0x23, 0x45, 0x67, 0x01, 0x00, 0x00, 0x00,
            0x11, 0x22, 0x33, 0x44, 0xaa, 0xbb,
        ];
        payload.extend(mask);
        payload.extend([0; 4]);
        let packet = with_fec_payload(&[], &payload);
        let (_, content) = wire::parse(Format::FlexFec03, &packet).unwrap();
        let Content::Repair(repair) = content else { panic!("{content:?}") };
        assert_eq!(
            repair.protected().collect::<Vec<_>>(),
            [Protected { ssrc: 0x1122_3344, base: 0xaabb, coverage: Coverage::Mask(packed(bits)) }]
        );
        assert_eq!(repair.recovery.length(), 0xabcd);
        assert_eq!(
            repair.recovery.header(0x1617, 0x18),
            [0x80, 123, 0x16, 0x17, 0x01, 0x23, 0x45, 0x67, 0, 0, 0, 0x18]
        );
        assert_eq!(repair.payload, [0; 4]);
    }
    // A mask that libwebrtc writes: bits 46 and 47 need the third part, of
    // which only 47 is set.
    let mut written = Vec::new();
    let bits = packed(&[0x22, 0x22, 0x44, 0x44, 0x44, 0x41]);
    wire::mask::write(Format::FlexFec03, bits, &mut written);
    assert_eq!(
        written,
        [0x11, 0x11, 0x11, 0x11, 0x11, 0x10, 0xa0, 0, 0, 0, 0, 0, 0, 0]
    );
}

/// As above, for RFC 8627, with two SSRCs.
#[test]
#[rustfmt::skip]
fn rfc_8627_headers_of_libwebrtc_are_read() {
    let masks: [(&[u8], &[u8]); 4] = [
        (&[0x08, 0x81], &[0x11, 0x02]),
        (&[0xc8, 0x81, 0x02, 0x11, 0x00, 0x21], &[0x91, 0x02, 0x08, 0x44, 0x00, 0x84]),
        (&[0xd7, 0x82, 0x04, 0x33, 0x00, 0x51], &[0xaf, 0x04, 0x10, 0xcc, 0x01, 0x44]),
        (
            &[0xc8, 0x81, 0x82, 0x11, 0x00, 0x21,
              0x01, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11],
            &[0x91, 0x02, 0x08, 0x44, 0x00, 0x84,
              0x04, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44],
        ),
    ];
    for (first, first_bits) in masks {
        for (second, second_bits) in masks {
            let mut payload = vec![0x00, 123, 0xab, 0xcd, 0x01, 0x23, 0x45, 0x67];
            payload.extend([0x01, 0x02]);
            payload.extend(first);
            payload.extend([0x03, 0x04]);
            payload.extend(second);
            payload.extend([9; 4]);
            let packet = with_fec_payload(&[1, 2], &payload);
            let (_, content) = wire::parse(Format::Rfc8627, &packet).unwrap();
            let Content::Repair(repair) = content else { panic!("{content:?}") };
            let stream = |ssrc, base, bits| Protected {
                ssrc, base, coverage: Coverage::Mask(packed(bits)),
            };
            assert_eq!(
                repair.protected().collect::<Vec<_>>(),
                [stream(1, 0x0102, first_bits), stream(2, 0x0304, second_bits)]
            );
            assert_eq!(repair.payload, [9; 4]);
        }
    }
}

/// Six packets in two rows of three.
#[test]
fn a_grid_names_columns_and_rows() {
    let packets: Vec<_> = (0..6)
        .map(|i| Rtp::new(0xfffeu16.wrapping_add(i), 2).bytes())
        .collect();
    let block = block(Format::Rfc8627, &packets);
    let grid = |parity| {
        let mut made = Vec::new();
        encoder(Format::Rfc8627)
            .encode_grid(&block, 3, 2, parity, 0, |packet| {
                made.push((packet[16] >> 6, packet[24..28].to_vec()));
            })
            .unwrap();
        made
    };
    // F, SN base, L, D.
    let rows = [(1, vec![0xff, 0xfe, 3, 0]), (1, vec![0x00, 0x01, 3, 0])];
    assert_eq!(grid(Parity::Rows), rows);
    let columns = [
        (1, vec![0xff, 0xfe, 3, 2]),
        (1, vec![0xff, 0xff, 3, 2]),
        (1, vec![0x00, 0x00, 3, 2]),
    ];
    assert_eq!(grid(Parity::Columns), columns);
    let both = grid(Parity::RowsAndColumns);
    assert_eq!(both[0], (1, vec![0xff, 0xfe, 3, 1]), "columns follow");
    assert_eq!(both[1], (1, vec![0x00, 0x01, 3, 1]));
    assert_eq!(both[2..], columns);
}

#[test]
#[rustfmt::skip]
fn a_retransmission_is_the_packet_behind_another_header() {
    let packet = pair().remove(1);
    let mut made = Vec::new();
    encoder(Format::Rfc8627)
        .retransmit(&packet, 0xbb8, |sent| made.extend_from_slice(sent))
        .unwrap();
    assert_eq!(
        made,
        [
            0x81, 0x6e, 0x12, 0x34, 0x00, 0x00, 0x0b, 0xb8, 0xde, 0xad, 0xbe, 0xef,
            0x11, 0x22, 0x33, 0x44,
            // R = 1, F = 0, then as it was.
            0x80, 0xe0, 0x00, 0x02, 0x00, 0x00, 0x00, 0x65, 0x11, 0x22, 0x33, 0x44,
            0x01, 0x02, 0x03, 0x04, 0x05,
        ]
    );
}

/// Browsers drop these; the draft has them.
#[test]
#[rustfmt::skip]
fn draft_03_has_grids_and_retransmissions_too() {
    let grid = |l, d| {
        let packet = with_fec_payload(&[], &[
            0x40, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
            0x11, 0x22, 0x33, 0x44, 0xff, 0xfe, l, d, 9,
        ]);
        let Ok((_, Content::Repair(repair))) = wire::parse(Format::FlexFec03, &packet) else {
            panic!("{l} {d}")
        };
        assert_eq!(repair.payload, [9]);
        let all: Vec<_> = repair.protected().collect();
        let [Protected { ssrc: 0x1122_3344, base: 0xfffe, coverage }] = all[..] else {
            panic!("{all:?}")
        };
        coverage.offsets().collect::<Vec<_>>()
    };
    assert_eq!(grid(4, 0), [0, 1, 2, 3]);
    assert_eq!(grid(4, 1), [0, 1, 2, 3]);
    assert_eq!(grid(4, 3), [0, 4, 8]);
    assert_eq!(grid(255, 255).last(), Some(&(255 * 254)));

    let packet = pair().remove(0);
    let resent = with_fec_payload(&[], &packet);
    let Ok((_, Content::Retransmission(again))) = wire::parse(Format::FlexFec03, &resent) else {
        panic!("R = 1")
    };
    assert_eq!(again, packet);
}

#[test]
fn headers_cut_at_any_byte_are_refused() {
    for format in FORMATS {
        let offsets: Vec<u16> = vec![0, 60, 100];
        let made = &fec(format, &at(&offsets), &[0b111])[0];
        let payload = made.len() - 3;
        assert!(wire::parse(format, &made[..payload]).is_ok(), "no payload");
        for length in 0..payload {
            let error = wire::parse(format, &made[..length]).map(|(header, _)| header);
            let expected = [
                Err(FecError::Truncated),
                Err(FecError::Rtp(Malformed::Truncated)),
            ];
            assert!(expected.contains(&error), "{format:?} {length}: {error:?}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn what_is_no_fec_packet_is_refused() {
    let recovery = [0x00, 0, 0, 0, 0, 0, 0, 0];
    let cases: [(Format, &[u32], &[u8], FecError); 7] = [
        (Format::FlexFec03, &[], &[0, 0, 0, 0], FecError::Empty),
        (Format::FlexFec03, &[], &[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x80, 0], FecError::Empty),
        (Format::FlexFec03, &[], &[16, 0, 0, 0], FecError::TooManyStreams),
        (Format::FlexFec03, &[],
            &[2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xc0, 0, 0, 0, 0, 1, 0, 9, 0xc0, 0],
            FecError::RepeatedStream),
        (Format::FlexFec03, &[],
            &[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            FecError::EndlessMask),
        (Format::Rfc8627, &[], &[0, 0, 0x40, 0], FecError::Empty),
        (Format::Rfc8627, &[7], &[0, 0, 0, 0], FecError::Empty),
    ];
    for (format, csrcs, rest, error) in cases {
        let packet = with_fec_payload(csrcs, &[&recovery[..], rest].concat());
        assert_eq!(wire::parse(format, &packet).map(|_| ()), Err(error), "{rest:?}");
    }
    for format in FORMATS {
        let reserved = with_fec_payload(&[7], &[0xc0; 40]);
        assert_eq!(wire::parse(format, &reserved).map(|_| ()), Err(FecError::Reserved));
        let empty = with_fec_payload(&[7], &[]);
        assert_eq!(wire::parse(format, &empty).map(|_| ()), Err(FecError::Truncated));
    }
    let grid = with_fec_payload(&[7], &[0x40, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4]);
    assert_eq!(wire::parse(Format::Rfc8627, &grid).map(|_| ()), Err(FecError::Grid));
}

#[test]
fn an_empty_block_has_nothing_to_protect() {
    let mut encoder = encoder(Format::FlexFec03);
    let block = Block::new(Default::default());
    assert_eq!(
        encoder.encode(&block, &[0, 0], 0, |_| panic!("none")),
        Ok(0)
    );
}
