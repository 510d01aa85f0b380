// SPDX-License-Identifier: MPL-2.0
//! FlexFEC with Chromium as the peer, over an emulated link: what is repaired,
//! and what freezes.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dualstream_chromium::browser;
use dualstream_chromium::link::{Link, find_rattan};
use dualstream_chromium::session::{Direction, Experiment, Figures, run as session};
use dualstream_common::Ratio;
use serde::Serialize;

const LOSSES: [f64; 2] = [0.03, 0.08];
/// Twice this is the round-trip time.
const DELAY: Duration = Duration::from_millis(50);
const LINK_KBPS: u32 = 3000;
const VIDEO_KBPS: u32 = 1500;
const SETTLE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Line {
    direction: Direction,
    loss_pct: f64,
    rtt_ms: u128,
    fec: bool,
    seconds: u64,
    #[serde(flatten)]
    figures: Figures,
}

impl Line {
    fn row(&self) -> String {
        let direction = match self.direction {
            Direction::ToChromium => "to",
            Direction::FromChromium => "from",
        };
        let f = &self.figures;
        let recovered = f.recovered.map_or("-".to_owned(), |n| n.to_string());
        format!(
            "{direction:<9} {:>6} {:<3} {:>7} {:>5} {:>6} {recovered:>9} {:>6} {:>6} {:>7} {:>8.2}",
            self.loss_pct,
            if self.fec { "on" } else { "off" },
            f.packets,
            f.lost,
            f.fec_packets,
            f.retransmitted,
            f.frames,
            f.freezes,
            f.frozen_seconds
        )
    }
}

/// Each direction, with FEC and without, at each loss.
pub fn run(duration: Duration) -> Result<()> {
    ensure!(browser::find().is_some(), "Chromium is not installed");
    find_rattan().context("rattan is not installed (cargo install rattan --locked)")?;
    let mut lines = Vec::new();
    for direction in [Direction::ToChromium, Direction::FromChromium] {
        for loss in LOSSES {
            for fec in [false, true] {
                let experiment = Experiment {
                    kbps: VIDEO_KBPS,
                    settle: SETTLE,
                    duration,
                    link: Link::Emulated {
                        kbps: LINK_KBPS,
                        delay: DELAY,
                        loss: Ratio::clamped(loss),
                        up: direction == Direction::FromChromium,
                    },
                    ..Experiment::new(direction, fec)
                };
                let line = Line {
                    direction,
                    loss_pct: loss * 100.0,
                    rtt_ms: 2 * DELAY.as_millis(),
                    fec,
                    seconds: duration.as_secs(),
                    figures: session(&experiment)?.0,
                };
                crate::print_json(&line)?;
                lines.push(line);
            }
        }
    }
    table(&lines)
}

fn table(lines: &[Line]) -> Result<()> {
    let mut out = std::io::stderr();
    writeln!(
        out,
        "Chromium  loss % FEC packets  lost    FEC recovered resent frames freezes frozen s"
    )?;
    for line in lines {
        writeln!(out, "{}", line.row())?;
    }
    Ok(())
}
