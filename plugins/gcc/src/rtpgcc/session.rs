// SPDX-License-Identifier: MPL-2.0
//! Finds the RTP session that takes what leaves by a pad.
//!
//! ```text
//! src -> [queue, ...] -> rtpsession.send_rtp_sink          (aux sender)
//!     -> [queue, ...] -> rtpbin.send_rtp_sink_0
//!     -> [queue, ...] -> webrtcbin.sink_0 -> ...
//! ```

use gst::glib;
use gst::prelude::*;

/// More elements than this are not followed: a loop of links would otherwise
/// be followed for ever.
const MAX_HOPS: usize = 32;

/// The GstRtpSession element downstream of `pad`, if there is one by now.
///
/// May take the lock of rtpbin, which rtpbin also holds while it stops
/// streaming threads: not to be called from one.
pub fn find(pad: &gst::Pad) -> Option<gst::Element> {
    let get = |rtpbin: &gst::Element, id: u32| {
        rtpbin.emit_by_name::<Option<gst::Element>>("get-session", &[&id])
    };
    // A bin with an rtpbin inside, whose way to it is not a plain one.
    let mut around = None;
    let mut arrived = pad.peer();
    for _ in 0..MAX_HOPS {
        let Some(at) = arrived.take() else { break };
        if let Some(ghost) = at.downcast_ref::<gst::GhostPad>() {
            let bin = at.parent_element()?;
            if is(&bin, "GstRtpBin") {
                let id = at.name().strip_prefix("send_rtp_sink_")?.parse().ok()?;
                return get(&bin, id);
            }
            arrived = ghost.target();
            around = around.or_else(|| child_rtpbin(&bin));
        } else if at.is::<gst::ProxyPad>() {
            // Out of the bin that this ghost pad belongs to.
            let ghost = at.parent().and_downcast::<gst::Pad>();
            arrived = ghost.and_then(|ghost| ghost.peer());
        } else {
            let element = at.parent_element()?;
            if is(&element, "GstRtpSession") {
                return (at.name() == "send_rtp_sink").then_some(element);
            }
            arrived = match <[gst::Pad; 1]>::try_from(element.src_pads()) {
                Ok([pad]) => pad.peer(),
                Err(_) => None,
            };
        }
    }
    // webrtcbin with max-bundle has one session.
    get(&around?, 0)
}

fn is(element: &gst::Element, type_name: &str) -> bool {
    glib::Type::from_name(type_name).is_some_and(|type_| element.type_().is_a(type_))
}

fn child_rtpbin(bin: &gst::Element) -> Option<gst::Element> {
    let bin = bin.downcast_ref::<gst::Bin>()?;
    bin.children()
        .into_iter()
        .find(|child| is(child, "GstRtpBin"))
}
