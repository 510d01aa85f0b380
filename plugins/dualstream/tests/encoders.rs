// SPDX-License-Identifier: MPL-2.0
//! Each family of encoders over a stand-in for the real element: set-up,
//! units, buffer, key frame, change of rate, fallback.

#[path = "stand_in/properties.rs"]
mod p;
mod stand_in;

use gst::prelude::*;
use gstdualstream::encoders;
use stand_in::{Knobs, OnChange, Spec};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const FPS: u64 = 30;
/// Above those of the real encoders.
const RANK: gst::Rank = gst::Rank::PRIMARY;

const NONE: Spec = Spec {
    factory: "",
    memory: &[],
    bitrate: "bitrate",
    unit: 1000,
    buffer: None,
    on_change: OnChange::InPlace,
    controls: false,
    key_control: None,
    avc: false,
    properties: Vec::new,
};

stand_in!(
    nv_legacy,
    "StandInNvLegacy",
    Spec {
        factory: "nvh264enc",
        memory: &["memory:CUDAMemory"],
        unit: 1024,
        buffer: Some("vbv-buffer-size"),
        on_change: super::OnChange::KeyFrame,
        properties: super::p::nv_legacy,
        ..super::NONE
    }
);
stand_in!(
    nv_cuda,
    "StandInNvCuda",
    Spec {
        factory: "nvcudah264enc",
        memory: &["memory:CUDAMemory"],
        unit: 1024,
        buffer: Some("vbv-buffer-size"),
        on_change: super::OnChange::KeyFrameForBuffer,
        properties: super::p::nv_cuda,
        ..super::NONE
    }
);
stand_in!(
    nv_auto,
    "StandInNvAuto",
    Spec {
        factory: "nvautogpuh264enc",
        memory: &["memory:CUDAMemory", "memory:D3D11Memory"],
        unit: 1024,
        buffer: Some("vbv-buffer-size"),
        on_change: super::OnChange::KeyFrameForBuffer,
        properties: super::p::nv_new,
        ..super::NONE
    }
);
stand_in!(
    nv_d3d11,
    "StandInNvD3d11",
    Spec {
        factory: "nvd3d11h264enc",
        memory: &["memory:D3D11Memory"],
        unit: 1024,
        buffer: Some("vbv-buffer-size"),
        on_change: super::OnChange::KeyFrameForBuffer,
        properties: super::p::nv_new,
        ..super::NONE
    }
);
stand_in!(
    qsv,
    "StandInQsv",
    Spec {
        factory: "qsvh264enc",
        memory: &["memory:VAMemory"],
        properties: super::p::qsv,
        ..super::NONE
    }
);
stand_in!(
    msdk,
    "StandInMsdk",
    Spec {
        factory: "msdkh264enc",
        memory: &["memory:VAMemory", "memory:DMABuf"],
        on_change: super::OnChange::KeyFrame,
        properties: super::p::msdk,
        ..super::NONE
    }
);
stand_in!(
    va,
    "StandInVa",
    Spec {
        factory: "vah264enc",
        memory: &["memory:VAMemory"],
        buffer: Some("cpb-size"),
        on_change: super::OnChange::KeyFrame,
        properties: super::p::va,
        ..super::NONE
    }
);
stand_in!(
    va_lp,
    "StandInVaLp",
    Spec {
        factory: "vah264lpenc",
        memory: &["memory:VAMemory"],
        buffer: Some("cpb-size"),
        on_change: super::OnChange::KeyFrame,
        properties: super::p::va,
        ..super::NONE
    }
);
stand_in!(
    vaapi,
    "StandInVaapi",
    Spec {
        factory: "vaapih264enc",
        memory: &["memory:VASurface", "memory:DMABuf"],
        on_change: super::OnChange::KeyFrame,
        properties: super::p::vaapi,
        ..super::NONE
    }
);
stand_in!(
    amf,
    "StandInAmf",
    Spec {
        factory: "amfh264enc",
        memory: &["memory:D3D11Memory"],
        on_change: super::OnChange::KeyFrame,
        properties: super::p::amf,
        ..super::NONE
    }
);
stand_in!(
    mf,
    "StandInMf",
    Spec {
        factory: "mfh264enc",
        memory: &["memory:D3D11Memory"],
        unit: 1024,
        buffer: Some("vbv-buffer-size"),
        on_change: super::OnChange::KeyFrame,
        properties: super::p::mf,
        ..super::NONE
    }
);
stand_in!(
    apple,
    "StandInVt",
    Spec {
        factory: "vtenc_h264",
        memory: &["memory:GLMemory"],
        avc: true,
        properties: super::p::apple,
        ..super::NONE
    }
);
stand_in!(
    apple_hw,
    "StandInVtHw",
    Spec {
        factory: "vtenc_h264_hw",
        memory: &["memory:GLMemory"],
        avc: true,
        properties: super::p::apple,
        ..super::NONE
    }
);
stand_in!(
    v4l2,
    "StandInV4l2",
    Spec {
        factory: "v4l2h264enc",
        memory: &["memory:DMABuf"],
        bitrate: "video_bitrate",
        unit: 1,
        controls: true,
        key_control: Some("force_key_frame"),
        properties: super::p::v4l2,
        ..super::NONE
    }
);
stand_in!(jetson, "StandInJetson", Spec {
    factory: "nvv4l2h264enc",
    memory: &["memory:NVMM"],
    unit: 1,
    key_control: Some("none"),
    properties: super::p::jetson,
    ..super::NONE
}, signal "force-IDR");
stand_in!(
    omx,
    "StandInOmx",
    Spec {
        factory: "omxh264enc",
        bitrate: "target-bitrate",
        unit: 1,
        properties: super::p::omx,
        ..super::NONE
    }
);
stand_in!(
    libav_omx,
    "StandInLibavOmx",
    Spec {
        factory: "avenc_h264_omx",
        unit: 1,
        on_change: super::OnChange::Ignored,
        properties: super::p::libav_omx,
        ..super::NONE
    }
);

fn init() {
    static INIT: std::sync::Once = std::sync::Once::new();
    INIT.call_once(|| {
        gst::init().expect("GStreamer");
        gstdualstream::plugin_register_static().expect("the plugin");
        std::sync::LazyLock::force(&stand_in::X264);
    });
}

#[derive(Clone, Debug)]
struct Frame {
    stream: usize,
    number: u16,
    background: bool,
    key: bool,
}

/// dualh264enc with pictures pushed in and frames counted.
struct Bench {
    pipeline: gst::Pipeline,
    encoder: gst::Element,
    src: gst_app::AppSrc,
    frames: Arc<Mutex<Vec<Frame>>>,
    pictures: u64,
    size: (u32, u32),
    /// Not every picture comes out.
    stalling: bool,
}

impl Bench {
    fn new(properties: &str, features: Option<&str>) -> Self {
        Self::with_streams(properties, features, true)
    }

    fn with_streams(properties: &str, features: Option<&str>, second: bool) -> Self {
        init();
        let second = if second {
            "e.src_1 ! appsink name=s1 sync=false async=false"
        } else {
            ""
        };
        let pipeline = gst::parse::launch(&format!(
            "appsrc name=a format=time ! dualh264enc name=e warm-interval=0 {properties} \
             e.src_0 ! appsink name=s0 sync=false async=false {second}"
        ))
        .expect("the pipeline")
        .downcast::<gst::Pipeline>()
        .expect("a pipeline");
        let frames = Arc::new(Mutex::new(Vec::new()));
        for stream in 0..2 {
            let sink = pipeline.by_name(&format!("s{stream}"));
            let Some(sink) = sink.and_downcast::<gst_app::AppSink>() else {
                continue;
            };
            let frames = frames.clone();
            let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
                let tag = gstdualstream::meta::of(buffer).expect("each frame is tagged");
                frames.lock().unwrap().push(Frame {
                    stream,
                    number: tag.number,
                    background: tag.background,
                    key: tag.key,
                });
                Ok(gst::FlowSuccess::Ok)
            });
            sink.set_callbacks(callbacks.build());
        }
        let mut bench = Self {
            encoder: pipeline.by_name("e").expect("the encoder"),
            src: pipeline.by_name("a").and_downcast().expect("appsrc"),
            pipeline,
            frames,
            pictures: 0,
            size: (320, 180),
            stalling: false,
        };
        bench.format(320, 180, features);
        let playing = bench.pipeline.set_state(gst::State::Playing);
        playing.expect("PLAYING");
        bench
    }

    fn format(&mut self, width: u32, height: u32, features: Option<&str>) {
        self.size = (width, height);
        let builder = gst_video::VideoCapsBuilder::new()
            .format(gst_video::VideoFormat::Nv12)
            .width(width as i32)
            .height(height as i32)
            .framerate(gst::Fraction::new(FPS as i32, 1));
        let caps = match features {
            Some(features) => builder.features([features]).build(),
            None => builder.build(),
        };
        self.src.set_caps(Some(&caps));
    }

    /// A picture in, and what came out within a short time.
    fn picture(&mut self) -> Vec<Frame> {
        let n = self.pictures;
        self.pictures += 1;
        let (w, h) = (self.size.0 as usize, self.size.1 as usize);
        let data: Vec<u8> = (0..w * h * 3 / 2)
            .map(|i| {
                let (x, y) = (i % w, i / w);
                (60 + (((x + 2 * n as usize) ^ (y + n as usize)) & 63)) as u8
            })
            .collect();
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let pts = gst::ClockTime::from_nseconds(n * 1_000_000_000 / FPS);
        buffer.make_mut().set_pts(pts);
        let before = self.frames.lock().unwrap().len();
        self.src.push_buffer(buffer).expect("the picture goes in");
        for _ in 0..1500 {
            let stats = self.stats();
            let stat = |field: &str| stats.get::<u64>(field).expect("a counter");
            let left = stat("frames-left") + stat("pictures-lost");
            if stat("pictures") == self.pictures && left >= stat("encoder-calls") {
                break;
            }
            // A stalled encoder gives nothing back; go on as a camera does.
            if self.stalling && stat("pictures") == self.pictures {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.frames.lock().unwrap()[before..].to_vec()
    }

    fn run(&mut self, pictures: u64) -> Vec<Frame> {
        (0..pictures).flat_map(|_| self.picture()).collect()
    }

    fn stats(&self) -> gst::Structure {
        self.encoder.property("stats")
    }

    fn stat(&self, field: &str) -> u64 {
        self.stats()
            .get(field)
            .unwrap_or_else(|err| panic!("{err}"))
    }

    fn text(&self, field: &str) -> String {
        self.stats()
            .get(field)
            .unwrap_or_else(|err| panic!("{err}"))
    }

    fn child(&self, stream: usize) -> gst::Element {
        let bin = self.encoder.clone().downcast::<gst::Bin>().expect("a bin");
        bin.by_name(&format!("encoder_{stream}"))
            .expect("an encoder")
    }

    fn pli(&self) {
        let event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .other_field("ssrc", 77u32)
            .build();
        let pad = self.encoder.static_pad("src_0").expect("the pad");
        assert!(pad.send_event(event));
    }

    fn complete(&self, frame: &Frame) {
        let event = gst::event::CustomUpstream::new(
            gst::Structure::builder("application/x-frame-complete")
                .field("stream", frame.stream as u32)
                .field("frame", u32::from(frame.number))
                .field("generation", 0u32)
                .field("key", frame.key)
                .field("decodable", true)
                .build(),
        );
        let pad = self.encoder.static_pad(&format!("src_{}", frame.stream));
        assert!(pad.expect("the pad").send_event(event));
    }

    /// Warnings and errors on the bus since the last call.
    fn messages(&self) -> (Vec<gst::Structure>, usize) {
        let bus = self.pipeline.bus().expect("a bus");
        let kinds = [gst::MessageType::Warning, gst::MessageType::Error];
        let (mut warnings, mut errors) = (Vec::new(), 0);
        while let Some(message) = bus.pop_filtered(&kinds) {
            match message.view() {
                gst::MessageView::Warning(w) => warnings.extend(w.details().map(|s| s.to_owned())),
                _ => errors += 1,
            }
        }
        (warnings, errors)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

fn keys(frames: &[Frame]) -> usize {
    frames.iter().filter(|f| f.key).count()
}

fn text_of(element: &gst::Element, name: &str) -> String {
    let value = element.property_value(name);
    let text = value.serialize().expect("text");
    text.to_string()
}

/// One family and what is expected of it.
struct Case {
    register: fn(gst::Rank),
    knobs: &'static Knobs,
    spec: &'static std::sync::LazyLock<Spec>,
    /// Property and value as text.
    set_up: &'static [(&'static str, &'static str)],
    /// `bitrate` at 800 kbit/s, without a background.
    rate: u64,
    /// The buffer's property and its value at 800 kbit/s and 30 frames a
    /// second.
    buffer: Option<(&'static str, u64)>,
    /// A rate that falls to a third makes so many key frames.
    key_frames: usize,
}

macro_rules! case {
    ($module:ident, $set_up:expr, $rate:expr, $buffer:expr, $key_frames:expr) => {
        Case {
            register: $module::register,
            knobs: &$module::KNOBS,
            spec: &$module::SPEC,
            set_up: $set_up,
            rate: $rate,
            buffer: $buffer,
            key_frames: $key_frames,
        }
    };
}

impl Case {
    /// This one is installed, and x264enc.
    fn install(&self) {
        init();
        for other in CASES {
            if let Some(factory) = gst::ElementFactory::find(other.spec.factory) {
                factory.set_rank(gst::Rank::NONE);
            }
        }
        self.rank(RANK);
    }

    /// Registering again changes no rank.
    fn rank(&self, rank: gst::Rank) {
        (self.register)(rank);
        let factory = gst::ElementFactory::find(self.spec.factory);
        factory.expect("registered").set_rank(rank);
    }

    fn bench(&self, properties: &str, second: bool) -> Bench {
        self.install();
        let factory = self.spec.factory;
        Bench::with_streams(&format!("encoder={factory} {properties}"), None, second)
    }

    fn family(&self) -> &'static encoders::Family {
        encoders::by_factory(self.spec.factory).expect("in the table")
    }

    /// The rate as the element has it.
    fn rate_of(&self, element: &gst::Element) -> u64 {
        if self.spec.controls {
            let controls: gst::Structure = element.property("extra-controls");
            return controls.get::<i32>(self.spec.bitrate).expect("set") as u64;
        }
        number(element, self.spec.bitrate)
    }
}

fn number(element: &gst::Element, name: &str) -> u64 {
    text_of(element, name).parse().expect("a number")
}

/// Rates of a family for which a change costs a key frame are on a scale of
/// eight steps to the octave.
fn on_scale(bps: f64) -> f64 {
    (((bps.log2() * 8.0) + 1e-6).floor() / 8.0).exp2()
}

const NV_OLD: &[(&str, &str)] = &[
    ("preset", "low-latency-hp"),
    ("rc-mode", "cbr"),
    ("gop-size", "-1"),
    ("bframes", "0"),
    ("rc-lookahead", "0"),
    ("zerolatency", "true"),
    ("aud", "false"),
];
const NV_CUDA: &[(&str, &str)] = &[
    ("preset", "low-latency-hp"),
    ("rate-control", "cbr"),
    ("gop-size", "-1"),
    ("b-frames", "0"),
    ("zero-reorder-delay", "true"),
    ("repeat-sequence-header", "true"),
];
const NV_NEW: &[(&str, &str)] = &[
    ("preset", "p3"),
    ("tune", "ultra-low-latency"),
    ("rc-mode", "cbr"),
    ("gop-size", "-1"),
    ("bframes", "0"),
    ("zerolatency", "true"),
];
const VA: &[(&str, &str)] = &[
    ("rate-control", "cbr"),
    ("key-int-max", "1024"),
    ("b-frames", "0"),
    ("ref-frames", "1"),
    ("target-usage", "7"),
];
const VT: &[(&str, &str)] = &[
    ("realtime", "true"),
    ("allow-frame-reordering", "false"),
    ("max-keyframe-interval", "2147483647"),
    ("rate-control", "cbr"),
    ("max-frame-delay", "0"),
];

/// The step below 800 kbit/s is 2^(156/8) = 741 455 bit/s, one frame of which
/// is 24 715 bit; one of 800 kbit/s is 26 667 bit.
const CASES: &[Case] = &[
    case!(nv_legacy, NV_OLD, 724, Some(("vbv-buffer-size", 27)), 1),
    case!(nv_cuda, NV_CUDA, 781, Some(("vbv-buffer-size", 27)), 0),
    case!(nv_auto, NV_NEW, 781, Some(("vbv-buffer-size", 27)), 0),
    case!(nv_d3d11, NV_NEW, 781, Some(("vbv-buffer-size", 27)), 0),
    case!(
        qsv,
        &[
            ("low-latency", "true"),
            ("rate-control", "cbr"),
            ("disable-hrd-conformance", "true"),
            ("gop-size", "65535"),
            ("idr-interval", "0"),
            ("b-frames", "0"),
            ("ref-frames", "1"),
        ],
        800,
        None,
        0
    ),
    case!(
        msdk,
        &[
            ("rate-control", "cbr"),
            ("async-depth", "1"),
            ("lowdelay-brc", "on"),
            ("gop-size", "65535"),
            ("b-frames", "0"),
            ("ref-frames", "1"),
        ],
        741,
        None,
        1
    ),
    case!(va, VA, 741, Some(("cpb-size", 25)), 1),
    case!(va_lp, VA, 741, Some(("cpb-size", 25)), 1),
    case!(
        vaapi,
        &[
            ("rate-control", "cbr"),
            ("keyframe-period", "4294967295"),
            ("max-bframes", "0"),
            ("refs", "1"),
            ("cpb-length", "34"),
        ],
        741,
        None,
        1
    ),
    case!(
        amf,
        &[
            ("usage", "ultra-low-latency"),
            ("rate-control", "cbr"),
            ("preset", "speed"),
            ("gop-size", "0"),
            ("aud", "false"),
        ],
        741,
        None,
        1
    ),
    case!(
        mf,
        &[
            ("low-latency", "true"),
            ("rc-mode", "cbr"),
            ("bframes", "0"),
            ("gop-size", "2147483647"),
            ("ref", "1"),
        ],
        724,
        Some(("vbv-buffer-size", 3089)),
        1
    ),
    case!(apple, VT, 800, None, 0),
    case!(apple_hw, VT, 800, None, 0),
    case!(v4l2, &[], 800_000, None, 0),
    case!(
        jetson,
        &[
            ("control-rate", "constant_bitrate"),
            ("preset-level", "UltraFastPreset"),
            ("iframeinterval", "4294967295"),
            ("num-B-Frames", "0"),
            ("poc-type", "2"),
            ("maxperf-enable", "true"),
            ("insert-sps-pps", "true"),
        ],
        800_000,
        None,
        0
    ),
    case!(
        omx,
        &[
            ("control-rate", "constant"),
            ("interval-intraframes", "2147483647"),
            ("b-frames", "0"),
            ("inline-header", "true"),
            ("ref-frames", "1"),
        ],
        800_000,
        None,
        0
    ),
    case!(
        libav_omx,
        &[("gop-size", "2147483647"), ("max-bframes", "0")],
        741_455,
        None,
        1
    ),
];

/// Each family has a case, but for the two that are really here.
#[test]
fn every_family_is_tested() {
    for family in encoders::all() {
        let real = ["x264enc", "openh264enc"].contains(&family.factory);
        let cases = CASES
            .iter()
            .filter(|case| case.spec.factory == family.factory);
        assert_eq!(cases.count(), usize::from(!real), "{family:?}");
    }
}

#[test]
fn each_family_is_set_up_for_low_latency_in_its_own_units() {
    let _one = exclusive();
    for case in CASES {
        let factory = case.spec.factory;
        let mut bench = case.bench("bitrate=800000", false);
        let frames = bench.run(40);
        assert_eq!(frames.len(), 40, "{factory}: one in, one out");
        assert_eq!(keys(&frames), 1, "{factory}");
        assert_eq!(bench.text("encoder"), factory);
        let element = bench.child(0);
        for (name, value) in case.set_up {
            assert_eq!(text_of(&element, name), *value, "{factory} {name}");
        }
        let set = case.rate_of(&element) as f64;
        // In place, the rate follows what the encoder uses, by a few percent.
        let slack = if case.key_frames > 0 { 0.001 } else { 0.12 };
        let near = (set / case.rate as f64 - 1.0).abs() <= slack;
        assert!(near, "{factory}: {set}, not {}", case.rate);
        if let Some((name, value)) = case.buffer {
            assert_eq!(number(&element, name), value, "{factory} {name}");
        }
        assert_eq!(bench.messages(), (Vec::new(), 0), "{factory}");
    }
}

#[test]
fn a_key_frame_comes_when_it_is_asked_for() {
    let _one = exclusive();
    for case in CASES {
        let factory = case.spec.factory;
        let mut bench = case.bench("bitrate=800000", false);
        bench.run(10);
        bench.pli();
        let frames = bench.run(3);
        assert_eq!(keys(&frames), 1, "{factory}");
        assert!(frames[0].key, "{factory}: with the next picture");
        assert_eq!(bench.stat("unexpected-key-frames"), 0, "{factory}");
    }
}

#[test]
fn a_rate_that_falls_is_obeyed_at_the_least_cost() {
    let _one = exclusive();
    for case in CASES {
        let factory = case.spec.factory;
        let mut bench = case.bench("bitrate=900000", false);
        bench.run(20);
        let before = case.knobs.changes.load(Ordering::SeqCst);
        // Small moves of the estimate.
        for bps in [880_000u32, 905_000, 870_000, 890_000] {
            bench.encoder.set_property("bitrate", bps);
            assert_eq!(keys(&bench.run(3)), 0, "{factory}");
        }
        if case.key_frames > 0 {
            let changes = case.knobs.changes.load(Ordering::SeqCst) - before;
            assert_eq!(changes, 0, "{factory} is spared small changes");
        }
        bench.encoder.set_property("bitrate", 300_000u32);
        let frames = bench.run(30);
        assert_eq!(keys(&frames), case.key_frames, "{factory}");
        let element = bench.child(0);
        let bps = case.rate_of(&element) * case.spec.unit;
        let wanted = if case.key_frames > 0 {
            on_scale(300_000.0)
        } else {
            300_000.0
        };
        let near = (bps as f64 / wanted - 1.0).abs() < 0.15;
        assert!(near, "{factory}: {bps}, not {wanted}");
        let change = case.family().rate_change(&element);
        assert_eq!(change.makes_key_frame(), case.key_frames > 0, "{factory}");
    }
}

#[test]
fn a_buffer_that_is_set_only_at_the_start_stays_as_it_was() {
    let _one = exclusive();
    for case in CASES {
        let family = case.family();
        let Some(buffer) = family.buffer.filter(|b| !b.rescaled && !family.controls) else {
            continue;
        };
        let mut bench = case.bench("bitrate=900000", false);
        bench.run(5);
        let element = bench.child(0);
        if element.find_property(buffer.property).is_none() {
            continue;
        }
        let start = number(&element, buffer.property);
        bench.encoder.set_property("bitrate", 500_000u32);
        bench.run(10);
        let same = bench.child(0);
        if same == element {
            assert_eq!(number(&same, buffer.property), start, "{family:?}");
        }
    }
}

#[test]
fn with_a_standby_a_rising_rate_costs_no_key_frame_on_display() {
    let _one = exclusive();
    for case in CASES.iter().filter(|case| case.key_frames > 0) {
        let factory = case.spec.factory;
        let mut bench = case.bench("bitrate=500000 max-catch-up-frames=1", true);
        bench.run(20);
        bench.encoder.set_property("bitrate", 1_500_000u32);
        // A step up waits for 5 s after the first setting.
        let mut background = None;
        for _ in 0..170 {
            let frames = bench.picture();
            background = frames.into_iter().find(|f| f.background);
            if background.is_some() {
                break;
            }
        }
        let frame = background.unwrap_or_else(|| panic!("{factory}: the standby is not asked"));
        assert!(frame.key && frame.stream == 1, "{factory}");
        let rate = case.rate_of(&bench.child(1)) * case.spec.unit;
        let near = (rate as f64 / on_scale(1_500_000.0) - 1.0).abs() < 0.01;
        assert!(near, "{factory}: the standby has {rate}");
        for _ in 0..20 {
            bench.complete(&frame);
            for next in bench.run(2).into_iter().filter(|f| f.background) {
                bench.complete(&next);
            }
            if bench.stat("switches") > 0 {
                break;
            }
        }
        assert_eq!(bench.stat("switches"), 1, "{factory}");
        bench.run(5);
        assert_eq!(bench.stat("display-key-frames"), 1, "{factory}");
        assert_eq!(bench.stat("unexpected-key-frames"), 0, "{factory}");
    }
}

#[test]
fn each_family_is_replaced_when_it_fails_and_no_picture_is_lost() {
    let _one = exclusive();
    for case in CASES {
        let factory = case.spec.factory;
        let mut bench = case.bench("bitrate=800000", false);
        let before = bench.run(20);
        case.knobs.fail_after.store(0, Ordering::SeqCst);
        let after = bench.run(20);
        let numbers: Vec<u16> = before.iter().chain(&after).map(|f| f.number).collect();
        assert_eq!(numbers, (0..40).collect::<Vec<_>>(), "{factory}");
        assert_eq!(keys(&after), 1, "{factory}");
        assert_eq!(bench.text("encoder"), "x264enc", "in place of {factory}");
        assert_eq!(bench.stat("encoder-failures"), 1, "{factory}");
        assert_eq!(bench.stat("unexpected-key-frames"), 0, "{factory}");
        let (warnings, errors) = bench.messages();
        assert_eq!((warnings.len(), errors), (1, 0), "{factory}");
        assert_eq!(warnings[0].get::<&str>("from"), Ok(factory));
        assert_eq!(warnings[0].get::<&str>("to"), Ok("x264enc"));
    }
}

#[test]
fn an_encoder_that_gives_nothing_back_is_replaced() {
    let _one = exclusive();
    let case = &CASES[1];
    let mut bench = case.bench("bitrate=800000", false);
    bench.run(20);
    case.knobs.stall_after.store(0, Ordering::SeqCst);
    bench.stalling = true;
    bench.run(16);
    case.knobs.stall_after.store(u32::MAX, Ordering::SeqCst);
    bench.stalling = false;
    let after = bench.run(10);
    assert_eq!(bench.text("encoder"), "x264enc");
    let lost = bench.stat("pictures-lost");
    assert!((10..=14).contains(&lost), "{lost}");
    assert_eq!(after.last().map(|f| f.number), Some(45));
    assert_eq!(keys(&bench.frames.lock().unwrap()), 2);
    let (warnings, errors) = bench.messages();
    assert_eq!((warnings.len(), errors), (1, 0));
}

#[test]
fn a_size_that_is_refused_goes_to_the_next_encoder() {
    let _one = exclusive();
    let case = &CASES[1];
    case.knobs.width.store(320, Ordering::SeqCst);
    let mut bench = case.bench("bitrate=800000", true);
    bench.run(10);
    assert_eq!(bench.text("encoder"), case.spec.factory);
    bench.format(640, 360, None);
    let frames = bench.run(10);
    case.knobs.width.store(0, Ordering::SeqCst);
    assert_eq!(frames.len(), 10, "none is lost");
    assert_eq!(keys(&frames), 1);
    assert_eq!(bench.text("encoder"), "x264enc");
    assert_eq!(bench.messages().1, 0);
}

#[test]
fn hardware_with_one_session_has_software_on_the_standby() {
    let _one = exclusive();
    let case = &CASES[1];
    case.knobs.sessions.store(1, Ordering::SeqCst);
    let mut bench = case.bench("bitrate=800000", true);
    let frames = bench.run(10);
    case.knobs.sessions.store(u32::MAX, Ordering::SeqCst);
    assert_eq!(frames.len(), 10);
    assert_eq!(bench.text("encoder-0"), case.spec.factory);
    assert_eq!(bench.text("encoder-1"), "x264enc");
    assert_eq!(bench.text("mode"), "dual");
    let (warnings, errors) = bench.messages();
    assert_eq!((warnings.len(), errors), (1, 0), "it is said");
    assert_eq!(warnings[0].get::<u32>("stream"), Ok(1));
}

#[test]
fn pictures_in_device_memory_go_to_the_encoder_as_they_are() {
    let _one = exclusive();
    for case in CASES {
        for features in case.spec.memory {
            case.install();
            let factory = case.spec.factory;
            let named = case.family().memory.contains(features);
            assert!(named, "{factory}: {features} is not in the table");
            let properties = format!("encoder={factory} bitrate=800000");
            let mut bench = Bench::with_streams(&properties, Some(features), false);
            assert_eq!(bench.run(5).len(), 5, "{factory} {features}");
            let bin = bench.encoder.clone().downcast::<gst::Bin>().expect("a bin");
            let converters = bin.iterate_elements().into_iter().flatten().filter(|e| {
                let name = e.factory().map(|f| f.name().to_string());
                name.is_some_and(|n| n.contains("convert") || n.contains("download"))
            });
            assert_eq!(converters.count(), 0, "{factory} {features}");
            let caps = bench
                .child(0)
                .static_pad("sink")
                .and_then(|p| p.current_caps());
            let caps = caps.expect("caps");
            assert!(caps.features(0).expect("features").contains(*features));
        }
    }
}

#[test]
fn the_best_rank_that_really_works_is_chosen() {
    let _one = exclusive();
    init();
    let (best, second) = (&CASES[4], &CASES[6]);
    best.install();
    best.rank(gst::Rank::PRIMARY + 20);
    second.rank(gst::Rank::PRIMARY + 10);
    let ranked: Vec<_> = encoders::installed().iter().map(|f| f.factory).collect();
    assert_eq!(ranked[..2], [best.spec.factory, second.spec.factory]);
    let mut bench = Bench::new("encoder=auto", None);
    bench.run(3);
    assert_eq!(bench.text("encoder"), best.spec.factory);
    for case in [best, second] {
        case.rank(gst::Rank::NONE);
    }
    let mut bench = Bench::new("encoder=auto", None);
    bench.run(3);
    assert_eq!(bench.text("encoder"), "x264enc");
}

/// The knobs are of the whole process.
fn exclusive() -> std::sync::MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
