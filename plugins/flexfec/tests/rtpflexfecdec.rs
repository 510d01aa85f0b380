// SPDX-License-Identifier: MPL-2.0
//! rtpflexfecdec behind rtpflexfecenc, with packets lost in between.

mod common;

use common::*;
use gst::prelude::*;
use gst_check::{Harness, TestClock};

const FORMATS: [&str; 2] = ["flexfec-03", "rfc8627"];

/// The packets of these frames and their FEC packets, in order of sending, with
/// the transport-wide number that a session would write.
fn protect(properties: &str, frames: &[Vec<Packet>]) -> Vec<gst::Buffer> {
    init();
    let description = format!("rtpflexfecenc pt={FEC_PT} controller=fixed {properties}");
    let element = gst::parse::launch(&description).unwrap();
    let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
    h.play();
    h.set_src_caps(caps());
    let out = Outlet::of(&element.static_pad("src").unwrap());
    for packet in frames.iter().flatten() {
        h.push(packet.buffer()).unwrap();
    }
    let mut packets = out.packets();
    for (number, buffer) in packets.iter_mut().enumerate() {
        let mut map = buffer.make_mut().map_writable().unwrap();
        let number = (number as u16).wrapping_add(65_530).to_be_bytes();
        // Behind the header and the id.
        let at = usize::from(map[0] & 0x0f) * 4 + 12 + 5;
        map[at..at + 2].copy_from_slice(&number);
    }
    packets
}

fn is_fec(buffer: &gst::Buffer) -> bool {
    pt(&bytes(buffer)) == FEC_PT
}

/// Without the transport-wide number, which cannot be recovered.
fn comparable(buffer: &gst::Buffer) -> Vec<u8> {
    let mut data = bytes(buffer);
    data[17..19].fill(0);
    data
}

fn is_marked(buffer: &gst::BufferRef) -> bool {
    gst::meta::CustomMeta::from_buffer(buffer, "DualStreamFecRecovered").is_ok()
}

struct Fixture {
    element: gst::Element,
    clock: TestClock,
    h: Harness,
    out: Outlet,
}

impl Fixture {
    fn new(properties: &str) -> Self {
        init();
        let element = gst::parse::launch(&format!("rtpflexfecdec {properties}")).unwrap();
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.use_testclock();
        h.play();
        h.set_src_caps(caps());
        let out = Outlet::of(&element.static_pad("src").unwrap());
        Self {
            clock: h.testclock().unwrap(),
            element,
            h,
            out,
        }
    }

    #[track_caller]
    fn push(&mut self, buffer: &gst::Buffer) -> Vec<gst::Buffer> {
        assert_eq!(
            self.h.push(buffer.copy_deep().unwrap()),
            Ok(gst::FlowSuccess::Ok)
        );
        self.out.packets()
    }

    fn stat(&self, name: &str) -> u64 {
        stat(&self.element, name)
    }
}

fn key_frames() -> Vec<Vec<Packet>> {
    vec![
        frame(65_533, 5, 0x_ffff_fff0),
        frame(2, 1, 3000),
        frame(3, 3, 6000),
    ]
}

#[test]
fn each_packet_that_is_lost_alone_is_recovered() {
    for format in FORMATS {
        let all = protect(&format!("percentage-key=40 format={format}"), &key_frames());
        let media = all.iter().filter(|b| !is_fec(b)).count();
        assert!(all.len() > media, "{format}");
        for lost in (0..all.len()).filter(|n| !is_fec(&all[*n])) {
            let mut f = Fixture::new(&format!("pt={FEC_PT} format={format}"));
            let mut came = Vec::new();
            for (_, buffer) in all.iter().enumerate().filter(|(n, _)| *n != lost) {
                let out = f.push(buffer);
                if is_fec(buffer) {
                    assert!(out.iter().all(|b| is_marked(b)), "{format} {lost}");
                } else {
                    assert_eq!(bytes(&out[0]), bytes(buffer), "untouched and at once");
                }
                came.extend(out);
            }
            let what = format!("{format}, packet {lost}");
            assert!(came.iter().all(|b| !is_fec(b)), "{what}");
            let recovered: Vec<_> = came.iter().filter(|b| is_marked(b)).collect();
            if recovered.is_empty() {
                // 40 % of one packet is none.
                assert_eq!(seq(&bytes(&all[lost])), 2, "{what}");
                continue;
            }
            assert_eq!(recovered.len(), 1, "{what}");
            assert_eq!(comparable(recovered[0]), comparable(&all[lost]), "{what}");
            assert_eq!(f.stat("recovered"), 1);
            assert_eq!(f.stat("media-packets") as usize, media - 1);
            let fec = (all.len() - media) as u64;
            assert_eq!(f.stat("fec-packets"), fec);
            let ends = [
                "fec-used",
                "useless",
                "unrecoverable",
                "fec-malformed",
                "fec-ignored",
                "fec-pending",
            ];
            assert_eq!(
                ends.map(|name| f.stat(name)).iter().sum::<u64>(),
                fec,
                "{what}"
            );
        }
    }
}

#[test]
fn a_recovered_packet_has_the_time_of_the_one_that_made_it_possible() {
    let all = protect("percentage-key=25", &[frame(0, 4, 0)]);
    let mut f = Fixture::new("pt=110");
    let at = |n: u64, buffer: &gst::Buffer| {
        let mut buffer = buffer.copy_deep().unwrap();
        let time = gst::ClockTime::from_mseconds(n);
        let b = buffer.get_mut().unwrap();
        b.set_pts(time);
        b.set_dts(time);
        buffer
    };
    for (n, buffer) in all.iter().enumerate().filter(|(n, _)| *n != 1 && *n != 3) {
        assert!(f.push(&at(n as u64, buffer)).len() <= 1);
    }
    // The last one missing is a media packet that came late.
    let out = f.push(&at(77, &all[3]));
    let seqs: Vec<u16> = out.iter().map(|b| seq(&bytes(b))).collect();
    assert_eq!(seqs, [3, 1], "the one that came goes first");
    let time = Some(gst::ClockTime::from_mseconds(77));
    assert_eq!((out[1].pts(), out[1].dts()), (time, time));
    assert!(is_marked(&out[1]) && !is_marked(&out[0]));
    assert!(
        out[1].flags().is_empty(),
        "no retransmission: {:?}",
        out[1].flags()
    );
}

#[test]
fn fec_is_known_by_payload_type_or_ssrc() {
    let all = protect("percentage-key=50 ssrc=4711", &[frame(0, 2, 0)]);
    for (properties, recovers) in [
        ("pt=110", true),
        ("ssrc=4711", true),
        ("pt=110 ssrc=4711", true),
        ("pt=110 protected-ssrcs=\"<286331153>\"", true),
        ("pt=110 protected-ssrcs=\"<5>\"", false),
    ] {
        let mut f = Fixture::new(properties);
        f.push(&all[0]);
        let out = f.push(&all[2]);
        assert_eq!(out.len(), usize::from(recovers), "{properties}");
        assert_eq!(f.stat("fec-packets"), 1, "{properties}");
    }
    for properties in ["", "pt=111", "ssrc=4712", "pt=110 ssrc=4712"] {
        let mut f = Fixture::new(properties);
        assert_eq!(f.push(&all[2]).len(), 1, "media to {properties:?}");
        assert_eq!(f.stat("fec-packets"), 0);
    }
}

#[test]
fn a_list_stays_one_unless_something_changes() {
    let all = protect("percentage-key=50", &[frame(0, 2, 0), frame(2, 2, 3000)]);
    let mut f = Fixture::new("pt=110");
    let peer = f.element.static_pad("sink").unwrap().peer().unwrap();
    let list = |which: &[usize]| -> gst::BufferList {
        which.iter().map(|n| all[*n].copy_deep().unwrap()).collect()
    };
    peer.push_list(list(&[0, 1])).unwrap();
    assert_eq!(f.out.words(), ["list2"]);
    peer.push_list(list(&[2, 3, 5])).unwrap();
    assert_eq!(f.out.words(), ["m2", "m3"], "the second was recovered");
    peer.push_list(list(&[])).unwrap();
    peer.push_list(list(&[2, 5])).unwrap();
    assert_eq!(f.out.words(), ["list0"], "nothing is left of FEC alone");
    assert_eq!(f.push(&all[4]).len(), 1, "late, but not ours to drop");
    assert_eq!(f.stat("already-recovered"), 1);
}

#[test]
fn what_is_no_rtp_or_no_fec_is_dropped_and_counted() {
    let all = protect("percentage-key=50", &[frame(0, 2, 0)]);
    let mut f = Fixture::new("pt=110");
    for data in [vec![], vec![0x80; 11], vec![0x40; 100]] {
        assert!(f.push(&gst::Buffer::from_slice(data)).is_empty());
    }
    assert_eq!(f.stat("malformed"), 3);
    let mut cut = bytes(&all[2]);
    cut.truncate(25);
    assert!(f.push(&gst::Buffer::from_slice(cut)).is_empty());
    assert_eq!((f.stat("fec-packets"), f.stat("fec-malformed")), (1, 1));
    assert_eq!(f.push(&all[0]).len(), 1);
}

#[test]
fn events_pass_and_a_flush_forgets() {
    let all = protect("percentage-key=50", &[frame(0, 2, 0)]);
    let mut f = Fixture::new("pt=110");
    f.push(&all[0]);
    assert!(f.h.push_event(gst::event::FlushStart::new()));
    assert!(f.h.push_event(gst::event::FlushStop::new(true)));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(f.h.push_event(gst::event::Segment::new(&segment)));
    assert_eq!(f.out.words(), ["flush-start", "flush-stop", "segment"]);
    assert!(f.push(&all[2]).is_empty(), "what it needs is gone");
    let lost = gst::Structure::builder("GstRTPPacketLost")
        .field("seqnum", 1u32)
        .build();
    assert!(f.h.push_event(gst::event::CustomDownstream::new(lost)));
    assert!(f.h.push_event(gst::event::Eos::new()));
    assert_eq!(f.out.words(), ["custom-downstream", "eos"]);
}

#[test]
fn states_cycle() {
    let all = protect("percentage-key=50", &[frame(0, 2, 0)]);
    let mut f = Fixture::new("pt=110");
    for state in [gst::State::Ready, gst::State::Null, gst::State::Ready] {
        f.push(&all[0]);
        assert_eq!(f.push(&all[2]).len(), 1);
        f.element.set_state(state).unwrap();
        f.element.set_state(gst::State::Playing).unwrap();
        assert_eq!(f.stat("media-packets"), 0, "a new start");
        let pad = f.h.srcpad().unwrap();
        for event in [
            gst::event::StreamStart::new("again"),
            gst::event::Caps::new(&caps()),
            gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()),
        ] {
            assert!(pad.push_event(event));
        }
        f.out.take();
    }
}

#[test]
fn packets_are_forgotten_when_they_are_old_or_too_many() {
    let all = protect("percentage-key=50", &[frame(0, 2, 0)]);
    for (properties, ms, recovers) in [
        ("max-age=100", 99, true),
        ("max-age=100", 101, false),
        ("max-packets=1", 0, false),
        ("max-packets=8", 0, true),
    ] {
        let mut f = Fixture::new(&format!("pt=110 {properties}"));
        f.push(&all[0]);
        f.clock.set_time(gst::ClockTime::from_mseconds(ms));
        assert_eq!(
            f.push(&all[2]).len(),
            usize::from(recovers),
            "{properties} {ms}"
        );
    }
}

#[test]
fn caps_of_fec_packets_end_here() {
    let mut f = Fixture::new("pt=110");
    for caps in [
        "application/x-rtp,payload=110,ssrc=(uint)7",
        "application/x-rtp,payload=96,ssrc=(uint)8",
        "application/x-rtp",
    ] {
        assert!(f.h.push_event(gst::event::Caps::new(&caps.parse().unwrap())));
    }
    assert_eq!(f.out.words(), ["caps96", "caps-1"]);
}

/// Other caps, as of another SSRC in webrtcbin, do not undo what was learnt.
#[test]
fn extension_ids_are_kept_over_other_caps() {
    let all = protect("percentage-key=50", &[frame(0, 2, 0)]);
    let mut f = Fixture::new("pt=110");
    f.h.set_src_caps_str("application/x-rtp,media=audio,payload=111");
    f.push(&all[0]);
    let out = f.push(&all[2]);
    assert_eq!(comparable(&out[0]), comparable(&all[1]));
    assert_eq!(bytes(&out[0])[17..19], [0, 0], "zero in what was recovered");
}

/// A change while packets are held; the counters go on.
#[test]
fn properties_change_while_playing() {
    let all = protect("percentage-key=50 format=rfc8627", &[frame(0, 2, 0)]);
    let mut f = Fixture::new("pt=110");
    f.push(&all[0]);
    f.element.set_property_from_str("format", "rfc8627");
    assert!(f.push(&all[2]).is_empty(), "what was held is forgotten");
    f.push(&all[1]);
    assert_eq!(f.stat("media-packets"), 2);
    let more = protect("percentage-key=50 format=rfc8627", &[frame(2, 2, 3000)]);
    f.push(&more[0]);
    assert_eq!(f.push(&more[2]).len(), 1);
}
