// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtphdrextabscapturetime
 *
 * RTP header extension `abs-capture-time`: says of every packet when its frame
 * was captured, by the wall clock of the sender. Browsers know it.
 *
 * It is not linked like other elements: payloaders and depayloaders make it
 * themselves (`auto-header-extension`, on by default) when their RTP caps have
 * `extmap-<id>=(string)http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`.
 * Ids 1 to 14 use the one-byte header, larger ones the two-byte header.
 *
 * - On the sender's side the payloader's input buffer must have a
 *   GstReferenceTimestampMeta with the reference `timestamp/x-ntp` (ns since
 *   1900). Without it nothing is written. dualwebrtcsink adds it.
 * - On the receiver's side the depayloaded buffer gets that meta, by the clock
 *   of the sender: an offset that comes along is taken off. Bytes of another
 *   length leave the buffer as it is.
 * - A depayloader reads what is in the last packet of a frame. Senders that write
 *   it to the first packet only, or to a few frames, are read by dualwebrtcsrc
 *   itself.
 *
 * Payloaders do not count header extensions into their `mtu`: leave room for 12
 * bytes.
 *
 * |[
 * gst-launch-1.0 videotestsrc is-live=true num-buffers=60 ! x264enc tune=zerolatency ! rtph264pay ! "application/x-rtp,payload=96,extmap-5=(string)http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time" ! rtph264depay ! fakesink
 * ]| Shows how it is asked for; nothing here knows a time of capture, so nothing
 * is written.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `written` | u64 | packets that were given the extension |
 * | `unknown` | u64 | packets of buffers without the meta |
 * | `read` | u64 | buffers that were given the meta |
 * | `bad-length` | u64 | extensions ignored for their length |
 *
 * Since: 0.1
 */
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_rtp::subclass::prelude::*;

use crate::capture_time::{self, AbsCaptureTime, NtpTime};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtphdrextabscapturetime",
        gst::DebugColorFlags::empty(),
        Some("RTP header extension: absolute time of capture"),
    )
});

/// Counters only: the payloader calls with its own object lock held, so there
/// is no lock here that could be taken in another order.
pub struct RtpHdrExtAbsCaptureTime {
    reference: gst::Caps,
    written: AtomicU64,
    unknown: AtomicU64,
    read: AtomicU64,
    bad_length: AtomicU64,
}

/// Adds one, and says how many there are now.
fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

impl RtpHdrExtAbsCaptureTime {
    fn stats(&self) -> gst::Structure {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        gst::Structure::builder("application/x-rtphdrextabscapturetime-stats")
            .field("written", get(&self.written))
            .field("unknown", get(&self.unknown))
            .field("read", get(&self.read))
            .field("bad-length", get(&self.bad_length))
            .build()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpHdrExtAbsCaptureTime {
    const NAME: &'static str = "GstRtpHdrExtAbsCaptureTime";
    type Type = super::RtpHdrExtAbsCaptureTime;
    type ParentType = gst_rtp::RTPHeaderExtension;

    fn new() -> Self {
        Self {
            reference: capture_time::reference(),
            written: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            read: AtomicU64::new(0),
            bad_length: AtomicU64::new(0),
        }
    }
}

impl ObjectImpl for RtpHdrExtAbsCaptureTime {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Packets written, buffers read and extensions ignored, as counters")
                    .read_only()
                    .build(),
            ]
        });
        PROPERTIES.as_ref()
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => self.stats().to_value(),
            name => {
                gst::error!(CAT, imp = self, "no property {name}");
                pspec.default_value().clone()
            }
        }
    }
}

impl GstObjectImpl for RtpHdrExtAbsCaptureTime {}

impl ElementImpl for RtpHdrExtAbsCaptureTime {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Absolute Capture Time RTP Header Extension",
                "Network/Extension/RTPHeader",
                "Carries the time of capture of frames in an RTP header extension",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }
}

impl RTPHeaderExtensionImpl for RtpHdrExtAbsCaptureTime {
    const URI: &'static str = capture_time::URI;

    fn supported_flags(&self) -> gst_rtp::RTPHeaderExtensionFlags {
        gst_rtp::RTPHeaderExtensionFlags::ONE_BYTE | gst_rtp::RTPHeaderExtensionFlags::TWO_BYTE
    }

    fn max_size(&self, _input: &gst::BufferRef) -> usize {
        capture_time::SHORT
    }

    fn write(
        &self,
        input: &gst::BufferRef,
        _write_flags: gst_rtp::RTPHeaderExtensionFlags,
        _output: &gst::BufferRef,
        output_data: &mut [u8],
    ) -> Result<usize, gst::LoggableError> {
        let Some(time) = capture_time::of(input, &self.reference) else {
            count(&self.unknown);
            gst::log!(CAT, imp = self, "no time of capture on the input");
            // The payloader leaves out an extension of no bytes.
            return Ok(0);
        };
        let extension = AbsCaptureTime {
            time,
            clock_offset: None,
        };
        let length = extension.write(output_data).ok_or_else(|| {
            gst::loggable_error!(CAT, "No room for {} bytes", capture_time::SHORT)
        })?;
        count(&self.written);
        Ok(length)
    }

    /// Never fails: GstRTPBaseDepayload 1.22 leaves its object locked when an
    /// extension cannot be read, and hangs at the next packet.
    fn read(
        &self,
        _read_flags: gst_rtp::RTPHeaderExtensionFlags,
        input_data: &[u8],
        output: &mut gst::BufferRef,
    ) -> Result<(), gst::LoggableError> {
        if let Some(extension) = AbsCaptureTime::parse(input_data) {
            count(&self.read);
            let time: NtpTime = extension.by_sender();
            capture_time::set(output, &self.reference, time);
            return Ok(());
        }
        let times = count(&self.bad_length);
        // Each packet could be one: the first, and ever fewer after it.
        if times.is_power_of_two() {
            gst::warning!(
                CAT,
                imp = self,
                "extension of {} bytes ignored ({times} times)",
                input_data.len()
            );
        }
        Ok(())
    }
}
