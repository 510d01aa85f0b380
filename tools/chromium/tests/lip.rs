// SPDX-License-Identifier: MPL-2.0
//! Lip sync with Chromium, both ways: a flash and a beep that begin together,
//! with 3 % of the packets lost at our end. `LIP_SECONDS` runs for longer, and
//! `LIP_REPORT=file` takes the figures down.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dualstream_chromium::browser::{self, Browser, Role, SetUp};
use dualstream_chromium::link::Link;
use dualstream_chromium::session::{self, Direction};
use dualstream_common::Ratio;
use gst::prelude::*;
use serde::Deserialize;

mod common {
    use gst::prelude::*;

    /// Goes to NULL when it is dropped.
    pub struct Pipeline(pub gst::Pipeline);

    impl Pipeline {
        pub fn new(description: &str) -> Self {
            let pipeline = gst::parse::launch(description).expect("the elements are there");
            Self(pipeline.downcast().expect("several elements"))
        }

        pub fn element(&self, name: &str) -> gst::Element {
            self.0.by_name(name).expect("it was named")
        }

        pub fn play(self) -> Self {
            let playing = self.0.set_state(gst::State::Playing);
            playing.expect("the pipeline starts");
            self
        }
    }

    impl Drop for Pipeline {
        fn drop(&mut self) {
            let _ = self.0.set_state(gst::State::Null);
        }
    }
}

#[allow(dead_code)] // of the tests of our own elements, which use all of it
#[path = "../../../plugins/webrtc/tests/lip/mod.rs"]
mod lip;

use common::Pipeline;

const PAGE: &str = include_str!("lip.html");
const LOSS: f64 = 0.03;
/// Beeps after which the delays have been learnt.
const SETTLE: usize = 3;
const SECONDS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(40);
const BOUND_MS: f64 = 20.0;
/// ITU-R BT.1359 finds 45 ms of sound ahead and 125 ms behind detectable.
const DETECTABLE_MS: std::ops::Range<f64> = -45.0..125.0;
const CAPTURE: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
const TIMING: &str = "http://www.webrtc.org/experiments/rtp-hdrext/video-timing";

const SERVER: &str = "run-signalling-server=true signalling-server-host=127.0.0.1 \
     signalling-server-port=0";

/// What the page says, in ms.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Line {
    taken: Option<f64>,
    flash: Option<f64>,
    made_flash: Option<f64>,
    made_beep: Option<f64>,
    estimate: Option<f64>,
    captured: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Heard {
    flashes: Vec<f64>,
    /// Taken out of the jitter buffer, the delay of the device not counted.
    taken: Vec<f64>,
    made_flashes: Vec<f64>,
    made_beeps: Vec<f64>,
    estimates: Vec<f64>,
    captured: Vec<String>,
}

type Page = (Browser, Arc<Mutex<Heard>>);

fn open(element: &gst::Element, role: Role) -> Page {
    let signaller: gst::glib::Object = element.property("signaller");
    let uri: String = signaller.property("uri");
    let port = uri.trim_end_matches('/').rsplit(':').next();
    let heard = Arc::<Mutex<Heard>>::default();
    let hears = heard.clone();
    let set_up = SetUp {
        role,
        signalling: port.and_then(|port| port.parse().ok()).expect("a port"),
        flexfec: false,
        nack: true,
        kbps: 800,
        link: Link::Direct,
    };
    let browser = Browser::with_page(&set_up, PAGE, move |text| {
        let Ok(line) = serde_json::from_str::<Line>(text) else {
            return;
        };
        let mut heard = hears.lock().expect("nobody panics with it");
        heard.flashes.extend(line.flash);
        heard.taken.extend(line.taken);
        heard.made_flashes.extend(line.made_flash);
        heard.made_beeps.extend(line.made_beep);
        heard.estimates.extend(line.estimate);
        heard.captured.extend(line.captured);
    });
    (browser.expect("Chromium starts"), heard)
}

fn there() -> bool {
    let there = browser::find().is_some();
    if !there {
        // Not lost in what the harness captures.
        let _ = writeln!(std::io::stderr(), "skipped: chromium not installed");
    }
    there
}

fn seconds() -> usize {
    let text = std::env::var("LIP_SECONDS").unwrap_or_default();
    text.parse().unwrap_or(SECONDS)
}

/// Until `count` gives so many seconds.
fn wait(browser: &Browser, count: impl Fn() -> usize) {
    let seconds = seconds() + SETTLE;
    let end = Instant::now() + PATIENCE + Duration::from_secs(seconds as u64);
    while count() < seconds {
        let report = browser.report();
        assert!(report.error.is_none(), "{report:?}");
        assert!(Instant::now() < end, "{} seconds, {report:?}", count());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Each beep less the flash that is nearest to it.
fn skews(beeps: &[f64], flashes: &[f64]) -> Vec<f64> {
    let nearest = |beep: &f64| {
        let skews = flashes.iter().map(|flash| beep - flash);
        skews.min_by(|a, b| a.abs().total_cmp(&b.abs()))
    };
    let skews = beeps.iter().filter_map(nearest);
    skews.filter(|skew| skew.abs() < 500.0).collect()
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    assert!(!sorted.is_empty(), "nothing was seen and heard together");
    sorted[(sorted.len() - 1) * percent / 100]
}

/// For the figures of docs/audio.md.
fn report(what: &str, values: &[f64]) {
    let Some(path) = std::env::var_os("LIP_REPORT") else {
        return;
    };
    let [least, p5, p50, p95, most] = [0, 5, 50, 95, 100].map(|p| percentile(values, p));
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path);
    if let Ok(mut file) = file {
        let _ = writeln!(
            file,
            "{what}, {} values: {least:.1}, p5 {p5:.1}, median {p50:.1}, p95 {p95:.1}, {most:.1} ms",
            values.len()
        );
        let _ = writeln!(file, "  {values:.0?}");
    }
}

/// How often a description names a header extension.
fn named(description: Option<&String>, uri: &str) -> usize {
    let text = description.map(String::as_str).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with("a=extmap:"));
    lines.filter(|line| line.ends_with(uri)).count()
}

#[test]
fn chromium_hears_our_beep_when_it_sees_our_flash() {
    if !there() {
        return;
    }
    session::init();
    let sender = Pipeline::new(&format!(
        "{} dualwebrtcsink name=peer {SERVER} encoder::bitrate=800000 \
         video. ! peer.sink audio. ! peer.audio",
        lip::SOURCES
    ));
    let peer = sender.element("peer");
    session::drop_packets(&peer, Direction::ToChromium, Ratio::clamped(LOSS));
    let sender = sender.play();
    let _feeder = lip::Feeder::start(&sender);
    let (browser, heard) = open(&peer, Role::Receive);
    wait(&browser, || heard.lock().unwrap().taken.len());
    let heard = heard.lock().unwrap().clone();
    let after = |values: &[f64]| values[SETTLE.min(values.len())..].to_vec();
    let taken = after(&skews(&heard.taken, &heard.flashes));
    // Two a second.
    let estimates = after(&after(&heard.estimates));
    report("to Chromium, beep less flash before the device", &taken);
    report("to Chromium, its own estimate", &estimates);
    assert!(taken.len() + 1 >= seconds(), "{heard:?}");
    // It takes half a minute to bring them together.
    for values in [&taken, &estimates] {
        let median = percentile(values, 50);
        assert!(DETECTABLE_MS.contains(&median), "{median} ms: {values:?}");
    }
    // It takes what we offer, and uses it.
    let answer = browser.report().local;
    assert!(named(answer.as_ref(), CAPTURE) >= 2, "{answer:?}");
    assert!(named(answer.as_ref(), TIMING) >= 1, "{answer:?}");
    for kind in ["audio", "video"] {
        assert!(heard.captured.iter().any(|k| k == kind), "{heard:?}");
    }
}

#[test]
fn chromium_s_beep_is_heard_when_its_flash_is_seen() {
    if !there() {
        return;
    }
    session::init();
    let receiver = Pipeline::new(&format!(
        "dualwebrtcsrc name=peer {SERVER} \
         peer.src ! videoconvert ! video/x-raw,format=I420 ! appsink name=flash sync=true \
         peer.audio ! audioconvert ! audioresample ! \
         audio/x-raw,format=S16LE,channels=2,rate=48000 ! appsink name=beep sync=true"
    ));
    lip::follow_latency(&receiver);
    lip::lose(&receiver, (LOSS * 1000.0) as u64);
    let recorder = lip::record(&receiver);
    let receiver = receiver.play();
    let peer = receiver.element("peer");
    let (browser, heard) = open(&peer, Role::Send);
    wait(&browser, || recorder.skews().len());
    let heard = heard.lock().unwrap().clone();
    let made = skews(&heard.made_beeps, &heard.made_flashes);
    let all: Vec<f64> = recorder.skews().iter().map(|skew| skew.real).collect();
    let late = &all[SETTLE..];
    report("from Chromium, made", &made);
    report("from Chromium, beep less flash", late);
    let median = percentile(late, 50);
    assert!(median.abs() <= BOUND_MS, "{late:?}, made {made:?}");
    // A picture or a sound that is late is there when it is there.
    let beside = |skew: &&f64| !DETECTABLE_MS.contains(skew);
    let beside = late.iter().filter(beside).count();
    assert!(beside * 5 <= late.len(), "{late:?}, made {made:?}");
    // Sound that Chromium does not send again must not keep pictures from it.
    let stats: gst::Structure = peer.property("stats");
    let buffer: gst::Structure = stats.get("jitterbuffer-0").unwrap();
    assert!(
        buffer.get::<u64>("rtx-success-count").unwrap() > 0,
        "{buffer}"
    );
    // It offers no time of capture by itself: sender reports tell it.
    let offer = browser.report().local;
    assert_eq!(named(offer.as_ref(), CAPTURE), 0, "{offer:?}");
    assert_eq!(named(offer.as_ref(), TIMING), 1, "{offer:?}");
}
