// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtpremb
 *
 * Estimates at the receiver how much the network takes, and tells the sender by
 * the RTCP message REMB. It is for senders that understand nothing better:
 * where transport-wide feedback (TWCC) is negotiated the sender knows more by
 * itself, and this element only holds it back. RTP packets, events and queries
 * pass through it untouched and without delay.
 *
 * The packets need the header extension abs-send-time
 * (`http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time`): `extmap-<id>`
 * for it in the caps that arrive, or in those that the session has for the
 * payload type (signal `request-pt-map`).
 *
 * Put it where all packets of a session pass and none has been held up, which
 * is in front of the jitter buffer:
 *
 * - With rtpbin, in a bin with the pads `sink_<session>` and `src_<session>` that
 *   is returned from the signal `request-aux-receiver`.
 * - With webrtcbin, which answers that signal itself, behind `rtpreddec`: on
 *   `deep-element-added` for that factory, between it and the target of its
 *   bin's ghost pad `src_<session>`.
 * - Behind the pad `recv_rtp_src` of a plain rtpsession.
 * - Where nothing is encrypted, also in front of `recv_rtp_sink` or of
 *   `recv_rtp_sink_<session>` of rtpbin.
 *
 * It finds the session by itself, through elements with one pad on that side
 * and through bins. RTCP has to be linked. The first message follows the
 * session's first own report.
 *
 * - A message names all SSRCs that were heard in the last 2 s. One is sent each
 *   second, and at once when the estimate falls by more than 3 %.
 * - Sizes and rates count 28 bytes for IPv4 and UDP with each packet.
 * - Packets arrive when they get here, by the system's clock, and not at their
 *   DTS: sources set it on the thread that gets here, so it is hardly earlier,
 *   and it follows the pipeline's clock, which may be changed or slaved.
 *
 * |[
 * GST_DEBUG=rtpremb:LOG gst-launch-1.0 rtpbin name=r rtp-profile=avpf udpsrc address=127.0.0.1 port=5000 caps="application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,extmap-2=(string)http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time" ! rtpremb max-bitrate=2000000 ! r.recv_rtp_sink_0 udpsrc address=127.0.0.1 port=5001 ! r.recv_rtcp_sink_0 r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port=5003 sync=false async=false r. ! rtph264depay ! avdec_h264 ! fakesink async=false
 * ]| Receives from a sender that writes abs-send-time under id 2, and tells it a
 * rate each second.
 *
 * ## Statistics
 *
 * They begin anew with each change to PAUSED.
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `packets`, `bytes` | u64 | passed, bytes with 28 for each packet |
 * | `timed-packets`, `untimed-packets` | u64 | of these, with abs-send-time and without |
 * | `malformed` | u64 | of these, no RTP, or abs-send-time of a wrong length |
 * | `remb` | u64 | messages sent |
 * | `send-failed` | u64 | messages that the RTCP path refused |
 * | `overuses` | u64 | times that the delay was seen to grow |
 * | `session` | bool | the RTP session was found |
 * | `extension-id` | u32 | of abs-send-time, 0 = not known |
 * | `bitrate` | u64 | the estimate in bit/s, 0 = not known |
 * | `state` | string | increase, hold, decrease, compete, silent |
 * | `capacity` | u64 | what the link takes, in bit/s |
 * | `received-bitrate` | u64 | in bit/s |
 * | `queue` | u64 | delay in the bottleneck in ns |
 *
 * Since: 0.1
 */
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard};
use std::thread::JoinHandle;

use dualstream_common::{Bitrate, Timestamp};
use gcc_core::{Config, ReceiverEstimator, remb};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::state::{Look, Next, STATS, State};
use super::{rtp, session};
use crate::rtpgcc::settings::{Settings, rate};
use crate::rtpgcc::twcc;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtpremb",
        gst::DebugColorFlags::empty(),
        Some("Bandwidth estimator at the receiver"),
    )
});

/// One warning for this many packets.
const WARN_EVERY: u64 = 1000;

// Lock order: none is taken while another is held, nor held over a call that
// leaves this file but into the core.

pub struct RtpRemb {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    clock: gst::Clock,
    /// The limits of it.
    settings: Mutex<Settings>,
    /// From READY to PAUSED and back.
    state: Mutex<Option<State>>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Of the next state.
    serial: AtomicU64,
}

/// A panic elsewhere leaves plain numbers behind; they are still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn to_u32(rate: Bitrate) -> u32 {
    u32::try_from(rate.as_bps()).unwrap_or(u32::MAX)
}

impl RtpRemb {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.time().nseconds())
    }

    /// With the state of the thread that has this serial.
    fn with_state<T>(&self, serial: u64, f: impl FnOnce(&mut State, Timestamp) -> T) -> Option<T> {
        let mut guard = lock(&self.state);
        let state = guard.as_mut().filter(|s| s.serial == serial)?;
        Some(f(state, self.now()))
    }

    // Packets.

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.packets([&*buffer].into_iter());
        self.srcpad.push(buffer)
    }

    fn sink_chain_list(&self, list: gst::BufferList) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.packets(list.iter());
        self.srcpad.push_list(list)
    }

    fn packets<'a>(&self, buffers: impl Iterator<Item = &'a gst::BufferRef>) {
        let (before, after) = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else { return };
            let now = self.now();
            let before = state.malformed();
            for buffer in buffers {
                if state.packet(now, buffer) {
                    self.wake.notify_all();
                }
            }
            (before, state.malformed())
        };
        if after != before && (before == 0 || before / WARN_EVERY != after / WARN_EVERY) {
            gst::warning!(CAT, imp = self, "{after} packets so far make no sense");
        }
    }

    // The thread: looks for the session, sends and notifies.

    fn run(&self, serial: u64) {
        loop {
            let next = {
                let mut guard = lock(&self.state);
                loop {
                    let Some(state) = guard.as_mut().filter(|s| s.serial == serial) else {
                        return;
                    };
                    let wake = &self.wake;
                    guard = match state.next(self.now()) {
                        Next::Wait(time) => {
                            let result = wake.wait_timeout(guard, time);
                            result.unwrap_or_else(|e| e.into_inner()).0
                        }
                        Next::Idle => wake.wait(guard).unwrap_or_else(|e| e.into_inner()),
                        next => break next,
                    };
                }
            };
            match next {
                Next::Look(look) => self.look(serial, &look),
                Next::Send(session) => match session.upgrade() {
                    Some(session) => self.send(serial, &session),
                    None => self.unlinked(),
                },
                Next::Notify => self.obj().notify("estimated-bitrate"),
                Next::Wait(_) | Next::Idle => (),
            }
        }
    }

    fn look(&self, serial: u64, look: &Look) {
        let known = look.session.upgrade();
        let is_new = known.is_none();
        let Some(session) = known.or_else(|| session::find(&self.sinkpad, &self.srcpad)) else {
            return;
        };
        let caps = session
            .emit_by_name::<Option<gst::Caps>>("request-pt-map", &[&u32::from(look.payload_type)]);
        let id = caps.and_then(|caps| twcc::id_of(&caps, rtp::URI));
        self.with_state(serial, |state, _| state.found(look, &session, id));
        if is_new {
            gst::info!(CAT, imp = self, "RTP session {}", session.path_string());
        }
    }

    /// Sends what is due if the session has sent RTCP before. A push would
    /// otherwise block until DTLS is up, and then fail for want of caps.
    fn send(&self, serial: u64, session: &gst::Element) {
        let pad = session.static_pad("send_rtcp_src").filter(|pad| {
            // The session sends stream-start, caps and segment, in this order.
            pad.sticky_event::<gst::event::Segment>(0).is_some()
        });
        let Some(pad) = pad else {
            self.with_state(serial, |state, now| state.closed(now));
            return;
        };
        let Some(Some(message)) = self.with_state(serial, |state, now| state.poll(now)) else {
            return;
        };
        let internal: glib::Object = session.property("internal-session");
        let sender_ssrc: u32 = internal.property("internal-ssrc");
        let packet = remb::Remb {
            bitrate: message.bitrate,
            ssrcs: message.ssrcs,
        };
        gst::log!(CAT, imp = self, "{packet:?}");
        let packet = gst::Buffer::from_mut_slice(packet.to_packet(sender_ssrc));
        let result = pad.push(packet);
        if let Err(err) = result {
            gst::debug!(CAT, imp = self, "RTCP not sent: {err:?}");
        }
        self.with_state(serial, |state, _| state.sent(result.is_ok()));
    }

    // Events.

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if let gst::EventView::Caps(caps) = event.view()
            && let Some(id) = twcc::id_of(caps.caps(), rtp::URI)
        {
            let new = lock(&self.state)
                .as_mut()
                .is_some_and(|s| s.set_extension(id));
            if new {
                gst::info!(CAT, imp = self, "abs-send-time under id {id}");
            }
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn unlinked(&self) {
        if let Some(state) = lock(&self.state).as_mut() {
            state.search_anew();
        }
    }

    // States.

    fn config(&self) -> Config {
        let settings = *lock(&self.settings);
        let (config, mended) = settings.config();
        if let Some(mended) = mended {
            gst::warning!(CAT, imp = self, "{mended}");
        }
        config
    }

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let core = ReceiverEstimator::new(self.config())
            .map_err(|err| gst::error_msg!(gst::LibraryError::Settings, ["{err}"]))?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        *lock(&self.state) = Some(State::new(core, serial));
        let element = self.obj().clone();
        let thread = std::thread::Builder::new()
            .name("rtpremb".into())
            .spawn(move || {
                let imp = element.imp();
                imp.catch_panic(|| (), |imp| imp.run(serial));
            })
            .map_err(|err| gst::error_msg!(gst::CoreError::Thread, ["{err}"]))?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    fn stop(&self) {
        let state = lock(&self.state).take();
        drop(state);
        self.wake.notify_all();
        let thread = lock(&self.thread).take();
        // A handler of ours that stops the element is on that very thread.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            gst::error!(CAT, imp = self, "the thread panicked");
        }
    }

    fn configure(&self) {
        let config = self.config();
        let result = lock(&self.state)
            .as_mut()
            .map(|state| state.core.configure(config));
        if let Some(Err(err)) = result {
            gst::error!(CAT, imp = self, "not changed: {err}");
        }
    }

    fn estimated(&self) -> u32 {
        let now = lock(&self.state).as_ref().and_then(|s| s.core.estimate());
        to_u32(now.unwrap_or_else(|| lock(&self.settings).config().0.start))
    }

    fn stats(&self) -> gst::Structure {
        let now = lock(&self.state).as_ref().map(State::stats);
        now.unwrap_or_else(|| match ReceiverEstimator::new(Config::default()) {
            Ok(core) => State::new(core, 0).stats(),
            Err(_) => gst::Structure::new_empty(STATS),
        })
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpRemb {
    const NAME: &'static str = "GstRtpRemb";
    type Type = super::RtpRemb;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
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
        let srcpad = gst::Pad::builder_from_template(&templ).flags(flags).build();
        Self {
            sinkpad,
            srcpad,
            clock: gst::SystemClock::obtain(),
            settings: Mutex::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
            thread: Mutex::default(),
            serial: AtomicU64::new(0),
        }
    }
}

impl ObjectImpl for RtpRemb {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let default = Settings::default();
            vec![
                glib::ParamSpecUInt::builder("estimated-bitrate")
                    .nick("Estimated Bitrate")
                    .blurb(
                        "Rate in bit/s that all media together may have, start-bitrate before \
                         anything is known",
                    )
                    .minimum(1)
                    .default_value(default.start)
                    .read_only()
                    .build(),
                rate(
                    "min-bitrate",
                    "Minimum Bitrate",
                    "Lower limit of the estimate in bit/s",
                    default.min,
                    true,
                ),
                rate(
                    "max-bitrate",
                    "Maximum Bitrate",
                    "Upper limit of the estimate in bit/s",
                    default.max,
                    true,
                ),
                rate(
                    "start-bitrate",
                    "Start Bitrate",
                    "Estimate in bit/s before anything is known",
                    default.start,
                    false,
                ),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Packets, messages, and what the estimate rests on")
                    .read_only()
                    .build(),
            ]
        });
        PROPERTIES.as_ref()
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
            let weak = obj.downgrade();
            pad.connect_unlinked(move |_, _| {
                if let Some(element) = weak.upgrade() {
                    element.imp().unlinked();
                }
            });
        }
    }
}

impl GstObjectImpl for RtpRemb {}

impl ElementImpl for RtpRemb {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTP Bandwidth Estimator at the Receiver",
                "Filter/Network/RTP/RTCP",
                "Estimates from arrivals how much the network takes, and tells the sender by REMB",
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
        // Without the pads there are no packets.
        let failed_start = transition == gst::StateChange::ReadyToPaused && result.is_err();
        if transition == gst::StateChange::PausedToReady || failed_start {
            self.stop();
        }
        result
    }
}
