// SPDX-License-Identifier: MPL-2.0
//! The plots of the report as SVG.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::log::{Coded, Rate, Shown};
use crate::rates::capacity;
use crate::stats::switches;
use dualstream_link::Step;

pub type Plotted = Result<String, Box<dyn Error>>;

const WIDTH: u32 = 1160;
const FONT: &str = "sans-serif";
const LABEL: u32 = 17;
/// Of the log of rates, for one rate that was sent.
const RATE_SAMPLES: usize = 5;

pub const DISPLAY: RGBColor = RGBColor(38, 110, 180);
pub const BACKGROUND: RGBColor = RGBColor(235, 150, 20);
pub const KEY_DISPLAY: RGBColor = RGBColor(205, 30, 45);
pub const KEY_BACKGROUND: RGBColor = RGBColor(125, 45, 145);
pub const SWITCH: RGBColor = RGBColor(110, 110, 110);
const LINE: RGBColor = DISPLAY;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Seconds since the first frame was coded, or captured.
pub struct Time {
    origin: u64,
    end: f64,
    switches: Vec<f64>,
}

impl Time {
    pub fn of(coded: &[Coded], shown: &[Shown]) -> Self {
        let starts = coded.iter().map(|c| c.at).chain(shown.iter().map(placed));
        let ends = coded.iter().map(|c| c.at).chain(shown.iter().map(placed));
        let origin = starts.min().unwrap_or(0);
        let end = ends.max().unwrap_or(0).saturating_sub(origin) as f64 / 1e9;
        let mut time = Self {
            origin,
            end: end.max(0.1),
            switches: Vec::new(),
        };
        time.switches = switches(shown)
            .into_iter()
            .map(|i| time.at(placed(&shown[i])))
            .collect();
        time
    }

    fn at(&self, ns: u64) -> f64 {
        (i128::from(ns) - i128::from(self.origin)) as f64 / 1e9
    }
}

/// Where a shown picture stands on the time axis.
fn placed(shown: &Shown) -> u64 {
    shown.captured.unwrap_or(shown.shown)
}

pub fn latency(time: &Time, shown: &[Shown]) -> Plotted {
    let points: Vec<(f64, f64)> = shown
        .iter()
        .filter_map(|s| Some((time.at(placed(s)), s.latency_ms()?)))
        .collect();
    let top = points.iter().map(|p| p.1).fold(50.0, f64::max) * 1.08;
    lines(time, 330, "ms", 0.0..top, &points)
}

pub fn psnr(time: &Time, shown: &[Shown]) -> Plotted {
    let points: Vec<(f64, f64)> = shown
        .iter()
        .filter_map(|s| Some((time.at(placed(s)), s.psnr_db?)))
        .collect();
    let values = points.iter().map(|p| p.1);
    let high = values.clone().fold(f64::MIN, f64::max).max(20.0);
    // Small differences are not blown up to the full height.
    let low = values.fold(high, f64::min).min(high - 10.0);
    let range = (low - 1.0).floor()..(high + 1.0).ceil();
    lines(time, 330, "dB", range, &points)
}

/// Both streams, one above the other, on one scale.
pub fn sizes(time: &Time, coded: &[Coded], fps: f64) -> Plotted {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 560)).into_drawing_area();
        root.fill(&WHITE)?;
        let top = coded
            .iter()
            .map(|c| c.bytes as f64 / 1e3)
            .fold(1.0, f64::max)
            * 1.08;
        for (stream, area) in root.split_evenly((2, 1)).iter().enumerate() {
            let bars: Vec<&Coded> = coded
                .iter()
                .filter(|c| c.stream as usize == stream)
                .collect();
            let caption = format!("Stream {stream}, kB per frame");
            bar_chart(area, time, &caption, top, &bars, fps)?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Above what the link takes, the estimate and what is sent; below how long
/// the pictures took.
pub fn rates(time: &Time, steps: &[Step], rates: &[Rate], shown: &[Shown]) -> Plotted {
    let start = rates.first().map_or(time.origin, |rate| rate.at);
    let offset = time.at(start);
    let mut link = Vec::new();
    for (from, to, kbps) in capacity(steps, time.end - offset) {
        let mbps = kbps as f64 / 1e3;
        link.extend([(from + offset, mbps), (to + offset, mbps)]);
    }
    let estimate: Vec<_> = rates
        .iter()
        .filter_map(|rate| Some((time.at(rate.at), rate.estimate? as f64 / 1e6)))
        .collect();
    let sent: Vec<_> = rates
        .windows(RATE_SAMPLES + 1)
        .filter_map(|window| {
            let (first, last) = (window.first()?, window.last()?);
            let seconds = time.at(last.at) - time.at(first.at);
            let bits = (last.sent_bytes - first.sent_bytes) as f64 * 8.0;
            let middle = f64::midpoint(time.at(first.at), time.at(last.at));
            Some((middle, bits / 1e6 / seconds.max(1e-3)))
        })
        .collect();
    let latency: Vec<_> = shown
        .iter()
        .filter_map(|s| Some((time.at(placed(s)), s.latency_ms()?)))
        .collect();
    let top = |points: &[(f64, f64)], least| {
        let highest = |top: f64, p: &(f64, f64)| if p.0 >= 0.0 { top.max(p.1) } else { top };
        points.iter().fold(least, highest) * 1.08
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 620)).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(350);
        let high = [&link, &estimate, &sent]
            .iter()
            .fold(0.5, |high: f64, points| high.max(top(points, 0.0)));
        let series: [Series<'_>; 3] = [
            ("capacity", SWITCH, 3, &link),
            ("estimate", DISPLAY, 2, &estimate),
            ("sent, over 0.5 s", BACKGROUND, 2, &sent),
        ];
        legend_chart(&above, time, "Mbit/s", high, &series)?;
        let series: [Series<'_>; 1] = [("latency of each picture", DISPLAY, 1, &latency)];
        legend_chart(&below, time, "ms", top(&latency, 100.0), &series)?;
        root.present()?;
    }
    Ok(svg)
}

/// Name, colour, width of the line, points.
type Series<'a> = (&'a str, RGBColor, u32, &'a [(f64, f64)]);

fn legend_chart(
    area: &Area<'_>,
    time: &Time,
    unit: &str,
    top: f64,
    series: &[Series<'_>],
) -> Result<(), Failed> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..time.end, 0.0..top)?;
    mesh(&mut chart, unit)?;
    for &(name, colour, width, points) in series {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        let within = points
            .iter()
            // A line that begins before the first picture starts at the edge.
            .map(|&(t, v)| (t.clamp(0.0, time.end), v))
            .collect::<Vec<_>>();
        chart
            .draw_series(LineSeries::new(within, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, LABEL, &INK))
        .draw()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Failed = Box<dyn Error>;

fn colour(frame: &Coded) -> RGBColor {
    match (frame.background, frame.key) {
        (false, false) => DISPLAY,
        (true, false) => BACKGROUND,
        (false, true) => KEY_DISPLAY,
        (true, true) => KEY_BACKGROUND,
    }
}

fn bar_chart(
    area: &Area<'_>,
    time: &Time,
    caption: &str,
    top: f64,
    bars: &[&Coded],
    fps: f64,
) -> Result<(), Failed> {
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 19, &INK))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..time.end, 0.0..top)?;
    mesh(&mut chart, "")?;
    mark_switches(&mut chart, time, 0.0, top)?;
    let half = if fps > 0.0 { 0.4 / fps } else { 0.01 };
    // Keys last and wider, so that they are seen between the others.
    for keys in [false, true] {
        let half = if keys { half * 2.0 } else { half };
        chart.draw_series(bars.iter().filter(|c| c.key == keys).map(|c| {
            let t = time.at(c.at);
            let (left, right) = ((t - half).max(0.0), (t + half).min(time.end));
            Rectangle::new(
                [(left, 0.0), (right, c.bytes as f64 / 1e3)],
                colour(c).filled(),
            )
        }))?;
    }
    Ok(())
}

fn lines(
    time: &Time,
    height: u32,
    unit: &str,
    range: Range<f64>,
    points: &[(f64, f64)],
) -> Plotted {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (low, high) = (range.start, range.end);
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..time.end, range)?;
        mesh(&mut chart, unit)?;
        mark_switches(&mut chart, time, low, high)?;
        chart.draw_series(LineSeries::new(
            points.iter().copied(),
            ShapeStyle::from(&LINE).stroke_width(1),
        ))?;
        chart.draw_series(
            points
                .iter()
                .map(|&point| Circle::new(point, 2, LINE.filled())),
        )?;
        root.present()?;
    }
    Ok(svg)
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn mark_switches(
    chart: &mut Chart<'_, '_>,
    time: &Time,
    low: f64,
    high: f64,
) -> Result<(), Failed> {
    let style = ShapeStyle::from(&SWITCH).stroke_width(2);
    chart.draw_series(
        time.switches
            .iter()
            .map(|&t| DashedPathElement::new([(t, low), (t, high)], 7, 5, style)),
    )?;
    Ok(())
}

fn mesh(chart: &mut Chart<'_, '_>, unit: &str) -> Result<(), Failed> {
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc(unit)
        .x_labels(12)
        .y_labels(6)
        .x_label_formatter(&|v| short(*v))
        .y_label_formatter(&|v| short(*v))
        .label_style((FONT, LABEL, &INK))
        .axis_desc_style((FONT, LABEL, &INK))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

/// Without digits that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_string)
}
