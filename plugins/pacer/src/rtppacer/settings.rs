// SPDX-License-Identifier: MPL-2.0
//! What the application chooses, and the properties for it.

use std::time::Duration;

use dualstream_common::DataSize;
use gst::glib;
use gst::prelude::*;
use pacer_core::{Config, RequestConfig};

use super::classify::Roles;

#[derive(Clone)]
pub struct Settings {
    pub bitrate: u64,
    pub pacing_factor: f64,
    pub burst_ms: u32,
    pub queue_limit_ms: u32,
    pub background_ttl_ms: u32,
    pub padding_ttl_ms: u32,
    pub max_packets: u32,
    pub max_bytes: u32,
    pub padding_pt: i32,
    pub retransmission_share: f64,
    pub retransmission_age_ms: u32,
    pub priorities: Option<gst::Structure>,
}

impl Default for Settings {
    fn default() -> Self {
        let core = Config::default();
        let requests = RequestConfig::default();
        let ms = |d: Option<Duration>| d.map_or(0, |d| d.as_millis() as u32);
        Self {
            bitrate: 0,
            pacing_factor: core.pacing_factor,
            burst_ms: ms(Some(core.burst)),
            queue_limit_ms: ms(core.queue_time_limit),
            background_ttl_ms: ms(core.ttl_background),
            padding_ttl_ms: ms(core.ttl_padding),
            max_packets: core.max_packets as u32,
            max_bytes: core.max_bytes.as_bytes() as u32,
            padding_pt: -1,
            retransmission_share: requests.share,
            retransmission_age_ms: ms(Some(requests.max_age)),
            priorities: None,
        }
    }
}

impl Settings {
    /// False if there is no such property.
    pub fn set(
        &mut self,
        name: &str,
        value: &glib::Value,
    ) -> Result<bool, glib::value::ValueTypeMismatchError> {
        match name {
            "bitrate" => self.bitrate = value.get()?,
            "pacing-factor" => self.pacing_factor = value.get()?,
            "burst-interval" => self.burst_ms = value.get()?,
            "queue-time-limit" => self.queue_limit_ms = value.get()?,
            "background-ttl" => self.background_ttl_ms = value.get()?,
            "padding-ttl" => self.padding_ttl_ms = value.get()?,
            "max-queue-packets" => self.max_packets = value.get()?,
            "max-queue-bytes" => self.max_bytes = value.get()?,
            "padding-payload-type" => self.padding_pt = value.get()?,
            "retransmission-share" => self.retransmission_share = value.get()?,
            "retransmission-max-age" => self.retransmission_age_ms = value.get()?,
            "priorities" => {
                // Null, and of another type: no structure.
                self.priorities = value.get::<Option<gst::Structure>>().unwrap_or_default();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "bitrate" => self.bitrate.to_value(),
            "pacing-factor" => self.pacing_factor.to_value(),
            "burst-interval" => self.burst_ms.to_value(),
            "queue-time-limit" => self.queue_limit_ms.to_value(),
            "background-ttl" => self.background_ttl_ms.to_value(),
            "padding-ttl" => self.padding_ttl_ms.to_value(),
            "max-queue-packets" => self.max_packets.to_value(),
            "max-queue-bytes" => self.max_bytes.to_value(),
            "padding-payload-type" => self.padding_pt.to_value(),
            "retransmission-share" => self.retransmission_share.to_value(),
            "retransmission-max-age" => self.retransmission_age_ms.to_value(),
            "priorities" => self.priorities.to_value(),
            _ => return None,
        })
    }

    pub fn config(&self) -> Config {
        let some = |ms: u32| (ms > 0).then(|| Duration::from_millis(ms.into()));
        Config {
            pacing_factor: self.pacing_factor,
            burst: Duration::from_millis(self.burst_ms.into()),
            queue_time_limit: some(self.queue_limit_ms),
            ttl_background: some(self.background_ttl_ms),
            ttl_padding: some(self.padding_ttl_ms),
            max_packets: self.max_packets as usize,
            max_bytes: DataSize::from_bytes(self.max_bytes.into()),
            ..Config::default()
        }
    }

    pub fn requests(&self) -> RequestConfig {
        RequestConfig {
            share: self.retransmission_share,
            max_age: Duration::from_millis(self.retransmission_age_ms.into()),
        }
    }

    pub fn roles(&self) -> Roles {
        self.priorities
            .as_ref()
            .map(|s| Roles::parse(s).0)
            .unwrap_or_default()
    }
}

fn ms_property(name: &str, nick: &str, blurb: &str, most: u32, default: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .nick(nick)
        .blurb(blurb)
        .maximum(most)
        .default_value(default)
        .mutable_playing()
        .build()
}

pub fn properties() -> Vec<glib::ParamSpec> {
    let default = Settings::default();
    vec![
        glib::ParamSpecUInt64::builder("bitrate")
            .nick("Bitrate")
            .blurb(
                "Target rate in bit/s until an event tells another one, \
                 0 = nothing is held until then",
            )
            .default_value(default.bitrate)
            .mutable_playing()
            .build(),
        glib::ParamSpecDouble::builder("pacing-factor")
            .nick("Pacing Factor")
            .blurb(
                "Pacing rate over target rate, up to the pacing rate that the \
                 last event allows",
            )
            .minimum(1.0)
            .maximum(5.0)
            .default_value(default.pacing_factor)
            .mutable_playing()
            .build(),
        ms_property(
            "burst-interval",
            "Burst Interval",
            "How much may leave at once, as time at the pacing rate in ms, \
             0 = each packet is spaced exactly",
            5,
            default.burst_ms,
        ),
        ms_property(
            "queue-time-limit",
            "Queue Time Limit",
            "The pacing rate is raised so that all but background packets leave \
             within this time in ms, 0 = never raised",
            60_000,
            default.queue_limit_ms,
        ),
        ms_property(
            "background-ttl",
            "Background Time To Live",
            "Background packets that have waited for this time in ms are dropped, \
             0 = never",
            3_600_000,
            default.background_ttl_ms,
        ),
        ms_property(
            "padding-ttl",
            "Padding Time To Live",
            "Packets of priority padding that have waited for this time in ms are \
             dropped, 0 = never",
            3_600_000,
            default.padding_ttl_ms,
        ),
        glib::ParamSpecUInt::builder("max-queue-packets")
            .nick("Maximum Queue Packets")
            .blurb(
                "Most packets held; when full, the oldest of the lowest priority \
                 is dropped for a more urgent one, else the new one",
            )
            .minimum(1)
            .maximum(1_000_000)
            .default_value(default.max_packets)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("max-queue-bytes")
            .nick("Maximum Queue Bytes")
            .blurb("Most bytes held, with the same policy as max-queue-packets")
            .minimum(1)
            .default_value(default.max_bytes)
            .mutable_playing()
            .build(),
        glib::ParamSpecInt::builder("padding-payload-type")
            .nick("Padding Payload Type")
            .blurb(
                "Payload type of padding packets, never used if it is one of the \
                 media, -1 = that of retransmissions, else one that is free",
            )
            .minimum(-1)
            .maximum(127)
            .default_value(default.padding_pt)
            .mutable_playing()
            .build(),
        glib::ParamSpecDouble::builder("retransmission-share")
            .nick("Retransmission Share")
            .blurb(
                "Of the target rate, the part that packets sent again may take in the mean, \
                 those of audio not held back but counted, 0 = only those are sent again",
            )
            .minimum(0.0)
            .maximum(1.0)
            .default_value(default.retransmission_share)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("retransmission-max-age")
            .nick("Retransmission Maximum Age")
            .blurb(
                "A packet that left longer ago than this and a round trip is not sent again, \
                 in ms; background packets may be three times as old",
            )
            .minimum(1)
            .maximum(60_000)
            .default_value(default.retransmission_age_ms)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("priorities")
            .nick("Priorities")
            .blurb(
                "Priority by SSRC and payload type, fields ssrc-<n> and pt-<n>, values \
                 audio, retransmission, display, fec, background or padding",
            )
            .mutable_playing()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("Rate in force, probes, padding, and packets of each priority")
            .read_only()
            .build(),
    ]
}
