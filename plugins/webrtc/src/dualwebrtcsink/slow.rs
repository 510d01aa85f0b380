// SPDX-License-Identifier: MPL-2.0
//! Which of the receivers that share an encoder holds up the others: the encoder
//! runs at the lowest of their estimates.

use std::time::{Duration, Instant};

use gst::prelude::*;

/// Who bears less than this part of what the next one bears has held up the
/// others, after this time, and gets an encoder for itself.
const SLOW: f64 = 0.7;
const SLOW_AFTER: Duration = Duration::from_secs(3);
/// How often that is looked at.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// The network has to be seen so often in that time to be what bounds it.
const EVIDENCE: usize = 2;

/// A receiver, as its estimator shows it.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub id: u64,
    /// In bit/s.
    pub estimate: u64,
    /// There is a queue, or packets are lost, or the receiver says so. False as
    /// well where the application sends less than the network bears.
    pub is_bounded: bool,
    /// How often it was seen that the network was given too much.
    pub overuses: u64,
}

impl Look {
    /// `rtpgcc`'s `stats`.
    pub fn new(id: u64, estimate: u64, estimator: &gst::Element) -> Self {
        let stats = estimator.property::<Option<gst::Structure>>("stats");
        let stats = stats.as_ref();
        let cause = stats.and_then(|s| s.get::<&str>("cause").ok());
        let overuses = stats.and_then(|s| s.get("overuses").ok());
        Self {
            id,
            estimate,
            is_bounded: matches!(cause, Some("queue" | "loss" | "competition" | "remb")),
            overuses: overuses.unwrap_or(0),
        }
    }
}

#[derive(Clone, Debug)]
struct Suspect {
    id: u64,
    since: Instant,
    overuses: u64,
    /// When its network was seen to be what holds it: in the last while.
    seen: Vec<Instant>,
}

#[derive(Debug, Default)]
pub struct Search(Option<Suspect>);

impl Search {
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// All who share an encoder and say something. Gives the one that is to part.
    pub fn look(&mut self, now: Instant, looks: &[Look]) -> Option<u64> {
        let mut sorted = looks.to_vec();
        sorted.sort_by_key(|look| look.estimate);
        let lowest = match sorted[..] {
            [lowest, next, ..] if (lowest.estimate as f64) < SLOW * next.estimate as f64 => lowest,
            _ => {
                self.clear();
                return None;
            }
        };
        let known = self.0.take().filter(|suspect| suspect.id == lowest.id);
        let mut suspect = known.unwrap_or_else(|| Suspect {
            id: lowest.id,
            since: now,
            overuses: lowest.overuses,
            seen: Vec::new(),
        });
        if lowest.is_bounded || lowest.overuses > suspect.overuses {
            suspect.seen.push(now);
        }
        suspect.overuses = lowest.overuses;
        let age = |since: Instant| now.saturating_duration_since(since);
        suspect.seen.retain(|at| age(*at) <= SLOW_AFTER);
        let parts = age(suspect.since) >= SLOW_AFTER && suspect.seen.len() >= EVIDENCE;
        if !parts {
            self.0 = Some(suspect);
        }
        parts.then_some(lowest.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(estimates: &[(u64, u64)], is_bounded: bool) -> Vec<Look> {
        let look = |(id, estimate): &(u64, u64)| Look {
            id: *id,
            estimate: *estimate,
            is_bounded,
            overuses: 0,
        };
        estimates.iter().map(look).collect()
    }

    /// Ten seconds; when somebody parts, and who.
    fn search(looks: impl Fn(u32) -> Vec<Look>) -> Option<(Duration, u64)> {
        let (start, mut search) = (Instant::now(), Search::default());
        (0..20).find_map(|turn| {
            let after = INTERVAL * turn;
            let id = search.look(start + after, &looks(turn))?;
            Some((after, id))
        })
    }

    const LOW: [(u64, u64); 2] = [(1, 1_000_000), (2, 300_000)];

    #[test]
    fn who_bears_much_less_than_the_next_parts_after_a_while() {
        let slow = [(1, 1_000_000), (2, 500_000), (3, 900_000)];
        assert_eq!(search(|_| at(&slow, true)), Some((SLOW_AFTER, 2)));
        let alike = [(1, 1_000_000), (2, 750_000), (3, 900_000)];
        assert_eq!(search(|_| at(&alike, true)), None);
        assert_eq!(search(|_| at(&slow[1..2], true)), None, "alone");
        assert_eq!(search(|_| Vec::new()), None);
    }

    /// Its estimate stays, or has not risen yet, and there is no queue.
    #[test]
    fn an_application_limited_receiver_is_never_moved() {
        assert_eq!(search(|_| at(&LOW, false)), None);
        // A single time may be chance: a burst of something else.
        assert_eq!(search(|turn| at(&LOW, turn % 8 == 3)), None);
    }

    #[test]
    fn too_much_now_and_then_shows_the_network_too() {
        // 5 looks in a row with more of them, from the tenth on.
        let found = search(|turn| {
            let mut looks = at(&LOW, false);
            looks[1].overuses = u64::from(turn.clamp(10, 15));
            looks
        });
        assert_eq!(found, Some((INTERVAL * 12, 2)));
    }

    #[test]
    fn who_is_slow_in_turns_with_another_does_not_part() {
        let other = [(1, 300_000), (2, 1_000_000)];
        let found = search(|turn| at(if turn % 4 < 2 { &LOW } else { &other }, true));
        assert_eq!(found, None);
    }
}
