// SPDX-License-Identifier: MPL-2.0
//! Plots as SVG: lines over time, and how latencies are spread.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::figures::Points;

const SIZE: (u32, u32) = (1100, 300);
const FONT: &str = "sans-serif";
const TEXT: u32 = 14;
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// One a run or a quantity; they stay apart for those who see red and green
/// alike (Okabe and Ito).
pub const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(90, 90, 90),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];
pub const LIGHT: RGBColor = RGBColor(180, 180, 180);

pub struct Line<'a> {
    pub name: String,
    pub colour: RGBColor,
    pub width: u32,
    pub points: &'a Points,
}

impl<'a> Line<'a> {
    pub fn new(name: impl Into<String>, colour: RGBColor, width: u32, points: &'a Points) -> Self {
        Self {
            name: name.into(),
            colour,
            width,
            points,
        }
    }
}

#[derive(Clone, Copy)]
pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// The lower end of y; none: 0.
    pub from: Option<f64>,
    /// The upper end of y; none: whatever it takes, but for the highest
    /// hundredth.
    pub to: Option<f64>,
}

/// `None` where there is nothing to draw.
pub fn lines(axes: Axes<'_>, lines: &[Line<'_>]) -> Result<Option<String>> {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let ends = |(least, most): (f64, f64), t: f64| (least.min(t), most.max(t));
    let (begin, end) = all().map(|p| p.0).fold((f64::MAX, f64::MIN), ends);
    if end <= begin {
        return Ok(None);
    }
    let mut values: Vec<f64> = all().map(|p| p.1).filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let highest = values.last().copied().unwrap_or(1.0);
    let most = super::figures::percentile(&values, 0.99).max(highest * 0.25);
    let low = axes.from.unwrap_or(0.0);
    let high = axes.to.unwrap_or(most * 1.15).max(low + 1e-3);
    let mut svg = String::new();
    draw(&mut svg, axes, lines, (begin, end), (low, high)).map_err(|e| anyhow!("plot: {e}"))?;
    Ok(Some(svg))
}

fn draw(
    svg: &mut String,
    axes: Axes<'_>,
    lines: &[Line<'_>],
    (begin, end): (f64, f64),
    (low, high): (f64, f64),
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(begin..end, low..high)?;
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_labels(12)
        .y_labels(6)
        .label_style((FONT, TEXT, &INK))
        .axis_desc_style((FONT, TEXT, &INK))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let style = ShapeStyle::from(&line.colour).stroke_width(line.width);
        // What is above the plot is drawn at its edge.
        let points = line.points.iter().map(|&(t, v)| (t, v.clamp(low, high)));
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .label_font((FONT, TEXT, &INK))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Which share of the values is at most so high, in percent.
pub fn distribution(values: impl Iterator<Item = f64>) -> Points {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let count = values.len();
    values
        .into_iter()
        .enumerate()
        .map(|(n, v)| (v, (n + 1) as f64 / count as f64 * 100.0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes<'static> = Axes {
        x: "s",
        y: "ms",
        from: None,
        to: None,
    };

    #[test]
    fn lines_are_drawn_and_named() {
        let points: Points = (0..50).map(|n| (f64::from(n), f64::from(n % 7))).collect();
        let svg = lines(AXES, &[Line::new("latency", COLOURS[0], 1, &points)])
            .unwrap()
            .unwrap();
        assert!(
            svg.contains("<polyline") && svg.contains("latency"),
            "{svg}"
        );
    }

    #[test]
    fn nothing_is_no_plot() {
        let (none, one) = (Points::new(), vec![(0.0, 1.0)]);
        assert_eq!(
            lines(AXES, &[Line::new("a", COLOURS[0], 1, &none)]).unwrap(),
            None
        );
        assert_eq!(
            lines(AXES, &[Line::new("a", COLOURS[0], 1, &one)]).unwrap(),
            None
        );
    }

    #[test]
    fn a_distribution_ends_at_all() {
        let points = distribution([3.0, 1.0, 2.0, 4.0].into_iter());
        assert_eq!(
            points,
            [(1.0, 25.0), (2.0, 50.0), (3.0, 75.0), (4.0, 100.0)]
        );
    }
}
