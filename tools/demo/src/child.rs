// SPDX-License-Identifier: MPL-2.0
//! The two children of `run`: started in process groups of their own, heard
//! through their stdout, ended in every case.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::events::Event;
use dualstream_link::remove_namespaces;

/// A stopped child writes its files first.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Not for ever: the kernel may hold a process.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Sender,
    Receiver,
}

impl Who {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }
}

/// What a child said, or that it says nothing more.
pub type Heard = (Who, Option<Event>);

pub struct Child {
    process: Process,
    stdin: Option<ChildStdin>,
    /// Of its namespaces, if `rattan` is between.
    pub rattan_id: Option<String>,
}

impl Child {
    /// `command`'s stderr goes to `errors`.
    pub fn start(
        mut command: Command,
        who: Who,
        errors: File,
        heard: Sender<Heard>,
    ) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Ctrl-C is for the parent, which then stops the children in
            // good order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("the {} does not start", who.name()))?;
        let stdin = process.stdin.take();
        if let Some(stdout) = process.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines() {
                    let Ok(line) = line else { break };
                    // Other lines are rattan's own.
                    if let Ok(event) = serde_json::from_str(&line)
                        && heard.send((who, Some(event))).is_err()
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

    /// This many pictures were sent. A child that is gone is noticed by its
    /// silence.
    pub fn tell_end(&mut self, pictures: u64) {
        if let Some(stdin) = &mut self.stdin {
            let _ = writeln!(stdin, "end {pictures}").and_then(|()| stdin.flush());
        }
    }

    /// Asks it to stop, without waiting.
    pub fn release(&mut self) {
        self.stdin = None;
    }

    /// Stops it: by its stdin, then SIGINT (at which `rattan` tidies up), then
    /// SIGKILL.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        self.stop_within(STOP_TIMEOUT, INTERRUPT_TIMEOUT)
    }

    fn stop_within(&mut self, orderly: Duration, interrupt: Duration) -> Option<ExitStatus> {
        self.release();
        let group = Pid::from_raw(self.process.id() as i32);
        let mut status = self.wait(orderly);
        for (signal, patience) in [(Signal::SIGINT, interrupt), (Signal::SIGKILL, KILL_TIMEOUT)] {
            if status.is_some() {
                break;
            }
            // Not reaped yet, so the id is still its own.
            let _ = killpg(group, signal);
            status = self.wait(patience);
        }
        if let Some(id) = self.rattan_id.take() {
            remove_namespaces(&id);
        }
        status
    }

    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn null() -> File {
        File::options().write(true).open("/dev/null").unwrap()
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn events_are_heard_and_other_lines_are_not() {
        let (sender, receiver) = channel();
        let script = "echo noise; echo '{\"event\":\"ready\"}'; read line; echo \"$line\" | grep -q 'end 7' && echo '{\"event\":\"all-sent\",\"pictures\":7,\"encoder\":\"x\"}'";
        let mut child = Child::start(shell(script), Who::Sender, null(), sender).unwrap();
        assert_eq!(receiver.recv().unwrap(), (Who::Sender, Some(Event::Ready)));
        child.tell_end(7);
        assert_eq!(
            receiver.recv().unwrap(),
            (
                Who::Sender,
                Some(Event::AllSent {
                    pictures: 7,
                    encoder: "x".into()
                })
            )
        );
        assert_eq!(receiver.recv().unwrap(), (Who::Sender, None));
        assert!(child.stop().unwrap().success());
    }

    #[test]
    fn a_closed_stdin_stops_a_child_that_listens() {
        let (sender, _receiver) = channel();
        let mut child = Child::start(shell("cat; exit 3"), Who::Receiver, null(), sender).unwrap();
        assert_eq!(child.stop().unwrap().code(), Some(3));
    }
    #[test]
    fn a_child_that_does_not_listen_is_killed_with_its_own_children() {
        let (sender, receiver) = channel();
        let script = "trap '' INT; sleep 1000 & echo '{\"event\":\"ready\"}'; wait; sleep 1000";
        let mut child = Child::start(shell(script), Who::Sender, null(), sender).unwrap();
        assert_eq!(receiver.recv().unwrap(), (Who::Sender, Some(Event::Ready)));
        let soon = Duration::from_millis(50);
        let status = child.stop_within(soon, soon).unwrap();
        assert_eq!(status.code(), None, "ended by a signal: {status}");
        // Closed only when no process of the group holds it any more.
        assert_eq!(receiver.recv().unwrap(), (Who::Sender, None));
    }
}
