// SPDX-License-Identifier: MPL-2.0
//! `report.html`: one page that needs nothing from outside, and is XML too.

use std::error::Error;
use std::fmt::Write as _;

use plotters::style::RGBColor;

use crate::log::{Coded, Shown};
use crate::plots::{self, Time};
use crate::rates::Phase;
use crate::stats::{FREEZE_MS, Summary};

const STYLE: &str = "
body { font: 17px/1.5 sans-serif; color: #222; background: #fff; max-width: 1160px; margin: 24px auto; padding: 0 16px; }
h1 { font-size: 28px; margin-bottom: 4px; }
h2 { font-size: 21px; margin: 36px 0 4px; }
p { margin: 6px 0; }
table { border-collapse: collapse; margin: 16px 0; }
td, th { text-align: left; padding: 4px 18px 4px 0; border-bottom: 1px solid #ddd; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
svg { width: 100%; height: auto; }
.good { color: #14692d; font-weight: 600; }
.bad { color: #b01525; font-weight: 600; }
.box { display: inline-block; width: 15px; height: 15px; margin: 0 6px 0 20px; vertical-align: -2px; }
.dash { display: inline-block; width: 0; height: 18px; margin: 0 8px 0 20px; border-left: 3px dashed #6e6e6e; vertical-align: -4px; }
.legend span:first-child { margin-left: 0; }
.small { font-size: 15px; color: #444; }
";

/// The page. Fails only if a plot cannot be drawn.
/// `rates` is a plot, of an emulated link.
pub fn page(
    summary: &Summary,
    coded: &[Coded],
    shown: &[Shown],
    rates: Option<&str>,
) -> Result<String, Box<dyn Error>> {
    let time = Time::of(coded, shown, summary.setting.fps);
    let mut page = String::new();
    write!(
        page,
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta charset=\"utf-8\"/><title>Dual stream demo</title><style>{STYLE}</style></head>\n<body>\n<h1>Dual stream demo</h1>\n"
    )?;
    let setting = &summary.setting;
    writeln!(
        page,
        "<p>{}, {}x{}, {} frames/s, {} s. Link: {}.</p>",
        escape(&setting.source),
        setting.width,
        setting.height,
        setting.fps,
        summary.seconds,
        escape(&setting.link.to_string())
    )?;
    verdict(&mut page, summary)?;
    table(&mut page, summary)?;

    let switch = "<span class=\"dash\"></span>switch of the display stream";
    let stood = swatch(plots::FREEZE, "the screen stood still") + switch;
    if let Some(svg) = rates {
        let how = format!(
            "Above: what the link takes and what was sent, with RTP, repair, IP and UDP; the estimate is that of {}, and at most the rate that was wanted. Below: from capture to shown; a queue is a hill, a key frame that held up the picture would be a spike, flat means that nothing waited.",
            escape(&summary.setting.estimator)
        );
        section(&mut page, "How it followed the link", &how, "", svg)?;
    } else {
        section(
            &mut page,
            "Latency of each picture",
            "From capture to shown; a key frame that held up the picture would stand out as a spike, flat means that nothing waited.",
            &stood,
            &plots::latency(&time, shown)?,
        )?;
    }
    let legend = [
        (plots::DISPLAY, "display"),
        (plots::BACKGROUND, "background"),
        (plots::KEY_DISPLAY, "key frame, display"),
        (plots::KEY_BACKGROUND, "key frame, background"),
    ]
    .iter()
    .map(|(colour, name)| swatch(*colour, name))
    .collect::<String>()
        + switch;
    section(
        &mut page,
        "Size of each coded frame",
        "The stream that is shown is blue; a refresh is a key frame on the other one (violet), then background frames that catch up (orange), then the switch, after which the colours change places.",
        &legend,
        &plots::sizes(&time, coded, setting.fps)?,
    )?;
    section(
        &mut page,
        "Likeness to the source",
        "Luma PSNR of each shown picture against the source picture of the same number; higher is better. Where it drops at a switch the other stream had not yet become as good.",
        &stood,
        &plots::psnr(&time, shown)?,
    )?;
    notes(&mut page)?;
    page.push_str("</body></html>\n");
    Ok(page)
}

fn verdict(page: &mut String, summary: &Summary) -> std::fmt::Result {
    if summary.problems.is_empty() {
        return writeln!(page, "<p class=\"good\">{}.</p>", summary.praise());
    }
    for problem in &summary.problems {
        writeln!(page, "<p class=\"bad\">{}</p>", escape(problem))?;
    }
    Ok(())
}

fn table(page: &mut String, s: &Summary) -> std::fmt::Result {
    let mut rows = vec![
        (
            "Pictures",
            format!(
                "{} sent, {} shown ({} missing, {} twice, {} out of order)",
                s.frames_in, s.frames_shown, s.missing_shown, s.duplicates_shown, s.reordered_shown
            ),
        ),
        (
            "Switches",
            format!(
                "{} (a refresh is wanted each {} ms)",
                s.switches, s.setting.refresh_interval_ms
            ),
        ),
        (
            "Freezes over 100 ms",
            format!(
                "{}, together {:.1} s (longest gap between two pictures {} ms)",
                s.freezes_over_100ms,
                s.frozen_ms / 1e3,
                s.longest_gap_ms
            ),
        ),
    ];
    if let Some(l) = s.latency_ms {
        rows.push((
            "Latency",
            format!(
                "mean {} ms, median {} ms, 97 % within {} ms, worst {} ms",
                l.mean, l.p50, l.p97, l.max
            ),
        ));
    }
    if let Some(l) = s.coding_ms {
        rows.push((
            "Of it, coding",
            format!(
                "mean {} ms, 97 % within {} ms, worst {} ms",
                l.mean, l.p97, l.max
            ),
        ));
    }
    if let (Some(mean), Some(min)) = (s.psnr_db_mean, s.psnr_db_min) {
        rows.push(("Luma PSNR", format!("mean {mean} dB, worst frame {min} dB")));
    }
    rows.push((
        "Coded video",
        format!(
            "{} kbit/s of {} kbit/s wanted, {:.1} % of it in the background",
            s.rate_kbps,
            s.setting.bitrate_kbps,
            s.background_share * 100.0
        ),
    ));
    if let Some(rates) = &s.rates {
        rows.push(("Use of the link", rates.whole.text()));
    }
    if let Some(slow) = s.slow() {
        rows.push(("This machine", slow));
    }
    for (index, stream) in s.streams.iter().enumerate() {
        rows.push((
            ["Stream 0", "Stream 1"][index],
            format!(
                "{} display frames ({} key), {} background frames ({} key), largest {} bytes",
                stream.display_frames,
                stream.key_frames_display,
                stream.background_frames,
                stream.key_frames_background,
                s.largest_frame_bytes[index]
            ),
        ));
    }
    rows.push((
        "Codecs",
        format!("{}, {}", s.setting.encoder, s.setting.decoder),
    ));
    let phases: Vec<_> = s
        .rates
        .iter()
        .flat_map(|rates| rates.phases.iter().map(Phase::row))
        .collect();
    rows.extend(
        phases
            .iter()
            .map(|(name, text)| (name.as_str(), text.clone())),
    );
    page.push_str("<table>\n");
    for (name, value) in rows {
        writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value))?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn section(page: &mut String, title: &str, how: &str, legend: &str, svg: &str) -> std::fmt::Result {
    writeln!(page, "<h2>{title}</h2>\n<p>{how}</p>")?;
    if !legend.is_empty() {
        writeln!(page, "<p class=\"small legend\">{legend}</p>")?;
    }
    page.push_str(&scalable(svg));
    page.push('\n');
    Ok(())
}

/// plotters gives a fixed size and no namespace that XHTML would need.
fn scalable(svg: &str) -> String {
    let svg = svg.split_once("<svg ").map_or(svg, |(_, rest)| rest);
    format!("<svg {svg}")
}

fn notes(page: &mut String) -> std::fmt::Result {
    writeln!(
        page,
        "<h2>What the figures mean</h2>\n<ul class=\"small\">\n\
         <li>Latency: its time stamp by the wall clock is put on the picture at the encoder's gate in <code>dualwebrtcsink</code>, travels with it in the RTP header extension abs-capture-time, and is compared with the wall clock of the same machine when the picture leaves <code>dualh264dec</code> towards a sink that does not synchronise. Drawing on a screen comes on top.</li>\n\
         <li>Freeze: the gap between two shown pictures is more than {FREEZE_MS:.0} ms longer than the gap between two captures then; in the plots the ground is red from one picture to the other.</li>\n\
         <li>PSNR: 10 log10(255² / mean squared error) over the luma of one frame, at most 100 dB; the mean is that of the frames' values in dB.</li>\n\
         <li>Use of the link: what was sent, with RTP, repair, IP and UDP, held against what the link could take, from the first picture to the last; the correlation is Pearson's, of the two in each second. A second in which it takes less than 100 kbit/s is an outage.</li>\n\
         <li>Percentiles are nearest rank. Coded video counts both streams, without RTP and repair.</li>\n\
         <li>The recording was coded again from what was shown, at the clip's own times.</li>\n</ul>"
    )
}

fn swatch(RGBColor(r, g, b): RGBColor, name: &str) -> String {
    format!("<span class=\"box\" style=\"background: rgb({r},{g},{b})\"></span>{name}")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Not allowed in XML at all.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
