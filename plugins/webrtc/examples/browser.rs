// SPDX-License-Identifier: MPL-2.0
//! A browser at the other end, with nothing else needed: signalling server and
//! web server are in this process.
//!
//! ```sh
//! cargo run --release --example browser                     # a test picture to the browser
//! cargo run --release --example browser -- video.mp4        # a file to the browser, once
//! cargo run --release --example browser -- receive          # from the browser, into a window
//! cargo run --release --example browser -- receive fakesink # the same, shown nowhere
//! ```
//!
//! `HOST=0.0.0.0` lets browsers on other machines in; `PORT` is that of the page
//! (8080), `SIGNALLING` that of the signalling server (8443).
#![allow(clippy::print_stdout)] // it has a user

use std::error::Error;
use std::path::Path;

use gst::prelude::*;

fn register() -> Result<(), gst::glib::BoolError> {
    gstdualstream::plugin_register_static()?;
    gstfeedback::plugin_register_static()?;
    gstflexfec::plugin_register_static()?;
    gstgcc::plugin_register_static()?;
    gstjitterbuffer::plugin_register_static()?;
    gstpacer::plugin_register_static()?;
    gstdualwebrtc::plugin_register_static()
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

fn description(words: &[String]) -> Result<String, Box<dyn Error>> {
    let host = variable("HOST", "127.0.0.1");
    let servers = format!(
        "run-web-server=true web-server-host={host} web-server-port={} \
         run-signalling-server=true signalling-server-host={host} signalling-server-port={}",
        variable("PORT", "8080"),
        variable("SIGNALLING", "8443")
    );
    let encoder = "encoder::bitrate=2500000 encoder::refresh-interval=2000";
    Ok(match words.first().map(String::as_str) {
        Some("receive") => {
            let sink = words.get(1).map_or("autovideosink", String::as_str);
            format!("dualwebrtcsrc name=peer {servers} peer.src ! videoconvert ! {sink}")
        }
        Some(file) => {
            let path = Path::new(file).canonicalize()?;
            format!(
                "uridecodebin name=file uri={} file. ! dualwebrtcsink name=peer \
                 wait-for-receiver=true {encoder} {servers}",
                gst::glib::filename_to_uri(path, None)?
            )
        }
        None => format!(
            "videotestsrc is-live=true pattern=ball ! video/x-raw,width=1280,height=720,framerate=30/1 ! \
             dualwebrtcsink name=peer {encoder} {servers} \
             audiotestsrc is-live=true wave=ticks volume=0.3 ! audio/x-raw,channels=1 ! peer.audio"
        ),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    gst::init()?;
    register()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let pipeline = gst::parse::launch(&description(&words)?)?
        .downcast::<gst::Pipeline>()
        .map_err(|_| "not a pipeline")?;
    pipeline.set_state(gst::State::Playing)?;
    let peer = pipeline.by_name("peer").ok_or("no such element")?;
    let stats: gst::Structure = peer.property("stats");
    println!("Open {} in a browser.", stats.get::<String>("web-server")?);
    let bus = pipeline.bus().ok_or("no bus")?;
    let result = loop {
        let message = bus.timed_pop(gst::ClockTime::NONE).ok_or("no message")?;
        match message.view() {
            gst::MessageView::Eos(_) => break Ok(()),
            gst::MessageView::Error(err) => break Err(err.error().to_string().into()),
            gst::MessageView::Latency(_) => pipeline.recalculate_latency()?,
            _ => {}
        }
    };
    pipeline.set_state(gst::State::Null)?;
    result
}
