// SPDX-License-Identifier: MPL-2.0
//! A whole session in real time, with any two peers, over an emulated link.
//!
//! ```text
//! sender's process (rattan's namespace)              receiver's process
//! clip, bar code -> encoder -> peer ==rattan==> peer -> decoder -> screen
//!                               \__ signalling server of this process __/
//! ```
//! Each picture carries its number and its time of capture as a bar code in a
//! corner, read again where it is shown, so that all peers are measured alike;
//! and each packet is seen on both sides of the link. See docs/session-bench.md.

mod aiortc;
mod browser;
mod compare;
mod figures;
mod log;
mod plot;
mod receive;
mod report;
mod sampler;
mod send;
mod setting;
mod signalling;
pub mod soak;
mod wire;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use dualstream_clip::source::Size;
use dualstream_link::{Link, LinkInfo, Shape, Step};

use self::figures::{Asked, Material, Run};
use self::log::{Log, now};
use self::setting::{Fixed, LinkArg, Off, Peer, Role, Scheme, Setting};
use self::signalling::{Server, Watcher};
use crate::jitter::session::child::{Child, Heard, Who};
use crate::jitter::session::priority::real_time;
use crate::jitter::session::said::{Said, end_of_stdin, say};
use crate::video::Video;

/// For a process to start, and for a producer to be known.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PICTURE_TIMEOUT: Duration = Duration::from_secs(30);
/// Behind the time that is measured, for pictures and packets on the way.
const TAIL: Duration = Duration::from_secs(1);
/// That the sender may need for its start.
const START_S: f64 = 20.0;
pub const RUN: &str = "run.json";
pub const REPORT: &str = "report.html";

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Rate of the link: `const:KBPS`, `trace:FILE` in Mahimahi's format, or `steps`
    #[arg(long, default_value = "const:2000")]
    link: LinkArg,
    /// Share of packets that the link loses on the way to the receiver, beside those for which its queue is full
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_loss)]
    loss: f64,
    /// Round-trip time of the link in ms, half of it each way, without the queue
    #[arg(long, value_name = "MS", default_value_t = 80, value_parser = clap::value_parser!(u64).range(0..=4000))]
    rtt: u64,
    /// Of the drop-tail queue, in ms at the mean rate of the link
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    queue: u64,
    /// Time that is measured
    #[arg(long, value_name = "N", default_value_t = 60.0, value_parser = crate::parse_seconds)]
    seconds: f64,
    /// Time before it that is not, from the first picture shown
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = parse_settle)]
    settle: f64,
    /// Of our elements: `all`, or those to leave out, with commas: dual, gcc, fec, rtx, jitter-buffer
    #[arg(long, default_value = "all")]
    features: Off,
    /// Sender and receiver, where they are not named on their own
    #[arg(long, value_enum, default_value_t = Peer::Ours)]
    peer: Peer,
    #[arg(long, value_enum)]
    sender: Option<Peer>,
    #[arg(long, value_enum)]
    receiver: Option<Peer>,
    /// Video file, played there and back; without it a moving test pattern
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    #[arg(long, value_name = "WxH", default_value = "1280x720")]
    size: Size,
    /// Pictures per second; each picture of the file is used, whatever its own rate
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    fps: u32,
    /// Pictures of the file that are kept in memory
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pictures: u64,
    /// Upper limit of the sender's rate, in kbit/s; the default is that of webrtcsink
    #[arg(long, value_name = "KBPS", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(50..=100_000))]
    most: u64,
    /// Time from one key frame to the next in ms, of ours and of --fixed; 0: only where they are asked for
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    refresh: u64,
    /// No estimator: the encoder has this share of the link's mean rate; the sender is ours
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    fixed: Option<f64>,
    /// How the picture is coded with --fixed
    #[arg(long, value_enum, default_value_t = Scheme::Dual, requires = "fixed")]
    scheme: Scheme,
    /// The receiving application asks for a key frame this often, in ms, beside what its element asks for; 0: never
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    ask: u64,
    /// More properties of the sender's element, as for gst-launch; of aiortc, options of tools/aiortc/peer.py
    #[arg(long, value_name = "TEXT", default_value = "")]
    sender_properties: String,
    #[arg(long, value_name = "TEXT", default_value = "")]
    receiver_properties: String,
    /// Leave out PSNR and SSIM
    #[arg(long)]
    no_compare: bool,
    /// Folder for report.html, run.json and logs
    #[arg(long, default_value = "session-out")]
    out: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Compare earlier runs instead: their run.json, or what --json has printed
    #[arg(long, value_name = "FILE", num_args = 1..)]
    compare: Vec<PathBuf>,
}

#[derive(clap::Args, Debug, Clone)]
pub struct PeerArgs {
    /// As `session` makes it
    setting: String,
}

fn parse_loss(text: &str) -> Result<f64, String> {
    crate::jitter::session::within(text, 0.0, 0.9)
}

fn parse_settle(text: &str) -> Result<f64, String> {
    crate::jitter::session::within(text, 0.0, 600.0)
}

fn parse_share(text: &str) -> Result<f64, String> {
    crate::jitter::session::within(text, 0.05, 2.0)
}

pub fn run(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    if !args.compare.is_empty() {
        return compare::run(&args.compare, &args.out.join(REPORT), args.json);
    }
    let session = Session::new(args)?;
    // What an earlier run left there must not be taken for this one's.
    for role in [Role::Send, Role::Receive] {
        for file in [
            setting::log(&args.out, role),
            setting::packets(&args.out, role),
        ] {
            remove(&file)?;
        }
    }
    let run = session.run()?;
    let file = args.out.join(RUN);
    let text = serde_json::to_string(&run)? + "\n";
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let page = args.out.join(REPORT);
    std::fs::write(&page, report::page(&run)?)
        .with_context(|| format!("cannot write {}", page.display()))?;
    if args.json {
        crate::print_json(&run.figures)
    } else {
        crate::print(&report::table(&[&run.figures]))?;
        crate::print(&format!("{}: plots over time\n", page.display()))
    }
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// In a process of its own.
pub fn peer(args: &PeerArgs) -> Result<()> {
    let result = serde_json::from_str(&args.setting)
        .context("the setting is not understood")
        .and_then(|setting| be(&setting));
    if let Err(error) = &result {
        say(&Said::Error {
            message: format!("{error:#}"),
        });
    }
    result
}

fn be(setting: &Setting) -> Result<()> {
    let stop = end_of_stdin();
    say(&Said::Hello {
        rattan_id: std::env::var("RATTAN_ID").ok(),
    });
    let log = Log::default();
    let tap = wire::Tap::start()?;
    let result = if setting.peer.is_pipeline() {
        register(setting)?;
        match setting.role {
            Role::Send => send::run(setting, &log, &stop),
            Role::Receive => receive::run(setting, &log, &stop),
        }
    } else if setting.peer == Peer::Chromium {
        browser::run(setting, &log, &stop)
    } else {
        aiortc::run(setting, &log, &stop)
    };
    // However it ended.
    log.write(&setting.log())?;
    tap.finish(&setting.packets())?;
    result?;
    say(&Said::End);
    Ok(())
}

fn register(setting: &Setting) -> Result<()> {
    dualstream_chromium::session::init();
    let foreign = setting.peer == Peer::Webrtcsink || setting.fixed.is_some();
    if foreign {
        gstrswebrtc::plugin_register_static()?;
    }
    #[cfg(feature = "rtpgccbwe")]
    if setting.peer == Peer::Webrtcsink && setting.role == Role::Send {
        gstrsrtp::plugin_register_static()?;
    }
    Ok(())
}

struct Session<'a> {
    args: &'a Args,
    link: Link,
    steps: Vec<Step>,
    mean_kbps: u64,
    fixed: Option<Fixed>,
    server: Server,
    say: Sender<Heard>,
    heard: Receiver<Heard>,
}

impl<'a> Session<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let (sender, receiver) = (sender(args), receiver(args));
        check(sender, Role::Send)?;
        check(receiver, Role::Receive)?;
        if args.fixed.is_some() && sender != Peer::Ours {
            bail!("--fixed needs our sender");
        }
        let total = args.settle + args.seconds + START_S;
        let shape = Shape {
            delay_ms: args.rtt / 2,
            queue_ms: args.queue,
            loss: args.loss,
        };
        let out = std::path::absolute(&args.out)?;
        let (link, why) = Link::choose(&args.link.wish(total)?, shape, &out);
        let LinkInfo::Rattan { kbps, steps, .. } = link.info() else {
            bail!("no emulated link: {}", why.unwrap_or_default());
        };
        let steps = if steps.is_empty() {
            vec![Step { kbps, ms: 1000 }]
        } else {
            steps
        };
        let (say, heard) = channel();
        Ok(Self {
            args,
            fixed: args.fixed.map(|share| Fixed {
                kbps: (kbps as f64 * share).round() as u64,
                scheme: args.scheme,
            }),
            link,
            steps,
            mean_kbps: kbps,
            server: Server::start()?,
            say,
            heard,
        })
    }

    fn setting(&self, role: Role, file: Option<PathBuf>) -> Result<Setting> {
        let args = self.args;
        let (peer, properties) = match role {
            Role::Send => (sender(args), &args.sender_properties),
            Role::Receive => (receiver(args), &args.receiver_properties),
        };
        Ok(Setting {
            role,
            peer,
            port: self.server.port(),
            video: args.video.as_ref().map(std::path::absolute).transpose()?,
            size: args.size,
            fps: args.fps,
            pictures: args.pictures as usize,
            file,
            most_kbps: args.most,
            refresh_ms: args.refresh,
            fixed: self.fixed.filter(|_| role == Role::Send),
            off: args.features.clone(),
            ask_ms: args.ask,
            properties: properties.clone(),
            seconds: args.settle + args.seconds + START_S,
            // A foreign camera shows some picture of the clip.
            compare: !args.no_compare && sender(args).is_pipeline(),
            out: std::path::absolute(&args.out)?,
        })
    }

    fn spawn(&self, setting: &Setting, link: &Link, who: Who) -> Result<Child> {
        let program = std::env::current_exe().context("where is this program?")?;
        let path = setting.out.join(format!("{}.log", setting.role.name()));
        let errors =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = link.command(&program);
        command
            .arg("session-peer")
            .arg(serde_json::to_string(setting)?)
            .stderr(errors);
        if std::env::var_os("GST_DEBUG").is_none() {
            command.env("GST_DEBUG", "2");
        }
        command.env("GST_DEBUG_NO_COLOR", "1");
        Child::start(command, who, self.say.clone())
    }

    fn run(&self) -> Result<Run> {
        let clip = (sender(self.args) == Peer::Chromium)
            .then(|| Clip::write(self.args))
            .transpose()?;
        real_time();
        let file = clip.as_ref().map(|clip| clip.0.clone());
        let setting = self.setting(Role::Send, file)?;
        let link_began = now();
        let mut sender = self.spawn(&setting, &self.link, Who::Sender)?;
        let watcher = Watcher::start(self.server.port())?;
        self.wait("a sender", READY_TIMEOUT, &mut sender, |_| {
            watcher.has_producer()
        })?;
        let receiver_began = now();
        let setting = self.setting(Role::Receive, None)?;
        let receiver = self.spawn(&setting, &Link::Direct, Who::Receiver)?;
        let shown = |said: Option<&Said>| matches!(said, Some(Said::Progress { pictures: 1.. }));
        self.wait("a picture", FIRST_PICTURE_TIMEOUT, &mut sender, shown)?;
        let length = Duration::from_secs_f64(self.args.settle + self.args.seconds) + TAIL;
        let end = Instant::now() + length;
        self.wait("the end", length * 2, &mut sender, |said| {
            if let Some(Said::Progress { pictures }) = said {
                progress(*pictures, end);
            }
            Instant::now() >= end
        })?;
        // Both write their logs.
        drop(receiver);
        drop(sender);
        drop(watcher);
        self.conclude(link_began, receiver_began)
    }

    /// Until `done`, which is asked for every word and 20 times a second.
    fn wait(
        &self,
        what: &str,
        patience: Duration,
        sender: &mut Child,
        mut done: impl FnMut(Option<&Said>) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let said = match self.heard.recv_timeout(Duration::from_millis(50)) {
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
                )) => {
                    sender.rattan_id = Some(id);
                    continue;
                }
                Ok((_, said)) => said,
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => bail!("both processes are gone"),
            };
            if done(said.as_ref()) {
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

    fn conclude(&self, link_began: u64, receiver_began: u64) -> Result<Run> {
        let out = &self.args.out;
        let material = Material {
            asked: self.asked(),
            sender: log::read_lines(&setting::log(out, Role::Send))?,
            receiver: log::read_lines(&setting::log(out, Role::Receive))?,
            sender_packets: wire::read(&setting::packets(out, Role::Send))?,
            receiver_packets: wire::read(&setting::packets(out, Role::Receive))?,
            steps: self.steps.clone(),
            link_began,
            receiver_began,
            delay_ms: (self.args.rtt / 2) as f64,
        };
        figures::run(&material).context("no picture was shown")
    }

    fn asked(&self) -> Asked {
        let args = self.args;
        let video = args
            .video
            .as_ref()
            .and_then(|file| file.file_name())
            .map_or_else(
                || "test pattern".into(),
                |n| n.to_string_lossy().into_owned(),
            );
        let name = |v: Option<clap::builder::PossibleValue>| {
            v.map(|v| v.get_name().to_owned()).unwrap_or_default()
        };
        Asked {
            sender: sender(args).name(Role::Send).into(),
            receiver: receiver(args).name(Role::Receive).into(),
            link: args.link.name(),
            link_kbps: self.mean_kbps as f64,
            link_loss: args.loss,
            link_rtt_ms: args.rtt as f64,
            link_queue_ms: args.queue,
            video,
            width: args.size.width as u32,
            height: args.size.height as u32,
            source_fps: args.fps,
            features_off: args
                .features
                .0
                .iter()
                .map(|f| name(f.to_possible_value()))
                .collect(),
            fixed_kbps: self.fixed.map(|fixed| fixed.kbps),
            scheme: self
                .fixed
                .map(|fixed| name(fixed.scheme.to_possible_value())),
            ask_ms: args.ask,
            settle_s: args.settle,
            seconds: args.seconds,
        }
    }
}

fn sender(args: &Args) -> Peer {
    args.sender.unwrap_or(args.peer)
}

fn receiver(args: &Args) -> Peer {
    args.receiver.unwrap_or(args.peer)
}

/// Before anything is started.
fn check(peer: Peer, role: Role) -> Result<()> {
    match peer {
        Peer::Chromium if dualstream_chromium::browser::find().is_none() => {
            bail!("Chromium is not installed: ci/install-deps.sh check");
        }
        Peer::Webrtcsink if role == Role::Send && !cfg!(feature = "rtpgccbwe") => bail!(
            "webrtcsink needs its estimator: build with `cargo build --release -p dualstream-bench --features rtpgccbwe`"
        ),
        Peer::Aiortc => aiortc::check(),
        _ => Ok(()),
    }
}

/// The clip as a file for a browser; taken away at the end, for it is large.
struct Clip(PathBuf);

impl Clip {
    fn write(args: &Args) -> Result<Self> {
        let clip = Self(std::path::absolute(args.out.join("clip.y4m"))?);
        let video = Video::read(
            args.video.clone(),
            args.size,
            args.fps,
            args.pictures as usize,
        )?;
        browser::write_clip(&video, args.fps, &clip.0)?;
        Ok(clip)
    }
}

impl Drop for Clip {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn progress(pictures: u64, end: Instant) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        let _ = write!(out, "{pictures} pictures shown, {left} s to go \r");
    }
}

/// A file's name for people.
fn name(file: &Path) -> String {
    let folder = file.parent().and_then(Path::file_name);
    folder.map_or_else(
        || file.display().to_string(),
        |f| f.to_string_lossy().into_owned(),
    )
}
