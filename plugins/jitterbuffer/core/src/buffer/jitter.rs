// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::Timestamp;

use crate::timing::ticks_to_nanos;

/// Interarrival jitter (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jitter {
    last: Option<(u32, Timestamp)>,
    nanos: f64,
}

/// A larger difference is a pause or a jump.
const LARGEST_NANOS: f64 = 1e9;
const GAIN: f64 = 1.0 / 16.0;

impl Jitter {
    pub(super) fn packet(&mut self, timestamp: u32, arrival: Timestamp, clock_rate: u32) {
        if let Some((last, then)) = self.last.replace((timestamp, arrival)) {
            let ticks = timestamp.wrapping_sub(last).cast_signed();
            let sent = ticks_to_nanos(ticks, clock_rate) as f64;
            let difference = (arrival.distance(then).as_nanos() as f64 - sent).abs();
            if difference < LARGEST_NANOS {
                self.nanos += GAIN * (difference - self.nanos);
            }
        }
    }

    pub(super) fn value(&self) -> Duration {
        Duration::from_nanos(self.nanos as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_to_the_mean_difference() {
        let mut jitter = Jitter::default();
        for n in 0..200u32 {
            // 10 ms early and late in turn: 20 ms from one to the next.
            let late = if n % 2 == 0 { 0 } else { 20 };
            let arrival = Timestamp::from_millis(1000 + u64::from(n) * 20 + late);
            jitter.packet(n * 960, arrival, 48_000);
        }
        let value = jitter.value();
        assert!(value.abs_diff(Duration::from_millis(20)) < Duration::from_millis(1));
        jitter.packet(1 << 30, Timestamp::from_millis(5000), 48_000);
        assert_eq!(jitter.value(), value, "a jump");
    }
}
