// SPDX-License-Identifier: MPL-2.0
//! Traces of cellular links in the format of Mahimahi: each line is a
//! millisecond at which one packet of 1500 bytes may leave, and the file
//! repeats when it ends.
//!
//! rattan 0.1 panics where the rate is 0, which it is between any two lines;
//! here a trace becomes rates over spans of [`SPAN_MS`], none of them 0.

use std::path::{Path, PathBuf};

use crate::Step;

/// Rates are means over so long.
pub const SPAN_MS: u64 = 100;
const PACKET_BITS: u64 = 1500 * 8;
/// Where the trace lets nothing pass: a packet takes 1.2 s, so nothing does.
const LEAST_KBPS: u64 = 10;
const MOST_MS: u64 = 24 * 3600 * 1000;

/// The rates in the file, at most `most_ms` of it. Errors name the line.
pub fn steps(text: &str, most_ms: u64) -> Result<Vec<Step>, String> {
    let mut packets: Vec<u64> = Vec::new();
    let mut last = 0;
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = at + 1;
        let ms: u64 = line
            .trim()
            .parse()
            .map_err(|_| format!("line {number}: `{line}` is not a number of milliseconds"))?;
        if ms < last {
            return Err(format!("line {number}: time goes back"));
        }
        if ms > MOST_MS {
            return Err(format!("line {number}: longer than a day"));
        }
        last = ms;
        if ms >= most_ms {
            continue;
        }
        let span = (ms / SPAN_MS) as usize;
        if packets.len() <= span {
            packets.resize(span + 1, 0);
        }
        packets[span] += 1;
    }
    if packets.iter().all(|count| *count == 0) {
        return Err("there is no packet in it".into());
    }
    // The last span may be shorter than the others: it is left out, or a link
    // of few packets would be slower in each round.
    if last < most_ms && packets.len() > 1 && (last + 1) % SPAN_MS != 0 {
        packets.pop();
    }
    let mut steps: Vec<Step> = Vec::new();
    for count in packets {
        let kbps = (count * PACKET_BITS / SPAN_MS).max(LEAST_KBPS);
        match steps.last_mut() {
            Some(step) if step.kbps == kbps => step.ms += SPAN_MS,
            _ => steps.push(Step { kbps, ms: SPAN_MS }),
        }
    }
    Ok(steps)
}

/// The file itself, or that name in `../shared/traces`, where the traces that
/// the project was measured with are.
#[must_use]
pub fn find(file: &Path) -> Option<PathBuf> {
    [
        file.to_path_buf(),
        Path::new("../shared/traces").join(file),
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/traces")
            .join(file),
    ]
    .into_iter()
    .find(|path| path.is_file())
}

/// The rates in the file of this name, see [`find`].
pub fn read(file: &Path, most_ms: u64) -> Result<Vec<Step>, String> {
    let path = find(file).ok_or_else(|| {
        format!(
            "there is no file {}, nor one of that name in ../shared/traces",
            file.display()
        )
    })?;
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    steps(&text, most_ms).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_become_rates() {
        // 3 packets in the first 100 ms, none in the next 200, 1 in the last.
        let text = "0\n50\n50\n300\n399\n";
        let step = |kbps, ms| Step { kbps, ms };
        assert_eq!(
            steps(text, MOST_MS).unwrap(),
            [step(360, 100), step(10, 200), step(240, 100)]
        );
        assert_eq!(steps(text, 200).unwrap(), [step(360, 100)], "cut");
    }

    #[test]
    fn a_last_span_that_is_cut_short_does_not_count() {
        let text = "0\n50\n150\n199\n210\n";
        let step = |kbps, ms| Step { kbps, ms };
        assert_eq!(steps(text, MOST_MS).unwrap(), [step(240, 200)]);
    }

    #[test]
    fn a_bad_trace_is_refused_with_its_line() {
        assert!(steps("1\nx\n", MOST_MS).unwrap_err().starts_with("line 2"));
        assert!(steps("9\n3\n", MOST_MS).unwrap_err().starts_with("line 2"));
        assert!(steps("", MOST_MS).is_err());
        assert!(steps("99999999999\n", MOST_MS).is_err());
        let missing = read(Path::new("no/such.up"), MOST_MS).unwrap_err();
        assert!(missing.contains("no/such.up"), "{missing}");
    }
}
