// SPDX-License-Identifier: MPL-2.0
//! FEC of the two streams: an encoder for each in front of the pacer. Each
//! protects its own source only and lets all else pass.
//!
//! ```text
//! rtprtxsend -> rtpflexfecenc -> rtpflexfecenc -> rtppacer -> rtpgcc -> rtpsession
//! ```
//!
//! For ULPFEC, which webrtcbin makes itself, the same elements only say how much
//! of it there is to be. They see each stream before it is wrapped in RED.
//!
//! ```text
//! payloader -> rtpflexfecenc -> in webrtcbin: rtpulpfecenc -> rtpredenc -> rtpfunnel
//!              recommended-percentage -> percentage
//! ```

use std::sync::{Arc, Mutex, Weak};

use gst::prelude::*;
use gst_rtp::RTPBuffer;
use gst_rtp::rtp_buffer::Writable;
use gst_webrtc::{WebRTCFECType, WebRTCRTPTransceiver};

use crate::requirements::make;
use crate::rtp::{self, TWCC_ID};

/// Streams of a session, each with its encoder.
pub const STREAMS: usize = 2;
/// A receiver that waits for retransmissions shows everything by a round trip
/// later; with less than this between, it need not (docs/flexfec.md).
const DEADLINE_MS: u32 = 40;
/// Those that FEC misses wait for a retransmission: fewer than a jitter buffer
/// lets be late.
const TARGET_RESIDUAL: f64 = 0.001;
/// As the encoder's `pt`: no FEC is made.
const IDLE: u32 = 255;

/// What was agreed for one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected {
    pub payload_type: u8,
    pub media: u32,
    pub fec: u32,
}

/// Made once, so that they can be set up before a session and keep their
/// properties from one to the next.
#[derive(Clone, Debug)]
pub struct Encoders([gst::Element; STREAMS]);

impl Encoders {
    pub fn new() -> Result<Self, gst::ErrorMessage> {
        let new = |name| {
            let encoder = make("rtpflexfecenc", name)?;
            encoder.set_property("deadline", DEADLINE_MS);
            encoder.set_property("target-residual", TARGET_RESIDUAL);
            Ok::<_, gst::ErrorMessage>(encoder)
        };
        Ok(Self([new("fec-0")?, new("fec-1")?]))
    }

    pub fn elements(&self) -> &[gst::Element; STREAMS] {
        &self.0
    }

    /// Nothing is protected from here on.
    pub fn idle(&self) {
        for encoder in &self.0 {
            encoder.set_property("pt", IDLE);
            encoder.set_property("dry-run", false);
        }
    }

    /// Stream `index` is protected from here on. `nack`: the peer asks for lost
    /// packets again.
    pub fn protect(&self, index: usize, what: Protected, nack: bool) {
        let Some(encoder) = self.0.get(index) else {
            return;
        };
        encoder.set_property("ssrc", what.fec);
        encoder.set_property("protected-ssrcs", gst::Array::new([what.media]));
        encoder.set_property_from_str("format", "flexfec-03");
        encoder.set_property("nack", nack);
        encoder.set_property("pt", u32::from(what.payload_type));
    }
}

/// The encoders of a session whose FEC is webrtcbin's own. Gives them back when
/// it is dropped.
pub struct UlpFec {
    encoders: Encoders,
    streams: Arc<Mutex<Vec<Stream>>>,
}

struct Stream {
    ssrc: u32,
    encoder: gst::Element,
    stripped: Option<(gst::Pad, gst::PadProbeId)>,
}

impl UlpFec {
    pub fn new(encoders: Encoders, webrtcbin: &gst::Element) -> Self {
        encoders.idle();
        let ulpfec = Self {
            encoders,
            streams: Arc::default(),
        };
        if let Some(bin) = webrtcbin.downcast_ref::<gst::Bin>() {
            let streams = Arc::downgrade(&ulpfec.streams);
            bin.connect_deep_element_added(move |_, _, element| {
                match element.factory().map(|f| f.name()).as_deref() {
                    Some("rtpulpfecenc") => bind_important(element, &streams),
                    Some("rtpredenc") => number_again(element),
                    _ => {}
                }
            });
        }
        ulpfec
    }

    /// What stands before webrtcbin's pad of the next stream.
    pub fn add_stream(
        &mut self,
        ssrc: u32,
        transceiver: &WebRTCRTPTransceiver,
    ) -> Option<gst::Element> {
        transceiver.set_property("fec-type", WebRTCFECType::UlpRed);
        transceiver.set_property("fec-percentage", 0u32);
        let mut streams = self.streams.lock().unwrap();
        let encoder = self.encoders.elements().get(streams.len())?.clone();
        encoder.set_property("protected-ssrcs", gst::Array::new([ssrc]));
        encoder
            .bind_property("recommended-percentage", transceiver, "fec-percentage")
            .build();
        streams.push(Stream {
            ssrc,
            encoder: encoder.clone(),
            stripped: None,
        });
        Some(encoder)
    }

    /// `taken` says of each stream whether the peer takes FEC.
    pub fn begin(&self, taken: &[bool], nack: bool) {
        let mut streams = self.streams.lock().unwrap();
        for (stream, _) in streams.iter_mut().zip(taken).filter(|(_, taken)| **taken) {
            stream.encoder.set_property("nack", nack);
            stream.encoder.set_property("dry-run", true);
            stream.stripped = strip_extensions(&stream.encoder);
        }
    }
}

/// rtpulpfecenc protects header extensions and rtpredenc behind it takes them
/// away: what a receiver makes again of such packets is not what they were. So
/// there are none from here on; see [`number_again`].
fn strip_extensions(encoder: &gst::Element) -> Option<(gst::Pad, gst::PadProbeId)> {
    let pad = encoder.static_pad("src")?;
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    let id = pad.add_probe(kinds, |_, info| {
        for_each(info, &|rtp| rtp.remove_extension_data());
        gst::PadProbeReturn::Ok
    })?;
    Some((pad, id))
}

/// rtpredenc numbers for the transport only what has room for a number.
fn number_again(red: &gst::Element) {
    let Some(sink) = red.static_pad("sink") else {
        return;
    };
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    sink.add_probe(kinds, |_, info| {
        for_each(info, &|rtp| {
            if !rtp.is_extension() {
                // What has no room is not numbered.
                let _ = rtp.add_extension_onebyte_header(TWCC_ID, &[0; 2]);
            }
        });
        gst::PadProbeReturn::Ok
    });
}

fn for_each(info: &mut gst::PadProbeInfo, act: &dyn Fn(&mut RTPBuffer<Writable>)) {
    let act = |buffer: &mut gst::Buffer| {
        if let Ok(mut rtp) = RTPBuffer::from_buffer_writable(buffer.make_mut()) {
            act(&mut rtp);
        }
    };
    match &mut info.data {
        Some(gst::PadProbeData::Buffer(buffer)) => act(buffer),
        Some(gst::PadProbeData::BufferList(list)) => {
            list.make_mut().foreach_mut(|mut buffer, _| {
                act(&mut buffer);
                std::ops::ControlFlow::Continue(Some(buffer))
            });
        }
        _ => {}
    }
}

/// webrtcbin passes on a transceiver's percentage, but not that of important
/// packets. Which stream an encoder is for its first packet tells.
fn bind_important(ulpfec: &gst::Element, streams: &Weak<Mutex<Vec<Stream>>>) {
    let Some(sink) = ulpfec.static_pad("sink") else {
        return;
    };
    let (ulpfec, streams) = (ulpfec.downgrade(), streams.clone());
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    sink.add_probe(kinds, move |_, info| {
        let packet = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => Some(buffer.as_ref()),
            Some(gst::PadProbeData::BufferList(list)) => list.get(0),
            _ => None,
        };
        if let (Some(ssrc), Some(ulpfec), Some(streams)) = (
            packet.and_then(rtp::source),
            ulpfec.upgrade(),
            streams.upgrade(),
        ) && let Some(stream) = streams.lock().unwrap().iter().find(|s| s.ssrc == ssrc)
        {
            stream
                .encoder
                .bind_property(
                    "recommended-percentage-key",
                    &ulpfec,
                    "percentage-important",
                )
                .sync_create()
                .build();
        }
        gst::PadProbeReturn::Remove
    });
}

impl Drop for UlpFec {
    fn drop(&mut self) {
        let stripped = |stream: &mut Stream| stream.stripped.take();
        let mut streams = self.streams.lock().unwrap();
        for (pad, id) in streams.iter_mut().filter_map(stripped) {
            pad.remove_probe(id);
        }
        drop(streams);
        for encoder in self.encoders.elements() {
            // In a bin that was not started, or was stopped before.
            let _ = encoder.set_state(gst::State::Null);
            let parent = encoder.parent().and_then(|p| p.downcast::<gst::Bin>().ok());
            if let Some(bin) = parent {
                let _ = bin.remove(encoder);
            }
        }
        self.encoders.idle();
    }
}
