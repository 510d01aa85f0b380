// SPDX-License-Identifier: MPL-2.0
//! What is tried, each in a process of its own (`child`). These run in the
//! child.

pub mod bench;
pub mod call;
pub mod decoder;
pub mod encoder;
pub mod inventory;
pub mod opus;
pub mod session;
pub mod srt;
pub mod srtp;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use gst::glib;
use gst::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a child is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    Inventory,
    Encoder(encoder::Task),
    Decoder(decoder::Task),
    Opus,
    Srtp,
    Srt,
    Session,
    Call(call::Task),
}

impl Task {
    /// From here on it hangs.
    pub fn limit(&self) -> Duration {
        let secs = match self {
            // The first start may build GStreamer's registry.
            Self::Inventory => 60,
            Self::Encoder(task) => 20 + 4 * u64::from(task.frames) / FPS,
            Self::Decoder(task) => 20 + 4 * u64::from(task.frames) / FPS,
            Self::Opus | Self::Srtp => 15,
            Self::Srt | Self::Session => 25,
            Self::Call(task) => 40 + 2 * u64::from(task.seconds),
        };
        Duration::from_secs(secs)
    }
}

/// Pictures per second of all probes.
pub const FPS: u64 = 30;
pub const FRAME: Duration = Duration::from_nanos(1_000_000_000 / FPS);

/// In the child.
pub fn perform(task: &Task) -> Result<Value> {
    gst::init()?;
    if !matches!(task, Task::Inventory) {
        register_missing()?;
    }
    let result = match task {
        Task::Inventory => serde_json::to_value(inventory::take()),
        Task::Encoder(task) => serde_json::to_value(encoder::run(task)?),
        Task::Decoder(task) => serde_json::to_value(decoder::run(task)?),
        Task::Opus => serde_json::to_value(opus::run()?),
        Task::Srtp => serde_json::to_value(srtp::run()?),
        Task::Srt => serde_json::to_value(srt::run()?),
        Task::Session => serde_json::to_value(session::run()?),
        Task::Call(task) => serde_json::to_value(call::run(task)?),
    };
    Ok(result?)
}

type Register = fn() -> Result<(), glib::BoolError>;

/// This project's plugins, with the crate that registers each.
pub const OWN: [(&str, Register); 7] = [
    ("dualstream", gstdualstream::plugin_register_static),
    ("feedback", gstfeedback::plugin_register_static),
    ("flexfec", gstflexfec::plugin_register_static),
    ("gcc", gstgcc::plugin_register_static),
    ("jitterbuffer", gstjitterbuffer::plugin_register_static),
    ("pacer", gstpacer::plugin_register_static),
    ("dualwebrtc", gstdualwebrtc::plugin_register_static),
];

/// The installed plugin is what an application would use; the one that is
/// linked in takes the place of one that is not installed.
fn register_missing() -> Result<()> {
    for (name, register) in OWN {
        if gst::Registry::get().find_plugin(name).is_none() {
            register().with_context(|| format!("plugin {name}"))?;
        }
    }
    Ok(())
}

pub fn make(factory: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory)
        .build()
        .with_context(|| format!("the element {factory} is missing"))
}

pub fn launch(description: &str) -> Result<Running> {
    let pipeline = gst::parse::launch(description)?
        .downcast::<gst::Pipeline>()
        .ok()
        .context("no pipeline")?;
    Ok(Running(pipeline))
}

/// A pipeline that goes to NULL when it is dropped.
pub struct Running(pub gst::Pipeline);

impl Running {
    pub fn play(&self) -> Result<()> {
        if self.0.set_state(gst::State::Playing).is_err() {
            self.check()?;
            bail!("does not start");
        }
        Ok(())
    }

    /// The pipeline's first error, if it has one.
    pub fn check(&self) -> Result<()> {
        let bus = self.0.bus().context("a pipeline without a bus")?;
        while let Some(message) = bus.pop() {
            if let gst::MessageView::Error(_) = message.view() {
                bail!(dualstream_clip::source::describe(&message));
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}
