// SPDX-License-Identifier: MPL-2.0
use std::time::Duration;

use super::*;

#[test]
fn one_stream_is_shown_as_it_comes() {
    let mut b = Bench::new();
    b.run(0, 0..5, 0);
    assert_eq!(b.shown, [0, 1, 2, 3, 4]);
    assert!(matches!(b.act(), Next::Idle), "nothing to wait for");
    assert!(b.asked.is_empty() && b.completes.is_empty());
    assert!(b.receiver.stats().tagged);
}

#[test]
fn a_background_picture_is_not_shown_but_said_complete_until_the_commit() {
    let mut b = Bench::new();
    b.run(0, 0..4, 0);
    let k = unit(key(background(1, 2, 0)));
    b.arrive(k).unwrap();
    assert_eq!(b.decode(k, false), Err(Refusal::Background));
    assert_eq!(b.shown, [0, 1, 2, 3]);
    assert_eq!(b.completes, [(1, 2)]);
    // Repeats after 50, 100, 200, 400, 400 ms: at 50, 150, 350, 750, 1150.
    b.until(1200);
    assert_eq!(b.completes, [(1, 2); 6]);
    b.pass(unit(refers(display(1, 4, 1))));
    assert_eq!(b.shown.last(), Some(&4));
    assert_eq!(b.receiver.display(), Some(Stream::One));
    // The old stream's last picture is complete too, said 1 + 3 times.
    b.until(10_000);
    assert_eq!(b.completes[6..], [(0, 3); 4]);
    assert!(b.asked.is_empty(), "nothing was lost");
    assert_eq!(b.receiver.stats().switches, 1);
}

#[test]
fn complete_is_repeated_twenty_times_at_most_and_when_the_unit_comes_again() {
    let mut b = Bench::new();
    b.run(0, 0..2, 0);
    let k = unit(key(background(1, 1, 0)));
    b.pass(k);
    b.until(60_000);
    assert_eq!(b.completes.len(), 21);
    assert_eq!(b.arrive(k), Err(Dropped::Duplicate));
    assert_eq!(b.completes.len(), 22);
    b.until(120_000);
    assert_eq!(b.completes.len(), 22);
}

#[test]
fn around_a_commit_late_pictures_of_the_old_stream_are_waited_for() {
    let mut b = Bench::new();
    b.run(0, 0..4, 0);
    b.pass(unit(key(background(1, 2, 0))));
    let (four, five) = (unit(display(0, 4, 0)), unit(refers(display(1, 5, 1))));
    b.arrive(four).unwrap();
    b.pass(five);
    assert_eq!(b.shown, [0, 1, 2, 3], "4 is still in its decoder");
    b.until(20);
    b.decode(four, false).unwrap();
    assert_eq!(b.shown, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn the_wait_at_a_commit_ends() {
    for (name, end, at) in [
        ("by time", None, 60),
        ("when the old stream is over", Some(()), 0),
    ] {
        let mut b = Bench::new();
        b.run(0, 0..4, 0);
        b.pass(unit(key(background(1, 2, 0))));
        b.pass(unit(refers(display(1, 5, 1))));
        b.pass(unit(display(1, 6, 1)));
        assert_eq!(b.shown.len(), 4, "{name}: 4 may still come");
        if end.is_some() {
            b.receiver.end(Stream::Zero);
        }
        if at > 0 {
            b.until(at - 1);
            assert_eq!(b.shown.len(), 4, "{name}");
        }
        b.until(at);
        assert_eq!(b.shown[4..], [5, 6], "{name}");
        assert_eq!(b.receiver.stats().missing, 1, "{name}");
        assert!(b.asked.is_empty(), "{name}: what is shown now is whole");
        let four = unit(display(0, 4, 0));
        b.arrive(four).unwrap();
        assert_eq!(b.decode(four, false), Err(Refusal::Late), "{name}");
    }
}

#[test]
fn a_frame_missing_within_one_stream_is_never_waited_for() {
    let mut b = Bench::new();
    b.run(0, 0..4, 0);
    b.pass(unit(key(background(1, 2, 0))));
    b.pass(unit(refers(display(1, 4, 1))));
    b.pass(unit(display(1, 6, 1)));
    assert_eq!(b.shown, [0, 1, 2, 3, 4, 6]);
    assert_eq!(b.asked.len(), 1);
}

#[test]
fn the_same_picture_from_both_streams_is_shown_once() {
    let mut b = Bench::new();
    b.run(0, 0..4, 0);
    b.pass(unit(key(background(1, 2, 0))));
    b.pass(unit(refers(display(1, 4, 1))));
    let again = unit(display(0, 4, 0));
    b.arrive(again).unwrap();
    assert_eq!(b.decode(again, false), Err(Refusal::Duplicate));
    assert_eq!(b.shown, [0, 1, 2, 3, 4]);
}

#[test]
fn numbers_wrap() {
    let mut b = Bench::new();
    b.pass(unit(key(display(0, 65533, 0))));
    for n in [65534, 65535, 0, 1] {
        let mut unit = unit(display(0, n, 0));
        unit.pts = None;
        b.pass(unit);
    }
    assert_eq!(b.shown, [65533, 65534, 65535, 0, 1]);
    assert!(b.asked.is_empty());
}

#[test]
fn a_sender_that_starts_anew_is_followed() {
    let start = |n, generation| unit(key(display(0, n, generation)));
    let cases: &[(&str, u16, u8, Unit, usize)] = &[
        ("numbers jump", 5000, 0, start(2, 0), 0),
        (
            "numbers jump without key frame",
            5000,
            0,
            unit(display(0, 2, 0)),
            1,
        ),
        ("numbers go back a little", 500, 0, start(0, 0), 0),
        (
            "a new generation is behind the numbers of the old",
            500,
            9,
            start(400, 10),
            0,
        ),
        (
            "generation is back at the beginning",
            500,
            9,
            start(600, 0),
            0,
        ),
    ];
    for (name, at, generation, first, asked) in cases {
        let mut b = Bench::new();
        b.pass(unit(key(display(0, *at, *generation))));
        b.pass(unit(display(0, at + 1, *generation)));
        b.pass(*first);
        let tag = first.tag.unwrap();
        b.pass(unit(display(0, tag.number + 1, tag.generation)));
        let n = tag.number;
        assert_eq!(b.shown, [*at, at + 1, n, n + 1], "{name}");
        assert_eq!(b.receiver.stats().restarts, 1, "{name}");
        assert_eq!(b.asked.len(), *asked, "{name}");
    }
}

/// Frame 3's last packet is lost: the depayloader hands on what is left of it
/// with the tag of 4 and the time stamp of 3, then 4 itself.
#[test]
fn a_tag_of_the_other_stream_is_ignored_and_counted() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    let mut stray = unit(display(1, 3, 0));
    stray.stream = Stream::Zero;
    b.pass(stray);
    assert_eq!(b.shown, [0, 1, 2, 3], "shown by its time stamp");
    assert_eq!(b.receiver.stats().mismatched_tags, 1);
    let mut stray = unit(key(background(0, 3, 0)));
    stray.stream = Stream::One;
    b.arrive(stray).unwrap();
    assert_eq!(b.decode(stray, false), Err(Refusal::Untagged));
    assert!(b.completes.is_empty(), "never said complete");
}

#[test]
fn without_tags_pictures_are_shown_by_time_stamp() {
    let mut b = Bench::new();
    let plain = |stream, n, key| Unit {
        tag: None,
        ..unit(FrameTag {
            key,
            ..display(stream, n, 0)
        })
    };
    b.pass(plain(0, 0, true)).pass(plain(0, 1, false));
    b.pass(plain(1, 1, true));
    let stats = b.receiver.stats();
    assert_eq!(
        (stats.shown, stats.duplicates),
        (2, 1),
        "each time stamp once"
    );
    assert!(!stats.tagged);
    b.pass(Unit {
        arrived: Arrived::AfterLoss,
        ..plain(0, 3, false)
    });
    b.until(301);
    assert_eq!(b.asked, [(0, 0), (300, 0)]);
    b.pass(plain(0, 4, true));
    b.until(10_000);
    assert_eq!(b.asked.len(), 2);
    assert_eq!(b.receiver.stats().shown, 4);
}

#[test]
fn a_session_loses_and_finds_its_tags() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    for n in 3..40 {
        b.pass(Unit {
            tag: None,
            ..unit(display(0, n, 0))
        });
    }
    assert!(!b.receiver.stats().tagged);
    b.run(0, 40..43, 0);
    assert!(b.receiver.stats().tagged);
    assert_eq!(b.receiver.stats().shown, 43);
}

#[test]
fn a_full_queue_shows_the_oldest_and_refuses_when_nobody_polls() {
    let mut receiver = Receiver::new(Config {
        queue: 4,
        ..Config::default()
    })
    .unwrap();
    let now = Timestamp::ZERO;
    let mut refused = 0;
    for n in 0..10 {
        let tag = display(0, n, 0);
        let unit = unit(FrameTag { key: n == 0, ..tag });
        receiver.unit(now, unit).unwrap();
        let decoded = Decoded {
            stream: Stream::Zero,
            tag: unit.tag,
            pts: unit.pts,
            corrupt: false,
        };
        refused += usize::from(receiver.picture(now, decoded, n).is_err());
    }
    assert!(receiver.is_full());
    assert_eq!((refused, receiver.stats().held), (5, 5));
    let mut shown = 0;
    while let Next::Do(_) = receiver.poll(now) {
        shown += 1;
    }
    assert_eq!(shown, 5);
}

#[test]
fn a_flush_forgets_streams_and_keeps_counters() {
    let mut b = Bench::new();
    b.run(0, 0..4, 0);
    b.pass(unit(key(background(1, 2, 0))));
    b.pass(unit(refers(display(1, 5, 1))));
    assert_eq!(b.receiver.flush(), [5]);
    assert_eq!(b.receiver.display(), None);
    assert_eq!(b.arrive(unit(display(1, 6, 1))), Err(Dropped::NoKey));
    b.pass(unit(key(display(0, 0, 0))));
    assert_eq!(b.shown.last(), Some(&0));
    let s = b.receiver.stats();
    assert_eq!((s.flushed, s.shown), (1, 5));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let good = Config::default();
    let cases = [
        (Config { queue: 0, ..good }, ConfigError::Queue),
        (
            Config {
                complete_interval: Duration::ZERO,
                ..good
            },
            ConfigError::Interval,
        ),
        (
            Config {
                recovery_interval: Duration::ZERO,
                ..good
            },
            ConfigError::Interval,
        ),
        (Config { jump: 0, ..good }, ConfigError::Jump),
        (
            Config {
                jump: 40_000,
                ..good
            },
            ConfigError::Jump,
        ),
    ];
    for (config, error) in cases {
        assert_eq!(Receiver::<()>::new(config).err(), Some(error));
    }
}
