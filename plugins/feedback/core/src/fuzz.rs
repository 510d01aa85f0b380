// SPDX-License-Identifier: MPL-2.0
//! Bodies of the fuzz targets in `fuzz/`, and their corpus.

use crate::{Fci, FciError, FrameComplete, MAX_ENTRIES};

/// Inputs near the edges of the format, run by a plain test.
pub const CORPUS: &[&[u8]] = &[
    b"",
    b"IFR",
    b"IFRC",
    b"IFRC\x07\xc0\x12\x34",
    b"IFRC\x07\xff\x12\x34\x00",
    b"REMB\x01\x02\x03\x04",
    b"\x8f\xce\x00\x04\x11\x22\x33\x44\xaa\xbb\xcc\xddIFRC\x03\xc0\x01\x02",
    b"\xaf\xce\x00\x04\x11\x22\x33\x44\xaa\xbb\xcc\xddIFRC\x00\x00\x00\x04",
    b"\xaf\xce\x00\x03\x11\x22\x33\x44\xaa\xbb\xcc\xddIFR\xff",
    b"\x8f\xce\x00\x02\x11\x22\x33\x44\xaa\xbb\xcc\xdd",
    b"\x8f\xce\xff\xff\x11\x22\x33\x44\xaa\xbb\xcc\xddIFRC",
    b"\x00\xce\x00\x00",
];

/// Any bytes parse or are refused; what parses is within bounds and is
/// written back the same but for reserved bits and ignored entries.
pub fn fuzz_fci(data: &[u8]) {
    match Fci::parse(data) {
        Ok(fci) => {
            assert!(fci.entries().len() <= MAX_ENTRIES);
            assert_eq!(fci.len() + 4 * fci.ignored(), data.len());
            let again = fci.to_vec();
            assert_eq!(again.len(), fci.len());
            for (at, (new, old)) in again.iter().zip(data).enumerate() {
                let reserved = if at >= 4 && at % 4 == 1 { 0x3f } else { 0 };
                assert_eq!(*new, old & !reserved, "byte {at}");
            }
        }
        Err(FciError::Length) => {
            assert!(data.starts_with(b"IFRC") && !data.len().is_multiple_of(4))
        }
        Err(FciError::NotOurs) => assert!(!data.starts_with(b"IFRC")),
    }
}

/// Any bytes parse or are refused; what parses is read back from what is
/// written of it.
pub fn fuzz_packet(data: &[u8]) {
    if let Ok(message) = FrameComplete::parse(data) {
        let again = FrameComplete::parse(&message.to_packet());
        let expected = FrameComplete {
            fci: Fci::new(message.fci.entries().iter().copied()),
            ..message
        };
        assert_eq!(again, Ok(expected));
        assert!(message.to_packet().len() <= data.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_corpus_survives_with_each_byte_changed_and_each_cut() {
        for input in CORPUS {
            for length in 0..=input.len() {
                fuzz_fci(&input[..length]);
                fuzz_packet(&input[..length]);
            }
            for at in 0..input.len() {
                for value in 0..=255 {
                    let mut changed = input.to_vec();
                    changed[at] = value;
                    fuzz_fci(&changed);
                    fuzz_packet(&changed);
                }
            }
        }
    }

    #[test]
    fn long_messages_survive() {
        let mut fci = b"IFRC".to_vec();
        fci.resize(4 + 4 * 1000, 0x5a);
        fuzz_fci(&fci);
        let mut packet = b"\x8f\xce\x00\x00\x11\x22\x33\x44\xaa\xbb\xcc\xdd".to_vec();
        packet.extend(&fci);
        let words = u16::try_from(packet.len() / 4 - 1).unwrap();
        packet[2..4].copy_from_slice(&words.to_be_bytes());
        fuzz_packet(&packet);
        assert_eq!(FrameComplete::parse(&packet).unwrap().fci.ignored(), 984);
    }

    proptest! {
        #[test]
        fn any_tail_survives(tail in proptest::collection::vec(any::<u8>(), 0..120)) {
            fuzz_fci(&tail);
            fuzz_packet(&tail);
            fuzz_fci(&[b"IFRC", &tail[..]].concat());
        }
    }
}
