// SPDX-License-Identifier: MPL-2.0
//! Each probe runs in a process of its own: a driver that hangs or crashes
//! takes only that process with it.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::probes::Task;

/// The line with the result begins with this: plugins print lines, too.
const MARK: &str = "dualstream-doctor-result:";
/// More of it is thrown away.
const OUTPUT_LIMIT: usize = 4 << 20;
const ERRORS_LIMIT: usize = 16 << 10;
/// A killed process that the kernel still holds is left behind.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// For the rest of the output of a process that has ended.
const PIPE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a probe ends with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    Ok(T),
    Error(String),
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not done within the limit.
    Hung(Duration),
    /// Ended by a signal.
    Crashed(String),
    /// The probe itself says so.
    Failed(String),
    /// It did not start, or ended without a word.
    Lost(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung(limit) => write!(f, "hangs: no result within {} s", limit.as_secs()),
            Self::Crashed(how) => write!(f, "crashes: {how}"),
            Self::Failed(why) | Self::Lost(why) => f.write_str(why),
        }
    }
}

/// Runs `task` in a new process of `program`, which is this one.
pub fn run<T: DeserializeOwned>(program: &Path, task: &Task, limit: Duration) -> Result<T, Fault> {
    let lost = |what: &str, err: &dyn fmt::Display| Fault::Lost(format!("{what}: {err}"));
    let json = serde_json::to_string(task).map_err(|err| lost("no task", &err))?;
    let mut command = Command::new(program);
    command.arg("probe").arg(json);
    let (output, _) = supervise(command, limit)?;
    let line = output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(MARK))
        .ok_or_else(|| Fault::Lost("ended without a result".into()))?;
    match serde_json::from_str(line).map_err(|err| lost("unreadable result", &err))? {
        Answer::Ok(result) => Ok(result),
        Answer::Error(why) => Err(Fault::Failed(why)),
    }
}

/// In the child: the result to the parent.
pub fn answer<T: Serialize>(answer: &Answer<T>) -> anyhow::Result<()> {
    let line = serde_json::to_string(answer)?;
    let mut out = std::io::stdout().lock();
    // Something may have printed half a line.
    write!(out, "\n{MARK}{line}\n")?;
    out.flush()?;
    Ok(())
}

/// In the child: ends it when the parent is gone, whatever else it does.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(3);
    });
}

/// What it printed, and what it complained of.
fn supervise(mut command: Command, limit: Duration) -> Result<(String, String), Fault> {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // With what it starts itself, it is killed as a group.
        .process_group(0)
        .spawn()
        .map_err(|err| Fault::Lost(format!("does not start: {err}")))?;
    let output = process.stdout.take().map(|o| collect(o, OUTPUT_LIMIT));
    let errors = process.stderr.take().map(|e| collect(e, ERRORS_LIMIT));
    let Some(status) = wait(&mut process, limit) else {
        // Not reaped yet, so the id is still its own.
        let _ = killpg(Pid::from_raw(process.id() as i32), Signal::SIGKILL);
        wait(&mut process, KILL_TIMEOUT);
        return Err(Fault::Hung(limit));
    };
    let (output, errors) = (text(output), text(errors));
    if let Some(signal) = status.signal() {
        return Err(Fault::Crashed(crash(signal, &errors)));
    }
    if !status.success() {
        let why = last_line(&errors).map_or_else(String::new, |line| format!(": {line}"));
        return Err(Fault::Lost(format!("ends with {status}{why}")));
    }
    Ok((output, errors))
}

fn crash(signal: i32, errors: &str) -> String {
    let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.to_string());
    match last_line(errors) {
        Some(line) => format!("{name} ({line})"),
        None => name,
    }
}

/// Not longer than a line of a table bears.
fn last_line(errors: &str) -> Option<String> {
    let line = errors.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(160).collect())
}

struct Reader {
    kept: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

/// Keeps at most twice the last `limit` bytes; a process that prints without
/// end is heard to its end, so that it does not block.
fn collect(mut from: impl Read + Send + 'static, limit: usize) -> Reader {
    let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
    let to = kept.clone();
    let thread = std::thread::spawn(move || {
        let mut chunk = vec![0; 16 << 10];
        while let Ok(size @ 1..) = from.read(&mut chunk) {
            let mut kept = to.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&chunk[..size]);
            let surplus = kept.len().saturating_sub(limit);
            if surplus > limit {
                kept.drain(..surplus);
            }
        }
    });
    Reader { kept, thread }
}

/// What was read of a process that has ended. One that it left behind may
/// hold the pipe open.
fn text(reader: Option<Reader>) -> String {
    let Some(reader) = reader else {
        return String::new();
    };
    let deadline = Instant::now() + PIPE_TIMEOUT;
    while !reader.thread.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let kept = reader.kept.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&kept).into_owned()
}

fn wait(process: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(Some(status)) = process.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<(String, String), Fault> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        supervise(command, limit)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_printed_comes_back() {
        let (output, errors) = sh("echo one; echo two >&2", LONG).unwrap();
        assert_eq!((output.as_str(), errors.as_str()), ("one\n", "two\n"));
    }

    #[test]
    fn one_that_hangs_is_ended_with_its_children() {
        let begin = Instant::now();
        let limit = Duration::from_millis(300);
        let fault = sh("sleep 60 & sleep 60", limit).unwrap_err();
        assert_eq!(fault, Fault::Hung(limit));
        assert!(begin.elapsed() < Duration::from_secs(5), "not waited for");
    }

    #[test]
    fn a_child_left_behind_does_not_hold_the_doctor() {
        let begin = Instant::now();
        let (output, _) = sh("echo done; sleep 15 &", LONG).unwrap();
        assert_eq!(output, "done\n");
        assert!(begin.elapsed() < Duration::from_secs(10), "not waited for");
    }

    #[test]
    fn a_signal_is_a_crash_with_the_last_words() {
        let fault = sh("echo oh no >&2; kill -SEGV $$", LONG).unwrap_err();
        assert_eq!(fault, Fault::Crashed("SIGSEGV (oh no)".into()));
    }

    #[test]
    fn an_exit_status_is_told() {
        let Fault::Lost(why) = sh("echo bad luck >&2; exit 9", LONG).unwrap_err() else {
            panic!("not lost");
        };
        assert!(why.contains('9') && why.contains("bad luck"), "{why}");
    }

    #[test]
    fn endless_output_is_bounded() {
        let script = "yes | head -c 20000000; echo last";
        let (output, _) = sh(script, LONG).unwrap();
        assert!(output.len() <= 2 * OUTPUT_LIMIT + (16 << 10));
        assert!(output.ends_with("last\n"));
    }
}
