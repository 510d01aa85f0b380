// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtpflexfecdec
 *
 * Takes FlexFEC packets out of RTP and recovers lost packets by them.
 *
 * Put it where packets of all SSRCs of a session pass and retransmissions are
 * restored: behind webrtcbin's rtpreddec, in a bin for rtpbin's signal
 * `request-aux-receiver`, or in front of a jitter buffer. Set `pt` or `ssrc` (or
 * both) to what FEC packets have.
 *
 * - Media pass untouched and at once, FEC packets never do.
 * - A recovered packet leaves as soon as it can be made, behind the packet that
 *   made it possible and with its timestamps, as if it had arrived late. It
 *   carries the meta `DualStreamFecRecovered`, and no flag of a
 *   retransmission: rtpjitterbuffer drops those that it did not ask for.
 * - rtpjitterbuffer asks for a lost packet again as soon as packets more than
 *   `rtx-delay-reorder` numbers further have come, or after `rtx-delay`. What is
 *   recovered before that is not asked for. As FEC packets follow the frame,
 *   0 (no limit) or a large number there saves useless retransmissions.
 * - Header extensions that change on the way, by the `extmap` fields of the
 *   caps or of #rtpflexfecdec:header-extensions, are zero in recovered packets.
 *   They must be known: where such an extension is not in all packets, what is
 *   recovered would be wrong in its first bytes.
 *
 * |[
 * gst-launch-1.0 udpsrc port=5004 caps="application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96" ! rtpflexfecdec pt=110 ! rtpjitterbuffer ! rtph264depay ! avdec_h264 ! videoconvert ! autovideosink
 * ]| Shows what arrives, with what was lost and recovered.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `received` | u64 | all packets: the sum of `media-packets`, `duplicates`, `already-recovered`, `late`, `ignored`, `malformed` and `fec-packets` |
 * | `media-packets`, `media-bytes` | u64 | received of the SSRCs that may be recovered |
 * | `duplicates` | u64 | received again |
 * | `already-recovered` | u64 | received after they had been recovered |
 * | `late` | u64 | too far behind or ahead of the others to be kept |
 * | `ignored` | u64 | of other SSRCs, or too large |
 * | `malformed` | u64 | buffers dropped that are no RTP packets |
 * | `fec-packets`, `fec-bytes` | u64 | FEC packets received; the sum of the next six and those that are retransmissions |
 * | `fec-used` | u64 | made a packet |
 * | `useless` | u64 | nothing was missing that they protect |
 * | `unrecoverable` | u64 | too much was missing for too long |
 * | `fec-malformed` | u64 | no FEC packets, or they make no RTP packet |
 * | `fec-ignored` | u64 | duplicates, and those for packets that are unknown |
 * | `fec-pending` | u64 | wait for packets now |
 * | `recovered`, `recovered-bytes` | u64 | packets made, and their bytes |
 * | `lost` | u64 | never came and were not recovered |
 * | `missing` | u64 | may come yet |
 * | `residual-loss` | f64 | `lost` of all that were sent |
 * | `overhead` | f64 | FEC bytes for each media byte |
 *
 * Since: 0.1
 */
use std::sync::{LazyLock, Mutex, MutexGuard};

use dualstream_common::Timestamp;
use flexfec_core::decoder::{Decoder, DecoderConfigError, Media, MediaRejected, Stats};
use gst::glib;
use gst::meta::CustomMeta;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::RECOVERED_META;
use super::settings::{self, Settings};
use crate::rtp::{self, Bytes, Ids};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtpflexfecdec",
        gst::DebugColorFlags::empty(),
        Some("FlexFEC decoder"),
    )
});

/// One warning for this many of a kind.
const WARN_EVERY: u64 = 1000;

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

// Lock order: settings, state. Neither is held over a push or an event.

/// From READY to PAUSED and back.
struct State {
    decoder: Decoder,
    settings: Settings,
    ids: Ids,
    malformed: u64,
    /// Whether the last packet was a FEC packet and its RTP timestamp, and when
    /// the first such came.
    run: Option<(bool, [u8; 4])>,
    now: Timestamp,
    /// For packets in several memories.
    scratch: Vec<u8>,
}

/// What a packet leads to.
struct Step {
    /// It is media.
    pass: bool,
    recovered: Vec<gst::Buffer>,
}

impl State {
    fn new(settings: Settings) -> Result<Self, DecoderConfigError> {
        let mut ids = Ids::default();
        if let Some(extensions) = &settings.extensions {
            ids.learn(extensions);
        }
        Ok(Self {
            decoder: Decoder::new(settings.config(ids.mutable))?,
            settings,
            ids,
            malformed: 0,
            run: None,
            now: Timestamp::ZERO,
            scratch: Vec::new(),
        })
    }

    fn configure(&mut self, settings: Settings) -> Result<(), DecoderConfigError> {
        if let Some(extensions) = &settings.extensions {
            self.ids.learn(extensions);
        }
        self.decoder.configure(settings.config(self.ids.mutable))?;
        self.settings = settings;
        Ok(())
    }

    fn learn(&mut self, caps: &gst::CapsRef) -> Result<(), DecoderConfigError> {
        let before = self.ids;
        self.ids.learn(caps);
        if self.ids.mutable != before.mutable {
            self.decoder
                .configure(self.settings.config(self.ids.mutable))?;
        }
        Ok(())
    }

    /// Before the packet is passed on. `None` if it cannot be read.
    fn packet(&mut self, imp: &RtpFlexFecDec, buffer: &gst::BufferRef) -> Option<Step> {
        let mut bytes = Bytes::of(buffer, &mut self.scratch)?;
        let pass = self.take(imp, &bytes);
        bytes.done(&mut self.scratch);
        let mut recovered = Vec::new();
        while let Some(packet) = self.decoder.next_recovered() {
            let mut made = rtp::buffer(packet.packet, (buffer.pts(), buffer.dts()));
            if let Some(made) = made.get_mut() {
                // It is registered.
                let _ = CustomMeta::add(made, RECOVERED_META);
            }
            recovered.push(made);
        }
        Some(Step { pass, recovered })
    }

    /// Gives the packet to the decoder. Whether it is to be passed on.
    #[inline]
    fn take(&mut self, imp: &RtpFlexFecDec, packet: &[u8]) -> bool {
        // The decoder reads the rest, and says if there is none.
        let head = packet.first_chunk::<12>();
        let fec = head.is_some_and(|head| {
            let [.., a, b, c, d] = *head;
            let ssrc = u32::from_be_bytes([a, b, c, d]);
            self.settings.is_fec(head[1] & 0x7f, ssrc)
        });
        // The clock is asked once for the media of a frame, once for the FEC packets
        // behind them: what is old is older than these.
        let run = head.map(|head| (fec, [head[4], head[5], head[6], head[7]]));
        if self.run != run {
            self.run = run;
            self.now = imp.now();
        }
        let now = self.now;
        let malformed = if fec {
            let taken = self.decoder.fec(now, packet);
            if let Err(rejected) = taken {
                gst::debug!(CAT, imp = imp, "FEC packet: {rejected}");
            }
            None
        } else {
            match self.decoder.media(now, packet) {
                Media::Rejected(MediaRejected::Malformed(malformed)) => Some(malformed),
                _ => None,
            }
        };
        if let Some(malformed) = malformed {
            if self.malformed.is_multiple_of(WARN_EVERY) {
                gst::warning!(CAT, imp = imp, "dropped: {malformed}");
            }
            self.malformed += 1;
        }
        malformed.is_none() && !fec
    }
}

pub struct RtpFlexFecDec {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
}

/// A panic elsewhere leaves a consistent state behind: the core is told one
/// thing at a time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl RtpFlexFecDec {
    fn now(&self) -> Timestamp {
        let obj = self.obj();
        let running = obj.clock().zip(obj.base_time());
        running.map_or(Timestamp::ZERO, |(clock, base)| {
            Timestamp::from_nanos(clock.time().saturating_sub(base).nseconds())
        })
    }

    fn sink_chain(&self, buffer: gst::Buffer) -> Flow {
        let step = self.packet(&buffer)?;
        let mut flow = Ok(gst::FlowSuccess::Ok);
        if step.pass {
            flow = self.srcpad.push(buffer);
        }
        flow?;
        self.push_recovered(step.recovered)
    }

    /// Goes on as it is, unless something must be put in between or left out.
    fn sink_chain_list(&self, list: gst::BufferList) -> Flow {
        let steps: Result<Vec<Step>, _> = list.iter().map(|buffer| self.packet(buffer)).collect();
        let mut steps = steps?;
        let (last, others) = match steps.split_last_mut() {
            Some((last, others)) => (std::mem::take(&mut last.recovered), others),
            None => (Vec::new(), &mut [][..]),
        };
        let plain = others.iter().all(|step| step.recovered.is_empty());
        if plain && steps.iter().all(|step| step.pass) {
            self.srcpad.push_list(list)?;
        } else {
            for (buffer, step) in list.iter_owned().zip(steps) {
                if step.pass {
                    self.srcpad.push(buffer)?;
                }
                self.push_recovered(step.recovered)?;
            }
        }
        self.push_recovered(last)
    }

    fn packet(&self, buffer: &gst::BufferRef) -> Result<Step, gst::FlowError> {
        let mut guard = lock(&self.state);
        let state = guard.as_mut().ok_or(gst::FlowError::Flushing)?;
        let step = state.packet(self, buffer).unwrap_or(Step {
            pass: true,
            recovered: Vec::new(),
        });
        Ok(step)
    }

    fn push_recovered(&self, recovered: Vec<gst::Buffer>) -> Flow {
        let mut flow = Ok(gst::FlowSuccess::Ok);
        for buffer in recovered {
            gst::log!(CAT, imp = self, "recovered {buffer:?}");
            flow = self.srcpad.push(buffer);
            flow?;
        }
        flow
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        let with_state = |act: &dyn Fn(&mut State) -> Result<(), DecoderConfigError>| {
            if let Some(Err(err)) = lock(&self.state).as_mut().map(act) {
                gst::error!(CAT, imp = self, "{err}");
            }
        };
        match event.view() {
            gst::EventView::Caps(caps) => {
                with_state(&|state| state.learn(caps.caps()));
                // From an encoder in the same pipeline; nothing follows that
                // they are about.
                if lock(&self.settings).are_of_fec(caps.caps()) {
                    return true;
                }
            }
            gst::EventView::FlushStop(_) => with_state(&|state| {
                state.decoder.clear();
                Ok(())
            }),
            _ => (),
        }
        // There is one pad, which need not be looked for.
        self.srcpad.push_event(event)
    }

    fn stats(&self) -> gst::Structure {
        let state = lock(&self.state);
        let stats = state
            .as_ref()
            .map(|s| s.decoder.stats())
            .unwrap_or_default();
        drop(state);
        let Stats {
            media,
            fec,
            recovered,
            lost,
            ..
        } = stats;
        let share = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                part as f64 / whole as f64
            }
        };
        let others = [
            stats.duplicates,
            stats.already_recovered,
            stats.late,
            stats.ignored,
            stats.malformed,
        ];
        let others = others.iter().map(|amount| amount.packets).sum::<u64>();
        let received = media.packets + fec.packets + others;
        gst::Structure::builder("application/x-rtpflexfecdec-stats")
            .field("received", received)
            .field("media-packets", media.packets)
            .field("media-bytes", media.bytes)
            .field("duplicates", stats.duplicates.packets)
            .field("already-recovered", stats.already_recovered.packets)
            .field("late", stats.late.packets)
            .field("ignored", stats.ignored.packets)
            .field("malformed", stats.malformed.packets)
            .field("fec-packets", fec.packets)
            .field("fec-bytes", fec.bytes)
            .field("fec-used", stats.fec_used.packets)
            .field("useless", stats.useless.packets)
            .field("unrecoverable", stats.unrecoverable.packets)
            .field("fec-malformed", stats.fec_malformed.packets)
            .field("fec-ignored", stats.fec_ignored.packets)
            .field("fec-pending", stats.fec_pending.packets)
            .field("recovered", recovered.packets)
            .field("recovered-bytes", recovered.bytes)
            .field("lost", lost)
            .field("missing", stats.missing)
            .field(
                "residual-loss",
                share(lost, media.packets + recovered.packets + lost),
            )
            .field("overhead", share(fec.bytes, media.bytes))
            .build()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpFlexFecDec {
    const NAME: &'static str = "GstRtpFlexFecDec";
    type Type = super::RtpFlexFecDec;
    type ParentType = gst::Element;

    fn with_class(klass: &Self::Class) -> Self {
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
            .event_function(|_, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(event))
            })
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        let templ = klass.pad_template("src").expect("template is registered");
        let srcpad = gst::Pad::builder_from_template(&templ)
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        Self {
            sinkpad,
            srcpad,
            settings: Mutex::default(),
            state: Mutex::default(),
        }
    }
}

impl ObjectImpl for RtpFlexFecDec {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        // Kept until the state has them: two changes at once are in one order.
        let mut settings = lock(&self.settings);
        if let Err(err) = settings.set(pspec.name(), value) {
            gst::error!(CAT, imp = self, "property {}: {err}", pspec.name());
            return;
        }
        let done = lock(&self.state)
            .as_mut()
            .map(|state| state.configure(settings.clone()));
        drop(settings);
        if let Some(Err(err)) = done {
            gst::error!(CAT, imp = self, "property {}: {err}", pspec.name());
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return self.stats().to_value();
        }
        lock(&self.settings).value(pspec.name()).unwrap_or_else(|| {
            gst::error!(CAT, imp = self, "no such property: {}", pspec.name());
            pspec.default_value().clone()
        })
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            obj.add_pad(pad).expect("both pads are new");
        }
    }
}

impl GstObjectImpl for RtpFlexFecDec {}

impl ElementImpl for RtpFlexFecDec {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RTP FlexFEC Decoder",
                "Codec/Depayloader/Network/RTP",
                "Recovers lost RTP packets by FlexFEC packets",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(rtp::pad_templates);
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            let settings = lock(&self.settings);
            let state = State::new(settings.clone()).map_err(|err| {
                gst::error!(CAT, imp = self, "{err}");
                gst::StateChangeError
            })?;
            *lock(&self.state) = Some(state);
        }
        let success = self.parent_change_state(transition)?;
        if transition == gst::StateChange::PausedToReady {
            *lock(&self.state) = None;
        }
        Ok(success)
    }
}
