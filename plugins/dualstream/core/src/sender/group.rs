// SPDX-License-Identifier: MPL-2.0
//! The rate to tell an encoder that shares its bits out over groups of pictures,
//! as openh264 does: what one picture of a group leaves, a later one may take,
//! up to half a share more, and at the end of a quiet group it does. Its own
//! account is kept along here, so that each picture is allowed what is wanted
//! for it, [`WANTED`]; what is left over is asked for in small parts.
//!
//! Read in openh264 2.3.1 (codec/encoder/core/src/ratectl.cpp: RcInitVGop,
//! RcDecideTargetBits, RcUpdateFrameComplexity), which to 2.6.0 are the same.

use super::EncoderRate;
use super::costs::Cost;
use super::foresight::Seen;
use super::rows::Rows;
use crate::macroblocks::Macroblock;
use dualstream_common::{Bitrate, DataSize};

/// Pictures of a group (VGOP_SIZE).
const PICTURES: u32 = 8;
/// A picture gets between these of its share, whatever its group has left
/// (iMinBitsTl and iMaxBitsTl, with iBitsVaryPercentage at its 10).
const SPREAD: (f64, f64) = (0.55, 1.5);
/// Weight of a new picture in what the encoder takes pictures to cost
/// (LINEAR_MODEL_DECAY_FACTOR).
const ENCODER_GAIN: f64 = 0.2;

/// Shares that are wanted for a picture: between these, and what that comes to if it
/// is dearer than the encoder thinks. A larger last one: nearer to the rate, and
/// larger single frames.
const WANTED: (f64, f64, f64) = (0.5, 1.35, 1.1);
/// Of what is left over or owed, so much is asked for with each picture. Larger:
/// sooner at the rate, less even.
const GAIN: f64 = 0.2;
/// So much of what is left over or owed is kept from picture to picture: 14
/// pictures back. And no more than so many shares.
const KEPT: f64 = 0.93;
const MOST_KEPT: f64 = 4.0;
/// A picture that cost so much more than the encoder takes it to is believed at
/// once, as far as the last.
const DEARER: (f64, f64) = (1.15, 0.5);
/// A picture of which so much more is new than usual does not fit even with the
/// coarsest quantiser that it may have, 5 above the last.
const JUMP: f64 = 2.1;
/// Where more of it than this has moved it is left as it is: what stays of a picture
/// that moves as a whole costs more than what is new.
const MOVES: f64 = 0.25;
/// Shares that make the encoder take that one.
const COARSEST: f64 = 0.25;
/// So much of the picture before is then left in it, so that what is new comes in
/// steps: at that jump, for each that it is larger, and at most. More: it takes
/// longer. And so much of that in the next one, if this one still had more than so
/// many shares.
const FADE: (f64, f64, f64) = (0.4, 0.1, 0.93);
const FADES: f64 = 0.85;
const STILL_DEAR: f64 = 0.8;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    /// By the sender's account, for this picture.
    pub asked: EncoderRate,
    /// Of all.
    pub target: Bitrate,
    pub key: bool,
    /// Nobody else uses what this encoder leaves.
    pub alone: bool,
    /// What can be seen of the picture before it is coded.
    pub seen: Option<Seen>,
}

/// A picture that was coded.
#[derive(Clone, Copy, Debug)]
pub struct Coded<'a> {
    pub size: DataSize,
    /// 0 to 51, of its slice header, if it is known.
    pub quantiser: Option<f64>,
    pub key: bool,
    /// Its macroblocks and how many there are in a row, if they could be read.
    pub macroblocks: Option<(&'a [Macroblock], usize)>,
}

/// The account of one encoder.
#[derive(Clone, Debug)]
pub struct GroupAccount {
    key_frame_cost: f64,
    /// Pictures of the group that have begun.
    begun: u32,
    /// Bits that the group has left, and what it began with in shares.
    left: f64,
    began_with: f64,
    /// Bits of one picture at the rate told last; 0: none yet.
    told: f64,
    /// Bits of one picture at the target.
    share: f64,
    /// Shares left over, negative if owed.
    over: f64,
    /// Bits times width of the quantiser: as the encoder has it, and of the
    /// newest picture; 0: none yet.
    usual: f64,
    newest: f64,
    /// Size of the newest picture, in shares.
    size: f64,
    /// The part of the picture before that is left in this one.
    fading: f64,
    rows: Rows,
}

impl GroupAccount {
    /// The rate of a key frame is divided by `key_frame_cost` before the encoder
    /// gets it.
    #[must_use]
    pub fn new(key_frame_cost: f64) -> Self {
        Self {
            key_frame_cost,
            begun: 0,
            left: 0.0,
            began_with: 0.0,
            told: 0.0,
            share: 0.0,
            over: 0.0,
            usual: 0.0,
            newest: 0.0,
            size: 0.0,
            fading: 0.0,
            rows: Rows::default(),
        }
    }

    /// The rate to set before the next picture.
    pub fn next(&mut self, due: Due) -> Bitrate {
        let bits = |rate: Bitrate| (rate * due.asked.buffer).as_bits() as f64;
        let (asked, share) = (bits(due.asked.bitrate), bits(due.target));
        self.share = share;
        self.fading = self.fade(&due);
        let shares = self.begin(due.key);
        let told = if due.key {
            asked / self.key_frame_cost
        } else if due.alone && share > 0.0 {
            let wanted = self.wanted(share);
            let per_picture = shares / f64::from(PICTURES + 1 - self.begun);
            wanted / per_picture.clamp(SPREAD.0, SPREAD.1)
        } else {
            asked
        };
        self.told = told;
        self.left = shares * told;
        if due.key || !due.alone || asked <= 0.0 {
            return due.asked.bitrate;
        }
        due.asked.bitrate.scale(told / asked)
    }

    /// The next picture of the group, or the first of another one; what the group
    /// has left, in pictures at the rate told.
    fn begin(&mut self, key: bool) -> f64 {
        let first = self.told <= 0.0;
        let mut shares = if first { 0.0 } else { self.left / self.told };
        if first || key || self.begun == PICTURES {
            // Debts go over into the next group, without what pictures that do not
            // come would have had; savings do not.
            let missing = f64::from(PICTURES - self.begun) / f64::from(PICTURES);
            shares = (shares - missing * self.began_with).min(0.0) + f64::from(PICTURES);
            self.began_with = shares;
            self.begun = 0;
        }
        self.begun += 1;
        shares
    }

    /// The bits to allow for the picture.
    fn wanted(&mut self, share: f64) -> f64 {
        if self.fading > 0.0 {
            // They are of another picture than the one that is coded.
            self.rows.measured(Vec::new());
            return share * COARSEST;
        }
        let wanted = (1.0 + GAIN * self.over).clamp(WANTED.0, WANTED.1);
        let foreseen = share * wanted.min(WANTED.2);
        self.rows
            .aim(foreseen, share, self.over)
            .unwrap_or_else(|| share * (wanted * self.surprise()).min(WANTED.2))
    }

    /// How much each row of macroblocks of the next picture differs from the one
    /// before, as both are given to the encoder: the sum over its luma.
    pub fn differ(&mut self, rows: &[u32]) {
        self.rows.differ(rows);
    }

    /// The finest quantiser that the next picture may have.
    #[must_use]
    pub fn finest(&self) -> i32 {
        self.rows.reach().0
    }

    /// What the macroblocks of the next picture would cost from the finest quantiser
    /// on that it may have; empty if that is not known.
    pub fn measured(&mut self, costs: Vec<Cost>) {
        self.rows.measured(costs);
    }

    /// The macroblocks of the next picture to give to the encoder as they stand
    /// there, by their number.
    #[must_use]
    pub fn held(&self) -> &[usize] {
        self.rows.held()
    }

    fn fade(&self, due: &Due) -> f64 {
        if due.key || !due.alone {
            0.0
        } else if let Some(seen) = due.seen.filter(|seen| jumps(*seen)) {
            (FADE.0 + FADE.1 * (seen.new - JUMP)).min(FADE.2)
        } else if self.size > STILL_DEAR {
            self.fading * FADES
        } else {
            0.0
        }
    }

    /// The part of the picture before to leave in the next one, 0 to 1.
    #[must_use]
    pub const fn fading(&self) -> f64 {
        self.fading
    }

    /// The part of its rate that the encoder may have, since it takes some
    /// pictures to hear that they have become dearer.
    fn surprise(&self) -> f64 {
        if self.newest <= 0.0 {
            return 1.0;
        }
        (DEARER.0 * self.usual / self.newest).clamp(DEARER.1, 1.0)
    }

    /// What became of the picture.
    pub fn coded(&mut self, coded: Coded<'_>) {
        let Coded {
            size,
            quantiser,
            key,
            macroblocks,
        } = coded;
        let bits = size.as_bits() as f64;
        match macroblocks {
            _ if key => self.rows.key(quantiser),
            Some((picture, width)) => self.rows.coded(bits, picture, width),
            None => self.rows.lost(),
        }
        self.left -= bits;
        self.size = if self.share > 0.0 {
            bits / self.share
        } else {
            0.0
        };
        if key {
            return;
        }
        if self.share > 0.0 {
            let over = self.over * KEPT + 1.0 - bits / self.share;
            self.over = over.clamp(-MOST_KEPT, MOST_KEPT);
        }
        if let Some(quantiser) = quantiser {
            self.newest = bits * (quantiser / 6.0).exp2();
            if self.usual <= 0.0 {
                self.usual = self.newest;
            }
            self.usual += (self.newest - self.usual) * ENCODER_GAIN;
        }
    }
}

fn jumps(seen: Seen) -> bool {
    seen.new > JUMP && seen.moved < MOVES
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FRAME: Duration = Duration::from_millis(40);
    /// 1000 bytes a picture.
    const TARGET: Bitrate = Bitrate::from_kbps(200);

    fn due(asked: f64) -> Due {
        Due {
            asked: EncoderRate {
                bitrate: TARGET.scale(asked),
                buffer: FRAME,
            },
            target: TARGET,
            key: false,
            alone: true,
            seen: None,
        }
    }

    fn bytes(rate: Bitrate) -> f64 {
        (rate * FRAME).as_bytes() as f64
    }

    fn of(bytes: u64, key: bool) -> Coded<'static> {
        Coded {
            size: DataSize::from_bytes(bytes),
            quantiser: Some(30.0),
            key,
            macroblocks: None,
        }
    }

    fn coded(account: &mut GroupAccount, bytes: u64) {
        account.coded(of(bytes, false));
    }

    #[test]
    fn an_encoder_on_target_is_told_the_target() {
        let mut account = GroupAccount::new(1.0);
        for n in 0..30 {
            let told = bytes(account.next(due(1.2)));
            assert!((told - 1000.0).abs() < 2.0, "picture {n}: {told}");
            coded(&mut account, 1000);
        }
    }

    /// openh264 in short: the group's bits by the pictures that are left of it.
    struct Encoder {
        left: f64,
        begun: u32,
        told: f64,
    }

    impl Encoder {
        fn allows(&mut self, told: f64) -> f64 {
            let mut shares = if self.told > 0.0 {
                self.left / self.told
            } else {
                0.0
            };
            if self.begun == 8 || self.told == 0.0 {
                shares = shares.min(0.0) + 8.0;
                self.begun = 0;
            }
            let per_picture = shares / f64::from(8 - self.begun);
            self.begun += 1;
            self.told = told;
            self.left = shares * told;
            told * per_picture.clamp(0.55, 1.5)
        }
    }

    #[test]
    fn what_quiet_pictures_leave_comes_back_in_small_parts() {
        let mut account = GroupAccount::new(1.0);
        let mut encoder = Encoder {
            left: 0.0,
            begun: 0,
            told: 0.0,
        };
        let (mut largest, mut without) = (0.0f64, 0.0f64);
        let mut last = Vec::new();
        for n in 0..80 {
            let told = bytes(account.next(due(1.2)));
            let allowed = encoder.allows(told);
            // Quiet for five, then it takes all it is allowed.
            let size = if n < 5 { 200.0 } else { allowed };
            largest = largest.max(allowed);
            without = without.max(allowed / told);
            encoder.left -= size;
            coded(&mut account, size as u64);
            last.push(size);
        }
        assert!(largest < 1110.0, "{largest} allowed at once");
        assert!(without > 1.25, "the encoder would have: {without}");
        let mean = |from: usize, to: usize| last[from..to].iter().sum::<f64>() / (to - from) as f64;
        assert!(mean(5, 20) > 1030.0, "{}", mean(5, 20));
        assert!((mean(60, 80) - 1000.0).abs() < 20.0, "{}", mean(60, 80));
    }

    #[test]
    fn a_picture_that_was_dear_cuts_the_next() {
        let mut account = GroupAccount::new(1.0);
        for _ in 0..16 {
            account.next(due(1.0));
            coded(&mut account, 1000);
        }
        account.next(due(1.0));
        coded(&mut account, 2500);
        let told = bytes(account.next(due(1.0)));
        // 0.7 for what is owed, and 1.15 * 1.3 / 2.5 since it is dearer: 419 bytes.
        // The group has 5.5 pictures left for 7, so that it allows 0.786 of what
        // it is told.
        assert!((525.0..540.0).contains(&told), "{told}");
    }

    #[test]
    fn what_is_new_comes_in_steps() {
        let mut account = GroupAccount::new(1.0);
        let new = |new: f64| Due {
            seen: Some(Seen { new, moved: 0.1 }),
            ..due(1.0)
        };
        for _ in 0..8 {
            account.next(new(2.0));
            assert_eq!(account.fading(), 0.0);
            coded(&mut account, 1000);
        }
        let told = bytes(account.next(new(2.5)));
        assert!((245.0..255.0).contains(&told), "{told}");
        assert!((account.fading() - 0.44).abs() < 1e-9);
        coded(&mut account, 1400);
        account.next(new(1.2));
        assert!((account.fading() - 0.374).abs() < 1e-9, "still dear");
        coded(&mut account, 700);
        account.next(new(1.0));
        assert_eq!(account.fading(), 0.0);
        let pan = Seen {
            new: 9.0,
            moved: 0.5,
        };
        for other in [
            Due {
                seen: Some(pan),
                ..due(1.0)
            },
            Due {
                key: true,
                ..new(9.0)
            },
            Due {
                alone: false,
                ..new(9.0)
            },
        ] {
            account.next(other);
            assert_eq!(account.fading(), 0.0, "{other:?}");
        }
    }

    #[test]
    fn with_a_second_stream_the_sender_s_rate_stands() {
        let mut account = GroupAccount::new(1.0);
        for n in 0..40 {
            let due = Due {
                alone: false,
                ..due(0.83)
            };
            assert_eq!(account.next(due), due.asked.bitrate, "picture {n}");
            coded(&mut account, 400);
        }
    }

    #[test]
    fn key_frames_have_their_own_rate_and_begin_a_group() {
        let mut account = GroupAccount::new(3.2);
        for _ in 0..3 {
            account.next(due(1.0));
            coded(&mut account, 1000);
        }
        let key = Due {
            key: true,
            ..due(4.0)
        };
        assert_eq!(account.next(key), key.asked.bitrate);
        account.coded(of(4000, true));
        // The group began with 8 pictures of 1250 bytes: 4.8 are left for 7.
        assert_eq!(account.begun, 1);
        assert!((account.left / account.told - 4.8).abs() < 0.01);
    }

    #[test]
    fn nothing_is_told_that_is_no_rate() {
        let mut account = GroupAccount::new(1.0);
        for size in [0, u64::MAX / 8, 0, 1] {
            let told = account.next(due(1.0));
            assert!(
                told > Bitrate::ZERO && told <= TARGET.scale(2.0),
                "{told:?}"
            );
            account.coded(of(size, false));
        }
        let nothing = Due {
            target: Bitrate::ZERO,
            asked: EncoderRate {
                bitrate: Bitrate::ZERO,
                buffer: Duration::ZERO,
            },
            ..due(1.0)
        };
        assert_eq!(account.next(nothing), Bitrate::ZERO);
    }
}
