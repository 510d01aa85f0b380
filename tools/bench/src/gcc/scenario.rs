// SPDX-License-Identifier: MPL-2.0
//! The scenarios by name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use dualstream_common::{Bitrate, Ratio, Timestamp};
use dualstream_gccsim::{Cross, Demand, Scenario};
use dualstream_netsim::{Capacity, Loss, Trace};

/// An opportunity of a trace carries so many bytes.
const OPPORTUNITY: u64 = 1504;
const STEP: Duration = Duration::from_secs(20);
const STEPS_KBPS: [u64; 6] = [1000, 2000, 3000, 2000, 1000, 500];
const LOSS_KBPS: u64 = 2000;
const SHARED_KBPS: u64 = 3000;
/// The next flow begins so much later.
const LATER: Duration = Duration::from_secs(5);
/// The TCP-like flow, unless the run is too short.
const CROSS: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(80));
/// It falls for some time before each multiple of this.
pub const FALL_EACH: u64 = 20;
const FALL_KBPS: u64 = 2000;
/// The application sends this share of its target until then; what happens
/// before [`SETTLED`] is not looked at.
const LIMITED_SHARE: f64 = 0.4;
pub const LIMITED: Duration = Duration::from_secs(60);
pub const SETTLED: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq)]
pub enum Name {
    /// kbit/s.
    Const(u64),
    Steps,
    /// Percent, at 2 Mbit/s.
    Loss(f64),
    Trace(PathBuf),
    /// From 2 Mbit/s to so many kbit/s, for so many s of each 20.
    Fall(u64, u64),
    /// Flows on 3 Mbit/s.
    Share(usize),
    /// Beside a TCP-like flow on 3 Mbit/s.
    Tcp,
    /// The application sends 40 % for 60 s, at 2 Mbit/s.
    Limited,
}

pub struct Kind {
    pub scenario: Scenario,
    /// The capacity in steps, if it is.
    pub steps: Vec<(Timestamp, Bitrate)>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Const(kbps) => write!(f, "const:{kbps}"),
            Self::Steps => f.write_str("steps"),
            Self::Loss(percent) => write!(f, "loss:{percent}"),
            Self::Trace(file) => {
                let name = file.file_name().unwrap_or_default();
                write!(f, "trace:{}", name.to_string_lossy())
            }
            Self::Fall(kbps, seconds) => write!(f, "fall:{kbps}:{seconds}"),
            Self::Share(flows) => write!(f, "share:{flows}"),
            Self::Tcp => f.write_str("tcp"),
            Self::Limited => f.write_str("limited"),
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        match (name, value) {
            ("const", value) => match value.parse() {
                Ok(kbps @ 20..=1_000_000) => Ok(Self::Const(kbps)),
                _ => Err("const: needs a rate from 20 to 1000000 kbit/s, as in const:2000".into()),
            },
            ("loss", value) => match value.parse() {
                Ok(percent) if (0.0..=90.0).contains(&percent) => Ok(Self::Loss(percent)),
                _ => Err("loss: needs a number of percent from 0 to 90, as in loss:5".into()),
            },
            ("fall", value) => {
                let (kbps, seconds) = value.split_once(':').unwrap_or((value, ""));
                match (kbps.parse(), seconds.parse()) {
                    (Ok(kbps @ 0..FALL_KBPS), Ok(seconds @ 1..FALL_EACH)) => {
                        Ok(Self::Fall(kbps, seconds))
                    }
                    _ => Err("fall: needs kbit/s below 2000 and s below 20, as in fall:300:4".into()),
                }
            }
            ("share", value) => match value.parse() {
                Ok(flows @ 1..=20) => Ok(Self::Share(flows)),
                _ => Err("share: needs a number of flows from 1 to 20, as in share:2".into()),
            },
            ("trace", "") => Err("trace: needs a file, as in trace:FILE".into()),
            ("trace", file) => Ok(Self::Trace(file.into())),
            ("steps", "") => Ok(Self::Steps),
            ("tcp", "") => Ok(Self::Tcp),
            ("limited", "") => Ok(Self::Limited),
            _ => Err(
                "none of const:KBPS, steps, loss:PERCENT, trace:FILE, fall:KBPS:SECONDS, share:FLOWS, tcp, limited"
                    .into(),
            ),
        }
    }
}

impl Name {
    pub fn kind(&self, seconds: Option<u64>) -> Result<Kind> {
        let constant = |kbps| Capacity::Constant(Bitrate::from_kbps(kbps));
        let length = |default| Duration::from_secs(seconds.unwrap_or(default));
        let mut steps = Vec::new();
        let scenario = match self {
            Self::Const(kbps) => Scenario::new(constant(*kbps), length(60)),
            Self::Steps => {
                steps = STEPS_KBPS
                    .iter()
                    .enumerate()
                    .map(|(n, kbps)| (Timestamp::ZERO + STEP * n as u32, Bitrate::from_kbps(*kbps)))
                    .collect();
                Scenario::new(Capacity::Steps(steps.clone()), length(120))
            }
            Self::Loss(percent) => {
                let mut scenario = Scenario::new(constant(LOSS_KBPS), length(60));
                scenario.loss = Loss::Random(Ratio::clamped(percent / 100.0));
                scenario
            }
            Self::Trace(file) => {
                Scenario::new(Capacity::Trace(read(file)?, OPPORTUNITY), length(300))
            }
            Self::Fall(kbps, seconds) => {
                let length = length(120);
                let at = |seconds| Timestamp::ZERO + Duration::from_secs(seconds);
                // A link that takes nothing at all has no time for a packet.
                let fallen = Bitrate::from_kbps(*kbps).max(Bitrate::from_bps(1));
                let steps = (0..length.as_secs() / FALL_EACH).flat_map(|n| {
                    let next = (n + 1) * FALL_EACH;
                    [
                        (at(next - FALL_EACH), Bitrate::from_kbps(FALL_KBPS)),
                        (at(next - seconds), fallen),
                    ]
                });
                Scenario::new(Capacity::Steps(steps.collect()), length)
            }
            Self::Share(flows) => {
                let mut scenario = Scenario::new(constant(SHARED_KBPS), length(120));
                scenario.flows = (0..*flows as u32)
                    .map(|n| (Timestamp::ZERO + LATER * n, Demand::All))
                    .collect();
                scenario
            }
            Self::Tcp => {
                let mut scenario = Scenario::new(constant(SHARED_KBPS), length(120));
                scenario.cross = Some(Cross {
                    from: Timestamp::ZERO + CROSS.0,
                    to: Timestamp::ZERO + CROSS.1,
                });
                scenario
            }
            Self::Limited => {
                let mut scenario = Scenario::new(constant(LOSS_KBPS), length(75));
                let until = Timestamp::ZERO + LIMITED;
                scenario.flows = vec![(Timestamp::ZERO, Demand::Share(LIMITED_SHARE, until))];
                scenario
            }
        };
        Ok(Kind { scenario, steps })
    }
}

fn read(file: &Path) -> Result<Trace> {
    std::fs::read_to_string(file)
        .with_context(|| format!("the trace {} cannot be read", file.display()))?
        .parse()
        .with_context(|| format!("in the trace {}", file.display()))
}
