// SPDX-License-Identifier: MPL-2.0
//! FEC between dualwebrtcsink and dualwebrtcsrc: what is agreed, and what
//! becomes of losses.

mod common;

use common::*;
use gst::glib;
use gst::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MEDIA_PT: u32 = 96;
/// Packets are many enough to lose some.
const BUSY: &str = "videotestsrc is-live=true pattern=zone-plate kx2=20 ky2=20 kt=3 ! \
    video/x-raw,width=320,height=180,framerate=30/1";

fn child(sender: &Pipeline, name: &str) -> glib::Object {
    sender
        .element("sink")
        .dynamic_cast::<gst::ChildProxy>()
        .unwrap()
        .child_by_name(name)
        .unwrap()
}

fn of(pipeline: &Pipeline, element: &str, part: &str) -> gst::Structure {
    pipeline
        .stats(element)
        .get(part)
        .unwrap_or_else(|_| gst::Structure::new_empty("none"))
}

fn count(pipeline: &Pipeline, element: &str, part: &str, field: &str) -> u64 {
    of(pipeline, element, part).get(field).unwrap_or_default()
}

/// Every `nth` media packet is lost before it reaches the session of the
/// receiver; 0 for none.
struct Losses {
    pt: AtomicU32,
    nth: AtomicU64,
    lost: AtomicU64,
    /// All that is no media is lost.
    others: AtomicBool,
    seen: AtomicU64,
    /// What was lost, by source and number, without its header.
    packets: Mutex<HashMap<(u32, u16), Vec<u8>>>,
    /// Of them, those that were made again rightly, and others.
    made: [AtomicU64; 2],
}

/// Source, number and payload.
fn parts(packet: &gst::BufferRef) -> Option<((u32, u16), Vec<u8>)> {
    let rtp = gst_rtp::RTPBuffer::from_buffer_readable(packet).ok()?;
    Some(((rtp.ssrc(), rtp.seq()), rtp.payload().ok()?.to_vec()))
}

impl Losses {
    /// At least so many were made again, and none otherwise than it was.
    fn assert_made(&self, least: u64) {
        let [same, different] = [0, 1].map(|at: usize| self.made[at].load(Ordering::SeqCst));
        assert_eq!(
            different, 0,
            "made otherwise than they were, {same} rightly"
        );
        assert!(same >= least, "{same} of {least}");
    }

    /// Compares what comes of a decoder with what was lost.
    fn watch(self: &Arc<Self>, decoder: &gst::Element) {
        let losses = self.clone();
        let is_flexfec = decoder
            .factory()
            .is_some_and(|f| f.name() == "rtpflexfecdec");
        let pad = decoder.static_pad("src").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some((key, payload)) = info.buffer().and_then(|buffer| parts(buffer)) {
                let mut packets = losses.packets.lock().unwrap();
                // RED has one byte before what it carries, and rtpulpfecdec numbers
                // anew.
                let by_content = || {
                    let same = |lost: &Vec<u8>| lost.get(1..) == Some(&payload[..]);
                    packets
                        .iter()
                        .find(|(_, lost)| same(lost))
                        .map(|(key, _)| *key)
                };
                let known = if is_flexfec { Some(key) } else { by_content() };
                if let Some(lost) = known.and_then(|key| packets.remove(&key)) {
                    let at = usize::from(is_flexfec && payload != lost);
                    losses.made[at].fetch_add(1, Ordering::SeqCst);
                }
            }
            gst::PadProbeReturn::Ok
        });
    }
}

fn lose(receiver: &Pipeline, nth: u64) -> Arc<Losses> {
    let losses = Arc::new(Losses {
        pt: MEDIA_PT.into(),
        nth: nth.into(),
        lost: 0.into(),
        others: false.into(),
        seen: 0.into(),
        packets: Mutex::default(),
        made: Default::default(),
    });
    let counts = losses.clone();
    let loses = move |buffer: &gst::Buffer| {
        let mut head = [0; 2];
        let read = buffer.copy_to_slice(0, &mut head).is_ok();
        let hit = if read && u32::from(head[1] & 0x7f) == counts.pt.load(Ordering::SeqCst) {
            let seen = counts.seen.fetch_add(1, Ordering::SeqCst) + 1;
            seen.checked_rem(counts.nth.load(Ordering::SeqCst)) == Some(0)
        } else {
            counts.others.load(Ordering::SeqCst)
        };
        if hit && let Some((key, payload)) = parts(buffer) {
            counts.packets.lock().unwrap().insert(key, payload);
        }
        if hit {
            counts.lost.fetch_add(1, Ordering::SeqCst);
        }
        hit
    };
    let (loses, watching) = (Arc::new(loses), losses.clone());
    let bin: gst::Bin = receiver.element("src").downcast().unwrap();
    bin.connect_deep_element_added(move |_, _, element| {
        if element
            .factory()
            .is_some_and(|f| ["rtpflexfecdec", "rtpulpfecdec"].contains(&f.name().as_str()))
        {
            watching.watch(element);
        }
        if element.factory().is_none_or(|f| f.name() != "rtpsession") {
            return;
        }
        let loses = loses.clone();
        element.connect_pad_added(move |_, pad| {
            if pad.name() != "recv_rtp_sink" {
                return;
            }
            let loses = loses.clone();
            let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
            pad.add_probe(kinds, move |_, info| match &mut info.data {
                Some(gst::PadProbeData::Buffer(buffer)) if loses(buffer) => {
                    gst::PadProbeReturn::Handled
                }
                Some(gst::PadProbeData::BufferList(list)) => {
                    let list = list.make_mut();
                    list.foreach_mut(|buffer, _| {
                        std::ops::ControlFlow::Continue((!loses(&buffer)).then_some(buffer))
                    });
                    // One without packets would stop the transport.
                    if list.is_empty() {
                        gst::PadProbeReturn::Handled
                    } else {
                        gst::PadProbeReturn::Ok
                    }
                }
                _ => gst::PadProbeReturn::Ok,
            });
        });
    });
    losses
}

const FIXED: &str = "fec-0::controller=fixed fec-0::percentage=34 fec-0::percentage-key=34 \
    fec-1::controller=fixed fec-1::percentage=34 fec-1::percentage-key=34";

#[test]
fn losses_of_both_streams_are_recovered() {
    let sender = sender(
        BUSY,
        &format!("encoder::refresh-interval=500 {FIXED} fec=flexfec-03"),
    )
    .play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let losses = lose(&receiver, 20);
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("recovered packets", || {
        count(&receiver, "src", "fec-decoder", "recovered") >= 20
    });
    wait_for("FEC of the second stream", || {
        count(&sender, "sink", "fec-1", "fec-packets") >= 10
    });
    assert!(count(&sender, "sink", "fec-0", "fec-packets") >= 10);
    assert_eq!(sender.stat::<String>("sink", "fec"), "flexfec-03");
    assert_eq!(receiver.stat::<String>("src", "fec"), "flexfec-03");
    assert!(
        sender.stat::<bool>("sink", "dual"),
        "{:?}",
        sender.stats("sink")
    );
    let before = seen.count();
    wait_for("more pictures", || seen.count() >= before + 30);
    let lost = losses.lost.load(Ordering::SeqCst);
    let recovered = count(&receiver, "src", "fec-decoder", "recovered");
    assert!(
        recovered >= lost / 2,
        "only {recovered} of {lost}: {:?}",
        of(&receiver, "src", "fec-decoder")
    );
    let [same, different] = [0, 1].map(|at: usize| losses.made[at].load(Ordering::SeqCst));
    assert_eq!(
        different, 0,
        "made otherwise than they were, {same} rightly"
    );
    assert!(same >= recovered / 2, "{same} of {recovered}");
    // FEC packets make no stream of their own.
    let webrtcbin = find(&receiver, "src", "webrtcbin");
    assert_eq!(webrtcbin.src_pads().len(), 2);
    sender.assert_no_error();
    receiver.assert_no_error();
}

fn find(pipeline: &Pipeline, element: &str, factory: &str) -> gst::Element {
    let bin: gst::Bin = pipeline.element(element).downcast().unwrap();
    bin.iterate_recurse()
        .into_iter()
        .flatten()
        .find(|e| e.factory().is_some_and(|f| f.name() == factory))
        .unwrap_or_else(|| panic!("no {factory}"))
}

#[test]
fn without_the_wish_of_both_nothing_is_sent() {
    for (sends, takes) in [
        ("off", "auto"),
        ("auto", "off"),
        ("off", "flexfec-03"),
        ("auto congestion-control=none", "auto"),
    ] {
        let sender = sender(LIVE, &format!("{FIXED} fec={sends}")).play();
        let receiver = receiver(&uri(&sender, "sink"), &format!("fec={takes}"));
        let seen = receiver.watch("out");
        let receiver = receiver.play();
        wait_for("pictures", || seen.count() >= 30);
        assert_eq!(sender.stat::<String>("sink", "fec"), "none");
        assert_eq!(receiver.stat::<String>("src", "fec"), "none");
        for name in ["fec-0", "fec-1"] {
            let stats: gst::Structure = child(&sender, name).property("stats");
            assert_eq!(stats.get::<u64>("fec-packets"), Ok(0), "{name}");
        }
        assert!(!sender.stats("sink").has_field("fec-0"));
        sender.assert_no_error();
        receiver.assert_no_error();
    }
}

/// An estimate as rtpgcc would send it.
fn estimate(pad: &gst::Pad, target: u64, loss: f64) {
    let s = gst::Structure::builder("application/x-network-estimate")
        .field("target-bitrate", target)
        .field("pacing-bitrate", target * 5 / 2)
        .field("padding-bitrate", 0u64)
        .field("loss", loss)
        .field("rtt", 200_000_000u64)
        .build();
    pad.push_event(gst::event::CustomUpstream::new(s));
}

/// The estimates are given here, so nothing hangs on this machine's speed.
#[test]
fn protection_follows_losses_and_media_give_way_to_it() {
    const TARGET: u64 = 600_000;
    let sender = sender(
        BUSY,
        "fec=flexfec-03 congestion-control=none encoder::bitrate=600000 fec-0::deadline=100",
    )
    .play();
    let receiver = receiver(&uri(&sender, "sink"), "");
    let losses = lose(&receiver, 0);
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 10);
    let last = find(&sender, "sink", "rtpsession")
        .static_pad("send_rtp_sink")
        .unwrap();
    let encoder = || child(&sender, "encoder").property::<u32>("bitrate");
    let fec = || count(&sender, "sink", "fec-0", "fec-packets");
    let media = || count(&sender, "sink", "fec-0", "media-packets");

    losses.nth.store(12, Ordering::SeqCst);
    wait_for("protection", || {
        estimate(&last, TARGET, 0.08);
        fec() >= 50
    });
    let lowered = encoder();
    assert!(
        (300_000..570_000).contains(&lowered),
        "{lowered} bit/s for media while FEC is sent"
    );
    let (media_before, fec_before) = (media(), fec());
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        estimate(&last, TARGET, 0.08);
        std::thread::sleep(Duration::from_millis(50));
    }
    let share = (fec() - fec_before) as f64 / (media() - media_before).max(1) as f64;
    assert!(share > 0.05, "{share} FEC packets for each of media");
    let bytes: f64 = of(&sender, "sink", "fec-0").get("byte-overhead").unwrap();
    let sum = f64::from(encoder()) * (1.0 + bytes);
    assert!(sum < 1.1 * TARGET as f64, "{sum} bit/s for both");

    losses.nth.store(0, Ordering::SeqCst);
    wait_for("an end of protection", || {
        let before = fec();
        for _ in 0..20 {
            estimate(&last, TARGET, 0.0);
            std::thread::sleep(Duration::from_millis(50));
        }
        fec() == before
    });
    wait_for("the whole rate for media again", || {
        estimate(&last, TARGET, 0.0);
        encoder() > 590_000
    });
    sender.assert_no_error();
    receiver.assert_no_error();
}

/// How many packets ULPFEC has recovered, of all streams.
fn recovered_by_ulpfec(receiver: &Pipeline) -> u32 {
    let bin: gst::Bin = receiver.element("src").downcast().unwrap();
    bin.iterate_recurse()
        .into_iter()
        .flatten()
        .filter(|e| e.factory().is_some_and(|f| f.name() == "rtpulpfecdec"))
        .map(|e| e.property::<u32>("recovered"))
        .sum()
}

#[test]
fn ulpfec_is_made_by_webrtcbin_as_our_controller_says() {
    let sender = sender(BUSY, &format!("{FIXED} fec=ulpfec")).play();
    let uri = uri(&sender, "sink");
    for _ in 0..2 {
        let receiver = receiver(&uri, "fec=ulpfec");
        let losses = lose(&receiver, 0);
        let seen = receiver.watch("out");
        let receiver = receiver.play();
        wait_for("pictures", || seen.count() >= 30);
        assert_eq!(sender.stat::<String>("sink", "fec"), "ulpfec");
        assert_eq!(receiver.stat::<String>("src", "fec"), "ulpfec");
        assert!(!sender.stat::<bool>("sink", "dual"));
        wait_for("feedback about packets in RED", || {
            let estimator = of(&sender, "sink", "estimator");
            estimator.get::<u64>("received-packets").unwrap() > 0
        });
        let encoder = find(&sender, "sink", "rtpulpfecenc");
        assert_eq!(encoder.property::<u32>("percentage"), 34);
        assert_eq!(encoder.property::<u32>("percentage-important"), 34);
        child(&sender, "fec-0").set_property("percentage", 50u32);
        child(&sender, "fec-1").set_property("percentage", 50u32);
        wait_for("the new percentage", || {
            encoder.property::<u32>("percentage") == 50
        });
        let red = find(&sender, "sink", "rtpredenc").property::<i32>("pt");
        losses.pt.store(red as u32, Ordering::SeqCst);
        // Retransmissions would be there first.
        losses.others.store(true, Ordering::SeqCst);
        losses.nth.store(20, Ordering::SeqCst);
        wait_for("recovered packets", || recovered_by_ulpfec(&receiver) >= 2);
        losses.nth.store(0, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(500));
        losses.assert_made(recovered_by_ulpfec(&receiver).into());
        let own: gst::Structure = child(&sender, "fec-0").property("stats");
        assert_eq!(own.get::<u64>("fec-packets"), Ok(0));
        receiver.assert_no_error();
        receiver.stop();
        wait_for("the end of the session", || {
            sender.stat::<String>("sink", "session") == "none"
        });
        for name in ["fec-0", "fec-1"] {
            child(&sender, name).set_property("percentage", 34u32);
            assert!(!child(&sender, name).property::<bool>("dry-run"), "{name}");
        }
    }
    sender.assert_no_error();
}

#[test]
fn ulpfec_is_refused_by_leaving_it_out() {
    let sender = sender(LIVE, &format!("{FIXED} fec=ulpfec")).play();
    let receiver = receiver(&uri(&sender, "sink"), "fec=auto");
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    wait_for("pictures", || seen.count() >= 30);
    assert_eq!(sender.stat::<String>("sink", "fec"), "none");
    assert_eq!(receiver.stat::<String>("src", "fec"), "none");
    let encoder = find(&sender, "sink", "rtpulpfecenc");
    assert_eq!(encoder.property::<u32>("percentage"), 0);
    assert!(!child(&sender, "fec-0").property::<bool>("dry-run"));
    sender.assert_no_error();
    receiver.assert_no_error();
}
