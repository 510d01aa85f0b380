// SPDX-License-Identifier: MPL-2.0
//! The doctor as it is called, on this machine and on one that lacks
//! something.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_dualstream-doctor");

/// A folder that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("doctor-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a scratch folder");
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where GStreamer's own plugins are.
fn system_plugins() -> PathBuf {
    let output = Command::new("pkg-config")
        .args(["--variable=pluginsdir", "gstreamer-1.0"])
        .output()
        .expect("pkg-config runs");
    String::from_utf8(output.stdout)
        .expect("a path")
        .trim()
        .into()
}

/// Links to all plugins but these.
fn without(folder: &Path, hidden: &[&str]) {
    for entry in std::fs::read_dir(system_plugins()).expect("plugins") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if !hidden
            .iter()
            .any(|h| name.starts_with(&format!("libgst{h}.")))
        {
            std::os::unix::fs::symlink(&path, folder.join(name)).expect("a link");
        }
    }
}

fn doctor(args: &[&str], scratch: &Scratch, variables: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(PROGRAM);
    for name in [
        "GST_PLUGIN_PATH",
        "GST_PLUGIN_PATH_1_0",
        "GST_PLUGIN_SYSTEM_PATH",
        "GST_PLUGIN_SYSTEM_PATH_1_0",
        "GST_PLUGIN_FEATURE_RANK",
        "GST_REGISTRY_1_0",
        // A plugin that complains shall not be taken for one that crashes.
        "G_DEBUG",
    ] {
        command.env_remove(name);
    }
    command
        .args(args)
        .env("GST_REGISTRY", scratch.0.join("registry.bin"))
        .envs(variables.iter().map(|(name, path)| (name, path)))
        .output()
        .expect("the doctor starts")
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|err| {
        panic!("{err} in {}", String::from_utf8_lossy(&output.stdout));
    })
}

#[track_caller]
fn find<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let found = list
        .as_array()
        .and_then(|l| l.iter().find(|v| v[key] == name));
    found.unwrap_or_else(|| panic!("no {name} in {list:#}"))
}

fn commands(problem: &Value) -> Vec<&str> {
    let list = problem["commands"].as_array().expect("a list");
    list.iter().filter_map(Value::as_str).collect()
}

fn is_debian() -> bool {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .any(|line| line == "ID=debian" || line == "ID=ubuntu")
}

#[track_caller]
fn assert_works(thing: &Value) {
    let state = &thing["state"];
    // Slow is for the machine to answer for.
    assert!(state == "ok" || state == "slow", "{thing:#}");
}

#[track_caller]
fn assert_good_encoder(report: &Value, name: &str) {
    let encoder = find(&report["encoders"], "factory", name);
    assert_works(encoder);
    assert_eq!(encoder["driven"], true);
    let run = &encoder["runs"][0];
    assert_eq!((&run["width"], &run["height"]), (&1280.into(), &720.into()));
    let outcome = &run["outcome"];
    let p50 = outcome["frame_time"]["p50_ms"].as_f64().expect("a time");
    let p99 = outcome["frame_time"]["p99_ms"].as_f64().expect("a time");
    assert!(0.1 < p50 && p50 <= p99 && p99 < 5000.0, "{p50} {p99}");
    assert_eq!(run["holds_33_ms"], p99 <= 1000.0 / 30.0);
    assert_eq!(outcome["b_frames"], 0);
    assert_eq!(outcome["frames_out"], outcome["frames_in"]);
    assert_eq!(outcome["profile_level"]["profile"], "Constrained Baseline");
    assert_eq!(outcome["profile_level"]["webrtc"], "yes");
    assert_eq!(outcome["controls"]["rate_changes"], 4);
    assert_eq!(outcome["controls"]["key_frames_by_rate_change"], 0);
    assert_eq!(outcome["controls"]["key_frame_after"], 1);
}

/// What is told is what this machine has: both encoders that ci/install-deps.sh
/// installs, both decoders, all parts, and a call.
#[test]
fn on_this_machine_all_is_well_and_each_claim_has_its_figures() {
    let scratch = Scratch::new("whole");
    let output = doctor(&["--json", "--quick", "--call-seconds=2"], &scratch, &[]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{:#}", report["problems"]);
    assert_eq!(report["healthy"], true);
    for name in ["x264enc", "openh264enc"] {
        assert_good_encoder(&report, name);
    }
    for name in ["avdec_h264", "openh264dec"] {
        let decoder = find(&report["decoders"], "factory", name);
        assert_works(decoder);
        assert_eq!(decoder["stream_of"], "x264enc");
        assert_eq!(decoder["runs"][0]["outcome"]["pictures_right"], 30);
    }
    for name in ["webrtcbin", "nice", "DTLS", "SRTP", "Opus", "SRT"] {
        let part = find(&report["parts"], "name", name);
        assert_eq!(part["state"], "ok", "{part:#}");
        assert!(part["version"].is_string(), "{part:#}");
    }
    assert_call(&report["call"]);
    let own = find(&report["plugins"], "name", "dualwebrtc");
    assert_eq!(
        (&own["own"], &own["built_in"]),
        (&true.into(), &true.into())
    );
}

fn assert_call(call: &Value) {
    assert_works(call);
    let outcome = &call["outcome"];
    assert_eq!(outcome["encoder"], "x264enc");
    // Two seconds are 60 pictures; a machine that is busy draws fewer, and may
    // drop some.
    let count = |field: &str| outcome[field].as_u64().expect("a number");
    let (captured, shown) = (count("pictures_captured"), count("pictures_shown"));
    let followed = outcome["total"]["frames"].as_u64().expect("a number");
    assert!((15..=75).contains(&captured), "{outcome:#}");
    assert!(shown <= captured && shown * 2 >= captured, "{outcome:#}");
    assert!(followed <= shown && followed >= 10, "{outcome:#}");
    let p50 = |part: &Value| part["p50_ms"].as_f64().expect("a time");
    let parts = outcome["parts"].as_array().expect("parts");
    let names: Vec<&str> = parts.iter().filter_map(|p| p["name"].as_str()).collect();
    let wanted = [
        "capture",
        "encode",
        "pace",
        "network",
        "jitter buffer",
        "decode",
        "render",
    ];
    assert_eq!(names, wanted);
    let total = p50(&outcome["total"]);
    assert!((5.0..3000.0).contains(&total), "{outcome:#}");
    // Measured in another way, and with the first two seconds.
    let told = p50(&outcome["told"]["total"]) / total;
    assert!((0.3..3.0).contains(&told), "{told} times: {outcome:#}");
    for part in parts {
        assert!(p50(&part["time"]) <= total, "{part:#} of {total}");
    }
    let encode = p50(&parts[1]["time"]);
    assert!(encode > 0.5, "an encoder takes time: {outcome:#}");
    assert!(p50(&outcome["total_at_once"]) <= total);
    let word = if outcome["total"]["p95_ms"].as_f64() > call["limit_p95_ms"].as_f64() {
        "slow"
    } else {
        "ok"
    };
    assert_eq!(call["state"], word);
}

/// openh264enc does in its place, so all that is needed is there; and encoders
/// that hang, crash or fail are no more than a line of the report.
#[test]
fn a_hidden_encoder_is_missed_and_broken_ones_do_no_harm() {
    let scratch = Scratch::new("hidden");
    let plugins = scratch.0.join("plugins");
    std::fs::create_dir(&plugins).expect("a folder");
    without(&plugins, &["x264"]);
    let faulty = Path::new(PROGRAM)
        .parent()
        .expect("a folder")
        .join("examples");
    let variables: [(&str, &Path); 2] = [
        ("GST_PLUGIN_SYSTEM_PATH", &plugins),
        ("GST_PLUGIN_PATH", &faulty),
    ];
    let output = doctor(&["--json", "--quick", "--no-call"], &scratch, &variables);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{:#}", report["problems"]);
    assert_good_encoder(&report, "openh264enc");
    let decoder = find(&report["decoders"], "factory", "avdec_h264");
    assert_eq!(decoder["stream_of"], "openh264enc");
    let missed = find(&report["problems"], "what", "x264enc");
    assert_eq!(missed["needed"], false);
    let commands = commands(missed);
    assert_eq!(commands[0], "unset GST_PLUGIN_SYSTEM_PATH", "{missed:#}");
    if is_debian() {
        let install = commands.last().expect("a command");
        assert!(
            install.ends_with("apt install gstreamer1.0-plugins-ugly"),
            "{install}"
        );
    }
    for (name, sign) in [
        ("doctorhangh264enc", "hangs"),
        ("doctorcrashh264enc", "SIGABRT"),
        ("doctorerrorh264enc", "the device is busy"),
    ] {
        let encoder = find(&report["encoders"], "factory", name);
        assert_eq!(encoder["state"], "broken", "{encoder:#}");
        assert_eq!(encoder["driven"], false);
        let error = encoder["runs"][0]["error"].as_str().expect("an error");
        assert!(error.contains(sign), "{name}: {error}");
    }
}

#[test]
fn without_any_encoder_or_ice_the_status_is_1_and_the_advice_installs_them() {
    let scratch = Scratch::new("bare");
    let plugins = scratch.0.join("plugins");
    std::fs::create_dir(&plugins).expect("a folder");
    without(&plugins, &["x264", "openh264", "nice"]);
    let variables: [(&str, &Path); 1] = [("GST_PLUGIN_SYSTEM_PATH", &plugins)];
    let output = doctor(&["--json", "--quick"], &scratch, &variables);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["healthy"], false);
    assert!(report["call"].is_null(), "there is nothing to call with");
    for (what, package) in [
        ("nicesrc", "gstreamer1.0-nice"),
        ("H.264 encoder", "gstreamer1.0-plugins-ugly"),
    ] {
        let problem = find(&report["problems"], "what", what);
        assert_eq!(problem["needed"], true);
        let told = commands(problem).join("\n");
        assert!(!is_debian() || told.contains(package), "{problem:#}");
    }
    let decoder = find(&report["decoders"], "factory", "avdec_h264");
    assert_eq!(decoder["state"], "untested", "no stream to try it with");
    assert_eq!(find(&report["parts"], "name", "nice")["state"], "missing");
    assert_eq!(
        find(&report["parts"], "name", "webrtcbin")["state"],
        "untested"
    );
    assert_eq!(find(&report["parts"], "name", "SRTP")["state"], "ok");
}

#[test]
fn wrong_use_has_status_2_and_runs_nothing() {
    let scratch = Scratch::new("usage");
    for args in [
        &["--what"][..],
        &["--call-seconds=0"],
        &["--no-call", "--call-seconds=3"],
    ] {
        let output = doctor(args, &scratch, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_table_for_people_fits_into_100_columns() {
    let scratch = Scratch::new("table");
    let output = doctor(&["--quick", "--no-call"], &scratch, &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    for word in [
        "x264enc",
        "openh264dec",
        "webrtcbin",
        "SRT",
        "all that a call needs works",
    ] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}
