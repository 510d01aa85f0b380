// SPDX-License-Identifier: MPL-2.0
//! A picture in few bytes, to tell one that lacks something from what the
//! encoder made, at hardly any cost to the receiver that is measured. Decoders
//! agree on every pixel, so the sender decodes its own stream and what differs
//! at the receiver is the work of a loss.

use dualstream_clip::picture::Luma;

/// Pixels of a block, each way.
const SIDE: usize = 8;
/// Levels of luma by which a block may differ unseen.
const LEVELS: u8 = 2;

/// The mean luma of each block, in hexadecimal.
pub fn blocks(luma: Luma<'_>) -> String {
    let columns = luma.width / SIDE;
    let mut sums = vec![0u32; columns];
    let mut text = String::new();
    for row in 0..luma.height / SIDE {
        sums.fill(0);
        for line in luma
            .data
            .chunks(luma.stride.max(1))
            .skip(row * SIDE)
            .take(SIDE)
        {
            for (sum, pixels) in sums.iter_mut().zip(line.chunks_exact(SIDE)) {
                *sum += pixels.iter().map(|p| u32::from(*p)).sum::<u32>();
            }
        }
        for sum in &sums {
            let mean = (sum / (SIDE * SIDE) as u32) as u8;
            for digit in [mean >> 4, mean & 15] {
                text.extend(char::from_digit(digit.into(), 16));
            }
        }
    }
    text
}

fn levels(text: &str) -> impl ExactSizeIterator<Item = u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes()
        .chunks_exact(2)
        .map(move |pair| digit(pair[0]) << 4 | digit(pair[1]))
}

/// Whether a picture that was shown is another than the one that was coded.
pub fn broken(coded: &str, shown: &str) -> bool {
    let (coded, shown) = (levels(coded), levels(shown));
    coded.len() != shown.len() || coded.zip(shown).any(|(a, b)| a.abs_diff(b) > LEVELS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(of: impl Fn(usize, usize) -> u8) -> String {
        const STRIDE: usize = 70;
        let data: Vec<u8> = (0..32)
            .flat_map(|y| (0..STRIDE).map(move |x| (x, y)))
            .map(|(x, y)| if x < 64 { of(x, y) } else { 255 })
            .collect();
        blocks(Luma {
            width: 64,
            height: 32,
            stride: STRIDE,
            data: &data,
        })
    }

    #[test]
    fn blocks_are_means_of_their_pixels() {
        let text = picture(|x, y| {
            if x < 8 && y < 8 {
                2 * (x % 2) as u8
            } else {
                0xab
            }
        });
        assert_eq!(text.len(), 2 * 8 * 4);
        assert!(text.starts_with("01abab"), "{text}");
        assert!(text.ends_with("ab"), "what is behind a line does not count");
    }

    #[test]
    fn a_picture_is_broken_where_it_differs() {
        let coded = picture(|x, y| (x + y) as u8);
        let near = picture(|x, y| (x + y) as u8 + 2);
        let smeared = picture(|x, y| (x + y) as u8 + if x < 8 && y < 8 { 3 } else { 0 });
        assert!(!broken(&coded, &coded) && !broken(&coded, &near));
        assert!(broken(&coded, &smeared));
        assert!(broken(&coded, ""), "of another size");
    }
}
