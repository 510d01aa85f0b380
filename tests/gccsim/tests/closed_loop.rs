// SPDX-License-Identifier: MPL-2.0
//! The estimator and the pacer over links in virtual time. Each claim is
//! two-sided where both sides can fail.

use std::time::Duration;

use dualstream_common::{Bitrate, Ratio, Timestamp};
use dualstream_gccsim::{Cross, Demand, Outcome, Scenario, jain, queue, run, share, utilisation};
use dualstream_netsim::{Capacity, GilbertElliott, Loss};
use gcc_core::{Config, DelayFilter, Tuning};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::ZERO + secs(seconds)
}

fn constant(kbps: u64) -> Capacity {
    Capacity::Constant(Bitrate::from_kbps(kbps))
}

fn steps(kbps: &[u64], each: u64) -> Vec<(Timestamp, Bitrate)> {
    let step = |(n, kbps): (usize, &u64)| (at(n as u64 * each), Bitrate::from_kbps(*kbps));
    kbps.iter().enumerate().map(step).collect()
}

#[track_caller]
fn go(scenario: &Scenario) -> Outcome {
    run(scenario, &Config::default(), &Tuning::default()).expect("the defaults are valid")
}

#[track_caller]
fn between(value: f64, least: f64, most: f64, what: &str) {
    assert!(
        (least..=most).contains(&value),
        "{what}: {value}, not {least} to {most}"
    );
}

#[test]
fn a_constant_link_is_filled_without_a_long_queue() {
    // Own time in the bottleneck, 1200 bytes: 19.2, 9.6, 4.8, 1.9, 0.5 ms.
    for (kbps, p95) in [
        (500, 40.0),
        (1000, 22.0),
        (2000, 15.0),
        (5000, 15.0),
        (20_000, 15.0),
    ] {
        let outcome = go(&Scenario::new(constant(kbps), secs(30)));
        between(utilisation(outcome.between(5.0, 30.0)), 0.95, 1.0, "use");
        between(outcome.queue().p95, 9600.0 / kbps as f64, p95, "queue, ms");
        let t90 = outcome.reached(0.0, 30.0).expect("90 % are reached");
        between(t90, 0.1, 0.75, "time to 90 %");
    }
}

#[test]
fn without_probes_the_start_takes_longer() {
    let scenario = Scenario::new(constant(5000), secs(20));
    let config = Config {
        probing: false,
        ..Config::default()
    };
    let outcome = run(&scenario, &config, &Tuning::default()).expect("valid");
    let t90 = outcome.reached(0.0, 20.0).expect("90 % are reached");
    between(t90, 1.0, 15.0, "time to 90 %");
}

#[test]
fn steps_of_the_capacity_are_followed_both_ways() {
    let steps = steps(&[1000, 2000, 3000, 2000, 1000, 500], 20);
    let outcome = go(&Scenario::new(Capacity::Steps(steps.clone()), secs(120)));
    between(utilisation(&outcome.bins), 0.92, 1.0, "use");
    between(outcome.queue().p95, 5.0, 50.0, "queue, ms");
    let (rises, drains) = outcome.steps(&steps);
    for rise in rises {
        between(rise.expect("each rise is followed"), 0.2, 4.0, "rise");
    }
    for drain in drains {
        between(drain, 0.0, 1.5, "drain");
    }
}

#[test]
fn either_filter_does() {
    let steps = steps(&[2000, 1000, 2000], 15);
    for filter in [DelayFilter::Trendline, DelayFilter::Kalman] {
        let scenario = Scenario::new(Capacity::Steps(steps.clone()), secs(45));
        let config = Config {
            filter,
            ..Config::default()
        };
        let outcome = run(&scenario, &config, &Tuning::default()).expect("valid");
        between(utilisation(&outcome.bins), 0.92, 1.0, "use");
        between(outcome.queue().p95, 4.0, 40.0, "queue, ms");
    }
}

#[test]
fn loss_that_is_there_at_any_rate_does_not_hold_the_rate_down() {
    for (percent, least) in [(2.0, 0.92), (5.0, 0.88), (10.0, 0.80)] {
        for burst in [1.0, 4.0] {
            let mut scenario = Scenario::new(constant(2000), secs(60));
            let mean = Ratio::clamped(percent / 100.0);
            scenario.loss = if burst > 1.0 {
                Loss::GilbertElliott(GilbertElliott::bursts(mean, burst))
            } else {
                Loss::Random(mean)
            };
            let outcome = go(&scenario);
            // Of what leaves the bottleneck so much is lost.
            between(
                utilisation(&outcome.bins),
                least,
                1.0 - percent / 150.0,
                "use",
            );
            between(outcome.queue().p95, 4.8, 35.0, "queue, ms");
        }
    }
}

/// A policer drops what is above its rate and delays nothing.
#[test]
fn a_policer_is_found_by_its_losses() {
    let mut scenario = Scenario::new(constant(2000), secs(60));
    scenario.queue = Duration::from_millis(12);
    let outcome = go(&scenario);
    between(utilisation(outcome.between(10.0, 60.0)), 0.85, 1.0, "use");
    between(outcome.loss(), 0.0, 0.03, "loss");
}

/// The first burst is above the link and loses much. When the link takes more,
/// what was lost then must not hold the rate for long.
#[test]
fn a_burst_of_losses_at_the_start_is_soon_forgotten() {
    let steps = steps(&[1000, 3000], 5);
    let mut scenario = Scenario::new(Capacity::Steps(steps), secs(30));
    scenario.queue = Duration::from_millis(60);
    let config = Config {
        start: Bitrate::from_kbps(4000),
        ..Config::default()
    };
    let outcome = run(&scenario, &config, &Tuning::default()).expect("valid");
    between(outcome.loss(), 0.0005, 0.05, "loss");
    let rise = outcome.reached(5.0, 30.0).expect("the rise is followed");
    between(rise, 0.5, 12.0, "rise");
}

#[test]
fn flows_share_alike() {
    for (flows, least) in [(2, 0.95), (3, 0.8), (4, 0.8)] {
        let mut scenario = Scenario::new(constant(3000), secs(120));
        scenario.flows = (0..flows).map(|n| (at(n * 5), Demand::All)).collect();
        let outcome = go(&scenario);
        between(
            jain(outcome.between(60.0, 120.0)),
            least,
            1.0,
            "Jain's index",
        );
        between(utilisation(outcome.between(60.0, 120.0)), 0.9, 1.0, "use");
        between(outcome.queue().p95, 3.2, 30.0, "queue, ms");
    }
}

#[test]
fn beside_a_flow_that_fills_the_queue_it_keeps_its_part_and_takes_no_more() {
    let mut scenario = Scenario::new(constant(3000), secs(120));
    scenario.cross = Some(Cross {
        from: at(20),
        to: at(80),
    });
    let outcome = go(&scenario);
    between(share(outcome.between(20.0, 80.0), 0), 0.2, 0.7, "share");
    let back = outcome.reached(80.0, 120.0).expect("the rate comes back");
    between(back, 0.1, 5.0, "time until it is back");
    between(
        queue(outcome.between(90.0, 120.0)).p95,
        3.2,
        30.0,
        "queue, ms",
    );
}

#[test]
fn an_application_that_sends_less_neither_loses_nor_blows_up_its_estimate() {
    for percent in [20.0, 40.0, 70.0] {
        let mut scenario = Scenario::new(constant(2000), secs(75));
        let demand = Demand::Share(percent / 100.0, at(60));
        scenario.flows = vec![(Timestamp::ZERO, demand)];
        let outcome = go(&scenario);
        for bin in outcome.between(5.0, 60.0) {
            let over = bin.flows[0].target.as_bps() as f64 / 2e6;
            between(over, 0.5, 2.0, "estimate over the capacity");
        }
        let full = outcome.delivers(60.0, 75.0).expect("all is delivered");
        between(full, 0.1, 1.5, "time until all is delivered");
        between(
            queue(outcome.between(60.0, 75.0)).p95,
            4.8,
            60.0,
            "queue, ms",
        );
    }
}

/// While the application limits, nobody feels the fall; what it asks for
/// afterwards must not be far above the link.
#[test]
fn a_fall_of_the_capacity_is_found_while_the_application_sends_little() {
    let capacity = Capacity::Steps(vec![
        (at(0), Bitrate::from_kbps(4000)),
        (at(20), Bitrate::from_kbps(1500)),
    ]);
    let mut scenario = Scenario::new(capacity, secs(60));
    scenario.flows = vec![(Timestamp::ZERO, Demand::Share(0.25, at(40)))];
    let outcome = go(&scenario);
    let last = outcome.between(39.0, 40.0)[9].flows[0].target;
    between(
        last.as_bps() as f64 / 1.5e6,
        0.5,
        1.5,
        "estimate over the capacity",
    );
}

#[test]
fn jitter_is_not_taken_for_a_queue() {
    let mut scenario = Scenario::new(constant(2000), secs(60));
    scenario.jitter = Duration::from_millis(5);
    let outcome = go(&scenario);
    between(utilisation(&outcome.bins), 0.85, 1.0, "use");
    between(outcome.queue().p95, 4.8, 40.0, "queue, ms");
}

/// A capacity that wanders by a tenth each tenth of a second.
#[test]
fn a_restless_link_is_used_and_its_queue_kept_short() {
    for seed in 1..4 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut log = 0.0f64;
        let steps = (0..2000u64).map(|n| {
            log += (rng.f64() - 0.5) * 0.35 - 0.02 * log;
            let rate = (1.5e6 * log.exp()).max(5e4) as u64;
            (Timestamp::from_millis(n * 100), Bitrate::from_bps(rate))
        });
        let outcome = go(&Scenario::new(Capacity::Steps(steps.collect()), secs(200)));
        between(utilisation(&outcome.bins), 0.5, 0.95, "use");
        between(outcome.queue().p95, 5.0, 60.0, "queue, ms");
    }
}

/// Nothing passes for three seconds, again and again.
#[test]
fn it_comes_back_after_silence() {
    let steps = (0..6u64).flat_map(|n| {
        [
            (at(n * 20), Bitrate::from_kbps(2000)),
            (at(n * 20 + 17), Bitrate::from_bps(1)),
        ]
    });
    let outcome = go(&Scenario::new(Capacity::Steps(steps.collect()), secs(120)));
    for n in 1..6 {
        let from = f64::from(n) * 20.0;
        let back = outcome
            .reached(from, from + 15.0)
            .expect("the rate comes back");
        between(back, 0.05, 8.0, "time until it is back");
    }
    between(outcome.stats[0].silences as f64, 5.0, 100.0, "silences");
}

/// 2 Mbit/s, and `fallen` for `length` s before each multiple of 20 s: until 80 %
/// are delivered again, in s, at most 12, of each of the five times.
fn come_back(fallen: u64, length: u64, loss: f64) -> Vec<f64> {
    let steps = (0..6u64).flat_map(|n| {
        [
            (at(n * 20), Bitrate::from_kbps(2000)),
            (at(n * 20 + 20 - length), Bitrate::from_bps(fallen)),
        ]
    });
    let mut scenario = Scenario::new(Capacity::Steps(steps.collect()), secs(120));
    scenario.one_way = Duration::from_millis(30);
    scenario.loss = Loss::Random(Ratio::clamped(loss));
    let outcome = go(&scenario);
    let back = |n: u64| {
        let from = n as f64 * 20.0;
        outcome.back(from, from + 12.0).unwrap_or(12.0)
    };
    (1..6).map(back).collect()
}

/// No silence: the queue is drained, and the rate is that of the slow link, which
/// is all that its feedback shows.
#[test]
fn after_a_deep_fall_the_rate_before_is_soon_there_again() {
    for (fallen, length) in [(300_000, 4), (600_000, 6)] {
        for loss in [0.0, 0.03] {
            let times = come_back(fallen, length, loss);
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            between(mean, 0.2, 4.5, "time until it is back, mean");
        }
    }
}

/// A packet a second comes through: feedback that shows nothing, again and again.
#[test]
fn after_an_outage_that_leaks_the_rate_before_is_soon_there_again() {
    for loss in [0.0, 0.03] {
        let times = come_back(12_000, 4, loss);
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        between(mean, 0.1, 1.2, "time until it is back, mean");
    }
}

/// What is not there any more is looked for some times, and not for long.
#[test]
fn a_fall_that_lasts_is_believed() {
    let steps = steps(&[2000, 500, 500, 500], 15);
    let outcome = go(&Scenario::new(Capacity::Steps(steps), secs(60)));
    between(utilisation(outcome.between(16.0, 60.0)), 0.9, 1.0, "use");
    between(queue(outcome.between(16.0, 30.0)).p95, 19.2, 60.0, "queue");
    between(queue(outcome.between(30.0, 60.0)).p95, 19.2, 45.0, "queue");
}

#[test]
fn late_feedback_and_a_long_way_are_borne() {
    for (feedback, one_way) in [(5, 20), (100, 20), (200, 20), (50, 2), (50, 100)] {
        let mut scenario = Scenario::new(constant(2000), secs(60));
        scenario.feedback = Duration::from_millis(feedback);
        scenario.one_way = Duration::from_millis(one_way);
        let outcome = go(&scenario);
        between(utilisation(&outcome.bins), 0.85, 1.0, "use");
        between(outcome.queue().p95, 4.8, 60.0, "queue, ms");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut scenario = Scenario::new(constant(2000), secs(10));
    scenario.loss = Loss::Random(Ratio::clamped(0.05));
    let targets = |seed| {
        let scenario = Scenario {
            seed,
            ..scenario.clone()
        };
        let bins = go(&scenario).bins;
        bins.iter()
            .map(|bin| bin.flows[0].target)
            .collect::<Vec<_>>()
    };
    assert_eq!(targets(1), targets(1));
    assert_ne!(targets(1), targets(2));
}
