// SPDX-License-Identifier: MPL-2.0
//! A long session of ours in real time, over a link that changes and loses packets:
//! whether memory stays flat, nothing is stuck, the logs are clean and all counters
//! add up. Nothing in it grows with its length. See docs/soak.md.

mod account;
mod judge;
mod logs;
mod memory;
mod peer;
mod streams;
mod totals;

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dualstream_clip::source::Size;
use dualstream_link::{Link, LinkInfo, Shape};
use serde::{Deserialize, Serialize};

pub use self::peer::peer;
use self::totals::Totals;
use super::setting::{LinkArg, Off, Peer, Role, Setting};
use super::signalling::{Server, Watcher};
use crate::jitter::session::child::{Child, Heard, Who};
use crate::jitter::session::said::Said;

const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Behind the end of the pictures, until both have told their counters.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// One arena of the C library for all threads: with one for each, what is free in
/// them changes by more than what is looked for here.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "1");
const SOUND: &str = "audiotestsrc is-live=true wave=ticks ! valve name=mute ! peer.audio";

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Length of the run, from the first picture shown
    #[arg(long, value_name = "N", default_value_t = 30.0, value_parser = parse_minutes)]
    minutes: f64,
    /// Rate of the link: `const:KBPS`, `trace:FILE` in Mahimahi's format, or `steps`; again from its start when it is through
    #[arg(long, default_value = "steps")]
    link: LinkArg,
    /// Share of packets that the link loses on the way to the receiver, beside those for which its queue is full
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = super::parse_loss)]
    loss: f64,
    /// Round-trip time of the link in ms, without the queue
    #[arg(long, value_name = "MS", default_value_t = 80, value_parser = clap::value_parser!(u64).range(0..=4000))]
    rtt: u64,
    /// Of the drop-tail queue, in ms at the mean rate of the link
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    queue: u64,
    /// Of our elements: `all`, or those to leave out, with commas: dual, gcc, fec, rtx, jitter-buffer
    #[arg(long, default_value = "all")]
    features: Off,
    /// Video file, played there and back; without it a moving test pattern
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    #[arg(long, value_name = "WxH", default_value = "640x360")]
    size: Size,
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    fps: u32,
    /// Time from one background key frame to the next in ms
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    refresh: u64,
    /// By how much memory may grow, from after the start to the end
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = super::parse_loss)]
    growth: f64,
    /// More properties of the sender's element, as for gst-launch
    #[arg(long, value_name = "TEXT", default_value = "")]
    sender_properties: String,
    #[arg(long, value_name = "TEXT", default_value = "")]
    receiver_properties: String,
    /// Folder for logs, samples and counters
    #[arg(long, default_value = "soak-out")]
    out: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Judge what an earlier run has left in this folder instead
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    crate::jitter::session::within(text, 0.5, 1440.0)
}

/// What a process tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Report {
    /// Once a second.
    Sample(Sample),
    /// When nothing is on its way any more.
    Totals(Box<Totals>),
    /// Of the packets on the wire, at the end of the process.
    Streams(streams::Streams),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Since the start of the process, in s.
    pub at: f64,
    pub memory: memory::Memory,
    pub pictures: u64,
    /// The longest time without a picture so far, in ms.
    pub longest_gap_ms: u64,
    /// Pictures whose time stamp was not above the one before.
    pub disordered: u64,
    /// Pictures whose bar code cannot be read, or shows an earlier number: parts of
    /// them are missing.
    pub damaged: u64,
    /// What is held in queues now.
    pub held: std::collections::BTreeMap<String, f64>,
}

/// What one process has told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub samples: Vec<Sample>,
    pub totals: Totals,
    pub streams: streams::Streams,
}

pub fn run(args: &Args) -> Result<()> {
    let outcome = if let Some(folder) = &args.from {
        judge::Outcome::read(folder, args.growth)?
    } else {
        std::fs::create_dir_all(&args.out)
            .with_context(|| format!("cannot make the folder {}", args.out.display()))?;
        Soak::new(args)?.run()?
    };
    let folder = args.from.as_ref().unwrap_or(&args.out);
    let file = folder.join("soak.json");
    let text = serde_json::to_string_pretty(&outcome)? + "\n";
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    if args.json {
        crate::print_json(&outcome)?;
    } else {
        crate::print(&outcome.to_string())?;
    }
    if !outcome.is_good() {
        bail!("not all is as it should be");
    }
    Ok(())
}

struct Soak<'a> {
    args: &'a Args,
    link: Link,
    server: Server,
    say: Sender<Heard>,
    heard: Receiver<Heard>,
    told: [Told; 2],
    /// No more pictures are sent.
    is_over: bool,
}

impl<'a> Soak<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let seconds = args.minutes * 60.0;
        let shape = Shape {
            delay_ms: args.rtt / 2,
            queue_ms: args.queue,
            loss: args.loss,
        };
        let out = std::path::absolute(&args.out)?;
        let (link, why) = Link::choose(&args.link.wish(seconds)?, shape, &out);
        let LinkInfo::Rattan { .. } = link.info() else {
            bail!("no emulated link: {}", why.unwrap_or_default());
        };
        let (say, heard) = channel();
        Ok(Self {
            args,
            link,
            server: Server::start()?,
            say,
            heard,
            told: Default::default(),
            is_over: false,
        })
    }

    fn spawn(&self, role: Role, link: &Link, who: Who) -> Result<Child> {
        let args = self.args;
        let properties = match role {
            Role::Send => format!("{} {SOUND}", args.sender_properties),
            Role::Receive => args.receiver_properties.clone(),
        };
        let setting = Setting {
            role,
            peer: Peer::Ours,
            port: self.server.port(),
            video: args.video.as_ref().map(std::path::absolute).transpose()?,
            size: args.size,
            fps: args.fps,
            pictures: 150,
            file: None,
            most_kbps: 8192,
            refresh_ms: args.refresh,
            fixed: None,
            off: args.features.clone(),
            ask_ms: 0,
            properties,
            seconds: args.minutes * 60.0,
            compare: false,
            out: std::path::absolute(&args.out)?,
        };
        let program = std::env::current_exe().context("where is this program?")?;
        let path = self.log(role);
        let errors =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = link.command(&program);
        command
            .arg("soak-peer")
            .arg(serde_json::to_string(&setting)?)
            .env(ARENAS.0, ARENAS.1)
            .env_remove("G_DEBUG")
            .env("GST_DEBUG_NO_COLOR", "1")
            .stderr(errors);
        if std::env::var_os("GST_DEBUG").is_none() {
            command.env("GST_DEBUG", "2");
        }
        Child::start(command, who, self.say.clone())
    }

    fn log(&self, role: Role) -> PathBuf {
        self.args.out.join(format!("{}.log", role.name()))
    }

    fn run(mut self) -> Result<judge::Outcome> {
        let mut sender = self.spawn(Role::Send, &self.link, Who::Sender)?;
        let watcher = Watcher::start(self.server.port())?;
        self.wait("a sender", READY_TIMEOUT, &mut sender, |_| {
            watcher.has_producer()
        })?;
        let mut receiver = self.spawn(Role::Receive, &Link::Direct, Who::Receiver)?;
        let shown = |told: &[Told; 2]| told[1].samples.last().is_some_and(|s| s.pictures > 0);
        self.wait("a picture", READY_TIMEOUT, &mut sender, shown)?;
        drop(watcher);
        let length = Duration::from_secs_f64(self.args.minutes * 60.0);
        let end = Instant::now() + length;
        self.wait("the end", length * 2, &mut sender, |_| {
            Instant::now() >= end
        })?;
        // No more pictures, and then nothing on its way.
        self.is_over = true;
        sender.release();
        let told = |index: usize| move |told: &[Told; 2]| !told[index].totals.counts.is_empty();
        self.wait("the sender's counters", END_TIMEOUT, &mut sender, told(0))?;
        receiver.release();
        self.wait("the receiver's counters", END_TIMEOUT, &mut sender, told(1))?;
        drop(receiver);
        drop(sender);
        while let Ok(heard) = self.heard.try_recv() {
            self.hear(heard.0, heard.1)?;
        }
        self.conclude()
    }

    fn hear(&mut self, who: Who, said: Option<Said>) -> Result<()> {
        let Some(Said::Report { value }) = said else {
            return Ok(());
        };
        let told = &mut self.told[usize::from(who == Who::Receiver)];
        match serde_json::from_value(value).context("a report is not understood")? {
            // Then there are no pictures with good reason.
            Report::Sample(_) if self.is_over => {}
            Report::Sample(sample) => told.samples.push(sample),
            Report::Totals(totals) => told.totals = *totals,
            Report::Streams(streams) => told.streams = streams,
        }
        Ok(())
    }

    /// Until `done`, which is asked for every word and 20 times a second.
    fn wait(
        &mut self,
        what: &str,
        patience: Duration,
        sender: &mut Child,
        mut done: impl FnMut(&[Told; 2]) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self.heard.recv_timeout(Duration::from_millis(50)) {
                Ok((who, None)) => bail!(
                    "the {} ended early (see {}.log in {})",
                    who.name(),
                    who.name(),
                    self.args.out.display()
                ),
                Ok((who, Some(Said::Error { message }))) => {
                    bail!("the {}: {message}", who.name());
                }
                Ok((
                    _,
                    Some(Said::Hello {
                        rattan_id: Some(id),
                    }),
                )) => sender.rattan_id = Some(id),
                Ok((who, said)) => self.hear(who, said)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("both processes are gone"),
            }
            if done(&self.told) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "no sign of {what} for {} s (logs are in {})",
                    patience.as_secs(),
                    self.args.out.display()
                );
            }
        }
    }

    fn conclude(&self) -> Result<judge::Outcome> {
        let out = &self.args.out;
        for (told, name) in self.told.iter().zip(PROCESSES) {
            super::log::write_lines(&out.join(format!("{name}{SAMPLES}")), &told.samples)?;
            let text = serde_json::to_string_pretty(&(&told.totals, &told.streams))? + "\n";
            std::fs::write(out.join(format!("{name}{COUNTERS}")), text)?;
        }
        std::fs::write(out.join(LINK), self.link.info().to_string())?;
        judge::Outcome::read(out, self.args.growth)
    }
}

/// What a run leaves in its folder, beside the logs.
const PROCESSES: [&str; 2] = ["sender", "receiver"];
const SAMPLES: &str = ".samples.jsonl";
const COUNTERS: &str = ".counters.json";
const LINK: &str = "link.txt";

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps with other keys than strings are not.
    #[test]
    fn reports_are_read_as_they_were_told() {
        let mut totals = Totals::default();
        totals.counts.insert("a.b".into(), 1.5);
        totals.streams.insert("0000abcd".into(), Default::default());
        for report in [
            Report::Streams(totals.streams.clone()),
            Report::Totals(Box::new(totals)),
            Report::Sample(Sample::default()),
        ] {
            let value = serde_json::to_value(&report).expect("JSON");
            let said = serde_json::to_string(&Said::Report { value }).expect("JSON");
            let Ok(Said::Report { value }) = serde_json::from_str(&said) else {
                panic!("not understood: {said}");
            };
            let read: Report = serde_json::from_value(value).expect("a report");
            assert_eq!(read, report);
        }
    }
}
