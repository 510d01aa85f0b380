// SPDX-License-Identifier: MPL-2.0
//! From records to figures.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::scheme::Scheme;
use crate::session::Record;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub mean: f64,
    pub p95: f64,
    pub p97: f64,
    pub p99: f64,
    pub max: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Psnr {
    pub mean: f64,
    pub p1: f64,
}

/// One scheme's figures; the field names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub scheme: Scheme,
    /// Under a trace: the mean over the run.
    pub capacity_kbps: f64,
    pub latency_ms: Latency,
    pub psnr_db: Psnr,
    pub ssim_mean: f64,
    pub rate_kbps: f64,
    pub key_frames: u64,
    pub largest_frame_bytes: u64,
    pub switches: u64,
    pub commit_ms_mean: Option<f64>,
    pub encoder_calls_per_frame: f64,
}

pub fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

/// The smallest value that `share` of the values do not exceed (nearest rank).
/// 0 for no values.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

pub fn figures(scheme: Scheme, record: &Record, seconds: f64, capacity_kbps: f64) -> Figures {
    let pictures = &record.pictures;
    let latency: Vec<f64> = pictures
        .iter()
        .filter_map(|p| p.latency)
        .map(millis)
        .collect();
    let psnr: Vec<f64> = pictures.iter().map(|p| p.likeness.psnr).collect();
    let bytes: u64 = pictures
        .iter()
        .map(|p| p.display_bytes + p.background_bytes)
        .sum();
    let count =
        |of: fn(&crate::session::Picture) -> bool| pictures.iter().filter(|p| of(p)).count() as u64;
    let background = count(|p| p.background_bytes > 0);
    Figures {
        scheme,
        capacity_kbps,
        latency_ms: Latency {
            mean: mean(latency.iter().copied()),
            p95: percentile(&latency, 0.95),
            p97: percentile(&latency, 0.97),
            p99: percentile(&latency, 0.99),
            max: percentile(&latency, 1.0),
        },
        psnr_db: Psnr {
            mean: mean(psnr.iter().copied()),
            p1: percentile(&psnr, 0.01),
        },
        ssim_mean: mean(pictures.iter().map(|p| p.likeness.ssim)),
        rate_kbps: bytes as f64 * 8.0 / 1000.0 / seconds,
        key_frames: count(|p| p.display_key) + count(|p| p.background_key),
        largest_frame_bytes: pictures
            .iter()
            .map(|p| p.display_bytes.max(p.background_bytes))
            .max()
            .unwrap_or(0),
        switches: count(|p| p.switched),
        commit_ms_mean: record.commit_ms_mean,
        encoder_calls_per_frame: 1.0 + background as f64 / pictures.len().max(1) as f64,
    }
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub fn table(all: &[Figures]) -> String {
    let mut text = String::from(
        "                      latency, ms                PSNR, dB            rate  key  largest           commit  calls\n\
         scheme          mean    p95    p97    p99    max   mean     1 %    SSIM  kbit/s frames  bytes switches   ms  /frame\n",
    );
    for f in all {
        let (l, p) = (f.latency_ms, f.psnr_db);
        let _ = writeln!(
            text,
            "{:<14} {:>5.1} {:>6.1} {:>6.1} {:>6.1} {:>6.0} {:>6.2} {:>7.2} {:>7.4} {:>7.0} {:>5} {:>7} {:>7} {:>6} {:>6.3}",
            f.scheme.to_string(),
            l.mean,
            l.p95,
            l.p97,
            l.p99,
            l.max,
            p.mean,
            p.p1,
            f.ssim_mean,
            f.rate_kbps,
            f.key_frames,
            f.largest_frame_bytes,
            f.switches,
            f.commit_ms_mean.map_or("-".into(), |ms| format!("{ms:.0}")),
            f.encoder_calls_per_frame,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let values: Vec<f64> = (1..=420).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.97), 408.0);
        assert_eq!(percentile(&values, 0.01), 5.0);
        assert_eq!(percentile(&values, 1.0), 420.0);
        assert_eq!(percentile(&[7.0], 0.01), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
