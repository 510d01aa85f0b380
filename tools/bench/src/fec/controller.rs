// SPDX-License-Identifier: MPL-2.0
//! What the controller spends and what is left then, frame by frame, through a
//! channel with retransmission.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use dualstream_common::{DataSize, Timestamp};
use fastrand::Rng;
use flexfec_core::cadence::Cadence;
use flexfec_core::channel::{Channel, peel};
use flexfec_core::controller::Frame;
use flexfec_core::mask::Mask;
use flexfec_core::model::{Block, Model};
use flexfec_core::plan::Plan;
use flexfec_core::repair;
use serde::Serialize;

use super::masks;

/// Bytes in a media packet.
const PACKET: u64 = 1200;
/// What the receiver's jitter buffer waits, as webrtcbin has it by default.
pub const DEADLINE: Duration = Duration::from_millis(200);
/// Between finding a gap and asking, and from then on once a round trip.
const PATIENCE: f64 = 0.02;
/// Of the element.
const DEFAULT_TARGET: f64 = 0.005;
/// Blocks of so many packets, with FEC, are computed exactly.
const EXACT: usize = 20;
/// Packets simulated for a row.
const PACKETS: (f64, f64) = (200_000.0, 4_000_000.0);
/// Packets missing that a row is to have.
const EVENTS: f64 = 600.0;
/// Looser targets that are tried.
const STEPS: usize = 16;
/// Halvings of the step between a target that will do and one that will not.
const HALVINGS: usize = 14;
/// Residuals are the same up to the digits that they were written with.
const EQUAL: f64 = 1.000_005;

#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub bitrate_kbps: u64,
    pub fps: u64,
    pub width: u64,
    pub height: u64,
    pub loss_pct: f64,
    pub rtt_ms: u64,
    pub channel: &'static str,
    /// FEC packets per media packet.
    pub overhead: f64,
    /// Share of the media packets missing at the deadline.
    pub residual: f64,
    /// Share of the frames that miss a packet at the deadline.
    pub frame_residual: f64,
    /// Share of frames that the controller was to stay below.
    pub target_residual: f64,
    pub frames_per_block: usize,
    /// Of libwebrtc on this row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_overhead: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_residual: Option<f64>,
}

/// A row of the grid.
#[derive(Clone, Debug)]
pub struct Row {
    pub bitrate_kbps: u64,
    pub fps: u64,
    pub size: (u64, u64),
    pub loss: f64,
    pub rtt_ms: u64,
    /// FEC packets for a frame and what was left, with libwebrtc.
    reference: Option<(usize, f64)>,
}

impl Row {
    fn media(&self) -> usize {
        (self.bitrate_kbps * 125).div_ceil(self.fps * PACKET) as usize
    }
}

/// The grid by itself.
pub fn grid() -> Vec<Row> {
    let mut rows = Vec::new();
    for size in [(640, 480), (1280, 720), (1920, 1080)] {
        for fps in [15, 30, 60] {
            for bitrate_kbps in [300, 500, 1000, 1500, 2000, 3000, 5000] {
                for loss in [0.01, 0.02, 0.05, 0.1, 0.2] {
                    for rtt_ms in [10, 50, 100, 200, 400] {
                        let reference = None;
                        rows.push(Row {
                            bitrate_kbps,
                            fps,
                            size,
                            loss,
                            rtt_ms,
                            reference,
                        });
                    }
                }
            }
        }
    }
    rows
}

/// The grid with the figures of libwebrtc beside it.
pub struct Reference {
    pub rows: Vec<Row>,
    /// Left of a block in bursts, by packets, FEC packets and loss in permille.
    bursts: HashMap<(usize, usize, u64), f64>,
}

impl Reference {
    pub fn read(folder: &Path) -> Result<Self> {
        let mut rows = Vec::new();
        for cells in read(&folder.join("fec_end_to_end.csv"))? {
            let number = |at: usize| -> Result<f64> {
                Ok(cells.get(at).context("a column is missing")?.parse()?)
            };
            let row = Row {
                size: (number(0)? as u64, number(1)? as u64),
                fps: number(2)? as u64,
                bitrate_kbps: number(3)? as u64,
                loss: number(4)? / 100.0,
                rtt_ms: number(5)? as u64,
                reference: Some((number(8)? as usize, number(10)?)),
            };
            rows.push(row);
        }
        let mut bursts = HashMap::new();
        for cells in read(&folder.join("fec_masks.csv"))? {
            let [_, media, fec, channel, loss, left] = &cells[..] else {
                continue;
            };
            if channel == "ge3" {
                let key = (media.parse()?, fec.parse()?, permille(loss.parse()?));
                let left = left.parse()?;
                let least: &mut f64 = bursts.entry(key).or_insert(left);
                *least = least.min(left);
            }
        }
        Ok(Self { rows, bursts })
    }

    /// What libwebrtc's masks leave in bursts. Where that was not measured, as
    /// much of what plain interleaving leaves as at the losses that were.
    fn in_bursts(&self, media: usize, fec: usize, loss: f64, exact: &mut masks::Residuals) -> f64 {
        if fec == 0 {
            return loss;
        }
        if let Some(&left) = self.bursts.get(&(media, fec, permille(loss))) {
            return left;
        }
        let rows = masks::interleaved(media, fec);
        let mut plain = |loss| exact.of(&rows, media, &Channel::new(loss, 3.0), 1);
        let known = [0.02, 0.05, 0.1].map(|at| (at, self.bursts.get(&(media, fec, permille(at)))));
        let parts = known
            .into_iter()
            .filter_map(|(at, left)| Some(left? / plain(at)));
        let part = parts.fold(1.0, f64::min);
        part * plain(loss)
    }
}

fn permille(loss: f64) -> u64 {
    (loss * 1000.0).round() as u64
}

fn read(file: &Path) -> Result<Vec<Vec<String>>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let cells = |line: &str| line.split(',').map(str::to_string).collect();
    Ok(text.lines().skip(1).map(cells).collect())
}

/// Runs all rows in both channels. Without `target` each row is to leave no
/// more than libwebrtc does.
pub fn run(
    rows: &[Row],
    reference: Option<&Reference>,
    target: Option<f64>,
    seed: u64,
) -> Vec<Line> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let part = |first: usize| {
        let mut exact = masks::Residuals::new(1);
        let mut lines = Vec::new();
        for (at, row) in rows.iter().enumerate().skip(first).step_by(threads) {
            for (channel, burst) in [("iid", 1.0), ("ge3", 3.0)] {
                let lossy = Channel::new(row.loss, burst);
                let left = row.reference.map(|(fec, left)| match (channel, reference) {
                    ("ge3", Some(known)) => known.in_bursts(row.media(), fec, row.loss, &mut exact),
                    _ => left,
                });
                let case = Case {
                    row,
                    channel,
                    lossy,
                    seed,
                };
                let mut line = match (target, left) {
                    (None, Some(left)) => matched(&case, &mut exact, left),
                    _ => {
                        let target = target.unwrap_or(DEFAULT_TARGET);
                        case.run(target, &mut exact, target)
                    }
                };
                line.reference_residual = left;
                let overhead = |(fec, _)| fec as f64 / row.media() as f64;
                line.reference_overhead = row.reference.map(overhead);
                lines.push((at, line));
            }
        }
        lines
    };
    let mut lines: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|at| scope.spawn(move || part(at)))
            .collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    lines.sort_by_key(|(at, _)| *at);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// The loosest target with which no more packets are missing than `left`.
fn matched(case: &Case, exact: &mut masks::Residuals, left: f64) -> Line {
    let media = case.row.media();
    let expected = |target: f64| {
        let mut plan = case.plan(target);
        let frames = plan.frames();
        let wish = plan.wish(frames, media * frames);
        let of = |fec: usize| {
            let block = Block {
                frames,
                media: media * frames,
                fec,
            };
            plan.model()
                .map_or(0.0, |model| model.residual(wish.table, block).packets)
        };
        mixed(wish.fec, of)
    };
    let (mut low, mut high) = (1e-7f64, 1.0f64);
    for _ in 0..40 {
        let middle = (low * high).sqrt();
        if expected(middle) <= left * EQUAL {
            low = middle;
        } else {
            high = middle;
        }
    }
    // The model is not exact.
    let mut line = case.run(low, exact, left);
    while line.residual > left * EQUAL && line.target_residual > 1e-7 {
        line = case.run(line.target_residual * 0.95, exact, left);
    }
    if case
        .row
        .reference
        .is_none_or(|(fec, _)| line.overhead * media as f64 <= 0.95 * fec as f64)
    {
        return line;
    }
    // Nor is it quite monotone, as blocks of more frames begin to pay.
    let mut target = line.target_residual;
    for _ in 0..STEPS {
        target = (target * 1.01).min(1.0);
        let looser = case.run(target, exact, left);
        if looser.residual <= left * EQUAL && looser.overhead < line.overhead {
            line = looser;
        }
    }
    let (mut low, mut high) = (line.target_residual, (line.target_residual * 1.02).min(1.0));
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        let looser = case.run(middle, exact, left);
        if looser.residual > left * EQUAL || looser.overhead > line.overhead {
            high = middle;
        } else {
            (low, line) = (middle, looser);
        }
    }
    line
}

/// Of blocks that have as many FEC packets in the mean.
fn mixed(fec: f64, mut of: impl FnMut(usize) -> f64) -> f64 {
    let (low, part) = (fec.floor() as usize, fec.fract());
    if part == 0.0 {
        of(low)
    } else {
        of(low) * (1.0 - part) + of(low + 1) * part
    }
}

/// A row in a channel.
struct Case<'a> {
    row: &'a Row,
    channel: &'static str,
    lossy: Channel,
    seed: u64,
}

impl Case<'_> {
    fn plan(&self, target: f64) -> Plan {
        plan(self.row, self.lossy, target)
    }

    /// `left` says how many packets are enough to be sure.
    fn run(&self, target: f64, exact: &mut masks::Residuals, left: f64) -> Line {
        let Self { row, lossy, .. } = self;
        let mut plan = self.plan(target);
        let packets = (EVENTS / left.max(1e-9)).clamp(PACKETS.0, PACKETS.1);
        let frames = (packets / row.media() as f64) as usize;
        let found = Simulation::new(row, *lossy, self.seed).run(&mut plan, frames);
        let mut residual = found.missing as f64 / found.media as f64;
        let media = row.media() * plan.frames();
        let wish = plan.wish(plan.frames(), media);
        let no_answer = row.rtt_ms as f64 / 1e3 + PATIENCE > DEADLINE.as_secs_f64();
        if no_answer && media + wish.fec.ceil() as usize <= EXACT {
            residual = mixed(wish.fec, |fec| match fec {
                0 => lossy.loss(),
                _ => exact.of(Mask::of(wish.table, media, fec).rows(), media, lossy, 1),
            });
        }
        Line {
            bitrate_kbps: row.bitrate_kbps,
            fps: row.fps,
            width: row.size.0,
            height: row.size.1,
            loss_pct: row.loss * 100.0,
            rtt_ms: row.rtt_ms,
            channel: self.channel,
            overhead: found.fec as f64 / found.media as f64,
            residual,
            frame_residual: found.broken as f64 / found.frames as f64,
            target_residual: target,
            frames_per_block: plan.frames(),
            reference_overhead: None,
            reference_residual: None,
        }
    }
}

fn plan(row: &Row, lossy: Channel, target: f64) -> Plan {
    let interval = Duration::from_secs(1) / row.fps as u32;
    let mut cadence = Cadence::default();
    for at in 0..60u32 {
        let frame = Frame {
            packets: row.media(),
            bytes: DataSize::from_bytes(row.media() as u64 * PACKET),
            key: false,
            background: false,
        };
        cadence.frame(Timestamp::ZERO + interval * at, &frame);
    }
    let rtt = Duration::from_millis(row.rtt_ms);
    let unrepaired = repair::of(&cadence, lossy, DEADLINE, rtt);
    let mut plan = Plan::default();
    plan.set_limits(target, 1.0, None);
    plan.set_model(|_| true, || Model::new(lossy, unrepaired));
    plan.set_usual(cadence.packets(), cadence.fit(DEADLINE));
    plan
}

#[derive(Default)]
struct Found {
    media: u64,
    fec: u64,
    frames: u64,
    missing: u64,
    broken: u64,
}

/// Packets in slots of equal length; the channel goes on from slot to slot.
struct Simulation {
    rng: Rng,
    lossy: Channel,
    lost: bool,
    media: usize,
    /// Between frames, and a round trip, in seconds.
    interval: f64,
    rtt: f64,
}

impl Simulation {
    fn new(row: &Row, lossy: Channel, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            lost: rng.f64() < lossy.loss(),
            rng,
            lossy,
            media: row.media(),
            interval: 1.0 / row.fps as f64,
            rtt: row.rtt_ms as f64 / 1e3,
        }
    }

    fn slot(&mut self) -> bool {
        let lost = self.lost;
        let stay = 1.0 - 1.0 / self.lossy.burst();
        let next = if lost { stay } else { self.lossy.onset() };
        self.lost = self.rng.f64() < next;
        lost
    }

    fn run(&mut self, plan: &mut Plan, frames: usize) -> Found {
        let mut found = Found::default();
        let each = plan.frames();
        let media = each * self.media;
        let wish = plan.wish(each, media);
        let rows = [wish.fec.floor(), wish.fec.ceil()]
            .map(|fec| Mask::of(wish.table, media, fec as usize).rows().to_vec());
        for _ in 0..frames.div_ceil(each) {
            let fec = plan.whole(wish.fec);
            let rows = &rows[usize::from(fec as f64 > wish.fec)];
            let mut bits = 0u128;
            for at in 0..media {
                bits |= u128::from(self.slot()) << at;
            }
            let lost = (0..rows.len()).fold(0, |lost, at| lost | u128::from(self.slot()) << at);
            found.media += media as u64;
            found.fec += rows.len() as u64;
            found.frames += each as u64;
            if bits == 0 {
                continue;
            }
            let asked = bits & !self.repaired(bits, media, rows.len());
            let left = peel(rows, asked, lost);
            found.missing += u64::from(left.count_ones());
            let frame = (1u128 << self.media) - 1;
            let broken = (0..each).filter(|at| left >> (at * self.media) & frame != 0);
            found.broken += broken.count() as u64;
        }
        found
    }

    /// The lost packets that retransmissions bring in time.
    fn repaired(&mut self, lost: u128, media: usize, fec: usize) -> u128 {
        let each = media / self.media;
        // Slots in a second.
        let pace = (self.media as f64 + fec as f64 / each as f64) / self.interval;
        let mut repaired = 0;
        for at in (0..media).filter(|at| lost >> at & 1 != 0) {
            // The gap is seen when the next packet arrives: of the same frame at
            // once, of the next one a frame later.
            let next = (at + 1..media).find(|next| lost >> next & 1 == 0);
            let next = next.unwrap_or(media);
            let waited = (next / self.media - at / self.media) as f64 * self.interval;
            let mut sent = waited + PATIENCE + self.rtt / 2.0;
            // The packet itself was lost.
            let mut since = sent;
            while sent + self.rtt / 2.0 <= DEADLINE.as_secs_f64() {
                if self.rng.f64() >= self.lossy.again(since * pace) {
                    repaired |= 1 << at;
                    break;
                }
                since = self.rtt;
                sent += self.rtt;
            }
        }
        repaired
    }
}
