// SPDX-License-Identifier: MPL-2.0
use dualstream_core::receiver::{AskRecovery, Complete};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

mod decoder;
mod gate;
mod hub;
mod imp;
mod join;

glib::wrapper! {
    pub struct DualH264Dec(ObjectSubclass<imp::DualH264Dec>)
        @extends gst::Bin, gst::Element, gst::Object;
}

// For the elements inside.
impl DualH264Dec {
    fn linked(&self) -> [bool; 2] {
        self.imp().linked()
    }

    fn send_complete(&self, complete: Complete) {
        self.imp().send_complete(complete);
    }

    fn ask_recovery(&self, ask: AskRecovery) {
        self.imp().ask_recovery(ask);
    }

    fn send_upstream(&self, event: gst::Event) -> bool {
        self.imp().send_upstream(event)
    }

    fn decoder_works(&self, stream: Stream) {
        self.imp().decoder_works(stream);
    }

    fn replace_decoder(&self, stream: Stream, why: &str) -> bool {
        self.imp().replace_decoder(stream, why)
    }

    fn restart_decoder(&self, stream: Stream) {
        self.imp().restart_decoder(stream);
    }
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "dualh264dec",
        gst::Rank::NONE,
        DualH264Dec::static_type(),
    )
}
