// SPDX-License-Identifier: MPL-2.0
//! Pictures that wait for an encoder that is too slow for them.
//!
//! A source does not wait for a slow encoder: what it gives meanwhile would be sent
//! later and later. A short delay (another program took the processor) is made up
//! for, and no picture is lost by it; where pictures go on waiting, the newest are
//! left out until the encoder has caught up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::DualWebRtcSink;
use super::imp::CAT;
use super::stats::Shared;
use crate::requirements::make;

/// One waits while the one before it is in work.
const AT_REST: u32 = 1;
/// So long may more than that wait.
const PATIENCE: Duration = Duration::from_millis(200);
/// And so many at most: a slow encoder's memory, and a moment of a fast source.
const MOST: u32 = 15;
/// Without a picture left out, the encoder is fast enough again.
const CALM: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Overload {
    /// More than one has been waiting since then.
    waiting_since: Option<Instant>,
    last_left_out: Option<Instant>,
}

impl Overload {
    /// Whether a picture that comes now may go to the encoder, for which `waiting`
    /// others wait.
    pub fn admits(&mut self, waiting: u32, now: Instant) -> bool {
        if waiting <= AT_REST {
            self.waiting_since = None;
            return true;
        }
        let since = *self.waiting_since.get_or_insert(now);
        let is_calm = self
            .last_left_out
            .is_none_or(|last| now.duration_since(last) >= CALM);
        if waiting < MOST && is_calm && now.duration_since(since) < PATIENCE {
            return true;
        }
        self.last_left_out = Some(now);
        false
    }
}

/// So often is the user told.
const TELL: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Guard {
    overload: Overload,
    told: Option<Instant>,
}

impl Guard {
    fn admits(&mut self, waiting: u32, now: Instant) -> (bool, bool) {
        let admitted = self.overload.admits(waiting, now);
        let is_due = self
            .told
            .is_none_or(|told| now.duration_since(told) >= TELL);
        let tell = !admitted && is_due;
        if tell {
            self.told = Some(now);
        }
        (admitted, tell)
    }
}

/// A queue before an encoder that does not hold up whoever gives it pictures.
pub fn queue(
    name: &str,
    sink: &DualWebRtcSink,
    shared: &Arc<Shared>,
) -> Result<gst::Element, gst::ErrorMessage> {
    let queue = make("queue", name)?;
    // It never holds more than is admitted.
    queue.set_property("max-size-buffers", MOST + 1);
    queue.set_property("max-size-bytes", 0u32);
    queue.set_property("max-size-time", 0u64);
    let pad = queue
        .static_pad("sink")
        .ok_or_else(|| gst::error_msg!(gst::CoreError::Pad, ["a queue without a sink pad"]))?;
    let guard = Mutex::new(Guard::default());
    let (sink, shared, weak) = (sink.downgrade(), shared.clone(), queue.downgrade());
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let Some(queue) = weak.upgrade() else {
            return gst::PadProbeReturn::Ok;
        };
        let waiting = queue.property("current-level-buffers");
        let (admitted, tell) = guard.lock().unwrap().admits(waiting, Instant::now());
        if admitted {
            return gst::PadProbeReturn::Ok;
        }
        shared.add_late();
        if tell && let Some(sink) = sink.upgrade() {
            gst::warning!(CAT, obj = sink, "{} is full", queue.name());
            warn(&sink);
        }
        // Not Drop: GStreamer 1.22 would unref what the probe has let go of.
        gst::PadProbeReturn::Handled
    });
    Ok(queue)
}

fn warn(sink: &DualWebRtcSink) {
    gst::element_warning!(
        sink,
        gst::StreamError::Encode,
        ("The encoder is too slow: pictures are left out. A smaller picture, fewer of them \
             in a second or a faster encoder helps; dualstream-doctor says how long each takes.")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An encoder that takes `takes(n)` ms for its n-th picture, 30 pictures a
    /// second: how many were left out of `count`, and the longest way of one to its
    /// end in ms.
    fn run(count: u64, takes: impl Fn(u64) -> u64) -> (u64, u64) {
        let start = Instant::now();
        let mut overload = Overload::default();
        let (mut begins, mut left_out, mut longest) = (Vec::<u64>::new(), 0, 0);
        let mut free = 0;
        for n in 0..count {
            let now = n * 1000 / 30;
            let waiting = begins.iter().filter(|begin| **begin > now).count();
            let waiting = u32::try_from(waiting).unwrap();
            if !overload.admits(waiting, start + Duration::from_millis(now)) {
                left_out += 1;
                continue;
            }
            let begin = now.max(free);
            begins.push(begin);
            free = begin + takes(n);
            longest = longest.max(free - now);
        }
        (left_out, longest)
    }

    #[test]
    fn a_fast_encoder_gets_all() {
        assert_eq!(run(300, |_| 32), (0, 32));
    }

    #[test]
    fn a_short_stop_is_made_up_for() {
        let (left_out, longest) = run(300, |n| if n == 100 { 150 } else { 10 });
        assert_eq!(left_out, 0);
        assert!(longest <= 150, "{longest}");
    }

    #[test]
    fn a_slow_encoder_gets_what_it_can_do() {
        // 60 ms each: 16.7 of 30 in a second.
        let (left_out, longest) = run(900, |_| 60);
        assert!((380..=410).contains(&left_out), "{left_out}");
        assert!(longest <= 400, "{longest}");
        // Without end it would be 900 * 27 ms.
    }

    #[test]
    fn an_encoder_that_stands_holds_few() {
        let mut overload = Overload::default();
        let start = Instant::now();
        let mut waiting = 0;
        for n in 0..1000 {
            let now = start + Duration::from_millis(n / 10);
            waiting += u32::from(overload.admits(waiting, now));
        }
        assert_eq!(waiting, MOST);
    }

    #[test]
    fn after_the_overload_there_is_patience_again() {
        let slow_at_first = |n| if n < 150 { 60 } else { 5 };
        let (left_out, _) = run(150, slow_at_first);
        assert!(left_out > 40, "{left_out}");
        // A stop of 150 ms, four seconds after the last slow one.
        let after = run(300, |n| if n == 270 { 150 } else { slow_at_first(n) }).0;
        let without = run(300, slow_at_first).0;
        assert_eq!(after, without);
    }
}
