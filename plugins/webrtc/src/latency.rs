// SPDX-License-Identifier: MPL-2.0
//! Parts of the latency over the last seconds; docs/latency.md has the fields.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What percentiles are taken of: this time, and this many pictures at most.
const SPAN: Duration = Duration::from_secs(10);
const MOST: usize = 1024;

/// One part, for the pictures of late.
#[derive(Clone, Debug, Default)]
pub struct Window(VecDeque<(Instant, u64)>);

impl Window {
    pub fn push(&mut self, now: Instant, nanos: u64) {
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back((now, nanos));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self
            .0
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > SPAN)
        {
            self.0.pop_front();
        }
    }

    /// `None` if there was none of late.
    pub fn structure(&mut self, now: Instant) -> Option<gst::Structure> {
        self.forget(now);
        let (_, last) = self.0.back()?;
        let mut sorted: Vec<u64> = self.0.iter().map(|(_, nanos)| *nanos).collect();
        sorted.sort_unstable();
        Some(
            gst::Structure::builder("part")
                .field("last", *last)
                .field("p50", percentile(&sorted, 50))
                .field("p95", percentile(&sorted, 95))
                .field("count", sorted.len() as u64)
                .build(),
        )
    }
}

/// The smallest value that so many percent do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// Puts those parts that are known into a structure.
pub fn add_parts<'a>(
    s: &mut gst::Structure,
    now: Instant,
    parts: impl IntoIterator<Item = (&'static str, &'a mut Window)>,
) {
    for (name, window) in parts {
        if let Some(part) = window.structure(now) {
            s.set(name, part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_ten_seconds() {
        gst::init().unwrap();
        let mut window = Window::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(window.structure(start).is_none());
        window.push(at(0), 1_000_000);
        for n in 1..=100 {
            window.push(at(5000), n);
        }
        let part = window.structure(at(9000)).unwrap();
        assert_eq!(part.get::<u64>("count"), Ok(101));
        let part = window.structure(at(12_000)).unwrap();
        assert_eq!(part.get::<u64>("count"), Ok(100));
        assert_eq!(part.get::<u64>("p50"), Ok(50));
        assert_eq!(part.get::<u64>("p95"), Ok(95));
        assert_eq!(part.get::<u64>("last"), Ok(100));
        assert!(window.structure(at(16_000)).is_none(), "nothing of late");
        for n in 0..5000 {
            window.push(at(20_000), n);
        }
        assert_eq!(window.0.len(), MOST);
    }

    #[test]
    fn of_one_value_all_percentiles_are_that_value() {
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[7], 95), 7);
        assert_eq!(percentile(&[7, 8], 50), 7);
        assert_eq!(percentile(&[], 50), 0);
    }
}
