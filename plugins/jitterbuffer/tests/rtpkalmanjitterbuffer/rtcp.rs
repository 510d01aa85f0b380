// SPDX-License-Identifier: MPL-2.0
//! Sender reports, and what rtpbin is told of them.

use std::sync::{Arc, Mutex};

use crate::common::*;
use gst::prelude::*;

type Syncs = Arc<Mutex<Vec<gst::Structure>>>;

fn syncs(f: &Fixture) -> Syncs {
    let syncs = Syncs::default();
    let log = syncs.clone();
    f.element.connect("handle-sync", false, move |values| {
        let s: gst::Structure = values[1].get().unwrap();
        log.lock().unwrap().push(s);
        None
    });
    syncs
}

/// A source pad that is linked to a new request pad.
fn rtcp_pad(f: &Fixture) -> (gst::Pad, gst::Pad) {
    let sink = f.element.request_pad_simple("sink_rtcp").unwrap();
    let src = gst::Pad::builder(gst::PadDirection::Src).build();
    src.set_active(true).unwrap();
    src.link(&sink).unwrap();
    src.push_event(gst::event::StreamStart::new("rtcp"));
    let caps = gst::Caps::new_empty_simple("application/x-rtcp");
    src.push_event(gst::event::Caps::new(&caps));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    src.push_event(gst::event::Segment::new(&segment));
    (src, sink)
}

/// SR, and SDES with CNAME if there is a name (RFC 3550, sections 6.4.1 and
/// 6.5).
fn report(ntp: u64, rtp: u32, cname: Option<&str>) -> Vec<u8> {
    let mut data = vec![0x80, 200, 0, 6];
    data.extend(SSRC.to_be_bytes());
    data.extend(ntp.to_be_bytes());
    data.extend(rtp.to_be_bytes());
    data.extend([0; 8]);
    if let Some(cname) = cname {
        let mut chunk = SSRC.to_be_bytes().to_vec();
        chunk.extend([1, cname.len() as u8]);
        chunk.extend(cname.as_bytes());
        chunk.push(0);
        chunk.resize(chunk.len().next_multiple_of(4), 0);
        data.extend([0x81, 202, 0, chunk.len() as u8 / 4]);
        data.extend(chunk);
    }
    data
}

/// Of 1 s and a half.
const NTP: u64 = 1 << 32 | 0x8000_0000;

fn push(src: &gst::Pad, data: Vec<u8>) {
    let buffer = gst::Buffer::from_slice(data);
    assert_eq!(src.push(buffer), Ok(gst::FlowSuccess::Ok));
}

/// All that rtpbin reads, with its types (GStreamer 1.22,
/// `gst_rtp_bin_handle_sync`).
#[test]
fn a_report_says_where_the_stream_is() {
    let mut f = Fixture::new("");
    let syncs = syncs(&f);
    let (src, _) = rtcp_pad(&f);
    // Longer than the longest delay.
    f.frames(0..400, |_| 0);
    let data = report(NTP, 400 * FRAME, Some("me@here"));
    push(&src, data.clone());
    let all = syncs.lock().unwrap().clone();
    assert_eq!(all.len(), 1);
    let s = &all[0];
    assert_eq!(s.get("clock-rate"), Ok(90_000u32));
    assert_eq!(s.get("clock-base"), Ok(u64::MAX), "not known");
    assert_eq!(s.get("ssrc"), Ok(SSRC));
    assert_eq!(s.get("sr-ntpnstime"), Ok(1_500_000_000u64));
    assert_eq!(s.get::<&str>("cname"), Ok("me@here"));
    let buffer: gst::Buffer = s.get("sr-buffer").unwrap();
    assert_eq!(*buffer.map_readable().unwrap(), *data);
    // As rtpbin computes the time stamp of the report's frame.
    let [ext, base, time] =
        ["sr-ext-rtptime", "base-rtptime", "base-time"].map(|name| s.get::<u64>(name).unwrap());
    assert_eq!(ext as u32, 400 * FRAME);
    let stamp = time / 1000 + (ext - base) * 100 / 9;
    f.push_all(due_us(400), &frame(400, 1, 400));
    f.until_out(401);
    assert_near(f.out.last_pts(), stamp, 500, "the time stamp it gets");
}

#[test]
fn an_offset_is_not_part_of_what_is_told() {
    let mut f = Fixture::new("ts-offset=30000000 min-latency=50");
    let syncs = syncs(&f);
    let (src, _) = rtcp_pad(&f);
    f.frames(0..60, |_| 0);
    push(&src, report(NTP, 59 * FRAME, Some("a")));
    let time: u64 = syncs.lock().unwrap()[0].get("base-time").unwrap();
    assert_near(time / 1000, due_us(59) + 50_000, 500, "without ts-offset");
    assert_near(f.out.last_pts(), due_us(59) + 80_000, 500, "with it");
}

#[test]
fn a_report_waits_for_the_stream() {
    let mut f = Fixture::new("");
    let syncs = syncs(&f);
    let (src, _) = rtcp_pad(&f);
    push(&src, report(NTP, 0, None));
    assert!(syncs.lock().unwrap().is_empty());
    f.frames(0..3, |_| 0);
    let all = syncs.lock().unwrap().clone();
    assert_eq!(all.len(), 1);
    assert!(!all[0].has_field("cname"));
    // Another one for the next report.
    push(&src, report(NTP, 3 * FRAME, None));
    assert_eq!(syncs.lock().unwrap().len(), 2);
}

#[test]
fn a_report_far_ahead_is_not_used() {
    for (limit, used) in [(1000, false), (-1, true), (5000, true)] {
        let mut f = Fixture::new(&format!("max-rtcp-rtp-time-diff={limit}"));
        let syncs = syncs(&f);
        let (src, _) = rtcp_pad(&f);
        f.frames(0..30, |_| 0);
        push(&src, report(NTP, 29 * FRAME + 3 * 90_000, Some("a")));
        let ext: u64 = syncs.lock().unwrap()[0].get("sr-ext-rtptime").unwrap();
        assert_eq!(ext != u64::MAX, used, "{limit}: {ext}");
    }
}

#[test]
fn the_clock_base_of_caps_is_passed_on() {
    let mut caps = caps();
    caps.make_mut().set("clock-base", 777u32);
    let mut f = Fixture::with_caps("", caps);
    let syncs = syncs(&f);
    let (src, _) = rtcp_pad(&f);
    f.frames(0..3, |_| 0);
    push(&src, report(NTP, 0, None));
    assert_eq!(syncs.lock().unwrap()[0].get("clock-base"), Ok(777u64));
}

#[test]
fn what_is_no_report_does_no_harm() {
    let mut f = Fixture::new("");
    let syncs = syncs(&f);
    let (src, _) = rtcp_pad(&f);
    f.frames(0..3, |_| 0);
    let good = report(NTP, 0, Some("name\0inside"));
    for len in 0..good.len() {
        push(&src, good[..len].to_vec());
    }
    let mut rng = fastrand::Rng::with_seed(6);
    for _ in 0..5000 {
        let mut data = good.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(0..data.len());
            data[at] = rng.u8(..);
        }
        push(&src, data);
    }
    // A receiver report alone, and nothing.
    push(&src, vec![0x80, 201, 0, 1, 0, 0, 0, 1]);
    push(&src, vec![]);
    let before = syncs.lock().unwrap().len();
    push(&src, report(NTP, 0, Some("good")));
    let all = syncs.lock().unwrap();
    assert_eq!(all.len(), before + 1);
    assert_eq!(all[before].get::<&str>("cname"), Ok("good"));
    drop(all);
    f.frames(3..30, |_| 0);
}

#[test]
fn the_pad_can_be_requested_again() {
    let mut f = Fixture::new("");
    let syncs = syncs(&f);
    let template = f.element.pad_template("sink_rtcp").unwrap();
    for round in 0..3u32 {
        let (src, sink) = rtcp_pad(&f);
        assert_eq!(sink.name(), "sink_rtcp");
        let second = f.element.request_pad(&template, None, None);
        assert!(second.is_none(), "there is but one");
        f.frames(round * 3..round * 3 + 3, |_| 0);
        push(&src, report(NTP, round * 3 * FRAME, None));
        f.element.release_request_pad(&sink);
        let late = gst::Buffer::from_slice(report(NTP, 0, None));
        assert!(src.push(late).is_err());
    }
    assert_eq!(syncs.lock().unwrap().len(), 3);
    assert!(f.element.static_pad("sink_rtcp").is_none());
}

/// Its end is not that of the stream.
#[test]
fn the_end_of_rtcp_is_nothing() {
    let mut f = Fixture::new("");
    let (src, _) = rtcp_pad(&f);
    f.frames(0..3, |_| 0);
    assert!(src.push_event(gst::event::Eos::new()));
    f.frames(3..6, |_| 0);
    assert!(!f.out.words().contains(&"eos".to_owned()));
}
