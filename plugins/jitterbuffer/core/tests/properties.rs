// SPDX-License-Identifier: MPL-2.0
//! What holds whatever the network sends.

use std::time::Duration;

use dualstream_common::{DataSize, Ratio, Timestamp};
use jitterbuffer_core::{AdaptiveModel, Arrival, Config, Frame, WebrtcModel};
use proptest::prelude::*;

/// Steps of RTP time, arrival and clock go both ways and far.
fn any_frame() -> impl Strategy<Value = (Frame, Timestamp)> {
    let near = 0..10_000_000_000u64;
    // Our own clock: two centuries are enough.
    let time = prop_oneof![9 => near, 1 => 0..1u64 << 62];
    let rtp = prop_oneof![3 => 0..900_000u32, 1 => any::<u32>()];
    let bytes = prop_oneof![9 => 0..200_000u64, 1 => any::<u64>()];
    (rtp, time.clone(), time, bytes, any::<bool>()).prop_map(
        |(rtp_timestamp, arrival, now, bytes, retransmitted)| {
            let frame = Frame {
                rtp_timestamp,
                arrival: Timestamp::from_nanos(arrival),
                size: DataSize::from_bytes(bytes),
                retransmitted,
            };
            (frame, Timestamp::from_nanos(now))
        },
    )
}

proptest! {
    /// Ten seconds, and what retransmission and the system add.
    #[test]
    fn the_webrtc_estimate_is_bounded(
        frames in proptest::collection::vec(any_frame(), 1..300),
        rtt in any::<u64>(),
    ) {
        let mut model = WebrtcModel::new();
        for (frame, now) in frames {
            model.set_rtt(Duration::from_nanos(rtt));
            let estimate = model.frame(now, &frame);
            prop_assert!(estimate <= Duration::from_millis(10_210), "{estimate:?}");
        }
    }
}

proptest! {
    /// The time a frame should be shown follows its RTP time, and what is
    /// waited for stays within the limits.
    #[test]
    fn the_adaptive_delay_is_within_its_limits(
        frames in proptest::collection::vec(any_frame(), 1..300),
        limits in (0..200u64, 200..10_000u64),
        late_target in 0.0001..0.5,
    ) {
        let (min, max) = (Duration::from_millis(limits.0), Duration::from_millis(limits.1));
        let mut model = AdaptiveModel::new(Config {
            late_target: Ratio::clamped(late_target),
            min_delay: min,
            max_delay: max,
        })
        .unwrap();
        for (frame, _) in frames {
            let due = model.playout(frame.rtp_timestamp);
            let verdict = model.frame(&frame);
            match (due, verdict) {
                // Of a frame from before the zero of the clock.
                (Some(Timestamp::ZERO), _) | (_, Arrival::First) => {}
                (Some(due), Arrival::Late(by)) => prop_assert!(frame.arrival.since(due) >= by),
                (Some(due), Arrival::OnTime) => prop_assert!(due >= frame.arrival),
                (None, _) => prop_assert!(false, "due only after a first frame"),
            }
            let delay = model.delay();
            prop_assert!(delay >= min, "{delay:?} below {min:?}");
            prop_assert!(delay <= max, "{delay:?} above {max:?}");
        }
    }
}
