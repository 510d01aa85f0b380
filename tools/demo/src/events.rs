// SPDX-License-Identifier: MPL-2.0
//! What the parent and its two children say to each other: JSON lines on the
//! children's stdout, words on their stdin. A closed stdin means stop, so that
//! no child outlives its parent, whatever happened to it.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The sender runs; under rattan with the id that its namespaces bear.
    Hello { rattan_id: Option<String> },
    /// The receiver listens.
    Ready,
    /// Several times a second while sending; `pictures` have reached the
    /// encoder.
    Sending { pictures: u64, kbps: f64 },
    /// Every picture went into the encoder.
    AllSent { pictures: u64, encoder: String },
    /// Each second while receiving.
    Showing(Showing),
    /// The receiver has written its files.
    Finished { decoder: String },
    /// The last thing a child says before it exits with a status above 0.
    Error { message: String },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Showing {
    pub pictures: u64,
    pub display_stream: u32,
    pub switches: u64,
    /// Over the pictures since the last such event.
    pub latency_ms_mean: Option<f64>,
    pub latency_ms_max: Option<f64>,
}

/// From a child to its parent. A parent that is gone is noticed on stdin.
pub fn say(event: &Event) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

/// From the parent to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// This many pictures were sent, and no more will come.
    End(u64),
    Stop,
}

/// Orders, from a thread that reads stdin.
pub struct Orders(Receiver<Order>);

impl Orders {
    pub fn listen() -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if let Some(order) = parse_order(&line)
                    && sender.send(order).is_err()
                {
                    return;
                }
            }
            let _ = sender.send(Order::Stop);
        });
        Self(receiver)
    }

    /// Waits at most `time`.
    pub fn wait(&self, time: Duration) -> Option<Order> {
        match self.0.recv_timeout(time) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Order::Stop),
        }
    }
}

fn parse_order(line: &str) -> Option<Order> {
    match line.split_once(' ') {
        Some(("end", count)) => count.trim().parse().ok().map(Order::End),
        _ => None,
    }
}

/// Nanoseconds since 1970.
pub fn wall_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_words_and_anything_else_is_ignored() {
        assert_eq!(parse_order("end 600"), Some(Order::End(600)));
        for noise in ["", "end", "end -1", "end many", "stop now"] {
            assert_eq!(parse_order(noise), None, "{noise:?}");
        }
    }

    #[test]
    fn events_survive_the_pipe() {
        for event in [
            Event::Hello {
                rattan_id: Some("a1B2c3".into()),
            },
            Event::Ready,
            Event::Showing(Showing {
                pictures: 30,
                display_stream: 1,
                switches: 2,
                latency_ms_mean: Some(50.5),
                latency_ms_max: None,
            }),
            Event::Error {
                message: "two\nlines".into(),
            },
        ] {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }
}
