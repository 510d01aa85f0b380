// SPDX-License-Identifier: MPL-2.0
//! The receiver against a model of the sender behind links that lose, delay
//! and cut, and against input that no sender makes.

use std::collections::{BTreeMap, VecDeque};

use dualstream_common::Timestamp;
use dualstream_core::receiver::{
    AccessUnit, Action, Arrived, Config, Decoded, Next, Receiver, Unit,
};
use dualstream_core::wire::{FrameTag, Stream};
use proptest::prelude::*;

const FRAME_MS: u64 = 33;

/// A coded frame on its way, and whether a decoder with everything before it
/// could show it as it was meant.
#[derive(Clone, Copy, Debug)]
struct Coded {
    tag: FrameTag,
    /// The captured picture, without wrap.
    picture: u64,
    /// Number of the coded frame on this stream that it predicts from.
    predicts: Option<u64>,
    serial: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Delivered,
    Lost,
    /// A slice is missing.
    Cut,
}

/// A sender reduced to what the receiver sees of it.
struct Sender {
    picture: u64,
    display: Stream,
    generation: u8,
    key_wanted: bool,
    serial: [u64; 2],
    /// Per stream: serial of the last frame coded, its number, acknowledged.
    newest: [Option<(u64, u16, bool)>; 2],
    /// A background frame is on its way since that picture.
    background: Option<u64>,
    catch_ups: u32,
    refresh_every: u64,
}

impl Sender {
    fn code(&mut self, stream: Stream, background: bool, key: bool, acknowledged: bool) -> Coded {
        let i = stream.index();
        let serial = self.serial[i];
        self.serial[i] += 1;
        let number = self.picture as u16;
        let predicts = self.newest[i].filter(|_| !key).map(|n| n.0);
        self.newest[i] = Some((serial, number, false));
        Coded {
            tag: FrameTag {
                stream,
                background,
                key,
                acknowledged,
                number,
                generation: self.generation,
            },
            picture: self.picture,
            predicts,
            serial,
        }
    }

    /// What is coded of the next picture.
    fn next(&mut self) -> Vec<Coded> {
        let standby = self.display.other();
        let known = self.newest[standby.index()].is_some_and(|n| n.2);
        let mut coded = Vec::new();
        let mut acknowledged = false;
        if let Some(since) = self.background {
            if known && (self.catch_ups >= 2 || self.picture.is_multiple_of(3)) {
                self.background = None;
                self.display = standby;
                self.generation = self.generation.wrapping_add(1);
                acknowledged = true;
                self.key_wanted = false;
            } else if known {
                self.catch_ups += 1;
                self.background = Some(self.picture);
                coded.push(self.code(standby, true, false, true));
            } else if self.picture > since + 20 {
                self.background = None;
            }
        } else if self.picture > 0 && self.picture.is_multiple_of(self.refresh_every) {
            self.background = Some(self.picture);
            self.catch_ups = 0;
            coded.push(self.code(standby, true, true, false));
        }
        let key = std::mem::take(&mut self.key_wanted) || self.picture == 0;
        let display = self.code(self.display, false, key, acknowledged && !key);
        coded.insert(0, display);
        self.picture += 1;
        coded
    }

    fn complete(&mut self, stream: Stream, number: u16) {
        if let Some(newest) = &mut self.newest[stream.index()]
            && newest.1 == number
        {
            newest.2 = true;
        }
    }
}

#[derive(Clone, Debug)]
struct Plan {
    first: u16,
    refresh_every: u64,
    delays: [u64; 2],
    /// Per coded frame, while losses last.
    fates: Vec<u8>,
    /// Percent of pictures that a decoder gives a little later.
    lag: Vec<bool>,
    feedback_lost: Vec<bool>,
    losses_until: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        any::<u16>(),
        8u64..60,
        [5u64..60, 5u64..60],
        proptest::collection::vec(0u8..100, 64),
        proptest::collection::vec(any::<bool>(), 16),
        proptest::collection::vec(any::<bool>(), 16),
        0u64..200,
    )
        .prop_map(
            |(first, refresh_every, delays, fates, lag, feedback_lost, losses_until)| Plan {
                first,
                refresh_every,
                delays,
                fates,
                lag,
                feedback_lost,
                losses_until,
            },
        )
}

struct Run {
    receiver: Receiver<u64>,
    sender: Sender,
    links: [VecDeque<(u64, Coded, Fate)>; 2],
    loss_pending: [bool; 2],
    decoders: [VecDeque<(u64, Coded, bool)>; 2],
    /// Whether the decoder has a true picture of a serial.
    good: [BTreeMap<u64, bool>; 2],
    shown: Vec<u64>,
    feedback: usize,
    plan: Plan,
    first: u64,
}

impl Run {
    fn new(plan: Plan) -> Self {
        let first = u64::from(plan.first);
        Self {
            receiver: Receiver::new(Config::default()).unwrap(),
            sender: Sender {
                picture: 0,
                display: Stream::Zero,
                generation: 0,
                key_wanted: false,
                serial: [0; 2],
                newest: [None; 2],
                background: None,
                catch_ups: 0,
                refresh_every: plan.refresh_every,
            },
            links: Default::default(),
            loss_pending: [true; 2],
            decoders: Default::default(),
            good: Default::default(),
            shown: Vec::new(),
            feedback: 0,
            plan,
            first,
        }
    }

    fn tagged(&self, coded: Coded) -> FrameTag {
        FrameTag {
            number: (coded.picture + self.first) as u16,
            ..coded.tag
        }
    }

    fn unit(&self, coded: Coded, fate: Fate, after_loss: bool) -> Unit {
        Unit {
            stream: coded.tag.stream,
            tag: Some(self.tagged(coded)),
            pts: Some(Timestamp::from_millis(coded.picture * FRAME_MS)),
            arrived: if after_loss || fate == Fate::Cut {
                Arrived::AfterLoss
            } else {
                Arrived::Intact
            },
            content: AccessUnit {
                slices: if fate == Fate::Cut { 1 } else { 2 },
                idr: coded.tag.key,
                from_the_top: fate != Fate::Cut,
            },
        }
    }

    /// One millisecond.
    fn step(&mut self, at: u64) -> Result<(), TestCaseError> {
        let now = Timestamp::from_millis(at);
        if at.is_multiple_of(FRAME_MS) {
            for coded in self.sender.next() {
                let i = coded.tag.stream.index();
                let n = (coded.serial as usize * 2 + i) % self.plan.fates.len();
                let fate = match self.plan.fates[n] {
                    _ if coded.picture >= self.plan.losses_until => Fate::Delivered,
                    0..10 => Fate::Lost,
                    10..15 => Fate::Cut,
                    _ => Fate::Delivered,
                };
                // A background frame is trickled: it takes longer.
                let trickle = if coded.tag.background { 100 } else { 0 };
                let mut arrives = at + self.plan.delays[i] + trickle;
                if let Some((last, ..)) = self.links[i].back() {
                    arrives = arrives.max(*last);
                }
                self.links[i].push_back((arrives, coded, fate));
            }
        }
        for i in 0..2 {
            while let Some((_, coded, fate)) = self.links[i].pop_front_if(|l| l.0 <= at) {
                if fate == Fate::Lost {
                    self.loss_pending[i] = true;
                    continue;
                }
                let after_loss = std::mem::take(&mut self.loss_pending[i]);
                let unit = self.unit(coded, fate, after_loss);
                let fed = self.receiver.unit(now, unit).is_ok();
                let reference = match coded.predicts {
                    None => true,
                    Some(serial) => self.good[i].get(&serial).copied().unwrap_or(false),
                };
                let good = fed && fate == Fate::Delivered && reference;
                self.good[i].insert(coded.serial, good);
                if fed {
                    let lag = self.plan.lag[coded.picture as usize % self.plan.lag.len()];
                    self.decoders[i].push_back((at + if lag { 15 } else { 2 }, coded, good));
                }
                self.act(now)?;
            }
            while let Some((_, coded, _)) = self.decoders[i].pop_front_if(|d| d.0 <= at) {
                let decoded = Decoded {
                    stream: coded.tag.stream,
                    tag: Some(self.tagged(coded)),
                    pts: None,
                    corrupt: false,
                };
                let _ = self.receiver.picture(now, decoded, coded.picture);
                self.act(now)?;
            }
        }
        self.act(now)
    }

    fn act(&mut self, now: Timestamp) -> Result<(), TestCaseError> {
        for _ in 0..100 {
            match self.receiver.poll(now) {
                Next::Do(Action::Show(shown)) => {
                    if let Some(last) = self.shown.last() {
                        prop_assert!(shown.picture > *last, "{} after {last}", shown.picture);
                    }
                    self.shown.push(shown.picture);
                }
                Next::Do(Action::Complete(complete)) => {
                    let number = complete.number.wrapping_sub(self.plan.first);
                    let i = complete.stream.index();
                    // Its serial: the only frame with that number there.
                    if let Some(newest) = self.sender.newest[i]
                        && newest.1 == number
                    {
                        prop_assert_eq!(
                            self.good[i].get(&newest.0),
                            Some(&true),
                            "complete for a frame that is not whole"
                        );
                    }
                    self.feedback += 1;
                    let n = self.feedback % self.plan.feedback_lost.len();
                    if !self.plan.feedback_lost[n] || self.lossless() {
                        self.sender.complete(complete.stream, number);
                    }
                }
                Next::Do(Action::AskRecovery(ask)) => {
                    // A loss on the stream that it left is nothing to it.
                    if ask.stream == self.sender.display {
                        self.sender.key_wanted = true;
                    }
                }
                Next::WaitUntil(at, timer) => {
                    prop_assert!(at > now, "{timer:?} is in the past");
                    return Ok(());
                }
                Next::Idle => return Ok(()),
            }
        }
        prop_assert!(false, "poll does not end");
        Ok(())
    }

    fn lossless(&self) -> bool {
        self.sender.picture >= self.plan.losses_until
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Order and truth always; and when the losses are over, every picture.
    #[test]
    fn any_lossy_session_is_shown_in_order_and_recovers(plan in plan()) {
        let mut run = Run::new(plan.clone());
        // Losses, then 4 s for what is under way, then 3 s that count.
        let calm = plan.losses_until + 120;
        let last = calm + 90;
        for at in 0..(last * FRAME_MS + 500) {
            if run.sender.picture > last {
                run.sender.picture = last + 1;
                if at.is_multiple_of(FRAME_MS) { continue; }
            }
            run.step(at)?;
            prop_assert!(run.receiver.stats().held <= 17);
        }
        let shown: Vec<_> = run.shown.iter().copied().filter(|p| *p >= calm && *p < last).collect();
        prop_assert_eq!(shown, (calm..last).collect::<Vec<_>>(), "not everything is shown again");
        let s = run.receiver.stats();
        prop_assert_eq!(
            s.pictures,
            s.shown + s.duplicates + s.late + s.background_decoded + s.untagged_hidden
                + s.unknown + s.refused_full + s.flushed + s.held
        );
        prop_assert_eq!(s.restarts, 0);
    }

    /// Nothing lost, whatever the delays: nothing missing, nobody asked, and
    /// switches happen.
    #[test]
    fn a_session_without_loss_misses_nothing(mut plan in plan()) {
        plan.losses_until = 0;
        let mut run = Run::new(plan);
        let last = 240;
        for at in 0..last * FRAME_MS {
            run.step(at)?;
        }
        let expected: Vec<_> = (0..run.shown.len() as u64).collect();
        prop_assert_eq!(&run.shown, &expected);
        prop_assert!(run.shown.len() as u64 >= last - 5);
        let s = run.receiver.stats();
        prop_assert_eq!((s.losses, s.recoveries_asked, s.late), (0, 0, 0));
        prop_assert!(s.switches >= 2, "{} switches", s.switches);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Unit(bool, Option<[u8; 4]>, u16, u8),
    Picture(bool, Option<[u8; 4]>, u16, bool),
    End(bool),
    Restart(bool),
    Flush,
    Time(i32),
}

fn op() -> impl Strategy<Value = Op> {
    let tag = || {
        proptest::option::of(prop_oneof![
            any::<[u8; 4]>(),
            // Plausible ones.
            (any::<u8>(), 0u8..20, 0u8..3).prop_map(|(f, n, g)| [0x40 | f & 0x3f, 0, n, g]),
        ])
    };
    prop_oneof![
        10 => (any::<bool>(), tag(), 0u16..50, any::<u8>()).prop_map(|(s, t, p, f)| Op::Unit(s, t, p, f)),
        10 => (any::<bool>(), tag(), 0u16..50, any::<bool>()).prop_map(|(s, t, p, c)| Op::Picture(s, t, p, c)),
        1 => any::<bool>().prop_map(Op::End),
        1 => any::<bool>().prop_map(Op::Restart),
        1 => Just(Op::Flush),
        5 => (-200i32..500).prop_map(Op::Time),
    ]
}

fn side(one: bool) -> Stream {
    if one { Stream::One } else { Stream::Zero }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Hostile input: bounded, in order, conserved, and not stuck after it.
    #[test]
    fn any_input_is_survived(ops in proptest::collection::vec(op(), 0..400)) {
        // Numbers near those of the sender that takes over below, in its own
        // generation or one that comes after, would make it late by right.
        let near = |tag: &[u8; 4]| {
            let number = u16::from_be_bytes([tag[1], tag[2]]);
            tag[3].wrapping_sub(77) < 128 && number.abs_diff(30_000) < 2000
        };
        let mut ops = ops;
        ops.retain(|op| !matches!(op, Op::Unit(_, Some(tag), ..) if near(tag)));
        let mut receiver = Receiver::new(Config::default()).unwrap();
        let mut now = 10_000i64;
        let mut serial = 0u64;
        let mut in_hand = 0i64;
        for op in ops {
            let at = Timestamp::from_millis(now as u64);
            match op {
                Op::Unit(stream, tag, pts, flags) => {
                    let tag = tag.and_then(|t| FrameTag::parse(&t).ok());
                    let _ = receiver.unit(at, Unit {
                        stream: side(stream),
                        tag,
                        pts: (pts > 0).then(|| Timestamp::from_millis(u64::from(pts))),
                        arrived: [Arrived::Intact, Arrived::AfterLoss, Arrived::Damaged][usize::from(flags % 3)],
                        content: AccessUnit {
                            slices: u32::from(flags >> 6),
                            idr: flags & 8 != 0,
                            from_the_top: flags & 16 != 0,
                        },
                    });
                }
                Op::Picture(stream, tag, pts, corrupt) => {
                    serial += 1;
                    in_hand += 1;
                    let decoded = Decoded {
                        stream: side(stream),
                        tag: tag.and_then(|t| FrameTag::parse(&t).ok()),
                        pts: (pts > 0).then(|| Timestamp::from_millis(u64::from(pts))),
                        corrupt,
                    };
                    if receiver.picture(at, decoded, serial).is_err() {
                        in_hand -= 1;
                    }
                }
                Op::End(stream) => receiver.end(side(stream)),
                Op::Restart(stream) => receiver.decoder_restarted(at, side(stream)),
                Op::Flush => in_hand -= receiver.flush().len() as i64,
                Op::Time(step) => now = (now + i64::from(step)).max(0),
            }
            let at = Timestamp::from_millis(now as u64);
            let mut steps = 0;
            loop {
                steps += 1;
                prop_assert!(steps < 100, "poll does not end");
                match receiver.poll(at) {
                    Next::Do(Action::Show(_)) => in_hand -= 1,
                    Next::Do(_) => {}
                    Next::WaitUntil(t, timer) => {
                        prop_assert!(t > at, "{:?} in the past", timer);
                        break;
                    }
                    Next::Idle => break,
                }
            }
            let s = receiver.stats();
            prop_assert_eq!(s.held as i64, in_hand);
            prop_assert!(s.held <= 17);
            prop_assert_eq!(
                s.pictures,
                s.shown + s.duplicates + s.late + s.background_decoded + s.untagged_hidden
                    + s.unknown + s.refused_full + s.flushed + s.held
            );
        }
        // A well-behaved sender of a far generation and number takes over.
        let shown = receiver.stats().shown;
        let mut last = None;
        for n in 0..50u16 {
            now += 33;
            let at = Timestamp::from_millis(now as u64);
            let tag = FrameTag {
                stream: Stream::Zero,
                background: false,
                key: n == 0,
                acknowledged: false,
                number: 30_000 + n,
                generation: 77,
            };
            let pts = Some(Timestamp::from_millis(100_000 + u64::from(n) * 33));
            let content = AccessUnit { slices: 1, idr: n == 0, from_the_top: true };
            let fed = receiver.unit(at, Unit { stream: Stream::Zero, tag: Some(tag), pts, arrived: Arrived::Intact, content });
            prop_assert!(fed.is_ok(), "{n}: {fed:?}");
            let decoded = Decoded { stream: Stream::Zero, tag: Some(tag), pts, corrupt: false };
            let _ = receiver.picture(at, decoded, u64::from(tag.number));
            while let Next::Do(action) = receiver.poll(at) {
                if let Action::Show(s) = action {
                    prop_assert!(s.tag.map(|t| t.number) > last);
                    last = s.tag.map(|t| t.number);
                }
            }
        }
        // One held back from before may stand in the way of the first few.
        prop_assert!(receiver.stats().shown >= shown + 48, "stuck: {}", receiver.stats().shown - shown);
    }
}
