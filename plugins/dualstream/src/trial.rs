// SPDX-License-Identifier: MPL-2.0
//! Whether a codec really works: a factory may be registered where its device
//! cannot be used. It is made, started and given ten pictures, once per
//! process.

use gst::glib;
use gst::prelude::*;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pictures that it is given.
pub const PICTURES: u32 = 10;
/// For all of it. A driver that is slow to wake up takes one or two seconds.
const LIMIT: Duration = Duration::from_secs(5);
/// For what comes out of a thread of the codec's own.
const LAG: Duration = Duration::from_millis(500);

/// What a trial showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Frames that were out before it was told that it was the end;
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
            Self::RefusesFormat => "it refuses the format",
            Self::Fails => "it fails",
            Self::LosesFrames => "frames are missing",
            Self::Hangs => "it hangs",
        })
    }
}

impl std::error::Error for ProbeError {}

pub type Outcome = Result<Probed, ProbeError>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a trial pushes in: caps and ten buffers; `None`: there is nothing that
/// could be made here.
pub type Input = Option<(gst::Caps, Vec<gst::Buffer>)>;

/// The outcome for a factory, from an earlier trial if there was one.
pub fn known_or(factory: &str, trial: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    // By type, because another plugin may take the factory's name over.
    static KNOWN: LazyLock<Mutex<HashMap<glib::Type, Outcome>>> = LazyLock::new(Mutex::default);
    let factory = gst::ElementFactory::find(factory).ok_or(ProbeError::NotInstalled)?;
    let factory = factory.load().map_err(|_| ProbeError::NotInstalled)?;
    let kind = factory.element_type();
    if let Some(known) = locked(&KNOWN).get(&kind) {
        return *known;
    }
    let outcome = in_time(trial);
    locked(&KNOWN).insert(kind, outcome);
    outcome
}

/// In a thread of its own, which is left alone if it hangs in a driver.
fn in_time(trial: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("codec-trial".into());
    let spawned = thread.spawn(move || {
        // Nobody waits any more if this fails.
        let _ = send.send(trial());
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

/// Runs `element`, which is in no bin, on what `input` makes for the pad that
/// it is given; `before_first` is called with the format known.
pub fn trial(
    element: &gst::Element,
    input: impl FnOnce(&gst::Pad) -> Input,
    before_first: impl FnOnce(),
) -> Outcome {
    // Set by hand: without a bin there is nobody to take the messages.
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let outcome = run(element, input, before_first);
    let _ = element.set_state(gst::State::Null);
    element.set_bus(None);
    let failed = bus.pop_filtered(&[gst::MessageType::Error]).is_some();
    match outcome {
        Ok(_) if failed => Err(ProbeError::Fails),
        outcome => outcome,
    }
}

fn run(
    element: &gst::Element,
    input: impl FnOnce(&gst::Pad) -> Input,
    before_first: impl FnOnce(),
) -> Outcome {
    let begin = Instant::now();
    let start = |state| {
        let started = element.set_state(state);
        started.map_err(|_| ProbeError::DoesNotStart)
    };
    start(gst::State::Ready)?;
    let pads = (element.static_pad("sink"), element.static_pad("src"));
    let (Some(sink), Some(src)) = pads else {
        return Err(ProbeError::DoesNotStart);
    };
    let output = Arc::new(Output::default());
    let front = gst::Pad::new(gst::PadDirection::Src);
    let behind = collector(&output);
    let activated = behind.set_active(true).is_ok() && front.set_active(true).is_ok();
    let linked = front.link(&sink).is_ok() && src.link(&behind).is_ok();
    if !activated || !linked {
        return Err(ProbeError::DoesNotStart);
    }
    start(gst::State::Playing)?;
    let result = match input(&front) {
        Some((caps, buffers)) => feed(&front, &caps, buffers, before_first, &output, begin),
        None => Ok(Probed {
            before_end: 0,
            took: begin.elapsed(),
            only_started: true,
        }),
    };
    let _ = element.set_state(gst::State::Null);
    let _ = (front.set_active(false), behind.set_active(false));
    let _ = (front.unlink(&sink), src.unlink(&behind));
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
    input: &gst::Pad,
    caps: &gst::Caps,
    buffers: Vec<gst::Buffer>,
    before_first: impl FnOnce(),
    output: &Output,
    begin: Instant,
) -> Outcome {
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    input.push_event(gst::event::StreamStart::new("trial"));
    if !input.push_event(gst::event::Caps::new(caps)) {
        return Err(ProbeError::RefusesFormat);
    }
    input.push_event(gst::event::Segment::new(&segment));
    before_first();
    for buffer in buffers {
        match input.push(buffer) {
            Ok(_) => {}
            Err(gst::FlowError::NotNegotiated) => return Err(ProbeError::RefusesFormat),
            Err(_) => return Err(ProbeError::Fails),
        }
    }
    output.wait(LAG, |state| state.0 >= PICTURES);
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

/// With the time of picture `n` at 30 frames per second.
pub fn timed(mut buffer: gst::Buffer, n: u32) -> gst::Buffer {
    let timed = buffer.make_mut();
    timed.set_pts(gst::ClockTime::SECOND * u64::from(n) / 30);
    timed.set_duration(gst::ClockTime::SECOND / 30);
    buffer
}
