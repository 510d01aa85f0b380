// SPDX-License-Identifier: MPL-2.0
//! When the jitter buffers ask for lost packets again.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

/// While FEC packets come in, a lost packet is asked for this much later than it
/// was due. FEC comes behind the last packet of a frame, so most of what it can
/// recover is there by then; a request too much costs one packet, one too late
/// a picture that stands: at a round trip of 80 ms, 40 ms more make a freeze of
/// what FEC could not recover.
const FEC_FIRST_MS: u32 = 15;
/// But no more than this part of what the jitter buffer waits in all.
const PART_OF_LATENCY: u32 = 5;

#[derive(Debug, Default)]
struct State {
    fec: bool,
    jitterbuffers: Vec<glib::WeakRef<gst::Element>>,
}

/// The jitter buffers of a session.
#[derive(Clone, Debug, Default)]
pub struct Repair(Arc<Mutex<State>>);

impl Repair {
    pub fn add(&self, jitterbuffer: &gst::Element) {
        // Another implementation may have other means.
        if !["rtx-delay-reorder", "rtx-min-delay", "latency"]
            .iter()
            .all(|name| jitterbuffer.has_property(name))
        {
            return;
        }
        let fec = {
            let mut state = self.0.lock().unwrap();
            state.jitterbuffers.retain(|weak| weak.upgrade().is_some());
            state.jitterbuffers.push(jitterbuffer.downgrade());
            state.fec
        };
        if fec {
            set(jitterbuffer, fec);
        }
    }

    /// Whether FEC packets come in.
    pub fn set_fec(&self, fec: bool) {
        let jitterbuffers: Vec<_> = {
            let mut state = self.0.lock().unwrap();
            if std::mem::replace(&mut state.fec, fec) == fec {
                return;
            }
            state
                .jitterbuffers
                .iter()
                .filter_map(glib::WeakRef::upgrade)
                .collect()
        };
        for jitterbuffer in jitterbuffers {
            set(&jitterbuffer, fec);
        }
    }
}

fn set(jitterbuffer: &gst::Element, fec: bool) {
    if fec {
        let latency: u32 = jitterbuffer.property("latency");
        // By default three later packets are enough to ask.
        jitterbuffer.set_property("rtx-delay-reorder", 0i32);
        jitterbuffer.set_property("rtx-min-delay", FEC_FIRST_MS.min(latency / PART_OF_LATENCY));
    } else {
        for name in ["rtx-delay-reorder", "rtx-min-delay"] {
            if let Some(spec) = jitterbuffer.find_property(name) {
                jitterbuffer.set_property_from_value(name, spec.default_value());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fec_goes_first_while_it_is_there() {
        gst::init().unwrap();
        let make = |latency: u32| {
            gst::ElementFactory::make("rtpjitterbuffer")
                .property("latency", latency)
                .build()
                .unwrap()
        };
        let state = |jitterbuffer: &gst::Element| {
            (
                jitterbuffer.property::<i32>("rtx-delay-reorder"),
                jitterbuffer.property::<u32>("rtx-min-delay"),
            )
        };
        let repair = Repair::default();
        let before = make(200);
        let default = state(&before);
        repair.add(&before);
        assert_eq!(state(&before), default);
        repair.set_fec(true);
        let (after, short) = (make(200), make(50));
        repair.add(&after);
        repair.add(&short);
        assert_eq!(state(&before), (0, 15));
        assert_eq!(state(&after), (0, 15));
        assert_eq!(state(&short), (0, 10));
        repair.set_fec(false);
        assert_eq!(state(&before), default);
        assert_eq!(state(&short), default);
        assert_ne!(default, (0, 0));
        // One of another kind is left alone.
        repair.add(&gst::ElementFactory::make("identity").build().unwrap());
        repair.set_fec(true);
    }
}
