// SPDX-License-Identifier: MPL-2.0
//! What lives from READY to PAUSED and back.

use std::collections::VecDeque;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use gst::glib;
use pacer_core::{Pacer, Priority};

use super::classify::{Classifier, Header};
use super::padding::Padding;
use super::requests::Requests;
use super::settings::Settings;

/// Sticky events that are remembered, so that they are not repeated.
const MOST_STICKY: usize = 16;

/// What waits behind a serialised event, and the event.
pub enum Item {
    Event(gst::Event),
    Buffer(Header, Priority, gst::Buffer),
}

pub struct State {
    pub core: Pacer<gst::Buffer>,
    pub requests: Requests,
    pub classifier: Classifier,
    pub padding: Padding,
    /// As chosen; else it is found.
    pub padding_pt: Option<u8>,
    pub padded: u64,
    pub padded_bytes: DataSize,
    /// Begins with an event, if anything.
    pub behind: VecDeque<Item>,
    pub segment: Option<gst::Segment>,
    /// Events that went into the queue, one of a kind.
    pub sticky: Vec<gst::Event>,
    /// What goes now.
    pub ready: Vec<gst::Buffer>,
    /// When the core wants to be asked again.
    pub due: Option<Timestamp>,
    /// Our segment has left, so that packets may.
    pub open: bool,
    /// The target is of an event, not of the property.
    pub estimated: bool,
    pub flushing: bool,
    /// What the streaming thread is waiting for, and until when.
    pub wait: Option<(Timestamp, gst::SingleShotClockId)>,
    /// It waits for something to do.
    pub idle: bool,
    /// Of the last push downstream.
    pub flow: Result<gst::FlowSuccess, gst::FlowError>,
    pub eos_in: bool,
    pub refused: u64,
    pub malformed: u64,
    pub wrong_fields: u64,
    pub padding_skipped: u64,
    pub behind_dropped: u64,
}

impl State {
    pub fn new(settings: &Settings) -> Result<Self, pacer_core::ConfigError> {
        let mut core = Pacer::new(settings.config())?;
        let mut requests = Requests::new(settings.requests());
        if settings.bitrate > 0 {
            let target = Bitrate::from_bps(settings.bitrate);
            core.set_target(Timestamp::ZERO, target);
            requests.core.set_target(Timestamp::ZERO, Some(target));
        }
        Ok(Self {
            core,
            requests,
            classifier: Classifier::new(settings.roles()),
            padding: Padding::new(
                glib::random_int(),
                glib::random_int() as u16,
                glib::random_int(),
            ),
            padding_pt: u8::try_from(settings.padding_pt).ok(),
            padded: 0,
            padded_bytes: DataSize::ZERO,
            behind: VecDeque::new(),
            segment: None,
            sticky: Vec::new(),
            ready: Vec::new(),
            due: None,
            open: false,
            estimated: false,
            flushing: true,
            wait: None,
            idle: false,
            flow: Ok(gst::FlowSuccess::Ok),
            eos_in: false,
            refused: 0,
            malformed: 0,
            wrong_fields: 0,
            padding_skipped: 0,
            behind_dropped: 0,
        })
    }

    /// Drops what is held, as after a flush.
    pub fn empty(&mut self) {
        self.core.flush();
        self.requests.flush();
        self.ready.clear();
        self.due = None;
        let buffers = self.behind.iter().filter(|i| matches!(i, Item::Buffer(..)));
        self.behind_dropped += buffers.count() as u64;
        self.behind.clear();
        self.segment = None;
        self.sticky.clear();
        self.open = false;
        self.eos_in = false;
        self.flow = Ok(gst::FlowSuccess::Ok);
    }

    /// When there is something to do.
    pub fn next_due(&self) -> Option<Timestamp> {
        match (self.due, self.requests.due) {
            (Some(core), Some(requests)) => Some(core.min(requests)),
            (core, requests) => core.or(requests),
        }
    }

    /// Makes the streaming thread look again.
    pub fn wake(&mut self) -> Wake {
        Wake {
            wait: self.wait.take().map(|(_, id)| id),
            idle: std::mem::take(&mut self.idle),
        }
    }

    /// The same, but only if there is something to do before it wakes anyway.
    pub fn wake_if_due(&mut self) -> Wake {
        let sooner = match (&self.wait, self.next_due()) {
            (Some((until, _)), Some(due)) => due < *until,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if sooner || !self.ready.is_empty() || !self.requests.ready.is_empty() {
            self.wake()
        } else {
            Wake::default()
        }
    }

    pub fn holds_buffers(&self) -> bool {
        let is_buffer = |item: &Item| matches!(item, Item::Buffer(..));
        !self.core.is_empty() || self.behind.iter().any(is_buffer)
    }

    /// Is this event already there?
    pub fn is_repeated(&mut self, event: &gst::Event) -> bool {
        let same = |old: &gst::Event| match (old.view(), event.view()) {
            (gst::EventView::Caps(a), gst::EventView::Caps(b)) => a.caps() == b.caps(),
            (gst::EventView::StreamStart(a), gst::EventView::StreamStart(b)) => {
                a.stream_id() == b.stream_id() && a.group_id() == b.group_id()
            }
            (gst::EventView::CustomDownstreamSticky(_), _) => old.as_ptr() == event.as_ptr(),
            _ => false,
        };
        let replaced = |old: &gst::Event| {
            let name = |e: &gst::Event| e.structure().map(|s| s.name().to_owned());
            old.type_() == event.type_()
                && (old.type_() != gst::EventType::CustomDownstreamSticky
                    || name(old) == name(event))
        };
        if !event.is_sticky() {
            return false;
        }
        if self.sticky.iter().any(same) {
            return true;
        }
        self.sticky.retain(|old| !replaced(old));
        if self.sticky.len() < MOST_STICKY {
            self.sticky.push(event.clone());
        }
        false
    }

    pub fn running_time(&self, time: Option<gst::ClockTime>) -> Option<gst::ClockTime> {
        let time = time?;
        let Some(segment) = self
            .segment
            .as_ref()
            .and_then(|s| s.downcast_ref::<gst::ClockTime>())
        else {
            return Some(time);
        };
        // What is from before the segment is due at once.
        Some(match segment.to_running_time_full(time)? {
            gst::Signed::Positive(time) => time,
            gst::Signed::Negative(_) => gst::ClockTime::ZERO,
        })
    }
}

/// How to wake the streaming thread: without the lock, which it takes at once.
#[derive(Default)]
#[must_use]
pub struct Wake {
    pub wait: Option<gst::SingleShotClockId>,
    pub idle: bool,
}

/// The buffer with timestamps in running time; its memory is not touched.
pub fn in_running_time(state: &State, mut buffer: gst::Buffer) -> gst::Buffer {
    let (pts, dts) = (
        state.running_time(buffer.pts()),
        state.running_time(buffer.dts()),
    );
    if (pts, dts) != (buffer.pts(), buffer.dts()) {
        let buffer = buffer.make_mut();
        buffer.set_pts(pts);
        buffer.set_dts(dts);
    }
    buffer
}
