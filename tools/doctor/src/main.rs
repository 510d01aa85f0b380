// SPDX-License-Identifier: MPL-2.0
//! Says which encoders, decoders and transports work on this machine, how
//! fast they are, and what to install where something is missing.

mod advice;
mod child;
mod examine;
mod percentile;
mod picture;
mod probes;
mod report;
mod stream;
mod table;
mod trace;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::child::Answer;
use crate::examine::{Examination, Extent};
use crate::probes::Task;

/// Tries out what a call needs on this machine: H.264 encoders and decoders,
/// webrtcbin, ICE, DTLS, SRTP, Opus, SRT, and a call over loopback
///
/// Exit status: 0 all that a call needs works, 1 something that it needs is
/// missing or broken, 2 wrong use.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    hidden: Option<Hidden>,
    /// Print the report as JSON, for programs
    #[arg(long)]
    json: bool,
    /// Fewer frames, 720p only, a shorter call: the times say less
    #[arg(long)]
    quick: bool,
    /// Leave out the call over loopback
    #[arg(long)]
    no_call: bool,
    /// Length of the call, in seconds
    #[arg(long, value_name = "SECONDS", conflicts_with = "no_call",
          value_parser = clap::value_parser!(u32).range(1..=600))]
    call_seconds: Option<u32>,
}

#[derive(Subcommand)]
enum Hidden {
    /// Run one probe in this process (started by the doctor itself)
    #[command(hide = true)]
    Probe {
        /// What to do, as JSON
        task: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.hidden {
        Some(Hidden::Probe { task }) => probe(task),
        None => examine(&cli),
    };
    result.unwrap_or_else(|err| {
        let _ = writeln!(std::io::stderr(), "error: {err:#}");
        ExitCode::FAILURE
    })
}

impl Cli {
    fn extent(&self) -> Extent {
        let mut extent = if self.quick {
            Extent::QUICK
        } else {
            Extent::FULL
        };
        if let Some(seconds) = self.call_seconds {
            extent.call_seconds = seconds;
        }
        if self.no_call {
            extent.call_seconds = 0;
        }
        extent
    }
}

fn examine(cli: &Cli) -> Result<ExitCode> {
    let report = Examination::new(cli.extent(), progress)?.run();
    progress("");
    let mut out = std::io::stdout().lock();
    if cli.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        out.write_all(table::print(&report).as_bytes())?;
    }
    out.flush()?;
    Ok(if report.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One line that is written over, where somebody watches.
fn progress(what: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let what = if what.is_empty() {
            String::new()
        } else {
            format!("trying {what} ...")
        };
        let _ = write!(err, "\r\x1b[K{what}");
        let _ = err.flush();
    }
}

/// In a child process.
fn probe(task: &str) -> Result<ExitCode> {
    child::end_with_parent();
    let result = serde_json::from_str::<Task>(task)
        .map_err(anyhow::Error::from)
        .and_then(|task| probes::perform(&task));
    child::answer(&match result {
        Ok(result) => Answer::Ok(result),
        Err(err) => Answer::Error(format!("{err:#}")),
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_extent_follows_the_options() {
        let seconds = |args: &[&str]| {
            let args = std::iter::once(&"dualstream-doctor").chain(args);
            Cli::try_parse_from(args).unwrap().extent().call_seconds
        };
        assert_eq!(seconds(&[]), Extent::FULL.call_seconds);
        assert_eq!(seconds(&["--quick"]), Extent::QUICK.call_seconds);
        assert_eq!(seconds(&["--quick", "--no-call"]), 0);
        assert_eq!(seconds(&["--call-seconds=42"]), 42);
    }
}
