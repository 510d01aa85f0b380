// SPDX-License-Identifier: MPL-2.0
//! How soon the sender hears of a packet: the round trip, and what the peer
//! holds feedback back on top. Feedback that is late beyond that means that packets
//! are stuck.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::Timestamp;

/// Over which the least response is kept.
const WINDOW: Duration = Duration::from_secs(20);
const BUCKET: Duration = Duration::from_secs(2);
/// Of a new round trip in the mean (RFC 6298).
const SHARE: f64 = 0.125;
/// Feedback may be held back by as much as it was in this time.
const HOLDS: Duration = Duration::from_secs(6);
const HOLD_BUCKET: Duration = Duration::from_secs(1);
/// ... and not less than this: who answers more often may well pause.
const LEAST_INTERVAL: f64 = 0.05;

/// From departure to feedback, without the time in queues: the least and the
/// most of the packets of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unqueued {
    pub least: Duration,
    pub most: Duration,
}

impl Unqueued {
    #[must_use]
    pub fn of(took: Duration) -> Self {
        Self {
            least: took,
            most: took,
        }
    }

    #[must_use]
    pub fn with(self, took: Duration) -> Self {
        Self {
            least: self.least.min(took),
            most: self.most.max(took),
        }
    }
}

#[derive(Debug, Default)]
pub struct Response {
    /// Least of each bucket.
    least: VecDeque<(Timestamp, Duration)>,
    smoothed: Option<f64>,
    latest: Option<Duration>,
    /// Most of each bucket, above the least response. At most 8.
    holds: VecDeque<(Timestamp, Duration)>,
    last: Option<Timestamp>,
    /// From RTCP, the path alone.
    reported: Option<Duration>,
}

impl Response {
    /// Feedback came; `sample` is from the departure of its newest packet.
    pub fn feedback(
        &mut self,
        now: Timestamp,
        sample: Option<Duration>,
        unqueued: Option<Unqueued>,
    ) {
        self.last = Some(now);
        if let Some(unqueued) = unqueued {
            keep(
                &mut self.least,
                now,
                (BUCKET, WINDOW),
                unqueued.least,
                Duration::min,
            );
            let least = self.shortest().unwrap_or(unqueued.least);
            let hold = unqueued.most.saturating_sub(least);
            keep(
                &mut self.holds,
                now,
                (HOLD_BUCKET, HOLDS),
                hold,
                Duration::max,
            );
        }
        let Some(sample) = sample else { return };
        self.latest = Some(sample);
        let seconds = sample.as_secs_f64();
        let smoothed = self.smoothed.unwrap_or(seconds);
        self.smoothed = Some(smoothed + SHARE * (seconds - smoothed));
    }

    /// Entries kept: bounded.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.least.len() + self.holds.len()
    }

    /// The round trip of RTCP's sender and receiver reports.
    pub fn reported(&mut self, rtt: Duration) {
        self.reported = Some(rtt);
    }

    /// The reported round trip, else the least response.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.reported.or(self.shortest())
    }

    fn shortest(&self) -> Option<Duration> {
        self.least.iter().map(|(_, least)| *least).min()
    }

    /// Mean time from a packet's departure to its feedback, s.
    #[must_use]
    pub fn smoothed(&self) -> Option<f64> {
        self.smoothed
    }

    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// How long the peer holds feedback back, s.
    fn interval(&self) -> f64 {
        let most = self.holds.iter().map(|(_, most)| most.as_secs_f64());
        most.fold(LEAST_INTERVAL, f64::max)
    }

    /// Longest time from a departure to its feedback where nothing waits, s.
    #[must_use]
    pub fn longest(&self) -> Option<f64> {
        Some(self.shortest()?.as_secs_f64() + self.interval())
    }

    /// As [`Self::longest`], with what waited at the last feedback, s.
    #[must_use]
    pub fn expected(&self) -> Option<f64> {
        Some(self.latest?.as_secs_f64() + self.interval())
    }
}

/// Takes a value into buckets, each of which keeps one, over a window.
fn keep(
    buckets: &mut VecDeque<(Timestamp, Duration)>,
    now: Timestamp,
    (bucket, window): (Duration, Duration),
    value: Duration,
    better: fn(Duration, Duration) -> Duration,
) {
    match buckets.back_mut() {
        Some((start, kept)) if now.since(*start) < bucket => *kept = better(*kept, value),
        _ => buckets.push_back((now, value)),
    }
    while buckets.len() > 1
        && (buckets.front()).is_some_and(|(start, _)| now.since(*start) > window)
    {
        buckets.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn took(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    /// Least and most without queues.
    fn of(least: u64, most: u64) -> Option<Unqueued> {
        let least = Unqueued::of(Duration::from_millis(least));
        Some(least.with(Duration::from_millis(most)))
    }

    #[track_caller]
    fn assert_near(value: Option<f64>, expected: f64) {
        let value = value.expect("something is known");
        assert!((value - expected).abs() < 1e-9, "{value}, not {expected}");
    }

    #[test]
    fn before_feedback_nothing_is_known() {
        let r = Response::default();
        assert_eq!((r.rtt(), r.last()), (None, None));
        assert_eq!(
            (r.longest(), r.expected(), r.smoothed()),
            (None, None, None)
        );
    }

    #[test]
    fn the_mean_follows_by_an_eighth() {
        let mut r = Response::default();
        r.feedback(ms(0), took(100), of(100, 100));
        assert_near(r.smoothed(), 0.1);
        r.feedback(ms(50), took(180), of(180, 180));
        assert_near(r.smoothed(), 0.11);
    }

    #[test]
    fn the_round_trip_is_the_least_response_until_rtcp_says_better() {
        let mut r = Response::default();
        for (at, millis) in [(0, 100), (50, 80), (100, 300)] {
            r.feedback(ms(at), took(millis), of(millis, millis));
        }
        assert_eq!(r.rtt(), took(80));
        r.reported(Duration::from_millis(40));
        assert_eq!(r.rtt(), took(40));
    }

    /// A path that has become longer is known for it after 20 s.
    #[test]
    fn the_least_response_is_forgotten() {
        let mut r = Response::default();
        r.feedback(ms(0), took(50), of(50, 50));
        for at in (2000..20_000).step_by(100) {
            r.feedback(ms(at), took(90), of(90, 90));
        }
        assert_eq!(r.rtt(), took(50));
        for at in (20_000..23_000).step_by(100) {
            r.feedback(ms(at), took(90), of(90, 90));
        }
        assert_eq!(r.rtt(), took(90));
        assert!(r.remembered() < 25);
    }

    /// A report each 200 ms: the packet that was sent first waits longest for
    /// it. That is known from one message.
    #[test]
    fn how_long_is_late_takes_in_what_the_peer_holds_back() {
        let mut r = Response::default();
        r.feedback(ms(0), took(60), of(60, 260));
        assert_near(r.longest(), 0.060 + 0.200);
        r.feedback(ms(200), took(300), of(60, 240));
        assert_near(r.longest(), 0.060 + 0.200);
        assert_near(r.expected(), 0.300 + 0.200);
    }

    /// Who answers each packet at once may well pause.
    #[test]
    fn some_time_is_always_given() {
        let mut r = Response::default();
        for n in 0..100 {
            r.feedback(ms(n * 5), took(60), of(60, 62));
        }
        assert_near(r.longest(), 0.060 + 0.050);
    }

    #[test]
    fn a_peer_that_answers_more_often_is_known_for_it_after_some_seconds() {
        let mut r = Response::default();
        r.feedback(ms(0), took(60), of(60, 560));
        for at in (100..5000).step_by(50) {
            r.feedback(ms(at), took(60), of(60, 110));
        }
        assert_near(r.longest(), 0.060 + 0.500);
        for at in (5000..9000).step_by(50) {
            r.feedback(ms(at), took(60), of(60, 130));
        }
        assert_near(r.longest(), 0.060 + 0.070);
    }

    #[test]
    fn feedback_about_losses_alone_counts_as_heard() {
        let mut r = Response::default();
        r.feedback(ms(0), took(60), of(60, 60));
        r.feedback(ms(40), None, None);
        assert_eq!(r.last(), Some(ms(40)));
        assert_near(r.smoothed(), 0.060);
    }
}
