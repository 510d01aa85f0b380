// SPDX-License-Identifier: MPL-2.0
//! Decoded pictures: their luma, and how near one is to another.

use gst_video::prelude::*;

/// Of two equal pictures, whose PSNR has no bound.
pub const PSNR_MAX_DB: f64 = 100.0;

/// An 8-bit luma plane, `width` bytes a line at the start of each `stride`.
#[derive(Clone, Copy)]
pub struct Luma<'a> {
    pub width: usize,
    pub height: usize,
    pub stride: usize,
    pub data: &'a [u8],
}

impl<'a> Luma<'a> {
    /// The first plane of a mapped I420 frame.
    pub fn of(frame: &'a gst_video::VideoFrameRef<&gst::BufferRef>) -> Option<Self> {
        Some(Self {
            width: frame.width() as usize,
            height: frame.height() as usize,
            stride: usize::try_from(*frame.plane_stride().first()?).ok()?,
            data: frame.plane_data(0).ok()?,
        })
    }

    fn line(&self, y: usize) -> Option<&'a [u8]> {
        let start = y.checked_mul(self.stride)?;
        self.data.get(start..)?.get(..self.width)
    }
}

/// 10 log10(255² / mean squared error), at most [`PSNR_MAX_DB`]; `None` for
/// pictures of different sizes or without a pixel.
pub fn psnr(a: Luma<'_>, b: Luma<'_>) -> Option<f64> {
    if (a.width, a.height) != (b.width, b.height) {
        return None;
    }
    let mut sum = 0u64;
    for y in 0..a.height {
        sum += squared_error(a.line(y)?, b.line(y)?);
    }
    let pixels = (a.width * a.height) as f64;
    if pixels == 0.0 {
        return None;
    }
    let mse = sum as f64 / pixels;
    Some((10.0 * (255.0 * 255.0 / mse).log10()).min(PSNR_MAX_DB))
}

/// In chunks small enough for a `u32`, which the compiler turns into vector
/// code.
fn squared_error(a: &[u8], b: &[u8]) -> u64 {
    a.chunks(4096)
        .zip(b.chunks(4096))
        .map(|(a, b)| {
            let sum: u32 = a
                .iter()
                .zip(b)
                .map(|(&a, &b)| {
                    let d = u32::from(a.abs_diff(b));
                    d * d
                })
                .sum();
            u64::from(sum)
        })
        .sum()
}

/// PSNR of two I420 samples' luma.
pub fn psnr_of(a: &gst::Sample, b: &gst::Sample) -> Option<f64> {
    let info = |sample: &gst::Sample| gst_video::VideoInfo::from_caps(sample.caps()?).ok();
    let (info_a, info_b) = (info(a)?, info(b)?);
    let frame_a = gst_video::VideoFrameRef::from_buffer_ref_readable(a.buffer()?, &info_a).ok()?;
    let frame_b = gst_video::VideoFrameRef::from_buffer_ref_readable(b.buffer()?, &info_b).ok()?;
    psnr(Luma::of(&frame_a)?, Luma::of(&frame_b)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luma(width: usize, stride: usize, data: &[u8]) -> Luma<'_> {
        Luma {
            width,
            height: data.len() / stride,
            stride,
            data,
        }
    }

    #[test]
    fn known_frames_have_known_psnr() {
        let a = vec![100u8; 64 * 32];
        // Each pixel off by 5: MSE 25, 10 log10(65025 / 25) = 34.1514 dB.
        let b = vec![105u8; 64 * 32];
        let db = psnr(luma(64, 64, &a), luma(64, 64, &b)).unwrap();
        assert!((db - 34.1514).abs() < 1e-4, "{db}");
        // One pixel of 2048 off by 64: MSE 2, 45.1205 dB.
        let mut c = a.clone();
        c[777] = 164;
        let db = psnr(luma(64, 64, &a), luma(64, 64, &c)).unwrap();
        assert!((db - 45.1205).abs() < 1e-4, "{db}");
        // Black and white: 0 dB, and no overflow on the way.
        let black = vec![0u8; 8192 * 2];
        let white = vec![255u8; 8192 * 2];
        let db = psnr(luma(8192, 8192, &black), luma(8192, 8192, &white)).unwrap();
        assert!(db.abs() < 1e-9, "{db}");
    }

    #[test]
    fn equal_frames_have_the_bound_and_padding_does_not_count() {
        let a = vec![9u8; 16 * 4];
        assert_eq!(psnr(luma(16, 16, &a), luma(16, 16, &a)), Some(PSNR_MAX_DB));
        let mut padded = vec![200u8; 20 * 4];
        for line in padded.chunks_mut(20) {
            line[..16].fill(9);
        }
        assert_eq!(
            psnr(luma(16, 16, &a), luma(16, 20, &padded)),
            Some(PSNR_MAX_DB)
        );
    }

    #[test]
    fn frames_that_cannot_be_compared_have_none() {
        let a = vec![0u8; 16 * 4];
        assert_eq!(psnr(luma(16, 16, &a), luma(8, 8, &a)), None);
        assert_eq!(psnr(luma(0, 1, &[]), luma(0, 1, &[])), None);
        let short = Luma {
            height: 9,
            ..luma(16, 16, &a)
        };
        assert_eq!(psnr(short, short), None, "plane shorter than its height");
    }
}
