// SPDX-License-Identifier: MPL-2.0
//! What lives from READY to PAUSED and back: packets in, FEC packets out.

use dualstream_common::{DataSize, Timestamp};
use flexfec_core::block::{Block, BlockLimits, Rejected};
use flexfec_core::controller::{Action, ConfigError, Controller, Frame};
use flexfec_core::encoder::{Encoder, EncoderConfig};
use flexfec_core::mask::Mask;
use flexfec_core::rtp::Header;
use gst::glib;

use super::estimate::Told;
use super::feedback::Feedback;
use super::settings::Settings;
use crate::rtp::{self, Bytes, FrameInfo, Ids};

/// IPv4 and UDP headers, which the link carries too.
const PACKET_OVERHEAD: u64 = 28;

/// A stream that is protected.
struct Stream {
    ssrc: u32,
    /// Of the frame that is not complete yet.
    timestamp: Option<u32>,
    /// Of that frame, as its first packet says.
    info: FrameInfo,
}

/// Packets in the block since the last frame was complete.
#[derive(Default)]
struct Open {
    packets: usize,
    bytes: DataSize,
    key: bool,
    /// All of it.
    background: bool,
}

/// The last packet in the block.
#[derive(Clone, Copy)]
struct Last {
    timestamp: u32,
    pts: Option<gst::ClockTime>,
    dts: Option<gst::ClockTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub media: u64,
    pub media_bytes: u64,
    /// Of other SSRCs.
    pub others: u64,
    pub fec: u64,
    pub fec_bytes: u64,
    pub frames: u64,
    pub blocks: u64,
    pub protected: u64,
    pub unprotected: u64,
    pub malformed: u64,
    pub wrong_fields: u64,
}

/// What a packet leads to.
#[derive(Default)]
pub struct Step {
    /// FEC packets that go before it.
    pub before: Vec<gst::Buffer>,
    /// Its frame is complete.
    pub ends_frame: bool,
    /// It is to be marked so, for another encoder.
    pub important: bool,
    /// Something is to be told upstream.
    pub tells: bool,
}

pub struct State {
    pub controller: Controller,
    pub counts: Counts,
    pub told: Told,
    pub feedback: Feedback,
    pub flushing: bool,
    /// What the thread is waiting for, and until when.
    pub wait: Option<(Timestamp, gst::SingleShotClockId)>,
    /// It waits for something to do.
    pub idle: bool,
    settings: Settings,
    ssrc: u32,
    block: Block,
    encoder: Option<Encoder>,
    sequence: u16,
    ids: Ids,
    /// Caps upstream are to be looked at.
    ask: bool,
    caps: Option<gst::Caps>,
    caps_ssrc: Option<u32>,
    /// Of FEC packets, as they were announced.
    announced: Option<gst::Caps>,
    /// Nothing has changed since that they are made of.
    settled: bool,
    /// Protected if neither caps nor settings name one.
    first_ssrc: Option<u32>,
    /// One for each SSRC that is protected, as far as seen.
    streams: Vec<Stream>,
    open: Open,
    last: Option<Last>,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    /// Protected, and all else, that passed since the controller was last told.
    passed: DataSize,
    others: DataSize,
    /// For packets in several memories.
    scratch: Vec<u8>,
}

fn on_the_link(bytes: usize) -> DataSize {
    DataSize::from_bytes((bytes as u64).saturating_add(PACKET_OVERHEAD))
}

/// What the first packet of a frame says of it.
fn frame_info(buffer: &gst::BufferRef, id: Option<u8>) -> FrameInfo {
    let info = id.and_then(|id| rtp::frame_info(buffer, id));
    info.unwrap_or_else(|| FrameInfo {
        key: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
        background: false,
    })
}

impl State {
    pub fn new(settings: Settings, ssrc: u32) -> Result<Self, ConfigError> {
        Ok(Self {
            controller: Controller::new(settings.config())?,
            counts: Counts::default(),
            told: Told::default(),
            feedback: Feedback::default(),
            flushing: true,
            wait: None,
            idle: false,
            settings,
            ssrc,
            block: Block::new(BlockLimits::default()),
            encoder: None,
            sequence: glib::random_int() as u16,
            ids: Ids::default(),
            ask: true,
            caps: None,
            caps_ssrc: None,
            announced: None,
            settled: false,
            first_ssrc: None,
            streams: Vec::new(),
            open: Open::default(),
            last: None,
            segment: None,
            passed: DataSize::ZERO,
            others: DataSize::ZERO,
            scratch: Vec::new(),
        })
    }

    /// FEC packets are made, or would be.
    pub fn is_on(&self) -> bool {
        self.settings.pt().is_some() || self.settings.dry_run
    }

    pub fn configure(&mut self, settings: Settings, ssrc: u32) -> Result<(), ConfigError> {
        self.controller.configure(settings.config())?;
        let same = (self.settings.pt, self.settings.format, self.ssrc)
            == (settings.pt, settings.format, ssrc);
        if !same {
            self.encoder = None;
        }
        (self.settings, self.ssrc) = (settings, ssrc);
        self.settled = false;
        if !self.is_on() {
            self.give_up_block();
        }
        Ok(())
    }

    /// Media packets that wait for FEC packets.
    pub fn held(&self) -> u64 {
        self.block.len() as u64
    }

    /// Drops what is held, as after a flush.
    pub fn empty(&mut self) {
        self.give_up_block();
        self.segment = None;
    }

    fn give_up_block(&mut self) {
        self.counts.unprotected += self.block.len() as u64;
        self.block.clear();
        self.controller.discard();
        self.open = Open::default();
        self.streams.clear();
        self.last = None;
    }

    // Caps and segments.

    pub fn set_caps(&mut self, caps: &gst::CapsRef) {
        self.learn(caps);
        // A funnel leaves only some of the fields.
        self.ask = caps.structure(0).is_none_or(|s| !s.has_field("media"));
        self.caps_ssrc = caps.structure(0).and_then(|s| s.get("ssrc").ok());
        self.caps = Some(caps.to_owned());
        self.settled = false;
    }

    /// Whether to look at caps upstream now. Once for each time.
    pub fn wants_caps(&mut self) -> bool {
        std::mem::take(&mut self.ask)
    }

    /// The same, to be asked again.
    pub fn asks_for_caps(&self) -> bool {
        self.ask
    }

    /// What caps here or upstream tell of header extensions.
    pub fn learn(&mut self, caps: &gst::CapsRef) {
        let twcc = self.ids.twcc;
        self.ids.learn(caps);
        if self.ids.twcc != twcc {
            self.encoder = None;
        }
    }

    /// The caps of FEC packets, if they are to be announced. The session takes
    /// from them clock rate and header extensions.
    pub fn announce(&mut self) -> Option<gst::Caps> {
        if self.settled {
            return None;
        }
        let pt = self.settings.pt()?;
        let mut fec = gst::Structure::builder("application/x-rtp")
            .field("media", "video")
            .field("clock-rate", 90_000i32)
            .field("encoding-name", self.settings.format.encoding_name())
            .field("payload", i32::from(pt))
            .field("ssrc", self.ssrc)
            .build();
        for (name, value) in self.caps.as_ref()?.structure(0)?.iter() {
            if name.starts_with("extmap-") {
                fec.set_value(name, value.clone());
            }
        }
        self.settled = true;
        let fec: gst::Caps = std::iter::once(fec).collect();
        if self.announced.as_ref() == Some(&fec) {
            return None;
        }
        self.announced = Some(fec.clone());
        Some(fec)
    }

    /// What is held keeps its running time.
    pub fn set_segment(&mut self, segment: &gst::Segment) {
        let new = segment.downcast_ref::<gst::ClockTime>().cloned();
        if let (Some(last), Some(old), Some(new)) = (&mut self.last, &self.segment, &new) {
            for time in [&mut last.pts, &mut last.dts] {
                *time = new.position_from_running_time(old.to_running_time(*time));
            }
        }
        self.segment = new;
    }

    // Packets.

    /// Before the packet is passed on. `None` if it is no RTP packet.
    pub fn packet(&mut self, now: impl Fn() -> Timestamp, buffer: &gst::BufferRef) -> Option<Step> {
        let mut bytes = Bytes::of(buffer, &mut self.scratch)?;
        let step = self.rtp_packet(now, buffer, &bytes);
        bytes.done(&mut self.scratch);
        step
    }

    #[inline]
    fn rtp_packet(
        &mut self,
        now: impl Fn() -> Timestamp,
        buffer: &gst::BufferRef,
        packet: &[u8],
    ) -> Option<Step> {
        let header = Header::parse(packet).ok()?;
        let on = self.is_on();
        if !self.protects(header.ssrc) {
            if on {
                self.others += on_the_link(packet.len());
            }
            self.counts.others += 1;
            return Some(Step::default());
        }
        self.counts.media += 1;
        self.counts.media_bytes += packet.len() as u64;
        if !on {
            self.counts.unprotected += 1;
            return Some(Step::default());
        }
        self.passed += on_the_link(packet.len());
        // Without a marker the next timestamp tells that a frame is complete.
        let index = self.stream(header.ssrc);
        let stream = &mut self.streams[index];
        let mut before = Vec::new();
        if stream.timestamp != Some(header.timestamp) {
            let ends_other = stream.timestamp.replace(header.timestamp).is_some();
            stream.info = frame_info(buffer, self.ids.frame);
            if ends_other {
                before = self.end_frame(now());
            }
        }
        let mut pushed = self.block.push(packet, &self.ids.mutable);
        if pushed.is_err_and(Rejected::fits_next) {
            // As if it were a frame: the controller is to know what it is of.
            before.append(&mut self.end_frame(now()));
            before.append(&mut self.flush(now()));
            pushed = self.block.push(packet, &self.ids.mutable);
        }
        if pushed.is_ok() {
            self.add_to_frame(self.streams[index].info, packet.len());
            self.last = Some(Last {
                timestamp: header.timestamp,
                pts: buffer.pts(),
                dts: buffer.dts(),
            });
        } else {
            self.counts.unprotected += 1;
        }
        if header.marker {
            self.streams[index].timestamp = None;
        }
        Some(Step {
            before,
            ends_frame: header.marker,
            important: self.settings.dry_run && self.open.key,
            tells: self.told.waits(),
        })
    }

    fn protects(&mut self, ssrc: u32) -> bool {
        let named = &self.settings.protected;
        if !named.is_empty() {
            return named.contains(&ssrc);
        }
        self.caps_ssrc
            .unwrap_or_else(|| *self.first_ssrc.get_or_insert(ssrc))
            == ssrc
    }

    /// Where the stream is.
    fn stream(&mut self, ssrc: u32) -> usize {
        let known = self.streams.iter().position(|s| s.ssrc == ssrc);
        known.unwrap_or_else(|| {
            // Its extensions may be news.
            self.ask = true;
            self.streams.push(Stream {
                ssrc,
                timestamp: None,
                info: FrameInfo::default(),
            });
            self.streams.len() - 1
        })
    }

    fn add_to_frame(&mut self, info: FrameInfo, bytes: usize) {
        let open = &mut self.open;
        open.key |= info.key;
        open.background = info.background && (open.packets == 0 || open.background);
        open.packets += 1;
        open.bytes += on_the_link(bytes);
    }

    /// All packets of a frame are in the block. Packets of another stream's
    /// frame that has only begun count as part of it.
    pub fn end_frame(&mut self, now: Timestamp) -> Vec<gst::Buffer> {
        let open = std::mem::take(&mut self.open);
        if open.packets == 0 {
            return Vec::new();
        }
        self.counts.frames += 1;
        let action = self.controller.frame(
            now,
            Frame {
                packets: open.packets,
                bytes: open.bytes,
                key: open.key,
                background: open.background,
            },
        );
        self.act(now, action)
    }

    /// The block cannot wait any longer, not even for the rest of a frame.
    pub fn flush(&mut self, now: Timestamp) -> Vec<gst::Buffer> {
        let action = self.controller.flush(now, self.block.len());
        let fec = self.act(now, action);
        self.counts.unprotected += self.block.len() as u64;
        self.block.clear();
        self.open = Open::default();
        fec
    }

    /// The same if it is time.
    pub fn flush_due(&mut self, now: Timestamp) -> Vec<gst::Buffer> {
        if self.controller.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.flush(now)
    }

    fn act(&mut self, now: Timestamp, action: Action) -> Vec<gst::Buffer> {
        match action {
            Action::Wait => Vec::new(),
            Action::Protect(mask) => self.protect(now, &mask),
        }
    }

    fn protect(&mut self, now: Timestamp, mask: &Mask) -> Vec<gst::Buffer> {
        let packets = self.block.len() as u64;
        let made = self.encode(mask);
        let mut spent = made.iter().fold(DataSize::ZERO, |sum, buffer| {
            sum + on_the_link(buffer.size())
        });
        if self.settings.dry_run && packets > 0 {
            // Another encoder's packets have about the size of the media's.
            let rows = mask.rows().len() as u64;
            spent = DataSize::from_bytes(rows.saturating_mul(self.block.bytes() as u64 / packets));
        }
        self.tell_others(now);
        self.controller
            .sent(now, std::mem::take(&mut self.passed), spent);
        if made.is_empty() {
            self.counts.unprotected += packets;
        } else {
            self.counts.blocks += 1;
            self.counts.protected += packets;
        }
        self.block.clear();
        if let Some(target) = self.told.target() {
            self.told.update(now, self.controller.media_target(target));
        }
        made
    }

    /// Tells the controller what is not protected.
    pub fn tell_others(&mut self, now: Timestamp) {
        let others = std::mem::take(&mut self.others);
        self.controller.others(now, others);
    }

    fn encode(&mut self, mask: &Mask) -> Vec<gst::Buffer> {
        let (Some(pt), Some(last)) = (self.settings.pt(), self.last) else {
            return Vec::new();
        };
        if self.encoder.is_none() {
            self.encoder = Encoder::new(EncoderConfig {
                format: self.settings.format.into(),
                ssrc: self.ssrc,
                payload_type: pt,
                first_sequence: self.sequence,
                // The session knows the one-byte header only.
                transport_cc_id: self.ids.twcc.filter(|id| *id < 15),
            })
            .ok();
        }
        let Some(encoder) = &mut self.encoder else {
            return Vec::new();
        };
        let mut made = Vec::with_capacity(mask.rows().len());
        let result = encoder.encode(&self.block, mask.rows(), last.timestamp, |packet| {
            self.counts.fec += 1;
            self.counts.fec_bytes += packet.len() as u64;
            made.push(rtp::buffer(packet, (last.pts, last.dts)));
        });
        debug_assert!(result.is_ok(), "{result:?}");
        self.sequence = encoder.sequence();
        made
    }

    /// Percentages that the controller asks for, of all frames and key frames.
    pub fn recommended(&self) -> [u32; 2] {
        if !self.is_on() {
            return [0, 0];
        }
        let stats = self.controller.stats();
        [stats.overhead, stats.key_overhead].map(|share| (share.value() * 100.0).ceil() as u32)
    }

    // The thread.

    /// Makes the thread look again.
    pub fn wake(&mut self) -> Wake {
        Wake {
            wait: self.wait.take().map(|(_, id)| id),
            idle: std::mem::take(&mut self.idle),
        }
    }

    /// The same, but only if something is due before it wakes anyway.
    pub fn wake_if_due(&mut self) -> Wake {
        let sooner = match (&self.wait, self.controller.due()) {
            (Some((until, _)), Some(due)) => due < *until,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if sooner { self.wake() } else { Wake::default() }
    }
}

/// How to wake the thread: without the lock, which it takes at once.
#[derive(Default)]
#[must_use]
pub struct Wake {
    pub wait: Option<gst::SingleShotClockId>,
    pub idle: bool,
}
