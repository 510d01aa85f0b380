// SPDX-License-Identifier: MPL-2.0
//! Chromium as the sender, over an emulated link: what the jitter buffers of
//! dualwebrtcsrc repair, and what freezes.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dualstream_chromium::browser;
use dualstream_chromium::link::{Link, find_rattan};
use dualstream_chromium::session::{Direction, Experiment, Figures, run as session};
use dualstream_common::Ratio;
use serde::Serialize;

const LINK_KBPS: u32 = 3000;
const VIDEO_KBPS: u32 = 1500;
const SETTLE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Line {
    /// `jitter-buffer` of dualwebrtcsrc.
    buffer: &'static str,
    loss: f64,
    rtt_ms: u64,
    seconds: u64,
    #[serde(flatten)]
    figures: Figures,
}

/// The same with the adaptive jitter buffer and with the fixed one.
pub fn run(loss: f64, rtt_ms: u64, seconds: u64, json: bool) -> Result<()> {
    ensure!(browser::find().is_some(), "Chromium is not installed");
    find_rattan().context("rattan is not installed (cargo install rattan --locked)")?;
    let mut out = std::io::stdout();
    if !json {
        writeln!(
            out,
            "buffer   packets repaired  delay frames freezes frozen s over 200 ms"
        )?;
    }
    for buffer in ["fixed", "adaptive"] {
        let experiment = Experiment {
            kbps: VIDEO_KBPS,
            settle: SETTLE,
            duration: Duration::from_secs(seconds),
            synchronised: true,
            properties: format!("jitter-buffer={buffer}"),
            link: Link::Emulated {
                kbps: LINK_KBPS,
                delay: Duration::from_millis(rtt_ms / 2),
                loss: Ratio::clamped(loss),
                up: true,
            },
            ..Experiment::new(Direction::FromChromium, false)
        };
        let line = Line {
            buffer,
            loss,
            rtt_ms,
            seconds,
            figures: session(&experiment)?.0,
        };
        if json {
            crate::print_json(&line)?;
            continue;
        }
        let f = &line.figures;
        let delay = f.delay_ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        writeln!(
            out,
            "{buffer:<8} {:>7} {:>8} {delay:>6} {:>6} {:>7} {:>8.2} {:>11}",
            f.packets,
            f.repaired.unwrap_or_default(),
            f.frames,
            f.freezes,
            f.frozen_seconds,
            f.freezes_over_200_ms.unwrap_or_default(),
        )?;
    }
    Ok(())
}
