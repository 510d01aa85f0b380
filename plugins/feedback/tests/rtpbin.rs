// SPDX-License-Identifier: MPL-2.0
//! Two rtpbins, real encoder and payloader, over UDP on the loopback.

mod common;

use common::*;
use gst::prelude::*;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const RTP: &str = "application/x-rtp,media=video,encoding-name=H264,payload=96,clock-rate=90000";

/// Ports that nobody has just now, all at once so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

struct Pair {
    sender: Pipeline,
    receiver: Pipeline,
    events: Completes,
}

/// The session in use is `id` on both sides.
fn pair(id: u32, behind: &str) -> Pair {
    let [rtp, rtcp, back] = free_ports();
    let udpsink = "udpsink host=127.0.0.1 sync=false async=false";
    let sender = Pipeline::new(&format!(
        "rtpbin name=s rtp-profile=avpf \
         videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 bitrate=300 \
         ! rtph264pay name=pay config-interval=-1 ! rtcpiframefeedback name=f {behind} ! s.send_rtp_sink_{id} \
         s.send_rtp_src_{id} ! {udpsink} port={rtp} \
         s.send_rtcp_src_{id} ! {udpsink} port={rtcp} \
         udpsrc address=127.0.0.1 port={back} ! s.recv_rtcp_sink_{id}"
    ));
    let receiver = Pipeline::new(&format!(
        "rtpbin name=r rtp-profile=avpf latency=20 \
         udpsrc address=127.0.0.1 port={rtp} caps=\"{RTP}\" ! r.recv_rtp_sink_{id} \
         udpsrc address=127.0.0.1 port={rtcp} ! r.recv_rtcp_sink_{id} \
         r.send_rtcp_src_{id} ! {udpsink} port={back} \
         r. ! rtcpiframefeedback name=f {behind} ! rtph264depay ! fakesink name=end sync=false async=false"
    ));
    let events = watch_completes(&sender.get("pay").static_pad("src").unwrap());
    receiver.play();
    sender.play();
    Pair {
        sender,
        receiver,
        events,
    }
}

impl Pair {
    #[track_caller]
    fn wait_for_hello(&self) {
        let element = self.sender.get("f");
        wait_for("hello", || element.property::<bool>("peer-supported"));
    }

    #[track_caller]
    fn check_events_arrive(&self) {
        let mut slowest = Duration::ZERO;
        for number in 0..20u16 {
            let complete = (
                0,
                u32::from(number) * 3277,
                u32::from(number),
                number % 2 == 0,
                number % 3 != 0,
            );
            let (stream, frame, generation, key, decodable) = complete;
            // Which stream it was is known by the SSRC alone.
            let event = frame_complete(1 - stream, frame, generation, key, decodable);
            let start = Instant::now();
            assert!(self.receiver.get("end").send_event(event));
            wait_for("event at the encoder", || {
                completes(&self.events).last() == Some(&complete)
            });
            let arrived = self.events.lock().unwrap().last().unwrap().1;
            slowest = slowest.max(arrived - start);
        }
        assert!(slowest < Duration::from_secs(2), "took {slowest:?}");
        let (sender, receiver) = (self.sender.get("f"), self.receiver.get("f"));
        assert_eq!(stat(&receiver, "send-failed"), 0);
        assert_eq!(
            stat(&sender, "malformed") + stat(&sender, "ignored-entries"),
            0
        );
        assert_eq!(stat(&sender, "received"), stat(&receiver, "sent"));
        // One, two and three frames, then four in each message.
        assert_eq!(completes(&self.events).len(), 1 + 2 + 3 + 17 * 4);
        self.sender.check_no_error();
        self.receiver.check_no_error();
    }
}

#[test]
fn an_event_at_the_receiver_comes_out_at_the_sender() {
    let pair = pair(0, "");
    pair.wait_for_hello();
    pair.check_events_arrive();
    let weak = [
        pair.sender.get("f").downgrade(),
        pair.sender.get("s").downgrade(),
        pair.receiver.get("f").downgrade(),
        pair.receiver.get("r").downgrade(),
    ];
    drop(pair);
    for element in weak {
        wait_for("end of an element", || element.upgrade().is_none());
    }
}

#[test]
fn the_property_overrides_the_session_that_is_found() {
    let pair = pair(0, "");
    let (sender, receiver) = (pair.sender.get("f"), pair.receiver.get("f"));
    pair.wait_for_hello();
    // There is no session 7.
    sender.set_property("session", 7);
    let mut number = 0;
    let mut received = || {
        number += 1;
        let before = stat(&sender, "received");
        let event = frame_complete(0, number, 0, false, true);
        assert!(pair.receiver.get("end").send_event(event));
        std::thread::sleep(Duration::from_millis(20));
        stat(&sender, "received") > before
    };
    wait_for("end of messages", || !received());
    sender.set_property("session", -1);
    wait_for("messages again", received);
    assert!(stat(&receiver, "sent") > stat(&sender, "received"));
}

#[test]
fn the_number_of_the_session_is_that_of_the_pad() {
    let pair = pair(3, "! queue");
    pair.wait_for_hello();
    pair.check_events_arrive();
}

#[test]
fn two_state_cycles_work() {
    let pair = pair(0, "");
    for _ in 0..2 {
        pair.wait_for_hello();
        pair.events.lock().unwrap().clear();
        pair.check_events_arrive();
        for pipeline in [&pair.sender, &pair.receiver] {
            pipeline.0.set_state(gst::State::Null).unwrap();
        }
        assert!(!pair.sender.get("f").property::<bool>("peer-supported"));
        // The pad that the receiver's rtpbin made is gone with the stream, and
        // parse::launch links it only once.
        let element = pair.receiver.get("f");
        pair.receiver.get("r").connect_pad_added(move |_, pad| {
            let sink = element.static_pad("sink").unwrap();
            if pad.name().starts_with("recv_rtp_src") && !sink.is_linked() {
                pad.link(&sink).unwrap();
            }
        });
        pair.receiver.play();
        pair.sender.play();
    }
    pair.wait_for_hello();
}

/// Junk from the network, RTCP and other, while both sides run.
#[test]
fn junk_from_the_network_breaks_nothing() {
    let pair = pair(0, "");
    pair.wait_for_hello();
    let back = pair
        .sender
        .0
        .iterate_elements()
        .into_iter()
        .flatten()
        .find_map(|element| {
            let is_udpsrc = element
                .factory()
                .is_some_and(|factory| factory.name() == "udpsrc");
            is_udpsrc.then(|| element.property::<i32>("port") as u16)
        });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = ("127.0.0.1", back.expect("there is a udpsrc"));
    let end = pair
        .sender
        .get("f")
        .static_pad("src")
        .unwrap()
        .current_caps()
        .unwrap();
    let ssrc: u32 = end.structure(0).unwrap().get("ssrc").unwrap();
    let before = stat(&pair.sender.get("f"), "received");
    for length in 0..60 {
        // A whole message at 32 bytes, cut or with bytes too many otherwise.
        let good = rtcp_packet(
            ssrc,
            b"IFRC\x01\xc0\x00\x01\x01\xc0\x00\x02\x01\xc0\x00\x03\x01\xc0\x00\x04",
        );
        let mut data = good.map_readable().unwrap().to_vec();
        data.resize(length, 0x5a);
        socket.send_to(&data, to).unwrap();
    }
    let mut many = b"IFRC".to_vec();
    many.resize(4 + 4 * 100, 0);
    socket
        .send_to(&rtcp_packet(ssrc, &many).map_readable().unwrap(), to)
        .unwrap();
    socket
        .send_to(&rtcp_packet(!ssrc, b"IFRC").map_readable().unwrap(), to)
        .unwrap();
    let element = pair.sender.get("f");
    wait_for("last packet", || stat(&element, "other-ssrc") > 0);
    assert!(
        stat(&element, "received") >= before + 2,
        "the whole ones count"
    );
    assert_eq!(stat(&element, "ignored-entries"), 84);
    pair.sender.check_no_error();
    let event = frame_complete(0, 65535, 255, true, true);
    assert!(pair.receiver.get("end").send_event(event));
    wait_for("event at the encoder", || {
        completes(&pair.events).last() == Some(&(0, 65535, 255, true, true))
    });
}
