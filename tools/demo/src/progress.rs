// SPDX-License-Identifier: MPL-2.0
//! What is printed while it runs, and the table at the end.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use crate::events::Showing;
use crate::rates::Phase;
use crate::stats::Summary;

/// One updating line on a terminal, a line each second otherwise.
pub struct Progress {
    terminal: bool,
    start: Option<Instant>,
    sent: u64,
    kbps: f64,
    shown: u64,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            start: None,
            sent: 0,
            kbps: 0.0,
            shown: 0,
        }
    }

    pub fn sending(&mut self, pictures: u64, kbps: f64) {
        self.sent = pictures;
        self.kbps = kbps;
    }

    /// True if there were new pictures.
    pub fn showing(&mut self, showing: &Showing) -> bool {
        if showing.pictures == self.shown {
            return false;
        }
        self.shown = showing.pictures;
        let seconds = self.start.get_or_insert_with(Instant::now).elapsed();
        let line = line(seconds.as_secs() + 1, self.sent, self.kbps, showing);
        let mut out = std::io::stdout().lock();
        let _ = if self.terminal {
            write!(out, "\r{line}\x1b[K")
        } else {
            writeln!(out, "{line}")
        };
        let _ = out.flush();
        true
    }

    pub fn end(&mut self) {
        if self.terminal && self.start.is_some() {
            let _ = writeln!(std::io::stdout());
        }
    }
}

fn line(seconds: u64, sent: u64, kbps: f64, showing: &Showing) -> String {
    let mut line = format!(
        "{seconds:4} s  sent {sent}  shown {}  {kbps:.0} kbit/s  display stream {}  switches {}",
        showing.pictures, showing.display_stream, showing.switches
    );
    if let (Some(mean), Some(max)) = (showing.latency_ms_mean, showing.latency_ms_max) {
        let _ = write!(line, "  latency {mean:.0} ms (worst {max:.0})");
    }
    line
}

/// The figures that count, aligned.
pub fn table(s: &Summary) -> String {
    let mut rows = vec![
        ("pictures sent", s.frames_in.to_string()),
        (
            "pictures shown",
            format!(
                "{} ({} missing, {} twice, {} out of order)",
                s.frames_shown, s.missing_shown, s.duplicates_shown, s.reordered_shown
            ),
        ),
        ("switches", s.switches.to_string()),
        (
            "freezes over 100 ms",
            format!(
                "{}, together {:.1} s (longest gap {} ms)",
                s.freezes_over_100ms,
                s.frozen_ms / 1e3,
                s.longest_gap_ms
            ),
        ),
    ];
    if let Some(l) = s.latency_ms {
        rows.push((
            "capture to shown",
            format!(
                "mean {} ms, median {}, p97 {}, worst {}",
                l.mean, l.p50, l.p97, l.max
            ),
        ));
    }
    if let Some(l) = s.coding_ms {
        rows.push((
            "of it, coding",
            format!("mean {} ms, p97 {}, worst {}", l.mean, l.p97, l.max),
        ));
    }
    if let (Some(mean), Some(min)) = (s.psnr_db_mean, s.psnr_db_min) {
        rows.push(("luma PSNR", format!("mean {mean} dB, worst frame {min}")));
    }
    rows.push((
        "coded video",
        format!(
            "{} kbit/s, {:.0} % of it in the background",
            s.rate_kbps,
            s.background_share * 100.0
        ),
    ));
    rows.push(("link", s.setting.link.to_string()));
    if let Some(rates) = &s.rates {
        rows.push(("use of the link", rates.whole.text()));
    }
    if let Some(slow) = s.slow() {
        rows.push(("this machine", slow));
    }
    let phases: Vec<_> = s
        .rates
        .iter()
        .flat_map(|rates| rates.phases.iter().map(Phase::row))
        .collect();
    rows.extend(
        phases
            .iter()
            .map(|(name, text)| (name.as_str(), text.clone())),
    );
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<20} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_viewer_sees() {
        let showing = Showing {
            pictures: 58,
            display_stream: 1,
            switches: 3,
            latency_ms_mean: Some(51.6),
            latency_ms_max: Some(70.2),
        };
        assert_eq!(
            line(2, 60, 1480.3, &showing),
            "   2 s  sent 60  shown 58  1480 kbit/s  display stream 1  switches 3  latency 52 ms (worst 70)"
        );
        let untimed = Showing {
            latency_ms_mean: None,
            ..showing
        };
        assert!(!line(2, 60, 1480.3, &untimed).contains("latency"));
    }
}
