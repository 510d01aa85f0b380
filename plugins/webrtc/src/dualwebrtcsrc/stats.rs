// SPDX-License-Identifier: MPL-2.0
//! What the worker thread shows of itself.

use std::sync::Mutex;

use gst::glib;

use super::clocks::Clocks;
use crate::fec::Agreed;

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub session: &'static str,
    pub connection: &'static str,
    pub signalling: bool,
    pub producer: String,
    pub sessions: u64,
    /// Index, rtcpiframefeedback, jitter buffer.
    pub streams: Vec<(usize, gst::Element, glib::WeakRef<gst::Element>)>,
    /// Of the session.
    pub clocks: Option<Clocks>,
    pub fec: Agreed,
    pub fec_decoder: Option<gst::Element>,
}

#[derive(Debug, Default)]
pub struct Shared(Mutex<Snapshot>);

impl Shared {
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock().unwrap());
    }

    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap().clone()
    }
}
