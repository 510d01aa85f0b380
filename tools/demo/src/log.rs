// SPDX-License-Identifier: MPL-2.0
//! What the two processes write down, one JSON object per line, and what the
//! summary and the report are made from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A line of `sender.jsonl`. Times are nanoseconds since 1970 by the wall
/// clock, which both processes read on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Sent {
    /// The n-th picture of the clip was handed to `dualwebrtcsink`. `pts` is
    /// its place in the clip.
    Picture { number: u64, pts: u64 },
    /// The n-th picture entered the encoder with this capture time.
    Captured { number: u64, at: u64 },
    /// The encoder put out a coded frame.
    Coded(Coded),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coded {
    pub at: u64,
    pub stream: u32,
    pub number: u64,
    pub generation: u32,
    pub background: bool,
    pub key: bool,
    pub bytes: u64,
}

/// A line of `receiver.jsonl`: a picture that was shown, in the order of
/// showing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// `None`: the picture came without a frame tag.
    pub number: Option<u64>,
    pub stream: u32,
    pub generation: u32,
    /// Nanoseconds since 1970, from the time stamp that came with the frame.
    pub captured: Option<u64>,
    pub shown: u64,
    /// Luma PSNR against the source picture of the same number.
    pub psnr_db: Option<f64>,
}

/// A line of `rates.jsonl`, about ten a second from the start of the sending
/// process on. Counts are since then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub at: u64,
    /// The bandwidth estimate in bit/s; none without an estimator.
    pub estimate: Option<u64>,
    /// What the encoder was asked for, in bit/s.
    pub encoder: u64,
    /// RTP that left the estimator, with 28 bytes for IP and UDP each.
    pub sent_bytes: u64,
    /// Packets that transport-wide feedback calls lost.
    pub lost: u64,
    /// What the estimator says of itself, if it does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub said: BTreeMap<String, String>,
}

pub fn write_lines<T: Serialize>(path: &Path, items: &[T]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for item in items {
            serde_json::to_writer(&mut file, item)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A last line that was cut off (a process that was killed) is left out.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut items = Vec::new();
    let mut lines = BufReader::new(file).lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        match serde_json::from_str(&line) {
            Ok(item) => items.push(item),
            Err(_) if lines.peek().is_none() => break,
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("line {} of {}", items.len() + 1, path.display()));
            }
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("dualstream-demo-{}-{name}", std::process::id()))
    }

    #[test]
    fn lines_come_back_as_written_and_a_torn_last_line_is_left_out() {
        let path = scratch("torn.jsonl");
        let items = [
            Sent::Picture { number: 0, pts: 5 },
            Sent::Captured { number: 0, at: 7 },
            Sent::Coded(Coded {
                at: 6,
                stream: 1,
                number: 70_000,
                generation: 3,
                background: true,
                key: false,
                bytes: 1200,
            }),
        ];
        write_lines(&path, &items).unwrap();
        assert_eq!(read_lines::<Sent>(&path).unwrap(), items);

        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"kind\":\"pict");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read_lines::<Sent>(&path).unwrap(), items);

        std::fs::write(&path, format!("nonsense\n{text}")).unwrap();
        assert!(
            read_lines::<Sent>(&path).is_err(),
            "a bad line in the middle is not silently skipped"
        );
        std::fs::remove_file(&path).unwrap();
    }
}
