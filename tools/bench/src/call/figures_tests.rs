// SPDX-License-Identifier: MPL-2.0
use super::*;

const MS: u64 = 1_000_000;
const START: u64 = 1_700_000_000_000 * MS;

/// 100 pictures, 40 ms apart, each shown 80 ms after its capture; one stands
/// for 400 ms, and the nine behind it are never shown.
fn material() -> Material {
    let mut receiver = Vec::new();
    for n in (0..100u64).filter(|n| !(60..69).contains(n)) {
        let captured = START + n * 40 * MS;
        receiver.push(Line::Shown(Shown {
            at: captured + 80 * MS,
            number: Some((65_500 + n) as u16),
            captured: Some(captured),
            psnr_db: Some(40.0),
            ssim: Some(0.9),
        }));
    }
    // Shown again on another track, and one that could not be read.
    receiver.push(receiver[10].clone());
    if let Line::Shown(shown) = &mut receiver[80] {
        (shown.number, shown.captured) = (None, None);
    }
    let mut sender = Vec::new();
    let mut sender_packets = Vec::new();
    let mut receiver_packets = Vec::new();
    for n in 0..400u64 {
        let sent = START + n * 10 * MS;
        let packet = |at, outgoing| Packet {
            at,
            bytes: 1250,
            outgoing,
            kind: Kind::Rtp,
            hash: n,
        };
        sender_packets.push(packet(sent, true));
        // Each 20th is lost; the others take the delay and 5 ms.
        if n % 20 != 7 {
            receiver_packets.push(packet(sent + 25 * MS, false));
        }
        sender.push(Line::Sample(Sample {
            at: sent,
            values: [
                (key::CPU.to_owned(), n as f64 * 0.002),
                (key::KEYS.to_owned(), (n / 100) as f64),
                (key::MEDIA_BYTES.to_owned(), n as f64 * 1000.0),
                (key::FEC_BYTES.to_owned(), n as f64 * 100.0),
            ]
            .into(),
        }));
    }
    sender.push(Line::Note {
        name: "encoder".into(),
        value: "x264enc".into(),
    });
    Material {
        asked: Asked {
            settle_s: 1.0,
            seconds: 2.5,
            ..Asked::default()
        },
        sender,
        receiver,
        sender_packets,
        receiver_packets,
        steps: vec![
            Step {
                kbps: 1000,
                ms: 500,
            },
            Step {
                kbps: 3000,
                ms: 500,
            },
        ],
        link_began: START,
        receiver_began: START - 500 * MS,
        delay_ms: 20.0,
    }
}

fn near(value: f64, wanted: f64, by: f64) {
    assert!((value - wanted).abs() <= by, "{value}, not {wanted}");
}

#[test]
fn figures_are_those_of_the_time_that_is_measured() {
    let run = run(&material()).expect("pictures");
    let figures = &run.figures;
    // Measured from 1.08 to 3.58 s: pictures 25 to 87 but for nine.
    near(
        figures.glass_to_glass_ms.expect("latencies").p97,
        80.0,
        0.01,
    );
    near(figures.fps, 54.0 / 2.5, 0.5);
    assert_eq!((figures.freezes, figures.freeze_ms_total), (1, 400.0));
    assert_eq!((figures.pictures_missing, figures.pictures_unread), (9, 0));
    assert_eq!(
        figures.psnr_db,
        Some(Quality {
            mean: 40.0,
            p1: 40.0
        })
    );
    // 1250 bytes each 10 ms.
    near(figures.bitrate_kbps, 1000.0, 5.0);
    near(figures.loss, 0.05, 0.005);
    near(figures.asked.link_kbps, 2000.0, 150.0);
    near(
        figures.utilisation,
        0.95 * 1000.0 / figures.asked.link_kbps,
        0.01,
    );
    near(figures.queue_ms, 5.0, 0.01);
    near(figures.rtt_ms, 25.0, 0.01);
    assert_eq!(figures.key_frames, Some(2));
    near(figures.fec_overhead.unwrap(), 0.1, 1e-9);
    near(figures.cpu_percent.sender.unwrap(), 20.0, 0.1);
    assert_eq!(figures.cpu_percent.receiver, None);
    near(figures.first_picture_ms, 580.0, 1.0);
    assert_eq!(figures.encoder.as_deref(), Some("x264enc"));
}

#[test]
fn series_reach_over_the_whole_run() {
    let series = run(&material()).expect("pictures").series;
    let (first, last) = (
        series.capacity_kbps[0],
        series.capacity_kbps.last().unwrap(),
    );
    near(first.0, -1.0, 0.01);
    near(last.0, 2.5, 0.01);
    near(series.sent_kbps[3].1, 1000.0, 30.0);
    near(series.queue_ms[10].1, 5.0, 0.01);
    assert!(series.glass_to_glass_ms[0].0 < -0.9);
}

#[test]
fn a_picture_that_stands_until_the_end_is_a_freeze() {
    let mut material = material();
    material.receiver.truncate(50);
    let figures = run(&material).expect("pictures").figures;
    // Number 49 is shown at 2.04 s; it stands until 3.58 s.
    assert_eq!(figures.freezes, 1);
    near(figures.freeze_ms_total, 1540.0, 1.0);
}

#[test]
fn broken_pictures_are_no_freeze_but_by_their_own_figure() {
    let mut material = material();
    // Ten in a row that nobody can read.
    for line in &mut material.receiver {
        if let Line::Shown(shown) = line
            && shown.number.is_some_and(|number| (4..14).contains(&number))
        {
            shown.number = None;
            shown.captured = None;
        }
    }
    let whole = run(&self::material()).expect("pictures").figures;
    let figures = run(&material).expect("pictures").figures;
    assert_eq!(whole.freezes, whole.freezes_readable);
    assert_eq!(whole.freeze_ms_total, whole.freeze_ms_readable);
    assert_eq!(figures.freezes, whole.freezes);
    assert_eq!(figures.freezes_readable, whole.freezes + 1);
    assert!(figures.freeze_ms_readable > whole.freeze_ms_total + 300.0);
}

#[test]
fn without_pictures_there_are_no_figures() {
    let mut material = material();
    material.receiver.clear();
    assert_eq!(run(&material), None);
}

#[test]
fn the_names_are_those_that_users_know() {
    let figures = run(&material()).expect("pictures").figures;
    let json = serde_json::to_value(figures).unwrap();
    for name in [
        "fps",
        "freezes",
        "freeze_ms_total",
        "freezes_readable",
        "freeze_ms_readable",
        "psnr_db",
        "ssim",
        "bitrate_kbps",
        "utilisation",
        "queue_ms",
        "rtt_ms",
        "loss",
        "key_frames",
        "switches",
        "fec_overhead",
        "fec_recovered",
        "cpu_percent",
    ] {
        assert!(json.get(name).is_some(), "{name}");
    }
    for name in ["mean", "p50", "p95", "p97", "p99"] {
        assert!(json["glass_to_glass_ms"][name].is_number(), "{name}");
    }
    assert!(json["psnr_db"]["p1"].is_number() && json["ssim"]["mean"].is_number());
}

#[test]
fn numbers_go_on_over_the_wrap() {
    let mut numbers = Numbers::default();
    assert_eq!(numbers.unwrap(20), 20);
    for n in 21..200_000u64 {
        assert_eq!(numbers.unwrap(n as u16), n);
    }
    assert_eq!(numbers.unwrap(199_990u64 as u16), 199_990, "late");
}
