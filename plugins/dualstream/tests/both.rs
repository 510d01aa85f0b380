// SPDX-License-Identifier: MPL-2.0
//! `dualh264enc` straight into `dualh264dec`: the elements without a network,
//! so that one event at a time can be lost.

use gst::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const FPS: u64 = 30;

struct Run {
    shown: Vec<u16>,
    switches: u64,
    display_key_frames: u64,
    messages: usize,
}

fn wait_for_end(pipeline: &gst::Pipeline) {
    let begin = Instant::now();
    let message = pipeline
        .bus()
        .expect("a bus")
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(30),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("EOS in time");
    assert!(
        matches!(message.view(), gst::MessageView::Eos(_)),
        "{message:?} after {:?}",
        begin.elapsed()
    );
}

/// How long the decoder waits for pictures of the other stream, in ms. By its own
/// 60 ms it gives up what a decoder has not come to on a busy machine, here where
/// several runs are at work at a time.
const PATIENCE: u32 = 5000;

/// Encodes and decodes for real, `pictures` pictures at normal pace, and loses
/// the frame-complete event with number `lost`.
fn run(pictures: usize, lost: Option<usize>) -> Run {
    gst::init().expect("GStreamer");
    gstdualstream::plugin_register_static().expect("the plugin");
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc is-live=true pattern=ball num-buffers={pictures} \
         ! video/x-raw,width=320,height=180,framerate={FPS}/1 \
         ! dualh264enc name=e bitrate=600000 refresh-interval=500 \
         dualh264dec name=d reorder-wait={PATIENCE} ! appsink name=s sync=false \
         e.src_0 ! queue name=q0 ! d.sink_0  e.src_1 ! queue name=q1 ! d.sink_1"
    ))
    .expect("the pipeline")
    .downcast::<gst::Pipeline>()
    .expect("a pipeline");
    let messages = Arc::new(AtomicUsize::new(0));
    for name in ["q0", "q1"] {
        let pad = pipeline.by_name(name).expect("a queue").static_pad("src");
        let messages = messages.clone();
        pad.expect("its pad")
            .add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
                let ours = info
                    .event()
                    .and_then(|event| event.structure())
                    .is_some_and(|s| s.name() == "application/x-frame-complete");
                if ours && Some(messages.fetch_add(1, Ordering::Relaxed)) == lost {
                    return gst::PadProbeReturn::Handled;
                }
                gst::PadProbeReturn::Ok
            });
    }
    let shown = collect(&pipeline, "s");
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
    let encoder = pipeline.by_name("e").expect("the encoder");
    wait_for_end(&pipeline);
    let stats: gst::Structure = encoder.property("stats");
    let stat = |field: &str| stats.get::<u64>(field).expect("a counter");
    let (switches, display_key_frames) = (stat("switches"), stat("display-key-frames"));
    pipeline.set_state(gst::State::Null).expect("NULL");
    let shown = shown.lock().unwrap().clone();
    Run {
        shown,
        switches,
        display_key_frames,
        messages: messages.load(Ordering::Relaxed),
    }
}

fn assert_whole(run: &Run, pictures: usize, what: &str) {
    let all: Vec<u16> = (0..pictures as u16).collect();
    assert_eq!(run.shown, all, "{what}: each picture once, in order");
    assert_eq!(run.display_key_frames, 1, "{what}");
}

#[test]
fn each_lost_event_in_turn_delays_and_never_breaks_a_switch() {
    const PICTURES: usize = 70;
    let clean = run(PICTURES, None);
    assert_whole(&clean, PICTURES, "nothing lost");
    assert!(clean.switches >= 2, "{}", clean.switches);
    // The messages up to the second switch; later ones are like them.
    let messages = clean.messages.min(8);
    assert!(messages >= 4, "{messages}");
    let runs: Vec<_> = (0..messages)
        .map(|lost| std::thread::spawn(move || run(PICTURES, Some(lost))))
        .collect();
    for (lost, run) in runs.into_iter().enumerate() {
        let run = run.join().expect("the run ends");
        assert_whole(&run, PICTURES, &format!("event {lost} lost"));
        assert!(
            run.switches + 1 >= clean.switches,
            "event {lost} lost: {} switches, not {}",
            run.switches,
            clean.switches
        );
    }
}

/// Collects the numbers of the pictures that come to the appsink `name`.
fn collect(pipeline: &gst::Pipeline, name: &str) -> Arc<Mutex<Vec<u16>>> {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let sink: gst_app::AppSink = pipeline.by_name(name).and_downcast().expect("appsink");
    let list = shown.clone();
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
                if let Some(tag) = gstdualstream::meta::of(buffer) {
                    list.lock().unwrap().push(tag.number);
                }
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
    shown
}

/// A second receiver comes when the first has watched for a while.
#[test]
fn a_late_joiner_is_served_in_the_background() {
    const PICTURES: usize = 180;
    const JOINS: u16 = 60;
    const BITRATE: usize = 600_000;
    gst::init().expect("GStreamer");
    gstdualstream::plugin_register_static().expect("the plugin");
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc is-live=true pattern=ball num-buffers={PICTURES} \
         ! video/x-raw,width=320,height=180,framerate={FPS}/1 \
         ! dualh264enc name=e bitrate={BITRATE} warm-interval=0 \
         dualh264dec name=d ! appsink name=s sync=false \
         dualh264dec name=late ! appsink name=ls sync=false async=false \
         e.src_0 ! tee name=t0 ! queue ! d.sink_0  e.src_1 ! tee name=t1 ! queue ! d.sink_1 \
         t0. ! queue ! valve name=v0 drop=true drop-mode=forward-sticky-events ! late.sink_0 \
         t1. ! queue ! valve name=v1 drop=true drop-mode=forward-sticky-events ! late.sink_1"
    ))
    .expect("the pipeline")
    .downcast::<gst::Pipeline>()
    .expect("a pipeline");
    let encoder = pipeline.by_name("e").expect("the encoder");
    let valves = ["v0", "v1"].map(|name| pipeline.by_name(name).expect("a valve"));
    // Number and size of each display frame; the joiner's way opens with one.
    let sizes = Arc::new(Mutex::new(Vec::new()));
    for name in ["src_0", "src_1"] {
        let (sizes, valves) = (sizes.clone(), valves.clone());
        let pad = encoder.static_pad(name).expect("a pad");
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer()
                && let Some(tag) = gstdualstream::meta::of(buffer)
                && !tag.background
            {
                sizes.lock().unwrap().push((tag.number, buffer.size()));
                if tag.number == JOINS {
                    for valve in &valves {
                        valve.set_property("drop", false);
                    }
                }
            }
            gst::PadProbeReturn::Ok
        });
    }
    let (watched, joined) = (collect(&pipeline, "s"), collect(&pipeline, "ls"));
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
    wait_for_end(&pipeline);
    let stats: gst::Structure = encoder.property("stats");
    pipeline.set_state(gst::State::Null).expect("NULL");

    // Who watches sees nothing of it: no key frame, no large frame.
    let all: Vec<u16> = (0..PICTURES as u16).collect();
    assert_eq!(*watched.lock().unwrap(), all);
    assert_eq!(stats.get::<u64>("display-key-frames"), Ok(1));
    assert!(stats.get::<u64>("background-key-frames").unwrap() >= 1);
    let frame = BITRATE / 8 / FPS as usize;
    let largest = sizes.lock().unwrap().iter().skip(20).map(|s| s.1).max();
    assert!(
        largest.is_some_and(|size| size < frame * 5 / 4),
        "{largest:?}"
    );
    // Who joins sees whole pictures soon, and misses none from then on.
    let joined = joined.lock().unwrap();
    let whole = stats.get::<u64>("switches").unwrap();
    assert!(whole >= 1, "the joiner's request was served");
    assert_eq!(joined.last(), Some(&(PICTURES as u16 - 1)));
    assert!(joined.len() >= PICTURES - usize::from(JOINS) - 60);
    assert!(joined.windows(2).skip(60).all(|two| two[1] == two[0] + 1));
}
