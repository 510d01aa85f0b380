// SPDX-License-Identifier: MPL-2.0
//! What a buffer says of its frame: the meta `DualStreamFrame`
//! (docs/wire-formats.md), read as any application would, and the capture
//! time.

use std::io::Write;

use dualstream_common::ExtSeq;
use gst::prelude::*;

/// Seconds from 1900 to 1970.
const NTP_OFFSET: u64 = 2_208_988_800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub stream: u32,
    pub number: u16,
    pub generation: u32,
    pub background: bool,
    pub key: bool,
}

impl Tag {
    pub fn of(buffer: &gst::BufferRef) -> Option<Self> {
        const NAME: &str = "DualStreamFrame";
        if !gst::meta::CustomMeta::is_registered(NAME) {
            return None;
        }
        let meta = gst::meta::CustomMeta::from_buffer(buffer, NAME).ok()?;
        let s = meta.structure();
        Some(Self {
            stream: s.get("stream").ok()?,
            number: u16::try_from(s.get::<u32>("number").ok()?).ok()?,
            generation: s.get("generation").ok()?,
            background: s.get("background").ok()?,
            key: s.get("key").ok()?,
        })
    }
}

/// Endless picture numbers, counted from 0 as the encoder counts them.
#[derive(Default)]
pub struct Numbers {
    highest: ExtSeq,
}

impl Numbers {
    /// `None` for a number before the first picture.
    pub fn unwrap(&mut self, raw: u16) -> Option<u64> {
        let number = self.highest.nearest(raw)?;
        self.highest = self.highest.max(number);
        Some(number.value())
    }
}

/// Nanoseconds since 1970 at which the picture was captured, from the NTP time
/// stamp that came with it.
pub fn captured(buffer: &gst::BufferRef) -> Option<u64> {
    buffer
        .iter_meta::<gst::ReferenceTimestampMeta>()
        .find(|meta| {
            meta.reference()
                .structure(0)
                .is_some_and(|s| s.name() == "timestamp/x-ntp")
        })?
        .timestamp()
        .nseconds()
        .checked_sub(NTP_OFFSET * 1_000_000_000)
}

/// The factory of the first element of this class (such as `Codec/Encoder`)
/// inside `bin` that is not itself a bin.
pub fn codec_in(bin: &gst::Element, class: &str) -> String {
    let inside = |bin: &gst::Bin| {
        bin.iterate_recurse()
            .into_iter()
            .flatten()
            .filter(|element| !element.is::<gst::Bin>())
            .filter_map(|element| element.factory())
            .find(|factory| {
                factory
                    .metadata("klass")
                    .is_some_and(|klass| klass.starts_with(class))
            })
            .map(|factory| factory.name().to_string())
    };
    bin.downcast_ref::<gst::Bin>()
        .and_then(inside)
        .unwrap_or_else(|| "unknown".into())
}

/// The element's own statistics, into the log of this process.
pub fn note_stats(element: &gst::Element) {
    if element.has_property_with_type("stats", gst::Structure::static_type()) {
        let stats = element.property::<Option<gst::Structure>>("stats");
        let text = stats.map_or_else(String::new, |stats| stats.to_string());
        let _ = writeln!(std::io::stderr(), "{} stats: {text}", element.name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_over_the_wrap() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.unwrap(0xffff), None, "before the first");
        for n in 0..200_000u64 {
            assert_eq!(numbers.unwrap(n as u16), Some(n));
        }
        assert_eq!(numbers.unwrap(199_990u64 as u16), Some(199_990), "late");
        assert_eq!(numbers.unwrap(200_000u64 as u16), Some(200_000));
    }

    #[test]
    fn the_capture_time_is_the_ntp_one() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        {
            let buffer = buffer.get_mut().unwrap();
            assert_eq!(captured(buffer), None);
            let add = |buffer: &mut gst::BufferRef, caps: &str, seconds: u64| {
                let caps = gst::Caps::new_empty_simple(caps);
                let time = gst::ClockTime::from_seconds(seconds);
                gst::ReferenceTimestampMeta::add(buffer, &caps, time, None);
            };
            add(buffer, "timestamp/x-unix", 5);
            assert_eq!(captured(buffer), None, "another clock");
            add(buffer, "timestamp/x-ntp", NTP_OFFSET + 7);
        }
        assert_eq!(captured(&buffer), Some(7_000_000_000));
    }
}
