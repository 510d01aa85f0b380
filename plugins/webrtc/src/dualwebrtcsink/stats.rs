// SPDX-License-Identifier: MPL-2.0
//! What the worker thread shows of itself.

use std::sync::Mutex;

use super::data_channel::DataChannel;
use crate::fec::Agreed;

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub session: &'static str,
    pub connection: &'static str,
    pub signalling: bool,
    pub dual: bool,
    pub reason: String,
    pub sessions: u64,
    pub refused: u64,
    pub feedback: Vec<gst::Element>,
    /// To a page, while there is a session with it.
    pub channel: Option<DataChannel>,
    /// There is a session with congestion control.
    pub control: bool,
    pub fec: Agreed,
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
