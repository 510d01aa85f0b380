// SPDX-License-Identifier: MPL-2.0
//! rtpremb alone, and between a sender that only understands REMB and its
//! receiver.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::time::{Duration, Instant};

use gcc_core::remb::Remb;
use gst::glib;
use gst::prelude::*;
use gst_check::Harness;
use gst_webrtc::{WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection, WebRTCSessionDescription};

const ABS: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
const ID: u8 = 2;
const PATIENCE: Duration = Duration::from_secs(30);

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        // Before GLib reads it, and no thread of ours is there yet.
        unsafe { std::env::set_var("G_DEBUG", "fatal-warnings") };
        gst::init().unwrap();
        gstgcc::plugin_register_static().unwrap();
    });
}

/// The extension's 24 bits.
fn abs_send_time(nanos: u64) -> u32 {
    ((u128::from(nanos) << 18) / 1_000_000_000) as u32 & 0xff_ffff
}

fn now() -> u64 {
    gst::SystemClock::obtain().time().nseconds()
}

/// With `extension` as the data of the header extension, padded.
fn packet(ssrc: u32, extension: &[u8], payload: usize) -> gst::Buffer {
    let mut data = vec![0x90, 96, 0, 0, 0, 0, 0, 0];
    data.extend(ssrc.to_be_bytes());
    let words = extension.len().div_ceil(4);
    data.extend([0xbe, 0xde, 0, words as u8]);
    data.extend(extension);
    data.resize(16 + 4 * words + payload, 0);
    gst::Buffer::from_mut_slice(data)
}

fn timed(ssrc: u32, sent: u64, payload: usize) -> gst::Buffer {
    let mut extension = abs_send_time(sent).to_be_bytes();
    extension[0] = ID << 4 | 2;
    packet(ssrc, &extension, payload)
}

fn caps(extmap: &str) -> gst::Caps {
    gst::Caps::builder("application/x-rtp")
        .field("payload", 96i32)
        .field("clock-rate", 90_000i32)
        .field(format!("extmap-{ID}"), extmap)
        .build()
}

struct Fixture {
    element: gst::Element,
    h: Harness,
}

impl Fixture {
    fn new() -> Self {
        init();
        let element = gst::ElementFactory::make("rtpremb").build().unwrap();
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.set_src_caps(caps(ABS));
        h.play();
        Self { element, h }
    }

    fn stats(&self) -> gst::Structure {
        self.element.property("stats")
    }

    #[track_caller]
    fn stat(&self, name: &str) -> u64 {
        let stats = self.stats();
        stats.get(name).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    #[track_caller]
    fn check_kinds(&self, timed: u64, untimed: u64, malformed: u64) {
        let kinds = ["timed-packets", "untimed-packets", "malformed"].map(|k| self.stat(k));
        assert_eq!(kinds, [timed, untimed, malformed], "{}", self.stats());
        assert_eq!(self.stat("packets"), timed + untimed + malformed);
    }

    /// 8 packets of 1000 bytes each 10 ms: 6.4 Mbit/s and more.
    fn stream(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for ssrc in 0..8 {
                self.h.push(timed(ssrc, now(), 952)).unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn buffers_and_lists_pass_untouched() {
    let mut f = Fixture::new();
    let buffer = timed(1, 0, 100);
    let address = buffer.as_ptr();
    f.h.push(buffer).unwrap();
    assert_eq!(f.h.try_pull().expect("at once").as_ptr(), address);
    let lists = Arc::<Mutex<Vec<usize>>>::default();
    let seen = lists.clone();
    f.element.static_pad("src").unwrap().add_probe(
        gst::PadProbeType::BUFFER_LIST,
        move |_, info| {
            seen.lock()
                .unwrap()
                .extend(info.buffer_list().map(|l| l.len()));
            gst::PadProbeReturn::Ok
        },
    );
    let list: gst::BufferList = (0..3).map(|n| timed(n, 0, 100)).collect();
    let sink = f.element.static_pad("sink").unwrap();
    assert_eq!(sink.chain_list(list), Ok(gst::FlowSuccess::Ok));
    assert_eq!(*lists.lock().unwrap(), [3], "as one list");
    f.check_kinds(4, 0, 0);
    assert_eq!(f.stat("bytes"), 4 * (100 + 20 + 28));
}

#[test]
fn events_and_queries_pass_both_ways() {
    let mut f = Fixture::new();
    f.h.push(timed(1, 0, 100)).unwrap();
    f.h.push_event(gst::event::Gap::new(gst::ClockTime::ZERO, None));
    f.h.push_event(gst::event::FlushStart::new());
    f.h.push_event(gst::event::FlushStop::new(false));
    f.h.push_event(gst::event::Eos::new());
    let types: Vec<_> =
        std::iter::from_fn(|| f.h.try_pull_event().map(|event| event.type_())).collect();
    use gst::EventType::*;
    let expected = [StreamStart, Caps, Segment, Gap, FlushStart, FlushStop, Eos];
    assert_eq!(types, expected);
    while f.h.try_pull_upstream_event().is_some() {}
    let s = gst::Structure::new_empty("GstForceKeyUnit");
    assert!(f.h.push_upstream_event(gst::event::CustomUpstream::new(s)));
    assert!(f.h.try_pull_upstream_event().is_some());
    f.h.set_upstream_latency(gst::ClockTime::from_mseconds(7));
    assert_eq!(f.h.query_latency(), Some(gst::ClockTime::from_mseconds(7)));
}

#[test]
fn the_id_is_read_from_both_forms_of_caps_and_kept() {
    let mut f = Fixture::new();
    assert_eq!(f.stats().get("extension-id"), Ok(u32::from(ID)));
    let array = gst::Array::new(["", ABS, ""]);
    let other = gst::Caps::builder("application/x-rtp")
        .field("extmap-7", array)
        .build();
    f.h.set_src_caps(other);
    assert_eq!(f.stats().get("extension-id"), Ok(7u32));
    f.h.set_src_caps(caps("urn:ietf:params:rtp-hdrext:sdes:mid"));
    assert_eq!(f.stats().get("extension-id"), Ok(7u32));
    f.h.push(timed(1, 0, 0)).unwrap();
    f.h.push(packet(1, &[0x72, 1, 2, 3], 0)).unwrap();
    f.check_kinds(1, 1, 0);
}

#[test]
fn each_malformed_packet_is_counted_and_passes() {
    let mut f = Fixture::new();
    let good = timed(1, 0, 8);
    let good = good.map_readable().unwrap().to_vec();
    for cut in 0..good.len() {
        f.h.push(gst::Buffer::from_mut_slice(good[..cut].to_vec()))
            .unwrap();
        assert_eq!(f.h.pull().unwrap().size(), cut);
    }
    // The 20 bytes of the header are cut, and what follows is payload.
    f.check_kinds(8, 0, 20);
    // Lengths other than 3.
    for length in [0u8, 1, 3, 15] {
        let mut extension = vec![ID << 4 | length];
        extension.resize(20, 0);
        f.h.push(packet(1, &extension, 8)).unwrap();
    }
    f.check_kinds(8, 0, 24);
    // Past the end of the extension, behind its terminator, and none at all.
    for extension in [&[0, 0, 0, ID << 4 | 2][..], &[0xf0, ID << 4 | 2, 0, 0], &[]] {
        f.h.push(packet(1, extension, 8)).unwrap();
    }
    assert_eq!(f.stat("timed-packets"), 8, "{}", f.stats());
    let before = f.stat("packets");
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut bytes = good.clone();
            bytes[at] = value;
            f.h.push(gst::Buffer::from_mut_slice(bytes)).unwrap();
        }
    }
    assert_eq!(f.stat("packets") - before, 256 * good.len() as u64);
}

#[test]
fn the_estimate_is_notified_and_keeps_to_limits_that_change_while_playing() {
    let mut f = Fixture::new();
    assert_eq!(f.element.property::<u32>("estimated-bitrate"), 300_000);
    let (send, notified) = mpsc::channel();
    f.element
        .connect_notify(Some("estimated-bitrate"), move |element, _| {
            let _ = send.send(element.property::<u32>("estimated-bitrate"));
        });
    f.stream(Duration::from_millis(400));
    let first = notified.recv_timeout(PATIENCE).unwrap();
    assert!(first >= 30_000);
    assert!(f.stat("bitrate") > 0 && f.stat("received-bitrate") > 0);
    f.element.set_property("max-bitrate", 400_000u32);
    f.stream(Duration::from_millis(200));
    assert_eq!(f.element.property::<u32>("estimated-bitrate"), 400_000);
    f.element.set_property("max-bitrate", 10_000_000u32);
    f.element.set_property("min-bitrate", 9_000_000u32);
    f.stream(Duration::from_millis(200));
    assert!(f.element.property::<u32>("estimated-bitrate") >= 9_000_000);
    // There is no session.
    assert_eq!(f.stat("remb"), 0);
    assert_eq!(f.stats().get("session"), Ok(false));
}

#[test]
fn statistics_begin_anew_with_each_start() {
    let mut f = Fixture::new();
    for _ in 0..3 {
        f.h.push(timed(1, now(), 100)).unwrap();
        f.check_kinds(1, 0, 0);
        f.element.set_state(gst::State::Ready).unwrap();
        f.check_kinds(0, 0, 0);
        assert_eq!(f.element.property::<u32>("estimated-bitrate"), 300_000);
        f.element.set_state(gst::State::Null).unwrap();
        f.h.play();
        f.h.set_src_caps(caps(ABS));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        f.h.push_event(gst::event::Segment::new(&segment));
    }
}

/// Goes to NULL whatever happens.
struct Pipeline(gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Pipeline {
    fn new(description: &str) -> Self {
        init();
        Self(gst::parse::launch(description).unwrap().downcast().unwrap())
    }

    fn get(&self, name: &str) -> gst::Element {
        self.0.by_name(name).unwrap()
    }

    fn stats(&self, name: &str) -> gst::Structure {
        self.get(name).property("stats")
    }

    fn stat(&self, name: &str, field: &str) -> u64 {
        self.stats(name).get(field).unwrap()
    }

    fn check_no_error(&self) {
        let error = self
            .0
            .bus()
            .unwrap()
            .pop_filtered(&[gst::MessageType::Error]);
        assert!(error.is_none(), "{error:?}");
    }
}

#[track_caller]
fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As no payloader of GStreamer 1.22 does: writes the time into what passes.
/// What is written is `delay` ns ago, as if packets had been on the way for so
/// long.
fn write_times(pad: &gst::Pad, delay: Arc<AtomicU64>) {
    let stamped = move |buffer: &gst::BufferRef| {
        let map = buffer.map_readable().unwrap();
        assert_eq!(map[0], 0x80, "neither CSRCs nor extensions yet");
        let mut time = abs_send_time(now() - delay.load(Ordering::Relaxed)).to_be_bytes();
        time[0] = ID << 4 | 2;
        let data = [&[0x90], &map[1..12], &[0xbe, 0xde, 0, 1], &time, &map[12..]].concat();
        let mut stamped = gst::Buffer::from_mut_slice(data);
        let flags = gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::FLAGS;
        buffer
            .copy_into(stamped.get_mut().unwrap(), flags, ..)
            .unwrap();
        stamped
    };
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(kinds, move |_, info| {
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => *buffer = stamped(buffer),
            Some(gst::PadProbeData::BufferList(list)) => {
                *list = list.iter().map(&stamped).collect();
            }
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
}

/// Ports that nobody has just now, all at once so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

const VIDEO: &str = "application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000";

#[derive(Clone, Copy, PartialEq)]
enum Place {
    AuxReceiver,
    /// The caps lack the extension, the session's map has it.
    AuxReceiverByMap,
    InFront,
}

/// Two rtpbins over UDP on the loopback.
struct Session {
    sender: Pipeline,
    receiver: Pipeline,
    /// What the sender has heard, and when.
    heard: Arc<Mutex<Vec<(Instant, Remb)>>>,
    /// Of what is written for the departure.
    delay: Arc<AtomicU64>,
}

/// The estimate is at most 250 kbit/s.
fn session(place: Place) -> Session {
    let [rtp, rtcp, back] = free_ports();
    let udpsink = "udpsink host=127.0.0.1 sync=false async=false";
    let sender = Pipeline::new(&format!(
        "rtpbin name=s rtp-profile=avpf \
         videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 bitrate=300 \
         ! rtph264pay name=pay ssrc=1234567 config-interval=-1 ! rtpgcc name=gcc ! s.send_rtp_sink_0 \
         s.send_rtp_src_0 ! {udpsink} port={rtp} \
         s.send_rtcp_src_0 ! {udpsink} port={rtcp} \
         udpsrc address=127.0.0.1 port={back} ! s.recv_rtcp_sink_0"
    ));
    let delay = Arc::<AtomicU64>::default();
    write_times(&sender.get("pay").static_pad("src").unwrap(), delay.clone());
    let extmap = format!(",extmap-{ID}=(string){ABS}");
    let (caps, front) = match place {
        Place::AuxReceiver => (format!("{VIDEO}{extmap}"), ""),
        // With a payload type in them rtpbin would take these for the map's.
        Place::AuxReceiverByMap => ("application/x-rtp".to_owned(), ""),
        Place::InFront => (
            format!("{VIDEO}{extmap}"),
            "rtpremb name=remb max-bitrate=250000 ! queue !",
        ),
    };
    // The aux bin is asked for when the pads are linked.
    let receiver = Pipeline(gst::Pipeline::new());
    let rtpbin = gst::ElementFactory::make("rtpbin")
        .property_from_str("rtp-profile", "avpf")
        .property("latency", 20u32)
        .build()
        .unwrap();
    receiver.0.add(&rtpbin).unwrap();
    if place != Place::InFront {
        rtpbin.connect("request-aux-receiver", false, |values| {
            let id: u32 = values[1].get().unwrap();
            let remb = gst::ElementFactory::make("rtpremb")
                .name("remb")
                .property("max-bitrate", 250_000u32)
                .build()
                .unwrap();
            let bin = gst::Bin::new();
            bin.add(&remb).unwrap();
            for name in ["sink", "src"] {
                let pad = remb.static_pad(name).unwrap();
                let ghost = gst::GhostPad::builder_with_target(&pad)
                    .unwrap()
                    .name(format!("{name}_{id}"))
                    .build();
                bin.add_pad(&ghost).unwrap();
            }
            Some(bin.to_value())
        });
    }
    let map: gst::Caps = format!("{VIDEO}{extmap}").parse().unwrap();
    rtpbin.connect("request-pt-map", false, move |_| {
        Some(Some(map.clone()).to_value())
    });
    let part = |description: String| {
        let bin = gst::parse::bin_from_description(&description, true).unwrap();
        receiver.0.add(&bin).unwrap();
        bin
    };
    let front = front.trim_end_matches(" !");
    let middle = if front.is_empty() { "identity" } else { front };
    let media = part(format!(
        "udpsrc address=127.0.0.1 port={rtp} caps=\"{caps}\" ! {middle}"
    ));
    media
        .link_pads(Some("src"), &rtpbin, Some("recv_rtp_sink_0"))
        .unwrap();
    let reports = part(format!("udpsrc address=127.0.0.1 port={rtcp}"));
    reports
        .link_pads(Some("src"), &rtpbin, Some("recv_rtcp_sink_0"))
        .unwrap();
    let out = part(format!("{udpsink} port={back}"));
    rtpbin
        .link_pads(Some("send_rtcp_src_0"), &out, Some("sink"))
        .unwrap();
    let end = part("rtph264depay ! fakesink sync=false async=false".into());
    rtpbin.connect_pad_added(move |_, pad| {
        if pad.name().starts_with("recv_rtp_src") {
            pad.link(&end.static_pad("sink").unwrap()).unwrap();
        }
    });

    let heard = Arc::<Mutex<Vec<(Instant, Remb)>>>::default();
    let rembs = heard.clone();
    let session: glib::Object = sender
        .get("s")
        .emit_by_name("get-internal-session", &[&0u32]);
    session.connect("on-feedback-rtcp", false, move |values| {
        let [kind, format] = [1, 2].map(|n| values[n].get::<u32>().unwrap());
        assert_eq!((kind, format), (206, 15));
        let fci: gst::Buffer = values[5].get().unwrap();
        let remb = Remb::parse(&fci.map_readable().unwrap()).unwrap();
        rembs.lock().unwrap().push((Instant::now(), remb));
        None
    });
    receiver.0.set_state(gst::State::Playing).unwrap();
    sender.0.set_state(gst::State::Playing).unwrap();
    Session {
        sender,
        receiver,
        heard,
        delay,
    }
}

fn check_session(place: Place) {
    let Session {
        sender,
        receiver,
        heard,
        ..
    } = session(place);
    wait_for("three messages", || heard.lock().unwrap().len() >= 3);
    for (_, remb) in heard.lock().unwrap().iter() {
        assert_eq!(remb.ssrcs, [1_234_567]);
        let bps = remb.bitrate.as_bps();
        assert!((30_000..=250_000).contains(&bps), "{bps}");
    }
    wait_for("the bound at the sender", || {
        sender.stat("gcc", "remb") >= 3 && sender.stat("gcc", "target-bitrate") <= 250_000
    });
    let stats = receiver.stats("remb");
    for none in ["malformed", "send-failed"] {
        assert_eq!(stats.get(none), Ok(0u64), "{stats}");
    }
    assert!(stats.get::<u64>("remb").unwrap() >= 3);
    assert!(stats.get::<u64>("timed-packets").unwrap() > 30, "{stats}");
    assert_eq!(stats.get("session"), Ok(true));
    sender.check_no_error();
    receiver.check_no_error();
}

#[test]
fn remb_reaches_the_sender_from_an_aux_receiver() {
    check_session(Place::AuxReceiver);
}

#[test]
fn the_id_may_be_in_the_map_of_the_session() {
    check_session(Place::AuxReceiverByMap);
}

#[test]
fn remb_reaches_the_sender_from_in_front_of_rtpbin() {
    check_session(Place::InFront);
}

#[test]
fn a_fall_is_told_at_once_and_otherwise_each_second() {
    let s = session(Place::AuxReceiver);
    let count = || s.heard.lock().unwrap().len();
    wait_for("four messages", || count() >= 4);
    let gaps: Vec<Duration> = {
        let heard = s.heard.lock().unwrap();
        let last = &heard[heard.len() - 3..];
        last.windows(2).map(|w| w[1].0 - w[0].0).collect()
    };
    let second = Duration::from_millis(900)..Duration::from_millis(1900);
    assert!(gaps.iter().all(|gap| second.contains(gap)), "{gaps:?}");
    // A queue that grows by about a third of the time.
    let fallen = || {
        let heard = s.heard.lock().unwrap();
        heard.windows(2).any(|w| {
            let bps = [&w[0], &w[1]].map(|h| h.1.bitrate.as_bps() as f64);
            bps[1] < 0.97 * bps[0] && w[1].0 - w[0].0 < Duration::from_millis(900)
        })
    };
    assert!(!fallen(), "there was no queue yet");
    wait_for("an early message", || {
        s.delay.fetch_add(2_000_000, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
        fallen()
    });
    let stats = s.receiver.stats("remb");
    assert!(stats.get::<u64>("queue").unwrap() > 0, "{stats}");
}

/// webrtcbin answers `request-aux-receiver` itself: behind its rtpreddec there
/// is room.
#[test]
fn remb_goes_from_one_webrtcbin_to_the_other() {
    init();
    let extmap = format!(",extmap-{ID}=(string){ABS}");
    let pipeline = Pipeline::new(&format!(
        "webrtcbin name=s bundle-policy=max-bundle webrtcbin name=r bundle-policy=max-bundle \
         videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=300 \
         ! video/x-h264,profile=constrained-baseline \
         ! rtph264pay config-interval=-1 ! {VIDEO}{extmap} ! queue ! s. "
    ));
    let [sender, receiver] = ["s", "r"].map(|name| pipeline.get(name));
    let aux = gst::parse::bin_from_description("identity name=times ! rtpgcc name=gcc", true);
    let aux = aux.unwrap();
    write_times(
        &aux.by_name("times").unwrap().static_pad("src").unwrap(),
        Arc::default(),
    );
    sender.connect("request-aux-sender", false, move |_| Some(aux.to_value()));
    let transceiver: WebRTCRTPTransceiver = sender.emit_by_name("get-transceiver", &[&0i32]);
    transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
    let preferences: gst::Caps = format!("{VIDEO}{extmap}").parse().unwrap();
    receiver.connect("on-new-transceiver", false, move |values| {
        let transceiver: WebRTCRTPTransceiver = values[1].get().unwrap();
        transceiver.set_property("codec-preferences", &preferences);
        None
    });
    let bin: gst::Bin = receiver.clone().downcast().unwrap();
    bin.connect_deep_element_added(|_, bin, element| {
        if element.factory().is_none_or(|f| f.name() != "rtpreddec") {
            return;
        }
        let target = element.static_pad("src").unwrap();
        let ghost = bin
            .src_pads()
            .into_iter()
            .filter_map(|pad| pad.downcast::<gst::GhostPad>().ok())
            .find(|pad| pad.target().as_ref() == Some(&target));
        let Some(ghost) = ghost else { return };
        let remb = gst::ElementFactory::make("rtpremb")
            .name("remb")
            .property("start-bitrate", 200_000u32)
            .property("max-bitrate", 250_000u32)
            .build()
            .unwrap();
        bin.add(&remb).unwrap();
        ghost.set_target(None::<&gst::Pad>).unwrap();
        target.link(&remb.static_pad("sink").unwrap()).unwrap();
        ghost.set_target(remb.static_pad("src").as_ref()).unwrap();
        remb.sync_state_with_parent().unwrap();
    });
    let weak = pipeline.0.downgrade();
    receiver.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else {
            return;
        };
        if pad.direction() == gst::PadDirection::Src {
            let sink = gst::ElementFactory::make("fakesink")
                .property("async", false)
                .build()
                .unwrap();
            pipeline.add(&sink).unwrap();
            sink.sync_state_with_parent().unwrap();
            pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        }
    });
    pipeline.0.set_state(gst::State::Playing).unwrap();
    wait_for("caps", || {
        let pads = sender.sink_pads();
        pads.iter().all(|pad| pad.current_caps().is_some())
    });
    negotiate(&sender, &receiver);
    wait_for("REMB at the sender", || {
        pipeline.0.by_name("gcc").is_some() && pipeline.stat("gcc", "remb") >= 2
    });
    wait_for("the bound", || {
        pipeline.stat("gcc", "target-bitrate") <= 250_000
    });
    let stats = pipeline.stats("remb");
    for none in ["malformed", "send-failed"] {
        assert_eq!(stats.get(none), Ok(0u64), "{stats}");
    }
    pipeline.check_no_error();
}

#[track_caller]
fn ask(webrtc: &gst::Element, signal: &str, first: &dyn ToValue) -> Option<gst::Structure> {
    let (send, reply) = mpsc::channel();
    let promise = gst::Promise::with_change_func(move |reply| {
        let reply = reply.expect("webrtcbin replies");
        send.send(reply.map(|s| s.to_owned())).unwrap();
    });
    webrtc.emit_by_name::<()>(signal, &[first, &promise]);
    reply.recv_timeout(PATIENCE).expect(signal)
}

#[track_caller]
fn create(webrtc: &gst::Element, signal: &str, field: &str) -> WebRTCSessionDescription {
    let reply = ask(webrtc, signal, &None::<gst::Structure>).expect(signal);
    reply
        .get(field)
        .unwrap_or_else(|_| panic!("{signal}: {reply}"))
}

fn negotiate(sender: &gst::Element, receiver: &gst::Element) {
    for (from, to) in [(sender, receiver), (receiver, sender)] {
        let to = to.downgrade();
        from.connect("on-ice-candidate", false, move |values| {
            let to = to.upgrade()?;
            let line: u32 = values[1].get().unwrap();
            let candidate: String = values[2].get().unwrap();
            to.emit_by_name::<()>("add-ice-candidate", &[&line, &candidate]);
            None
        });
    }
    let offer = create(sender, "create-offer", "offer");
    ask(sender, "set-local-description", &offer);
    ask(receiver, "set-remote-description", &offer);
    let answer = create(receiver, "create-answer", "answer");
    ask(receiver, "set-local-description", &answer);
    ask(sender, "set-remote-description", &answer);
}
