// SPDX-License-Identifier: MPL-2.0
//! Requests for packets, and what comes of them.

use crate::common::*;
use gst::prelude::*;

const DO: &str = "do-retransmission=true rtx-hedge=false";

/// Packets of a frame.
const SIZE: u16 = 10;

fn number(n: u32) -> u16 {
    n as u16 * SIZE
}

fn packets(n: u32) -> Vec<Packet> {
    frame(number(n), SIZE, n)
}

/// 30 frames have come.
fn running(properties: &str) -> Fixture {
    let mut f = Fixture::new(&format!("{DO} {properties}"));
    for n in 0..30 {
        f.push_all(due_us(n), &packets(n));
    }
    f.until_out(300);
    f.out.clear();
    f.up.clear();
    f
}

fn requests(f: &Fixture) -> Vec<gst::Structure> {
    f.up.named(RTX)
}

fn asked(f: &Fixture) -> Vec<u32> {
    let seq = |s: &gst::Structure| s.get("seqnum").unwrap();
    requests(f).iter().map(seq).collect()
}

fn when_us(request: &gst::Structure) -> u64 {
    request.get::<u64>("running-time").unwrap() / 1000
}

/// Loses the first packet of a frame; so many of the others come.
fn lose(f: &mut Fixture, n: u32, others: usize) {
    f.push_all(due_us(n), &packets(n)[1..=others]);
}

/// The first packet is sent again; the others have come.
fn answer(f: &mut Fixture, us: u64, n: u32) {
    let packet = Packet {
        retransmitted: true,
        ..packets(n)[0].clone()
    };
    f.push(us, &packet);
}

/// An FEC decoder makes it.
fn recover(f: &mut Fixture, us: u64, n: u32) {
    let packet = Packet {
        recovered: true,
        ..packets(n)[0].clone()
    };
    f.push(us, &packet);
}

const ALL: usize = SIZE as usize - 1;

#[test]
fn the_end_of_a_frame_is_asked_for_after_a_moment() {
    let mut f = running("");
    f.push_all(due_us(30), &packets(30)[..9]);
    f.until_waiting(due_us(30) + 5000, 0);
    assert!(asked(&f).is_empty());
    f.set_us(due_us(30) + 5000);
    f.until("a request", |f| asked(f) == [309]);
    assert_eq!(f.stat("rtx-count"), 1);
}

#[test]
fn the_first_later_packet_says_that_one_is_lost() {
    let mut f = running("");
    lose(&mut f, 30, 1);
    f.until("a request", |f| asked(f) == [300]);
    assert_eq!(when_us(&requests(&f)[0]), due_us(30));
}

#[test]
fn as_many_later_packets_as_wished_say_that_one_is_lost() {
    let mut f = running("rtx-delay-reorder=3");
    lose(&mut f, 30, 2);
    // The end of the frame would be asked for then.
    f.until_waiting(due_us(30) + 5000, 0);
    assert!(asked(&f).is_empty());
    f.push(due_us(30) + 2000, &packets(30)[3]);
    f.until("a request", |f| asked(f) == [300]);
    let request = &requests(&f)[0];
    assert_eq!(when_us(request), due_us(30) + 2000);
    assert_eq!(request.get("delay"), Ok(2u32));
    assert_eq!(request.get("retry"), Ok(0u32));
    for field in ["frequency", "period", "avg-rtt"] {
        request.get::<u32>(field).unwrap();
    }
    request.get::<u64>("packet-spacing").unwrap();
    let deadline: u32 = request.get("deadline").unwrap();
    assert_near(deadline.into(), 200 - 2, 1, "how long it is of use");
    assert_eq!(f.stat("rtx-count"), 1);
}

#[test]
fn after_some_time_a_packet_is_asked_for_anyway() {
    for (properties, ms) in [
        ("rtx-delay-reorder=0", 10),
        ("rtx-min-delay=40", 40),
        ("rtx-delay-reorder=0 rtx-min-delay=40", 40),
        ("rtx-delay-reorder=0 rtx-min-delay=3", 10),
        ("rtx-delay-reorder=20", 10),
    ] {
        let mut f = running(properties);
        lose(&mut f, 30, ALL);
        f.step_until("a request", |f| asked(f) == [300]);
        assert_eq!(when_us(&requests(&f)[0]), due_us(30) + ms * 1000);
    }
}

#[test]
fn how_many_later_packets_is_a_property() {
    for (count, later) in [(1, 1), (2, 2), (3, 3)] {
        let mut f = running(&format!("rtx-delay-reorder={count} rtx-min-delay=50"));
        lose(&mut f, 30, later);
        f.until("a request", |f| asked(f) == [300]);
        assert_eq!(when_us(&requests(&f)[0]), due_us(30), "{count}: at once");
    }
    let mut f = running("rtx-delay-reorder=0");
    lose(&mut f, 30, ALL);
    f.step_until("a request", |f| asked(f) == [300]);
    assert_eq!(when_us(&requests(&f)[0]), due_us(30) + 10_000);
}

#[test]
fn nothing_is_asked_for_without_the_property() {
    let mut f = Fixture::new("do-lost=true");
    f.push_all(due_us(0), &packets(0));
    f.push_all(due_us(1), &packets(1)[2..]);
    f.set_us(due_us(1) + 210_500);
    f.until_out(18);
    assert!(asked(&f).is_empty());
    assert_eq!(f.out.named(LOST).len(), 2);
    assert_eq!(f.stat("rtx-count"), 0);
}

/// The streaming thread may wait for the sink for long.
#[test]
fn packets_are_asked_for_while_the_sink_is_busy() {
    let mut f = running("");
    f.out.close();
    f.push_all(due_us(30), &packets(30));
    f.until_out(1);
    lose(&mut f, 31, 9);
    f.until("a request", |f| asked(f) == [310]);
    lose(&mut f, 35, 1);
    f.set_us(due_us(35) + 10_000);
    f.until("requests by time", |f| asked(f).contains(&350));
    assert_eq!(f.out.count(), 1, "the sink is still busy");
    f.out.open();
    f.until_out(10);
}

#[test]
fn an_answer_fills_the_gap_and_says_how_long_it_takes() {
    let f = with_round_trip("do-lost=true");
    let expected: Vec<_> = (300..700).collect();
    assert_eq!(f.out.seqs(), expected);
    assert!(f.out.named(LOST).is_empty());
    assert_eq!(f.stat("rtx-count"), 20);
    assert_eq!(f.stat("rtx-success-count"), 20);
    assert_near(f.stat_us("rtx-rtt"), 40_000, 100, "from request to answer");
    assert_eq!(f.stats().get("rtx-per-packet"), Ok(1.0));
    assert_eq!(f.stat("num-lost"), 0);
    assert_eq!(f.stat("num-reordered"), 0);
    let rtt: u32 = requests(&f)[19].get("avg-rtt").unwrap();
    assert_near(rtt.into(), 40, 1, "told upstream in ms");
}

/// In frames 30 to 70 a packet of each other one was lost, and came 40 ms after
/// it was asked for.
fn with_round_trip(properties: &str) -> Fixture {
    let mut f = running(properties);
    for n in (30..70).step_by(2) {
        let before = requests(&f).len();
        lose(&mut f, n, ALL);
        f.until("a request", |f| requests(f).len() == before + 1);
        f.push_all(due_us(n + 1), &packets(n + 1));
        answer(&mut f, due_us(n) + 40_000, n);
        f.until_out(usize::from(number(n - 28)));
    }
    f
}

/// Until all of a frame has left that lacks a packet.
fn step_until_given_up(f: &Fixture) {
    let before = f.out.count();
    f.step_until("all but one", |f| f.out.count() == before + ALL);
}

#[test]
fn requests_are_repeated_while_an_answer_is_in_time() {
    let mut f = with_round_trip("max-latency=50");
    f.up.clear();
    lose(&mut f, 70, ALL);
    let deadline = due_us(70) + 200_000;
    step_until_given_up(&f);
    assert_near(f.clock.time().useconds(), deadline, 500, "given up then");
    let all = requests(&f);
    assert!((3..=4).contains(&all.len()), "{}", all.len());
    for (n, request) in all.iter().enumerate() {
        assert_eq!(request.get("seqnum"), Ok(700u32));
        assert_eq!(request.get("retry"), Ok(n as u32));
        let left: u32 = request.get("deadline").unwrap();
        assert!(left >= 40, "{left} ms are too few for an answer");
        assert!(when_us(request) + 40_000 <= deadline + 500);
    }
    for pair in all.windows(2) {
        let apart = when_us(&pair[1]) - when_us(&pair[0]);
        assert!((40_000..60_000).contains(&apart), "{apart} us");
    }
    assert_eq!(f.stat("num-lost"), 1);
}

#[test]
fn retries_are_limited_by_the_property() {
    for retries in 0..2 {
        let mut f = with_round_trip(&format!("rtx-max-retries={retries}"));
        f.up.clear();
        lose(&mut f, 70, ALL);
        step_until_given_up(&f);
        assert_eq!(asked(&f).len(), 1 + retries);
    }
}

/// The first comes too late, and says how long the next will take.
#[test]
fn a_slow_retransmission_is_waited_for_longer_than_latency() {
    let mut f = running("latency=10 max-latency=10 do-lost=true");
    for n in [30, 34, 38] {
        lose(&mut f, n, ALL);
        f.until("a request", |f| asked(f).contains(&number(n).into()));
        for later in 1..4 {
            f.push_all(due_us(n + later), &packets(n + later));
            if n == 30 {
                f.until_out(ALL);
            }
        }
        answer(&mut f, due_us(n) + 100_000, n);
        f.until("nothing held", |f| f.stat("held-packets") == 0);
        assert_eq!(f.stat("num-lost"), 1);
    }
    assert_eq!(f.stat("num-late"), 1);
    assert_eq!(f.stat("rtx-success-count"), 2);
    assert_near(f.stat_us("rtx-rtt"), 100_000, 100, "also of the late one");
}

#[test]
fn what_could_not_be_repaired_twice_in_time_is_asked_for_twice() {
    let mut f = running("rtx-hedge=true");
    lose(&mut f, 30, ALL);
    f.until("a request", |f| asked(f) == [300]);
    answer(&mut f, due_us(30) + 80_000, 30);
    for n in 31..34 {
        f.push_all(due_us(n).max(due_us(30) + 80_000), &packets(n));
    }
    f.until_out(40);
    f.up.clear();
    lose(&mut f, 34, ALL);
    f.step_until("two requests", |f| asked(f) == [340, 340]);
    let apart = when_us(&requests(&f)[1]) - when_us(&requests(&f)[0]);
    assert_near(apart, 10_000, 100, "an eighth of the round trip");
}

#[test]
fn what_fec_has_made_is_not_asked_for() {
    let mut f = running("rtx-min-delay=10");
    lose(&mut f, 30, ALL);
    recover(&mut f, due_us(30) + 5000, 30);
    f.until_out(10);
    assert_eq!(f.stat("fec-count"), 1);
    // Another one is, and only that.
    lose(&mut f, 31, ALL);
    f.step_until("a request", |f| asked(f) == [310]);
    // It counts even if it was asked for meanwhile.
    recover(&mut f, due_us(31) + 15_000, 31);
    f.until_out(20);
    assert_eq!(f.stat("fec-count"), 2);
    assert_eq!(f.stat("rtx-success-count"), 0);
    assert_eq!(f.stat("rtx-rtt"), 0);
    assert_eq!(f.stat("num-reordered"), 0);
}

#[test]
fn while_packets_overtake_each_other_more_patience_is_shown() {
    let mut f = running("");
    // Of each frame one packet is overtaken by all others.
    for n in 30..60 {
        lose(&mut f, n, ALL);
        f.push(due_us(n) + 30_000, &packets(n)[0]);
        f.until_out(usize::from(number(n - 29)));
    }
    f.up.clear();
    lose(&mut f, 60, ALL);
    f.step_until("a request", |f| !asked(f).is_empty());
    let after = when_us(&requests(&f)[0]) - due_us(60);
    assert!((30_000..60_000).contains(&after), "{after} us");
}

#[test]
fn the_property_can_be_set_while_playing() {
    let mut f = running("");
    f.element.set_property("do-retransmission", false);
    lose(&mut f, 30, ALL);
    f.set_us(due_us(30) + 200_500);
    f.until_out(ALL);
    f.element.set_property("do-retransmission", true);
    lose(&mut f, 34, ALL);
    f.until("a request", |f| !asked(f).is_empty());
    assert!(!asked(&f).contains(&300));
}
