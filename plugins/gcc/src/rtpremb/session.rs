// SPDX-License-Identifier: MPL-2.0
//! Finds the RTP session that RTCP can be sent by.
//!
//! ```text
//! rtpsession.recv_rtp_src -> [aux bin, rtprtxreceive, ...] -> sink   (behind)
//! src -> [queue, ...] -> rtpsession.recv_rtp_sink                    (in front)
//! src -> [queue, ...] -> rtpbin.recv_rtp_sink_0 -> rtpsession.recv_rtp_sink
//! ```
//!
//! It only follows pads, and never asks rtpbin: rtpbin's lock may be held by
//! who waits for our thread.

use gst::glib;
use gst::prelude::*;

/// More elements than this are not followed: a loop of links would otherwise
/// be followed for ever.
const MAX_HOPS: usize = 32;

/// The GstRtpSession element that the packets come from or go to.
pub fn find(sinkpad: &gst::Pad, srcpad: &gst::Pad) -> Option<gst::Element> {
    walk(sinkpad, "recv_rtp_src").or_else(|| walk(srcpad, "recv_rtp_sink"))
}

fn walk(pad: &gst::Pad, entry: &str) -> Option<gst::Element> {
    let direction = pad.direction();
    let mut arrived = pad.peer();
    for _ in 0..MAX_HOPS {
        let at = arrived.take()?;
        if let Some(ghost) = at.downcast_ref::<gst::GhostPad>() {
            arrived = ghost.target();
        } else if at.is::<gst::ProxyPad>() {
            // Out of the bin that this ghost pad belongs to.
            let ghost = at.parent().and_downcast::<gst::Pad>()?;
            arrived = ghost.peer();
        } else {
            let element = at.parent_element()?;
            if is_session(&element) {
                return (at.name() == entry).then_some(element);
            }
            let pads = match direction {
                gst::PadDirection::Src => element.src_pads(),
                _ => element.sink_pads(),
            };
            // With several, the jitter buffer's among them, nobody knows.
            let [only] = <[gst::Pad; 1]>::try_from(pads).ok()?;
            arrived = only.peer();
        }
    }
    None
}

fn is_session(element: &gst::Element) -> bool {
    glib::Type::from_name("GstRtpSession").is_some_and(|type_| element.type_().is_a(type_))
}
