// SPDX-License-Identifier: MPL-2.0
//! The parent: chooses the link, starts receiver and sender, watches them, and
//! makes the report.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::child::{Child, Heard, Who};
use crate::estimator::Estimator;
use crate::events::Event;
use crate::log::{Rate, Sent, Shown, read_lines};
use crate::plots::{self, Time};
use crate::progress::Progress;
use crate::stats::{Setting, Summary, coded, summarise};
use crate::{progress, rates, report};
use dualstream_clip::source::{Clip, ClipInfo, MOST_TEST_SECONDS};
use dualstream_link::{Link, LinkInfo, LinkWish, Shape, Step, mahimahi};

const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Signalling, ICE, DTLS, first key frame.
const FIRST_PICTURE_TIMEOUT: Duration = Duration::from_secs(30);
const STALL_TIMEOUT: Duration = Duration::from_secs(12);
/// The receiver compares and records what is left.
const FINISH_TIMEOUT: Duration = Duration::from_secs(120);
const NOT_ENDING: &str = "the receiver does not end";
/// ATT-LTE-driving.up has its first outages by then.
const PATTERN_SECONDS_OF_TRACE: u32 = 60;
/// Of a trace, for a clip that does not tell its length.
const TRACE_SECONDS: f64 = 600.0;
/// Of a trace, for the start and the end of the session.
const TRACE_MARGIN: f64 = 10.0;
/// Interrupted by the user (128 + SIGINT).
const INTERRUPTED: u8 = 130;

pub struct Options {
    pub clip: Clip,
    pub bitrate_kbps: u32,
    pub refresh_interval: u32,
    pub seconds: Option<f64>,
    pub link: LinkWish,
    /// Instead of it.
    pub trace: Option<PathBuf>,
    pub estimator: Estimator,
    pub out: PathBuf,
}

pub fn run(mut options: Options) -> Result<ExitCode> {
    let program = std::env::current_exe().context("where is this program?")?;
    options.clip.pattern_seconds = pattern_seconds(&options);
    let options = &options;
    let info = inspect(&program, &options.clip)?;
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make the folder {}", options.out.display()))?;
    for name in FILES {
        let _ = std::fs::remove_file(options.out.join(name));
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .context("cannot watch for signals")?;

    let mut out = std::io::stdout().lock();
    let wish = match &options.trace {
        Some(file) => traced(file, options.seconds.or(info.seconds))?,
        None => options.link.clone(),
    };
    let (link, why) = Link::choose(&wish, Shape::default(), &options.out);
    writeln!(
        out,
        "clip: {}, {}x{}, {} frames/s",
        info.name, info.width, info.height, info.fps
    )?;
    if let Some(why) = why {
        writeln!(out, "no emulated link: {why}")?;
    }
    writeln!(out, "link: {}", link.info())?;
    out.flush()?;
    drop(out);

    let mut session = Session::new(options, &program, link.clone(), interrupted)?;
    let mut errors = Vec::new();
    match session.follow() {
        Ok(()) => {}
        Err(Ended::Interrupted) => {
            session.stop();
            give_back(&options.out);
            let _ = writeln!(std::io::stderr(), "\ninterrupted");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Err(Ended::Fault(error)) => errors.push(error),
    }
    session.stop();
    for (who, event) in session.heard.try_iter() {
        if let Some(Event::Error { message }) = event {
            errors.push(format!("{}: {message}", who.name()));
        }
    }
    let setting = Setting {
        source: info.name,
        link: link.info(),
        width: info.width,
        height: info.height,
        fps: info.fps,
        bitrate_kbps: u64::from(options.bitrate_kbps),
        refresh_interval_ms: u64::from(options.refresh_interval),
        estimator: options.estimator.name().into(),
        encoder: session.encoder.clone(),
        decoder: session.decoder.clone(),
    };
    let result = conclude(&options.out, setting, &errors);
    give_back(&options.out);
    result
}

/// The test pattern is as long as is wanted of it, and long enough for what a
/// trace has in store. `None`: as it is.
fn pattern_seconds(options: &Options) -> Option<u32> {
    if options.clip.file.is_some() {
        return None;
    }
    let of_trace = options.trace.is_some().then_some(PATTERN_SECONDS_OF_TRACE);
    let wanted = |s: f64| (s.ceil() as u32).clamp(1, MOST_TEST_SECONDS);
    options.seconds.map(wanted).or(of_trace)
}

/// The longest time in which the link lets next to nothing pass.
fn longest_outage(link: &LinkInfo) -> Duration {
    let longest = rates::outages(&steps(link), TRACE_SECONDS)
        .iter()
        .map(|(from, to)| to - from)
        .fold(0.0, f64::max);
    Duration::from_secs_f64(longest)
}

/// A link that follows the trace in this file, as much of it as will be used:
/// the queue's size rests on its mean.
fn traced(file: &Path, seconds: Option<f64>) -> Result<LinkWish> {
    let seconds = seconds.unwrap_or(TRACE_SECONDS) + TRACE_MARGIN;
    mahimahi::read(file, (seconds * 1e3) as u64)
        .map(LinkWish::Stepped)
        .map_err(|why| anyhow!(why))
}

/// Under sudo the files belong to the one who called it.
fn give_back(out: &Path) {
    let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) else {
        return;
    };
    let inside = std::fs::read_dir(out)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for path in inside.chain([out.to_path_buf()]) {
        // Without the right to do so they are the user's already.
        let _ = std::os::unix::fs::lchown(path, Some(user), Some(group));
    }
}

const VIDEO: &str = "received.mp4";
const SENDER_LOG: &str = "sender.jsonl";
const RECEIVER_LOG: &str = "receiver.jsonl";
const RATES_LOG: &str = "rates.jsonl";
const RATES_PLOT: &str = "rates.svg";
const SUMMARY: &str = "summary.json";
const REPORT: &str = "report.html";
const FILES: [&str; 8] = [
    VIDEO,
    SENDER_LOG,
    RECEIVER_LOG,
    RATES_LOG,
    RATES_PLOT,
    SUMMARY,
    REPORT,
    dualstream_link::TRACE,
];

/// In a process of its own: a decoder that crashes on a broken file does not
/// take the demo along.
fn inspect(program: &Path, clip: &Clip) -> Result<ClipInfo> {
    if let Some(file) = &clip.file {
        File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    }
    let mut command = Command::new(program);
    command.arg("inspect").stdin(Stdio::null());
    add_clip(&mut command, clip);
    let output = command.output().context("cannot look into the clip")?;
    let name = clip
        .file
        .as_ref()
        .map_or_else(|| "the test pattern".into(), |f| f.display().to_string());
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said
            .lines()
            .find_map(|line| line.strip_prefix("error: "))
            .map_or_else(|| output.status.to_string(), str::to_string);
        bail!("{name} cannot be played: {why}");
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("what is {name}?"))
}

fn add_clip(command: &mut Command, clip: &Clip) {
    if let Some(size) = clip.size {
        command.arg(format!("--size={}x{}", size.width, size.height));
    }
    if let Some(seconds) = clip.pattern_seconds {
        command.arg(format!("--pattern-seconds={seconds}"));
    }
    if let Some(file) = &clip.file {
        command.arg("--").arg(file);
    }
}

/// Why following the children ended before its time.
enum Ended {
    Interrupted,
    Fault(String),
}

struct Session {
    sender: Option<Child>,
    receiver: Child,
    heard: Receiver<Heard>,
    interrupted: Arc<AtomicBool>,
    progress: Progress,
    encoder: String,
    decoder: String,
    start_sender: Option<StartSender>,
    /// Nothing new to see is a fault after this time.
    stall: Duration,
}

type StartSender = Box<dyn FnOnce() -> Result<Child>>;

impl Session {
    /// Starts the receiver; the sender follows once that listens.
    fn new(
        options: &Options,
        program: &Path,
        link: Link,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self> {
        let stall = STALL_TIMEOUT + longest_outage(&link.info());
        let (say, heard) = channel();
        let port = free_port()?;
        let out = std::path::absolute(&options.out)?;

        let mut command = Link::Direct.command(program);
        command.arg("receive").arg(format!("--port={port}"));
        command.arg("--record").arg(out.join(VIDEO));
        command.arg("--log").arg(out.join(RECEIVER_LOG));
        add_clip(&mut command, &options.clip);
        let receiver = start(command, Who::Receiver, &out, say.clone())?;

        let mut command = link.command(program);
        command
            .arg("send")
            .arg(format!("--port={port}"))
            .arg(format!("--bitrate={}", options.bitrate_kbps * 1000))
            .arg(format!("--refresh-interval={}", options.refresh_interval));
        command.arg("--log").arg(out.join(SENDER_LOG));
        command.arg("--rates").arg(out.join(RATES_LOG));
        command.arg(format!("--estimator={}", options.estimator.name()));
        if let Some(seconds) = options.seconds {
            command.arg(format!("--seconds={seconds}"));
        }
        add_clip(&mut command, &options.clip);
        Ok(Self {
            sender: None,
            receiver,
            heard,
            interrupted,
            progress: Progress::new(),
            encoder: "unknown".into(),
            decoder: "unknown".into(),
            start_sender: Some(Box::new(move || start(command, Who::Sender, &out, say))),
            stall,
        })
    }

    /// Until the receiver has written its files.
    fn follow(&mut self) -> Result<(), Ended> {
        let mut waiting = Waiting::new(READY_TIMEOUT, "the receiver does not listen");
        loop {
            let (who, event) = match self.heard.recv_timeout(Duration::from_millis(100)) {
                Ok(heard) => heard,
                Err(RecvTimeoutError::Timeout) => {
                    if self.interrupted.load(Ordering::Relaxed) {
                        return Err(Ended::Interrupted);
                    }
                    waiting.check()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Ended::Fault("both processes are gone".into()));
                }
            };
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Ended::Interrupted);
            }
            match event {
                Some(Event::Ready) => {
                    if let Some(start) = self.start_sender.take() {
                        let child = start().map_err(|e| Ended::Fault(format!("{e:#}")))?;
                        self.sender = Some(child);
                    }
                    waiting = Waiting::new(FIRST_PICTURE_TIMEOUT, "no picture was shown");
                }
                Some(Event::Hello { rattan_id }) => {
                    if let Some(sender) = &mut self.sender {
                        sender.rattan_id = rattan_id;
                    }
                }
                Some(Event::Sending { pictures, kbps }) => self.progress.sending(pictures, kbps),
                Some(Event::AllSent { pictures, encoder }) => {
                    self.encoder = encoder;
                    self.receiver.tell_end(pictures);
                    waiting = Waiting::new(FINISH_TIMEOUT, NOT_ENDING);
                }
                Some(Event::Showing(showing)) => {
                    if self.progress.showing(&showing) {
                        waiting.moved(self.stall);
                    }
                }
                Some(Event::Finished { decoder }) => {
                    self.decoder = decoder;
                    self.progress.end();
                    return Ok(());
                }
                Some(Event::Error { message }) => {
                    self.progress.end();
                    return Err(Ended::Fault(format!("{}: {message}", who.name())));
                }
                None => {
                    self.progress.end();
                    return Err(Ended::Fault(format!("the {} ended early", who.name())));
                }
            }
        }
    }

    /// Both at once, then each in turn.
    fn stop(&mut self) {
        self.receiver.release();
        if let Some(sender) = &mut self.sender {
            sender.stop();
        }
        self.receiver.stop();
    }
}

/// What is waited for, how long, and what it means if it does not come.
struct Waiting {
    since: Instant,
    patience: Duration,
    fault: &'static str,
}

impl Waiting {
    fn new(patience: Duration, fault: &'static str) -> Self {
        Self {
            since: Instant::now(),
            patience,
            fault,
        }
    }

    /// A picture came. The wait for the end of the files goes on.
    fn moved(&mut self, stall: Duration) {
        if self.fault != NOT_ENDING {
            *self = Self::new(stall, "no new picture was shown");
        }
    }

    fn check(&self) -> Result<(), Ended> {
        if self.since.elapsed() < self.patience {
            return Ok(());
        }
        let seconds = self.patience.as_secs();
        Err(Ended::Fault(format!("{} for {seconds} s", self.fault)))
    }
}

fn start(mut command: Command, who: Who, out: &Path, say: Sender<Heard>) -> Result<Child> {
    let path = out.join(format!("{}.log", who.name()));
    let errors = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if std::env::var_os("GST_DEBUG").is_none() {
        command.env("GST_DEBUG", "2");
    }
    command.env("GST_DEBUG_NO_COLOR", "1");
    Child::start(command, who, errors, say)
}

/// Taken again by the signalling server in a moment.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("0.0.0.0", 0)).context("no free TCP port")?;
    Ok(listener.local_addr()?.port())
}

/// A link of one rate has one step.
fn steps(link: &LinkInfo) -> Vec<Step> {
    match link {
        LinkInfo::Rattan { steps, kbps, .. } if steps.is_empty() => vec![Step {
            kbps: *kbps,
            ms: 1000,
        }],
        LinkInfo::Rattan { steps, .. } => steps.clone(),
        LinkInfo::Direct => Vec::new(),
    }
}

/// Writes summary and report from the logs, and says how it went.
fn conclude(out: &Path, setting: Setting, errors: &[String]) -> Result<ExitCode> {
    let mut errors = errors.to_vec();
    let sent: Vec<Sent> = or_note(read_lines(&out.join(SENDER_LOG)), &mut errors);
    let shown: Vec<Shown> = or_note(read_lines(&out.join(RECEIVER_LOG)), &mut errors);
    let rates: Vec<Rate> = or_note(read_lines(&out.join(RATES_LOG)), &mut errors);
    let steps = steps(&setting.link);
    let fps = setting.fps;
    let outages = rates::excuses(&steps, &rates);
    let mut summary = summarise(&sent, &shown, setting, &errors, &outages);
    summary.rates = rates::figures(&steps, &rates, &shown);
    let write = |name: &str, text: String| {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write(SUMMARY, serde_json::to_string_pretty(&summary)? + "\n")?;
    let coded = coded(&sent);
    let failed = |e| anyhow!("report: {e}");
    let plot = summary
        .rates
        .is_some()
        .then(|| plots::rates(&Time::of(&coded, &shown, fps), &steps, &rates, &shown))
        .transpose()
        .map_err(failed)?;
    if let Some(plot) = &plot {
        write(RATES_PLOT, plot.clone())?;
    }
    let page = report::page(&summary, &coded, &shown, plot.as_deref()).map_err(failed)?;
    write(REPORT, page)?;
    print_result(out, &summary)?;
    Ok(if summary.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn or_note<T>(read: Result<Vec<T>>, errors: &mut Vec<String>) -> Vec<T> {
    read.unwrap_or_else(|e| {
        // A process that failed has said why, and may have no log.
        if errors.is_empty() {
            errors.push(format!("{e:#}"));
        }
        Vec::new()
    })
}

fn print_result(out: &Path, summary: &Summary) -> Result<()> {
    let mut to = std::io::stdout().lock();
    write!(to, "\n{}", progress::table(summary))?;
    if summary.problems.is_empty() {
        writeln!(to, "{}", summary.praise())?;
    }
    for problem in &summary.problems {
        writeln!(to, "PROBLEM: {problem}")?;
    }
    for (name, what) in [
        (REPORT, "figures and plots"),
        (VIDEO, "what was shown"),
        (SUMMARY, "the figures as JSON"),
    ] {
        let path = out.join(name);
        if path.exists() {
            writeln!(to, "{:<28} {what}", path.display())?;
        }
    }
    writeln!(
        to,
        "{:<28} per frame (*.jsonl), warnings (*.log)",
        out.join("*").display()
    )?;
    Ok(())
}
