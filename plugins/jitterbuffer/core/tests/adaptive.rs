// SPDX-License-Identifier: MPL-2.0
//! How late, and at what delay, the adaptive model is on networks of many
//! kinds.

mod common;

use common::sequence::{Path, Sequence};
use common::{Run, START};
use jitterbuffer_core::Frame;

const TARGETS: [f64; 4] = [0.005, 0.01, 0.02, 0.05];
/// 200 s.
const FRAMES: usize = 6000;
const FPS: usize = 30;
const P_FRAME: f64 = 4348.0;

fn still(seed: u64, path: impl Fn(usize, &mut fastrand::Rng) -> Path) -> Vec<Frame> {
    Sequence::new(seed).then(FRAMES, path).frames()
}

fn gauss(sigma_ms: f64) -> Path {
    Path {
        sigma_ms,
        ..Path::CLEAN
    }
}

/// On 2 Mbit/s, each `period`th frame ten times the others.
fn key_frames(n: usize, period: usize) -> Path {
    Path {
        sigma_ms: 1.0,
        capacity_bps: 2e6,
        bytes: if n.is_multiple_of(period) {
            10.0 * P_FRAME
        } else {
            P_FRAME
        },
        ..Path::CLEAN
    }
}

fn spikes(random: &mut fastrand::Rng, share: f64) -> Path {
    let hit = random.f64() < share;
    Path {
        extra_ms: if hit { 20.0 + 80.0 * random.f64() } else { 0.0 },
        ..gauss(2.0)
    }
}

/// Three frames held up together.
fn bursts(n: usize) -> Path {
    let at = n % 97;
    Path {
        extra_ms: if at < 3 { 60.0 - 20.0 * at as f64 } else { 0.0 },
        ..gauss(2.0)
    }
}

fn skew(skew_ppm: f64) -> Path {
    Path {
        skew_ppm,
        ..gauss(2.0)
    }
}

/// Mean delay against the best constant one with as many late frames; the
/// share of late ones against the target.
#[track_caller]
fn meets(name: &str, frames: &[Frame], targets: &[f64]) {
    for target in targets {
        let run = Run::adaptive(frames, *target);
        let (from, to) = (START, frames.len());
        let late = run.late_share(from, to);
        assert!(
            late <= 1.5 * target,
            "{name}: {:.2} % late, for {} %",
            late * 100.0,
            target * 100.0
        );
        let (added, oracle) = (run.added_ms(from, to), run.oracle_ms(from, to));
        assert!(
            added <= 1.2 * oracle + 2.0,
            "{name}: {added:.1} ms added, {oracle:.1} ms would do, for {} %",
            target * 100.0
        );
    }
}

#[test]
fn a_network_that_stays_as_it_is_costs_little_more_than_it_must() {
    meets("5 ms", &still(1, |_, _| gauss(5.0)), &TARGETS);
    meets("20 ms", &still(2, |_, _| gauss(20.0)), &TARGETS);
    meets("key frames", &still(3, |n, _| key_frames(n, 60)), &TARGETS);
    meets("bursts", &still(4, |n, _| bursts(n)), &TARGETS);
    meets("clock fast", &still(5, |_, _| skew(200.0)), &TARGETS);
    meets("clock slow", &still(6, |_, _| skew(-200.0)), &TARGETS);
    // 1 % is left out: as many as there are spikes, see docs/jitter-buffer.md.
    let targets = [0.005, 0.02, 0.05];
    meets("spikes", &still(7, |_, r| spikes(r, 0.01)), &targets);
}

#[test]
fn frames_out_of_order_are_as_good_as_others() {
    let mut frames = still(8, |_, _| gauss(20.0));
    frames.sort_by_key(|frame| frame.arrival);
    let swapped = |pair: &&[Frame]| pair[1].rtp_timestamp < pair[0].rtp_timestamp;
    assert!(frames.windows(2).filter(swapped).count() > 300);
    meets("out of order", &frames, &TARGETS);
}

/// What is not late is not waited for in vain either.
#[test]
fn as_many_frames_are_late_as_may_be() {
    for target in TARGETS {
        let late = Run::adaptive(&still(9, |_, _| gauss(5.0)), target).late_share(START, FRAMES);
        assert!(late >= 0.7 * target, "{late} for {target}");
    }
}

#[test]
fn key_frames_rarer_than_the_short_memory_are_foreseen() {
    let frames = still(10, |n, _| key_frames(n, 450));
    let run = Run::adaptive(&frames, 0.005);
    let late = run.late_share(START, FRAMES);
    // Nine frames of each 450 wait behind a key frame.
    assert!(late <= 0.0075, "{:.2} % late", late * 100.0);
}

/// From 3 s after a change for half a minute.
#[track_caller]
fn recovers(name: &str, before: Path, after: Path) {
    let change = 60 * FPS;
    let frames = Sequence::new(11)
        .then(change, |_, _| before)
        .then(40 * FPS, |_, _| after)
        .frames();
    for target in TARGETS {
        let run = Run::adaptive(&frames, target);
        let at_once = run.late_share(change, change + FPS);
        assert!(at_once > 0.1, "{name}: only {at_once} late, no change");
        let from = change + 3 * FPS;
        let late = run.late_share(from, from + 30 * FPS);
        assert!(
            late <= 1.5 * target,
            "{name}: {:.2} % late, for {} %",
            late * 100.0,
            target * 100.0
        );
    }
}

#[test]
fn three_seconds_after_a_change_the_target_is_met_again() {
    recovers("jitter", gauss(2.0), gauss(20.0));
    let step = Path {
        extra_ms: 60.0,
        ..gauss(2.0)
    };
    recovers("longer way", gauss(2.0), step);
    let link = |capacity_bps| Path {
        sigma_ms: 1.0,
        capacity_bps,
        bytes: P_FRAME,
        ..Path::CLEAN
    };
    recovers("capacity", link(4e6), link(1.3e6));
}

/// The last ten seconds of twenty against a network that was always so.
#[track_caller]
fn falls(name: &str, before: impl Fn(usize, &mut fastrand::Rng) -> Path) {
    let (end, after) = (60 * FPS, 20 * FPS);
    let quiet = Sequence::new(12)
        .then(end + after, |_, _| gauss(2.0))
        .frames();
    let frames = Sequence::new(12)
        .then(end, before)
        .then(after, |_, _| gauss(2.0))
        .frames();
    for target in TARGETS {
        let of = |run: &Run, from| run.added_ms(from, from + 10 * FPS);
        let floor = of(&Run::adaptive(&quiet, target), end + 10 * FPS);
        let run = Run::adaptive(&frames, target);
        let high = of(&run, end - 10 * FPS);
        let low = of(&run, end + 10 * FPS);
        assert!(low <= 1.2 * floor, "{name}: {low} ms, floor {floor} ms");
        assert!(
            high >= 2.0 * floor || target > 0.01,
            "{name}: {high} ms before"
        );
    }
}

#[test]
fn ten_seconds_after_the_jitter_the_delay_is_at_its_floor() {
    falls("jitter", |_, _| gauss(20.0));
    falls("spikes", |_, r| spikes(r, 0.03));
    falls("key frames", |n, _| key_frames(n, 60));
}

/// A frame that was not in time for a long while must not make the picture
/// jump when it is forgotten.
#[test]
fn the_delay_falls_without_a_jump() {
    let frames = Sequence::new(13)
        .then(600, |_, _| gauss(20.0))
        .then(600, |_, _| gauss(1.0))
        .frames();
    let run = Run::adaptive(&frames, 0.005);
    let steps = run.waited_ms[START..]
        .windows(2)
        .map(|pair| pair[0] - pair[1]);
    let worst = steps.fold(0.0, f64::max);
    // 33 ms at a time constant of 500 ms: 6.4 % of what is too much, up to 150 ms.
    assert!(
        (1.0..11.0).contains(&worst),
        "{worst} ms from one frame to the next"
    );
}

/// 180 ms for one frame holds the delay up, but not if it came at the start.
#[test]
fn what_the_start_says_is_forgotten_soon() {
    let delay = |late: usize| {
        let frames = Sequence::new(14)
            .then(5 * FPS, |n, _| Path {
                extra_ms: if n == late { 180.0 } else { 0.0 },
                ..gauss(1.0)
            })
            .frames();
        Run::adaptive(&frames, 0.005).waited_ms[5 * FPS - 1]
    };
    let never = delay(usize::MAX);
    let (start, later) = (delay(FPS / 2) - never, delay(3 * FPS / 2) - never);
    assert!(start < 5.0 && later > 150.0, "{start} ms, {later} ms");
}

/// The link stands for half a second, and what waited comes at once.
#[test]
fn stalls_that_are_rare_do_not_hold_the_delay_up() {
    let delays = |every_s: usize| {
        let frames = Sequence::new(15)
            .then(60 * FPS, |n, _| {
                let at = (n + 5 * FPS) % (every_s * FPS);
                Path {
                    extra_ms: (500.0 - at as f64 * 1000.0 / FPS as f64).max(0.0),
                    ..gauss(1.0)
                }
            })
            .frames();
        let run = Run::adaptive(&frames, 0.005);
        // Once enough of them came.
        let from = 30 * FPS;
        let waited = run.waited_ms[from..].iter();
        waited.sum::<f64>() / (run.waited_ms.len() - from) as f64
    };
    let (never, rare, often) = (delays(1000), delays(12), delays(3));
    assert!(rare < never + 25.0, "{rare} ms, {never} ms without");
    assert!(often > never + 200.0, "{often} ms, {never} ms without");
}
