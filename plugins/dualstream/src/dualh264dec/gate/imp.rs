// SPDX-License-Identifier: MPL-2.0
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};

use dualstream_common::Timestamp;
use dualstream_core::receiver::{AccessUnit, Arrived, Unit};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::super::DualH264Dec;
use super::super::decoder::coded_caps;
use super::super::hub::Hub;
use super::super::imp::CAT;
use crate::meta;

/// Times that a decoder is started anew without giving a picture between.
const RESTARTS: u32 = 5;
/// Of these, before another decoder is tried.
const TRIES: u32 = 2;
/// Units from a key frame on, all without a picture, that are a failure.
const STALL: u32 = 30;

struct State {
    segment: gst::FormattedSegment<gst::ClockTime>,
    segment_sent: bool,
    stream_id: Option<glib::GString>,
    first: bool,
    failure: Option<glib::Error>,
    restarts: u32,
    /// Units since a key frame that gave no picture; none: there are pictures.
    barren: Option<u32>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            segment: gst::FormattedSegment::new(),
            segment_sent: false,
            stream_id: None,
            first: true,
            failure: None,
            restarts: 0,
            barren: None,
        }
    }
}

pub struct Gate {
    pub(super) sinkpad: gst::Pad,
    pub(super) srcpad: gst::Pad,
    hub: OnceLock<(Arc<Hub>, Stream)>,
    state: Mutex<State>,
}

impl Gate {
    pub(super) fn set_up(&self, hub: Arc<Hub>, stream: Stream) {
        let _ = self.hub.set((hub, stream));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn decoder_failed(&self, error: glib::Error) {
        self.lock().failure = Some(error);
    }

    pub(super) fn decoder_works(&self) {
        let mut state = self.lock();
        state.restarts = 0;
        state.barren = None;
    }

    fn chain(&self, mut buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Some((hub, stream)) = self.hub.get() else {
            return Err(gst::FlowError::Error);
        };
        hub.lock().flow?;
        let stalls = self.lock().barren.is_some_and(|units| units > STALL);
        if stalls || self.lock().failure.is_some() {
            self.restart_decoder(hub, *stream)?;
        }
        let unit = self.unit(*stream, &buffer);
        if let Err(dropped) = hub.unit(unit) {
            gst::debug!(CAT, imp = self, "Not decoding {:?}: {dropped:?}", unit.tag);
            return Ok(gst::FlowSuccess::Ok);
        }
        {
            let first = {
                let mut state = self.lock();
                state.barren = match state.barren {
                    None if unit.content.idr => Some(1),
                    barren => barren.map(|units| units.saturating_add(1)),
                };
                std::mem::take(&mut state.first)
            };
            let buffer = buffer.make_mut();
            let pts = unit
                .pts
                .map(|t| gst::ClockTime::from_nseconds(t.as_nanos()));
            buffer.set_pts(pts);
            buffer.set_dts(gst::ClockTime::NONE);
            if !first {
                // It is the receiver's logic that knows what a loss means.
                buffer.unset_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::GAP);
            }
        }
        match self.srcpad.push(buffer) {
            Err(error) if !matches!(error, gst::FlowError::Flushing | gst::FlowError::Eos) => {
                // What comes from behind the decoder is not the decoder's.
                hub.lock().flow?;
                gst::warning!(CAT, imp = self, "Decoder failed: {error:?}");
                self.restart_decoder(hub, *stream)?;
                Ok(gst::FlowSuccess::Ok)
            }
            result => result,
        }
    }

    fn unit(&self, stream: Stream, buffer: &gst::Buffer) -> Unit {
        let content = buffer
            .map_readable()
            .map(|map| AccessUnit::scan(&map))
            .unwrap_or_default();
        let flags = buffer.flags();
        let arrived = if flags.contains(gst::BufferFlags::CORRUPTED) {
            Arrived::Damaged
        } else if flags.intersects(gst::BufferFlags::DISCONT | gst::BufferFlags::GAP) {
            Arrived::AfterLoss
        } else {
            Arrived::Intact
        };
        let state = self.lock();
        let running = |time: Option<gst::ClockTime>| {
            // Before the segment: at its beginning, for later frames refer to it.
            let time = state.segment.to_running_time_full(time?)?;
            Some(Timestamp::from_nanos(
                time.positive().map_or(0, gst::ClockTime::nseconds),
            ))
        };
        Unit {
            stream,
            tag: meta::of(buffer),
            pts: running(buffer.pts()),
            arrived,
            content,
        }
    }

    /// Takes the decoder to READY and back, so that it begins with the next
    /// key frame. Gives up when that does not help.
    fn restart_decoder(&self, hub: &Hub, stream: Stream) -> Result<(), gst::FlowError> {
        let (failure, restarts) = {
            let mut state = self.lock();
            state.restarts += 1;
            state.barren = None;
            (state.failure.take(), state.restarts)
        };
        let text = failure.map_or_else(|| "no picture".to_owned(), |e| e.to_string());
        let Some(bin) = self.obj().parent().and_downcast::<DualH264Dec>() else {
            return Err(gst::FlowError::Flushing);
        };
        if restarts > TRIES && bin.replace_decoder(stream, &text) {
            self.lock().restarts = 0;
        } else if restarts > RESTARTS {
            gst::element_imp_error!(
                self,
                gst::StreamError::Decode,
                (
                    "The H.264 decoder of stream {} fails again and again",
                    stream.index()
                ),
                ["started anew {RESTARTS} times without a picture; last error: {text}"]
            );
            return Err(gst::FlowError::Error);
        } else {
            gst::warning!(
                CAT,
                imp = self,
                "Starting the decoder of stream {} anew: {text}",
                stream.index()
            );
            bin.restart_decoder(stream);
        }
        // Errors on the way down are of the old life.
        self.lock().failure = None;
        hub.decoder_restarted(stream);
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        use gst::EventView;
        let Some((hub, stream)) = self.hub.get() else {
            return false;
        };
        match event.view() {
            EventView::Segment(segment) => {
                let mut state = self.lock();
                match segment.segment().downcast_ref::<gst::ClockTime>() {
                    Some(segment) => state.segment = segment.clone(),
                    None => {
                        gst::warning!(CAT, imp = self, "Segment is not in time");
                        state.segment.reset();
                    }
                }
                if std::mem::replace(&mut state.segment_sent, true) {
                    // The decoder's timeline is running time already.
                    return true;
                }
                drop(state);
                let own = gst::FormattedSegment::<gst::ClockTime>::new();
                let own = gst::event::Segment::builder(&own).seqnum(event.seqnum());
                self.srcpad.push_event(own.build())
            }
            EventView::StreamStart(start) => {
                // A decoder drops its references at the start of a stream.
                let id = glib::GString::from(start.stream_id());
                let old = self.lock().stream_id.replace(id.clone());
                match old {
                    Some(old) if old == id => return true,
                    Some(_) => hub.decoder_restarted(*stream),
                    None => {}
                }
                self.srcpad.push_event(event)
            }
            // It would make the decoder drop its references.
            EventView::Gap(_) => true,
            EventView::Eos(_) => {
                self.srcpad.push_event(event);
                // A decoder that had nothing to show says so as an error.
                self.lock().failure = None;
                hub.end(*stream);
                true
            }
            EventView::FlushStop(_) => {
                let result = self.srcpad.push_event(event);
                let mut state = self.lock();
                state.segment.reset();
                state.segment_sent = false;
                state.first = true;
                state.failure = None;
                result
            }
            _ => gst::Pad::event_default(&self.sinkpad, Some(&*self.obj()), event),
        }
    }

    /// Events of the decoder itself; those from downstream come another way.
    fn src_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            gst::EventType::Reconfigure | gst::EventType::Latency => {
                gst::Pad::event_default(&self.srcpad, Some(&*self.obj()), event)
            }
            _ => true,
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for Gate {
    const NAME: &'static str = "GstDualH264DecGate";
    type Type = super::Gate;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
        let pad = |name: &str| klass.pad_template(name).expect("own template");
        let flags = gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION;
        let sinkpad = gst::Pad::builder_from_template(&pad("sink"))
            .chain_function(|_, parent, buffer| {
                Gate::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |gate| gate.chain(buffer),
                )
            })
            .event_function(|_, parent, event| {
                Gate::catch_panic_pad_function(parent, || false, |gate| gate.sink_event(event))
            })
            .flags(flags)
            .build();
        let srcpad = gst::Pad::builder_from_template(&pad("src"))
            .event_function(|_, parent, event| {
                Gate::catch_panic_pad_function(parent, || false, |gate| gate.src_event(event))
            })
            .flags(flags)
            .build();
        Self {
            sinkpad,
            srcpad,
            hub: OnceLock::new(),
            state: Mutex::default(),
        }
    }
}

impl ObjectImpl for Gate {
    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.add_pad(&self.sinkpad)
            .expect("a new element has no pads");
        obj.add_pad(&self.srcpad)
            .expect("a new element has no pads");
    }
}

impl GstObjectImpl for Gate {}

impl ElementImpl for Gate {
    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            [
                ("sink", gst::PadDirection::Sink),
                ("src", gst::PadDirection::Src),
            ]
            .into_iter()
            .filter_map(|(name, direction)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &coded_caps()).ok()
            })
            .collect()
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            *self.lock() = State::default();
        }
        self.parent_change_state(transition)
    }
}
