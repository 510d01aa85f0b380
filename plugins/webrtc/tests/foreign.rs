// SPDX-License-Identifier: MPL-2.0
//! Peers that know nothing of dual stream: webrtcsrc and webrtcsink of
//! gst-plugins-rs.

mod common;

use common::*;
use gst::glib;
use gst::prelude::*;

fn init_foreign() {
    init();
    static INIT: std::sync::Once = std::sync::Once::new();
    INIT.call_once(|| {
        gstrswebrtc::plugin_register_static().unwrap();
        // It warns where no estimator is installed.
        glib::log_set_always_fatal(glib::LogLevels::LEVEL_CRITICAL);
    });
}

/// Its default is a server on the Internet.
fn without_stun(pipeline: &Pipeline) {
    pipeline
        .element("foreign")
        .set_property("stun-server", None::<String>);
}

#[test]
fn a_foreign_receiver_gets_a_single_stream() {
    init_foreign();
    let sender = sender(LIVE, "encoder::refresh-interval=500").play();
    let uri = uri(&sender, "sink");
    // webrtcsrc asks for the producers once and does not listen for new ones.
    wait_for("registration", || sender.stat::<bool>("sink", "signalling"));
    let foreign = Pipeline::new(&format!(
        "webrtcsrc name=foreign connect-to-first-producer=true signaller::uri={uri} \
         foreign. ! fakesink name=out sync=false"
    ));
    without_stun(&foreign);
    let seen = foreign.watch("out");
    let foreign = foreign.play();
    wait_for("pictures", || seen.count() >= 30);
    assert!(!sender.stat::<bool>("sink", "dual"));
    assert_eq!(sender.stat::<String>("sink", "fec"), "none");
    assert_eq!(
        sender.stat::<String>("sink", "reason"),
        "the peer does not send frame-complete messages"
    );
    foreign.stop();
    wait_for("the end of the session", || {
        sender.stat::<String>("sink", "session") == "none"
    });
    // The encoder is given back as it was.
    let ours = receiver(&uri, "");
    let seen = ours.watch("out");
    let _ours = ours.play();
    wait_for("pictures", || seen.count() >= 10);
    assert!(sender.stat::<bool>("sink", "dual"));
    sender.assert_no_error();
}

#[test]
fn a_foreign_sender_is_received() {
    init_foreign();
    let receiver = receiver(
        "ws://127.0.0.1:1",
        "run-signalling-server=true signalling-server-host=127.0.0.1 signalling-server-port=0",
    );
    let seen = receiver.watch("out");
    let receiver = receiver.play();
    let uri = uri(&receiver, "src");
    let foreign = Pipeline::new(&format!(
        "{LIVE} ! webrtcsink name=foreign video-caps=video/x-h264 signaller::uri={uri}"
    ));
    without_stun(&foreign);
    let foreign = foreign.play();
    wait_for("pictures", || seen.count() >= 30);
    assert!(!receiver.stats("src").has_field("feedback-1"));
    // It offers ULPFEC, whose recovered packets would be garbage.
    assert_eq!(receiver.stat::<String>("src", "fec"), "none");
    drop(foreign);
    wait_for("the end of the session", || {
        receiver.stat::<String>("src", "session") == "none"
    });
    receiver.assert_no_error();
}
