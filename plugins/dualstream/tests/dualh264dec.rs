// SPDX-License-Identifier: MPL-2.0
//! dualh264dec on streams that x264enc makes here, on a clock that moves only
//! when the test says so.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Once};

use dualstream_core::wire::{FrameTag, Stream};
use gst::prelude::*;
use gst_check::{Harness, TestClock};
use gst_video::prelude::*;
use gstdualstream::meta;

const FRAME: gst::ClockTime = gst::ClockTime::from_mseconds(33);

fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstdualstream::plugin_register_static().unwrap();
    });
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Size(u32, u32);

const SMALL: Size = Size(320, 240);

fn info(size: Size) -> gst_video::VideoInfo {
    gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, size.0, size.1)
        .fps(gst::Fraction::new(30, 1))
        .build()
        .unwrap()
}

/// Luma of picture `n`: a pattern that moves, and no two of which are alike.
fn luma(n: u16, x: u32, y: u32) -> u8 {
    let n = u32::from(n);
    let wave = (f64::from(x + 3 * n) * 0.05).sin() + (f64::from(y + 2 * n) * 0.07).cos();
    (128.0 + 45.0 * wave) as u8
}

fn picture(n: u16, size: Size) -> gst::Buffer {
    let info = info(size);
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    {
        let buffer = buffer.get_mut().unwrap();
        buffer.set_pts(FRAME * u64::from(n));
        buffer.set_duration(FRAME);
        let mut map = buffer.map_writable().unwrap();
        map.fill(128);
        let stride = info.stride()[0] as u32;
        for y in 0..size.1 {
            for x in 0..size.0 {
                map[(y * stride + x) as usize] = luma(n, x, y);
            }
        }
    }
    buffer
}

/// Of the luma of a shown picture against picture `n`, in dB.
fn psnr(buffer: &gst::Buffer, n: u16, size: Size) -> f64 {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info(size)).unwrap();
    let stride = frame.plane_stride()[0] as usize;
    let data = frame.plane_data(0).unwrap();
    let mut sum = 0.0;
    for y in 0..size.1 {
        for x in 0..size.0 {
            let d = f64::from(data[y as usize * stride + x as usize]) - f64::from(luma(n, x, y));
            sum += d * d;
        }
    }
    let mse = sum / f64::from(size.0 * size.1);
    10.0 * (255.0 * 255.0 / mse.max(1e-9)).log10()
}

/// One stream's encoder: one picture in, one coded unit out.
struct Encoder {
    harness: Harness,
    size: Size,
}

impl Encoder {
    fn new(size: Size) -> Self {
        Self::with(size, "threads=1")
    }

    fn with(size: Size, options: &str) -> Self {
        init();
        let mut harness = Harness::new_parse(&format!(
            "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=100000 bitrate=2000 \
             option-string=scenecut=0 {options} ! \
             capsfilter caps=video/x-h264,stream-format=byte-stream,alignment=au"
        ));
        harness.set_src_caps(info(size).to_caps().unwrap());
        Self { harness, size }
    }

    fn code(&mut self, n: u16, key: bool) -> gst::Buffer {
        if key {
            let event = gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build();
            self.harness.push_upstream_event(event);
        }
        let coded = self.harness.push_and_pull(picture(n, self.size)).unwrap();
        assert_eq!(key, !coded.flags().contains(gst::BufferFlags::DELTA_UNIT));
        // Its time stamps are far from zero; give it the picture's.
        let mut buffer = coded.copy_deep().unwrap();
        let b = buffer.get_mut().unwrap();
        b.set_pts(FRAME * u64::from(n));
        b.set_dts(gst::ClockTime::NONE);
        b.unset_flags(gst::BufferFlags::DISCONT);
        buffer
    }
}

fn tagged(mut buffer: gst::Buffer, tag: FrameTag) -> gst::Buffer {
    meta::set(buffer.make_mut(), tag);
    buffer
}

fn tag(stream: Stream, number: u16, generation: u8) -> FrameTag {
    FrameTag {
        stream,
        background: false,
        key: false,
        acknowledged: false,
        number,
        generation,
    }
}

/// The decoder with a harness on each pad, and both encoders.
struct Rig {
    inputs: [Harness; 2],
    encoders: [Encoder; 2],
    display: Stream,
    generation: u8,
    started: [bool; 2],
}

impl Rig {
    fn new(decoder: &str) -> Self {
        Self::with(decoder, Encoder::new(SMALL), Encoder::new(SMALL))
    }

    fn with(decoder: &str, zero: Encoder, one: Encoder) -> Self {
        let element = gst::ElementFactory::make("dualh264dec")
            .property("decoder", decoder)
            .build()
            .unwrap();
        let mut zero_in = Harness::with_element(&element, Some("sink_0"), Some("src"));
        let mut one_in = Harness::with_element(&element, Some("sink_1"), None);
        for h in [&mut zero_in, &mut one_in] {
            h.set_src_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
        }
        Self {
            inputs: [zero_in, one_in],
            encoders: [zero, one],
            display: Stream::Zero,
            generation: 0,
            started: [false; 2],
        }
    }

    fn element(&self) -> gst::Element {
        self.inputs[0].element().unwrap()
    }

    fn stat(&self, name: &str) -> u64 {
        let stats: gst::Structure = self.element().property("stats");
        stats.get(name).unwrap()
    }

    fn push(&mut self, stream: Stream, buffer: gst::Buffer) {
        self.inputs[stream.index()].push(buffer).unwrap();
    }

    fn display_unit(&mut self, n: u16, key: bool, acknowledged: bool) -> gst::Buffer {
        let stream = self.display;
        let key = key || !std::mem::replace(&mut self.started[stream.index()], true);
        let coded = self.encoders[stream.index()].code(n, key);
        let tag = FrameTag {
            key,
            acknowledged,
            ..tag(stream, n, self.generation)
        };
        tagged(coded, tag)
    }

    fn show(&mut self, n: u16) {
        let unit = self.display_unit(n, false, false);
        self.push(self.display, unit);
    }

    fn background(&mut self, n: u16, key: bool) {
        let stream = self.display.other();
        self.started[stream.index()] = true;
        let coded = self.encoders[stream.index()].code(n, key);
        let tag = FrameTag {
            key,
            background: true,
            acknowledged: !key,
            ..tag(stream, n, self.generation)
        };
        self.push(stream, tagged(coded, tag));
    }

    fn commit(&mut self, n: u16) {
        self.display = self.display.other();
        self.generation += 1;
        let unit = self.display_unit(n, false, true);
        self.push(self.display, unit);
    }

    #[track_caller]
    fn pull(&mut self) -> gst::Buffer {
        pull(&mut self.inputs[0])
    }

    /// Pictures `numbers` come next, each good.
    #[track_caller]
    fn expect(&mut self, numbers: impl IntoIterator<Item = u16>) {
        for n in numbers {
            let buffer = self.pull();
            let number = meta::of(&buffer).expect("the tag is gone").number;
            assert_eq!(number, n);
            assert_eq!(buffer.pts(), Some(FRAME * u64::from(n)));
            let psnr = psnr(&buffer, n, SMALL);
            assert!(psnr > 32.0, "picture {n}: {psnr:.1} dB");
            assert!(!buffer.flags().contains(gst::BufferFlags::CORRUPTED));
        }
    }

    /// Events that went upstream on a stream's pad since the last look.
    fn upstream(&mut self, stream: Stream) -> Upstream {
        let mut seen = Upstream::default();
        while let Some(event) = self.inputs[stream.index()].try_pull_upstream_event() {
            if gst_video::UpstreamForceKeyUnitEvent::parse(&event).is_ok() {
                seen.recoveries += 1;
            } else if let Some(s) = event
                .structure()
                .filter(|s| s.name() == "application/x-frame-complete")
            {
                assert_eq!(s.get::<u32>("stream").unwrap(), stream.index() as u32);
                assert!(s.get::<bool>("decodable").unwrap());
                s.get::<bool>("key").unwrap();
                s.get::<u32>("generation").unwrap();
                seen.completes.push(s.get("frame").unwrap());
            }
        }
        seen
    }

    /// Moves the clock to `ms`, firing what is due on the way.
    fn advance(&mut self, from: u64, to: u64) {
        for ms in (from..=to).step_by(10) {
            let clock = self.element().clock().unwrap();
            let clock = clock.downcast::<TestClock>().unwrap();
            clock.set_time(gst::ClockTime::from_mseconds(ms));
            // The output task acts on its own: let it come to rest.
            self.rest();
            while clock.process_next_clock_id().is_some() {
                self.rest();
            }
        }
    }

    fn rest(&self) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Like Harness::pull, which waits for a minute.
#[track_caller]
fn pull(harness: &mut Harness) -> gst::Buffer {
    for _ in 0..2000 {
        if let Some(buffer) = harness.try_pull() {
            return buffer;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("no picture came");
}

#[derive(Debug, Default, PartialEq)]
struct Upstream {
    recoveries: u32,
    completes: Vec<u32>,
}

#[test]
fn each_picture_is_shown_once_in_order_through_refresh_and_commit() {
    for decoder in ["avdec_h264", "openh264dec"] {
        let mut rig = Rig::new(decoder);
        for n in 0..5 {
            rig.show(n);
        }
        rig.expect(0..5);
        assert_eq!(rig.upstream(Stream::Zero).completes, [] as [u32; 0]);
        rig.background(4, true);
        assert_eq!(rig.upstream(Stream::One).completes, [4], "{decoder}");
        for n in 5..8 {
            rig.show(n);
        }
        rig.background(7, false);
        assert_eq!(rig.upstream(Stream::One).completes, [7], "{decoder}");
        rig.commit(8);
        for n in 9..12 {
            rig.show(n);
        }
        rig.expect(5..12);
        assert_eq!(rig.upstream(Stream::Zero).completes, [7], "{decoder}");
        // And back, to what is known of stream 0, without another key frame.
        rig.background(11, false);
        assert_eq!(rig.upstream(Stream::Zero).completes, [11], "{decoder}");
        rig.commit(12);
        rig.show(13);
        rig.expect(12..14);
        let e = rig.element();
        assert_eq!(e.property::<i32>("display-stream"), 0);
        assert_eq!(rig.stat("switches"), 2);
        assert_eq!(rig.stat("background-decoded"), 3);
        assert_eq!((rig.stat("shown"), rig.stat("pictures")), (14, 17));
        assert_eq!(rig.stat("recoveries-asked"), 0, "{decoder}");
    }
}

#[test]
fn complete_is_repeated_and_a_loss_asked_for_with_back_off() {
    let mut rig = Rig::new("avdec_h264");
    for n in 0..3 {
        rig.show(n);
    }
    rig.background(2, true);
    rig.expect(0..3);
    rig.advance(0, 500);
    // At once and after 50, 150, 350 ms; the next at 750.
    assert_eq!(rig.upstream(Stream::One).completes, [2; 4]);
    // Frame 3 is lost: 4 comes after a loss.
    rig.display_unit(3, false, false);
    let mut four = rig.display_unit(4, false, false);
    four.make_mut().set_flags(gst::BufferFlags::DISCONT);
    rig.push(Stream::Zero, four);
    rig.show(5);
    for n in [4, 5] {
        let shown = rig.pull();
        assert_eq!(meta::of(&shown).unwrap().number, n, "goes on showing");
        assert!(shown.flags().contains(gst::BufferFlags::CORRUPTED));
    }
    assert_eq!(rig.upstream(Stream::Zero).recoveries, 1, "once per loss");
    rig.advance(500, 790);
    assert_eq!(rig.upstream(Stream::Zero).recoveries, 0);
    rig.advance(790, 1300);
    assert_eq!(rig.upstream(Stream::Zero).recoveries, 1, "after 300 ms");
    rig.advance(1300, 1500);
    assert_eq!(
        rig.upstream(Stream::Zero).recoveries,
        1,
        "after 600 ms more"
    );
    let six = rig.display_unit(6, true, false);
    rig.push(Stream::Zero, six);
    rig.expect(6..7);
    rig.advance(1500, 4000);
    assert_eq!(
        rig.upstream(Stream::Zero).recoveries,
        0,
        "a key frame ends it"
    );
}

#[test]
fn a_commit_to_the_acknowledged_standby_mends_a_loss_without_key_frame() {
    let mut rig = Rig::new("avdec_h264");
    for n in 0..3 {
        rig.show(n);
    }
    rig.background(2, true);
    rig.expect(0..3);
    rig.display_unit(3, false, false);
    rig.show(4);
    assert_eq!(
        rig.upstream(Stream::Zero).recoveries,
        1,
        "the number is missing"
    );
    rig.pull();
    rig.commit(5);
    rig.show(6);
    rig.expect(5..7);
    rig.advance(0, 3000);
    assert_eq!(rig.upstream(Stream::Zero).recoveries, 0);
    assert_eq!(rig.upstream(Stream::One).recoveries, 0);
}

/// Whatever bytes come, nothing breaks for good.
#[test]
fn broken_bytes_are_survived() {
    for decoder in ["avdec_h264", "openh264dec"] {
        let mut rig = Rig::new(decoder);
        for n in 0..3 {
            rig.show(n);
        }
        rig.expect(0..3);
        let mut seed = 12345u32;
        for n in 3..30 {
            let mut unit = rig.display_unit(n, false, false);
            {
                let unit = unit.make_mut();
                let mut map = unit.map_writable().unwrap();
                let size = map.len() as u32;
                for _ in 0..40 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let at = 5 + (seed >> 8) % (size - 5);
                    map[at as usize] = seed as u8;
                }
            }
            rig.push(Stream::Zero, unit);
        }
        assert!(rig.upstream(Stream::Zero).recoveries >= 1, "{decoder}");
        // openh264dec swallows the first key frame after such a time; then it
        // is asked for another.
        let mut wanted = true;
        for n in 30..60 {
            let unit = rig.display_unit(n, wanted, false);
            rig.push(Stream::Zero, unit);
            let at = u64::from(n) * 100;
            rig.advance(at, at + 60);
            wanted = rig.upstream(Stream::Zero).recoveries > 0;
            let mut newest = None;
            while let Some(shown) = rig.inputs[0].try_pull() {
                newest = Some(shown);
            }
            let sound = newest.filter(|s| {
                meta::of(s).unwrap().number == n && !s.flags().contains(gst::BufferFlags::CORRUPTED)
            });
            if let Some(shown) = sound {
                assert!(psnr(&shown, n, SMALL) > 32.0, "{decoder}");
                rig.show(n + 1);
                rig.expect(n + 1..n + 2);
                break;
            }
            assert!(n < 50, "{decoder}: not shown again");
        }
    }
}

#[test]
fn a_background_key_frame_with_a_slice_missing_is_not_said_complete() {
    let four_slices = || Encoder::with(SMALL, "sliced-threads=true threads=4");
    let mut rig = Rig::with("avdec_h264", four_slices(), four_slices());
    for n in 0..3 {
        rig.show(n);
    }
    rig.expect(0..3);
    let coded = rig.encoders[1].code(2, true);
    let map = coded.map_readable().unwrap();
    let starts: Vec<_> = map
        .windows(4)
        .enumerate()
        .filter(|(_, w)| w[..3] == [0, 0, 1] && w[3] & 0x1f == 5)
        .map(|(at, _)| at)
        .collect();
    assert!(starts.len() > 1);
    for missing in 0..starts.len() {
        let mut bytes = map.to_vec();
        let end = starts.get(missing + 1).copied().unwrap_or(bytes.len());
        bytes.drain(starts[missing]..end);
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        let b = buffer.get_mut().unwrap();
        b.set_pts(FRAME * (2 + missing as u64));
        b.set_flags(gst::BufferFlags::DISCONT);
        let tag = FrameTag {
            key: true,
            background: true,
            ..tag(Stream::One, 2 + missing as u16, 0)
        };
        rig.push(Stream::One, tagged(buffer, tag));
        assert_eq!(
            rig.upstream(Stream::One),
            Upstream::default(),
            "slice {missing}"
        );
    }
    drop(map);
    rig.background(6, true);
    assert_eq!(rig.upstream(Stream::One).completes, [6]);
}

#[test]
fn without_tags_one_stream_is_decoded_as_by_any_decoder() {
    init();
    let mut encoder = Encoder::new(SMALL);
    let mut h = Harness::with_padnames("dualh264dec", Some("sink_0"), Some("src"));
    h.set_src_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
    for n in 0..10 {
        h.push(encoder.code(n, n == 0)).unwrap();
        let shown = pull(&mut h);
        assert_eq!(shown.pts(), Some(FRAME * u64::from(n)), "one in, one out");
        assert!(psnr(&shown, n, SMALL) > 32.0);
    }
    let stats: gst::Structure = h.element().unwrap().property("stats");
    assert!(!stats.get::<bool>("tagged").unwrap());
    assert_eq!(stats.get::<i32>("display-stream").unwrap(), -1);
    let mut late = encoder.code(11, false);
    late.make_mut().set_flags(gst::BufferFlags::DISCONT);
    h.push(late).unwrap();
    pull(&mut h);
    let mut asked = 0;
    while let Some(event) = h.try_pull_upstream_event() {
        asked += u32::from(gst_video::UpstreamForceKeyUnitEvent::parse(&event).is_ok());
    }
    assert_eq!(asked, 1);
    // Only this pad is linked: its end is the end.
    assert!(h.push_event(gst::event::Eos::new()));
    loop {
        let event = h.pull_event().unwrap();
        if event.type_() == gst::EventType::Eos {
            break;
        }
    }
}

#[test]
fn the_end_comes_when_both_linked_inputs_ended() {
    let mut rig = Rig::new("avdec_h264");
    rig.show(0);
    rig.expect(0..1);
    let mut events = VecDeque::new();
    let mut ended = |rig: &mut Rig| {
        rig.rest();
        while let Some(e) = rig.inputs[0].try_pull_event() {
            events.push_back(e.type_());
        }
        events.contains(&gst::EventType::Eos)
    };
    rig.inputs[0].push_event(gst::event::Eos::new());
    assert!(!ended(&mut rig));
    rig.inputs[1].push_event(gst::event::Eos::new());
    for _ in 0..1000 {
        if ended(&mut rig) {
            assert_eq!(
                events
                    .iter()
                    .filter(|t| **t != gst::EventType::Latency)
                    .collect::<Vec<_>>(),
                [
                    &gst::EventType::StreamStart,
                    &gst::EventType::Caps,
                    &gst::EventType::Segment,
                    &gst::EventType::Eos
                ]
            );
            return;
        }
    }
    panic!("no end");
}

#[test]
fn a_picture_that_is_ahead_at_a_commit_waits_for_the_other_stream() {
    let mut rig = Rig::new("avdec_h264");
    for n in 0..3 {
        rig.show(n);
    }
    rig.background(2, true);
    rig.expect(0..3);
    // 3 is on its way by stream 0 while 4 is committed to stream 1.
    let three = rig.display_unit(3, false, false);
    rig.commit(4);
    rig.rest();
    assert!(rig.inputs[0].try_pull().is_none(), "4 waits for 3");
    rig.push(Stream::Zero, three);
    rig.expect(3..5);
    // 5 never comes by stream 1 before the commit back: 6 waits its time.
    rig.background(5, false);
    rig.display_unit(5, false, false);
    rig.commit(6);
    rig.advance(0, 50);
    assert!(rig.inputs[0].try_pull().is_none(), "6 waits for 5");
    rig.advance(50, 70);
    rig.expect(6..7);
}

#[test]
fn the_resolution_changes_in_mid_stream() {
    for decoder in ["avdec_h264", "openh264dec"] {
        let mut rig = Rig::new(decoder);
        rig.show(0);
        rig.expect(0..1);
        let large = Size(640, 360);
        rig.encoders[0] = Encoder::new(large);
        let unit = rig.display_unit(1, true, false);
        rig.push(Stream::Zero, unit);
        let shown = rig.pull();
        assert!(psnr(&shown, 1, large) > 32.0, "{decoder}");
        let mut sizes = Vec::new();
        while let Some(e) = rig.inputs[0].try_pull_event() {
            if let gst::EventView::Caps(caps) = e.view() {
                let s = caps.caps().structure(0).unwrap();
                sizes.push((
                    s.get::<i32>("width").unwrap(),
                    s.get::<i32>("height").unwrap(),
                ));
            }
        }
        assert_eq!(sizes, [(320, 240), (640, 360)], "{decoder}");
    }
}

#[test]
fn metas_of_the_coded_units_go_with_the_pictures() {
    // openh264dec has h264parse before it.
    for decoder in ["avdec_h264", "openh264dec"] {
        let mut rig = Rig::new(decoder);
        let reference = gst::Caps::new_empty_simple("timestamp/x-test");
        for n in 0..4 {
            let mut unit = rig.display_unit(n, false, false);
            gst::ReferenceTimestampMeta::add(
                unit.make_mut(),
                &reference,
                gst::ClockTime::from_seconds(u64::from(n) + 7),
                gst::ClockTime::NONE,
            );
            rig.push(Stream::Zero, unit);
            let shown = rig.pull();
            let metas: Vec<_> = shown
                .iter_meta::<gst::ReferenceTimestampMeta>()
                .map(|m| m.timestamp().seconds())
                .collect();
            assert_eq!(metas, [u64::from(n) + 7], "{decoder}");
            assert_eq!(meta::of(&shown).unwrap().number, n, "{decoder}");
        }
    }
}

#[test]
fn a_flush_begins_anew_with_the_next_key_frame() {
    let mut rig = Rig::new("avdec_h264");
    for n in 0..3 {
        rig.show(n);
    }
    rig.expect(0..3);
    let seqnum = gst::Seqnum::next();
    for i in 0..2 {
        let h = &mut rig.inputs[i];
        assert!(h.push_event(gst::event::FlushStart::builder().seqnum(seqnum).build()));
    }
    for i in 0..2 {
        let h = &mut rig.inputs[i];
        assert!(h.push_event(gst::event::FlushStop::builder(true).seqnum(seqnum).build()));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(h.push_event(gst::event::Segment::new(&segment)));
    }
    let p = rig.display_unit(3, false, false);
    rig.push(Stream::Zero, p);
    let key = rig.display_unit(4, true, false);
    rig.push(Stream::Zero, key);
    rig.show(5);
    rig.expect(4..6);
}

#[test]
fn two_full_state_cycles() {
    let mut encoder = Encoder::new(SMALL);
    for decoder in ["avdec_h264", "openh264dec"] {
        let element = gst::ElementFactory::make("dualh264dec")
            .property("decoder", decoder)
            .build()
            .unwrap();
        for cycle in 0..2 {
            let mut h = Harness::with_element(&element, Some("sink_0"), Some("src"));
            h.set_src_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
            h.play();
            for n in 0..3 {
                let tag = tag(Stream::Zero, n, 0);
                h.push(tagged(encoder.code(n, n == 0), tag)).unwrap();
                let shown = pull(&mut h);
                assert!(psnr(&shown, n, SMALL) > 32.0, "{decoder} {cycle}");
            }
            let stats: gst::Structure = element.property("stats");
            assert_eq!(stats.get::<u64>("shown").unwrap(), 3, "counters begin at 0");
            drop(h);
            element.set_state(gst::State::Null).unwrap();
        }
    }
}

#[test]
fn a_decoder_that_is_none_is_named_in_the_error() {
    init();
    for (name, expected) in [
        ("no-such-decoder", "\"no-such-decoder\""),
        ("x264enc", "\"x264enc\" is no H.264 decoder"),
        ("identity", "\"identity\" is no H.264 decoder"),
        ("dualh264dec", "\"dualh264dec\" is no H.264 decoder"),
    ] {
        let pipeline = gst::Pipeline::new();
        let element = gst::ElementFactory::make("dualh264dec")
            .property("decoder", name)
            .build()
            .unwrap();
        pipeline.add(&element).unwrap();
        assert!(pipeline.set_state(gst::State::Ready).is_err(), "{name}");
        let bus = pipeline.bus().unwrap();
        let message = bus
            .pop_filtered(&[gst::MessageType::Error])
            .expect("no error");
        let gst::MessageView::Error(error) = message.view() else {
            unreachable!();
        };
        let text = error.error().to_string();
        assert!(text.contains(expected), "{text}");
        // It works once that is mended.
        element.set_property("decoder", "auto");
        pipeline.set_state(gst::State::Ready).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// A decoder that paints grey, and fails at a unit that begins with 0xff.
mod faulty {
    use gst::glib;
    use gst_video::prelude::*;
    use gst_video::subclass::prelude::*;
    use std::sync::LazyLock;

    #[derive(Default)]
    pub struct FaultyDec;

    #[glib::object_subclass]
    impl ObjectSubclass for FaultyDec {
        const NAME: &'static str = "TestFaultyDec";
        type Type = super::FaultyDec;
        type ParentType = gst_video::VideoDecoder;
    }

    impl ObjectImpl for FaultyDec {}
    impl GstObjectImpl for FaultyDec {}

    impl ElementImpl for FaultyDec {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new("Faulty", "Decoder/Video", "Fails", "Test")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let template = |name, direction, caps| {
                    let presence = gst::PadPresence::Always;
                    gst::PadTemplate::new(name, direction, presence, &caps).unwrap()
                };
                vec![
                    template(
                        "sink",
                        gst::PadDirection::Sink,
                        gst::Caps::builder("video/x-h264")
                            .field("stream-format", "byte-stream")
                            .field("alignment", "au")
                            .build(),
                    ),
                    template(
                        "src",
                        gst::PadDirection::Src,
                        gst_video::VideoCapsBuilder::new()
                            .format(gst_video::VideoFormat::Gray8)
                            .build(),
                    ),
                ]
            });
            &TEMPLATES
        }
    }

    impl VideoDecoderImpl for FaultyDec {
        fn set_format(
            &self,
            state: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
        ) -> Result<(), gst::LoggableError> {
            let obj = self.obj();
            let format = gst_video::VideoFormat::Gray8;
            let output = obj
                .set_output_state(format, 16, 16, Some(state))
                .map_err(|_| gst::loggable_error!(gst::CAT_RUST, "no output state"))?;
            obj.negotiate(output)
                .map_err(|_| gst::loggable_error!(gst::CAT_RUST, "not negotiated"))
        }

        fn handle_frame(
            &self,
            mut frame: gst_video::VideoCodecFrame,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let bad = {
                let map = frame.input_buffer().unwrap().map_readable().unwrap();
                map.last() == Some(&0xff)
            };
            if bad {
                gst::element_imp_error!(self, gst::StreamError::Decode, ("on purpose"));
                return Err(gst::FlowError::Error);
            }
            self.obj().allocate_output_frame(&mut frame, None)?;
            self.obj().finish_frame(frame)
        }
    }
}

/// Decoders that start, and are no good: one never gives a picture, the other
/// works up to its sixtieth.
mod unfit {
    use gst::glib;
    use gst::prelude::*;
    use gst::subclass::prelude::*;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Pictures that MortalDec has given, all its instances together.
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    const LIFE: u32 = 60;

    fn templates() -> Vec<gst::PadTemplate> {
        let template = |name, direction, caps| {
            gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).unwrap()
        };
        vec![
            template(
                "sink",
                gst::PadDirection::Sink,
                gst::Caps::builder("video/x-h264")
                    .field("stream-format", "byte-stream")
                    .field("alignment", "au")
                    .build(),
            ),
            template(
                "src",
                gst::PadDirection::Src,
                gst_video::VideoCapsBuilder::new().build(),
            ),
        ]
    }

    macro_rules! unfit {
        ($name:ident, $type_name:literal, $chain:expr) => {
            #[derive(Default)]
            pub struct $name;

            #[glib::object_subclass]
            impl ObjectSubclass for $name {
                const NAME: &'static str = $type_name;
                type Type = super::$name;
                type ParentType = gst::Bin;
            }

            impl ObjectImpl for $name {
                fn constructed(&self) {
                    self.parent_constructed();
                    let obj = self.obj();
                    let inner = gst::ElementFactory::make("avdec_h264")
                        .property("max-threads", 1i32)
                        .build()
                        .unwrap();
                    obj.add(&inner).unwrap();
                    let chain: fn() -> Result<bool, gst::FlowError> = $chain;
                    let sink = inner.static_pad("sink").unwrap();
                    let sink = gst::GhostPad::builder_with_target(&sink)
                        .unwrap()
                        .name("sink")
                        .chain_function(move |pad, parent, buffer| {
                            if chain()? {
                                gst::ProxyPad::chain_default(pad, parent, buffer)
                            } else {
                                Ok(gst::FlowSuccess::Ok)
                            }
                        })
                        .build();
                    obj.add_pad(&sink).unwrap();
                    let src = inner.static_pad("src").unwrap();
                    let src = gst::GhostPad::builder_with_target(&src)
                        .unwrap()
                        .name("src");
                    obj.add_pad(&src.build()).unwrap();
                }
            }

            impl GstObjectImpl for $name {}

            impl ElementImpl for $name {
                fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
                    static METADATA: LazyLock<gst::subclass::ElementMetadata> =
                        LazyLock::new(|| {
                            let kind = "Codec/Decoder/Video";
                            gst::subclass::ElementMetadata::new("Unfit", kind, "Fails", "Test")
                        });
                    Some(&METADATA)
                }

                fn pad_templates() -> &'static [gst::PadTemplate] {
                    static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(templates);
                    &TEMPLATES
                }
            }

            impl BinImpl for $name {}
        };
    }

    unfit!(BlindDec, "TestBlindDec", || Ok(false));
    unfit!(MortalDec, "TestMortalDec", || {
        if GIVEN.fetch_add(1, Ordering::SeqCst) < LIFE {
            Ok(true)
        } else {
            Err(gst::FlowError::Error)
        }
    });
}

gst::glib::wrapper! {
    pub struct BlindDec(ObjectSubclass<unfit::BlindDec>)
        @extends gst::Bin, gst::Element, gst::Object;
}

gst::glib::wrapper! {
    pub struct MortalDec(ObjectSubclass<unfit::MortalDec>)
        @extends gst::Bin, gst::Element, gst::Object;
}

gst::glib::wrapper! {
    pub struct FaultyDec(ObjectSubclass<faulty::FaultyDec>)
        @extends gst_video::VideoDecoder, gst::Element, gst::Object;
}

#[test]
fn a_decoder_that_fails_is_started_anew_and_not_for_ever() {
    init();
    let kind = FaultyDec::static_type();
    gst::Element::register(None, "testfaultydec", gst::Rank::NONE, kind).unwrap();
    let element = gst::ElementFactory::make("dualh264dec")
        .property("decoder", "testfaultydec")
        .build()
        .unwrap();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut h = Harness::with_element(&element, Some("sink_0"), Some("src"));
    h.set_src_caps_str("video/x-h264,stream-format=byte-stream,alignment=au");
    let unit = |n: u16, key: bool, bad: bool| {
        let kind = if key { 0x65 } else { 0x41 };
        let end = if bad { 0xff } else { 0x11 };
        let mut buffer = gst::Buffer::from_slice([0, 0, 0, 1, kind, 0x88, 0x80, end]);
        buffer.get_mut().unwrap().set_pts(FRAME * u64::from(n));
        let tag = FrameTag {
            key,
            ..tag(Stream::Zero, n, 0)
        };
        tagged(buffer, tag)
    };
    let shows = |h: &mut Harness, n: u16| {
        assert_eq!(meta::of(&pull(h)).unwrap().number, n);
    };
    h.push(unit(0, true, false)).unwrap();
    h.push(unit(1, false, false)).unwrap();
    shows(&mut h, 0);
    shows(&mut h, 1);
    h.push(unit(2, false, true)).unwrap();
    let asked = std::iter::from_fn(|| h.try_pull_upstream_event())
        .filter(|e| gst_video::UpstreamForceKeyUnitEvent::parse(e).is_ok())
        .count();
    assert_eq!(asked, 1);
    h.push(unit(3, false, false)).unwrap();
    h.push(unit(4, true, false)).unwrap();
    shows(&mut h, 4);
    let errors = || bus.pop_filtered(&[gst::MessageType::Error]);
    assert!(errors().is_none(), "it could be helped");
    let mut n = 5;
    while n < 50 && h.push(unit(n, true, true)).is_ok() {
        n += 1;
    }
    assert_eq!(n, 10, "five times, then it is an error");
    let message = errors().expect("no error");
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!();
    };
    assert!(error.error().to_string().contains("again and again"));
    let stats: gst::Structure = element.property("stats");
    assert_eq!(stats.get::<u64>("decoder-restarts").unwrap(), 6);
}

/// A session on videotestsrc with a decoder of the best rank that fails at
/// once, dies later, or is told not to.
#[test]
fn a_decoder_that_cannot_decode_is_not_chosen() {
    init();
    let kind = BlindDec::static_type();
    gst::Element::register(None, "testblinddec", gst::Rank::PRIMARY + 50, kind).unwrap();
    let rig = Rig::new("auto");
    let stats: gst::Structure = rig.element().property("stats");
    assert_ne!(stats.get::<&str>("decoder").unwrap(), "testblinddec");
    let factory = gst::ElementFactory::find("testblinddec").unwrap();
    factory.set_rank(gst::Rank::NONE);
}

#[test]
fn a_decoder_that_dies_in_mid_stream_is_replaced() {
    init();
    let kind = MortalDec::static_type();
    gst::Element::register(None, "testmortaldec", gst::Rank::PRIMARY + 60, kind).unwrap();
    let pipeline = gst::parse::launch(
        "videotestsrc is-live=true num-buffers=150 pattern=ball \
         ! video/x-raw,format=I420,width=320,height=180,framerate=60/1 \
         ! dualh264enc name=e bitrate=800000 ! dualh264dec name=d ! appsink name=s sync=false",
    )
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let shown = Arc::new(Mutex::new(Vec::new()));
    let sink: gst_app::AppSink = pipeline.by_name("s").and_downcast().unwrap();
    let list = shown.clone();
    let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let tag = sample.buffer().and_then(meta::of);
        list.lock().unwrap().extend(tag.map(|tag| tag.number));
        Ok(gst::FlowSuccess::Ok)
    });
    sink.set_callbacks(callbacks.build());
    pipeline.set_state(gst::State::Playing).unwrap();
    let factory = gst::ElementFactory::find("testmortaldec").unwrap();
    factory.set_rank(gst::Rank::NONE);
    let kinds = [
        gst::MessageType::Eos,
        gst::MessageType::Error,
        gst::MessageType::Warning,
    ];
    let bus = pipeline.bus().unwrap();
    let mut warnings = 0;
    loop {
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(20), &kinds);
        match message.expect("an end").view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Warning(_) => warnings += 1,
            other => panic!("{other:?}"),
        }
    }
    let stats: gst::Structure = pipeline.by_name("d").unwrap().property("stats");
    let keys: gst::Structure = pipeline.by_name("e").unwrap().property("stats");
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(stats.get::<u64>("decoder-failures").unwrap(), 1, "{stats}");
    assert_ne!(stats.get::<&str>("decoder").unwrap(), "testmortaldec");
    assert_eq!(warnings, 1, "the user is told");
    let shown = shown.lock().unwrap();
    assert_eq!(shown.last(), Some(&149));
    // It is started anew three times, each with a key frame.
    assert!(shown.len() >= 140, "{}", shown.len());
    assert!(
        keys.get::<u64>("display-key-frames").unwrap() <= 5,
        "{keys}"
    );
}

#[test]
fn latency_is_that_of_upstream_and_decoder() {
    let mut rig = Rig::new("avdec_h264");
    rig.show(0);
    rig.expect(0..1);
    for h in &mut rig.inputs {
        h.set_upstream_latency(gst::ClockTime::from_mseconds(40));
    }
    let mut query = gst::query::Latency::new();
    let src = rig.element().static_pad("src").unwrap();
    assert!(src.query(&mut query));
    let (_, min, _) = query.result();
    assert_eq!(min, gst::ClockTime::from_mseconds(40));
}
