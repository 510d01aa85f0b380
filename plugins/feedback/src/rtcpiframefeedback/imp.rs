// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtcpiframefeedback
 *
 * Tells the sender which frames the receiver has decoded: the RTCP message
 * "frame complete" (payload-specific feedback, application layer, `IFRC`;
 * docs/wire-formats.md). RTP packets, events and queries pass through it
 * untouched and without delay.
 *
 * - At the sender it stands between `rtph264pay` and a `send_rtp_sink_%u` pad
 *   of rtpbin or a sink pad of webrtcbin. Each frame in a message about an SSRC
 *   that passes here becomes the upstream event `application/x-frame-complete`
 *   for `dualh264enc`, the oldest frame first.
 * - At the receiver it stands between a `recv_rtp_src_%u_%u_%u` pad of rtpbin or
 *   a src pad of webrtcbin and `rtph264depay`. It takes the same event from
 *   `dualh264dec` and sends a message at once, which also repeats the three
 *   frames before. To let the sender know that this message is understood, it
 *   says hello (a message without frames) as soon as packets flow and RTCP is
 *   open, and up to five times more in the next eight seconds, until it has
 *   sent a message with frames.
 *
 * Which of the two it is follows from where it finds the RTP session. It looks
 * through elements that have one pad on the far side (queue, capsfilter,
 * rtptrickle, rtpfunnel) and through bins, into webrtcbin too, from the first
 * packet on until it has found one, and again after pads were linked anew. A
 * plain `rtpsession` element also does. Use one such element for each stream;
 * several may share a session.
 *
 * RTCP is open once the session has sent its first own report. Until then the
 * latest message is kept.
 *
 * In SDP the message is announced by `a=rtcp-fb:<pt> x-iframe-complete`. This
 * element neither needs nor checks it, and a peer that does not know the message
 * ignores it. webrtcbin (seen with 1.22) reads the line into caps as
 * `rtcp-fb-x-iframe-complete=(boolean)true`, but does not write it from that
 * field. It does from `a-rtcp-fb=(string)"96\ x-iframe-complete"`, or with `*`
 * in place of the payload type: at the offerer in the caps of its sink pad, at
 * the answerer in the transceiver's `codec-preferences`. Without the latter the
 * answer does not have the line. With it the answer has the line even if the
 * offer did not.
 *
 * |[
 * GST_DEBUG=rtcpiframefeedback:INFO gst-launch-1.0 rtpbin name=s rtpbin name=r videotestsrc is-live=true ! x264enc tune=zerolatency ! rtph264pay ! rtcpiframefeedback name=sender ! s.send_rtp_sink_0 s.send_rtp_src_0 ! udpsink host=127.0.0.1 port=5000 async=false s.send_rtcp_src_0 ! udpsink host=127.0.0.1 port=5001 sync=false async=false udpsrc address=127.0.0.1 port=5003 ! s.recv_rtcp_sink_0 udpsrc address=127.0.0.1 port=5000 caps="application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000" ! r.recv_rtp_sink_0 udpsrc address=127.0.0.1 port=5001 ! r.recv_rtcp_sink_0 r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port=5003 sync=false async=false r. ! rtcpiframefeedback name=receiver ! rtph264depay ! avdec_h264 ! fakesink async=false
 * ]| Sender and receiver. After a few seconds, with the receiver's first report,
 * the element at the sender logs that the peer sends frame complete messages.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `sent` | u64 | messages sent, hellos included |
 * | `send-failed` | u64 | messages that the RTCP path refused |
 * | `received` | u64 | messages about a stream that passes here, hellos included |
 * | `malformed` | u64 | messages about such a stream of a wrong length |
 * | `ignored-entries` | u64 | frames beyond the sixteenth of a message |
 * | `other-ssrc` | u64 | messages about a stream that does not pass here |
 *
 * They count from the last change to PAUSED and can be read after it.
 *
 * Since: 0.1
 */
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dualstream_common::Timestamp;
use feedback_core::{Fci, FciError, FrameComplete, Greeter, History, RecentSsrcs};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::{event, rtp, session};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtcpiframefeedback",
        gst::DebugColorFlags::empty(),
        Some("RTCP feedback: frame complete"),
    )
});

const FEEDBACK_SIGNAL: &str = "on-feedback-rtcp";
/// Payload-specific feedback, application layer (RFC 4585).
const FEEDBACK_TYPE: (u32, u32) = (206, 15);
/// Time from one search for the session to the next: doubles from the first
/// to the second while none is found.
const SEARCH_GAP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

#[derive(Clone, Copy, Debug)]
struct Settings {
    /// -1: as found.
    session: i32,
    stream: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            session: -1,
            stream: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    sent: u64,
    send_failed: u64,
    received: u64,
    malformed: u64,
    ignored_entries: u64,
    other_ssrc: u64,
    peer_supported: bool,
}

/// A session in use. Only a weak reference: the session's bin may be gone, and
/// the pipeline holds both.
#[derive(Debug, Default)]
struct Link {
    session: glib::WeakRef<gst::Element>,
    handler: Option<glib::SignalHandlerId>,
}

impl Link {
    fn is(&self, other: Option<&gst::Element>) -> bool {
        self.session.upgrade().as_ref() == other
    }

    /// Not under a lock: this may drop the last reference to the session.
    fn disconnect(self) {
        if let (Some(session), Some(handler)) = (self.session.upgrade(), self.handler) {
            internal_session(&session).disconnect(handler);
        }
    }
}

/// The RTPSession object of a GstRtpSession element.
fn internal_session(session: &gst::Element) -> glib::Object {
    session.property("internal-session")
}

#[derive(Debug, Default)]
struct Search {
    running: bool,
    /// A pad was linked anew: what was found may be wrong.
    stale: bool,
    next: Timestamp,
    gap: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Where our packets come from: we are the receiver.
    upstream: Link,
    /// Where our packets go to: we are the sender.
    downstream: Link,
    search: Search,
    ssrcs: RecentSsrcs,
    /// Id of the header extension that names the stream.
    extension: Option<u8>,
    /// As the last packet with that extension said.
    stream: Option<u32>,
    history: History,
    /// The history has something that was not sent yet.
    unsent: bool,
    greeter: Greeter,
}

impl State {
    fn has_upstream(&self) -> bool {
        self.upstream.session.upgrade().is_some()
    }

    fn has_downstream(&self) -> bool {
        self.downstream.session.upgrade().is_some()
    }

    /// True if a search is to be started now.
    fn wants_search(&mut self, now: Timestamp) -> bool {
        let known = self.has_upstream() || self.has_downstream();
        if self.search.running || (known && !self.search.stale) || now < self.search.next {
            return false;
        }
        let gap = self.search.gap.max(SEARCH_GAP.0);
        self.search = Search {
            running: true,
            stale: false,
            next: now + gap,
            gap: (gap * 2).min(SEARCH_GAP.1),
        };
        true
    }

    fn wants_send(&self, now: Timestamp) -> bool {
        self.ssrcs.latest().is_some() && (self.unsent || self.greeter.is_due(now))
    }
}

/// A monotonic clock: a live pipeline's running time stands still in PAUSED,
/// and none of these times has to do with the stream's.
fn now() -> Timestamp {
    Timestamp::from_nanos(gst::get_timestamp().nseconds())
}

// Lock order: none is taken while another is held, nor held over a call that
// leaves this file.
pub struct RtcpIFrameFeedback {
    settings: Mutex<Settings>,
    /// There from PAUSED on.
    state: Mutex<Option<State>>,
    stats: Mutex<Stats>,
    /// Changes when the outcome of a search that runs is no longer of use.
    epoch: AtomicU64,
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
}

impl RtcpIFrameFeedback {
    fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.packet(&buffer);
        self.srcpad.push(buffer)
    }

    fn chain_list(&self, list: gst::BufferList) -> Result<gst::FlowSuccess, gst::FlowError> {
        // The packets of a list are of one frame.
        if let Some(last) = list.len().checked_sub(1).and_then(|last| list.get(last)) {
            self.packet(last);
        }
        self.srcpad.push_list(list)
    }

    fn packet(&self, buffer: &gst::BufferRef) {
        let now = now();
        let (search, send) = {
            let mut guard = self.state();
            let Some(state) = guard.as_mut() else {
                return;
            };
            if let Some((ssrc, stream)) = rtp::look_at(buffer, state.extension) {
                state.stream = stream.or(state.stream);
                if state.ssrcs.see(ssrc) {
                    // Frames of the stream before mean nothing to this one.
                    state.history.clear();
                    state.unsent = false;
                    state.greeter.restart(now);
                }
            }
            (state.wants_search(now), state.wants_send(now))
        };
        self.go_on(search, send);
    }

    fn go_on(&self, search: bool, send: bool) {
        if send {
            self.send_if_open();
        }
        if search {
            let epoch = self.epoch.load(Ordering::SeqCst);
            // rtpbin joins streaming threads with its lock held, and the search
            // needs that lock: it must not run on one.
            self.obj().call_async(move |element| {
                let imp = element.imp();
                imp.catch_panic(|| (), |imp| imp.search(epoch));
            });
        }
    }

    fn search(&self, epoch: u64) {
        let id = u32::try_from(self.settings().session).ok();
        let up = session::find(&self.sinkpad, id);
        let down = session::find(&self.srcpad, id);
        let (same_up, same_down) = match self.state().as_ref() {
            Some(state) => (
                state.upstream.is(up.as_ref()),
                state.downstream.is(down.as_ref()),
            ),
            None => return,
        };
        let new_up = (!same_up).then(|| Link {
            session: up.as_ref().map(gst::Element::downgrade).unwrap_or_default(),
            handler: None,
        });
        let new_down = (!same_down).then(|| self.listen(down.as_ref()));
        let mut old = Vec::new();
        let mut send = false;
        if let Some(state) = self.state().as_mut() {
            state.search.running = false;
            if self.epoch.load(Ordering::SeqCst) == epoch {
                if up.is_some() || down.is_some() {
                    state.search.gap = SEARCH_GAP.0;
                }
                if let Some(link) = new_up {
                    old.push(std::mem::replace(&mut state.upstream, link));
                    state.greeter.restart(now());
                }
                if let Some(link) = new_down {
                    old.push(std::mem::replace(&mut state.downstream, link));
                }
                send = state.wants_send(now());
            } else {
                state.search.stale = true;
                old.extend(new_down);
            }
        } else {
            old.extend(new_down);
        }
        old.into_iter().for_each(Link::disconnect);
        if !same_up || !same_down {
            let name = |session: Option<gst::Element>| session.map(|s| s.path_string());
            gst::info!(
                CAT,
                imp = self,
                "RTP session upstream {:?}, downstream {:?}",
                name(up),
                name(down)
            );
        }
        if send {
            self.send_if_open();
        }
    }

    /// Connects to the session's feedback signal.
    fn listen(&self, session: Option<&gst::Element>) -> Link {
        let Some(session) = session else {
            return Link::default();
        };
        let weak = self.obj().downgrade();
        let handler = internal_session(session).connect(FEEDBACK_SIGNAL, false, move |values| {
            let element = weak.upgrade()?;
            element.imp().catch_panic(|| (), |imp| imp.feedback(values));
            None
        });
        Link {
            session: session.downgrade(),
            handler: Some(handler),
        }
    }

    /// A feedback packet came in: session, type, format, sender, media, FCI.
    fn feedback(&self, values: &[glib::Value]) {
        let [_, kind, format, _, media_ssrc, fci] = values else {
            return;
        };
        let (Ok(kind), Ok(format), Ok(media_ssrc)) = (
            kind.get::<u32>(),
            format.get::<u32>(),
            media_ssrc.get::<u32>(),
        ) else {
            return;
        };
        if (kind, format) != FEEDBACK_TYPE {
            return;
        }
        let Ok(Some(fci)) = fci.get::<Option<gst::Buffer>>() else {
            return;
        };
        let Ok(map) = fci.map_readable() else {
            return;
        };
        let fci = Fci::parse(&map);
        if fci == Err(FciError::NotOurs) {
            return;
        }
        let default_stream = self.settings().stream;
        let stream = match self.state().as_ref() {
            Some(state) if state.ssrcs.contains(media_ssrc) => {
                Some(state.stream.unwrap_or(default_stream))
            }
            Some(_) => None,
            None => return,
        };
        let Some(stream) = stream else {
            self.stats().other_ssrc += 1;
            return;
        };
        let Ok(fci) = fci else {
            self.stats().malformed += 1;
            gst::warning!(CAT, imp = self, "message of {} bytes", map.len());
            return;
        };
        let first = {
            let mut stats = self.stats();
            stats.received += 1;
            stats.ignored_entries += fci.ignored() as u64;
            !std::mem::replace(&mut stats.peer_supported, true)
        };
        if first {
            gst::info!(CAT, imp = self, "the peer sends frame complete messages");
            self.obj().notify("peer-supported");
        }
        for entry in fci.entries().iter().rev() {
            gst::log!(CAT, imp = self, "stream {stream}: {entry:?}");
            self.sinkpad.push_event(event::make(*entry, stream));
        }
    }

    /// The decoder's event at the receiver. False if we are the sender, whom
    /// it does not concern.
    fn frame_complete(&self, structure: &gst::StructureRef) -> bool {
        let now = now();
        let entry = event::parse(structure);
        let (search, send) = {
            let mut guard = self.state();
            let Some(state) = guard.as_mut() else {
                return true;
            };
            if state.has_downstream() && !state.has_upstream() {
                return false;
            }
            if let Some(entry) = entry {
                state.history.insert(entry);
                state.unsent = true;
            }
            (state.wants_search(now), state.wants_send(now))
        };
        if entry.is_none() {
            gst::warning!(CAT, imp = self, "event without its fields: {structure}");
        }
        self.go_on(search, send);
        true
    }

    /// Sends what is due if the session has sent RTCP before. A push would
    /// otherwise block until DTLS is up, and then fail for want of caps.
    fn send_if_open(&self) {
        let session = match self.state().as_ref() {
            Some(state) => state.upstream.session.upgrade(),
            None => None,
        };
        let Some(session) = session else {
            return;
        };
        let Some(pad) = session.static_pad("send_rtcp_src") else {
            gst::log!(CAT, imp = self, "the session sends no RTCP");
            return;
        };
        // The session sends stream-start, caps and segment, in this order.
        if pad.sticky_event::<gst::event::Segment>(0).is_none() {
            return;
        }
        let sender_ssrc = internal_session(&session).property("internal-ssrc");
        let Some(message) = self.compose(sender_ssrc) else {
            return;
        };
        let packet = gst::Buffer::from_mut_slice(message.to_packet());
        match pad.push(packet) {
            Ok(_) => {
                self.stats().sent += 1;
                gst::log!(CAT, imp = self, "sent {:?}", message.fci.entries());
            }
            Err(error) => {
                self.stats().send_failed += 1;
                gst::debug!(CAT, imp = self, "RTCP not sent: {error:?}");
            }
        }
    }

    /// The message that is due, which then is no longer due.
    fn compose(&self, sender_ssrc: u32) -> Option<FrameComplete> {
        let now = now();
        let mut guard = self.state();
        let state = guard.as_mut()?;
        let media_ssrc = state.ssrcs.latest()?;
        let fci = if std::mem::take(&mut state.unsent) {
            state.greeter.said_more();
            state.history.to_fci()
        } else if state.greeter.is_due(now) {
            state.greeter.said(now);
            Fci::default()
        } else {
            return None;
        };
        Some(FrameComplete {
            sender_ssrc,
            media_ssrc,
            fci,
        })
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => {
                let extension = rtp::extension_id(caps.caps());
                if let Some(state) = self.state().as_mut() {
                    if state.extension != extension {
                        state.stream = None;
                    }
                    state.extension = extension;
                    state.search.stale = true;
                }
            }
            gst::EventView::StreamStart(_) => self.mark_stale(),
            _ => {}
        }
        let send = self
            .state()
            .as_ref()
            .is_some_and(|state| state.wants_send(now()));
        self.go_on(false, send);
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Reconfigure(_) => self.mark_stale(),
            gst::EventView::CustomUpstream(custom) => {
                if let Some(structure) = custom.structure()
                    && structure.name() == event::NAME
                    && self.frame_complete(structure)
                {
                    return true;
                }
            }
            _ => {}
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// With the next packet the session is looked for again.
    fn mark_stale(&self) {
        if let Some(state) = self.state().as_mut() {
            state.search.stale = true;
        }
    }

    fn unlinked(&self, pad: &gst::Pad) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let link = self.state().as_mut().map(|state| {
            state.search.stale = true;
            std::mem::take(match pad.direction() {
                gst::PadDirection::Src => &mut state.downstream,
                _ => &mut state.upstream,
            })
        });
        if let Some(link) = link {
            link.disconnect();
        }
    }

    fn start(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        *self.stats() = Stats::default();
        *self.state() = Some(State::default());
    }

    fn stop(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let state = self.state().take();
        if let Some(state) = state {
            state.upstream.disconnect();
            state.downstream.disconnect();
        }
        let was_supported = std::mem::take(&mut self.stats().peer_supported);
        if was_supported {
            self.obj().notify("peer-supported");
        }
    }

    fn stats_structure(&self) -> gst::Structure {
        let stats = *self.stats();
        gst::Structure::builder("application/x-rtcpiframefeedback-stats")
            .field("sent", stats.sent)
            .field("send-failed", stats.send_failed)
            .field("received", stats.received)
            .field("malformed", stats.malformed)
            .field("ignored-entries", stats.ignored_entries)
            .field("other-ssrc", stats.other_ssrc)
            .build()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtcpIFrameFeedback {
    const NAME: &'static str = "GstRtcpIFrameFeedback";
    type Type = super::RtcpIFrameFeedback;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
        let flags = gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION;
        let pad = |name| {
            let template = klass
                .pad_template(name)
                .expect("both templates are registered with the class");
            gst::Pad::builder_from_template(&template).flags(flags)
        };
        let sinkpad = pad("sink")
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.chain(buffer),
                )
            })
            .chain_list_function(|_, parent, list| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.chain_list(list),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(pad, event))
            })
            .build();
        let srcpad = pad("src")
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_event(pad, event))
            })
            .build();
        Self {
            settings: Mutex::default(),
            state: Mutex::default(),
            stats: Mutex::default(),
            epoch: AtomicU64::new(0),
            sinkpad,
            srcpad,
        }
    }
}

impl ObjectImpl for RtcpIFrameFeedback {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let defaults = Settings::default();
            vec![
                glib::ParamSpecInt::builder("session")
                    .nick("Session")
                    .blurb(
                        "Id of the RTP session in the rtpbin that is found, -1 = by the pads \
                         that lead to it",
                    )
                    .minimum(-1)
                    .default_value(defaults.session)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("stream")
                    .nick("Stream")
                    .blurb(
                        "Stream that the sender's events name while no packet has named one in \
                         the header extension urn:x-gst-dualstream:frame:1",
                    )
                    .maximum(1)
                    .default_value(defaults.stream)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("peer-supported")
                    .nick("Peer Supported")
                    .blurb(
                        "At the sender: whether a message about this stream came from the peer \
                         since the change to PAUSED, which shows that the peer knows the message",
                    )
                    .read_only()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Messages sent, received and refused, as counters")
                    .read_only()
                    .build(),
            ]
        });
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        match pspec.name() {
            "session" => {
                settings.session = value.get().expect("GObject checks the type");
                drop(settings);
                self.mark_stale();
            }
            "stream" => settings.stream = value.get().expect("GObject checks the type"),
            name => gst::error!(CAT, imp = self, "property {name} cannot be set"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "session" => self.settings().session.to_value(),
            "stream" => self.settings().stream.to_value(),
            "peer-supported" => self.stats().peer_supported.to_value(),
            "stats" => self.stats_structure().to_value(),
            name => {
                gst::error!(CAT, imp = self, "no property {name}");
                pspec.default_value().clone()
            }
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            let weak = obj.downgrade();
            pad.connect_unlinked(move |pad, _| {
                if let Some(element) = weak.upgrade() {
                    element.imp().unlinked(pad);
                }
            });
            if let Err(error) = obj.add_pad(pad) {
                gst::error!(CAT, imp = self, "cannot add pad: {error}");
            }
        }
    }
}

impl GstObjectImpl for RtcpIFrameFeedback {}

impl ElementImpl for RtcpIFrameFeedback {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTCP Frame Complete Feedback",
                "Filter/Network/RTP/RTCP",
                "Sends and receives the RTCP message by which a receiver says which frames it \
                 has decoded",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let caps = gst::Caps::new_empty_simple("application/x-rtp");
            [
                ("sink", gst::PadDirection::Sink),
                ("src", gst::PadDirection::Src),
            ]
            .into_iter()
            .filter_map(|(name, direction)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).ok()
            })
            .collect()
        });
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            self.start();
        }
        let result = self.parent_change_state(transition);
        // Without the pads there are no packets, and so no new search.
        let failed_start = transition == gst::StateChange::ReadyToPaused && result.is_err();
        if transition == gst::StateChange::PausedToReady || failed_start {
            self.stop();
        }
        result
    }
}
