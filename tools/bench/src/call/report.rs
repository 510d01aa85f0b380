// SPDX-License-Identifier: MPL-2.0
//! The table, and `report.html`: one page that needs nothing from outside.

use std::fmt::Write as _;

use anyhow::Result;

use super::figures::{Figures, Quality, Run, Spread};
use super::plot::{self, Axes, COLOURS, LIGHT, Line};

const STYLE: &str = "
body { font: 16px/1.5 sans-serif; color: #222; background: #fff; max-width: 1160px; margin: 24px auto; padding: 0 16px; }
h1 { font-size: 26px; margin-bottom: 4px; }
h2 { font-size: 20px; margin: 32px 0 4px; }
p { margin: 6px 0; }
table { border-collapse: collapse; margin: 16px 0; font-size: 15px; }
td, th { text-align: right; padding: 3px 14px 3px 0; border-bottom: 1px solid #ddd; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
th { font-weight: 600; }
svg { width: 100%; height: auto; }
";

/// A row: its name, and a cell for each run.
type Row = (&'static str, fn(&Figures) -> String);

fn number(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

fn count(value: Option<u64>) -> String {
    value.map_or("-".into(), |v| v.to_string())
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.0} %"))
}

fn spread(of: fn(&Spread) -> f64, figures: &Figures) -> String {
    let spread = figures.glass_to_glass_ms.as_ref();
    spread.map_or("-".into(), |spread| number(of(spread), 0))
}

fn quality(of: Option<Quality>, part: fn(Quality) -> f64, digits: usize) -> String {
    of.map_or("-".into(), |quality| number(part(quality), digits))
}

const ROWS: &[Row] = &[
    ("sender", |f| {
        let scheme = f.asked.scheme.as_ref();
        scheme.map_or(f.asked.sender.clone(), |scheme| format!("fixed, {scheme}"))
    }),
    ("receiver", |f| f.asked.receiver.clone()),
    ("without", |f| {
        let off = f.asked.features_off.join(" ");
        if off.is_empty() { "-".into() } else { off }
    }),
    ("asks for key frames, each ms", |f| {
        if f.asked.ask_ms == 0 {
            "-".into()
        } else {
            f.asked.ask_ms.to_string()
        }
    }),
    ("link", |f| f.asked.link.clone()),
    ("link loss", |f| {
        format!("{:.1} %", f.asked.link_loss * 100.0)
    }),
    ("link RTT, ms", |f| number(f.asked.link_rtt_ms, 0)),
    ("glass to glass, mean, ms", |f| spread(|s| s.mean, f)),
    ("p50", |f| spread(|s| s.p50, f)),
    ("p95", |f| spread(|s| s.p95, f)),
    ("p97", |f| spread(|s| s.p97, f)),
    ("p99", |f| spread(|s| s.p99, f)),
    ("pictures/s", |f| number(f.fps, 1)),
    ("pictures missing", |f| f.pictures_missing.to_string()),
    ("pictures not readable", |f| f.pictures_unread.to_string()),
    ("freezes", |f| f.freezes.to_string()),
    ("frozen, ms", |f| number(f.freeze_ms_total, 0)),
    ("freezes of readable pictures", |f| {
        f.freezes_readable.to_string()
    }),
    ("frozen, ms (readable)", |f| number(f.freeze_ms_readable, 0)),
    ("PSNR mean, dB", |f| quality(f.psnr_db, |q| q.mean, 2)),
    ("PSNR worst 1 %, dB", |f| quality(f.psnr_db, |q| q.p1, 2)),
    ("SSIM mean", |f| quality(f.ssim, |q| q.mean, 3)),
    ("SSIM worst 1 %", |f| quality(f.ssim, |q| q.p1, 3)),
    ("sent, kbit/s", |f| number(f.bitrate_kbps, 0)),
    ("capacity, kbit/s", |f| number(f.asked.link_kbps, 0)),
    ("utilisation", |f| percent(Some(f.utilisation * 100.0))),
    ("queue mean, ms", |f| number(f.queue_ms, 0)),
    ("queue p95, ms", |f| number(f.queue_p95_ms, 0)),
    ("RTT mean, ms", |f| number(f.rtt_ms, 0)),
    ("packets lost", |f| format!("{:.2} %", f.loss * 100.0)),
    ("key frames", |f| count(f.key_frames)),
    ("switches", |f| count(f.switches)),
    ("FEC over media", |f| {
        f.fec_overhead
            .map_or("-".into(), |v| format!("{:.1} %", v * 100.0))
    }),
    ("recovered by FEC", |f| count(f.fec_recovered)),
    ("recovered by RTX", |f| count(f.rtx_recovered)),
    ("requests for RTX", |f| count(f.rtx_asked)),
    ("RTX let through", |f| count(f.rtx_answered)),
    ("CPU of the sender", |f| percent(f.cpu_percent.sender)),
    ("CPU of the receiver", |f| percent(f.cpu_percent.receiver)),
    ("first picture, ms", |f| number(f.first_picture_ms, 0)),
    ("encoder", |f| {
        f.encoder.clone().unwrap_or_else(|| "-".into())
    }),
    ("decoder", |f| {
        f.decoder.clone().unwrap_or_else(|| "-".into())
    }),
];

/// In columns, for a terminal.
pub fn table(runs: &[&Figures]) -> String {
    let rows: Vec<Vec<String>> = ROWS
        .iter()
        .map(|(name, cell)| {
            std::iter::once((*name).to_owned())
                .chain(runs.iter().map(|figures| cell(figures)))
                .collect()
        })
        .collect();
    let widths: Vec<usize> = (0..=runs.len())
        .map(|at| {
            rows.iter()
                .map(|row| row[at].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            if at == 0 {
                text += &format!("{cell}{pad}");
            } else {
                text += &format!("  {pad}{cell}");
            }
        }
        text.push('\n');
    }
    text
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// What is the same for all pages.
pub fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}</body></html>\n"
    )
}

pub fn html_table(names: &[String], runs: &[&Figures]) -> String {
    let mut text = String::from("<table>\n");
    if !names.is_empty() {
        let cells: String = names
            .iter()
            .map(|name| format!("<th>{}</th>", escape(name)))
            .collect();
        text += &format!("<tr><th></th>{cells}</tr>\n");
    }
    for (name, cell) in ROWS {
        let cells: String = runs
            .iter()
            .map(|figures| format!("<td>{}</td>", escape(&cell(figures))))
            .collect();
        text += &format!("<tr><td>{}</td>{cells}</tr>\n", escape(name));
    }
    text + "</table>\n"
}

pub fn section(page: &mut String, title: &str, about: &str, svg: Option<String>) -> Result<()> {
    if let Some(svg) = svg {
        writeln!(
            page,
            "<h2>{}</h2>\n<p>{}</p>\n{svg}",
            escape(title),
            escape(about)
        )?;
    }
    Ok(())
}

pub const TIME: &str = "seconds";

pub fn page(run: &Run) -> Result<String> {
    let (asked, series) = (&run.figures.asked, &run.series);
    let mut body = String::new();
    writeln!(
        body,
        "<p>{} at {}x{}, {} pictures/s. Link: {}, RTT {} ms, queue of {} ms, {} % lost. Measured \
         for {} s from {} s after the first picture; the plots begin with that.</p>",
        escape(&asked.video),
        asked.width,
        asked.height,
        asked.source_fps,
        escape(&asked.link),
        asked.link_rtt_ms,
        asked.link_queue_ms,
        asked.link_loss * 100.0,
        asked.seconds,
        asked.settle_s
    )?;
    body += &html_table(&[], &[&run.figures]);
    let axes = |y| Axes {
        x: TIME,
        y,
        from: None,
        to: None,
    };
    let rates = [
        Line::new("capacity", LIGHT, 3, &series.capacity_kbps),
        Line::new("estimate", COLOURS[3], 1, &series.estimate_kbps),
        Line::new("target of the encoder", COLOURS[0], 2, &series.target_kbps),
        Line::new("sent", COLOURS[1], 1, &series.sent_kbps),
        Line::new("arrived", COLOURS[2], 1, &series.arrived_kbps),
    ];
    section(
        &mut body,
        "Rates",
        "On the wire with IP and UDP, over 0.5 s, beside what the link takes.",
        plot::lines(axes("kbit/s"), &rates)?,
    )?;
    let queue = [Line::new(
        "longest of each 0.1 s",
        COLOURS[1],
        1,
        &series.queue_ms,
    )];
    section(
        &mut body,
        "Queue",
        "How long packets were on the link beyond its delay.",
        plot::lines(axes("ms"), &queue)?,
    )?;
    let latency = [
        Line::new("glass to glass", COLOURS[0], 1, &series.glass_to_glass_ms),
        Line::new(
            "of which the jitter buffer plans",
            COLOURS[6],
            1,
            &series.jitter_buffer_ms,
        ),
    ];
    section(
        &mut body,
        "Latency",
        "From the draught of each picture to the time it is shown.",
        plot::lines(axes("ms"), &latency)?,
    )?;
    let psnr = [Line::new("luma", COLOURS[2], 1, &series.psnr_db)];
    section(
        &mut body,
        "PSNR",
        "Each picture shown against the one that was sent, bar code and scaling included.",
        plot::lines(
            Axes {
                from: Some(20.0),
                ..axes("dB")
            },
            &psnr,
        )?,
    )?;
    let title = format!("{} to {}", asked.sender, asked.receiver);
    Ok(document(&title, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_figure_and_a_column_for_each_run() {
        let mut figures = Figures::default();
        figures.asked.sender = "dualwebrtcsink".into();
        figures.glass_to_glass_ms = Some(Spread {
            p97: 81.6,
            ..Spread::default()
        });
        let text = table(&[&figures, &figures]);
        assert_eq!(text.lines().count(), ROWS.len());
        let p97 = text.lines().find(|line| line.starts_with("p97")).unwrap();
        assert_eq!(
            p97.split_whitespace().collect::<Vec<_>>(),
            ["p97", "82", "82"]
        );
    }

    #[test]
    fn a_page_holds_its_plots_and_nothing_from_outside() {
        let mut run = Run::default();
        run.figures.asked.video = "a<b>.mp4".into();
        run.series.glass_to_glass_ms = vec![(0.0, 80.0), (1.0, 90.0)];
        let page = page(&run).unwrap();
        assert!(page.contains("<svg") && page.contains("a&lt;b&gt;.mp4"));
        assert!(!page.contains("src=") && !page.contains("href="), "{page}");
        assert!(page.contains("<h2>Latency</h2>") && !page.contains("<h2>PSNR</h2>"));
    }
}
