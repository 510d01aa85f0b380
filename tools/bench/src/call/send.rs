// SPDX-License-Identifier: MPL-2.0
//! The sending process with a GStreamer peer: pictures at the pace of a
//! camera, each with its number and its time in a corner.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dualstream_clip::barcode::Stamp;
use dualstream_common::Bitrate;
use gst::prelude::*;

use super::log::{Log, now};
use super::sampler::{Counts, Sampler};
use super::setting::{Fixed, Peer, Role, Scheme, Setting};
use crate::jitter::session::pipeline::Pipeline;
use crate::jitter::session::said::{Said, say};
use crate::scheme;
use crate::video::Video;

/// Two pictures wait at most; the next is dropped, as by a camera.
const CAMERA: &str = "appsrc name=camera is-live=true format=time do-timestamp=true \
                      max-buffers=2 leaky-type=upstream";

pub fn run(setting: &Setting, log: &Log, stop: &Receiver<()>) -> Result<()> {
    let video = Video::read(
        setting.video.clone(),
        setting.size,
        setting.fps,
        setting.pictures,
    )?;
    let pipeline = build(setting)?;
    let camera: gst_app::AppSrc = pipeline
        .0
        .by_name("camera")
        .and_downcast()
        .context("the pipeline has no camera")?;
    camera.set_caps(Some(&video.caps()?));
    let counts = Arc::<Counts>::default();
    let _sampler = Sampler::start(&pipeline.0, log, &counts)?;
    pipeline.play()?;
    say(&Said::Ready);
    film(setting, &video, &camera, &pipeline, stop)?;
    if let Some(peer) = pipeline.0.by_name("peer")
        && peer.has_property_with_type("stats", gst::Structure::static_type())
        && let Some(stats) = peer.property::<Option<gst::Structure>>("stats")
    {
        log.note("stats", stats.to_string());
    }
    Ok(())
}

pub(super) fn film(
    setting: &Setting,
    video: &Video,
    camera: &gst_app::AppSrc,
    pipeline: &Pipeline,
    stop: &Receiver<()>,
) -> Result<()> {
    let frame = Duration::from_secs(1) / setting.fps;
    let (width, height) = (setting.size.width as usize, setting.size.height as usize);
    let stride = usize::try_from(video.info.stride()[0])?;
    let begin = Instant::now();
    let mut n = 0u32;
    loop {
        pipeline.check()?;
        let mut picture = video.source(n as usize).copy_deep()?;
        let due = begin + frame * n;
        match stop.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
        {
            let picture = picture.make_mut();
            picture.set_pts(gst::ClockTime::NONE);
            picture.set_dts(gst::ClockTime::NONE);
            let mut luma = picture.map_writable()?;
            Stamp::new(n as u16, now()).write(&mut luma, stride, width, height);
        }
        match camera.push_buffer(picture) {
            // Eos: two wait already, so it is dropped. The stream has no end here.
            Ok(_) | Err(gst::FlowError::Eos) => {}
            Err(_) => {
                pipeline.check()?;
                bail!("the sender takes no more pictures after {n}");
            }
        }
        n += 1;
    }
}

pub(super) fn build(setting: &Setting) -> Result<Pipeline> {
    let (uri, extra) = (setting.uri(), &setting.properties);
    let text = match (setting.peer, setting.fixed) {
        (Peer::Ours, None) => {
            let off: Vec<_> = setting
                .off
                .0
                .iter()
                .filter_map(|f| f.off(Role::Send))
                .collect();
            format!(
                "{CAMERA} ! dualwebrtcsink name=peer signaller::uri={uri} encoder::bitrate={} \
                 encoder::refresh-interval={} {} {extra}",
                setting.most_kbps * 1000,
                setting.refresh_ms,
                off.join(" ")
            )
        }
        (
            Peer::Ours,
            Some(Fixed {
                kbps,
                scheme: Scheme::Dual,
            }),
        ) => format!(
            "{CAMERA} ! dualwebrtcsink name=peer signaller::uri={uri} congestion-control=none \
             encoder::bitrate={} encoder::refresh-interval={} {extra}",
            kbps * 1000,
            setting.refresh_ms
        ),
        // The transport of those who have no second stream.
        (Peer::Ours, Some(_)) => format!(
            "{CAMERA} ! x264enc name=encoder ! video/x-h264,profile=constrained-baseline ! \
             webrtcsink name=peer signaller::uri={uri} congestion-control=disabled do-fec=false \
             {extra}"
        ),
        _ => format!(
            "{CAMERA} ! webrtcsink name=peer signaller::uri={uri} video-caps=video/x-h264 {extra}"
        ),
    };
    let pipeline = match setting.fixed {
        Some(fixed) if fixed.scheme != Scheme::Dual => single(setting, fixed, &text)?,
        _ => launch(&text)?,
    };
    without_stun(&pipeline);
    keep_pictures_whole(&pipeline);
    Ok(pipeline)
}

/// webrtcsink sets rtph264pay to write the parameter sets again, which with
/// GStreamer 1.22 it does before each slice, of which webrtcsink's x264enc
/// makes four: its key frames arrive as four pictures, each mostly black, and
/// all others refer to them. x264enc writes them itself; so all else is set as
/// webrtcsink does it.
fn keep_pictures_whole(pipeline: &Pipeline) {
    const SIGNAL: &str = "payloader-setup";
    let Some(peer) = pipeline.0.by_name("peer") else {
        return;
    };
    if gst::glib::subclass::SignalId::lookup(SIGNAL, peer.type_()).is_none() {
        return;
    }
    peer.connect(SIGNAL, false, |values| {
        let pay = values.get(3)?.get::<gst::Element>().ok()?;
        let h264 = pay.factory().is_some_and(|f| f.name() == "rtph264pay");
        if h264 {
            pay.set_property("mtu", 1200u32);
            pay.set_property_from_str("aggregate-mode", "zero-latency");
            pay.set_property("config-interval", 0i32);
        }
        Some(h264.to_value())
    });
}

pub fn launch(text: &str) -> Result<Pipeline> {
    let element = gst::parse::launch(text).with_context(|| format!("in `{text}`"))?;
    let pipeline = element.downcast().ok().context("not a pipeline")?;
    Ok(Pipeline(pipeline))
}

/// Foreign elements have a server on the Internet as their default.
pub fn without_stun(pipeline: &Pipeline) {
    if let Some(peer) = pipeline.0.by_name("peer") {
        peer.set_property("stun-server", None::<String>);
    }
}

/// One stream by x264enc, set up as `dualstream-bench dual` has it.
fn single(setting: &Setting, fixed: Fixed, text: &str) -> Result<Pipeline> {
    let of = match fixed.scheme {
        Scheme::Vanilla => scheme::Scheme::Vanilla,
        Scheme::Tight => scheme::Scheme::Tight,
        Scheme::Infinite => scheme::Scheme::Infinite,
        Scheme::Dual => bail!("dual has two streams"),
    };
    let set_up = scheme::SetUp {
        scheme: of,
        target: Bitrate::from_kbps(fixed.kbps),
        fps: setting.fps,
        refresh: Duration::from_millis(setting.refresh_ms),
        vbv_frames: 1.0,
        dual_properties: None,
    };
    let vbv = match of {
        scheme::Scheme::Vanilla => scheme::VANILLA_VBV,
        _ => Duration::from_secs(1) / setting.fps,
    };
    let pipeline = launch(text)?;
    let encoder = pipeline.0.by_name("encoder").context("no encoder")?;
    scheme::set_single(&encoder, &set_up);
    scheme::set_rate(&encoder, set_up.target, vbv);
    Ok(pipeline)
}
