// SPDX-License-Identifier: MPL-2.0
//! What is seen of a picture before it is coded, and done to it.

use super::replica::{Decoded, Replica};
use dualstream_core::sender::{
    Cost, Costs, Foresight, Picture, Plane, SIDE, Seen, fade, keep, row_differences,
};
use gst_video::prelude::*;

/// The pictures of one encoder.
#[derive(Debug, Default)]
pub struct Look {
    foresight: Foresight,
    costs: Costs,
    /// The newest one that was given to the encoder, and before any of it was let be.
    given: Option<gst::Buffer>,
    whole: Option<gst::Buffer>,
    /// That one as it stands in the encoder.
    replica: Option<Replica>,
    decoded: Option<Decoded>,
}

type Frame<'a> = gst_video::VideoFrameRef<&'a gst::BufferRef>;

impl Look {
    /// `None` if nothing can be seen of it.
    pub fn at(&mut self, picture: &gst::BufferRef, caps: &gst::Caps) -> Option<Seen> {
        let info = plain_luma(caps)?;
        let frame = Frame::from_buffer_ref_readable(picture, &info).ok()?;
        self.foresight.look(plane(&frame, 0)?)
    }

    /// What its macroblocks would cost from the finest quantiser on; `None` if it is
    /// not known how the one before stands in the encoder.
    pub fn costs(
        &mut self,
        picture: &gst::BufferRef,
        caps: &gst::Caps,
        finest: i32,
    ) -> Option<Vec<Cost>> {
        let info = gst_video::VideoInfo::from_caps(caps).ok()?;
        let decoded = self.decoded.as_ref()?;
        let known = |info: &gst_video::VideoInfo| info.format() == gst_video::VideoFormat::I420;
        if !known(&info) || !known(&decoded.info) {
            return None;
        }
        let new = Frame::from_buffer_ref_readable(picture, &info).ok()?;
        let before = Frame::from_buffer_ref_readable(self.whole.as_ref()?, &info).ok()?;
        let stands = Frame::from_buffer_ref_readable(&decoded.buffer, &decoded.info).ok()?;
        let pictures = [&planes(&new)?, &planes(&before)?, &planes(&stands)?];
        self.costs.measure(pictures, &self.foresight, finest)
    }

    /// The picture as it is to be coded: with a part of the one before in it, and
    /// these macroblocks as they stand in the encoder.
    pub fn given(
        &mut self,
        picture: &gst::Buffer,
        caps: &gst::Caps,
        part: f64,
        held: &[usize],
    ) -> gst::Buffer {
        let before = self.whole.as_ref().filter(|_| part > 0.0);
        let faded = before.and_then(|before| faded(picture, before, caps, part));
        let whole = faded.unwrap_or_else(|| picture.clone());
        let decoded = self.decoded.take().filter(|_| !held.is_empty());
        let with = decoded.and_then(|decoded| with(&whole, &decoded, caps, held));
        let given = with.unwrap_or_else(|| whole.clone());
        self.whole = Some(whole);
        given
    }

    /// This one goes to the encoder.
    pub fn goes(&mut self, given: &gst::Buffer) {
        self.given = Some(given.clone());
    }

    /// What the encoder made of it.
    pub fn coded(&mut self, unit: &gst::Buffer, caps: Option<gst::Caps>) {
        if self.given.is_none() {
            return;
        }
        if self.replica.is_none() {
            let small = caps.filter(|caps| size(caps).is_some_and(|(w, h)| Costs::take(w, h)));
            self.replica = small.and_then(|caps| Replica::new(&caps));
        }
        let replica = self.replica.as_ref();
        self.decoded = replica.and_then(|replica| replica.decode(unit));
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

fn size(caps: &gst::CapsRef) -> Option<(usize, usize)> {
    let s = caps.structure(0)?;
    let side = |name| usize::try_from(s.get::<i32>(name).ok()?).ok();
    Some((side("width")?, side("height")?))
}

fn plane<'a>(frame: &'a Frame<'_>, at: u32) -> Option<Plane<'a>> {
    Some(Plane {
        data: frame.plane_data(at).ok()?,
        stride: usize::try_from(*frame.plane_stride().get(at as usize)?).ok()?,
        width: frame.comp_width(at) as usize,
        height: frame.comp_height(at) as usize,
    })
}

fn planes<'a>(frame: &'a Frame<'_>) -> Option<Picture<'a>> {
    Some(Picture([
        plane(frame, 0)?,
        plane(frame, 1)?,
        plane(frame, 2)?,
    ]))
}

fn with(
    picture: &gst::Buffer,
    decoded: &Decoded,
    caps: &gst::Caps,
    held: &[usize],
) -> Option<gst::Buffer> {
    let info = gst_video::VideoInfo::from_caps(caps).ok()?;
    let mut copy = picture.copy_deep().ok()?;
    let buffer = copy.get_mut()?;
    let mut new = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &info).ok()?;
    let stands = Frame::from_buffer_ref_readable(&decoded.buffer, &decoded.info).ok()?;
    let columns = (info.width() as usize).div_ceil(SIDE);
    for at in 0..3 {
        let stride = usize::try_from(*new.plane_stride().get(at as usize)?).ok()?;
        let side = if at == 0 { SIDE } else { SIDE / 2 };
        let data = new.plane_data_mut(at).ok()?;
        keep((data, stride), plane(&stands, at)?, (columns, side), held);
    }
    drop(new);
    Some(copy)
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
