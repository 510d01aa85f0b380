// SPDX-License-Identifier: MPL-2.0
//! rtpflexfecenc alone: what goes out, and in which order.

mod common;

use common::*;
use gst::prelude::*;
use gst_check::Harness;

struct Fixture {
    element: gst::Element,
    h: Harness,
    out: Outlet,
}

impl Fixture {
    /// One FEC packet for two media packets.
    fn new() -> Self {
        Self::with("controller=fixed percentage=50 percentage-key=50")
    }

    /// One for each.
    fn whole() -> Self {
        Self::with("controller=fixed percentage=100 percentage-key=100")
    }

    fn with(properties: &str) -> Self {
        let mut fixture = Self::silent(properties);
        fixture.h.set_src_caps(caps());
        fixture
    }

    /// Nothing was pushed yet.
    fn silent(properties: &str) -> Self {
        init();
        let description = format!("rtpflexfecenc pt={FEC_PT} {properties}");
        let element = gst::parse::launch(&description).unwrap();
        let mut h = Harness::with_element(&element, Some("sink"), Some("src"));
        h.use_testclock();
        let out = Outlet::of(&element.static_pad("src").unwrap());
        h.play();
        Self { element, h, out }
    }

    #[track_caller]
    fn push(&mut self, packet: Packet) {
        assert_eq!(self.h.push(packet.buffer()), Ok(gst::FlowSuccess::Ok));
    }

    fn push_all(&mut self, packets: impl IntoIterator<Item = Packet>) {
        packets.into_iter().for_each(|packet| self.push(packet));
    }

    #[track_caller]
    fn push_list(&self, packets: impl IntoIterator<Item = Packet>) {
        let list: gst::BufferList = packets.into_iter().map(Packet::buffer).collect();
        let peer = self.element.static_pad("sink").unwrap().peer().unwrap();
        assert_eq!(peer.push_list(list), Ok(gst::FlowSuccess::Ok));
    }

    fn stat(&self, name: &str) -> u64 {
        stat(&self.element, name)
    }

    /// Sends the event upstream into the source pad.
    fn send_up(&self, s: gst::Structure) {
        let pad = self.element.static_pad("src").unwrap();
        assert!(pad.send_event(gst::event::CustomUpstream::new(s)));
    }

    fn estimate(&self, target: u64, loss: f64, rtt_ms: u64) {
        self.send_up(
            gst::Structure::builder(ESTIMATE)
                .field("target-bitrate", target)
                .field("pacing-bitrate", 5 * target)
                .field("padding-bitrate", 0u64)
                .field("loss", loss)
                .field("rtt", rtt_ms * 1_000_000)
                .build(),
        );
    }

    /// Custom events that have come out upstream.
    fn came_up(&mut self) -> Vec<gst::Structure> {
        std::iter::from_fn(|| self.h.try_pull_upstream_event())
            .filter_map(|event| Some(event.structure()?.to_owned()))
            .collect()
    }

    /// Custom targets that have come out upstream.
    fn targets(&mut self) -> Vec<u64> {
        let events = self.came_up();
        let of_estimate = events.iter().filter(|s| s.name() == ESTIMATE);
        of_estimate
            .map(|s| s.get("target-bitrate").unwrap())
            .collect()
    }
}

#[test]
fn media_pass_untouched_and_at_once_and_fec_follows_the_frame() {
    let mut f = Fixture::new();
    f.out.take();
    let packets = frame(65_534, 4, 9000);
    for packet in &packets[..3] {
        f.push(*packet);
        let out = f.out.packets();
        assert_eq!(out.len(), 1, "alone, before the next one comes");
        assert_eq!(bytes(&out[0]), packet.bytes());
    }
    f.push(packets[3]);
    let out = f.out.packets();
    assert_eq!(bytes(&out[0]), packets[3].bytes());
    let fec = &out[1..];
    assert_eq!(fec.len(), 2, "half of four");
    let fec_ssrc: u32 = f.element.property("ssrc");
    assert_ne!(fec_ssrc, 0);
    for buffer in fec {
        let data = bytes(buffer);
        assert_eq!((pt(&data), ssrc(&data)), (FEC_PT, fec_ssrc));
        assert_eq!(timestamp(&data), 9000);
        assert_eq!((buffer.pts(), buffer.dts()), (out[0].pts(), out[0].dts()));
        let rtp = gst_rtp::RTPBuffer::from_buffer_readable(buffer).unwrap();
        let twcc = rtp.extension_onebyte_header(3, 0);
        assert_eq!(twcc, Some(&[0, 0][..]), "for the session to write");
    }
    let [first, second] = [0, 1].map(|n| seq(&bytes(&fec[n])));
    assert_eq!(second, first.wrapping_add(1));
    for _ in 0..4 {
        f.h.pull().unwrap();
    }
    let fec = f.h.pull().unwrap();
    assert_eq!(pt(&bytes(&fec)), FEC_PT);
    assert!(fec.is_all_memory_writable(), "for that it is not copied");
    f.push_all(frame(2, 2, 12_000));
    assert_eq!(seq(&bytes(&f.out.fec()[0])), second.wrapping_add(1));
    for (name, count) in [
        ("media-packets", 6),
        ("fec-packets", 3),
        ("frames", 2),
        ("blocks", 2),
        ("protected", 6),
        ("unprotected", 0),
        ("held", 0),
    ] {
        assert_eq!(f.stat(name), count, "{name}");
    }
    assert_eq!(f.stat("media-bytes"), (200 + 237 + 274 + 311 + 200 + 237));
}

/// The session downstream would have to copy them.
#[test]
fn no_reference_to_media_is_kept() {
    let mut f = Fixture::new();
    let buffer = Packet::default().buffer();
    let address = buffer.as_ptr();
    assert_eq!(f.h.push(buffer), Ok(gst::FlowSuccess::Ok));
    let mut out = f.h.pull().unwrap();
    assert_eq!(out.as_ptr(), address, "the same buffer");
    assert!(out.get_mut().is_some(), "and only here");
    assert!(out.is_all_memory_writable());
}

#[test]
fn without_a_marker_the_next_timestamp_ends_the_frame() {
    let mut f = Fixture::new();
    f.out.take();
    let plain = |seq, timestamp| Packet {
        seq,
        timestamp,
        ..Packet::default()
    };
    f.push_all([plain(0, 0), plain(1, 0), plain(2, 3000), plain(3, 3000)]);
    assert_eq!(f.out.words(), ["m0", "m1", "fec", "m2", "m3"]);
    f.push(plain(4, 6000));
    assert_eq!(f.out.words(), ["fec", "m4"]);
    assert_eq!((f.stat("frames"), f.stat("held")), (2, 1));
}

#[test]
fn other_ssrcs_pass_unprotected() {
    let other = |seq| Packet {
        ssrc: 7,
        seq,
        marker: true,
        ..Packet::default()
    };
    let own = |seq| Packet {
        ssrc: MEDIA_SSRC,
        ..other(seq)
    };
    // The one of the caps.
    let mut f = Fixture::whole();
    f.out.take();
    f.push_all([other(1), own(2)]);
    assert_eq!(f.out.words(), ["m1", "m2", "fec"]);
    assert_eq!((f.stat("other-packets"), f.stat("media-packets")), (1, 1));
    // The first one.
    let mut f = Fixture::silent("controller=fixed percentage=100 percentage-key=100");
    f.h.set_src_caps_str("application/x-rtp");
    f.out.take();
    f.push_all([other(1), own(2)]);
    assert_eq!(f.out.words(), ["m1", "fec", "m2"]);
    // As it was set, also while playing.
    let mut f = Fixture::whole();
    f.out.take();
    f.element
        .set_property("protected-ssrcs", gst::Array::new([MEDIA_SSRC, 7]));
    f.push_all([other(1), own(2)]);
    assert_eq!(f.out.words(), ["m1", "fec", "m2", "fec"]);
    let kept: gst::Array = f.element.property("protected-ssrcs");
    assert_eq!(kept.len(), 2);
    f.element
        .set_property("protected-ssrcs", gst::Array::new([8u32]));
    f.push_all([other(3), own(4)]);
    assert_eq!(f.out.words(), ["m3", "m4"]);
}

#[test]
fn two_streams_in_turns_are_protected_together() {
    let mut f = Fixture::with(
        "controller=fixed percentage=100 percentage-key=100 format=rfc8627 protected-ssrcs=\"<1,2>\"",
    );
    f.out.take();
    let packet = |ssrc, seq, marker| Packet {
        ssrc,
        seq,
        marker,
        timestamp: ssrc,
        ..Packet::default()
    };
    f.push_all([
        packet(1, 10, false),
        packet(2, 20, false),
        packet(1, 11, false),
        packet(1, 12, true),
    ]);
    assert_eq!(
        f.out.words(),
        ["m10", "m20", "m11", "m12", "fec", "fec", "fec", "fec"]
    );
    f.push_all([packet(2, 21, true)]);
    assert_eq!(f.out.words(), ["m21", "fec"]);
    assert_eq!((f.stat("protected"), f.stat("held")), (5, 0));
}

#[test]
fn a_list_stays_one_and_fec_follows() {
    let f = Fixture::new();
    f.out.take();
    f.push_list(frame(0, 4, 0));
    assert_eq!(f.out.words(), ["list4", "fec", "fec"]);
    f.push_list(frame(4, 3, 3000).into_iter().take(2));
    assert_eq!(f.out.words(), ["list2"]);
    // Two frames in one: FEC goes between them.
    let mut packets = frame(6, 2, 6000);
    packets.extend(frame(8, 2, 9000));
    f.push_list(packets);
    assert_eq!(
        f.out.words(),
        ["fec", "m6", "m7", "fec", "m8", "m9", "fec"],
        "the frame before had no marker"
    );
    f.push_list([]);
    f.push_list([Packet {
        ssrc: 9,
        ..Packet::default()
    }]);
    assert_eq!(f.out.words(), ["list0", "list1"]);
    assert_eq!(f.stat("protected"), 10);
}

#[test]
fn caps_of_fec_packets_come_once_and_before_those_of_the_media() {
    let mut f = Fixture::new();
    f.push_all(frame(0, 2, 0));
    f.push_all(frame(2, 2, 3000));
    let words = f.out.words();
    assert_eq!(
        words,
        [
            "stream-start",
            "caps110",
            "caps96",
            "segment",
            "m0",
            "m1",
            "fec",
            "m2",
            "m3",
            "fec"
        ]
    );
    // Another SSRC: again, when it is needed, and the media's after it.
    f.element.set_property("ssrc", 7u32);
    f.push_all(frame(4, 2, 6000));
    assert_eq!(f.out.words(), ["m4", "m5", "caps110", "caps96", "fec"]);
    let caps = f.element.static_pad("src").unwrap().current_caps();
    assert_eq!(caps, Some(common::caps()), "what comes next is media");
}

#[test]
fn the_caps_of_fec_packets_say_what_the_session_needs() {
    let f = Fixture::new();
    let caps = f.out.take().into_iter().find_map(|out| match out {
        Out::Event(event) => match event.view() {
            gst::EventView::Caps(caps) => Some(caps.caps_owned()),
            _ => None,
        },
        _ => None,
    });
    let caps = caps.unwrap();
    let s = caps.structure(0).unwrap();
    assert_eq!(s.get("payload"), Ok(110i32));
    assert_eq!(s.get("clock-rate"), Ok(90_000i32));
    assert_eq!(s.get("ssrc"), Ok(f.element.property::<u32>("ssrc")));
    assert_eq!(s.get("extmap-3"), Ok(TWCC_URI));
    assert_eq!(s.get("encoding-name"), Ok("FLEXFEC-03"));
}

#[test]
fn what_is_held_is_protected_before_eos() {
    let mut f = Fixture::new();
    f.out.take();
    f.push_all(frame(0, 4, 0).into_iter().take(2));
    assert!(f.h.push_event(gst::event::Eos::new()));
    assert_eq!(f.out.words(), ["m0", "m1", "fec", "eos"]);
    assert_eq!(f.stat("held"), 0);
}

#[test]
fn a_flush_drops_what_is_held() {
    let mut f = Fixture::new();
    f.push_all(frame(0, 9, 0).into_iter().take(6));
    assert_eq!(f.stat("held"), 6);
    assert!(f.h.push_event(gst::event::FlushStart::new()));
    assert_eq!(
        f.h.push(Packet::default().buffer()),
        Err(gst::FlowError::Flushing)
    );
    assert!(f.h.push_event(gst::event::FlushStop::new(true)));
    assert_eq!((f.stat("held"), f.stat("unprotected")), (0, 6));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(f.h.push_event(gst::event::Segment::new(&segment)));
    f.out.take();
    f.push_all(frame(50, 2, 30_000));
    assert_eq!(f.out.words(), ["m50", "m51", "fec"]);
}

/// The FEC packet belongs to the running time of the media, in whatever segment
/// it goes out.
#[test]
fn a_new_segment_moves_the_time_of_what_is_held() {
    let mut f = Fixture::whole();
    // PTS 1 s.
    f.push(Packet {
        timestamp: 90_000,
        ..Packet::default()
    });
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(gst::ClockTime::from_seconds(100));
    assert!(f.h.push_event(gst::event::Segment::new(&segment)));
    f.out.take();
    assert!(f.h.push_event(gst::event::Eos::new()));
    assert_eq!(
        f.out.fec()[0].pts(),
        Some(gst::ClockTime::from_seconds(101))
    );
}

#[test]
fn states_cycle_with_packets_held() {
    let mut f = Fixture::whole();
    let mut ssrcs = Vec::new();
    for state in [gst::State::Ready, gst::State::Null] {
        f.out.take();
        f.push_all(frame(0, 3, 0));
        f.push_all(frame(3, 2, 3000).into_iter().take(1));
        assert_eq!(f.out.words(), ["m0", "m1", "m2", "fec", "fec", "fec", "m3"]);
        ssrcs.push(f.element.property::<u32>("ssrc"));
        f.element.set_state(state).unwrap();
        assert_eq!(f.stat("held"), 0);
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
    }
    assert_eq!(ssrcs[0], ssrcs[1], "kept in READY");
    assert_ne!(
        ssrcs[1],
        f.element.property::<u32>("ssrc"),
        "another one after NULL"
    );
}

#[test]
fn an_ssrc_that_is_set_is_used() {
    let mut f = Fixture::with("controller=fixed percentage-key=50 ssrc=4711");
    f.push_all(frame(0, 2, 0));
    assert_eq!(ssrc(&bytes(&f.out.fec()[0])), 4711);
    f.element.set_property("ssrc", 4712u32);
    f.push_all(frame(2, 2, 3000));
    let fec = f.out.fec();
    assert_eq!(ssrc(&bytes(&fec[0])), 4712);
}

#[test]
fn no_payload_type_means_no_fec() {
    let mut f = Fixture::new();
    f.element.set_property("pt", 255u32);
    f.out.take();
    f.push_all(frame(0, 4, 0));
    assert_eq!(f.out.words(), ["m0", "m1", "m2", "m3"]);
    f.estimate(1_000_000, 0.1, 100);
    assert_eq!(
        f.targets(),
        [1_000_000],
        "and nothing is taken of the target"
    );
    assert_eq!(f.stat("unprotected"), 4);
    f.push_all(frame(4, 4, 3000).into_iter().take(2));
    f.element.set_property("pt", 110u32);
    f.push_all(frame(4, 4, 3000).into_iter().skip(2));
    assert_eq!(f.stat("protected"), 2);
}

#[test]
fn key_frames_have_a_percentage_of_their_own() {
    let key = Packet {
        marker: true,
        frame: Some(0x48),
        ..Packet::default()
    };
    let delta = Packet {
        seq: 1,
        timestamp: 3000,
        frame: Some(0x40),
        ..key
    };
    // By the header extension, whatever the flag of the buffer is.
    let mut f = Fixture::with("controller=fixed percentage=0 percentage-key=100");
    f.out.take();
    f.push_all([key, delta]);
    assert_eq!(f.out.words(), ["m0", "fec", "m1"]);
    // By the flag of the first packet.
    let mut f = Fixture::with("controller=fixed percentage=0 percentage-key=100");
    f.out.take();
    let plain = |seq, marker, is_delta| {
        let timestamp = u32::from(seq / 2) * 3000;
        let mut buffer = Packet {
            seq,
            marker,
            timestamp,
            ..Packet::default()
        }
        .buffer();
        if is_delta {
            buffer
                .get_mut()
                .unwrap()
                .set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        buffer
    };
    for buffer in [
        plain(0, false, false),
        plain(1, true, true),
        plain(2, false, true),
        plain(3, true, false),
    ] {
        f.h.push(buffer).unwrap();
    }
    assert_eq!(f.out.words(), ["m0", "m1", "fec", "fec", "m2", "m3"]);
    assert_eq!((f.stat("protected"), f.stat("unprotected")), (2, 2));
}

/// As in webrtcbin, where caps here name one header extension only.
#[test]
fn header_extensions_are_found_in_front_of_a_funnel() {
    init();
    let description = format!(
        "rtpfunnel name=funnel ! rtpflexfecenc name=enc pt={FEC_PT} controller=fixed \
         percentage=0 percentage-key=100"
    );
    let bin = gst::parse::bin_from_description(&description, false).unwrap();
    let [funnel, enc] = ["funnel", "enc"].map(|name| bin.by_name(name).unwrap());
    for (element, name) in [(&funnel, "sink_0"), (&enc, "src")] {
        let pad = element
            .static_pad(name)
            .or_else(|| element.request_pad_simple(name));
        let ghost = gst::GhostPad::with_target(&pad.unwrap()).unwrap();
        bin.add_pad(&ghost).unwrap();
    }
    let names = [bin.sink_pads(), bin.src_pads()].map(|pads| pads[0].name());
    let mut h = Harness::with_element(&bin, Some(&names[0]), Some(&names[1]));
    h.play();
    h.set_src_caps(caps());
    let out = Outlet::of(&enc.static_pad("src").unwrap());
    // The extension says key frame, the flag of the buffer does not.
    let mut buffer = Packet {
        marker: true,
        frame: Some(0x48),
        ..Packet::default()
    }
    .buffer();
    buffer
        .get_mut()
        .unwrap()
        .set_flags(gst::BufferFlags::DELTA_UNIT);
    h.push(buffer).unwrap();
    let caps = enc.static_pad("sink").unwrap().current_caps().unwrap();
    let s = caps.structure(0).unwrap();
    assert!(!s.has_field("extmap-4"), "the funnel has left it out: {s}");
    assert_eq!(out.fec().len(), 1);
}

#[test]
fn what_is_no_rtp_is_dropped_and_counted() {
    let mut f = Fixture::new();
    f.out.take();
    for data in [vec![], vec![0x80; 11], vec![0x40; 100]] {
        let buffer = gst::Buffer::from_slice(data);
        assert_eq!(f.h.push(buffer), Ok(gst::FlowSuccess::Ok));
    }
    assert!(f.out.take().is_empty());
    assert_eq!(f.stat("malformed"), 3);
    f.push(Packet::default());
    assert_eq!(f.out.words(), ["m0"]);
}

#[test]
fn a_frame_larger_than_a_block_is_protected_in_parts() {
    let mut f = Fixture::with("controller=fixed percentage=10 percentage-key=10");
    f.push_all(
        frame(0, 300, 0)
            .into_iter()
            .map(|p| Packet { size: 100, ..p }),
    );
    assert_eq!((f.stat("protected"), f.stat("held")), (300, 0));
    assert!(f.stat("blocks") >= 3);
    assert!(
        (30..=33).contains(&f.stat("fec-packets")),
        "{}",
        f.stat("fec-packets")
    );
}

#[test]
fn foreign_upstream_events_pass() {
    let mut f = Fixture::new();
    let names = [
        "GstForceKeyUnit",
        "RTPTWCCPackets",
        "GstRTPRetransmissionRequest",
    ];
    for name in names {
        f.send_up(gst::Structure::builder(name).field("ssrc", 1u32).build());
    }
    let came: Vec<_> = f.came_up().iter().map(|s| s.name().to_string()).collect();
    assert_eq!(came, names);
    assert_eq!(f.stat("wrong-fields"), 1, "no packets in the feedback");
    f.send_up(
        gst::Structure::builder(ESTIMATE)
            .field("target-bitrate", "x")
            .build(),
    );
    assert_eq!(
        f.came_up().len(),
        1,
        "nothing that is known, but not ours to drop"
    );
    assert_eq!(f.stat("wrong-fields"), 2);
}
