// SPDX-License-Identifier: MPL-2.0
//! The quantiser of a coded picture, read from its slice headers (ITU-T H.264
//! 7.4.3, SliceQPY): every encoder tells it there, also those that have no
//! statistics of their own.

use h264_reader::Context;
use h264_reader::nal::pps::PicParameterSet;
use h264_reader::nal::slice::SliceHeader;
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::nal::{Nal, RefNal, UnitType};

use h264_reader::rbsp::decode_nal;

use crate::macroblocks::{self, Macroblock};
use crate::receiver::next_nal;

/// A slice header is far shorter than this.
const HEADER: usize = 256;

/// Keeps the parameter sets that the slices refer to.
#[derive(Default)]
pub struct QuantiserReader {
    context: Context,
}

impl std::fmt::Debug for QuantiserReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuantiserReader").finish_non_exhaustive()
    }
}

impl QuantiserReader {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Mean over the slices of a byte-stream access unit, 0 to 51; `None`
    /// where no header can be read.
    pub fn read(&mut self, unit: &[u8]) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0u32);
        let mut at = 0;
        while let Some(start) = next_nal(unit, at) {
            at = start;
            let rest = &unit[start..];
            let Some(kind) = rest.first().map(|header| header & 0x1f) else {
                break;
            };
            match kind {
                7 | 8 => {
                    let end = next_nal(unit, start).map_or(unit.len(), |next| next - 3);
                    self.parameter_set(&unit[start..end]);
                }
                1 | 5 => {
                    let start = &rest[..rest.len().min(HEADER)];
                    let end = next_nal(start, 0).map_or(start.len(), |next| next - 3);
                    if let Some(quantiser) = self.slice(&start[..end]) {
                        sum += quantiser;
                        count += 1;
                    }
                }
                _ => {}
            }
        }
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Its macroblocks and how many there are in a row, if it is one P slice of the
    /// kind that [`macroblocks::read`] knows.
    pub fn macroblocks(&self, unit: &[u8]) -> Option<(Vec<Macroblock>, usize)> {
        let mut at = 0;
        while let Some(start) = next_nal(unit, at) {
            at = start;
            if unit.get(start)? & 0x1f != 1 {
                continue;
            }
            let end = next_nal(unit, start).map_or(unit.len(), |next| next - 3);
            let slice = &unit[start..end];
            let nal = RefNal::new(&slice[..slice.len().min(HEADER)], &[], false);
            let header = nal.header().ok()?;
            let (_, sps, pps) =
                SliceHeader::from_bits(&self.context, &mut nal.rbsp_bits(), header, None).ok()?;
            let payload = decode_nal(slice).ok()?;
            let all = macroblocks::read(&payload, header.nal_ref_idc() != 0, sps, pps)?;
            return Some((all, usize::try_from(sps.pic_width_in_mbs()).ok()?));
        }
        None
    }

    fn parameter_set(&mut self, nal: &[u8]) {
        let nal = RefNal::new(nal, &[], true);
        match nal.header().map(|header| header.nal_unit_type()) {
            Ok(UnitType::SeqParameterSet) => {
                if let Ok(sps) = SeqParameterSet::from_bits(nal.rbsp_bits()) {
                    self.context.put_seq_param_set(sps);
                }
            }
            Ok(UnitType::PicParameterSet) => {
                if let Ok(pps) = PicParameterSet::from_bits(&self.context, nal.rbsp_bits()) {
                    self.context.put_pic_param_set(pps);
                }
            }
            _ => {}
        }
    }

    fn slice(&self, start: &[u8]) -> Option<f64> {
        let nal = RefNal::new(start, &[], false);
        let header = nal.header().ok()?;
        let (slice, _, pps) =
            SliceHeader::from_bits(&self.context, &mut nal.rbsp_bits(), header, None).ok()?;
        let quantiser = 26 + pps.pic_init_qp_minus26 + slice.slice_qp_delta;
        (0..=51).contains(&quantiser).then(|| f64::from(quantiser))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The headers of two pictures of 64x48 by x264 with a constant quantiser
    /// of 28: P frames have it, I frames are 6 log2(1.4) steps finer.
    const SPS: &str = "674d400ad9047b016a0c0c0d4a000003000200000300791e244c9000";
    const PPS: &str = "68ebc24b20";
    const IDR: &str =
        "6588843fda8def24ff05acec88abe5fdeba9603b6becb778e206fb4aae4569061cd5de822cb1bec5";
    const P: &str =
        "419a3b1fc68b338d2d149da314760438f7bdf3124e8b927679211de5c6a75526914fd955773db056";

    fn unit(nals: &[&str]) -> Vec<u8> {
        let mut unit = Vec::new();
        for nal in nals {
            unit.extend([0, 0, 0, 1]);
            unit.extend(
                (0..nal.len())
                    .step_by(2)
                    .map(|i| u8::from_str_radix(&nal[i..i + 2], 16).expect("hexadecimal digits")),
            );
        }
        unit
    }

    #[test]
    fn the_quantiser_is_that_of_the_encoder() {
        let mut reader = QuantiserReader::new();
        assert_eq!(reader.read(&unit(&[P])), None, "no parameter sets yet");
        assert_eq!(reader.read(&unit(&[SPS, PPS, IDR])), Some(25.0));
        assert_eq!(reader.read(&unit(&[P])), Some(28.0));
        assert_eq!(reader.read(&unit(&[IDR, P])), Some(26.5), "two slices");
        assert_eq!(reader.read(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            first in proptest::collection::vec(any::<u8>(), 0..60),
            nals in proptest::collection::vec((prop_oneof![Just(0x67u8), Just(0x68), Just(0x65), Just(0x41), any::<u8>()], proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
        ) {
            let mut reader = QuantiserReader::new();
            let mut data = unit(&[SPS, PPS]);
            data.extend(first);
            for (header, payload) in nals {
                data.extend([0, 0, 1, header]);
                data.extend(payload);
            }
            if let Some(quantiser) = reader.read(&data) {
                prop_assert!((0.0..=51.0).contains(&quantiser));
            }
        }
    }
}
