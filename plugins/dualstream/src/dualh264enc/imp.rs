// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-dualh264enc
 *
 * Codes raw video into two H.264 streams, so that key frames never hold up
 * the picture. The display stream carries small frames only. When a key frame
 * is wanted it is coded on the other stream, is sent in the background with a
 * part of the rate, and when the receiver says that it is complete (event
 * `application/x-frame-complete`, from `rtcpiframefeedback`), that stream
 * becomes the display stream. See docs/dual-stream.md.
 *
 * With only `src_0` linked, or `mode=single`, it is an ordinary low-latency
 * encoder with one frame of buffer and no key frames but those asked for.
 *
 * Wraps two encoders: of those that are known (docs/encoders.md), the one of the
 * best rank that codes ten pictures in a trial (`encoder=auto`), or the one
 * named. `encoder-properties` sets properties of both after the element's own
 * choice. The children `encoder_0` and `encoder_1` are replaced at times; do not
 * keep them.
 *
 * An encoder that fails, refuses a format or gives nothing back for 12 pictures
 * is replaced by the next one that works, with a key frame. That is a warning
 * with details `application/x-dualh264enc-encoder` (`stream` u32, `from`, `to`,
 * `reason` strings), and an error only where none is left. Hardware that gives
 * one session codes one stream, and software the other.
 *
 * ## Who asks for a key frame, and what it gets
 *
 * * A `GstForceKeyUnit` event upstream that carries `ssrc` or `payload` comes
 *   from the RTP session, which has a PLI or FIR from the receiver: *recovery*.
 *   It is answered with the next picture: with a P frame on the standby stream
 *   if the receiver has, or by then will have, that stream's newest picture,
 *   else with a key frame on the display stream. `warm-interval` keeps that
 *   picture young.
 * * A `GstForceKeyUnit` event upstream without these fields, or downstream
 *   through the sink pad, comes from the application: *refresh*. It is served
 *   in the background, as is `refresh-interval`.
 *
 * ## Rate
 *
 * `bitrate` is the rate of both streams together. It is changed in place,
 * without a key frame, where the encoder can; where it cannot, in steps of 9 %,
 * seldom, and by the standby with its next key frame. The display encoder's buffer is always one frame
 * time. An encoder that uses less than it is given is asked for up to 6 % more
 * (20 % without a second stream), one that uses more is asked for less. The upstream event `application/x-network-estimate` sets it too,
 * within `min-bitrate` and `max-bitrate`. openh264enc, which has no buffer, gets a
 * picture of which much more is new than usual mixed with the one before, so that it
 * comes in two or three steps (one stream only; docs/encoders.md).
 *
 * ## Example
 *
 * |[
 * gst-launch-1.0 videotestsrc is-live=true num-buffers=150 ! dualh264enc bitrate=1000000 ! h264parse ! fakesink
 * ]|
 *
 * ## Fields of `stats` (`application/x-dualh264enc-stats`)
 *
 * | field | type | meaning |
 * |---|---|---|
 * | `encoder` | string | factory in use for the display stream |
 * | `encoder-0`, `encoder-1` | string | factory in use for each stream; empty: none |
 * | `encoder-failures` | u64 | encoders that were replaced because they failed |
 * | `pictures-lost` | u64 | pictures that went down with a failed encoder |
 * | `mode` | string | `dual`, or why not: `single`, `no-feedback` |
 * | `phase` | string | of the state machine, see docs/dual-stream.md |
 * | `display-stream` | u32 | 0 or 1 |
 * | `bitrate` | u64 | target in use, bit/s |
 * | `pictures` | u64 | raw pictures taken in |
 * | `encoder-calls` | u64 | pictures given to encoders |
 * | `frames-left` | u64 | coded frames that have left the element |
 * | `display-frames`, `display-bytes`, `largest-display-frame` | u64 | coded for display; bytes |
 * | `background-frames`, `background-bytes`, `largest-background-frame` | u64 | coded in the background; bytes |
 * | `display-key-frames` | u64 | asked for on the display stream |
 * | `unexpected-key-frames` | u64 | made by the encoder without being asked |
 * | `background-key-frames`, `catch-up-frames` | u64 | |
 * | `warm-frames` | u64 | background frames that only keep the standby's reference young |
 * | `switches` | u64 | changes of the display stream |
 * | `recoveries-by-reference`, `recoveries-by-key-frame` | u64 | losses answered |
 * | `requests-ignored` | u64 | requests about a loss already answered |
 * | `refreshes-given-up` | u64 | not acknowledged in time |
 * | `restarts` | u64 | changes of format, flushes |
 * | `commit-time-mean` | u64 | from background key frame to switch, ns |
 * | `rtt` | u64 | ns, 0 when unknown |
 * | `feedback-accepted`, `feedback-repeated`, `feedback-stale`, `feedback-never-sent`, `feedback-refused`, `feedback-malformed` | u64 | events by outcome |
 */
use super::Mode;
use super::collector::Collector;
use super::feeder::Feeder;
use super::lanes::Lanes;
use super::router::{self, Failure, Owner, Router};
use crate::encoders::Format;
use dualstream_common::{Bitrate, Ratio};
use dualstream_core::sender::{Config, EncoderRate, Single, Warm};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "dualh264enc",
        gst::DebugColorFlags::empty(),
        Some("Dual-stream H.264 encoder"),
    )
});

pub(super) const AUTO: &str = "auto";
/// Of `warm-interval`.
const WARM_AUTO: i32 = -1;
const WARM_MAX: i32 = Config::WARM_INTERVAL.1.as_millis() as i32;

// Lock order: settings, lanes, feeders; none is held over a call to an element
// or while another is taken.

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) encoder: String,
    pub(super) encoder_properties: Option<gst::Structure>,
    bitrate: u32,
    min_bitrate: u32,
    pub(super) max_bitrate: u32,
    refresh_interval: u32,
    background_share: f64,
    keyframe_budget: f64,
    max_catch_up_frames: u32,
    start_budget: f64,
    warm_interval: i32,
    mode: Mode,
}

impl Default for Settings {
    fn default() -> Self {
        let config = Config::default();
        Self {
            encoder: AUTO.into(),
            encoder_properties: None,
            bitrate: config.target.as_bps() as u32,
            min_bitrate: 50_000,
            max_bitrate: 20_000_000,
            refresh_interval: 0,
            background_share: config.background_share.value(),
            keyframe_budget: config.keyframe_budget,
            max_catch_up_frames: config.max_catch_up_frames,
            start_budget: config.start_budget,
            warm_interval: WARM_AUTO,
            mode: Mode::default(),
        }
    }
}

impl Settings {
    /// Below the least interval, the least.
    fn warm(&self) -> Warm {
        match u64::try_from(self.warm_interval) {
            Err(_) => Warm::Auto,
            Ok(0) => Warm::Off,
            Ok(ms) => Warm::Interval(Duration::from_millis(ms).max(Config::WARM_INTERVAL.0)),
        }
    }

    /// Where `min-bitrate` and `max-bitrate` cross, the maximum wins.
    fn bounds(&self) -> (Bitrate, Bitrate) {
        let max = u64::from(self.max_bitrate);
        let min = u64::from(self.min_bitrate).min(max);
        (Bitrate::from_bps(min), Bitrate::from_bps(max))
    }
}

pub struct DualH264Enc {
    settings: Mutex<Settings>,
    pub(super) lanes: Mutex<Lanes>,
    pub(super) router: Router,
    pub(super) collector: Collector,
    pub(super) feeders: Mutex<Vec<Feeder>>,
    sink: gst::GhostPad,
    src: [gst::GhostPad; 2],
}

/// The router's way back to the bin.
struct Link(glib::WeakRef<super::DualH264Enc>);

impl Owner for Link {
    fn second_usable(&self) -> bool {
        self.0.upgrade().is_some_and(|bin| {
            let imp = bin.imp();
            imp.src[1].is_linked() && imp.lanes().has_encoder(Stream::One)
        })
    }

    fn format(&self, format: Format, first: bool) {
        if let Some(bin) = self.0.upgrade() {
            bin.imp().new_format(format, first);
        }
    }

    fn set_rate(&self, stream: Stream, rate: EncoderRate, key: bool) {
        if let Some(bin) = self.0.upgrade() {
            bin.imp().set_rate(stream, rate, key);
        }
    }

    fn force_key(&self, stream: Stream) -> bool {
        let Some(bin) = self.0.upgrade() else {
            return false;
        };
        let lane = bin.imp().lanes().lane(stream);
        lane.is_some_and(|lane| lane.family.force_key(&lane.encoder))
    }

    fn renew(&self, stream: Stream, rate: EncoderRate) {
        if let Some(bin) = self.0.upgrade() {
            bin.imp().renew(stream, rate);
        }
    }

    fn fail_over(&self, stream: Stream, rate: EncoderRate, failure: &Failure) -> bool {
        self.0
            .upgrade()
            .is_some_and(|bin| bin.imp().fail_over(stream, rate, failure))
    }

    fn notify(&self, what: &'static str) {
        let Some(bin) = self.0.upgrade() else { return };
        match what {
            "streams" => bin.imp().say_streams(),
            property => bin.notify(property),
        }
    }
}

impl DualH264Enc {
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn feeder(&self, stream: Stream) -> Option<Feeder> {
        self.feeders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(stream.index())
            .cloned()
    }

    /// Everything that the core knows of the settings.
    pub(super) fn apply(&self) {
        let settings = self.settings().clone();
        self.router
            .imp()
            .configure(settings.mode == Mode::Dual, settings.bounds(), |config| {
                config.refresh_interval = Some(settings.refresh_interval)
                    .filter(|ms| *ms > 0)
                    .map(|ms| Duration::from_millis(ms.into()));
                config.background_share = Ratio::clamped(settings.background_share);
                config.keyframe_budget = settings.keyframe_budget;
                config.max_catch_up_frames = settings.max_catch_up_frames;
                config.start_budget = settings.start_budget;
                config.warm = settings.warm();
            });
    }

    fn set_bitrate(&self, bitrate: u32) {
        let settings = self.settings().clone();
        self.router
            .imp()
            .configure(settings.mode == Mode::Dual, settings.bounds(), |config| {
                config.target = Bitrate::from_bps(bitrate.into());
            });
    }

    fn say_streams(&self) {
        let single = self.router.imp().snapshot(|core, _| core.single());
        match single {
            None => gst::info!(CAT, imp = self, "two streams"),
            Some(Single::Configured) => {
                gst::info!(
                    CAT,
                    imp = self,
                    "one stream: mode=single or src_1 is not linked"
                );
            }
            Some(Single::NoFeedback) => gst::warning!(
                CAT,
                imp = self,
                "one stream: the peer never said that a frame is complete; \
                 is rtcpiframefeedback on both sides, and dualh264dec at the receiver?"
            ),
        }
    }

    fn stats(&self) -> gst::Structure {
        let (names, failures) = self.lanes().summary();
        self.router.imp().snapshot(|core, traffic| {
            let s = core.stats();
            let mean = s.commit_time.as_nanos() as u64 / s.refreshes_committed.max(1);
            gst::Structure::builder("application/x-dualh264enc-stats")
                .field("encoder", names[core.display().index()])
                .field("encoder-0", names[0])
                .field("encoder-1", names[1])
                .field("encoder-failures", failures)
                .field("pictures-lost", traffic.pictures_lost)
                .field(
                    "mode",
                    match core.single() {
                        None => "dual",
                        Some(Single::Configured) => "single",
                        Some(Single::NoFeedback) => "no-feedback",
                    },
                )
                .field("phase", format!("{:?}", core.phase()))
                .field("display-stream", core.display().index() as u32)
                .field("bitrate", core.config().target.as_bps())
                .field("pictures", s.pictures)
                .field("encoder-calls", traffic.encoder_calls)
                .field("frames-left", traffic.frames_left)
                .field("display-frames", traffic.display_frames)
                .field("display-bytes", traffic.display_bytes)
                .field("largest-display-frame", traffic.largest_display_frame)
                .field("background-frames", traffic.background_frames)
                .field("background-bytes", traffic.background_bytes)
                .field("largest-background-frame", traffic.largest_background_frame)
                .field("display-key-frames", s.display_key_frames)
                .field("unexpected-key-frames", traffic.unexpected_key_frames)
                .field("background-key-frames", s.background_key_frames)
                .field("catch-up-frames", s.catch_up_frames)
                .field("warm-frames", s.warm_frames)
                .field("switches", s.switches)
                .field("recoveries-by-reference", s.recoveries_by_reference)
                .field("recoveries-by-key-frame", s.recoveries_by_key_frame)
                .field("requests-ignored", s.requests_ignored)
                .field("refreshes-given-up", s.refreshes_given_up)
                .field("restarts", s.restarts)
                .field("commit-time-mean", mean)
                .field("rtt", s.rtt.map_or(0, |rtt| rtt.as_nanos() as u64))
                .field("feedback-accepted", s.feedback_accepted)
                .field("feedback-repeated", s.feedback_repeated)
                .field("feedback-stale", s.feedback_stale)
                .field("feedback-never-sent", s.feedback_never_sent)
                .field("feedback-refused", s.feedback_refused)
                .field("feedback-malformed", traffic.bad_events)
                .build()
        })
    }
}

#[glib::object_subclass]
impl ObjectSubclass for DualH264Enc {
    const NAME: &'static str = "GstDualH264Enc";
    type Type = super::DualH264Enc;
    type ParentType = gst::Bin;

    fn with_class(klass: &Self::Class) -> Self {
        let ghost = |name: &str| {
            let template = klass
                .pad_template(name)
                .unwrap_or_else(|| panic!("template {name} is registered"));
            gst::GhostPad::builder_from_template(&template).build()
        };
        // The owner is set once the object is there.
        Self {
            settings: Mutex::default(),
            lanes: Mutex::default(),
            router: Router::new(),
            collector: Collector::new(),
            feeders: Mutex::default(),
            sink: ghost("sink"),
            src: [ghost("src_0"), ghost("src_1")],
        }
    }
}

impl ObjectImpl for DualH264Enc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let d = Settings::default();
            vec![
                glib::ParamSpecString::builder("encoder")
                    .nick("Encoder")
                    .blurb("Factory of the encoder for both streams, one of those in docs/encoders.md; auto takes the installed one of the highest rank that works; the others are in reserve")
                    .default_value(Some(AUTO))
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("encoder-properties")
                    .nick("Encoder Properties")
                    .blurb("Properties to set on both encoders after the element's own choice, e.g. props,speed-preset=superfast; taken when an encoder is made")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("bitrate")
                    .nick("Bitrate")
                    .blurb("Target rate of both streams together, in bit/s; an estimator's event changes it too")
                    .minimum(1000)
                    .maximum(1_000_000_000)
                    .default_value(d.bitrate)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("configured-bitrate")
                    .nick("Configured Bitrate")
                    .blurb("What bitrate was set to last, in bit/s, whatever an estimator's event has made of it since")
                    .default_value(d.bitrate)
                    .read_only()
                    .build(),
                glib::ParamSpecUInt::builder("min-bitrate")
                    .nick("Minimum Bitrate")
                    .blurb("Lower limit of what an estimator's event can set, in bit/s")
                    .minimum(1000)
                    .maximum(1_000_000_000)
                    .default_value(d.min_bitrate)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("max-bitrate")
                    .nick("Maximum Bitrate")
                    .blurb("Upper limit of what an estimator's event can set, in bit/s; openh264enc is set up for it when it is made, and a bitrate above it makes a key frame there")
                    .minimum(1000)
                    .maximum(1_000_000_000)
                    .default_value(d.max_bitrate)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("refresh-interval")
                    .nick("Refresh Interval")
                    .blurb("Time from one key frame to the next, in ms; 0 = on request only")
                    .maximum(3_600_000)
                    .default_value(d.refresh_interval)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecDouble::builder("background-share")
                    .nick("Background Share")
                    .blurb("Part of the bitrate that a background frame gets while it is being sent, what the display encoder leaves unused included; less of it while the picture is hard to code, and at least 0.35 for 10 s after a loss")
                    .minimum(Config::SHARE.0)
                    .maximum(Config::SHARE.1)
                    .default_value(d.background_share)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecDouble::builder("keyframe-budget")
                    .nick("Key Frame Budget")
                    .blurb("Upper limit of a background key frame's size, in frame times at the bitrate; within it the size follows what the picture needs. Encoders without a buffer setting (openh264enc) come near it only")
                    .minimum(Config::BUDGET.0)
                    .maximum(Config::BUDGET.1)
                    .default_value(d.keyframe_budget)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("max-catch-up-frames")
                    .nick("Maximum Catch-up Frames")
                    .blurb("Upper limit of background frames between a background key frame and the switch to it; 0 = switch as soon as the key frame is complete")
                    .minimum(Config::CATCH_UPS.0)
                    .maximum(Config::CATCH_UPS.1)
                    .default_value(d.max_catch_up_frames)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecDouble::builder("start-budget")
                    .nick("Start Budget")
                    .blurb("Upper limit of the very first key frame's size, in frame times at the bitrate; where that is below 0.03 bit a pixel, up to 400 ms. The next pictures are smaller until it is made up for")
                    .minimum(Config::BUDGET.0)
                    .maximum(Config::BUDGET.1)
                    .default_value(d.start_budget)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecInt::builder("warm-interval")
                    .nick("Warm Interval")
                    .blurb("Age at which the standby's acknowledged picture is replaced by a younger one, so that a loss is answered by a small frame from it, in ms; below 100 it is 100; 0 = not replaced, and none made where there is none; -1 = auto, 1 s or 15 pictures, 400 ms for 10 s after a loss")
                    .minimum(WARM_AUTO)
                    .maximum(WARM_MAX)
                    .default_value(d.warm_interval)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default::<Mode>("mode", d.mode)
                    .nick("Mode")
                    .blurb("Whether the second stream is used")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("display-stream")
                    .nick("Display Stream")
                    .blurb("The stream that is shown, 0 or 1; notified at each switch")
                    .maximum(1)
                    .read_only()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Counters since READY and the present state; the fields are listed in the element's documentation")
                    .read_only()
                    .build(),
            ]
        });
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        // The types are those of the specifications above.
        macro_rules! set {
            ($field:ident) => {
                if let Ok(value) = value.get() {
                    self.settings().$field = value;
                }
            };
        }
        match pspec.name() {
            "encoder" => {
                let name = value.get::<Option<String>>().ok().flatten();
                self.settings().encoder = name.unwrap_or_else(|| AUTO.into());
            }
            "encoder-properties" => set!(encoder_properties),
            "bitrate" => {
                set!(bitrate);
                let bitrate = self.settings().bitrate;
                self.set_bitrate(bitrate);
            }
            "min-bitrate" => set!(min_bitrate),
            "max-bitrate" => set!(max_bitrate),
            "refresh-interval" => set!(refresh_interval),
            "background-share" => set!(background_share),
            "keyframe-budget" => set!(keyframe_budget),
            "max-catch-up-frames" => set!(max_catch_up_frames),
            "start-budget" => set!(start_budget),
            "warm-interval" => set!(warm_interval),
            "mode" => set!(mode),
            name => gst::error!(CAT, imp = self, "no property {name} can be set"),
        }
        self.apply();
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let s = self.settings().clone();
        match pspec.name() {
            "encoder" => s.encoder.to_value(),
            "encoder-properties" => s.encoder_properties.to_value(),
            "bitrate" => {
                let bps = self.router.imp().target().as_bps();
                u32::try_from(bps).unwrap_or(u32::MAX).to_value()
            }
            "configured-bitrate" => s.bitrate.to_value(),
            "min-bitrate" => s.min_bitrate.to_value(),
            "max-bitrate" => s.max_bitrate.to_value(),
            "refresh-interval" => s.refresh_interval.to_value(),
            "background-share" => s.background_share.to_value(),
            "keyframe-budget" => s.keyframe_budget.to_value(),
            "max-catch-up-frames" => s.max_catch_up_frames.to_value(),
            "start-budget" => s.start_budget.to_value(),
            "warm-interval" => s.warm_interval.to_value(),
            "mode" => s.mode.to_value(),
            "display-stream" => (self.router.imp().display().index() as u32).to_value(),
            "stats" => self.stats().to_value(),
            name => unreachable!("property {name} is not declared"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        let collector = self.collector.imp();
        self.router.set_up(
            Box::new(Link(obj.downgrade())),
            collector.coded.clone(),
            collector.src.clone(),
        );
        self.collector.set_router(&self.router);
        if let Err(err) = self.build() {
            gst::error!(CAT, imp = self, "{err}");
        }
    }
}

impl DualH264Enc {
    /// What is there from the beginning: router, queues and pads.
    fn build(&self) -> Result<(), glib::BoolError> {
        let obj = self.obj();
        let router = self.router.imp();
        obj.add(&self.router)?;
        obj.add(&self.collector)?;
        for stream in Stream::BOTH {
            let i = stream.index();
            // A thread for each encoder. Two pictures at most wait; then the
            // source does.
            let queue = gst::ElementFactory::make("queue")
                .name(format!("queue_{i}"))
                .property("max-size-buffers", 2u32)
                .property("max-size-bytes", 0u32)
                .property("max-size-time", 0u64)
                .build()?;
            obj.add(&queue)?;
            let sink = queue.static_pad("sink");
            let sink = sink.ok_or_else(|| glib::bool_error!("a queue without a sink pad"))?;
            router.raw[i]
                .link(&sink)
                .map_err(|err| glib::bool_error!("linking a queue: {err}"))?;
            let feeder = Feeder::new(stream, &self.router);
            obj.add(&feeder)?;
            queue.link(&feeder)?;
            self.feeders
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(feeder);
        }
        self.sink.set_target(Some(&router.sink))?;
        obj.add_pad(&self.sink)?;
        for (ghost, pad) in self.src.iter().zip(&self.collector.imp().src) {
            ghost.set_target(Some(pad))?;
            obj.add_pad(ghost)?;
        }
        Ok(())
    }
}

impl GstObjectImpl for DualH264Enc {}

impl ElementImpl for DualH264Enc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Dual-stream H.264 encoder",
                "Codec/Encoder/Video",
                "Codes H.264 for low latency; key frames go in the background on a second stream",
                "gst-dualstream developers",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            use gst::PadDirection::{Sink, Src};
            let (raw, coded) = (router::raw_caps(), router::coded_caps());
            [
                ("sink", Sink, &raw),
                ("src_0", Src, &coded),
                ("src_1", Src, &coded),
            ]
            .into_iter()
            .filter_map(|(name, direction, caps)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).ok()
            })
            .collect()
        });
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::NullToReady
            && let Err(err) = self.start()
        {
            self.post_error_message(err);
            self.stop();
            return Err(gst::StateChangeError);
        }
        if transition == gst::StateChange::ReadyToPaused && !self.wake_encoders() {
            return Err(gst::StateChangeError);
        }
        let success = self.parent_change_state(transition)?;
        match transition {
            gst::StateChange::PausedToReady => self.router.imp().reset(),
            gst::StateChange::ReadyToNull => self.stop(),
            _ => {}
        }
        Ok(success)
    }
}

impl BinImpl for DualH264Enc {
    fn handle_message(&self, message: gst::Message) {
        if let gst::MessageView::Error(error) = message.view()
            && let Some(stream) = message.src().and_then(|src| self.stream_of_encoder(src))
            && self
                .router
                .imp()
                .is_of_encoder(stream, gst::FlowError::Error)
            && let Some(feeder) = self.feeder(stream)
        {
            let text = error.error().to_string();
            gst::warning!(CAT, imp = self, "encoder of {stream:?}: {text}");
            feeder.encoder_failed(text);
            return;
        }
        self.parent_handle_message(message);
    }
}
