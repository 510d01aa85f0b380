// SPDX-License-Identifier: MPL-2.0
//! Plots of quality and latency over capacity, one line a scheme.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::Figures;
use crate::scheme::Scheme;

const SIZE: (u32, u32) = (1200, 460);
const TITLE: u32 = 18;
const TEXT: u32 = 13;

fn colour(scheme: Scheme) -> RGBColor {
    match scheme {
        Scheme::Vanilla => RGBColor(120, 120, 120),
        Scheme::Tight => RGBColor(31, 119, 180),
        Scheme::IntraRefresh => RGBColor(148, 103, 189),
        Scheme::Infinite => RGBColor(188, 189, 34),
        Scheme::Dual => RGBColor(214, 39, 40),
    }
}

/// What one panel shows of a run.
struct Panel {
    title: &'static str,
    unit: &'static str,
    value: fn(&Figures) -> f64,
    logarithmic: bool,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "PSNR of luma, mean",
        unit: "dB",
        value: |f| f.psnr_db.mean,
        logarithmic: false,
    },
    Panel {
        title: "PSNR of luma, 1st percentile",
        unit: "dB",
        value: |f| f.psnr_db.p1,
        logarithmic: false,
    },
    Panel {
        title: "display latency, 97th percentile",
        unit: "ms",
        value: |f| f.latency_ms.p97,
        logarithmic: true,
    },
];

pub fn plot(file: &Path, title: &str, all: &[Figures]) -> Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    let failed = |err| anyhow!("{}: {err}", file.display());
    root.fill(&WHITE).map_err(|err| failed(err.to_string()))?;
    let root = root
        .titled(title, ("sans-serif", TITLE))
        .map_err(|err| failed(err.to_string()))?;
    for (panel, area) in PANELS.iter().zip(root.split_evenly((1, PANELS.len()))) {
        draw(&area, panel, all).map_err(|err| failed(err.to_string()))?;
    }
    root.present().map_err(|err| failed(err.to_string()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(area: &Area<'_>, panel: &Panel, all: &[Figures]) -> Result<(), Box<dyn std::error::Error>> {
    let value = |f: &Figures| {
        let value = (panel.value)(f);
        if panel.logarithmic {
            value.log10()
        } else {
            value
        }
    };
    let range = |of: &dyn Fn(&Figures) -> f64| {
        let (low, high) = all
            .iter()
            .map(of)
            .fold((f64::MAX, f64::MIN), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        let margin = ((high - low) * 0.06).max(0.01);
        low - margin..high + margin
    };
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", TEXT + 1))
        .margin(8)
        .x_label_area_size(38)
        .y_label_area_size(48)
        .build_cartesian_2d(range(&|f| f.capacity_kbps), range(&value))?;
    chart
        .configure_mesh()
        .x_desc("capacity, kbit/s")
        .y_desc(panel.unit)
        .y_label_formatter(&|y| {
            if panel.logarithmic {
                format!("{:.0}", 10f64.powf(*y))
            } else {
                format!("{y:.0}")
            }
        })
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(("sans-serif", TEXT))
        .light_line_style(WHITE)
        .draw()?;
    for scheme in Scheme::ALL {
        let points: Vec<_> = all
            .iter()
            .filter(|f| f.scheme == scheme)
            .map(|f| (f.capacity_kbps, value(f)))
            .collect();
        let style = colour(scheme).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(scheme.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        chart.draw_series(
            points
                .iter()
                .map(|point| Circle::new(*point, 3, colour(scheme).filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(if panel.logarithmic {
            SeriesLabelPosition::MiddleRight
        } else {
            SeriesLabelPosition::LowerRight
        })
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", TEXT))
        .draw()?;
    Ok(())
}
