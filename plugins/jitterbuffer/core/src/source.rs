// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::Timestamp;

/// While its packets come no further apart, a source is not replaced.
const ALIVE: Duration = Duration::from_millis(200);
/// So many packets of another source in a row replace one that is silent.
const SEQUENTIAL: u32 = 3;

/// Which SSRC a jitter buffer that stands alone belongs to: behind an SSRC
/// demultiplexer there is but one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    current: Option<(u32, Timestamp)>,
    other: Option<(u32, u32)>,
}

impl Source {
    /// Whether a packet is of the source that is received.
    pub fn accept(&mut self, now: Timestamp, ssrc: u32) -> bool {
        let (current, last) = *self.current.get_or_insert((ssrc, now));
        if current == ssrc {
            self.current = Some((ssrc, last.max(now)));
            self.other = None;
            return true;
        }
        let count = match self.other {
            Some((other, count)) if other == ssrc => count + 1,
            _ => 1,
        };
        self.other = Some((ssrc, count));
        let replaces = count >= SEQUENTIAL && now.since(last) > ALIVE;
        if replaces {
            self.current = Some((ssrc, now));
            self.other = None;
        }
        replaces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_source_is_replaced() {
        let at = Timestamp::from_millis;
        let mut source = Source::default();
        assert!(source.accept(at(0), 7));
        for n in 0..10 {
            assert!(!source.accept(at(100 + n), 8), "7 is not silent yet");
        }
        assert!(source.accept(at(150), 7));
        assert!(!source.accept(at(400), 8));
        assert!(!source.accept(at(401), 9));
        assert!(!source.accept(at(402), 8));
        assert!(!source.accept(at(403), 8));
        assert!(source.accept(at(404), 8));
        assert!(!source.accept(at(405), 7));
    }
}
