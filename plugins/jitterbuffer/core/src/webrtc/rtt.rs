// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

const MAX_RTT_MS: f64 = 3000.0;
/// The weight of a value is one over the count of values, down to this one's.
const MAX_COUNT: u32 = 35;
const JUMP_DEVIATIONS: f64 = 2.5;
const DRIFT_DEVIATIONS: f64 = 3.5;
/// Values in a row that make a jump or a drift.
const RUN: usize = 5;

/// The largest round trip seen, begun anew when values jump or drift away from
/// it. libwebrtc, rtt_filter.cc.
#[derive(Clone, Debug, Default)]
pub(super) struct RttFilter {
    mean_ms: f64,
    variance_ms2: f64,
    max_ms: f64,
    count: u32,
    jump: Vec<f64>,
    jump_is_down: bool,
    drift: Vec<f64>,
}

impl RttFilter {
    pub(super) fn update(&mut self, rtt: Duration) {
        if self.count == 0 && rtt.is_zero() {
            return;
        }
        let ms = (rtt.as_secs_f64() * 1000.0).min(MAX_RTT_MS);
        self.count = (self.count + 1).min(MAX_COUNT);
        let weight = 1.0 / f64::from(self.count);
        let before = (self.mean_ms, self.variance_ms2);
        self.mean_ms += weight * (ms - self.mean_ms);
        let off = (ms - self.mean_ms).round();
        // Whole ms squared, as libwebrtc keeps it.
        self.variance_ms2 = ((1.0 - weight) * self.variance_ms2 + weight * off * off).trunc();
        self.max_ms = self.max_ms.max(ms);
        if self.jumps(ms) {
            (self.mean_ms, self.variance_ms2) = before;
        } else {
            self.follow_drift(ms);
        }
    }

    pub(super) fn rtt_ms(&self) -> f64 {
        self.max_ms
    }

    /// Whether this value is far off and not yet part of a run.
    fn jumps(&mut self, ms: f64) -> bool {
        let off = self.mean_ms - ms;
        if off.abs() <= JUMP_DEVIATIONS * self.variance_ms2.sqrt() {
            self.jump.clear();
            return false;
        }
        let down = off >= 0.0;
        if down != self.jump_is_down {
            self.jump.clear();
        }
        self.jump_is_down = down;
        self.jump.push(ms);
        if self.jump.len() < RUN {
            return true;
        }
        let run = std::mem::take(&mut self.jump);
        self.begin_anew(&run);
        false
    }

    fn follow_drift(&mut self, ms: f64) {
        if self.max_ms - self.mean_ms <= DRIFT_DEVIATIONS * self.variance_ms2.sqrt() {
            self.drift.clear();
            return;
        }
        self.drift.push(ms);
        if self.drift.len() >= RUN {
            let run = std::mem::take(&mut self.drift);
            self.begin_anew(&run);
        }
    }

    fn begin_anew(&mut self, run: &[f64]) {
        self.mean_ms = run.iter().sum::<f64>() / RUN as f64;
        self.max_ms = run.iter().copied().fold(0.0, f64::max);
        self.count = RUN as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(values: &[u64]) -> f64 {
        let mut filter = RttFilter::default();
        for ms in values {
            filter.update(Duration::from_millis(*ms));
        }
        filter.rtt_ms()
    }

    #[test]
    fn the_largest_round_trip_is_kept_and_bounded() {
        assert_eq!(after(&[0, 80, 80]), 80.0);
        assert_eq!(after(&[500_000]), 3000.0);
        assert_eq!(after(&[200, 200, 200, 1400]), 1400.0);
    }

    #[test]
    fn five_values_on_a_new_level_make_it_the_level() {
        // Long enough at one value that another is far off.
        let mut values = vec![200; 50];
        values.extend([20; 4]);
        assert_eq!(after(&values), 200.0);
        values.push(20);
        assert_eq!(after(&values), 20.0);
    }

    #[test]
    fn a_single_peak_is_forgotten() {
        let mut values = vec![200; 50];
        values.extend([1000, 200]);
        assert_eq!(after(&values), 1000.0);
        values.extend([200; 4]);
        assert_eq!(after(&values), 200.0);
    }
}
