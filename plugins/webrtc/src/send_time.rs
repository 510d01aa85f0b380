// SPDX-License-Identifier: MPL-2.0
//! abs-send-time, for receivers that estimate by themselves and answer with
//! REMB: they know no transport-wide feedback, aiortc for one.
//! <https://webrtc.googlesource.com/src/+/main/docs/native-code/rtp-hdrext/abs-send-time>
//!
//! ```text
//! | id | len=2 |  seconds, 6.18 bit, modulo 64 s  |
//! ```

use gst::prelude::*;

pub const URI: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";

/// Seconds in 6.18 bit.
fn encode(time: gst::ClockTime) -> [u8; 3] {
    let units = (u128::from(time.nseconds()) << 18) / u128::from(gst::ClockTime::SECOND.nseconds());
    let [.., a, b, c] = units.to_be_bytes();
    [a, b, c]
}

/// Writes into every packet but those of `except`, a payload type, that it
/// leaves now. One that has no room for it passes as it is.
fn write(buffer: &mut gst::BufferRef, id: u8, except: u8, now: gst::ClockTime) {
    let Ok(mut rtp) = gst_rtp::RTPBuffer::from_buffer_writable(buffer) else {
        return;
    };
    if rtp.payload_type() != except {
        // It refuses where extensions of another form are: nothing is lost.
        let _ = rtp.add_extension_onebyte_header(id, &encode(now));
    }
}

/// Does so with all that goes through `pad`, which is the last one before the
/// RTP session. `id`: 1 to 14, as negotiated. `except`: payload type of audio,
/// for which it is not.
pub fn stamp(pad: &impl IsA<gst::Pad>, id: u8, except: u8) {
    let clock = gst::SystemClock::obtain();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(kinds, move |_, info| {
        let now = clock.time();
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => write(buffer.make_mut(), id, except, now),
            Some(gst::PadProbeData::BufferList(list)) => {
                list.make_mut().foreach_mut(|mut buffer, _| {
                    write(buffer.make_mut(), id, except, now);
                    std::ops::ControlFlow::Continue(Some(buffer))
                })
            }
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_rtp::prelude::*;

    fn packet(payload_type: u8) -> gst::Buffer {
        gst::init().unwrap();
        let mut packet = gst::Buffer::new_rtp_with_sizes(7, 0, 0).unwrap();
        let mut rtp = gst_rtp::RTPBuffer::from_buffer_writable(packet.get_mut().unwrap()).unwrap();
        rtp.set_payload_type(payload_type);
        rtp.payload_mut().unwrap().copy_from_slice(b"payload");
        drop(rtp);
        packet
    }

    fn extension(packet: &gst::Buffer, id: u8) -> Option<Vec<u8>> {
        let rtp = gst_rtp::RTPBuffer::from_buffer_readable(packet).unwrap();
        assert_eq!(rtp.payload().unwrap(), b"payload");
        rtp.extension_onebyte_header(id, 0).map(<[u8]>::to_vec)
    }

    #[test]
    fn seconds_are_written_in_18_bits_of_fraction_and_wrap_after_64() {
        assert_eq!(encode(gst::ClockTime::ZERO), [0, 0, 0]);
        assert_eq!(encode(gst::ClockTime::from_mseconds(1500)), [0x06, 0, 0]);
        assert_eq!(encode(gst::ClockTime::from_seconds(64)), [0, 0, 0]);
        assert_eq!(encode(gst::ClockTime::from_seconds(63)), [0xfc, 0, 0]);
        // Half a unit less than a second.
        let less = gst::ClockTime::from_nseconds(999_998_000);
        assert_eq!(encode(less), [0x03, 0xff, 0xff]);
    }

    #[test]
    fn it_is_written_beside_other_extensions_and_not_into_audio() {
        let now = gst::ClockTime::from_seconds(1);
        let mut bare = packet(96);
        write(bare.make_mut(), 2, 111, now);
        assert_eq!(extension(&bare, 2), Some(vec![0x04, 0, 0]));

        let mut other = packet(96);
        let mut rtp = gst_rtp::RTPBuffer::from_buffer_writable(other.get_mut().unwrap()).unwrap();
        rtp.add_extension_onebyte_header(5, &[9; 8]).unwrap();
        drop(rtp);
        write(other.make_mut(), 2, 111, now);
        assert_eq!(extension(&other, 2), Some(vec![0x04, 0, 0]));
        assert_eq!(extension(&other, 5), Some(vec![9; 8]));

        let mut audio = packet(111);
        write(audio.make_mut(), 2, 111, now);
        assert_eq!(extension(&audio, 2), None);
    }

    #[test]
    fn what_is_no_rtp_passes() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::from_slice([0u8; 3]);
        write(buffer.make_mut(), 2, 111, gst::ClockTime::ZERO);
        assert_eq!(buffer.size(), 3);
    }
}
