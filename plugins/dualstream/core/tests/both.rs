// SPDX-License-Identifier: MPL-2.0
//! Sender and receiver together over a link in virtual time.

use dualstream_common::{DataSize, Timestamp};
use dualstream_core::receiver::{
    AccessUnit, Action, Arrived, Complete, Config as ReceiverConfig, Decoded, Next, Receiver, Unit,
};
use dualstream_core::sender::{Config, Sender};
use dualstream_core::wire::{FrameTag, Stream};
use proptest::prelude::*;
use std::time::Duration;

const FRAME: Duration = Duration::from_millis(33);
const STEP: Duration = Duration::from_millis(1);

/// What is on the way.
#[derive(Clone, Copy, Debug)]
enum Message {
    Frame(FrameTag),
    Complete(Complete),
    Recovery(Stream),
}

/// A real decoder's view of one stream: what it predicts from.
#[derive(Clone, Copy, Default)]
struct Decoder {
    whole: bool,
    /// Something was lost since the last frame that came.
    loss: bool,
}

struct Session {
    sender: Sender,
    receiver: Receiver<u16>,
    now: Timestamp,
    next_picture: Timestamp,
    one_way: Duration,
    trickle: Duration,
    trickling: Option<(Timestamp, FrameTag)>,
    wire: Vec<(Timestamp, Message)>,
    decoders: [Decoder; 2],
    shown: Vec<(u16, bool)>,
    feedback: usize,
    lose: Box<dyn FnMut(Message, usize) -> bool>,
    commits: Vec<Timestamp>,
    sent: u64,
}

impl Session {
    fn new(refresh: Option<Duration>, lose: impl FnMut(Message, usize) -> bool + 'static) -> Self {
        let mut sender = Sender::new(Config {
            refresh_interval: refresh,
            frame_time: FRAME,
            ..Config::default()
        })
        .expect("valid");
        sender.set_dual(true);
        Self {
            sender,
            receiver: Receiver::new(ReceiverConfig::default()).expect("valid"),
            now: Timestamp::from_millis(1000),
            next_picture: Timestamp::from_millis(1000),
            one_way: Duration::from_millis(20),
            trickle: Duration::from_millis(300),
            trickling: None,
            wire: Vec::new(),
            decoders: [Decoder::default(); 2],
            shown: Vec::new(),
            feedback: 0,
            lose: Box::new(lose),
            commits: Vec::new(),
            sent: 0,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
            self.now = self.now + STEP;
        }
    }

    fn step(&mut self) {
        if let Some((at, tag)) = self.trickling.filter(|(at, _)| *at <= self.now) {
            self.trickling = None;
            self.sender.sent(at, tag.stream, tag.number);
            self.send(Message::Frame(tag));
        }
        if self.now >= self.next_picture {
            self.next_picture = self.next_picture + FRAME;
            self.picture();
        }
        let now = self.now;
        let mut due = Vec::new();
        self.wire.retain(|(at, message)| {
            if *at <= now {
                due.push(*message);
            }
            *at > now
        });
        for message in due {
            match message {
                Message::Frame(tag) => self.arrive(tag),
                Message::Complete(c) => {
                    self.sender
                        .frame_complete(now, c.stream, c.number, c.generation, true);
                }
                Message::Recovery(stream) => self.sender.request_recovery(now, stream),
            }
        }
        self.poll();
    }

    fn picture(&mut self) {
        let before = self.sender.display();
        let plan = self.sender.picture(self.now, self.trickling.is_none());
        self.sent += 1;
        let tag = plan.display.tag;
        if tag.stream != before {
            self.commits.push(self.now);
        }
        self.sender
            .coded(tag.stream, tag.number, DataSize::from_bytes(4000), None);
        self.sender.sent(self.now, tag.stream, tag.number);
        self.send(Message::Frame(tag));
        if let Some(coding) = plan.background {
            let tag = coding.tag;
            self.sender
                .coded(tag.stream, tag.number, DataSize::from_bytes(20_000), None);
            self.trickling = Some((self.now + self.trickle, tag));
        }
    }

    fn send(&mut self, message: Message) {
        let number = self.feedback;
        if !matches!(message, Message::Frame(_)) {
            self.feedback += 1;
        }
        if (self.lose)(message, number) {
            if let Message::Frame(tag) = message {
                self.decoders[tag.stream.index()].loss = true;
            }
        } else {
            self.wire.push((self.now + self.one_way, message));
        }
    }

    fn arrive(&mut self, tag: FrameTag) {
        let decoder = &mut self.decoders[tag.stream.index()];
        let lost = std::mem::take(&mut decoder.loss);
        decoder.whole = tag.key || (decoder.whole && !lost);
        let whole = decoder.whole;
        let pts = Some(self.now);
        let unit = Unit {
            stream: tag.stream,
            tag: Some(tag),
            pts,
            arrived: if lost {
                Arrived::AfterLoss
            } else {
                Arrived::Intact
            },
            content: AccessUnit {
                slices: 1,
                idr: tag.key,
                from_the_top: true,
            },
        };
        if self.receiver.unit(self.now, unit).is_ok() {
            let decoded = Decoded {
                stream: tag.stream,
                tag: Some(tag),
                pts,
                corrupt: false,
            };
            // What is not to be shown comes back.
            let _ = self.receiver.picture(self.now, decoded, tag.number);
            self.poll_show(whole);
        }
    }

    fn poll(&mut self) {
        self.poll_show(true);
    }

    fn poll_show(&mut self, whole: bool) {
        for _ in 0..100 {
            match self.receiver.poll(self.now) {
                Next::Do(Action::Show(shown)) => self.shown.push((shown.picture, whole)),
                Next::Do(Action::Complete(complete)) => self.send(Message::Complete(complete)),
                Next::Do(Action::AskRecovery(ask)) => self.send(Message::Recovery(ask.stream)),
                Next::WaitUntil(at, timer) => {
                    assert!(at > self.now, "{timer:?} is not in the future");
                    return;
                }
                Next::Idle => return,
            }
        }
        panic!("poll does not come to an end");
    }

    fn assert_in_order(&self) {
        for pair in self.shown.windows(2) {
            let step = pair[1].0.wrapping_sub(pair[0].0);
            assert!(
                (1..0x8000).contains(&step),
                "{} shown after {}",
                pair[1].0,
                pair[0].0
            );
        }
    }

    /// Every picture but those still on their way.
    fn assert_all_shown(&self) {
        self.assert_in_order();
        let missing = self.sent - self.shown.len() as u64;
        assert!(missing <= 2, "{missing} pictures of {} missing", self.sent);
    }
}

const REFRESH: Option<Duration> = Some(Duration::from_secs(2));

#[test]
fn without_loss_each_picture_is_shown_once_and_each_refresh_is_committed() {
    let mut session = Session::new(REFRESH, |_, _| false);
    session.run(Duration::from_secs(30));
    session.assert_all_shown();
    let stats = session.sender.stats();
    assert!((13..=15).contains(&stats.switches), "{stats:?}");
    assert_eq!(stats.display_key_frames, 1);
    assert_eq!(stats.refreshes_given_up, 0);
    assert_eq!(session.receiver.stats().recoveries_asked, 0);
    assert!(session.shown.iter().all(|(_, whole)| *whole));
}

#[test]
fn each_lost_feedback_message_in_turn_delays_and_never_breaks_a_switch() {
    let time = Duration::from_millis(8500);
    let mut clean = Session::new(REFRESH, |_, _| false);
    clean.run(time);
    assert!(clean.feedback > 8, "{}", clean.feedback);
    for lost in 0..clean.feedback {
        let mut session = Session::new(REFRESH, move |m, n| {
            n == lost && !matches!(m, Message::Frame(_))
        });
        session.run(time);
        session.assert_all_shown();
        let stats = session.sender.stats();
        assert_eq!(
            session.commits.len(),
            clean.commits.len(),
            "message {lost}: {stats:?}"
        );
        assert_eq!(stats.display_key_frames, 1, "message {lost}");
        for (late, on_time) in session.commits.iter().zip(&clean.commits) {
            // A repeat comes after 50 ms; a picture is waited for.
            assert!(
                late.since(*on_time) < Duration::from_millis(150),
                "message {lost}"
            );
        }
    }
}

#[test]
fn all_feedback_lost_for_a_while_is_survived() {
    let from = std::rc::Rc::new(std::cell::Cell::new(false));
    let deaf = from.clone();
    let mut session = Session::new(REFRESH, move |m, _| {
        deaf.get() && !matches!(m, Message::Frame(_))
    });
    session.run(Duration::from_secs(5));
    from.set(true);
    session.run(Duration::from_secs(10));
    from.set(false);
    let before = session.sender.stats().switches;
    session.run(Duration::from_secs(8));
    session.assert_all_shown();
    assert!(session.sender.stats().switches > before);
    assert_eq!(session.sender.stats().display_key_frames, 1);
}

#[test]
fn a_lost_display_frame_is_answered_by_a_switch_where_a_reference_is_known() {
    // Frame 140 is lost; by then a refresh was committed and the former
    // display stream's last picture acknowledged.
    let mut session = Session::new(
        REFRESH,
        |m, _| matches!(m, Message::Frame(tag) if tag.number == 140 && !tag.background),
    );
    session.run(Duration::from_millis(5500));
    let stats = session.sender.stats();
    assert_eq!(stats.recoveries_by_reference, 1, "{stats:?}");
    assert_eq!(stats.display_key_frames, 1);
    session.assert_in_order();
    let broken: Vec<u16> = session
        .shown
        .iter()
        .filter(|(_, whole)| !whole)
        .map(|(number, _)| *number)
        .collect();
    // RTT of 40 ms and the picture that follows: three pictures at most.
    assert!(broken.len() <= 3, "{broken:?}");
}

#[test]
fn both_streams_lost_at_once_recover_by_a_key_frame() {
    let dead = std::rc::Rc::new(std::cell::Cell::new(false));
    let gone = dead.clone();
    let mut session = Session::new(REFRESH, move |m, _| {
        gone.get() && matches!(m, Message::Frame(_))
    });
    session.run(Duration::from_millis(3200));
    dead.set(true);
    session.run(Duration::from_millis(700));
    dead.set(false);
    session.run(Duration::from_secs(3));
    session.assert_in_order();
    let last = session.shown.last().expect("pictures");
    assert!(last.1, "whole again");
    assert_eq!(u64::from(last.0) + 2, session.sent, "and up to date");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random loss of frames and feedback, random delays; then a good link.
    #[test]
    fn random_loss_never_reorders_and_always_ends(
        seed in any::<u64>(),
        loss in 0u64..40,
        one_way in 1u64..200,
        trickle in 10u64..900,
    ) {
        let good = std::rc::Rc::new(std::cell::Cell::new(false));
        let end = good.clone();
        let mut state = seed | 1;
        let mut session = Session::new(REFRESH, move |_, _| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            !end.get() && state % 100 < loss
        });
        session.one_way = Duration::from_millis(one_way);
        session.trickle = Duration::from_millis(trickle);
        session.run(Duration::from_secs(12));
        session.assert_in_order();
        good.set(true);
        session.run(Duration::from_secs(6));
        let (sent, shown) = (session.sent, session.shown.len());
        let switches = session.sender.stats().switches;
        session.run(Duration::from_secs(8));
        session.assert_in_order();
        let missing = (session.sent - sent).abs_diff((session.shown.len() - shown) as u64);
        // As many are on their way at the end as were at the beginning.
        prop_assert!(missing <= 2, "{missing} missing on a good link");
        prop_assert!(session.shown[shown + 10..].iter().all(|(_, whole)| *whole), "a broken picture on a good link");
        prop_assert!(session.sender.stats().switches > switches, "no refresh on a good link: {:?}", session.sender);
    }
}
