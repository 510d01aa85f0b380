// SPDX-License-Identifier: MPL-2.0
//! The header extension between GStreamer's own payloaders and depayloaders.
//! Packets are copied byte by byte on the way, as a network does.

mod common;

use gst::prelude::*;
use gst_rtp::prelude::*;

const URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
/// 2023-08-04, by NTP.
const TIME: u64 = 3_900_000_000_123_456_789;

fn reference() -> gst::Caps {
    gst::Caps::new_empty_simple("timestamp/x-ntp")
}

fn caps(id: u8) -> gst::Caps {
    gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("clock-rate", 90000i32)
        .field("encoding-name", "H264")
        .field("payload", 96i32)
        .field(format!("extmap-{id}"), URI)
        .build()
}

/// Packets of a picture of 3000 bytes; `known`: with its time of capture.
fn packets(id: u8, known: bool) -> Vec<Vec<u8>> {
    let mut h = gst_check::Harness::new("rtph264pay");
    h.set_caps_str(
        "video/x-h264,stream-format=byte-stream,alignment=au",
        &caps(id).to_string(),
    );
    let mut data = vec![0, 0, 0, 1, 0x65];
    data.resize(3000, 0xaa);
    let mut buffer = gst::Buffer::from_mut_slice(data);
    {
        let buffer = buffer.get_mut().unwrap();
        buffer.set_pts(gst::ClockTime::ZERO);
        if known {
            let time = gst::ClockTime::from_nseconds(TIME);
            gst::ReferenceTimestampMeta::add(buffer, &reference(), time, gst::ClockTime::NONE);
        }
    }
    h.push(buffer).unwrap();
    std::iter::from_fn(|| h.try_pull())
        .map(|packet| packet.map_readable().unwrap().to_vec())
        .collect()
}

/// The time of the depayloaded picture.
fn depayload(packets: &[Vec<u8>], id: u8) -> Option<u64> {
    let mut h = gst_check::Harness::new("rtph264depay");
    h.set_sink_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
    h.set_src_caps(caps(id));
    for packet in packets {
        h.push(gst::Buffer::from_slice(packet.clone())).unwrap();
    }
    let unit = h.pull().unwrap();
    let meta = unit
        .iter_meta::<gst::ReferenceTimestampMeta>()
        .find(|meta| meta.reference().can_intersect(&reference()));
    meta.map(|meta| meta.timestamp().nseconds())
}

#[test]
fn every_packet_carries_the_time_in_both_kinds_of_header() {
    common::init();
    for id in [5, 20] {
        let packets = packets(id, true);
        assert!(packets.len() >= 3, "{} packets", packets.len());
        for packet in &packets {
            // Seconds since 1900, at the place that RFC 8285 says.
            let at = if id < 15 { 17 } else { 18 };
            assert_eq!(
                packet[at..at + 4],
                3_900_000_000u32.to_be_bytes(),
                "id {id}"
            );
        }
        assert_eq!(depayload(&packets, id), Some(TIME), "id {id}");
    }
}

#[test]
fn what_has_no_time_gets_no_extension() {
    common::init();
    let packets = packets(5, false);
    assert!(packets.iter().all(|packet| packet[0] & 0x10 == 0));
    assert_eq!(depayload(&packets, 5), None);
}

/// In the long form, from a clock that is 2 s behind the sender's.
#[test]
fn an_offset_is_taken_off() {
    common::init();
    let ext = gst_rtp::RTPHeaderExtension::create_from_uri(URI).unwrap();
    ext.set_id(5);
    let mut data = 0x8000_0000_0000_0000u64.to_be_bytes().to_vec();
    data.extend((-2i64 << 32).to_be_bytes());
    let mut output = gst::Buffer::new();
    let flags = gst_rtp::RTPHeaderExtensionFlags::ONE_BYTE;
    assert!(ext.read(flags, &data, output.get_mut().unwrap()));
    let time = output.meta::<gst::ReferenceTimestampMeta>().unwrap();
    assert_eq!(
        time.timestamp(),
        gst::ClockTime::from_seconds((1 << 31) + 2)
    );
}

#[test]
fn any_bytes_are_read_without_harm_and_counted() {
    common::init();
    let ext = gst_rtp::RTPHeaderExtension::create_from_uri(URI).unwrap();
    ext.set_id(5);
    let flags = gst_rtp::RTPHeaderExtensionFlags::TWO_BYTE;
    let mut good = 0;
    for length in 0..256usize {
        for byte in [0u8, 0x7f, 0x80, 0xff] {
            let mut output = gst::Buffer::new();
            assert!(ext.read(flags, &vec![byte; length], output.get_mut().unwrap()));
            good += u64::from(length == 8 || length == 16);
        }
    }
    let stats: gst::Structure = ext.property("stats");
    assert_eq!(stats.get::<u64>("read"), Ok(good));
    assert_eq!(stats.get::<u64>("bad-length"), Ok(256 * 4 - good));
}
