// SPDX-License-Identifier: MPL-2.0
//! FEC packets that wait for packets.

use super::store::Spot;
use crate::wire::{Coverage, MAX_STREAMS, Recovery};

/// FEC packets that wait, at most; the oldest gives way. As many as a slot has
/// bits for them.
pub(super) const MAX_PENDING: usize = u128::BITS as usize;

/// What of one stream a FEC packet protects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covered {
    pub stream: usize,
    /// Endless.
    pub base: u64,
    pub coverage: Coverage,
}

impl Covered {
    pub fn sequences(self) -> impl Iterator<Item = u64> {
        self.coverage
            .offsets()
            .map(move |offset| self.base + u64::from(offset))
    }

    pub fn last(self) -> u64 {
        self.base + u64::from(self.coverage.last())
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// Unlike that of any other.
    pub id: u64,
    /// SSRC and sequence number of the FEC packet.
    pub key: u64,
    pub recovery: Recovery,
    /// Its memory is used again.
    pub covered: Vec<Covered>,
    /// Packets that were not seen.
    pub missing: u32,
    /// Where the payload is in the store, behind room for a fixed header, and
    /// its number there.
    pub spot: Spot,
    pub number: u64,
    /// Bytes of the whole FEC packet.
    pub size: usize,
}

impl Pending {
    /// With all the memory it will ever use.
    pub fn new() -> Self {
        Self {
            covered: Vec::with_capacity(MAX_STREAMS),
            ..Self::default()
        }
    }
}

/// The indices of the bits that are set.
pub(super) fn bits(mut mask: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let index = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(index)
    })
}
