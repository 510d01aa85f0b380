// SPDX-License-Identifier: MPL-2.0
//! Sender reports, as rtpbin wants them to keep streams in sync.

use rtcp_types::{Compound, Packet, SdesItem};

/// Items and reports of a packet that are looked at.
const MOST: usize = 64;

/// What a sender report says (RFC 3550, section 6.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderReport {
    pub ssrc: u32,
    /// As on the wire, 32.32 bit seconds.
    pub ntp: u64,
    pub rtp: u32,
    pub cname: Option<String>,
}

impl SenderReport {
    /// The first of a compound packet.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let mut report: Option<Self> = None;
        for packet in Compound::parse(data).ok()?.take(MOST) {
            match packet {
                Ok(Packet::Sr(sr)) if report.is_none() => {
                    report = Some(Self {
                        ssrc: sr.ssrc(),
                        ntp: sr.ntp_timestamp(),
                        rtp: sr.rtp_timestamp(),
                        cname: None,
                    });
                }
                Ok(Packet::Sdes(sdes)) => {
                    let report = report.as_mut()?;
                    report.cname = sdes
                        .chunks()
                        .take(MOST)
                        .filter(|chunk| chunk.ssrc() == report.ssrc)
                        .flat_map(|chunk| chunk.items().take(MOST))
                        .find(|item| item.type_() == SdesItem::CNAME)
                        .and_then(|item| item.get_value_string().ok())
                        // Strings of GStreamer have none inside.
                        .filter(|name| !name.contains('\0'));
                    break;
                }
                Ok(_) => (),
                Err(_) => break,
            }
        }
        report
    }

    fn ntp_nanos(&self) -> u64 {
        let nanos = (u128::from(self.ntp) * 1_000_000_000) >> 32;
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// Where the stream is when a report is handed on.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// RTP time of the report, made endless; `None`: it is not to be trusted.
    pub ext_rtp: Option<u64>,
    /// Some RTP time, and the time stamp that it would get.
    pub base_rtp: u64,
    pub base_time: u64,
    pub clock_rate: u32,
    pub clock_base: Option<u32>,
}

/// What the signal `handle-sync` carries.
pub fn structure(report: &SenderReport, buffer: &gst::Buffer, at: &Position) -> gst::Structure {
    let mut s = gst::Structure::builder("application/x-rtp-sync")
        .field("base-rtptime", at.base_rtp)
        .field("base-time", at.base_time)
        .field("clock-rate", at.clock_rate)
        .field("clock-base", at.clock_base.map_or(u64::MAX, u64::from))
        .field("ssrc", report.ssrc)
        .field("sr-ext-rtptime", at.ext_rtp.unwrap_or(u64::MAX))
        .field("sr-ntpnstime", report.ntp_nanos())
        .field("sr-buffer", buffer)
        .build();
    if let Some(cname) = &report.cname {
        s.set("cname", cname);
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtcp_types::{RtcpPacketWriter, RtcpPacketWriterExt, Sdes, SdesChunk};

    /// rtcp-types 0.3 takes zeros at the start of an SSRC for padding of the
    /// chunk before. Then there is no name, and rtpbin looks for itself.
    const SSRC: u32 = 0x1234_5678;

    fn compound() -> Vec<u8> {
        let sr = rtcp_types::SenderReport::builder(SSRC)
            .ntp_timestamp(5 << 32 | 0x8000_0000)
            .rtp_timestamp(90_000);
        let chunk = |ssrc, name| {
            SdesChunk::builder(ssrc).add_item(SdesItem::builder(SdesItem::CNAME, name))
        };
        let sdes = Sdes::builder()
            .add_chunk(chunk(7, "other"))
            .add_chunk(chunk(SSRC, "robot@field"));
        let packet = Compound::builder().add_packet(sr).add_packet(sdes);
        let mut data = vec![0; packet.calculate_size().unwrap()];
        packet.write_into(&mut data).unwrap();
        data
    }

    #[test]
    fn report_and_name_are_read() {
        let report = SenderReport::parse(&compound()).unwrap();
        assert_eq!((report.ssrc, report.rtp), (SSRC, 90_000));
        assert_eq!(report.ntp_nanos(), 5_500_000_000);
        assert_eq!(report.cname.as_deref(), Some("robot@field"));
    }

    #[test]
    fn whatever_comes_does_no_harm() {
        let data = compound();
        for len in 0..data.len() {
            let _ = SenderReport::parse(&data[..len]);
        }
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut data = data.clone();
            for _ in 0..3 {
                let at = rng.usize(0..data.len());
                data[at] = rng.u8(..);
            }
            let _ = SenderReport::parse(&data);
        }
    }
}
