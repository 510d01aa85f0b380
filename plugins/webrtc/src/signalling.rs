// SPDX-License-Identifier: MPL-2.0
//! The signaller as a link that is up or down: its signals as events for the
//! element's worker thread, and retries until a deadline.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use gst::glib;
use gst::glib::prelude::*;
use gst::subclass::prelude::ObjectSubclassIsExt;
use gst_webrtc::WebRTCSessionDescription;
use gstrswebrtc::signaller::{Signallable, SignallableExt, Signaller, WebRTCSignallerRole};

use crate::answers::Answers;
use crate::quiet_stop;
use crate::signallers::{self, Kind, Wrong};

/// Between a failed attempt to connect and the next.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Longer than this a signaller is not waited for when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that takes longer is tried anew: TCP waits ever longer between
/// its own tries (1, 2, 4 s), and the network may be back.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Between sessions with a signaller that has one only, doubled each time ...
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// ... unless one lasted this long.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// For an HTTP server to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Id of the only session of the WHIP client.
const UNIQUE: &str = "unique";

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
        /// What the consumer brought, if it did.
        offer: Option<WebRTCSessionDescription>,
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

type Post = Arc<dyn Fn(Event) + Send + Sync>;

/// Signals of `signaller` as events; the handlers hold no element.
fn connect_signals(signaller: &Signallable, post: Post) -> Vec<glib::SignalHandlerId> {
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
                        .flatten(),
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

/// What events mean to the link, seen where they are emitted.
struct Watch {
    kind: Kind,
    has_client_id: bool,
    answers: Option<Answers>,
    countered: Arc<AtomicBool>,
    post: Box<dyn Fn(Event) + Send + Sync>,
}

impl Watch {
    fn on_event(&self, event: Event) {
        // Without a client id these show that there is a connection.
        let shows_up = match &event {
            // They ask for a session before they are connected.
            Event::Description { .. } => self.kind.is_http_client(),
            Event::SessionRequested { .. } | Event::SessionStarted { .. } => {
                matches!(self.kind, Kind::Janus | Kind::JanusStrings | Kind::Custom)
            }
            _ => false,
        };
        if shows_up && !self.has_client_id {
            (self.post)(Event::Up);
        }
        match (&event, &self.answers) {
            (
                Event::SessionRequested { session, .. } | Event::SessionStarted { session, .. },
                Some(answers),
            ) => answers.asked(session),
            (Event::SessionEnded(session), Some(answers)) => answers.answer(session, None),
            (Event::SessionEnded(_), None) if self.kind == Kind::WhepClient => {
                self.countered.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
        (self.post)(event);
    }
}

/// A WHIP client connects a handler to itself each time it starts, and each of
/// them would send the offer: it is started once in its life. True if it has
/// not been.
fn is_first_start(signaller: &Signallable) -> bool {
    static STARTED: Mutex<Vec<glib::WeakRef<Signallable>>> = Mutex::new(Vec::new());
    let mut started = STARTED.lock().unwrap();
    started.retain(|weak| weak.upgrade().is_some());
    if started
        .iter()
        .any(|weak| weak.upgrade().as_ref() == Some(signaller))
    {
        return false;
    }
    started.push(signaller.downgrade());
    true
}

/// Waits until an HTTP server listens.
fn is_listening(address: SocketAddr) -> bool {
    let end = Instant::now() + LISTEN_TIMEOUT;
    while Instant::now() < end {
        if TcpStream::connect_timeout(&address, LISTEN_TIMEOUT).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
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
    kind: Kind,
    post: Post,
    /// Of an HTTP server.
    answers: Option<Answers>,
    /// Why the signaller was not started; it is no use to try again.
    refusal: Option<String>,
    /// Why the last attempt failed.
    last_error: Option<String>,
    /// To the next session, with a signaller that has one only.
    pause: Duration,
    up_since: Option<Instant>,
    /// When the last attempt to connect began.
    attempt: Instant,
    /// It is tried for ever.
    patient: bool,
    /// The WHEP server takes no offers and makes its own: the end of our
    /// session is not the end.
    countered: Arc<AtomicBool>,
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
        let kind = Kind::of(&signaller);
        let answers = kind.serves().then(|| Answers::new(&signaller));
        let countered = Arc::new(AtomicBool::new(false));
        let watch = Watch {
            kind,
            has_client_id: signaller.find_property("client-id").is_some(),
            answers: answers.clone(),
            countered: countered.clone(),
            post: Box::new(post),
        };
        let post: Post = Arc::new(move |event| watch.on_event(event));
        let handlers = connect_signals(&signaller, post.clone());
        Self {
            signaller,
            handlers,
            state: State::Stopped,
            role,
            timeout,
            kind,
            post,
            answers,
            refusal: None,
            last_error: None,
            pause: RETRY_INTERVAL,
            attempt: Instant::now(),
            patient: false,
            up_since: None,
            countered,
        }
    }

    /// For messages: where the server is.
    pub fn uri(&self) -> String {
        let name = self.kind.address();
        if self.signaller.find_property(name).is_some() {
            self.signaller
                .property::<Option<String>>(name)
                .unwrap_or_default()
        } else {
            self.signaller.type_().to_string()
        }
    }

    /// What an error of the signaller means, and what the user can do.
    pub fn explain(&self, text: &str) -> (String, String) {
        signallers::explain(self.kind, &self.uri(), text)
    }

    /// The peer is an SFU, and passes on to viewers what it knows: why that is
    /// a single stream.
    pub fn sfu(&self) -> Option<&'static str> {
        self.kind
            .is_janus()
            .then_some("Janus passes on neither frame-complete messages nor the header extension")
    }

    /// Each side's candidates are in its only description: nothing can be
    /// negotiated again in a session.
    pub fn is_one_shot(&self) -> bool {
        self.kind.serves() || self.kind.is_http_client()
    }

    /// Shows the signaller the webrtcbin of a new session, before anything is
    /// set on it.
    pub fn attach(&self, session: &str, peer: &str, webrtcbin: &gst::Element) {
        match &self.answers {
            Some(answers) => answers.follow(session, webrtcbin),
            None => self
                .signaller
                .emit_by_name::<()>("webrtcbin-ready", &[&peer, webrtcbin]),
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
        self.attempt = Instant::now();
        let listens = match signallers::prepare(self.kind, &self.signaller) {
            Ok(listens) => listens,
            Err(Wrong::Settings(text)) => {
                self.refusal = Some(text);
                return;
            }
            Err(Wrong::Now(text)) => return (self.post)(Event::Error(text)),
        };
        if self.kind == Kind::WhipClient && !is_first_start(&self.signaller) {
            return (self.post)(Event::SessionRequested {
                session: UNIQUE.into(),
                peer: UNIQUE.into(),
                offer: None,
            });
        }
        self.signaller.start();
        if self.kind.serves() {
            (self.post)(match listens {
                Some(address) if !is_listening(address) => {
                    Event::Error(format!("nobody listens at {address}"))
                }
                _ => Event::Up,
            });
        }
    }

    /// While there is a session it is tried for ever.
    pub fn set_patient(&mut self, now: Instant, patient: bool) {
        if self.patient && !patient {
            match &mut self.state {
                State::Connecting { since } | State::Waiting { since, .. } => *since = now,
                State::Stopped | State::Up => {}
            }
        }
        self.patient = patient;
    }

    /// Connects anew: the network is another one, or the server does not answer.
    pub fn connect_again(&mut self, now: Instant) {
        let is_under_way = matches!(self.state, State::Up | State::Connecting { .. });
        if is_under_way && matches!(self.kind, Kind::GstWebRtc | Kind::Custom) {
            self.halt();
            self.begin(now);
        }
    }

    /// Connects anew, to be told of all producers: the signaller sends "I
    /// listen" and "list" in any order, and a producer that registers between
    /// the two goes unheard.
    pub fn list_again(&mut self, now: Instant) {
        if self.is_up() && matches!(self.kind, Kind::GstWebRtc | Kind::Custom) {
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
        if self.is_one_shot() {
            // They take it from webrtcbin, with all candidates.
            return;
        }
        let munges_itself = self
            .signaller
            .has_property_with_type("manual-sdp-munging", bool::static_type())
            && self.signaller.property("manual-sdp-munging");
        if munges_itself {
            self.signaller.send_sdp(session, description);
        } else {
            let description = self.signaller.munge_sdp(session, description);
            self.signaller.send_sdp(session, &description);
        }
    }

    pub fn send_candidate(&self, session: &str, mline: u32, candidate: &str) {
        // Janus' signaller panics without a connection.
        if !self.is_one_shot() && (self.is_up() || !self.kind.is_janus()) {
            self.signaller.add_ice(session, candidate, mline, None);
        }
    }

    pub fn end_session(&self, session: &str) {
        if let Some(answers) = &self.answers {
            // Without effect if it was answered.
            answers.answer(session, None);
        }
        if !self.is_up() {
            return;
        }
        if self.kind.is_http_client() {
            // It waits for the server's word.
            let session = session.to_owned();
            self.without_waiting_long(move |signaller| signaller.end_session(&session));
        } else {
            self.signaller.end_session(session);
        }
    }

    /// A session that was offered is not wanted.
    pub fn refuse(&mut self, session: &str) {
        if self.kind.asks_itself() {
            // There is no other one.
            self.stop();
        } else {
            self.end_session(session);
        }
    }

    /// A session is over, and not because of the link. A signaller that has
    /// one only is started again.
    pub fn on_session_over(&mut self, now: Instant) {
        if !self.kind.asks_itself()
            || !matches!(self.state, State::Up | State::Connecting { .. })
            || self.countered.swap(false, Ordering::Relaxed)
        {
            return;
        }
        if self
            .up_since
            .take()
            .is_some_and(|since| now.saturating_duration_since(since) > GOOD_SESSION)
        {
            self.pause = RETRY_INTERVAL;
        }
        let since = match self.state {
            State::Connecting { since } => since,
            _ => now,
        };
        self.wait(since, now);
        self.state = State::Waiting {
            since,
            retry_at: now + self.pause,
        };
        self.pause = (self.pause * 2).min(MAX_RETRY_INTERVAL);
    }

    pub fn on_up(&mut self) {
        if matches!(self.state, State::Connecting { .. }) {
            self.state = State::Up;
            self.last_error = None;
            self.up_since = Some(Instant::now());
        }
    }

    pub fn on_error(&mut self, now: Instant, text: &str) -> Change {
        // The wording is the signaller's: these two leave the connection as
        // it is, all others mean that it is gone.
        if text.starts_with("Error message from server") || text.starts_with("Unknown message") {
            return Change::Refused(text.to_owned());
        }
        // So do these: what was asked for over HTTP is there, and Janus refused
        // a single message.
        let is_single =
            self.kind.is_http_client() || self.kind.is_janus() && text.starts_with("Error: code:");
        if is_single && self.is_up() {
            return Change::Refused(text.to_owned());
        }
        match self.state {
            State::Stopped | State::Waiting { .. } => Change::Nothing,
            State::Connecting { since } => {
                self.wait(since, now);
                if self.expired(since, now) {
                    return self.give_up(text);
                }
                self.last_error = Some(text.to_owned());
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
        let expiry = self.timeout.filter(|_| !self.patient);
        expiry.is_some_and(|timeout| now.saturating_duration_since(since) >= timeout)
    }

    fn give_up(&mut self, text: &str) -> Change {
        self.state = State::Stopped;
        Change::GivenUp(text.to_owned())
    }

    /// Time is up. Why an attempt failed says more than that.
    fn give_up_late(&mut self, text: &str) -> Change {
        let text = self.last_error.take().unwrap_or_else(|| text.to_owned());
        self.give_up(&text)
    }

    pub fn deadline(&self) -> Option<Instant> {
        if self.refusal.is_some() {
            return Some(Instant::now());
        }
        match self.state {
            State::Stopped | State::Up => None,
            State::Connecting { since } if self.says_when_up() => {
                let attempt = self
                    .is_tried_again()
                    .then(|| self.attempt + ATTEMPT_TIMEOUT);
                let expiry = self.timeout.filter(|_| !self.patient);
                expiry
                    .map(|timeout| since + timeout)
                    .into_iter()
                    .chain(attempt)
                    .min()
            }
            State::Connecting { .. } => None,
            State::Waiting { retry_at, .. } => Some(retry_at),
        }
    }

    pub fn poll(&mut self, now: Instant) -> Change {
        if let Some(text) = self.refusal.take() {
            return self.give_up(&text);
        }
        match self.state {
            State::Connecting { since } if self.says_when_up() && self.expired(since, now) => {
                self.halt();
                self.give_up_late("no answer")
            }
            State::Connecting { since }
                if self.is_tried_again() && now >= self.attempt + ATTEMPT_TIMEOUT =>
            {
                self.halt();
                self.begin(since);
                Change::Nothing
            }
            State::Waiting { since, retry_at } if now >= retry_at => {
                if self.expired(since, now) {
                    return self.give_up_late("no connection");
                }
                self.begin(since);
                Change::Nothing
            }
            _ => Change::Nothing,
        }
    }

    fn is_tried_again(&self) -> bool {
        self.kind == Kind::GstWebRtc
    }

    /// One that we do not know and that has no client id is seen to be up only
    /// when there is a session.
    fn says_when_up(&self) -> bool {
        self.kind != Kind::Custom || self.signaller.find_property("client-id").is_some()
    }

    /// Stops the signaller, but does not wait for it for ever: its stop()
    /// waits for its runtime with a lock held that the runtime may want.
    fn halt(&self) {
        if let Some(answers) = &self.answers {
            answers.refuse_all();
        }
        self.without_waiting_long(|signaller| quiet_stop::quietly(|| signaller.stop()));
    }

    fn without_waiting_long(&self, call: impl FnOnce(&Signallable) + Send + 'static) {
        let (done, wait) = mpsc::channel();
        let signaller = self.signaller.clone();
        let caller = std::thread::spawn(move || {
            call(&signaller);
            // Nobody waits any more if this fails.
            let _ = done.send(());
        });
        if wait.recv_timeout(STOP_TIMEOUT).is_ok() {
            // It has only to return.
            let _ = caller.join();
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
