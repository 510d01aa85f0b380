// SPDX-License-Identifier: MPL-2.0
//! The properties of the real elements, with their types, ranges, defaults and
//! nicks, as in GStreamer 1.22 (nvcudah264enc of 1.28 as well).

use gst::glib;
use gst::prelude::*;

/// The nicks of an enumeration, registered as a type of its own.
macro_rules! nicks {
    ($name:ident, $type_name:literal, $first:ident = $first_nick:literal $(, $variant:ident = $nick:literal)*) => {
        #[allow(clippy::enum_variant_names, reason = "the nicks have it so")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
        #[repr(i32)]
        #[enum_type(name = $type_name)]
        pub enum $name {
            #[default]
            #[enum_value(name = $first_nick, nick = $first_nick)]
            $first,
            $(#[enum_value(name = $nick, nick = $nick)] $variant,)*
        }
    };
}

nicks!(
    NvPreset,
    "StandInNvPreset",
    Default = "default",
    Hp = "hp",
    Hq = "hq",
    LowLatency = "low-latency",
    LowLatencyHq = "low-latency-hq",
    LowLatencyHp = "low-latency-hp",
    Lossless = "lossless",
    LosslessHp = "lossless-hp"
);
nicks!(
    NvRcMode,
    "StandInNvRcMode",
    Default = "default",
    Constqp = "constqp",
    Cbr = "cbr",
    Vbr = "vbr",
    VbrMinqp = "vbr-minqp",
    CbrLdHq = "cbr-ld-hq",
    CbrHq = "cbr-hq",
    VbrHq = "vbr-hq"
);
nicks!(
    NvEncoderPreset,
    "StandInNvEncoderPreset",
    Default = "default",
    Hp = "hp",
    Hq = "hq",
    LowLatency = "low-latency",
    LowLatencyHq = "low-latency-hq",
    LowLatencyHp = "low-latency-hp",
    Lossless = "lossless",
    LosslessHp = "lossless-hp"
);
nicks!(
    NvEncoderRc,
    "StandInNvEncoderRc",
    Cqp = "cqp",
    Vbr = "vbr",
    Cbr = "cbr",
    CbrLdHq = "cbr-ld-hq",
    CbrHq = "cbr-hq",
    VbrHq = "vbr-hq"
);
nicks!(
    NvNewPreset,
    "StandInNvNewPreset",
    Default = "default",
    Hp = "hp",
    Hq = "hq",
    LowLatency = "low-latency",
    LowLatencyHq = "low-latency-hq",
    LowLatencyHp = "low-latency-hp",
    Lossless = "lossless",
    LosslessHp = "lossless-hp",
    P1 = "p1",
    P2 = "p2",
    P3 = "p3",
    P4 = "p4",
    P5 = "p5",
    P6 = "p6",
    P7 = "p7"
);
nicks!(
    NvTune,
    "StandInNvTune",
    Default = "default",
    HighQuality = "high-quality",
    LowLatency = "low-latency",
    UltraLowLatency = "ultra-low-latency",
    Lossless = "lossless"
);
nicks!(
    QsvRc,
    "StandInQsvRc",
    Cbr = "cbr",
    Vbr = "vbr",
    Cqp = "cqp",
    Avbr = "avbr",
    LaVbr = "la-vbr",
    Icq = "icq",
    Vcm = "vcm",
    LaIcq = "la-icq",
    LaHrd = "la-hrd",
    Qvbr = "qvbr"
);
nicks!(
    MsdkRc,
    "StandInMsdkRc",
    Cbr = "cbr",
    Vbr = "vbr",
    Cqp = "cqp",
    Avbr = "avbr",
    LaVbr = "la_vbr",
    Icq = "icq",
    Vcm = "vcm",
    LaIcq = "la_icq",
    LaHrd = "la_hrd",
    Qvbr = "qvbr"
);
nicks!(
    MsdkOption,
    "StandInMsdkOption",
    Auto = "auto",
    Off = "off",
    On = "on"
);
nicks!(
    VaRc,
    "StandInVaRc",
    Cbr = "cbr",
    Vbr = "vbr",
    Vcm = "vcm",
    Cqp = "cqp"
);
nicks!(
    VaapiRc,
    "StandInVaapiRc",
    Cqp = "cqp",
    Cbr = "cbr",
    Vbr = "vbr"
);
nicks!(
    AmfUsage,
    "StandInAmfUsage",
    Transcoding = "transcoding",
    UltraLowLatency = "ultra-low-latency",
    LowLatency = "low-latency",
    Webcam = "webcam"
);
nicks!(
    AmfRc,
    "StandInAmfRc",
    Default = "default",
    Cqp = "cqp",
    Cbr = "cbr",
    Vbr = "vbr",
    Lcvbr = "lcvbr"
);
nicks!(
    AmfPreset,
    "StandInAmfPreset",
    Default = "default",
    Balanced = "balanced",
    Speed = "speed",
    Quality = "quality"
);
nicks!(
    MfRc,
    "StandInMfRc",
    Cbr = "cbr",
    Pcvbr = "pcvbr",
    Uvbr = "uvbr",
    Qvbr = "qvbr"
);
nicks!(
    MfAdaptive,
    "StandInMfAdaptive",
    None = "none",
    Framerate = "framerate"
);
nicks!(VtRc, "StandInVtRc", Abr = "abr", Cbr = "cbr");
nicks!(
    JetsonPreset,
    "StandInJetsonPreset",
    DisablePreset = "DisablePreset",
    UltraFastPreset = "UltraFastPreset",
    FastPreset = "FastPreset",
    MediumPreset = "MediumPreset",
    SlowPreset = "SlowPreset"
);
nicks!(
    JetsonRc,
    "StandInJetsonRc",
    VariableBitrate = "variable_bitrate",
    ConstantBitrate = "constant_bitrate"
);
nicks!(
    OmxRc,
    "StandInOmxRc",
    Disable = "disable",
    Variable = "variable",
    Constant = "constant",
    VariableSkipFrames = "variable-skip-frames",
    ConstantSkipFrames = "constant-skip-frames",
    Default = "default"
);

fn uint(name: &str, least: u32, most: u32, default: u32) -> glib::ParamSpec {
    glib::ParamSpecUInt::builder(name)
        .minimum(least)
        .maximum(most)
        .default_value(default)
        .mutable_playing()
        .build()
}

fn int(name: &str, least: i32, most: i32, default: i32) -> glib::ParamSpec {
    glib::ParamSpecInt::builder(name)
        .minimum(least)
        .maximum(most)
        .default_value(default)
        .build()
}

fn boolean(name: &str, default: bool) -> glib::ParamSpec {
    glib::ParamSpecBoolean::builder(name)
        .default_value(default)
        .build()
}

fn choice<T>(name: &str, default: T) -> glib::ParamSpec
where
    T: StaticType + glib::translate::FromGlib<i32> + glib::translate::IntoGlib<GlibType = i32>,
{
    glib::ParamSpecEnum::builder_with_default(name, default).build()
}

pub fn nv_legacy() -> Vec<glib::ParamSpec> {
    vec![
        choice("preset", NvPreset::default()),
        choice("rc-mode", NvRcMode::default()),
        int("gop-size", -1, i32::MAX, 75),
        uint("bitrate", 0, 2_048_000, 0),
        uint("max-bitrate", 0, 2_048_000, 0),
        uint("vbv-buffer-size", 0, u32::MAX, 0),
        uint("rc-lookahead", 0, 32, 0),
        uint("bframes", 0, 4, 0),
        boolean("zerolatency", false),
        boolean("strict-gop", false),
        boolean("nonref-p", false),
        boolean("i-adapt", false),
        boolean("b-adapt", false),
        boolean("weighted-pred", false),
        boolean("aud", true),
    ]
}

fn nv_cuda_common() -> Vec<glib::ParamSpec> {
    vec![
        int("gop-size", -1, i32::MAX, 30),
        uint("bitrate", 0, 2_048_000, 0),
        uint("max-bitrate", 0, 2_048_000, 0),
        uint("vbv-buffer-size", 0, u32::MAX, 0),
        uint("rc-lookahead", 0, 32, 0),
        boolean("i-adapt", false),
        boolean("b-adapt", false),
        boolean("nonref-p", false),
        boolean("weighted-pred", false),
        boolean("aud", true),
        boolean("cabac", true),
        boolean("repeat-sequence-header", false),
    ]
}

pub fn nv_cuda() -> Vec<glib::ParamSpec> {
    let mut all = nv_cuda_common();
    all.extend([
        choice("preset", NvEncoderPreset::default()),
        choice("rate-control", NvEncoderRc::Vbr),
        uint("b-frames", 0, 4, 0),
        boolean("zero-reorder-delay", false),
    ]);
    all
}

/// From 1.26 on, under the name of nvh264enc, too.
pub fn nv_new() -> Vec<glib::ParamSpec> {
    let mut all = nv_cuda_common();
    all.extend([
        choice("preset", NvNewPreset::default()),
        choice("tune", NvTune::default()),
        choice("rc-mode", NvEncoderRc::Vbr),
        uint("bframes", 0, 4, 0),
        boolean("zerolatency", false),
    ]);
    all
}

pub fn qsv() -> Vec<glib::ParamSpec> {
    vec![
        uint("target-usage", 1, 7, 4),
        boolean("low-latency", false),
        uint("gop-size", 0, 65_535, 30),
        uint("idr-interval", 0, 65_535, 0),
        uint("b-frames", 0, 65_535, 0),
        uint("ref-frames", 0, 16, 2),
        uint("bitrate", 0, i32::MAX as u32, 2000),
        uint("max-bitrate", 0, i32::MAX as u32, 0),
        choice("rate-control", QsvRc::Vbr),
        boolean("disable-hrd-conformance", false),
    ]
}

pub fn msdk() -> Vec<glib::ParamSpec> {
    vec![
        uint("async-depth", 1, 20, 4),
        uint("target-usage", 1, 7, 4),
        choice("rate-control", MsdkRc::Cbr),
        uint("bitrate", 1, 2_048_000, 2048),
        uint("max-vbv-bitrate", 0, 2_048_000, 0),
        uint("gop-size", 0, i32::MAX as u32, 0),
        uint("ref-frames", 0, i32::MAX as u32, 0),
        uint("i-frames", 0, i32::MAX as u32, 0),
        uint("b-frames", 0, i32::MAX as u32, 0),
        uint("num-slices", 0, i32::MAX as u32, 0),
        choice("lowdelay-brc", MsdkOption::Auto),
        choice("i-adapt", MsdkOption::Off),
        choice("b-adapt", MsdkOption::Off),
    ]
}

pub fn va() -> Vec<glib::ParamSpec> {
    vec![
        uint("key-int-max", 0, 1024, 0),
        uint("b-frames", 0, 31, 0),
        uint("i-frames", 0, 1023, 0),
        uint("ref-frames", 0, 16, 3),
        boolean("b-pyramid", false),
        uint("num-slices", 1, 200, 1),
        boolean("aud", false),
        uint("bitrate", 0, 2_048_000, 0),
        uint("target-usage", 1, 7, 4),
        uint("cpb-size", 0, 2_048_000, 0),
        choice("rate-control", VaRc::Vbr),
    ]
}

pub fn vaapi() -> Vec<glib::ParamSpec> {
    vec![
        choice("rate-control", VaapiRc::default()),
        uint("bitrate", 0, 2_048_000, 0),
        uint("keyframe-period", 0, u32::MAX, 30),
        uint("quality-level", 1, 7, 4),
        uint("max-bframes", 0, 10, 0),
        uint("refs", 1, 8, 1),
        uint("num-slices", 1, 200, 1),
        uint("cpb-length", 1, 10_000, 1500),
        boolean("aud", false),
    ]
}

pub fn amf() -> Vec<glib::ParamSpec> {
    vec![
        choice("usage", AmfUsage::default()),
        choice("rate-control", AmfRc::default()),
        choice("preset", AmfPreset::default()),
        uint("bitrate", 0, (i32::MAX / 1000) as u32, 0),
        uint("max-bitrate", 0, (i32::MAX / 1000) as u32, 0),
        int("gop-size", -1, i32::MAX, -1),
        boolean("aud", true),
        boolean("cabac", true),
    ]
}

pub fn mf() -> Vec<glib::ParamSpec> {
    vec![
        uint("bitrate", 1, u32::MAX >> 10, 2048),
        choice("rc-mode", MfRc::Uvbr),
        choice("adaptive-mode", MfAdaptive::default()),
        uint("vbv-buffer-size", 0, u32::MAX - 1, 0),
        uint("quality-vs-speed", 0, 100, 50),
        uint("bframes", 0, 2, 0),
        int("gop-size", -1, i32::MAX, -1),
        uint("ref", 1, 16, 2),
        boolean("low-latency", false),
    ]
}

pub fn apple() -> Vec<glib::ParamSpec> {
    vec![
        uint("bitrate", 0, u32::MAX, 0),
        boolean("allow-frame-reordering", true),
        boolean("realtime", false),
        int("max-keyframe-interval", 0, i32::MAX, 0),
        glib::ParamSpecUInt64::builder("max-keyframe-interval-duration").build(),
        choice("rate-control", VtRc::default()),
        int("max-frame-delay", -1, i32::MAX, -1),
    ]
}

pub fn v4l2() -> Vec<glib::ParamSpec> {
    vec![glib::ParamSpecBoxed::builder::<gst::Structure>("extra-controls").build()]
}

pub fn jetson() -> Vec<glib::ParamSpec> {
    vec![
        choice("control-rate", JetsonRc::default()),
        choice("preset-level", JetsonPreset::UltraFastPreset),
        uint("bitrate", 0, u32::MAX, 4_000_000),
        uint("vbv-size", 0, u32::MAX, 4_000_000),
        uint("iframeinterval", 0, u32::MAX, 30),
        uint("idrinterval", 0, u32::MAX, 256),
        uint("num-B-Frames", 0, 2, 0),
        uint("num-Ref-Frames", 0, 8, 1),
        uint("poc-type", 0, 2, 0),
        boolean("maxperf-enable", false),
        boolean("EnableTwopassCBR", false),
        boolean("insert-sps-pps", false),
        boolean("insert-aud", false),
    ]
}

pub fn omx() -> Vec<glib::ParamSpec> {
    vec![
        choice("control-rate", OmxRc::Default),
        uint("target-bitrate", 0, u32::MAX, u32::MAX),
        uint("periodicity-idr", 0, u32::MAX, u32::MAX),
        uint("interval-intraframes", 0, u32::MAX, u32::MAX),
        uint("b-frames", 0, u32::MAX, u32::MAX),
        boolean("inline-header", true),
        glib::ParamSpecUChar::builder("ref-frames").build(),
    ]
}

pub fn libav_omx() -> Vec<glib::ParamSpec> {
    vec![
        int("bitrate", 0, i32::MAX, 200_000),
        int("gop-size", i32::MIN, i32::MAX, 12),
        int("max-bframes", -1, i32::MAX, 0),
        int("bufsize", i32::MIN, i32::MAX, 0),
    ]
}
