// SPDX-License-Identifier: MPL-2.0
//! Several runs side by side.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::figures::{Figures, Points, Run, Series};
use super::plot::{self, Axes, COLOURS, LIGHT, Line};
use super::report::{TIME, document, html_table, section, table};

/// With its plots, or what `--json` prints.
#[derive(Deserialize)]
#[serde(untagged)]
enum Either {
    Run(Box<Run>),
    Figures(Box<Figures>),
}

pub fn run(files: &[PathBuf], page: &Path, json: bool) -> Result<()> {
    let mut runs = Vec::new();
    for file in files {
        runs.extend(read(file)?);
    }
    let all: Vec<&Figures> = runs.iter().map(|(_, run)| &run.figures).collect();
    std::fs::write(page, document_of(&runs)?)
        .with_context(|| format!("cannot write {}", page.display()))?;
    if json {
        return all.iter().try_for_each(crate::print_json);
    }
    crate::print(&table(&all))?;
    crate::print(&format!("{}: plots over time\n", page.display()))
}

/// The runs of a file, each with a name.
fn read(file: &Path) -> Result<Vec<(String, Run)>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut runs = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let run = match serde_json::from_str(line)
            .with_context(|| format!("{} holds no run of `session`", file.display()))?
        {
            Either::Run(run) => *run,
            Either::Figures(figures) => Run {
                figures: *figures,
                series: Series::default(),
            },
        };
        runs.push((super::name(file), run));
    }
    Ok(runs)
}

/// Of a run, and how it is told.
type Chart = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Series) -> &Points,
);

const CHARTS: &[Chart] = &[
    (
        "Latency",
        "From the draught of each picture to the time it is shown.",
        "ms",
        |s| &s.glass_to_glass_ms,
    ),
    (
        "Rate",
        "Arrived, with IP and UDP, over 0.5 s.",
        "kbit/s",
        |s| &s.arrived_kbps,
    ),
    (
        "Queue",
        "How long packets were on the link beyond its delay, the longest of each 0.1 s.",
        "ms",
        |s| &s.queue_ms,
    ),
    (
        "PSNR",
        "Each picture shown against the one that was sent.",
        "dB",
        |s| &s.psnr_db,
    ),
];

fn document_of(runs: &[(String, Run)]) -> Result<String> {
    let names: Vec<String> = runs.iter().map(|(name, _)| name.clone()).collect();
    let all: Vec<&Figures> = runs.iter().map(|(_, run)| &run.figures).collect();
    let mut body = html_table(&names, &all);
    let spread: Vec<Points> = runs
        .iter()
        .map(|(_, run)| {
            let measured = run.series.glass_to_glass_ms.iter().filter(|p| p.0 >= 0.0);
            plot::distribution(measured.map(|p| p.1))
        })
        .collect();
    let lines: Vec<Line<'_>> = (0..runs.len())
        .map(|at| {
            Line::new(
                label(&names[at], all[at]),
                COLOURS[at % COLOURS.len()],
                2,
                &spread[at],
            )
        })
        .collect();
    let axes = Axes {
        x: "ms",
        y: "% of pictures",
        from: None,
        to: Some(100.0),
    };
    section(
        &mut body,
        "Spread of the latency",
        "Which share of the pictures was shown within so long.",
        plot::lines(axes, &lines)?,
    )?;
    for (title, about, unit, of) in CHARTS {
        let mut lines = Vec::new();
        if *title == "Rate"
            && let Some((_, run)) = runs.first()
        {
            lines.push(Line::new("capacity", LIGHT, 3, &run.series.capacity_kbps));
        }
        for (at, (name, run)) in runs.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            lines.push(Line::new(label(name, all[at]), colour, 1, of(&run.series)));
        }
        let axes = Axes {
            x: TIME,
            y: unit,
            from: (*title == "PSNR").then_some(20.0),
            to: None,
        };
        section(&mut body, title, about, plot::lines(axes, &lines)?)?;
    }
    Ok(document("Sessions side by side", &body))
}

fn label(name: &str, figures: &Figures) -> String {
    let asked = &figures.asked;
    format!("{name}: {} to {}", asked.sender, asked.receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_files_are_read() {
        let folder = std::env::temp_dir().join(format!("dualstream-cmp-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut run = Run::default();
        run.figures.asked.sender = "dualwebrtcsink".into();
        run.series.glass_to_glass_ms = vec![(0.0, 80.0), (0.5, 81.0)];
        let (a, b, page) = (
            folder.join("a.json"),
            folder.join("b.json"),
            folder.join("r.html"),
        );
        std::fs::write(&a, serde_json::to_string(&run).unwrap()).unwrap();
        let line = serde_json::to_string(&run.figures).unwrap();
        std::fs::write(&b, format!("{line}\n{line}\n")).unwrap();
        let read: Vec<_> = [&a, &b].iter().flat_map(|f| read(f).unwrap()).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[0].1, run);
        assert_eq!(read[2].1.figures, run.figures);
        let text = document_of(&read).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(text.contains("Spread of the latency") && text.contains("dualwebrtcsink"));
        assert!(!page.exists());
    }

    #[test]
    fn what_is_no_run_is_refused_by_name() {
        let file = std::env::temp_dir().join(format!("dualstream-no-{}.json", std::process::id()));
        std::fs::write(&file, "{\"fps\":30}").unwrap();
        let error = read(&file).unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        assert!(error.contains("dualstream-no"), "{error}");
    }
}
