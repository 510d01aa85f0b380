// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::Timestamp;

const PERIOD: Duration = Duration::from_millis(500);
/// Periods in a row. One large frame makes those of one or two late.
const PERIODS: u32 = 3;
/// How long it takes to find a change: what is older is of before.
pub(super) const FOUND_AFTER: Duration = Duration::from_millis(1500);
/// Times the target, from which a period has too many late frames.
const TOO_MANY: f64 = 2.0;

/// Finds that the network became worse: late frames, period after period.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    started: Option<Timestamp>,
    late: u32,
    all: u32,
    periods: u32,
}

impl Change {
    /// Whether this frame shows that there was a change.
    pub(super) fn frame(&mut self, arrival: Timestamp, late: bool, late_target: f64) -> bool {
        let started = *self.started.get_or_insert(arrival);
        if arrival.since(started) >= PERIOD {
            self.started = Some(arrival);
            let allowed = TOO_MANY * late_target * f64::from(self.all) + 0.5;
            self.periods = if f64::from(self.late) > allowed {
                self.periods + 1
            } else {
                0
            };
            (self.late, self.all) = (0, 0);
        }
        self.late += u32::from(late);
        self.all += 1;
        let changed = self.periods >= PERIODS;
        if changed {
            self.periods = 0;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(frames: u64, late: impl Fn(u64) -> bool) -> usize {
        let mut change = Change::default();
        (0..frames)
            .filter(|n| change.frame(Timestamp::from_millis(n * 33), late(*n), 0.01))
            .count()
    }

    #[test]
    fn late_frames_that_go_on_are_a_change_and_a_cluster_is_not() {
        assert_eq!(changes(60, |_| true), 1);
        assert_eq!(changes(60, |n| n % 12 == 0), 1, "one in each period");
        assert_eq!(changes(600, |n| n % 60 < 9), 0, "a key frame");
        assert_eq!(changes(600, |_| false), 0);
    }
}
