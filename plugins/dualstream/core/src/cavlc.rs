// SPDX-License-Identifier: MPL-2.0
//! The residual blocks of H.264 with variable-length codes (ITU-T H.264 9.2), read
//! for their length alone: how many coefficients there are, not which.

use std::sync::LazyLock;

/// Bits of a payload without its emulation prevention.
#[derive(Debug)]
pub struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Bits<'a> {
    /// The payload ends with a one and zeros, which are no part of it.
    pub fn new(data: &'a [u8]) -> Option<Self> {
        let last = data.iter().rposition(|byte| *byte != 0)?;
        let end = last * 8 + 7 - data[last].trailing_zeros() as usize;
        Some(Self { data, at: 0, end })
    }

    pub const fn position(&self) -> usize {
        self.at
    }

    pub const fn more(&self) -> bool {
        self.at < self.end
    }

    pub fn bit(&mut self) -> Option<u32> {
        if self.at >= self.end {
            return None;
        }
        let bit = self.data[self.at / 8] >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(u32::from(bit))
    }

    pub fn skip(&mut self, bits: usize) -> Option<()> {
        self.at = self.at.checked_add(bits)?;
        (self.at <= self.end).then_some(())
    }

    pub fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    /// Zeros up to a one, which is read, too.
    fn zeros(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
        }
        Some(zeros)
    }

    pub fn ue(&mut self) -> Option<u32> {
        let zeros = self.zeros()?;
        if zeros > 31 {
            return None;
        }
        let rest = u64::from(self.number(zeros)?);
        u32::try_from((1u64 << zeros) - 1 + rest).ok()
    }

    pub fn se(&mut self) -> Option<i64> {
        let value = i64::from(self.ue()?);
        Some(if value % 2 == 1 {
            (value + 1) / 2
        } else {
            -value / 2
        })
    }
}

/// A set of codes, none the beginning of another: a binary tree.
#[derive(Debug)]
struct Codes(Vec<[Node; 2]>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    None,
    Inner(usize),
    Leaf(u8),
}

impl Codes {
    /// Of lengths, bits and values; a length of 0 is no code.
    fn new(codes: impl IntoIterator<Item = (u8, u8, u8)>) -> Self {
        let mut tree = vec![[Node::None; 2]];
        for (length, bits, value) in codes {
            let mut at = 0;
            for i in (0..length).rev() {
                let bit = usize::from(u16::from(bits) >> i & 1);
                if i == 0 {
                    debug_assert_eq!(tree[at][bit], Node::None);
                    tree[at][bit] = Node::Leaf(value);
                } else if let Node::Inner(next) = tree[at][bit] {
                    at = next;
                } else {
                    debug_assert_eq!(tree[at][bit], Node::None);
                    tree[at][bit] = Node::Inner(tree.len());
                    at = tree.len();
                    tree.push([Node::None; 2]);
                }
            }
        }
        Self(tree)
    }

    fn read(&self, bits: &mut Bits<'_>) -> Option<u8> {
        let mut at = 0;
        loop {
            match self.0[at][bits.bit()? as usize] {
                Node::None => return None,
                Node::Inner(next) => at = next,
                Node::Leaf(value) => return Some(value),
            }
        }
    }
}

fn of_lengths(lengths: &[u8], bits: &[u8]) -> Codes {
    let codes = lengths.iter().zip(bits).enumerate();
    Codes::new(codes.map(|(value, (length, bits))| (*length, *bits, value as u8)))
}

/// Table 9-5: lengths and bits for 0 to 16 coefficients, each with 0 to 3 trailing
/// ones; for nC from 0, 2 and 4 on.
const TOKENS: [([u8; 68], [u8; 68]); 3] = [
    (
        [
            1, 0, 0, 0, 6, 2, 0, 0, 8, 6, 3, 0, 9, 8, 7, 5, 10, 9, 8, 6, 11, 10, 9, 7, 13, 11, 10,
            8, 13, 13, 11, 9, 13, 13, 13, 10, 14, 14, 13, 11, 14, 14, 14, 13, 15, 15, 14, 14, 15,
            15, 15, 14, 16, 15, 15, 15, 16, 16, 16, 15, 16, 16, 16, 16, 16, 16, 16, 16,
        ],
        [
            1, 0, 0, 0, 5, 1, 0, 0, 7, 4, 1, 0, 7, 6, 5, 3, 7, 6, 5, 3, 7, 6, 5, 4, 15, 6, 5, 4,
            11, 14, 5, 4, 8, 10, 13, 4, 15, 14, 9, 4, 11, 10, 13, 12, 15, 14, 9, 12, 11, 10, 13, 8,
            15, 1, 9, 12, 11, 14, 13, 8, 7, 10, 9, 12, 4, 6, 5, 8,
        ],
    ),
    (
        [
            2, 0, 0, 0, 6, 2, 0, 0, 6, 5, 3, 0, 7, 6, 6, 4, 8, 6, 6, 4, 8, 7, 7, 5, 9, 8, 8, 6, 11,
            9, 9, 6, 11, 11, 11, 7, 12, 11, 11, 9, 12, 12, 12, 11, 12, 12, 12, 11, 13, 13, 13, 12,
            13, 13, 13, 13, 13, 14, 13, 13, 14, 14, 14, 13, 14, 14, 14, 14,
        ],
        [
            3, 0, 0, 0, 11, 2, 0, 0, 7, 7, 3, 0, 7, 10, 9, 5, 7, 6, 5, 4, 4, 6, 5, 6, 7, 6, 5, 8,
            15, 6, 5, 4, 11, 14, 13, 4, 15, 10, 9, 4, 11, 14, 13, 12, 8, 10, 9, 8, 15, 14, 13, 12,
            11, 10, 9, 12, 7, 11, 6, 8, 9, 8, 10, 1, 7, 6, 5, 4,
        ],
    ),
    (
        [
            4, 0, 0, 0, 6, 4, 0, 0, 6, 5, 4, 0, 6, 5, 5, 4, 7, 5, 5, 4, 7, 5, 5, 4, 7, 6, 6, 4, 7,
            6, 6, 4, 8, 7, 7, 5, 8, 8, 7, 6, 9, 8, 8, 7, 9, 9, 8, 8, 9, 9, 9, 8, 10, 9, 9, 9, 10,
            10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10,
        ],
        [
            15, 0, 0, 0, 15, 14, 0, 0, 11, 15, 13, 0, 8, 12, 14, 12, 15, 10, 11, 11, 11, 8, 9, 10,
            9, 14, 13, 9, 8, 10, 9, 8, 15, 14, 13, 13, 11, 14, 10, 12, 15, 10, 13, 12, 11, 14, 9,
            12, 8, 10, 13, 8, 13, 7, 9, 12, 9, 12, 11, 10, 5, 8, 7, 6, 1, 4, 3, 2,
        ],
    ),
];
/// The same of chroma DC.
const DC_TOKENS: ([u8; 20], [u8; 20]) = (
    [2, 0, 0, 0, 6, 1, 0, 0, 6, 6, 3, 0, 6, 7, 7, 6, 6, 8, 8, 7],
    [1, 0, 0, 0, 7, 1, 0, 0, 4, 6, 1, 0, 3, 3, 2, 5, 2, 3, 2, 0],
);
/// Tables 9-7 and 9-8: total zeros for 1 to 15 coefficients.
const ZEROS: [(&[u8], &[u8]); 15] = [
    (
        &[1, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9],
        &[1, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 1],
    ),
    (
        &[3, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 6, 6, 6, 6],
        &[7, 6, 5, 4, 3, 5, 4, 3, 2, 3, 2, 3, 2, 1, 0],
    ),
    (
        &[4, 3, 3, 3, 4, 4, 3, 3, 4, 5, 5, 6, 5, 6],
        &[5, 7, 6, 5, 4, 3, 4, 3, 2, 3, 2, 1, 1, 0],
    ),
    (
        &[5, 3, 4, 4, 3, 3, 3, 4, 3, 4, 5, 5, 5],
        &[3, 7, 5, 4, 6, 5, 4, 3, 3, 2, 2, 1, 0],
    ),
    (
        &[4, 4, 4, 3, 3, 3, 3, 3, 4, 5, 4, 5],
        &[5, 4, 3, 7, 6, 5, 4, 3, 2, 1, 1, 0],
    ),
    (
        &[6, 5, 3, 3, 3, 3, 3, 3, 4, 3, 6],
        &[1, 1, 7, 6, 5, 4, 3, 2, 1, 1, 0],
    ),
    (
        &[6, 5, 3, 3, 3, 2, 3, 4, 3, 6],
        &[1, 1, 5, 4, 3, 3, 2, 1, 1, 0],
    ),
    (&[6, 4, 5, 3, 2, 2, 3, 3, 6], &[1, 1, 1, 3, 3, 2, 2, 1, 0]),
    (&[6, 6, 4, 2, 2, 3, 2, 5], &[1, 0, 1, 3, 2, 1, 1, 1]),
    (&[5, 5, 3, 2, 2, 2, 4], &[1, 0, 1, 3, 2, 1, 1]),
    (&[4, 4, 3, 3, 1, 3], &[0, 1, 1, 2, 1, 3]),
    (&[4, 4, 2, 1, 3], &[0, 1, 1, 1, 1]),
    (&[3, 3, 1, 2], &[0, 1, 1, 1]),
    (&[2, 2, 1], &[0, 1, 1]),
    (&[1, 1], &[0, 1]),
];
/// Table 9-9 (a): of chroma DC, for 1 to 3.
const DC_ZEROS: [(&[u8], &[u8]); 3] = [
    (&[1, 2, 3, 3], &[1, 1, 1, 0]),
    (&[1, 2, 2], &[1, 1, 0]),
    (&[1, 1], &[1, 0]),
];
/// Table 9-10: the run before a coefficient, for 1 to 6 zeros left and more.
const RUNS: [(&[u8], &[u8]); 7] = [
    (&[1, 1], &[1, 0]),
    (&[1, 2, 2], &[1, 1, 0]),
    (&[2, 2, 2, 2], &[3, 2, 1, 0]),
    (&[2, 2, 2, 3, 3], &[3, 2, 1, 1, 0]),
    (&[2, 2, 3, 3, 3, 3], &[3, 2, 3, 2, 1, 0]),
    (&[2, 3, 3, 3, 3, 3, 3], &[3, 0, 1, 3, 2, 5, 4]),
    (
        &[3, 3, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        &[7, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ),
];

#[derive(Debug)]
struct Tables {
    tokens: [Codes; 3],
    dc_tokens: Codes,
    zeros: [Codes; 15],
    dc_zeros: [Codes; 3],
    runs: [Codes; 7],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    tokens: TOKENS.map(|(lengths, bits)| of_lengths(&lengths, &bits)),
    dc_tokens: of_lengths(&DC_TOKENS.0, &DC_TOKENS.1),
    zeros: ZEROS.map(|(lengths, bits)| of_lengths(lengths, bits)),
    dc_zeros: DC_ZEROS.map(|(lengths, bits)| of_lengths(lengths, bits)),
    runs: RUNS.map(|(lengths, bits)| of_lengths(lengths, bits)),
});

/// What kind of block is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// With what its neighbours have (nC), of at most so many coefficients.
    Of {
        neighbours: u8,
        most: u8,
    },
    ChromaDc,
}

/// Reads over a block; how many coefficients it has.
pub fn block(bits: &mut Bits<'_>, block: Block) -> Option<u8> {
    let tables = &*TABLES;
    let (token, most) = match block {
        Block::ChromaDc => (tables.dc_tokens.read(bits)?, 4),
        Block::Of { neighbours, most } => (token(bits, tables, neighbours)?, most),
    };
    let (total, ones) = (token / 4, token % 4);
    if total == 0 {
        return Some(0);
    }
    if total > most {
        return None;
    }
    bits.skip(usize::from(ones))?;
    levels(bits, total, ones)?;
    if total < most {
        let at = usize::from(total) - 1;
        let zeros = if block == Block::ChromaDc {
            tables.dc_zeros.get(at)?.read(bits)?
        } else {
            tables.zeros.get(at)?.read(bits)?
        };
        runs(bits, tables, total, zeros)?;
    }
    Some(total)
}

fn token(bits: &mut Bits<'_>, tables: &Tables, neighbours: u8) -> Option<u8> {
    let codes = match neighbours {
        0 | 1 => &tables.tokens[0],
        2 | 3 => &tables.tokens[1],
        4..=7 => &tables.tokens[2],
        _ => {
            let code = bits.number(6)? as u8;
            // Number less one, and the ones; 3 is none at all.
            return Some(if code == 3 { 0 } else { code + 4 });
        }
    };
    codes.read(bits)
}

fn levels(bits: &mut Bits<'_>, total: u8, ones: u8) -> Option<()> {
    let mut length = u32::from(total > 10 && ones < 3);
    for i in ones..total {
        let prefix = bits.zeros()?;
        let size = match prefix {
            14 if length == 0 => 4,
            0..=14 => length,
            15..=24 => prefix - 3,
            _ => return None,
        };
        let mut code = (prefix.min(15) << length) + bits.number(size)?;
        if prefix >= 15 && length == 0 {
            code += 15;
        }
        if prefix >= 16 {
            code += (1 << (prefix - 3)) - 4096;
        }
        if i == ones && ones < 3 {
            code += 2;
        }
        let size = (code + 2) >> 1;
        if length == 0 {
            length = 1;
        }
        if size > 3 << (length - 1) && length < 6 {
            length += 1;
        }
    }
    Some(())
}

fn runs(bits: &mut Bits<'_>, tables: &Tables, total: u8, mut zeros: u8) -> Option<()> {
    for _ in 1..total {
        if zeros == 0 {
            break;
        }
        let run = tables.runs[usize::from(zeros.min(7)) - 1].read(bits)?;
        zeros = zeros.checked_sub(run)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables 9-5 to 9-10 leave next to nothing of the codes unused: a digit that is
    /// wrong makes two codes the same, or one the beginning of another.
    #[test]
    fn the_tables_are_whole() {
        let mut unused = Vec::new();
        let mut check = |lengths: &[u8]| {
            let used: u32 = lengths
                .iter()
                .filter(|l| **l > 0)
                .map(|l| 1 << (16 - l))
                .sum();
            unused.push(65_536 - i64::from(used));
        };
        for (lengths, _) in TOKENS {
            check(&lengths);
        }
        check(&DC_TOKENS.0);
        for (lengths, _) in ZEROS.iter().chain(&DC_ZEROS).chain(&RUNS) {
            check(lengths);
        }
        assert!(
            unused.iter().all(|left| (0..=256).contains(left)),
            "{unused:?}"
        );
        // Each is built once, which fails where two codes meet.
        let tables = Tables {
            tokens: TOKENS.map(|(lengths, bits)| of_lengths(&lengths, &bits)),
            dc_tokens: of_lengths(&DC_TOKENS.0, &DC_TOKENS.1),
            zeros: ZEROS.map(|(lengths, bits)| of_lengths(lengths, bits)),
            dc_zeros: DC_ZEROS.map(|(lengths, bits)| of_lengths(lengths, bits)),
            runs: RUNS.map(|(lengths, bits)| of_lengths(lengths, bits)),
        };
        assert_eq!(tables.tokens.len(), 3);
    }

    #[test]
    fn numbers_are_read_and_end() {
        // 1, 010, 011, 00100, 1 for the end.
        let data = [0b1010_0110, 0b0100_1000];
        let mut bits = Bits::new(&data).expect("an end");
        assert_eq!(bits.ue(), Some(0));
        assert_eq!(bits.se(), Some(1));
        assert_eq!(bits.se(), Some(-1));
        assert_eq!(bits.ue(), Some(3));
        assert!(!bits.more());
        assert_eq!(bits.ue(), None);
        assert!(Bits::new(&[0, 0]).is_none());
    }

    #[test]
    fn a_block_is_read_to_its_end() {
        // Two coefficients, no trailing ones: 0000 0111. The first, code 2 and 2 more
        // since it is no one: 001, 3. The second, with a suffix of one bit: 01 1, -2.
        // No zeros: 111. The end: 1.
        let data = [0b0000_0111, 0b0010_1111, 0b1100_0000];
        let mut bits = Bits::new(&data).expect("an end");
        let kind = Block::Of {
            neighbours: 0,
            most: 16,
        };
        assert_eq!(block(&mut bits, kind), Some(2));
        assert_eq!(bits.position(), 17);
        assert!(!bits.more());
    }
}
