// SPDX-License-Identifier: MPL-2.0
//! What retransmission repairs before the deadline.

use std::time::Duration;

use crate::cadence::Cadence;
use crate::channel::Channel;

/// A receiver asks once it is sure that a packet is not merely out of order.
/// rtpjitterbuffer and libwebrtc wait about so long.
const PATIENCE: Duration = Duration::from_millis(20);
/// Spread of the round-trip time, as a part of it and beside that.
const SPREAD: f64 = 0.1;
const LEAST_SPREAD: Duration = Duration::from_millis(5);
/// Requests for one packet.
const MOST_ATTEMPTS: i32 = 8;

/// [`unrepaired`] of a stream: the gap after the last packet of a frame is seen
/// when the next frame comes.
#[must_use]
pub fn of(cadence: &Cadence, channel: Channel, deadline: Duration, rtt: Duration) -> f64 {
    let last = 1.0 / cadence.packets().max(1.0);
    let steps = cadence.rate() * rtt.as_secs_f64();
    let within = unrepaired(channel, deadline, rtt, steps);
    let at_end = unrepaired(
        channel,
        deadline.saturating_sub(cadence.interval()),
        rtt,
        steps,
    );
    within * (1.0 - last) + at_end * last
}

/// Share of the lost packets that are still missing at the deadline. There is
/// no step where an attempt becomes possible: it is the more likely to be in
/// time the earlier it is expected. `steps` packets are sent in a round trip.
#[must_use]
pub fn unrepaired(channel: Channel, deadline: Duration, rtt: Duration, steps: f64) -> f64 {
    let rtt_s = rtt.as_secs_f64();
    let spread = SPREAD * rtt_s + LEAST_SPREAD.as_secs_f64();
    let slack = deadline.as_secs_f64() - PATIENCE.as_secs_f64();
    let attempt = |number: i32| {
        let early = (slack - f64::from(number) * rtt_s) / spread;
        let in_time = 1.0 / (1.0 + (-early).exp());
        1.0 - in_time * (1.0 - channel.again(steps * f64::from(number)))
    };
    (1..=MOST_ATTEMPTS).map(attempt).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_sooner_an_answer_comes_the_more_is_repaired() {
        let channel = Channel::independent(0.05);
        let left = |rtt| unrepaired(channel, ms(200), ms(rtt), 10.0);
        assert!(left(10) < 1e-6, "{}", left(10));
        assert!(
            (0.0025..0.01).contains(&left(70)),
            "two attempts: {}",
            left(70)
        );
        assert!(
            (0.05..0.1).contains(&left(110)),
            "one attempt: {}",
            left(110)
        );
        assert!(left(400) > 0.99, "none: {}", left(400));
        let all: Vec<_> = (1..500).map(left).collect();
        assert!(
            all.windows(2).all(|w| w[0] <= w[1] && w[1] - w[0] < 0.03),
            "no step"
        );
    }

    #[test]
    fn a_burst_that_lasts_longer_than_the_round_trip_takes_the_answer_too() {
        let channel = Channel::new(0.05, 5.0);
        let left = |steps| unrepaired(channel, ms(100), ms(60), steps);
        assert!(
            left(2.0) > 3.0 * left(100.0),
            "{} {}",
            left(2.0),
            left(100.0)
        );
    }
}
