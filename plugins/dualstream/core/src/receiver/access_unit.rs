// SPDX-License-Identifier: MPL-2.0
//! What can be told of a coded unit without decoding it: which slices it has,
//! and whether it can be whole after a loss.

/// What a byte-stream access unit holds (ITU-T H.264 Annex B).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessUnit {
    /// Slices of the coded picture: NAL units of type 1, 2 and 5.
    pub slices: u32,
    /// Has an IDR slice: decoding can start here.
    pub idr: bool,
    /// The first slice begins at the first macroblock.
    pub from_the_top: bool,
}

impl AccessUnit {
    /// Walks over the start codes. Any bytes are legal input; a NAL unit
    /// without payload is passed over.
    #[must_use]
    pub fn scan(data: &[u8]) -> Self {
        let mut unit = Self::default();
        let mut at = 0;
        while let Some(nal) = next_nal(data, at) {
            at = nal;
            let (Some(header), Some(first)) = (data.get(nal), data.get(nal + 1)) else {
                break;
            };
            let kind = header & 0x1f;
            // 3, 4: partitions B and C of a slice that partition A counts.
            if matches!(kind, 1 | 2 | 5) {
                if unit.slices == 0 {
                    // first_mb_in_slice is ue(v): 0 is the single bit 1.
                    unit.from_the_top = first & 0x80 != 0;
                }
                unit.slices = unit.slices.saturating_add(1);
                unit.idr |= kind == 5;
            }
        }
        unit
    }
}

/// Where the next NAL unit begins, behind its start code.
pub(crate) fn next_nal(data: &[u8], from: usize) -> Option<usize> {
    let rest = data.get(from..)?;
    rest.windows(3)
        .position(|w| w == [0, 0, 1])
        .map(|found| from + found + 3)
}

/// How many slices a picture of this session has, as far as undamaged units
/// showed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlicesPerPicture {
    #[default]
    Unknown,
    Constant(u32),
    Varies,
}

impl SlicesPerPicture {
    pub(super) fn learn(self, slices: u32) -> Self {
        match self {
            Self::Unknown => Self::Constant(slices),
            Self::Constant(known) if known == slices => self,
            Self::Constant(_) | Self::Varies => Self::Varies,
        }
    }

    /// Whether a picture can have so many slices.
    pub(super) fn allows(self, slices: u32) -> bool {
        match self {
            Self::Unknown | Self::Varies => true,
            Self::Constant(known) => known == slices,
        }
    }

    /// Whether a unit that arrived right after a loss is surely whole. A
    /// depayloader hands on whole NAL units only, so what can be missing are
    /// slices.
    pub(super) fn surely_whole(self, unit: AccessUnit) -> bool {
        unit.from_the_top && self == Self::Constant(unit.slices)
    }
}

/// Fuzz body: any bytes scan, and what is counted can be there.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz_scan(data: &[u8]) {
    let unit = AccessUnit::scan(data);
    assert!(unit.slices as usize <= data.len() / 4);
    assert!(unit.slices > 0 || !(unit.idr || unit.from_the_top));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slices_are_counted_and_nothing_else() {
        let cases: &[(&str, &[u8], AccessUnit)] = &[
            ("empty", &[], AccessUnit::default()),
            ("no start code", &[9, 9, 9, 9], AccessUnit::default()),
            (
                "cut after the header",
                &[0, 0, 1, 0x65],
                AccessUnit::default(),
            ),
            (
                "SPS, PPS, SEI only",
                &[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 1, 0, 0, 1, 6, 5],
                AccessUnit::default(),
            ),
            (
                "parameter sets and an IDR picture of two slices",
                &[
                    0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 0x88, 0, 0, 1, 0x65, 0x05,
                ],
                AccessUnit {
                    slices: 2,
                    idr: true,
                    from_the_top: true,
                },
            ),
            (
                "the end of a P picture",
                &[0, 0, 1, 0x41, 0x23, 7],
                AccessUnit {
                    slices: 1,
                    idr: false,
                    from_the_top: false,
                },
            ),
        ];
        for (name, data, expected) in cases {
            assert_eq!(AccessUnit::scan(data), *expected, "{name}");
        }
    }

    #[test]
    fn a_unit_after_a_loss_is_whole_only_if_its_slices_are_all_there() {
        let unit = |slices, from_the_top| AccessUnit {
            slices,
            idr: false,
            from_the_top,
        };
        let unknown = SlicesPerPicture::default();
        assert!(
            !unknown.surely_whole(unit(1, true)),
            "nothing to compare with"
        );
        let four = unknown.learn(4).learn(4);
        assert!(four.surely_whole(unit(4, true)));
        assert!(!four.surely_whole(unit(3, true)), "a slice is missing");
        assert!(!four.surely_whole(unit(4, false)), "the first is missing");
        assert!(
            !four.learn(3).surely_whole(unit(4, true)),
            "no constant number"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_scan(data in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x65), any::<u8>()], 0..300)) {
            fuzz_scan(&data);
        }
    }
}
