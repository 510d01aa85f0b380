// SPDX-License-Identifier: MPL-2.0
//! RTP header extension `video-timing`: when a frame passed the stages of its
//! sender, in ms since its capture.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+-------------------------------+---------------+
//! |     flags     |     encode start              | encode finish |
//! +---------------+-------------------------------+---------------+
//! |               | packetization finish          |  pacer exit   |
//! +---------------+-------------------------------+---------------+
//! |               | network (reserved)            | network 2     |
//! +---------------+-------------------------------+---------------+
//! |               |
//! +---------------+
//! ```
//!
//! The format is libwebrtc's (`video-timing`, experiments of the RTP header
//! extensions). Deliberate differences: it stands on the last packet of every
//! frame that is shown, where libwebrtc has it on a few; encode start is 0, as
//! the encoder is not asked when it begins.

pub const URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/video-timing";
pub const LENGTH: usize = 13;
/// Where the time of leaving the pacer is. Forward error correction takes it and
/// what follows for zero.
const PACER_EXIT: usize = 7;
/// libwebrtc's flags: says nothing.
const INVALID: u8 = 0xff;
/// Sent since its time had come.
const TRIGGERED_BY_TIMER: u8 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VideoTiming {
    pub encode_start_ms: u16,
    pub encode_finish_ms: u16,
    pub packetization_finish_ms: u16,
    /// 0: not known, as in packets that FEC made.
    pub pacer_exit_ms: u16,
}

impl VideoTiming {
    /// `None` if it is of another length or says that it says nothing.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (flags, rest) = data.split_first()?;
        if data.len() != LENGTH || *flags == INVALID {
            return None;
        }
        let mut times = rest
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| u16::from_be_bytes(*b));
        Some(Self {
            encode_start_ms: times.next()?,
            encode_finish_ms: times.next()?,
            packetization_finish_ms: times.next()?,
            pacer_exit_ms: times.next()?,
        })
    }

    pub fn to_bytes(self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        out[0] = TRIGGERED_BY_TIMER;
        let times = [
            self.encode_start_ms,
            self.encode_finish_ms,
            self.packetization_finish_ms,
            self.pacer_exit_ms,
        ];
        for (place, time) in out[1..].chunks_exact_mut(2).zip(times) {
            place.copy_from_slice(&time.to_be_bytes());
        }
        out
    }

    /// Writes when the packet left into the extension of a packet.
    pub fn set_pacer_exit(data: &mut [u8], ms: u16) {
        if data.len() == LENGTH
            && let Some(place) = data.get_mut(PACER_EXIT..PACER_EXIT + 2)
        {
            place.copy_from_slice(&ms.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_laid_out_as_libwebrtc_has_them() {
        let timing = VideoTiming {
            encode_start_ms: 1,
            encode_finish_ms: 0x0203,
            packetization_finish_ms: 0x0405,
            pacer_exit_ms: 0x0607,
        };
        let mut data = timing.to_bytes();
        assert_eq!(data, [1, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0]);
        assert_eq!(VideoTiming::parse(&data), Some(timing));
        VideoTiming::set_pacer_exit(&mut data, 0x0a0b);
        assert_eq!(data, [1, 0, 1, 2, 3, 4, 5, 0x0a, 0x0b, 0, 0, 0, 0]);
        data[0] = 0xff;
        assert_eq!(VideoTiming::parse(&data), None);
    }

    #[test]
    fn other_lengths_are_passed_over() {
        for length in (0..40).filter(|length| *length != LENGTH) {
            let mut data = vec![0; length];
            assert_eq!(VideoTiming::parse(&data), None, "{length}");
            VideoTiming::set_pacer_exit(&mut data, 7);
            assert_eq!(data, vec![0; length]);
        }
    }
}
