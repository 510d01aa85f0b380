// SPDX-License-Identifier: MPL-2.0
//! The link between two processes: emulated by `rattan`, or none.

pub mod mahimahi;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One way, in each direction.
const DELAY_MS: u64 = 20;
/// What the drop-tail queue before the bottleneck holds, in time.
const QUEUE_MS: u64 = 300;
/// Building the namespaces takes a third of a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(8);

/// The file with the rates of a link that changes.
pub const TRACE: &str = "link.json";
/// A rate, and how long the link has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub kbps: u64,
    pub ms: u64,
}

/// What is the same all the time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// One way, in each direction.
    pub delay_ms: u64,
    /// What the drop-tail queue before the bottleneck holds, in time at the
    /// mean rate.
    pub queue_ms: u64,
    /// Of what has passed the bottleneck, from 0 to 1; nothing is lost on the
    /// way back.
    pub loss: f64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            delay_ms: DELAY_MS,
            queue_ms: QUEUE_MS,
            loss: 0.0,
        }
    }
}

/// What the user asked for with `--link`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkWish {
    Emulated {
        kbps: u64,
    },
    /// One after the other, and again from the first.
    Stepped(Vec<Step>),
    Direct,
}

impl FromStr for LinkWish {
    type Err = String;

    /// `direct`, a rate such as `2Mbps`, `800kbps`, or several, each with its
    /// seconds: `1Mbps:10,3Mbps:10`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "direct" {
            return Ok(Self::Direct);
        }
        if !text.contains([':', ',']) {
            return Ok(Self::Emulated {
                kbps: rate_of(text)?,
            });
        }
        let steps = text
            .split(',')
            .map(|step| {
                let (rate, seconds) = step
                    .split_once(':')
                    .ok_or_else(|| format!("`{step}` is not a rate and its seconds"))?;
                let kbps = rate_of(rate)?;
                match seconds.parse::<f64>() {
                    Ok(s) if (0.1..=3600.0).contains(&s) => Ok(Step {
                        kbps,
                        ms: (s * 1e3).round() as u64,
                    }),
                    _ => Err(format!("`{seconds}` is not a number from 0.1 to 3600")),
                }
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Self::Stepped(steps))
    }
}

/// A rate such as `2Mbps` or `800kbps`, in kbit/s.
pub fn rate_of(text: &str) -> Result<u64, String> {
    let (digits, kilo) = if let Some(digits) = text.strip_suffix("Mbps") {
        (digits, 1e3)
    } else if let Some(digits) = text.strip_suffix("kbps") {
        (digits, 1.0)
    } else {
        return Err("neither `direct` nor a rate such as `2Mbps` or `800kbps`".into());
    };
    let rate: f64 = digits
        .parse()
        .map_err(|_| format!("`{digits}` is not a number"))?;
    let kbps = rate * kilo;
    if !(50.0..=1e6).contains(&kbps) {
        return Err("the rate must be between 50kbps and 1000Mbps".into());
    }
    Ok(kbps as u64)
}

/// Over all of them.
#[must_use]
pub fn mean_kbps(steps: &[Step]) -> u64 {
    let ms: u64 = steps.iter().map(|step| step.ms).sum();
    let bits: u64 = steps.iter().map(|step| step.kbps * step.ms).sum();
    bits / ms.max(1)
}

/// The rates for rattan, for ever. Not in the format of Mahimahi: between two
/// packets of that the rate is 0, which makes rattan 0.1 panic.
fn trace(steps: &[Step]) -> String {
    let pattern: Vec<_> = steps
        .iter()
        .map(|step| {
            serde_json::json!({"StaticBwConfig": {
                "bw": format!("{}Kbps", step.kbps),
                "duration": format!("{}ms", step.ms),
            }})
        })
        .collect();
    serde_json::json!({"RepeatedBwPatternConfig": {"pattern": pattern, "count": 0}}).to_string()
}

/// The link of a run, as `summary.json` names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LinkInfo {
    Rattan {
        /// The mean if it changes; the queue is that long at this rate.
        kbps: u64,
        delay_ms: u64,
        queue_ms: u64,
        #[serde(default, skip_serializing_if = "is_zero")]
        loss: f64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<Step>,
    },
    Direct,
}

// Serde hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// More steps than these are a trace, of which only the mean is told.
const TOLD_STEPS: usize = 8;

impl fmt::Display for LinkInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rattan {
                kbps,
                delay_ms,
                queue_ms,
                loss,
                steps,
            } => {
                f.write_str("emulated by rattan: ")?;
                if steps.len() > TOLD_STEPS {
                    f.write_str("a trace, ")?;
                } else {
                    for step in steps {
                        let seconds = step.ms as f64 / 1e3;
                        write!(f, "{} kbit/s for {seconds} s, ", step.kbps)?;
                    }
                }
                let on_average = if steps.is_empty() { "" } else { " on average" };
                write!(
                    f,
                    "{kbps} kbit/s{on_average}, {delay_ms} ms each way, drop-tail queue of {queue_ms} ms{}",
                    if steps.is_empty() { "" } else { " at that" }
                )?;
                if *loss > 0.0 {
                    write!(f, ", {} % lost", loss * 100.0)?;
                }
                Ok(())
            }
            Self::Direct => f.write_str("direct, over loopback"),
        }
    }
}

/// The link that will be used.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    Rattan {
        program: PathBuf,
        shape: Shape,
        kbps: u64,
        steps: Vec<Step>,
        /// The file with the steps; none: always `kbps`.
        trace: Option<PathBuf>,
    },
    Direct,
}

impl Link {
    /// The wish if this machine can fulfil it; otherwise the direct link and
    /// the reason. A file for rattan goes to `folder`.
    pub fn choose(wish: &LinkWish, shape: Shape, folder: &Path) -> (Self, Option<String>) {
        let (kbps, steps) = match wish {
            LinkWish::Direct => return (Self::Direct, None),
            LinkWish::Emulated { kbps } => (*kbps, Vec::new()),
            LinkWish::Stepped(steps) => (mean_kbps(steps), steps.clone()),
        };
        if !cfg!(target_os = "linux") {
            return (Self::Direct, Some("rattan needs Linux".into()));
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !may_emulate(&status) {
            let why = "making network namespaces needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN)";
            return (Self::Direct, Some(why.into()));
        }
        let Some(program) = find_rattan() else {
            return (Self::Direct, Some("rattan is not installed".into()));
        };
        let mut file = None;
        if !steps.is_empty() {
            let path = folder.join(TRACE);
            if let Err(e) = std::fs::write(&path, trace(&steps)) {
                return (Self::Direct, Some(format!("{}: {e}", path.display())));
            }
            file = Some(path);
        }
        let link = Self::Rattan {
            program,
            shape,
            kbps,
            steps,
            trace: file,
        };
        match link.probe() {
            Ok(()) => (link, None),
            Err(why) => (Self::Direct, Some(why)),
        }
    }

    pub fn info(&self) -> LinkInfo {
        match self {
            Self::Rattan {
                shape, kbps, steps, ..
            } => LinkInfo::Rattan {
                kbps: *kbps,
                delay_ms: shape.delay_ms,
                queue_ms: shape.queue_ms,
                loss: shape.loss,
                steps: steps.clone(),
            },
            Self::Direct => LinkInfo::Direct,
        }
    }

    /// `program` at the far end of the link: what it sends crosses the
    /// bottleneck. There it finds this end's address in `RATTAN_BASE`.
    pub fn command(&self, program: &Path) -> Command {
        match self {
            Self::Direct => {
                let mut command = Command::new(program);
                command.env_remove("RATTAN_BASE");
                command
            }
            Self::Rattan {
                program: rattan,
                shape,
                kbps,
                trace,
                ..
            } => {
                let delay = format!("{}ms", shape.delay_ms);
                let queue = format!("{{\"byte_limit\":{}}}", kbps * shape.queue_ms / 8);
                let mut command = Command::new(rattan);
                command
                    // Its warnings about newer kernels go to the output that
                    // the child's reports use.
                    .env("RUST_LOG", "error")
                    .arg("link");
                match trace {
                    Some(file) => command.arg("--uplink-trace").arg(file),
                    None => command.args(["--uplink-bandwidth", &format!("{kbps}Kbps")]),
                };
                command
                    .args(["--uplink-delay", &delay, "--downlink-delay", &delay])
                    .args(["--uplink-queue", "droptail", "--uplink-queue-args", &queue]);
                if shape.loss > 0.0 {
                    command.arg("--uplink-loss").arg(shape.loss.to_string());
                }
                command.arg("--").arg(program);
                command
            }
        }
    }

    /// Builds the link once around a program that does nothing.
    fn probe(&self) -> Result<(), String> {
        let mut child = self
            .command(Path::new("true"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("rattan does not start: {e}"))?;
        let deadline = Instant::now() + PROBE_TIMEOUT;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("rattan fails here ({status})")),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err("rattan does not come up".into());
                }
                Err(e) => return Err(format!("rattan is lost: {e}")),
            }
        }
    }
}

/// Whether the effective capabilities in `/proc/self/status` suffice.
fn may_emulate(status: &str) -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|caps| caps & NET_ADMIN != 0 && caps & SYS_ADMIN != 0)
}

/// The program, if it is installed: in `PATH`, then where cargo installs.
#[must_use]
pub fn find_rattan() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|cargo| cargo.join("bin"));
    std::env::split_paths(&path)
        .chain(cargo)
        .map(|folder| folder.join("rattan"))
        .find(|program| program.is_file())
}

/// Takes away the namespaces of a `rattan` that was killed. It removes them
/// itself when its command ends or at SIGINT.
pub fn remove_namespaces(id: &str) {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return;
    }
    for side in ["left", "rattan"] {
        let name = format!("ns-{side}-{id}");
        if Path::new("/var/run/netns").join(&name).exists() {
            let _ = Command::new("ip")
                .args(["netns", "del", &name])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_from_the_command_line() {
        assert_eq!("direct".parse(), Ok(LinkWish::Direct));
        assert_eq!("2Mbps".parse(), Ok(LinkWish::Emulated { kbps: 2000 }));
        assert_eq!("1.5Mbps".parse(), Ok(LinkWish::Emulated { kbps: 1500 }));
        assert_eq!("800kbps".parse(), Ok(LinkWish::Emulated { kbps: 800 }));
        for bad in [
            "",
            "2",
            "2 Mbps",
            "Mbps",
            "fast",
            "-2Mbps",
            "NaNMbps",
            "1kbps",
            "1e9Mbps",
            "2Mbps:",
            "2Mbps:0",
            "2Mbps:NaN",
            "2Mbps:1,",
            "2Mbps:1,3Mbps",
            ":1",
            "direct:1",
        ] {
            assert!(bad.parse::<LinkWish>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rights_are_read_from_the_effective_capabilities() {
        assert!(may_emulate(
            "Name:\tx\nCapPrm:\t0\nCapEff:\t000001fffeffffff\n"
        ));
        assert!(may_emulate("CapEff:\t0000000000201000\n"));
        assert!(
            !may_emulate("CapEff:\t0000000000200000\n"),
            "SYS_ADMIN alone"
        );
        assert!(
            !may_emulate("CapEff:\t0000000000001000\n"),
            "NET_ADMIN alone"
        );
        assert!(!may_emulate("CapPrm:\t000001fffeffffff\nCapEff:\t0\n"));
        assert!(!may_emulate(""));
    }

    #[test]
    fn the_queue_is_given_in_bytes() {
        let link = Link::Rattan {
            program: "rattan".into(),
            shape: Shape::default(),
            kbps: 2000,
            steps: Vec::new(),
            trace: None,
        };
        let command = link.command(Path::new("true"));
        let args: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        // 2 Mbit/s for 0.3 s is 75 000 bytes.
        assert!(args.contains(&"{\"byte_limit\":75000}"), "{args:?}");
        assert!(args.contains(&"2000Kbps"), "{args:?}");
        assert_eq!(args.last(), Some(&"true"));
    }

    #[test]
    fn delay_and_loss_are_given() {
        let link = Link::Rattan {
            program: "rattan".into(),
            shape: Shape {
                delay_ms: 40,
                queue_ms: 300,
                loss: 0.03,
            },
            kbps: 2000,
            steps: Vec::new(),
            trace: None,
        };
        let command = link.command(Path::new("true"));
        let args: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        let after = |name: &str| args[args.iter().position(|a| *a == name).unwrap() + 1];
        assert_eq!(after("--uplink-loss"), "0.03");
        assert_eq!(after("--uplink-delay"), "40ms");
        assert_eq!(after("--downlink-delay"), "40ms");
        assert!(!args.contains(&"--downlink-loss"), "feedback is not lost");
        assert!(link.info().to_string().ends_with("3 % lost"));
    }

    #[test]
    fn the_summary_names_the_link() {
        let info = Link::Rattan {
            program: "rattan".into(),
            shape: Shape::default(),
            kbps: 2000,
            steps: Vec::new(),
            trace: None,
        }
        .info();
        assert_eq!(
            serde_json::to_value(info).unwrap(),
            serde_json::json!({"kind": "rattan", "kbps": 2000, "delay_ms": 20, "queue_ms": 300})
        );
    }

    #[test]
    fn rates_that_change_become_a_trace() {
        let wish: LinkWish = "1Mbps:10,3Mbps:10,600kbps:0.5".parse().unwrap();
        let LinkWish::Stepped(steps) = &wish else {
            panic!("{wish:?}");
        };
        let step = |kbps, ms| Step { kbps, ms };
        assert_eq!(
            *steps,
            [step(1000, 10_000), step(3000, 10_000), step(600, 500)]
        );
        assert_eq!(mean_kbps(steps), 40_300_000 / 20_500);
        let trace: serde_json::Value = serde_json::from_str(&trace(steps)).unwrap();
        let trace = &trace["RepeatedBwPatternConfig"];
        assert_eq!(trace["count"], 0, "again and again");
        assert_eq!(
            trace["pattern"][2],
            serde_json::json!({"StaticBwConfig": {"bw": "600Kbps", "duration": "500ms"}})
        );
    }

    #[test]
    fn a_rate_that_changes_is_given_as_a_file() {
        let link = Link::Rattan {
            program: "rattan".into(),
            shape: Shape::default(),
            kbps: 2000,
            steps: vec![Step {
                kbps: 2000,
                ms: 1000,
            }],
            trace: Some("x/link.json".into()),
        };
        let command = link.command(Path::new("true"));
        let args: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        let at = args.iter().position(|a| *a == "--uplink-trace").unwrap();
        assert_eq!(args[at + 1], "x/link.json");
        assert!(!args.contains(&"--uplink-bandwidth"));
        assert_eq!(
            serde_json::to_value(link.info()).unwrap()["steps"],
            serde_json::json!([{"kbps": 2000, "ms": 1000}])
        );
    }
}
