// SPDX-License-Identifier: MPL-2.0
//! The feedback control information of the message.

use std::fmt;

const MAGIC: [u8; 4] = *b"IFRC";
const WORD: usize = 4;
const KEY: u8 = 0x80;
const DECODABLE: u8 = 0x40;

/// Most entries that one message may hold.
pub const MAX_ENTRIES: usize = 16;

/// One frame that the receiver has.
///
/// ```text
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +---------------+---------------+---------------+---------------+
/// |  generation   |K|D|  reserved |         frame number          |
/// +---------------+---------------+---------------+---------------+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Count of display switches, as in the frame's header extension.
    pub generation: u8,
    /// It was a key frame.
    pub key: bool,
    /// It was decoded whole and can be predicted from.
    pub decodable: bool,
    /// The captured picture; wraps.
    pub number: u16,
}

impl Entry {
    const fn to_bytes(self) -> [u8; WORD] {
        let [high, low] = self.number.to_be_bytes();
        let key = if self.key { KEY } else { 0 };
        let decodable = if self.decodable { DECODABLE } else { 0 };
        [self.generation, key | decodable, high, low]
    }

    const fn from_bytes([generation, flags, high, low]: [u8; WORD]) -> Self {
        Self {
            generation,
            key: flags & KEY != 0,
            decodable: flags & DECODABLE != 0,
            number: u16::from_be_bytes([high, low]),
        }
    }
}

/// Why bytes are not an [`Fci`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FciError {
    /// Another application's feedback: nothing is wrong with it.
    NotOurs,
    /// Ours by its first word, but no whole number of entries follows.
    Length,
}

impl fmt::Display for FciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOurs => "the feedback is of another application",
            Self::Length => "the feedback does not end with a whole entry",
        })
    }
}

impl std::error::Error for FciError {}

/// The entries of one message, latest first; none says only "I understand
/// this message".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fci {
    entries: [Entry; MAX_ENTRIES],
    count: usize,
    ignored: usize,
}

impl Fci {
    /// Entries beyond [`MAX_ENTRIES`] are left out and counted as ignored.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut fci = Self::default();
        for entry in entries {
            match fci.entries.get_mut(fci.count) {
                Some(slot) => {
                    *slot = entry;
                    fci.count += 1;
                }
                None => fci.ignored += 1,
            }
        }
        fci
    }

    /// Reserved bits are ignored.
    pub fn parse(data: &[u8]) -> Result<Self, FciError> {
        let (words, rest) = data.as_chunks::<WORD>();
        let Some((&MAGIC, words)) = words.split_first() else {
            return Err(FciError::NotOurs);
        };
        if !rest.is_empty() {
            return Err(FciError::Length);
        }
        Ok(Self::new(words.iter().copied().map(Entry::from_bytes)))
    }

    /// Latest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries[..self.count]
    }

    /// How many entries there were beyond [`MAX_ENTRIES`].
    #[must_use]
    pub const fn ignored(&self) -> usize {
        self.ignored
    }

    /// Size on the wire in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        WORD + self.count * WORD
    }

    /// True if this only says that the message is understood.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// In the order of the wire.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        let entries = self.entries().iter().flat_map(|entry| entry.to_bytes());
        MAGIC.into_iter().chain(entries)
    }

    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Worked out by hand from docs/wire-formats.md.
    #[test]
    fn bits_are_where_the_page_says() {
        let key = Entry {
            generation: 7,
            key: true,
            decodable: true,
            number: 0x1234,
        };
        let broken = Entry {
            generation: 255,
            key: false,
            decodable: false,
            number: 0xffff,
        };
        let plain = Entry {
            generation: 0,
            key: false,
            decodable: true,
            number: 1,
        };
        let bytes = b"IFRC\x07\xc0\x12\x34\xff\x00\xff\xff\x00\x40\x00\x01";
        let fci = Fci::new([key, broken, plain]);
        assert_eq!(fci.to_vec(), bytes);
        assert_eq!(fci.len(), bytes.len());
        assert_eq!(Fci::parse(bytes), Ok(fci));
        assert_eq!(fci.entries(), [key, broken, plain]);
    }

    #[test]
    fn a_message_without_entries_is_only_the_magic() {
        assert_eq!(Fci::default().to_vec(), b"IFRC");
        assert_eq!(Fci::parse(b"IFRC"), Ok(Fci::default()));
        assert!(Fci::default().is_empty());
    }

    #[test]
    fn reserved_bits_are_ignored_and_not_sent() {
        let fci = Fci::parse(b"IFRC\x01\xff\x00\x02").unwrap();
        assert_eq!(fci.to_vec(), b"IFRC\x01\xc0\x00\x02");
    }

    #[test]
    fn feedback_of_others_is_not_ours_whatever_its_length() {
        for data in [
            &b""[..],
            b"I",
            b"IFR",
            b"REMB\x01\x02\x03\x04\x05",
            b"IFRD\x00\x00\x00\x00",
            b"ifrc",
        ] {
            assert_eq!(Fci::parse(data), Err(FciError::NotOurs), "{data:?}");
        }
    }

    #[test]
    fn every_length_is_whole_or_malformed() {
        let mut data = b"IFRC".to_vec();
        for extra in 0..200 {
            let expected = extra % 4 == 0;
            assert_eq!(Fci::parse(&data).is_ok(), expected, "{extra} bytes");
            if !expected {
                assert_eq!(Fci::parse(&data), Err(FciError::Length));
            }
            data.push(extra as u8);
        }
    }

    #[test]
    fn the_first_sixteen_entries_count_and_the_rest_is_ignored() {
        for entries in 0u16..40 {
            let mut data = b"IFRC".to_vec();
            for number in 0..entries {
                data.extend([0, 0x40]);
                data.extend(number.to_be_bytes());
            }
            let fci = Fci::parse(&data).unwrap();
            let kept: Vec<u16> = fci.entries().iter().map(|e| e.number).collect();
            assert_eq!(kept, (0..entries.min(16)).collect::<Vec<_>>());
            assert_eq!(fci.ignored(), usize::from(entries.saturating_sub(16)));
        }
    }

    pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
        any::<(u8, bool, bool, u16)>().prop_map(|(generation, key, decodable, number)| Entry {
            generation,
            key,
            decodable,
            number,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entries in proptest::collection::vec(any_entry(), 0..=MAX_ENTRIES)) {
            let fci = Fci::new(entries.iter().copied());
            prop_assert_eq!(fci.entries(), &entries[..]);
            prop_assert_eq!(fci.ignored(), 0);
            prop_assert_eq!(Fci::parse(&fci.to_vec()), Ok(fci));
        }
    }
}
