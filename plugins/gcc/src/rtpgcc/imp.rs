// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtpgcc
 *
 * Estimates how much the network takes, from transport-wide feedback (TWCC)
 * about the RTP packets that pass, and tells the elements upstream of it. The
 * packets are not touched and not delayed.
 *
 * Put it directly in front of rtpsession: as (part of) what webrtcbin's signal
 * `request-aux-sender` returns, behind `rtppacer`, or between a payloader and
 * rtpbin. Packets need the header extension for transport-wide numbers: with
 * `extmap-<id>` for it in their caps, payloaders add it by themselves.
 *
 * - The upstream event `application/x-network-estimate` says `target-bitrate`,
 *   `pacing-bitrate`, `padding-bitrate` (u64, bit/s), `loss` (f64), `rtt` (u64,
 *   ns), `congestion-window` and `in-flight` (u64, bytes) and `probe`
 *   (structure). `dualh264enc` and `rtppacer` obey it; for other encoders there
 *   is the property `estimated-bitrate` and its notification. It is sent on
 *   change and at most each 25 ms, but at once for a probe, when the window
 *   opens or closes and when the target falls by more than a tenth.
 * - Nothing is said before the first feedback, so that with a peer that sends
 *   none encoders keep their rate. With `expect-feedback` it begins with the
 *   first packet, or, where packets have no transport-wide numbers, with the
 *   first report of the peer: the rate rises by 5 % with each report
 *   without loss until the first REMB.
 * - REMB of the peer is an upper bound, and the estimate where there is no
 *   other feedback. It is about the sources that it names; what is sent of
 *   others is added. Losses of 10 % and more in the peer's reports
 *   lower the rate where there is no transport-wide feedback.
 * - Sizes and rates count 28 bytes for IPv4 and UDP with each packet.
 * - `RTPTWCCPackets` goes on upstream, so that other elements can use it.
 *   Buffer lists are sent on one packet at a time, as rtpsession would give all
 *   packets of a list one time of departure.
 *
 * |[
 * gst-launch-1.0 rtpbin name=s rtp-profile=avpf rtpbin name=r rtp-profile=avpf videotestsrc is-live=true ! dualh264enc mode=single ! rtph264pay ! "application/x-rtp,payload=96,extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01" ! rtppacer ! rtpgcc max-bitrate=2000000 ! s.send_rtp_sink_0 s.send_rtp_src_0 ! udpsink host=127.0.0.1 port=5000 sync=false async=false udpsrc address=127.0.0.1 port=5003 ! s.recv_rtcp_sink_0 udpsrc address=127.0.0.1 port=5000 caps="application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01" ! r.recv_rtp_sink_0 r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port=5003 sync=false async=false r. ! rtph264depay ! avdec_h264 ! fakesink async=false
 * ]| Sender and receiver on one machine: the encoder's rate rises to 2 Mbit/s.
 *
 * ## Statistics
 *
 * They begin anew with each change to PAUSED.
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `packets`, `bytes` | u64 | passed, bytes with 28 for each packet |
 * | `sent-packets` | u64 | of these, with a transport-wide number |
 * | `received-packets`, `lost-packets` | u64 | what feedback says of them |
 * | `forgotten-packets` | u64 | of which nothing was heard in time |
 * | `unknown-reports`, `repeated-reports` | u64 | about packets that are not remembered; without news |
 * | `malformed` | u64 | events, entries of events and RTCP messages ignored |
 * | `realigned` | u64 | times that the session's numbers had to be matched anew |
 * | `feedback`, `idle-feedback` | u64 | messages; of these, without news |
 * | `remb` | u64 | REMB messages |
 * | `reports` | u64 | report blocks in RTCP |
 * | `estimates` | u64 | events sent |
 * | `probes`, `probe-results` | u64 | clusters asked for; times that one showed a rate |
 * | `overuses`, `competitions`, `silences` | u64 | times that the delay grew, that another flow was found, that feedback was late |
 * | `session` | bool | the RTP session was found, for REMB and reports |
 * | `target-bitrate` | u64 | the estimate in bit/s |
 * | `cause` | string | what decided it: start, probe, room, steady, queue, drain, limited, competition, silence, loss, remb, minimum, maximum |
 * | `state` | string | increase, hold, decrease, compete, silent |
 * | `usage` | string | of the delay's trend: normal, over, under |
 * | `limited` | bool | less is sent than allowed |
 * | `capacity`, `plateau` | u64 | what the link takes now, and what it took lately, in bit/s |
 * | `margin` | f64 | share of the capacity that is left free |
 * | `received-bitrate` | u64 | in bit/s |
 * | `queue` | u64 | delay in the bottleneck in ns |
 * | `gradient`, `threshold` | f64 | trend of the delay and its limit in ms |
 * | `loss`, `inherent-loss` | f64 | share lost; lost at any rate |
 * | `loss-bitrate` | u64 | what losses show that the link takes in bit/s, 0 = nothing |
 * | `rtt` | u64 | in ns, 0 = not known |
 * | `congestion-window`, `in-flight` | u64 | in bytes, a window of 2^64 - 1 is none |
 *
 * Since: 0.1
 */
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use gcc_core::Controller;
use gcc_core::remb::{Remb, RembError};
use gst::glib;
use gst::meta::CustomMeta;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::rtcp;
use super::settings::{self, Settings};
use super::state::{Next, STATS, State};
use super::{session, twcc};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtpgcc",
        gst::DebugColorFlags::empty(),
        Some("Bandwidth estimator"),
    )
});

const PROBE_META: &str = "DualStreamProbe";
/// IPv4 and UDP headers, which the link carries too.
const PACKET_OVERHEAD: u64 = 28;
/// Bytes, without sources that contribute and extensions.
const RTP_HEADER: usize = 12;
/// Payload-specific feedback, application layer (RFC 4585).
const FEEDBACK_TYPE: (u32, u32) = (206, 15);
/// A longer round trip is no measurement.
const LONGEST_RTT: Duration = Duration::from_secs(60);
/// One warning for this many of a kind.
const WARN_EVERY: u64 = 1000;

// Lock order: settings, state, link; no two of these at once but settings
// before state. None is held over a push, an event, a signal or a join.

/// The session that is listened to.
#[derive(Debug, Default)]
struct Link {
    /// It may be gone, and the pipeline holds both.
    session: glib::WeakRef<gst::Element>,
    handlers: Vec<glib::SignalHandlerId>,
}

impl Link {
    /// Not under a lock: this may drop the last reference to the session.
    fn disconnect(self) {
        if let Some(session) = self.session.upgrade() {
            let internal = internal_session(&session);
            for handler in self.handlers {
                internal.disconnect(handler);
            }
        }
    }
}

pub struct RtpGcc {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    clock: gst::Clock,
    settings: Mutex<Settings>,
    /// From READY to PAUSED and back.
    state: Mutex<Option<State>>,
    wake: Condvar,
    link: Mutex<Option<Link>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Id of the header extension, 0 = none. The session keeps it when other
    /// caps do not have it.
    extension: AtomicU8,
    /// Of the next state.
    serial: AtomicU64,
}

/// A panic elsewhere leaves plain numbers behind; they are still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The RTPSession object of a GstRtpSession element.
fn internal_session(session: &gst::Element) -> glib::Object {
    session.property("internal-session")
}

/// None if it is shorter than an RTP header.
fn rtp_ssrc(buffer: &gst::BufferRef) -> Option<u32> {
    if buffer.size() < RTP_HEADER {
        return None;
    }
    let mut ssrc = [0; 4];
    buffer.copy_to_slice(8, &mut ssrc).ok()?;
    Some(u32::from_be_bytes(ssrc))
}

fn probe_of(buffer: &gst::BufferRef) -> Option<u32> {
    let meta = CustomMeta::from_buffer(buffer, PROBE_META).ok()?;
    meta.structure().get("id").ok()
}

impl RtpGcc {
    /// The clock of the session's times of departure.
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.time().nseconds())
    }

    /// Changes the state and has the thread look at it.
    fn change<T>(&self, change: impl FnOnce(&mut State, Timestamp) -> T) -> Option<T> {
        let mut guard = lock(&self.state);
        let state = guard.as_mut()?;
        let result = change(state, self.now());
        state.look();
        self.wake.notify_one();
        Some(result)
    }

    // Packets.

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.packet(&buffer);
        self.srcpad.push(buffer)
    }

    fn sink_chain_list(&self, list: gst::BufferList) -> Result<gst::FlowSuccess, gst::FlowError> {
        for buffer in list.iter_owned() {
            self.sink_chain(buffer)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Before it is pushed: the session may have feedback before the push
    /// returns.
    fn packet(&self, buffer: &gst::BufferRef) {
        let id = self.extension.load(Ordering::Relaxed);
        let numbered = (id > 0).then(|| twcc::numbered(buffer, id)).flatten();
        let probe = numbered.and_then(|_| probe_of(buffer));
        let size = DataSize::from_bytes(buffer.size() as u64 + PACKET_OVERHEAD);
        let ssrc = rtp_ssrc(buffer);
        let found = lock(&self.link).is_some();
        let search = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else { return };
            let now = self.now();
            state.packets += 1;
            state.bytes += size;
            if let Some(ssrc) = ssrc {
                state.core.sent_by(now, ssrc, size);
            }
            if let Some((payload, marker)) = numbered {
                let number = state.numbers.sent(now, payload);
                state.core.sent(now, number, size, probe, marker);
                let window = state.core.estimate().window;
                state.schedule.sent(window, state.core.in_flight());
                if state.expect_feedback && !state.running {
                    (state.running, state.known) = (true, true);
                    state.look();
                    self.wake.notify_one();
                }
            }
            state.wants_search(now, found)
        };
        if search {
            // rtpbin joins streaming threads with its lock held, and the search
            // needs that lock: it must not run on one.
            self.obj().call_async(move |element| {
                let imp = element.imp();
                imp.catch_panic(|| (), |imp| imp.search());
            });
        }
    }

    // Feedback.

    fn feedback(&self, s: &gst::StructureRef) {
        let (entries, wrong) = twcc::entries(s);
        self.count_malformed(wrong, "transport-wide feedback");
        if entries.is_empty() {
            return;
        }
        self.change(|state, now| {
            let reports = state.numbers.reports(&entries);
            state.core.feedback(now, &reports);
            if !state.running {
                let packets = state.core.stats().packets;
                let news = packets.received + packets.lost > 0;
                (state.running, state.known) = (news, state.known || news);
            }
        });
    }

    fn count_malformed(&self, count: u64, what: &str) {
        if count == 0 {
            return;
        }
        let before = lock(&self.state).as_mut().map(|state| {
            let before = state.malformed;
            state.malformed += count;
            before
        });
        if before.is_some_and(|n| n / WARN_EVERY != (n + count) / WARN_EVERY || n == 0) {
            gst::warning!(CAT, imp = self, "{what}: {count} parts make no sense");
        }
    }

    /// A feedback packet came in: session, type, format, sender, media, FCI.
    fn rtcp_feedback(&self, values: &[glib::Value]) {
        let [_, kind, format, _, _, fci] = values else {
            return;
        };
        if (kind.get(), format.get()) != (Ok(FEEDBACK_TYPE.0), Ok(FEEDBACK_TYPE.1)) {
            return;
        }
        let Ok(Some(fci)) = fci.get::<Option<gst::Buffer>>() else {
            return;
        };
        let Ok(map) = fci.map_readable() else { return };
        match Remb::parse(&map) {
            Ok(remb) => {
                gst::log!(CAT, imp = self, "REMB of {}", remb.bitrate);
                self.change(|state, now| {
                    state.rembs += 1;
                    state.core.remb(now, &remb);
                    state.known = true;
                });
            }
            Err(RembError::NotRemb) => (),
            Err(err) => self.count_malformed(1, &format!("REMB: {err}")),
        }
    }

    /// A compound RTCP packet came in.
    fn rtcp(&self, buffer: &gst::BufferRef) {
        let Ok(map) = buffer.map_readable() else {
            return;
        };
        let blocks = rtcp::blocks(&map);
        if blocks.is_empty() {
            return;
        }
        let settings = *lock(&self.settings);
        self.change(|state, now| {
            state.reports += blocks.len() as u64;
            for block in blocks {
                state.losses.add(now, block);
            }
            let Some((loss, time)) = state.losses.take(now) else {
                return;
            };
            let sent = state.bytes.saturating_sub(state.bytes_before) / time;
            state.bytes_before = state.bytes;
            // By transport-wide feedback it would be running since the first packet.
            state.known |= state.expect_feedback;
            if state.known {
                state.core.loss_report(now, loss);
            } else if loss.value() > rtcp::CONGESTION
                && let Some(core) = sent.and_then(|sent| begin_at(settings, sent))
            {
                // Nothing is known so far but what was sent.
                state.core = core;
                state.core.loss_report(now, loss);
                state.known = true;
            }
        });
    }

    /// A source has reported: session, source.
    fn source_active(&self, values: &[glib::Value]) {
        let Some(Ok(source)) = values.get(1).map(|v| v.get::<glib::Object>()) else {
            return;
        };
        let has_stats = source
            .find_property("stats")
            .is_some_and(|spec| spec.value_type() == gst::Structure::static_type());
        if !has_stats {
            return;
        }
        let Some(stats) = source.property::<Option<gst::Structure>>("stats") else {
            return;
        };
        // In units of 1/65536 s; 0 before our first report has come back.
        if let Ok(units @ 1..) = stats.get::<u32>("rb-round-trip") {
            let rtt = Duration::from_nanos((u64::from(units) * 1_000_000_000) >> 16);
            if rtt <= LONGEST_RTT {
                self.change(|state, _| state.core.rtt(rtt));
            }
        }
    }

    // The session.

    fn search(&self) {
        let Some(session) = session::find(&self.srcpad) else {
            return;
        };
        let link = self.listen(&session);
        let old = {
            let mut known = lock(&self.link);
            // Not after a stop.
            if lock(&self.state).is_some() && known.is_none() {
                *known = Some(link);
                None
            } else {
                Some(link)
            }
        };
        match old {
            Some(link) => link.disconnect(),
            None => gst::info!(CAT, imp = self, "RTP session {}", session.path_string()),
        }
    }

    fn listen(&self, session: &gst::Element) -> Link {
        let internal = internal_session(session);
        let connect = |signal, handle: fn(&Self, &[glib::Value])| {
            let weak = self.obj().downgrade();
            internal.connect(signal, false, move |values| {
                let element = weak.upgrade()?;
                let imp = element.imp();
                imp.catch_panic(|| (), |imp| handle(imp, values));
                None
            })
        };
        Link {
            session: session.downgrade(),
            handlers: vec![
                connect("on-feedback-rtcp", Self::rtcp_feedback),
                connect("on-ssrc-active", Self::source_active),
                connect("on-receiving-rtcp", |imp, values| {
                    if let Some(Ok(buffer)) = values.get(1).map(|v| v.get::<gst::Buffer>()) {
                        imp.rtcp(&buffer);
                    }
                }),
            ],
        }
    }

    fn unlink(&self) {
        let link = lock(&self.link).take();
        if let Some(link) = link {
            link.disconnect();
        }
        if let Some(state) = lock(&self.state).as_mut() {
            state.search_anew();
        }
    }

    // Events.

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if let gst::EventView::Caps(caps) = event.view()
            && let Some(id) = twcc::extension_id(caps.caps())
        {
            let before = self.extension.swap(id, Ordering::Relaxed);
            if before != id {
                gst::info!(CAT, imp = self, "transport-wide numbers under id {id}");
            }
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if event.type_() == gst::EventType::CustomUpstream
            && let Some(s) = event.structure().filter(|s| s.has_name(twcc::EVENT))
        {
            self.feedback(s);
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// The thread that tells others. All events and notifications are from
    /// here, so they are in order.
    fn run(&self, serial: u64) {
        loop {
            let (message, notify) = {
                let mut guard = lock(&self.state);
                loop {
                    let Some(state) = guard.as_mut().filter(|s| s.serial == serial) else {
                        return;
                    };
                    let wait = match state.next(self.now()) {
                        Next::Tell(message, notify) => break (message, notify),
                        Next::Wait(time) => Some(time),
                        Next::Idle => None,
                    };
                    let wake = &self.wake;
                    guard = match wait {
                        Some(time) => {
                            let result = wake.wait_timeout(guard, time);
                            result.unwrap_or_else(|e| e.into_inner()).0
                        }
                        None => wake.wait(guard).unwrap_or_else(|e| e.into_inner()),
                    };
                }
            };
            gst::debug!(CAT, imp = self, "{message:?}");
            self.sinkpad.push_event(message.to_event());
            if notify {
                self.obj().notify("estimated-bitrate");
            }
        }
    }

    // States.

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = *lock(&self.settings);
        let (config, mended) = settings.config();
        if let Some(mended) = mended {
            gst::warning!(CAT, imp = self, "{mended}");
        }
        let core = Controller::new(config)
            .map_err(|err| gst::error_msg!(gst::LibraryError::Settings, ["{err}"]))?;
        self.extension.store(0, Ordering::Relaxed);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        *lock(&self.state) = Some(State::new(core, settings.expect_feedback, serial));
        let element = self.obj().clone();
        let thread = std::thread::Builder::new()
            .name("rtpgcc".into())
            .spawn(move || {
                let imp = element.imp();
                imp.catch_panic(|| (), |imp| imp.run(serial));
            })
            .map_err(|err| gst::error_msg!(gst::CoreError::Thread, ["{err}"]))?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    fn stop(&self) {
        *lock(&self.state) = None;
        self.wake.notify_all();
        let thread = lock(&self.thread).take();
        // A handler of ours that stops the element is on that very thread.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            gst::error!(CAT, imp = self, "the thread panicked");
        }
        self.unlink();
    }

    fn configure(&self) {
        let settings = *lock(&self.settings);
        let (config, mended) = settings.config();
        if let Some(mended) = mended {
            gst::warning!(CAT, imp = self, "{mended}");
        }
        let result = self.change(|state, now| {
            state.expect_feedback = settings.expect_feedback;
            state.core.configure(now, config)
        });
        if let Some(Err(err)) = result {
            gst::error!(CAT, imp = self, "not changed: {err}");
        }
    }

    fn estimated(&self) -> u32 {
        let now = lock(&self.state).as_ref().map(|s| s.core.estimate().target);
        let target = now.unwrap_or_else(|| lock(&self.settings).config().0.start);
        u32::try_from(target.as_bps()).unwrap_or(u32::MAX)
    }

    fn stats(&self) -> gst::Structure {
        let session = lock(&self.link).is_some();
        let settings = *lock(&self.settings);
        match lock(&self.state).as_ref() {
            Some(state) => state.stats(session),
            None => match Controller::new(settings.config().0) {
                Ok(core) => State::new(core, false, 0).stats(session),
                Err(_) => gst::Structure::new_empty(STATS),
            },
        }
    }
}

/// A core that begins at what is sent.
fn begin_at(settings: Settings, sent: Bitrate) -> Option<Controller> {
    let start = u32::try_from(sent.as_bps()).unwrap_or(u32::MAX);
    let (config, _) = Settings { start, ..settings }.config();
    Controller::new(config).ok()
}

#[glib::object_subclass]
impl ObjectSubclass for RtpGcc {
    const NAME: &'static str = "GstRtpGcc";
    type Type = super::RtpGcc;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
        // rtppacer registers it too; it has no tags.
        if !CustomMeta::is_registered(PROBE_META) {
            CustomMeta::register_simple(PROBE_META);
        }
        let flags = gst::PadFlags::PROXY_CAPS
            | gst::PadFlags::PROXY_ALLOCATION
            | gst::PadFlags::PROXY_SCHEDULING;
        let templ = klass.pad_template("sink").expect("template is registered");
        let sinkpad = gst::Pad::builder_from_template(&templ)
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.sink_chain(buffer),
                )
            })
            .chain_list_function(|_, parent, list| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |imp| imp.sink_chain_list(list),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(pad, event))
            })
            .flags(flags)
            .build();
        let templ = klass.pad_template("src").expect("template is registered");
        let srcpad = gst::Pad::builder_from_template(&templ)
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_event(pad, event))
            })
            .flags(flags)
            .build();
        Self {
            sinkpad,
            srcpad,
            clock: gst::SystemClock::obtain(),
            settings: Mutex::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
            link: Mutex::default(),
            thread: Mutex::default(),
            extension: AtomicU8::new(0),
            serial: AtomicU64::new(0),
        }
    }
}

impl ObjectImpl for RtpGcc {
    fn properties() -> &'static [glib::ParamSpec] {
        settings::properties()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let name = pspec.name();
        let set = lock(&self.settings).set(name, value);
        match set {
            Ok(true) => self.configure(),
            Ok(false) => gst::error!(CAT, imp = self, "no such property: {name}"),
            Err(err) => gst::error!(CAT, imp = self, "property {name}: {err}"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "estimated-bitrate" => self.estimated().to_value(),
            "stats" => self.stats().to_value(),
            name => lock(&self.settings).get(name).unwrap_or_else(|| {
                gst::error!(CAT, imp = self, "no such property: {name}");
                pspec.default_value().clone()
            }),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            obj.add_pad(pad).expect("both pads are new");
        }
        let weak = obj.downgrade();
        self.srcpad.connect_unlinked(move |_, _| {
            if let Some(element) = weak.upgrade() {
                element.imp().unlink();
            }
        });
    }
}

impl GstObjectImpl for RtpGcc {}

impl ElementImpl for RtpGcc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTP Bandwidth Estimator",
                "Filter/Network/RTP",
                "Estimates from feedback how much the network takes, and tells those upstream",
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
            .map(|(name, direction)| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                    .expect("a plain name makes a template")
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
            self.start().map_err(|err| {
                self.post_error_message(err);
                self.stop();
                gst::StateChangeError
            })?;
        }
        let result = self.parent_change_state(transition);
        // Without the pads there are no packets and no feedback.
        let failed_start = transition == gst::StateChange::ReadyToPaused && result.is_err();
        if transition == gst::StateChange::PausedToReady || failed_start {
            self.stop();
        }
        result
    }
}
