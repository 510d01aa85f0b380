// SPDX-License-Identifier: MPL-2.0
//! What holds whatever the network sends.

#[allow(dead_code)] // Each test uses its own part.
mod rig;
#[allow(dead_code)] // Each test uses its own part.
mod watch;

use std::time::Duration;

use dualstream_common::{DataSize, Ratio, Timestamp};
use jitterbuffer_core::{
    AdaptiveModel, Arrival, Assembly, BufferConfig, Config, Frame, ModelKind, Origin, Packet, Part,
    RequestConfig, WebrtcModel,
};
use proptest::prelude::*;
use rig::*;
use watch::Watch;

/// Steps of RTP time, arrival and clock go both ways and far.
fn any_frame() -> impl Strategy<Value = (Frame, Timestamp)> {
    let near = 0..10_000_000_000u64;
    // Our own clock: two centuries are enough.
    let time = prop_oneof![9 => near, 1 => 0..1u64 << 62];
    let rtp = prop_oneof![3 => 0..900_000u32, 1 => any::<u32>()];
    let bytes = prop_oneof![9 => 0..200_000u64, 1 => any::<u64>()];
    (rtp, time.clone(), time, bytes, any::<bool>()).prop_map(
        |(rtp_timestamp, arrival, now, bytes, retransmitted)| {
            let frame = Frame {
                rtp_timestamp,
                arrival: Timestamp::from_nanos(arrival),
                size: DataSize::from_bytes(bytes),
                retransmitted,
            };
            (frame, Timestamp::from_nanos(now))
        },
    )
}

proptest! {
    /// Ten seconds, and what retransmission and the system add.
    #[test]
    fn the_webrtc_estimate_is_bounded(
        frames in proptest::collection::vec(any_frame(), 1..300),
        rtt in any::<u64>(),
    ) {
        let mut model = WebrtcModel::new();
        for (frame, now) in frames {
            model.set_rtt(Duration::from_nanos(rtt));
            let estimate = model.frame(now, &frame);
            prop_assert!(estimate <= Duration::from_millis(10_210), "{estimate:?}");
        }
    }
}

proptest! {
    /// The time a frame should be shown follows its RTP time, and what is
    /// waited for stays within the limits.
    #[test]
    fn the_adaptive_delay_is_within_its_limits(
        frames in proptest::collection::vec(any_frame(), 1..300),
        limits in (0..200u64, 200..10_000u64),
        late_target in 0.0001..0.5,
    ) {
        let (min, max) = (Duration::from_millis(limits.0), Duration::from_millis(limits.1));
        let mut model = AdaptiveModel::new(Config {
            late_target: Ratio::clamped(late_target),
            min_delay: min,
            max_delay: max,
        })
        .unwrap();
        for (frame, _) in frames {
            let due = model.playout(frame.rtp_timestamp);
            let verdict = model.frame(&frame);
            match (due, verdict) {
                // Of a frame from before the zero of the clock.
                (Some(Timestamp::ZERO), _) | (_, Arrival::First) => {}
                (Some(due), Arrival::Late(by)) => prop_assert!(frame.arrival.since(due) >= by),
                (Some(due), Arrival::OnTime) => prop_assert!(due >= frame.arrival),
                (None, _) => prop_assert!(false, "due only after a first frame"),
            }
            let delay = model.delay();
            prop_assert!(delay >= min, "{delay:?} below {min:?}");
            prop_assert!(delay <= max, "{delay:?} above {max:?}");
        }
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Comes(u64),
    Twice(u64, u64),
    /// By one of the other ways, so much later.
    Repaired(Origin, u64),
    Lost,
}

#[derive(Clone, Debug)]
enum Turn {
    Goes,
    /// Capture and sending stop for so many ms.
    Pauses(u64),
    TimeJumps(u32),
    NumberJumps(u16),
    Restarts(u16, u32),
    Settings(BufferConfig, Config),
    Decoded(u64),
}

#[derive(Clone, Debug)]
struct Sent {
    turn: Turn,
    fates: Vec<Fate>,
    interval: u64,
    marker: bool,
    hidden: bool,
    part: Part,
}

fn fate() -> impl Strategy<Value = Fate> {
    let origin = prop_oneof![Just(Origin::Retransmission), Just(Origin::Fec)];
    prop_oneof![
        30 => Just(Fate::Comes(0)),
        6 => (0..60u64).prop_map(Fate::Comes),
        1 => (0..900u64).prop_map(Fate::Comes),
        1 => (0..60u64, 0..400u64).prop_map(|(one, other)| Fate::Twice(one, other)),
        2 => (origin, 1..300u64).prop_map(|(origin, after)| Fate::Repaired(origin, after)),
        2 => Just(Fate::Lost),
    ]
}

fn settings() -> impl Strategy<Value = (BufferConfig, Config)> {
    let request = (
        any::<bool>(),
        proptest::option::of(0..5u32),
        0..20u64,
        proptest::option::of(0..3u32),
        any::<bool>(),
    );
    let request =
        request.prop_map(
            |(enabled, reorder_packets, min_ms, max_retries, hedge)| RequestConfig {
                hedge,
                enabled,
                reorder_packets,
                min_delay: ms(min_ms),
                max_retries,
            },
        );
    (
        0..400u64,
        any::<bool>(),
        any::<bool>(),
        request,
        0..100u64,
        100..1000u64,
    )
        .prop_map(|(hold, wait_for_key, audio, request, min, max)| {
            let buffer = BufferConfig {
                assembly: [Assembly::Frames, Assembly::Packets][usize::from(audio)],
                hold: ms(hold),
                wait_for_key,
                request,
                ..BufferConfig::default()
            };
            let delays = Config {
                min_delay: ms(min),
                max_delay: ms(max),
                ..Config::default()
            };
            (buffer, delays)
        })
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        60 => Just(Turn::Goes),
        2 => (0..20_000u64).prop_map(Turn::Pauses),
        1 => any::<u32>().prop_map(Turn::TimeJumps),
        1 => any::<u16>().prop_map(Turn::NumberJumps),
        1 => (any::<u16>(), any::<u32>()).prop_map(|(number, time)| Turn::Restarts(number, time)),
        1 => settings().prop_map(|(buffer, delays)| Turn::Settings(buffer, delays)),
        2 => (0..50u64).prop_map(Turn::Decoded),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let fates = proptest::collection::vec(fate(), 1..7);
    let flags = (0..20u32, 0..10u32, any::<bool>(), 0..8u32, any::<bool>());
    (turn(), fates, 0..60u64, flags).prop_map(
        |(turn, fates, interval, (marker, hidden, begins, key, reference))| Sent {
            turn,
            fates,
            interval,
            marker: marker > 0,
            hidden: hidden == 0,
            part: Part {
                begins: begins || key == 0,
                key: key == 0,
                reference,
            },
        },
    )
}

/// What happens, in the order of time.
enum Event {
    Packet(Packet<u64>),
    Settings(BufferConfig, Config),
    Decoded(u64),
}

/// Each packet carries its count.
fn schedule(sent: &[Sent], mut sequence: u16, mut timestamp: u32) -> Vec<(Timestamp, Event)> {
    let (mut time, mut count) = (1000, 0);
    let mut events = Vec::new();
    for frame in sent {
        time += frame.interval;
        timestamp = timestamp.wrapping_add(frame.interval as u32 * 90);
        match frame.turn.clone() {
            Turn::Goes => (),
            Turn::Pauses(ms) => {
                time += ms;
                timestamp = timestamp.wrapping_add(ms as u32 * 90);
            }
            Turn::TimeJumps(ticks) => timestamp = timestamp.wrapping_add(ticks),
            Turn::NumberJumps(numbers) => sequence = sequence.wrapping_add(numbers),
            Turn::Restarts(first, start) => (sequence, timestamp) = (first, start),
            Turn::Settings(buffer, delays) => {
                events.push((at(time), Event::Settings(buffer, delays)));
            }
            Turn::Decoded(ms) => events.push((at(time), Event::Decoded(ms))),
        }
        for (n, fate) in frame.fates.iter().enumerate() {
            let packet = |origin| Packet {
                sequence,
                timestamp,
                marker: frame.marker && n + 1 == frame.fates.len(),
                origin,
                part: frame.part,
                hidden: frame.hidden,
                data: count,
                ..packet(0)
            };
            let mut comes = |after, origin| {
                events.push((at(time + after), Event::Packet(packet(origin))));
            };
            match *fate {
                Fate::Comes(after) => comes(after, Origin::Network),
                Fate::Twice(one, other) => {
                    comes(one, Origin::Network);
                    comes(one + other, Origin::Network);
                }
                Fate::Repaired(origin, after) => comes(after, origin),
                Fate::Lost => (),
            }
            sequence = sequence.wrapping_add(1);
            count += 1;
        }
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

/// Polls when the buffer asks for it, up to then.
fn catch_up(watch: &mut Watch, due: &mut [Option<Timestamp>; 2], until: Timestamp) {
    for _ in 0..10_000 {
        let next = due.iter().flatten().min().copied();
        let Some(next) = next.filter(|next| *next <= until) else {
            return;
        };
        due[0] = watch.poll(next, false);
        due[1] = watch.requests(next).1;
    }
    panic!("it asks to be polled without end");
}

fn run(watch: &mut Watch, kind: ModelKind, events: Vec<(Timestamp, Event)>) {
    let mut due = [None, None];
    let mut end = at(0);
    for (now, event) in events {
        catch_up(watch, &mut due, now);
        let mut restarted = false;
        match event {
            Event::Packet(packet) => restarted = watch.push(now, packet),
            Event::Settings(buffer, delays) => {
                watch.rig.buffer.configure(buffer);
                watch.rig.timing.configure(kind, delays).unwrap();
            }
            Event::Decoded(took) => watch.rig.timing.decoded(now, ms(took)),
        }
        due[0] = watch.poll(now, restarted);
        due[1] = watch.requests(now).1;
        end = now;
    }
    catch_up(watch, &mut due, end + Duration::from_secs(30));
    assert_eq!(due[0], None, "by then all is given up");
    watch.finish(end);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whoever polls when asked to gets each packet once, in order, and none
    /// is held past its deadline nor given up before it; what is asked for is
    /// missing, and not too often.
    #[test]
    fn packets_go_once_in_order_and_on_time(
        sent in proptest::collection::vec(sent(), 1..120),
        start in (any::<u16>(), any::<u32>()),
        (config, delays) in settings(),
        webrtc in any::<bool>(),
    ) {
        let kind = [ModelKind::Adaptive, ModelKind::Webrtc][usize::from(webrtc)];
        let mut rig = Rig::with(kind, config);
        rig.timing.configure(kind, delays).unwrap();
        run(&mut Watch::new(rig), kind, schedule(&sent, start.0, start.1));
    }

    /// Nothing is given up that comes in the time it is held for: all comes
    /// out, as it was sent. (libwebrtc's line may expect the first frames too
    /// early.)
    #[test]
    fn what_comes_in_time_comes_out(
        frames in proptest::collection::vec(
            (proptest::collection::vec(0..1000u64, 1..7), 5..60u64),
            2..100,
        ),
        start in (any::<u16>(), any::<u32>()),
        hold in 50..400u64,
        audio in any::<bool>(),
    ) {
        let sent: Vec<_> = frames
            .iter()
            .enumerate()
            .map(|(n, (delays, interval))| {
                // What comes before all others must be the first.
                let late = |delay| if n == 0 { 0 } else { delay * (hold - 1) / 1000 };
                Sent {
                    turn: Turn::Goes,
                    fates: delays.iter().map(|delay| Fate::Comes(late(delay))).collect(),
                    interval: *interval,
                    marker: true,
                    hidden: false,
                    part: Part::default(),
                }
            })
            .collect();
        let kind = ModelKind::Adaptive;
        let mut watch = Watch::new(Rig::with(kind, BufferConfig {
            assembly: [Assembly::Frames, Assembly::Packets][usize::from(audio)],
            hold: ms(hold),
            ..BufferConfig::default()
        }));
        run(&mut watch, kind, schedule(&sent, start.0, start.1));
        let all: Vec<_> = (0..frames.iter().map(|(delays, _)| delays.len() as u64).sum()).collect();
        prop_assert_eq!(&watch.out, &all);
        prop_assert_eq!(watch.rig.buffer.stats().lost, 0);
    }
}
