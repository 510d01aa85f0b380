// SPDX-License-Identifier: MPL-2.0
/// Inverse of the largest capacity, in ms per byte: 8 Gbit/s.
const MIN_SLOPE: f64 = 1e-6;
/// Added to the covariance at each frame: slope, offset.
const PROCESS_NOISE: [f64; 2] = [2.5e-10, 1e-10];
/// How much less a frame counts that is as large as the one before.
const EQUAL_SIZE_NOISE: f64 = 300.0;

/// Delay variation as a line over size variation: the slope is the inverse of
/// the capacity, the offset what the queue grew. libwebrtc,
/// frame_delay_variation_kalman_filter.cc.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kalman {
    /// In ms per byte.
    slope: f64,
    /// In ms.
    offset: f64,
    covariance: [[f64; 2]; 2],
}

impl Kalman {
    pub(super) fn new() -> Self {
        Self {
            // libwebrtc's start, 512 kbit/s, but per second where it means per
            // ms: the line is nearly flat until large frames have been seen.
            slope: 8.0 / 512e3,
            offset: 0.0,
            covariance: [[1e-4, 0.0], [0.0, 1e2]],
        }
    }

    /// What `bytes` more than the frame before take, in ms, queue aside.
    pub(super) fn by_size_ms(&self, bytes: f64) -> f64 {
        self.slope * bytes
    }

    /// The same with the growth of the queue.
    pub(super) fn total_ms(&self, bytes: f64) -> f64 {
        self.by_size_ms(bytes) + self.offset
    }

    /// `noise_ms2` is the variance around the line.
    pub(super) fn update(&mut self, variation_ms: f64, bytes: f64, max_bytes: f64, noise_ms2: f64) {
        if max_bytes < 1.0 || noise_ms2 <= 0.0 {
            return;
        }
        let p = &mut self.covariance;
        p[0][0] += PROCESS_NOISE[0];
        p[1][1] += PROCESS_NOISE[1];
        // The standard deviation where a variance belongs: as libwebrtc has it.
        let weight = EQUAL_SIZE_NOISE * (-bytes.abs() / max_bytes).exp() + 1.0;
        let observation = (weight * noise_ms2.sqrt()).max(1.0);
        let spread = [
            p[0][0] * bytes + p[0][1], //
            p[1][0] * bytes + p[1][1],
        ];
        let variance = bytes * spread[0] + spread[1] + observation;
        if variance.abs() < 1e-9 {
            return;
        }
        let gain = [spread[0] / variance, spread[1] / variance];
        let innovation = variation_ms - (self.slope * bytes + self.offset);
        self.slope = (self.slope + gain[0] * innovation).max(MIN_SLOPE);
        self.offset += gain[1] * innovation;
        let [top, bottom] = *p;
        for (column, (top, bottom)) in top.into_iter().zip(bottom).enumerate() {
            p[0][column] = (1.0 - gain[0] * bytes) * top - gain[0] * bottom;
            p[1][column] = (1.0 - gain[1]) * bottom - gain[1] * bytes * top;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_becomes_that_of_the_link() {
        // 1 Mbit/s: 8 ms for each 1000 bytes.
        let mut kalman = Kalman::new();
        for n in 0..200 {
            let bytes = if n % 2 == 0 { 4000.0 } else { -4000.0 };
            kalman.update(bytes * 0.008, bytes, 8000.0, 1.0);
        }
        let ms = kalman.by_size_ms(1000.0);
        assert!((7.9..8.1).contains(&ms), "{ms} ms for 1000 bytes");
        let offset = kalman.total_ms(0.0);
        assert!(offset.abs() < 0.1, "{offset} ms without a queue");
    }

    #[test]
    fn the_slope_is_never_negative() {
        let mut kalman = Kalman::new();
        for _ in 0..200 {
            kalman.update(-50.0, 4000.0, 8000.0, 1.0);
        }
        assert!(kalman.by_size_ms(1.0) >= MIN_SLOPE);
        assert!(kalman.total_ms(4000.0) < 0.0, "the offset takes the rest");
    }
}
