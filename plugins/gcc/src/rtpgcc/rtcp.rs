// SPDX-License-Identifier: MPL-2.0
//! What the peer's RTCP reports say of losses (RFC 3550 section 6.4).

use std::time::Duration;

use dualstream_common::{Ratio, Timestamp};

/// Time over which losses are counted.
const INTERVAL: Duration = Duration::from_secs(1);
/// A share of fewer packets says nothing.
const LEAST_PACKETS: u64 = 20;
/// Sources remembered; the one heard of longest ago goes.
const MOST_SOURCES: usize = 64;
/// A step of more packets than this is another numbering.
const MOST_STEP: u32 = 100_000;
/// Without feedback for each packet this share of losses is needed to say that
/// there is congestion, as in draft-ietf-rmcat-gcc-02 section 6.
pub const CONGESTION: f64 = 0.1;

/// A report block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub ssrc: u32,
    /// Since the source began; duplicates count against it.
    pub lost: i32,
    pub highest: u32,
}

/// The blocks of all reports in a compound packet. What makes no sense is
/// passed over.
pub fn blocks(mut compound: &[u8]) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Some((head, _)) = compound.split_first_chunk::<4>() {
        let length = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
        let Some((packet, rest)) = compound.split_at_checked(length) else {
            break;
        };
        compound = rest;
        // Header and sender; a sender report has five words more.
        let first = match head[1] {
            200 => 28,
            201 => 8,
            _ => continue,
        };
        if head[0] >> 6 != 2 {
            continue;
        }
        let count = usize::from(head[0] & 0x1f);
        let all = packet.get(first..).unwrap_or_default();
        blocks.extend(all.as_chunks::<24>().0.iter().take(count).map(|block| {
            let word = |at: usize| {
                u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
            };
            Block {
                ssrc: word(0),
                // 24 bits with a sign.
                lost: (word(4) << 8) as i32 >> 8,
                highest: word(8),
            }
        }));
    }
    blocks
}

/// The share of all packets lost, from one interval to the next.
#[derive(Debug, Default)]
pub struct Losses {
    /// As last reported, the latest last.
    sources: Vec<Block>,
    since: Option<Timestamp>,
    expected: u64,
    lost: u64,
}

impl Losses {
    pub fn add(&mut self, now: Timestamp, block: Block) {
        self.since.get_or_insert(now);
        let known = self.sources.iter().position(|s| s.ssrc == block.ssrc);
        if let Some(before) = known.map(|at| self.sources.remove(at)) {
            let expected = block.highest.wrapping_sub(before.highest);
            if expected <= MOST_STEP {
                let lost = i64::from(block.lost) - i64::from(before.lost);
                self.expected += u64::from(expected);
                self.lost += lost.clamp(0, i64::from(expected)) as u64;
            }
        } else if self.sources.len() == MOST_SOURCES {
            self.sources.remove(0);
        }
        self.sources.push(block);
    }

    /// The share lost in an interval that is over, and how long it was.
    pub fn take(&mut self, now: Timestamp) -> Option<(Ratio, Duration)> {
        let time = now.since(self.since?);
        if time < INTERVAL || self.expected < LEAST_PACKETS {
            return None;
        }
        let share = Ratio::clamped(self.lost as f64 / self.expected as f64);
        self.since = Some(now);
        (self.expected, self.lost) = (0, 0);
        Some((share, time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender report and a receiver report with two blocks, by RFC 3550.
    fn compound() -> Vec<u8> {
        let block = |ssrc: u8, lost: [u8; 3], highest: u8| {
            let mut b = vec![0, 0, 0, ssrc, 0x40];
            b.extend(lost);
            b.extend([0, 1, 0, highest]);
            b.extend([0; 12]);
            b
        };
        let mut packet = vec![0x81, 200, 0, 12];
        packet.extend([9; 24]);
        packet.extend(block(1, [0, 0, 5], 7));
        packet.extend([0x82, 201, 0, 13, 0, 0, 0, 9]);
        packet.extend(block(2, [0xff, 0xff, 0xfe], 8));
        packet.extend(block(3, [0, 1, 0], 9));
        packet
    }

    #[test]
    fn blocks_of_both_kinds_of_report_are_read() {
        let block = |ssrc, lost, highest| Block {
            ssrc,
            lost,
            highest,
        };
        let expected = [
            block(1, 5, 0x1_0007),
            block(2, -2, 0x1_0008),
            block(3, 256, 0x1_0009),
        ];
        assert_eq!(blocks(&compound()), expected);
        // Cut anywhere, and with any byte changed: no panic, no more blocks.
        for cut in 0..compound().len() {
            blocks(&compound()[..cut]);
            for value in 0..=255 {
                let mut broken = compound();
                broken[cut] = value;
                assert!(blocks(&broken).len() <= compound().len() / 24);
            }
        }
    }

    #[test]
    fn the_share_lost_is_that_of_all_sources_in_the_interval() {
        let mut losses = Losses::default();
        let at = Timestamp::from_millis;
        let mut add = |ms, ssrc, lost, highest| {
            losses.add(
                at(ms),
                Block {
                    ssrc,
                    lost,
                    highest,
                },
            );
            losses.take(at(ms))
        };
        // What was before is not known.
        assert_eq!(add(0, 1, 1000, 5000), None);
        assert_eq!(add(0, 2, 0, u32::MAX), None);
        assert_eq!(add(500, 1, 1010, 5060), None, "too soon");
        // 60 + 40 packets, 10 of them lost.
        let share = Ratio::new(0.1).map(|share| (share, Duration::from_millis(1000)));
        assert_eq!(add(1000, 2, 0, 39), share);
        // A source that begins anew, and one that has more duplicates.
        assert_eq!(add(2000, 1, 0, 0), None);
        let share = Some((Ratio::ZERO, Duration::from_millis(1100)));
        assert_eq!(add(2100, 2, -5, 100), share);
    }

    #[test]
    fn sources_are_bounded() {
        let mut losses = Losses::default();
        for ssrc in 0..10_000 {
            let block = Block {
                ssrc,
                lost: 0,
                highest: 0,
            };
            losses.add(Timestamp::ZERO, block);
        }
        assert_eq!(losses.sources.len(), MOST_SOURCES);
    }
}
