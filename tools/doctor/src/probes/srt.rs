// SPDX-License-Identifier: MPL-2.0
//! SRT over loopback: numbered packets through a listener and a caller.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use serde::{Deserialize, Serialize};

use super::launch;

/// Seven packets of a transport stream, the payload SRT is made for.
const SIZE: usize = 7 * 188;
const PACKETS: usize = 50;
const LATENCY_MS: u32 = 20;
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub packets: usize,
    /// From the start of both sides to the first packet.
    pub connected_ms: f64,
}

pub fn run() -> Result<Outcome> {
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let receiver = launch(&format!(
        "srtsrc uri=srt://127.0.0.1:{port}?mode=listener latency={LATENCY_MS} \
         ! appsink name=out sync=false"
    ))?;
    let sender = launch(&format!(
        "appsrc name=in format=time is-live=true do-timestamp=true caps=video/mpegts,systemstream=true,packetsize=188 \
         ! srtsink uri=srt://127.0.0.1:{port}?mode=caller latency={LATENCY_MS} sync=false"
    ))?;
    let source: gst_app::AppSrc = sender.0.by_name("in").and_downcast().context("an appsrc")?;
    let sink: gst_app::AppSink = receiver
        .0
        .by_name("out")
        .and_downcast()
        .context("an appsink")?;
    let begin = Instant::now();
    receiver.play()?;
    sender.play()?;
    let mut connected = None;
    let (mut received, mut sent) = (Vec::new(), 0u8);
    while received.len() < PACKETS {
        sender.check()?;
        receiver.check()?;
        if begin.elapsed() > LIMIT {
            bail!(
                "{} of {sent} packets arrive in {} s",
                received.len(),
                LIMIT.as_secs()
            );
        }
        // What is sent before the connection may be lost; a few are enough.
        if sent < u8::MAX {
            source.push_buffer(gst::Buffer::from_mut_slice(vec![sent; SIZE]))?;
            sent += 1;
        }
        while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(5)) {
            connected.get_or_insert_with(|| begin.elapsed());
            let map = sample.buffer().and_then(|b| b.map_readable().ok());
            let map = map.context("a packet without data")?;
            for packet in map.chunks(SIZE) {
                if packet.len() != SIZE || packet.iter().any(|byte| *byte != packet[0]) {
                    bail!("a packet of {} bytes is not what was sent", packet.len());
                }
                received.push(packet[0]);
            }
        }
    }
    if received.windows(2).any(|pair| pair[1] != pair[0] + 1) {
        bail!("packets are missing or out of order");
    }
    Ok(Outcome {
        packets: received.len(),
        connected_ms: connected.map_or(0.0, |t| t.as_secs_f64() * 1e3),
    })
}
