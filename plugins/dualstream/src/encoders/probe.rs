// SPDX-License-Identifier: MPL-2.0
//! Whether an encoder really works: a factory may be registered where its
//! device cannot be used. It is made, started and given ten pictures, once per
//! process.

use super::{Family, Setup};
use dualstream_common::Bitrate;
use gst::glib;
use gst::prelude::*;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pictures that it is given.
pub const PICTURES: u32 = 10;
const SIZE: (u32, u32) = (320, 240);
const FRAME_TIME: Duration = Duration::from_nanos(1_000_000_000 / 30);
const RATE: Bitrate = Bitrate::from_kbps(500);
/// For all of it. A driver that is slow to wake up takes one or two seconds.
const LIMIT: Duration = Duration::from_secs(5);

/// What a trial showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Frames that were out before the encoder was told that it was the end;
    /// fewer than went in: it keeps pictures back.
    pub before_end: u32,
    /// From start to the last frame.
    pub took: Duration,
    /// It takes only memory that cannot be made here, so that it was started
    /// and not fed.
    pub only_started: bool,
}

/// Why it does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeError {
    NotInstalled,
    /// It does not reach READY or PAUSED.
    DoesNotStart,
    /// It takes no picture of this size.
    RefusesFormat,
    /// It returned an error, or posted one.
    Fails,
    /// Frames were missing at the end.
    LosesFrames,
    /// It did not come to an end in time.
    Hangs,
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInstalled => "it is not installed",
            Self::DoesNotStart => "it does not start",
            Self::RefusesFormat => "it refuses 320x240",
            Self::Fails => "it fails to encode",
            Self::LosesFrames => "frames are missing",
            Self::Hangs => "it hangs",
        })
    }
}

impl std::error::Error for ProbeError {}

type Outcome = Result<Probed, ProbeError>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outcome for this family, from an earlier trial if there was one.
pub fn probe(family: &'static Family) -> Outcome {
    // By type, because another plugin may take the factory's name over.
    static KNOWN: LazyLock<Mutex<HashMap<glib::Type, Outcome>>> = LazyLock::new(Mutex::default);
    let factory = gst::ElementFactory::find(family.factory).ok_or(ProbeError::NotInstalled)?;
    let factory = factory.load().map_err(|_| ProbeError::NotInstalled)?;
    let kind = factory.element_type();
    if let Some(known) = locked(&KNOWN).get(&kind) {
        return *known;
    }
    let outcome = in_time(family);
    locked(&KNOWN).insert(kind, outcome);
    outcome
}

/// In a thread of its own, which is left alone if it hangs in a driver.
fn in_time(family: &'static Family) -> Outcome {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("encoder-probe".into());
    let spawned = thread.spawn(move || {
        // Nobody waits any more if this fails.
        let _ = send.send(trial(family));
    });
    if spawned.is_err() {
        return Err(ProbeError::Hangs);
    }
    receive
        .recv_timeout(LIMIT)
        .unwrap_or(Err(ProbeError::Hangs))
}

/// What came out so far.
#[derive(Default)]
struct Output {
    frames: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl Output {
    fn note(&self, change: impl FnOnce(&mut (u32, bool))) {
        change(&mut locked(&self.frames));
        self.changed.notify_all();
    }

    fn frames(&self) -> u32 {
        locked(&self.frames).0
    }

    fn wait(&self, limit: Duration, done: impl Fn(&(u32, bool)) -> bool) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(locked(&self.frames), limit, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }
}

fn trial(family: &'static Family) -> Outcome {
    let setup = Setup::new(SIZE.0, SIZE.1, FRAME_TIME, RATE);
    let element = family
        .make(None, setup)
        .map_err(|_| ProbeError::NotInstalled)?;
    // Set by hand: without a bin there is nobody to take the messages.
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let outcome = run(family, &element);
    let _ = element.set_state(gst::State::Null);
    element.set_bus(None);
    let failed = bus.pop_filtered(&[gst::MessageType::Error]).is_some();
    match outcome {
        Ok(_) if failed => Err(ProbeError::Fails),
        outcome => outcome,
    }
}

fn run(family: &'static Family, element: &gst::Element) -> Outcome {
    let begin = Instant::now();
    let start = |state| {
        element
            .set_state(state)
            .map_err(|_| ProbeError::DoesNotStart)
    };
    start(gst::State::Ready)?;
    let pads = (element.static_pad("sink"), element.static_pad("src"));
    let (Some(sink), Some(src)) = pads else {
        return Err(ProbeError::DoesNotStart);
    };
    let output = Arc::new(Output::default());
    let input = gst::Pad::new(gst::PadDirection::Src);
    let behind = collector(&output);
    let activated = behind.set_active(true).is_ok() && input.set_active(true).is_ok();
    let linked = input.link(&sink).is_ok() && src.link(&behind).is_ok();
    if !activated || !linked {
        return Err(ProbeError::DoesNotStart);
    }
    start(gst::State::Playing)?;
    let result = feed(family, element, &input, &output, begin);
    let _ = element.set_state(gst::State::Null);
    let _ = (input.set_active(false), behind.set_active(false));
    let _ = (input.unlink(&sink), src.unlink(&behind));
    result
}

/// A pad that takes what comes and counts it.
fn collector(output: &Arc<Output>) -> gst::Pad {
    let (frames, ends) = (output.clone(), output.clone());
    gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, _| {
            frames.note(|state| state.0 += 1);
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(move |_, _, event| {
            if event.type_() == gst::EventType::Eos {
                ends.note(|state| state.1 = true);
            }
            true
        })
        .build()
}

fn feed(
    family: &'static Family,
    element: &gst::Element,
    input: &gst::Pad,
    output: &Output,
    begin: Instant,
) -> Outcome {
    let Some((caps, info)) = picture_caps(input) else {
        return Ok(Probed {
            before_end: 0,
            took: begin.elapsed(),
            only_started: true,
        });
    };
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    input.push_event(gst::event::StreamStart::new("probe"));
    if !input.push_event(gst::event::Caps::new(&caps)) {
        return Err(ProbeError::RefusesFormat);
    }
    input.push_event(gst::event::Segment::new(&segment));
    for n in 0..PICTURES {
        if n == 0 && !family.rate_at_start {
            family.set_rate(
                element,
                Setup::new(SIZE.0, SIZE.1, FRAME_TIME, RATE).rate,
                true,
            );
        }
        let mut picture = gst::Buffer::from_mut_slice(texture(info.size(), n));
        {
            let picture = picture.make_mut();
            picture.set_pts(gst::ClockTime::SECOND * u64::from(n) / 30);
            picture.set_duration(gst::ClockTime::SECOND / 30);
        }
        match input.push(picture) {
            Ok(_) => {}
            Err(gst::FlowError::NotNegotiated) => return Err(ProbeError::RefusesFormat),
            Err(_) => return Err(ProbeError::Fails),
        }
    }
    // A hardware encoder gives its frames from a thread of its own.
    output.wait(Duration::from_millis(500), |state| state.0 >= PICTURES);
    let before_end = output.frames();
    input.push_event(gst::event::Eos::new());
    if !output.wait(LIMIT, |state| state.1) {
        return Err(ProbeError::Hangs);
    }
    if output.frames() < PICTURES {
        return Err(ProbeError::LosesFrames);
    }
    Ok(Probed {
        before_end,
        took: begin.elapsed(),
        only_started: false,
    })
}

/// System memory of a format that the encoder takes.
fn picture_caps(input: &gst::Pad) -> Option<(gst::Caps, gst_video::VideoInfo)> {
    let wanted = gst_video::VideoCapsBuilder::new()
        .width(SIZE.0 as i32)
        .height(SIZE.1 as i32)
        .framerate(gst::Fraction::new(30, 1))
        .build();
    let mut caps = input.peer_query_caps(Some(&wanted)).intersect(&wanted);
    if caps.is_empty() {
        return None;
    }
    caps.fixate();
    let info = gst_video::VideoInfo::from_caps(&caps).ok()?;
    Some((caps, info))
}

/// Not flat, so that there is something to encode.
fn texture(size: usize, n: u32) -> Vec<u8> {
    (0..size)
        .map(|i| (((i ^ (i >> 5)) as u32).wrapping_add(n * 3) & 0x7f) as u8 + 64)
        .collect()
}
