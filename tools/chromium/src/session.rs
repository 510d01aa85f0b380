// SPDX-License-Identifier: MPL-2.0
//! One session between an element of ours and the browser, and what came of
//! it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dualstream_common::Ratio;
use gst::glib;
use gst::prelude::*;
use serde::Serialize;

use crate::browser::{Browser, Report, Role, SetUp};
use crate::freeze::Freezes;
use crate::link::Link;

/// From the start to the first pictures.
const SET_UP_TIMEOUT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);
const FPS: u32 = 30;

/// What GLib found wrong with what was done to it.
static GLIB_WARNINGS: AtomicU64 = AtomicU64::new(0);

pub fn glib_warnings() -> u64 {
    GLIB_WARNINGS.load(Ordering::Relaxed)
}

/// Which way the video goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    ToChromium,
    FromChromium,
}

#[derive(Clone, Debug)]
pub struct Experiment {
    pub direction: Direction,
    /// On our side and in the browser.
    pub fec: bool,
    pub nack: bool,
    pub link: Link,
    /// Packets that our own element loses, at its end of the link.
    pub drops: Ratio,
    pub kbps: u32,
    /// Measured for so long, after a start that is not.
    pub settle: Duration,
    pub duration: Duration,
    /// Pictures are shown at their time, and counted then; else as soon as they
    /// are decoded.
    pub synchronised: bool,
    /// More properties of our element, as for gst-launch.
    pub properties: String,
    /// What our element sends.
    pub source: String,
}

impl Experiment {
    pub fn new(direction: Direction, fec: bool) -> Self {
        Self {
            direction,
            fec,
            nack: true,
            link: Link::Direct,
            drops: Ratio::ZERO,
            kbps: 1500,
            settle: Duration::from_secs(5),
            duration: Duration::from_secs(10),
            synchronised: false,
            properties: String::new(),
            // Every picture another, so that frames have several packets.
            source: format!(
                "videotestsrc is-live=true pattern=zone-plate kx2=20 ky2=20 kt=3 ! \
                 video/x-raw,width=640,height=360,framerate={FPS}/1"
            ),
        }
    }
}

/// What came of it, while it was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Media packets that arrived.
    pub packets: u64,
    /// As the receiver counts: repaired ones are not lost to Chromium.
    pub lost: i64,
    pub fec_packets: u64,
    /// Recovered by FEC; Chromium does not say.
    pub recovered: Option<u64>,
    pub retransmitted: u64,
    pub nacks: u64,
    pub plis: u64,
    /// Pictures shown.
    pub frames: u64,
    pub freezes: u64,
    pub frozen_seconds: f64,
    /// Pictures that stayed longer than 200 ms, where we show them.
    pub freezes_over_200_ms: Option<u64>,
    /// By the jitter buffers of our element, from retransmissions.
    pub repaired: Option<u64>,
    /// From the fastest frames to the time planned, in ms, by the jitter buffer.
    pub delay_ms: Option<f64>,
    /// Of this process, of all its sessions.
    pub glib_warnings: u64,
    /// Both were there to say so.
    pub negotiated: String,
}

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().expect("GStreamer starts");
        glib::log_set_default_handler(|domain, level, text| {
            if matches!(level, glib::LogLevel::Warning | glib::LogLevel::Critical) {
                GLIB_WARNINGS.fetch_add(1, Ordering::Relaxed);
            }
            glib::log_default_handler(domain, level, Some(text));
        });
        for register in [
            gstdualstream::plugin_register_static,
            gstfeedback::plugin_register_static,
            gstflexfec::plugin_register_static,
            gstgcc::plugin_register_static,
            gstjitterbuffer::plugin_register_static,
            gstpacer::plugin_register_static,
            gstdualwebrtc::plugin_register_static,
        ] {
            register().expect("a plugin of this project");
        }
    });
}

/// A pipeline that goes to NULL when it is dropped.
pub(crate) struct Pipeline(pub(crate) gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Pipeline {
    pub(crate) fn element(&self) -> Result<gst::Element> {
        self.0.by_name("peer").context("our element is gone")
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bus = self.0.bus().context("a pipeline has a bus")?;
        let kinds = [gst::MessageType::Error, gst::MessageType::Latency];
        while let Some(message) = bus.pop_filtered(&kinds) {
            if message.type_() == gst::MessageType::Error {
                bail!("{message:?}");
            }
            // As players do.
            let _ = self.0.recalculate_latency();
        }
        Ok(())
    }

    pub(crate) fn stats(&self) -> Result<gst::Structure> {
        Ok(self.element()?.property("stats"))
    }
}

/// Loses a share of the packets that cross the network side of webrtcbin's
/// session.
pub fn drop_packets(element: &gst::Element, direction: Direction, share: Ratio) {
    if share == Ratio::ZERO {
        return;
    }
    let Some(bin) = element.downcast_ref::<gst::Bin>() else {
        return;
    };
    let name = match direction {
        Direction::ToChromium => "send_rtp_src",
        Direction::FromChromium => "recv_rtp_sink",
    };
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(1)));
    bin.connect_deep_element_added(move |_, _, element| {
        if element.factory().is_none_or(|f| f.name() != "rtpsession") {
            return;
        }
        let random = random.clone();
        element.connect_pad_added(move |_, pad| {
            if pad.name() != name {
                return;
            }
            let random = random.clone();
            let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
            pad.add_probe(kinds, move |_, info| {
                let lost = || random.lock().expect("nobody panics with it").f64() < share.value();
                match &mut info.data {
                    // Not Drop: with that GStreamer unrefs what the binding has taken.
                    Some(gst::PadProbeData::Buffer(_)) if lost() => gst::PadProbeReturn::Handled,
                    Some(gst::PadProbeData::BufferList(list)) => {
                        let list = list.make_mut();
                        list.foreach_mut(|buffer, _| {
                            std::ops::ControlFlow::Continue((!lost()).then_some(buffer))
                        });
                        // One without packets would stop the transport.
                        if list.is_empty() {
                            gst::PadProbeReturn::Handled
                        } else {
                            gst::PadProbeReturn::Ok
                        }
                    }
                    _ => gst::PadProbeReturn::Ok,
                }
            });
        });
    });
}

struct Running {
    pipeline: Pipeline,
    browser: Browser,
    freezes: Arc<Mutex<Freezes>>,
    direction: Direction,
}

impl Running {
    fn start(experiment: &Experiment) -> Result<Self> {
        init();
        let fec = if experiment.fec { "flexfec-03" } else { "off" };
        let server = format!(
            "run-signalling-server=true signalling-server-host={} signalling-server-port=0 fec={fec} {}",
            experiment.link.host(),
            experiment.properties
        );
        let (description, role) = match experiment.direction {
            Direction::ToChromium => (
                format!(
                    "{} ! dualwebrtcsink name=peer encoder::bitrate={} {server}",
                    experiment.source,
                    experiment.kbps * 1000
                ),
                Role::Receive,
            ),
            Direction::FromChromium => (
                format!(
                    "dualwebrtcsrc name=peer {server} ! \
                     fakesink name=out sync={} qos=true signal-handoffs=true",
                    experiment.synchronised
                ),
                Role::Send,
            ),
        };
        let pipeline = gst::parse::launch(&description)?
            .downcast()
            .map_err(|_| anyhow::anyhow!("not a pipeline"))?;
        let pipeline = Pipeline(pipeline);
        drop_packets(&pipeline.element()?, experiment.direction, experiment.drops);
        let freezes = Arc::new(Mutex::new(Freezes::default()));
        if let Some(out) = pipeline.0.by_name("out") {
            let (seen, start) = (freezes.clone(), Instant::now());
            out.connect("handoff", false, move |_| {
                let mut freezes = seen.lock().expect("nobody panics with it");
                freezes.shown(start.elapsed());
                None
            });
        }
        pipeline.0.set_state(gst::State::Playing)?;
        let signaller: glib::Object = pipeline.element()?.property("signaller");
        let uri: String = signaller.property("uri");
        let signalling = uri
            .trim_end_matches('/')
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .with_context(|| format!("no port in {uri}"))?;
        let browser = Browser::start(&SetUp {
            role,
            signalling,
            flexfec: experiment.fec,
            nack: experiment.nack,
            kbps: experiment.kbps,
            link: experiment.link.clone(),
        })?;
        Ok(Self {
            pipeline,
            browser,
            freezes,
            direction: experiment.direction,
        })
    }

    fn report(&self) -> Result<Report> {
        self.pipeline.check()?;
        let report = self.browser.report();
        if let Some(error) = &report.error {
            bail!("the page: {error}");
        }
        Ok(report)
    }

    /// Until pictures are shown.
    fn wait(&self) -> Result<()> {
        let end = Instant::now() + SET_UP_TIMEOUT;
        while self.figures()?.frames < u64::from(FPS) {
            if Instant::now() > end {
                bail!("no pictures: {:?}", self.browser.report());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.report()?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Since the session began.
    fn figures(&self) -> Result<Figures> {
        let report = self.report()?;
        let stats = self.pipeline.stats()?;
        let negotiated = stats.get("fec").unwrap_or_default();
        Ok(match self.direction {
            Direction::ToChromium => {
                let stream = report.inbound().cloned().unwrap_or_default();
                Figures {
                    packets: stream.packets_received,
                    lost: stream.packets_lost,
                    fec_packets: stream.fec_packets_received,
                    recovered: None,
                    retransmitted: stream.retransmitted_packets_received,
                    nacks: stream.nack_count,
                    plis: stream.pli_count,
                    frames: stream.frames_decoded,
                    freezes: stream.freeze_count,
                    frozen_seconds: stream.total_freezes_duration,
                    freezes_over_200_ms: None,
                    repaired: None,
                    delay_ms: None,
                    glib_warnings: GLIB_WARNINGS.load(Ordering::Relaxed),
                    negotiated,
                }
            }
            Direction::FromChromium => {
                let stream = report.outbound().cloned().unwrap_or_default();
                let remote = report.remote_inbound().cloned().unwrap_or_default();
                let decoder = stats.get::<gst::Structure>("fec-decoder").ok();
                let of_decoder = |name: &str| {
                    decoder
                        .as_ref()
                        .and_then(|decoder| decoder.get::<u64>(name).ok())
                };
                let buffer = stats.get::<gst::Structure>("jitterbuffer-0").ok();
                let of_buffer = |name: &str| buffer.as_ref()?.get::<u64>(name).ok();
                let freezes = self.freezes.lock().expect("nobody panics with it").clone();
                Figures {
                    packets: stream.packets_sent,
                    lost: remote.packets_lost,
                    fec_packets: of_decoder("fec-packets").unwrap_or_default(),
                    recovered: of_decoder("recovered"),
                    retransmitted: stream.retransmitted_packets_sent,
                    nacks: stream.nack_count,
                    plis: stream.pli_count,
                    frames: freezes.frames(),
                    freezes: freezes.count(),
                    frozen_seconds: freezes.duration().as_secs_f64(),
                    freezes_over_200_ms: Some(freezes.long()),
                    repaired: of_buffer("rtx-success-count"),
                    delay_ms: of_buffer("delay").map(|ns| ns as f64 / 1e6),
                    glib_warnings: GLIB_WARNINGS.load(Ordering::Relaxed),
                    negotiated,
                }
            }
        })
    }
}

impl Figures {
    fn since(&self, earlier: &Self) -> Self {
        let less = |now: u64, then: u64| now.saturating_sub(then);
        Self {
            packets: less(self.packets, earlier.packets),
            lost: self.lost - earlier.lost,
            fec_packets: less(self.fec_packets, earlier.fec_packets),
            recovered: self
                .recovered
                .map(|now| less(now, earlier.recovered.unwrap_or_default())),
            retransmitted: less(self.retransmitted, earlier.retransmitted),
            nacks: less(self.nacks, earlier.nacks),
            plis: less(self.plis, earlier.plis),
            frames: less(self.frames, earlier.frames),
            freezes: less(self.freezes, earlier.freezes),
            frozen_seconds: self.frozen_seconds - earlier.frozen_seconds,
            freezes_over_200_ms: self
                .freezes_over_200_ms
                .map(|now| less(now, earlier.freezes_over_200_ms.unwrap_or_default())),
            repaired: self
                .repaired
                .map(|now| less(now, earlier.repaired.unwrap_or_default())),
            delay_ms: self.delay_ms,
            glib_warnings: self.glib_warnings,
            negotiated: self.negotiated.clone(),
        }
    }
}

/// A whole session; the figures and all the page said.
pub fn run(experiment: &Experiment) -> Result<(Figures, Report)> {
    let running = Running::start(experiment)?;
    running.wait()?;
    running.sleep(experiment.settle)?;
    let before = running.figures()?;
    running.sleep(experiment.duration)?;
    let figures = running.figures()?.since(&before);
    Ok((figures, running.report()?))
}
