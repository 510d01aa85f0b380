// SPDX-License-Identifier: MPL-2.0
//! Whatever comes in, and a comparison with rtpjitterbuffer on what is sound.

use crate::common::*;
use gst::prelude::*;

fn mutate(rng: &mut fastrand::Rng, mut data: Vec<u8>) -> Vec<u8> {
    match rng.u8(..6) {
        // Sequence number or time stamp.
        0 => data[2] = rng.u8(..),
        1 => data[4] = rng.u8(..),
        // Extension and payload, not the SSRC.
        2 => {
            let at = rng.usize(12..data.len());
            data[at] = rng.u8(..);
        }
        3 => data[0] = rng.u8(..),
        4 => data.truncate(rng.usize(0..data.len())),
        _ => data[1] = rng.u8(..),
    }
    data
}

#[test]
fn whatever_comes_does_no_harm_and_is_bounded() {
    let mut f = Fixture::new("do-retransmission=true do-lost=true");
    f.element.connect("request-pt-map", false, |values| {
        let pt: u32 = values[1].get().unwrap();
        // Some payload types are known, of two clock rates.
        let mut caps = caps();
        caps.make_mut().set("payload", pt as i32);
        let rate = if pt.is_multiple_of(2) {
            90_000i32
        } else {
            48_000
        };
        caps.make_mut().set("clock-rate", rate);
        Some((!pt.is_multiple_of(3)).then_some(caps).to_value())
    });
    let mut rng = fastrand::Rng::with_seed(7);
    let mut fed = 0;
    for n in 0..20_000u32 {
        let us = due_us(n / 4);
        let mut packet = Packet {
            seq: n as u16,
            timestamp: n / 4 * FRAME,
            marker: n % 4 == 3,
            extensions: vec![(3, vec![0, 0, 10]), (4, vec![0x40, 0, n as u8, 0])],
            ..Packet::default()
        };
        packet.payload[0] = rng.u8(..);
        packet.retransmitted = n % 50 == 0;
        let data = match rng.u8(..10) {
            0 => (0..rng.usize(0..100)).map(|_| rng.u8(..)).collect(),
            1..4 => mutate(&mut rng, packet.bytes()),
            _ => packet.bytes(),
        };
        f.set_us(us);
        let mut buffer = gst::Buffer::from_mut_slice(data);
        let stamp = gst::ClockTime::from_useconds(us);
        buffer.get_mut().unwrap().set_dts(stamp);
        assert_eq!(f.h.push(buffer), Ok(gst::FlowSuccess::Ok));
        fed += 1;
        if n % 500 == 0 {
            let held = f.stat("held-packets");
            assert!(held <= 16_384, "{held}");
            f.until("packets to leave", |f| f.stat("held-packets") < 2000);
        }
    }
    assert!(f.stat("num-pushed") > 5000, "{}", f.stats());
    let refused = ["num-other-ssrc", "num-malformed", "num-no-clock-rate"];
    let refused: u64 = refused.iter().map(|name| f.stat(name)).sum();
    assert_eq!(f.stat("num-received") + refused, fed, "each is counted");
    // Sound packets afterwards get through.
    f.set_us(due_us(20_000));
    let before = f.out.count();
    for n in 20_000..20_100u32 {
        f.push_all(due_us(n), &frame(n as u16, 1, n));
    }
    f.until("packets to leave", |f| f.stat("held-packets") == 0);
    assert!(f.out.count() >= before + 90);
}

/// The payloads that come out of an element on a clean, then mildly reordered
/// stream.
fn through(factory: &str) -> Vec<Vec<u8>> {
    init();
    let element = gst::ElementFactory::make(factory)
        .property("latency", 50u32)
        .build()
        .unwrap();
    let mut h = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    h.use_systemclock();
    h.play();
    h.set_src_caps(caps());
    let mut packets = Vec::new();
    for n in 0..30u32 {
        let first = 65_530u16.wrapping_add(n as u16 * 3);
        let mut of_frame = frame(first, 3, n);
        for packet in &mut of_frame {
            packet.payload.extend(packet.seq.to_be_bytes());
        }
        if n > 10 {
            of_frame.swap(0, 1);
        }
        packets.extend(of_frame);
    }
    for packet in &packets {
        if packet.marker {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        h.push(gst::Buffer::from_slice(packet.bytes())).unwrap();
    }
    h.push_event(gst::event::Eos::new());
    wait_for("all packets", || {
        h.buffers_received() as usize == packets.len()
    });
    std::iter::from_fn(|| h.try_pull())
        .map(|buffer| buffer.map_readable().unwrap().to_vec())
        .collect()
}

#[test]
fn the_same_leaves_as_from_rtpjitterbuffer() {
    let ours = through("rtpkalmanjitterbuffer");
    let theirs = through("rtpjitterbuffer");
    assert_eq!(ours.len(), 90);
    assert!(ours == theirs, "other packets, or another order");
}

/// rtpbin and applications set these without asking.
#[test]
fn properties_of_rtpjitterbuffer_have_its_types() {
    init();
    let make = |name: &str| gst::ElementFactory::make(name).build().unwrap();
    let (ours, theirs) = (make("rtpkalmanjitterbuffer"), make("rtpjitterbuffer"));
    let mut same = 0;
    for property in ours.list_properties() {
        let Some(other) = theirs.find_property(property.name()) else {
            continue;
        };
        assert_eq!(
            property.value_type(),
            other.value_type(),
            "{}",
            property.name()
        );
        same += 1;
    }
    assert!(same >= 12, "{same}");
    let fields = |element: &gst::Element| {
        let stats: gst::Structure = element.property("stats");
        stats
            .iter()
            .map(|(name, value)| (name.to_string(), value.type_()))
            .collect::<Vec<_>>()
    };
    let ours = fields(&ours);
    for field in fields(&theirs) {
        assert!(ours.contains(&field), "{field:?}");
    }
}
