// SPDX-License-Identifier: MPL-2.0
//! What came of a session, from the logs of both ends and from the packets on
//! both sides of the link. No clock, no GStreamer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use dualstream_chromium::freeze::Freezes;
use dualstream_link::Step;
use serde::{Deserialize, Serialize};

use super::log::{Line, Sample, Shown, key};
use super::wire::{Kind, Packet};

/// Of rates in the plots, in s.
const RATE_BIN: f64 = 0.5;
/// Of the queue.
const QUEUE_BIN: f64 = 0.1;
/// Pictures that stand at the end for longer are a freeze.
const STANDS: u64 = 1_000_000_000;

/// Picture numbers without their wrap, from the first one on.
#[derive(Default)]
pub struct Numbers(Option<u64>);

impl Numbers {
    pub fn unwrap(&mut self, raw: u16) -> u64 {
        let highest = *self.0.get_or_insert(raw.into());
        let ahead = raw.wrapping_sub(highest as u16).cast_signed();
        let number = highest.saturating_add_signed(i64::from(ahead));
        self.0 = Some(highest.max(number));
        number
    }
}

/// In ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p97: f64,
    pub p99: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    pub mean: f64,
    pub p1: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub sender: Option<f64>,
    pub receiver: Option<f64>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub sender: String,
    pub receiver: String,
    pub link: String,
    /// In the mean, while it was measured.
    pub link_kbps: f64,
    /// Of the direction of the media.
    pub link_loss: f64,
    pub link_rtt_ms: f64,
    pub link_queue_ms: u64,
    pub video: String,
    pub width: u32,
    pub height: u32,
    pub source_fps: u32,
    /// Of our elements.
    pub features_off: Vec<String>,
    /// Without an estimator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fixed_kbps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scheme: Option<String>,
    /// The application asked for a key frame this often.
    #[serde(default)]
    pub ask_ms: u64,
    pub settle_s: f64,
    pub seconds: f64,
}

/// Over the time that is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    #[serde(flatten)]
    pub asked: Asked,
    /// From the draught of a picture to the time it is shown; of pictures that
    /// were shown. None where no bar code could be read in any.
    pub glass_to_glass_ms: Option<Spread>,
    pub fps: f64,
    /// W3C webrtc-stats, see docs/session-bench.md.
    pub freezes: u64,
    pub freeze_ms_total: f64,
    /// The same of those pictures whose bar code can be read: one that is broken
    /// stands for the good one before it.
    #[serde(default)]
    pub freezes_readable: u64,
    #[serde(default)]
    pub freeze_ms_readable: f64,
    /// Where the receiver is a pipeline and the sender shows the clip as it
    /// is.
    pub psnr_db: Option<Quality>,
    pub ssim: Option<Quality>,
    /// RTP with IP and UDP headers, FEC and retransmissions, as it leaves the
    /// sender.
    pub bitrate_kbps: f64,
    /// What arrived of that, over the capacity.
    pub utilisation: f64,
    /// From the sender to the receiver beyond the delay of the link.
    pub queue_ms: f64,
    pub queue_p95_ms: f64,
    /// Both ways in the mean, with the queue.
    pub rtt_ms: f64,
    /// Of RTP packets, in the queue and behind it.
    pub loss: f64,
    /// Coded, on all streams.
    pub key_frames: Option<u64>,
    pub switches: Option<u64>,
    /// Bytes of FEC over those of media.
    pub fec_overhead: Option<f64>,
    pub fec_recovered: Option<u64>,
    pub rtx_recovered: Option<u64>,
    /// Requests for retransmission that the receiver made, repeated ones included.
    pub rtx_asked: Option<u64>,
    /// Of those, the ones that our pacer let be answered.
    pub rtx_answered: Option<u64>,
    /// Of one core.
    pub cpu_percent: Cpu,
    /// From the start of the receiver's process to the first picture shown.
    pub first_picture_ms: f64,
    /// Numbers that were never shown.
    pub pictures_missing: u64,
    /// Shown, but the bar code could not be read.
    pub pictures_unread: u64,
    pub encoder: Option<String>,
    pub decoder: Option<String>,
}

pub type Points = Vec<(f64, f64)>;

/// Over time, in s since the start of what is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub capacity_kbps: Points,
    pub sent_kbps: Points,
    pub arrived_kbps: Points,
    pub target_kbps: Points,
    pub estimate_kbps: Points,
    /// The longest of each 0.1 s.
    pub queue_ms: Points,
    pub glass_to_glass_ms: Points,
    pub jitter_buffer_ms: Points,
    pub psnr_db: Points,
}

/// The file `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub figures: Figures,
    pub series: Series,
}

/// What is known of a session.
pub struct Material {
    pub asked: Asked,
    pub sender: Vec<Line>,
    pub receiver: Vec<Line>,
    pub sender_packets: Vec<Packet>,
    pub receiver_packets: Vec<Packet>,
    /// Of the link, over and over; the capacity where it is constant.
    pub steps: Vec<Step>,
    /// When the link began, and the receiver's process, in ns since 1970.
    pub link_began: u64,
    pub receiver_began: u64,
    /// One way.
    pub delay_ms: f64,
}

/// `None` where no picture was shown, or not for long enough.
pub fn run(material: &Material) -> Option<Run> {
    let shown = shown(&material.receiver);
    let first = shown.first()?.at;
    let start = first + nanos(material.asked.settle_s);
    let end = start + nanos(material.asked.seconds);
    let window = Window { start, end };
    let sender = Samples::of(&material.sender);
    let receiver = Samples::of(&material.receiver);
    let wire = Wire::of(material, window);
    let inside: Vec<&Shown> = shown.iter().filter(|s| window.has(s.at)).collect();
    let latency: Vec<f64> = inside.iter().filter_map(|s| latency_ms(s)).collect();
    let readable = shown.iter().filter(|s| s.number.is_some());
    let (freezes, freeze_ms) = frozen(shown.iter(), window);
    let (freezes_readable, freeze_ms_readable) = frozen(readable, window);
    let quality = |of: fn(&Shown) -> Option<f64>| quality(inside.iter().filter_map(|s| of(s)));
    let media = sender.since(key::MEDIA_BYTES, window);
    let fec = sender.since(key::FEC_BYTES, window);
    let capacity = capacity_bits(material, window) / material.asked.seconds / 1e3;
    let (missing, unread) = missing(&inside);
    let seconds = material.asked.seconds;
    let note = |lines: &[Line], wanted: &str| notes(lines, wanted);
    let figures = Figures {
        asked: Asked {
            link_kbps: round(capacity, 1),
            ..material.asked.clone()
        },
        glass_to_glass_ms: spread(latency),
        fps: round(inside.len() as f64 / seconds, 2),
        freezes,
        freeze_ms_total: round(freeze_ms, 1),
        freezes_readable,
        freeze_ms_readable: round(freeze_ms_readable, 1),
        psnr_db: quality(|s| s.psnr_db),
        ssim: quality(|s| s.ssim),
        bitrate_kbps: round(wire.sent_bits / seconds / 1e3, 1),
        utilisation: round(wire.arrived_bits / seconds / 1e3 / capacity, 4),
        queue_ms: round(wire.queue_mean, 1),
        queue_p95_ms: round(wire.queue_p95, 1),
        rtt_ms: round(wire.rtt, 1),
        loss: round(wire.loss, 5),
        key_frames: sender
            .since(key::KEYS, window)
            .or_else(|| receiver.since(key::KEYS, window))
            .map(|v| v as u64),
        switches: sender.since(key::SWITCHES, window).map(|v| v as u64),
        fec_overhead: fec
            .zip(media)
            .filter(|(_, media)| *media > 0.0)
            .map(|(fec, media)| round(fec / media, 4)),
        fec_recovered: receiver.since(key::FEC_RECOVERED, window).map(|v| v as u64),
        rtx_recovered: receiver.since(key::RTX_RECOVERED, window).map(|v| v as u64),
        rtx_asked: receiver.since(key::RTX_ASKED, window).map(|v| v as u64),
        rtx_answered: sender.since(key::RTX_ANSWERED, window).map(|v| v as u64),
        cpu_percent: Cpu {
            sender: sender.share(key::CPU, window),
            receiver: receiver.share(key::CPU, window),
        },
        first_picture_ms: round(
            first.saturating_sub(material.receiver_began) as f64 / 1e6,
            0,
        ),
        pictures_missing: missing,
        pictures_unread: unread,
        encoder: note(&material.sender, "encoder"),
        decoder: note(&material.receiver, "decoder"),
    };
    let series = series(material, window, &shown, &sender, &receiver, &wire);
    Some(Run { figures, series })
}

#[derive(Clone, Copy)]
struct Window {
    start: u64,
    end: u64,
}

impl Window {
    fn has(self, at: u64) -> bool {
        (self.start..self.end).contains(&at)
    }

    fn seconds(self, at: u64) -> f64 {
        (at as f64 - self.start as f64) / 1e9
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

pub fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    // Of nothing it would be -0.
    (value * scale).round() / scale + 0.0
}

/// Nearest rank; 0 for nothing.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let at = |share| round(percentile(&values, share), 1);
    (!values.is_empty()).then(|| Spread {
        mean: round(mean(&values), 1),
        p50: at(0.5),
        p95: at(0.95),
        p97: at(0.97),
        p99: at(0.99),
    })
}

fn quality(values: impl Iterator<Item = f64>) -> Option<Quality> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| Quality {
        mean: round(mean(&values), 4),
        p1: round(percentile(&values, 0.01), 4),
    })
}

fn latency_ms(shown: &Shown) -> Option<f64> {
    Some((shown.at as f64 - shown.captured? as f64) / 1e6)
}

fn notes(lines: &[Line], wanted: &str) -> Option<String> {
    let mut values: Vec<&str> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Note { name, value } if name == wanted => Some(value.as_str()),
            _ => None,
        })
        .collect();
    values.dedup();
    (!values.is_empty()).then(|| values.join(", "))
}

/// In order of time, each number once: a browser may show both streams.
fn shown(lines: &[Line]) -> Vec<Shown> {
    let mut all: Vec<Shown> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Shown(shown) => Some(shown.clone()),
            _ => None,
        })
        .collect();
    all.sort_by_key(|shown| shown.at);
    let mut seen = HashSet::new();
    all.retain(|shown| match (shown.number, shown.captured) {
        (Some(number), Some(captured)) => seen.insert((number, captured)),
        _ => true,
    });
    all
}

/// How many freezes, and for how many ms.
fn frozen<'a>(shown: impl Iterator<Item = &'a Shown>, window: Window) -> (u64, f64) {
    let mut freezes = Freezes::default();
    let mut before = (0, Duration::ZERO);
    let mut last = window.start;
    for shown in shown.take_while(|s| s.at < window.end) {
        freezes.shown(Duration::from_nanos(shown.at));
        if shown.at < window.start {
            before = (freezes.count(), freezes.duration());
        }
        last = shown.at;
    }
    let mut count = freezes.count() - before.0;
    let mut frozen = (freezes.duration() - before.1).as_secs_f64() * 1e3;
    let stands = window.end - last.min(window.end);
    if stands > STANDS {
        count += 1;
        frozen += stands as f64 / 1e6;
    }
    (count, frozen)
}

/// Numbers not shown, and pictures without a number.
fn missing(shown: &[&Shown]) -> (u64, u64) {
    let mut numbers = Numbers::default();
    let seen: HashSet<u64> = shown
        .iter()
        .filter_map(|s| Some(numbers.unwrap(s.number?)))
        .collect();
    let unread = shown.iter().filter(|s| s.number.is_none()).count() as u64;
    let Some((least, most)) = seen.iter().min().zip(seen.iter().max()) else {
        return (0, unread);
    };
    let expected = most - least + 1;
    (expected.saturating_sub(seen.len() as u64 + unread), unread)
}

/// Samples of one process, by time.
struct Samples<'a>(Vec<&'a Sample>);

impl<'a> Samples<'a> {
    fn of(lines: &'a [Line]) -> Self {
        let mut samples: Vec<&Sample> = lines
            .iter()
            .filter_map(|line| match line {
                Line::Sample(sample) => Some(sample),
                _ => None,
            })
            .collect();
        samples.sort_by_key(|sample| sample.at);
        Self(samples)
    }

    /// Where the counter stood last before this time.
    fn at(&self, name: &str, at: u64) -> Option<(u64, f64)> {
        self.0
            .iter()
            .take_while(|sample| sample.at <= at)
            .filter_map(|sample| Some((sample.at, *sample.values.get(name)?)))
            .last()
    }

    fn since(&self, name: &str, window: Window) -> Option<f64> {
        let end = self.at(name, window.end)?.1;
        let start = self.at(name, window.start).map_or(0.0, |(_, v)| v);
        // It starts again with a new session.
        Some(if end >= start { end - start } else { end })
    }

    /// Of one core, in percent, for a counter of seconds.
    fn share(&self, name: &str, window: Window) -> Option<f64> {
        let (end, b) = self.at(name, window.end)?;
        let (start, a) = self.at(name, window.start)?;
        (end > start).then(|| round((b - a) / ((end - start) as f64 / 1e9) * 100.0, 1))
    }

    fn gauge(&self, name: &str, window: Window) -> Points {
        self.0
            .iter()
            .filter_map(|s| Some((window.seconds(s.at), *s.values.get(name)?)))
            .collect()
    }
}

/// A packet that was sent, and when it arrived.
struct Crossing {
    sent: u64,
    arrived: Option<u64>,
    bytes: u32,
}

fn crossings(from: &[Packet], to: &[Packet], rtp: bool) -> Vec<Crossing> {
    let mut arrivals: HashMap<u64, u64> = HashMap::new();
    for packet in to.iter().filter(|p| !p.outgoing) {
        arrivals.entry(packet.hash).or_insert(packet.at);
    }
    from.iter()
        .filter(|p| p.outgoing && (p.kind == Kind::Rtp || (!rtp && p.kind == Kind::Rtcp)))
        .map(|p| Crossing {
            sent: p.at,
            arrived: arrivals.get(&p.hash).copied(),
            bytes: p.bytes,
        })
        .collect()
}

#[derive(Default)]
struct Wire {
    crossings: Vec<Crossing>,
    sent_bits: f64,
    arrived_bits: f64,
    queue_mean: f64,
    queue_p95: f64,
    rtt: f64,
    loss: f64,
}

impl Wire {
    fn of(material: &Material, window: Window) -> Self {
        let there = crossings(&material.sender_packets, &material.receiver_packets, true);
        let back = crossings(&material.receiver_packets, &material.sender_packets, false);
        let took = |all: &[Crossing]| -> Vec<f64> {
            all.iter()
                .filter(|c| window.has(c.sent))
                .filter_map(|c| Some((c.arrived? as f64 - c.sent as f64) / 1e6))
                .collect()
        };
        let (forth, home) = (took(&there), took(&back));
        let inside = || there.iter().filter(|c| window.has(c.sent));
        let count = inside().count().max(1) as f64;
        let mut queue: Vec<f64> = forth
            .iter()
            .map(|ms| (ms - material.delay_ms).max(0.0))
            .collect();
        queue.sort_by(f64::total_cmp);
        Self {
            sent_bits: inside().map(|c| f64::from(c.bytes) * 8.0).sum(),
            arrived_bits: there
                .iter()
                .filter(|c| c.arrived.is_some_and(|at| window.has(at)))
                .map(|c| f64::from(c.bytes) * 8.0)
                .sum(),
            queue_mean: mean(&queue),
            queue_p95: percentile(&queue, 0.95),
            rtt: mean(&forth) + mean(&home),
            loss: inside().filter(|c| c.arrived.is_none()).count() as f64 / count,
            crossings: there,
        }
    }
}

/// Rates of the link from its start to `until`, in s since the window's start.
fn capacity(material: &Material, window: Window, until: f64) -> Vec<(f64, f64, u64)> {
    let mut spans = Vec::new();
    let mut from = window.seconds(material.link_began);
    for step in material.steps.iter().filter(|step| step.ms > 0).cycle() {
        if from >= until {
            break;
        }
        let to = from + step.ms as f64 / 1e3;
        spans.push((from, to, step.kbps));
        from = to;
    }
    spans
}

fn capacity_bits(material: &Material, window: Window) -> f64 {
    let end = material.asked.seconds;
    capacity(material, window, end)
        .iter()
        .map(|(from, to, kbps)| (to.min(end) - from.max(0.0)).max(0.0) * *kbps as f64 * 1e3)
        .sum()
}

/// Sums of bins of this many seconds.
fn bins(points: impl Iterator<Item = (f64, f64)>, bin: f64, end: f64) -> BTreeMap<i64, Vec<f64>> {
    let mut bins: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (t, value) in points.filter(|(t, _)| *t < end) {
        bins.entry((t / bin).floor() as i64)
            .or_default()
            .push(value);
    }
    bins
}

fn series(
    material: &Material,
    window: Window,
    shown: &[Shown],
    sender: &Samples<'_>,
    receiver: &Samples<'_>,
    wire: &Wire,
) -> Series {
    let end = material.asked.seconds;
    let rate = |times: &dyn Fn(&Crossing) -> Option<u64>| -> Points {
        let points = wire
            .crossings
            .iter()
            .filter_map(|c| Some((window.seconds(times(c)?), f64::from(c.bytes) * 8.0)));
        bins(points, RATE_BIN, end)
            .into_iter()
            .map(|(n, bits)| {
                let middle = (n as f64 + 0.5) * RATE_BIN;
                (middle, bits.iter().sum::<f64>() / RATE_BIN / 1e3)
            })
            .collect()
    };
    let waits = wire.crossings.iter().filter_map(|c| {
        let took = (c.arrived? as f64 - c.sent as f64) / 1e6;
        Some((window.seconds(c.sent), (took - material.delay_ms).max(0.0)))
    });
    let within = |points: Points| -> Points {
        let before = -material.asked.settle_s;
        points
            .into_iter()
            .filter(|(t, _)| (before..end).contains(t))
            .map(|(t, v)| (round(t, 3), round(v, 2)))
            .collect()
    };
    let mut steps = Vec::new();
    for (from, to, kbps) in capacity(material, window, end) {
        let from = from.max(-material.asked.settle_s);
        if to > from {
            steps.extend([(from, kbps as f64), (to.min(end) - 1e-6, kbps as f64)]);
        }
    }
    Series {
        capacity_kbps: within(steps),
        sent_kbps: within(rate(&|c| Some(c.sent))),
        arrived_kbps: within(rate(&|c| c.arrived)),
        target_kbps: within(sender.gauge(key::TARGET, window)),
        estimate_kbps: within(sender.gauge(key::ESTIMATE, window)),
        queue_ms: within(
            bins(waits, QUEUE_BIN, end)
                .into_iter()
                .map(|(n, waits)| {
                    let most = waits.iter().copied().fold(0.0, f64::max);
                    ((n as f64 + 0.5) * QUEUE_BIN, most)
                })
                .collect(),
        ),
        glass_to_glass_ms: within(
            shown
                .iter()
                .filter_map(|s| Some((window.seconds(s.at), latency_ms(s)?)))
                .collect(),
        ),
        jitter_buffer_ms: within(receiver.gauge(key::JITTER_DELAY, window)),
        psnr_db: within(
            shown
                .iter()
                .filter_map(|s| Some((window.seconds(s.at), s.psnr_db?)))
                .collect(),
        ),
    }
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
