// SPDX-License-Identifier: MPL-2.0
//! The receiving process: rtpbin with the jitter buffer that is measured, a
//! decoder, and a sink that shows each picture when its time has come.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use gst::prelude::*;

use super::pipeline::{Pipeline, aux, caps, look_at, make, pt_map, quick_feedback};
use super::said::{Counts, Received, Said, end_of_stdin, say};
use super::{MEDIA_PT, SSRC, Setting};
use crate::pacer::cpu_time;

const SLICE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Record {
    /// By RTP time stamp, which in a run does not wrap.
    frames: BTreeMap<u32, Received>,
    /// RTP time stamps by what the jitter buffer made of them.
    times: BTreeMap<gst::ClockTime, u32>,
    first: Option<u64>,
    packets: u64,
    unidentified: u64,
    buffer: Option<gst::Element>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Record>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    gst::SystemClock::obtain().time().nseconds()
}

pub fn run(setting: &Setting) -> Result<()> {
    let stop = end_of_stdin();
    let shared = Shared::default();
    let pipeline = build(setting, &shared)?;
    pipeline.play()?;
    say(&Said::Ready);
    let counts = follow(setting, &shared, &pipeline, &stop)?;
    drop(pipeline);
    for frame in shared.lock().frames.values() {
        say(&Said::Received(frame.clone()));
    }
    if let Some(counts) = counts {
        say(&Said::Counts(counts));
    }
    say(&Said::End);
    Ok(())
}

/// Until stdin is closed; what was counted in the time that is measured.
fn follow(
    setting: &Setting,
    shared: &Shared,
    pipeline: &Pipeline,
    stop: &Receiver<()>,
) -> Result<Option<Counts>> {
    let (mut before, mut counts) = (None, None);
    loop {
        pipeline.check()?;
        let first = shared.lock().first;
        let elapsed = first.map(|first| Duration::from_nanos(now().saturating_sub(first)));
        if before.is_none() && elapsed.is_some_and(|elapsed| elapsed >= setting.settle()) {
            before = Some(snapshot(shared)?);
        }
        if let Some(before) = &before
            && counts.is_none()
            && elapsed.is_some_and(|elapsed| elapsed >= setting.length())
        {
            counts = Some(since(before, &snapshot(shared)?));
        }
        match stop.recv_timeout(SLICE) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(counts),
        }
    }
}

fn snapshot(shared: &Shared) -> Result<Counts> {
    let (packets, unidentified, buffer) = {
        let record = shared.lock();
        (record.packets, record.unidentified, record.buffer.clone())
    };
    let stats = buffer
        .filter(|buffer| buffer.has_property_with_type("stats", gst::Structure::static_type()))
        .and_then(|buffer| buffer.property::<Option<gst::Structure>>("stats"));
    let field = |name: &str| stats.as_ref().and_then(|s| s.get::<u64>(name).ok());
    Ok(Counts {
        packets,
        cpu_us: cpu_time()?.as_secs_f64() * 1e6,
        num_lost: field("num-lost"),
        num_late: field("num-late"),
        rtx_count: field("rtx-count"),
        rtx_success_count: field("rtx-success-count"),
        unidentified,
    })
}

fn since(before: &Counts, after: &Counts) -> Counts {
    let less = |after: Option<u64>, before: Option<u64>| {
        after.map(|after| after.saturating_sub(before.unwrap_or(0)))
    };
    Counts {
        packets: after.packets - before.packets,
        cpu_us: after.cpu_us - before.cpu_us,
        num_lost: less(after.num_lost, before.num_lost),
        num_late: less(after.num_late, before.num_late),
        rtx_count: less(after.rtx_count, before.rtx_count),
        rtx_success_count: less(after.rtx_success_count, before.rtx_success_count),
        unidentified: after.unidentified - before.unidentified,
    }
}

fn build(setting: &Setting, shared: &Shared) -> Result<Pipeline> {
    let pipeline = Pipeline(gst::Pipeline::new());
    let media = caps(MEDIA_PT.into()).context("caps of the video")?;
    let rtp = udp_source(setting.ports.receiver_rtp, media)?;
    let control = gst::Caps::new_empty_simple("application/x-rtcp");
    let rtcp = udp_source(setting.ports.receiver_rtcp, control)?;
    let back = make("udpsink")?;
    back.set_property("host", "127.0.0.1");
    back.set_property("port", i32::from(setting.relay_rtcp));
    back.set_property("sync", false);
    back.set_property("async", false);
    let rtpbin = rtpbin(setting, shared)?;
    let depay = make("rtph264depay")?;
    depay.set_property("request-keyframe", true);
    depay.set_property("wait-for-keyframe", setting.wait_for_keyframe);
    let decoder = decoder(shared)?;
    let sink = display(setting, shared)?;

    let p = &pipeline.0;
    p.add_many([&rtp, &rtcp, &back, &rtpbin, &depay, &decoder, &sink])?;
    gst::Element::link_many([&depay, &decoder, &sink])?;
    rtp.link_pads(Some("src"), &rtpbin, Some("recv_rtp_sink_0"))?;
    rtcp.link_pads(Some("src"), &rtpbin, Some("recv_rtcp_sink_0"))?;
    rtpbin.link_pads(Some("send_rtcp_src_0"), &back, Some("sink"))?;
    quick_feedback(&rtpbin)?;
    let input = depay.static_pad("sink").context("depay: no sink")?;
    rtpbin.connect_pad_added(move |_, pad| {
        if pad.name().starts_with("recv_rtp_src_0_") && !input.is_linked() {
            // A refusal ends in an error message of the pipeline.
            let _ = pad.link(&input);
        }
    });
    Ok(pipeline)
}

fn udp_source(port: u16, caps: gst::Caps) -> Result<gst::Element> {
    let source = make("udpsrc")?;
    source.set_property("address", "127.0.0.1");
    source.set_property("port", i32::from(port));
    source.set_property("caps", caps);
    Ok(source)
}

fn rtpbin(setting: &Setting, shared: &Shared) -> Result<gst::Element> {
    let rtpbin = make("rtpbin")?;
    rtpbin.set_property_from_str("rtp-profile", "avpf");
    // Without a wait, a packet that is not early would be asked for as lost.
    rtpbin.set_property("do-retransmission", setting.buffer.waits);
    if let Some(latency) = setting.buffer.latency_ms {
        rtpbin.set_property("latency", latency);
    }
    rtpbin.connect("request-aux-receiver", false, |_| {
        let rtx = make("rtprtxreceive").ok()?;
        rtx.set_property("payload-type-map", super::send::rtx_map());
        Some(aux(&rtx).to_value())
    });
    pt_map(&rtpbin);
    if !setting.buffer.is_plain() {
        let setting = setting.clone();
        rtpbin.connect("request-jitterbuffer", false, move |_| {
            let buffer = make(&setting.buffer.factory).ok()?;
            configure(&buffer, &setting);
            Some(buffer.to_value())
        });
    }
    let shared = shared.clone();
    rtpbin.connect("new-jitterbuffer", false, move |values| {
        let buffer = values.get(1)?.get::<gst::Element>().ok()?;
        if values.get(3)?.get::<u32>().ok()? == SSRC {
            watch_buffer(&buffer, &shared);
            shared.lock().buffer = Some(buffer);
        }
        None
    });
    Ok(rtpbin)
}

fn configure(buffer: &gst::Element, setting: &Setting) {
    if buffer.has_property("model") {
        buffer.set_property_from_str("model", setting.model.nick());
    }
    if buffer.has_property_with_type("late-target", f64::static_type()) {
        buffer.set_property("late-target", setting.late_target);
    }
}

fn watch_buffer(buffer: &gst::Element, shared: &Shared) {
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    if let Some(pad) = buffer.static_pad("sink") {
        let shared = shared.clone();
        pad.add_probe(kinds, move |_, info| {
            each(info, |packet| note_arrival(&mut shared.lock(), packet));
            gst::PadProbeReturn::Ok
        });
    }
    if let Some(pad) = buffer.static_pad("src") {
        let shared = shared.clone();
        pad.add_probe(kinds, move |_, info| {
            each(info, |packet| note_departure(&mut shared.lock(), packet));
            gst::PadProbeReturn::Ok
        });
    }
}

fn each(info: &gst::PadProbeInfo<'_>, mut of: impl FnMut(&gst::BufferRef)) {
    match &info.data {
        Some(gst::PadProbeData::Buffer(buffer)) => of(buffer),
        Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(of),
        _ => {}
    }
}

fn rtp_timestamp(packet: &gst::BufferRef) -> Option<u32> {
    let mut bytes = [0; 4];
    packet.copy_to_slice(4, &mut bytes).ok()?;
    Some(u32::from_be_bytes(bytes))
}

impl Record {
    fn frame(&mut self, rtp_timestamp: u32) -> &mut Received {
        self.frames.entry(rtp_timestamp).or_insert(Received {
            rtp_timestamp,
            ..Received::default()
        })
    }
}

fn note_arrival(record: &mut Record, packet: &gst::BufferRef) {
    let now = now();
    record.first.get_or_insert(now);
    record.packets += 1;
    if let Some(rtp_timestamp) = rtp_timestamp(packet) {
        record.frame(rtp_timestamp).latest = Some(now);
    }
}

fn note_departure(record: &mut Record, packet: &gst::BufferRef) {
    let now = now();
    let Some(rtp_timestamp) = rtp_timestamp(packet) else {
        return;
    };
    if let Some(pts) = packet.pts() {
        record.times.insert(pts, rtp_timestamp);
    }
    let frame = record.frame(rtp_timestamp);
    frame.arrived = frame.latest;
    frame.left = Some(now);
}

fn decoder(shared: &Shared) -> Result<gst::Element> {
    let decoder = super::pipeline::decoder()?;
    let pad = decoder.static_pad("src").context("decoder: no src")?;
    let shared = shared.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let now = now();
        let mut record = shared.lock();
        let time = info.buffer().and_then(|buffer| buffer.pts());
        if let Some(timestamp) = time.and_then(|pts| record.times.get(&pts).copied()) {
            record.frame(timestamp).decoded = Some(now);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(decoder)
}

/// What stands in for a screen.
fn display(setting: &Setting, shared: &Shared) -> Result<gst::Element> {
    let sink = make("fakesink")?;
    sink.set_property("sync", setting.buffer.waits);
    sink.set_property("qos", true);
    sink.set_property("max-lateness", setting.max_lateness_ns());
    sink.set_property("processing-deadline", setting.processing_deadline_ns());
    sink.set_property("signal-handoffs", true);
    sink.set_property("enable-last-sample", false);
    let shared = shared.clone();
    // After the wait for the picture's time.
    sink.connect("handoff", false, move |values| {
        let now = now();
        let buffer = values.get(1)?.get::<gst::Buffer>().ok()?;
        let pad = values.get(2)?.get::<gst::Pad>().ok()?;
        let blocks = look_at(&buffer, &pad).unwrap_or_default();
        let mut record = shared.lock();
        match buffer.pts().and_then(|pts| record.times.get(&pts).copied()) {
            Some(timestamp) => {
                let frame = record.frame(timestamp);
                frame.shown.get_or_insert(now);
                frame.blocks = blocks;
            }
            None => record.unidentified += 1,
        }
        None
    });
    Ok(sink)
}
