// SPDX-License-Identifier: MPL-2.0
//! Requests for retransmission, from rtpsession to the rtprtxsend in front: the
//! custom upstream event `GstRTPRetransmissionRequest`, one for each packet.

use dualstream_common::Timestamp;
use pacer_core::{Departure, NextAnswer, Refusal, RequestConfig, RequestStats};

const EVENT: &str = "GstRTPRetransmissionRequest";

/// SSRC and sequence number.
pub type Packet = (u32, u16);

/// The packet that an event asks for.
pub fn asked(event: &gst::Event) -> Option<Packet> {
    let s = event.structure().filter(|s| s.has_name(EVENT))?;
    let (ssrc, sequence) = (s.get("ssrc").ok()?, s.get::<u32>("seqnum").ok()?);
    Some((ssrc, u16::try_from(sequence).ok()?))
}

pub struct Requests {
    pub core: pacer_core::Requests<gst::Event>,
    /// What goes upstream now.
    pub ready: Vec<gst::Event>,
    /// When the core wants to be asked again.
    pub due: Option<Timestamp>,
}

impl Requests {
    pub fn new(config: RequestConfig) -> Self {
        Self {
            core: pacer_core::Requests::new(config),
            ready: Vec::new(),
            due: None,
        }
    }

    pub fn sent(&mut self, now: Timestamp, departure: &Departure<gst::Buffer>) {
        let mut sequence = [0; 2];
        if departure.packet.copy_to_slice(2, &mut sequence).is_ok() {
            let packet = (departure.ssrc, u16::from_be_bytes(sequence));
            let (priority, size) = (departure.priority, departure.size);
            self.core.sent(now, packet, priority, size);
        }
    }

    pub fn ask(
        &mut self,
        now: Timestamp,
        packet: Packet,
        event: gst::Event,
    ) -> Result<(), Refusal> {
        let done = self.core.request(now, packet, event);
        self.run(now);
        done
    }

    pub fn run(&mut self, now: Timestamp) {
        self.due = loop {
            match self.core.poll(now) {
                NextAnswer::Answer(event) => self.ready.push(event),
                NextAnswer::WaitUntil(until) => break Some(until),
                NextAnswer::Idle => break None,
            }
        };
    }

    pub fn flush(&mut self) {
        self.core.flush();
        self.ready.clear();
        self.due = None;
    }
}

pub fn structure(stats: &RequestStats) -> gst::Structure {
    gst::Structure::builder("requests")
        .field("requested", stats.requested)
        .field("answered", stats.answered)
        .field("not-sent", stats.not_sent)
        .field("too-late", stats.too_late)
        .field("repeated", stats.repeated)
        .field("over-budget", stats.over_budget)
        .field("flushed", stats.flushed)
        .field("waiting", stats.waiting)
        .build()
}
