// SPDX-License-Identifier: MPL-2.0
//! The custom upstream event `application/x-network-estimate`: what it says,
//! and what of its target is left for media.

use std::collections::VecDeque;
use std::time::Duration;

use dualstream_common::{Bitrate, Ratio, Timestamp};
use gst::glib;

pub const EVENT: &str = "application/x-network-estimate";

/// Of our own accord no more often than this.
const INTERVAL: Duration = Duration::from_millis(100);
/// A smaller change of what is left for media is not worth an event.
const CHANGE: f64 = 0.01;
/// Events that wait for the thread that sends them. Only if upstream is slow
/// there are as many; the oldest are dropped.
const MOST_WAITING: usize = 16;
/// A longer round trip is no measurement.
const LONGEST_RTT: Duration = Duration::from_secs(60);

/// What of the event concerns FEC.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub target: Bitrate,
    pub loss: Ratio,
    pub rtt: Option<Duration>,
}

fn field<'a, T: glib::value::FromValue<'a>>(
    s: &'a gst::StructureRef,
    name: &str,
    wrong: &mut u64,
) -> Option<T> {
    let value = s.value(name).ok()?.get::<T>();
    *wrong += u64::from(value.is_err());
    value.ok()
}

impl Estimate {
    /// What the event says, if it has a target; and how many fields have a
    /// wrong type.
    pub fn parse(s: &gst::StructureRef) -> (Option<Self>, u64) {
        let mut wrong = 0;
        let target = field::<u64>(s, "target-bitrate", &mut wrong);
        let loss = field::<f64>(s, "loss", &mut wrong).unwrap_or(0.0);
        let rtt = field::<u64>(s, "rtt", &mut wrong).map(Duration::from_nanos);
        let estimate = target.map(|target| Self {
            target: Bitrate::from_bps(target),
            loss: Ratio::clamped(loss),
            rtt: rtt.filter(|rtt| *rtt <= LONGEST_RTT),
        });
        (estimate, wrong)
    }
}

/// The event with another target.
fn with_target(event: &gst::Event, target: Bitrate) -> gst::Event {
    let mut event = event.copy();
    if let Some(event) = event.get_mut() {
        event.structure_mut().set("target-bitrate", target.as_bps());
    }
    event
}

/// The last estimate, and what others were told of it.
#[derive(Default)]
pub struct Told {
    /// As it came, without what is to be done once only.
    last: Option<(gst::Event, Bitrate)>,
    media: Bitrate,
    at: Timestamp,
    /// What goes upstream, in order.
    waiting: VecDeque<gst::Event>,
    /// A thread is sending.
    pub sending: bool,
}

impl Told {
    pub fn target(&self) -> Option<Bitrate> {
        self.last.as_ref().map(|(_, target)| *target)
    }

    pub fn media(&self) -> Bitrate {
        self.media
    }

    /// An event with this target came, of which `media` is left.
    pub fn came(&mut self, now: Timestamp, event: &gst::Event, target: Bitrate, media: Bitrate) {
        self.send(now, with_target(event, media), media);
        let mut last = event.copy();
        if let Some(last) = last.get_mut() {
            last.structure_mut().remove_field("probe");
        }
        self.last = Some((last, target));
    }

    /// What is left of the last target may have changed.
    pub fn update(&mut self, now: Timestamp, media: Bitrate) {
        let Some((last, _)) = &self.last else { return };
        let change = media.as_bps().abs_diff(self.media.as_bps());
        let soon = now.distance(self.at).abs() < INTERVAL;
        if soon || change as f64 <= self.media.as_bps() as f64 * CHANGE {
            return;
        }
        let event = with_target(last, media);
        self.send(now, event, media);
    }

    fn send(&mut self, now: Timestamp, event: gst::Event, media: Bitrate) {
        (self.media, self.at) = (media, now);
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(event);
    }

    /// Something is to be sent.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What the calling thread is to send, after which it asks again. `None`
    /// while another thread is at it: so the order is kept without a lock.
    pub fn next(&mut self) -> Option<gst::Event> {
        if self.sending {
            return None;
        }
        let event = self.waiting.pop_front()?;
        self.sending = true;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(target: u64) -> gst::Event {
        gst::init().unwrap();
        let s = gst::Structure::builder(EVENT)
            .field("target-bitrate", target)
            .field("pacing-bitrate", 9u64)
            .field("probe", gst::Structure::new_empty("probe"))
            .build();
        gst::event::CustomUpstream::new(s)
    }

    fn kbps(kbps: u64) -> Bitrate {
        Bitrate::from_kbps(kbps)
    }

    fn target(event: Option<gst::Event>) -> Option<u64> {
        event?.structure()?.get("target-bitrate").ok()
    }

    #[test]
    fn what_is_absent_or_of_a_wrong_type_is_ignored() {
        gst::init().unwrap();
        let parse = |text: &str| {
            let s: gst::Structure = format!("{EVENT},{text}").parse().unwrap();
            Estimate::parse(&s)
        };
        let whole = Estimate {
            target: kbps(1000),
            loss: Ratio::clamped(0.1),
            rtt: Some(Duration::from_millis(50)),
        };
        let target = "target-bitrate=(guint64)1000000";
        let rest = "loss=(double)0.1,rtt=(guint64)50000000";
        assert_eq!(parse(&format!("{target},{rest}")), (Some(whole), 0));
        assert_eq!(parse(rest), (None, 0));
        let bare = Estimate {
            loss: Ratio::ZERO,
            rtt: None,
            ..whole
        };
        assert_eq!(parse(target), (Some(bare), 0));
        let wrong = format!("{target},loss=(string)x,rtt=(int)5");
        assert_eq!(parse(&wrong), (Some(bare), 2));
        let extreme = format!("{target},loss=(double)nan,rtt=(guint64)18446744073709551615");
        assert_eq!(parse(&extreme), (Some(bare), 0));
    }

    #[test]
    fn an_event_goes_on_with_a_lower_target_and_nothing_else_changed() {
        let mut told = Told::default();
        let came = event(1_000_000);
        told.came(Timestamp::ZERO, &came, kbps(1000), kbps(800));
        let sent = told.next().unwrap();
        let s = sent.structure().unwrap();
        assert_eq!(s.get("target-bitrate"), Ok(800_000u64));
        assert_eq!(s.get("pacing-bitrate"), Ok(9u64));
        assert!(s.has_field("probe"));
        assert_eq!(sent.seqnum(), came.seqnum());
        assert_eq!(told.target(), Some(kbps(1000)));
        assert_eq!(target(Some(came)), Some(1_000_000), "the original");
    }

    #[test]
    fn it_is_told_again_when_the_share_of_fec_changes() {
        let mut told = Told::default();
        told.update(Timestamp::ZERO, kbps(1));
        assert!(told.next().is_none(), "nothing is known");
        told.came(Timestamp::ZERO, &event(1_000_000), kbps(1000), kbps(800));
        told.next();
        told.sending = false;
        told.update(Timestamp::from_millis(99), kbps(700));
        assert!(told.next().is_none(), "too soon");
        told.update(Timestamp::from_millis(100), kbps(806));
        assert!(told.next().is_none(), "too little");
        told.update(Timestamp::from_millis(100), kbps(700));
        let sent = told.next().unwrap();
        assert!(!sent.structure().unwrap().has_field("probe"), "once only");
        assert_eq!(target(Some(sent)), Some(700_000));
    }

    #[test]
    fn one_thread_sends_and_what_waits_is_bounded() {
        let mut told = Told::default();
        for n in 0..20 {
            told.came(Timestamp::ZERO, &event(n), kbps(1), Bitrate::from_bps(n));
        }
        assert_eq!(target(told.next()), Some(4), "the oldest are gone");
        assert!(told.next().is_none(), "another thread is sending");
        told.sending = false;
        assert_eq!(target(told.next()), Some(5));
    }
}
