// SPDX-License-Identifier: MPL-2.0
//! XOR of byte strings, in a form that the compiler turns into vector
//! instructions.

/// Bytes per step: four vectors of 128 bits, the least that every x86-64 and
/// AArch64 machine has; wider ones use fewer instructions for the same step.
pub const LANE: usize = 64;

/// Strings are padded with zeros to whole lanes.
pub type Lane = [u8; LANE];

const ZERO: Lane = [0; LANE];

/// Strings that are summed in one go. More take fewer turns over the sum, but
/// their addresses do not fit in the registers.
const AT_ONCE: usize = 12;

/// Adds `N` strings to `into` if it counts, else puts their sum there, as far as
/// all go.
// With the number known the compiler unrolls the inner loop.
fn sum<const N: usize>(into: &mut [Lane], counts: bool, from: &[&[Lane]]) {
    let Some(from) = from.first_chunk::<N>() else {
        return;
    };
    let length = from
        .iter()
        .fold(into.len(), |length, f| length.min(f.len()));
    let from = from.map(|f| &f[..length]);
    for (at, lane) in into[..length].iter_mut().enumerate() {
        let mut sum = if counts { *lane } else { ZERO };
        for f in from {
            for i in 0..LANE {
                sum[i] ^= f[at][i];
            }
        }
        *lane = sum;
    }
}

/// XOR of any number of strings; those that are longer than the place it is put
/// in are cut.
#[derive(Debug)]
pub struct Sum<'a> {
    into: &'a mut [Lane],
    /// What is there is a part of the sum.
    counts: bool,
    strings: [&'a [Lane]; AT_ONCE],
    held: usize,
}

impl<'a> Sum<'a> {
    /// Added to what is there.
    #[must_use]
    pub fn onto(into: &'a mut [Lane]) -> Self {
        Self {
            into,
            counts: true,
            strings: [&[]; AT_ONCE],
            held: 0,
        }
    }

    /// Put in the place of what is there.
    #[must_use]
    pub fn into(into: &'a mut [Lane]) -> Self {
        Self {
            counts: false,
            ..Self::onto(into)
        }
    }

    #[inline]
    pub fn add(&mut self, string: &'a [Lane]) {
        if self.held == AT_ONCE {
            self.sum();
        }
        if let Some(place) = self.strings.get_mut(self.held) {
            *place = string;
            self.held += 1;
        }
    }

    /// To be called at the end.
    pub fn finish(mut self) {
        self.sum();
    }

    /// Adds what is held.
    fn sum(&mut self) {
        let mut into = &mut *self.into;
        while self.held > 0 && !into.is_empty() {
            let held = self.strings.get(..self.held).unwrap_or_default();
            let shortest = held.iter().map(|s| s.len()).min().unwrap_or(0);
            let (common, rest) = into.split_at_mut(shortest.min(into.len()));
            sum_up_to_twelve(common, self.counts, held);
            into = rest;
            skip(&mut self.strings, &mut self.held, shortest);
        }
        if !self.counts {
            into.fill(ZERO);
        }
        self.counts = true;
        self.held = 0;
    }
}

fn sum_up_to_twelve(into: &mut [Lane], counts: bool, from: &[&[Lane]]) {
    match from.len() {
        0 => (),
        1 => sum::<1>(into, counts, from),
        2 => sum::<2>(into, counts, from),
        3 => sum::<3>(into, counts, from),
        4 => sum::<4>(into, counts, from),
        5 => sum::<5>(into, counts, from),
        6 => sum::<6>(into, counts, from),
        7 => sum::<7>(into, counts, from),
        8 => sum::<8>(into, counts, from),
        9 => sum::<9>(into, counts, from),
        10 => sum::<10>(into, counts, from),
        11 => sum::<11>(into, counts, from),
        _ => sum::<AT_ONCE>(into, counts, from),
    }
}

/// Leaves out the first lanes of each string that is held, and those that end
/// there.
fn skip(strings: &mut [&[Lane]; AT_ONCE], held: &mut usize, lanes: usize) {
    let mut left = 0;
    for at in 0..*held {
        let rest = strings[at].get(lanes..).unwrap_or_default();
        strings[left] = rest;
        left += usize::from(!rest.is_empty());
    }
    *held = left;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string() -> impl Strategy<Value = Vec<Lane>> {
        let lane = |seed: u64| std::array::from_fn(|i| seed.rotate_left(i as u32) as u8);
        proptest::collection::vec(any::<u64>().prop_map(lane), 0..6)
    }

    proptest! {
        #[test]
        fn it_is_what_a_loop_over_bytes_makes(
            into in string(),
            from in proptest::collection::vec(string(), 0..30),
        ) {
            let (mut onto, mut fresh, mut plain) = (into.clone(), into.clone(), into);
            for (into, first) in [(&mut onto, Sum::onto as fn(_) -> _), (&mut fresh, Sum::into)] {
                let mut sum: Sum<'_> = first(into);
                from.iter().for_each(|f| sum.add(f));
                sum.finish();
            }
            let before = plain.clone();
            for f in &from {
                for (a, b) in plain.as_flattened_mut().iter_mut().zip(f.as_flattened()) {
                    *a ^= b;
                }
            }
            prop_assert_eq!(&onto, &plain);
            for (a, b) in plain.as_flattened_mut().iter_mut().zip(before.as_flattened()) {
                *a ^= b;
            }
            prop_assert_eq!(fresh, plain);
        }
    }
}
