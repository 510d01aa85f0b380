// SPDX-License-Identifier: MPL-2.0
//! Spaces the packets of background frames so that they use no more than
//! their share of the link.
//!
//! What was sent is a debt that is paid off at the background rate. A packet
//! may go when the debt it leaves is at most [`BURST`] at the rate, or the
//! packet itself if that is more. So in any window of length `T` at a constant
//! rate at most `rate * T + max(rate * BURST, largest packet)` is sent.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

/// How much may be sent at once, as time at the rate. Larger: fewer wake-ups
/// and late ones made up for; smaller: display packets wait for less.
pub const BURST: Duration = Duration::from_millis(5);

/// IPv4 and UDP headers, which the link carries too.
pub const PACKET_OVERHEAD: DataSize = DataSize::from_bytes(28);

/// 1 byte in the unit of the debt, a bit times 1e-9.
const BYTE: u128 = 8_000_000_000;

/// What to do with the packet that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// It goes now, and has been accounted for.
    Send,
    /// Offer it again then, or when a rate has changed. Always later than the
    /// time of the offer.
    WaitUntil(Timestamp),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Background packets that went.
    pub packets: u64,
    /// Their bytes on the link, with [`PACKET_OVERHEAD`].
    pub bytes: DataSize,
    /// Time they waited, from the first offer on.
    pub waited: Duration,
    /// Packets that were flushed while they waited.
    pub flushed: u64,
}

/// One packet at a time: nothing is held, so nothing can overflow.
#[derive(Clone, Copy, Debug)]
pub struct Trickle {
    configured: Bitrate,
    signalled: Option<Bitrate>,
    /// Not yet paid for, in bits times 1e-9. At most one packet or
    /// [`BURST`] at the highest rate there was.
    debt: u128,
    at: Timestamp,
    offered: Option<Timestamp>,
    /// Something urgent waits behind what is offered.
    released: bool,
    stats: Stats,
}

impl Trickle {
    /// `configured` is the rate until one is signalled; zero is no spacing.
    #[must_use]
    pub fn new(configured: Bitrate) -> Self {
        Self {
            configured,
            signalled: None,
            debt: 0,
            at: Timestamp::ZERO,
            offered: None,
            released: false,
            stats: Stats::default(),
        }
    }

    /// The rate to use when none is signalled.
    pub fn configure(&mut self, now: Timestamp, rate: Bitrate) {
        self.pay(now);
        self.configured = rate;
    }

    /// The sender's own word on the rate. It holds until the next one;
    /// `None` goes back to the configured rate.
    pub fn signal(&mut self, now: Timestamp, rate: Option<Bitrate>) {
        self.pay(now);
        self.signalled = rate;
    }

    /// The stream is the display stream now, and what it shows next waits behind
    /// background packets: these go at once, up to [`Trickle::passed`].
    pub fn release(&mut self) {
        self.released = true;
    }

    /// A packet that is not of a background frame went by.
    pub fn passed(&mut self) {
        self.released = false;
    }

    /// The rate in force; zero is no spacing.
    #[must_use]
    pub fn rate(&self) -> Bitrate {
        self.signalled.unwrap_or(self.configured)
    }

    /// May a background packet of `size` bytes on the RTP level go now?
    pub fn offer(&mut self, now: Timestamp, size: DataSize) -> Next {
        self.pay(now);
        let since = *self.offered.get_or_insert(now);
        let size = size + PACKET_OVERHEAD;
        let rate = u128::from(self.rate().as_bps());
        if rate > 0 && !self.released {
            let cost = u128::from(size.as_bytes()) * BYTE;
            let allowed = (rate * BURST.as_nanos()).saturating_sub(cost);
            if self.debt > allowed {
                // Rounded up, so that the packet can go when the time has come.
                let nanos = (self.debt - allowed).div_ceil(rate);
                let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                let until = now + wait;
                if until > now {
                    return Next::WaitUntil(until);
                }
                // The end of time: there is no later.
            }
            self.debt += cost;
        }
        self.offered = None;
        self.stats.packets += 1;
        self.stats.bytes += size;
        self.stats.waited += now.since(since);
        Next::Send
    }

    /// The packet that waited is gone, and the time line may start anew. Rates
    /// and counters stay.
    pub fn flush(&mut self) {
        self.debt = 0;
        self.released = false;
        if self.offered.take().is_some() {
            self.stats.flushed += 1;
        }
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Time that went backwards pays nothing, and counts on from there.
    fn pay(&mut self, now: Timestamp) {
        let rate = self.rate();
        self.debt = if rate == Bitrate::ZERO {
            0
        } else {
            let paid = u128::from(rate.as_bps()) * now.since(self.at).as_nanos();
            self.debt.saturating_sub(paid)
        };
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 1222 + 28 bytes: 10 000 bits, 10 ms at 1 Mbit/s.
    const PACKET: DataSize = DataSize::from_bytes(1222);

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn kbps(rate: u64) -> Bitrate {
        Bitrate::from_kbps(rate)
    }

    /// Offers until the packet goes; says when.
    #[track_caller]
    fn send(trickle: &mut Trickle, mut now: Timestamp, size: DataSize) -> Timestamp {
        for _ in 0..2 {
            match trickle.offer(now, size) {
                Next::Send => return now,
                Next::WaitUntil(time) => {
                    assert!(time > now, "never waits for the past");
                    now = time;
                }
            }
        }
        panic!("the packet did not go at the time that was named");
    }

    /// When each of `count` packets goes, each offered as soon as the one
    /// before it has gone.
    fn in_a_row(trickle: &mut Trickle, count: usize) -> Vec<Timestamp> {
        let mut now = ms(0);
        (0..count)
            .map(|_| {
                now = send(trickle, now, PACKET);
                now
            })
            .collect()
    }

    #[test]
    fn packets_are_spaced_by_their_time_at_the_rate() {
        let mut t = Trickle::new(kbps(1000));
        assert_eq!(in_a_row(&mut t, 5), [0, 10, 20, 30, 40].map(ms));
        assert_eq!(t.stats().packets, 5);
        assert_eq!(t.stats().bytes, DataSize::from_bytes(5 * 1250));
        assert_eq!(t.stats().waited, Duration::from_millis(40));
    }

    #[test]
    fn five_milliseconds_go_at_once_at_a_high_rate() {
        // 10 Mbit/s: 1 ms a packet, five are 5 ms.
        let mut t = Trickle::new(kbps(10_000));
        assert_eq!(in_a_row(&mut t, 7), [0, 0, 0, 0, 0, 1, 2].map(ms));
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut t = Trickle::new(kbps(1000));
        assert_eq!(send(&mut t, ms(0), PACKET), ms(0));
        assert_eq!(send(&mut t, ms(60_000), PACKET), ms(60_000));
        assert_eq!(send(&mut t, ms(60_000), PACKET), ms(60_010));
    }

    #[test]
    fn a_rate_change_applies_to_the_packet_that_waits() {
        for signalled in [false, true] {
            let mut t = Trickle::new(kbps(1000));
            assert_eq!(t.offer(ms(0), PACKET), Next::Send);
            assert_eq!(t.offer(ms(0), PACKET), Next::WaitUntil(ms(10)));
            if signalled {
                t.signal(ms(5), Some(kbps(500)));
            } else {
                t.configure(ms(5), kbps(500));
            }
            // Half is paid; 5000 bits at 500 kbit/s.
            assert_eq!(t.offer(ms(5), PACKET), Next::WaitUntil(ms(15)));
            // A quarter is left. Five milliseconds are now 25 000 bits, room
            // for both.
            t.signal(ms(10), Some(kbps(5000)));
            assert_eq!(t.offer(ms(10), PACKET), Next::Send);
        }
    }

    #[test]
    fn zero_releases_all_and_forgets_what_was_owed() {
        let mut t = Trickle::new(kbps(100));
        assert_eq!(t.offer(ms(0), PACKET), Next::Send);
        assert_eq!(t.offer(ms(0), PACKET), Next::WaitUntil(ms(100)));
        t.signal(ms(1), Some(Bitrate::ZERO));
        for _ in 0..1000 {
            assert_eq!(t.offer(ms(1), PACKET), Next::Send);
        }
        // Back again: those thousand are not held against it.
        t.signal(ms(2), Some(kbps(100)));
        assert_eq!(t.offer(ms(2), PACKET), Next::Send);
        assert_eq!(t.offer(ms(2), PACKET), Next::WaitUntil(ms(102)));
    }

    #[test]
    fn what_stands_before_a_display_packet_goes_at_once() {
        let mut t = Trickle::new(kbps(100));
        assert_eq!(t.offer(ms(0), PACKET), Next::Send);
        assert_eq!(t.offer(ms(0), PACKET), Next::WaitUntil(ms(100)));
        t.release();
        for _ in 0..80 {
            assert_eq!(t.offer(ms(1), PACKET), Next::Send);
        }
        t.passed();
        // From then on as before, and what was owed is still owed.
        assert_eq!(t.offer(ms(2), PACKET), Next::WaitUntil(ms(100)));
        t.release();
        t.flush();
        assert_eq!(t.offer(ms(200), PACKET), Next::Send);
        assert_eq!(t.offer(ms(200), PACKET), Next::WaitUntil(ms(300)));
    }

    #[test]
    fn what_is_signalled_wins_until_it_is_taken_back() {
        let mut t = Trickle::new(kbps(100));
        assert_eq!(t.rate(), kbps(100));
        t.signal(ms(0), Some(kbps(300)));
        t.configure(ms(0), kbps(200));
        assert_eq!(t.rate(), kbps(300));
        t.signal(ms(0), Some(Bitrate::ZERO));
        assert_eq!(t.rate(), Bitrate::ZERO, "zero is a word too");
        t.signal(ms(0), None);
        assert_eq!(t.rate(), kbps(200));
    }

    #[test]
    fn a_packet_larger_than_the_burst_goes_and_is_paid_for() {
        let mut t = Trickle::new(kbps(1000));
        // 65 507 + 28 bytes: 524.28 ms.
        let huge = DataSize::from_bytes(65_507);
        assert_eq!(t.offer(ms(0), huge), Next::Send);
        assert_eq!(
            t.offer(ms(0), PACKET),
            Next::WaitUntil(Timestamp::from_nanos(524_280_000))
        );
    }

    #[test]
    fn time_that_goes_backwards_neither_pays_nor_hangs() {
        let mut t = Trickle::new(kbps(1000));
        assert_eq!(t.offer(ms(100_000), PACKET), Next::Send);
        assert_eq!(t.offer(ms(5), PACKET), Next::WaitUntil(ms(15)));
        assert_eq!(send(&mut t, ms(15), PACKET), ms(15));
        assert_eq!(t.stats().waited, Duration::from_millis(10));
    }

    #[test]
    fn flush_forgets_the_packet_and_the_debt() {
        let mut t = Trickle::new(kbps(1000));
        assert_eq!(t.offer(ms(0), PACKET), Next::Send);
        assert_eq!(t.offer(ms(0), PACKET), Next::WaitUntil(ms(10)));
        t.flush();
        t.flush();
        assert_eq!(t.stats().flushed, 1, "one was waiting, then none");
        assert_eq!(t.offer(ms(3), PACKET), Next::Send);
        assert_eq!(t.stats().waited, Duration::ZERO, "another packet waited");
    }

    #[test]
    fn extremes_neither_panic_nor_stand_still() {
        for rate in [1, 2, u64::MAX] {
            let mut t = Trickle::new(Bitrate::from_bps(rate));
            let end = Timestamp::from_nanos(u64::MAX);
            for now in [ms(0), end, ms(1), end] {
                for size in [0, 1, u64::MAX] {
                    for _ in 0..3 {
                        if let Next::WaitUntil(time) = t.offer(now, DataSize::from_bytes(size)) {
                            assert!(time > now);
                        }
                    }
                }
            }
        }
    }

    proptest! {
        /// The promise of the module, over every window there is.
        #[test]
        fn no_window_carries_more_than_the_rate_and_one_burst(
            rate in 1_000u64..50_000_000,
            packets in proptest::collection::vec((0u64..40_000_000, 12u64..1500), 2..60),
        ) {
            let rate = Bitrate::from_bps(rate);
            let mut t = Trickle::new(rate);
            let mut now = ms(0);
            let mut sent = Vec::new();
            for (idle, size) in packets {
                now = now + Duration::from_nanos(idle);
                now = send(&mut t, now, DataSize::from_bytes(size));
                sent.push((now, size + 28));
            }
            let largest = sent.iter().map(|s| s.1).max().unwrap();
            let burst = (rate * BURST).as_bytes().max(largest) + 1;
            for first in 0..sent.len() {
                let mut bytes = 0;
                for (time, size) in &sent[first..] {
                    bytes += size;
                    let most = (rate * time.since(sent[first].0)).as_bytes() + burst;
                    prop_assert!(bytes <= most, "{} bytes, at most {}", bytes, most);
                }
            }
        }

        /// And it does not send less: a full queue keeps the rate.
        #[test]
        fn a_full_queue_uses_the_whole_rate(rate in 10_000u64..50_000_000, size in 100u64..1500) {
            let rate = Bitrate::from_bps(rate);
            let mut t = Trickle::new(rate);
            let mut now = ms(0);
            for _ in 0..200 {
                now = send(&mut t, now, DataSize::from_bytes(size));
            }
            let bytes = DataSize::from_bytes(199 * (size + 28));
            let ideal = bytes.time_at(rate).unwrap();
            let took = now.since(ms(0));
            prop_assert!(took <= ideal + Duration::from_nanos(200), "took {:?}, ideal {:?}", took, ideal);
            prop_assert!(took + BURST >= ideal, "took {:?}, ideal {:?}", took, ideal);
        }

        /// Polling in between changes nothing, whatever the times.
        #[test]
        fn any_order_of_calls_ends_and_never_waits_for_the_past(
            ops in proptest::collection::vec((0u64..100_000_000, 0u64..3_000_000, 0u8..5, 0u64..3000), 1..200),
        ) {
            let mut t = Trickle::new(kbps(500));
            let mut went = 0;
            for (now, rate, op, size) in ops {
                let now = Timestamp::from_nanos(now);
                match op {
                    0 => t.signal(now, Some(Bitrate::from_bps(rate))),
                    1 => t.configure(now, Bitrate::from_bps(rate)),
                    2 => t.signal(now, None),
                    3 => match t.offer(now, DataSize::from_bytes(size)) {
                        Next::Send => went += 1,
                        Next::WaitUntil(time) => prop_assert!(time > now),
                    },
                    _ => {
                        send(&mut t, now, DataSize::from_bytes(size));
                        went += 1;
                    }
                }
                prop_assert_eq!(t.stats().packets, went);
            }
        }
    }
}
