// SPDX-License-Identifier: MPL-2.0
//! What was sent is a debt that is paid off at a rate. Idle time is not saved
//! up for a burst; only while a packet waits is what is paid too much kept, so
//! that a caller who asks late does not lower the rate.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize};

/// 1 byte in the unit of the debt, a bit times 1e-9: so a rate in bit/s times
/// a time in ns needs no division.
const BYTE: u128 = 8_000_000_000;

/// Most time at the rate that is owed for packets which the bucket does not
/// hold (audio, probes), and after the rate has fallen. Larger: a large probe
/// is made up for completely; smaller: media waits for less after it.
/// libwebrtc, pacing/pacing_controller.cc: kMaxDebtInTime.
const MOST_OWED: Duration = Duration::from_millis(500);

/// Most of that, as time at the rate. Larger: the rate is kept though wake-ups
/// are late; smaller: late ones are followed by less at once.
pub(crate) const MOST_LATE: Duration = Duration::from_millis(1);

fn cost(size: DataSize) -> u128 {
    u128::from(size.as_bytes()) * BYTE
}

fn at(rate: Bitrate, time: Duration) -> u128 {
    u128::from(rate.as_bps()).saturating_mul(time.as_nanos())
}

fn signed(amount: u128) -> i128 {
    i128::try_from(amount).unwrap_or(i128::MAX)
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    debt: u128,
    /// Paid while there was no debt. Either is zero.
    credit: u128,
}

impl Bucket {
    /// `waiting`: something waited for the debt to be paid all the time.
    pub fn pay(&mut self, rate: Bitrate, elapsed: Duration, waiting: bool) {
        let paid = at(rate, elapsed);
        let over = paid.saturating_sub(self.debt);
        self.debt = self.debt.saturating_sub(paid);
        self.credit = if waiting {
            self.credit.saturating_add(over).min(at(rate, MOST_LATE))
        } else {
            0
        };
    }

    /// Puts on the account what was held until its time.
    pub fn owe(&mut self, size: DataSize) {
        let cost = cost(size);
        self.debt = self.debt.saturating_add(cost.saturating_sub(self.credit));
        self.credit = self.credit.saturating_sub(cost);
    }

    /// The same for what was not held, up to [`MOST_OWED`] or the packet
    /// itself.
    pub fn owe_at_most(&mut self, rate: Bitrate, size: DataSize) {
        let cost = cost(size);
        let most = at(rate, MOST_OWED).max(cost);
        self.credit = 0;
        self.debt = self.debt.saturating_add(cost).min(most).max(self.debt);
    }

    /// The rate has fallen to `rate`.
    pub fn forgive(&mut self, rate: Bitrate) {
        self.debt = self.debt.min(at(rate, MOST_OWED));
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How long until a packet of `size` may go, or zero. The debt that it
    /// leaves is at most `burst` at the rate, or the packet itself.
    pub fn wait(&self, rate: Bitrate, burst: Duration, size: DataSize) -> Duration {
        self.wait_for(rate, at(rate, burst).saturating_sub(cost(size)))
    }

    /// The same, but no more than `packets` of this size at once.
    pub fn wait_few(
        &self,
        rate: Bitrate,
        burst: Duration,
        size: DataSize,
        packets: u64,
    ) -> Duration {
        let few = cost(size).saturating_mul(u128::from(packets));
        self.wait_for(rate, at(rate, burst).min(few).saturating_sub(cost(size)))
    }

    fn wait_for(&self, rate: Bitrate, allowed: u128) -> Duration {
        if self.debt <= allowed {
            return Duration::ZERO;
        }
        // Rounded up, so that the packet can go when the time has come.
        let nanos = (self.debt - allowed).div_ceil(u128::from(rate.as_bps().max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether more than this time at the rate is owed for with a packet more.
    pub fn owes_after(&self, rate: Bitrate, time: Duration, size: DataSize) -> bool {
        self.debt.saturating_add(cost(size)) > at(rate, time)
    }

    /// What can be sent within `time`, `burst` of it at once; in the unit of
    /// [`cost_of`](Self::cost_of).
    pub fn affords(&self, rate: Bitrate, burst: Duration, time: Duration) -> i128 {
        let paid = at(rate, time).saturating_add(at(rate, burst));
        signed(paid).saturating_sub(signed(self.debt))
    }

    /// What a packet of `size` takes of what a bucket affords.
    pub fn cost_of(size: DataSize) -> i128 {
        signed(cost(size))
    }

    /// The rate that pays the debt and `size` within `limit`, if that is more
    /// than `rate`.
    pub fn rate_to_drain(&self, rate: Bitrate, size: DataSize, limit: Duration) -> Option<Bitrate> {
        let total = self.debt.saturating_add(cost(size));
        if total <= at(rate, limit) {
            return None;
        }
        let bps = total.div_ceil(limit.as_nanos().max(1));
        Some(Bitrate::from_bps(u64::try_from(bps).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Bitrate = Bitrate::from_kbps(1000);
    /// 10 ms at [`RATE`].
    const PACKET: DataSize = DataSize::from_bytes(1250);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_packet_larger_than_the_burst_goes_only_without_debt() {
        let mut b = Bucket::default();
        assert_eq!(b.wait(RATE, ms(5), PACKET), ms(0));
        b.owe(PACKET);
        assert_eq!(b.wait(RATE, ms(5), PACKET), ms(10));
        b.pay(RATE, ms(9), false);
        assert_eq!(b.wait(RATE, ms(5), PACKET), ms(1));
        // 1 ms is owed; a tenth of the packet leaves 2 of the 5 ms.
        assert_eq!(b.wait(RATE, ms(5), DataSize::from_bytes(125)), ms(0));
    }

    #[test]
    fn who_asks_late_loses_nothing_and_who_was_idle_gains_nothing() {
        for (waiting, left) in [(true, 9), (false, 10)] {
            let mut b = Bucket::default();
            b.owe(PACKET);
            // Half a millisecond late, twice.
            for _ in 0..2 {
                b.pay(RATE, Duration::from_micros(10_500), waiting);
                assert_eq!(b.wait(RATE, ms(0), PACKET), ms(0));
            }
            b.owe(PACKET);
            assert_eq!(b.wait(RATE, ms(0), PACKET), ms(left));
        }
    }

    #[test]
    fn what_was_not_held_is_owed_up_to_half_a_second() {
        let mut b = Bucket::default();
        for _ in 0..100 {
            b.owe_at_most(RATE, PACKET);
        }
        assert_eq!(b.wait(RATE, ms(0), PACKET), ms(500));
        // A packet that had to go all the same is not forgotten for it.
        b.owe(DataSize::from_bytes(125_000));
        b.owe_at_most(RATE, PACKET);
        assert_eq!(b.wait(RATE, ms(0), PACKET), ms(1500));
        b.forgive(Bitrate::from_kbps(100));
        assert_eq!(b.wait(Bitrate::from_kbps(100), ms(0), PACKET), ms(500));
    }

    #[test]
    fn the_rate_to_drain_pays_queue_and_debt() {
        let mut b = Bucket::default();
        assert_eq!(b.rate_to_drain(RATE, PACKET, ms(10)), None);
        b.owe(PACKET);
        let raised = Some(Bitrate::from_kbps(2000));
        assert_eq!(b.rate_to_drain(RATE, PACKET, ms(10)), raised);
    }
}
