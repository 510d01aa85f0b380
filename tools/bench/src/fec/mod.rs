// SPDX-License-Identifier: MPL-2.0
//! FEC: what masks leave unrepaired, what the controller spends and reaches,
//! how fast packets are made and recovered.

mod chromium;
mod controller;
mod masks;
mod speed;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use flexfec_core::channel::Channel;
use serde::Serialize;

#[derive(clap::Args, Debug, Clone)]
#[group(id = "what", required = true, multiple = true, args = ["masks", "controller", "speed", "chromium"])]
pub struct Args {
    /// One JSON object a line; there is no other form
    #[arg(long)]
    json: bool,
    /// Residuals of the masks
    #[arg(long)]
    masks: bool,
    /// What the controller spends and leaves on a grid of streams and networks
    #[arg(long)]
    controller: bool,
    /// How fast packets are made and recovered
    #[arg(long)]
    speed: bool,
    /// Sessions with Chromium over a lossy link, both ways, with FEC and without
    #[arg(long)]
    chromium: bool,
    /// How long each of these is measured
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Share of frames that may be incomplete; without it, where libwebrtc's figures are there, the one that leaves no more packets missing than it
    #[arg(long, value_name = "SHARE")]
    target_residual: Option<f64>,
    /// Folder with libwebrtc's figures
    #[arg(long, value_name = "FOLDER", default_value = "../shared/reference")]
    reference: PathBuf,
    /// Blocks drawn where there are too many patterns to look at all of them
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    blocks: u64,
    /// Of what is drawn at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Sizes of the largest blocks, and shares of FEC packets.
const LARGE: [usize; 4] = [16, 24, 32, 48];
const SHARES: [f64; 3] = [0.1, 0.25, 0.5];
const LOSSES: [f64; 5] = [0.01, 0.02, 0.05, 0.1, 0.2];

#[derive(Serialize)]
struct MaskLine<'a> {
    mask: &'a str,
    k: usize,
    m: usize,
    channel: &'a str,
    p: f64,
    residual: f64,
}

pub fn run(args: &Args) -> Result<()> {
    if args.masks {
        masks(args)?;
    }
    if args.controller {
        controller(args)?;
    }
    if args.speed {
        speed::run()?;
    }
    if args.chromium {
        chromium::run(Duration::from_secs(args.seconds))?;
    }
    Ok(())
}

fn controller(args: &Args) -> Result<()> {
    let reference = match controller::Reference::read(&args.reference) {
        Ok(reference) => Some(reference),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "without libwebrtc's figures: {error:#}");
            None
        }
    };
    let grid = controller::grid();
    let rows = reference.as_ref().map_or(&grid, |known| &known.rows);
    let lines = controller::run(rows, reference.as_ref(), args.target_residual, args.seed);
    lines.iter().try_for_each(crate::print_json)
}

fn masks(args: &Args) -> Result<()> {
    let small = (1..=12).flat_map(|k| (1..=k).map(move |m| (k, m)));
    let share = |k: usize, share: f64| (k as f64 * share).round() as usize;
    let large = LARGE
        .into_iter()
        .flat_map(|k| SHARES.map(|s| (k, share(k, s))));
    let mut residuals = masks::Residuals::new(args.blocks);
    for (k, m) in small.chain(large) {
        for (channel, burst) in [("iid", 1.0), ("ge3", 3.0)] {
            for p in LOSSES {
                let lossy = Channel::new(p, burst);
                let choices = [
                    ("auto", masks::auto(&lossy, k, m)),
                    ("interleave", masks::interleaved(k, m)),
                ];
                for (mask, rows) in choices {
                    let residual = residuals.of(&rows, k, &lossy, args.seed);
                    crate::print_json(&MaskLine {
                        mask,
                        k,
                        m,
                        channel,
                        p,
                        residual,
                    })?;
                }
            }
        }
    }
    Ok(())
}
