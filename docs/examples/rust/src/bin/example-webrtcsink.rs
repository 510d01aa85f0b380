// SPDX-License-Identifier: MPL-2.0
//! rtpgcc in webrtcsink of gst-plugins-rs, in place of rtpgccbwe.
//!
//! webrtcsink makes its estimator by the name "rtpgccbwe", and rtpgcc has the
//! properties that it sets and reads. So it is enough to register rtpgcc under
//! that name, which a program can and gst-launch-1.0 cannot. rtpgccbwe paces
//! packets, too; with rtpgcc they leave as the encoder makes them.
//!
//!     example-webrtcsink [port of the signalling server]
#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, bail};
use gst::prelude::*;

fn main() -> Result<()> {
    gst::init()?;
    // Linked in here; a program may as well use the plugin rswebrtc where that
    // is installed.
    gstrswebrtc::plugin_register_static()?;
    take_the_place_of_rtpgccbwe()?;
    let port: u32 = match std::env::args().nth(1) {
        Some(port) => port.parse().context("the port is no number")?,
        None => 8443,
    };
    let pipeline = gst::parse::launch(
        "videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=30/1 \
         ! webrtcsink name=sink congestion-control=gcc video-caps=video/x-h264 \
           min-bitrate=300000 start-bitrate=500000 max-bitrate=2000000 run-signalling-server=true",
    )?
    .downcast::<gst::Pipeline>()
    .ok()
    .context("no pipeline")?;
    let sink = pipeline.by_name("sink").context("no sink")?;
    sink.set_property("signalling-server-port", port);
    // Its default is a server on the Internet.
    sink.set_property("stun-server", None::<String>);
    tell_estimates(&sink);

    pipeline.set_state(gst::State::Playing)?;
    let result = watch(&pipeline);
    pipeline.set_state(gst::State::Null)?;
    result
}

fn take_the_place_of_rtpgccbwe() -> Result<()> {
    let rtpgcc = gst::ElementFactory::find("rtpgcc")
        .context("no rtpgcc: is GST_PLUGIN_PATH set? see docs/install.md")?
        .load()?;
    let rtpgcc = rtpgcc
        .downcast::<gst::ElementFactory>()
        .ok()
        .context("rtpgcc is no element")?;
    gst::Element::register(None, "rtpgccbwe", gst::Rank::NONE, rtpgcc.element_type())?;
    Ok(())
}

/// What it finds for each receiver, and what webrtcsink makes of it.
fn tell_estimates(sink: &gst::Element) {
    sink.connect("consumer-pipeline-created", false, |values| {
        let consumer = values.get(2)?.get::<gst::Pipeline>().ok()?;
        consumer.connect_deep_element_added(|_, _, element| {
            if element.factory().is_some_and(|f| f.name() == "rtpgccbwe") {
                element.connect_notify(Some("estimated-bitrate"), |estimator, _| {
                    let bitrate: u32 = estimator.property("estimated-bitrate");
                    println!("estimate: {bitrate} bit/s");
                });
            }
        });
        None
    });
}

fn watch(pipeline: &gst::Pipeline) -> Result<()> {
    let bus = pipeline.bus().context("no bus")?;
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => return Ok(()),
            gst::MessageView::Error(err) => bail!("{}", err.error()),
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
            _ => (),
        }
    }
    Ok(())
}
