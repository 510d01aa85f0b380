// SPDX-License-Identifier: MPL-2.0
//! What a loss costs: frames that never arrive, the receiver's request, and
//! how long, how large, how late and how good the answer is.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::report::{mean, millis, percentile};
use crate::scheme::Scheme;
use crate::session::Record;

/// Shown within this of what the encoder has: the loss is over.
const CLEAN_DB: f64 = 1.0;
/// The time after the answer over which quality is taken.
const AFTER: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub max: f64,
}

/// One scheme's figures; the field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub scheme: Scheme,
    pub losses: usize,
    /// From the first frame coded after the request arrived, which is 1, to
    /// the first that is clean; if none is before the next loss, up to there.
    pub frames_to_clean: Spread,
    /// Of the first frame coded after the request arrived.
    pub recovery_bytes: Spread,
    pub latency_ms: Spread,
    /// Mean over the 500 ms from that frame on.
    pub psnr_db_after: f64,
    /// Losses answered with a key frame on the display stream.
    pub answered_by_key_frame: usize,
    /// And those of them where an acknowledged picture could have been
    /// referred to.
    pub key_frames_despite_reference: Option<u64>,
}

/// The pictures that never arrive: `burst` of them each `interval` on average,
/// from `first` on, as long as 1 s is left to answer. The times are spread by
/// the golden ratio, so that they fall on no beat of the encoder's.
pub fn lost(
    count: usize,
    fps: u32,
    first: Duration,
    interval: Duration,
    burst: usize,
) -> Vec<usize> {
    let index = |time: Duration| (time.as_secs_f64() * f64::from(fps)).round() as usize;
    let mut lost = Vec::new();
    let mut at = first;
    let mut spread = 0.0f64;
    while index(at) + burst + fps as usize <= count {
        lost.extend(index(at)..index(at) + burst);
        spread = (spread + 0.618_034).fract();
        at += interval.mul_f64(0.7 + 0.6 * spread);
    }
    lost
}

fn spread(values: &[f64]) -> Spread {
    Spread {
        median: percentile(values, 0.5),
        max: percentile(values, 1.0),
    }
}

pub fn figures(scheme: Scheme, record: &Record, lost: &[usize], fps: u32) -> Result<Figures> {
    let pictures = &record.pictures;
    let (mut to_clean, mut bytes, mut latency, mut after) = (vec![], vec![], vec![], vec![]);
    let mut by_key = 0;
    let span = (AFTER.as_secs_f64() * f64::from(fps)).round() as usize;
    for loss in &record.losses {
        let Some(first) = loss.answered else {
            bail!("a loss that was never reported to the encoder");
        };
        let answer = &pictures[first];
        let next_loss = lost
            .iter()
            .copied()
            .find(|at| *at > first)
            .unwrap_or(pictures.len());
        let clean = pictures[first..next_loss]
            .iter()
            .position(|p| p.reconstructed.psnr - p.likeness.psnr <= CLEAN_DB)
            .unwrap_or(next_loss - first);
        to_clean.push(clean as f64 + 1.0);
        bytes.push(answer.display_bytes as f64);
        if let Some(time) = answer.latency {
            latency.push(millis(time));
        }
        let end = (first + span).min(next_loss);
        after.push(mean(pictures[first..end].iter().map(|p| p.likeness.psnr)));
        by_key += usize::from(answer.display_key);
    }
    if record.losses.is_empty() {
        bail!("no frame was lost: the run is too short");
    }
    Ok(Figures {
        scheme,
        losses: record.losses.len(),
        frames_to_clean: spread(&to_clean),
        recovery_bytes: spread(&bytes),
        latency_ms: spread(&latency),
        psnr_db_after: mean(after.iter().copied()),
        answered_by_key_frame: by_key,
        key_frames_despite_reference: record.key_frames_despite_reference,
    })
}

pub fn table(all: &[Figures]) -> String {
    let mut text = String::from(
        "                      frames to clean   recovery bytes   latency, ms    PSNR after  by key\n\
         scheme        losses   median   max    median    max    median    max       dB      frame\n",
    );
    for f in all {
        let _ = writeln!(
            text,
            "{:<14} {:>5} {:>8.0} {:>5.0} {:>9.0} {:>6.0} {:>9.1} {:>6.1} {:>10.2} {:>8}",
            f.scheme.to_string(),
            f.losses,
            f.frames_to_clean.median,
            f.frames_to_clean.max,
            f.recovery_bytes.median,
            f.recovery_bytes.max,
            f.latency_ms.median,
            f.latency_ms.max,
            f.psnr_db_after,
            f.answered_by_key_frame,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Loss, Picture};
    use crate::video::Likeness;

    #[test]
    fn losses_come_at_their_times_and_leave_time_to_answer() {
        let ms = Duration::from_millis;
        assert_eq!(
            lost(150, 30, ms(1000), ms(1500), 2),
            [30, 31, 78, 79, 116, 117]
        );
        assert!(lost(60, 30, ms(1500), ms(1500), 1).is_empty());
    }

    fn picture(shown: f64, key: bool) -> Picture {
        let likeness = |psnr| Likeness { psnr, ssim: 1.0 };
        Picture {
            latency: Some(Duration::from_millis(50)),
            likeness: likeness(shown),
            reconstructed: likeness(40.0),
            display_bytes: 1000,
            background_bytes: 0,
            display_quantiser: None,
            background_quantiser: None,
            display_key: key,
            background_key: false,
            switched: false,
        }
    }

    #[test]
    fn frames_are_counted_from_the_answer_to_the_first_clean_one() {
        // Lost: 2 and 12. The answers come with 4 and 14.
        let mut pictures = vec![picture(40.0, false); 20];
        for n in [2, 3, 4, 5] {
            pictures[n] = picture(30.0, false);
        }
        for (n, late) in pictures.iter_mut().enumerate().skip(12) {
            *late = picture(38.9, n == 14);
        }
        let loss = |n| Loss { answered: Some(n) };
        let record = Record {
            pictures,
            losses: vec![loss(4), loss(14)],
            commit_ms_mean: None,
            key_frames_despite_reference: None,
        };
        let f = figures(Scheme::Tight, &record, &[2, 12], 30).unwrap();
        assert_eq!(f.frames_to_clean.median, 3.0, "4 and 5 are not clean");
        assert_eq!(f.frames_to_clean.max, 7.0, "never, 6 pictures to the end");
        assert_eq!(f.answered_by_key_frame, 1);
        // 2 of 8 pictures at 30 dB, and 38.9 dB.
        assert!((f.psnr_db_after - (37.5 + 38.9) / 2.0).abs() < 1e-9);
    }
}
