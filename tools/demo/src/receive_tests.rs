// SPDX-License-Identifier: MPL-2.0
//! The receiver behind a coded video in one process, instead of a network.

use super::*;
use dualstream_clip::source::{Pictures, Size};

fn options() -> Options {
    let path = |name: &str| {
        std::env::temp_dir().join(format!("dualstream-demo-{}-{name}", std::process::id()))
    };
    Options {
        clip: Clip {
            file: None,
            size: Some(Size {
                width: 320,
                height: 180,
            }),
            pattern_seconds: None,
        },
        port: 0,
        video: path("shown.mp4"),
        log: path("receiver.jsonl"),
    }
}

const CAPTURED: u64 = 1_700_000_000_000_000_000;
const NTP_OFFSET: u64 = 2_208_988_800_000_000_000;

/// The clip's first 60 pictures through an encoder and a decoder; number,
/// stream and capture time travel with them. Stream 1 from picture 40 on, and
/// picture 50 comes without a tag.
fn coded_source() -> gst::Element {
    if !gst::meta::CustomMeta::is_registered("DualStreamFrame") {
        gst::meta::CustomMeta::register_simple("DualStreamFrame");
    }
    let bin = gst::parse::bin_from_description(
        "videotestsrc pattern=zone-plate kx2=10 ky2=10 kt=4 num-buffers=60 \
         ! video/x-raw,format=I420,width=320,height=180,framerate=30/1 ! identity name=mark \
         ! x264enc tune=zerolatency pass=quant quantizer=20 ! avdec_h264 max-threads=1",
        true,
    )
    .unwrap();
    let numbers = std::sync::atomic::AtomicU32::new(0);
    bin.by_name("mark")
        .unwrap()
        .static_pad("src")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let n = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let buffer = info.buffer_mut().unwrap().make_mut();
            if n != 50 {
                let mut meta = gst::meta::CustomMeta::add(buffer, "DualStreamFrame").unwrap();
                let s = meta.mut_structure();
                s.set("stream", u32::from(n >= 40));
                s.set("number", n);
                s.set("background", false);
                s.set("key", n == 0);
                s.set("acknowledged", false);
                s.set("generation", u32::from(n >= 40));
            }
            let time = NTP_OFFSET + CAPTURED + u64::from(n);
            gst::ReferenceTimestampMeta::add(
                buffer,
                &gst::Caps::new_empty_simple("timestamp/x-ntp"),
                gst::ClockTime::from_nseconds(time),
                None,
            );
            gst::PadProbeReturn::Ok
        });
    bin.upcast()
}

#[test]
fn every_picture_is_written_down_compared_and_recorded() {
    gst::init().unwrap();
    let options = options();
    let record = Shared::default();
    let pipeline = gst::Pipeline::new();
    let source = coded_source();
    pipeline.add(&source).unwrap();
    attach_display(&pipeline, &source, &options, &record).unwrap();
    let before = wall_clock();
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(60),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("ends");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    assert_eq!(codec_in(&source, "Codec/Decoder"), "avdec_h264");
    assert_eq!(codec_in(&source, "Codec/Encoder"), "x264enc");
    pipeline.set_state(gst::State::Null).unwrap();

    let worker = lock(&record).worker.take().unwrap();
    let compared = worker.finish().unwrap();
    let mut record = lock(&record);
    fill_psnr(&mut record.shown, &compared);
    assert_eq!(record.shown.len(), 60);
    assert_eq!(record.highest, Some(59));
    for (n, shown) in record.shown.iter().enumerate() {
        assert_eq!(shown.captured, Some(CAPTURED + n as u64));
        assert!(shown.shown >= before, "picture {n}");
        if n == 50 {
            assert_eq!((shown.number, shown.psnr_db), (None, None));
            continue;
        }
        assert_eq!(shown.number, Some(n as u64));
        assert_eq!(shown.stream, u32::from(n >= 40));
        // Against a neighbour it would be far below 30 dB.
        assert!(shown.psnr_db.unwrap() > 35.0, "picture {n}: {shown:?}");
    }
    let showing = showing(&mut record);
    assert_eq!(showing.pictures, 60);
    assert!(showing.latency_ms_mean.is_some());
    assert_eq!(
        super::showing(&mut record).latency_ms_mean,
        None,
        "each picture is told once"
    );

    let mut recorded = Pictures::open(&Clip {
        file: Some(options.video.clone()),
        size: None,
        pattern_seconds: None,
    })
    .unwrap();
    let count = std::iter::from_fn(|| recorded.read().unwrap()).count();
    assert_eq!(count, 59, "all but the one without a number");
    std::fs::remove_file(&options.video).unwrap();
}
