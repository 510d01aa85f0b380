// SPDX-License-Identifier: MPL-2.0
//! What the two processes write down. All times are ns since 1970, by the one
//! clock of the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Line {
    Shown(Shown),
    Sample(Sample),
    /// What was used, such as the encoder.
    Note {
        name: String,
        value: String,
    },
}

/// A picture on the receiver's screen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub at: u64,
    /// Number and time of capture; none where the bar code cannot be read.
    pub number: Option<u16>,
    pub captured: Option<u64>,
    pub psnr_db: Option<f64>,
    pub ssim: Option<f64>,
}

/// Where counters and gauges stand, see [`key`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub at: u64,
    pub values: BTreeMap<String, f64>,
}

/// Names of values. Counters go up, gauges come and go.
pub mod key {
    /// Counter, seconds of CPU time of the process and its children.
    pub const CPU: &str = "cpu-s";
    /// Gauge: what the encoder is asked for.
    pub const TARGET: &str = "target-kbps";
    /// Gauge: what the estimator says.
    pub const ESTIMATE: &str = "estimate-kbps";
    /// Counters.
    pub const KEYS: &str = "key-frames";
    pub const SWITCHES: &str = "switches";
    pub const MEDIA_BYTES: &str = "media-bytes";
    pub const FEC_BYTES: &str = "fec-bytes";
    pub const FEC_RECOVERED: &str = "fec-recovered";
    pub const RTX_RECOVERED: &str = "rtx-recovered";
    pub const RTX_ASKED: &str = "rtx-asked";
    pub const RTX_ANSWERED: &str = "rtx-answered";
    /// Gauge: what the jitter buffer adds, in ms.
    pub const JITTER_DELAY: &str = "jitter-delay-ms";
    /// Counter: pictures that the screen has had, also those nobody looked at.
    pub const PRESENTED: &str = "presented";
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// The log of a process, kept in memory until its end.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Line>>>);

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its position.
    pub fn add(&self, line: Line) -> usize {
        let mut lines = self.lock();
        lines.push(line);
        lines.len() - 1
    }

    pub fn note(&self, name: &str, value: impl Into<String>) {
        self.add(Line::Note {
            name: name.into(),
            value: value.into(),
        });
    }

    /// Of the picture at this position.
    pub fn compared(&self, position: usize, psnr: f64, ssim: f64) {
        if let Some(Line::Shown(shown)) = self.lock().get_mut(position) {
            shown.psnr_db = Some(psnr);
            shown.ssim = Some(ssim);
        }
    }

    pub fn shown(&self) -> u64 {
        let lines = self.lock();
        lines.iter().filter(|l| matches!(l, Line::Shown(_))).count() as u64
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        write_lines(file, &self.lock())
    }
}

pub fn write_lines<T: Serialize>(file: &Path, lines: &[T]) -> Result<()> {
    let to = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let mut to = BufWriter::new(to);
    for line in lines {
        serde_json::to_writer(&mut to, line)?;
        to.write_all(b"\n")?;
    }
    to.flush()?;
    Ok(())
}

pub fn read_lines<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    let from = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    BufReader::new(from)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()
        .with_context(|| format!("in {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let log = Log::default();
        log.note("encoder", "x264enc");
        let at = log.add(Line::Shown(Shown {
            at: 5,
            number: Some(7),
            captured: Some(1),
            ..Shown::default()
        }));
        log.add(Line::Sample(Sample {
            at: 6,
            values: [(key::CPU.to_owned(), 0.5)].into(),
        }));
        log.compared(at, 40.5, 0.98);
        assert_eq!(log.shown(), 1);
        let file =
            std::env::temp_dir().join(format!("dualstream-call-{}.jsonl", std::process::id()));
        log.write(&file).unwrap();
        let lines: Vec<Line> = read_lines(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(lines, *log.lock());
        assert!(matches!(&lines[at], Line::Shown(s) if s.psnr_db == Some(40.5)));
    }
}
