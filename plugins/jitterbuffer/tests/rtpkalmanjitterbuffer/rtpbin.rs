// SPDX-License-Identifier: MPL-2.0
//! In rtpbin, in place of its own: video and audio, with losses that are
//! repaired by retransmission, and reports that keep both in sync.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::common::*;
use gst::prelude::*;

/// The audio takes this longer on its way.
const BEHIND_MS: u64 = 80;
/// Of the packets of video each so many is lost.
const LOST_OF: usize = 33;

/// By sequence number: time stamp, as running time.
type Stamps = Arc<Mutex<BTreeMap<u16, gst::ClockTime>>>;

#[derive(Default)]
struct Stream {
    sent: Stamps,
    came: Stamps,
    order: Arc<Mutex<Vec<u16>>>,
    lost: Arc<Mutex<usize>>,
    jitterbuffer: Arc<Mutex<Option<gst::Element>>>,
}

struct Run {
    pipeline: gst::Pipeline,
    streams: [Stream; 2],
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// A bin as the signals for repair want it.
fn aux(element: &str, session: u32, pts: (u8, u8)) -> gst::Element {
    let map = gst::Structure::builder("application/x-rtp-pt-map")
        .field(pts.0.to_string(), u32::from(pts.1))
        .build();
    let element = gst::ElementFactory::make(element)
        .property("payload-type-map", map)
        .build()
        .unwrap();
    let bin = gst::Bin::new();
    bin.add(&element).unwrap();
    for name in ["sink", "src"] {
        let pad = element.static_pad(name).unwrap();
        let ghost = gst::GhostPad::builder_with_target(&pad)
            .unwrap()
            .name(format!("{name}_{session}"))
            .build();
        bin.add_pad(&ghost).unwrap();
    }
    bin.upcast()
}

fn caps_of(pt: u32) -> Option<gst::Caps> {
    let caps = match pt {
        96 => "application/x-rtp,media=video,clock-rate=90000,encoding-name=H264",
        97 => "application/x-rtp,media=video,clock-rate=90000,encoding-name=RTX,apt=96",
        8 => "application/x-rtp,media=audio,clock-rate=8000,encoding-name=PCMA",
        _ => return None,
    };
    let mut caps: gst::Caps = caps.parse().unwrap();
    caps.make_mut().set("payload", pt as i32);
    Some(caps)
}

/// The running time of what passes this pad.
fn log_stamps(pad: &gst::Pad, stamps: &Stamps, order: Option<&Arc<Mutex<Vec<u16>>>>) {
    let stamps = stamps.clone();
    let order = order.cloned();
    let log = move |pad: &gst::Pad, buffer: &gst::BufferRef| {
        let segment = pad.sticky_event::<gst::event::Segment>(0);
        let segment =
            segment.and_then(|event| event.segment().downcast_ref::<gst::ClockTime>().cloned());
        let segment: gst::FormattedSegment<gst::ClockTime> = segment.unwrap();
        let time = segment.to_running_time(buffer.pts()).unwrap();
        stamps.lock().unwrap().insert(seq(buffer), time);
        if let Some(order) = &order {
            order.lock().unwrap().push(seq(buffer));
        }
    };
    let types = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(types, move |pad, info| {
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => log(pad, buffer),
            Some(gst::PadProbeData::BufferList(list)) => {
                list.iter().for_each(|buffer| log(pad, buffer));
            }
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
}

/// Media and retransmissions alike; counts the media. The first second is
/// spared, as feedback is slow to start.
fn lose_packets(pad: &gst::Pad, lost: &Arc<Mutex<usize>>) {
    let lost = lost.clone();
    let count = Mutex::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count < 200 || *count % LOST_OF != 5 {
            return gst::PadProbeReturn::Ok;
        }
        let mut second = [0; 1];
        let buffer = info.buffer().unwrap();
        buffer.copy_to_slice(1, &mut second).unwrap();
        *lost.lock().unwrap() += usize::from(second[0] & 0x7f == PT);
        drop(info.data.take());
        gst::PadProbeReturn::Handled
    });
}

/// What comes to one element goes to a sink pad of another, but not by a link,
/// as that would be a loop in the pipeline.
fn forward(pipeline: &gst::Pipeline, from: &gst::Element, name: &str, to: &gst::Pad) {
    let pad = gst::Pad::builder(gst::PadDirection::Src).build();
    pad.set_active(true).unwrap();
    pad.link(to).unwrap();
    let fake = gst::ElementFactory::make("fakesink")
        .property("async", false)
        .property("sync", false)
        .build()
        .unwrap();
    pipeline.add(&fake).unwrap();
    from.link_pads(Some(name), &fake, Some("sink")).unwrap();
    let types = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    let sink = fake.static_pad("sink").unwrap();
    sink.add_probe(types, move |_, info| {
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let _ = pad.push(buffer.clone());
            }
            Some(gst::PadProbeData::Event(event)) => {
                pad.push_event(event.clone());
            }
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
}

impl Run {
    fn new(reports: bool) -> Self {
        init();
        let line = format!(
            "rtpbin name=s rtp-profile=avpf rtcp-sync-send-time=false rtpbin name=r rtp-profile=avpf do-retransmission=true latency=1000 \
             videotestsrc is-live=true pattern=ball \
             ! video/x-raw,width=320,height=180,framerate=30/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=400 key-int-max=30 \
             ! rtph264pay name=pay0 pt=96 mtu=400 \
             audiotestsrc is-live=true samplesperbuffer=160 ! audio/x-raw,rate=8000 \
             ! alawenc ! rtppcmapay name=pay1 pt=8 min-ptime=20000000 max-ptime=20000000 \
             identity name=link0 \
             queue name=link1 max-size-buffers=0 max-size-bytes=0 max-size-time=0 min-threshold-time={}",
            BEHIND_MS * 1_000_000
        );
        let pipeline: gst::Pipeline = gst::parse::launch(&line).unwrap().downcast().unwrap();
        let run = Self {
            pipeline,
            streams: [Stream::default(), Stream::default()],
        };
        let get = |name: &str| run.pipeline.by_name(name).unwrap();
        let (sender, receiver) = (get("s"), get("r"));
        sender.connect("request-aux-sender", false, |values| {
            let session: u32 = values[1].get().unwrap();
            let bin = (session == 0).then(|| aux("rtprtxsend", 0, (96, 97)));
            Some(bin.to_value())
        });
        receiver.connect("request-aux-receiver", false, |values| {
            let session: u32 = values[1].get().unwrap();
            let bin = (session == 0).then(|| aux("rtprtxreceive", 0, (96, 97)));
            Some(bin.to_value())
        });
        for rtpbin in [&sender, &receiver] {
            rtpbin.connect("request-pt-map", false, |values| {
                Some(caps_of(values[2].get().unwrap()).to_value())
            });
        }
        run.use_ours(&receiver);
        for session in 0..2 {
            run.connect(&sender, &receiver, session, reports);
        }
        run.receive(&receiver);
        run.pipeline.set_state(gst::State::Playing).unwrap();
        run
    }

    fn use_ours(&self, receiver: &gst::Element) {
        let places = [0, 1].map(|n: usize| self.streams[n].jitterbuffer.clone());
        receiver.connect("request-jitterbuffer", false, move |values| {
            let session: u32 = values[1].get().unwrap();
            // Video waits so long whatever it learns: without help they are apart.
            let least = if session == 0 { 200u32 } else { 0 };
            let element = gst::ElementFactory::make("rtpkalmanjitterbuffer")
                .property("min-latency", least)
                .build()
                .unwrap();
            places[session as usize]
                .lock()
                .unwrap()
                .get_or_insert_with(|| element.clone());
            Some(element.to_value())
        });
    }

    fn connect(&self, sender: &gst::Element, receiver: &gst::Element, n: usize, reports: bool) {
        let stream = &self.streams[n];
        let pay = self.pipeline.by_name(&format!("pay{n}")).unwrap();
        let link = self.pipeline.by_name(&format!("link{n}")).unwrap();
        let name = |name: &str| format!("{name}_{n}");
        pay.link_pads(Some("src"), sender, Some(&name("send_rtp_sink")))
            .unwrap();
        sender
            .link_pads(Some(&name("send_rtp_src")), &link, Some("sink"))
            .unwrap();
        link.link_pads(Some("src"), receiver, Some(&name("recv_rtp_sink")))
            .unwrap();
        log_stamps(&pay.static_pad("src").unwrap(), &stream.sent, None);
        // A packet comes when it comes, not when it was captured.
        let types = gst::PadProbeType::BUFFER;
        let src = link.static_pad("src").unwrap();
        src.add_probe(types, |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data {
                let buffer = buffer.make_mut();
                buffer.set_pts(None);
                buffer.set_dts(None);
            }
            gst::PadProbeReturn::Ok
        });
        let pads = [(receiver, sender, true), (sender, receiver, reports)];
        for (from, to, _) in pads.iter().filter(|(.., used)| *used) {
            let sink = to.request_pad_simple(&name("recv_rtcp_sink")).unwrap();
            forward(&self.pipeline, from, &name("send_rtcp_src"), &sink);
        }
        for rtpbin in [sender, receiver] {
            let session: gst::glib::Object =
                rtpbin.emit_by_name("get-internal-session", &[&(n as u32)]);
            session.set_property("rtcp-min-interval", 0u64);
        }
        if n == 0 {
            lose_packets(&link.static_pad("sink").unwrap(), &stream.lost);
        }
    }

    fn receive(&self, receiver: &gst::Element) {
        let weak = self.pipeline.downgrade();
        let logs = [0, 1].map(|n: usize| {
            let Stream { came, order, .. } = &self.streams[n];
            (came.clone(), order.clone())
        });
        receiver.connect_pad_added(move |_, pad| {
            let name = pad.name();
            let Some(session) = name.strip_prefix("recv_rtp_src_") else {
                return;
            };
            let (came, order) = &logs[usize::from(session.starts_with('1'))];
            log_stamps(pad, came, Some(order));
            let sink = gst::ElementFactory::make("fakesink")
                .property("async", false)
                .property("sync", false)
                .build()
                .unwrap();
            weak.upgrade().unwrap().add(&sink).unwrap();
            sink.sync_state_with_parent().unwrap();
            pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        });
    }

    fn stat(&self, n: usize, name: &str) -> u64 {
        let element = self.streams[n].jitterbuffer.lock().unwrap().clone();
        element.map_or(0, |element| {
            element
                .property::<gst::Structure>("stats")
                .get(name)
                .unwrap()
        })
    }

    /// From capture to time stamp, the mean of the last packets, in µs.
    fn delay(&self, n: usize) -> Option<i64> {
        let stream = &self.streams[n];
        let order = stream.order.lock().unwrap();
        let (sent, came) = (stream.sent.lock().unwrap(), stream.came.lock().unwrap());
        let last = order.iter().rev().take(30);
        let delays: Option<Vec<_>> = last
            .map(|seq| {
                let us = |stamps: &BTreeMap<u16, gst::ClockTime>| {
                    Some(stamps.get(seq)?.useconds().cast_signed())
                };
                Some(us(&came)? - us(&sent)?)
            })
            .collect();
        let delays = delays.filter(|delays| delays.len() == 30)?;
        Some(delays.iter().sum::<i64>() / 30)
    }

    /// How far audio is behind video.
    fn apart_us(&self) -> Option<i64> {
        Some(self.delay(1)? - self.delay(0)?)
    }

    fn count(&self, n: usize) -> usize {
        self.streams[n].order.lock().unwrap().len()
    }
}

#[test]
fn losses_are_repaired_and_both_streams_kept_in_sync() {
    let run = Run::new(true);
    wait_for("media", || run.count(0) > 1000 && run.count(1) > 150);
    wait_for("sync", || {
        run.apart_us().is_some_and(|us| us.abs() < 20_000)
    });
    // It stays so.
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let apart = run.apart_us().unwrap();
        assert!(apart.abs() < 20_000, "{apart} us");
    }
    let lost = *run.streams[0].lost.lock().unwrap() as u64;
    let repaired = run.stat(0, "rtx-success-count");
    assert!(lost > 20, "{lost}");
    assert!(
        repaired + 1 >= lost,
        "{repaired} of {lost}: one is on its way"
    );
    for n in 0..2 {
        assert_eq!(run.stat(n, "num-lost"), 0, "{n}");
        let order = run.streams[n].order.lock().unwrap();
        for pair in order.windows(2) {
            assert_eq!(pair[1], pair[0].wrapping_add(1), "all, and in order");
        }
    }
}

/// Or the test above would prove nothing.
#[test]
fn without_reports_they_are_apart() {
    let run = Run::new(false);
    wait_for("media", || run.count(0) > 1000 && run.count(1) > 150);
    let apart = run.apart_us().unwrap();
    assert!(apart.abs() > 40_000, "{apart} us");
}
