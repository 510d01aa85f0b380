// SPDX-License-Identifier: MPL-2.0
//! What the peer's estimates are about: a REMB is for the sources that it names
//! (draft-alvestrand-rmcat-remb-03, section 2), and what is sent beside them
//! comes on top. aiortc for one names the video alone, in a message for each of
//! its receivers: taken for the whole, the audio's part of it would be taken
//! away each time, and the estimate, which follows what arrives, would sink.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

use crate::remb::Remb;

/// Sources that are remembered, those sent most recently; a session has a
/// dozen at most.
pub const MOST_SOURCES: usize = 32;
/// A rate is measured over one to two times as long.
const HALF: Duration = Duration::from_millis(500);

/// What is sent of one source.
#[derive(Clone, Copy, Debug)]
struct Source {
    ssrc: u32,
    last: Timestamp,
    /// Beginning of the half that is being filled.
    since: Timestamp,
    /// The half before, and this one.
    sizes: [DataSize; 2],
}

impl Source {
    fn new(ssrc: u32, now: Timestamp) -> Self {
        Self {
            ssrc,
            last: now,
            since: now,
            sizes: [DataSize::ZERO; 2],
        }
    }

    fn pass(&mut self, now: Timestamp) {
        let passed = now.since(self.since);
        if passed >= 2 * HALF {
            (self.since, self.sizes) = (now, [DataSize::ZERO; 2]);
        } else if passed >= HALF {
            (self.since, self.sizes) = (self.since + HALF, [self.sizes[1], DataSize::ZERO]);
        }
    }

    fn sent(&mut self, now: Timestamp, size: DataSize) {
        self.pass(now);
        self.last = now;
        self.sizes[1] += size;
    }

    fn rate(mut self, now: Timestamp) -> Bitrate {
        self.pass(now);
        let [before, filling] = self.sizes;
        let time = now.since(self.since) + HALF;
        ((before + filling) / time).unwrap_or_default()
    }
}

/// The newest of the peer's estimates for the same sources.
#[derive(Clone, Debug)]
struct Said {
    ssrcs: Vec<u32>,
    rate: Bitrate,
    at: Timestamp,
}

/// All that is sent, and what the peer says of which part.
#[derive(Debug, Default)]
pub struct Sources {
    sent: Vec<Source>,
    /// Each source is in one of them at most.
    said: Vec<Said>,
}

impl Sources {
    /// A packet has left.
    pub fn sent(&mut self, now: Timestamp, ssrc: u32, size: DataSize) {
        if let Some(source) = self.sent.iter_mut().find(|source| source.ssrc == ssrc) {
            return source.sent(now, size);
        }
        if self.sent.len() == MOST_SOURCES
            && let Some(oldest) = (0..MOST_SOURCES).min_by_key(|i| self.sent[*i].last)
        {
            let gone = self.sent.swap_remove(oldest).ssrc;
            self.forget(&[gone]);
        }
        let mut source = Source::new(ssrc, now);
        source.sent(now, size);
        self.sent.push(source);
    }

    /// No estimate is about these any more.
    fn forget(&mut self, ssrcs: &[u32]) {
        self.said
            .retain(|said| said.ssrcs.iter().all(|ssrc| !ssrcs.contains(ssrc)));
    }

    /// What an estimate makes of all that is sent: the newest ones for the
    /// sources that they name, not older than `age`, and what is sent of the
    /// others. One that names none of ours is about all.
    pub fn remb(&mut self, now: Timestamp, remb: &Remb, age: Duration) -> Bitrate {
        let is_ours = |ssrc: &u32| self.sent.iter().any(|source| source.ssrc == *ssrc);
        let mut ssrcs: Vec<u32> = remb.ssrcs.iter().copied().filter(is_ours).collect();
        ssrcs.sort_unstable();
        ssrcs.dedup();
        if ssrcs.is_empty() {
            self.said.clear();
            return remb.bitrate;
        }
        self.forget(&ssrcs);
        self.said.retain(|said| now.since(said.at) < age);
        self.said.push(Said {
            ssrcs,
            rate: remb.bitrate,
            at: now,
        });
        let is_named = |ssrc| self.said.iter().any(|said| said.ssrcs.contains(&ssrc));
        let others = self.sent.iter().filter(|source| !is_named(source.ssrc));
        let parts = self.said.iter().map(|said| said.rate);
        let all = parts.chain(others.map(|source| source.rate(now)));
        Bitrate::from_bps(all.fold(0, |sum, rate| sum.saturating_add(rate.as_bps())))
    }

    /// Entries that are kept; at most twice [`MOST_SOURCES`].
    #[must_use]
    pub fn remembered(&self) -> usize {
        let named = self.said.iter().map(|said| said.ssrcs.len());
        self.sent.len() + named.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGE: Duration = Duration::from_secs(10);
    const VIDEO: u32 = 10;
    const RTX: u32 = 11;
    const AUDIO: u32 = 12;
    const STANDBY: u32 = 13;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn remb(kbps: u64, ssrcs: &[u32]) -> Remb {
        Remb {
            bitrate: Bitrate::from_kbps(kbps),
            ssrcs: ssrcs.to_vec(),
        }
    }

    /// 160 kbit/s of audio and 800 of video, for two seconds.
    fn sending() -> Sources {
        let mut sources = Sources::default();
        for t in (0..2000).step_by(10) {
            sources.sent(ms(t), AUDIO, DataSize::from_bytes(200));
            sources.sent(ms(t), VIDEO, DataSize::from_bytes(1000));
        }
        sources
    }

    fn kbps(bitrate: Bitrate) -> u64 {
        bitrate.as_kbps()
    }

    #[test]
    fn what_is_not_named_comes_on_top() {
        let mut sources = sending();
        let all = sources.remb(ms(2000), &remb(1200, &[VIDEO]), AGE);
        assert!((1350..=1370).contains(&kbps(all)), "{all}");
        let all = sources.remb(ms(2000), &remb(1200, &[AUDIO, VIDEO, VIDEO]), AGE);
        assert_eq!(kbps(all), 1200);
    }

    #[test]
    fn a_receiver_that_names_nothing_of_ours_means_all() {
        let mut sources = sending();
        sources.remb(ms(2000), &remb(1200, &[VIDEO]), AGE);
        for ssrcs in [&[][..], &[77]] {
            let all = sources.remb(ms(2000), &remb(900, ssrcs), AGE);
            assert_eq!(kbps(all), 900, "{ssrcs:?}");
        }
        // The one before is not heard of again.
        let all = sources.remb(ms(2000), &remb(100, &[AUDIO]), AGE);
        assert!((880..=920).contains(&kbps(all)), "{all}");
    }

    #[test]
    fn estimates_for_several_sources_add_up_until_they_are_old() {
        let mut sources = sending();
        sources.sent(ms(1990), STANDBY, DataSize::from_bytes(0));
        sources.sent(ms(1990), RTX, DataSize::from_bytes(0));
        sources.remb(ms(2000), &remb(1000, &[VIDEO]), AGE);
        let all = sources.remb(ms(2000), &remb(300, &[STANDBY]), AGE);
        assert!((1450..=1470).contains(&kbps(all)), "{all}");
        // Anew for one of them, with its retransmissions.
        let all = sources.remb(ms(3500), &remb(600, &[VIDEO, RTX]), AGE);
        assert_eq!(kbps(all), 900, "audio has stopped");
        let all = sources.remb(ms(12_000), &remb(700, &[VIDEO]), AGE);
        assert_eq!(kbps(all), 700, "the other is too old");
    }

    #[test]
    fn a_source_that_has_stopped_counts_no_more() {
        let mut sources = sending();
        for (at, expected) in [(1999, 160), (2250, 107), (2450, 84), (2600, 0)] {
            let all = kbps(sources.remb(ms(at), &remb(0, &[VIDEO]), AGE));
            assert!(all.abs_diff(expected) <= 20, "{all} after {at} ms");
        }
    }

    #[test]
    fn one_packet_is_no_rate() {
        let mut sources = Sources::default();
        sources.sent(ms(0), VIDEO, DataSize::from_bytes(1000));
        sources.sent(ms(0), AUDIO, DataSize::from_bytes(200));
        let all = sources.remb(ms(0), &remb(1000, &[VIDEO]), AGE);
        assert_eq!(all.as_bps(), 1_003_200);
    }

    proptest! {
        #[test]
        fn nothing_that_arrives_grows_it_or_lowers_what_was_said(
            steps in proptest::collection::vec(
                (0..3000u64, any::<bool>(), any::<u64>(), proptest::collection::vec(0..80u32, 0..60)),
                1..200,
            ),
        ) {
            let mut sources = Sources::default();
            let mut now = 0;
            for (passed, sends, number, ssrcs) in steps {
                now += passed;
                if sends {
                    for ssrc in ssrcs {
                        sources.sent(ms(now), ssrc, DataSize::from_bytes(number % 2000));
                    }
                } else {
                    let bitrate = Bitrate::from_bps(number);
                    let all = sources.remb(ms(now), &Remb { bitrate, ssrcs }, AGE);
                    prop_assert!(all >= bitrate);
                }
                prop_assert!(sources.remembered() <= 2 * MOST_SOURCES);
            }
        }
    }
}
