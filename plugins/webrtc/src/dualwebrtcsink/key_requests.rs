// SPDX-License-Identifier: MPL-2.0
//! Key frames for the viewers of an SFU.
//!
//! An SFU asks for a key frame (PLI) for each viewer that comes, and passes on
//! what viewers ask for. With one key frame for each of them, many who come at
//! once would have a stream of nothing else. So they are spaced: the first
//! request is answered at once, and all that come within the interval by one
//! key frame at its end. None is forgotten: a viewer that came just after a key
//! frame has not seen it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use gst::prelude::*;

/// At a viewer's start this is its longest wait for a picture beside that for
/// the network.
pub const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Spacing<E> {
    interval: Duration,
    last: Option<Instant>,
    /// The latest request that waits.
    waiting: Option<E>,
}

impl<E> Spacing<E> {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            waiting: None,
        }
    }

    fn is_early(&self, now: Instant) -> bool {
        self.last
            .is_some_and(|last| now.saturating_duration_since(last) < self.interval)
    }

    /// Whether this request goes on now; else it is kept.
    fn on_request(&mut self, now: Instant, request: E) -> bool {
        if self.is_early(now) {
            self.waiting = Some(request);
            return false;
        }
        self.last = Some(now);
        self.waiting = None;
        true
    }

    /// The request whose time has come.
    fn due(&mut self, now: Instant) -> Option<E> {
        if self.is_early(now) {
            return None;
        }
        let request = self.waiting.take()?;
        self.last = Some(now);
        Some(request)
    }
}

/// Spaces the requests for key frames that go up through this pad.
pub fn space(last: &gst::Pad, interval: Duration) {
    let spacing = Mutex::new(Spacing::new(interval));
    let kinds = gst::PadProbeType::EVENT_UPSTREAM
        | gst::PadProbeType::BUFFER
        | gst::PadProbeType::BUFFER_LIST;
    last.add_probe(kinds, move |pad, info| match &info.data {
        Some(gst::PadProbeData::Event(event)) if gst_video::ForceKeyUnitEvent::is(event) => {
            let goes = spacing
                .lock()
                .unwrap()
                .on_request(Instant::now(), event.clone());
            if goes {
                gst::PadProbeReturn::Ok
            } else {
                // Not Drop: with that GStreamer unrefs an event which the binding
                // has taken.
                gst::PadProbeReturn::Handled
            }
        }
        Some(gst::PadProbeData::Buffer(_) | gst::PadProbeData::BufferList(_)) => {
            // The lock is gone before the event meets the probe.
            let due = spacing.lock().unwrap().due(Instant::now());
            if let Some(event) = due
                && let Some(parent) = pad.parent_element()
            {
                // To what stands before it: this pad's probe has let it by.
                for sink in parent.sink_pads() {
                    sink.push_event(event.clone());
                }
            }
            gst::PadProbeReturn::Ok
        }
        _ => gst::PadProbeReturn::Ok,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_viewers_in_a_second_get_two_key_frames() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut spacing = Spacing::new(Duration::from_secs(1));
        let mut key_frames = Vec::new();
        for ms in (0..5000u64).step_by(10) {
            if ms < 1000 && spacing.on_request(at(ms), ms) {
                key_frames.push(ms);
            }
            if let Some(asked) = spacing.due(at(ms)) {
                // The latest of those that it is for.
                assert_eq!(asked, 990);
                key_frames.push(ms);
            }
        }
        assert_eq!(key_frames, [0, 1000]);
    }

    #[test]
    fn one_that_comes_alone_does_not_wait() {
        let start = Instant::now();
        let mut spacing = Spacing::new(Duration::from_secs(1));
        for seconds in [0, 1, 3, 10] {
            assert!(spacing.on_request(start + Duration::from_secs(seconds), ()));
        }
        assert_eq!(spacing.due(start + Duration::from_secs(20)), None);
    }

    #[test]
    fn a_clock_that_goes_back_forgets_nobody() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut spacing = Spacing::new(Duration::from_secs(1));
        assert!(spacing.on_request(start, ()));
        assert!(!spacing.on_request(start - Duration::from_secs(5), ()));
        assert_eq!(spacing.due(start + Duration::from_secs(1)), Some(()));
    }

    /// Through real pads: the probe does not drop what it lets go late.
    #[test]
    fn a_request_that_waited_goes_up_with_the_next_packet() {
        gst::init().unwrap();
        let mut h = gst_check::Harness::new("identity");
        let pad = h.element().unwrap().static_pad("src").unwrap();
        space(&pad, Duration::from_millis(50));
        h.set_src_caps_str("application/x-rtp");
        let ask = || {
            gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build()
        };
        let asked = |h: &mut gst_check::Harness| {
            std::iter::from_fn(|| h.try_pull_upstream_event())
                .filter(|event| gst_video::ForceKeyUnitEvent::is(event))
                .count()
        };
        for _ in 0..5 {
            h.push_upstream_event(ask());
        }
        assert_eq!(asked(&mut h), 1);
        h.push(gst::Buffer::from_slice([0x80; 12])).unwrap();
        assert_eq!(asked(&mut h), 0, "too early");
        std::thread::sleep(Duration::from_millis(60));
        h.push(gst::Buffer::from_slice([0x80; 12])).unwrap();
        assert_eq!(asked(&mut h), 1);
        h.push(gst::Buffer::from_slice([0x80; 12])).unwrap();
        assert_eq!(asked(&mut h), 0, "once");
    }
}
