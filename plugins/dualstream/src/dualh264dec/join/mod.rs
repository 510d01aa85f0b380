// SPDX-License-Identifier: MPL-2.0
//! Behind both decoders: pictures in, those to be shown out, in order, from
//! one task. Private to `dualh264dec`.

use std::sync::Arc;

use dualstream_core::wire::Stream;
use gst::glib;
use gst::subclass::prelude::*;

use super::hub::Hub;

mod imp;

glib::wrapper! {
    pub struct Join(ObjectSubclass<imp::Join>) @extends gst::Element, gst::Object;
}

impl Join {
    pub fn new(hub: Arc<Hub>) -> Self {
        let join: Self = glib::Object::builder().property("name", "join").build();
        join.imp().set_up(hub);
        join
    }

    pub fn sink(&self, stream: Stream) -> &gst::Pad {
        &self.imp().sinkpads[stream.index()]
    }

    pub fn src(&self) -> &gst::Pad {
        &self.imp().srcpad
    }
}
