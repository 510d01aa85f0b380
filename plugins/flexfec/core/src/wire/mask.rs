// SPDX-License-Identifier: MPL-2.0
//! Masks of 15, 46 or 109 (draft-03) and 110 (RFC 8627) bits, the first bit
//! for the packet at the base.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-+-----------------------------+
//! |            SN base            |k|         mask 0..14          |
//! +-+-----------------------------+-+-----------------------------+
//! |k|                        mask 15..45                          |
//! +-+-------------------------------------------------------------+
//! |k|        mask 46..108 (draft-03, 63 bits after a k-bit)       |
//! | |        mask 46..109 (RFC 8627, 64 bits, no k-bit)           |
//! +-+-------------------------------------------------------------+
//! ```
//!
//! In draft-03 a k-bit of 1 ends the mask, and one of the three must. In
//! RFC 8627 a k-bit of 1 says that the mask goes on.

use super::{FecError, Format, take};

const FIRST: u32 = 15;
const SECOND: u32 = 46;

const K16: u16 = 1 << 15;
const K32: u32 = 1 << 31;
const K64: u64 = 1 << 63;

/// Takes a mask off the front; bit `i` of it, from the least, is the packet at
/// base + `i`.
#[inline]
pub fn read(format: Format, bytes: &mut &[u8]) -> Result<u128, FecError> {
    let more = |k: bool| k == (format == Format::Rfc8627);
    let first = u16::from_be_bytes(take(bytes)?);
    let mut mask = u128::from((first & !K16).reverse_bits() >> 1);
    if !more(first & K16 != 0) {
        return Ok(mask);
    }
    let second = u32::from_be_bytes(take(bytes)?);
    mask |= u128::from((second & !K32).reverse_bits() >> 1) << FIRST;
    if !more(second & K32 != 0) {
        return Ok(mask);
    }
    let third = u64::from_be_bytes(take(bytes)?);
    match format {
        Format::Rfc8627 => Ok(mask | u128::from(third.reverse_bits()) << SECOND),
        Format::FlexFec03 if third & K64 == 0 => Err(FecError::EndlessMask),
        Format::FlexFec03 => Ok(mask | u128::from((third & !K64).reverse_bits() >> 1) << SECOND),
    }
}

/// Appends the shortest mask that holds all bits; those beyond
/// [`Format::span`] are not written.
pub fn write(format: Format, mask: u128, out: &mut Vec<u8>) {
    let bits = u128::BITS - mask.leading_zeros();
    let (k_ends, k_goes_on) = match format {
        Format::FlexFec03 => (1, 0),
        Format::Rfc8627 => (0, 1),
    };
    let k = |ends: bool| if ends { k_ends } else { k_goes_on };

    let first = (mask as u16 & !K16).reverse_bits() >> 1;
    let ends = bits <= FIRST;
    out.extend_from_slice(&(first | k(ends) << 15).to_be_bytes());
    if ends {
        return;
    }
    let second = ((mask >> FIRST) as u32 & !K32).reverse_bits() >> 1;
    let ends = bits <= SECOND;
    out.extend_from_slice(&(second | u32::from(k(ends)) << 31).to_be_bytes());
    if ends {
        return;
    }
    let third = (mask >> SECOND) as u64;
    let third = match format {
        Format::Rfc8627 => third.reverse_bits(),
        Format::FlexFec03 => (third & !K64).reverse_bits() >> 1 | K64,
    };
    out.extend_from_slice(&third.to_be_bytes());
}
