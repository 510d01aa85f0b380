// SPDX-License-Identifier: MPL-2.0
//! RTP header extension `abs-capture-time`: when the frame of a packet was
//! captured, by the clock of the system that captured it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! |       capture time: NTP, UQ32.32 seconds since 1900           |
//! |                                                               |
//! +---------------------------------------------------------------+
//! |       clock offset: Q32.32 seconds, capturer less sender      |
//! |                                        (optional)             |
//! +---------------------------------------------------------------+
//! ```
//!
//! The format is libwebrtc's (`abs-capture-time`, experiments of the RTP header
//! extensions). Deliberate differences: it is written to every packet, so that a
//! loss or a late joiner takes nothing away; nothing is left to interpolation
//! when we send. When we receive, packets without it are interpolated by the RTP
//! clock (see [`CaptureClock`]).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From 1900, where NTP counts from, to 1970.
const FROM_1900: Duration = Duration::from_secs(2_208_988_800);

pub const URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
/// Without and with the clock offset.
pub const SHORT: usize = 8;
pub const LONG: usize = 16;

/// Reference of the meta that carries it inside of pipelines.
pub fn reference() -> gst::Caps {
    gst::Caps::new_empty_simple("timestamp/x-ntp")
}

/// The time of capture that a buffer carries.
pub fn of(buffer: &gst::BufferRef, reference: &gst::CapsRef) -> Option<NtpTime> {
    buffer
        .iter_meta::<gst::ReferenceTimestampMeta>()
        .find(|meta| meta.reference().can_intersect(reference))
        .map(|meta| NtpTime::from_nanos(meta.timestamp().nseconds()))
}

/// Adds it, unless the buffer has one.
pub fn set(buffer: &mut gst::BufferRef, reference: &gst::Caps, time: NtpTime) {
    // All ones are no time to GStreamer.
    let Ok(nanos) = gst::ClockTime::try_from(Duration::from_nanos(time.nanos())) else {
        return;
    };
    if of(buffer, reference).is_none() {
        gst::ReferenceTimestampMeta::add(buffer, reference, nanos, gst::ClockTime::NONE);
    }
}

const NANOS: u128 = 1_000_000_000;

/// Time since 1900, in ns. Comparable only within one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NtpTime(u64);

impl NtpTime {
    /// By the wall clock of this machine; `None` before 1970.
    pub fn now() -> Option<Self> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let nanos = u64::try_from((since_1970 + FROM_1900).as_nanos()).ok()?;
        Some(Self(nanos))
    }

    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub fn nanos(self) -> u64 {
        self.0
    }

    /// From 32.32 bit seconds, rounded to the next ns.
    pub fn from_fixed(fixed: u64) -> Self {
        let nanos = (u128::from(fixed) * NANOS + (1 << 31)) >> 32;
        // At most 2^32 s: fits.
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// As 32.32 bit seconds, modulo the era of 136 years.
    pub fn to_fixed(self) -> u64 {
        let fixed = ((u128::from(self.0) << 32) + NANOS / 2) / NANOS;
        fixed as u64
    }

    /// This time less `other`, in ns.
    pub fn since(self, other: Self) -> i64 {
        let diff = i128::from(self.0) - i128::from(other.0);
        diff.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    pub fn plus(self, nanos: i64) -> Self {
        Self(self.0.saturating_add_signed(nanos))
    }
}

/// What the extension says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsCaptureTime {
    pub time: NtpTime,
    /// Clock of the capturer less that of the sender, as 32.32 bit seconds.
    pub clock_offset: Option<i64>,
}

impl AbsCaptureTime {
    /// `None` if it is of another length.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (time, rest) = data.split_first_chunk::<SHORT>()?;
        let clock_offset = match rest.len() {
            0 => None,
            _ => Some(i64::from_be_bytes(rest.try_into().ok()?)),
        };
        Some(Self {
            time: NtpTime::from_fixed(u64::from_be_bytes(*time)),
            clock_offset,
        })
    }

    /// The time of capture by the clock of the sender of the packet.
    pub fn by_sender(self) -> NtpTime {
        let offset = self.clock_offset.unwrap_or(0);
        let nanos = (i128::from(offset) * NANOS as i128) >> 32;
        self.time.plus(-(nanos as i64))
    }

    /// Writes the short form, the long one if there is an offset; how many
    /// bytes, or `None` if there is no room.
    pub fn write(self, out: &mut [u8]) -> Option<usize> {
        let length = self.clock_offset.map_or(SHORT, |_| LONG);
        let out = out.get_mut(..length)?;
        let (time, offset) = out.split_first_chunk_mut::<SHORT>()?;
        *time = self.time.to_fixed().to_be_bytes();
        if let Some(value) = self.clock_offset {
            offset.copy_from_slice(&value.to_be_bytes());
        }
        Some(length)
    }
}

/// An RTP time this far from the last known one is not interpolated.
const FARTHEST_S: i64 = 60;

/// From one sender report to the next, RTP time may differ by this from what has
/// passed, and by this part of it.
const UNEVEN_NS: i64 = 50_000_000;
const UNEVEN_PART: i64 = 20;

/// Times of capture of one source: from the extension, else from sender reports
/// (RFC 3550 section 6.4.1), with the RTP clock in between.
#[derive(Clone, Copy, Debug)]
pub struct CaptureClock {
    clock_rate: u32,
    /// RTP time and time of capture, and whether the extension said so.
    anchor: Option<(u32, NtpTime, bool)>,
    /// The last report.
    reported: Option<(u32, NtpTime)>,
}

impl CaptureClock {
    pub fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate: clock_rate.max(1),
            anchor: None,
            reported: None,
        }
    }

    /// A packet with the extension.
    pub fn learn(&mut self, rtp: u32, time: NtpTime) {
        self.anchor = Some((rtp, time, true));
    }

    /// A sender report. The extension, once seen, is trusted more: the time of
    /// a report is what the sender takes for the time of capture. Reports whose
    /// RTP time does not run as time does are not believed: rtpsession 1.22
    /// sends such ones while it does not know its latency.
    pub fn report(&mut self, rtp: u32, time: NtpTime) {
        let before = self.reported.replace((rtp, time));
        if self.anchor.is_some_and(|(_, _, exact)| exact) {
            return;
        }
        let is_sound = before.is_none_or(|(last_rtp, last_time)| {
            let ticks = i64::from(rtp.wrapping_sub(last_rtp).cast_signed());
            let passed = time.since(last_time);
            let by_rtp = ticks.saturating_mul(1_000_000) / i64::from(self.clock_rate) * 1000;
            (by_rtp - passed).abs() <= UNEVEN_NS + passed.abs() / UNEVEN_PART
        });
        self.anchor = is_sound.then_some((rtp, time, false));
    }

    pub fn capture(&self, rtp: u32) -> Option<NtpTime> {
        let (anchor, time, _) = self.anchor?;
        let rate = i64::from(self.clock_rate);
        let ticks = i64::from(rtp.wrapping_sub(anchor).cast_signed());
        (ticks.abs() <= FARTHEST_S * rate).then(|| {
            let nanos = i128::from(ticks) * NANOS as i128 / i128::from(rate);
            time.plus(nanos as i64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: f64) -> NtpTime {
        NtpTime::from_nanos((s * 1e9) as u64)
    }

    /// 0x83aa7e80 s from 1900 is 1970-01-01 (RFC 868); half a second is the top
    /// bit of the fraction.
    #[test]
    fn bytes_are_those_of_ntp() {
        let data = [0x83, 0xaa, 0x7e, 0x80, 0x80, 0, 0, 0];
        let parsed = AbsCaptureTime::parse(&data).unwrap();
        assert_eq!(parsed.time.nanos(), 2_208_988_800_500_000_000);
        assert_eq!(parsed.clock_offset, None);
        let mut out = [0; 20];
        assert_eq!(parsed.write(&mut out), Some(8));
        assert_eq!(out[..8], data);
        // Offset of -1.5 s: the capturer's clock is behind.
        let mut long = data.to_vec();
        long.extend((-3i64 << 31).to_be_bytes());
        let parsed = AbsCaptureTime::parse(&long).unwrap();
        assert_eq!(parsed.by_sender().nanos(), 2_208_988_802_000_000_000);
        assert_eq!(parsed.write(&mut out), Some(16));
        assert_eq!(out[..16], long);
        assert_eq!(parsed.write(&mut out[..15]), None, "no room, no overrun");
    }

    #[test]
    fn other_lengths_and_extreme_values_are_no_times() {
        for length in 0..40 {
            for byte in [0, 0x7f, 0x80, 0xff] {
                let data = vec![byte; length];
                let parsed = AbsCaptureTime::parse(&data);
                assert_eq!(parsed.is_some(), length == 8 || length == 16, "{length}");
                if let Some(parsed) = parsed {
                    let _ = parsed.by_sender();
                    let mut out = [0; LONG];
                    assert_eq!(parsed.write(&mut out), Some(length));
                    let again = AbsCaptureTime::parse(&out[..length]).unwrap();
                    assert_eq!(again.clock_offset, parsed.clock_offset);
                    // All ones round to the next era.
                    let off = again.time.since(parsed.time).abs();
                    assert!(off <= 1 || byte == 0xff, "{off} ns beside");
                }
            }
        }
    }

    #[test]
    fn nanoseconds_survive_the_way_through_fractions() {
        for nanos in [0, 1, 999_999_999, 3_900_000_000_123_456_789, u64::MAX >> 3] {
            assert_eq!(
                NtpTime::from_fixed(NtpTime(nanos).to_fixed()).nanos(),
                nanos
            );
        }
    }

    #[test]
    fn reports_that_run_at_twice_the_rate_are_not_believed() {
        let mut clock = CaptureClock::new(90_000);
        clock.report(0, seconds(10.0));
        clock.report(2 * 90_000, seconds(11.0));
        assert_eq!(clock.capture(0), None);
        clock.report(4 * 90_000, seconds(12.0));
        assert_eq!(clock.capture(0), None);
        // It has found its latency.
        clock.report(5 * 90_000, seconds(13.02));
        assert_eq!(clock.capture(5 * 90_000), Some(seconds(13.02)));
    }

    #[test]
    fn packets_between_are_interpolated_also_across_the_wrap() {
        let mut clock = CaptureClock::new(90_000);
        assert_eq!(clock.capture(5), None);
        clock.report(u32::MAX - 44_999, seconds(10.0));
        assert_eq!(clock.capture(0), Some(seconds(10.5)));
        // The extension has the last word.
        clock.learn(90_000, seconds(20.0));
        clock.report(90_000, seconds(10.0));
        assert_eq!(clock.capture(0), Some(seconds(19.0)), "before it, too");
        assert_eq!(clock.capture(180_000), Some(seconds(21.0)));
        assert_eq!(clock.capture(90_000 * 70), None, "too far");
        // The time of capture before 1900 is no time to be computed with.
        clock.learn(90_000, NtpTime(0));
        assert_eq!(clock.capture(0), Some(NtpTime(0)));
    }
}
