// SPDX-License-Identifier: MPL-2.0
//! The sending process: pictures at the pace of a camera, x264, rtpbin with
//! retransmission.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dualstream_clip::source::{Clip, Pictures};
use gst::prelude::*;

use super::pipeline::{Pipeline, aux, decoder, look_at, make, pt_map, quick_feedback};
use super::said::{Said, Sent, end_of_stdin, say};
use super::{CLOCK_RATE, MEDIA_PT, RTX_PT, SSRC, Setting};

/// From the start of the pipeline to the first picture.
const START: gst::ClockTime = gst::ClockTime::from_mseconds(200);
/// Pictures go on after the time that is measured, so that it has an end.
const TAIL: Duration = Duration::from_secs(1);
/// Of a packet with its RTP header.
const PACKET: u32 = 1200;

pub fn run(setting: &Setting) -> Result<()> {
    let stop = end_of_stdin();
    let clip = Clip {
        file: setting.video.clone(),
        size: Some(setting.size),
        pattern_seconds: None,
    };
    let mut pictures = Pictures::open(&clip)?;
    let first = pictures.read()?.context("there is no video in it")?;
    let host = std::env::var("RATTAN_BASE").context("not behind rattan")?;
    let coded = Coded::default();
    let (pipeline, source) = build(setting, &host, &first, &coded)?;
    pipeline.play()?;
    say(&Said::Hello {
        rattan_id: std::env::var("RATTAN_ID").ok(),
    });

    let base = pipeline.0.base_time().context("it does not run")?;
    let clock = gst::SystemClock::obtain();
    let start = clock.time().saturating_sub(base) + START;
    let count = (setting.length() + TAIL).as_secs_f64() * f64::from(setting.fps);
    let mut sent = Vec::new();
    let mut next = Some(first);
    for n in 0..count as u64 {
        pipeline.check()?;
        let picture = match next.take() {
            Some(picture) => picture,
            None => again(&mut pictures, &clip)?,
        };
        let time = gst::ClockTime::SECOND
            .mul_div_floor(n, setting.fps.into())
            .context("the run is too long")?;
        let pts = start + time;
        let record = record(pts, base)?;
        let wait = (base + pts).saturating_sub(clock.time());
        match stop.recv_timeout(wait.into()) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
        let mut buffer = picture.buffer_owned().context("a picture without data")?;
        let inner = buffer.make_mut();
        inner.set_pts(pts);
        inner.set_dts(None);
        source.push_buffer(buffer)?;
        sent.push(record);
        if n % u64::from(setting.fps) == 0 {
            say(&Said::Progress { pictures: n });
        }
    }
    let coded = coded.take(sent.len());
    drop(pipeline);
    for (n, record) in sent.into_iter().enumerate() {
        let blocks = coded.get(n).cloned().unwrap_or_default();
        say(&Said::Sent(Sent { blocks, ..record }));
    }
    say(&Said::End);
    Ok(())
}

/// The next picture, from the first one again after the last.
fn again(pictures: &mut Pictures, clip: &Clip) -> Result<gst::Sample> {
    if let Some(picture) = pictures.read()? {
        return Ok(picture);
    }
    *pictures = Pictures::open(clip)?;
    pictures.read()?.context("there is no video in it")
}

fn record(pts: gst::ClockTime, base: gst::ClockTime) -> Result<Sent> {
    // As rtph264pay computes it.
    let ticks = pts
        .nseconds()
        .mul_div_floor(CLOCK_RATE, gst::ClockTime::SECOND.nseconds())
        .context("the run is too long")?;
    Ok(Sent {
        rtp_timestamp: ticks as u32,
        captured: (base + pts).nseconds(),
        blocks: String::new(),
    })
}

/// The blocks of each picture as coded, in order; the encoder leaves none out.
#[derive(Clone, Default)]
struct Coded(Arc<Mutex<Vec<String>>>);

impl Coded {
    fn push(&self, blocks: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(blocks);
    }

    /// All there are once `count` are there, or no more come.
    fn take(&self, count: usize) -> Vec<String> {
        let end = Instant::now() + TAIL;
        loop {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= count || Instant::now() >= end {
                return std::mem::take(&mut *all);
            }
            drop(all);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Decodes beside the way to the network, in a thread of its own.
fn decode(pipeline: &gst::Pipeline, tee: &gst::Element, coded: &Coded) -> Result<()> {
    let queue = make("queue")?;
    let decoder = decoder()?;
    let sink = make("fakesink")?;
    sink.set_property("sync", false);
    sink.set_property("async", false);
    sink.set_property("signal-handoffs", true);
    let coded = coded.clone();
    sink.connect("handoff", false, move |values| {
        let buffer = values.get(1)?.get::<gst::Buffer>().ok()?;
        let pad = values.get(2)?.get::<gst::Pad>().ok()?;
        coded.push(look_at(&buffer, &pad).unwrap_or_default());
        None
    });
    pipeline.add_many([&queue, &decoder, &sink])?;
    gst::Element::link_many([tee, &queue, &decoder, &sink])?;
    Ok(())
}

fn build(
    setting: &Setting,
    host: &str,
    first: &gst::Sample,
    coded: &Coded,
) -> Result<(Pipeline, gst_app::AppSrc)> {
    let pipeline = Pipeline(gst::Pipeline::new());
    let source = gst_app::AppSrc::builder()
        .format(gst::Format::Time)
        .is_live(true)
        .build();
    let mut caps = first.caps_owned().context("no caps")?;
    // The clip's own is another.
    caps.make_mut()
        .set("framerate", gst::Fraction::new(setting.fps as i32, 1));
    source.set_caps(Some(&caps));
    let encoder = encoder(setting)?;
    let tee = make("tee")?;
    let pay = make("rtph264pay")?;
    pay.set_property("pt", u32::from(MEDIA_PT));
    pay.set_property("ssrc", SSRC);
    pay.set_property("mtu", PACKET);
    pay.set_property("timestamp-offset", 0u32);
    pay.set_property("seqnum-offset", 0i32);
    pay.set_property("config-interval", -1i32);
    pay.set_property_from_str("aggregate-mode", "zero-latency");
    let rtpbin = make("rtpbin")?;
    rtpbin.set_property_from_str("rtp-profile", "avpf");
    rtpbin.connect("request-aux-sender", false, |_| {
        let rtx = make("rtprtxsend").ok()?;
        rtx.set_property("max-size-time", 3000u32);
        rtx.set_property("max-size-packets", 0u32);
        rtx.set_property("payload-type-map", rtx_map());
        Some(aux(&rtx).to_value())
    });
    pt_map(&rtpbin);
    let rtp = udp_sink(host, setting.relay_rtp)?;
    let rtcp = udp_sink(host, setting.relay_rtcp)?;
    let back = make("udpsrc")?;
    back.set_property("port", i32::from(setting.ports.sender_rtcp));
    back.set_property("caps", gst::Caps::new_empty_simple("application/x-rtcp"));

    let p = &pipeline.0;
    p.add_many([
        source.upcast_ref(),
        &encoder,
        &tee,
        &pay,
        &rtpbin,
        &rtp,
        &rtcp,
        &back,
    ])?;
    gst::Element::link_many([source.upcast_ref(), &encoder, &tee, &pay])?;
    decode(p, &tee, coded)?;
    pay.link_pads(Some("src"), &rtpbin, Some("send_rtp_sink_0"))?;
    rtpbin.link_pads(Some("send_rtp_src_0"), &rtp, Some("sink"))?;
    rtpbin.link_pads(Some("send_rtcp_src_0"), &rtcp, Some("sink"))?;
    back.link_pads(Some("src"), &rtpbin, Some("recv_rtcp_sink_0"))?;
    quick_feedback(&rtpbin)?;
    Ok((pipeline, source))
}

/// Small, even frames and a key frame only when it is asked for. One thread, so
/// that the same pictures make the same packets.
fn encoder(setting: &Setting) -> Result<gst::Element> {
    let encoder = make("x264enc")?;
    encoder.set_property_from_str("tune", "zerolatency");
    encoder.set_property_from_str("speed-preset", "veryfast");
    encoder.set_property("threads", 1u32);
    encoder.set_property("bitrate", setting.kbps);
    encoder.set_property("vbv-buf-capacity", (1000 / setting.fps).max(1));
    encoder.set_property("key-int-max", i32::MAX as u32);
    // A packet of its own for two bytes.
    encoder.set_property("aud", false);
    encoder.set_property("option-string", "scenecut=0");
    let pad = encoder.static_pad("src").context("x264enc: no src")?;
    let clock = gst::SystemClock::obtain();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer()
            && !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
        {
            say(&Said::Key {
                at: clock.time().nseconds(),
            });
        }
        gst::PadProbeReturn::Ok
    });
    Ok(encoder)
}

pub fn rtx_map() -> gst::Structure {
    gst::Structure::builder("application/x-rtp-pt-map")
        .field(MEDIA_PT.to_string(), u32::from(RTX_PT))
        .build()
}

fn udp_sink(host: &str, port: u16) -> Result<gst::Element> {
    if port == 0 {
        bail!("no port of the relay");
    }
    let sink = make("udpsink")?;
    sink.set_property("host", host);
    sink.set_property("port", i32::from(port));
    sink.set_property("sync", false);
    sink.set_property("async", false);
    Ok(sink)
}
