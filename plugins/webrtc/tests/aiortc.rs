// SPDX-License-Identifier: MPL-2.0
//! aiortc as a peer: tools/aiortc/peer.py in a process of its own. It knows
//! neither dual stream nor transport-wide feedback nor FEC, and estimates by
//! REMB. Skipped where ci/install-deps.sh could not install it.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use gst::prelude::*;
use serde_json::Value;

/// Where ci/install-deps.sh puts it.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let python = cache.join("gst-dualstream/aiortc/bin/python");
    if python.exists() {
        return Some(python);
    }
    let _ = writeln!(
        std::io::stderr(),
        "skipped: aiortc not installed (ci/install-deps.sh check)"
    );
    None
}

/// The process, and what it says.
struct Peer {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Peer {
    fn start(python: &Path, uri: &str, options: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/aiortc/peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .args(["--uri", uri])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines }
    }

    /// Its next line of statistics.
    #[track_caller]
    fn next(&self) -> Value {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the peer is silent")
    }

    /// Waits for a line that is as wanted.
    #[track_caller]
    fn wait(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + limit;
        loop {
            let line = self.next();
            if wanted(&line) {
                return line;
            }
            assert!(
                Instant::now() < end && !line["done"].is_boolean(),
                "{what}: {line}"
            );
        }
    }

    /// Its REMB says no more than this, in bit/s; 0: what it estimates.
    fn limit(&mut self, bps: u64) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{bps}").unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(line: &Value, field: &str) -> u64 {
    line[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} in {line}"))
}

/// A field of the estimator's statistics.
fn estimate<T>(sender: &Pipeline, field: &str) -> T
where
    for<'a> T: gst::glib::value::FromValue<'a> + 'static,
{
    let stats: gst::Structure = sender.stats("sink").get("estimator").unwrap();
    stats.get(field).unwrap()
}

/// For each step; most take three seconds.
const LIMIT: Duration = Duration::from_secs(20);
const CAP: u64 = 150_000;
const START: u64 = 300_000;
/// With headers: 24 kbit/s at least, 128 at most.
const SOUND: std::ops::Range<u64> = 60_000..190_000;

#[test]
fn aiortc_decodes_picture_and_sound_and_its_remb_is_obeyed() {
    let Some(python) = python() else { return };
    let sender = Pipeline::new(
        "videotestsrc is-live=true pattern=snow ! video/x-raw,width=320,height=180,framerate=30/1 ! \
         dualwebrtcsink name=sink run-signalling-server=true signalling-server-host=127.0.0.1 \
         signalling-server-port=0 encoder::bitrate=1500000 \
         audiotestsrc is-live=true ! sink.audio",
    )
    .play();
    wait_for("registration", || sender.stat::<bool>("sink", "signalling"));
    let options = ["--role", "receive", "--seconds", "40"];
    let mut peer = Peer::start(&python, &uri(&sender, "sink"), &options);

    // It estimates by the time that packets left.
    // Low, until it has an estimate.
    let line = peer.wait("its first estimate", LIMIT, |line| {
        let rate = number(line, "bitrate");
        assert!(rate < 2 * START, "it begins with {rate} bit/s");
        number(line, "remb_sent") > 0
    });
    let first = number(&line, "remb_sent_bitrate");
    assert!(first > START / 4, "{first} bit/s");
    // The sound, which it does not name, comes on top.
    wait_for("it is obeyed", || estimate::<u64>(&sender, "remb") > 0);
    let target = estimate::<u64>(&sender, "target-bitrate");
    assert!(target > first + SOUND.start, "{target} bit/s, {line}");
    let line = peer.wait("an estimate of its own", LIMIT, |line| {
        number(line, "remb_sent") > 0
            && number(line, "bitrate") > first * 11 / 10
            && number(line, "frames") >= 60
    });
    assert_eq!(line["state"], "connected");
    assert_eq!(
        (number(&line, "width"), number(&line, "height")),
        (320, 180)
    );
    assert!(number(&line, "contrast") > 100, "a picture: {line}");
    assert!(number(&line, "audio_frames") > 50, "{line}");
    assert!(number(&line, "audio_peak") > 5000, "a tone: {line}");
    assert!(!sender.stat::<bool>("sink", "dual"));

    peer.limit(CAP);
    let line = peer.wait("less comes for a smaller REMB", LIMIT, |line| {
        number(line, "remb_sent_bitrate") <= CAP
            && (CAP / 4..CAP * 11 / 10).contains(&number(line, "bitrate"))
    });
    let target: u64 = estimate(&sender, "target-bitrate");
    assert!(target <= CAP + SOUND.end, "{target} bit/s, {line}");
    assert_eq!(estimate::<String>(&sender, "cause"), "remb");
    let encoder: gst::Structure = sender.stats("sink").get("encoder").unwrap();
    let encoder: u64 = encoder.get("bitrate").unwrap();
    assert!(encoder <= CAP, "{encoder} bit/s");

    peer.limit(0);
    peer.wait("the estimate rises again", LIMIT, |_| {
        estimate::<u64>(&sender, "target-bitrate") > CAP * 11 / 10 + SOUND.end
    });
    assert!(estimate::<u64>(&sender, "remb") > 2);
    sender.assert_no_error();
}

/// rtpremb in dualwebrtcsrc.
fn remb(receiver: &Pipeline) -> Option<gst::Element> {
    let bin = receiver.element("src").downcast::<gst::Bin>().unwrap();
    bin.iterate_all_by_element_factory_name("rtpremb")
        .next()
        .ok()
        .flatten()
}

#[test]
fn aiortc_is_received_and_obeys_our_remb() {
    let Some(python) = python() else { return };
    let receiver = Pipeline::new(
        "dualwebrtcsrc name=src run-signalling-server=true signalling-server-host=127.0.0.1 \
         signalling-server-port=0 src.src ! fakesink name=out sync=false \
         src.audio ! fakesink name=speaker sync=false",
    );
    let (seen, heard) = (receiver.watch("out"), receiver.watch("speaker"));
    let receiver = receiver.play();
    let options = ["--role", "send", "--seconds", "40"];
    let peer = Peer::start(&python, &uri(&receiver, "src"), &options);

    // It starts at 1 Mbit/s, and loopback takes more.
    peer.wait("REMB lets it rise", LIMIT, |line| {
        number(line, "remb_seen") > 0 && number(line, "target_bitrate") > 1_200_000
    });
    let estimator = remb(&receiver).expect("aiortc offers nothing but REMB");
    estimator.set_property("max-bitrate", 600_000u32);
    let line = peer.wait("REMB holds it back", LIMIT, |line| {
        number(line, "target_bitrate") <= 600_000 && number(line, "bitrate") < 800_000
    });
    assert!(number(&line, "remb_seen_bitrate") <= 600_000, "{line}");
    assert!(number(&line, "bitrate") > 200_000, "{line}");
    estimator.set_property("max-bitrate", 3_000_000u32);
    peer.wait("REMB lets it rise again", LIMIT, |line| {
        number(line, "target_bitrate") > 800_000
    });
    assert!(seen.count() > 100, "{} pictures", seen.count());
    assert!(heard.count() > 100, "{} blocks of sound", heard.count());
    assert_eq!(receiver.stat::<String>("src", "fec"), "none");
    receiver.assert_no_error();
}
