// SPDX-License-Identifier: MPL-2.0
//! Rate and queue over time.

use std::path::Path;

use anyhow::{Result, anyhow};
use dualstream_common::DataSize;
use dualstream_gccsim::{BIN, Bin, Outcome};
use plotters::coord::Shift;
use plotters::prelude::*;

const SIZE: (u32, u32) = (1200, 560);
const TEXT: u32 = 13;
const CAPACITY: RGBColor = RGBColor(200, 200, 200);
const TARGET: RGBColor = RGBColor(31, 119, 180);
const DELIVERED: RGBColor = RGBColor(44, 160, 44);
const QUEUE: RGBColor = RGBColor(214, 39, 40);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Points = Vec<(f64, f64)>;

pub fn draw(file: &Path, title: &str, outcome: &Outcome) -> Result<()> {
    let failed = |error: String| anyhow!("{}: {error}", file.display());
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)
        .map_err(|error| failed(error.to_string()))?;
    let root = root
        .titled(title, ("sans-serif", 18))
        .map_err(|error| failed(error.to_string()))?;
    let (above, below) = root.split_vertically(SIZE.1 * 3 / 5);
    let mbps = |size: DataSize| size.as_bits() as f64 / BIN.as_secs_f64() / 1e6;
    let target = |bin: &Bin| bin.flows[0].target.as_bps() as f64 / 1e6;
    let rates = [
        (
            "capacity",
            CAPACITY,
            points(outcome, &|bin| mbps(bin.capacity)),
        ),
        (
            "delivered",
            DELIVERED,
            points(outcome, &|bin| mbps(bin.flows[0].delivered)),
        ),
        ("target", TARGET, points(outcome, &target)),
    ];
    // A guess may be far above for a moment; what the link takes is of interest.
    let most = rates[0].2.iter().map(|(_, y)| *y).fold(0.1, f64::max) * 1.25;
    panel(&above, "rate, Mbit/s", most, &rates).map_err(|error| failed(error.to_string()))?;
    let worst = |bin: &Bin| {
        bin.queued
            .iter()
            .max()
            .map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    let queue = [(
        "longest wait in the bottleneck",
        QUEUE,
        points(outcome, &worst),
    )];
    let mut sorted: Vec<f64> = queue[0].2.iter().map(|(_, y)| *y).collect();
    sorted.sort_by(f64::total_cmp);
    let high = sorted.get(sorted.len() * 99 / 100).copied().unwrap_or(1.0);
    panel(&below, "queue, ms", high.max(50.0) * 1.1, &queue)
        .map_err(|error| failed(error.to_string()))?;
    root.present().map_err(|error| failed(error.to_string()))
}

fn points(outcome: &Outcome, value: &dyn Fn(&Bin) -> f64) -> Points {
    let at = |n: usize| (n + 1) as f64 * BIN.as_secs_f64();
    let bins = outcome.bins.iter().enumerate();
    bins.map(|(n, bin)| (at(n), value(bin))).collect()
}

fn panel(
    area: &Area<'_>,
    unit: &str,
    most: f64,
    lines: &[(&str, RGBColor, Points)],
) -> Result<(), Box<dyn std::error::Error>> {
    let end = lines
        .iter()
        .filter_map(|(_, _, points)| points.last())
        .map(|(x, _)| *x)
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..most)?;
    chart
        .configure_mesh()
        .x_desc("time, s")
        .y_desc(unit)
        .label_style(("sans-serif", TEXT))
        .light_line_style(WHITE)
        .draw()?;
    for (name, colour, points) in lines {
        let style = colour.stroke_width(if *colour == CAPACITY { 3 } else { 1 });
        let clipped = points.iter().map(|(x, y)| (*x, y.min(most)));
        chart
            .draw_series(LineSeries::new(clipped, style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", TEXT))
        .draw()?;
    Ok(())
}
