// SPDX-License-Identifier: MPL-2.0
//! The link between the two processes: emulated by `rattan`, or none.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One way, in each direction.
pub const DELAY_MS: u64 = 20;
/// What the drop-tail queue before the bottleneck holds, in time.
pub const QUEUE_MS: u64 = 300;
/// Building the namespaces takes a third of a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(8);

/// What the user asked for with `--link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkWish {
    Emulated { kbps: u64 },
    Direct,
}

impl FromStr for LinkWish {
    type Err = String;

    /// `direct`, or a rate such as `2Mbps`, `800kbps`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "direct" {
            return Ok(Self::Direct);
        }
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
        Ok(Self::Emulated { kbps: kbps as u64 })
    }
}

/// The link of a run, as `summary.json` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LinkInfo {
    Rattan {
        kbps: u64,
        delay_ms: u64,
        queue_ms: u64,
    },
    Direct,
}

impl fmt::Display for LinkInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rattan {
                kbps,
                delay_ms,
                queue_ms,
            } => write!(
                f,
                "emulated by rattan: {kbps} kbit/s, {delay_ms} ms each way, drop-tail queue of {queue_ms} ms"
            ),
            Self::Direct => f.write_str("direct, over loopback"),
        }
    }
}

/// The link that will be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    Rattan { program: PathBuf, kbps: u64 },
    Direct,
}

impl Link {
    /// The wish if this machine can fulfil it; otherwise the direct link and
    /// the reason.
    pub fn choose(wish: LinkWish) -> (Self, Option<String>) {
        let LinkWish::Emulated { kbps } = wish else {
            return (Self::Direct, None);
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
        let link = Self::Rattan { program, kbps };
        match link.probe() {
            Ok(()) => (link, None),
            Err(why) => (Self::Direct, Some(why)),
        }
    }

    pub fn info(&self) -> LinkInfo {
        match self {
            Self::Rattan { kbps, .. } => LinkInfo::Rattan {
                kbps: *kbps,
                delay_ms: DELAY_MS,
                queue_ms: QUEUE_MS,
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
                kbps,
            } => {
                let delay = format!("{DELAY_MS}ms");
                let queue = format!("{{\"byte_limit\":{}}}", kbps * QUEUE_MS / 8);
                let mut command = Command::new(rattan);
                command
                    // Its warnings about newer kernels go to the output that
                    // the child's reports use.
                    .env("RUST_LOG", "error")
                    .args(["link", "--uplink-bandwidth", &format!("{kbps}Kbps")])
                    .args(["--uplink-delay", &delay, "--downlink-delay", &delay])
                    .args(["--uplink-queue", "droptail", "--uplink-queue-args", &queue])
                    .arg("--")
                    .arg(program);
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

/// In `PATH`, then where cargo installs.
fn find_rattan() -> Option<PathBuf> {
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
            "", "2", "2 Mbps", "Mbps", "fast", "-2Mbps", "NaNMbps", "1kbps", "1e9Mbps",
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
            kbps: 2000,
        };
        let command = link.command(Path::new("true"));
        let args: Vec<_> = command.get_args().filter_map(|a| a.to_str()).collect();
        // 2 Mbit/s for 0.3 s is 75 000 bytes.
        assert!(args.contains(&"{\"byte_limit\":75000}"), "{args:?}");
        assert!(args.contains(&"2000Kbps"), "{args:?}");
        assert_eq!(args.last(), Some(&"true"));
    }

    #[test]
    fn the_summary_names_the_link() {
        let info = Link::Rattan {
            program: "rattan".into(),
            kbps: 2000,
        }
        .info();
        assert_eq!(
            serde_json::to_value(info).unwrap(),
            serde_json::json!({"kind": "rattan", "kbps": 2000, "delay_ms": 20, "queue_ms": 300})
        );
    }
}
