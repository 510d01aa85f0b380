// SPDX-License-Identifier: MPL-2.0
//! Jitter buffers in a session, in real time.
//!
//! ```text
//! sender                                relay             receiver
//! pictures ! x264enc ! rtpbin =rattan=> jitter, loss ===> rtpbin ! decoder ! sink
//!                             <=rattan= RTCP <=========
//! ```
//! The sender runs in a network namespace behind `rattan`, which delays both
//! directions; the relay (relay.rs) adds jitter and loss to media and
//! retransmissions. All together each direction takes half of the round-trip
//! time in the mean. Both ends use AVPF with NACK, RTX and
//! PLI, and feedback is sent at once. One clock for all: the monotonic one of
//! the machine. A picture is known by its RTP time stamp.
//!
//! All processes have real-time priority, where that is allowed.
//!
//! The buffers have their turns one after the other, each with the same pictures
//! and the same seed.

mod blocks;
pub mod child;
mod figures;
mod listing;
pub mod pipeline;
pub mod priority;
mod receive;
mod relay;
pub mod said;
mod send;

use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dualstream_clip::source::Size;
use dualstream_link::find_rattan;
use serde::{Deserialize, Serialize};

use self::child::{Child, Heard, Who};
use self::figures::{Figures, Log, Window};
use self::relay::{Impairment, Ports, Relay, Shape};
use self::said::{Said, say};
use super::Model;

pub const MEDIA_PT: u8 = 96;
const RTX_PT: u8 = 97;
pub const SSRC: u32 = 0x1234;
const CLOCK_RATE: u64 = 90_000;
/// Free in a namespace of its own.
const SENDER_RTCP: u16 = 5005;
const PATIENCE: Duration = Duration::from_secs(20);
/// Pictures on the way, after the last was sent.
const LINGER: Duration = Duration::from_millis(1500);

#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "With --session; --buffers and --seconds with --cpu too")]
pub struct Options {
    /// Factories that rtpbin takes as its jitter buffer, with commas, each with its latency in ms or none; `none`: neither wait nor repair
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "rtpjitterbuffer:10,rtpjitterbuffer:50,rtpjitterbuffer:200,rtpkalmanjitterbuffer"
    )]
    buffers: Vec<Buffer>,
    /// Time that is measured for each
    #[arg(long, value_name = "N", default_value_t = 30.0, value_parser = crate::parse_seconds)]
    pub seconds: f64,
    /// Time before it that is not
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = parse_settle)]
    settle: f64,
    /// Extra delay of each packet, see --jitter-shape
    #[arg(long, value_name = "MS", default_value_t = 20.0, value_parser = parse_ms)]
    jitter_ms: f64,
    #[arg(long, value_enum, default_value_t = Shape::Uniform)]
    jitter_shape: Shape,
    /// Packets overtake each other; without this each waits for those before it, as in a queue
    #[arg(long)]
    reorder: bool,
    /// Share of media packets and retransmissions that are lost
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = parse_loss)]
    pub loss: f64,
    /// Round-trip time in the mean, with the jitter, as ping shows it
    #[arg(long, value_name = "MS", default_value_t = 80.0, value_parser = parse_ms)]
    pub rtt_ms: f64,
    /// Of jitter and loss
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Video file, played again and again; without it a moving test pattern
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    #[arg(long, value_name = "WxH", default_value = "640x360")]
    size: Size,
    /// Pictures per second; each picture of the file is used once, whatever its own rate
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    fps: u32,
    /// Bitrate of the encoder, in kbit/s
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(50..=50_000))]
    kbps: u32,
    /// Pictures later than this are not shown; -1: all are
    #[arg(long, value_name = "MS", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..=10_000))]
    max_lateness_ms: i64,
    /// What the sink adds to the latency for decoding; GStreamer's own default is 20
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    processing_deadline_ms: u64,
    /// Show nothing after a loss until a key frame, instead of broken pictures
    #[arg(long)]
    wait_for_keyframe: bool,
    /// Write a line for each picture to this file, tab separated
    #[arg(long, value_name = "FILE")]
    pictures: Option<PathBuf>,
}

pub fn within(text: &str, from: f64, to: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (from..=to).contains(&value) => Ok(value),
        _ => Err(format!("not a number from {from} to {to}")),
    }
}

fn parse_ms(text: &str) -> Result<f64, String> {
    within(text, 0.0, 2000.0)
}

fn parse_settle(text: &str) -> Result<f64, String> {
    within(text, 1.0, 600.0)
}

fn parse_loss(text: &str) -> Result<f64, String> {
    within(text, 0.0, 0.9)
}

impl Options {
    pub fn factories(&self) -> Vec<String> {
        let factories = self.buffers.iter().map(|buffer| buffer.factory.clone());
        factories.collect()
    }
}

/// A jitter buffer to measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    name: String,
    factory: String,
    latency_ms: Option<u32>,
    /// The sink waits for each picture's time.
    waits: bool,
}

pub const PLAIN: &str = "rtpjitterbuffer";

impl FromStr for Buffer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self {
                name: text.into(),
                factory: PLAIN.into(),
                latency_ms: Some(0),
                waits: false,
            });
        }
        let (factory, latency) = match text.split_once(':') {
            Some((factory, ms)) => {
                let ms = ms.parse().map_err(|_| format!("`{ms}` is not a time"))?;
                (factory, Some(ms))
            }
            None => (text, None),
        };
        if factory.is_empty() {
            return Err("a buffer without a name".into());
        }
        Ok(Self {
            name: factory.into(),
            factory: factory.into(),
            latency_ms: latency,
            waits: true,
        })
    }
}

impl Buffer {
    /// GStreamer's own, which rtpbin takes by itself.
    fn is_plain(&self) -> bool {
        self.factory == PLAIN
    }
}

/// What both processes are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setting {
    buffer: Buffer,
    model: Model,
    late_target: f64,
    video: Option<PathBuf>,
    size: Size,
    fps: u32,
    kbps: u32,
    settle_s: f64,
    seconds: f64,
    max_lateness_ms: i64,
    processing_deadline_ms: u64,
    wait_for_keyframe: bool,
    ports: Ports,
    relay_rtp: u16,
    relay_rtcp: u16,
}

impl Setting {
    fn settle(&self) -> Duration {
        Duration::from_secs_f64(self.settle_s)
    }

    /// Until the end of what is measured.
    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.settle_s + self.seconds)
    }

    fn max_lateness_ns(&self) -> i64 {
        match self.max_lateness_ms {
            -1 => -1,
            ms => ms * 1_000_000,
        }
    }

    fn processing_deadline_ns(&self) -> u64 {
        self.processing_deadline_ms * 1_000_000
    }
}

/// A process of a session, told what to do as JSON.
#[derive(clap::Args, Debug, Clone)]
pub struct ProcessArgs {
    setting: String,
}

pub fn send(args: &ProcessArgs) -> Result<()> {
    process(args, send::run)
}

pub fn receive(args: &ProcessArgs) -> Result<()> {
    process(args, receive::run)
}

fn process(args: &ProcessArgs, run: impl Fn(&Setting) -> Result<()>) -> Result<()> {
    let setting = serde_json::from_str(&args.setting)?;
    let result = run(&setting);
    if let Err(error) = &result {
        let message = format!("{error:#}");
        say(&Said::Error { message });
    }
    result
}

pub fn run(options: &Options, model: Model, late_target: f64, json: bool) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("--session needs root, for the network namespaces that rattan makes");
    }
    let rattan = find_rattan()
        .context("--session needs rattan, which is not installed: cargo install rattan --locked")?;
    if !priority::real_time() {
        let _ = writeln!(
            std::io::stderr(),
            "without real-time priority: what else the machine does disturbs the figures"
        );
    }
    for buffer in &options.buffers {
        pipeline::make(&buffer.factory)?;
    }
    let mut listing = match &options.pictures {
        Some(file) => Some(listing(file)?),
        None => None,
    };
    let mut all = Vec::new();
    for buffer in &options.buffers {
        let (figures, log) = measure(options, buffer, (model, late_target), &rattan)
            .with_context(|| buffer.name.clone())?;
        if let Some(file) = &mut listing {
            let name = figures::name(&figures.buffer, figures.latency_ms);
            file.write_all(listing::lines(&name, &log).as_bytes())?;
        }
        if json {
            crate::print_json(&figures)?;
        }
        all.push(figures);
    }
    if json {
        return Ok(());
    }
    crate::print(&figures::table(&all))
}

fn listing(path: &Path) -> Result<File> {
    let open = || {
        let mut file = File::create(path)?;
        file.write_all(listing::HEADER.as_bytes())?;
        Ok::<_, std::io::Error>(file)
    };
    open().with_context(|| format!("{} cannot be written", path.display()))
}

fn measure(
    options: &Options,
    buffer: &Buffer,
    (model, late_target): (Model, f64),
    rattan: &Path,
) -> Result<(Figures, Log)> {
    let impairment = Impairment {
        jitter: Duration::from_secs_f64(options.jitter_ms / 1000.0),
        shape: options.jitter_shape,
        loss: options.loss,
        reorder: options.reorder,
        seed: options.seed,
    };
    let [receiver_rtp, receiver_rtcp] = free_ports()?;
    let ports = Ports {
        receiver_rtp,
        receiver_rtcp,
        sender_rtcp: SENDER_RTCP,
    };
    let one_way = OneWay::new(options.rtt_ms, &impairment)?;
    let relay = Relay::start(impairment, ports)?;
    let setting = Setting {
        buffer: buffer.clone(),
        model,
        late_target,
        video: options.video.clone(),
        size: options.size,
        fps: options.fps,
        kbps: options.kbps,
        settle_s: options.settle,
        seconds: options.seconds,
        max_lateness_ms: options.max_lateness_ms,
        processing_deadline_ms: options.processing_deadline_ms,
        wait_for_keyframe: options.wait_for_keyframe,
        ports,
        relay_rtp: relay.rtp,
        relay_rtcp: relay.rtcp,
    };
    let log = Session::start(&setting)?.follow(&setting, rattan, one_way)?;
    drop(relay);
    let counts = log.counts.context("the receiver has counted nothing")?;
    let window = Window {
        start: setting.settle(),
        end: setting.length(),
    };
    let ours = !buffer.is_plain();
    let figures = Figures {
        buffer: buffer.name.clone(),
        latency_ms: buffer.latency_ms.filter(|_| buffer.waits),
        model: ours.then_some(model),
        late_target: ours.then_some(late_target),
        jitter_ms: options.jitter_ms,
        jitter_shape: options.jitter_shape,
        loss: options.loss,
        rtt_ms: options.rtt_ms,
        reorder: options.reorder,
        seconds: options.seconds,
        seed: options.seed,
        pictures: figures::pictures(&log, window),
        counts,
        cpu_us_per_packet: counts.cpu_us / counts.packets.max(1) as f64,
    };
    Ok((figures, log))
}

/// Without the jitter, in ms: what rattan does.
#[derive(Clone, Copy, Debug, PartialEq)]
struct OneWay {
    forward: f64,
    back: f64,
}

impl OneWay {
    /// Jitter is a part of the way forward, as long as that is long enough.
    fn new(rtt_ms: f64, impairment: &Impairment) -> Result<Self> {
        let jitter = impairment.mean().as_secs_f64() * 1000.0;
        if rtt_ms < jitter {
            bail!("--rtt-ms {rtt_ms} is less than the jitter alone takes, {jitter:.1} ms");
        }
        let forward = (rtt_ms / 2.0 - jitter).max(0.0);
        let back = rtt_ms - jitter - forward;
        Ok(Self { forward, back })
    }
}

/// Taken by the receiver in a moment.
fn free_ports() -> Result<[u16; 2]> {
    let bind = || UdpSocket::bind(("127.0.0.1", 0)).context("no free UDP port");
    let sockets = [bind()?, bind()?];
    let [a, b] = &sockets;
    Ok([a.local_addr()?.port(), b.local_addr()?.port()])
}

struct Session {
    receiver: Child,
    sender: Option<Child>,
    heard: Receiver<Heard>,
    say: std::sync::mpsc::Sender<Heard>,
}

fn command(program: &Path, role: &str, setting: &Setting) -> Result<Vec<String>> {
    let program = program.to_str().context("the program's path is no text")?;
    Ok(vec![
        program.into(),
        role.into(),
        serde_json::to_string(setting)?,
    ])
}

fn spawn(words: &[String]) -> Result<Command> {
    let [program, rest @ ..] = words else {
        bail!("no program");
    };
    let mut command = Command::new(program);
    command.args(rest);
    Ok(command)
}

impl Session {
    fn start(setting: &Setting) -> Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let (say, heard) = channel();
        let words = command(&program, "jitter-receive", setting)?;
        let receiver = Child::start(spawn(&words)?, Who::Receiver, say.clone())?;
        Ok(Self {
            receiver,
            sender: None,
            heard,
            say,
        })
    }

    fn start_sender(&mut self, setting: &Setting, rattan: &Path, one_way: OneWay) -> Result<()> {
        let program = std::env::current_exe().context("where is this program?")?;
        let delay = |ms: f64| format!("{ms}ms");
        let mut link = Command::new(rattan);
        link.env("RUST_LOG", "error")
            .args(["link", "--uplink-delay", &delay(one_way.forward)])
            .args(["--downlink-delay", &delay(one_way.back), "--"])
            .args(command(&program, "jitter-send", setting)?);
        self.sender = Some(Child::start(link, Who::Sender, self.say.clone())?);
        Ok(())
    }

    /// Until both have said everything.
    fn follow(mut self, setting: &Setting, rattan: &Path, one_way: OneWay) -> Result<Log> {
        let mut log = Log::default();
        let mut deadline = Instant::now() + PATIENCE;
        // From the end of the sender on.
        let (mut linger, mut sent) = (None, false);
        loop {
            if linger.is_some_and(|until: Instant| Instant::now() >= until) {
                self.receiver.release();
                linger = None;
            }
            let (who, said) = match self.heard.recv_timeout(Duration::from_millis(50)) {
                Ok(heard) => heard,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => continue,
                Err(_) => bail!("nothing has been heard for too long"),
            };
            let Some(said) = said else {
                if sent && who == Who::Sender {
                    continue;
                }
                bail!("the {} ended early", who.name());
            };
            match said {
                Said::Ready => self.start_sender(setting, rattan, one_way)?,
                Said::Hello { rattan_id } => {
                    if let Some(sender) = &mut self.sender {
                        sender.rattan_id = rattan_id;
                    }
                }
                Said::Progress { pictures } => progress(setting, pictures),
                Said::Sent(sent) => log.sent.push(sent),
                Said::Key { at } => log.keys.push(at),
                Said::Received(received) => log.received.push(received),
                Said::Counts(counts) => log.counts = Some(counts),
                // Of others.
                Said::Report { .. } => {}
                Said::Error { message } => bail!("the {}: {message}", who.name()),
                Said::End if who == Who::Sender => {
                    linger = Some(Instant::now() + LINGER);
                    sent = true;
                }
                Said::End => return Ok(log),
            }
            deadline = Instant::now() + PATIENCE;
        }
    }
}

fn progress(setting: &Setting, pictures: u64) {
    let mut out = std::io::stderr();
    if std::io::IsTerminal::is_terminal(&out) {
        let all = setting.length().as_secs() * u64::from(setting.fps);
        let end = if pictures >= all { "\n" } else { "\r" };
        let name = &setting.buffer.name;
        let latency = setting
            .buffer
            .latency_ms
            .map_or(String::new(), |ms| format!(" {ms} ms"));
        let _ = write!(out, "{name}{latency}: {pictures} of {all} pictures{end}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_part_of_the_round_trip() {
        let ways = |rtt: f64, jitter: u64| {
            let impairment = Impairment {
                jitter: Duration::from_millis(jitter),
                shape: Shape::Uniform,
                loss: 0.0,
                reorder: false,
                seed: 1,
            };
            OneWay::new(rtt, &impairment).map(|way| (way.forward, way.back))
        };
        assert_eq!(ways(80.0, 0).unwrap(), (40.0, 40.0));
        assert_eq!(ways(80.0, 20).unwrap(), (20.0, 40.0));
        assert_eq!(ways(30.0, 20).unwrap(), (0.0, 10.0));
        assert!(ways(10.0, 20).is_err());
    }

    #[test]
    fn buffers_are_read_from_the_command_line() {
        let plain: Buffer = "rtpjitterbuffer:50".parse().unwrap();
        assert_eq!((plain.latency_ms, plain.waits), (Some(50), true));
        assert!(plain.is_plain());
        let ours: Buffer = "rtpkalmanjitterbuffer".parse().unwrap();
        assert_eq!((ours.latency_ms, ours.waits), (None, true));
        assert!(!ours.is_plain());
        let none: Buffer = "none".parse().unwrap();
        assert_eq!((none.latency_ms, none.waits), (Some(0), false));
        for bad in ["", ":10", "rtpjitterbuffer:", "rtpjitterbuffer:x"] {
            assert!(bad.parse::<Buffer>().is_err(), "{bad:?}");
        }
    }
}
