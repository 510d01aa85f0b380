// SPDX-License-Identifier: MPL-2.0
//! webrtcbin with its signals as events for the worker thread, for sender and
//! receiver.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst_webrtc::{WebRTCPeerConnectionState, WebRTCSDPType, WebRTCSessionDescription};

use crate::capture_time::NtpTime;
use crate::clock_exchange::{self, Request};
use crate::ice_servers::{self, Problem, TURN_FORM, Watch};
use crate::properties::Settings;
use crate::repair::Repair;
use crate::{certificate, requirements, rtp};

#[derive(Debug)]
pub enum Event {
    /// An offer or an answer was made.
    Created(WebRTCSessionDescription),
    /// The peer's description is in place.
    RemoteSet,
    /// webrtcbin refused something.
    Failed(String),
    Candidate {
        mline: u32,
        candidate: String,
    },
    Connection(WebRTCPeerConnectionState),
    /// The first RTCP packet came in: both ways are open.
    FirstRtcp,
    /// The peer asks for our time.
    ClockRequest(Request),
    /// The peer ended these sources: because it ends, or because they are
    /// idle.
    Bye(Vec<u32>),
    /// Servers for STUN and TURN are of no use.
    IceServers(Vec<Problem>),
}

pub type Post = Arc<dyn Fn(Event) + Send + Sync>;

/// When something last came in from the peer.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    pub fn touch(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    pub fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// Which way media goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Sender,
    Receiver,
}

/// Questions to webrtcbin that it has not answered.
#[derive(Clone, Debug, Default)]
struct Pending(Arc<(Mutex<usize>, Condvar)>);

impl Pending {
    fn asked(&self) {
        *self.0.0.lock().unwrap() += 1;
    }

    fn answered(&self) {
        *self.0.0.lock().unwrap() -= 1;
        self.0.1.notify_all();
    }

    fn wait(&self, most: Duration) {
        let pending = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(pending, most, |n| *n > 0);
        drop(waited);
    }
}

/// webrtcbin answers within milliseconds, if it does at all.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// TURN servers answer within a round trip.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(300);

pub struct Peer {
    role: Role,
    webrtcbin: gst::Element,
    /// Of our certificate, if it is not webrtcbin's own.
    fingerprint: Option<String>,
    activity: Arc<Activity>,
    /// The RTP session's element, once there is one.
    session: Arc<Mutex<Option<gst::Element>>>,
    repair: Repair,
    post: Post,
    pending: Pending,
    watch: Watch,
}

impl Peer {
    pub fn new(role: Role, settings: &Settings, post: Post) -> Result<Self, gst::ErrorMessage> {
        let webrtcbin = requirements::make("webrtcbin", "webrtcbin")?;
        webrtcbin.set_property_from_str("bundle-policy", "max-bundle");
        set_up_agent(&webrtcbin, settings.ice_tcp);
        webrtcbin.set_property("ice-transport-policy", settings.ice_transport_policy);
        let fingerprint = certificate::install(&webrtcbin);
        if let Some(stun) = &settings.stun_server {
            webrtcbin.set_property("stun-server", stun);
        }
        for turn in &settings.turn_servers {
            if !webrtcbin.emit_by_name::<bool>("add-turn-server", &[turn]) {
                return Err(gst::error_msg!(
                    gst::ResourceError::Settings,
                    ("Not a TURN server URI"),
                    ["{TURN_FORM}"]
                ));
            }
        }
        let (servers, told) = (settings.ice_servers()?, settings.told.clone());
        let tell = post.clone();
        let watch = Watch::new(&webrtcbin, servers, told, move |problems| {
            tell(Event::IceServers(problems));
        });
        let peer = Self {
            role,
            webrtcbin,
            fingerprint,
            activity: Arc::new(Activity::new()),
            session: Arc::default(),
            repair: Repair::default(),
            post,
            pending: Pending::default(),
            watch,
        };
        peer.connect_signals();
        Ok(peer)
    }

    fn connect_signals(&self) {
        let post = self.post.clone();
        self.webrtcbin
            .connect("on-ice-candidate", false, move |values| {
                if let (Ok(mline), Ok(candidate)) = (values[1].get(), values[2].get()) {
                    post(Event::Candidate { mline, candidate });
                }
                None
            });
        let post = self.post.clone();
        self.webrtcbin
            .connect_notify(Some("connection-state"), move |webrtcbin, _| {
                post(Event::Connection(webrtcbin.property("connection-state")));
            });
        let Some(rtpbin) = self
            .webrtcbin
            .downcast_ref::<gst::Bin>()
            .and_then(|bin| bin.by_name("rtpbin"))
            .and_then(|rtpbin| rtpbin.downcast::<gst::Bin>().ok())
        else {
            return;
        };
        if self.role == Role::Sender {
            // Reports give the time of capture, by which receivers keep audio
            // and video together. By default they wait for a LATENCY event, and
            // their RTP time runs at twice the rate until it comes.
            rtpbin.set_property("rtcp-sync-send-time", false);
        }
        let repair = self.repair.clone();
        rtpbin.connect("new-jitterbuffer", false, move |values| {
            let jitterbuffer = values[1].get::<gst::Element>().ok()?;
            // The standby sends when it likes: a packet that does not come on
            // time is not a lost one.
            if jitterbuffer.has_property("rtx-next-seqnum") {
                jitterbuffer.set_property("rtx-next-seqnum", false);
            }
            repair.add(&jitterbuffer);
            None
        });
        let role = self.role;
        let (post, activity, session) = (
            self.post.clone(),
            self.activity.clone(),
            Arc::downgrade(&self.session),
        );
        rtpbin.connect_element_added(move |_, element| {
            if element.factory().is_none_or(|f| f.name() != "rtpsession") {
                return;
            }
            if let Some(session) = session.upgrade() {
                *session.lock().unwrap() = Some(element.clone());
            }
            prepare_session(element, role, &post, &activity);
        });
    }

    /// Calls `found` with the RTP session's pad of this name, once it is there.
    pub fn watch_session(
        &self,
        name: &'static str,
        found: impl Fn(&gst::Pad) + Clone + Send + Sync + 'static,
    ) {
        self.on_session(move |element| {
            let found = found.clone();
            element.connect_pad_added(move |_, pad| {
                if pad.name() == name {
                    found(pad);
                }
            });
        });
    }

    /// Calls `came` with each compound packet of RTCP that comes in.
    pub fn watch_rtcp(&self, came: impl Fn(&[u8]) + Clone + Send + Sync + 'static) {
        self.on_session(move |element| {
            let internal = element.property::<glib::Object>("internal-session");
            let came = came.clone();
            internal.connect("on-receiving-rtcp", false, move |values| {
                if let Some(buffer) = values.get(1).and_then(|v| v.get::<gst::Buffer>().ok())
                    && let Ok(map) = buffer.map_readable()
                {
                    came(&map);
                }
                None
            });
        });
    }

    fn on_session(&self, found: impl Fn(&gst::Element) + Send + Sync + 'static) {
        let rtpbin = self
            .webrtcbin
            .downcast_ref::<gst::Bin>()
            .and_then(|bin| bin.by_name("rtpbin"))
            .and_then(|rtpbin| rtpbin.downcast::<gst::Bin>().ok());
        let Some(rtpbin) = rtpbin else { return };
        rtpbin.connect_element_added(move |_, element| {
            if element.factory().is_some_and(|f| f.name() == "rtpsession") {
                found(element);
            }
        });
    }

    pub fn webrtcbin(&self) -> &gst::Element {
        &self.webrtcbin
    }

    pub fn repair(&self) -> &Repair {
        &self.repair
    }

    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Before webrtcbin is stopped: it drops what it has not answered, and GStreamer
    /// warns of that.
    pub fn wait_for_answers(&self) {
        self.pending.wait(ANSWER_TIMEOUT);
    }

    /// After webrtcbin is stopped: gives back what TURN servers have allocated.
    pub fn release_relays(&self) {
        if self.watch.has_relays()
            && let Some(agent) = agent(&self.webrtcbin)
        {
            ice_servers::release(&agent, RELEASE_TIMEOUT);
        }
    }

    pub fn create_offer(&self) {
        self.create("create-offer", "offer");
    }

    pub fn create_answer(&self) {
        self.create("create-answer", "answer");
    }

    fn create(&self, signal: &str, field: &'static str) {
        let (post, fingerprint) = (self.post.clone(), self.fingerprint.clone());
        let pending = self.pending.clone();
        pending.asked();
        let promise = gst::Promise::with_change_func(move |reply| {
            pending.answered();
            let description = description(reply, field)
                .and_then(|description| certificate::name(description, fingerprint.as_deref()));
            post(match description {
                Ok(description) => Event::Created(description),
                Err(text) => Event::Failed(format!("no {field}: {text}")),
            });
        });
        self.webrtcbin
            .emit_by_name::<()>(signal, &[&None::<gst::Structure>, &promise]);
    }

    pub fn set_local(&self, description: &WebRTCSessionDescription) {
        self.set("set-local-description", description, None);
    }

    pub fn set_remote(&self, description: &WebRTCSessionDescription) {
        self.set("set-remote-description", description, Some(()));
    }

    fn set(&self, signal: &'static str, description: &WebRTCSessionDescription, tell: Option<()>) {
        let (post, pending) = (self.post.clone(), self.pending.clone());
        pending.asked();
        let promise = gst::Promise::with_change_func(move |reply| {
            pending.answered();
            match failure(reply) {
                Some(text) => post(Event::Failed(format!("{signal}: {text}"))),
                None if tell.is_some() => post(Event::RemoteSet),
                None => {}
            }
        });
        self.webrtcbin
            .emit_by_name::<()>(signal, &[description, &promise]);
    }

    pub fn add_candidate(&self, mline: u32, candidate: &str) {
        self.webrtcbin
            .emit_by_name::<()>("add-ice-candidate", &[&mline, &candidate]);
    }

    /// Sends a receiver report at once, so that the peer knows that its
    /// packets would arrive. Only once connected: blocks before.
    pub fn send_report(&self) {
        self.send_rtcp(rtp::receiver_report);
    }

    /// Asks the peer for its time; `asked` is told of ours in the request.
    pub fn send_clock_request(&self, asked: impl FnOnce(NtpTime)) {
        self.send_rtcp(|own| {
            // Before the answer can come.
            let now = NtpTime::now().unwrap_or(NtpTime::from_nanos(0));
            asked(now);
            clock_exchange::request(own, now)
        });
    }

    pub fn answer_clock_request(&self, request: Request) {
        self.send_rtcp(|own| {
            let now = NtpTime::now().unwrap_or(request.came);
            request.reply(own, now)
        });
    }

    pub fn send_bye(&self, sources: &[u32]) {
        self.send_rtcp(|own| rtp::bye(own, sources));
    }

    fn send_rtcp(&self, make: impl FnOnce(u32) -> Vec<u8>) {
        let Some(session) = self.session.lock().unwrap().clone() else {
            return;
        };
        let Some(pad) = session.static_pad("send_rtcp_src") else {
            return;
        };
        let internal = session.property::<glib::Object>("internal-session");
        let packet = make(internal.property("internal-ssrc"));
        if pad.current_caps().is_none() {
            // The session does the same before its first own packet.
            pad.push_event(gst::event::StreamStart::new(&format!(
                "{}/rtcp",
                session.name()
            )));
            pad.push_event(gst::event::Caps::new(&gst::Caps::new_empty_simple(
                "application/x-rtcp",
            )));
            pad.push_event(gst::event::Segment::new(&gst::FormattedSegment::<
                gst::ClockTime,
            >::new()));
        }
        // A transport that is going away drops it.
        let _ = pad.push(gst::Buffer::from_mut_slice(packet));
    }
}

/// libnice's, if it is that.
fn agent(webrtcbin: &gst::Element) -> Option<glib::Object> {
    let child = |object: &glib::Object, name: &str| {
        object
            .has_property(name)
            .then(|| object.property::<Option<glib::Object>>(name))
            .flatten()
    };
    let agent = child(webrtcbin.upcast_ref(), "ice-agent").and_then(|ice| child(&ice, "agent"));
    agent.filter(|agent| agent.type_().name() == "NiceAgent")
}

/// libnice would ask routers to open ports, which nobody asked for, and takes
/// its time. And it would take the first pair of addresses that answers: on a network
/// that loses packets that is TCP now and then, behind which a lost packet holds up
/// all others.
fn set_up_agent(webrtcbin: &gst::Element, tcp: bool) {
    if let Some(agent) = agent(webrtcbin) {
        for (property, value) in [("upnp", false), ("ice-tcp", tcp)] {
            if agent.has_property(property) {
                agent.set_property(property, value);
            }
        }
    }
}

/// RTCP that a receiver may send, in bit/s. Feedback about packets is held to
/// two messages in an RTCP interval (RFC 4585 section 3.5.2), and this makes it
/// some 30 ms with the sources of one sender. By default it is 5 % of what is
/// received: half a second and more where that is little, and the sender would
/// take it for a link that is stuck.
const RECEIVER_RTCP: f64 = 150_000.0;

/// Feedback is made by the first packet that comes so long after the last one.
/// By default it is made by the last packet of a frame: a sender with a full
/// congestion window would wait for it, and not send that packet. Not 0, with
/// which rtpsession 1.22 loops for ever.
const FEEDBACK_INTERVAL: gst::ClockTime = gst::ClockTime::from_mseconds(25);

/// Feedback at once, and word of what comes in.
///
/// Only the receiver's session gets a minimum RTCP interval of 0. The interval
/// is also the measure of how long a source may be idle before it is timed
/// out and ended with a BYE, and the standby stream is idle between refreshes.
fn prepare_session(element: &gst::Element, role: Role, post: &Post, activity: &Arc<Activity>) {
    let internal = element.property::<glib::Object>("internal-session");
    if role == Role::Receiver {
        internal.set_property("rtcp-min-interval", 0u64);
        internal.set_property("rtcp-fraction", RECEIVER_RTCP);
        internal.set_property("twcc-feedback-interval", FEEDBACK_INTERVAL);
    }
    let (first, post, seen) = (AtomicBool::new(true), post.clone(), activity.clone());
    let answered = Mutex::new(None::<Instant>);
    internal.connect("on-receiving-rtcp", false, move |values| {
        seen.touch();
        if first.swap(false, Ordering::Relaxed) {
            post(Event::FirstRtcp);
        }
        let compound = values
            .get(1)
            .and_then(|value| value.get::<gst::Buffer>().ok())
            .and_then(|buffer| buffer.into_mapped_buffer_readable().ok());
        let compound = compound.as_deref().unwrap_or_default();
        let request = NtpTime::now().and_then(|now| clock_exchange::parse_request(compound, now));
        if let Some(request) = request.filter(|_| role == Role::Sender) {
            let now = Instant::now();
            let mut answered = answered.lock().unwrap();
            let is_soon = answered.is_some_and(|at| now - at < clock_exchange::LEAST_INTERVAL);
            if !is_soon {
                *answered = Some(now);
                post(Event::ClockRequest(request));
            }
        }
        let ended = rtp::ended_sources(compound);
        if !ended.is_empty() {
            post(Event::Bye(ended));
        }
        None
    });
}

type Reply<'a> = Result<Option<&'a gst::StructureRef>, gst::PromiseError>;

fn failure(reply: Reply<'_>) -> Option<String> {
    match reply {
        Ok(Some(s)) => s.get::<glib::Error>("error").ok().map(|e| e.to_string()),
        Ok(None) => None,
        Err(err) => Some(format!("{err:?}")),
    }
}

fn description(reply: Reply<'_>, field: &str) -> Result<WebRTCSessionDescription, String> {
    if let Some(text) = failure(reply) {
        return Err(text);
    }
    match reply {
        Ok(Some(s)) => s.get(field).map_err(|err| err.to_string()),
        _ => Err("empty reply".into()),
    }
}

pub fn text(description: &WebRTCSessionDescription) -> Result<String, String> {
    description.sdp().as_text().map_err(|err| err.to_string())
}

pub fn parse(kind: WebRTCSDPType, text: &str) -> Result<WebRTCSessionDescription, String> {
    let sdp = gst_sdp::SDPMessage::parse_buffer(text.as_bytes()).map_err(|err| err.to_string())?;
    Ok(WebRTCSessionDescription::new(kind, sdp))
}
