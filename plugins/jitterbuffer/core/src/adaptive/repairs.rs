// SPDX-License-Identifier: MPL-2.0
/// So many at once.
const MOST: f64 = 4.0;

/// Finds frames that waited for a retransmission where hardly any do, as with
/// forward error correction that repairs nearly all: to wait for them would cost
/// all others a round trip, and their number in a window says nothing yet when
/// it is young. A token bucket: one for each frame that may be late by the
/// target.
#[derive(Clone, Debug)]
pub(super) struct Repairs {
    tokens: f64,
}

impl Default for Repairs {
    fn default() -> Self {
        Self { tokens: MOST }
    }
}

impl Repairs {
    /// Whether this frame is not to be learnt from.
    pub(super) fn is_rare(&mut self, retransmitted: bool, late_target: f64) -> bool {
        self.tokens = (self.tokens + late_target).min(MOST);
        let rare = retransmitted && self.tokens >= 1.0;
        if rare {
            self.tokens -= 1.0;
        }
        rare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `frames`, each `nth` retransmitted, those that are learnt from.
    fn learnt(frames: u32, nth: u32) -> usize {
        let mut repairs = Repairs::default();
        (1..=frames)
            .map(|n| n % nth == 0)
            .filter(|&repaired| !repairs.is_rare(repaired, 0.005) && repaired)
            .count()
    }

    #[test]
    fn what_is_rarer_than_the_target_is_not_learnt_from() {
        assert_eq!(learnt(10_000, 300), 0);
        assert_eq!(learnt(40, 10), 0, "a few at once");
    }

    #[test]
    fn what_happens_often_is() {
        // 100 tokens for 1000 frames, and the first four.
        assert!(learnt(20_000, 20).abs_diff(1000 - 104) <= 1);
    }
}
