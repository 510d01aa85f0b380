// SPDX-License-Identifier: MPL-2.0
//! What the payload of an RTP packet says of its frame (RFC 6184, sections 5.4
//! and 5.6 to 5.8).

/// Of a packet, as far as its payload tells. All false: it tells nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// It does not go on with a unit of the packet before.
    pub begins: bool,
    /// Decoding can start with its frame: a slice of an IDR picture, or
    /// parameter sets.
    pub key: bool,
    /// Later frames may predict from it (`nal_ref_idc`).
    pub reference: bool,
}

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const STAP_B: u8 = 25;
const FU_A: u8 = 28;
const FU_B: u8 = 29;
const FU_START: u8 = 0x80;
/// Units in a STAP that are looked at.
const MOST_UNITS: usize = 32;

const fn kind(byte: u8) -> u8 {
    byte & 0x1f
}

const fn is_key(kind: u8) -> bool {
    matches!(kind, IDR | SPS)
}

impl Part {
    #[must_use]
    pub fn of_h264(payload: &[u8]) -> Self {
        let Some((&first, rest)) = payload.split_first() else {
            return Self::default();
        };
        let reference = first & 0x60 != 0;
        match kind(first) {
            1..=23 => Self {
                begins: true,
                key: is_key(kind(first)),
                reference,
            },
            STAP_A => Self::of_units(rest, reference),
            STAP_B => Self::of_units(rest.get(2..).unwrap_or_default(), reference),
            FU_A | FU_B => rest.first().map_or_else(Self::default, |header| Self {
                begins: header & FU_START != 0,
                key: is_key(kind(*header)),
                reference,
            }),
            _ => Self::default(),
        }
    }

    fn of_units(mut units: &[u8], reference: bool) -> Self {
        let mut part = Self {
            begins: true,
            key: false,
            reference,
        };
        for _ in 0..MOST_UNITS {
            let [high, low, first, ..] = *units else {
                break;
            };
            part.key |= is_key(kind(first));
            let next = 2 + usize::from(u16::from_be_bytes([high, low]));
            units = units.get(next..).unwrap_or_default();
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(begins: bool, key: bool, reference: bool) -> Part {
        Part {
            begins,
            key,
            reference,
        }
    }

    #[test]
    fn units_alone_together_and_in_pieces() {
        assert_eq!(Part::of_h264(&[0x67, 1, 2]), of(true, true, true), "SPS");
        assert_eq!(Part::of_h264(&[0x65, 1]), of(true, true, true), "IDR");
        assert_eq!(Part::of_h264(&[0x41, 1]), of(true, false, true), "P");
        assert_eq!(Part::of_h264(&[0x01, 1]), of(true, false, false), "b");
        let stap = [0x78, 0, 2, 0x09, 0x10, 0, 3, 0x67, 1, 2];
        assert_eq!(Part::of_h264(&stap), of(true, true, true), "AUD and SPS");
        assert_eq!(Part::of_h264(&stap[..5]), of(true, false, true));
        assert_eq!(Part::of_h264(&[0x7c, 0x85, 9]), of(true, true, true));
        assert_eq!(Part::of_h264(&[0x7c, 0x05, 9]), of(false, true, true));
        assert_eq!(Part::of_h264(&[0x1c, 0x41, 9]), of(false, false, false));
    }

    #[test]
    fn what_is_cut_short_says_nothing() {
        for payload in [&[][..], &[0x7c], &[0x1e, 1, 2], &[0x00]] {
            assert_eq!(Part::of_h264(payload), Part::default(), "{payload:?}");
        }
        assert_eq!(Part::of_h264(&[0x78, 0xff]), of(true, false, true));
        assert_eq!(
            Part::of_h264(&[0x78, 0xff, 0xff, 0x67]),
            of(true, true, true)
        );
        assert_eq!(Part::of_h264(&[0x79, 0]), of(true, false, true));
    }
}
