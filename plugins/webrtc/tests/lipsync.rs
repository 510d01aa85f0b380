// SPDX-License-Identifier: MPL-2.0
//! Audio beside video: that it arrives, and that a beep is heard when its flash
//! is seen.

mod common;
mod lip;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;
use lip::*;

const BOUND_MS: f64 = 20.0;
/// ITU-R BT.1359 finds 45 ms of sound ahead and 125 ms behind detectable. For
/// senders that tell the time of capture in sender reports only.
const DETECTABLE_MS: std::ops::Range<f64> = -45.0..125.0;

const SENDER: &str = "dualwebrtcsink name=sink run-signalling-server=true \
     signalling-server-host=127.0.0.1 signalling-server-port=0";

fn av_sender(properties: &str) -> Pipeline {
    Pipeline::new(&format!(
        "{SOURCES} {SENDER} {properties} encoder::bitrate=800000 \
         video. ! sink.sink audio. ! sink.audio"
    ))
}

const SINKS: &str = "src.src ! videoconvert ! video/x-raw,format=I420 ! appsink name=flash sync=true \
     src.audio ! audioconvert ! audio/x-raw,format=S16LE,channels=2,rate=48000 ! appsink name=beep sync=true";

fn av_receiver(uri: &str) -> Pipeline {
    Pipeline::new(&format!(
        "dualwebrtcsrc name=src signaller::uri={uri} {SINKS}"
    ))
}

/// After the delays have been learnt.
const SETTLE: usize = 4;

#[track_caller]
fn assert_in_step(recorder: &Recorder, what: &str) {
    let skews = recorder.skews();
    let late = &skews[SETTLE.min(skews.len())..];
    assert!(late.len() >= 4, "{what}: {skews:?}");
    // A picture that is late is shown when it is there.
    let beside = |skew: &&Skew| skew.stamp.abs() > BOUND_MS;
    let beside = late.iter().filter(beside).count();
    assert!(beside * 5 <= late.len(), "{what}: {beside} of {skews:?}");
    let mut real: Vec<f64> = late.iter().map(|skew| skew.real).collect();
    real.sort_by(f64::total_cmp);
    let median = real[real.len() / 2];
    assert!(median.abs() <= BOUND_MS, "{what}: {median} ms, {skews:?}");
}

/// Runs until so many flashes and beeps were there.
fn run(properties: &str, per_mille: u64, seconds: usize) -> (Pipeline, Pipeline, Arc<Recorder>) {
    let sender = av_sender(properties).play();
    let feeder = Feeder::start(&sender);
    let receiver = av_receiver(&uri(&sender, "sink"));
    follow_latency(&receiver);
    let lost = lose(&receiver, per_mille);
    let recorder = record(&receiver);
    let receiver = receiver.play();
    wait_seconds(&recorder, seconds);
    let lost = lost.load(Ordering::Relaxed);
    // Some 135 packets a second.
    assert!(lost as usize >= per_mille as usize * seconds / 20, "{lost}");
    drop(feeder);
    (sender, receiver, recorder)
}

fn audio(sender: &Pipeline, field: &str) -> u64 {
    let audio: gst::Structure = sender.stats("sink").get("audio").unwrap();
    audio.get(field).unwrap()
}

#[test]
fn a_beep_is_heard_when_its_flash_is_seen_at_three_percent_loss() {
    let (sender, receiver, recorder) = run("", 30, 14);
    assert_in_step(&recorder, "ours to ours");
    // Nothing is missing for long: lost packets are made good or concealed.
    let steps = recorder.steps.lock().unwrap().clone();
    let played = recorder.samples.load(Ordering::Relaxed) as f64 / 48_000.0;
    assert!(played > 12.0, "{played} s of sound");
    let gaps: i64 = steps.iter().filter(|step| **step > 10_000_000).sum();
    assert!(gaps < 500_000_000, "{gaps} ns of silence");
    // 128 kbit/s in packets of 10 ms, with their headers.
    let share = audio(&sender, "share");
    assert!((165_000..195_000).contains(&share), "{share} bit/s");
    // Audio left the pacer first.
    let pacer: gst::Structure = sender.stats("sink").get("pacer").unwrap();
    let of_audio: gst::Structure = pacer.get("audio").unwrap();
    assert!(of_audio.get::<u64>("sent-packets").unwrap() > 1000);
    // The estimate leaves room for it: 800 kbit/s of video and audio.
    let estimator: gst::Structure = sender.stats("sink").get("estimator").unwrap();
    let target = estimator.get::<u64>("target-bitrate").unwrap();
    assert!(target <= 800_000 + 195_000, "{target} bit/s");
    receiver.assert_no_error();
    sender.assert_no_error();
}

/// What decoders get: the packets of Opus begin with their mode (RFC 6716
/// section 3.1), 16 and above is CELT, which has no FEC.
fn modes(sender: &Pipeline) -> Arc<Mutex<Vec<u8>>> {
    let modes = Arc::<Mutex<Vec<u8>>>::default();
    let seen = modes.clone();
    sender.0.connect_deep_element_added(move |_, _, element| {
        if element.factory().is_some_and(|f| f.name() == "rtpopuspay") {
            let seen = seen.clone();
            let pad = element.static_pad("sink").unwrap();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let map = info.buffer().unwrap().map_readable().unwrap();
                seen.lock().unwrap().push(map[0] >> 3);
                gst::PadProbeReturn::Ok
            });
        }
    });
    modes
}

#[test]
fn the_encoder_makes_fec_while_packets_are_lost_and_only_then() {
    for (per_mille, fec, wanted) in [(0, "auto", false), (50, "auto", true), (0, "on", true)] {
        let sender = av_sender(&format!("audio-fec={fec}"));
        let modes = modes(&sender);
        let sender = sender.play();
        let _feeder = Feeder::start(&sender);
        let receiver = av_receiver(&uri(&sender, "sink"));
        lose(&receiver, per_mille);
        let recorder = record(&receiver);
        let _receiver = receiver.play();
        if wanted {
            wait_for("FEC", || {
                let audio: gst::Structure = sender.stats("sink").get("audio").unwrap();
                audio.get::<bool>("fec").unwrap()
            });
        }
        let before = recorder.beeps.lock().unwrap().len();
        wait_seconds(&recorder, before + 5);
        let all = modes.lock().unwrap().clone();
        assert!(all.len() > 300, "{} packets", all.len());
        let last = &all[all.len() - 50..];
        let celt = last.iter().filter(|mode| **mode >= 16).count();
        // The encoder may still code single packets without.
        if wanted {
            assert!(celt < 25, "{per_mille} {fec}: {last:?}");
        } else {
            assert_eq!(celt, 50, "{per_mille} {fec}: {last:?}");
        }
    }
}

#[test]
fn opus_passes_as_it_is() {
    let sender = Pipeline::new(&format!(
        "{LIVE} ! {SENDER} encoder::bitrate=500000 \
         audiotestsrc is-live=true samplesperbuffer=480 ! audio/x-raw,rate=48000,channels=1 ! \
         opusenc frame-size=20 bitrate=32000 ! sink.audio"
    ))
    .play();
    let receiver = Pipeline::new(&format!(
        "dualwebrtcsrc name=src signaller::uri={} src.src ! fakesink name=out \
         src.audio ! fakesink name=heard",
        uri(&sender, "sink")
    ));
    let (seen, heard) = (receiver.watch("out"), receiver.watch("heard"));
    let receiver = receiver.play();
    wait_for("sound", || heard.count() >= 100 && seen.count() >= 30);
    // 32 kbit/s and 50 packets a second.
    let share = audio(&sender, "share");
    assert!((40_000..80_000).contains(&share), "{share} bit/s");
    receiver.assert_no_error();
    sender.assert_no_error();
}

#[test]
fn a_receiver_without_a_place_for_sound_gets_the_pictures() {
    let sender = av_sender("").play();
    let _feeder = Feeder::start(&sender);
    let receiver = receiver(&uri(&sender, "sink"), "");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 60);
    receiver.assert_no_error();
}

#[test]
fn the_stream_ends_when_both_have_ended() {
    let sender = Pipeline::new(&format!(
        "videotestsrc num-buffers=30 ! video/x-raw,width=320,height=180,framerate=30/1 ! \
         {SENDER} wait-for-receiver=true \
         audiotestsrc num-buffers=200 samplesperbuffer=480 ! audio/x-raw,rate=48000 ! sink.audio"
    ))
    .play();
    let receiver = Pipeline::new(&format!(
        "dualwebrtcsrc name=src signaller::uri={} src.src ! fakesink name=out sync=false \
         src.audio ! fakesink name=heard sync=false",
        uri(&sender, "sink")
    ));
    let (seen, heard) = (receiver.watch("out"), receiver.watch("heard"));
    let receiver = receiver.play();
    sender.wait_eos();
    receiver.wait_eos();
    assert_eq!(seen.count(), 30);
    // 2 s in packets of 10 ms; the first may come before the pad is linked.
    assert!(heard.count() >= 190, "{}", heard.count());
}

fn init_foreign() {
    init();
    static INIT: std::sync::Once = std::sync::Once::new();
    INIT.call_once(|| {
        gstrswebrtc::plugin_register_static().unwrap();
        // It warns where no estimator is installed.
        gst::glib::log_set_always_fatal(gst::glib::LogLevels::LEVEL_CRITICAL);
    });
}

#[test]
fn a_foreign_receiver_keeps_our_sound_in_step() {
    init_foreign();
    let sender = av_sender("").play();
    let _feeder = Feeder::start(&sender);
    wait_for("registration", || sender.stat::<bool>("sink", "signalling"));
    let foreign = Pipeline::new(&format!(
        "webrtcsrc name=src connect-to-first-producer=true signaller::uri={} {}",
        uri(&sender, "sink"),
        SINKS
            .replace("src.src", "src.video_0")
            .replace("src.audio ", "src.audio_0 ")
    ));
    foreign
        .element("src")
        .set_property("stun-server", None::<String>);
    follow_latency(&foreign);
    lose(&foreign, 30);
    let recorder = record(&foreign);
    let _foreign = foreign.play();
    // rtpbin puts it right with the sender reports, some 5 s apart.
    wait_seconds(&recorder, 20);
    let late = recorder.skews().split_off(12);
    let mut real: Vec<f64> = late.iter().map(|skew| skew.stamp).collect();
    real.sort_by(f64::total_cmp);
    assert!(real[real.len() / 2].abs() <= BOUND_MS, "{late:?}");
}

#[test]
fn sound_of_a_foreign_sender_is_kept_in_step() {
    init_foreign();
    let receiver = Pipeline::new(&format!(
        "dualwebrtcsrc name=src run-signalling-server=true signalling-server-host=127.0.0.1 \
         signalling-server-port=0 {SINKS}"
    ));
    follow_latency(&receiver);
    lose(&receiver, 30);
    let recorder = record(&receiver);
    let receiver = receiver.play();
    let foreign = Pipeline::new(&format!(
        "{SOURCES} webrtcsink name=foreign video-caps=video/x-h264 signaller::uri={} \
         video. ! foreign.video_0 audio. ! foreign.audio_0",
        uri(&receiver, "src")
    ));
    foreign
        .element("foreign")
        .set_property("stun-server", None::<String>);
    // Stopping webrtcsink's signaller may wait for ever, so it ends with the
    // process.
    let foreign = std::mem::ManuallyDrop::new(foreign.play());
    let _feeder = Feeder::start(&foreign);
    wait_seconds(&recorder, 20);
    let late = recorder.skews().split_off(10);
    let mut real: Vec<f64> = late.iter().map(|skew| skew.stamp).collect();
    real.sort_by(f64::total_cmp);
    let median = real[real.len() / 2];
    assert!(DETECTABLE_MS.contains(&median), "{late:?}");
}

/// Five minutes at 3 % loss; by hand, for it takes that long:
/// `cargo test -p gst-plugin-dualwebrtc --test lipsync -- --ignored --nocapture`
#[test]
#[ignore = "takes five minutes"]
#[allow(clippy::print_stderr)] // the figures are what it is run for
fn sound_and_pictures_do_not_drift_apart_in_five_minutes() {
    let (sender, _receiver, recorder) = run("", 30, 300);
    let stamps = |skews: &[Skew]| {
        let mut stamps: Vec<f64> = skews.iter().map(|skew| skew.stamp).collect();
        stamps.sort_by(f64::total_cmp);
        stamps
    };
    let at = |stamps: &[f64], percent| stamps[(stamps.len() - 1) * percent / 100];
    let skews = recorder.skews().split_off(SETTLE);
    let mut medians = Vec::new();
    for (minute, skews) in skews.chunks(60).enumerate() {
        let stamps = stamps(skews);
        let [p5, p50, p95] = [5, 50, 95].map(|percent| at(&stamps, percent));
        let [least, most] = [0, 100].map(|percent| at(&stamps, percent));
        eprintln!(
            "minute {minute}: {least:.1}, p5 {p5:.1}, median {p50:.1}, p95 {p95:.1}, {most:.1} ms"
        );
        medians.push(p50);
    }
    let all = stamps(&skews);
    let (p5, p95) = (at(&all, 5), at(&all, 95));
    eprintln!("all: p5 {p5:.1}, p95 {p95:.1} ms");
    assert!(p5 >= -BOUND_MS && p95 <= BOUND_MS, "{all:?}");
    for median in &medians {
        assert!((median - medians[0]).abs() < 5.0, "drift: {medians:?}");
    }
    let played = recorder.samples.load(Ordering::Relaxed) as f64 / 48_000.0;
    eprintln!(
        "{played:.1} s of sound; {:?}",
        sender.stats("sink").value("audio")
    );
    assert!(played > 295.0, "{played} s");
}
