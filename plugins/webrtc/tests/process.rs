// SPDX-License-Identifier: MPL-2.0
//! What is seen from outside: gst-launch lines, leaks, a peer that is killed.

mod common;

use common::*;
use gst::prelude::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder with this build's plugins and nothing else.
fn plugins(test: &str) -> PathBuf {
    let built = std::env::current_exe().unwrap();
    let built = built.parent().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for name in [
        "libgstdualstream.so",
        "libgstfeedback.so",
        "libgstflexfec.so",
        "libgstgcc.so",
        "libgstjitterbuffer.so",
        "libgstpacer.so",
        "libgstdualwebrtc.so",
    ] {
        std::os::unix::fs::symlink(built.join(name), folder.join(name)).unwrap();
    }
    folder
}

/// A child that does not outlive its test.
struct Launched(Child);

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Launched {
    fn new(plugins: &Path, arguments: &str) -> Self {
        let child = Command::new("gst-launch-1.0")
            .args(arguments.split_whitespace())
            .env("GST_PLUGIN_PATH", plugins)
            .env("GST_REGISTRY", plugins.join("registry.bin"))
            .env("G_DEBUG", "fatal-warnings")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gst-launch-1.0 is needed");
        Self(child)
    }

    /// Waits for its end and gives what it wrote.
    #[track_caller]
    fn wait(mut self) -> (bool, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = self.0.kill();
                break self.0.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut text = String::new();
        use std::io::Read;
        if let Some(mut out) = self.0.stdout.take() {
            out.read_to_string(&mut text).unwrap();
        }
        if let Some(mut err) = self.0.stderr.take() {
            err.read_to_string(&mut text).unwrap();
        }
        (status.success(), text)
    }
}

fn unused_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

const FILE: &str = "videotestsrc num-buffers=45 ! video/x-raw,width=320,height=180,framerate=30/1";

#[test]
fn a_sender_and_a_receiver_in_gst_launch_come_to_their_end() {
    let plugins = plugins("launch");
    let port = unused_port();
    let receiver = Launched::new(
        &plugins,
        &format!(
            "dualwebrtcsrc signaller::uri=ws://127.0.0.1:{port} ! videoconvert ! fakesink sync=false"
        ),
    );
    let sender = Launched::new(
        &plugins,
        &format!(
            "{FILE} ! dualwebrtcsink wait-for-receiver=true run-signalling-server=true \
             signalling-server-host=127.0.0.1 signalling-server-port={port} \
             encoder::bitrate=500000 encoder::refresh-interval=500"
        ),
    );
    for (name, launched) in [("sender", sender), ("receiver", receiver)] {
        let (good, text) = launched.wait();
        assert!(good, "{name}: {text}");
        assert!(text.contains("Got EOS"), "{name}: {text}");
    }
}

#[test]
fn a_receiver_that_is_killed_is_gone_at_once() {
    let plugins = plugins("killed");
    let sender = sender(LIVE, "encoder::refresh-interval=100").play();
    let uri = uri(&sender, "sink");
    let launched = Launched::new(
        &plugins,
        &format!("dualwebrtcsrc signaller::uri={uri} ! fakesink sync=false"),
    );
    wait_for("pictures to be sent", || {
        sender.stat::<u64>("sink", "pictures-encoded") >= 20
    });
    // In the middle of a key frame as likely as not.
    drop(launched);
    let start = Instant::now();
    wait_for("the end of the session", || {
        sender.stat::<String>("sink", "session") == "none"
    });
    assert!(start.elapsed() < Duration::from_secs(5));
    let next = receiver(&uri, "");
    let seen = next.watch("out");
    let _next = next.play();
    wait_for("pictures for the next", || seen.count() >= 10);
    sender.assert_no_error();
}

#[test]
fn a_sender_that_is_killed_leaves_the_receiver_waiting() {
    let plugins = plugins("killed-sender");
    let receiver = receiver(
        "ws://127.0.0.1:1",
        "run-signalling-server=true signalling-server-host=127.0.0.1 signalling-server-port=0",
    );
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    let uri = uri(&receiver, "src");
    for _ in 0..2 {
        let launched = Launched::new(
            &plugins,
            &format!("{LIVE} ! dualwebrtcsink signaller::uri={uri} encoder::refresh-interval=100"),
        );
        let before = seen.count();
        wait_for("pictures", || seen.count() > before + 20);
        drop(launched);
        wait_for("the end of the session", || {
            receiver.stat::<String>("src", "session") == "none"
        });
    }
    receiver.assert_no_error();
    receiver.stop();
}

/// In a process of its own, where the tracer sees nothing else.
#[test]
fn nothing_is_leaked() {
    const CHILD: &str = "DUALWEBRTC_LEAK_CHILD";
    if std::env::var_os(CHILD).is_some() {
        leak_child();
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_is_leaked", "--nocapture"])
        .env(CHILD, "1")
        .env("GST_TRACERS", "leaks")
        .env("GST_DEBUG", "GST_TRACER:7")
        .env("GST_DEBUG_NO_COLOR", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed")
            && text.contains("object-alive"),
        "the child or the tracer did nothing: {text}"
    );
    let leaks: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("object-alive, type-name=(string)G"))
        // GStreamer keeps an agent for the process, and its connections until
        // their timers have run out.
        .filter(|line| !line.contains("(string)GstDtls"))
        .collect();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

fn leak_child() {
    // GStreamer's parser keeps a reference to a child that it sets a property
    // of: nothing with `::` in the description.
    let sender = Pipeline::new(&format!(
        "{LIVE} ! dualwebrtcsink name=sink run-signalling-server=true \
         signalling-server-host=127.0.0.1 signalling-server-port=0"
    ));
    let sink = sender.element("sink");
    sink.dynamic_cast_ref::<gst::ChildProxy>()
        .unwrap()
        .set_child_property("encoder::refresh-interval", 500u32);
    drop(sink);
    let receiver = Pipeline::new("dualwebrtcsrc name=src ! fakesink name=out sync=false");
    let seen = receiver.watch("out");
    for _ in 0..2 {
        sender.0.set_state(gst::State::Playing).unwrap();
        receiver
            .element("src")
            .property::<gst::glib::Object>("signaller")
            .set_property("uri", uri(&sender, "sink"));
        receiver.0.set_state(gst::State::Playing).unwrap();
        let before = seen.count();
        wait_for("pictures", || seen.count() > before + 30);
        receiver.stop();
        wait_for("the end of the session", || {
            sender.stat::<String>("sink", "session") == "none"
        });
        receiver.0.set_state(gst::State::Playing).unwrap();
        let before = seen.count();
        wait_for("pictures again", || seen.count() > before + 10);
        sender.stop();
        receiver.stop();
    }
    drop((sender, receiver, seen));
    // The tracer warns of what it found; the parent reads it.
    gst::glib::log_set_always_fatal(gst::glib::LogLevels::LEVEL_ERROR);
    // SAFETY: nothing of GStreamer is in use any more.
    unsafe { gst::deinit() };
}
