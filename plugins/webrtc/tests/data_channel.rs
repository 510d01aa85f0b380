// SPDX-License-Identifier: MPL-2.0
//! The data channel with peers that are no page: it is there and does no harm.

mod common;

use common::*;
use gst::glib;
use gst::prelude::*;

/// Each with a new webrtcbin: what it leaves behind on the way down would be a
/// warning, which is fatal here.
#[test]
fn our_receiver_comes_and_goes_and_is_dual_at_once() {
    let sender = sender(LIVE, "data-channel=true encoder::refresh-interval=500").play();
    let uri = uri(&sender, "sink");
    for round in 1..=4 {
        let receiver = receiver(&uri, "");
        let seen = receiver.watch("out");
        let receiver = receiver.play();
        wait_for("pictures", || seen.count() >= 10);
        let stats: gst::Structure = sender.element("sink").property("stats");
        assert_eq!(stats.get("dual"), Ok(true), "{stats}");
        let channel: gst::Structure = stats.get("data-channel").expect("a data channel");
        assert_eq!(channel.get("hello"), Ok(false));
        assert_eq!(stats.get("sessions"), Ok(round as u64));
        receiver.stop();
        wait_for("the end of the session", || {
            sender.stat::<String>("sink", "session") == "none"
        });
    }
    sender.assert_no_error();
}

#[test]
fn a_foreign_receiver_that_says_nothing_gets_a_single_stream() {
    init();
    gstrswebrtc::plugin_register_static().unwrap();
    // It warns where no estimator is installed.
    glib::log_set_always_fatal(glib::LogLevels::LEVEL_CRITICAL);
    let sender = sender(LIVE, "data-channel=true").play();
    let uri = uri(&sender, "sink");
    // webrtcsrc asks for the producers once and does not listen for new ones.
    wait_for("registration", || sender.stat::<bool>("sink", "signalling"));
    let foreign = Pipeline::new(&format!(
        "webrtcsrc name=foreign connect-to-first-producer=true signaller::uri={uri} \
         foreign. ! fakesink name=out sync=false"
    ));
    foreign
        .element("foreign")
        .set_property("stun-server", None::<String>);
    let seen = foreign.watch("out");
    let _foreign = foreign.play();
    wait_for("pictures", || seen.count() >= 30);
    assert!(!sender.stat::<bool>("sink", "dual"));
    let reason = sender.stat::<String>("sink", "reason");
    assert_eq!(reason, "no page has said hello on the data channel");
    sender.assert_no_error();
}
