// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use dualstream_common::Timestamp;

use crate::RtpClock;

/// Frames until the line is trusted.
const START_FRAMES: u32 = 2;
const START_VARIANCE: [f64; 2] = [1.0, 1e10];
/// CUSUM of the error in RTP ticks: what counts of one frame, what each frame
/// is allowed, and the sum that is a change.
const MAX_ERROR: f64 = 7000.0;
const ALLOWED_ERROR: f64 = 6600.0;
const ALARM: f64 = 60e3;
/// All is forgotten after such a gap, and after such a jump of the RTP time.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_JUMP: f64 = 900e3;
/// From this many frames on, those further from the line than so many standard
/// deviations are left out, unless they are so many in a row.
const OUTLIERS_FROM: u32 = 300;
const OUTLIER_DEVIATIONS: f64 = 2.0;
const MAX_OUTLIERS: u32 = 150;
/// Mean and variance of the error in ticks: weight of the past, start.
const ERROR_DECAY: f64 = 0.999;
const START_ERROR_VARIANCE: f64 = 3000.0 * 3000.0;

/// When a frame is expected to arrive: the RTP time as a line over the time of
/// arrival by recursive least squares, without forgetting. libwebrtc,
/// timestamp_extrapolator.cc.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extrapolator(Option<Line>);

#[derive(Clone, Copy, Debug)]
struct Line {
    clock: RtpClock,
    start: Timestamp,
    last: Timestamp,
    last_ticks: f64,
    frames: u32,
    /// Ticks per ms, and ticks at the start.
    line: [f64; 2],
    covariance: [[f64; 2]; 2],
    early: f64,
    late: f64,
    error_mean: f64,
    error_variance: f64,
    outliers: u32,
}

impl Extrapolator {
    pub(super) fn frame(&mut self, rtp_timestamp: u32, arrival: Timestamp) {
        match &mut self.0 {
            Some(line) if line.goes_on(rtp_timestamp, arrival) => {
                line.frame(rtp_timestamp, arrival)
            }
            _ => {
                let mut line = Line::new(arrival);
                line.frame(rtp_timestamp, arrival);
                self.0 = Some(line);
            }
        }
    }

    /// `None` before the first frame.
    pub(super) fn expected(&self, rtp_timestamp: u32) -> Option<Timestamp> {
        let line = self.0.as_ref()?;
        let ticks = line.peek(rtp_timestamp);
        let (from, ms) = if line.frames < START_FRAMES {
            (
                line.last,
                (ticks - line.last_ticks) / RtpClock::VIDEO_PER_MS,
            )
        } else if line.line[0] < 1e-3 {
            (line.start, 0.0)
        } else {
            // To the next ms, as libwebrtc has it.
            let ms = (ticks - line.line[1]) / line.line[0] + 0.5;
            (line.start, ms.trunc())
        };
        let nanos = from.as_nanos() as f64 + ms * 1e6;
        Some(Timestamp::from_nanos(nanos as u64))
    }
}

impl Line {
    fn new(start: Timestamp) -> Self {
        Self {
            clock: RtpClock::default(),
            start,
            last: start,
            last_ticks: 0.0,
            frames: 0,
            line: [RtpClock::VIDEO_PER_MS, 0.0],
            covariance: [[START_VARIANCE[0], 0.0], [0.0, START_VARIANCE[1]]],
            early: 0.0,
            late: 0.0,
            error_mean: 0.0,
            error_variance: START_ERROR_VARIANCE,
            outliers: 0,
        }
    }

    /// Ticks since the first frame.
    fn peek(&self, rtp_timestamp: u32) -> f64 {
        let mut clock = self.clock;
        clock.ticks(rtp_timestamp) as f64
    }

    fn goes_on(&self, rtp_timestamp: u32, arrival: Timestamp) -> bool {
        arrival.since(self.last) <= TIMEOUT
            && (self.peek(rtp_timestamp) - self.last_ticks).abs() <= MAX_JUMP
    }

    fn frame(&mut self, rtp_timestamp: u32, arrival: Timestamp) {
        self.last = arrival;
        let ticks = self.clock.ticks(rtp_timestamp) as f64;
        let ms = (arrival.since(self.start).as_secs_f64() * 1000.0).round();
        let error = ticks - ms * self.line[0] - self.line[1];
        if self.is_outlier(error) {
            self.outliers += 1;
            if self.outliers <= MAX_OUTLIERS {
                return;
            }
            self.covariance[1][1] = START_VARIANCE[1];
        }
        self.outliers = 0;
        if self.is_change(error) && self.frames >= START_FRAMES {
            self.covariance[1][1] = START_VARIANCE[1];
        }
        self.last_ticks = ticks;
        self.update(ms, error);
        self.frames = self.frames.saturating_add(1);
    }

    fn is_outlier(&mut self, error: f64) -> bool {
        let limit = OUTLIER_DEVIATIONS * self.error_variance.sqrt();
        if self.frames >= OUTLIERS_FROM && (error - self.error_mean).abs() > limit {
            return true;
        }
        self.error_mean = ERROR_DECAY * self.error_mean + (1.0 - ERROR_DECAY) * error;
        let off = error - self.error_mean;
        let variance = ERROR_DECAY * self.error_variance + (1.0 - ERROR_DECAY) * off * off;
        self.error_variance = variance.max(1.0);
        false
    }

    fn update(&mut self, ms: f64, error: f64) {
        let p = &mut self.covariance;
        let spread = [p[0][0] * ms + p[0][1], p[1][0] * ms + p[1][1]];
        let variance = 1.0 + ms * spread[0] + spread[1];
        let gain = [spread[0] / variance, spread[1] / variance];
        let [top, bottom] = *p;
        for (row, gain) in gain.into_iter().enumerate() {
            self.line[row] += gain * error;
            for (column, (top, bottom)) in top.into_iter().zip(bottom).enumerate() {
                p[row][column] -= gain * (ms * top + bottom);
            }
        }
    }

    fn is_change(&mut self, error: f64) -> bool {
        let error = error.clamp(-MAX_ERROR, MAX_ERROR);
        self.early = (self.early + error - ALLOWED_ERROR).max(0.0);
        self.late = (self.late + error + ALLOWED_ERROR).min(0.0);
        let changed = self.early > ALARM || self.late < -ALARM;
        if changed {
            (self.early, self.late) = (0.0, 0.0);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected_ms(extrapolator: &Extrapolator, rtp_timestamp: u32) -> f64 {
        let expected = extrapolator.expected(rtp_timestamp).unwrap();
        expected.as_nanos() as f64 / 1e6
    }

    #[test]
    fn the_next_arrival_is_on_the_line_of_those_before() {
        let mut extrapolator = Extrapolator::default();
        assert_eq!(extrapolator.expected(0), None);
        // A wrap, and a clock that is 1 % slow.
        let at = |n: u32| 0xffff_f000u32.wrapping_add(n * 3000);
        for n in 0..300 {
            let micros = 1_000_000 + u64::from(n) * 33_667;
            extrapolator.frame(at(n), Timestamp::from_nanos(micros * 1000));
        }
        let ms = expected_ms(&extrapolator, at(300));
        assert!((ms - 11_100.0).abs() < 2.0, "{ms}");
    }

    #[test]
    fn a_gap_begins_anew() {
        let mut extrapolator = Extrapolator::default();
        for n in 0..100 {
            extrapolator.frame(n * 3000, Timestamp::from_millis(u64::from(n) * 33));
        }
        extrapolator.frame(0, Timestamp::from_millis(20_000));
        assert_eq!(expected_ms(&extrapolator, 9000), 20_100.0);
    }
}
