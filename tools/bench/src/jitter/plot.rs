// SPDX-License-Identifier: MPL-2.0
//! When frames came, and until when each model waited for them.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

const SIZE: (u32, u32) = (1200, 420);
const TEXT: u32 = 13;
const ARRIVAL: RGBColor = RGBColor(150, 150, 150);
const WEBRTC: RGBColor = RGBColor(214, 39, 40);
const ADAPTIVE: RGBColor = RGBColor(31, 119, 180);

/// Seconds since the first frame, and ms above the fastest.
pub type Points = Vec<(f64, f64)>;

pub struct Curves {
    pub arrivals: Points,
    pub webrtc: Points,
    pub adaptive: Points,
}

pub fn draw(file: &Path, title: &str, curves: &Curves) -> Result<()> {
    paint(file, title, curves).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn paint(file: &Path, title: &str, curves: &Curves) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let last = |points: &Points| points.last().map_or(1.0, |(x, _)| *x);
    let most = |points: &Points| points.iter().map(|(_, y)| *y).fold(1.0, f64::max);
    let top = most(&curves.arrivals)
        .max(most(&curves.webrtc))
        .max(most(&curves.adaptive));
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..last(&curves.arrivals), 0.0..top * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("time, s")
        .y_desc("above the fastest frame, ms")
        .label_style(("sans-serif", TEXT))
        .light_line_style(WHITE)
        .draw()?;
    let dots = curves.arrivals.iter();
    chart
        .draw_series(dots.map(|at| Circle::new(*at, 1, ARRIVAL.filled())))?
        .label("arrival")
        .legend(|(x, y)| Circle::new((x + 8, y), 2, ARRIVAL.filled()));
    for (name, colour, points) in [
        ("webrtc", WEBRTC, &curves.webrtc),
        ("adaptive", ADAPTIVE, &curves.adaptive),
    ] {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", TEXT))
        .draw()?;
    root.present()?;
    Ok(())
}
