// SPDX-License-Identifier: MPL-2.0
//! The figures of `summary.json`, from the two logs. No clock, no GStreamer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::log::{Coded, Sent, Shown};
use crate::rates::Figures;
use dualstream_link::LinkInfo;

/// A sender that is so late, or codes so long, says nothing of the link.
pub const SLOW_MS: f64 = 100.0;
/// A gap between two shown pictures is a freeze when it is longer by this
/// than the gap between captures.
pub const FREEZE_MS: f64 = 100.0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p97: f64,
    pub max: f64,
}

/// What one of the two streams was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamFigures {
    pub display_frames: u64,
    pub background_frames: u64,
    pub key_frames_display: u64,
    pub key_frames_background: u64,
    pub display_bytes: u64,
    pub background_bytes: u64,
    pub largest_display_bytes: u64,
    pub largest_background_bytes: u64,
}

/// What is known of the run beside the logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub source: String,
    pub link: LinkInfo,
    pub width: u32,
    pub height: u32,
    /// Nominal, of the clip.
    pub fps: f64,
    pub bitrate_kbps: u64,
    pub refresh_interval_ms: u64,
    pub estimator: String,
    pub encoder: String,
    pub decoder: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Pictures handed to `dualwebrtcsink`.
    pub frames_in: u64,
    pub frames_shown: u64,
    pub missing_shown: u64,
    /// Of them: captured while the link let next to nothing pass, or just
    /// before or after.
    pub missing_in_outages: u64,
    pub duplicates_shown: u64,
    pub reordered_shown: u64,
    pub untagged_shown: u64,
    pub switches: u64,
    pub freezes_over_100ms: u64,
    /// Their gaps together.
    pub frozen_ms: f64,
    pub longest_gap_ms: f64,
    /// Capture to shown; absent when no frame brought its time stamp.
    pub latency_ms: Option<Latency>,
    /// Of it, capture to coded frame: long where this machine was busy.
    pub coding_ms: Option<Latency>,
    /// Mean over the shown frames of each frame's luma PSNR.
    pub psnr_db_mean: Option<f64>,
    pub psnr_db_min: Option<f64>,
    pub psnr_frames: u64,
    pub seconds: f64,
    /// How far the sender fell behind the clip's own times, at worst.
    pub sender_late_ms: f64,
    /// Coded video of both streams, without RTP.
    pub rate_kbps: f64,
    pub background_share: f64,
    pub key_frames_display: u64,
    pub largest_frame_bytes: [u64; 2],
    pub streams: [StreamFigures; 2],
    /// On a link that changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Figures>,
    #[serde(flatten)]
    pub setting: Setting,
    /// Why the run does not count as good; empty when it does.
    pub problems: Vec<String>,
}

impl Summary {
    /// Whether this machine, and not the link, made it late.
    #[must_use]
    pub fn slow(&self) -> Option<String> {
        let coding = self.coding_ms.map_or(0.0, |l| l.p97);
        let late = self.sender_late_ms;
        let mut why = Vec::new();
        if coding >= SLOW_MS {
            why.push(format!(
                "3 % of the pictures took {coding} ms or more to code"
            ));
        }
        if late >= SLOW_MS {
            why.push(format!("the sender fell {late} ms behind the clip"));
        }
        (!why.is_empty()).then(|| format!("was too slow or busy: {}", why.join(", and ")))
    }

    /// When there are no problems.
    #[must_use]
    pub fn praise(&self) -> String {
        let but = match self.missing_in_outages {
            0 => String::new(),
            n => format!(", but for {n} during outages of the link"),
        };
        format!("Every picture was shown once and in order{but}")
    }
}

/// The smallest value that at least `share` of all are not above
/// (nearest rank). `sorted` is ascending.
#[must_use]
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().wrapping_sub(1)))
        .copied()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

pub fn ms(ns: i128) -> f64 {
    ns as f64 / 1e6
}

impl Shown {
    /// Capture to shown. Negative only if the wall clock was set back.
    #[must_use]
    pub fn latency_ms(&self) -> Option<f64> {
        self.captured
            .map(|captured| ms(i128::from(self.shown) - i128::from(captured)))
    }
}

#[must_use]
pub fn latency(shown: &[Shown]) -> Option<Latency> {
    spread(shown.iter().filter_map(Shown::latency_ms).collect())
}

/// Capture to coded frame, of the frames that are shown.
#[must_use]
pub fn coding(sent: &[Sent]) -> Option<Latency> {
    let mut captured = BTreeMap::new();
    let mut values = Vec::new();
    for line in sent {
        match line {
            Sent::Captured { number, at } => {
                captured.insert(*number, *at);
            }
            Sent::Coded(coded) if !coded.background => {
                let since = captured.get(&coded.number);
                values.extend(since.map(|at| ms(i128::from(coded.at) - i128::from(*at))));
            }
            Sent::Coded(_) | Sent::Picture { .. } => {}
        }
    }
    spread(values)
}

fn spread(mut values: Vec<f64>) -> Option<Latency> {
    values.sort_by(f64::total_cmp);
    Some(Latency {
        mean: round(mean(&values)?, 1),
        p50: round(percentile(&values, 0.50)?, 1),
        p97: round(percentile(&values, 0.97)?, 1),
        max: round(*values.last()?, 1),
    })
}

/// Order of what was shown, by frame number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    pub distinct: u64,
    pub duplicates: u64,
    /// Shown after a picture that comes later.
    pub reordered: u64,
    pub untagged: u64,
}

#[must_use]
pub fn order(shown: &[Shown]) -> Order {
    let mut order = Order::default();
    let mut seen = BTreeSet::new();
    let mut highest = None;
    for number in shown.iter().map(|s| s.number) {
        let Some(number) = number else {
            order.untagged += 1;
            continue;
        };
        if !seen.insert(number) {
            order.duplicates += 1;
        } else if highest > Some(number) {
            order.reordered += 1;
        }
        highest = highest.max(Some(number));
    }
    order.distinct = seen.len() as u64;
    order
}

/// Positions in `shown` of the first picture of another stream.
#[must_use]
pub fn switches(shown: &[Shown]) -> Vec<usize> {
    (1..shown.len())
        .filter(|&i| shown[i].stream != shown[i - 1].stream)
        .collect()
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gaps {
    pub freezes: u64,
    pub frozen_ms: f64,
    pub longest_ms: f64,
}

/// Without capture times a gap is held against `interval_ms`.
#[must_use]
pub fn gaps(shown: &[Shown], interval_ms: f64) -> Gaps {
    let gap = |pair: &[Shown]| ms(i128::from(pair[1].shown) - i128::from(pair[0].shown));
    let freezes = freezes(shown, interval_ms);
    Gaps {
        freezes: freezes.len() as u64,
        // The sum of nothing would be -0.
        frozen_ms: freezes.iter().map(|&i| gap(&shown[i - 1..=i])).sum::<f64>() + 0.0,
        longest_ms: shown.windows(2).map(gap).fold(0.0, f64::max),
    }
}

/// Positions in `shown` of the pictures that ended a freeze. Pictures that
/// were captured in between and never shown make none of it right.
#[must_use]
pub fn freezes(shown: &[Shown], interval_ms: f64) -> Vec<usize> {
    let froze = |pair: &[Shown]| {
        let gap = ms(i128::from(pair[1].shown) - i128::from(pair[0].shown));
        let steps = match (pair[0].number, pair[1].number) {
            (Some(a), Some(b)) => b.saturating_sub(a).max(1) as f64,
            _ => 1.0,
        };
        let captured = match (pair[0].captured, pair[1].captured) {
            (Some(a), Some(b)) => ms(i128::from(b) - i128::from(a)) / steps,
            _ => interval_ms,
        };
        gap > captured + FREEZE_MS
    };
    (1..shown.len())
        .filter(|&i| froze(&shown[i - 1..=i]))
        .collect()
}

#[must_use]
pub fn streams(coded: &[Coded]) -> [StreamFigures; 2] {
    let mut figures = [StreamFigures::default(); 2];
    for frame in coded {
        let Some(stream) = figures.get_mut(frame.stream as usize) else {
            continue;
        };
        let (frames, bytes, keys, largest) = if frame.background {
            (
                &mut stream.background_frames,
                &mut stream.background_bytes,
                &mut stream.key_frames_background,
                &mut stream.largest_background_bytes,
            )
        } else {
            (
                &mut stream.display_frames,
                &mut stream.display_bytes,
                &mut stream.key_frames_display,
                &mut stream.largest_display_bytes,
            )
        };
        *frames += 1;
        *bytes += frame.bytes;
        *keys += u64::from(frame.key);
        *largest = frame.bytes.max(*largest);
    }
    figures
}

#[must_use]
pub fn coded(sent: &[Sent]) -> Vec<Coded> {
    sent.iter()
        .filter_map(|line| match line {
            Sent::Coded(coded) => Some(*coded),
            Sent::Picture { .. } | Sent::Captured { .. } => None,
        })
        .collect()
}

/// When each picture of the clip was captured, and how far behind the clip's
/// own times that was at worst: above a few ms this machine was too slow.
fn captures(sent: &[Sent]) -> (Vec<u64>, f64) {
    let mut captured = Vec::new();
    let mut behind = Vec::new();
    let mut places = BTreeMap::new();
    for line in sent {
        match *line {
            Sent::Picture { number, pts } => {
                places.insert(number, pts);
            }
            Sent::Captured { number, at } => {
                captured.push(at);
                if let Some(&pts) = places.get(&number) {
                    behind.push(i128::from(at) - i128::from(pts));
                }
            }
            Sent::Coded(_) => {}
        }
    }
    let late = match (behind.first(), behind.iter().max()) {
        (Some(first), Some(worst)) => ms(worst - first),
        _ => 0.0,
    };
    (captured, late)
}

/// Both logs into the summary. `problems` names everything that was not as it
/// must be; `errors` are those that the processes reported. Nobody can show
/// what is captured in `outages` of the link, given from when to when, in ns
/// since 1970.
#[must_use]
pub fn summarise(
    sent: &[Sent],
    shown: &[Shown],
    setting: Setting,
    errors: &[String],
    outages: &[(u64, u64)],
) -> Summary {
    let pictures = sent
        .iter()
        .filter(|line| matches!(line, Sent::Picture { .. }))
        .count() as u64;
    let (captured, late) = captures(sent);
    let coded = coded(sent);
    let interval = if setting.fps > 0.0 {
        1.0 / setting.fps
    } else {
        0.0
    };
    let span = match (captured.first(), captured.last()) {
        (Some(first), Some(last)) => last.saturating_sub(*first) as f64 / 1e9 + interval,
        _ => 0.0,
    };
    let order = order(shown);
    let gaps = gaps(shown, interval * 1e3);
    let streams = streams(&coded);
    let background: u64 = streams.iter().map(|s| s.background_bytes).sum();
    let bytes: u64 = streams.iter().map(|s| s.display_bytes).sum::<u64>() + background;
    let psnr: Vec<f64> = shown.iter().filter_map(|s| s.psnr_db).collect();
    let mut summary = Summary {
        frames_in: pictures,
        frames_shown: shown.len() as u64,
        missing_shown: pictures.saturating_sub(order.distinct),
        missing_in_outages: missing_in(outages, sent, shown),
        duplicates_shown: order.duplicates,
        reordered_shown: order.reordered,
        untagged_shown: order.untagged,
        switches: switches(shown).len() as u64,
        freezes_over_100ms: gaps.freezes,
        frozen_ms: round(gaps.frozen_ms, 1),
        longest_gap_ms: round(gaps.longest_ms, 1),
        latency_ms: latency(shown),
        coding_ms: coding(sent),
        psnr_db_mean: mean(&psnr).map(|v| round(v, 2)),
        psnr_db_min: psnr
            .iter()
            .copied()
            .min_by(f64::total_cmp)
            .map(|v| round(v, 2)),
        psnr_frames: psnr.len() as u64,
        seconds: round(span, 2),
        sender_late_ms: round(late, 1),
        rate_kbps: if span > 0.0 {
            round(bytes as f64 * 8.0 / 1e3 / span, 1)
        } else {
            0.0
        },
        background_share: if bytes > 0 {
            round(background as f64 / bytes as f64, 3)
        } else {
            0.0
        },
        key_frames_display: streams.iter().map(|s| s.key_frames_display).sum(),
        largest_frame_bytes: streams
            .map(|s| s.largest_display_bytes.max(s.largest_background_bytes)),
        streams,
        rates: None,
        setting,
        problems: errors.to_vec(),
    };
    let untimed = shown.iter().filter(|s| s.captured.is_none()).count();
    summary.problems.extend(problems(&summary, untimed));
    summary
}

/// How many were captured from when to when and never shown.
fn missing_in(spans: &[(u64, u64)], sent: &[Sent], shown: &[Shown]) -> u64 {
    let seen: BTreeSet<u64> = shown.iter().filter_map(|s| s.number).collect();
    let within = |at: u64| spans.iter().any(|(from, to)| (*from..*to).contains(&at));
    sent.iter()
        .filter(|line| match line {
            Sent::Captured { number, at } => within(*at) && !seen.contains(number),
            Sent::Picture { .. } | Sent::Coded(_) => false,
        })
        .count() as u64
}

fn problems(s: &Summary, untimed: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            found.push(format!("{count} {what}"));
        }
    };
    say(
        s.missing_shown.saturating_sub(s.missing_in_outages),
        "pictures were sent and never shown",
    );
    say(s.duplicates_shown, "pictures were shown more than once");
    say(s.reordered_shown, "pictures were shown out of order");
    say(s.untagged_shown, "pictures came without a frame tag");
    say(untimed as u64, "pictures came without their capture time");
    say(
        s.frames_shown.saturating_sub(s.psnr_frames),
        "shown pictures were not compared with the source",
    );
    if s.frames_in == 0 {
        found.push("no picture was sent".into());
    }
    let refresh = s.setting.refresh_interval_ms;
    if refresh > 0 && s.switches == 0 && s.seconds * 1e3 >= 2.0 * refresh as f64 {
        found.push(format!(
            "no switch of the display stream in {} s with a refresh wanted each {refresh} ms",
            s.seconds
        ));
    }
    found
}

pub fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
