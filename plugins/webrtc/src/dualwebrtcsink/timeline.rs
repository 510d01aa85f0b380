// SPDX-License-Identifier: MPL-2.0
//! What video and audio of one sink have in common: the shift of a time line
//! whose first buffers waited for a receiver, and the wall clock.

use std::sync::{Arc, Mutex};

use gst::prelude::*;

use crate::capture_time::{self, NtpTime};

/// The wall clock is read again for each buffer, but what it says of the
/// pipeline's clock is taken over only if it differs by this: reading two clocks
/// one after the other is not exact, and audio and video must not drift apart
/// for that.
const CLOCK_STEP_NS: i64 = 1_000_000;
/// Time stamps that are further from now than this say nothing of the capture.
const FARTHEST_NS: i64 = 10_000_000_000;

#[derive(Debug, Default)]
struct State {
    shift: Option<i64>,
    /// The wall clock, as NTP time, less running time.
    wall: Option<i64>,
}

#[derive(Clone, Debug, Default)]
pub struct Timeline(Arc<Mutex<State>>);

impl Timeline {
    /// The first of the buffers that waited says how far all are shifted.
    pub fn shift_by(&self, own: i64) -> i64 {
        *self.0.lock().unwrap().shift.get_or_insert(own)
    }

    pub fn shift(&self) -> i64 {
        self.0.lock().unwrap().shift.unwrap_or(0)
    }

    /// After a flush, or at the start.
    pub fn unshift(&self) {
        self.0.lock().unwrap().shift = None;
    }

    /// When a buffer of this running time was captured. `now`: running time and
    /// wall clock, read together.
    pub fn capture(&self, running: Option<i64>, now: (i64, NtpTime)) -> NtpTime {
        let (now_running, now_wall) = now;
        let Some(running) = running.filter(|r| (now_running - r).abs() < FARTHEST_NS) else {
            return now_wall;
        };
        let read = now_wall.since(NtpTime::from_nanos(0)) - now_running;
        let mut state = self.0.lock().unwrap();
        let wall = match state.wall {
            Some(wall) if (wall - read).abs() < CLOCK_STEP_NS => wall,
            _ => *state.wall.insert(read),
        };
        NtpTime::from_nanos(0).plus(wall.saturating_add(running))
    }

    /// Gives what goes to the payloader its time of capture, where an encoder
    /// has lost it.
    pub fn mark(&self, pad: &gst::Pad, payloader: &gst::Element) {
        let (timeline, payloader) = (self.clone(), payloader.downgrade());
        let reference = capture_time::reference();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if let (Some(buffer), Some(payloader)) = (info.buffer_mut(), payloader.upgrade())
                && capture_time::of(buffer, &reference).is_none()
                && let Some(wall) = NtpTime::now()
                && let Some(now) = payloader.current_running_time()
            {
                let running = running_time(pad, buffer);
                let now = (i64::try_from(now.nseconds()).unwrap_or(i64::MAX), wall);
                let time = timeline.capture(running, now);
                capture_time::set(buffer.make_mut(), &reference, time);
            }
            gst::PadProbeReturn::Ok
        });
    }
}

/// The running time of what comes to this pad.
pub fn running_time(pad: &gst::Pad, buffer: &gst::BufferRef) -> Option<i64> {
    let event = pad.sticky_event::<gst::event::Segment>(0)?;
    let segment = event.segment().downcast_ref::<gst::ClockTime>()?.clone();
    let running = segment.to_running_time(buffer.pts()?)?;
    i64::try_from(running.nseconds()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(ms: i64) -> NtpTime {
        NtpTime::from_nanos(3_900_000_000_000_000_000).plus(ms * 1_000_000)
    }

    const MS: i64 = 1_000_000;

    #[test]
    fn equal_time_stamps_have_equal_times_of_capture() {
        let timeline = Timeline::default();
        // The picture comes 3 ms after its time, the sound 20 ms after; the
        // clocks are read 0.4 ms apart.
        let picture = timeline.capture(Some(100 * MS), (103 * MS, wall(1103)));
        let sound = timeline.capture(Some(100 * MS), (120 * MS, wall(1120).plus(400_000)));
        assert_eq!(picture, wall(1100));
        assert_eq!(sound, picture);
        // The wall clock is set.
        assert_eq!(
            timeline.capture(Some(200 * MS), (200 * MS, wall(5200))),
            wall(5200)
        );
    }

    #[test]
    fn time_stamps_that_make_no_sense_are_not_believed() {
        let timeline = Timeline::default();
        for running in [None, Some(20_000 * MS), Some(-20_000 * MS)] {
            assert_eq!(timeline.capture(running, (50 * MS, wall(7))), wall(7));
        }
    }

    #[test]
    fn all_are_shifted_like_the_first() {
        let timeline = Timeline::default();
        assert_eq!(timeline.shift(), 0);
        assert_eq!(timeline.shift_by(70), 70);
        assert_eq!(timeline.clone().shift_by(90), 70);
        timeline.unshift();
        assert_eq!(timeline.shift(), 0);
    }
}
