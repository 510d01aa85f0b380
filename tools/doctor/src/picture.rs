// SPDX-License-Identifier: MPL-2.0
//! The pictures that are coded: a texture that pans over the whole picture, a
//! part of it that moves the other way, a little noise that is new in each
//! picture, and the picture's number as a bar code, which survives coding.

use dualstream_clip::barcode::Layout;
use dualstream_clip::picture::Luma;

/// A number of 16 bits.
const CODE: Layout = Layout {
    columns: 16,
    rows: 1,
    width: 0.8,
    height: 0.125,
};
/// The texture is larger than the picture by this, and pans within it.
const MARGIN: usize = 256;

/// Draws pictures of one size.
pub struct Scene {
    width: usize,
    height: usize,
    texture: Vec<u8>,
    grain: Vec<u8>,
}

impl Scene {
    /// `width` and `height` must be even.
    pub fn new(width: usize, height: usize) -> Self {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        let (w, h) = (width + MARGIN, height + MARGIN);
        let mut texture = vec![0u16; w * h];
        // Large forms, and ever finer ones on them.
        for (cell, weight) in [(96, 90), (24, 60), (6, 40)] {
            add_noise(&mut texture, w, cell, weight, &mut random);
        }
        Self {
            width,
            height,
            texture: texture.into_iter().map(|v| 30 + v as u8).collect(),
            grain: (0..width * height + 4096)
                .map(|_| random.next() as u8 & 3)
                .collect(),
        }
    }

    /// Picture `n` as I420.
    pub fn i420(&self, n: u64) -> Vec<u8> {
        let (w, h) = (self.width, self.height);
        let mut data = vec![128u8; w * h + 2 * (w / 2) * (h / 2)];
        let (dx, dy) = pan(n, 1.0);
        let (ox, oy) = pan(n, -1.7);
        let shift = (n as usize).wrapping_mul(1237) % 4096;
        for (y, row) in data[..w * h].chunks_exact_mut(w).enumerate() {
            let inside = (h / 2..h * 7 / 8).contains(&y);
            self.row(row, 0, dx, y + dy);
            if inside {
                self.row(&mut row[w / 2..w * 7 / 8], w / 2, ox, y + oy);
            }
            let grain = &self.grain[shift + y * w..][..w];
            for (sample, grain) in row.iter_mut().zip(grain) {
                *sample += grain;
            }
        }
        self.colours(&mut data[w * h..], n);
        CODE.write(&mut data[..w * h], w, w, h, n & 0xffff);
        data
    }

    fn row(&self, to: &mut [u8], x: usize, dx: usize, y: usize) {
        let stride = self.width + MARGIN;
        to.copy_from_slice(&self.texture[y * stride + x + dx..][..to.len()]);
    }

    fn colours(&self, chroma: &mut [u8], n: u64) {
        let stride = self.width / 2;
        let (dx, dy) = pan(n, 1.0);
        for (y, row) in chroma.chunks_exact_mut(stride).enumerate() {
            for (x, sample) in row.iter_mut().enumerate() {
                *sample = 96 + (((x + dx / 2) / 8 + (y + dy / 2) / 8) % 64) as u8;
            }
        }
    }
}

/// Number of a picture from its luma; `None` where it is not clear.
pub fn read_number(luma: &[u8], stride: usize, width: usize, height: usize) -> Option<u16> {
    let luma = Luma {
        width,
        height,
        stride,
        data: luma,
    };
    CODE.read(luma).map(|number| number as u16)
}

/// Where the texture is at picture `n`: at most 8 samples from where it was
/// one picture before.
fn pan(n: u64, speed: f64) -> (usize, usize) {
    let half = MARGIN as f64 / 2.0 - 1.0;
    let at = |period: f64| half + half * (n as f64 * speed / period).sin();
    (at(43.0) as usize, at(31.0) as usize)
}

/// Random values on a grid of `cell` samples, and straight lines in between.
fn add_noise(to: &mut [u16], width: usize, cell: usize, weight: u32, random: &mut Random) {
    let columns = width / cell + 2;
    let rows = to.len() / width / cell + 2;
    let grid: Vec<u32> = (0..columns * rows)
        .map(|_| random.next() % weight)
        .collect();
    for (y, row) in to.chunks_exact_mut(width).enumerate() {
        let (gy, fy) = (y / cell, (y % cell) as u32);
        for (x, sample) in row.iter_mut().enumerate() {
            let (gx, fx) = (x / cell, (x % cell) as u32);
            let side = cell as u32;
            let line = |gy: usize| {
                let at = gy * columns + gx;
                grid[at] * (side - fx) + grid[at + 1] * fx
            };
            let value = (line(gy) * (side - fy) + line(gy + 1) * fy) / (side * side);
            *sample += value as u16;
        }
    }
}

/// xorshift64: the same pictures each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(a: &[u8], b: &[u8]) -> f64 {
        let sum: u64 = a
            .iter()
            .zip(b)
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        sum as f64 / a.len() as f64
    }

    #[test]
    fn the_number_is_read_again_also_from_a_coarse_picture() {
        let scene = Scene::new(320, 180);
        for n in [0u16, 1, 0x5555, 0xaaaa, 300, 0xffff] {
            let mut picture = scene.i420(u64::from(n));
            let read = |p: &[u8]| read_number(p, 320, 320, 180);
            assert_eq!(read(&picture), Some(n));
            for sample in &mut picture {
                *sample = *sample / 40 * 40;
            }
            assert_eq!(read(&picture), Some(n), "coarse");
        }
    }

    #[test]
    fn a_picture_without_a_number_has_none() {
        assert_eq!(read_number(&[128; 320 * 180], 320, 320, 180), None);
        assert_eq!(read_number(&[128; 100], 320, 320, 180), None, "cut off");
    }

    #[test]
    fn every_part_of_the_picture_moves_and_it_is_no_noise() {
        let (w, h) = (640, 360);
        let scene = Scene::new(w, h);
        let (a, b) = (scene.i420(50), scene.i420(51));
        assert_eq!(a, scene.i420(50), "the same each time");
        for (x, y) in [(0, 2), (1, 2), (2, 2), (0, 3), (3, 1), (2, 3)] {
            let part = |p: &[u8]| -> Vec<u8> {
                (y * h / 4..(y + 1) * h / 4)
                    .flat_map(|row| p[row * w + x * w / 4..][..w / 4].to_vec())
                    .collect()
            };
            let moved = difference(&part(&a), &part(&b));
            assert!((1.0..40.0).contains(&moved), "part {x},{y}: {moved}");
        }
    }
}
