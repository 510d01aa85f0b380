// SPDX-License-Identifier: MPL-2.0
//! Two webrtcbins in one process, with ICE and DTLS: two tracks in a bundle,
//! an element for each on both sides.

mod common;

use common::*;
use gst::prelude::*;
use gst_webrtc::{
    WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection, WebRTCSDPType, WebRTCSessionDescription,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SSRCS: [u32; 2] = [0x1111, 0x2222];

/// Waits for the promise that the signal takes as its last argument.
#[track_caller]
fn ask(webrtc: &gst::Element, signal: &str, first: &dyn ToValue) -> Option<gst::Structure> {
    let (send, reply) = std::sync::mpsc::channel();
    let promise = gst::Promise::with_change_func(move |reply| {
        let reply = reply.expect("webrtcbin replies");
        send.send(reply.map(|s| s.to_owned())).unwrap();
    });
    webrtc.emit_by_name::<()>(signal, &[first, &promise]);
    reply.recv_timeout(Duration::from_secs(10)).expect(signal)
}

#[track_caller]
fn create(webrtc: &gst::Element, signal: &str, field: &str) -> WebRTCSessionDescription {
    let reply = ask(webrtc, signal, &None::<gst::Structure>).expect(signal);
    reply
        .get(field)
        .unwrap_or_else(|_| panic!("{signal}: {reply}"))
}

fn text(description: &WebRTCSessionDescription) -> String {
    description.sdp().as_text().unwrap()
}

/// Offer and answer as text.
fn negotiate(sender: &gst::Element, receiver: &gst::Element) -> (String, String) {
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
    assert_eq!(offer.type_(), WebRTCSDPType::Offer);
    ask(sender, "set-local-description", &offer);
    ask(receiver, "set-remote-description", &offer);
    let answer = create(receiver, "create-answer", "answer");
    ask(receiver, "set-local-description", &answer);
    ask(sender, "set-remote-description", &answer);
    (text(&offer), text(&answer))
}

struct Pair {
    pipeline: Pipeline,
    offer: String,
    answer: String,
    /// At the receiver, as the tracks came: element and end of the track.
    tracks: Arc<Mutex<Vec<(gst::Element, gst::Element)>>>,
}

/// `caps` go on to the caps of the sink pads and, if `prefer`, are the
/// answerer's codec preferences.
fn pair(policy: &str, caps: &str, prefer: bool) -> Pair {
    let track = |i: usize| {
        format!(
            "videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 bitrate=300 \
             ! video/x-h264,profile=constrained-baseline \
             ! rtph264pay name=pay{i} config-interval=-1 pt=96 ssrc={ssrc} \
             ! application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000{caps} \
             ! rtcpiframefeedback name=f{i} stream={i} ! queue ! s. ",
            ssrc = SSRCS[i]
        )
    };
    let pipeline = Pipeline::new(&format!(
        "webrtcbin name=s bundle-policy={policy} webrtcbin name=r bundle-policy={policy} {} {}",
        track(0),
        track(1)
    ));
    let (sender, receiver) = (pipeline.get("s"), pipeline.get("r"));
    for line in 0..2i32 {
        let transceiver: WebRTCRTPTransceiver = sender.emit_by_name("get-transceiver", &[&line]);
        transceiver.set_property("direction", WebRTCRTPTransceiverDirection::Sendonly);
    }
    let preferences: gst::Caps =
        format!("application/x-rtp,media=video,encoding-name=H264,clock-rate=90000{caps}")
            .parse()
            .unwrap();
    receiver.connect("on-new-transceiver", false, move |values| {
        let transceiver: WebRTCRTPTransceiver = values[1].get().unwrap();
        if prefer {
            transceiver.set_property("codec-preferences", &preferences);
        }
        None
    });
    let tracks = Arc::<Mutex<Vec<(gst::Element, gst::Element)>>>::default();
    let made = tracks.clone();
    let weak = pipeline.0.downgrade();
    receiver.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else {
            return;
        };
        if pad.direction() != gst::PadDirection::Src {
            return;
        }
        let make = |name| gst::ElementFactory::make(name).build().unwrap();
        let elements = ["queue", "rtcpiframefeedback", "rtph264depay", "fakesink"].map(make);
        elements[3].set_property("async", false);
        pipeline.add_many(&elements).unwrap();
        gst::Element::link_many(&elements).unwrap();
        for element in elements.iter().rev() {
            element.sync_state_with_parent().unwrap();
        }
        pad.link(&elements[0].static_pad("sink").unwrap()).unwrap();
        let [_, element, _, end] = elements;
        made.lock().unwrap().push((element, end));
    });
    pipeline.play();
    // Caps have to be on the sink pads.
    wait_for("caps", || {
        sender
            .sink_pads()
            .iter()
            .all(|pad| pad.current_caps().is_some())
    });
    let (offer, answer) = negotiate(&sender, &receiver);
    Pair {
        pipeline,
        offer,
        answer,
        tracks,
    }
}

/// Of the last buffer that came through.
fn ssrc(element: &gst::Element) -> u32 {
    let (send, ssrcs) = std::sync::mpsc::channel();
    let pad = element.static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let data = info.buffer().unwrap().map_readable().unwrap();
        let _ = send.send(u32::from_be_bytes(data[8..12].try_into().unwrap()));
        gst::PadProbeReturn::Remove
    });
    ssrcs
        .recv_timeout(Duration::from_secs(10))
        .expect("a packet")
}

fn check_feedback(policy: &str) {
    let pair = pair(policy, "", false);
    let senders = ["f0", "f1"].map(|name| pair.pipeline.get(name));
    let events = ["pay0", "pay1"]
        .map(|name| watch_completes(&pair.pipeline.get(name).static_pad("src").unwrap()));
    wait_for("hello on both tracks", || {
        senders
            .iter()
            .all(|element| element.property::<bool>("peer-supported"))
    });
    let tracks = pair.tracks.lock().unwrap().clone();
    assert_eq!(tracks.len(), 2);
    let mut slowest = Duration::ZERO;
    for (element, end) in &tracks {
        let ssrc = ssrc(element);
        let track = SSRCS
            .iter()
            .position(|s| *s == ssrc)
            .expect("one of the two");
        let other = events[1 - track].lock().unwrap().len();
        for number in 1..=10 {
            // Each element names its own stream.
            let complete = (track as u32, number, 7, true, true);
            let start = Instant::now();
            assert!(end.send_event(frame_complete(0, number, 7, true, true)));
            wait_for("event at the encoder", || {
                completes(&events[track]).last() == Some(&complete)
            });
            slowest = slowest.max(events[track].lock().unwrap().last().unwrap().1 - start);
        }
        assert_eq!(
            completes(&events[1 - track]).len(),
            other,
            "for the other stream"
        );
        assert_eq!(stat(element, "send-failed"), 0);
    }
    assert!(slowest < Duration::from_secs(2), "took {slowest:?}");
    // In one session each element hears the other one's messages, too.
    let bundled = policy == "max-bundle";
    for element in &senders {
        assert_eq!(stat(element, "other-ssrc") >= 10, bundled);
        assert_eq!(stat(element, "malformed"), 0);
    }
    pair.pipeline.check_no_error();
}

#[test]
fn events_cross_a_bundled_session() {
    check_feedback("max-bundle");
}

#[test]
fn events_cross_a_session_for_each_track() {
    check_feedback("none");
}

/// What webrtcbin makes of the announcement in caps, as the docs of the element
/// say.
#[track_caller]
fn check_announcement(format: &str) {
    let caps = format!(",a-rtcp-fb=(string)\"{format}\\ x-iframe-complete\"");
    let line = format!("a=rtcp-fb:{format} x-iframe-complete");
    let pair = pair("max-bundle", &caps, true);
    assert_eq!(pair.offer.matches(&line).count(), 2, "{}", pair.offer);
    assert_eq!(pair.answer.matches(&line).count(), 2, "{}", pair.answer);
    wait_for("tracks", || pair.tracks.lock().unwrap().len() == 2);
    for (element, _) in pair.tracks.lock().unwrap().iter() {
        ssrc(element);
        let caps = element.static_pad("sink").unwrap().current_caps().unwrap();
        let announced = caps.structure(0).unwrap().get("rtcp-fb-x-iframe-complete");
        assert_eq!(announced, Ok(true), "{caps}");
    }
}

#[test]
fn the_announcement_for_a_payload_type_crosses_offer_and_answer() {
    check_announcement("96");
}

#[test]
fn the_announcement_for_any_payload_type_crosses_offer_and_answer() {
    check_announcement("*");
}
