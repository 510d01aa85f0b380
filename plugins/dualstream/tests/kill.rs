// SPDX-License-Identifier: MPL-2.0
//! An encoder dies in mid-stream, and what the viewer sees of it. A file of
//! its own, because it takes the name of x264enc in its whole process.

mod stand_in;

use gst::prelude::*;
use stand_in::OnChange;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

fn x264_properties() -> Vec<gst::glib::ParamSpec> {
    let uint = |name: &str, most: u32, default: u32| {
        gst::glib::ParamSpecUInt::builder(name)
            .maximum(most)
            .default_value(default)
            .mutable_playing()
            .build()
    };
    vec![
        uint("bitrate", 2_048_000, 2048),
        uint("vbv-buf-capacity", 10_000, 600),
        uint("key-int-max", i32::MAX as u32, 0),
    ]
}

stand_in!(
    x264,
    "StandInX264",
    Spec {
        factory: "x264enc",
        memory: &[],
        bitrate: "bitrate",
        unit: 1000,
        buffer: Some("vbv-buf-capacity"),
        on_change: super::OnChange::InPlace,
        controls: false,
        key_control: None,
        avc: false,
        properties: super::x264_properties,
    }
);

const PICTURES: usize = 200;

/// Numbers of the pictures shown, and the encoder's stats.
fn run(fail_after: u32, second: bool) -> (Vec<u16>, gst::Structure, usize) {
    let second = if second {
        "e.src_1 ! queue ! d.sink_1"
    } else {
        ""
    };
    x264::KNOBS.fail_after.store(fail_after, Ordering::SeqCst);
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc is-live=true pattern=ball num-buffers={PICTURES} \
         ! video/x-raw,format=NV12,width=320,height=180,framerate=60/1 \
         ! dualh264enc name=e bitrate=800000 \
         dualh264dec name=d ! appsink name=s sync=false \
         e.src_0 ! queue ! d.sink_0 {second}"
    ))
    .expect("the pipeline")
    .downcast::<gst::Pipeline>()
    .expect("a pipeline");
    let shown = Arc::new(Mutex::new(Vec::new()));
    let sink: gst_app::AppSink = pipeline.by_name("s").and_downcast().expect("appsink");
    let list = shown.clone();
    let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let tag = sample.buffer().and_then(gstdualstream::meta::of);
        list.lock().unwrap().extend(tag.map(|tag| tag.number));
        Ok(gst::FlowSuccess::Ok)
    });
    sink.set_callbacks(callbacks.build());
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
    let bus = pipeline.bus().expect("a bus");
    let kinds = [
        gst::MessageType::Eos,
        gst::MessageType::Error,
        gst::MessageType::Warning,
    ];
    let mut warnings = 0;
    loop {
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(30), &kinds);
        let message = message.expect("EOS in time");
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Warning(_) => warnings += 1,
            other => panic!("{other:?}"),
        }
    }
    let encoder = pipeline.by_name("e").expect("the encoder");
    let stats: gst::Structure = encoder.property("stats");
    pipeline.set_state(gst::State::Null).expect("NULL");
    let shown = shown.lock().unwrap().clone();
    (shown, stats, warnings)
}

#[test]
fn an_encoder_that_dies_costs_at_most_five_frames_and_one_key_frame() {
    gst::init().expect("GStreamer");
    gstdualstream::plugin_register_static().expect("the plugin");
    std::sync::LazyLock::force(&stand_in::X264);
    x264::register(gst::Rank::PRIMARY);
    // The trial's ten pictures count, too; it is made with the first run.
    for (fail_after, second) in [(110, false), (100, true)] {
        let (shown, stats, warnings) = run(fail_after, second);
        let lost = PICTURES - shown.len();
        assert!(lost <= 5, "{lost} pictures lost: {stats}");
        assert!(shown.windows(2).all(|two| two[0] < two[1]), "in order");
        assert_eq!(shown.last(), Some(&(PICTURES as u16 - 1)));
        let stat = |field: &str| stats.get::<u64>(field).expect("a counter");
        // The first one, and the new encoder's.
        assert_eq!(stat("display-key-frames"), 2, "{stats}");
        assert_eq!(stat("unexpected-key-frames"), 0, "{stats}");
        assert_eq!(stat("encoder-failures"), 1, "{stats}");
        let names = ["encoder-0", "encoder-1"].map(|name| stats.get::<String>(name).unwrap());
        assert!(names.contains(&"openh264enc".to_owned()), "{names:?}");
        assert_eq!(warnings, 1, "the user is told");
    }
    // With no failure there is nothing of it: the test would else pass alone.
    let (shown, stats, warnings) = run(u32::MAX, false);
    assert_eq!((shown.len(), warnings), (PICTURES, 0));
    assert_eq!(stats.get::<u64>("display-key-frames"), Ok(1));
    assert_eq!(stats.get::<&str>("encoder"), Ok("x264enc"));
}
