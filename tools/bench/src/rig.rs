// SPDX-License-Identifier: MPL-2.0
//! One encoder or decoder element, driven picture by picture with a clock
//! that stands still until it is told to move.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use dualstream_common::Timestamp;
use gst::glib;
use gst::prelude::*;

/// An element that gives nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

mod clock {
    use std::sync::atomic::{AtomicU64, Ordering};

    use gst::glib;
    use gst::subclass::prelude::*;

    #[derive(Default)]
    pub struct VirtualClock {
        pub now: AtomicU64,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for VirtualClock {
        const NAME: &'static str = "DualStreamBenchClock";
        type Type = super::VirtualClock;
        type ParentType = gst::Clock;
    }

    impl ObjectImpl for VirtualClock {}
    impl GstObjectImpl for VirtualClock {}

    impl ClockImpl for VirtualClock {
        fn internal_time(&self) -> gst::ClockTime {
            gst::ClockTime::from_nseconds(self.now.load(Ordering::SeqCst))
        }
    }
}

glib::wrapper! {
    pub struct VirtualClock(ObjectSubclass<clock::VirtualClock>) @extends gst::Clock, gst::Object;
}

impl VirtualClock {
    fn set(&self, now: Timestamp) {
        use gst::subclass::prelude::ObjectSubclassIsExt;
        self.imp()
            .now
            .store(now.as_nanos(), std::sync::atomic::Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Collected {
    outputs: Vec<gst::Buffer>,
    count: u64,
}

type Shared = Arc<(Mutex<Collected>, Condvar)>;

fn lock(shared: &Shared) -> MutexGuard<'_, Collected> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Rig {
    element: gst::Element,
    clock: VirtualClock,
    bus: gst::Bus,
    source: gst::Pad,
    sinks: Vec<gst::Pad>,
    shared: Shared,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.element.set_state(gst::State::Null);
    }
}

impl Rig {
    /// Takes the element to PLAYING, with `caps` on its sink and a sink of
    /// ours behind each of the `src` pads.
    pub fn new(element: gst::Element, src: &[&str], caps: &gst::Caps) -> Result<Self> {
        let shared = Shared::default();
        let clock: VirtualClock = glib::Object::new();
        let bus = gst::Bus::new();
        let source = gst::Pad::builder(gst::PadDirection::Src)
            .event_function(|_, _, _| true)
            .build();
        let sinks: Vec<_> = src.iter().map(|_| sink(&shared)).collect();
        // From here on dropping it sets the element to NULL.
        let rig = Self {
            element,
            clock,
            bus,
            source,
            sinks,
            shared,
        };
        rig.start(src, caps)?;
        Ok(rig)
    }

    fn start(&self, src: &[&str], caps: &gst::Caps) -> Result<()> {
        let element = &self.element;
        let pad = |name: &str| {
            element
                .static_pad(name)
                .ok_or_else(|| anyhow!("{} has no pad {name}", element.name()))
        };
        element.set_bus(Some(&self.bus));
        element.set_clock(Some(&self.clock))?;
        element.set_base_time(gst::ClockTime::ZERO);
        element.set_start_time(gst::ClockTime::NONE);
        self.source.link(&pad("sink")?)?;
        for (name, sink) in src.iter().zip(&self.sinks) {
            pad(name)?.link(sink)?;
            sink.set_active(true)?;
        }
        self.source.set_active(true)?;
        if element.set_state(gst::State::Playing).is_err() {
            bail!(self.fault("does not start"));
        }
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        let events = [
            gst::event::StreamStart::new("bench"),
            gst::event::Caps::new(caps),
            gst::event::Segment::new(&segment),
        ];
        for event in events {
            if !self.source.push_event(event) {
                bail!(self.fault("refuses the format"));
            }
        }
        Ok(())
    }

    fn fault(&self, otherwise: &str) -> anyhow::Error {
        let name = self.element.name();
        self.bus
            .pop_filtered(&[gst::MessageType::Error])
            .map_or_else(
                || anyhow!("{name} {otherwise}"),
                |message| anyhow!("{name}: {}", dualstream_clip::source::describe(&message)),
            )
    }

    pub fn element(&self) -> &gst::Element {
        &self.element
    }

    /// Time only moves by this.
    pub fn set_time(&self, now: Timestamp) {
        self.clock.set(now);
    }

    /// An event from downstream of the pad with this index.
    pub fn send_upstream(&self, pad: usize, event: gst::Event) {
        if let Some(sink) = self.sinks.get(pad) {
            // Whether it is of use is the element's affair.
            let _ = sink.push_event(event);
        }
    }

    pub fn push(&self, buffer: gst::Buffer) -> Result<()> {
        match self.source.push(buffer) {
            Ok(_) => Ok(()),
            Err(err) => Err(self.fault(&format!("does not take a buffer: {err}"))),
        }
    }

    /// Waits until `done` says of the number of all outputs so far that none
    /// is missing, and takes those that are new.
    pub fn take(&self, done: impl Fn(u64) -> bool) -> Result<Vec<gst::Buffer>> {
        let (collected, wait) = self
            .shared
            .1
            .wait_timeout_while(lock(&self.shared), PATIENCE, |c| !done(c.count))
            .unwrap_or_else(PoisonError::into_inner);
        let mut collected = collected;
        if wait.timed_out() {
            drop(collected);
            bail!(self.fault("gives nothing"));
        }
        Ok(std::mem::take(&mut collected.outputs))
    }
}

fn sink(shared: &Shared) -> gst::Pad {
    let data = shared.clone();
    gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, buffer| {
            {
                let mut collected = lock(&data);
                collected.count += 1;
                collected.outputs.push(buffer);
            }
            data.1.notify_all();
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(|_, _, _| true)
        .query_function(|_, _, query| match query.view_mut() {
            gst::QueryViewMut::Caps(caps) => {
                let any = gst::Caps::new_any();
                let result = caps.filter_owned().unwrap_or(any);
                caps.set_result(&result);
                true
            }
            gst::QueryViewMut::AcceptCaps(accept) => {
                accept.set_result(true);
                true
            }
            _ => false,
        })
        .build()
}
