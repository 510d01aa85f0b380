// SPDX-License-Identifier: MPL-2.0
//! Real sessions: ICE, DTLS-SRTP, RTCP, two webrtcbins in one process.

use dualstream_e2e::session::{Session, Shown};
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ENCODER: &str = "encoder::bitrate=2000000 encoder::refresh-interval=2000";

fn mean(shown: &[Shown]) -> f64 {
    shown.iter().map(|s| s.psnr).sum::<f64>() / shown.len().max(1) as f64
}

fn worst(shown: &[Shown]) -> f64 {
    shown.iter().map(|s| s.psnr).fold(f64::INFINITY, f64::min)
}

#[test]
fn every_picture_is_shown_once_in_order_and_key_frames_come_in_the_background() {
    let mut session = Session::new(ENCODER);
    session.start();
    session.run_pictures(360);
    session.assert_in_order();
    let shown = session.shown().clone();
    assert_eq!(shown[0].number, 0, "from the first picture");
    let missing = shown[shown.len() - 1].number + 1 - shown.len() as u64;
    assert_eq!(missing, 0, "each picture is shown");
    session.assert_numbered(&shown);
    let switches = session.stat("switches");
    let stats = session.encoder_stats();
    assert!(switches >= 4, "{switches} in 12 s: {stats}");
    let seen = shown
        .windows(2)
        .filter(|p| p[0].stream != p[1].stream)
        .count() as u64;
    assert!(
        seen <= switches && seen + 1 >= switches,
        "{seen} of {switches} seen"
    );
    assert_eq!(session.stat("display-key-frames"), 1, "{stats}");
    assert_eq!(session.stat("unexpected-key-frames"), 0, "{stats}");
    assert!(mean(&shown) > 30.0, "{:.2} dB", mean(&shown));
    // One frame time for the first key frame makes it coarse; after a second
    // no picture may be.
    assert!(worst(&shown[30..]) > 30.0, "{:.2} dB", worst(&shown[30..]));
    session.stop();
}

/// Loses packets of the receiver's RTP session at random, media and
/// retransmissions alike. Returns the count of lost packets.
fn lose(session: &Session, per_mille: &Arc<AtomicU64>) -> Arc<AtomicU64> {
    let lost = Arc::new(AtomicU64::new(0));
    let seed = Arc::new(AtomicU64::new(0x2545_f491_4f6c_dd1d));
    let (count, per_mille) = (lost.clone(), per_mille.clone());
    session
        .receiver
        .connect_deep_element_added(move |_, _, element| {
            let is_session = element
                .factory()
                .is_some_and(|factory| factory.name() == "rtpsession");
            if !is_session {
                return;
            }
            let (per_mille, count, seed) = (per_mille.clone(), count.clone(), seed.clone());
            element.connect_pad_added(move |_, pad| {
                if pad.name() != "recv_rtp_sink" {
                    return;
                }
                let (per_mille, count, seed) = (per_mille.clone(), count.clone(), seed.clone());
                pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                    let mut x = seed.load(Ordering::Relaxed);
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    seed.store(x, Ordering::Relaxed);
                    if x % 1000 < per_mille.load(Ordering::Relaxed) {
                        count.fetch_add(1, Ordering::Relaxed);
                        // Drop would unref what the binding has taken.
                        gst::PadProbeReturn::Handled
                    } else {
                        gst::PadProbeReturn::Ok
                    }
                });
            });
        });
    lost
}

#[test]
fn three_percent_loss_ends_with_every_stream_recovered() {
    let mut session = Session::new(ENCODER);
    let per_mille = Arc::new(AtomicU64::new(30));
    let lost = lose(&session, &per_mille);
    session.start();
    session.run_pictures(330);
    session.assert_in_order();
    let lost = lost.load(Ordering::Relaxed);
    assert!(lost > 30, "the test loses packets, not only {lost}");
    let stats = session.encoder_stats();
    assert!(session.stat("switches") >= 2, "{stats}");
    // Then without loss: both streams become the display stream and are whole.
    per_mille.store(0, Ordering::Relaxed);
    let at = session.shown().len();
    session.run_pictures(at + 240);
    session.assert_in_order();
    let shown = session.shown().clone();
    let end = &shown[at + 60..];
    session.assert_numbered(end);
    for stream in 0..2 {
        let own: Vec<Shown> = end.iter().filter(|s| s.stream == stream).copied().collect();
        assert!(
            own.len() > 20,
            "stream {stream} shows {} pictures",
            own.len()
        );
        assert!(worst(&own) > 30.0, "stream {stream}: {:.2} dB", worst(&own));
    }
    let gaps = end
        .windows(2)
        .filter(|p| p[1].number != p[0].number + 1)
        .count();
    assert_eq!(gaps, 0, "no picture is missing on a good link");
    session.stop();
}

#[test]
fn loss_of_everything_for_a_while_is_recovered() {
    let mut session = Session::new(ENCODER);
    let per_mille = Arc::new(AtomicU64::new(0));
    lose(&session, &per_mille);
    session.start();
    session.run_pictures(100);
    per_mille.store(1000, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(800));
    per_mille.store(0, Ordering::Relaxed);
    let at = session.shown().len();
    session.run_pictures(at + 180);
    session.assert_in_order();
    let shown = session.shown().clone();
    // The estimate has to rise again before pictures are good, not only whole.
    let end = &shown[at + 105..];
    assert!(worst(end) > 30.0, "{:.2} dB after the gap", worst(end));
    session.stop();
}

#[test]
fn a_receiver_that_vanishes_in_a_background_key_frame_and_comes_back_is_served() {
    // A low rate: the key frame takes most of a second to trickle.
    let mut session = Session::new("encoder::bitrate=600000 encoder::background-share=0.1");
    session.start();
    session.run_pictures(30);
    let request = gst_video::DownstreamForceKeyUnitEvent::builder().build();
    let sink = session.encoder().static_pad("sink").expect("a sink pad");
    assert!(sink.send_event(request));
    session.run_until("a background key frame", Duration::from_secs(5), |s| {
        s.stat("background-key-frames") == 1
    });
    session.receiver.set_state(gst::State::Null).expect("NULL");
    std::thread::sleep(Duration::from_millis(300));
    let before = session.shown().len();
    session
        .receiver
        .set_state(gst::State::Playing)
        .expect("PLAYING");
    session.run_until("pictures again", Duration::from_secs(25), |s| {
        s.shown().len() > before + 30
    });
    session.stop();
}
