// SPDX-License-Identifier: MPL-2.0
//! The header extension between GStreamer's own payloader and depayloader.
//! Packets are copied byte by byte on the way, as a network does: metas that
//! travel with the buffers of one process must not help.

use dualstream_core::wire::{FrameTag, Stream, URI};
use gst::prelude::*;
use gst_rtp::RTPBuffer;
use gst_rtp::prelude::*;
use gstdualstream::meta;

fn init() {
    use std::sync::Once;
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstdualstream::plugin_register_static().unwrap();
    });
}

/// Access units of a moving picture in three slices, a key frame each five.
fn access_units() -> Vec<gst::Buffer> {
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=12 pattern=ball ! video/x-raw,width=320,height=240,framerate=30/1 \
         ! x264enc tune=zerolatency key-int-max=5 bitrate=1500 threads=3 sliced-threads=true \
         ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=out sync=false",
    )
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let out = pipeline
        .by_name("out")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut units = Vec::new();
    while let Ok(sample) = out.pull_sample() {
        units.push(sample.buffer_owned().unwrap());
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(units.len(), 12, "x264enc makes one unit of each picture");
    units
}

/// Every field takes each of its values, and the number wraps.
fn tag(index: usize) -> FrameTag {
    FrameTag {
        stream: Stream::from_index(index as u32 % 2).unwrap(),
        background: index % 3 == 1,
        key: index.is_multiple_of(5),
        acknowledged: index % 4 == 2,
        number: 0xfffa_u16.wrapping_add(index as u16),
        generation: 250_u8.wrapping_add(index as u8),
    }
}

fn rtp_caps(id: Option<u8>) -> gst::Caps {
    let mut caps = gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("clock-rate", 90000i32)
        .field("encoding-name", "H264")
        .field("payload", 96i32);
    if let Some(id) = id {
        caps = caps.field(format!("extmap-{id}"), URI);
    }
    caps.build()
}

/// Payloads `units`; `tagged` says which get a tag.
fn payload(
    units: &[gst::Buffer],
    id: Option<u8>,
    mtu: u32,
    tagged: impl Fn(usize) -> bool,
) -> Vec<Vec<u8>> {
    let pay = gst::ElementFactory::make("rtph264pay")
        .property("mtu", mtu)
        .build()
        .unwrap();
    let mut h = gst_check::Harness::with_element(&pay, Some("sink"), Some("src"));
    h.set_caps_str(
        "video/x-h264,stream-format=byte-stream,alignment=au,profile=high,width=320,height=240,framerate=30/1",
        &rtp_caps(id).to_string(),
    );
    let mut packets = Vec::new();
    for (index, unit) in units.iter().enumerate() {
        let mut unit = unit.copy();
        if tagged(index) {
            meta::set(unit.make_mut(), tag(index));
        }
        h.push(unit).unwrap();
        while let Some(packet) = h.try_pull() {
            packets.push(packet.map_readable().unwrap().to_vec());
        }
    }
    packets
}

struct Unit {
    tag: Option<FrameTag>,
    flags: gst::BufferFlags,
    size: usize,
}

/// Depayloads packets and also returns the extension's own counters.
fn depayload(packets: &[Vec<u8>], id: Option<u8>) -> (Vec<Unit>, Option<gst::Structure>) {
    let depay = gst::ElementFactory::make("rtph264depay").build().unwrap();
    // By hand where the counters are wanted; `a_depayloader_finds_it_by_uri`
    // has the other way.
    let ext = id.map(|id| {
        let ext = gst_rtp::RTPHeaderExtension::create_from_uri(URI).unwrap();
        ext.set_id(id.into());
        depay.emit_by_name::<()>("add-extension", &[&ext]);
        ext
    });
    let units = run_depayloader(&depay, packets, id);
    (units, ext.map(|ext| ext.property("stats")))
}

fn run_depayloader(depay: &gst::Element, packets: &[Vec<u8>], id: Option<u8>) -> Vec<Unit> {
    let mut h = gst_check::Harness::with_element(depay, Some("sink"), Some("src"));
    h.set_sink_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
    h.set_src_caps(rtp_caps(id));
    let mut units = Vec::new();
    for packet in packets {
        let mut buffer = gst::Buffer::from_slice(packet.clone());
        let rtptime = RTPBuffer::from_buffer_readable(&buffer)
            .unwrap()
            .timestamp();
        buffer.make_mut().set_pts(gst::ClockTime::from_nseconds(
            u64::from(rtptime) * 100_000 / 9,
        ));
        h.push(buffer).unwrap();
        while let Some(unit) = h.try_pull() {
            units.push(Unit {
                tag: meta::of(&unit),
                flags: unit.flags(),
                size: unit.size(),
            });
        }
    }
    units
}

fn marker(packet: &[u8]) -> bool {
    packet[1] & 0x80 != 0
}

/// Where in the packet the four bytes are, found by hand from RFC 8285.
fn extension_at(packet: &[u8], id: u8) -> Option<usize> {
    if packet[0] & 0x10 == 0 {
        return None;
    }
    let start = 12 + 4 * usize::from(packet[0] & 0x0f);
    match (packet[start], packet[start + 1]) {
        (0xbe, 0xde) if packet[start + 4] == id << 4 | 3 => Some(start + 5),
        (0x10, 0x00) if packet[start + 4..start + 6] == [id, 4] => Some(start + 6),
        _ => None,
    }
}

#[track_caller]
fn assert_all_tagged(units: &[Unit]) {
    assert_eq!(units.len(), 12);
    for (index, unit) in units.iter().enumerate() {
        assert_eq!(unit.tag, Some(tag(index)), "unit {index}");
    }
}

#[test]
fn every_packet_carries_the_tag_in_a_one_byte_header() {
    init();
    let packets = payload(&access_units(), Some(4), 200, |_| true);
    assert!(
        packets.len() > 24,
        "units must be of several packets, have {}",
        packets.len()
    );
    let mut index = 0;
    for packet in &packets {
        let at = extension_at(packet, 4).expect("no extension on a packet");
        assert_eq!(packet[12..14], [0xbe, 0xde]);
        assert_eq!(packet[at..at + 4], tag(index).to_bytes());
        index += usize::from(marker(packet));
    }
    let (units, stats) = depayload(&packets, Some(4));
    assert_all_tagged(&units);
    assert_eq!(stats.unwrap().get::<u64>("read"), Ok(12));
}

#[test]
fn an_id_above_fourteen_takes_the_two_byte_header() {
    init();
    for mtu in [200, 1400] {
        let packets = payload(&access_units(), Some(20), mtu, |_| true);
        for packet in &packets {
            assert_eq!(packet[12..14], [0x10, 0x00]);
            assert!(extension_at(packet, 20).is_some());
        }
        assert_all_tagged(&depayload(&packets, Some(20)).0);
    }
}

#[test]
fn a_depayloader_finds_it_by_uri() {
    init();
    let packets = payload(&access_units(), Some(4), 1400, |_| true);
    let depay = gst::ElementFactory::make("rtph264depay").build().unwrap();
    assert_all_tagged(&run_depayloader(&depay, &packets, Some(4)));
}

#[test]
fn the_header_size_changes_nothing_of_the_video() {
    init();
    let units = access_units();
    let with = depayload(&payload(&units, Some(4), 200, |_| true), Some(4)).0;
    let without = depayload(&payload(&units, None, 200, |_| true), None).0;
    let sizes = |units: &[Unit]| units.iter().map(|u| u.size).collect::<Vec<_>>();
    assert_eq!(sizes(&with), sizes(&without));
}

/// The control of the tests above: metas do not pass by themselves here.
#[test]
fn without_the_extension_there_is_no_tag() {
    init();
    let packets = payload(&access_units(), None, 200, |_| true);
    assert!(packets.iter().all(|p| p[0] & 0x10 == 0));
    let (units, _) = depayload(&packets, None);
    assert_eq!(units.len(), 12);
    assert!(units.iter().all(|u| u.tag.is_none()));
    // Nor does a receiver that expects it mind.
    let (units, stats) = depayload(&packets, Some(4));
    assert_eq!(units.len(), 12);
    assert!(units.iter().all(|u| u.tag.is_none()));
    assert_eq!(stats.unwrap().get::<u64>("read"), Ok(0));
}

#[test]
fn a_buffer_without_the_meta_gets_no_header_extension() {
    init();
    let packets = payload(&access_units(), Some(4), 1400, |index| index % 2 == 0);
    let mut index = 0;
    for packet in &packets {
        assert_eq!(packet[0] & 0x10 != 0, index % 2 == 0, "unit {index}");
        index += usize::from(marker(packet));
    }
    let (units, _) = depayload(&packets, Some(4));
    for (index, unit) in units.iter().enumerate() {
        assert_eq!(unit.tag, (index % 2 == 0).then(|| tag(index)));
    }
}

#[test]
fn unknown_versions_are_ignored_and_counted() {
    init();
    let packets = payload(&access_units(), Some(4), 200, |_| true);
    for version in [0u8, 2, 3] {
        let mut packets = packets.clone();
        for packet in &mut packets {
            let at = extension_at(packet, 4).unwrap();
            packet[at] = packet[at] & 0x3f | version << 6;
        }
        let (units, stats) = depayload(&packets, Some(4));
        assert_eq!(units.len(), 12, "the video goes on");
        assert!(units.iter().all(|u| u.tag.is_none()));
        let stats = stats.unwrap();
        assert_eq!(stats.get::<u64>("bad-version"), Ok(12));
        assert_eq!(stats.get::<u64>("read"), Ok(0));
    }
}

#[test]
fn every_other_length_is_ignored_and_counted() {
    init();
    let plain = payload(&access_units(), None, 1400, |_| true);
    let mut wrong = Vec::new();
    // Length 0 exists in the two-byte header alone.
    for (length, two_byte) in (1..=16)
        .map(|l| (l, false))
        .chain((0..=255).map(|l| (l, true)))
    {
        let mut extension = match two_byte {
            true => vec![4, length as u8],
            false => vec![4 << 4 | (length as u8 - 1)],
        };
        extension.resize(extension.len() + length, 0x40);
        extension.resize(extension.len().next_multiple_of(4).max(8), 0);
        let packets: Vec<Vec<u8>> = plain
            .iter()
            .map(|packet| {
                let mut out = packet[..12].to_vec();
                out[0] |= 0x10;
                out.extend(if two_byte { [0x10, 0x00] } else { [0xbe, 0xde] });
                out.extend((extension.len() as u16 / 4).to_be_bytes());
                out.extend(&extension);
                out.extend(&packet[12..]);
                out
            })
            .collect();
        let (units, stats) = depayload(&packets, Some(4));
        let stats = stats.unwrap();
        let counted = stats.get::<u64>("bad-length").unwrap();
        let tagged = units.iter().filter(|u| u.tag.is_some()).count();
        let expected = if length == 4 { (0, 12) } else { (12, 0) };
        if units.len() != 12 || (counted, tagged) != expected {
            wrong.push((length, two_byte, units.len(), counted, tagged));
        }
    }
    assert!(
        wrong.is_empty(),
        "(length, two-byte, units, counted, tagged): {wrong:?}"
    );
}

/// rtph264depay then gives up the unit at the first packet of the next one,
/// and offers that packet's extension for it.
#[test]
fn a_unit_that_lost_its_end_does_not_take_the_tag_of_the_next() {
    init();
    let all = payload(&access_units(), Some(4), 200, |_| true);
    let ends: Vec<usize> = (0..all.len()).filter(|i| marker(&all[*i])).collect();
    let mut incomplete = 0;
    for (lost, end) in ends.iter().enumerate().skip(1).take(10) {
        let mut packets = all.clone();
        packets.remove(*end);
        let (units, stats) = depayload(&packets, Some(4));
        for unit in &units {
            if let Some(tag) = unit.tag {
                assert!(
                    unit.flags.contains(gst::BufferFlags::MARKER),
                    "a unit without its end says {tag:?}"
                );
            }
        }
        let numbers: Vec<u16> = units.iter().filter_map(|u| Some(u.tag?.number)).collect();
        let expected: Vec<u16> = (0..12)
            .filter(|i| *i != lost)
            .map(|i| tag(i).number)
            .collect();
        assert_eq!(numbers, expected, "unit {lost} lost its last packet");
        let counted = stats.unwrap().get::<u64>("incomplete").unwrap();
        assert_eq!(counted as usize, units.len() - numbers.len());
        incomplete += counted;
    }
    assert!(incomplete > 5, "units of several slices show the case");
}

#[test]
fn a_lost_first_or_middle_packet_leaves_the_right_number() {
    init();
    let all = payload(&access_units(), Some(4), 200, |_| true);
    for lost in (0..all.len()).filter(|i| !marker(&all[*i])) {
        let mut packets = all.clone();
        packets.remove(lost);
        let (units, _) = depayload(&packets, Some(4));
        let numbers: Vec<u16> = units.iter().filter_map(|u| Some(u.tag?.number)).collect();
        let mut sorted = numbers.clone();
        sorted.sort_by_key(|n| n.wrapping_sub(tag(0).number));
        sorted.dedup();
        assert_eq!(numbers, sorted, "packet {lost}: once each, in order");
    }
}

#[test]
fn the_write_side_counts_packets() {
    init();
    let ext = gst_rtp::RTPHeaderExtension::create_from_uri(URI).unwrap();
    ext.set_id(4);
    let mut input = gst::Buffer::new();
    let output = gst::Buffer::new();
    let mut data = [0xaa; 6];
    let flags = gst_rtp::RTPHeaderExtensionFlags::ONE_BYTE;
    assert_eq!(ext.write(&input, flags, &output, &mut data).unwrap(), 0);
    assert_eq!(data, [0xaa; 6], "nothing is touched without the meta");
    meta::set(input.make_mut(), tag(1));
    assert_eq!(ext.write(&input, flags, &output, &mut data).unwrap(), 4);
    assert_eq!(data[..4], tag(1).to_bytes());
    assert_eq!(data[4..], [0xaa; 2]);
    assert!(
        ext.write(&input, flags, &output, &mut data[..3]).is_err(),
        "no room is an error and no overrun"
    );
    let stats: gst::Structure = ext.property("stats");
    assert_eq!(stats.get::<u64>("written"), Ok(1));
    assert_eq!(stats.get::<u64>("untagged"), Ok(1));
}
