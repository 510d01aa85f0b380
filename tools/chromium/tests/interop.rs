// SPDX-License-Identifier: MPL-2.0
//! Chromium as the peer, on loopback, where our own element loses packets.
//!
//! With FlexFEC nothing is asked for again: at such a short round-trip time
//! retransmissions would be all that is needed.

use std::io::Write;
use std::time::Duration;

use dualstream_chromium::browser;
use dualstream_chromium::session::{Direction, Experiment, Figures, run};
use dualstream_common::Ratio;

fn experiment(direction: Direction, fec: bool) -> Option<Figures> {
    if browser::find().is_none() {
        // Not lost in what the harness captures.
        let _ = writeln!(std::io::stderr(), "skipped: chromium not installed");
        return None;
    }
    let figures = run(&Experiment {
        nack: false,
        drops: Ratio::clamped(0.05),
        properties: match direction {
            Direction::ToChromium => "fec-0::target-residual=0.001".into(),
            Direction::FromChromium => String::new(),
        },
        settle: Duration::from_secs(3),
        duration: Duration::from_secs(8),
        ..Experiment::new(direction, fec)
    });
    Some(figures.expect("a session with Chromium").0)
}

#[test]
fn chromium_repairs_what_we_send_by_fec() {
    let Some(with) = experiment(Direction::ToChromium, true) else {
        return;
    };
    assert_eq!(with.negotiated, "flexfec-03");
    assert!(with.fec_packets >= 20, "{with:?}");
    let Some(without) = experiment(Direction::ToChromium, false) else {
        return;
    };
    assert_eq!(without.negotiated, "none");
    assert_eq!(without.fec_packets, 0, "{without:?}");
    // A freeze that has not ended is none yet to Chromium.
    assert!(
        with.frames >= 2 * without.frames,
        "with FEC {with:?}, without {without:?}"
    );
}

#[test]
fn we_repair_what_chromium_sends_by_fec() {
    let Some(figures) = experiment(Direction::FromChromium, true) else {
        return;
    };
    assert_eq!(figures.negotiated, "flexfec-03");
    assert!(figures.fec_packets >= 20, "{figures:?}");
    assert!(figures.recovered >= Some(10), "{figures:?}");
    assert!(figures.frames >= 120, "{figures:?}");
}

/// Nothing but retransmissions repairs.
fn with_buffer(kind: &str) -> Option<Figures> {
    browser::find()?;
    let figures = run(&Experiment {
        drops: Ratio::clamped(0.03),
        synchronised: true,
        properties: format!("jitter-buffer={kind}"),
        settle: Duration::from_secs(3),
        duration: Duration::from_secs(8),
        ..Experiment::new(Direction::FromChromium, false)
    });
    Some(figures.expect("a session with Chromium").0)
}

#[test]
fn the_adaptive_jitter_buffer_repairs_what_chromium_sends() {
    let Some(adaptive) = with_buffer("adaptive") else {
        let _ = writeln!(std::io::stderr(), "skipped: chromium not installed");
        return;
    };
    assert_eq!(adaptive.glib_warnings, 0, "{adaptive:?}");
    assert!(adaptive.repaired >= Some(10), "{adaptive:?}");
    assert!(adaptive.frames >= 120, "{adaptive:?}");
    assert!(adaptive.delay_ms < Some(150.0), "{adaptive:?}");
    if adaptive.freezes_over_200_ms > Some(0) {
        // Of the machine, then.
        let fixed = with_buffer("fixed").expect("Chromium is there");
        assert!(
            adaptive.freezes_over_200_ms <= fixed.freezes_over_200_ms,
            "adaptive {adaptive:?}, fixed {fixed:?}"
        );
    }
}
