// SPDX-License-Identifier: MPL-2.0
use super::*;
use crate::log::{Rate, Sent};
use crate::rates;
use crate::stats::{Setting, coded, summarise};
use dualstream_link::{LinkInfo, Step};

const MS: u64 = 1_000_000;

/// 300 pictures at 30 fps; a refresh in frames 60 to 80, then stream 1.
pub fn logs() -> (Vec<Sent>, Vec<Shown>) {
    let at = |n: u64| 5_000_000_000 * MS + n * 33_333_333;
    let mut sent = Vec::new();
    let mut shown = Vec::new();
    for n in 0..300u64 {
        let display = u32::from(n >= 80);
        let mut code = |stream, background, key, bytes| {
            sent.push(Sent::Coded(Coded {
                at: at(n) + 3 * MS,
                stream,
                number: n,
                generation: display,
                background,
                key,
                bytes,
            }));
        };
        code(
            display,
            false,
            n == 0,
            if n == 0 { 30_000 } else { 4000 + n * 7 },
        );
        if n == 60 {
            code(1, true, true, 25_000);
        }
        if (77..80).contains(&n) {
            code(1, true, false, 6000);
        }
        sent.push(Sent::Picture {
            number: n,
            pts: n * 33_333_333,
        });
        sent.push(Sent::Captured {
            number: n,
            at: at(n),
        });
        shown.push(Shown {
            number: Some(n),
            stream: display,
            generation: display,
            captured: Some(at(n)),
            shown: at(n) + (45 + n % 9) * MS,
            psnr_db: Some(36.0 + (n % 13) as f64 / 4.0),
        });
    }
    (sent, shown)
}

fn setting(source: &str) -> Setting {
    Setting {
        source: source.into(),
        link: LinkInfo::Rattan {
            kbps: 2000,
            delay_ms: 20,
            queue_ms: 300,
            loss: 0.0,
            steps: Vec::new(),
        },
        width: 1280,
        height: 720,
        fps: 30.0,
        bitrate_kbps: 1500,
        refresh_interval_ms: 2000,
        estimator: "rtpgcc".into(),
        encoder: "x264enc".into(),
        decoder: "avdec_h264".into(),
    }
}

fn made(source: &str, sent: &[Sent], shown: &[Shown]) -> String {
    let summary = summarise(
        sent,
        shown,
        setting(source),
        &["<broken> & \"bad\"".into()],
        &[],
    );
    page(&summary, &coded(sent), shown, None).unwrap()
}

#[track_caller]
fn parsed(page: &str) -> roxmltree::Document<'_> {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..Default::default()
    };
    roxmltree::Document::parse_with_options(page, options).expect("valid XML")
}

fn count(plot: roxmltree::Node<'_, '_>, name: &str, fill: Option<&str>) -> usize {
    plot.descendants()
        .filter(|node| node.has_tag_name(name) || node.tag_name().name() == name)
        .filter(|node| fill.is_none_or(|fill| node.attribute("fill") == Some(fill)))
        .count()
}

#[test]
fn every_frame_is_in_the_plots() {
    let (sent, shown) = logs();
    let page = made("clip.mp4", &sent, &shown);
    let document = parsed(&page);
    let plots: Vec<_> = document
        .descendants()
        .filter(|node| node.tag_name().name() == "svg")
        .collect();
    assert_eq!(plots.len(), 3);
    let hex = |RGBColor(r, g, b)| format!("#{r:02X}{g:02X}{b:02X}");
    assert_eq!(count(plots[0], "circle", None), 300, "latency");
    for (colour, frames, what) in [
        (plots::DISPLAY, 299, "display"),
        (plots::KEY_DISPLAY, 1, "display keys"),
        (plots::BACKGROUND, 3, "background"),
        (plots::KEY_BACKGROUND, 1, "background keys"),
    ] {
        assert_eq!(
            count(plots[1], "rect", Some(&hex(colour))),
            frames,
            "{what}"
        );
    }
    assert_eq!(count(plots[2], "circle", None), 300, "PSNR");
    let dashes = |plot: roxmltree::Node<'_, '_>| {
        plot.descendants()
            .filter(|node| node.attribute("stroke") == Some(&hex(plots::SWITCH)))
            .count()
    };
    assert!(dashes(plots[0]) > 0, "the switch is marked");
    let still: Vec<Shown> = shown.iter().map(|s| Shown { stream: 0, ..*s }).collect();
    let page = made("clip.mp4", &sent, &still);
    let document = parsed(&page);
    let plot = document
        .descendants()
        .find(|node| node.tag_name().name() == "svg")
        .unwrap();
    assert_eq!(dashes(plot), 0, "no switch, no mark");
}

#[test]
fn figures_and_problems_are_in_the_page_and_escaped() {
    let (sent, shown) = logs();
    let page = made("<clip>&\u{7}.mp4", &sent, &shown);
    let document = parsed(&page);
    let text: String = document
        .descendants()
        .filter_map(|node| node.text())
        .collect::<Vec<_>>()
        .join(" ");
    for wanted in [
        "<clip>& .mp4",
        "<broken> & \"bad\"",
        "300 sent, 300 shown",
        "2000 kbit/s, 20 ms each way",
        "x264enc, avdec_h264",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
}

#[test]
fn nothing_is_loaded_from_outside() {
    let (sent, shown) = logs();
    let page = made("clip.mp4", &sent, &shown);
    let document = parsed(&page);
    for node in document.descendants() {
        assert!(!["script", "link", "img", "iframe"].contains(&node.tag_name().name()));
        for name in ["src", "href"] {
            assert_eq!(node.attribute(name), None);
        }
    }
    assert!(!page.contains("url(") && !page.contains("@import"));
}

#[test]
fn a_run_without_a_single_picture_has_a_page_too() {
    parsed(&made("clip.mp4", &[], &[]));
}

/// With that in the legend.
fn freezes_in(svg: &str) -> usize {
    let RGBColor(r, g, b) = plots::FREEZE;
    svg.matches(&format!("#{r:02X}{g:02X}{b:02X}")).count()
}

#[test]
fn a_link_that_changes_has_a_plot_of_its_rates() {
    let (sent, shown) = logs();
    let rates: Vec<Rate> = (0..60)
        .map(|n| Rate {
            // The link was there before the first picture.
            at: shown[0].shown - 500 * MS + n * 100 * MS,
            estimate: Some(900_000 + n * 10_000),
            encoder: 900_000,
            sent_bytes: n * 12_000,
            ..Rate::default()
        })
        .collect();
    let steps = [1000, 3000].map(|kbps| Step { kbps, ms: 2000 });
    let time = Time::of(&coded(&sent), &shown, 30.0);
    let svg = plots::rates(&time, &steps, &rates, &shown).unwrap();
    for text in ["capacity", "estimate", "Mbit/s", "latency of each picture"] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(!svg.contains("NaN"));
    assert!(!svg.contains("logarithmic"));
    assert_eq!(freezes_in(&svg), 1, "only in the legend");
    // A second and a half without a picture, as an outage makes it.
    let wait = |n: u64| {
        if n < 90 {
            0
        } else {
            1500u64.saturating_sub((n - 90) * 33)
        }
    };
    let late: Vec<Shown> = (0u64..)
        .zip(&shown)
        .map(|(n, s)| Shown {
            shown: s.shown + wait(n) * MS,
            ..*s
        })
        .collect();
    let time = Time::of(&coded(&sent), &late, 30.0);
    let svg = plots::rates(&time, &steps, &rates, &late).unwrap();
    assert!(svg.contains("logarithmic"));
    assert_eq!(freezes_in(&svg), 2);
    assert!(!svg.contains("NaN"));
    // Nothing was sent yet.
    plots::rates(&time, &steps, &[], &[]).unwrap();

    let mut summary = summarise(&sent, &shown, setting("clip"), &[], &[]);
    summary.rates = rates::figures(&steps, &rates, &shown);
    let page = page(&summary, &coded(&sent), &shown, Some(&svg)).unwrap();
    assert!(page.contains("How it followed the link"));
    parsed(&page);
}
