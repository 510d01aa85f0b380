// SPDX-License-Identifier: MPL-2.0
//! What the element knows from READY to READY, and what its thread is to do.

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Timestamp};
use gcc_core::{ReceiverEstimator, Remb};
use gst::glib;
use gst::prelude::*;

use super::rtp::{self, Packet};
use crate::rtpgcc::estimate::{nanos, state_nick};

pub const STATS: &str = "application/x-rtpremb-stats";
/// Time from one look for the session, or try to send, to the next: doubles
/// from the first to the second while there is no success.
const GAP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// IPv4 and UDP headers, which the link carries too.
const PACKET_OVERHEAD: u64 = 28;

/// Something that is done again and again until it succeeds.
#[derive(Debug, Default)]
struct Attempts {
    next: Timestamp,
    gap: Duration,
}

impl Attempts {
    fn failed(&mut self, now: Timestamp) {
        let gap = self.gap.max(GAP.0);
        self.next = now + gap;
        self.gap = (gap * 2).min(GAP.1);
    }
}

#[derive(Debug)]
pub struct Look {
    pub session: glib::WeakRef<gst::Element>,
    /// Which came last.
    pub payload_type: u8,
    /// What is found is of no use when it has changed.
    pub links: u64,
}

/// For the thread.
#[derive(Debug)]
pub enum Next {
    /// The session or the id of the extension is missing.
    Look(Look),
    /// Send what the core has to say, by this session.
    Send(glib::WeakRef<gst::Element>),
    Notify,
    Wait(Duration),
    Idle,
}

pub struct State {
    pub core: ReceiverEstimator,
    /// Of the thread that serves it.
    pub serial: u64,
    /// Id of the header extension, 0 = not known. It is kept when later caps do
    /// not have it.
    extension: u8,
    /// It may be gone, and the pipeline holds both.
    session: glib::WeakRef<gst::Element>,
    found: bool,
    /// Times that the element was linked anew.
    links: u64,
    looks: Attempts,
    look: Option<u8>,
    tries: Attempts,
    /// The estimate has changed since it was last tried to send it.
    changed: bool,
    /// Nothing to do before the next packet.
    quiet: bool,
    notify: bool,
    packets: u64,
    bytes: DataSize,
    untimed: u64,
    malformed: u64,
    sent: u64,
    failed: u64,
}

impl State {
    pub fn new(core: ReceiverEstimator, serial: u64) -> Self {
        Self {
            core,
            serial,
            extension: 0,
            session: glib::WeakRef::new(),
            found: false,
            links: 0,
            looks: Attempts::default(),
            look: None,
            tries: Attempts::default(),
            changed: false,
            quiet: false,
            notify: false,
            packets: 0,
            bytes: DataSize::ZERO,
            untimed: 0,
            malformed: 0,
            sent: 0,
            failed: 0,
        }
    }

    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// True if it is another one than before.
    pub fn set_extension(&mut self, id: u8) -> bool {
        std::mem::replace(&mut self.extension, id) != id
    }

    /// Says whether the thread has something to do.
    pub fn packet(&mut self, now: Timestamp, buffer: &gst::BufferRef) -> bool {
        let size = DataSize::from_bytes(buffer.size() as u64 + PACKET_OVERHEAD);
        self.packets += 1;
        self.bytes += size;
        let mut payload_type = 0;
        let mut wake = false;
        match rtp::look_at(buffer, self.extension) {
            Packet::Timed { sent, ssrc } => {
                let before = self.core.estimate();
                self.core.packet(now, sent, size, ssrc);
                if self.core.estimate() != before {
                    (self.changed, self.notify) = (true, true);
                    wake = true;
                }
                wake |= std::mem::take(&mut self.quiet);
            }
            Packet::Untimed { payload_type: pt } => {
                self.untimed += 1;
                payload_type = pt;
            }
            Packet::Malformed => self.malformed += 1,
        }
        let missing = !self.found || self.extension == 0;
        if missing && now >= self.looks.next && self.look.is_none() {
            self.look = Some(payload_type);
            wake = true;
        }
        wake
    }

    pub fn next(&mut self, now: Timestamp) -> Next {
        if std::mem::take(&mut self.notify) {
            return Next::Notify;
        }
        if let Some(payload_type) = self.look.take() {
            self.looks.failed(now);
            let session = self.session.clone();
            return Next::Look(Look {
                session,
                payload_type,
                links: self.links,
            });
        }
        if !self.found || self.core.estimate().is_none() || self.quiet {
            return Next::Idle;
        }
        let timer = match self.core.next_poll() {
            Some(at) if at > now && !self.changed => at,
            _ => now,
        };
        let at = timer.max(self.tries.next);
        if at > now {
            return Next::Wait(at.since(now));
        }
        self.changed = false;
        Next::Send(self.session.clone())
    }

    /// What a look has found.
    pub fn found(&mut self, look: &Look, session: &gst::Element, extension: Option<u8>) {
        if look.links != self.links {
            return;
        }
        self.session = session.downgrade();
        self.found = true;
        if self.extension == 0 {
            self.extension = extension.unwrap_or(0);
        }
        if self.extension > 0 {
            self.looks = Attempts::default();
        }
    }

    /// The element was linked anew, or the session is gone.
    pub fn search_anew(&mut self) {
        self.session = glib::WeakRef::new();
        self.found = false;
        self.links += 1;
        self.looks = Attempts::default();
    }

    /// RTCP cannot be sent yet.
    pub fn closed(&mut self, now: Timestamp) {
        self.tries.failed(now);
        self.changed = true;
    }

    /// The message that is due, if one is.
    pub fn poll(&mut self, now: Timestamp) -> Option<Remb> {
        self.tries = Attempts::default();
        let message = self.core.poll(now);
        // It is late and there is nobody to tell about.
        self.quiet = message.is_none() && self.core.next_poll().is_none_or(|at| at <= now);
        message
    }

    pub fn sent(&mut self, success: bool) {
        if success {
            self.sent += 1;
        } else {
            self.failed += 1;
        }
    }

    pub fn stats(&self) -> gst::Structure {
        let core = self.core.stats();
        let estimate = self.core.estimate().map_or(0, Bitrate::as_bps);
        gst::Structure::builder(STATS)
            .field("packets", self.packets)
            .field("bytes", self.bytes.as_bytes())
            .field("timed-packets", core.packets)
            .field("untimed-packets", self.untimed)
            .field("malformed", self.malformed)
            .field("remb", self.sent)
            .field("send-failed", self.failed)
            .field("overuses", core.overuses)
            .field("session", self.found)
            .field("extension-id", u32::from(self.extension))
            .field("bitrate", estimate)
            .field("state", state_nick(core.state))
            .field("capacity", core.capacity.as_bps())
            .field("received-bitrate", core.received.as_bps())
            .field("queue", nanos(core.queue))
            .build()
    }
}
