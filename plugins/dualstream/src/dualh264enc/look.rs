// SPDX-License-Identifier: MPL-2.0
//! What is seen of a picture before it is coded, and done to it.

use dualstream_core::sender::{Foresight, Plane, Seen, fade, row_differences};
use gst_video::prelude::*;

/// The pictures of one encoder.
#[derive(Debug, Default)]
pub struct Look {
    foresight: Foresight,
    /// The newest one that was given to the encoder.
    given: Option<gst::Buffer>,
}

impl Look {
    /// `None` if nothing can be seen of it.
    pub fn at(&mut self, picture: &gst::BufferRef, caps: &gst::Caps) -> Option<Seen> {
        let info = plain_luma(caps)?;
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(picture, &info).ok()?;
        self.foresight.look(Plane {
            data: frame.plane_data(0).ok()?,
            stride: usize::try_from(*frame.plane_stride().first()?).ok()?,
            width: info.width() as usize,
            height: info.height() as usize,
        })
    }

    /// The picture as it is to be coded, with a part of the one before in it.
    pub fn faded(&self, picture: &gst::Buffer, caps: &gst::Caps, part: f64) -> gst::Buffer {
        let before = self.given.as_ref().filter(|_| part > 0.0);
        let faded = before.and_then(|before| faded(picture, before, caps, part));
        faded.unwrap_or_else(|| picture.clone())
    }

    pub fn given(&mut self, picture: &gst::Buffer) {
        self.given = Some(picture.clone());
    }

    /// From the newest one that was given, for each row of macroblocks: the sum over
    /// its luma.
    pub fn differences(&self, picture: &gst::Buffer, caps: &gst::Caps) -> Option<Vec<u32>> {
        let info = plain_luma(caps)?;
        let before = self.given.as_ref()?;
        let new = gst_video::VideoFrameRef::from_buffer_ref_readable(picture, &info).ok()?;
        let old = gst_video::VideoFrameRef::from_buffer_ref_readable(before, &info).ok()?;
        let stride = usize::try_from(*new.plane_stride().first()?).ok()?;
        if new.plane_stride() != old.plane_stride() {
            return None;
        }
        let (width, height) = (info.width() as usize, info.height() as usize);
        row_differences(
            new.plane_data(0).ok()?,
            old.plane_data(0).ok()?,
            stride,
            (width, height),
        )
    }
}

/// Pictures with 8 bits a sample of luma, one after the other, in memory that can
/// be read.
fn plain_luma(caps: &gst::Caps) -> Option<gst_video::VideoInfo> {
    if !caps
        .features(0)?
        .is_equal(&gst::CAPS_FEATURES_MEMORY_SYSTEM_MEMORY)
    {
        return None;
    }
    let info = gst_video::VideoInfo::from_caps(caps).ok()?;
    let format = info.format_info();
    let plain = format.is_yuv()
        && format.depth().first() == Some(&8)
        && format.pixel_stride().first() == Some(&1);
    plain.then_some(info)
}

fn faded(
    picture: &gst::Buffer,
    before: &gst::Buffer,
    caps: &gst::Caps,
    part: f64,
) -> Option<gst::Buffer> {
    let info = plain_luma(caps)?;
    let mut copy = picture.copy_deep().ok()?;
    let buffer = copy.get_mut()?;
    let mut new = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &info).ok()?;
    let old = gst_video::VideoFrameRef::from_buffer_ref_readable(before, &info).ok()?;
    if new.plane_stride() != old.plane_stride() {
        return None;
    }
    for plane in 0..info.n_planes() {
        fade(
            new.plane_data_mut(plane).ok()?,
            old.plane_data(plane).ok()?,
            part,
        );
    }
    drop(new);
    Some(copy)
}
