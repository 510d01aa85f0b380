// SPDX-License-Identifier: MPL-2.0
//! What a lossy link costs, with retransmissions, in virtual time.

mod link;

use link::{Link, Outcome, Session};

const SEEDS: u64 = 10;
const TARGET: f64 = 0.005;
/// `netem delay 40ms 20ms loss 2%` one way and `delay 40ms` the other, but in
/// order.
const JITTERY: Link = Link {
    forward: 20.0,
    back: 40.0,
    jitter: 40.0,
    loss: 0.02,
};

fn runs(link: Link) -> Vec<Outcome> {
    (1..=SEEDS)
        .map(|seed| Session::new(link, TARGET, seed).run(5, 60))
        .collect()
}

fn mean(of: impl Iterator<Item = f64>) -> f64 {
    of.sum::<f64>() / SEEDS as f64
}

fn delay(runs: &[Outcome]) -> f64 {
    let of = |run: &Outcome| run.rendered.iter().sum::<f64>() / run.rendered.len() as f64;
    mean(runs.iter().map(of))
}

/// A loss is seen after up to 40 ms, the answer takes 60 to 100 ms: 140 ms
/// after the fastest packet would always do.
#[test]
fn repairs_are_waited_for_no_longer_than_they_take() {
    let runs = runs(JITTERY);
    let delay = delay(&runs) - JITTERY.forward;
    assert!((120.0..141.0).contains(&delay), "{delay} ms");
    let late = mean(runs.iter().map(|run| run.late_share));
    assert!(late < 1.5 * TARGET, "{late}");
    for run in &runs {
        let missing = run.frames as usize - run.rendered.len();
        assert!(missing < 6 * 30, "5 s are not counted: {missing}");
    }
}

/// Each lost packet is asked for twice at most times, and the end of some frames
/// in vain.
#[test]
fn little_is_asked_for_in_vain() {
    for run in runs(JITTERY) {
        let vain = run.requests.saturating_sub(2 * run.lost);
        assert!(vain * 25 < run.packets, "{vain} of {}", run.packets);
    }
}

#[test]
fn without_loss_nothing_is_waited_for() {
    let clean = Link {
        jitter: 0.0,
        loss: 0.0,
        ..JITTERY
    };
    for run in runs(clean) {
        let delay = run.rendered.iter().copied().fold(0.0, f64::max) - clean.forward;
        // The packets of a frame are sent over half a millisecond.
        assert!(delay < 1.0, "{delay} ms");
        assert_eq!(run.requests, 0);
    }
}
