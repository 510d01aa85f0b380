// SPDX-License-Identifier: MPL-2.0
//! RTP packets for the tests.

use dualstream_common::Timestamp;
use flexfec_core::block::{Block, BlockLimits};
use flexfec_core::decoder::{Decoder, DecoderConfig, Media, Stats};
use flexfec_core::encoder::{Encoder, EncoderConfig, Format};
use flexfec_core::rtp::MutableExtensions;

pub const FORMATS: [Format; 2] = [Format::FlexFec03, Format::Rfc8627];
pub const SSRC: u32 = 0x1122_3344;
pub const FEC_SSRC: u32 = 0xdead_beef;
pub const MS: Timestamp = Timestamp::from_millis(1);

/// What a packet is made of.
#[derive(Clone, Debug)]
pub struct Rtp {
    pub ssrc: u32,
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    pub payload_type: u8,
    pub csrcs: Vec<u32>,
    /// Profile and content, whose length is a multiple of four.
    pub extension: Option<(u16, Vec<u8>)>,
    pub payload: Vec<u8>,
    pub padding: u8,
}

impl Rtp {
    pub fn new(sequence: u16, payload: usize) -> Self {
        Self {
            ssrc: SSRC,
            sequence,
            timestamp: 3000 * u32::from(sequence) + 7,
            marker: sequence % 4 == 3,
            payload_type: 96,
            csrcs: Vec::new(),
            extension: None,
            payload: (0..payload)
                .map(|i| (i as u8).wrapping_mul(31) ^ sequence as u8)
                .collect(),
            padding: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![
            0x80 | u8::from(self.padding > 0) << 5
                | u8::from(self.extension.is_some()) << 4
                | self.csrcs.len() as u8,
            u8::from(self.marker) << 7 | self.payload_type,
        ];
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.timestamp.to_be_bytes());
        out.extend(self.ssrc.to_be_bytes());
        for csrc in &self.csrcs {
            out.extend(csrc.to_be_bytes());
        }
        if let Some((profile, content)) = &self.extension {
            assert_eq!(content.len() % 4, 0, "the test's own extension");
            out.extend(profile.to_be_bytes());
            out.extend((content.len() as u16 / 4).to_be_bytes());
            out.extend(content);
        }
        out.extend(&self.payload);
        if self.padding > 0 {
            out.extend(std::iter::repeat_n(0, usize::from(self.padding) - 1));
            out.push(self.padding);
        }
        out
    }
}

#[track_caller]
pub fn encoder(format: Format) -> Encoder {
    Encoder::new(EncoderConfig {
        format,
        ssrc: FEC_SSRC,
        payload_type: 110,
        first_sequence: 0x1234,
        transport_cc_id: None,
    })
    .unwrap()
}

#[track_caller]
pub fn decoder(format: Format) -> Decoder {
    Decoder::new(DecoderConfig {
        format,
        fec_ssrc: Some(FEC_SSRC),
        ..DecoderConfig::default()
    })
    .unwrap()
}

#[track_caller]
pub fn block(format: Format, packets: &[Vec<u8>]) -> Block {
    let mut block = Block::for_format(
        format,
        BlockLimits {
            packets: 128,
            bytes: 1 << 20,
        },
    );
    for packet in packets {
        block.push(packet, &MutableExtensions::default()).unwrap();
    }
    block
}

#[track_caller]
pub fn fec(format: Format, packets: &[Vec<u8>], rows: &[u128]) -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    let count = encoder(format).encode(&block(format, packets), rows, 0xbb8, |packet| {
        made.push(packet.to_vec());
    });
    assert_eq!(count, Ok(made.len()));
    made
}

/// All that the decoder can make now.
pub fn drain(decoder: &mut Decoder) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(recovered) = decoder.next_recovered() {
        all.push(recovered.packet.to_vec());
    }
    all
}

/// One packet with each thing that a header may have.
pub fn features(base: u16) -> Vec<Vec<u8>> {
    let at = |i: u16, payload| Rtp::new(base.wrapping_add(i), payload);
    let one_byte = (0xbede, vec![0x10, 0xaa, 0x21, 1, 2, 0, 0, 0]);
    let two_byte = (0x1000, vec![1, 0, 200, 5, 1, 2, 3, 4, 5, 0, 0, 0]);
    vec![
        at(0, 100).bytes(),
        at(1, 0).bytes(),
        Rtp {
            marker: true,
            payload_type: 127,
            timestamp: u32::MAX,
            ..at(2, 1)
        }
        .bytes(),
        Rtp {
            csrcs: vec![1],
            ..at(3, 63)
        }
        .bytes(),
        Rtp {
            csrcs: (0..15).collect(),
            ..at(4, 64)
        }
        .bytes(),
        Rtp {
            extension: Some(one_byte),
            ..at(5, 65)
        }
        .bytes(),
        Rtp {
            extension: Some(two_byte.clone()),
            ..at(6, 1200)
        }
        .bytes(),
        Rtp {
            extension: Some((0x1234, vec![])),
            ..at(7, 1187)
        }
        .bytes(),
        Rtp {
            padding: 1,
            ..at(8, 7)
        }
        .bytes(),
        Rtp {
            padding: 255,
            ..at(9, 0)
        }
        .bytes(),
        Rtp {
            csrcs: vec![7, 8],
            extension: Some(two_byte),
            padding: 9,
            ..at(10, 300)
        }
        .bytes(),
        at(11, 65_535).bytes(),
    ]
}

/// Feeds all but the lost packets, then FEC; what is made.
pub fn run(
    decoder: &mut Decoder,
    media: &[Vec<u8>],
    fec: &[Vec<u8>],
    lost: &[usize],
) -> Vec<Vec<u8>> {
    for (_, packet) in media.iter().enumerate().filter(|(i, _)| !lost.contains(i)) {
        assert_eq!(decoder.media(MS, packet), Media::New);
        assert_eq!(decoder.next_recovered(), None);
    }
    let mut made = Vec::new();
    for packet in fec {
        decoder.fec(MS, packet).unwrap();
        made.extend(drain(decoder));
    }
    made
}

/// Every packet of a FEC packet is somewhere.
#[track_caller]
pub fn conserved(stats: &Stats) {
    let ends = [
        stats.fec_used,
        stats.useless,
        stats.unrecoverable,
        stats.fec_malformed,
        stats.fec_ignored,
        stats.fec_pending,
    ];
    assert_eq!(
        ends.iter().map(|a| a.packets).sum::<u64>(),
        stats.fec.packets,
        "{stats:?}"
    );
    assert_eq!(
        ends.iter().map(|a| a.bytes).sum::<u64>(),
        stats.fec.bytes,
        "{stats:?}"
    );
}
