// SPDX-License-Identifier: MPL-2.0
//! The sender against a model of encoders, link and receiver, in virtual time.

use dualstream_common::{Bitrate, DataSize, Timestamp};
use dualstream_core::sender::{Coding, Config, Feedback, Phase, Plan, Sender, Single, Warm};
use dualstream_core::wire::{FrameTag, Stream};
use proptest::prelude::*;
use std::time::Duration;

const FRAME: Duration = Duration::from_millis(33);
const ONE_WAY: Duration = Duration::from_millis(20);
const REPEAT: Duration = Duration::from_millis(50);
const REPEATS: u32 = 10;

/// Something that arrives later.
#[derive(Clone, Copy, Debug)]
struct Flying {
    at: Timestamp,
    tag: FrameTag,
}

struct World {
    sender: Sender,
    now: Timestamp,
    /// Time that a background frame takes to be handed on.
    trickle: Duration,
    /// Background frames that are being handed on.
    leaving: Vec<Flying>,
    /// Background frames on the link.
    background: Vec<Flying>,
    feedback: Vec<Flying>,
    feedback_sent: usize,
    /// Loses the feedback message with this number.
    lose_feedback: Option<usize>,
    repeat: Option<(Flying, u32)>,
    /// All that was coded, in order.
    coded: Vec<FrameTag>,
    /// All that the sender was told to be complete.
    told: Vec<FrameTag>,
    /// Newest picture of each stream with an unbroken chain at the receiver.
    chain: [Option<u16>; 2],
    commit_times: Vec<Timestamp>,
    /// Frames take this part of what their encoder is allowed; otherwise they
    /// have one size.
    exact: Option<f64>,
    bytes: (u64, u64),
}

fn config() -> Config {
    Config {
        refresh_interval: Some(Duration::from_secs(2)),
        frame_time: FRAME,
        warm: Warm::Off,
        ..Config::default()
    }
}

impl World {
    fn new(config: Config) -> Self {
        let mut sender = Sender::new(config).expect("a valid configuration");
        sender.set_dual(true);
        Self {
            sender,
            now: Timestamp::from_millis(1000),
            trickle: Duration::from_millis(300),
            leaving: Vec::new(),
            background: Vec::new(),
            feedback: Vec::new(),
            feedback_sent: 0,
            lose_feedback: None,
            repeat: None,
            coded: Vec::new(),
            told: Vec::new(),
            chain: [None; 2],
            commit_times: Vec::new(),
            exact: None,
            bytes: (0, 0),
        }
    }

    /// One picture; `lost` says for display and background whether the link
    /// loses it.
    fn picture(&mut self, lost: (bool, bool)) -> Plan {
        let before = self.sender.display();
        let recoveries = self.sender.stats().recoveries_by_reference;
        let plan = self.sender.picture(self.now, self.leaving.is_empty());
        let recovers = self.sender.stats().recoveries_by_reference > recoveries;
        self.check(before, plan, recovers);
        let tag = plan.display.tag;
        let number = tag.number;
        self.coded.push(tag);
        let size = self.size(plan.display, 4000);
        self.bytes.0 += size.as_bytes();
        self.sender.coded(tag.stream, tag.number, size, None);
        self.sender.sent(self.now, tag.stream, tag.number);
        self.arrive(tag, lost.0);
        if let Some(coding) = plan.background {
            let tag = coding.tag;
            self.coded.push(tag);
            let size = self.size(coding, 20_000);
            self.bytes.1 += size.as_bytes();
            self.sender.coded(tag.stream, tag.number, size, None);
            let at = self.now
                + match self.exact {
                    Some(_) => size
                        .time_at(plan.background_rate)
                        .expect("a rate that is not zero"),
                    None => self.trickle,
                };
            self.leaving.push(Flying { at, tag });
            if lost.1 {
                self.chain[tag.stream.index()] = None;
            } else {
                self.background.push(Flying {
                    at: at + ONE_WAY,
                    tag,
                });
            }
        }
        if tag.stream != before {
            self.commit_times.push(self.now);
            self.say_last_of(before, number);
        }
        plan
    }

    /// The first frame of the new display stream tells the receiver that the
    /// former one has ended, and it says that it has its last picture.
    fn say_last_of(&mut self, stream: Stream, before: u16) {
        let last = self
            .coded
            .iter()
            .rfind(|tag| tag.stream == stream && tag.number != before);
        if let Some(last) = last.copied()
            && self.chain[stream.index()] == Some(last.number)
        {
            let at = self.now + ONE_WAY;
            self.say(Flying { at, tag: last });
        }
    }

    fn size(&self, coding: Coding, otherwise: u64) -> DataSize {
        let bytes = self.exact.map_or(otherwise, |part| {
            (coding.rate.largest_frame().as_bytes() as f64 * part) as u64
        });
        DataSize::from_bytes(bytes)
    }

    fn arrive(&mut self, tag: FrameTag, lost: bool) {
        let chain = &mut self.chain[tag.stream.index()];
        *chain = (!lost && (tag.key || chain.is_some())).then_some(tag.number);
    }

    /// The rules that hold for each picture.
    fn check(&self, before: Stream, plan: Plan, recovers: bool) {
        let display = plan.display.tag;
        assert!(!display.background, "the display frame is shown");
        if let Some(last) = self.coded.iter().rfind(|tag| !tag.background) {
            assert_eq!(
                display.number,
                last.number.wrapping_add(1),
                "each picture is coded for display once"
            );
        }
        if let Some(coding) = plan.background {
            assert_eq!(coding.tag.number, display.number, "the same picture");
            assert_eq!(coding.tag.stream, display.stream.other());
            assert!(coding.tag.background);
            assert!(
                coding.tag.key || self.acknowledged(coding.tag.stream),
                "a catch-up frame refers to a picture that the receiver has"
            );
        }
        if display.stream != before && !display.key {
            // An answer to a loss may refer to one that is on its way.
            assert!(
                self.acknowledged(display.stream) || (recovers && !display.acknowledged),
                "the first frame after a commit refers to a picture that the receiver has"
            );
            assert!(display.acknowledged || recovers);
        }
    }

    /// The newest picture coded on the stream is one that the sender was told
    /// to be complete.
    fn acknowledged(&self, stream: Stream) -> bool {
        let newest = self.coded.iter().rfind(|tag| tag.stream == stream);
        newest.is_some_and(|newest| self.told.contains(newest))
    }

    /// All that happens up to the next picture.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        let now = self.now;
        let due = |list: &mut Vec<Flying>| {
            let (ready, left) = list.iter().partition(|f| f.at <= now);
            *list = left;
            let ready: Vec<Flying> = ready;
            ready
        };
        for left in due(&mut self.leaving) {
            self.sender.sent(left.at, left.tag.stream, left.tag.number);
        }
        for arrived in due(&mut self.background) {
            self.arrive(arrived.tag, false);
            if self.chain[arrived.tag.stream.index()] == Some(arrived.tag.number) {
                self.say(arrived);
                self.repeat = Some((
                    Flying {
                        at: arrived.at + REPEAT,
                        tag: arrived.tag,
                    },
                    REPEATS,
                ));
            }
        }
        while let Some((next, left)) = self.repeat.filter(|(f, left)| f.at <= now && *left > 0) {
            self.say(next);
            self.repeat = Some((
                Flying {
                    at: next.at + REPEAT,
                    tag: next.tag,
                },
                left - 1,
            ));
        }
        for message in due(&mut self.feedback) {
            self.tell(message.tag);
        }
    }

    fn say(&mut self, complete: Flying) {
        if self.lose_feedback != Some(self.feedback_sent) {
            self.feedback.push(Flying {
                at: complete.at + ONE_WAY,
                tag: complete.tag,
            });
        }
        self.feedback_sent += 1;
    }

    fn tell(&mut self, tag: FrameTag) -> Feedback {
        self.told.push(tag);
        self.sender
            .frame_complete(self.now, tag.stream, tag.number, tag.generation, true)
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.picture((false, false));
            self.pass(FRAME);
        }
    }
}

#[test]
fn a_refresh_each_two_seconds_is_committed_each_time() {
    let mut world = World::new(config());
    world.run(Duration::from_secs(21));
    let stats = world.sender.stats();
    assert!((9..=10).contains(&stats.switches), "{stats:?}");
    assert_eq!(stats.display_key_frames, 1, "only the first picture");
    assert_eq!(stats.refreshes_given_up, 0);
    assert!(stats.catch_up_frames >= stats.switches, "{stats:?}");
    let mean = stats.commit_time / u32::try_from(stats.refreshes_committed).unwrap();
    assert!(mean < Duration::from_millis(1300), "{mean:?}");
}

#[test]
fn without_an_interval_nothing_is_coded_twice() {
    let mut world = World::new(Config {
        refresh_interval: None,
        ..config()
    });
    world.run(Duration::from_secs(20));
    let stats = world.sender.stats();
    assert_eq!(stats.background_key_frames, 0);
    assert_eq!(stats.switches, 0);
    world.sender.request_refresh();
    world.run(Duration::from_secs(2));
    assert_eq!(world.sender.stats().switches, 1, "a request is served");
}

#[test]
fn each_single_lost_feedback_message_delays_and_never_breaks_a_switch() {
    let time = Duration::from_millis(12_500);
    let mut clean = World::new(config());
    clean.run(time);
    let messages = clean.feedback_sent;
    assert!(messages > 15, "{messages}");
    for lost in 0..messages {
        let mut world = World::new(config());
        world.lose_feedback = Some(lost);
        world.run(time);
        let stats = world.sender.stats();
        assert_eq!(
            stats.switches,
            clean.sender.stats().switches,
            "message {lost} lost: {stats:?}"
        );
        assert_eq!(stats.display_key_frames, 1, "message {lost} lost");
        assert_eq!(stats.refreshes_given_up, 0, "message {lost} lost");
        for (late, on_time) in world.commit_times.iter().zip(&clean.commit_times) {
            let delay = late.since(*on_time);
            assert!(
                delay <= REPEAT * 2 + FRAME * 2,
                "message {lost} lost: a switch was {delay:?} late"
            );
        }
    }
}

#[test]
fn a_lost_background_key_frame_is_given_up_and_tried_again_smaller() {
    let mut world = World::new(config());
    world.run(Duration::from_secs(2));
    world.sender.request_refresh();
    let first = world
        .picture((false, true))
        .background
        .expect("a key frame");
    assert!(first.tag.key);
    let mut second = None;
    let start = world.now;
    while second.is_none() {
        world.pass(FRAME);
        second = world.picture((false, false)).background;
        assert!(world.now.since(start) < Duration::from_secs(3), "stuck");
    }
    let second = second.unwrap();
    assert!(second.tag.key);
    assert!(second.rate.largest_frame() < first.rate.largest_frame());
    world.run(Duration::from_secs(3));
    assert_eq!(world.sender.stats().refreshes_given_up, 1);
    assert!(world.sender.stats().switches >= 1);
    assert_eq!(world.sender.stats().display_key_frames, 1);
}

#[test]
fn feedback_after_giving_up_still_leads_to_the_switch() {
    let mut world = World::new(Config {
        refresh_interval: None,
        ..config()
    });
    world.run(Duration::from_secs(1));
    world.sender.request_refresh();
    let key = world
        .picture((false, true))
        .background
        .expect("a key frame");
    while world.sender.phase() == Phase::Trickling {
        world.pass(FRAME);
        world.picture((false, false));
    }
    assert_eq!(world.sender.phase(), Phase::Abandoned);
    // It had come through after all.
    world.chain[key.tag.stream.index()] = Some(key.tag.number);
    assert_eq!(world.tell(key.tag), Feedback::Accepted);
    world.run(Duration::from_secs(2));
    assert_eq!(world.sender.stats().switches, 1);
    assert_eq!(world.sender.stats().background_key_frames, 1);
}

#[test]
fn feedback_is_judged_by_what_was_sent() {
    let mut world = World::new(config());
    world.run(Duration::from_millis(2100));
    let key = *world.coded.iter().find(|tag| tag.background).expect("one");
    let say = |world: &mut World, stream, number: u16, generation| {
        let now = world.now;
        world
            .sender
            .frame_complete(now, stream, number, generation, true)
    };
    let ahead = world.coded.last().unwrap().number.wrapping_add(1);
    assert_eq!(say(&mut world, key.stream, ahead, 0), Feedback::NeverSent);
    assert_eq!(say(&mut world, key.stream, 65_000, 0), Feedback::NeverSent);
    assert_eq!(
        say(&mut world, key.stream.other(), 3, 0),
        Feedback::Stale,
        "a display frame"
    );
    assert_eq!(
        say(&mut world, key.stream, key.number, 9),
        Feedback::Stale,
        "another generation"
    );
    assert_eq!(
        say(&mut world, key.stream, key.number - 1, 0),
        Feedback::Stale,
        "before the key frame"
    );
    assert_eq!(world.sender.phase(), Phase::Trickling, "nothing moved");
    assert_eq!(world.tell(key), Feedback::Accepted);
    assert_eq!(world.tell(key), Feedback::Repeated);
}

#[test]
fn a_loss_is_answered_from_the_acknowledged_picture() {
    let mut world = World::new(Config {
        refresh_interval: None,
        ..config()
    });
    world.run(Duration::from_secs(1));
    world.sender.request_refresh();
    world.run(Duration::from_secs(2));
    // The receiver acknowledged the last picture of the former display stream.
    let former = world.sender.display().other();
    assert_eq!(world.sender.phase(), Phase::Warm);
    let now = world.now;
    let lost_on = world.sender.display();
    world.sender.request_recovery(now, lost_on);
    let plan = world.picture((false, false));
    assert_eq!(plan.display.tag.stream, former);
    assert!(plan.display.tag.acknowledged && !plan.display.tag.key);
    assert_eq!(world.sender.stats().recoveries_by_reference, 1);

    // It did not help: the second request gets a key frame.
    world.pass(Duration::from_millis(300));
    let now = world.now;
    world.sender.request_recovery(now, former);
    assert!(world.picture((false, false)).display.tag.key);
}

#[test]
fn requests_about_one_loss_make_one_key_frame() {
    let mut world = World::new(config());
    world.run(Duration::from_secs(1));
    for _ in 0..5 {
        let now = world.now;
        world.sender.request_recovery(now, Stream::Zero);
        world.picture((false, false));
        world.pass(Duration::from_millis(10));
    }
    let stats = world.sender.stats();
    assert_eq!(
        stats.display_key_frames, 2,
        "the first picture and this one"
    );
    assert_eq!(stats.requests_ignored, 4);
}

#[test]
fn a_peer_that_never_answers_gets_key_frames_on_the_display_stream() {
    let mut world = World::new(config());
    let end = world.now + Duration::from_secs(15);
    while world.now < end {
        world.picture((false, true));
        world.pass(FRAME);
    }
    let stats = world.sender.stats();
    assert_eq!(world.sender.single(), Some(Single::NoFeedback));
    assert_eq!(stats.background_key_frames, 3);
    assert!(stats.display_key_frames > 4, "{stats:?}");
    assert_eq!(stats.switches, 0);
    // It is tried again with one refresh each, after 10 s, 20 s, 40 s.
    let end = world.now + Duration::from_secs(80);
    while world.now < end {
        world.picture((false, true));
        world.pass(FRAME);
    }
    assert_eq!(world.sender.single(), Some(Single::NoFeedback));
    assert_eq!(world.sender.stats().background_key_frames, 6);
    // It speaks up at last.
    world.sender.heard();
    assert_eq!(world.sender.single(), None);
    world.run(Duration::from_secs(5));
    assert!(world.sender.stats().switches >= 1);
}

#[test]
fn the_second_stream_can_go_and_come() {
    let mut world = World::new(config());
    world.run(Duration::from_millis(3500));
    assert_eq!(world.sender.display(), Stream::One);
    world.sender.set_dual(false);
    let plan = world.picture((false, false));
    assert_eq!(plan.display.tag.stream, Stream::Zero);
    assert!(plan.display.tag.key, "nothing is known of the first stream");
    world.run(Duration::from_secs(5));
    assert_eq!(world.sender.stats().switches, 1);
    world.sender.set_dual(true);
    world.run(Duration::from_secs(5));
    assert!(world.sender.stats().switches >= 2);
}

/// Encoders that use what they are allowed, wholly or in part.
#[test]
fn both_streams_together_keep_to_the_target_and_the_background_gets_its_share() {
    for part in [1.0, 0.85, 0.6] {
        let mut world = World::new(config());
        world.exact = Some(part);
        let target = world.sender.config().target;
        let end = world.now + Duration::from_secs(20);
        while world.now < end {
            let plan = world.picture((false, false));
            let rate = plan.display.rate;
            assert_eq!(rate.buffer, FRAME, "one frame of buffer, always");
            world.pass(FRAME);
        }
        let sum = (world.bytes.0 + world.bytes.1) as f64 * 8.0 / 20.0;
        let of_target = sum / target.as_bps() as f64;
        assert!(of_target < 1.02, "{part}: {of_target} of the target");
        assert!(of_target > part * 0.9, "{part}: {of_target} of the target");
        // Key frame and catch-up frames of 4 and at most 3 times 2 frame times,
        // at 17 % of the rate, and the round trips.
        let stats = world.sender.stats();
        let mean = stats.commit_time / u32::try_from(stats.refreshes_committed).unwrap();
        assert!(mean < Duration::from_millis(2200), "{part}: {mean:?}");
        assert!(stats.switches >= 4, "{part}: {stats:?}");
    }
}

#[test]
fn a_warm_standby_s_picture_is_never_old() {
    let mut world = World::new(Config {
        refresh_interval: None,
        warm: Warm::Interval(Duration::from_millis(400)),
        ..config()
    });
    world.trickle = Duration::from_millis(60);
    // The standby gets its first picture by a refresh of its own.
    world.run(Duration::from_secs(4));
    assert_eq!(world.sender.stats().background_key_frames, 1);
    let former = world.sender.display().other();
    let before = world.sender.stats().warm_frames;
    let end = world.now + Duration::from_secs(10);
    while world.now < end {
        let plan = world.picture((false, false));
        let oldest = world
            .told
            .iter()
            .rfind(|tag| tag.stream == former)
            .expect("acknowledged");
        let age = u32::from(plan.display.tag.number - oldest.number) * FRAME;
        assert!(
            age < Duration::from_millis(400 + 60 + 40 + 66 + 33),
            "{age:?}"
        );
        world.pass(FRAME);
    }
    let stats = world.sender.stats();
    assert!(
        (20..=25).contains(&(stats.warm_frames - before)),
        "{stats:?}"
    );
    assert_eq!(stats.display_key_frames, 1);
    assert_eq!(stats.background_key_frames, 1);
}

#[test]
fn with_the_defaults_few_pictures_are_coded_twice() {
    let mut world = World::new(Config {
        frame_time: FRAME,
        ..Config::default()
    });
    world.run(Duration::from_secs(60));
    let stats = world.sender.stats();
    let twice = world.coded.iter().filter(|tag| tag.background).count() as f64;
    assert!(twice / (stats.pictures as f64) < 0.1, "{stats:?}");
    assert_eq!(stats.background_key_frames, 1, "to have a reference");
}

#[test]
fn a_loss_is_answered_from_a_picture_that_is_on_its_way() {
    let mut world = World::new(Config {
        refresh_interval: None,
        warm: Warm::Interval(Duration::from_millis(400)),
        ..config()
    });
    world.exact = Some(0.9);
    world.run(Duration::from_secs(4));
    let former = world.sender.display().other();
    while world.picture((false, false)).background.is_none() {
        world.pass(FRAME);
    }
    assert_eq!(world.sender.phase(), Phase::Keeping);
    let now = world.now;
    let lost_on = world.sender.display();
    world.sender.request_recovery(now, lost_on);
    let plan = world.picture((false, false));
    assert_eq!(plan.display.tag.stream, former);
    assert!(!plan.display.tag.key && !plan.display.tag.acknowledged);
    assert_eq!(
        plan.background_rate.as_bps(),
        0,
        "what is left of it goes first"
    );
    assert_eq!(
        world.sender.phase(),
        Phase::Cold,
        "the other stream is lost"
    );
}

#[test]
fn a_loss_while_a_key_frame_trickles_does_not_end_the_refresh() {
    let mut world = World::new(Config {
        refresh_interval: None,
        ..config()
    });
    world.run(Duration::from_secs(1));
    world.sender.request_refresh();
    world.picture((false, false));
    let now = world.now;
    world.sender.request_recovery(now, Stream::Zero);
    assert!(world.picture((false, false)).display.tag.key);
    assert_eq!(world.sender.phase(), Phase::Trickling);
    world.run(Duration::from_secs(2));
    assert_eq!(world.sender.stats().switches, 1);
    assert_eq!(world.sender.stats().background_key_frames, 1);
}

#[test]
fn the_first_key_frame_is_made_up_for() {
    let mut world = World::new(config());
    world.exact = Some(1.0);
    let target = world.sender.config().target;
    let frame = (target * FRAME).as_bytes();
    let first = world.picture((false, false)).display.rate;
    assert_eq!(first.largest_frame().as_bytes() / 100, 4 * frame / 100);
    let mut pictures = 1;
    while world.bytes.0 > pictures * frame + frame / 2 {
        world.pass(FRAME);
        let plan = world.picture((false, false));
        assert!(plan.display.rate.bitrate < target);
        pictures += 1;
        assert!(pictures < 15, "{pictures}");
    }
}

#[test]
fn at_a_low_rate_the_first_key_frame_can_still_be_recognised() {
    let world = World::new(Config {
        target: Bitrate::from_kbps(50),
        pixels: 1280 * 720,
        ..config()
    });
    let frame = world.sender.start_rate().largest_frame().as_bytes();
    assert!((2000..=2600).contains(&frame), "400 ms at most: {frame}");
    let world = World::new(Config {
        target: Bitrate::from_kbps(50),
        pixels: 320 * 180,
        ..config()
    });
    let frame = world.sender.start_rate().largest_frame().as_bytes();
    assert!((800..=850).contains(&frame), "4 frame times: {frame}");
}

#[derive(Clone, Debug)]
enum Op {
    Picture {
        display: bool,
        background: bool,
    },
    Pass(u64),
    Refresh,
    Recovery(bool),
    Restart,
    Dual(bool),
    /// A message about any picture.
    Feedback {
        stream: bool,
        number: u16,
        generation: u8,
        decodable: bool,
    },
    /// A true message, late or again.
    Repeat(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let flag = any::<bool>;
    prop_oneof![
        20 => (proptest::bool::weighted(0.1), proptest::bool::weighted(0.3))
            .prop_map(|(display, background)| Op::Picture { display, background }),
        20 => (0u64..120).prop_map(Op::Pass),
        2 => Just(Op::Refresh),
        2 => flag().prop_map(Op::Recovery),
        1 => Just(Op::Restart),
        1 => proptest::bool::weighted(0.8).prop_map(Op::Dual),
        3 => (flag(), any::<u16>(), 0u8..4, flag()).prop_map(|(stream, number, generation, decodable)| {
            Op::Feedback { stream, number: number % 400, generation, decodable }
        }),
        3 => any::<usize>().prop_map(Op::Repeat),
    ]
}

fn stream(one: bool) -> Stream {
    if one { Stream::One } else { Stream::Zero }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The rules of `World::check` hold whatever happens, and when the link is
    /// good again a refresh is committed within ten seconds.
    #[test]
    fn any_order_of_events_keeps_the_rules_and_is_never_stuck(
        ops in proptest::collection::vec(op(), 1..300),
        warm in prop_oneof![Just(Warm::Off), Just(Warm::Auto), Just(Warm::Interval(Duration::from_millis(100)))],
    ) {
        let mut world = World::new(Config { warm, ..config() });
        for op in ops {
            match op {
                Op::Picture { display, background } => { world.picture((display, background)); }
                Op::Pass(ms) => world.pass(Duration::from_millis(ms)),
                Op::Refresh => world.sender.request_refresh(),
                Op::Recovery(one) => { let now = world.now; world.sender.request_recovery(now, stream(one)) }
                Op::Restart => world.sender.restart(),
                Op::Dual(on) => world.sender.set_dual(on),
                Op::Feedback { stream: one, number, generation, decodable } => {
                    let now = world.now;
                    // A lying receiver is believed: the rule is about what it said.
                    if decodable {
                        world.told.extend(world.coded.iter().copied().filter(|t| t.stream == stream(one) && t.number == number && t.generation == generation).collect::<Vec<_>>());
                    }
                    world.sender.frame_complete(now, stream(one), number, generation, decodable);
                }
                Op::Repeat(which) => {
                    if !world.told.is_empty() {
                        let tag = world.told[which % world.told.len()];
                        world.tell(tag);
                    }
                }
            }
        }
        world.sender.set_dual(true);
        world.sender.heard();
        let before = world.sender.stats().switches;
        world.sender.request_refresh();
        world.run(Duration::from_secs(10));
        prop_assert!(world.sender.stats().switches > before, "{:?}", world.sender);
    }
}
