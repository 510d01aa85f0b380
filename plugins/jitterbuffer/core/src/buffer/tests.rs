// SPDX-License-Identifier: MPL-2.0
use super::*;
use crate::{Config, ModelKind, Part};

mod outage;

const FRAME: u32 = 3000;
const SIZE: DataSize = DataSize::from_bytes(1000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

const DELTA: Part = Part {
    begins: true,
    key: false,
    reference: true,
};
const KEY: Part = Part { key: true, ..DELTA };
const DISPOSABLE: Part = Part {
    reference: false,
    ..DELTA
};

/// Frames of three packets: the data is the sequence number.
fn packet(sequence: u16) -> Packet<u16> {
    let frame = u32::from(sequence / 3);
    Packet {
        sequence,
        timestamp: frame * FRAME,
        marker: sequence % 3 == 2,
        size: SIZE,
        origin: Origin::Network,
        part: DELTA,
        number: None,
        hidden: false,
        data: sequence,
    }
}

struct Rig {
    timing: Timing,
    buffer: JitterBuffer<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Out(u16),
    /// With DISCONT.
    Gap(u16),
    Lost(u16, u16),
    Key,
}
use Event::{Gap, Key, Lost as Gone, Out as Came};

impl Rig {
    fn new(config: BufferConfig) -> Self {
        let mut timing = Timing::new(ModelKind::Adaptive, Config::default()).unwrap();
        let buffer = JitterBuffer::new(config, &mut timing);
        Self { timing, buffer }
    }

    fn push(&mut self, now: Timestamp, packet: Packet<u16>) -> Result<(), Rejected> {
        self.buffer.push(now, packet, &mut self.timing)
    }

    fn all(&mut self, now: Timestamp, sequences: impl IntoIterator<Item = u16>) {
        for sequence in sequences {
            self.push(now, packet(sequence)).unwrap();
        }
    }

    /// Events, and what comes after them.
    fn poll(&mut self, now: Timestamp) -> (Vec<Event>, Next<u16>) {
        let mut events = Vec::new();
        loop {
            events.push(match self.buffer.poll(now, &self.timing) {
                Next::Packet(out) if out.discont => Gap(out.data),
                Next::Packet(out) => Came(out.data),
                Next::Lost(lost) => Gone(lost.sequence, lost.count),
                Next::AskForKeyFrame => Key,
                next => return (events, next),
            });
        }
    }

    fn out(&mut self, now: Timestamp) -> Vec<Event> {
        self.poll(now).0
    }

    fn requests(&mut self, now: Timestamp) -> (Vec<(u16, u32)>, NextRequest) {
        let mut asked = Vec::new();
        loop {
            match self.buffer.next_request(now, &self.timing) {
                NextRequest::Ask(request) => asked.push((request.sequence, request.retry)),
                next => return (asked, next),
            }
        }
    }
}

fn with_requests() -> BufferConfig {
    BufferConfig {
        request: RequestConfig {
            enabled: true,
            ..RequestConfig::default()
        },
        ..BufferConfig::default()
    }
}

#[test]
fn a_frame_leaves_when_it_is_whole() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(0), [0, 1]);
    assert_eq!(rig.out(at(0)), []);
    rig.all(at(5), [2, 3, 4]);
    assert_eq!(rig.out(at(5)), [Gap(0), Came(1), Came(2)]);
    rig.all(at(38), [5]);
    assert_eq!(rig.out(at(38)), [Came(3), Came(4), Came(5)]);
    assert_eq!(rig.timing.stats().frames, 2);
    assert_eq!(rig.poll(at(99)), (vec![], Next::Idle));
}

#[test]
fn order_is_restored_and_the_first_may_come_late() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(0), [1, 0, 2, 5, 3, 8, 4]);
    let out = rig.out(at(0));
    assert_eq!(out, [Gap(0), Came(1), Came(2), Came(3), Came(4), Came(5)]);
    rig.all(at(0), [7, 6]);
    assert_eq!(rig.out(at(0)), [Came(6), Came(7), Came(8)]);
    assert_eq!(rig.buffer.stats().reordered, 4, "3, 4, 7 and 6");
    assert_eq!(rig.timing.stats().frames, 3);
    assert_eq!(rig.push(at(9), packet(4)), Err(Rejected::Late));
    rig.all(at(9), [9]);
    assert_eq!(rig.push(at(9), packet(9)), Err(Rejected::Duplicate));
}

#[test]
fn without_markers_the_next_time_stamp_ends_a_frame() {
    let mut rig = Rig::new(BufferConfig::default());
    let plain = |sequence| Packet {
        marker: false,
        ..packet(sequence)
    };
    for sequence in 0..4 {
        rig.push(at(0), plain(sequence)).unwrap();
    }
    assert_eq!(rig.out(at(0)), [Gap(0), Came(1), Came(2)]);
    assert_eq!(rig.timing.stats().frames, 1);
    // The last one, due at 33 ms, goes when nothing follows for as long as is
    // held.
    let due = at(33) + std::time::Duration::from_nanos(333_333);
    let until = due + std::time::Duration::from_millis(200);
    assert_eq!(rig.poll(at(1)), (vec![], Next::WaitUntil(until)));
    assert_eq!(rig.out(until), [Came(3)]);
    rig.push(at(240), plain(4)).unwrap();
    assert_eq!(rig.out(at(240)), [Came(4)], "of the same frame, at once");
    assert_eq!(rig.buffer.stats().lost, 0);
}

#[test]
fn packets_behind_the_marker_are_no_frame() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(0), [0, 1, 2]);
    let fec = Packet {
        timestamp: 0,
        marker: false,
        ..packet(3)
    };
    rig.push(at(30), fec).unwrap();
    rig.push(at(33), packet(4)).unwrap();
    let out = rig.out(at(33));
    assert_eq!(out, [Gap(0), Came(1), Came(2), Came(3)]);
    assert_eq!(rig.timing.stats().frames, 1);
}

#[test]
fn audio_packets_go_one_by_one() {
    let mut rig = Rig::new(BufferConfig {
        assembly: Assembly::Packets,
        clock_rate: 48_000,
        ..BufferConfig::default()
    });
    let audio = |sequence: u16| Packet {
        timestamp: u32::from(sequence) * 480,
        marker: false,
        ..packet(sequence)
    };
    for n in [0u16, 1, 3] {
        rig.push(at(u64::from(n) * 10), audio(n)).unwrap();
    }
    let (out, next) = rig.poll(at(30));
    assert_eq!(out, [Gap(0), Came(1)]);
    let Next::WaitUntil(deadline) = next else {
        panic!("{next:?}");
    };
    assert!(deadline.since(at(230)) < ms(1) && at(231).since(deadline) > ms(0));
    rig.push(at(40), audio(2)).unwrap();
    assert_eq!(rig.out(at(40)), [Came(2), Came(3)]);
    rig.push(at(50), audio(5)).unwrap();
    assert_eq!(rig.out(at(251)), [Gone(4, 1), Gap(5)]);
    assert_eq!(rig.timing.stats().frames, 5);
}

#[test]
fn a_gap_is_given_up_at_the_deadline_of_the_frame_behind_it() {
    let mut rig = Rig::new(BufferConfig::default());
    for frame in 0..4u16 {
        let now = at(1000 + u64::from(frame) * 33);
        rig.all(now, (frame * 3..frame * 3 + 3).filter(|n| *n != 4));
    }
    let (out, next) = rig.poll(at(1100));
    assert_eq!(out, [Gap(0), Came(1), Came(2)]);
    let Next::WaitUntil(deadline) = next else {
        panic!("{next:?}");
    };
    // Frame 1 at 1033, and 200 ms.
    assert!(deadline.since(at(1233)) < ms(2), "{deadline:?}");
    assert_eq!(rig.out(at(1232)), []);
    assert_eq!(
        rig.out(deadline),
        [
            Came(3),
            Gone(4, 1),
            Gap(5),
            Came(6),
            Came(7),
            Came(8),
            Came(9),
            Came(10),
            Came(11)
        ]
    );
    assert_eq!(rig.push(at(1240), packet(4)), Err(Rejected::Late));
    let stats = rig.buffer.stats();
    assert_eq!((stats.lost, stats.late, stats.pushed), (1, 1, 11));
    assert_eq!(
        rig.timing.stats().frames,
        3,
        "the broken one is not counted"
    );
}

#[test]
fn whole_frames_may_be_lost() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(0), [0, 1, 2]);
    rig.all(at(100), [9, 10, 11]);
    assert_eq!(rig.out(at(150)), [Gap(0), Came(1), Came(2)]);
    assert_eq!(rig.out(at(301)), [Gone(3, 6), Gap(9), Came(10), Came(11)]);
}

#[test]
fn a_frame_that_is_slow_is_not_given_up() {
    let mut rig = Rig::new(BufferConfig {
        wait_for_key: true,
        ..BufferConfig::default()
    });
    for n in 0..20u16 {
        let slow = Packet {
            timestamp: 0,
            marker: n == 19,
            part: KEY,
            ..packet(n)
        };
        rig.push(at(u64::from(n) * 50), slow).unwrap();
        let count = rig.out(at(u64::from(n) * 50)).len();
        assert_eq!(count, if n == 19 { 20 } else { 0 });
    }
}

#[test]
fn after_a_loss_nothing_undecodable_leaves_if_so_wished() {
    let mut rig = Rig::new(BufferConfig {
        wait_for_key: true,
        ..BufferConfig::default()
    });
    let of = |sequence: u16, part: Part| Packet {
        part,
        ..packet(sequence)
    };
    let frame = |rig: &mut Rig, now: u64, first: u16, part, lost: &[u16]| {
        for n in (first..first + 3).filter(|n| !lost.contains(n)) {
            rig.push(at(now), of(n, part)).unwrap();
        }
    };
    frame(&mut rig, 0, 0, DELTA, &[]);
    assert_eq!(rig.out(at(0)), [Key], "nothing to begin with");
    frame(&mut rig, 33, 3, KEY, &[]);
    assert_eq!(rig.out(at(33)), [Gap(3), Came(4), Came(5)]);
    // A lost part of a frame that nothing refers to costs that frame.
    frame(&mut rig, 66, 6, DISPOSABLE, &[7]);
    frame(&mut rig, 100, 9, DELTA, &[]);
    assert_eq!(rig.out(at(270)), [Gone(7, 1), Gap(9), Came(10), Came(11)]);
    // Of another one: all up to the next key frame.
    frame(&mut rig, 300, 12, DELTA, &[13]);
    frame(&mut rig, 333, 15, DELTA, &[]);
    let out = rig.out(at(510));
    assert!(out.contains(&Key) && out.contains(&Gone(13, 1)), "{out:?}");
    assert_eq!(out.len(), 2, "{out:?}");
    frame(&mut rig, 520, 18, DELTA, &[]);
    assert_eq!(rig.out(at(520)), []);
    frame(&mut rig, 1100, 21, DELTA, &[]);
    assert_eq!(rig.out(at(1100)), [Key], "again");
    frame(&mut rig, 1133, 24, KEY, &[]);
    assert_eq!(rig.out(at(1133)), [Gap(24), Came(25), Came(26)]);
    assert_eq!(rig.buffer.stats().undecodable, 3 + 2 + 2 + 3 + 3 + 3);
}

#[test]
fn lost_packets_are_asked_for_until_it_is_too_late() {
    let mut config = with_requests();
    config.request.reorder_packets = Some(3);
    let mut rig = Rig::new(config);
    rig.all(at(0), [0, 1, 2, 3, 5]);
    let (asked, next) = rig.requests(at(0));
    assert_eq!(asked, [], "one later packet is not enough");
    assert_eq!(next, NextRequest::WaitUntil(at(10)));
    rig.all(at(1), [6, 7, 8]);
    assert_eq!(rig.requests(at(1)).0, [(4, 0)], "three are");
    // 100 ms at first.
    assert_eq!(rig.requests(at(105)).0, []);
    assert_eq!(rig.requests(at(107)).0, [(4, 1)]);
    let answer = |sequence| Packet {
        origin: Origin::Retransmission,
        ..packet(sequence)
    };
    rig.push(at(120), answer(4)).unwrap();
    assert_eq!(rig.buffer.stats().rtt, None, "which request was answered?");
    assert_eq!(rig.out(at(120)).len(), 9);
    assert_eq!(rig.requests(at(300)), (vec![], NextRequest::Idle));
    rig.all(at(130), [11, 12, 13, 14]);
    assert_eq!(rig.requests(at(140)).0, [(9, 0), (10, 0)]);
    rig.push(at(170), answer(9)).unwrap();
    assert_eq!(rig.buffer.stats().rtt, Some(ms(30)));
    // Again 105 ms after the first. Frame 3, which could have been here 65 ms
    // early, is waited for until 235.
    let (asked, next) = rig.requests(at(244));
    assert_eq!((asked, next), (vec![], NextRequest::WaitUntil(at(245))));
    assert_eq!(rig.requests(at(245)), (vec![], NextRequest::Idle));
    let stats = rig.buffer.stats();
    assert_eq!((stats.requests, stats.retransmitted), (4, 2));
    assert_eq!(stats.retransmitted_requests, 3);
}

#[test]
fn what_is_missing_before_the_first_that_came_is_asked_for() {
    let mut rig = Rig::new(with_requests());
    rig.all(at(0), [7, 4]);
    assert_eq!(rig.requests(at(10)).0, [(5, 0), (6, 0)]);
}

#[test]
fn while_packets_keep_their_order_a_gap_is_a_loss() {
    let mut rig = Rig::new(with_requests());
    rig.all(at(0), [0, 1, 2, 3, 5]);
    assert_eq!(rig.requests(at(0)).0, [(4, 0)]);
    // It came by itself: from now on some time is given.
    rig.all(at(12), [4]);
    rig.all(at(33), [6, 8]);
    let (asked, next) = rig.requests(at(33));
    assert_eq!(asked, []);
    let NextRequest::WaitUntil(due) = next else {
        panic!("{next:?}");
    };
    assert!((ms(12)..ms(25)).contains(&due.since(at(33))), "{due:?}");
}

#[test]
fn the_end_of_a_frame_is_asked_for_when_it_does_not_come() {
    let mut rig = Rig::new(with_requests());
    rig.all(at(0), [0, 1]);
    assert_eq!(rig.requests(at(50)).0, [], "are there markers?");
    rig.all(at(60), [2, 3]);
    let (asked, next) = rig.requests(at(60));
    assert_eq!((asked, next), (vec![], NextRequest::WaitUntil(at(65))));
    rig.all(at(64), [4]);
    // 4 ms, and six deviations, which were 2 ms and are less now.
    let (asked, next) = rig.requests(at(64));
    assert_eq!((asked, next), (vec![], NextRequest::WaitUntil(at(77))));
    assert_eq!(rig.requests(at(77)).0, [(5, 0)]);
    assert_eq!(rig.requests(at(190)), (vec![], NextRequest::Idle), "once");
    let answer = Packet {
        origin: Origin::Retransmission,
        ..packet(5)
    };
    rig.push(at(157), answer).unwrap();
    let stats = rig.buffer.stats();
    assert_eq!(stats.rtt, Some(ms(80)));
    assert_eq!((stats.requests, stats.retransmitted), (1, 1));
    // FEC behind a marker is no frame that goes on.
    let fec = Packet {
        marker: false,
        timestamp: FRAME,
        ..packet(6)
    };
    rig.push(at(158), fec).unwrap();
    assert_eq!(rig.requests(at(300)), (vec![], NextRequest::Idle));
}

#[test]
fn what_could_not_be_repaired_twice_in_time_is_asked_for_twice() {
    let ask = |hedge: bool, min_ms: u64| {
        let mut config = with_requests();
        config.request.hedge = hedge;
        let mut rig = Rig::new(config);
        let limits = Config {
            min_delay: ms(min_ms),
            ..Config::default()
        };
        rig.timing.configure(ModelKind::Adaptive, limits).unwrap();
        let frame = |rig: &mut Rig, n: u16| {
            let now = 1000 + u64::from(n) * 100 / 3;
            rig.all(at(now), n * 3..n * 3 + 3);
            rig.out(at(now));
            now
        };
        for n in 0..20 {
            frame(&mut rig, n);
        }
        // The round trip is 80 ms.
        for n in [20u16, 21] {
            let now = 1000 + u64::from(n) * 100 / 3;
            rig.all(at(now), [n * 3, n * 3 + 2]);
            assert_eq!(rig.requests(at(now)).0, [(n * 3 + 1, 0)]);
            let answer = Packet {
                origin: Origin::Retransmission,
                ..packet(n * 3 + 1)
            };
            if n == 20 {
                rig.push(at(now + 80), answer).unwrap();
                rig.out(at(now + 80));
            }
        }
        rig.requests(at(1700 + 10)).0
    };
    assert_eq!(ask(true, 0), [(64, 1)]);
    assert_eq!(ask(false, 0), []);
    assert_eq!(ask(true, 400), [], "there is time for both");
}

#[test]
fn the_count_of_retries_may_be_limited() {
    let mut config = with_requests();
    config.request.max_retries = Some(1);
    let mut rig = Rig::new(config);
    rig.all(at(0), [0, 1, 2, 4, 5, 6, 7, 8]);
    assert_eq!(rig.requests(at(0)).0, [(3, 0)]);
    assert_eq!(rig.requests(at(110)).0, [(3, 1)]);
    assert_eq!(rig.requests(at(220)), (vec![], NextRequest::Idle));
}

#[test]
fn after_a_long_gap_only_what_can_still_be_shown_is_asked_for() {
    let mut rig = Rig::new(with_requests());
    let now = |frame: u64| at(1000 + frame * 100 / 3);
    for frame in 0..10 {
        rig.all(now(frame), frame as u16 * 3..frame as u16 * 3 + 3);
        rig.out(now(frame));
    }
    // 10 frames are missing, 333 ms. The last 200 ms of them may come in time.
    rig.all(now(20), [60]);
    let asked = rig.requests(now(20)).0;
    assert!((16..=21).contains(&asked.len()), "{asked:?}");
    assert!(asked.iter().all(|(number, _)| *number > 38), "{asked:?}");
}

#[test]
fn what_fec_made_is_not_asked_for() {
    let mut rig = Rig::new(with_requests());
    let mut config = rig.buffer.config().to_owned();
    config.request.min_delay = ms(40);
    rig.buffer.configure(config);
    rig.all(at(0), [0, 1, 2, 4, 5]);
    assert_eq!(
        rig.requests(at(0)),
        (vec![], NextRequest::WaitUntil(at(40)))
    );
    rig.push(
        at(3),
        Packet {
            origin: Origin::Fec,
            ..packet(3)
        },
    )
    .unwrap();
    assert_eq!(rig.requests(at(50)), (vec![], NextRequest::Idle));
    let stats = rig.buffer.stats();
    assert_eq!((stats.fec_repaired, stats.reordered), (1, 0));
}

#[test]
fn a_network_that_reorders_is_given_time() {
    let mut rig = Rig::new(with_requests());
    let mut now = 0;
    // Each second packet is overtaken by the next ones, 20 ms.
    for pair in 0..60u16 {
        let first = pair * 2;
        rig.all(at(now), [first + 1]);
        rig.all(at(now + 20), [first]);
        rig.out(at(now + 20));
        now += 25;
    }
    rig.all(at(now), [121, 122, 123, 124, 125]);
    let (asked, next) = rig.requests(at(now));
    assert_eq!(asked, []);
    let NextRequest::WaitUntil(due) = next else {
        panic!("{next:?}");
    };
    assert!((ms(19)..ms(25)).contains(&due.since(at(now))), "{due:?}");
    assert_eq!(rig.requests(at(now + 25)).0, [(120, 0)]);
}

fn answer(sequence: u16) -> Packet<u16> {
    Packet {
        origin: Origin::Retransmission,
        ..packet(sequence)
    }
}

/// It has learnt that a request takes 80 ms.
fn with_round_trip(config: BufferConfig) -> Rig {
    let mut rig = Rig::new(config);
    rig.all(at(1000), [0, 1, 2]);
    rig.out(at(1000));
    rig.all(at(1001), [4, 5, 6, 7]);
    assert_eq!(
        rig.requests(at(1001)).0,
        [(3, 0)],
        "the first is always asked for"
    );
    rig.push(at(1081), answer(3)).unwrap();
    rig.out(at(1081));
    rig
}

#[test]
fn a_round_trip_is_waited_for_though_hold_is_shorter() {
    let mut config = with_requests();
    config.hold = ms(20);
    let mut rig = with_round_trip(config);
    rig.all(at(1100), [8, 10, 11, 12, 13]);
    rig.out(at(1100));
    assert_eq!(rig.requests(at(1100)).0, [(9, 0)]);
    // Frame 3 is due at 1100; the round trip takes 80 ms.
    assert_eq!(rig.out(at(1180)), []);
    rig.push(at(1181), answer(9)).unwrap();
    assert_eq!(rig.out(at(1181)), [Came(9), Came(10), Came(11)]);
}

#[test]
fn the_answer_to_a_third_request_is_waited_for() {
    let mut config = with_requests();
    config.hold = ms(20);
    config.request.hedge = false;
    let mut rig = with_round_trip(config);
    rig.all(at(1100), [8, 10, 11, 12, 13, 14]);
    rig.out(at(1100));
    assert_eq!(rig.requests(at(1100)).0, [(9, 0)]);
    // Two answers are lost on their way.
    let mut now = at(1101);
    for retry in 1..3 {
        let NextRequest::WaitUntil(again) = rig.requests(now).1 else {
            panic!("not asked for again");
        };
        assert_eq!(rig.out(again), []);
        assert_eq!(rig.requests(again).0, [(9, retry)]);
        now = again + ms(1);
    }
    now = now + ms(79);
    assert_eq!(rig.out(now), []);
    rig.push(now, answer(9)).unwrap();
    let out = rig.out(now);
    assert_eq!(out[..3], [Came(9), Came(10), Came(11)]);
}

#[test]
fn a_restart_lets_all_out_and_begins_anew() {
    let mut rig = Rig::new(with_requests());
    rig.all(at(0), [0, 1, 2, 3, 5]);
    rig.out(at(0));
    let new = |n: u16| Packet {
        timestamp: 2_000_000_000 + u32::from(n / 3) * FRAME,
        ..packet(30_000 + n)
    };
    assert_eq!(rig.push(at(10), new(0)), Err(Rejected::Astray));
    assert_eq!(rig.push(at(10), new(1)), Err(Rejected::Astray));
    rig.push(at(10), new(2)).unwrap();
    assert_eq!(
        rig.out(at(10)),
        [
            Came(3),
            Gone(4, 1),
            Gap(5),
            Gap(30_000),
            Came(30_001),
            Came(30_002)
        ]
    );
    assert_eq!(rig.requests(at(500)), (vec![], NextRequest::Idle));
    assert_eq!(rig.buffer.stats().restarts, 1);
}

#[test]
fn frames_that_are_not_shown_are_waited_for_longer_and_not_learnt_from() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(0), [0, 1, 2]);
    rig.out(at(0));
    let hidden = |sequence| Packet {
        hidden: true,
        ..packet(sequence)
    };
    rig.push(at(300), hidden(3)).unwrap();
    rig.push(at(600), hidden(5)).unwrap();
    let (out, next) = rig.poll(at(700));
    assert_eq!((out, next), (vec![], Next::WaitUntil(at(1600))));
    // Until a shown frame behind it has to go: this one is late.
    rig.all(at(700), [6, 7, 8]);
    assert_eq!(rig.out(at(720)).len(), 1 + 2 + 3);
    assert_eq!(rig.timing.stats().frames, 2);
}

#[test]
fn what_is_held_is_bounded() {
    let bounded = BufferConfig {
        max_packets: 10,
        ..BufferConfig::default()
    };
    let mut rig = Rig::new(bounded);
    rig.all(at(0), 0..30);
    assert_eq!(rig.buffer.stats().held_packets, 10);
    let out = rig.out(at(0));
    assert_eq!((out.len(), &out[0]), (10, &Gap(20)));
    let mut rig = Rig::new(BufferConfig {
        max_bytes: 4500,
        ..BufferConfig::default()
    });
    rig.all(at(0), (0..30).filter(|n| *n != 1));
    assert_eq!(rig.buffer.stats().held_bytes, 4000);
    assert_eq!(rig.buffer.stats().dropped + 4, 29);
}

#[test]
fn what_downstream_does_not_take_is_dropped_if_so_wished() {
    let mut rig = Rig::new(BufferConfig {
        drop_late: true,
        ..BufferConfig::default()
    });
    rig.all(at(0), 0..60);
    // 200 ms at 30 frames/s: frames 13 to 19.
    let out = rig.out(at(0));
    assert_eq!((out.len(), &out[0]), (21, &Gap(39)));
    assert_eq!(rig.buffer.stats().dropped, 39);
}

#[test]
fn a_flush_forgets() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(0), [0, 1, 2, 3, 5]);
    rig.buffer.flush(&mut rig.timing);
    assert_eq!(rig.poll(at(1000)), (vec![], Next::Idle));
    rig.all(at(1000), [2000, 2001, 2002]);
    assert_eq!(rig.out(at(1000)), [Gap(2000)], "the end of a frame");
}

#[test]
fn what_is_there_of_a_frame_is_told_from_whole_ones() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(100), [0, 1, 2]);
    rig.all(at(133), [3, 4, 6, 7, 8]);
    let mut begins = Vec::new();
    loop {
        // Lost is 5.
        match rig.buffer.poll(at(2000), &rig.timing) {
            Next::Packet(out) => begins.extend(out.begin),
            Next::Lost(_) => {}
            _ => break,
        }
    }
    assert_eq!(begins, [Begin::Whole, Begin::Part, Begin::Whole]);
}

#[test]
fn all_packets_of_a_frame_have_its_time() {
    let mut rig = Rig::new(BufferConfig::default());
    rig.all(at(100), [0, 1, 2]);
    rig.all(at(180), [3, 4, 5]);
    let mut renders = Vec::new();
    while let Next::Packet(out) = rig.buffer.poll(at(180), &rig.timing) {
        renders.push((out.render, out.begin));
    }
    assert_eq!(renders.len(), 6);
    for frame in renders.chunks(3) {
        assert!(frame.iter().all(|(render, _)| *render == frame[0].0));
        let begins: Vec<_> = frame.iter().map(|(_, begin)| *begin).collect();
        assert_eq!(begins, [Some(Begin::Whole), None, None]);
    }
    // 80 ms after the other, though 33 ms were between their captures.
    assert!(renders[3].0 >= at(180));
}
