// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

/// Since the beginning, in packets where nothing else is said.
///
/// Each packet is counted once: `received + readmitted = pushed + late +
/// duplicates + astray + dropped + undecodable + held_packets`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferStats {
    pub received: u64,
    pub pushed: u64,
    /// Given up.
    pub lost: u64,
    /// Of those, the ones of gaps too large to be repaired: neither asked for nor
    /// waited for.
    pub hopeless: u64,
    /// Came when they were given up, or again.
    pub late: u64,
    pub duplicates: u64,
    /// Did not fit the stream.
    pub astray: u64,
    /// Of those, the ones that were let in when others followed them.
    pub readmitted: u64,
    /// Times the stream began anew.
    pub restarts: u64,
    /// Went since more is not held, for `drop_late`, or in a flush.
    pub dropped: u64,
    /// Held back since what they are predicted from is missing.
    pub undecodable: u64,
    pub key_requests: u64,
    /// Requests, repeated ones included.
    pub requests: u64,
    /// Packets that came after a request, in time.
    pub retransmitted: u64,
    /// The requests of those.
    pub retransmitted_requests: u64,
    /// Missing packets that FEC made.
    pub fec_repaired: u64,
    /// Missing packets that came by themselves.
    pub reordered: u64,
    pub rtt: Option<Duration>,
    /// Interarrival jitter (RFC 3550, section 6.4.1).
    pub jitter: Duration,
    pub held_packets: usize,
    pub held_bytes: u64,
}
