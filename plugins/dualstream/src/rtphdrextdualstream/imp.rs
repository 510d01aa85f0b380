// SPDX-License-Identifier: MPL-2.0
/**
 * SECTION:element-rtphdrextdualstream
 *
 * RTP header extension `urn:x-gst-dualstream:frame:1`: says of every packet
 * which of the two coded streams it belongs to, whether its frame is to be
 * shown or only decoded, whether it is a key frame, and which picture it is.
 * docs/wire-formats.md has the bits.
 *
 * It is not linked like other elements: payloaders and depayloaders make it
 * themselves (`auto-header-extension`, on by default) when their RTP caps have
 * `extmap-<id>=(string)urn:x-gst-dualstream:frame:1`. Ids 1 to 14 use the
 * one-byte header, larger ones the two-byte header.
 *
 * - On the sender's side the payloader's input buffer must have the meta
 *   `DualStreamFrame`, as those of `dualh264enc` have. The extension is then on
 *   every packet of the frame. Without the meta nothing is written: the packet
 *   has no such extension, and no header extension at all if this was the only
 *   one.
 * - On the receiver's side the depayloaded buffer gets the meta
 *   `DualStreamFrame`. Bytes of another length or version leave the buffer as
 *   it is.
 * - A depayloader that gives up an access unit because the packet with its
 *   marker bit was lost has only the next one's packet at hand. Such a buffer
 *   (DISCONT, no MARKER) gets no meta, since the number would be the wrong one.
 *
 * Payloaders do not count header extensions into their `mtu`: leave room for 12
 * bytes.
 *
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=60 ! video/x-raw,width=640,height=480,framerate=30/1 ! dualh264enc name=e e.src_0 ! rtph264pay ! "application/x-rtp,payload=96,extmap-4=(string)urn:x-gst-dualstream:frame:1" ! fakesink dump=true num-buffers=4
 * ]| Shows the extension in the first packets: 0xbede 0x0001 0x43 and four
 * bytes.
 *
 * ## Statistics
 *
 * | field of `stats` | type | meaning |
 * |---|---|---|
 * | `written` | u64 | packets that were given the extension |
 * | `untagged` | u64 | packets of buffers without the meta |
 * | `read` | u64 | buffers that were given the meta |
 * | `bad-length` | u64 | extensions ignored for their length |
 * | `bad-version` | u64 | extensions ignored for their version |
 * | `incomplete` | u64 | buffers left without the meta because an access unit had lost its end |
 *
 * Since: 0.1
 */
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use dualstream_core::wire::{FrameTag, LENGTH, TagError, URI};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_rtp::subclass::prelude::*;

use crate::meta;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "rtphdrextdualstream",
        gst::DebugColorFlags::empty(),
        Some("RTP header extension: dual stream frame"),
    )
});

/// Counters only: the payloader calls with its own object lock held, so there
/// is no lock here that could be taken in another order.
#[derive(Default)]
pub struct RtpHdrExtDualStream {
    written: AtomicU64,
    untagged: AtomicU64,
    read: AtomicU64,
    bad_length: AtomicU64,
    bad_version: AtomicU64,
    incomplete: AtomicU64,
}

/// Adds one, and says how many there are now.
fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

impl RtpHdrExtDualStream {
    fn stats(&self) -> gst::Structure {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        gst::Structure::builder("application/x-rtphdrextdualstream-stats")
            .field("written", get(&self.written))
            .field("untagged", get(&self.untagged))
            .field("read", get(&self.read))
            .field("bad-length", get(&self.bad_length))
            .field("bad-version", get(&self.bad_version))
            .field("incomplete", get(&self.incomplete))
            .build()
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RtpHdrExtDualStream {
    const NAME: &'static str = "GstRtpHdrExtDualStream";
    type Type = super::RtpHdrExtDualStream;
    type ParentType = gst_rtp::RTPHeaderExtension;
}

impl ObjectImpl for RtpHdrExtDualStream {
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

impl GstObjectImpl for RtpHdrExtDualStream {}

impl ElementImpl for RtpHdrExtDualStream {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Dual Stream Frame RTP Header Extension",
                "Network/Extension/RTPHeader",
                "Carries stream, role and number of dual-stream frames in an RTP header extension",
                "gst-dualstream",
            )
        });
        Some(&*METADATA)
    }
}

impl RTPHeaderExtensionImpl for RtpHdrExtDualStream {
    const URI: &'static str = URI;

    fn supported_flags(&self) -> gst_rtp::RTPHeaderExtensionFlags {
        gst_rtp::RTPHeaderExtensionFlags::ONE_BYTE | gst_rtp::RTPHeaderExtensionFlags::TWO_BYTE
    }

    fn max_size(&self, _input: &gst::BufferRef) -> usize {
        LENGTH
    }

    fn write(
        &self,
        input: &gst::BufferRef,
        _write_flags: gst_rtp::RTPHeaderExtensionFlags,
        _output: &gst::BufferRef,
        output_data: &mut [u8],
    ) -> Result<usize, gst::LoggableError> {
        let Some(tag) = meta::of(input) else {
            count(&self.untagged);
            gst::log!(CAT, imp = self, "no meta on the input, nothing written");
            // The payloader leaves out an extension of no bytes.
            return Ok(0);
        };
        let Some(room) = output_data.first_chunk_mut::<LENGTH>() else {
            return Err(gst::loggable_error!(CAT, "No room for {LENGTH} bytes"));
        };
        *room = tag.to_bytes();
        count(&self.written);
        Ok(LENGTH)
    }

    /// Never fails: GstRTPBaseDepayload 1.22 leaves its object locked when an
    /// extension cannot be read, and hangs at the next packet.
    fn read(
        &self,
        _read_flags: gst_rtp::RTPHeaderExtensionFlags,
        input_data: &[u8],
        output: &mut gst::BufferRef,
    ) -> Result<(), gst::LoggableError> {
        let flags = output.flags();
        let (counter, why) = match FrameTag::parse(input_data) {
            Ok(_)
                if flags.contains(gst::BufferFlags::DISCONT)
                    && !flags.contains(gst::BufferFlags::MARKER) =>
            {
                (&self.incomplete, "the end of the access unit is lost")
            }
            Ok(tag) => {
                count(&self.read);
                gst::log!(CAT, imp = self, "read {tag:?}");
                meta::set(output, tag);
                return Ok(());
            }
            Err(TagError::Length) => (&self.bad_length, "not four bytes"),
            Err(TagError::Version) => (&self.bad_version, "unknown version"),
        };
        let times = count(counter);
        // Each packet could be one: the first, and ever fewer after it.
        if times.is_power_of_two() {
            gst::warning!(
                CAT,
                imp = self,
                "extension {input_data:02x?} ignored: {why} ({times} times)"
            );
        }
        Ok(())
    }
}
