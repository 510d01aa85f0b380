// SPDX-License-Identifier: MPL-2.0

/// How many SSRCs a sender answers for.
pub const RECENT_SSRCS: usize = 4;

/// The last [`RECENT_SSRCS`] distinct SSRCs that were seen, so that a message
/// about the stream before a restart still finds its element. The one seen
/// longest ago goes when another comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecentSsrcs {
    ssrcs: [u32; RECENT_SSRCS],
    count: usize,
}

impl RecentSsrcs {
    /// True if `ssrc` is another one than the packet before had.
    pub fn see(&mut self, ssrc: u32) -> bool {
        if self.latest() == Some(ssrc) {
            return false;
        }
        let known = self.ssrcs[..self.count].iter().position(|s| *s == ssrc);
        if known.is_none() {
            self.count = (self.count + 1).min(RECENT_SSRCS);
        }
        let last = known.unwrap_or(self.count - 1);
        self.ssrcs[..=last].rotate_right(1);
        self.ssrcs[0] = ssrc;
        true
    }

    #[must_use]
    pub fn contains(&self, ssrc: u32) -> bool {
        self.ssrcs[..self.count].contains(&ssrc)
    }

    #[must_use]
    pub fn latest(&self) -> Option<u32> {
        self.ssrcs[..self.count].first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_seen_longest_ago_goes_first() {
        let mut ssrcs = RecentSsrcs::default();
        assert_eq!(ssrcs.latest(), None);
        assert!(!ssrcs.contains(0), "an empty slot is not SSRC 0");
        for ssrc in [1, 2, 3, 4] {
            assert!(ssrcs.see(ssrc));
            assert!(!ssrcs.see(ssrc), "the same again is no change");
        }
        assert!(ssrcs.see(1), "back to an old one is a change");
        assert!(ssrcs.see(5));
        assert_eq!(ssrcs.latest(), Some(5));
        let kept: Vec<u32> = (0..8).filter(|s| ssrcs.contains(*s)).collect();
        assert_eq!(kept, [1, 3, 4, 5]);
    }
}
