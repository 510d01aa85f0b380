// SPDX-License-Identifier: MPL-2.0
//! What the page says of a call over an emulated link, as JSON: dual stream
//! beside one stream, each with a refresh each 2 s.
//!
//! ```sh
//! cargo run -p dualstream-chromium --example page -- [loss] [delay in ms] [seconds]
//! ```
#![allow(clippy::print_stdout)] // it is its purpose

use std::time::Duration;

use anyhow::{Context, Result};
use dualstream_chromium::link::{Link, find_rattan};
use dualstream_chromium::page::{Session, SetUp};
use dualstream_chromium::session::{Direction, glib_warnings};
use dualstream_common::Ratio;
use serde_json::json;

fn main() -> Result<()> {
    find_rattan().context("rattan is not installed: ci/install-deps.sh demo")?;
    let words: Vec<f64> = std::env::args()
        .skip(1)
        .map(|word| word.parse())
        .collect::<Result<_, _>>()?;
    let word = |index: usize, default: f64| words.get(index).copied().unwrap_or(default);
    let (loss, delay, seconds) = (word(0, 0.03), word(1, 20.0), word(2, 25.0));
    for mode in ["dual", "single"] {
        let mut set_up = SetUp::new(
            Direction::ToChromium,
            &format!(
                "videotestsrc is-live=true pattern=zone-plate kx2=20 ky2=20 kt=3 ! \
                 video/x-raw,width=640,height=360,framerate=30/1 ! dualwebrtcsink name=peer \
                 encoder::mode={mode} encoder::bitrate=1500000 encoder::refresh-interval=2000"
            ),
        );
        set_up.link = Link::Emulated {
            kbps: 2000,
            delay: Duration::from_secs_f64(delay / 1000.0),
            loss: Ratio::clamped(loss),
            up: false,
        };
        let session = Session::start(&set_up)?;
        session.wait("pictures", |report| {
            report["latency"]["count"].as_u64() > Some(30)
        })?;
        session.sleep(Duration::from_secs_f64(seconds))?;
        let report = session.page.report()?;
        let complaints = session.page.devtools().complaints();
        drop(session);
        let line = json!({
            "mode": mode, "loss": loss, "delay_ms": delay, "seconds": seconds,
            "report": report, "complaints": complaints, "glib_warnings": glib_warnings(),
        });
        println!("{line}");
    }
    Ok(())
}
