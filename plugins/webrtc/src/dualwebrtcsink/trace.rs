// SPDX-License-Identifier: MPL-2.0
//! Where pictures spend their time in the sender: measured here, and told to the
//! receiver in the header extension `video-timing` of the last packet of each.
//!
//! ```text
//! gate -> encoder -> payloader -> ... -> webrtcbin [ ... rtppacer -> rtpgcc -> rtpsession ]
//! captured        coded        extension written                   left
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::prelude::*;
use gst_rtp::RTPBuffer;

use crate::capture_time::{self, NtpTime};
use crate::latency::{self, Window};
use crate::peer::Peer;
use crate::rtp;
use crate::video_timing::VideoTiming;

/// Pictures between payloader and session. A pacer that holds more has dropped
/// some.
const MOST_FRAMES: usize = 128;

/// A picture on its way out.
#[derive(Clone, Copy, Debug)]
struct Frame {
    ssrc: u32,
    rtp: u32,
    captured: NtpTime,
    coded: NtpTime,
}

#[derive(Debug, Default)]
struct State {
    /// The peer reads the extension.
    told: bool,
    frames: VecDeque<Frame>,
    count: u64,
    encode: Window,
    pacer: Window,
    total: Window,
}

#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<State>>);

/// From the one to the other, in ms, as the extension has it.
fn ms_between(from: NtpTime, to: NtpTime) -> u16 {
    let ms = (to.since(from).max(0) + 500_000) / 1_000_000;
    u16::try_from(ms).unwrap_or(u16::MAX)
}

fn nanos_between(from: NtpTime, to: NtpTime) -> u64 {
    u64::try_from(to.since(from)).unwrap_or(0)
}

impl Trace {
    /// A session begins; `told`: its peer reads the extension.
    pub fn restart(&self, told: bool) {
        *self.0.lock().unwrap() = State {
            told,
            ..State::default()
        };
    }

    /// Watches the payloader of a stream.
    pub fn add_stream(&self, pay: &gst::Element, ssrc: u32) {
        let (Some(sink), Some(src)) = (pay.static_pad("sink"), pay.static_pad("src")) else {
            return;
        };
        // The frame in the payloader: the packets follow in the same thread.
        let current = Arc::new(Mutex::new(None::<(NtpTime, NtpTime)>));
        let (frame, reference) = (current.clone(), capture_time::reference());
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                // What is decoded only is not shown at any time.
                let is_shown = !gst::meta::CustomMeta::from_buffer(buffer, "DualStreamFrame")
                    .is_ok_and(|meta| meta.structure().get("background") == Ok(true));
                let captured = capture_time::of(buffer, &reference).filter(|_| is_shown);
                *frame.lock().unwrap() = captured.zip(NtpTime::now());
            }
            gst::PadProbeReturn::Ok
        });
        let trace = self.clone();
        let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        src.add_probe(kinds, move |_, info| {
            match &mut info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    trace.on_payload(buffer, ssrc, &current);
                }
                Some(gst::PadProbeData::BufferList(list)) => {
                    // The marker is on the last one.
                    let last = list.len().saturating_sub(1);
                    let list = list.make_mut();
                    if let Some(mut buffer) = list.get_owned(last) {
                        list.remove(last..last + 1);
                        trace.on_payload(&mut buffer, ssrc, &current);
                        list.add(buffer);
                    }
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
    }

    fn on_payload(
        &self,
        buffer: &mut gst::Buffer,
        ssrc: u32,
        current: &Mutex<Option<(NtpTime, NtpTime)>>,
    ) {
        let Some(rtp) = rtp_time_of_last(buffer) else {
            return;
        };
        let (Some((captured, coded)), Some(now)) = (current.lock().unwrap().take(), NtpTime::now())
        else {
            return;
        };
        let told = {
            let mut state = self.0.lock().unwrap();
            if state.frames.len() >= MOST_FRAMES {
                state.frames.pop_front();
            }
            state.frames.push_back(Frame {
                ssrc,
                rtp,
                captured,
                coded,
            });
            state.told
        };
        if told {
            let timing = VideoTiming {
                encode_start_ms: 0,
                encode_finish_ms: ms_between(captured, coded),
                packetization_finish_ms: ms_between(captured, now),
                pacer_exit_ms: 0,
            };
            if let Ok(mut packet) = RTPBuffer::from_buffer_writable(buffer.make_mut()) {
                // No room: the receiver does without.
                let _ = packet.add_extension_onebyte_header(rtp::TIMING_ID, &timing.to_bytes());
            }
        }
    }

    /// Watches what leaves for the network.
    pub fn watch(&self, peer: &Peer) {
        let trace = self.clone();
        peer.watch_session("send_rtp_sink", move |pad| {
            let trace = trace.clone();
            let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
            pad.add_probe(kinds, move |_, info| {
                match &mut info.data {
                    Some(gst::PadProbeData::Buffer(buffer)) => trace.on_leaving(buffer),
                    Some(gst::PadProbeData::BufferList(list)) => {
                        // Without a pacer: nothing is written, and the receiver
                        // takes the end of the payloader for it.
                        list.iter().for_each(|buffer| {
                            trace.leaves(buffer);
                        });
                    }
                    _ => {}
                }
                gst::PadProbeReturn::Ok
            });
        });
    }

    /// When the frame was captured and when it left, if this is its last packet.
    fn leaves(&self, buffer: &gst::BufferRef) -> Option<(NtpTime, NtpTime, bool)> {
        let rtp = rtp_time_of_last(buffer)?;
        let ssrc = rtp::source(buffer)?;
        let now = NtpTime::now()?;
        let mut state = self.0.lock().unwrap();
        let at = state
            .frames
            .iter()
            .position(|frame| (frame.ssrc, frame.rtp) == (ssrc, rtp))?;
        let frame = state.frames.remove(at)?;
        let time = Instant::now();
        state.count += 1;
        state
            .encode
            .push(time, nanos_between(frame.captured, frame.coded));
        state.pacer.push(time, nanos_between(frame.coded, now));
        state.total.push(time, nanos_between(frame.captured, now));
        Some((frame.captured, now, state.told))
    }

    fn on_leaving(&self, buffer: &mut gst::Buffer) {
        let Some((captured, now, true)) = self.leaves(buffer) else {
            return;
        };
        let Some(at) = rtp::extension_at(buffer, rtp::TIMING_ID) else {
            return;
        };
        if let Ok(mut map) = buffer.make_mut().map_writable()
            && let Some(data) = map.get_mut(at)
        {
            // 0 is what is not known.
            VideoTiming::set_pacer_exit(data, ms_between(captured, now).max(1));
        }
    }

    pub fn structure(&self) -> gst::Structure {
        let mut s = gst::Structure::new_empty("application/x-frame-latency");
        let now = Instant::now();
        let mut state = self.0.lock().unwrap();
        s.set("frames", state.count);
        let State {
            encode,
            pacer,
            total,
            ..
        } = &mut *state;
        latency::add_parts(
            &mut s,
            now,
            [("encode", encode), ("pacer", pacer), ("total", total)],
        );
        s
    }
}

/// The RTP time of a packet with the marker bit, the last one of a frame.
fn rtp_time_of_last(packet: &gst::BufferRef) -> Option<u32> {
    let mut head = [0; 8];
    if packet.size() < 12 || packet.copy_to_slice(0, &mut head).is_err() {
        return None;
    }
    let [_, marker, _, _, a, b, c, d] = head;
    (marker & 0x80 != 0).then_some(u32::from_be_bytes([a, b, c, d]))
}
