// SPDX-License-Identifier: MPL-2.0
//! Receives pictures into the program.
//!
//!     example-receive [uri of the signalling server [number of pictures]]
#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, bail};
use gst::prelude::*;

fn main() -> Result<()> {
    gst::init()?;
    let mut args = std::env::args().skip(1);
    let uri = args.next().unwrap_or_else(|| "ws://127.0.0.1:8443".into());
    let wanted: u64 = match args.next() {
        Some(count) => count.parse().context("the count is no number")?,
        None => u64::MAX,
    };
    let source = gst::ElementFactory::make("dualwebrtcsrc")
        .build()
        .context("is GST_PLUGIN_PATH set? see docs/install.md")?;
    let parts = source
        .dynamic_cast_ref::<gst::ChildProxy>()
        .context("no parts")?;
    parts.set_child_property("signaller::uri", &uri);
    let convert = gst::ElementFactory::make("videoconvert").build()?;
    let format = gst_video::VideoCapsBuilder::new()
        .format(gst_video::VideoFormat::Gray8)
        .build();
    let sink = gst_app::AppSink::builder()
        .caps(&format)
        // Each picture as soon as it is there, and the newest if the program
        // is too slow.
        .sync(false)
        .max_buffers(1)
        .drop(true)
        .build();
    let pipeline = gst::Pipeline::new();
    pipeline.add_many([&source, &convert, sink.upcast_ref()])?;
    gst::Element::link_many([&source, &convert, sink.upcast_ref()])?;
    pipeline.set_state(gst::State::Playing)?;
    let result = take(&pipeline, &source, &sink, wanted);
    pipeline.set_state(gst::State::Null)?;
    result
}

fn take(
    pipeline: &gst::Pipeline,
    source: &gst::Element,
    sink: &gst_app::AppSink,
    wanted: u64,
) -> Result<()> {
    let bus = pipeline.bus().context("no bus")?;
    let mut count = 0;
    while count < wanted {
        while let Some(message) = bus.pop() {
            match message.view() {
                gst::MessageView::Error(err) => bail!("{}", err.error()),
                gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
                _ => (),
            }
        }
        let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) else {
            if sink.is_eos() {
                break;
            }
            continue;
        };
        count += 1;
        if count % 30 == 0 {
            let picture = sample.buffer().context("no picture")?.map_readable()?;
            let sum: u64 = picture.iter().map(|pixel| u64::from(*pixel)).sum();
            let stats: gst::Structure = source.property("stats");
            println!(
                "{count} pictures, mean brightness {}, {}",
                sum / picture.len() as u64,
                stats.get::<&str>("connection-state")?
            );
        }
    }
    println!("{count} pictures received");
    Ok(())
}
