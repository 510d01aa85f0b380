// SPDX-License-Identifier: MPL-2.0
//! The property `format` of both elements.

use gst::glib;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstRtpFlexFecFormat")]
pub enum Format {
    #[default]
    #[enum_value(
        name = "FlexFEC-03: draft-ietf-payload-flexible-fec-scheme-03, as browsers speak it",
        nick = "flexfec-03"
    )]
    FlexFec03,
    #[enum_value(name = "RFC 8627: FlexFEC as it was published", nick = "rfc8627")]
    Rfc8627,
}

impl Format {
    /// As in `a=rtpmap` of SDP.
    pub fn encoding_name(self) -> &'static str {
        match self {
            Self::FlexFec03 => "FLEXFEC-03",
            Self::Rfc8627 => "FLEXFEC",
        }
    }
}

impl From<Format> for flexfec_core::encoder::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::FlexFec03 => Self::FlexFec03,
            Format::Rfc8627 => Self::Rfc8627,
        }
    }
}
