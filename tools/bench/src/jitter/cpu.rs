// SPDX-License-Identifier: MPL-2.0
//! What a jitter buffer costs, in real time: CPU time of its streaming thread,
//! its own threads and timers together, for each packet.
//!
//! The element stands between two bare pads. A thread pushes a frame 30 times a
//! second, spread over the time to the next, as one that was paced arrives.
//! Where packets are lost they come later, as if repaired. What the rig costs
//! (pushing, sleeping, counting) is measured with `identity` in place of the
//! buffer and taken off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gst::prelude::*;
use serde::Serialize;

use super::Model;
use super::session::pipeline::{caps, make};
use super::session::{MEDIA_PT, PLAIN, SSRC};
use crate::pacer::cpu_time;

/// The elements take turns, so that what else the machine does hits all.
const ROUNDS: u32 = 5;
const KBPS: u64 = 50_000;
const FPS: u64 = 30;
/// Bytes of a packet with its RTP header.
const PACKET: usize = 1200;
const FRAME: u64 = KBPS * 1000 / 8 / FPS / PACKET as u64;
/// Packets that are pushed at once.
const BURST: u64 = 5;
const LOSSES: [f64; 2] = [0.0, 0.02];
/// After which a lost packet comes, in packets: some 60 ms.
const REPAIR: u64 = 2 * FRAME - FRAME / 5;
/// GST_RTP_BUFFER_FLAG_RETRANSMISSION.
const RETRANSMISSION: u32 = 1 << 20;
/// What is held may leave after the last packet.
const TAIL: Duration = Duration::from_millis(500);
/// Of the packets, must have come out: otherwise a buffer that drops them would
/// look cheap.
const LEAST_SHARE: f64 = 0.99;

/// The field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
struct Line {
    what: String,
    model: Option<Model>,
    loss: f64,
    kbps: u64,
    packets: u64,
    packets_out: u64,
    cpu_us_per_packet: f64,
    /// To rtpjitterbuffer's.
    ratio: f64,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    cpu: Duration,
    pushed: u64,
    out: u64,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.pushed += other.pushed;
        self.out += other.out;
    }

    fn us_per_packet(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.pushed.max(1) as f64
    }
}

/// `factories` beside rtpjitterbuffer, all with their defaults but for
/// retransmission, which is on.
pub fn run(factories: &[String], model: Model, seconds: f64, json: bool) -> Result<()> {
    let mut all = vec![PLAIN.to_owned()];
    for factory in factories {
        make(factory)?;
        if !all.contains(factory) {
            all.push(factory.clone());
        }
    }
    for loss in LOSSES {
        for line in measure(&all, model, seconds, loss)? {
            if json {
                crate::print_json(&line)?;
                continue;
            }
            crate::print(&format!(
                "{:<25} {:>4.1} % lost {:>8.2} us/packet {:>6.2} times rtpjitterbuffer's\n",
                line.what,
                line.loss * 100.0,
                line.cpu_us_per_packet,
                line.ratio
            ))?;
        }
    }
    Ok(())
}

fn measure(factories: &[String], model: Model, seconds: f64, loss: f64) -> Result<Vec<Line>> {
    let mut rig = Cost::default();
    let mut costs = vec![Cost::default(); factories.len()];
    for round in 0..ROUNDS {
        let length = Duration::from_secs_f64(seconds / f64::from(ROUNDS));
        let seed = u64::from(round);
        rig.add(one(&make("identity")?, length, loss, seed)?);
        for (factory, cost) in factories.iter().zip(&mut costs) {
            let buffer = make(factory)?;
            buffer.set_property("do-retransmission", true);
            if buffer.has_property("model") {
                buffer.set_property_from_str("model", model.nick());
            }
            cost.add(one(&buffer, length, loss, seed)?);
        }
    }
    let own = |cost: &Cost| cost.us_per_packet() - rig.us_per_packet();
    let plain = costs.first().map_or(f64::NAN, own);
    let lines = factories.iter().zip(&costs).map(|(factory, cost)| {
        ensure!(
            cost.out as f64 >= LEAST_SHARE * cost.pushed as f64,
            "{factory}: {} of {} packets came out",
            cost.out,
            cost.pushed
        );
        Ok(Line {
            what: factory.clone(),
            model: (factory != PLAIN).then_some(model),
            loss,
            kbps: KBPS,
            packets: cost.pushed,
            packets_out: cost.out,
            cpu_us_per_packet: own(cost),
            ratio: own(cost) / plain,
        })
    });
    lines.collect()
}

/// Goes to NULL when it is dropped; links do not own pads.
struct Rig {
    element: gst::Element,
    src: gst::Pad,
    sink: gst::Pad,
    base: gst::ClockTime,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.element.set_state(gst::State::Null);
        let _ = self.sink.set_active(false);
    }
}

impl Rig {
    fn new(element: &gst::Element, out: &Arc<AtomicU64>) -> Result<Self> {
        let (one, many) = (out.clone(), out.clone());
        let sink = gst::Pad::builder(gst::PadDirection::Sink)
            .name("sink")
            .chain_function(move |_, _, _| {
                one.fetch_add(1, Ordering::Relaxed);
                Ok(gst::FlowSuccess::Ok)
            })
            .chain_list_function(move |_, _, list| {
                many.fetch_add(list.len() as u64, Ordering::Relaxed);
                Ok(gst::FlowSuccess::Ok)
            })
            .event_function(|_, _, _| true)
            .query_function(|_, _, query| match query.view_mut() {
                gst::QueryViewMut::AcceptCaps(accept) => {
                    accept.set_result(true);
                    true
                }
                gst::QueryViewMut::Caps(caps) => {
                    caps.set_result(&gst::Caps::new_any());
                    true
                }
                _ => false,
            })
            .build();
        sink.set_active(true)?;
        let src = gst::Pad::builder(gst::PadDirection::Src)
            .name("src")
            .event_function(|_, _, _| true)
            .build();
        let pad = |name| element.static_pad(name).context("a pad");
        pad("src")?.link(&sink)?;
        src.link(&pad("sink")?)?;
        let clock = gst::SystemClock::obtain();
        let base = clock.time();
        element.set_clock(Some(&clock))?;
        element.set_base_time(base);
        let rig = Self {
            element: element.clone(),
            src,
            sink,
            base,
        };
        rig.element.set_state(gst::State::Playing)?;
        rig.src.set_active(true)?;
        rig.src.push_event(gst::event::StreamStart::new("cpu"));
        let caps = caps(MEDIA_PT.into()).context("caps of the video")?;
        rig.src.push_event(gst::event::Caps::new(&caps));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        rig.src.push_event(gst::event::Segment::new(&segment));
        Ok(rig)
    }

    fn push(&self, number: u64, repaired: bool) -> Result<()> {
        let now = gst::SystemClock::obtain().time().saturating_sub(self.base);
        self.src.push(packet(number, now, repaired)?)?;
        Ok(())
    }
}

fn one(element: &gst::Element, length: Duration, loss: f64, seed: u64) -> Result<Cost> {
    let out = Arc::new(AtomicU64::new(0));
    let rig = Rig::new(element, &out)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lost = std::collections::VecDeque::new();
    let mut pushed = 0;
    let count = (length.as_secs_f64() * (FRAME * FPS) as f64) as u64;
    let before = cpu_time()?;
    let start = Instant::now();
    for number in 0..count {
        if number % BURST == 0 {
            let due = Duration::from_secs(1).mul_f64(number as f64 / (FRAME * FPS) as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        while lost.front().is_some_and(|lost| lost + REPAIR <= number) {
            if let Some(lost) = lost.pop_front() {
                rig.push(lost, true)?;
                pushed += 1;
            }
        }
        // Not the first: before it there is no gap.
        if number > 0 && random.f64() < loss {
            lost.push_back(number);
        } else {
            rig.push(number, false)?;
            pushed += 1;
        }
    }
    std::thread::sleep(TAIL);
    let cpu = cpu_time()?.saturating_sub(before);
    drop(rig);
    Ok(Cost {
        cpu,
        pushed,
        out: out.load(Ordering::Relaxed),
    })
}

/// Of a frame of one NAL unit in FU-A fragments (RFC 6184, section 5.8), the
/// first of all an IDR.
fn packet(number: u64, now: gst::ClockTime, repaired: bool) -> Result<gst::Buffer> {
    let (frame, at) = (number / FRAME, number % FRAME);
    let (first, last) = (at == 0, at + 1 == FRAME);
    let mut buffer = gst::Buffer::with_size(PACKET)?;
    let inner = buffer.get_mut().context("ours alone")?;
    inner.set_pts(now);
    inner.set_dts(now);
    if repaired {
        inner.set_flags(gst::BufferFlags::from_bits_retain(RETRANSMISSION));
    }
    let mut head = [0u8; 14];
    head[0] = 0x80;
    head[1] = MEDIA_PT | if last { 0x80 } else { 0 };
    head[2..4].copy_from_slice(&(number as u16).to_be_bytes());
    head[4..8].copy_from_slice(&((frame * 90_000 / FPS) as u32).to_be_bytes());
    head[8..12].copy_from_slice(&SSRC.to_be_bytes());
    head[12] = 0x7c;
    head[13] = if frame == 0 { 5 } else { 1 };
    head[13] |= if first { 0x80 } else { 0 } | if last { 0x40 } else { 0 };
    inner
        .copy_from_slice(0, &head)
        .map_err(|_| anyhow::anyhow!("a short buffer"))?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_fragments_of_frames() {
        gst::init().unwrap();
        let head = |number| {
            let packet = packet(number, gst::ClockTime::ZERO, false).unwrap();
            let mut head = [0; 14];
            packet.copy_to_slice(0, &mut head).unwrap();
            head
        };
        assert_eq!(head(0)[12..], [0x7c, 0x85], "start of an IDR");
        assert_eq!(head(FRAME - 1)[12..], [0x7c, 0x45], "its end");
        assert_eq!(head(FRAME - 1)[1], 0x80 | MEDIA_PT);
        assert_eq!(head(FRAME)[12..], [0x7c, 0x81]);
        assert_eq!(head(FRAME)[4..8], 3000u32.to_be_bytes());
        assert_eq!(head(70_000)[2..4], (70_000u32 as u16).to_be_bytes());
    }

    #[test]
    fn all_packets_of_a_clean_run_come_out_of_the_rig() {
        gst::init().unwrap();
        let identity = make("identity").unwrap();
        let cost = one(&identity, Duration::from_millis(200), 0.05, 1).unwrap();
        assert!(cost.pushed > 900 && cost.pushed == cost.out);
    }
}
