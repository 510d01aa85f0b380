// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtptrickle
 *
 * Spaces the RTP packets of background frames so that they use no more than
 * the background rate. Display packets pass at once and untouched.
 *
 * A key frame that trickles on the standby stream is many times a display
 * frame. Handed over in one burst it would fill the queue of the bottleneck,
 * and the display packets behind it would wait, which is what dual stream is
 * there to avoid. This element spreads such a frame over time at a fixed rate.
 * A pacer after it may do better, by giving background packets what the link
 * has left; the two can be used together.
 *
 * Put one behind each payloader, before the streams are merged: a background
 * packet that waits blocks its own branch, packets and serialised events
 * behind it included. Nothing is queued here. The back pressure is what tells
 * `dualh264enc` that the frame has left.
 *
 * - Background packets are those whose header extension
 *   `urn:x-gst-dualstream:frame:1` says so. Its id is taken from the caps field
 *   `extmap-<id>`; without that field all packets pass.
 * - Each packet counts with 28 bytes for IPv4 and UDP. At most 5 ms at the
 *   rate, or one packet if that is more, go at once.
 * - The rate is that of the last event `application/x-background-rate`
 *   (custom, downstream, out of band; `bitrate` u64 in bit/s), which is passed
 *   on too. It holds until the next one or until the element goes to READY.
 *   Without an event it is the property `background-bitrate`. Zero is no
 *   spacing, from an event too. A new rate applies at once, also to a packet
 *   that is waiting.
 * - After the event `application/x-background-release` (custom, downstream, out of
 *   band) background packets are not spaced until another packet has passed. It is
 *   sent where a stream becomes the display stream while a background frame of it
 *   is still on its way here: with several receivers, that is when others have it.
 * - Time is that of the pipeline clock. Without a clock (while prerolling)
 *   packets are not spaced.
 *
 * |[
 * gst-launch-1.0 videotestsrc is-live=true num-buffers=150 ! video/x-raw,framerate=30/1 ! dualh264enc name=e refresh-interval=1000 e.src_0 ! rtph264pay ! "application/x-rtp,payload=96,extmap-4=(string)urn:x-gst-dualstream:frame:1" ! rtptrickle background-bitrate=300000 ! fakesink async=false e.src_1 ! rtph264pay ! "application/x-rtp,payload=96,extmap-4=(string)urn:x-gst-dualstream:frame:1" ! rtptrickle background-bitrate=300000 ! fakesink async=false
 * ]| Encodes five seconds; the packets of background frames are spaced in front
 * of the sinks.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `bitrate` | u64 | the rate in force in bit/s, 0 = no spacing |
 * | `background-packets` | u64 | background packets passed |
 * | `background-bytes` | u64 | their bytes, with 28 for each packet |
 * | `background-waited` | u64 | time they waited in ns |
 * | `background-flushed` | u64 | background packets lost to a flush while they waited |
 * | `other-packets` | u64 | packets passed that are not of background frames |
 *
 * Since: 0.1
 */
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use dualstream_core::trickle::{Next, Trickle};
use dualstream_core::wire::{FrameTag, URI};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_rtp::RTPBuffer;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtptrickle",
        gst::DebugColorFlags::empty(),
        Some("Spacing of background packets"),
    )
});

const RATE_EVENT: &str = "application/x-background-rate";
const RELEASE_EVENT: &str = "application/x-background-release";

/// Longest wait without looking again; keeps clock times far from their end.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

// Lock order: settings, state. Neither is held over a push, an event or a wait.

#[derive(Clone, Copy, Default)]
struct Settings {
    background_bitrate: u64,
}

struct State {
    core: Trickle,
    /// Id of the header extension in the present caps.
    extension: Option<u8>,
    /// What the streaming thread is waiting for.
    wait: Option<gst::SingleShotClockId>,
    flushing: bool,
    others: u64,
}

impl State {
    fn new(settings: Settings) -> Self {
        Self {
            core: Trickle::new(Bitrate::from_bps(settings.background_bitrate)),
            extension: None,
            wait: None,
            flushing: false,
            others: 0,
        }
    }

    /// Makes the streaming thread look again.
    fn wake(&mut self) {
        if let Some(wait) = self.wait.take() {
            wait.unschedule();
        }
    }
}

pub struct RtpTrickle {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    settings: Mutex<Settings>,
    /// From READY to PAUSED and back.
    state: Mutex<Option<State>>,
}

/// A panic elsewhere leaves plain numbers behind; they are still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The id under which `caps` negotiate the extension. The field is the URI, or
/// an array of direction, URI and attributes.
fn extension_id(caps: &gst::CapsRef) -> Option<u8> {
    caps.structure(0)?.iter().find_map(|(name, value)| {
        let id = name.as_str().strip_prefix("extmap-")?.parse::<u8>().ok()?;
        let found = match value.get::<gst::Array>() {
            Ok(parts) => parts.get(1)?.get::<String>().is_ok_and(|uri| uri == URI),
            Err(_) => value.get::<String>().is_ok_and(|uri| uri == URI),
        };
        (id > 0 && found).then_some(id)
    })
}

fn is_background(buffer: &gst::BufferRef, id: u8) -> bool {
    let Ok(rtp) = RTPBuffer::from_buffer_readable(buffer) else {
        return false;
    };
    // 15 is reserved in the one-byte header.
    let short = (1..15)
        .contains(&id)
        .then(|| rtp.extension_onebyte_header(id, 0))
        .flatten();
    short
        .or_else(|| rtp.extension_twobytes_header(id, 0).map(|(_, data)| data))
        .and_then(|data| FrameTag::parse(data).ok())
        .is_some_and(|tag| tag.background)
}

impl RtpTrickle {
    /// The pipeline clock and the time at which running time was zero.
    fn clock(&self) -> Option<(gst::Clock, gst::ClockTime)> {
        let obj = self.obj();
        Some((obj.clock()?, obj.base_time()?))
    }

    fn running_time(clock: &gst::Clock, base: gst::ClockTime) -> Timestamp {
        Timestamp::from_nanos(clock.time().saturating_sub(base).nseconds())
    }

    /// Changes rates at the present time and has a waiting packet looked at
    /// again.
    fn change_rate(&self, change: impl FnOnce(&mut Trickle, Timestamp)) {
        let clock = self.clock();
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else { return };
        let now = clock.map_or(Timestamp::ZERO, |(c, base)| Self::running_time(&c, base));
        let before = state.core.rate();
        change(&mut state.core, now);
        let rate = state.core.rate();
        if rate != before {
            gst::debug!(CAT, imp = self, "background rate {before} -> {rate}");
            state.wake();
        }
    }

    /// Returns when a background packet of `size` may go.
    fn wait_for_turn(&self, size: DataSize) -> Result<(), gst::FlowError> {
        loop {
            let clock = self.clock();
            let wait = {
                let mut state = lock(&self.state);
                let state = state
                    .as_mut()
                    .filter(|s| !s.flushing)
                    .ok_or(gst::FlowError::Flushing)?;
                let Some((clock, base)) = clock else {
                    gst::trace!(CAT, imp = self, "no clock yet, not spaced");
                    return Ok(());
                };
                let now = Self::running_time(&clock, base);
                match state.core.offer(now, size) {
                    Next::Send => return Ok(()),
                    Next::WaitUntil(until) => {
                        let wait = until.since(now).min(LONGEST_WAIT);
                        gst::trace!(CAT, imp = self, "{size} wait for {wait:?}");
                        let until = (now + wait).as_nanos();
                        let id = clock.new_single_shot_id(base + until.nseconds());
                        state.wait = Some(id.clone());
                        id
                    }
                }
            };
            let (result, _) = wait.wait();
            if let Some(state) = lock(&self.state).as_mut() {
                state.wait = None;
            }
            match result {
                // Early: its time has come before the wait began.
                Ok(_) | Err(gst::ClockError::Unscheduled | gst::ClockError::Early) => (),
                Err(err) => {
                    gst::warning!(CAT, imp = self, "the clock cannot be waited for: {err:?}");
                    return Ok(());
                }
            }
        }
    }

    fn extension(&self) -> Option<u8> {
        lock(&self.state).as_ref()?.extension
    }

    fn count_others(&self, packets: usize) {
        if let Some(state) = lock(&self.state).as_mut() {
            state.others += packets as u64;
            state.core.passed();
        }
    }

    fn pass(
        &self,
        buffer: gst::Buffer,
        id: Option<u8>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        if id.is_some_and(|id| is_background(&buffer, id)) {
            self.wait_for_turn(DataSize::from_bytes(buffer.size() as u64))?;
        } else {
            self.count_others(1);
        }
        self.srcpad.push(buffer)
    }

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.pass(buffer, self.extension())
    }

    fn sink_chain_list(&self, list: gst::BufferList) -> Result<gst::FlowSuccess, gst::FlowError> {
        let id = self.extension();
        if !id.is_some_and(|id| list.iter().any(|buffer| is_background(buffer, id))) {
            self.count_others(list.len());
            return self.srcpad.push_list(list);
        }
        for buffer in list.iter_owned() {
            self.pass(buffer, id)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => {
                let id = extension_id(caps.caps());
                gst::info!(CAT, imp = self, "header extension id {id:?}");
                if let Some(state) = lock(&self.state).as_mut() {
                    state.extension = id;
                }
            }
            gst::EventView::CustomDownstreamOob(custom) => {
                if custom
                    .structure()
                    .is_some_and(|s| s.has_name(RELEASE_EVENT))
                    && let Some(state) = lock(&self.state).as_mut()
                {
                    state.core.release();
                    state.wake();
                }
                let rate = custom.structure().filter(|s| s.has_name(RATE_EVENT));
                match rate.map(|s| s.get::<u64>("bitrate")) {
                    None => (),
                    Some(Ok(rate)) => {
                        self.change_rate(|core, now| {
                            core.signal(now, Some(Bitrate::from_bps(rate)))
                        });
                    }
                    Some(Err(err)) => {
                        gst::warning!(CAT, imp = self, "{RATE_EVENT} ignored: {err}");
                    }
                }
            }
            gst::EventView::FlushStart(_) => self.set_flushing(true),
            gst::EventView::FlushStop(_) => self.set_flushing(false),
            _ => (),
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn set_flushing(&self, flushing: bool) {
        if let Some(state) = lock(&self.state).as_mut() {
            state.flushing = flushing;
            state.wake();
            if !flushing {
                // The streaming thread has left: it held the stream lock that
                // is held here now.
                state.core.flush();
            }
        }
    }

    fn stats(&self) -> gst::Structure {
        let settings = *lock(&self.settings);
        let state = lock(&self.state);
        let (rate, stats, others) = state.as_ref().map_or_else(
            || {
                let rate = Bitrate::from_bps(settings.background_bitrate);
                (rate, Default::default(), 0)
            },
            |s| (s.core.rate(), s.core.stats(), s.others),
        );
        let waited = u64::try_from(stats.waited.as_nanos()).unwrap_or(u64::MAX);
        gst::Structure::builder("application/x-rtptrickle-stats")
            .field("bitrate", rate.as_bps())
            .field("background-packets", stats.packets)
            .field("background-bytes", stats.bytes.as_bytes())
            .field("background-waited", waited)
            .field("background-flushed", stats.flushed)
            .field("other-packets", others)
            .build()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpTrickle {
    const NAME: &'static str = "GstRtpTrickle";
    type Type = super::RtpTrickle;
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
            settings: Mutex::default(),
            state: Mutex::default(),
        }
    }
}

impl ObjectImpl for RtpTrickle {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecUInt64::builder("background-bitrate")
                    .nick("Background Bitrate")
                    .blurb(
                        "Rate of background packets in bit/s while no event has told \
                         another one, 0 = no spacing",
                    )
                    .default_value(Settings::default().background_bitrate)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Rate in force, packets and bytes passed, and time waited")
                    .read_only()
                    .build(),
            ]
        });
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        match (pspec.name(), value.get::<u64>()) {
            ("background-bitrate", Ok(bps)) => {
                lock(&self.settings).background_bitrate = bps;
                self.change_rate(|core, now| core.configure(now, Bitrate::from_bps(bps)));
            }
            (name, _) => gst::error!(CAT, imp = self, "no such property: {name}"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "background-bitrate" => lock(&self.settings).background_bitrate.to_value(),
            "stats" => self.stats().to_value(),
            name => {
                gst::error!(CAT, imp = self, "no such property: {name}");
                pspec.default_value().clone()
            }
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            obj.add_pad(pad).expect("both pads are new");
        }
    }
}

impl GstObjectImpl for RtpTrickle {}

impl ElementImpl for RtpTrickle {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTP Background Trickle",
                "Filter/Network/RTP",
                "Spaces the RTP packets of background frames at the background rate",
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
        match transition {
            gst::StateChange::ReadyToPaused => {
                let settings = lock(&self.settings);
                *lock(&self.state) = Some(State::new(*settings));
            }
            // Deactivating the pads waits for the streaming thread.
            gst::StateChange::PausedToReady => self.set_flushing(true),
            // Running time is another one now.
            gst::StateChange::PausedToPlaying => {
                if let Some(state) = lock(&self.state).as_mut() {
                    state.wake();
                }
            }
            _ => (),
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            *lock(&self.state) = None;
        }
        Ok(success)
    }

    fn set_clock(&self, clock: Option<&gst::Clock>) -> bool {
        let done = self.parent_set_clock(clock);
        if let Some(state) = lock(&self.state).as_mut() {
            state.wake();
        }
        done
    }
}
