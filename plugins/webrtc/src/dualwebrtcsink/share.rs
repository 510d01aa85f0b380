// SPDX-License-Identifier: MPL-2.0
//! Several receivers behind one encoder: whose feedback counts, and what each
//! gets of the stream.
//!
//! A background frame is complete once all have it, so that the encoder goes over
//! to a reference that everybody has. Who does not answer is waited for a little
//! while, and not at all after two such times until it answers again. A stream of
//! which one who has the other has had no key frame is complete for none. A newcomer
//! gets nothing of a stream before a key frame of it, and its requests for a key
//! frame, which to an RTP session are reports of a loss, become the
//! application's: they are served in the background.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::prelude::*;

/// From the first receiver's word of a frame, for the others'.
const PATIENCE: Duration = Duration::from_millis(400);
/// So often in a row a receiver may be missing.
const MOST_MISSED: u32 = 2;
/// Frames that some have and others have not.
const MOST_OPEN: usize = 8;
/// Between two requests for a key frame by one receiver.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// Between two by us for a newcomer that gets nothing: the first one is lost on an
/// encoder with a refresh under way, whose key frame has passed already.
const NEWCOMER_INTERVAL: Duration = Duration::from_millis(300);
/// Streams of an encoder.
const STREAMS: usize = 2;

/// A frame: stream, number, generation.
type Frame = (u32, u32, u32);

#[derive(Debug)]
struct Member {
    id: u64,
    missed: u32,
    requested: Option<Instant>,
    /// When a key frame was asked for on its behalf.
    asked: Option<Instant>,
    /// Of each stream: there was a key frame.
    started: [bool; STREAMS],
    /// Of each stream: the last frame was a background one.
    trickles: [bool; STREAMS],
    /// Its first key frame came in the background: a key frame of the other
    /// stream is yet to be asked for.
    is_late: bool,
}

impl Member {
    fn is_newcomer(&self) -> bool {
        !self.started.contains(&true)
    }
}

#[derive(Debug)]
struct Open {
    frame: Frame,
    since: Instant,
    have: Vec<u64>,
    /// The encoder was told.
    told: bool,
}

/// What becomes of a request for a key frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// The picture is lost.
    Recovery,
    /// Something to begin with is wanted.
    Refresh,
    /// There was one a moment ago.
    Ignored,
}

/// The receivers of one encoder.
#[derive(Debug, Default)]
pub struct Quorum {
    members: Vec<Member>,
    open: VecDeque<Open>,
}

impl Quorum {
    pub fn enter(&mut self, id: u64) {
        self.members.push(Member {
            id,
            missed: 0,
            requested: None,
            asked: None,
            started: [false; STREAMS],
            trickles: [false; STREAMS],
            is_late: false,
        });
    }

    pub fn leave(&mut self, id: u64) {
        self.members.retain(|member| member.id != id);
    }

    fn member(&mut self, id: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    /// A receiver has a frame. True if the encoder is to be told.
    fn on_complete(&mut self, now: Instant, id: u64, frame: Frame) -> bool {
        if let Some(member) = self.member(id) {
            member.missed = 0;
        }
        if self.members.len() <= 1 {
            return true;
        }
        let at = match self.open.iter().position(|open| open.frame == frame) {
            Some(at) => at,
            None => {
                if self.open.len() >= MOST_OPEN {
                    self.open.pop_front();
                }
                self.open.push_back(Open {
                    frame,
                    since: now,
                    have: Vec::new(),
                    told: false,
                });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[at];
        if !open.have.contains(&id) {
            open.have.push(id);
        }
        if open.told {
            return true;
        }
        let is_late = now.saturating_duration_since(open.since) >= PATIENCE;
        let mut complete = true;
        for member in &mut self.members {
            let has_begun = usize::try_from(frame.0)
                .ok()
                .and_then(|stream| member.started.get(stream))
                .is_some_and(|started| *started);
            // The encoder would go over to a stream that this one cannot decode:
            // not before a key frame of it.
            if !has_begun && !member.is_newcomer() {
                complete = false;
                continue;
            }
            let is_waited_for = has_begun && member.missed < MOST_MISSED;
            if open.have.contains(&member.id) || !is_waited_for {
                continue;
            }
            if is_late {
                member.missed += 1;
            } else {
                complete = false;
            }
        }
        open.told = complete;
        complete
    }

    fn on_request(&mut self, now: Instant, id: u64) -> Request {
        let is_alone = self.members.len() <= 1;
        let Some(member) = self.member(id) else {
            return Request::Ignored;
        };
        if is_alone && !member.is_newcomer() {
            return Request::Recovery;
        }
        let is_soon = member
            .requested
            .is_some_and(|at| now.saturating_duration_since(at) < REQUEST_INTERVAL);
        if is_soon {
            return Request::Ignored;
        }
        member.requested = Some(now);
        if member.is_newcomer() {
            Request::Refresh
        } else {
            Request::Recovery
        }
    }

    /// Whether a frame makes its stream the display stream. Others may have had the
    /// background frames before it sooner: they are not to hold it up.
    fn takes_over(&mut self, id: u64, stream: usize, kind: Kind) -> bool {
        let member = self.member(id);
        member
            .and_then(|member| member.trickles.get_mut(stream))
            .is_some_and(|trickles| {
                std::mem::replace(trickles, kind.is_background) && !kind.is_background
            })
    }

    /// What becomes of a frame on its way to a receiver.
    fn on_frame(&mut self, now: Instant, id: u64, stream: usize, kind: Kind) -> Passage {
        let Some(member) = self.member(id) else {
            return Passage::Passes;
        };
        let is_newcomer = member.is_newcomer();
        let Some(started) = member.started.get_mut(stream) else {
            return Passage::Passes;
        };
        if is_newcomer && kind.is_key {
            member.is_late = kind.is_background;
        }
        *started |= kind.is_key;
        if !*started {
            let is_time = member
                .asked
                .is_none_or(|at| now.saturating_duration_since(at) >= NEWCOMER_INTERVAL);
            // The encoder may have gone over to a stream that it has not got yet.
            let lacks = is_newcomer || !kind.is_background;
            if lacks && is_time {
                let is_first = member.asked.replace(now).is_none();
                // When it came it was asked for.
                if !is_first {
                    return Passage::DroppedAndAsks;
                }
            }
            return if !is_newcomer && kind.is_background {
                Passage::Missed
            } else {
                Passage::Dropped
            };
        }
        // It came in by the standby stream, which is the display stream now. The
        // other one is of no use to it before a key frame.
        if !kind.is_background && std::mem::take(&mut member.is_late) {
            return Passage::PassesAndAsks;
        }
        Passage::Passes
    }
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    is_key: bool,
    is_background: bool,
}

impl Kind {
    fn of(buffer: &gst::BufferRef) -> Self {
        Self {
            is_key: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
            is_background: gst::meta::CustomMeta::from_buffer(buffer, "DualStreamFrame")
                .is_ok_and(|meta| meta.structure().get("background") == Ok(true)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Passes,
    /// And a key frame of the other stream is asked for.
    PassesAndAsks,
    Dropped,
    DroppedAndAsks,
    /// Dropped, and the encoder must not go over to what this one has not got.
    Missed,
}

/// A probe of ours.
pub struct Watch(gst::Pad, Option<gst::PadProbeId>);

impl Watch {
    pub fn remove(self) {
        if let Some(id) = self.1 {
            self.0.remove_probe(id);
        }
    }
}

/// Our field in an event of ours.
const OURS: &str = "shared";

/// "This frame cannot be decoded", in the name of a receiver that is not given it.
fn missed(frame: &gst::BufferRef) -> Option<gst::Event> {
    let meta = gst::meta::CustomMeta::from_buffer(frame, "DualStreamFrame").ok()?;
    let s = meta.structure();
    let field = |name| s.get::<u32>(name).ok();
    let said = gst::Structure::builder("application/x-frame-complete")
        .field("stream", field("stream")?)
        .field("frame", field("number")?)
        .field("generation", field("generation")?)
        .field("decodable", false)
        .field(OURS, true)
        .build();
    Some(gst::event::CustomUpstream::new(said))
}

/// Puts the receiver `id` under the rules of the quorum. `pads`: by which the
/// streams come to it, in order.
pub fn watch(quorum: &Arc<Mutex<Quorum>>, id: u64, pads: &[gst::Pad]) -> Vec<Watch> {
    let mut watches = Vec::new();
    for (index, pad) in pads.iter().enumerate() {
        let feedback = quorum.clone();
        let probe = pad.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
            let Some(gst::PadProbeData::Event(event)) = &mut info.data else {
                return gst::PadProbeReturn::Ok;
            };
            filter(&feedback, id, event)
        });
        watches.push(Watch(pad.clone(), probe));
        let frames = quorum.clone();
        let probe = pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let Some(kind) = info.buffer().map(|buffer| Kind::of(buffer)) else {
                return gst::PadProbeReturn::Ok;
            };
            let (passage, takes_over) = {
                let mut frames = frames.lock().unwrap();
                let takes_over = frames.takes_over(id, index, kind);
                (frames.on_frame(Instant::now(), id, index, kind), takes_over)
            };
            if takes_over {
                pad.send_event(release());
            }
            if passage == Passage::Missed
                && let Some(event) = info.buffer().and_then(|buffer| missed(buffer))
            {
                pad.push_event(event);
            }
            let (passes, asks) = match passage {
                Passage::Passes => (true, false),
                Passage::PassesAndAsks => (true, true),
                Passage::Dropped | Passage::Missed => (false, false),
                Passage::DroppedAndAsks => (false, true),
            };
            if asks {
                pad.push_event(refresh());
            }
            if !passes {
                // Not Drop: with that GStreamer unrefs what the binding has
                // taken.
                gst::PadProbeReturn::Handled
            } else {
                gst::PadProbeReturn::Ok
            }
        });
        watches.push(Watch(pad.clone(), probe));
    }
    watches
}

fn filter(quorum: &Mutex<Quorum>, id: u64, event: &mut gst::Event) -> gst::PadProbeReturn {
    let now = Instant::now();
    let Some(s) = event.structure() else {
        return gst::PadProbeReturn::Ok;
    };
    if s.has_name("application/x-frame-complete") && !s.has_field(OURS) {
        let field = |name| s.get::<u32>(name).unwrap_or_default();
        let frame = (field("stream"), field("frame"), field("generation"));
        let mut quorum = quorum.lock().unwrap();
        // One that cannot decode a frame does not keep the others from it.
        let is_alone = quorum.members.len() <= 1;
        let is_decodable = s.get::<bool>("decodable").unwrap_or(true);
        if is_alone || (is_decodable && quorum.on_complete(now, id, frame)) {
            return gst::PadProbeReturn::Ok;
        }
        return gst::PadProbeReturn::Handled;
    }
    let is_report =
        s.has_name("GstForceKeyUnit") && (s.has_field("ssrc") || s.has_field("payload"));
    if is_report {
        let request = quorum.lock().unwrap().on_request(now, id);
        match request {
            Request::Recovery => {}
            Request::Refresh => *event = refresh(),
            Request::Ignored => return gst::PadProbeReturn::Handled,
        }
    }
    gst::PadProbeReturn::Ok
}

/// Asks the encoder for a key frame in the background.
pub fn refresh() -> gst::Event {
    gst_video::UpstreamForceKeyUnitEvent::builder()
        .all_headers(true)
        .build()
}

/// Tells rtptrickle that what is shown next waits behind background packets.
fn release() -> gst::Event {
    gst::event::CustomDownstreamOob::new(gst::Structure::new_empty(
        "application/x-background-release",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = (1, 70, 3);
    const KEY: Kind = Kind {
        is_key: true,
        is_background: false,
    };
    const BACKGROUND_KEY: Kind = Kind {
        is_key: true,
        is_background: true,
    };
    const DELTA: Kind = Kind {
        is_key: false,
        is_background: false,
    };

    fn quorum(ids: &[u64]) -> Quorum {
        let mut quorum = Quorum::default();
        let now = Instant::now();
        for id in ids {
            quorum.enter(*id);
            quorum.on_frame(now, *id, 0, KEY);
            quorum.on_frame(now, *id, 1, BACKGROUND_KEY);
        }
        quorum
    }

    #[test]
    fn a_frame_is_complete_when_all_have_it() {
        let now = Instant::now();
        let mut quorum = quorum(&[1, 2, 3]);
        assert!(!quorum.on_complete(now, 1, FRAME));
        assert!(!quorum.on_complete(now, 1, FRAME), "twice by the same");
        assert!(!quorum.on_complete(now, 3, FRAME));
        assert!(!quorum.on_complete(now, 2, (1, 71, 3)), "another frame");
        assert!(quorum.on_complete(now, 2, FRAME));
        assert!(quorum.on_complete(now, 1, FRAME), "it may be said again");
    }

    #[test]
    fn who_is_behind_is_told_that_a_stream_is_the_display_stream_now() {
        let mut quorum = quorum(&[1, 2]);
        let mut takes_over = |kind| quorum.takes_over(2, 1, kind);
        assert!(!takes_over(DELTA), "it was all the time");
        assert!(!takes_over(BACKGROUND_KEY));
        assert!(!takes_over(BACKGROUND_KEY));
        assert!(takes_over(DELTA));
        assert!(!takes_over(DELTA));
        assert!(!quorum.takes_over(1, 1, DELTA), "each has its own");
        assert!(!quorum.takes_over(7, 1, DELTA), "nobody");
    }

    #[test]
    fn one_alone_is_not_held_up() {
        let mut quorum = quorum(&[5]);
        assert!(quorum.on_complete(Instant::now(), 5, FRAME));
    }

    #[test]
    fn who_does_not_answer_is_waited_for_twice_and_then_no_more() {
        let start = Instant::now();
        let mut quorum = quorum(&[1, 2]);
        for number in 0..2 {
            let frame = (1, number, 0);
            assert!(!quorum.on_complete(start, 1, frame));
            assert!(!quorum.on_complete(start + PATIENCE / 2, 1, frame));
            assert!(quorum.on_complete(start + PATIENCE, 1, frame));
        }
        assert!(quorum.on_complete(start, 1, (1, 2, 0)), "at once now");
        // It is back.
        assert!(quorum.on_complete(start, 2, (1, 3, 0)) || quorum.members[1].missed == 0);
        assert!(!quorum.on_complete(start, 1, (1, 4, 0)), "waited for again");
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let now = Instant::now();
        let mut quorum = quorum(&[1, 2, 3]);
        assert!(!quorum.on_complete(now, 1, FRAME));
        quorum.leave(2);
        assert!(quorum.on_complete(now, 3, FRAME));
    }

    #[test]
    fn a_newcomer_asks_for_a_refresh_and_others_for_recovery() {
        let now = Instant::now();
        let mut quorum = quorum(&[1]);
        assert_eq!(quorum.on_request(now, 1), Request::Recovery);
        quorum.enter(2);
        assert_eq!(quorum.on_request(now, 2), Request::Refresh);
        assert_eq!(quorum.on_request(now, 2), Request::Ignored, "too soon");
        let later = now + REQUEST_INTERVAL;
        assert_eq!(quorum.on_request(later, 2), Request::Refresh);
        assert_eq!(quorum.on_request(later, 1), Request::Recovery);
        assert_eq!(quorum.on_frame(now, 2, 1, BACKGROUND_KEY), Passage::Passes);
        assert_eq!(
            quorum.on_request(later + REQUEST_INTERVAL, 2),
            Request::Recovery
        );
        assert_eq!(quorum.on_request(now, 9), Request::Ignored, "unknown");
    }

    #[test]
    fn a_stream_begins_with_a_key_frame_for_each() {
        let now = Instant::now();
        let mut quorum = quorum(&[1]);
        quorum.enter(2);
        assert_eq!(quorum.on_frame(now, 1, 0, DELTA), Passage::Passes);
        assert_eq!(quorum.on_frame(now, 2, 0, DELTA), Passage::Dropped);
        assert_eq!(quorum.on_frame(now, 2, 1, BACKGROUND_KEY), Passage::Passes);
        assert_eq!(
            quorum.on_frame(now, 2, 0, DELTA),
            Passage::Dropped,
            "the other stream has not begun"
        );
        // The encoder goes over to it.
        assert_eq!(quorum.on_frame(now, 2, 1, DELTA), Passage::PassesAndAsks);
        assert_eq!(quorum.on_frame(now, 2, 1, DELTA), Passage::Passes, "once");
        let background = Kind {
            is_background: true,
            ..DELTA
        };
        assert_eq!(quorum.on_frame(now, 2, 0, background), Passage::Missed);
        assert_eq!(quorum.on_frame(now, 2, 0, BACKGROUND_KEY), Passage::Passes);
        assert_eq!(quorum.on_frame(now, 2, 0, DELTA), Passage::Passes);
    }

    #[test]
    fn a_key_frame_is_asked_for_again_until_a_newcomer_has_one() {
        let start = Instant::now();
        let mut quorum = quorum(&[1]);
        quorum.enter(2);
        let mut passages = |frames: std::ops::Range<u32>, kind| {
            let frame = |n| quorum.on_frame(start + Duration::from_millis(33) * n, 2, 1, kind);
            frames.map(frame).collect::<Vec<_>>()
        };
        let waiting = passages(0..30, DELTA);
        assert_eq!(waiting[0], Passage::Dropped, "asked for when it came");
        let asks = |all: &[Passage]| {
            all.iter()
                .filter(|p| **p == Passage::DroppedAndAsks)
                .count()
        };
        // At 330, 660 ms: ten frames are the first time that is 300 ms.
        assert_eq!(asks(&waiting), 2);
        assert_eq!(passages(30..31, BACKGROUND_KEY), [Passage::Passes]);
        let after = passages(31..60, DELTA);
        assert_eq!(asks(&after), 0);
        assert_eq!(after[0], Passage::PassesAndAsks, "for the other stream");
    }

    #[test]
    fn a_stream_that_has_not_begun_for_one_is_complete_for_none() {
        let now = Instant::now();
        let mut quorum = quorum(&[1]);
        quorum.enter(2);
        assert!(quorum.on_complete(now, 1, (0, 5, 0)));
        quorum.on_frame(now, 2, 1, BACKGROUND_KEY);
        let late = now + PATIENCE;
        assert!(!quorum.on_complete(now, 1, (0, 6, 0)));
        assert!(!quorum.on_complete(late, 1, (0, 6, 0)), "no time helps");
        quorum.on_frame(now, 2, 0, BACKGROUND_KEY);
        assert!(!quorum.on_complete(now, 1, (0, 8, 0)));
        assert!(quorum.on_complete(now, 2, (0, 8, 0)));
        assert!(!quorum.on_complete(now, 1, (1, 7, 0)));
        assert!(quorum.on_complete(now, 2, (1, 7, 0)));
    }

    #[test]
    fn what_is_open_is_bounded() {
        let now = Instant::now();
        let mut quorum = quorum(&[1, 2]);
        for number in 0..10_000 {
            quorum.on_complete(now, 1, (0, number, 0));
        }
        assert_eq!(quorum.open.len(), MOST_OPEN);
    }
}
