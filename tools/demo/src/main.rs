// SPDX-License-Identifier: MPL-2.0
//! The demo: a clip from `dualwebrtcsink` in one process to `dualwebrtcsrc` in
//! another, over an emulated link, and a report on how it went.

mod background;
mod child;
mod estimator;
mod events;
mod log;
mod plots;
mod progress;
mod rates;
mod receive;
mod record;
mod report;
mod run;
mod send;
mod stats;
mod tag;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::estimator::Estimator;
use crate::events::{Event, say};
use dualstream_clip::source::{self, Clip, Size};
use dualstream_link::LinkWish;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Send a clip over a link to a receiver on this machine, and report
    Run(RunArgs),
    /// The sending process (started by run)
    Send(SendArgs),
    /// The receiving process (started by run)
    Receive(ReceiveArgs),
    /// Decode a clip's first picture and print what it is, as JSON
    Inspect(ClipArgs),
}

#[derive(Args)]
struct ClipArgs {
    /// Video file that GStreamer can decode; without it a moving test pattern
    /// of 20 s, with --trace of 60 s, or as long as --seconds says
    video: Option<PathBuf>,
    /// Scale the clip to this size, such as 640x360
    #[arg(long)]
    size: Option<Size>,
    /// Length of the test pattern, told by run
    #[arg(long, hide = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(source::MOST_TEST_SECONDS)))]
    pattern_seconds: Option<u32>,
}

impl ClipArgs {
    fn clip(&self) -> Clip {
        Clip {
            file: self.video.clone(),
            size: self.size,
            pattern_seconds: self.pattern_seconds,
        }
    }
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    clip: ClipArgs,
    /// Target rate of the encoder in kbit/s, both streams together
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(50..=100_000))]
    bitrate: u32,
    /// A new key frame is wanted this often, in ms; 0: only at the start
    #[arg(long, default_value_t = 2000)]
    refresh_interval: u32,
    /// Send no more than this of the clip, in s
    #[arg(long, value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// Rate of the emulated link, such as 2Mbps, or `direct` for loopback; or
    /// rates that take turns, with seconds: 1Mbps:10,3Mbps:10
    #[arg(long, default_value = "2Mbps")]
    link: LinkWish,
    /// The link follows this trace of a cellular one, a file in Mahimahi's
    /// format; a name alone is also looked for in ../shared/traces
    #[arg(long, value_name = "FILE", conflicts_with = "link")]
    trace: Option<PathBuf>,
    /// Whose estimate of the bandwidth the encoder follows, for comparisons
    #[arg(long, hide = true, value_enum, default_value_t)]
    estimator: Estimator,
    /// Folder for the recording and the report
    #[arg(long, default_value = "demo-out")]
    out: PathBuf,
}

#[derive(Args)]
struct SendArgs {
    #[command(flatten)]
    clip: ClipArgs,
    #[arg(long)]
    bitrate: u32,
    #[arg(long)]
    refresh_interval: u32,
    #[arg(long, value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// Where the signalling server is; rattan says it in this variable
    #[arg(long, env = "RATTAN_BASE", default_value = "127.0.0.1")]
    host: String,
    #[arg(long)]
    port: u16,
    #[arg(long, value_enum, default_value_t)]
    estimator: Estimator,
    /// File to write down every coded frame in
    #[arg(long)]
    log: PathBuf,
    /// File to write down the rates in
    #[arg(long)]
    rates: PathBuf,
}

#[derive(Args)]
struct ReceiveArgs {
    #[command(flatten)]
    clip: ClipArgs,
    #[arg(long)]
    port: u16,
    /// File to record what was shown in
    #[arg(long)]
    record: PathBuf,
    /// File to write down every shown picture in
    #[arg(long)]
    log: PathBuf,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("not a number of seconds above 0".into()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    prepare_environment();
    let (result, is_child) = match &cli.what {
        What::Run(args) => (
            run::run(run::Options {
                clip: args.clip.clip(),
                bitrate_kbps: args.bitrate,
                refresh_interval: args.refresh_interval,
                seconds: args.seconds,
                link: args.link.clone(),
                trace: args.trace.clone(),
                estimator: args.estimator,
                out: args.out.clone(),
            }),
            false,
        ),
        What::Send(args) => (send(args), true),
        What::Receive(args) => (receive(args), true),
        What::Inspect(args) => (inspect(args), false),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_child => {
            say(&Event::Error {
                message: format!("{error:#}"),
            });
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The plugins that were built beside this program are used, and a registry
/// of their own, so that neither installed copies nor old entries get in.
fn prepare_environment() {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let Some(folder) = program.parent() else {
        return;
    };
    let mut path = vec![folder.to_path_buf()];
    if let Some(given) = std::env::var_os("GST_PLUGIN_PATH") {
        path.extend(std::env::split_paths(&given).filter(|p| p != folder));
    }
    // SAFETY: main has started no thread yet, and no other code runs.
    unsafe {
        if let Ok(path) = std::env::join_paths(path) {
            std::env::set_var("GST_PLUGIN_PATH", path);
        }
        if std::env::var_os("GST_REGISTRY").is_none() {
            std::env::set_var("GST_REGISTRY", folder.join("dualstream-demo.registry"));
        }
    }
}

fn send(args: &SendArgs) -> Result<ExitCode> {
    gst::init()?;
    send::send(&send::Options {
        clip: args.clip.clip(),
        seconds: args.seconds,
        bitrate: args.bitrate,
        refresh_interval: args.refresh_interval,
        host: args.host.clone(),
        port: args.port,
        estimator: args.estimator,
        log: args.log.clone(),
        rates: args.rates.clone(),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn receive(args: &ReceiveArgs) -> Result<ExitCode> {
    gst::init()?;
    receive::receive(&receive::Options {
        clip: args.clip.clip(),
        port: args.port,
        video: args.record.clone(),
        log: args.log.clone(),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: &ClipArgs) -> Result<ExitCode> {
    gst::init()?;
    let info = source::inspect(&args.clip())?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &info)?;
    out.write_all(b"\n").context("cannot print")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<RunArgs, clap::Error> {
        match Cli::try_parse_from(["dualstream-demo", "run"].iter().chain(args))?.what {
            What::Run(args) => Ok(args),
            _ => unreachable!("run was asked for"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn run_needs_no_argument() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.clip.video, None);
        assert_eq!(args.bitrate, 1500);
        assert_eq!(args.refresh_interval, 2000);
        assert_eq!(args.link, LinkWish::Emulated { kbps: 2000 });
        assert_eq!(args.out, PathBuf::from("demo-out"));
    }

    #[test]
    fn options_are_read() {
        let args = parse(&[
            "clip.mp4",
            "--bitrate=800",
            "--refresh-interval=0",
            "--seconds=2.5",
            "--link=direct",
            "--size=640x360",
            "--out=x",
        ])
        .unwrap();
        assert_eq!(args.clip.video, Some(PathBuf::from("clip.mp4")));
        assert_eq!(args.seconds, Some(2.5));
        assert_eq!(args.link, LinkWish::Direct);
        assert!(args.clip.size.is_some());
    }

    #[test]
    fn bad_arguments_are_refused() {
        for bad in [
            &["--bitrate=0"][..],
            &["--bitrate=fast"],
            &["--seconds=0"],
            &["--seconds=-1"],
            &["--seconds=inf"],
            &["--link=slow"],
            &["--link=1Mbps:"],
            &["--link=1Mbps", "--trace=a.up"],
            &["--estimator=best"],
            &["--size=1280"],
            &["--refresh-interval=-1"],
            &["--what"],
            &["a.mp4", "b.mp4"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
