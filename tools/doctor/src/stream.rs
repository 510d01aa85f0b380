// SPDX-License-Identifier: MPL-2.0
//! What an H.264 byte stream says of itself: slice types, and profile and
//! level of its sequence parameter set.

use std::fmt;

use h264_reader::nal::{Nal, RefNal};
use h264_reader::rbsp::BitRead;
use serde::{Deserialize, Serialize};

/// The first two fields of a slice header are within.
const HEADER: usize = 32;
/// Highest level that a peer must take whose offer says 42e01f.
const OFFERED_LEVEL: u8 = 31;

/// `profile-level-id` (RFC 6184 section 8.1): profile_idc, constraint flags
/// and level_idc as in the sequence parameter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Described", try_from = "Described")]
pub struct ProfileLevel(pub [u8; 3]);

/// The same in words.
#[derive(Serialize, Deserialize)]
struct Described {
    id: String,
    profile: String,
    level: String,
    webrtc: ForWebRtc,
}

impl From<ProfileLevel> for Described {
    fn from(value: ProfileLevel) -> Self {
        Self {
            id: value.to_string(),
            profile: value.profile(),
            level: value.level(),
            webrtc: value.for_webrtc(),
        }
    }
}

impl TryFrom<Described> for ProfileLevel {
    type Error = std::num::ParseIntError;

    fn try_from(value: Described) -> Result<Self, Self::Error> {
        let [_, profile, constraints, level] = u32::from_str_radix(&value.id, 16)?.to_be_bytes();
        Ok(Self([profile, constraints, level]))
    }
}

/// What WebRTC peers make of it (RFC 7742 section 6.2: Constrained Baseline is
/// what each must take).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForWebRtc {
    Yes,
    /// Constrained Baseline, at a level above the usual offer's.
    AboveLevel,
    /// Another profile: only if the peer offers it.
    OtherProfile,
}

impl ProfileLevel {
    fn constraint(self, set: u8) -> bool {
        self.0[1] >> (7 - set) & 1 == 1
    }

    /// Names of ITU-T H.264 annex A.2.
    pub fn profile(self) -> String {
        let name = match self.0[0] {
            66 if self.constraint(1) => "Constrained Baseline",
            66 => "Baseline",
            77 if self.constraint(0) => "Constrained Baseline",
            77 => "Main",
            88 => "Extended",
            100 if self.constraint(4) && self.constraint(5) => "Constrained High",
            100 => "High",
            110 => "High 10",
            122 => "High 4:2:2",
            244 => "High 4:4:4 Predictive",
            other => return format!("profile {other}"),
        };
        name.into()
    }

    pub fn level(self) -> String {
        match self.0[2] {
            // A.3.1: level 1b in the profiles of the first edition.
            11 if self.0[0] < 100 && self.constraint(3) => "1b".into(),
            9 => "1b".into(),
            level => format!("{}.{}", level / 10, level % 10),
        }
    }

    pub fn for_webrtc(self) -> ForWebRtc {
        if self.profile() != "Constrained Baseline" {
            ForWebRtc::OtherProfile
        } else if self.0[2] > OFFERED_LEVEL {
            ForWebRtc::AboveLevel
        } else {
            ForWebRtc::Yes
        }
    }
}

/// As in SDP: 42e01f.
impl fmt::Display for ProfileLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [profile, constraints, level] = self.0;
        write!(f, "{profile:02x}{constraints:02x}{level:02x}")
    }
}

/// What one access unit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// It has a slice of an IDR picture.
    pub key: bool,
    /// It has a B slice.
    pub bidirectional: bool,
    pub slices: u32,
    pub profile_level: Option<ProfileLevel>,
}

/// Reads an access unit of a byte stream.
pub fn read(unit: &[u8]) -> Unit {
    let mut found = Unit::default();
    let mut at = 0;
    while let Some(start) = next_nal(unit, at) {
        at = start;
        let rest = &unit[start..];
        let Some(kind) = rest.first().map(|header| header & 0x1f) else {
            break;
        };
        match (kind, rest) {
            (7, [_, profile, constraints, level, ..]) => {
                found.profile_level = Some(ProfileLevel([*profile, *constraints, *level]));
            }
            (1 | 5, _) => {
                found.slices += 1;
                found.key |= kind == 5;
                found.bidirectional |= is_bidirectional(&rest[..rest.len().min(HEADER)]);
            }
            _ => {}
        }
    }
    found
}

/// The header byte of the next NAL unit behind `from`.
fn next_nal(data: &[u8], from: usize) -> Option<usize> {
    let rest = data.get(from..)?;
    let code = rest.windows(3).position(|w| w == [0, 0, 1])?;
    Some(from + code + 3)
}

/// slice_type (ITU-T H.264 7.4.3) of 1 or 6 is B.
fn is_bidirectional(start: &[u8]) -> bool {
    let nal = RefNal::new(start, &[], false);
    let mut bits = nal.rbsp_bits();
    let slice_type = bits
        .read_ue("first_mb_in_slice")
        .and_then(|_| bits.read_ue("slice_type"));
    slice_type.is_ok_and(|slice_type| slice_type % 5 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: u32) -> ProfileLevel {
        let [_, a, b, c] = text.to_be_bytes();
        ProfileLevel([a, b, c])
    }

    #[test]
    fn profiles_and_levels_have_their_names() {
        let table = [
            (0x42e01f, "Constrained Baseline", "3.1", ForWebRtc::Yes),
            (0x42c01f, "Constrained Baseline", "3.1", ForWebRtc::Yes),
            (
                0x42c028,
                "Constrained Baseline",
                "4.0",
                ForWebRtc::AboveLevel,
            ),
            (0x42f00b, "Constrained Baseline", "1b", ForWebRtc::Yes),
            (0x42001f, "Baseline", "3.1", ForWebRtc::OtherProfile),
            (0x4d001f, "Main", "3.1", ForWebRtc::OtherProfile),
            (0x640028, "High", "4.0", ForWebRtc::OtherProfile),
            (0x640c1f, "Constrained High", "3.1", ForWebRtc::OtherProfile),
        ];
        for (number, profile, level, webrtc) in table {
            let id = id(number);
            assert_eq!(id.to_string(), format!("{number:06x}"));
            assert_eq!(
                (id.profile().as_str(), id.level().as_str()),
                (profile, level)
            );
            assert_eq!(id.for_webrtc(), webrtc, "{number:06x}");
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<ProfileLevel>(&json).unwrap(), id);
        }
    }

    /// Header bytes by hand: ue(0) = 1, ue(1) = 010, ue(5) = 00110,
    /// ue(6) = 00111, ue(7) = 0001000.
    #[test]
    fn slice_types_are_read() {
        for (byte, bidirectional) in [
            (0b1010_0000, true),  // first_mb 0, type 1: B
            (0b1001_1100, true),  // type 6: B, all slices alike
            (0b1001_1000, false), // type 5: P
            (0b1000_1000, false), // type 7: I
            (0b1100_0000, false), // type 0: P
        ] {
            let unit = read(&[0, 0, 0, 1, 0x41, byte, 0x80, 0x80]);
            assert_eq!(unit.bidirectional, bidirectional, "{byte:08b}");
            assert_eq!((unit.slices, unit.key), (1, false));
        }
    }

    #[test]
    fn a_key_frame_and_its_parameter_set_are_seen() {
        let unit = [
            &[0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0x80][..],
            &[0, 0, 1, 0x65, 0x88, 0x84],
            &[0, 0, 1, 0x65, 0x88, 0x84],
        ]
        .concat();
        let unit = read(&unit);
        assert!(unit.key && !unit.bidirectional);
        assert_eq!(unit.slices, 2);
        assert_eq!(unit.profile_level, Some(id(0x42c01f)));
    }

    #[test]
    fn cut_off_data_is_survived() {
        let whole = [
            0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0, 0, 1, 0x65, 0x88, 0x84,
        ];
        for end in 0..whole.len() {
            let _ = read(&whole[..end]);
        }
        assert_eq!(read(&[]), Unit::default());
    }
}
