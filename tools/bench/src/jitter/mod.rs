// SPDX-License-Identifier: MPL-2.0
//! The jitter buffer: its delay models on recorded frames, and the elements in
//! a session over an emulated link.

mod chromium;
mod cpu;
mod csv;
mod plot;
pub mod session;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgGroup, ValueEnum};
use serde::{Deserialize, Serialize};

#[derive(clap::Args, Debug, Clone)]
#[command(group(ArgGroup::new("input").required(true).args(["csv", "session", "cpu", "chromium"])))]
pub struct Args {
    /// The models on these frames, with the columns of jitter_N.csv; rtp_timestamp, arrival_time_us and frame_size_bytes must be there
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The elements in real time, one after the other: video from one process to another over rattan, with jitter and loss by a relay of our own, whose seed makes them the same for each
    #[arg(long)]
    session: bool,
    /// Write both models beside the arrivals to this file
    #[arg(long, value_name = "FILE.svg", requires = "csv")]
    plot: Option<PathBuf>,
    /// Chromium sends to dualwebrtcsrc over rattan, with --loss and --rtt-ms, for --seconds each with its fixed and its adaptive jitter buffers
    #[arg(long)]
    chromium: bool,
    /// What the elements cost, by themselves, in real time: each of --buffers beside rtpjitterbuffer, with its defaults, for --seconds without loss and as long with 2 %
    #[arg(long)]
    cpu: bool,
    /// Of ours: libwebrtc's model or our own
    #[arg(long, value_enum, default_value_t = Model::Adaptive)]
    model: Model,
    /// Share of frames that may be late, 0.0001 to 0.5; only adaptive has it
    #[arg(long, value_name = "X", default_value_t = 0.005, value_parser = parse_late_target)]
    late_target: f64,
    /// JSON, an object a line, instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    session_options: session::Options,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// libwebrtc's
    Webrtc,
    /// Ours
    Adaptive,
}

impl Model {
    /// The nick of the element's property.
    fn nick(self) -> &'static str {
        match self {
            Self::Webrtc => "webrtc",
            Self::Adaptive => "adaptive",
        }
    }
}

fn parse_late_target(text: &str) -> Result<f64, String> {
    session::within(text, 0.0001, 0.5)
}

pub fn run(args: &Args) -> Result<()> {
    if args.session {
        return session::run(
            &args.session_options,
            args.model,
            args.late_target,
            args.json,
        );
    }
    if args.cpu {
        let options = &args.session_options;
        return cpu::run(&options.factories(), args.model, options.seconds, args.json);
    }
    if args.chromium {
        let options = &args.session_options;
        return chromium::run(
            options.loss,
            options.rtt_ms as u64,
            options.seconds as u64,
            args.json,
        );
    }
    csv::run(&csv::Job {
        csv: args.csv.clone().context("no --csv")?,
        model: args.model,
        late_target: args.late_target,
        json: args.json,
        plot: args.plot.clone(),
    })
}
