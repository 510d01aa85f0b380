// SPDX-License-Identifier: MPL-2.0
//! What the application chooses, and the properties for it.

use std::time::Duration;

use dualstream_common::Ratio;
use gst::glib;
use gst::prelude::*;
use jitterbuffer_core::{Assembly, BufferConfig, Config, LONGEST_DELAY, RequestConfig};

use super::Model;
use super::intake::Format;

/// Of rtpjitterbuffer, where it has the same property.
const LATENCY_MS: u32 = 200;
const MAX_LATENCY_MS: u32 = 1000;
const MAX_DROPOUT_MS: u32 = 60_000;
const MAX_MISORDER_MS: u32 = 2000;
const MAX_RTCP_AHEAD_MS: i32 = 1000;

#[derive(Clone, Debug)]
pub struct Settings {
    pub latency_ms: u32,
    pub min_latency_ms: u32,
    pub max_latency_ms: u32,
    pub late_target: f64,
    pub model: Model,
    pub group: Option<String>,
    pub wait_for_key: bool,
    pub drop_on_latency: bool,
    pub do_lost: bool,
    pub do_retransmission: bool,
    pub rtx_delay_reorder: i32,
    pub rtx_min_delay_ms: u32,
    pub rtx_max_retries: i32,
    pub rtx_hedge: bool,
    pub ts_offset: i64,
    pub max_dropout_ms: u32,
    pub max_misorder_ms: u32,
    pub max_rtcp_ahead_ms: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency_ms: LATENCY_MS,
            min_latency_ms: 0,
            max_latency_ms: MAX_LATENCY_MS,
            late_target: Config::default().late_target.value(),
            model: Model::default(),
            group: None,
            wait_for_key: false,
            drop_on_latency: false,
            do_lost: false,
            do_retransmission: false,
            rtx_delay_reorder: -1,
            rtx_min_delay_ms: 0,
            rtx_max_retries: -1,
            rtx_hedge: RequestConfig::default().hedge,
            ts_offset: 0,
            max_dropout_ms: MAX_DROPOUT_MS,
            max_misorder_ms: MAX_MISORDER_MS,
            max_rtcp_ahead_ms: MAX_RTCP_AHEAD_MS,
        }
    }
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

impl Settings {
    /// Of the delay. The smaller limit wins where they contradict.
    pub fn timing(&self) -> Config {
        let max_delay = ms(self.max_latency_ms);
        Config {
            late_target: Ratio::clamped(self.late_target),
            min_delay: ms(self.min_latency_ms).min(max_delay),
            max_delay,
        }
    }

    pub fn buffer(&self, format: &Format) -> BufferConfig {
        BufferConfig {
            assembly: format.assembly,
            clock_rate: format.clock_rate,
            // Sound that is not asked for again does not come any more, and all
            // that is behind it would wait.
            hold: if format.assembly == Assembly::Packets && !self.do_retransmission {
                Duration::ZERO
            } else {
                ms(self.latency_ms)
            },
            drop_late: self.drop_on_latency,
            wait_for_key: self.wait_for_key && format.is_h264,
            request: RequestConfig {
                enabled: self.do_retransmission,
                reorder_packets: u32::try_from(self.rtx_delay_reorder).ok(),
                min_delay: ms(self.rtx_min_delay_ms),
                max_retries: u32::try_from(self.rtx_max_retries).ok(),
                hedge: self.rtx_hedge,
            },
            max_dropout: ms(self.max_dropout_ms),
            max_misorder: ms(self.max_misorder_ms),
            ..BufferConfig::default()
        }
    }

    pub fn value(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "latency" => self.latency_ms.to_value(),
            "min-latency" => self.min_latency_ms.to_value(),
            "max-latency" => self.max_latency_ms.to_value(),
            "late-target" => self.late_target.to_value(),
            "model" => self.model.to_value(),
            "group" => self.group.to_value(),
            "wait-for-keyframe" => self.wait_for_key.to_value(),
            "drop-on-latency" => self.drop_on_latency.to_value(),
            "do-lost" => self.do_lost.to_value(),
            "do-retransmission" => self.do_retransmission.to_value(),
            "rtx-delay-reorder" => self.rtx_delay_reorder.to_value(),
            "rtx-min-delay" => self.rtx_min_delay_ms.to_value(),
            "rtx-max-retries" => self.rtx_max_retries.to_value(),
            "rtx-hedge" => self.rtx_hedge.to_value(),
            "ts-offset" => self.ts_offset.to_value(),
            "max-dropout-time" => self.max_dropout_ms.to_value(),
            "max-misorder-time" => self.max_misorder_ms.to_value(),
            "max-rtcp-rtp-time-diff" => self.max_rtcp_ahead_ms.to_value(),
            _ => return None,
        })
    }

    pub fn set(
        &mut self,
        name: &str,
        value: &glib::Value,
    ) -> Result<(), glib::value::ValueTypeMismatchError> {
        match name {
            "latency" => self.latency_ms = value.get()?,
            "min-latency" => self.min_latency_ms = value.get()?,
            "max-latency" => self.max_latency_ms = value.get()?,
            "late-target" => self.late_target = value.get()?,
            "model" => self.model = value.get()?,
            "group" => {
                let group = value.get::<Option<String>>().unwrap_or_default();
                self.group = group.filter(|name| !name.is_empty());
            }
            "wait-for-keyframe" => self.wait_for_key = value.get()?,
            "drop-on-latency" => self.drop_on_latency = value.get()?,
            "do-lost" => self.do_lost = value.get()?,
            "do-retransmission" => self.do_retransmission = value.get()?,
            "rtx-delay-reorder" => self.rtx_delay_reorder = value.get()?,
            "rtx-min-delay" => self.rtx_min_delay_ms = value.get()?,
            "rtx-max-retries" => self.rtx_max_retries = value.get()?,
            "rtx-hedge" => self.rtx_hedge = value.get()?,
            "ts-offset" => self.ts_offset = value.get()?,
            "max-dropout-time" => self.max_dropout_ms = value.get()?,
            "max-misorder-time" => self.max_misorder_ms = value.get()?,
            "max-rtcp-rtp-time-diff" => self.max_rtcp_ahead_ms = value.get()?,
            _ => (),
        }
        Ok(())
    }
}

fn flag(name: &str, nick: &str, blurb: &str) -> glib::ParamSpec {
    glib::ParamSpecBoolean::builder(name)
        .nick(nick)
        .blurb(blurb)
        .mutable_playing()
        .build()
}

fn time(name: &str, nick: &str, blurb: &str, max: u32, default: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .maximum(max)
        .default_value(default)
        .mutable_playing()
        .build()
}

fn count(name: &str, nick: &str, blurb: &str, default: i32) -> glib::ParamSpec {
    glib::ParamSpecInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .minimum(-1)
        .default_value(default)
        .mutable_playing()
        .build()
}

fn delay_properties(default: &Settings) -> Vec<glib::ParamSpec> {
    let longest = LONGEST_DELAY.as_millis() as u32;
    vec![
        time(
            "latency",
            "Latency",
            "How long missing packets are waited for, in ms; longer if the delay or, with \
             do-retransmission, three round trips are; audio without do-retransmission waits for the \
             delay alone",
            u32::MAX,
            default.latency_ms,
        ),
        time(
            "min-latency",
            "Minimum Latency",
            "Lower limit of the delay, in ms",
            longest,
            default.min_latency_ms,
        ),
        time(
            "max-latency",
            "Maximum Latency",
            "Upper limit of the delay, in ms; goes before min-latency. Frames that come later are \
             shown as soon as they can be",
            longest,
            default.max_latency_ms,
        ),
        glib::ParamSpecDouble::builder("late-target")
            .nick("Late Target")
            .blurb("Share of frames allowed to miss their time; smaller = more delay")
            .minimum(0.0001)
            .maximum(0.5)
            .default_value(default.late_target)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder_with_default("model", default.model)
            .nick("Model")
            .blurb("Which estimate of the delay is used; a change forgets what was learnt")
            .mutable_playing()
            .build(),
        glib::ParamSpecString::builder("group")
            .nick("Group")
            .blurb(
                "Elements of the process with the same name here share one estimate, and the \
                 settings of the one that was changed last, as for both streams of a dual stream; \
                 null or empty = none; taken until the first packet",
            )
            .mutable_playing()
            .build(),
    ]
}

fn hedge_property(default: &Settings) -> glib::ParamSpec {
    glib::ParamSpecBoolean::builder("rtx-hedge")
        .nick("RTX Hedge")
        .blurb(
            "Ask twice in a row for a packet that would be late if its retransmission were lost; \
             for one packet in 20 at most",
        )
        .default_value(default.rtx_hedge)
        .mutable_playing()
        .build()
}

fn loss_properties(default: &Settings) -> Vec<glib::ParamSpec> {
    vec![
        flag(
            "wait-for-keyframe",
            "Wait for Keyframe",
            "H.264: after a loss drop what cannot be decoded, and ask for a key frame",
        ),
        flag(
            "drop-on-latency",
            "Drop on Latency",
            "Drop the oldest packets when more than latency of media is held",
        ),
        flag(
            "do-lost",
            "Do Lost",
            "Send an event GstRTPPacketLost downstream for each lost packet",
        ),
        flag(
            "do-retransmission",
            "Do Retransmission",
            "Ask upstream for missing packets by events GstRTPRetransmissionRequest",
        ),
        count(
            "rtx-delay-reorder",
            "RTX Delay Reorder",
            "A packet is asked for when this many later ones have come, at the latest 10 ms after \
             the first of them; 0 = after that time only, -1 = at the first later packet. While \
             packets come out of order, a time that follows them",
            default.rtx_delay_reorder,
        ),
        time(
            "rtx-min-delay",
            "Minimum RTX Delay",
            "How long a packet is missing before it is asked for, unless rtx-delay-reorder says \
             it is lost, in ms",
            u32::MAX,
            default.rtx_min_delay_ms,
        ),
        count(
            "rtx-max-retries",
            "RTX Max Retries",
            "How often a packet is asked for again after the first time; -1 = as long as it \
             would come in time",
            default.rtx_max_retries,
        ),
        hedge_property(default),
    ]
}

fn stream_properties(default: &Settings) -> Vec<glib::ParamSpec> {
    vec![
        glib::ParamSpecInt64::builder("ts-offset")
            .nick("Timestamp Offset")
            .blurb("Added to timestamps, in ns; rtpbin sets it to keep streams in sync")
            .minimum(i64::MIN)
            .maximum(i64::MAX)
            .default_value(default.ts_offset)
            .mutable_playing()
            .build(),
        time(
            "max-dropout-time",
            "Max Dropout Time",
            "A gap after which RTP timestamps are further ahead is a new stream, in ms",
            i32::MAX.cast_unsigned(),
            default.max_dropout_ms,
        ),
        time(
            "max-misorder-time",
            "Max Misorder Time",
            "Packets with RTP timestamps older than this are a new stream, in ms",
            u32::MAX,
            default.max_misorder_ms,
        ),
        count(
            "max-rtcp-rtp-time-diff",
            "Max RTCP RTP Time Diff",
            "RTP time of a sender report that is further ahead of the packets is not used for \
             synchronisation, in ms; -1 = no limit",
            default.max_rtcp_ahead_ms,
        ),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("Packets and frames, the delay and what it is made of")
            .read_only()
            .build(),
    ]
}

pub fn properties() -> Vec<glib::ParamSpec> {
    let default = Settings::default();
    let mut all = delay_properties(&default);
    all.extend(loss_properties(&default));
    all.extend(stream_properties(&default));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_that_is_not_asked_for_again_is_not_waited_for() {
        gst::init().expect("GStreamer starts");
        for (media, do_retransmission, hold) in [
            ("audio", false, 0),
            ("audio", true, 150),
            ("video", false, 150),
            ("video", true, 150),
        ] {
            let caps = gst::Caps::builder("application/x-rtp")
                .field("media", media)
                .field("clock-rate", 48_000i32)
                .build();
            let settings = Settings {
                latency_ms: 150,
                do_retransmission,
                ..Settings::default()
            };
            let format = Format::parse(&caps).expect("a clock rate");
            let config = settings.buffer(&format);
            assert_eq!(config.hold, ms(hold), "{media} {do_retransmission}");
        }
    }
}
