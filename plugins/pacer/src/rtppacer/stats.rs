// SPDX-License-Identifier: MPL-2.0
//! `stats` of the element.

use std::time::Duration;

use dualstream_common::{Bitrate, Timestamp};
use pacer_core::Priority;

use super::state::State;
use super::{classify, requests};

/// `state`: none in READY, where all is zero.
pub fn structure(state: Option<&State>, now: Timestamp) -> gst::Structure {
    let stats = state.map(|s| s.core.stats()).unwrap_or_default();
    let own = |f: fn(&State) -> u64| state.map_or(0, f);
    let asked = state.map(|s| s.requests.core.stats()).unwrap_or_default();
    let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let mut s = gst::Structure::builder("application/x-rtppacer-stats")
        .field(
            "pacing-bitrate",
            stats.rate.map_or(u64::MAX, Bitrate::as_bps),
        )
        .field("raised", stats.raised)
        .field("congested", stats.congested)
        .field("padding-packets", own(|s| s.padded))
        .field("padding-bytes", own(|s| s.padded_bytes.as_bytes()))
        .field("padding-skipped", own(|s| s.padding_skipped))
        .field("probes-completed", stats.probes.completed)
        .field("probes-dropped", stats.probes.dropped)
        .field("probes-refused", stats.probes.refused)
        .field("probe-packets", stats.probes.sent.packets)
        .field("probe-bytes", stats.probes.sent.bytes.as_bytes())
        .field("malformed", own(|s| s.malformed))
        .field("wrong-fields", own(|s| s.wrong_fields))
        .field("behind-event", own(|s| s.behind.len() as u64))
        .field("dropped-behind-event", own(|s| s.behind_dropped))
        .field("requests", requests::structure(&asked));
    for priority in Priority::ALL {
        let p = stats.of(priority);
        let oldest = p.oldest.map_or(Duration::ZERO, |o| now.since(o));
        let one = gst::Structure::builder(classify::nick(priority))
            .field("pushed-packets", p.pushed.packets)
            .field("pushed-bytes", p.pushed.bytes.as_bytes())
            .field("sent-packets", p.sent.packets)
            .field("sent-bytes", p.sent.bytes.as_bytes())
            .field("expired-packets", p.expired.packets)
            .field("evicted-packets", p.evicted.packets)
            .field("refused-packets", p.refused.packets)
            .field("flushed-packets", p.flushed.packets)
            .field("queued-packets", p.queued.packets)
            .field("queued-bytes", p.queued.bytes.as_bytes())
            .field("oldest", nanos(oldest))
            .field("waited", nanos(p.waited))
            .field("longest-wait", nanos(p.longest_wait))
            .build();
        s = s.field(classify::nick(priority), one);
    }
    s.build()
}
