// SPDX-License-Identifier: MPL-2.0
//! Times of many frames in a few figures.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// In ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Frames that were timed.
    pub frames: usize,
}

impl Spread {
    /// By nearest rank: each figure is one that was measured. `None` of none.
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut ms: Vec<f64> = times.into_iter().map(|t| t.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let at = (ms.len() * percent).div_ceil(100).max(1) - 1;
            ms.get(at).copied()
        };
        Some(Self {
            p50_ms: rank(50)?,
            p95_ms: rank(95)?,
            p99_ms: rank(99)?,
            max_ms: rank(100)?,
            frames: ms.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest() {
        let times = (1..=200).rev().map(Duration::from_millis);
        let spread = Spread::of(times).unwrap();
        assert_eq!(spread.p50_ms, 100.0);
        assert_eq!(spread.p95_ms, 190.0);
        assert_eq!(spread.p99_ms, 198.0);
        assert_eq!(spread.max_ms, 200.0);
        assert_eq!(spread.frames, 200);
    }

    #[test]
    fn of_one_all_are_that_one_and_of_none_there_is_nothing() {
        let one = Spread::of([Duration::from_millis(7)]).unwrap();
        assert_eq!((one.p50_ms, one.p99_ms, one.max_ms), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of([]), None);
    }
}
