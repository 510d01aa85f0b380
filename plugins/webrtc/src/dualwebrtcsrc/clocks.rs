// SPDX-License-Identifier: MPL-2.0
//! What is known of the sources of a session after their jitter buffers: times of
//! capture, and with them lip sync.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;

use super::sync::{Kind, LipSync};
use crate::capture_time::{AbsCaptureTime, CaptureClock, NtpTime};
use crate::rtp;

/// Sources of a session that are looked at.
const MOST_SOURCES: usize = 8;
const FRAME_VERSION: u8 = 1;
const BACKGROUND: u8 = 0x10;

/// Header extensions of one media section, by id.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids {
    capture: Option<u8>,
    frame: Option<u8>,
    pub timing: Option<u8>,
}

impl Ids {
    pub fn of(extensions: &[(u16, &'static str)]) -> Self {
        let id = |uri: &str| {
            extensions
                .iter()
                .find(|(_, known)| *known == uri)
                .and_then(|(id, _)| u8::try_from(*id).ok())
        };
        Self {
            capture: id(rtp::CAPTURE_URI),
            frame: id(rtp::FRAME_URI),
            timing: id(rtp::TIMING_URI),
        }
    }
}

#[derive(Debug)]
struct Source {
    ssrc: u32,
    kind: Kind,
    clock: CaptureClock,
    buffer: glib::WeakRef<gst::Element>,
}

#[derive(Debug, Default)]
struct State {
    sources: Vec<Source>,
    sync: LipSync,
}

/// Of one session.
#[derive(Clone, Debug, Default)]
pub struct Clocks(Arc<Mutex<State>>);

impl Clocks {
    /// A source that is shown, with its jitter buffer.
    pub fn add(&self, ssrc: u32, kind: Kind, clock_rate: u32, buffer: Option<&gst::Element>) {
        let mut state = self.0.lock().unwrap();
        state.sources.retain(|source| source.ssrc != ssrc);
        if state.sources.len() < MOST_SOURCES {
            let weak = glib::WeakRef::new();
            weak.set(buffer);
            state.sources.push(Source {
                ssrc,
                kind,
                clock: CaptureClock::new(clock_rate),
                buffer: weak,
            });
        }
    }

    /// A sender report.
    pub fn on_report(&self, report: &rtp::Report) {
        let mut state = self.0.lock().unwrap();
        let source = state.sources.iter_mut().find(|s| s.ssrc == report.ssrc);
        if let Some(source) = source {
            source
                .clock
                .report(report.rtp, NtpTime::from_fixed(report.ntp));
        }
    }

    /// A packet has left its jitter buffer.
    pub fn on_packet(&self, now: Instant, buffer: &gst::BufferRef, ids: Ids) {
        let Some(stamp) = buffer.pts() else { return };
        let Ok(map) = buffer.map_readable() else {
            return;
        };
        let Some((head, captured)) = read(&map, ids) else {
            return;
        };
        let mut changes = Vec::new();
        {
            let mut state = self.0.lock().unwrap();
            let Some(source) = state.sources.iter_mut().find(|s| s.ssrc == head.ssrc) else {
                return;
            };
            if let Some(captured) = captured {
                source.clock.learn(head.rtp, captured);
            }
            let kind = source.kind;
            // One packet of each frame that is shown.
            if kind == Kind::Video && (!head.marker || is_hidden(&map, ids)) {
                return;
            }
            let Some(captured) = source.clock.capture(head.rtp) else {
                return;
            };
            for kind in state.sync.on_frame(now, kind, stamp.nseconds(), captured) {
                let offset = state.sync.offset(kind);
                let same = state.sources.iter().filter(|s| s.kind == kind);
                changes.extend(same.filter_map(|s| Some((s.buffer.upgrade()?, offset))));
            }
        }
        for (buffer, offset) in changes {
            buffer.set_property("ts-offset", offset);
        }
    }

    /// When a frame of this source was captured, by the sender's clock.
    pub fn capture(&self, ssrc: u32, rtp: u32) -> Option<NtpTime> {
        let state = self.0.lock().unwrap();
        let source = state.sources.iter().find(|s| s.ssrc == ssrc)?;
        source.clock.capture(rtp)
    }

    /// For `stats`: how far audio is shifted, and video.
    pub fn structure(&self) -> gst::Structure {
        let state = self.0.lock().unwrap();
        let mut s = gst::Structure::builder("lip-sync")
            .field("audio-offset", state.sync.offset(Kind::Audio))
            .field("video-offset", state.sync.offset(Kind::Video))
            .build();
        if let Some(difference) = state.sync.difference(Instant::now()) {
            s.set("difference", difference);
        }
        s
    }
}

pub struct Head {
    pub ssrc: u32,
    pub rtp: u32,
    pub marker: bool,
}

pub fn head(data: &[u8]) -> Option<Head> {
    let [first, second, _, _, t0, t1, t2, t3, s0, s1, s2, s3] = *data.first_chunk::<12>()?;
    (first >> 6 == 2).then_some(Head {
        ssrc: u32::from_be_bytes([s0, s1, s2, s3]),
        rtp: u32::from_be_bytes([t0, t1, t2, t3]),
        marker: second & 0x80 != 0,
    })
}

fn read(data: &[u8], ids: Ids) -> Option<(Head, Option<NtpTime>)> {
    let captured = ids
        .capture
        .and_then(|id| data.get(rtp::extension_in(data, id)?))
        .and_then(AbsCaptureTime::parse)
        .map(AbsCaptureTime::by_sender);
    Some((head(data)?, captured))
}

/// Of a frame that is decoded and not shown.
fn is_hidden(data: &[u8], ids: Ids) -> bool {
    ids.frame
        .and_then(|id| data.get(rtp::extension_in(data, id)?))
        .is_some_and(|tag| {
            matches!(tag, [first, _, _, _]
                if first >> 6 == FRAME_VERSION && first & BACKGROUND != 0)
        })
}
