// SPDX-License-Identifier: MPL-2.0

/// A block of this many is split.
const FULL: usize = 256;
/// Two neighbours that have no more together become one: blocks are never many
/// for what they hold.
const FEW: usize = FULL / 2;

/// Numbers in the order of their size, in blocks: in one piece, each insertion
/// would move half of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sorted {
    /// None is empty.
    blocks: Vec<Vec<i64>>,
    len: usize,
}

impl Sorted {
    /// The block that this number is in, or belongs in.
    fn block_of(&self, number: i64) -> usize {
        self.blocks
            .partition_point(|block| block.last().is_some_and(|last| *last < number))
    }

    pub(super) fn insert(&mut self, number: i64) {
        let at = self
            .block_of(number)
            .min(self.blocks.len().saturating_sub(1));
        self.len += 1;
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(vec![number]);
            return;
        };
        let place = block.partition_point(|other| *other < number);
        block.insert(place, number);
        if block.len() >= FULL {
            let upper = block.split_off(FULL / 2);
            self.blocks.insert(at + 1, upper);
        }
    }

    /// One of those that are equal to it.
    pub(super) fn remove(&mut self, number: i64) {
        let at = self.block_of(number);
        let Some(block) = self.blocks.get_mut(at) else {
            return;
        };
        let Ok(place) = block.binary_search(&number) else {
            return;
        };
        block.remove(place);
        self.len -= 1;
        self.join(at);
        if let Some(before) = at.checked_sub(1) {
            self.join(before);
        }
    }

    /// Makes one of this block and the next if they hold few; drops the last
    /// one if it is empty.
    fn join(&mut self, at: usize) {
        let len = |at: usize| self.blocks.get(at).map(Vec::len);
        match (len(at), len(at + 1)) {
            (Some(this), Some(next)) if this + next <= FEW || this == 0 => {
                let next = self.blocks.remove(at + 1);
                if let Some(block) = self.blocks.get_mut(at) {
                    block.extend(next);
                }
            }
            (Some(0), None) => {
                self.blocks.remove(at);
            }
            _ => (),
        }
    }

    pub(super) fn first(&self) -> Option<i64> {
        self.blocks.first()?.first().copied()
    }

    /// The one that `n` are smaller than.
    pub(super) fn get(&self, n: usize) -> Option<i64> {
        if n >= self.len / 2 {
            return self.behind(self.len.checked_sub(n + 1)?);
        }
        let mut before = n;
        for block in &self.blocks {
            match block.get(before) {
                Some(number) => return Some(*number),
                None => before -= block.len(),
            }
        }
        None
    }

    /// The one that `n` are larger than.
    fn behind(&self, n: usize) -> Option<i64> {
        let mut left = n;
        for block in self.blocks.iter().rev() {
            match block.len().checked_sub(left + 1) {
                Some(at) => return block.get(at).copied(),
                None => left -= block.len(),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Many equal ones, many at one end, and all taken out again.
        #[test]
        fn it_is_what_one_sorted_piece_would_be(
            ops in proptest::collection::vec((0..3u8, 0..600i64), 0..3000),
        ) {
            let (mut sorted, mut plain) = (Sorted::default(), Vec::<i64>::new());
            for (op, number) in ops {
                if op == 0 {
                    sorted.remove(number);
                    if let Ok(at) = plain.binary_search(&number) {
                        plain.remove(at);
                    }
                } else {
                    let number = if op == 1 { number } else { number / 100 };
                    sorted.insert(number);
                    plain.insert(plain.partition_point(|other| *other < number), number);
                }
                prop_assert_eq!(sorted.len, plain.len());
                prop_assert_eq!(sorted.first(), plain.first().copied());
            }
            for n in 0..=plain.len() {
                prop_assert_eq!(sorted.get(n), plain.get(n).copied());
            }
            prop_assert!(sorted.blocks.len() <= 1 + 2 * plain.len().div_ceil(FEW));
            for number in plain {
                sorted.remove(number);
            }
            prop_assert_eq!((sorted.len, sorted.blocks.len()), (0, 0));
        }
    }

    #[test]
    fn blocks_that_are_left_with_few_are_joined() {
        let mut sorted = Sorted::default();
        for number in 0..10_000 {
            sorted.insert(number);
        }
        for number in (0..10_000).filter(|number| number % 100 > 0) {
            sorted.remove(number);
        }
        assert_eq!((sorted.len, sorted.get(50)), (100, Some(5000)));
        assert!(sorted.blocks.len() <= 2, "{}", sorted.blocks.len());
    }
}
