// SPDX-License-Identifier: MPL-2.0
//! The bandwidth estimator with the pacer in a closed loop, in virtual time.

mod plot;
mod scenario;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dualstream_common::Timestamp;
use dualstream_gccsim::{BIN, Outcome, jain, queue, run, share, utilisation};
use gcc_core::{Config, DelayFilter, Tuning};
use serde::Serialize;

use scenario::{Kind, Name};

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// const:KBPS, steps, loss:PERCENT, trace:FILE (Mahimahi), fall:KBPS:SECONDS, share:FLOWS, tcp, limited, or several with commas
    #[arg(long, value_delimiter = ',', default_value = "const:2000")]
    scenario: Vec<Name>,
    /// Length in s [default: 60; 120 for steps, falls, share and tcp, 300 for traces, 75 for limited]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// All chance comes from this
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs with this seed and those after it; the means are told
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// What finds the trend in the delay
    #[arg(long, value_enum, default_value_t = Filter::Trendline)]
    filter: Filter,
    /// Queue to aim at, in ms
    #[arg(long, value_name = "MS")]
    queue_aim: Option<u64>,
    /// Time between feedback messages, in ms
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    feedback: u64,
    /// One way, each way, in ms
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=2000))]
    delay: u64,
    /// Write the last run's bins of 100 ms to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the last run
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// One JSON object a scenario, a line each, instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn json(&self) -> bool {
        self.json
    }
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    Trendline,
    Kalman,
}

#[derive(Serialize, Debug, Clone, Copy, Default)]
struct Millis {
    mean: f64,
    p95: f64,
}

/// Of one scenario, means over the seeds.
#[derive(Serialize, Debug, Clone)]
struct Figures {
    scenario: String,
    seed: u64,
    seeds: u64,
    utilisation: f64,
    queue_ms: Millis,
    /// What media waited in the pacer.
    sender_queue_ms: Millis,
    /// What media waited in both.
    media_ms: Millis,
    loss: f64,
    /// From the start to 90 % of the capacity; none for traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    t90_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rise_s: Option<Vec<Option<f64>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain_s: Option<Vec<f64>>,
    /// From the end of a fall until 80 % of the capacity are delivered again:
    /// mean and longest; 20 s if they never were.
    #[serde(skip_serializing_if = "Option::is_none")]
    regained_s: Option<[f64; 2]>,
    /// Of several flows, over the second half.
    #[serde(skip_serializing_if = "Option::is_none")]
    jain: Option<f64>,
    /// Beside a TCP-like flow, and from its end to 90 % of the capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    back_s: Option<f64>,
    /// Least and greatest estimate over the capacity while the application
    /// limits, the time until all is delivered, and the queue from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_queue_ms: Option<Millis>,
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count();
    values.sum::<f64>() / count.max(1) as f64
}

/// The mean where all have it.
fn mean_of_all(values: impl Iterator<Item = Option<f64>> + Clone) -> Option<f64> {
    let all: Option<Vec<f64>> = values.collect();
    all.map(|all| round(mean(all.into_iter()), 2))
}

pub fn run_all(args: &Args) -> Result<(Vec<String>, String)> {
    let mut config = Config {
        filter: match args.filter {
            Filter::Trendline => DelayFilter::Trendline,
            Filter::Kalman => DelayFilter::Kalman,
        },
        ..Config::default()
    };
    if let Some(aim) = args.queue_aim {
        config.queue_aim = Duration::from_millis(aim);
    }
    let mut lines = Vec::new();
    let mut table = String::from(
        "scenario                       use   queue mean, p95    sender mean, p95   loss    90 % after\n",
    );
    for name in &args.scenario {
        let mut kind = name.kind(args.seconds)?;
        kind.scenario.feedback = Duration::from_millis(args.feedback);
        kind.scenario.one_way = Duration::from_millis(args.delay);
        let mut outcomes = Vec::new();
        for seed in args.seed..args.seed + args.seeds {
            kind.scenario.seed = seed;
            let outcome = run(&kind.scenario, &config, &Tuning::default())
                .map_err(|error| anyhow!("{error}"))?;
            outcomes.push(outcome);
        }
        let figures = figures(name, args, &kind, &outcomes);
        lines.push(serde_json::to_string(&figures)?);
        table.push_str(&row(&figures));
        if let Some(last) = outcomes.last() {
            if let Some(file) = &args.csv {
                write_csv(file, last)?;
            }
            if let Some(file) = &args.plot {
                plot::draw(file, &name.to_string(), last)?;
            }
        }
    }
    Ok((lines, table))
}

fn figures(name: &Name, args: &Args, kind: &Kind, outcomes: &[Outcome]) -> Figures {
    let end = kind.scenario.length.as_secs_f64();
    let spread = |of: &dyn Fn(&Outcome) -> dualstream_gccsim::Spread| Millis {
        mean: round(mean(outcomes.iter().map(|o| of(o).mean)), 1),
        p95: round(mean(outcomes.iter().map(|o| of(o).p95)), 1),
    };
    let mut figures = Figures {
        scenario: name.to_string(),
        seed: args.seed,
        seeds: args.seeds,
        utilisation: round(mean(outcomes.iter().map(|o| utilisation(&o.bins))), 4),
        queue_ms: spread(&Outcome::queue),
        sender_queue_ms: spread(&Outcome::held),
        media_ms: spread(&Outcome::waited),
        loss: round(mean(outcomes.iter().map(Outcome::loss)), 5),
        t90_s: None,
        rise_s: None,
        drain_s: None,
        regained_s: None,
        jain: None,
        share: None,
        back_s: None,
        estimate: None,
        full_s: None,
        full_queue_ms: None,
    };
    match name {
        Name::Trace(_) => {}
        Name::Fall(..) => figures.regained_s = regained(outcomes, end),
        Name::Share(_) => {
            let half = |o: &Outcome| jain(o.between(end / 2.0, end));
            figures.jain = Some(round(mean(outcomes.iter().map(half)), 3));
        }
        Name::Tcp => {
            if let Some(cross) = kind.scenario.cross {
                let at = |time: Timestamp| time.as_nanos() as f64 / 1e9;
                let (from, to) = (at(cross.from), at(cross.to).min(end));
                let part = |o: &Outcome| share(o.between(from, to), 0);
                figures.share = Some(round(mean(outcomes.iter().map(part)), 3));
                figures.back_s = mean_of_all(outcomes.iter().map(|o| o.reached(to, end)));
            }
        }
        Name::Limited => {
            let until = scenario::LIMITED.as_secs_f64().min(end);
            let over = |o: &Outcome, pick: fn(f64, f64) -> f64, first: f64| {
                let bins = o.between(scenario::SETTLED.as_secs_f64(), until).iter();
                bins.map(|bin| {
                    let capacity = bin.capacity.as_bits() as f64 / BIN.as_secs_f64();
                    bin.flows[0].target.as_bps() as f64 / capacity
                })
                .fold(first, pick)
            };
            figures.estimate = Some([
                round(
                    mean(outcomes.iter().map(|o| over(o, f64::min, f64::MAX))),
                    3,
                ),
                round(mean(outcomes.iter().map(|o| over(o, f64::max, 0.0))), 3),
            ]);
            figures.full_s = mean_of_all(outcomes.iter().map(|o| o.delivers(until, end)));
            figures.full_queue_ms = Some(spread(&|o| queue(o.between(until, end))));
        }
        Name::Const(_) | Name::Loss(_) | Name::Steps => {
            figures.t90_s = mean_of_all(outcomes.iter().map(|o| o.reached(0.0, end)));
        }
    }
    if let (Name::Steps, Some(first)) = (name, outcomes.first()) {
        let (rises, drains) = first.steps(&kind.steps);
        let two = |value: f64| round(value, 2);
        figures.rise_s = Some(rises.into_iter().map(|rise| rise.map(two)).collect());
        figures.drain_s = Some(drains.into_iter().map(two).collect());
    }
    figures
}

/// Of all falls.
fn regained(outcomes: &[Outcome], end: f64) -> Option<[f64; 2]> {
    let each = scenario::FALL_EACH as f64;
    let falls = (1..).map(|n| f64::from(n) * each);
    let falls: Vec<f64> = falls.take_while(|from| from + each <= end).collect();
    let of = |o: &Outcome| {
        let back = falls.iter().map(|from| o.back(*from, from + each));
        back.map(|back| back.unwrap_or(each)).collect::<Vec<f64>>()
    };
    let times: Vec<f64> = outcomes.iter().flat_map(of).collect();
    let most = times.iter().copied().reduce(f64::max)?;
    Some([round(mean(times.iter().copied()), 2), round(most, 2)])
}

fn row(figures: &Figures) -> String {
    let Figures {
        queue_ms: queue,
        sender_queue_ms: held,
        ..
    } = figures;
    let mut row = format!(
        "{:28} {:.3} {:8.1} {:8.1} ms {:8.1} {:6.1} ms {:7.4}",
        figures.scenario,
        figures.utilisation,
        queue.mean,
        queue.p95,
        held.mean,
        held.p95,
        figures.loss
    );
    if let Some(t90) = figures.t90_s {
        let _ = write!(row, " {t90:8.1} s");
    }
    let extra = [
        figures
            .rise_s
            .as_ref()
            .map(|rise| format!("rise {rise:?} s")),
        figures
            .drain_s
            .as_ref()
            .map(|drain| format!("drain {drain:?} s")),
        figures
            .regained_s
            .map(|[mean, most]| format!("80 % after {mean}, at most {most} s")),
        figures.jain.map(|jain| format!("Jain {jain}")),
        figures.share.map(|share| format!("share {share}")),
        figures.back_s.map(|back| format!("back after {back} s")),
        figures
            .estimate
            .map(|[least, most]| format!("estimate {least} to {most}")),
        figures.full_s.map(|full| format!("full after {full} s")),
        figures
            .full_queue_ms
            .map(|queue| format!("then p95 {} ms", queue.p95)),
    ];
    for extra in extra.into_iter().flatten() {
        row.push_str("  ");
        row.push_str(&extra);
    }
    row.push('\n');
    row
}

/// Columns as in the reference: the time is that of the bin's end.
fn write_csv(file: &Path, outcome: &Outcome) -> Result<()> {
    let mut text =
        String::from("time_s,capacity_kbps,target_kbps,delivered_kbps,queue_ms,sent_kbps\n");
    let kbps = |size: dualstream_common::DataSize| size.as_bits() as f64 / BIN.as_secs_f64() / 1e3;
    for (n, bin) in outcome.bins.iter().enumerate() {
        let flow = &bin.flows[0];
        let waited: Duration = bin.queued.iter().sum();
        let queue = waited.as_secs_f64() * 1e3 / bin.queued.len().max(1) as f64;
        let _ = writeln!(
            text,
            "{:.1},{:.1},{:.1},{:.1},{queue:.2},{:.1}",
            (n + 1) as f64 * BIN.as_secs_f64(),
            kbps(bin.capacity),
            flow.target.as_bps() as f64 / 1e3,
            kbps(flow.delivered),
            kbps(flow.sent),
        );
    }
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}
