// SPDX-License-Identifier: MPL-2.0
//! The element beside a real RTP session, with packets made by hand.

mod common;

use common::*;
use gst::prelude::*;
use std::sync::{Arc, Mutex};

const RTP: &str = "application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96";
const SSRC: u32 = 0x1111;

fn push(pipeline: &Pipeline, appsrc: &str, buffer: gst::Buffer) {
    let flow: gst::FlowReturn = pipeline.get(appsrc).emit_by_name("push-buffer", &[&buffer]);
    assert_eq!(flow, gst::FlowReturn::Ok);
}

/// A sender: packets go in at `rtp`, the peer's RTCP at `rtcp`.
struct Sender {
    pipeline: Pipeline,
    element: gst::Element,
    events: Completes,
    seq: u16,
}

impl Sender {
    /// `between` stands between the element and the session.
    fn new(between: &str, extmap: &str) -> Self {
        let pipeline = Pipeline::new(&format!(
            "appsrc name=rtp format=time caps=\"{RTP}{extmap}\" ! rtcpiframefeedback name=f {between} \
             ! s.send_rtp_sink rtpsession name=s s.send_rtp_src ! fakesink sync=false async=false \
             appsrc name=rtcp format=time caps=application/x-rtcp ! s.recv_rtcp_sink"
        ));
        let element = pipeline.get("f");
        let events = watch_completes(&element.static_pad("sink").unwrap().peer().unwrap());
        pipeline.play();
        Self {
            pipeline,
            element,
            events,
            seq: 0,
        }
    }

    fn rtp(&mut self, ssrc: u32, extension: Option<(u8, &[u8])>) {
        push(&self.pipeline, "rtp", rtp_packet(ssrc, self.seq, extension));
        self.seq += 1;
    }

    fn rtcp(&self, ssrc: u32, fci: &[u8]) {
        push(&self.pipeline, "rtcp", rtcp_packet(ssrc, fci));
    }

    /// Packets flow until the session is found and a hello gets through.
    #[track_caller]
    fn open(&mut self) {
        wait_for("hello at the sender", || {
            self.rtp(SSRC, None);
            self.rtcp(SSRC, b"IFRC");
            std::thread::sleep(std::time::Duration::from_millis(5));
            stat(&self.element, "received") > 0
        });
        // Those on their way, too.
        self.settle();
    }

    /// Waits until all RTCP pushed so far was looked at, by a message about
    /// another stream as a marker.
    #[track_caller]
    fn settle(&self) {
        let before = stat(&self.element, "other-ssrc");
        self.rtcp(0xffff_ff00, b"IFRC");
        wait_for("marker", || stat(&self.element, "other-ssrc") > before);
    }
}

#[test]
fn a_message_becomes_an_event_for_each_frame_oldest_first() {
    let mut sender = Sender::new("", "");
    let (notify, notified) = std::sync::mpsc::channel();
    sender
        .element
        .connect_notify(Some("peer-supported"), move |element, _| {
            let _ = notify.send(element.property::<bool>("peer-supported"));
        });
    sender.open();
    assert!(sender.element.property::<bool>("peer-supported"));
    assert_eq!(completes(&sender.events), [], "a hello has no frames");
    sender.rtcp(
        SSRC,
        b"IFRC\x02\xc0\x01\x00\x01\x40\x00\xff\x01\x00\xff\xff",
    );
    sender.settle();
    assert_eq!(
        completes(&sender.events),
        [
            (0, 0xffff, 1, false, false),
            (0, 0xff, 1, false, true),
            (0, 0x100, 2, true, true),
        ]
    );
    assert_eq!(notified.try_iter().collect::<Vec<_>>(), [true]);
    sender.pipeline.0.set_state(gst::State::Ready).unwrap();
    assert_eq!(notified.try_iter().collect::<Vec<_>>(), [false]);
    let received = stat(&sender.element, "received");
    assert!(received > 1, "counters can be read after the end");
}

#[test]
fn the_session_is_found_behind_simple_elements() {
    Sender::new("! queue ! capsfilter caps=application/x-rtp ! identity", "").open();
}

#[test]
fn the_session_is_found_behind_a_funnel() {
    Sender::new("! rtpfunnel", "").open();
}

/// The element in one bin, a queue in another, the session in the pipeline.
#[test]
fn the_session_is_found_in_and_out_of_bins() {
    let pipeline = Pipeline::new(&format!(
        "appsrc name=rtp format=time caps=\"{RTP}\" ! identity name=head \
         rtpsession name=s fakesink name=end sync=false async=false \
         appsrc name=rtcp format=time caps=application/x-rtcp ! s.recv_rtcp_sink"
    ));
    let inner = gst::parse::bin_from_description("rtcpiframefeedback name=f", true).unwrap();
    let outer = gst::parse::bin_from_description("queue ! identity", true).unwrap();
    pipeline.0.add_many([&inner, &outer]).unwrap();
    gst::Element::link_many([
        &pipeline.get("head"),
        inner.upcast_ref(),
        outer.upcast_ref(),
    ])
    .unwrap();
    outer
        .link_pads(Some("src"), &pipeline.get("s"), Some("send_rtp_sink"))
        .unwrap();
    // Only now: a link that parse::launch leaves for later deadlocks when
    // rtpsession (1.22) adds the pad with its lock held.
    pipeline
        .get("s")
        .link_pads(Some("send_rtp_src"), &pipeline.get("end"), Some("sink"))
        .unwrap();
    let element = pipeline.get("f");
    pipeline.play();
    let mut seq = 0;
    wait_for("hello", || {
        push(&pipeline, "rtp", rtp_packet(SSRC, seq, None));
        push(&pipeline, "rtcp", rtcp_packet(SSRC, b"IFRC"));
        seq += 1;
        stat(&element, "received") > 0
    });
}

#[test]
fn the_stream_is_that_of_the_header_extension() {
    let last = |sender: &Sender| completes(&sender.events).last().map(|c| c.0);
    for (id, caps) in [
        (3, ",extmap-3=(string)urn:x-gst-dualstream:frame:1"),
        (
            14,
            ",extmap-14=(string)\"<\\\"\\\",urn:x,\\\"\\\">\",extmap-2=(string)urn:y",
        ),
        (20, ",extmap-20=(string)urn:x-gst-dualstream:frame:1"),
    ] {
        let named = caps.contains("dualstream");
        let mut sender = Sender::new("", caps);
        sender.open();
        let message = b"IFRC\x00\xc0\x00\x01";
        // Version 1, stream 1, then another version, then stream 0.
        for (first, expected) in [(0b0110_0000, 1), (0b1000_0000, 1), (0b0100_1000, 0)] {
            sender.rtp(SSRC, Some((id, &[first, 0, 1, 0])));
            sender.rtp(SSRC, None);
            wait_for("packets at the session", || {
                appsrc_is_empty(&sender.pipeline, "rtp")
            });
            sender.rtcp(SSRC, message);
            sender.settle();
            let expected = if named { expected } else { 0 };
            assert_eq!(last(&sender), Some(expected), "id {id}, byte {first:#b}");
        }
    }
}

/// True when all packets were taken and one more has come out at the end.
fn appsrc_is_empty(pipeline: &Pipeline, name: &str) -> bool {
    let src = pipeline.get(name);
    if src.property::<u64>("current-level-buffers") > 0 {
        return false;
    }
    // The last one taken may still be on its way: a serialised query waits.
    let pad = src.static_pad("src").unwrap();
    let mut query = gst::query::Drain::new();
    pad.peer_query(&mut query);
    true
}

#[test]
fn the_property_names_the_stream_without_an_extension() {
    let mut sender = Sender::new("", "");
    sender.open();
    for stream in [1, 0] {
        sender.element.set_property("stream", stream);
        sender.rtcp(SSRC, b"IFRC\x00\xc0\x00\x01");
        sender.settle();
        assert_eq!(completes(&sender.events).last().unwrap().0, stream);
    }
}

#[test]
fn the_last_four_streams_are_ours_and_no_other() {
    let mut sender = Sender::new("", "");
    sender.open();
    for ssrc in [2, 3, 4, 5, 6] {
        sender.rtp(ssrc, None);
    }
    wait_for("packets at the session", || {
        appsrc_is_empty(&sender.pipeline, "rtp")
    });
    let before = completes(&sender.events).len();
    let other = stat(&sender.element, "other-ssrc");
    for ssrc in [SSRC, 2, 3, 4, 5, 6, 7, 0] {
        sender.rtcp(ssrc, b"IFRC\x00\xc0\x00\x01");
    }
    // Not settle(): the others count as its marker does.
    sender.rtcp(0xffff_ff00, b"IFRC");
    // Four of the eight, and the marker.
    wait_for("the marker", || {
        stat(&sender.element, "other-ssrc") - other >= 5
    });
    assert_eq!(completes(&sender.events).len() - before, 4);
    assert_eq!(stat(&sender.element, "other-ssrc") - other, 5);
}

#[test]
fn hostile_rtcp_is_counted_and_breaks_nothing() {
    let mut sender = Sender::new("", "");
    sender.open();
    let received = stat(&sender.element, "received");
    let others = stat(&sender.element, "other-ssrc");
    let hostile: &[&[u8]] = &[
        b"",
        b"\0\0\0\0",
        b"REMB\x01\x00\x00\x00\0\0\x11\x11",
        b"ifrc\x00\xc0\x00\x01",
        b"IFRD\x00\xc0\x00\x01",
    ];
    for fci in hostile {
        sender.rtcp(SSRC, fci);
    }
    // Nine entries too many.
    let mut many = b"IFRC".to_vec();
    for number in 0..25u8 {
        many.extend([0, 0xff, 0, number]);
    }
    sender.rtcp(SSRC, &many);
    // As long as RTCP goes in one packet of 64 KiB.
    let mut huge = b"IFRC".to_vec();
    huge.resize(60_000, 0xff);
    sender.rtcp(SSRC, &huge);
    // Not RTCP at all; lengths that lie; versions; half a packet.
    let good = rtcp_packet(SSRC, b"IFRC\x00\xc0\x00\x01");
    let good = good.map_readable().unwrap().to_vec();
    for at in 0..12 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            push(&sender.pipeline, "rtcp", gst::Buffer::from_mut_slice(bad));
        }
    }
    for length in 0..good.len() {
        let cut = gst::Buffer::from_mut_slice(good[..length].to_vec());
        push(&sender.pipeline, "rtcp", cut);
    }
    sender.settle();
    sender.pipeline.check_no_error();
    // Bytes 4 to 7 are the peer's SSRC, 20 changes that are no fault, and
    // 0x80 in byte 0 (FMT 0) and the like are others' feedback.
    let taken = stat(&sender.element, "received") - received;
    assert!((22..60).contains(&taken), "{taken} messages were taken");
    assert_eq!(stat(&sender.element, "ignored-entries"), 9 + 14_999 - 16);
    assert_eq!(
        stat(&sender.element, "malformed"),
        0,
        "RTCP is made of words"
    );
    let others = stat(&sender.element, "other-ssrc") - others;
    assert!((2..30).contains(&others), "{others} about other streams");
    // Two messages of 16 frames and the rest of one.
    let seen = completes(&sender.events).len() as u64;
    assert_eq!(seen, 32 + (taken - 2));
    // And all goes on.
    sender.rtcp(SSRC, b"IFRC\x05\xc0\x00\x05");
    sender.settle();
    assert_eq!(
        completes(&sender.events).last(),
        Some(&(0, 5, 5, true, true))
    );
}

/// RTCP cannot carry half a word, a session element that is not ours may.
#[test]
fn a_message_of_a_wrong_length_is_counted() {
    let mut sender = Sender::new("", "");
    sender.open();
    let session: gst::glib::Object = sender.pipeline.get("s").property("internal-session");
    let before = completes(&sender.events).len();
    for extra in 1..4 {
        let mut fci = b"IFRC\x00\xc0\x00\x01".to_vec();
        fci.resize(fci.len() + extra, 0);
        let fci = gst::Buffer::from_mut_slice(fci);
        session.emit_by_name::<()>("on-feedback-rtcp", &[&206u32, &15u32, &1u32, &SSRC, &fci]);
    }
    let none = None::<gst::Buffer>;
    session.emit_by_name::<()>("on-feedback-rtcp", &[&206u32, &15u32, &1u32, &SSRC, &none]);
    assert_eq!(stat(&sender.element, "malformed"), 3);
    assert_eq!(completes(&sender.events).len(), before);
}

#[test]
fn the_sender_lets_an_event_from_downstream_pass() {
    let mut sender = Sender::new("", "");
    sender.open();
    let src = sender.element.static_pad("src").unwrap();
    // Nobody upstream takes it, hence the answer.
    assert!(!src.send_event(frame_complete(1, 9, 0, false, true)));
    assert_eq!(completes(&sender.events), [(1, 9, 0, false, true)]);
}

/// A receiver: packets go in at `rtp`; the RTCP that it sends is kept.
struct Receiver {
    pipeline: Pipeline,
    element: gst::Element,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    seq: u16,
}

impl Receiver {
    fn new() -> Self {
        Self::prepare().play()
    }

    fn play(self) -> Self {
        self.pipeline.play();
        self
    }

    fn prepare() -> Self {
        let pipeline = Pipeline::new(&format!(
            "appsrc name=rtp format=time do-timestamp=true is-live=true caps=\"{RTP}\" ! s.recv_rtp_sink \
             rtpsession name=s s.recv_rtp_src ! rtcpiframefeedback name=f ! fakesink name=end sync=false async=false \
             s.send_rtcp_src ! fakesink name=rtcp sync=false async=false"
        ));
        let sent = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let packets = sent.clone();
        let pad = pipeline.get("rtcp").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let packet = info.buffer().unwrap().map_readable().unwrap().to_vec();
            packets.lock().unwrap().push(packet);
            gst::PadProbeReturn::Ok
        });
        let element = pipeline.get("f");
        Self {
            pipeline,
            element,
            sent,
            seq: 0,
        }
    }

    fn rtp(&mut self, ssrc: u32) {
        push(&self.pipeline, "rtp", rtp_packet(ssrc, self.seq, None));
        self.seq = self.seq.wrapping_add(1);
    }

    fn event(&self, frame: u32) {
        let event = frame_complete(0, frame, 7, frame == 1, true);
        assert!(self.pipeline.get("end").send_event(event));
    }

    /// Our messages so far.
    fn messages(&self) -> Vec<feedback_core::FrameComplete> {
        let sent = self.sent.lock().unwrap();
        sent.iter()
            .filter_map(|packet| feedback_core::FrameComplete::parse(packet).ok())
            .collect()
    }

    #[track_caller]
    fn wait_for_messages(&mut self, what: &str, count: usize) {
        wait_for(what, || {
            self.rtp(SSRC);
            std::thread::sleep(std::time::Duration::from_millis(5));
            self.messages().len() >= count
        });
    }
}

fn numbers(message: &feedback_core::FrameComplete) -> Vec<u16> {
    message
        .fci
        .entries()
        .iter()
        .map(|entry| entry.number)
        .collect()
}

#[test]
fn the_receiver_says_hello_and_then_the_last_four_frames() {
    let mut receiver = Receiver::new();
    receiver.wait_for_messages("hello", 1);
    let session: gst::glib::Object = receiver.pipeline.get("s").property("internal-session");
    let hello = receiver.messages()[0];
    assert!(hello.fci.is_empty());
    assert_eq!(hello.media_ssrc, SSRC);
    assert_eq!(hello.sender_ssrc, session.property::<u32>("internal-ssrc"));
    for frame in [1, 2, 3, 4, 5, 3] {
        receiver.event(frame);
    }
    // An event is sent before the call returns.
    let messages = receiver.messages();
    let with_frames: Vec<_> = messages.iter().filter(|m| !m.fci.is_empty()).collect();
    let lists: Vec<Vec<u16>> = with_frames.iter().map(|m| numbers(m)).collect();
    assert_eq!(
        lists,
        [
            vec![1],
            vec![2, 1],
            vec![3, 2, 1],
            vec![4, 3, 2, 1],
            vec![5, 4, 3, 2],
            vec![3, 5, 4, 2],
        ]
    );
    let first = with_frames[0].fci.entries()[0];
    assert_eq!(
        (first.generation, first.key, first.decodable),
        (7, true, true)
    );
    assert!(with_frames.iter().all(|m| m.media_ssrc == SSRC));
    assert_eq!(stat(&receiver.element, "sent"), messages.len() as u64);
    assert_eq!(stat(&receiver.element, "send-failed"), 0);
    receiver.pipeline.check_no_error();
}

/// As webrtcbin does until DTLS is up: the session's own first packet hangs,
/// and so would ours.
#[test]
fn what_is_said_before_rtcp_is_open_is_sent_when_it_opens() {
    let receiver = Receiver::prepare();
    let pad = receiver.pipeline.get("rtcp").static_pad("sink").unwrap();
    let (hung, hangs) = std::sync::mpsc::channel();
    let block = pad
        .add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, move |_, _| {
            let _ = hung.send(());
            gst::PadProbeReturn::Ok
        })
        .unwrap();
    let mut receiver = receiver.play();
    wait_for("report of the session", || {
        receiver.rtp(SSRC);
        std::thread::sleep(std::time::Duration::from_millis(5));
        hangs.try_recv().is_ok()
    });
    // Both return, or the test hangs here.
    receiver.event(1);
    receiver.event(2);
    assert_eq!(stat(&receiver.element, "sent"), 0);
    assert_eq!(stat(&receiver.element, "send-failed"), 0);
    pad.remove_probe(block);
    receiver.wait_for_messages("message", 1);
    assert_eq!(numbers(&receiver.messages()[0]), [2, 1]);
}

#[test]
fn another_ssrc_is_greeted_anew_and_not_told_of_old_frames() {
    let mut receiver = Receiver::new();
    receiver.wait_for_messages("hello", 1);
    receiver.event(1);
    let before = receiver.messages().len();
    wait_for("hello to the new stream", || {
        receiver.rtp(0x2222);
        std::thread::sleep(std::time::Duration::from_millis(5));
        receiver.messages().len() > before
    });
    let hello = receiver.messages()[before];
    assert_eq!((hello.media_ssrc, numbers(&hello)), (0x2222, vec![]));
    receiver.event(2);
    assert_eq!(numbers(receiver.messages().last().unwrap()), [2]);
}

#[test]
fn a_session_that_refuses_rtcp_is_counted_and_not_fatal() {
    let mut receiver = Receiver::new();
    receiver.wait_for_messages("hello", 1);
    let pad = receiver.pipeline.get("rtcp").static_pad("sink").unwrap();
    pad.peer().unwrap().unlink(&pad).unwrap();
    let sent = stat(&receiver.element, "sent");
    receiver.event(1);
    receiver.event(2);
    assert_eq!(stat(&receiver.element, "send-failed"), 2);
    assert_eq!(stat(&receiver.element, "sent"), sent);
    receiver.rtp(SSRC);
    receiver.pipeline.check_no_error();
}

/// Unlinked: handler gone, and no message; linked to another session: found.
#[test]
fn another_session_is_found_after_linking_anew() {
    let mut sender = Sender::new("", "");
    sender.open();
    let old = sender.pipeline.get("s");
    let old_session: gst::glib::Object = old.property("internal-session");
    let src = sender.element.static_pad("src").unwrap();
    let block = src
        .add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| {
            gst::PadProbeReturn::Ok
        })
        .unwrap();
    src.unlink(&src.peer().unwrap()).unwrap();
    let received = stat(&sender.element, "received");
    let message = gst::Buffer::from_mut_slice(b"IFRC\x00\xc0\x00\x01".to_vec());
    old_session.emit_by_name::<()>(
        "on-feedback-rtcp",
        &[&206u32, &15u32, &1u32, &SSRC, &message],
    );
    assert_eq!(
        stat(&sender.element, "received"),
        received,
        "still connected"
    );

    let new = gst::ElementFactory::make("rtpsession").build().unwrap();
    let end = gst::ElementFactory::make("fakesink")
        .property("async", false)
        .build()
        .unwrap();
    sender.pipeline.0.add_many([&new, &end]).unwrap();
    src.link(&new.request_pad_simple("send_rtp_sink").unwrap())
        .unwrap();
    new.link_pads(Some("send_rtp_src"), &end, Some("sink"))
        .unwrap();
    end.sync_state_with_parent().unwrap();
    new.sync_state_with_parent().unwrap();
    src.remove_probe(block);
    let new_session: gst::glib::Object = new.property("internal-session");
    wait_for("message by the new session", || {
        sender.rtp(SSRC, None);
        new_session.emit_by_name::<()>(
            "on-feedback-rtcp",
            &[&206u32, &15u32, &1u32, &SSRC, &message],
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
        stat(&sender.element, "received") > received
    });
}

/// The element holds no session, and no session holds the element.
#[test]
fn nothing_is_kept_alive() {
    let (element, session) = {
        let mut sender = Sender::new("", "");
        sender.open();
        (
            sender.element.downgrade(),
            sender.pipeline.get("s").downgrade(),
        )
    };
    wait_for("end of the element", || element.upgrade().is_none());
    wait_for("end of the session", || session.upgrade().is_none());
}

#[test]
fn a_state_cycle_starts_anew() {
    let mut sender = Sender::new("", "");
    for _ in 0..3 {
        sender.open();
        sender.rtcp(SSRC, b"IFRC\x00\xc0\x00\x01");
        sender.settle();
        assert_eq!(completes(&sender.events).len(), 1);
        sender.events.lock().unwrap().clear();
        sender.pipeline.0.set_state(gst::State::Null).unwrap();
        assert!(!sender.element.property::<bool>("peer-supported"));
        sender.pipeline.play();
        assert_eq!(stat(&sender.element, "received"), 0);
    }
}
