// SPDX-License-Identifier: MPL-2.0
//! Both elements as what rtpbin's signals `request-aux-sender` and
//! `request-aux-receiver` return, with RTCP between the two sessions.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use gst::prelude::*;

struct Run {
    pipeline: Pipeline,
    enc: gst::Element,
    dec: gst::Element,
    lost: Arc<AtomicU64>,
    /// NACKs that came to the payloader.
    requests: Arc<AtomicU64>,
}

/// A bin as the signals want it.
fn aux(element: &gst::Element) -> gst::Element {
    let bin = gst::Bin::new();
    bin.add(element).unwrap();
    for name in ["sink", "src"] {
        let pad = element.static_pad(name).unwrap();
        let ghost = gst::GhostPad::builder_with_target(&pad)
            .unwrap()
            .name(format!("{name}_0"))
            .build();
        bin.add_pad(&ghost).unwrap();
    }
    bin.upcast()
}

impl Run {
    fn new(percentage: u32) -> Self {
        let pipeline = Pipeline::new(
            "rtpbin name=s rtp-profile=avpf rtpbin name=r rtp-profile=avpf latency=3000 do-retransmission=true \
             videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180,framerate=30/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=500 ! rtph264pay name=pay pt=96 mtu=400",
        );
        let element = |description: &str| gst::parse::launch(description).unwrap();
        let enc = element(&format!(
            "rtpflexfecenc pt={FEC_PT} controller=fixed percentage={percentage} percentage-key={percentage}"
        ));
        let dec = element(&format!("rtpflexfecdec pt={FEC_PT}"));
        let [sender, receiver] = ["s", "r"].map(|name| pipeline.get(name));
        for (rtpbin, signal, element) in [
            (&sender, "request-aux-sender", &enc),
            (&receiver, "request-aux-receiver", &dec),
        ] {
            let bin = aux(element);
            rtpbin.connect(signal, false, move |_| Some(bin.to_value()));
        }
        receiver.connect("request-pt-map", false, |values| {
            let pt: u32 = values[2].get().unwrap();
            let caps = (pt == u32::from(MEDIA_PT)).then(common::caps);
            Some(caps.to_value())
        });
        receiver.connect("new-jitterbuffer", false, |values| {
            let jitterbuffer: gst::Element = values[1].get().unwrap();
            // Nothing is asked for within the first second.
            jitterbuffer.set_property("rtx-delay", 1000i32);
            jitterbuffer.set_property("rtx-delay-reorder", 0i32);
            jitterbuffer.set_property("rtx-next-seqnum", false);
            None
        });
        let requests = connect(&pipeline, &sender, &receiver);
        let link = pipeline.get("link").static_pad("sink").unwrap();
        let lost = lose_packets(&link);
        pipeline.play();
        Self {
            pipeline,
            enc,
            dec,
            lost,
            requests,
        }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// RTCP of the receiver goes to the sender, but not by links, as these would be
/// a loop in the pipeline.
fn return_rtcp(pipeline: &Pipeline, sender: &gst::Element, receiver: &gst::Element) {
    let rtcp = gst::Pad::builder(gst::PadDirection::Src).build();
    rtcp.set_active(true).unwrap();
    let sink = sender.request_pad_simple("recv_rtcp_sink_0").unwrap();
    rtcp.link(&sink).unwrap();
    let fake = gst::ElementFactory::make("fakesink")
        .property("async", false)
        .property("sync", false)
        .build()
        .unwrap();
    pipeline.0.add(&fake).unwrap();
    receiver
        .link_pads(Some("send_rtcp_src_0"), &fake, Some("sink"))
        .unwrap();
    let types = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    let pad = fake.static_pad("sink").unwrap();
    pad.add_probe(types, move |_, info| {
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let _ = rtcp.push(buffer.clone());
            }
            Some(gst::PadProbeData::Event(event)) => {
                rtcp.push_event(event.clone());
            }
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
}

fn connect(pipeline: &Pipeline, sender: &gst::Element, receiver: &gst::Element) -> Arc<AtomicU64> {
    let link = gst::ElementFactory::make("identity")
        .name("link")
        .build()
        .unwrap();
    pipeline.0.add(&link).unwrap();
    let pay = pipeline.get("pay");
    pay.link_pads(Some("src"), sender, Some("send_rtp_sink_0"))
        .unwrap();
    sender
        .link_pads(Some("send_rtp_src_0"), &link, Some("sink"))
        .unwrap();
    link.link_pads(Some("src"), receiver, Some("recv_rtp_sink_0"))
        .unwrap();
    return_rtcp(pipeline, sender, receiver);
    let weak = pipeline.0.downgrade();
    receiver.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak
            .upgrade()
            .filter(|_| pad.name().starts_with("recv_rtp_src"))
        else {
            return;
        };
        let sink = gst::ElementFactory::make("fakesink").build().unwrap();
        pipeline.add(&sink).unwrap();
        sink.sync_state_with_parent().unwrap();
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
    });
    let requests = Arc::<AtomicU64>::default();
    let asked = requests.clone();
    let src = pay.static_pad("src").unwrap();
    src.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
        let s = info.event().and_then(|e| e.structure());
        if s.is_some_and(|s| s.has_name("GstRTPRetransmissionRequest")) {
            asked.fetch_add(1, Ordering::Relaxed);
        }
        gst::PadProbeReturn::Ok
    });
    requests
}

#[test]
fn what_is_recovered_is_not_asked_for() {
    let run = Run::new(50);
    // Three seconds, so that the first requests would have come.
    wait_for("packets", || stat(&run.enc, "frames") > 90);
    let recovered = stat(&run.dec, "recovered");
    assert!(recovered > 20, "{}", stats(&run.dec));
    let lost = run.lost.load(Ordering::Relaxed);
    assert!(recovered + 2 >= lost, "{recovered} of {lost}");
    assert_eq!(run.requests(), 0, "{}", stats(&run.dec));
    // The session sends reports about FEC: it knows the clock rate.
    let ssrc: u32 = run.enc.property("ssrc");
    let session: gst::glib::Object = run
        .pipeline
        .get("s")
        .emit_by_name("get-internal-session", &[&0u32]);
    let source: gst::glib::Object = session.emit_by_name("get-source-by-ssrc", &[&ssrc]);
    let source: gst::Structure = source.property("stats");
    assert_eq!(source.get("clock-rate"), Ok(90_000i32), "{source}");
    let sent: u64 = source.get("packets-sent").unwrap();
    assert!(sent > 20, "{source}");
}

/// The same without repair, or the test above would prove nothing.
#[test]
fn without_fec_it_is_asked_for() {
    let run = Run::new(0);
    wait_for("NACKs", || run.requests() > 5);
    assert_eq!(stat(&run.dec, "recovered"), 0);
}
