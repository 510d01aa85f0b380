// SPDX-License-Identifier: MPL-2.0
//! One scheme over one link: coded, sent, decoded, compared.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use anyhow::{Context, Result};
use dualstream_common::{Bitrate, DataSize, Timestamp};
use dualstream_core::quantiser::QuantiserReader;
use dualstream_core::wire::Stream;

use dualstream_netsim::Capacity;

use crate::link::{self, Link, Priority};
use crate::scheme::{Coded, Complete, Encoder, Scheme, SetUp};
use crate::video::{Decoder, Likeness, Video};

/// Under a trace the target follows this often.
const ESTIMATE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Path {
    pub capacity: Capacity,
    /// Of the link's capacity, what the encoder is told.
    pub target_share: f64,
    pub one_way: Duration,
    pub rtt: Duration,
}

impl Path {
    pub fn target(&self, now: Timestamp) -> Bitrate {
        // An encoder needs something to code with.
        let least = Bitrate::from_kbps(50);
        link::known(&self.capacity, now)
            .scale(self.target_share)
            .max(least)
    }
}

/// What became of one picture.
#[derive(Clone, Copy, Debug)]
pub struct Picture {
    /// Capture to the last byte at the receiver; none: it was dropped.
    pub latency: Option<Duration>,
    /// What is shown beside what was taken.
    pub likeness: Likeness,
    /// The same for what the encoder itself reconstructs.
    pub reconstructed: Likeness,
    pub display_bytes: u64,
    pub background_bytes: u64,
    /// Quantisers, where they can be read.
    pub display_quantiser: Option<f64>,
    pub background_quantiser: Option<f64>,
    pub display_key: bool,
    pub background_key: bool,
    pub switched: bool,
}

/// A display frame that never arrived, and when its sender learnt of it.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// The first picture coded after the request arrived.
    pub answered: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub pictures: Vec<Picture>,
    pub losses: Vec<Loss>,
    pub commit_ms_mean: Option<f64>,
    /// Of dualh264enc: key frames on the display stream that answered a loss
    /// although the receiver had acknowledged the standby's newest picture.
    pub key_frames_despite_reference: Option<u64>,
}

/// A frame on its way.
#[derive(Clone, Copy, Debug)]
struct Frame {
    picture: usize,
    complete: Complete,
    display: bool,
    key: bool,
    lost: bool,
}

/// What reaches the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    Request(u8),
    /// Stream, number, generation.
    Complete(u8, u16, u8),
}

struct Session<'a> {
    video: &'a Video,
    path: &'a Path,
    encoder: Encoder,
    link: Link<Frame>,
    receiver: Receiver,
    /// On its way back, by the time it gets there.
    news: BinaryHeap<Reverse<(Timestamp, News)>>,
    /// Captured, and not yet arrived.
    latency: Vec<Option<Duration>>,
    losses: Vec<Loss>,
    key_frames_despite_reference: u64,
    /// Losses reported that no picture has been coded for.
    reported: VecDeque<usize>,
}

/// What the receiver knows of each stream: enough for what it says.
#[derive(Default)]
struct Receiver {
    /// Frames are missing that nothing has told of yet: the next packet of the
    /// stream does, by its sequence number.
    gap: [bool; 2],
    /// A frame is missing since the last key frame.
    damaged: [bool; 2],
    display: Option<Frame>,
}

impl Receiver {
    /// What it says when the last byte of `frame` has arrived.
    fn arrived(&mut self, frame: Frame) -> Vec<News> {
        let mut news = Vec::new();
        let stream = frame.complete.stream;
        if frame.lost {
            self.gap[stream.index()] = true;
            return news;
        }
        if std::mem::take(&mut self.gap[stream.index()]) {
            self.damaged[stream.index()] = true;
            if !frame.key {
                news.push(News::Request(stream.index() as u8));
            }
        }
        if frame.display {
            if frame.key {
                self.damaged[stream.index()] = false;
            }
            if let Some(last) = self.display
                && last.complete.stream != stream
                && !self.damaged[last.complete.stream.index()]
                && !self.gap[last.complete.stream.index()]
            {
                news.push(said(last.complete));
            }
            self.display = Some(frame);
        } else {
            if frame.key {
                self.damaged[stream.index()] = false;
            }
            if !self.damaged[stream.index()] {
                news.push(said(frame.complete));
            }
        }
        news
    }
}

fn said(complete: Complete) -> News {
    News::Complete(
        complete.stream.index() as u8,
        complete.number,
        complete.generation,
    )
}

fn stream(index: u8) -> Stream {
    if index == 0 {
        Stream::Zero
    } else {
        Stream::One
    }
}

/// Runs `count` pictures; those in `lost` never arrive.
pub fn run(
    set_up: &SetUp,
    video: &Video,
    path: &Path,
    count: usize,
    lost: &[usize],
    watch: impl Fn(usize),
) -> Result<Record> {
    let mut session = Session {
        video,
        path,
        encoder: Encoder::new(set_up, video)?,
        link: Link::new(path.capacity.clone(), path.one_way),
        receiver: Receiver::default(),
        news: BinaryHeap::new(),
        latency: vec![None; count],
        losses: Vec::new(),
        key_frames_despite_reference: 0,
        reported: VecDeque::new(),
    };
    let mut decoders = Decoders::new(video, !lost.is_empty())?;
    let mut pictures = Vec::with_capacity(count);
    let mut display = Stream::Zero;
    let mut readers = [QuantiserReader::new(), QuantiserReader::new()];
    for number in 0..count {
        let coded = session.picture(number, lost)?;
        let mut shown = None;
        let mut switched = false;
        let (mut display_bytes, mut background_bytes) = (0, 0);
        let (mut display_key, mut background_key) = (false, false);
        let (mut display_quantiser, mut background_quantiser) = (None, None);
        for frame in &coded {
            let size = frame.data.size() as u64;
            let quantiser = frame
                .data
                .map_readable()
                .ok()
                .and_then(|data| readers[frame.stream.index()].read(&data));
            if frame.display {
                display_quantiser = quantiser;
                display_bytes += size;
                display_key |= frame.key;
                switched = frame.stream != display;
                display = frame.stream;
                let arrives = !lost.contains(&number);
                shown = Some(decoders.display(number, frame, arrives)?);
            } else {
                background_quantiser = quantiser;
                background_bytes += size;
                background_key |= frame.key;
                decoders.background(frame)?;
            }
        }
        let (likeness, reconstructed) = shown.context("a picture without a display frame")?;
        pictures.push(Picture {
            latency: None,
            likeness,
            reconstructed,
            display_bytes,
            background_bytes,
            display_quantiser,
            background_quantiser,
            display_key,
            background_key,
            switched,
        });
        watch(number + 1);
    }
    // What still waits leaves without anything new behind it.
    let end = video.time(count) + Duration::from_secs(600);
    session.advance(end);
    for (picture, latency) in pictures.iter_mut().zip(&session.latency) {
        picture.latency = *latency;
    }
    let commit = session.encoder.stat("commit-time-mean");
    Ok(Record {
        pictures,
        losses: session.losses,
        commit_ms_mean: (commit > 0).then_some(commit as f64 / 1e6),
        key_frames_despite_reference: (set_up.scheme == Scheme::Dual)
            .then_some(session.key_frames_despite_reference),
    })
}

impl Session<'_> {
    fn picture(&mut self, number: usize, lost: &[usize]) -> Result<Vec<Coded>> {
        let now = self.video.time(number);
        self.advance(now);
        self.hear(now);
        self.encoder.set_time(now);
        let since = |at: Timestamp| (at.as_nanos() / ESTIMATE.as_nanos() as u64, at);
        let moved = number > 0 && since(now).0 != since(self.video.time(number - 1)).0;
        if matches!(self.path.capacity, Capacity::Trace(..)) && moved {
            self.encoder.set_target(self.path.target(now));
        }
        let acknowledged = self.encoder.has_reference();
        let answers = !self.reported.is_empty();
        for loss in self.reported.drain(..) {
            self.losses[loss].answered = Some(number);
        }
        let coded = self.encoder.encode(number, self.video.picture(number))?;
        let key = coded.iter().any(|frame| frame.display && frame.key);
        self.key_frames_despite_reference += u64::from(answers && acknowledged && key);
        for frame in &coded {
            let priority = if frame.display {
                Priority::Display
            } else {
                Priority::Background
            };
            let sent = Frame {
                picture: number,
                complete: Complete {
                    stream: frame.stream,
                    number: frame.number,
                    generation: frame.generation,
                },
                display: frame.display,
                key: frame.key,
                lost: frame.display && lost.contains(&number),
            };
            if frame.display {
                self.link
                    .promote(|other| other.complete.stream == frame.stream);
            }
            let size = DataSize::from_bytes(frame.data.size() as u64);
            self.link.enqueue(now, sent, size, priority);
        }
        Ok(coded)
    }

    /// The link goes on until `now`.
    fn advance(&mut self, now: Timestamp) {
        for arrival in self.link.advance(now) {
            let frame = arrival.frame;
            if frame.display && !frame.lost {
                let taken = self.video.time(frame.picture);
                self.latency[frame.picture] = Some(arrival.at.since(taken));
            }
            for news in self.receiver.arrived(frame) {
                self.news
                    .push(Reverse((arrival.at + self.path.rtt / 2, news)));
            }
        }
    }

    /// What has come back until `now`.
    fn hear(&mut self, now: Timestamp) {
        while let Some(Reverse((at, news))) = self.news.peek().copied() {
            if at > now {
                break;
            }
            self.news.pop();
            self.encoder.set_time(at);
            match news {
                News::Request(index) => {
                    self.encoder.request(stream(index));
                    self.reported.push_back(self.losses.len());
                    self.losses.push(Loss { answered: None });
                }
                News::Complete(index, number, generation) => {
                    self.encoder.complete(Complete {
                        stream: stream(index),
                        number,
                        generation,
                    });
                }
            }
        }
    }
}

/// Each stream decoded as it was coded and, if frames are lost, as it arrived.
struct Decoders<'a> {
    video: &'a Video,
    coded: [Option<Decoder>; 2],
    arrived: Option<[Option<Decoder>; 2]>,
    shown: Option<gst::Buffer>,
}

impl<'a> Decoders<'a> {
    fn new(video: &'a Video, losses: bool) -> Result<Self> {
        Ok(Self {
            video,
            coded: [None, None],
            arrived: losses.then_some([None, None]),
            shown: None,
        })
    }

    fn background(&mut self, frame: &Coded) -> Result<()> {
        let i = frame.stream.index();
        decode(self.video, &mut self.coded[i], frame)?;
        if let Some(arrived) = &mut self.arrived {
            decode(self.video, &mut arrived[i], frame)?;
        }
        Ok(())
    }

    /// What is shown, and what the encoder has, beside the source.
    fn display(
        &mut self,
        number: usize,
        frame: &Coded,
        arrives: bool,
    ) -> Result<(Likeness, Likeness)> {
        let i = frame.stream.index();
        let whole = decode(self.video, &mut self.coded[i], frame)?
            .context("the decoder gave no picture for a whole stream")?;
        let reconstructed = self.video.compare(number, &whole)?;
        let Some(arrived) = &mut self.arrived else {
            return Ok((reconstructed, reconstructed));
        };
        if arrives && let Some(picture) = decode(self.video, &mut arrived[i], frame)? {
            self.shown = Some(picture);
        }
        // Where nothing new can be shown, the last picture stays.
        let likeness = match &self.shown {
            Some(shown) => self.video.compare(number, shown)?,
            None => Likeness::NONE,
        };
        Ok((likeness, reconstructed))
    }
}

fn decode(
    video: &Video,
    decoder: &mut Option<Decoder>,
    frame: &Coded,
) -> Result<Option<gst::Buffer>> {
    let decoder = match decoder {
        Some(decoder) => decoder,
        none => none.insert(Decoder::new(video)?),
    };
    decoder.decode(&frame.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dualstream_clip::source::Size;

    const FPS: u32 = 30;

    fn video(count: usize) -> Video {
        static INIT: std::sync::Once = std::sync::Once::new();
        INIT.call_once(|| {
            gst::init().expect("GStreamer");
            gstdualstream::plugin_register_static().expect("the plugin");
        });
        let size = Size {
            width: 320,
            height: 180,
        };
        Video::read(None, size, FPS, count).expect("the test pattern")
    }

    fn session(scheme: Scheme, capacity: Capacity, lost: &[usize]) -> Record {
        const COUNT: usize = 120;
        let video = video(COUNT);
        let path = Path {
            capacity,
            target_share: 0.95,
            one_way: Duration::from_millis(20),
            rtt: Duration::from_millis(40),
        };
        let set_up = SetUp {
            scheme,
            target: path.target(Timestamp::ZERO),
            fps: FPS,
            refresh: Duration::from_secs(1),
            vbv_frames: 1.0,
            dual_properties: None,
        };
        run(&set_up, &video, &path, COUNT, lost, |_| {}).expect("a session")
    }

    fn constant() -> Capacity {
        Capacity::Constant(Bitrate::from_kbps(1000))
    }

    #[test]
    fn each_scheme_shows_every_picture_within_its_means() {
        for scheme in Scheme::ALL {
            let record = session(scheme, constant(), &[]);
            let latest = record.pictures[30..].iter().map(|p| p.latency).max();
            let bytes: u64 = record
                .pictures
                .iter()
                .map(|p| p.display_bytes + p.background_bytes)
                .sum();
            assert!(
                record.pictures.iter().all(|p| p.latency.is_some()),
                "{scheme}"
            );
            assert!(
                record.pictures.iter().all(|p| p.likeness.psnr > 20.0),
                "{scheme}"
            );
            assert!(bytes * 8 / 4 < 1_050_000, "{scheme}: {bytes} bytes in 4 s");
            let tight = latest < Some(Some(Duration::from_millis(70)));
            assert_eq!(tight, scheme != Scheme::Vanilla, "{scheme}: {latest:?}");
            let keys = record.pictures.iter().filter(|p| p.display_key).count();
            let expected = match scheme {
                // x264enc marks each begin of a wave as one.
                Scheme::Vanilla | Scheme::Tight | Scheme::IntraRefresh => 4,
                Scheme::Infinite | Scheme::Dual => 1,
            };
            assert_eq!(keys, expected, "{scheme}");
            let switches = record.pictures.iter().filter(|p| p.switched).count();
            assert_eq!(switches > 0, scheme == Scheme::Dual, "{scheme}: {switches}");
        }
    }

    #[test]
    fn a_loss_is_reported_after_the_round_trip_and_answered() {
        for scheme in [Scheme::Tight, Scheme::Dual] {
            let record = session(scheme, constant(), &[80, 81]);
            let lost: Vec<_> = (0..120)
                .filter(|n| record.pictures[*n].latency.is_none())
                .collect();
            assert_eq!(lost, [80, 81], "{scheme}");
            let [loss] = record.losses[..] else {
                panic!("{scheme}: {:?}", record.losses);
            };
            // 82 arrives 20 ms and its own size after it was taken, the
            // request 20 ms later.
            let answered = loss.answered.expect("an answer");
            assert!((84..=85).contains(&answered), "{scheme}: {answered}");
            let broken = &record.pictures[83];
            assert!(
                broken.reconstructed.psnr > broken.likeness.psnr + 1.0,
                "{scheme}"
            );
            let clean = &record.pictures[answered];
            assert!(
                clean.reconstructed.psnr - clean.likeness.psnr < 0.1,
                "{scheme}"
            );
        }
    }

    #[test]
    fn the_rate_follows_a_trace() {
        // 1200 kbit/s for 2 s, then 300.
        let mut text = String::new();
        for ms in (10..2000).step_by(10).chain((2000..8000).step_by(40)) {
            text.push_str(&format!("{ms}\n"));
        }
        let trace = text.parse().expect("a trace");
        let record = session(Scheme::Dual, Capacity::Trace(trace, 1500), &[]);
        let rate = |range: std::ops::Range<usize>| {
            let bytes: u64 = record.pictures[range].iter().map(|p| p.display_bytes).sum();
            bytes as f64 * 8.0 / 1000.0
        };
        assert!(rate(30..60) > 700.0, "{} kbit/s", rate(30..60));
        assert!(rate(90..120) < 400.0, "{} kbit/s", rate(90..120));
    }
}
