// SPDX-License-Identifier: MPL-2.0
//! The page of our web server in Chromium as it comes. Screenshots are left in
//! the target folder, under `screenshots`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use dualstream_chromium::page::{Session, SetUp};
use dualstream_chromium::session::{Direction, glib_warnings};
use dualstream_chromium::{browser, page};
use dualstream_common::Ratio;
use serde_json::Value;

const SOURCE: &str = "videotestsrc is-live=true pattern=ball ! \
    video/x-raw,width=640,height=360,framerate=30/1";

fn is_there() -> bool {
    let found = browser::find().is_some();
    if !found {
        // Not lost in what the harness captures.
        let _ = writeln!(std::io::stderr(), "skipped: chromium not installed");
    }
    found
}

fn number(report: &Value, path: &str) -> f64 {
    report
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no {path} in {report}"))
}

fn screenshot(page: &page::Page, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    page.devtools()
        .screenshot(&folder.join(name))
        .expect("a screenshot");
}

/// Console, network and GLib have nothing to complain of.
fn assert_clean(session: Session) {
    assert_eq!(session.page.devtools().complaints(), Vec::<String>::new());
    drop(session);
    assert_eq!(glib_warnings(), 0, "see standard error");
}

fn sender(properties: &str) -> SetUp {
    let sink = "dualwebrtcsink name=peer encoder::bitrate=1500000 encoder::refresh-interval=1000";
    SetUp::new(
        Direction::ToChromium,
        &format!("{SOURCE} ! {sink} {properties}"),
    )
}

fn switches(session: &Session) -> u64 {
    let stats = session.stats().expect("stats");
    let encoder: gst::Structure = stats.get("encoder").expect("an encoder");
    encoder.get("switches").expect("a counter")
}

fn of_channel(session: &Session, field: &str) -> u64 {
    let stats = session.stats().expect("stats");
    let channel: gst::Structure = stats.get("data-channel").expect("a data channel");
    channel.get(field).expect("a counter")
}

#[test]
fn the_page_shows_both_streams_and_sees_each_switch() {
    if !is_there() {
        return;
    }
    let mut set_up = sender("");
    set_up.pipeline += " audiotestsrc is-live=true wave=ticks ! peer.audio";
    let session = Session::start(&set_up).expect("a session");
    let report = session
        .wait("switches", |report| {
            report["switches"].as_u64() >= Some(5) && report["latency"]["count"].as_u64() > Some(90)
        })
        .expect("switches");
    screenshot(&session.page, "receive.png");
    let stats = session.stats().expect("stats");
    assert_eq!(stats.get("dual"), Ok(true), "{stats}");
    assert_eq!(
        (&report["dual"], &report["sound"]),
        (&true.into(), &true.into())
    );
    // One more may be on its way.
    let seen = number(&report, "/switches") as u64;
    assert!((seen..=seen + 2).contains(&switches(&session)), "{report}");
    assert!(of_channel(&session, "completes") >= 5);
    assert_eq!(of_channel(&session, "malformed"), 0);
    // Mean of both clocks, which are one here: an error of the exchange shows.
    assert!(number(&report, "/clock/offset").abs() < 20.0, "{report}");
    let latency = number(&report, "/latency/p50");
    assert!((5.0..250.0).contains(&latency), "{report}");
    // What it says is not believed.
    let said = session.page.devtools().evaluate(
        "const c = window.dualstream.channel;
         for (const text of ['', '{', 'x'.repeat(20000), '{\"complete\":{\"stream\":7,\"rtp\":1}}',
                             '[[[['.repeat(100), '{\"hello\":{\"version\":-1}}'])
             c.send(text);
         for (let i = 0; i < 3000; i++)
             c.send('{\"complete\":{\"stream\":1,\"rtp\":' + i + '}}');",
    );
    said.expect("the page says nonsense");
    let before = switches(&session);
    session
        .wait("more switches", |_| switches(&session) >= before + 2)
        .expect("it goes on");
    assert!(of_channel(&session, "malformed") >= 3);
    assert!(of_channel(&session, "limited") > 1000);
    // Stop and start again, by hand.
    session.page.click("stop").expect("a button");
    session
        .wait("the end", |report| report["status"] == "Stopped")
        .expect("it stops");
    screenshot(&session.page, "stopped.png");
    session.page.click("start").expect("a button");
    session
        .wait("a switch in the second session", |report| {
            report["switches"].as_u64() >= Some(1)
        })
        .expect("it starts again");
    assert_clean(session);
}

#[test]
fn the_page_repairs_by_fec_and_goes_on_to_switch() {
    if !is_there() {
        return;
    }
    let mut set_up = sender(
        "fec=flexfec-03 fec-0::controller=fixed fec-0::percentage=30 \
         fec-1::controller=fixed fec-1::percentage=30",
    );
    set_up.flexfec = true;
    set_up.drops = Ratio::clamped(0.03);
    let session = Session::start(&set_up).expect("a session");
    let report = session
        .wait("FEC and switches", |report| {
            report["switches"].as_u64() >= Some(3) && report["fec"].as_u64() >= Some(20)
        })
        .expect("FEC and switches");
    let stats = session.stats().expect("stats");
    assert_eq!(stats.get("fec"), Ok("flexfec-03"), "{stats}");
    assert_eq!(report["dual"], true);
    assert_clean(session);
}

#[test]
fn the_page_shows_pictures_and_switches_where_packets_are_lost() {
    if !is_there() {
        return;
    }
    let mut set_up = sender("fec=off");
    set_up.drops = Ratio::clamped(0.03);
    let session = Session::start(&set_up).expect("a session");
    let before = session
        .wait("the first switch", |report| {
            report["switches"].as_u64() >= Some(1)
        })
        .expect("a switch");
    session.sleep(Duration::from_secs(8)).expect("it goes on");
    let report = session.page.report().expect("a report");
    screenshot(&session.page, "receive-loss.png");
    let less = |path: &str| number(&report, path) - number(&before, path);
    assert!(less("/again") >= 5.0, "{report}");
    assert!(less("/switches") >= 2.0, "{report}");
    let shown = less("/pictures/0") + less("/pictures/1");
    assert!(shown >= 120.0, "{report}");
    assert!(less("/frozen") < 2500.0, "{report}");
    assert_clean(session);
}

#[test]
fn the_page_sends_camera_and_microphone() {
    if !is_there() {
        return;
    }
    let mut set_up = SetUp::new(
        Direction::FromChromium,
        "dualwebrtcsrc name=peer peer.src ! progressreport silent=true ! fakesink name=out sync=false \
         peer.audio ! fakesink name=sound sync=false async=false",
    );
    set_up.query.clear();
    let session = Session::start(&set_up).expect("a session");
    session
        .wait("a button to press", |report| {
            report["status"] == "Ready: press Start"
        })
        .expect("a button");
    session.page.click("start").expect("a button");
    let rendered = |name: &str| {
        let sink = session.element(name).expect("a sink");
        let stats: gst::Structure = gst::prelude::ObjectExt::property(&sink, "stats");
        stats.get::<u64>("rendered").expect("a counter")
    };
    let report = session
        .wait("pictures and sound", |report| {
            rendered("out") >= 120 && rendered("sound") >= 50 && report["fps"].as_f64() > Some(0.0)
        })
        .expect("pictures and sound");
    screenshot(&session.page, "send.png");
    assert_eq!(report["codec"], "video/H264", "{report}");
    session.page.click("stop").expect("a button");
    session
        .wait("the end", |report| report["status"] == "Stopped")
        .expect("it stops");
    assert_clean(session);
}
