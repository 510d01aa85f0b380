// SPDX-License-Identifier: MPL-2.0
//! A process whose peer is aiortc: runs `tools/aiortc/peer.py`, whose lines on
//! stdout are those of the log.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::log::{Line, Log};
use super::setting::{Role, Setting};
use crate::jitter::session::said::{Said, say};

const SLICE: Duration = Duration::from_millis(200);

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../aiortc/peer.py")
}

/// The one with aiortc that ci/install-deps.sh has made, else the system's.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache
        .map(|cache| cache.join("gst-dualstream/aiortc/bin/python"))
        .filter(|python| python.is_file())
        .unwrap_or_else(|| "python3".into())
}

/// Before anything is started: what is missing, and what brings it.
pub fn check() -> Result<()> {
    let script = script();
    if !script.is_file() {
        bail!("there is no {}", script.display());
    }
    let there = Command::new(python())
        .args(["-c", "import aiortc"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match there {
        Err(e) => bail!("python3 does not start: {e}"),
        Ok(status) if !status.success() => {
            bail!("aiortc is not installed; `ci/install-deps.sh check` brings it")
        }
        Ok(_) => Ok(()),
    }
}

/// Ends with us.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(setting: &Setting, log: &Log, stop: &Receiver<()>) -> Result<()> {
    let role = match setting.role {
        Role::Send => "send",
        Role::Receive => "receive",
    };
    let mut command = Command::new(python());
    command
        .arg(script())
        .arg("--bench")
        .args(["--uri", &setting.uri(), "--role", role])
        .args(["--seconds", &(setting.seconds.ceil() as u64).to_string()])
        .args(setting.properties.split_whitespace());
    if let Some(video) = &setting.video {
        command
            .arg("--video")
            .arg(video)
            .args([
                "--size",
                &format!("{}x{}", setting.size.width, setting.size.height),
            ])
            .args(["--fps", &setting.fps.to_string()])
            .args(["--pictures", &setting.pictures.to_string()]);
    }
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("python3 does not start")?;
    let mut script = Script(process);
    if let Some(stdout) = script.0.stdout.take() {
        let log = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str::<Line>(&line) {
                    log.add(line);
                }
            }
        });
    }
    say(&Said::Ready);
    loop {
        if let Some(status) = script.0.try_wait()? {
            bail!("{} ended: {status}", self::script().display());
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
