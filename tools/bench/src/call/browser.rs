// SPDX-License-Identifier: MPL-2.0
//! A process whose peer is Chromium: starts it with our page, and writes down
//! what the page tells.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dualstream_chromium::browser::{FLAGS, find};
use dualstream_chromium::http::PageServer;
use dualstream_clip::barcode::Stamp;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;

use super::log::{Line, Log, Sample, Shown, key};
use super::setting::{Role, Setting};
use crate::jitter::session::said::{Said, say};
use crate::video::Video;

const PAGE: &str = include_str!("page.html");
const SLICE: Duration = Duration::from_millis(200);
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// What the page posts twice a second.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Report {
    error: Option<String>,
    /// ms since 1970.
    now: f64,
    presented: f64,
    streams: Vec<Stream>,
    /// When, number, low bits of the time of capture.
    shown: Vec<(f64, Option<u16>, Option<u32>)>,
}

/// As `getStats()` has it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Stream {
    #[serde(rename = "type")]
    kind: String,
    target_bitrate: Option<f64>,
    bytes_sent: f64,
    key_frames_encoded: f64,
    key_frames_decoded: f64,
    encoder_implementation: Option<String>,
    decoder_implementation: Option<String>,
    frame_height: Option<u32>,
    retransmitted_packets_received: f64,
    jitter_buffer_delay: f64,
    jitter_buffer_emitted_count: f64,
}

pub fn run(setting: &Setting, log: &Log, stop: &Receiver<()>) -> Result<()> {
    let fault = Arc::new(Mutex::new(None::<String>));
    let (hears, writes) = (fault.clone(), log.clone());
    let notes = Mutex::new(Notes::default());
    let browser = Arc::new(Mutex::new(None::<i32>));
    let group = browser.clone();
    let server = PageServer::start("127.0.0.1", PAGE, move |text| {
        let report: Report = match serde_json::from_str(text) {
            Ok(report) => report,
            Err(e) => Report {
                error: Some(format!("what the page says is not understood: {e}")),
                ..Report::default()
            },
        };
        if let Some(error) = &report.error {
            let mut fault = hears.lock().unwrap_or_else(PoisonError::into_inner);
            fault.get_or_insert(error.clone());
            return;
        }
        let group = *group.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.take(&report, &writes, group);
    })?;
    let process = Chromium::start(setting, server.port())?;
    *browser.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.group());
    say(&Said::Ready);
    loop {
        if let Some(error) = fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bail!("the page: {error}");
        }
        match stop.recv_timeout(SLICE) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
        if setting.role == Role::Receive {
            say(&Said::Progress {
                pictures: log.shown(),
            });
        }
    }
}

/// What is told only when it changes.
#[derive(Default)]
struct Notes {
    told: BTreeMap<&'static str, String>,
}

impl Notes {
    fn note(&mut self, log: &Log, name: &'static str, value: Option<String>) {
        if let Some(value) = value
            && self.told.get(name) != Some(&value)
        {
            log.note(name, &*value);
            self.told.insert(name, value);
        }
    }

    fn take(&mut self, report: &Report, log: &Log, group: Option<i32>) {
        for &(at, number, millis) in &report.shown {
            let at = (at * 1e6) as u64;
            let stamp = number
                .zip(millis)
                .map(|(number, millis)| Stamp { number, millis });
            log.add(Line::Shown(Shown {
                at,
                number,
                captured: stamp.map(|stamp| stamp.captured(at)),
                ..Shown::default()
            }));
        }
        let mut values = BTreeMap::new();
        let mut add = |name: &str, value: f64| {
            *values.entry(name.to_owned()).or_insert(0.0) += value;
        };
        if let Some(seconds) = group.and_then(cpu_of_group) {
            add(key::CPU, seconds);
        }
        for stream in &report.streams {
            match stream.kind.as_str() {
                "outbound-rtp" => {
                    if let Some(target) = stream.target_bitrate {
                        add(key::TARGET, target / 1e3);
                    }
                    add(key::KEYS, stream.key_frames_encoded);
                    add(key::MEDIA_BYTES, stream.bytes_sent);
                    self.note(log, "encoder", stream.encoder_implementation.clone());
                }
                "inbound-rtp" => {
                    add(key::KEYS, stream.key_frames_decoded);
                    add(key::RTX_RECOVERED, stream.retransmitted_packets_received);
                    if stream.jitter_buffer_emitted_count > 0.0 {
                        let mean = stream.jitter_buffer_delay / stream.jitter_buffer_emitted_count;
                        add(key::JITTER_DELAY, mean * 1e3);
                    }
                    self.note(log, "decoder", stream.decoder_implementation.clone());
                }
                _ => {}
            }
            self.note(log, "lines", stream.frame_height.map(|h| h.to_string()));
        }
        if report.presented > 0.0 {
            add(key::PRESENTED, report.presented);
        }
        log.add(Line::Sample(Sample {
            at: (report.now * 1e6) as u64,
            values,
        }));
    }
}

/// Of all processes that are alive in it.
fn cpu_of_group(group: i32) -> Option<f64> {
    let mut ticks = 0u64;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in brackets may hold blanks: state, ppid, pgrp follow it.
        let Some((_, rest)) = text.rsplit_once(')') else {
            continue;
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        if words.get(2).and_then(|word| word.parse().ok()) == Some(group) {
            ticks += number(11).unwrap_or(0) + number(12).unwrap_or(0);
        }
    }
    // SAFETY: a plain question to the system.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (hertz > 0).then(|| ticks as f64 / hertz as f64)
}

/// Runs until it is dropped.
struct Chromium {
    process: Child,
    profile: PathBuf,
}

impl Chromium {
    fn start(setting: &Setting, port: u16) -> Result<Self> {
        let program = find().context("Chromium is not installed")?;
        let profile = std::env::temp_dir().join(format!("dualstream-call-{}", std::process::id()));
        std::fs::create_dir_all(&profile)?;
        let mut command = Command::new(program);
        command
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.display()));
        let role = match setting.role {
            Role::Send => "send",
            Role::Receive => "receive",
        };
        if let Some(file) = &setting.file {
            command.args([
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ]);
            command.arg(format!(
                "--use-file-for-fake-video-capture={}",
                file.display()
            ));
        }
        command.arg(format!(
            "http://127.0.0.1:{port}/?role={role}&uri={}&kbps={}&width={}&height={}&fps={}",
            setting.uri(),
            setting.most_kbps,
            setting.size.width,
            setting.size.height,
            setting.fps
        ));
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("Chromium does not start")?;
        Ok(Self { process, profile })
    }

    fn group(&self) -> i32 {
        self.process.id() as i32
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.group());
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // Not reaped yet, so the id is still its own.
            let _ = killpg(group, signal);
            let end = Instant::now() + STOP_TIMEOUT;
            while Instant::now() < end {
                if matches!(self.process.try_wait(), Ok(Some(_))) {
                    let _ = std::fs::remove_dir_all(&self.profile);
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// The clip there and back, once, as Chromium plays it again and again in the
/// place of a camera.
pub fn write_clip(video: &Video, fps: u32, file: &Path) -> Result<()> {
    let to = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let mut to = BufWriter::new(to);
    let (width, height) = (video.info.width(), video.info.height());
    writeln!(to, "YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420")?;
    for n in 0..(2 * video.len()).saturating_sub(2).max(1) {
        writeln!(to, "FRAME")?;
        let map = video.source(n).map_readable()?;
        if map.len() as u32 != width * height * 3 / 2 {
            bail!("a width of {width} leaves gaps in the pictures; take a multiple of 8");
        }
        to.write_all(&map)?;
    }
    to.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_says_is_written_down() {
        let report = r#"{"now":1700000000500.5,"presented":3,
            "shown":[[1700000000400.25,7,123],[1700000000433.0,null,null]],
            "streams":[{"type":"inbound-rtp","keyFramesDecoded":2,"decoderImplementation":"ffmpeg",
                "jitterBufferDelay":1.5,"jitterBufferEmittedCount":10,"unknown":{}}]}"#;
        let report: Report = serde_json::from_str(report).unwrap();
        let log = Log::default();
        let mut notes = Notes::default();
        notes.take(&report, &log, None);
        notes.take(&report, &log, None);
        let file = std::env::temp_dir().join(format!("dualstream-page-{}", std::process::id()));
        log.write(&file).unwrap();
        let lines: Vec<Line> = super::super::log::read_lines(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(lines.len(), 7, "the note is there once: {lines:?}");
        let Line::Shown(shown) = &lines[0] else {
            panic!("{lines:?}")
        };
        assert!(shown.at.abs_diff(1_700_000_000_400_250_000) < 1000);
        assert_eq!(shown.number, Some(7));
        let Some(Line::Sample(sample)) = lines.last() else {
            panic!("{lines:?}")
        };
        assert_eq!(sample.values[key::JITTER_DELAY], 150.0);
        assert_eq!(sample.values[key::KEYS], 2.0);
    }

    #[test]
    fn this_process_has_a_group_that_has_used_time() {
        // SAFETY: a plain question to the system.
        let group = unsafe { libc::getpgrp() };
        let mut x = 1u64;
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end {
            x = std::hint::black_box(x.wrapping_mul(31));
        }
        assert!(cpu_of_group(group).unwrap() > 0.0);
    }
}
