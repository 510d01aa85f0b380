// SPDX-License-Identifier: MPL-2.0
//! What blocks and encoders refuse.

#[allow(dead_code)] // Each test uses its own part.
mod common;

use common::*;
use flexfec_core::block::{Block, BlockLimits, Rejected};
use flexfec_core::encoder::{EncodeError, Format, Parity};
use flexfec_core::rtp::MutableExtensions;

#[test]
fn a_grid_is_made_of_a_whole_block_only() {
    let media: Vec<_> = (0..6).map(|i| Rtp::new(i, 5).bytes()).collect();
    let mut encoder = encoder(Format::Rfc8627);
    let whole = block(Format::Rfc8627, &media);
    let mut grid =
        |block: &Block, l, d, parity| encoder.encode_grid(block, l, d, parity, 0, |_| ());
    assert_eq!(grid(&whole, 3, 2, Parity::Columns), Ok(3));
    assert_eq!(grid(&whole, 6, 1, Parity::Rows), Ok(1));
    for (l, d, parity) in [
        (6, 1, Parity::Columns),
        (2, 2, Parity::Rows),
        (0, 6, Parity::Rows),
        (6, 0, Parity::Rows),
        (255, 255, Parity::RowsAndColumns),
    ] {
        assert_eq!(
            grid(&whole, l, d, parity),
            Err(EncodeError::Grid),
            "{l} {d}"
        );
    }
    let mut gap = media.clone();
    gap.remove(1);
    let gap = block(Format::Rfc8627, &gap);
    assert_eq!(grid(&gap, 5, 1, Parity::Rows), Err(EncodeError::Grid));
    let mut browsers = self::encoder(Format::FlexFec03);
    let none = browsers.encode_grid(&whole, 3, 2, Parity::Rows, 0, |_| ());
    assert_eq!(none, Err(EncodeError::Format));
    let none = browsers.retransmit(&media[0], 0, |_| ());
    assert_eq!(none, Err(EncodeError::Format));
}

#[test]
fn a_block_says_why_it_takes_no_more() {
    let none = MutableExtensions::default();
    let limits = BlockLimits {
        packets: 3,
        bytes: 300,
    };
    let mut block = Block::new(limits);
    let packet = |sequence, payload| Rtp::new(sequence, payload).bytes();
    assert_eq!(block.push(&packet(10, 0), &none), Ok(()));
    assert_eq!(block.push(&packet(10, 0), &none), Err(Rejected::Duplicate));
    assert_eq!(block.push(&packet(9, 300), &none), Err(Rejected::TooLarge));
    assert_eq!(
        block.push(&packet(9, 280), &none),
        Err(Rejected::Full),
        "bytes"
    );
    assert_eq!(block.push(&packet(119, 0), &none), Err(Rejected::OutOfSpan));
    assert_eq!(block.push(&packet(118, 0), &none), Ok(()));
    assert_eq!(block.push(&packet(9, 0), &none), Err(Rejected::OutOfSpan));
    assert_eq!(block.push(&packet(50, 0), &none), Ok(()));
    assert_eq!(block.push(&packet(51, 0), &none), Err(Rejected::Full));
    assert_eq!((block.len(), block.bytes()), (3, 36));
    assert!(matches!(
        block.push(&[0x80; 11], &none),
        Err(Rejected::Malformed(_))
    ));
    block.clear();
    assert!(block.is_empty());
    assert_eq!(block.push(&packet(9, 280), &none), Ok(()));

    let mut block = Block::new(BlockLimits::default());
    for ssrc in 0..15 {
        assert_eq!(
            block.push(
                &Rtp {
                    ssrc,
                    ..Rtp::new(1, 0)
                }
                .bytes(),
                &none
            ),
            Ok(())
        );
    }
    let one_more = Rtp {
        ssrc: 15,
        ..Rtp::new(1, 0)
    }
    .bytes();
    let refused = block.push(&one_more, &none).unwrap_err();
    assert_eq!(refused, Rejected::TooManyStreams);
    assert!(refused.fits_next());
    assert!(!Rejected::Duplicate.fits_next());
}

#[test]
fn rows_must_be_of_the_block() {
    let media: Vec<_> = (0..4).map(|i| Rtp::new(i, 5).bytes()).collect();
    let block = block(Format::FlexFec03, &media);
    let made = encoder(Format::FlexFec03).encode(&block, &[1, 0b1_0000], 0, |_| panic!("none"));
    assert_eq!(made, Err(EncodeError::Row));
    let far: Vec<_> = [0u16, 109].map(|i| Rtp::new(i, 5).bytes()).into();
    let block = self::block(Format::Rfc8627, &far);
    let made = encoder(Format::FlexFec03).encode(&block, &[0b11], 0, |_| panic!("none"));
    assert_eq!(made, Err(EncodeError::Span));
    assert_eq!(
        encoder(Format::FlexFec03).encode(&block, &[0b01, 0b10], 0, |_| ()),
        Ok(2)
    );
}
