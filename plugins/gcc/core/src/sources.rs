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

    /// What an estimate makes of all that is sent: the newest one, not older than
    /// `age`, for those sources of which most is sent; and what is sent of all
    /// others, as far as the peer does not want less. What an estimate leaves unused
    /// is of no use to others: aiortc has one for retransmissions that it takes for
    /// those of another section, far above what they need. One that names none of
    /// ours is about all.
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
        let rate_of = |ssrcs: &[u32]| {
            let ours = self.sent.iter().filter(|s| ssrcs.contains(&s.ssrc));
            sum(ours.map(|source| source.rate(now)))
        };
        let mut parts: Vec<_> = self.said.iter().map(|s| (rate_of(&s.ssrcs), s)).collect();
        parts.sort_by_key(|(sent, _)| *sent);
        let main = parts.pop().map(|(_, said)| said.rate);
        let beside = parts.iter().map(|(sent, said)| said.rate.min(*sent));
        let is_named = |ssrc| self.said.iter().any(|said| said.ssrcs.contains(&ssrc));
        let others = self.sent.iter().filter(|source| !is_named(source.ssrc));
        let others = others.map(|source| source.rate(now));
        sum(main.into_iter().chain(beside).chain(others))
    }

    /// Entries that are kept; at most twice [`MOST_SOURCES`].
    #[must_use]
    pub fn remembered(&self) -> usize {
        let named = self.said.iter().map(|said| said.ssrcs.len());
        self.sent.len() + named.sum::<usize>()
    }
}

fn sum(rates: impl Iterator<Item = Bitrate>) -> Bitrate {
    let bps = rates.map(Bitrate::as_bps);
    Bitrate::from_bps(bps.fold(0, u64::saturating_add))
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
        // The one before is not heard of again: 100 and the video's 800.
        let all = sources.remb(ms(2000), &remb(100, &[AUDIO]), AGE);
        assert!((880..=920).contains(&kbps(all)), "{all}");
    }

    #[test]
    fn of_several_estimates_that_for_most_counts_and_of_others_what_they_use() {
        let mut sources = sending();
        let all = sources.remb(ms(2000), &remb(1000, &[VIDEO]), AGE);
        assert!((1150..=1170).contains(&kbps(all)), "{all}");
        // Of retransmissions there were some: 80 kbit/s in this second.
        for t in 0..10 {
            sources.sent(ms(1900 + 10 * t), RTX, DataSize::from_bytes(1000));
        }
        for (rate, used) in [(600, 80), (30, 30)] {
            let all = sources.remb(ms(2000), &remb(rate, &[RTX]), AGE);
            let expected = 1000 + 160 + used;
            assert!(kbps(all).abs_diff(expected) <= 90, "{all}, {expected}");
            assert!(kbps(all) >= 1160 + used.min(60) - 10, "{all}");
        }
        // Anew for the video, with its retransmissions; audio has stopped.
        let all = sources.remb(ms(3500), &remb(600, &[VIDEO, RTX]), AGE);
        assert_eq!(kbps(all), 600);
    }

    #[test]
    fn where_the_display_stream_goes_over_the_estimate_does() {
        let mut sources = sending();
        sources.remb(ms(2000), &remb(1000, &[VIDEO]), AGE);
        for t in (2000..3500).step_by(10) {
            sources.sent(ms(t), STANDBY, DataSize::from_bytes(1000));
        }
        let all = sources.remb(ms(3500), &remb(900, &[STANDBY]), AGE);
        assert_eq!(kbps(all), 900, "nothing is sent of the other any more");
        // One that is old counts no more, whatever is sent.
        sources.sent(ms(12_100), VIDEO, DataSize::from_bytes(100_000));
        let all = sources.remb(ms(12_100), &remb(700, &[STANDBY]), AGE);
        assert_eq!(kbps(all), 700 + 1600, "measured");
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
        fn nothing_that_arrives_grows_it(
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
                    sources.remb(ms(now), &Remb { bitrate, ssrcs }, AGE);
                }
                prop_assert!(sources.remembered() <= 2 * MOST_SOURCES);
            }
        }
    }
}
