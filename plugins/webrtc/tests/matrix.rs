// SPDX-License-Identifier: MPL-2.0
//! The same session with each part switched off at one end, with all of them
//! off, and with all on, while packets are lost.

mod common;

use common::*;
use gst::glib;
use gst::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// 3 s.
const PICTURES: u64 = 90;
/// Statistics are read while this many are to come.
const LAST: u64 = 15;
/// Of RTP packets of all kinds.
const LOSS: f64 = 0.02;
/// A key frame on both streams within the time.
const SENDER: &str = "wait-for-receiver=true encoder::refresh-interval=600 \
    fec-0::controller=fixed fec-0::percentage=34 fec-0::percentage-key=34 \
    fec-1::controller=fixed fec-1::percentage=34 fec-1::percentage-key=34";
const SOUND: &str = "audiotestsrc num-buffers=300 samplesperbuffer=480 ! \
    audio/x-raw,rate=48000,channels=1 ! sink.audio";
const SOURCE: &str = "videotestsrc num-buffers=90 pattern=zone-plate kx2=20 ky2=20 kt=3 ! \
    video/x-raw,width=320,height=180,framerate=30/1";

/// What can be there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Dual,
    FrameFeedback,
    Estimator,
    Pacer,
    CongestionFeedback,
    Fec,
    Retransmission,
    AdaptiveBuffer,
    Audio,
    CaptureTime,
}
use Part::*;

const ALL: [Part; 10] = [
    Dual,
    FrameFeedback,
    Estimator,
    Pacer,
    CongestionFeedback,
    Fec,
    Retransmission,
    AdaptiveBuffer,
    Audio,
    CaptureTime,
];

/// What goes over the wire, seen at the RTP sessions.
#[derive(Clone, Debug, Default)]
struct Wire {
    /// Packets to the receiver by payload type, without the lost ones.
    rtp: BTreeMap<u8, u64>,
    /// With a one-byte header extension by this id.
    extensions: BTreeMap<u8, u64>,
    lost: u64,
    /// RTCP that the sender gets.
    nack: u64,
    transport_cc: u64,
    frame_complete: u64,
    state: u64,
}

impl Wire {
    /// Whether this packet is lost.
    fn on_rtp(&mut self, packet: &[u8]) -> bool {
        // Marsaglia's xorshift.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        if (self.state >> 11) as f64 / ((1u64 << 53) as f64) < LOSS {
            self.lost += 1;
            return true;
        }
        *self.rtp.entry(packet[1] & 0x7f).or_default() += 1;
        for id in extensions(packet) {
            *self.extensions.entry(id).or_default() += 1;
        }
        false
    }

    fn on_rtcp(&mut self, mut compound: &[u8]) {
        while let Some(head) = compound.first_chunk::<4>() {
            let length = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
            let Some((packet, rest)) = compound.split_at_checked(length) else {
                return;
            };
            match (head[1], head[0] & 0x1f) {
                (205, 1) => self.nack += 1,
                (205, 15) => self.transport_cc += 1,
                (206, 15) if packet.get(12..16) == Some(b"IFRC") => self.frame_complete += 1,
                _ => {}
            }
            compound = rest;
        }
    }
}

/// Ids of the one-byte header extensions of a packet.
fn extensions(packet: &[u8]) -> Vec<u8> {
    let mut ids = Vec::new();
    let at = 12 + 4 * usize::from(packet[0] & 0x0f);
    if packet[0] & 0x10 == 0 || packet.get(at..at + 2) != Some(&[0xbe, 0xde]) {
        return ids;
    }
    let words = usize::from(u16::from_be_bytes([packet[at + 2], packet[at + 3]]));
    let mut rest = packet.get(at + 4..at + 4 + 4 * words).unwrap_or_default();
    while let Some((first, more)) = rest.split_first() {
        if *first == 0 {
            rest = more;
            continue;
        }
        ids.push(first >> 4);
        rest = more
            .get(usize::from(first & 0x0f) + 1..)
            .unwrap_or_default();
    }
    ids
}

fn at_session(
    pipeline: &Pipeline,
    element: &str,
    pad: &'static str,
    take: impl Fn(&[u8]) -> bool + Clone + Send + Sync + 'static,
) {
    let bin: gst::Bin = pipeline.element(element).downcast().unwrap();
    bin.connect_deep_element_added(move |_, _, element| {
        if element.factory().is_some_and(|f| f.name() == "webrtcbin") {
            stay_on_loopback(element);
        }
        if element.factory().is_none_or(|f| f.name() != "rtpsession") {
            return;
        }
        let take = take.clone();
        element.connect_pad_added(move |_, added| {
            if added.name() != pad {
                return;
            }
            let take = take.clone();
            let is_lost = move |buffer: &gst::BufferRef| take(&buffer.map_readable().unwrap());
            let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
            added.add_probe(kinds, move |_, info| match &mut info.data {
                Some(gst::PadProbeData::Buffer(buffer)) if is_lost(buffer) => {
                    gst::PadProbeReturn::Handled
                }
                Some(gst::PadProbeData::BufferList(list)) => {
                    let list = list.make_mut();
                    list.foreach_mut(|buffer, _| {
                        std::ops::ControlFlow::Continue((!is_lost(&buffer)).then_some(buffer))
                    });
                    // One without packets would stop the transport.
                    if list.is_empty() {
                        gst::PadProbeReturn::Handled
                    } else {
                        gst::PadProbeReturn::Ok
                    }
                }
                _ => gst::PadProbeReturn::Ok,
            });
        });
    });
}

/// Other networks of this machine may go while a test runs, as those of benches do.
fn stay_on_loopback(webrtcbin: &gst::Element) {
    let ice = webrtcbin.property::<glib::Object>("ice-agent");
    let added: bool = ice.emit_by_name("add-local-ip-address", &[&"127.0.0.1"]);
    assert!(added, "no address of this machine");
}

fn find(pipeline: &Pipeline, element: &str, factory: &str) -> Vec<gst::Element> {
    let bin: gst::Bin = pipeline.element(element).downcast().unwrap();
    bin.iterate_recurse()
        .into_iter()
        .flatten()
        .filter(|e| e.factory().is_some_and(|f| f.name() == factory))
        .collect()
}

fn inner(stats: &gst::Structure, field: &str) -> gst::Structure {
    stats
        .get(field)
        .unwrap_or_else(|_| gst::Structure::new_empty("none"))
}

/// What both ends say, and what is seen of them, at one moment.
#[derive(Debug)]
struct Observed {
    sender: gst::Structure,
    receiver: gst::Structure,
    answer: String,
    wire: Wire,
    /// Factories of elements in the sender and in the receiver.
    inside: [BTreeSet<String>; 2],
    sounds: u64,
}

impl Observed {
    fn take(sender: &Pipeline, receiver: &Pipeline, wire: &Mutex<Wire>, sound: &Seen) -> Self {
        let webrtcbin = find(receiver, "src", "webrtcbin").remove(0);
        let answer: gst_webrtc::WebRTCSessionDescription = webrtcbin.property("local-description");
        let inside = [(sender, "sink"), (receiver, "src")].map(|(pipeline, name)| {
            let bin: gst::Bin = pipeline.element(name).downcast().unwrap();
            let all = bin.iterate_recurse().into_iter().flatten();
            all.filter_map(|e| Some(e.factory()?.name().to_string()))
                .collect()
        });
        Self {
            sender: sender.stats("sink"),
            receiver: receiver.stats("src"),
            answer: answer.sdp().as_text().unwrap(),
            wire: wire.lock().unwrap().clone(),
            inside,
            sounds: sound.count(),
        }
    }

    fn said(&self, field: &str) -> [glib::SendValue; 2] {
        [&self.sender, &self.receiver].map(|stats| {
            let negotiated = inner(stats, "negotiated");
            negotiated.value(field).unwrap().clone()
        })
    }

    /// Both ends say so.
    #[track_caller]
    fn both(&self, field: &str, absent: &str) -> Vec<bool> {
        let present = self.said(field).map(|value| match value.get::<bool>() {
            Ok(is) => is,
            Err(_) => value.get::<&str>().unwrap() != absent,
        });
        present.to_vec()
    }

    fn sends(&self, factory: &str) -> bool {
        self.inside[0].contains(factory)
    }

    fn receives(&self, factory: &str) -> bool {
        self.inside[1].contains(factory)
    }

    fn has(&self, text: &str) -> bool {
        self.answer.contains(text)
    }

    /// Packets of payload types with this name.
    fn packets(&self, name: &str) -> u64 {
        let types = self.answer.lines().filter_map(|line| {
            let (pt, codec) = line.strip_prefix("a=rtpmap:")?.split_once(' ')?;
            let codec = codec.to_ascii_lowercase();
            codec.starts_with(name).then(|| pt.parse::<u8>().unwrap())
        });
        let types: BTreeSet<_> = types.collect();
        types.iter().filter_map(|pt| self.wire.rtp.get(pt)).sum()
    }

    fn count(&self, part: &str, field: &str) -> u64 {
        inner(&self.sender, part)
            .get(field)
            .or_else(|_| inner(&self.receiver, part).get(field))
            .unwrap_or_default()
    }

    /// What speaks for a part being there, each by itself.
    fn evidence(&self, part: Part) -> Vec<bool> {
        let mut evidence = match part {
            Dual => self.both("dual-stream", ""),
            FrameFeedback => self.both("frame-feedback", ""),
            CongestionFeedback => self.both("congestion-feedback", "none"),
            Fec => self.both("fec", "none"),
            Retransmission => self.both("retransmission", ""),
            Audio => self.both("audio", ""),
            CaptureTime => self.both("abs-capture-time", ""),
            Estimator | Pacer | AdaptiveBuffer => Vec::new(),
        };
        let own = |stats: &gst::Structure, field: &str, wanted: &str| {
            inner(stats, "negotiated").get::<&str>(field) == Ok(wanted)
        };
        evidence.extend(match part {
            Dual => vec![
                self.sender.get("dual").unwrap(),
                self.count("encoder", "background-key-frames") > 0,
            ],
            FrameFeedback => vec![self.has("x-iframe-complete")],
            Estimator => vec![
                own(&self.sender, "congestion-control", "gcc"),
                self.sends("rtpgcc"),
                self.sender.has_field("estimator"),
            ],
            Pacer => vec![
                inner(&self.sender, "negotiated").get("pacing") == Ok(true),
                self.sends("rtppacer"),
                inner(&inner(&self.sender, "pacer"), "display")
                    .get::<u64>("sent-packets")
                    .is_ok_and(|sent| sent > 0),
            ],
            CongestionFeedback => vec![self.has("transport-cc"), self.wire.transport_cc > 0],
            Fec => {
                let flex = self.said("fec")[0].get::<&str>() == Ok("flexfec-03");
                vec![if flex {
                    self.count("fec-0", "fec-packets") > 0
                        && self.packets("flexfec-03") > 0
                        && self.count("fec-decoder", "fec-packets") > 0
                } else {
                    self.packets("red") > 0
                }]
            }
            Retransmission => vec![
                self.has("rtx/90000"),
                self.answer
                    .lines()
                    .any(|line| line.starts_with("a=rtcp-fb:") && line.ends_with(" nack")),
            ],
            AdaptiveBuffer => vec![
                own(&self.receiver, "jitter-buffer", "adaptive"),
                self.receives("rtpkalmanjitterbuffer"),
                !self.receives("rtpjitterbuffer"),
            ],
            Audio => vec![self.sounds > 0, self.packets("opus") > 0],
            CaptureTime => vec![
                self.has("abs-capture-time"),
                self.wire.extensions.contains_key(&5),
            ],
        });
        evidence
    }

    /// What is there; what speaks for it has one voice.
    #[track_caller]
    fn present(&self) -> BTreeSet<Part> {
        let is_there = |part: &Part| {
            let evidence = self.evidence(*part);
            let there = evidence.iter().all(|is| *is);
            assert!(
                there || !evidence.contains(&true),
                "{part:?} is half there: {evidence:?}\n{self:#?}"
            );
            there
        };
        ALL.into_iter().filter(is_there).collect()
    }
}

/// What the elements write to the log of what was negotiated.
struct Lines(Arc<Mutex<Vec<(String, String)>>>);

impl Lines {
    fn start() -> Self {
        let lines = Arc::<Mutex<Vec<_>>>::default();
        let to = lines.clone();
        if std::env::var_os("GST_DEBUG").is_none() {
            gst::log::set_threshold_for_name("dualwebrtc*", gst::DebugLevel::Info);
            gst::log::remove_default_log_function();
        }
        gst::log::add_log_function(move |category, level, _, _, _, _, message| {
            if let Some(text) = message.get()
                && text.starts_with("negotiated in session ")
                && level == gst::DebugLevel::Info
            {
                let text = text.to_string();
                to.lock().unwrap().push((category.name().to_owned(), text));
            }
        });
        Self(lines)
    }

    #[track_caller]
    fn one_of(&self, category: &str) -> String {
        let lines = self.0.lock().unwrap();
        let mut of = lines.iter().filter(|(from, _)| from == category);
        let line = of.next().expect("nothing in the log").1.clone();
        assert_eq!(of.next(), None, "more than one line of {category}");
        line
    }
}

/// The log is that of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When pictures came, and their time stamps.
fn watch_pictures(receiver: &Pipeline) -> Arc<Mutex<Vec<(Instant, u64)>>> {
    let pictures = Arc::<Mutex<Vec<_>>>::default();
    let to = pictures.clone();
    let pad = receiver.element("out").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let pts = info.buffer().unwrap().pts().unwrap().nseconds();
        to.lock().unwrap().push((Instant::now(), pts));
        gst::PadProbeReturn::Ok
    });
    pictures
}

/// In order, to the end, and without a hole.
#[track_caller]
fn assert_continuous(pictures: &[(Instant, u64)], repaired: bool) {
    let least = if repaired { 0.9 } else { 0.5 };
    assert!(
        pictures.len() as f64 >= least * PICTURES as f64 && pictures.len() as u64 <= PICTURES,
        "{} of {PICTURES} pictures",
        pictures.len()
    );
    for pair in pictures.windows(2) {
        assert!(pair[1].1 > pair[0].1, "not in order: {pair:?}");
        let pause = pair[1].0 - pair[0].0;
        assert!(pause < Duration::from_secs(1), "nothing for {pause:?}");
    }
    let shown = Duration::from_nanos(pictures[pictures.len() - 1].1 - pictures[0].1);
    let all = Duration::from_secs(1) * PICTURES as u32 / 30;
    assert!(
        shown > all - Duration::from_millis(600),
        "only {shown:?} of {all:?}"
    );
}

/// Runs the session, with these properties, and asserts that these parts are
/// absent and all others there.
#[track_caller]
fn run(sends: &str, receives: &str, absent: &[Part]) -> Observed {
    let _alone = alone();
    let wire = Arc::new(Mutex::new(Wire {
        state: 0x9e37_79b9_7f4a_7c15,
        ..Wire::default()
    }));
    let (sends, sound) = match sends {
        "no sound" => ("", ""),
        other => (other, SOUND),
    };
    let sender = sender(SOURCE, &format!("{SENDER} {sends} {sound}"));
    let lines = Lines::start();
    let at = wire.clone();
    at_session(&sender, "sink", "recv_rtcp_sink", move |packet| {
        at.lock().unwrap().on_rtcp(packet);
        false
    });
    let sender = sender.play();
    let receiver = Pipeline::new(&format!(
        "dualwebrtcsrc name=src signaller::uri={} {receives} src.src ! \
         fakesink name=out sync=false {}",
        uri(&sender, "sink"),
        if absent.contains(&Audio) {
            ""
        } else {
            "src.audio ! fakesink name=sound sync=false async=false"
        }
    ));
    let at = wire.clone();
    at_session(&receiver, "src", "recv_rtp_sink", move |packet| {
        at.lock().unwrap().on_rtp(packet)
    });
    let pictures = watch_pictures(&receiver);
    let sound = if absent.contains(&Audio) {
        Arc::default()
    } else {
        receiver.watch("sound")
    };
    let receiver = receiver.play();
    wait_for("most of the pictures to be sent", || {
        sender.stat::<u64>("sink", "pictures-encoded") >= PICTURES - LAST
    });
    let observed = Observed::take(&sender, &receiver, &wire, &sound);
    let present = observed.present();
    let missing: BTreeSet<_> = ALL.into_iter().filter(|p| !present.contains(p)).collect();
    assert_eq!(
        missing,
        absent.iter().copied().collect(),
        "what is not there: {observed:#?}"
    );
    sender.wait_eos();
    receiver.wait_eos();
    let wire = wire.lock().unwrap().clone();
    assert!(
        wire.lost >= 3,
        "few packets were lost: {wire:?}\n{observed:#?}"
    );
    let repaired = present.contains(&Fec) || present.contains(&Retransmission);
    assert_continuous(&pictures.lock().unwrap(), repaired);
    sender.assert_no_error();
    receiver.assert_no_error();
    for (category, name) in [
        ("dualwebrtcsink", Estimator),
        ("dualwebrtcsrc", AdaptiveBuffer),
    ] {
        assert_in_words(&lines.one_of(category), &present, name);
    }
    observed
}

/// `own`: is only told at one end.
#[track_caller]
fn assert_in_words(line: &str, present: &BTreeSet<Part>, own: Part) {
    let (_, words) = line
        .strip_prefix("negotiated in session ")
        .and_then(|rest| rest.split_once(": "))
        .unwrap();
    let (with, without) = words.split_once("without").unwrap_or((words, ""));
    let names: [(Part, &[&str]); 10] = [
        (Dual, &["dual stream"]),
        (FrameFeedback, &["frame feedback"]),
        (Estimator, &["rtpgcc"]),
        (Pacer, &["rtppacer"]),
        (CongestionFeedback, &["congestion feedback"]),
        (Fec, &["flexfec-03", "ulpfec", "FEC"]),
        (Retransmission, &["retransmission"]),
        (AdaptiveBuffer, &["adaptive jitter buffer"]),
        (Audio, &["audio"]),
        (CaptureTime, &["abs-capture-time"]),
    ];
    for (part, names) in names {
        if [Estimator, Pacer, AdaptiveBuffer].contains(&part)
            && (part == AdaptiveBuffer) != (own == AdaptiveBuffer)
        {
            continue;
        }
        let said = |text: &str| names.iter().any(|name| text.contains(name));
        let is = present.contains(&part);
        assert_eq!((said(with), said(without)), (is, !is), "{part:?}: {line}");
    }
}

#[test]
fn with_everything() {
    let seen = run("", "", &[]);
    assert!(seen.has("urn:x-gst-dualstream:frame:1"));
    assert!(seen.wire.frame_complete > 0, "{seen:#?}");
}

#[test]
fn without_the_dual_stream_of_the_sender() {
    let seen = run("dual-stream=false", "", &[Dual]);
    assert_eq!(seen.sender.get("reason"), Ok("dual-stream is off"));
    assert_eq!(seen.answer.matches("m=video").count(), 1);
}

#[test]
fn without_the_dual_stream_of_the_receiver() {
    let seen = run("", "dual-stream=false", &[Dual]);
    assert!(!seen.has("urn:x-gst-dualstream:frame:1"));
    assert_eq!(seen.count("encoder", "switches"), 0);
}

#[test]
fn without_the_frame_feedback_of_the_sender() {
    let seen = run("frame-feedback=false", "", &[FrameFeedback, Dual]);
    assert!(!seen.sends("rtcpiframefeedback"));
    assert_eq!(seen.wire.frame_complete, 0);
}

#[test]
fn without_the_frame_feedback_of_the_receiver() {
    let seen = run("", "frame-feedback=false", &[FrameFeedback, Dual]);
    assert!(!seen.receives("rtcpiframefeedback"));
    assert_eq!(seen.wire.frame_complete, 0);
}

/// There nothing would make room for FEC, unless it is asked for.
#[test]
fn without_congestion_control() {
    let off = "congestion-control=none fec=flexfec-03";
    run(off, "", &[Estimator, Pacer]);
}

#[test]
fn without_the_pacer() {
    let seen = run("pacing=false", "", &[Pacer]);
    assert!(seen.count("estimator", "received-packets") > 0, "{seen:#?}");
}

#[test]
fn without_feedback_to_congestion_control() {
    let seen = run("", "congestion-feedback=false", &[CongestionFeedback]);
    assert_eq!(seen.count("estimator", "received-packets"), 0, "{seen:#?}");
}

/// Then retransmissions do it.
#[track_caller]
fn assert_sent_again(seen: &Observed) {
    assert!(seen.wire.nack > 0 && seen.packets("rtx") > 0, "{seen:#?}");
    assert_eq!(seen.packets("flexfec-03"), 0);
}

#[test]
fn without_the_fec_of_the_sender() {
    let seen = run("fec=off", "", &[Fec]);
    assert!(!seen.sends("rtpflexfecenc"));
    assert_sent_again(&seen);
}

#[test]
fn without_the_fec_of_the_receiver() {
    let seen = run("", "fec=off", &[Fec]);
    assert!(!seen.receives("rtpflexfecdec"));
    assert_sent_again(&seen);
}

/// RED takes away the header extension that dual stream needs.
#[test]
fn with_ulpfec_in_place_of_flexfec() {
    let seen = run("fec=ulpfec", "fec=ulpfec", &[Dual]);
    assert_eq!(seen.said("fec")[1].get(), Ok("ulpfec"));
}

#[track_caller]
fn assert_not_sent_again(seen: &Observed) {
    assert_eq!((seen.wire.nack, seen.packets("rtx")), (0, 0), "{seen:#?}");
    for index in 0..2 {
        assert_eq!(seen.count(&format!("jitterbuffer-{index}"), "rtx-count"), 0);
    }
}

#[test]
fn without_the_retransmissions_of_the_sender() {
    let seen = run("do-retransmission=false", "", &[Retransmission]);
    assert_not_sent_again(&seen);
}

#[test]
fn without_the_retransmissions_of_the_receiver() {
    let seen = run("", "do-retransmission=false", &[Retransmission]);
    assert_not_sent_again(&seen);
}

#[test]
fn without_the_adaptive_jitter_buffer() {
    run("", "jitter-buffer=fixed", &[AdaptiveBuffer]);
}

#[test]
fn without_the_audio_of_the_sender() {
    run("no sound", "", &[Audio]);
}

#[test]
fn without_the_audio_of_the_receiver() {
    run("", "receive-audio=false", &[Audio]);
}

#[test]
fn without_the_time_of_capture_of_the_sender() {
    run("abs-capture-time=false", "", &[CaptureTime]);
}

#[test]
fn without_the_time_of_capture_of_the_receiver() {
    run("", "abs-capture-time=false", &[CaptureTime]);
}

#[test]
fn without_anything() {
    let seen = run(
        "dual-stream=false frame-feedback=false congestion-control=none fec=off \
         do-retransmission=false abs-capture-time=false",
        "dual-stream=false frame-feedback=false congestion-feedback=false fec=off \
         do-retransmission=false jitter-buffer=fixed receive-audio=false abs-capture-time=false",
        &ALL,
    );
    assert_not_sent_again(&seen);
    // One stream of H.264 and nothing else.
    assert_eq!(seen.wire.rtp.len(), 1, "{:?}", seen.wire);
}
