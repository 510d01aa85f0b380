// SPDX-License-Identifier: MPL-2.0
//! rtppacer as what webrtcbin's signal `request-aux-sender` returns: two
//! webrtcbins in one process, with ICE and DTLS, video and audio in a bundle.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst_webrtc::{WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection, WebRTCSessionDescription};

const TWCC: &str = "extmap-3=(string)http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01,rtcp-fb-transport-cc=(boolean)true,rtcp-fb-nack=(boolean)true";
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

/// Payload types that transport-wide feedback says have arrived.
fn arrived(event: &gst::Event) -> Vec<u8> {
    let Some(s) = event.structure().filter(|s| s.has_name("RTPTWCCPackets")) else {
        return Vec::new();
    };
    let packets = s.get::<glib::ValueArray>("packets").unwrap();
    packets
        .iter()
        .filter_map(|v| {
            let s = v.get::<gst::Structure>().ok()?;
            let lost = s.get::<bool>("lost").unwrap_or(true);
            (!lost).then(|| s.get::<u8>("payload-type").ok())?
        })
        .collect()
}

#[test]
fn media_and_padding_cross_webrtcbin() {
    gst::init().unwrap();
    gstpacer::plugin_register_static().unwrap();
    let video = format!(
        "application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000,{TWCC}"
    );
    let audio = format!(
        "application/x-rtp,media=audio,encoding-name=OPUS,payload=111,clock-rate=48000,{TWCC}"
    );
    let pipeline = Pipeline(
        gst::parse::launch(&format!(
            "webrtcbin name=s bundle-policy=max-bundle webrtcbin name=r bundle-policy=max-bundle \
             videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=300 \
             ! video/x-h264,profile=constrained-baseline ! rtph264pay config-interval=-1 \
             ! {video} ! queue ! s. \
             audiotestsrc is-live=true ! opusenc ! rtpopuspay ! {audio} ! queue ! s."
        ))
        .unwrap()
        .downcast()
        .unwrap(),
    );
    let [sender, receiver] = ["s", "r"].map(|name| pipeline.0.by_name(name).unwrap());
    let pacer = gst::ElementFactory::make("rtppacer")
        .property("bitrate", 2_000_000u64)
        .build()
        .unwrap();
    let aux = pacer.clone();
    sender.connect("request-aux-sender", false, move |_| Some(aux.to_value()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let pts = seen.clone();
    pacer.static_pad("src").unwrap().add_probe(
        gst::PadProbeType::EVENT_UPSTREAM,
        move |_, info| {
            pts.lock().unwrap().extend(arrived(info.event().unwrap()));
            gst::PadProbeReturn::Ok
        },
    );
    for line in 0..2i32 {
        let transceiver: WebRTCRTPTransceiver = sender.emit_by_name("get-transceiver", &[&line]);
        transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
        transceiver.set_property("do-nack", true);
    }
    let preferences = [video, audio].map(|caps| caps.parse::<gst::Caps>().unwrap());
    receiver.connect("on-new-transceiver", false, move |values| {
        let transceiver: WebRTCRTPTransceiver = values[1].get().unwrap();
        let line = transceiver.property::<u32>("mlineindex") as usize;
        transceiver.set_property("do-nack", true);
        transceiver.set_property("codec-preferences", &preferences[line]);
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

    let stats = || pacer.property::<gst::Structure>("stats");
    let sent = |nick| {
        let s: gst::Structure = stats().get(nick).unwrap();
        s.get::<u64>("sent-packets").unwrap()
    };
    // The caps behind the funnel do not tell the two apart.
    wait_for("video and audio", || {
        sent("display") > 30 && sent("audio") > 30
    });
    wait_for("feedback", || {
        let seen = seen.lock().unwrap();
        seen.contains(&96) && seen.contains(&111)
    });
    let probe = gst::Structure::builder("probe")
        .field("id", 1u32)
        .field("bitrate", 3_000_000u64)
        .field("packets", 10u32)
        .field("duration", 15_000_000u64)
        .build();
    let event = gst::Structure::builder("application/x-network-estimate")
        .field("target-bitrate", 2_000_000u64)
        .field("padding-bitrate", 1_000_000u64)
        .field("probe", probe)
        .build();
    let pad = pacer.static_pad("src").unwrap();
    assert!(pad.send_event(gst::event::CustomUpstream::new(event)));
    wait_for("the probe", || {
        stats().get::<u64>("probes-completed").unwrap() == 1
    });
    // The payload type of retransmissions, as rtprtxsend has it.
    wait_for("acknowledged padding", || {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|pt| ![96, 111].contains(*pt)).count() > 20
    });
    let padding: Vec<u8> = {
        let seen = seen.lock().unwrap();
        seen.iter()
            .copied()
            .filter(|pt| ![96, 111].contains(pt))
            .collect()
    };
    assert!(
        padding.iter().all(|pt| *pt == padding[0]),
        "one payload type: {padding:?}"
    );
    assert_eq!(stats().get::<u64>("malformed"), Ok(0));
    assert_eq!(stats().get::<u64>("padding-skipped"), Ok(0));
    // Media still arrives; padding did not break it.
    let before = sent("display");
    wait_for("more video", || sent("display") > before + 30);
    let bus = pipeline.0.bus().unwrap();
    let error = bus.pop_filtered(&[gst::MessageType::Error]);
    assert!(error.is_none(), "{error:?}");
}
