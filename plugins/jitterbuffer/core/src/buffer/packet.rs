// SPDX-License-Identifier: MPL-2.0
use dualstream_common::{DataSize, Timestamp};

use crate::Part;

/// How a packet came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Network,
    Retransmission,
    Fec,
}

/// A packet as it comes; `data` is whatever the caller keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<P> {
    pub sequence: u16,
    pub timestamp: u32,
    pub marker: bool,
    /// Of the payload.
    pub size: DataSize,
    pub origin: Origin,
    pub part: Part,
    /// Of its picture, the same in both streams of a dual stream.
    pub number: Option<u16>,
    /// Its frame is decoded and not shown.
    pub hidden: bool,
    pub data: P,
}

/// A packet on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out<P> {
    /// Times the sender began anew before it.
    pub epoch: u64,
    /// The sequence number, made endless, in this epoch.
    pub number: u64,
    pub timestamp: u32,
    /// When its frame should be shown.
    pub render: Timestamp,
    /// Something is missing before it.
    pub discont: bool,
    /// If it is the first of its frame.
    pub begin: Option<Begin>,
    pub data: P,
}

/// What begins with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// A frame of which all follows at once.
    Whole,
    /// What is there of a frame. What depayloads it may not know where it ends
    /// before the next one comes.
    Part,
}

/// Packets that are not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub sequence: u16,
    pub count: u16,
    /// Of the next packet that is there.
    pub timestamp: u32,
    pub render: Timestamp,
    /// So often the first was asked for.
    pub requests: u32,
}

/// Ask for this packet again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub sequence: u16,
    /// 0: for the first time.
    pub retry: u32,
    /// How long ago it should have come.
    pub delay: std::time::Duration,
    /// How long it is of use.
    pub deadline: std::time::Duration,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It was given up, or has gone already.
    Late,
    Duplicate,
    /// Sequence number or time stamp are far from those before. It is held
    /// back, and let in if others follow it.
    Astray,
}
