// SPDX-License-Identifier: MPL-2.0
//! All receivers.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};
use gst::prelude::*;

use super::*;
use crate::jitter::session::pipeline::aux;

/// Without a packet for this long the senders are gone.
const PATIENCE: Duration = Duration::from_secs(20);
const SLICE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Stream {
    /// Sequence number after the last one, unwrapped.
    next: Option<u64>,
}

/// Of all streams, since the last reset.
#[derive(Debug, Default)]
struct Seen {
    packets: u64,
    lost: u64,
    frames: u64,
    /// One for each frame.
    delays_ms: Vec<f64>,
    streams: Vec<Stream>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    /// A panic elsewhere leaves plain numbers behind.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(|err| err.into_inner())
    }
}

impl Seen {
    fn reset(&mut self) {
        (self.packets, self.lost, self.frames) = (0, 0, 0);
        self.delays_ms.clear();
    }

    fn packet(&mut self, index: usize, sequence: u16, timestamp: u32, marker: bool, now: u64) {
        self.packets += 1;
        let stream = &mut self.streams[index];
        if let Some(next) = stream.next {
            // Up to half the range ahead; they come in order here.
            let ahead = sequence.wrapping_sub(next as u16);
            if ahead < 0x8000 {
                self.lost += u64::from(ahead);
                stream.next = Some(next + u64::from(ahead) + 1);
            }
        } else {
            stream.next = Some(u64::from(sequence) + 1);
        }
        if marker {
            self.frames += 1;
            let here = (u128::from(now) * u128::from(CLOCK_RATE) / 1_000_000_000) as u32;
            let ticks = here.wrapping_sub(timestamp);
            self.delays_ms
                .push(f64::from(ticks) * 1000.0 / CLOCK_RATE as f64);
        }
    }
}

pub fn run(args: &EndArgs) -> Result<()> {
    let shared = Shared::default();
    shared
        .lock()
        .streams
        .resize_with(usize::from(args.count), Stream::default);
    let mut pipelines = Vec::new();
    for index in 0..args.count {
        let pipeline = build(args, index, &shared)?;
        play(&pipeline)?;
        pipelines.push(pipeline);
    }
    crate::print("ready\n")?;
    let begin = Instant::now();
    while shared.lock().packets == 0 {
        check(&pipelines)?;
        if begin.elapsed() > PATIENCE {
            bail!("nothing comes");
        }
        std::thread::sleep(SLICE);
    }
    wait(&pipelines, WARM_UP)?;
    shared.lock().reset();
    let meter = Meter::start()?;
    wait(&pipelines, args.length())?;
    let (usage, arrived) = {
        let seen = shared.lock();
        let sent = f64::from(args.count) * f64::from(FPS) * meter.since.elapsed().as_secs_f64();
        let arrived = Arrived {
            frames_share: seen.frames as f64 / sent,
            loss: seen.lost as f64 / (seen.packets + seen.lost).max(1) as f64,
            delay_ms_p50: percentile(&seen.delays_ms, 0.5),
            delay_ms_p99: percentile(&seen.delays_ms, 0.99),
        };
        (meter.end(seen.packets)?, arrived)
    };
    crate::print_json(&Said {
        usage,
        arrived: Some(arrived),
    })
}

fn wait(pipelines: &[Pipeline], time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check(pipelines)?;
        std::thread::sleep(SLICE.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

fn check(pipelines: &[Pipeline]) -> Result<()> {
    pipelines.iter().try_for_each(Pipeline::check)
}

fn build(args: &EndArgs, index: u16, shared: &Shared) -> Result<Pipeline> {
    let pipeline = Pipeline(gst::Pipeline::new());
    let rtp = udp_source(args.port(index), &media_caps())?;
    let loss = make("identity")?;
    loss.set_property("drop-probability", args.loss as f32);
    let rtcp = udp_source(args.port(index) + 1, &rtcp_caps())?;
    let back = udp_sink(args.port(index) + 2)?;
    let rtpbin = rtpbin(args.parts)?;
    let depay = make("rtph264depay")?;
    let sink = make("fakesink")?;
    sink.set_property("sync", false);
    sink.set_property("async", false);
    pipeline
        .0
        .add_many([&rtp, &loss, &rtcp, &back, &rtpbin, &depay, &sink])?;
    gst::Element::link_many([&rtp, &loss])?;
    gst::Element::link_many([&depay, &sink])?;
    loss.link_pads(Some("src"), &rtpbin, Some("recv_rtp_sink_0"))?;
    rtcp.link_pads(Some("src"), &rtpbin, Some("recv_rtcp_sink_0"))?;
    rtpbin.link_pads(Some("send_rtcp_src_0"), &back, Some("sink"))?;
    let input = depay.static_pad("sink").context("depay: no sink")?;
    watch(&input, usize::from(index), shared);
    let media = format!("_{MEDIA_PT}");
    rtpbin.connect_pad_added(move |_, pad| {
        let name = pad.name();
        if name.starts_with("recv_rtp_src_0_") && name.ends_with(&media) && !input.is_linked() {
            // A refusal ends in an error message of the pipeline.
            let _ = pad.link(&input);
        }
    });
    Ok(pipeline)
}

fn watch(pad: &gst::Pad, index: usize, shared: &Shared) {
    let shared = shared.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let mut head = [0; 8];
        if let Some(buffer) = info.buffer()
            && buffer.copy_to_slice(0, &mut head).is_ok()
        {
            let [_, kind, a, b, timestamp @ ..] = head;
            shared.lock().packet(
                index,
                u16::from_be_bytes([a, b]),
                u32::from_be_bytes(timestamp),
                kind & 0x80 != 0,
                now(),
            );
        }
        gst::PadProbeReturn::Ok
    });
}

fn rtpbin(parts: Parts) -> Result<gst::Element> {
    let rtpbin = make("rtpbin")?;
    rtpbin.set_property_from_str("rtp-profile", "avpf");
    rtpbin.set_property("latency", LATENCY_MS);
    rtpbin.connect("request-pt-map", false, |values| {
        let pt = values.get(2)?.get::<u32>().ok()?;
        Some((pt == MEDIA_PT).then(media_caps).to_value())
    });
    if parts == Parts::Ours {
        rtpbin.connect("request-aux-receiver", false, |_| {
            let decoder = make("rtpflexfecdec").ok()?;
            decoder.set_property("pt", FEC_PT);
            Some(aux(&decoder).to_value())
        });
        rtpbin.connect("request-jitterbuffer", false, |_| {
            Some(make("rtpkalmanjitterbuffer").ok()?.to_value())
        });
    }
    Ok(rtpbin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            streams: vec![Stream::default(), Stream::default()],
            ..Seen::default()
        }
    }

    #[test]
    fn gaps_are_losses_in_each_stream_by_itself_and_across_the_wrap() {
        let mut seen = seen();
        for sequence in [65_533, 65_534, 1, 2] {
            seen.packet(0, sequence, 0, false, 0);
        }
        seen.packet(1, 7, 0, false, 0);
        seen.packet(1, 8, 0, false, 0);
        // 65 535 and 0.
        assert_eq!((seen.packets, seen.lost), (6, 2));
    }

    #[test]
    fn a_frame_is_as_late_as_its_last_packet() {
        let mut seen = seen();
        // 90 ticks a ms; sent at 1 s, here 25 ms later.
        seen.packet(0, 1, 90_000, false, 1_001_000_000);
        seen.packet(0, 2, 90_000, true, 1_025_000_000);
        assert_eq!(seen.frames, 1);
        assert_eq!(seen.delays_ms, [25.0]);
        seen.reset();
        // The time stamp has wrapped since.
        seen.packet(0, 3, u32::MAX - 899, true, 0);
        assert_eq!(seen.delays_ms, [10.0]);
    }
}
