// SPDX-License-Identifier: MPL-2.0
//! Who speaks to whom, and how; as the command line says it and as the two
//! processes are told.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};
use clap::ValueEnum;
use dualstream_clip::source::Size;
use dualstream_link::{LinkWish, Step, mahimahi};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// dualwebrtcsink, dualwebrtcsrc
    #[value(aliases = ["dualwebrtcsink", "dualwebrtcsrc"])]
    Ours,
    /// webrtcsink or webrtcsrc of gst-plugins-rs, with rtpgccbwe
    #[value(alias = "webrtcsrc")]
    Webrtcsink,
    /// Chromium, headless, with a page of this program
    Chromium,
    /// aiortc, by tools/aiortc/peer.py
    Aiortc,
}

impl Peer {
    pub const fn name(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Ours, Role::Send) => "dualwebrtcsink",
            (Self::Ours, Role::Receive) => "dualwebrtcsrc",
            (Self::Webrtcsink, Role::Send) => "webrtcsink",
            (Self::Webrtcsink, Role::Receive) => "webrtcsrc",
            (Self::Chromium, _) => "chromium",
            (Self::Aiortc, _) => "aiortc",
        }
    }

    /// A GStreamer pipeline of this program.
    pub const fn is_pipeline(self) -> bool {
        matches!(self, Self::Ours | Self::Webrtcsink)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Send,
    Receive,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Send => "sender",
            Self::Receive => "receiver",
        }
    }
}

/// Parts of our elements that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// The second stream: key frames come on the first
    Dual,
    /// Estimator and pacer: the encoder keeps its rate
    Gcc,
    /// FlexFEC and ULPFEC
    Fec,
    /// Lost packets are not sent again
    Rtx,
    /// rtpkalmanjitterbuffer: rtpjitterbuffer instead
    JitterBuffer,
}

impl Feature {
    /// What is set on `dualwebrtcsink` or `dualwebrtcsrc` to be without it.
    pub const fn off(self, role: Role) -> Option<&'static str> {
        match (self, role) {
            (Self::Dual, Role::Send) => Some("encoder::mode=single"),
            (Self::Gcc, Role::Send) => Some("congestion-control=none"),
            (Self::Fec, _) => Some("fec=off"),
            (Self::Rtx, _) => Some("do-retransmission=false"),
            (Self::JitterBuffer, Role::Receive) => Some("jitter-buffer=fixed"),
            (Self::Dual | Self::Gcc, Role::Receive) | (Self::JitterBuffer, Role::Send) => None,
        }
    }
}

/// What is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Off(pub Vec<Feature>);

impl FromStr for Off {
    type Err = String;

    /// `all` has all of them; otherwise those to leave out, with commas.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::default());
        }
        let names = || {
            let known = Feature::value_variants().iter();
            known
                .filter_map(|f| f.to_possible_value())
                .map(|v| v.get_name().to_owned())
                .collect::<Vec<_>>()
                .join(", ")
        };
        text.split(',')
            .map(|name| {
                Feature::from_str(name.trim(), false)
                    .map_err(|_| format!("`{name}` is neither `all` nor one of {}", names()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A fixed rate without an estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// dualh264enc with both streams
    Dual,
    /// One stream, x264enc's default buffer of 600 ms, a key frame each refresh
    Vanilla,
    /// One stream, a buffer of one frame, a key frame each refresh
    Tight,
    /// One stream, a buffer of one frame, no key frame but the first
    Infinite,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    pub kbps: u64,
    pub scheme: Scheme,
}

/// What one process is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub role: Role,
    pub peer: Peer,
    /// Of the signalling server on the machine that `RATTAN_BASE` names, or
    /// this one.
    pub port: u16,
    pub video: Option<PathBuf>,
    pub size: Size,
    pub fps: u32,
    /// Pictures of the clip that are kept in memory, and shown there and back.
    pub pictures: usize,
    /// The same pictures as a file, for peers that read files.
    pub file: Option<PathBuf>,
    /// Upper limit of the sender's rate.
    pub most_kbps: u64,
    pub refresh_ms: u64,
    pub fixed: Option<Fixed>,
    pub off: Off,
    /// The receiver's application asks for a key frame this often; 0: never.
    pub ask_ms: u64,
    /// More properties of the element, as for gst-launch.
    pub properties: String,
    /// For how long it will be at work, start and end included.
    pub seconds: f64,
    /// PSNR and SSIM of what is shown.
    pub compare: bool,
    pub out: PathBuf,
}

impl Setting {
    pub fn log(&self) -> PathBuf {
        log(&self.out, self.role)
    }

    pub fn packets(&self) -> PathBuf {
        packets(&self.out, self.role)
    }

    pub fn uri(&self) -> String {
        let host = std::env::var("RATTAN_BASE").unwrap_or_else(|_| "127.0.0.1".into());
        format!("ws://{host}:{}", self.port)
    }
}

pub fn log(out: &Path, role: Role) -> PathBuf {
    out.join(format!("{}.jsonl", role.name()))
}

pub fn packets(out: &Path, role: Role) -> PathBuf {
    out.join(format!("{}.packets", role.name()))
}

/// What `--link` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkArg {
    /// kbit/s.
    Constant(u64),
    Steps,
    Trace(PathBuf),
}

/// Of `--link steps`: down, up and back, each as long as it takes to see where
/// the rate settles.
const STEPS: [(u64, u64); 5] = [(2000, 10), (800, 10), (2500, 10), (500, 10), (1500, 10)];

impl FromStr for LinkArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "steps" {
            return Ok(Self::Steps);
        }
        match text.split_once(':') {
            Some(("const", kbps)) => match kbps.parse() {
                Ok(kbps @ 50..=1_000_000) => Ok(Self::Constant(kbps)),
                _ => Err(format!(
                    "`{kbps}` is not a number of kbit/s from 50 to 1000000"
                )),
            },
            Some(("trace", file)) if !file.is_empty() => Ok(Self::Trace(file.into())),
            _ => Err("neither `const:KBPS` nor `trace:FILE` nor `steps`".into()),
        }
    }
}

impl LinkArg {
    /// What the link is asked for, for this long.
    pub fn wish(&self, seconds: f64) -> Result<LinkWish> {
        Ok(match self {
            Self::Constant(kbps) => LinkWish::Emulated { kbps: *kbps },
            Self::Steps => LinkWish::Stepped(
                STEPS
                    .iter()
                    .map(|(kbps, s)| Step {
                        kbps: *kbps,
                        ms: s * 1000,
                    })
                    .collect(),
            ),
            Self::Trace(file) => {
                // Enough of it, so that the queue's size rests on what is used.
                let ms = (seconds * 1e3).ceil() as u64 + 1000;
                match mahimahi::read(file, ms) {
                    Ok(steps) => LinkWish::Stepped(steps),
                    Err(why) => bail!(why),
                }
            }
        })
    }

    pub fn name(&self) -> String {
        match self {
            Self::Constant(kbps) => format!("const:{kbps}"),
            Self::Steps => "steps".into(),
            Self::Trace(file) => format!(
                "trace:{}",
                file.file_name().unwrap_or_default().to_string_lossy()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read() {
        assert_eq!("const:1500".parse(), Ok(LinkArg::Constant(1500)));
        assert_eq!("steps".parse(), Ok(LinkArg::Steps));
        let trace: LinkArg = "trace:a/b.up".parse().unwrap();
        assert_eq!(trace, LinkArg::Trace("a/b.up".into()));
        assert_eq!(trace.name(), "trace:b.up");
        assert!(trace.wish(1.0).unwrap_err().to_string().contains("a/b.up"));
        for bad in [
            "", "const", "const:", "const:10", "const:x", "trace:", "2Mbps",
        ] {
            assert!(bad.parse::<LinkArg>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn features_are_left_out_by_name() {
        assert_eq!("all".parse(), Ok(Off::default()));
        assert_eq!(
            "fec, jitter-buffer".parse(),
            Ok(Off(vec![Feature::Fec, Feature::JitterBuffer]))
        );
        let error = "fec,warp".parse::<Off>().unwrap_err();
        assert!(
            error.contains("warp") && error.contains("jitter-buffer"),
            "{error}"
        );
    }

    #[test]
    fn every_feature_has_a_side_that_leaves_it_out() {
        for feature in Feature::value_variants() {
            let sides = [Role::Send, Role::Receive];
            assert!(
                sides.iter().any(|role| feature.off(*role).is_some()),
                "{feature:?}"
            );
        }
    }

    #[test]
    fn peers_have_the_names_of_their_elements_too() {
        let peer = |name| Peer::from_str(name, false).unwrap();
        assert_eq!(peer("webrtcsrc"), Peer::Webrtcsink);
        assert_eq!(peer("dualwebrtcsrc"), Peer::Ours);
        assert_eq!(Peer::Webrtcsink.name(Role::Receive), "webrtcsrc");
    }
}
