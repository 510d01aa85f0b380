// SPDX-License-Identifier: MPL-2.0
//! Measures the dual stream beside what there is today.

mod call;
mod capacity;
mod fec;
mod frontier;
mod gcc;
mod jitter;
mod link;
mod pacer;
mod recovery;
mod report;
mod rig;
mod scheme;
mod session;
mod video;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand};
use dualstream_clip::source::Size;
use dualstream_common::{Bitrate, Timestamp};
use dualstream_netsim::Capacity;

use crate::report::Figures;
use crate::scheme::{Scheme, SetUp};
use crate::session::{Path, Record};
use crate::video::Video;

const ONE_WAY: Duration = Duration::from_millis(20);
/// Of a constant link, and of the last second of a trace.
const TARGET_SHARE: (f64, f64) = (0.95, 0.85);

#[derive(Parser, Debug)]
#[command(name = "dualstream-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Latency and picture quality of the dual stream and of four single ones, with real encoders, over a link in virtual time
    Dual(DualArgs),
    /// What a loss costs: display frames that never arrive, and what the encoder makes of the receiver's request
    Recovery(RecoveryArgs),
    /// The bandwidth estimator with the pacer over a link in virtual time
    Gcc(gcc::Args),
    /// Forward error correction: masks, controller, speed
    Fec(fec::Args),
    /// The delay models of the jitter buffer on recorded frames, or jitter buffers in a session
    Jitter(jitter::Args),
    /// The sending process of `jitter --session`
    #[command(hide = true)]
    JitterSend(jitter::session::ProcessArgs),
    /// The receiving process of `jitter --session`
    #[command(hide = true)]
    JitterReceive(jitter::session::ProcessArgs),
    /// All schemes at several capacities, as a plot: what each pays for low latency
    Frontier(FrontierArgs),
    /// How precisely rtppacer sends, at what price, in real time
    Pacer(pacer::Args),
    /// CPU, memory and delay of the RTP path of many senders and receivers, in real time
    Capacity(capacity::Args),
    /// A process of `capacity`
    #[command(hide = true)]
    CapacityEnd(capacity::EndArgs),
    /// A whole session in real time: two processes, an emulated link, any two peers
    Session(Box<call::Args>),
    /// A process of `session`
    #[command(hide = true)]
    SessionPeer(call::PeerArgs),
    /// A long session in real time, and whether memory, counters and logs are as they should be
    Soak(Box<call::soak::Args>),
    /// A process of `soak`
    #[command(hide = true)]
    SoakPeer(call::PeerArgs),
}

#[derive(Args, Debug, Clone)]
struct Common {
    /// Video file; without it a moving test pattern
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    /// Capacity of the link, in kbit/s
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    capacity_kbps: u64,
    /// Pictures per second; each picture of the file is used once, whatever its own rate
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    fps: u32,
    #[arg(long, value_name = "WxH", default_value = "1280x720")]
    size: Size,
    /// Time from one key frame to the next, in ms
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    refresh_ms: u64,
    /// Length of the run; a shorter clip is played forward and backward
    #[arg(long, default_value_t = 14.0, value_parser = parse_seconds)]
    seconds: f64,
    /// VBV of tight, intra-refresh and infinite, in frames; dual always has one
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    vbv_frames: f64,
    /// Target rate over the capacity, or over its last second under a trace [default: 0.95, 0.85]
    #[arg(long, value_name = "X", value_parser = parse_share)]
    target_share: Option<f64>,
    /// Properties of dualh264enc, e.g. `keyframe-budget=3.0,background-share=0.2`
    #[arg(long, value_name = "LIST")]
    dual_properties: Option<String>,
    /// One JSON object a scheme, a line each, instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug, Clone)]
struct DualArgs {
    #[command(flatten)]
    common: Common,
    /// vanilla, tight, intra-refresh, infinite, dual, several with commas, or all
    #[arg(long, default_value = "all", value_parser = parse_schemes)]
    scheme: Schemes,
    /// Capacity from a Mahimahi trace instead; the target follows 0.85 of its last second
    #[arg(long, value_name = "FILE", conflicts_with = "capacity_kbps")]
    trace: Option<PathBuf>,
    /// Write a line for each picture to this file, tab separated
    #[arg(long, value_name = "FILE")]
    pictures: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
struct RecoveryArgs {
    #[command(flatten)]
    common: Common,
    /// vanilla, tight, intra-refresh, dual, several with commas, or all
    #[arg(long, default_value = "all", value_parser = parse_schemes)]
    scheme: Schemes,
    /// Round trip, half of it each way
    #[arg(long, value_name = "MS", default_value_t = 40, value_parser = clap::value_parser!(u64).range(2..=5000))]
    rtt_ms: u64,
    /// Time of the first loss
    #[arg(long, value_name = "MS", default_value_t = 1500)]
    first_loss_ms: u64,
    /// Mean time from one loss to the next; the times are spread so that each part of a refresh is hit
    #[arg(long, value_name = "MS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(500..))]
    loss_interval_ms: u64,
    /// Frames lost in a row
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=30))]
    lost_frames: u64,
}

#[derive(Args, Debug, Clone)]
struct FrontierArgs {
    #[command(flatten)]
    common: Common,
    /// Capacities in kbit/s, with commas; --capacity-kbps is not used
    #[arg(long, value_delimiter = ',', default_value = "500,1000,1500,2000,3000", value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    capacities: Vec<u64>,
    /// Where to write the plot
    #[arg(long, value_name = "FILE.svg")]
    plot: PathBuf,
}

#[derive(Clone, Debug)]
struct Schemes(Vec<Scheme>);

fn parse_schemes(text: &str) -> Result<Schemes, String> {
    use clap::ValueEnum;
    if text == "all" {
        return Ok(Schemes(Scheme::ALL.to_vec()));
    }
    text.split(',')
        .map(|name| Scheme::from_str(name.trim(), false))
        .collect::<Result<_, _>>()
        .map(Schemes)
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.05..=2.0).contains(&share) => Ok(share),
        _ => Err("not a number from 0.05 to 2".into()),
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (1.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 1 to 3600".into()),
    }
}

impl Common {
    fn count(&self) -> usize {
        (self.seconds * f64::from(self.fps)).round() as usize
    }

    fn video(&self) -> Result<Video> {
        Video::read(self.video.clone(), self.size, self.fps, self.count())
    }

    fn set_up(&self, scheme: Scheme, target: Bitrate) -> SetUp {
        SetUp {
            scheme,
            target,
            fps: self.fps,
            refresh: Duration::from_millis(self.refresh_ms),
            vbv_frames: self.vbv_frames,
            dual_properties: self.dual_properties.clone(),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "dualstream-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    gst::init()?;
    // It registers what it needs itself: registered twice, the factories of
    // the elements are mixed up.
    if !matches!(cli.what, What::SessionPeer(_) | What::SoakPeer(_)) {
        gstdualstream::plugin_register_static()?;
        gstjitterbuffer::plugin_register_static()?;
    }
    match &cli.what {
        What::Dual(args) => dual(args),
        What::Recovery(args) => recover(args),
        What::Frontier(args) => draw(args),
        What::Gcc(args) => {
            let (lines, table) = gcc::run_all(args)?;
            print(&if args.json() {
                lines.join("\n") + "\n"
            } else {
                table
            })
        }
        What::Fec(args) => fec::run(args),
        What::Jitter(args) => jitter::run(args),
        What::JitterSend(args) => jitter::session::send(args),
        What::JitterReceive(args) => jitter::session::receive(args),
        What::Pacer(args) => pacer::bench(args),
        What::Capacity(args) => capacity::run(args),
        What::CapacityEnd(args) => capacity::end(args),
        What::Session(args) => call::run(args),
        What::SessionPeer(args) => call::peer(args),
        What::Soak(args) => call::soak::run(args),
        What::SoakPeer(args) => call::soak::peer(args),
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}

/// A line of JSON for each scheme, or the table.
fn tell<T: serde::Serialize>(common: &Common, all: &[T], table: &str) -> Result<()> {
    if !common.json {
        return print(table);
    }
    all.iter().try_for_each(|figures| print_json(figures))
}

fn dual(args: &DualArgs) -> Result<()> {
    let common = &args.common;
    let (capacity, share) = match &args.trace {
        Some(file) => (link::trace(file)?, TARGET_SHARE.1),
        None => (
            Capacity::Constant(Bitrate::from_kbps(common.capacity_kbps)),
            TARGET_SHARE.0,
        ),
    };
    let path = Path {
        capacity,
        target_share: common.target_share.unwrap_or(share),
        one_way: ONE_WAY,
        rtt: ONE_WAY * 2,
    };
    let video = common.video()?;
    let records = run_all(&args.scheme.0, common, &video, &path, &[])?;
    let kbps = mean_capacity(&path.capacity, common.seconds);
    let all: Vec<Figures> = records
        .iter()
        .map(|(scheme, record)| report::figures(*scheme, record, common.seconds, kbps))
        .collect();
    if let Some(file) = &args.pictures {
        write_pictures(file, &records)?;
    }
    tell(common, &all, &report::table(&all))
}

fn recover(args: &RecoveryArgs) -> Result<()> {
    let common = &args.common;
    let path = Path {
        capacity: Capacity::Constant(Bitrate::from_kbps(common.capacity_kbps)),
        target_share: common.target_share.unwrap_or(TARGET_SHARE.0),
        one_way: Duration::from_millis(args.rtt_ms) / 2,
        rtt: Duration::from_millis(args.rtt_ms),
    };
    let lost = recovery::lost(
        common.count(),
        common.fps,
        Duration::from_millis(args.first_loss_ms),
        Duration::from_millis(args.loss_interval_ms),
        args.lost_frames as usize,
    );
    let video = common.video()?;
    // Without a refresh there is nothing that answers a loss.
    let schemes: Vec<Scheme> = args
        .scheme
        .0
        .iter()
        .copied()
        .filter(|scheme| *scheme != Scheme::Infinite)
        .collect();
    if schemes.is_empty() {
        return Err(anyhow!(
            "infinite has no answer to a loss; name another scheme"
        ));
    }
    let records = run_all(&schemes, common, &video, &path, &lost)?;
    let all = records
        .iter()
        .map(|(scheme, record)| recovery::figures(*scheme, record, &lost, common.fps))
        .collect::<Result<Vec<_>>>()?;
    tell(common, &all, &recovery::table(&all))
}

fn draw(args: &FrontierArgs) -> Result<()> {
    let common = &args.common;
    let video = common.video()?;
    let mut all = Vec::new();
    for kbps in &args.capacities {
        let path = Path {
            capacity: Capacity::Constant(Bitrate::from_kbps(*kbps)),
            target_share: common.target_share.unwrap_or(TARGET_SHARE.0),
            one_way: ONE_WAY,
            rtt: ONE_WAY * 2,
        };
        let records = run_all(&Scheme::ALL, common, &video, &path, &[])?;
        let figures: Vec<Figures> = records
            .iter()
            .map(|(scheme, record)| report::figures(*scheme, record, common.seconds, *kbps as f64))
            .collect();
        let table = format!("{kbps} kbit/s\n{}\n", report::table(&figures));
        tell(common, &figures, &table)?;
        all.extend(figures);
    }
    let name = common.video.as_ref().map_or_else(
        || "moving test pattern".into(),
        |file| {
            file.file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        },
    );
    let title = format!(
        "{name}, {}x{}, {} fps, refresh each {} ms",
        common.size.width, common.size.height, common.fps, common.refresh_ms
    );
    frontier::plot(&args.plot, &title, &all)
}

fn mean_capacity(capacity: &Capacity, seconds: f64) -> f64 {
    let whole = (seconds as u64).max(1);
    let sum: u64 = (1..=whole)
        .map(|s| link::known(capacity, Timestamp::from_millis(s * 1000)).as_bps())
        .sum();
    sum as f64 / whole as f64 / 1000.0
}

/// As many at a time as there are cores.
fn run_all(
    schemes: &[Scheme],
    common: &Common,
    video: &Video,
    path: &Path,
    lost: &[usize],
) -> Result<Vec<(Scheme, Record)>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let total = schemes.len() * common.count();
    let results: Mutex<Vec<Option<Result<Record>>>> =
        Mutex::new(schemes.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..workers.min(schemes.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scheme) = schemes.get(i) else { break };
                    let set_up = common.set_up(*scheme, path.target(Timestamp::ZERO));
                    let record = session::run(&set_up, video, path, common.count(), lost, |_| {
                        progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                    });
                    if let Ok(mut results) = results.lock() {
                        results[i] = Some(record);
                    }
                }
            });
        }
    });
    let results = results
        .into_inner()
        .map_err(|_| anyhow!("a worker failed"))?;
    schemes
        .iter()
        .zip(results)
        .map(|(scheme, record)| {
            let record = record
                .context("a worker failed")?
                .with_context(|| format!("scheme {scheme}"))?;
            Ok((*scheme, record))
        })
        .collect()
}

fn progress(done: usize, total: usize) {
    if std::io::stderr().is_terminal() {
        let end = if done == total { "\n" } else { "\r" };
        let _ = write!(std::io::stderr(), "{done} of {total} pictures{end}");
    }
}

fn write_pictures(file: &std::path::Path, records: &[(Scheme, Record)]) -> Result<()> {
    let mut text = String::from(
        "scheme\tpicture\tlatency_ms\tpsnr_db\tdisplay_bytes\tbackground_bytes\tdisplay_key\tbackground_key\tswitched\tdisplay_quantiser\tbackground_quantiser\n",
    );
    for (scheme, record) in records {
        for (n, p) in record.pictures.iter().enumerate() {
            text.push_str(&format!(
                "{scheme}\t{n}\t{:.1}\t{:.2}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
                p.latency.map_or(f64::NAN, report::millis),
                p.likeness.psnr,
                p.display_bytes,
                p.background_bytes,
                u8::from(p.display_key),
                u8::from(p.background_key),
                u8::from(p.switched),
                p.display_quantiser.unwrap_or(f64::NAN),
                p.background_quantiser.unwrap_or(f64::NAN),
            ));
        }
    }
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}
