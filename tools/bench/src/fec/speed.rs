// SPDX-License-Identifier: MPL-2.0
//! How fast FEC packets are made and lost ones recovered, beside a plain XOR
//! loop over the same bytes, and through the elements beside GStreamer's own.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dualstream_common::Timestamp;
use flexfec_core::block::{Block, BlockLimits};
use flexfec_core::decoder::{Decoder, DecoderConfig};
use flexfec_core::encoder::{Encoder, EncoderConfig};
use flexfec_core::mask::{Mask, Table};
use flexfec_core::rtp::MutableExtensions;
use gst::prelude::*;
use serde::Serialize;

/// Bytes in a media packet.
const PACKET: usize = 1200;
const MEDIA: usize = 20;
const FEC: usize = 5;
const SSRC: u32 = 0x1234;
/// Of the sequence number base in a FEC packet: behind the RTP header and 16
/// bytes of FEC header.
const BASE: usize = 28;
/// Calls in a round, some 100 us, and how long there are rounds.
const CALLS: u32 = 32;
const MEASURED: Duration = Duration::from_millis(1500);
/// Frames that are encoded, then decoded, and how often.
const BATCH: usize = 10;
const BATCHES: usize = 600;
/// Packets of each frame that are lost: 10 %, for which so much FEC is made.
const LOST: [usize; 2] = [5, 12];
const FEC_PT: u32 = 110;

#[derive(Serialize)]
struct Line {
    what: &'static str,
    /// Bytes that are XORed: each packet once for each row that it is in.
    gbytes_per_s: f64,
    /// Media packets.
    packets_per_s: f64,
}

fn line(what: &'static str, (bytes, packets): (usize, usize), seconds: f64) -> Line {
    Line {
        what,
        gbytes_per_s: bytes as f64 / seconds / 1e9,
        packets_per_s: packets as f64 / seconds,
    }
}

fn media(sequence: u16) -> Vec<u8> {
    let mut packet = vec![
        0x80,
        if sequence as usize % MEDIA == MEDIA - 1 {
            0xe0
        } else {
            0x60
        },
    ];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) / MEDIA as u32 * 3000).to_be_bytes());
    packet.extend(SSRC.to_be_bytes());
    packet.extend((0..PACKET - 12).map(|at| (at as u8).wrapping_mul(sequence as u8 | 1)));
    packet
}

/// Seconds for one call: the quickest of many short rounds, which other work on
/// the machine is least likely to have disturbed.
fn best(mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed() < MEASURED {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(CALLS));
    }
    best
}

pub fn run() -> Result<()> {
    let mask = Mask::of(Table::Light, MEDIA, FEC);
    let rows = mask.rows();
    let xored = rows
        .iter()
        .map(|row| row.count_ones() as usize)
        .sum::<usize>()
        * PACKET;
    let packets: Vec<_> = (0..MEDIA as u16).map(media).collect();
    let amount = (xored, MEDIA);

    let mut out = vec![0u8; PACKET];
    let plain = best(|| {
        for row in rows {
            out.fill(0);
            for (at, packet) in packets.iter().enumerate() {
                if row >> at & 1 != 0 {
                    for (a, b) in out.iter_mut().zip(packet) {
                        *a ^= b;
                    }
                }
            }
            black_box(&out);
        }
    });
    crate::print_json(&line("xor", amount, plain))?;

    let mutable = MutableExtensions::default();
    let config = EncoderConfig {
        payload_type: 110,
        ssrc: 7,
        ..EncoderConfig::default()
    };
    let mut encoder = Encoder::new(config).context("the encoder")?;
    let mut block = Block::new(BlockLimits::default());
    let encode = best(|| {
        block.clear();
        for packet in &packets {
            block.push(packet, &mutable).expect("it fits");
        }
        let made = encoder.encode(&block, rows, 0, |fec| {
            black_box(fec);
        });
        made.expect("rows of this block");
    });
    crate::print_json(&line("encode", amount, encode))?;
    decode("decode", 1, rows, amount)?;
    decode("decode, 5 lost", FEC, rows, amount)?;
    elements()
}

/// Blocks that have lost so many media packets, all of which come back.
fn decode(what: &'static str, count: usize, rows: &[u128], amount: (usize, usize)) -> Result<()> {
    let mutable = MutableExtensions::default();
    let config = EncoderConfig {
        payload_type: 110,
        ssrc: 7,
        ..EncoderConfig::default()
    };
    let mut encoder = Encoder::new(config).context("the encoder")?;
    // Most that are recovered in any order, by trying.
    let mut rng = fastrand::Rng::with_seed(1);
    let lost = loop {
        let mut lost = 0u128;
        while lost.count_ones() < count as u32 {
            lost |= 1 << rng.usize(0..MEDIA);
        }
        if flexfec_core::channel::peel(rows, lost, 0) == 0 {
            break lost;
        }
    };
    // One block again and again with other sequence numbers, which are in the
    // clear in media packets and at one place in FEC packets.
    let mut block = Block::new(BlockLimits::default());
    let mut all: Vec<_> = (0..MEDIA as u16).map(media).collect();
    for packet in &all {
        block.push(packet, &mutable).expect("it fits");
    }
    let mut fec = Vec::new();
    encoder
        .encode(&block, rows, 0, |packet| fec.push(packet.to_vec()))
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let base = |packet: &Vec<u8>| u16::from_be_bytes([packet[BASE], packet[BASE + 1]]);
    let bases: Vec<_> = fec.iter().map(base).collect();
    let mut decoder = Decoder::new(DecoderConfig::default()).context("the decoder")?;
    let (mut recovered, mut calls) = (0usize, 0usize);
    let time = best(|| {
        let first = (calls * MEDIA) as u16;
        for (j, packet) in all.iter_mut().enumerate() {
            packet[2..4].copy_from_slice(&first.wrapping_add(j as u16).to_be_bytes());
        }
        for (j, packet) in fec.iter_mut().enumerate() {
            packet[2..4].copy_from_slice(&((calls * FEC + j) as u16).to_be_bytes());
            let base = first.wrapping_add(bases[j]);
            packet[BASE..BASE + 2].copy_from_slice(&base.to_be_bytes());
        }
        let now = Timestamp::from_millis(calls as u64 * 33);
        for (_, packet) in all.iter().enumerate().filter(|(j, _)| lost >> j & 1 == 0) {
            black_box(decoder.media(now, packet));
        }
        for packet in &fec {
            let _ = black_box(decoder.fec(now, packet));
        }
        while let Some(packet) = decoder.next_recovered() {
            black_box(packet);
            recovered += 1;
        }
        calls += 1;
    });
    anyhow::ensure!(
        recovered == calls * count,
        "{recovered} of {} recovered",
        calls * count
    );
    crate::print_json(&line(what, amount, time))
}

/// Media through the elements, each between two bare pads, so that hardly
/// anything but the element is measured. The decoders get what the encoders
/// made, but for some packets of each frame.
fn elements() -> Result<()> {
    gstflexfec::plugin_register_static()?;
    let percentage = (100 * FEC / MEDIA) as u32;
    let make = gst::ElementFactory::make;
    // What any element costs, and what ours does when it has nothing to do.
    one("identity", make("identity").build()?)?;
    one("rtpflexfecenc, off", make("rtpflexfecenc").build()?)?;
    for lists in [false, true] {
        let encoder = make("rtpflexfecenc")
            .property("pt", FEC_PT)
            .property_from_str("controller", "fixed")
            .property("percentage", percentage)
            .property("percentage-key", percentage)
            .build()?;
        let decoder = make("rtpflexfecdec").property("pt", FEC_PT).build()?;
        let what = ["rtpflexfecenc", "rtpflexfecenc, lists"][usize::from(lists)];
        both([what, "rtpflexfecdec"], lists, encoder, &[decoder])?;
        let encoder = make("rtpulpfecenc")
            .property("pt", FEC_PT)
            .property("percentage", percentage)
            .property("percentage-important", percentage)
            .build()?;
        let storage = make("rtpstorage")
            .property("size-time", 200_000_000u64)
            .build()?;
        let inner = storage.property::<gst::glib::Object>("internal-storage");
        let decoder = make("rtpulpfecdec")
            .property("pt", FEC_PT)
            .property("storage", inner)
            .build()?;
        let what = ["rtpulpfecenc", "rtpulpfecenc, lists"][usize::from(lists)];
        both([what, "rtpulpfecdec"], lists, encoder, &[storage, decoder])?;
    }
    Ok(())
}

/// Media through an element that lets them pass.
fn one(what: &'static str, element: gst::Element) -> Result<()> {
    let elements = [element];
    let [src, _sink] = chain(&elements, drop)?;
    let template = media(0);
    let mut times = Vec::new();
    for batch in 0..BATCHES {
        let first = batch * BATCH * MEDIA;
        let buffers = (first..first + BATCH * MEDIA)
            .map(|at| buffer(&template, at))
            .collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        for buffer in buffers {
            src.push(buffer)?;
        }
        times.push(start.elapsed());
    }
    elements[0].set_state(gst::State::Null)?;
    tell(what, times)
}

fn tell(what: &'static str, mut times: Vec<Duration>) -> Result<()> {
    // As above: a shared machine takes time from most of them.
    times.sort();
    let best = times[times.len() / 100].as_secs_f64();
    let packets = BATCH * MEDIA;
    crate::print_json(&line(what, (packets * PACKET, packets), best))
}

fn both(
    what: [&'static str; 2],
    lists: bool,
    encoder: gst::Element,
    decoder: &[gst::Element],
) -> Result<()> {
    let made = Arc::<Mutex<Vec<gst::Buffer>>>::default();
    let keep = made.clone();
    let encoders = [encoder];
    let [first, _sink] = chain(&encoders, move |buffer| {
        keep.lock().expect("no panic").push(buffer)
    })?;
    let [second, _end] = chain(decoder, drop)?;
    let template = media(0);
    let mut times = [Vec::new(), Vec::new()];
    let mut loss = Loss::default();
    for batch in 0..BATCHES {
        let frames = batch * BATCH..(batch + 1) * BATCH;
        let buffers = (frames.start * MEDIA..frames.end * MEDIA)
            .map(|at| buffer(&template, at))
            .collect::<Result<Vec<_>>>()?;
        if lists {
            // As payloaders push the packets of a frame.
            let mut lists = Vec::new();
            let mut buffers = buffers.into_iter();
            for _ in 0..BATCH {
                lists.push(buffers.by_ref().take(MEDIA).collect::<gst::BufferList>());
            }
            let start = Instant::now();
            for list in lists {
                first.push_list(list)?;
            }
            times[0].push(start.elapsed());
        } else {
            let start = Instant::now();
            for buffer in buffers {
                first.push(buffer)?;
            }
            times[0].push(start.elapsed());
        }
        let sent = std::mem::take(&mut *made.lock().expect("no panic"));
        anyhow::ensure!(
            batch == 0 || sent.len() == BATCH * (MEDIA + FEC),
            "{}: {} packets",
            what[0],
            sent.len()
        );
        let left: Vec<_> = sent.into_iter().map(|buffer| loss.pass(buffer)).collect();
        let start = Instant::now();
        for (events, buffer) in left {
            for event in events {
                second.push_event(event);
            }
            if let Some(buffer) = buffer {
                second.push(buffer)?;
            }
        }
        times[1].push(start.elapsed());
    }
    let last = decoder.last().context("a decoder")?;
    let recovered = match last.find_property("recovered") {
        Some(_) => u64::from(last.property::<u32>("recovered")),
        None => last.property::<gst::Structure>("stats").get("recovered")?,
    };
    // The last frame's packets are not asked for.
    anyhow::ensure!(
        recovered as usize + LOST.len() >= BATCHES * BATCH * LOST.len(),
        "{}: {recovered} of {} recovered",
        what[1],
        BATCHES * BATCH * LOST.len()
    );
    for (what, times) in what.into_iter().zip(times) {
        tell(what, times)?;
    }
    for element in encoders.iter().chain(decoder) {
        element.set_state(gst::State::Null)?;
    }
    Ok(())
}

/// The elements between two pads of ours; what comes out is given to `taken`.
/// Links do not own pads, so both are to be kept.
fn chain(
    elements: &[gst::Element],
    taken: impl Fn(gst::Buffer) + Send + Sync + 'static,
) -> Result<[gst::Pad; 2]> {
    const CAPS: &str = "application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96,ssrc=(uint)4660";
    let clock = gst::SystemClock::obtain();
    let taken = Arc::new(taken);
    let each = taken.clone();
    let sink = gst::Pad::builder(gst::PadDirection::Sink)
        .name("sink")
        .chain_function(move |_, _, buffer| {
            taken(buffer);
            Ok(gst::FlowSuccess::Ok)
        })
        .chain_list_function(move |_, _, list| {
            list.iter_owned().for_each(|buffer| each(buffer));
            Ok(gst::FlowSuccess::Ok)
        })
        .event_function(|_, _, _| true)
        .query_function(|_, _, query| match query.view_mut() {
            gst::QueryViewMut::AcceptCaps(accept) => {
                accept.set_result(true);
                true
            }
            gst::QueryViewMut::Caps(caps) => {
                caps.set_result(&gst::Caps::new_any());
                true
            }
            _ => false,
        })
        .build();
    sink.set_active(true)?;
    let pad = |element: &gst::Element, name| element.static_pad(name).context("a pad");
    for pair in elements.windows(2) {
        pair[0].link(&pair[1])?;
    }
    let [first, .., last] = &[elements.first(), elements.last()];
    let (first, last) = (first.context("an element")?, last.context("an element")?);
    pad(last, "src")?.link(&sink)?;
    for element in elements {
        element.set_clock(Some(&clock))?;
        element.set_base_time(clock.time());
        element.set_state(gst::State::Playing)?;
    }
    let src = gst::Pad::builder(gst::PadDirection::Src)
        .name("src")
        .build();
    src.set_active(true)?;
    src.link(&pad(first, "sink")?)?;
    src.push_event(gst::event::StreamStart::new("speed"));
    src.push_event(gst::event::Caps::new(&CAPS.parse()?));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    src.push_event(gst::event::Segment::new(&segment));
    Ok([src, sink])
}

/// Loses some packets of each frame and says so with the next frame, as a jitter
/// buffer would; rtpulpfecdec recovers what it is told of.
#[derive(Default)]
struct Loss {
    timestamp: Option<u32>,
    /// Packets of this frame so far.
    packets: usize,
    lost: Vec<gst::Event>,
}

impl Loss {
    fn pass(&mut self, buffer: gst::Buffer) -> (Vec<gst::Event>, Option<gst::Buffer>) {
        let mut head = [0u8; 8];
        if buffer.copy_to_slice(0, &mut head).is_err() || u32::from(head[1] & 0x7f) == FEC_PT {
            return (Vec::new(), Some(buffer));
        }
        let timestamp = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let mut events = Vec::new();
        if self.timestamp.replace(timestamp) != Some(timestamp) {
            self.packets = 0;
            events = std::mem::take(&mut self.lost);
        }
        self.packets += 1;
        if !LOST.contains(&self.packets) {
            return (events, Some(buffer));
        }
        let sequence = u16::from_be_bytes([head[2], head[3]]);
        let structure = gst::Structure::builder("GstRTPPacketLost")
            .field("seqnum", u32::from(sequence))
            .field("timestamp", buffer.pts())
            .field("duration", gst::ClockTime::ZERO)
            .build();
        self.lost.push(gst::event::CustomDownstream::new(structure));
        (events, None)
    }
}

/// Made when it is pushed, as a payloader does: what is copied and freed is in
/// the cache then.
fn buffer(template: &[u8], at: usize) -> Result<gst::Buffer> {
    let mut buffer = gst::Buffer::with_size(template.len())?;
    let inner = buffer.get_mut().context("ours alone")?;
    let frame = at / MEDIA;
    let time = gst::ClockTime::from_mseconds(frame as u64 * 33);
    inner.set_pts(time);
    inner.set_dts(time);
    let mut map = inner.map_writable()?;
    map.copy_from_slice(template);
    map[1] = if at % MEDIA == MEDIA - 1 { 0xe0 } else { 0x60 };
    map[2..4].copy_from_slice(&(at as u16).to_be_bytes());
    map[4..8].copy_from_slice(&(frame as u32 * 3000).to_be_bytes());
    drop(map);
    Ok(buffer)
}
