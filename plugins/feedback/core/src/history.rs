// SPDX-License-Identifier: MPL-2.0
//! What the receiver has said of late, so that a lost message costs nothing
//! if the next one arrives.

use crate::fci::{Entry, Fci};

/// How many frames each message repeats.
pub const HISTORY: usize = 4;

/// The last [`HISTORY`] distinct frames, latest first. The oldest goes when
/// another comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    entries: [Entry; HISTORY],
    count: usize,
}

impl History {
    /// A frame that is there already moves to the front with its new flags.
    pub fn insert(&mut self, entry: Entry) {
        let same = |old: &Entry| (old.number, old.generation) == (entry.number, entry.generation);
        let known = self.entries[..self.count].iter().position(same);
        if known.is_none() {
            self.count = (self.count + 1).min(HISTORY);
        }
        let last = known.unwrap_or(self.count - 1);
        self.entries[..=last].rotate_right(1);
        self.entries[0] = entry;
    }

    pub fn clear(&mut self) {
        self.count = 0;
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn to_fci(&self) -> Fci {
        Fci::new(self.entries[..self.count].iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(number: u16) -> Entry {
        Entry {
            number,
            decodable: true,
            ..Entry::default()
        }
    }

    fn numbers(history: &History) -> Vec<u16> {
        let fci = history.to_fci();
        fci.entries().iter().map(|e| e.number).collect()
    }

    #[test]
    fn the_last_four_are_kept_latest_first() {
        let mut history = History::default();
        assert!(history.is_empty());
        for number in 1..=6 {
            history.insert(frame(number));
        }
        assert_eq!(numbers(&history), [6, 5, 4, 3]);
        history.clear();
        assert!(numbers(&history).is_empty());
    }

    #[test]
    fn a_repeated_frame_moves_to_the_front_with_its_new_flags() {
        let mut history = History::default();
        for number in [1, 2, 3, 1] {
            history.insert(frame(number));
        }
        assert_eq!(numbers(&history), [1, 3, 2]);
        history.insert(Entry {
            key: true,
            ..frame(2)
        });
        assert_eq!(numbers(&history), [2, 1, 3]);
        assert!(history.to_fci().entries()[0].key);
        assert!(!history.to_fci().entries()[1].key);
    }

    #[test]
    fn a_number_in_another_generation_is_another_frame() {
        let mut history = History::default();
        history.insert(frame(1));
        history.insert(Entry {
            generation: 1,
            ..frame(1)
        });
        assert_eq!(numbers(&history), [1, 1]);
    }

    proptest! {
        /// Against the obvious model: a list without repeats, cut to four.
        #[test]
        fn any_order_of_frames_matches_the_model(numbers_in in proptest::collection::vec(0u16..8, 0..60)) {
            let mut history = History::default();
            let mut model: Vec<u16> = Vec::new();
            for number in numbers_in {
                history.insert(frame(number));
                model.retain(|n| *n != number);
                model.insert(0, number);
                model.truncate(HISTORY);
                prop_assert_eq!(numbers(&history), model.clone());
            }
        }
    }
}
