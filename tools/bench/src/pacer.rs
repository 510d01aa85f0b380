// SPDX-License-Identifier: MPL-2.0
//! `rtppacer` in real time: how far from the ideal schedule packets leave, and
//! what it costs; and how fast its core is in virtual time.
//!
//! A thread pushes video frames, cut into packets, 30 times a second. The
//! ideal is the core itself, asked exactly when it wants to be, on the same
//! arrivals. What the rig costs (pushing, the clock, recording) is measured
//! with `identity` in place of the pacer and taken off.

use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use dualstream_common::{Bitrate, DataSize, Timestamp};
use gst::prelude::*;
use pacer_core::{Config, Next, Pacer, Priority};
use serde::Serialize;

use crate::report::percentile;

const RATES_KBPS: [u64; 3] = [1000, 10_000, 50_000];
/// The elements take turns, so that what else the machine does hits all.
const ROUNDS: u32 = 5;
const FPS: u32 = 30;
/// Of a packet with its RTP header.
const PACKET: usize = 1200;
/// IPv4 and UDP, as the element counts them.
const OVERHEAD: u64 = 28;
/// What is held may leave after the last frame.
const TAIL: Duration = Duration::from_millis(300);
/// Packets of the run in virtual time.
const CORE_PACKETS: u32 = 10_000_000;

#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Length of the runs of each element, together
    #[arg(long, default_value_t = 10.0, value_parser = crate::parse_seconds)]
    seconds: f64,
    /// One JSON object a rate, a line each, instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ErrorUs {
    p50: f64,
    p99: f64,
}

/// The field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    rate_kbps: u64,
    /// Departure against the ideal, either way.
    error_us: ErrorUs,
    cpu_us_per_packet: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtpgccbwe_cpu_us_per_packet: Option<f64>,
    core_packets_per_s: f64,
}

pub fn bench(args: &Args) -> Result<()> {
    gstpacer::plugin_register_static()?;
    #[cfg(feature = "rtpgccbwe")]
    gstrsrtp::plugin_register_static()?;
    let core = core_packets_per_s()?;
    let mut all = Vec::new();
    for kbps in RATES_KBPS {
        let figures = measure(kbps, args.seconds, core)?;
        if args.json {
            crate::print_json(&figures)?;
        }
        all.push(figures);
    }
    if args.json {
        return Ok(());
    }
    crate::print(&table(&all))
}

fn table(all: &[Figures]) -> String {
    let mut text = String::from("kbit/s  error p50  p99 (us)  CPU us/packet  rtpgccbwe\n");
    for f in all {
        let other = f
            .rtpgccbwe_cpu_us_per_packet
            .map_or("-".into(), |us| format!("{us:.2}"));
        let _ = writeln!(
            text,
            "{:>6} {:>10.1} {:>9.1} {:>14.2} {other:>10}",
            f.rate_kbps, f.error_us.p50, f.error_us.p99, f.cpu_us_per_packet
        );
    }
    if let Some(f) = all.first() {
        let _ = writeln!(
            text,
            "core: {:.1} million packets/s",
            f.core_packets_per_s / 1e6
        );
    }
    text
}

fn measure(kbps: u64, seconds: f64, core: f64) -> Result<Figures> {
    let rate = Bitrate::from_kbps(kbps);
    let (mut idle, mut paced, mut other) = (Cost::default(), Cost::default(), None);
    let mut errors_us = Vec::new();
    for _ in 0..ROUNDS {
        let seconds = seconds / f64::from(ROUNDS);
        idle.add(&run(&make("identity")?, rate, seconds)?);
        let pacer = make("rtppacer")?;
        pacer.set_property("bitrate", rate.as_bps());
        let run = run(&pacer, rate, seconds)?;
        paced.add(&run);
        errors_us.extend(errors(&run, rate)?);
        if let Some(run) = rtpgccbwe(rate, seconds)? {
            other.get_or_insert(Cost::default()).add(&run);
        }
    }
    let above_idle = |cost: Cost| cost.us_per_packet() - idle.us_per_packet();
    Ok(Figures {
        rate_kbps: kbps,
        error_us: ErrorUs {
            p50: percentile(&errors_us, 0.5),
            p99: percentile(&errors_us, 0.99),
        },
        cpu_us_per_packet: above_idle(paced),
        rtpgccbwe_cpu_us_per_packet: other.map(above_idle),
        core_packets_per_s: core,
    })
}

#[derive(Clone, Copy, Default)]
struct Cost {
    cpu: Duration,
    packets: usize,
}

impl Cost {
    fn add(&mut self, run: &Run) {
        self.cpu += run.cpu;
        self.packets += run.arrivals.len();
    }

    fn us_per_packet(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.packets.max(1) as f64
    }
}

fn make(name: &str) -> Result<gst::Element> {
    Ok(gst::ElementFactory::make(name).build()?)
}

#[cfg(feature = "rtpgccbwe")]
fn rtpgccbwe(rate: Bitrate, seconds: f64) -> Result<Option<Run>> {
    let element = make("rtpgccbwe")?;
    // It sends at its estimate; give it the rate that our pacer has.
    let pacing = rate.scale(Config::default().pacing_factor);
    let bps = u32::try_from(pacing.as_bps())?;
    element.set_property("max-bitrate", bps);
    element.set_property("estimated-bitrate", bps);
    Ok(Some(run(&element, rate, seconds)?))
}

#[cfg(not(feature = "rtpgccbwe"))]
fn rtpgccbwe(_rate: Bitrate, _seconds: f64) -> Result<Option<Run>> {
    Ok(None)
}

struct Run {
    /// By number of the packet.
    arrivals: Vec<Timestamp>,
    departures: Vec<(u32, Timestamp)>,
    /// Of the whole process.
    cpu: Duration,
}

/// The number of the packet is its RTP timestamp.
fn packet(number: u32) -> gst::Buffer {
    let mut data = vec![0; PACKET];
    data[0] = 0x80;
    data[1] = 96;
    data[2..4].copy_from_slice(&(number as u16).to_be_bytes());
    data[4..8].copy_from_slice(&number.to_be_bytes());
    data[11] = 1;
    gst::Buffer::from_mut_slice(data)
}

fn number(buffer: &gst::BufferRef) -> u32 {
    let mut bytes = [0; 4];
    let copied = buffer.size() >= 8 && buffer.copy_to_slice(4, &mut bytes).is_ok();
    if copied {
        u32::from_be_bytes(bytes)
    } else {
        u32::MAX
    }
}

/// A pipeline that is stopped whatever happens.
struct Pipeline(gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        // There is nothing to be done about a failure here.
        let _ = self.0.set_state(gst::State::Null);
    }
}

fn run(element: &gst::Element, rate: Bitrate, seconds: f64) -> Result<Run> {
    let pipeline = Pipeline(gst::Pipeline::new());
    pipeline.0.add(element)?;
    let departures = Arc::new(Mutex::new(Vec::new()));
    let feed = gst::Pad::builder(gst::PadDirection::Src).build();
    let (record, clock) = (departures.clone(), gst::SystemClock::obtain());
    let sink = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, buffer| {
            let time = clock.time();
            if let Ok(mut record) = record.lock() {
                record.push((number(&buffer), time));
            }
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(|_, _, _| true)
        .build();
    let pad = |name| element.static_pad(name).context("no such pad");
    feed.link(&pad("sink")?)?;
    pad("src")?.link(&sink)?;
    sink.set_active(true)?;
    feed.set_active(true)?;
    let clock = gst::SystemClock::obtain();
    pipeline.0.use_clock(Some(&clock));
    pipeline.0.set_state(gst::State::Playing)?;
    feed.push_event(gst::event::StreamStart::new("bench"));
    let caps = gst::Caps::new_empty_simple("application/x-rtp");
    feed.push_event(gst::event::Caps::new(&caps));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    feed.push_event(gst::event::Segment::new(&segment));
    let base = element.base_time().context("the pipeline does not run")?;
    let running =
        |time: gst::ClockTime| Timestamp::from_nanos((time.saturating_sub(base)).nseconds());

    let before = cpu_time()?;
    let start = Instant::now();
    let mut arrivals = Vec::new();
    let frames = (seconds * f64::from(FPS)) as u32;
    for frame in 0..frames {
        let due = Duration::from_secs(1) * frame / FPS;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let sent = DataSize::from_bytes((PACKET as u64 + OVERHEAD) * arrivals.len() as u64);
        let wanted = rate * (due + Duration::from_secs(1) / FPS);
        let left = wanted.saturating_sub(sent).as_bytes() / (PACKET as u64 + OVERHEAD);
        for _ in 0..left {
            let buffer = packet(u32::try_from(arrivals.len())?);
            arrivals.push(running(clock.time()));
            feed.push(buffer)?;
        }
    }
    std::thread::sleep(TAIL);
    let cpu = cpu_time()?.saturating_sub(before);
    drop(pipeline);
    let departures = departures
        .lock()
        .map_err(|_| anyhow!("the sink failed"))?
        .iter()
        .map(|(number, time)| (*number, running(*time)))
        .collect();
    Ok(Run {
        arrivals,
        departures,
        cpu,
    })
}

/// Of all threads that there are now.
pub fn cpu_time() -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").context("needs /proc, as on Linux")? {
        // A thread may be gone by now.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let nanos = text.split_whitespace().next().unwrap_or_default();
        sum += nanos.parse::<u64>().context("schedstat is not a number")?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Distance of each departure to the ideal, in µs.
fn errors(run: &Run, rate: Bitrate) -> Result<Vec<f64>> {
    let ideal = ideal(&run.arrivals, rate)?;
    if run.departures.len() != ideal.len() {
        return Err(anyhow!(
            "{} of {} packets left",
            run.departures.len(),
            ideal.len()
        ));
    }
    run.departures
        .iter()
        .map(|(number, time)| {
            let ideal = ideal.get(*number as usize).context("a packet of nobody")?;
            Ok(time.distance(*ideal).as_nanos().unsigned_abs() as f64 / 1000.0)
        })
        .collect()
}

/// When each packet leaves if nothing is late.
fn ideal(arrivals: &[Timestamp], rate: Bitrate) -> Result<Vec<Timestamp>> {
    let mut core = Pacer::new(Config::default())?;
    core.set_target(Timestamp::ZERO, rate);
    let mut departures = vec![Timestamp::ZERO; arrivals.len()];
    let mut now = Timestamp::ZERO;
    let mut drain = |core: &mut Pacer<usize>, now: &mut Timestamp, end: Option<Timestamp>| {
        loop {
            match core.poll(*now) {
                Next::Send(departure) => departures[departure.packet] = *now,
                Next::WaitUntil(until) if end.is_none_or(|end| until <= end) => *now = until,
                _ => break,
            }
        }
    };
    for (number, arrival) in arrivals.iter().enumerate() {
        drain(&mut core, &mut now, Some(*arrival));
        now = *arrival;
        let size = DataSize::from_bytes(PACKET as u64 + OVERHEAD);
        core.push(now, 1, Priority::Display, size, number)
            .map_err(|refused| anyhow!("{}", refused.reason))?;
        drain(&mut core, &mut now, Some(*arrival));
    }
    drain(&mut core, &mut now, None);
    Ok(departures)
}

/// Four SSRCs of different priorities, frames of 40 packets, each pushed and
/// polled, paced at 1 Gbit/s.
fn core_packets_per_s() -> Result<f64> {
    let mut core = Pacer::new(Config::default())?;
    core.set_rate(Timestamp::ZERO, Bitrate::from_kbps(1_000_000));
    let streams = [
        (1, Priority::Display),
        (2, Priority::Background),
        (3, Priority::Retransmission),
        (4, Priority::Audio),
    ];
    let size = DataSize::from_bytes(PACKET as u64 + OVERHEAD);
    let mut now = Timestamp::ZERO;
    let (mut pushed, mut left) = (0, 0);
    let start = Instant::now();
    while pushed < CORE_PACKETS {
        for _ in 0..40 {
            let (ssrc, priority) = streams[pushed as usize % streams.len()];
            core.push(now, ssrc, priority, size, pushed)
                .map_err(|refused| anyhow!("{}", refused.reason))?;
            pushed += 1;
        }
        loop {
            match core.poll(now) {
                Next::Send(_) => left += 1,
                Next::WaitUntil(until) => now = until,
                Next::Pad { .. } | Next::Idle => break,
            }
        }
    }
    let took = start.elapsed();
    if left != pushed {
        return Err(anyhow!("{left} of {pushed} packets left"));
    }
    Ok(f64::from(left) / took.as_secs_f64())
}
