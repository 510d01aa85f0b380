// SPDX-License-Identifier: MPL-2.0
//! Two webrtcbins and nothing of this project's: ICE finds a path (libnice),
//! DTLS shakes hands, SRTP carries Opus. Each is seen for itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use gst_webrtc::{WebRTCICEConnectionState, WebRTCPeerConnectionState, WebRTCSessionDescription};
use serde::{Deserialize, Serialize};

use super::{Running, launch, make};

const PACKETS: u64 = 20;
const LIMIT: Duration = Duration::from_secs(15);

/// How far it came: each step needs the ones before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Descriptions were exchanged.
    pub negotiated: bool,
    /// ICE found a path.
    pub ice: bool,
    /// DTLS keys are agreed upon.
    pub dtls: bool,
    /// RTP packets that came through.
    pub packets: u64,
    /// From the start to the first of them.
    pub connected_ms: Option<f64>,
}

pub fn run() -> Result<Outcome> {
    let caps = "application/x-rtp,media=audio,encoding-name=OPUS,clock-rate=48000,payload=97";
    let sender = launch(&format!(
        "audiotestsrc is-live=true ! audioconvert ! audioresample ! opusenc frame-size=10 \
         ! rtpopuspay pt=97 ! {caps} ! webrtcbin name=peer bundle-policy=max-bundle"
    ))?;
    let receiver = Running(gst::Pipeline::new());
    let answerer = make("webrtcbin")?;
    answerer.set_property_from_str("bundle-policy", "max-bundle");
    receiver.0.add(&answerer)?;
    let offerer = sender.0.by_name("peer").context("webrtcbin")?;
    let (received, first) = count_packets(&receiver.0, &answerer);
    relay_candidates(&offerer, &answerer);
    relay_candidates(&answerer, &offerer);
    let begin = Instant::now();
    receiver.play()?;
    sender.play()?;
    let negotiated = negotiate(&offerer, &answerer)?;
    while negotiated && begin.elapsed() < LIMIT && received.load(Ordering::Relaxed) < PACKETS {
        sender.check()?;
        receiver.check()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    let ice: WebRTCICEConnectionState = answerer.property("ice-connection-state");
    let peer: WebRTCPeerConnectionState = answerer.property("connection-state");
    let packets = received.load(Ordering::Relaxed);
    Ok(Outcome {
        negotiated,
        ice: matches!(
            ice,
            WebRTCICEConnectionState::Connected | WebRTCICEConnectionState::Completed
        ),
        dtls: packets > 0 || peer == WebRTCPeerConnectionState::Connected,
        packets,
        connected_ms: first
            .get()
            .map(|at| at.duration_since(begin).as_secs_f64() * 1e3),
    })
}

/// Their count, and when the first one came.
fn count_packets(
    pipeline: &gst::Pipeline,
    webrtcbin: &gst::Element,
) -> (Arc<AtomicU64>, Arc<OnceLock<Instant>>) {
    let (received, first) = (Arc::new(AtomicU64::new(0)), Arc::default());
    let (count, at): (_, Arc<OnceLock<Instant>>) = (received.clone(), Arc::clone(&first));
    let pipeline = pipeline.downgrade();
    webrtcbin.connect_pad_added(move |_, pad| {
        let (count, at) = (count.clone(), at.clone());
        let link = || -> Option<()> {
            let pipeline = pipeline.upgrade()?;
            let sink = make("fakesink").ok()?;
            sink.set_property("sync", false);
            sink.set_property("async", false);
            pipeline.add(&sink).ok()?;
            sink.sync_state_with_parent().ok()?;
            pad.link(&sink.static_pad("sink")?).ok()?;
            Some(())
        };
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            at.get_or_init(Instant::now);
            count.fetch_add(1, Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
        // A pad that is not linked ends in an error of the pipeline.
        let _ = link();
    });
    (received, first)
}

fn relay_candidates(from: &gst::Element, to: &gst::Element) {
    let to = to.downgrade();
    from.connect("on-ice-candidate", false, move |values| {
        let (line, candidate) = (
            values[1].get::<u32>().ok()?,
            values[2].get::<String>().ok()?,
        );
        to.upgrade()?
            .emit_by_name::<()>("add-ice-candidate", &[&line, &candidate]);
        None
    });
}

/// Offer and answer. False: no description came about in time.
fn negotiate(offerer: &gst::Element, answerer: &gst::Element) -> Result<bool> {
    let Some(offer) = describe(offerer, "offer")? else {
        return Ok(false);
    };
    set_description(offerer, "local", &offer);
    set_description(answerer, "remote", &offer);
    let Some(answer) = describe(answerer, "answer")? else {
        return Ok(false);
    };
    set_description(answerer, "local", &answer);
    set_description(offerer, "remote", &answer);
    Ok(true)
}

fn describe(peer: &gst::Element, kind: &str) -> Result<Option<WebRTCSessionDescription>> {
    let (send, receive) = std::sync::mpsc::channel();
    let name = kind.to_owned();
    let promise = gst::Promise::with_change_func(move |reply| {
        let made = match reply {
            Ok(Some(reply)) => reply
                .value(&name)
                .ok()
                .and_then(|v| v.get::<WebRTCSessionDescription>().ok()),
            _ => None,
        };
        let _ = send.send(made);
    });
    peer.emit_by_name::<()>(
        &format!("create-{kind}"),
        &[&None::<gst::Structure>, &promise],
    );
    match receive.recv_timeout(LIMIT) {
        Ok(Some(description)) => Ok(Some(description)),
        Ok(None) => bail!("webrtcbin makes no {kind}"),
        Err(_) => Ok(None),
    }
}

fn set_description(peer: &gst::Element, side: &str, description: &WebRTCSessionDescription) {
    let promise = gst::Promise::new();
    let signal = format!("set-{side}-description");
    peer.emit_by_name::<()>(&signal, &[description, &promise]);
    promise.wait();
}
