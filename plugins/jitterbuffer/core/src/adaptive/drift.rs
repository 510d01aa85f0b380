// SPDX-License-Identifier: MPL-2.0
use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::Timestamp;

const EVERY: Duration = Duration::from_secs(1);
const POINTS: usize = 60;
/// Fewer say nothing.
const MIN_POINTS: usize = 16;
/// Two bad crystals; what is faster is not drift.
const MAX_PPM: f64 = 300.0;

/// How fast the sender's clock drifts away: the median slope of the middle
/// transit between points half the history apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Drift {
    points: VecDeque<(Timestamp, i64)>,
    slope: f64,
}

impl Drift {
    pub(super) fn frame(&mut self, arrival: Timestamp, middle: i64) {
        if let Some((last, _)) = self.points.back()
            && arrival.since(*last) < EVERY
        {
            return;
        }
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back((arrival, middle));
        self.slope = self.median().unwrap_or(0.0);
    }

    fn median(&self) -> Option<f64> {
        if self.points.len() < MIN_POINTS {
            return None;
        }
        let later = self.points.iter().skip(self.points.len() / 2);
        let mut slopes: Vec<f64> = self
            .points
            .iter()
            .zip(later)
            .map(|((from, low), (to, high))| {
                let nanos = to.since(*from).as_nanos().max(1) as f64;
                high.saturating_sub(*low) as f64 / nanos
            })
            .collect();
        slopes.sort_by(f64::total_cmp);
        let limit = MAX_PPM * 1e-6;
        Some(slopes.get(slopes.len() / 2)?.clamp(-limit, limit))
    }

    /// What transits grow by in `time`, in ns.
    pub(super) fn over(&self, time: Duration) -> i64 {
        (self.slope * time.as_nanos() as f64).round() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(middle: impl Fn(u64) -> i64) -> i64 {
        let mut drift = Drift::default();
        for second in 0..100 {
            drift.frame(Timestamp::from_millis(second * 1000), middle(second));
        }
        drift.over(Duration::from_secs(10))
    }

    #[test]
    fn a_steady_drift_is_found_and_a_fast_one_is_not_believed() {
        let ppm = |ppm: i64| after(|second| second as i64 * ppm * 1000);
        assert_eq!(ppm(200), 2_000_000);
        assert_eq!(ppm(-200), -2_000_000);
        assert_eq!(ppm(5000), 3_000_000);
    }

    #[test]
    fn a_step_some_time_ago_is_no_drift() {
        assert_eq!(after(|second| if second < 90 { 0 } else { 50_000_000 }), 0);
    }
}
