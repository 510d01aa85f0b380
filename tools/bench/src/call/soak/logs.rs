// SPDX-License-Identifier: MPL-2.0
//! What the processes wrote to stderr.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// Of each kind these are kept.
const MOST_LINES: usize = 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// Of GLib: WARNING, CRITICAL and ERROR.
    pub glib: u64,
    pub glib_lines: Vec<String>,
    /// Of GStreamer's log, at level ERROR.
    pub errors: u64,
    pub error_lines: Vec<String>,
    /// At level WARN, by category. They do not count as failures.
    pub warnings: BTreeMap<String, u64>,
}

impl Lines {
    pub fn is_clean(&self) -> bool {
        self.glib == 0 && self.errors == 0
    }

    fn add(&mut self, line: &str) {
        if is_glib(line) {
            self.glib += 1;
            keep(&mut self.glib_lines, line);
            return;
        }
        // Time, process, thread, level, category, ...
        let mut words = line.split_whitespace().skip(3);
        match (words.next(), words.next()) {
            // What decoders say of damaged pictures.
            (Some("ERROR"), Some("libav")) => {
                *self.warnings.entry("libav (ERROR)".into()).or_default() += 1;
            }
            (Some("ERROR"), Some(_)) => {
                self.errors += 1;
                keep(&mut self.error_lines, line);
            }
            (Some("WARN"), Some(category)) => {
                *self.warnings.entry(category.to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }
}

fn keep(lines: &mut Vec<String>, line: &str) {
    if lines.len() < MOST_LINES {
        lines.push(line.to_owned());
    }
}

/// `(program:1): GLib-GObject-CRITICAL **: ...`, or `** (program:1): WARNING **: ...`
fn is_glib(line: &str) -> bool {
    ["WARNING **", "CRITICAL **", "ERROR **"]
        .iter()
        .any(|mark| line.contains(mark))
}

pub fn read(file: &Path) -> Result<Lines> {
    let from = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut lines = Lines::default();
    for line in BufReader::new(from).split(b'\n') {
        lines.add(&String::from_utf8_lossy(&line?));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let mut lines = Lines::default();
        for line in [
            "(dualstream-bench:12): GLib-GObject-CRITICAL **: 10:00:00.000: g_object_unref: assertion",
            "** (dualstream-bench:12): WARNING **: 10:00:00.000: a warning",
            "0:00:01.154 21242 0x7fe9 WARN               webrtcbin gstwebrtcbin.c:4569:x:<y> no",
            "0:00:01.155 21242 0x7fe9 ERROR              pacer imp.rs:1:x:<y> dead",
            "a panic or what else there is",
            "",
        ] {
            lines.add(line);
        }
        assert_eq!((lines.glib, lines.errors), (2, 1));
        assert_eq!(lines.warnings, [("webrtcbin".to_owned(), 1)].into());
        assert!(!lines.is_clean());
    }
}
