// SPDX-License-Identifier: MPL-2.0
//! Sends pictures that the program makes itself.
//!
//!     example-send [port of the signalling server]
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gst::prelude::*;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;
const FPS: i32 = 30;

fn main() -> Result<()> {
    gst::init()?;
    let port: u32 = match std::env::args().nth(1) {
        Some(port) => port.parse().context("the port is no number")?,
        None => 8443,
    };
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Gray8, WIDTH, HEIGHT)
        .fps(gst::Fraction::new(FPS, 1))
        .build()?;
    let source = gst_app::AppSrc::builder()
        .caps(&info.to_caps()?)
        .format(gst::Format::Time)
        // Pictures are live: each is stamped when it is pushed. One may wait,
        // an older one is dropped.
        .is_live(true)
        .do_timestamp(true)
        .max_buffers(1)
        .leaky_type(gst_app::AppLeakyType::Downstream)
        .build();
    let convert = gst::ElementFactory::make("videoconvert").build()?;
    let sink = gst::ElementFactory::make("dualwebrtcsink")
        .property("run-signalling-server", true)
        .property("signalling-server-port", port)
        .build()
        .context("is GST_PLUGIN_PATH set? see docs/install.md")?;
    // What belongs to a part of it goes by the name of the part.
    let parts = sink
        .dynamic_cast_ref::<gst::ChildProxy>()
        .context("no parts")?;
    parts.set_child_property("encoder::bitrate", 1_000_000u32);

    let pipeline = gst::Pipeline::new();
    pipeline.add_many([source.upcast_ref(), &convert, &sink])?;
    gst::Element::link_many([source.upcast_ref(), &convert, &sink])?;
    pipeline.set_state(gst::State::Playing)?;

    let pushing = std::thread::spawn(move || push(&source, &info));
    let result = watch(&pipeline, &sink);
    // The source then refuses pictures, and the thread ends.
    pipeline.set_state(gst::State::Null)?;
    let _ = pushing.join();
    result
}

/// A bar that moves, until the pipeline stops.
fn push(source: &gst_app::AppSrc, info: &gst_video::VideoInfo) {
    for n in 0u32.. {
        let mut picture = vec![40u8; info.size()];
        let stride = info.stride()[0] as usize;
        for row in picture.chunks_mut(stride) {
            let at = (n * 4 % (WIDTH - 32)) as usize;
            row[at..at + 32].fill(220);
        }
        if source
            .push_buffer(gst::Buffer::from_mut_slice(picture))
            .is_err()
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(1000 / FPS as u64));
    }
}

/// Until an error or the end; says each second how it goes.
fn watch(pipeline: &gst::Pipeline, sink: &gst::Element) -> Result<()> {
    let bus = pipeline.bus().context("no bus")?;
    let mut told = Instant::now();
    loop {
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            let stats: gst::Structure = sink.property("stats");
            let kind = if stats.get("dual")? { "dual" } else { "single" };
            println!(
                "{}, {kind} stream, {} pictures",
                stats.get::<&str>("connection-state")?,
                stats.get::<u64>("pictures-encoded")?
            );
        }
        let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(100)) else {
            continue;
        };
        match message.view() {
            gst::MessageView::Eos(_) => return Ok(()),
            gst::MessageView::Error(err) => bail!("{}", err.error()),
            gst::MessageView::Warning(warning) => println!("{}", warning.error()),
            // The delay of an element has changed.
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
            _ => (),
        }
    }
}
