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

/// Windows of the structural similarity: 8x8 pixels, one each 4 pixels.
const BLOCK: usize = 4;

/// Sums over a block of 4x4 pixels.
#[derive(Clone, Copy, Default)]
struct Sums {
    a: u32,
    b: u32,
    squares: u32,
    products: u32,
}

/// Mean structural similarity of the luma (Wang, Bovik, Sheikh and Simoncelli,
/// "Image quality assessment", 2004) over flat windows of 8x8 pixels that
/// overlap by half, which is what encoders report; the paper's window is a
/// Gaussian. `None` for pictures of different sizes or below 8x8.
pub fn ssim(a: Luma<'_>, b: Luma<'_>) -> Option<f64> {
    if (a.width, a.height) != (b.width, b.height) {
        return None;
    }
    let (columns, rows) = (a.width / BLOCK, a.height / BLOCK);
    let windows = columns.checked_sub(1)? * rows.checked_sub(1)?;
    if windows == 0 {
        return None;
    }
    let mut above = vec![Sums::default(); columns];
    let mut here = vec![Sums::default(); columns];
    let mut sum = 0.0;
    for row in 0..rows {
        here.fill(Sums::default());
        for y in row * BLOCK..(row + 1) * BLOCK {
            add_line(&mut here, a.line(y)?, b.line(y)?);
        }
        if row > 0 {
            for (above, here) in above.windows(2).zip(here.windows(2)) {
                sum += similarity([above[0], above[1], here[0], here[1]]);
            }
        }
        std::mem::swap(&mut above, &mut here);
    }
    Some(sum / windows as f64)
}

fn add_line(blocks: &mut [Sums], a: &[u8], b: &[u8]) {
    for ((sums, a), b) in blocks
        .iter_mut()
        .zip(a.chunks_exact(BLOCK))
        .zip(b.chunks_exact(BLOCK))
    {
        for (&a, &b) in a.iter().zip(b) {
            let (a, b) = (u32::from(a), u32::from(b));
            sums.a += a;
            sums.b += b;
            sums.squares += a * a + b * b;
            sums.products += a * b;
        }
    }
}

fn similarity(blocks: [Sums; 4]) -> f64 {
    const PIXELS: f64 = (4 * BLOCK * BLOCK) as f64;
    const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
    const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);
    let total = |of: fn(&Sums) -> u32| f64::from(blocks.iter().map(of).sum::<u32>()) / PIXELS;
    let (a, b) = (total(|s| s.a), total(|s| s.b));
    let variances = total(|s| s.squares) - a * a - b * b;
    let covariance = total(|s| s.products) - a * b;
    (2.0 * a * b + C1) * (2.0 * covariance + C2) / ((a * a + b * b + C1) * (variances + C2))
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
        assert_eq!(ssim(luma(16, 16, &a), luma(8, 8, &a)), None);
        assert_eq!(ssim(luma(0, 1, &[]), luma(0, 1, &[])), None);
        assert_eq!(ssim(luma(16, 16, &a), luma(16, 16, &a)), None, "4 lines");
    }

    #[test]
    fn known_frames_have_known_ssim() {
        // Flat pictures: only the first factor, (2ab + C1) / (a² + b² + C1).
        let (a, b) = (vec![100u8; 64 * 32], vec![105u8; 64 * 32]);
        let flat = ssim(luma(64, 64, &a), luma(64, 64, &b)).unwrap();
        assert!((flat - 0.998_811).abs() < 1e-6, "{flat}");
        // A pattern of mean 128 and variance 64, and its negative: only the
        // second factor, (C2 - 2 * 64) / (C2 + 2 * 64).
        let pattern: Vec<u8> = (0..64 * 32).map(|i| 120 + 16 * (i % 2) as u8).collect();
        let negative: Vec<u8> = pattern.iter().map(|p| 136 - (p - 120)).collect();
        let same = ssim(luma(64, 64, &pattern), luma(64, 64, &pattern)).unwrap();
        assert!((same - 1.0).abs() < 1e-12, "{same}");
        let opposite = ssim(luma(64, 64, &pattern), luma(64, 64, &negative)).unwrap();
        let c2 = 58.5225;
        let expected = (c2 - 128.0) / (c2 + 128.0);
        assert!((opposite - expected).abs() < 1e-6, "{opposite} {expected}");
    }
}
