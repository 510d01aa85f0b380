// SPDX-License-Identifier: MPL-2.0
use super::*;

const MS: u64 = 1_000_000;

/// Shown 50 ms after capture at 25 fps, each once and in order.
fn smooth(count: u64) -> Vec<Shown> {
    (0..count)
        .map(|n| Shown {
            number: Some(n),
            stream: 0,
            generation: 0,
            captured: Some(1_000 * MS + n * 40 * MS),
            shown: 1_050 * MS + n * 40 * MS,
            psnr_db: Some(40.0),
        })
        .collect()
}

fn sent(count: u64) -> Vec<Sent> {
    (0..count)
        .flat_map(|n| {
            let at = 1_000 * MS + n * 40 * MS;
            [
                Sent::Picture {
                    number: n,
                    pts: n * 40 * MS,
                },
                Sent::Captured { number: n, at },
                Sent::Coded(Coded {
                    at: at + MS,
                    stream: 0,
                    number: n,
                    generation: 0,
                    background: false,
                    key: n == 0,
                    bytes: if n == 0 { 11_000 } else { 1_000 },
                }),
            ]
        })
        .collect()
}

fn setting() -> Setting {
    Setting {
        source: "test".into(),
        link: LinkInfo::Direct,
        width: 640,
        height: 360,
        fps: 25.0,
        bitrate_kbps: 1500,
        refresh_interval_ms: 2000,
        estimator: "rtpgcc".into(),
        encoder: "x264enc".into(),
        decoder: "avdec_h264".into(),
    }
}

#[test]
fn percentiles_are_nearest_rank() {
    let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
    assert_eq!(percentile(&hundred, 0.50), Some(50.0));
    assert_eq!(percentile(&hundred, 0.97), Some(97.0));
    assert_eq!(percentile(&hundred, 1.0), Some(100.0));
    assert_eq!(percentile(&hundred, 0.0), Some(1.0));
    assert_eq!(percentile(&[7.0], 0.97), Some(7.0));
    assert_eq!(percentile(&[], 0.5), None);
    // 97 % of 10 is 9.7, so the tenth.
    assert_eq!(percentile(&hundred[..10], 0.97), Some(10.0));
}

#[test]
fn latency_is_from_capture_to_shown() {
    let mut shown = smooth(100);
    shown[10].shown += 30 * MS; // 80 ms
    shown[11].captured = None; // not counted
    let latency = latency(&shown).unwrap();
    assert_eq!(latency.p50, 50.0);
    assert_eq!(latency.p97, 50.0, "one frame of 99 is above it");
    assert_eq!(latency.max, 80.0);
    // (98 * 50 + 80) / 99
    assert_eq!(latency.mean, 50.3);
    assert_eq!(super::latency(&[]), None);
}

#[test]
fn duplicates_reordering_and_missing_pictures_are_told_apart() {
    let base = smooth(6);
    let numbers = [Some(0), Some(1), Some(1), Some(4), Some(3), None];
    let shown: Vec<Shown> = numbers
        .iter()
        .zip(&base)
        .map(|(&number, s)| Shown { number, ..*s })
        .collect();
    let order = order(&shown);
    assert_eq!(
        order,
        Order {
            distinct: 4,
            duplicates: 1,
            reordered: 1,
            untagged: 1
        }
    );
    let summary = summarise(&sent(6), &shown, setting(), &[], &[]);
    // 0, 1, 3, 4 of 0 to 5.
    assert_eq!(summary.missing_shown, 2);
    assert_eq!(summary.problems.len(), 4, "{:?}", summary.problems);
}

#[test]
fn a_gap_is_a_freeze_only_beyond_100_ms_more_than_the_capture_gap() {
    let mut shown = smooth(10);
    assert_eq!(
        gaps(&shown, 40.0),
        Gaps {
            freezes: 0,
            frozen_ms: 0.0,
            longest_ms: 40.0
        }
    );
    shown[5].shown += 100 * MS;
    for s in &mut shown[6..] {
        s.shown += 100 * MS;
    }
    assert_eq!(
        gaps(&shown, 40.0),
        Gaps {
            freezes: 0,
            frozen_ms: 0.0,
            longest_ms: 140.0
        },
        "exactly 100 ms more is not above 100 ms"
    );
    for s in &mut shown[5..] {
        s.shown += MS;
    }
    assert_eq!(gaps(&shown, 40.0).freezes, 1);
    assert_eq!(gaps(&shown, 40.0).frozen_ms, 141.0);

    // Pictures were captured in the gap, and are missing.
    let mut missing = smooth(10);
    missing.drain(3..6);
    assert_eq!(gaps(&missing, 40.0).freezes, 1);
    assert_eq!(gaps(&missing, 40.0).frozen_ms, 160.0);

    // The camera itself paused: no freeze.
    let mut paused = smooth(10);
    for s in &mut paused[5..] {
        s.shown += 500 * MS;
        s.captured = s.captured.map(|c| c + 500 * MS);
    }
    assert_eq!(
        gaps(&paused, 40.0),
        Gaps {
            freezes: 0,
            frozen_ms: 0.0,
            longest_ms: 540.0
        }
    );

    // Without capture times the nominal interval stands in.
    for s in &mut paused {
        s.captured = None;
    }
    assert_eq!(gaps(&paused, 40.0).freezes, 1);
}

#[test]
fn a_switch_is_a_change_of_stream_in_what_was_shown() {
    let mut shown = smooth(9);
    for s in &mut shown[3..6] {
        s.stream = 1;
    }
    assert_eq!(switches(&shown), [3, 6]);
    assert!(switches(&smooth(9)).is_empty());
    assert!(switches(&[]).is_empty());
}

#[test]
fn sizes_are_added_up_per_stream_and_role() {
    let frame = |stream, background, key, bytes| Coded {
        at: 0,
        stream,
        number: 0,
        generation: 0,
        background,
        key,
        bytes,
    };
    let [zero, one] = streams(&[
        frame(0, false, true, 9000),
        frame(0, false, false, 1000),
        frame(1, true, true, 5000),
        frame(1, true, false, 700),
        frame(7, true, true, 1),
    ]);
    assert_eq!(
        zero,
        StreamFigures {
            display_frames: 2,
            key_frames_display: 1,
            display_bytes: 10_000,
            largest_display_bytes: 9000,
            ..Default::default()
        }
    );
    assert_eq!(
        one,
        StreamFigures {
            background_frames: 2,
            key_frames_background: 1,
            background_bytes: 5700,
            largest_background_bytes: 5000,
            ..Default::default()
        }
    );
}

#[test]
fn a_clean_run_has_no_problems_and_the_right_rate() {
    let mut shown = smooth(150);
    for s in &mut shown[70..] {
        s.stream = 1;
    }
    let summary = summarise(&sent(150), &shown, setting(), &[], &[]);
    assert!(summary.problems.is_empty(), "{:?}", summary.problems);
    assert_eq!(summary.frames_in, 150);
    assert_eq!(summary.frames_shown, 150);
    assert_eq!(summary.switches, 1);
    assert_eq!(summary.seconds, 6.0);
    // 160 000 bytes in 6 s = 213.3 kbit/s.
    assert_eq!(summary.rate_kbps, 213.3);
    assert_eq!(summary.psnr_db_mean, Some(40.0));
    assert_eq!(summary.latency_ms.unwrap().p97, 50.0);
    let json = serde_json::to_value(&summary).unwrap();
    for field in [
        "frames_in",
        "frames_shown",
        "duplicates_shown",
        "reordered_shown",
        "switches",
        "freezes_over_100ms",
        "psnr_db_mean",
        "link",
        "missing_shown",
        "longest_gap_ms",
        "key_frames_display",
        "largest_frame_bytes",
        "rate_kbps",
        "fps",
        "seconds",
    ] {
        assert!(!json[field].is_null(), "{field} is in summary.json");
    }
    for field in ["mean", "p50", "p97", "max"] {
        assert!(json["latency_ms"][field].is_number(), "latency_ms.{field}");
    }
    assert_eq!(json["link"]["kind"], "direct");
}

#[test]
fn a_long_clip_without_a_switch_is_a_problem_and_a_short_one_is_not() {
    let summary = summarise(&sent(150), &smooth(150), setting(), &[], &[]);
    assert_eq!(summary.problems.len(), 1);
    assert!(summary.problems[0].contains("no switch"));
    let summary = summarise(&sent(50), &smooth(50), setting(), &[], &[]);
    assert!(summary.problems.is_empty(), "{:?}", summary.problems);
    let never = Setting {
        refresh_interval_ms: 0,
        ..setting()
    };
    assert!(
        summarise(&sent(150), &smooth(150), never, &[], &[])
            .problems
            .is_empty()
    );
}

#[test]
fn nothing_sent_and_reported_errors_are_problems() {
    let summary = summarise(&[], &[], setting(), &["sender: broke".into()], &[]);
    assert_eq!(summary.problems[0], "sender: broke");
    assert!(summary.problems.iter().any(|p| p == "no picture was sent"));
    assert_eq!(summary.latency_ms, None);
    assert_eq!(summary.psnr_db_mean, None);
}

#[test]
fn a_slow_sender_is_told_by_how_late_it_was() {
    let mut sent = sent(50);
    assert_eq!(
        summarise(&sent, &smooth(50), setting(), &[], &[]).sender_late_ms,
        0.0
    );
    for line in &mut sent {
        if let Sent::Captured { number: 20, at } = line {
            *at += 35 * MS;
        }
    }
    assert_eq!(
        summarise(&sent, &smooth(50), setting(), &[], &[]).sender_late_ms,
        35.0
    );
}

#[test]
fn what_is_missing_in_an_outage_is_no_problem() {
    let sent = sent(50);
    let captured = |n: u64| {
        sent.iter()
            .find_map(|line| match line {
                Sent::Captured { number, at } if *number == n => Some(*at),
                _ => None,
            })
            .unwrap()
    };
    let mut shown = smooth(50);
    shown.drain(10..20);
    let outage = [(captured(8), captured(20))];
    let summary = summarise(&sent, &shown, setting(), &[], &outage);
    assert_eq!(
        (summary.missing_shown, summary.missing_in_outages),
        (10, 10)
    );
    assert_eq!(summary.freezes_over_100ms, 1, "but it is seen");
    assert!(summary.praise().contains("but for 10 during outages"));
    let never = "never shown";
    let told = |s: &Summary| s.problems.iter().any(|p| p.contains(never));
    assert!(!told(&summary), "{:?}", summary.problems);
    shown.remove(0);
    let summary = summarise(&sent, &shown, setting(), &[], &outage);
    assert!(
        summary
            .problems
            .contains(&format!("1 pictures were sent and {never}"))
    );
}

#[test]
fn a_slow_machine_is_told_from_a_slow_link() {
    let quick = summarise(&sent(50), &smooth(50), setting(), &[], &[]);
    assert_eq!(quick.slow(), None, "{:?}", quick.coding_ms);
    let slowly: Vec<Sent> = sent(50)
        .into_iter()
        .map(|line| match line {
            Sent::Coded(coded) => Sent::Coded(Coded {
                at: coded.at + 300 * MS,
                ..coded
            }),
            other => other,
        })
        .collect();
    let slow = summarise(&slowly, &smooth(50), setting(), &[], &[]);
    let (quick, coding) = (quick.coding_ms.unwrap(), slow.coding_ms.unwrap());
    assert!((coding.mean - quick.mean - 300.0).abs() < 0.2, "{coding:?}");
    assert!(slow.slow().unwrap().starts_with("was too slow or busy"));
}
