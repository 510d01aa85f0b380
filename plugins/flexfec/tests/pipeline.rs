// SPDX-License-Identifier: MPL-2.0
//! Real video through both elements and a jitter buffer, with packets lost in
//! between.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::*;
use gst::prelude::*;

const FRAMES: u32 = 60;

/// What arrived behind the jitter buffer.
struct Run {
    sent: u64,
    dropped: u64,
    /// Sequence numbers in order.
    came: Vec<u16>,
    /// Retransmissions that the jitter buffer asked for.
    requests: u64,
    pictures: u64,
    decoder: gst::Structure,
}

fn count(pad: &gst::Pad, what: gst::PadProbeType) -> Arc<AtomicU64> {
    let count = Arc::<AtomicU64>::default();
    let counter = count.clone();
    pad.add_probe(what, move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    count
}

/// Sends 60 frames. Every eleventh media packet is lost.
fn run(enc: &str, dec: &str, jitterbuffer: &str) -> Run {
    let pipeline = Pipeline::new(&format!(
        "videotestsrc is-live=true num-buffers={FRAMES} pattern=ball \
         ! video/x-raw,width=320,height=180,framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=800 key-int-max=20 \
         ! rtph264pay name=pay pt=96 mtu=400 ! rtpflexfecenc pt=110 {enc} \
         ! identity name=link ! rtpflexfecdec name=dec {dec} \
         ! rtpjitterbuffer name=jitterbuffer latency=3000 {jitterbuffer} \
         ! rtph264depay ! h264parse ! video/x-h264,alignment=au ! fakesink name=sink sync=false"
    ));
    let pad = |element: &str, pad: &str| pipeline.get(element).static_pad(pad).unwrap();
    let sent = Arc::<AtomicU64>::default();
    let dropped = Arc::<AtomicU64>::default();
    let (sent_count, dropped_count) = (sent.clone(), dropped.clone());
    pad("link", "sink").add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let data = bytes(info.buffer().unwrap());
        if pt(&data) == FEC_PT {
            return gst::PadProbeReturn::Ok;
        }
        let n = sent_count.fetch_add(1, Ordering::Relaxed);
        if n % 11 != 7 {
            return gst::PadProbeReturn::Ok;
        }
        dropped_count.fetch_add(1, Ordering::Relaxed);
        drop(info.data.take());
        gst::PadProbeReturn::Handled
    });
    let requests = Arc::<AtomicU64>::default();
    let asked = requests.clone();
    pad("jitterbuffer", "sink").add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        let s = info.event().and_then(|e| e.structure());
        if s.is_some_and(|s| s.has_name("GstRTPRetransmissionRequest")) {
            asked.fetch_add(1, Ordering::Relaxed);
        }
        gst::PadProbeReturn::Ok
    });
    let came = Arc::<Mutex<Vec<u16>>>::default();
    let numbers = came.clone();
    pad("jitterbuffer", "src").add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        numbers
            .lock()
            .unwrap()
            .push(seq(&bytes(info.buffer().unwrap())));
        gst::PadProbeReturn::Ok
    });
    let pictures = count(&pad("sink", "sink"), gst::PadProbeType::BUFFER);
    pipeline.run();
    let count = |count: Arc<AtomicU64>| count.load(Ordering::Relaxed);
    Run {
        sent: count(sent),
        dropped: count(dropped),
        came: came.lock().unwrap().clone(),
        requests: count(requests),
        pictures: count(pictures),
        decoder: stats(&pipeline.get("dec")),
    }
}

const ENOUGH: &str = "controller=fixed percentage=50 percentage-key=50";
/// Nothing is asked for within the first second.
const PATIENT: &str =
    "do-retransmission=true rtx-delay=1000 rtx-delay-reorder=0 rtx-next-seqnum=false";

#[test]
fn losses_are_repaired_and_not_asked_for() {
    for format in ["flexfec-03", "rfc8627"] {
        let run = run(
            &format!("{ENOUGH} format={format}"),
            &format!("pt=110 format={format}"),
            PATIENT,
        );
        assert!(run.dropped > 10, "{} of {}", run.dropped, run.sent);
        assert_eq!(run.came.len() as u64, run.sent, "{format}: all came");
        let in_order = run.came.windows(2).all(|w| w[1] == w[0].wrapping_add(1));
        assert!(in_order, "{format}: {:?}", run.came);
        let recovered: u64 = run.decoder.get("recovered").unwrap();
        assert_eq!(recovered, run.dropped, "{}", run.decoder);
        assert_eq!(run.decoder.get("lost"), Ok(0u64));
        assert_eq!(
            run.requests, 0,
            "{format}: recovered before it was asked for"
        );
        assert_eq!(run.pictures, u64::from(FRAMES));
    }
}

/// The same without repair, or the test above would prove nothing.
#[test]
fn without_fec_they_are_lost_and_asked_for() {
    let run = run(
        "controller=fixed percentage=0 percentage-key=0",
        "pt=110",
        PATIENT,
    );
    assert!(run.dropped > 10, "{} of {}", run.dropped, run.sent);
    assert_eq!(run.came.len() as u64, run.sent - run.dropped);
    assert!(
        run.requests >= run.dropped / 2,
        "{} for {}",
        run.requests,
        run.dropped
    );
}
