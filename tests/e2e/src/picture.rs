// SPDX-License-Identifier: MPL-2.0
//! Pictures that can be drawn again from their number, and their distance.

use dualstream_clip::barcode::Layout;
use dualstream_clip::picture::Luma;
use gst_video::prelude::*;

/// The number: 16 bits along the upper edge.
const CODE: Layout = Layout {
    columns: 16,
    rows: 1,
    width: 0.8,
    height: 0.125,
};

/// Size of the test picture.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

/// Luma of picture `n`: a pattern that moves over a still one, with a little
/// noise that is another one in each picture, and its number as a bar code.
pub fn luma(n: u64, size: Size) -> Vec<u8> {
    let mut random = 0x9e37_79b9u32.wrapping_mul(n as u32 + 1);
    let shift = n as usize * 3;
    let mut data = Vec::with_capacity(size.width * size.height);
    for y in 0..size.height {
        for x in 0..size.width {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (random >> 30) as usize;
            let moving = y > size.height / 2;
            let at = if moving { x + shift } else { x };
            data.push((70 + ((at / 2) ^ (y / 2)) % 96 + noise) as u8);
        }
    }
    CODE.write(&mut data, size.width, size.width, size.height, n & 0xffff);
    data
}

/// The number that a picture bears, of 16 bits; `None` where it is not clear.
pub fn number(luma: &[u8], size: Size) -> Option<u16> {
    let luma = Luma {
        data: luma,
        stride: size.width,
        width: size.width,
        height: size.height,
    };
    u16::try_from(CODE.read(luma)?).ok()
}

/// The whole picture as I420, grey.
pub fn i420(n: u64, size: Size) -> Vec<u8> {
    let mut data = luma(n, size);
    let chroma = size.width.div_ceil(2) * size.height.div_ceil(2);
    data.resize(data.len() + 2 * chroma, 128);
    data
}

/// Peak signal to noise ratio of 8-bit samples, in dB; at most 99.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len(), "pictures of one size");
    let square: u64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
        .sum();
    if square == 0 {
        return 99.0;
    }
    (10.0 * (255.0 * 255.0 * a.len() as f64 / square as f64).log10()).min(99.0)
}

/// Luma of a raw picture without padding.
pub fn luma_of(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Vec<u8> {
    let frame =
        gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).expect("a raw picture");
    let stride = frame.plane_stride()[0] as usize;
    let data = frame.plane_data(0).expect("luma");
    data.chunks(stride)
        .take(info.height() as usize)
        .flat_map(|row| &row[..info.width() as usize])
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_is_that_of_the_formula() {
        // Every sample off by 1: 10 log10(255^2).
        assert!((psnr(&[10; 100], &[11; 100]) - 48.1308).abs() < 1e-3);
        assert_eq!(psnr(&[1, 2, 3], &[1, 2, 3]), 99.0);
    }

    #[test]
    fn pictures_differ_from_their_neighbours() {
        let size = Size {
            width: 64,
            height: 36,
        };
        assert_eq!(luma(7, size), luma(7, size));
        assert_eq!(number(&luma(0x1_2345, size), size), Some(0x2345));
        assert_eq!(number(&[128; 64 * 36], size), None);
        // A picture shown under a wrong number is found out.
        let off_by_one = psnr(&luma(7, size), &luma(8, size));
        assert!(off_by_one < 35.0, "{off_by_one}");
    }
}
