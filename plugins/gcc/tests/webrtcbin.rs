// SPDX-License-Identifier: MPL-2.0
//! rtppacer and rtpgcc as what webrtcbin's signal `request-aux-sender`
//! returns: two webrtcbins in one process, with ICE and DTLS.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dualstream_common::Bitrate;
use gcc_core::remb::Remb;
use gst::glib;
use gst::prelude::*;
use gst_webrtc::{WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection, WebRTCSessionDescription};

const TWCC: &str = ",extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01,rtcp-fb-transport-cc=(boolean)true";
const VIDEO: &str = "application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,rtcp-fb-nack-pli=(boolean)true";
const PATIENCE: Duration = Duration::from_secs(30);

/// Goes to NULL whatever happens.
struct Pipeline(gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
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

#[track_caller]
fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Pair {
    pipeline: Pipeline,
    gcc: gst::Element,
    pacer: gst::Element,
    /// Names of the events that came upstream to the first payloader.
    seen: Arc<Mutex<Vec<gst::Structure>>>,
}

impl Pair {
    /// Two tracks of 300 kbit/s each in a bundle; `answer` is added to the caps
    /// that the receiver answers.
    fn new(answer: &str) -> Self {
        Self::with(TWCC, answer)
    }

    /// And `offer` to those that are sent.
    fn with(offer: &str, answer: &str) -> Self {
        gst::init().unwrap();
        gstgcc::plugin_register_static().unwrap();
        gstpacer::plugin_register_static().unwrap();
        let track = |n: u32| {
            format!(
                "videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 \
                 ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=300 \
                 ! video/x-h264,profile=constrained-baseline \
                 ! rtph264pay name=pay{n} config-interval=-1 ! {VIDEO}{offer} ! queue ! s. "
            )
        };
        let pipeline = Pipeline(
            gst::parse::launch(&format!(
                "webrtcbin name=s bundle-policy=max-bundle webrtcbin name=r bundle-policy=max-bundle \
                 {} {}",
                track(0),
                track(1)
            ))
            .unwrap()
            .downcast()
            .unwrap(),
        );
        let [sender, receiver] = ["s", "r"].map(|name| pipeline.0.by_name(name).unwrap());
        let aux = gst::parse::bin_from_description(
            "rtppacer name=pacer ! rtpgcc name=gcc max-bitrate=8000000",
            true,
        )
        .unwrap();
        let [pacer, gcc] = ["pacer", "gcc"].map(|name| aux.by_name(name).unwrap());
        sender.connect("request-aux-sender", false, move |_| Some(aux.to_value()));
        let seen = Arc::<Mutex<Vec<gst::Structure>>>::default();
        let events = seen.clone();
        let pay = pipeline.0.by_name("pay0").unwrap();
        pay.static_pad("sink").unwrap().add_probe(
            gst::PadProbeType::EVENT_UPSTREAM,
            move |_, info| {
                let s = info.event().and_then(|e| e.structure());
                events.lock().unwrap().extend(s.map(|s| s.to_owned()));
                gst::PadProbeReturn::Ok
            },
        );
        for line in 0..2i32 {
            let transceiver: WebRTCRTPTransceiver =
                sender.emit_by_name("get-transceiver", &[&line]);
            transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
            transceiver.set_property("do-nack", true);
        }
        let preferences: gst::Caps = format!("{VIDEO}{answer}").parse().unwrap();
        receiver.connect("on-new-transceiver", false, move |values| {
            let transceiver: WebRTCRTPTransceiver = values[1].get().unwrap();
            transceiver.set_property("do-nack", true);
            transceiver.set_property("codec-preferences", &preferences);
            None
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
            pads.len() == 2 && pads.iter().all(|pad| pad.current_caps().is_some())
        });
        negotiate(&sender, &receiver);
        let pair = Self {
            pipeline,
            gcc,
            pacer,
            seen,
        };
        pair.session("r")
            .property::<glib::Object>("internal-session")
            .set_property("rtcp-min-interval", 0u64);
        pair
    }

    fn session(&self, name: &str) -> gst::Element {
        let webrtcbin = self.pipeline.0.by_name(name).unwrap();
        let rtpbin = webrtcbin.downcast::<gst::Bin>().unwrap().by_name("rtpbin");
        rtpbin.unwrap().emit_by_name("get-session", &[&0u32])
    }

    fn stats(&self) -> gst::Structure {
        self.gcc.property("stats")
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats().get(name).unwrap()
    }

    fn seen(&self, name: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|s| s.name() == name).count()
    }
}

const ESTIMATE: &str = "application/x-network-estimate";

#[test]
fn the_estimate_reaches_encoders_and_follows_feedback_and_remb() {
    let pair = Pair::new(TWCC);
    wait_for("feedback", || pair.stat("received-packets") > 200);
    // Up from 300 kbit/s by probes: there is no bottleneck.
    wait_for("a higher estimate", || {
        pair.stat("target-bitrate") > 1_500_000
    });
    // Reports are waited for in the other test: rtpsession puts a regular report
    // off at each early packet, so a receiver on a busy machine that has
    // feedback to send all the time may send none for as long as it runs.
    wait_for("a round-trip time and probes that were answered", || {
        pair.stat("rtt") > 0 && pair.stat("probe-results") > 0
    });
    for none in ["realigned", "malformed", "unknown-reports"] {
        assert_eq!(pair.stat(none), 0, "{none} of {}", pair.stats());
    }
    let stats = pair.stats();
    assert_eq!(
        stats.get::<u64>("sent-packets"),
        stats.get::<u64>("packets")
    );
    wait_for("completed probes", || {
        let pacer: gst::Structure = pair.pacer.property("stats");
        pacer.get::<u64>("probes-completed").unwrap() > 0
    });
    wait_for("estimates at the payloader", || pair.seen(ESTIMATE) > 1);
    wait_for("unconsumed feedback", || pair.seen("RTPTWCCPackets") > 3);

    // A receiver that bounds it.
    let session = pair.session("r");
    let rtcp = session.static_pad("send_rtcp_src").unwrap();
    wait_for("RTCP", || rtcp.current_caps().is_some());
    let remb = Remb {
        bitrate: Bitrate::from_kbps(700),
        ssrcs: vec![1, 2],
    };
    rtcp.push(gst::Buffer::from_mut_slice(remb.to_packet(7)))
        .unwrap();
    wait_for("the bound", || {
        pair.stat("remb") == 1 && pair.stat("target-bitrate") <= 700_000
    });
    let below = |s: &gst::Structure| s.get::<u64>("target-bitrate").is_ok_and(|t| t <= 700_000);
    wait_for("the bound at the payloader", || {
        let seen = pair.seen.lock().unwrap();
        seen.iter()
            .rfind(|s| s.name() == ESTIMATE)
            .is_some_and(below)
    });

    // A key frame asked for by the receiver still gets to the encoder. The
    // session may drop a request that it cannot send soon, so it is repeated.
    let before = pair.seen("GstForceKeyUnit");
    let pads = pair.pipeline.0.by_name("r").unwrap().src_pads();
    wait_for("the request", || {
        for pad in &pads {
            let s = gst::Structure::builder("GstForceKeyUnit")
                .field("all-headers", true)
                .build();
            pad.send_event(gst::event::CustomUpstream::new(s));
        }
        std::thread::sleep(Duration::from_millis(100));
        pair.seen("GstForceKeyUnit") > before
    });
    let bus = pair.pipeline.0.bus().unwrap();
    let error = bus.pop_filtered(&[gst::MessageType::Error]);
    assert!(error.is_none(), "{error:?}");
}

#[test]
fn a_peer_without_feedback_leaves_encoders_and_pacer_alone() {
    let pair = Pair::new("");
    wait_for("packets and reports", || {
        pair.stat("packets") > 150 && pair.stat("reports") > 2
    });
    assert_eq!(pair.seen(ESTIMATE), 0);
    assert_eq!((pair.stat("estimates"), pair.stat("probes")), (0, 0));
    let pacer: gst::Structure = pair.pacer.property("stats");
    assert_eq!(pacer.get("pacing-bitrate"), Ok(u64::MAX), "nothing is held");
}

/// REMB was negotiated, and none comes.
#[test]
fn where_remb_is_expected_the_rate_rises_with_reports_until_there_is_one() {
    let pair = Pair::with("", "");
    pair.gcc.set_property("expect-feedback", true);
    let start = u64::from(pair.gcc.property::<u32>("start-bitrate"));
    wait_for("three reports without loss", || {
        pair.stat("target-bitrate") > start * 115 / 100
    });
    assert_eq!(pair.stats().get("cause"), Ok("loss".to_string()));
    assert_eq!((pair.stat("sent-packets"), pair.stat("probes")), (0, 0));
    wait_for("estimates at the payloader", || pair.seen(ESTIMATE) > 2);

    let rtcp = pair.session("r").static_pad("send_rtcp_src").unwrap();
    let remb = Remb {
        bitrate: Bitrate::from_kbps(200),
        ssrcs: Vec::new(),
    };
    rtcp.push(gst::Buffer::from_mut_slice(remb.to_packet(7)))
        .unwrap();
    wait_for("the peer's estimate", || {
        pair.stat("target-bitrate") <= 200_000
    });
    assert_eq!(pair.stats().get("cause"), Ok("remb".to_string()));
}
