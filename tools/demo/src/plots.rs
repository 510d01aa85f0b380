// SPDX-License-Identifier: MPL-2.0
//! The plots of the report as SVG.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::log::{Coded, Rate, Shown};
use crate::rates::{capacity, each_second};
use crate::stats::{freezes, switches};
use dualstream_link::Step;

pub type Plotted = Result<String, Box<dyn Error>>;

const WIDTH: u32 = 1160;
const FONT: &str = "sans-serif";
const LABEL: u32 = 17;
/// For the legend above a plot.
const LEGEND: u32 = 30;
/// Of a letter, on average.
const LETTER: i32 = 8;
/// A latency above this is drawn on a logarithmic scale, or all that is usual
/// would lie on the axis.
const LINEAR_MS: f64 = 1000.0;
/// More marks than these are thin.
const FEW_SWITCHES: usize = 20;
/// Of the log of rates, for one rate that was sent.
const RATE_SAMPLES: usize = 5;

pub const DISPLAY: RGBColor = RGBColor(38, 110, 180);
pub const BACKGROUND: RGBColor = RGBColor(235, 150, 20);
pub const KEY_DISPLAY: RGBColor = RGBColor(205, 30, 45);
pub const KEY_BACKGROUND: RGBColor = RGBColor(125, 45, 145);
pub const SWITCH: RGBColor = RGBColor(110, 110, 110);
pub const FREEZE: RGBColor = RGBColor(250, 205, 205);
const CAPACITY: RGBColor = RGBColor(222, 222, 222);
const LINE: RGBColor = DISPLAY;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Seconds since the first frame was coded, or captured.
pub struct Time {
    origin: u64,
    end: f64,
    switches: Vec<f64>,
    /// From when to when the screen stood still.
    freezes: Vec<(f64, f64)>,
}

impl Time {
    /// `fps` as in the summary; 0 if unknown.
    pub fn of(coded: &[Coded], shown: &[Shown], fps: f64) -> Self {
        let starts = coded.iter().map(|c| c.at).chain(shown.iter().map(placed));
        let ends = coded.iter().map(|c| c.at).chain(shown.iter().map(placed));
        let origin = starts.min().unwrap_or(0);
        let end = ends.max().unwrap_or(0).saturating_sub(origin) as f64 / 1e9;
        let mut time = Self {
            origin,
            end: end.max(0.1),
            switches: Vec::new(),
            freezes: Vec::new(),
        };
        time.switches = switches(shown)
            .into_iter()
            .map(|i| time.at(placed(&shown[i])))
            .collect();
        let interval = if fps > 0.0 { 1e3 / fps } else { 0.0 };
        time.freezes = freezes(shown, interval)
            .into_iter()
            .map(|i| (time.at(shown[i - 1].shown), time.at(shown[i].shown)))
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
    let scale = latencies(&points, top);
    lines(time, 330, scale.ms(), scale, &points)
}

/// From 0 to `top`, or from the smallest on a logarithmic scale.
fn latencies(points: &[(f64, f64)], top: f64) -> Scale {
    if top <= LINEAR_MS {
        return Scale::Linear(0.0..top);
    }
    let low = points.iter().map(|p| p.1).fold(LINEAR_MS, f64::min);
    Scale::Log(low.max(1.0) * 0.9..top)
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
    lines(time, 330, "dB", Scale::Linear(range), &points)
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
    let seconds = each_second(steps, time.end - offset);
    let mean: Vec<_> = (0u32..)
        .zip(seconds)
        .map(|(at, kbps)| (f64::from(at) + 0.5 + offset, kbps / 1e3))
        .collect();
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
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 680)).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(400);
        let high = [&link, &estimate, &sent]
            .iter()
            .fold(0.5, |high: f64, points| high.max(top(points, 0.0)));
        let mut series: Vec<Series<'_>> = vec![
            ("estimate", DISPLAY, 2, &estimate),
            ("sent, over 0.5 s", BACKGROUND, 2, &sent),
        ];
        if steps.len() > 1 {
            series.insert(0, ("capacity, mean of each second", SWITCH, 2, &mean));
        }
        let marks = [("capacity", Mark::Box(CAPACITY))];
        let area = legend(&above, &marks, &series)?;
        let scale = Scale::Linear(0.0..high);
        legend_chart(&area, time, "Mbit/s", scale, Some(&link), &series)?;
        let series: [Series<'_>; 1] = [("latency of each picture", DISPLAY, 1, &latency)];
        let marks = [
            ("switch", Mark::Dash),
            ("the screen stood still", Mark::Box(FREEZE)),
        ];
        let area = legend(&below, &marks, &series)?;
        let scale = latencies(&latency, top(&latency, 100.0));
        legend_chart(&area, time, scale.ms(), scale, None, &series)?;
        root.present()?;
    }
    Ok(svg)
}

/// Name, colour, width of the line, points.
type Series<'a> = (&'a str, RGBColor, u32, &'a [(f64, f64)]);

/// How something is shown that is no line.
#[derive(Clone, Copy)]
enum Mark {
    Box(RGBColor),
    Dash,
}

/// A line of names above the plot, where they cover nothing. Gives what is
/// left of the area.
fn legend<'a>(
    area: &Area<'a>,
    marks: &[(&str, Mark)],
    series: &[Series<'_>],
) -> Result<Area<'a>, Failed> {
    let (names, rest) = area.split_vertically(LEGEND);
    let middle = LEGEND as i32 / 2;
    let mut x = 72;
    let font = (FONT, LABEL, &INK).into_text_style(&names);
    let font = font.pos(Pos::new(HPos::Left, VPos::Center));
    let name = |x: &mut i32, text: &str| {
        let text = text.to_string();
        *x += 32;
        let at = (*x, middle);
        *x += LETTER * text.len() as i32 + 28;
        names.draw(&Text::new(text, at, font.clone()))
    };
    for &(text, mark) in marks {
        match mark {
            Mark::Box(colour) => {
                let corners = [(x + 4, middle - 8), (x + 24, middle + 8)];
                names.draw(&Rectangle::new(corners, colour.filled()))?;
            }
            Mark::Dash => {
                let style = ShapeStyle::from(&SWITCH).stroke_width(2);
                let ends = [(x + 14, middle - 10), (x + 14, middle + 10)];
                names.draw(&DashedPathElement::new(ends, 5, 3, style))?;
            }
        }
        name(&mut x, text)?;
    }
    for &(text, colour, width, _) in series {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        let ends = [(x, middle), (x + 24, middle)];
        names.draw(&PathElement::new(ends, style))?;
        name(&mut x, text)?;
    }
    Ok(rest)
}

/// Lines, on a ground that is filled; without one with what the viewer saw.
fn legend_chart(
    area: &Area<'_>,
    time: &Time,
    unit: &str,
    scale: Scale,
    ground: Option<&[(f64, f64)]>,
    series: &[Series<'_>],
) -> Result<(), Failed> {
    let mut builder = builder(area);
    let x = 0.0..time.end;
    match scale {
        Scale::Linear(y) => {
            let ends = y.clone();
            let chart = builder.build_cartesian_2d(x, y)?;
            fill(chart, time, unit, ends, ground, series)
        }
        Scale::Log(y) => {
            let ends = y.clone();
            let chart = builder.build_cartesian_2d(x, y.log_scale())?;
            fill(chart, time, unit, ends, ground, series)
        }
    }
}

fn fill<Y: Axis>(
    mut chart: Chart<'_, '_, Y>,
    time: &Time,
    unit: &str,
    ends: Range<f64>,
    ground: Option<&[(f64, f64)]>,
    series: &[Series<'_>],
) -> Result<(), Failed> {
    let (low, high) = (ends.start, ends.end);
    // A line that begins before the first picture starts at the edge.
    let within = |points: &[(f64, f64)]| {
        points
            .iter()
            .map(|&(t, v)| (t.clamp(0.0, time.end), v))
            .collect::<Vec<_>>()
    };
    if let Some(ground) = ground {
        let mut corners = within(ground);
        if let (Some(&(left, _)), Some(&(right, _))) = (corners.first(), corners.last()) {
            corners.extend([(right, low), (left, low)]);
            chart.draw_series([Polygon::new(corners, CAPACITY.filled())])?;
        }
    } else {
        mark_freezes(&mut chart, time, low, high)?;
        mark_switches(&mut chart, time, low, high)?;
    }
    mesh(&mut chart, unit)?;
    for &(_, colour, width, points) in series {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        chart.draw_series(LineSeries::new(within(points), style))?;
    }
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

fn lines(time: &Time, height: u32, unit: &str, scale: Scale, points: &[(f64, f64)]) -> Plotted {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut builder = builder(&root);
        let x = 0.0..time.end;
        match scale {
            Scale::Linear(y) => {
                let ends = y.clone();
                dots(builder.build_cartesian_2d(x, y)?, time, unit, ends, points)?;
            }
            Scale::Log(y) => {
                let ends = y.clone();
                let chart = builder.build_cartesian_2d(x, y.log_scale())?;
                dots(chart, time, unit, ends, points)?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

fn dots<Y: Axis>(
    mut chart: Chart<'_, '_, Y>,
    time: &Time,
    unit: &str,
    ends: Range<f64>,
    points: &[(f64, f64)],
) -> Result<(), Failed> {
    let (low, high) = (ends.start, ends.end);
    mark_freezes(&mut chart, time, low, high)?;
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
    Ok(())
}

fn builder<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(8)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(64);
    builder
}

/// The vertical axis.
enum Scale {
    Linear(Range<f64>),
    Log(Range<f64>),
}

impl Scale {
    const fn ms(&self) -> &'static str {
        match self {
            Self::Linear(_) => "ms",
            Self::Log(_) => "ms, logarithmic",
        }
    }
}

/// Both of them.
trait Axis: Ranged<ValueType = f64> + ValueFormatter<f64> {}
impl<Y: Ranged<ValueType = f64> + ValueFormatter<f64>> Axis for Y {}

type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

fn mark_freezes<Y: Axis>(
    chart: &mut Chart<'_, '_, Y>,
    time: &Time,
    low: f64,
    high: f64,
) -> Result<(), Failed> {
    chart.draw_series(time.freezes.iter().map(|&(from, to)| {
        let within = |t: f64| t.clamp(0.0, time.end);
        let corners = [(within(from), low), (within(to), high)];
        Rectangle::new(corners, FREEZE.filled())
    }))?;
    Ok(())
}

fn mark_switches<Y: Axis>(
    chart: &mut Chart<'_, '_, Y>,
    time: &Time,
    low: f64,
    high: f64,
) -> Result<(), Failed> {
    let few = time.switches.len() <= FEW_SWITCHES;
    let style = ShapeStyle::from(&SWITCH).stroke_width(if few { 2 } else { 1 });
    chart.draw_series(
        time.switches
            .iter()
            .map(|&t| DashedPathElement::new([(t, low), (t, high)], 7, 5, style)),
    )?;
    Ok(())
}

fn mesh<Y: Axis>(chart: &mut Chart<'_, '_, Y>, unit: &str) -> Result<(), Failed> {
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
