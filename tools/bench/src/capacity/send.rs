// SPDX-License-Identifier: MPL-2.0
//! All senders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use gst::prelude::*;

use super::*;

/// After the time that is measured, so that the receivers see all of it.
const TAIL: Duration = Duration::from_secs(2);

pub fn run(args: &EndArgs) -> Result<()> {
    let frames = encode(args.kbps)?;
    let packets = Arc::new(AtomicU64::new(0));
    let mut pipelines = Vec::new();
    let mut sources = Vec::new();
    for index in 0..args.count {
        let (pipeline, source) = build(args, index, &packets)?;
        play(&pipeline)?;
        pipelines.push(pipeline);
        sources.push(source);
    }
    let start = now();
    let nanos = |time: Duration| start + time.as_nanos() as u64;
    let (from, to) = (nanos(WARM_UP), nanos(WARM_UP + args.length()));
    let end = to + TAIL.as_nanos() as u64;
    let (mut meter, mut said) = (None, None);
    // One thread feeds all, each sender at its own part of a frame's time.
    for tick in 0u64.. {
        let count = u64::from(args.count);
        let due = start + tick * 1_000_000_000 / (u64::from(FPS) * count);
        let late = now();
        if due > late {
            std::thread::sleep(Duration::from_nanos(due - late));
        }
        if meter.is_none() && due >= from {
            meter = Some((Meter::start()?, packets.load(Ordering::Relaxed)));
        }
        if let Some((meter, before)) = &meter
            && said.is_none()
            && due >= to
        {
            let usage = meter.end(packets.load(Ordering::Relaxed) - before)?;
            said = Some(Said {
                usage,
                arrived: None,
            });
        }
        if due >= end {
            break;
        }
        let (frame, sender) = ((tick / count) as usize, (tick % count) as usize);
        let mut buffer = frames[frame % frames.len()].copy();
        buffer
            .get_mut()
            .context("a buffer that is not ours")?
            .set_pts(gst::ClockTime::from_nseconds(now()));
        let _ = sources[sender].push_buffer(buffer);
        if sender == 0 {
            for pipeline in &pipelines {
                pipeline.check()?;
            }
        }
    }
    crate::print_json(&said.context("nothing was measured")?)
}

/// Two seconds of H.264 at that rate, from one key frame to the next.
fn encode(kbps: u32) -> Result<Vec<gst::Buffer>> {
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers={} pattern=snow ! video/x-raw,width=640,height=360,framerate={FPS}/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast bitrate={kbps} vbv-buf-capacity=100 \
           key-int-max=600 threads=1 ! h264parse config-interval=-1 \
         ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=out sync=false",
        2 * FPS
    ))?
    .downcast::<gst::Pipeline>()
    .ok()
    .context("no pipeline")?;
    let out = pipeline
        .by_name("out")
        .and_downcast::<gst_app::AppSink>()
        .context("no appsink")?;
    let pipeline = Pipeline(pipeline);
    pipeline.play()?;
    let mut frames = Vec::new();
    while let Ok(sample) = out.pull_sample() {
        let mut buffer = sample.buffer_owned().context("no buffer")?;
        let plain = buffer.make_mut();
        plain.set_pts(gst::ClockTime::NONE);
        plain.set_dts(gst::ClockTime::NONE);
        frames.push(buffer);
    }
    pipeline.check()?;
    if frames.is_empty() {
        bail!("x264enc made nothing");
    }
    Ok(frames)
}

fn build(
    args: &EndArgs,
    index: u16,
    packets: &Arc<AtomicU64>,
) -> Result<(Pipeline, gst_app::AppSrc)> {
    let pipeline = Pipeline(gst::Pipeline::new());
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let source = gst_app::AppSrc::builder()
        .caps(&caps)
        .format(gst::Format::Time)
        .is_live(true)
        .build();
    let pay = make("rtph264pay")?;
    pay.set_property_from_str("aggregate-mode", "zero-latency");
    pay.set_property("pt", MEDIA_PT);
    pay.set_property("mtu", 1200u32);
    // So that the receiver knows when the frame was pushed.
    pay.set_property("timestamp-offset", 0u32);
    let filter = make("capsfilter")?;
    filter.set_property("caps", media_caps());
    let rtpbin = make("rtpbin")?;
    rtpbin.set_property_from_str("rtp-profile", "avpf");
    let rtp = udp_sink(args.port(index))?;
    let rtcp = udp_sink(args.port(index) + 1)?;
    let back = udp_source(args.port(index) + 2, &rtcp_caps())?;
    let mut chain = vec![source.clone().upcast(), pay, filter];
    if args.parts == Parts::Ours {
        chain.extend(ours(args)?);
    }
    pipeline.0.add_many(&chain)?;
    pipeline.0.add_many([&rtpbin, &rtp, &rtcp, &back])?;
    gst::Element::link_many(&chain)?;
    let last = chain.last().context("no elements")?;
    last.link_pads(Some("src"), &rtpbin, Some("send_rtp_sink_0"))?;
    rtpbin.link_pads(Some("send_rtp_src_0"), &rtp, Some("sink"))?;
    rtpbin.link_pads(Some("send_rtcp_src_0"), &rtcp, Some("sink"))?;
    back.link_pads(Some("src"), &rtpbin, Some("recv_rtcp_sink_0"))?;
    let pad = rtp.static_pad("sink").context("udpsink: no sink")?;
    let packets = packets.clone();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(kinds, move |_, info| {
        let count = info.buffer_list().map_or(1, |list| list.len() as u64);
        packets.fetch_add(count, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    Ok((pipeline, source))
}

fn ours(args: &EndArgs) -> Result<[gst::Element; 3]> {
    let fec = make("rtpflexfecenc")?;
    fec.set_property("pt", FEC_PT);
    // Nothing is asked for again here.
    fec.set_property("nack", false);
    fec.set_property("deadline", LATENCY_MS);
    let pacer = make("rtppacer")?;
    let estimator = make("rtpgcc")?;
    // Room for FEC: the rate of the media is fixed.
    estimator.set_property("start-bitrate", args.kbps * 1500);
    estimator.set_property("max-bitrate", args.kbps * 2000);
    estimator.set_property("expect-feedback", true);
    Ok([fec, pacer, estimator])
}
