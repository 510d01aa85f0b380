// SPDX-License-Identifier: MPL-2.0
//! When an encoder is given a new rate: at once where that costs nothing, in
//! few and large steps where it costs a key frame.

/// What a change of rate does to an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateChange {
    /// It goes on with the next frame.
    InPlace,
    /// It hands on all it has first, and goes on without a key frame.
    Drains,
    /// It makes a key frame.
    KeyFrame,
    /// It starts anew inside, which takes time and makes a key frame.
    Rebuilds,
    /// It has the rate that it was made with; another needs another encoder.
    NewInstance,
}

impl RateChange {
    /// A change makes a key frame.
    #[must_use]
    pub const fn makes_key_frame(self) -> bool {
        match self {
            Self::InPlace | Self::Drains => false,
            Self::KeyFrame | Self::Rebuilds | Self::NewInstance => true,
        }
    }
}
