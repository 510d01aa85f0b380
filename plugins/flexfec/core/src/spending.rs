// SPDX-License-Identifier: MPL-2.0
//! What FEC takes of the rate, and what room there is for it.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};

/// Over which the share is seen.
const MEMORY: Duration = Duration::from_secs(1);
/// What media and FEC may be ahead of the target.
const BURST: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, Default)]
pub struct Spending {
    target: Option<Bitrate>,
    media: f64,
    fec: f64,
    /// What is not protected here, FEC of others too.
    others: f64,
    /// Bytes sent and not yet paid by the target.
    debt: f64,
    updated: Option<Timestamp>,
}

impl Spending {
    pub fn set_target(&mut self, target: Bitrate) {
        self.target = Some(target);
    }

    pub fn sent(&mut self, now: Timestamp, media: DataSize, fec: DataSize) {
        self.pass(now);
        let (media, fec) = (media.as_bytes() as f64, fec.as_bytes() as f64);
        self.media += media;
        self.fec += fec;
        self.debt += media + fec;
    }

    pub fn others(&mut self, now: Timestamp, bytes: DataSize) {
        self.pass(now);
        let bytes = bytes.as_bytes() as f64;
        self.others += bytes;
        self.debt += bytes;
    }

    fn pass(&mut self, now: Timestamp) {
        let time = self
            .updated
            .map_or(Duration::ZERO, |before| now.since(before));
        self.updated = Some(now.max(self.updated.unwrap_or(now)));
        let factor = (-time.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.media *= factor;
        self.fec *= factor;
        self.others *= factor;
        let paid = self.target.map(|target| (target * time).as_bytes() as f64);
        self.debt = paid.map_or(0.0, |paid| (self.debt - paid).max(0.0));
    }

    /// FEC bytes per media byte, of late.
    #[must_use]
    pub fn overhead(&self) -> f64 {
        if self.media > 0.0 {
            self.fec / self.media
        } else {
            0.0
        }
    }

    /// Media that are protected, of all that is sent and is not their FEC.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.others > 0.0 {
            self.media / (self.media + self.others)
        } else {
            1.0
        }
    }

    /// So many packets of this size may be sent now without the sum going above
    /// the target.
    pub fn room(&mut self, now: Timestamp, each: DataSize) -> usize {
        self.pass(now);
        let Some(target) = self.target else {
            return usize::MAX;
        };
        let left = (target * BURST).as_bytes() as f64 - self.debt;
        (left / each.as_bytes().max(1) as f64).max(0.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_protected_counts_for_its_part() {
        let kb = |n: u64| DataSize::from_bytes(1000 * n);
        let mut spending = Spending::default();
        assert_eq!(spending.share(), 1.0);
        spending.sent(Timestamp::ZERO, kb(10), kb(5));
        assert_eq!((spending.overhead(), spending.share()), (0.5, 1.0));
        spending.others(Timestamp::ZERO, kb(30));
        assert_eq!((spending.overhead(), spending.share()), (0.5, 0.25));
        // Silent for ten times the memory.
        spending.others(Timestamp::from_millis(10_000), kb(30));
        assert!(spending.share() < 1e-3, "{}", spending.share());
    }

    #[test]
    fn fec_has_what_media_leaves() {
        let mut spending = Spending::default();
        let each = DataSize::from_bytes(1000);
        assert_eq!(
            spending.room(Timestamp::ZERO, each),
            usize::MAX,
            "no target"
        );
        spending.set_target(Bitrate::from_kbps(800));
        // 100 bytes a millisecond, a quarter of a second ahead.
        assert_eq!(spending.room(Timestamp::ZERO, each), 25);
        let mut fec = 0;
        for at in 0..100 {
            let now = Timestamp::from_millis(at * 100);
            let room = spending.room(now, each).min(5);
            fec += room;
            spending.sent(
                now,
                DataSize::from_bytes(8000),
                DataSize::from_bytes(1000 * room as u64),
            );
        }
        // 2 of 10 packets for 10 s, and those ahead.
        assert!((200..=225).contains(&fec), "{fec}");
        assert!(
            (0.2..0.4).contains(&spending.overhead()),
            "{}",
            spending.overhead()
        );
    }
}
