// SPDX-License-Identifier: MPL-2.0
use super::*;
use dualstream_common::ExtSeq;

/// 8000 bits.
const PACKET: DataSize = DataSize::from_bytes(1000);

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn kbps(rate: u64) -> Bitrate {
    Bitrate::from_kbps(rate)
}

/// At 1 Mbit/s, with much more allowed and wanted.
fn situation() -> Situation {
    Situation {
        target: kbps(1000),
        max: kbps(50_000),
        wanted: kbps(50_000),
        limited_since: None,
        queue_at: None,
    }
}

fn limited() -> Situation {
    Situation {
        limited_since: Some(ms(0)),
        ..situation()
    }
}

/// Past the two probes at the start, at time 0, and with money to spend.
fn begun(situation: &Situation) -> Prober {
    let mut prober = Prober::new(true);
    prober.process(ms(0), situation);
    while prober.next().is_some() {}
    earn(&mut prober, situation);
    prober
}

fn earn(prober: &mut Prober, situation: &Situation) {
    for _ in 0..1000 {
        prober.sent(PACKET, situation.target, false);
    }
}

/// Packets of a cluster, so many us apart when sent and when they arrive.
fn packets(id: u32, count: u64, sent_us: u64, arrival_us: u64) -> Vec<Received> {
    (0..count)
        .map(|n| Received {
            seq: ExtSeq::new(n),
            sent: Timestamp::from_nanos(1_000_000_000 + n * sent_us * 1000),
            arrival: RemoteTime::from_nanos(7_000_000_000 + n * arrival_us * 1000),
            size: PACKET,
            probe: Some(id),
            sent_up_to: DataSize::ZERO,
        })
        .collect()
}

/// What a cluster asked for at 1.8 Mbit/s shows.
fn shown(count: u64, sent_us: u64, arrival_us: u64) -> Option<Shown> {
    let mut prober = Prober::new(true);
    prober.ask(ms(0), kbps(1800), Reason::Start, &situation());
    let id = prober.next().expect("it was asked for").id;
    let result = prober.results(&packets(id, count, sent_us, arrival_us));
    result.map(|(shown, _)| shown)
}

/// The next probe that is asked for while time passes in steps of 10 ms.
fn first_from(
    prober: &mut Prober,
    from_ms: u64,
    to_ms: u64,
    situation: &Situation,
) -> Option<(u64, ProbeCluster)> {
    (from_ms..to_ms).step_by(10).find_map(|at| {
        prober.process(ms(at), situation);
        prober.next().map(|cluster| (at, cluster))
    })
}

#[test]
fn two_clusters_at_the_start_at_three_and_six_times_the_rate() {
    let mut prober = Prober::new(true);
    let start = Situation {
        target: kbps(300),
        ..situation()
    };
    prober.process(ms(0), &start);
    let clusters: Vec<ProbeCluster> = std::iter::from_fn(|| prober.next()).collect();
    let rates: Vec<Bitrate> = clusters.iter().map(|c| c.bitrate).collect();
    assert_eq!(rates, [kbps(900), kbps(1800)]);
    assert!(clusters.iter().all(|c| c.reason == Reason::Start));
    assert!(
        clusters
            .iter()
            .all(|c| c.packets == 5 && c.duration == DURATION)
    );
    assert_ne!(clusters[0].id, clusters[1].id);
    prober.process(ms(10), &start);
    assert_eq!(prober.next(), None, "once");
}

#[test]
fn who_does_not_probe_asks_for_nothing() {
    let mut prober = Prober::new(false);
    earn(&mut prober, &limited());
    assert_eq!(first_from(&mut prober, 0, 30_000, &limited()), None);
    prober.after_silence(ms(30_000), kbps(9000), &situation());
    assert_eq!(prober.next(), None);
}

#[test]
fn no_probe_is_above_the_maximum_or_twice_what_is_wanted() {
    let near = Situation {
        max: kbps(2000),
        ..situation()
    };
    let mut prober = Prober::new(true);
    prober.process(ms(0), &near);
    assert_eq!(prober.next().map(|c| c.bitrate), Some(kbps(2000)));
    assert_eq!(prober.next().map(|c| c.bitrate), Some(kbps(2000)));
    let modest = Situation {
        wanted: kbps(1200),
        ..situation()
    };
    let mut prober = Prober::new(true);
    prober.process(ms(0), &modest);
    assert_eq!(prober.next().map(|c| c.bitrate), Some(kbps(2400)));
    let there = Situation {
        max: kbps(1000),
        ..situation()
    };
    let mut prober = Prober::new(true);
    prober.process(ms(0), &there);
    assert_eq!(prober.next(), None, "there is nothing above the maximum");
}

/// 4 ms apart: 2 Mbit/s between the first and the last.
#[test]
fn a_cluster_that_comes_through_shows_its_rate() {
    let shown = shown(5, 4000, 4000).expect("it is valid");
    assert_eq!(shown.rate, kbps(2000));
    assert!(!shown.full);
}

#[test]
fn the_slower_of_sending_and_receiving_counts() {
    assert_eq!(shown(5, 4000, 3800).map(|s| s.rate), Some(kbps(2000)));
    // 4.2 ms: 1.905 Mbit/s, above 90 %.
    let slower = shown(5, 4000, 4200).expect("it is valid");
    assert_eq!(slower.rate.as_kbps(), 1905);
    assert!(!slower.full);
}

#[test]
fn a_cluster_that_comes_slower_than_it_was_sent_has_filled_the_link() {
    // 5 ms: 1.6 Mbit/s, and 95 % of it.
    let full = shown(5, 4000, 5000).expect("it is valid");
    assert_eq!((full.rate, full.full), (kbps(1520), true));
}

#[test]
fn a_cluster_of_too_few_packets_or_bytes_shows_nothing() {
    assert_eq!(shown(3, 4000, 4000), None, "3 of 5 packets");
    assert!(shown(4, 4000, 4000).is_some(), "80 % are enough");
    let mut prober = Prober::new(true);
    prober.ask(ms(0), kbps(9000), Reason::Start, &situation());
    // 15 ms at 9 Mbit/s are 16.9 kB; 80 % are 13.5.
    assert_eq!(prober.results(&packets(1, 13, 900, 900)), None);
    let mut prober = Prober::new(true);
    prober.ask(ms(0), kbps(9000), Reason::Start, &situation());
    assert!(prober.results(&packets(1, 14, 900, 900)).is_some());
}

/// It was held up somewhere and let go at once.
#[test]
fn a_cluster_received_more_than_twice_as_fast_shows_nothing() {
    assert_eq!(shown(5, 4000, 1990), None);
    assert_eq!(shown(5, 4000, 2010).map(|s| s.rate), Some(kbps(2000)));
}

#[test]
fn spans_below_a_millisecond_and_above_a_second_show_nothing() {
    assert_eq!(shown(5, 0, 4000), None, "sent at once");
    assert_eq!(shown(5, 4000, 0), None, "received at once");
    assert_eq!(shown(4, 4000, 334_000), None, "received over 1002 ms");
    assert!(shown(4, 4000, 333_000).is_some());
    assert_eq!(shown(4, 334_000, 330_000), None, "sent over 1002 ms");
    assert!(shown(4, 333_000, 330_000).is_some());
}

#[test]
fn the_order_of_the_packets_does_not_matter() {
    let mut prober = Prober::new(true);
    prober.ask(ms(0), kbps(1800), Reason::Start, &situation());
    let mut packets = packets(1, 5, 4000, 4200);
    packets.reverse();
    let (shown, _) = prober.results(&packets).expect("it is valid");
    assert_eq!(shown.rate.as_kbps(), 1905);
}

#[test]
fn a_cluster_may_be_told_of_in_several_messages() {
    let mut prober = Prober::new(true);
    prober.ask(ms(0), kbps(1800), Reason::Start, &situation());
    let packets = packets(1, 5, 4000, 4000);
    assert_eq!(prober.results(&packets[..3]), None);
    let (shown, reason) = prober.results(&packets[3..]).expect("now it is enough");
    assert_eq!((shown.rate, reason), (kbps(2000), Reason::Start));
}

#[test]
fn packets_of_no_cluster_or_an_unknown_one_show_nothing() {
    let mut prober = Prober::new(true);
    prober.ask(ms(0), kbps(1800), Reason::Start, &situation());
    assert_eq!(prober.results(&packets(77, 5, 4000, 4000)), None);
    let mut media = packets(1, 5, 4000, 4000);
    for packet in &mut media {
        packet.probe = None;
    }
    assert_eq!(prober.results(&media), None);
}

#[test]
fn it_goes_on_at_twice_what_was_shown_while_that_is_enough() {
    let mut prober = begun(&situation());
    // The last one asked for 6 Mbit/s; 70 % of it are 4.2.
    let result = |rate, full| Shown {
        id: 2,
        rate: kbps(rate),
        full,
    };
    prober.go_on(ms(100), result(4100, false), &situation());
    assert_eq!(prober.next(), None, "too little was shown");
    prober.go_on(ms(100), result(5900, true), &situation());
    assert_eq!(prober.next(), None, "the link was full");
    prober.go_on(ms(100), result(5900, false), &situation());
    let next = prober.next().expect("there may be more");
    assert_eq!((next.bitrate, next.reason), (kbps(11_800), Reason::Further));
    prober.go_on(ms(200), result(11_000, false), &situation());
    assert_eq!(
        prober.next().map(|c| c.bitrate),
        Some(kbps(22_000)),
        "and so on"
    );
}

#[test]
fn a_result_that_comes_too_late_is_not_gone_on_from() {
    let mut prober = begun(&situation());
    let shown = Shown {
        id: 2,
        rate: kbps(5900),
        full: false,
    };
    prober.go_on(ms(1001), shown, &situation());
    assert_eq!(prober.next(), None);
}

#[test]
fn while_the_application_limits_it_probes_every_five_seconds() {
    let mut prober = begun(&limited());
    let mut times = Vec::new();
    for at in (0..21_000).step_by(10) {
        prober.process(ms(at), &limited());
        earn(&mut prober, &limited());
        if let Some(cluster) = prober.next() {
            assert_eq!(cluster.reason, Reason::Limited);
            assert_eq!(cluster.bitrate, kbps(2000));
            times.push(at);
        }
    }
    assert_eq!(times, [5000, 10_000, 15_000, 20_000]);
}

/// Whether the rate is still there, not whether there is more.
#[test]
fn who_wants_no_more_probes_for_the_rate_itself() {
    let content = Situation {
        wanted: kbps(1000),
        ..limited()
    };
    let mut prober = begun(&content);
    let (_, cluster) = first_from(&mut prober, 10, 6000, &content).expect("after 5 s");
    assert_eq!(cluster.bitrate, kbps(1000));
}

#[test]
fn a_probe_at_no_rate_is_not_sent() {
    let paused = Situation {
        wanted: Bitrate::ZERO,
        ..limited()
    };
    let mut prober = begun(&paused);
    assert_eq!(first_from(&mut prober, 10, 30_000, &paused), None);
}

#[test]
fn a_probe_must_be_paid_for_by_media() {
    let mut prober = begun(&limited());
    // 100 ms of the rate were saved up, 12.5 kB; this leaves a debt of it.
    for _ in 0..25 {
        prober.sent(PACKET, kbps(1000), true);
    }
    assert_eq!(first_from(&mut prober, 10, 20_000, &limited()), None);
    // 5 % of 249 packets are 12.45 kB.
    for _ in 0..249 {
        prober.sent(PACKET, kbps(1000), false);
    }
    assert_eq!(first_from(&mut prober, 20_000, 21_000, &limited()), None);
    for _ in 0..2 {
        prober.sent(PACKET, kbps(1000), false);
    }
    assert!(first_from(&mut prober, 21_000, 22_000, &limited()).is_some());
}

#[test]
fn one_that_is_waited_for_keeps_others_back() {
    let mut prober = begun(&situation());
    let more = Situation {
        wanted: kbps(60_000),
        max: kbps(60_000),
        ..situation()
    };
    let found = first_from(&mut prober, 10, 5000, &more);
    assert_eq!(found, None, "the wish came while a result was waited for");
}

#[test]
fn when_more_is_wanted_a_probe_follows_at_once_and_on_credit() {
    let modest = Situation {
        wanted: kbps(1000),
        ..situation()
    };
    let mut prober = begun(&modest);
    assert_eq!(first_from(&mut prober, 10, 4000, &modest), None);
    for _ in 0..100 {
        prober.sent(PACKET, kbps(1000), true);
    }
    let more = Situation {
        wanted: kbps(1500),
        ..situation()
    };
    let (at, cluster) = first_from(&mut prober, 4000, 5000, &more).expect("at once");
    assert_eq!((at, cluster.reason), (4000, Reason::Wanted));
    assert_eq!(cluster.bitrate, kbps(1500), "no more than wanted");
}

#[test]
fn less_wanted_is_no_reason() {
    let mut prober = begun(&situation());
    let less = Situation {
        wanted: kbps(2000),
        ..situation()
    };
    assert_eq!(first_from(&mut prober, 2000, 4000, &less), None);
}

#[test]
fn a_second_after_a_fall_without_a_queue_the_rate_before_is_probed() {
    let mut prober = begun(&situation());
    first_from(&mut prober, 10, 2000, &situation());
    let fallen = Situation {
        target: kbps(600),
        ..situation()
    };
    let (at, cluster) = first_from(&mut prober, 2000, 5000, &fallen).expect("after a second");
    assert_eq!((at, cluster.reason), (3000, Reason::Drop));
    assert_eq!(cluster.bitrate, kbps(780), "1.3 times 600 is below 850");
    assert_eq!(first_from(&mut prober, 3010, 8000, &fallen), None, "once");
}

#[test]
fn after_a_fall_it_waits_for_the_queue_to_go_and_not_for_ever() {
    let fallen = |queue_at| Situation {
        target: kbps(600),
        queue_at: Some(ms(queue_at)),
        ..situation()
    };
    let mut prober = begun(&situation());
    first_from(&mut prober, 10, 2000, &situation());
    let (at, _) = first_from(&mut prober, 2000, 9000, &fallen(4500)).expect("then");
    assert_eq!(at, 5500);
    let mut prober = begun(&situation());
    first_from(&mut prober, 10, 2000, &situation());
    assert_eq!(first_from(&mut prober, 2000, 14_900, &fallen(11_500)), None);
}

#[test]
fn a_small_fall_is_none() {
    let mut prober = begun(&situation());
    first_from(&mut prober, 10, 2000, &situation());
    let less = Situation {
        target: kbps(670),
        ..situation()
    };
    assert_eq!(first_from(&mut prober, 2000, 8000, &less), None);
}

#[test]
fn a_rate_that_neither_grows_nor_meets_a_queue_is_probed() {
    let mut prober = begun(&situation());
    let (at, cluster) = first_from(&mut prober, 10, 20_000, &situation()).expect("in the end");
    assert_eq!((at, cluster.reason), (10_000, Reason::Stagnation));
    assert_eq!(cluster.bitrate, kbps(1500));
}

#[test]
fn a_queue_or_enough_is_reason_for_a_rate_not_to_grow() {
    let mut prober = begun(&situation());
    for at in (10..30_000).step_by(10) {
        let queue = Situation {
            queue_at: Some(ms(at - at % 4000)),
            ..situation()
        };
        prober.process(ms(at), &queue);
        assert_eq!(prober.next(), None);
    }
    let enough = Situation {
        wanted: kbps(1000),
        ..situation()
    };
    assert_eq!(first_from(&mut begun(&enough), 10, 30_000, &enough), None);
}

#[test]
fn after_silence_seven_tenths_of_the_rate_before_are_probed() {
    let mut prober = begun(&situation());
    prober.after_silence(ms(500), kbps(5000), &situation());
    assert_eq!(prober.next(), None, "a result is waited for");
    prober.process(ms(1500), &situation());
    prober.after_silence(ms(1500), kbps(5000), &situation());
    let cluster = prober.next().expect("the queue is gone");
    assert_eq!(
        (cluster.bitrate, cluster.reason),
        (kbps(3500), Reason::Silence)
    );
    prober.process(ms(3000), &situation());
    prober.after_silence(ms(3000), kbps(1000), &situation());
    assert_eq!(prober.next(), None, "700 kbit/s is there already");
}

/// The pacer may be full, or gone.
#[test]
fn probes_that_nobody_fetches_do_not_pile_up() {
    let mut prober = Prober::new(true);
    for n in 0..10_000 {
        let more = Situation {
            wanted: kbps(50_000 + n),
            max: kbps(100_000),
            ..situation()
        };
        prober.process(ms(n * 2000), &more);
        assert!(prober.remembered() <= 2 * MOST_CLUSTERS);
    }
    let newest = std::iter::from_fn(|| prober.next()).last().map(|c| c.id);
    assert_eq!(newest, Some(prober.next_id - 1), "the oldest ones go");
}
