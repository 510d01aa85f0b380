// SPDX-License-Identifier: MPL-2.0
//! SPS and PPS of the key frames that are sent: once each, before the first
//! slice.
//!
//! With `config-interval=-1` rtph264pay (seen with GStreamer 1.22) writes them
//! before each IDR slice, those in the stream notwithstanding. Where an encoder
//! makes several slices of a picture, as x264enc does on several threads and
//! hardware often, h264parse at the receiver then takes each slice for a
//! picture of its own (ITU-T H.264, 7.4.1.2.3: an SPS begins an access unit),
//! and the decoder shows a key frame whose other slices are black.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use gst::prelude::*;

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SPS: u8 = 7;
/// `config-interval`: none added, and before each IDR slice.
const NONE: i32 = 0;
const EACH: i32 = -1;

/// Has the payloader add SPS and PPS only while key frames come without.
pub fn add_where_missing(pay: &gst::Element, sink: &gst::Pad) {
    let adds = AtomicBool::new(false);
    pay.set_property("config-interval", NONE);
    let pay = pay.downgrade();
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer()
            && !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
            && let Ok(data) = buffer.map_readable()
            && let Some(missing) = lacks_sps(&data)
            && adds.swap(missing, Relaxed) != missing
            && let Some(pay) = pay.upgrade()
        {
            pay.set_property("config-interval", if missing { EACH } else { NONE });
        }
        gst::PadProbeReturn::Ok
    });
}

/// Whether an access unit in Annex B's form has no SPS before its first IDR
/// slice; `None` if it is no key frame.
fn lacks_sps(data: &[u8]) -> Option<bool> {
    let mut rest = data;
    loop {
        let at = rest.windows(3).position(|window| window == [0, 0, 1])?;
        rest = &rest[at + 3..];
        match rest.first()? & 0x1f {
            SPS => return Some(false),
            IDR => return Some(true),
            // Slices of other kinds: nothing after them is of a key frame.
            SLICE..IDR => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_frame_can_lack_them() {
        let with = [0, 0, 0, 1, 9, 16, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 2];
        assert_eq!(lacks_sps(&with), Some(false));
        assert_eq!(
            lacks_sps(&[0, 0, 0, 1, 9, 16, 0, 0, 1, 0x65, 2]),
            Some(true)
        );
        assert_eq!(lacks_sps(&[0, 0, 1, 0x41, 2, 0, 0, 1, 0x65]), None);
        for short in [&[][..], &[0, 0, 1], &[1, 2, 3, 4]] {
            assert_eq!(lacks_sps(short), None, "{short:?}");
        }
    }

    /// What rtph264pay, rtph264depay and h264parse make of five pictures, the
    /// first and the fourth key frames: how many arrive, and whether all key
    /// frames have parameter sets.
    fn arrive(threads: u32, strip: bool, interval: Option<i32>) -> (usize, bool) {
        gst::init().expect("GStreamer");
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=5 ! video/x-raw,width=640,height=360 \
             ! x264enc tune=zerolatency sliced-threads=true threads={threads} key-int-max=3 \
             ! video/x-h264,stream-format=byte-stream \
             ! rtph264pay name=pay aggregate-mode=zero-latency ! rtph264depay ! h264parse \
             ! video/x-h264,stream-format=byte-stream,alignment=au \
             ! appsink name=sink sync=false"
        ))
        .expect("the pipeline")
        .downcast::<gst::Pipeline>()
        .expect("a pipeline");
        let pay = pipeline.by_name("pay").expect("pay");
        let entry = pay.static_pad("sink").expect("a sink");
        if strip {
            strip_all_but_first(&entry);
        }
        match interval {
            Some(interval) => pay.set_property("config-interval", interval),
            None => add_where_missing(&pay, &entry),
        }
        let sink = pipeline.by_name("sink").expect("sink");
        let sink = sink.downcast::<gst_app::AppSink>().expect("an appsink");
        pipeline.set_state(gst::State::Playing).expect("plays");
        let mut n = 0;
        let mut complete = true;
        while let Ok(sample) = sink.pull_sample() {
            let data = sample.buffer().expect("a buffer").map_readable();
            complete &= lacks_sps(&data.expect("readable")) != Some(true);
            n += 1;
        }
        pipeline.set_state(gst::State::Null).expect("stops");
        (n, complete)
    }

    /// As of encoders that write them but once.
    fn strip_all_but_first(pad: &gst::Pad) {
        let seen = AtomicBool::new(false);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data
                && !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
                && seen.swap(true, Relaxed)
            {
                let data = buffer.map_readable().expect("readable").to_vec();
                let idr = data
                    .windows(4)
                    .position(|w| w[..3] == [0, 0, 1] && w[3] & 0x1f == IDR);
                let bare = data[idr.expect("a slice")..].to_vec();
                let mut stripped = gst::Buffer::from_mut_slice(bare);
                let flags = gst::BUFFER_COPY_METADATA;
                buffer
                    .copy_into(stripped.make_mut(), flags, ..)
                    .expect("copied");
                *buffer = stripped;
            }
            gst::PadProbeReturn::Ok
        });
    }

    #[test]
    fn pictures_of_many_slices_stay_whole() {
        assert_eq!(arrive(4, false, None), (5, true));
    }

    #[test]
    fn key_frames_without_them_get_them() {
        assert_eq!(
            arrive(1, true, Some(NONE)),
            (5, false),
            "the stream has none"
        );
        assert_eq!(arrive(1, true, None), (5, true));
    }
}
