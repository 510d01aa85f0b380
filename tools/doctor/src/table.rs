// SPDX-License-Identifier: MPL-2.0
//! The report for people, in at most 100 columns.

use std::fmt::Write;

use crate::percentile::Spread;
use crate::report::{Call, Encoder, Report, Run};
use crate::stream::ForWebRtc;

const WIDTH: usize = 100;

pub fn print(report: &Report) -> String {
    let mut out = String::new();
    let gstreamer = report
        .gstreamer
        .as_deref()
        .unwrap_or("GStreamer does not start");
    let _ = writeln!(out, "dualstream-doctor {}, {gstreamer}", report.version);
    encoders(&mut out, report);
    decoders(&mut out, report);
    parts(&mut out, report);
    if let Some(call) = &report.call {
        self::call(&mut out, call);
    }
    plugins(&mut out, report);
    problems(&mut out, report);
    let verdict = if report.healthy {
        "all that a call needs works"
    } else {
        "something that a call needs is missing or broken"
    };
    let _ = writeln!(out, "\n{verdict}");
    // Columns are padded, the last one too.
    let lines = out.lines().map(str::trim_end);
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn pair(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".into(),
        |s| format!("{:.1} {:.1}", s.p50_ms, s.p99_ms),
    )
}

fn at<T>(runs: &[Run<T>], height: u32) -> Option<&Run<T>> {
    runs.iter().find(|run| run.height == height)
}

/// Which sizes keep up with 30 frames per second.
fn holds<T>(runs: &[Run<T>]) -> &'static str {
    let holds = |height| at(runs, height).is_some_and(|run| run.holds_33_ms);
    match (holds(720), holds(1080)) {
        (true, true) => "both",
        (true, false) => "720p",
        (false, true) => "1080p",
        (false, false) => "none",
    }
}

fn encoders(out: &mut String, report: &Report) {
    if report.encoders.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<20} {:<8} {:<11} {:<11} {:<6} {:<3} {:<7} {:<8} {:<8} {:<7}",
        "encoder", "state", "720p ms", "1080p ms", "holds", "B", "profile", "WebRTC", "rate", "key"
    );
    let _ = writeln!(
        out,
        "{:<20} {:<8} {:<11} {:<11} {:<6} {:<3} {:<7} {:<8} {:<8} {:<7}",
        "", "", "p50 p99", "p50 p99", "33 ms", "", "", "", "change", "request"
    );
    for encoder in &report.encoders {
        encoder_line(out, encoder);
    }
    if !report.encoders_not_here.is_empty() {
        let known = format!("not here: {}", report.encoders_not_here.join(", "));
        wrap(out, &known, "  ", "    ");
    }
    let note = "Fed at 30 frames per second, set up as dualh264enc does; * tried as it comes, \
                dualh264enc does not drive it. profile as in the stream of 720p.";
    wrap(out, note, "  ", "  ");
}

fn encoder_line(out: &mut String, encoder: &Encoder) {
    let time = |height| {
        let run = at(&encoder.runs, height);
        pair(
            run.and_then(|run| run.outcome.as_ref())
                .map(|o| o.frame_time),
        )
    };
    let outcome = encoder.outcome();
    let b_frames = outcome.map_or("-", |o| if o.b_frames > 0 { "yes" } else { "no" });
    let profile = outcome.and_then(|o| o.profile_level);
    let webrtc = encoder.for_webrtc().map_or("-", |verdict| match verdict {
        ForWebRtc::Yes => "yes",
        ForWebRtc::AboveLevel => "level",
        ForWebRtc::OtherProfile => "profile",
    });
    let controls = outcome.and_then(|o| o.controls.as_ref());
    let change = controls.map_or_else(
        || "-".into(),
        |c| match c.key_frames_by_rate_change {
            0 => "no key".into(),
            keys => format!("{keys}/{} keys", c.rate_changes),
        },
    );
    let key = controls.map_or_else(
        || "-".into(),
        |c| match c.key_frame_after {
            Some(1) => "next".into(),
            Some(n) => format!("after {n}"),
            None => "never".into(),
        },
    );
    let star = if encoder.driven { "" } else { "*" };
    let _ = writeln!(
        out,
        "{:<20} {:<8} {:<11} {:<11} {:<6} {:<3} {:<7} {:<8} {:<8} {:<7}",
        format!("{}{star}", encoder.factory.factory),
        encoder.state.text(),
        time(720),
        time(1080),
        holds(&encoder.runs),
        b_frames,
        profile.map_or_else(|| "-".into(), |p| p.to_string()),
        webrtc,
        change,
        key
    );
}

fn decoders(out: &mut String, report: &Report) {
    if report.decoders.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<20} {:<8} {:<11} {:<11} {:<6} pictures right",
        "decoder", "state", "720p ms", "1080p ms", "holds"
    );
    for decoder in &report.decoders {
        let time = |height| {
            let run = at(&decoder.runs, height);
            pair(
                run.and_then(|run| run.outcome.as_ref())
                    .map(|o| o.frame_time),
            )
        };
        let right = decoder.runs.iter().find_map(|run| {
            let outcome = run.outcome.as_ref()?;
            Some(match outcome.pictures_right {
                Some(right) => format!("{right} of {}", outcome.frames_in),
                None => "cannot be seen".into(),
            })
        });
        let _ = writeln!(
            out,
            "{:<20} {:<8} {:<11} {:<11} {:<6} {}",
            decoder.factory.factory,
            decoder.state.text(),
            time(720),
            time(1080),
            holds(&decoder.runs),
            right.unwrap_or_else(|| "-".into())
        );
    }
    let by = report.decoders.iter().find_map(|d| d.stream_of.as_deref());
    let note = by.map_or_else(
        || "Not tested: no encoder works that could make a stream.".into(),
        |by| format!("The stream is that of {by} above."),
    );
    wrap(out, &note, "  ", "  ");
}

fn parts(out: &mut String, report: &Report) {
    if report.parts.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<20} {:<8} {:<8} what was tried",
        "part", "state", "version"
    );
    for part in &report.parts {
        let begin = format!(
            "{:<20} {:<8} {:<8} ",
            part.name,
            part.state.text(),
            part.version.as_deref().unwrap_or("-")
        );
        wrap(out, &part.detail, &begin, &" ".repeat(38));
    }
}

fn call(out: &mut String, call: &Call) {
    let Some(o) = &call.outcome else {
        let _ = writeln!(out, "\ncall over loopback   {}", call.state.text());
        return;
    };
    let about = format!(
        "call over loopback   {:<8} {}x{} at 30, {} kbit/s, {} -> {}, {} of {} pictures shown",
        call.state.text(),
        o.width,
        o.height,
        o.bitrate_bps / 1000,
        o.encoder,
        o.decoder,
        o.pictures_shown,
        o.pictures_captured
    );
    let _ = writeln!(out, "\n{about}");
    let _ = writeln!(
        out,
        "{:<20} {:>7} {:>7} {:>7}   ms",
        "", "p50", "p95", "p99"
    );
    let mut line = |name: &str, s: Spread, what: &str| {
        let row = format!(
            "{name:<20} {:>7.1} {:>7.1} {:>7.1}   {what}",
            s.p50_ms, s.p95_ms, s.p99_ms
        );
        let _ = writeln!(out, "{}", row.trim_end());
    };
    for part in &o.parts {
        line(&part.name, part.time, &part.what);
    }
    line(
        "total",
        o.total,
        "drawn to shown, by the bar code in the picture",
    );
    line(
        "total, sync=false",
        o.total_at_once,
        "the same to decoded: a sink that does not wait",
    );
    if let Some(told) = o.told.get("total") {
        let row = format!(
            "{:<20} {:>7.1} {:>7.1} {:>7}   in the stats of dualwebrtcsrc",
            "total as told", told.p50_ms, told.p95_ms, "-"
        );
        let _ = writeln!(out, "{row}");
    }
    if let Some(latency) = o.pipeline_latency_ms {
        let note = format!(
            "At the end the sink waited for {latency:.0} ms after the time stamp: {:.0} ms of the \
             jitter buffer and {:.0} ms of its own (processing-deadline). The delay of a display \
             is not in it.",
            latency - o.sink_deadline_ms,
            o.sink_deadline_ms
        );
        wrap(out, &note, "  ", "  ");
    }
}

fn plugins(out: &mut String, report: &Report) {
    if report.plugins.is_empty() {
        return;
    }
    let _ = writeln!(out);
    for (title, own) in [("plugins", false), ("of this project", true)] {
        let list: Vec<String> = report
            .plugins
            .iter()
            .filter(|plugin| plugin.own == own)
            .map(|plugin| {
                let version = plugin.version.as_deref().unwrap_or("built in");
                format!("{} {version}", plugin.name)
            })
            .collect();
        wrap(
            out,
            &list.join(", "),
            &format!("{title:<20} "),
            &" ".repeat(21),
        );
    }
}

fn problems(out: &mut String, report: &Report) {
    if report.problems.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nto mend");
    for problem in &report.problems {
        let optional = if problem.needed {
            ""
        } else {
            " (a call can do without)"
        };
        let text = format!("{}: {}{optional}", problem.what, problem.why);
        wrap(out, &text, "- ", "  ");
        for command in &problem.commands {
            // Not wrapped: it is to be pasted.
            let _ = writeln!(out, "      {command}");
        }
    }
}

/// Breaks lines at spaces; a longer word stays whole.
fn wrap(out: &mut String, text: &str, first: &str, others: &str) {
    let mut line = first.to_owned();
    let mut words = 0;
    for word in text.split_whitespace() {
        let next = line.chars().count() + usize::from(words > 0) + word.chars().count();
        if words > 0 && next > WIDTH {
            let _ = writeln!(out, "{line}");
            line = others.to_owned();
            words = 0;
        }
        if words > 0 {
            line.push(' ');
        }
        line.push_str(word);
        words += 1;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_at_spaces() {
        let mut out = String::new();
        wrap(&mut out, &"word ".repeat(40), "- ", "  ");
        let lines: Vec<&str> = out.lines().collect();
        assert!(
            lines.len() > 1 && lines.iter().all(|l| l.len() <= WIDTH),
            "{out}"
        );
        assert!(lines[0].starts_with("- word") && lines[1].starts_with("  word"));
        assert_eq!(out.matches("word").count(), 40, "no word is lost");
    }

    #[test]
    fn a_word_that_is_too_long_stays_whole() {
        let mut out = String::new();
        let path = "/".repeat(150);
        wrap(&mut out, &format!("in {path} now"), "- ", "  ");
        assert_eq!(out, format!("- in\n  {path}\n  now\n"));
    }
}
