// SPDX-License-Identifier: MPL-2.0
//! Against libwebrtc's own figures on the same frames.

use std::path::PathBuf;
use std::time::Duration;

use dualstream_common::{DataSize, Timestamp};
use jitterbuffer_core::{Frame, WebrtcModel};

/// Until here the models start.
const START: usize = 60;

struct Row {
    frame: Frame,
    now: Timestamp,
    rtt: Option<Duration>,
    estimate_ms: f64,
    expected: Option<Timestamp>,
}

/// `None` where the shared files are not there.
fn read(name: &str) -> Option<Vec<Row>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../../shared/reference")
        .join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        use std::io::Write;
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {} is not there",
            path.display()
        );
        return None;
    };
    let rows = text.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let micros = |n: usize| Timestamp::from_nanos(cells[n].parse::<u64>().unwrap() * 1000);
        Row {
            frame: Frame {
                rtp_timestamp: cells[1].parse().unwrap(),
                arrival: micros(2),
                size: DataSize::from_bytes(cells[4].parse().unwrap()),
                retransmitted: cells[5] == "1",
            },
            now: micros(3),
            rtt: cells[6].parse().ok().map(Duration::from_millis),
            estimate_ms: cells[8].parse().unwrap(),
            expected: cells[9]
                .parse::<u64>()
                .ok()
                .map(|us| Timestamp::from_nanos(us * 1000)),
        }
    });
    Some(rows.collect())
}

#[test]
fn the_webrtc_model_is_within_a_millisecond_of_libwebrtc() {
    for name in ["jitter_1", "jitter_2", "jitter_3", "jitter_6"] {
        let Some(rows) = read(&format!("{name}.csv")) else {
            return;
        };
        assert_eq!(rows.len(), 2000, "{name}");
        let mut model = WebrtcModel::new();
        let squares: Vec<f64> = rows
            .iter()
            .map(|row| {
                if let Some(rtt) = row.rtt {
                    model.set_rtt(rtt);
                }
                let ms = model.frame(row.now, &row.frame).as_secs_f64() * 1000.0;
                (ms - row.estimate_ms).powi(2)
            })
            .collect();
        let late = &squares[START..];
        let rms = (late.iter().sum::<f64>() / late.len() as f64).sqrt();
        let start = squares[..START].iter().copied().fold(0.0, f64::max).sqrt();
        assert!(rms <= 0.05, "{name}: {rms} ms, at the start {start} ms");
        assert!(start <= 0.5, "{name}: {start} ms at the start");
    }
}

#[test]
fn arrivals_are_expected_when_libwebrtc_expects_them() {
    for name in ["jitter_1", "jitter_2", "jitter_3", "jitter_6"] {
        let Some(rows) = read(&format!("{name}.csv")) else {
            return;
        };
        let mut model = WebrtcModel::new();
        let mut worst = Duration::ZERO;
        for (n, row) in rows.iter().enumerate() {
            let expected = model.expected(row.frame.rtp_timestamp);
            assert_eq!(expected.is_some(), row.expected.is_some(), "{name}");
            if let (Some(ours), Some(theirs)) = (expected, row.expected)
                && n > 1
            {
                worst = worst.max(ours.distance(theirs).abs());
            }
            model.frame(row.now, &row.frame);
        }
        // It is rounded to the ms.
        assert!(worst <= Duration::from_millis(1), "{name}: {worst:?}");
    }
}
