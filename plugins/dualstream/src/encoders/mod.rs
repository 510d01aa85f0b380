// SPDX-License-Identifier: MPL-2.0
//! The H.264 encoders that are known: how each is set up for low latency,
//! which properties carry rate and buffer and in which unit, and what a change
//! of rate costs. One family per factory, one file per maker; see
//! docs/encoders.md for how to add one.
//!
//! ```text
//! installed() -> Family::make(Setup) -> element -> set_rate, force_key
//!             \-> probe(): ten frames, once per process
//! ```

mod amf;
mod apple;
mod jetson;
mod mf;
mod msdk;
mod nvidia;
mod omx;
mod openh264;
mod probe;
mod property;
mod qsv;
mod v4l2;
mod va;
mod vaapi;
mod x264;

pub use crate::trial::{PICTURES as PROBE_PICTURES, ProbeError, Probed};
use dualstream_common::Bitrate;
use dualstream_core::sender::GroupAccount;
pub use dualstream_core::sender::{EncoderRate, RateChange};
use gst::prelude::*;
pub use probe::probe;
pub use property::Value;
use property::{Properties, clamp_u32};
use std::time::Duration;

/// What is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub width: u32,
    pub height: u32,
    pub frame_time: Duration,
}

/// What an encoder is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub format: Format,
    /// Of the first frames.
    pub rate: EncoderRate,
    /// The highest rate that will be asked for.
    pub ceiling: Bitrate,
}

impl Setup {
    /// A buffer of one frame, and room for twice the rate.
    #[must_use]
    pub fn new(width: u32, height: u32, frame_time: Duration, bitrate: Bitrate) -> Self {
        Self {
            format: Format {
                width,
                height,
                frame_time,
            },
            rate: EncoderRate {
                bitrate,
                buffer: frame_time,
            },
            ceiling: bitrate.scale(2.0),
        }
    }
}

/// What a property counts rates in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateUnit {
    Bit,
    /// 1000 bit/s.
    Kilobit,
    /// 1024 bit/s, under the name of kbit.
    Kibibit,
}

impl RateUnit {
    /// `rate` in this unit, at least 1: 0 means "choose yourself" to most.
    #[must_use]
    pub fn of(self, rate: Bitrate) -> u32 {
        let unit = match self {
            Self::Bit => 1,
            Self::Kilobit => 1000,
            Self::Kibibit => 1024,
        };
        clamp_u32(rate.as_bps() / unit).max(1)
    }
}

/// What a property counts buffer sizes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferUnit {
    Bit,
    /// 1000 bit.
    Kilobit,
    /// 1024 bit.
    Kibibit,
    Byte,
    /// 1000 bytes.
    Kilobyte,
    /// Time at the rate.
    Millisecond,
}

impl BufferUnit {
    /// Rounded up: less than one frame is refused or is no buffer at all.
    #[must_use]
    pub fn of(self, rate: EncoderRate) -> u32 {
        let bits = rate.largest_frame().as_bits();
        let size = match self {
            Self::Bit => bits,
            Self::Kilobit => bits.div_ceil(1000),
            Self::Kibibit => bits.div_ceil(1024),
            Self::Byte => bits.div_ceil(8),
            Self::Kilobyte => bits.div_ceil(8000),
            // x264enc makes whole kbit of the product with the rate, and of 0
            // no buffer at all.
            Self::Millisecond => u64::try_from(rate.buffer.as_micros().div_ceil(1000))
                .unwrap_or(u64::MAX)
                .max(1000u64.div_ceil(rate.bitrate.as_kbps().max(1))),
        };
        clamp_u32(size).max(1)
    }
}

/// Where and how the size of the buffer (VBV, HRD) is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub property: &'static str,
    pub unit: BufferUnit,
    /// It changes with the rate. If not, a change would start the encoder
    /// anew: it is set when the encoder is made, for one frame of the target
    /// rate of then, which bounds key frames, too.
    pub rescaled: bool,
}

/// How a key frame is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForceKey {
    /// By the GstForceKeyUnit event, as with any GstVideoEncoder.
    Event,
    /// By the event, and by this V4L2 control where the element does not heed
    /// the event (v4l2h264enc before 1.24).
    Control(&'static str),
    /// By this action signal.
    Signal(&'static str),
}

/// How many encoders of a kind can run at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// As many as memory and time allow.
    Many,
    /// The device has a limit of its own, which the second encoder's start
    /// will show.
    Limited,
}

/// One kind of encoder.
#[derive(Clone, Copy)]
pub struct Family {
    pub factory: &'static str,
    pub hardware: bool,
    /// Caps features of the memory that it takes without a copy, best first;
    /// empty: system memory only.
    pub memory: &'static [&'static str],
    pub sessions: Sessions,
    pub force_key: ForceKey,
    /// Property or, with `controls`, V4L2 control of the rate.
    pub bitrate: (&'static str, RateUnit),
    pub buffer: Option<Buffer>,
    /// Property of the largest rate. Where it must be known from the start it
    /// is set to [`Setup::ceiling`].
    pub ceiling: Option<(&'static str, RateUnit)>,
    /// Rates are fields of the property `extra-controls`.
    pub controls: bool,
    /// What a change of rate does; the second where the element has the named
    /// property, which only its newer implementation does.
    pub rate_change: RateChange,
    pub newer: Option<(&'static str, RateChange)>,
    /// Set when an encoder is made, those that it has.
    pub low_latency: &'static [(&'static str, Value)],
    /// What depends on more than a table can say.
    pub tune: Option<fn(&gst::Element, Setup)>,
    /// The rate is set before the encoder starts; if not, right before its
    /// first frame.
    pub rate_at_start: bool,
    /// The level of the rate control's buffer outlives a change of its size,
    /// so that only a new instance makes a frame as large as a key frame's
    /// budget.
    pub new_for_key_frame: bool,
    /// Frame times at the rate that an IDR frame takes, where there is no
    /// buffer to bound it; 1: as large as the rate says.
    pub key_frame_cost: f64,
    /// It shares its bits out over groups of pictures, as [`GroupAccount`] says,
    /// and has no buffer to bound a single one.
    pub groups: bool,
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.factory)
    }
}

/// What most families have in common; each names what differs.
const BASE: Family = Family {
    factory: "",
    hardware: true,
    memory: &[],
    sessions: Sessions::Limited,
    force_key: ForceKey::Event,
    bitrate: ("bitrate", RateUnit::Kilobit),
    buffer: None,
    ceiling: None,
    controls: false,
    rate_change: RateChange::InPlace,
    newer: None,
    low_latency: &[],
    tune: None,
    rate_at_start: true,
    new_for_key_frame: false,
    key_frame_cost: 1.0,
    groups: false,
};

static FAMILIES: [Family; 19] = [
    x264::FAMILY,
    openh264::FAMILY,
    nvidia::LEGACY,
    nvidia::CUDA,
    nvidia::AUTO_GPU,
    nvidia::D3D11,
    qsv::FAMILY,
    msdk::FAMILY,
    va::FAMILY,
    va::LOW_POWER,
    vaapi::FAMILY,
    amf::FAMILY,
    apple::FAMILY,
    apple::HARDWARE,
    mf::FAMILY,
    v4l2::FAMILY,
    jetson::FAMILY,
    omx::FAMILY,
    omx::LIBAV,
];

/// All that are known, installed or not.
#[must_use]
pub fn all() -> &'static [Family] {
    &FAMILIES
}

/// The family of a factory.
#[must_use]
pub fn by_factory(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.factory == name)
}

/// Those that are installed, best rank first; of equal rank, hardware first.
#[must_use]
pub fn installed() -> Vec<&'static Family> {
    let mut found: Vec<_> = FAMILIES
        .iter()
        .filter_map(|family| Some((family.rank()?, family)))
        .filter(|(rank, _)| *rank > gst::Rank::NONE)
        .collect();
    found.sort_by_key(|(rank, family)| std::cmp::Reverse((*rank, family.hardware)));
    found.into_iter().map(|(_, family)| family).collect()
}

impl Family {
    /// `None`: not installed.
    #[must_use]
    pub fn rank(&self) -> Option<gst::Rank> {
        gst::ElementFactory::find(self.factory).map(|factory| factory.rank())
    }

    /// An encoder, set up and not yet started. The name may be left to
    /// GStreamer.
    pub fn make(
        &self,
        name: Option<&str>,
        setup: Setup,
    ) -> Result<gst::Element, gst::glib::BoolError> {
        self.make_for(name, setup, setup.rate)
    }

    /// As [`Family::make`], where the first frames are not like those to come:
    /// a buffer that stays is made for `steady`.
    pub fn make_for(
        &self,
        name: Option<&str>,
        setup: Setup,
        steady: EncoderRate,
    ) -> Result<gst::Element, gst::glib::BoolError> {
        let builder = gst::ElementFactory::make(self.factory);
        let element = match name {
            Some(name) => builder.name(name).build()?,
            None => builder.build()?,
        };
        self.set_up(&element, setup, steady);
        Ok(element)
    }

    fn set_up(&self, element: &gst::Element, setup: Setup, steady: EncoderRate) {
        let properties = Properties(element);
        for (name, value) in self.low_latency {
            properties.set(name, *value);
        }
        if let Some((name, unit)) = self.ceiling {
            properties.set(name, Value::Number(unit.of(setup.ceiling).into()));
        }
        if let Some(tune) = self.tune {
            tune(element, setup);
        }
        if self.rate_at_start {
            self.set_rate(element, setup.rate, true);
            if self.buffer.is_some_and(|buffer| !buffer.rescaled) {
                self.set_buffer(element, steady);
            }
        }
    }

    /// Rate and buffer before the next frame, which may be a key frame.
    pub fn set_rate(&self, element: &gst::Element, rate: EncoderRate, key: bool) {
        let bitrate = if key {
            rate.bitrate.scale(1.0 / self.key_frame_cost)
        } else {
            rate.bitrate
        };
        let (name, unit) = self.bitrate;
        let value = unit.of(bitrate);
        let value = value.min(self.most(element).unwrap_or(u32::MAX));
        self.set_number(element, name, value);
        if self.buffer.is_some_and(|buffer| buffer.rescaled) {
            self.set_buffer(element, rate);
        }
    }

    /// The most that it takes; openh264enc would refuse more and keep the rate that
    /// it has.
    fn most(&self, element: &gst::Element) -> Option<u32> {
        let (name, _) = self.ceiling.filter(|_| self.groups)?;
        element.find_property(name)?;
        let most = element.property_value(name).get::<u32>().ok()?;
        Some(most).filter(|most| *most > 0)
    }

    fn set_buffer(&self, element: &gst::Element, rate: EncoderRate) {
        if let Some(buffer) = self.buffer {
            self.set_number(element, buffer.property, buffer.unit.of(rate));
        }
    }

    fn set_number(&self, element: &gst::Element, name: &str, value: u32) {
        let properties = Properties(element);
        if self.controls {
            properties.control(name, value);
        } else {
            properties.set(name, Value::Number(value.into()));
        }
    }

    /// What a change of rate does to this very element.
    #[must_use]
    pub fn rate_change(&self, element: &gst::Element) -> RateChange {
        match self.newer {
            Some((property, change)) if element.find_property(property).is_some() => change,
            _ => self.rate_change,
        }
    }

    /// To tell a new encoder its rates by, where it needs that.
    #[must_use]
    pub fn account(&self) -> Option<GroupAccount> {
        self.groups.then(|| GroupAccount::new(self.key_frame_cost))
    }

    /// Asks for a key frame with the next picture. False: `element` has no
    /// linked source pad, or refused.
    pub fn force_key(&self, element: &gst::Element) -> bool {
        match self.force_key {
            ForceKey::Event => {}
            ForceKey::Control(name) => Properties(element).press(name),
            ForceKey::Signal(name) => {
                // Without arguments or result; another one is not ours.
                let fits = gst::glib::subclass::SignalId::lookup(name, element.type_())
                    .is_some_and(|id| id.query().n_params() == 0);
                if fits {
                    element.emit_by_name::<()>(name, &[]);
                    return true;
                }
            }
        }
        let event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .build();
        element
            .static_pad("src")
            .is_some_and(|pad| pad.send_event(event))
    }

    /// Raw video that it takes, by its pad template.
    #[must_use]
    pub fn sink_caps(&self) -> Option<gst::Caps> {
        let factory = gst::ElementFactory::find(self.factory)?;
        let template = factory
            .static_pad_templates()
            .into_iter()
            .find(|t| t.direction() == gst::PadDirection::Sink)?;
        Some(template.caps())
    }
}
