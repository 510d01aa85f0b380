// SPDX-License-Identifier: MPL-2.0
//! When a frame is to be shown.
//!
//! ```text
//! time stamps, numbers -> Timeline -> capture -> model -> fastest, delay
//! decoder -> DecodeTime ---------------------------+         |
//! playout-delay extension -> limits ---------------+---------+
//!                                                  v
//!       playout = fastest + delay     render = playout + decode time
//! ```
//!
//! Several streams may share one: both of a dual stream do, so that a switch
//! is no jump.

mod decode;
mod timeline;

use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};

use crate::adaptive::{AdaptiveModel, Arrival, Config, ConfigError, LONGEST_DELAY};
use crate::presentation::Latency;
use crate::{Frame, PlayoutDelay, WebrtcModel};
use decode::DecodeTime;
pub use timeline::StreamId;
use timeline::{Timeline, at_90_khz};
pub(crate) use timeline::{nanos, ticks_to_nanos};

/// If so many frames in a row waited for the one before in the sink, what is known
/// of decoding is too much: with it, all leave too early to be measured.
const ALWAYS: u32 = 150;

/// Which estimate of the delay is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelKind {
    #[default]
    Adaptive,
    Webrtc,
}

#[derive(Clone, Debug)]
enum Model {
    Adaptive(AdaptiveModel),
    Webrtc(WebrtcModel),
}

/// What is known of a frame when it is complete.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    pub timestamp: u32,
    /// Of its last packet.
    pub arrival: Timestamp,
    pub size: DataSize,
    pub retransmitted: bool,
}

/// What is planned for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// When it would be here as one of the fastest of late.
    pub earliest: Timestamp,
    /// When it has to be here, not to be late.
    pub playout: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimingStats {
    pub frames: u64,
    pub late_frames: u64,
    /// Between the fastest frames of late and the playout time.
    pub delay: Duration,
    pub decode: Duration,
}

/// The delay of one or several streams, learnt from their frames.
#[derive(Clone, Debug)]
pub struct Timing {
    config: Config,
    model: Model,
    timeline: Timeline,
    decode: DecodeTime,
    wish: Option<PlayoutDelay>,
    latency: Latency,
    frames: u64,
    late_frames: u64,
    /// Until when the sink waits with what has left, of all streams.
    busy: Timestamp,
    /// When the last of those that left while it was is to be shown, and how many
    /// in a row came too early.
    shown: Timestamp,
    early: u32,
}

impl Timing {
    pub fn new(kind: ModelKind, config: Config) -> Result<Self, ConfigError> {
        let mut latency = Latency::default();
        latency.update(Timestamp::ZERO, config.min_delay);
        Ok(Self {
            model: Model::new(kind, config)?,
            latency,
            config,
            timeline: Timeline::default(),
            decode: DecodeTime::default(),
            wish: None,
            frames: 0,
            late_frames: 0,
            busy: Timestamp::ZERO,
            shown: Timestamp::ZERO,
            early: 0,
        })
    }

    /// What was learnt is kept, unless it is for another model.
    pub fn configure(&mut self, kind: ModelKind, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.config = config;
        if self.model.kind() != kind {
            self.model = Model::new(kind, self.limited())?;
        }
        self.limit();
        Ok(())
    }

    pub fn join(&mut self, clock_rate: u32) -> StreamId {
        self.timeline.join(clock_rate)
    }

    pub fn restart(&mut self, stream: StreamId, clock_rate: u32) {
        self.timeline.restart(stream, clock_rate);
    }

    /// Both codings of a picture have the same number.
    pub fn number(&mut self, stream: StreamId, timestamp: u32, number: u16) {
        self.timeline.number(stream, timestamp, number);
    }

    /// The sender wishes for these limits from now on.
    pub fn wish(&mut self, wish: PlayoutDelay) {
        if self.wish != Some(wish) {
            self.wish = Some(wish);
            self.limit();
        }
    }

    pub fn set_rtt(&mut self, rtt: Duration) {
        if let Model::Webrtc(model) = &mut self.model {
            model.set_rtt(rtt);
        }
    }

    /// A frame that is to be shown is complete.
    pub fn frame(&mut self, stream: StreamId, whole: &Whole) -> Arrival {
        let planned = self.plan(stream, whole.timestamp);
        let common = self.timeline.frame(stream, whole.timestamp, whole.arrival);
        let frame = Frame {
            rtp_timestamp: at_90_khz(common),
            arrival: whole.arrival,
            size: whole.size,
            retransmitted: whole.retransmitted,
        };
        match &mut self.model {
            Model::Adaptive(model) => {
                model.frame(&frame);
            }
            Model::Webrtc(model) => {
                model.frame(whole.arrival, &frame);
            }
        }
        self.frames += 1;
        let Some(plan) = planned else {
            return Arrival::First;
        };
        if whole.arrival > plan.playout {
            self.late_frames += 1;
            Arrival::Late(whole.arrival.since(plan.playout))
        } else {
            Arrival::OnTime
        }
    }

    /// A frame leaves, of any stream, and will be shown at `shown`. Whether the
    /// sink is idle: else it still waits to show one that left before, and what
    /// it gets meanwhile does not reach it at once.
    pub fn leaves(&mut self, now: Timestamp, shown: Timestamp) -> bool {
        // Time went back.
        if self.busy.since(now) > 2 * LONGEST_DELAY {
            self.busy = Timestamp::ZERO;
        }
        let idle = self.busy <= now;
        self.busy = self.busy.max(shown);
        idle
    }

    /// A frame that left while the sink was busy reached it, and is to be shown
    /// at `shown`. One that needs all the time for decoding comes close to that;
    /// one that comes right behind the frame before it had more than enough.
    pub fn unmeasured(&mut self, arrival: Timestamp, shown: Timestamp) {
        let step = shown.since(std::mem::replace(&mut self.shown, shown));
        let is_early = step < LONGEST_DELAY && shown.since(arrival) > step / 2;
        self.early = if is_early { self.early + 1 } else { 0 };
        if self.early >= ALWAYS {
            self.early = 0;
            self.decode.forget();
        }
    }

    /// The sink waits by this much longer with what it has.
    pub fn delayed(&mut self, by: Duration) {
        self.busy = self.busy + by;
    }

    /// A frame was decoded, and how long that took.
    pub fn decoded(&mut self, now: Timestamp, took: Duration) {
        self.early = 0;
        self.decode.push(now, took);
    }

    /// `None` before the first frame of the stream is complete.
    #[must_use]
    pub fn plan(&self, stream: StreamId, timestamp: u32) -> Option<Plan> {
        let capture = at_90_khz(self.timeline.common(stream, timestamp)?);
        let (earliest, delay) = match &self.model {
            Model::Adaptive(model) => {
                let playout = model.playout(capture)?;
                let delay = model.delay();
                let earliest = playout
                    .as_nanos()
                    .saturating_sub(nanos(delay).cast_unsigned());
                (Timestamp::from_nanos(earliest), delay)
            }
            Model::Webrtc(model) => {
                let expected = model.expected(capture)?;
                (expected, model.playout(capture)?.since(expected))
            }
        };
        let limits = self.limited();
        let delay = delay.clamp(limits.min_delay, limits.max_delay);
        Some(Plan {
            earliest,
            playout: earliest + delay,
        })
    }

    /// When a frame that could go at `ready` should be shown: then, or later by
    /// no more than the longest delay and the time for decoding.
    #[must_use]
    pub fn render(&self, stream: StreamId, timestamp: u32, ready: Timestamp) -> Timestamp {
        let playout = self.plan(stream, timestamp).map(|plan| plan.playout);
        let playout = playout.map_or(ready, |at| at.clamp(ready, ready + LONGEST_DELAY));
        playout + self.decode.estimate()
    }

    /// Of a frame, from the fastest arrival to the screen.
    #[must_use]
    pub fn target(&self) -> Duration {
        self.stats().delay + self.decode.estimate()
    }

    /// What is told to the pipeline, of all streams.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.latency.told()
    }

    /// True if there is a new one to be told.
    pub fn update_latency(&mut self, now: Timestamp) -> bool {
        let target = self.target();
        self.latency.update(now, target)
    }

    #[must_use]
    pub fn stats(&self) -> TimingStats {
        let limits = self.limited();
        let delay = match &self.model {
            Model::Adaptive(model) => model.delay(),
            Model::Webrtc(model) => model.estimate(),
        };
        TimingStats {
            frames: self.frames,
            late_frames: self.late_frames,
            delay: delay.clamp(limits.min_delay, limits.max_delay),
            decode: self.decode.estimate(),
        }
    }

    /// The limits of application and sender; where they contradict each other,
    /// the application's.
    fn limited(&self) -> Config {
        let Config {
            min_delay: min,
            max_delay: max,
            late_target,
        } = self.config;
        let (min_delay, max_delay) = self.wish.map_or((min, max), |wish| {
            (wish.min.clamp(min, max), wish.max.clamp(min, max))
        });
        Config {
            late_target,
            min_delay,
            max_delay,
        }
    }

    fn limit(&mut self) {
        let config = self.limited();
        if let Model::Adaptive(model) = &mut self.model {
            // It is what `configure` found valid, with closer limits.
            let _ = model.configure(config);
        }
    }
}

impl Model {
    fn new(kind: ModelKind, config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(match kind {
            ModelKind::Adaptive => Self::Adaptive(AdaptiveModel::new(config)?),
            ModelKind::Webrtc => Self::Webrtc(WebrtcModel::new()),
        })
    }

    fn kind(&self) -> ModelKind {
        match self {
            Self::Adaptive(_) => ModelKind::Adaptive,
            Self::Webrtc(_) => ModelKind::Webrtc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u32 = 3000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn whole(n: u32, late_ms: u64) -> Whole {
        Whole {
            timestamp: n.wrapping_mul(FRAME),
            arrival: at(1000 + u64::from(n) * 100 / 3 + late_ms),
            size: DataSize::from_bytes(4000),
            retransmitted: false,
        }
    }

    fn limits(min: u64, max: u64) -> Config {
        Config {
            min_delay: ms(min),
            max_delay: ms(max),
            ..Config::default()
        }
    }

    /// Each tenth frame is 60 ms late.
    fn run(kind: ModelKind, config: Config) -> (Timing, StreamId) {
        let mut timing = Timing::new(kind, config).unwrap();
        let stream = timing.join(90_000);
        for n in 0..300 {
            timing.frame(stream, &whole(n, if n % 10 == 9 { 60 } else { 0 }));
        }
        (timing, stream)
    }

    fn waits(timing: &Timing, stream: StreamId) -> Duration {
        let frame = whole(300, 0);
        let plan = timing.plan(stream, frame.timestamp).unwrap();
        plan.playout.since(frame.arrival)
    }

    /// Both streams of a dual one end in one sink.
    #[test]
    fn a_sink_that_waits_with_one_stream_is_not_idle_for_the_other() {
        let mut timing = Timing::new(ModelKind::Adaptive, Config::default()).unwrap();
        assert!(timing.leaves(at(100), at(250)), "the first");
        assert!(!timing.leaves(at(200), at(240)), "of the other stream");
        assert!(!timing.leaves(at(249), at(400)));
        assert!(timing.leaves(at(400), at(430)));
        assert!(!timing.leaves(at(400), at(1_000_000)));
        assert!(timing.leaves(at(401), at(500)), "time went back");
    }

    /// 500 ms are known, frames come each 33 ms.
    fn with_much_time(early: impl Fn(u64) -> Duration) -> Duration {
        let mut timing = Timing::new(ModelKind::Adaptive, Config::default()).unwrap();
        for n in 0..100 {
            timing.decoded(at(n * 33), ms(500));
        }
        for n in 0..=2 * u64::from(ALWAYS) {
            let shown = at(10_000 + n * 33);
            timing.unmeasured(at(10_000 + n * 33 - early(n).as_millis() as u64), shown);
        }
        timing.stats().decode
    }

    #[test]
    fn too_much_time_for_decoding_is_given_up() {
        // Each is in the sink right after the one before was shown.
        assert_eq!(with_much_time(|_| ms(30)), ms(0));
    }

    /// A decoder with many frames in it, each of which takes longer than the time
    /// between two.
    #[test]
    fn a_decoder_that_needs_its_time_keeps_it() {
        assert_eq!(with_much_time(|_| ms(5)), ms(500));
        let seldom = |n| if n % 20 == 0 { ms(2) } else { ms(30) };
        assert_eq!(with_much_time(seldom), ms(500), "some frames need it");
    }

    #[test]
    fn a_larger_latency_keeps_the_sink_busy() {
        let mut timing = Timing::new(ModelKind::Adaptive, Config::default()).unwrap();
        timing.leaves(at(100), at(150));
        timing.delayed(ms(100));
        assert!(!timing.leaves(at(200), at(300)));
        assert!(timing.leaves(at(301), at(310)));
    }

    #[test]
    fn both_models_plan() {
        let (adaptive, stream) = run(ModelKind::Adaptive, limits(0, 1000));
        assert!(waits(&adaptive, stream).abs_diff(ms(60)) < ms(2));
        assert!(adaptive.stats().delay.abs_diff(ms(60)) < ms(2));
        let late = adaptive.stats().late_frames;
        assert!((1..3).contains(&late), "{late}");
        let (webrtc, stream) = run(ModelKind::Webrtc, limits(0, 1000));
        assert!(waits(&webrtc, stream) > ms(20));
        assert_eq!(webrtc.stats().frames, 300);
    }

    #[test]
    fn limits_hold_for_both_models() {
        for kind in [ModelKind::Adaptive, ModelKind::Webrtc] {
            let (timing, stream) = run(kind, limits(0, 15));
            let plan = timing.plan(stream, 0).unwrap();
            assert_eq!(plan.playout.since(plan.earliest), ms(15), "{kind:?}");
            let (timing, stream) = run(kind, limits(150, 500));
            let plan = timing.plan(stream, 0).unwrap();
            assert_eq!(plan.playout.since(plan.earliest), ms(150), "{kind:?}");
        }
    }

    #[test]
    fn the_sender_may_wish_within_the_limits_of_the_application() {
        let (mut timing, stream) = run(ModelKind::Adaptive, limits(10, 500));
        let wish = |min, max| PlayoutDelay {
            min: ms(min),
            max: ms(max),
        };
        let mut delay = |wish| {
            timing.wish(wish);
            timing.frame(stream, &whole(300, 0));
            timing.stats().delay
        };
        assert_eq!(delay(wish(0, 0)), ms(10), "as soon as possible");
        assert_eq!(delay(wish(200, 300)), ms(200));
        assert_eq!(delay(wish(600, 900)), ms(500));
    }

    #[test]
    fn the_time_for_decoding_comes_on_top() {
        let (mut timing, stream) = run(ModelKind::Adaptive, limits(0, 1000));
        let frame = whole(300, 0);
        let before = timing.render(stream, frame.timestamp, frame.arrival);
        for n in 0..100 {
            timing.decoded(at(n * 33), ms(8));
        }
        let render = |ready| timing.render(stream, frame.timestamp, ready);
        assert_eq!(render(frame.arrival), before + ms(8));
        let late = before + ms(40);
        assert_eq!(render(late), late + ms(8), "as soon as it can be");
        assert!(timing.target().abs_diff(ms(68)) < ms(2));
    }

    #[test]
    fn a_switch_to_the_other_stream_is_no_jump() {
        let (mut timing, a) = run(ModelKind::Adaptive, limits(0, 1000));
        let b = timing.join(90_000);
        let offset = 1_234_567_890;
        timing.number(a, whole(299, 0).timestamp, 299);
        timing.number(b, offset, 299);
        let plan = |timing: &Timing| timing.plan(b, offset.wrapping_add(FRAME)).unwrap();
        assert_eq!(
            plan(&timing),
            timing.plan(a, whole(300, 0).timestamp).unwrap()
        );
        let delay = timing.stats().delay;
        for n in 1..30 {
            let mut frame = whole(299 + n, 0);
            frame.timestamp = offset.wrapping_add(n * FRAME);
            assert_eq!(timing.frame(b, &frame), Arrival::OnTime, "{n}");
            assert!(timing.stats().delay.abs_diff(delay) < ms(1), "{n}");
        }
    }

    #[test]
    fn settings_change_without_forgetting() {
        let (mut timing, stream) = run(ModelKind::Adaptive, limits(0, 1000));
        timing
            .configure(ModelKind::Adaptive, limits(0, 40))
            .unwrap();
        assert_eq!(timing.stats().delay, ms(40));
        timing
            .configure(ModelKind::Adaptive, limits(0, 1000))
            .unwrap();
        timing.frame(stream, &whole(300, 0));
        assert!(timing.stats().delay.abs_diff(ms(60)) < ms(2));
        assert_eq!(
            timing.configure(ModelKind::Adaptive, limits(9, 8)),
            Err(ConfigError::MinDelay)
        );
        timing
            .configure(ModelKind::Webrtc, limits(0, 1000))
            .unwrap();
        assert_eq!(timing.plan(stream, 0), None, "it begins anew");
    }
}
