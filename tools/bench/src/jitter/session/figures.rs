// SPDX-License-Identifier: MPL-2.0
//! From what both processes wrote down to figures.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use dualstream_chromium::freeze::Freezes;
use serde::Serialize;

use super::blocks::broken;
use super::relay::Shape;
use super::said::{Counts, Received, Sent};
use crate::jitter::Model;
use crate::report::{mean, percentile};

const LONG_GAP_MS: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// The field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub buffer: String,
    /// As it was set; null where the element finds its own, or does not wait.
    pub latency_ms: Option<u32>,
    pub model: Option<Model>,
    pub late_target: Option<f64>,
    pub jitter_ms: f64,
    pub jitter_shape: Shape,
    pub loss: f64,
    pub rtt_ms: f64,
    pub reorder: bool,
    pub seconds: f64,
    pub seed: u64,
    #[serde(flatten)]
    pub pictures: Pictures,
    #[serde(flatten)]
    pub counts: Counts,
    pub cpu_us_per_packet: f64,
}

/// Of the pictures captured in the time that is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pictures {
    pub frames_sent: u64,
    pub frames_shown: u64,
    /// From the capture to the sink, after it has waited for the picture's
    /// time.
    pub glass_to_glass_ms: Latency,
    /// From the arrival of the frame's last packet at the jitter buffer (of
    /// those that the buffer still let pass; a retransmission counts as any)
    /// to the sink, less the time from the last packet's departure from the
    /// jitter buffer to the picture's departure from the decoder. On a clean
    /// link, this is what the buffer adds.
    pub added_delay_ms_mean: f64,
    /// W3C webrtc-stats: a picture that stays for at least the larger of three
    /// times the mean interval and that mean + 150 ms. A key frame that is lost
    /// makes one: libav drops what refers to it.
    pub freezes: u64,
    pub freeze_ms_total: f64,
    pub gaps_over_100_ms: u64,
    /// Shown, but other than coded: see blocks.rs.
    pub broken_frames: u64,
    pub key_frames: u64,
}

/// What came from both processes, with times in ns.
#[derive(Default)]
pub struct Log {
    pub sent: Vec<Sent>,
    pub received: Vec<Received>,
    pub keys: Vec<u64>,
    pub counts: Option<Counts>,
}

/// From the first capture.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: Duration,
    pub end: Duration,
}

pub fn pictures(log: &Log, window: Window) -> Pictures {
    let origin = log.sent.first().map_or(0, |sent| sent.captured);
    let time = |ns: u64| Duration::from_nanos(ns.saturating_sub(origin));
    let inside = |ns: u64| time(ns) >= window.start && time(ns) < window.end;
    let received: HashMap<u32, &Received> = log
        .received
        .iter()
        .map(|frame| (frame.rtp_timestamp, frame))
        .collect();
    let mut figures = Pictures {
        key_frames: log.keys.iter().filter(|at| inside(**at)).count() as u64,
        ..Pictures::default()
    };
    let (mut latencies, mut added) = (Vec::new(), Vec::new());
    for sent in log.sent.iter().filter(|sent| inside(sent.captured)) {
        figures.frames_sent += 1;
        let Some(frame) = received.get(&sent.rtp_timestamp) else {
            continue;
        };
        let Some(shown) = frame.shown else { continue };
        latencies.push(millis(sent.captured, shown));
        added.extend(added_ms(frame));
        figures.broken_frames += u64::from(broken(&sent.blocks, &frame.blocks));
    }
    figures.frames_shown = latencies.len() as u64;
    figures.glass_to_glass_ms = Latency {
        mean: mean(latencies.iter().copied()),
        p50: percentile(&latencies, 0.5),
        p95: percentile(&latencies, 0.95),
        p99: percentile(&latencies, 0.99),
    };
    figures.added_delay_ms_mean = mean(added.iter().copied());
    let mut shown: Vec<Duration> = log
        .received
        .iter()
        .filter_map(|frame| frame.shown.map(time))
        .collect();
    shown.sort();
    stays(&shown, window, &mut figures);
    figures
}

pub fn millis(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

fn added_ms(frame: &Received) -> Option<f64> {
    let decoding = millis(frame.left?, frame.decoded?);
    Some(millis(frame.arrived?, frame.shown?) - decoding)
}

/// Pictures that stay too long, from the times at which each is shown. One that
/// is the last of all stays to the end of the window.
fn stays(shown: &[Duration], window: Window, figures: &mut Pictures) {
    let mut freezes = Freezes::default();
    let mut last = None;
    let past_the_end = shown.last().is_some_and(|last| *last >= window.end);
    let end = (!past_the_end).then_some(window.end);
    for now in shown.iter().copied().chain(end) {
        let before = (freezes.count(), freezes.duration());
        freezes.shown(now);
        let since = last.replace(now);
        if since.is_some_and(|since| since >= window.start && since < window.end) {
            figures.freezes += freezes.count() - before.0;
            figures.freeze_ms_total += (freezes.duration() - before.1).as_secs_f64() * 1000.0;
            let stayed = now.saturating_sub(since.unwrap_or(now));
            figures.gaps_over_100_ms += u64::from(stayed.as_secs_f64() * 1000.0 > LONG_GAP_MS);
        }
    }
}

pub fn table(all: &[Figures]) -> String {
    let mut text = String::from(
        "                              shown  glass to glass, ms          added freezes     gaps broken key          rtx     CPU us\n\
         buffer                       /sent   mean   p50   p95   p99     ms   no    ms >100ms frames    lost  late got/asked /packet\n",
    );
    let count = |n: Option<u64>| n.map_or("-".into(), |n| n.to_string());
    for f in all {
        let (p, l, c) = (&f.pictures, &f.pictures.glass_to_glass_ms, &f.counts);
        let _ = writeln!(
            text,
            "{:<25} {:>4}/{:<4} {:>6.1} {:>5.0} {:>5.0} {:>5.0} {:>6.1} {:>4} {:>5.0} {:>6} {:>6} {:>3} {:>4} {:>5} {:>4}/{:<4} {:>6.1}",
            label(f),
            p.frames_shown,
            p.frames_sent,
            l.mean,
            l.p50,
            l.p95,
            l.p99,
            p.added_delay_ms_mean,
            p.freezes,
            p.freeze_ms_total,
            p.gaps_over_100_ms,
            p.broken_frames,
            p.key_frames,
            count(c.num_lost),
            count(c.num_late),
            count(c.rtx_success_count),
            count(c.rtx_count),
            f.cpu_us_per_packet,
        );
    }
    text
}

fn label(figures: &Figures) -> String {
    name(&figures.buffer, figures.latency_ms)
}

/// As on the command line.
pub fn name(buffer: &str, latency_ms: Option<u32>) -> String {
    latency_ms.map_or(buffer.into(), |ms| format!("{buffer}:{ms}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const WINDOW: Window = Window {
        start: Duration::from_secs(3),
        end: Duration::from_secs(6),
    };

    /// Frames 20 ms apart, shown after 100 ms, for `count` frames.
    fn log(count: u32) -> Log {
        let captured = |n: u32| u64::from(n) * 20 * MS + 7 * MS;
        let mut log = Log::default();
        for n in 0..count {
            log.sent.push(Sent {
                rtp_timestamp: n * 1800,
                captured: captured(n),
                blocks: "80".repeat(100),
            });
            log.received.push(Received {
                rtp_timestamp: n * 1800,
                latest: None,
                arrived: Some(captured(n) + 50 * MS),
                left: Some(captured(n) + 60 * MS),
                decoded: Some(captured(n) + 63 * MS),
                shown: Some(captured(n) + 100 * MS),
                blocks: "81".repeat(100),
            });
        }
        log
    }

    #[test]
    fn a_smooth_run_has_its_delay_and_no_freeze() {
        let mut log = log(400);
        log.keys = vec![7 * MS, 4000 * MS, 4100 * MS];
        let figures = pictures(&log, WINDOW);
        assert_eq!((figures.frames_sent, figures.frames_shown), (150, 150));
        let all = Latency {
            mean: 100.0,
            p50: 100.0,
            p95: 100.0,
            p99: 100.0,
        };
        assert_eq!(figures.glass_to_glass_ms, all);
        // 100 - 50 ms, less 3 ms of decoding.
        assert_eq!(figures.added_delay_ms_mean, 47.0);
        assert_eq!((figures.freezes, figures.gaps_over_100_ms), (0, 0));
        assert_eq!((figures.broken_frames, figures.key_frames), (0, 2));
    }

    #[test]
    fn what_is_missing_or_broken_is_counted() {
        let mut log = log(400);
        // 12 pictures are missing from 4 s on: one stays for 260 ms.
        for frame in &mut log.received[200..212] {
            frame.shown = None;
        }
        // 5 are: one stays for 120 ms, which is no freeze.
        for frame in &mut log.received[250..255] {
            frame.shown = None;
        }
        log.received[260].blocks = "ff".repeat(100);
        let figures = pictures(&log, WINDOW);
        assert_eq!(figures.frames_shown, 150 - 17);
        assert_eq!((figures.freezes, figures.freeze_ms_total), (1, 260.0));
        assert_eq!(figures.gaps_over_100_ms, 2);
        assert_eq!(figures.broken_frames, 1);
    }

    #[test]
    fn a_picture_that_is_the_last_stays_to_the_end() {
        let mut log = log(400);
        for frame in &mut log.received[250..] {
            frame.shown = None;
        }
        let figures = pictures(&log, WINDOW);
        // The last was shown at 5080 ms of 6000.
        assert_eq!((figures.freezes, figures.freeze_ms_total), (1, 920.0));
        let before = Window {
            start: Duration::from_secs(1),
            end: Duration::from_secs(4),
        };
        assert_eq!(pictures(&log, before).freezes, 0, "outside the window");
    }
}
