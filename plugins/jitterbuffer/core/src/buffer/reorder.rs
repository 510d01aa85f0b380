// SPDX-License-Identifier: MPL-2.0
//! What lost packets are told from late ones by, and how long a request takes.

use std::time::Duration;

use dualstream_common::Timestamp;

/// Packets that overtook each other are remembered that long.
const REORDER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the delays of overtaken packets, the mean and so many deviations: some
/// are asked for without need.
const REORDER_DEVIATIONS: f64 = 1.5;
/// RFC 6298 in spirit: gains of mean and deviation.
const MEAN_GAIN: f64 = 0.125;
const DEVIATION_GAIN: f64 = 0.25;
/// Before the first answer (as libwebrtc).
const FIRST_RTT: Duration = Duration::from_millis(100);
const RTT_DEVIATIONS: f64 = 2.0;
const MIN_MARGIN: Duration = Duration::from_millis(5);
const LONGEST_RTT: Duration = Duration::from_secs(2);

/// Mean and mean deviation, weighted to what came last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Smoothed {
    mean_s: f64,
    deviation_s: f64,
}

impl Smoothed {
    pub(super) fn first(seconds: f64) -> Self {
        Self {
            mean_s: seconds,
            deviation_s: seconds / 2.0,
        }
    }

    pub(super) fn add(&mut self, seconds: f64) {
        let error = seconds - self.mean_s;
        self.deviation_s += DEVIATION_GAIN * (error.abs() - self.deviation_s);
        self.mean_s += MEAN_GAIN * error;
    }

    pub(super) fn above(&self, deviations: f64) -> Duration {
        Duration::from_secs_f64((self.mean_s + deviations * self.deviation_s).max(0.0))
    }
}

/// How late packets are that others overtook.
#[derive(Clone, Debug, Default)]
pub(super) struct Reordering(Option<(Timestamp, Smoothed)>);

impl Reordering {
    pub(super) fn overtaken(&mut self, now: Timestamp, late: Duration) {
        let seconds = late.min(LONGEST_RTT).as_secs_f64();
        match &mut self.0 {
            Some((last, smoothed)) => {
                *last = now;
                smoothed.add(seconds);
            }
            None => self.0 = Some((now, Smoothed::first(seconds))),
        }
    }

    /// How long a packet may be overtaken before it counts as lost; `None`
    /// while the network keeps the order.
    pub(super) fn delay(&mut self, now: Timestamp) -> Option<Duration> {
        if self
            .0
            .is_some_and(|(last, _)| now.since(last) > REORDER_TIMEOUT)
        {
            self.0 = None;
        }
        self.0
            .map(|(_, smoothed)| smoothed.above(REORDER_DEVIATIONS))
    }
}

/// From a request to the packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: Option<Smoothed>,
    /// Of that; asked for with each packet, learnt with few.
    mean: Option<Duration>,
    timeout: Option<Duration>,
}

impl RoundTrip {
    /// Of a packet that was asked for once (Karn's rule).
    pub(super) fn answered(&mut self, after: Duration) {
        let seconds = after.min(LONGEST_RTT).as_secs_f64();
        let smoothed = match self.smoothed {
            Some(mut smoothed) => {
                smoothed.add(seconds);
                smoothed
            }
            None => Smoothed::first(seconds),
        };
        self.smoothed = Some(smoothed);
        let mean = smoothed.above(0.0);
        self.mean = Some(mean);
        self.timeout = Some(smoothed.above(RTT_DEVIATIONS).max(mean + MIN_MARGIN));
    }

    pub(super) fn known(&self) -> Option<Duration> {
        self.mean
    }

    pub(super) fn mean(&self) -> Duration {
        self.mean.unwrap_or(FIRST_RTT)
    }

    /// A request without an answer by then is repeated.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(FIRST_RTT + MIN_MARGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_timeout_follows_round_trips_and_their_spread() {
        let mut rtt = RoundTrip::default();
        assert_eq!(rtt.known(), None);
        assert!(rtt.timeout() > FIRST_RTT);
        for _ in 0..50 {
            rtt.answered(40 * MS);
        }
        assert!(rtt.mean().abs_diff(40 * MS) < MS);
        assert!(rtt.timeout().abs_diff(45 * MS) < MS, "{:?}", rtt.timeout());
        for n in 0..100 {
            rtt.answered(if n % 2 == 0 { 20 * MS } else { 60 * MS });
        }
        let timeout = rtt.timeout();
        assert!((70 * MS..90 * MS).contains(&timeout), "{timeout:?}");
        rtt.answered(Duration::MAX);
        assert!(rtt.mean() < Duration::from_secs(1));
    }

    #[test]
    fn reordering_is_forgotten() {
        let mut order = Reordering::default();
        let at = Timestamp::from_millis;
        assert_eq!(order.delay(at(0)), None);
        for n in 0..100 {
            order.overtaken(at(n), 20 * MS);
        }
        let delay = order.delay(at(100)).unwrap();
        assert!((20 * MS..22 * MS).contains(&delay), "{delay:?}");
        assert!(order.delay(at(10_050)).is_some());
        assert_eq!(order.delay(at(10_200)), None);
    }
}
