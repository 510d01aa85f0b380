// SPDX-License-Identifier: MPL-2.0
//! The encoders that `dualh264enc` knows how to drive, one file per family.

mod openh264;
mod x264;

use dualstream_core::sender::EncoderRate;
use gst::prelude::*;
use std::time::Duration;

/// What is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub width: u32,
    pub height: u32,
    pub frame_time: Duration,
}

/// How one kind of encoder is set up and driven.
pub trait Family: Send + Sync {
    fn factory(&self) -> &'static str;

    /// Low latency, one frame in and one out, no key frame of its own accord,
    /// one slice per frame where the machine is fast enough for it. `ceiling`
    /// is the highest rate that will be asked for, in bit/s.
    fn set_up(&self, encoder: &gst::Element, format: Format, ceiling: u64);

    /// Rate and buffer in place, before the next frame, which may be a key
    /// frame.
    fn set_rate(&self, encoder: &gst::Element, rate: EncoderRate, key: bool);

    /// The rate is set before the encoder starts; if not, it is set right
    /// before its first frame.
    fn rate_at_start(&self) -> bool;

    /// The level of the rate control's buffer outlives a change of its size,
    /// so that only a new instance makes a frame as large as a key frame's
    /// budget.
    fn new_for_key_frame(&self) -> bool;
}

const FAMILIES: [&dyn Family; 2] = [&x264::X264, &openh264::OpenH264];

/// Names of the factories that can be asked for.
pub fn names() -> String {
    FAMILIES.map(Family::factory).join(", ")
}

pub fn by_name(name: &str) -> Option<&'static dyn Family> {
    FAMILIES.into_iter().find(|f| f.factory() == name)
}

/// Those that are installed, best rank first.
pub fn installed() -> Vec<&'static dyn Family> {
    let mut found: Vec<_> = FAMILIES
        .into_iter()
        .filter_map(|family| {
            let factory = gst::ElementFactory::find(family.factory())?;
            (factory.rank() > gst::Rank::NONE).then_some((factory.rank(), family))
        })
        .collect();
    found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    found.into_iter().map(|(_, family)| family).collect()
}
