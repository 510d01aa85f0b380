// SPDX-License-Identifier: MPL-2.0
//! A process of the session: heard through its stdout, ended in every case.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dualstream_link::remove_namespaces;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::said::Said;

/// From the end of stdin to the end of the process, then from one signal to
/// the next.
const PATIENCE: [Duration; 3] = [
    Duration::from_secs(10),
    Duration::from_secs(3),
    Duration::from_secs(5),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Sender,
    Receiver,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }
}

/// What a process said, or that it says nothing more.
pub type Heard = (Who, Option<Said>);

pub struct Child {
    process: Process,
    stdin: Option<ChildStdin>,
    /// Of its namespaces, if `rattan` is between.
    pub rattan_id: Option<String>,
}

impl Child {
    pub fn start(mut command: Command, who: Who, heard: Sender<Heard>) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // At Ctrl-C the closed stdin ends it, in good order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("the {} does not start", who.name()))?;
        let stdin = process.stdin.take();
        if let Some(stdout) = process.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { break };
                    // Other lines are rattan's own.
                    if let Ok(said) = serde_json::from_str(&line)
                        && heard.send((who, Some(said))).is_err()
                    {
                        return;
                    }
                }
                let _ = heard.send((who, None));
            });
        }
        Ok(Self {
            process,
            stdin,
            rattan_id: None,
        })
    }

    /// Asks it to end, without waiting.
    pub fn release(&mut self) {
        self.stdin = None;
    }

    fn wait(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.release();
        let group = Pid::from_raw(self.process.id() as i32);
        let [orderly, interrupted, killed] = PATIENCE;
        let mut ended = self.wait(orderly);
        // At SIGINT rattan takes its namespaces away.
        for (signal, patience) in [(Signal::SIGINT, interrupted), (Signal::SIGKILL, killed)] {
            if !ended {
                // Not reaped yet, so the id is still its own.
                let _ = killpg(group, signal);
                ended = self.wait(patience);
            }
        }
        if let Some(id) = self.rattan_id.take() {
            remove_namespaces(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_is_said_is_heard_and_noise_is_not() {
        let (sender, heard) = channel();
        let script = r#"echo noise; echo '{"said":"ready"}'; cat; echo '{"said":"end"}'"#;
        let mut child = Child::start(shell(script), Who::Receiver, sender).unwrap();
        assert_eq!(heard.recv().unwrap(), (Who::Receiver, Some(Said::Ready)));
        child.release();
        assert_eq!(heard.recv().unwrap(), (Who::Receiver, Some(Said::End)));
        assert_eq!(heard.recv().unwrap(), (Who::Receiver, None));
    }
}
