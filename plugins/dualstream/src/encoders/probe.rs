// SPDX-License-Identifier: MPL-2.0
//! The trial of an encoder, on pictures that are not flat.

use super::{Family, Setup};
use crate::trial::{self, Outcome, PICTURES, ProbeError};
use dualstream_common::Bitrate;
use gst::prelude::*;
use std::time::Duration;

const SIZE: (u32, u32) = (320, 240);
const FRAME_TIME: Duration = Duration::from_nanos(1_000_000_000 / 30);
const RATE: Bitrate = Bitrate::from_kbps(500);

/// The outcome for this family, from an earlier trial if there was one.
pub fn probe(family: &'static Family) -> Outcome {
    trial::known_or(family.factory, move || {
        let setup = Setup::new(SIZE.0, SIZE.1, FRAME_TIME, RATE);
        let element = family
            .make(None, setup)
            .map_err(|_| ProbeError::NotInstalled)?;
        trial::trial(&element, pictures, || {
            if !family.rate_at_start {
                family.set_rate(&element, setup.rate, true);
            }
        })
    })
}

fn pictures(input: &gst::Pad) -> trial::Input {
    let (caps, info) = picture_caps(input)?;
    let pictures = (0..PICTURES).map(|n| {
        let picture = gst::Buffer::from_mut_slice(texture(info.size(), n));
        trial::timed(picture, n)
    });
    Some((caps, pictures.collect()))
}

/// System memory of a format that the encoder takes.
fn picture_caps(input: &gst::Pad) -> Option<(gst::Caps, gst_video::VideoInfo)> {
    let wanted = gst_video::VideoCapsBuilder::new()
        .width(SIZE.0 as i32)
        .height(SIZE.1 as i32)
        .framerate(gst::Fraction::new(30, 1))
        .build();
    let mut caps = input.peer_query_caps(Some(&wanted)).intersect(&wanted);
    if caps.is_empty() {
        return None;
    }
    caps.fixate();
    let info = gst_video::VideoInfo::from_caps(&caps).ok()?;
    Some((caps, info))
}

/// Not flat, so that there is something to encode.
fn texture(size: usize, n: u32) -> Vec<u8> {
    (0..size)
        .map(|i| (((i ^ (i >> 5)) as u32).wrapping_add(n * 3) & 0x7f) as u8 + 64)
        .collect()
}
