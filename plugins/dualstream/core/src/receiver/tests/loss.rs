// SPDX-License-Identifier: MPL-2.0
use super::*;

#[test]
fn a_background_picture_that_is_not_whole_is_never_said_complete() {
    let b0 = unit(key(background(1, 1, 0)));
    let p = unit(refers(background(1, 2, 0)));
    type Case<'a> = (&'a str, &'a [(Unit, bool)], &'a [(u32, u16)]);
    let cases: &[Case<'_>] = &[
        ("cut", &[(cut(key(background(1, 1, 0))), false)], &[]),
        ("decoder says corrupt", &[(b0, true)], &[]),
        (
            "P frame after a lost one",
            &[
                (b0, false),
                (after_loss(background(1, 2, 0)), false),
                (unit(background(1, 3, 0)), false),
            ],
            &[(1, 1)],
        ),
        (
            "P frame of a cut key frame, though it says acknowledged",
            &[(cut(key(background(1, 1, 0))), false), (p, false)],
            &[],
        ),
        (
            "P frame that refers to what was acknowledged",
            &[
                (b0, false),
                (after_loss(refers(background(1, 2, 0))), false),
            ],
            &[(1, 1), (1, 2)],
        ),
    ];
    for (name, steps, expected) in cases {
        let mut b = Bench::new();
        b.run(0, 0..3, 0);
        for (unit, corrupt) in *steps {
            b.arrive(*unit).unwrap();
            assert_eq!(
                b.decode(*unit, *corrupt),
                Err(Refusal::Background),
                "{name}"
            );
        }
        assert_eq!(b.completes, *expected, "{name}");
        assert!(
            b.asked.is_empty(),
            "{name}: the standby's loss is the sender's to see"
        );
    }
}

#[test]
fn a_decoder_that_skips_a_background_picture_breaks_its_chain() {
    let mut b = Bench::new();
    b.run(0, 0..5, 0);
    b.pass(unit(key(background(1, 1, 0))));
    b.arrive(unit(background(1, 2, 0))).unwrap();
    b.pass(unit(background(1, 3, 0)));
    assert_eq!(
        b.completes,
        [(1, 1)],
        "2 never came out, 3 predicts from it"
    );
}

#[test]
fn every_loss_on_the_display_stream_is_asked_for_once_with_back_off() {
    let d = |n| unit(display(0, n, 0));
    let cases: &[(&str, Unit, bool)] = &[
        ("after loss", after_loss(display(0, 3, 0)), false),
        ("cut", cut(display(0, 3, 0)), false),
        (
            "corrupted",
            Unit {
                arrived: Arrived::Damaged,
                ..d(3)
            },
            false,
        ),
        ("gap in the numbers", d(5), false),
        ("decoder says corrupt", d(3), true),
    ];
    for (name, bad, corrupt) in cases {
        let mut b = Bench::new();
        b.run(0, 0..3, 0);
        b.arrive(*bad).unwrap();
        b.decode(*bad, *corrupt).unwrap();
        let n = bad.tag.unwrap().number;
        b.run(0, n + 1..n + 4, 0);
        assert_eq!(b.shown.len(), 7, "{name}: what can be decoded is shown");
        // 300 ms, then 600, 1200, 2000, 2000.
        b.until(6500);
        let times: Vec<_> = b.asked.iter().map(|a| a.0).collect();
        assert_eq!(times, [0, 300, 900, 2100, 4100, 6100], "{name}");
        b.pass(unit(key(display(0, n + 4, 0))));
        b.until(60_000);
        assert_eq!(b.asked.len(), 6, "{name}: a key frame ends it");
        assert_eq!(b.receiver.stats().losses, 1, "{name}");
    }
}

#[test]
fn a_loss_is_mended_by_a_commit_to_an_intact_stream_or_an_acknowledged_reference() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    b.pass(unit(key(background(1, 2, 0))));
    b.pass(after_loss(display(0, 3, 0)));
    assert_eq!(b.asked.len(), 1);
    b.pass(unit(refers(display(1, 4, 1))));
    b.until(10_000);
    assert_eq!(b.asked.len(), 1, "the commit was the answer");
    // Stream 0 was broken when it was left: nothing was said complete of it,
    // but for its last whole picture.
    assert!(b.completes.iter().all(|c| *c == (1, 2) || *c == (0, 2)));
    // Stream 1 loses a frame, and the sender goes back to what it knows.
    b.pass(unit(display(1, 6, 1)));
    assert_eq!(b.asked.len(), 2);
    b.pass(unit(refers(display(1, 7, 1))));
    b.until(20_000);
    assert_eq!(b.asked.len(), 2, "an acknowledged reference was the answer");
}

#[test]
fn acknowledged_is_not_believed_where_nothing_was_acknowledged() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    b.pass(after_loss(refers(display(0, 3, 0))));
    b.until(301);
    assert_eq!(b.asked, [(0, 0), (300, 0)]);
}

#[test]
fn a_commit_to_a_broken_stream_is_a_loss() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    b.pass(cut(key(background(1, 2, 0))));
    b.pass(unit(display(1, 3, 1)));
    assert_eq!(b.asked, [(0, 1)]);
}

/// The sender took the request as answered by its commit, whose frame is lost
/// in turn: what is asked for now is the new stream, and at once.
#[test]
fn a_request_follows_the_display_stream() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    b.pass(unit(key(background(1, 2, 0))));
    b.pass(after_loss(display(0, 3, 0)));
    assert_eq!(b.asked, [(0, 0)]);
    b.until(100);
    b.pass(after_loss(display(1, 5, 1)));
    assert_eq!(b.asked, [(0, 0), (100, 1)]);
    b.pass(unit(display(1, 6, 1)));
    b.until(399);
    assert_eq!(b.asked.len(), 2);
    b.until(400);
    assert_eq!(b.asked[2], (400, 1));
}

#[test]
fn units_before_the_first_key_frame_are_dropped_and_asked_for() {
    let mut b = Bench::new();
    assert_eq!(b.arrive(unit(display(0, 7, 0))), Err(Dropped::NoKey));
    assert_eq!(b.arrive(unit(display(0, 8, 0))), Err(Dropped::NoKey));
    b.until(400);
    assert_eq!(b.asked, [(0, 0), (300, 0)]);
    b.pass(unit(key(display(0, 9, 0))));
    assert_eq!(b.shown, [9]);
    // Joined while a standby is under way: its P frames are no one's loss.
    assert_eq!(b.arrive(unit(background(1, 9, 0))), Err(Dropped::NoKey));
    b.until(9000);
    assert_eq!(b.asked.len(), 2);
}

#[test]
fn the_first_unit_is_after_nothing_and_no_loss_but_may_lack_its_beginning() {
    let mut b = Bench::new();
    b.pass(after_loss(key(display(0, 0, 0))));
    assert!(b.asked.is_empty());
    let mut b = Bench::new();
    b.pass(cut(key(display(0, 0, 0))));
    assert_eq!(b.asked.len(), 1, "the beginning is missing");
    assert_eq!(b.shown, [0], "what there is of it is shown");
}

#[test]
fn a_key_frame_right_behind_a_loss_is_trusted_if_its_slices_are_all_there() {
    for (slices, whole) in [(4, true), (3, false)] {
        let mut b = Bench::new();
        let with = |mut unit: Unit, slices| {
            unit.content.slices = slices;
            unit
        };
        for n in 0..3 {
            let tag = display(0, n, 0);
            b.pass(with(unit(FrameTag { key: n == 0, ..tag }), 4));
        }
        b.pass(with(after_loss(key(display(0, 5, 0))), slices));
        assert_eq!(b.asked.is_empty(), whole, "{slices} of 4 slices");
    }
}

#[test]
fn the_first_frame_of_a_commit_lost_without_a_word_is_found_out() {
    let mut b = Bench::new();
    b.run(0, 0..4, 0);
    b.pass(unit(key(background(1, 2, 0))));
    // 4 was coded on stream 1 only and is lost; 5 does not say "acknowledged".
    b.pass(unit(display(1, 5, 1)));
    assert!(b.asked.is_empty(), "it may still come by stream 0");
    b.until(59);
    assert!(b.asked.is_empty());
    b.until(60);
    assert_eq!(b.asked, [(60, 1)]);
    // Whereas if it comes by stream 0, all is well.
    let mut b = Bench::new();
    b.run(0, 0..4, 0);
    b.pass(unit(key(background(1, 2, 0))));
    b.pass(unit(display(1, 5, 1)));
    b.until(30);
    b.run(0, 4..5, 0);
    b.until(9000);
    assert_eq!(b.shown, [0, 1, 2, 3, 4, 5]);
    assert!(b.asked.is_empty());
}

#[test]
fn a_p_frame_that_goes_back_is_dropped_and_recovery_asked_for() {
    let mut b = Bench::new();
    b.pass(unit(key(display(0, 500, 0))));
    assert_eq!(b.arrive(unit(display(0, 3, 0))), Err(Dropped::OutOfOrder));
    assert_eq!(b.asked.len(), 1);
    b.pass(unit(key(display(0, 5, 0))));
    assert_eq!(b.shown, [500, 5]);
}

#[test]
fn of_two_units_with_one_number_the_later_is_right() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    let mut remains = cut(display(0, 4, 0));
    remains.pts = unit(display(0, 3, 0)).pts;
    b.arrive(remains).unwrap();
    let four = unit(display(0, 4, 0));
    b.arrive(four).unwrap();
    b.decode(remains, false).unwrap();
    b.decode(four, false).unwrap();
    assert_eq!(b.shown.len(), 5, "3 as far as it goes, and 4");
    assert_eq!(b.receiver.stats().relabelled, 1);
    assert_eq!(b.receiver.stats().duplicates, 0);
    assert_eq!(b.asked.len(), 1);
    // In the background, time stamps tell nothing, but only the later counts.
    let mut remains = cut(key(background(1, 9, 0)));
    remains.pts = unit(display(0, 3, 0)).pts;
    let nine = unit(key(background(1, 9, 0)));
    b.arrive(remains).unwrap();
    b.arrive(nine).unwrap();
    assert_eq!(b.decode(remains, false), Err(Refusal::Background));
    assert!(b.completes.is_empty());
    assert_eq!(b.decode(nine, false), Err(Refusal::Background));
    assert_eq!(b.completes, [(1, 9)]);
}

#[test]
fn a_silent_decoder_is_a_loss() {
    let config = Config::default();
    for (name, pictures, patience) in [
        (
            "one that never gave a picture",
            0,
            config.silent_units as u16,
        ),
        ("one that gave each at once", 3, config.silent_margin as u16),
    ] {
        let mut b = Bench::new();
        b.run(0, 0..pictures, 0);
        let quiet = |b: &mut Bench, n| {
            let tag = display(0, n, 0);
            b.arrive(unit(FrameTag { key: n == 0, ..tag })).unwrap();
        };
        for n in pictures..pictures + patience {
            quiet(&mut b, n);
        }
        assert!(b.asked.is_empty(), "{name}");
        quiet(&mut b, pictures + patience);
        assert_eq!(b.asked.len(), 1, "{name}");
        // It swallows the key frame that it asked for: asked again.
        let n = pictures + patience + 1;
        b.now = ms(100);
        b.arrive(unit(key(display(0, n, 0)))).unwrap();
        for n in n + 1..=n + patience {
            quiet(&mut b, n);
        }
        assert_eq!(b.asked.len(), 2, "{name}");
    }
}

#[test]
fn a_decoder_started_anew_waits_for_a_key_frame() {
    let mut b = Bench::new();
    b.run(0, 0..3, 0);
    b.receiver.decoder_restarted(b.now, Stream::Zero);
    let _ = b.act();
    assert_eq!(b.asked.len(), 1);
    assert_eq!(b.arrive(unit(display(0, 3, 0))), Err(Dropped::NoKey));
    b.pass(unit(key(display(0, 4, 0))));
    assert_eq!(b.shown, [0, 1, 2, 4]);
    // The standby's is nobody's loss.
    b.receiver.decoder_restarted(b.now, Stream::One);
    b.until(9000);
    assert_eq!(b.asked.len(), 1);
}

#[test]
fn what_is_shown_knows_whether_it_is_whole() {
    let mut b = Bench::new();
    b.run(0, 0..2, 0);
    for (unit, whole) in [
        (unit(display(0, 2, 0)), true),
        (after_loss(display(0, 3, 0)), false),
        (unit(display(0, 4, 0)), false),
        (unit(key(display(0, 5, 0))), true),
    ] {
        b.receiver.unit(b.now, unit).unwrap();
        let decoded = Decoded {
            stream: unit.stream,
            tag: unit.tag,
            pts: unit.pts,
            corrupt: false,
        };
        b.receiver.picture(b.now, decoded, 0).unwrap();
        while b.receiver.poll_message(b.now).is_some() {}
        let Next::Do(Action::Show(shown)) = b.receiver.poll(b.now) else {
            panic!("was to be shown");
        };
        assert_eq!(shown.whole, whole, "{:?}", shown.tag);
        let _ = b.act();
    }
}
