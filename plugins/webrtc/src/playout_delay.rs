// SPDX-License-Identifier: MPL-2.0
//! RTP header extension `playout-delay`: how long the receiver may hold a
//! picture back.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+-----------------------+-----------------------+
//! |  id   | len=2 |   least, in 10 ms     |    most, in 10 ms     |
//! +-------+-------+-----------------------+-----------------------+
//! ```
//!
//! libwebrtc's. With 0 and 0 a browser shows each picture as soon as it is
//! decoded. Otherwise it sets a delay by how much the arrival of frames varies,
//! and the background frames of the standby, which trickle, would make that a
//! long one, seen at the next switch. Written to the first packet of each
//! frame, where libwebrtc reads it. Our own receiver does not take it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;
use gst_rtp::RTPBuffer;

pub const URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
/// The id under which dualwebrtcsink offers it.
pub const ID: u8 = 7;
/// Least and most: nothing.
const AT_ONCE: [u8; 3] = [0; 3];

/// Whether it is written. Off at first.
#[derive(Clone, Debug, Default)]
pub struct PlayoutDelay(Arc<AtomicBool>);

impl PlayoutDelay {
    pub fn set_taken(&self, taken: bool) {
        self.0.store(taken, Ordering::Relaxed);
    }

    /// Writes it to what this payloader makes.
    pub fn watch(&self, pay: &gst::Element) {
        let Some(src) = pay.static_pad("src") else {
            return;
        };
        let taken = self.0.clone();
        // The next packet is the first one of a frame.
        let begins = AtomicBool::new(true);
        let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        src.add_probe(kinds, move |_, info| {
            if !taken.load(Ordering::Relaxed) {
                return gst::PadProbeReturn::Ok;
            }
            let on_packet = |packet: &mut gst::Buffer| {
                if begins.swap(ends_frame(packet), Ordering::Relaxed) {
                    write(packet.make_mut());
                }
            };
            match &mut info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => on_packet(buffer),
                Some(gst::PadProbeData::BufferList(list)) => {
                    list.make_mut().foreach_mut(|mut buffer, _| {
                        on_packet(&mut buffer);
                        ControlFlow::Continue(Some(buffer))
                    });
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
    }
}

fn write(packet: &mut gst::BufferRef) {
    if let Ok(mut packet) = RTPBuffer::from_buffer_writable(packet) {
        // No room: the next frame says it.
        let _ = packet.add_extension_onebyte_header(ID, &AT_ONCE);
    }
}

/// By the marker.
fn ends_frame(packet: &gst::BufferRef) -> bool {
    let mut byte = [0];
    packet.size() >= 12 && packet.copy_to_slice(1, &mut byte).is_ok() && byte[0] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp;

    /// Where in a run of packets the extension is, by what libwebrtc reads.
    fn extensions(h: &mut gst_check::Harness, frame_ms: u64) -> Vec<Option<Vec<u8>>> {
        let mut data = vec![0, 0, 0, 1, 0x41];
        data.resize(3000, 0xaa);
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let pts = gst::ClockTime::from_mseconds(frame_ms);
        buffer.make_mut().set_pts(pts);
        h.push(buffer).expect("taken");
        std::iter::from_fn(|| h.try_pull())
            .map(|packet| {
                let map = packet.map_readable().expect("readable");
                rtp::extension_in(&map, ID).map(|at| map[at].to_vec())
            })
            .collect()
    }

    #[test]
    fn the_first_packet_of_each_frame_says_it_to_those_who_take_it() {
        gst::init().expect("GStreamer");
        let pay = gst::ElementFactory::make("rtph264pay")
            .property("mtu", 1200u32)
            .build()
            .expect("rtph264pay");
        let delay = PlayoutDelay::default();
        delay.watch(&pay);
        let mut h = gst_check::Harness::with_element(&pay, Some("sink"), Some("src"));
        h.set_src_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
        h.play();
        assert_eq!(extensions(&mut h, 0), [None, None, None]);
        delay.set_taken(true);
        for ms in [40, 80] {
            let first = Some(AT_ONCE.to_vec());
            assert_eq!(extensions(&mut h, ms), [first, None, None], "{ms} ms");
        }
    }
}
