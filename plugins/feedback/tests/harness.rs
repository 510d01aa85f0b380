// SPDX-License-Identifier: MPL-2.0
//! The element without a session: transparent, and never in the way.

mod common;

use common::{frame_complete, init, rtp_packet, stat};
use gst::prelude::*;
use gst_check::Harness;

const CAPS: &str = "application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96";

fn harness() -> Harness {
    init();
    let mut harness = Harness::new("rtcpiframefeedback");
    harness.set_src_caps(CAPS.parse().unwrap());
    harness
}

fn event_types(harness: &mut Harness) -> Vec<gst::EventType> {
    std::iter::from_fn(|| harness.try_pull_event().map(|event| event.type_())).collect()
}

#[test]
fn buffers_pass_as_the_same_buffers_at_once() {
    let mut harness = harness();
    for seq in 0..20 {
        let buffer = rtp_packet(0x1111, seq, None);
        let address = buffer.as_ptr();
        harness.push(buffer).unwrap();
        let out = harness.try_pull().expect("out before push returns");
        assert_eq!(out.as_ptr(), address, "the buffer was copied");
    }
}

#[test]
fn lists_pass_as_lists() {
    let harness = harness();
    let src = harness.element().unwrap().static_pad("src").unwrap();
    let (sender, lists) = std::sync::mpsc::channel();
    src.add_probe(gst::PadProbeType::BUFFER_LIST, move |_, info| {
        sender
            .send(info.buffer_list().unwrap().as_ptr() as usize)
            .unwrap();
        gst::PadProbeReturn::Ok
    });
    let mut list = gst::BufferList::new();
    for seq in 0..3 {
        list.get_mut().unwrap().add(rtp_packet(0x1111, seq, None));
    }
    let address = list.as_ptr() as usize;
    let sink = harness.element().unwrap().static_pad("sink").unwrap();
    assert_eq!(sink.chain_list(list), Ok(gst::FlowSuccess::Ok));
    assert_eq!(lists.try_recv(), Ok(address));
    assert_eq!(harness.buffers_in_queue(), 3);
}

#[test]
fn a_buffer_that_is_no_rtp_passes_too() {
    let mut harness = harness();
    for size in [0, 1, 11, 12, 2000] {
        harness
            .push(gst::Buffer::from_mut_slice(vec![0xff; size]))
            .unwrap();
        assert_eq!(harness.pull().unwrap().size(), size);
    }
    assert_eq!(harness.push(gst::Buffer::new()), Ok(gst::FlowSuccess::Ok));
}

#[test]
fn events_pass_in_order_both_ways() {
    let mut harness = harness();
    harness.push(rtp_packet(1, 0, None)).unwrap();
    assert_eq!(
        event_types(&mut harness),
        [
            gst::EventType::StreamStart,
            gst::EventType::Caps,
            gst::EventType::Segment
        ]
    );
    let custom = gst::Structure::new_empty("application/x-background-rate");
    harness.push_event(gst::event::CustomDownstreamOob::new(custom.clone()));
    harness.push_event(gst::event::Gap::new(gst::ClockTime::ZERO, None));
    harness.push_event(gst::event::FlushStart::new());
    harness.push_event(gst::event::FlushStop::new(false));
    harness.push_event(gst::event::Eos::new());
    assert_eq!(
        event_types(&mut harness),
        [
            gst::EventType::CustomDownstreamOob,
            gst::EventType::Gap,
            gst::EventType::FlushStart,
            gst::EventType::FlushStop,
            gst::EventType::Eos
        ]
    );

    let other = gst::Structure::new_empty("GstForceKeyUnit");
    while harness.try_pull_upstream_event().is_some() {}
    assert!(harness.push_upstream_event(gst::event::CustomUpstream::new(other)));
    let event = harness.try_pull_upstream_event().expect("passed upstream");
    assert_eq!(event.structure().unwrap().name(), "GstForceKeyUnit");
}

#[test]
fn the_latency_query_passes() {
    let mut harness = harness();
    harness.set_upstream_latency(gst::ClockTime::from_mseconds(7));
    harness.push(rtp_packet(1, 0, None)).unwrap();
    assert_eq!(
        harness.query_latency(),
        Some(gst::ClockTime::from_mseconds(7))
    );
}

#[test]
fn caps_are_those_of_the_neighbour() {
    let mut harness = harness();
    let element = harness.element().unwrap();
    let sink = element.static_pad("sink").unwrap();
    let raw = gst::Caps::new_empty_simple("video/x-raw");
    assert!(!sink.query_accept_caps(&raw), "only RTP is taken");
    harness.set_sink_caps("application/x-rtp,payload=100".parse().unwrap());
    let caps = sink.query_caps(None);
    let expected: gst::Caps = "application/x-rtp,payload=100".parse().unwrap();
    assert!(
        caps.is_subset(&expected),
        "{caps} are not downstream's caps"
    );
}

#[test]
fn the_event_is_consumed_without_a_session_and_whatever_it_holds() {
    let mut harness = harness();
    harness.push(rtp_packet(1, 0, None)).unwrap();
    while harness.try_pull_upstream_event().is_some() {}
    assert!(harness.push_upstream_event(frame_complete(0, 1, 2, true, true)));
    for fields in [
        "",
        ",frame=(uint)70000,generation=(uint)0,key=true,decodable=true",
        ",frame=(string)a",
    ] {
        let structure = format!("application/x-frame-complete{fields}");
        let event = gst::event::CustomUpstream::new(structure.parse().unwrap());
        assert!(harness.push_upstream_event(event), "{fields}");
    }
    assert!(harness.try_pull_upstream_event().is_none(), "not consumed");
    harness.push(rtp_packet(1, 1, None)).unwrap();
    assert_eq!(stat(&harness.element().unwrap(), "sent"), 0);
}

#[test]
fn properties_can_be_set_in_each_state() {
    let harness = harness();
    let element = harness.element().unwrap();
    assert_eq!(element.property::<i32>("session"), -1);
    assert_eq!(element.property::<u32>("stream"), 0);
    assert!(!element.property::<bool>("peer-supported"));
    for (at, state) in [
        gst::State::Playing,
        gst::State::Paused,
        gst::State::Ready,
        gst::State::Null,
    ]
    .into_iter()
    .enumerate()
    {
        element.set_state(state).unwrap();
        element.set_property("session", at as i32);
        element.set_property("stream", at as u32 % 2);
        assert_eq!(element.property::<i32>("session"), at as i32);
        assert_eq!(element.property::<u32>("stream"), at as u32 % 2);
        for field in [
            "sent",
            "send-failed",
            "received",
            "malformed",
            "ignored-entries",
            "other-ssrc",
        ] {
            assert_eq!(stat(&element, field), 0, "{field}");
        }
    }
}
