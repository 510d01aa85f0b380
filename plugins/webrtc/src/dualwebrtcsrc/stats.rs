// SPDX-License-Identifier: MPL-2.0
//! What the worker thread shows of itself.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use gst::glib;

use super::clocks::Clocks;
use crate::negotiated::Negotiated;

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub session: &'static str,
    pub connection: &'static str,
    pub signalling: bool,
    pub producer: String,
    pub sessions: u64,
    /// Index, rtcpiframefeedback, jitter buffer.
    pub streams: Vec<(usize, Option<gst::Element>, glib::WeakRef<gst::Element>)>,
    /// Of the session.
    pub clocks: Option<Clocks>,
    pub negotiated: Option<Negotiated>,
    pub fec_decoder: Option<gst::Element>,
}

/// Nothing for so long is an outage.
const OUTAGE: Duration = Duration::from_secs(1);

/// Times in which no media came, between times in which it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outages {
    last_packet: Option<Instant>,
    pub count: u64,
    pub last: Duration,
    pub longest: Duration,
}

impl Outages {
    fn on_packet(&mut self, now: Instant) {
        let gap = self
            .last_packet
            .replace(now)
            .map(|before| now.saturating_duration_since(before));
        if let Some(gap) = gap.filter(|gap| *gap >= OUTAGE) {
            self.count += 1;
            self.last = gap;
            self.longest = self.longest.max(gap);
        }
    }
}

#[derive(Debug, Default)]
pub struct Shared(Mutex<Snapshot>, Mutex<Outages>);

impl Shared {
    pub fn on_packet(&self, now: Instant) {
        self.1.lock().unwrap().on_packet(now);
    }

    pub fn outages(&self) -> Outages {
        *self.1.lock().unwrap()
    }

    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock().unwrap());
    }

    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_packets_is_an_outage_if_it_is_long() {
        let mut outages = Outages::default();
        let start = Instant::now();
        for ms in [0, 20, 900, 5900, 5920, 8000] {
            outages.on_packet(start + Duration::from_millis(ms));
        }
        assert_eq!(outages.count, 2);
        assert_eq!(outages.last, Duration::from_millis(2080));
        assert_eq!(outages.longest, Duration::from_secs(5));
    }
}
