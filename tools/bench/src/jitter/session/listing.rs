// SPDX-License-Identifier: MPL-2.0
//! A line for each picture, to see where its time went.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::blocks::broken;
use super::figures::{Log, millis};
use super::said::Received;

pub const HEADER: &str =
    "buffer\tpicture\tcaptured_ms\tarrived_ms\tleft_ms\tdecoded_ms\tshown_ms\tbroken\n";

/// Captures from the first one on, the rest from the picture's capture on; tab
/// separated, with nothing where nothing happened.
pub fn lines(buffer: &str, log: &Log) -> String {
    let received: HashMap<u32, &Received> = log
        .received
        .iter()
        .map(|frame| (frame.rtp_timestamp, frame))
        .collect();
    let origin = log.sent.first().map_or(0, |sent| sent.captured);
    let nothing = Received::default();
    let mut text = String::new();
    for (n, sent) in log.sent.iter().enumerate() {
        let frame = received.get(&sent.rtp_timestamp).copied();
        let frame = frame.unwrap_or(&nothing);
        let since = |time: Option<u64>| {
            time.map_or(String::new(), |time| {
                format!("{:.3}", millis(sent.captured, time))
            })
        };
        let damaged = frame
            .shown
            .map(|_| u8::from(broken(&sent.blocks, &frame.blocks)));
        let _ = writeln!(
            text,
            "{buffer}\t{n}\t{:.3}\t{}\t{}\t{}\t{}\t{}",
            millis(origin, sent.captured),
            since(frame.arrived.or(frame.latest)),
            since(frame.left),
            since(frame.decoded),
            since(frame.shown),
            damaged.map_or(String::new(), |damaged| damaged.to_string()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::said::Sent;
    use super::*;

    #[test]
    fn a_line_tells_when_a_picture_was_where() {
        let sent = |rtp_timestamp, captured| Sent {
            rtp_timestamp,
            captured,
            blocks: "80".into(),
        };
        let log = Log {
            sent: vec![sent(0, 1_000_000), sent(3000, 34_000_000)],
            received: vec![Received {
                rtp_timestamp: 3000,
                latest: None,
                arrived: Some(74_000_000),
                left: Some(74_500_000),
                decoded: Some(76_000_000),
                shown: Some(84_000_000),
                blocks: "81".into(),
            }],
            ..Log::default()
        };
        assert_eq!(
            lines("x", &log),
            "x\t0\t0.000\t\t\t\t\t\nx\t1\t33.000\t40.000\t40.500\t42.000\t50.000\t0\n"
        );
    }
}
