// SPDX-License-Identifier: MPL-2.0
//! The signaller as a link that is up or down: its signals as events for the
//! element's worker thread, and retries until a deadline.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use gst::glib;
use gst::glib::prelude::*;
use gst::subclass::prelude::ObjectSubclassIsExt;
use gst_webrtc::WebRTCSessionDescription;
use gstrswebrtc::signaller::{Signallable, SignallableExt, Signaller, WebRTCSignallerRole};

/// Between a failed attempt to connect and the next.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Longer than this a signaller is not waited for when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a signaller says, for the worker thread.
#[derive(Debug)]
pub enum Event {
    /// Registered at the server.
    Up,
    Error(String),
    ProducerAdded(String),
    ProducerRemoved(String),
    SessionStarted {
        session: String,
        peer: String,
    },
    SessionRequested {
        session: String,
        peer: String,
        /// The consumer brought its own offer.
        offer: bool,
    },
    SessionEnded(String),
    Description {
        session: String,
        description: WebRTCSessionDescription,
    },
    Candidate {
        session: String,
        mline: u32,
        candidate: String,
    },
}

/// What a change of the link means to the element.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// An attempt to connect failed; it is tried again.
    Trying(String),
    /// The connection is gone, sessions with it; it is tried again.
    Lost(String),
    /// A single request failed; the connection stands.
    Refused(String),
    /// No connection within the time allowed.
    GivenUp(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stopped,
    /// Trying since `since`.
    Connecting {
        since: Instant,
    },
    Up,
    Waiting {
        since: Instant,
        retry_at: Instant,
    },
}

/// Registers the signaller's types. They have the same names in the rswebrtc
/// plugin, and two libraries cannot both register a name in one process.
pub fn types_available() -> bool {
    static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // A name that is taken may still be ours, in a program that links
        // the signaller itself: only registration tells.
        std::panic::catch_unwind(|| {
            Signallable::static_type();
            WebRTCSignallerRole::static_type();
            Signaller::static_type();
        })
        .is_ok()
    })
}

/// Signals of `signaller` as events; the handlers hold no element.
fn connect_signals(
    signaller: &Signallable,
    post: impl Fn(Event) + Clone + Send + Sync + 'static,
) -> Vec<glib::SignalHandlerId> {
    let string = |values: &[glib::Value], at: usize| {
        values
            .get(at)
            .and_then(|v| v.get::<Option<String>>().ok().flatten())
            .unwrap_or_default()
    };
    let on = |signal: &str, make: fn(&[String], &[glib::Value]) -> Option<Event>, reply: bool| {
        let post = post.clone();
        signaller.connect(signal, false, move |values| {
            let strings = [string(values, 1), string(values, 2)];
            if let Some(event) = make(&strings, values) {
                post(event);
            }
            reply.then(|| true.to_value())
        })
    };
    let mut handlers = vec![
        on("error", |s, _| Some(Event::Error(s[0].clone())), false),
        on(
            "producer-added",
            |s, _| Some(Event::ProducerAdded(s[0].clone())),
            false,
        ),
        on(
            "producer-removed",
            |s, _| Some(Event::ProducerRemoved(s[0].clone())),
            false,
        ),
        on(
            "session-started",
            |s, _| {
                Some(Event::SessionStarted {
                    session: s[0].clone(),
                    peer: s[1].clone(),
                })
            },
            false,
        ),
        on(
            "session-requested",
            |s, values| {
                Some(Event::SessionRequested {
                    session: s[0].clone(),
                    peer: s[1].clone(),
                    offer: values
                        .get(3)
                        .and_then(|v| v.get::<Option<WebRTCSessionDescription>>().ok())
                        .flatten()
                        .is_some(),
                })
            },
            false,
        ),
        on(
            "session-ended",
            |s, _| Some(Event::SessionEnded(s[0].clone())),
            true,
        ),
        on(
            "session-description",
            |s, values| {
                Some(Event::Description {
                    session: s[0].clone(),
                    description: values.get(2)?.get().ok()?,
                })
            },
            false,
        ),
        on(
            "handle-ice",
            |s, values| {
                Some(Event::Candidate {
                    session: s[0].clone(),
                    mline: values.get(2)?.get().ok()?,
                    candidate: values.get(4)?.get().ok()?,
                })
            },
            false,
        ),
    ];
    if signaller.find_property("client-id").is_some() {
        handlers.push(
            signaller.connect_notify(Some("client-id"), move |signaller, _| {
                if signaller.property::<Option<String>>("client-id").is_some() {
                    post(Event::Up);
                }
            }),
        );
    }
    handlers
}

/// What the element wants of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Producer,
    /// Consumer of this producer, or of any.
    Consumer(Option<String>),
}

/// The connection to the signalling server. Lives on the worker thread.
pub struct Link {
    signaller: Signallable,
    handlers: Vec<glib::SignalHandlerId>,
    state: State,
    role: Role,
    /// None: for ever.
    timeout: Option<Duration>,
}

impl Link {
    pub fn producer(
        signaller: Signallable,
        timeout: Option<Duration>,
        post: impl Fn(Event) + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::new(signaller, Role::Producer, timeout, post)
    }

    /// A consumer of the producer that the signaller names, or of any.
    pub fn consumer(
        signaller: Signallable,
        timeout: Option<Duration>,
        post: impl Fn(Event) + Clone + Send + Sync + 'static,
    ) -> Self {
        let wanted = signaller
            .downcast_ref::<Signaller>()
            .and_then(|s| s.property::<Option<String>>("producer-peer-id"));
        Self::new(signaller, Role::Consumer(wanted), timeout, post)
    }

    fn new(
        signaller: Signallable,
        role: Role,
        timeout: Option<Duration>,
        post: impl Fn(Event) + Clone + Send + Sync + 'static,
    ) -> Self {
        let handlers = connect_signals(&signaller, post);
        Self {
            signaller,
            handlers,
            state: State::Stopped,
            role,
            timeout,
        }
    }

    /// For messages: where the server is.
    pub fn uri(&self) -> String {
        if self.signaller.find_property("uri").is_some() {
            self.signaller.property("uri")
        } else {
            self.signaller.type_().to_string()
        }
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub fn start(&mut self, now: Instant) {
        self.begin(now);
    }

    fn begin(&mut self, since: Instant) {
        if let Some(signaller) = self.signaller.downcast_ref::<Signaller>() {
            match &self.role {
                Role::Producer => signaller.set_property("role", WebRTCSignallerRole::Producer),
                // A listener hears of producers that come and go, and may
                // start a session all the same.
                Role::Consumer(_) => signaller.set_property("role", WebRTCSignallerRole::Listener),
            }
        }
        self.state = State::Connecting { since };
        self.signaller.start();
    }

    /// Connects anew, to be told of all producers: the signaller sends "I
    /// listen" and "list" in any order, and a producer that registers between
    /// the two goes unheard.
    pub fn list_again(&mut self, now: Instant) {
        if self.is_up() {
            self.halt();
            self.begin(now);
        }
    }

    /// Asks `producer` for a session. False with a signaller that asks by
    /// itself.
    pub fn request_session(&self, producer: &str) -> bool {
        let Some(signaller) = self.signaller.downcast_ref::<Signaller>() else {
            return false;
        };
        signaller.set_property("role", WebRTCSignallerRole::Consumer);
        signaller.set_property("producer-peer-id", producer);
        signaller.imp().start_session();
        true
    }

    /// Whether a session with this producer is wanted.
    pub fn wants(&self, producer: &str) -> bool {
        match &self.role {
            Role::Producer => false,
            Role::Consumer(wanted) => wanted.as_deref().is_none_or(|w| w == producer),
        }
    }

    pub fn send_description(&self, session: &str, description: &WebRTCSessionDescription) {
        let description = self.signaller.munge_sdp(session, description);
        self.signaller.send_sdp(session, &description);
    }

    pub fn send_candidate(&self, session: &str, mline: u32, candidate: &str) {
        self.signaller.add_ice(session, candidate, mline, None);
    }

    pub fn end_session(&self, session: &str) {
        if self.is_up() {
            self.signaller.end_session(session);
        }
    }

    pub fn on_up(&mut self) {
        if matches!(self.state, State::Connecting { .. }) {
            self.state = State::Up;
        }
    }

    pub fn on_error(&mut self, now: Instant, text: &str) -> Change {
        // The wording is the signaller's: these two leave the connection as
        // it is, all others mean that it is gone.
        if text.starts_with("Error message from server") || text.starts_with("Unknown message") {
            return Change::Refused(text.to_owned());
        }
        match self.state {
            State::Stopped | State::Waiting { .. } => Change::Nothing,
            State::Connecting { since } => {
                self.wait(since, now);
                if self.expired(since, now) {
                    return self.give_up(text);
                }
                Change::Trying(text.to_owned())
            }
            State::Up => {
                self.wait(now, now);
                Change::Lost(text.to_owned())
            }
        }
    }

    fn wait(&mut self, since: Instant, now: Instant) {
        self.halt();
        self.state = State::Waiting {
            since,
            retry_at: now + RETRY_INTERVAL,
        };
    }

    fn expired(&self, since: Instant, now: Instant) -> bool {
        self.timeout
            .is_some_and(|timeout| now.saturating_duration_since(since) >= timeout)
    }

    fn give_up(&mut self, text: &str) -> Change {
        self.state = State::Stopped;
        Change::GivenUp(text.to_owned())
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Stopped | State::Up => None,
            State::Connecting { since } if self.has_client_id() => {
                self.timeout.map(|timeout| since + timeout)
            }
            State::Connecting { .. } => None,
            State::Waiting { retry_at, .. } => Some(retry_at),
        }
    }

    pub fn poll(&mut self, now: Instant) -> Change {
        match self.state {
            State::Connecting { since } if self.has_client_id() && self.expired(since, now) => {
                self.halt();
                self.give_up("no answer")
            }
            State::Waiting { since, retry_at } if now >= retry_at => {
                if self.expired(since, now) {
                    return self.give_up("no connection");
                }
                self.begin(since);
                Change::Nothing
            }
            _ => Change::Nothing,
        }
    }

    /// A signaller without this property cannot say when it is connected.
    fn has_client_id(&self) -> bool {
        self.signaller.find_property("client-id").is_some()
    }

    /// Stops the signaller, but does not wait for it for ever: its stop()
    /// waits for its runtime with a lock held that the runtime may want.
    fn halt(&self) {
        let (done, wait) = mpsc::channel();
        let signaller = self.signaller.clone();
        let stopper = std::thread::spawn(move || {
            signaller.stop();
            // Nobody waits any more if this fails.
            let _ = done.send(());
        });
        if wait.recv_timeout(STOP_TIMEOUT).is_ok() {
            // It has only to return.
            let _ = stopper.join();
        }
    }

    pub fn stop(&mut self) {
        if self.state != State::Stopped {
            if !matches!(self.state, State::Waiting { .. }) {
                self.halt();
            }
            self.state = State::Stopped;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
        for handler in self.handlers.drain(..) {
            self.signaller.disconnect(handler);
        }
        // As the user left it, for the next start.
        if let (Role::Consumer(wanted), Some(signaller)) =
            (&self.role, self.signaller.downcast_ref::<Signaller>())
        {
            signaller.set_property("role", WebRTCSignallerRole::Consumer);
            signaller.set_property("producer-peer-id", wanted);
        }
    }
}
