// SPDX-License-Identifier: MPL-2.0
//! The picture as it stands in an encoder: a decoder that is given all that the
//! encoder makes.

use gst::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of the same library as the encoder, and without delay.
pub const DECODER: &str = "openh264dec";

/// A decoded picture.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub buffer: gst::Buffer,
    pub info: gst_video::VideoInfo,
}

#[derive(Debug, Default)]
struct Output {
    info: Option<gst_video::VideoInfo>,
    buffer: Option<gst::Buffer>,
}

/// The decoder of one encoder.
#[derive(Debug)]
pub struct Replica {
    decoder: gst::Element,
    input: gst::Pad,
    output: gst::Pad,
    shown: Arc<Mutex<Output>>,
}

fn locked(shown: &Mutex<Output>) -> MutexGuard<'_, Output> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replica {
    /// `None`: there is no decoder.
    pub fn new(caps: &gst::Caps) -> Option<Self> {
        let decoder = gst::ElementFactory::make(DECODER).build().ok()?;
        let shown = Arc::new(Mutex::new(Output::default()));
        let (pictures, formats) = (shown.clone(), shown.clone());
        let output = gst::Pad::builder(gst::PadDirection::Sink)
            .chain_function(move |_, _, buffer| {
                locked(&pictures).buffer = Some(buffer);
                Ok(gst::FlowSuccess::Ok)
            })
            .event_function(move |_, _, event| {
                if let gst::EventView::Caps(caps) = event.view() {
                    locked(&formats).info = gst_video::VideoInfo::from_caps(caps.caps()).ok();
                }
                true
            })
            .build();
        let this = Self {
            decoder,
            input: gst::Pad::new(gst::PadDirection::Src),
            output,
            shown,
        };
        this.start(caps)?;
        Some(this)
    }

    fn start(&self, caps: &gst::Caps) -> Option<()> {
        let sink = self.decoder.static_pad("sink")?;
        let src = self.decoder.static_pad("src")?;
        self.input.set_active(true).ok()?;
        self.output.set_active(true).ok()?;
        self.input.link(&sink).ok()?;
        src.link(&self.output).ok()?;
        self.decoder.set_state(gst::State::Playing).ok()?;
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        self.input
            .push_event(gst::event::StreamStart::new("replica"));
        self.input.push_event(gst::event::Caps::new(caps));
        self.input.push_event(gst::event::Segment::new(&segment));
        Some(())
    }

    /// `None`: it cannot be decoded.
    pub fn decode(&self, unit: &gst::Buffer) -> Option<Decoded> {
        locked(&self.shown).buffer = None;
        self.input.push(unit.copy()).ok()?;
        let mut shown = locked(&self.shown);
        let (buffer, info) = (shown.buffer.take()?, shown.info.clone()?);
        Some(Decoded { buffer, info })
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.decoder.set_state(gst::State::Null);
        let _ = (self.input.set_active(false), self.output.set_active(false));
    }
}
