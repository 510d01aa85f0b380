// SPDX-License-Identifier: MPL-2.0
//! Audio beside video: that it arrives, and that a beep is heard when its flash
//! is seen.

mod common;
mod lip;

use common::*;
use lip::*;

/// ITU-R BT.1359 finds 45 ms of sound ahead and 125 ms behind detectable.
const BOUND_MS: f64 = 20.0;

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
    eprintln!("{what}: {skews:.1?}");
    let late = &skews[SETTLE.min(skews.len())..];
    assert!(late.len() >= 4, "{what}: {skews:?}");
    for skew in late {
        assert!(
            skew.stamp.abs() <= BOUND_MS,
            "{what}: {skew:?} of {skews:?}"
        );
    }
    let mut real: Vec<f64> = late.iter().map(|skew| skew.real).collect();
    real.sort_by(f64::total_cmp);
    let median = real[real.len() / 2];
    assert!(median.abs() <= BOUND_MS, "{what}: {median} ms, {skews:?}");
}

#[test]
fn a_beep_is_heard_when_its_flash_is_seen_at_three_percent_loss() {
    let sender = av_sender("").play();
    let feeder = Feeder::start(&sender);
    let receiver = av_receiver(&uri(&sender, "sink"));
    follow_latency(&receiver);
    let lost = lose(&receiver, 30);
    let recorder = record(&receiver);
    let receiver = receiver.play();
    wait_seconds(&recorder, 14);
    assert!(lost.load(std::sync::atomic::Ordering::Relaxed) > 20);
    assert_in_step(&recorder, "ours to ours");
    drop(feeder);
}
