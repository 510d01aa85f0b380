// SPDX-License-Identifier: MPL-2.0
//! As much of the header extension "dual stream frame" as the feedback needs.

/// The URI under which the extension is negotiated.
pub const EXTENSION_URI: &str = "urn:x-gst-dualstream:frame:1";

/// Which of the two streams a packet belongs to, from the four bytes of its
/// extension; `None` if they are not version 1 of it.
#[must_use]
pub const fn stream_in_extension(data: &[u8]) -> Option<u32> {
    match data {
        &[flags, _, _, _] if flags >> 6 == 1 => Some((flags >> 5 & 1) as u32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_extensions_of_version_one_name_a_stream() {
        assert_eq!(stream_in_extension(&[0b0100_0000, 0, 1, 0]), Some(0));
        assert_eq!(stream_in_extension(&[0b0111_1100, 0, 1, 0]), Some(1));
        assert_eq!(stream_in_extension(&[0b0010_0000, 0, 1, 0]), None);
        assert_eq!(stream_in_extension(&[0b1010_0000, 0, 1, 0]), None);
        assert_eq!(stream_in_extension(&[0b0110_0000, 0, 1]), None);
        assert_eq!(stream_in_extension(&[0b0110_0000, 0, 1, 0, 0]), None);
    }
}
