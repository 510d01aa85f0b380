// SPDX-License-Identifier: MPL-2.0
//! XOR of byte strings, in a form that the compiler turns into vector
//! instructions.

/// Bytes per step: four vectors of 128 bits, the least that every x86-64 and
/// AArch64 machine has; wider ones use fewer instructions for the same step.
pub const LANE: usize = 64;

/// Byte strings that are summed in one go.
const AT_ONCE: usize = 8;

/// XORs `from` into the beginning of `into`, as far as both go.
pub fn xor(into: &mut [u8], from: &[u8]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a ^= b;
    }
}

/// As [`xor`] of each of `from`, but what is whole lanes of `into` is read, if
/// it counts, and written once.
fn xor_several(into: &mut [u8], counts: bool, from: &[&[u8]]) {
    let (lanes, rest) = into.as_chunks_mut::<LANE>();
    for (index, lane) in lanes.iter_mut().enumerate() {
        let mut sum = if counts { *lane } else { [0; LANE] };
        for f in from {
            if let Some(f) = f.as_chunks::<LANE>().0.get(index) {
                for i in 0..LANE {
                    sum[i] ^= f[i];
                }
            }
        }
        *lane = sum;
    }
    if !counts {
        rest.fill(0);
    }
    let whole = lanes.len() * LANE;
    for f in from {
        let done = (f.len() / LANE * LANE).min(whole);
        if f.len() > done {
            let rest = into.get_mut(done..).unwrap_or_default();
            xor(rest, f.get(done..).unwrap_or_default());
        }
    }
}

fn xor_groups<'a>(into: &mut [u8], mut counts: bool, from: impl Iterator<Item = &'a [u8]>) {
    let mut several: [&[u8]; AT_ONCE] = [&[]; AT_ONCE];
    let mut held = 0;
    for next in from {
        several[held] = next;
        held += 1;
        if held == AT_ONCE {
            xor_several(into, counts, &several);
            (held, counts) = (0, true);
        }
    }
    if held > 0 || !counts {
        xor_several(into, counts, several.get(..held).unwrap_or_default());
    }
}

/// XORs any number of byte strings into `into`; those that are longer are cut.
/// Fastest if all are whole lanes.
pub fn xor_all<'a>(into: &mut [u8], from: impl Iterator<Item = &'a [u8]>) {
    xor_groups(into, true, from);
}

/// As [`xor_all`] into zeros, whatever is there.
pub fn sum_all<'a>(into: &mut [u8], from: impl Iterator<Item = &'a [u8]>) {
    xor_groups(into, false, from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_a_loop_over_bytes_makes(
            into in proptest::collection::vec(any::<u8>(), 0..300),
            from in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300),
                0..10,
            ),
        ) {
            let (mut fast, mut plain) = (into.clone(), into);
            xor_all(&mut fast, from.iter().map(Vec::as_slice));
            for f in &from {
                for (a, b) in plain.iter_mut().zip(f) {
                    *a ^= b;
                }
            }
            prop_assert_eq!(&fast, &plain);

            sum_all(&mut fast, from.iter().map(Vec::as_slice));
            plain.fill(0);
            xor_all(&mut plain, from.iter().map(Vec::as_slice));
            prop_assert_eq!(fast, plain);
        }
    }
}
