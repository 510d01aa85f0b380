// SPDX-License-Identifier: MPL-2.0
//! In front of each decoder: coded units in, those to be decoded out, on the
//! common timeline. Private to `dualh264dec`.

use std::sync::Arc;

use dualstream_core::wire::Stream;
use gst::glib;
use gst::subclass::prelude::*;

use super::hub::Hub;

mod imp;

glib::wrapper! {
    pub struct Gate(ObjectSubclass<imp::Gate>) @extends gst::Element, gst::Object;
}

impl Gate {
    pub fn new(hub: Arc<Hub>, stream: Stream) -> Self {
        let gate: Self = glib::Object::builder()
            .property("name", format!("gate{}", stream.index()))
            .build();
        gate.imp().set_up(hub, stream);
        gate
    }

    pub fn sink(&self) -> &gst::Pad {
        &self.imp().sinkpad
    }

    pub fn src(&self) -> &gst::Pad {
        &self.imp().srcpad
    }

    /// The decoder said that it failed.
    pub fn decoder_failed(&self, error: glib::Error) {
        self.imp().decoder_failed(error);
    }

    /// The decoder gave a picture, so that it works again.
    pub fn decoder_works(&self) {
        self.imp().decoder_works();
    }
}
