// SPDX-License-Identifier: MPL-2.0
//! What gates and join share: the receiver's state, and the ways between them.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};

use dualstream_common::Timestamp;
use dualstream_core::receiver::{Action, Config, Decoded, Dropped, Next, Receiver, Unit};
use dualstream_core::wire::Stream;
use gst::glib;
use gst::prelude::*;

use super::imp::CAT;

/// A decoded picture on its way out.
#[derive(Debug)]
pub struct Picture {
    pub buffer: gst::Buffer,
    pub caps: gst::Caps,
}

pub struct State {
    core: Receiver<Picture>,
    /// The output runs.
    running: bool,
    playing: bool,
    last_now: Timestamp,
    ended: [bool; 2],
    /// What the last push downstream returned.
    pub flow: Result<gst::FlowSuccess, gst::FlowError>,
    wait: Option<gst::SingleShotClockId>,
    /// Counts inputs, so that the output sees those that came before it waits.
    inputs: u64,
    reported_display: Option<Stream>,
    /// Seqnum of the last flush that began, and that ended.
    pub flush_started: Option<gst::Seqnum>,
    pub flush_stopped: Option<gst::Seqnum>,
    /// Downstream takes GstVideoMeta.
    pub video_meta: bool,
}

/// What the output task is to do.
pub enum Output {
    Show(Box<dualstream_core::receiver::Shown<Picture>>),
    Message(Action<Picture>),
    Eos,
    Stop,
}

pub struct Hub {
    state: Mutex<State>,
    wake: Condvar,
    bin: OnceLock<glib::WeakRef<super::DualH264Dec>>,
}

impl Hub {
    pub fn new(config: Config) -> Self {
        let core = Receiver::new(config)
            .or_else(|_| Receiver::new(Config::default()))
            .expect("the default configuration is valid");
        Self {
            state: Mutex::new(State {
                core,
                running: false,
                playing: false,
                last_now: Timestamp::ZERO,
                ended: [false; 2],
                flow: Ok(gst::FlowSuccess::Ok),
                wait: None,
                inputs: 0,
                reported_display: None,
                flush_started: None,
                flush_stopped: None,
                video_meta: false,
            }),
            wake: Condvar::new(),
            bin: OnceLock::new(),
        }
    }

    pub fn set_bin(&self, bin: &super::DualH264Dec) {
        let _ = self.bin.set(bin.downgrade());
    }

    fn bin(&self) -> Option<super::DualH264Dec> {
        self.bin.get()?.upgrade()
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The running time. It stands still while the pipeline does, for then
    /// nobody answers either.
    fn now(&self, state: &mut State) -> Timestamp {
        if state.playing
            && let Some(now) = self.bin().and_then(|b| b.current_running_time())
        {
            state.last_now = Timestamp::from_nanos(now.nseconds());
        }
        state.last_now
    }

    /// Something changed that the output may wait for.
    fn notify(&self, mut state: MutexGuard<'_, State>) {
        state.inputs = state.inputs.wrapping_add(1);
        if let Some(wait) = state.wait.take() {
            wait.unschedule();
        }
        drop(state);
        self.wake.notify_all();
    }

    pub fn set_playing(&self, playing: bool) {
        let mut state = self.lock();
        // The time at which it stops is still read.
        self.now(&mut state);
        state.playing = playing;
        self.notify(state);
    }

    pub fn set_running(&self, running: bool) {
        let mut state = self.lock();
        state.running = running;
        state.flow = if running {
            Ok(gst::FlowSuccess::Ok)
        } else {
            Err(gst::FlowError::Flushing)
        };
        self.notify(state);
    }

    /// Forgets pictures and streams.
    pub fn flush(&self) {
        let mut state = self.lock();
        let held = state.core.flush();
        state.ended = [false; 2];
        state.last_now = Timestamp::ZERO;
        self.notify(state);
        drop(held);
        self.report_display();
    }

    /// A new run: counters too.
    pub fn reset(&self, config: Config) {
        self.flush();
        let mut state = self.lock();
        if let Ok(core) = Receiver::new(config) {
            state.core = core;
        }
        state.flush_started = None;
        state.flush_stopped = None;
        state.video_meta = false;
    }

    pub fn core<T>(&self, f: impl FnOnce(&mut Receiver<Picture>) -> T) -> T {
        let mut state = self.lock();
        let result = f(&mut state.core);
        self.notify(state);
        result
    }

    pub fn unit(&self, unit: Unit) -> Result<(), Dropped> {
        let mut state = self.lock();
        let now = self.now(&mut state);
        let verdict = state.core.unit(now, unit);
        state.ended[unit.stream.index()] = false;
        self.notify(state);
        self.send_messages();
        self.report_display();
        verdict
    }

    /// Takes a picture in; waits while the queue is full.
    pub fn picture(
        &self,
        decoded: Decoded,
        picture: Picture,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut state = self.lock();
        while state.running && state.flow.is_ok() && state.core.is_full() {
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if !state.running {
            return Err(gst::FlowError::Flushing);
        }
        state.flow?;
        let now = self.now(&mut state);
        let rejected = state.core.picture(now, decoded, picture);
        self.notify(state);
        if let Err(rejected) = rejected {
            gst::log!(
                CAT,
                "{:?} picture not shown: {:?}",
                decoded,
                rejected.refusal
            );
        }
        self.send_messages();
        Ok(gst::FlowSuccess::Ok)
    }

    pub fn decoder_restarted(&self, stream: Stream) {
        let mut state = self.lock();
        let now = self.now(&mut state);
        state.core.decoder_restarted(now, stream);
        self.notify(state);
        self.send_messages();
    }

    /// No more pictures come from this stream.
    pub fn end(&self, stream: Stream) {
        let mut state = self.lock();
        state.ended[stream.index()] = true;
        state.core.end(stream);
        self.notify(state);
    }

    /// A pad was linked or unlinked.
    pub fn links_changed(&self) {
        self.notify(self.lock());
    }

    fn send_messages(&self) {
        loop {
            let mut state = self.lock();
            let now = self.now(&mut state);
            let Some(action) = state.core.poll_message(now) else {
                return;
            };
            drop(state);
            self.send(action);
        }
    }

    /// Sends a message to the sender, upstream on the stream's own pad.
    pub fn send(&self, action: Action<Picture>) {
        let Some(bin) = self.bin() else { return };
        match action {
            Action::Show(_) => {}
            Action::Complete(c) => bin.send_complete(c),
            Action::AskRecovery(ask) => bin.ask_recovery(ask),
        }
    }

    fn report_display(&self) {
        let mut state = self.lock();
        let display = state.core.display();
        if display == state.reported_display {
            return;
        }
        state.reported_display = display;
        drop(state);
        if let Some(bin) = self.bin() {
            gst::info!(CAT, obj = bin, "Display stream is now {display:?}");
            bin.notify("display-stream");
        }
    }

    /// What the output is to do next; waits for it.
    pub fn next_output(&self) -> Output {
        loop {
            // Pads are asked without the lock.
            let linked = self.bin().map(|b| b.linked()).unwrap_or_default();
            let mut state = self.lock();
            if !state.running || state.flow.is_err() {
                return Output::Stop;
            }
            let now = self.now(&mut state);
            let until = match state.core.poll(now) {
                Next::Do(Action::Show(shown)) => {
                    // There is room for one more.
                    self.wake.notify_all();
                    return Output::Show(Box::new(shown));
                }
                Next::Do(action) => return Output::Message(action),
                Next::WaitUntil(until, _) => Some(until),
                Next::Idle => None,
            };
            let over = (0..2).all(|i| state.ended[i] || !linked[i]) && state.ended.contains(&true);
            if over && state.core.stats().held == 0 {
                return Output::Eos;
            }
            self.wait(state, until);
        }
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, until: Option<Timestamp>) {
        let inputs = state.inputs;
        let clock = until.filter(|_| state.playing).and_then(|until| {
            let bin = self.bin()?;
            let at = bin.base_time()? + gst::ClockTime::from_nseconds(until.as_nanos());
            Some(bin.clock()?.new_single_shot_id(at))
        });
        if let Some(id) = clock {
            state.wait = Some(id.clone());
            drop(state);
            let _ = id.wait();
            self.lock().wait = None;
        } else {
            while state.running && state.inputs == inputs {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        }
    }

    pub fn display(&self) -> Option<Stream> {
        self.lock().core.display()
    }
}
