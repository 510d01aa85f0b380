// SPDX-License-Identifier: MPL-2.0
//! What leaves, as GStreamer takes it.

use dualstream_common::Timestamp;
use jitterbuffer_core::{Lost, Request};

/// One event each, but no more of one gap: depayloaders conceal single packets,
/// not seconds.
pub const MOST_LOST_EVENTS: u16 = 256;

pub fn shifted(time: Timestamp, offset: i64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(time.as_nanos().saturating_add_signed(offset))
}

/// The buffer with its time, and without the flags of its way in.
pub fn stamp(mut buffer: gst::Buffer, pts: gst::ClockTime, discont: bool) -> gst::Buffer {
    {
        let buffer = buffer.make_mut();
        buffer.set_pts(pts);
        buffer.set_dts(None);
        if discont {
            buffer.set_flags(gst::BufferFlags::DISCONT);
        } else {
            buffer.unset_flags(gst::BufferFlags::DISCONT);
        }
    }
    buffer
}

/// As rtpjitterbuffer sends them.
pub fn lost_events(lost: &Lost, pts: gst::ClockTime) -> impl Iterator<Item = gst::Event> {
    let (first, requests) = (lost.sequence, lost.requests);
    (0..lost.count.min(MOST_LOST_EVENTS)).map(move |n| {
        gst::event::CustomDownstream::new(
            gst::Structure::builder("GstRTPPacketLost")
                .field("seqnum", u32::from(first.wrapping_add(n)))
                .field("timestamp", pts)
                .field("duration", gst::ClockTime::ZERO)
                .field("retry", requests)
                .build(),
        )
    })
}

/// The same.
pub fn request_event(
    request: &Request,
    now: Timestamp,
    rtt: Option<std::time::Duration>,
) -> gst::Event {
    let ms = |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let rtt = rtt.map_or(0, ms);
    gst::event::CustomUpstream::new(
        gst::Structure::builder("GstRTPRetransmissionRequest")
            .field("seqnum", u32::from(request.sequence))
            .field("running-time", now.as_nanos())
            .field("delay", ms(request.delay))
            .field("retry", request.retry)
            .field("frequency", rtt)
            .field("period", ms(request.deadline))
            .field("deadline", ms(request.deadline))
            .field("packet-spacing", 0u64)
            .field("avg-rtt", rtt)
            .build(),
    )
}

/// Asks for a key frame; rtpsession makes PLI or FIR of it for sources whose
/// SSRC and payload type it is told.
pub fn key_frame_event(source: Option<(u8, u32)>) -> gst::Event {
    let mut s = gst::Structure::builder("GstForceKeyUnit")
        .field("running-time", gst::ClockTime::NONE)
        .field("all-headers", true)
        .field("count", 0u32)
        .build();
    if let Some((pt, ssrc)) = source {
        s.set("payload", u32::from(pt));
        s.set("ssrc", ssrc);
    }
    gst::event::CustomUpstream::new(s)
}
