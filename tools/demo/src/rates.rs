// SPDX-License-Identifier: MPL-2.0
//! How estimate, sent rate and latency followed a link that changes: figures
//! of `summary.json`. No clock, no GStreamer.

use serde::{Deserialize, Serialize};

use crate::log::{Rate, Shown};
use crate::stats::{ms, percentile, round};
use dualstream_link::Step;

/// A gap between two shown pictures from here on is seen.
const LONG_GAP_MS: f64 = 200.0;
/// After a change, until the shares are counted.
const SETTLING_S: f64 = 2.0;
/// A latency above this is a queue.
const HIGH_MS: f64 = 100.0;
/// The queue is gone when the latency stays low this long.
const CALM_S: f64 = 1.0;
/// Of the capacity: followed.
const FOLLOWED: f64 = 0.9;
/// A link that takes less in a second has an outage: not even small pictures
/// pass.
const OUTAGE_KBPS: f64 = 100.0;
const BEFORE_OUTAGE_S: f64 = 1.0;
const AFTER_OUTAGE_S: f64 = 2.0;
/// To say whether two rates go together.
const LEAST_SECONDS: usize = 5;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub whole: Whole,
    pub phases: Vec<Phase>,
    /// Gaps of more than 200 ms between two shown pictures, and their sum.
    pub gaps_over_200ms: u64,
    pub gaps_total_ms: f64,
    pub packets_lost: u64,
}

/// From the first second in which a picture was shown to the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Whole {
    pub seconds: u64,
    pub capacity_kbps: f64,
    pub sent_kbps: f64,
    pub utilisation: f64,
    /// Of what the link took and what was sent, second by second (Pearson);
    /// none where one of them never changed.
    pub correlation: Option<f64>,
    /// Seconds in which the link took less than 100 kbit/s.
    pub outage_seconds: u64,
}

impl Whole {
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:.0} % of it sent: {:.0} of {:.0} kbit/s",
            self.utilisation * 100.0,
            self.sent_kbps,
            self.capacity_kbps
        );
        if let Some(correlation) = self.correlation {
            text += &format!(", correlation second by second {correlation}");
        }
        if self.outage_seconds > 0 {
            text += &format!(", {} s of outage", self.outage_seconds);
        }
        text
    }
}

/// The time from one change of the link to the next. Shares leave out the
/// first 2 s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Since the start of the link.
    pub from_s: f64,
    pub to_s: f64,
    pub capacity_kbps: u64,
    /// On the wire, with IP and UDP.
    pub sent_kbps: f64,
    pub utilisation: f64,
    pub estimate_kbps: Option<f64>,
    /// The encoder's target at the end (median of the last 3 s).
    pub encoder_kbps: f64,
    /// From the change (or the first picture) until the encoder was asked for
    /// 90 % of the capacity, or of what it was asked for at the end if that
    /// never came. Not where the capacity fell.
    pub up_s: Option<f64>,
    pub up_is_full: bool,
    /// From the change until the latency stayed below 100 ms for 1 s; 0 if it
    /// was never higher.
    pub down_s: Option<f64>,
    /// Of the pictures shown in it, all of them.
    pub latency_ms_mean: Option<f64>,
    pub latency_ms_p95: Option<f64>,
    pub latency_ms_p97: Option<f64>,
    pub latency_ms_max: Option<f64>,
    pub packets_lost: u64,
}

impl Phase {
    /// What the link took, and what became of it.
    #[must_use]
    pub fn row(&self) -> (String, String) {
        let mut text = format!("{:.0} % of it sent", self.utilisation * 100.0);
        let mut add = |what: &str, value: Option<f64>, unit: &str| {
            if let Some(value) = value {
                text += &format!(", {what} {value} {unit}");
            }
        };
        let up = if self.up_is_full {
            "up in"
        } else {
            "not up, 90 % of its end in"
        };
        add(up, self.up_s, "s");
        add("queue gone in", self.down_s, "s");
        add("latency mean", self.latency_ms_mean, "ms");
        add("p95", self.latency_ms_p95, "ms");
        add("p97", self.latency_ms_p97, "ms");
        add("worst", self.latency_ms_max, "ms");
        (
            format!("{} kbit/s", self.capacity_kbps),
            format!("{text}, {} packets lost", self.packets_lost),
        )
    }
}

/// When the link had which rate, in seconds, until `end`. Neighbours of one
/// rate are one.
#[must_use]
pub fn capacity(steps: &[Step], end: f64) -> Vec<(f64, f64, u64)> {
    let mut spans: Vec<(f64, f64, u64)> = Vec::new();
    let mut from = 0.0;
    for step in steps.iter().filter(|step| step.ms > 0).cycle() {
        if from >= end {
            break;
        }
        let to = (from + step.ms as f64 / 1e3).min(end);
        match spans.last_mut() {
            Some(last) if last.2 == step.kbps => last.1 = to,
            _ => spans.push((from, to, step.kbps)),
        }
        from += step.ms as f64 / 1e3;
    }
    spans
}

/// What the link takes in each whole second until `end`, in kbit/s. Nothing of
/// a link without steps.
#[must_use]
pub fn each_second(steps: &[Step], end: f64) -> Vec<f64> {
    if steps.is_empty() {
        return Vec::new();
    }
    let mut seconds = vec![0.0; end.max(0.0) as usize];
    for (from, to, kbps) in capacity(steps, end) {
        for (at, second) in seconds
            .iter_mut()
            .enumerate()
            .take(to.ceil() as usize)
            .skip(from as usize)
        {
            let at = at as f64;
            *second += (to.min(at + 1.0) - from.max(at)).max(0.0) * kbps as f64;
        }
    }
    seconds
}

/// From when to when the link lets next to nothing pass, in seconds.
#[must_use]
pub fn outages(steps: &[Step], end: f64) -> Vec<(f64, f64)> {
    let mut outages: Vec<(f64, f64)> = Vec::new();
    for (at, kbps) in each_second(steps, end).into_iter().enumerate() {
        let at = at as f64;
        match outages.last_mut() {
            _ if kbps >= OUTAGE_KBPS => {}
            Some(last) if last.1 >= at => last.1 = at + 1.0,
            _ => outages.push((at, at + 1.0)),
        }
    }
    outages
}

/// [`outages`] by the wall clock, in ns, with what was on its way before and
/// what the sender leaves out until its estimate is up again.
#[must_use]
pub fn excuses(steps: &[Step], rates: &[Rate]) -> Vec<(u64, u64)> {
    let (Some(first), Some(last)) = (rates.first(), rates.last()) else {
        return Vec::new();
    };
    let end = last.at.saturating_sub(first.at) as f64 / 1e9;
    let at = |seconds: f64| first.at + (seconds.max(0.0) * 1e9) as u64;
    outages(steps, end)
        .into_iter()
        .map(|(from, to)| (at(from - BEFORE_OUTAGE_S), at(to + AFTER_OUTAGE_S)))
        .collect()
}

/// What was sent until `at`, between the samples.
fn bytes_at(rates: &[(f64, &Rate)], at: f64) -> f64 {
    let next = rates.partition_point(|(t, _)| *t < at);
    let bytes = |n: usize| rates.get(n).map(|(t, rate)| (*t, rate.sent_bytes as f64));
    match (next.checked_sub(1).and_then(bytes), bytes(next)) {
        (Some((t0, a)), Some((t1, b))) if t1 > t0 => a + (b - a) * (at - t0) / (t1 - t0),
        (_, Some((_, bytes))) | (Some((_, bytes)), None) => bytes,
        (None, None) => 0.0,
    }
}

fn whole(steps: &[Step], rates: &[(f64, &Rate)], begin: f64, end: f64) -> Whole {
    let all = each_second(steps, end);
    let first = begin.max(0.0) as usize;
    let link = all.get(first..).unwrap_or_default();
    let sent: Vec<f64> = (first..all.len())
        .map(|s| {
            let bytes = bytes_at(rates, s as f64 + 1.0) - bytes_at(rates, s as f64);
            bytes * 8.0 / 1e3
        })
        .collect();
    let (Some(capacity), Some(mean_sent)) = (mean(link), mean(&sent)) else {
        return Whole::default();
    };
    Whole {
        seconds: link.len() as u64,
        capacity_kbps: round(capacity, 1),
        sent_kbps: round(mean_sent, 1),
        utilisation: round(mean_sent / capacity, 3),
        correlation: correlation(link, &sent).map(|r| round(r, 2)),
        outage_seconds: link.iter().filter(|kbps| **kbps < OUTAGE_KBPS).count() as u64,
    }
}

fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mean_a, mean_b) = (mean(a)?, mean(b)?);
    let of = |x: &[f64], mean_x: f64, y: &[f64], mean_y: f64| {
        x.iter()
            .zip(y)
            .map(|(x, y)| (x - mean_x) * (y - mean_y))
            .sum::<f64>()
    };
    let spread = (of(a, mean_a, a, mean_a) * of(b, mean_b, b, mean_b)).sqrt();
    (a.len() >= LEAST_SECONDS && spread > 1e-6).then(|| of(a, mean_a, b, mean_b) / spread)
}

/// `None` without an emulated link.
#[must_use]
pub fn figures(steps: &[Step], rates: &[Rate], shown: &[Shown]) -> Option<Figures> {
    let (first, last) = (rates.first()?, rates.last()?);
    if steps.is_empty() {
        return None;
    }
    let since = |at: u64| ms(i128::from(at) - i128::from(first.at)) / 1e3;
    // Behind the last picture there is nothing to send.
    let pictures: Vec<(f64, f64)> = shown
        .iter()
        .filter_map(|s| Some((since(s.shown), s.latency_ms()?)))
        .collect();
    let begin = pictures.first().map_or(0.0, |p| p.0);
    let end = pictures.last().map_or(0.0, |p| p.0).min(since(last.at));
    let rates: Vec<(f64, &Rate)> = rates.iter().map(|rate| (since(rate.at), rate)).collect();
    let gaps: Vec<f64> = shown
        .windows(2)
        .map(|pair| ms(i128::from(pair[1].shown) - i128::from(pair[0].shown)))
        .filter(|gap| *gap > LONG_GAP_MS)
        .collect();
    let mut before = 0;
    let mut phases = Vec::new();
    for (from, to, kbps) in capacity(steps, end) {
        let mut phase = phase((from, to, kbps), begin, &rates, &pictures);
        if kbps < std::mem::replace(&mut before, kbps) {
            phase.up_s = None;
            phase.up_is_full = false;
        }
        // Else too short to say anything; and one rate all the time is `whole`.
        if steps.len() > 1 && to - from.max(begin) >= 2.0 * SETTLING_S {
            phases.push(phase);
        }
    }
    Some(Figures {
        whole: whole(steps, &rates, begin, end),
        phases,
        gaps_over_200ms: gaps.len() as u64,
        // The sum of nothing would be -0.
        gaps_total_ms: round(gaps.iter().sum::<f64>() + 0.0, 1),
        packets_lost: last.lost,
    })
}

fn phase(
    (from, to, kbps): (f64, f64, u64),
    begin: f64,
    rates: &[(f64, &Rate)],
    pictures: &[(f64, f64)],
) -> Phase {
    let change = from.max(begin);
    let inside = |from: f64| {
        rates
            .iter()
            .filter(move |(t, _)| (from..=to).contains(t))
            .map(|(t, rate)| (*t, *rate))
    };
    let settled: Vec<_> = inside(change + SETTLING_S).collect();
    let sent = match (settled.first(), settled.last()) {
        (Some((t0, a)), Some((t1, b))) if t1 > t0 => {
            (b.sent_bytes - a.sent_bytes) as f64 * 8.0 / 1e3 / (t1 - t0)
        }
        _ => 0.0,
    };
    let estimates: Vec<f64> = settled
        .iter()
        .filter_map(|(_, rate)| Some(rate.estimate? as f64 / 1e3))
        .collect();
    let mut at_end: Vec<f64> = inside(to - 3.0)
        .map(|(_, r)| r.encoder as f64 / 1e3)
        .collect();
    at_end.sort_by(f64::total_cmp);
    let encoder = percentile(&at_end, 0.5).unwrap_or(0.0);
    let reaches = |kbps: f64| {
        inside(change)
            .find(|(_, rate)| rate.encoder as f64 / 1e3 >= kbps)
            .map(|(t, _)| round(t - change, 2))
    };
    let full = reaches(FOLLOWED * kbps as f64);
    let lost = |mut all: Box<dyn Iterator<Item = (f64, &Rate)> + '_>| {
        let first = all.next().map_or(0, |(_, rate)| rate.lost);
        all.last()
            .map_or(0, |(_, rate)| rate.lost.saturating_sub(first))
    };
    let inside_pictures: Vec<(f64, f64)> = pictures
        .iter()
        .copied()
        .filter(|(t, _)| (from..to).contains(t))
        .collect();
    let mut latency: Vec<f64> = inside_pictures.iter().map(|p| p.1).collect();
    latency.sort_by(f64::total_cmp);
    let at = |share| percentile(&latency, share).map(|v| round(v, 1));
    Phase {
        from_s: round(from, 2),
        to_s: round(to, 2),
        capacity_kbps: kbps,
        sent_kbps: round(sent, 1),
        utilisation: round(sent / kbps as f64, 3),
        estimate_kbps: mean(&estimates).map(|v| round(v, 1)),
        encoder_kbps: round(encoder, 1),
        up_s: full.or_else(|| reaches(FOLLOWED * encoder)),
        up_is_full: full.is_some(),
        down_s: calm(&inside_pictures).map(|t| round((t - change).max(0.0), 2)),
        latency_ms_mean: mean(&latency).map(|v| round(v, 1)),
        latency_ms_p95: at(0.95),
        latency_ms_p97: at(0.97),
        latency_ms_max: at(1.0),
        packets_lost: lost(Box::new(inside(from))),
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// When the first queue was gone: the first low latency with only low ones in
/// the second after it. The start if there is none, `None` if it stays.
fn calm(pictures: &[(f64, f64)]) -> Option<f64> {
    let Some(high) = pictures.iter().position(|p| p.1 > HIGH_MS) else {
        return pictures.first().map(|_| f64::MIN);
    };
    let last = pictures.last()?.0;
    (high..pictures.len())
        .filter(|&i| last - pictures[i].0 >= CALM_S)
        .find(|&i| {
            pictures[i..]
                .iter()
                .take_while(|p| p.0 <= pictures[i].0 + CALM_S)
                .all(|p| p.1 <= HIGH_MS)
        })
        .map(|i| pictures[i].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn steps() -> Vec<Step> {
        [1000, 3000, 1000]
            .map(|kbps| Step { kbps, ms: 10_000 })
            .to_vec()
    }

    /// Ten a second for 32 s: 80 % of the link is sent, a second late.
    fn rates() -> Vec<Rate> {
        let mut bytes = 0;
        (0..=320)
            .map(|n| {
                let kbps = if (110..210).contains(&n) { 2400 } else { 800 };
                bytes += kbps * 100 / 8;
                Rate {
                    at: 5 * S + n * S / 10,
                    estimate: Some(kbps * 1250),
                    encoder: kbps * 1200,
                    sent_bytes: bytes,
                    lost: if n > 205 { 7 } else { 0 },
                    ..Rate::default()
                }
            })
            .collect()
    }

    /// 25 a second from 1 s to 32 s, late from 20.4 s to 21.2 s.
    fn shown() -> Vec<Shown> {
        (25..800)
            .map(|n| {
                let captured = 5 * S + n * S / 25;
                let late = if (510..530).contains(&n) { 250 } else { 50 };
                Shown {
                    number: Some(n),
                    stream: 0,
                    generation: 0,
                    captured: Some(captured),
                    shown: captured + late * 1_000_000,
                    psnr_db: None,
                }
            })
            .collect()
    }

    #[test]
    fn the_capacity_goes_round() {
        assert_eq!(
            capacity(&steps(), 45.0),
            [
                (0.0, 10.0, 1000),
                (10.0, 20.0, 3000),
                // The last and, from 30 s on, the first.
                (20.0, 40.0, 1000),
                (40.0, 45.0, 3000),
            ]
        );
        assert_eq!(capacity(&[], 45.0), []);
    }

    #[test]
    fn seconds_and_outages_are_found() {
        let step = |kbps, ms| Step { kbps, ms };
        // Three packets of 100 ms in 3 s do not end an outage.
        let steps = [
            step(1000, 1500),
            step(10, 2900),
            step(120, 100),
            step(2000, 1500),
        ];
        let seconds = each_second(&steps, 6.0);
        let wanted = [1000.0, 505.0, 10.0, 10.0, 4.0 + 12.0 + 1000.0, 2000.0];
        for (second, wanted) in seconds.iter().zip(wanted) {
            assert!((second - wanted).abs() < 1e-6, "{seconds:?}");
        }
        assert_eq!(seconds.len(), wanted.len());
        assert_eq!(outages(&steps, 6.0), [(2.0, 4.0)]);
        assert_eq!(outages(&steps, 12.0), [(2.0, 4.0), (8.0, 10.0)]);
        assert_eq!(outages(&[], 12.0), []);
        let rates = [5, 17].map(|s| Rate {
            at: s * S,
            ..Rate::default()
        });
        assert_eq!(
            excuses(&steps, &rates),
            [(6 * S, 11 * S), (12 * S, 17 * S)],
            "1 s before to 2 s after"
        );
        assert_eq!(excuses(&steps, &[]), []);
        assert!(each_second(&steps, -1.0).is_empty());
    }

    #[test]
    fn the_whole_run_has_its_figures() {
        let figures = figures(&steps(), &rates(), &shown()).unwrap();
        let whole = &figures.whole;
        assert_eq!(whole.seconds, 31, "from 1 s to 32 s");
        // 21 s of 1000, 10 s of 3000; sent were 80 % of it, a second late.
        assert_eq!(whole.capacity_kbps, 1645.2);
        assert!((whole.utilisation - 0.8).abs() < 0.01, "{whole:?}");
        let r = whole.correlation.unwrap();
        assert!((0.8..0.95).contains(&r), "{whole:?}");
        assert_eq!(whole.outage_seconds, 0);
        let backwards: Vec<f64> = (0..9).map(|n| -f64::from(n)).collect();
        let forwards: Vec<f64> = (0..9).map(f64::from).collect();
        assert!((correlation(&backwards, &forwards).unwrap() + 1.0).abs() < 1e-9);
        assert_eq!(correlation(&[1.0; 9], &forwards), None);
        assert_eq!(correlation(&forwards[..3], &forwards[..3]), None);
    }

    #[test]
    fn one_rate_all_the_time_has_no_phases() {
        let steps = [Step {
            kbps: 1000,
            ms: 1000,
        }];
        let figures = figures(&steps, &rates(), &shown()).unwrap();
        assert_eq!(figures.phases, []);
        assert_eq!(figures.whole.capacity_kbps, 1000.0);
    }

    #[test]
    fn each_phase_has_its_figures() {
        let figures = figures(&steps(), &rates(), &shown()).unwrap();
        let [first, high, low] = &figures.phases[..] else {
            panic!("{figures:?}");
        };
        assert_eq!((first.from_s, first.to_s), (0.0, 10.0));
        assert_eq!(first.utilisation, 0.8);
        assert_eq!(first.estimate_kbps, Some(1000.0));
        assert_eq!(first.down_s, Some(0.0), "never up");
        assert_eq!(high.sent_kbps, 2400.0, "its first 2 s do not count");
        assert_eq!((high.up_s, high.up_is_full), (Some(1.0), true));
        assert_eq!(
            high.row(),
            (
                "3000 kbit/s".into(),
                "80 % of it sent, up in 1 s, queue gone in 0 s, latency mean 50 ms, p95 50 ms, \
                 p97 50 ms, worst 50 ms, 0 packets lost"
                    .into()
            )
        );
        assert_eq!(high.packets_lost, 0);
        assert_eq!(low.packets_lost, 7);
        assert_eq!((low.up_s, low.up_is_full), (None, false));
        // The first calm picture is number 530, shown at 21.25 s.
        assert_eq!(low.down_s, Some(1.25));
        assert_eq!(low.latency_ms_max, Some(250.0));
        assert_eq!(low.latency_ms_p95, Some(250.0), "20 of 300");
        assert_eq!(figures.packets_lost, 7);
        assert_eq!(figures.gaps_over_200ms, 1, "240 ms to the first late one");
        assert_eq!(figures.gaps_total_ms, 240.0);
    }

    #[test]
    fn a_rate_that_is_never_reached_is_held_against_its_own_end() {
        let mut rates = rates();
        for rate in &mut rates {
            rate.encoder /= 2;
        }
        let figures = figures(&steps(), &rates, &shown()).unwrap();
        let high = &figures.phases[1];
        assert_eq!((high.up_s, high.up_is_full), (Some(1.0), false));
    }

    #[test]
    fn without_logs_or_changes_there_is_nothing_to_say() {
        assert_eq!(figures(&[], &rates(), &shown()), None);
        assert_eq!(figures(&steps(), &[], &shown()), None);
        let none = figures(&steps(), &rates(), &[]).unwrap();
        assert_eq!(none.phases, []);
    }
}
