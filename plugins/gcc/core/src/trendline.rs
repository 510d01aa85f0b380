// SPDX-License-Identifier: MPL-2.0
//! The slope of the one-way delay over the last groups, by least squares
//! (libwebrtc, trendline_estimator.cc; G. Carlucci et al., "Congestion Control
//! for Web Real-Time Communication", 2017).

use std::collections::VecDeque;

use dualstream_common::RemoteTime;

use crate::arrival_group::Delta;

/// Groups that the line goes through. Larger: smoother and later.
const GROUPS: usize = 20;
/// Of the delay so far in the smoothed one. Larger: smoother and later.
const SMOOTHING: f64 = 0.9;
/// Makes a slope comparable to the threshold, with the number of groups (up to
/// [`MOST_GROUPS`]) as the other factor.
const GAIN: f64 = 4.0;
const MOST_GROUPS: u32 = 60;

#[derive(Debug, Default)]
pub struct Trendline {
    first: Option<RemoteTime>,
    delay_ms: f64,
    smoothed_ms: f64,
    groups: u32,
    /// Arrival since the first one and smoothed delay, ms. At most [`GROUPS`].
    points: VecDeque<(f64, f64)>,
    slope: f64,
}

impl Trendline {
    /// The slope (delay per time, no unit) times what makes it comparable to
    /// the detector's threshold, in ms.
    pub fn update(&mut self, delta: &Delta) -> f64 {
        let first = *self.first.get_or_insert(delta.at);
        self.delay_ms += delta.variation.as_nanos() as f64 / 1e6;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.delay_ms;
        self.groups = (self.groups + 1).min(MOST_GROUPS);
        // A clock may be set back to before the first group.
        let at = delta.at.distance(first).as_nanos() as f64 / 1e6;
        self.points.push_back((at, self.smoothed_ms));
        if self.points.len() > GROUPS {
            self.points.pop_front();
        }
        if self.points.len() == GROUPS {
            self.slope = slope(&self.points).unwrap_or(self.slope);
        }
        f64::from(self.groups) * self.slope * GAIN
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.points.len()
    }
}

/// `None` where all points are of one time.
fn slope(points: &VecDeque<(f64, f64)>) -> Option<f64> {
    let n = points.len() as f64;
    let (sum_x, sum_y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), (px, py)| (x + px, y + py));
    let (mean_x, mean_y) = (sum_x / n, sum_y / n);
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in points {
        xy += (x - mean_x) * (y - mean_y);
        xx += (x - mean_x) * (x - mean_x);
    }
    (xx > 0.0).then(|| xy / xx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualstream_common::SignedDuration;
    use std::time::Duration;

    /// A group each 10 ms at the receiver, later than the one before by
    /// `variation_us`.
    fn delta(n: u64, variation_us: i64) -> Delta {
        Delta {
            send: Duration::from_millis(10),
            arrival: Duration::from_millis(10),
            variation: SignedDuration::from_nanos(variation_us * 1000),
            size_change: 0,
            at: RemoteTime::from_millis(1000 + 10 * n),
        }
    }

    fn run(trendline: &mut Trendline, groups: std::ops::Range<u64>, variation_us: i64) -> f64 {
        groups.fold(0.0, |_, n| trendline.update(&delta(n, variation_us)))
    }

    #[test]
    fn the_slope_of_a_line_is_exact() {
        // y = 3 - 0.25 x
        let line: VecDeque<(f64, f64)> = (0..20)
            .map(f64::from)
            .map(|x| (x, 3.0 - 0.25 * x))
            .collect();
        let slope = slope(&line).expect("the points differ");
        assert!((slope + 0.25).abs() < 1e-12, "{slope}");
    }

    #[test]
    fn least_squares_by_hand() {
        // Mean (1, 1); xy = 1 + 0 + 2, xx = 1 + 0 + 1.
        let points = VecDeque::from([(0.0, 0.0), (1.0, 0.0), (2.0, 3.0)]);
        assert_eq!(slope(&points), Some(1.5));
    }

    #[test]
    fn points_of_one_time_have_no_slope() {
        assert_eq!(slope(&VecDeque::from([(1.0, 0.0), (1.0, 9.0)])), None);
    }

    #[test]
    fn nothing_is_said_before_there_are_enough_groups() {
        let mut t = Trendline::default();
        assert_eq!(run(&mut t, 0..19, 1000), 0.0);
        assert!(t.update(&delta(19, 1000)) > 0.0);
    }

    /// Once the smoothing has caught up, a delay that grows by 1 ms in 10 ms
    /// has the slope 0.1: times 60 groups, times 4.
    #[test]
    fn a_growing_delay_has_its_slope() {
        let mut t = Trendline::default();
        let trend = run(&mut t, 0..200, 1000);
        assert!((trend - 24.0).abs() < 0.01, "{trend}");
        let mut t = Trendline::default();
        let trend = run(&mut t, 0..200, -1000);
        assert!((trend + 24.0).abs() < 0.01, "{trend}");
    }

    #[test]
    fn a_high_but_flat_delay_has_no_slope() {
        let mut t = Trendline::default();
        let rising = run(&mut t, 0..50, 2000);
        assert!(rising > 20.0, "100 ms have come up: {rising}");
        let flat = run(&mut t, 50..300, 0);
        assert!(flat.abs() < 0.01, "{flat}");
        assert!(t.smoothed_ms > 90.0, "the delay is still high");
    }

    #[test]
    fn no_more_groups_are_kept_than_the_line_needs() {
        let mut t = Trendline::default();
        run(&mut t, 0..1000, 10);
        assert_eq!(t.remembered(), GROUPS);
    }

    /// The peer's clock may be set back, within the same stream.
    #[test]
    fn a_clock_that_was_set_back_is_followed() {
        let mut t = Trendline::default();
        for n in 0..50 {
            t.update(&Delta {
                at: RemoteTime::from_millis(30_000 + 10 * n),
                ..delta(n, 1000)
            });
        }
        // 29 s back: before the first group.
        let flat = run(&mut t, 0..300, 0);
        assert!(
            flat.abs() < 0.01,
            "the slope of before stays for ever: {flat}"
        );
    }
}
