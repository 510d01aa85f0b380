// SPDX-License-Identifier: MPL-2.0
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};

use dualstream_common::Timestamp;
use dualstream_core::receiver::{Decoded, Shown};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::super::DualH264Dec;
use super::super::hub::{Hub, Output, Picture};
use super::super::imp::CAT;
use crate::meta;

/// What was sent downstream since the last start or flush. Only the output
/// task and what stops it touch this.
#[derive(Default)]
struct Sent {
    segment: bool,
    caps: Option<gst::Caps>,
    pts: Option<gst::ClockTime>,
}

pub struct Join {
    pub(super) sinkpads: [gst::Pad; 2],
    pub(super) srcpad: gst::Pad,
    hub: OnceLock<Arc<Hub>>,
    sent: Mutex<Sent>,
}

impl Join {
    pub(super) fn set_up(&self, hub: Arc<Hub>) {
        let _ = self.hub.set(hub);
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn bin(&self) -> Option<DualH264Dec> {
        self.obj().parent().and_downcast()
    }

    fn stream_of(&self, pad: &gst::Pad) -> Stream {
        if *pad == self.sinkpads[1] {
            Stream::One
        } else {
            Stream::Zero
        }
    }

    fn chain(
        &self,
        pad: &gst::Pad,
        buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let hub = self.hub.get().ok_or(gst::FlowError::Error)?;
        let stream = self.stream_of(pad);
        let caps = pad.current_caps().ok_or(gst::FlowError::NotNegotiated)?;
        let decoded = Decoded {
            stream,
            tag: meta::of(&buffer),
            pts: buffer.pts().map(|t| Timestamp::from_nanos(t.nseconds())),
            corrupt: buffer.flags().contains(gst::BufferFlags::CORRUPTED),
        };
        if let Some(bin) = self.bin() {
            bin.decoder_works(stream);
        }
        hub.picture(decoded, Picture { buffer, caps })
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        use gst::EventView;
        let Some(hub) = self.hub.get() else {
            return false;
        };
        match event.view() {
            // A seek flushes both streams with one seqnum: the first to come
            // flushes the output, the second its own stream only.
            EventView::FlushStart(_) => {
                let seqnum = event.seqnum();
                if hub.lock().flush_started.replace(seqnum) == Some(seqnum) {
                    hub.decoder_restarted(self.stream_of(pad));
                    return true;
                }
                hub.set_running(false);
                self.srcpad.push_event(event);
                let _ = self.srcpad.pause_task();
                hub.flush();
                true
            }
            EventView::FlushStop(_) => {
                let seqnum = event.seqnum();
                if hub.lock().flush_stopped.replace(seqnum) == Some(seqnum) {
                    return true;
                }
                hub.set_running(false);
                // The task has ended its turn when this is to be had.
                let stream_lock = self.srcpad.stream_lock();
                hub.flush();
                *self.sent() = Sent::default();
                drop(stream_lock);
                self.srcpad.push_event(event);
                hub.set_running(true);
                self.start_task().is_ok()
            }
            // The output has its own stream start, segment and end.
            EventView::StreamStart(_)
            | EventView::Segment(_)
            | EventView::Caps(_)
            | EventView::Eos(_)
            | EventView::Gap(_)
            | EventView::Tag(_)
            | EventView::StreamGroupDone(_) => true,
            _ if event.is_serialized() => true,
            _ => self.srcpad.push_event(event),
        }
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Allocation(allocation) = query.view_mut() {
            // Pictures of two decoders are held here: each uses its own pool.
            // What can be told is whether strides may differ.
            let Some(hub) = self.hub.get() else {
                return false;
            };
            if hub.lock().video_meta {
                allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
            }
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    /// QoS goes by the decoders, too: one that skips frames loses references.
    fn src_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            gst::EventType::Reconfigure => {
                gst::Pad::event_default(&self.srcpad, Some(&*self.obj()), event)
            }
            _ => self.bin().is_some_and(|bin| bin.send_upstream(event)),
        }
    }

    fn src_query(&self, query: &mut gst::QueryRef) -> bool {
        let gst::QueryViewMut::Latency(latency) = query.view_mut() else {
            return gst::Pad::query_default(&self.srcpad, Some(&*self.obj()), query);
        };
        let linked = self.bin().map(|b| b.linked()).unwrap_or_default();
        let mut live = false;
        let mut min = gst::ClockTime::ZERO;
        let mut max = None;
        for (pad, _) in self
            .sinkpads
            .iter()
            .zip(linked)
            .filter(|(_, linked)| *linked)
        {
            let mut query = gst::query::Latency::new();
            if !pad.peer_query(&mut query) {
                return false;
            }
            let (its_live, its_min, its_max) = query.result();
            if its_live {
                live = true;
                min = min.max(its_min);
                max = match (max, its_max) {
                    (Some(max), Some(its)) => Some(its.min(max)),
                    (max, its) => max.or(its),
                };
            }
        }
        latency.set(live, min, max);
        true
    }

    fn start_task(&self) -> Result<(), glib::BoolError> {
        let join = self.obj().downgrade();
        self.srcpad.start_task(move || {
            if let Some(join) = join.upgrade() {
                let imp = Self::from_obj(&join);
                let stop = || {
                    let _ = imp.srcpad.pause_task();
                };
                imp.catch_panic(stop, Self::output);
            }
        })
    }

    /// One turn of the output task.
    fn output(&self) {
        let Some(hub) = self.hub.get() else { return };
        let result = match hub.next_output() {
            Output::Show(shown) => self.show(hub, *shown),
            Output::Message(action) => {
                hub.send(action);
                return;
            }
            Output::Eos => {
                self.start_stream();
                self.srcpad.push_event(gst::event::Eos::new());
                Err(gst::FlowError::Eos)
            }
            Output::Stop => {
                let _ = self.srcpad.pause_task();
                return;
            }
        };
        let Err(error) = result else { return };
        // A flush that came meanwhile has the last word.
        let mut state = hub.lock();
        if state.flow.is_ok() {
            state.flow = Err(error);
        }
        drop(state);
        hub.links_changed();
        let _ = self.srcpad.pause_task();
        match error {
            gst::FlowError::Flushing | gst::FlowError::Eos => {
                gst::debug!(CAT, imp = self, "Output stops: {error:?}");
            }
            _ => {
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Failed,
                    ("Internal data stream error."),
                    ["downstream returned {error:?}"]
                );
                self.srcpad.push_event(gst::event::Eos::new());
            }
        }
    }

    fn start_stream(&self) {
        if std::mem::replace(&mut self.sent().segment, true) {
            return;
        }
        // With two inputs there is no one upstream id to derive it from.
        let id = format!("dualh264dec/{}", glib::uuid_string_random());
        let start = gst::event::StreamStart::builder(&id)
            .group_id(gst::GroupId::next())
            .build();
        if self
            .srcpad
            .sticky_event::<gst::event::StreamStart>(0)
            .is_none()
        {
            self.srcpad.push_event(start);
        }
    }

    fn show(&self, hub: &Hub, shown: Shown<Picture>) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Picture { mut buffer, caps } = shown.picture;
        let first = !self.sent().segment;
        self.start_stream();
        if self.sent().caps.as_ref() != Some(&caps) {
            gst::info!(CAT, imp = self, "Caps {caps}");
            self.srcpad.push_event(gst::event::Caps::new(&caps));
            self.sent().caps = Some(caps.clone());
        }
        if first {
            let segment = gst::FormattedSegment::<gst::ClockTime>::new();
            self.srcpad.push_event(gst::event::Segment::new(&segment));
        }
        if first || self.srcpad.check_reconfigure() {
            self.ask_downstream(hub, &caps);
        }
        {
            let buffer = buffer.make_mut();
            let mut sent = self.sent();
            // The streams' time stamps are those of two RTP sessions and may
            // differ by a little; order is by number.
            let pts = match (buffer.pts(), sent.pts) {
                (Some(pts), Some(last)) if pts <= last => {
                    Some(last + gst::ClockTime::from_nseconds(1))
                }
                (pts, _) => pts,
            };
            buffer.set_pts(pts);
            buffer.set_dts(gst::ClockTime::NONE);
            sent.pts = pts.or(sent.pts);
            if let Some(tag) = shown.tag {
                meta::set(buffer, tag);
            }
            if first {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            } else {
                buffer.unset_flags(gst::BufferFlags::DISCONT);
            }
            if !shown.whole {
                buffer.set_flags(gst::BufferFlags::CORRUPTED);
            }
        }
        self.srcpad.push(buffer)
    }

    /// Whether downstream takes pictures with strides of their own.
    fn ask_downstream(&self, hub: &Hub, caps: &gst::Caps) {
        let mut query = gst::query::Allocation::new(Some(caps), false);
        let takes = self.srcpad.peer_query(&mut query)
            && query
                .find_allocation_meta::<gst_video::VideoMeta>()
                .is_some();
        let changed = std::mem::replace(&mut hub.lock().video_meta, takes) != takes;
        if changed {
            for pad in &self.sinkpads {
                // Makes the decoder ask again.
                pad.push_event(gst::event::Reconfigure::new());
            }
        }
    }

    fn activate(&self, active: bool) -> Result<(), gst::LoggableError> {
        let Some(hub) = self.hub.get() else {
            return Err(gst::loggable_error!(CAT, "not set up"));
        };
        hub.set_running(active);
        if active {
            *self.sent() = Sent::default();
            self.start_task()?;
        } else {
            self.srcpad.stop_task()?;
        }
        Ok(())
    }
}

#[glib::object_subclass]
impl ObjectSubclass for Join {
    const NAME: &'static str = "GstDualH264DecJoin";
    type Type = super::Join;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
        let pad = |name: &str| klass.pad_template(name).expect("own template");
        let sinkpads = ["sink_0", "sink_1"].map(|name| {
            gst::Pad::builder_from_template(&pad(name))
                .chain_function(|pad, parent, buffer| {
                    Join::catch_panic_pad_function(
                        parent,
                        || Err(gst::FlowError::Error),
                        |join| join.chain(pad, buffer),
                    )
                })
                .event_function(|pad, parent, event| {
                    Join::catch_panic_pad_function(
                        parent,
                        || false,
                        |join| join.sink_event(pad, event),
                    )
                })
                .query_function(|pad, parent, query| {
                    Join::catch_panic_pad_function(
                        parent,
                        || false,
                        |join| join.sink_query(pad, query),
                    )
                })
                .flags(gst::PadFlags::PROXY_CAPS)
                .build()
        });
        let srcpad = gst::Pad::builder_from_template(&pad("src"))
            .event_function(|_, parent, event| {
                Join::catch_panic_pad_function(parent, || false, |join| join.src_event(event))
            })
            .query_function(|_, parent, query| {
                Join::catch_panic_pad_function(parent, || false, |join| join.src_query(query))
            })
            .activatemode_function(|_, parent, mode, active| {
                Join::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "panicked")),
                    |join| match mode {
                        gst::PadMode::Push => join.activate(active),
                        _ => Err(gst::loggable_error!(CAT, "only push mode")),
                    },
                )
            })
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        Self {
            sinkpads,
            srcpad,
            hub: OnceLock::new(),
            sent: Mutex::default(),
        }
    }
}

impl ObjectImpl for Join {
    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in self.sinkpads.iter().chain([&self.srcpad]) {
            obj.add_pad(pad).expect("a new element has no pads");
        }
    }
}

impl GstObjectImpl for Join {}

impl ElementImpl for Join {
    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let raw = gst::Caps::builder("video/x-raw").any_features().build();
            [
                ("sink_0", gst::PadDirection::Sink),
                ("sink_1", gst::PadDirection::Sink),
                ("src", gst::PadDirection::Src),
            ]
            .into_iter()
            .filter_map(|(name, direction)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &raw).ok()
            })
            .collect()
        });
        &TEMPLATES
    }
}
