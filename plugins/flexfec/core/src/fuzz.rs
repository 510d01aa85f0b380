// SPDX-License-Identifier: MPL-2.0
//! Bodies of the fuzz targets in `fuzz/`, and their corpus.

use std::collections::HashSet;
use std::time::Duration;

use dualstream_common::Timestamp;

use crate::block::{Block, BlockLimits};
use crate::decoder::{Decoder, DecoderConfig, Limits, Media};
use crate::encoder::{Encoder, EncoderConfig, Format};
use crate::rtp::{FIXED_HEADER, Header, MutableExtensions};
use crate::wire::{self, Content, Coverage, FecError, MAX_STREAMS, mask};

/// Inputs near the edges of the formats, run by a plain test through every
/// body.
pub const CORPUS: &[&[u8]] = &[
    b"",
    b"\x80",
    // One-byte extension, cut short.
    b"\x90\x60\x00\x01\x00\x00\x00\x01\x11\x22\x33\x44\xbe\xde\x00\x01\x3f\x01\x02\x03",
    // Two-byte extension with an element of 255 bytes.
    b"\x90\x60\x00\x01\x00\x00\x00\x01\x11\x22\x33\x44\x10\x00\x00\x01\x03\xff\x02\x03",
    // More padding than there is.
    b"\xa0\x60\x00\x01\x00\x00\x00\x01\x11\x22\x33\x44\x05",
    // 15 CSRCs that are not there.
    b"\x8f\x60\x00\x01\x00\x00\x00\x01\x11\x22\x33\x44\x00\x00\x00\x01",
    // draft-03 over two packets.
    b"\x80\x6e\x12\x34\x00\x00\x0b\xb8\xde\xad\xbe\xef\x00\x80\x00\x06\x00\x00\x00\x01\
      \x01\x00\x00\x00\x11\x22\x33\x44\x00\x01\xe0\x00\xab\xb9\xcf\x04\x05",
    // The same, RFC 8627.
    b"\x81\x6e\x12\x34\x00\x00\x0b\xb8\xde\xad\xbe\xef\x11\x22\x33\x44\x00\x80\x00\x06\
      \x00\x00\x00\x01\x00\x01\x60\x00\xab\xb9\xcf\x04\x05",
    // No k-bit ends the mask.
    b"\x80\x6e\x12\x34\x00\x00\x0b\xb8\xde\xad\xbe\xef\x00\x80\x00\x06\x00\x00\x00\x01\
      \x01\x00\x00\x00\x11\x22\x33\x44\x00\x01\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\
      \x00\x00\x00\x00\x05",
    // A column of 255 packets that are 255 apart.
    b"\x81\x6e\x12\x34\x00\x00\x0b\xb8\xde\xad\xbe\xef\x11\x22\x33\x44\x40\x80\x00\x06\
      \x00\x00\x00\x01\xff\x01\xff\xff\xab\xb9",
    // A retransmission of nothing whole.
    b"\x81\x6e\x12\x34\x00\x00\x0b\xb8\xde\xad\xbe\xef\x11\x22\x33\x44\x9f\x60\x00\x01",
    // A few steps of the bodies that run encoder and decoder.
    b"\x01\x40\x40\x10\x00\x01\x20\x00\x02\x30\x01\x03\x07\x04\xff\x05\x06\x07\x00\x09\x10",
];

/// Takes numbers off the input; zeros when it is used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn row(&mut self) -> u128 {
        (0..16).fold(0, |row, _| row << 8 | u128::from(self.byte()))
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn format(&mut self) -> Format {
        match self.byte() % 2 {
            0 => Format::FlexFec03,
            _ => Format::Rfc8627,
        }
    }
}

/// Any bytes are an RTP packet or refused; zeroing stays within the extension
/// and is the same in place and in a copy.
pub fn fuzz_rtp(data: &[u8]) {
    let Ok(header) = Header::parse(data) else {
        return;
    };
    assert!(header.payload <= data.len() && header.padding <= data.len() - header.payload);
    assert_eq!(header.csrc_bytes(data).len(), usize::from(header.csrcs) * 4);
    let whole = header.payload + header.payload_of(data).len() + header.padding;
    assert_eq!(whole, data.len());

    let mut mutable = MutableExtensions::default();
    mutable.insert(3);
    mutable.insert(15);
    mutable.insert(200);
    mutable.insert_uri(
        "http://www.webrtc.org/experiments/rtp-hdrext/video-timing",
        5,
    );
    let mut zeroed = data.to_vec();
    mutable.zero(&header, &mut zeroed);
    let mut copy = data[FIXED_HEADER..].to_vec();
    mutable.zero_copy(&header, data, &mut copy);
    assert_eq!(zeroed[FIXED_HEADER..], copy);
    assert_eq!(zeroed[..FIXED_HEADER], data[..FIXED_HEADER]);
    assert_eq!(zeroed[header.payload..], data[header.payload..]);
    assert_eq!(
        Header::parse(&zeroed),
        Ok(header),
        "headers of elements stay"
    );
    mutable.zero(&header, &mut zeroed);
    assert_eq!(
        zeroed[FIXED_HEADER..],
        copy,
        "zeroing again changes nothing"
    );
}

/// Any bytes are a FEC packet or refused; what is read is within bounds, and
/// masks are written back as they would be read again.
pub fn fuzz_wire(data: &[u8]) {
    for format in [Format::FlexFec03, Format::Rfc8627] {
        match wire::parse(format, data) {
            Ok((_, Content::Repair(repair))) => {
                let mut ssrcs = HashSet::new();
                for p in repair.protected() {
                    assert!(ssrcs.insert(p.ssrc), "each SSRC once");
                    assert!(!p.coverage.is_empty());
                    assert_eq!(p.coverage.offsets().last(), Some(p.coverage.last()));
                    if let Coverage::Mask(bits) = p.coverage {
                        assert!(usize::from(p.coverage.last()) < format.span());
                        let mut written = Vec::new();
                        mask::write(format, bits, &mut written);
                        let mut rest = &written[..];
                        assert_eq!(mask::read(format, &mut rest), Ok(bits));
                        assert!(rest.is_empty());
                    }
                }
                assert!((1..=MAX_STREAMS).contains(&ssrcs.len()));
                assert!(repair.payload.len() + 20 < data.len());
            }
            Ok((_, Content::Retransmission(packet))) => {
                assert_eq!(packet[0] >> 6, 2, "R and F are the version");
            }
            Err(FecError::EndlessMask) => assert_eq!(format, Format::FlexFec03),
            Err(_) => (),
        }
    }
}

fn media(ssrc: u32, sequence: u16, shape: u8) -> Vec<u8> {
    let mut packet = vec![0x80, shape];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * u32::from(shape)).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    let payload = usize::from(sequence.wrapping_mul(u16::from(shape)) % 300);
    packet.extend((0..payload).map(|i| (i as u8).wrapping_mul(shape | 1)));
    packet
}

fn encoder(format: Format) -> Encoder {
    Encoder::new(EncoderConfig {
        format,
        ssrc: 99,
        ..EncoderConfig::default()
    })
    .expect("the settings are valid")
}

fn conserves(decoder: &Decoder) {
    let stats = decoder.stats();
    let ends = [
        stats.fec_used,
        stats.useless,
        stats.unrecoverable,
        stats.fec_malformed,
        stats.fec_ignored,
        stats.fec_pending,
    ];
    let packets: u64 = ends.iter().map(|a| a.packets).sum();
    assert_eq!(packets, stats.fec.packets, "each FEC packet ends once");
    let limits = decoder.config().limits;
    assert!(stats.held.packets <= limits.packets as u64);
    assert!(stats.held.bytes <= limits.bytes as u64);
}

/// With little memory.
fn small_decoder(input: &mut Input<'_>, format: Format) -> Decoder {
    let config = DecoderConfig {
        format,
        fec_ssrc: input.byte().is_multiple_of(2).then_some(99),
        protected: (0..u32::from(input.byte() % 3)).collect(),
        limits: Limits {
            packets: usize::from(input.byte()) + 1,
            bytes: 1500 + usize::from(input.byte()) * 64,
            age: Duration::from_millis(input.byte().into()),
        },
        ..DecoderConfig::default()
    };
    Decoder::new(config).expect("the settings are valid")
}

/// A decoder with little memory takes packets, FEC packets, either spoilt, and
/// any bytes, at any times: what it hands out are RTP packets of the numbers
/// it says, and memory stays as it was.
pub fn fuzz_decoder(data: &[u8]) {
    let mut input = Input(data);
    let format = input.format();
    let mut decoder = small_decoder(&mut input, format);
    let mut encoder = encoder(format);
    let mut block = Block::for_format(format, BlockLimits::default());
    let mut now = Timestamp::ZERO;
    while !input.0.is_empty() {
        let op = input.byte();
        match op % 8 {
            0..=2 => {
                let (ssrc, sequence) = (u32::from(input.byte() % 4), input.number());
                let packet = media(ssrc, sequence, op);
                // Full, or too far from the others.
                if block.push(&packet, &MutableExtensions::default()).is_err() {
                    block.clear();
                }
                if op & 0x80 == 0 {
                    decoder.media(now, &packet);
                }
            }
            3 | 4 => {
                let known = 1u128.checked_shl(block.len() as u32).map_or(!0, |b| b - 1);
                let (rows, at, bits) = ([input.row() & known], input.byte(), input.byte());
                let made = encoder.encode(&block, &rows, 0, |fec| {
                    let mut fec = fec.to_vec();
                    if op & 0x80 != 0 {
                        let at = usize::from(at) % fec.len();
                        fec[at] ^= bits;
                    }
                    let _ = decoder.fec(now, &fec);
                });
                assert!(made.is_ok());
            }
            5 => {
                let packet = input.bytes(usize::from(op));
                decoder.media(now, packet);
            }
            6 => {
                let packet = input.bytes(usize::from(op));
                let _ = decoder.fec(now, packet);
            }
            _ => now = Timestamp::from_millis(input.number().into()),
        }
        while let Some(recovered) = decoder.next_recovered() {
            let header = Header::parse(recovered.packet).expect("an RTP packet");
            assert_eq!(header.ssrc, recovered.ssrc);
            assert_eq!(header.sequence, recovered.sequence);
            assert_eq!(header.timestamp, recovered.timestamp);
        }
        conserves(&decoder);
    }
    decoder.clear();
    conserves(&decoder);
    assert_eq!(decoder.stats().fec_pending.packets, 0);
}

/// What peeling can make of a block, in the plainest way.
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

/// A block whose packets reach as far as a mask, of one SSRC or several.
fn full_block(input: &mut Input<'_>, format: Format) -> (Block, Vec<Vec<u8>>) {
    let (base, shape, streams) = (input.number(), input.byte(), input.byte() % 4 + 1);
    let count = usize::from(input.byte()) % format.span() + 1;
    let mut block = Block::for_format(
        format,
        BlockLimits {
            packets: count,
            ..BlockLimits::default()
        },
    );
    let packets: Vec<_> = (0..count as u16)
        .map(|i| {
            let ssrc = u32::from(i) % u32::from(streams);
            media(ssrc, base.wrapping_add(i), shape.wrapping_add(i as u8))
        })
        .collect();
    for packet in &packets {
        let pushed = block.push(packet, &MutableExtensions::default());
        assert_eq!(pushed, Ok(()), "within one mask");
    }
    (block, packets)
}

/// FEC packets of any rows, some of them dropped, with their rows.
fn any_fec(input: &mut Input<'_>, format: Format, block: &Block) -> Vec<(u128, Vec<u8>)> {
    let known = 1u128.checked_shl(block.len() as u32).map_or(!0, |b| b - 1);
    let mut encoder = encoder(format);
    let mut all = Vec::new();
    for _ in 0..input.byte() % 20 {
        let (row, drop) = (input.row() & known, input.byte().is_multiple_of(4));
        let made = encoder.encode(block, &[row], 0, |fec| {
            if !drop {
                all.push((row, fec.to_vec()));
            }
        });
        assert_eq!(made, Ok(usize::from(row != 0)));
    }
    all
}

/// A block, any rows, any losses, in any order and twice: exactly what peeling
/// can make comes out, as it was sent, once.
pub fn fuzz_round_trip(data: &[u8]) {
    let mut input = Input(data);
    let format = input.format();
    let (block, packets) = full_block(&mut input, format);
    let fec = any_fec(&mut input, format, &block);
    let lost = input.row();
    let mut arriving: Vec<_> = (0..packets.len())
        .filter(|i| lost >> i & 1 == 0)
        .map(|i| (Some(i), &packets[i]))
        .chain(fec.iter().map(|(_, fec)| (None, fec)))
        .collect();
    for i in 0..arriving.len() {
        let other = usize::from(input.byte()) % arriving.len();
        arriving.swap(i, other);
    }
    let mut decoder = Decoder::new(DecoderConfig {
        format,
        ..DecoderConfig::default()
    })
    .expect("the settings are valid");
    let mut made = 0u128;
    for (index, packet) in &arriving {
        match index {
            Some(index) => {
                let before = made >> index & 1 == 1;
                let expected = [Media::New, Media::AlreadyRecovered][usize::from(before)];
                assert_eq!(decoder.media(Timestamp::ZERO, packet), expected);
                assert_eq!(decoder.media(Timestamp::ZERO, packet), Media::Duplicate);
            }
            None => assert_eq!(decoder.fec(Timestamp::ZERO, packet), Ok(())),
        }
        while let Some(recovered) = decoder.next_recovered() {
            let same = |p: &Vec<u8>| p == recovered.packet;
            let index = packets.iter().position(same).expect("as it was sent");
            assert_eq!(made >> index & 1, 0, "once");
            made |= 1 << index;
        }
    }
    let rows: Vec<_> = fec.iter().map(|(row, _)| *row).collect();
    let lost = lost & ((1 << packets.len()) - 1);
    assert_eq!(made & lost, peel(&rows, lost), "all that can be made");
    conserves(&decoder);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(data: &[u8]) {
        fuzz_rtp(data);
        fuzz_wire(data);
        fuzz_decoder(data);
        fuzz_round_trip(data);
    }

    #[test]
    fn the_corpus_survives_the_fuzz_bodies() {
        for input in CORPUS {
            all(input);
            for length in 0..input.len() {
                all(&input[..length]);
            }
        }
    }

    proptest! {
        #[test]
        fn random_inputs_survive_the_fuzz_bodies(
            input in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            all(&input);
        }

        /// Bytes that begin as the headers of the corpus do.
        #[test]
        fn spoilt_inputs_survive_the_fuzz_bodies(
            which in 0..CORPUS.len(),
            spoil in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..8),
            more in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut input = [CORPUS[which], &more].concat();
            for (at, byte) in spoil {
                let length = input.len().max(1);
                if let Some(place) = input.get_mut(at % length) {
                    *place ^= byte;
                }
            }
            all(&input);
        }
    }
}
