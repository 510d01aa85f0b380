// SPDX-License-Identifier: MPL-2.0
//! The delay models of the jitter buffer on recorded frames, in virtual time.
//!
//! A frame is late when it arrives after the time that the model, knowing the
//! frames before it, wants it shown. Delays count from the fastest frame. The
//! first two seconds, in which the models start, are not judged.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dualstream_common::{DataSize, Ratio, Timestamp};
use jitterbuffer_core::{AdaptiveModel, Config, Frame, RtpClock, WebrtcModel};
use serde::Serialize;

use super::Model;
use super::plot::{self, Curves};

/// Frames that are not judged.
const START: usize = 60;

/// What is asked for.
pub struct Job {
    pub csv: PathBuf,
    pub model: Model,
    pub late_target: f64,
    pub json: bool,
    /// Both models, to this file.
    pub plot: Option<PathBuf>,
}

/// The field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    csv: String,
    model: Model,
    late_target: f64,
    late_share: f64,
    added_delay_ms_mean: f64,
    /// The smallest constant delay with as many late frames.
    oracle_ms: f64,
    estimate_ms_final: f64,
    estimate_ms_mean: f64,
    /// Where the file has estimates.
    rms_vs_csv_ms: Option<f64>,
}

struct Row {
    frame: Frame,
    now: Timestamp,
    rtt: Option<Duration>,
    estimate_ms: Option<f64>,
}

/// What became of a frame.
struct Shown {
    capture_ms: f64,
    transit_ms: f64,
    waited_ms: f64,
    estimate_ms: f64,
    csv_ms: Option<f64>,
}

pub fn run(args: &Job) -> Result<()> {
    let rows = read(args).with_context(|| args.csv.display().to_string())?;
    if rows.len() <= START {
        return Err(anyhow!("no more than {START} frames, which are not judged"));
    }
    if let Some(file) = &args.plot {
        let title = args.csv.file_stem().unwrap_or_default();
        plot::draw(file, &title.to_string_lossy(), &curves(args, &rows)?)?;
    }
    let shown = replay(args, args.model, &rows)?;
    let figures = figures(args, &shown);
    if args.json {
        crate::print_json(&figures)
    } else {
        crate::print(&table(&figures))
    }
}

fn replay(args: &Job, model: Model, rows: &[Row]) -> Result<Vec<Shown>> {
    let mut model = Either::new(model, args.late_target)?;
    let mut clock = RtpClock::default();
    let shown = rows.iter().map(|row| show(&mut model, &mut clock, row));
    Ok(shown.skip(START).collect())
}

fn curves(args: &Job, rows: &[Row]) -> Result<Curves> {
    let webrtc = replay(args, Model::Webrtc, rows)?;
    let adaptive = replay(args, Model::Adaptive, rows)?;
    let transits = webrtc.iter().map(|frame| frame.transit_ms);
    let fastest = transits.fold(f64::INFINITY, f64::min);
    let points = |of: &[Shown], value: fn(&Shown) -> f64| {
        of.iter()
            .map(|frame| (frame.capture_ms / 1000.0, value(frame) - fastest))
            .collect()
    };
    Ok(Curves {
        arrivals: points(&webrtc, |frame| frame.transit_ms),
        webrtc: points(&webrtc, |frame| frame.waited_ms),
        adaptive: points(&adaptive, |frame| frame.waited_ms),
    })
}

enum Either {
    Webrtc(Box<WebrtcModel>),
    Adaptive(Box<AdaptiveModel>),
}

impl Either {
    fn new(model: Model, late_target: f64) -> Result<Self> {
        if model == Model::Webrtc {
            return Ok(Self::Webrtc(Box::default()));
        }
        let late_target = Ratio::new(late_target).context("--late-target is not a share")?;
        let config = Config {
            late_target,
            ..Config::default()
        };
        Ok(Self::Adaptive(Box::new(AdaptiveModel::new(config)?)))
    }

    fn playout(&self, rtp_timestamp: u32) -> Option<Timestamp> {
        match self {
            Self::Webrtc(model) => model.playout(rtp_timestamp),
            Self::Adaptive(model) => model.playout(rtp_timestamp),
        }
    }

    /// The new estimate.
    fn frame(&mut self, row: &Row) -> Duration {
        match self {
            Self::Webrtc(model) => {
                if let Some(rtt) = row.rtt {
                    model.set_rtt(rtt);
                }
                model.frame(row.now, &row.frame)
            }
            Self::Adaptive(model) => {
                model.frame(&row.frame);
                model.delay()
            }
        }
    }
}

fn show(model: &mut Either, clock: &mut RtpClock, row: &Row) -> Shown {
    let capture_ms = clock.nanos(row.frame.rtp_timestamp) as f64 / 1e6;
    let since_capture = |at: Timestamp| at.as_nanos() as f64 / 1e6 - capture_ms;
    let transit_ms = since_capture(row.frame.arrival);
    let playout = model.playout(row.frame.rtp_timestamp);
    Shown {
        capture_ms,
        transit_ms,
        waited_ms: playout.map_or(transit_ms, since_capture),
        estimate_ms: model.frame(row).as_secs_f64() * 1000.0,
        csv_ms: row.estimate_ms,
    }
}

fn figures(args: &Job, shown: &[Shown]) -> Figures {
    let mut sorted: Vec<f64> = shown.iter().map(|frame| frame.transit_ms).collect();
    sorted.sort_by(f64::total_cmp);
    let fastest = sorted.first().copied().unwrap_or(0.0);
    let late = shown
        .iter()
        .filter(|frame| frame.transit_ms > frame.waited_ms)
        .count();
    let oracle = sorted.iter().rev().nth(late).copied().unwrap_or(fastest);
    let squares: Vec<f64> = shown
        .iter()
        .filter_map(|frame| Some((frame.estimate_ms - frame.csv_ms?).powi(2)))
        .collect();
    Figures {
        csv: args.csv.display().to_string(),
        model: args.model,
        late_target: args.late_target,
        late_share: late as f64 / shown.len() as f64,
        added_delay_ms_mean: mean(shown.iter().map(|frame| frame.waited_ms)) - fastest,
        oracle_ms: oracle - fastest,
        estimate_ms_final: shown.last().map_or(0.0, |frame| frame.estimate_ms),
        estimate_ms_mean: mean(shown.iter().map(|frame| frame.estimate_ms)),
        rms_vs_csv_ms: (!squares.is_empty()).then(|| mean(squares.iter().copied()).sqrt()),
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

fn table(figures: &Figures) -> String {
    let rms = figures
        .rms_vs_csv_ms
        .map_or("-".into(), |ms| format!("{ms:.3}"));
    format!(
        "{}\nlate {:.2} %, added {:.1} ms, oracle {:.1} ms, estimate {:.1} ms, at the end {:.1} ms, RMS to the file's {rms} ms\n",
        figures.csv,
        figures.late_share * 100.0,
        figures.added_delay_ms_mean,
        figures.oracle_ms,
        figures.estimate_ms_mean,
        figures.estimate_ms_final,
    )
}

fn read(args: &Job) -> Result<Vec<Row>> {
    let text = fs::read_to_string(&args.csv)?;
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap_or("").split(',').collect();
    lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(n, line)| {
            let cells = Cells {
                columns: &columns,
                cells: line.split(',').collect(),
            };
            cells.row().with_context(|| format!("line {}", n + 2))
        })
        .collect()
}

struct Cells<'a> {
    columns: &'a [&'a str],
    cells: Vec<&'a str>,
}

impl Cells<'_> {
    fn row(&self) -> Result<Row> {
        let micros = |us: u64| Timestamp::from_nanos(us.saturating_mul(1000));
        let arrival = micros(self.needed("arrival_time_us")?);
        Ok(Row {
            frame: Frame {
                rtp_timestamp: self.needed("rtp_timestamp")?,
                arrival,
                size: DataSize::from_bytes(self.needed("frame_size_bytes")?),
                retransmitted: self.cell::<u8>("nacked")? == Some(1),
            },
            now: self.cell("process_time_us")?.map_or(arrival, micros),
            rtt: self
                .cell::<f64>("rtt_update_ms")?
                .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok()),
            estimate_ms: self.cell("estimate_ms")?,
        })
    }

    fn needed<T: std::str::FromStr>(&self, column: &str) -> Result<T> {
        self.cell(column)?
            .ok_or_else(|| anyhow!("{column} is missing"))
    }

    /// `None` where there is no such column or nothing in it.
    fn cell<T: std::str::FromStr>(&self, column: &str) -> Result<Option<T>> {
        let at = self.columns.iter().position(|name| name.trim() == column);
        let text = at.and_then(|at| self.cells.get(at)).map(|text| text.trim());
        match text {
            None | Some("") => Ok(None),
            Some(text) => match text.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(anyhow!("{column} is not a number: {text}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [&str; 4] = [
        "rtp_timestamp",
        "arrival_time_us",
        "frame_size_bytes",
        "nacked",
    ];

    fn row(line: &str) -> Result<Row> {
        let cells = line.split(',').collect();
        Cells {
            columns: &COLUMNS,
            cells,
        }
        .row()
    }

    #[test]
    fn columns_may_be_missing_where_the_model_can_do_without() {
        let row = row("90000,20000,500,1").unwrap();
        assert_eq!(row.frame.arrival, Timestamp::from_millis(20));
        assert!(row.frame.retransmitted);
        assert_eq!(row.now, row.frame.arrival);
        assert_eq!((row.rtt, row.estimate_ms), (None, None));
    }

    #[test]
    fn what_is_no_number_is_named() {
        let error = |line| row(line).err().map(|error| error.to_string());
        assert_eq!(
            error("1,x,5,0").unwrap(),
            "arrival_time_us is not a number: x"
        );
        assert_eq!(error("1,2").unwrap(), "frame_size_bytes is missing");
    }

    #[test]
    fn figures_are_those_of_the_frames() {
        let args = Job {
            csv: PathBuf::from("x.csv"),
            model: Model::Adaptive,
            late_target: 0.01,
            json: true,
            plot: None,
        };
        let shown: Vec<Shown> = [10.0, 12.0, 30.0, 14.0]
            .map(|transit_ms| Shown {
                capture_ms: 0.0,
                transit_ms,
                waited_ms: 20.0,
                estimate_ms: 8.0,
                csv_ms: Some(5.0),
            })
            .into();
        let figures = figures(&args, &shown);
        assert_eq!(figures.late_share, 0.25, "the one of 30 ms");
        assert_eq!(figures.added_delay_ms_mean, 10.0);
        assert_eq!(figures.oracle_ms, 4.0, "14 ms lets the same one be late");
        assert_eq!(figures.rms_vs_csv_ms, Some(3.0));
    }
}
