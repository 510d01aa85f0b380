// SPDX-License-Identifier: MPL-2.0
use std::sync::LazyLock;
use std::time::Duration;

use dualstream_common::Bitrate;
use gcc_core::Config;
use gst::glib;
use gst::prelude::*;

use super::DelayFilter;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub min: u32,
    pub max: u32,
    pub start: u32,
    /// 0: the maximum.
    pub wanted: u32,
    pub filter: DelayFilter,
    pub queue_aim_ms: u32,
    /// -1: no window.
    pub window_ms: i32,
    pub probing: bool,
    pub expect_feedback: bool,
}

fn bps(rate: Bitrate) -> u32 {
    u32::try_from(rate.as_bps()).unwrap_or(u32::MAX)
}

impl Default for Settings {
    fn default() -> Self {
        let core = Config::default();
        Self {
            min: bps(core.min),
            max: bps(core.max),
            start: bps(core.start),
            wanted: core.wanted.map_or(0, bps),
            filter: match core.filter {
                gcc_core::DelayFilter::Trendline => DelayFilter::Trendline,
                gcc_core::DelayFilter::Kalman => DelayFilter::Kalman,
            },
            queue_aim_ms: core.queue_aim.as_millis() as u32,
            window_ms: core.window.map_or(-1, |window| window.as_millis() as i32),
            probing: core.probing,
            expect_feedback: false,
        }
    }
}

impl Settings {
    /// For the core, and what had to be changed to make sense: the maximum
    /// gives way to the minimum, the start rate to both.
    pub fn config(&self) -> (Config, Option<String>) {
        let max = self.max.max(self.min);
        let start = self.start.clamp(self.min, max);
        let mended = (max != self.max).then(|| {
            format!(
                "max-bitrate {} is below min-bitrate {}, which is used for both",
                self.max, self.min
            )
        });
        let mended = mended.or_else(|| {
            (start != self.start).then(|| {
                format!(
                    "start-bitrate {} is outside of the limits, {start} is used",
                    self.start
                )
            })
        });
        let rate = |bps: u32| Bitrate::from_bps(bps.into());
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let config = Config {
            start: rate(start),
            min: rate(self.min),
            max: rate(max),
            wanted: (self.wanted > 0).then(|| rate(self.wanted)),
            filter: match self.filter {
                DelayFilter::Trendline => gcc_core::DelayFilter::Trendline,
                DelayFilter::Kalman => gcc_core::DelayFilter::Kalman,
            },
            queue_aim: ms(self.queue_aim_ms),
            window: u32::try_from(self.window_ms).ok().map(ms),
            probing: self.probing,
        };
        (config, mended)
    }

    /// False if there is no such property.
    pub fn set(
        &mut self,
        name: &str,
        value: &glib::Value,
    ) -> Result<bool, glib::value::ValueTypeMismatchError> {
        match name {
            "min-bitrate" => self.min = value.get()?,
            "max-bitrate" => self.max = value.get()?,
            "estimated-bitrate" | "start-bitrate" => self.start = value.get()?,
            "wanted-bitrate" => self.wanted = value.get()?,
            "delay-filter" => {
                self.filter = value.get::<DelayFilter>().unwrap_or_default();
            }
            "queue-aim" => self.queue_aim_ms = value.get()?,
            "congestion-window" => self.window_ms = value.get()?,
            "probing" => self.probing = value.get()?,
            "expect-feedback" => self.expect_feedback = value.get()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "min-bitrate" => self.min.to_value(),
            "max-bitrate" => self.max.to_value(),
            "start-bitrate" => self.start.to_value(),
            "wanted-bitrate" => self.wanted.to_value(),
            "delay-filter" => self.filter.to_value(),
            "queue-aim" => self.queue_aim_ms.to_value(),
            "congestion-window" => self.window_ms.to_value(),
            "probing" => self.probing.to_value(),
            "expect-feedback" => self.expect_feedback.to_value(),
            _ => return None,
        })
    }
}

pub fn rate(name: &str, nick: &str, blurb: &str, default: u32, playing: bool) -> glib::ParamSpec {
    let builder = glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(1)
        .default_value(default);
    if playing {
        builder.mutable_playing().build()
    } else {
        builder.mutable_ready().build()
    }
}

pub fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let default = Settings::default();
        vec![
            rate(
                "estimated-bitrate",
                "Estimated Bitrate",
                "Rate in bit/s that all media together may have, for encoders; what is written \
                 here is the start rate, as with start-bitrate",
                default.start,
                false,
            ),
            rate(
                "min-bitrate",
                "Minimum Bitrate",
                "Lower limit of the estimate in bit/s",
                default.min,
                true,
            ),
            rate(
                "max-bitrate",
                "Maximum Bitrate",
                "Upper limit of the estimate in bit/s",
                default.max,
                true,
            ),
            rate(
                "start-bitrate",
                "Start Bitrate",
                "Estimate in bit/s before anything is known",
                default.start,
                false,
            ),
            glib::ParamSpecUInt::builder("wanted-bitrate")
                .nick("Wanted Bitrate")
                .blurb(
                    "What the encoders could use in bit/s; probes go no further than twice \
                     this, and a higher one is probed for, 0 = max-bitrate",
                )
                .default_value(default.wanted)
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("delay-filter", default.filter)
                .nick("Delay Filter")
                .blurb("What finds the trend in the delay of packets")
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("queue-aim")
                .nick("Queue Aim")
                .blurb(
                    "How long packets may wait for others of ours in the bottleneck, in ms; \
                     more keeps the link busy, less keeps the delay low",
                )
                .minimum(1)
                .maximum(200)
                .default_value(default.queue_aim_ms)
                .mutable_playing()
                .build(),
            glib::ParamSpecInt::builder("congestion-window")
                .nick("Congestion Window")
                .blurb(
                    "In flight may be what the link takes in the time of a response and this \
                     many ms, -1 = no window",
                )
                .minimum(-1)
                .maximum(1000)
                .default_value(default.window_ms)
                .mutable_playing()
                .build(),
            glib::ParamSpecBoolean::builder("probing")
                .nick("Probing")
                .blurb("Send short bursts above the estimate to find out whether there is more")
                .default_value(default.probing)
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("expect-feedback")
                .nick("Expect Feedback")
                .blurb(
                    "The peer is known to send transport-wide feedback: begin with the start \
                     rate and probes at the first packet, not at the first feedback. Or REMB, \
                     where packets have no transport-wide numbers: rise by 5 % with \
                     each report without loss until the first REMB",
                )
                .default_value(default.expect_feedback)
                .mutable_playing()
                .build(),
            glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb("Packets, feedback, probes, and what the estimate rests on")
                .read_only()
                .build(),
        ]
    });
    PROPERTIES.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_core() {
        assert_eq!(Settings::default().config(), (Config::default(), None));
    }

    #[test]
    fn limits_that_contradict_each_other_are_mended() {
        for (min, max, start, expected) in [
            (1000, 500, 700, (1000, 1000, 1000)),
            (1000, 5000, 700, (1000, 5000, 1000)),
            (1000, 5000, 7000, (1000, 5000, 5000)),
        ] {
            let settings = Settings {
                min,
                max,
                start,
                ..Settings::default()
            };
            let (config, mended) = settings.config();
            let got = [config.min, config.max, config.start].map(Bitrate::as_bps);
            assert_eq!((got[0], got[1], got[2]), expected);
            assert!(mended.is_some());
            assert_eq!(config.validate(), Ok(()));
        }
    }
}
