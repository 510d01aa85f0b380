// SPDX-License-Identifier: MPL-2.0
//! Receivers that share an encoder, and one that is slower than the others.

use std::time::{Duration, Instant};

use gst::prelude::*;

use super::{QUIET, Worker};
use crate::dualwebrtcsink::DualWebRtcSink;
use crate::dualwebrtcsink::branch::Branch;
use crate::dualwebrtcsink::imp::CAT;
use crate::dualwebrtcsink::slow::{self, Look};

/// A newcomer's estimate is held against those who share its encoder after this
/// time.
const NEWCOMER: Duration = Duration::from_secs(2);
/// Of the key frame by which a receiver moves to an encoder of its own, in frame
/// times: on a network that is slow it must not take long.
const MOVE_BUDGET: f64 = 2.0;
/// Slow receivers that are remembered, lest they share again.
const MOST_SLOW: usize = 64;

impl Worker {
    /// Newcomers become full members, and one that holds the others up goes.
    pub(super) fn look_for_slow(&mut self, now: Instant) {
        for session in &mut self.sessions {
            if session
                .newcomer
                .is_some_and(|since| now >= since + NEWCOMER)
            {
                session.newcomer = None;
                if let Some(control) = session.control() {
                    control.settle();
                }
            }
            let is_quiet = now >= session.peer.activity().last() + QUIET;
            if let Some(control) = session.control() {
                control.set_silent(is_quiet);
            }
        }
        let shared = self.branches.iter().find(|b| b.is_shared && b.count() > 1);
        let Some(branch) = shared else {
            self.slow_look = None;
            self.slow_search.clear();
            return;
        };
        self.slow_look = Some(now + slow::INTERVAL);
        let looks: Vec<Look> = self
            .rates
            .estimates(&branch.encoder)
            .into_iter()
            .filter_map(|(id, estimate)| {
                let session = self.sessions.iter().find(|s| s.control_id() == Some(id))?;
                Some(Look::new(id, estimate, &session.control()?.estimator))
            })
            .collect();
        if let Some(id) = self.slow_search.look(now, &looks) {
            self.part_with(id);
        }
    }

    /// The receiver gets an encoder for itself: in its session if that can be, or
    /// it asks again.
    fn part_with(&mut self, id: u64) {
        let session = self.sessions.iter().find(|s| s.control_id() == Some(id));
        let (Some(session), Some(sink)) = (session, self.sink.upgrade()) else {
            return;
        };
        let (serial, peer) = (session.serial, session.peer_id.clone());
        if self.slow.len() >= MOST_SLOW {
            self.slow.pop_front();
        }
        self.slow.push_back(peer);
        let why = "its network is slower than that of those who share its encoder";
        gst::info!(CAT, obj = sink, "session {} parts: {why}", session.id);
        if let Err(err) = self.move_to_own(&sink, serial, id) {
            gst::info!(CAT, obj = sink, "not within its session: {err}");
            self.end_session(serial, why, true);
        }
    }

    /// A new encoder begins where the shared one leaves off. To the receiver it is
    /// a sender that started anew, by a key frame.
    fn move_to_own(&mut self, sink: &DualWebRtcSink, serial: u64, id: u64) -> Result<(), String> {
        let session = self.sessions.iter().find(|s| s.serial == serial);
        let shared = self.branches.iter().position(|b| b.serves(serial));
        let (Some(session), Some(shared)) = (session, shared) else {
            return Err("it is gone".into());
        };
        if session.foreign {
            return Err("a page may not take another encoder's frames".into());
        }
        self.serial += 1;
        // Like the one that the user sets up.
        let mut own = Branch::another(
            self.serial,
            &self.branches[0].encoder,
            sink,
            &self.rates,
            &self.shared,
        )
        .map_err(|err| err.to_string())?;
        if own.encoder.has_property("start-budget") {
            own.encoder.set_property("start-budget", MOVE_BUDGET);
        }
        // It takes its time to start; the shared one goes on meanwhile.
        let moved = own.warm_up(sink).and_then(|()| {
            self.branches[shared].leave(&self.tee, serial);
            own.reserve(serial);
            self.rates.change_encoder(id, &own.encoder);
            own.link(sink, &self.tee, session)
        });
        if own.is_idle() {
            own.dispose(sink, &self.rates);
        } else {
            // The end of the session takes it away if it does not run.
            self.branches.push(own);
        }
        moved.map_err(|err| err.to_string())
    }
}
