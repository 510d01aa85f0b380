// SPDX-License-Identifier: MPL-2.0
//! The custom upstream event `application/x-network-estimate`, and when one
//! is due.

use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};
use gcc_core::{Cause, Estimate, ProbeCluster, State, Usage};

pub const EVENT: &str = "application/x-network-estimate";

/// No more often than this, but for what is urgent.
pub const INTERVAL: Duration = Duration::from_millis(25);
/// A target that falls below this share of the last one is urgent.
const FALL: f64 = 0.9;
/// Upper limit of the pacing rate over the target.
const PACING: f64 = 5.0;

/// What one event says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    pub estimate: Estimate,
    pub in_flight: DataSize,
    pub probe: Option<ProbeCluster>,
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Message {
    fn is_closed(&self) -> bool {
        is_closed(self.estimate.window, self.in_flight)
    }

    pub fn to_event(self) -> gst::Event {
        let estimate = &self.estimate;
        let probe = self.probe.map(|probe| {
            gst::Structure::builder("probe")
                .field("id", probe.id)
                .field("bitrate", probe.bitrate.as_bps())
                .field("packets", probe.packets)
                .field("duration", nanos(probe.duration))
                .build()
        });
        let window = estimate.window.map(DataSize::as_bytes);
        let structure = gst::Structure::builder(EVENT)
            .field("target-bitrate", estimate.target.as_bps())
            .field("pacing-bitrate", estimate.target.scale(PACING).as_bps())
            .field("padding-bitrate", 0u64)
            .field("loss", estimate.loss.value())
            .field_if_some("rtt", estimate.rtt.map(nanos))
            .field_if_some("congestion-window", window)
            .field("in-flight", self.in_flight.as_bytes())
            .field_if_some("probe", probe)
            .build();
        gst::event::CustomUpstream::new(structure)
    }
}

fn is_closed(window: Option<DataSize>, in_flight: DataSize) -> bool {
    window.is_some_and(|window| in_flight >= window)
}

/// Decides when an event is sent.
#[derive(Debug, Default)]
pub struct Schedule {
    last: Option<(Timestamp, Message)>,
    /// Something that an event would say has changed.
    dirty: bool,
    urgent: bool,
    /// The window is full, as the pacer too knows by its own count.
    closed: bool,
}

impl Schedule {
    /// A packet left.
    pub fn sent(&mut self, window: Option<DataSize>, in_flight: DataSize) {
        self.closed |= is_closed(window, in_flight);
    }

    /// The estimate may have changed, or what is in flight become less.
    pub fn update(&mut self, estimate: Estimate, in_flight: DataSize) {
        let now = Message {
            estimate,
            in_flight,
            probe: None,
        };
        let Some((_, last)) = &self.last else {
            (self.dirty, self.urgent) = (true, true);
            return;
        };
        let same =
            last.estimate == estimate && (estimate.window.is_none() || last.in_flight == in_flight);
        self.dirty |= !same;
        self.urgent |= estimate.target < last.estimate.target.scale(FALL);
        self.urgent |= now.is_closed() != (self.closed || last.is_closed());
    }

    /// When an event is due; `None` if there is nothing to say.
    pub fn due(&self) -> Option<Timestamp> {
        match &self.last {
            _ if !self.dirty && !self.urgent => None,
            Some((at, _)) if !self.urgent => Some(*at + INTERVAL),
            _ => Some(Timestamp::ZERO),
        }
    }

    /// This is sent. Says whether the target is another one.
    pub fn told(&mut self, now: Timestamp, message: Message) -> bool {
        let other = !matches!(&self.last, Some((_, last)) if last.estimate.target == message.estimate.target);
        self.closed = message.is_closed();
        self.last = Some((now, message));
        (self.dirty, self.urgent) = (false, false);
        other
    }
}

pub fn cause_nick(cause: Cause) -> &'static str {
    match cause {
        Cause::Start => "start",
        Cause::Probe => "probe",
        Cause::Room => "room",
        Cause::Steady => "steady",
        Cause::Queue => "queue",
        Cause::Drain => "drain",
        Cause::Limited => "limited",
        Cause::Competition => "competition",
        Cause::Silence => "silence",
        Cause::Loss => "loss",
        Cause::Remb => "remb",
        Cause::Minimum => "minimum",
        Cause::Maximum => "maximum",
    }
}

pub fn state_nick(state: State) -> &'static str {
    match state {
        State::Increase => "increase",
        State::Hold => "hold",
        State::Decrease => "decrease",
        State::Compete => "compete",
        State::Silent => "silent",
    }
}

pub fn usage_nick(usage: Usage) -> &'static str {
    match usage {
        Usage::Normal => "normal",
        Usage::Over => "over",
        Usage::Under => "under",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualstream_common::{Bitrate, Ratio};

    fn estimate(kbps: u64, window: Option<u64>) -> Estimate {
        Estimate {
            target: Bitrate::from_kbps(kbps),
            cause: Cause::Room,
            window: window.map(DataSize::from_bytes),
            loss: Ratio::ZERO,
            rtt: None,
        }
    }

    fn message(kbps: u64, window: Option<u64>, in_flight: u64) -> Message {
        Message {
            estimate: estimate(kbps, window),
            in_flight: DataSize::from_bytes(in_flight),
            probe: None,
        }
    }

    /// Told 1000 kbit/s with a window of 5000 bytes and `in_flight` at 1 s.
    fn told(in_flight: u64) -> Schedule {
        let mut schedule = Schedule::default();
        let message = message(1000, Some(5000), in_flight);
        assert!(schedule.told(Timestamp::from_millis(1000), message));
        assert_eq!(schedule.due(), None);
        schedule
    }

    const AT_ONCE: Option<Timestamp> = Some(Timestamp::ZERO);
    const LATER: Option<Timestamp> = Some(Timestamp::from_millis(1025));

    #[test]
    fn the_first_is_due_at_once_and_others_at_intervals() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(), None);
        schedule.update(estimate(300, None), DataSize::ZERO);
        assert_eq!(schedule.due(), AT_ONCE);

        let mut schedule = told(0);
        schedule.update(estimate(1000, Some(5000)), DataSize::ZERO);
        assert_eq!(schedule.due(), None, "nothing is new");
        schedule.update(estimate(2000, Some(5000)), DataSize::ZERO);
        assert_eq!(schedule.due(), LATER);
        schedule.update(estimate(950, Some(5000)), DataSize::ZERO);
        assert_eq!(schedule.due(), LATER, "a small fall can wait");
        schedule.update(estimate(890, Some(5000)), DataSize::ZERO);
        assert_eq!(schedule.due(), AT_ONCE);
    }

    #[test]
    fn a_window_that_opens_or_closes_is_told_at_once() {
        let mut schedule = told(0);
        schedule.update(estimate(1000, Some(4000)), DataSize::from_bytes(4000));
        assert_eq!(schedule.due(), AT_ONCE, "it shrank");
        let mut schedule = told(5000);
        schedule.update(estimate(1000, Some(5000)), DataSize::from_bytes(4999));
        assert_eq!(schedule.due(), AT_ONCE, "a little arrived");
        // The pacer counts what it sends.
        let mut schedule = told(4000);
        schedule.sent(Some(DataSize::from_bytes(5000)), DataSize::from_bytes(5200));
        assert_eq!(schedule.due(), None);
        schedule.update(estimate(1000, Some(5000)), DataSize::from_bytes(3000));
        assert_eq!(schedule.due(), AT_ONCE);
    }

    #[test]
    fn the_event_has_what_is_known() {
        gst::init().unwrap();
        let event = message(1000, None, 7).to_event();
        let s = event.structure().unwrap();
        assert_eq!(s.get("target-bitrate"), Ok(1_000_000u64));
        assert_eq!(s.get("pacing-bitrate"), Ok(5_000_000u64));
        assert_eq!(s.get("padding-bitrate"), Ok(0u64));
        assert_eq!(s.get("loss"), Ok(0.0f64));
        assert_eq!(s.get("in-flight"), Ok(7u64));
        for absent in ["rtt", "congestion-window", "probe"] {
            assert!(!s.has_field(absent), "{absent}");
        }
    }
}
