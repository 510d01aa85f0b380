// SPDX-License-Identifier: MPL-2.0
//! Finds the RTP session at the other end of a pad.
//!
//! ```text
//! sender     src -> [queue, capsfilter, ...] -> webrtcbin.sink_0 -> clocksync -> ... -> rtpfunnel
//!                -> rtpbin.send_rtp_sink_0
//! receiver   sink <- [queue, ...] <- webrtcbin.src_0 <- rtpbin.recv_rtp_src_0_1234_96
//! ```

use gst::glib;
use gst::prelude::*;

/// More elements than this between us and the session are not followed: a
/// loop of links would otherwise be followed for ever.
const MAX_HOPS: usize = 32;

/// The GstRtpSession element that takes what leaves by `pad` or that gives
/// what comes in by it, if there is one by now. `id` overrides the session id
/// that the walk finds.
///
/// Takes the lock of rtpbin, which rtpbin also holds while it stops streaming
/// threads: not to be called from a streaming thread.
pub fn find(pad: &gst::Pad, id: Option<u32>) -> Option<gst::Element> {
    match walk(pad)? {
        Place::Session(session) => Some(session),
        Place::Bin(rtpbin, found) => {
            let id = id.unwrap_or(found);
            rtpbin.emit_by_name::<Option<gst::Element>>("get-session", &[&id])
        }
    }
}

enum Place {
    /// An rtpsession element without rtpbin.
    Session(gst::Element),
    /// An rtpbin and the id of the session in it.
    Bin(gst::Element, u32),
}

fn walk(pad: &gst::Pad) -> Option<Place> {
    let direction = pad.direction();
    let prefix = match direction {
        gst::PadDirection::Src => "send_rtp_sink",
        _ => "recv_rtp_src",
    };
    // A bin with an rtpbin inside, whose way to it is not a plain one.
    let mut around = None;
    let mut arrived = pad.peer();
    for _ in 0..MAX_HOPS {
        let Some(at) = arrived.take() else { break };
        if let Some(ghost) = at.downcast_ref::<gst::GhostPad>() {
            let Some(bin) = at.parent_element() else {
                break;
            };
            if is(&bin, "GstRtpBin") {
                let id = session_id(&at.name(), prefix)?;
                return Some(Place::Bin(bin, id));
            }
            // Into the bin. Without a target it is not ready yet.
            arrived = ghost.target();
            if arrived.is_some()
                && let Some(rtpbin) = child_rtpbin(&bin)
            {
                around = Some(Place::Bin(rtpbin, 0));
            }
        } else if at.is::<gst::ProxyPad>() {
            // Out of the bin that this ghost pad belongs to.
            let ghost = at.parent().and_downcast::<gst::Pad>();
            arrived = ghost.and_then(|ghost| ghost.peer());
        } else {
            let Some(element) = at.parent_element() else {
                break;
            };
            if is(&element, "GstRtpSession") {
                return at
                    .name()
                    .starts_with(prefix)
                    .then_some(Place::Session(element));
            }
            arrived = only_pad(&element, direction).and_then(|pad| pad.peer());
        }
    }
    around
}

fn is(element: &gst::Element, type_name: &str) -> bool {
    glib::Type::from_name(type_name).is_some_and(|type_| element.type_().is_a(type_))
}

/// The pad of this direction, unless there are several.
fn only_pad(element: &gst::Element, direction: gst::PadDirection) -> Option<gst::Pad> {
    let pads = match direction {
        gst::PadDirection::Src => element.src_pads(),
        _ => element.sink_pads(),
    };
    match <[gst::Pad; 1]>::try_from(pads) {
        Ok([pad]) => Some(pad),
        Err(_) => None,
    }
}

/// webrtcbin is a bin with an rtpbin in it. Session 0 is right for one with
/// max-bundle; for others the walk through the bin finds the right one.
fn child_rtpbin(bin: &gst::Element) -> Option<gst::Element> {
    let bin = bin.downcast_ref::<gst::Bin>()?;
    bin.children()
        .into_iter()
        .find(|child| is(child, "GstRtpBin"))
}

/// 3 in `send_rtp_sink_3`, 0 in `recv_rtp_src_0_1234_96`; `None` for any other
/// pad.
fn session_id(name: &str, prefix: &str) -> Option<u32> {
    let numbers = name.strip_prefix(prefix)?.strip_prefix('_')?;
    numbers.split('_').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_the_first_number_in_the_name_of_the_pad() {
        assert_eq!(session_id("send_rtp_sink_3", "send_rtp_sink"), Some(3));
        assert_eq!(
            session_id("recv_rtp_src_12_4294967295_96", "recv_rtp_src"),
            Some(12)
        );
        assert_eq!(session_id("recv_rtp_sink_0", "send_rtp_sink"), None);
        assert_eq!(session_id("recv_rtp_src_x", "recv_rtp_src"), None);
        assert_eq!(session_id("recv_rtp_src", "recv_rtp_src"), None);
        assert_eq!(
            session_id("send_rtp_sink_99999999999", "send_rtp_sink"),
            None
        );
    }
}
