// SPDX-License-Identifier: MPL-2.0
//! Whether it is good, and what to say of it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::logs::{self, Lines};
use super::{ARENAS, COUNTERS, LINK, PROCESSES, SAMPLES, Sample, Told, account, streams};
use crate::call::log;

/// No picture for so long is a stuck state: the link is up all the time.
const STUCK_MS: u64 = 3000;
/// Left out at the start, at least, and as a share of the run: codecs, caches and
/// windows of statistics fill up.
const WARM_UP: f64 = 0.2;
/// What is compared at both ends, as a share of the run.
const COMPARED: f64 = 0.1;
/// A queue may be this long, or twice as long as at the start.
const LONG_QUEUE: f64 = 300.0;

/// Two sides that have to be the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Identity {
    pub what: String,
    pub left: f64,
    pub right: f64,
    /// They may be apart by so much: what is on its way from one counter to the other.
    pub slack: f64,
}

impl Identity {
    pub fn new(what: String, left: u64, right: u64) -> Self {
        Self {
            what,
            left: left as f64,
            right: right as f64,
            slack: 0.0,
        }
    }

    pub fn holds(&self) -> bool {
        (self.left - self.right).abs() <= self.slack
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grown {
    pub process: String,
    pub pss_first_kib: f64,
    pub pss_last_kib: f64,
    pub rss_first_kib: f64,
    pub rss_last_kib: f64,
    pub heap_first_kib: f64,
    pub heap_last_kib: f64,
    pub threads: [u64; 2],
    pub files: [u64; 2],
    /// Of RSS, as a share. PSS moves by what other processes share, and let go of.
    pub growth: f64,
    pub limit: f64,
}

impl Grown {
    pub fn is_flat(&self) -> bool {
        self.rss_first_kib > 0.0
            && self.growth <= self.limit
            && self.threads[1] <= self.threads[0]
            && self.files[1] <= self.files[0]
    }
}

/// The samples behind the start, and those at the end.
fn windows(samples: &[Sample]) -> (&[Sample], &[Sample]) {
    let from = |share: f64| (samples.len() as f64 * share) as usize;
    let first = &samples[from(WARM_UP)..from(WARM_UP + COMPARED)];
    (first, &samples[from(1.0 - COMPARED)..])
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

pub fn memory(process: &str, samples: &[Sample], limit: f64) -> Grown {
    let (first, last) = windows(samples);
    let both = |of: fn(&Sample) -> u64| {
        let of = |sample: &Sample| of(sample) as f64;
        (median(first, of), median(last, of))
    };
    let (pss_first_kib, pss_last_kib) = both(|s| s.memory.pss_kib);
    let (rss_first_kib, rss_last_kib) = both(|s| s.memory.rss_kib);
    let (heap_first_kib, heap_last_kib) = both(|s| s.memory.heap_kib);
    let (threads_first, threads_last) = both(|s| s.memory.threads);
    let (files_first, files_last) = both(|s| s.memory.files);
    Grown {
        process: process.into(),
        pss_first_kib,
        pss_last_kib,
        rss_first_kib,
        rss_last_kib,
        heap_first_kib,
        heap_last_kib,
        threads: [threads_first as u64, threads_last as u64],
        files: [files_first as u64, files_last as u64],
        growth: rss_last_kib / rss_first_kib.max(1.0) - 1.0,
        limit,
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pictures {
    pub shown: u64,
    pub per_second: f64,
    pub longest_gap_ms: u64,
    pub disordered: u64,
    pub damaged: u64,
}

impl Pictures {
    pub fn is_good(&self) -> bool {
        self.shown > 0 && self.longest_gap_ms < STUCK_MS && self.disordered == 0
    }
}

pub fn pictures(samples: &[Sample]) -> Pictures {
    let (Some(last), Some(first)) = (
        samples.last(),
        samples.iter().find(|sample| sample.pictures > 0),
    ) else {
        return Pictures::default();
    };
    Pictures {
        shown: last.pictures,
        per_second: (last.pictures - first.pictures) as f64 / (last.at - first.at).max(1e-3),
        longest_gap_ms: last.longest_gap_ms,
        disordered: last.disordered,
        damaged: last.damaged,
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Queue {
    pub name: String,
    pub first: f64,
    pub last: f64,
    pub most: f64,
}

impl Queue {
    pub fn grows(&self) -> bool {
        self.last > LONG_QUEUE && self.last > 2.0 * self.first
    }
}

pub fn queues(process: &str, samples: &[Sample]) -> Vec<Queue> {
    let Some(newest) = samples.last() else {
        return Vec::new();
    };
    let (first, last) = windows(samples);
    let names = newest.held.keys();
    names
        .map(|name| {
            let of = |sample: &Sample| sample.held.get(name).copied().unwrap_or(0.0);
            Queue {
                name: format!("{process}: {name}"),
                first: median(first, of),
                last: median(last, of),
                most: samples.iter().map(of).fold(0.0, f64::max),
            }
        })
        .collect()
}

#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub link: String,
    pub minutes: f64,
    /// What the C library was told.
    pub arenas: String,
    pub memory: Vec<Grown>,
    pub pictures: Pictures,
    pub queues: Vec<Queue>,
    pub logs: Vec<(String, Lines)>,
    /// Of counters inside one end.
    pub identities: Vec<Identity>,
    /// Of both ends of the link.
    pub streams: Vec<Identity>,
}

impl Outcome {
    /// From what a run left in its folder.
    pub fn read(folder: &Path, limit: f64) -> Result<Self> {
        let text = |name: String| {
            let file = folder.join(name);
            std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read {}", file.display()))
        };
        let told = PROCESSES.map(|name| -> Result<Told> {
            let samples = log::read_lines(&folder.join(format!("{name}{SAMPLES}")))?;
            let (totals, streams) = serde_json::from_str(&text(format!("{name}{COUNTERS}"))?)?;
            Ok(Told {
                samples,
                totals,
                streams,
            })
        });
        let [sender, receiver] = told;
        let (sender, receiver) = (sender?, receiver?);
        let told = || PROCESSES.into_iter().zip([&sender, &receiver]);
        let logs = PROCESSES.map(|name| {
            let lines = logs::read(&folder.join(format!("{name}.log")))?;
            Ok((name.to_owned(), lines))
        });
        let (known, minutes) = (
            &receiver.totals.counts,
            receiver.samples.last().map_or(0.0, |s| s.at / 60.0),
        );
        Ok(Self {
            link: text(LINK.into())?,
            minutes,
            arenas: format!("{}={}", ARENAS.0, ARENAS.1),
            memory: told()
                .map(|(name, told)| memory(name, &told.samples, limit))
                .collect(),
            pictures: pictures(&receiver.samples),
            queues: told()
                .flat_map(|(name, told)| queues(name, &told.samples))
                .collect(),
            logs: logs.into_iter().collect::<Result<_>>()?,
            identities: account::identities(&sender, &receiver),
            streams: streams::compare(&sender.streams, &receiver.streams, |ssrc| {
                known.contains_key(&format!("source:{ssrc}.packets-received"))
            }),
        })
    }

    pub fn is_good(&self) -> bool {
        self.memory.iter().all(Grown::is_flat)
            && self.pictures.is_good()
            && !self.queues.iter().any(Queue::grows)
            && self.logs.iter().all(|(_, lines)| lines.is_clean())
            && !self.identities.is_empty()
            && !self.streams.is_empty()
            && self.all_identities().all(Identity::holds)
    }

    fn all_identities(&self) -> impl Iterator<Item = &Identity> {
        self.identities.iter().chain(&self.streams)
    }
}

fn word(good: bool) -> &'static str {
    if good { "good" } else { "BAD " }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.1} min, {} ({})",
            self.minutes, self.link, self.arenas
        )?;
        for m in &self.memory {
            writeln!(
                f,
                "{} memory of the {}: RSS {:.0} -> {:.0} KiB ({:+.2} %, limit {:+.2} %), PSS {:.0} -> {:.0}, \
                 allocated {:.0} -> {:.0}, threads {} -> {}, files {} -> {}",
                word(m.is_flat()),
                m.process,
                m.rss_first_kib,
                m.rss_last_kib,
                m.growth * 100.0,
                m.limit * 100.0,
                m.pss_first_kib,
                m.pss_last_kib,
                m.heap_first_kib,
                m.heap_last_kib,
                m.threads[0],
                m.threads[1],
                m.files[0],
                m.files[1],
            )?;
        }
        let p = &self.pictures;
        writeln!(
            f,
            "{} pictures: {} shown, {:.2} a second, longest gap {} ms, {} out of order, {} damaged",
            word(p.is_good()),
            p.shown,
            p.per_second,
            p.longest_gap_ms,
            p.disordered,
            p.damaged
        )?;
        for queue in &self.queues {
            writeln!(
                f,
                "{} held, {}: {} -> {}, at most {}",
                word(!queue.grows()),
                queue.name,
                queue.first,
                queue.last,
                queue.most
            )?;
        }
        for (process, lines) in &self.logs {
            writeln!(
                f,
                "{} log of the {process}: {} of GLib, {} errors; warnings {:?}",
                word(lines.is_clean()),
                lines.glib,
                lines.errors,
                lines.warnings
            )?;
            for line in lines.glib_lines.iter().chain(&lines.error_lines) {
                writeln!(f, "     {line}")?;
            }
        }
        for identity in self.all_identities() {
            writeln!(
                f,
                "{} {}: {} = {}",
                word(identity.holds()),
                identity.what,
                identity.left,
                identity.right
            )?;
        }
        writeln!(f, "{}", word(self.is_good()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::soak::memory::Memory;

    fn samples(rss: impl Fn(usize) -> u64) -> Vec<Sample> {
        (0..100)
            .map(|i| Sample {
                at: i as f64,
                memory: Memory {
                    rss_kib: rss(i),
                    threads: 5,
                    files: 9,
                    ..Memory::default()
                },
                pictures: 30 * i as u64,
                longest_gap_ms: 100,
                held: [("queue".to_owned(), (10 * i) as f64)].into(),
                ..Sample::default()
            })
            .collect()
    }

    #[test]
    fn growth_is_seen_and_the_start_is_not() {
        let warm = memory("a", &samples(|i| if i < 20 { 10 } else { 1000 }), 0.02);
        assert!(warm.is_flat(), "{warm:?}");
        // 3 % from a quarter to the end.
        let leak = memory("a", &samples(|i| 1000 + i as u64 / 2), 0.02);
        assert!(!leak.is_flat() && leak.growth > 0.03, "{leak:?}");
        assert!(!memory("a", &[], 0.02).is_flat());
        let mut threads = samples(|_| 1000);
        threads[95..].iter_mut().for_each(|s| s.memory.threads = 6);
        threads[90..95]
            .iter_mut()
            .for_each(|s| s.memory.threads = 6);
        assert!(!memory("a", &threads, 0.02).is_flat());
    }

    #[test]
    fn stuck_states_are_seen() {
        let mut samples = samples(|_| 1000);
        assert!(pictures(&samples).is_good());
        assert!(queues("a", &samples)[0].grows());
        samples[99].longest_gap_ms = 3000;
        assert!(!pictures(&samples).is_good());
        assert!(!pictures(&[]).is_good());
    }
}
