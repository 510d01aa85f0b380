// SPDX-License-Identifier: MPL-2.0
//! What many senders and receivers cost on this machine: CPU, memory and delay
//! of their RTP path in real time, over UDP on loopback, without coding.
//!
//! ```text
//! appsrc ! rtph264pay ! [ rtpflexfecenc ! rtppacer ! rtpgcc ] ! rtpbin ! udpsink
//! udpsrc ! identity (loses packets) ! rtpbin [ rtpflexfecdec, rtpkalmanjitterbuffer ] ! rtph264depay
//! ```
//!
//! All senders are in one process, all receivers in another. The same without
//! what is in brackets (and with rtpbin's own jitter buffer) says what GStreamer
//! takes by itself.

mod receive;
mod send;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use gst::prelude::*;
use serde::{Deserialize, Serialize};

use crate::jitter::session::pipeline::{Pipeline, make};
use crate::pacer::cpu_time;
use crate::report::percentile;

const MEDIA_PT: u32 = 96;
const FEC_PT: u32 = 110;
const FPS: u32 = 30;
const CLOCK_RATE: u64 = 90_000;
const TWCC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// Estimates, FEC and jitter buffers have settled by then.
const WARM_UP: Duration = Duration::from_secs(4);
/// Of a sender: RTP, RTCP there, RTCP back.
const PORTS: u16 = 3;
/// How long packets are waited for, in ms, in both variants.
const LATENCY_MS: u32 = 100;

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Numbers of senders, each with a receiver of its own
    #[arg(long, value_delimiter = ',', default_value = "1,10,50", value_parser = clap::value_parser!(u16).range(1..=500))]
    senders: Vec<u16>,
    /// Rate of each, in kbit/s
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    kbps: u32,
    /// Share of packets lost in front of each receiver
    #[arg(long, default_value_t = 0.02, value_parser = parse_loss)]
    loss: f64,
    /// Time that is measured in each run
    #[arg(long, default_value_t = 10.0, value_parser = crate::parse_seconds)]
    seconds: f64,
    /// What is run: with our elements, with GStreamer's alone
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ours,plain")]
    parts: Vec<Parts>,
    /// One JSON object a run, a line each, instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Parts {
    /// FEC, pacer, estimator, FEC decoder, rtpkalmanjitterbuffer
    Ours,
    /// None of them, and rtpjitterbuffer
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Send,
    Receive,
}

/// Of one of the processes.
#[derive(clap::Args, Debug, Clone)]
pub struct EndArgs {
    #[arg(long, value_enum)]
    role: Role,
    #[arg(long)]
    count: u16,
    #[arg(long)]
    kbps: u32,
    #[arg(long)]
    loss: f64,
    #[arg(long)]
    seconds: f64,
    #[arg(long, value_enum)]
    parts: Parts,
    #[arg(long)]
    port: u16,
}

impl EndArgs {
    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// First port of a sender.
    fn port(&self, index: u16) -> i32 {
        i32::from(self.port + PORTS * index)
    }
}

fn parse_loss(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(loss) if (0.0..=0.5).contains(&loss) => Ok(loss),
        _ => Err("not a number from 0 to 0.5".into()),
    }
}

/// What a process took and saw in the time that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Usage {
    /// 100 = one core.
    cpu_percent: f64,
    rss_mb: f64,
    packets_per_s: f64,
}

/// What came out of the receivers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Arrived {
    /// Frames whose last packet came, of those that were sent.
    frames_share: f64,
    /// Packets that never came out, of those numbered.
    loss: f64,
    /// From the source to the depayloader, last packet of a frame.
    delay_ms_p50: f64,
    delay_ms_p99: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Said {
    usage: Usage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arrived: Option<Arrived>,
}

/// The field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    parts: Parts,
    senders: u16,
    kbps: u32,
    loss_on_link: f64,
    send: Usage,
    receive: Usage,
    send_cpu_percent_each: f64,
    receive_cpu_percent_each: f64,
    #[serde(flatten)]
    arrived: Arrived,
}

pub fn run(args: &Args) -> Result<()> {
    let mut all = Vec::new();
    for count in &args.senders {
        for parts in &args.parts {
            let figures = measure(args, *count, *parts)
                .with_context(|| format!("{count} senders, {parts:?}"))?;
            if args.json {
                crate::print_json(&figures)?;
            }
            all.push(figures);
        }
    }
    if args.json {
        return Ok(());
    }
    crate::print(&table(&all))
}

fn table(all: &[Figures]) -> String {
    let mut text = String::from(
        "              CPU % each       RSS MB         packets/s        after repair   delay ms\n\
         senders parts  send receive   send receive    send receive    frames   loss    p50    p99\n",
    );
    for f in all {
        let parts = format!("{:?}", f.parts).to_lowercase();
        let _ = writeln!(
            text,
            "{:>7} {parts:>5} {:>5.2} {:>7.2} {:>6.0} {:>7.0} {:>7.0} {:>7.0} {:>8.2}% {:>5.2}% {:>6.1} {:>6.1}",
            f.senders,
            f.send_cpu_percent_each,
            f.receive_cpu_percent_each,
            f.send.rss_mb,
            f.receive.rss_mb,
            f.send.packets_per_s,
            f.receive.packets_per_s,
            f.arrived.frames_share * 100.0,
            f.arrived.loss * 100.0,
            f.arrived.delay_ms_p50,
            f.arrived.delay_ms_p99,
        );
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let _ = writeln!(text, "100 % is one core; there are {cores}");
    text
}

/// A process whose last line says what it measured; killed when it is dropped.
struct End(Child);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(args: &Args, role: Role, count: u16, parts: Parts, port: u16) -> Result<End> {
    let value = |value: &dyn std::fmt::Display| value.to_string();
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or(String::new(), |value| value.get_name().to_owned())
    };
    let child = Command::new(std::env::current_exe().context("where is this program?")?)
        .arg("capacity-end")
        .args(["--role", &name(role.to_possible_value())])
        .args(["--count", &value(&count), "--kbps", &value(&args.kbps)])
        .args(["--loss", &value(&args.loss)])
        .args(["--seconds", &value(&args.seconds)])
        .args(["--parts", &name(parts.to_possible_value())])
        .args(["--port", &value(&port)])
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(End(child))
}

fn measure(args: &Args, count: u16, parts: Parts) -> Result<Figures> {
    let port = free_ports(count)?;
    let mut receiver = start(args, Role::Receive, count, parts, port)?;
    let mut heard = lines(&mut receiver)?;
    if heard.next().transpose()?.as_deref() != Some("ready") {
        bail!("the receivers do not start");
    }
    let mut sender = start(args, Role::Send, count, parts, port)?;
    let sent = last(lines(&mut sender)?)?;
    let received = last(heard)?;
    let each = |usage: &Usage| usage.cpu_percent / f64::from(count);
    Ok(Figures {
        parts,
        senders: count,
        kbps: args.kbps,
        loss_on_link: args.loss,
        send_cpu_percent_each: each(&sent.usage),
        receive_cpu_percent_each: each(&received.usage),
        send: sent.usage,
        receive: received.usage,
        arrived: received.arrived.context("the receivers saw nothing")?,
    })
}

type Lines = std::io::Lines<BufReader<std::process::ChildStdout>>;

fn lines(end: &mut End) -> Result<Lines> {
    let stdout = end.0.stdout.take().context("no stdout")?;
    Ok(BufReader::new(stdout).lines())
}

fn last(lines: Lines) -> Result<Said> {
    let line = lines.map_while(Result::ok).last();
    let line = line.ok_or_else(|| anyhow!("a process has ended early"))?;
    serde_json::from_str(&line).with_context(|| format!("a process said: {line}"))
}

/// The first of as many UDP ports as are wanted, all of them free.
fn free_ports(count: u16) -> Result<u16> {
    let wanted = count * PORTS;
    for _ in 0..100 {
        let first = fastrand::u16(20_000..60_000 - wanted);
        let all: Result<Vec<UdpSocket>, _> = (first..first + wanted)
            .map(|port| UdpSocket::bind(("127.0.0.1", port)))
            .collect();
        if all.is_ok() {
            return Ok(first);
        }
    }
    bail!("no {wanted} free UDP ports in a row")
}

pub fn end(args: &EndArgs) -> Result<()> {
    gstflexfec::plugin_register_static()?;
    gstgcc::plugin_register_static()?;
    gstpacer::plugin_register_static()?;
    match args.role {
        Role::Send => send::run(args),
        Role::Receive => receive::run(args),
    }
}

/// Monotonic time in ns, the running time of all pipelines here.
fn now() -> u64 {
    gst::SystemClock::obtain().time().nseconds()
}

/// Running time is the clock's time, in both processes.
fn play(pipeline: &Pipeline) -> Result<()> {
    pipeline.0.set_start_time(gst::ClockTime::NONE);
    pipeline.0.set_base_time(gst::ClockTime::ZERO);
    pipeline.play()
}

/// CPU and memory from its start to its end.
struct Meter {
    cpu: Duration,
    since: Instant,
}

impl Meter {
    fn start() -> Result<Self> {
        Ok(Self {
            cpu: cpu_time()?,
            since: Instant::now(),
        })
    }

    fn end(&self, packets: u64) -> Result<Usage> {
        let wall = self.since.elapsed().as_secs_f64();
        let cpu = cpu_time()?.saturating_sub(self.cpu).as_secs_f64();
        let statm = std::fs::read_to_string("/proc/self/statm")?;
        let pages: f64 = statm
            .split_whitespace()
            .nth(1)
            .context("statm has no second field")?
            .parse()?;
        // SAFETY: it reads a constant.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as f64;
        Ok(Usage {
            cpu_percent: cpu / wall * 100.0,
            rss_mb: pages * page / 1e6,
            packets_per_s: packets as f64 / wall,
        })
    }
}

fn media_caps() -> gst::Caps {
    gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("encoding-name", "H264")
        .field("clock-rate", CLOCK_RATE as i32)
        .field("payload", MEDIA_PT as i32)
        .field("extmap-3", TWCC)
        .field("rtcp-fb-transport-cc", true)
        .build()
}

fn udp_sink(port: i32) -> Result<gst::Element> {
    let sink = make("udpsink")?;
    sink.set_property("host", "127.0.0.1");
    sink.set_property("port", port);
    sink.set_property("sync", false);
    sink.set_property("async", false);
    Ok(sink)
}

fn udp_source(port: i32, caps: &gst::Caps) -> Result<gst::Element> {
    let source = make("udpsrc")?;
    source.set_property("address", "127.0.0.1");
    source.set_property("port", port);
    source.set_property("caps", caps);
    Ok(source)
}

fn rtcp_caps() -> gst::Caps {
    gst::Caps::new_empty_simple("application/x-rtcp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_losses_are_shares() {
        let port = free_ports(2).unwrap();
        for port in port..port + 2 * PORTS {
            assert!(UdpSocket::bind(("127.0.0.1", port)).is_ok());
        }
        assert_eq!(parse_loss("0.02"), Ok(0.02));
        assert!(parse_loss("0.6").is_err());
    }

    #[test]
    fn a_meter_counts_work_and_memory() {
        let meter = Meter::start().unwrap();
        let end = Instant::now() + Duration::from_millis(100);
        let mut n = 0u64;
        while Instant::now() < end {
            n = n.wrapping_add(1);
        }
        let usage = meter.end(1000).unwrap();
        assert!(usage.cpu_percent > 5.0, "{usage:?} after {n}");
        assert!(
            usage.rss_mb > 1.0 && usage.packets_per_s > 100.0,
            "{usage:?}"
        );
    }
}
