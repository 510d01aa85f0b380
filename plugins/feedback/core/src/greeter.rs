// SPDX-License-Identifier: MPL-2.0
//! When the receiver says hello, the message without entries.

use dualstream_common::Timestamp;
use std::time::Duration;

/// After the first hello the next comes this much later, and each later one
/// after twice the gap before it.
const FIRST_GAP: Duration = Duration::from_millis(250);

/// Hellos in all: at 0, 0.25, 0.75, 1.75, 3.75 and 7.75 s.
const HELLOS: u32 = 6;

/// Says hello a few times, because one message may be lost and a sender that
/// never hears of its peer never starts. Nothing is said once the receiver
/// has said more (a message with entries is also a hello).
#[derive(Clone, Copy, Debug, Default)]
pub struct Greeter {
    said: u32,
    next: Timestamp,
    answered: bool,
}

impl Greeter {
    /// The peer may be another one now: starts again. Not sooner than the
    /// next hello of the run before was due or a first gap has passed, so
    /// that packets of ever new SSRCs do not make a flood of hellos.
    pub fn restart(&mut self, now: Timestamp) {
        if self.said > 0 {
            let earliest = now + FIRST_GAP;
            self.next = if self.said < HELLOS && !self.answered {
                self.next.min(earliest)
            } else {
                earliest
            };
        }
        self.said = 0;
        self.answered = false;
    }

    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        !self.answered && self.said < HELLOS && now >= self.next
    }

    /// A hello was sent.
    pub fn said(&mut self, now: Timestamp) {
        let gap = FIRST_GAP * (1 << self.said.min(HELLOS));
        self.said = self.said.saturating_add(1);
        self.next = now + gap;
    }

    /// A message with entries was sent.
    pub fn said_more(&mut self) {
        self.answered = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn run(greeter: &mut Greeter, from: u64, to: u64) -> Vec<u64> {
        let mut said = Vec::new();
        for t in from..to {
            if greeter.is_due(ms(t)) {
                greeter.said(ms(t));
                said.push(t - from);
            }
        }
        said
    }

    #[test]
    fn six_hellos_with_doubling_gaps() {
        let mut greeter = Greeter::default();
        assert_eq!(
            run(&mut greeter, 1000, 60_000),
            [0, 250, 750, 1750, 3750, 7750]
        );
    }

    #[test]
    fn entries_end_the_hellos_until_the_peer_changes() {
        let mut greeter = Greeter::default();
        assert_eq!(run(&mut greeter, 0, 300), [0, 250]);
        greeter.said_more();
        assert!(run(&mut greeter, 300, 10_000).is_empty());
        greeter.restart(ms(10_000));
        assert_eq!(
            run(&mut greeter, 10_000, 30_000),
            [250, 500, 1000, 2000, 4000, 8000]
        );
    }

    #[test]
    fn an_ssrc_for_each_packet_is_no_flood() {
        let mut greeter = Greeter::default();
        let mut said = 0;
        for t in 0..10_000 {
            greeter.restart(ms(t));
            if greeter.is_due(ms(t)) {
                greeter.said(ms(t));
                said += 1;
            }
        }
        // One for each gap of 250 ms at the most, and not none either.
        assert!((1..=41).contains(&said), "{said} hellos in 10 s");
    }

    proptest! {
        #[test]
        fn never_more_than_one_in_a_gap(ops in proptest::collection::vec((0u64..400, 0u8..4), 0..400)) {
            let mut greeter = Greeter::default();
            let (mut now, mut last) = (0, None::<u64>);
            for (step, op) in ops {
                now += step;
                match op {
                    0 => greeter.restart(ms(now)),
                    1 if step == 0 => greeter.said_more(),
                    _ => {}
                }
                if greeter.is_due(ms(now)) {
                    greeter.said(ms(now));
                    if let Some(last) = last {
                        prop_assert!(now - last >= 250, "{} after {}", now, last);
                    }
                    last = Some(now);
                }
            }
        }
    }
}
