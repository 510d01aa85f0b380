// SPDX-License-Identifier: MPL-2.0
//! What the two processes say to the one that started them: JSON lines on
//! stdout. A closed stdin tells them to end, so that none outlives it.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, channel};

use serde::{Deserialize, Serialize};

/// Times are those of the monotonic clock, in ns, which both processes share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "kebab-case")]
pub enum Said {
    /// The receiver listens.
    Ready,
    /// The sender runs; the id is that of its namespaces.
    Hello {
        rattan_id: Option<String>,
    },
    /// How many pictures there were so far, now and then.
    Progress {
        pictures: u64,
    },
    Sent(Sent),
    Key {
        at: u64,
    },
    Received(Received),
    /// The receiver's, over the time that is measured.
    Counts(Counts),
    /// Of `soak`: how a process is, now and then.
    Report {
        value: serde_json::Value,
    },
    /// The last thing a process says.
    End,
    Error {
        message: String,
    },
}

/// A picture that went into the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub rtp_timestamp: u32,
    pub captured: u64,
    /// Of the picture as coded.
    pub blocks: String,
}

/// What is known of a frame at the receiver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    pub rtp_timestamp: u32,
    /// Its last packet so far, at the jitter buffer.
    #[serde(skip)]
    pub latest: Option<u64>,
    /// As `latest` was when a packet of the frame last left.
    pub arrived: Option<u64>,
    /// Its last packet left the jitter buffer.
    pub left: Option<u64>,
    pub decoded: Option<u64>,
    pub shown: Option<u64>,
    pub blocks: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// At the jitter buffer's sink.
    pub packets: u64,
    pub cpu_us: f64,
    /// Of the element's `stats`, where it has them.
    pub num_lost: Option<u64>,
    pub num_late: Option<u64>,
    pub rtx_count: Option<u64>,
    pub rtx_success_count: Option<u64>,
    /// Pictures at the sink whose time stamp is none that left the jitter
    /// buffer.
    pub unidentified: u64,
}

pub fn say(said: &Said) {
    if let Ok(mut line) = serde_json::to_vec(said) {
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        // Nobody listens any more; stdin says so too.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

/// Something comes when stdin is closed.
pub fn end_of_stdin() -> Receiver<()> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
        }
        let _ = sender.send(());
    });
    receiver
}
