// SPDX-License-Identifier: MPL-2.0
//! `dualh264enc` with real encoders, its output decoded back.

use gst::prelude::*;
use gst_video::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard};

const FPS: u64 = 30;

fn init() {
    static INIT: std::sync::Once = std::sync::Once::new();
    INIT.call_once(|| {
        gst::init().expect("GStreamer");
        gstdualstream::plugin_register_static().expect("the plugin");
    });
}

/// A coded frame as it left one of the source pads.
#[derive(Clone, Debug)]
struct Frame {
    stream: usize,
    number: u32,
    background: bool,
    key: bool,
    acknowledged: bool,
    generation: u32,
    data: gst::Buffer,
}

impl Frame {
    fn size(&self) -> usize {
        self.data.size()
    }
}

/// The encoder between an appsrc and two appsinks that collect frames.
struct Bench {
    pipeline: gst::Pipeline,
    encoder: gst::Element,
    src: gst_app::AppSrc,
    frames: Arc<Mutex<Vec<Frame>>>,
    pictures: u64,
    size: (u32, u32),
}

fn collect(pipeline: &gst::Pipeline, stream: usize, frames: &Arc<Mutex<Vec<Frame>>>) {
    let sink = pipeline
        .by_name(&format!("s{stream}"))
        .and_downcast::<gst_app::AppSink>();
    let Some(sink) = sink else { return };
    let frames = frames.clone();
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let data = sample.buffer_owned().ok_or(gst::FlowError::Error)?;
                let tag = gstdualstream::meta::of(&data).expect("each frame is tagged");
                assert_eq!(tag.stream.index(), stream);
                frames.lock().unwrap().push(Frame {
                    stream,
                    number: tag.number.into(),
                    background: tag.background,
                    key: tag.key,
                    acknowledged: tag.acknowledged,
                    generation: tag.generation.into(),
                    data,
                });
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
}

impl Bench {
    fn new(properties: &str, second: bool) -> Self {
        init();
        let second = if second {
            "e.src_1 ! appsink name=s1 sync=false async=false"
        } else {
            ""
        };
        let pipeline = gst::parse::launch(&format!(
            "appsrc name=a format=time ! dualh264enc name=e {properties} \
             e.src_0 ! appsink name=s0 sync=false async=false {second}"
        ))
        .expect("the pipeline")
        .downcast::<gst::Pipeline>()
        .expect("a pipeline");
        let frames = Arc::new(Mutex::new(Vec::new()));
        collect(&pipeline, 0, &frames);
        collect(&pipeline, 1, &frames);
        let bench = Self {
            encoder: pipeline.by_name("e").expect("the encoder"),
            src: pipeline.by_name("a").and_downcast().expect("appsrc"),
            pipeline,
            frames,
            pictures: 0,
            size: (0, 0),
        };
        bench
            .pipeline
            .set_state(gst::State::Playing)
            .expect("PLAYING");
        let mut bench = bench;
        bench.format(320, 180, 30);
        bench
    }

    fn format(&mut self, width: u32, height: u32, fps: i32) {
        self.size = (width, height);
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
            .fps(gst::Fraction::new(fps, 1))
            .build()
            .expect("a format");
        self.src.set_caps(Some(&info.to_caps().expect("caps")));
    }

    fn frames(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap()
    }

    /// A picture, and what it was coded to. A background frame may follow the
    /// display frame, so it waits for those that are expected by the stats.
    fn picture(&mut self) -> Vec<Frame> {
        let n = self.pictures;
        self.pictures += 1;
        let mut buffer = gst::Buffer::from_mut_slice(draw(n, self.size));
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(gst::ClockTime::from_nseconds(n * 1_000_000_000 / FPS));
        }
        let before = self.frames().len();
        self.src.push_buffer(buffer).expect("the picture goes in");
        for _ in 0..2000 {
            std::thread::sleep(std::time::Duration::from_millis(1));
            let taken = self.stat("pictures") == self.pictures;
            if taken && self.frames().len() as u64 == self.stat("encoder-calls") {
                break;
            }
        }
        let new = self.frames()[before..].to_vec();
        assert!(!new.is_empty(), "picture {n} was not coded");
        new
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

    fn complete(&self, frame: &Frame) {
        let event = gst::event::CustomUpstream::new(
            gst::Structure::builder("application/x-frame-complete")
                .field("stream", frame.stream as u32)
                .field("frame", frame.number)
                .field("generation", frame.generation)
                .field("key", frame.key)
                .field("decodable", true)
                .build(),
        );
        self.send(frame.stream, event);
    }

    fn send(&self, stream: usize, event: gst::Event) {
        let pad = self.encoder.static_pad(&format!("src_{stream}"));
        assert!(pad.expect("the pad").send_event(event), "handled");
    }

    fn pli(&self, stream: usize) {
        let event = gst_video::UpstreamForceKeyUnitEvent::builder()
            .all_headers(true)
            .other_field("ssrc", 77u32)
            .build();
        self.send(stream, event);
    }

    fn refresh(&self) {
        self.send(0, gst_video::UpstreamForceKeyUnitEvent::builder().build());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// A moving texture with a little noise.
fn draw(n: u64, (width, height): (u32, u32)) -> Vec<u8> {
    let (w, h) = (width as usize, height as usize);
    let mut data = vec![128u8; w * h + 2 * (w.div_ceil(2) * h.div_ceil(2))];
    let shift = n as usize;
    let mut random = 12_345u32.wrapping_add(n as u32 * 7919);
    for y in 0..h {
        for x in 0..w {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wave = ((x + 2 * shift) ^ (y + shift)) & 63;
            data[y * w + x] = (60 + wave + (random >> 29) as usize) as u8;
        }
    }
    data
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let error: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    10.0 * (255.0 * 255.0 / (error / a.len() as f64).max(1e-9)).log10()
}

/// Decodes one stream whole; luma PSNR of each frame against the source.
fn decode(frames: &[Frame], size: (u32, u32)) -> Vec<f64> {
    let pipeline = gst::parse::launch(
        "appsrc name=a format=time caps=video/x-h264,stream-format=byte-stream,alignment=au \
         ! h264parse ! avdec_h264 max-threads=1 output-corrupt=false \
         ! video/x-raw,format=I420 ! appsink name=s sync=false max-buffers=2000",
    )
    .expect("the decoder")
    .downcast::<gst::Pipeline>()
    .expect("a pipeline");
    let src: gst_app::AppSrc = pipeline.by_name("a").and_downcast().expect("appsrc");
    let sink: gst_app::AppSink = pipeline.by_name("s").and_downcast().expect("appsink");
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
    for frame in frames {
        let mut data = frame.data.copy();
        let pts = gst::ClockTime::from_nseconds(u64::from(frame.number) * 1_000_000_000 / FPS);
        data.make_mut().set_pts(pts);
        data.make_mut().set_dts(gst::ClockTime::NONE);
        src.push_buffer(data).expect("decoding");
    }
    src.end_of_stream().expect("EOS");
    let mut result = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        let buffer = sample.buffer().expect("a picture");
        let number = (buffer.pts().expect("PTS").nseconds() * FPS + 500_000_000) / 1_000_000_000;
        let info = gst_video::VideoInfo::from_caps(sample.caps().expect("caps")).expect("raw");
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).expect("map");
        let stride = frame.plane_stride()[0] as usize;
        let luma = frame.plane_data(0).expect("luma");
        let (w, h) = (size.0 as usize, size.1 as usize);
        let luma: Vec<u8> = (0..h)
            .flat_map(|y| luma[y * stride..][..w].to_vec())
            .collect();
        result.push(psnr(&luma, &draw(number, size)[..w * h]));
    }
    let _ = pipeline.set_state(gst::State::Null);
    result
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Runs until the switch that a refresh leads to, acknowledging each
/// background frame after `delay` pictures. Returns all frames.
fn refresh_to_switch(bench: &mut Bench, delay: u64) -> Vec<Frame> {
    let switches = bench.stat("switches");
    bench.refresh();
    let mut all = Vec::new();
    for _ in 0..60 {
        let new = bench.picture();
        all.extend(new.clone());
        if bench.stat("switches") > switches {
            return all;
        }
        if let Some(background) = new.iter().find(|f| f.background) {
            all.extend(bench.run(delay));
            bench.complete(background);
        }
    }
    panic!("no switch: {}", bench.stats());
}

#[test]
fn one_stream_is_an_ordinary_encoder_with_one_key_frame() {
    let mut bench = Bench::new("bitrate=600000", false);
    let frames = bench.run(90);
    assert_eq!(frames.len(), 90, "one in, one out");
    assert!(frames.iter().all(|f| f.stream == 0 && !f.background));
    let numbers: Vec<u32> = frames.iter().map(|f| f.number).collect();
    assert_eq!(numbers, (0..90).collect::<Vec<_>>());
    assert_eq!(frames.iter().filter(|f| f.key).count(), 1);
    let psnr = decode(&frames, bench.size);
    assert_eq!(psnr.len(), 90);
    assert!(min(&psnr[10..]) > 25.0, "{psnr:?}");
    assert_eq!(bench.stats().get::<&str>("mode"), Ok("single"));
    // Without a second pad a refresh is a key frame here.
    bench.refresh();
    assert!(bench.picture()[0].key);
}

#[test]
fn bitrate_changes_in_place_and_each_frame_fits_one_frame_time() {
    let mut bench = Bench::new("bitrate=1000000", false);
    bench.run(60);
    let rate = |bench: &mut Bench| {
        let frames = bench.run(45);
        let sizes: Vec<usize> = frames[15..].iter().map(Frame::size).collect();
        let largest = sizes.iter().max().copied().unwrap_or(0);
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        (mean * 8 * FPS as usize, largest * 8 * FPS as usize)
    };
    let (mean, largest) = rate(&mut bench);
    assert!((750_000..1_050_000).contains(&mean), "{mean}");
    assert!(largest < 1_400_000, "{largest}");
    bench.encoder.set_property("bitrate", 400_000u32);
    let (mean, largest) = rate(&mut bench);
    assert!((300_000..420_000).contains(&mean), "{mean}");
    assert!(largest < 600_000, "{largest}");
    let event = gst::event::CustomUpstream::new(
        gst::Structure::builder("application/x-network-estimate")
            .field("target-bitrate", 1_500_000u64)
            .build(),
    );
    bench.send(0, event);
    assert_eq!(bench.encoder.property::<u32>("bitrate"), 1_500_000);
    let configured: u32 = bench.encoder.property("configured-bitrate");
    assert_eq!(configured, 400_000, "an estimate does not set it");
    let (mean, _) = rate(&mut bench);
    assert!((1_100_000..1_580_000).contains(&mean), "{mean}");
    assert_eq!(bench.frames().iter().filter(|f| f.key).count(), 1);
    assert_eq!(bench.stat("unexpected-key-frames"), 0);
}

#[test]
fn a_refresh_goes_through_the_background_to_the_other_stream() {
    let mut bench = Bench::new("bitrate=800000 keyframe-budget=6", true);
    bench.run(30);
    assert_eq!(
        bench.frames().len(),
        30,
        "the standby encoder is not fed without need"
    );
    let frames = refresh_to_switch(&mut bench, 5);
    let background: Vec<_> = frames.iter().filter(|f| f.background).collect();
    assert!(background[0].key && background.iter().skip(1).all(|f| !f.key));
    assert!(background.len() >= 2, "a catch-up frame at least");
    let largest_display = frames
        .iter()
        .filter(|f| !f.background)
        .map(Frame::size)
        .max();
    let budget = 6.0 * 800_000.0 / 8.0 / FPS as f64;
    assert!(
        background[0].size() > 2 * largest_display.unwrap(),
        "the key frame may be large: {} B",
        background[0].size()
    );
    assert!((background[0].size() as f64) < budget * 1.1);
    let commit = frames.last().unwrap();
    assert_eq!(
        (commit.stream, commit.key, commit.background),
        (1, false, false)
    );
    assert!(commit.acknowledged);
    assert_eq!(commit.generation, 1);
    bench.run(30);

    // Each stream is whole by itself, and the pictures are good on both.
    let all = bench.frames().clone();
    for stream in 0..2 {
        let own: Vec<Frame> = all.iter().filter(|f| f.stream == stream).cloned().collect();
        let psnr = decode(&own, bench.size);
        assert_eq!(psnr.len(), own.len(), "stream {stream} decodes whole");
        assert!(min(&psnr[1..]) > 24.0, "stream {stream}: {psnr:?}");
    }
    let shown: Vec<u32> = all
        .iter()
        .filter(|f| !f.background)
        .map(|f| f.number)
        .collect();
    assert_eq!(shown, (0..shown.len() as u32).collect::<Vec<_>>());
    // And back again.
    refresh_to_switch(&mut bench, 3);
    assert_eq!(bench.stat("switches"), 2);
    assert_eq!(bench.encoder.property::<u32>("display-stream"), 0);
    assert_eq!(bench.stat("display-key-frames"), 1);
    assert_eq!(bench.stat("unexpected-key-frames"), 0);
}

#[test]
fn openh264_takes_the_same_way() {
    let mut bench = Bench::new("encoder=openh264enc bitrate=800000", true);
    bench.run(30);
    assert_eq!(bench.stats().get::<&str>("encoder"), Ok("openh264enc"));
    refresh_to_switch(&mut bench, 4);
    bench.run(20);
    bench.encoder.set_property("bitrate", 1_600_000u32);
    bench.run(20);
    bench.encoder.set_property("bitrate", 500_000u32);
    bench.run(20);
    let all = bench.frames().clone();
    for stream in 0..2 {
        let own: Vec<Frame> = all.iter().filter(|f| f.stream == stream).cloned().collect();
        assert_eq!(decode(&own, bench.size).len(), own.len(), "stream {stream}");
    }
    assert_eq!(bench.stat("unexpected-key-frames"), 0);
    assert_eq!(bench.stat("display-key-frames"), 1);
}

#[test]
fn requests_of_receiver_and_application_are_told_apart() {
    let mut bench = Bench::new("bitrate=800000", true);
    bench.run(10);
    bench.pli(0);
    let frames = bench.picture();
    assert!(frames.len() == 1 && frames[0].key && frames[0].stream == 0);
    bench.refresh();
    let frames = bench.picture();
    assert_eq!(frames.len(), 2);
    let background = frames.iter().find(|f| f.background).expect("background");
    assert!(background.key && background.stream == 1);
    // Downstream, as an application does it through appsrc.
    let event = gst_video::DownstreamForceKeyUnitEvent::builder().build();
    assert!(bench.src.send_event(event));
    bench.run(3);
    assert_eq!(bench.stat("background-key-frames"), 1, "one is under way");
    // A loss when nothing is acknowledged, but the background key frame has
    // had the time to leave.
    bench.run(5);
    bench.pli(0);
    let frame = bench.picture().remove(0);
    assert!(!frame.key && !frame.background && !frame.acknowledged);
    assert_eq!(frame.stream, 1);
    // It did not help.
    bench.run(4);
    bench.pli(1);
    assert!(bench.picture().iter().any(|f| f.key && !f.background));
}

/// All that was coded on the first stream, by itself.
fn assert_first_stream_decodes(bench: &Bench) {
    let own: Vec<Frame> = bench
        .frames()
        .iter()
        .filter(|f| f.stream == 0)
        .cloned()
        .collect();
    let psnr = decode(&own, bench.size);
    assert_eq!(psnr.len(), own.len());
    assert!(min(&psnr[1..]) > 20.0, "{psnr:?}");
}

#[test]
fn a_loss_is_answered_from_the_acknowledged_picture_and_decodes() {
    let mut bench = Bench::new("bitrate=800000", true);
    bench.run(20);
    refresh_to_switch(&mut bench, 3);
    bench.run(20);
    let last = bench
        .frames()
        .iter()
        .rfind(|f| f.stream == 0)
        .cloned()
        .expect("one");
    bench.complete(&last);
    bench.pli(1);
    let frame = bench.picture().remove(0);
    assert!(!frame.key && frame.acknowledged && frame.stream == 0);
    assert_eq!(bench.stat("recoveries-by-reference"), 1);
    bench.run(5);
    assert_first_stream_decodes(&bench);
}

#[test]
fn a_warm_standby_gets_small_frames_and_a_loss_is_answered_from_the_newest() {
    let mut bench = Bench::new("bitrate=800000 warm-interval=300", true);
    bench.run(20);
    refresh_to_switch(&mut bench, 3);
    let last = bench
        .frames()
        .iter()
        .rfind(|f| f.stream == 0)
        .cloned()
        .expect("the former display stream");
    bench.complete(&last);
    for round in 1..=3 {
        let mut kept = None;
        for _ in 0..15 {
            kept = bench.picture().into_iter().find(|f| f.background);
            if kept.is_some() {
                break;
            }
        }
        let kept = kept.expect("within 300 ms and a little");
        assert!(!kept.key && kept.acknowledged && kept.stream == 0);
        assert!(kept.size() < 800_000 / 8 / 30 * 3 / 2, "{}", kept.size());
        assert_eq!(bench.stat("warm-frames"), round);
        bench.complete(&kept);
    }
    bench.pli(1);
    let frame = bench.picture().remove(0);
    assert!(!frame.key && frame.acknowledged && frame.stream == 0);
    assert_first_stream_decodes(&bench);
}

#[test]
fn size_and_frame_rate_change_in_mid_stream() {
    let mut bench = Bench::new("bitrate=800000", true);
    bench.run(20);
    refresh_to_switch(&mut bench, 3);
    bench.format(640, 360, 30);
    let frames = bench.picture();
    assert!(frames[0].key && !frames[0].background);
    bench.run(10);
    refresh_to_switch(&mut bench, 3);
    bench.format(640, 360, 15);
    assert!(bench.run(2).iter().any(|f| f.key));
    bench.run(5);
    assert_eq!(bench.stat("restarts"), 2);
    assert_eq!(bench.stat("display-key-frames"), 3);
}

#[test]
fn hostile_and_foreign_events_change_nothing() {
    let mut bench = Bench::new("bitrate=800000", true);
    bench.run(10);
    let structures = [
        gst::Structure::builder("application/x-frame-complete").build(),
        gst::Structure::builder("application/x-frame-complete")
            .field("stream", 7u32)
            .field("frame", 1u32)
            .build(),
        gst::Structure::builder("application/x-frame-complete")
            .field("stream", 1u32)
            .field("frame", 70_000u32)
            .build(),
        gst::Structure::builder("application/x-frame-complete")
            .field("stream", "one")
            .field("frame", -1i32)
            .build(),
        gst::Structure::builder("application/x-network-estimate").build(),
        gst::Structure::builder("application/x-network-estimate")
            .field("target-bitrate", "much")
            .build(),
    ];
    for structure in structures {
        bench.send(1, gst::event::CustomUpstream::new(structure));
    }
    assert_eq!(bench.stat("feedback-malformed"), 6);
    for (target, kept) in [(0u64, 50_000u32), (u64::MAX, 20_000_000)] {
        let s = gst::Structure::builder("application/x-network-estimate")
            .field("target-bitrate", target)
            .field("rtt", u64::MAX)
            .build();
        bench.send(0, gst::event::CustomUpstream::new(s));
        assert_eq!(bench.encoder.property::<u32>("bitrate"), kept);
    }
    bench.encoder.set_property("bitrate", 800_000u32);
    // Feedback about frames never sent.
    for number in [0u32, 5, 9, 10, 30_000, 65_535] {
        for stream in 0..2usize {
            bench.complete(&Frame {
                stream,
                number,
                background: true,
                key: true,
                acknowledged: false,
                generation: 0,
                data: gst::Buffer::new(),
            });
        }
    }
    bench.run(10);
    assert_eq!(bench.stat("switches"), 0);
    assert_eq!(bench.stat("feedback-accepted"), 0);
}

#[test]
fn two_full_cycles_start_anew() {
    let mut bench = Bench::new("bitrate=800000", true);
    for _ in 0..2 {
        bench.pictures = 0;
        bench.frames().clear();
        let frames = bench.run(10);
        assert!(frames[0].key && frames[0].number == 0);
        refresh_to_switch(&mut bench, 2);
        bench.pipeline.set_state(gst::State::Null).expect("NULL");
        assert_eq!(bench.encoder.property::<u32>("display-stream"), 0);
        bench
            .pipeline
            .set_state(gst::State::Playing)
            .expect("PLAYING");
    }
}

#[test]
fn an_unknown_encoder_is_an_error_that_says_what_there_is() {
    init();
    let encoder = gst::ElementFactory::make("dualh264enc")
        .property("encoder", "jpegenc")
        .build()
        .expect("the element");
    let pipeline = gst::Pipeline::new();
    pipeline.add(&encoder).expect("added");
    let bus = pipeline.bus().expect("a bus");
    assert!(pipeline.set_state(gst::State::Ready).is_err());
    let message = bus
        .timed_pop_filtered(gst::ClockTime::SECOND, &[gst::MessageType::Error])
        .expect("an error message");
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!("filtered");
    };
    let text = format!("{} {:?}", error.error(), error.debug());
    assert!(
        text.contains("jpegenc") && text.contains("x264enc"),
        "{text}"
    );
    let _ = pipeline.set_state(gst::State::Null);
}

#[test]
fn the_users_own_encoder_properties_are_set() {
    let mut bench = Bench::new(
        "encoder=x264enc encoder-properties=props,speed-preset=ultrafast,qp-min=11",
        false,
    );
    bench.run(2);
    let bin = bench.encoder.clone().downcast::<gst::Bin>().expect("a bin");
    let x264 = bin.by_name("encoder_0").expect("the child");
    assert_eq!(x264.property::<u32>("qp-min"), 11);
    let preset = x264.property_value("speed-preset");
    let preset = preset
        .transform::<String>()
        .expect("a name")
        .get::<String>();
    assert!(preset.expect("text").contains("ltrafast"));
}

#[test]
fn end_of_stream_comes_through_on_both_pads() {
    let mut bench = Bench::new("bitrate=800000", true);
    bench.run(10);
    bench.src.end_of_stream().expect("EOS");
    let bus = bench.pipeline.bus().expect("a bus");
    let message = bus.timed_pop_filtered(
        gst::ClockTime::from_seconds(5),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    let message = message.expect("EOS in time");
    assert_eq!(message.type_(), gst::MessageType::Eos);
    assert_eq!(bench.frames().len(), 10);
}
