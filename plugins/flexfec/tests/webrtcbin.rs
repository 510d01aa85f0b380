// SPDX-License-Identifier: MPL-2.0
//! rtpflexfecenc with rtppacer and rtpgcc as what webrtcbin's signal
//! `request-aux-sender` returns, rtpflexfecdec behind rtpreddec of another
//! webrtcbin in the same process, with ICE and DTLS. Packets are lost in front
//! of the decoder.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use common::*;
use gst::glib;
use gst::prelude::*;
use gst_webrtc::{WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection, WebRTCSessionDescription};

const VIDEO: &str = "application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,rtcp-fb-nack-pli=(boolean)true,extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01,rtcp-fb-transport-cc=(boolean)true";

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

/// Puts the decoder behind rtpreddec.
fn insert_decoder(reddec: &gst::Element, dec: &gst::Element) {
    let bin: gst::Bin = reddec.parent().unwrap().downcast().unwrap();
    let ghost: gst::GhostPad = bin
        .src_pads()
        .into_iter()
        .find_map(|pad| pad.downcast().ok())
        .unwrap();
    bin.add(dec).unwrap();
    ghost.set_target(None::<&gst::Pad>).unwrap();
    reddec.link(dec).unwrap();
    ghost.set_target(dec.static_pad("src").as_ref()).unwrap();
    dec.sync_state_with_parent().unwrap();
}

struct Pair {
    pipeline: Pipeline,
    enc: gst::Element,
    dec: gst::Element,
    pacer: gst::Element,
    gcc: gst::Element,
    lost: Arc<Mutex<Option<Arc<AtomicU64>>>>,
    /// Targets that came to the payloader.
    targets: Arc<Mutex<Vec<u64>>>,
}

impl Pair {
    fn new(properties: &str) -> Self {
        init();
        gstgcc::plugin_register_static().unwrap();
        gstpacer::plugin_register_static().unwrap();
        let pipeline = Pipeline::new(&format!(
            "webrtcbin name=s bundle-policy=max-bundle webrtcbin name=r bundle-policy=max-bundle \
             videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180,framerate=30/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=500 \
             ! video/x-h264,profile=constrained-baseline \
             ! rtph264pay name=pay mtu=600 config-interval=-1 ! {VIDEO} ! queue ! s."
        ));
        let [sender, receiver] = ["s", "r"].map(|name| pipeline.get(name));
        let aux = gst::parse::bin_from_description(
            &format!(
                "rtpflexfecenc name=enc pt={FEC_PT} {properties} ! rtppacer name=pacer ! rtpgcc name=gcc"
            ),
            true,
        )
        .unwrap();
        let [enc, pacer, gcc] = ["enc", "pacer", "gcc"].map(|name| aux.by_name(name).unwrap());
        sender.connect("request-aux-sender", false, move |_| Some(aux.to_value()));
        let dec = gst::ElementFactory::make("rtpflexfecdec")
            .property("pt", u32::from(FEC_PT))
            .build()
            .unwrap();
        let lost = Arc::<Mutex<Option<Arc<AtomicU64>>>>::default();
        let (loses, decoder) = (lost.clone(), dec.clone());
        let deep = receiver.downcast_ref::<gst::Bin>().unwrap();
        deep.connect_deep_element_added(move |_, _, element| {
            let factory = element.factory().map(|f| f.name());
            match factory.as_deref() {
                Some("rtpreddec") if decoder.parent().is_none() => {
                    insert_decoder(element, &decoder);
                    let pad = element.static_pad("sink").unwrap();
                    *loses.lock().unwrap() = Some(lose_packets(&pad));
                }
                Some("rtpjitterbuffer") => element.set_property("rtx-delay-reorder", 0i32),
                _ => (),
            }
        });
        let targets = Arc::<Mutex<Vec<u64>>>::default();
        let told = targets.clone();
        pipeline.get("pay").static_pad("sink").unwrap().add_probe(
            gst::PadProbeType::EVENT_UPSTREAM,
            move |_, info| {
                let s = info.event().and_then(|e| e.structure());
                if let Some(s) = s.filter(|s| s.has_name(ESTIMATE)) {
                    told.lock().unwrap().push(s.get("target-bitrate").unwrap());
                }
                gst::PadProbeReturn::Ok
            },
        );
        connect(&pipeline, &sender, &receiver);
        Self {
            pipeline,
            enc,
            dec,
            pacer,
            gcc,
            lost,
            targets,
        }
    }

    fn lost(&self) -> u64 {
        let lost = self.lost.lock().unwrap();
        lost.as_ref().map_or(0, |lost| lost.load(Ordering::Relaxed))
    }

    fn recovered(&self) -> u64 {
        stat(&self.dec, "recovered")
    }

    /// Packets that the receiver has asked for again.
    fn requests(&self) -> u64 {
        let rtpbin: gst::Bin = self.pipeline.get("r").downcast().unwrap();
        let buffers = rtpbin.iterate_all_by_element_factory_name("rtpjitterbuffer");
        let counts = buffers.into_iter().flatten().map(|jitterbuffer| {
            let stats: gst::Structure = jitterbuffer.property("stats");
            stats.get::<u64>("rtx-count").unwrap()
        });
        counts.sum()
    }

    fn session(&self, name: &str) -> gst::Element {
        let webrtcbin = self.pipeline.get(name);
        let rtpbin = webrtcbin.downcast::<gst::Bin>().unwrap().by_name("rtpbin");
        rtpbin.unwrap().emit_by_name("get-session", &[&0u32])
    }

    fn assert_no_error(&self) {
        let bus = self.pipeline.0.bus().unwrap();
        let error = bus.pop_filtered(&[gst::MessageType::Error]);
        assert!(error.is_none(), "{error:?}");
    }
}

fn connect(pipeline: &Pipeline, sender: &gst::Element, receiver: &gst::Element) {
    let transceiver: WebRTCRTPTransceiver = sender.emit_by_name("get-transceiver", &[&0i32]);
    transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
    transceiver.set_property("do-nack", true);
    let preferences: gst::Caps = VIDEO.parse().unwrap();
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
    pipeline.play();
    wait_for("caps", || {
        let pads = sender.sink_pads();
        pads.len() == 1 && pads.iter().all(|pad| pad.current_caps().is_some())
    });
    negotiate(sender, receiver);
}

#[test]
fn losses_are_recovered_through_webrtcbin() {
    let pair = Pair::new("controller=fixed percentage=50 percentage-key=50");
    wait_for("recovered packets", || pair.recovered() > 30);
    // What was lost before the peers had keys is asked for, some of it often.
    let (lost, requests) = (pair.lost(), pair.requests());
    let media = stat(&pair.enc, "media-packets");
    assert!(
        requests < media / 2,
        "{requests} NACKs, {lost} of {media} were lost"
    );
    for none in ["fec-malformed", "malformed"] {
        assert_eq!(stat(&pair.dec, none), 0, "{none}");
    }
    assert_eq!(stat(&pair.enc, "malformed"), 0);
    // The transport-wide feedback is about FEC packets too, and its numbers
    // have no gaps at rtpgcc.
    let gcc = stats(&pair.gcc);
    let [sent, packets] = ["sent-packets", "packets"].map(|n| gcc.get::<u64>(n).unwrap());
    assert_eq!(sent, packets, "{gcc}");
    // The caps before them have told the pacer what they are.
    let fec: gst::Structure = stats(&pair.pacer).get("fec").unwrap();
    assert!(fec.get::<u64>("sent-packets").unwrap() > 30, "{fec}");
    // One stream only has come out at the receiver.
    let pads = pair.pipeline.get("r").src_pads();
    assert_eq!(pads.len(), 1, "no pad for FEC packets: {pads:?}");
    // The session knows the clock rate of FEC, and sends reports about it.
    let ssrc: u32 = pair.enc.property("ssrc");
    let session: glib::Object = pair.session("s").property("internal-session");
    let source: glib::Object = session.emit_by_name("get-source-by-ssrc", &[&ssrc]);
    let source: gst::Structure = source.property("stats");
    assert_eq!(source.get("clock-rate"), Ok(90_000i32), "{source}");
    assert!(source.get::<u64>("packets-sent").unwrap() > 30, "{source}");
    pair.assert_no_error();
}

/// Loss that the whole chain has to find out about.
#[test]
fn protection_follows_the_loss_that_feedback_tells_of() {
    let pair = Pair::new("nack=false");
    // Lost on the way to the receiver's session, so that it reports it.
    let receiving = pair.session("r").static_pad("recv_rtp_sink").unwrap();
    let _lost = lose_packets(&receiving);
    wait_for("recovered packets", || pair.recovered() > 5);
    let loss: f64 = stats(&pair.enc).get("loss").unwrap();
    assert!(loss > 0.02, "about a tenth is lost: {loss}");
    wait_for("a lower target at the payloader", || {
        let told = pair.targets.lock().unwrap().last().copied();
        let estimate: u64 = stats(&pair.gcc).get("target-bitrate").unwrap();
        told.is_some_and(|told| told < estimate)
    });
    pair.assert_no_error();
}
